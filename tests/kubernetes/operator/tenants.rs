//! What somebody who may declare targets, or create Services, cannot make of it: the token of a Prometheus, or series of another target.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use kube::api::{Api, ListParams};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::release::{NAME, Release, SERVICE};
use super::server::{Pool, Server, until};
use super::stage::{Stage, own_address};
use super::{expected, until_condition, until_one};

/// What Prometheus may send to the exporter and to nobody else.
const TOKEN: &str = "the-token-of-prometheus";

/// A server of the tenant. It answers everything, and keeps what it was sent.
struct Listener {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Listener {
    async fn start() -> Self {
        let listener = TcpListener::bind((own_address(), 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&requests);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let request = answer(stream).await.unwrap_or_default();
                kept.lock().unwrap_or_else(PoisonError::into_inner).push(request);
            }
        });
        Self { address, requests, task }
    }

    fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn answer(mut stream: TcpStream) -> std::io::Result<String> {
    let mut request = [0; 4096];
    let length = stream.read(&mut request).await?;
    let body = "probe_success 0\n";
    let head = format!("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {}\r\n\r\n", body.len());
    stream.write_all(format!("{head}{body}").as_bytes()).await?;
    Ok(String::from_utf8_lossy(&request[..length]).into_owned())
}

/// Scrape classes of a Prometheus: one with a token, and one that holds nothing.
fn scrape_classes(folder: &TempDir) -> Value {
    let file = folder.path().join("token");
    std::fs::write(&file, TOKEN).unwrap();
    json!({ "scrapeClasses": [
        { "name": "cluster", "authorization": { "credentialsFile": file } },
        { "name": "plain" },
    ] })
}

/// A ServiceMonitor of a release, as an earlier version would have written it: with the steps of the user, whatever they are.
fn monitor(release: &Release, name: &str, class: Option<&str>, steps: &Value) -> Value {
    let mut monitor = json!({
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "ServiceMonitor",
        "metadata": {
            "name": name,
            "namespace": release.team,
            "labels": {
                "prometheus": "main",
                "app.kubernetes.io/managed-by": "scrapetarget-exporter",
                "scrapetarget.dev/release": NAME,
                "scrapetarget.dev/release-namespace": release.namespace,
            },
        },
        "spec": {
            "selector": { "matchLabels": { "scrapetarget.dev/probe": NAME } },
            "namespaceSelector": { "matchNames": [release.namespace] },
            "endpoints": [{
                "port": "http", "path": "/probe", "params": { "target": [release.instance(name)] }, "interval": "1s",
                "relabelings": steps,
            }],
        },
    });
    if let Some(class) = class {
        monitor["spec"]["scrapeClass"] = json!(class);
    }
    monitor
}

async fn monitors(stage: &Stage, release: &Release) -> BTreeSet<String> {
    let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("monitoring.coreos.com", "v1", "ServiceMonitor"));
    let api = Api::<DynamicObject>::namespaced_with(stage.cluster.client(), &release.team, &kind);
    let found = api.list(&ListParams::default()).await.unwrap();
    found.into_iter().filter_map(|found| found.metadata.name).collect()
}

/// Waits until there are these ServiceMonitors beside the targets, and no other.
async fn until_monitors(stage: &Stage, release: &Release, wanted: &[&str]) {
    let wanted: BTreeSet<String> = wanted.iter().map(|&name| name.to_owned()).collect();
    until("the ServiceMonitors", async || {
        let found = monitors(stage, release).await;
        if found == wanted { Ok(()) } else { Err(format!("{found:?} instead of {wanted:?}\n{}", release.log())) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_target_sends_the_token_of_a_scrape_class_elsewhere() {
    let (stage, listener, folder) = (Stage::enter_without_rules(), Listener::start().await, TempDir::new().unwrap());
    let release = Release::start(&stage, 1, &["--discovery.allowed-scrape-class", "plain"]).await;
    let elsewhere = json!([{ "targetLabel": "__address__", "replacement": listener.address.to_string() }]);
    let class = "scrapeClass: cluster";
    let steps = format!("relabelings: {elsewhere}");
    release.apply("sora-tokyo", "Sora", "monitor: { interval: 1s, scrapeClass: plain }");
    for (name, monitor, reason) in [
        ("classed", class.to_owned(), "ScrapeClassNotAllowed"),
        ("astray", steps.clone(), "InvalidSpec"),
        ("both", format!("{class}, {steps}"), "InvalidSpec"),
    ] {
        release.apply(name, "Sora", &format!("monitor: {{ {monitor} }}"));
        until_condition(&release, name, "MonitorReady", ("False", reason)).await;
    }
    until_condition(&release, "sora-tokyo", "MonitorReady", ("True", "Written")).await;
    assert_eq!(monitors(&stage, &release).await, ["sora-tokyo".to_owned()].into());
    // Those that an earlier version wrote do not stay.
    for (name, class, steps) in [
        ("classed", Some("cluster"), json!([])),
        ("astray", None, elsewhere.clone()),
        ("both", Some("cluster"), elsewhere.clone()),
    ] {
        stage.cluster.apply(&monitor(&release, name, class, &steps).to_string());
    }
    until_monitors(&stage, &release, &["sora-tokyo"]).await;

    let server = Server::start(&stage, &[&release.team], scrape_classes(&folder)).await;
    until_one(&server, &release, "up", &[expected(&release, "sora-tokyo", &[])].into()).await;
    until_one(&server, &release, "probe_success", &[expected(&release, "sora-tokyo", &[])].into()).await;
    assert_eq!(listener.requests(), Vec::<String>::new());

    // The same by one who may write ServiceMonitors: that is what it would have been.
    let mut by_hand = monitor(&release, "by-hand", Some("cluster"), &elsewhere);
    by_hand["metadata"]["labels"] = json!({ "prometheus": "main" });
    stage.cluster.apply(&by_hand.to_string());
    until("the token", async || {
        let requests = listener.requests();
        let told = requests.iter().any(|request| request.contains(&format!("Bearer {TOKEN}")));
        if told { Ok(()) } else { Err(format!("{requests:?}\n{}", server.log())) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_target_makes_series_that_look_like_anothers() {
    let stage = Stage::enter_without_rules();
    let release = Release::start(&stage, 1, &[]).await;
    let victim = release.instance("sora-tokyo");
    let constant = |label: &str, value: &str| json!({ "targetLabel": label, "replacement": value });
    let forged = |name: fn(&str) -> String| -> Vec<Value> {
        [
            ("instance", victim.as_str()),
            ("namespace", "victims"),
            ("target_namespace", "victims"),
            ("target_name", "sora-tokyo"),
        ]
        .map(|(label, value)| constant(&name(label), value))
        .to_vec()
    };
    let renamed = || forged(|label| format!("my_{label}"));
    let and = |steps: Vec<Value>, step: Value| -> Value { steps.into_iter().chain([step]).collect() };
    let attacks = [
        forged(str::to_owned).into(),
        and(renamed(), json!({ "action": "LabelMap", "regex": "my_(.+)" })),
        json!([{ "sourceLabels": ["__param_target"], "regex": ".*(instance|target)?", "targetLabel": "instance$1", "replacement": victim }]),
        json!([{ "action": "hashmod", "sourceLabels": ["instance"], "modulus": 2, "targetLabel": "job" }]),
        and(renamed(), json!({ "action": "labeldrop", "regex": "target_.+|namespace" })),
        and(renamed(), json!({ "action": "labelkeep", "regex": "__.*|my_.*|job" })),
        json!([constant("__param_target", &victim)]),
        json!([constant("__name__", "up")]),
    ];
    let mut forgers = Vec::new();
    for (number, steps) in attacks.iter().enumerate() {
        for list in ["relabelings", "metricRelabelings"] {
            let name = format!("{}-{number}", list.to_lowercase());
            release.apply(&name, "Sora", &format!("monitor: {{ interval: 1s, {list}: {steps} }}"));
            forgers.push(name);
        }
    }
    let steps = json!([
        { "sourceLabels": ["target_name"], "regex": "(.+)-.*", "targetLabel": "group" },
        { "action": "labeldrop", "regex": "spare.*" },
    ]);
    release.apply("sora-tokyo", "Sora", "monitor: { interval: 1s }");
    let own = format!("labels: {{ region: osaka, spare: x }}, monitor: {{ interval: 1s, relabelings: {steps} }}");
    release.apply("orion-city", "Orion", &own);
    for forger in &forgers {
        until_condition(&release, forger, "MonitorReady", ("False", "InvalidSpec")).await;
    }
    until_monitors(&stage, &release, &["orion-city", "sora-tokyo"]).await;

    let server = Server::start(&stage, &[&release.team], json!({})).await;
    let honest = [
        expected(&release, "sora-tokyo", &[]),
        expected(&release, "orion-city", &[("region", "osaka"), ("group", "orion")]),
    ];
    let wanted = honest.clone().into();
    until_one(&server, &release, "up", &wanted).await;
    until_one(&server, &release, "probe_success", &wanted).await;
    for (labels, _) in server.query(r#"{__name__!=""}"#).await {
        let whose = honest.iter().find(|target| target.iter().all(|(name, value)| labels.get(name) == Some(value)));
        assert!(whose.is_some(), "{labels:?}");
    }
}

/// A Service with our label that leads to the listener.
fn impostor(namespace: &str, name: &str, listener: &Listener) -> String {
    let port = listener.address.port();
    format!(
        r"
apiVersion: v1
kind: Service
metadata: {{ name: {name}, namespace: {namespace}, labels: {{ scrapetarget.dev/probe: {NAME} }} }}
spec: {{ ports: [{{ name: http, port: {port} }}] }}
---
apiVersion: v1
kind: Endpoints
metadata: {{ name: {name}, namespace: {namespace}, labels: {{ scrapetarget.dev/probe: {NAME} }} }}
subsets: [{{ addresses: [{{ ip: {} }}], ports: [{{ name: http, port: {port} }}] }}]
",
        listener.address.ip(),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_only_has_our_label_is_not_scraped() {
    let (stage, listener) = (Stage::enter(), Listener::start().await);
    let release = Release::start(&stage, 1, &[]).await;
    release.apply("sora-tokyo", "Sora", "monitor: { interval: 1s }");
    // Beside us under another name; and under our name beside the target, where a Prometheus looks that ignores namespace selectors.
    stage.cluster.apply(&impostor(&release.namespace, "impostor", &listener));
    stage.cluster.apply(&impostor(&release.team, SERVICE, &listener));
    let wanted = [expected(&release, "sora-tokyo", &[])].into();
    let job = format!("serviceMonitor/{}/sora-tokyo/0", release.team);
    for role in ["Endpoints", "EndpointSlice"] {
        let server = Server::start(&stage, &[&release.team], json!({ "serviceDiscoveryRole": role })).await;
        until_one(&server, &release, "up", &wanted).await;
        until_pool(&server, &job, &Pool { active: vec!["up".to_owned()], dropped: 1 }).await;
        until_one(&server, &release, "probe_success", &wanted).await;
    }
    let server = Server::start(&stage, &[&release.team], json!({ "ignoreNamespaceSelectors": true })).await;
    until_pool(&server, &job, &Pool { active: Vec::new(), dropped: 1 }).await;
    assert_eq!(listener.requests(), Vec::<String>::new());
}

/// Waits until a job has found these.
async fn until_pool(server: &Server, job: &str, wanted: &Pool) {
    until("the job", async || {
        let mut pools = server.pools().await;
        let found = pools.remove(job);
        if found.as_ref() == Some(wanted) { Ok(()) } else { Err(format!("{found:?} of {pools:?}\n{}", server.log())) }
    })
    .await;
}
