//! Orion over several polls, with calls that fail, and with answers that nobody foresaw.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use reqwest::Url;
use scrapetarget_exporter::kind::orion::{Level, Options};
use scrapetarget_exporter::kind::{Answer, CallError, CallOptions as _, Context, Kind, Method, Reason, Response};
use scrapetarget_exporter::metric::{Families, Finished};
use serde_json::json;
use simulators::orion::Broker;
use tower::ServiceExt;

const TIME: &str = "orion_service_time_seconds_total";

fn url() -> Url {
    Url::parse("http://orion:1026/").unwrap()
}

/// Only /admin/metrics.
fn traffic_only() -> Options {
    Options { statistics: false, cache_statistics: false, version: false, ..Options::default() }
}

fn ok(body: impl Into<String>) -> Answer {
    status(200, body)
}

fn status(status: u16, body: impl Into<String>) -> Answer {
    Answer(Ok(Response { status, content_type: None, body: body.into().into() }))
}

fn refused() -> Answer {
    Answer(Err(CallError::new(Reason::Connect, "connection refused")))
}

fn poll_within(kind: &mut dyn Kind, limit: usize, answers: &[Answer]) -> (Vec<Result<(), CallError>>, Finished) {
    let mut out = Families::default();
    let results = kind.translate(answers, &Context { now: 0.0, sample_limit: limit }, &mut out);
    (results, out.finish())
}

/// Every sample by its name and labels.
fn poll(kind: &mut dyn Kind, answers: &[Answer]) -> BTreeMap<String, f64> {
    samples(&poll_within(kind, 10_000, answers).1)
}

fn samples(finished: &Finished) -> BTreeMap<String, f64> {
    finished.samples().map(|(name, labels, value)| (format!("{name}{{{labels}}}"), value)).collect()
}

/// A tree of one service with these subservices: name, incomingTransactions, serviceTime.
fn tree(subservices: &[(&str, f64, Option<f64>)]) -> Answer {
    let block = |transactions: f64, mean: Option<f64>| {
        let mut block = json!({ "incomingTransactions": transactions });
        if let Some(mean) = mean {
            block["serviceTime"] = json!(mean);
        }
        block
    };
    let subservs: serde_json::Map<_, _> =
        subservices.iter().map(|(name, n, mean)| ((*name).to_owned(), block(*n, *mean))).collect();
    let n: f64 = subservices.iter().map(|(_, n, _)| n).sum();
    let seconds: f64 = subservices.iter().map(|(_, n, mean)| n * mean.unwrap_or(0.0)).sum();
    let sum = block(n, Some(seconds / n));
    ok(json!({ "services": { "s": { "subservs": subservs, "sum": sum } }, "sum": { "subservs": {}, "sum": sum } })
        .to_string())
}

fn time_of(samples: &BTreeMap<String, f64>, subservice: &str) -> Option<f64> {
    samples.get(&format!("{TIME}{{service=\"s\",subservice=\"/{subservice}\"}}")).copied()
}

#[test]
fn calls_are_appended_to_the_path_with_or_without_its_slash() {
    for base in ["http://h/base", "http://h/base/"] {
        let calls = Options::default().build(&Url::parse(base).unwrap()).calls(None);
        let urls: Vec<_> = calls.iter().map(|call| (call.name, call.url.as_str())).collect();
        assert_eq!(
            urls,
            [
                ("admin_metrics", "http://h/base/admin/metrics"),
                ("statistics", "http://h/base/statistics"),
                ("cache_statistics", "http://h/base/cache/statistics"),
                ("version", "http://h/base/version"),
            ]
        );
    }
    assert_eq!(Options::default().build(&url()).calls(None)[0].url.as_str(), "http://orion:1026/admin/metrics");
    let doubled = Url::parse("http://h//gardens").unwrap();
    let calls = Options::default().build(&doubled).calls(None);
    assert_eq!(calls[0].url.as_str(), "http://h//gardens/admin/metrics", "a path is the server's own affair");
}

#[test]
fn a_subservice_has_one_slash_whether_its_server_writes_it_or_not() {
    let mut kind = traffic_only().build(&url());
    let first = [("/gardens", 4.0, Some(0.5)), ("parks/north", 4.0, Some(0.5)), ("root-subserv", 2.0, Some(0.5))];
    poll(&mut *kind, &[tree(&first)]);
    let then = [("/gardens", 8.0, Some(0.5)), ("parks/north", 4.0, Some(0.5)), ("root-subserv", 2.0, Some(0.5))];
    let samples = poll(&mut *kind, &[tree(&then)]);
    assert_eq!(time_of(&samples, "gardens"), Some(2.0), "{samples:?}");
    assert!(time_of(&samples, "parks/north").is_some() && time_of(&samples, "").is_some(), "{samples:?}");
    assert!(!samples.keys().any(|series| series.contains("//")), "{samples:?}");
}

#[test]
fn every_call_is_a_get_with_exactly_the_three_headers_that_orion_wants() {
    let options = Options { fiware_service: "watcher".to_owned(), ..Options::default() };
    for call in options.build(&url()).calls(None) {
        assert_eq!(call.method, Method::Get);
        let headers: Vec<_> = call.headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        assert_eq!(
            headers,
            [("accept", "application/json"), ("fiware-service", "watcher"), ("fiware-servicepath", "/")]
        );
        assert_eq!(call.url.query(), None, "a reset would take the numbers from others");
    }
}

#[test]
fn every_call_but_the_primary_one_can_be_switched_off() {
    let names = |options: Options| options.build(&url()).calls(None).iter().map(|call| call.name).collect::<Vec<_>>();
    assert_eq!(names(traffic_only()), ["admin_metrics"]);
    assert_eq!(
        names(Options { cache_statistics: false, ..Options::default() }),
        ["admin_metrics", "statistics", "version"]
    );
}

#[test]
fn the_time_spent_begins_at_0_and_follows_the_broker() {
    let mut kind = traffic_only().build(&url());
    let first = poll(&mut *kind, &[tree(&[("a", 1_000_000.0, Some(0.5))])]);
    assert_eq!(time_of(&first, "a"), Some(0.0));
    let second = poll(&mut *kind, &[tree(&[("a", 1_000_004.0, Some(0.5))])]);
    assert_eq!(time_of(&second, "a"), Some(2.0));
}

#[test]
fn the_time_spent_never_falls_by_the_noise_of_32_bit_means() {
    let mut kind = traffic_only().build(&url());
    let (mut seconds, mut last, mut falls) = (5_000.0_f64, 0.0, 0);
    let mut raw = seconds;
    for step in 0..2_000_u32 {
        let transactions = 1_000_000.0 + f64::from(step);
        seconds += 0.000_1;
        #[expect(clippy::cast_possible_truncation, reason = "as the broker does")]
        let mean = (f64::from((seconds / transactions) as f32) * 1e9).round() / 1e9;
        falls += u32::from(mean * transactions < raw);
        raw = mean * transactions;
        let value = time_of(&poll(&mut *kind, &[tree(&[("a", transactions, Some(mean))])]), "a").unwrap();
        assert!(value >= last, "fell from {last} to {value}");
        last = value;
    }
    assert!(falls > 100, "the test has lost its noise");
    assert!((last - 0.2).abs() < 0.003, "{last} is not what was spent");
}

#[test]
fn a_reset_of_the_broker_adds_what_came_after_it() {
    let mut kind = traffic_only().build(&url());
    poll(&mut *kind, &[tree(&[("a", 100.0, Some(0.5))])]);
    poll(&mut *kind, &[tree(&[("a", 120.0, Some(0.5))])]);
    let after = poll(&mut *kind, &[tree(&[("a", 4.0, Some(0.25))])]);
    assert_eq!(time_of(&after, "a"), Some(11.0));
}

#[test]
fn a_subservice_that_vanishes_is_gone_at_once_and_forgotten() {
    let mut kind = traffic_only().build(&url());
    poll(&mut *kind, &[tree(&[("a", 100.0, Some(0.5)), ("b", 10.0, Some(0.5))])]);
    let without = poll(&mut *kind, &[tree(&[("b", 10.0, Some(0.5))])]);
    assert!(without.keys().all(|series| !series.contains("subservice=\"/a\"")), "{without:?}");
    let back = poll(&mut *kind, &[tree(&[("a", 2.0, Some(0.25)), ("b", 10.0, Some(0.5))])]);
    assert_eq!(time_of(&back, "a"), Some(0.5), "all of it was spent since it vanished");
    assert_eq!(time_of(&back, "b"), Some(0.0));
}

#[test]
fn transactions_without_their_time_keep_the_last_value() {
    let mut kind = traffic_only().build(&url());
    poll(&mut *kind, &[tree(&[("a", 100.0, Some(0.5))])]);
    poll(&mut *kind, &[tree(&[("a", 102.0, Some(0.5))])]);
    let race = poll(&mut *kind, &[tree(&[("a", 103.0, None)])]);
    assert_eq!(time_of(&race, "a"), Some(1.0));
    assert!(!race.keys().any(|series| series.starts_with("orion_service_time_average_seconds")));
}

#[test]
fn a_failed_poll_leaves_only_up_and_what_was_spent_meanwhile_is_added_later() {
    let mut kind = traffic_only().build(&url());
    poll(&mut *kind, &[tree(&[("a", 100.0, Some(0.5))])]);
    let failed = poll(&mut *kind, &[refused()]);
    assert_eq!(failed, BTreeMap::from([("orion_up{}".to_owned(), 0.0)]));
    let after = poll(&mut *kind, &[tree(&[("a", 106.0, Some(0.5))])]);
    assert_eq!(time_of(&after, "a"), Some(3.0));
}

#[test]
fn a_first_poll_that_fails_is_no_first_poll() {
    let mut kind = traffic_only().build(&url());
    poll(&mut *kind, &[refused()]);
    assert_eq!(time_of(&poll(&mut *kind, &[tree(&[("a", 100.0, Some(0.5))])]), "a"), Some(0.0));
}

#[test]
fn what_a_broker_counts_after_its_metrics_were_off_is_all_new() {
    let off = status(400, r#"{"error":"BadRequest","description":"metrics desactivated"}"#);
    let mut kind = traffic_only().build(&url());
    poll(&mut *kind, &[tree(&[("a", 100.0, Some(0.5))])]);
    let (results, finished) = poll_within(&mut *kind, 10_000, &[off]);
    assert_eq!(results, [Ok(())], "the broker is up and has nothing to tell");
    let wanted = [("orion_metrics_enabled{}".to_owned(), 0.0), ("orion_up{}".to_owned(), 1.0)];
    assert_eq!(samples(&finished), BTreeMap::from(wanted));
    assert_eq!(time_of(&poll(&mut *kind, &[tree(&[("a", 200.0, Some(0.5))])]), "a"), Some(100.0));
}

#[test]
fn times_are_not_mixed_up_when_the_sample_limit_changes_the_level() {
    let mut kind = traffic_only().build(&url());
    let few = || tree(&[("a", 100.0, Some(0.5))]);
    let many = |n: f64| tree(&[("a", n, Some(0.5)), ("b", n, Some(0.5)), ("c", n, Some(0.5))]);
    let limit = 15; // one row of ten, orion_up, orion_metrics_enabled
    assert_eq!(time_of(&samples(&poll_within(&mut *kind, limit, &[few()]).1), "a"), Some(0.0));
    for (n, time) in [(100.0, 0.0), (102.0, 3.0), (104.0, 6.0)] {
        let (_, finished) = poll_within(&mut *kind, limit, &[many(n)]);
        let samples = samples(&finished);
        assert_eq!(samples.get(&format!("{TIME}{{service=\"s\"}}")), Some(&time), "{samples:?}");
        assert_eq!(finished.dropped(), 20);
    }
    let back = samples(&poll_within(&mut *kind, limit, &[tree(&[("a", 200.0, Some(0.5))])]).1);
    assert_eq!(time_of(&back, "a"), Some(0.0), "a lifetime of 100 s would look like a burst");
}

#[test]
fn own_requests_are_in_no_level_unless_asked_for() {
    let document = r#"{"services":{
        "me":{"subservs":{"root-subserv":{"incomingTransactions":5,"serviceTime":0.5}},"sum":{"incomingTransactions":5,"serviceTime":0.5}},
        "s":{"subservs":{"a":{"incomingTransactions":20,"serviceTime":0.25}},"sum":{"incomingTransactions":20,"serviceTime":0.25}}},
        "sum":{"subservs":{},"sum":{"incomingTransactions":25,"serviceTime":0.3}}}"#;
    for level in [Level::Subservice, Level::Service, Level::Total] {
        for (include_own_traffic, wanted) in [(false, 20.0), (true, 25.0)] {
            let options = Options { level, include_own_traffic, fiware_service: "me".to_owned(), ..traffic_only() };
            let samples = poll(&mut *options.build(&url()), &[ok(document)]);
            let of =
                |name: &str| samples.iter().filter(|(series, _)| series.starts_with(name)).map(|(_, v)| v).sum::<f64>();
            assert!((of("orion_incoming_transactions_total") - wanted).abs() < 1e-9, "{level:?} {samples:?}");
        }
    }
    let options = Options { level: Level::Total, fiware_service: "me".to_owned(), ..traffic_only() };
    let mean = poll(&mut *options.build(&url()), &[ok(document)])["orion_service_time_average_seconds{}"];
    assert!((mean - 0.25).abs() < 1e-12, "{mean}");
}

#[test]
fn a_failed_call_removes_only_its_own_families() {
    let good = || {
        [
            tree(&[("a", 1.0, Some(0.5))]),
            ok(r#"{"semWait":{"request":0.5},"uptime_in_secs":9,"measuring_interval_in_secs":9}"#),
            ok(r#"{"refresh":1,"inserts":4,"removes":0,"updates":0,"items":4}"#),
            ok(r#"{"orion":{"version":"4.7.0","uptime":"0 d, 0 h, 0 m, 8 s"}}"#),
        ]
    };
    let whole = poll(&mut *Options::default().build(&url()), &good());
    let own = ["orion_incoming_", "orion_semaphore_", "orion_subscription_cache_", "orion_build_info"];
    for failing in 0..own.len() {
        let mut answers = good();
        answers[failing] = status(500, "");
        let mut kind = Options::default().build(&url());
        let (results, finished) = poll_within(&mut *kind, 10_000, &answers);
        for (i, result) in results.iter().enumerate() {
            assert_eq!(result.is_ok(), i != failing);
        }
        let left = samples(&finished);
        for (i, prefix) in own.iter().enumerate() {
            let count =
                |samples: &BTreeMap<String, f64>| samples.keys().filter(|name| name.starts_with(prefix)).count();
            assert_eq!(count(&left), if i == failing { 0 } else { count(&whole) }, "{prefix} without call {failing}");
        }
        let uptime = if failing == 1 { 8.0 } else { 9.0 };
        assert_eq!(left.get("orion_uptime_seconds{}"), Some(&uptime));
    }
}

#[test]
fn what_is_no_answer_of_orion_is_called_by_its_reason() {
    let cases = [
        (refused(), Reason::Connect),
        (status(401, ""), Reason::Auth),
        (status(302, ""), Reason::HttpStatus),
        (status(400, r#"{"error":"BadRequest","description":"something else"}"#), Reason::HttpStatus),
        (status(400, "<html>"), Reason::HttpStatus),
        (ok(""), Reason::Parse),
        (ok("<!DOCTYPE html><html></html>"), Reason::Parse),
        (ok(r#"{"services":{"#), Reason::Parse),
        (ok("[]"), Reason::Schema),
        (ok("null"), Reason::Schema),
        (ok("7"), Reason::Schema),
        (ok("{}"), Reason::Schema),
        (ok(r#"{"services":[]}"#), Reason::Schema),
        (ok(r#"{"error":"BadRequest","description":"metrics desactivated"}"#), Reason::Schema),
        (ok(format!("{}1{}", r#"{"x":"#.repeat(10_000), "}".repeat(10_000))), Reason::Schema),
    ];
    for (answer, reason) in cases {
        let (results, finished) =
            poll_within(&mut *traffic_only().build(&url()), 10_000, std::slice::from_ref(&answer));
        assert_eq!(results[0].as_ref().unwrap_err().reason, reason, "{answer:.200?}");
        assert_eq!(samples(&finished), BTreeMap::from([("orion_up{}".to_owned(), 0.0)]));
    }
}

#[test]
fn the_other_documents_must_be_orions_too() {
    for body in ["{}", r#"{"status":"UP"}"#, "[1]", "null"] {
        let answers = [tree(&[]), ok(body), ok(body), ok(body)];
        let (results, _) = poll_within(&mut *Options::default().build(&url()), 10_000, &answers);
        for result in &results[1..] {
            assert_eq!(result.as_ref().unwrap_err().reason, Reason::Schema, "{body}");
        }
    }
}

#[test]
fn every_family_is_declared_once() {
    let mut names: Vec<_> = scrapetarget_exporter::kind::orion::families().iter().map(|desc| desc.name).collect();
    let all = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), all);
}

/// Makes the calls of a poll at a simulated broker, with the headers that they ask for.
async fn ask(kind: &dyn Kind, broker: &Broker) -> Vec<Answer> {
    let mut answers = Vec::new();
    for call in kind.calls(None) {
        let mut request = Request::builder().method(call.method.as_str()).uri(call.url.path());
        for (name, value) in call.headers {
            request = request.header(name, value);
        }
        let response = broker.routes().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        let status = response.status().as_u16();
        let body = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
        answers.push(Answer(Ok(Response { status, content_type: None, body })));
    }
    answers
}

#[tokio::test]
async fn a_simulated_broker_is_understood_completely() {
    for level in [Level::Subservice, Level::Service, Level::Total] {
        let broker = Broker::new(5);
        let mut kind = Options { level, ..Options::default() }.build(&url());
        let mut last = BTreeMap::new();
        for _ in 0..30 {
            broker.pass(Duration::from_secs(15));
            let answers = ask(&*kind, &broker).await;
            let (results, finished) = poll_within(&mut *kind, 10_000, &answers);
            assert!(results.iter().all(Result::is_ok), "{results:?}");
            assert_eq!(finished.skipped(), 0);
            let now = samples(&finished);
            for (series, value) in now.iter().filter(|(series, _)| series.contains("_total")) {
                assert!(last.get(series).is_none_or(|before| value >= before), "{series} fell");
            }
            assert!(now.keys().all(|series| !series.contains("scrapetarget_exporter")));
            last = now;
        }
        let time: f64 = last.iter().filter(|(series, _)| series.starts_with(TIME)).map(|(_, value)| value).sum();
        assert!((50.0..200.0).contains(&time), "{time} s in 29 intervals of 15 s at 0.29 s per second");
    }
}

#[tokio::test]
async fn own_requests_are_shown_under_their_service_when_asked_for() {
    let broker = Broker::new(5);
    let mut kind = Options { include_own_traffic: true, ..Options::default() }.build(&url());
    for polls in 0..3 {
        let answers = ask(&*kind, &broker).await;
        let own = "orion_incoming_transactions_total{service=\"scrapetarget_exporter\",subservice=\"/\"}";
        let wanted = (polls > 0).then(|| 4.0 * f64::from(polls));
        assert_eq!(poll(&mut *kind, &answers).get(own).copied(), wanted);
    }
}

#[tokio::test]
async fn a_simulated_broker_without_metrics_is_up() {
    let broker = Broker::new(5);
    broker.disable_metrics(true);
    let mut kind = Options::default().build(&url());
    let answers = ask(&*kind, &broker).await;
    let samples = poll(&mut *kind, &answers);
    assert_eq!(samples.get("orion_up{}"), Some(&1.0));
    assert_eq!(samples.get("orion_metrics_enabled{}"), Some(&0.0));
}
