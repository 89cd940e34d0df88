//! The status of each ScrapeTarget: five conditions, written by the leader, and only where they differ from what the cluster holds.
//!
//! The facts are gathered here, `conditions` turns them into a status, and `writer` decides when it is written.

mod conditions;
mod writer;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use kube::api::{Api, Patch, PatchParams};
use kube::core::Resource as _;
use serde::Deserialize as _;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub(super) use self::writer::LIMITS;

use self::conditions::{ScrapeFacts, StatusFacts};
use self::writer::{StatusBackend, StatusWriter};
use super::Shared;
use super::client::{ApiError, PolicyRule};
use super::labels;
use super::leader::Leadership;
use super::observed::{ObservedTarget, RawTarget};
use super::outage::Part;
use super::rate_limiter::RateLimiter;
use super::target_store::{TargetRecord, TargetStore};
use super::workqueue::WorkQueue;
use crate::crd::{ScrapeTarget, ScrapeTargetStatus};
use crate::poll::Poller;
use crate::target::TargetId;

pub(super) fn start(
    shared: &Arc<Shared>,
    leadership: Leadership,
    tasks: &mut JoinSet<&'static str>,
    stop: &CancellationToken,
) {
    let backend = ClusterStatuses { shared: Arc::clone(shared), leadership: leadership.clone() };
    let (backend, stop) = (Arc::new(backend), stop.clone());
    tasks.spawn(async move {
        stop.run_until_cancelled(run(backend, leadership)).await;
        "status"
    });
}

/// Writes while this replica leads.
async fn run(backend: Arc<ClusterStatuses>, mut leadership: Leadership) {
    loop {
        // A new leader compares every target, so that keys which were queued before are not needed.
        while tokio::time::timeout(writer::RESYNC, leadership.granted()).await.is_err() {
            backend.queue().clear();
        }
        backend.queue().clear();
        StatusWriter::new(Arc::clone(&backend)).run().await;
        backend.shared.outage.works(Part::Statuses);
    }
}

/// The statuses of the cluster, as the leader writes them.
struct ClusterStatuses {
    shared: Arc<Shared>,
    leadership: Leadership,
}

impl StatusBackend for ClusterStatuses {
    fn store(&self) -> &TargetStore {
        &self.shared.targets
    }

    fn queue(&self) -> &WorkQueue<TargetId> {
        &self.shared.statuses
    }

    fn write_limiter(&self) -> &RateLimiter {
        &self.shared.write_limiter
    }

    fn may_write(&self) -> bool {
        self.leadership.may_write()
    }

    async fn lost(&self) {
        self.leadership.clone().lost().await;
    }

    fn desired(&self, record: &TargetRecord, watched_for: Duration) -> ScrapeTargetStatus {
        let TargetRecord { object, accepted, monitor } = record;
        let poller = self.shared.pollers.get(&object.id);
        let mut facts = StatusFacts {
            now: SystemTime::now(),
            generation: object.generation,
            observed: &object.status,
            accepted: None,
            suspended: false,
            has_members: false,
            monitor: monitor.as_ref(),
            poll: None,
            scrapes: None,
        };
        let declared = match &object.declaration {
            Ok(declared) => declared,
            Err(problem) => return conditions::status(&StatusFacts { accepted: Some(Err(problem)), ..facts }),
        };
        // Until the poller has this very declaration, its polls and `accepted` belong to the one before.
        let current = poller.as_ref().is_none_or(|poller| poller.target().declaration == *declared);
        let poll = poller.as_ref().filter(|poller| current && is_fresh(poller)).map(|poller| poller.status());
        let accepted = accepted.as_ref().filter(|_| current).map(|accepted| accepted.as_ref().map(|&()| ()));
        facts.accepted = accepted.filter(|accepted| {
            accepted.err().is_none_or(|problem| conditions::is_worth_reporting(problem, watched_for))
        });
        facts.poll = poll.as_ref();
        facts.suspended = declared.spec.suspend;
        facts.has_members = declared.spec.members.is_some();
        facts.scrapes = Some(ScrapeFacts {
            interval: declared.spec.effective_scrape_interval(),
            last: poller.as_ref().and_then(|poller| poller.since_last_scrape()),
            watched_for,
            mode: self.shared.settings.discovery.mode,
            monitor: declared.spec.monitor.as_ref().is_none_or(|monitor| monitor.enabled),
        });
        conditions::status(&facts)
    }

    async fn write(&self, object: &ObservedTarget, status: &ScrapeTargetStatus) -> Result<(), ApiError> {
        let (namespace, name) = (&*object.id.namespace, &*object.id.name);
        // A ClusterRole is one rule for all namespaces: if it is missing, that is logged once.
        let scope = (!self.shared.settings.watch_namespaces.is_empty()).then_some(namespace);
        let rule = PolicyRule::new("patch", "scrapetarget.dev", "scrapetargets/status", scope);
        let api: Api<RawTarget> = Api::namespaced(self.shared.client.kube(), namespace);
        let (params, patch) = patch(object, status);
        let answer = self.shared.client.call(rule, api.patch_status(name, &params, &patch)).await;
        match &answer {
            Err(error @ ApiError::Unreachable(_)) => self.shared.outage.failed(Part::Statuses, error, true),
            _ => self.shared.outage.works(Part::Statuses),
        }
        let answer = answer?;
        let held = ScrapeTargetStatus::deserialize(&answer.status).unwrap_or_default();
        self.shared.targets.put_status(object, answer.metadata.resource_version.unwrap_or_default(), held);
        Ok(())
    }
}

/// Whether the last poll is recent. A standby polls only when it is scraped, which may be long ago.
fn is_fresh(poller: &Poller) -> bool {
    let target = poller.target();
    let oldest = target.interval * 2 + target.timeout;
    poller
        .newest()
        .is_some_and(|snapshot| snapshot.is_permanent || snapshot.is_held() || snapshot.ended.elapsed() <= oldest)
}

/// With the resource version, the write fails if the object has changed since, or was deleted and created again. (The uid would not do: the
/// API server does not compare it when a status is written.)
fn patch(object: &ObservedTarget, status: &ScrapeTargetStatus) -> (PatchParams, Patch<Value>) {
    let mut body = json!({
        "apiVersion": ScrapeTarget::api_version(&()),
        "kind": ScrapeTarget::kind(&()),
        "metadata": {
            "namespace": object.id.namespace,
            "name": object.id.name,
            "resourceVersion": object.resource_version,
        },
        "status": status,
    });
    if object.declaration.is_ok() {
        return (PatchParams::apply(labels::MANAGER).force(), Patch::Apply(body));
    }
    // For an object with a field of the wrong type, the API server answers 500 to server-side apply. A merge replaces the whole list, so
    // the conditions of others are sent along.
    let conditions = status.conditions.iter().chain(conditions::foreign_conditions(&object.status, status));
    body["status"]["conditions"] = json!(conditions.collect::<Vec<_>>());
    body["status"]["members"] = json!(status.members); // `null` removes it
    let params = PatchParams { field_manager: Some(labels::MANAGER.to_owned()), ..PatchParams::default() };
    (params, Patch::Merge(body))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crd::{ParsedTarget, ScrapeTargetSpec};
    use crate::kind::Type;
    use crate::target::Problem;

    #[test]
    fn a_patch_names_the_version_of_the_object_that_was_judged() {
        let spec = ScrapeTargetSpec::new(Type::Sora, "http://127.0.0.1:9/");
        let valid = ParsedTarget::parse(ScrapeTarget::new("a", spec)).unwrap();
        for declaration in [Ok(Arc::new(valid)), Err(Problem::invalid_spec("too odd"))] {
            let object = ObservedTarget {
                id: TargetId::new("team", "a"),
                uid: "uid".into(),
                generation: 1,
                resource_version: "17".to_owned(),
                declaration,
                status: ScrapeTargetStatus::default(),
            };
            let (_, patch) = patch(&object, &ScrapeTargetStatus::default());
            let (Patch::Apply(body) | Patch::Merge(body)) = patch else { panic!("neither of the two that are in use") };
            assert_eq!(body["metadata"]["resourceVersion"], "17");
            assert_eq!(body["metadata"]["name"], "a");
        }
    }
}
