//! What is started, and what follows from how it ended.

use std::time::Duration;

use tokio::time::Instant;

use super::super::super::access::ApiError;
use super::super::super::catalog::MonitorState;
use super::super::desired::Desired;
use super::super::observed::Observed;
use super::super::patience::REST;
use super::super::place::Place;
use super::super::requests::Trouble;
use super::words::{failed, forbidden, not};
use super::{Busy, REMOVAL, Writer};
use crate::target::TargetId;

/// How soon we look again at what somebody else changed in the same moment.
const SOON: Duration = Duration::from_secs(1);

/// A request that ended.
pub(super) struct Done {
    pub(super) place: Place,
    /// The target that is to be told, if there is one.
    pub(super) id: Option<TargetId>,
    pub(super) what: What,
}

pub(super) enum What {
    Put(Desired, Result<Observed, Trouble>),
    Removed(Option<MonitorState>, Result<(), Trouble>),
}

impl Writer {
    pub(super) fn put(&mut self, id: TargetId, place: Place, desired: Desired, uid: Option<String>) {
        self.busy.insert(place.clone(), Busy::default());
        self.failing.begin(&place);
        let writes = self.writes.clone();
        self.running.push(Box::pin(async move {
            let result = writes.put(&place, &desired, uid).await;
            Done { place, id: Some(id), what: What::Put(desired, result) }
        }));
    }

    /// Removes our monitor at `place`, and then says `state` of the target, if there is one.
    pub(super) fn remove(&mut self, place: Place, id: Option<TargetId>, state: Option<MonitorState>) {
        let Some(uid) = self.ledger.uid(&place).map(str::to_owned) else { return };
        self.busy.insert(place.clone(), Busy::default());
        self.failing.begin(&place);
        let writes = self.writes.clone();
        self.running.push(Box::pin(async move {
            let result = writes.remove(&place, uid).await;
            Done { place, id, what: What::Removed(state, result) }
        }));
    }

    pub(super) fn settle(&mut self, done: Done) {
        let Done { place, id, what } = done;
        let busy = self.busy.remove(&place).unwrap_or_default();
        let (wanted, result) = match what {
            What::Put(desired, result) => {
                let wanted = desired.mark;
                let result = result.map(|found| {
                    self.patience.wrote(&place, wanted);
                    self.ledger.wrote(found, &desired, busy.overtaken);
                    Some(self.kept(&place, wanted))
                });
                (wanted, result)
            }
            What::Removed(state, result) => {
                let result = result.map(|()| {
                    self.patience.make_peace(&place);
                    if !busy.overtaken {
                        self.ledger.forget(&place);
                    }
                    state
                });
                (REMOVAL, result)
            }
        };
        match result {
            Ok(state) => {
                self.pause.succeed();
                self.failing.succeed(&place, &place.namespace);
                if let Some(id) = &id {
                    self.patience.forget(id);
                    if let Some(state) = state {
                        self.say(id, state);
                    }
                }
            }
            Err(trouble) => self.regret(trouble, &place, id.as_ref(), wanted),
        }
        if busy.again {
            let id = id.or_else(|| self.target_of(&place));
            self.shared().monitors.mark(id);
        }
    }

    fn regret(&mut self, trouble: Trouble, place: &Place, id: Option<&TargetId>, wanted: u64) {
        if matches!(trouble, Trouble::Api(ApiError::Unreachable(_)) | Trouble::NotLeader) {
            self.failing.give_up(place);
        } else if !matches!(trouble, Trouble::Api(ApiError::Failed(_))) {
            self.failing.forget(place);
        }
        let (state, pause) = match trouble {
            Trouble::Taken(owner) => {
                let message = format!(
                    "a ServiceMonitor {place} of {owner} is there already: rename it or the target; it is not touched"
                );
                (Some(not("NameTaken", message)), REST)
            }
            Trouble::Api(ApiError::Forbidden(rule)) => {
                let state = forbidden(&rule);
                self.patience.rest(&place.namespace, Some(state.clone()));
                (Some(state), REST)
            }
            Trouble::Api(ApiError::Refused(words)) => {
                (Some(not("Refused", format!("the API server refused it: {words}"))), REST)
            }
            // The kind, or the namespace: the one comes back by itself, the other takes the target along.
            Trouble::Api(ApiError::NotFound) => {
                self.ledger.forget(place);
                self.patience.rest(&place.namespace, None);
                (None, REST)
            }
            Trouble::Api(ApiError::Conflict(_)) => {
                self.ledger.forget(place);
                (None, SOON)
            }
            Trouble::Api(ApiError::Failed(why)) => return self.fail(&why, place, id, wanted),
            Trouble::Api(ApiError::Unreachable(_)) => {
                self.pause.fail(Instant::now());
                (None, Duration::ZERO)
            }
            Trouble::NotLeader => (None, Duration::ZERO),
        };
        let Some(id) = id else { return };
        if let Some(state) = state {
            self.say(id, state);
        }
        self.patience.wait(id.clone(), wanted, Instant::now() + pause);
    }
    /// Others may fare better, so they go on.
    fn fail(&mut self, why: &str, place: &Place, id: Option<&TargetId>, wanted: u64) {
        let (failures, _) = self.failing.fail(place, &place.namespace, wanted, why, Instant::now());
        if failures == 1 && self.lost.note(Instant::now()) {
            tracing::warn!(monitor = %place, error = why, "a ServiceMonitor cannot be written");
        }
        // A webhook that restarts is away for a moment: that is no news.
        if let Some(id) = id
            && (failures > 1 || self.failing.why(&place.namespace).is_some())
        {
            self.say(id, failed(why));
        }
    }
}
