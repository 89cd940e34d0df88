//! The real thing: does what happens, and looks at what has become of it.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Secret;
use kube::Client;
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams};
use kube::core::GroupVersionKind;
use scrapetarget_exporter::crd::ScrapeTarget;
use serde_json::json;
use simulators::mediasoup::Agent;
use simulators::{Mode, Simulated};

use super::operation::{End, Operation, Place, SERVERS, Spec};
use super::world::{Names, Picture, World, name};
use crate::exporter::{Release, Replica, told};
use crate::support::cluster::Cluster;
use crate::support::program::signal;
use crate::support::series;

/// How long it may take until all is as it should be. The longest waits are a minute, for monitors that somebody deleted with their
/// kind, and half a minute until that kind is noticed.
const PATIENCE: Duration = Duration::from_secs(60 + 30 + 120);

/// A release with two replicas in a cluster that others may have used before, and two servers.
pub(super) struct Stage<'c> {
    cluster: &'c Cluster,
    client: Client,
    names: Names,
    release: Release,
    replicas: Vec<Replica>,
    servers: Vec<(Agent, Simulated)>,
}

impl<'c> Stage<'c> {
    pub(super) async fn set_up(cluster: &'c Cluster, in_release: bool) -> Self {
        let spaces = [(); 2].map(|()| cluster.namespace("team"));
        let place = if in_release { "release" } else { "target" };
        // A short Lease, since replicas are killed.
        let arguments = ["--discovery.monitor-namespace", place, "--leader-election.lease-duration", "5s"];
        let release = Release::install(cluster, &[&spaces[0], &spaces[1]], &arguments);
        let mut servers = Vec::new();
        for seed in 1..=SERVERS {
            let agent = Agent::new(seed.try_into().unwrap());
            let server = Simulated::serve(agent.routes(), (Ipv4Addr::LOCALHOST, 0).into()).await.unwrap();
            servers.push((agent, server));
        }
        let replicas = vec![release.replica(), release.replica()];
        let names = Names { spaces, monitors: in_release.then(|| release.namespace.clone()) };
        Self { cluster, client: cluster.client(), names, release, replicas, servers }
    }

    pub(super) async fn perform(&mut self, operation: &Operation) {
        match operation {
            Operation::Put(place, spec) => self.put(*place, spec).await,
            Operation::Delete(place) => self.delete(*place).await,
            Operation::Replace(place, spec) => {
                self.delete(*place).await;
                self.put(*place, spec).await;
            }
            Operation::PutSecret(place, key) => {
                let data = if *key { json!({ "token": "good" }) } else { json!({ "other": "good" }) };
                let secret = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": name(*place) }, "stringData": data });
                let api = self.secrets(*place);
                // Applied, the key that is not there any more would stay.
                let _ = api.delete(&name(*place), &DeleteParams::default()).await;
                api.patch(&name(*place), &apply(), &Patch::Apply(secret)).await.unwrap();
            }
            Operation::DeleteSecret(place) => {
                self.secrets(*place).delete(&name(*place), &DeleteParams::default()).await.unwrap();
            }
            Operation::Serve(server, answers) => {
                self.servers[*server].0.switch().set(if *answers { Mode::Healthy } else { Mode::Status(503) });
            }
            Operation::Renew(replica, end) => self.renew(*replica, *end),
            Operation::Hang(milliseconds) => {
                self.cluster.stop();
                tokio::time::sleep(Duration::from_millis(*milliseconds)).await;
                self.cluster.cont();
            }
            Operation::Restart => self.cluster.restart(),
            Operation::RenewCrd => {
                self.cluster.remove_crd("scrapetargets.scrapetarget.dev");
                self.cluster.install_crd();
            }
            Operation::DeleteOperatorCrd => self.cluster.remove_crd("servicemonitors.monitoring.coreos.com"),
            Operation::InstallOperatorCrd => self.cluster.install_operator_crds(&["servicemonitors"]),
            Operation::Look => {}
        }
    }

    fn renew(&mut self, replica: usize, end: End) {
        let old = &mut self.replicas[replica];
        signal(old.id(), if matches!(end, End::Killed) { "KILL" } else { "TERM" });
        let status = old.ended();
        assert!(matches!(end, End::Killed) || status.success(), "{status}:\n{}", old.log());
        self.replicas[replica] = self.release.replica();
    }

    async fn put(&self, place: Place, spec: &Spec) {
        let Spec { server, interval, region, suspend, monitor, team, secret } = spec;
        let url =
            self.servers.get(*server).map_or_else(|| "http://127.0.0.1:1/".to_owned(), |(_, server)| server.url());
        let mut body = json!({
            "type": "Mediasoup",
            "url": url,
            "interval": format!("{interval}s"),
            "suspend": suspend,
            "monitor": { "enabled": monitor },
        });
        if let Some(team) = team {
            body["monitor"]["labels"] = json!({ "team": team });
        }
        if let Some(region) = region {
            body["labels"] = json!({ "region": region });
        }
        if let Some(secret) = secret {
            let secret = name(Place { name: *secret, ..place });
            body["authorization"] = json!({ "credentials": { "name": secret, "key": "token" } });
        }
        let manifest = json!({
            "apiVersion": "scrapetarget.dev/v1alpha1", "kind": "ScrapeTarget", "metadata": { "name": name(place) }, "spec": body,
        });
        self.targets(place.space).patch(&name(place), &apply(), &Patch::Apply(manifest)).await.unwrap();
    }

    async fn delete(&self, place: Place) {
        self.targets(place.space).delete(&name(place), &DeleteParams::default()).await.unwrap();
    }

    fn targets(&self, space: usize) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), &self.names.spaces[space], &ApiResource::erase::<ScrapeTarget>(&()))
    }

    fn secrets(&self, place: Place) -> Api<Secret> {
        Api::namespaced(self.client.clone(), &self.names.spaces[place.space])
    }

    /// Waits until all is as it should be.
    pub(super) async fn settle(&mut self, world: &mut World) -> Result<(), String> {
        for operation in world.amends() {
            world.change(&operation);
            self.perform(&operation).await;
        }
        let start = Instant::now();
        let wanted = world.picture(&self.names, self.replicas.len());
        loop {
            let seen = self.look(&wanted).await;
            if seen == wanted {
                return Ok(());
            }
            if start.elapsed() > PATIENCE {
                return Err(self.difference(&wanted, &seen));
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    fn difference(&self, wanted: &Picture, seen: &Picture) -> String {
        let nothing = "nothing".to_owned();
        let keys: BTreeSet<&String> = wanted.keys().chain(seen.keys()).collect();
        let line = |key| {
            let [wanted, seen] = [wanted, seen].map(|picture: &Picture| picture.get(key).unwrap_or(&nothing));
            (wanted != seen).then(|| format!("{key}:\n  wanted {wanted}\n  seen   {seen}\n"))
        };
        let lines: String = keys.into_iter().filter_map(line).collect();
        let log = |replica: &Replica| {
            let log = replica.log();
            let lines: Vec<&str> = log.lines().collect();
            lines[lines.len().saturating_sub(60)..].join("\n")
        };
        let logs: Vec<String> = self.replicas.iter().map(log).collect();
        format!("not within {PATIENCE:?}:\n{lines}\n{}", logs.join("\n---\n"))
    }

    /// What can be seen. Of targets that should not be there as well.
    async fn look(&self, wanted: &Picture) -> Picture {
        let mut picture = Picture::new();
        for (number, replica) in self.replicas.iter().enumerate() {
            for (target, labels) in replica.sd().await.unwrap_or_default() {
                picture.insert(format!("sd {target} by {number}"), format!("{labels:?}"));
            }
            for target in self.places().map(|place| self.names.full(place)) {
                let probe = probe(replica, &target).await;
                let key = format!("probe {target} by {number}");
                if probe != "404" || wanted.contains_key(&key) {
                    picture.insert(key, probe);
                }
            }
        }
        for space in 0..self.names.spaces.len() {
            for target in self.targets(space).list(&ListParams::default()).await.unwrap() {
                let name = target.metadata.name.as_deref().unwrap();
                picture.insert(format!("status {}/{name}", self.names.spaces[space]), status(&target));
            }
        }
        self.add_monitors(&mut picture).await;
        picture
    }

    fn places(&self) -> impl Iterator<Item = Place> {
        (0..self.names.spaces.len()).flat_map(|space| (0..4).map(move |name| Place { space, name }))
    }

    async fn add_monitors(&self, picture: &mut Picture) {
        let kind = GroupVersionKind::gvk("monitoring.coreos.com", "v1", "ServiceMonitor");
        let api = Api::<DynamicObject>::all_with(self.client.clone(), &ApiResource::from_gvk(&kind));
        let ours = ListParams::default().labels(&format!("scrapetarget.dev/release={}", self.release.namespace));
        // Without their CRD there are none.
        for monitor in api.list(&ours).await.into_iter().flatten() {
            let own = if self.names.monitors.is_some() { "*" } else { monitor.metadata.name.as_deref().unwrap() };
            let labels = monitor.metadata.labels.clone().unwrap_or_default();
            let endpoint = &monitor.data["spec"]["endpoints"][0];
            let target = endpoint["params"]["target"][0].as_str().unwrap();
            let key = format!("monitor {}/{own} of {target}", monitor.metadata.namespace.as_deref().unwrap());
            let team = labels.get("team").map_or("-", String::as_str);
            let line = format!("{} {team}", endpoint["interval"].as_str().unwrap());
            let before = picture.insert(key.clone(), line);
            assert_eq!(before, None, "{key} twice");
        }
    }
}

fn apply() -> PatchParams {
    PatchParams::apply("tests").force()
}

/// `probe_success` and the reason, or the HTTP status.
async fn probe(replica: &Replica, target: &str) -> String {
    let Some((code, body)) = replica.get(&format!("/probe?target={target}")).await else {
        return "no answer".to_owned();
    };
    if code != 200 {
        return code.to_string();
    }
    let series = series(&body);
    let success = series.get("probe_success").map_or_else(|| "-".to_owned(), ToString::to_string);
    let reason = series.keys().find_map(|name| name.strip_prefix("probe_failure_info{reason=\"")?.strip_suffix("\"}"));
    format!("{success} {}", reason.unwrap_or("-"))
}

fn status(target: &DynamicObject) -> String {
    let observed = target.data["status"]["observedGeneration"].as_i64();
    let told = told(target);
    let verdict = |kind: &str| told.get(kind).map_or("-", |(verdict, _)| verdict.as_str());
    let current = if observed == target.metadata.generation { "current" } else { "outdated" };
    let lines = ["Ready", "Accepted", "MonitorReady", "Up"].map(|kind| format!("{kind}={}", verdict(kind)));
    format!("{current} {}", lines.join(" "))
}
