//! Objects that are as large as an API server takes them: they hide no other, and are not kept.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::exporter::{PATIENCE, Release, Replica, create, server, target, until};
use crate::support::cluster::Cluster;

/// What the process has of memory, in bytes: now, or at most so far.
fn memory(process: u32, field: &str) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
}

/// A target of 676 KB: annotations may have 256 KiB, but nothing bounds finalizers but the size of the object.
fn large(namespace: &str, name: &str, url: &str) -> Value {
    let annotations: BTreeMap<_, _> = (0..4).map(|i| (format!("a/{i}"), "x".repeat(60_000))).collect();
    let domain = ["a", "b", "c"].map(|letter| letter.repeat(60)).join(".");
    // Each stands in managedFields once more.
    let finalizers: Vec<_> = (0..1000).map(|i| format!("{domain}.example.com/{i}")).collect();
    json!({
        "apiVersion": "scrapetarget.dev/v1alpha1", "kind": "ScrapeTarget",
        "metadata": { "name": name, "namespace": namespace, "annotations": annotations, "finalizers": finalizers },
        "spec": { "type": "Mediasoup", "url": url, "suspend": true },
    })
}

/// Waits for what comes after so many bytes: each page, and each object, takes the API server a second of its own.
async fn until_answered(replica: &Replica, path: &str) {
    until(6 * PATIENCE, async || {
        let answer = replica.get(path).await;
        matches!(answer, Some((200, _))).then_some(()).ok_or_else(|| format!("{answer:?}\n{}", replica.log()))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_objects_of_676_kb_are_listed_and_watched_in_little_memory_and_hide_no_other() {
    let (cluster, server) = (Cluster::private(), server().await);
    cluster.install_crd();
    // In this order: whoever lists must get through those of the one to see that of the other.
    let (crowd, quiet) = (cluster.namespace("a-crowd"), cluster.namespace("z-quiet"));
    cluster.apply(&target(&quiet, "honest", &server.url(), ""));
    let release = Release::install(&cluster, &[], &["--discovery.mode", "none"]);
    let before = {
        let replica = release.ready().await;
        replica.until_up(&format!("{quiet}/honest")).await;
        // Watched one by one.
        create(&cluster, &crowd, (0..50).map(|i| large(&crowd, &format!("w{i}"), &server.url()))).await;
        until_answered(&replica, &format!("/probe?target={crowd}/w49")).await;
        memory(replica.id(), "VmHWM")
    };
    create(&cluster, &crowd, (0..50).map(|i| large(&crowd, &format!("x{i}"), &server.url()))).await;
    let replica = release.replica();
    until_answered(&replica, "/-/ready").await;
    replica.until_up(&format!("{quiet}/honest")).await;
    for name in ["w0", "w49", "x0", "x49"] {
        until_answered(&replica, &format!("/probe?target={crowd}/{name}")).await;
    }
    let listed = memory(replica.id(), "VmHWM");
    // In one page they would be 67 MB as text, and that several times over.
    assert!(before < 120 << 20 && listed < 120 << 20, "{before} when watched, {listed} when listed");
}
