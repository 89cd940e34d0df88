//! Runs long work on blocking threads: a few jobs at a time, a share of them for each namespace, and each limited by the deadline of its
//! poll. It does not know what a job does.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::kind::{CallError, Reason};
use crate::metric::Stop;
use crate::target::Target;

/// The time limit of a job, even if the poll's deadline is later: others wait for its permit.
const MAX_DURATION: Duration = Duration::from_secs(10);

/// How long a job may run after the poll's deadline, so that an answer that arrived just before it is not lost.
const GRACE: Duration = Duration::from_millis(250);

/// How long to wait for a job that was asked to stop. It may be parsing a document, which it cannot interrupt.
const STOP_TIMEOUT: Duration = Duration::from_millis(250);

/// Idle namespaces are removed from memory when there are more than these.
const MAX_IDLE_NAMESPACES: usize = 64;

/// Permits for blocking work, shared fairly between namespaces.
#[derive(Debug)]
pub(super) struct NamespaceShares {
    all: Arc<Semaphore>,
    share: usize,
    by_namespace: Mutex<HashMap<Arc<str>, Weak<Semaphore>>>,
}

/// Permission to do one piece of work; it is given back when it is dropped.
#[derive(Debug)]
pub(super) struct WorkPermit {
    _of_all: OwnedSemaphorePermit,
    _of_namespace: OwnedSemaphorePermit,
}

impl NamespaceShares {
    /// For large answers: few, however many cores there are, since each may hold 100 MiB.
    pub(super) fn for_large_answers(cores: usize) -> Self {
        let all = cores.clamp(2, 4);
        Self::new(all, all / 2)
    }

    /// For small answers, which take little memory but may take long as well: their names have to be compared with patterns.
    pub(super) fn for_small_answers() -> Self {
        Self::new(8, 2)
    }

    fn new(all: usize, share: usize) -> Self {
        Self { all: Arc::new(Semaphore::new(all)), share, by_namespace: Mutex::default() }
    }

    /// Waits for a permit until `deadline` or a little longer.
    pub(super) async fn acquire(&self, target: &Target, deadline: Instant) -> Result<WorkPermit, WorkError> {
        let deadline = deadline.max(Instant::now() + GRACE);
        let permit = tokio::time::timeout_at(deadline, self.acquire_for(&target.id.namespace)).await;
        permit.ok().flatten().ok_or(WorkError::NoPermit)
    }

    /// A namespace holds no more permits than its share, and no more of its work than that waits in the common queue. So another namespace
    /// waits for a few pieces of work and not for hundreds.
    async fn acquire_for(&self, namespace: &Arc<str>) -> Option<WorkPermit> {
        // The semaphores are never closed.
        let of_namespace = self.namespace(namespace).acquire_owned().await.ok()?;
        let of_all = Arc::clone(&self.all).acquire_owned().await.ok()?;
        Some(WorkPermit { _of_all: of_all, _of_namespace: of_namespace })
    }

    fn namespace(&self, namespace: &Arc<str>) -> Arc<Semaphore> {
        let mut known = self.by_namespace.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(semaphore) = known.get(namespace).and_then(Weak::upgrade) {
            return semaphore;
        }
        if known.len() >= MAX_IDLE_NAMESPACES {
            known.retain(|_, semaphore| semaphore.strong_count() > 0);
        }
        let semaphore = Arc::new(Semaphore::new(self.share));
        known.insert(Arc::clone(namespace), Arc::downgrade(&semaphore));
        semaphore
    }
}

/// Why blocking work has no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WorkError {
    /// There was no permit for it in time.
    NoPermit,
    /// It did not end in time.
    TimedOut,
    /// It panicked, or the program ends.
    Aborted,
}

impl WorkError {
    pub(super) const fn reason(self) -> Reason {
        match self {
            Self::NoPermit | Self::TimedOut => Reason::Timeout,
            Self::Aborted => Reason::Internal,
        }
    }

    /// The error for users where it is the patterns of a probe that were compared.
    pub(super) fn of_comparison(self) -> CallError {
        let message = match self {
            Self::NoPermit => {
                "the answer arrived in time, but its comparison had to wait for those of other targets until the timeout"
            }
            Self::TimedOut => {
                "the regular expressions of the target take too long to compare with the answer: write simpler ones, or limit the answer"
            }
            Self::Aborted => "the comparison with the answer was aborted: please report this",
        };
        CallError::new(self.reason(), message)
    }

    /// The error for users if the job was a translation.
    pub(super) fn of_translation(self) -> CallError {
        let message = match self {
            Self::NoPermit => {
                "the response arrived in time, but other responses were being translated until the timeout"
            }
            Self::TimedOut => "the response arrived in time, but could not be translated before the timeout",
            Self::Aborted => "the translation was aborted: please report this",
        };
        CallError::new(self.reason(), message)
    }
}

/// Asks a job to stop when its result is no longer needed, for instance because the target has been removed.
struct StopOnDrop(Stop);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.set();
    }
}

/// Does `work` on a blocking thread. Returns soon after `deadline`, whatever the work does; it keeps its permit until it has ended.
pub(super) async fn run_blocking<T: Send + 'static>(
    permit: WorkPermit,
    deadline: Instant,
    work: impl FnOnce(Stop) -> T + Send + 'static,
) -> Result<T, WorkError> {
    let deadline = deadline.max(Instant::now() + GRACE);
    let stop = StopOnDrop(Stop::default());
    let stopped = stop.0.clone();
    let mut done = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        work(stopped)
    });
    let end = deadline.min(Instant::now() + MAX_DURATION);
    let result = if let Ok(result) = tokio::time::timeout_at(end, &mut done).await {
        result
    } else {
        stop.0.set();
        tokio::time::timeout(STOP_TIMEOUT, done).await.map_err(|_| WorkError::TimedOut)?
    };
    result.map_err(|_| WorkError::Aborted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_namespace_with_hundreds_of_translations_leaves_a_permit_for_another() {
        let shares = Arc::new(NamespaceShares::new(2, 1));
        let (greedy, honest): (Arc<str>, Arc<str>) = ("greedy".into(), "honest".into());
        let held = shares.acquire_for(&greedy).await.unwrap();
        let waiting: Vec<_> = (0..300)
            .map(|_| {
                let (shares, greedy) = (Arc::clone(&shares), Arc::clone(&greedy));
                tokio::spawn(async move { shares.acquire_for(&greedy).await })
            })
            .collect();
        for _ in 0..10 {
            tokio::task::yield_now().await;
            tokio::time::timeout(Duration::from_secs(30), shares.acquire_for(&honest)).await.unwrap().unwrap();
        }
        assert!(waiting.iter().all(|task| !task.is_finished()));
        drop(held);
        for task in waiting {
            task.await.unwrap().unwrap();
        }
    }

    #[tokio::test]
    async fn namespaces_that_have_nothing_to_do_are_forgotten() {
        let shares = NamespaceShares::for_small_answers();
        for i in 0..1000 {
            shares.acquire_for(&Arc::from(i.to_string())).await.unwrap();
        }
        assert!(shares.by_namespace.lock().unwrap().len() <= MAX_IDLE_NAMESPACES);
    }
}
