//! Every fault of a server, made for real: each has its reason, and none disturbs another target.

mod support;

use std::sync::Arc;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use scrapetarget_exporter::dial::AddressRules;
use scrapetarget_exporter::fetch::{Clients, Limits};
use scrapetarget_exporter::kind::{Reason, Type};
use scrapetarget_exporter::poll::{Pollers, Snapshot};
use scrapetarget_exporter::self_metrics::SelfMetrics;
use scrapetarget_exporter::target::Target;
use support::eventually::PATIENCE;
use support::faults::{Fault, Faulty, closed_port};
use support::{choose_tls_provider, poll_once, pollers_with, redeclared, series, target, text};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// A target with time enough for whatever its server does, unless that never ends.
fn sora(url: &str) -> Target {
    let mut target = target("sora", Type::Sora, url);
    target.timeout = Duration::from_secs(25);
    target
}

/// One whose server never ends, and is not waited for long.
fn impatient(url: &str) -> Target {
    let mut target = sora(url);
    target.timeout = Duration::from_millis(400);
    target
}

fn reason(snapshot: &Snapshot) -> Reason {
    snapshot.failure.as_ref().expect("the poll failed").reason
}

async fn reason_of(fault: Fault) -> Reason {
    let server = Faulty::start(fault).await;
    let hangs = matches!(fault, Fault::HangsBeforeTheAnswer | Fault::HangsInTheBody | Fault::Drips);
    let target = if hangs { impatient } else { sora };
    let snapshot = poll_once(target(&server.url())).await;
    let series = series(&text(&snapshot));
    assert_eq!(series["probe_success"], 0.0);
    assert_eq!(series["sora_up"], 0.0);
    let families: Vec<&String> = series.keys().filter(|name| name.starts_with("sora_") && *name != "sora_up").collect();
    assert!(families.is_empty(), "nothing of the target is left: {families:?}");
    reason(&snapshot)
}

#[tokio::test]
async fn a_closed_port_is_reason_connect() {
    let snapshot = poll_once(sora(&closed_port())).await;
    assert_eq!(reason(&snapshot), Reason::Connect);
    assert!(snapshot.failure.as_ref().unwrap().message.contains("refused"), "{:?}", snapshot.failure);
}

#[tokio::test]
async fn a_name_without_an_address_is_reason_dns() {
    let snapshot = poll_once(sora("http://no-such-host.invalid:3000/")).await;
    assert_eq!(reason(&snapshot), Reason::Dns, "{:?}", snapshot.failure);
}

#[tokio::test]
async fn silence_before_the_answer_is_reason_timeout() {
    assert_eq!(reason_of(Fault::HangsBeforeTheAnswer).await, Reason::Timeout);
}

#[tokio::test]
async fn once_the_time_is_up_no_further_call_is_tried() {
    let server = Faulty::start(Fault::HangsBeforeTheAnswer).await;
    let snapshot = poll_once(impatient(&server.url())).await;
    assert_eq!(snapshot.calls.len(), 3);
    assert!(snapshot.calls[2].error.as_ref().unwrap().contains("not sent"), "{:?}", snapshot.calls[2]);
    tokio::time::sleep(Duration::from_millis(50)).await; // for a connection that should not come
    assert_eq!(server.connections.load(std::sync::atomic::Ordering::Relaxed), 1);
}

#[tokio::test]
async fn silence_in_the_body_is_reason_timeout() {
    assert_eq!(reason_of(Fault::HangsInTheBody).await, Reason::Timeout);
}

#[tokio::test]
async fn a_byte_a_second_is_reason_timeout() {
    assert_eq!(reason_of(Fault::Drips).await, Reason::Timeout);
}

#[tokio::test]
async fn a_body_without_end_is_reason_limit() {
    assert_eq!(reason_of(Fault::Endless).await, Reason::Limit);
}

#[tokio::test]
async fn a_declared_terabyte_is_refused_before_it_is_read() {
    assert_eq!(reason_of(Fault::ClaimsATerabyte).await, Reason::Limit);
}

#[tokio::test]
async fn a_body_shorter_than_declared_is_reason_body() {
    assert_eq!(reason_of(Fault::PromisesTooMuch).await, Reason::Body);
}

#[tokio::test]
async fn a_body_longer_than_declared_is_cut_and_does_not_parse() {
    assert_eq!(reason_of(Fault::PromisesTooLittle).await, Reason::Parse);
}

#[tokio::test]
async fn gzip_without_end_that_holds_nothing_is_reason_limit() {
    for fault in [Fault::EmptyGzipMembers, Fault::EmptyGzipBlocks] {
        assert_eq!(reason_of(fault).await, Reason::Limit);
    }
}

#[tokio::test]
async fn a_compressed_bomb_is_reason_limit() {
    assert_eq!(reason_of(Fault::CompressedBomb).await, Reason::Limit);
}

#[tokio::test]
async fn broken_compression_is_reason_body() {
    assert_eq!(reason_of(Fault::BrokenGzip).await, Reason::Body);
}

#[tokio::test]
async fn html_is_reason_parse() {
    let page = "HTTP/1.1 200 OK\r\ncontent-length: 37\r\n\r\n<!DOCTYPE html><html>Welcome</html>\r\n";
    assert_eq!(reason_of(Fault::Says(page)).await, Reason::Parse);
}

#[tokio::test]
async fn broken_json_is_reason_parse() {
    assert_eq!(reason_of(Fault::Says("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{\"a\": 1,}")).await, Reason::Parse);
}

#[tokio::test]
async fn an_empty_body_is_reason_parse() {
    assert_eq!(reason_of(Fault::Says("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")).await, Reason::Parse);
}

#[tokio::test]
async fn json_of_another_shape_is_reason_schema() {
    assert_eq!(reason_of(Fault::Says("HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\n[1,2,3]")).await, Reason::Schema);
}

#[tokio::test]
async fn json_ten_thousand_levels_deep_in_a_field_that_nobody_reads_is_passed_over() {
    assert_eq!(reason_of(Fault::DeepJson).await, Reason::Schema);
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let elsewhere = Faulty::start(Fault::Says("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")).await;
    let answer = format!("HTTP/1.1 302 Found\r\nlocation: {}\r\ncontent-length: 0\r\n\r\n", elsewhere.url());
    assert_eq!(reason_of(Fault::Says(answer.leak())).await, Reason::HttpStatus);
    assert_eq!(elsewhere.connections.load(std::sync::atomic::Ordering::Relaxed), 0);
}

#[tokio::test]
async fn status_503_is_reason_http_status_even_with_good_json() {
    let answer = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 15\r\n\r\n{\"version\":\"1\"}";
    assert_eq!(reason_of(Fault::Says(answer)).await, Reason::HttpStatus);
}

#[tokio::test]
async fn status_401_is_reason_auth() {
    assert_eq!(reason_of(Fault::Says("HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n")).await, Reason::Auth);
}

#[tokio::test]
async fn a_reset_connection_is_reason_connect() {
    assert_eq!(reason_of(Fault::Resets).await, Reason::Connect);
}

#[tokio::test]
async fn a_connection_closed_before_the_answer_is_reason_connect() {
    assert_eq!(reason_of(Fault::Closes).await, Reason::Connect);
}

#[tokio::test]
async fn a_server_of_another_protocol_is_reason_parse() {
    assert_eq!(reason_of(Fault::Says("SSH-2.0-OpenSSH_9.2\r\n")).await, Reason::Parse);
}

#[tokio::test]
async fn a_header_of_a_mebibyte_is_reason_limit() {
    assert_eq!(reason_of(Fault::HugeHeader).await, Reason::Limit);
}

#[tokio::test]
async fn servers_that_send_much_and_then_hang_do_not_use_up_the_memory_of_others() {
    let much = "HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n".to_owned() + &" ".repeat(400_000);
    let greedy = Faulty::start(Fault::Says(much.leak())).await;
    let good = "HTTP/1.1 200 OK\r\ncontent-length: 22\r\n\r\n{\"version\":\"2024.1.0\"}";
    let good = Faulty::start(Fault::Says(good)).await;
    let pollers = pollers_with(Limits::new(1 << 20, 1 << 20), true);
    pollers.apply((0..4).map(|i| {
        let mut target = target(&format!("greedy-{i}"), Type::Sora, &greedy.url());
        (target.interval, target.timeout) = (Duration::from_secs(60), Duration::from_secs(30));
        target
    }));
    while greedy.connections.load(std::sync::atomic::Ordering::Relaxed) < 4 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    tokio::time::sleep(Duration::from_millis(300)).await; // their bodies fill the budget
    let target = target("good", Type::Sora, &good.url());
    let id = target.id.clone();
    pollers.apply([target]);
    let snapshot = pollers.get(&id).unwrap().answer(PATIENCE).await;
    assert_ne!(
        snapshot.failure.as_ref().map(|failure| failure.reason),
        Some(Reason::Timeout),
        "{:?}",
        snapshot.failure
    );
    assert_ne!(snapshot.failure.as_ref().map(|failure| failure.reason), Some(Reason::Limit), "{:?}", snapshot.failure);
    assert!(snapshot.calls[0].error.is_none(), "{:?}", snapshot.calls);
}

#[tokio::test]
async fn a_server_that_quotes_our_credentials_does_not_bring_them_onto_pages() {
    let answer = "HTTP/1.1 401 Unauthorized\r\ncontent-length: 28\r\n\r\nnot welcome: hunter2-of-sora";
    let server = Faulty::start(Fault::Says(answer)).await;
    let mut target = sora(&server.url());
    Arc::make_mut(&mut target.source).headers.insert("authorization", "Bearer hunter2-of-sora".parse().unwrap());
    let snapshot = poll_once(target).await;
    let shown = format!("{snapshot:?}");
    assert!(shown.contains("answered 401 Unauthorized, 28 bytes of text") && !shown.contains("hunter2"), "{shown}");
}

#[tokio::test]
async fn link_local_addresses_are_never_contacted() {
    for url in
        ["http://169.254.169.254/", "http://[fe80::1]/", "http://[::ffff:169.254.169.254]/", "http://[fd00:ec2::254]/"]
    {
        let snapshot = poll_once(sora(url)).await;
        assert_eq!(reason(&snapshot), Reason::Config, "{url}");
        assert!(snapshot.calls.is_empty(), "{url}: nothing was sent");
    }
}

/// The answer for `target` where loopback is denied.
async fn poll_without_loopback(target: Target) -> Arc<Snapshot> {
    choose_tls_provider();
    let rules = AddressRules::denying(["127.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()]);
    let pollers =
        Pollers::new(Clients::new(rules), Limits::new(1 << 20, 1 << 20), SelfMetrics::new().unwrap().polls, false).0;
    let id = target.id.clone();
    pollers.apply([target]);
    pollers.get(&id).unwrap().answer(PATIENCE).await
}

#[tokio::test]
async fn a_proxy_at_a_denied_address_is_never_contacted() {
    let proxy = Faulty::start(Fault::Says("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")).await;
    for host in ["127.0.0.1", "localhost"] {
        let mut target = sora("http://sora.example.com/");
        let url = format!("http://{host}:{}", proxy.address.port());
        Arc::make_mut(&mut target.source).connection.proxy = Some(url.parse::<reqwest::Url>().unwrap().into());
        let snapshot = poll_without_loopback(target).await;
        assert_eq!(reason(&snapshot), Reason::Config, "{host}: {:?}", snapshot.failure);
    }
    assert_eq!(proxy.connections.load(std::sync::atomic::Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_name_that_leads_to_a_denied_range_is_refused_after_resolution() {
    let server = Faulty::start(Fault::Says("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")).await;
    let snapshot = poll_without_loopback(sora(&format!("http://localhost:{}/", server.address.port()))).await;
    assert_eq!(reason(&snapshot), Reason::Config, "{:?}", snapshot.failure);
    assert_eq!(server.connections.load(std::sync::atomic::Ordering::Relaxed), 0);
}

/// A TLS server with this certificate that answers every request with `{}`.
async fn tls_server(certificate: &rcgen::Certificate, key: &KeyPair) -> std::net::SocketAddr {
    choose_tls_provider();
    let key = rustls_pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let mut request = [0; 4096];
                while stream.read(&mut request).await.is_ok_and(|n| n > 0) {
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await;
                }
            });
        }
    });
    address
}

/// An authority, and a certificate of it for `name`, valid until the end of `until`.
fn certificate(name: &str, until: i32) -> (CertifiedIssuer<'static, KeyPair>, rcgen::Certificate, KeyPair) {
    let mut authority = CertificateParams::new([]).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
    let mut leaf = CertificateParams::new([name.to_owned()]).unwrap();
    leaf.not_before = date_time_ymd(2020, 1, 1);
    leaf.not_after = date_time_ymd(until, 1, 1);
    let key = KeyPair::generate().unwrap();
    let certificate = leaf.signed_by(&key, &issuer).unwrap();
    (issuer, certificate, key)
}

fn https(address: std::net::SocketAddr, ca: Option<&str>) -> Target {
    let mut target = sora(&format!("https://{address}/"));
    Arc::make_mut(&mut target.source).connection.tls.ca = ca.map(|pem| pem.as_bytes().into());
    target
}

#[tokio::test]
async fn an_expired_certificate_is_reason_tls() {
    let (ca, leaf, key) = certificate("127.0.0.1", 2021);
    let snapshot = poll_once(https(tls_server(&leaf, &key).await, Some(&ca.pem()))).await;
    assert_eq!(reason(&snapshot), Reason::Tls);
    assert!(snapshot.failure.as_ref().unwrap().message.to_lowercase().contains("expired"), "{:?}", snapshot.failure);
}

#[tokio::test]
async fn a_certificate_of_an_unknown_authority_is_reason_tls() {
    let (_, leaf, key) = certificate("127.0.0.1", 2040);
    let (other, _, _) = certificate("127.0.0.1", 2040);
    let snapshot = poll_once(https(tls_server(&leaf, &key).await, Some(&other.pem()))).await;
    assert_eq!(reason(&snapshot), Reason::Tls, "{:?}", snapshot.failure);
}

#[tokio::test]
async fn a_plain_target_beside_it_does_not_keep_a_certificate_from_being_verified() {
    let (_, leaf, key) = certificate("127.0.0.1", 2040);
    let secure = https(tls_server(&leaf, &key).await, None);
    let server = Faulty::start(Fault::Says("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")).await;
    let plain = target("plain", Type::Sora, &server.url());
    let pollers = pollers_with(Limits::new(1 << 20, 8 << 20), false);
    for (target, expected) in [(plain, Reason::Schema), (secure, Reason::Tls)] {
        let id = target.id.clone();
        pollers.apply([target]);
        let snapshot = pollers.get(&id).unwrap().answer(PATIENCE).await;
        assert_eq!(reason(&snapshot), expected, "{:?}", snapshot.failure);
    }
}

#[tokio::test]
async fn a_certificate_for_another_name_is_reason_tls_unless_server_name_asks_for_it() {
    let (ca, leaf, key) = certificate("sora.example.com", 2040);
    let address = tls_server(&leaf, &key).await;
    let snapshot = poll_once(https(address, Some(&ca.pem()))).await;
    assert_eq!(reason(&snapshot), Reason::Tls);

    let mut named = https(address, Some(&ca.pem()));
    Arc::make_mut(&mut named.source).connection.tls.server_name = Some("sora.example.com".to_owned());
    let snapshot = poll_once(named).await;
    assert!(snapshot.failure.as_ref().is_none_or(|failure| failure.reason != Reason::Tls), "{:?}", snapshot.failure);
    let series = series(&text(&snapshot));
    assert_eq!(series["probe_ssl_earliest_cert_expiry"], 2_208_988_800.0, "2040-01-01, the leaf's end");
}

#[tokio::test]
async fn a_server_name_that_is_an_address_is_verified_and_never_contacted() {
    let (ca, leaf, key) = certificate("192.0.2.7", 2040);
    let address = tls_server(&leaf, &key).await;
    let mut named = https(address, Some(&ca.pem()));
    Arc::make_mut(&mut named.source).connection.tls.server_name = Some("192.0.2.7".to_owned());
    let snapshot = poll_once(named.clone()).await;
    assert_eq!(reason(&snapshot), Reason::Schema, "an answer came: {:?}", snapshot.failure);

    let other = Faulty::start(Fault::Says("")).await;
    named = redeclared(&named, |spec| spec.url = format!("https://127.0.0.2:{}/", other.address.port()));
    Arc::make_mut(&mut named.source).connection.tls.server_name = Some("127.0.0.1".to_owned());
    assert_eq!(reason(&*poll_once(named.clone()).await), Reason::Connect, "nobody listens at the url's host");
    Arc::make_mut(&mut named.source).connection.tls.server_name = Some("0x7f.1".to_owned());
    assert_eq!(reason(&*poll_once(named).await), Reason::Config);
    assert_eq!(other.connections.load(std::sync::atomic::Ordering::Relaxed), 0);
}

#[tokio::test]
async fn the_certificate_of_a_proxy_is_verified_also_for_a_plain_target() {
    let (ca, leaf, key) = certificate("127.0.0.1", 2040);
    let address = tls_server(&leaf, &key).await;
    let mut target = sora("http://sora.example.com/");
    Arc::make_mut(&mut target.source).connection.proxy =
        Some(format!("https://{address}").parse::<reqwest::Url>().unwrap().into());
    assert_eq!(reason(&*poll_once(target.clone()).await), Reason::Tls, "of an unknown authority");
    Arc::make_mut(&mut target.source).connection.tls.ca = Some(ca.pem().as_bytes().into());
    assert_eq!(reason(&*poll_once(target).await), Reason::Schema, "an answer came");
}

#[tokio::test]
async fn insecure_skip_verify_takes_an_expired_certificate_of_anybody() {
    let (_, leaf, key) = certificate("sora.example.com", 2021);
    let mut target = https(tls_server(&leaf, &key).await, None);
    Arc::make_mut(&mut target.source).connection.tls.insecure_skip_verify = true;
    let snapshot = poll_once(target).await;
    assert!(snapshot.failure.as_ref().is_none_or(|failure| failure.reason != Reason::Tls), "{:?}", snapshot.failure);
}

#[tokio::test]
async fn plain_http_spoken_to_a_tls_url_is_reason_tls() {
    let server = Faulty::start(Fault::Says("HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")).await;
    let snapshot = poll_once(https(server.address, None)).await;
    assert_eq!(reason(&snapshot), Reason::Tls, "{:?}", snapshot.failure);
}

#[tokio::test]
async fn a_server_that_hangs_while_it_holds_the_whole_budget_loses_it_to_the_next_and_is_told_why() {
    let holder = Faulty::start(Fault::HangsInTheBody).await;
    let pollers = pollers_with(Limits::new(1 << 20, 1024), false);
    let mut slow = sora(&holder.url());
    slow.timeout = PATIENCE;
    let good = Faulty::start(Fault::Says("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")).await;
    let mut other = target("other", Type::Sora, &good.url());
    other.max_age = Duration::ZERO;
    let ids = [slow.id.clone(), other.id.clone()];
    pollers.apply([slow, other]);
    let holding = pollers.get(&ids[0]).unwrap();
    let held = tokio::spawn(async move { holding.answer(PATIENCE).await });
    while holder.connections.load(std::sync::atomic::Ordering::Relaxed) == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // It holds something as soon as the header has come.
    while !held.is_finished() {
        let snapshot = pollers.get(&ids[1]).unwrap().answer(PATIENCE).await;
        assert_eq!(reason(&snapshot), Reason::Schema, "the answer was read: {:?}", snapshot.failure);
    }
    let driven_out = held.await.unwrap();
    assert_eq!(reason(&driven_out), Reason::Limit);
    let message = &driven_out.failure.as_ref().unwrap().message;
    assert!(message.contains("--max-inflight-bytes"), "{message}");
}
