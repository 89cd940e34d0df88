use axum::body::Body;
use serde_json::Value;
use tower::ServiceExt;

use super::*;

/// Sends one request and returns status, head and body.
async fn send(broker: &Broker, method: &str, uri: &str, headers: &[(&str, &str)]) -> (u16, HeaderMap, String) {
    let mut request = Request::builder().method(method).uri(uri);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = broker.routes().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    let (head, body) = response.into_parts();
    let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
    (head.status.as_u16(), head.headers, String::from_utf8(body.to_vec()).unwrap())
}

async fn tree(broker: &Broker) -> Value {
    let (status, _, body) = send(broker, "GET", "/admin/metrics", &[("fiware-service", "test")]).await;
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).unwrap()
}

#[tokio::test]
async fn it_obeys_the_table_of_requests() {
    /// Method, URL, headers; status and beginning of the body.
    type Row = (&'static str, &'static str, &'static [(&'static str, &'static str)], u16, &'static str);
    const NOT_FOUND: &str =
        r#"{"error":"BadRequest","description":"Service not found. Check your URL as probably it is wrong."}"#;
    let rows: [Row; 14] = [
        ("GET", "/admin/metrics", &[("accept", "application/json")], 200, "{\"services\":"),
        ("GET", "/admin/metrics/", &[], 200, "{\"services\":"),
        ("GET", "/admin/metrics?reset=1", &[], 200, "{\"services\":"),
        (
            "GET",
            "/admin/metrics?reset=",
            &[],
            400,
            r#"{"error":"BadRequest","description":"Empty right-hand-side for URI param /reset/"}"#,
        ),
        ("DELETE", "/admin/metrics", &[], 204, ""),
        ("POST", "/admin/metrics", &[], 405, r#"{"error":"MethodNotAllowed","description":"method not allowed"}"#),
        ("OPTIONS", "/admin/metrics", &[], 405, r#"{"error":"MethodNotAllowed","description":"method not allowed"}"#),
        (
            "GET",
            "/admin/metrics",
            &[("content-type", "application/json")],
            400,
            r#"{"error":"BadRequest","description":"Orion accepts no payload for GET/DELETE requests. HTTP header Content-Type is thus forbidden"}"#,
        ),
        (
            "GET",
            "/admin/metrics",
            &[("accept", "text/plain")],
            406,
            r#"{"error":"NotAcceptable","description":"acceptable MIME types: application/json"}"#,
        ),
        (
            "GET",
            "/admin/metrics",
            &[("accept", "application/openmetrics-text")],
            406,
            r#"{"error":"NotAcceptable","description":"no acceptable mime-type in accept header"}"#,
        ),
        (
            "GET",
            "/admin/metrics",
            &[("fiware-service", "bad-tenant")],
            400,
            r#"{"error":"BadRequest","description":"bad character in tenant name - only underscore and alphanumeric characters are allowed"}"#,
        ),
        (
            "GET",
            "/admin/metrics",
            &[("fiware-servicepath", "nope")],
            400,
            r#"{"error":"BadRequest","description":"Only /absolute/ Service Paths allowed"#,
        ),
        ("GET", "/ADMIN/METRICS", &[], 400, NOT_FOUND),
        ("GET", "/metrics", &[], 400, NOT_FOUND),
    ];
    let broker = Broker::new(1);
    for (method, uri, headers, wanted, begins) in rows {
        let (status, head, body) = send(&broker, method, uri, headers).await;
        assert_eq!(status, wanted, "{method} {uri} {headers:?}: {body}");
        assert!(body.starts_with(begins), "{method} {uri} {headers:?}: {body}");
        assert!(head.contains_key("fiware-correlator"));
        let content_type = if body.contains("acceptable MIME types") { "text/plain" } else { "application/json" };
        assert_eq!(head["content-type"], content_type);
        assert_eq!(head.get("allow").is_some(), wanted == 405);
    }
}

#[tokio::test]
async fn its_metrics_can_be_off() {
    let broker = Broker::new(1);
    broker.disable_metrics(true);
    for method in ["GET", "DELETE"] {
        let (status, _, body) = send(&broker, method, "/admin/metrics", &[]).await;
        assert_eq!((status, body.as_str()), (400, r#"{"error":"BadRequest","description":"metrics desactivated"}"#));
    }
    assert_eq!(send(&broker, "GET", "/statistics", &[]).await.0, 200);
}

#[tokio::test]
async fn a_request_counts_under_its_own_service_from_the_next_answer_on() {
    let broker = Broker::new(1);
    let headers = [("fiware-service", "Test"), ("fiware-servicepath", "/a/b/, /c")];
    let (_, _, first) = send(&broker, "GET", "/admin/metrics", &headers).await;
    assert!(!first.contains("\"test\""), "{first}");
    send(&broker, "GET", "/nowhere", &headers).await;
    let after = tree(&broker).await;
    let block = &after["services"]["test"]["subservs"]["a/b"];
    assert_eq!(block["incomingTransactions"], 2);
    assert_eq!(block["incomingTransactionErrors"], 1);
    assert_eq!(block["incomingTransactionResponseSize"], first.len() + 97);
}

#[tokio::test]
async fn a_delete_leaves_only_itself() {
    let broker = Broker::new(1);
    broker.pass(Duration::from_mins(10));
    send(&broker, "DELETE", "/admin/metrics", &[("fiware-service", "other")]).await;
    let block = &tree(&broker).await["services"]["other"]["sum"];
    assert_eq!(block["incomingTransactions"], 1);
    assert_eq!(block["incomingTransactionResponseSize"], Value::Null);
}

#[tokio::test]
async fn its_counters_rise_with_time_and_fall_only_by_a_reset() {
    fn paths(value: &Value, path: &str, out: &mut Vec<(String, f64)>) {
        match value {
            Value::Object(map) => map.iter().for_each(|(key, value)| paths(value, &format!("{path}.{key}"), out)),
            value => out.push((path.to_owned(), value.as_f64().unwrap())),
        }
    }
    let broker = Broker::new(7);
    let mut last = Value::Null;
    for step in 1..60_u64 {
        broker.pass(Duration::from_millis(777 * step));
        let now = tree(&broker).await;
        let mut before = Vec::new();
        if !last.is_null() {
            paths(&last, "", &mut before);
        }
        for (path, value) in before.into_iter().filter(|(path, _)| !path.ends_with("serviceTime")) {
            let key: Vec<&str> = path.split('.').skip(1).collect();
            let later = key.iter().fold(&now, |at, key| &at[*key]).as_f64().unwrap();
            assert!(later >= value, "{path} fell from {value} to {later}");
        }
        last = now;
    }
    let pumps = |tree: &Value| tree["services"]["acme_water"]["subservs"]["pumps"]["incomingTransactions"].as_f64();
    assert!(pumps(&last) > Some(10_000.0), "1,800 a minute for 23 minutes");
    broker.reset();
    assert!(pumps(&tree(&broker).await) < pumps(&last));
}

#[tokio::test]
async fn its_sums_are_those_of_its_parts() {
    let broker = Broker::new(3);
    broker.pass(Duration::from_hours(1));
    let tree = tree(&broker).await;
    let of = |block: &Value, key: &str| block[key].as_u64().unwrap_or(0);
    for key in
        ["incomingTransactions", "incomingTransactionErrors", "outgoingTransactionErrors", "outgoingTransactions"]
    {
        let services = tree["services"].as_object().unwrap();
        let mut total = 0;
        for service in services.values() {
            let parts: u64 = service["subservs"].as_object().unwrap().values().map(|block| of(block, key)).sum();
            assert_eq!(parts, of(&service["sum"], key));
            total += parts;
        }
        assert!(total > 0);
        assert_eq!(total, of(&tree["sum"]["sum"], key));
    }
}

#[tokio::test]
async fn its_other_documents_have_the_shapes_of_the_real_ones() {
    let broker = Broker::new(1);
    broker.pass(Duration::from_secs(90_061));
    let (_, _, body) = send(&broker, "GET", "/statistics", &[]).await;
    let statistics: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(statistics["counters"]["requests"]["/statistics"]["GET"], 1, "it is in its own answer");
    assert_eq!(statistics["semWait"].as_object().unwrap().len(), 7);
    assert_eq!(statistics["notifQueue"].as_object().unwrap().len(), 8);
    assert_eq!(statistics["uptime_in_secs"], 90_061);
    broker.statistics_blocks(false);
    let (_, _, body) = send(&broker, "GET", "/statistics", &[]).await;
    assert_eq!(body, r#"{"uptime_in_secs":90061,"measuring_interval_in_secs":90061}"#);
    let (_, _, body) = send(&broker, "GET", "/version", &[]).await;
    assert!(body.contains(r#""uptime" : "1 d, 1 h, 1 m, 1 s""#), "{body}");
    let (_, _, body) = send(&broker, "GET", "/cache/statistics", &[]).await;
    let cache: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(cache["items"], cache["inserts"].as_u64().unwrap() - cache["removes"].as_u64().unwrap());
    let (_, _, body) = send(&broker, "GET", "/admin/log", &[]).await;
    assert_eq!(serde_json::from_str::<Value>(&body).unwrap()["level"], "WARN");
}

#[tokio::test]
async fn a_reset_of_the_statistics_leaves_uptime_and_traffic_alone() {
    let broker = Broker::new(1);
    broker.pass(Duration::from_secs(100));
    let (status, _, body) = send(&broker, "DELETE", "/statistics", &[]).await;
    assert_eq!((status, body.as_str()), (200, r#"{"message":"All statistics counter reset"}"#));
    let (_, _, body) = send(&broker, "GET", "/statistics", &[]).await;
    let statistics: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(statistics["uptime_in_secs"], 100);
    assert_eq!(statistics["measuring_interval_in_secs"], 0);
    assert!(tree(&broker).await["sum"]["sum"]["incomingTransactions"].as_u64() > Some(1_000));
}

#[tokio::test]
async fn only_the_exact_word_true_resets_and_the_old_numbers_are_still_in_that_answer() {
    let broker = Broker::new(1);
    broker.pass(Duration::from_mins(10));
    let total =
        |body: &str| serde_json::from_str::<Value>(body).unwrap()["sum"]["sum"]["incomingTransactions"].as_u64();
    send(&broker, "GET", "/admin/metrics?reset=True", &[]).await;
    let (_, _, body) = send(&broker, "GET", "/admin/metrics?reset=true", &[]).await;
    assert!(total(&body) > Some(10_000), "8,810 a minute");
    let (_, _, body) = send(&broker, "GET", "/admin/metrics", &[]).await;
    assert!(total(&body) < Some(10_000), "{body}");
}
