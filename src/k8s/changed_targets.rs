//! The targets for which something that they refer to has changed, until the controller takes them. It does not know what that is.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::target::TargetId;

/// A set of targets that one task waits for.
#[derive(Debug, Default)]
pub(super) struct ChangedTargets {
    ids: Mutex<BTreeSet<TargetId>>,
    /// Wakes [`wait`](Self::wait).
    added: Notify,
}

impl ChangedTargets {
    /// Adds targets. What has changed must be in its place before.
    pub(super) fn add_all(&self, ids: impl IntoIterator<Item = TargetId>) {
        let mut all = self.ids();
        all.extend(ids);
        if !all.is_empty() {
            self.added.notify_one();
        }
    }

    pub(super) fn remove(&self, id: &TargetId) {
        self.ids().remove(id);
    }

    /// Waits until there is a target. One task may wait at a time.
    pub(super) async fn wait(&self) {
        while self.ids().is_empty() {
            self.added.notified().await;
        }
    }

    /// Takes all targets.
    pub(super) fn take(&self) -> BTreeSet<TargetId> {
        std::mem::take(&mut *self.ids())
    }

    pub(super) fn ids(&self) -> MutexGuard<'_, BTreeSet<TargetId>> {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
