//! Turns at what costs CPU or memory: so many at once, a bounded number that wait, and addresses served one after another.
//!
//! A turn belongs to the work and not to the request: it is moved into the job and ends with it. Who waits and goes away gets none.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::peer::Peer;

/// Turns, and those that wait for one.
#[derive(Debug)]
pub(super) struct Turns {
    /// That may be taken at once.
    at_once: usize,
    /// That may wait, of all addresses together.
    waiting: usize,
    /// That may wait of one address.
    waiting_per_peer: usize,
    queue: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    taken: usize,
    /// Each address once, in the order in which they are served; none is empty.
    peers: VecDeque<(Peer, VecDeque<oneshot::Sender<Turn>>)>,
}

/// A turn; dropping it gives it to the next.
#[derive(Debug)]
pub(super) struct Turn(Option<Arc<Turns>>);

/// Too many wait already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Full;

impl Turns {
    pub(super) fn new(at_once: usize, waiting: usize, waiting_per_peer: usize) -> Arc<Self> {
        Arc::new(Self { at_once, waiting, waiting_per_peer, queue: Mutex::default() })
    }

    /// Waits for a turn. Dropping the future gives the place in the queue up.
    pub(super) async fn take(self: &Arc<Self>, peer: Peer) -> Result<Turn, Full> {
        let turn = {
            let mut queue = self.lock();
            if queue.taken < self.at_once {
                queue.taken += 1; // then nobody waits
                return Ok(Turn(Some(Arc::clone(self))));
            }
            queue.join(peer, self)?
        };
        turn.await.map_err(|_| Full)
    }

    /// Whether somebody waits for a turn.
    pub(super) fn are_wanted(&self) -> bool {
        let mut queue = self.lock();
        queue.forget_gone();
        !queue.peers.is_empty()
    }

    fn pass_on(self: Arc<Self>) {
        let mut queue = self.lock();
        queue.forget_gone();
        while let Some((peer, mut waiting)) = queue.peers.pop_front() {
            let next = waiting.pop_front();
            if !waiting.is_empty() {
                queue.peers.push_back((peer, waiting));
            }
            match next.map(|next| next.send(Turn(Some(Arc::clone(&self))))) {
                Some(Ok(())) => return,
                // It went away just now. This turn must not end here, where the queue is locked.
                Some(Err(mut turn)) => turn.0 = None,
                None => {}
            }
        }
        queue.taken -= 1;
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    fn forget_gone(&mut self) {
        self.peers.retain_mut(|(_, waiting)| {
            waiting.retain(|waiting| !waiting.is_closed());
            !waiting.is_empty()
        });
    }

    /// Adds one that waits. If there is no room, the newest of the address that has most of them makes it, unless that is this one's.
    fn join(&mut self, peer: Peer, bounds: &Turns) -> Result<oneshot::Receiver<Turn>, Full> {
        self.forget_gone();
        let own = self.peers.iter().position(|(other, _)| *other == peer);
        let own_length = own.and_then(|at| self.peers.get(at)).map_or(0, |(_, waiting)| waiting.len());
        if own_length >= bounds.waiting_per_peer {
            return Err(Full);
        }
        if self.peers.iter().map(|(_, waiting)| waiting.len()).sum::<usize>() >= bounds.waiting {
            let largest = self.peers.iter_mut().max_by_key(|(_, waiting)| waiting.len());
            let (_, waiting) = largest.filter(|(_, waiting)| waiting.len() > own_length + 1).ok_or(Full)?;
            waiting.pop_back(); // which tells it that all is full
        }
        let (sender, receiver) = oneshot::channel();
        match own.and_then(|at| self.peers.get_mut(at)) {
            Some((_, waiting)) => waiting.push_back(sender),
            None => self.peers.push_back((peer, VecDeque::from([sender]))),
        }
        Ok(receiver)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(turns) = self.0.take() {
            turns.pass_on();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};
    use std::pin::Pin;

    use futures::FutureExt;

    use super::*;

    type Waiting = Pin<Box<dyn Future<Output = Result<Turn, Full>>>>;

    fn peer(number: u8) -> Peer {
        Peer::from(IpAddr::from(Ipv4Addr::new(10, 0, 0, number)))
    }

    /// One that waits, as long as it is not dropped.
    fn wait(turns: &Arc<Turns>, number: u8) -> Waiting {
        let turns = Arc::clone(turns);
        let mut waiting: Waiting = Box::pin(async move { turns.take(peer(number)).await });
        assert!((&mut waiting).now_or_never().is_none(), "it has an answer already");
        waiting
    }

    fn turn(waiting: &mut Waiting) -> Option<Turn> {
        waiting.now_or_never().map(Result::unwrap)
    }

    #[test]
    fn addresses_are_served_one_after_another_however_many_wait_of_each() {
        let turns = Turns::new(1, 8, 8);
        let first = turns.take(peer(1)).now_or_never().unwrap().unwrap();
        let (mut a, mut b, mut c) = (wait(&turns, 1), wait(&turns, 1), wait(&turns, 2));
        drop(first);
        let taken = turn(&mut a).unwrap();
        assert!(turn(&mut c).is_none());
        drop(taken);
        let taken = turn(&mut c).expect("it came last, but is the first of its address");
        drop(taken);
        assert!(turn(&mut b).is_some());
    }

    #[test]
    fn who_went_away_has_no_turn_and_takes_no_room() {
        let turns = Turns::new(1, 2, 2);
        let first = turns.take(peer(1)).now_or_never().unwrap().unwrap();
        drop([wait(&turns, 1), wait(&turns, 1)]);
        let (gone, mut stays) = (wait(&turns, 1), wait(&turns, 1));
        drop(first);
        drop(gone); // the turn was with it already
        assert!(turn(&mut stays).is_some());
        drop(stays);
        assert!(!turns.are_wanted());
        assert!(turns.take(peer(3)).now_or_never().unwrap().is_ok());
    }

    #[test]
    fn whoever_fills_the_queue_makes_room_for_others_and_not_for_its_own() {
        let turns = Turns::new(1, 3, 3);
        let first = turns.take(peer(1)).now_or_never().unwrap().unwrap();
        let mut flood = [wait(&turns, 1), wait(&turns, 1), wait(&turns, 1)];
        assert_eq!(turns.take(peer(1)).now_or_never().unwrap().unwrap_err(), Full);
        let mut other = wait(&turns, 2);
        assert_eq!((&mut flood[2]).now_or_never().unwrap().unwrap_err(), Full, "the newest made room");
        assert_eq!(turns.take(peer(1)).now_or_never().unwrap().unwrap_err(), Full);
        drop(first);
        drop(turn(&mut flood[0]).unwrap());
        assert!(turn(&mut other).is_some());
    }
}
