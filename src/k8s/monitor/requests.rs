//! What is asked of the API server about single ServiceMonitors. Each write waits for its turn, and is not made by one who leads no more.

use std::sync::Arc;

use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};

use super::super::Shared;
use super::super::access::{ApiError, Rule};
use super::super::leader::Leadership;
use super::desired::Desired;
use super::object::Shown;
use super::observed::Observed;
use super::place::Place;
use super::{GROUP, PLURAL, labels, monitors};

/// Why nothing was written.
#[derive(Debug, PartialEq)]
pub(super) enum Trouble {
    /// The name belongs to somebody else.
    Taken(String),
    /// Another replica leads by now.
    NotLeader,
    /// The API server did not do it.
    Api(ApiError),
}

impl From<ApiError> for Trouble {
    fn from(error: ApiError) -> Self {
        Self::Api(error)
    }
}

/// Who writes, and by whose leave.
#[derive(Clone, Debug)]
pub(super) struct Writes {
    pub(super) shared: Arc<Shared>,
    pub(super) leadership: Leadership,
}

impl Writes {
    /// Makes the monitor at `place` as it should be; `uid` is that of ours which was seen there.
    ///
    /// Where none was seen, it looks first: a monitor that is somebody else's is left as it is.
    pub(super) async fn put(
        &self,
        place: &Place,
        desired: &Desired,
        mut uid: Option<String>,
    ) -> Result<Observed, Trouble> {
        self.shared.write_limiter.acquire().await;
        if uid.is_none() {
            match self.get(place).await {
                Ok(found) if !found.is_ours(&self.shared.settings) => return Err(Trouble::Taken(found.owner())),
                Ok(found) if found.mark(desired) == desired.mark => return Ok(found),
                Ok(found) => uid = Some(found.uid),
                Err(ApiError::NotFound) => {}
                Err(error) => return Err(error.into()),
            }
        }
        if !self.leadership.may_write() {
            return Err(Trouble::NotLeader);
        }
        let mut how = PatchParams::apply(labels::MANAGER);
        // Not over an object that somebody makes in this moment.
        how.force = uid.is_some();
        let manifest = Patch::Apply(desired.manifest(place, uid.as_deref()));
        let (api, rule) = self.at(place, "patch");
        let written = self.shared.cluster.call(rule, api.patch(&place.name, &how, &manifest)).await?;
        tracing::debug!(monitor = %place, "wrote the ServiceMonitor");
        Ok(Observed::new(written))
    }

    /// Removes the monitor that was seen at `place`, unless it is another by now.
    pub(super) async fn remove(&self, place: &Place, uid: String) -> Result<(), Trouble> {
        self.shared.write_limiter.acquire().await;
        if !self.leadership.may_write() {
            return Err(Trouble::NotLeader);
        }
        let (api, rule) = self.at(place, "delete");
        match self.shared.cluster.call(rule, api.delete(&place.name, &only(uid))).await {
            Ok(_) => {
                tracing::debug!(monitor = %place, "removed the ServiceMonitor");
                Ok(())
            }
            Err(ApiError::NotFound | ApiError::Conflict(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    async fn get(&self, place: &Place) -> Result<Observed, ApiError> {
        let (api, rule) = self.at(place, "get");
        let found = self.shared.cluster.call(rule, api.get(&place.name)).await?;
        Ok(Observed::new(found))
    }

    fn at(&self, place: &Place, verb: &'static str) -> (Api<Shown>, Rule) {
        let namespace = Some(&*place.namespace);
        (monitors(&self.shared.cluster, namespace), Rule::new(verb, GROUP, PLURAL, namespace))
    }
}

/// Deletes the object with this `uid` and no other.
pub(in crate::k8s) fn only(uid: String) -> DeleteParams {
    DeleteParams {
        preconditions: Some(Preconditions { uid: Some(uid), resource_version: None }),
        ..DeleteParams::default()
    }
}
