//! Type Grpc against servers of HTTP/2 that follow a script: every code, what is left when the check fails, and servers that mean ill.

#![expect(clippy::unwrap_used, reason = "a test may")]

mod support;

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use scrapetarget_exporter::kind::Reason;
use serde_json::{Value, json};
use support::faults::closed_port;
use support::probing::{Act, Actor, Certificate, Probed, hear, say};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

const YEAR_2040: f64 = 2_208_988_800.0;
const STATUSES: [&str; 4] = ["UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"];

/// What a server answers.
#[derive(Clone, Debug)]
struct Reply {
    status: u16,
    headers: Vec<(&'static str, &'static str)>,
    data: Vec<Vec<u8>>,
    trailers: Option<Vec<(&'static str, &'static str)>>,
    /// The answer never ends.
    hangs: bool,
}

impl Reply {
    /// A message and `grpc-status: 0`.
    fn message(message: &[u8]) -> Self {
        let length = u32::try_from(message.len()).unwrap().to_be_bytes();
        Self::data([&[0][..], &length, message].concat())
    }

    fn data(data: Vec<u8>) -> Self {
        Self {
            status: 200,
            headers: vec![("content-type", "application/grpc+proto")],
            data: vec![data],
            trailers: Some(vec![("grpc-status", "0")]),
            hangs: false,
        }
    }

    fn serving() -> Self {
        Self::message(&[8, 1])
    }

    /// An answer of headers alone.
    fn code(code: &'static str) -> Self {
        let headers =
            vec![("content-type", "application/grpc"), ("grpc-status", code), ("grpc-message", "secret%20words")];
        Self { headers, data: Vec::new(), trailers: None, ..Self::serving() }
    }

    fn http(status: u16) -> Self {
        let data = vec![b"<html>secret words</html>".to_vec()];
        Self { status, headers: vec![("content-type", "text/html")], data, trailers: None, hangs: false }
    }
}

/// The body of a reply.
struct Script {
    frames: std::vec::IntoIter<Frame<Bytes>>,
    hangs: bool,
}

impl http_body::Body for Script {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match self.frames.next() {
            None if self.hangs => Poll::Pending,
            next => Poll::Ready(next.map(Ok)),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.frames.len() == 0 && !self.hangs
    }
}

fn headers(list: &[(&'static str, &'static str)]) -> HeaderMap {
    list.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
}

/// One request, with its body.
type Asked = (http::request::Parts, Bytes);

struct GrpcServer {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
    task: JoinHandle<()>,
}

impl Drop for GrpcServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl GrpcServer {
    async fn start(reply: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Self {
        Self::with_tls(reply, None).await
    }

    async fn with_tls(reply: impl Fn(&Asked) -> Reply + Send + Sync + 'static, acceptor: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (asked, reply) = (Arc::<Mutex<Vec<Asked>>>::default(), Arc::new(reply));
        let all = Arc::clone(&asked);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (reply, asked, acceptor) = (Arc::clone(&reply), Arc::clone(&all), acceptor.clone());
                tokio::spawn(async move {
                    let service = service_fn(move |request: Request<Incoming>| {
                        let (reply, asked) = (Arc::clone(&reply), Arc::clone(&asked));
                        async move {
                            let (parts, body) = request.into_parts();
                            let body = body.collect().await?.to_bytes();
                            let Reply { status, headers: of_reply, data, trailers, hangs } =
                                reply(&(parts.clone(), body.clone()));
                            asked.lock().unwrap().push((parts, body));
                            let data = data.into_iter().map(|data| Frame::data(Bytes::from(data)));
                            let trailers = trailers.map(|list| Frame::trailers(headers(&list)));
                            let frames: Vec<_> = data.chain(trailers).collect();
                            let mut response = Response::new(Script { frames: frames.into_iter(), hangs });
                            *response.status_mut() = StatusCode::from_u16(status).unwrap();
                            *response.headers_mut() = headers(&of_reply);
                            Ok::<_, hyper::Error>(response)
                        }
                    });
                    let server = http2::Builder::new(TokioExecutor::new());
                    let _ = match acceptor {
                        None => server.serve_connection(TokioIo::new(stream), service).await,
                        Some(acceptor) => match acceptor.accept(stream).await {
                            Ok(stream) => server.serve_connection(TokioIo::new(stream), service).await,
                            Err(_) => return,
                        },
                    };
                });
            }
        });
        Self { address, asked, task }
    }

    fn url(&self, scheme: &str) -> String {
        format!("{scheme}://{}", self.address)
    }
}

fn acceptor(certificate: &Certificate, alpn: &[&[u8]]) -> TlsAcceptor {
    let mut config = certificate.server_config();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    TlsAcceptor::from(Arc::new(config))
}

async fn probe(url: String, options: Value) -> Probed {
    Probed::of(json!({ "type": "Grpc", "url": url, "grpc": options })).await
}

async fn probe_with(url: String, ca: &str) -> Probed {
    Probed::changed(json!({ "type": "Grpc", "url": url }), |target| {
        Arc::make_mut(&mut target.source).connection.tls.ca = Some(ca.as_bytes().into());
    })
    .await
}

/// The statuses that are 1, once all four are there.
#[track_caller]
fn status(probed: &Probed) -> Vec<&'static str> {
    let value = |status: &str| probed.value(&format!("probe_grpc_healthcheck_response{{serving_status=\"{status}\"}}"));
    STATUSES.into_iter().filter(|status| value(status) == 1.0).collect()
}

#[track_caller]
fn has_code(probed: &Probed, reason: Reason, code: f64) {
    probed.failed(reason);
    assert_eq!(probed.value("probe_grpc_status_code"), code, "{}", probed.message);
    assert_eq!(status(probed), [""; 0]);
    assert!(probed.has("probe_grpc_duration_seconds") && probed.has("probe_grpc_ssl"));
    assert!(!probed.message.contains("secret words"), "{}", probed.message);
}

#[tokio::test]
async fn a_server_that_serves_is_healthy() {
    let server = GrpcServer::start(|_| Reply::serving()).await;
    let probed = Probed::of(json!({ "type": "Grpc", "url": server.url("grpc") })).await;
    probed.succeeded();
    assert_eq!(status(&probed), ["SERVING"]);
    assert_eq!((probed.value("probe_grpc_status_code"), probed.value("probe_grpc_ssl")), (0.0, 0.0));
    assert!(probed.value("probe_grpc_duration_seconds{phase=\"check\"}") > 0.0);
    probed.value("probe_grpc_duration_seconds{phase=\"resolve\"}");
    assert!(!probed.has("probe_tls_version_info") && !probed.has("probe_ssl_earliest_cert_expiry"));
    let asked = server.asked.lock().unwrap();
    let (parts, body) = &asked[0];
    assert_eq!((parts.method.as_str(), parts.uri.path()), ("POST", "/grpc.health.v1.Health/Check"));
    assert_eq!(parts.uri.authority().unwrap().as_str(), server.address.to_string());
    assert_eq!(parts.headers["content-type"], "application/grpc");
    assert_eq!(parts.headers["te"], "trailers");
    let timeout = parts.headers["grpc-timeout"].to_str().unwrap().strip_suffix('m').unwrap().parse::<u64>().unwrap();
    assert!((1..=60_000).contains(&timeout), "{timeout}");
    assert_eq!(body.as_ref(), [0; 5]);
}

#[tokio::test]
async fn headers_credentials_and_metadata_are_sent() {
    let server = GrpcServer::start(|_| Reply::serving()).await;
    let probed = Probed::of(json!({
        "type": "Grpc",
        "url": server.url("grpc"),
        "headers": [{ "name": "X-Api-Key", "secretKeyRef": { "name": "api", "key": "key" } }, { "name": "Host", "value": "health.example.com" }],
        "authorization": { "credentials": { "name": "api", "key": "token" } },
        "grpc": { "service": "media", "metadata": { "Tenant": ["a", "b"], "trace-bin": ["\u{1}x"] } },
    }))
    .await;
    probed.succeeded();
    let asked = server.asked.lock().unwrap();
    let (parts, body) = &asked[0];
    let all = |name: &str| parts.headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect::<Vec<_>>();
    assert_eq!(all("tenant"), ["a", "b"]);
    assert_eq!(all("trace-bin"), ["AXg"]);
    assert_eq!(all("x-api-key"), ["key-value"]);
    assert_eq!(all("authorization"), ["Bearer token-value"]);
    assert_eq!(parts.uri.authority().unwrap().as_str(), "health.example.com");
    assert_eq!(body.as_ref(), b"\0\0\0\0\x07\x0a\x05media");
}

#[tokio::test]
async fn each_service_has_a_health_of_its_own() {
    let server = GrpcServer::start(|(_, body)| match body.get(7..) {
        None | Some(b"up") => Reply::serving(),
        Some(b"down") => Reply::message(&[8, 2]),
        Some(b"starting") => Reply::message(&[]),
        Some(b"gone") => Reply::message(&[8, 3]),
        Some(_) => Reply::code("5"),
    })
    .await;
    for (service, expected) in [
        ("", "SERVING"),
        ("up", "SERVING"),
        ("down", "NOT_SERVING"),
        ("starting", "UNKNOWN"),
        ("gone", "SERVICE_UNKNOWN"),
    ] {
        let probed = probe(server.url("grpc"), json!({ "service": service })).await;
        assert_eq!(status(&probed), [expected], "{service}");
        assert_eq!(probed.value("probe_grpc_status_code"), 0.0);
        if expected == "SERVING" {
            probed.succeeded();
        } else {
            probed.failed(Reason::Response);
            assert!(probed.message.contains(service) && probed.message.contains(expected), "{}", probed.message);
        }
    }
    let probed = probe(server.url("grpc"), json!({ "service": "other" })).await;
    has_code(&probed, Reason::Response, 5.0);
    assert!(probed.message.contains("grpc.service"), "{}", probed.message);
}

#[tokio::test]
async fn every_code_of_a_server_is_exported() {
    for (code, reason) in [
        ("1", Reason::Response),
        ("7", Reason::Auth),
        ("12", Reason::Response),
        ("14", Reason::Response),
        ("16", Reason::Auth),
    ] {
        let server = GrpcServer::start(move |_| Reply::code(code)).await;
        has_code(&probe(server.url("grpc"), json!({})).await, reason, code.parse().unwrap());
    }
    let in_trailers = Reply { data: Vec::new(), trailers: Some(vec![("grpc-status", "12")]), ..Reply::serving() };
    let server = GrpcServer::start(move |_| in_trailers.clone()).await;
    let probed = probe(server.url("grpc"), json!({})).await;
    has_code(&probed, Reason::Response, 12.0);
    assert!(probed.message.contains("no health service"), "{}", probed.message);
}

#[tokio::test]
async fn over_tls_the_certificate_is_exported() {
    let certificate = Certificate::good();
    let server = GrpcServer::with_tls(|_| Reply::serving(), Some(acceptor(&certificate, &[b"h2"]))).await;
    let probed = probe_with(server.url("grpcs"), &certificate.ca).await;
    probed.succeeded();
    assert_eq!(probed.value("probe_grpc_ssl"), 1.0);
    assert_eq!(probed.value("probe_tls_version_info{version=\"TLS 1.3\"}"), 1.0);
    assert_eq!(probed.value("probe_ssl_earliest_cert_expiry"), YEAR_2040);
    assert_eq!(probed.value("probe_ssl_last_chain_expiry_timestamp_seconds"), YEAR_2040);
    assert!(probed.has("probe_ssl_last_chain_info") && !probed.has("probe_tls_cipher_info"));
    let asked = server.asked.lock().unwrap();
    assert_eq!(asked[0].0.uri.scheme_str(), Some("https"));
}

#[tokio::test]
async fn a_failed_handshake_is_code_14() {
    let expired = Certificate::changed(|params| params.not_after = rcgen::date_time_ymd(2021, 1, 1));
    let server = GrpcServer::with_tls(|_| Reply::serving(), Some(acceptor(&expired, &[b"h2"]))).await;
    let probed = probe_with(server.url("grpcs"), &expired.ca).await;
    has_code(&probed, Reason::Tls, 14.0);
    assert_eq!(probed.value("probe_grpc_ssl"), 0.0);
    assert!(probed.has("probe_ssl_last_chain_info") && !probed.has("probe_ssl_last_chain_expiry_timestamp_seconds"));

    let plain = GrpcServer::start(|_| Reply::serving()).await;
    let probed = probe_with(plain.url("grpcs"), &expired.ca).await;
    has_code(&probed, Reason::Tls, 14.0);
    assert!(!probed.has("probe_ssl_last_chain_info"));
    let probed = probe(server.url("grpc"), json!({})).await;
    assert_eq!(probed.value("probe_grpc_status_code"), 14.0, "{}", probed.message);

    let certificate = Certificate::good();
    for (alpn, reason) in [(&[][..], Reason::Protocol), (&[&b"http/1.1"[..]], Reason::Tls)] {
        let server = GrpcServer::with_tls(|_| Reply::serving(), Some(acceptor(&certificate, alpn))).await;
        let probed = probe_with(server.url("grpcs"), &certificate.ca).await;
        has_code(&probed, reason, 14.0);
        assert!(probed.message.contains("ALPN"), "{}", probed.message);
    }
}

/// In TLS 1.3 the handshake is over for us before the server has looked at our certificate.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_wants_another_client_certificate_says_so_after_the_handshake() {
    let certificate = Certificate::good();
    let mut config = certificate.demanding_server_config();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let server = GrpcServer::with_tls(|_| Reply::serving(), Some(TlsAcceptor::from(Arc::new(config)))).await;
    for _ in 0..20 {
        let probed = probe_with(server.url("grpcs"), &certificate.ca).await;
        has_code(&probed, Reason::Tls, 14.0);
        assert!(probed.message.contains("requires a client certificate"), "{}", probed.message);
    }
}

#[tokio::test]
async fn without_a_connection_the_families_are_there() {
    let url = closed_port().replace("http://", "grpc://");
    has_code(&probe(url.trim_end_matches('/').to_owned(), json!({})).await, Reason::Connect, 14.0);

    let probed = probe("grpc://no-such-host.invalid".to_owned(), json!({})).await;
    probed.failed(Reason::Dns);
    assert_eq!((probed.value("probe_grpc_status_code"), probed.value("probe_grpc_ssl")), (0.0, 0.0));
    assert!(!probed.has("probe_grpc_healthcheck_response"));
    assert!(!probed.series.contains_key("probe_grpc_duration_seconds{phase=\"check\"}"));
}

#[tokio::test]
async fn answers_of_other_protocols_have_the_codes_of_grpc() {
    for (http, reason, code) in [
        (200, Reason::Protocol, 2.0),
        (400, Reason::Protocol, 13.0),
        (401, Reason::Auth, 16.0),
        (403, Reason::Auth, 7.0),
        (404, Reason::Protocol, 12.0),
        (503, Reason::Protocol, 14.0),
    ] {
        let server = GrpcServer::start(move |_| Reply::http(http)).await;
        has_code(&probe(server.url("grpc"), json!({})).await, reason, code);
    }
    let http1 = Actor::start([
        hear("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        say("HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n"),
        Act::Hang,
    ])
    .await;
    let probed = probe(http1.url("grpc"), json!({})).await;
    assert_eq!(probed.value("probe_grpc_status_code"), 14.0, "{}", probed.message);
    assert_eq!(probed.reason, Some(Reason::Protocol), "{}", probed.message);
}

#[tokio::test]
async fn a_malformed_answer_is_a_matter_of_the_protocol() {
    let compressed = Reply::data(vec![1, 0, 0, 0, 2, 8, 1]);
    let cut = Reply::data(vec![0, 0, 0, 0, 2, 8]);
    let twice = Reply { data: vec![vec![0, 0, 0, 0, 2, 8, 1], vec![0, 0, 0, 0, 2, 8, 1]], ..Reply::serving() };
    let without_trailers = Reply { trailers: None, ..Reply::serving() };
    let without_message = Reply { data: Vec::new(), ..Reply::serving() };
    let unknown = Reply::message(&[8, 9]);
    for reply in [compressed, cut, twice, without_trailers, without_message, unknown] {
        let server = GrpcServer::start(move |_| reply.clone()).await;
        has_code(&probe(server.url("grpc"), json!({})).await, Reason::Protocol, 13.0);
    }
    let in_pieces = Reply { data: vec![vec![0, 0, 0], vec![0, 2], vec![8], vec![1]], ..Reply::serving() };
    let server = GrpcServer::start(move |_| in_pieces.clone()).await;
    probe(server.url("grpc"), json!({})).await.succeeded();
}

#[tokio::test]
async fn an_answer_without_end_is_a_limit_or_a_timeout() {
    let large = Reply { data: vec![vec![0; 4096]; 8], ..Reply::serving() };
    let server = GrpcServer::start(move |_| large.clone()).await;
    has_code(&probe(server.url("grpc"), json!({})).await, Reason::Limit, 8.0);

    let hangs = Reply { trailers: None, hangs: true, ..Reply::serving() };
    let server = GrpcServer::start(move |_| hangs.clone()).await;
    for url in [server.url("grpc"), Actor::start([Act::Hang]).await.url("grpc")] {
        let probed = Probed::of(json!({ "type": "Grpc", "url": url, "timeout": "300ms" })).await;
        assert!(matches!(probed.reason, Some(Reason::Timeout | Reason::Connect)), "{}", probed.message);
    }
    let silent = Actor::start([Act::Hang]).await;
    let probed = Probed::of(json!({ "type": "Grpc", "url": silent.url("grpc"), "timeout": "300ms" })).await;
    has_code(&probed, Reason::Timeout, 4.0);

    // Settings, which may be sent at any time, are acknowledged for ever.
    let mut flood = b"\0\0\0\x04\0\0\0\0\0".to_vec();
    flood.extend(b"\0\0\x08\x06\0\0\0\0\0pingping".repeat(1000));
    let flooding = Actor::start([Act::Endless(flood)]).await;
    let probed = probe(flooding.url("grpc"), json!({})).await;
    has_code(&probed, Reason::Limit, 14.0);
}

/// A frame of HTTP/2.
fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags, 0, 0, 0, stream], payload].concat()
}

#[tokio::test]
async fn a_server_that_breaks_off_in_http_2_is_not_said_to_speak_something_else() {
    const STATUS_200: &[u8] = b"\x88";
    let large = [&[0, 7][..], b"x-large", &[120], &[b'x'; 120]].concat();
    let piece = frame(9, 0, 1, &large.repeat(100));
    let large_header = [frame(1, 0, 1, STATUS_200), piece.repeat(3), frame(9, 4, 1, b"")].concat();
    for (begins, repeats, reason, code, word) in [
        (frame(7, 0, 0, &[0, 0, 0, 0, 0, 0, 0, 11]), Vec::new(), Reason::Protocol, 14.0, "GOAWAY"),
        (frame(3, 0, 1, &[0, 0, 0, 8]), Vec::new(), Reason::Protocol, 13.0, "RST_STREAM"),
        (large_header, Vec::new(), Reason::Protocol, 13.0, "a longer header than is read"),
        (frame(1, 0, 1, STATUS_200), piece, Reason::Limit, 8.0, "sent more headers"),
    ] {
        let begins = [frame(4, 0, 0, b""), begins].concat();
        let rest = if repeats.is_empty() { Act::Hang } else { Act::Endless(repeats) };
        let server = Actor::start([hear("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), Act::Say(begins), rest]).await;
        let probed = probe(server.url("grpc"), json!({})).await;
        has_code(&probed, reason, code);
        assert!(probed.message.contains(word) && !probed.message.contains("grpcs://"), "{}", probed.message);
    }
}
