//! What is behind the Service as kube-proxy and newer discovery see it: one slice, whoever writes it.

use std::collections::BTreeMap;

use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use serde_json::json;

use super::replicas::{RULES, Stage, until};
use crate::support::cluster::Cluster;

const OURS: &str = "scrapetarget-exporter";
const MIRRORED: &str = "endpointslicemirroring-controller.k8s.io";

/// Waits until the Service has exactly one slice, of this writer, with exactly this address.
async fn until_one_slice(stage: &Stage<'_>, writer: &str, address: &str) {
    let of_service = ListParams::default().labels("kubernetes.io/service-name=st-probe");
    let wanted = [(writer.to_owned(), vec![address.to_owned()])];
    until(&format!("one slice of {writer} with {address}"), async || {
        let slices = stage.slices().list(&of_service).await.ok()?;
        let found = slices.into_iter().map(|slice| {
            let labels: BTreeMap<String, String> = slice.metadata.labels.unwrap_or_default();
            let writer = labels.get("endpointslice.kubernetes.io/managed-by").cloned().unwrap_or_default();
            (writer, slice.endpoints.into_iter().flat_map(|endpoint| endpoint.addresses).collect::<Vec<_>>())
        });
        (found.collect::<Vec<_>>() == wanted).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_has_exactly_one_slice_with_and_without_the_right_to_write_it() {
    let cluster = Cluster::with_controllers(&["endpointslice-mirroring-controller", "garbage-collector-controller"]);
    let stage = Stage::new(&cluster, "sliced");
    cluster.apply(&format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{ name: st-probe, namespace: {} }}\n\
         spec: {{ ports: [{{ name: http, port: 9850 }}] }}\n",
        stage.namespace
    ));
    let first = stage.replica(1, &[]).await;
    until_one_slice(&stage, OURS, "10.9.8.1").await;

    stage.slices().delete("st-probe", &DeleteParams::default()).await.unwrap();
    until_one_slice(&stage, OURS, "10.9.8.1").await;
    let edit = json!({ "endpoints": [{ "addresses": ["10.1.1.1"] }] });
    stage.slices().patch("st-probe", &PatchParams::default(), &Patch::Merge(&edit)).await.unwrap();
    until_one_slice(&stage, OURS, "10.9.8.1").await;

    let mut second = stage.replica(2, &[]).await;
    second.running.wait("a standby", |running| running.log().contains("standing by").then_some(()));
    first.signal("TERM");
    until_one_slice(&stage, OURS, "10.9.8.2").await;
    stage.until_behind_service(&second).await;

    // As with the roles of an earlier version. What the leader may not write any more, the administrator takes away.
    let denied: Vec<&str> = RULES.lines().filter(|line| !line.contains("endpointslices")).collect();
    stage.allow(&denied.join("\n"));
    let account = format!("--as=system:serviceaccount:{}:{}", stage.namespace, second.name);
    let asked = ["auth", "can-i", "patch", "endpointslices/st-probe", "--namespace", &stage.namespace, &account];
    until("a right less", async || (cluster.kubectl(&asked).code != Some(0)).then_some(())).await;
    stage.slices().delete("st-probe", &DeleteParams::default()).await.unwrap();
    until_one_slice(&stage, MIRRORED, "10.9.8.2").await;
    let rule = r#"{apiGroups: [\"discovery.k8s.io\"], resources: [\"endpointslices\"], verbs: [\"patch\"]}"#;
    second.running.wait("the missing rule", |running| running.log().contains(rule).then_some(()));

    stage.allow(RULES);
    until_one_slice(&stage, OURS, "10.9.8.2").await;
}
