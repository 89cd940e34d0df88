//! What happens to targets in the course of a day, each seen in Prometheus and in `kubectl get scrapetargets`.

use std::time::Duration;

use crate::cluster::Cluster;
use crate::{figure, targets, until};

const PATIENCE: Duration = Duration::from_secs(180);

/// Waits until `kubectl get st` has these words in the columns UP and REASON.
pub(crate) fn until_shown(cluster: &Cluster, namespace: &str, name: &str, up: &str, reasons: &[&str]) {
    until("row of kubectl get st", PATIENCE, || {
        let row = cluster.kubectl(&["get", "st", "-n", namespace, name, "--no-headers"]);
        let columns: Vec<&str> = row.split_whitespace().collect();
        let fine = columns.len() > 4 && columns[3] == up && reasons.contains(&columns[4]);
        if fine { Ok(()) } else { Err(format!("{row}instead of {up} {reasons:?}")) }
    });
}

pub(crate) fn wrong_target_is_refused(cluster: &Cluster) {
    let target = |spec: &str| {
        format!(
            "apiVersion: scrapetarget.dev/v1alpha1\nkind: ScrapeTarget\nmetadata: {{ name: wrong, namespace: simulated-webrtc }}\nspec: {spec}\n"
        )
    };
    for (spec, words) in [
        ("{ type: Sora, url: 'http://user:pw@sora:3000/' }", "without user, password"),
        (
            "{ type: Sora, url: 'http://sora:3000/', timeout: 20s, interval: 15s }",
            "write a shorter timeout or a longer interval",
        ),
        ("{ type: Sora, url: 'http://sora:3000/', orion: { level: Total } }", "orion"),
        ("{ type: Kurento, url: 'http://sora:3000/' }", "Sora"),
    ] {
        let said = cluster.try_kubectl(&["apply", "-f", "-"], &target(spec));
        assert!(!said.good() && said.stderr.contains(words), "{spec}: {:?} is not in {}", words, said.stderr);
        println!("   {}", said.stderr.lines().last().unwrap_or_default());
    }
    // The others are not disturbed.
    cluster.until_up(&targets::names(), PATIENCE);
}

pub(crate) fn secret_is_rotated(cluster: &Cluster) {
    let success = r#"probe_success{instance="simulated-webrtc/rooms"}"#;
    // Its pods will be others.
    cluster.until_steady();
    // The server wants another token before anybody has told us.
    cluster.kubectl(&[
        "-n",
        "simulated-webrtc",
        "set",
        "env",
        "deployment/rooms",
        "SCRAPETARGET_SIMULATE_TOKEN=rotated",
    ]);
    cluster.rolled_out("simulated-webrtc", "rooms");
    cluster.until_number(success, 0.0, PATIENCE);
    cluster.until_number(r#"probe_failure_info{instance="simulated-webrtc/rooms", reason="auth"}"#, 1.0, PATIENCE);
    until_shown(cluster, "simulated-webrtc", "rooms", "False", &["Auth"]);
    let patch = r#"{"stringData": {"token": "rotated"}}"#;
    cluster.kubectl(&["-n", "simulated-webrtc", "patch", "secret", "mediasoup-agent", "-p", patch]);
    figure("from the rotated Secret to the next good sample", cluster.until_number(success, 1.0, PATIENCE));
    until_shown(cluster, "simulated-webrtc", "rooms", "True", &["Succeeded"]);
}

pub(crate) fn server_dies_and_comes_back(cluster: &Cluster) {
    let success = r#"probe_success{instance="simulated-fiware/orion-city"}"#;
    cluster.kubectl(&["-n", "simulated-fiware", "scale", "deployment/orion", "--replicas=0"]);
    figure("from the server's end to probe_success 0", cluster.until_number(success, 0.0, PATIENCE));
    cluster.until_number(r#"orion_up{instance="simulated-fiware/orion-city"}"#, 0.0, PATIENCE);
    until_shown(cluster, "simulated-fiware", "orion-city", "False", &["Connect", "Timeout"]);
    let said = cluster.field("simulated-fiware", "st/orion-city", "{.status.conditions[?(@.type=='Up')].message}");
    println!("   {said}");
    // A Service without pods: our kube-proxy refuses, and while the pod goes there is no way to it. Another network may be silent.
    assert!(said.contains("refused") || said.contains("unreachable") || !cluster.is_ours(), "{said}");
    cluster.kubectl(&["-n", "simulated-fiware", "scale", "deployment/orion", "--replicas=1"]);
    figure("from its return to probe_success 1", cluster.until_number(success, 1.0, PATIENCE));
    until_shown(cluster, "simulated-fiware", "orion-city", "True", &["Succeeded"]);
}

/// A target is told the address of nobody, and its own again.
pub(crate) fn url_is_followed(cluster: &Cluster) {
    let own = cluster.field("simulated-fiware", "st/orion-city", "{.spec.url}");
    for (url, up, reasons) in
        [("http://nobody.simulated-fiware.svc:1026/", "False", &["Dns"][..]), (&own, "True", &["Succeeded"])]
    {
        let patch = format!(r#"{{"spec": {{"url": "{url}"}}}}"#);
        cluster.kubectl(&["-n", "simulated-fiware", "patch", "st", "orion-city", "--type=merge", "-p", &patch]);
        until_shown(cluster, "simulated-fiware", "orion-city", up, reasons);
    }
}

pub(crate) fn target_is_deleted(cluster: &Cluster) {
    targets::delete_edumeet(cluster);
    until("end of its ServiceMonitor", PATIENCE, || {
        let left = cluster.names("servicemonitors");
        if left.iter().any(|name| name.starts_with("simulated-school/")) { Err(left.join(" ")) } else { Ok(()) }
    });
    targets::apply_anew(cluster);
    cluster.until_up(&targets::names(), PATIENCE);
}
