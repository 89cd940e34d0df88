//! The limits of one translation: set by its caller, enforced by [`Families`](super::Families).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Stops a translation whose time is over. This module has no clock: another thread sets it.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Stops the translation: nothing is added from now on.
    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether the translation was stopped.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// The limits of a translation.
#[derive(Clone, Debug)]
pub struct Allowance {
    /// The approximate bytes of the exposition.
    pub bytes: usize,
    /// Whether names may be compared with patterns, which may be slow; otherwise only cached decisions are used.
    pub compares: bool,
    /// Set when its time is over.
    pub stop: Stop,
}

impl Default for Allowance {
    /// No limits, for the exporter's own families.
    fn default() -> Self {
        Self { bytes: usize::MAX, compares: true, stop: Stop::default() }
    }
}

/// Which limit a translation exceeded: its families are then useless as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Excess {
    /// Its time was over.
    Time,
    /// The exposition would be larger than allowed.
    Bytes,
    /// A name had to be compared with patterns, which was not allowed.
    Comparison,
}
