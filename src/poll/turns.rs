//! Turns for translations that may take long: few at a time, a share of them for each namespace, and each bounded in time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Namespaces that are remembered before those are forgotten that have nothing to do.
const FEW: usize = 64;

/// Who may translate now.
#[derive(Debug)]
pub(super) struct Turns {
    all: Arc<Semaphore>,
    share: usize,
    by_namespace: Mutex<HashMap<Arc<str>, Weak<Semaphore>>>,
}

/// A turn; it ends when it is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    _one_of_all: OwnedSemaphorePermit,
    _one_of_the_namespace: OwnedSemaphorePermit,
}

impl Turns {
    /// For large answers: few, however many cores there are, since each may hold 100 MiB.
    pub(super) fn large(cores: usize) -> Self {
        let all = cores.clamp(2, 4);
        Self::new(all, all / 2)
    }

    /// For small answers, which take little memory but may take long as well: their names have to be compared with patterns.
    pub(super) fn small() -> Self {
        Self::new(8, 2)
    }

    fn new(all: usize, share: usize) -> Self {
        Self { all: Arc::new(Semaphore::new(all)), share, by_namespace: Mutex::default() }
    }

    /// Waits for a turn. A namespace has its share of them at most, and no more than that stand in the queue of all: so however much one has
    /// to translate, another waits for a few others and not for hundreds.
    pub(super) async fn take(&self, namespace: &Arc<str>) -> Option<Turn> {
        // The semaphores are never closed.
        let of_the_namespace = self.of_namespace(namespace).acquire_owned().await.ok()?;
        let of_all = Arc::clone(&self.all).acquire_owned().await.ok()?;
        Some(Turn { _one_of_all: of_all, _one_of_the_namespace: of_the_namespace })
    }

    fn of_namespace(&self, namespace: &Arc<str>) -> Arc<Semaphore> {
        let mut known = self.by_namespace.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(turns) = known.get(namespace).and_then(Weak::upgrade) {
            return turns;
        }
        if known.len() >= FEW {
            known.retain(|_, turns| turns.strong_count() > 0);
        }
        let turns = Arc::new(Semaphore::new(self.share));
        known.insert(Arc::clone(namespace), Arc::downgrade(&turns));
        turns
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_namespace_with_hundreds_of_translations_leaves_a_turn_for_another() {
        let turns = Arc::new(Turns::new(2, 1));
        let (greedy, honest): (Arc<str>, Arc<str>) = ("greedy".into(), "honest".into());
        let held = turns.take(&greedy).await.unwrap();
        let waiting: Vec<_> = (0..300)
            .map(|_| {
                let (turns, greedy) = (Arc::clone(&turns), Arc::clone(&greedy));
                tokio::spawn(async move { turns.take(&greedy).await })
            })
            .collect();
        for _ in 0..10 {
            tokio::task::yield_now().await;
            tokio::time::timeout(Duration::from_secs(30), turns.take(&honest)).await.unwrap().unwrap();
        }
        assert!(waiting.iter().all(|task| !task.is_finished()));
        drop(held);
        for task in waiting {
            task.await.unwrap().unwrap();
        }
    }

    #[tokio::test]
    async fn namespaces_that_have_nothing_to_do_are_forgotten() {
        let turns = Turns::small();
        for i in 0..1000 {
            turns.take(&Arc::from(i.to_string())).await.unwrap();
        }
        assert!(turns.by_namespace.lock().unwrap().len() <= FEW);
    }
}
