//! Polls of which one part fails: the rest is exported, what failed is told by its call, and nothing of it is left behind.
#![expect(clippy::unwrap_used, reason = "a test may")]

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use scrapetarget_exporter::kind::{Reason, Type, mediasoup};
use scrapetarget_exporter::poll::Snapshot;
use simulators::edumeet::Edumeet;
use simulators::mediasoup::Agent;
use simulators::orion::Broker;
use simulators::sora::Node;
use simulators::{Mode, Simulated};
use support::eventually::PATIENCE;
use support::faults::{Fault, Faulty, closed_port};
use support::load::allowed;
use support::{poll_once, redeclared, series, target, text};
use tower::ServiceExt;

/// What a call that is not left in peace gets.
#[derive(Clone, Copy)]
enum Answer {
    Status(u16),
    Html,
    OtherJson,
    Nothing,
}

/// Serves `routes`, but for the call of this path, or of this name in Sora's header.
async fn except(call: &'static str, answer: Answer, routes: Router) -> Simulated {
    let guarded = Router::new().fallback(move |request: Request| {
        let routes = routes.clone();
        async move {
            let name = request.headers().get("x-sora-target").and_then(|value| value.to_str().ok()).unwrap_or_default();
            if request.uri().path() != call && !name.ends_with(&format!(".{call}")) {
                return routes.oneshot(request).await.unwrap();
            }
            match answer {
                Answer::Status(code) => StatusCode::from_u16(code).unwrap().into_response(),
                Answer::Html => "<!DOCTYPE html><html></html>".into_response(),
                Answer::OtherJson => "[1, 2]".into_response(),
                Answer::Nothing => std::future::pending::<Response>().await,
            }
        }
    });
    Simulated::serve(guarded, ([127, 0, 0, 1], 0).into()).await.unwrap()
}

async fn poll(kind: Type, url: &str) -> (BTreeMap<String, f64>, Arc<Snapshot>) {
    let mut target = target("partial", kind, url);
    target.timeout = allowed(Duration::from_millis(500));
    let snapshot = poll_once(target).await;
    let text = text(&snapshot);
    support::exposition::parse(&text).unwrap();
    (series(&text), snapshot)
}

fn has(series: &BTreeMap<String, f64>, prefix: &str) -> bool {
    series.keys().any(|name| name.starts_with(prefix))
}

fn call(name: &str) -> String {
    format!("probe_call_success{{call=\"{name}\"}}")
}

fn busy_broker() -> Broker {
    let broker = Broker::new(7);
    broker.pass(Duration::from_mins(5));
    broker
}

/// Orion's calls with a family of each.
const ORION: [(&str, &str, &str); 4] = [
    ("admin_metrics", "/admin/metrics", "orion_incoming_transactions_total"),
    ("statistics", "/statistics", "orion_http_requests_total"),
    ("cache_statistics", "/cache/statistics", "orion_subscription_cache_"),
    ("version", "/version", "orion_build_info"),
];

/// Orion's calls as they are when one of them failed: each has its families or not, and the first decides on success.
fn assert_orion(failing: &str, series: &BTreeMap<String, f64>, snapshot: &Snapshot) {
    for (name, _, family) in ORION {
        let good = name != failing;
        assert_eq!(series[&call(name)], f64::from(u8::from(good)), "{failing}: {name}");
        assert_eq!(has(series, family), good, "{failing}: {family} in {series:?}");
    }
    let primary = failing == "admin_metrics";
    assert_eq!(series["probe_success"], f64::from(u8::from(!primary)), "{failing}");
    assert_eq!(series["orion_up"], f64::from(u8::from(!primary)), "{failing}");
    assert_eq!(snapshot.failure.is_some(), primary, "{failing}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_call_of_orion_removes_only_its_own_families() {
    for (failing, path, _) in ORION {
        for answer in [Answer::Status(500), Answer::Status(403), Answer::Html, Answer::OtherJson] {
            let server = except(path, answer, busy_broker().routes()).await;
            let (series, snapshot) = poll(Type::Orion, &server.url()).await;
            assert_orion(failing, &series, &snapshot);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_call_of_orion_may_hang_and_the_others_stay() {
    let server = except("/version", Answer::Nothing, busy_broker().routes()).await;
    let (series, snapshot) = poll(Type::Orion, &server.url()).await;
    assert_orion("version", &series, &snapshot);
    let record = snapshot.calls.iter().find(|record| record.call == "version").unwrap();
    assert!(record.error.as_ref().is_some_and(|error| error.contains("in time")), "{record:?}");
}

/// Sora's calls with a family of each.
const SORA: [(&str, &str); 3] = [
    ("GetStatsReport", "sora_connections_total"),
    ("GetLicense", "sora_license_info"),
    ("GetMode", "sora_server_mode"),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_call_of_sora_removes_only_its_own_families() {
    for (failing, _) in SORA {
        for answer in [Answer::Status(500), Answer::Html, Answer::OtherJson] {
            let server = except(failing, answer, Node::single(7).router()).await;
            let (series, _) = poll(Type::Sora, &server.url()).await;
            for (name, family) in SORA {
                assert_eq!(series[&call(name)], f64::from(u8::from(name != failing)), "{failing}: {name}");
                assert_eq!(has(&series, family), name != failing, "{failing}: {family} in {series:?}");
            }
            assert_eq!(series["probe_success"], f64::from(u8::from(failing != "GetStatsReport")), "{failing}");
            // As its peer has it: statistics and licence.
            assert_eq!(series["sora_up"], f64::from(u8::from(failing == "GetMode")), "{failing}");
        }
    }
}

/// The reason of the poll of a whole server that misbehaves, and whether its `up` family is all that is left of it.
async fn reason(kind: Type, url: &str, up: &str) -> Option<Reason> {
    let (series, snapshot) = poll(kind, url).await;
    if snapshot.failure.is_some() {
        assert_eq!((series["probe_success"], series[up]), (0.0, 0.0));
        let prefix = up.trim_end_matches("up");
        let left: Vec<&String> = series.keys().filter(|name| name.starts_with(prefix) && *name != up).collect();
        assert!(left.is_empty(), "{left:?}");
    }
    snapshot.failure.as_ref().map(|failure| failure.reason)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_mode_of_a_broken_server_has_its_reason() {
    let modes = [
        (Mode::Healthy, None),
        (Mode::Status(500), Some(Reason::HttpStatus)),
        (Mode::Status(404), Some(Reason::HttpStatus)),
        (Mode::Status(301), Some(Reason::HttpStatus)),
        (Mode::Status(401), Some(Reason::Auth)),
        (Mode::Status(403), Some(Reason::Auth)),
        (Mode::Hang, Some(Reason::Timeout)),
        (Mode::Html, Some(Reason::Parse)),
        (Mode::Empty, Some(Reason::Parse)),
        (Mode::Truncated, Some(Reason::Parse)),
    ];
    let (broker, agent) = (busy_broker(), Agent::new(7));
    let orion = Simulated::serve(broker.routes(), ([127, 0, 0, 1], 0).into()).await.unwrap();
    let mediasoup = Simulated::serve(agent.routes(), ([127, 0, 0, 1], 0).into()).await.unwrap();
    for (mode, wanted) in modes {
        broker.switch().set(mode);
        agent.switch().set(mode);
        assert_eq!(reason(Type::Orion, &orion.url(), "orion_up").await, wanted, "Orion, {mode:?}");
        assert_eq!(reason(Type::Mediasoup, &mediasoup.url(), "mediasoup_up").await, wanted, "mediasoup, {mode:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_fault_on_the_wire_has_its_reason() {
    let faults = [
        (Fault::HangsBeforeTheAnswer, Reason::Timeout),
        (Fault::HangsInTheBody, Reason::Timeout),
        (Fault::Drips, Reason::Timeout),
        (Fault::Endless, Reason::Limit),
        (Fault::ClaimsATerabyte, Reason::Limit),
        (Fault::PromisesTooMuch, Reason::Body),
        (Fault::PromisesTooLittle, Reason::Parse),
        (Fault::CompressedBomb, Reason::Limit),
        (Fault::BrokenGzip, Reason::Body),
        (Fault::Resets, Reason::Connect),
        (Fault::Closes, Reason::Connect),
        (Fault::HugeHeader, Reason::Limit),
    ];
    for (kind, up) in [(Type::Orion, "orion_up"), (Type::Mediasoup, "mediasoup_up")] {
        for (fault, wanted) in faults {
            let server = Faulty::start(fault).await;
            assert_eq!(reason(kind, &server.url(), up).await, Some(wanted), "{kind}, {fault:?}");
        }
        assert_eq!(reason(kind, &closed_port(), up).await, Some(Reason::Connect), "{kind}");
        // A field that nobody asks for is skipped however deep it is, without going down into it.
        let deep = Faulty::start(Fault::DeepJson).await;
        let found = reason(kind, &deep.url(), up).await;
        assert!(matches!(found, Some(Reason::Limit | Reason::Schema)), "{kind}: {found:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn json_of_another_service_is_reason_schema() {
    const OTHER: &str = "HTTP/1.1 200 OK\r\ncontent-length: 16\r\n\r\n{\"status\": \"ok\"}";
    let server = Faulty::start(Fault::Says(OTHER)).await;
    for (kind, up) in [(Type::Orion, "orion_up"), (Type::Mediasoup, "mediasoup_up")] {
        assert_eq!(reason(kind, &server.url(), up).await, Some(Reason::Schema), "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exporter_of_the_application_s_own_has_the_same_reasons() {
    let passthrough = |url: &str| {
        let mut target = target("edumeet", Type::Mediasoup, url);
        target.timeout = allowed(Duration::from_millis(500));
        let options =
            mediasoup::Options { source: mediasoup::StatsSource::Prometheus, ..mediasoup::Options::default() };
        redeclared(&target, |spec| spec.blocks.mediasoup = Some(Box::new(options)))
    };
    let server = Edumeet::new(7);
    let edumeet = Simulated::serve(server.routes(), ([127, 0, 0, 1], 0).into()).await.unwrap();
    for (mode, wanted) in [
        (Mode::Healthy, None),
        (Mode::Status(503), Some(Reason::HttpStatus)),
        (Mode::Status(401), Some(Reason::Auth)),
        (Mode::Hang, Some(Reason::Timeout)),
        (Mode::Html, Some(Reason::Parse)),
        (Mode::Empty, Some(Reason::Parse)),
    ] {
        server.switch().set(mode);
        let snapshot = poll_once(passthrough(&edumeet.url())).await;
        assert_eq!(snapshot.failure.as_ref().map(|failure| failure.reason), wanted, "{mode:?}");
        let series = series(&text(&snapshot));
        assert_eq!(has(&series, "edumeet_"), wanted.is_none(), "{mode:?}: {series:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_is_up_again_with_the_first_good_poll() {
    let agent = Agent::new(7);
    let server = Simulated::serve(agent.routes(), ([127, 0, 0, 1], 0).into()).await.unwrap();
    let pollers = support::pollers();
    let mut declared = target("agent", Type::Mediasoup, &server.url());
    declared.max_age = Duration::ZERO;
    let id = declared.id.clone();
    pollers.apply([declared]);
    let poller = pollers.get(&id).unwrap();
    for (mode, good) in [(Mode::Healthy, true), (Mode::Status(500), false), (Mode::Html, false), (Mode::Healthy, true)]
    {
        agent.switch().set(mode);
        let series = series(&text(&*poller.answer(PATIENCE).await));
        assert_eq!(series["probe_success"], f64::from(u8::from(good)), "{mode:?}");
        assert_eq!(has(&series, "mediasoup_workers"), good, "{mode:?}: nothing old is shown");
    }
}
