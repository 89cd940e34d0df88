//! Replicas of one release: processes of the real program, each with an account of its own, so that the audit log tells them apart.

use std::path::Path;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Endpoints;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use crate::support::cluster::{AuditLine, Cluster};
use crate::support::program::{Running, command, signal};

/// Longer than the longest thing here takes, a takeover after a kill, on a busy machine.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// A namespace in which replicas of the release `st` run, with one target that cannot be reached: a poll of it is a poll all the same.
pub(super) struct Stage<'a> {
    pub(super) cluster: &'a Cluster,
    pub(super) namespace: String,
}

/// What a replica may do about the lead.
pub(super) const RULES: &str = r#"
  - { apiGroups: [coordination.k8s.io], resources: [leases], verbs: [create] }
  - { apiGroups: [coordination.k8s.io], resources: [leases], resourceNames: [st], verbs: [get, list, watch, patch] }
  - { apiGroups: [""], resources: [endpoints], resourceNames: [st-probe], verbs: [list, watch, create, patch] }
  - { apiGroups: [discovery.k8s.io], resources: [endpointslices], resourceNames: [st-probe], verbs: [list, watch, create, patch] }
"#;

impl<'a> Stage<'a> {
    pub(super) fn new(cluster: &'a Cluster, name: &str) -> Self {
        cluster.install_crd();
        let namespace = cluster.namespace(name);
        let stage = Self { cluster, namespace };
        stage.allow(RULES);
        stage.cluster.apply(&format!(
            r"
apiVersion: scrapetarget.dev/v1alpha1
kind: ScrapeTarget
metadata: {{ name: away, namespace: {} }}
spec: {{ type: Sora, url: 'http://127.0.0.1:1/', interval: 1s }}
",
            stage.namespace
        ));
        stage
    }

    /// Lets every replica do this, and watch targets.
    pub(super) fn allow(&self, rules: &str) {
        let targets = "{ apiGroups: [scrapetarget.dev], resources: [scrapetargets], verbs: [list, watch] }";
        self.cluster.grant(&self.namespace, "st", &self.namespace, &format!("\n  - {targets}\n{rules}"));
    }

    /// A replica that is ready. Its address in the Endpoints is `10.9.8.NUMBER`.
    pub(super) async fn replica(&self, number: u8, arguments: &[&str]) -> Replica {
        let kubeconfig = self.cluster.kubeconfig_of(&self.namespace, &format!("replica-{number}"));
        let replica = self.starting(number, &kubeconfig, arguments);
        replica.running.until_status("/-/ready", 200).await;
        replica
    }

    /// The same, which listens and need not be ready.
    pub(super) fn starting(&self, number: u8, kubeconfig: &Path, arguments: &[&str]) -> Replica {
        let name = format!("replica-{number}");
        let mut command = command(["run", "--listen-address", "127.0.0.1:0", "--release-name", "st"]);
        command.env("KUBECONFIG", kubeconfig);
        command.args(["--watch-namespace", &self.namespace, "--target-allow-loopback", "--discovery.mode", "none"]);
        command.args(["--leader-election.identity", &name]);
        if !arguments.contains(&"--advertise-address") {
            command.args(["--advertise-address", &format!("10.9.8.{number}")]);
        }
        command.args(arguments);
        let running = Running::listening(command);
        let user = format!("system:serviceaccount:{}:{name}", self.namespace);
        Replica { running, name, number, user }
    }

    /// Everything that a replica has asked since then.
    pub(super) fn asked(&self, replica: &Replica, since: Timestamp) -> Vec<AuditLine> {
        self.cluster.audit().into_iter().filter(|line| line.user == replica.user && line.at >= since).collect()
    }

    /// What a replica has written since then.
    pub(super) fn written(&self, replica: &Replica, since: Timestamp) -> Vec<AuditLine> {
        let mut lines = self.asked(replica, since);
        lines.retain(|line| !["get", "list", "watch"].contains(&line.verb.as_str()));
        lines
    }

    pub(super) fn leases(&self) -> Api<Lease> {
        Api::namespaced(self.cluster.client(), &self.namespace)
    }

    /// Makes somebody who is not there the holder of the Lease for a minute, or nobody.
    pub(super) async fn give_lease_to(&self, holder: Option<&str>) {
        self.hold_lease(holder, SignedDuration::ZERO, 60).await;
    }

    /// Takes or renews the Lease for somebody who is not there, and whose clock is off by this.
    pub(super) async fn hold_lease(&self, holder: Option<&str>, clock: SignedDuration, seconds: u32) {
        let time = format!("{:.6}", Timestamp::now() + clock);
        let spec = json!({ "holderIdentity": holder, "leaseDurationSeconds": seconds, "renewTime": time });
        let lease = Patch::Merge(json!({ "spec": spec }));
        retried(async || self.leases().patch("st", &PatchParams::default(), &lease).await).await;
    }

    pub(super) fn endpoints(&self) -> Api<Endpoints> {
        Api::namespaced(self.cluster.client(), &self.namespace)
    }

    /// Waits until exactly this replica is behind the Service.
    pub(super) async fn until_behind_service(&self, replica: &Replica) {
        let address = format!("10.9.8.{}", replica.number);
        let api = self.endpoints();
        until("the Endpoints of the leader", async || {
            let endpoints = api.get_opt("st-probe").await.ok()??;
            let addresses = endpoints.subsets?.into_iter().flat_map(|subset| subset.addresses.unwrap_or_default());
            let addresses: Vec<String> = addresses.map(|address| address.ip).collect();
            (addresses == [address.as_str()]).then_some(())
        })
        .await;
        let api = self.slices();
        until("the EndpointSlice of the leader", async || {
            let endpoints = api.get_opt("st-probe").await.ok()??.endpoints;
            let addresses: Vec<String> = endpoints.into_iter().flat_map(|endpoint| endpoint.addresses).collect();
            (addresses == [address.as_str()]).then_some(())
        })
        .await;
    }

    pub(super) fn slices(&self) -> Api<EndpointSlice> {
        Api::namespaced(self.cluster.client(), &self.namespace)
    }
}

/// One of them.
pub(super) struct Replica {
    pub(super) running: Running,
    pub(super) name: String,
    pub(super) number: u8,
    user: String,
}

impl Replica {
    /// `Some(true)`: it says that it leads; `None`: it says nothing.
    pub(super) async fn leads(&self) -> Option<bool> {
        self.metric("scrapetarget_leader").await.map(|value| value == 1.0)
    }

    /// How many polls have ended.
    pub(super) async fn polls(&self) -> f64 {
        self.metric("scrapetarget_polls_total").await.unwrap_or_default()
    }

    async fn metric(&self, name: &str) -> Option<f64> {
        let (_, body) = self.running.get("/metrics").await?;
        body.lines().filter(|line| line.starts_with(name)).find_map(|line| line.rsplit(' ').next()?.parse().ok())
    }

    pub(super) async fn until_leads(&self, wanted: bool) {
        let what = format!("{} that leads: {wanted}", self.name);
        until(&what, async || (self.leads().await == Some(wanted)).then_some(())).await;
    }

    /// Waits until one more poll has ended.
    pub(super) async fn until_polled(&self) {
        let before = self.polls().await;
        until("another poll", async || (self.polls().await > before).then_some(())).await;
    }

    pub(super) fn signal(&self, name: &str) {
        signal(self.running.id(), name);
    }
}

/// Waits for something, and says how long it took.
pub(super) async fn until<T>(what: &str, mut found: impl AsyncFnMut() -> Option<T>) -> (T, Duration) {
    let start = Instant::now();
    loop {
        if let Some(found) = found().await {
            return (found, start.elapsed());
        }
        assert!(start.elapsed() < PATIENCE, "no {what} within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Writes until nobody is in between.
pub(super) async fn retried<T>(write: impl AsyncFn() -> kube::Result<T>) -> T {
    let written = async || match write().await {
        Ok(written) => Some(written),
        Err(kube::Error::Api(status)) if status.code == 409 => None,
        Err(error) => panic!("{error}"),
    };
    until("write without a conflict", written).await.0
}

/// Which of these lead now.
pub(super) async fn leaders<'a>(replicas: impl IntoIterator<Item = &'a Replica>) -> Vec<&'a str> {
    let mut leaders = Vec::new();
    for replica in replicas {
        if replica.leads().await == Some(true) {
            leaders.push(replica.name.as_str());
        }
    }
    leaders
}
