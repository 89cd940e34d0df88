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

/// Requests in all, beyond which each namespace may still have one.
const IN_ALL: usize = 256;

/// The requests under way, and those that wait.
#[derive(Debug, Default)]
pub(super) struct TokenPermits(Mutex<RequestQueue>);

/// What requests have in common that take turns.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct RequestGroup {
    /// For which tokens are requested.
    pub(super) namespace: Arc<str>,
    /// Host and port of the endpoint, and the proxy before it.
    pub(super) authority: Arc<str>,
    /// The endpoint was down.
    pub(super) is_trial: bool,
}

#[derive(Debug, Default)]
struct RequestQueue {
    in_all: usize,
    of_namespaces: HashMap<Arc<str>, usize>,
    at_endpoints: HashMap<Arc<str>, usize>,
    waiting: BTreeMap<RequestGroup, VecDeque<WaitingRequest>>,
    /// Of the next request that waits.
    number: u64,
}

/// A request that waits, with a number that is lower the longer it does.
#[derive(Debug)]
struct WaitingRequest {
    number: u64,
    give: oneshot::Sender<TokenPermit>,
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
        decrement(&mut queue.of_namespaces, &self.group.namespace);
        decrement(&mut queue.at_endpoints, &self.group.authority);
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
            queue.number += 1;
            let number = queue.number;
            let group = queue.waiting.entry(group).or_default();
            // They have waited the longest, so they are the first to give up.
            while group.front().is_some_and(|request| request.give.is_closed()) {
                group.pop_front();
            }
            group.push_back(WaitingRequest { number, give });
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
            *queue.of_namespaces.entry(Arc::clone(&group.namespace)).or_default() += 1;
            *queue.at_endpoints.entry(Arc::clone(&group.authority)).or_default() += 1;
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
    /// The request that may begin next: one of the namespace with the fewest under way, and of those the one that has waited the longest.
    /// Endpoints that were down come last: each takes its time. However many are under way, a namespace may have one.
    fn next(&mut self) -> Option<(RequestGroup, oneshot::Sender<TokenPermit>)> {
        loop {
            let under_way = |namespace: &Arc<str>| self.of_namespaces.get(namespace).copied().unwrap_or(0);
            let has_room = |group: &RequestGroup| {
                let of_namespace = under_way(&group.namespace);
                of_namespace < FOR_NAMESPACE
                    && (of_namespace == 0 || self.in_all < IN_ALL)
                    && self.at_endpoints.get(&group.authority).copied().unwrap_or(0) < AT_ENDPOINT
            };
            let groups = self.waiting.iter().filter(|(group, _)| has_room(group));
            let (group, _) = groups.min_by_key(|(group, queue)| {
                (under_way(&group.namespace), group.is_trial, queue.front().map_or(0, |request| request.number))
            })?;
            let group = group.clone();
            let waiting = self.waiting.get_mut(&group)?;
            let next = waiting.pop_front();
            if waiting.is_empty() {
                self.waiting.remove(&group);
            }
            if let Some(request) = next.filter(|request| !request.give.is_closed()) {
                return Some((group, request.give));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn group(namespace: &str, endpoint: &str) -> RequestGroup {
        RequestGroup { namespace: namespace.into(), authority: endpoint.into(), is_trial: false }
    }

    #[tokio::test]
    async fn endpoints_that_were_down_come_after_others_and_a_full_house_has_one_place_for_each_namespace() {
        let permits = Arc::<TokenPermits>::default();
        let begun = |group| permits.acquire(group).now_or_never().flatten();
        let mut held: Vec<_> =
            (0..FOR_NAMESPACE).map(|number| begun(group("a", &format!("down{number}"))).unwrap()).collect();
        let mut trial = Box::pin(permits.acquire(RequestGroup { is_trial: true, ..group("a", "a-down") }));
        let mut other = Box::pin(permits.acquire(group("a", "idm")));
        assert!((&mut trial).now_or_never().is_none() && (&mut other).now_or_never().is_none());
        held.pop();
        assert!((&mut trial).now_or_never().is_none());
        held.push(other.now_or_never().flatten().unwrap());
        for number in held.len()..IN_ALL {
            held.push(begun(group(&format!("n{}", number / 10), &format!("e{number}"))).unwrap());
            // The runtime lets a task receive so many things only before it yields.
            tokio::task::yield_now().await;
        }
        assert!(begun(group("n25", "more")).is_none(), "it has some already");
        assert!(begun(group("new", "idm")).is_some());
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
