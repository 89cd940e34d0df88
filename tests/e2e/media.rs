//! What a media team watches beside its servers: kube-state-metrics through the exporter, a TURN relay, STUN, and signalling over WebSocket.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::changes::until_shown;
use crate::cluster::{Cluster, NAMESPACE, RELEASE, read};
use crate::probers::{delete, until_series};
use crate::{figure, until};

pub(crate) const MANIFESTS: &str = "tests/e2e/manifests/media.yaml";

const PATIENCE: Duration = Duration::from_secs(180);

/// The targets, as docs/prometheus.md and docs/probers.md declare them.
const TARGETS: &str = r"
apiVersion: scrapetarget.dev/v1alpha1
kind: ScrapeTarget
metadata: { name: states, namespace: media }
spec:
  type: Prometheus
  url: http://kube-state-metrics.media.svc:8080/metrics
  interval: 5s
  sampleLimit: 100000
  prometheus: { failStatus: 502 }
  monitor: { job: kube-state-metrics, honorLabels: true }
---
apiVersion: scrapetarget.dev/v1alpha1
kind: ScrapeTarget
metadata: { name: relay, namespace: media }
spec:
  type: Turn
  url: turn:turn.media.svc
  interval: 10s
  turn:
    mode: Relay
    username: { name: turn, key: username }
    password: { name: turn, key: password }
---
apiVersion: scrapetarget.dev/v1alpha1
kind: ScrapeTarget
metadata: { name: stun, namespace: media }
spec:
  type: Stun
  url: stun:turn.media.svc?transport=tcp
  interval: 5s
---
apiVersion: scrapetarget.dev/v1alpha1
kind: ScrapeTarget
metadata: { name: signalling, namespace: media }
spec:
  type: WebSocket
  url: ws://signalling.media.svc:5000/signaling
  interval: 5s
  websocket: { ping: true }
";

/// What Prometheus must have of them: one series each, of this value.
const SERIES: [(&str, f64); 9] = [
    (r#"count(probe_success{namespace="media"} == 1)"#, 4.0),
    (r#"up{job="kube-state-metrics"}"#, 1.0),
    (r#"probe_turn_relay_packets_sent{target_name="relay"}"#, 10.0),
    (r#"probe_turn_relay_packets_received{target_name="relay"}"#, 10.0),
    (r#"probe_turn_authentication_required{target_name="relay"}"#, 1.0),
    (r#"count(probe_turn_relay_round_trip_seconds{target_name="relay"} > 0)"#, 3.0),
    (r#"probe_stun_error_code{target_name="stun"}"#, 0.0),
    (r#"probe_websocket_status_code{target_name="signalling"}"#, 101.0),
    (r#"probe_websocket_connection_upgraded{target_name="signalling"}"#, 1.0),
];

pub(crate) fn is_watched_beside_its_servers(cluster: &Cluster) {
    let start = Instant::now();
    let manifests = read(MANIFESTS);
    let manifests = if cluster.is_ours() { of_this_node(&manifests) } else { manifests };
    cluster.apply_ours(manifests);
    for name in ["kube-state-metrics", "turn", "signalling"] {
        cluster.rolled_out("media", name);
    }
    figure("kube-state-metrics, a TURN server and signalling as pods", start.elapsed());

    cluster.apply(TARGETS);
    figure("from apply to all series", until_series(cluster, &SERIES));
    for name in ["states", "relay", "stun", "signalling"] {
        until_shown(cluster, "media", name, "True", &["Succeeded"]);
    }
    states_are_those_of_the_cluster(cluster);
    a_server_that_is_down_is_no_scrape(cluster);
    wrong_credentials_are_named(cluster);
    delete(cluster, TARGETS);
    cluster.kubectl(&["delete", "namespace", "media", "--wait=false"]);
}

/// The labels are those of the objects that are described, not those of the target; and the numbers are those that kubectl shows.
fn states_are_those_of_the_cluster(cluster: &Cluster) {
    let of_release = format!(r#"kube_pod_info{{job="kube-state-metrics", namespace="{NAMESPACE}"}}"#);
    let ((), time) = until("the pods of the release", PATIENCE, || {
        let known = cluster.query(&of_release)?;
        let known: BTreeSet<String> =
            known.iter().map(|(labels, _)| format!("{}/{}", labels["namespace"], labels["pod"])).collect();
        let listed = cluster.names("pods").into_iter();
        let listed: BTreeSet<String> = listed.filter(|name| name.starts_with(&format!("{NAMESPACE}/"))).collect();
        if known == listed { Ok(()) } else { Err(format!("{known:?} instead of {listed:?}")) }
    });
    figure("until kube_pod_info is what kubectl shows", time);
    // An alert of the mixin for Kubernetes, on its way to fire or not.
    let available = format!(
        r#"kube_deployment_status_replicas_available{{namespace="{NAMESPACE}", deployment="{RELEASE}"}} == kube_deployment_spec_replicas"#
    );
    until_series(cluster, &[(&available, 1.0)]);
}

/// With `failStatus`, Prometheus says of an exporter that is down what it says without us.
fn a_server_that_is_down_is_no_scrape(cluster: &Cluster) {
    cluster.kubectl(&["-n", "media", "scale", "deployment/kube-state-metrics", "--replicas=0"]);
    cluster.until_number(r#"up{job="kube-state-metrics"}"#, 0.0, PATIENCE);
    until_shown(cluster, "media", "states", "False", &["Connect", "Timeout"]);
    cluster.kubectl(&["-n", "media", "scale", "deployment/kube-state-metrics", "--replicas=1"]);
    figure(
        "until it is up again after its pod was started",
        cluster.until_number(r#"up{job="kube-state-metrics"}"#, 1.0, PATIENCE),
    );
}

/// A password that was changed at one end only: `kubectl get st` says so, and when it is changed at the other end, the relay works again.
fn wrong_credentials_are_named(cluster: &Cluster) {
    let password = |text: &str| {
        let patch = format!(r#"{{"stringData": {{"password": "{text}"}}}}"#);
        cluster.kubectl(&["-n", "media", "patch", "secret", "turn", "-p", &patch]);
    };
    password("another");
    until_shown(cluster, "media", "relay", "False", &["Auth"]);
    password("replace-me");
    until_shown(cluster, "media", "relay", "True", &["Succeeded"]);
}

/// The manifests with the image that this node has.
fn of_this_node(manifests: &str) -> String {
    let line = |line: &str| match line.split_once("image: registry.k8s.io/kube-state-metrics/") {
        Some((before, _)) => format!("{before}image: localhost/kube-state-metrics:e2e"),
        None => line.to_owned(),
    };
    manifests.lines().map(line).collect::<Vec<_>>().join("\n")
}
