//! The tests' own server keeps what the other tests rely on.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures::StreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, ListParams, WatchEvent, WatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tempfile::TempDir;
use tokio::time::timeout;

use crate::support::cluster::{Cluster, Guarded};
use crate::support::eventually::{PATIENCE, eventually};
use crate::support::program::{Running, signal};

fn config_map(namespace: &str, name: &str) -> String {
    format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{ name: {name}, namespace: {namespace} }}\ndata: {{ a: b }}\n")
}

/// A client with the identity that a kubeconfig names.
async fn client_of(kubeconfig: &Path) -> Client {
    let read = Kubeconfig::read_from(kubeconfig).unwrap();
    Client::try_from(Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await.unwrap()).unwrap()
}

fn code(error: &kube::Error) -> u16 {
    let kube::Error::Api(status) = error else { panic!("{error}") };
    status.code
}

#[tokio::test]
async fn the_audit_log_says_who_asked_what() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("audit");
    let api = Api::<ConfigMap>::namespaced(cluster.client(), &namespace);
    api.list(&ListParams::default()).await.unwrap();
    let watch = api.watch(&WatchParams::default().timeout(1), "0").await.unwrap();
    watch.collect::<Vec<_>>().await;
    api.get("nothing").await.unwrap_err();
    // An answer comes a little before its line in the log.
    let lines = eventually(PATIENCE, async || {
        let mut lines = cluster.audit();
        lines.retain(|line| line.namespace == namespace && line.resource == "configmaps");
        if lines.len() >= 3 { Ok(lines) } else { Err(format!("{lines:#?}")) }
    })
    .await;
    let ours: Vec<_> =
        lines.iter().map(|line| (line.user.as_str(), line.verb.as_str(), line.name.as_str(), line.code)).collect();
    assert_eq!(
        ours,
        [("admin", "list", "", 200), ("admin", "watch", "", 200), ("admin", "get", "nothing", 404)],
        "one line a request, also where the answer takes long"
    );
}

#[tokio::test]
async fn an_account_may_do_what_a_role_says_and_no_more() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("roles");
    let kubeconfig = cluster.kubeconfig_of(&namespace, "reader");
    let api = Api::<ConfigMap>::default_namespaced(client_of(&kubeconfig).await);
    assert_eq!(code(&api.list(&ListParams::default()).await.unwrap_err()), 403);
    cluster.grant(&namespace, "reader", &namespace, r#"[{ apiGroups: [""], resources: [configmaps], verbs: [get] }]"#);
    cluster.apply(&config_map(&namespace, "one"));
    api.get("one").await.expect("what was granted is in force");
    assert_eq!(code(&api.list(&ListParams::default()).await.unwrap_err()), 403);
    cluster.grant(&namespace, "reader", &namespace, r#"[{ apiGroups: [""], resources: [configmaps], verbs: [list] }]"#);
    assert_eq!(code(&api.get("one").await.unwrap_err()), 403, "what was taken away is so at once");
    assert_eq!(api.list(&ListParams::default()).await.unwrap().items.len(), 1);
    let user = format!("system:serviceaccount:{namespace}:reader");
    eventually(PATIENCE, async || {
        let lines = cluster.audit();
        let refused = lines.iter().any(|line| line.user == user && line.verb == "list" && line.code == 403);
        refused.then_some(()).ok_or_else(|| format!("{lines:#?}"))
    })
    .await;
}

#[test]
fn an_object_that_others_write_in_between_is_changed_all_the_same() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("changed");
    cluster.apply(&config_map(&namespace, "one"));
    let times = AtomicUsize::new(0);
    let path = format!("/api/v1/namespaces/{namespace}/configmaps/one");
    let stored = cluster.change(&path, |object| {
        if times.fetch_add(1, Ordering::Relaxed) == 0 {
            cluster.apply(&config_map(&namespace, "one").replace("a: b", "a: b, others: c"));
        }
        object["data"]["ours"] = "d".into();
    });
    assert_eq!(stored["data"], serde_json::json!({ "a": "b", "others": "c", "ours": "d" }), "neither write is lost");
    assert_eq!(times.into_inner(), 2);
}

#[test]
fn what_the_server_refuses_comes_back_in_its_words() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("words");
    let error = cluster.try_apply(&config_map(&namespace, "B")).unwrap_err();
    assert!(error.contains("a lowercase RFC 1123 subdomain"), "{error}");
    let error = cluster.try_apply(&config_map(&namespace, "b").replace("\ndata", "\ndada")).unwrap_err();
    assert!(error.contains("field not declared in schema") || error.contains("unknown field"), "{error}");
    let said = cluster.kubectl(&["--namespace", &namespace, "get", "configmap", "b"]);
    assert_eq!(said.code, Some(1));
    assert!(said.stderr.contains("NotFound"), "{}", said.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_ones_own_can_be_stopped_killed_restarted_and_compacted() {
    let cluster = Cluster::private();
    let namespace = cluster.namespace("faults");
    let api = Api::<ConfigMap>::namespaced(cluster.client(), &namespace);
    cluster.apply(&config_map(&namespace, "one"));
    let old = api.list(&ListParams::default()).await.unwrap().metadata.resource_version.unwrap();
    cluster.apply(&config_map(&namespace, "two"));

    cluster.stop();
    assert!(timeout(Duration::from_millis(300), api.list(&ListParams::default())).await.is_err());
    cluster.cont();
    assert_eq!(api.list(&ListParams::default()).await.unwrap().items.len(), 2);

    cluster.kill();
    assert!(matches!(api.list(&ListParams::default()).await, Err(error) if !matches!(error, kube::Error::Api(_))));
    cluster.restart();
    cluster.apply(&config_map(&namespace, "three"));
    assert_eq!(api.list(&ListParams::default()).await.unwrap().items.len(), 3);

    // Forgotten by etcd, and by the new server never known.
    cluster.compact();
    cluster.restart();
    let mut watch = api.watch(&WatchParams::default(), &old).await.unwrap().boxed();
    let first = timeout(PATIENCE, watch.next()).await.unwrap().unwrap();
    match first {
        Ok(WatchEvent::Error(status)) | Err(kube::Error::Api(status)) => assert_eq!(status.code, 410, "{status:?}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn controllers_run_where_a_test_asks_for_them() {
    let cluster = Cluster::with_controllers(&["endpointslice-mirroring-controller", "garbage-collector-controller"]);
    let namespace = cluster.namespace("mirror");
    cluster.apply(&format!(
        r"
apiVersion: v1
kind: Service
metadata: {{ name: web, namespace: {namespace} }}
spec: {{ ports: [{{ name: http, port: 80 }}] }}
---
apiVersion: v1
kind: Endpoints
metadata: {{ name: web, namespace: {namespace} }}
subsets: [{{ addresses: [{{ ip: 192.0.2.1 }}], ports: [{{ name: http, port: 80 }}] }}]
"
    ));
    let slices = Api::<EndpointSlice>::namespaced(cluster.client(), &namespace);
    eventually(PATIENCE, async || {
        let none = slices.list(&ListParams::default()).await.unwrap().items.is_empty();
        if none { Err("no EndpointSlice".to_owned()) } else { Ok(()) }
    })
    .await;
    let services = Api::<Service>::namespaced(cluster.client(), &namespace);
    let uid = services.get("web").await.unwrap().metadata.uid.unwrap();
    let owned = format!("name: owned, ownerReferences: [{{ apiVersion: v1, kind: Service, name: web, uid: {uid} }}]");
    cluster.apply(&config_map(&namespace, "owned").replace("name: owned", &owned));
    services.delete("web", &kube::api::DeleteParams::default()).await.unwrap();
    let maps = Api::<ConfigMap>::namespaced(cluster.client(), &namespace);
    // The collector learns at its start which kinds there are, and again only every 30 s.
    eventually(PATIENCE + Duration::from_secs(30), async || {
        let left = maps.get_opt("owned").await.unwrap();
        if left.is_some() { Err("no garbage collection".to_owned()) } else { Ok(()) }
    })
    .await;
}

#[test]
fn crds_are_served_when_their_installation_returns() {
    let cluster = Cluster::private();
    cluster.install_crd();
    cluster.install_operator_crds(&["servicemonitors", "scrapeconfigs", "prometheuses"]);
    for list in ["st", "servicemonitors", "scrapeconfigs", "prometheuses"] {
        let said = cluster.kubectl(&["get", list, "--all-namespaces"]);
        assert!(said.code == Some(0) && said.stderr.contains("No resources found"), "{}", said.stderr);
    }
}

/// Where the copy of this test that is killed says which processes it has started.
const TOLD: &str = "TELL_THE_GUARDED_PROCESSES";

#[test]
fn what_a_killed_test_has_started_ends_with_it() {
    if let Some(file) = std::env::var_os(TOLD) {
        let folder = TempDir::new().unwrap().keep();
        let guarded = Guarded::spawn(Path::new("sleep"), &["600".to_owned()], &folder.join("log"), Some(&folder));
        let mut sleep = Command::new("sleep");
        sleep.arg("600");
        let running = Running::spawn(sleep);
        std::fs::write(file, format!("{} {} {}\n", guarded.id(), running.id(), folder.display())).unwrap();
        std::thread::sleep(PATIENCE);
        return;
    }
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("told");
    let name = "cluster::what_a_killed_test_has_started_ends_with_it";
    let mut copy = Command::new(std::env::current_exe().unwrap());
    let mut copy = copy.args(["--exact", name]).env(TOLD, &file).stdout(Stdio::null()).spawn().unwrap();
    let start = Instant::now();
    let patient = || {
        assert!(start.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(5));
    };
    let told = loop {
        match std::fs::read_to_string(&file) {
            Ok(told) if told.ends_with('\n') => break told,
            _ => patient(),
        }
    };
    let [guarded, running, left] = told.trim().splitn(3, ' ').collect::<Vec<_>>()[..] else { panic!("{told}") };
    // Of one that has ended and that nobody has asked about, no more than the number is left.
    let runs = |id| std::fs::read(format!("/proc/{id}/cmdline")).is_ok_and(|line| !line.is_empty());
    assert!(runs(guarded) && runs(running) && Path::new(left).exists());
    signal(copy.id(), "KILL");
    copy.wait().unwrap();
    while runs(guarded) || runs(running) || Path::new(left).exists() {
        patient();
    }
}
