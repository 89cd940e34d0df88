//! Logs changes of targets: each one while they are few, else only their number.

use std::time::Duration;

use tokio::time::Instant;

use crate::target::{Problem, TargetId};

/// The most changes of a window that are logged one by one; the others are counted.
const MOST_LINES: usize = 10;
/// The length of a window, at whose end the number of the others is logged.
const WINDOW: Duration = Duration::from_secs(10);

/// A change of a target.
#[derive(Clone, Copy, Debug)]
pub(super) enum TargetChange<'a> {
    Added,
    Changed,
    Removed,
    /// It cannot be polled as it is declared, and has no poller that could report it.
    Refused(&'a Problem),
}

/// Counts the changes of a window.
#[derive(Debug, Default)]
pub(super) struct ChangeLog {
    /// When the window began, which it does with its first change.
    begun: Option<Instant>,
    lines: usize,
    added: usize,
    changed: usize,
    removed: usize,
    refused: usize,
}

impl ChangeLog {
    /// Logs or counts a change.
    pub(super) fn note(&mut self, id: &TargetId, change: TargetChange<'_>) {
        self.begun.get_or_insert_with(Instant::now);
        if self.lines < MOST_LINES {
            self.lines += 1;
            match change {
                TargetChange::Added => tracing::info!(target = %id, "target is new"),
                TargetChange::Changed => tracing::info!(target = %id, "target has changed"),
                TargetChange::Removed => tracing::info!(target = %id, "target is gone"),
                TargetChange::Refused(Problem { reason, message }) => {
                    tracing::warn!(target = %id, reason, "target cannot be polled: {message}");
                }
            }
            return;
        }
        match change {
            TargetChange::Added => self.added += 1,
            TargetChange::Changed => self.changed += 1,
            TargetChange::Removed => self.removed += 1,
            TargetChange::Refused(_) => self.refused += 1,
        }
    }

    /// When [`close`](Self::close) should be called.
    pub(super) fn closes(&self) -> Option<Instant> {
        self.begun.map(|begun| begun + WINDOW)
    }

    /// Ends a window that is over, and logs how many changes were only counted in it.
    pub(super) fn close(&mut self, targets: impl FnOnce() -> usize) {
        if self.closes().is_some_and(|end| end <= Instant::now()) {
            let Self { added, changed, removed, refused, .. } = std::mem::take(self);
            if added + changed + removed + refused > 0 {
                tracing::info!(targets = targets(), added, changed, removed, refused, "more targets have changed");
            }
        }
    }
}
