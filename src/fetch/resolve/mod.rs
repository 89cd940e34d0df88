//! From host names to addresses, without a thread and within bounds: one query a name at a time, a short memory, and a share of what is
//! asked for each namespace, so that names whose servers do not answer keep nobody else's from being resolved. It judges no address.

mod system;

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, Shared, WeakShared};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use system::{Files, System};

/// A name server of ours answers within milliseconds. What takes longer must not stand in the way of what does not.
const QUICK: Duration = Duration::from_secs(1);

/// The most that one lookup may take, however long anybody would wait.
const LONGEST: Duration = Duration::from_secs(10);

/// How long addresses are kept: as long as their server says, within these bounds. A name that moves is followed within a minute.
const KEPT: std::ops::RangeInclusive<Duration> = Duration::from_secs(5)..=Duration::from_secs(30);

/// How long it is kept that there is no such name: a Service may appear at any moment.
const KEPT_NOTHING: Duration = Duration::from_secs(5);

/// How long it is remembered that nobody answered for a name.
const KEPT_SILENT: Duration = Duration::from_mins(2);

/// A poll that ends before this has not found a name server silent.
const TOO_SOON: Duration = Duration::from_millis(200);

/// Names in memory; more than there are targets.
const MOST_NAMES: usize = 1 << 15;

/// So few are not worth a look at what can be forgotten.
const FEW_NAMES: usize = 1024;

/// Lookups at once of names that are expected to be answered, and of those that are not: by one namespace, and in all. The former wait for
/// their turn, which is short; the latter do not. Each is a socket for either IP version, and as much again for each of three repetitions.
const QUICK_PLACES: (usize, usize) = (32, 128);
const SLOW_PLACES: (usize, usize) = (16, 128);

/// The addresses of a host: at least one.
pub(super) type Answer = Result<Arc<[IpAddr]>, NameError>;

type Lookup = Shared<BoxFuture<'static, Answer>>;

/// Why a name has no addresses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.sentence())]
pub(super) struct NameError {
    host: Arc<str>,
    servers: Arc<str>,
    why: Why,
}

/// What a name server said, or that it said nothing. Ordered by how much it tells where several were asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Why {
    NoName,
    NoAddress,
    Failed,
    NoAnswer,
    Crowded,
    Malformed,
}

impl NameError {
    fn sentence(&self) -> String {
        let Self { host, servers, why } = self;
        match why {
            Why::NoName => format!("{host} does not exist (name server {servers})"),
            Why::NoAddress => format!("{host} has no address (name server {servers})"),
            Why::Failed => format!("name server {servers} cannot resolve {host}"),
            Why::NoAnswer => format!("no answer about {host} in time from name server {servers}"),
            Why::Crowded => format!(
                "no answer about {host} from name server {servers} lately, and too many other names are waited for"
            ),
            Why::Malformed => format!("{host} is no name that DNS can hold"),
        }
    }
}

/// Resolves the names of all targets.
#[derive(Debug, Default)]
pub(super) struct Resolver {
    state: Mutex<State>,
    /// One for each name that a namespace waits for: it has the turn in the namespace's share. Not a part of the state, which the end of
    /// such a lookup changes.
    waited: Mutex<Running<(Arc<str>, Arc<str>)>>,
    places: Places,
}

#[derive(Debug, Default)]
struct State {
    files: Files,
    system: Option<Arc<System>>,
    names: HashMap<Arc<str>, Known>,
    /// How many names there may be before those are forgotten whose time is up.
    swept_at: usize,
    /// One for each name that is being asked for.
    running: Running<Arc<str>>,
    shares: HashMap<Arc<str>, Arc<Places>>,
}

/// What is remembered of a name.
#[derive(Debug, Default)]
struct Known {
    answer: Option<(Answer, Instant)>,
    silent_until: Option<Instant>,
}

/// Lookups that may be under way at once.
#[derive(Debug)]
struct Places {
    quick: Arc<Semaphore>,
    slow: Arc<Semaphore>,
}

impl Places {
    fn new(quick: usize, slow: usize) -> Self {
        Self { quick: Arc::new(Semaphore::new(quick)), slow: Arc::new(Semaphore::new(slow)) }
    }
}

impl Default for Places {
    fn default() -> Self {
        Self::new(QUICK_PLACES.1, SLOW_PLACES.1)
    }
}

impl Resolver {
    /// The addresses of `host`, asked for by a target of `namespace`. The lookup ends when nobody waits for it any more.
    pub(super) async fn look_up(self: &Arc<Self>, namespace: &Arc<str>, host: &Arc<str>) -> Answer {
        if let Some(answer) = self.lock().at_hand(host) {
            return answer;
        }
        let waited = {
            let mut waited = self.waited.lock().unwrap_or_else(PoisonError::into_inner);
            let key = (Arc::clone(namespace), Arc::clone(host));
            waited.join(key, || Arc::clone(self).in_turn(Arc::clone(namespace), Arc::clone(host)).boxed())
        };
        waited.await
    }

    /// What is said of a host whose lookup was cut off.
    pub(super) fn cut_off(&self, host: &str) -> NameError {
        self.lock().system().error(host, Why::NoAnswer)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks a name up when it is the namespace's turn.
    async fn in_turn(self: Arc<Self>, namespace: Arc<str>, host: Arc<str>) -> Answer {
        let share = self.lock().share(&namespace);
        let mut under_way = None;
        if !self.lock().is_silent(&host) {
            let _turns = (turn(&share.quick).await, turn(&self.places.quick).await);
            let lookup = {
                let mut state = self.lock();
                if let Some(answer) = state.answer(&host) {
                    return answer;
                }
                self.join(&mut state, &host)
            };
            let mut watch = Watch { resolver: &self, host: &host, since: Some(Instant::now()) };
            if let Ok(answer) = tokio::time::timeout(QUICK, lookup.clone()).await {
                watch.since = None;
                return answer;
            }
            under_way = Some(lookup);
        }
        let slow = (Arc::clone(&share.slow).try_acquire_owned(), Arc::clone(&self.places.slow).try_acquire_owned());
        let (Ok(_), Ok(_)) = &slow else { return Err(self.lock().system().error(&host, Why::Crowded)) };
        let lookup = under_way.unwrap_or_else(|| self.join(&mut self.lock(), &host));
        lookup.await
    }

    /// The lookup of `host` that is under way, or a new one.
    fn join(self: &Arc<Self>, state: &mut State, host: &Arc<str>) -> Lookup {
        let system = state.system();
        state.running.join(Arc::clone(host), || Arc::clone(self).ask(system, Arc::clone(host)).boxed())
    }

    async fn ask(self: Arc<Self>, system: Arc<System>, host: Arc<str>) -> Answer {
        let found = tokio::time::timeout(LONGEST, system.look_up(&host)).await;
        let found = found.unwrap_or_else(|_| Err(system.error(&host, Why::NoAnswer)));
        let mut state = self.lock();
        // What was asked by files that have changed since is not kept.
        let current = state.system.as_ref().is_some_and(|now| Arc::ptr_eq(now, &system));
        match found {
            Ok(found) => {
                let left = found.until.map_or(*KEPT.end(), |until| until.duration_since(std::time::Instant::now()));
                let answer: Answer = Ok(found.addresses.into());
                if current {
                    state.keep(&host, answer.clone(), left.clamp(*KEPT.start(), *KEPT.end()));
                }
                answer
            }
            Err(error) => {
                match error.why {
                    Why::NoAnswer => state.note_silent(&host),
                    // A recursive server says so when the zone's own servers do not answer: that took long.
                    _ if current => state.keep(&host, Err(error.clone()), KEPT_NOTHING),
                    _ => {}
                }
                Err(error)
            }
        }
    }
}

/// Waits for a turn. These semaphores are never closed.
async fn turn(places: &Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
    Arc::clone(places).acquire_owned().await.ok()
}

/// Notes that a name was not answered for, also where the poll that waited ended before.
struct Watch<'r> {
    resolver: &'r Resolver,
    host: &'r Arc<str>,
    /// Nothing once there was an answer.
    since: Option<Instant>,
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        if self.since.is_some_and(|since| since.elapsed() >= TOO_SOON) {
            self.resolver.lock().note_silent(self.host);
        }
    }
}

impl State {
    /// Follows the files. What was found by the old ones counts no more.
    fn refresh(&mut self) {
        if self.files.have_changed() {
            self.system = Some(Arc::new(System::read(self.system.as_deref())));
            self.names.clear();
            self.running = Running::default();
        }
    }

    fn system(&mut self) -> Arc<System> {
        Arc::clone(self.system.get_or_insert_with(|| Arc::new(System::read(None))))
    }

    /// What can be said of `host` without asking anybody.
    fn at_hand(&mut self, host: &Arc<str>) -> Option<Answer> {
        self.refresh();
        self.answer(host).or_else(|| {
            let answer: Answer = Ok(self.system().at_hand(host)?.into());
            self.keep(host, answer.clone(), *KEPT.end());
            Some(answer)
        })
    }

    fn answer(&self, host: &str) -> Option<Answer> {
        let (answer, until) = self.names.get(host)?.answer.as_ref()?;
        (Instant::now() < *until).then(|| answer.clone())
    }

    /// Keeps an answer. A name that was answered for is not silent any more, unless all that was said is that it cannot be resolved.
    fn keep(&mut self, host: &Arc<str>, answer: Answer, time: Duration) {
        let known = self.known(host);
        if !matches!(&answer, Err(NameError { why: Why::Failed, .. })) {
            known.silent_until = None;
        }
        known.answer = Some((answer, Instant::now() + time));
    }

    fn note_silent(&mut self, host: &Arc<str>) {
        self.known(host).silent_until = Some(Instant::now() + KEPT_SILENT);
    }

    fn is_silent(&self, host: &str) -> bool {
        let until = self.names.get(host).and_then(|known| known.silent_until);
        until.is_some_and(|until| Instant::now() < until)
    }

    fn known(&mut self, host: &Arc<str>) -> &mut Known {
        if self.names.len() >= self.swept_at.clamp(FEW_NAMES, MOST_NAMES) && !self.names.contains_key(host) {
            let now = Instant::now();
            self.names.retain(|_, known| {
                let answer = known.answer.as_ref().map(|(_, until)| *until);
                [answer, known.silent_until].into_iter().flatten().any(|until| now < until)
            });
            if self.names.len() >= MOST_NAMES {
                self.names.clear();
            }
            self.swept_at = 2 * self.names.len();
        }
        self.names.entry(Arc::clone(host)).or_default()
    }

    /// What a namespace may ask at once.
    fn share(&mut self, namespace: &Arc<str>) -> Arc<Places> {
        /// Shares that nobody uses are forgotten when there are more.
        const MANY: usize = 1024;
        if self.shares.len() >= MANY && !self.shares.contains_key(namespace) {
            self.shares.retain(|_, share| Arc::strong_count(share) > 1);
        }
        let new = || Arc::new(Places::new(QUICK_PLACES.0, SLOW_PLACES.0));
        Arc::clone(self.shares.entry(Arc::clone(namespace)).or_insert_with(new))
    }
}

/// Lookups that somebody waits for. One that nobody waits for any more is dropped, wherever it is.
#[derive(Debug)]
struct Running<K> {
    by_key: HashMap<K, WeakShared<BoxFuture<'static, Answer>>>,
    sweep_at: usize,
}

impl<K> Default for Running<K> {
    fn default() -> Self {
        Self { by_key: HashMap::new(), sweep_at: Self::FEW }
    }
}

impl<K> Running<K> {
    /// Not worth sweeping.
    const FEW: usize = 256;
}

impl<K: Hash + Eq> Running<K> {
    /// The lookup with this key, or a new one.
    fn join(&mut self, key: K, new: impl FnOnce() -> BoxFuture<'static, Answer>) -> Lookup {
        if let Some(lookup) = self.by_key.get(&key).and_then(WeakShared::upgrade)
            && lookup.peek().is_none()
        {
            return lookup;
        }
        if self.by_key.len() >= self.sweep_at {
            self.by_key.retain(|_, lookup| lookup.upgrade().is_some_and(|lookup| lookup.peek().is_none()));
            self.sweep_at = Self::FEW.max(self.by_key.len() * 2);
        }
        let lookup = new().shared();
        if let Some(weak) = lookup.downgrade() {
            self.by_key.insert(key, weak);
        }
        lookup
    }
}
