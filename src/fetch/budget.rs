//! How many bytes of bodies may be in memory together, and who must give his up when they are too many.
//!
//! Waiting alone would be unfair: a few servers that send much and then hang would hold everything until their timeouts, and
//! every other target would fail. So whoever has to wait makes the largest of the others go, if that is larger than he is.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

/// The unit in which bytes are counted.
const GRAIN: usize = 1024;

/// Polls with less than this many grains are not worth driving out, and cost no entry in the table.
const SMALL: usize = 64;

/// How long the one who was told to go may take before another is told.
const PATIENCE: Duration = Duration::from_millis(50);

/// The budget that all polls share.
#[derive(Debug)]
pub(super) struct Budget {
    free: Arc<Semaphore>,
    large: Mutex<Large>,
}

/// The polls that hold much and still wait for their servers.
#[derive(Debug, Default)]
struct Large {
    next: u64,
    by_number: HashMap<u64, (usize, CancellationToken)>,
}

impl Budget {
    pub(super) fn new(bytes: usize) -> Arc<Self> {
        let grains = (bytes / GRAIN).clamp(1, Semaphore::MAX_PERMITS);
        Arc::new(Self { free: Arc::new(Semaphore::new(grains)), large: Mutex::default() })
    }

    /// The share of one poll: nothing at first.
    pub(super) fn share(self: &Arc<Self>) -> Share {
        Share { budget: Arc::clone(self), number: None, permit: None, evicted: CancellationToken::new() }
    }

    /// Tells the largest poll to go, if it holds more than `grains` and no other is going already.
    fn evict_larger_than(&self, grains: usize) {
        let large = self.large.lock().unwrap_or_else(PoisonError::into_inner);
        if large.by_number.values().any(|(_, evicted)| evicted.is_cancelled()) {
            return;
        }
        if let Some((held, evicted)) = large.by_number.values().max_by_key(|(held, _)| *held)
            && *held > grains
        {
            evicted.cancel();
        }
    }
}

/// What one poll holds of the budget.
#[derive(Debug)]
pub(super) struct Share {
    budget: Arc<Budget>,
    number: Option<u64>,
    permit: Option<OwnedSemaphorePermit>,
    /// Cancelled when others need what this poll holds.
    pub(super) evicted: CancellationToken,
}

impl Share {
    /// Grows to cover `bytes`; waits while there is not enough.
    pub(super) async fn cover(&mut self, bytes: usize) {
        let held = self.permit.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let wanted = bytes.div_ceil(GRAIN);
        let Ok(missing) = u32::try_from(wanted.saturating_sub(held)) else { return };
        if missing == 0 {
            return;
        }
        let mut more = std::pin::pin!(Arc::clone(&self.budget.free).acquire_many_owned(missing));
        let more = loop {
            tokio::select! {
                biased;
                more = &mut more => break more,
                () = std::future::ready(()) => self.budget.evict_larger_than(wanted),
            }
            if let Ok(more) = tokio::time::timeout(PATIENCE, &mut more).await {
                break more;
            }
        };
        let Ok(more) = more else { return }; // the semaphore is never closed
        match &mut self.permit {
            Some(permit) => permit.merge(more),
            none => *none = Some(more),
        }
        if wanted >= SMALL {
            self.enter(wanted);
        }
    }

    /// How many bytes it covers.
    pub(super) fn bytes(&self) -> usize {
        self.permit.as_ref().map_or(0, OwnedSemaphorePermit::num_permits) * GRAIN
    }

    fn enter(&mut self, grains: usize) {
        let mut large = self.budget.large.lock().unwrap_or_else(PoisonError::into_inner);
        let number = *self.number.get_or_insert_with(|| {
            large.next += 1;
            large.next
        });
        large.by_number.insert(number, (grains, self.evicted.clone()));
    }

    /// What it holds, for a poll that has all its answers: it will soon be done and is not driven out any more.
    pub(super) fn into_permit(mut self) -> Option<OwnedSemaphorePermit> {
        self.permit.take()
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            self.budget.large.lock().unwrap_or_else(PoisonError::into_inner).by_number.remove(&number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn soon(share: &mut Share, bytes: usize) -> bool {
        tokio::time::timeout(Duration::from_millis(300), share.cover(bytes)).await.is_ok()
    }

    #[tokio::test]
    async fn whoever_needs_little_drives_out_the_one_who_holds_most() {
        let budget = Budget::new(1 << 20);
        let (mut most, mut much) = (budget.share(), budget.share());
        assert!(soon(&mut most, 600 << 10).await && soon(&mut much, 424 << 10).await);
        let mut little = budget.share();
        let (goes, covered) = tokio::join!(
            async {
                most.evicted.cancelled().await;
                drop(most);
            },
            soon(&mut little, 2000)
        );
        assert_eq!((goes, covered), ((), true));
        assert!(!much.evicted.is_cancelled(), "one was enough");
        assert_eq!(little.bytes(), 2048);
    }

    #[tokio::test]
    async fn nobody_goes_for_one_who_is_larger_and_nobody_who_has_all_its_answers() {
        let budget = Budget::new(1 << 20);
        let mut share = budget.share();
        assert!(soon(&mut share, 1000 << 10).await);
        let mut larger = budget.share();
        assert!(!soon(&mut larger, 1 << 20).await);
        assert!(!share.evicted.is_cancelled());
        let evicted = share.evicted.clone();
        let permit = share.into_permit();
        assert!(!soon(&mut larger, 100 << 10).await);
        assert!(!evicted.is_cancelled());
        drop(permit);
        assert!(soon(&mut larger, 1 << 20).await);
    }
}
