//! Which poll begins next on a thread, and when. Polls that are due wait in one queue, ordered by the time at which they were due. If there
//! is more to poll than the CPU can do, all targets are delayed equally, and none is left out.
//!
//! A poll that is the only one begins without the queue, where there is no CPU limit.
//!
//! Only the CPU is limited: a poll that waits for its server does not keep others from beginning. Two things hold polls back:
//!
//! * The next one begins when the thread has done all work that was ready. So few are under way at once, however many are due, and
//!   each ends soon.
//! * Where the process has a CPU limit, a [`CpuPacer`] keeps it below.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::delay::{DelayMonitor, SharedDelays};
use super::pacer::{CpuPacer, CpuSample};
use super::runtime::{cpu_limit, cpu_used, cpu_used_by_polls};

/// The resolution of timers.
const TIMER_RESOLUTION: Duration = Duration::from_millis(1);

/// How often the CPU that was used is read.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(500);

/// How often the CPU limit is read, which can be changed while the process runs.
const LIMIT_INTERVAL: Duration = Duration::from_secs(2);

/// The polls of one thread. Each target is in the queue once at the most.
#[derive(Debug)]
pub(super) struct Admission {
    queue: Mutex<PollQueue>,
    arrived: Notify,
    /// Polls that have begun and not ended.
    under_way: AtomicUsize,
    ended: AtomicU64,
    /// No CPU limit is known.
    is_unlimited: AtomicBool,
    /// Shared by all threads.
    delays: Arc<SharedDelays>,
    /// How many threads poll: each may use as much of the CPU as the others.
    threads: usize,
}

impl Default for Admission {
    fn default() -> Self {
        Self::new(Arc::default(), 1)
    }
}

#[derive(Debug, Default)]
struct PollQueue {
    entries: BTreeMap<WaitingKey, oneshot::Sender<()>>,
    arrivals: u64,
}

impl PollQueue {
    /// Takes the poll that has waited longest: when it was due, and how to let it begin.
    fn pop(&mut self) -> Option<(Instant, oneshot::Sender<()>)> {
        let ((due, _), granted) = self.entries.pop_first()?;
        Some((due, granted))
    }
}

/// When the poll was due; and a number, so that polls due at the same time are taken in the order in which they came.
type WaitingKey = (Instant, u64);

/// Permission for a poll to run. The poll has ended when it is dropped.
#[derive(Debug)]
pub(super) struct PollPermit(Arc<Admission>);

impl Drop for PollPermit {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::AcqRel);
        self.0.ended.fetch_add(1, Ordering::Relaxed);
    }
}

/// Removes a poll from the queue when it no longer waits.
struct QueueGuard<'a> {
    admission: &'a Admission,
    key: WaitingKey,
}

impl Drop for QueueGuard<'_> {
    fn drop(&mut self) {
        if self.admission.queue().entries.remove(&self.key).is_some() {
            self.admission.delays.waiting.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Admission {
    /// No polls yet, on one of so many threads.
    pub(super) fn new(delays: Arc<SharedDelays>, threads: usize) -> Self {
        Self {
            queue: Mutex::default(),
            arrived: Notify::new(),
            under_way: AtomicUsize::new(0),
            ended: AtomicU64::new(0),
            is_unlimited: AtomicBool::new(false),
            delays,
            threads,
        }
    }

    /// Waits until a poll that was due at `due` may begin. Dropping the future leaves the queue; a later call with the same `due` gets the
    /// same position.
    pub(super) async fn acquire(self: &Arc<Self>, due: Instant) -> PollPermit {
        if let Some(permit) = self.acquire_alone(due) {
            return permit;
        }
        let (sender, granted) = oneshot::channel();
        let key = {
            let mut queue = self.queue();
            queue.arrivals += 1;
            let key = (due, queue.arrivals);
            queue.entries.insert(key, sender);
            self.delays.waiting.fetch_add(1, Ordering::Relaxed);
            key
        };
        let _guard = QueueGuard { admission: self, key };
        self.arrived.notify_one();
        if granted.await.is_err() {
            // The task that grants permits ends only with the program.
            std::future::pending::<()>().await;
        }
        self.under_way.fetch_add(1, Ordering::AcqRel);
        PollPermit(Arc::clone(self))
    }

    /// Lets a poll begin without the queue if it is the only one, as on most scrapes of a small fleet: no other has waited longer, and no
    /// other needs the CPU.
    fn acquire_alone(self: &Arc<Self>, due: Instant) -> Option<PollPermit> {
        if !self.is_unlimited.load(Ordering::Relaxed) || !self.queue().entries.is_empty() {
            return None;
        }
        self.under_way.compare_exchange(0, 1, Ordering::AcqRel, Ordering::Relaxed).ok()?;
        self.delays().on_begin(due.elapsed(), 0, None);
        Some(PollPermit(Arc::clone(self)))
    }

    /// Lets polls begin, until the future is dropped. It must run on the thread of the polls, since it waits until that has nothing else to
    /// do.
    pub(super) async fn run(self: Arc<Self>) {
        let mut usage = CpuUsage::new(&self);
        loop {
            let is_due = self.wait_until_due().await;
            usage.update(&self);
            if !is_due {
                continue;
            }
            if let Some(wait) = usage.pacer.take() {
                // Then the queue is looked at again: another may be first, and the limit may have been lifted.
                tokio::time::sleep(wait.clamp(TIMER_RESOLUTION, SAMPLE_INTERVAL)).await;
                continue;
            }
            let Some((due, granted)) = self.queue().pop() else { continue };
            let waiting = self.delays.waiting.fetch_sub(1, Ordering::Relaxed).saturating_sub(1);
            self.delays().on_begin(due.elapsed(), waiting, usage.limit);
            // A poll that leaves the queue at this very moment has used up its tokens for nothing.
            let _ = granted.send(());
            // Continues when every task that is ready has run, including that of this poll.
            tokio::task::yield_now().await;
        }
    }

    /// Waits for a while until a poll is in the queue. Returns whether one is.
    async fn wait_until_due(&self) -> bool {
        if self.queue().entries.is_empty()
            && tokio::time::timeout(SAMPLE_INTERVAL, self.arrived.notified()).await.is_err()
        {
            self.delays().on_idle();
        }
        !self.queue().entries.is_empty()
    }

    fn queue(&self) -> MutexGuard<'_, PollQueue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn delays(&self) -> MutexGuard<'_, DelayMonitor> {
        self.delays.monitor.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Measures CPU usage for the pacer.
struct CpuUsage {
    pacer: CpuPacer,
    /// This thread's part of everything that is measured.
    share: f64,
    limit: Option<f64>,
    /// When the pacer was last refilled, given a sample, and given the limit.
    refilled: Instant,
    sampled: Instant,
    limit_read: Instant,
    /// What had been used at the last sample.
    used: Duration,
    used_by_polls: Duration,
    ended: u64,
}

impl CpuUsage {
    fn new(admission: &Admission) -> Self {
        let (now, limit) = (Instant::now(), cpu_limit());
        let share = share_of(admission.threads);
        admission.is_unlimited.store(limit.is_none(), Ordering::Relaxed);
        Self {
            pacer: CpuPacer::new(limit.map(|limit| limit * share)),
            share,
            limit,
            refilled: now,
            sampled: now,
            limit_read: now,
            used: cpu_used(),
            used_by_polls: cpu_used_by_polls().unwrap_or_default(),
            ended: admission.ended.load(Ordering::Relaxed),
        }
    }

    /// Takes into account what has happened since the last call.
    fn update(&mut self, admission: &Admission) {
        let now = Instant::now();
        self.pacer.refill(now - std::mem::replace(&mut self.refilled, now));
        if now - self.limit_read >= LIMIT_INTERVAL {
            self.limit_read = now;
            let before = std::mem::replace(&mut self.limit, cpu_limit());
            self.pacer.set_limit(self.limit.map(|limit| limit * self.share));
            admission.is_unlimited.store(self.limit.is_none(), Ordering::Relaxed);
            if before.is_none() && self.limit.is_some() {
                // There have been no samples until now, and CPU that was used without a limit does not count.
                self.sampled = now;
                self.used = cpu_used();
                self.used_by_polls = cpu_used_by_polls().unwrap_or_default();
                self.ended = admission.ended.load(Ordering::Relaxed);
            }
        }
        // Without a limit no samples are needed.
        if self.limit.is_some() && now - self.sampled >= SAMPLE_INTERVAL {
            let time = (now - std::mem::replace(&mut self.sampled, now)).as_secs_f64();
            let since =
                |now: Duration, before: &mut Duration| now.saturating_sub(std::mem::replace(before, now)).as_secs_f64();
            let all = since(cpu_used(), &mut self.used);
            // Without usage by thread, all usage counts as the cost of polls.
            let polls = match cpu_used_by_polls() {
                Some(used) => since(used, &mut self.used_by_polls).min(all),
                None => all,
            };
            let ended = admission.ended.load(Ordering::Relaxed);
            #[expect(clippy::cast_precision_loss, reason = "a count of some moments")]
            let count = (ended - std::mem::replace(&mut self.ended, ended)) as f64;
            let (polls, others) = (polls * self.share, (all - polls) * self.share);
            self.pacer.add_sample(CpuSample { time, polls, others, ended: count });
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a few threads")]
fn share_of(threads: usize) -> f64 {
    1.0 / threads.max(1) as f64
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use tokio::task::JoinSet;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Starts polls that were due this number of seconds ago. Each records that when it begins, and runs for ever.
    fn polls(admission: &Arc<Admission>, now: Instant, due: &[u32], begun: &Arc<Mutex<Vec<u32>>>) -> JoinSet<()> {
        let mut polls = JoinSet::new();
        for &ago in due {
            let (admission, begun) = (Arc::clone(admission), Arc::clone(begun));
            polls.spawn(async move {
                let _permit = admission.acquire(now - SECOND * ago).await;
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
        let acquire = || admission.acquire(Instant::now()).now_or_never();
        assert!(acquire().is_none(), "before the limit is known");
        admission.is_unlimited.store(true, Ordering::Relaxed);
        let only = acquire().unwrap();
        assert!(acquire().is_none(), "another is under way");
        drop(only);
        assert!(acquire().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_goes_away_leaves_the_queue_and_one_that_ends_is_counted() {
        let admission = Arc::<Admission>::default();
        assert!(admission.acquire(Instant::now()).now_or_never().is_none());
        assert!(admission.queue().entries.is_empty());
        let run = tokio::spawn(Arc::clone(&admission).run());
        drop(admission.acquire(Instant::now()).await);
        assert_eq!(admission.ended.load(Ordering::Relaxed), 1);
        run.abort();
    }
}
