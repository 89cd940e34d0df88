//! What is written for the Prometheus Operator, read back from a real API server with the Operator's real CRD.

mod installed;
mod kept;
mod stage;
mod steady;
mod webhook;

use k8s_openapi::api::core::v1::Endpoints;
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};

use crate::support::cluster::Cluster;
use crate::support::program::{Running, signal};
use stage::{MONITORS, Stage};

/// Changes a monitor as somebody with an editor would.
async fn edit(stage: &Stage<'_>, name: &str, change: Value) {
    let who = PatchParams { field_manager: Some("editor".to_owned()), ..PatchParams::default() };
    stage.monitors(&stage.team).patch(name, &who, &Patch::Merge(change)).await.unwrap();
}

/// Ends an exporter so that the next one may lead at once.
fn stop(mut exporter: Running) {
    signal(exporter.id(), "TERM");
    exporter.ended();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_has_a_monitor_that_nobody_else_can_change_and_everybody_can_label() {
    let stage = Stage::new(Cluster::shared());
    stage.declare("tokyo", &json!({ "labels": { "region": "tokyo" } }));
    let exporter = stage.run(&["--discovery.monitor-label", "release=prometheus"]);
    stage.until_ready("tokyo", "True Written", &exporter).await;
    let written = stage.monitor("tokyo").await.unwrap();
    assert_eq!(written["metadata"]["labels"]["release"], "prometheus");
    assert_eq!(written["metadata"]["ownerReferences"][0]["name"], "tokyo");
    assert_eq!(written["spec"]["namespaceSelector"], json!({ "matchNames": [stage.own] }));
    assert_eq!(written["spec"]["selectorMechanism"], "RoleSelector");

    let note = json!({ "metadata": { "labels": { "team": "media" }, "annotations": { "note": "seen" } } });
    edit(&stage, "tokyo", note).await;
    for (what, change) in [
        ("our list", json!({ "spec": { "endpoints": [{ "port": "http", "interval": "1h" }] } })),
        ("our label", json!({ "metadata": { "labels": { "release": "other" } } })),
        ("the label of our release", json!({ "metadata": { "labels": { "scrapetarget.dev/release": null } } })),
    ] {
        edit(&stage, "tokyo", change).await;
        stage
            .until(what, &exporter, async || {
                let now = stage.monitor("tokyo").await?;
                let same = now["spec"] == written["spec"]
                    && now["metadata"]["labels"]["release"] == "prometheus"
                    && now["metadata"]["labels"]["scrapetarget.dev/release"] == "st";
                same.then_some(())
            })
            .await;
    }
    let now = stage.monitor("tokyo").await.unwrap();
    assert_eq!(now["metadata"]["labels"]["team"], "media");
    assert_eq!(now["metadata"]["annotations"]["note"], "seen");
    assert_eq!(now["metadata"]["uid"], written["metadata"]["uid"], "it was never taken away");

    stage.monitors(&stage.team).delete("tokyo", &DeleteParams::default()).await.unwrap();
    stage.until("a new one", &exporter, async || stage.monitor("tokyo").await).await;
    // What was written can be seen a little before the request stands in the log.
    let writes = || stage.asked(&["patch", "create", "update"]);
    stage.until("five writes", &exporter, async || (writes().len() >= 5).then_some(())).await;
    assert_eq!(writes().len(), 5, "once for each change and no more: {:#?}", writes());
    assert_eq!(stage.asked(&["list"]).len(), 2, "once in each namespace");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_is_not_to_be_scraped_has_no_monitor() {
    let stage = Stage::new(Cluster::shared());
    for name in ["suspended", "disabled", "deleted"] {
        stage.declare(name, &json!({}));
    }
    let exporter = stage.run(&[]);
    for name in ["suspended", "disabled", "deleted"] {
        stage.until_ready(name, "True Written", &exporter).await;
    }
    stage.declare("suspended", &json!({ "suspend": true }));
    stage.declare("disabled", &json!({ "monitor": { "enabled": false } }));
    // Nobody collects garbage here: it is found by the slow look.
    stage.delete_target("deleted").await;
    stage.until_ready("suspended", "True Disabled: spec.suspend", &exporter).await;
    stage.until_ready("disabled", "True Disabled: spec.monitor.enabled", &exporter).await;
    let none = async || stage.names(&stage.team).await.is_empty().then_some(());
    stage.until("end of the monitors", &exporter, none).await;
    stage.declare("suspended", &json!({ "suspend": false }));
    stage.until_ready("suspended", "True Written", &exporter).await;
    assert!(stage.monitor("suspended").await.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_monitor_of_somebody_else_is_never_taken_over() {
    let stage = Stage::new(Cluster::shared());
    let theirs = json!({
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "ServiceMonitor",
        "metadata": { "name": "tokyo", "namespace": stage.team },
        "spec": { "selector": {}, "endpoints": [{ "port": "theirs" }] },
    });
    stage.cluster.apply(&theirs.to_string());
    let before = stage.monitor("tokyo").await.unwrap();
    stage.declare("tokyo", &json!({}));
    let exporter = stage.run(&[]);
    stage.until_ready("tokyo", "False NameTaken", &exporter).await;
    stage.declare("tokyo", &json!({ "suspend": true }));
    stage.until_ready("tokyo", "True Disabled", &exporter).await;
    assert_eq!(stage.monitor("tokyo").await.unwrap(), before);
    stage.declare("tokyo", &json!({ "suspend": false }));
    stage.until_ready("tokyo", "False NameTaken", &exporter).await;
    assert_eq!(stage.asked(&["patch", "create", "update", "delete"]).len(), 0);
    stage.monitors(&stage.team).delete("tokyo", &DeleteParams::default()).await.unwrap();
    stage.until_ready("tokyo", "True Written", &exporter).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_mode_removes_what_the_one_before_it_wrote() {
    let stage = Stage::new(Cluster::shared());
    stage.declare("tokyo", &json!({}));
    stage.declare("osaka", &json!({}));
    let exporter = stage.run(&[]);
    stage.until_ready("tokyo", "True Written", &exporter).await;
    stage.until_ready("osaka", "True Written", &exporter).await;
    stop(exporter);

    let exporter = stage.run(&["--discovery.monitor-namespace", "release"]);
    let moved = async || {
        let (team, own) = (stage.names(&stage.team).await, stage.names(&stage.own).await);
        (team.is_empty() && own.len() == 2).then_some(own)
    };
    let names = stage.until("monitors beside the exporter", &exporter, moved).await;
    assert!(names[0].starts_with(&format!("{}.osaka-", stage.team)), "{names:?}");
    stage.until_ready("tokyo", &format!("True Written: ServiceMonitor {}/{}", stage.own, names[1]), &exporter).await;
    stage.delete_target("osaka").await;
    let one = async || (stage.names(&stage.own).await.len() == 1).then_some(());
    stage.until("end of the monitor of a deleted target", &exporter, one).await;
    stop(exporter);

    let exporter = stage.run(&["--discovery.mode", "httpSD"]);
    let none = async || stage.names(&stage.own).await.is_empty().then_some(());
    stage.until("end of all monitors", &exporter, none).await;
    stage.until_ready("tokyo", "True Disabled: discovery.mode is httpSD", &exporter).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_carried_into_another_namespace_is_said_with_a_way_out() {
    let stage = Stage::new(Cluster::shared());
    stage.declare("tokyo", &json!({}));
    stage.declare("classed", &json!({ "monitor": { "scrapeClass": "mtls" } }));
    let tls = r#"{"serverName":"probe","ca":{"secret":{"name":"ca","key":"ca.crt"}}}"#;
    let exporter =
        stage.run(&["--discovery.scheme", "https", "--discovery.tls", tls, "--discovery.allowed-scrape-class", "mtls"]);
    let said = stage.until_ready("tokyo", "False NotPortable", &exporter).await;
    assert!(said.contains("discovery.scrapeClass") && said.contains("discovery.monitorNamespace"), "{said}");
    stage.until_ready("classed", "True Written", &exporter).await;
    assert_eq!(stage.names(&stage.team).await, ["classed"]);
    let endpoint = stage.monitor("classed").await.unwrap()["spec"]["endpoints"][0].take();
    assert_eq!(endpoint["tlsConfig"], json!({ "serverName": "probe" }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_names_only_a_scrape_class_that_is_allowed_and_loses_its_monitor_when_it_is_not_any_more() {
    let stage = Stage::new(Cluster::shared());
    stage.declare("tokyo", &json!({ "monitor": { "scrapeClass": "video" } }));
    stage.declare("osaka", &json!({ "monitor": { "scrapeClass": "cluster" } }));
    stage.declare("kyoto", &json!({}));
    let exporter = stage.run(&["--discovery.allowed-scrape-class", "video,audio", "--discovery.scrape-class", "all"]);
    stage.until_ready("tokyo", "True Written", &exporter).await;
    stage.until_ready("kyoto", "True Written", &exporter).await;
    let said = stage.until_ready("osaka", "False ScrapeClassNotAllowed", &exporter).await;
    assert!(said.contains(r#""cluster""#) && said.contains("--discovery.allowed-scrape-class"), "{said}");
    for (name, class) in [("tokyo", "video"), ("kyoto", "all")] {
        assert_eq!(stage.monitor(name).await.unwrap()["spec"]["scrapeClass"], class);
    }
    assert_eq!(stage.names(&stage.team).await, ["kyoto", "tokyo"]);
    stop(exporter);

    let exporter = stage.run(&[]);
    stage.until_ready("tokyo", "False ScrapeClassNotAllowed", &exporter).await;
    let one = async || (stage.names(&stage.team).await == ["kyoto"]).then_some(());
    stage.until("end of the monitor with the class", &exporter, one).await;
    let plain = async || stage.monitor("kyoto").await?["spec"].get("scrapeClass").is_none().then_some(());
    stage.until("end of the class of the installation", &exporter, plain).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_right_is_named_and_all_goes_on_when_it_is_given() {
    let stage = Stage::new(Cluster::shared());
    stage.declare("tokyo", &json!({}));
    for (verb, rest) in [
        ("list", "[get, watch, create, patch, delete]"),
        ("get", "[list, watch, create, patch, delete]"),
        ("create", "[get, list, watch, patch, delete]"),
        ("patch", "[get, list, watch, create, delete]"),
    ] {
        let rules = MONITORS.replace("[get, list, watch, create, patch, delete]", rest);
        stage.allow(&stage.team, &rules);
        let exporter = stage.run(&[]);
        stage.until_said("tokyo", &format!("verbs: [\"{verb}\"]"), &exporter).await;
        stop(exporter);
    }
    let exporter = stage.run(&[]);
    stage.until_ready("tokyo", "False Forbidden", &exporter).await;
    stage.allow(&stage.team, MONITORS);
    stage.until_ready("tokyo", "True Written", &exporter).await;
    stage.allow(&stage.team, &MONITORS.replace(", delete]", "]"));
    stage.declare("tokyo", &json!({ "suspend": true }));
    stage.until_said("tokyo", "verbs: [\"delete\"]", &exporter).await;
    stage.allow(&stage.team, MONITORS);
    stage.until_ready("tokyo", "True Disabled", &exporter).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn monitors_can_be_removed_where_they_may_not_be_written_any_more() {
    let stage = Stage::new(Cluster::shared());
    stage.declare("tokyo", &json!({}));
    let exporter = stage.run(&[]);
    stage.until_ready("tokyo", "True Written", &exporter).await;
    let all = ["--only", "monitors"];
    let said = stage.cleanup(&[&all[..], &["--except-namespace", &stage.team]].concat());
    assert_eq!(said.stdout.trim(), "removed 0 ServiceMonitors and 0 Endpoints", "{}", said.stderr);

    stage.allow(
        &stage.team,
        "\n  - { apiGroups: [monitoring.coreos.com], resources: [servicemonitors], verbs: [list, delete] }\n",
    );
    let said = stage.cleanup(&all);
    assert_eq!(said.stdout.trim(), "removed 1 ServiceMonitors and 0 Endpoints", "{}", said.stderr);
    assert_eq!(stage.names(&stage.team).await, Vec::<String>::new());
    assert_eq!(exporter.body("/metrics").await.matches("\nscrapetarget_leader 1").count(), 1, "it still leads");
}

#[tokio::test(flavor = "multi_thread")]
async fn cleanup_leaves_nothing_although_the_exporter_still_runs() {
    let stage = Stage::new(Cluster::shared());
    for number in 0..20 {
        stage.declare(&format!("t{number}"), &json!({}));
    }
    let exporter = stage.run(&["--leader-election.lease-duration", "5s"]);
    let all = async || (stage.names(&stage.team).await.len() == 20).then_some(());
    stage.until("monitors", &exporter, all).await;
    let endpoints = Api::<Endpoints>::namespaced(stage.cluster.client(), &stage.own);
    stage.until("Endpoints", &exporter, async || endpoints.get_opt("st-probe").await.unwrap()).await;
    let said = stage.cleanup(&[]);
    assert_eq!(
        (said.stdout.trim(), said.code),
        ("removed 20 ServiceMonitors and 1 Endpoints", Some(0)),
        "{}",
        said.stderr
    );
    assert_eq!(stage.names(&stage.team).await, Vec::<String>::new());
    let said = stage.cleanup(&[]);
    assert_eq!(
        (said.stdout.trim(), said.code),
        ("removed 0 ServiceMonitors and 0 Endpoints", Some(0)),
        "{}",
        said.stderr
    );
    assert_eq!(stage.names(&stage.team).await, Vec::<String>::new());
    stop(exporter);
    stage.allow(&stage.team, "");
    let said = stage.cleanup(&[]);
    assert_eq!(said.code, Some(1), "{}", said.stderr);
    assert!(said.stderr.contains(r#"resources: ["servicemonitors"], verbs: ["list"]"#), "{}", said.stderr);
}
