//! Every path over a real socket, with servers that are up, down, slow.

#![expect(clippy::unwrap_used, reason = "what fails in a helper fails the test")]

mod service;

use std::io::Read;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::http::{HeaderValue, Method, StatusCode};
use axum::routing::any;
use scrapetarget_exporter::crd::{InstanceLabel, Members, MembersService};
use scrapetarget_exporter::http::{RouterOptions, TARGET_FAMILIES};
use scrapetarget_exporter::kind::Type;
use serde_json::json;
use service::load::allowed;
use service::{Service, client, declared, nobody, pending, server, target, target_of_pods};
use simulators::Simulated;

const PROMETHEUS_3: &str = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

fn loose() -> RouterOptions {
    RouterOptions { loose_targets: true, ..RouterOptions::default() }
}

fn external(url: &str) -> RouterOptions {
    RouterOptions { external_url: Some(url.parse().unwrap()), ..RouterOptions::default() }
}

fn gunzip(bytes: &[u8]) -> String {
    let mut text = String::new();
    flate2::read::GzDecoder::new(bytes).read_to_string(&mut text).unwrap();
    text
}

#[tokio::test]
async fn a_scrape_of_prometheus_gets_openmetrics_in_gzip() {
    let sora = server(StatusCode::OK).await;
    let service = Service::start(vec![target("webrtc", "sora", &sora.url())], RouterOptions::default()).await;
    let request = service.get("/probe?target=webrtc%2Fsora").header("accept", PROMETHEUS_3);
    let response = request.header("accept-encoding", "gzip").send().await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let headers = response.headers().clone();
    assert_eq!(headers["content-type"], OPENMETRICS);
    assert_eq!(headers["content-encoding"], "gzip");
    assert_eq!(headers["vary"], "Accept, Accept-Encoding");
    let body = response.bytes().await.unwrap();
    assert_eq!(headers["content-length"], body.len().to_string());
    let text = gunzip(&body);
    assert!(text.contains("\nprobe_success 1\n") && text.ends_with("# EOF\n"), "{text}");
}

#[tokio::test]
async fn a_person_gets_text_that_is_not_compressed() {
    let sora = server(StatusCode::OK).await;
    let service = Service::start(vec![target("webrtc", "sora", &sora.url())], RouterOptions::default()).await;
    let response = service.get("/probe?target=webrtc/sora").send().await.unwrap();
    assert_eq!(response.headers()["content-type"], TEXT);
    assert!(!response.headers().contains_key("content-encoding"));
    let text = response.text().await.unwrap();
    assert!(text.contains("# TYPE probe_success gauge\nprobe_success 1\n") && !text.contains("# EOF"), "{text}");
}

#[tokio::test]
async fn a_target_that_is_down_is_a_good_answer_with_its_reason() {
    let service = Service::start(vec![target("webrtc", "sora", &nobody())], RouterOptions::default()).await;
    let (status, text) = service.text("/probe?target=webrtc/sora").await;
    assert_eq!(status, StatusCode::OK);
    assert!(
        text.contains("probe_success 0\n") && text.contains("probe_failure_info{reason=\"connect\"} 1\n"),
        "{text}"
    );
}

#[tokio::test]
async fn a_suspended_target_has_its_reason_and_no_success() {
    let mut suspended = target("webrtc", "sora", "http://sora.invalid/");
    suspended.suspend = true;
    let service = Service::start(vec![suspended], RouterOptions::default()).await;
    let (status, text) = service.text("/probe?target=webrtc/sora").await;
    assert_eq!(status, StatusCode::OK);
    assert!(text.contains("probe_failure_info{reason=\"suspended\"} 1\n") && !text.contains("probe_success"), "{text}");
}

#[tokio::test]
async fn what_is_wrong_with_a_request_is_said_in_words() {
    let rooms = declared("webrtc", "rooms", Type::Mediasoup, "http://rooms.webrtc.svc:9851/", |spec| {
        spec.members = Some(Members { service: Some(MembersService::default()), ..Members::default() });
    });
    let targets = vec![target("webrtc", "sora", "http://sora.invalid/"), rooms];
    let service = Service::start(targets, RouterOptions::default()).await;
    for (path, status, words) in [
        ("/probe", 400, "/probe?target=namespace/name"),
        ("/probe?target=", 400, "/probe?target=namespace/name"),
        ("/probe?target=sora", 400, "write both"),
        ("/probe?target=a/b/c", 400, "write both"),
        ("/probe?target=http://sora.invalid/", 400, "write both"),
        ("/probe?target=webrtc/sora&target=webrtc/sora", 400, "several targets"),
        ("/probe?target=webrtc/other", 404, "\"webrtc/other\""),
        ("/probe?target=webrtc/sora&module=orion", 400, "module=Sora"),
        ("/probe?target=webrtc/sora&pod=a", 400, "no spec.members: leave out pod="),
        ("/probe?target=webrtc/sora&debug=true&member=127.0.0.1:80", 400, "no spec.members: leave out member="),
        ("/probe?target=webrtc/rooms&pod=rooms-a", 400, "write debug=true&pod=… to look at one"),
        ("/probe?target=webrtc/rooms&debug=true&pod=a&pod=b", 400, "several members"),
        ("/probe?target=webrtc/rooms&debug=true&pod=rooms-a", 404, "target webrtc/rooms"),
    ] {
        let (got, text) = service.text(path).await;
        assert!(got.as_u16() == status && text.contains(words), "{path}: {got} {text}");
    }
}

#[tokio::test]
async fn a_module_is_the_type_in_any_case() {
    let sora = server(StatusCode::OK).await;
    let service = Service::start(vec![target("webrtc", "sora", &sora.url())], RouterOptions::default()).await;
    // Empty, as a template writes it that has no module.
    for module in ["sora", "Sora", "SORA", ""] {
        assert_eq!(service.text(&format!("/probe?target=webrtc/sora&module={module}")).await.0, StatusCode::OK);
    }
}

#[tokio::test]
async fn a_loose_target_is_a_name_or_a_url_that_is_unique() {
    let (tokyo, osaka) = (server(StatusCode::OK).await, server(StatusCode::OK).await);
    let targets = vec![
        target("webrtc", "tokyo", &tokyo.url()),
        target("a", "osaka", &osaka.url()),
        target("b", "osaka", &osaka.url()),
    ];
    let service = Service::start(targets, loose()).await;
    for good in ["tokyo", "webrtc/tokyo", &tokyo.url(), tokyo.url().trim_end_matches('/')] {
        assert_eq!(service.text(&format!("/probe?target={good}")).await.0, StatusCode::OK, "{good}");
    }
    for ambiguous in ["osaka", &osaka.url()] {
        let (status, text) = service.text(&format!("/probe?target={ambiguous}")).await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
        assert!(text.contains("write one of: a/osaka, b/osaka"), "{text}");
    }
    assert_eq!(service.text("/probe?target=kyoto").await.0, StatusCode::NOT_FOUND);
    service.pollers.apply([target("webrtc", "kyoto", &tokyo.url())]);
    assert_eq!(service.text("/probe?target=kyoto").await.0, StatusCode::OK, "a target that came later is found");
    let (status, _) = service.text(&format!("/probe?target={}", tokyo.url())).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "its url is no longer unique");
}

#[tokio::test]
async fn nothing_is_denied_before_the_targets_are_known() {
    let service = Service::unknown(vec![], RouterOptions::default()).await;
    for path in ["/probe?target=webrtc/sora", "/sd", "/api/v1/targets", "/-/ready"] {
        let (status, text) = service.text(path).await;
        assert!(status == StatusCode::SERVICE_UNAVAILABLE && text.contains("not known yet"), "{path}: {status} {text}");
    }
    assert_eq!(service.text("/-/healthy").await.0, StatusCode::OK);
    service.pollers.set_known();
    assert_eq!(service.text("/-/ready").await.0, StatusCode::OK);
    assert_eq!(service.json("/sd").await, json!([]));
    assert_eq!(service.text("/probe?target=webrtc/sora").await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn readiness_ends_before_service_does() {
    let options = RouterOptions::default();
    let draining = options.draining.clone();
    let service = Service::start(vec![], options).await;
    draining.cancel();
    assert_eq!(service.text("/-/ready").await.0, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(service.text("/sd").await.0, StatusCode::OK);
}

/// A server that takes requests and never answers.
async fn hanging() -> Simulated {
    let routes = Router::new().fallback(any(|| async { std::future::pending::<()>().await }));
    Simulated::serve(routes, ([127, 0, 0, 1], 0).into()).await.unwrap()
}

#[tokio::test]
async fn a_scrape_does_not_wait_longer_than_its_timeout_leaves() {
    let sora = hanging().await;
    let service = Service::start(vec![pending("webrtc", "sora", &sora.url())], RouterOptions::default()).await;
    for debug in ["", "&debug=true"] {
        let start = Instant::now();
        let request = service.get(&format!("/probe?target=webrtc/sora{debug}"));
        let response = request.header("x-prometheus-scrape-timeout-seconds", "0.7").send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        let text = response.text().await.unwrap();
        assert!(text.contains("probe_success 0\n") && text.contains("{reason=\"timeout\"} 1\n"), "{text}");
        assert!(!text.contains("sora_up"), "{text}");
        let took = start.elapsed();
        assert!(took >= Duration::from_millis(200) && took < allowed(Duration::from_secs(3)), "{took:?}");
    }
}

#[tokio::test]
async fn the_timeout_of_a_probe_is_what_the_scrape_could_wait_if_that_was_less() {
    let (hangs, answers) = (hanging().await, server(StatusCode::OK).await);
    let slow = declared("web", "slow", Type::Http, &hangs.url(), |spec| {
        spec.timeout = Some(Duration::from_mins(9).into());
    });
    let swift = declared("web", "swift", Type::Http, &answers.url(), |_| {});
    let service = Service::start(vec![slow, swift], RouterOptions::default()).await;
    for (name, header, said) in
        [("slow", "0.7", "probe_timeout_seconds 0.2\n"), ("swift", "60", "probe_timeout_seconds 5\n")]
    {
        let request = service.get(&format!("/probe?target=web/{name}"));
        let text = request.header("x-prometheus-scrape-timeout-seconds", header).send().await.unwrap();
        let text = text.text().await.unwrap();
        assert!(text.contains(said) && text.contains("probe_http_status_code"), "{text}");
    }
}

#[tokio::test]
async fn a_timeout_header_that_is_no_time_is_refused() {
    let service = Service::start(vec![target("webrtc", "sora", &nobody())], RouterOptions::default()).await;
    for bad in ["soon", "", "-1", "nan", "inf", "10s"] {
        let request = service.get("/probe?target=webrtc/sora").header("x-prometheus-scrape-timeout-seconds", bad);
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), StatusCode::BAD_REQUEST, "{bad}");
        assert!(response.text().await.unwrap().contains("X-Prometheus-Scrape-Timeout-Seconds"));
    }
}

#[tokio::test]
async fn debug_tells_the_calls_and_keeps_the_secrets() {
    let sora = server(StatusCode::SERVICE_UNAVAILABLE).await;
    let mut watched = target("webrtc", "sora", &sora.url());
    Arc::make_mut(&mut watched.source).headers.insert("x-channel", HeaderValue::from_static("stable"));
    let service = Service::start(vec![watched], RouterOptions::default()).await;
    let response = service.get("/probe?target=webrtc/sora&debug=true").send().await.unwrap();
    assert_eq!(response.headers()["content-type"], "text/plain; charset=utf-8");
    let text = response.text().await.unwrap();
    for words in [
        "Target webrtc/sora\n",
        "state         down since ",
        "reason        http_status: GetStatsReport: answered 503 Service Unavailable, 2 bytes of JSON\n",
        "last success  never\n",
        &format!("POST {}\n", sora.url()),
        "x-sora-target: Sora_20171010.GetStatsReport\n",
        "x-api-key: <secret>\n",
        "x-channel: stable\n",
        "→ 503, ",
        "error: answered 503 Service Unavailable, 2 bytes of JSON\n",
        "body:  not shown, --debug-bodies shows its beginning\n",
        "probe_success 0\n",
        "value: <masked>\n",
    ] {
        assert!(text.contains(words), "{words:?} in {text}");
    }
    assert!(!text.contains("open sesame"));
    let poller = service.pollers.list().remove(0);
    assert_eq!(poller.since_last_scrape(), None, "a look is no scrape");
    service.get("/probe?target=webrtc/sora").send().await.unwrap();
    assert!(poller.since_last_scrape().is_some());
}

#[tokio::test]
async fn members_are_listed_by_debug_and_one_is_shown_alone() {
    let (up, down) = (server(StatusCode::OK).await, server(StatusCode::SERVICE_UNAVAILABLE).await);
    let sora = target_of_pods("webrtc", "sora", &[("sora-0", up.address), ("sora-1", down.address)]);
    let service = Service::start(vec![sora], RouterOptions::default()).await;
    let (status, text) = service.text("/probe?target=webrtc/sora&debug=true").await;
    assert_eq!(status, StatusCode::OK);
    for words in [
        "  members       1 of 2 answer (1 down, 1 up)\n",
        "  state         up since ",
        "  partial       1 of 2 answered; sora-1: http_status\n",
        "\n  down   sora-1  ",
        "    http_status: GetStatsReport: answered 503 Service Unavailable, 2 bytes of JSON\n  up     sora-0  ",
        "sora_up{pod=\"sora-0\"} 1\n",
        "sora_up{pod=\"sora-1\"} 0\n",
        "/probe?target=webrtc/sora&debug=true&pod=sora-1\n",
    ] {
        assert!(text.contains(words), "{words:?} in {text}");
    }
    let (status, text) = service.text("/probe?target=webrtc/sora&debug=true&pod=sora-1").await;
    assert_eq!(status, StatusCode::OK);
    for words in [
        "Target webrtc/sora, pod sora-1\n",
        &format!("  address       {}\n  node          node-1\n", down.address),
        "     POST http://sora.webrtc.svc:3000/\n",
        "     x-api-key: <secret>\n",
        "     → 503, 2 bytes, ",
        "     body:  not shown, --debug-bodies shows its beginning\n",
        "probe_member_failure_info{pod=\"sora-1\",reason=\"http_status\"} 1\n",
    ] {
        assert!(text.contains(words), "{words:?} in {text}");
    }
    for words in ["open sesame", "pod=\"sora-0\"", "probe_success "] {
        assert!(!text.contains(words), "{words:?} in {text}");
    }
    let (status, text) = service.text("/probe?target=webrtc/sora&debug=true&pod=sora-2").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert!(text.ends_with("has no member pod=\"sora-2\": it has 2, write one of pod=sora-0, pod=sora-1\n"), "{text}");
    // As a template writes it that has no pod.
    assert_eq!(service.text("/probe?target=webrtc/sora&pod=").await.0, StatusCode::OK);
    let answer = service.json("/api/v1/targets").await;
    let members = &answer["data"]["targets"][0]["members"];
    assert_eq!((&members[0]["name"], &members[0]["state"]), (&json!("sora-0"), &json!("up")));
    assert_eq!((&members[1]["name"], &members[1]["reason"]), (&json!("sora-1"), &json!("http_status")));
    assert_eq!(members[1]["address"], json!(down.address.to_string()));
    let (_, page) = service.text("/").await;
    assert!(page.contains("<small>1/2 up") && page.contains("&amp;debug=true&amp;pod=sora-1\">"), "{page}");
}

#[tokio::test]
async fn head_has_the_headers_of_get_and_no_body() {
    let sora = server(StatusCode::OK).await;
    let service = Service::start(vec![target("webrtc", "sora", &sora.url())], RouterOptions::default()).await;
    for path in ["/", "/probe?target=webrtc/sora", "/metrics", "/sd", "/api/v1/targets", "/-/healthy", "/-/ready"] {
        let head = client().head(service.url(path)).send().await.unwrap();
        assert_eq!(head.status(), StatusCode::OK, "{path}");
        assert!(head.headers()["content-length"].to_str().unwrap().parse::<usize>().unwrap() > 0, "{path}");
        assert!(head.bytes().await.unwrap().is_empty(), "{path}");
    }
}

#[tokio::test]
async fn other_methods_are_told_which_there_are() {
    let service = Service::start(vec![], RouterOptions::default()).await;
    for path in ["/", "/probe", "/metrics", "/sd", "/api/v1/targets", "/-/healthy", "/-/ready"] {
        for method in [Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS] {
            let response = client().request(method.clone(), service.url(path)).send().await.unwrap();
            assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED, "{method} {path}");
            let allow: Vec<_> = response.headers().get_all("allow").iter().collect();
            assert_eq!(allow, ["GET, HEAD"], "{method} {path}");
        }
    }
}

#[tokio::test]
async fn an_unknown_path_is_told_the_known_ones() {
    let service = Service::start(vec![], RouterOptions::default()).await;
    for path in ["/nothing", "/probe/", "/-/reload", "/../etc/passwd", "/sd%00"] {
        let (status, text) = service.text(path).await;
        assert!(status == StatusCode::NOT_FOUND && text.contains("/api/v1/targets"), "{path}: {status} {text}");
    }
}

#[tokio::test]
async fn metrics_tell_of_every_target_and_of_every_combination_of_type_and_state() {
    let sora = server(StatusCode::OK).await;
    let mut suspended = target("webrtc", "later", "http://later.invalid/");
    suspended.suspend = true;
    let targets = vec![target("webrtc", "up", &sora.url()), target("webrtc", "down", &nobody()), suspended];
    let service = Service::start(targets, RouterOptions::default()).await;
    service.settle().await;
    assert_eq!(service.text("/probe?target=webrtc/up").await.0, StatusCode::OK);
    let response = service.get("/metrics").send().await.unwrap();
    assert_eq!(response.headers()["content-type"], TEXT);
    let text = response.text().await.unwrap();
    for line in [
        "scrapetarget_up{target_namespace=\"webrtc\",target_name=\"up\",type=\"Sora\"} 1\n",
        "scrapetarget_up{target_namespace=\"webrtc\",target_name=\"down\",type=\"Sora\"} 0\n",
        "scrapetarget_last_success_timestamp_seconds{target_namespace=\"webrtc\",target_name=\"up\",type=\"Sora\"} 1",
        "scrapetarget_targets{type=\"Sora\",state=\"up\"} 1\n",
        "scrapetarget_targets{type=\"Sora\",state=\"down\"} 1\n",
        "scrapetarget_targets{type=\"Sora\",state=\"suspended\"} 1\n",
        "scrapetarget_targets{type=\"Mediasoup\",state=\"invalid\"} 0\n",
        "scrapetarget_probe_requests_total{code=\"200\"} 1\n",
        "scrapetarget_build_info{",
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
    assert!(!text.contains("target_name=\"later\""), "neither up nor down");
    assert!(!text.contains("timestamp_seconds{target_namespace=\"webrtc\",target_name=\"down\""));
    assert_eq!(text.matches("\nscrapetarget_targets{").count(), 5 * Type::ALL.len());
    let request = service.get("/metrics").header("accept", PROMETHEUS_3).header("accept-encoding", "gzip");
    let response = request.send().await.unwrap();
    assert_eq!(response.headers()["content-type"], OPENMETRICS);
    let text = gunzip(&response.bytes().await.unwrap());
    assert!(text.ends_with("# EOF\n"));
    assert!(TARGET_FAMILIES.iter().all(|family| text.contains(&format!("# TYPE {} gauge\n", family.name))));
}

#[tokio::test]
async fn refused_scrapes_are_counted_by_their_status() {
    let service = Service::start(vec![], RouterOptions::default()).await;
    for path in ["/probe", "/probe", "/probe?target=a/b"] {
        service.text(path).await;
    }
    let (_, text) = service.text("/metrics").await;
    assert!(text.contains("scrapetarget_probe_requests_total{code=\"400\"} 2\n"), "{text}");
    assert!(text.contains("scrapetarget_probe_requests_total{code=\"404\"} 1\n"), "{text}");
}

#[tokio::test]
async fn discovery_has_one_group_each_with_all_that_a_scrape_needs() {
    let tokyo = declared("webrtc", "tokyo", Type::Sora, "http://tokyo.invalid/", |spec| {
        spec.labels.insert("region".to_owned(), "jp \"east\"".to_owned());
    });
    let mut suspended = target("webrtc", "later", "http://later.invalid/");
    suspended.suspend = true;
    let service =
        Service::start(vec![tokyo, suspended, target("a", "z", "http://z.invalid/")], RouterOptions::default()).await;
    let host = service.address.to_string();
    let group = |namespace: &str, name: &str| {
        json!({ "targets": [host], "labels": {
            "__metrics_path__": "/probe",
            "__param_target": format!("{namespace}/{name}"),
            "__scrape_interval__": "15s",
            "__scrape_timeout__": "6s",
            "__tmp_hash": format!("{namespace}/{name}"),
            "instance": format!("{namespace}/{name}"),
            "namespace": namespace,
            "target_namespace": namespace,
            "target_name": name,
        }})
    };
    let mut tokyo = group("webrtc", "tokyo");
    tokyo["labels"]["region"] = json!("jp \"east\"");
    assert_eq!(service.json("/sd").await, json!([group("a", "z"), tokyo]));
}

#[tokio::test]
async fn discovery_gives_the_job_and_the_instance_that_a_target_names() {
    let web = declared("web", "shop", Type::Http, "https://shop.invalid", |spec| {
        let monitor = spec.monitor.get_or_insert_default();
        (monitor.job, monitor.instance) = (Some("blackbox $1".to_owned()), InstanceLabel::Url);
    });
    let service = Service::start(vec![web], RouterOptions::default()).await;
    let labels = service.json("/sd").await[0]["labels"].take();
    assert_eq!(labels["job"], "blackbox $1");
    assert_eq!(labels["instance"], "https://shop.invalid", "as it is written");
    assert_eq!((&labels["__param_target"], &labels["__tmp_hash"]), (&json!("web/shop"), &json!("web/shop")));
}

#[tokio::test]
async fn each_target_is_in_one_of_both_answers_about_honor_labels() {
    let honoring = |name: &str, honor_labels: bool| {
        declared("a", name, Type::Sora, "http://x.invalid/", |spec| {
            spec.monitor.get_or_insert_default().honor_labels = Some(honor_labels);
        })
    };
    let targets = vec![honoring("own", true), honoring("ours", false), target("a", "plain", "http://x.invalid/")];
    let service = Service::start(targets, RouterOptions::default()).await;
    for (query, expected) in [
        ("", vec!["ours", "own", "plain"]),
        ("?honorLabels=true", vec!["own"]),
        ("?honorLabels=false", vec!["ours", "plain"]),
        ("?honorLabels=false&namespace=b", vec![]),
        ("?honorLabels=true&honorLabelsDefault=true", vec!["own", "plain"]),
        ("?honorLabelsDefault=true&honorLabels=false", vec!["ours"]),
        ("?honorLabelsDefault=true", vec!["ours", "own", "plain"]),
    ] {
        let groups = service.json(&format!("/sd{query}")).await;
        let names: Vec<&str> =
            groups.as_array().unwrap().iter().map(|g| g["labels"]["target_name"].as_str().unwrap()).collect();
        assert_eq!(names, expected, "{query}");
    }
    for query in ["honorLabels=1", "honorLabelsDefault=yes"] {
        let (status, text) = service.text(&format!("/sd?{query}")).await;
        assert!(status == StatusCode::BAD_REQUEST && text.contains("write true or false"), "{text}");
    }
    assert_eq!(service.text("/api/v1/targets?honorLabels=true").await.0, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_host_that_is_no_address_does_not_become_a_target_of_prometheus() {
    let service = Service::start(vec![target("a", "z", "http://z.invalid/")], RouterOptions::default()).await;
    for host in ["a b", "x\"y", "user@host", "h/../..", "<script>", &"x".repeat(5000)] {
        let response = service.get("/sd").header("host", host).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::BAD_REQUEST, "{host}");
    }
    for host in ["exporter", "exporter.monitoring.svc:9850", "[::1]:9850", "10.0.0.1:80"] {
        let response = service.get("/sd").header("host", host).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK, "{host}");
    }
}

#[tokio::test]
async fn discovery_leads_to_the_external_url() {
    let targets = || vec![target("a", "z", "http://z.invalid/")];
    let service = Service::start(targets(), external("https://monitoring.example:8443/exporter/")).await;
    let group = &service.json("/sd").await[0];
    assert_eq!(group["targets"], json!(["monitoring.example:8443"]));
    assert_eq!(group["labels"]["__scheme__"], "https");
    assert_eq!(group["labels"]["__metrics_path__"], "/exporter/probe");
    assert_eq!(service.json("/exporter/sd").await[0], *group, "a proxy may leave the path's prefix");
    assert_eq!(service.text("/exporter/probe?target=a/none").await.0, StatusCode::NOT_FOUND);
    let service = Service::start(targets(), external("http://exporter.example/")).await;
    let group = &service.json("/sd").await[0];
    assert_eq!(group["targets"], json!(["exporter.example"]));
    assert_eq!(group["labels"]["__metrics_path__"], "/probe");
}

#[tokio::test]
async fn discovery_is_narrowed_by_namespace_type_and_labels() {
    let labelled = |namespace: &str, name: &str, kind: Type, labels: &[(&str, &str)]| {
        declared(namespace, name, kind, "http://x.invalid/", |spec| {
            spec.labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        })
    };
    let targets = vec![
        labelled("a", "one", Type::Sora, &[("region", "east"), ("tier", "1=a")]),
        labelled("a", "two", Type::Orion, &[("region", "west")]),
        labelled("b", "three", Type::Orion, &[("region", "east")]),
    ];
    let service = Service::start(targets, RouterOptions::default()).await;
    for (query, expected) in [
        ("", vec!["one", "two", "three"]),
        ("?namespace=a", vec!["one", "two"]),
        ("?namespace=a&namespace=b&type=orion", vec!["two", "three"]),
        ("?type=Sora", vec!["one"]),
        ("?label=region=east", vec!["one", "three"]),
        ("?label=region%3Deast&label=tier=1%3Da", vec!["one"]),
        ("?namespace=none", vec![]),
    ] {
        let groups = service.json(&format!("/sd{query}")).await;
        let names: Vec<&str> =
            groups.as_array().unwrap().iter().map(|g| g["labels"]["target_name"].as_str().unwrap()).collect();
        assert_eq!(names, expected, "{query}");
    }
    for (query, words) in [("?label=region", "name=value"), ("?type=redis", "Sora"), ("?labels=a=b", "\"labels\"")] {
        let (status, text) = service.text(&format!("/sd{query}")).await;
        assert!(status == StatusCode::BAD_REQUEST && text.contains(words), "{query}: {status} {text}");
    }
}

#[tokio::test]
async fn the_api_tells_the_state_of_every_target() {
    let sora = server(StatusCode::OK).await;
    let up = declared("webrtc", "up", Type::Sora, &sora.url(), |spec| {
        spec.labels.insert("region".to_owned(), "east".to_owned());
    });
    let mut invalid = target("webrtc", "broken", "http://x.invalid/");
    invalid.problem = Some(scrapetarget_exporter::target::Problem::invalid_spec("Secret webrtc/key does not exist"));
    let service = Service::start(vec![up, invalid], RouterOptions::default()).await;
    service.settle().await;
    let answer = service.json("/api/v1/targets").await;
    assert_eq!(answer["status"], "success");
    let [broken, up] = &answer["data"]["targets"].as_array().unwrap()[..] else { panic!("{answer}") };
    for (key, value) in [
        ("namespace", json!("webrtc")),
        ("name", json!("broken")),
        ("type", json!("Sora")),
        ("url", json!("http://x.invalid/")),
        ("state", json!("invalid")),
        ("reason", json!("config")),
        ("message", json!("Secret webrtc/key does not exist")),
        ("lastPoll", json!(null)),
        ("lastSuccess", json!(null)),
        ("durationSeconds", json!(null)),
        ("samples", json!(null)),
        ("intervalSeconds", json!(600.0)),
        ("labels", json!({})),
    ] {
        assert_eq!(broken[key], value, "{key}");
    }
    assert_eq!(up["state"], "up");
    assert_eq!(up["reason"], json!(null));
    assert_eq!(up["labels"], json!({ "region": "east" }));
    assert_eq!(up["lastPoll"], up["lastSuccess"]);
    assert!(up["since"].as_str().unwrap().ends_with('Z'));
    assert!(up["durationSeconds"].as_f64().unwrap() > 0.0 && up["samples"].as_u64().unwrap() > 5);
}

#[tokio::test]
async fn the_api_is_narrowed_as_discovery_is_and_by_state() {
    let sora = server(StatusCode::OK).await;
    let labelled = |namespace, name, url: &str| {
        declared(namespace, name, Type::Sora, url, |spec| {
            spec.labels.insert("region".to_owned(), name.to_owned());
        })
    };
    let targets =
        vec![labelled("a", "up", &sora.url()), labelled("a", "down", &nobody()), labelled("b", "up", &sora.url())];
    let service = Service::start(targets, RouterOptions::default()).await;
    service.settle().await;
    for (query, names) in [
        ("?state=down", &["a/down"][..]),
        ("?state=down&state=up", &["a/down", "a/up", "b/up"]),
        ("?state=up&namespace=b", &["b/up"]),
        ("?label=region%3Dup&type=sora", &["a/up", "b/up"]),
        ("?state=suspended", &[]),
    ] {
        let answer = service.json(&format!("/api/v1/targets{query}")).await;
        let found = answer["data"]["targets"].as_array().unwrap().iter();
        let found: Vec<String> =
            found.map(|t| format!("{}/{}", t["namespace"].as_str().unwrap(), t["name"].as_str().unwrap())).collect();
        assert_eq!(found, names, "{query}");
    }
    for (query, words) in [
        ("?stat=down", "unknown parameter \"stat\", known are namespace, type, state and label"),
        ("?state=broken", "write one of up, down, pending, suspended, invalid"),
    ] {
        let response = service.get(&format!("/api/v1/targets{query}")).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::BAD_REQUEST, "{query}");
        let answer: serde_json::Value = serde_json::from_slice(&response.bytes().await.unwrap()).unwrap();
        assert_eq!((&answer["status"], &answer["errorType"]), (&json!("error"), &json!("bad_data")), "{query}");
        assert!(answer["error"].as_str().unwrap().contains(words), "{query}: {answer}");
    }
    // What Prometheus discovers must not come and go with every poll.
    assert_eq!(service.text("/sd?state=down").await.0, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_target_that_is_deleted_is_gone_from_every_path_at_once() {
    let sora = server(StatusCode::OK).await;
    let gone = target("webrtc", "gone", &sora.url());
    let service = Service::start(vec![gone.clone(), target("webrtc", "stays", &sora.url())], loose()).await;
    service.settle().await;
    service.pollers.remove(&gone.id);
    assert_eq!(service.text("/probe?target=webrtc/gone").await.0, StatusCode::NOT_FOUND);
    assert_eq!(service.text("/probe?target=gone").await.0, StatusCode::NOT_FOUND);
    for path in ["/sd", "/api/v1/targets", "/metrics", "/"] {
        let (_, text) = service.text(path).await;
        assert!(text.contains("stays") && !text.contains("gone"), "{path}: {text}");
    }
}

#[tokio::test]
async fn the_page_shows_what_is_wanted() {
    let sora = server(StatusCode::OK).await;
    let mut targets: Vec<_> = (0..1201)
        .map(|i| {
            let mut target = target("many", &format!("t{i:04}"), "http://x.invalid/");
            target.suspend = true;
            target
        })
        .collect();
    targets.push(target("webrtc", "up", &sora.url()));
    let service = Service::start(targets, RouterOptions::default()).await;
    service.settle().await;
    let rows = |page: &str| page.matches("<tr role=\"row\"").count();
    let (_, page) = service.text("/").await;
    assert!(page.contains("<title>1 up · scrapetarget-exporter</title>"), "{}", &page[..600]);
    assert_eq!(rows(&page), 500);
    assert!(page.contains("1 to 500 of 1,202 targets") && page.contains("href=\"?page=2\""));
    let (_, page) = service.text("/?page=3&refresh=off").await;
    assert_eq!(rows(&page), 202);
    assert!(page.contains("href=\"?page=2&amp;refresh=off\"") && !page.contains("next page"));
    assert!(!page.contains("http-equiv=\"refresh\""));
    assert_eq!(rows(&service.text("/?page=999").await.1), 202, "the last page there is");
    assert!(!page.contains("class=\"matches\""), "nothing is left out");
    let (_, page) = service.text("/?state=up").await;
    assert!(rows(&page) == 1 && page.contains(">1 of 1,202 targets matches<"), "{page}");
    assert_eq!(rows(&service.text("/?q=T00&state=suspended&type=sora").await.1), 100);
    let (_, page) = service.text("/?q=nothing+like+it").await;
    assert!(rows(&page) == 0 && page.contains("No target matches") && page.contains("value=\"nothing like it\""));
}

#[tokio::test]
async fn the_page_shows_the_labels_that_it_filters_by() {
    let labelled = declared("webrtc", "a", Type::Sora, "http://x.invalid/", |spec| {
        spec.suspend = true;
        spec.labels.insert("region".to_owned(), "<tokyo>".to_owned());
        spec.labels.insert("long".to_owned(), "x".repeat(200));
        spec.labels.extend((0..9).map(|i| (format!("z{i}"), "v".to_owned())));
    });
    let mut other = target("webrtc", "b", "http://x.invalid/");
    other.suspend = true;
    let service = Service::start(vec![labelled, other], RouterOptions::default()).await;
    let (_, page) = service.text("/?refresh=off").await;
    assert!(
        page.contains("<a href=\"?q=region%3D%3Ctokyo%3E&amp;refresh=off\"><bdi>region=&lt;tokyo&gt;</bdi></a>"),
        "{page}"
    );
    assert!(page.contains(&format!("<bdi>long={}…</bdi>", "x".repeat(75))), "{page}");
    assert!(page.contains("<li>and 3 more</li>"), "{page}");
    let (_, page) = service.text("/?q=region%3D%3Ctokyo%3E").await;
    assert!(page.contains("1 of 2 targets matches") && page.contains("</small>a</th>"), "{page}");
}

#[tokio::test]
async fn the_page_keeps_strangers_out() {
    let service = Service::start(vec![], RouterOptions::default()).await;
    let response = service.get("/?q=%22%3E%3Cscript%3Ealert(1)%3C/script%3E").send().await.unwrap();
    let policy = response.headers()["content-security-policy"].to_str().unwrap().to_owned();
    assert!(policy.starts_with("default-src 'none'; style-src 'nonce-") && !policy.contains("unsafe"), "{policy}");
    assert_eq!(response.headers()["x-content-type-options"], "nosniff");
    let page = response.text().await.unwrap();
    assert!(page.contains("value=\"&quot;&gt;&lt;script&gt;alert(1)&lt;/script&gt;\"") && !page.contains("<script"));
    let again = service.get("/").send().await.unwrap();
    assert_ne!(again.headers()["content-security-policy"], policy, "a nonce is used once");
}
