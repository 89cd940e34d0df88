//! The CRD as users meet it through a real API server: its acceptance, its words, its columns, its selectors, its maxima.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, ListParams, Patch, PatchParams};
use scrapetarget_exporter::crd::{self, ScrapeTarget};
use serde_json::{Map, Value, json};

use crate::support::cluster::Cluster;
use crate::support::eventually::{PATIENCE, eventually_blocking};

/// The shared server with our CRD, and a namespace.
fn served() -> (&'static Cluster, String) {
    let cluster = Cluster::shared();
    cluster.install_crd();
    (cluster, cluster.namespace("schema"))
}

fn target(namespace: &str, name: &str, spec: &Value) -> String {
    let metadata = json!({ "name": name, "namespace": namespace });
    json!({ "apiVersion": crd::API_VERSION, "kind": "ScrapeTarget", "metadata": metadata, "spec": spec }).to_string()
}

/// The lines of a table that kubectl prints, with one blank between the columns.
fn table(cluster: &Cluster, arguments: &[&str]) -> Vec<String> {
    let said = cluster.kubectl(arguments);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    said.stdout.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_crd_is_taken_without_a_warning() {
    let cluster = Cluster::private();
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/crds/scrapetargets.yaml");
    let said = cluster.kubectl(&["apply", "--server-side", "--filename", file]);
    assert_eq!((said.code, said.stderr.as_str()), (Some(0), ""));
    cluster.install_crd();
    let crds = Api::<CustomResourceDefinition>::all(cluster.client());
    let status = crds.get("scrapetargets.scrapetarget.dev").await.unwrap().status.unwrap();
    let conditions: Vec<_> = status
        .conditions
        .iter()
        .flatten()
        .map(|condition| (condition.type_.as_str(), condition.status.as_str()))
        .collect();
    assert_eq!(
        conditions,
        [("NamesAccepted", "True"), ("Established", "True")],
        "NonStructuralSchema is not among them"
    );
}

#[test]
fn kubectl_explains_each_field_in_our_words() {
    fn walk(schema: &Value, path: &str, fields: &mut Vec<(String, String)>) {
        for (name, field) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
            let path = format!("{path}.{name}");
            fields.push((path.clone(), field["description"].as_str().unwrap_or_default().to_owned()));
            walk(field.get("items").unwrap_or(field), &path, fields);
        }
    }
    let (cluster, _) = served();
    let mut fields = Vec::new();
    walk(&crd::openapi(), "st", &mut fields);
    assert!(fields.len() > 90, "{}", fields.len());
    let mute: Vec<_> = fields.iter().filter(|(_, description)| description.is_empty()).collect();
    assert!(mute.is_empty(), "{mute:#?}");
    // Asking for each would take minutes; these are one of each shape.
    for path in [
        "st.spec.interval",
        "st.spec.headers.secretKeyRef.key",
        "st.spec.members.service.port",
        "st.spec.mediasoup.perObject",
        "st.status.conditions.reason",
    ] {
        let (_, words) = fields.iter().find(|(field, _)| field == path).unwrap();
        let one_line = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        // The words are published a little later than the objects are served.
        eventually_blocking(PATIENCE, || {
            let said = cluster.kubectl(&["explain", path]);
            let published = one_line(&said.stdout).contains(&one_line(words));
            published.then_some(()).ok_or_else(|| format!("{path}: {words}\n{}{}", said.stdout, said.stderr))
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_status_is_shown_in_the_columns_and_is_written_by_itself_only() {
    let (cluster, namespace) = served();
    let spec = json!({ "type": "Sora", "url": "http://sora-tokyo:3000/", "members": { "service": {} } });
    cluster.apply(&target(&namespace, "tokyo", &spec));
    cluster.apply(&target(&namespace, "osaka", &json!({ "type": "Orion", "url": "http://orion/", "interval": "1m" })));
    let condition = |(kind, status, reason): (&str, &str, &str)| {
        json!({
            "type": kind, "status": status, "reason": reason, "message": "a sentence",
            "observedGeneration": 1, "lastTransitionTime": "2026-01-01T00:00:00Z",
        })
    };
    let conditions = [
        ("Ready", "True", "Ready"),
        ("Accepted", "True", "Accepted"),
        ("MonitorReady", "True", "Written"),
        ("Up", "False", "HttpStatus"),
        ("Scraped", "False", "NeverScraped"),
    ]
    .map(condition);
    let api = Api::<ScrapeTarget>::namespaced(cluster.client(), &namespace);
    let how = PatchParams::apply("scrapetarget-exporter").validation_strict();
    let body =
        |part: &str, content: Value| json!({ "apiVersion": crd::API_VERSION, "kind": "ScrapeTarget", part: content });
    let members = json!({ "found": 12, "up": 11 });
    let status = body("status", json!({ "observedGeneration": 1, "conditions": conditions, "members": members }));
    let written = api.patch_status("tokyo", &how, &Patch::Apply(&status)).await.unwrap();
    assert_eq!(written.status.as_ref().unwrap().conditions.len(), 5);
    assert_eq!(written.metadata.generation, Some(1));

    let with_age = |line: &str| line.rsplit_once(' ').unwrap().0.to_owned();
    let short = table(cluster, &["--namespace", &namespace, "get", "st"]);
    assert_eq!(short[0], "NAME TYPE URL UP REASON AGE");
    // What has no condition yet has blanks, which `table` does not keep.
    assert_eq!(with_age(&short[1]), "osaka Orion http://orion/");
    assert_eq!(with_age(&short[2]), "tokyo Sora http://sora-tokyo:3000/ False HttpStatus");
    let wide = table(cluster, &["--namespace", &namespace, "get", "monitoring", "--output", "wide"]);
    assert_eq!(wide[0], "NAME TYPE URL UP REASON INTERVAL READY SCRAPED MEMBERS AGE");
    // What is not there is no column of `table`; a target that is one process has no members.
    assert_eq!(with_age(&wide[1]), "osaka Orion http://orion/ 1m");
    let members = r#"{"found":12,"up":11}"#;
    let wanted = format!("tokyo Sora http://sora-tokyo:3000/ False HttpStatus 15s True False {members}");
    assert_eq!(with_age(&wide[2]), wanted);

    // Neither of the two ways writes what the other one is for.
    let mut both = body("status", json!({ "conditions": [] }));
    both["spec"] = json!({ "type": "Sora", "url": "http://other/" });
    api.patch("tokyo", &PatchParams::default(), &Patch::Merge(json!({ "status": both["status"] }))).await.unwrap();
    api.patch_status("tokyo", &PatchParams::default(), &Patch::Merge(json!({ "spec": both["spec"] }))).await.unwrap();
    let now = api.get("tokyo").await.unwrap();
    assert_eq!((now.spec, now.status), (written.spec, written.status));
}

#[tokio::test(flavor = "multi_thread")]
async fn targets_can_be_selected_by_type_and_by_url() {
    let (cluster, namespace) = served();
    cluster.apply(&target(&namespace, "a", &json!({ "type": "Sora", "url": "http://one/" })));
    cluster.apply(&target(&namespace, "b", &json!({ "type": "Orion", "url": "http://two/" })));
    cluster.apply(&target(&namespace, "c", &json!({ "type": "Sora", "url": "http://three/" })));
    let selected = |selector: &str| {
        table(cluster, &["--namespace", &namespace, "get", "st", "--field-selector", selector, "--output", "name"])
    };
    let names = |names: &[&str]| -> Vec<String> {
        names.iter().map(|name| format!("scrapetarget.scrapetarget.dev/{name}")).collect()
    };
    assert_eq!(selected("spec.type=Sora"), names(&["a", "c"]));
    assert_eq!(selected("spec.url=http://two/"), names(&["b"]));
    assert_eq!(selected("spec.type!=Sora,metadata.name=b"), names(&["b"]));
    let api = Api::<ScrapeTarget>::namespaced(cluster.client(), &namespace);
    let refused = api.list(&ListParams::default().fields("spec.interval=15s")).await.unwrap_err();
    assert!(refused.to_string().contains("field label not supported"), "{refused}");
}

/// A map with as many entries as may be, each as long as may be.
fn full_map(entries: usize, key: usize, value: usize) -> Value {
    let entry = |index: usize| (format!("{index:k>key$}"), Value::from("v".repeat(value)));
    Value::Object((0..entries).map(entry).collect::<Map<_, _>>())
}

/// A spec that writes every list, map and text as long as it may be.
fn full_spec() -> Value {
    let host = ["h".repeat(63), "h".repeat(63), "h".repeat(63), "h".repeat(61)].join(".");
    let url = format!("https://{host}:65535/{}", "p".repeat(2048 - host.len() - 15));
    let name = "n".repeat(253);
    let reference = json!({ "name": name, "key": "k".repeat(253) });
    let secret = json!({ "secret": reference });
    let regex = "(?:[a-z]+|x{1,9})".repeat(20);
    let regex = &regex[..17 * 15];
    // What is compared with every name must be small when it is compiled.
    let names = ["n".repeat(15).as_str(); 16].join("|");
    let labels: Vec<String> = (0..16).map(|index| format!("{index:l>256}")).collect();
    let relabelings: Vec<Value> = (0..16)
        .map(|_| {
            json!({
                "action": "replace", "regex": regex, "replacement": "r".repeat(256), "separator": ";",
                "sourceLabels": labels, "targetLabel": "l".repeat(256),
            })
        })
        .collect();
    // Each step that removes labels costs more than one that writes one.
    let removed = "l.*|".repeat(255) + "l.*";
    let removals: Vec<Value> = relabelings
        .iter()
        .map(|step| {
            let mut step = step.clone();
            (step["action"], step["regex"]) = ("labeldrop".into(), removed.as_str().into());
            step
        })
        .collect();
    let headers: Vec<Value> =
        (0..16).map(|index| json!({ "name": format!("{index:x>128}"), "value": "v".repeat(4096) })).collect();
    json!({
        "type": "Mediasoup",
        "url": url,
        "interval": "0000h00000m0060s",
        "timeout": "0000h00000m0059s",
        "maxAge": "0000h00000m0059s",
        "labels": full_map(32, 256, 256),
        "headers": headers,
        "basicAuth": { "username": reference, "password": reference },
        "tlsConfig": { "ca": secret, "cert": secret, "keySecret": reference, "serverName": host },
        "proxyUrl": format!("https://{host}:65535"),
        "proxyAuth": { "username": reference, "password": reference },
        "proxyTlsConfig": { "ca": secret, "cert": secret, "keySecret": reference, "serverName": host },
        "noProxy": vec!["n".repeat(15); 128].join(","),
        "sampleLimit": 1_000_000,
        "metrics": { "keep": vec![&names; 32], "drop": vec![&names; 32] },
        "monitor": {
            "labels": full_map(32, 63, 63),
            "annotations": full_map(32, 63, 4096),
            "interval": "0000h00000m0060s",
            "scrapeTimeout": "0000h00000m0059s",
            "relabelings": relabelings,
            "metricRelabelings": removals,
            "scrapeClass": "s".repeat(253),
        },
        "mediasoup": { "perObject": ["Producers", "Consumers", "Transports"] },
    })
}

/// The lists and maps that could hold more than they do.
fn not_full(schema: &Value, value: &Value, path: &str) -> Vec<String> {
    let most = |key: &str| schema.get(key).and_then(Value::as_u64).map(|most| usize::try_from(most).unwrap());
    let below = |name: &str, value: &Value| {
        let inner = schema.pointer(&format!("/properties/{name}")).or_else(|| schema.get("items"));
        inner.map(|inner| not_full(inner, value, &format!("{path}.{name}"))).unwrap_or_default()
    };
    let (room, below): (bool, Vec<String>) = match value {
        Value::Array(items) => (
            most("maxItems").is_some_and(|most| items.len() < most),
            items.iter().flat_map(|i| below("[]", i)).collect(),
        ),
        Value::Object(fields) => (
            most("maxProperties").is_some_and(|most| fields.len() < most),
            fields.iter().flat_map(|(name, field)| below(name, field)).collect(),
        ),
        _ => (false, Vec::new()),
    };
    room.then(|| path.to_owned()).into_iter().chain(below).collect()
}

#[test]
fn the_cost_of_the_rules_is_within_the_limits_with_everything_at_its_maximum() {
    let (cluster, namespace) = served();
    // A proxy and members go not together.
    let mut with_members = full_spec();
    for field in ["proxyUrl", "proxyAuth", "proxyTlsConfig", "noProxy"] {
        with_members.as_object_mut().unwrap().remove(field);
    }
    let service = json!({ "name": "n".repeat(63), "port": "p".repeat(63) });
    with_members["members"] =
        json!({ "service": service, "include": "Serving", "limit": 500, "sampleLimit": 1_000_000 });
    let mut without_name = with_members.clone();
    without_name["members"]["service"].as_object_mut().unwrap().remove("name");
    for mut spec in [full_spec(), with_members, without_name] {
        assert_eq!(not_full(&crd::openapi()["properties"]["spec"], &spec, "spec"), Vec::<String>::new());
        let manifest = |spec: &Value| serde_json::from_str::<Value>(&target(&namespace, "full", spec)).unwrap();
        assert!(crd::judge(&manifest(&spec)).is_ok(), "{:#?}", crd::judge(&manifest(&spec)).unwrap_err());
        cluster.apply(&target(&namespace, "full", &spec));
        // And the last of the rules still speaks: nothing was given up on the way.
        spec["monitor"]["metricRelabelings"][15]["replacement"] = "$(x)".into();
        let sentence = &crd::judge(&manifest(&spec)).unwrap_err()[0].message;
        let refused = cluster.try_apply(&target(&namespace, "full", &spec)).unwrap_err();
        assert!(refused.contains(sentence.as_str()), "{refused}");
    }
}

/// Whether we take these names of a Service and of its port.
fn takes(name: &str, port: &str) -> bool {
    let spec = json!({ "type": "Orion", "url": "http://a/", "members": { "service": { "name": name, "port": port } } });
    crd::judge(&serde_json::from_str(&target("default", "a", &spec)).unwrap()).is_ok()
}

#[test]
fn every_service_and_every_port_can_be_named_and_what_can_be_none_is_refused() {
    let (cluster, namespace) = served();
    let long = ["a".repeat(63), "a".repeat(64)];
    for name in ["orion", "a", "3scale", "8080", "a-1", "-a", "a-", "A", "a.b", "a_b", &long[0], &long[1]] {
        let service = |service: &str, port: &str| {
            let ports = json!([{ "name": port, "port": 1026 }]);
            let metadata = json!({ "name": service, "namespace": namespace });
            json!({ "apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": { "ports": ports } })
                .to_string()
        };
        // Older versions of Kubernetes take no Service whose name begins with a digit.
        let can_exist = cluster.try_apply(&service(name, "http")).is_ok() || ["3scale", "8080"].contains(&name);
        assert_eq!(can_exist, takes(name, "http"), "Service {name}");
        assert_eq!(cluster.try_apply(&service("orion", name)).is_ok(), takes("orion", name), "port {name}");
    }
}
