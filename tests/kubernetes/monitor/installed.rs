//! Operators of every age, and none. Each test has an API server of its own, since their CRDs are not those of the others.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Api;
use kube::api::DeleteParams;
use serde_json::{Value, json};

use super::stage::Stage;
use crate::support::cluster::Cluster;
use crate::support::eventually::{PATIENCE, eventually};

const CRD: &str = "servicemonitors.monitoring.coreos.com";

fn crds(cluster: &Cluster) -> Api<CustomResourceDefinition> {
    Api::all(cluster.client())
}

/// Changes the schema of the spec of ServiceMonitors. The API server writes the status of a CRD whenever it likes.
fn change_schema(cluster: &Cluster, change: impl Fn(&mut Value) + Send + Sync) {
    let path = format!("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{CRD}");
    cluster.change(&path, |crd| {
        change(&mut crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]);
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operators_crd_may_come_and_go() {
    let cluster = Cluster::private();
    let stage = Stage::without_operator(&cluster);
    stage.declare("tokyo", &json!({}));
    let exporter = stage.run(&[]);
    let said = stage.until_ready("tokyo", "False CRDMissing", &exporter).await;
    assert!(said.contains("discovery.mode"), "{said}");
    cluster.install_operator_crds(&["servicemonitors"]);
    stage.until_ready("tokyo", "True Written", &exporter).await;
    crds(&cluster).delete(CRD, &DeleteParams::default()).await.unwrap();
    stage.until_ready("tokyo", "False CRDMissing", &exporter).await;
    cluster.install_operator_crds(&["servicemonitors"]);
    stage.until_ready("tokyo", "True Written", &exporter).await;
    assert!(stage.monitor("tokyo").await.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_operator_gets_no_field_that_it_does_not_know_and_a_new_one_gets_it() {
    let cluster = Cluster::private();
    let stage = Stage::new(&cluster);
    let field = std::sync::Mutex::new(Value::Null);
    change_schema(&cluster, |spec| {
        *field.lock().unwrap() = spec.as_object_mut().unwrap().remove("selectorMechanism").unwrap();
    });
    stage.declare("tokyo", &json!({}));
    let exporter = stage.run(&[]);
    stage.until_ready("tokyo", "True Written", &exporter).await;
    let spec = stage.monitor("tokyo").await.unwrap()["spec"].take();
    assert_eq!((spec.get("selectorMechanism"), &spec["keepDroppedTargets"]), (None, &json!(1)));
    change_schema(&cluster, |spec| spec["selectorMechanism"] = field.lock().unwrap().clone());
    let known = async || {
        let spec = stage.monitor("tokyo").await?["spec"].take();
        (spec["selectorMechanism"] == "RoleSelector").then_some(())
    };
    stage.until("the new field", &exporter, known).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_default_inside_what_we_write_does_not_make_us_write_for_ever() {
    let cluster = Cluster::private();
    let stage = Stage::new(&cluster);
    change_schema(&cluster, |spec| {
        spec["endpoints"]["items"]["properties"]["honorLabels"]["default"] = json!(true);
    });
    stage.declare("tokyo", &json!({}));
    let exporter = stage.run(&[]);
    stage.until_ready("tokyo", "True Written", &exporter).await;
    stage.declare("osaka", &json!({}));
    stage.until_ready("osaka", "True Written", &exporter).await;
    assert_eq!(stage.monitor("tokyo").await.unwrap()["spec"]["endpoints"][0]["honorLabels"], true);
    assert_eq!(stage.asked(&["patch"]).len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_api_server_refuses_is_told_in_its_words() {
    let cluster = Cluster::private();
    let stage = Stage::new(&cluster);
    cluster.apply(
        r#"
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: { name: no-osaka }
spec:
  matchConstraints:
    resourceRules:
      - { apiGroups: [monitoring.coreos.com], apiVersions: [v1], operations: [CREATE, UPDATE], resources: [servicemonitors] }
  validations:
    - { expression: "object.metadata.name != 'osaka'", message: "we do not monitor Osaka" }
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: { name: no-osaka }
spec: { policyName: no-osaka, validationActions: [Deny] }
"#,
    );
    let theirs = json!({
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "ServiceMonitor",
        "metadata": { "name": "osaka", "namespace": stage.own },
        "spec": { "selector": {}, "endpoints": [] },
    });
    // The policy is in force a moment after it was made.
    eventually(PATIENCE, async || {
        let taken = cluster.try_apply(&theirs.to_string()).is_ok();
        if taken {
            let _ = stage.monitors(&stage.own).delete("osaka", &DeleteParams::default()).await;
        }
        if taken { Err("the policy is not heeded".to_owned()) } else { Ok(()) }
    })
    .await;
    stage.declare("osaka", &json!({}));
    stage.declare("tokyo", &json!({}));
    let exporter = stage.run(&[]);
    let said = stage.until_ready("osaka", "False Refused", &exporter).await;
    assert!(said.contains("we do not monitor Osaka"), "{said}");
    stage.until_ready("tokyo", "True Written", &exporter).await;
}
