//! When targets are polled, and their newest results. Each target has one poller; polls of the same target never overlap.
//!
//! It knows neither where targets come from nor how results are served.

mod admission;
mod aftercare;
mod authorized;
mod blocking;
mod compose;
mod declarations;
mod delay;
mod first_polls;
mod member;
mod members;
mod pacer;
mod poller;
mod prepare;
mod probe;
mod render;
mod round;
mod runtime;
mod snapshot;
mod state_log;
mod tokens;
mod translate;
mod worker;

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Once, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use declarations::Mistakes;
pub use delay::PollDelay;
pub use members::{MemberCounts, MemberPoll, MemberReport, MemberReports, MemberState};
pub use poller::{Poller, TargetState, TargetStatus};
pub use render::PROBE_FAMILIES;
#[cfg(test)]
pub(crate) use render::test_snapshot;
pub use snapshot::{CallRecord, Failure, Pieces, ProbeReport, Snapshot};
pub use tokens::{TokenReport, TokenRequestReport};

pub use crate::fetch::TOKEN_CALL;

use self::admission::Admission;
use self::aftercare::AftercareTasks;
use self::blocking::NamespaceShares;
use self::declarations::Declarations;
use self::delay::SharedDelays;
use self::first_polls::FirstPolls;
use self::runtime::PollThreads;
use self::state_log::StateLog;
use self::tokens::TokenBook;
use crate::fetch::{Clients, Limits};
use crate::self_metrics::PollMetrics;
use crate::target::{RefusedTarget, Target, TargetId};

/// What all pollers share.
#[derive(Debug)]
pub struct PollContext {
    /// HTTP clients by settings.
    pub clients: Clients,
    /// Bytes of answers in memory.
    pub limits: Limits,
    /// Number and duration of polls.
    pub metrics: PollMetrics,
    /// Permits to translate large answers.
    large_answers: NamespaceShares,
    /// Permits to translate small ones that may take long.
    small_answers: NamespaceShares,
    /// What probes leave to be done.
    aftercare: AftercareTasks,
    /// The tokens of targets with OAuth 2.0.
    tokens: Arc<TokenBook>,
    /// Targets whose server rejected the credentials, so that their Secrets are read again.
    refused: mpsc::Sender<TargetId>,
    /// The results of first polls, which are logged together.
    first_polls: FirstPolls,
    /// All other changes of state.
    state_log: StateLog,
    /// Called with each target whose state has changed; unset in file mode.
    state_listener: OnceLock<StateListener>,
    /// `--debug-bodies`.
    shows_bodies: AtomicBool,
}

impl PollContext {
    /// Calls the listener, if there is one, with a target whose state has changed.
    fn notify_state_listener(&self, id: &TargetId) {
        if let Some(StateListener(notify)) = self.state_listener.get() {
            notify(id);
        }
    }

    /// Whether the debug page shows the bodies of failed calls.
    fn shows_bodies(&self) -> bool {
        self.shows_bodies.load(Ordering::Relaxed)
    }
}

/// Called when the state of a target has changed.
struct StateListener(Box<dyn Fn(&TargetId) + Send + Sync>);

impl fmt::Debug for StateListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StateListener").finish_non_exhaustive()
    }
}

const REFUSED_QUEUE: usize = 1024;

/// Whether targets are polled in the background.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BackgroundMode {
    /// A target is polled only when a scrape requests data.
    Off,
    /// Targets are polled in the background. The field says when a target is polled first after the change to this mode.
    On(FirstPollTime),
}

/// When a target is polled first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FirstPollTime {
    /// At once: there are few targets.
    Now,
    /// At its own time in the interval.
    Staggered,
}

/// All pollers, by target.
#[derive(Debug)]
pub struct Pollers {
    context: Arc<PollContext>,
    table: RwLock<BTreeMap<TargetId, Arc<Poller>>>,
    /// The most series of a target, regardless of its `sampleLimit`.
    max_sample_limit: usize,
    background: watch::Sender<BackgroundMode>,
    declarations: Declarations,
    revision: AtomicU64,
    tasks: TaskTracker,
    stop: CancellationToken,
    /// Decides which poll begins next, for each thread.
    admissions: Vec<Arc<Admission>>,
    admission_started: Once,
    delays: Arc<SharedDelays>,
    /// `None`: polls run on the runtime on which the pollers are made.
    threads: Option<PollThreads>,
}

impl Pollers {
    /// Creates no poller yet. If `background` is false, as on a standby, a target is polled only when a scrape requests data.
    ///
    /// The receiver gets the IDs of targets whose server answered 401 or 403.
    pub fn new(
        clients: Clients,
        limits: Limits,
        metrics: PollMetrics,
        background: bool,
    ) -> (Self, mpsc::Receiver<TargetId>) {
        let (refused, refusals) = mpsc::channel(REFUSED_QUEUE);
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let stop = CancellationToken::new();
        let delays = Arc::<SharedDelays>::default();
        let context = PollContext {
            clients,
            limits,
            metrics,
            large_answers: NamespaceShares::for_large_answers(cores),
            small_answers: NamespaceShares::for_small_answers(),
            aftercare: AftercareTasks::default(),
            tokens: Arc::default(),
            refused,
            first_polls: FirstPolls::new(stop.clone()),
            state_log: StateLog::new(stop.clone()),
            state_listener: OnceLock::new(),
            shows_bodies: AtomicBool::new(false),
        };
        let pollers = Self {
            context: Arc::new(context),
            table: RwLock::default(),
            max_sample_limit: usize::MAX,
            background: watch::Sender::new(if background {
                BackgroundMode::On(FirstPollTime::Now)
            } else {
                BackgroundMode::Off
            }),
            declarations: Declarations::new(),
            revision: AtomicU64::new(0),
            tasks: TaskTracker::new(),
            stop,
            admissions: vec![Arc::new(Admission::new(Arc::clone(&delays), 1))],
            admission_started: Once::new(),
            delays,
            threads: None,
        };
        (pollers, refusals)
    }

    /// Runs polls on threads of their own, with a lower priority than the other threads of the process.
    pub fn on_own_threads(mut self) -> io::Result<Self> {
        let threads = PollThreads::start()?;
        let count = threads.runtimes().len();
        self.admissions = (0..count).map(|_| Arc::new(Admission::new(Arc::clone(&self.delays), count))).collect();
        self.threads = Some(threads);
        Ok(self)
    }

    /// Limits the series of each target, regardless of its `sampleLimit`.
    #[must_use]
    pub fn capped(mut self, max_sample_limit: usize) -> Self {
        self.max_sample_limit = max_sample_limit;
        self
    }

    /// No pollers and no background polls, for tests.
    #[cfg(test)]
    pub(crate) fn idle() -> Self {
        let clients = Clients::new(crate::dial::AddressRules::default());
        let metrics = crate::self_metrics::SelfMetrics::new().unwrap();
        Self::new(clients, Limits::new(1 << 20, 8 << 20), metrics.polls, false).0
    }

    /// From now on, `listener` is called for each target whose state or reason changes, or that has its first result since it was changed.
    /// It must return at once, since a poll waits for it. Only the first call counts.
    pub fn on_state_change(&self, listener: impl Fn(&TargetId) + Send + Sync + 'static) {
        let _ = self.context.state_listener.set(StateListener(Box::new(listener)));
    }

    /// Sets whether the debug page shows the beginning of the bodies of failed calls, from the next polls on.
    pub fn show_bodies(&self, show: bool) {
        self.context.shows_bodies.store(show, Ordering::Relaxed);
    }

    /// Starts a poller for each new target, and updates the others. Returns how many targets are new or changed.
    pub fn apply(&self, targets: impl IntoIterator<Item = Target>) -> usize {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        let mut fresh = Vec::new();
        let mut changed = 0;
        for mut target in targets {
            target.sample_limit = target.sample_limit.min(self.max_sample_limit);
            if let Some(members) = &mut target.members {
                members.sample_limit = members.sample_limit.min(self.max_sample_limit);
            }
            match table.get(&target.id) {
                Some(poller) => changed += usize::from(poller.change(target)),
                None => fresh.push(target),
            }
        }
        let together = fresh.len();
        // A target that is added later is reported on its own.
        let is_start = !self.known() || *self.background.borrow() == BackgroundMode::Off;
        if together > 0 {
            self.admission_started.call_once(|| {
                for (thread, admission) in self.admissions.iter().enumerate() {
                    let (admission, stop) = (Arc::clone(admission), self.stop.clone());
                    self.spawn(thread, async move {
                        stop.run_until_cancelled_owned(admission.run()).await;
                    });
                }
            });
        }
        for target in fresh {
            let offset = offset_in_interval(&target);
            let delay = if together <= MAX_UNSTAGGERED { Duration::ZERO } else { offset };
            let poller = Arc::new(Poller::new(target, self.stop.child_token()));
            table.insert(poller.id().clone(), Arc::clone(&poller));
            let first = is_start.then(|| self.context.first_polls.expect());
            let background = self.background.subscribe();
            let thread = thread_of(poller.id(), self.admissions.len());
            let Some(admission) = self.admissions.get(thread) else { continue };
            let (admission, context) = (Arc::clone(admission), Arc::clone(&self.context));
            self.spawn(thread, worker::run(poller, context, admission, background, first, delay, offset));
        }
        self.revision.fetch_add(1, Ordering::Release);
        changed + together
    }

    fn spawn(&self, thread: usize, task: impl Future<Output = ()> + Send + 'static) {
        match self.threads.as_ref().and_then(|threads| threads.runtimes().get(thread)) {
            Some(runtime) => self.tasks.spawn_on(task, runtime),
            None => self.tasks.spawn(task),
        };
    }

    /// Removes a target at once. Its running poll is dropped.
    pub fn remove(&self, id: &TargetId) {
        if let Some(poller) = self.table.write().unwrap_or_else(PoisonError::into_inner).remove(id) {
            poller.stop();
        }
        self.revision.fetch_add(1, Ordering::Release);
    }

    /// Replaces all targets by `targets`.
    pub fn replace(&self, targets: Vec<Target>) -> ReplaceResult {
        let wanted: HashSet<TargetId> = targets.iter().map(|target| target.id.clone()).collect();
        let mut deleted = 0;
        self.table.write().unwrap_or_else(PoisonError::into_inner).retain(|id, poller| {
            let keep = wanted.contains(id);
            if !keep {
                poller.stop();
                deleted += 1;
            }
            keep
        });
        ReplaceResult { total: targets.len(), applied: self.apply(targets), deleted }
    }

    /// The poller of one target.
    pub fn get(&self, id: &TargetId) -> Option<Arc<Poller>> {
        self.table.read().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }

    /// Every poller, in the order of names.
    pub fn list(&self) -> Vec<Arc<Poller>> {
        self.table.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// A number that changes with each change of the targets: until then, an index made from [`list`](Self::list) is valid.
    pub fn revision(&self) -> u64 {
        self.revision.load(Ordering::Acquire)
    }

    /// Sets whether targets are polled in the background, or only when a scrape requests data.
    pub fn set_background(&self, background: bool) {
        let together = self.table.read().unwrap_or_else(PoisonError::into_inner).len();
        let start = if together <= MAX_UNSTAGGERED { FirstPollTime::Now } else { FirstPollTime::Staggered };
        self.background.send_if_modified(|now| {
            let change = background != (*now != BackgroundMode::Off);
            if change {
                *now = if background { BackgroundMode::On(start) } else { BackgroundMode::Off };
            }
            change
        });
    }

    /// How much polls are delayed, while there are more of them than the CPU can do.
    pub fn delay(&self) -> Option<PollDelay> {
        self.delays.current()
    }

    /// Marks the targets as known: from now on, a request for any other target is an error of the client.
    pub fn set_known(&self) {
        self.declarations.put_unknown(None);
    }

    /// Says why the targets are not known yet. It has no effect once they are: then the last known ones are used.
    pub fn set_unknown(&self, why: &str) {
        if !self.known() {
            self.declarations.put_unknown(Some(why));
        }
    }

    /// Whether the targets are known.
    pub fn known(&self) -> bool {
        self.unknown().is_none()
    }

    /// Waits until the targets are known.
    pub async fn until_known(&self) {
        self.declarations.until_known().await;
    }

    /// Why the targets are not known; `None` once they are.
    pub fn unknown(&self) -> Option<Arc<str>> {
        self.declarations.unknown()
    }

    /// Replaces what is wrong with declarations: targets that cannot be used, messages about everything, and how many more there are.
    pub fn set_mistakes(&self, refused: Vec<RefusedTarget>, sentences: Vec<String>, untold: usize) {
        self.declarations.put_mistakes(refused, sentences, untold);
    }

    /// What is wrong with declarations.
    pub fn mistakes(&self) -> Arc<Mistakes> {
        self.declarations.mistakes()
    }

    /// Stops every poller and waits until they have ended, and until what their probes have left is done.
    pub async fn shutdown(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        self.context.aftercare.finish().await;
    }
}

/// Stops the tasks of all pollers.
impl Drop for Pollers {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// What [`Pollers::replace`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplaceResult {
    /// All targets.
    pub total: usize,
    /// Targets that are new or changed.
    pub applied: usize,
    /// Targets that were removed.
    pub deleted: usize,
}

/// Up to this number, targets that appear together are polled at once; more are spread over their interval.
const MAX_UNSTAGGERED: usize = 50;

/// The thread that polls a target.
fn thread_of(id: &TargetId, threads: usize) -> usize {
    let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(id);
    usize::try_from(hash % threads.max(1) as u64).unwrap_or(0)
}

/// The offset of a target's polls in its interval, so that not all targets are polled at the same moment.
///
/// It is within the first minute, so that a long interval does not delay the first data.
fn offset_in_interval(target: &Target) -> Duration {
    const MAX: Duration = Duration::from_mins(1);
    // A fixed hash: after a restart every target has its old offset.
    let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(&target.id);
    #[expect(clippy::cast_precision_loss, reason = "a time in an interval needs no 64 bits")]
    let offset = (hash >> 11) as f64 / (1_u64 << 53) as f64;
    target.interval.min(MAX).mul_f64(offset)
}
