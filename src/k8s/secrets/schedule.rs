//! When each object is read. It knows times and no values.
//!
//! Objects that were never read go first, bounded by the reads in flight only. All others share one rate limit. Each reason to read an object
//! has a lane of its own, and the lanes take turns, so that many missing objects do not delay one whose value was rotated.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use tokio::time::Instant;

use super::SecretRef;
use crate::backoff::{exponential, random};

/// From one read of an object to the next; longer where there are too many objects for the rate limit.
pub(super) const REFRESH_INTERVAL: Duration = Duration::from_secs(60);

/// From one read of a missing object or key to the next: its owner is about to create or to label it.
pub(super) const MISSING_RETRY: Duration = Duration::from_secs(10);

/// From one read of an object because of rejected credentials to the next.
pub(super) const REJECTED_INTERVAL: Duration = Duration::from_secs(30);

/// Between two reads of objects that were read before: 20 a second.
const GAP: Duration = Duration::from_millis(50);

/// The same while the API server does not answer: one read a second is enough to notice that it does again.
const UNANSWERED_GAP: Duration = Duration::from_secs(1);

/// The API server counts as unreachable after this many reads in a row without an answer.
const UNANSWERED_READS: u32 = 10;

/// The longest delay after a read without an answer.
const LONGEST_BACKOFF: Duration = Duration::from_secs(30);

/// First reads in flight, and as many others.
pub(super) const IN_FLIGHT: usize = 16;

/// Why an object is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lane {
    /// It was never read, and a target waits for it.
    First,
    /// A server rejected the credentials that it holds.
    Rejected,
    /// It is missing or could not be read, so that a target cannot be polled.
    Missing,
    /// It may have changed.
    Refresh,
}

/// The lanes that share the rate limit.
const PACED: [Lane; 3] = [Lane::Rejected, Lane::Missing, Lane::Refresh];

/// What a read says about the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReadOutcome {
    /// Every key was read.
    Complete,
    /// Something is missing that its owner may add soon.
    Missing,
    /// There was no answer; whether older values are cached.
    Unanswered { is_cached: bool },
    /// A target refers to another key since the read began.
    Incomplete,
}

/// The permission to read an object once, now.
#[derive(Debug)]
pub(super) struct ReadTicket {
    pub(super) object: SecretRef,
    serial: u64,
    lane: Lane,
}

#[derive(Debug)]
enum ReadState {
    Waiting(Lane, Instant),
    /// The serial of the ticket.
    Reading(u64),
}

#[derive(Debug)]
struct ScheduleEntry {
    state: ReadState,
    /// Reads in a row without an answer.
    failures: u32,
    /// Rejected credentials cause no read before this.
    not_rejected_before: Option<Instant>,
}

/// All objects, by when they are due.
#[derive(Debug, Default)]
pub(super) struct RefreshSchedule {
    entries: HashMap<SecretRef, ScheduleEntry>,
    /// By [`Lane`].
    lanes: [BTreeSet<(Instant, SecretRef)>; 4],
    /// The index in [`PACED`] of the lane whose turn is next.
    turn: usize,
    /// When the next paced read may start.
    next_paced: Option<Instant>,
    first_reads: usize,
    paced_reads: usize,
    serial: u64,
    /// Reads in a row, of any object, without an answer.
    unanswered: u32,
}

impl RefreshSchedule {
    /// Schedules an object ahead of all that were read before.
    pub(super) fn schedule_first(&mut self, object: &SecretRef, now: Instant) {
        match self.entries.get(object).map(|entry| &entry.state) {
            None => {
                let state = ReadState::Waiting(Lane::First, now);
                self.entries.insert(object.clone(), ScheduleEntry { state, failures: 0, not_rejected_before: None });
                self.lanes[Lane::First as usize].insert((now, object.clone()));
            }
            // A read in flight will turn out to be incomplete.
            Some(ReadState::Reading(_) | ReadState::Waiting(Lane::First, _)) => {}
            Some(ReadState::Waiting(..)) => self.put(object, Lane::First, now),
        }
    }

    /// Schedules an object whose credentials were rejected to be read soon, unless it was read for this reason a moment ago.
    pub(super) fn schedule_rejected(&mut self, object: &SecretRef, now: Instant) {
        let Some(entry) = self.entries.get(object) else { return };
        let ReadState::Waiting(Lane::Missing | Lane::Refresh, due) = entry.state else { return };
        let at = entry.not_rejected_before.map_or(now, |earliest| earliest.max(now));
        // An overdue object is read when its lane gets to it, which may be late.
        if at <= due.max(now) {
            self.put(object, Lane::Rejected, at);
        }
    }

    /// Removes an object. Its ticket becomes void.
    pub(super) fn remove(&mut self, object: &SecretRef) {
        if let Some(ScheduleEntry { state: ReadState::Waiting(lane, due), .. }) = self.entries.remove(object) {
            self.lanes[lane as usize].remove(&(due, object.clone()));
        }
    }

    /// The next read that may start now. Each ticket must be given to [`finish`](Self::finish).
    pub(super) fn next(&mut self, now: Instant) -> Option<ReadTicket> {
        if self.first_reads < IN_FLIGHT
            && let Some(object) = self.take_due(Lane::First, now)
        {
            self.first_reads += 1;
            return Some(self.ticket(object, Lane::First));
        }
        if self.paced_reads >= IN_FLIGHT || self.next_paced.is_some_and(|next| now < next) {
            return None;
        }
        for step in 0..PACED.len() {
            let turn = (self.turn + step) % PACED.len();
            let lane = PACED[turn];
            if let Some(object) = self.take_due(lane, now) {
                self.turn = (turn + 1) % PACED.len();
                self.paced_reads += 1;
                self.next_paced = Some(now + if self.unanswered < UNANSWERED_READS { GAP } else { UNANSWERED_GAP });
                if lane == Lane::Rejected
                    && let Some(entry) = self.entries.get_mut(&object)
                {
                    entry.not_rejected_before = Some(now + REJECTED_INTERVAL);
                }
                return Some(self.ticket(object, lane));
            }
        }
        None
    }

    /// When [`next`](Self::next) may have a read, unless a read ends or an object is scheduled before.
    pub(super) fn wake_at(&self) -> Option<Instant> {
        let due = |lane: Lane| self.lanes[lane as usize].first().map(|(due, _)| *due);
        let first = due(Lane::First).filter(|_| self.first_reads < IN_FLIGHT);
        let paced = PACED.into_iter().filter_map(due).min().filter(|_| self.paced_reads < IN_FLIGHT);
        let paced = paced.map(|due| self.next_paced.map_or(due, |next| next.max(due)));
        first.into_iter().chain(paced).min()
    }

    /// Takes a ticket back. Returns whether its object is still scheduled; if so, [`reschedule`](Self::reschedule) must follow.
    pub(super) fn finish(&mut self, ticket: &ReadTicket) -> bool {
        match ticket.lane {
            Lane::First => self.first_reads -= 1,
            _ => self.paced_reads -= 1,
        }
        let entry = self.entries.get(&ticket.object);
        entry.is_some_and(|entry| matches!(entry.state, ReadState::Reading(serial) if serial == ticket.serial))
    }

    /// Decides when an object is read again.
    pub(super) fn reschedule(&mut self, ticket: &ReadTicket, outcome: ReadOutcome, now: Instant) {
        let object = &ticket.object;
        let Some(entry) = self.entries.get_mut(object) else { return };
        let is_unanswered = matches!(outcome, ReadOutcome::Unanswered { .. });
        entry.failures = if is_unanswered { entry.failures.saturating_add(1) } else { 0 };
        self.unanswered = if is_unanswered { self.unanswered.saturating_add(1) } else { 0 };
        let failures = entry.failures;
        let (lane, delay) = match outcome {
            ReadOutcome::Incomplete => (Lane::First, Duration::ZERO),
            ReadOutcome::Missing => (Lane::Missing, MISSING_RETRY),
            ReadOutcome::Unanswered { is_cached } => {
                let whole = exponential(Duration::from_secs(1), LONGEST_BACKOFF, failures);
                (if is_cached { Lane::Refresh } else { Lane::Missing }, whole.mul_f64(1.0 - random() / 2.0))
            }
            // Objects that were first read together are spread over the interval.
            ReadOutcome::Complete if ticket.lane == Lane::First => (Lane::Refresh, REFRESH_INTERVAL.mul_f64(random())),
            ReadOutcome::Complete => (Lane::Refresh, REFRESH_INTERVAL),
        };
        self.put(object, lane, now + delay);
    }

    /// Moves a scheduled object to a lane.
    fn put(&mut self, object: &SecretRef, lane: Lane, due: Instant) {
        let Some(entry) = self.entries.get_mut(object) else { return };
        if let ReadState::Waiting(lane, due) = entry.state {
            self.lanes[lane as usize].remove(&(due, object.clone()));
        }
        entry.state = ReadState::Waiting(lane, due);
        self.lanes[lane as usize].insert((due, object.clone()));
    }

    fn take_due(&mut self, lane: Lane, now: Instant) -> Option<SecretRef> {
        let lane = &mut self.lanes[lane as usize];
        lane.first().is_some_and(|(due, _)| *due <= now).then(|| lane.pop_first()).flatten().map(|(_, object)| object)
    }

    fn ticket(&mut self, object: SecretRef, lane: Lane) -> ReadTicket {
        self.serial += 1;
        if let Some(entry) = self.entries.get_mut(&object) {
            entry.state = ReadState::Reading(self.serial);
        }
        ReadTicket { object, serial: self.serial, lane }
    }
}
