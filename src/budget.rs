//! The memory budget of the answers that are being read, and which polls are evicted when it is exhausted.
//!
//! If polls could only wait for memory, a few servers that send much and then hang would hold all of it until their timeouts, and every
//! other target would fail. So a poll that waits can evict others, by the rules in `budget::state`.

#[cfg(test)]
mod model;
mod state;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use state::{BudgetState, PROGRESS, PollId, PollSignals};

use crate::failure::{CallError, Reason};

/// How often the state is checked while a poll waits: others may be evicted only after a grace period.
const CHECK_INTERVAL: Duration = Duration::from_millis(50);

/// The budget of all polls.
///
/// There is one lock: a poll takes it some five times, for less than a microsecond each.
#[derive(Debug)]
pub struct Budget {
    shared: Mutex<CheckedState>,
}

#[derive(Debug)]
struct CheckedState {
    state: BudgetState,
    /// When it was last checked because time had passed.
    checked: Option<Instant>,
}

impl Budget {
    /// So many bytes for all polls together.
    pub fn new(bytes: usize) -> Arc<Self> {
        Arc::new(Self { shared: Mutex::new(CheckedState { state: BudgetState::new(bytes), checked: None }) })
    }

    /// The share of one poll of a target in `namespace`: nothing at first.
    pub fn share(self: &Arc<Self>, namespace: &Arc<str>) -> MemoryShare {
        MemoryShare {
            budget: Arc::clone(self),
            namespace: Arc::clone(namespace),
            id: None,
            requested: 0,
            received: 0,
            signals: Arc::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, CheckedState> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check(&self) {
        let now = Instant::now();
        let mut shared = self.lock();
        if shared.checked.is_none_or(|checked| now.saturating_duration_since(checked) >= CHECK_INTERVAL / 2) {
            shared.checked = Some(now);
            shared.state.settle(now);
        }
    }
}

/// What one poll holds of the budget.
#[derive(Debug)]
pub struct MemoryShare {
    budget: Arc<Budget>,
    namespace: Arc<str>,
    /// Set once it has requested something.
    id: Option<PollId>,
    requested: usize,
    /// Bytes received that the state does not know of yet.
    received: usize,
    signals: Arc<PollSignals>,
}

impl MemoryShare {
    /// Cancelled when others need what this poll holds: it must soon give up everything.
    pub fn evicted(&self) -> CancellationToken {
        self.signals.evicted.clone()
    }

    /// Notes that the server has sent `bytes`.
    pub const fn received(&mut self, bytes: usize) {
        self.received += bytes;
    }

    /// Covers `bytes` from now on, more or less than before; waits while there is not enough.
    pub async fn cover(&mut self, bytes: usize) {
        if self.request(bytes) {
            return;
        }
        loop {
            tokio::select! {
                biased;
                () = self.signals.granted.notified() => return,
                () = tokio::time::sleep(CHECK_INTERVAL) => self.budget.check(),
            }
        }
    }

    fn request(&mut self, bytes: usize) -> bool {
        if self.requested == bytes && self.received < bytes / PROGRESS {
            return true; // most chunks: nothing that the state would have to know
        }
        self.requested = bytes;
        let now = Instant::now();
        let state = &mut self.budget.lock().state;
        let id = *self.id.get_or_insert_with(|| state.enter(&self.namespace, Arc::clone(&self.signals), now));
        state.received(id, std::mem::take(&mut self.received), now);
        state.request(id, bytes, now)
    }

    /// Hands over what it covers, for instance to work that ends later than the poll, and begins again with nothing.
    #[must_use]
    pub fn take(&mut self) -> Self {
        let empty = self.budget.share(&self.namespace);
        std::mem::replace(self, empty)
    }

    /// Keeps `bytes` for complete answers, or less if the share is smaller. `None` if the poll has been evicted.
    pub fn keep(self, bytes: usize) -> Option<HeldMemory> {
        if let Some(id) = self.id {
            self.budget.lock().state.shrink(id, bytes, Instant::now());
        }
        (!self.signals.evicted.is_cancelled()).then_some(HeldMemory { share: self })
    }
}

impl Drop for MemoryShare {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.budget.lock().state.leave(id, Instant::now());
        }
    }
}

/// The share of a poll whose answers are complete. It may be evicted until it is pinned.
#[derive(Debug)]
pub struct HeldMemory {
    share: MemoryShare,
}

impl HeldMemory {
    /// Waits until others need the memory. Then it must be given up, with this error.
    pub async fn evicted(&self) -> CallError {
        self.share.signals.evicted.cancelled().await;
        eviction_error()
    }

    /// From now on the answers are not evicted, since they are translated, which takes little time. Fails if they have been evicted.
    pub fn pin(&self) -> Result<(), CallError> {
        let pinned = self.share.id.is_none_or(|id| self.share.budget.lock().state.pin(id, Instant::now()));
        if pinned { Ok(()) } else { Err(eviction_error()) }
    }
}

/// The error of a poll that was evicted.
pub fn eviction_error() -> CallError {
    CallError::new(
        Reason::Limit,
        "dropped, because other targets needed the memory (--max-inflight-bytes) and this one had held memory longest without sending \
         more data",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Within a time that suffices on a busy machine.
    async fn soon(share: &mut MemoryShare, bytes: usize) -> bool {
        tokio::time::timeout(Duration::from_secs(60), share.cover(bytes)).await.is_ok()
    }

    #[tokio::test]
    async fn a_poll_that_hangs_is_evicted_and_what_it_held_is_free_when_it_has_ended() {
        let (budget, team) = (Budget::new(1 << 20), Arc::from("team"));
        let (mut first, mut second) = (budget.share(&team), budget.share(&team));
        assert!(soon(&mut first, 600 << 10).await && soon(&mut second, 424 << 10).await);
        let mut little = budget.share(&team);
        let (evicted, goes) = (first.evicted(), async {
            first.evicted().cancelled().await;
            drop(first);
        });
        let ((), covered) = tokio::join!(goes, soon(&mut little, 2000));
        assert!(covered && evicted.is_cancelled());
        assert!(!second.evicted().is_cancelled(), "one was enough");
    }

    #[tokio::test(start_paused = true)]
    async fn a_poll_whose_answers_are_translated_is_not_evicted_and_gives_back_what_they_do_not_need() {
        let (budget, team) = (Budget::new(1 << 20), Arc::from("team"));
        let (mut share, mut other) = (budget.share(&team), budget.share(&team));
        assert!(soon(&mut share, 1 << 20).await);
        let evicted = share.evicted();
        let held = share.keep(900 << 10).unwrap();
        held.pin().unwrap();
        assert!(soon(&mut other, 100 << 10).await);
        assert!(!soon(&mut other, 200 << 10).await);
        assert!(!evicted.is_cancelled());
        drop((held, other));
        assert!(soon(&mut budget.share(&team), 900 << 10).await);
    }

    #[tokio::test]
    async fn a_poll_whose_answers_wait_to_be_translated_is_evicted_with_an_error() {
        let budget = Budget::new(1 << 20);
        let mut share = budget.share(&Arc::from("many"));
        assert!(soon(&mut share, 1 << 20).await);
        let held = share.keep(1 << 20).unwrap();
        let mut other = budget.share(&Arc::from("few"));
        let goes = async {
            held.evicted().await;
            assert_eq!(held.pin().unwrap_err().reason, Reason::Limit);
            drop(held);
        };
        let ((), covered) = tokio::join!(goes, soon(&mut other, 100 << 10));
        assert!(covered);
    }

    #[tokio::test]
    async fn a_poll_that_ends_while_it_waits_leaves_the_queue() {
        let (budget, team) = (Budget::new(1 << 20), Arc::from("team"));
        let mut share = budget.share(&team);
        assert!(soon(&mut share, 1 << 20).await);
        let held = share.keep(1 << 20).unwrap();
        held.pin().unwrap();
        let mut waits = budget.share(&team);
        assert!(tokio::time::timeout(Duration::from_millis(1), waits.cover(1 << 20)).await.is_err());
        drop((waits, held));
        assert!(soon(&mut budget.share(&team), 1 << 20).await);
    }
}
