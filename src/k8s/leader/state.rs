//! The election as one replica sees it: what it knows of the Lease, its role, its permit to write, and its next request.
//!
//! It sends nothing, and gets the time as an argument, so that tests can try every order of events between replicas.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use k8s_openapi::api::coordination::v1::LeaseSpec;
use tokio::time::Instant;

use super::elector::LeaseOutcome;
use super::lease::{LeaseRecord, LeaseTiming, LeaseView, ObservedLease};
use super::{LeaderStatus, Role, WritePermit};
use crate::backoff::{Backoff, random};
use crate::k8s::client::BELIEVED_DENIALS;
use crate::k8s::watch::DENIED_RETRY;

/// The longest random delay before a free Lease is acquired, so that replicas do not all try at the same moment.
const JITTER: Duration = Duration::from_millis(400);
/// After the API server was unreachable, a standby leaves the leader this long to renew a Lease that has ended meanwhile: a change of
/// leaders would reset counters for no reason.
const LEADER_GRACE: Duration = Duration::from_secs(5);
/// The longest delay after a failed request. Shorter than [`LEADER_GRACE`], so that the leader can renew the Lease in time.
const LONGEST_RETRY: Duration = Duration::from_secs(2);
/// A replica that has just started and finds its own identity in the Lease has this long to learn its targets. After that it releases the
/// Lease to a replica that knows them.
const STARTUP_GRACE: Duration = Duration::from_secs(1);

/// A moment on both of our clocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    /// On the monotonic clock, which stops while the machine (not only this process) is suspended.
    pub(super) instant: Instant,
    /// On the wall clock. Only differences to earlier moments count.
    pub(super) wall: SystemTime,
}

impl Moment {
    pub(super) fn now() -> Self {
        Self { instant: Instant::now(), wall: SystemTime::now() }
    }
}

/// What to do next.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum ElectionStep {
    /// Wait until then, or until something happens.
    Wait(Option<Instant>),
    /// Read the Lease by a request of our own.
    Observe,
    /// Acquire or renew the Lease, if it is still this; `None`: create it.
    Acquire(Option<LeaseRecord>),
    /// Release the Lease.
    Release,
}

/// Our last write of the Lease.
#[derive(Clone, Debug)]
struct LastWrite {
    spec: LeaseSpec,
    /// When it was sent. No other replica can have observed it earlier.
    sent: Moment,
}

/// One replica's part in the election.
#[derive(Debug)]
pub(super) struct ElectionState {
    /// Our identity in the Lease.
    identity: Arc<str>,
    timing: LeaseTiming,
    /// The newest known state of the Lease, from the watch or from a request of our own.
    view: LeaseView,
    /// The state that the watch showed last, which may be older.
    watched: ObservedLease,
    /// Whether the targets are known. A replica that does not know them answers scrapes with 503.
    knows_targets: bool,
    /// The Lease was released for good, or is about to be.
    has_resigned: bool,
    /// Requests in a row that were not permitted.
    denials: u32,
    /// Requests in a row that failed otherwise.
    failures: u32,
    last_write: Option<LastWrite>,
    role: Role,
    /// When a request of our own last read the Lease, if no request has failed since.
    verified_at: Option<Instant>,
    /// The watch may lag behind the API server: the Lease must be read by a request.
    must_verify: bool,
    /// No request is sent before this.
    not_before: Option<Instant>,
    failure_backoff: Backoff,
    denied_backoff: Backoff,
    jitter: Duration,
}

impl ElectionState {
    pub(super) fn new(identity: &str, timing: LeaseTiming) -> Self {
        Self {
            identity: identity.into(),
            timing,
            view: LeaseView::default(),
            watched: ObservedLease::Unknown,
            knows_targets: false,
            has_resigned: false,
            denials: 0,
            failures: 0,
            last_write: None,
            role: Role::Standby,
            verified_at: None,
            must_verify: false,
            not_before: None,
            failure_backoff: Backoff::up_to(LONGEST_RETRY),
            denied_backoff: Backoff::up_to(DENIED_RETRY),
            jitter: jitter(),
        }
    }

    // Events.

    /// The watch shows a change.
    pub(super) fn watched(&mut self, view: LeaseView) {
        let before = std::mem::replace(&mut self.view, view);
        if self.view.lease == self.watched {
            // Only the health of the watch has changed: a request of our own may have read a newer Lease than it showed last.
            self.view.lease = before.lease.clone();
        } else {
            self.watched = self.view.lease.clone();
        }
        // A record that was read before the watch showed it keeps the time of the read.
        if let (ObservedLease::Present(before), ObservedLease::Present(now)) = (&before.lease, &mut self.view.lease)
            && before.spec == now.spec
        {
            now.since = before.since;
        }
        self.view.recovered_at = self.view.recovered_at.max(before.recovered_at);
        if before.lease == self.view.lease && before.recovered_at == self.view.recovered_at {
            return;
        }
        self.must_verify = false;
        self.not_before = None;
        self.failures = 0;
        self.failure_backoff.reset();
        if self.is_holder() {
            self.denials = 0;
            self.denied_backoff.reset();
        }
        self.jitter = jitter();
    }

    /// The targets are known now.
    pub(super) const fn targets_known(&mut self) {
        self.knows_targets = true;
    }

    /// This replica gives up the leadership for good.
    pub(super) const fn resign(&mut self) {
        self.has_resigned = true;
        self.must_verify = false; // a release reads the Lease first
        self.not_before = None;
    }

    /// A request has ended that was sent at `sent`.
    pub(super) fn finished(&mut self, outcome: LeaseOutcome, sent: Moment, now: Instant) {
        match outcome {
            LeaseOutcome::Observed(lease) => {
                let had_failed = std::mem::take(&mut self.failures) > 0;
                self.must_verify = false;
                self.not_before = None;
                self.failure_backoff.reset();
                if had_failed || self.view.is_unreachable {
                    self.view.recovered_at = Some(now);
                }
                self.verified_at = Some(now);
                self.view.lease = self.view.lease.next(lease.map(|lease| *lease), now);
            }
            LeaseOutcome::Written(spec) => {
                self.failures = 0;
                let is_shown = matches!(&self.view.lease, ObservedLease::Present(shown) if shown.spec == spec);
                self.last_write = Some(LastWrite { spec, sent });
                self.verify_unless(is_shown, now);
            }
            LeaseOutcome::Released => {
                self.failures = 0;
                self.verify_unless(!self.is_holder(), now);
            }
            LeaseOutcome::Conflict => {
                let delay = self.failure_backoff.next();
                self.verify_at(now + delay);
            }
            LeaseOutcome::Denied => {
                self.denials += 1;
                self.verified_at = None;
                self.not_before = Some(now + self.denied_backoff.next());
            }
            LeaseOutcome::Failed(_) => {
                self.failures += 1;
                self.verified_at = None;
                self.not_before = Some(now + self.failure_backoff.next());
            }
        }
    }

    /// A working watch shows our write before the next renewal. If it does not, its connection may be dead.
    fn verify_unless(&mut self, is_shown: bool, now: Instant) {
        if !is_shown {
            self.verify_at(now + self.timing.renewal_interval);
        }
    }

    const fn verify_at(&mut self, at: Instant) {
        self.must_verify = true;
        self.verified_at = None;
        self.not_before = Some(at);
    }

    // The known state.

    pub(super) const fn lease(&self) -> &ObservedLease {
        &self.view.lease
    }

    /// Whether we hold the Lease, as far as the API server has shown it.
    pub(super) fn is_holder(&self) -> bool {
        self.view.lease.is_held_by(&self.identity)
    }

    /// Requests in a row that failed although the watch works.
    pub(super) const fn failures(&self) -> u32 {
        if self.view.is_unreachable { 0 } else { self.failures }
    }

    // The role and the permit that follow from it.

    /// Our role now, by what it was and what is observed.
    pub(super) fn status(&mut self, now: Instant) -> LeaderStatus {
        let is_denied = self.denials >= BELIEVED_DENIALS;
        self.role = match &self.view.lease {
            // A replica that knows the targets answers scrapes.
            _ if !self.knows_targets => Role::Standby,
            _ if self.is_holder() => Role::Leader,
            ObservedLease::Present(record) if record.holder().is_some() => {
                // A replica that may not acquire the Lease still polls when its holder is gone. Whether the holder is gone cannot be known
                // while the API server is unreachable.
                let is_gone = record.ends() <= now && (!self.view.is_unreachable || self.role == Role::Leader);
                if is_denied && is_gone { Role::Leader } else { Role::Standby }
            }
            // Without any permission there is no election: a single replica that only reads must still be of use.
            ObservedLease::Denied if !self.has_resigned => Role::Leader,
            ObservedLease::Present(_) | ObservedLease::Absent(_) if is_denied && !self.has_resigned => Role::Leader,
            _ => self.role,
        };
        LeaderStatus { role: self.role, permit: self.permit() }
    }

    /// The cluster may be written to only while the API server shows the Lease as ours, and only until another replica could acquire it at
    /// the earliest. That time is counted from when our last write was sent, since no replica can have observed it earlier, and by the
    /// shorter of two durations, since somebody may have edited the record that is shown.
    fn permit(&self) -> Option<WritePermit> {
        let LastWrite { sent, .. } =
            self.last_write.as_ref().filter(|_| !self.has_resigned && self.role == Role::Leader)?;
        let shown = self.view.lease.held().filter(|_| self.is_holder())?;
        let valid_for = shown.duration().min(self.timing.duration).saturating_sub(self.timing.write_margin);
        Some(WritePermit { until: sent.instant + valid_for, wall: sent.wall + valid_for })
    }

    // The next request.

    /// What to do now.
    pub(super) fn step(&self, now: Instant) -> ElectionStep {
        let (step, due) = self.plan(now);
        let Some(due) = due.map(|due| due.max(self.not_before.unwrap_or(due))) else { return ElectionStep::Wait(None) };
        if due <= now {
            return step;
        }
        // The role may change by itself when the Lease of another replica ends.
        let ends = self.view.lease.held().map(LeaseRecord::ends).filter(|ends| *ends > now);
        ElectionStep::Wait(Some(ends.map_or(due, |ends| due.min(ends))))
    }

    /// The next step and its time; without a time, nothing is done until an event comes.
    fn plan(&self, now: Instant) -> (ElectionStep, Option<Instant>) {
        const NEVER: (ElectionStep, Option<Instant>) = (ElectionStep::Wait(None), None);
        if self.must_verify {
            return (ElectionStep::Observe, self.not_before);
        }
        match &self.view.lease {
            ObservedLease::Unknown | ObservedLease::Denied => NEVER,
            ObservedLease::Present(record) if self.is_holder() => {
                if self.has_resigned {
                    return (ElectionStep::Release, Some(record.since));
                }
                if !self.knows_targets {
                    return (ElectionStep::Release, Some(record.since + STARTUP_GRACE));
                }
                // A record other than our last one was written by an earlier process with this identity, or edited by somebody.
                let last_write = self.last_write.as_ref().filter(|write| write.spec == record.spec);
                let due = last_write.map_or(record.since, |write| write.sent.instant + self.timing.renewal_interval);
                // If this process was suspended for long, another replica may hold the Lease: read it before it is renewed.
                let ends = record.ends();
                let must_observe = ends <= now && self.verified_at.is_none_or(|at| at < ends);
                (
                    if must_observe { ElectionStep::Observe } else { ElectionStep::Acquire(Some(record.clone())) },
                    Some(due),
                )
            }
            _ if !self.knows_targets || self.has_resigned => NEVER,
            ObservedLease::Absent(since) => self.acquire(None, *since + self.jitter),
            ObservedLease::Present(record) if record.holder().is_none() => {
                self.acquire(Some(record), record.since + self.jitter)
            }
            // The holder may renew it without this replica observing that.
            ObservedLease::Present(_) if self.view.is_unreachable => NEVER,
            ObservedLease::Present(record) => {
                let ends = record.ends();
                let grace_ends = self.view.recovered_at.map_or(ends, |at| at + LEADER_GRACE);
                self.acquire(Some(record), ends.max(grace_ends) + self.jitter)
            }
        }
    }

    /// The step that acquires a Lease which is not ours, after it was read once more: the connection of a watch that shows nothing may be dead.
    fn acquire(&self, observed: Option<&LeaseRecord>, due: Instant) -> (ElectionStep, Option<Instant>) {
        let is_verified = self.verified_at.is_some_and(|at| at >= due);
        (if is_verified { ElectionStep::Acquire(observed.cloned()) } else { ElectionStep::Observe }, Some(due))
    }
}

/// A random part of [`JITTER`], at least a quarter.
fn jitter() -> Duration {
    JITTER.mul_f64(0.75_f64.mul_add(random(), 0.25))
}

#[cfg(test)]
mod tests;
