//! Which ScrapeTargets are ours, from their making to their end: those of the watched namespaces, with the labels of the selector.

use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::json;

use crate::exporter::{PATIENCE, Release, server, target, targets, until};
use crate::support::cluster::Cluster;

const RULES: &str = "[{ apiGroups: [scrapetarget.dev], resources: [scrapetargets], verbs: [list, watch] }]";

#[tokio::test(flavor = "multi_thread")]
async fn a_target_is_there_changes_and_is_gone_as_its_object() {
    let (cluster, server) = (Cluster::shared(), server().await);
    cluster.install_crd();
    let (ours, other) = (cluster.namespace("watched"), cluster.namespace("unwatched"));
    cluster.apply(&target(&ours, "early", &server.url(), ""));
    cluster.apply(&target(&other, "hidden", &server.url(), ""));
    let release = Release::install(cluster, &[&ours], &["--discovery.mode", "none"]);
    let replica = release.ready().await;
    replica.until_up(&format!("{ours}/early")).await;
    assert_eq!(replica.probe(&format!("{other}/hidden")).await, None);

    let late = format!("{ours}/late");
    cluster.apply(&target(&ours, "late", &server.url(), ""));
    replica.until_up(&late).await;
    cluster.apply(&target(&ours, "late", &server.url(), "suspend: true"));
    until(PATIENCE, async || {
        let series = replica.probe(&late).await.unwrap();
        let suspended = series.contains_key(r#"probe_failure_info{reason="suspended"}"#);
        suspended.then_some(()).ok_or_else(|| format!("{series:?}"))
    })
    .await;
    targets(cluster, &ours).delete("late", &DeleteParams::default()).await.unwrap();
    replica.until_gone(&late).await;
    replica.until_up(&format!("{ours}/early")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_that_may_not_be_watched_keeps_no_other_waiting_and_is_noticed_once_it_may() {
    let (cluster, server) = (Cluster::shared(), server().await);
    cluster.install_crd();
    let [open, closed, other] = ["open", "closed", "other"].map(|name| cluster.namespace(name));
    for namespace in [&open, &closed, &other] {
        cluster.apply(&target(namespace, "a", &server.url(), ""));
    }
    let release = Release::without_rights(cluster, &[&open, &closed], &["--discovery.mode", "none"]);
    release.grant(cluster, &open, RULES);
    let replica = release.ready().await;
    replica.until_up(&format!("{open}/a")).await;
    assert_eq!(replica.sd().await.unwrap().into_keys().collect::<Vec<_>>(), [format!("{open}/a")]);
    let rule = format!("not permitted in namespace {closed}: a Role or ClusterRole must have the rule");
    let logged = || replica.log().lines().filter(|line| line.contains(&rule) && line.contains("scrapetargets")).count();
    until(PATIENCE, async || (logged() > 0).then_some(()).ok_or_else(|| replica.log())).await;
    assert_eq!(logged(), 1, "{}", replica.log());

    release.grant(cluster, &closed, RULES);
    replica.until_up(&format!("{closed}/a")).await;
    assert_eq!(
        replica.sd().await.unwrap().into_keys().collect::<Vec<_>>(),
        [format!("{closed}/a"), format!("{open}/a")]
    );
    assert_eq!(logged(), 1, "{}", replica.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_loses_the_label_of_the_selector_is_gone_and_comes_back_with_it() {
    let (cluster, server) = (Cluster::shared(), server().await);
    cluster.install_crd();
    let namespace = cluster.namespace("labels");
    for name in ["ours", "theirs"] {
        cluster.apply(&target(&namespace, name, &server.url(), ""));
    }
    let label = async |value: Option<&str>| {
        let patch = Patch::Merge(json!({ "metadata": { "labels": { "team": value } } }));
        targets(cluster, &namespace).patch("ours", &PatchParams::default(), &patch).await.unwrap();
    };
    label(Some("media")).await;
    let selector = ["--target-selector", "team in (media, edge)", "--discovery.mode", "none"];
    let release = Release::install(cluster, &[&namespace], &selector);
    let replica = release.ready().await;
    let name = format!("{namespace}/ours");
    replica.until_up(&name).await;
    for (value, ours) in [(Some("sales"), false), (Some("edge"), true), (None, false)] {
        label(value).await;
        if ours { replica.until_up(&name).await } else { replica.until_gone(&name).await }
    }
    assert_eq!(replica.probe(&format!("{namespace}/theirs")).await, None);
}
