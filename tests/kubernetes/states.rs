//! kube-state-metrics behind us: what it says about the objects of a real API server, and what dashboards and alerts make of it.

use serde_json::{Value, json};

use crate::comparison::{Side, Source, compare};
use crate::dashboards::{Query, same_answers, still};
use crate::support::cluster::Cluster;
use crate::support::eventually::{PATIENCE, eventually};
use crate::support::listener::port_of_nobody_else;
use crate::support::program::Running;
use crate::support::tools;

/// What it shows of the objects of one namespace.
struct States {
    process: Running,
    direct: Side,
}

impl Source for States {
    fn direct(&self) -> &Side {
        &self.direct
    }
}

impl States {
    /// Once it has read all pods.
    async fn start(cluster: &Cluster, namespace: &str) -> Self {
        let [port, own] = [(); 2].map(|()| port_of_nobody_else());
        let mut command = std::process::Command::new(tools::kube_state_metrics());
        command.arg(format!("--kubeconfig={}", cluster.admin_kubeconfig().display()));
        command.args(["--host=127.0.0.1", "--telemetry-host=127.0.0.1"]);
        command.args([
            format!("--port={port}"),
            format!("--telemetry-port={own}"),
            format!("--namespaces={namespace}"),
        ]);
        command.args(["--resources=deployments,nodes,pods,replicasets,secrets", "--metric-labels-allowlist=pods=[*]"]);
        let states =
            Self { process: Running::spawn(command), direct: Side::direct(format!("http://127.0.0.1:{port}/metrics")) };
        eventually(PATIENCE, async || {
            let text = states.direct.text().await?;
            let known = ["kube_pod_info{", "kube_deployment_created{", "kube_replicaset_created{", "kube_node_info{"];
            let all = known.iter().all(|series| text.contains(series));
            if all { Ok(()) } else { Err(states.process.log()) }
        })
        .await;
        states
    }
}

/// A pod of the deployment `rooms`, as the kubelet would have it.
fn pod(name: &str, namespace: &str, node: &str, status: Value) -> (Value, Value) {
    let owner = json!({ "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "rooms-7d9f", "uid": "11111111-2222-3333-4444-555555555555", "controller": true });
    let resources = json!({ "requests": { "cpu": "250m", "memory": "64Mi" }, "limits": { "memory": "128Mi" } });
    let metadata = json!({ "name": name, "namespace": namespace, "labels": { "app": "rooms", "quote": "a-b.c_d" }, "ownerReferences": [owner] });
    let spec = json!({
        "nodeName": node, "containers": [{ "name": "app", "image": "registry.test/rooms:1", "resources": resources }],
        "automountServiceAccountToken": false,
    });
    (json!({ "apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec }), status)
}

fn fill(cluster: &Cluster, namespace: &str, node: &str) {
    let template = json!({
        "metadata": { "labels": { "app": "rooms" } },
        "spec": { "containers": [{ "name": "app", "image": "registry.test/rooms:1" }] },
    });
    let of_apps = |kind: &str, name: &str, replicas: u8| {
        json!({
            "apiVersion": "apps/v1", "kind": kind, "metadata": { "name": name, "namespace": namespace },
            "spec": { "replicas": replicas, "selector": { "matchLabels": { "app": "rooms" } }, "template": template },
        })
    };
    let set_status = |path: &str, status: &Value| {
        cluster.change(&format!("{path}/status"), |object| object["status"] = status.clone());
    };
    let mut set = of_apps("ReplicaSet", "rooms-7d9f", 3);
    let owner = json!({ "apiVersion": "apps/v1", "kind": "Deployment", "name": "rooms", "uid": "99999999-2222-3333-4444-555555555555", "controller": true });
    set["metadata"]["ownerReferences"] = json!([owner]);
    let running = json!({
        "phase": "Running", "hostIP": "192.0.2.1", "podIP": "192.0.2.11", "startTime": "2026-01-02T03:04:05Z",
        "conditions": [{ "type": "Ready", "status": "True" }],
        "containerStatuses": [{
            "name": "app", "ready": true, "restartCount": 2, "image": "registry.test/rooms:1", "imageID": "sha256:0", "containerID": "containerd://a",
            "state": { "running": { "startedAt": "2026-01-02T03:04:06Z" } },
        }],
    });
    let crashing = json!({
        "phase": "Pending", "conditions": [{ "type": "Ready", "status": "False" }],
        "containerStatuses": [{
            "name": "app", "ready": false, "restartCount": 17, "image": "registry.test/rooms:1", "imageID": "sha256:0", "containerID": "containerd://b",
            "state": { "waiting": { "reason": "CrashLoopBackOff", "message": "back-off" } },
        }],
    });
    let pods = [pod("rooms-7d9f-a", namespace, node, running), pod("rooms-7d9f-b", namespace, node, crashing)];
    // Without a controller nobody else makes it, and no pod is admitted without one.
    let account = json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": "default", "namespace": namespace } });
    cluster.apply(&account.to_string());
    cluster.apply(
        &json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": node, "labels": { "zone": "a" } } })
            .to_string(),
    );
    cluster.apply(&of_apps("Deployment", "rooms", 3).to_string());
    cluster.apply(&set.to_string());
    for (pod, status) in &pods {
        cluster.apply(&pod.to_string());
        let name = pod["metadata"]["name"].as_str().unwrap();
        set_status(&format!("/api/v1/namespaces/{namespace}/pods/{name}"), status);
    }
    let resources = json!({ "cpu": "4", "memory": "8Gi", "pods": "110" });
    let ready = json!({ "type": "Ready", "status": "True", "reason": "KubeletReady" });
    let node_status = json!({ "capacity": resources, "allocatable": resources, "conditions": [ready] });
    set_status(&format!("/api/v1/nodes/{node}"), &node_status);
    let counts = json!({ "replicas": 3, "readyReplicas": 1, "availableReplicas": 1, "updatedReplicas": 3, "observedGeneration": 1 });
    set_status(&format!("/apis/apps/v1/namespaces/{namespace}/deployments/rooms"), &counts);
}

/// What the dashboards and alerts of the mixin for Kubernetes ask of it.
const QUERIES: &[Query] = &[
    still(r#"up{job="kube-state-metrics"}"#),
    still(r#"sum by (namespace, resource) (kube_pod_container_resource_requests{job="kube-state-metrics"})"#),
    still(
        r#"sum by (namespace, cluster) (
          sum by (namespace, pod, cluster) (
            max by (namespace, pod, container, cluster) (kube_pod_container_resource_requests{resource="memory",job="kube-state-metrics"})
            * on (namespace, pod, cluster) group_left () max by (namespace, pod, cluster) (kube_pod_status_phase{phase=~"Pending|Running"} == 1)
          )
        )"#,
    ),
    still(
        r#"max by (cluster, namespace, workload, pod) (
          label_replace(
            label_replace(kube_pod_owner{job="kube-state-metrics",owner_kind="ReplicaSet"}, "replicaset", "$1", "owner_name", "(.*)")
            * on (replicaset, namespace) group_left (owner_name)
            topk by (replicaset, namespace) (1, max by (replicaset, namespace, owner_name) (kube_replicaset_owner{job="kube-state-metrics"})),
            "workload", "$1", "owner_name", "(.*)"
          )
        )"#,
    ),
    still(
        r#"topk by (cluster, namespace, pod) (1, max by (cluster, namespace, pod, node) (kube_pod_info{job="kube-state-metrics",node!=""}))"#,
    ),
    still(
        r#"sum by (namespace, pod, cluster) (
          max by (namespace, pod, cluster) (kube_pod_status_phase{job="kube-state-metrics",phase=~"Pending|Unknown|Failed"})
          * on (namespace, pod, cluster) group_left (owner_kind)
          topk by (namespace, pod, cluster) (1, max by (namespace, pod, owner_kind, cluster) (kube_pod_owner{owner_kind!="Job"}))
        ) > 0"#,
    ),
    still(
        r#"max_over_time(kube_pod_container_status_waiting_reason{reason="CrashLoopBackOff",job="kube-state-metrics"}[RANGE]) >= 1"#,
    ),
    still(
        r#"kube_deployment_spec_replicas{job="kube-state-metrics"} > kube_deployment_status_replicas_available{job="kube-state-metrics"}"#,
    ),
    still(
        r#"kube_deployment_status_observed_generation{job="kube-state-metrics"} == kube_deployment_metadata_generation{job="kube-state-metrics"}"#,
    ),
    still(r#"sum by (namespace, pod, container) (kube_pod_container_status_restarts_total{job="kube-state-metrics"})"#),
    still(r#"kube_node_status_condition{job="kube-state-metrics",condition="Ready",status="true"} == 1"#),
    still(
        r#"sum by (cluster, node) ((kube_pod_status_phase{job="kube-state-metrics",phase="Running"} == 1)
          * on (namespace, pod, cluster) group_left (node) kube_pod_info{job="kube-state-metrics"})"#,
    ),
    still(r#"sum by (resource) (kube_node_status_allocatable{job="kube-state-metrics"})"#),
    still(
        r#"kube_pod_labels{job="kube-state-metrics",label_app="rooms"} * on (namespace, pod) group_left (node) kube_pod_info"#,
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn kube_state_metrics_comes_through_as_it_is_and_its_dashboards_show_the_same() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("states");
    let node = format!("node-of-{namespace}");
    fill(cluster, &namespace, &node);
    let states = States::start(cluster, &namespace).await;
    let families = compare(&states).await;
    for name in
        ["kube_pod_info", "kube_pod_labels", "kube_deployment_status_replicas_available", "kube_node_status_condition"]
    {
        assert!(families.contains(name), "{name}: {}", states.process.log());
    }
    same_answers(&states.direct.url, "kube-state-metrics", true, QUERIES).await;
}
