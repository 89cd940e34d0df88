//! The accept loop under clients that are slow, idle, too many, or without a password.

#![expect(clippy::unwrap_used, reason = "what fails in a helper fails the test")]

mod service;

use std::io::{ErrorKind, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair, SanType};
use reqwest::{Certificate, Identity};
use scrapetarget_exporter::http::{ServerLimits, WebConfig};
use service::Service;
use service::eventually::PATIENCE;
use service::load::allowed;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Notify;

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";

/// What an answer takes that is slow.
const SLOW: Duration = Duration::from_millis(400);

fn limits() -> ServerLimits {
    let far = Duration::from_mins(1);
    ServerLimits {
        max_connections: 100,
        header_timeout: far,
        idle_timeout: far,
        stall_timeout: far,
        drain_timeout: far,
        ..ServerLimits::default()
    }
}

fn routes() -> Router {
    let slow = || async {
        tokio::time::sleep(SLOW).await;
        "slow"
    };
    let hanging = || async { std::future::pending::<&str>().await };
    let large = || async { vec![b'x'; 64 << 20] };
    let routes = Router::new().route("/", get(|| async { "hello" })).route("/-/healthy", get(|| async { "hello" }));
    routes.route("/probe", get(slow)).route("/large", get(large)).route("/hanging/probe", get(hanging))
}

async fn plain(limits: ServerLimits) -> Service {
    service::serve(routes(), None, limits).await
}

async fn connect(service: &Service) -> TcpStream {
    TcpStream::connect(service.address).await.unwrap()
}

/// Sends a request and reads its answer; false if the connection is closed instead.
async fn ask(stream: &mut TcpStream) -> bool {
    let mut answer = Vec::new();
    if stream.write_all(REQUEST).await.is_err() {
        return false;
    }
    while !answer.ends_with(b"hello") {
        match stream.read_buf(&mut answer).await {
            Ok(0) | Err(_) => return false,
            Ok(_) => {}
        }
    }
    true
}

/// How long it takes until the server closes a connection on which nothing more is sent.
async fn closed_after(stream: &mut TcpStream) -> Duration {
    let start = Instant::now();
    let mut rest = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await;
    assert!(read.is_ok(), "still open after {PATIENCE:?}");
    start.elapsed()
}

#[tokio::test]
async fn a_client_that_never_ends_its_header_is_dropped() {
    let service = plain(ServerLimits { header_timeout: Duration::from_millis(300), ..limits() }).await;
    let mut stream = connect(&service).await;
    stream.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
    let start = Instant::now();
    // A byte now and then does not help.
    let dripping = async {
        while stream.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, dripping).await.expect("still open");
    assert!(start.elapsed() >= Duration::from_millis(250), "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_client_that_never_begins_is_dropped() {
    let service = plain(ServerLimits { header_timeout: Duration::from_millis(200), ..limits() }).await;
    let mut stream = connect(&service).await;
    assert!(closed_after(&mut stream).await >= Duration::from_millis(150));
}

#[tokio::test]
async fn an_idle_connection_outlives_the_limit_on_headers_and_ends_at_its_own() {
    let header = allowed(Duration::from_millis(100));
    let service = plain(ServerLimits { header_timeout: header, idle_timeout: 6 * header, ..limits() }).await;
    let mut stream = connect(&service).await;
    assert!(ask(&mut stream).await);
    tokio::time::sleep(3 * header).await;
    assert!(ask(&mut stream).await, "idle for three times the limit on headers");
    assert!(closed_after(&mut stream).await >= 5 * header);
}

#[tokio::test]
async fn a_slow_answer_is_not_an_idle_connection() {
    let shortest = allowed(Duration::from_millis(50)).min(SLOW / 2);
    let service =
        plain(ServerLimits { header_timeout: shortest, idle_timeout: shortest, stall_timeout: shortest, ..limits() })
            .await;
    let response = service.get("/probe").send().await.unwrap();
    assert_eq!(response.text().await.unwrap(), "slow");
}

#[tokio::test]
async fn a_client_that_does_not_read_is_dropped() {
    let service = plain(ServerLimits { stall_timeout: Duration::from_millis(300), ..limits() }).await;
    let mut stream = connect(&service).await;
    stream.write_all(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    // From when the answer begins, for much longer than the limit.
    stream.readable().await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let mut got = 0;
    let mut chunk = vec![0; 1 << 20];
    while let Ok(n @ 1..) = stream.read(&mut chunk).await {
        got += n;
    }
    assert!(got < 64 << 20, "the whole answer came");
}

#[tokio::test]
async fn a_client_that_reads_slowly_but_steadily_gets_everything() {
    let service = plain(ServerLimits { stall_timeout: allowed(Duration::from_millis(500)), ..limits() }).await;
    let mut stream = connect(&service).await;
    stream.write_all(b"GET /large HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
    let (mut got, mut chunk) = (0, vec![0; 4 << 20]);
    let start = Instant::now();
    while let Ok(n @ 1..) = stream.read(&mut chunk).await {
        got += n;
        if start.elapsed() < Duration::from_millis(1500) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    assert!(got > 64 << 20, "{got}");
}

#[tokio::test]
async fn one_connection_too_many_closes_the_one_that_has_been_idle_longest() {
    let service = plain(ServerLimits { max_connections: 3, ..limits() }).await;
    let mut old = Vec::new();
    for _ in 0..3 {
        let mut stream = connect(&service).await;
        assert!(ask(&mut stream).await);
        tokio::time::sleep(Duration::from_millis(10)).await; // idle times differ by more than their resolution
        old.push(stream);
    }
    assert!(ask(&mut old[0]).await, "the first is now the one that was busy last");
    let mut new = connect(&service).await;
    assert!(ask(&mut new).await, "the new one is not refused");
    assert!(ask(&mut old[0]).await);
    assert!(!ask(&mut old[1]).await, "idle longest");
    assert!(ask(&mut old[2]).await);
}

#[tokio::test]
async fn connections_that_are_being_answered_are_not_closed_for_a_new_one() {
    let service = plain(ServerLimits { max_connections: 2, ..limits() }).await;
    let slow = (0..2).map(|_| tokio::spawn(service.get("/probe").send()));
    let slow: Vec<_> = slow.collect();
    tokio::time::sleep(Duration::from_millis(150)).await;
    let new = service.get("/").send().await.unwrap();
    assert_eq!(new.status(), StatusCode::OK, "it waits for its turn");
    for answer in slow {
        assert_eq!(answer.await.unwrap().unwrap().text().await.unwrap(), "slow");
    }
}

/// Connections from an address of this machine, each of which asks for what never comes.
async fn hanging(service: &Service, from: [u8; 4], count: usize) -> Vec<TcpStream> {
    let mut streams = Vec::new();
    for _ in 0..count {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((from, 0).into()).unwrap();
        let mut stream = socket.connect(service.address).await.unwrap();
        stream.write_all(b"GET /hanging/probe HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        streams.push(stream);
    }
    tokio::time::sleep(Duration::from_millis(400)).await; // they are in place, and no longer fresh
    streams
}

/// How many of them are still open.
fn open(streams: &[TcpStream]) -> usize {
    let is_open =
        |stream: &&TcpStream| matches!(stream.try_read(&mut [0]), Err(error) if error.kind() == ErrorKind::WouldBlock);
    streams.iter().filter(is_open).count()
}

#[tokio::test]
async fn a_request_that_has_waited_too_long_makes_room_for_another() {
    let service =
        plain(ServerLimits { max_connections: 2, poll_slot_timeout: allowed(Duration::from_secs(3)), ..limits() })
            .await;
    let old = hanging(&service, [127, 0, 0, 1], 2).await;
    let new = hanging(&service, [127, 0, 0, 1], 1).await;
    assert_eq!((open(&old), open(&new)), (2, 1), "they have their time first");
    let made_room = async {
        while open(&old) == 2 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, made_room).await.expect("nobody made room");
    assert_eq!((open(&old), open(&new)), (1, 1));
}

#[tokio::test]
async fn of_two_addresses_the_one_with_more_connections_makes_room() {
    let service =
        plain(ServerLimits { max_connections: 8, poll_slot_timeout: Duration::from_mins(1), ..limits() }).await;
    let few = hanging(&service, [127, 0, 0, 2], 2).await;
    let many = hanging(&service, [127, 0, 0, 3], 6).await;
    let other = hanging(&service, [127, 0, 0, 4], 2).await;
    assert_eq!((open(&few), open(&many), open(&other)), (2, 4, 2));
    // Everybody has a fair share now, more or less: whoever comes waits, unless it is answered at once.
    assert_eq!(service.get("/-/healthy").send().await.unwrap().text().await.unwrap(), "hello");
    let one_more = hanging(&service, [127, 0, 0, 3], 1).await;
    assert_eq!((open(&few), open(&other), open(&one_more)), (2, 2, 1));
}

#[tokio::test]
async fn one_address_cannot_have_all_requests_in_flight() {
    let patience = Duration::from_secs(20);
    let service = plain(ServerLimits { max_connections: 8, poll_slot_timeout: patience, ..limits() }).await;
    let _many = hanging(&service, [127, 0, 0, 3], 8).await;
    let start = Instant::now();
    let response = service.get("/probe").send().await.unwrap();
    assert_eq!(response.status(), StatusCode::OK, "another address has its place");
    assert!(start.elapsed() < patience / 2, "{:?}: without a wait", start.elapsed());
}

#[tokio::test]
async fn a_client_that_reads_a_little_now_and_then_is_dropped() {
    let short = ServerLimits { response_timeout: Duration::from_millis(500), ..limits() };
    let service = plain(short).await;
    let mut stream = connect(&service).await;
    stream.write_all(b"GET /large HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
    let (mut got, mut chunk) = (0, vec![0; 128 << 10]);
    while let Ok(n @ 1..) = stream.read(&mut chunk).await {
        got += n;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(got < 64 << 20, "the whole answer came");
}

#[tokio::test]
async fn a_stop_answers_what_is_in_flight_and_closes_what_is_idle() {
    /// No limit of the server is as short.
    const AT_ONCE: Duration = Duration::from_secs(20);
    let (begun, go_on) = (Arc::<Notify>::default(), Arc::<Notify>::default());
    let waits = {
        let (begun, go_on) = (Arc::clone(&begun), Arc::clone(&go_on));
        async move || {
            begun.notify_one();
            go_on.notified().await;
            "slow"
        }
    };
    let mut service = service::serve(routes().route("/waits/probe", get(waits)), None, limits()).await;
    let mut idle = connect(&service).await;
    assert!(ask(&mut idle).await);
    let mut silent = connect(&service).await;
    let in_flight = tokio::spawn(service.get("/waits/probe").send());
    begun.notified().await;
    let start = Instant::now();
    service.stop.cancel();
    assert!(closed_after(&mut idle).await < AT_ONCE);
    assert!(closed_after(&mut silent).await < AT_ONCE);
    go_on.notify_one();
    let answer = in_flight.await.unwrap().unwrap();
    assert_eq!(answer.headers()["connection"], "close");
    assert_eq!(answer.text().await.unwrap(), "slow");
    (&mut service.served).await.unwrap();
    assert!(start.elapsed() < 2 * AT_ONCE, "{:?}", start.elapsed());
    assert!(TcpStream::connect(service.address).await.is_err());
}

#[tokio::test]
async fn a_stop_does_not_wait_for_ever() {
    let mut service = plain(ServerLimits { drain_timeout: Duration::from_millis(200), ..limits() }).await;
    let mut stream = connect(&service).await;
    stream.write_all(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    stream.readable().await.unwrap();
    service.stop.cancel();
    tokio::time::timeout(PATIENCE, &mut service.served).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_header_that_is_too_large_is_refused() {
    let service = plain(limits()).await;
    let response = service.get("/").header("x-large", "x".repeat(100_000)).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    let mut stream = connect(&service).await;
    stream.write_all(format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(70_000)).as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert!([b"HTTP/1.1 431", b"HTTP/1.1 414"].contains(&&answer));
}

// ---- --web.config.file -------------------------------------------------------------------------------------------

/// An authority, and files of a server certificate that it has signed.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// A certificate for `name`, and its key, both PEM.
    fn sign(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.subject_alt_names.push(SanType::IpAddress("127.0.0.1".parse().unwrap()));
        (params.signed_by(&key, &self.0).unwrap().pem(), key.serialize_pem())
    }

    fn write_server(&self, directory: &Path) {
        let (certificate, key) = self.sign("server");
        write(directory, "tls.crt", &certificate);
        write(directory, "tls.key", &key);
        write(directory, "ca.crt", &self.0.pem());
    }

    fn trusted(&self) -> reqwest::ClientBuilder {
        service::install_crypto();
        let root = Certificate::from_pem(self.0.pem().as_bytes()).unwrap();
        reqwest::Client::builder().no_proxy().tls_certs_only([root])
    }

    fn client(&self, name: &str) -> reqwest::Client {
        let (certificate, key) = self.sign(name);
        let identity = Identity::from_pem((certificate + &key).as_bytes()).unwrap();
        self.trusted().identity(identity).build().unwrap()
    }
}

/// Replaces a file as a careful writer does: no reader sees half of it.
fn write(directory: &Path, name: &str, text: &str) {
    let temporary = directory.join("temporary");
    let mut file = std::fs::File::create(&temporary).unwrap();
    file.write_all(text.as_bytes()).unwrap();
    std::fs::rename(temporary, directory.join(name)).unwrap();
}

async fn with_web(directory: &Path, yaml: &str) -> (Service, Arc<WebConfig>) {
    service::install_crypto();
    write(directory, "web.yml", yaml);
    let web = Arc::new(WebConfig::load(&directory.join("web.yml")).unwrap());
    (service::serve(routes(), Some(Arc::clone(&web)), limits()).await, web)
}

async fn status(client: &reqwest::Client, service: &Service) -> Option<StatusCode> {
    let response = client.get(format!("https://{}/", service.address)).send().await;
    response.ok().map(|response| response.status())
}

const TLS: &str = "tls_server_config:\n  cert_file: tls.crt\n  key_file: tls.key\n";

#[tokio::test]
async fn tls_is_served_and_plain_http_is_not() {
    let (directory, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    authority.write_server(directory.path());
    let (service, web) = with_web(directory.path(), TLS).await;
    assert!(web.is_tls());
    assert_eq!(status(&authority.trusted().build().unwrap(), &service).await, Some(StatusCode::OK));
    let plain = service.get("/").send().await.unwrap();
    assert_eq!(plain.status(), StatusCode::BAD_REQUEST);
    assert_eq!(plain.text().await.unwrap(), "this port speaks https: write https:// instead of http://\n");
}

#[tokio::test]
async fn connections_that_send_nothing_make_room_where_there_is_tls_too() {
    let (directory, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    authority.write_server(directory.path());
    service::install_crypto();
    write(directory.path(), "web.yml", TLS);
    let web = WebConfig::load(&directory.path().join("web.yml")).unwrap();
    // No time ends them here.
    let service = service::serve(routes(), Some(Arc::new(web)), ServerLimits { max_connections: 3, ..limits() }).await;
    let mut silent = Vec::new();
    for _ in 0..3 {
        silent.push(connect(&service).await);
    }
    assert_eq!(status(&authority.trusted().build().unwrap(), &service).await, Some(StatusCode::OK));
}

#[tokio::test]
async fn a_long_request_of_plain_http_gets_its_sentence_too() {
    let (directory, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    authority.write_server(directory.path());
    let (service, _) = with_web(directory.path(), TLS).await;
    let mut stream = connect(&service).await;
    let request = format!("POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 60000\r\n\r\n{}", "x".repeat(60_000));
    let _ = stream.write_all(request.as_bytes()).await;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("write https://"), "{answer}");
}

#[tokio::test]
async fn a_client_is_admitted_by_its_self_signed_certificate_if_that_is_given_itself() {
    let (directory, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    authority.write_server(directory.path());
    // As `openssl req -x509` makes it.
    let own = |usages: Vec<ExtendedKeyUsagePurpose>| {
        let mut params = CertificateParams::new(vec!["prometheus".to_owned()]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.extended_key_usages = usages;
        let key = KeyPair::generate().unwrap();
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    };
    let client = |(certificate, key): &(String, String)| {
        let identity = Identity::from_pem((certificate.clone() + key).as_bytes()).unwrap();
        authority.trusted().identity(identity).build().unwrap()
    };
    let way = format!("{TLS}  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: clients.crt\n");
    let server = own(vec![ExtendedKeyUsagePurpose::ServerAuth]);
    let (good, other) = (own(vec![]), own(vec![]));
    write(directory.path(), "clients.crt", &format!("{}{}", good.0, server.0));
    let (service, _) = with_web(directory.path(), &way).await;
    assert_eq!(status(&client(&good), &service).await, Some(StatusCode::OK));
    for refused in [&other, &server] {
        assert_eq!(status(&client(refused), &service).await, None);
    }
}

#[tokio::test]
async fn what_templates_leave_empty_and_what_only_go_has_does_not_stop_the_service() {
    let (directory, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    authority.write_server(directory.path());
    let client = authority.trusted().build().unwrap();
    for more in [
        "  client_ca_file: \"\"\n  client_ca: ''\n  cert: ''\n  key: ''\n",
        "  curve_preferences: [CurveP521, X25519]\n",
        "  cipher_suites: [TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA]\n",
    ] {
        let (service, _) = with_web(directory.path(), &format!("{TLS}{more}")).await;
        assert_eq!(status(&client, &service).await, Some(StatusCode::OK), "{more}");
    }
}

#[tokio::test]
async fn each_way_to_ask_for_client_certificates_admits_whom_it_should() {
    let (directory, ours, theirs) = (tempfile::tempdir().unwrap(), Authority::new(), Authority::new());
    ours.write_server(directory.path());
    let none = ours.trusted().build().unwrap();
    let good = ours.client("prometheus");
    let foreign = {
        let (certificate, key) = theirs.sign("prometheus");
        ours.trusted().identity(Identity::from_pem((certificate + &key).as_bytes()).unwrap()).build().unwrap()
    };
    let ca = "  client_ca_file: ca.crt\n";
    let sans = "  client_ca_file: ca.crt\n  client_allowed_sans: [prometheus, other]\n";
    let others = "  client_ca_file: ca.crt\n  client_allowed_sans: [other]\n";
    for (way, more, admits) in [
        ("NoClientCert", "", [true, true, true]),
        ("RequestClientCert", "", [true, true, true]),
        ("RequireAnyClientCert", "", [false, true, true]),
        ("VerifyClientCertIfGiven", ca, [true, true, false]),
        ("RequireAndVerifyClientCert", ca, [false, true, false]),
        ("RequireAndVerifyClientCert", sans, [false, true, false]),
        ("RequireAndVerifyClientCert", others, [false, false, false]),
        ("VerifyClientCertIfGiven", others, [true, false, false]),
    ] {
        let (service, _) = with_web(directory.path(), &format!("{TLS}  client_auth_type: {way}\n{more}")).await;
        for (client, admitted) in [&none, &good, &foreign].into_iter().zip(admits) {
            let status = status(client, &service).await;
            assert_eq!(status, admitted.then_some(StatusCode::OK), "{way} {more} {admits:?}");
        }
    }
}

#[tokio::test]
async fn the_versions_and_suites_of_tls_are_as_told() {
    let (directory, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    authority.write_server(directory.path());
    let only = |version| authority.trusted().tls_version_min(version).tls_version_max(version).build().unwrap();
    let (old, new) = (only(reqwest::tls::Version::TLS_1_2), only(reqwest::tls::Version::TLS_1_3));
    for (more, admits_old, admits_new) in [
        ("  min_version: TLS10\n", true, true),
        ("  min_version: TLS13\n", false, true),
        ("  max_version: TLS12\n", true, false),
        ("  cipher_suites: [TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384]\n  curve_preferences: [CurveP384]\n", true, true),
        ("  cipher_suites: [TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256]\n", false, true),
    ] {
        let (service, _) = with_web(directory.path(), &format!("{TLS}{more}")).await;
        assert_eq!(status(&old, &service).await.is_some(), admits_old, "{more}");
        assert_eq!(status(&new, &service).await.is_some(), admits_new, "{more}");
    }
}

#[tokio::test]
async fn a_handshake_that_stands_still_does_not_hold_up_others() {
    let (directory, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    authority.write_server(directory.path());
    write(directory.path(), "web.yml", TLS);
    let web = Arc::new(WebConfig::load(&directory.path().join("web.yml")).unwrap());
    let short = ServerLimits { header_timeout: allowed(Duration::from_millis(400)), ..limits() };
    let service = service::serve(routes(), Some(web), short).await;
    let mut silent = connect(&service).await;
    let mut half = connect(&service).await;
    half.write_all(&[0x16, 0x03, 0x01]).await.unwrap();
    assert_eq!(status(&authority.trusted().build().unwrap(), &service).await, Some(StatusCode::OK));
    closed_after(&mut silent).await;
    closed_after(&mut half).await;
}

#[tokio::test]
async fn a_renewed_certificate_is_used_and_a_broken_one_is_not() {
    let (directory, first, second) = (tempfile::tempdir().unwrap(), Authority::new(), Authority::new());
    first.write_server(directory.path());
    let (service, web) = with_web(directory.path(), TLS).await;
    // A client of its own each time: a connection that is open stays as it is.
    let trusts = async |authority: &Authority| status(&authority.trusted().build().unwrap(), &service).await.is_some();
    assert!(trusts(&first).await);
    write(directory.path(), "tls.crt", "-----BEGIN CERTIFICATE-----\nhalf of");
    web.reload_if_changed();
    assert!(trusts(&first).await, "the last good one stays");
    second.write_server(directory.path());
    web.reload_if_changed();
    assert!(trusts(&second).await && !trusts(&first).await);
    write(directory.path(), "web.yml", "basic_auth_users: {}\n");
    web.reload_if_changed();
    assert!(trusts(&second).await, "TLS is not switched off without a restart");
}

#[tokio::test]
async fn a_changed_file_is_noticed_without_being_told() {
    let directory = tempfile::tempdir().unwrap();
    let (service, _) = with_web(directory.path(), "http_server_config: {headers: {X-Frame-Options: deny}}\n").await;
    let header = async || service.get("/").send().await.unwrap().headers()["x-frame-options"].clone();
    assert_eq!(header().await, "deny");
    write(directory.path(), "web.yml", "http_server_config: {headers: {X-Frame-Options: sameorigin}}\n");
    let changed = async {
        while header().await != "sameorigin" {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, changed).await.unwrap();
}

/// `ann` with the password `secret`, at bcrypt's lowest cost; the prefixes that other programs write.
fn users() -> String {
    let hash = bcrypt::hash("secret", 4).unwrap();
    format!("basic_auth_users:\n  ann: {hash}\n  bob: {}\n", hash.replacen("$2b$", "$2y$", 1))
}

#[tokio::test]
async fn only_users_with_their_password_are_admitted() {
    let directory = tempfile::tempdir().unwrap();
    let (service, web) = with_web(directory.path(), &users()).await;
    assert!(web.has_users());
    for (user, password, admitted) in [
        ("ann", "secret", true),
        ("bob", "secret", true),
        ("ann", "wrong", false),
        ("ann", "", false),
        ("eve", "secret", false),
        ("", "", false),
    ] {
        for round in 1..=2 {
            let response = service.get("/").basic_auth(user, Some(password)).send().await.unwrap();
            let status = if admitted { StatusCode::OK } else { StatusCode::UNAUTHORIZED };
            assert_eq!(response.status(), status, "{user}:{password}, round {round}");
        }
    }
    for header in ["", "Basic", "Basic %%%", "Basic YW5u", "Bearer secret"] {
        let response = service.get("/").header("authorization", header).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "{header}");
    }
    let response = service.get("/-/healthy").send().await.unwrap();
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "every path is behind the password");
    assert!(response.headers()["www-authenticate"].to_str().unwrap().starts_with("Basic"));
}

#[tokio::test]
async fn a_password_can_be_changed_but_not_dropped_while_running() {
    let directory = tempfile::tempdir().unwrap();
    let (service, web) = with_web(directory.path(), &users()).await;
    let admits = async |password: &str| {
        service.get("/").basic_auth("ann", Some(password)).send().await.unwrap().status() == StatusCode::OK
    };
    assert!(admits("secret").await);
    for broken in ["", "basic_auth_users: {ann: half", "http_server_config: {http2: true}\n"] {
        write(directory.path(), "web.yml", broken);
        web.reload_if_changed();
        assert!(admits("secret").await && !admits("other").await, "{broken:?}");
    }
    let hash = bcrypt::hash("other", 4).unwrap();
    write(directory.path(), "web.yml", &format!("basic_auth_users: {{ann: {hash}}}\n"));
    web.reload_if_changed();
    assert!(admits("other").await && !admits("secret").await);
}

#[tokio::test]
async fn the_password_is_asked_for_before_the_path_is_looked_at() {
    let directory = tempfile::tempdir().unwrap();
    let (service, _) = with_web(directory.path(), &users()).await;
    let unknown = service.get("/nothing").send().await.unwrap();
    assert_eq!(unknown.status(), StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn health_can_be_left_without_a_password_and_nothing_else_is() {
    let directory = tempfile::tempdir().unwrap();
    service::install_crypto();
    write(directory.path(), "web.yml", &users());
    let web = WebConfig::load(&directory.path().join("web.yml")).unwrap().with_open_health(true);
    let routes = routes().route("/-/ready", get(|| async { "ready" }));
    let service = service::serve(routes, Some(Arc::new(web)), limits()).await;
    for (path, user, wanted) in [
        ("/-/healthy", None, 200),
        ("/-/ready", None, 200),
        ("/-/healthy", Some(("ann", "wrong")), 200),
        ("/", None, 401),
        ("/", Some(("ann", "wrong")), 401),
        ("/", Some(("ann", "secret")), 200),
        ("/-/healthy?x=/-/ready", None, 200),
        ("/?x=/-/healthy", None, 401),
        ("/x/../-/healthy", None, 200),
        ("/-/healthy/x", None, 401),
    ] {
        let request = service.get(path);
        let request = match user {
            Some((user, password)) => request.basic_auth(user, Some(password)),
            None => request,
        };
        assert_eq!(request.send().await.unwrap().status().as_u16(), wanted, "{path} {user:?}");
    }
}

#[tokio::test]
async fn more_requests_than_the_rate_allows_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let (service, _) = with_web(directory.path(), "rate_limit: {interval: 1h, burst: 2}\n").await;
    let mut answers = Vec::new();
    for _ in 0..3 {
        answers.push(service.get("/").send().await.unwrap().status().as_u16());
    }
    assert_eq!(answers, [200, 200, 429]);
    let health = service.get("/-/healthy").send().await.unwrap();
    assert_eq!(health.status(), StatusCode::OK, "whoever uses up the rate does not make us look dead");
}

#[test]
fn a_bad_file_is_an_error_of_one_line_with_its_path() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("web.yml");
    let missing = WebConfig::load(&path).unwrap_err().to_string();
    assert!(missing.contains("web.yml: No such file"), "{missing}");
    write(directory.path(), "web.yml", "tls_server_config:\n  cert_fle: x\n");
    let unknown = WebConfig::load(&path).unwrap_err().to_string();
    assert!(unknown.contains("cert_fle") && !unknown.contains('\n'), "{unknown}");
}
