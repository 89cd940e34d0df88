//! The simulated agent and edumeet servers speak as the real ones do, and their numbers move as real ones do.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use bytes::Bytes;
use scrapetarget_exporter::kind::mediasoup::{Compatibility, Options, PerObject, StatsSource, families};
use scrapetarget_exporter::kind::{Answer, CallOptions as _, Context, Kind, Response};
use scrapetarget_exporter::metric::{Families, Finished};
use simulators::edumeet::Edumeet;
use simulators::mediasoup::Agent;
use tower::ServiceExt;

async fn get(routes: Router, path: &str, token: Option<&str>) -> (StatusCode, Bytes) {
    let mut request = Request::get(path);
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let response = routes.oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    let status = response.status();
    (status, axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap())
}

async fn poll(kind: &mut dyn Kind, routes: Router, path: &str) -> Finished {
    let (status, body) = get(routes, path, None).await;
    let answer = Answer(Ok(Response { status: status.as_u16(), content_type: None, body }));
    let mut out = Families::default();
    let reports = kind.translate(&[answer], &Context { now: 0.0, sample_limit: 100_000 }, &mut out);
    assert_eq!(reports, [Ok(())]);
    let finished = out.finish();
    assert_eq!(finished.skipped(), 0);
    finished
}

fn build(options: &Options) -> Box<dyn Kind> {
    options.build(&"http://sim/".parse().unwrap())
}

/// Each counter of `finished`, and whether it belongs to one object or to all.
fn counters(finished: &Finished) -> BTreeMap<String, f64> {
    finished
        .samples()
        .filter(|(name, ..)| name.ends_with("_total") || name.ends_with("_bytes"))
        .filter(|(name, ..)| !name.contains("memory"))
        .map(|(name, labels, value)| (format!("{name}{{{labels}}}"), value))
        .collect()
}

#[tokio::test]
async fn numbers_of_the_agent_move_and_no_counter_falls_while_its_object_lives() {
    let agent = Agent::new(7);
    let options = Options {
        per_object: vec![PerObject::Producers, PerObject::Consumers, PerObject::Transports],
        room_labels: true,
        compatibility: Some(Compatibility { prefix: "edumeet".to_owned(), aggregated: true }),
        ..Options::default()
    };
    let mut kind = build(&options);
    let mut before = counters(&poll(&mut *kind, agent.routes(), "/stats?detail=all").await);
    let (mut came, mut went, mut moved) = (0, 0, 0);
    for _ in 0..40 {
        agent.pass(Duration::from_secs(15));
        let now = counters(&poll(&mut *kind, agent.routes(), "/stats?detail=all").await);
        for (series, value) in &now {
            let Some(last) = before.get(series) else {
                came += 1;
                continue;
            };
            assert!(value >= last, "{series} fell from {last} to {value}");
            moved += u32::from(value > last);
        }
        went += before.keys().filter(|series| !now.contains_key(*series)).count();
        before = now;
    }
    assert!(came > 20 && went > 20 && moved > 1000, "{came} came, {went} went, {moved} moved");
}

#[tokio::test]
async fn detail_decides_whose_streams_are_listed() {
    let agent = Agent::new(1);
    for (detail, inbound, outbound) in [
        ("?detail=counts", false, false),
        ("?detail=producers", true, false),
        ("?detail=all", true, true),
        ("", true, true),
    ] {
        let (_, body) = get(agent.routes(), &format!("/stats{detail}"), None).await;
        let text = String::from_utf8(body.to_vec()).unwrap();
        assert_eq!(text.contains("inbound-rtp"), inbound, "{detail}");
        assert_eq!(text.contains("outbound-rtp"), outbound, "{detail}");
        assert!(text.contains("\"consumers\":[{"), "objects are listed all the same");
    }
    assert_eq!(get(agent.routes(), "/stats?detail=some", None).await.0, StatusCode::BAD_REQUEST);
    assert_eq!(get(agent.routes(), "/", None).await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_token_is_asked_for_where_there_is_one() {
    let agent = Agent::new(1).with_token("s3cret");
    for (token, status) in [(None, 401), (Some("other"), 401), (Some("s3cret"), 200)] {
        assert_eq!(get(agent.routes(), "/stats", token).await.0, status);
    }
    let edumeet = Edumeet::new(1).with_secret("s3cret");
    for (path, token, status) in [("/metrics", None, 401), ("/metrics", Some("s3cret"), 200), ("/", None, 200)] {
        assert_eq!(get(edumeet.routes(), path, token).await.0, status, "{path}");
    }
}

#[tokio::test]
async fn edumeet_writes_its_families_in_the_order_and_shape_of_the_recorded_one() {
    let shape = |text: &str| -> Vec<String> {
        let mut lines: Vec<String> = text
            .lines()
            .map(|line| {
                let labels = line.split("=\"").enumerate().map(|(i, part)| {
                    if i == 0 || line.starts_with('#') {
                        part
                    } else {
                        part.rsplit_once("\",").map_or("", |(_, name)| name)
                    }
                });
                if line.starts_with('#') { line.to_owned() } else { labels.collect::<Vec<_>>().join("=") }
            })
            .collect();
        lines.dedup();
        lines
    };
    let recorded = include_str!("fixtures/mediasoup/answers/edumeet.txt");
    let (_, body) = get(Edumeet::new(3).routes(), "/", None).await;
    let text = String::from_utf8(body.to_vec()).unwrap();
    let normal = |text: &str| shape(text).iter().map(|line| line.replace("rooms 2", "rooms")).collect::<Vec<_>>();
    assert_eq!(normal(&text), normal(recorded));
    let (_, body) = get(Edumeet::new(3).ejtimaa().routes(), "/", None).await;
    let text = String::from_utf8(body.to_vec()).unwrap();
    assert_eq!(normal(&text), normal(include_str!("fixtures/mediasoup/answers/ejtimaa.txt")));
    assert_eq!(get(Edumeet::new(3).ejtimaa().routes(), "/metrics", None).await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn edumeet_s_numbers_move_and_are_read_without_a_loss() {
    let edumeet = Edumeet::new(5);
    let mut kind = build(&Options { source: StatsSource::Prometheus, ..Options::default() });
    let before = counters(&poll(&mut *kind, edumeet.routes(), "/").await);
    edumeet.pass(Duration::from_secs(30));
    let now = counters(&poll(&mut *kind, edumeet.routes(), "/").await);
    let lived: Vec<_> = before.iter().filter_map(|(series, last)| Some((last, now.get(series)?))).collect();
    assert!(lived.len() > 5);
    assert!(lived.iter().all(|(last, now)| now > last));
}

#[tokio::test]
async fn our_aggregated_families_are_the_ones_that_edumeet_has() {
    let mut kind = build(&Options { source: StatsSource::Prometheus, ..Options::default() });
    let theirs = poll(&mut *kind, Edumeet::new(5).routes(), "/metrics").await;
    let theirs: Vec<String> = theirs
        .samples()
        .map(|(name, ..)| name)
        .filter(|name| !name.contains("process_") && name != "mediasoup_up")
        .collect();
    assert_eq!(theirs.len(), 64);
    for name in theirs {
        assert!(families().iter().any(|desc| desc.name == name && desc.labels.is_empty()), "{name}");
    }
}
