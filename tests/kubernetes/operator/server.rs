//! A real Prometheus that runs what the Operator configures. In the place of the kubelet and of the Operator's reloader, this module
//! unpacks the Secret, replaces the variables in it, and tells Prometheus to reload.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use flate2::read::GzDecoder;
use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::runtime::{WatchStreamExt, watcher};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinHandle;

use super::stage::Stage;
use crate::support::program::{Running, said};
use crate::support::tools;

/// Longer than anything takes on a busy machine. Much comes one after another: the exporter writes, the Operator waits for more and writes,
/// and Prometheus looks at what it has discovered every 5 s.
const PATIENCE: Duration = Duration::from_secs(240);

const NAME: &str = "main";

/// Labels of a series; its name is among them as `__name__`.
pub(super) type Labels = BTreeMap<String, String>;

/// What a job has discovered.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Pool {
    /// `up`, `down` or `unknown` for each target.
    pub(super) active: Vec<String>,
    pub(super) dropped: u64,
}

/// A Prometheus in a namespace of its own.
pub(super) struct Server {
    stage: Arc<Stage>,
    namespace: String,
    files: Files,
    prometheus: Running,
    reloads: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.reloads.abort();
    }
}

impl Server {
    /// Starts one for the ServiceMonitors in `namespaces` that have the label `prometheus: main`, with further fields of its spec.
    pub(super) async fn start(stage: &Arc<Stage>, namespaces: &[&str], further: Value) -> Self {
        let namespace = stage.cluster.namespace("prometheus");
        let files = Files::create(stage, &namespace);
        stage.cluster.apply(&permissions(&namespace));
        stage.cluster.apply(&manifest(stage, &namespace, &files, namespaces, &further).to_string());
        let secrets = Api::<Secret>::namespaced(stage.cluster.client(), &namespace);
        let mut configs = Box::pin(configs(secrets));
        let first = tokio::time::timeout(PATIENCE, configs.next()).await;
        let first = first.unwrap_or_else(|_| panic!("the Operator writes no configuration:\n{}", stage.log())).unwrap();
        files.write(&first);
        let prometheus = Running::prometheus(&files.config()).await;
        let reload = format!("{}/-/reload", prometheus.base);
        let written = files.clone();
        let reloads = tokio::spawn(async move {
            while let Some(config) = configs.next().await {
                written.write(&config);
                post(&reload).await;
            }
        });
        Self { stage: Arc::clone(stage), namespace, files, prometheus, reloads }
    }

    /// What its jobs discover, as the Operator has written it.
    pub(super) async fn roles(&self) -> BTreeSet<String> {
        let secrets = Api::<Secret>::namespaced(self.stage.cluster.client(), &self.namespace);
        let text = unpack(&secrets.get(&secret_name()).await.unwrap()).unwrap();
        let config: Value = serde_saphyr::from_str(&text).unwrap();
        let jobs = config["scrape_configs"].as_array().unwrap().iter();
        jobs.map(|job| job["kubernetes_sd_configs"][0]["role"].as_str().unwrap().to_owned()).collect()
    }

    /// The configuration that Prometheus runs.
    pub(super) fn config(&self) -> Value {
        serde_saphyr::from_str(&std::fs::read_to_string(self.files.config()).unwrap()).unwrap()
    }

    /// Fails unless promtool accepts the configuration that Prometheus runs.
    pub(super) fn check_config(&self) {
        let mut promtool = Command::new(tools::promtool());
        let said = said(promtool.args(["check", "config"]).arg(self.files.config()));
        assert_eq!(said.code, Some(0), "{}{}", said.stdout, said.stderr);
    }

    /// The series of an instant query: their labels and the value.
    pub(super) async fn query(&self, query: &str) -> Vec<(Labels, f64)> {
        let series = self.result(query).await;
        let read = |series: &Value| {
            let labels: Labels = serde_json::from_value(series["metric"].clone()).unwrap();
            (labels, series["value"][1].as_str().unwrap().parse().unwrap())
        };
        series.iter().map(read).collect()
    }

    /// Each job with the health of the targets that it scrapes, and how many it has discovered and dropped.
    ///
    /// The only sign that a job is gone: Prometheus does not mark its series as stale, and shows them for 5 minutes more.
    pub(super) async fn pools(&self) -> BTreeMap<String, Pool> {
        let answer = self.json("/api/v1/targets").await;
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let dropped = answer["data"]["droppedTargetCounts"].as_object().unwrap();
        let empty = |(job, dropped): (&String, &Value)| {
            (job.clone(), Pool { active: Vec::new(), dropped: dropped.as_u64().unwrap() })
        };
        let mut pools: BTreeMap<String, Pool> = dropped.iter().map(empty).collect();
        for target in answer["data"]["activeTargets"].as_array().unwrap() {
            pools.entry(text(&target["scrapePool"])).or_default().active.push(text(&target["health"]));
        }
        pools
    }

    /// For each target that Prometheus scrapes now, the URL and the health that the last scrape found.
    pub(super) async fn last_scrapes(&self) -> Vec<(String, String)> {
        let answer = self.json("/api/v1/targets?state=active").await;
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let targets = answer["data"]["activeTargets"].as_array().unwrap();
        targets.iter().map(|target| (text(&target["scrapeUrl"]), text(&target["health"]))).collect()
    }

    /// For each series of `metric`, the longest time between two samples that are 1, from its first sample until now.
    pub(super) async fn gaps(&self, metric: &str) -> Vec<Duration> {
        let (series, now) = (self.result(&format!("{metric}[10m]")).await, Timestamp::now());
        let now = Duration::try_from(now.duration_since(Timestamp::UNIX_EPOCH)).unwrap();
        let gap = |series: &Value| {
            let samples = series["values"].as_array().unwrap().iter().filter(|sample| sample[1] == "1");
            let times = samples.map(|sample| Duration::from_secs_f64(sample[0].as_f64().unwrap()));
            let times: Vec<Duration> = times.chain([now]).collect();
            times.windows(2).map(|pair| pair[1].saturating_sub(pair[0])).max().unwrap()
        };
        series.iter().map(gap).collect()
    }

    async fn result(&self, query: &str) -> Vec<Value> {
        let query: String = url::form_urlencoded::byte_serialize(query.as_bytes()).collect();
        let mut answer = self.json(&format!("/api/v1/query?query={query}")).await;
        serde_json::from_value(answer["data"]["result"].take()).unwrap()
    }

    async fn json(&self, path: &str) -> Value {
        serde_json::from_str(&self.prometheus.body(path).await).unwrap()
    }

    /// What all have said so far, for people.
    pub(super) fn log(&self) -> String {
        format!("--- Prometheus\n{}--- Operator\n{}", self.prometheus.log(), self.stage.log())
    }
}

/// Asks until the answer is what one waits for; else the test fails with the last one.
pub(super) async fn until<T: std::fmt::Debug>(what: &str, mut ask: impl AsyncFnMut() -> Result<T, String>) -> T {
    let start = Instant::now();
    loop {
        match ask().await {
            Ok(found) => return found,
            Err(last) if start.elapsed() > PATIENCE => panic!("not within {PATIENCE:?}: {what}: {last}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

/// What Prometheus reads from its disk.
#[derive(Clone)]
struct Files(Arc<TempDir>);

impl Files {
    fn create(stage: &Stage, namespace: &str) -> Self {
        let files = Self(Arc::new(TempDir::with_prefix("prometheus-").unwrap()));
        std::fs::write(files.token(), stage.cluster.token_of(namespace, "prometheus")).unwrap();
        files
    }

    fn token(&self) -> PathBuf {
        self.0.path().join("token")
    }

    fn config(&self) -> PathBuf {
        self.0.path().join("prometheus.yaml")
    }

    /// Writes a configuration as the Operator's reloader does: with its variables replaced, and never half.
    fn write(&self, config: &str) {
        let config = config.replace("$(POD_NAME)", &format!("prometheus-{NAME}-0")).replace("$(SHARD)", "0");
        let new = self.0.path().join("new");
        std::fs::write(&new, config).unwrap();
        std::fs::rename(&new, self.config()).unwrap();
    }
}

/// What a Prometheus may read that discovers Services and their endpoints.
fn permissions(namespace: &str) -> String {
    format!(
        r#"
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {{ name: prometheus }}
rules:
- {{ apiGroups: [""], resources: [services, endpoints, pods], verbs: [get, list, watch] }}
- {{ apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [get, list, watch] }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {{ name: "prometheus-{namespace}" }}
roleRef: {{ apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: prometheus }}
subjects: [{{ kind: ServiceAccount, name: prometheus, namespace: {namespace} }}]
"#
    )
}

/// The `Prometheus` object. It tells the way to the API server, since nothing of it runs in the cluster.
fn manifest(stage: &Stage, namespace: &str, files: &Files, namespaces: &[&str], further: &Value) -> Value {
    let mut manifest = json!({
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "Prometheus",
        "metadata": { "name": NAME, "namespace": namespace },
        "spec": {
            "version": "v3.15.0",
            "replicas": 1,
            "serviceAccountName": "prometheus",
            "serviceMonitorSelector": { "matchLabels": { "prometheus": NAME } },
            "serviceMonitorNamespaceSelector": {
                "matchExpressions": [{ "key": "kubernetes.io/metadata.name", "operator": "In", "values": namespaces }],
            },
            "apiserverConfig": {
                "host": stage.cluster.url(),
                "authorization": { "credentialsFile": files.token() },
                "tlsConfig": { "caFile": stage.cluster.ca_file() },
            },
        },
    });
    let spec = manifest["spec"].as_object_mut().unwrap();
    spec.extend(further.as_object().unwrap().clone());
    manifest
}

fn secret_name() -> String {
    format!("prometheus-{NAME}")
}

/// Each configuration that the Operator writes.
fn configs(secrets: Api<Secret>) -> impl futures::Stream<Item = String> + Send {
    let newest = watcher::watch_object(secrets, &secret_name()).default_backoff();
    newest.filter_map(async |secret| unpack(&secret.ok()??))
}

/// The Operator makes the Secret first, and fills it later.
fn unpack(secret: &Secret) -> Option<String> {
    let packed = secret.data.as_ref()?.get("prometheus.yaml.gz")?;
    let mut text = String::new();
    GzDecoder::new(&*packed.0).read_to_string(&mut text).unwrap();
    (!text.is_empty()).then_some(text)
}

/// Prometheus says in its log what it does not like.
async fn post(url: &str) {
    let client = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().unwrap();
    let _ = client.post(url).send().await;
}
