//! Which poll holds how much of the budget, which waits, and which is evicted: only the decisions. It has neither clock nor tasks, so that
//! a test can play any order of events.
//!
//! Three rules, in this order:
//!
//! * **Total.** Never more is granted than there is.
//! * **Between namespaces.** A request may evict from a namespace that holds more than its own would then, and more than a fair share (the
//!   total, divided by the namespaces that hold or wait); if there are several, from the one that holds most. So a namespace within its share
//!   never loses anything, and a single one may use all that is free.
//! * **In a namespace.** A request may evict polls that have been without progress for longer than its own, the longest first.
//!
//! A poll makes progress when an eighth of what it holds has been received since the last time. A server that sends single bytes makes
//! none; one that wants to look busy must send ever more, until its body is too large.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// A poll without progress for less than this is not evicted, unless one of its own namespace requests very little: many honest targets
/// that together need too much must take turns rather than evict each other.
const GRACE: Duration = Duration::from_millis(250);

/// A request is very little for a poll that holds this many times as much.
const VERY_LITTLE: usize = 8;

/// The part of what a poll holds that must be received to count as progress: one in this many bytes.
pub(super) const PROGRESS: usize = 8;

/// The number of waiting namespaces that are examined at an event; the others follow when these have been granted something.
const MAX_NAMESPACES: usize = 16;

/// The number of waiting polls of a namespace that are examined, until one can be granted its request. The first cannot if it is itself the
/// one that has been without progress for longest.
const MAX_POLLS: usize = 4;

/// A poll, numbered by its first request.
pub(super) type PollId = u64;

/// How a poll is notified.
#[derive(Debug, Default)]
pub(super) struct PollSignals {
    /// It has been granted its request.
    pub(super) granted: Notify,
    /// It must give up all it holds.
    pub(super) evicted: CancellationToken,
}

#[derive(Debug)]
struct PollEntry {
    namespace: Arc<str>,
    held: usize,
    /// When it last made progress.
    progress: Instant,
    /// What has been received since.
    received: usize,
    state: EntryState,
    signals: Arc<PollSignals>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum EntryState {
    /// It waits for its server.
    Reading,
    /// It waits for memory, until it holds `total`.
    Waiting { total: usize, place: u64 },
    /// It has been evicted, and will soon give up what it holds.
    Evicted,
    /// Its answers are being translated.
    Pinned,
}

#[derive(Debug, Default)]
struct NamespaceEntry {
    /// Without what evicted polls hold.
    held: usize,
    polls: usize,
    /// Polls that can be evicted, the longest without progress first.
    evictable: BTreeSet<(Instant, PollId)>,
    /// Polls that wait: the smallest request first, else the oldest.
    queue: BTreeSet<(usize, u64, PollId)>,
}

/// The state of the budget.
#[derive(Debug)]
pub(super) struct BudgetState {
    total: usize,
    free: usize,
    /// Held by evicted polls: free in a moment.
    evicted: usize,
    last_number: u64,
    polls: HashMap<PollId, PollEntry>,
    namespaces: HashMap<Arc<str>, NamespaceEntry>,
    /// Each namespace by what it holds.
    by_held: BTreeSet<(usize, Arc<str>)>,
    /// Those of them in which a poll waits.
    by_held_waiting: BTreeSet<(usize, Arc<str>)>,
}

impl BudgetState {
    pub(super) fn new(total: usize) -> Self {
        Self {
            total,
            free: total,
            evicted: 0,
            last_number: 0,
            polls: HashMap::new(),
            namespaces: HashMap::new(),
            by_held: BTreeSet::new(),
            by_held_waiting: BTreeSet::new(),
        }
    }

    /// Whether nothing is held and no poll is known.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        let lists = self.by_held.len() + self.by_held_waiting.len() + self.namespaces.len() + self.polls.len();
        (self.free, self.evicted, lists) == (self.total, 0, 0)
    }

    fn number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    /// Adds a poll that holds nothing yet.
    pub(super) fn enter(&mut self, namespace: &Arc<str>, signals: Arc<PollSignals>, now: Instant) -> PollId {
        let id = self.number();
        let state = EntryState::Reading;
        self.polls.insert(
            id,
            PollEntry { namespace: Arc::clone(namespace), held: 0, progress: now, received: 0, state, signals },
        );
        self.change(namespace, |namespace| namespace.polls += 1);
        id
    }

    /// Requests that a poll holds `total`, more or less than before. Returns whether it does; else it waits, and is notified.
    ///
    /// A request for more than the total gets the total: a single body may be as large as the budget.
    pub(super) fn request(&mut self, id: PollId, total: usize, now: Instant) -> bool {
        let total = total.min(self.total);
        let Some(poll) = self.polls.get(&id) else { return false };
        if poll.state != EntryState::Reading {
            return poll.state == EntryState::Pinned || total <= poll.held;
        }
        if total <= poll.held {
            if total < poll.held {
                self.hold(id, total);
                self.settle(now);
            }
            return true;
        }
        let more = total - poll.held;
        if more <= self.free && self.by_held_waiting.is_empty() {
            self.hold(id, total);
            return true;
        }
        let place = self.number();
        self.set_state(id, EntryState::Waiting { total, place });
        self.settle(now);
        self.polls.get(&id).is_some_and(|poll| poll.state == EntryState::Reading)
    }

    /// Notes that a poll has received `bytes`.
    pub(super) fn received(&mut self, id: PollId, bytes: usize, now: Instant) {
        let Some(poll) = self.polls.get_mut(&id) else { return };
        poll.received += bytes;
        if poll.received >= poll.held / PROGRESS {
            self.progressed(id, now);
        }
    }

    fn progressed(&mut self, id: PollId, now: Instant) {
        let Some(state) = self.polls.get(&id).map(|poll| poll.state) else { return };
        // Removed from the order by progress, and inserted again.
        self.set_state(id, EntryState::Pinned);
        if let Some(poll) = self.polls.get_mut(&id) {
            (poll.received, poll.progress) = (0, now);
        }
        self.set_state(id, state);
    }

    /// Reduces what a poll holds to `total`.
    pub(super) fn shrink(&mut self, id: PollId, total: usize, now: Instant) {
        if self.polls.get(&id).is_some_and(|poll| poll.state != EntryState::Evicted && total < poll.held) {
            self.hold(id, total);
            self.settle(now);
        }
    }

    /// Notes that the answers of a poll are being translated: it will end soon, and is not evicted any more. Returns false if it was.
    pub(super) fn pin(&mut self, id: PollId, now: Instant) -> bool {
        if self.polls.get(&id).is_none_or(|poll| poll.state == EntryState::Evicted) {
            return false;
        }
        self.set_state(id, EntryState::Pinned);
        self.settle(now);
        true
    }

    /// Removes a poll that has ended.
    pub(super) fn leave(&mut self, id: PollId, now: Instant) {
        self.hold(id, 0);
        self.set_state(id, EntryState::Pinned);
        let Some(poll) = self.polls.remove(&id) else { return };
        self.change(&poll.namespace, |namespace| namespace.polls -= 1);
        self.settle(now);
    }

    /// Grants what can be granted, and evicts polls where that helps. For polls that wait, the time alone may change something.
    pub(super) fn settle(&mut self, now: Instant) {
        while self.settle_one(now) {}
    }

    /// Examines the first polls that wait. Returns whether one was granted its request: then others may be granted theirs.
    fn settle_one(&mut self, now: Instant) -> bool {
        let waiting: Vec<Vec<(usize, PollId)>> = self
            .by_held_waiting
            .iter()
            .take(MAX_NAMESPACES)
            .filter_map(|(_, name)| self.namespaces.get(name))
            .map(|namespace| namespace.queue.iter().take(MAX_POLLS).map(|&(total, _, id)| (total, id)).collect())
            .collect();
        // Reserved for polls before, and not free yet.
        let mut reserved = 0;
        for namespace in waiting {
            for (total, id) in namespace {
                let more = total - self.polls.get(&id).map_or(0, |poll| poll.held);
                while self.free + self.evicted < reserved + more {
                    let Some(victim) = self.victim(id, total, more, now) else { break };
                    self.evict(victim);
                }
                let waits = self.polls.get(&id).is_some_and(|poll| matches!(poll.state, EntryState::Waiting { .. }));
                if !waits || self.free + self.evicted < reserved + more {
                    continue; // not possible now, but it may be evicted itself
                }
                if more <= self.free {
                    self.set_state(id, EntryState::Reading);
                    self.hold(id, total);
                    self.progressed(id, now); // its server is not to blame for the wait
                    if let Some(poll) = self.polls.get(&id) {
                        poll.signals.granted.notify_one();
                    }
                    return true;
                }
                reserved += more;
                break;
            }
        }
        false
    }

    /// The poll to evict first so that `id` gets `more`, which makes `total`.
    fn victim(&self, id: PollId, total: usize, more: usize, now: Instant) -> Option<PollId> {
        let asking = self.polls.get(&id)?;
        let own = self.namespaces.get(&asking.namespace)?;
        let share = self.total / self.namespaces.len().max(1);
        let over = |held: &usize| *held > share && *held > own.held + more;
        let others = self.by_held.iter().rev().take_while(|(held, _)| over(held));
        let mut others = others.filter(|(_, name)| *name != asking.namespace);
        let stalest = others.find_map(|(_, name)| self.namespaces.get(name)?.evictable.first());
        if let Some((_, victim)) = stalest {
            return Some(*victim);
        }
        let (progress, victim) = *own.evictable.first()?;
        let staler = victim != id && (progress, victim) < (asking.progress, id);
        let given_time = now.saturating_duration_since(progress) >= GRACE;
        let large = || self.polls.get(&victim).is_some_and(|poll| poll.held >= total.saturating_mul(VERY_LITTLE));
        (staler && (given_time || large())).then_some(victim)
    }

    fn evict(&mut self, id: PollId) {
        self.set_state(id, EntryState::Evicted);
        if let Some(poll) = self.polls.get(&id) {
            poll.signals.evicted.cancel();
        }
    }

    /// Sets what a poll holds.
    fn hold(&mut self, id: PollId, held: usize) {
        let Some(poll) = self.polls.get(&id) else { return };
        let (before, state) = (poll.held, poll.state);
        // Removed from the sums with the old number, and added with the new one.
        self.set_state(id, EntryState::Pinned);
        let Some(poll) = self.polls.get_mut(&id) else { return };
        poll.held = held;
        let namespace = Arc::clone(&poll.namespace);
        self.free = self.free + before - held;
        self.change(&namespace, |namespace| namespace.held = namespace.held + held - before);
        self.set_state(id, state);
    }

    /// Changes the state of a poll, and every list that depends on it.
    fn set_state(&mut self, id: PollId, state: EntryState) {
        let Some(poll) = self.polls.get_mut(&id) else { return };
        let before = std::mem::replace(&mut poll.state, state);
        let (held, key, name) = (poll.held, (poll.progress, id), Arc::clone(&poll.namespace));
        if before == EntryState::Evicted {
            self.evicted -= held;
        }
        if state == EntryState::Evicted {
            self.evicted += held;
        }
        self.change(&name, |namespace| {
            match before {
                EntryState::Waiting { total, place } => _ = namespace.queue.remove(&(total, place, id)),
                EntryState::Evicted => namespace.held += held,
                EntryState::Reading | EntryState::Pinned => {}
            }
            match state {
                EntryState::Waiting { total, place } => _ = namespace.queue.insert((total, place, id)),
                EntryState::Evicted => namespace.held -= held,
                EntryState::Reading | EntryState::Pinned => {}
            }
            // A poll that holds nothing need not be evicted.
            if held > 0 && matches!(state, EntryState::Reading | EntryState::Waiting { .. }) {
                namespace.evictable.insert(key);
            } else {
                namespace.evictable.remove(&key);
            }
        });
    }

    /// Changes a namespace, and its position among the others.
    fn change(&mut self, name: &Arc<str>, change: impl FnOnce(&mut NamespaceEntry)) {
        let namespace = self.namespaces.entry(Arc::clone(name)).or_default();
        let mut key = (namespace.held, Arc::clone(name));
        let waited = !namespace.queue.is_empty();
        change(namespace);
        let (held, waits, polls) = (namespace.held, !namespace.queue.is_empty(), namespace.polls);
        if polls == 0 {
            self.namespaces.remove(name);
        }
        if key.0 != held || polls == 0 {
            self.by_held.remove(&key);
        }
        if waited && (key.0 != held || !waits) {
            self.by_held_waiting.remove(&key);
        }
        key.0 = held;
        if polls > 0 {
            if waits {
                self.by_held_waiting.insert(key.clone());
            }
            self.by_held.insert(key);
        }
    }
}
