//! Who holds how much of the budget, who waits, and who must go: only the decisions. It has neither clock nor tasks of its own, so
//! that a test can play any order of events.
//!
//! Three rules, in this order:
//!
//! * **In all.** Never more is granted than there is.
//! * **Between namespaces.** Who asks may take from a namespace that holds more than its own would then, and more than a fair share
//!   (all there is, divided by the namespaces that hold or wait); of these from the one that holds most. So a namespace within its
//!   share never loses anything, and one alone may use all that is free.
//! * **In a namespace.** Who asks may take from those that have been without progress for longer than itself, the longest first.
//!
//! A poll makes progress when an eighth of what it holds has come since it last did. A server that drips makes none; one that wants
//! to look busy must send ever more, until its body is too large.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// A poll without progress for less than this keeps what it holds, unless one of its own namespace asks for very little: where many
/// honest targets together need too much, they shall take turns rather than drive each other out.
const GRACE: Duration = Duration::from_millis(250);

/// Compared with a poll that holds as many times more, one asks for very little.
const VERY_LITTLE: usize = 8;

/// The part of what a poll holds that must come anew to count as progress: one in so many bytes.
pub(super) const PROGRESS: usize = 8;

/// Namespaces whose turn is looked at together; the others come once these have got something. Bounds the work of one event.
const TURNS: usize = 16;

/// Polls of a namespace that are looked at when it is its turn, until something helps one. The first cannot be helped if it is itself
/// the one that has been without progress for longest.
const TRIED: usize = 4;

/// A poll, by the order in which they first asked.
pub(super) type Id = u64;

/// What a poll is told.
#[derive(Debug, Default)]
pub(super) struct Signal {
    /// It has got what it waits for.
    pub(super) granted: Notify,
    /// It must give up all it holds.
    pub(super) evicted: CancellationToken,
}

#[derive(Debug)]
struct Poll {
    namespace: Arc<str>,
    held: usize,
    /// When it last made progress.
    progress: Instant,
    /// What has come since.
    came: usize,
    state: State,
    signal: Arc<Signal>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// It waits for its server.
    Reading,
    /// It waits for memory: for so much in all, in this place of the queue.
    Waiting { total: usize, place: u64 },
    /// It was told to go.
    Going,
    /// Its answers are being translated.
    Done,
}

#[derive(Debug, Default)]
struct Namespace {
    /// Without what those hold that were told to go.
    held: usize,
    polls: usize,
    /// Those that can be told to go, the longest without progress first.
    evictable: BTreeSet<(Instant, Id)>,
    /// Those that wait: who wants least first, else who came first.
    queue: BTreeSet<(usize, u64, Id)>,
}

/// The books.
#[derive(Debug)]
pub(super) struct Ledger {
    total: usize,
    free: usize,
    /// Held by those that were told to go: free in a moment.
    going: usize,
    last: u64,
    polls: HashMap<Id, Poll>,
    namespaces: HashMap<Arc<str>, Namespace>,
    /// Each namespace by what it holds.
    by_held: BTreeSet<(usize, Arc<str>)>,
    /// Those of them in which somebody waits.
    by_held_waiting: BTreeSet<(usize, Arc<str>)>,
}

impl Ledger {
    pub(super) fn new(total: usize) -> Self {
        Self {
            total,
            free: total,
            going: 0,
            last: 0,
            polls: HashMap::new(),
            namespaces: HashMap::new(),
            by_held: BTreeSet::new(),
            by_held_waiting: BTreeSet::new(),
        }
    }

    /// Whether nothing is held and nobody is known.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        let lists = self.by_held.len() + self.by_held_waiting.len() + self.namespaces.len() + self.polls.len();
        (self.free, self.going, lists) == (self.total, 0, 0)
    }

    fn number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// A poll that holds nothing yet.
    pub(super) fn enter(&mut self, namespace: &Arc<str>, signal: Arc<Signal>, now: Instant) -> Id {
        let id = self.number();
        let state = State::Reading;
        self.polls
            .insert(id, Poll { namespace: Arc::clone(namespace), held: 0, progress: now, came: 0, state, signal });
        self.change(namespace, |namespace| namespace.polls += 1);
        id
    }

    /// A poll wants to hold `total` from now on, more or less than before. Returns whether it does: else it waits, and is told.
    ///
    /// One that wants more than there is gets all there is: a single body may be as large as the budget.
    pub(super) fn ask(&mut self, id: Id, total: usize, now: Instant) -> bool {
        let total = total.min(self.total);
        let Some(poll) = self.polls.get(&id) else { return false };
        if poll.state != State::Reading {
            return poll.state == State::Done || total <= poll.held;
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
        self.set_state(id, State::Waiting { total, place });
        self.settle(now);
        self.polls.get(&id).is_some_and(|poll| poll.state == State::Reading)
    }

    /// So much has come for a poll.
    pub(super) fn came(&mut self, id: Id, bytes: usize, now: Instant) {
        let Some(poll) = self.polls.get_mut(&id) else { return };
        poll.came += bytes;
        if poll.came >= poll.held / PROGRESS {
            self.progressed(id, now);
        }
    }

    fn progressed(&mut self, id: Id, now: Instant) {
        let Some(state) = self.polls.get(&id).map(|poll| poll.state) else { return };
        // Taken out of the order and put into it again, which is by progress.
        self.set_state(id, State::Done);
        if let Some(poll) = self.polls.get_mut(&id) {
            (poll.came, poll.progress) = (0, now);
        }
        self.set_state(id, state);
    }

    /// A poll goes on to hold `total`, if that is less than it holds.
    pub(super) fn shrink(&mut self, id: Id, total: usize, now: Instant) {
        if self.polls.get(&id).is_some_and(|poll| poll.state != State::Going && total < poll.held) {
            self.hold(id, total);
            self.settle(now);
        }
    }

    /// The answers of a poll are used now. It will soon have ended, and is not told to go any more. False if it was.
    pub(super) fn done(&mut self, id: Id, now: Instant) -> bool {
        if self.polls.get(&id).is_none_or(|poll| poll.state == State::Going) {
            return false;
        }
        self.set_state(id, State::Done);
        self.settle(now);
        true
    }

    /// A poll has ended: it holds nothing any more.
    pub(super) fn leave(&mut self, id: Id, now: Instant) {
        self.hold(id, 0);
        self.set_state(id, State::Done);
        let Some(poll) = self.polls.remove(&id) else { return };
        self.change(&poll.namespace, |namespace| namespace.polls -= 1);
        self.settle(now);
    }

    /// Grants what can be granted, and tells polls to go where that helps. For whoever waits time alone may change something.
    pub(super) fn settle(&mut self, now: Instant) {
        while self.settle_one(now) {}
    }

    /// Looks at those whose turn it is. Returns whether one was granted what it waits for: then it may be the turn of others.
    fn settle_one(&mut self, now: Instant) -> bool {
        let turns: Vec<Vec<(usize, Id)>> = self
            .by_held_waiting
            .iter()
            .take(TURNS)
            .filter_map(|(_, name)| self.namespaces.get(name))
            .map(|namespace| namespace.queue.iter().take(TRIED).map(|&(total, _, id)| (total, id)).collect())
            .collect();
        // Promised to those before, and not there yet.
        let mut promised = 0;
        for namespace in turns {
            for (total, id) in namespace {
                let more = total - self.polls.get(&id).map_or(0, |poll| poll.held);
                while self.free + self.going < promised + more {
                    let Some(victim) = self.victim(id, total, more, now) else { break };
                    self.evict(victim);
                }
                let waits = self.polls.get(&id).is_some_and(|poll| matches!(poll.state, State::Waiting { .. }));
                if !waits || self.free + self.going < promised + more {
                    continue; // nothing helps it now, but it may itself be who has to go
                }
                if more <= self.free {
                    self.set_state(id, State::Reading);
                    self.hold(id, total);
                    self.progressed(id, now); // that it had to wait is not its server's fault
                    if let Some(poll) = self.polls.get(&id) {
                        poll.signal.granted.notify_one();
                    }
                    return true;
                }
                promised += more;
                break;
            }
        }
        false
    }

    /// Who has to go first so that `id` gets `more`, which makes `total`.
    fn victim(&self, id: Id, total: usize, more: usize, now: Instant) -> Option<Id> {
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

    fn evict(&mut self, id: Id) {
        self.set_state(id, State::Going);
        if let Some(poll) = self.polls.get(&id) {
            poll.signal.evicted.cancel();
        }
    }

    /// Books `held` for a poll.
    fn hold(&mut self, id: Id, held: usize) {
        let Some(poll) = self.polls.get(&id) else { return };
        let (before, state) = (poll.held, poll.state);
        // Out of the sums with the old number, and in with the new one.
        self.set_state(id, State::Done);
        let Some(poll) = self.polls.get_mut(&id) else { return };
        poll.held = held;
        let namespace = Arc::clone(&poll.namespace);
        self.free = self.free + before - held;
        self.change(&namespace, |namespace| namespace.held = namespace.held + held - before);
        self.set_state(id, state);
    }

    /// Moves a poll from one state to another, in every list that it is in because of it.
    fn set_state(&mut self, id: Id, state: State) {
        let Some(poll) = self.polls.get_mut(&id) else { return };
        let before = std::mem::replace(&mut poll.state, state);
        let (held, key, name) = (poll.held, (poll.progress, id), Arc::clone(&poll.namespace));
        if before == State::Going {
            self.going -= held;
        }
        if state == State::Going {
            self.going += held;
        }
        self.change(&name, |namespace| {
            match before {
                State::Waiting { total, place } => _ = namespace.queue.remove(&(total, place, id)),
                State::Going => namespace.held += held,
                State::Reading | State::Done => {}
            }
            match state {
                State::Waiting { total, place } => _ = namespace.queue.insert((total, place, id)),
                State::Going => namespace.held -= held,
                State::Reading | State::Done => {}
            }
            // Who holds nothing has nothing to give.
            if held > 0 && matches!(state, State::Reading | State::Waiting { .. }) {
                namespace.evictable.insert(key);
            } else {
                namespace.evictable.remove(&key);
            }
        });
    }

    /// Changes a namespace, and its place among the others.
    fn change(&mut self, name: &Arc<str>, change: impl FnOnce(&mut Namespace)) {
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
