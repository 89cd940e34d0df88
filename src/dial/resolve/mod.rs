//! From host names to addresses, without threads and within bounds: one query for a name at a time, a short cache, and a share of the
//! queries for each namespace, so that names whose servers do not answer do not keep others from being resolved. It does not decide which
//! addresses may be contacted.

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

use system::{ConfigFiles, SystemConfig};

/// A local name server answers within milliseconds. Queries that take longer than this must not block others.
const QUICK: Duration = Duration::from_secs(1);

/// The time limit of a lookup, whatever the timeouts of the targets.
const LONGEST: Duration = Duration::from_secs(10);

/// How long addresses are cached: as long as their server says, within these bounds. A name that moves is followed within a minute.
const CACHE_TIME: std::ops::RangeInclusive<Duration> = Duration::from_secs(5)..=Duration::from_secs(30);

/// How long it is cached that a name does not exist: a Service may appear at any moment.
const NEGATIVE_CACHE_TIME: Duration = Duration::from_secs(5);

/// How long it is remembered that no server answered for a name.
const SILENT_TIME: Duration = Duration::from_mins(2);

/// A poll that ends before this does not show that the name server is silent.
const MIN_SILENCE: Duration = Duration::from_millis(200);

/// Names in memory; more than there are targets.
const MAX_NAMES: usize = 1 << 15;

/// Up to this number of names, none is removed.
const MIN_SWEEP: usize = 1024;

/// Addresses in memory, beside the first of each name.
const MAX_ADDRESSES: usize = 1 << 17;

/// Concurrent lookups of names that are expected to be answered, and of those that are not: of one namespace, and in total. The former wait
/// for a permit, which takes little time; the latter fail. Each lookup is a socket for either IP version, and the same for each of three
/// retries.
const QUICK_PERMITS: (usize, usize) = (32, 128);
const SLOW_PERMITS: (usize, usize) = (16, 128);

/// The addresses of a host: at least one.
pub(crate) type Resolved = Result<HostAddresses, NameError>;

/// The addresses of a host.
#[derive(Clone, Debug)]
pub(crate) struct HostAddresses {
    pub(crate) addresses: Arc<[IpAddr]>,
    /// What is missing does not exist: no question about one of the IP versions is open.
    pub(crate) is_complete: bool,
}

impl HostAddresses {
    /// The addresses that the name server named first, up to `most` of each IP version.
    pub(crate) fn first_of_each_version(&self, most: usize) -> impl Iterator<Item = &IpAddr> {
        let (mut v4, mut v6) = (0, 0);
        self.addresses.iter().filter(move |address| {
            let count = if address.is_ipv4() { &mut v4 } else { &mut v6 };
            *count += 1;
            *count <= most
        })
    }
}

/// Names whose addresses are known without a query, as in a file of hosts. Where they may be used, is decided as for all others.
pub type KnownHosts = HashMap<Arc<str>, Arc<[IpAddr]>>;

/// Whether a lookup may be answered from the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Freshness {
    Cached,
    Asked,
}

type SharedLookup = Shared<BoxFuture<'static, Resolved>>;

/// Why a name has no addresses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.sentence())]
pub(crate) struct NameError {
    host: Arc<str>,
    servers: Arc<str>,
    cause: NameErrorCause,
}

/// Why a name has no addresses. Ordered by how much it says where several servers were asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum NameErrorCause {
    NotFound,
    NoAddress,
    ServerFailed,
    NoAnswer,
    Busy,
    Malformed,
}

impl NameError {
    /// Whether a name server has said that the name exists, and that no address belongs to it.
    pub(crate) fn says_that_there_is_no_address(&self) -> bool {
        self.cause == NameErrorCause::NoAddress
    }

    fn sentence(&self) -> String {
        let Self { host, servers, cause } = self;
        match cause {
            NameErrorCause::NotFound => format!("{host} does not exist (name server {servers})"),
            NameErrorCause::NoAddress => format!("{host} has no address (name server {servers})"),
            NameErrorCause::ServerFailed => format!("name server {servers} cannot resolve {host}"),
            NameErrorCause::NoAnswer => format!("no answer about {host} in time from name server {servers}"),
            NameErrorCause::Busy => format!(
                "no answer about {host} from name server {servers} lately, and too many other lookups are pending"
            ),
            NameErrorCause::Malformed => format!("{host} is not a valid DNS name"),
        }
    }
}

/// A name that a namespace waits for.
type WaitedName = (Arc<str>, Arc<str>, Freshness);

/// Resolves the names of all targets.
#[derive(Debug, Default)]
pub(crate) struct Resolver {
    known: KnownHosts,
    state: Mutex<ResolverState>,
    /// One for each name that a namespace waits for: it holds the permit of the namespace. Not a part of the state, which is locked when
    /// such a lookup ends.
    waited: Mutex<RunningLookups<WaitedName>>,
    permits: LookupPermits,
}

#[derive(Debug, Default)]
struct ResolverState {
    files: ConfigFiles,
    system: Option<Arc<SystemConfig>>,
    names: HashMap<Arc<str>, CachedName>,
    /// The sum of [`CachedName::size`].
    addresses: usize,
    /// The number of names at which expired ones are removed.
    sweep_at: usize,
    /// One for each name that is being resolved.
    running: RunningLookups<Arc<str>>,
    shares: HashMap<Arc<str>, Arc<LookupPermits>>,
}

/// What is known of a name.
#[derive(Debug, Default)]
struct CachedName {
    answer: Option<(Resolved, Instant)>,
    silent_until: Option<Instant>,
}

impl CachedName {
    /// Addresses beside the first one.
    fn size(&self) -> usize {
        let addresses = self.answer.as_ref().and_then(|(answer, _)| answer.as_ref().ok()).map(|found| &found.addresses);
        addresses.map_or(0, |addresses| addresses.len().saturating_sub(1))
    }
}

/// Limits concurrent lookups.
#[derive(Debug)]
struct LookupPermits {
    quick: Arc<Semaphore>,
    slow: Arc<Semaphore>,
}

impl LookupPermits {
    fn new(quick: usize, slow: usize) -> Self {
        Self { quick: Arc::new(Semaphore::new(quick)), slow: Arc::new(Semaphore::new(slow)) }
    }
}

impl Default for LookupPermits {
    fn default() -> Self {
        Self::new(QUICK_PERMITS.1, SLOW_PERMITS.1)
    }
}

impl Resolver {
    /// A resolver that knows these names besides those of the system.
    pub(crate) fn knowing(known: KnownHosts) -> Self {
        Self { known, ..Self::default() }
    }

    /// The addresses of `host`, for a target of `namespace`. The lookup is dropped when no target waits for it any more.
    pub(crate) async fn look_up(self: &Arc<Self>, namespace: &Arc<str>, host: &Arc<str>) -> Resolved {
        if let Some(known) = self.known.get(host) {
            return Ok(HostAddresses { addresses: Arc::clone(known), is_complete: true });
        }
        if let Some(answer) = self.lock().without_query(host) {
            return answer;
        }
        self.wait_for(namespace, host, Freshness::Cached).await
    }

    /// The same, but a name server is asked although its last answer could still be used: for those who measure that.
    pub(crate) async fn look_up_anew(self: &Arc<Self>, namespace: &Arc<str>, host: &Arc<str>) -> Resolved {
        if let Some(known) = self.known.get(host) {
            return Ok(HostAddresses { addresses: Arc::clone(known), is_complete: true });
        }
        if let Some(answer) = self.lock().of_files(host) {
            return answer;
        }
        self.wait_for(namespace, host, Freshness::Asked).await
    }

    async fn wait_for(self: &Arc<Self>, namespace: &Arc<str>, host: &Arc<str>, freshness: Freshness) -> Resolved {
        let waited = {
            let mut waited = self.waited.lock().unwrap_or_else(PoisonError::into_inner);
            let key = (Arc::clone(namespace), Arc::clone(host), freshness);
            let (namespace, host) = (Arc::clone(namespace), Arc::clone(host));
            waited.join(key, || Arc::clone(self).look_up_with_permit(namespace, host, freshness).boxed())
        };
        waited.await
    }

    /// The error for a host whose lookup did not end in time.
    pub(crate) fn timeout_error(&self, host: &str) -> NameError {
        self.lock().system().error(host, NameErrorCause::NoAnswer)
    }

    fn lock(&self) -> MutexGuard<'_, ResolverState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks a name up when the namespace has a permit.
    async fn look_up_with_permit(
        self: Arc<Self>,
        namespace: Arc<str>,
        host: Arc<str>,
        freshness: Freshness,
    ) -> Resolved {
        let share = self.lock().share(&namespace);
        let mut under_way = None;
        if !self.lock().is_silent(&host) {
            let _permits = (acquire(&share.quick).await, acquire(&self.permits.quick).await);
            let lookup = {
                let mut state = self.lock();
                if freshness == Freshness::Cached
                    && let Some(answer) = state.cached(&host)
                {
                    return answer;
                }
                self.join(&mut state, &host)
            };
            let mut guard = SilenceGuard { resolver: &self, host: &host, since: Some(Instant::now()) };
            if let Ok(answer) = tokio::time::timeout(QUICK, lookup.clone()).await {
                guard.since = None;
                return answer;
            }
            under_way = Some(lookup);
        }
        let slow = (Arc::clone(&share.slow).try_acquire_owned(), Arc::clone(&self.permits.slow).try_acquire_owned());
        let (Ok(_), Ok(_)) = &slow else { return Err(self.lock().system().error(&host, NameErrorCause::Busy)) };
        let lookup = under_way.unwrap_or_else(|| self.join(&mut self.lock(), &host));
        lookup.await
    }

    /// The lookup of `host` that is under way, or a new one.
    fn join(self: &Arc<Self>, state: &mut ResolverState, host: &Arc<str>) -> SharedLookup {
        let system = state.system();
        state.running.join(Arc::clone(host), || Arc::clone(self).ask(system, Arc::clone(host)).boxed())
    }

    async fn ask(self: Arc<Self>, system: Arc<SystemConfig>, host: Arc<str>) -> Resolved {
        let found = tokio::time::timeout(LONGEST, system.look_up(&host)).await;
        let found = found.unwrap_or_else(|_| Err(system.error(&host, NameErrorCause::NoAnswer)));
        let mut state = self.lock();
        // A result is not cached if the configuration has changed meanwhile.
        let current = state.system.as_ref().is_some_and(|now| Arc::ptr_eq(now, &system));
        match found {
            Ok(found) => {
                let left =
                    found.until.map_or(*CACHE_TIME.end(), |until| until.duration_since(std::time::Instant::now()));
                // What is missing may be known soon.
                let most = if found.is_complete { *CACHE_TIME.end() } else { *CACHE_TIME.start() };
                let answer: Resolved =
                    Ok(HostAddresses { addresses: found.addresses.into(), is_complete: found.is_complete });
                if current {
                    state.cache(&host, answer.clone(), left.clamp(*CACHE_TIME.start(), most));
                }
                answer
            }
            Err(error) => {
                match error.cause {
                    NameErrorCause::NoAnswer => state.mark_silent(&host),
                    // A recursive server reports a failure when the zone's servers do not answer: such a name stays marked as silent.
                    _ if current => state.cache(&host, Err(error.clone()), NEGATIVE_CACHE_TIME),
                    _ => {}
                }
                Err(error)
            }
        }
    }
}

/// Waits for a permit. The semaphores are never closed.
async fn acquire(permits: &Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
    Arc::clone(permits).acquire_owned().await.ok()
}

/// Records that a name server did not answer, also when the poll that waited has ended before.
struct SilenceGuard<'r> {
    resolver: &'r Resolver,
    host: &'r Arc<str>,
    /// `None` once there is an answer.
    since: Option<Instant>,
}

impl Drop for SilenceGuard<'_> {
    fn drop(&mut self) {
        if self.since.is_some_and(|since| since.elapsed() >= MIN_SILENCE) {
            self.resolver.lock().mark_silent(self.host);
        }
    }
}

impl ResolverState {
    /// Reads the configuration again if its files have changed, and forgets what was found by the old one.
    fn refresh(&mut self) {
        if self.files.have_changed() {
            self.system = Some(Arc::new(SystemConfig::read(self.system.as_deref())));
            self.names.clear();
            self.addresses = 0;
            self.running = RunningLookups::default();
        }
    }

    fn system(&mut self) -> Arc<SystemConfig> {
        Arc::clone(self.system.get_or_insert_with(|| Arc::new(SystemConfig::read(None))))
    }

    /// The result for `host` if no name server has to be asked.
    fn without_query(&mut self, host: &Arc<str>) -> Option<Resolved> {
        self.refresh();
        self.cached(host).or_else(|| {
            let answer = self.of_files(host)?;
            self.cache(host, answer.clone(), *CACHE_TIME.end());
            Some(answer)
        })
    }

    /// The result for `host` if the files of the system have it.
    fn of_files(&mut self, host: &str) -> Option<Resolved> {
        self.refresh();
        let addresses = self.system().without_query(host)?.into();
        Some(Ok(HostAddresses { addresses, is_complete: true }))
    }

    fn cached(&self, host: &str) -> Option<Resolved> {
        let (answer, until) = self.names.get(host)?.answer.as_ref()?;
        (Instant::now() < *until).then(|| answer.clone())
    }

    /// Caches a result. The name is not silent any more, unless the result is that the server failed.
    fn cache(&mut self, host: &Arc<str>, answer: Resolved, time: Duration) {
        let name = self.entry(host);
        if !matches!(&answer, Err(NameError { cause: NameErrorCause::ServerFailed, .. })) {
            name.silent_until = None;
        }
        let before = name.size();
        name.answer = Some((answer, Instant::now() + time));
        let size = name.size();
        self.addresses = self.addresses.saturating_sub(before) + size;
        if self.addresses > MAX_ADDRESSES {
            self.sweep();
        }
        if self.addresses > MAX_ADDRESSES {
            self.names.clear();
            self.addresses = 0;
        }
    }

    fn mark_silent(&mut self, host: &Arc<str>) {
        self.entry(host).silent_until = Some(Instant::now() + SILENT_TIME);
    }

    fn is_silent(&self, host: &str) -> bool {
        let until = self.names.get(host).and_then(|known| known.silent_until);
        until.is_some_and(|until| Instant::now() < until)
    }

    fn entry(&mut self, host: &Arc<str>) -> &mut CachedName {
        if self.names.len() >= self.sweep_at.clamp(MIN_SWEEP, MAX_NAMES) && !self.names.contains_key(host) {
            self.sweep();
            if self.names.len() >= MAX_NAMES {
                self.names.clear();
                self.addresses = 0;
            }
            self.sweep_at = 2 * self.names.len();
        }
        self.names.entry(Arc::clone(host)).or_default()
    }

    /// Removes what has expired.
    fn sweep(&mut self) {
        let now = Instant::now();
        self.names.retain(|_, known| {
            let answer = known.answer.as_ref().map(|(_, until)| *until);
            [answer, known.silent_until].into_iter().flatten().any(|until| now < until)
        });
        self.addresses = self.names.values().map(CachedName::size).sum();
    }

    /// The permits of a namespace.
    fn share(&mut self, namespace: &Arc<str>) -> Arc<LookupPermits> {
        /// Unused ones are removed when there are more than this.
        const MAX_UNUSED: usize = 1024;
        if self.shares.len() >= MAX_UNUSED && !self.shares.contains_key(namespace) {
            self.shares.retain(|_, share| Arc::strong_count(share) > 1);
        }
        let new = || Arc::new(LookupPermits::new(QUICK_PERMITS.0, SLOW_PERMITS.0));
        Arc::clone(self.shares.entry(Arc::clone(namespace)).or_insert_with(new))
    }
}

/// Lookups for which targets wait. A lookup for which none waits any more is dropped.
#[derive(Debug)]
struct RunningLookups<K> {
    by_key: HashMap<K, WeakShared<BoxFuture<'static, Resolved>>>,
    sweep_at: usize,
}

impl<K> Default for RunningLookups<K> {
    fn default() -> Self {
        Self { by_key: HashMap::new(), sweep_at: Self::FEW }
    }
}

impl<K> RunningLookups<K> {
    /// Up to this number none is removed.
    const FEW: usize = 256;
}

impl<K: Hash + Eq> RunningLookups<K> {
    /// The lookup with this key, or a new one.
    fn join(&mut self, key: K, new: impl FnOnce() -> BoxFuture<'static, Resolved>) -> SharedLookup {
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

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn the_docs_name_the_permits_in_both_places() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/operating.md");
        let page = std::fs::read_to_string(path).unwrap().split_whitespace().collect::<Vec<_>>().join(" ");
        let ((quick, all_quick), (slow, all_slow)) = (QUICK_PERMITS, SLOW_PERMITS);
        for sentence in [
            format!(
                "{quick} at once for a namespace, {all_quick} in total, and as many as {slow} and {all_slow} slow ones"
            ),
            format!("Each namespace may have {quick} lookups in progress, all together {all_quick}."),
            format!("one of {slow} slow ones of its namespace ({all_slow} in total)"),
        ] {
            assert!(page.contains(&sentence), "{sentence}");
        }
    }

    /// An answer with so many addresses.
    fn answer(addresses: u32) -> HostAddresses {
        let addresses = (0..addresses).map(|number| Ipv4Addr::from_bits(number).into()).collect();
        HostAddresses { addresses, is_complete: true }
    }

    #[tokio::test]
    async fn names_with_many_addresses_take_a_bounded_amount_of_memory() {
        let mut state = ResolverState::default();
        for number in 0..200_u32 {
            // Each third one replaces an answer.
            let name: Arc<str> = format!("{}.test", number.saturating_sub(u32::from(number % 3 == 0))).into();
            state.cache(&name, Ok(answer(1 + 37 * number)), *CACHE_TIME.end());
            let kept: usize = state.names.values().map(CachedName::size).sum();
            assert_eq!(state.addresses, kept, "{number}");
            assert!(kept <= MAX_ADDRESSES, "{kept}");
            assert!(state.cached(&name).is_some() || state.names.is_empty());
        }
    }

    #[test]
    fn of_many_addresses_the_first_of_each_ip_version_are_tried() {
        let addresses: Vec<IpAddr> =
            ["10.0.0.1", "::1", "10.0.0.2", "10.0.0.3", "::2"].map(|text| text.parse().unwrap()).into();
        let found = HostAddresses { addresses: addresses.into(), is_complete: true };
        let tried = |most| found.first_of_each_version(most).map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(tried(1), ["10.0.0.1", "::1"]);
        assert_eq!(tried(2), ["10.0.0.1", "::1", "10.0.0.2", "::2"]);
    }
}
