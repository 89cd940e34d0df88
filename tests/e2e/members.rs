//! Pods behind a Service come and go, all watched by one target: Prometheus has the series of those that are there, each once.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::cluster::{Cluster, read};
use crate::prometheus::Labels;
use crate::{figure, until};

/// The target of deploy/simulated with members.
pub(crate) const TARGET: &str = "simulated-webrtc/rooms";

const NAMESPACE: &str = "simulated-webrtc";

/// A pod behind the same Service that does not belong to the Deployment.
const DRAINING: &str = "rooms-draining";

/// How long that pod serves after it was told to end.
const DRAINS: Duration = Duration::from_secs(60);

const PATIENCE: Duration = Duration::from_secs(180);

/// The pods that are ready, whether they are about to end or not, and the number of all.
fn pods(cluster: &Cluster) -> (BTreeSet<String>, usize) {
    let listed = cluster.kubectl(&["-n", NAMESPACE, "get", "pods", "-l", "app=rooms", "-o", "json"]);
    let listed: Value = serde_json::from_str(&listed).unwrap();
    let all = listed["items"].as_array().unwrap();
    let is_ready = |pod: &&Value| {
        let conditions = pod["status"]["conditions"].as_array();
        conditions.into_iter().flatten().any(|found| found["type"] == "Ready" && found["status"] == "True")
    };
    let ready = all.iter().filter(is_ready).map(|pod| pod["metadata"]["name"].as_str().unwrap().to_owned());
    (ready.collect(), all.len())
}

/// Waits until so many pods of the Deployment are there, and Prometheus has exactly their series, each once, and those of the one that
/// drains as long as it is there. Returns those that say that they are up.
pub(crate) fn until_series_are_of_the_pods(cluster: &Cluster, replicas: u32) -> Vec<(Labels, f64)> {
    let (found, time) = until("series of exactly the pods that are there", PATIENCE, || {
        let (pods, all) = pods(cluster);
        let number = replicas + u32::from(pods.contains(DRAINING));
        let wanted = number as usize;
        if pods.len() != wanted || all != wanted {
            return Err(format!("{all} pods, of which are ready: {pods:?}"));
        }
        let of =
            |found: &[(Labels, f64)]| found.iter().map(|(labels, _)| labels["pod"].clone()).collect::<BTreeSet<_>>();
        let up = cluster.query(&format!(r#"mediasoup_up{{instance="{TARGET}"}}"#))?;
        if up.len() != wanted || of(&up) != pods || up.iter().any(|(_, value)| *value != 1.0) {
            return Err(format!("{up:?} of {pods:?}"));
        }
        // Of none of its families is anything left of a pod that has gone. Single streams are left out: one that ended while Prometheus
        // was configured anew is left for five minutes.
        let every = cluster.query(&format!(r#"count by (pod) ({{instance="{TARGET}", pod!="", producer_id=""}})"#))?;
        if of(&every) != pods {
            return Err(format!("{every:?} of {pods:?}"));
        }
        let counted =
            cluster.number(&format!(r#"sum(probe_members{{instance="{TARGET}", state=~"up|terminating"}})"#))?;
        let twice = cluster.number(&format!(r#"count(probe_success{{instance="{TARGET}"}})"#))?;
        if counted == f64::from(number) && twice == 1.0 {
            Ok(up)
        } else {
            Err(format!("{counted} members, {twice} targets"))
        }
    });
    figure(&format!("until Prometheus had the series of {replicas} replicas"), time);
    found
}

fn scale(cluster: &Cluster, replicas: u32) {
    cluster.kubectl(&["-n", NAMESPACE, "scale", "deployment/rooms", &format!("--replicas={replicas}")]);
}

/// All that happens to pods, while one drains.
pub(crate) fn come_and_go(cluster: &Cluster) {
    cluster.until_steady();
    until_series_are_of_the_pods(cluster, 3);
    let start = Instant::now();
    cluster.apply(&draining_pod());
    cluster.kubectl(&["-n", NAMESPACE, "wait", "--for=condition=Ready", &format!("pod/{DRAINING}"), "--timeout=180s"]);
    until_series_are_of_the_pods(cluster, 3);
    cluster.kubectl(&["-n", NAMESPACE, "delete", "pod", DRAINING, "--wait=false"]);
    let terminating = format!(r#"probe_members{{instance="{TARGET}", state="terminating"}} == 1"#);
    cluster.until_number(&terminating, 1.0, PATIENCE);

    for replicas in [5, 1, 3] {
        scale(cluster, replicas);
        until_series_are_of_the_pods(cluster, replicas);
    }

    cluster.rolled_out(NAMESPACE, "rooms");
    let (before, _) = pods(cluster);
    cluster.kubectl(&["-n", NAMESPACE, "rollout", "restart", "deployment/rooms"]);
    cluster.rolled_out(NAMESPACE, "rooms");
    // The one that drains ends meanwhile, or later.
    let ((), time) = until("end of the pod that drains", DRAINS + PATIENCE, || {
        let left = cluster.field(NAMESPACE, &format!("pod/{DRAINING}"), "{.metadata.name}");
        if left.is_empty() { Ok(()) } else { Err(left) }
    });
    figure("until the pod that drains has ended", time);
    let after: BTreeSet<String> =
        until_series_are_of_the_pods(cluster, 3).into_iter().map(|(labels, _)| labels["pod"].clone()).collect();
    assert!(after.is_disjoint(&before), "each was replaced: {after:?}");
    // It was polled until its end, and never said to be down.
    let time = start.elapsed().as_secs();
    let drained = |function: &str, name: &str| {
        let series = format!(r#"{name}{{instance="{TARGET}", pod="{DRAINING}"}}"#);
        cluster.number(&format!("{function}({series}[{time}s])")).unwrap()
    };
    assert_eq!(drained("min_over_time", "mediasoup_up"), 1.0);
    let samples = drained("count_over_time", "probe_member_success");
    assert!(samples >= 10.0, "{samples} samples of a minute");

    one_is_killed(cluster, after.first().unwrap());
    // Whatever happened to pods: the target has always been up, and is one.
    let time = start.elapsed().as_secs();
    let success = format!(r#"min_over_time(probe_success{{instance="{TARGET}"}}[{time}s])"#);
    assert_eq!(cluster.query(&success).unwrap().iter().map(|(_, value)| *value).collect::<Vec<_>>(), [1.0]);
}

/// The process of a pod is killed, and started again in the same pod: its series go on, from a new start.
fn one_is_killed(cluster: &Cluster, pod: &str) {
    if !cluster.is_ours() {
        cluster.kubectl(&["-n", NAMESPACE, "delete", "pod", pod, "--force", "--grace-period=0"]);
        until_series_are_of_the_pods(cluster, 3);
        return;
    }
    let start = format!(r#"mediasoup_agent_start_time_seconds{{instance="{TARGET}", pod="{pod}"}}"#);
    let before = cluster.number(&start).unwrap();
    assert!(before > 0.0, "{before}");
    cluster.signal_to("simulate", "KILL", NAMESPACE, pod);
    let ((), time) = until("series of the process that was started again", PATIENCE, || {
        let now = cluster.number(&start)?;
        if now > before { Ok(()) } else { Err(format!("{before}, now {now}")) }
    });
    figure("from the kill to the series of the new process", time);
    until_series_are_of_the_pods(cluster, 3);
}

/// Pods come and go in whatever way Prometheus finds targets, and however many replicas there are.
pub(crate) fn are_scaled(cluster: &Cluster) {
    cluster.until_steady();
    for replicas in [4, 3] {
        scale(cluster, replicas);
        until_series_are_of_the_pods(cluster, replicas);
    }
}

/// A pod like those of the Deployment, that goes on serving for a minute after it was told to end.
fn draining_pod() -> String {
    let servers = read("deploy/simulated/servers.yaml");
    let documents = servers.split("\n---\n").map(|text| serde_saphyr::from_str::<Value>(text).unwrap());
    let deployment =
        documents.into_iter().find(|object| object["kind"] == "Deployment" && object["metadata"]["name"] == "rooms");
    let mut pod = deployment.unwrap()["spec"]["template"].clone();
    pod["apiVersion"] = "v1".into();
    pod["kind"] = "Pod".into();
    pod["metadata"]["name"] = DRAINING.into();
    pod["metadata"]["namespace"] = NAMESPACE.into();
    pod["spec"]["terminationGracePeriodSeconds"] = (DRAINS.as_secs() + 30).into();
    pod["spec"]["containers"][0]["lifecycle"] =
        serde_json::json!({ "preStop": { "sleep": { "seconds": DRAINS.as_secs() } } });
    pod.to_string()
}
