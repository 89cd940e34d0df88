//! What the translation of one answer may cost: whoever starts it says so, and [`Families`](super::Families) holds it to that.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Tells a translation that its time is over. There is no clock here: whoever has one says so from another thread.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// What is added from now on is thrown away.
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
    /// Whether names may be compared with patterns, which may be slow; else only verdicts count that are known already.
    pub compares: bool,
    /// The end of its time.
    pub stop: Stop,
}

impl Default for Allowance {
    /// Without bounds: for families of our own.
    fn default() -> Self {
        Self { bytes: usize::MAX, compares: true, stop: Stop::default() }
    }
}

/// Why the families of a translation are worth nothing as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Excess {
    /// Its time was over.
    Time,
    /// The exposition would be larger than allowed.
    Bytes,
    /// A name had to be compared with patterns, which was not allowed.
    Comparison,
}
