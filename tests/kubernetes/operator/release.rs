//! The exporter as it is installed: replicas of the real program, the Service that Prometheus selects, the rights that it needs.

use std::sync::Arc;
use std::time::Duration;

use kube::api::{Api, DeleteParams};
use scrapetarget_exporter::crd::ScrapeTarget;
use scrapetarget_exporter::file::documents;
use serde_json::Value;
use simulators::Simulated;
use simulators::mediasoup::Agent;
use simulators::orion::Broker;
use simulators::sora::Node;

use super::server::until;
use super::stage::{Stage, own_address};
use crate::support::program::{Running, command};

/// The name of the release, and of its service account.
pub(super) const NAME: &str = "scrapetarget-exporter";
/// The Service that the monitors select, and so the `job` of every series.
pub(super) const SERVICE: &str = "scrapetarget-exporter-probe";

/// Replicas that follow the targets of one namespace, and servers to be targets.
pub(super) struct Release {
    stage: Arc<Stage>,
    /// Where it is installed.
    pub(super) namespace: String,
    /// Where its targets are.
    pub(super) team: String,
    pub(super) replicas: Vec<Running>,
    servers: Servers,
}

struct Servers {
    sora: Simulated,
    orion: Simulated,
    mediasoup: Simulated,
}

impl Release {
    /// Starts this many replicas with further arguments, and waits until they are ready.
    pub(super) async fn start(stage: &Arc<Stage>, replicas: usize, further: &[&str]) -> Self {
        let (namespace, team) = (stage.cluster.namespace("release"), stage.cluster.namespace("team"));
        for manifest in manifests(&namespace) {
            stage.cluster.apply(&manifest.to_string());
        }
        let kubeconfig = stage.cluster.kubeconfig_of(&namespace, NAME);
        let address = own_address().to_string();
        let replica = |number: usize| {
            let mut replica = command(["run", "--listen-address", &format!("{address}:0")]);
            replica.args(["--advertise-address", &address, "--watch-namespace", &team, "--target-allow-loopback"]);
            replica.args(["--discovery.monitor-label", "prometheus=main"]);
            replica.args(["--leader-election.identity", &format!("replica-{number}")]);
            replica.args(further).env("KUBECONFIG", &kubeconfig);
            Running::listening(replica)
        };
        let replicas: Vec<Running> = (0..replicas).map(replica).collect();
        for replica in &replicas {
            replica.until_status("/-/ready", 200).await;
        }
        Self { stage: Arc::clone(stage), namespace, team, replicas, servers: Servers::start().await }
    }

    /// Applies a target with an interval of 1 s; `more` are further fields of its spec, as YAML in braces would have them.
    pub(super) fn apply(&self, name: &str, kind: &str, more: &str) {
        self.stage.cluster.apply(&format!(
            "apiVersion: scrapetarget.dev/v1alpha1\nkind: ScrapeTarget\nmetadata: {{ name: {name}, namespace: {} }}\n\
             spec: {{ type: {kind}, url: '{}', interval: 1s, {more} }}\n",
            self.team,
            self.url(kind),
        ));
    }

    /// The url of the targets of a type.
    pub(super) fn url(&self, kind: &str) -> String {
        let Servers { sora, orion, mediasoup } = &self.servers;
        let server = match kind {
            "Sora" => sora,
            "Orion" => orion,
            _ => mediasoup,
        };
        server.url()
    }

    /// Deletes a target.
    pub(super) async fn delete(&self, name: &str) {
        self.targets().delete(name, &DeleteParams::default()).await.unwrap();
    }

    fn targets(&self) -> Api<ScrapeTarget> {
        Api::namespaced(self.stage.cluster.client(), &self.team)
    }

    /// Takes the leader out of the replicas.
    pub(super) async fn take_leader(&mut self) -> Running {
        let leader = until("a leader", async || {
            for (number, replica) in self.replicas.iter().enumerate() {
                if replica.body("/metrics").await.contains("\nscrapetarget_leader 1\n") {
                    return Ok(number);
                }
            }
            Err(self.log())
        })
        .await;
        self.replicas.remove(leader)
    }

    /// `instance` of a target.
    pub(super) fn instance(&self, name: &str) -> String {
        format!("{}/{name}", self.team)
    }

    /// The status and the reason of a condition of a target.
    pub(super) async fn condition(&self, name: &str, condition: &str) -> Option<(String, String)> {
        let target = self.targets().get(name).await.unwrap();
        let conditions = target.status.unwrap_or_default().conditions;
        let found = conditions.into_iter().find(|found| found.kind == condition)?;
        Some((format!("{:?}", found.status), found.reason))
    }

    /// What the replicas have said so far, for people.
    pub(super) fn log(&self) -> String {
        let log = |(number, replica): (usize, &Running)| format!("--- replica {number}\n{}", replica.log());
        self.replicas.iter().enumerate().map(log).collect()
    }
}

impl Servers {
    /// With an hour of traffic behind them.
    async fn start() -> Self {
        let loopback = (std::net::Ipv4Addr::LOCALHOST, 0).into();
        let history = Duration::from_secs(3600);
        let (sora, orion, agent) = (Node::single(1), Broker::new(1), Agent::new(1));
        sora.pass(history);
        orion.pass(history);
        agent.pass(history);
        Self {
            sora: Simulated::serve(sora.router(), loopback).await.unwrap(),
            orion: Simulated::serve(orion.routes(), loopback).await.unwrap(),
            mediasoup: Simulated::serve(agent.routes(), loopback).await.unwrap(),
        }
    }
}

/// What is shipped for an installation, in a namespace of its own: exactly the permissions that are documented.
fn manifests(namespace: &str) -> Vec<Value> {
    let shipped = [include_str!("../../../deploy/rbac.yaml"), include_str!("../../../deploy/service.yaml")];
    let documents = shipped.into_iter().flat_map(documents);
    let moved = documents.map(|document| {
        let mut manifest = document.value().unwrap();
        if manifest["kind"] == "ClusterRoleBinding" {
            // Beside those of other installations.
            manifest["metadata"]["name"] =
                format!("{}-{namespace}", manifest["metadata"]["name"].as_str().unwrap()).into();
        }
        for namespaced in ["/metadata/namespace", "/subjects/0/namespace"] {
            if let Some(found) = manifest.pointer_mut(namespaced) {
                *found = namespace.into();
            }
        }
        manifest
    });
    moved.collect()
}
