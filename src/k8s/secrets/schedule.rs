//! When each object is read. It knows times and no values.
//!
//! What was never read goes first, bounded by how many are read at a time. Everything else shares one pace, each kind of wait in its
//! own lane, and the lanes take turns: many missing objects do not keep those waiting that were rotated.

use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use tokio::time::Instant;

use super::ObjectId;

/// From one read of an object to the next; longer where there are too many of them for the pace.
pub(super) const PERIOD: Duration = Duration::from_secs(60);

/// Until what is missing is looked for again: its owner is about to create or to label it.
pub(super) const MISSING: Duration = Duration::from_secs(10);

/// Between two reads of an object that refusals caused.
pub(super) const CALM: Duration = Duration::from_secs(30);

/// Between two reads of objects that were read before: 20 a second.
const GAP: Duration = Duration::from_millis(50);

/// The same while nobody answers: one who asks is enough to notice when that ends.
const SILENT_GAP: Duration = Duration::from_secs(1);

/// So many reads without an answer, one after the other, are no accident.
const SILENT: u32 = 10;

/// The longest wait after a read without an answer, in seconds.
const LONGEST_BACKOFF: u32 = 30;

/// First reads at a time, and as many others.
pub(super) const AT_ONCE: usize = 16;

/// Why an object waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lane {
    /// It was never read: a target waits for it.
    First,
    /// A server refused what it holds.
    Refused,
    /// Nothing of use is known: a target cannot be polled.
    Lacking,
    /// It may have changed.
    Routine,
}

/// The lanes that share the pace.
const PACED: [Lane; 3] = [Lane::Refused, Lane::Lacking, Lane::Routine];

/// What a read says about the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// All is known that can be.
    Known,
    /// Something is missing that its owner may add soon.
    Missing,
    /// There was no answer; whether older values are at hand.
    Unanswered { held: bool },
    /// Another key was asked for meanwhile.
    Incomplete,
}

/// The right to read an object once, now.
#[derive(Debug)]
pub(super) struct Ticket {
    pub(super) object: ObjectId,
    serial: u64,
    lane: Lane,
}

#[derive(Debug)]
enum Place {
    Waiting(Lane, Instant),
    /// The serial of the ticket.
    Reading(u64),
}

#[derive(Debug)]
struct Entry {
    place: Place,
    /// Reads without an answer, one after the other.
    failures: u32,
    /// No refusal causes a read before this.
    calm_until: Option<Instant>,
}

/// All objects, by when they are due.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    entries: HashMap<ObjectId, Entry>,
    /// By [`Lane`].
    lanes: [BTreeSet<(Instant, ObjectId)>; 4],
    /// The index in [`PACED`] of the lane whose turn is next.
    turn: usize,
    /// When the next paced read may start.
    next_paced: Option<Instant>,
    first_reads: usize,
    paced_reads: usize,
    serial: u64,
    /// Reads of any object without an answer, one after the other.
    silence: u32,
    random: RandomState,
}

impl Schedule {
    /// Has an object read before all that were read before.
    pub(super) fn read_first(&mut self, object: &ObjectId, now: Instant) {
        match self.entries.get(object).map(|entry| &entry.place) {
            None => {
                let place = Place::Waiting(Lane::First, now);
                self.entries.insert(object.clone(), Entry { place, failures: 0, calm_until: None });
                self.lanes[Lane::First as usize].insert((now, object.clone()));
            }
            // A read that runs will turn out to be incomplete.
            Some(Place::Reading(_) | Place::Waiting(Lane::First, _)) => {}
            Some(Place::Waiting(..)) => self.put(object, Lane::First, now),
        }
    }

    /// Has an object read soon, unless a refusal had it read a moment ago.
    pub(super) fn read_refused(&mut self, object: &ObjectId, now: Instant) {
        let Some(entry) = self.entries.get(object) else { return };
        let Place::Waiting(Lane::Lacking | Lane::Routine, due) = entry.place else { return };
        let at = entry.calm_until.map_or(now, |calm| calm.max(now));
        // What is overdue is not due at its time, but when its lane comes to it.
        if at <= due.max(now) {
            self.put(object, Lane::Refused, at);
        }
    }

    /// Forgets an object; a ticket for it is worth nothing any more.
    pub(super) fn remove(&mut self, object: &ObjectId) {
        if let Some(Entry { place: Place::Waiting(lane, due), .. }) = self.entries.remove(object) {
            self.lanes[lane as usize].remove(&(due, object.clone()));
        }
    }

    /// What may be read now. Each ticket must be given back by [`ends`](Self::ends).
    pub(super) fn next(&mut self, now: Instant) -> Option<Ticket> {
        if self.first_reads < AT_ONCE
            && let Some(object) = self.take_due(Lane::First, now)
        {
            self.first_reads += 1;
            return Some(self.ticket(object, Lane::First));
        }
        if self.paced_reads >= AT_ONCE || self.next_paced.is_some_and(|next| now < next) {
            return None;
        }
        for step in 0..PACED.len() {
            let turn = (self.turn + step) % PACED.len();
            let lane = PACED[turn];
            if let Some(object) = self.take_due(lane, now) {
                self.turn = (turn + 1) % PACED.len();
                self.paced_reads += 1;
                self.next_paced = Some(now + if self.silence < SILENT { GAP } else { SILENT_GAP });
                if lane == Lane::Refused
                    && let Some(entry) = self.entries.get_mut(&object)
                {
                    entry.calm_until = Some(now + CALM);
                }
                return Some(self.ticket(object, lane));
            }
        }
        None
    }

    /// When [`next`](Self::next) may have something, if nothing happens before. The end of a read is something that happens.
    pub(super) fn wake(&self) -> Option<Instant> {
        let due = |lane: Lane| self.lanes[lane as usize].first().map(|(due, _)| *due);
        let first = due(Lane::First).filter(|_| self.first_reads < AT_ONCE);
        let paced = PACED.into_iter().filter_map(due).min().filter(|_| self.paced_reads < AT_ONCE);
        let paced = paced.map(|due| self.next_paced.map_or(due, |next| next.max(due)));
        first.into_iter().chain(paced).min()
    }

    /// Takes a ticket back. Returns whether its object is still the same; if so, [`again`](Self::again) must follow.
    pub(super) fn ends(&mut self, ticket: &Ticket) -> bool {
        match ticket.lane {
            Lane::First => self.first_reads -= 1,
            _ => self.paced_reads -= 1,
        }
        let entry = self.entries.get(&ticket.object);
        entry.is_some_and(|entry| matches!(entry.place, Place::Reading(serial) if serial == ticket.serial))
    }

    /// Decides when an object is read again, by what the read that just ended has brought.
    pub(super) fn again(&mut self, ticket: &Ticket, verdict: Verdict, now: Instant) {
        let object = &ticket.object;
        let Some(entry) = self.entries.get_mut(object) else { return };
        let unanswered = matches!(verdict, Verdict::Unanswered { .. });
        entry.failures = if unanswered { entry.failures.saturating_add(1) } else { 0 };
        self.silence = if unanswered { self.silence.saturating_add(1) } else { 0 };
        let failures = entry.failures;
        let (lane, wait) = match verdict {
            Verdict::Incomplete => (Lane::First, Duration::ZERO),
            Verdict::Missing => (Lane::Lacking, MISSING),
            Verdict::Unanswered { held } => {
                let longest =
                    1_u32.checked_shl(failures).map_or(LONGEST_BACKOFF, |seconds| seconds.min(LONGEST_BACKOFF));
                let wait = Duration::from_secs(longest.into()).mul_f64(0.5 + self.fraction(object, failures) / 2.0);
                (if held { Lane::Routine } else { Lane::Lacking }, wait)
            }
            // What was first read together would for ever be read together.
            Verdict::Known if ticket.lane == Lane::First => {
                (Lane::Routine, PERIOD.mul_f64(self.fraction(object, failures)))
            }
            Verdict::Known => (Lane::Routine, PERIOD),
        };
        self.put(object, lane, now + wait);
    }

    /// A number from 0 to 1 that differs between objects, between replicas, and from one failure to the next.
    fn fraction(&self, object: &ObjectId, failures: u32) -> f64 {
        let hash = u32::try_from(self.random.hash_one((object, failures)) >> 32).unwrap_or_default();
        f64::from(hash) / f64::from(u32::MAX)
    }

    /// Moves an object that is known to where it waits now.
    fn put(&mut self, object: &ObjectId, lane: Lane, due: Instant) {
        let Some(entry) = self.entries.get_mut(object) else { return };
        if let Place::Waiting(lane, due) = entry.place {
            self.lanes[lane as usize].remove(&(due, object.clone()));
        }
        entry.place = Place::Waiting(lane, due);
        self.lanes[lane as usize].insert((due, object.clone()));
    }

    fn take_due(&mut self, lane: Lane, now: Instant) -> Option<ObjectId> {
        let lane = &mut self.lanes[lane as usize];
        lane.first().is_some_and(|(due, _)| *due <= now).then(|| lane.pop_first()).flatten().map(|(_, object)| object)
    }

    fn ticket(&mut self, object: ObjectId, lane: Lane) -> Ticket {
        self.serial += 1;
        if let Some(entry) = self.entries.get_mut(&object) {
            entry.place = Place::Reading(self.serial);
        }
        Ticket { object, serial: self.serial, lane }
    }
}
