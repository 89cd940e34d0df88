//! How many token requests are under way at once: few at each endpoint, some for each namespace, and not too many in all.
//!
//! A request gets all of its permits together or waits with none: one that waits for a slow endpoint takes nothing away from others.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// Requests at one endpoint, whatever namespaces they are for: it need not be made for the load of a whole fleet that starts.
const AT_ENDPOINT: usize = 4;

/// Requests for one namespace.
const FOR_NAMESPACE: usize = 16;

/// Requests in all.
const IN_ALL: usize = 256;

/// The requests under way, and those that wait.
#[derive(Debug, Default)]
pub(super) struct TokenPermits(Mutex<RequestQueue>);

/// The namespace for which a token is requested, and the host and port at which.
pub(super) type RequestGroup = (Arc<str>, Arc<str>);

#[derive(Debug, Default)]
struct RequestQueue {
    in_all: usize,
    of_namespaces: HashMap<Arc<str>, usize>,
    at_endpoints: HashMap<Arc<str>, usize>,
    waiting: BTreeMap<RequestGroup, VecDeque<oneshot::Sender<TokenPermit>>>,
}

/// Lets one request be under way. Dropping it lets the next one begin.
#[derive(Debug)]
pub(super) struct TokenPermit {
    permits: Arc<TokenPermits>,
    group: RequestGroup,
}

impl Drop for TokenPermit {
    fn drop(&mut self) {
        let mut queue = self.permits.queue();
        queue.in_all -= 1;
        decrement(&mut queue.of_namespaces, &self.group.0);
        decrement(&mut queue.at_endpoints, &self.group.1);
        self.permits.begin_more(queue);
    }
}

fn decrement<K: Hash + Eq>(counts: &mut HashMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

impl TokenPermits {
    /// Waits for the turn of a request. Whoever waits must bound the time.
    pub(super) async fn acquire(self: &Arc<Self>, group: RequestGroup) -> Option<TokenPermit> {
        let (give, given) = oneshot::channel();
        {
            let mut queue = self.queue();
            let group = queue.waiting.entry(group).or_default();
            // They have waited the longest, so they are the first to give up.
            while group.front().is_some_and(oneshot::Sender::is_closed) {
                group.pop_front();
            }
            group.push_back(give);
            self.begin_more(queue);
        }
        given.await.ok()
    }

    fn queue(&self) -> MutexGuard<'_, RequestQueue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets as many requests begin as there is room for.
    fn begin_more(self: &Arc<Self>, mut queue: MutexGuard<'_, RequestQueue>) {
        let mut begun = Vec::new();
        while let Some((group, give)) = queue.next() {
            queue.in_all += 1;
            *queue.of_namespaces.entry(Arc::clone(&group.0)).or_default() += 1;
            *queue.at_endpoints.entry(Arc::clone(&group.1)).or_default() += 1;
            begun.push((give, TokenPermit { permits: Arc::clone(self), group }));
        }
        drop(queue);
        for (give, permit) in begun {
            // A request that has given up meanwhile returns its permit by this.
            let _ = give.send(permit);
        }
    }
}

impl RequestQueue {
    /// The request that may begin next: one of the namespace with the fewest under way.
    fn next(&mut self) -> Option<(RequestGroup, oneshot::Sender<TokenPermit>)> {
        while self.in_all < IN_ALL {
            let under_way = |namespace: &Arc<str>| self.of_namespaces.get(namespace).copied().unwrap_or(0);
            let has_room = |(namespace, endpoint): &RequestGroup| {
                under_way(namespace) < FOR_NAMESPACE
                    && self.at_endpoints.get(endpoint).copied().unwrap_or(0) < AT_ENDPOINT
            };
            let groups = self.waiting.keys().filter(|group| has_room(group));
            let group = groups.min_by_key(|(namespace, _)| under_way(namespace))?.clone();
            let waiting = self.waiting.get_mut(&group)?;
            let next = waiting.pop_front();
            if waiting.is_empty() {
                self.waiting.remove(&group);
            }
            if let Some(give) = next.filter(|give| !give.is_closed()) {
                return Some((group, give));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn group(namespace: &str, endpoint: &str) -> RequestGroup {
        (namespace.into(), endpoint.into())
    }

    #[tokio::test]
    async fn a_slow_endpoint_takes_nothing_from_others_and_a_busy_namespace_little() {
        let permits = Arc::<TokenPermits>::default();
        let mut slow = Vec::new();
        for _ in 0..AT_ENDPOINT {
            slow.push(permits.acquire(group("a", "slow:80")).now_or_never().unwrap().unwrap());
        }
        let mut waiting: Vec<_> = (0..100).map(|_| Box::pin(permits.acquire(group("a", "slow:80")))).collect();
        assert!(waiting.iter_mut().all(|waiting| waiting.now_or_never().is_none()));
        let other = permits.acquire(group("a", "idm:80")).now_or_never();
        assert!(other.flatten().is_some(), "another endpoint has room");
        let mut of_another = Box::pin(permits.acquire(group("b", "slow:80")));
        assert!((&mut of_another).now_or_never().is_none());
        slow.pop();
        assert!(of_another.now_or_never().flatten().is_some(), "a namespace with nothing under way is next");
        drop((slow, waiting));
        let queue = permits.queue();
        assert!(queue.in_all == 0 && queue.of_namespaces.is_empty() && queue.at_endpoints.is_empty(), "{queue:?}");
    }

    #[tokio::test]
    async fn those_who_give_up_leave_the_queue() {
        let permits = Arc::<TokenPermits>::default();
        let mut held = Vec::new();
        for _ in 0..AT_ENDPOINT {
            held.push(permits.acquire(group("a", "idm")).now_or_never().unwrap().unwrap());
        }
        for _ in 0..1000 {
            assert!(permits.acquire(group("a", "idm")).now_or_never().is_none());
        }
        assert!(permits.queue().waiting.values().map(VecDeque::len).sum::<usize>() <= 1);
        held.clear();
        assert!(permits.acquire(group("a", "idm")).now_or_never().flatten().is_some());
    }
}
