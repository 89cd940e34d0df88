//! The election as one replica sees it: what it knows of the Lease, its role, its permit to write, and its next request.
//!
//! It has no network and reads no clock, so that tests can try everything that may happen between replicas.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use k8s_openapi::api::coordination::v1::LeaseSpec;
use tokio::time::Instant;

use super::elector::LeaseOutcome;
use super::lease::{LeaseRecord, LeaseTiming, LeaseView, ObservedLease};
use super::{LeaderStatus, Role, WritePermit};
use crate::k8s::backoff::{Backoff, chance};
use crate::k8s::client::BELIEVED_DENIALS;
use crate::k8s::watch::DENIED_RETRY;

/// The longest random delay before a free Lease is acquired, so that replicas do not all try at the same moment.
const JITTER: Duration = Duration::from_millis(400);
/// After the API server was unreachable, the leader has this long to renew a Lease that has ended meanwhile: a change of leaders resets
/// counters, and helps nobody.
const LEADER_GRACE: Duration = Duration::from_secs(5);
/// The longest pause after a failed request. Shorter than the grace, so that the leader can use it.
const LONGEST_RETRY: Duration = Duration::from_secs(2);
/// A replica that has just started and finds its own name in the Lease has this long to learn its targets, before another replica may lead
/// that knows them.
const STARTUP_GRACE: Duration = Duration::from_secs(1);

/// A moment on both of our clocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    /// On the monotonic clock, which stands still while the machine is suspended.
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
    /// Read the Lease, beside the watch.
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
    /// When it was sent. Nobody saw it earlier.
    sent: Moment,
}

/// One replica's part in the election.
#[derive(Debug)]
pub(super) struct ElectionState {
    /// Our name in the Lease.
    identity: Arc<str>,
    timing: LeaseTiming,
    /// The newest that is known of the Lease, by the watch or by a request of our own.
    view: LeaseView,
    /// What the watch showed last, which may be older.
    watched: ObservedLease,
    /// Whether the targets are known. A replica that does not know them answers scrapes by 503.
    knows_targets: bool,
    /// The Lease was released for good, or will be.
    has_resigned: bool,
    /// Requests in a row that were not permitted.
    denials: u32,
    /// Requests in a row that failed otherwise.
    failures: u32,
    last_write: Option<LastWrite>,
    role: Role,
    /// When a request of our own has shown the Lease, if no request has failed since.
    verified_at: Option<Instant>,
    /// The watch may not show what the API server has.
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

    // What has happened.

    /// The watch shows something else.
    pub(super) fn watched(&mut self, view: LeaseView) {
        let before = std::mem::replace(&mut self.view, view);
        if self.view.lease == self.watched {
            // Only the state of the watch is new: what was read beside it may be newer than the Lease that it showed last.
            self.view.lease = before.lease.clone();
        } else {
            self.watched = self.view.lease.clone();
        }
        // A record that was read before the watch showed it keeps its moment.
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

    /// Another replica shall lead from now on.
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
                let pause = self.failure_backoff.next();
                self.verify_at(now + pause);
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

    /// A watch that works shows our write soon. One that does not may be dead.
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

    // What is known.

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

    // The role and the permit that follow.

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
    /// the earliest. That is counted from when our last write was sent, since nobody saw it earlier, and by the shorter of two durations,
    /// since the record that is shown may have been edited.
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

    /// What to do, and when; without a time: never, as far as is known now.
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
                // Another record than our last one was written by an earlier process of this name, or by somebody who edits.
                let last_write = self.last_write.as_ref().filter(|write| write.spec == record.spec);
                let due = last_write.map_or(record.since, |write| write.sent.instant + self.timing.renewal_interval);
                // After a long pause another replica may hold it: read it before it is renewed.
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
            // The holder may renew it without being seen.
            ObservedLease::Present(_) if self.view.is_unreachable => NEVER,
            ObservedLease::Present(record) => {
                let grace = self.view.recovered_at.map(|at| at + LEADER_GRACE);
                let due = grace.into_iter().fold(record.ends(), Instant::max) + self.jitter;
                self.acquire(Some(record), due)
            }
        }
    }

    /// Acquires a Lease that is not ours, after it was read once more: a watch that shows nothing may be dead.
    fn acquire(&self, observed: Option<&LeaseRecord>, due: Instant) -> (ElectionStep, Option<Instant>) {
        let is_verified = self.verified_at.is_some_and(|at| at >= due);
        (if is_verified { ElectionStep::Acquire(observed.cloned()) } else { ElectionStep::Observe }, Some(due))
    }
}

/// A random part of [`JITTER`], at least a quarter.
fn jitter() -> Duration {
    JITTER.mul_f64((chance() + 0.25).min(1.0))
}

#[cfg(test)]
mod tests;
