//! What is logged of changes: each by itself while they are few, else their number. Ten thousand new targets are one event.

use std::time::Duration;

use tokio::time::Instant;

use crate::target::{Problem, TargetId};

/// Changes that are told one by one in a window; the others are counted.
const SINGLE: usize = 10;
/// Once in this time, those that were not told are summed up.
const WINDOW: Duration = Duration::from_secs(10);

/// What happened to a target.
#[derive(Clone, Copy, Debug)]
pub(super) enum Event<'a> {
    Added,
    Changed,
    Removed,
    /// It cannot be polled as it is declared, and has no poller to say so.
    Refused(&'a Problem),
}

/// The changes of one window.
#[derive(Debug, Default)]
pub(super) struct Journal {
    /// When the window began; `None`: nothing has happened for as long.
    begun: Option<Instant>,
    told: usize,
    added: usize,
    changed: usize,
    removed: usize,
    refused: usize,
}

impl Journal {
    /// Takes note of a change.
    pub(super) fn note(&mut self, id: &TargetId, event: Event<'_>) {
        self.begun.get_or_insert_with(Instant::now);
        if self.told < SINGLE {
            self.told += 1;
            match event {
                Event::Added => tracing::info!(target = %id, "target is new"),
                Event::Changed => tracing::info!(target = %id, "target has changed"),
                Event::Removed => tracing::info!(target = %id, "target is gone"),
                Event::Refused(Problem { reason, message }) => {
                    tracing::warn!(target = %id, reason, "target cannot be polled: {message}");
                }
            }
            return;
        }
        match event {
            Event::Added => self.added += 1,
            Event::Changed => self.changed += 1,
            Event::Removed => self.removed += 1,
            Event::Refused(_) => self.refused += 1,
        }
    }

    /// When [`close`](Self::close) should be called.
    pub(super) fn closes(&self) -> Option<Instant> {
        self.begun.map(|begun| begun + WINDOW)
    }

    /// Ends a window that is over, and sums up what was not told in it.
    pub(super) fn close(&mut self, targets: impl FnOnce() -> usize) {
        if self.closes().is_some_and(|end| end <= Instant::now()) {
            let Self { added, changed, removed, refused, .. } = std::mem::take(self);
            if added + changed + removed + refused > 0 {
                tracing::info!(targets = targets(), added, changed, removed, refused, "more targets have changed");
            }
        }
    }
}
