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
use super::{Busy, REMOVAL, Writer, forbidden, written};
use crate::target::TargetId;

/// How soon we look again at what somebody else changed in the same moment.
const SOON: Duration = Duration::from_secs(1);

/// A request that ended.
pub(super) struct Done {
    place: Place,
    /// The target that is to be told, if there is one.
    id: Option<TargetId>,
    what: What,
}

enum What {
    Put(Desired, Result<Observed, Trouble>),
    Removed(Option<MonitorState>, Result<(), Trouble>),
}

impl Writer {
    pub(super) fn put(&mut self, id: TargetId, place: Place, desired: Desired, uid: Option<String>) {
        self.busy.insert(place.clone(), Busy::default());
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
                    Some(written(&place))
                });
                (wanted, result)
            }
            What::Removed(state, result) => {
                let result = result.map(|()| {
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
                self.patience.answered();
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
        let state = |reason, message| Some(MonitorState { ready: false, reason, message });
        let (state, pause) = match trouble {
            Trouble::Taken(owner) => {
                let message = format!(
                    "a ServiceMonitor {place} of {owner} is there already: rename it or the target; it is not touched"
                );
                (state("NameTaken", message), REST)
            }
            Trouble::Api(ApiError::Forbidden(rule)) => {
                let state = forbidden(&rule);
                self.patience.rest(&place.namespace, Some(state.clone()));
                (Some(state), REST)
            }
            Trouble::Api(ApiError::Refused(words)) => {
                (state("Refused", format!("the API server refused it: {words}")), REST)
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
            Trouble::Api(ApiError::Unreachable(_)) => {
                self.patience.pause();
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
}
