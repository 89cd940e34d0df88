//! How many connections are open and how many requests wait for polls, in all and per client, and which connection is closed to make room.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::connection::{ConnectionPhase, ConnectionState, now_ms};
use super::fair_semaphore::ClientNetwork;
use super::response::ResponsePermit;
use super::server::ServerLimits;

/// How often a request that waits for a poll slot checks whether another has held its slot for too long.
const SLOT_CHECK_INTERVAL: Duration = Duration::from_millis(250);

/// The open connections, and those of them that hold a poll slot. There are as many slots as connections: above the connection limit lies
/// a reserve for requests that need none.
#[derive(Debug)]
pub(super) struct ConnectionLimiter {
    table: Mutex<ConnectionTable>,
    limits: ServerLimits,
    /// Notified when a connection has ended, or has released its poll slot.
    released: Notify,
}

#[derive(Debug, Default)]
struct ConnectionTable {
    connections: HashMap<u64, ConnectionEntry>,
    clients: HashMap<ClientNetwork, ClientCounts>,
    poll_slots_held: usize,
    next_id: u64,
}

#[derive(Debug)]
struct ConnectionEntry {
    client: ClientNetwork,
    state: Arc<ConnectionState>,
    task: AbortHandle,
    holds_poll_slot: bool,
}

/// What one client has.
#[derive(Clone, Copy, Debug, Default)]
struct ClientCounts {
    connections: usize,
    poll_slots: usize,
}

impl ConnectionEntry {
    /// Whether it waits for a poll, and not for longer than a client may expect.
    fn is_protected(&self, limits: &ServerLimits, now: u64) -> bool {
        self.state.is_waiting_for_poll(limits.poll_slot_timeout, now)
    }
}

impl ConnectionTable {
    fn counts(&self, client: ClientNetwork) -> ClientCounts {
        self.clients.get(&client).copied().unwrap_or_default()
    }

    fn remove(&mut self, id: u64) {
        self.release_poll_slot(id);
        let Some(entry) = self.connections.remove(&id) else { return };
        if let Some(counts) = self.clients.get_mut(&entry.client) {
            counts.connections -= 1;
            if counts.connections == 0 {
                self.clients.remove(&entry.client);
            }
        }
    }

    fn close(&mut self, id: u64) {
        if let Some(entry) = self.connections.get(&id) {
            entry.task.abort();
        }
        self.remove(id);
    }

    fn take_poll_slot(&mut self, id: u64) {
        let Some(entry) = self.connections.get_mut(&id) else { return };
        entry.holds_poll_slot = true;
        entry.state.enter(ConnectionPhase::WaitingForPoll);
        self.poll_slots_held += 1;
        self.clients.entry(entry.client).or_default().poll_slots += 1;
    }

    fn release_poll_slot(&mut self, id: u64) {
        let Some(entry) = self.connections.get_mut(&id).filter(|entry| entry.holds_poll_slot) else { return };
        entry.holds_poll_slot = false;
        self.poll_slots_held -= 1;
        if let Some(counts) = self.clients.get_mut(&entry.client) {
            counts.poll_slots -= 1;
        }
    }

    /// The first to be closed of the connections that `may` be.
    fn first_to_evict(&self, now: u64, may: impl Fn(&ConnectionEntry) -> bool) -> Option<u64> {
        let candidates = self.connections.iter().filter(|(_, entry)| may(entry));
        candidates.max_by_key(|(_, entry)| entry.state.eviction_rank(now)).map(|(id, _)| *id)
    }

    /// The client with the highest `count`, if one more for a client that has `own` makes their shares more equal.
    fn largest_client(&self, own: usize, count: impl Fn(&ClientCounts) -> usize) -> Option<ClientNetwork> {
        let (client, most) = self.clients.iter().max_by_key(|(_, counts)| count(counts))?;
        (count(most) > own + 1).then_some(*client)
    }

    /// The connection that makes room for another of `newcomer`.
    ///
    /// An idle one, since that costs its client nothing. Else one of the client that has most, whatever it does, if this makes the shares
    /// more equal. Else one of any client that has no less than the newcomer, unless it waits for a poll and has not done so for long. So
    /// no client can close the connections of others by connecting again and again, and no client's requests occupy all places for ever.
    fn connection_to_evict(&self, newcomer: Option<ClientNetwork>, limits: &ServerLimits) -> Option<u64> {
        let now = now_ms();
        let own = newcomer.map_or(0, |client| self.counts(client).connections);
        let may = |entry: &ConnectionEntry| entry.state.is_past_grace(now) && !entry.is_protected(limits, now);
        self.first_to_evict(now, |entry| entry.state.phase() == ConnectionPhase::Idle)
            .or_else(|| {
                let largest = self.largest_client(own, |counts| counts.connections)?;
                let of_largest = |entry: &ConnectionEntry| entry.client == largest && entry.state.is_past_grace(now);
                self.first_to_evict(now, |entry| of_largest(entry) && may(entry))
                    .or_else(|| self.first_to_evict(now, of_largest))
            })
            .or_else(|| self.first_to_evict(now, |entry| may(entry) && self.counts(entry.client).connections >= own))
    }

    /// The connection whose poll slot goes to another request of `newcomer`; none if a slot is free, or every holder is protected.
    fn slot_holder_to_evict(&self, newcomer: ClientNetwork, limits: &ServerLimits) -> Option<u64> {
        let now = now_ms();
        let own = self.counts(newcomer).poll_slots;
        if own >= limits.poll_slots_per_client() {
            let is_own = |entry: &ConnectionEntry| entry.holds_poll_slot && entry.client == newcomer;
            return self.first_to_evict(now, |entry| is_own(entry) && !entry.is_protected(limits, now));
        }
        if self.poll_slots_held < limits.poll_slots() {
            return None;
        }
        let largest = self.largest_client(own, |counts| counts.poll_slots);
        largest
            .and_then(|client| self.first_to_evict(now, |entry| entry.holds_poll_slot && entry.client == client))
            .or_else(|| {
                let may = |entry: &ConnectionEntry| entry.holds_poll_slot && !entry.is_protected(limits, now);
                self.first_to_evict(now, |entry| may(entry) && self.counts(entry.client).poll_slots >= own)
            })
    }
}

impl ConnectionLimiter {
    pub(super) fn new(limits: ServerLimits) -> Arc<Self> {
        Arc::new(Self { table: Mutex::default(), limits, released: Notify::new() })
    }

    fn lock(&self) -> MutexGuard<'_, ConnectionTable> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a connection by its task. `spawn` gets the guard that the task must hold to its end.
    pub(super) fn add(
        self: &Arc<Self>,
        client: ClientNetwork,
        state: &Arc<ConnectionState>,
        spawn: impl FnOnce(ConnectionGuard) -> AbortHandle,
    ) {
        let mut table = self.lock();
        let id = table.next_id;
        table.next_id += 1;
        // The lock is held until the entry is in: a task that ends at once removes it afterwards.
        let task = spawn(ConnectionGuard { limiter: Arc::clone(self), id, client });
        let entry = ConnectionEntry { client, state: Arc::clone(state), task, holds_poll_slot: false };
        table.connections.insert(id, entry);
        table.clients.entry(client).or_default().connections += 1;
    }

    /// The number of open connections.
    pub(super) fn len(&self) -> usize {
        self.lock().connections.len()
    }

    /// Makes room for one more connection of `newcomer`, by closing others. False if there is none at the moment: every connection has only
    /// just come or waits for a poll, and the reserve is in use, too.
    pub(super) fn make_room(&self, newcomer: ClientNetwork) -> bool {
        let max = self.limits.max_connections.max(1);
        let mut table = self.lock();
        while table.connections.len() >= max {
            match table.connection_to_evict(Some(newcomer), &self.limits) {
                Some(id) => table.close(id),
                None => return table.connections.len() < max + self.limits.reserved_connections,
            }
        }
        true
    }

    /// Closes one connection, because the system is out of file descriptors or memory.
    pub(super) fn close_one(&self) {
        let mut table = self.lock();
        if let Some(id) = table.connection_to_evict(None, &self.limits) {
            table.close(id);
        }
    }

    /// Closes connections that have been slow or idle for too long.
    pub(super) fn close_overdue(&self) {
        let now = now_ms();
        self.close_where(|state| state.is_overdue(&self.limits, now));
    }

    /// Closes connections whose response holds a permit of a kind that others wait for, and whose clients do not read it fast enough.
    pub(super) fn close_slow_readers(&self, max_blocked: Duration, is_wanted: impl Fn(&ResponsePermit) -> bool) {
        let now = now_ms();
        self.close_where(|state| state.blocks_permit(max_blocked, &is_wanted, now));
    }

    /// Closes connections that are not in the middle of a request.
    pub(super) fn close_idle(&self) {
        self.close_where(|state| matches!(state.phase(), ConnectionPhase::New | ConnectionPhase::Idle));
    }

    /// Closes every connection.
    pub(super) fn close_all(&self) {
        self.close_where(|_| true);
    }

    fn close_where(&self, close: impl Fn(&ConnectionState) -> bool) {
        let mut table = self.lock();
        let closing: Vec<u64> =
            table.connections.iter().filter(|(_, entry)| close(&entry.state)).map(|(id, _)| *id).collect();
        for id in closing {
            table.close(id);
        }
    }
}

/// A connection's place in the table. The task that serves it holds this, and so removes the entry when it ends or is aborted.
#[derive(Debug)]
pub(super) struct ConnectionGuard {
    limiter: Arc<ConnectionLimiter>,
    id: u64,
    pub(super) client: ClientNetwork,
}

impl ConnectionGuard {
    /// Waits for a poll slot; `None` if that takes too long.
    pub(super) async fn acquire_poll_slot(&self) -> Option<PollSlot<'_>> {
        let acquired = async {
            let mut may_evict = true;
            let first_check = tokio::time::Instant::now() + SLOT_CHECK_INTERVAL;
            let mut check = tokio::time::interval_at(first_check, SLOT_CHECK_INTERVAL);
            loop {
                let mut released = std::pin::pin!(self.limiter.released.notified());
                released.as_mut().enable();
                if self.try_poll_slot(may_evict) {
                    return PollSlot(self);
                }
                // The search for a slot to take away visits every connection, so it is not made at each release.
                may_evict = tokio::select! {
                    () = released => false,
                    _ = check.tick() => true,
                };
            }
        };
        tokio::time::timeout(self.limiter.limits.poll_slot_timeout, acquired).await.ok()
    }

    fn try_poll_slot(&self, may_evict: bool) -> bool {
        let limits = &self.limiter.limits;
        let mut table = self.limiter.lock();
        if may_evict && let Some(id) = table.slot_holder_to_evict(self.client, limits) {
            table.close(id);
        }
        let is_free = table.poll_slots_held < limits.poll_slots()
            && table.counts(self.client).poll_slots < limits.poll_slots_per_client();
        if is_free {
            table.take_poll_slot(self.id);
        }
        is_free
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.limiter.lock().remove(self.id);
        self.limiter.released.notify_waiters();
    }
}

/// One of the slots for requests that wait for a poll.
#[derive(Debug)]
pub(super) struct PollSlot<'g>(&'g ConnectionGuard);

impl Drop for PollSlot<'_> {
    fn drop(&mut self) {
        self.0.limiter.lock().release_poll_slot(self.0.id);
        self.0.limiter.released.notify_waiters();
    }
}
