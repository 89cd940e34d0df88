use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::crd::{ParsedTarget, ScrapeTarget, ScrapeTargetStatus};
use crate::k8s::{Election, HonorLabels, Listener, MonitorDefaults};

pub(in crate::k8s::monitor) const ALL: OperatorFeatures =
    OperatorFeatures { scrape_class: true, keep_dropped_targets: true, selector_mechanism: true };

pub(in crate::k8s::monitor) fn settings(discovery: Discovery) -> Settings {
    Settings {
        namespace: "monitoring".to_owned(),
        release: "ste".to_owned(),
        watch_namespaces: Vec::new(),
        target_selector: None,
        secret_label: None,
        probers: crate::target::AllowedProbers::default(),
        discovery: Discovery { service: "ste-probe".to_owned(), ..discovery },
        election: Election {
            lease: "ste".to_owned(),
            identity: "pod".to_owned(),
            duration: std::time::Duration::from_secs(15),
        },
        advertise: None,
    }
}

fn object(namespace: &str, name: &str, spec: Value) -> (ObservedTarget, Arc<ParsedTarget>) {
    let declaration = ScrapeTarget::new(name, serde_json::from_value(spec).unwrap());
    let declaration = Arc::new(ParsedTarget::parse(declaration).unwrap());
    let object = ObservedTarget {
        id: TargetId::new(namespace, name),
        uid: "6a1f".into(),
        generation: 1,
        resource_version: "7".to_owned(),
        declaration: Ok(Arc::clone(&declaration)),
        status: ScrapeTargetStatus::default(),
    };
    (object, declaration)
}

/// The ServiceMonitor of `webrtc/sora-tokyo`.
pub(in crate::k8s::monitor) fn monitor_of(
    spec: Value,
    discovery: Discovery,
    features: OperatorFeatures,
) -> Result<DesiredMonitor, MonitorState> {
    let (object, declaration) = object("webrtc", "sora-tokyo", spec);
    DesiredMonitor::new(&object, &declaration.spec, &settings(discovery), features)
}

fn two_lines() -> Value {
    json!({ "type": "Sora", "url": "http://sora-tokyo:3000/" })
}

fn text(texts: &[(&str, &str)]) -> BTreeMap<String, String> {
    texts.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn a_target_in_two_lines_gives_a_whole_monitor() {
    let monitor_ref = MonitorRef { namespace: "webrtc".into(), name: "sora-tokyo".into() };
    let monitor = monitor_of(two_lines(), Discovery::default(), ALL).unwrap();
    assert_eq!(
        monitor.manifest(&monitor_ref, None),
        json!({
            "apiVersion": "monitoring.coreos.com/v1",
            "kind": "ServiceMonitor",
            "metadata": {
                "name": "sora-tokyo",
                "namespace": "webrtc",
                "labels": {
                    "app.kubernetes.io/managed-by": "scrapetarget-exporter",
                    "scrapetarget.dev/release": "ste",
                    "scrapetarget.dev/release-namespace": "monitoring",
                },
                "ownerReferences": [{
                    "apiVersion": "scrapetarget.dev/v1alpha1", "kind": "ScrapeTarget", "name": "sora-tokyo", "uid": "6a1f",
                    "controller": true,
                }],
            },
            "spec": {
                "selector": { "matchLabels": { "scrapetarget.dev/probe": "ste" } },
                "namespaceSelector": { "matchNames": ["monitoring"] },
                "selectorMechanism": "RoleSelector",
                "keepDroppedTargets": 1,
                "endpoints": [{
                    "port": "http",
                    "path": "/probe",
                    "params": { "target": ["webrtc/sora-tokyo"] },
                    "interval": "15s",
                    "scrapeTimeout": "11s",
                    "scheme": "http",
                    "relabelings": [
                        {
                            "action": "keep",
                            "sourceLabels": ["__meta_kubernetes_namespace", "__meta_kubernetes_service_name"],
                            "regex": "monitoring;ste-probe",
                        },
                        { "action": "labeldrop", "regex": "service|pod|container|endpoint" },
                        { "action": "replace", "sourceLabels": ["__param_target"], "targetLabel": "__tmp_hash" },
                        { "action": "replace", "sourceLabels": ["__param_target"], "targetLabel": "instance" },
                        { "action": "replace", "targetLabel": "namespace", "replacement": "webrtc" },
                        { "action": "replace", "targetLabel": "target_namespace", "replacement": "webrtc" },
                        { "action": "replace", "targetLabel": "target_name", "replacement": "sora-tokyo" },
                    ],
                }],
            },
        })
    );
}

#[test]
fn the_monitor_has_what_the_user_declares_for_it() {
    let spec = json!({
        "type": "Orion",
        "url": "http://orion:1026/",
        "interval": "5m",
        "labels": { "region": "tokyo", "price": "5$" },
        "monitor": {
            "labels": {
                "release": "kube-prometheus-stack",
                "scrapetarget.dev/release": "mine",
                "scrapetarget.dev/target-namespace": "theirs",
                "app.kubernetes.io/managed-by": "Helm",
            },
            "annotations": { "team": "media", "scrapetarget.dev/target-name": "theirs" },
            "interval": "1m30s",
            "scrapeTimeout": "6s",
            "relabelings": [{ "sourceLabels": ["region"], "targetLabel": "area", "regex": "(.).*", "replacement": "$1" }],
            "metricRelabelings": [{ "sourceLabels": ["__name__"], "regex": "x_.*", "action": "Drop" }],
            "scrapeClass": "mtls",
        },
    });
    let discovery = Discovery {
        monitor_labels: text(&[("release", "prometheus"), ("team", "platform")]),
        monitor_annotations: text(&[("team", "platform")]),
        scrape_class: Some("default".to_owned()),
        allowed_scrape_classes: ["mtls".to_owned()].into(),
        ..Discovery::default()
    };
    let monitor = monitor_of(spec, discovery, ALL).unwrap().fields;
    let labels = json!({
        "release": "kube-prometheus-stack",
        "team": "platform",
        "app.kubernetes.io/managed-by": "scrapetarget-exporter",
        "scrapetarget.dev/release": "ste",
        "scrapetarget.dev/release-namespace": "monitoring",
    });
    assert_eq!(monitor["metadata"]["labels"], labels, "ours win");
    assert_eq!(monitor["metadata"]["annotations"], json!({ "team": "media" }));
    assert_eq!(monitor["spec"]["scrapeClass"], "mtls");
    let endpoint = &monitor["spec"]["endpoints"][0];
    assert_eq!((&endpoint["interval"], &endpoint["scrapeTimeout"]), (&json!("1m30s"), &json!("6s")));
    let steps = endpoint["relabelings"].as_array().unwrap();
    assert_eq!(steps[2], json!({ "action": "replace", "targetLabel": "price", "replacement": "5$$" }));
    let written = json!({
        "action": "replace", "sourceLabels": ["region"], "targetLabel": "area", "regex": "(.).*", "replacement": "$1",
    });
    assert_eq!((steps.len(), &steps[9]), (15, &written), "as the user wrote it");
    assert_eq!(steps[4..9], steps[10..], "what she may read before, and cannot write since it comes last");
    assert_eq!(steps[14]["targetLabel"], "target_name");
    let dropped = json!([{ "action": "drop", "sourceLabels": ["__name__"], "regex": "x_.*" }]);
    assert_eq!(endpoint["metricRelabelings"], dropped);
}

/// What the steps make of the labels of a scrape, as Prometheus applies them.
fn relabeled(steps: &[Value], target: &str) -> BTreeMap<String, String> {
    let mut labels = text(&[("__param_target", target), ("job", "ste-probe")]);
    for step in steps.iter().filter(|step| step["action"] == "replace") {
        let value = match step["replacement"].as_str() {
            Some(value) => value.replace("$$", "$"),
            None => labels[step["sourceLabels"][0].as_str().unwrap()].clone(),
        };
        labels.insert(step["targetLabel"].as_str().unwrap().to_owned(), value);
    }
    labels.retain(|name, _| !name.starts_with("__"));
    labels
}

#[test]
fn a_target_chooses_its_job_and_its_instance_and_discovery_by_either_way_sets_the_same_labels() {
    for (monitor, job, instance) in [
        (json!({}), None, "webrtc/sora-tokyo"),
        (json!({ "instance": "Name", "job": "webrtc/sora-tokyo" }), Some("webrtc/sora-tokyo"), "webrtc/sora-tokyo"),
        (json!({ "instance": "Url", "job": "pays 5$ or ${5}" }), Some("pays 5$ or ${5}"), "http://sora-tokyo:3000/$1"),
    ] {
        let mut spec = two_lines();
        spec["url"] = json!("http://sora-tokyo:3000/$1");
        spec["labels"] = json!({ "region": "tokyo" });
        spec["monitor"] = monitor;
        spec["monitor"]["relabelings"] =
            json!([{ "sourceLabels": ["region"], "targetLabel": "area", "replacement": "x" }]);
        let (object, declaration) = object("webrtc", "sora-tokyo", spec.clone());
        let endpoint = monitor_of(spec, Discovery::default(), ALL).unwrap().fields["spec"]["endpoints"][0].take();
        let steps = endpoint["relabelings"].as_array().unwrap();
        let labels = relabeled(steps, "webrtc/sora-tokyo");
        assert_eq!((labels["instance"].as_str(), labels["job"].as_str()), (instance, job.unwrap_or("ste-probe")));
        for (name, value) in crate::target::identity_labels(&object.id, &declaration.spec) {
            assert_eq!(labels[name], value, "{name}: /sd gives this value");
        }
        let unknown = steps.iter().skip(2).find(|step| {
            let own = step["targetLabel"] != "area" && step["targetLabel"] != "region";
            own && !is_own_step(step, &object.id, &settings(Discovery::default()))
        });
        assert_eq!(unknown, None, "an own step");
        assert!(endpoint.get("honorLabels").is_none());
    }
    let mut spec = two_lines();
    spec["monitor"] = json!({ "honorLabels": true });
    assert_eq!(
        monitor_of(spec, Discovery::default(), ALL).unwrap().fields["spec"]["endpoints"][0]["honorLabels"],
        true
    );
}

fn steps(steps: &Value) -> Vec<crate::crd::Relabeling> {
    serde_json::from_value(steps.clone()).unwrap()
}

#[test]
fn what_the_installation_sets_is_in_every_monitor_and_no_target_undoes_it() {
    let constant =
        |label: &str, value: &str| json!({ "action": "replace", "targetLabel": label, "replacement": value });
    let drop = |names: &str| json!({ "action": "drop", "sourceLabels": ["__name__"], "regex": names });
    let discovery = Discovery {
        monitor_defaults: MonitorDefaults {
            relabelings: steps(&json!([constant("cluster", "tokyo")])),
            metric_relabelings: steps(&json!([drop("a_.*")])),
            honor_labels: HonorLabels::Never,
            proxy_url: Some("http://proxy:3128".parse().unwrap()),
            target_limit: 2,
            label_limit: 30,
            label_name_length_limit: 64,
            label_value_length_limit: 512,
            body_size_limit: "16MB".parse().unwrap(),
        },
        ..Discovery::default()
    };
    let mut spec = two_lines();
    let plain = monitor_of(spec.clone(), discovery.clone(), ALL).unwrap();
    assert_eq!(plain.ignored, [""; 0]);
    spec["monitor"] = json!({
        "relabelings": [constant("cluster", "osaka")],
        "metricRelabelings": [drop("b_.*")],
        "honorLabels": true,
        "labelLimit": 31,
        "labelNameLengthLimit": 32,
        "bodySizeLimit": "1GB",
    });
    let other = monitor_of(spec, discovery, ALL).unwrap();
    let told = ["honorLabels", "labelLimit", "bodySizeLimit"];
    assert_eq!(other.ignored.len(), told.len(), "{:?}", other.ignored);
    assert!(other.ignored.iter().zip(told).all(|(text, field)| text.starts_with(&format!("spec.monitor.{field} "))));
    for (monitor, names, of_samples) in
        [(&plain, 64, json!([drop("a_.*")])), (&other, 32, json!([drop("b_.*"), drop("a_.*")]))]
    {
        let spec = &monitor.fields["spec"];
        let endpoint = &spec["endpoints"][0];
        assert_eq!((endpoint.get("honorLabels"), &endpoint["proxyUrl"]), (None, &json!("http://proxy:3128")));
        assert_eq!(endpoint["metricRelabelings"], of_samples);
        assert_eq!((&spec["targetLimit"], &spec["labelLimit"]), (&json!(2), &json!(30)));
        assert_eq!((&spec["labelNameLengthLimit"], &spec["labelValueLengthLimit"]), (&json!(names), &json!(512)));
        assert_eq!(spec["bodySizeLimit"], "16MiB");
        let steps = endpoint["relabelings"].as_array().unwrap();
        let labels = relabeled(steps, "webrtc/sora-tokyo");
        assert_eq!((labels["cluster"].as_str(), labels["instance"].as_str()), ("tokyo", "webrtc/sora-tokyo"));
        assert_eq!(steps.last().unwrap()["targetLabel"], "target_name", "identity comes last");
    }
}

#[test]
fn fields_that_the_operator_does_not_know_are_left_out() {
    let none = OperatorFeatures { scrape_class: false, keep_dropped_targets: false, selector_mechanism: false };
    let discovery = Discovery { scrape_class: Some("default".to_owned()), ..Discovery::default() };
    let spec = monitor_of(two_lines(), discovery, none).unwrap().fields["spec"].take();
    let fields: Vec<_> = spec.as_object().unwrap().keys().cloned().collect();
    assert_eq!(fields, ["endpoints", "namespaceSelector", "selector"]);
}

#[test]
fn in_our_namespace_labels_name_the_target_and_the_monitor_has_no_owner() {
    let discovery = Discovery { monitor_namespace: MonitorNamespace::Release, ..Discovery::default() };
    let metadata = monitor_of(two_lines(), discovery.clone(), ALL).unwrap().fields["metadata"].take();
    assert_eq!(metadata["labels"]["scrapetarget.dev/target-namespace"], "webrtc");
    assert_eq!(metadata["labels"]["scrapetarget.dev/target-name"], "sora-tokyo");
    assert!(metadata.get("ownerReferences").is_none());
    let long = "x".repeat(64);
    let (object, declaration) = object("webrtc", &long, two_lines());
    let metadata =
        DesiredMonitor::new(&object, &declaration.spec, &settings(discovery), ALL).unwrap().fields["metadata"].take();
    assert_eq!(metadata["annotations"], json!({ "scrapetarget.dev/target-name": long }));
    assert!(metadata["labels"].get("scrapetarget.dev/target-name").is_none());
}

#[test]
fn in_our_namespace_no_target_makes_its_monitor_look_like_a_part_of_our_installation() {
    let mut spec = two_lines();
    spec["monitor"] = json!({
        "labels": { "app.kubernetes.io/instance": "monitoring", "team": "media" },
        "annotations": { "argocd.argoproj.io/tracking-id": "monitoring:a", "meta.helm.sh/release-name": "ste", "note": "x" },
    });
    let keys = |monitor_ref| {
        let discovery = Discovery { monitor_namespace: monitor_ref, ..Discovery::default() };
        let metadata = monitor_of(spec.clone(), discovery, ALL).unwrap().fields["metadata"].take();
        let own = ["app.kubernetes.io/managed-by", "scrapetarget.dev/"];
        let all =
            [&metadata["labels"], &metadata["annotations"]].into_iter().flat_map(|map| map.as_object().unwrap().keys());
        all.filter(|key| !own.iter().any(|own| key.starts_with(own))).cloned().collect::<Vec<_>>()
    };
    assert_eq!(keys(MonitorNamespace::Release), ["team", "note"]);
    assert_eq!(keys(MonitorNamespace::Target).len(), 5, "beside the target they are the user's own");
}

#[test]
fn a_monitor_over_https_has_the_tls_config_by_which_we_are_verified() {
    let tls = json!({ "serverName": "probe.example.com" });
    let discovery = Discovery { scheme: Scheme::Https, tls: tls.as_object().cloned(), ..Discovery::default() };
    let spec = monitor_of(two_lines(), discovery, ALL).unwrap().fields["spec"].take();
    assert_eq!((&spec["endpoints"][0]["scheme"], &spec["endpoints"][0]["tlsConfig"]), (&json!("https"), &tls));
}

#[test]
fn a_target_that_is_disabled_or_suspended_has_no_monitor() {
    let with = |extra: Value| {
        let mut spec = two_lines();
        spec.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        monitor_of(spec, Discovery::default(), ALL)
    };
    let suspended = with(json!({ "suspend": true })).unwrap_err();
    assert!(suspended.reason == "Disabled" && suspended.message.contains("suspend"), "{suspended:?}");
    assert_eq!(with(json!({ "monitor": { "enabled": false } })).unwrap_err().reason, "Disabled");
}

#[test]
fn no_relabeling_leads_a_scrape_elsewhere_or_makes_series_look_like_anothers() {
    let with = |list: &str, step: &Value| {
        let mut spec = two_lines();
        spec["monitor"] = json!({ list: [{ "targetLabel": "a", "replacement": "b" }, step] });
        monitor_of(spec, Discovery::default(), ALL)
    };
    for list in ["relabelings", "metricRelabelings"] {
        for (step, field) in [
            (json!({ "targetLabel": "__address__", "replacement": "elsewhere:80" }), "targetLabel"),
            (json!({ "targetLabel": "${1}ress__", "regex": "(.*)", "sourceLabels": ["a"] }), "targetLabel"),
            (json!({ "action": "LabelMap", "regex": "a(.*)" }), "action"),
            (json!({ "action": "lowercase", "targetLabel": "__address__", "sourceLabels": ["a"] }), "targetLabel"),
            (json!({ "action": "hashmod", "targetLabel": "job", "modulus": 2, "sourceLabels": ["a"] }), "targetLabel"),
            (json!({ "targetLabel": "instance", "replacement": "team/victim" }), "targetLabel"),
            (json!({ "action": "labeldrop", "regex": "target_.*" }), "regex"),
            (json!({ "action": "labelkeep", "regex": "__.*|instance" }), "action"),
        ] {
            let refused = with(list, &step).unwrap_err();
            let path = format!("spec.monitor.{list}[1].{field}: ");
            assert!(refused.reason == "Unsupported" && refused.message.starts_with(&path), "{refused:?}");
        }
        assert!(with(list, &json!({ "action": "drop", "regex": "x", "sourceLabels": ["__name__"] })).is_ok());
        assert!(with(list, &json!({ "action": "labeldrop", "regex": "rack_.*|region" })).is_ok());
    }
}

#[test]
fn a_target_may_name_the_scrape_classes_that_are_allowed_and_that_of_the_installation() {
    let discovery = Discovery {
        scrape_class: Some("default".to_owned()),
        allowed_scrape_classes: ["video".to_owned()].into(),
        ..Discovery::default()
    };
    let with = |class: &str, features: OperatorFeatures| {
        let mut spec = two_lines();
        spec["monitor"] = json!({ "scrapeClass": class });
        monitor_of(spec, discovery.clone(), features)
    };
    for (named, written) in [("video", "video"), ("default", "default"), ("", "default")] {
        assert_eq!(with(named, ALL).unwrap().fields["spec"]["scrapeClass"], written, "{named}");
    }
    // Also where the Operator knows no classes yet: it may learn of them at any time.
    for features in [ALL, OperatorFeatures::OLDEST] {
        let refused = with("cluster", features).unwrap_err();
        assert!(
            refused.reason == "ScrapeClassNotAllowed" && refused.message.contains("--discovery.allowed-scrape-class"),
            "{refused:?}"
        );
    }
}

#[test]
fn a_variable_of_the_operator_is_refused_wherever_it_is() {
    let step = json!({ "targetLabel": "a", "replacement": "$(HOME)" });
    for (extra, path) in [
        (json!({ "labels": { "a": "$(HOME)" } }), "spec.labels.a"),
        (json!({ "monitor": { "relabelings": [{}, step] } }), "spec.monitor.relabelings[1].replacement"),
        (json!({ "monitor": { "metricRelabelings": [step] } }), "spec.monitor.metricRelabelings[0].replacement"),
        (json!({ "monitor": { "job": "$(HOME)" } }), "spec.monitor.job"),
        (json!({ "monitor": { "instance": "Url" }, "url": "http://sora/$(HOME)" }), "spec.url"),
    ] {
        let mut spec = two_lines();
        spec.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let refused = monitor_of(spec, Discovery::default(), ALL).unwrap_err();
        assert!(refused.reason == "Unsupported" && refused.message.starts_with(path), "{refused:?}");
    }
}

proptest! {
    #[test]
    fn the_same_target_gives_the_same_monitor_and_its_labels_are_what_prometheus_will_read(
        labels in prop::collection::btree_map("[a-z_]{1,8}", "[ -~é]{0,12}", 0..6),
    ) {
        let mut spec = two_lines();
        spec["labels"] = json!(labels);
        let variable = labels.values().any(|value| value.contains("$("));
        let (one, other) = (monitor_of(spec.clone(), Discovery::default(), ALL), monitor_of(spec, Discovery::default(), ALL));
        prop_assert_eq!(&one, &other);
        prop_assert_eq!(one.is_err(), variable);
        for step in one.iter().flat_map(|one| one.fields["spec"]["endpoints"][0]["relabelings"].as_array().unwrap()) {
            if let Some(value) = step["targetLabel"].as_str().and_then(|label| labels.get(label)) {
                prop_assert_eq!(step["replacement"].as_str().unwrap().replace("$$", "$"), value.as_str());
            }
        }
    }
}

#[test]
fn the_name_in_our_namespace_shows_the_target_and_never_changes() {
    let name = |namespace, name| name_in_release(&TargetId::new(namespace, name));
    assert_eq!(name("webrtc", "sora-tokyo"), "webrtc.sora-tokyo-de7361d35ee3ef55");
    assert_ne!(name("a-b", "c"), name("a", "b-c"));
}

#[test]
fn the_hash_is_the_published_one() {
    assert_eq!(fnv1a(""), 0xcbf2_9ce4_8422_2325);
    assert_eq!(fnv1a("a"), 0xaf63_dc4c_8601_ec8c);
    assert_eq!(fnv1a("foobar"), 0x8594_4171_f739_67e8);
}

proptest! {
    #[test]
    fn every_target_gives_a_name_that_kubernetes_takes(
        namespace in "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?",
        name in "[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?(\\.[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?){0,5}",
    ) {
        let made = name_in_release(&TargetId::new(&namespace, &name));
        let labels = made.split('.').all(|label| {
            let alphanumeric = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
            label.as_bytes().first().is_some_and(alphanumeric) && label.as_bytes().last().is_some_and(alphanumeric)
        });
        prop_assert!(labels && made.len() <= 253, "{}", made);
        prop_assert_eq!(made.split_once('.').unwrap().0, namespace);
    }
}

fn object_fields(value: &Value) -> Option<Map<String, Value>> {
    value.as_object().cloned()
}

fn https(monitor_namespace: MonitorNamespace, tls: &Value) -> Discovery {
    Discovery { monitor_namespace, scheme: Scheme::Https, tls: object_fields(tls), ..Discovery::default() }
}

#[test]
fn tls_without_references_is_used_in_any_namespace() {
    let tls = json!({ "serverName": "probe", "insecureSkipVerify": false, "minVersion": "TLS13" });
    let discovery = https(MonitorNamespace::Target, &tls);
    assert_eq!(
        EndpointAuth::new(&discovery, false).unwrap(),
        EndpointAuth { tls: object_fields(&tls), basic_auth: None }
    );
    let roots = https(MonitorNamespace::Target, &Value::Null);
    assert_eq!(EndpointAuth::new(&roots, false).unwrap(), EndpointAuth::default());
}

#[test]
fn references_are_used_only_in_the_namespace_of_their_objects() {
    let tls = json!({ "serverName": "probe", "ca": { "secret": { "name": "ca", "key": "ca.crt" } } });
    let basic = json!({ "username": { "name": "u", "key": "user" } });
    let beside = Discovery { basic_auth: object_fields(&basic), ..https(MonitorNamespace::Target, &tls) };
    let refused = EndpointAuth::new(&beside, false).unwrap_err();
    assert!(refused.reason == "NotPortable" && refused.message.contains("monitorNamespace to release"), "{refused:?}");
    let rest = EndpointAuth { tls: object_fields(&json!({ "serverName": "probe" })), basic_auth: None };
    assert!(EndpointAuth::new(&beside, true).is_err(), "a scrape class has no user and password");
    let certified = Discovery { basic_auth: None, ..beside.clone() };
    assert_eq!(EndpointAuth::new(&certified, true).unwrap(), rest, "the scrape class has the authority");
    let with_us = Discovery { monitor_namespace: MonitorNamespace::Release, ..beside.clone() };
    let all = EndpointAuth { tls: object_fields(&tls), basic_auth: beside.basic_auth };
    assert_eq!(EndpointAuth::new(&with_us, false).unwrap(), all);
}

#[test]
fn what_our_listener_requires_must_be_configured() {
    let listeners = [
        Listener { tls: true, client_certificates: true, users: false },
        Listener { tls: true, client_certificates: false, users: true },
    ];
    for listener in listeners {
        for monitor_namespace in [MonitorNamespace::Target, MonitorNamespace::Release] {
            let discovery = Discovery { listener, ..https(monitor_namespace, &json!({ "serverName": "probe" })) };
            assert_eq!(EndpointAuth::new(&discovery, false).unwrap_err().reason, "NotPortable", "{discovery:?}");
            assert_eq!(EndpointAuth::new(&discovery, true).is_ok(), !listener.users, "{discovery:?}");
        }
    }
    let files = json!({ "certFile": "/etc/prometheus/tls.crt", "keyFile": "/etc/prometheus/tls.key" });
    let discovery = Discovery { listener: listeners[0], ..https(MonitorNamespace::Target, &files) };
    assert!(EndpointAuth::new(&discovery, false).is_ok(), "files are those of Prometheus, in any namespace");
}

#[test]
fn tls_is_left_out_where_the_scheme_is_http() {
    let tls = json!({ "ca": { "secret": { "name": "ca", "key": "ca.crt" } } });
    let discovery = Discovery { scheme: Scheme::Http, ..https(MonitorNamespace::Target, &tls) };
    assert_eq!(EndpointAuth::new(&discovery, false).unwrap(), EndpointAuth::default());
}
