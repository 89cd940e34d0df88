//! Monitors that must stay although something is missing, and such as must go although something is in the way.

use std::time::{Duration, Instant};

use serde_json::json;

use super::stage::{MONITORS, PATIENCE, Stage};
use super::stop;
use crate::support::cluster::Cluster;
use crate::support::eventually::eventually;

#[tokio::test(flavor = "multi_thread")]
async fn the_monitors_of_a_namespace_whose_targets_may_not_be_listed_stay() {
    let stage = Stage::new(Cluster::shared());
    let other = stage.cluster.namespace("team");
    stage.allow(&other, MONITORS);
    stage.declare("tokyo", &json!({}));
    stage.declare_in(&other, "osaka", &json!({}));
    let both = ["--watch-namespace", &other];
    let exporter = stage.run(&both);
    let osaka = async || stage.monitors(&other).get_opt("osaka").await.unwrap().and_then(|found| found.metadata.uid);
    let before = stage.until("a monitor in the other namespace", &exporter, osaka).await;
    stage.until_ready("tokyo", "True Written", &exporter).await;
    stop(exporter);

    stage.allow_only(&other, MONITORS);
    let exporter = stage.run(&both);
    let denied = async || exporter.log().contains(r#"resources: [\"scrapetargets\"], verbs: [\"list\"]"#).then_some(());
    stage.until("a word about the missing right", &exporter, denied).await;
    // What is gone is found by the look at everything: when it is found here, the other namespace was looked at as well.
    stage.delete_target("tokyo").await;
    let none = async || stage.names(&stage.team).await.is_empty().then_some(());
    stage.until("end of the monitor of a deleted target", &exporter, none).await;
    stage.declare("kyoto", &json!({}));
    stage.until_ready("kyoto", "True Written", &exporter).await;
    assert_eq!(osaka().await.as_deref(), Some(before.as_str()), "{}", exporter.log());

    stage.allow(&other, MONITORS);
    let granted = async || exporter.log().contains("permission is granted now").then_some(());
    stage.until("a word that it is there again", &exporter, granted).await;
    stage.declare_in(&other, "kobe", &json!({}));
    let kobe = async || stage.monitors(&other).get_opt("kobe").await.unwrap();
    stage.until("a monitor of a new target", &exporter, kobe).await;
    assert_eq!(osaka().await, Some(before), "it was never taken away");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_mode_removes_all_monitors_although_the_api_server_dies_halfway() {
    const MANY: usize = 50;
    let cluster = Cluster::private();
    let stage = Stage::new(&cluster);
    for number in 0..MANY {
        stage.declare(&format!("t{number}"), &json!({ "interval": "1h" }));
    }
    let exporter = stage.run(&[]);
    let all = async || (stage.names(&stage.team).await.len() == MANY).then_some(());
    stage.until("monitors", &exporter, all).await;
    stop(exporter);

    let exporter = stage.run(&["--discovery.mode", "httpSD"]);
    let removed = || stage.asked(&["delete"]).len();
    let start = Instant::now();
    while removed() == 0 {
        assert!(start.elapsed() < PATIENCE, "none is removed:\n{}", exporter.log());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    cluster.kill();
    let before = removed();
    assert!(before < MANY, "all are removed before the API server is killed");
    cluster.restart();
    let none = async || stage.names(&stage.team).await.is_empty().then_some(());
    stage.until(&format!("end of the {} monitors that were left", MANY - before), &exporter, none).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_older_crd_let_in_has_no_monitor_and_is_told_why_also_after_the_crd_is_upgraded() {
    let cluster = Cluster::private();
    let stage = Stage::new(&cluster);
    cluster.install_crd_without_rules();
    let forged = json!({ "type": "Sora", "url": "http://127.0.0.1:1/", "monitor": {
        "relabelings": [{ "targetLabel": "instance", "replacement": "team/victim" }],
        "metricRelabelings": [{ "action": "labelmap", "regex": "x_(.*)" }],
    } });
    let target = |spec: &serde_json::Value| {
        let metadata = json!({ "name": "tokyo", "namespace": stage.team });
        json!({ "apiVersion": "scrapetarget.dev/v1alpha1", "kind": "ScrapeTarget", "metadata": metadata, "spec": spec })
            .to_string()
    };
    eventually(PATIENCE, async || cluster.try_apply(&target(&forged))).await;
    stage.declare("osaka", &json!({}));
    let exporter = stage.run(&[]);
    stage.until_ready("tokyo", "False InvalidSpec", &exporter).await;
    stage.until_ready("osaka", "True Written", &exporter).await;
    stop(exporter);

    cluster.install_crd();
    eventually(PATIENCE, async || {
        let taken = cluster.try_apply(&target(&forged).replace("tokyo", "kyoto")).is_ok();
        if taken {
            stage.delete_target("kyoto").await;
        }
        if taken { Err("the API server takes it still".to_owned()) } else { Ok(()) }
    })
    .await;
    let written = json!({
        "metadata": { "name": "tokyo", "namespace": stage.team, "labels": {
            "scrapetarget.dev/release": "st", "scrapetarget.dev/release-namespace": stage.own,
        } },
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "ServiceMonitor",
        "spec": { "selector": {}, "endpoints": [{ "relabelings": forged["monitor"]["relabelings"] }] },
    });
    cluster.apply(&written.to_string());
    let exporter = stage.run(&[]);
    let only = async || (stage.names(&stage.team).await == ["osaka"]).then_some(());
    stage.until("end of the monitor that an earlier version wrote", &exporter, only).await;
    stage.until_ready("tokyo", "False InvalidSpec", &exporter).await;
    stage.declare("tokyo", &json!({ "monitor": { "relabelings": [], "metricRelabelings": [] } }));
    stage.until_ready("tokyo", "True Written", &exporter).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_that_the_installation_lowers_is_written_for_every_target_and_told_where_one_asks_for_more() {
    let stage = Stage::new(Cluster::shared());
    let limit = async |name: &str| stage.monitor(name).await.unwrap()["spec"]["labelLimit"].take();
    stage.declare("tokyo", &json!({}));
    stage.declare("osaka", &json!({ "monitor": { "labelLimit": 40 } }));
    let exporter = stage.run(&["--discovery.label-limit", "50"]);
    for (name, wanted) in [("tokyo", 50), ("osaka", 40)] {
        let said = stage.until_ready(name, "True Written", &exporter).await;
        assert!(said.ends_with("is up to date") && limit(name).await == wanted, "{said}");
    }
    stop(exporter);

    let exporter = stage.run(&["--discovery.label-limit", "30"]);
    stage.until_said("osaka", "spec.monitor.labelLimit is 40, and the installation allows 30", &exporter).await;
    let lowered = async || (limit("tokyo").await == 30 && limit("osaka").await == 30).then_some(());
    stage.until("the lower limit", &exporter, lowered).await;
    assert!(
        stage.ready("osaka").await.starts_with("True Written"),
        "a target that asks for more is scraped all the same"
    );
    stage.declare("osaka", &json!({ "monitor": { "labelLimit": 20 } }));
    let quiet = async || stage.ready("osaka").await.ends_with("is up to date").then_some(());
    stage.until("the end of the advice", &exporter, quiet).await;
    assert_eq!(limit("osaka").await, 20);
}
