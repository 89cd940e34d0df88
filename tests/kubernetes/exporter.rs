//! The exporter as it is installed in a cluster: replicas of the real program, all with one service account.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::ops::{Deref, DerefMut};
use std::path::PathBuf;
use std::time::Duration;

use futures::StreamExt;
use kube::api::{Api, ApiResource, DynamicObject, PostParams};
use scrapetarget_exporter::crd::ScrapeTarget;
use serde_json::Value;
use simulators::Simulated;
use simulators::mediasoup::Agent;

use crate::support::cluster::{AuditLine, Cluster};
pub(crate) use crate::support::eventually::eventually as until;
use crate::support::program::{Running, command};
use crate::support::series;

/// Longer than anything takes on a busy machine, and the longest pause between two tries besides, which is a minute.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60 + 120);

/// The permissions that we tell people to give.
const RIGHTS: &str = include_str!("../../deploy/rbac.yaml");

/// An installation in a namespace of its own.
pub(crate) struct Release {
    /// Where it is installed; also its own name and that of its service account.
    pub(crate) namespace: String,
    kubeconfig: PathBuf,
    arguments: Vec<String>,
    started: Cell<u8>,
}

impl Release {
    /// A release that may do what it must, and follows the targets of these namespaces (none: of all), with further arguments.
    pub(crate) fn install(cluster: &Cluster, watched: &[&str], arguments: &[&str]) -> Self {
        let release = Self::without_rights(cluster, watched, arguments);
        let name = &release.namespace;
        let rights = RIGHTS.replace("namespace: prometheus", &format!("namespace: {name}"));
        cluster.apply(&rights.replace("scrapetarget-exporter", name));
        release
    }

    /// The same with no permission but those that [`grant`](Self::grant) gives.
    pub(crate) fn without_rights(cluster: &Cluster, watched: &[&str], arguments: &[&str]) -> Self {
        let namespace = cluster.namespace("release");
        let kubeconfig = cluster.kubeconfig_of(&namespace, &namespace);
        let watched = watched.iter().flat_map(|namespace| ["--watch-namespace", namespace]);
        let arguments = watched.chain(arguments.iter().copied()).map(ToOwned::to_owned).collect();
        Self { namespace, kubeconfig, arguments, started: Cell::new(0) }
    }

    /// Gives it the rules, a list in YAML, in one namespace.
    pub(crate) fn grant(&self, cluster: &Cluster, namespace: &str, rules: &str) {
        cluster.grant(namespace, &format!("{}-granted", self.namespace), &self.namespace, rules);
    }

    /// Starts a replica, and waits until it listens: `replica-1`, `replica-2` and so on. It stops at once when it is told to.
    pub(crate) fn replica(&self) -> Replica {
        self.started.set(self.started.get() + 1);
        let name = format!("replica-{}", self.started.get());
        let mut command = command(["run", "--listen-address", "127.0.0.1:0", "--shutdown-delay", "0s"]);
        command.args(["--target-allow-loopback", "--advertise-address", &format!("192.0.2.{}", self.started.get())]);
        command.args(["--namespace", &self.namespace, "--release-name", &self.namespace]);
        command.args(["--leader-election.identity", &name]);
        command.args(&self.arguments).env("KUBECONFIG", &self.kubeconfig);
        Replica(Running::listening(command))
    }

    /// Starts a replica, and waits until it is ready.
    pub(crate) async fn ready(&self) -> Replica {
        let replica = self.replica();
        replica.until_status("/-/ready", 200).await;
        replica
    }

    /// Everything that its replicas have asked the API server.
    pub(crate) fn asked(&self, cluster: &Cluster) -> Vec<AuditLine> {
        let user = format!("system:serviceaccount:{name}:{name}", name = self.namespace);
        cluster.audit().into_iter().filter(|line| line.user == user).collect()
    }
}

/// One process of it.
pub(crate) struct Replica(Running);

impl Deref for Replica {
    type Target = Running;

    fn deref(&self) -> &Running {
        &self.0
    }
}

impl DerefMut for Replica {
    fn deref_mut(&mut self) -> &mut Running {
        &mut self.0
    }
}

/// Labels of a target in `/sd`, by their names.
pub(crate) type Labels = BTreeMap<String, String>;

impl Replica {
    /// Every series of a target, `NAMESPACE/NAME`, as a scrape gets it; `None`: it is not declared.
    pub(crate) async fn probe(&self, target: &str) -> Option<BTreeMap<String, f64>> {
        let path = format!("/probe?target={target}");
        let (status, body) = self.get(&path).await.unwrap_or_else(|| panic!("no answer to {path}:\n{}", self.log()));
        match status {
            200 => Some(series(&body)),
            404 => None,
            _ => panic!("{path}: {status} {body}\n{}", self.log()),
        }
    }

    /// The targets of `/sd` with their labels, by `NAMESPACE/NAME`; `None`: it does not say, since they are not known yet.
    pub(crate) async fn sd(&self) -> Option<BTreeMap<String, Labels>> {
        let (status, body) = self.get("/sd").await.unwrap_or_else(|| panic!("no answer to /sd:\n{}", self.log()));
        if status != 200 {
            return None;
        }
        let groups: Vec<Value> = serde_json::from_str(&body).unwrap();
        let labels = |group: &Value| serde_json::from_value::<Labels>(group["labels"].clone()).unwrap();
        Some(groups.iter().map(labels).map(|labels| (labels["instance"].clone(), labels)).collect())
    }

    /// Waits until it is ready and a target is polled with success.
    pub(crate) async fn until_up(&self, target: &str) {
        until(PATIENCE, async || match self.get("/-/ready").await {
            Some((200, _)) => Ok(()),
            other => Err(format!("it is not ready: {other:?}\n{}", self.log())),
        })
        .await;
        until(PATIENCE, async || match self.probe(target).await {
            Some(series) if series.get("probe_success") == Some(&1.0) => Ok(()),
            other => Err(format!("{target} is not up: {other:?}\n{}", self.log())),
        })
        .await;
    }

    /// Waits until a target is not declared any more.
    pub(crate) async fn until_gone(&self, target: &str) {
        until(PATIENCE, async || match self.probe(target).await {
            None => Ok(()),
            Some(_) => Err(format!("{target} is still there\n{}", self.log())),
        })
        .await;
    }

    /// The value of one series of `/metrics`; 0 if it is not there.
    pub(crate) async fn metric(&self, series_name: &str) -> f64 {
        series(&self.body("/metrics").await).get(series_name).copied().unwrap_or_default()
    }
}

/// A server that any number of targets may name.
pub(crate) async fn server() -> Simulated {
    Simulated::serve(Agent::new(1).routes(), (Ipv4Addr::LOCALHOST, 0).into()).await.unwrap()
}

/// A target of type Mediasoup that is polled every second; `more` are further fields of its spec, as they stand in braces.
pub(crate) fn target(namespace: &str, name: &str, url: &str, more: &str) -> String {
    format!(
        "apiVersion: scrapetarget.dev/v1alpha1\nkind: ScrapeTarget\nmetadata: {{ name: {name}, namespace: {namespace} }}\n\
         spec: {{ type: Mediasoup, url: '{url}', interval: 1s, {more} }}\n---\n"
    )
}

/// Makes many targets of one namespace at once, each of a manifest in JSON.
pub(crate) async fn create(cluster: &Cluster, namespace: &str, manifests: impl IntoIterator<Item = Value>) {
    let api = targets(cluster, namespace);
    let made = futures::stream::iter(manifests).map(|manifest| {
        let (api, target) = (api.clone(), serde_json::from_value(manifest).unwrap());
        async move {
            match api.create(&PostParams::default(), &target).await {
                // The client asks again when an answer is lost, and what it had asked for before is done.
                Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
                made => made.map(|_| ()),
            }
        }
    });
    made.buffer_unordered(16).for_each(async |result| result.unwrap()).await;
}

/// The targets of one namespace, whatever they look like.
pub(crate) fn targets(cluster: &Cluster, namespace: &str) -> Api<DynamicObject> {
    Api::namespaced_with(cluster.client(), namespace, &ApiResource::erase::<ScrapeTarget>(&()))
}

/// What a target's status says: `True/Accepted` of each condition, and its message.
pub(crate) fn told(target: &DynamicObject) -> BTreeMap<String, (String, String)> {
    let conditions = target.data["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let text = |condition: &Value, field: &str| condition[field].as_str().unwrap_or_default().to_owned();
    conditions
        .iter()
        .map(|condition| {
            let verdict = format!("{}/{}", text(condition, "status"), text(condition, "reason"));
            (text(condition, "type"), (verdict, text(condition, "message")))
        })
        .collect()
}
