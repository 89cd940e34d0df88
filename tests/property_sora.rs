//! Whatever a server writes, the translation of Sora's answers does not panic and the exposition stays well formed.
#[path = "support/exposition.rs"]
mod exposition;

use proptest::prelude::*;
use reqwest::Url;
use scrapetarget_exporter::kind::{Answer, Blocks, Context, Response, Type, sora};
use scrapetarget_exporter::metric::{Families, Format, encode, openmetrics_to_text};
use serde_json::{Map, Value, json};

const REPORT: &str = include_str!("fixtures/sora/maximum/GetStatsReport.json");
const LICENSE: &str = include_str!("fixtures/sora/maximum/GetLicense.json");
const NODES: &str = include_str!("fixtures/sora/maximum/ListClusterNodes.json");
const MODE: &str = include_str!("fixtures/sora/maximum/GetMode.json");

/// Translates four answers with everything on, and holds the result to what every exposition must be.
fn judge(bodies: [Vec<u8>; 4], sample_limit: usize) -> Result<(), TestCaseError> {
    let options = sora::Options {
        cluster_metrics: true,
        client_metrics: true,
        connection_error_metrics: true,
        erlang_vm_metrics: true,
        server_mode: true,
    };
    let blocks = Blocks { sora: Some(Box::new(options)), ..Blocks::default() };
    let mut kind = blocks.engine(Type::Sora, &Url::parse("http://sora:3000/").unwrap()).unwrap().translator().unwrap();
    let answers = bodies.map(|body| Answer(Ok(Response { status: 200, content_type: None, body: body.into() })));
    let mut out = Families::default();
    let verdicts = kind.translate(&answers, &Context { now: 1.7e9, sample_limit }, &mut out);
    prop_assert_eq!(verdicts.len(), 4);
    let finished = out.finish();

    let mut text = Vec::new();
    encode(&[&finished], Format::Text, &mut text);
    let text = String::from_utf8(text).unwrap();
    let families = exposition::parse(&text).map_err(TestCaseError::fail)?;
    prop_assert_eq!(exposition::out_of_order(&families), None);

    let mut openmetrics = Vec::new();
    let plain = encode(&[&finished], Format::OpenMetrics, &mut openmetrics);
    prop_assert_eq!(openmetrics_to_text(std::str::from_utf8(&openmetrics).unwrap(), &plain), text);
    Ok(())
}

/// Any JSON, with numbers and strings that like to break things.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
        Just(Value::from("a\"b\\c\nd\0e\rf")),
        Just(Value::from("\u{e9}".repeat(2000))),
    ];
    leaf.prop_recursive(4, 24, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((".{0,8}", inner), 0..4)
                .prop_map(|entries| Value::Object(entries.into_iter().collect())),
        ]
    })
}

/// Every place of a document, as the keys that lead there.
fn places(document: &Value) -> Vec<String> {
    fn walk(value: &Value, at: &str, into: &mut Vec<String>) {
        into.push(at.to_owned());
        match value {
            Value::Object(fields) => fields.iter().for_each(|(key, value)| walk(value, &format!("{at}/{key}"), into)),
            Value::Array(items) => {
                items.iter().enumerate().for_each(|(i, value)| walk(value, &format!("{at}/{i}"), into));
            }
            _ => {}
        }
    }
    let mut found = Vec::new();
    walk(document, "", &mut found);
    found
}

/// A document in which some places hold something else.
fn mutated(document: &str) -> impl Strategy<Value = Vec<u8>> + use<> {
    let document: Value = serde_json::from_str(document).unwrap();
    let places = places(&document);
    prop::collection::vec((prop::sample::select(places), any_json()), 0..6).prop_map(move |changes| {
        let mut document = document.clone();
        for (place, value) in changes {
            if let Some(field) = document.pointer_mut(&place) {
                *field = value;
            }
        }
        serde_json::to_vec(&document).unwrap()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn mutated_answers_give_a_well_formed_exposition(
        report in mutated(REPORT),
        license in mutated(LICENSE),
        nodes in mutated(NODES),
        mode in mutated(MODE),
        limit in prop_oneof![Just(10_000_usize), 0..200_usize],
    ) {
        judge([report, license, nodes, mode], limit)?;
    }

    #[test]
    fn any_json_gives_a_well_formed_exposition(documents in prop::array::uniform4(any_json())) {
        judge(documents.map(|document| serde_json::to_vec(&document).unwrap()), 10_000)?;
    }

    #[test]
    fn bytes_changed_anywhere_give_a_well_formed_exposition(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        length in any::<prop::sample::Index>(),
        cut in any::<bool>(),
    ) {
        let mut report = REPORT.as_bytes().to_vec();
        for (at, byte) in changes {
            let at = at.index(report.len());
            report[at] = byte;
        }
        if cut {
            report.truncate(length.index(report.len()));
        }
        judge([report, LICENSE.into(), NODES.into(), MODE.into()], 10_000)?;
    }

    #[test]
    fn names_chosen_by_strangers_stay_inside_their_labels(name in any::<String>()) {
        let mut clients = Map::new();
        clients.insert(name.clone(), json!(1));
        let report = json!({
            "version": name,
            "sora_client": { "total_failed_sora_client_type": clients },
            "cluster_relay": [{ "node_name": name, "total_sent": 1 }],
        });
        judge([report.to_string().into(), LICENSE.into(), NODES.into(), json!({ "mode": name }).to_string().into()], 10_000)?;
    }
}

#[test]
fn bytes_that_are_no_utf8_cost_no_more_than_a_character() {
    let mut report = br#"{"version":"20?5","total_connection_created":1}"#.to_vec();
    let at = report.iter().position(|byte| *byte == b'?').unwrap();
    report[at] = 0xff;
    let mut kind =
        Blocks::default().engine(Type::Sora, &Url::parse("http://sora:3000/").unwrap()).unwrap().translator().unwrap();
    let answers = [report, LICENSE.into(), MODE.into()]
        .map(|body| Answer(Ok(Response { status: 200, content_type: None, body: body.into() })));
    let mut out = Families::default();
    let verdicts = kind.translate(&answers, &Context { now: 1.7e9, sample_limit: 10_000 }, &mut out);
    assert!(verdicts.iter().all(Result::is_ok), "{verdicts:?}");
    assert!(
        out.finish()
            .samples()
            .any(|(name, labels, _)| { name == "sora_version_info" && labels == "version=\"20\u{FFFD}5\"" })
    );
}
