//! When a target is polled, and what its newest result is. One poller a target; a poll never overlaps another of the same target.
//!
//! It knows nothing of where targets come from, nor of who asks for results.

mod admission;
mod aside;
mod cpu;
mod declarations;
mod first;
mod lateness;
mod pace;
mod pieces;
mod poller;
mod prepared;
mod render;
mod snapshot;
mod threads;
mod translate;
mod turns;
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
pub use lateness::Late;
pub use pieces::Pieces;
pub use poller::{Poller, State, Status};
pub use render::PROBE_FAMILIES;
pub use snapshot::{CallRecord, Failure, Snapshot};

use self::admission::Admission;
use self::declarations::Declarations;
use self::first::FirstResults;
use self::threads::Threads;
use self::turns::Turns;
use crate::fetch::{Clients, Limits};
use crate::self_metrics::PollMetrics;
use crate::target::{RefusedTarget, Target, TargetId};

/// What all pollers share.
#[derive(Debug)]
pub struct Shared {
    /// HTTP clients by settings.
    pub clients: Clients,
    /// Bytes of answers in memory.
    pub limits: Limits,
    /// What polls cost.
    pub metrics: PollMetrics,
    /// Which poll begins next.
    admission: Arc<Admission>,
    /// Translations of large answers.
    large: Turns,
    /// Translations of small ones that may take long.
    small: Turns,
    /// Targets whose server refused our credentials: whoever knows where these come from reads them again.
    refused: mpsc::Sender<TargetId>,
    /// What is told together of targets that were there when polls began.
    first: FirstResults,
    /// Told of targets that went up or down; nobody in file mode.
    listener: OnceLock<StateListener>,
    /// `--debug-bodies`.
    bodies: AtomicBool,
}

impl Shared {
    /// Tells whoever listens to changes of state.
    fn tell_of_change(&self, id: &TargetId) {
        if let Some(StateListener(tell)) = self.listener.get() {
            tell(id);
        }
    }

    /// Whether the debug page has what servers wrote to calls that failed.
    fn shows_bodies(&self) -> bool {
        self.bodies.load(Ordering::Relaxed)
    }
}

/// Whoever wants to know of changes of state.
struct StateListener(Box<dyn Fn(&TargetId) + Send + Sync>);

impl fmt::Debug for StateListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StateListener").finish_non_exhaustive()
    }
}

/// Refusals that may wait for the source of credentials; more are forgotten, since each target repeats its own.
const REFUSED_QUEUE: usize = 1024;

/// Whether pollers poll by themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Background {
    /// Only when asked.
    Off,
    /// They do; those that did not before begin as it says.
    On(Start),
}

/// When a poller begins that takes over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Start {
    /// At once: they are few.
    Once,
    /// At its place in the interval.
    Place,
}

/// All pollers, by target.
#[derive(Debug)]
pub struct Pollers {
    shared: Arc<Shared>,
    table: RwLock<BTreeMap<TargetId, Arc<Poller>>>,
    /// The most series that a target may have, whatever it says itself.
    max_sample_limit: usize,
    background: watch::Sender<Background>,
    declarations: Declarations,
    revision: AtomicU64,
    tasks: TaskTracker,
    stop: CancellationToken,
    admits: Once,
    /// `None`: polls run where the pollers are made.
    threads: Option<Threads>,
}

impl Pollers {
    /// No poller yet. With `background` false they are standbys: each polls only when a scrape asks for it.
    ///
    /// The receiver gets the names of targets that answered 401 or 403.
    pub fn new(
        clients: Clients,
        limits: Limits,
        metrics: PollMetrics,
        background: bool,
    ) -> (Self, mpsc::Receiver<TargetId>) {
        let (refused, refusals) = mpsc::channel(REFUSED_QUEUE);
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let (large, small) = (Turns::large(cores), Turns::small());
        let (listener, bodies, admission) = (OnceLock::new(), AtomicBool::new(false), Arc::default());
        let stop = CancellationToken::new();
        let first = FirstResults::new(stop.clone());
        let shared = Shared { clients, limits, metrics, admission, large, small, refused, first, listener, bodies };
        let pollers = Self {
            shared: Arc::new(shared),
            table: RwLock::default(),
            max_sample_limit: usize::MAX,
            background: watch::Sender::new(if background { Background::On(Start::Once) } else { Background::Off }),
            declarations: Declarations::new(),
            revision: AtomicU64::new(0),
            tasks: TaskTracker::new(),
            stop,
            admits: Once::new(),
            threads: None,
        };
        (pollers, refusals)
    }

    /// The same pollers, on threads of their own, which give way to all others of the process.
    pub fn on_own_threads(mut self) -> io::Result<Self> {
        self.threads = Some(Threads::start()?);
        Ok(self)
    }

    /// The same pollers, for which no target may have more series than this, whatever it says itself.
    #[must_use]
    pub fn capped(mut self, max_sample_limit: usize) -> Self {
        self.max_sample_limit = max_sample_limit;
        self
    }

    /// No poller yet, and none that polls by itself.
    #[cfg(test)]
    pub(crate) fn idle() -> Self {
        let clients = Clients::new(crate::fetch::AddressRules::default());
        let metrics = crate::self_metrics::SelfMetrics::new().unwrap();
        Self::new(clients, Limits::new(1 << 20, 8 << 20), metrics.polls, false).0
    }

    /// From now on, `listener` is called for each target whose state or reason changes, or that has its first result since it was changed.
    /// It must return at once, since a poll waits for it. Only the first call counts.
    pub fn on_state_change(&self, listener: impl Fn(&TargetId) + Send + Sync + 'static) {
        let _ = self.shared.listener.set(StateListener(Box::new(listener)));
    }

    /// From the next polls on, the debug page has the beginnings of what servers wrote to calls that failed, or has them no more.
    pub fn show_bodies(&self, show: bool) {
        self.shared.bodies.store(show, Ordering::Relaxed);
    }

    /// Starts a poller for each target that has none, and tells the others what has changed. Returns how many of them it were.
    pub fn apply(&self, targets: impl IntoIterator<Item = Target>) -> usize {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        let mut fresh = Vec::new();
        let mut changed = 0;
        for mut target in targets {
            target.sample_limit = target.sample_limit.min(self.max_sample_limit);
            match table.get(&target.id) {
                Some(poller) => changed += usize::from(poller.change(target)),
                None => fresh.push(target),
            }
        }
        let together = fresh.len();
        // One that comes later is news by itself.
        let begins = !self.known() || *self.background.borrow() == Background::Off;
        if together > 0 {
            self.admits.call_once(|| {
                let (admission, stop) = (Arc::clone(&self.shared.admission), self.stop.clone());
                self.spawn(async move {
                    stop.run_until_cancelled_owned(admission.run()).await;
                });
            });
        }
        for target in fresh {
            let place = place_in_interval(&target);
            let delay = if together <= AT_ONCE { Duration::ZERO } else { place };
            let poller = Arc::new(Poller::new(target, self.stop.child_token()));
            table.insert(poller.id().clone(), Arc::clone(&poller));
            let first = begins.then(|| self.shared.first.expect());
            let background = self.background.subscribe();
            self.spawn(worker::run(poller, Arc::clone(&self.shared), background, first, delay, place));
        }
        self.revision.fetch_add(1, Ordering::Release);
        changed + together
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        match self.threads.as_ref().and_then(Threads::handle) {
            Some(threads) => self.tasks.spawn_on(task, threads),
            None => self.tasks.spawn(task),
        };
    }

    /// Forgets a target at once; its running poll is dropped.
    pub fn remove(&self, id: &TargetId) {
        if let Some(poller) = self.table.write().unwrap_or_else(PoisonError::into_inner).remove(id) {
            poller.stop();
        }
        self.revision.fetch_add(1, Ordering::Release);
    }

    /// Makes `targets` the only ones.
    pub fn replace(&self, targets: Vec<Target>) -> Change {
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
        Change { total: targets.len(), applied: self.apply(targets), deleted }
    }

    /// The poller of one target.
    pub fn get(&self, id: &TargetId) -> Option<Arc<Poller>> {
        self.table.read().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }

    /// Every poller, in the order of names.
    pub fn list(&self) -> Vec<Arc<Poller>> {
        self.table.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Another number after each change of what is declared: an index made from [`list`](Self::list) is good while this stays.
    pub fn revision(&self) -> u64 {
        self.revision.load(Ordering::Acquire)
    }

    /// Whether pollers poll by themselves, or only when asked.
    pub fn set_background(&self, background: bool) {
        let together = self.table.read().unwrap_or_else(PoisonError::into_inner).len();
        let start = if together <= AT_ONCE { Start::Once } else { Start::Place };
        self.background.send_if_modified(|now| {
            let change = background != (*now != Background::Off);
            if change {
                *now = if background { Background::On(start) } else { Background::Off };
            }
            change
        });
    }

    /// How late polls begin, while there are more of them than the CPU carries.
    pub fn late(&self) -> Option<Late> {
        self.shared.admission.late()
    }

    /// From now on the targets are known: an unknown one is an error of the one who asks, not of ours.
    pub fn set_known(&self) {
        self.declarations.put_unknown(None);
    }

    /// Says why the targets are not known yet. Once they are, nothing changes that: the last that was heard of them holds.
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

    /// Replaces what is wrong with declarations: targets that cannot be used, sentences about everything, and how many more there are.
    pub fn set_mistakes(&self, refused: Vec<RefusedTarget>, sentences: Vec<String>, untold: usize) {
        self.declarations.put_mistakes(refused, sentences, untold);
    }

    /// What is wrong with declarations.
    pub fn mistakes(&self) -> Arc<Mistakes> {
        self.declarations.mistakes()
    }

    /// Stops every poller and waits until they have ended.
    pub async fn shutdown(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// A poller that nobody can ask for ends, whatever it waits for.
impl Drop for Pollers {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// What [`Pollers::replace`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// Targets there are now.
    pub total: usize,
    /// Those that are new or different.
    pub applied: usize,
    /// Those that are gone.
    pub deleted: usize,
}

/// Up to here, targets that appear together are polled at once; more are spread over their interval.
const AT_ONCE: usize = 50;

/// A target's own place in its interval, so that many do not poll in step.
///
/// Not in more than the first minute, so that a long interval does not keep the first data away.
fn place_in_interval(target: &Target) -> Duration {
    const LONGEST: Duration = Duration::from_mins(1);
    // A fixed hash: after a restart every target finds its old place.
    let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(&target.id);
    #[expect(clippy::cast_precision_loss, reason = "a place in an interval needs no 64 bits")]
    let place = (hash >> 11) as f64 / (1_u64 << 53) as f64;
    target.interval.min(LONGEST).mul_f64(place)
}
