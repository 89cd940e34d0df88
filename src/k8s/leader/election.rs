//! Carries out what the [state](super::state) of the election asks for, and tells everybody what we are.

use std::pin::Pin;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::super::Shared;
use super::candidate::{Answer, Candidate};
use super::lease::{Record, Timing, View};
use super::state::{Now, State, Step};
use super::{Role, Term};

/// As many failures in a row are worth a line, if the API server answers otherwise.
const TOLD_FAILURES: u32 = 5;

/// One replica's part in the election.
pub(super) struct Election {
    shared: Arc<Shared>,
    candidate: Candidate,
    views: watch::Receiver<View>,
    terms: watch::Sender<Term>,
    state: State,
    request: Option<Request>,
    resigned: bool,
    /// What the log says that we are, and who leads if not we.
    told: Option<(Role, Option<Arc<str>>)>,
}

/// A request that is under way, never more than one. Dropping it ends it.
struct Request {
    sent: Now,
    answer: Pin<Box<dyn Future<Output = Answer> + Send>>,
}

impl Election {
    pub(super) fn new(shared: &Arc<Shared>, views: watch::Receiver<View>, terms: watch::Sender<Term>) -> Self {
        let election = &shared.settings.election;
        Self {
            candidate: Candidate::new(&shared.cluster, &shared.settings),
            state: State::new(&election.identity, Timing::new(election.duration)),
            shared: Arc::clone(shared),
            views,
            terms,
            request: None,
            resigned: false,
            told: None,
        }
    }

    /// Takes part until told to stop; whoever resigned before has then given the Lease back.
    pub(super) async fn run(mut self, stop: CancellationToken, resign: CancellationToken) -> &'static str {
        let shared = Arc::clone(&self.shared);
        let mut known = false;
        loop {
            self.publish();
            let wake = self.act();
            tokio::select! {
                // First that nothing may be written any more, then that another may.
                biased;
                () = resign.cancelled(), if !self.resigned => {
                    self.resigned = true;
                    self.state.resign();
                    self.request = None;
                }
                () = stop.cancelled() => break,
                () = shared.pollers.until_known(), if !known => {
                    known = true;
                    self.state.know();
                }
                changed = self.views.changed() => if changed.is_ok() {
                    let view = self.views.borrow_and_update().clone();
                    self.state.see(view);
                } else {
                    break;
                },
                (sent, answer) = ended(&mut self.request) => self.answered(sent, answer),
                () = sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => {}
            }
        }
        if self.resigned && self.state.is_ours() {
            let _ = self.candidate.give_back().await;
        }
        "the election"
    }

    fn me(&self) -> &str {
        &self.shared.settings.election.identity
    }

    /// Begins what is to be done now, unless something is under way. Returns when to look again.
    fn act(&mut self) -> Option<Instant> {
        if self.request.is_some() {
            return None;
        }
        let candidate = self.candidate.clone();
        let answer: Pin<Box<dyn Future<Output = Answer> + Send>> = match self.state.step(Instant::now()) {
            Step::Rest(wake) => return wake,
            Step::Look => Box::pin(async move { candidate.look().await }),
            Step::Hold(seen) => Box::pin(async move { candidate.hold(seen).await }),
            Step::GiveBack => Box::pin(async move { candidate.give_back().await }),
        };
        self.request = Some(Request { sent: Now::read(), answer });
        None
    }

    fn answered(&mut self, sent: Now, answer: Answer) {
        match &answer {
            Answer::GivenBack if self.resigned => tracing::info!("the Lease is given back"),
            Answer::GivenBack => {
                tracing::info!("the Lease is given back: the targets are not known yet, and another may know them");
            }
            Answer::Failed(error) => tracing::debug!(error, "a request about the Lease failed"),
            Answer::Shown(_) | Answer::Written(_) | Answer::Outrun | Answer::Denied => {}
        }
        let error = if let Answer::Failed(error) = &answer { Some(error.clone()) } else { None };
        self.state.answered(answer, sent, Instant::now());
        if let Some(error) = error.filter(|_| self.state.failures() == TOLD_FAILURES) {
            tracing::warn!(error, "the Lease can neither be taken nor renewed");
        }
    }

    /// Tells everybody what we are now.
    fn publish(&mut self) {
        let before = self.terms.borrow().role;
        let term = self.state.term(Instant::now());
        if term.role != before {
            let leads = term.role == Role::Leader;
            self.shared.pollers.set_background(leads);
            self.shared.metrics.leader.set(if leads { 1.0 } else { 0.0 });
        }
        self.tell(term.role);
        self.terms.send_if_modified(|now| std::mem::replace(now, term) != term);
    }

    fn tell(&mut self, role: Role) {
        let holder = self.state.sight().held().and_then(Record::holder).map(Arc::<str>::from);
        let news = match role {
            Role::Leader => (role, holder.filter(|_| self.state.is_ours())),
            // It is ours by name, and we shall lead in a moment or give it back.
            Role::Standby if self.state.is_ours() => return,
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
}

/// The end of the request, if there is one.
async fn ended(request: &mut Option<Request>) -> (Now, Answer) {
    let Some(Request { sent, answer }) = request else { return std::future::pending().await };
    let (sent, answer) = (*sent, answer.as_mut().await);
    *request = None;
    (sent, answer)
}
