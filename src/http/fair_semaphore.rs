//! A semaphore for work that costs CPU or memory: a fixed number of permits, a bounded queue, and clients served round robin.
//!
//! A permit belongs to the work and not to the request: it is moved into the job and released when the job ends. A request that is dropped
//! while it waits leaves the queue.

use std::collections::VecDeque;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// The unit of fairness: an IPv4 address or an IPv6 /64, since whoever has one address of a /64 usually has all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct ClientNetwork(IpAddr);

impl From<IpAddr> for ClientNetwork {
    fn from(address: IpAddr) -> Self {
        const HOST_BITS: u32 = 64;
        Self(match address.to_canonical() {
            v4 @ IpAddr::V4(_) => v4,
            IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() >> HOST_BITS << HOST_BITS).into(),
        })
    }
}

impl fmt::Display for ClientNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The bounds of a [`FairSemaphore`].
#[derive(Clone, Copy, Debug)]
pub(super) struct FairLimits {
    /// Permits that may be held at the same time.
    pub(super) permits: usize,
    /// Requests that may wait for a permit, of all clients together.
    pub(super) queued: usize,
    /// Requests that may wait for a permit, of one client.
    pub(super) queued_per_client: usize,
}

/// Permits, and the requests that wait for one.
#[derive(Debug)]
pub(super) struct FairSemaphore {
    limits: FairLimits,
    queue: Mutex<PermitQueue>,
}

#[derive(Debug, Default)]
struct PermitQueue {
    held: usize,
    /// Each client once, in the order in which they are served next; no inner queue is empty.
    clients: VecDeque<(ClientNetwork, VecDeque<oneshot::Sender<FairPermit>>)>,
}

/// A permit; dropping it hands it to the next client in the queue.
#[derive(Debug)]
pub(super) struct FairPermit(Option<Arc<FairSemaphore>>);

/// Too many requests are waiting already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct QueueFull;

impl FairSemaphore {
    pub(super) fn new(limits: FairLimits) -> Arc<Self> {
        Arc::new(Self { limits, queue: Mutex::default() })
    }

    /// Waits for a permit. Dropping the future leaves the queue.
    pub(super) async fn acquire(self: &Arc<Self>, client: ClientNetwork) -> Result<FairPermit, QueueFull> {
        let permit = {
            let mut queue = self.lock();
            if queue.held < self.limits.permits {
                queue.held += 1; // a free permit means that the queue is empty
                return Ok(FairPermit(Some(Arc::clone(self))));
            }
            queue.push(client, &self.limits)?
        };
        permit.await.map_err(|_| QueueFull)
    }

    /// Whether a request waits for a permit.
    pub(super) fn has_waiters(&self) -> bool {
        let mut queue = self.lock();
        queue.remove_cancelled();
        !queue.clients.is_empty()
    }

    fn release(self: Arc<Self>) {
        let mut queue = self.lock();
        queue.remove_cancelled();
        while let Some((client, mut waiting)) = queue.clients.pop_front() {
            let next = waiting.pop_front();
            if !waiting.is_empty() {
                queue.clients.push_back((client, waiting));
            }
            match next.map(|next| next.send(FairPermit(Some(Arc::clone(&self))))) {
                Some(Ok(())) => return,
                // The request was dropped just now. Disarm its permit, whose drop would lock the queue again.
                Some(Err(mut permit)) => permit.0 = None,
                None => {}
            }
        }
        queue.held -= 1;
    }

    fn lock(&self) -> MutexGuard<'_, PermitQueue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PermitQueue {
    fn remove_cancelled(&mut self) {
        self.clients.retain_mut(|(_, waiting)| {
            waiting.retain(|waiting| !waiting.is_closed());
            !waiting.is_empty()
        });
    }

    /// Adds a request. In a full queue it replaces the newest request of the client that has most, unless that is its own client or would
    /// then have fewer.
    fn push(&mut self, client: ClientNetwork, limits: &FairLimits) -> Result<oneshot::Receiver<FairPermit>, QueueFull> {
        self.remove_cancelled();
        let own = self.clients.iter().position(|(other, _)| *other == client);
        let own_length = own.and_then(|at| self.clients.get(at)).map_or(0, |(_, waiting)| waiting.len());
        if own_length >= limits.queued_per_client {
            return Err(QueueFull);
        }
        if self.clients.iter().map(|(_, waiting)| waiting.len()).sum::<usize>() >= limits.queued {
            let largest = self.clients.iter_mut().max_by_key(|(_, waiting)| waiting.len());
            let (_, waiting) = largest.filter(|(_, waiting)| waiting.len() > own_length + 1).ok_or(QueueFull)?;
            waiting.pop_back(); // dropping its sender is its QueueFull
        }
        let (sender, receiver) = oneshot::channel();
        match own.and_then(|at| self.clients.get_mut(at)) {
            Some((_, waiting)) => waiting.push_back(sender),
            None => self.clients.push_back((client, VecDeque::from([sender]))),
        }
        Ok(receiver)
    }
}

impl Drop for FairPermit {
    fn drop(&mut self) {
        if let Some(semaphore) = self.0.take() {
            semaphore.release();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::pin::Pin;

    use futures::FutureExt;

    use super::*;

    type PendingPermit = Pin<Box<dyn Future<Output = Result<FairPermit, QueueFull>>>>;

    fn client(number: u8) -> ClientNetwork {
        ClientNetwork::from(IpAddr::from(Ipv4Addr::new(10, 0, 0, number)))
    }

    /// One permit, and a queue of this length.
    fn semaphore(queued: usize) -> Arc<FairSemaphore> {
        FairSemaphore::new(FairLimits { permits: 1, queued, queued_per_client: queued })
    }

    fn acquire_now(semaphore: &Arc<FairSemaphore>, number: u8) -> Result<FairPermit, QueueFull> {
        semaphore.acquire(client(number)).now_or_never().expect("it is decided at once")
    }

    /// A request that waits until it is dropped.
    fn queue(semaphore: &Arc<FairSemaphore>, number: u8) -> PendingPermit {
        let semaphore = Arc::clone(semaphore);
        let mut pending: PendingPermit = Box::pin(async move { semaphore.acquire(client(number)).await });
        assert!((&mut pending).now_or_never().is_none(), "it does not wait");
        pending
    }

    fn permit(pending: &mut PendingPermit) -> Option<FairPermit> {
        pending.now_or_never().map(Result::unwrap)
    }

    #[test]
    fn clients_are_served_round_robin_however_many_requests_each_has() {
        let semaphore = semaphore(8);
        let first = acquire_now(&semaphore, 1).unwrap();
        let (mut a, mut b, mut c) = (queue(&semaphore, 1), queue(&semaphore, 1), queue(&semaphore, 2));
        drop(first);
        let held = permit(&mut a).unwrap();
        assert!(permit(&mut c).is_none());
        drop(held);
        let held = permit(&mut c).expect("it came last, but is the first of its client");
        drop(held);
        assert!(permit(&mut b).is_some());
    }

    #[test]
    fn a_dropped_request_gets_no_permit_and_takes_no_room() {
        let semaphore = semaphore(2);
        let first = acquire_now(&semaphore, 1).unwrap();
        drop([queue(&semaphore, 1), queue(&semaphore, 1)]);
        let (dropped, mut stays) = (queue(&semaphore, 1), queue(&semaphore, 1));
        drop(first);
        drop(dropped); // it had been given the permit already
        assert!(permit(&mut stays).is_some());
        drop(stays);
        assert!(!semaphore.has_waiters());
        assert!(acquire_now(&semaphore, 3).is_ok());
    }

    #[test]
    fn the_client_that_fills_the_queue_makes_room_for_others_and_not_for_itself() {
        let semaphore = semaphore(3);
        let first = acquire_now(&semaphore, 1).unwrap();
        let mut flood = [queue(&semaphore, 1), queue(&semaphore, 1), queue(&semaphore, 1)];
        assert_eq!(acquire_now(&semaphore, 1).unwrap_err(), QueueFull);
        let mut other = queue(&semaphore, 2);
        assert_eq!((&mut flood[2]).now_or_never().unwrap().unwrap_err(), QueueFull, "the newest made room");
        assert_eq!(acquire_now(&semaphore, 1).unwrap_err(), QueueFull);
        drop(first);
        drop(permit(&mut flood[0]).unwrap());
        assert!(permit(&mut other).is_some());
    }

    #[test]
    fn addresses_that_one_customer_has_are_one_network() {
        let network = |address: &str| ClientNetwork::from(address.parse::<IpAddr>().unwrap());
        assert_eq!(network("2001:db8::1"), network("2001:db8::ffff:0:0:1"));
        assert_eq!(network("::ffff:10.0.0.1"), network("10.0.0.1"));
        for (one, other) in [("10.0.0.1", "10.0.0.2"), ("2001:db8::1", "2001:db8:0:1::1")] {
            assert_ne!(network(one), network(other));
        }
    }
}
