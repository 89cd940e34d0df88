//! OAuth 2.0 from end to end: tokens of a real token endpoint, sent to real servers, and what both can do wrong.
#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test may")]

mod support;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures::StreamExt;
use rcgen::{KeyPair, date_time_ymd};
use scrapetarget_exporter::dial::AddressRules;
use scrapetarget_exporter::fetch::{Clients, Limits};
use scrapetarget_exporter::kind::{Reason, Type};
use scrapetarget_exporter::poll::{Poller, Pollers, Snapshot};
use scrapetarget_exporter::self_metrics::SelfMetrics;
use scrapetarget_exporter::target::{Member, MemberLabel, MemberSource, Target, TargetId};
use serde_json::{Value, json};
use simulators::Simulated;
use support::eventually::{PATIENCE, eventually, pass};
use support::faults::closed_port;
use support::probing::{Certificate, authority, pem, target_of};
use support::program::{Running, folder_with, run};
use support::proxy::Proxy;
use support::{choose_tls_provider, poll_once, pollers, pollers_with, series, target, text, tools};
use tokio_rustls::TlsAcceptor;

/// A request that a server got.
#[derive(Clone, Debug)]
struct Got {
    at: Instant,
    method: Method,
    path: String,
    headers: HeaderMap,
    body: String,
}

impl Got {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

/// What is answered.
enum Answer {
    Says(u16, String),
    /// Nothing, for ever.
    Hangs,
    /// A body without end.
    Endless,
    /// A redirect, by this status, to another place.
    Redirects(u16, String),
    /// A body that is compressed.
    Gzip(String),
}

type Script = dyn Fn(usize, &Got) -> Answer + Send + Sync;

/// A server that does what it is told, and remembers what came.
struct Server {
    simulated: Simulated,
    got: Arc<Mutex<Vec<Got>>>,
    script: Arc<Mutex<Arc<Script>>>,
}

impl Server {
    async fn start(script: impl Fn(usize, &Got) -> Answer + Send + Sync + 'static) -> Self {
        let got = Arc::<Mutex<Vec<Got>>>::default();
        let script: Arc<Mutex<Arc<Script>>> = Arc::new(Mutex::new(Arc::new(script)));
        let (all, told) = (Arc::clone(&got), Arc::clone(&script));
        let routes = Router::new().fallback(move |method: Method, uri: Uri, headers: HeaderMap, body: String| {
            let request = Got { at: Instant::now(), method, path: uri.to_string(), headers, body };
            let number = {
                let mut all = all.lock().unwrap();
                all.push(request.clone());
                all.len() - 1
            };
            let script = Arc::clone(&told.lock().unwrap());
            async move { answer(script(number, &request)).await }
        });
        let simulated = Simulated::serve(routes, ([127, 0, 0, 1], 0).into()).await.unwrap();
        Self { simulated, got, script }
    }

    /// A token endpoint whose tokens are `token-1`, `token-2` and so on.
    async fn idm(fields: &'static str) -> Self {
        Self::start(move |number, _| token(number + 1, fields)).await
    }

    /// The server of a target, which accepts every token.
    async fn app() -> Self {
        Self::start(|_, _| Answer::Says(200, "app_requests_total 1\n".to_owned())).await
    }

    fn answer_with(&self, script: impl Fn(usize, &Got) -> Answer + Send + Sync + 'static) {
        *self.script.lock().unwrap() = Arc::new(script);
    }

    fn url(&self) -> String {
        self.simulated.url()
    }

    fn got(&self) -> Vec<Got> {
        self.got.lock().unwrap().clone()
    }

    fn count(&self) -> usize {
        self.got.lock().unwrap().len()
    }
}

async fn answer(answer: Answer) -> Response {
    match answer {
        Answer::Says(status, body) => (StatusCode::from_u16(status).unwrap(), body).into_response(),
        Answer::Hangs => std::future::pending().await,
        Answer::Redirects(status, location) => {
            (StatusCode::from_u16(status).unwrap(), [("location", location)], "").into_response()
        }
        Answer::Gzip(body) => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
            encoder.write_all(body.as_bytes()).unwrap();
            ([("content-encoding", "gzip")], encoder.finish().unwrap()).into_response()
        }
        Answer::Endless => {
            let piece = Ok::<_, std::io::Error>(Bytes::from_static(&[b'x'; 4096]));
            Body::from_stream(
                futures::stream::repeat_with(move || piece.as_ref().cloned().map_err(|_| std::io::Error::other("")))
                    .take(1 << 20),
            )
            .into_response()
        }
    }
}

fn token(number: usize, fields: &str) -> Answer {
    Answer::Says(200, format!(r#"{{"access_token":"token-{number}","token_type":"bearer"{fields}}}"#))
}

/// The block, with the values of the tests' objects: `id-value` and `secret-value`.
fn oauth2(idm: &Server) -> Value {
    json!({
        "clientId": { "secret": { "name": "idm", "key": "id" } },
        "clientSecret": { "name": "idm", "key": "secret" },
        "tokenUrl": format!("{}oauth2/token", idm.url()),
    })
}

fn spec(kind: &str, app: &Server, oauth2: &Value) -> Value {
    json!({ "type": kind, "url": app.url(), "interval": "1m", "timeout": "60s", "oauth2": oauth2 })
}

fn with(mut block: Value, field: &str, value: Value) -> Value {
    block[field] = value;
    block
}

/// The same target under another name.
fn named(mut target: Target, name: &str) -> Target {
    target.id = TargetId::new("media", name);
    target
}

/// Pollers that poll when they are asked to.
fn asked_pollers() -> Arc<Pollers> {
    pollers_with(Limits::new(1 << 20, 8 << 20), false)
}

/// Declares a target, and polls it.
async fn ask(pollers: &Pollers, name: &str, spec: &Value) -> Arc<Snapshot> {
    let mut target = named(target_of(spec), name);
    target.max_age = Duration::ZERO;
    pollers.apply([target]);
    pollers.get(&TargetId::new("media", name)).unwrap().answer(PATIENCE).await
}

/// Longer than the time within which a token that is refused is not replaced.
const AGED: Duration = Duration::from_secs(31);

fn failure(snapshot: &Snapshot) -> (Reason, String) {
    let failure = snapshot.failure.as_ref().unwrap_or_else(|| panic!("the poll succeeded"));
    (failure.reason, failure.message.to_string())
}

async fn until_polled(pollers: &Pollers, name: &str, wanted: impl Fn(&Poller, &Snapshot) -> bool) -> Arc<Snapshot> {
    let poller = pollers.get(&TargetId::new("media", name)).unwrap();
    eventually(PATIENCE, async || {
        let newest = poller.newest().ok_or("not polled yet")?;
        if wanted(&poller, &newest) { Ok(newest) } else { Err(format!("{name}: {:?}", newest.failure)) }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_type_that_speaks_http_sends_the_token() {
    let (idm, app) = (Server::idm(r#","expires_in":3600"#).await, Server::app().await);
    for kind in Type::ALL.iter().map(|kind| kind.as_str()) {
        let mut spec = spec(kind, &app, &oauth2(&idm));
        match kind {
            "WebSocket" => spec["url"] = app.url().replace("http", "ws").into(),
            "Sora" | "Orion" | "Mediasoup" | "Http" | "Prometheus" => {}
            _ => continue, // without HTTP, or with HTTP/2, which has a test of its own
        }
        let before = app.count();
        let polled = poll_once(target_of(&spec)).await;
        let got = app.got();
        assert!(got.len() > before, "{kind}: {:?}", polled.failure);
        for request in &got[before..] {
            let sent = request.header("authorization").unwrap();
            assert!(sent.starts_with("Bearer token-"), "{kind}: {sent}");
        }
        let series = series(&text(&polled));
        assert_eq!(series["probe_call_success{call=\"token\"}"], 1.0, "{kind}");
        assert_eq!(series["probe_call_http_status_code{call=\"token\"}"], 200.0, "{kind}");
    }
    let request = &idm.got()[0];
    assert_eq!((&request.method, request.body.as_str()), (&Method::POST, "grant_type=client_credentials"));
    assert_eq!(request.header("content-type"), Some("application/x-www-form-urlencoded"));
    let basic = format!("Basic {}", STANDARD.encode("id-value:secret-value"));
    assert_eq!(request.header("authorization"), Some(basic.as_str()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_has_the_password_grant_and_the_bare_token_its_own_header() {
    let (idm, app) = (Server::idm("").await, Server::app().await);
    let key = |key: &str| json!({ "name": "idm", "key": key });
    let mut block = with(oauth2(&idm), "user", json!({ "username": key("user"), "password": key("password") }));
    block["header"] = "X-Auth-Token".into();
    block["clientAuthentication"] = "Body".into();
    block["scopes"] = json!(["permanent"]);
    block["endpointParams"] = json!({ "audience": "orion" });
    let polled = poll_once(target_of(&spec("Prometheus", &app, &block))).await;
    assert!(polled.failure.is_none(), "{:?}", polled.failure);
    assert_eq!(
        idm.got()[0].body,
        "grant_type=password&username=user-value&password=password-value&scope=permanent&audience=orion&client_id=id-value&\
         client_secret=secret-value"
    );
    let got = app.got();
    assert_eq!((got[0].header("x-auth-token"), got[0].header("authorization")), (Some("token-1"), None));
}

#[tokio::test(flavor = "multi_thread")]
async fn targets_with_equal_settings_share_one_request_and_one_that_gives_up_takes_nothing_from_the_others() {
    let app = Server::app().await;
    // The endpoint answers once the impatient one has given up.
    let (release, released) = tokio::sync::watch::channel(false);
    let routes = Router::new().fallback(move || {
        let mut released = released.clone();
        async move {
            released.wait_for(|released| *released).await.unwrap();
            r#"{"access_token":"token-1"}"#
        }
    });
    let slow = Simulated::serve(routes, ([127, 0, 0, 1], 0).into()).await.unwrap();
    let idm = Server::idm("").await; // for its block alone
    let block = with(oauth2(&idm), "tokenUrl", slow.url().into());
    let of = |timeout: u64, name: &str| {
        let mut target = named(target_of(&spec("Prometheus", &app, &block)), name);
        target.timeout = Duration::from_millis(timeout);
        target
    };
    let pollers = pollers();
    let suspended = Target { suspend: true, ..of(60_000, "suspended") };
    let patient = (0..20).map(|number| of(60_000, &format!("patient-{number}")));
    pollers.apply(patient.chain([of(300, "impatient"), suspended]));
    let given_up = until_polled(&pollers, "impatient", |_, newest| newest.failure.is_some()).await;
    let (reason, message) = failure(&given_up);
    assert!(reason == Reason::Auth && message.contains("token: timeout"), "{message}");
    release.send_replace(true);
    for number in 0..20 {
        until_polled(&pollers, &format!("patient-{number}"), |_, newest| newest.failure.is_none()).await;
    }
    assert!(app.got().iter().all(|request| request.header("authorization") == Some("Bearer token-1")));
    assert_eq!(idm.count(), 0);
    pollers.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_polls_of_many_targets_cost_one_request() {
    let (idm, app) = (Server::idm(r#","expires_in":"3600""#).await, Server::app().await);
    let pollers = pollers();
    pollers.apply((0..25).map(|number| {
        let mut target = named(target_of(&spec("Prometheus", &app, &oauth2(&idm))), &format!("t-{number}"));
        target.interval = Duration::from_secs(1);
        target
    }));
    eventually(PATIENCE, async || if app.count() >= 100 { Ok(()) } else { Err(format!("{} polls", app.count())) })
        .await;
    assert_eq!(idm.count(), 1);
    let poller = pollers.get(&TargetId::new("media", "t-0")).unwrap();
    let report = poller.token().unwrap();
    assert!(report.lifetime.is_some_and(|(lifetime, left)| lifetime.is_some() && left.is_some()), "{report:?}");
    pollers.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_uses_the_old_token_to_its_end_then_fails_with_its_sentence_and_heals() {
    let (idm, app) = (Server::idm(r#","expires_in":6"#).await, Server::app().await);
    let pollers = pollers();
    let mut target = named(target_of(&spec("Prometheus", &app, &oauth2(&idm))), "t");
    target.interval = Duration::from_secs(1);
    pollers.apply([target]);
    until_polled(&pollers, "t", |_, newest| newest.failure.is_none()).await;
    idm.answer_with(|_, _| Answer::Says(503, "hunter2 of an inner server".to_owned()));
    let obtained = idm.got()[0].at;
    let failed = until_polled(&pollers, "t", |_, newest| newest.failure.is_some()).await;
    assert!(obtained.elapsed() >= Duration::from_secs(5), "the token was used until it ended");
    let (reason, message) = failure(&failed);
    assert!(
        reason == Reason::Auth && message.contains("token: answered 503: the token endpoint does not work"),
        "{message}"
    );
    assert!(!text(&failed).contains("hunter2") && !message.contains("hunter2"));
    let down = idm.count() - 1;
    // After 1, 2 and 4 seconds, each shortened by up to a half: never two in a half of a second.
    let tries: Vec<Instant> = idm.got().iter().skip(1).map(|got| got.at).collect();
    assert!(tries.windows(2).all(|two| two[1] - two[0] >= Duration::from_millis(450)), "{down} tries: {tries:?}");
    idm.answer_with(|_, _| token(7, ""));
    until_polled(&pollers, "t", |_, newest| newest.failure.is_none()).await;
    assert_eq!(app.got().last().unwrap().header("authorization"), Some("Bearer token-7"));
    pollers.shutdown().await;
}

/// A token may not be replaced before it is thirty seconds old: this test waits as long.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_token_is_replaced_within_the_poll_once_it_is_old_enough() {
    let (idm, app) = (Server::idm("").await, Server::app().await);
    let pollers = pollers();
    for (name, kind) in [("calls", "Prometheus"), ("probe", "Http")] {
        let block = with(oauth2(&idm), "scopes", json!([name]));
        let mut target = named(target_of(&spec(kind, &app, &block)), name);
        target.interval = Duration::from_secs(1);
        pollers.apply([target]);
        until_polled(&pollers, name, |_, newest| newest.failure.is_none()).await;
    }
    // From now on only tokens that are issued later are accepted.
    app.answer_with(|_, got| {
        let old = ["Bearer token-1", "Bearer token-2"].map(Some).contains(&got.header("authorization"));
        if old {
            Answer::Says(401, "token-1 hunter2".to_owned())
        } else {
            Answer::Says(200, "app_requests_total 1\n".to_owned())
        }
    });
    for name in ["calls", "probe"] {
        let failed = until_polled(&pollers, name, |_, newest| newest.failure.is_some()).await;
        assert_eq!(failure(&failed).0, Reason::Auth);
    }
    assert_eq!(idm.count(), 2, "both tokens are too young");
    for name in ["calls", "probe"] {
        let poller = pollers.get(&TargetId::new("media", name)).unwrap();
        eventually(PATIENCE + Duration::from_secs(30), async || {
            poller.newest().filter(|newest| newest.failure.is_none()).map(drop).ok_or_else(|| "not yet".to_owned())
        })
        .await;
    }
    let got = idm.got();
    assert_eq!(got.len(), 4);
    assert!(got[2].at - got[0].at >= Duration::from_secs(30), "{:?}", got[2].at - got[0].at);
    // The poll that was refused is the one that succeeded: the new token came right after the old one.
    let sent: Vec<String> = app.got().iter().map(|got| got.header("authorization").unwrap().to_owned()).collect();
    for new in ["Bearer token-3", "Bearer token-4"] {
        assert!(sent.contains(&new.to_owned()), "{sent:?}");
    }
    pollers.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_by_403_asks_for_no_new_token() {
    let (idm, app) = (Server::idm("").await, Server::app().await);
    app.answer_with(|_, _| Answer::Says(403, String::new()));
    let polled = poll_once(target_of(&spec("Prometheus", &app, &oauth2(&idm)))).await;
    assert_eq!((failure(&polled).0, idm.count(), app.count()), (Reason::Auth, 1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_style_of_authentication_that_works_is_found() {
    let app = Server::app().await;
    let idm = Server::start(|number, got| {
        if got.body.contains("client_secret=") {
            token(number, "")
        } else {
            Answer::Says(401, r#"{"error":"invalid_client"}"#.to_owned())
        }
    })
    .await;
    let polled = poll_once(target_of(&spec("Prometheus", &app, &oauth2(&idm)))).await;
    assert!(polled.failure.is_none(), "{:?}", polled.failure);
    let got = idm.got();
    assert_eq!(got.len(), 2);
    assert!(got[0].header("authorization").is_some() && got[1].header("authorization").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_bad_answer_of_a_token_endpoint_has_its_sentence_and_none_is_repeated() {
    let app = Server::app().await;
    let ten_megabytes = format!(r#"{{"access_token":"{}"}}"#, "a".repeat(10 << 20));
    let rfc = |word: &str| format!(r#"{{"error":"{word}","error_description":"hunter2"}}"#);
    let mut messages = Vec::new();
    for (status, body, wanted) in [
        (400, rfc("invalid_request"), "token: answered 400 invalid_request: "),
        (401, rfc("invalid_client"), "correct clientId and clientSecret"),
        (400, rfc("invalid_grant"), "issues no token to this client alone"),
        (400, rfc("unauthorized_client"), "the grant is not enabled for this application"),
        (400, rfc("unsupported_grant_type"), "does not offer the grant client_credentials"),
        (400, rfc("invalid_scope"), "correct scopes"),
        (400, "\"Invalid client: hunter2\"".to_owned(), "token: answered 400 invalid_client: "),
        (200, "<html><body>hunter2</body></html>".to_owned(), "token: parse: the answer is no JSON object"),
        (200, r#"{"access_token":"hunter2\r\nx-evil: 1"}"#.to_owned(), "characters that a bearer token may not have"),
        (200, ten_megabytes, "token: limit: the body is larger than 65536 bytes"),
        (200, "[".repeat(60_000), "token: parse: the answer is no JSON object"),
        (200, String::new(), "token: parse: the answer is no JSON object"),
        (200, r#"{"token":"hunter2"}"#.to_owned(), "token: parse: the answer has no access_token"),
        (400, r#"{"error":["invalid_scope","hunter2"]}"#.to_owned(), "answered 400 without an error of OAuth 2.0"),
        (429, rfc("slow_down"), "token: answered 429: it has been asked too often"),
        (302, "hunter2".to_owned(), "redirects are not followed"),
        (404, "hunter2".to_owned(), "there is no token endpoint, correct tokenUrl"),
        (500, "hunter2".to_owned(), "token: answered 500: the token endpoint does not work"),
    ] {
        let idm = Server::start(move |_, _| Answer::Says(status, body.clone())).await;
        let before = app.count();
        let polled = poll_once(target_of(&spec("Orion", &app, &oauth2(&idm)))).await;
        let (reason, message) = failure(&polled);
        assert!(reason == Reason::Auth && message.contains(wanted), "{message}");
        assert!(!message.contains("hunter2") && !text(&polled).contains("hunter2"), "{message}");
        assert_eq!(app.count(), before, "nothing is sent without the token");
        messages.push(message);
    }
    let of_tls = app.url().replace("http://", "https://");
    for (token_url, wanted) in [(closed_port(), "token: connect: "), (of_tls, "token: tls: ")] {
        let block = with(oauth2(&app), "tokenUrl", token_url.into());
        let (reason, message) = failure(&*poll_once(target_of(&spec("Http", &app, &block))).await);
        assert!(reason == Reason::Auth && message.contains(wanted), "{message}");
        messages.push(message);
    }
    let denied = with(oauth2(&app), "tokenUrl", "http://169.254.169.254/token".into());
    messages.push(failure(&*poll_once(target_of(&spec("Http", &app, &denied))).await).1);

    // The page has a row for each of them, and none that nothing leads to.
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/oauth2.md")).unwrap();
    let (_, table) = page.split_once("| message | what to do |\n|---|---|\n").unwrap();
    let rows: Vec<Vec<&str>> = table
        .lines()
        .map_while(|line| line.strip_prefix("| ")?.split(" |").next())
        .map(|cell| cell.split('`').skip(1).step_by(2).collect())
        .collect();
    let leads_to = |message: &String, row: &[&str]| row.iter().any(|words| message.contains(words));
    assert!(rows.len() > 10, "{rows:?}");
    for message in &messages {
        assert!(rows.iter().any(|row| leads_to(message, row)), "the page does not have {message:?}");
    }
    for row in &rows {
        assert!(messages.iter().any(|message| leads_to(message, row)), "nothing says {row:?}: {messages:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_endpoint_that_is_the_metadata_service_is_refused_by_its_address() {
    let app = Server::app().await;
    let block = with(oauth2(&app), "tokenUrl", "http://169.254.169.254/latest/api/token".into());
    for kind in ["Prometheus", "Http"] {
        let polled = poll_once(target_of(&spec(kind, &app, &block))).await;
        let (reason, message) = failure(&polled);
        assert_eq!(reason, Reason::Config);
        assert!(message.starts_with("spec.oauth2.tokenUrl: 169.254.169.254 may not be contacted"), "{message}");
    }
    assert_eq!(app.count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_server_does_not_get_the_token_by_a_redirect() {
    let (idm, other) = (Server::idm("").await, Server::app().await);
    let location = other.url();
    let routes = Router::new().fallback(move || {
        let location = location.clone();
        async move { (StatusCode::FOUND, [("location", location)], "") }
    });
    let home = Simulated::serve(routes, ([127, 0, 0, 1], 0).into()).await.unwrap();
    for header in [None, Some("X-Auth-Token")] {
        let mut spec = spec("Http", &other, &oauth2(&idm));
        spec["url"] = home.url().into();
        if let Some(header) = header {
            spec["oauth2"]["header"] = header.into();
        }
        let polled = poll_once(target_of(&spec)).await;
        assert!(polled.failure.is_none(), "{:?}", polled.failure);
    }
    let got = other.got();
    assert_eq!(got.len(), 2);
    for request in got {
        assert!(!format!("{request:?}").contains("token-"), "{request:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn members_share_the_token() {
    let (idm, app) = (Server::idm("").await, Server::app().await);
    let mut spec = spec("Prometheus", &app, &oauth2(&idm));
    spec["url"] = app.url().replace("127.0.0.1", "localhost").into();
    spec["members"] = json!({ "dns": {} });
    let polled = poll_once(target_of(&spec)).await;
    assert!(polled.failure.is_none(), "{:?}", polled.failure);
    assert_eq!(app.got()[0].header("authorization"), Some("Bearer token-1"));
    assert_eq!(idm.count(), 1);
    let text = text(&polled);
    assert!(
        text.lines().any(|line| line.starts_with("probe_call_success{member=") && line.contains("call=\"token\"")),
        "{text}"
    );
}

/// A target of these pods, whose every scrape polls.
fn of_pods(spec: &Value, pods: &[(&str, &Server)]) -> Target {
    let mut target = target_of(&with(spec.clone(), "members", json!({ "service": { "name": "app" } })));
    target.max_age = Duration::ZERO;
    let Some(MemberSource::Service { endpoints, .. }) = target.members.as_mut().map(|members| &mut members.source)
    else {
        panic!("{:?}", target.members)
    };
    let member = |(name, server): &(&str, &Server)| Member {
        name: (*name).into(),
        label: MemberLabel::Pod,
        uid: format!("uid of {name}").into(),
        ..Member::at(server.simulated.address)
    };
    *endpoints = pods.iter().map(member).collect();
    target
}

/// The tokens that a server got since `before` requests.
fn tokens_since(server: &Server, before: usize) -> Vec<String> {
    server.got().split_off(before).iter().map(|got| got.header("authorization").unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_member_that_refuses_the_token_gets_a_new_one_within_the_poll_and_the_others_notice_nothing() {
    let idm = Server::idm("").await;
    let (a, b, c) = (Server::app().await, Server::app().await, Server::app().await);
    let target = of_pods(&spec("Prometheus", &a, &oauth2(&idm)), &[("a", &a), ("b", &b), ("c", &c)]);
    let pollers = asked_pollers();
    pollers.apply([target.clone()]);
    let poller = pollers.get(&target.id).unwrap();
    // What each of them got in one poll.
    let poll = async || {
        let before = [&a, &b, &c].map(Server::count);
        let round = poller.answer(PATIENCE).await;
        let [of_a, of_b, of_c] = before;
        (series(&text(&round)), [tokens_since(&a, of_a), tokens_since(&b, of_b), tokens_since(&c, of_c)])
    };
    let (first, second) = ("Bearer token-1".to_owned(), "Bearer token-2".to_owned());
    let (all, got) = poll().await;
    assert_eq!((all["probe_members{state=\"up\"}"], idm.count()), (3.0, 1), "one for all of them");
    assert_eq!(got, [1; 3].map(|_| vec![first.clone()]));

    // It was restarted, for instance, and knows only what is issued from now on.
    b.answer_with(|_, got| match got.header("authorization") {
        Some("Bearer token-1") => Answer::Says(401, String::new()),
        _ => Answer::Says(200, "app_requests_total 1\n".to_owned()),
    });
    let (all, got) = poll().await;
    assert_eq!((all["probe_members{state=\"up\"}"], all["probe_success"]), (2.0, 1.0));
    assert_eq!(all["probe_member_failure_info{pod=\"b\",reason=\"auth\"}"], 1.0, "{all:?}");
    assert_eq!((got, idm.count()), ([1; 3].map(|_| vec![first.clone()]), 1), "the token is too young to be replaced");
    assert_eq!(poller.status().partial.as_deref(), Some("2 of 3 answered; b: auth"));

    pass(AGED).await;
    let (all, [of_a, of_b, of_c]) = poll().await;
    assert_eq!((all["probe_members{state=\"up\"}"], idm.count()), (3.0, 2), "{all:?}");
    assert!(!all.keys().any(|name| name.starts_with("probe_member_failure_info")), "{all:?}");
    assert_eq!(of_b, [first.clone(), second.clone()], "the poll that was refused is the one that succeeds");
    // They begin a moment apart: with which of the two depends on that.
    for of_other in [of_a, of_c] {
        assert!(of_other == [first.clone()] || of_other == [second.clone()], "{of_other:?}");
    }
    let (_, got) = poll().await;
    assert_eq!((got, idm.count()), ([1; 3].map(|_| vec![second.clone()]), 2));
}

#[tokio::test]
async fn a_member_that_refuses_every_token_costs_the_token_endpoint_two_requests_a_minute() {
    const POLLS: usize = 24;
    let idm = Server::idm("").await;
    let (a, b, never) = (Server::app().await, Server::app().await, Server::app().await);
    never.answer_with(|_, _| Answer::Says(401, String::new()));
    let target = of_pods(&spec("Prometheus", &a, &oauth2(&idm)), &[("a", &a), ("b", &b), ("never", &never)]);
    let pollers = asked_pollers();
    pollers.apply([target.clone()]);
    let poller = pollers.get(&target.id).unwrap();
    // Polls at an interval of five seconds; what the endpoint was asked meanwhile, and in how many seconds.
    let two_minutes = async || {
        let (asked, start) = (idm.count(), tokio::time::Instant::now());
        let mut last = None;
        for _ in 0..POLLS {
            let before = [&a, &b, &never, &idm].map(Server::count);
            let round = poller.answer(PATIENCE).await;
            let all = series(&text(&round));
            assert_eq!((all["probe_success"], all["probe_members{state=\"up\"}"]), (1.0, 2.0), "{all:?}");
            assert_eq!(all["probe_member_failure_info{pod=\"never\",reason=\"auth\"}"], 1.0, "{all:?}");
            let [of_a, of_b, of_never, issued] = [&a, &b, &never, &idm].map(Server::count);
            assert_eq!(
                (of_a - before[0], of_b - before[1]),
                (1, 1),
                "they are asked once, whatever the other one says"
            );
            assert!(issued - before[3] <= 1 && of_never - before[2] <= 2);
            let reports = round.members.clone().unwrap();
            last = reports.iter().find_map(|report| report.failure.as_ref().map(|failure| failure.message.to_string()));
            pass(Duration::from_secs(5)).await;
        }
        (idm.count() - asked, usize::try_from(start.elapsed().as_secs()).unwrap(), last.unwrap())
    };
    let (asked, seconds, message) = two_minutes().await;
    assert!(asked >= 4 && asked <= 1 + seconds / 30, "{asked} in {seconds} s");
    assert!(message.contains("401") && !message.contains("token:"), "{message}");

    // The endpoint refuses as well: the others go on with the token that they have, and it is asked after 1, 2, 4 and up to 60 seconds,
    // each shortened by up to a half.
    pass(AGED).await;
    idm.answer_with(|_, _| Answer::Says(400, r#"{"error":"invalid_client"}"#.to_owned()));
    let (asked, seconds, message) = two_minutes().await;
    assert!(asked >= 4 && asked <= 7 + seconds / 30, "{asked} in {seconds} s");
    let words = "answered 401, and there is no new token: token: answered 400 invalid_client: ";
    assert!(message.contains(words), "{message}");
}

/// A gRPC server with the health service of the gRPC project. With the service `bearer TOKEN` it wants that token.
#[tokio::test]
async fn a_grpc_server_gets_the_token_and_a_new_one_after_unauthenticated() {
    let certificate = Certificate::good();
    let folder =
        folder_with([("server.pem", pem(&certificate).as_str()), ("server.key", &certificate.key.serialize_pem())]);
    let mut command = Command::new(tools::health());
    command.args(["server.pem", "server.key"].map(|file| folder.path().join(file)));
    let mut health = Running::spawn(command);
    for (kind, scheme) in [("plain", "grpc"), ("tls", "grpcs")] {
        let address = health.wait("its address", |health| {
            let said = health.stdout();
            let line = said.split_inclusive('\n').find_map(|line| line.strip_suffix('\n')?.strip_prefix(kind));
            line.map(|address| address.trim().to_owned())
        });
        let (idm, pollers) = (Server::idm("").await, asked_pollers());
        let wanting = |service: &str| {
            let mut spec = json!({
                "type": "Grpc",
                "url": format!("{scheme}://{address}"),
                "interval": "1m",
                "timeout": "60s",
                "grpc": { "service": service },
                "oauth2": oauth2(&idm),
            });
            if scheme == "grpcs" {
                spec["tlsConfig"] = json!({ "ca": { "configMap": { "name": certificate.ca, "key": "ca" } } });
            }
            spec
        };
        let polled = ask(&pollers, "first", &wanting("bearer token-1")).await;
        assert!(polled.failure.is_none(), "{kind}: {:?}", polled.failure);
        let first = series(&text(&polled));
        assert_eq!(first["probe_grpc_healthcheck_response{serving_status=\"SERVING\"}"], 1.0);
        assert_eq!(first["probe_call_success{call=\"token\"}"], 1.0);

        // From now on the server wants another. This one is too young to be replaced.
        let second = wanting("bearer token-2");
        let polled = ask(&pollers, "second", &second).await;
        let (reason, message) = failure(&polled);
        assert!(reason == Reason::Auth && message.contains("grpc-status 16 (UNAUTHENTICATED)"), "{message}");
        assert_eq!((series(&text(&polled))["probe_grpc_status_code"], idm.count()), (16.0, 1));

        // The probe that is refused is the one that succeeds with the new one, and other targets have it as well.
        pass(AGED).await;
        let polled = ask(&pollers, "second", &second).await;
        assert!(polled.failure.is_none(), "{kind}: {:?}", polled.failure);
        let renewed = series(&text(&polled));
        assert_eq!((renewed["probe_grpc_status_code"], idm.count()), (0.0, 2));
        assert_eq!(renewed["probe_call_success{call=\"token\"}"], 1.0);
        let polled = ask(&pollers, "third", &wanting("bearer token-2")).await;
        assert!(polled.failure.is_none() && idm.count() == 2, "{kind}: {:?}", polled.failure);

        // One that is refused as well is not tried again and again; and a lack of permission is none of a token.
        pass(AGED).await;
        let polled = ask(&pollers, "never", &wanting("bearer token-0")).await;
        assert_eq!((failure(&polled).0, idm.count()), (Reason::Auth, 3));
        pass(AGED).await;
        let polled = ask(&pollers, "denied", &wanting("code-7")).await;
        let (reason, message) = failure(&polled);
        assert!(reason == Reason::Auth && message.contains("grpc-status 7 (PERMISSION_DENIED)"), "{message}");
        assert_eq!(idm.count(), 3);
    }
}

#[tokio::test]
async fn a_new_token_that_is_refused_as_well_is_not_replaced_once_more() {
    for kind in ["Prometheus", "Http"] {
        let (idm, app, pollers) = (Server::idm("").await, Server::app().await, asked_pollers());
        app.answer_with(|_, _| Answer::Says(401, String::new()));
        let spec = spec(kind, &app, &oauth2(&idm));
        // What was sent, and what was issued, at each poll.
        let mut seen = Vec::new();
        for wait in [Duration::ZERO, Duration::ZERO, AGED, Duration::ZERO, AGED] {
            pass(wait).await;
            let before = (app.count(), idm.count());
            let polled = ask(&pollers, "a", &spec).await;
            assert_eq!(failure(&polled).0, Reason::Auth, "{kind}");
            seen.push((app.count() - before.0, idm.count() - before.1));
        }
        assert_eq!(seen, [(1, 1), (1, 0), (2, 1), (1, 0), (2, 1)], "{kind}");
    }
}

#[tokio::test]
async fn after_a_401_the_same_token_is_not_sent_again_and_one_that_does_not_come_is_said() {
    for kind in ["Prometheus", "Http"] {
        let (idm, app, pollers) = (Server::start(|_, _| token(1, "")).await, Server::app().await, asked_pollers());
        let spec = spec(kind, &app, &with(oauth2(&idm), "clientAuthentication", "Header".into()));
        assert!(ask(&pollers, "a", &spec).await.failure.is_none());
        app.answer_with(|_, _| Answer::Says(401, String::new()));
        pass(AGED).await;
        let (reason, message) = failure(&*ask(&pollers, "a", &spec).await);
        assert!(reason == Reason::Auth && !message.contains("token:"), "{kind}: {message}");
        assert_eq!((app.count(), idm.count()), (2, 2), "{kind}: it was issued once more, and not sent");
        idm.answer_with(|_, _| Answer::Says(400, r#"{"error":"unauthorized_client"}"#.to_owned()));
        pass(AGED).await;
        let (reason, message) = failure(&*ask(&pollers, "a", &spec).await);
        let words = "answered 401, and there is no new token: token: answered 400 unauthorized_client: ";
        assert!(reason == Reason::Auth && message.contains(words), "{kind}: {message}");
        assert_eq!((app.count(), idm.count()), (3, 3), "{kind}");
    }
}

#[tokio::test]
async fn a_token_near_its_end_is_replaced_in_the_background_and_no_poll_waits_for_it() {
    let (idm, app, pollers) = (Server::idm(r#","expires_in":1000"#).await, Server::app().await, asked_pollers());
    let spec = spec("Prometheus", &app, &oauth2(&idm));
    let sent = || app.got().last().unwrap().header("authorization").unwrap().to_owned();
    // Two intervals of a minute before its end.
    for passes in [Duration::ZERO, Duration::from_secs(800)] {
        pass(passes).await;
        assert!(ask(&pollers, "a", &spec).await.failure.is_none());
        assert_eq!((idm.count(), sent()), (1, "Bearer token-1".to_owned()));
    }
    idm.answer_with(|_, _| Answer::Hangs);
    pass(Duration::from_secs(90)).await;
    for _ in 0..3 {
        let polled = ask(&pollers, "a", &spec).await;
        assert!(polled.failure.is_none(), "{:?}", polled.failure);
        assert_eq!(sent(), "Bearer token-1");
    }
    eventually(PATIENCE, async || if idm.count() == 2 { Ok(()) } else { Err(format!("{} requests", idm.count())) })
        .await;
    // What hangs is given up, and asked for again; until it comes, the old one holds.
    idm.answer_with(|number, _| token(number + 1, r#","expires_in":1000"#));
    pass(Duration::from_secs(11)).await;
    eventually(PATIENCE, async || {
        let polled = ask(&pollers, "a", &spec).await;
        assert!(polled.failure.is_none(), "{:?}", polled.failure);
        if sent() == "Bearer token-3" { Ok(()) } else { Err(sent()) }
    })
    .await;
    assert_eq!(idm.count(), 3);
}

#[tokio::test]
async fn a_request_that_hangs_ends_after_ten_seconds_though_the_poll_has_more_time() {
    let (idm, app, pollers) = (Server::start(|_, _| Answer::Hangs).await, Server::app().await, asked_pollers());
    let spec = spec("Prometheus", &app, &oauth2(&idm));
    let polling = tokio::spawn({
        let pollers = Arc::clone(&pollers);
        async move { ask(&pollers, "a", &spec).await }
    });
    eventually(PATIENCE, async || if idm.count() == 1 { Ok(()) } else { Err("not asked yet".to_owned()) }).await;
    pass(Duration::from_secs(11)).await;
    let (reason, message) = failure(&polling.await.unwrap());
    assert!(reason == Reason::Auth && message.contains("token: timeout: "), "{message}");
    assert_eq!(app.count(), 0);
}

/// What docs/oauth2.md says of a mistake that has been corrected.
#[tokio::test]
async fn a_mistake_that_is_corrected_in_the_target_is_over_at_once_and_one_at_the_server_within_a_minute() {
    const MINUTE: Duration = Duration::from_secs(60);
    let (idm, app, pollers) = (Server::idm("").await, Server::app().await, asked_pollers());
    idm.answer_with(|_, _| Answer::Says(400, r#"{"error":"invalid_scope"}"#.to_owned()));
    let block = with(oauth2(&idm), "clientAuthentication", "Header".into());
    let wrong = spec("Prometheus", &app, &with(block.clone(), "scopes", json!(["wrong"])));
    // Often enough for the longest pause: half a minute to a minute.
    for count in 1..=8 {
        let message = failure(&*ask(&pollers, "a", &wrong).await).1;
        assert!(message.contains("token: answered 400 invalid_scope: "), "{message}");
        assert_eq!(idm.count(), count);
        if count < 8 {
            pass(MINUTE).await;
        }
    }
    idm.answer_with(|number, _| token(number, ""));
    for _ in 0..3 {
        assert!(failure(&*ask(&pollers, "a", &wrong).await).1.contains("invalid_scope"), "the error is repeated");
    }
    let report = pollers.get(&TargetId::new("media", "a")).unwrap().token().unwrap();
    let pause = report.retry_in.unwrap();
    assert!(pause <= MINUTE && !pause.is_zero(), "{pause:?}");
    assert_eq!(idm.count(), 8, "nobody is asked meanwhile");
    // Corrected settings are others, for which no request has failed.
    let right = spec("Prometheus", &app, &with(block, "scopes", json!(["right"])));
    assert!(ask(&pollers, "b", &wrong).await.failure.is_some(), "equal settings wait together");
    assert!(ask(&pollers, "b", &right).await.failure.is_none());
    assert_eq!(idm.count(), 9);
    pass(pause).await;
    assert!(ask(&pollers, "a", &wrong).await.failure.is_none());
    assert_eq!(idm.count(), 10);
}

/// TLS in front of a server.
async fn tls_front(mut config: rustls::ServerConfig, server: &Server) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, behind) = (listener.local_addr().unwrap(), server.simulated.address);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let mut stream = acceptor.accept(stream).await?;
                let mut server = tokio::net::TcpStream::connect(behind).await?;
                tokio::io::copy_bidirectional(&mut stream, &mut server).await
            });
        }
    });
    address
}

#[tokio::test]
async fn the_token_endpoint_has_tls_settings_and_a_proxy_of_its_own() {
    let (idm, app, certificate) = (Server::idm("").await, Server::app().await, Certificate::good());
    let address = tls_front(certificate.server_config(), &idm).await;
    let proxy = Proxy::start(None);
    let ca = json!({ "configMap": { "name": certificate.ca, "key": "ca" } });
    let over_tls = with(oauth2(&idm), "tokenUrl", format!("https://{address}/token").into());
    for (tls, through_proxy, wanted) in [
        (json!({ "ca": ca }), false, None),
        (json!({ "insecureSkipVerify": true }), false, None),
        (json!({ "ca": ca }), true, None),
        (json!({}), false, Some("oauth2.tlsConfig.ca")),
        (json!({ "ca": ca, "serverName": "other.test" }), false, Some("oauth2.tlsConfig.serverName")),
        (json!({}), true, Some("oauth2.tlsConfig.ca")),
    ] {
        let mut block = with(over_tls.clone(), "tlsConfig", tls.clone());
        if through_proxy {
            block["proxyUrl"] = format!("http://{}", proxy.address).into();
        }
        let (issued, tunnels, polls) = (idm.count(), proxy.asked().len(), app.count());
        let polled = poll_once(target_of(&spec("Prometheus", &app, &block))).await;
        assert_eq!(proxy.asked().len() > tunnels, through_proxy, "{tls}");
        match wanted {
            None => {
                assert!(polled.failure.is_none(), "{tls}: {:?}", polled.failure);
                assert_eq!((idm.count(), app.count()), (issued + 1, polls + 1), "{tls}");
            }
            Some(words) => {
                let (reason, message) = failure(&polled);
                assert!(reason == Reason::Auth && message.contains("token: tls: "), "{tls}: {message}");
                assert!(message.contains(words), "{tls}: {message}");
                assert_eq!((idm.count(), app.count()), (issued, polls), "{tls}: nothing is sent");
            }
        }
    }
    assert!(proxy.asked().iter().all(|asked| *asked == address.to_string()), "{:?}", proxy.asked());

    // Without TLS the proxy gets the request itself. That of the target is another one, and either is used for its own server only.
    let (target, token_endpoint) = (Server::app().await, Server::idm("").await);
    let mut block = with(oauth2(&idm), "tokenUrl", "http://idm.test/token".into());
    block["proxyUrl"] = token_endpoint.url().trim_end_matches('/').into();
    let mut spec = spec("Prometheus", &app, &block);
    spec["url"] = "http://app.test/metrics".into();
    spec["proxyUrl"] = target.url().trim_end_matches('/').into();
    let polled = poll_once(target_of(&spec)).await;
    assert!(polled.failure.is_none(), "{:?}", polled.failure);
    let asked = |server: &Server| server.got().into_iter().map(|got| got.path).collect::<Vec<_>>();
    assert_eq!(asked(&token_endpoint), ["http://idm.test/token"]);
    assert_eq!(asked(&target), ["http://app.test/metrics"]);
    // A proxy that wants credentials: the block has none for it.
    token_endpoint.answer_with(|_, _| Answer::Says(407, "hunter2".to_owned()));
    let (reason, message) = failure(&*poll_once(target_of(&spec)).await);
    assert!(reason == Reason::Auth && message.contains("oauth2.proxyUrl") && !message.contains("hunter2"), "{message}");
}

/// What is wrong with a client certificate is said as soon as the endpoint has said it: in TLS 1.2 within the handshake, in TLS 1.3 after it.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_endpoint_that_demands_a_client_certificate_gets_it_and_says_what_is_wrong_with_another() {
    let (idm, app, server) = (Server::idm("").await, Server::app().await, Certificate::good());
    let root = |name| authority(name, 2045, KeyPair::generate().unwrap());
    let of_clients = root("clients");
    let client = Certificate::of_authority(&of_clients, |_| ());
    let expired = Certificate::of_authority(&of_clients, |params| params.not_after = date_time_ymd(2021, 1, 1));
    let stranger = Certificate::of_authority(&root("strangers"), |_| ());
    let namesake = Certificate::of_authority(&root("clients"), |_| ());
    let address = tls_front(server.server_config_for_clients_of(&client.ca), &idm).await;
    let proxy = Proxy::start(None);
    let over_tls = with(oauth2(&idm), "tokenUrl", format!("https://{address}/token").into());
    let ca = json!({ "ca": { "configMap": { "name": server.ca, "key": "ca" } } });
    let showing = |certificate: &Certificate, key: &Certificate| {
        let mut tls = ca.clone();
        tls["cert"] = json!({ "secret": { "name": pem(certificate), "key": "tls.crt" } });
        tls["keySecret"] = json!({ "name": key.key.serialize_pem(), "key": "tls.key" });
        tls
    };
    let missing = "token: tls: the server requires a client certificate: write oauth2.tlsConfig.cert and oauth2.tlsConfig.keySecret";
    let unknown =
        "token: tls: the server does not trust the authority of our client certificate (oauth2.tlsConfig.cert)";
    let same_name = "token: tls: the server cannot verify a signature: if oauth2.tlsConfig.cert is set, a different authority of \
                     the same name may have signed it";
    let too_old = "token: tls: the server says that our client certificate (oauth2.tlsConfig.cert) has expired";
    for (tls, refusal) in [
        (showing(&client, &client), None),
        (ca.clone(), Some(missing)),
        (showing(&stranger, &stranger), Some(unknown)),
        (showing(&namesake, &namesake), Some(same_name)),
        (showing(&expired, &expired), Some(too_old)),
    ] {
        for (version, through_proxy) in [("TLS12", false), ("TLS13", false), ("TLS12", true), ("TLS13", true)] {
            let mut block = with(over_tls.clone(), "tlsConfig", with(tls.clone(), "maxVersion", version.into()));
            if through_proxy {
                block["proxyUrl"] = format!("http://{}", proxy.address).into();
            }
            let mut spec = spec("Prometheus", &app, &block);
            // What the target's own server would get.
            spec["tlsConfig"] = showing(&client, &client);
            let (issued, polls) = (idm.count(), app.count());
            let what = format!("{version}, through a proxy: {through_proxy}, {refusal:?}");
            let Some(words) = refusal else {
                let polled = poll_once(target_of(&spec)).await;
                assert!(polled.failure.is_none(), "{what}: {:?}", polled.failure);
                assert_eq!((idm.count(), app.count()), (issued + 1, polls + 1), "{what}");
                continue;
            };
            // The alert may come before the request is sent, while it is, or after.
            let mut said = BTreeSet::new();
            for _ in 0..10 {
                said.insert(failure(&*poll_once(target_of(&spec)).await));
            }
            assert_eq!(said, BTreeSet::from([(Reason::Auth, format!("scrape: {words}"))]), "{what}");
            assert_eq!((idm.count(), app.count()), (issued, polls), "{what}");
        }
    }

    // A key of another certificate is found before anything is sent.
    let block = with(over_tls, "tlsConfig", showing(&client, &stranger));
    let (reason, message) = failure(&*poll_once(target_of(&spec("Prometheus", &app, &block))).await);
    assert_eq!(reason, Reason::Config, "{message}");
    assert!(message.contains("oauth2") && message.contains("tlsConfig.cert and tlsConfig.keySecret"), "{message}");
    assert!(message.contains("the private key does not match the certificate"), "{message}");
}

#[tokio::test]
async fn a_token_endpoint_can_send_the_client_nowhere_else() {
    let (app, other) = (Server::app().await, Server::idm("").await);
    for status in [301, 302, 303, 307, 308] {
        let location = format!("{}token", other.url());
        let idm = Server::start(move |_, _| Answer::Redirects(status, location.clone())).await;
        let (reason, message) = failure(&*poll_once(target_of(&spec("Prometheus", &app, &oauth2(&idm)))).await);
        assert!(reason == Reason::Auth && message.contains(&format!("token: answered {status}: ")), "{message}");
        assert!(message.contains("write the final URL into tokenUrl"), "{message}");
        assert!(!message.contains(&other.url()), "{message}");
    }
    assert_eq!((other.count(), app.count()), (0, 0));
}

#[tokio::test]
async fn an_answer_that_becomes_large_by_decompression_is_refused_by_its_size() {
    let app = Server::app().await;
    let idm = Server::start(|_, _| Answer::Gzip(format!("{{\"a\":\"{}\"", "a".repeat(10 << 20)))).await;
    let (reason, message) = failure(&*poll_once(target_of(&spec("Prometheus", &app, &oauth2(&idm)))).await);
    assert!(reason == Reason::Auth, "{message}");
    assert!(message.contains("token: limit: "), "{message}");
    assert_eq!(app.count(), 0);
}

#[tokio::test]
async fn a_token_endpoint_whose_name_leads_to_a_denied_address_gets_nothing() {
    choose_tls_provider();
    let (idm, pollers) = (Server::idm("").await, {
        let rules = AddressRules::denying(["127.0.0.1/32", "::1/128"].map(|range| range.parse().unwrap()));
        let metrics = SelfMetrics::new().unwrap();
        Arc::new(Pollers::new(Clients::new(rules), Limits::new(1 << 20, 8 << 20), metrics.polls, false).0)
    });
    let got = Arc::<Mutex<usize>>::default();
    let count = Arc::clone(&got);
    let routes = Router::new().fallback(async move || {
        *count.lock().unwrap() += 1;
        "app_requests_total 1\n"
    });
    let app = Simulated::serve(routes, ([127, 0, 0, 2], 0).into()).await.unwrap();
    let port = idm.simulated.address.port();
    for (number, (host, reason)) in
        [("localhost", Reason::Auth), ("127.0.0.1", Reason::Config), ("[::1]", Reason::Config)].into_iter().enumerate()
    {
        for kind in ["Prometheus", "Http"] {
            let block = with(oauth2(&idm), "tokenUrl", format!("http://{host}:{port}/token").into());
            let spec = json!({ "type": kind, "url": app.url(), "interval": "1m", "timeout": "60s", "oauth2": block });
            let polled = ask(&pollers, &format!("{}-{number}", kind.to_lowercase()), &spec).await;
            let (found, message) = failure(&polled);
            assert!(found == reason && message.contains("may not be contacted"), "{host}: {found:?} {message}");
        }
    }
    assert_eq!((idm.count(), *got.lock().unwrap()), (0, 0));
}

#[tokio::test]
async fn a_suspended_target_asks_for_no_token_and_namespaces_have_their_own() {
    let (idm, app, pollers) = (Server::idm("").await, Server::app().await, asked_pollers());
    let mut suspended = spec("Prometheus", &app, &oauth2(&idm));
    suspended["suspend"] = true.into();
    let polled = ask(&pollers, "a", &suspended).await;
    assert_eq!(failure(&polled).0, Reason::Suspended);
    assert_eq!((idm.count(), app.count()), (0, 0));
    for (namespace, issued) in [("media", 1), ("media", 1), ("other", 2), ("media", 2)] {
        let mut target = target_of(&spec("Prometheus", &app, &oauth2(&idm)));
        (target.id, target.max_age) = (TargetId::new(namespace, "b"), Duration::ZERO);
        let id = target.id.clone();
        pollers.apply([target]);
        let polled = pollers.get(&id).unwrap().answer(PATIENCE).await;
        assert!(polled.failure.is_none(), "{:?}", polled.failure);
        assert_eq!(idm.count(), issued, "{namespace}");
        let token = if namespace == "media" { "Bearer token-1" } else { "Bearer token-2" };
        assert_eq!(app.got().last().unwrap().header("authorization"), Some(token));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_that_starts_has_four_requests_under_way_at_an_endpoint() {
    const TOKENS: usize = 30;
    let (app, pollers) = (Server::app().await, asked_pollers());
    // How many are under way, and how many were at most.
    let under_way = Arc::<Mutex<(usize, usize)>>::default();
    let counts = Arc::clone(&under_way);
    let routes = Router::new().fallback(move || {
        let counts = Arc::clone(&counts);
        async move {
            {
                let mut counts = counts.lock().unwrap();
                counts.0 += 1;
                counts.1 = counts.1.max(counts.0);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
            counts.lock().unwrap().0 -= 1;
            r#"{"access_token":"token"}"#
        }
    });
    let idm = Simulated::serve(routes, ([127, 0, 0, 1], 0).into()).await.unwrap();
    let other = Server::idm("").await; // for its block alone
    let block = with(oauth2(&other), "tokenUrl", idm.url().into());
    let asking = (0..TOKENS).map(|number| {
        let spec = spec("Prometheus", &app, &with(block.clone(), "scopes", json!([format!("s{number}")])));
        let pollers = Arc::clone(&pollers);
        async move { ask(&pollers, &format!("t-{number}"), &spec).await }
    });
    for polled in futures::future::join_all(asking).await {
        assert!(polled.failure.is_none(), "{:?}", polled.failure);
    }
    let (_, most) = *under_way.lock().unwrap();
    assert!((1..=4).contains(&most), "{most} at once");
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_token_endpoints_keep_no_other_target_from_being_polled() {
    let app = Server::app().await;
    let hostile = Server::start(|number, _| match number % 3 {
        0 => Answer::Hangs,
        1 => Answer::Endless,
        _ => Answer::Says(200, "x".repeat(10 << 20)),
    })
    .await;
    let honest = Server::idm("").await;
    let pollers = pollers();
    let fast = |mut target: Target| {
        target.interval = Duration::from_secs(1);
        target
    };
    pollers.apply((0..30).map(|number| {
        let block = with(oauth2(&hostile), "scopes", json!([format!("s{number}")]));
        fast(named(target_of(&spec("Prometheus", &app, &block)), &format!("hostile-{number}")))
    }));
    pollers.apply((0..10).map(|number| {
        let block = with(oauth2(&honest), "scopes", json!([format!("s{number}")]));
        fast(named(target_of(&spec("Prometheus", &app, &block)), &format!("honest-{number}")))
    }));
    let plain: Vec<Target> =
        (0..10).map(|number| fast(target(&format!("plain-{number}"), Type::Prometheus, &app.url()))).collect();
    pollers.apply(plain);
    for number in 0..10 {
        for name in [format!("honest-{number}"), format!("plain-{number}")] {
            // Several polls, each of which succeeds.
            let mut seen = BTreeSet::new();
            let poller = pollers.get(&TargetId::new("media", &name)).unwrap();
            eventually(PATIENCE, async || {
                let newest = poller.newest().ok_or("not polled yet")?;
                assert!(newest.failure.is_none(), "{name}: {:?}", newest.failure);
                seen.insert(newest.ended_at);
                if seen.len() >= 3 { Ok(()) } else { Err(format!("{} polls of {name}", seen.len())) }
            })
            .await;
        }
    }
    assert_eq!(honest.count(), 10);
    let failed = until_polled(&pollers, "hostile-0", |_, newest| newest.failure.is_some()).await;
    assert_eq!(failure(&failed).0, Reason::Auth);
    pollers.shutdown().await;
}

/// A secret in every encoding that the exporter makes.
fn made(secret: &str) -> [String; 3] {
    let form = url::form_urlencoded::byte_serialize(secret.as_bytes()).collect();
    let json = serde_json::to_string(secret).unwrap();
    [secret.to_owned(), form, json[1..json.len() - 1].to_owned()]
}

/// The same, and encodings in which servers log it.
fn encodings(secret: &str) -> Vec<String> {
    let percent = secret.bytes().fold(String::new(), |percent, byte| percent + &format!("%{byte:02X}"));
    let hex = secret.bytes().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
    made(secret).into_iter().chain([percent, hex, STANDARD.encode(secret)]).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_in_the_log_on_the_pages_or_in_the_metrics_in_any_encoding() {
    const SECRETS: [&str; 3] = ["cl13nt/s3cret+of=idm\"x", "us3r p4ssword&of\\idm", "t0ken-0f/the.idm+x=="];
    let (client, password, token) = (SECRETS[0], SECRETS[1], SECRETS[2]);
    let pair = {
        let encoded = |text: &str| url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
        format!("{}:{}", encoded("watcher"), encoded(client))
    };
    let body =
        serde_json::to_string(&json!({ "access_token": token, "token_type": client, "scope": [password] })).unwrap();
    let idm = Server::start(move |_, got| {
        if got.body.contains("broken") {
            Answer::Says(400, format!("{}{}", got.body, got.headers.len()))
        } else {
            Answer::Says(200, body.clone())
        }
    })
    .await;
    let all: Vec<String> = SECRETS.into_iter().chain([pair.as_str()]).flat_map(encodings).collect();
    let escaped = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"");
    let mut echoed = format!("app_up 1\napp_info{{header=\"Bearer {token}\"}} 1\n");
    let of_pair = STANDARD.encode(&pair);
    for text in SECRETS.into_iter().flat_map(made).chain([pair.clone(), format!("Basic {of_pair}"), of_pair]) {
        writeln!(echoed, "app_echo{{text=\"{}\"}} 1", escaped(&text)).unwrap();
    }
    let app = Server::start(move |_, got| match got.path.as_str() {
        "/refuses" => Answer::Says(401, all.join(" ")),
        _ => Answer::Says(200, echoed.clone()),
    })
    .await;
    let block = |scope: &str| {
        format!(
            "  interval: 1s\n  oauth2:\n    clientId: {{ secret: {{ name: idm, key: id }} }}\n    clientSecret: {{ name: idm, key: secret }}\n    \
             tokenUrl: {}token\n    user: {{ username: {{ name: idm, key: user }}, password: {{ name: idm, key: password }} }}\n    scopes: \
             [{scope}]\n",
            idm.url()
        )
    };
    let mut manifests = format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{ name: idm, namespace: media }}\nstringData: {}\n",
        json!({ "id": "watcher", "secret": client, "user": "someone", "password": password })
    );
    for (name, kind, path, scope) in [
        ("echo", "Prometheus", "metrics", "good"),
        ("refuses", "Http", "refuses", "good"),
        ("broken", "Prometheus", "metrics", "broken"),
    ] {
        write!(
            manifests,
            "---\napiVersion: scrapetarget.dev/v1alpha1\nkind: ScrapeTarget\nmetadata: {{ name: {name}, namespace: media }}\nspec:\n  type: \
             {kind}\n  url: {}{path}\n{}",
            app.url(),
            block(scope)
        )
        .unwrap();
    }
    let folder = folder_with([("all.yaml", manifests.as_str())]);
    let service = Running::ready(folder.path(), ["--log-level", "trace", "--debug-bodies"]).await;
    for (name, line) in [
        ("echo", "probe_success 1"),
        ("refuses", "probe_failure_info{reason=\"auth\"} 1"),
        ("broken", "probe_failure_info{reason=\"auth\"} 1"),
    ] {
        let path = format!("/probe?target=media/{name}");
        service.until(&path, |status, body| (status == 200 && body.lines().any(|l| l == line)).then_some(())).await;
    }
    let mut paths: Vec<String> = ["/", "/metrics", "/sd", "/api/v1/targets"].map(str::to_owned).to_vec();
    for name in ["echo", "refuses", "broken"] {
        paths.extend([format!("/probe?target=media/{name}"), format!("/probe?target=media/{name}&debug=true")]);
    }
    let mut pages = Vec::new();
    for path in &paths {
        pages.push((path.clone(), service.body(path).await));
    }
    let (_, debug) = pages.iter().find(|(path, _)| path.contains("echo&debug")).unwrap();
    for words in ["The token\n", "token\n", "lifetime unknown: used until it is refused"] {
        assert!(debug.contains(words), "{words:?} in {debug}");
    }
    let (_, metrics) = pages.iter().find(|(path, _)| path == "/metrics").unwrap();
    assert!(metrics.contains("scrapetarget_token_requests_total{outcome=\"success\"} 1"), "{metrics}");
    pages.push(("the output".to_owned(), service.stdout()));
    pages.push(("the log".to_owned(), service.log()));
    for secret in SECRETS.into_iter().chain([pair.as_str()]) {
        for text in encodings(secret) {
            for (place, page) in &pages {
                assert!(!page.contains(&text), "{text} in {place}: {page}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_check_and_probe_know_the_block() {
    let (idm, app) = (Server::idm("").await, Server::app().await);
    let manifest = format!(
        "apiVersion: scrapetarget.dev/v1alpha1\nkind: ScrapeTarget\nmetadata: {{ name: app, namespace: media }}\nspec:\n  type: Prometheus\n  url: \
         {}metrics\n  oauth2:\n    clientId: {{ configMap: {{ name: idm, key: id }} }}\n    clientSecret: {{ name: idm, key: secret }}\n    \
         tokenUrl: {}token\n",
        app.url(),
        idm.url()
    );
    let ids =
        "---\napiVersion: v1\nkind: ConfigMap\nmetadata: { name: idm, namespace: media }\ndata: { id: watcher }\n";
    let folder = folder_with([("app.yaml", format!("{manifest}{ids}").as_str())]);
    let (file, secrets) = (folder.path().join("app.yaml"), folder.path().join("secrets"));
    let (file, directory) = (file.to_str().unwrap(), secrets.to_str().unwrap());
    std::fs::create_dir_all(secrets.join("media/idm")).unwrap();

    let said = run(["check", "--require-secrets", file]);
    assert!(
        said.stdout.contains("spec.oauth2.clientSecret: Secret media/idm is not in any of the files"),
        "{}",
        said.stdout
    );
    std::fs::write(secrets.join("media/idm/secret"), "\n").unwrap();
    let said = run(["check", "--secrets-directory", directory, file]);
    assert!(
        said.stdout.contains("spec.oauth2.clientSecret: the key \"secret\" of Secret media/idm is empty"),
        "{}",
        said.stdout
    );
    std::fs::write(secrets.join("media/idm/secret"), "s3cret-value\n").unwrap();
    let said = run(["check", "--secrets-directory", directory, file]);
    assert!(said.good(), "{}{}", said.stdout, said.stderr);

    let arguments = ["probe", "--secrets-directory", directory, "--debug", file].map(str::to_owned);
    let said = tokio::task::spawn_blocking(move || run(arguments)).await.unwrap();
    assert!(said.good(), "{}{}", said.stdout, said.stderr);
    assert!(said.stdout.contains("probe_call_success{call=\"token\"} 1"), "{}", said.stdout);
    assert!(
        said.stdout.contains(&format!("POST {}token", idm.url())) && !said.stdout.contains("token-1"),
        "{}",
        said.stdout
    );
    assert!(!said.stdout.contains("s3cret"), "{}", said.stdout);
}
