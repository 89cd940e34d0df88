//! What users copy and apply: the API server takes it.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::support::chart;
use crate::support::cluster::Cluster;

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
