//! One target as pages and documents show it: what is declared, its state, its last poll.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use super::reply::Audience;
use crate::kind::{Reason, Type};
use crate::poll::{Failure, Poller, Pollers, Snapshot, TargetState, TargetStatus};
use crate::target::{Refused, Target, TargetId};

/// Everything about one target at one moment.
pub(super) struct View {
    pub(super) id: TargetId,
    /// What is shown. A target whose declaration became unusable is `Invalid`, although it is polled as it was declared before.
    pub(super) status: TargetStatus,
    /// What polls say, where there are any.
    pub(super) polled: Option<TargetState>,
    declared: Declared,
    newest: Option<Arc<Snapshot>>,
}

enum Declared {
    Well(Arc<Target>),
    /// In a way that cannot be used.
    Badly(Refused),
}

/// The word for the type of a target whose declaration does not tell it.
pub(super) const UNKNOWN_TYPE: &str = "unknown";

impl View {
    fn new(poller: &Poller) -> Self {
        let (target, status) = (poller.target(), poller.status());
        Self {
            id: target.id.clone(),
            polled: Some(status.state),
            status,
            declared: Declared::Well(target),
            newest: poller.newest(),
        }
    }

    /// A target of whose declaration nothing can be polled.
    fn refused(refused: &Refused, since: SystemTime) -> Self {
        Self {
            id: refused.id.clone(),
            status: invalid(&refused.message, since, None),
            polled: None,
            declared: Declared::Badly(refused.clone()),
            newest: None,
        }
    }

    /// The same target, whose declaration has meanwhile become unusable.
    fn since_refused(mut self, refused: &Refused, since: SystemTime) -> Self {
        let message = match &self.status.failure {
            Some(failure) => format!("{} ({}: {})", refused.message, self.status.state.as_str(), failure.message),
            None => format!("{} ({})", refused.message, self.status.state.as_str()),
        };
        self.status = invalid(&message, since, self.status.last_success);
        self
    }

    /// The target, unless its declaration cannot be used.
    pub(super) fn target(&self) -> Option<&Target> {
        match &self.declared {
            Declared::Well(target) => Some(target),
            Declared::Badly(_) => None,
        }
    }

    /// The kind of server, where that is known.
    pub(super) fn kind(&self) -> Option<Type> {
        match &self.declared {
            Declared::Well(target) => Some(target.source.kind),
            Declared::Badly(refused) => refused.kind,
        }
    }

    /// The kind of server in one word.
    pub(super) fn kind_word(&self) -> &'static str {
        self.kind().map_or(UNKNOWN_TYPE, Type::as_str)
    }

    /// Where the server is; what was written, where that cannot be used.
    pub(super) fn url(&self) -> &str {
        match &self.declared {
            Declared::Well(target) => target.source.url.as_str(),
            Declared::Badly(refused) => refused.url.as_deref().unwrap_or_default(),
        }
    }

    /// The labels that discovery joins to its series.
    pub(super) fn labels(&self) -> impl Iterator<Item = (&str, &str)> + Clone {
        let labels: Option<&BTreeMap<String, String>> = self.target().map(Target::labels);
        labels.into_iter().flatten().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The newest result, if a poll took place.
    pub(super) fn last_poll(&self) -> Option<&Snapshot> {
        self.newest.as_deref().filter(|snapshot| !snapshot.is_permanent)
    }

    /// When the last poll ended.
    pub(super) fn last_poll_at(&self) -> Option<SystemTime> {
        self.last_poll().map(|snapshot| snapshot.ended_at)
    }
}

fn invalid(message: &str, since: SystemTime, last_success: Option<SystemTime>) -> TargetStatus {
    let failure = Some(Failure { reason: Reason::Config, message: message.into() });
    TargetStatus { state: TargetState::Invalid, failure, since, last_success }
}

/// All targets, in the order of names; some of them where nobody waits for them any more.
pub(super) fn all(pollers: &Pollers, audience: &Audience) -> Vec<View> {
    let mistakes = pollers.mistakes();
    let list = pollers.list();
    let mut views: Vec<View> =
        list.iter().take_while(|_| audience.is_there()).map(|poller| View::new(poller)).collect();
    if mistakes.refused.is_empty() {
        return views;
    }
    let mut refused = mistakes.refused.clone();
    views = views
        .into_iter()
        .map(|view| match refused.remove(&view.id) {
            Some((refused, since)) => view.since_refused(&refused, since),
            None => view,
        })
        .collect();
    views.extend(refused.values().map(|(refused, since)| View::refused(refused, *since)));
    views.sort_by(|a, b| a.id.cmp(&b.id));
    views
}
