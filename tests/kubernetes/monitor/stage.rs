//! An exporter with an account of its own, the namespace of a team, and what the tests look at there.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use kube::Api;
use kube::api::{DeleteParams, ListParams};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use serde_json::{Value, json};

use crate::support::cluster::{AuditLine, Cluster};
use crate::support::program::{Running, Said, command, said};

/// What only the slow look at all targets finds takes a minute.
const PATIENCE: Duration = Duration::from_secs(120);

/// What the exporter may do in each namespace that it looks after.
const EVERYWHERE: &str = "
  - { apiGroups: [scrapetarget.dev], resources: [scrapetargets], verbs: [get, list, watch] }
  - { apiGroups: [scrapetarget.dev], resources: [scrapetargets/status], verbs: [patch] }
";

/// What it may do with monitors.
pub(super) const MONITORS: &str = "
  - { apiGroups: [monitoring.coreos.com], resources: [servicemonitors], verbs: [get, list, watch, create, patch, delete] }
";

/// What it may do in its own namespace besides.
const AT_HOME: &str = r#"
  - { apiGroups: [coordination.k8s.io], resources: [leases], verbs: [get, list, watch, create, patch] }
  - { apiGroups: [""], resources: [endpoints], verbs: [get, list, watch, create, patch, delete] }
  - { apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [get, list, watch, create, patch, delete] }
"#;

pub(super) struct Stage<'c> {
    pub(super) cluster: &'c Cluster,
    /// The exporter's namespace.
    pub(super) own: String,
    /// Where the targets are.
    pub(super) team: String,
}

impl<'c> Stage<'c> {
    /// With ServiceMonitors, and all the rights that they need.
    pub(super) fn new(cluster: &'c Cluster) -> Self {
        cluster.install_operator_crds(&["servicemonitors"]);
        Self::without_operator(cluster)
    }

    pub(super) fn without_operator(cluster: &'c Cluster) -> Self {
        cluster.install_crd();
        let stage = Self { cluster, own: cluster.namespace("exporter"), team: cluster.namespace("team") };
        stage.allow(&stage.team, MONITORS);
        stage.allow(&stage.own, &format!("{MONITORS}{AT_HOME}"));
        stage
    }

    /// Gives the exporter these rights in a namespace, and those that have nothing to do with monitors.
    pub(super) fn allow(&self, namespace: &str, rules: &str) {
        self.allow_only(namespace, &format!("{EVERYWHERE}{rules}"));
    }

    /// Gives the exporter these rights in a namespace, and takes all others away.
    pub(super) fn allow_only(&self, namespace: &str, rules: &str) {
        self.cluster.grant(namespace, "st", &self.own, rules);
    }

    fn kubeconfig(&self) -> PathBuf {
        self.cluster.kubeconfig_of(&self.own, "exporter")
    }

    /// Starts the exporter.
    pub(super) fn run(&self, arguments: &[&str]) -> Running {
        let mut command = command(["run", "--listen-address", "127.0.0.1:0", "--release-name", "st"]);
        command.args(["--watch-namespace", &self.team, "--advertise-address", "10.9.8.7", "--shutdown-delay", "0s"]);
        command.args(["--target-allow-loopback", "--log-level", "debug"]).args(arguments);
        command.env("KUBECONFIG", self.kubeconfig());
        Running::listening(command)
    }

    pub(super) fn cleanup(&self, arguments: &[&str]) -> Said {
        let mut command = command(["cleanup", "--release-name", "st", "--watch-namespace", &self.team]);
        said(command.args(arguments).env("KUBECONFIG", self.kubeconfig()))
    }

    /// Declares a target of the team; `spec` is joined to the least that it needs.
    pub(super) fn declare(&self, name: &str, spec: &Value) {
        self.declare_in(&self.team, name, spec);
    }

    /// Declares a target in another namespace.
    pub(super) fn declare_in(&self, namespace: &str, name: &str, spec: &Value) {
        let mut whole = json!({ "type": "Sora", "url": "http://127.0.0.1:1/" });
        whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        let target = json!({
            "apiVersion": "scrapetarget.dev/v1alpha1",
            "kind": "ScrapeTarget",
            "metadata": { "name": name, "namespace": namespace },
            "spec": whole,
        });
        self.cluster.apply(&target.to_string());
    }

    pub(super) async fn delete_target(&self, name: &str) {
        let api = self.objects("scrapetarget.dev", "v1alpha1", "ScrapeTarget", &self.team);
        api.delete(name, &DeleteParams::default()).await.unwrap();
    }

    pub(super) fn monitors(&self, namespace: &str) -> Api<DynamicObject> {
        self.objects("monitoring.coreos.com", "v1", "ServiceMonitor", namespace)
    }

    fn objects(&self, group: &str, version: &str, kind: &str, namespace: &str) -> Api<DynamicObject> {
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
        Api::namespaced_with(self.cluster.client(), namespace, &resource)
    }

    /// The monitor `name` of the team, as JSON.
    pub(super) async fn monitor(&self, name: &str) -> Option<Value> {
        let found = self.monitors(&self.team).get_opt(name).await.unwrap();
        found.map(|found| serde_json::to_value(found).unwrap())
    }

    /// The names of all monitors in a namespace.
    pub(super) async fn names(&self, namespace: &str) -> Vec<String> {
        let list = self.monitors(namespace).list(&ListParams::default()).await.unwrap();
        list.into_iter().filter_map(|object| object.metadata.name).collect()
    }

    /// The condition `MonitorReady` of a target: `True Written: …`.
    pub(super) async fn ready(&self, name: &str) -> String {
        let api = self.objects("scrapetarget.dev", "v1alpha1", "ScrapeTarget", &self.team);
        let target = api.get(name).await.unwrap();
        let conditions = target.data["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let ready =
            conditions.iter().find(|condition| condition["type"] == "MonitorReady").cloned().unwrap_or_default();
        let word = |field: &str| ready[field].as_str().unwrap_or_default().to_owned();
        format!("{} {}: {}", word("status"), word("reason"), word("message"))
    }

    /// Waits until the condition `MonitorReady` of a target begins with these words, and returns it.
    pub(super) async fn until_ready(&self, name: &str, words: &str, exporter: &Running) -> String {
        self.until(words, exporter, async || {
            let ready = self.ready(name).await;
            ready.starts_with(words).then_some(ready)
        })
        .await
    }

    /// Waits until the condition `MonitorReady` of a target holds these words.
    pub(super) async fn until_said(&self, name: &str, words: &str, exporter: &Running) {
        self.until(words, exporter, async || self.ready(name).await.contains(words).then_some(())).await;
    }

    /// Waits for something to be there.
    pub(super) async fn until<T>(&self, what: &str, exporter: &Running, found: impl AsyncFn() -> Option<T>) -> T {
        let start = Instant::now();
        loop {
            if let Some(found) = found().await {
                return found;
            }
            assert!(start.elapsed() < PATIENCE, "no {what} within {PATIENCE:?}:\n{}", exporter.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// What the exporter asked about monitors by these verbs.
    pub(super) fn asked(&self, verbs: &[&str]) -> Vec<AuditLine> {
        let mut lines = self.asked_at_all();
        lines.retain(|line| line.resource == "servicemonitors" && verbs.contains(&line.verb.as_str()));
        lines
    }

    /// Everything that the exporter asked.
    pub(super) fn asked_at_all(&self) -> Vec<AuditLine> {
        let user = format!("system:serviceaccount:{}:exporter", self.own);
        self.cluster.audit().into_iter().filter(|line| line.user == user).collect()
    }
}
