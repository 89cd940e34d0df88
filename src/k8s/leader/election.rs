//! Decides what we are, and when to try for the Lease.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::super::Shared;
use super::super::access::BELIEVED_DENIALS;
use super::super::backoff::{Backoff, chance};
use super::candidate::{Candidate, Failure};
use super::follow::DENIED_RETRY;
use super::lease::{Circumstances, Sight, Timing, View, judge};
use super::{IGNORANCE, Role, Term, until_known};

/// Replicas that see a free Lease do not reach for it all in the same moment.
const SPREAD: Duration = Duration::from_millis(400);
/// After the API server was away, the leader has this long to renew a Lease that has ended meanwhile: a change of leaders resets
/// counters, and helps nobody.
const COURTESY: Duration = Duration::from_secs(5);
/// Pauses between attempts that failed. Shorter than the courtesy, so that a leader uses it.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// As many failures in a row are worth a line, if the API server answers otherwise.
const TOLD_FAILURES: u32 = 5;

/// One replica's part in the election.
pub(super) struct Election {
    shared: Arc<Shared>,
    candidate: Candidate,
    timing: Timing,
    views: watch::Receiver<View>,
    terms: watch::Sender<Term>,
    /// What was seen when the attempt was planned.
    seen: View,
    attempt: Option<Attempt>,
    /// Before this, only one who knows the targets competes.
    ignorance: Instant,
    backoff: Backoff,
    failures: u32,
    backoff_of_denials: Backoff,
    denials: u32,
    resigned: bool,
    /// What the log says that we are, and who leads if not we.
    told: Option<(Role, Option<Arc<str>>)>,
}

/// To take, hold or give back the Lease, now or later. Dropping it ends it.
struct Attempt {
    begins: Instant,
    work: Pin<Box<dyn Future<Output = Result<(), Failure>> + Send>>,
}

impl Election {
    pub(super) fn new(shared: &Arc<Shared>, views: watch::Receiver<View>, terms: watch::Sender<Term>) -> Self {
        let seen = views.borrow().clone();
        Self {
            candidate: Candidate::new(&shared.cluster, &shared.settings),
            timing: Timing::new(shared.settings.election.duration),
            shared: Arc::clone(shared),
            seen,
            views,
            terms,
            attempt: None,
            ignorance: Instant::now() + IGNORANCE,
            backoff: Backoff::up_to(LONGEST_PAUSE),
            failures: 0,
            backoff_of_denials: Backoff::up_to(DENIED_RETRY),
            denials: 0,
            resigned: false,
            told: None,
        }
    }

    /// Takes part until told to stop; whoever resigned before has then given the Lease back.
    pub(super) async fn run(mut self, stop: CancellationToken, resign: CancellationToken) -> &'static str {
        loop {
            self.publish();
            tokio::select! {
                // First that nothing may be written any more, then that another may.
                biased;
                () = resign.cancelled(), if !self.resigned => self.resign(),
                () = stop.cancelled() => break,
                changed = self.views.changed() => if changed.is_ok() {
                    self.look();
                } else {
                    break;
                },
                result = work(&mut self.attempt) => self.ended(result),
            }
        }
        if self.resigned && self.is_ours() {
            let _ = self.candidate.give_back().await;
        }
        "the election"
    }

    fn me(&self) -> &str {
        &self.shared.settings.election.identity
    }

    fn is_ours(&self) -> bool {
        self.seen.sight.is_held_by(self.me())
    }

    /// Tells everybody what we are now.
    fn publish(&mut self) {
        let before = self.terms.borrow().role;
        let circumstances = Circumstances {
            me: self.me(),
            resigned: self.resigned,
            denied: self.denials >= BELIEVED_DENIALS,
            margin: self.timing.margin,
            now: SystemTime::now(),
        };
        let term = judge(before, &self.seen.sight, circumstances);
        if term.role != before {
            let leads = term.role == Role::Leader;
            self.shared.pollers.set_background(leads);
            self.shared.metrics.leader.set(if leads { 1.0 } else { 0.0 });
        }
        self.tell(term.role);
        self.terms.send_if_modified(|now| std::mem::replace(now, term) != term);
    }

    fn tell(&mut self, role: Role) {
        let holder = match &self.seen.sight {
            Sight::Held { holder, .. } => Some(Arc::clone(holder)),
            _ => None,
        };
        let news = match role {
            Role::Leader => (role, holder.filter(|_| self.is_ours())),
            Role::Standby if holder.is_none() => return,
            Role::Standby => (role, holder),
        };
        // A Lease that is lost for a moment is no news.
        if self
            .told
            .as_ref()
            .is_some_and(|told| *told == news || (told.0 == Role::Leader && news == (Role::Leader, None)))
        {
            return;
        }
        match &news {
            (Role::Leader, Some(_)) => tracing::info!(identity = self.me(), "leading"),
            (Role::Leader, None) => tracing::warn!("polling without an election: nothing is written into the cluster"),
            (Role::Standby, leader) => tracing::info!(identity = self.me(), leader = leader.as_deref(), "standing by"),
        }
        self.told = Some(news);
    }

    fn resign(&mut self) {
        self.resigned = true;
        self.attempt = if self.is_ours() { Some(self.give_back_in(Duration::ZERO)) } else { None };
    }

    /// Plans anew after the Lease has changed.
    fn look(&mut self) {
        let view = self.views.borrow_and_update().clone();
        let before = std::mem::replace(&mut self.seen, view);
        if before.sight == self.seen.sight && before.back == self.seen.back {
            return;
        }
        self.backoff.reset();
        self.failures = 0;
        let (was_ours, is_ours) = (before.sight.is_held_by(self.me()), self.is_ours());
        let running = self.attempt.as_ref().is_some_and(|attempt| attempt.begins <= Instant::now());
        if self.resigned {
            // Taken by a request that was on its way already.
            if is_ours && !running {
                self.attempt = Some(self.give_back_in(Duration::ZERO));
            }
            return;
        }
        if is_ours {
            self.denials = 0;
            self.backoff_of_denials.reset();
        }
        match self.seen.sight {
            Sight::Unknown | Sight::Hidden => self.attempt = None,
            Sight::Held { .. } if is_ours => {
                if !running {
                    self.attempt = Some(self.compete_in(Duration::ZERO));
                }
            }
            Sight::Free => {
                // One that runs is the one that has freed the Lease, unless it believes to hold it.
                if !running || was_ours {
                    self.attempt = Some(self.compete_in(spread()));
                }
            }
            Sight::Held { until, .. } => {
                let left = until.duration_since(SystemTime::now()).unwrap_or_default();
                let courtesy = self.seen.back.map_or(Duration::ZERO, |back| COURTESY.saturating_sub(back.elapsed()));
                self.attempt = Some(self.compete_in(left.max(courtesy) + spread()));
            }
        }
    }

    /// Goes on after an attempt has ended.
    fn ended(&mut self, result: Result<(), Failure>) {
        self.attempt = None;
        match result {
            Ok(()) => tracing::info!("the Lease is given back"),
            Err(_) if self.resigned => {
                if self.is_ours() {
                    let pause = self.backoff.next();
                    self.attempt = Some(self.give_back_in(pause));
                }
            }
            Err(Failure::Denied) => {
                self.denials += 1;
                let pause = self.backoff_of_denials.next();
                self.attempt = Some(self.compete_in(pause));
            }
            Err(Failure::Failed(error)) => {
                self.failures += 1;
                if self.failures == TOLD_FAILURES && !self.seen.away {
                    tracing::warn!(error, "the Lease can neither be taken nor renewed");
                }
                tracing::debug!(error, "an attempt at the Lease failed");
                let pause = self.backoff.next();
                self.attempt = Some(self.compete_in(pause));
            }
        }
    }

    fn compete_in(&self, pause: Duration) -> Attempt {
        let (candidate, shared, ignorance) = (self.candidate.clone(), Arc::clone(&self.shared), self.ignorance);
        Attempt::new(pause, async move {
            until_known(&shared.pollers, ignorance).await;
            candidate.compete().await.map(|never| match never {})
        })
    }

    fn give_back_in(&self, pause: Duration) -> Attempt {
        let candidate = self.candidate.clone();
        Attempt::new(pause, async move { candidate.give_back().await })
    }
}

impl Attempt {
    fn new(pause: Duration, work: impl Future<Output = Result<(), Failure>> + Send + 'static) -> Self {
        let begins = Instant::now() + pause;
        let work = async move {
            sleep_until(begins).await;
            work.await
        };
        Self { begins, work: Box::pin(work) }
    }
}

/// A part of [`SPREAD`] by chance, but never nothing.
fn spread() -> Duration {
    SPREAD.mul_f64((chance() + 0.25).min(1.0))
}

/// The end of the attempt, if there is one.
async fn work(attempt: &mut Option<Attempt>) -> Result<(), Failure> {
    match attempt {
        Some(attempt) => attempt.work.as_mut().await,
        None => std::future::pending().await,
    }
}
