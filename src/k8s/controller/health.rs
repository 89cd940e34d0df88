//! Whether ScrapeTargets can be watched, over all scopes. That there is no CRD is told once when it begins and once when it ends.

use super::super::access::ApiError;
use super::super::outage::{Outage, Part};

/// In which scopes there is no CRD, and whether that has been told.
#[derive(Debug)]
pub(super) struct Health {
    missing: Vec<bool>,
    told: bool,
}

impl Health {
    pub(super) fn new(scopes: usize) -> Self {
        Self { missing: vec![false; scopes], told: false }
    }

    /// A scope has failed. `known`: whether there are targets that can be polled on.
    pub(super) fn failing(&mut self, scope: usize, error: &ApiError, outage: &Outage, known: bool) {
        match error {
            ApiError::NotFound => {
                outage.over(Part::Targets(scope));
                self.set(scope, true);
                if !std::mem::replace(&mut self.told, true) {
                    tracing::warn!(
                        "the cluster has no ScrapeTargets yet; install their CRD: scrapetarget-exporter crd | kubectl apply \
                         --server-side -f -"
                    );
                }
            }
            // It answers, and not to us: no reason to call it away. What is missing is told by whoever judges answers.
            ApiError::Forbidden(_) => self.works(scope, outage),
            ApiError::Conflict(_) | ApiError::Refused(_) | ApiError::Failed(_) | ApiError::Unreachable(_) => {
                self.set(scope, false);
                outage.lasts(Part::Targets(scope), error, known);
            }
        }
    }

    /// A scope works again.
    pub(super) fn works(&mut self, scope: usize, outage: &Outage) {
        self.set(scope, false);
        outage.over(Part::Targets(scope));
    }

    fn set(&mut self, scope: usize, missing: bool) {
        if let Some(place) = self.missing.get_mut(scope) {
            *place = missing;
        }
        if self.told && !self.missing.contains(&true) {
            self.told = false;
            tracing::info!("the CRD of ScrapeTargets is there now");
        }
    }
}
