//! Which poll begins next, and when. All whose time has come wait in one queue, those first that have waited longest; with more to poll
//! than the CPU carries, every target is late by the same time, and none is left out.
//!
//! What is limited is the CPU and nothing else: a poll that waits for its server holds no place. Two things hold polls back:
//!
//! * The next one begins when the threads of polls have worked off what there was to do. So few are under way at once, however many are
//!   due, and each ends soon.
//! * Where the process has a limit of CPU, the [pace](super::pace) keeps it below.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::lateness::{Late, Lateness};
use super::pace::{Measured, Pace};
use super::{cpu, threads};

/// The shortest that a timer waits.
const GRAIN: Duration = Duration::from_millis(1);

/// Between two looks at what was used.
const MEASURE: Duration = Duration::from_millis(500);

/// Between two looks at the limit, which can be changed while the process runs.
const READ_LIMIT: Duration = Duration::from_secs(2);

/// The queue of polls. Each target is in it once at the most.
#[derive(Debug, Default)]
pub(super) struct Admission {
    waiting: Mutex<Waiting>,
    arrived: Notify,
    /// Polls that have begun and not ended.
    under_way: AtomicUsize,
    ended: AtomicU64,
    /// There is no limit of CPU, as far as is known.
    is_unlimited: AtomicBool,
    lateness: Mutex<Lateness>,
}

#[derive(Debug, Default)]
struct Waiting {
    places: BTreeMap<Place, oneshot::Sender<()>>,
    arrivals: u64,
}

impl Waiting {
    /// Takes the poll that has waited longest: since when, whom to tell, and how many are left.
    fn first(&mut self) -> Option<(Instant, oneshot::Sender<()>, usize)> {
        let ((due, _), granted) = self.places.pop_first()?;
        Some((due, granted, self.places.len()))
    }
}

/// When the poll was due; and in which order those came that were due at once.
type Place = (Instant, u64);

/// A poll that may run. Dropping it says that it has ended.
#[derive(Debug)]
pub(super) struct Turn(Arc<Admission>);

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::AcqRel);
        self.0.ended.fetch_add(1, Ordering::Relaxed);
    }
}

/// Leaves the queue when nobody waits any more.
struct Waits<'a> {
    admission: &'a Admission,
    place: Place,
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.admission.waiting().places.remove(&self.place);
    }
}

impl Admission {
    /// Waits until a poll may begin that is due since `due`. The place in the queue is given up with the future, and found again by the
    /// same `due`.
    pub(super) async fn turn(self: &Arc<Self>, due: Instant) -> Turn {
        if let Some(turn) = self.turn_of_the_only_one(due) {
            return turn;
        }
        let (sender, granted) = oneshot::channel();
        let place = {
            let mut waiting = self.waiting();
            waiting.arrivals += 1;
            let place = (due, waiting.arrivals);
            waiting.places.insert(place, sender);
            place
        };
        let _waits = Waits { admission: self, place };
        self.arrived.notify_one();
        if granted.await.is_err() {
            // Nobody is there to grant it: the program ends.
            std::future::pending::<()>().await;
        }
        self.under_way.fetch_add(1, Ordering::AcqRel);
        Turn(Arc::clone(self))
    }

    /// A poll begins without the queue where it is the only one, as on most scrapes of a small fleet: nobody is there who could have waited
    /// longer, or whose work could be in its way.
    fn turn_of_the_only_one(self: &Arc<Self>, due: Instant) -> Option<Turn> {
        if !self.is_unlimited.load(Ordering::Relaxed) || !self.waiting().places.is_empty() {
            return None;
        }
        self.under_way.compare_exchange(0, 1, Ordering::AcqRel, Ordering::Relaxed).ok()?;
        self.lateness().begun(due.elapsed(), 0, None);
        Some(Turn(Arc::clone(self)))
    }

    /// How late polls begin, while they do.
    pub(super) fn late(&self) -> Option<Late> {
        let late = self.lateness.lock().unwrap_or_else(PoisonError::into_inner).late()?;
        Some(Late { waiting: self.waiting().places.len(), ..late })
    }

    /// Lets polls begin, for as long as it is polled; on the threads of polls, since it waits until these have nothing else to do.
    pub(super) async fn run(self: Arc<Self>) {
        let mut books = Books::open(&self);
        loop {
            let is_due = self.due().await;
            books.settle(&self);
            if !is_due {
                continue;
            }
            if let Some(wait) = books.pace.wait() {
                // Whoever is due by then goes first, if it has waited longer. The limit may be lifted meanwhile.
                tokio::time::sleep(wait.clamp(GRAIN, MEASURE)).await;
                continue;
            }
            let Some((due, granted, waiting)) = self.waiting().first() else { continue };
            self.lateness().begun(due.elapsed(), waiting, books.limit);
            // Whoever left just now was in the queue a moment ago; its share of the pace is lost.
            let _ = granted.send(());
            // Back when every task that is ready has run, that of this poll too.
            tokio::task::yield_now().await;
        }
    }

    /// Waits for a moment until a poll is in the queue. Returns whether one is; else none is late.
    async fn due(&self) -> bool {
        if self.waiting().places.is_empty() && tokio::time::timeout(MEASURE, self.arrived.notified()).await.is_err() {
            self.lateness().idle();
        }
        !self.waiting().places.is_empty()
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lateness(&self) -> MutexGuard<'_, Lateness> {
        self.lateness.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What has been used, and until when.
struct Books {
    pace: Pace,
    limit: Option<f64>,
    passed: Instant,
    measured: Instant,
    read_limit: Instant,
    used: Duration,
    used_by_polls: Duration,
    ended: u64,
}

impl Books {
    fn open(admission: &Admission) -> Self {
        let (now, limit) = (Instant::now(), cpu::limit());
        admission.is_unlimited.store(limit.is_none(), Ordering::Relaxed);
        Self {
            pace: Pace::new(limit),
            limit,
            passed: now,
            measured: now,
            read_limit: now,
            used: cpu::used(),
            used_by_polls: cpu::used_by(threads::NAME).unwrap_or_default(),
            ended: admission.ended.load(Ordering::Relaxed),
        }
    }

    /// Writes down what has come to pass since the last time.
    fn settle(&mut self, admission: &Admission) {
        let now = Instant::now();
        self.pace.pass(now - std::mem::replace(&mut self.passed, now));
        if now - self.read_limit >= READ_LIMIT {
            self.read_limit = now;
            let before = std::mem::replace(&mut self.limit, cpu::limit());
            self.pace.limit(self.limit);
            admission.is_unlimited.store(self.limit.is_none(), Ordering::Relaxed);
            if before.is_none() && self.limit.is_some() {
                // Nothing was measured up to now: what was used without a limit says nothing of it.
                self.measured = now;
                self.used = cpu::used();
                self.used_by_polls = cpu::used_by(threads::NAME).unwrap_or_default();
                self.ended = admission.ended.load(Ordering::Relaxed);
            }
        }
        // What nobody needs is not measured: without a limit, no more than the limit itself.
        if self.limit.is_some() && now - self.measured >= MEASURE {
            let time = (now - std::mem::replace(&mut self.measured, now)).as_secs_f64();
            let since =
                |now: Duration, before: &mut Duration| now.saturating_sub(std::mem::replace(before, now)).as_secs_f64();
            let all = since(cpu::used(), &mut self.used);
            // Where threads are not told apart, everything is taken for the cost of polls.
            let polls = match cpu::used_by(threads::NAME) {
                Some(used) => since(used, &mut self.used_by_polls).min(all),
                None => all,
            };
            let ended = admission.ended.load(Ordering::Relaxed);
            #[expect(clippy::cast_precision_loss, reason = "a count of some moments")]
            let count = (ended - std::mem::replace(&mut self.ended, ended)) as f64;
            self.pace.measured(Measured { time, polls, others: all - polls, ended: count });
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use tokio::task::JoinSet;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Polls that were due so many seconds ago; each tells when it was due, and runs for ever.
    fn polls(admission: &Arc<Admission>, now: Instant, due: &[u32], begun: &Arc<Mutex<Vec<u32>>>) -> JoinSet<()> {
        let mut polls = JoinSet::new();
        for &ago in due {
            let (admission, begun) = (Arc::clone(admission), Arc::clone(begun));
            polls.spawn(async move {
                let _turn = admission.turn(now - SECOND * ago).await;
                begun.lock().unwrap().push(ago);
                std::future::pending::<()>().await;
            });
        }
        polls
    }

    #[tokio::test(start_paused = true)]
    async fn those_that_have_waited_longest_begin_first_and_none_keeps_another_out() {
        tokio::time::advance(SECOND * 100).await;
        let (admission, begun) = (Arc::<Admission>::default(), Arc::<Mutex<Vec<u32>>>::default());
        let due: Vec<u32> = (0..50).map(|i| i * 31 % 50).collect();
        let polls = polls(&admission, Instant::now(), &due, &begun);
        tokio::task::yield_now().await;
        let run = tokio::spawn(Arc::clone(&admission).run());
        tokio::time::sleep(SECOND).await;
        run.abort();
        assert_eq!(*begun.lock().unwrap(), (0..50).rev().collect::<Vec<_>>());
        assert_eq!(polls.len(), 50, "none has ended");
    }

    #[tokio::test]
    async fn the_only_poll_begins_at_once_and_no_second_one_beside_it() {
        let admission = Arc::<Admission>::default();
        let turn = || admission.turn(Instant::now()).now_or_never();
        assert!(turn().is_none(), "before the limit is known");
        admission.is_unlimited.store(true, Ordering::Relaxed);
        let only = turn().unwrap();
        assert!(turn().is_none(), "another is under way");
        drop(only);
        assert!(turn().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_goes_away_leaves_the_queue_and_one_that_ends_is_counted() {
        let admission = Arc::<Admission>::default();
        assert!(admission.turn(Instant::now()).now_or_never().is_none());
        assert!(admission.waiting().places.is_empty());
        let run = tokio::spawn(Arc::clone(&admission).run());
        drop(admission.turn(Instant::now()).await);
        assert_eq!(admission.ended.load(Ordering::Relaxed), 1);
        run.abort();
    }
}
