//! What the cluster is told of each target, read back from a real API server.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::http::StatusCode;
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use kube::{CustomResourceExt, ResourceExt};
use scrapetarget_exporter::crd::{self, Condition, ConditionStatus, ScrapeTarget};
use serde_json::{Value, json};
use simulators::Simulated;
use simulators::mediasoup::Agent;

use crate::support::cluster::{AuditLine, Cluster};
use crate::support::eventually::eventually;
use crate::support::listener::port_of_nobody_else;
use crate::support::load::allowed;
use crate::support::program::{Running, command, signal};

/// What is noticed by the slow look at all targets takes half a minute.
const PATIENCE: Duration = Duration::from_secs(30 + 120);

/// Longer than the slow look at all targets takes to come round: what it would write is written by then.
const ONE_LOOK: Duration = Duration::from_secs(35);

/// What the exporter may do in the namespace that it looks after.
const RIGHTS: &str = r#"
  - { apiGroups: [scrapetarget.dev], resources: [scrapetargets], verbs: [list, watch] }
  - { apiGroups: [scrapetarget.dev], resources: [scrapetargets/status], verbs: [patch] }
  - { apiGroups: [""], resources: [secrets, configmaps], verbs: [get] }
  - { apiGroups: [""], resources: [endpoints], verbs: [get, list, watch, create, patch] }
  - { apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [get, list, watch, create, patch] }
  - { apiGroups: [coordination.k8s.io], resources: [leases], verbs: [get, list, watch, create, update, patch] }
"#;

/// The exporter, which may do what its documentation asks for, in one namespace.
struct Exporter<'c> {
    cluster: &'c Cluster,
    namespace: String,
    program: Running,
}

impl<'c> Exporter<'c> {
    fn start(cluster: &'c Cluster) -> Self {
        Self::start_with(cluster, &[])
    }

    /// The same with further arguments.
    fn start_with(cluster: &'c Cluster, further: &[&str]) -> Self {
        cluster.install_crd();
        let namespace = cluster.namespace("status");
        cluster.grant(&namespace, "exporter", &namespace, RIGHTS);
        let program = Self::run_with(cluster, &namespace, further);
        Self { cluster, namespace, program }
    }

    fn run(cluster: &Cluster, namespace: &str) -> Running {
        Self::run_with(cluster, namespace, &[])
    }

    /// Nothing is written for Prometheus, so that its CRDs do not matter.
    fn run_with(cluster: &Cluster, namespace: &str, further: &[&str]) -> Running {
        let mut command = command(["run", "--listen-address", "127.0.0.1:0", "--discovery.mode", "none"]);
        command.args(["--watch-namespace", namespace, "--target-allow-loopback", "--shutdown-delay", "0s"]);
        command.args(["--target-allow-cidr", "127.0.0.0/8", "--target-allow-host", "*.{namespace}.svc"]);
        command.args(further).env("KUBECONFIG", cluster.kubeconfig_of(namespace, "exporter"));
        let mut program = Running::listening(command);
        // Targets that are there before it leads are polled in their turn, and not at once.
        program.wait("the Lease", |program| program.log().contains("message=leading").then_some(()));
        program
    }

    fn declare(&self, name: &str, url: &str, interval: &str) {
        self.cluster.apply(&format!(
            "apiVersion: scrapetarget.dev/v1alpha1\nkind: ScrapeTarget\nmetadata: {{ name: {name}, namespace: {} }}\n\
             spec: {{ type: Mediasoup, url: '{url}', interval: {interval}, mediasoup: {{ source: Agent }} }}\n",
            self.namespace
        ));
    }

    fn api(&self) -> Api<ScrapeTarget> {
        Api::namespaced(self.cluster.client(), &self.namespace)
    }

    /// Waits until a target's conditions are as wanted, and returns the target.
    async fn until(&self, name: &str, wanted: &[&str]) -> ScrapeTarget {
        let api = self.api();
        let start = Instant::now();
        loop {
            let target = api.get(name).await.unwrap();
            let told = told(&target);
            if wanted.iter().all(|wanted| told.iter().any(|told| told == wanted)) {
                return target;
            }
            assert!(start.elapsed() < PATIENCE, "{wanted:?} does not come to be: {told:?}\n{}", self.program.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// `Up=True/Succeeded`, for each condition, also of a target that is not understood.
    fn conditions_of(&self, name: &str) -> String {
        let path = r"jsonpath={range .status.conditions[*]}{.type}={.status}/{.reason} {end}";
        self.cluster.kubectl(&["-n", &self.namespace, "get", "scrapetarget", name, "-o", path]).stdout
    }

    /// Every write of a status so far.
    fn writes(&self) -> Vec<AuditLine> {
        let mut lines = self.cluster.audit();
        lines.retain(|line| {
            line.namespace == self.namespace && line.resource == "scrapetargets" && line.subresource == "status"
        });
        lines
    }
}

async fn agent(address: SocketAddr) -> Simulated {
    Simulated::serve(Agent::new(1).routes(), address).await.unwrap()
}

fn anywhere() -> SocketAddr {
    ([127, 0, 0, 1], 0).into()
}

/// `Up=True/Succeeded`, for each condition.
fn told(target: &ScrapeTarget) -> Vec<String> {
    let conditions = target.status.iter().flat_map(|status| &status.conditions);
    conditions.map(|told| format!("{}={:?}/{}", told.kind, told.status, told.reason)).collect()
}

fn since(target: &ScrapeTarget) -> BTreeMap<&str, &str> {
    let conditions = target.status.iter().flat_map(|status| &status.conditions);
    conditions.map(|condition| (condition.kind.as_str(), condition.last_transition_time.as_str())).collect()
}

fn message_of_up(target: &ScrapeTarget) -> String {
    let mut conditions = target.status.iter().flat_map(|status| &status.conditions);
    conditions.find(|condition| condition.kind == "Up").unwrap().message.clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_good_target_is_written_once_and_then_never_again_not_even_by_a_restarted_exporter() {
    let (mut exporter, server) = (Exporter::start(Cluster::shared()), agent(anywhere()).await);
    // So slow that whether it is scraped is not told before the test ends.
    exporter.declare("steady", &server.url(), "1h");
    let told = exporter.until("steady", &["Ready=True/Ready", "Up=True/Succeeded"]).await;
    let status = told.status.clone().unwrap();
    assert_eq!(status.observed_generation, told.metadata.generation);
    let kinds: Vec<&str> = status.conditions.iter().map(|condition| condition.kind.as_str()).collect();
    assert_eq!(kinds, ["Ready", "Accepted", "MonitorReady", "Up", "Scraped"]);
    let writes = || -> Vec<(String, u64)> {
        let steady = exporter.writes().into_iter().filter(|line| line.name == "steady");
        steady.map(|line| (line.verb, line.code)).collect()
    };
    // A first poll that a busy machine is late with is waited for a second, and then told as pending.
    wait(|| !writes().is_empty());
    let first = writes();
    assert!(first.len() <= 2 && first.iter().all(|write| *write == ("patch".to_owned(), 200)), "{first:?}");
    tokio::time::sleep(ONE_LOOK).await;
    signal(exporter.program.id(), "TERM");
    assert!(exporter.program.ended().success());
    exporter.program = Exporter::run(exporter.cluster, &exporter.namespace);
    exporter.declare("witness", &server.url(), "1h");
    exporter.until("witness", &["Up=True/Succeeded"]).await;
    let later = exporter.api().get("steady").await.unwrap();
    assert_eq!(later.resource_version(), told.resource_version());
    let steady = exporter.writes().into_iter().filter(|line| line.name == "steady");
    assert_eq!(steady.count(), first.len(), "never again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_goes_and_comes_is_told_and_no_other_condition_moves() {
    let exporter = Exporter::start(Cluster::shared());
    // Nobody else may have the port while the server is away.
    let server = agent(([127, 0, 0, 1], port_of_nobody_else()).into()).await;
    let url = server.url();
    let address = server.address;
    exporter.declare("flapping", &url, "1s");
    let good = exporter.until("flapping", &["Ready=True/Ready", "Up=True/Succeeded"]).await;
    // A transition within the same second would not be seen.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    drop(server);
    let down = exporter.until("flapping", &["Ready=True/Ready", "Up=False/Connect"]).await;
    let (before, after) = (since(&good), since(&down));
    assert!(after["Up"] > before["Up"]);
    for kind in ["Ready", "Accepted", "MonitorReady"] {
        assert_eq!(after[kind], before[kind], "{kind}");
    }
    let _server = agent(address).await;
    exporter.until("flapping", &["Ready=True/Ready", "Up=True/Succeeded"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_message_follows_the_cause_of_a_failure_whose_reason_stays_the_same() {
    let exporter = Exporter::start(Cluster::shared());
    let status = Arc::new(AtomicU16::new(503));
    let answered = Arc::clone(&status);
    let routes = Router::new().fallback(move || {
        let status = answered.load(Ordering::SeqCst);
        async move { StatusCode::from_u16(status).unwrap() }
    });
    let server = Simulated::serve(routes, anywhere()).await.unwrap();
    exporter.declare("rooms", &server.url(), "1s");
    let busy = exporter.until("rooms", &["Up=False/HttpStatus"]).await;
    assert!(message_of_up(&busy).contains("503 Service Unavailable"), "{}", message_of_up(&busy));
    status.store(404, Ordering::SeqCst);
    eventually(PATIENCE, async || {
        let message = message_of_up(&exporter.until("rooms", &["Up=False/HttpStatus"]).await);
        if message.contains("404 Not Found") { Ok(()) } else { Err(message) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_points_where_the_operator_does_not_let_it_is_told_so() {
    let (exporter, server) = (Exporter::start(Cluster::shared()), agent(anywhere()).await);
    let own = format!("http://no-such.{}.svc/", exporter.namespace);
    for (name, url) in [
        ("honest", server.url().as_str()),
        ("own", own.as_str()),
        ("metadata", "http://100.100.100.200/"),
        ("outside", "http://192.0.2.1/"),
    ] {
        exporter.declare(name, url, "2s");
    }
    exporter.until("honest", &["Accepted=True/Accepted", "Up=True/Succeeded"]).await;
    exporter.until("own", &["Accepted=True/Accepted", "Up=False/Dns"]).await;
    for (name, words) in [("metadata", "always denied"), ("outside", "--target-allow-cidr")] {
        let told = exporter.until(name, &["Accepted=True/Accepted", "Up=Unknown/Config"]).await;
        let status = told.status.unwrap();
        let up = status.conditions.iter().find(|condition| condition.kind == "Up").unwrap();
        assert!(up.message.contains(words), "{name}: {}", up.message);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whether_scrapes_come_is_told() {
    let (exporter, server) = (Exporter::start(Cluster::shared()), agent(anywhere()).await);
    exporter.declare("scraped", &server.url(), "1s");
    exporter.until("scraped", &["Scraped=False/NeverScraped"]).await;
    let start = Instant::now();
    let path = format!("/probe?target={}/scraped", exporter.namespace);
    loop {
        exporter.program.body(&path).await;
        let target = exporter.api().get("scraped").await.unwrap();
        if told(&target).iter().any(|told| told == "Scraped=True/Scraped") {
            break;
        }
        assert!(start.elapsed() < PATIENCE, "{:?}", told(&target));
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_writes_into_our_conditions_is_put_back_and_a_condition_of_theirs_stays() {
    let (exporter, server) = (Exporter::start(Cluster::shared()), agent(anywhere()).await);
    exporter.declare("edited", &server.url(), "1h");
    let good = exporter.until("edited", &["Ready=True/Ready", "Up=True/Succeeded"]).await;
    let condition = |kind: &str| Condition {
        kind: kind.to_owned(),
        status: ConditionStatus::False,
        observed_generation: Some(99),
        last_transition_time: "2026-11-21T12:00:00Z".to_owned(),
        reason: "Nonsense".to_owned(),
        message: String::new(),
    };
    let body = json!({
        "apiVersion": crd::API_VERSION, "kind": "ScrapeTarget",
        "status": { "observedGeneration": 99, "conditions": [condition("Audited"), condition("Accepted")] },
    });
    let how = PatchParams::apply("somebody").force();
    exporter.api().patch_status("edited", &how, &Patch::Apply(&body)).await.unwrap();
    let wanted = ["Audited=False/Nonsense", "Accepted=True/Accepted", "Ready=True/Ready", "Up=True/Succeeded"];
    let mended = exporter.until("edited", &wanted).await;
    assert_eq!(mended.status.as_ref().unwrap().observed_generation, good.metadata.generation);
    tokio::time::sleep(ONE_LOOK).await;
    let later = exporter.api().get("edited").await.unwrap();
    assert_eq!(later.resource_version(), mended.resource_version(), "their condition is no reason to write");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_spec_is_answered_with_its_generation() {
    let (exporter, server) = (Exporter::start(Cluster::shared()), agent(anywhere()).await);
    exporter.declare("changed", &server.url(), "1h");
    exporter.until("changed", &["Up=True/Succeeded"]).await;
    let suspend = Patch::Merge(json!({ "spec": { "suspend": true } }));
    let changed = exporter.api().patch("changed", &PatchParams::default(), &suspend).await.unwrap();
    let start = Instant::now();
    let told = exporter.until("changed", &["Up=Unknown/Suspended", "Scraped=Unknown/Suspended"]).await;
    assert!(start.elapsed() < allowed(Duration::from_secs(5)), "{:?}", start.elapsed());
    assert_eq!(told.status.unwrap().observed_generation, changed.metadata.generation);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_was_made_anew_gets_no_status_of_the_old_one() {
    let cluster = Cluster::shared();
    let exporter = Exporter::start(cluster);
    exporter.declare("old", "http://127.0.0.1:1/", "1h");
    let old = exporter.until("old", &["Up=False/Connect"]).await;
    exporter.api().delete("old", &DeleteParams::default()).await.unwrap();
    exporter.declare("old", "http://127.0.0.1:1/", "1h");
    let new = exporter.until("old", &["Up=False/Connect"]).await;
    assert_ne!(old.uid(), new.uid());
    // What a late write of ours would look like.
    let body = json!({
        "apiVersion": crd::API_VERSION, "kind": "ScrapeTarget",
        "metadata": { "resourceVersion": old.resource_version() }, "status": { "observedGeneration": 99 },
    });
    let how = PatchParams::apply("late").force();
    let late = exporter.api().patch_status("old", &how, &Patch::Apply(&body)).await.unwrap_err();
    assert!(matches!(&late, kube::Error::Api(status) if status.code == 409), "{late}");
}

/// An older CRD may have let something through that the new one refuses.
#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_is_not_understood_is_told_so_where_the_api_server_lets_us_and_holds_up_no_other() {
    let cluster = Cluster::private();
    let mut loose = serde_json::to_value(ScrapeTarget::crd()).unwrap();
    let version = loose.pointer_mut("/spec/versions/0").unwrap();
    version.as_object_mut().unwrap().remove("selectableFields");
    version["schema"]["openAPIV3Schema"]["properties"]["spec"] =
        json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true });
    cluster.apply(&loose.to_string());
    let namespace = cluster.namespace("status");
    let declared = |name: &str, spec: Value| {
        let manifest = json!({
            "apiVersion": crd::API_VERSION,
            "kind": "ScrapeTarget",
            "metadata": { "name": name, "namespace": namespace },
            "spec": spec,
        });
        // The API server follows its CRDs at a little distance.
        wait(|| cluster.try_apply(&manifest.to_string()).is_ok());
    };
    declared("odd", json!({ "type": "Nonsense", "url": "http://127.0.0.1:1/" }));
    declared("unwritable", json!({ "type": "Sora", "url": 5 }));
    declared("good", json!({ "type": "Sora", "url": "http://127.0.0.1:1/" }));
    cluster.install_crd();
    until_refused(&cluster, &namespace);
    cluster.grant(&namespace, "exporter", &namespace, RIGHTS);
    let program = Exporter::run(&cluster, &namespace);
    let exporter = Exporter { cluster: &cluster, namespace, program };
    exporter.until("good", &["Ready=True/Ready", "Up=False/Connect"]).await;
    let odd = ["Ready=False/InvalidSpec", "Accepted=False/InvalidSpec", "Up=Unknown/Config"];
    wait(|| {
        let told = exporter.conditions_of("odd");
        odd.iter().all(|odd| told.contains(*odd))
    });
    // Rules cannot be evaluated on a field of the wrong type, and without them the API server takes nothing.
    wait(|| exporter.program.logged("the status of a target cannot be written") == 1);
    let refused = || -> Vec<u64> {
        let writes = exporter.writes();
        writes.iter().filter(|line| line.name == "unwritable").map(|line| line.code).collect()
    };
    wait(|| !refused().is_empty());
    assert_eq!(refused(), [422]);
}

/// Waits until the strict schema is in force.
fn until_refused(cluster: &Cluster, namespace: &str) {
    let bad = format!(
        "apiVersion: scrapetarget.dev/v1alpha1\nkind: ScrapeTarget\nmetadata: {{ name: probe, namespace: {namespace} }}\n\
         spec: {{ type: Nonsense, url: 'http://127.0.0.1:1/' }}\n"
    );
    wait(|| cluster.try_apply(&bad).is_err());
    cluster.kubectl(&["-n", namespace, "delete", "scrapetarget", "probe", "--ignore-not-found"]);
}

fn wait(mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "it does not come to be");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_type_that_may_not_be_probed_is_not_accepted_and_others_are_polled() {
    let agent = agent(anywhere()).await;
    let exporter = Exporter::start_with(Cluster::shared(), &["--probers", "Http"]);
    exporter.declare("rooms", &agent.url(), "1s");
    exporter.cluster.apply(&format!(
        "apiVersion: scrapetarget.dev/v1alpha1\nkind: ScrapeTarget\nmetadata: {{ name: host, namespace: {} }}\n\
         spec: {{ type: Icmp, url: 'icmp://127.0.0.1', interval: 1s }}\n",
        exporter.namespace
    ));
    exporter.until("rooms", &["Accepted=True/Accepted", "Up=True/Succeeded"]).await;
    let refused = exporter.until("host", &["Accepted=False/TypeNotAllowed"]).await;
    let conditions = refused.status.unwrap().conditions;
    let message = &conditions.iter().find(|told| told.kind == "Accepted").unwrap().message;
    assert!(message.contains("type Icmp is not allowed") && message.contains("--probers"), "{message}");
    let path = format!("/probe?target={}/host", exporter.namespace);
    let body = exporter.program.body(&path).await;
    assert!(body.contains("probe_failure_info{reason=\"config\"} 1\n") && body.contains("probe_success 0\n"), "{body}");
}
