//! Type Http against real servers on loopback: what a good answer is, what is exported whatever happens, and servers that mean harm.

#![expect(clippy::unwrap_used, reason = "a test may")]
#![allow(clippy::needless_pass_by_value, reason = "options are written where they are used")]

mod support;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use scrapetarget_exporter::crd::{self, ParsedTarget, ScrapeTarget};
use scrapetarget_exporter::dial::{AddressRules, Dialers};
use scrapetarget_exporter::fetch::{Clients, Limits};
use scrapetarget_exporter::kind::Reason;
use scrapetarget_exporter::poll::Pollers;
use scrapetarget_exporter::self_metrics::SelfMetrics;
use scrapetarget_exporter::target::{Lookup, LookupError, ObjectKind, Target, TargetId};
use serde_json::{Value, json};
use support::faults::{Fault, Faulty, closed_port};
use support::proxy::Proxy;
use support::{choose_tls_provider, series, text};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// One request that a server got.
#[derive(Clone, Debug)]
struct Request {
    line: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    server_name: Option<String>,
}

impl Request {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    fn path(&self) -> &str {
        self.line.split(' ').nth(1).unwrap()
    }
}

/// What a server does with a request.
enum Answer {
    /// These bytes, and the end.
    Say(Vec<u8>),
    /// These bytes, and then the same again and again.
    Repeat(Vec<u8>, Vec<u8>),
    /// These bytes, and then nothing.
    Hang(Vec<u8>),
}

fn say(text: impl AsRef<[u8]>) -> Answer {
    Answer::Say(text.as_ref().to_vec())
}

/// An answer with these lines of a header, and a body.
fn answer(status: &str, headers: &[&str], body: impl AsRef<[u8]>) -> Answer {
    let lines = headers.iter().flat_map(|line| [*line, "\r\n"]).collect::<String>();
    let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n{lines}\r\n", body.as_ref().len());
    Answer::Say([head.as_bytes(), body.as_ref()].concat())
}

fn ok(body: impl AsRef<[u8]>) -> Answer {
    answer("200 OK", &[], body)
}

fn redirect(status: u16, location: &str) -> Answer {
    answer(&format!("{status} Elsewhere"), &[&format!("location: {location}")], "moved")
}

/// A server for one answer on each connection.
struct Web {
    address: SocketAddr,
    /// PEM of its certificate, if it has one.
    ca: Option<String>,
    seen: Arc<Mutex<Vec<Request>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Web {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Web {
    async fn plain(then: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Self {
        Self::start(None, then).await
    }

    /// With a certificate for these names that vouches for itself.
    async fn tls(names: &[&str], then: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Self {
        Self::start(Some(acceptor(names, &[])), then).await
    }

    async fn start(
        tls: Option<(TlsAcceptor, String)>,
        then: impl Fn(&Request) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let (acceptor, ca) = tls.unzip();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::<Mutex<Vec<Request>>>::default();
        let (book, then) = (Arc::clone(&seen), Arc::new(then));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, book, then) = (acceptor.clone(), Arc::clone(&book), Arc::clone(&then));
                tokio::spawn(async move {
                    // A client that goes away is no error of a server.
                    let _ = match acceptor {
                        None => serve(stream, None, &book, &*then).await,
                        Some(acceptor) => match acceptor.accept(stream).await {
                            Ok(stream) => {
                                let name = stream.get_ref().1.server_name().map(str::to_owned);
                                serve(stream, name, &book, &*then).await
                            }
                            Err(error) => Err(error),
                        },
                    };
                });
            }
        });
        Self { address, ca, seen, task }
    }

    fn url(&self) -> String {
        let scheme = if self.ca.is_some() { "https" } else { "http" };
        format!("{scheme}://{}/", self.address)
    }

    /// The same by a name.
    fn url_by(&self, name: &str) -> String {
        let scheme = if self.ca.is_some() { "https" } else { "http" };
        format!("{scheme}://{name}:{}/", self.address.port())
    }

    fn seen(&self) -> Vec<Request> {
        self.seen.lock().unwrap().clone()
    }
}

fn acceptor(names: &[&str], alpn: &[&[u8]]) -> (TlsAcceptor, String) {
    acceptor_of(names, alpn, |_| WebPkiClientVerifier::no_client_auth())
}

/// It rejects whoever shows no certificate.
fn demanding_acceptor(names: &[&str], alpn: &[&[u8]]) -> (TlsAcceptor, String) {
    acceptor_of(names, alpn, |own| {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(own).unwrap();
        WebPkiClientVerifier::builder(Arc::new(roots)).build().unwrap()
    })
}

fn acceptor_of(
    names: &[&str],
    alpn: &[&[u8]],
    clients: impl FnOnce(CertificateDer<'static>) -> Arc<dyn ClientCertVerifier>,
) -> (TlsAcceptor, String) {
    choose_tls_provider();
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut certificate = CertificateParams::new(names).unwrap();
    certificate.not_before = date_time_ymd(2020, 1, 1);
    certificate.not_after = date_time_ymd(2040, 1, 1);
    let key = KeyPair::generate().unwrap();
    let certificate = certificate.self_signed(&key).unwrap();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let mut config = rustls::ServerConfig::builder()
        .with_client_cert_verifier(clients(certificate.der().clone()))
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    (TlsAcceptor::from(Arc::new(config)), certificate.pem())
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    server_name: Option<String>,
    book: &Mutex<Vec<Request>>,
    then: &(impl Fn(&Request) -> Answer + Sync),
) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8(head).unwrap();
    let mut lines = head.trim_end().lines();
    let line = lines.next().unwrap().to_owned();
    let headers: Vec<(String, String)> =
        lines.map(|line| line.split_once(": ").unwrap()).map(|(name, value)| (name.into(), value.into())).collect();
    let mut request = Request { line, headers, body: Vec::new(), server_name };
    let length = request.header("content-length").map_or(0, |length| length.parse().unwrap());
    request.body.resize(length, 0);
    stream.read_exact(&mut request.body).await?;
    book.lock().unwrap().push(request.clone());
    match then(&request) {
        Answer::Say(bytes) => stream.write_all(&bytes).await?,
        Answer::Repeat(first, again) => {
            stream.write_all(&first).await?;
            loop {
                stream.write_all(&again).await?;
            }
        }
        Answer::Hang(bytes) => {
            stream.write_all(&bytes).await?;
            stream.flush().await?;
            std::future::pending::<()>().await;
        }
    }
    stream.shutdown().await
}

/// A server that offers HTTP/2 and HTTP/1.1 over TLS.
async fn http2() -> (SocketAddr, String) {
    let (acceptor, ca) = acceptor(&["127.0.0.1"], &[b"h2", b"http/1.1"]);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                let io = hyper_util::rt::TokioIo::new(stream);
                let service = hyper::service::service_fn(async |request: hyper::Request<hyper::body::Incoming>| {
                    let body = match request.uri().path() {
                        "/empty" => String::new(),
                        "/long" => "long ".repeat(100_000),
                        _ => format!("{} {}", request.method(), request.uri()),
                    };
                    Ok::<_, Infallible>(hyper::Response::new(Full::new(Bytes::from(body))))
                });
                let _ = if is_http2 {
                    let executor = hyper_util::rt::TokioExecutor::new();
                    hyper::server::conn::http2::Builder::new(executor).serve_connection(io, service).await
                } else {
                    hyper::server::conn::http1::Builder::new().serve_connection(io, service).await
                };
            });
        }
    });
    (address, ca)
}

/// A probe that is to be made.
struct Setup {
    spec: Value,
    ca: Option<String>,
    hosts: Vec<(&'static str, &'static str)>,
    rules: AddressRules,
    limits: Limits,
    secrets: BTreeMap<&'static str, &'static str>,
}

/// What came of it.
#[derive(Debug)]
struct Probed {
    series: BTreeMap<String, f64>,
    failure: Option<(Reason, String)>,
    events: Vec<String>,
    address: Option<IpAddr>,
    text: String,
}

impl Lookup for Setup {
    fn value(&self, kind: ObjectKind, namespace: &str, name: &str, key: &str) -> Result<Vec<u8>, LookupError> {
        let missing = || LookupError::NoObject { kind, namespace: namespace.to_owned(), name: name.to_owned() };
        self.secrets.get(key).map(|value| value.as_bytes().to_vec()).ok_or_else(missing)
    }
}

impl Setup {
    /// A target of type Http at `url` with these options.
    fn new(url: &str, http: Value) -> Self {
        Self {
            spec: json!({ "type": "Http", "url": url, "http": http, "interval": "60s", "timeout": "60s" }),
            ca: None,
            hosts: Vec::new(),
            rules: AddressRules::default(),
            limits: Limits::new(1 << 20, 8 << 20),
            secrets: BTreeMap::new(),
        }
    }

    fn with(mut self, field: &str, value: Value) -> Self {
        self.spec[field] = value;
        self
    }

    fn trusting(mut self, ca: Option<&String>) -> Self {
        self.ca = ca.cloned();
        self
    }

    fn knowing(mut self, host: &'static str, address: &'static str) -> Self {
        self.hosts.push((host, address));
        self
    }

    async fn probe(self) -> Probed {
        choose_tls_provider();
        let manifest = json!({
            "apiVersion": "scrapetarget.dev/v1alpha1", "kind": "ScrapeTarget", "metadata": { "name": "web" }, "spec": self.spec,
        });
        let errors = crd::judge(&manifest).err().unwrap_or_default();
        assert!(errors.is_empty(), "{errors:?}");
        let spec = serde_json::from_value(self.spec.clone()).unwrap();
        let declaration = ParsedTarget::parse(ScrapeTarget::new("web", spec)).unwrap();
        let mut target = Target::resolve(TargetId::new("media", "web"), Arc::new(declaration), &self);
        assert!(target.problem.is_none(), "{:?}", target.problem);
        Arc::make_mut(&mut target.source).connection.tls.ca = self.ca.as_ref().map(|pem| pem.as_bytes().into());
        let hosts = self.hosts.iter().map(|(host, address)| {
            let address: IpAddr = address.parse().unwrap();
            (Arc::from(*host), Arc::from([address]))
        });
        let dialers = Dialers::new(self.rules).knowing(hosts.collect());
        let metrics = SelfMetrics::new().unwrap();
        let pollers = Pollers::new(Clients::with(dialers), self.limits, metrics.polls, false).0;
        let id = target.id.clone();
        pollers.apply([target]);
        let snapshot = pollers.get(&id).unwrap().answer(support::eventually::PATIENCE).await;
        pollers.shutdown().await;
        let text = text(&snapshot);
        Probed {
            series: series(&text),
            failure: snapshot.failure.as_ref().map(|failure| (failure.reason, failure.message.to_string())),
            address: snapshot.probe.as_ref().unwrap().address(),
            events: snapshot.probe.as_ref().unwrap().events().map(|event| event.text.into()).collect(),
            text,
        }
    }
}

impl Probed {
    fn get(&self, name: &str) -> Option<f64> {
        self.series.get(name).copied()
    }

    #[track_caller]
    fn has(&self, name: &str, value: f64) -> &Self {
        assert_eq!(self.get(name), Some(value), "{name} in {self:#?}");
        self
    }

    #[track_caller]
    fn lacks(&self, name: &str) -> &Self {
        assert!(!self.series.keys().any(|series| series.starts_with(name)), "{name} in {self:#?}");
        self
    }

    #[track_caller]
    fn succeeded(&self) -> &Self {
        assert_eq!(self.failure, None, "{self:#?}");
        self.has("probe_success", 1.0)
    }

    #[track_caller]
    fn failed(&self, reason: Reason, words: &str) -> &Self {
        let (own, message) = self.failure.as_ref().unwrap_or_else(|| panic!("it succeeded: {self:#?}"));
        assert!(*own == reason && message.contains(words), "{reason:?} {words:?}: {self:#?}");
        self.has("probe_success", 0.0)
    }
}

async fn probe(url: &str, http: Value) -> Probed {
    Setup::new(url, http).probe().await
}

/// With the limits of the program, which are larger.
async fn probe_large(url: &str, http: Value) -> Probed {
    let mut setup = Setup::new(url, http);
    setup.limits = Limits::new(16 << 20, 128 << 20);
    setup.probe().await
}

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

fn deflate(text: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

/// Brotli without compression, of up to 65,536 bytes.
fn brotli(text: &[u8]) -> Vec<u8> {
    let header = (u32::try_from(text.len() - 1).unwrap() << 4) | (1 << 20);
    [&header.to_le_bytes()[..3], text, &[0x03]].concat()
}

const PHASES: [&str; 5] = ["resolve", "connect", "tls", "processing", "transfer"];

fn phase(name: &str) -> String {
    format!("probe_http_duration_seconds{{phase=\"{name}\"}}")
}

// What a good answer is.

#[tokio::test]
async fn a_good_answer_has_every_family_of_the_blackbox_exporter() {
    let web = Web::plain(|_| answer("200 OK", &["last-modified: Thu, 01 Jan 1970 00:01:00 GMT"], "Hello")).await;
    let probed = probe(&web.url(), json!({})).await;
    probed
        .succeeded()
        .has("probe_http_status_code", 200.0)
        .has("probe_http_version", 1.1)
        .has("probe_http_ssl", 0.0)
        .has("probe_http_redirects", 0.0)
        .has("probe_http_content_length", 5.0)
        .has("probe_http_uncompressed_body_length", 5.0)
        .has("probe_failed_due_to_regex", 0.0)
        .has("probe_http_last_modified_timestamp_seconds", 60.0)
        .has("probe_ip_protocol", 4.0)
        .has("probe_ip_addr_hash", 3_668_918_509.0)
        .has("probe_timeout_seconds", 60.0)
        .lacks("probe_tls")
        .lacks("probe_ssl");
    for name in PHASES {
        let took = probed.get(&phase(name)).unwrap();
        assert!((0.0..60.0).contains(&took) && (name != "tls" || took == 0.0), "{name} {took}");
    }
    let request = &web.seen()[0];
    assert_eq!(request.line, "GET / HTTP/1.1");
    assert_eq!(request.header("host"), Some(web.address.to_string().as_str()));
    assert_eq!(request.header("connection"), Some("close"));
    assert!(request.header("user-agent").unwrap().starts_with("scrapetarget-exporter/"));
    assert_eq!(request.header("accept-encoding"), None);
    assert!(probed.events.iter().any(|event| event.starts_with("connected to 127.0.0.1:")), "{:?}", probed.events);
    assert!(probed.events.iter().any(|event| event == "answered 200 over HTTP/1.1"), "{:?}", probed.events);
}

#[tokio::test]
async fn status_codes_are_valid_or_not() {
    let web = Web::plain(|request| answer(&format!("{} X", request.path().trim_start_matches('/')), &[], "")).await;
    for (status, valid, reason) in [
        (200, json!([]), None),
        (201, json!([]), None),
        (299, json!([]), None),
        (300, json!([]), Some(Reason::HttpStatus)),
        (404, json!([]), Some(Reason::HttpStatus)),
        (404, json!([200, 404]), None),
        (200, json!([404]), Some(Reason::HttpStatus)),
        (401, json!([]), Some(Reason::Auth)),
        (403, json!([]), Some(Reason::Auth)),
        (401, json!([401]), None),
        (500, json!([]), Some(Reason::HttpStatus)),
    ] {
        let probed = probe(&format!("{}{status}", web.url()), json!({ "validStatusCodes": valid })).await;
        probed.has("probe_http_status_code", f64::from(status)).has("probe_http_version", 1.1);
        match reason {
            None => probed.succeeded(),
            Some(reason) => probed.failed(reason, &format!("answered {status}")),
        };
    }
}

#[tokio::test]
async fn versions_of_http_are_valid_or_not() {
    let old = Web::plain(|_| say("HTTP/1.0 200 OK\r\n\r\nold")).await;
    probe(&old.url(), json!({ "validHttpVersions": ["HTTP/1.0"] })).await.succeeded().has("probe_http_version", 1.0);
    let web = Web::plain(|_| ok("x")).await;
    for (valid, is_valid) in [
        (json!(["HTTP/1.1"]), true),
        (json!(["HTTP/1.1", "HTTP/2.0"]), true),
        (json!(["HTTP/2.0"]), false),
        (json!(["HTTP/2"]), false),
        (json!(["HTTP/1.0"]), false),
    ] {
        let probed = probe(&web.url(), json!({ "validHttpVersions": valid })).await;
        if is_valid {
            probed.succeeded();
        } else {
            probed.failed(Reason::Response, "http.validHttpVersions").has("probe_http_version", 1.1);
        }
    }
}

#[tokio::test]
async fn http_2_is_spoken_where_the_server_speaks_it() {
    let (address, ca) = http2().await;
    let url = format!("https://{address}/path?query=1");
    let get = async |url: &str, http: Value| Setup::new(url, http).trusting(Some(&ca)).probe().await;
    let body = format!("^GET {}$", url.replace('?', r"\?"));
    let probed = get(&url, json!({ "validHttpVersions": ["HTTP/2"], "failIfBodyNotMatchesRegexp": [body] })).await;
    probed
        .succeeded()
        .has("probe_http_version", 2.0)
        .has("probe_http_ssl", 1.0)
        .has("probe_tls_version_info{version=\"TLS 1.3\"}", 1.0);
    assert!(probed.get(&phase("tls")).unwrap() > 0.0);
    let long = get(&format!("https://{address}/long"), json!({})).await;
    long.succeeded().has("probe_http_uncompressed_body_length", 500_000.0);
    let empty = get(&format!("https://{address}/empty"), json!({})).await;
    empty.succeeded().has("probe_http_content_length", 0.0);
    let posted = get(&url, json!({ "method": "POST", "body": "x", "failIfBodyNotMatchesRegexp": ["^POST "] })).await;
    posted.succeeded();
    get(&url, json!({ "enableHttp2": false })).await.succeeded().has("probe_http_version", 1.1);
    get(&url, json!({ "enableHttp2": false, "validHttpVersions": ["HTTP/2.0"] }))
        .await
        .failed(Reason::Response, "HTTP/1.1");
}

/// A server that speaks HTTP/2 without knowing it: its settings, these bytes, and others without end.
async fn raw_http2(begins: Vec<u8>, repeats: Vec<u8>) -> (SocketAddr, String) {
    let (acceptor, ca) = acceptor(&["127.0.0.1"], &[b"h2"]);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, begins, repeats) = (acceptor.clone(), begins.clone(), repeats.clone());
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let (mut reader, mut writer) = tokio::io::split(stream);
                let mut preface = [0; 24];
                if reader.read_exact(&mut preface).await.is_err() {
                    return;
                }
                let ignore = async { drop(tokio::io::copy(&mut reader, &mut tokio::io::sink()).await) };
                let flood = async {
                    let _ = writer.write_all(&[&frame(4, 0, 0, b"")[..], &begins].concat()).await;
                    while !repeats.is_empty() && writer.write_all(&repeats).await.is_ok() {}
                    let _ = writer.flush().await;
                };
                tokio::join!(ignore, flood);
            });
        }
    });
    (address, ca)
}

/// A frame of HTTP/2.
fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags, 0, 0, 0, stream], payload].concat()
}

/// A header of HTTP/2 that is in no table.
fn field(name: &str, value: &str) -> Vec<u8> {
    let text = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
    [vec![0], text(name), text(value)].concat()
}

#[tokio::test]
async fn what_a_server_of_http_2_sends_too_much_of_is_said() {
    const STATUS_200: &[u8] = b"\x88";
    let many = |frame: Vec<u8>| frame.repeat(100);
    let floods = [
        ("settings", many(frame(4, 0, 0, b""))),
        ("ping", many(frame(6, 0, 0, b"pingping"))),
        ("acknowledged pings", many(frame(6, 1, 0, b"pingping"))),
        ("priority", many(frame(2, 0, 1, &[0, 0, 0, 3, 1]))),
        ("unknown", many(frame(200, 0, 0, &[b'x'; 1000]))),
        ("interim answers", many(frame(1, 4, 1, &field(":status", "103")))),
    ];
    for (name, flood) in floods {
        let (address, ca) = raw_http2(Vec::new(), flood).await;
        let probed = Setup::new(&format!("https://{address}/"), json!({})).trusting(Some(&ca)).probe().await;
        let (reason, message) = probed.failure.clone().unwrap_or_else(|| panic!("{name}"));
        assert_eq!(reason, Reason::Limit, "{name}: {message}");
        assert!(message.contains("sent more"), "{name}: {message}");
    }
    let answer = |fields: &[u8], end: u8| frame(1, end, 1, &[STATUS_200, fields].concat());
    let large = field("x-large", &"x".repeat(120));
    let large_header = frame(1, 0, 1, STATUS_200);
    let piece = frame(9, 0, 1, &large.repeat(100));
    for (name, begins, repeats, reason, word) in [
        ("window", answer(b"", 4), frame(0, 0, 1, &[b'x'; 16_384]), Reason::Body, "sent more of the answer than"),
        (
            "length",
            [answer(&field("content-length", "1"), 4), frame(0, 1, 1, b"two")].concat(),
            Vec::new(),
            Reason::Body,
            "a longer body than it had announced",
        ),
        (
            "header",
            [large_header, piece.repeat(6), frame(9, 4, 1, b"")].concat(),
            Vec::new(),
            Reason::Limit,
            "sent more headers",
        ),
        ("headers without end", frame(1, 0, 1, STATUS_200), piece, Reason::Limit, "sent more headers"),
        ("gone", frame(7, 0, 0, &[0, 0, 0, 0, 0, 0, 0, 11]), Vec::new(), Reason::Protocol, "GOAWAY"),
        ("reset", frame(3, 0, 1, &[0, 0, 0, 8]), Vec::new(), Reason::Protocol, "RST_STREAM"),
    ] {
        let (address, ca) = raw_http2(begins, repeats).await;
        let probed = Setup::new(&format!("https://{address}/"), json!({})).trusting(Some(&ca)).probe().await;
        let (found, message) = probed.failure.clone().unwrap_or_else(|| panic!("{name}"));
        assert!(found == reason && message.contains(word), "{name}: {found:?} {message}");
    }
}

#[tokio::test]
async fn the_length_of_a_body_is_what_the_header_says_and_what_was_read() {
    const TEXT: &[u8] = b"This is a test that is longer than it need be, long, long.";
    let web = Web::plain(|request| match request.path() {
        "/identity" => ok(TEXT),
        "/unknown" => say([b"HTTP/1.1 200 OK\r\n\r\n", TEXT].concat()),
        "/chunked" => say("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nHello\r\n0\r\n\r\n"),
        "/none" => ok(""),
        "/204" => say("HTTP/1.1 204 No Content\r\n\r\n"),
        "/401" => answer("401 No", &[], TEXT),
        "/gzip" => answer("200 OK", &["content-encoding: gzip"], gzip(TEXT)),
        "/deflate" => answer("200 OK", &["content-encoding: deflate"], deflate(TEXT)),
        _ => answer("200 OK", &["content-encoding: br"], brotli(TEXT)),
    })
    .await;
    let full = f64::from(u32::try_from(TEXT.len()).unwrap());
    let length = |bytes: Vec<u8>| f64::from(u32::try_from(bytes.len()).unwrap());
    for (path, compression, declared, read) in [
        ("identity", None, full, full),
        ("identity", Some("identity"), full, full),
        ("unknown", None, -1.0, full),
        ("chunked", None, -1.0, 5.0),
        ("none", None, 0.0, 0.0),
        ("204", None, 0.0, 0.0),
        ("401", None, full, full),
        ("gzip", Some("gzip"), length(gzip(TEXT)), full),
        ("gzip", None, length(gzip(TEXT)), length(gzip(TEXT))),
        ("deflate", Some("deflate"), length(deflate(TEXT)), full),
        ("br", Some("br"), length(brotli(TEXT)), full),
    ] {
        let options = json!({ "compression": compression, "validStatusCodes": [200, 204, 401] });
        let probed = probe(&format!("{}{path}", web.url()), options).await;
        probed.succeeded().has("probe_http_content_length", declared).has("probe_http_uncompressed_body_length", read);
    }
    let head = probe(&format!("{}identity", web.url()), json!({ "method": "HEAD" })).await;
    head.succeeded().has("probe_http_content_length", full).has("probe_http_uncompressed_body_length", 0.0);
    let matched = json!({ "compression": "gzip", "failIfBodyNotMatchesRegexp": ["longer than it need be"] });
    probe(&format!("{}gzip", web.url()), matched).await.succeeded();
}

#[tokio::test]
async fn a_body_must_be_compressed_as_the_option_says() {
    let web = Web::plain(|request| match request.path() {
        "/gzip" => ok(gzip(b"text")),
        "/cut" => ok(&gzip(b"text")[..15]),
        "/empty" => ok(""),
        _ => ok("text"),
    })
    .await;
    for (path, compression, words) in [
        ("text", "gzip", "gzip data is corrupt"),
        ("text", "deflate", "does not end"),
        ("text", "br", "does not end"),
        ("gzip", "deflate", "deflate data is corrupt"),
        ("cut", "gzip", "does not end"),
        ("empty", "gzip", "does not end"),
    ] {
        let probed = probe(&format!("{}{path}", web.url()), json!({ "compression": compression })).await;
        probed.failed(Reason::Body, words).has("probe_http_status_code", 200.0).has("probe_failed_due_to_regex", 0.0);
    }
    // What asks for the compression is a header of the target.
    let asked = Setup::new(&format!("{}gzip", web.url()), json!({ "compression": "gzip" }))
        .with("headers", json!([{ "name": "Accept-Encoding", "value": "br;q=0.1, gzip" }]));
    asked.probe().await.succeeded();
    assert_eq!(web.seen().last().unwrap().header("accept-encoding"), Some("br;q=0.1, gzip"));
}

#[tokio::test]
async fn a_body_over_its_limit_fails_at_the_limit() {
    let web = Web::plain(|request| match request.path() {
        "/short" => ok("x".repeat(1024)),
        "/long" => ok("x".repeat(1025)),
        "/gzip" => ok(gzip(&[b'x'; 1025])),
        "/deflate" => ok(deflate(&[b'x'; 1025])),
        _ => ok(brotli(&[b'x'; 1025])),
    })
    .await;
    let limited = async |path: &str, compression: Option<&str>| {
        let options = json!({ "bodySizeLimit": "1KB", "compression": compression, "failIfBodyMatchesRegexp": ["y"] });
        probe(&format!("{}{path}", web.url()), options).await
    };
    limited("short", None).await.succeeded().has("probe_http_uncompressed_body_length", 1024.0);
    for (path, compression) in
        [("long", None), ("gzip", Some("gzip")), ("deflate", Some("deflate")), ("br", Some("br"))]
    {
        let probed = limited(path, compression).await;
        probed.failed(Reason::Limit, "http.bodySizeLimit").has("probe_http_uncompressed_body_length", 1024.0);
        probed.has("probe_failed_due_to_regex", 1.0);
    }
}

#[tokio::test]
async fn a_method_a_body_and_headers_are_sent_as_they_are_written() {
    let web = Web::plain(|_| ok("x")).await;
    let posted = Setup::new(&web.url(), json!({ "method": "POST", "body": "{\"a\":1}" })).with(
        "headers",
        json!([
            { "name": "Content-Type", "value": "application/json" },
            { "name": "User-Agent", "value": "Mine/1" },
            { "name": "Host", "value": "www.example.com" },
        ]),
    );
    posted.probe().await.succeeded();
    let request = &web.seen()[0];
    assert_eq!((request.line.as_str(), request.body.as_slice()), ("POST / HTTP/1.1", &b"{\"a\":1}"[..]));
    assert_eq!(request.header("content-type"), Some("application/json"));
    assert_eq!(request.header("user-agent"), Some("Mine/1"));
    assert_eq!(request.header("host"), Some("www.example.com"));
    probe(&web.url(), json!({ "method": "PUT" })).await.succeeded();
    assert_eq!(web.seen()[1].header("content-length"), Some("0"));
}

#[tokio::test]
async fn credentials_and_a_secret_body_are_sent_and_never_shown() {
    let web = Web::plain(|request| {
        let echoed = request.header("authorization").unwrap_or("nothing").to_owned();
        if request.path() == "/refuses" { answer("401 No", &[&format!("x-echo: {echoed}")], "") } else { ok(echoed) }
    })
    .await;
    let secret = |key: &str| json!({ "name": "s", "key": key });
    let mut basic = Setup::new(&web.url(), json!({ "method": "POST", "bodySecretRef": secret("body") }))
        .with("basicAuth", json!({ "username": secret("user"), "password": secret("password") }));
    basic.secrets = BTreeMap::from([("user", "alice"), ("password", "opensesame"), ("body", "grant=topsecret")]);
    let probed = basic.probe().await;
    probed.succeeded();
    assert_eq!(web.seen()[0].header("authorization"), Some("Basic YWxpY2U6b3BlbnNlc2FtZQ=="));
    assert_eq!(web.seen()[0].body, b"grant=topsecret");
    let mut bearer = Setup::new(&format!("{}refuses", web.url()), json!({}))
        .with("authorization", json!({ "credentials": secret("token") }));
    bearer.secrets = BTreeMap::from([("token", "abcdefghijk")]);
    let refused = bearer.probe().await;
    refused.failed(Reason::Auth, "other credentials");
    assert_eq!(web.seen()[1].header("authorization"), Some("Bearer abcdefghijk"));
    for probed in [probed, refused] {
        let shown = format!("{:?} {} {:?}", probed.events, probed.text, probed.failure);
        for word in ["YWxpY2U6b3BlbnNlc2FtZQ", "opensesame", "abcdefghijk", "topsecret"] {
            assert!(!shown.contains(word), "{word} in {shown}");
        }
    }
}

#[tokio::test]
async fn bodies_match_or_not() {
    const DATABASE: &str = "could not connect to database";
    let web = Web::plain(|request| match request.path() {
        "/sjis" => ok(b"<title>\x93\xfa\x96{</title>"),
        "/long" => ok("x".repeat(200_000) + "\nDown for maintenance"),
        _ => ok("Bad news: could not connect to database server"),
    })
    .await;
    let body = async |path: &str, matches: &[&str], not: &[&str]| {
        let options = json!({ "failIfBodyMatchesRegexp": matches, "failIfBodyNotMatchesRegexp": not });
        probe(&format!("{}{path}", web.url()), options).await
    };
    let failed = async |path: &str, matches: &[&str], not: &[&str], words: &str| {
        body(path, matches, not).await.failed(Reason::Match, words).has("probe_failed_due_to_regex", 1.0);
    };
    failed("", &[DATABASE], &[], "http.failIfBodyMatchesRegexp[0]").await;
    failed("", &["x", "^Bad .*s[a-z]+r$"], &[], "http.failIfBodyMatchesRegexp[1]").await;
    failed("", &[], &[DATABASE, "Download.*here"], "http.failIfBodyNotMatchesRegexp[1]").await;
    failed("long", &["(?m)^Down for"], &[], "\"(?m)^Down for\"").await;
    failed("long", &["x{100}y*\\n[a-zA-Z ]+ce$"], &[], "failIfBodyMatchesRegexp[0]").await;
    body("", &["xyz"], &[DATABASE]).await.succeeded().has("probe_failed_due_to_regex", 0.0);
    body("sjis", &[], &["<title>.{4}</title>"]).await.succeeded();
}

#[tokio::test]
async fn headers_match_or_not() {
    let web =
        Web::plain(|_| answer("200 OK", &["content-type: text/javascript", "x-two: one", "x-two: two"], "x")).await;
    let rule = |header: &str, regexp: &str, allow: bool| json!([{ "header": header, "regexp": regexp, "allowMissing": allow }]);
    for (field, header, regexp, allow, fails) in [
        ("failIfHeaderMatches", "Content-Type", "text/javascript", false, true),
        ("failIfHeaderMatches", "content-type", "^java", false, false),
        ("failIfHeaderMatches", "Missing", "x", false, true),
        ("failIfHeaderMatches", "Missing", "x", true, false),
        ("failIfHeaderMatches", "X-Two", "two", false, true),
        ("failIfHeaderMatches", "X-Two", "three", false, false),
        ("failIfHeaderNotMatches", "Content-Type", "text/javascript", false, false),
        ("failIfHeaderNotMatches", "Content-Type", "^text/html", false, true),
        ("failIfHeaderNotMatches", "Missing", "x", false, true),
        ("failIfHeaderNotMatches", "Missing", "x", true, false),
        ("failIfHeaderNotMatches", "X-Two", "^two$", false, false),
        ("failIfHeaderNotMatches", "X-Two", "three", true, true),
    ] {
        let probed = probe(&web.url(), json!({ field: rule(header, regexp, allow) })).await;
        if fails {
            probed.failed(Reason::Match, &format!("http.{field}[0]")).has("probe_failed_due_to_regex", 1.0);
        } else {
            probed.succeeded().has("probe_failed_due_to_regex", 0.0);
        }
    }
    // Only if the status was good.
    let both = json!({ "validStatusCodes": [404], "failIfHeaderMatches": rule("X-Two", "two", false) });
    probe(&web.url(), both).await.failed(Reason::HttpStatus, "200").has("probe_failed_due_to_regex", 0.0);
}

// TLS.

#[tokio::test]
async fn a_certificate_must_be_signed_by_who_is_trusted_and_is_told_of_if_not() {
    let web = Web::tls(&["127.0.0.1"], |_| ok("x")).await;
    let refused = probe(&web.url(), json!({})).await;
    refused
        .failed(Reason::Tls, "")
        .has("probe_http_ssl", 0.0)
        .has("probe_http_status_code", 0.0)
        .has("probe_ssl_earliest_cert_expiry", 2_208_988_800.0)
        .lacks("probe_tls_version_info")
        .lacks("probe_ssl_last_chain_expiry");
    for name in PHASES {
        assert!(refused.get(&phase(name)).is_some(), "{name}");
    }
    let trusted = Setup::new(&web.url(), json!({})).trusting(web.ca.as_ref()).probe().await;
    trusted
        .succeeded()
        .has("probe_http_ssl", 1.0)
        .has("probe_ssl_earliest_cert_expiry", 2_208_988_800.0)
        .has("probe_ssl_last_chain_expiry_timestamp_seconds", 2_208_988_800.0)
        .has("probe_tls_version_info{version=\"TLS 1.3\"}", 1.0);
    assert!(trusted.series.keys().any(|name| name.starts_with("probe_tls_cipher_info{cipher=\"TLS_")), "{trusted:?}");
    let skipped = Setup::new(&web.url(), json!({})).with("tlsConfig", json!({ "insecureSkipVerify": true }));
    skipped.probe().await.succeeded().has("probe_http_ssl", 1.0).lacks("probe_ssl_last_chain_expiry");
    assert!(web.seen().iter().all(|request| request.server_name.is_none()), "an address is no server name");
}

/// In TLS 1.3 the handshake is over for us before the server has looked at our certificate.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_wants_a_client_certificate_says_so_in_either_version() {
    for alpn in [&b"http/1.1"[..], b"h2"] {
        let web = Web::start(Some(demanding_acceptor(&["127.0.0.1"], &[alpn])), |_| ok("x")).await;
        for _ in 0..20 {
            let body = "x".repeat(16 * 1024);
            let options = json!({ "method": "POST", "body": body });
            let refused = Setup::new(&web.url(), options).trusting(web.ca.as_ref()).probe().await;
            refused.failed(Reason::Tls, "requires a client certificate").has("probe_http_status_code", 0.0);
        }
    }
}

#[tokio::test]
async fn the_server_name_is_that_of_the_settings_of_the_host_header_or_of_the_url() {
    let web = Web::tls(&["www.example.com", "other.example.com"], |_| ok("x")).await;
    let at = |name: &str| {
        let setup = Setup::new(&web.url_by(name), json!({})).trusting(web.ca.as_ref());
        setup
            .knowing("www.example.com", "127.0.0.1")
            .knowing("www.example.com.", "127.0.0.1")
            .knowing("web", "127.0.0.1")
    };
    let host = json!([{ "name": "Host", "value": "other.example.com:444" }]);
    at("www.example.com").probe().await.succeeded();
    at("www.example.com.").probe().await.succeeded();
    at("web").with("headers", host.clone()).probe().await.succeeded();
    let tls = json!({ "serverName": "www.example.com" });
    at("web").with("headers", host).with("tlsConfig", tls).probe().await.succeeded();
    let names: Vec<String> = web.seen().into_iter().filter_map(|request| request.server_name).collect();
    assert_eq!(names, ["www.example.com", "www.example.com", "other.example.com", "www.example.com"]);
    let port = web.address.port();
    assert_eq!(web.seen()[1].header("host"), Some(format!("www.example.com:{port}").as_str()));
    at("web").probe().await.failed(Reason::Tls, "");
}

#[tokio::test]
async fn tls_may_be_demanded_or_refused() {
    let plain = Web::plain(|_| ok("x")).await;
    let tls = Web::tls(&["127.0.0.1"], |_| ok("x")).await;
    probe(&plain.url(), json!({ "failIfSsl": true })).await.succeeded();
    probe(&plain.url(), json!({ "failIfNotSsl": true })).await.failed(Reason::Response, "failIfNotSsl");
    let over_tls = async |http: Value| Setup::new(&tls.url(), http).trusting(tls.ca.as_ref()).probe().await;
    over_tls(json!({ "failIfNotSsl": true })).await.succeeded();
    over_tls(json!({ "failIfSsl": true })).await.failed(Reason::Response, "failIfSsl").has("probe_http_ssl", 1.0);
    // Settings of TLS mean nothing for plain HTTP.
    let ignored = Setup::new(&plain.url(), json!({})).with("tlsConfig", json!({ "insecureSkipVerify": false }));
    ignored.probe().await.succeeded().has("probe_http_ssl", 0.0);
}

#[tokio::test]
async fn the_two_ends_may_speak_different_protocols() {
    let plain = Faulty::start(Fault::Says("HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")).await;
    let tls = Web::tls(&["127.0.0.1"], |_| ok("x")).await;
    let url = plain.url().replace("http:", "https:");
    probe(&url, json!({})).await.failed(Reason::Tls, "").has("probe_http_status_code", 0.0);
    let url = tls.url().replace("https:", "http:");
    let probed = probe(&url, json!({})).await;
    assert!(matches!(probed.failure, Some((Reason::Protocol | Reason::Connect, _))), "{probed:?}");
}

// Redirects.

#[tokio::test]
async fn a_redirect_is_followed_unless_it_is_not_wanted() {
    let web =
        Web::plain(|request| if request.path() == "/" { redirect(302, "/there?x=1") } else { ok("arrived") }).await;
    let followed = probe(&web.url(), json!({ "failIfBodyNotMatchesRegexp": ["^arrived$"] })).await;
    followed.succeeded().has("probe_http_redirects", 1.0).has("probe_http_status_code", 200.0);
    let seen = web.seen();
    assert_eq!(seen[1].path(), "/there?x=1");
    assert_eq!(seen[1].header("referer"), Some(web.url().as_str()));
    assert!(followed.events.iter().any(|event| event.ends_with("/there?…")), "{:?}", followed.events);
    let stopped = probe(&web.url(), json!({ "followRedirects": false, "validStatusCodes": [302] })).await;
    stopped.succeeded().has("probe_http_redirects", 1.0).has("probe_http_status_code", 302.0);
    stopped.has("probe_http_uncompressed_body_length", 0.0).has("probe_http_content_length", 5.0);
    probe(&web.url(), json!({ "followRedirects": false })).await.failed(Reason::HttpStatus, "followRedirects");
    let compared = json!({ "followRedirects": false, "validStatusCodes": [302], "failIfBodyMatchesRegexp": ["x"] });
    probe(&web.url(), compared).await.failed(Reason::Match, "no body").has("probe_failed_due_to_regex", 1.0);
}

#[tokio::test]
async fn ten_redirects_are_followed_and_no_more() {
    let web = Web::plain(|_| redirect(302, "/again")).await;
    let endless = probe(&web.url(), json!({})).await;
    endless.failed(Reason::Response, "after 10 redirects").has("probe_http_redirects", 11.0);
    endless.has("probe_http_status_code", 302.0);
    assert_eq!(web.seen().len(), 11);
    probe(&web.url(), json!({ "validStatusCodes": [302] })).await.succeeded().has("probe_http_redirects", 11.0);
}

#[tokio::test]
async fn a_redirect_changes_the_method_as_browsers_do() {
    let web = Web::plain(|request| match request.path().trim_start_matches('/').parse() {
        Ok(status) => redirect(status, "/there"),
        Err(_) => ok("x"),
    })
    .await;
    for (status, method, then, body) in [
        (301, "POST", "GET", ""),
        (302, "PUT", "GET", ""),
        (303, "POST", "GET", ""),
        (302, "HEAD", "HEAD", ""),
        (307, "POST", "POST", "data"),
        (308, "PUT", "PUT", "data"),
    ] {
        let sent = if method == "HEAD" { Value::Null } else { json!("data") };
        let before = web.seen().len();
        let setup = Setup::new(&format!("{}{status}", web.url()), json!({ "method": method, "body": sent }));
        setup.with("headers", json!([{ "name": "Content-Type", "value": "text/plain" }])).probe().await.succeeded();
        let last = web.seen()[before + 1].clone();
        assert_eq!(last.line, format!("{then} /there HTTP/1.1"), "{status}");
        assert_eq!((last.body.as_slice(), last.header("content-type").is_some()), (body.as_bytes(), !body.is_empty()));
    }
}

#[tokio::test]
async fn another_server_gets_neither_credentials_nor_headers_that_may_be_secret() {
    let other =
        Web::plain(|request| if request.path() == "/back" { redirect(302, "http://first.test/") } else { ok("x") })
            .await;
    let port = other.address.port();
    let web = Web::plain(move |request| match request.path() {
        "/" => redirect(302, "/same"),
        "/same" => redirect(307, &format!("http://other.test:{port}/x")),
        _ => ok("x"),
    })
    .await;
    let secret = |key: &str| json!({ "name": "s", "key": key });
    let setup = |http: Value| {
        let mut setup = Setup::new(&web.url_by("first.test"), http)
            .knowing("first.test", "127.0.0.1")
            .knowing("other.test", "127.0.0.1")
            .with("authorization", json!({ "credentials": secret("token") }))
            .with(
                "headers",
                json!([
                    { "name": "X-Key", "value": "key" },
                    { "name": "Cookie", "value": "session=1" },
                    { "name": "Accept", "value": "text/html" },
                ]),
            );
        setup.secrets = BTreeMap::from([("token", "token-token"), ("body", "secret-body")]);
        setup
    };
    setup(json!({})).probe().await.succeeded().has("probe_http_redirects", 2.0);
    for request in web.seen() {
        assert_eq!(request.header("authorization"), Some("Bearer token-token"), "{request:?}");
        assert!(request.header("x-key").is_some() && request.header("cookie").is_some(), "{request:?}");
    }
    let away = &other.seen()[0];
    assert_eq!(away.header("host"), Some(format!("other.test:{port}").as_str()));
    assert_eq!(away.header("accept"), Some("text/html"));
    for name in ["authorization", "x-key", "cookie"] {
        assert_eq!(away.header(name), None, "{name}");
    }
    assert_eq!(away.header("referer"), Some(format!("http://first.test:{}/", web.address.port()).as_str()), "no path");
    let with_body = setup(json!({ "method": "POST", "bodySecretRef": secret("body") }));
    let url = format!("{}same", web.url_by("first.test"));
    let refused = with_body.with("url", json!(url)).probe().await;
    refused.failed(Reason::Response, "bodySecretRef").has("probe_http_status_code", 0.0);
    assert_eq!(other.seen().len(), 1);
}

#[tokio::test]
async fn a_host_header_stays_with_paths_and_not_with_urls() {
    let web = Web::plain(|request| match request.path() {
        "/" => redirect(302, "relative"),
        "/relative" => redirect(302, &format!("http://{}/absolute", request.header("x-address").unwrap())),
        _ => ok("x"),
    })
    .await;
    let setup = Setup::new(&web.url(), json!({})).with(
        "headers",
        json!([
            { "name": "Host", "value": "www.example.com" },
            { "name": "X-Address", "value": web.address.to_string() },
        ]),
    );
    setup.probe().await.succeeded();
    let hosts: Vec<String> = web.seen().iter().map(|request| request.header("host").unwrap().to_owned()).collect();
    assert_eq!(hosts, ["www.example.com".to_owned(), "www.example.com".to_owned(), web.address.to_string()]);
}

#[tokio::test]
async fn a_redirect_to_tls_is_one_with_a_certificate_of_its_own() {
    let tls = Web::tls(&["secure.test"], |_| ok("x")).await;
    let url = tls.url_by("secure.test");
    let web = Web::plain(move |_| redirect(301, &url)).await;
    let setup = |tls_config: Value| {
        Setup::new(&web.url(), json!({ "failIfNotSsl": true }))
            .trusting(tls.ca.as_ref())
            .knowing("secure.test", "127.0.0.1")
            .with("tlsConfig", tls_config)
    };
    let probed = setup(json!({})).probe().await;
    probed.succeeded().has("probe_http_ssl", 1.0).has("probe_http_redirects", 1.0);
    assert_eq!(tls.seen()[0].server_name.as_deref(), Some("secure.test"));
    setup(json!({ "serverName": "first.test" })).probe().await.succeeded();
    // And back: what was of the first connection is not that of the last.
    let plain = Web::plain(|_| ok("x")).await;
    let url = plain.url();
    let down = Web::tls(&["127.0.0.1"], move |_| redirect(302, &url)).await;
    let probed = Setup::new(&down.url(), json!({})).trusting(down.ca.as_ref()).probe().await;
    probed.succeeded().has("probe_http_ssl", 0.0).lacks("probe_tls").lacks("probe_ssl");
    assert_eq!(plain.seen()[0].header("referer"), None);
    // Nor is it shown when there is no last one.
    for location in [closed_port(), closed_port().replace("http:", "https:"), "http://unknown.test/".to_owned()] {
        let down = Web::tls(&["127.0.0.1"], move |_| redirect(302, &location)).await;
        let probed = Setup::new(&down.url(), json!({})).trusting(down.ca.as_ref()).probe().await;
        assert!(probed.failure.is_some());
        probed.has("probe_http_redirects", 1.0).lacks("probe_tls").lacks("probe_ssl");
    }
}

#[tokio::test]
async fn the_address_that_is_shown_is_that_of_the_last_server() {
    let web = Web::plain(|_| redirect(302, "http://last.test:1/")).await;
    let probed = Setup::new(&web.url(), json!({})).knowing("last.test", "127.0.0.9").probe().await;
    assert_eq!(probed.failed(Reason::Connect, "last.test").address, Some("127.0.0.9".parse().unwrap()));
}

#[tokio::test]
async fn cookies_are_kept_within_one_probe() {
    let web = Web::plain(|request| match (request.path(), request.header("cookie")) {
        ("/", None) => answer("302 Found", &["location: /in", "set-cookie: session=42; Path=/; HttpOnly"], ""),
        ("/in", Some("session=42")) => ok("welcome"),
        _ => answer("500 No", &[], ""),
    })
    .await;
    probe(&web.url(), json!({})).await.succeeded();
    probe(&web.url(), json!({})).await.succeeded();
}

#[tokio::test]
async fn a_location_may_be_anything() {
    let web = Web::plain(|request| match request.path() {
        "/ftp" => redirect(302, "ftp://example.com/"),
        "/file" => redirect(302, "file:///etc/passwd"),
        "/broken" => redirect(302, "http://[::1"),
        "/none" => answer("302 Found", &[], "where?"),
        "/closed" => redirect(302, &closed_port()),
        "/user" => redirect(302, &format!("http://user:password@{}/x#fragment", request.header("host").unwrap())),
        _ => ok("x"),
    })
    .await;
    for (path, reason, words) in [
        ("ftp", Reason::Response, "neither http nor https"),
        ("file", Reason::Response, "neither http nor https"),
        ("broken", Reason::Response, "no url"),
        ("closed", Reason::Connect, "after the redirect to http://127.0.0.1:"),
    ] {
        let probed = probe(&format!("{}{path}", web.url()), json!({})).await;
        probed.failed(reason, words).has("probe_http_status_code", 0.0).has("probe_http_redirects", 1.0);
    }
    let none = probe(&format!("{}none", web.url()), json!({ "validStatusCodes": [302] })).await;
    none.succeeded().has("probe_http_redirects", 0.0).has("probe_http_uncompressed_body_length", 6.0);
    probe(&format!("{}user", web.url()), json!({})).await.succeeded();
    let last = web.seen().last().unwrap().clone();
    assert!(last.path() == "/x" && last.header("authorization").is_none(), "{last:?}");
}

#[tokio::test]
async fn a_redirect_to_an_address_that_may_not_be_contacted_is_not_followed() {
    let hidden = Web::plain(|_| ok("secret")).await;
    let port = hidden.address.port();
    let web = Web::plain(move |request| match request.path() {
        "/metadata" => redirect(302, "http://169.254.169.254/latest/meta-data/"),
        "/mapped" => redirect(302, "http://[::ffff:169.254.169.254]/"),
        "/number" => redirect(302, "http://2852039166/"),
        "/name" => redirect(302, "http://metadata.test/"),
        _ => redirect(302, &format!("http://127.0.0.2:{port}/")),
    })
    .await;
    for path in ["metadata", "mapped", "number", "name", "denied"] {
        let mut setup =
            Setup::new(&format!("{}{path}", web.url()), json!({})).knowing("metadata.test", "169.254.169.254");
        setup.rules = AddressRules::denying(["127.0.0.2/32".parse().unwrap()]);
        let probed = setup.probe().await;
        probed.failed(Reason::Config, "after the redirect to http://").has("probe_http_status_code", 0.0);
    }
    assert_eq!(hidden.seen().len(), 0);
}

// Proxies.

#[tokio::test]
async fn a_proxy_gets_the_name_only_if_it_is_not_resolved_here() {
    let tls = Web::tls(&["web.test"], |_| ok("x")).await;
    let proxy = Proxy::start(None);
    let through = |http: Value| {
        let setup = Setup::new(&tls.url_by("web.test"), http).trusting(tls.ca.as_ref());
        setup.with("proxyUrl", json!(format!("http://{}", proxy.address)))
    };
    let port = tls.address.port();
    let skipping = through(json!({ "skipResolvePhaseWithProxy": true })).probe().await;
    skipping.succeeded().lacks("probe_ip").lacks("probe_dns").lacks(&phase("resolve")).has("probe_http_ssl", 1.0);
    let resolving = through(json!({})).knowing("web.test", "127.0.0.1").probe().await;
    resolving.succeeded().has("probe_ip_protocol", 4.0);
    assert!(resolving.get(&phase("resolve")).is_some());
    assert_eq!(proxy.asked(), [format!("web.test:{port}"), format!("127.0.0.1:{port}")]);
    // Without skipping, a name that cannot be resolved fails, as with the blackbox exporter.
    through(json!({})).probe().await.failed(Reason::Dns, "web.test").has("probe_ip_protocol", 0.0);
    // Skipping means nothing without a proxy.
    let direct = Setup::new(&tls.url_by("web.test"), json!({ "skipResolvePhaseWithProxy": true }));
    let direct = direct.trusting(tls.ca.as_ref()).knowing("web.test", "127.0.0.1").probe().await;
    direct.succeeded().has("probe_ip_protocol", 4.0);
    assert_eq!(proxy.asked().len(), 2);
}

#[tokio::test]
async fn a_proxy_for_plain_http_gets_whole_urls() {
    let proxy = Web::plain(|request| ok(request.line.clone())).await;
    let setup = Setup::new(
        "http://web.test:81/a?b",
        json!({ "failIfBodyNotMatchesRegexp": ["^GET http://web\\.test:81/a\\?b HTTP"] }),
    );
    let probed =
        setup.knowing("web.test", "127.0.0.3").with("proxyUrl", json!(proxy.url().trim_end_matches('/'))).probe().await;
    probed.succeeded().has("probe_http_ssl", 0.0);
    assert_eq!(proxy.seen()[0].header("host"), Some("web.test:81"));
}

#[tokio::test]
async fn a_host_header_does_not_choose_where_a_proxy_connects() {
    let proxy = Web::plain(|_| ok("x")).await;
    let through = |http: Value| {
        Setup::new("http://web.test/a", http)
            .with("proxyUrl", json!(proxy.url().trim_end_matches('/')))
            .with("headers", json!([{ "name": "Host", "value": "169.254.169.254" }]))
    };
    through(json!({})).knowing("web.test", "127.0.0.3").probe().await.succeeded();
    through(json!({ "skipResolvePhaseWithProxy": true })).probe().await.succeeded();
    let seen = proxy.seen();
    let paths: Vec<&str> = seen.iter().map(Request::path).collect();
    assert_eq!(paths, ["http://web.test/a", "http://web.test/a"]);
    assert!(seen.iter().all(|request| request.header("host") == Some("169.254.169.254")), "{seen:?}");
}

#[tokio::test]
async fn where_only_addresses_are_allowed_a_proxy_is_asked_for_the_one_that_was_judged() {
    let proxy = Web::plain(|_| ok("x")).await;
    let mut setup = Setup::new("http://web.test/a", json!({})).knowing("web.test", "127.0.0.3");
    setup.rules = AddressRules::default().allowing(vec!["127.0.0.0/8".parse().unwrap()], Vec::new());
    setup.with("proxyUrl", json!(proxy.url().trim_end_matches('/'))).probe().await.succeeded();
    assert_eq!(proxy.seen()[0].path(), "http://127.0.0.3:80/a");
    assert_eq!(proxy.seen()[0].header("host"), Some("web.test"));
}

#[tokio::test]
async fn a_proxy_that_refuses_or_is_not_there_is_named() {
    let refusing = Proxy::start(Some("Basic x"));
    let setup = |proxy: &str| {
        let setup = Setup::new("https://web.test/", json!({})).knowing("web.test", "127.0.0.1");
        setup.with("proxyUrl", json!(proxy))
    };
    let refused = setup(&format!("http://{}", refusing.address)).probe().await;
    refused.failed(Reason::Auth, "proxyUrl: the proxy wants credentials: write proxyAuth");
    setup(closed_port().trim_end_matches('/')).probe().await.failed(Reason::Connect, "proxyUrl: no connection");
    setup("http://169.254.169.254:3128").probe().await.failed(Reason::Config, "proxyUrl: ");
    let endless = Web::plain(|_| Answer::Repeat(b"HTTP/1.1 200 OK\r\n".to_vec(), b"x: y\r\n".to_vec())).await;
    setup(endless.url().trim_end_matches('/')).probe().await.failed(Reason::Limit, "proxyUrl: the proxy answers with");
    let interim = Web::plain(|_| Answer::Repeat(Vec::new(), b"HTTP/1.1 100 Continue\r\n\r\n".to_vec())).await;
    setup(interim.url().trim_end_matches('/')).probe().await.failed(Reason::Limit, "proxyUrl: the proxy answers with");
    let other = Web::plain(|_| say("HTTP/1.1 101 Switching Protocols\r\n\r\n")).await;
    setup(other.url().trim_end_matches('/')).probe().await.failed(Reason::Connect, "refused the tunnel with 101");
}

#[tokio::test]
async fn a_proxy_may_end_lines_without_cr_and_send_interim_responses() {
    let tls = Web::tls(&["127.0.0.1"], |_| ok("x")).await;
    for opened in ["HTTP/1.1 200 OK\n\n", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nx: y\r\n\r\n"] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = format!("http://{}", listener.local_addr().unwrap());
        let to = tls.address;
        tokio::spawn(async move {
            let (mut client, _) = listener.accept().await?;
            let mut asked = Vec::new();
            while !asked.ends_with(b"\r\n\r\n") {
                asked.push(client.read_u8().await?);
            }
            client.write_all(opened.as_bytes()).await?;
            let mut server = tokio::net::TcpStream::connect(to).await?;
            tokio::io::copy_bidirectional(&mut client, &mut server).await
        });
        let setup = Setup::new(&tls.url(), json!({})).trusting(tls.ca.as_ref()).with("proxyUrl", json!(proxy));
        setup.probe().await.succeeded();
    }
}

/// What docs/probers.md says about answers that the blackbox exporter judges otherwise.
#[tokio::test]
async fn headers_that_the_blackbox_exporter_takes_are_refused_and_others_are_taken() {
    let web = Web::plain(|request| match request.path() {
        "/folded" => say("HTTP/1.1 200 OK\r\na: b\r\n c\r\ncontent-length: 0\r\n\r\n"),
        "/many" => say(format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(101))),
        "/space" => say("HTTP/1.1 200 OK\r\na : b\r\ncontent-length: 0\r\n\r\n"),
        "/nul" => say("HTTP/1.1 200 OK\r\na: \0\r\ncontent-length: 0\r\n\r\n"),
        "/version" => say("HTTP/2.0 200 OK\r\ncontent-length: 0\r\n\r\n"),
        "/twice" => say("HTTP/1.1 200 OK\r\ncontent-length: 2, 2\r\n\r\nok"),
        "/gzip" => say("HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
        other => panic!("{other}"),
    })
    .await;
    let get = |path: &str| Setup::new(&format!("http://{}/{path}", web.address), json!({})).probe();
    for path in ["folded", "space", "nul", "version"] {
        get(path).await.failed(Reason::Protocol, "");
    }
    get("many").await.failed(Reason::Limit, "100 lines");
    for path in ["twice", "gzip"] {
        get(path).await.succeeded().has("probe_http_uncompressed_body_length", 2.0);
    }
}

#[tokio::test]
async fn a_name_that_only_the_proxy_resolves_is_judged_by_the_rules_for_names() {
    let proxy = Proxy::start(None);
    let at = |url: &str| {
        let mut setup = Setup::new(url, json!({ "skipResolvePhaseWithProxy": true }));
        setup.rules = AddressRules::denying(["127.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()]);
        setup.with("proxyUrl", json!(format!("http://{}", proxy.address)))
    };
    for url in ["https://169.254.169.254/", "https://localhost/", "https://[::1]/", "https://127.0.0.1/"] {
        at(url).probe().await.failed(Reason::Config, "may not be contacted");
    }
    assert_eq!(proxy.asked().len(), 0);
}

// What is left when it fails.

#[tokio::test]
async fn zeros_are_left_when_there_is_no_answer() {
    let nobody = probe(&closed_port(), json!({})).await;
    let resets = Faulty::start(Fault::Resets).await;
    let closes = Faulty::start(Fault::Closes).await;
    let unknown = Setup::new("http://unknown.invalid/", json!({})).with("timeout", json!("5s")).probe().await;
    unknown.failed(Reason::Dns, "unknown.invalid").has("probe_ip_protocol", 0.0).has("probe_ip_addr_hash", 0.0);
    assert!(unknown.get(&phase("resolve")).is_some());
    for name in &PHASES[1..] {
        unknown.lacks(&phase(name));
    }
    nobody.failed(Reason::Connect, "no connection to 127.0.0.1:");
    let reset = probe(&resets.url(), json!({})).await;
    reset.failed(Reason::Connect, "before the answer");
    let ended = probe(&closes.url(), json!({})).await;
    ended.failed(Reason::Connect, "closed the connection before it had answered");
    for probed in [&nobody, &reset, &ended] {
        for name in PHASES {
            assert!(probed.get(&phase(name)).is_some(), "{name}");
        }
        probed.has("probe_ip_protocol", 4.0);
    }
    for probed in [unknown, nobody, reset, ended] {
        for family in ["status_code", "version", "ssl", "content_length", "redirects", "uncompressed_body_length"]
            .map(|name| format!("probe_http_{name}"))
        {
            probed.has(&family, 0.0);
        }
        probed.has("probe_failed_due_to_regex", 0.0);
    }
}

// Servers that mean harm.

/// A probe of a server that does not end by itself, with a short timeout. It must end soon after it.
async fn short(url: &str, http: Value) -> Probed {
    let start = Instant::now();
    let probed = Setup::new(url, http).with("timeout", json!("2s")).probe().await;
    assert!(start.elapsed() < Duration::from_secs(60), "{:?} for {probed:?}", start.elapsed());
    probed
}

#[tokio::test]
async fn floods_before_the_answer_end() {
    for (first, again, reason) in [
        ("", "HTTP/1.1 102 Processing\r\n\r\n", Reason::Limit),
        ("", "HTTP/1.1 100 Continue\r\nx: y\r\n\r\n", Reason::Limit),
        ("HTTP/1.1 200 OK\r\n", "x: y\r\n", Reason::Limit),
        ("HTTP/1.1 200 OK\r\nx: ", "yyyyyyyyyyyyyyyyyyyyy", Reason::Limit),
        ("", "no http at all\r\n", Reason::Protocol),
    ] {
        let again_many = again.repeat(1000);
        let web = Web::plain(move |_| Answer::Repeat(first.into(), again_many.clone().into())).await;
        let probed = probe(&web.url(), json!({})).await;
        probed.failed(reason, "").has("probe_http_status_code", 0.0);
    }
    let web = Web::plain(|_| say("HTTP/1.1 103 Early\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nx")).await;
    probe(&web.url(), json!({})).await.succeeded();
}

#[tokio::test]
async fn bodies_without_end_or_larger_than_they_should_be_end() {
    let endless = Faulty::start(Fault::Endless).await;
    let zeros = gzip(&vec![0; 4 << 20]);
    let bomb = Web::plain(move |_| ok(&zeros)).await;
    let members = Faulty::start(Fault::EmptyGzipMembers).await;
    let blocks = Faulty::start(Fault::EmptyGzipBlocks).await;
    let terabyte = Faulty::start(Fault::ClaimsATerabyte).await;
    let keep = json!(["y"]);
    let gzip = |keep: &Value| json!({ "compression": "gzip", "failIfBodyMatchesRegexp": keep });
    for keep in [json!([]), keep] {
        let probed = short(&endless.url(), json!({ "failIfBodyMatchesRegexp": keep })).await;
        probed.failed(Reason::Limit, "--max-body-bytes").has("probe_http_uncompressed_body_length", 1_048_576.0);
        let probed = short(&bomb.url(), gzip(&keep)).await;
        probed.failed(Reason::Limit, "--max-body-bytes").has("probe_http_uncompressed_body_length", 1_048_576.0);
        short(&members.url(), gzip(&keep)).await.failed(Reason::Limit, "gzip members");
        short(&blocks.url(), gzip(&keep)).await.failed(Reason::Limit, "--max-body-bytes");
        let probed = short(&terabyte.url(), json!({ "failIfBodyMatchesRegexp": keep })).await;
        probed.failed(Reason::Timeout, "the body did not end in time").has("probe_http_status_code", 200.0);
        probed.has("probe_http_content_length", 1_099_511_627_776.0);
    }
}

#[tokio::test]
async fn lies_about_lengths_are_found() {
    let much = Faulty::start(Fault::PromisesTooMuch).await;
    let little = Faulty::start(Fault::PromisesTooLittle).await;
    let chunk = Web::plain(|_| say("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nffffffffffffffff\r\nx")).await;
    let size = Web::plain(|_| say("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nx\r\n0\r\n\r\n")).await;
    let two = Web::plain(|_| say("HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nxy")).await;
    probe(&much.url(), json!({})).await.failed(Reason::Body, "the body is incomplete");
    probe(&little.url(), json!({})).await.succeeded().has("probe_http_uncompressed_body_length", 10.0);
    probe(&chunk.url(), json!({})).await.failed(Reason::Body, "the body is incomplete");
    probe(&size.url(), json!({})).await.failed(Reason::Body, "the body is incomplete");
    probe(&two.url(), json!({})).await.failed(Reason::Protocol, "did not answer in HTTP");
}

#[tokio::test]
async fn a_server_that_is_slow_costs_its_own_probe_only() {
    let drips = Faulty::start(Fault::Drips).await;
    let hangs = Faulty::start(Fault::HangsBeforeTheAnswer).await;
    let half = Web::plain(|_| Answer::Hang(b"HTTP/1.1 200 OK\r\nx: y".to_vec())).await;
    let honest = Web::plain(|_| ok("x")).await;
    let (drips_url, hangs_url, half_url, honest_url) = (drips.url(), hangs.url(), half.url(), honest.url());
    let (dripped, hung, cut, good) = tokio::join!(
        short(&drips_url, json!({})),
        short(&hangs_url, json!({})),
        short(&half_url, json!({})),
        probe(&honest_url, json!({}))
    );
    dripped.failed(Reason::Timeout, "the body did not end in time").has("probe_http_status_code", 200.0);
    hung.failed(Reason::Timeout, "no answer in time").has("probe_http_status_code", 0.0);
    cut.failed(Reason::Timeout, "no answer in time").has("probe_http_status_code", 0.0);
    good.succeeded();
}

#[tokio::test]
async fn a_flood_of_cookies_and_redirects_is_bounded() {
    let web = Web::plain(|request| {
        let number: usize = request.path().trim_start_matches('/').parse().unwrap_or(0);
        let cookies: Vec<String> =
            (0..90).map(|n| format!("set-cookie: c{number}_{n}={}; Path=/", "x".repeat(600))).collect();
        let location = format!("location: /{}", number + 1);
        let lines: Vec<&str> = cookies.iter().map(String::as_str).chain([location.as_str()]).collect();
        answer("302 Found", &lines, "")
    })
    .await;
    probe(&web.url(), json!({})).await.failed(Reason::Response, "redirects");
    let longest = web.seen().iter().filter_map(|request| request.header("cookie").map(str::len)).max().unwrap();
    assert!(longest < 64 << 10, "{longest}");
}

/// The longest time that other tasks of the thread had to wait while `future` ran, and how long that took.
async fn longest_wait<T>(future: impl Future<Output = T>) -> (T, Duration, Duration) {
    let longest = Arc::<Mutex<Duration>>::default();
    let book = Arc::clone(&longest);
    let ticker = tokio::spawn(async move {
        let mut last = Instant::now();
        loop {
            tokio::time::sleep(Duration::from_millis(1)).await;
            let mut longest = book.lock().unwrap();
            *longest = longest.max(last.elapsed());
            drop(longest);
            last = Instant::now();
        }
    });
    let start = Instant::now();
    let output = future.await;
    let took = start.elapsed();
    tokio::time::sleep(Duration::from_millis(5)).await; // the ticker's turn, if it had none
    ticker.abort();
    let longest = *longest.lock().unwrap();
    (output, longest, took)
}

/// The servers, the probe and what waits are tasks of one thread.
#[tokio::test]
async fn patterns_that_take_long_do_not_keep_others_waiting() {
    let mut state = 1_u32;
    let text: String = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        if state >> 31 == 0 { 'x' } else { 'y' }
    })
    .take(100_000)
    .collect();
    let web = Web::plain(move |_| ok(&text)).await;
    // It has more states than are kept.
    let rules = json!({ "failIfBodyMatchesRegexp": ["x[xy]{300}z"] });
    let mut seen = Vec::new();
    // A machine that is busy with something else may keep everybody waiting, but not each time.
    for _ in 0..5 {
        let (probed, longest, took) = longest_wait(probe(&web.url(), rules.clone())).await;
        let is_done = probed.failure.as_ref().is_none_or(|(reason, _)| *reason == Reason::Timeout);
        assert!(is_done, "{probed:?}");
        if longest < took / 2 {
            return;
        }
        seen.push((longest, took));
    }
    panic!("{seen:?}");
}

#[tokio::test]
async fn ordinary_patterns_are_compared_with_large_bodies() {
    let web = Web::plain(|request| {
        let line = "Text and more text, as servers write it.\n";
        let bytes = if request.path() == "/8" { 8 << 20 } else { 1200 << 10 };
        ok(line.repeat(bytes / line.len()))
    })
    .await;
    let many: Vec<String> = (0..16).map(|number| format!("(?i)fatal err[o]r {number}: .* failed")).collect();
    probe_large(&format!("{}1", web.url()), json!({ "failIfBodyMatchesRegexp": many })).await.succeeded();
    let few = json!({ "failIfBodyMatchesRegexp": ["(?i)fatal", "(?i)err[o]r"] });
    probe_large(&format!("{}8", web.url()), few).await.succeeded();
    let at_the_end = json!({ "failIfBodyMatchesRegexp": ["(?i)fatal", "it\\.\\s$"] });
    probe_large(&format!("{}8", web.url()), at_the_end).await.failed(Reason::Match, "failIfBodyMatchesRegexp[1]");
}

#[tokio::test]
async fn patterns_are_written_in_the_whole_syntax_of_re2() {
    let web = Web::plain(|_| ok("{\"status\":\"UP\"}\n")).await;
    let good = [r#"{"status":"UP"}"#, r#"status":"#, r#"^\Q{"status":\E"#, r"}\012\z", "[[{]"];
    let bad = ["UPx{,5}", r"\07", "[x&&y]", r"\Q.*"];
    let options = json!({ "failIfBodyNotMatchesRegexp": good, "failIfBodyMatchesRegexp": bad });
    probe(&web.url(), options).await.succeeded();
}

/// The program may do so little at once that the next one would wait for these until its own timeout.
#[tokio::test]
async fn a_comparison_that_takes_too_long_ends_with_the_timeout() {
    let mut state = 1_u32;
    let text: String = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        if state >> 31 == 0 { 'x' } else { 'y' }
    })
    .take(4 << 20)
    .collect();
    let web = Web::plain(move |_| ok(&text)).await;
    let patterns: Vec<String> = (300..308).map(|count| format!("x[xy]{{{count}}}z")).collect();
    for _ in 0..3 {
        let mut setup = Setup::new(&web.url(), json!({ "failIfBodyMatchesRegexp": patterns }));
        setup.limits = Limits::new(16 << 20, 128 << 20);
        let probed = setup.with("timeout", json!("2s")).probe().await;
        probed.failed(Reason::Timeout, "write simpler");
    }
}

#[tokio::test]
async fn a_large_body_that_is_no_text_is_compared_as_characters() {
    for length in [1000, 200_000] {
        let body = [vec![0xff; length], b"z".to_vec()].concat();
        let web = Web::plain(move |_| ok(&body)).await;
        let rules = json!({ "failIfBodyNotMatchesRegexp": ["^[^a]+z$", "z"], "failIfBodyMatchesRegexp": ["^z"] });
        probe(&web.url(), rules).await.succeeded();
        let rules = json!({ "failIfBodyMatchesRegexp": ["a", "[^a]z$"] });
        probe(&web.url(), rules).await.failed(Reason::Match, "http.failIfBodyMatchesRegexp[1]");
    }
}

#[tokio::test]
async fn large_bodies_are_read_within_the_memory_for_all() {
    let web = Web::plain(|_| ok("x".repeat(900_000))).await;
    let probes = (0..16).map(|_| {
        let mut setup = Setup::new(&web.url(), json!({ "failIfBodyNotMatchesRegexp": ["^x+$"] }));
        setup.limits = Limits::new(1 << 20, 4 << 20);
        setup.probe()
    });
    for probed in futures::future::join_all(probes).await {
        probed.succeeded();
    }
}
