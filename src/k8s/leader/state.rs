//! The election as one replica sees it, from top to bottom: the Lease, what we are, until when we may write, and what to do next.
//!
//! It has no network and reads no clock, so that everything that can happen between replicas can be tried in a test.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use k8s_openapi::api::coordination::v1::LeaseSpec;
use tokio::time::Instant;

use super::super::backoff::{Backoff, chance};
use super::super::client::BELIEVED_DENIALS;
use super::super::watch::DENIED_RETRY;
use super::candidate::Answer;
use super::lease::{Record, Sight, Timing, View};
use super::{Right, Role, Term};

/// Replicas that see a free Lease do not reach for it all in the same moment.
const SPREAD: Duration = Duration::from_millis(400);
/// After the API server was away, the leader has this long to renew a Lease that has ended meanwhile: a change of leaders resets
/// counters, and helps nobody.
const COURTESY: Duration = Duration::from_secs(5);
/// Pauses between attempts that failed. Shorter than the courtesy, so that a leader uses it.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// A replica that has just started and finds its own name in the Lease has this long to learn its targets, which takes most of them a
/// moment. Then another may lead that knows them.
const MOMENT: Duration = Duration::from_secs(1);

/// A moment, on our own clocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now {
    /// On the clock that never jumps. It stands still while the machine is suspended.
    pub(super) instant: Instant,
    /// On the other one. Only how much of it has passed since an earlier moment counts.
    pub(super) wall: SystemTime,
}

impl Now {
    pub(super) fn read() -> Self {
        Self { instant: Instant::now(), wall: SystemTime::now() }
    }
}

/// What to do next.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    /// Nothing, until then or until there is news.
    Rest(Option<Instant>),
    /// Have a look at the Lease, beside the watch.
    Look,
    /// Take or renew the Lease, if it is still this; `None`: make it.
    Hold(Option<Record>),
    /// Give it back.
    GiveBack,
}

/// Our last write of the Lease.
#[derive(Clone, Debug)]
struct Written {
    record: LeaseSpec,
    /// When it was sent. Nobody saw the record earlier.
    sent: Now,
}

/// One replica's part in the election.
#[derive(Debug)]
pub(super) struct State {
    /// Our name in the Lease.
    me: Arc<str>,
    timing: Timing,
    view: View,
    /// What the watch showed last, which may be older than what we have seen by a look of our own.
    watched: Sight,
    /// Whether the targets are known. One who does not know them answers scrapes by 503.
    known: bool,
    /// We have given the Lease back, or are about to.
    resigned: bool,
    /// Requests in a row that we were not permitted.
    denials: u32,
    /// Requests in a row that failed otherwise.
    failures: u32,
    written: Option<Written>,
    role: Role,
    /// When we had a look of our own, and nothing has come of it yet.
    confirmed: Option<Instant>,
    /// What the watch shows is not what the API server has.
    doubted: bool,
    /// No request before this.
    calm_until: Option<Instant>,
    backoff: Backoff,
    backoff_of_denials: Backoff,
    spread: Duration,
}

impl State {
    pub(super) fn new(me: &str, timing: Timing) -> Self {
        Self {
            me: me.into(),
            timing,
            view: View { sight: Sight::Unknown, back: None, away: false },
            watched: Sight::Unknown,
            known: false,
            resigned: false,
            denials: 0,
            failures: 0,
            written: None,
            role: Role::Standby,
            confirmed: None,
            doubted: false,
            calm_until: None,
            backoff: Backoff::up_to(LONGEST_PAUSE),
            backoff_of_denials: Backoff::up_to(DENIED_RETRY),
            spread: spread(),
        }
    }

    // What happens.

    /// The watch shows something else.
    pub(super) fn see(&mut self, view: View) {
        let before = std::mem::replace(&mut self.view, view);
        if self.view.sight == self.watched {
            // It shows nothing new, only how it fares.
            self.view.sight = before.sight.clone();
        } else {
            self.watched = self.view.sight.clone();
        }
        // The moment at which a record was first seen stays, also where we saw it earlier than the watch did.
        if let (Sight::There(before), Sight::There(now)) = (&before.sight, &mut self.view.sight)
            && before.spec == now.spec
        {
            now.since = before.since;
        }
        self.view.back = self.view.back.max(before.back);
        if before.sight == self.view.sight && before.back == self.view.back {
            return;
        }
        self.doubted = false;
        self.calm_until = None;
        self.failures = 0;
        self.backoff.reset();
        if self.is_ours() {
            self.denials = 0;
            self.backoff_of_denials.reset();
        }
        self.spread = spread();
    }

    /// The targets are known now.
    pub(super) const fn know(&mut self) {
        self.known = true;
    }

    /// From now on another shall lead.
    pub(super) const fn resign(&mut self) {
        self.resigned = true;
        self.doubted = false; // whoever gives back looks first
        self.calm_until = None;
    }

    /// A request has ended that began at `sent`.
    pub(super) fn answered(&mut self, answer: Answer, sent: Now, now: Instant) {
        match answer {
            Answer::Shown(lease) => {
                let missed = std::mem::take(&mut self.failures) > 0;
                let sight = self.view.sight.next(lease.map(|lease| *lease), now);
                self.doubted = false;
                self.calm_until = None;
                self.backoff.reset();
                if missed || self.view.away {
                    self.view.back = Some(now);
                }
                self.confirmed = Some(now);
                self.view.sight = sight;
            }
            Answer::Written(record) => {
                self.failures = 0;
                let shown = matches!(&self.view.sight, Sight::There(shown) if shown.spec == record);
                self.written = Some(Written { record, sent });
                self.expect(shown, now);
            }
            Answer::GivenBack => {
                self.failures = 0;
                self.expect(!self.is_ours(), now);
            }
            Answer::Outrun => {
                let pause = self.backoff.next();
                self.doubt(now + pause);
            }
            Answer::Denied => {
                self.denials += 1;
                self.confirmed = None;
                self.calm_until = Some(now + self.backoff_of_denials.next());
            }
            Answer::Failed(_) => {
                self.failures += 1;
                self.confirmed = None;
                self.calm_until = Some(now + self.backoff.next());
            }
        }
    }

    /// What was written is shown by the watch, or will be in a moment; else it must be dead.
    fn expect(&mut self, shown: bool, now: Instant) {
        if !shown {
            self.doubt(now + self.timing.renewal);
        }
    }

    /// What is seen may not be what the API server has: at this moment it is looked at beside the watch.
    const fn doubt(&mut self, at: Instant) {
        self.doubted = true;
        self.confirmed = None;
        self.calm_until = Some(at);
    }

    // What is known of the Lease.

    pub(super) fn sight(&self) -> &Sight {
        &self.view.sight
    }

    pub(super) fn is_ours(&self) -> bool {
        self.view.sight.is_held_by(&self.me)
    }

    /// Requests in a row that failed, although the Lease is watched.
    pub(super) const fn failures(&self) -> u32 {
        if self.view.away { 0 } else { self.failures }
    }

    // What we are.

    /// What we are now, from what we were and what is seen.
    pub(super) fn term(&mut self, now: Instant) -> Term {
        let denied = self.denials >= BELIEVED_DENIALS;
        self.role = match &self.view.sight {
            // Scrapes that it would answer by 503 are answered by one that knows them.
            _ if !self.known => Role::Standby,
            _ if self.is_ours() => Role::Leader,
            Sight::There(record) if record.holder().is_some() => {
                // A leader that has died is no reason for one who may not follow it to leave the targets alone. Whether it has is not
                // to be seen while the API server is away.
                let has_died = record.ends() <= now && (!self.view.away || self.role == Role::Leader);
                if denied && has_died { Role::Leader } else { Role::Standby }
            }
            // Without any rights there is no election: a single run that only reads must still be of use.
            Sight::Hidden if !self.resigned => Role::Leader,
            Sight::There(_) | Sight::Absent(_) if denied && !self.resigned => Role::Leader,
            Sight::Unknown | Sight::Hidden | Sight::There(_) | Sight::Absent(_) => self.role,
        };
        Term { role: self.role, right: self.right() }
    }

    // Until when we may write.

    /// Only while the API server shows the Lease as ours, and only until the first moment at which another could take it: nobody saw our
    /// last write before it was sent. What is shown may be an earlier record, or one that is on its way; or one that somebody made good
    /// for less.
    fn right(&self) -> Option<Right> {
        let Written { sent, .. } = self.written.as_ref().filter(|_| !self.resigned && self.role == Role::Leader)?;
        let shown = self.view.sight.held().filter(|_| self.is_ours())?;
        let good = shown.duration().min(self.timing.duration).saturating_sub(self.timing.margin);
        Some(Right { until: sent.instant + good, wall: sent.wall + good })
    }

    // What to do next.

    /// What to do now.
    pub(super) fn step(&self, now: Instant) -> Step {
        let (step, due) = self.plan(now);
        let Some(due) = due.map(|due| due.max(self.calm_until.unwrap_or(due))) else { return Step::Rest(None) };
        if due <= now {
            return step;
        }
        // What we are may change by itself when the Lease of another ends.
        let ends = self.view.sight.held().map(Record::ends).filter(|ends| *ends > now);
        Step::Rest(Some(ends.map_or(due, |ends| due.min(ends))))
    }

    /// What to do, and when.
    fn plan(&self, now: Instant) -> (Step, Option<Instant>) {
        const NEVER: (Step, Option<Instant>) = (Step::Rest(None), None);
        let wants = self.known && !self.resigned;
        if self.doubted {
            return (Step::Look, self.calm_until);
        }
        match &self.view.sight {
            Sight::Unknown | Sight::Hidden => NEVER,
            Sight::There(record) if self.is_ours() => {
                if self.resigned {
                    (Step::GiveBack, Some(record.since))
                } else if !self.known {
                    (Step::GiveBack, Some(record.since + MOMENT))
                } else {
                    // A record that is not our last one was made by an earlier process, or by somebody who edits.
                    let written = self.written.as_ref().filter(|written| written.record == record.spec);
                    let due = written.map_or(record.since, |written| written.sent.instant + self.timing.renewal);
                    // Whoever was paused, or away from the API server, may have lost it.
                    let ends = record.ends();
                    let looks = ends <= now && self.confirmed.is_none_or(|at| at < ends);
                    (if looks { Step::Look } else { Step::Hold(Some(record.clone())) }, Some(due))
                }
            }
            _ if !wants => NEVER,
            Sight::Absent(since) => self.take(None, *since + self.spread),
            Sight::There(record) if record.holder().is_none() => self.take(Some(record), record.since + self.spread),
            // Nothing is decided about others while we cannot see what they do.
            Sight::There(_) if self.view.away => NEVER,
            Sight::There(record) => {
                let courtesy = self.view.back.map(|back| back + COURTESY);
                let due = courtesy.into_iter().fold(record.ends(), Instant::max) + self.spread;
                self.take(Some(record), due)
            }
        }
    }

    /// Takes what is not ours, after one more look: a watch that is silent may be a dead one.
    fn take(&self, seen: Option<&Record>, due: Instant) -> (Step, Option<Instant>) {
        let confirmed = self.confirmed.is_some_and(|at| at >= due);
        (if confirmed { Step::Hold(seen.cloned()) } else { Step::Look }, Some(due))
    }
}

/// A part of [`SPREAD`] by chance, but never nothing.
fn spread() -> Duration {
    SPREAD.mul_f64((chance() + 0.25).min(1.0))
}

#[cfg(test)]
mod tests;
