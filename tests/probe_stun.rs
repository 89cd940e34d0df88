//! Type Stun against servers that follow a script: good answers over every transport, servers that refuse, and servers that mean ill.

#![expect(clippy::unwrap_used, reason = "a test may")]

mod support;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use scrapetarget_exporter::kind::Reason;
use scrapetarget_exporter::stun::{StunAttribute, StunClass, StunMessage, StunMethod, StunWriter, TransactionId};
use serde_json::{Value, json};
use support::probing::{Act, Actor, Certificate, Probed, mistakes_in};
use support::program::{Running, folder_with};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinHandle;

const PHASES: [&str; 4] = ["resolve", "connect", "tls", "request"];

/// A request of a client, and how many came before it.
struct Asked<'r> {
    bytes: &'r [u8],
    before: usize,
    from: SocketAddr,
}

impl Asked<'_> {
    fn message(&self) -> StunMessage<'_> {
        StunMessage::read(self.bytes).unwrap()
    }

    fn answer(&self, class: StunClass) -> StunWriter {
        let request = self.message();
        StunWriter::new(class, request.method, request.transaction)
    }

    /// The right answer.
    fn mapped(&self) -> Vec<u8> {
        let mut writer = self.answer(StunClass::Success);
        writer.xor_address(StunAttribute::XOR_MAPPED_ADDRESS, self.from);
        writer.finish_with_fingerprint().unwrap()
    }

    fn error(&self, code: u16, reason: &str) -> StunWriter {
        let mut writer = self.answer(StunClass::Error);
        let number = [0, 0, u8::try_from(code / 100).unwrap(), u8::try_from(code % 100).unwrap()];
        writer.attribute(StunAttribute::ERROR_CODE, &[&number, reason.as_bytes()].concat());
        writer
    }
}

/// The right answer to a request of somebody else.
fn to_another() -> Vec<u8> {
    let mut writer = StunWriter::new(StunClass::Success, StunMethod::BINDING, TransactionId([7; 12]));
    writer.xor_address(StunAttribute::XOR_MAPPED_ADDRESS, "198.51.100.1:1".parse().unwrap());
    writer.finish_with_fingerprint().unwrap()
}

type Script = dyn Fn(&Asked<'_>) -> Vec<Vec<u8>> + Send + Sync;

/// A server that answers what a script says, over UDP and TCP, at one port.
struct StunServer {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<Vec<u8>>>>,
    tasks: [JoinHandle<()>; 2],
}

impl Drop for StunServer {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// Keeps a request, and says how many there were before.
fn keep(requests: &Mutex<Vec<Vec<u8>>>, request: &[u8]) -> usize {
    let mut requests = requests.lock().unwrap();
    requests.push(request.to_vec());
    requests.len() - 1
}

impl StunServer {
    async fn start(script: impl Fn(&Asked<'_>) -> Vec<Vec<u8>> + Send + Sync + 'static) -> Self {
        Self::at("127.0.0.1", Arc::new(script)).await
    }

    async fn good() -> Self {
        Self::start(|asked| vec![asked.mapped()]).await
    }

    async fn at(ip: &str, script: Arc<Script>) -> Self {
        let requests = Arc::<Mutex<Vec<Vec<u8>>>>::default();
        let (listener, socket) = loop {
            let listener = TcpListener::bind(format!("{ip}:0")).await.unwrap();
            if let Ok(socket) = UdpSocket::bind(listener.local_addr().unwrap()).await {
                break (listener, socket);
            }
        };
        let address = listener.local_addr().unwrap();
        let (of_udp, seen) = (Arc::clone(&script), Arc::clone(&requests));
        let udp = tokio::spawn(async move {
            let mut buffer = vec![0; 65536];
            while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
                let bytes = &buffer[..length];
                for datagram in of_udp(&Asked { bytes, before: keep(&seen, bytes), from }) {
                    let _ = socket.send_to(&datagram, from).await;
                }
            }
        });
        let seen = Arc::clone(&requests);
        let tcp = tokio::spawn(async move {
            while let Ok((mut stream, from)) = listener.accept().await {
                let (script, seen) = (Arc::clone(&script), Arc::clone(&seen));
                tokio::spawn(async move {
                    let mut bytes = [0; 28];
                    stream.read_exact(&mut bytes).await?;
                    let before = keep(&seen, &bytes);
                    for message in script(&Asked { bytes: &bytes, before, from }) {
                        stream.write_all(&message).await?;
                    }
                    stream.read_exact(&mut bytes).await?;
                    std::io::Result::Ok(())
                });
            }
        });
        Self { address, requests, tasks: [udp, tcp] }
    }

    fn url(&self, transport: &str) -> String {
        format!("stun:{}{transport}", self.address)
    }

    async fn probe(&self, transport: &str, options: Value) -> Probed {
        Probed::of(json!({ "type": "Stun", "url": self.url(transport), "stun": options })).await
    }

    /// With a timeout that is soon over.
    async fn probe_shortly(&self, transport: &str) -> Probed {
        Probed::of(json!({ "type": "Stun", "url": self.url(transport), "timeout": "1s" })).await
    }

    fn requests(&self) -> Vec<Vec<u8>> {
        self.requests.lock().unwrap().clone()
    }
}

const TRANSPORTS: [&str; 3] = ["", "?transport=udp", "?transport=tcp"];

fn phase(name: &str) -> String {
    format!("probe_stun_duration_seconds{{phase=\"{name}\"}}")
}

/// What is there whatever becomes of a probe.
#[track_caller]
fn has_what_is_always_there(probed: &Probed) {
    for name in PHASES {
        probed.value(&phase(name));
    }
    for family in [
        "probe_stun_error_code",
        "probe_stun_transmissions",
        "probe_stun_mapped_address_hash",
        "probe_dns_lookup_time_seconds",
        "probe_ip_protocol",
        "probe_ip_addr_hash",
        "probe_duration_seconds",
    ] {
        probed.value(family);
    }
}

/// It failed so, with these words, and without an address.
#[track_caller]
fn failed(probed: &Probed, reason: Reason, words: &str) {
    probed.failed(reason);
    assert!(probed.message.contains(words), "{}", probed.message);
    has_what_is_always_there(probed);
    assert_eq!(probed.value("probe_stun_mapped_address_hash"), 0.0);
    assert!(!probed.has("probe_stun_mapped_address_info"));
}

#[tokio::test]
async fn a_server_that_answers_is_good_over_udp_and_tcp() {
    let server = StunServer::good().await;
    for transport in TRANSPORTS {
        let probed = server.probe(transport, json!({})).await;
        probed.succeeded();
        has_what_is_always_there(&probed);
        assert_eq!(probed.value("probe_stun_error_code"), 0.0);
        assert_eq!(probed.value("probe_stun_mapped_address_hash"), 3_668_918_509.0, "that of 127.0.0.1");
        assert_eq!(probed.value("probe_stun_mapped_address_hash"), probed.value("probe_ip_addr_hash"));
        assert_eq!(probed.value("probe_ip_protocol"), 4.0);
        assert!(probed.value("probe_stun_transmissions") >= 1.0);
        assert!(probed.value(&phase("request")) > 0.0);
        assert_eq!(probed.value(&phase("tls")), 0.0);
        assert_eq!(probed.value("probe_call_success{call=\"binding\"}"), 1.0);
        assert!(!probed.has("probe_stun_server_info") && !probed.has("probe_stun_mapped_address_info"));
    }
    for request in server.requests() {
        assert_eq!(request.len(), 28, "a header and a checksum");
        let message = StunMessage::read(&request).unwrap();
        assert_eq!((message.class, message.method), (StunClass::Request, StunMethod::BINDING));
        assert!(message.value(StunAttribute::FINGERPRINT).is_some());
    }
}

#[tokio::test]
async fn a_server_over_tls_is_asked_in_an_encrypted_connection() {
    let certificate = Certificate::good();
    let acceptor = certificate.acceptor();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(async move {
        while let Ok((stream, from)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let mut stream = acceptor.accept(stream).await?;
                let mut bytes = [0; 28];
                stream.read_exact(&mut bytes).await?;
                let answer = Asked { bytes: &bytes, before: 0, from }.mapped();
                // In pieces, as a stream may come.
                for piece in answer.chunks(3) {
                    stream.write_all(piece).await?;
                    stream.flush().await?;
                }
                stream.read_exact(&mut bytes).await?;
                std::io::Result::Ok(())
            });
        }
    });
    let trusted = json!({ "ca": { "configMap": { "name": certificate.ca, "key": "ca.crt" } } });
    for url in [format!("stuns:{address}"), format!("stuns:{address}?transport=tcp")] {
        let probed = Probed::of(json!({ "type": "Stun", "url": url, "tlsConfig": trusted })).await;
        probed.succeeded();
        assert!(probed.value(&phase("tls")) > 0.0);
        assert_eq!(probed.labels("probe_tls_version_info"), "version=\"TLS 1.3\"");
        assert!(probed.has("probe_ssl_earliest_cert_expiry") && probed.has("probe_ssl_last_chain_info"));
        assert_eq!(probed.value("probe_stun_transmissions"), 1.0);
    }
    // Nobody else is trusted, and what was sent is exported nevertheless.
    let probed = Probed::of(json!({ "type": "Stun", "url": format!("stuns:{address}") })).await;
    failed(&probed, Reason::Tls, "");
    assert!(probed.has("probe_ssl_earliest_cert_expiry"));
    assert_eq!(probed.value("probe_stun_transmissions"), 0.0);
    serving.abort();
}

#[tokio::test]
async fn a_server_at_an_ipv6_address_is_probed() {
    let server = StunServer::at("[::1]", Arc::new(|asked: &Asked<'_>| vec![asked.mapped()])).await;
    for transport in TRANSPORTS {
        let probed = server.probe(transport, json!({ "mappedAddress": "Plain", "expectAddress": "::1" })).await;
        probed.succeeded();
        assert_eq!(probed.value("probe_ip_protocol"), 6.0);
        assert_eq!(probed.labels("probe_stun_mapped_address_info"), "address=\"::1\"");
        assert!(!probed.has("probe_stun_mapped_address_hash"));
    }
}

#[tokio::test]
async fn the_address_that_the_server_sees_is_judged() {
    let server = StunServer::start(|asked| {
        let mut writer = asked.answer(StunClass::Success);
        writer.xor_address(StunAttribute::XOR_MAPPED_ADDRESS, "203.0.113.9:4000".parse().unwrap());
        vec![writer.finish().unwrap()]
    })
    .await;
    for expected in ["203.0.113.9", "203.0.113.0/24", "0.0.0.0/0"] {
        let probed = server.probe("", json!({ "expectAddress": expected, "mappedAddress": "Plain" })).await;
        probed.succeeded();
        assert_eq!(probed.labels("probe_stun_mapped_address_info"), "address=\"203.0.113.9\"");
    }
    for expected in ["203.0.113.8", "198.51.100.0/24", "::/0"] {
        let probed = server.probe("?transport=tcp", json!({ "expectAddress": expected })).await;
        probed.failed(Reason::Match);
        assert!(probed.message.contains("came from 203.0.113.9") || probed.message.contains("come from 203.0.113.9"));
        assert!(probed.message.contains("stun.expectAddress wants"), "{}", probed.message);
        assert!(probed.value("probe_stun_mapped_address_hash") > 0.0, "it is exported all the same");
    }
    // Servers of RFC 3489 do not hide the address, and one behind a translator may write IPv4 as IPv6.
    for (kind, value) in [
        (StunAttribute::MAPPED_ADDRESS, vec![0, 1, 0x0f, 0xa0, 203, 0, 113, 9]),
        (StunAttribute::MAPPED_ADDRESS, [&[0, 2, 0x0f, 0xa0][..], &[0; 10], &[255, 255, 203, 0, 113, 9]].concat()),
    ] {
        let server = StunServer::start(move |asked| {
            let mut writer = asked.answer(StunClass::Success);
            writer.attribute(kind, &value);
            vec![writer.finish().unwrap()]
        })
        .await;
        server.probe("", json!({ "expectAddress": "203.0.113.9" })).await.succeeded();
    }
}

#[tokio::test]
async fn the_software_of_a_server_is_one_short_line() {
    for (sent, shown) in [
        (b"Coturn-4.6.1 'Gorst'".to_vec(), "software=\"Coturn-4.6.1 'Gorst'\"".to_owned()),
        (b"a\r\nb\0\0".to_vec(), "software=\"a b\"".to_owned()),
        (vec![b'x'; 3000], format!("software=\"{}\"", "x".repeat(128))),
    ] {
        let server = StunServer::start(move |asked| {
            let mut writer = asked.answer(StunClass::Success);
            writer.xor_address(StunAttribute::XOR_MAPPED_ADDRESS, asked.from).attribute(StunAttribute::SOFTWARE, &sent);
            vec![writer.finish_with_fingerprint().unwrap()]
        })
        .await;
        let probed = server.probe("", json!({})).await;
        probed.succeeded();
        assert_eq!(probed.labels("probe_stun_server_info"), shown);
    }
}

#[tokio::test]
async fn a_server_that_refuses_says_why() {
    for (code, text, reason, words) in [
        (400, "Bad Request", Reason::Response, "error 400"),
        (401, "Unauthorized", Reason::Auth, "error 401: it wants credentials"),
        (300, "Try Alternate", Reason::Response, "another server should be asked"),
        (420, "", Reason::Response, "it does not know the attributes 0x8028"),
        (500, "Oops\r\n\0", Reason::Response, "error 500"),
    ] {
        let server = StunServer::start(move |asked| {
            let mut writer = asked.error(code, text);
            writer.attribute(StunAttribute::UNKNOWN_ATTRIBUTES, &[0x80, 0x28]);
            vec![writer.finish_with_fingerprint().unwrap()]
        })
        .await;
        for transport in ["", "?transport=tcp"] {
            let probed = server.probe(transport, json!({})).await;
            failed(&probed, reason, words);
            assert_eq!(probed.value("probe_stun_error_code"), f64::from(code));
            assert_eq!(probed.value("probe_call_success{call=\"binding\"}"), 0.0);
        }
    }
}

#[tokio::test]
async fn an_answer_that_says_nothing_is_one_of_no_stun_server() {
    let scripts: [(&str, Arc<Script>); 4] = [
        ("without the address", Arc::new(|asked| vec![asked.answer(StunClass::Success).finish().unwrap()])),
        ("without ERROR-CODE", Arc::new(|asked| vec![asked.answer(StunClass::Error).finish().unwrap()])),
        (
            "attribute 0x0020 cannot be read",
            Arc::new(|asked| {
                let mut writer = asked.answer(StunClass::Success);
                writer.attribute(StunAttribute::XOR_MAPPED_ADDRESS, &[0, 1, 0]);
                vec![writer.finish().unwrap()]
            }),
        ),
        (
            "attribute 0x0009 cannot be read",
            Arc::new(|asked| {
                let mut writer = asked.answer(StunClass::Error);
                writer.attribute(StunAttribute::ERROR_CODE, &[0, 0, 9, 1]);
                vec![writer.finish().unwrap()]
            }),
        ),
    ];
    for (words, script) in scripts {
        let server = StunServer::at("127.0.0.1", script).await;
        for transport in ["", "?transport=tcp"] {
            failed(&server.probe(transport, json!({})).await, Reason::Protocol, words);
        }
    }
}

#[tokio::test]
async fn a_lost_request_is_sent_again_with_the_same_bytes() {
    let server = StunServer::start(|asked| if asked.before < 2 { Vec::new() } else { vec![asked.mapped()] }).await;
    let start = Instant::now();
    let probed = server.probe("", json!({})).await;
    probed.succeeded();
    assert!(probed.value("probe_stun_transmissions") >= 3.0);
    assert!(start.elapsed() >= Duration::from_millis(1500), "half a second, then one");
    let requests = server.requests();
    assert!(requests.len() >= 3 && requests.iter().all(|request| *request == requests[0]));
    // Over TCP nothing is lost: a server that is silent is asked once.
    let silent = StunServer::start(|_| Vec::new()).await;
    let probed = silent.probe_shortly("?transport=tcp").await;
    failed(&probed, Reason::Timeout, "no answer over TCP in time");
    assert_eq!((probed.value("probe_stun_transmissions"), silent.requests().len()), (1.0, 1));
}

#[tokio::test]
async fn a_silent_server_is_a_timeout() {
    let silent = StunServer::start(|_| Vec::new()).await;
    let probed = silent.probe_shortly("").await;
    failed(&probed, Reason::Timeout, "no answer over UDP to a request that was sent 2 times in time");
    assert_eq!(probed.value("probe_stun_transmissions"), 2.0);
    assert!(probed.value(&phase("request")) > 0.5);
}

#[tokio::test]
async fn a_port_that_refuses_is_told_at_once() {
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    for transport in TRANSPORTS {
        let probed = Probed::of(json!({ "type": "Stun", "url": format!("stun:{port}{transport}") })).await;
        failed(&probed, Reason::Connect, "refused");
    }
    let probed = Probed::of(json!({ "type": "Stun", "url": "stun:no-such-host.invalid" })).await;
    failed(&probed, Reason::Dns, "");
    assert_eq!((probed.value("probe_ip_protocol"), probed.value("probe_stun_transmissions")), (0.0, 0.0));
}

#[tokio::test]
async fn answers_to_others_and_garbage_do_not_keep_the_right_one_from_being_read() {
    let server = StunServer::start(|asked| {
        let mut changed = asked.mapped();
        *changed.last_mut().unwrap() ^= 1;
        let mut of_another_method =
            StunWriter::new(StunClass::Success, StunMethod::ALLOCATE, asked.message().transaction);
        of_another_method.xor_address(StunAttribute::XOR_MAPPED_ADDRESS, "198.51.100.1:1".parse().unwrap());
        vec![
            to_another(),
            asked.bytes.to_vec(),
            of_another_method.finish().unwrap(),
            b"\x40\x00\x00\x04data".to_vec(),
            changed,
            asked.mapped()[..24].to_vec(),
            b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(),
            Vec::new(),
            vec![0; 60_000],
            asked.mapped(),
        ]
    })
    .await;
    let probed = server.probe("", json!({ "expectAddress": "127.0.0.1" })).await;
    probed.succeeded();
}

#[tokio::test]
async fn without_the_right_answer_it_is_told_what_came_instead() {
    let cases: [(Reason, &str, Arc<Script>); 6] = [
        (Reason::Timeout, "the last of them an answer to another transaction", Arc::new(|_| vec![to_another()])),
        (Reason::Timeout, "the last of them a request or indication", Arc::new(|asked| vec![asked.bytes.to_vec()])),
        (
            Reason::Protocol,
            "a wrong FINGERPRINT",
            Arc::new(|asked| {
                let mut changed = asked.mapped();
                *changed.last_mut().unwrap() ^= 1;
                vec![changed]
            }),
        ),
        (
            Reason::Protocol,
            "a truncated STUN message of 36 bytes",
            Arc::new(|asked| vec![asked.mapped()[..36].to_vec()]),
        ),
        (Reason::Protocol, "no magic cookie", Arc::new(|_| vec![vec![0; 32]])),
        (Reason::Protocol, "more than 4096 bytes", Arc::new(|_| vec![vec![0; 60_000]])),
    ];
    let mut probes = Vec::new();
    for (reason, words, script) in cases {
        probes.push(async move {
            let server = StunServer::at("127.0.0.1", script).await;
            failed(&server.probe_shortly("").await, reason, words);
        });
    }
    futures::future::join_all(probes).await;
}

#[tokio::test]
async fn what_does_not_come_from_the_server_is_not_seen() {
    // It knows what was asked, and from where, and answers from another port.
    let server = StunServer::start(|asked| {
        let forger = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut writer = asked.answer(StunClass::Success);
        writer.xor_address(StunAttribute::XOR_MAPPED_ADDRESS, "198.51.100.1:1".parse().unwrap());
        forger.send_to(&writer.finish().unwrap(), asked.from).unwrap();
        Vec::new()
    })
    .await;
    let probed = server.probe_shortly("").await;
    failed(&probed, Reason::Timeout, "no answer over UDP");
    assert!(!probed.message.contains("other messages"), "{}", probed.message);
}

/// An answer without attributes to a transaction that nobody began.
const TO_NOBODY: [u8; 20] = [0x01, 0x01, 0, 0, 0x21, 0x12, 0xa4, 0x42, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9];

#[tokio::test]
async fn a_flood_ends_the_probe_and_delays_no_other() {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let flooding = tokio::spawn(async move {
        let mut buffer = [0; 100];
        let (_, from) = socket.recv_from(&mut buffer).await.unwrap();
        loop {
            let _ = socket.send_to(&TO_NOBODY, from).await;
            tokio::task::yield_now().await;
        }
    });
    let actor = Actor::start([Act::Endless(TO_NOBODY.to_vec())]).await;
    let good = StunServer::good().await;
    for url in [format!("stun:{address}"), format!("stun:{}?transport=tcp", actor.address)] {
        let flooded = Probed::of(json!({ "type": "Stun", "url": url }));
        let (flooded, other) = tokio::join!(flooded, good.probe("", json!({})));
        failed(&flooded, Reason::Protocol, "1000 messages that are no answer to the request");
        other.succeeded();
    }
    flooding.abort();
}

#[tokio::test]
async fn streams_that_mean_ill_end_with_a_reason() {
    let head = [0x01, 0x01, 0, 12, 0x21, 0x12, 0xa4, 0x42].to_vec();
    for (acts, reason, words) in [
        (vec![], Reason::Connect, "closed the connection without an answer"),
        (vec![Act::Say(head.clone())], Reason::Protocol, "after 8 bytes of 32 of a message"),
        (vec![Act::Say(vec![1])], Reason::Protocol, "after 1 bytes of a message"),
        (vec![Act::Say(vec![0x01, 0x01, 0, 13])], Reason::Protocol, "length is 13, which is no multiple of 4"),
        (
            vec![Act::Say(vec![0x01, 0x01, 0xff, 0xfc])],
            Reason::Protocol,
            "or one of 65552 bytes, of which more than 4096",
        ),
        (vec![Act::Say(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec())], Reason::Protocol, "or one of 21588 bytes"),
        (
            vec![Act::Say(b"SSH-2.0-OpenSSH_9.2\r\n".to_vec())],
            Reason::Protocol,
            "the number 0x5353, which no channel has",
        ),
        (vec![Act::Say(b"\x16\x03\x01\x02".to_vec())], Reason::Protocol, "length is 258"),
        (vec![Act::Endless(vec![0x80])], Reason::Protocol, "its first byte is 0x80"),
        (vec![Act::Endless(vec![0])], Reason::Protocol, "no magic cookie"),
    ] {
        let actor = Actor::start(acts).await;
        let probed =
            Probed::of(json!({ "type": "Stun", "url": format!("stun:{}?transport=tcp", actor.address) })).await;
        failed(&probed, reason, words);
    }
    for (acts, words) in [(vec![Act::Hang], "over TCP in time"), (vec![Act::Say(head), Act::Hang], "over TCP in time")]
    {
        let actor = Actor::start(acts).await;
        let url = format!("stun:{}?transport=tcp", actor.address);
        let probed = Probed::of(json!({ "type": "Stun", "url": url, "timeout": "1s" })).await;
        failed(&probed, Reason::Timeout, words);
    }
    // A server without TLS, and one that does not answer the handshake.
    let actor = Actor::start([Act::Say(b"no TLS at all".to_vec())]).await;
    let probed = Probed::of(json!({ "type": "Stun", "url": format!("stuns:{}", actor.address) })).await;
    failed(&probed, Reason::Tls, "");
}

/// The service with targets of these urls, by their names.
async fn service(urls: &[(&str, String)], flags: &[&str]) -> (Running, TempDir) {
    let targets = urls.iter().map(|(name, url)| {
        format!(
            "---\napiVersion: scrapetarget.dev/v1alpha1\nkind: ScrapeTarget\nmetadata: {{ name: {name}, namespace: media }}\n\
             spec: {{ type: Stun, url: \"{url}\", interval: 1h, timeout: 5s, monitor: {{ instance: Url }} }}\n"
        )
    });
    let folder = folder_with([("targets.yaml", targets.collect::<String>().as_str())]);
    (Running::ready(&folder.path().join("targets.yaml"), flags).await, folder)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rules_of_the_operator_hold_for_these_urls() {
    let server = StunServer::good().await;
    let port = server.address.port();
    let urls = ["", "?transport=tcp"].map(|transport| format!("stun:127.0.0.1:{port}{transport}"));
    let named = format!("stun:localhost:{port}");
    let [udp, tcp] = urls;
    for (flags, refusal) in [
        (&["--target-deny-cidr", "127.0.0.0/8"][..], "--target-deny-cidr"),
        (&["--target-allow-cidr", "10.0.0.0/8"], "--target-allow-cidr"),
        (&["--target-allow-host", "*.example.com"], "--target-allow-host"),
    ] {
        let (running, _folder) =
            service(&[("udp", udp.clone()), ("tcp", tcp.clone()), ("named", named.clone())], flags).await;
        for name in ["udp", "tcp", "named"] {
            let text = running.body(&format!("/probe?target=media/{name}&debug=true")).await;
            assert!(text.contains("reason        config") && text.contains(refusal), "{flags:?} {text}");
        }
    }
    // Whatever is allowed: these are no destinations.
    let never = ["169.254.169.254", "224.0.0.1", "255.255.255.255", "0.0.0.1", "[ff02::1]", "[fe80::1]", "[::]"];
    let targets: Vec<(String, String)> =
        never.iter().enumerate().map(|(n, host)| (format!("n{n}"), format!("stun:{host}"))).collect();
    let targets: Vec<(&str, String)> = targets.iter().map(|(name, url)| (name.as_str(), url.clone())).collect();
    let (running, _folder) =
        service(&targets, &["--target-allow-cidr", "0.0.0.0/0", "--target-allow-cidr", "::/0"]).await;
    for (name, url) in &targets {
        let text = running.body(&format!("/probe?target=media/{name}&debug=true")).await;
        assert!(text.contains("reason        config") && text.contains("always denied"), "{url}: {text}");
    }
    assert_eq!(server.requests().len(), 0, "nobody was asked");
    for flags in [&["--target-allow-cidr", "127.0.0.0/8"][..], &["--target-allow-host", "localhost"]] {
        let (running, _folder) = service(&[("named", named.clone())], flags).await;
        let text = running.body("/probe?target=media/named").await;
        assert!(text.contains("\nprobe_success 1\n"), "{flags:?} {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn people_see_the_url_as_it_was_written() {
    let server = StunServer::good().await;
    let url = server.url("?transport=tcp");
    let (running, _folder) = service(&[("written", url.clone())], &["--log-level", "trace"]).await;
    let encoded: String = url::form_urlencoded::byte_serialize(url.as_bytes()).collect();
    let debug = running.body(&format!("/probe?target={encoded}&debug=true")).await;
    for line in [format!("  url           {url}\n"), format!("  binding of {url}\n"), "probe_success 1\n".to_owned()] {
        assert!(debug.contains(&line), "{line} in {debug}");
    }
    for path in ["/", "/api/v1/targets", "/sd"] {
        let text = running.body(path).await;
        assert!(text.contains(&url) && !text.contains("stun://"), "{path}: {text}");
    }
    assert!(running.body("/sd").await.contains(&format!("\"instance\":\"{url}\"")));
    assert!(debug.lines().all(|line| !line.contains("stun://")), "{debug}");
    assert!(!running.log().contains("stun://") && running.log().contains(&url));
    // A form that nobody wrote leads nowhere.
    let other: String = url::form_urlencoded::byte_serialize(url.replace("stun:", "stun://").as_bytes()).collect();
    assert_eq!(running.get(&format!("/probe?target={other}")).await.unwrap().0, 404);
}

#[test]
fn what_makes_no_sense_is_refused() {
    let mistakes = |url: &str, more: Value| {
        let mut spec = json!({ "type": "Stun", "url": url });
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        mistakes_in(&spec)
    };
    for url in [
        "stun:host",
        "stun:host:3478",
        "stun:192.0.2.1",
        "stun:[2001:db8::1]",
        "stun:[2001:db8::1]:80?transport=tcp",
        "stun:host?transport=udp",
        "stuns:host",
        "stuns:host:443?transport=tcp",
    ] {
        assert!(mistakes(url, json!({})).is_empty(), "{url}");
    }
    for url in [
        "stun://host",
        "stun:",
        "stun::3478",
        "stun:host:",
        "stun:host:0",
        "stun:host:70000",
        "stun:host/",
        "stun:user@host",
        "stun:host?transport=sctp",
        "stun:host?transport=tcp&a=b",
        "stun:host#a",
        "STUN:host",
        "stun:2001:db8::1",
        "stun:[::ffff:1.2.3.4]",
        "stun:[::ffff:102:304]",
        "stun:[1::2::3]",
        "stun:1.2.3",
        "stun:b\u{fc}cher.example",
        "stuns:host?transport=udp",
        "http://host/",
        "host",
    ] {
        assert_eq!(mistakes(url, json!({})), ["spec.url"], "{url}");
    }
    for (more, path) in [
        (json!({ "tlsConfig": { "insecureSkipVerify": true } }), "spec.tlsConfig"),
        (json!({ "proxyUrl": "http://proxy:3128" }), "spec.proxyUrl"),
        (json!({ "headers": [{ "name": "a", "value": "b" }] }), "spec.headers"),
        (json!({ "members": { "dns": {} } }), "spec.members"),
        (json!({ "stun": { "expectAddress": "host" } }), "spec.stun.expectAddress"),
        (json!({ "stun": { "expectAddress": "10.0.0.0/33" } }), "spec.stun.expectAddress"),
        (json!({ "stun": { "mappedAddress": "Hidden" } }), "spec.stun.mappedAddress"),
        (json!({ "stun": { "expectAdress": "10.0.0.0/8" } }), "spec.stun.expectAdress"),
        (json!({ "tcp": {} }), "spec.tcp"),
    ] {
        assert_eq!(mistakes("stun:host", more.clone()), [path], "{more}");
    }
    assert!(mistakes("stuns:host", json!({ "tlsConfig": { "insecureSkipVerify": true } })).is_empty());
}
