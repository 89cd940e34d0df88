//! `crds/` holds what the code says, and every rule means the same in CEL and in Rust.

use std::collections::BTreeSet;
use std::path::Path;

use kube::core::cel::{CompiledSchema, ErrorKind, ValidationError, Validator, apply_defaults, compile_schema};
use proptest::prelude::*;
use scrapetarget_exporter::crd::{self, rules};
use serde_json::{Value, json};

fn target(spec: &Value) -> Value {
    json!({"apiVersion": crd::API_VERSION, "kind": "ScrapeTarget", "metadata": {"name": "t"}, "spec": spec})
}

/// To write the file again after a change of the types: `UPDATE=1 cargo test --test crd`.
#[test]
fn the_file_is_what_the_code_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("crds/scrapetargets.yaml");
    let printed = crd::print().unwrap();
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, &printed).unwrap();
    }
    let held = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(held == printed, "{} differs from the code: UPDATE=1 cargo test --test crd", path.display());
}

#[test]
fn the_yaml_reads_back_as_the_same_crd() {
    let read: Value = serde_saphyr::from_str(&crd::print().unwrap()).unwrap();
    assert_eq!(read.pointer("/spec/versions/0/schema/openAPIV3Schema"), Some(&crd::openapi()));
    assert_eq!(read["metadata"]["name"], "scrapetargets.scrapetarget.dev");
    assert_eq!(
        read["spec"]["names"],
        json!({"categories": ["monitoring"], "kind": "ScrapeTarget", "plural": "scrapetargets", "shortNames": ["st"], "singular": "scrapetarget"})
    );
    let columns = read["spec"]["versions"][0]["additionalPrinterColumns"].as_array().unwrap();
    let names = |wide: bool| {
        columns
            .iter()
            .filter(move |column| (column["priority"] == 1) == wide)
            .map(|column| column["name"].as_str().unwrap())
    };
    assert_eq!(names(false).collect::<Vec<_>>(), ["Type", "URL", "Up", "Reason", "Age"]);
    assert_eq!(names(true).collect::<Vec<_>>(), ["Interval", "Ready", "Scraped", "Members"]);
    assert_eq!(
        read["spec"]["versions"][0]["selectableFields"],
        json!([{"jsonPath": ".spec.type"}, {"jsonPath": ".spec.url"}])
    );
}

#[test]
fn every_rule_stands_in_the_schema_at_each_of_its_places() {
    fn count(schema: &Value) -> usize {
        let here = schema.get("x-kubernetes-validations").and_then(Value::as_array).map_or(0, Vec::len);
        let below: usize = match schema {
            Value::Object(fields) => fields.values().map(count).sum(),
            Value::Array(items) => items.iter().map(count).sum(),
            _ => 0,
        };
        here + below
    }
    assert_eq!(count(&crd::openapi()), rules::all().iter().map(|rule| rule.paths.len()).sum::<usize>());
}

#[test]
fn every_rule_compiles() {
    let compiled = compile_schema(&crd::openapi());
    assert!(!compiled.has_errors(), "{:?}", compiled.compilation_errors());
}

/// Without a maximum the API server reckons with the largest request there can be, and refuses the rules for their cost.
#[test]
fn whatever_a_user_may_write_has_a_maximum() {
    fn walk(schema: &Value, path: &str, open: &mut Vec<String>) {
        let has = |key: &str| schema.get(key).is_some();
        let bounded = match schema.get("type").and_then(Value::as_str) {
            Some("string") => has("maxLength") || has("enum"),
            Some("array") => has("maxItems"),
            Some("object") => !has("additionalProperties") || has("maxProperties"),
            _ => true,
        };
        // The names that two patterns of the kinds bound by themselves.
        if !bounded && !schema.get("pattern").and_then(Value::as_str).is_some_and(|pattern| pattern.ends_with("}$")) {
            open.push(path.to_owned());
        }
        for (name, inner) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
            walk(inner, &format!("{path}.{name}"), open);
        }
        for key in ["items", "additionalProperties"] {
            schema.get(key).into_iter().for_each(|inner| walk(inner, &format!("{path}[]"), open));
        }
    }
    let mut open = Vec::new();
    walk(&crd::openapi()["properties"]["spec"], "spec", &mut open);
    assert_eq!(open, Vec::<String>::new());
}

#[test]
fn defaults_that_depend_on_other_fields_are_those_of_the_documentation() {
    let spec = |more: Value| {
        let mut spec = json!({"type": "Sora", "url": "http://sora/"});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        crd::judge(&target(&spec)).unwrap().spec.clone()
    };
    let all = |spec: crd::ScrapeTargetSpec| {
        [
            spec.effective_timeout(),
            spec.effective_max_age(),
            spec.effective_scrape_interval(),
            spec.effective_scrape_timeout(),
        ]
        .map(|span| span.as_millis())
    };
    assert_eq!(all(spec(json!({}))), [10_000, 13_500, 15_000, 11_000]);
    assert_eq!(all(spec(json!({"interval": "5s"}))), [5_000, 4_500, 5_000, 5_000]);
    assert_eq!(all(spec(json!({"interval": "1h"}))), [10_000, 3_240_000, 120_000, 11_000]);
    assert_eq!(
        all(spec(json!({"timeout": "3s", "maxAge": "0s", "monitor": {"interval": "30s"}}))),
        [3_000, 0, 30_000, 4_000]
    );
    assert_eq!(
        all(spec(json!({"monitor": {"interval": "2s", "scrapeTimeout": "1s"}}))),
        [10_000, 13_500, 2_000, 1_000]
    );
    assert_eq!(spec(json!({})), crd::ScrapeTargetSpec::new(scrapetarget_exporter::kind::Type::Sora, "http://sora/"));
}

#[test]
fn labels_of_every_family_are_reserved() {
    for kind in scrapetarget_exporter::kind::Type::ALL {
        for label in kind.families().iter().flat_map(|family| family.labels) {
            let (of, url) = match kind.as_str() {
                "Http" => ("Http", "http://web/"),
                "Tcp" => ("Tcp", "tcp://web:80"),
                "Dns" => ("Dns", "dns://ns/example.com"),
                "Icmp" => ("Icmp", "icmp://host"),
                "Grpc" => ("Grpc", "grpc://api:80"),
                "Stun" => ("Stun", "stun:host"),
                "WebSocket" => ("WebSocket", "ws://sfu/"),
                "Turn" => ("Turn", "turn:host"),
                _ => ("Sora", "http://sora/"),
            };
            let bad = target(&json!({"type": of, "url": url, "labels": {*label: "x"}}));
            assert_eq!(crd::judge(&bad).unwrap_err().len(), 1, "{label}");
        }
    }
}

/// One of a few values, each with something to say to some rule.
fn pick(values: &[Value]) -> impl Strategy<Value = Value> + use<> {
    proptest::sample::select(values.to_vec())
}

fn texts(values: &[&str]) -> impl Strategy<Value = Value> + use<> {
    pick(&values.iter().map(|text| json!(text)).collect::<Vec<_>>())
}

fn duration() -> impl Strategy<Value = Value> {
    prop_oneof![
        texts(&[
            "1s",
            "10s",
            "15s",
            "999ms",
            "2m",
            "121s",
            "1h",
            "61m",
            "0s",
            "0h0m0s0ms",
            "1.5h",
            "30m1h",
            "15",
            "s",
            "1m30s",
            "-1s",
            " 1s",
            "1d",
            "99999h"
        ]),
        "[0-9]{0,3}h?[0-9]{0,3}m?[0-9]{0,3}s?"
            .prop_filter("the schema wants a character", |text| !text.is_empty())
            .prop_map(Value::from),
    ]
}

fn url() -> impl Strategy<Value = Value> {
    prop_oneof![
        texts(&[
            "http://sora:3000/",
            "https://[2001:db8::1]:443/a?b=c",
            "https://10.0.0.1/",
            "https://[::1]:8443/",
            "http://[::1]",
            "http://[1:2]/",
            "http://[::ffff:102:304]/",
            "http://[]/",
            "stun:host",
            "stuns:[2001:db8::1]:443?transport=tcp",
            "stun:[1:2]",
            "stun:[::ffff:102:304]:80",
            "stuns:10.0.0.1?transport=udp",
            "stun://host",
            "http://[:]",
            "http://u@h/",
            "http://h:65536",
            "ftp://h/",
            "http://h/#f",
            "http://h\\x",
            "http://h/[",
            "http://1.2.3.4/?x",
            "http://1.2.3",
            "http://1.2.3.4:80",
            "http://a_b.c/",
            "http://a.b.svc:3000/",
            "https://3-A"
        ]),
        "(http|https|HTTP)(://|:)[a-z0-9._@:\\[\\]-]{1,12}(:[0-9]{0,6})?(/[a-z%0-9]{0,4})?([?#][a-z]{0,2})?"
            .prop_map(Value::from),
        "http://\\[[0-9a-f:]{1,20}\\]/".prop_map(Value::from),
    ]
}

fn reference() -> impl Strategy<Value = Value> {
    pick(&[json!({"name": "s", "key": "k"})])
}

/// An object of which each field may be missing.
fn object(fields: Vec<(&'static str, BoxedStrategy<Value>)>) -> BoxedStrategy<Value> {
    let fields: Vec<_> = fields
        .into_iter()
        .map(|(name, value)| proptest::option::weighted(0.5, value.prop_map(move |value| (name, value))))
        .collect();
    fields
        .prop_map(|fields| fields.into_iter().flatten().map(|(name, value)| (name.to_owned(), value)).collect())
        .boxed()
}

fn list(items: BoxedStrategy<Value>) -> BoxedStrategy<Value> {
    proptest::collection::vec(items, 0..3).prop_map(Value::from).boxed()
}

fn map(keys: &[&'static str], values: &[&str]) -> BoxedStrategy<Value> {
    let entry = (proptest::sample::select(keys.to_vec()), texts(values));
    proptest::collection::vec(entry, 0..3)
        .prop_map(|entries| entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
        .boxed()
}

fn regex() -> BoxedStrategy<Value> {
    texts(&["a", "(", "[a", "(?=a)", "a|b.*", "(?i)a", "\\d+", "*", "a{2}", "[[:alpha:]]", "$(x)"]).boxed()
}

/// Expressions of a labeldrop: at the edges of what is taken, and of pieces of them.
fn names() -> BoxedStrategy<Value> {
    let written = texts(&[
        "",
        ".*",
        "_.*",
        "__.*",
        "_a.*",
        "__address__",
        "instance",
        "instanc.*",
        "instance.+",
        "instance_.*",
        "(job)",
        "(job",
        "region|rack_.*",
        "a|target_.*",
        "a|",
        "|a",
        "a.b",
        "(a)|b",
        "(?i)INSTANCE",
        "[i]nstance",
        "$(x)",
    ]);
    prop_oneof![
        written,
        "[(]?(_{0,2}(a|i|instance|job|target_name|po|pod|member)?(\\.[*+])?[|]?){0,3}[)]?".prop_map(Value::from)
    ]
    .boxed()
}

fn relabelings() -> BoxedStrategy<Value> {
    let actions = &[
        "replace",
        "keep",
        "hashmod",
        "labelmap",
        "LabelMap",
        "labelkeep",
        "LabelKeep",
        "labeldrop",
        "LabelDrop",
        "lowercase",
        "Uppercase",
        "keepequal",
        "DropEqual",
    ];
    let labels = &[
        "",
        "a",
        "_a",
        "__",
        "__address__",
        "__tmp_hash",
        "pod",
        "member",
        "pods",
        "instance",
        "Instance",
        "job",
        "namespace",
        "target_namespace",
        "target_name",
        "target_name_2",
        "$1",
        "a$1",
        "${1}b",
        "a-b",
        "é",
    ];
    list(object(vec![
        ("action", texts(actions).boxed()),
        ("targetLabel", texts(labels).boxed()),
        ("regex", prop_oneof![regex(), names()].boxed()),
        ("replacement", texts(&["$1", "$(A)", ""]).boxed()),
        ("separator", texts(&[";", "$("]).boxed()),
    ]))
}

/// Half of them with one source of members, as most are that users write.
fn members() -> BoxedStrategy<Value> {
    let names = || texts(&["orion", "3scale", "a-", "Orion", "a.b", "a_b", "8080", "é"]).boxed();
    let service = object(vec![("name", names()), ("port", names())]);
    let rest = vec![
        ("include", texts(&["Serving", "Ready", "All"]).boxed()),
        ("limit", pick(&[json!(1), json!(500)]).boxed()),
    ];
    let sources = vec![("service", service.clone()), ("dns", pick(&[json!({})]).boxed())];
    let one = prop_oneof![service.prop_map(|service| json!({ "service": service })), pick(&[json!({ "dns": {} })]),];
    prop_oneof![
        (one, object(rest.clone())).prop_map(|(one, mut members)| {
            members.as_object_mut().unwrap().extend(one.as_object().unwrap().clone());
            members
        }),
        object(sources.into_iter().chain(rest).collect()),
    ]
    .boxed()
}

fn oauth2() -> BoxedStrategy<Value> {
    let fields = object(vec![
        ("scopes", list(texts(&["a", "a b", "é", "a\"", "~"]).boxed())),
        ("endpointParams", map(&["audience", "grant_type", "client_x", "scope", "", "é"], &["x", ""])),
        ("proxyUrl", url().boxed()),
        ("header", texts(&["X-Auth-Token", "authorization", "a b", "accept-x", "X-A", "Cookie"]).boxed()),
        ("tlsConfig", object(vec![("cert", pick(&[json!({ "secret": { "name": "s", "key": "k" } })]).boxed())])),
    ]);
    let id = object(vec![("secret", reference().boxed()), ("configMap", reference().boxed())]);
    (id, url(), fields)
        .prop_map(|(id, url, mut oauth2)| {
            oauth2["clientId"] = id;
            oauth2["clientSecret"] = json!({ "name": "s", "key": "k" });
            oauth2["tokenUrl"] = url;
            oauth2
        })
        .boxed()
}

fn spec() -> impl Strategy<Value = Value> {
    let either = || object(vec![("secret", reference().boxed()), ("configMap", reference().boxed())]);
    let optional = object(vec![
        ("interval", duration().boxed()),
        ("timeout", duration().boxed()),
        ("maxAge", duration().boxed()),
        ("proxyUrl", url().boxed()),
        ("proxyAuth", object(vec![]).prop_map(|_| json!({"username": {"name": "s", "key": "k"}})).boxed()),
        ("proxyTlsConfig", object(vec![("ca", either()), ("keySecret", reference().boxed())]).boxed()),
        ("noProxy", texts(&["a", ".b, 10.0.0.0/8", "[::1]:80,*", "a b", "a;b", "http://a", "é"]).boxed()),
        (
            "labels",
            map(&["region", "job", "__a", "a-b", "", "reason", "Le", "é", "pod", "member"], &["x", "$(A)", "$A"]),
        ),
        ("members", members()),
        ("basicAuth", object(vec![]).prop_map(|_| json!({"username": {"name": "s", "key": "k"}})).boxed()),
        (
            "authorization",
            texts(&["Bearer", "basic", "a b", "BASIC"])
                .prop_map(|kind| json!({"type": kind, "credentials": {"name": "s", "key": "k"}}))
                .boxed(),
        ),
        ("oauth2", oauth2()),
        (
            "tlsConfig",
            object(vec![
                ("ca", either()),
                ("cert", either()),
                ("keySecret", reference().boxed()),
                ("serverName", texts(&["a.b", "a b", "::1", "a:b", "-"]).boxed()),
            ]),
        ),
        ("metrics", object(vec![("keep", list(regex())), ("drop", list(regex()))])),
        (
            "monitor",
            object(vec![
                ("interval", duration().boxed()),
                ("scrapeTimeout", duration().boxed()),
                ("labels", map(&["a", "a/b", "/a", "-a", "A.b_c", "x.y/z"], &["", "a", "-", "a b", "a.b"])),
                ("annotations", map(&["a", "a b", "a/b/c"], &["", "$("])),
                ("relabelings", relabelings()),
                ("metricRelabelings", relabelings()),
            ]),
        ),
        (
            "stun",
            object(vec![(
                "expectAddress",
                texts(&["10.0.0.0/8", "10.0.0.0/08", "::1", "::ffff:1.2.3.4", "host"]).boxed(),
            )]),
        ),
        ("sora", pick(&[json!({}), json!({"serverMode": false})]).boxed()),
        ("orion", pick(&[json!({})]).boxed()),
        ("mediasoup", pick(&[json!({}), json!({"source": "Prometheus"}), json!({"source": "Agent"})]).boxed()),
    ]);
    let names =
        &["x-a", "Host", "ACCEPT-x", "authorization", "Authorization", "a b", "content-type", "Fiware-Service", "a:"];
    let header = (
        texts(names),
        object(vec![("value", texts(&["x", "a\nb", "é", ""]).boxed()), ("secretKeyRef", reference().boxed())]),
    );
    let headers =
        proptest::collection::btree_map(header.0.prop_map(|name| name.as_str().unwrap().to_owned()), header.1, 0..3)
            .prop_map(|headers| {
                let list = headers.into_iter().map(|(name, mut header)| {
                    header["name"] = name.into();
                    header
                });
                Value::Array(list.collect())
            });
    (texts(&["Sora", "Orion", "Mediasoup", "Stun"]), url(), optional, proptest::option::of(headers)).prop_map(
        |(kind, url, mut spec, headers)| {
            spec["type"] = kind;
            spec["url"] = url;
            if let Some(headers) = headers {
                spec["headers"] = headers;
            }
            spec
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn cel_and_rust_agree_on_every_spec(spec in spec()) {
        thread_local!(static SCHEMA: (Value, CompiledSchema) = {
            let schema = crd::openapi();
            let compiled = compile_schema(&schema);
            (schema, compiled)
        });
        let manifest = target(&spec);
        let sentences: BTreeSet<&str> = rules::all().iter().map(|rule| rule.message.as_str()).collect();
        let problems = crd::judge(&manifest).err().unwrap_or_default();
        // Ours may say more of the text at hand.
        let is_said = |message: &str, sentence: &str| {
            message.strip_prefix(sentence).is_some_and(|more| more.is_empty() || more.starts_with(": "))
        };
        let sentence = |message: &str| sentences.iter().find(|sentence| is_said(message, sentence)).map(ToString::to_string);
        let rust: BTreeSet<String> = problems.iter().filter_map(|problem| sentence(&problem.message)).collect();
        let structural = problems.iter().any(|problem| problem.message.contains("Required value") || problem.message.contains("may not be more"));
        prop_assume!(!structural);
        let cel: BTreeSet<String> = SCHEMA.with(|(schema, compiled)| {
            let object = apply_defaults(schema, &manifest);
            let errors = Validator::new().validate_compiled(compiled, &object, None).err();
            let sentence = |error: &ValidationError| {
        let failed = rules::all().iter().find(|rule| error.kind == ErrorKind::EvaluationError && rule.expression() == error.rule);
        failed.map_or_else(|| error.message.clone(), |rule| rule.message.clone())
    };
            errors.into_iter().flatten().map(|error| sentence(&error)).collect()
        });
        prop_assert_eq!(rust, cel);
    }
}
