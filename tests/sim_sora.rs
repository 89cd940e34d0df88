//! The simulated Sora answers as Sora does, and what the kind makes of it is what a real one's users would see.
#![expect(clippy::float_cmp, reason = "counts are whole")]

use std::collections::BTreeMap;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use reqwest::Url;
use scrapetarget_exporter::kind::{Answer, Blocks, CallError, Context, Method, Response, Type, sora};
use scrapetarget_exporter::metric::Families;
use simulators::sora::{Cluster, Node};
use simulators::{Mode, Simulated};
use tower::ServiceExt;

fn everything() -> sora::Options {
    sora::Options {
        cluster_metrics: true,
        client_metrics: true,
        connection_error_metrics: true,
        erlang_vm_metrics: true,
        server_mode: true,
    }
}

async fn send(routes: &Router, method: &str, target: Option<&str>, body: &'static str) -> (u16, String) {
    let mut request = Request::builder().method(method).uri("/");
    if let Some(target) = target {
        request = request.header("x-sora-target", target);
    }
    let response = routes.clone().oneshot(request.body(Body::from(body)).unwrap()).await.unwrap();
    let status = response.status();
    if !status.is_server_error() {
        assert_eq!(response.headers()["content-type"], "application/json");
        assert_eq!(response.headers()["server"], "Cowboy");
    }
    let body = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
    (status.as_u16(), String::from_utf8(body.into()).unwrap())
}

type Series = BTreeMap<String, f64>;

/// Polls a node as the engine would: each series, and each call's verdict.
async fn poll(node: &Node, options: sora::Options) -> (Series, BTreeMap<&'static str, Result<(), CallError>>) {
    let routes = node.router();
    let blocks = Blocks { sora: Some(Box::new(options)), ..Blocks::default() };
    let mut kind = blocks.engine(Type::Sora, &Url::parse("http://sora:3000/").unwrap()).unwrap().translator().unwrap();
    let calls = kind.calls(None);
    let mut answers = Vec::new();
    for call in &calls {
        assert_eq!(call.method, Method::Post);
        let [(header, target)] = &call.headers[..] else { panic!("one header") };
        assert_eq!(*header, "x-sora-target");
        let (status, body) = send(&routes, "POST", Some(target), "").await;
        answers.push(Answer(Ok(Response { status, content_type: None, body: body.into() })));
    }
    let mut out = Families::default();
    let verdicts = kind.translate(&answers, &Context { now: 1.7e9, sample_limit: 10_000 }, &mut out);
    let finished = out.finish();
    assert_eq!(finished.skipped(), 0, "a real report has no field that cannot be exported");
    let series = finished.samples().map(|(name, labels, value)| (format!("{name}{{{labels}}}"), value)).collect();
    (series, calls.iter().map(|call| call.name).zip(verdicts).collect())
}

fn is_counter(series: &str) -> bool {
    let name = series.split('{').next().unwrap();
    sora::families().iter().any(|desc| {
        desc.name == name && desc.kind.text() == "counter"
            || desc.kind.text() == "histogram" && name.starts_with(desc.name)
    })
}

#[tokio::test]
async fn everything_that_the_kind_can_export_is_there_and_no_counter_ever_falls() {
    let cluster = Cluster::new(7);
    let node = &cluster.nodes()[0];
    let (mut before, verdicts) = poll(node, everything()).await;
    assert!(verdicts.values().all(Result::is_ok), "{verdicts:?}");
    for desc in sora::families() {
        assert!(before.keys().any(|series| series.starts_with(desc.name)), "{} is missing", desc.name);
    }
    let (mut risen, mut moved) = (0, 0);
    for _ in 0..40 {
        cluster.pass(Duration::from_secs(15));
        let (after, _) = poll(node, everything()).await;
        for (series, value) in &before {
            if is_counter(series) {
                let now = after.get(series).unwrap_or_else(|| panic!("{series} is gone"));
                assert!(now >= value, "{series} fell from {value} to {now}");
                risen += u32::from(now > value);
            }
        }
        moved += u32::from(after["sora_ongoing_connections_total{}"] != before["sora_ongoing_connections_total{}"]);
        before = after;
    }
    assert!(risen > 1000, "counters move: {risen}");
    assert!(moved > 20, "connections come and go: {moved}");
}

#[tokio::test]
async fn its_numbers_agree_with_each_other_at_any_time() {
    let node = Node::single(3);
    for _ in 0..20 {
        node.pass(Duration::from_secs(137));
        let (series, _) = poll(&node, everything()).await;
        let of = |name: &str, label: &str| series[&format!("{name}{{{label}}}")];
        let connections = |state: &str| of("sora_connections_total", &format!("state=\"{state}\""));
        assert_eq!(connections("created") - connections("destroyed"), of("sora_ongoing_connections_total", ""));
        assert_eq!(connections("created"), connections("successful") + connections("failed"));
        let errors = of("sora_connection_error_total", "reason=\"sdp\"")
            + of("sora_connection_error_total", "reason=\"signaling\"");
        assert_eq!(errors, connections("failed"));
        let turn =
            of("sora_turn_connections_total", "proto=\"udp\"") + of("sora_turn_connections_total", "proto=\"tcp\"");
        assert_eq!(turn, connections("successful"));
        let auth = of("sora_auth_webhook_total", "state=\"successful\"");
        let allowed = of("sora_successful_auth_webhook_total", "state=\"allowed\"");
        assert_eq!(auth, allowed + of("sora_successful_auth_webhook_total", "state=\"denied\""));
        assert_eq!(allowed, connections("created"));
        let clients: f64 = series.iter().filter(|(k, _)| k.starts_with("sora_client_type")).map(|(_, v)| v).sum();
        assert_eq!(clients, connections("created"));
        assert!(of("sora_ongoing_connections_total", "") <= 100.0, "within the licence");
    }
}

#[tokio::test]
async fn a_node_that_is_away_is_missed_by_the_others_and_another_one_leads() {
    let cluster = Cluster::new(1);
    let [first, second, _] = cluster.nodes() else { panic!("three nodes") };
    let (series, _) = poll(second, everything()).await;
    assert_eq!(series["sora_cluster_raft_term{}"], 3.0);
    assert_eq!(series["sora_cluster_raft_state{state=\"follower\"}"], 1.0);
    assert_eq!(series.iter().filter(|(name, up)| name.starts_with("sora_cluster_node") && **up == 1.0).count(), 3);

    first.switch().set(Mode::Status(503));
    let (series, _) = poll(second, everything()).await;
    assert_eq!(series["sora_cluster_raft_term{}"], 4.0);
    assert_eq!(series["sora_cluster_raft_state{state=\"leader\"}"], 1.0);
    let missed = "sora_cluster_node{mode=\"\",node_name=\"sora-1@127.0.0.1\",node_type=\"regular\"}";
    assert_eq!(series[missed], 0.0);

    let (series, verdicts) = poll(first, everything()).await;
    assert_eq!(series, [("sora_cluster_up{}".to_owned(), 0.0), ("sora_up{}".to_owned(), 0.0)].into());
    assert!(verdicts.values().all(Result::is_err));
}

#[tokio::test]
async fn a_sora_alone_refuses_to_list_a_cluster() {
    let node = Node::single(1);
    let (_, said) = send(&node.router(), "POST", Some("Sora_20211215.ListClusterNodes"), "").await;
    assert!(said.contains("ClusterDisabled"), "{said}");
    let (series, verdicts) = poll(&node, everything()).await;
    assert_eq!(series["sora_up{}"], 1.0);
    assert_eq!(series["sora_cluster_up{}"], 0.0);
    let error = verdicts["ListClusterNodes"].as_ref().unwrap_err();
    assert_eq!((error.reason.as_str(), error.message.contains("400 Bad Request")), ("http_status", true));
    assert!(
        !series.keys().any(|name| name.starts_with("sora_cluster_raft") || name.starts_with("sora_license_max_nodes"))
    );
}

#[tokio::test]
async fn the_last_node_is_taken_out_of_service_now_and_then() {
    let cluster = Cluster::new(1);
    let mut modes = std::collections::BTreeSet::new();
    for _ in 0..10 {
        cluster.pass(Duration::from_mins(1));
        let (series, _) = poll(&cluster.nodes()[2], sora::Options::default()).await;
        modes.extend(series.keys().filter(|name| name.starts_with("sora_server_mode")).cloned());
    }
    assert_eq!(
        modes.into_iter().collect::<Vec<_>>(),
        ["sora_server_mode{mode=\"block_new_session\"}", "sora_server_mode{mode=\"normal\"}"]
    );
}

#[tokio::test]
async fn requests_that_are_wrong_get_the_error_of_the_table() {
    let routes = Node::single(1).router();
    let report = "Sora_20171010.GetStatsReport";
    for (method, target, body, status, error) in [
        ("GET", Some(report), "", 400, r#"{"type":"UnexpectedMethod"}"#),
        ("POST", None, "", 400, r#"{"type":"MissingHeaderName"}"#),
        ("POST", Some("GetStatsReport"), "", 400, r#"{"error_type":"MissingService"}"#),
        ("POST", Some("Sora_2017.GetStatsReport"), "", 400, r#"{"error_type":"MissingService"}"#),
        ("POST", Some("Other_20171010.GetStatsReport"), "", 400, r#"{"error_type":"InvalidTarget"}"#),
        ("POST", Some("Sora_20991231.GetStatsReport"), "", 400, r#"{"error_type":"MissingTarget"}"#),
        ("POST", Some(report), "{", 400, r#"{"error_type":"MalformedJSON"}"#),
    ] {
        assert_eq!(send(&routes, method, target, body).await, (status, error.to_owned()), "{method} {target:?} {body}");
    }
    let (status, answer) = send(&routes, "POST", Some(report), "{}").await;
    assert_eq!(status, 400, "a call without parameters has no schema for a body");
    assert!(answer.contains(r#""error_type":"SchemaNotFound""#), "{answer}");
}

/// The calls that change something, of the documentation. A monitor must never send one, and the simulator has none.
const NEVER: [&str; 14] = [
    "Sora_20151104.DisconnectChannel",
    "Sora_20151104.DisconnectClient",
    "Sora_20201013.DisconnectConnection",
    "Sora_20160711.PushChannel",
    "Sora_20160711.PushConnection",
    "Sora_20171218.UpdateLicense",
    "Sora_20211215.ChangeMode",
    "Sora_20211215.InitCluster",
    "Sora_20211215.RegisterClusterNode",
    "Sora_20211215.PurgeClusterNode",
    "Sora_20231220.TerminateSession",
    "Sora_20231220.StartRecording",
    "Sora_20231220.StopRecording",
    "Sora_20170529.PushClient",
];

#[tokio::test]
async fn calls_that_change_something_are_unknown_to_the_simulator() {
    let routes = Node::single(1).router();
    for target in NEVER {
        let answer = send(&routes, "POST", Some(target), "").await;
        assert_eq!(answer, (400, r#"{"error_type":"MissingTarget"}"#.to_owned()), "{target}");
    }
}

#[test]
fn the_kind_only_ever_sends_the_four_calls_that_read() {
    const READ_ONLY: [&str; 4] = [
        "Sora_20171010.GetStatsReport",
        "Sora_20171218.GetLicense",
        "Sora_20211215.ListClusterNodes",
        "Sora_20211215.GetMode",
    ];
    let url = Url::parse("https://sora.example.com/api?x=1").unwrap();
    for bits in 0..32_u8 {
        let on = |bit: u8| bits & (1 << bit) != 0;
        let options = sora::Options {
            cluster_metrics: on(0),
            client_metrics: on(1),
            connection_error_metrics: on(2),
            erlang_vm_metrics: on(3),
            server_mode: on(4),
        };
        let blocks = Blocks { sora: Some(Box::new(options)), ..Blocks::default() };
        let calls = blocks.engine(Type::Sora, &url).unwrap().translator().unwrap().calls(None);
        let sent: Vec<&str> = calls.iter().map(|call| call.headers[0].1.as_str()).collect();
        let wanted = [true, true, on(0), on(4)];
        let expected: Vec<&str> = READ_ONLY.iter().zip(wanted).filter(|(_, wanted)| *wanted).map(|(t, _)| *t).collect();
        assert_eq!(sent, expected);
        for call in &calls {
            assert_eq!((call.method, &call.url), (Method::Post, &url));
            assert_eq!(call.headers.len(), 1, "and nothing beside the target");
            assert!(call.headers[0].1.ends_with(&format!(".{}", call.name)));
        }
    }
}

#[tokio::test]
async fn it_listens_on_a_free_port_and_serves_only_its_root() {
    let server = Simulated::serve(Node::single(1).router(), ([127, 0, 0, 1], 0).into()).await.unwrap();
    assert!(server.url().starts_with("http://127.0.0.1:"), "{}", server.url());
    let request = Request::builder().method("POST").uri("/other").body(Body::empty()).unwrap();
    let response = Node::single(1).router().oneshot(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::NOT_FOUND);
}
