//! An admission webhook that must be asked and is away: the API server answers each write that it should judge with 500.

use std::time::{Duration, Instant};

use serde_json::json;

use super::stage::{MONITORS, Stage};
use crate::exporter::{targets, told};
use crate::support::cluster::Cluster;
use crate::support::eventually::{PATIENCE, eventually_blocking};
use crate::support::load::allowed;

/// Asked about `resource` of `namespace`, at a port where nobody listens.
fn away(name: &str, namespace: &str, group: &str, resource: &str) -> String {
    let webhook = json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": { "name": name },
        "webhooks": [{
            "name": "away.example.com",
            "admissionReviewVersions": ["v1"],
            "sideEffects": "None",
            "failurePolicy": "Fail",
            "clientConfig": { "url": "https://127.0.0.1:1/" },
            "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": namespace } },
            "rules": [{
                "apiGroups": [group], "apiVersions": ["*"], "operations": ["CREATE", "UPDATE"], "resources": [resource],
            }],
        }],
    });
    webhook.to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_that_is_away_in_one_namespace_holds_up_no_other() {
    const MANY: usize = 30;
    let stage = Stage::new(Cluster::shared());
    let (muted, good) = (stage.cluster.namespace("muted"), stage.cluster.namespace("good"));
    for namespace in [&muted, &good] {
        stage.allow(namespace, MONITORS);
    }
    let (monitors, statuses) = (format!("{}-monitors", stage.team), format!("{}-statuses", stage.team));
    stage.cluster.apply(&away(&monitors, &stage.team, "monitoring.coreos.com", "servicemonitors"));
    stage.cluster.apply(&away(&statuses, &muted, "scrapetarget.dev", "scrapetargets/status"));
    for number in 0..MANY {
        stage.declare(&format!("t{number}"), &json!({ "interval": "1h" }));
        stage.declare_in(&muted, &format!("t{number}"), &json!({ "interval": "1h" }));
    }
    until_asked(&stage);

    let exporter = stage.run(&["--watch-namespace", &muted, "--watch-namespace", &good]);
    let said = stage.until_ready("t0", "False Failed", &exporter).await;
    assert!(said.contains("away.example.com"), "{said}");
    let api = targets(stage.cluster, &good);
    let began = Instant::now();
    stage.declare_in(&good, "late", &json!({ "interval": "1h" }));
    let written = async || {
        let target = api.get("late").await.unwrap();
        told(&target).get("MonitorReady").is_some_and(|(verdict, _)| verdict == "True/Written").then_some(())
    };
    stage.until("a monitor and a status of another namespace", &exporter, written).await;
    assert!(began.elapsed() < allowed(Duration::from_secs(15)), "it took {:?}", began.elapsed());
    let lines = || exporter.logged("the status of a target cannot be written");
    stage.until("a line", &exporter, async || (lines() > 0).then_some(())).await;
    let log = exporter.log();
    assert!(!log.contains("statuses are written again") && !log.contains("statuses cannot be written"), "{log}");
    assert!(lines() <= 10, "{} lines:\n{log}", lines());

    for webhook in [&monitors, &statuses] {
        stage.cluster.kubectl(&["delete", "validatingwebhookconfiguration", webhook]);
    }
    let all = async || (stage.names(&stage.team).await.len() == MANY).then_some(());
    stage.until("all monitors, once the webhook is gone", &exporter, all).await;
    let api = targets(stage.cluster, &muted);
    let told_all = async || {
        let list = api.list(&kube::api::ListParams::default()).await.unwrap().items;
        list.iter().all(|target| told(target).contains_key("MonitorReady")).then_some(())
    };
    stage.until("all statuses, once the webhook is gone", &exporter, told_all).await;
}

/// The API server follows its webhooks at a little distance.
fn until_asked(stage: &Stage<'_>) {
    let monitor = json!({
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "ServiceMonitor",
        "metadata": { "name": "first", "namespace": stage.team },
        "spec": { "selector": {}, "endpoints": [{ "port": "any" }] },
    });
    eventually_blocking(PATIENCE, || {
        let taken = stage.cluster.try_apply(&monitor.to_string()).is_ok();
        if taken {
            stage.cluster.kubectl(&["-n", &stage.team, "delete", "servicemonitor", "first"]);
        }
        if taken { Err("the webhook is not asked".to_owned()) } else { Ok(()) }
    });
}
