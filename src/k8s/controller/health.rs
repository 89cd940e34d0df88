//! Whether ScrapeTargets can be watched, over all scopes: told once when it begins to fail and once when it works again.

use std::time::Duration;

use tokio::time::Instant;

use super::super::access::ApiError;

/// A restart of the API server is no news.
const PATIENCE: Duration = Duration::from_secs(3);

/// What is wrong with each scope, and what of it has been told.
#[derive(Debug)]
pub(super) struct Health {
    scopes: Vec<State>,
    missing_told: bool,
    away_told: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Fine,
    /// There is no CRD.
    Missing,
    /// Another failure; a missing permission is told by whoever judges answers.
    Failing,
}

impl Health {
    pub(super) fn new(scopes: usize) -> Self {
        Self { scopes: vec![State::Fine; scopes], missing_told: false, away_told: None }
    }

    /// A scope has not worked since then.
    pub(super) fn failing(&mut self, scope: usize, since: Instant, error: &ApiError) {
        match error {
            ApiError::NotFound => {
                self.set(scope, State::Missing);
                if !std::mem::replace(&mut self.missing_told, true) {
                    tracing::warn!(
                        "the cluster has no ScrapeTargets yet; install their CRD: scrapetarget-exporter crd | kubectl apply \
                         --server-side -f -"
                    );
                }
            }
            // It answers, and not to us: no reason to call it away.
            ApiError::Forbidden(_) => self.set(scope, State::Fine),
            ApiError::Conflict(_) | ApiError::Refused(_) | ApiError::Failed(_) | ApiError::Unreachable(_) => {
                self.set(scope, State::Failing);
                if self.away_told.is_none() && since.elapsed() >= PATIENCE {
                    self.away_told = Some(since);
                    tracing::warn!(%error, "ScrapeTargets cannot be watched; those that are known are polled on");
                }
            }
        }
    }

    /// A scope works again.
    pub(super) fn works(&mut self, scope: usize) {
        self.set(scope, State::Fine);
    }

    fn set(&mut self, scope: usize, state: State) {
        if let Some(place) = self.scopes.get_mut(scope) {
            *place = state;
        }
        if self.missing_told && !self.scopes.contains(&State::Missing) {
            self.missing_told = false;
            tracing::info!("the CRD of ScrapeTargets is there now");
        }
        if !self.scopes.contains(&State::Failing)
            && let Some(since) = self.away_told.take()
        {
            tracing::info!(after = ?Duration::from_secs(since.elapsed().as_secs()), "ScrapeTargets are watched again");
        }
    }
}
