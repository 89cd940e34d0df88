use kube::api::{ObjectList, WatchEvent};
use serde_json::{Value, json};

use super::*;
use crate::k8s::Discovery;
use crate::k8s::labels::{RELEASE, RELEASE_NAMESPACE};
use crate::k8s::monitor::desired::tests::{ALL, monitor_of, settings};

fn desired(extra: &Value) -> DesiredMonitor {
    let mut spec = json!({ "type": "Sora", "url": "http://sora:3000/" });
    spec.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    let discovery = Discovery { allowed_scrape_classes: ["e".to_owned()].into(), ..Discovery::default() };
    monitor_of(spec, discovery, ALL).unwrap()
}

/// The object that the API server stores when `desired` is applied.
fn stored(desired: &DesiredMonitor) -> Value {
    let monitor = MonitorRef { namespace: "webrtc".into(), name: "sora-tokyo".into() };
    let mut object = desired.manifest(&monitor, Some("0815"));
    let labels: Map<String, Value> =
        fields(&object["metadata"]["labels"]).chain([(".".to_owned(), json!({}))]).collect();
    let spec: Map<String, Value> = fields(&object["spec"]).collect();
    object["metadata"]["managedFields"] = json!([
        { "manager": "kubectl-edit", "operation": "Update", "fieldsV1": { "f:spec": { "f:sampleLimit": {} } } },
        {
            "manager": "scrapetarget-exporter",
            "operation": "Apply",
            "apiVersion": "monitoring.coreos.com/v1",
            "fieldsType": "FieldsV1",
            "fieldsV1": {
                "f:metadata": {
                    "f:labels": labels,
                    "f:ownerReferences": { r#"k:{"uid":"6a1f"}"#: {} },
                },
                "f:spec": spec,
            },
        },
    ]);
    if let annotations @ Value::Object(_) = object["metadata"]["annotations"].clone() {
        let owned = &mut object["metadata"]["managedFields"][1]["fieldsV1"]["f:metadata"];
        owned["f:annotations"] = fields(&annotations).collect::<Map<_, _>>().into();
    }
    object
}

fn fields(value: &Value) -> impl Iterator<Item = (String, Value)> {
    value.as_object().into_iter().flatten().map(|(field, _)| (format!("f:{field}"), json!({})))
}

fn observed(object: Value) -> ObservedMonitor {
    serde_json::from_value::<ServiceMonitor>(object).unwrap().into()
}

#[test]
fn what_was_written_is_as_it_should_be() {
    let desired = desired(&json!({}));
    let found = observed(stored(&desired));
    assert_eq!(found.hash(&desired), desired.hash);
    assert_eq!((found.monitor.to_string().as_str(), found.uid.as_str()), ("webrtc/sora-tokyo", "0815"));
}

#[test]
fn fields_that_others_add_are_not_compared() {
    let desired = desired(&json!({ "monitor": { "annotations": { "a": "b" } } }));
    let mut object = stored(&desired);
    object["metadata"]["labels"]["team"] = json!("media");
    object["metadata"]["annotations"]["note"] = json!("seen");
    object["metadata"]["finalizers"] = json!(["example.com/wait"]);
    object["metadata"]["ownerReferences"][0]["blockOwnerDeletion"] = json!(true);
    let other = json!({ "apiVersion": "v1", "kind": "ConfigMap", "name": "x", "uid": "9" });
    object["metadata"]["ownerReferences"].as_array_mut().unwrap().insert(0, other);
    object["spec"]["sampleLimit"] = json!(5);
    object["status"] = json!({ "bindings": [] });
    assert_eq!(observed(object).hash(&desired), desired.hash);
}

#[test]
fn a_change_of_one_of_our_fields_is_noticed() {
    let desired = desired(&json!({}));
    let changes: [fn(&mut Value); 7] = [
        |object| object["spec"]["endpoints"][0]["interval"] = json!("1h"),
        |object| object["spec"]["endpoints"][0]["honorLabels"] = json!(true),
        |object| object["spec"]["endpoints"].as_array_mut().unwrap().push(json!({ "port": "other" })),
        |object| object["spec"]["selector"]["matchLabels"]["app"] = json!("other"),
        |object| object["metadata"]["labels"][RELEASE] = json!("other"),
        |object| object["metadata"]["ownerReferences"] = json!([]),
        |object| drop(object["spec"].as_object_mut().unwrap().remove("keepDroppedTargets")),
    ];
    for (index, change) in changes.iter().enumerate() {
        let mut object = stored(&desired);
        change(&mut object);
        assert_ne!(observed(object).hash(&desired), desired.hash, "change {index}");
    }
}

#[test]
fn a_field_that_we_wrote_and_do_not_desire_any_more_is_noticed() {
    let before =
        desired(&json!({ "monitor": { "annotations": { "a": "b" }, "labels": { "c": "d" }, "scrapeClass": "e" } }));
    let now = desired(&json!({}));
    let found = observed(stored(&before));
    assert_ne!(found.hash(&now), now.hash);
    let mut object = stored(&now);
    object["spec"]["scrapeClass"] = json!("e");
    assert_eq!(observed(object).hash(&now), now.hash, "another's field");
}

#[test]
fn labels_identify_the_owner() {
    let desired = desired(&json!({}));
    let ours = settings(Discovery::default());
    let owner = |change: fn(&mut Value)| {
        let mut object = stored(&desired);
        change(&mut object);
        let found = observed(object);
        (found.is_ours(&ours), found.owner())
    };
    let release = "the release ste in namespace monitoring".to_owned();
    assert_eq!(owner(|_| {}), (true, release.clone()));
    let by_hand = owner(|object| {
        object["metadata"]["labels"] = json!({});
        object["metadata"]["managedFields"] = json!([]);
    });
    assert_eq!(by_hand, (false, "somebody else".to_owned()));
    let of_another_release = owner(|object| object["metadata"]["labels"][RELEASE_NAMESPACE] = json!("other"));
    assert_eq!(of_another_release, (false, "the release ste in namespace other".to_owned()));
}

#[test]
fn a_label_that_another_field_manager_took_over_leaves_the_monitor_ours() {
    let desired = desired(&json!({}));
    let mut object = stored(&desired);
    object["metadata"]["labels"][RELEASE] = json!("changed");
    let owned = &mut object["metadata"]["managedFields"][1]["fieldsV1"]["f:metadata"]["f:labels"];
    owned.as_object_mut().unwrap().remove(&format!("f:{RELEASE}"));
    assert!(observed(object).is_ours(&settings(Discovery::default())));
}

fn text_of(name: &str, time: &str, fields: &str) -> String {
    let managed = |manager: &str| {
        format!(r#"{{ "manager": "{manager}", "operation": "Apply", "time": "{time}", "fieldsV1": {fields} }}"#)
    };
    format!(
        r#"{{ "metadata": {{ "name": "{name}", "namespace": "team", "creationTimestamp": "{time}",
        "labels": {{ "a": "b" }}, "managedFields": [{}, {}] }}, "spec": {{ "sampleLimit": 1 }} }}"#,
        managed("somebody"),
        managed(labels::MANAGER)
    )
}

#[test]
fn no_metadata_of_others_makes_a_monitor_unreadable() {
    let deep = format!("{}{}", r#"{"f:a":"#.repeat(500), format_args!("1{}", "}".repeat(500)));
    let objects =
        [text_of("a", "9999-12-31T23:59:59Z", r#"{ "f:spec": {} }"#), text_of("b", "2026-01-01T00:00:00Z", &deep)];
    let list = format!(
        r#"{{ "kind": "ServiceMonitorList", "apiVersion": "v1", "metadata": {{}}, "items": [{}] }}"#,
        objects.join(",")
    );
    let list: ObjectList<ServiceMonitor> = serde_json::from_str(&list).unwrap();
    let [a, b] = list.items.as_slice() else { panic!("{list:?}") };
    let owned = |found: &ServiceMonitor| found.metadata.managed_fields.as_ref().unwrap()[0].fields_v1.clone();
    assert_eq!(owned(a), Some(FieldsV1(json!({ "f:spec": {} }))));
    assert_eq!(owned(b), None);
    assert_eq!(a.metadata.managed_fields.as_ref().unwrap().len(), 1, "the others' are left out");
    for object in objects {
        let event = format!(r#"{{ "type": "MODIFIED", "object": {object} }}"#);
        let event: WatchEvent<ServiceMonitor> = serde_json::from_str(&event).unwrap();
        let WatchEvent::Modified(found) = event else { panic!("{event:?}") };
        assert_eq!(ObservedMonitor::from(found).fields["spec"], json!({ "sampleLimit": 1 }));
    }
}
