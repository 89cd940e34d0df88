//! Whatever an Orion broker, or what stands in its place, may answer: no panic, a well-formed exposition, no series twice.

use std::collections::HashSet;

use proptest::prelude::*;
use reqwest::Url;
use scrapetarget_exporter::kind::orion::{Level, Options};
use scrapetarget_exporter::kind::{Answer, CallOptions as _, Context, Kind, Response};
use scrapetarget_exporter::metric::{Families, Format, encode};
use serde_json::{Value, json};

fn kind(level: Level) -> Box<dyn Kind> {
    Options { level, ..Options::default() }.build(&Url::parse("http://orion/").unwrap())
}

/// Polls once with these bodies, checks what comes out, and returns every series with its value.
fn poll(kind: &mut dyn Kind, status: u16, bodies: [Vec<u8>; 4], sample_limit: usize) -> Vec<(String, f64)> {
    let answers = bodies.map(|body| Answer(Ok(Response { status, content_type: None, body: body.into() })));
    let mut out = Families::default();
    let results = kind.translate(&answers, &Context { now: 0.0, sample_limit }, &mut out);
    assert_eq!(results.len(), 4);
    let finished = out.finish();
    for format in [Format::Text, Format::OpenMetrics] {
        let mut text = Vec::new();
        encode(&[&finished], format, &mut text);
        assert_well_formed(std::str::from_utf8(&text).unwrap());
    }
    finished.samples().map(|(name, labels, value)| (format!("{name}{{{labels}}}"), value)).collect()
}

/// Every line is a comment of ours or `name{labels} value`; families come in one piece; no series comes twice.
fn assert_well_formed(text: &str) {
    let mut series = HashSet::new();
    let mut families = HashSet::new();
    for line in text.lines() {
        if let Some(header) = line.strip_prefix("# TYPE ") {
            assert!(families.insert(header.split(' ').next().unwrap()), "{line} comes twice");
        }
        if line.starts_with("# ") {
            continue;
        }
        let (labels, value) = line.rsplit_once(' ').expect("a value");
        assert!(value.parse::<f64>().is_ok(), "{line}");
        assert!(series.insert(labels), "{line} comes twice");
        let name = labels.split('{').next().unwrap();
        assert!(name.starts_with("orion_") && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{line}");
        assert_labels(&labels[name.len()..]);
    }
}

fn assert_labels(labels: &str) {
    if labels.is_empty() {
        return;
    }
    let mut rest = labels.strip_prefix('{').and_then(|labels| labels.strip_suffix('}')).expect("braces");
    loop {
        let (name, after) = rest.split_once("=\"").expect("a name and a quote");
        assert!(!name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{labels}");
        let mut escaped = false;
        let end = after.find(|c| {
            let end = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            end
        });
        rest = &after[end.expect("a closing quote") + 1..];
        if rest.is_empty() {
            return;
        }
        rest = rest.strip_prefix(',').expect("a comma");
    }
}

/// JSON that knows the words of Orion, but not always what they are for.
fn documents() -> impl Strategy<Value = Value> {
    let words = prop_oneof![
        4 => proptest::sample::select(vec![
            "services", "service", "subservs", "sum", "incomingTransactions", "serviceTime", "outgoingTransactions",
            "root-subserv", "default-service", "scrapetarget_exporter", "counters", "requests", "requestsLegacy", "semWait",
            "timing", "accumulated", "total", "notifQueue", "in", "size", "uptime_in_secs", "refresh", "items", "orion",
            "version", "orionld version", "uptime", "description", "deprecatedFeatures", "jsonRequests", "GET",
        ]).prop_map(str::to_owned),
        1 => any::<String>(),
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        (0_u64..100).prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        Just(Value::from("metrics desactivated")),
        Just(Value::from("1 d, 2 h, 3 m, 4 s")),
    ];
    leaf.prop_recursive(6, 64, 8, move |inner| {
        prop_oneof![
            1 => proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            6 => proptest::collection::vec((words.clone(), inner), 0..8)
                .prop_map(|entries| entries.into_iter().collect::<serde_json::Map<_, _>>().into()),
        ]
    })
}

/// A tree of the right shape with names and numbers of any kind.
fn trees() -> impl Strategy<Value = Value> {
    let number = || prop_oneof![3 => (0_u32..1000).prop_map(f64::from), 1 => any::<f64>()];
    let block = move || {
        (number(), number(), number()).prop_map(
            |(n, t, e)| json!({"incomingTransactions": n, "serviceTime": t, "incomingTransactionErrors": e, "unknown": {}}),
        )
    };
    let subservices = proptest::collection::btree_map(any::<String>(), block(), 0..6);
    let service = (subservices, block()).prop_map(|(subservs, sum)| json!({ "subservs": subservs, "sum": sum }));
    let name = prop_oneof![any::<String>(), Just("scrapetarget_exporter".to_owned())];
    (proptest::collection::btree_map(name, service.clone(), 0..6), service)
        .prop_map(|(services, sum)| json!({ "services": services, "sum": sum }))
}

fn levels() -> impl Strategy<Value = Level> {
    proptest::sample::select(vec![Level::Subservice, Level::Service, Level::Total])
}

proptest! {
    #[test]
    fn any_bytes_do_no_harm(bodies: [Vec<u8>; 4], status in prop_oneof![Just(200), Just(400)], level in levels()) {
        poll(&mut *kind(level), status, bodies, 100);
    }

    #[test]
    fn any_documents_do_no_harm(
        polls in proptest::collection::vec([documents(), documents(), documents(), documents()], 1..3),
        status in prop_oneof![4 => Just(200), 1 => Just(400)],
        level in levels(),
    ) {
        let mut kind = kind(level);
        for bodies in polls {
            poll(&mut *kind, status, bodies.map(|body| body.to_string().into_bytes()), 100);
        }
    }

    #[test]
    fn a_cut_or_changed_recording_does_no_harm(at in 0_usize..4_000, byte: u8, cut: bool, level in levels()) {
        let bodies = [
            &include_bytes!("fixtures/orion/typical/admin_metrics.json")[..],
            include_bytes!("fixtures/orion/wrong_values/statistics.json"),
            include_bytes!("fixtures/orion/wrong_values/cache_statistics.json"),
            include_bytes!("fixtures/orion/version_orion_ld/version.json"),
        ];
        let bodies = bodies.map(|body| {
            let mut body = body.to_vec();
            let at = at % body.len();
            if cut { body.truncate(at) } else { body[at] = byte }
            body
        });
        poll(&mut *kind(level), 200, bodies, 100);
    }

    #[test]
    fn the_time_spent_begins_at_0_and_never_falls_while_its_series_lives(
        polls in proptest::collection::vec(trees(), 2..5),
        level in levels(),
        limit in prop_oneof![Just(10_000_usize), 0_usize..60],
    ) {
        let mut kind = kind(level);
        let mut last: Vec<(String, f64)> = Vec::new();
        for (i, tree) in polls.iter().enumerate() {
            let bodies = [tree.to_string().into_bytes(), vec![], vec![], vec![]];
            let mut now = poll(&mut *kind, 200, bodies, limit);
            now.retain(|(series, _)| series.starts_with("orion_service_time_seconds_total"));
            for (series, value) in &now {
                prop_assert!(i > 0 || value.abs() < f64::EPSILON, "{series} begins at {value}");
                let before = last.iter().find(|(name, _)| name == series);
                prop_assert!(limit < 10_000 || before.is_none_or(|(_, before)| value >= before), "{series} fell to {value}");
            }
            last = now;
        }
    }

    #[test]
    fn the_sample_limit_is_kept_whenever_the_coarsest_level_fits(tree in trees(), limit in 12_usize..60, level in levels()) {
        let samples = poll(&mut *kind(level), 200, [tree.to_string().into_bytes(), vec![], vec![], vec![]], limit);
        prop_assert!(samples.len() <= limit, "{} of {limit}", samples.len());
    }
}
