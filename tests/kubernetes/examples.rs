//! What users copy and apply: the API server takes it.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::chart;
use crate::support::cluster::Cluster;
use crate::support::eventually::{PATIENCE, eventually_blocking};

#[test]
fn the_api_server_takes_every_example() {
    let cluster = Cluster::shared();
    cluster.install_crd();
    let namespace = cluster.namespace("examples");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/examples");
    let mut seen = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let mut manifests = chart::parse(&fs::read_to_string(&path).unwrap());
        for manifest in &mut manifests {
            manifest["metadata"]["namespace"] = namespace.as_str().into();
        }
        let refusals = cluster.refusals(&manifests, &namespace);
        assert!(refusals.is_empty(), "{}: {refusals:#?}", path.display());
        seen += chart::of_kind(&manifests, "ScrapeTarget").len();
    }
    assert!(seen >= 12, "{seen} targets");
}

#[test]
fn the_admission_policy_lets_each_namespace_have_the_types_and_hosts_of_its_annotations() {
    let cluster = Cluster::private();
    cluster.install_crd();
    let namespace = cluster.namespace("tenant");
    cluster.apply(include_str!("../../deploy/admission/probers.yaml"));
    let refused = |kind: &str, url: &str, more: Value| {
        let mut target = json!({
            "apiVersion": "scrapetarget.dev/v1alpha1",
            "kind": "ScrapeTarget",
            "metadata": { "name": "t", "namespace": namespace },
            "spec": { "type": kind, "url": url },
        });
        target["spec"].as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        cluster.refusals(&[target], &namespace).pop()
    };
    // A policy takes effect a moment after it was applied, and so does an annotation.
    let until = |words: Option<&str>, kind: &str, url: &str, more: Value| {
        eventually_blocking(PATIENCE, || match (words, refused(kind, url, more.clone())) {
            (None, None) => Ok(()),
            (Some(words), Some(said)) if said.contains(words) => Ok(()),
            (_, said) => Err(format!("{kind} {url}: {said:?}, not {words:?}")),
        });
    };
    let none = || json!({});
    until(Some("type Http may not be probed"), "Http", "https://www.example.com/", none());
    until(None, "Sora", "http://sora:3000/", none());
    let annotation = "scrapetarget.example.com/hosts=www.example.com,*.shop.svc";
    let said = cluster.kubectl(&[
        "annotate",
        "namespace",
        &namespace,
        "scrapetarget.example.com/probers=Http,Tcp",
        annotation,
    ]);
    assert!(said.good(), "{}", said.stderr);
    let there = || json!({ "http": { "followRedirects": false } });
    until(None, "Http", "https://www.example.com/a?b=c", there());
    // An allowed host could lead to any other one.
    for follows in [none(), json!({ "http": {} }), json!({ "http": { "followRedirects": true } })] {
        until(Some("type Http needs http.followRedirects: false"), "Http", "https://www.example.com/", follows);
    }
    until(None, "Tcp", "tcp://db.SHOP.svc:5432", none());
    until(Some("type Icmp may not be probed"), "Icmp", "icmp://www.example.com", none());
    for url in ["https://example.com/", "https://www.example.com.evil.test/", "https://shop.svc/", "https://[::1]/"] {
        until(
            Some("may not be probed from this namespace: its annotation scrapetarget.example.com/hosts"),
            "Http",
            url,
            there(),
        );
    }
    let proxy = json!({ "proxyUrl": "http://proxy.example.com:3128", "http": { "followRedirects": false } });
    until(Some("proxyUrl may not be used"), "Http", "https://www.example.com/", proxy);
    let said = cluster.kubectl(&["annotate", "namespace", &namespace, "scrapetarget.example.com/redirects=follow"]);
    assert!(said.good(), "{}", said.stderr);
    until(None, "Http", "https://www.example.com/", none());
    until(
        Some("its annotation scrapetarget.example.com/hosts names the hosts that may"),
        "Http",
        "https://other.example.com/",
        none(),
    );
    let said = cluster.kubectl(&["label", "namespace", &namespace, "scrapetarget.example.com/trusted=yes"]);
    assert!(said.good(), "{}", said.stderr);
    until(None, "Icmp", "icmp://anywhere.example.com", none());
}

#[test]
fn the_api_server_takes_the_manifests_for_people_without_helm() {
    let cluster = Cluster::shared();
    let manifests = chart::parse(include_str!("../../deploy/scrapetarget-exporter.yaml"));
    cluster.apply("apiVersion: v1\nkind: Namespace\nmetadata: { name: prometheus }\n");
    let refusals = cluster.refusals(&manifests, "prometheus");
    assert!(refusals.is_empty(), "{refusals:#?}");
    assert!(!chart::of_kind(&manifests, "Deployment").is_empty());
    assert!(manifests.iter().all(|manifest: &Value| {
        manifest["metadata"].get("annotations").is_none_or(|annotations| !annotations.to_string().contains("helm.sh"))
    }));
}
