//! What a leader remembers of each target: since when it watches it, and when its status may be written next.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::super::WRITES_PER_SECOND;
use super::super::access::ApiError;
use super::super::catalog::Object;
use super::super::failing::Failing;
use super::conditions;
use crate::crd::ScrapeTargetStatus;
use crate::target::TargetId;

/// A flapping server is worth one write in this time.
const CALM: Duration = Duration::from_secs(10);

/// Somebody else writes it as well, and neither can win: each time it is put right again, it is left alone for twice as long, up to this.
const LONGEST_CALM: Duration = Duration::from_secs(600);

/// Who put it right by hand has done so once or twice.
const CONTESTED: u32 = 3;

/// Two exporters for the same targets are one mistake: some of the targets are enough to show it.
const MOST_TOLD: usize = 10;

/// What a user waits for comes sooner: the answer to a change of the spec, and what was still open.
const NEWS: Duration = Duration::from_secs(1);

/// So long the first poll and the first monitor are waited for, so that one write says everything.
const SETTLE: Duration = Duration::from_secs(1);

/// Where many targets appear together, they wait for each other's monitors and statuses, two writes each.
const QUEUE_TIME: Duration = Duration::from_millis(2_000 / WRITES_PER_SECOND as u64);

/// But a user must not wait for ever to see that something is done.
const LONGEST_SETTLE: Duration = Duration::from_secs(240);

/// A missing permission is given by people, and a missing kind is installed by people.
const DENIED: Duration = Duration::from_secs(60);

/// What is refused would be refused again; only an admission webhook or the CRD can change that.
const REFUSED: Duration = Duration::from_secs(300);

/// After a failure that may be this one target's. The pause for all targets is another matter.
const SHORTEST_RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_secs(30);

/// All of them, for as long as this replica leads.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    entries: HashMap<TargetId, Entry>,
    /// Namespaces in which we may not write, and until when that is not tried again.
    denied: HashMap<Arc<str>, Instant>,
    /// Targets of which it was told that somebody else writes their status.
    told: HashSet<TargetId>,
    /// Targets whose writes the API server fails at.
    failing: Failing<TargetId>,
}

/// What is to be told of a target after a write, once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// The status of this generation was refused.
    Refused,
    /// The API server fails at it, and did not before.
    Failed,
    /// Somebody else changes it again and again.
    Contested,
}

#[derive(Debug)]
struct Entry {
    uid: Arc<str>,
    generation: i64,
    /// Since when this generation is known to us as the leader.
    since: Instant,
    /// Since when something is open that should be known soon.
    open: Option<Instant>,
    /// When its status was last sent.
    sent: Option<Instant>,
    /// The gist of what was last written.
    said: Option<u64>,
    /// How often that had to be written again, in a row.
    repeats: u32,
    /// Until when it is not sent again, since it was not taken.
    barred: Option<Instant>,
    refused: bool,
    /// Failures since the last success that may pass.
    failures: u32,
    in_flight: bool,
}

impl Entry {
    /// How long what was written is left alone, whatever others make of it.
    fn calm(&self) -> Duration {
        CALM.saturating_mul(2_u32.saturating_pow(self.repeats)).min(LONGEST_CALM)
    }
}

impl Ledger {
    /// Since when the object is watched, as it stands now.
    pub(super) fn since(&mut self, object: &Object, now: Instant) -> Instant {
        self.entry(object, now).since
    }

    fn entry(&mut self, object: &Object, now: Instant) -> &mut Entry {
        let new = |in_flight, sent| Entry {
            uid: Arc::clone(&object.uid),
            generation: object.generation,
            since: now,
            open: None,
            sent,
            said: None,
            repeats: 0,
            barred: None,
            refused: false,
            failures: 0,
            in_flight,
        };
        let entry = self.entries.entry(object.id.clone()).or_insert_with(|| new(false, None));
        if entry.uid != object.uid || entry.generation != object.generation {
            *entry = new(entry.in_flight, entry.sent);
        }
        entry
    }

    /// When `wanted` may be written, while `others` wait too; `None`: a write is on its way, and another look follows it.
    pub(super) fn earliest(
        &mut self,
        object: &Object,
        wanted: &ScrapeTargetStatus,
        others: usize,
        now: Instant,
    ) -> Option<Instant> {
        let denied = self.denied.get(&object.id.namespace).copied();
        let entry = self.entry(object, now);
        if entry.in_flight {
            return None;
        }
        let observed = &object.status;
        let news =
            observed.observed_generation != wanted.observed_generation || conditions::tells_more(wanted, observed);
        let calm = match () {
            () if entry.said == Some(conditions::gist(wanted)) => entry.calm(),
            () if news => NEWS,
            () => CALM,
        };
        let calm = entry.sent.map(|sent| sent + calm);
        entry.open = conditions::is_pending(wanted).then(|| entry.open.unwrap_or(now));
        let others = u32::try_from(others).unwrap_or(u32::MAX);
        let settle = QUEUE_TIME.saturating_mul(others).saturating_add(SETTLE).min(LONGEST_SETTLE);
        let settled = entry.open.map(|open| open + settle);
        let barred = entry.barred;
        let failing = self.failing.until(&object.id, &object.id.namespace, of_generation(object.generation), now);
        Some([calm, settled, barred, denied, failing].into_iter().flatten().fold(now, Instant::max))
    }

    /// A write is on its way.
    pub(super) fn begin(&mut self, id: &TargetId) {
        if let Some(entry) = self.entries.get_mut(id) {
            entry.in_flight = true;
            self.failing.begin(id);
        }
    }

    /// It has ended without anything being sent.
    pub(super) fn give_up(&mut self, id: &TargetId) {
        if let Some(entry) = self.entries.get_mut(id) {
            entry.in_flight = false;
        }
        self.failing.give_up(id);
    }

    /// There is nothing to write.
    pub(super) fn settle(&mut self, id: &TargetId) {
        self.failing.forget(id);
    }

    /// The write of what has this `gist` has ended. Returns what is to be told.
    pub(super) fn end(
        &mut self,
        id: &TargetId,
        gist: u64,
        result: &Result<(), ApiError>,
        now: Instant,
    ) -> Option<Trouble> {
        if let Err(ApiError::Forbidden(_)) = result {
            self.denied.insert(Arc::clone(&id.namespace), now + DENIED);
        }
        let Some(entry) = self.entries.get_mut(id) else {
            self.failing.forget(id);
            return None;
        };
        let what = of_generation(entry.generation);
        let mut failed_first = false;
        match result {
            Ok(()) => self.failing.succeed(id, &id.namespace),
            Err(ApiError::Failed(why)) => failed_first = self.failing.fail(id, &id.namespace, what, why, now).0 == 1,
            Err(ApiError::Unreachable(_)) => self.failing.give_up(id),
            Err(_) => self.failing.forget(id),
        }
        entry.in_flight = false;
        let before = entry.sent.replace(now);
        if result.is_ok() {
            let rested = before.is_none_or(|before| now - before > 2 * LONGEST_CALM);
            if entry.said.replace(gist) == Some(gist) {
                entry.repeats = if rested { 1 } else { entry.repeats.saturating_add(1) };
            } else if rested {
                entry.repeats = 0;
            }
        }
        let failures = std::mem::take(&mut entry.failures);
        entry.barred = match result {
            // Of these, others know until when.
            Ok(()) | Err(ApiError::Forbidden(_) | ApiError::Failed(_)) => None,
            Err(ApiError::NotFound) => Some(now + DENIED),
            Err(ApiError::Refused(_)) => Some(now + REFUSED),
            // Whoever was faster, the watch will tell; but while there is none, it tells nothing.
            Err(ApiError::Conflict(_) | ApiError::Unreachable(_)) => {
                entry.failures = failures.saturating_add(1);
                Some(now + SHORTEST_RETRY.saturating_mul(2_u32.saturating_pow(failures)).min(LONGEST_RETRY))
            }
        };
        if matches!(result, Err(ApiError::Refused(_))) {
            return (!std::mem::replace(&mut entry.refused, true)).then_some(Trouble::Refused);
        }
        if failed_first {
            return Some(Trouble::Failed);
        }
        let contested = entry.repeats >= CONTESTED && self.told.len() < MOST_TOLD && self.told.insert(id.clone());
        contested.then_some(Trouble::Contested)
    }

    /// Forgets a target that is gone.
    pub(super) fn forget(&mut self, id: &TargetId) {
        self.entries.remove(id);
        self.failing.forget(id);
    }

    /// Forgets what no longer matters: targets that `ids`, in order, lacks, and prohibitions that are over.
    pub(super) fn retain(&mut self, ids: &[TargetId], now: Instant) {
        self.entries.retain(|id, _| ids.binary_search(id).is_ok());
        self.denied.retain(|_, until| now < *until);
        self.failing.retain(|id| ids.binary_search(id).is_ok());
    }
}

/// As what is wanted: another generation is tried at once.
const fn of_generation(generation: i64) -> u64 {
    generation.cast_unsigned()
}
