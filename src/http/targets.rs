//! Targets as responses show them, and the target that a request names.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, LazyLock};
use std::time::SystemTime;

use arc_swap::ArcSwapOption;
use axum::http::StatusCode;
use reqwest::Url;
use tokio_util::sync::CancellationToken;

use super::AppState;
use super::response::ErrorResponse;
use crate::kind::{Reason, Type, UrlSeparator};
use crate::poll::{Failure, MemberReports, Poller, Pollers, Snapshot, TargetState, TargetStatus};
use crate::target::{RefusedTarget, Target, TargetId};

/// One target at one moment: its declaration, its state, its last poll.
pub(super) struct TargetView {
    pub(super) id: TargetId,
    /// The state that is shown. A target whose declaration has become invalid is `Invalid`, even if it is polled by its last valid one.
    pub(super) status: TargetStatus,
    /// The state by its polls, if it is polled.
    pub(super) polled: Option<TargetState>,
    declaration: TargetDeclaration,
    newest: Option<Arc<Snapshot>>,
}

enum TargetDeclaration {
    Usable(Arc<Target>),
    Unusable(RefusedTarget),
}

/// Shown as the type if the declaration does not say it.
pub(super) const UNKNOWN_TYPE: &str = "unknown";

impl TargetView {
    /// All targets, ordered by name; only some of them if the client has gone meanwhile.
    pub(super) fn all(pollers: &Pollers, cancelled: &CancellationToken) -> Vec<Self> {
        let mistakes = pollers.mistakes();
        let list = pollers.list();
        let polled = list.iter().take_while(|_| !cancelled.is_cancelled()).map(|poller| Self::polled(poller));
        if mistakes.refused.is_empty() {
            return polled.collect();
        }
        let mut refused = mistakes.refused.clone();
        let mut views: Vec<Self> = polled
            .map(|view| match refused.remove(&view.id) {
                Some((refused, since)) => view.with_refusal(&refused, since),
                None => view,
            })
            .collect();
        views.extend(refused.values().map(|(refused, since)| Self::refused(refused, *since)));
        views.sort_by(|a, b| a.id.cmp(&b.id));
        views
    }

    fn polled(poller: &Poller) -> Self {
        let (target, status) = (poller.target(), poller.status());
        Self {
            id: target.id.clone(),
            polled: Some(status.state),
            status,
            declaration: TargetDeclaration::Usable(target),
            newest: poller.newest(),
        }
    }

    /// A target with a result that was made by hand.
    #[cfg(test)]
    pub(super) fn of(target: Target, status: TargetStatus, newest: Option<Snapshot>) -> Self {
        Self {
            id: target.id.clone(),
            polled: Some(status.state),
            status,
            declaration: TargetDeclaration::Usable(Arc::new(target)),
            newest: newest.map(Arc::new),
        }
    }

    /// A target that never had a usable declaration.
    fn refused(refused: &RefusedTarget, since: SystemTime) -> Self {
        Self {
            id: refused.id.clone(),
            status: invalid(&refused.message, since, None),
            polled: None,
            declaration: TargetDeclaration::Unusable(refused.clone()),
            newest: None,
        }
    }

    /// A polled target whose newest declaration is unusable.
    fn with_refusal(mut self, refused: &RefusedTarget, since: SystemTime) -> Self {
        let message = match &self.status.failure {
            Some(failure) => format!("{} ({}: {})", refused.message, self.status.state.as_str(), failure.message),
            None => format!("{} ({})", refused.message, self.status.state.as_str()),
        };
        self.status = invalid(&message, since, self.status.last_success);
        self
    }

    /// The target, if it ever had a usable declaration.
    pub(super) fn target(&self) -> Option<&Target> {
        match &self.declaration {
            TargetDeclaration::Usable(target) => Some(target),
            TargetDeclaration::Unusable(_) => None,
        }
    }

    /// The type, if it is known.
    pub(super) fn kind(&self) -> Option<Type> {
        match &self.declaration {
            TargetDeclaration::Usable(target) => Some(target.source.kind),
            TargetDeclaration::Unusable(refused) => refused.kind,
        }
    }

    pub(super) fn kind_name(&self) -> &'static str {
        self.kind().map_or(UNKNOWN_TYPE, Type::as_str)
    }

    /// The URL of the server; as it was written, if the declaration is unusable.
    pub(super) fn url(&self) -> &str {
        match &self.declaration {
            TargetDeclaration::Usable(target) => target.shown_url(),
            TargetDeclaration::Unusable(refused) => refused.url.as_deref().unwrap_or_default(),
        }
    }

    /// The labels that discovery adds to its series.
    pub(super) fn labels(&self) -> impl Iterator<Item = (&str, &str)> + Clone {
        let labels: Option<&BTreeMap<String, String>> = self.target().map(Target::labels);
        labels.into_iter().flatten().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The newest result, if a poll took place.
    pub(super) fn last_poll(&self) -> Option<&Snapshot> {
        self.newest.as_deref().filter(|snapshot| !snapshot.is_permanent)
    }

    /// The members, in the order of their names; none before the first poll. `None`: it is one process.
    pub(super) fn members(&self) -> Option<&MemberReports> {
        static NONE: LazyLock<MemberReports> = LazyLock::new(MemberReports::default);
        let known = self.newest.as_deref().and_then(|snapshot| snapshot.members.as_deref());
        known.or_else(|| self.target()?.members.as_ref().map(|_| &*NONE))
    }

    /// When the last poll ended.
    pub(super) fn last_poll_at(&self) -> Option<SystemTime> {
        self.last_poll().map(|snapshot| snapshot.ended_at)
    }
}

fn invalid(message: &str, since: SystemTime, last_success: Option<SystemTime>) -> TargetStatus {
    let failure = Some(Failure { reason: Reason::Config, message: message.into() });
    TargetStatus { state: TargetState::Invalid, failure, since, last_success, members: None, partial: None }
}

/// Targets by name alone and by URL, for `--web.loose-targets`; rebuilt when the declared targets have changed.
#[derive(Debug, Default)]
pub(super) struct TargetIndex(ArcSwapOption<IndexedTargets>);

#[derive(Debug)]
struct IndexedTargets {
    revision: u64,
    by_name: HashMap<Box<str>, Vec<TargetId>>,
    by_url: HashMap<(UrlSeparator, Url), Vec<TargetId>>,
}

impl TargetIndex {
    /// Every target that `text` may mean.
    fn find(&self, pollers: &Pollers, text: &str) -> Vec<TargetId> {
        let revision = pollers.revision();
        let indexed = match self.0.load_full() {
            Some(indexed) if indexed.revision == revision => indexed,
            _ => {
                let indexed = Arc::new(IndexedTargets::new(revision, pollers));
                self.0.store(Some(Arc::clone(&indexed)));
                indexed
            }
        };
        if let Some(found) = indexed.by_name.get(text) {
            return found.clone();
        }
        // URLs are compared in their normal form: `http://host:3000` is `http://host:3000/`.
        let found = UrlSeparator::ALL.iter().find_map(|form| indexed.by_url.get(&(*form, form.parse(text).ok()?)));
        found.cloned().unwrap_or_default()
    }
}

impl IndexedTargets {
    fn new(revision: u64, pollers: &Pollers) -> Self {
        let (mut by_name, mut by_url): (HashMap<_, Vec<_>>, HashMap<_, Vec<_>>) = Default::default();
        for poller in pollers.list() {
            let id = poller.id();
            by_name.entry(Box::from(&*id.name)).or_default().push(id.clone());
            let source = Arc::clone(&poller.target().source);
            by_url.entry((source.kind.url().separator, source.url.clone())).or_default().push(id.clone());
        }
        Self { revision, by_name, by_url }
    }
}

/// The poller that the parameter `target` names, or why there is none.
pub(super) fn find_poller(app: &AppState, text: &str) -> Result<Arc<Poller>, ErrorResponse> {
    let id = text.parse::<TargetId>().ok();
    if let Some(poller) = id.as_ref().and_then(|id| app.pollers.get(id)) {
        return Ok(poller);
    }
    let loose = app.options.loose_targets;
    if id.is_none() && !loose {
        let text = format!("target={text:?} is not of the form namespace/name: write both");
        return Err(ErrorResponse::bad_request(text));
    }
    if let Some(why) = app.pollers.unknown() {
        return Err(ErrorResponse::targets_unknown(&why));
    }
    if loose && id.is_none() {
        match app.index.find(&app.pollers, text).as_slice() {
            [] => {}
            [id] => return app.pollers.get(id).ok_or_else(|| undeclared(text)),
            several => return Err(ambiguous(text, several)),
        }
    }
    match id.and_then(|id| app.pollers.mistakes().refused.get(&id).map(|(refused, _)| refused.message.clone())) {
        Some(why) => {
            let text = format!("target {text:?} is declared, but cannot be used: {why}");
            Err(ErrorResponse(StatusCode::NOT_FOUND, text))
        }
        None => Err(undeclared(text)),
    }
}

fn undeclared(text: &str) -> ErrorResponse {
    ErrorResponse(StatusCode::NOT_FOUND, format!("no target {text:?} is declared; / lists those that are"))
}

fn ambiguous(text: &str, candidates: &[TargetId]) -> ErrorResponse {
    /// Candidates that are named; the rest is only counted.
    const MAX_NAMED: usize = 20;
    let named: Vec<String> = candidates.iter().take(MAX_NAMED).map(TargetId::to_string).collect();
    let more = match candidates.len().saturating_sub(MAX_NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let named = named.join(", ");
    ErrorResponse::bad_request(format!("target={text:?} may mean several targets, write one of: {named}{more}"))
}
