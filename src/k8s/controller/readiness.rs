//! Whether the targets of all watched scopes are known, and whether the watches work.

use std::time::Duration;

use tokio::time::Instant;

use crate::k8s::client::ApiError;
use crate::k8s::outage::{Outage, Part};

/// The targets count as known this long after the last list, even if Secrets are still unread.
const UNREAD_SECRETS_TIMEOUT: Duration = Duration::from_secs(3);

/// Decides when the targets are known: from then on, a target that is missing here does not exist in the cluster.
#[derive(Debug)]
pub(super) struct Readiness {
    scopes: Vec<ListState>,
    /// When the last scope was listed or denied.
    listed_at: Option<Instant>,
    is_known: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ListState {
    Pending,
    /// It may not be listed. The other scopes do not wait for it.
    Denied,
    Listed,
}

impl Readiness {
    pub(super) fn new(scopes: usize) -> Self {
        Self { scopes: vec![ListState::Pending; scopes], listed_at: None, is_known: false }
    }

    /// A scope was listed. Returns whether it had been before.
    pub(super) fn listed(&mut self, scope: usize) -> bool {
        let before = self.scopes.get(scope) == Some(&ListState::Listed);
        self.set(scope, ListState::Listed);
        before
    }

    /// A scope may not be listed.
    pub(super) fn denied(&mut self, scope: usize) {
        if self.scopes.get(scope) == Some(&ListState::Pending) {
            self.set(scope, ListState::Denied);
        }
    }

    fn set(&mut self, scope: usize, state: ListState) {
        if let Some(current) = self.scopes.get_mut(scope) {
            *current = state;
        }
        // Where every scope is denied, an empty store does not mean that there are no targets.
        if self.scopes.contains(&ListState::Listed) && !self.scopes.contains(&ListState::Pending) {
            self.listed_at.get_or_insert_with(Instant::now);
        }
    }

    /// When the targets count as known at the latest; `None`: they do already, or a list is missing.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.listed_at.filter(|_| !self.is_known).map(|listed_at| listed_at + UNREAD_SECRETS_TIMEOUT)
    }

    /// Returns whether the targets have just become known. `has_secrets`: no target waits for its Secrets.
    pub(super) fn becomes_known(&mut self, has_secrets: bool) -> bool {
        let becomes = self.deadline().is_some_and(|deadline| has_secrets || deadline <= Instant::now());
        self.is_known |= becomes;
        becomes
    }

    /// Whether the targets are known.
    pub(super) const fn is_known(&self) -> bool {
        self.is_known
    }
}

/// Logs once when the CRD is missing in some scope, and once when it is there again, and reports watches that fail to [`Outage`].
#[derive(Debug)]
pub(super) struct WatchHealth {
    /// By scope.
    lacks_crd: Vec<bool>,
    is_logged: bool,
}

impl WatchHealth {
    pub(super) fn new(scopes: usize) -> Self {
        Self { lacks_crd: vec![false; scopes], is_logged: false }
    }

    /// The watch of a scope failed. `known`: whether there are targets that are still polled.
    pub(super) fn failed(&mut self, scope: usize, error: &ApiError, outage: &Outage, known: bool) {
        match error {
            ApiError::NotFound => {
                outage.works(Part::Targets(scope));
                self.set_lacks_crd(scope, true);
                if !std::mem::replace(&mut self.is_logged, true) {
                    tracing::warn!(
                        "the cluster has no ScrapeTargets yet; install their CRD: scrapetarget-exporter crd | kubectl apply \
                         --server-side -f -"
                    );
                }
            }
            // The API server answers. The missing permission is logged by the client.
            ApiError::Forbidden(_) => self.works(scope, outage),
            ApiError::Conflict(_) | ApiError::Refused(_) | ApiError::Failed(_) | ApiError::Unreachable(_) => {
                self.set_lacks_crd(scope, false);
                outage.failed(Part::Targets(scope), error, known);
            }
        }
    }

    /// The watch of a scope works, or is denied by an API server that works.
    pub(super) fn works(&mut self, scope: usize, outage: &Outage) {
        self.set_lacks_crd(scope, false);
        outage.works(Part::Targets(scope));
    }

    fn set_lacks_crd(&mut self, scope: usize, lacks: bool) {
        if let Some(current) = self.lacks_crd.get_mut(scope) {
            *current = lacks;
        }
        if self.is_logged && !self.lacks_crd.contains(&true) {
            self.is_logged = false;
            tracing::info!("the CRD of ScrapeTargets is installed now");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn targets_are_known_when_every_scope_was_listed_or_denied_and_one_listed() {
        let mut readiness = Readiness::new(2);
        assert!(!readiness.listed(1) && !readiness.becomes_known(true));
        readiness.denied(0);
        assert!(readiness.becomes_known(true) && readiness.is_known());
        assert!(!readiness.becomes_known(true), "only once");
        assert!(readiness.listed(1), "the second time");
    }

    #[tokio::test(start_paused = true)]
    async fn where_everything_is_denied_nothing_is_known() {
        let mut readiness = Readiness::new(2);
        readiness.denied(0);
        readiness.denied(1);
        assert!(!readiness.becomes_known(true));
        readiness.listed(0);
        assert!(readiness.becomes_known(true));
    }

    #[tokio::test(start_paused = true)]
    async fn secrets_that_cannot_be_read_delay_it_for_three_seconds() {
        let mut readiness = Readiness::new(1);
        readiness.listed(0);
        assert!(!readiness.becomes_known(false));
        tokio::time::advance(UNREAD_SECRETS_TIMEOUT).await;
        assert!(readiness.becomes_known(false));
        assert_eq!(readiness.deadline(), None);
    }
}
