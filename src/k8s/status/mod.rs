//! What the cluster is told of each target: its five conditions, written by the leader, and only where they differ.
//!
//! Facts are gathered here, judged by `conditions`, and written in the order and at the times that `writer` chooses.

mod agenda;
mod conditions;
mod ledger;
mod writer;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use kube::api::{Api, Patch, PatchParams};
use kube::core::Resource as _;
use serde::Deserialize as _;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::conditions::{Facts, Scrapes};
use self::writer::{Fleet, Writer};
use super::Shared;
use super::access::{ApiError, Rule};
use super::catalog::{Catalog, Object, Record};
use super::labels;
use super::leader::Leadership;
use super::object::Shown;
use super::outage::Part;
use super::pace::Pace;
use crate::crd::{ScrapeTarget, ScrapeTargetStatus};
use crate::poll::{Poller, Queue};

pub(super) fn start(
    shared: &Arc<Shared>,
    leadership: Leadership,
    tasks: &mut JoinSet<&'static str>,
    stop: &CancellationToken,
) {
    let fleet = Cluster { shared: Arc::clone(shared), leadership: leadership.clone() };
    let (fleet, stop) = (Arc::new(fleet), stop.clone());
    tasks.spawn(async move {
        stop.run_until_cancelled(run(fleet, leadership)).await;
        "status"
    });
}

/// Writes while this replica may, and rests while it may not.
async fn run(fleet: Arc<Cluster>, mut leadership: Leadership) {
    loop {
        // A leader looks at every target when it begins: what is marked before that is worth nothing.
        while tokio::time::timeout(writer::HEAL, leadership.granted()).await.is_err() {
            fleet.marked().clear();
        }
        Writer::new(Arc::clone(&fleet)).lead().await;
        fleet.shared.outage.over(Part::Statuses);
    }
}

/// The targets of the cluster.
struct Cluster {
    shared: Arc<Shared>,
    leadership: Leadership,
}

impl Fleet for Cluster {
    fn catalog(&self) -> &Catalog {
        &self.shared.catalog
    }

    fn marked(&self) -> &Queue {
        &self.shared.statuses
    }

    fn pace(&self) -> &Pace {
        &self.shared.pace
    }

    fn may_write(&self) -> bool {
        self.leadership.may_write()
    }

    async fn lost(&self) {
        self.leadership.clone().lost().await;
    }

    fn wanted(&self, record: &Record, watched_for: Duration) -> ScrapeTargetStatus {
        let Record { object, accepted, monitor } = record;
        let poller = self.shared.pollers.get(&object.id);
        let mut facts = Facts {
            now: SystemTime::now(),
            generation: object.generation,
            observed: &object.status,
            accepted: None,
            suspended: false,
            monitor: monitor.as_ref(),
            poll: None,
            scrapes: None,
        };
        let declared = match &object.declaration {
            Ok(declared) => declared,
            Err(problem) => return conditions::status(&Facts { accepted: Some(Err(problem)), ..facts }),
        };
        // Until the poller has this very declaration, both its polls and the judgement are of the one before.
        let current = poller.as_ref().is_none_or(|poller| poller.target().declaration.spec == declared.spec);
        let poll = poller.as_ref().filter(|poller| current && is_fresh(poller)).map(|poller| poller.status());
        let accepted = accepted.as_ref().filter(|_| current).map(|accepted| accepted.as_ref().map(|&()| ()));
        facts.accepted = accepted
            .filter(|accepted| accepted.err().is_none_or(|problem| conditions::is_certain(problem, watched_for)));
        facts.poll = poll.as_ref();
        facts.suspended = declared.spec.suspend;
        facts.scrapes = Some(Scrapes {
            interval: declared.spec.effective_scrape_interval(),
            last: poller.as_ref().and_then(|poller| poller.since_last_scrape()),
            watched_for,
            mode: self.shared.settings.discovery.mode,
            monitor: declared.spec.monitor.as_ref().is_none_or(|monitor| monitor.enabled),
        });
        conditions::status(&facts)
    }

    async fn write(&self, object: &Object, status: &ScrapeTargetStatus) -> Result<(), ApiError> {
        let (namespace, name) = (&*object.id.namespace, &*object.id.name);
        // Permission for all namespaces is one rule, and its lack is one line in the log.
        let scope = (!self.shared.settings.watch_namespaces.is_empty()).then_some(namespace);
        let rule = Rule::new("patch", "scrapetarget.dev", "scrapetargets/status", scope);
        let api: Api<Shown> = Api::namespaced(self.shared.cluster.client(), namespace);
        let (params, patch) = patch(object, status);
        let answer = self.shared.cluster.call(rule, api.patch_status(name, &params, &patch)).await;
        match &answer {
            Err(error @ ApiError::Unreachable(_)) => self.shared.outage.lasts(Part::Statuses, error, true),
            _ => self.shared.outage.over(Part::Statuses),
        }
        let answer = answer?;
        let held = ScrapeTargetStatus::deserialize(&answer.status).unwrap_or_default();
        self.shared.catalog.put_status(object, answer.metadata.resource_version.unwrap_or_default(), held);
        Ok(())
    }
}

/// Whether what is known of a target is of now: a standby may have polled it long ago, when somebody asked.
fn is_fresh(poller: &Poller) -> bool {
    let target = poller.target();
    let oldest = target.interval * 2 + target.timeout;
    poller.newest().is_some_and(|snapshot| snapshot.is_permanent || snapshot.ended.elapsed() <= oldest)
}

/// By its version, nothing is said of an object that has changed since it was judged, or was made anew under the same name. (Its uid
/// would not do: for a status the API server does not look at it.)
fn patch(object: &Object, status: &ScrapeTargetStatus) -> (PatchParams, Patch<Value>) {
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
    // The API server answers 500 to server-side apply on an object with a field of the wrong type. This replaces the whole list.
    let conditions = status.conditions.iter().chain(conditions::of_others(&object.status, status));
    body["status"]["conditions"] = json!(conditions.collect::<Vec<_>>());
    let params = PatchParams { field_manager: Some(labels::MANAGER.to_owned()), ..PatchParams::default() };
    (params, Patch::Merge(body))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crd::ScrapeTargetSpec;
    use crate::kind::Type;
    use crate::target::{Problem, TargetId};

    #[test]
    fn a_patch_names_the_version_of_the_object_that_was_judged() {
        let spec = ScrapeTargetSpec::new(Type::Sora, "http://127.0.0.1:9/");
        for declaration in [Ok(Arc::new(ScrapeTarget::new("a", spec))), Err(Problem::invalid_spec("too odd"))] {
            let object = Object {
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
