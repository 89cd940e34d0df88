//! From recorded and made-up answers of mediasoup applications to the text that Prometheus gets.
//!
//! A case is a folder in `tests/fixtures/mediasoup` with `case.json` (options, limit, the answers of its polls) and a file
//! `poll-N.metrics` for each poll. `UPDATE_GOLDEN=1` writes those files anew: read what changed before it is committed.

#[path = "support/exposition.rs"]
mod exposition;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use exposition::Everything;
use proptest::prelude::*;
use regex::Regex;
use scrapetarget_exporter::kind::mediasoup::{Addresses, Compatibility, Options, PerObject, StatsSource, families};
use scrapetarget_exporter::kind::{Answer, CallError, CallOptions as _, Context, Kind, Reason, Response};
use scrapetarget_exporter::metric::{Families, Filter, Finished, Format, encode, read_exposition};
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Case {
    options: Options,
    polls: Vec<String>,
    #[serde(default = "usual_limit")]
    sample_limit: usize,
}

fn usual_limit() -> usize {
    10_000
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/mediasoup")
}

fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(fixtures().join("answers").join(name)).unwrap()
}

fn build(options: &Options) -> Box<dyn Kind> {
    options.build(&"http://target:9851/".parse().unwrap())
}

fn answer(status: u16, body: impl Into<Bytes>) -> Answer {
    Answer(Ok(Response { status, content_type: None, body: body.into() }))
}

fn poll(kind: &mut dyn Kind, answer: Answer, sample_limit: usize) -> (Finished, Result<(), CallError>) {
    let mut out = Families::default();
    let cx = Context { now: 1_795_222_500.0, sample_limit };
    let mut reports = kind.translate(&[answer], &cx, &mut out);
    assert_eq!(reports.len(), kind.calls(None).len());
    (out.finish(), reports.remove(0))
}

fn text(finished: &Finished, format: Format) -> String {
    let mut text = Vec::new();
    encode(&[finished], format, &mut text);
    String::from_utf8(text).unwrap()
}

/// Reads what was written, in both formats, and says how many samples there are.
fn assert_well_formed(finished: &Finished) {
    for format in [Format::Text, Format::OpenMetrics] {
        let text = text(finished, format);
        let mut out = Families::default();
        read_exposition(&text, &Everything, usize::MAX, &mut out).unwrap_or_else(|error| panic!("{error}:\n{text}"));
        let read = out.finish();
        assert_eq!((read.len(), read.skipped()), (finished.len(), 0), "{text}");
    }
}

#[test]
fn every_case_gives_the_text_that_was_read_and_found_right() {
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let hash = Regex::new(r#"="[0-9a-f]{16}:"#).unwrap();
    let mut cases = 0;
    for folder in std::fs::read_dir(fixtures()).unwrap().map(|entry| entry.unwrap().path()) {
        let Ok(case) = std::fs::read(folder.join("case.json")) else { continue };
        let case: Case = serde_json::from_slice(&case).unwrap_or_else(|error| panic!("{folder:?}: {error}"));
        let mut kind = build(&case.options);
        cases += 1;
        for (number, name) in (1..).zip(&case.polls) {
            let (finished, report) = poll(&mut *kind, answer(200, fixture(name)), case.sample_limit);
            assert_well_formed(&finished);
            let mut actual = text(&finished, Format::Text);
            writeln!(actual, "# samples: {}", finished.len()).unwrap();
            writeln!(actual, "# skipped: {}", finished.skipped()).unwrap();
            writeln!(actual, "# dropped: {}", finished.dropped()).unwrap();
            if let Err(error) = report {
                writeln!(actual, "# {}: {error}", error.reason.as_str()).unwrap();
            }
            let actual = hash.replace_all(&actual, "=\"HASH:").into_owned();
            let file = folder.join(format!("poll-{number}.metrics"));
            if update {
                std::fs::write(&file, actual).unwrap();
            } else {
                let expected = std::fs::read_to_string(&file).unwrap_or_default();
                assert!(expected == actual, "{} differs; the text now:\n{actual}", file.display());
            }
        }
    }
    assert!(cases > 20, "found only {cases}");
}

/// The value of the one series that begins with `series`.
fn value(finished: &Finished, series: &str) -> Option<f64> {
    let found: Vec<f64> = finished
        .samples()
        .filter(|(name, labels, _)| format!("{name}{{{labels}}}").starts_with(series))
        .map(|(_, _, value)| value)
        .collect();
    assert!(found.len() <= 1, "{series} is not one series");
    found.first().copied()
}

fn agent_error(body: impl Into<Bytes>) -> CallError {
    let (finished, report) = poll(&mut *build(&Options::default()), answer(200, body), 10_000);
    let left: Vec<_> = finished.samples().map(|(name, _, value)| (name, value)).collect();
    assert_eq!(left, [("mediasoup_up".to_owned(), 0.0)]);
    report.unwrap_err()
}

#[test]
fn a_document_of_another_schema_is_refused_in_words_that_help() {
    for (body, reason, words) in [
        (r#"{"schema": "mediasoup-stats/v2", "workers": []}"#, Reason::Schema, "\"mediasoup-stats/v2\""),
        (
            r#"{"schema": "mediasoup-stats/v1.1", "mediasoup_version": "3.27.1"}"#,
            Reason::Schema,
            "mediasoup-stats/v1.1",
        ),
        (r#"{"workers": []}"#, Reason::Schema, "no schema"),
        (r#"{"schema": ["mediasoup-stats/v1"]}"#, Reason::Schema, "no schema"),
        (r#"{"schema": "mediasoup-stats/v1"}"#, Reason::Schema, "mediasoup_version"),
        ("[]", Reason::Schema, "schema"),
        ("7", Reason::Schema, "shape"),
        ("<!DOCTYPE html><html></html>", Reason::Parse, "HTML"),
        ("", Reason::Parse, "empty"),
        (r#"{"schema": "mediasoup-stats/v1", "#, Reason::Parse, "ends too early"),
    ] {
        let error = agent_error(body);
        assert_eq!(error.reason, reason, "{body}: {error}");
        assert!(error.message.contains(words), "{body}: {error}");
    }
    let deep = format!("{{\"workers\": {}{}}}", "[".repeat(10_000), "]".repeat(10_000));
    assert_eq!(agent_error(deep).reason, Reason::Schema);
}

#[test]
fn a_status_that_is_no_success_says_so() {
    let mut kind = build(&Options::default());
    for (status, reason) in [(401, Reason::Auth), (503, Reason::HttpStatus), (302, Reason::HttpStatus)] {
        assert_eq!(poll(&mut *kind, answer(status, fixture("3.8.4-webrtc.json")), 100).1.unwrap_err().reason, reason);
    }
}

#[test]
fn a_page_for_people_is_no_exposition() {
    let mut kind = build(&Options { source: StatsSource::Prometheus, ..Options::default() });
    for body in ["<html></html>", "", "Cannot GET /", "{\"error\": 1}"] {
        let (finished, report) = poll(&mut *kind, answer(200, body), 100);
        assert_eq!(report.unwrap_err().reason, Reason::Parse, "{body}");
        assert_eq!(value(&finished, "mediasoup_up{"), Some(0.0));
    }
}

#[test]
fn too_many_foreign_samples_are_an_error_of_the_limit_and_leave_nothing() {
    let mut kind = build(&Options { source: StatsSource::Prometheus, ..Options::default() });
    let (finished, report) = poll(&mut *kind, answer(200, fixture("edumeet.txt")), 7);
    assert_eq!(report.unwrap_err().reason, Reason::Limit);
    assert_eq!(finished.len(), 1);
    let (finished, report) = poll(&mut *kind, answer(200, fixture("edumeet.txt")), 8);
    assert_eq!((report, finished.len()), (Ok(()), 8));
}

#[test]
fn a_document_whose_counts_alone_exceed_the_limit_is_an_error_of_the_limit() {
    let (finished, report) = poll(&mut *build(&Options::default()), answer(200, fixture("3.8.4-webrtc.json")), 50);
    assert_eq!(report.unwrap_err().reason, Reason::Limit);
    assert_eq!(finished.len(), 1);
}

#[test]
fn detail_is_shed_consumers_first_and_never_more_than_needed() {
    let options = Options {
        per_object: vec![PerObject::Consumers, PerObject::Producers, PerObject::Transports],
        compatibility: Some(Compatibility { prefix: "edumeet".to_owned(), aggregated: false }),
        ..Options::default()
    };
    let document = fixture("3.27.1-webrtc.json");
    let whole = poll(&mut *build(&options), answer(200, document.clone()), 10_000).0;
    let mut shown_before = 0;
    for limit in 180..=whole.len() {
        let (finished, report) = poll(&mut *build(&options), answer(200, document.clone()), limit);
        if report.is_err() {
            continue;
        }
        assert!(finished.len() <= limit);
        assert_eq!(finished.len() + usize::try_from(finished.dropped()).unwrap(), whole.len());
        assert!(finished.len() >= shown_before, "a higher limit showed less");
        shown_before = finished.len();
        let has = |prefix: &str| finished.samples().any(|(name, ..)| name.starts_with(prefix));
        let kept = [
            has("mediasoup_transport_available"),
            has("mediasoup_producer_stream"),
            has("mediasoup_producer_byte_count"),
            has("mediasoup_consumer_stream"),
        ];
        assert!(kept.is_sorted_by(|a, b| a >= b), "{limit}: {kept:?}");
    }
    assert_eq!(shown_before, whole.len());
}

#[test]
fn an_exporter_that_starts_begins_its_totals_at_zero() {
    let (finished, _) = poll(&mut *build(&Options::default()), answer(200, fixture("3.27.1-webrtc.json")), 10_000);
    let totals: Vec<_> = finished
        .samples()
        .filter(|(name, ..)| {
            ["mediasoup_producers_", "mediasoup_consumers_", "mediasoup_transport_"].iter().any(|p| name.starts_with(p))
                && name.ends_with("_total")
        })
        .collect();
    assert!(totals.len() > 40);
    assert!(totals.iter().all(|(.., value)| *value == 0.0), "{totals:?}");
}

#[test]
fn totals_survive_polls_that_failed() {
    let mut kind = build(&Options::default());
    let series = "mediasoup_producers_received_bytes_total{";
    poll(&mut *kind, answer(200, fixture("closing-1.json")), 10_000).1.unwrap();
    let (down, _) = poll(&mut *kind, answer(503, "busy"), 10_000);
    assert_eq!(value(&down, series), None);
    let (up, _) = poll(&mut *kind, answer(200, fixture("closing-2.json")), 10_000);
    assert_eq!(value(&up, series), Some(450.0));
}

#[test]
fn an_absurd_counter_does_not_spoil_its_total() {
    let mut kind = build(&Options::default());
    let series = "mediasoup_producers_received_bytes_total{";
    let absurd = String::from_utf8(fixture("closing-1.json")).unwrap();
    let absurd = absurd.replacen("\"byteCount\": 900", "\"byteCount\": 18446744073709551615", 1);
    poll(&mut *kind, answer(200, fixture("closing-1.json")), 10_000).1.unwrap();
    let (during, _) = poll(&mut *kind, answer(200, absurd), 10_000);
    assert_eq!((value(&during, series), during.skipped()), (Some(0.0), 1));
    let (after, _) = poll(&mut *kind, answer(200, fixture("closing-2.json")), 10_000);
    assert_eq!(value(&after, series), Some(450.0));
}

#[test]
fn a_codec_has_one_name_however_its_client_writes_it() {
    let mixed = String::from_utf8(fixture("closing-1.json")).unwrap().replacen("video/VP8", "Video/vp8", 1);
    let (usual, _) = poll(&mut *build(&Options::default()), answer(200, fixture("closing-1.json")), 10_000);
    let (finished, _) = poll(&mut *build(&Options::default()), answer(200, mixed), 10_000);
    assert_eq!(text(&finished, Format::Text), text(&usual, Format::Text));
}

#[test]
fn statistics_that_fail_for_a_moment_are_not_counted_twice() {
    let mut kind = build(&Options::default());
    let failed = String::from_utf8(fixture("closing-1.json")).unwrap().replace("\"streams\"", "\"not_this_time\"");
    let series = "mediasoup_producers_received_bytes_total{";
    poll(&mut *kind, answer(200, failed.clone()), 10_000).1.unwrap();
    let (first, _) = poll(&mut *kind, answer(200, fixture("closing-1.json")), 10_000);
    assert_eq!(value(&first, series), Some(0.0), "what was before the first poll does not count");
    poll(&mut *kind, answer(200, failed), 10_000).1.unwrap();
    let (again, _) = poll(&mut *kind, answer(200, fixture("closing-1.json")), 10_000);
    assert_eq!(value(&again, series), Some(0.0));
}

/// What an agent answers when it is asked for less: states of transports are known without the workers.
fn with_detail(name: &str, detail: &str) -> Vec<u8> {
    let mut document: serde_json::Value = serde_json::from_slice(&fixture(name)).unwrap();
    let everywhere = |list: &mut serde_json::Value,
                      change: &dyn Fn(&mut serde_json::Map<String, serde_json::Value>)| {
        list.as_array_mut().into_iter().flatten().for_each(|object| change(object.as_object_mut().unwrap()));
    };
    for worker in document["workers"].as_array_mut().unwrap() {
        for router in worker["routers"].as_array_mut().unwrap() {
            for transport in router["transports"].as_array_mut().unwrap() {
                if detail != "all" {
                    everywhere(&mut transport["consumers"], &|consumer| drop(consumer.remove("streams")));
                    everywhere(&mut transport["data_consumers"], &|consumer| drop(consumer.remove("stats")));
                }
                if detail == "counts" {
                    everywhere(&mut transport["producers"], &|producer| drop(producer.remove("streams")));
                    everywhere(&mut transport["data_producers"], &|producer| drop(producer.remove("stats")));
                    let stats = transport["stats"].as_object_mut().unwrap();
                    stats.retain(|key, _| ["iceState", "dtlsState", "sctpState"].contains(&key.as_str()));
                }
            }
        }
    }
    serde_json::to_vec(&document).unwrap()
}

/// The names of the families.
fn names(finished: &Finished) -> BTreeSet<String> {
    finished.samples().map(|(name, ..)| name).collect()
}

#[test]
fn what_an_agent_was_not_asked_for_is_absent_and_everything_else_stays() {
    let sent = Regex::new(
        "^mediasoup_(consumers_.*|consumer_(stream|byte_count|score).*|(audio|video)_(count|bitrates)_out.*|\
         (audio|video)_out_count|(spatial|temporal)_layers_out_.*|round_trip_times_out_.*)$",
    )
    .unwrap();
    let received = Regex::new(
        "^mediasoup_(transport_.*|producers_.*|producer_.*|(audio|video)_(in_count|(bitrates|scores)_in_.*)|packets_.*)$",
    )
    .unwrap();
    let shown = |body: Vec<u8>| {
        let (finished, report) = poll(&mut *build(&everything()), answer(200, body), 10_000);
        report.unwrap();
        assert_eq!(finished.skipped(), 0);
        names(&finished)
    };
    for document in ["3.27.1-webrtc.json", "3.8.4-webrtc.json"] {
        let all = shown(fixture(document));
        let without = |patterns: &[&Regex]| -> BTreeSet<String> {
            all.iter().filter(|name| !patterns.iter().any(|pattern| pattern.is_match(name))).cloned().collect()
        };
        assert!(without(&[&sent]).len() + 30 < all.len());
        assert_eq!(shown(with_detail(document, "producers")), without(&[&sent]), "{document}");
        assert_eq!(shown(with_detail(document, "counts")), without(&[&sent, &received]), "{document}");
    }
}

/// What an agent is asked for by a target that shows these families.
fn detail(options: &Options, filter: &Filter) -> String {
    let call = build(options).calls(Some(filter)).remove(0);
    call.url.query().unwrap().strip_prefix("detail=").unwrap().to_owned()
}

fn keeping(names: &[&str]) -> Filter {
    Filter::new(&names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>(), &[]).unwrap().unwrap()
}

#[test]
fn no_family_misses_anything_because_the_agent_was_asked_for_less() {
    let mut seen = BTreeSet::new();
    // Compatibility alone asks for more than the least.
    for options in [everything(), Options { compatibility: None, ..everything() }] {
        for name in families().iter().map(|desc| desc.name) {
            let shown = |body: Vec<u8>| {
                let mut out = Families::filtered(Some(Arc::new(keeping(&[name]))));
                let cx = Context { now: 1_795_222_500.0, sample_limit: 10_000 };
                build(&options).translate(&[answer(200, body)], &cx, &mut out).remove(0).unwrap();
                text(&out.finish(), Format::Text)
            };
            let detail = detail(&options, &keeping(&[name]));
            let document = "3.27.1-webrtc.json";
            assert_eq!(shown(with_detail(document, &detail)), shown(fixture(document)), "{name} of {detail}");
            seen.insert(detail);
        }
    }
    assert_eq!(seen, ["all", "counts", "producers"].map(ToOwned::to_owned).into());
}

#[test]
fn an_agent_is_not_asked_for_what_is_not_shown() {
    let dropping = |patterns: &[&str]| {
        Filter::new(&[], &patterns.iter().map(|pattern| (*pattern).to_owned()).collect::<Vec<_>>()).unwrap().unwrap()
    };
    let of = |objects: &[PerObject]| Options { per_object: objects.to_vec(), ..Options::default() };
    for (options, filter, expected) in [
        (of(&[PerObject::Producers]), dropping(&["sora_.*"]), "all"),
        (of(&[PerObject::Producers]), dropping(&["mediasoup_consumers_.*"]), "producers"),
        (of(&[PerObject::Consumers]), dropping(&["mediasoup_consumers_.*"]), "all"),
        (of(&[PerObject::Consumers]), dropping(&["mediasoup_consumers?_.*"]), "producers"),
        (of(&[]), keeping(&["mediasoup_up", "mediasoup_workers", "mediasoup_consumers"]), "counts"),
        (of(&[PerObject::Transports]), keeping(&["mediasoup_transport_rtp_loss_ratio"]), "producers"),
        (of(&[]), keeping(&["mediasoup_transport_rtp_loss_ratio"]), "counts"),
        (everything(), dropping(&["mediasoup_consumers?_.*"]), "all"),
        (
            everything(),
            dropping(&["mediasoup_consumers?_.*", ".*_out_.*", ".*_in_.*", "mediasoup_(workers_.*|rooms|peers)"]),
            "producers",
        ),
    ] {
        assert_eq!(detail(&options, &filter), expected, "{options:?} {filter:?}");
    }
}

#[test]
fn peers_that_nobody_can_tell_apart_are_absent_and_not_none() {
    let document = String::from_utf8(fixture("3.27.1-webrtc.json")).unwrap();
    let without_ids = document.replace("\"peerId\"", "\"name\"");
    let without_both = without_ids.replace("\"remoteIp\"", "\"withheld\"");
    for (document, peers) in [(document, Some(2.0)), (without_ids, Some(1.0)), (without_both, None)] {
        let (finished, _) = poll(&mut *build(&everything()), answer(200, document), 10_000);
        assert_eq!(value(&finished, "edumeet_peers{room_id=\"room-42\"}"), peers);
        assert_eq!(value(&finished, "mediasoup_peers"), peers);
        assert_eq!(value(&finished, "edumeet_rooms"), Some(1.0));
    }
}

#[test]
fn without_any_object_of_a_sort_nothing_is_missing() {
    let empty =
        r#"{"schema": "mediasoup-stats/v1", "mediasoup_version": "3.27.1", "timestamp_ms": 2000000, "workers": []}"#;
    let mut kind = build(&Options::default());
    poll(&mut *kind, answer(200, fixture("closing-1.json")), 10_000).1.unwrap();
    let (before, _) = poll(&mut *kind, answer(200, fixture("closing-2.json")), 10_000);
    let (after, _) = poll(&mut *kind, answer(200, empty), 10_000);
    for series in [
        "mediasoup_producers_received_bytes_total{",
        "mediasoup_consumers_sent_bytes_total{",
        "mediasoup_transport_bytes_total{type=\"webrtc\",direction=\"received\",payload=\"all\"",
    ] {
        assert!(value(&before, series).is_some(), "{series}");
        assert_eq!(value(&after, series), value(&before, series), "{series}");
    }
}

#[test]
fn totals_neither_fall_nor_jump_when_the_detail_changes() {
    let totals = |finished: &Finished| -> BTreeMap<String, f64> {
        finished
            .samples()
            .filter(|(name, ..)| {
                ["mediasoup_producers_", "mediasoup_consumers_", "mediasoup_transport_"]
                    .iter()
                    .any(|p| name.starts_with(p))
                    && name.ends_with("_total")
            })
            .map(|(name, labels, value)| (format!("{name}{{{labels}}}"), value))
            .collect()
    };
    for (detail, missing) in [("producers", 1), ("counts", 1), ("producers", 9), ("counts", 9)] {
        let mut steady = build(&Options::default());
        let mut kind = build(&Options::default());
        let mut expected = BTreeMap::new();
        for document in ["closing-1.json", "closing-2.json"] {
            expected = totals(&poll(&mut *steady, answer(200, fixture(document)), 10_000).0);
            assert_eq!(totals(&poll(&mut *kind, answer(200, fixture(document)), 10_000).0), expected);
        }
        assert!(expected.values().any(|value| *value > 0.0));
        for _ in 0..missing {
            let less = totals(&poll(&mut *kind, answer(200, with_detail("closing-2.json", detail)), 10_000).0);
            assert!(less.iter().all(|(series, value)| expected[series] == *value), "{detail}");
            assert!(less.keys().all(|series| !series.starts_with("mediasoup_consumers")), "{detail}");
            assert_eq!(less.is_empty(), detail == "counts");
        }
        let again = totals(&poll(&mut *kind, answer(200, fixture("closing-2.json")), 10_000).0);
        assert_eq!(again, expected, "{detail} {missing} times");
        // An exporter that first saw little begins at 0 with what it sees later.
        let mut late = build(&Options::default());
        poll(&mut *late, answer(200, with_detail("closing-1.json", detail)), 10_000).1.unwrap();
        let first = totals(&poll(&mut *late, answer(200, fixture("closing-1.json")), 10_000).0);
        assert_eq!(first.values().copied().fold(0.0, f64::max), 0.0, "{detail}");
    }
}

#[test]
fn errors_are_counted_by_the_objects_that_an_agent_knows_and_the_rest_together() {
    let errors = ["rooms", "worker", "worker", "consumer", "made-up", "also made up", ""]
        .map(|object| format!(r#"{{"object": "{object}", "id": "1", "error": "DeadlineExceeded", "message": "m"}}"#));
    let document = format!(
        r#"{{"schema": "mediasoup-stats/v1", "mediasoup_version": "3.27.1", "workers": [], "errors": [{}]}}"#,
        errors.join(",")
    );
    let (finished, report) = poll(&mut *build(&Options::default()), answer(200, document), 10_000);
    report.unwrap();
    let errors: Vec<_> = finished
        .samples()
        .filter(|(name, ..)| name == "mediasoup_snapshot_object_errors")
        .map(|(_, labels, value)| (labels, value))
        .filter(|(_, value)| *value > 0.0)
        .collect();
    let expected = [
        ("object=\"worker\"", 2.0),
        ("object=\"consumer\"", 1.0),
        ("object=\"rooms\"", 1.0),
        ("object=\"other\"", 3.0),
    ];
    assert_eq!(errors, expected);
}

#[test]
fn every_family_that_an_agent_can_have_is_documented_once_and_as_it_is() {
    let known = families();
    let mut names: Vec<_> = known.iter().map(|desc| desc.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), known.len());
    assert_eq!(known.iter().filter(|desc| desc.help.is_empty() || !desc.help.contains(['.', ';'])).count(), 0);
    let options = Options {
        per_object: vec![PerObject::Producers, PerObject::Consumers, PerObject::Transports],
        room_labels: true,
        compatibility: Some(Compatibility { prefix: "edumeet".to_owned(), aggregated: true }),
        ..Options::default()
    };
    let mut seen: Vec<String> = Vec::new();
    for documents in [
        ["3.27.1-mixed.json"; 2],
        ["3.27.1-webrtc.json", "3.27.1-webrtc-later.json"],
        ["3.8.4-webrtc.json", "rooms.json"],
        ["rooms.json", "3.13.0.json"],
    ] {
        let mut kind = build(&options);
        for document in documents {
            let (finished, report) = poll(&mut *kind, answer(200, fixture(document)), 10_000);
            report.unwrap();
            for (name, labels, _) in finished.samples() {
                let desc =
                    known.iter().find(|desc| desc.name == name).unwrap_or_else(|| panic!("{name} is not documented"));
                assert!(desc.labels.iter().all(|label| labels.contains(&format!("{label}=\""))), "{name}{{{labels}}}");
                seen.push(name);
            }
        }
    }
    let never: Vec<_> = names.iter().filter(|name| !seen.iter().any(|seen| seen == *name)).collect();
    assert!(never.is_empty(), "no test ever saw {never:?}");
}

#[test]
fn a_compatibility_prefix_of_our_own_breaks_nothing() {
    for prefix in ["mediasoup", "probe", "_"] {
        let compatibility = Some(Compatibility { prefix: prefix.to_owned(), aggregated: true });
        let mut kind = build(&Options { compatibility, ..Options::default() });
        assert_well_formed(&poll(&mut *kind, answer(200, fixture("rooms.json")), 10_000).0);
    }
}

#[test]
fn the_options_read_as_the_contract_writes_them() {
    let options: Options = serde_json::from_str("{}").unwrap();
    assert_eq!(options, Options::default());
    let options: Options = serde_json::from_str(
        r#"{"source": "Agent", "perObject": ["Producers"], "roomLabels": false, "addresses": "Drop",
            "compatibility": {"prefix": "edumeet", "aggregated": false}}"#,
    )
    .unwrap();
    let compatibility = Some(Compatibility { prefix: "edumeet".to_owned(), aggregated: false });
    assert_eq!(options, Options { compatibility, ..Options::default() });
    let call = build(&options).calls(None).remove(0);
    assert_eq!((call.name, call.url.as_str()), ("stats", "http://target:9851/stats?detail=all"));
    let options = Options { source: StatsSource::Prometheus, ..options };
    let call = options.build(&"http://edumeet:8889/?a=b".parse().unwrap()).calls(None).remove(0);
    assert_eq!((call.name, call.url.as_str()), ("metrics", "http://edumeet:8889/?a=b"));
}

fn everything() -> Options {
    Options {
        source: StatsSource::Agent,
        per_object: vec![PerObject::Producers, PerObject::Consumers, PerObject::Transports],
        room_labels: true,
        addresses: Addresses::Deidentify,
        compatibility: Some(Compatibility { prefix: "edumeet".to_owned(), aggregated: true }),
    }
}

/// Any JSON value, names of the schema among its keys.
fn json() -> impl Strategy<Value = serde_json::Value> {
    let scalar = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<f64>().prop_map(|number| serde_json::Number::from_f64(number).into()),
        "\\PC{0,12}".prop_map(Into::into),
    ];
    let key = prop::sample::select(vec![
        "schema",
        "mediasoup_version",
        "timestamp_ms",
        "lifetime",
        "rooms",
        "workers",
        "errors",
        "pid",
        "id",
        "app",
        "roomId",
        "peerId",
        "resource_usage",
        "routers",
        "transports",
        "type",
        "stats",
        "producers",
        "consumers",
        "kind",
        "codec",
        "streams",
        "score",
        "ssrc",
        "byteCount",
        "packetsLost",
        "iceState",
        "iceSelectedTuple",
        "remoteIp",
        "current_layers",
        "clock_rate",
        "jitter",
        "created_ms",
    ]);
    scalar.prop_recursive(8, 64, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
            prop::collection::btree_map(key.clone().prop_map(str::to_owned), inner, 0..6)
                .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
        ]
    })
}

/// Puts `value` somewhere into a document.
fn mutate(document: &mut serde_json::Value, mut path: Vec<prop::sample::Index>, value: serde_json::Value) {
    let Some(step) = path.pop() else {
        *document = value;
        return;
    };
    match document {
        serde_json::Value::Array(items) if !items.is_empty() => {
            let at = step.index(items.len());
            mutate(&mut items[at], path, value);
        }
        serde_json::Value::Object(map) if !map.is_empty() => {
            let at = step.index(map.len());
            let key = map.keys().nth(at).unwrap().clone();
            mutate(&mut map[&key], path, value);
        }
        other => *other = value,
    }
}

proptest! {
    #[test]
    fn a_document_that_was_tampered_with_never_breaks_the_exposition(
        changes in prop::collection::vec((prop::collection::vec(any::<prop::sample::Index>(), 3..14), json()), 1..6),
        limit in prop_oneof![Just(10_000_usize), 0..400_usize],
    ) {
        let mut document: serde_json::Value = serde_json::from_slice(&fixture("3.27.1-webrtc.json")).unwrap();
        let mut kind = build(&everything());
        let _ = poll(&mut *kind, answer(200, document.to_string()), limit);
        for (path, change) in changes {
            mutate(&mut document, path, change);
            let (finished, report) = poll(&mut *kind, answer(200, document.to_string()), limit);
            assert_well_formed(&finished);
            prop_assert!(finished.len() <= limit.max(1));
            prop_assert_eq!(value(&finished, "mediasoup_up{"), Some(f64::from(u8::from(report.is_ok()))));
        }
    }

    #[test]
    fn any_bytes_give_an_exposition(bytes in prop::collection::vec(any::<u8>(), 0..200), cut in any::<prop::sample::Index>()) {
        let mut edumeet = fixture("edumeet.txt");
        let at = cut.index(edumeet.len());
        edumeet.splice(at..at, bytes.clone());
        for addresses in [Addresses::Drop, Addresses::Deidentify, Addresses::Hash, Addresses::Plain] {
            let options = Options { source: StatsSource::Prometheus, addresses, ..Options::default() };
            assert_well_formed(&poll(&mut *build(&options), answer(200, edumeet.clone()), 100).0);
            assert_well_formed(&poll(&mut *build(&options), answer(200, bytes.clone()), 100).0);
        }
        assert_well_formed(&poll(&mut *build(&everything()), answer(200, bytes), 100).0);
    }

    #[test]
    fn totals_never_fall_whatever_the_streams_do(
        polls in prop::collection::vec(prop::collection::vec((0..4_u8, 0..1000_u32, -5..50_i32), 0..4), 1..8),
    ) {
        let mut kind = build(&Options::default());
        let mut before: BTreeMap<String, f64> = BTreeMap::new();
        for (at, streams) in polls.iter().enumerate() {
            let streams: Vec<String> = streams
                .iter()
                .map(|(ssrc, bytes, lost)| format!(r#"{{"type": "inbound-rtp", "ssrc": {ssrc}, "byteCount": {bytes}, "packetsLost": {lost}}}"#))
                .collect();
            let document = format!(
                r#"{{"schema": "mediasoup-stats/v1", "mediasoup_version": "3.27.1", "timestamp_ms": {}, "workers": [{{"pid": 1, "routers": [
                    {{"id": "r", "transports": [{{"id": "t", "type": "webrtc", "stats": {{}}, "producers": [
                        {{"id": "p", "kind": "video", "codec": "video/VP8", "streams": [{}]}}]}}]}}]}}]}}"#,
                1000 * at, streams.join(",")
            );
            let (finished, _) = poll(&mut *kind, answer(200, document), 10_000);
            for (name, labels, value) in finished.samples().filter(|(name, ..)| name.starts_with("mediasoup_producers_") && name.ends_with("_total")) {
                let last = before.insert(format!("{name}{labels}"), value);
                prop_assert!(value >= last.unwrap_or(0.0), "{} fell", name);
                prop_assert!(at > 0 || value == 0.0);
            }
        }
    }
}
