//! A queue of targets that somebody must look at again.

use std::collections::{HashSet, VecDeque};
use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

use crate::target::TargetId;

/// Names of targets about which something has changed. Each stands in it once, however often it was marked: what happens to a target
/// while it waits is worked on together, and the queue is never longer than there are targets.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    marked: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    order: VecDeque<TargetId>,
    members: HashSet<TargetId>,
}

impl Queue {
    /// Puts targets at the end; those that wait already keep their place.
    pub(super) fn mark(&self, ids: impl IntoIterator<Item = TargetId>) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        for id in ids {
            if waiting.members.insert(id.clone()) {
                waiting.order.push_back(id);
            }
        }
        let any = !waiting.order.is_empty();
        drop(waiting);
        if any {
            self.marked.notify_one();
        }
    }

    /// Takes up to `most` targets, those first that have waited longest.
    pub(super) fn take(&self, most: usize) -> Vec<TargetId> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let count = most.min(waiting.order.len());
        let taken: Vec<TargetId> = waiting.order.drain(..count).collect();
        for id in &taken {
            waiting.members.remove(id);
        }
        taken
    }

    /// Waits until there is a target to take. One task may wait at a time.
    pub(super) async fn marked(&self) {
        while self.is_empty() {
            self.marked.notified().await;
        }
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).order.len()
    }

    /// Whether none waits.
    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets all of them.
    pub(super) fn clear(&self) {
        *self.waiting.lock().unwrap_or_else(PoisonError::into_inner) = Waiting::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_target_that_is_marked_again_while_it_waits_is_taken_once_and_keeps_its_place() {
        let queue = Queue::default();
        let id = |name| TargetId::new("a", name);
        queue.mark([id("1"), id("2")]);
        queue.mark([id("1"), id("3")]);
        queue.marked().await;
        assert_eq!(queue.take(2), [id("1"), id("2")]);
        queue.mark([id("1")]);
        assert_eq!(queue.take(9), [id("3"), id("1")]);
        assert!(queue.is_empty());
    }
}
