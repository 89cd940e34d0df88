//! How many bytes of answers may be in memory together, and who must give his up when they are too many.
//!
//! Waiting alone would be unfair: a few servers that send much and then hang would hold everything until their timeouts, and every
//! other target would fail. So whoever waits drives others out, by the rules of the [`ledger`].

mod ledger;
#[cfg(test)]
mod model;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use ledger::{Id, Ledger, PROGRESS, Signal};

use crate::kind::{CallError, Reason};

/// How often it is looked at again who has to go, while somebody waits: there are polls that may keep what they hold for a moment.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// The budget that all polls share.
///
/// One lock for all: a poll takes it some five times, for less than a microsecond each.
#[derive(Debug)]
pub(super) struct Budget {
    books: Mutex<Books>,
}

#[derive(Debug)]
struct Books {
    ledger: Ledger,
    /// When it was last looked who has to go because time has passed.
    looked: Option<Instant>,
}

impl Budget {
    pub(super) fn new(bytes: usize) -> Arc<Self> {
        Arc::new(Self { books: Mutex::new(Books { ledger: Ledger::new(bytes), looked: None }) })
    }

    /// The share of one poll of a target in `namespace`: nothing at first.
    pub(super) fn share(self: &Arc<Self>, namespace: &Arc<str>) -> Share {
        let signal = Arc::new(Signal::default());
        Share { budget: Arc::clone(self), namespace: Arc::clone(namespace), id: None, asked: 0, came: 0, signal }
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn look_again(&self) {
        let now = Instant::now();
        let mut books = self.books();
        if books.looked.is_none_or(|looked| now.saturating_duration_since(looked) >= LOOK_AGAIN / 2) {
            books.looked = Some(now);
            books.ledger.settle(now);
        }
    }
}

/// What one poll holds of the budget.
#[derive(Debug)]
pub(super) struct Share {
    budget: Arc<Budget>,
    namespace: Arc<str>,
    /// Its place in the books, once it has asked for something.
    id: Option<Id>,
    asked: usize,
    /// What has come, and is not in the books yet.
    came: usize,
    signal: Arc<Signal>,
}

impl Share {
    /// Cancelled when others need what this poll holds: it must give up everything, and soon.
    pub(super) fn evicted(&self) -> CancellationToken {
        self.signal.evicted.clone()
    }

    /// Notes that the server has sent so much.
    pub(super) const fn came(&mut self, bytes: usize) {
        self.came += bytes;
    }

    /// Covers `bytes` from now on, more or less than before; waits while there is not enough.
    pub(super) async fn cover(&mut self, bytes: usize) {
        if self.ask(bytes) {
            return;
        }
        loop {
            tokio::select! {
                biased;
                () = self.signal.granted.notified() => return,
                () = tokio::time::sleep(LOOK_AGAIN) => self.budget.look_again(),
            }
        }
    }

    fn ask(&mut self, bytes: usize) -> bool {
        if self.asked == bytes && self.came < bytes / PROGRESS {
            return true; // most chunks: nothing that would have to be in the books
        }
        self.asked = bytes;
        let now = Instant::now();
        let mut books = self.budget.books();
        let ledger = &mut books.ledger;
        let id = *self.id.get_or_insert_with(|| ledger.enter(&self.namespace, Arc::clone(&self.signal), now));
        ledger.came(id, std::mem::take(&mut self.came), now);
        ledger.ask(id, bytes, now)
    }

    /// What a poll that has all its answers holds on to, `bytes` or what it has if that is less; `None` if it has been driven out.
    pub(super) fn keep(self, bytes: usize) -> Option<Held> {
        if let Some(id) = self.id {
            self.budget.books().ledger.shrink(id, bytes, Instant::now());
        }
        (!self.signal.evicted.is_cancelled()).then_some(Held { share: self })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.budget.books().ledger.leave(id, Instant::now());
        }
    }
}

/// The share of a poll whose answers are whole, until they are translated. While they wait for that, it may still be driven out.
#[derive(Debug)]
pub struct Held {
    share: Share,
}

impl Held {
    /// Waits until others need the memory: then it must be given up, and this is what to tell.
    pub async fn driven_out(&self) -> CallError {
        self.share.signal.evicted.cancelled().await;
        driven_out()
    }

    /// From now on the answers are translated, which will soon be done: they are not driven out any more. Fails if they have been.
    pub fn begin(&self) -> Result<(), CallError> {
        let begun = self.share.id.is_none_or(|id| self.share.budget.books().ledger.done(id, Instant::now()));
        if begun { Ok(()) } else { Err(driven_out()) }
    }
}

/// What is told of a poll that had to go.
pub(super) fn driven_out() -> CallError {
    CallError::new(
        Reason::Limit,
        "dropped, because other targets needed the memory (--max-inflight-bytes) and this one held some of it for longest \
         without sending more",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Within what anything here takes on a busy machine.
    async fn soon(share: &mut Share, bytes: usize) -> bool {
        tokio::time::timeout(Duration::from_secs(60), share.cover(bytes)).await.is_ok()
    }

    #[tokio::test]
    async fn whoever_hangs_is_told_to_go_and_what_it_held_is_free_when_it_has_gone() {
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
    async fn whose_answers_are_translated_is_left_alone_and_gives_back_what_they_do_not_need() {
        let (budget, team) = (Budget::new(1 << 20), Arc::from("team"));
        let (mut share, mut other) = (budget.share(&team), budget.share(&team));
        assert!(soon(&mut share, 1 << 20).await);
        let evicted = share.evicted();
        let held = share.keep(900 << 10).unwrap();
        held.begin().unwrap();
        assert!(soon(&mut other, 100 << 10).await);
        assert!(!soon(&mut other, 200 << 10).await);
        assert!(!evicted.is_cancelled());
        drop((held, other));
        assert!(soon(&mut budget.share(&team), 900 << 10).await);
    }

    #[tokio::test]
    async fn whose_answers_wait_to_be_translated_is_driven_out_and_told_so() {
        let budget = Budget::new(1 << 20);
        let mut share = budget.share(&Arc::from("many"));
        assert!(soon(&mut share, 1 << 20).await);
        let held = share.keep(1 << 20).unwrap();
        let mut other = budget.share(&Arc::from("few"));
        let goes = async {
            held.driven_out().await;
            assert_eq!(held.begin().unwrap_err().reason, Reason::Limit);
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
        held.begin().unwrap();
        let mut waits = budget.share(&team);
        assert!(tokio::time::timeout(Duration::from_millis(1), waits.cover(1 << 20)).await.is_err());
        drop((waits, held));
        assert!(soon(&mut budget.share(&team), 1 << 20).await);
    }
}
