//! The limits of one translation: set by its caller, kept by [`Families`](super::Families).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Stops a translation whose time is over. There is no clock here: another thread sets it.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// From now on nothing is added any more.
    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether it is over.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// What a translation may cost.
#[derive(Clone, Debug)]
pub struct Allowance {
    /// Bytes of the exposition that is made, about.
    pub bytes: usize,
    /// Whether names may be compared with patterns, which may be slow; otherwise only remembered verdicts are used.
    pub compares: bool,
    /// Set when its time is over.
    pub stop: Stop,
}

impl Default for Allowance {
    /// Without bounds: for families of our own.
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
