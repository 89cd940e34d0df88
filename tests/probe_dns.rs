//! Type Dns against servers that follow a script: what is asked, how replies are judged, and servers that mean ill.

#![expect(clippy::unwrap_used, reason = "a test may")]

mod support;

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use scrapetarget_exporter::kind::Reason;
use serde_json::{Value, json};
use support::eventually::{PATIENCE, eventually};
use support::probing::{Act, Actor, Certificate, Probed};
use support::{namespaces, tools};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinHandle;

const PHASES: [&str; 3] = ["resolve", "connect", "request"];
const AUTHORITATIVE: u16 = 0x0400;
const TRUNCATED: u16 = 0x0200;
const VERIFIED: u16 = 0x0020;
const SERVFAIL: u16 = 2;
const NXDOMAIN: u16 = 3;
const REFUSED: u16 = 5;

/// A record: its owner, type, seconds to live and data.
fn record(owner: &[u8], number: u16, seconds_to_live: u32, data: &[u8]) -> Vec<u8> {
    let mut record = owner.to_vec();
    record.extend_from_slice(&number.to_be_bytes());
    record.extend_from_slice(&[0, 1]);
    record.extend_from_slice(&seconds_to_live.to_be_bytes());
    record.extend_from_slice(&u16::try_from(data.len()).unwrap().to_be_bytes());
    record.extend_from_slice(data);
    record
}

/// The name of the question, by a pointer to it.
const ASKED: &[u8] = &[0xc0, 12];

fn a(seconds_to_live: u32, last: u8) -> Vec<u8> {
    record(ASKED, 1, seconds_to_live, &[127, 0, 0, last])
}

fn ns(host: &str) -> Vec<u8> {
    record(ASKED, 2, 7200, &name(host))
}

fn name(text: &str) -> Vec<u8> {
    let labels = text.trim_end_matches('.').split('.').filter(|label| !label.is_empty());
    let mut name: Vec<u8> =
        labels.flat_map(|label| [&[u8::try_from(label.len()).unwrap()], label.as_bytes()].concat()).collect();
    name.push(0);
    name
}

/// The question of a query, without what follows it.
fn question(query: &[u8]) -> &[u8] {
    let mut at = 12;
    while query[at] != 0 {
        at += 1 + usize::from(query[at]);
    }
    &query[12..at + 5]
}

fn reply(query: &[u8], flags: u16, sections: [&[Vec<u8>]; 3]) -> Vec<u8> {
    let mut reply = query[..2].to_vec();
    reply.extend_from_slice(&(0x8000 | flags).to_be_bytes());
    reply.extend_from_slice(&[0, 1]);
    for section in sections {
        reply.extend_from_slice(&u16::try_from(section.len()).unwrap().to_be_bytes());
    }
    reply.extend_from_slice(question(query));
    reply.extend(sections.into_iter().flatten().flatten());
    reply
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Over {
    Udp,
    Tcp,
}

/// The queries that came.
type Asked = Vec<(Over, Vec<u8>)>;

type Script = dyn Fn(&[u8], Over) -> Vec<Vec<u8>> + Send + Sync;

/// A server that gives what a script says, over UDP and TCP, at one port.
struct NameServer {
    address: SocketAddr,
    asked: Arc<Mutex<Asked>>,
    tasks: [JoinHandle<()>; 2],
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl NameServer {
    async fn start(script: impl Fn(&[u8], Over) -> Vec<Vec<u8>> + Send + Sync + 'static) -> Self {
        Self::at("127.0.0.1", Arc::new(script)).await
    }

    async fn at(ip: &str, script: Arc<Script>) -> Self {
        let asked = Arc::<Mutex<Asked>>::default();
        let (listener, socket) = loop {
            let listener = TcpListener::bind(format!("{ip}:0")).await.unwrap();
            if let Ok(socket) = UdpSocket::bind(listener.local_addr().unwrap()).await {
                break (listener, socket);
            }
        };
        let address = listener.local_addr().unwrap();
        let (of_udp, seen) = (Arc::clone(&script), Arc::clone(&asked));
        let udp = tokio::spawn(async move {
            let mut buffer = vec![0; 65536];
            while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
                seen.lock().unwrap().push((Over::Udp, buffer[..length].to_vec()));
                for datagram in of_udp(&buffer[..length], Over::Udp) {
                    let _ = socket.send_to(&datagram, from).await;
                }
            }
        });
        let seen = Arc::clone(&asked);
        let tcp = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (script, seen) = (Arc::clone(&script), Arc::clone(&seen));
                tokio::spawn(async move {
                    while let Ok(length) = stream.read_u16().await {
                        let mut query = vec![0; usize::from(length)];
                        stream.read_exact(&mut query).await?;
                        seen.lock().unwrap().push((Over::Tcp, query.clone()));
                        for message in script(&query, Over::Tcp) {
                            stream.write_u16(u16::try_from(message.len()).unwrap()).await?;
                            stream.write_all(&message).await?;
                        }
                    }
                    std::io::Result::Ok(())
                });
            }
        });
        Self { address, asked, tasks: [udp, tcp] }
    }

    /// Probes it for `example.com`, with these options.
    async fn probe(&self, query: &str, options: Value) -> Probed {
        Probed::of(
            json!({ "type": "Dns", "url": format!("dns://{}/example.com{query}", self.address), "dns": options }),
        )
        .await
    }

    /// The same with a timeout that is soon over.
    async fn probe_shortly(&self, options: Value) -> Probed {
        let url = format!("dns://{}/example.com?type=A", self.address);
        Probed::of(json!({ "type": "Dns", "url": url, "dns": options, "timeout": "2s" })).await
    }

    fn asked(&self) -> Asked {
        self.asked.lock().unwrap().clone()
    }
}

fn phase(name: &str) -> String {
    format!("probe_dns_duration_seconds{{phase=\"{name}\"}}")
}

/// What is there whatever becomes of a probe.
#[track_caller]
fn has_what_is_always_there(probed: &Probed) {
    for name in PHASES {
        probed.value(&phase(name));
    }
    for family in [
        "probe_dns_answer_rrs",
        "probe_dns_authority_rrs",
        "probe_dns_additional_rrs",
        "probe_dns_query_succeeded",
        "probe_dns_lookup_time_seconds",
        "probe_ip_protocol",
        "probe_duration_seconds",
    ] {
        probed.value(family);
    }
}

/// No reply: everything about one is 0 or not there.
#[track_caller]
fn has_no_reply(probed: &Probed) {
    has_what_is_always_there(probed);
    for family in [
        "probe_dns_answer_rrs",
        "probe_dns_authority_rrs",
        "probe_dns_additional_rrs",
        "probe_dns_query_succeeded",
        "probe_dns_answer_hash",
    ] {
        assert_eq!(probed.value(family), 0.0, "{family}");
    }
    for family in ["probe_dns_rcode", "probe_dns_flag", "probe_dns_serial"] {
        assert!(!probed.has(family), "{family}");
    }
}

/// Options of each transport, and how the server is asked then.
fn transports() -> [(Over, &'static str); 2] {
    [(Over::Udp, "udp"), (Over::Tcp, "tcp")]
}

fn with(options: &Value, transport: &str) -> Value {
    let mut options = options.clone();
    options["transportProtocol"] = transport.into();
    options
}

#[tokio::test]
async fn answers_of_a_recursive_server_are_judged() {
    let cases = [
        (json!({}), None),
        (json!({ "validRcodes": ["SERVFAIL", "NXDOMAIN"] }), Some(Reason::Response)),
        (
            json!({ "validateAnswerRrs": { "failIfMatchesRegexp": [".*7200.*"], "failIfNotMatchesRegexp": [".*3600.*"] } }),
            None,
        ),
        (
            json!({ "validateAuthorityRrs": { "failIfMatchesRegexp": [".*7200.*"] }, "validateAnswerRrs": { "failIfNotMatchesRegexp": [".*7200.*"] } }),
            Some(Reason::Match),
        ),
        (json!({ "validateAnswerRrs": { "failIfNotMatchesRegexp": ["127.0.0.1"] } }), Some(Reason::Match)),
        (json!({ "validateAnswerRrs": { "failIfNoneMatchesRegexp": ["127.0.0.1"] } }), None),
        (json!({ "validateAnswerRrs": { "failIfNoneMatchesRegexp": ["127.0.0.9"] } }), Some(Reason::Match)),
        (json!({ "validateAnswerRrs": { "failIfAllMatchRegexp": [".*127.0.0.*"] } }), None),
        (json!({ "validateAnswerRrs": { "failIfAllMatchRegexp": ["127.0.0.1"] } }), Some(Reason::Match)),
    ];
    let server = NameServer::start(|query, _| vec![reply(query, 0x0080, [&[a(3600, 1), a(3600, 2)], &[], &[]])]).await;
    for (over, transport) in transports() {
        for (options, reason) in &cases {
            let probed = server.probe("?type=A", with(options, transport)).await;
            match reason {
                None => probed.succeeded(),
                Some(reason) => probed.failed(*reason),
            }
            has_what_is_always_there(&probed);
            assert_eq!(probed.value("probe_dns_answer_rrs"), 2.0, "{options}");
            assert_eq!(probed.value("probe_dns_query_succeeded"), 1.0, "judged badly or not: {options}");
        }
        assert!(server.asked().iter().any(|(by, _)| *by == over));
    }
}

#[tokio::test]
async fn every_section_of_an_authoritative_reply_is_judged_by_its_own_rules() {
    let cases = [
        (json!({}), None),
        (json!({ "validRcodes": ["SERVFAIL", "NXDOMAIN"] }), Some(Reason::Response)),
        (
            json!({ "validateAuthorityRrs": { "failIfMatchesRegexp": [".*3600.*"], "failIfNotMatchesRegexp": [".*7200.*"] } }),
            None,
        ),
        (json!({ "validateAuthorityRrs": { "failIfMatchesRegexp": [".*7200.*"] } }), Some(Reason::Match)),
        (json!({ "validateAuthorityRrs": { "failIfNotMatchesRegexp": ["ns1"] } }), Some(Reason::Match)),
        (json!({ "validateAuthorityRrs": { "failIfAllMatchRegexp": ["\\tNS\\tns[12]\\.isp\\.net\\.$"] } }), None),
        (json!({ "validateAdditionalRrs": { "failIfNotMatchesRegexp": [".*127.0.0.*"] } }), None),
        (json!({ "validateAdditionalRrs": { "failIfMatchesRegexp": [".*127.0.0.*"] } }), Some(Reason::Match)),
        (json!({ "validateAdditionalRrs": { "failIfMatchesRegexp": [".*127.0.0.3.*"] } }), None),
        (json!({ "validateAdditionalRrs": { "failIfNoneMatchesRegexp": ["127.0.0.3"] } }), Some(Reason::Match)),
        (
            json!({ "validateAnswerRrs": { "failIfMatchesRegexp": ["^example\\.com\\.\\t3600\\tIN\\tA\\t127\\.0\\.0\\.1$"] } }),
            Some(Reason::Match),
        ),
    ];
    let server = NameServer::start(|query, _| {
        let glue = ["ns1.isp.net.", "ns2.isp.net."].map(|host| record(&name(host), 1, 7200, &[127, 0, 0, 1]));
        vec![reply(query, AUTHORITATIVE, [&[a(3600, 1)], &[ns("ns1.isp.net"), ns("ns2.isp.net")], &glue])]
    })
    .await;
    for (_, transport) in transports() {
        for (options, reason) in &cases {
            let probed = server.probe("?type=A", with(options, transport)).await;
            match reason {
                None => probed.succeeded(),
                Some(reason) => probed.failed(*reason),
            }
            let counts =
                ["answer", "authority", "additional"].map(|section| probed.value(&format!("probe_dns_{section}_rrs")));
            assert_eq!(counts, [1.0, 2.0, 2.0]);
            assert_eq!(probed.value("probe_dns_flag{flag=\"aa\"}"), 1.0);
        }
    }
}

#[tokio::test]
async fn a_code_that_is_no_success_can_be_the_right_one() {
    let server = NameServer::start(|query, _| vec![reply(query, SERVFAIL, [&[], &[], &[]])]).await;
    for (_, transport) in transports() {
        let probed = server.probe("", with(&json!({}), transport)).await;
        probed.failed(Reason::Response);
        assert!(probed.message.contains("SERVFAIL, and dns.validRcodes wants NOERROR"), "{}", probed.message);
        assert_eq!((probed.value("probe_dns_rcode"), probed.value("probe_dns_query_succeeded")), (2.0, 1.0));
        let either = json!({ "validRcodes": ["SERVFAIL", "NXDOMAIN"] });
        server.probe("", with(&either, transport)).await.succeeded();
        for (rule, reason) in [
            ("failIfNotMatchesRegexp", Some(Reason::Match)),
            ("failIfNoneMatchesRegexp", Some(Reason::Match)),
            ("failIfAllMatchRegexp", None),
            ("failIfMatchesRegexp", None),
        ] {
            let mut options = with(&either, transport);
            options["validateAnswerRrs"] = json!({ rule: ["."] });
            assert_eq!(server.probe("", options).await.reason, reason, "{rule} where there is no record");
        }
    }
}

#[tokio::test]
async fn the_query_asks_what_the_target_says() {
    let server = NameServer::start(|query, _| vec![reply(query, VERIFIED, [&[], &[], &[]])]).await;
    server.probe("", json!({})).await.succeeded();
    server.probe("?type=TXT&class=CH", json!({ "recursionDesired": false })).await.succeeded();
    let options = json!({ "queryName": ".", "queryType": "NS", "edns": { "do": true } });
    let root = json!({ "type": "Dns", "url": format!("dns://{}", server.address), "dns": options });
    let probed = Probed::of(root).await;
    probed.succeeded();
    assert_eq!(probed.value("probe_dns_flag{flag=\"ad\"}"), 1.0);
    let [first, second, third] = <[_; 3]>::try_from(server.asked()).unwrap().map(|(_, query)| query);
    let question = |name: &str, number: u8, class: u8| [name.as_bytes(), &[0, 0, number, 0, class]].concat();
    assert_eq!(first[2..12], [1, 0, 0, 1, 0, 0, 0, 0, 0, 0], "recursion desired, and nothing else");
    assert_eq!(first[12..], question("\x07example\x03com", 255, 1));
    assert_eq!(second[2..4], [0, 0]);
    assert_eq!(second[12..], question("\x07example\x03com", 16, 3));
    assert_eq!(third[12..17], question("", 2, 1));
    assert_eq!(third[17..], [0, 0, 41, 4, 208, 0, 0, 128, 0, 0, 0], "EDNS with 1232 bytes and DO");
}

#[tokio::test]
async fn the_hash_of_the_answer_changes_with_the_answer_alone() {
    let asked = Mutex::new(0);
    let server = NameServer::start(move |query, _| {
        let mut asked = asked.lock().unwrap();
        *asked += 1;
        let answer = match *asked {
            1 => vec![a(60, 1), a(60, 2)],
            2 => vec![a(17, 2), a(18, 1)],
            3 => vec![a(60, 1), a(60, 3)],
            _ => vec![],
        };
        vec![reply(query, 0, [&answer, &[ns("other.example.com")], &[]])]
    })
    .await;
    let mut hashes = Vec::new();
    for _ in 0..4 {
        let probed = server.probe("?type=A", json!({})).await;
        probed.succeeded();
        hashes.push(probed.value("probe_dns_answer_hash"));
    }
    // That of "example.com.<TAB>IN<TAB>A<TAB>127.0.0.1" and the same with 127.0.0.2, each with a line feed.
    assert_eq!(hashes[..2], [4_264_847_270.0; 2]);
    assert_ne!(hashes[2], hashes[0]);
    assert_eq!(hashes[3], 0.0);
}

#[tokio::test]
async fn a_type_or_a_class_in_the_url_is_reported_there() {
    for query in ["type=TYPE65536", "type=FOO", "class=XX", "type=A&class=XX"] {
        let url = format!("dns://127.0.0.1/example.com?{query}");
        let spec = json!({ "type": "Dns", "url": url });
        let errors = support::probing::mistakes_in(&spec);
        assert!(!errors.is_empty() && errors.iter().all(|path| path == "spec.url"), "{query}: {errors:?}");
    }
    for (field, value) in [("queryType", "TYPE65536"), ("queryType", "FOO"), ("queryClass", "XX")] {
        let spec = json!({ "type": "Dns", "url": "dns://127.0.0.1/example.com", "dns": { field: value } });
        assert_eq!(support::probing::mistakes_in(&spec), [format!("spec.dns.{field}")]);
    }
}

#[tokio::test]
async fn the_serial_of_a_zone_is_exported_when_it_is_asked_for() {
    let server = NameServer::start(|query, _| {
        let mut data = [name("ns1.example.com"), name("hostmaster.example.com")].concat();
        data.extend([2_026_112_901_u32, 7200, 3600, 1_209_600, 300].into_iter().flat_map(u32::to_be_bytes));
        vec![reply(query, AUTHORITATIVE, [&[record(ASKED, 6, 3600, &data)], &[], &[]])]
    })
    .await;
    let probed = server.probe("?type=SOA", json!({})).await;
    probed.succeeded();
    assert_eq!(probed.value("probe_dns_serial"), 2_026_112_901.0);
    assert!(!server.probe("?type=ANY", json!({})).await.has("probe_dns_serial"));
}

#[tokio::test]
async fn a_name_without_an_address_and_a_port_that_refuses_leave_zeros() {
    let probed = Probed::of(json!({ "type": "Dns", "url": "dns://no-such-host.invalid/example.com" })).await;
    probed.failed(Reason::Dns);
    has_no_reply(&probed);
    assert_eq!(probed.value(&phase("resolve")), 0.0);
    for (_, transport) in transports() {
        let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let spec = json!({ "type": "Dns", "url": format!("dns://{port}/example.com"), "dns": { "transportProtocol": transport } });
        let probed = Probed::of(spec).await;
        probed.failed(Reason::Connect);
        assert!(probed.message.contains("refused"), "{}", probed.message);
        has_no_reply(&probed);
        assert_eq!(probed.value("probe_ip_protocol"), 4.0);
    }
}

#[tokio::test]
async fn the_preferred_version_of_ip_is_taken_if_there_is_one() {
    let script: Arc<Script> = Arc::new(|query: &[u8], _| vec![reply(query, 0, [&[], &[], &[]])]);
    let server = NameServer::at("[::1]", script).await;
    let url = |host: &str| format!("dns://{host}:{}/example.com", server.address.port());
    for (_, transport) in transports() {
        let spec = |host: &str, preferred: &str, fallback: bool| {
            json!({ "type": "Dns", "url": url(host), "preferredIpProtocol": preferred, "ipProtocolFallback": fallback,
                    "dns": { "transportProtocol": transport } })
        };
        let probed = Probed::of(spec("[::1]", "ip6", true)).await;
        probed.succeeded();
        assert_eq!((probed.value("probe_ip_protocol"), probed.value("probe_ip_addr_hash")), (6.0, 1_751_717_746.0));
        Probed::of(spec("[::1]", "ip4", true)).await.succeeded();
        let probed = Probed::of(spec("[::1]", "ip4", false)).await;
        probed.failed(Reason::Dns);
        has_no_reply(&probed);
    }
}

#[tokio::test]
async fn messages_that_are_no_reply_to_the_query_are_passed_over() {
    let server = NameServer::start(|query, over| {
        let right = reply(query, 0, [&[a(60, 1)], &[], &[]]);
        if over == Over::Tcp {
            return vec![right];
        }
        let mut other_id = reply(query, REFUSED, [&[], &[], &[]]);
        other_id[0] ^= 1;
        let mut other_name = reply(query, REFUSED, [&[], &[], &[]]);
        other_name[13] = b'X';
        let mut no_question = right.clone();
        no_question[5] = 0;
        let mut truncated = reply(query, TRUNCATED, [&[a(60, 1)], &[], &[]]);
        truncated[0] ^= 1;
        truncated.truncate(truncated.len() - 3);
        vec![other_id, truncated, other_name, no_question, right]
    })
    .await;
    let probed = server.probe("?type=A", json!({})).await;
    probed.succeeded();
    assert_eq!((probed.value("probe_dns_rcode"), probed.value("probe_dns_answer_rrs")), (0.0, 1.0));
}

#[tokio::test]
async fn a_datagram_that_is_no_message_ends_the_probe_whatever_it_is_a_reply_to() {
    type Spoil = fn(Vec<u8>) -> Vec<u8>;
    let spoiled: [(&str, Spoil); 5] = [
        ("shorter than the header", |_| Vec::new()),
        ("shorter than the header", |_| b"x".to_vec()),
        ("shorter than the header", |mut message| {
            message.truncate(11);
            message
        }),
        ("ends before", |_| b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()),
        ("ends before", |mut message| {
            message[0] ^= 1;
            message.pop();
            message
        }),
    ];
    for (says, spoil) in spoiled {
        let server = NameServer::start(move |query, _| {
            let right = reply(query, 0, [&[a(60, 1)], &[], &[]]);
            vec![spoil(right.clone()), right]
        })
        .await;
        let probed = server.probe("?type=A", json!({})).await;
        probed.failed(Reason::Protocol);
        assert!(probed.message.contains("no valid DNS message") && probed.message.contains(says), "{}", probed.message);
        has_no_reply(&probed);
    }
}

#[tokio::test]
async fn names_are_the_same_in_upper_and_lower_case() {
    let server = NameServer::start(|query, _| {
        let mut reply = reply(query, 0, [&[a(60, 1)], &[], &[]]);
        reply[13..20].make_ascii_uppercase();
        vec![reply]
    })
    .await;
    let lower_case = json!({ "validateAnswerRrs": { "failIfNotMatchesRegexp": ["^EXAMPLE\\.com\\."] } });
    server.probe("?type=A", lower_case).await.succeeded();
}

#[tokio::test]
async fn a_server_that_is_silent_or_says_only_other_things_is_a_timeout() {
    let silent = NameServer::start(|_, _| Vec::new()).await;
    for (_, transport) in transports() {
        let probed = silent.probe_shortly(json!({ "transportProtocol": transport })).await;
        probed.failed(Reason::Timeout);
        has_no_reply(&probed);
    }
    let other = NameServer::start(|query, _| {
        let mut other = reply(query, 0, [&[], &[], &[]]);
        other[1] ^= 255;
        vec![other; 3]
    })
    .await;
    let probed = other.probe_shortly(json!({})).await;
    probed.failed(Reason::Timeout);
    assert!(probed.message.contains("number of another query"), "{}", probed.message);
    let probed = other.probe("", json!({ "transportProtocol": "tcp" })).await;
    probed.failed(Reason::Protocol);
    has_no_reply(&probed);
}

#[tokio::test]
async fn what_cannot_be_read_is_no_reply() {
    type Spoil = fn(&mut Vec<u8>);
    let spoiled: [(&str, Spoil); 9] = [
        ("it is a query", |message| message[2] &= 0x7f),
        ("fewer records", |message| message[7] = 9),
        ("cannot be read", |message| message.truncate(message.len() - 1)),
        ("cannot be read", |message| message[30] = 200),
        // The owner of the record is a pointer to itself, to the next byte, and into two that point to each other.
        ("cannot be read", |message| message[30] = 29),
        ("cannot be read", |message| message[30] = 30),
        ("cannot be read", |message| {
            message.truncate(29);
            message.extend_from_slice(&[0xc0, 31, 0xc0, 29]);
        }),
        ("cannot be read", |message| message[40] = 5),
        ("its question cannot be read", |message| message.truncate(20)),
    ];
    for (says, spoil) in spoiled {
        let server = NameServer::start(move |query, _| {
            let mut message = reply(query, 0, [&[a(60, 1)], &[], &[]]);
            spoil(&mut message);
            vec![message]
        })
        .await;
        for (_, transport) in transports() {
            let probed = server.probe("?type=A", json!({ "transportProtocol": transport })).await;
            probed.failed(Reason::Protocol);
            assert!(probed.message.contains(says), "{says}: {}", probed.message);
            has_no_reply(&probed);
        }
    }
}

/// A server that reads a query over TCP, sends these bytes, and ends the connection.
async fn stream_server(bytes: Vec<u8>) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut query = vec![0; usize::from(stream.read_u16().await.unwrap())];
            stream.read_exact(&mut query).await.unwrap();
            let _ = stream.write_all(&bytes).await;
            let _ = stream.shutdown().await;
        }
    });
    (address, task)
}

#[tokio::test]
async fn a_stream_that_ends_early_says_where() {
    for (bytes, reason, says) in [
        (vec![], Reason::Connect, "without a reply"),
        (vec![0], Reason::Connect, "without a reply"),
        (vec![0, 100, 1, 2, 3], Reason::Protocol, "ended before the 100 bytes"),
        (vec![0, 3, 1, 2, 3], Reason::Protocol, "shorter than the header"),
        (b"HTTP/1.1 400 Bad Request\r\n".repeat(800), Reason::Protocol, "another query"),
    ] {
        let (address, _server) = stream_server(bytes).await;
        let spec = json!({ "type": "Dns", "url": format!("dns://{address}/example.com"), "dns": { "transportProtocol": "tcp" } });
        let probed = Probed::of(spec).await;
        probed.failed(reason);
        assert!(probed.message.contains(says), "{says}: {}", probed.message);
        has_no_reply(&probed);
    }
}

#[tokio::test]
async fn a_truncated_reply_is_judged_as_it_is_or_asked_for_again() {
    let server = NameServer::start(|query, over| match over {
        Over::Udp => {
            let mut cut = reply(query, TRUNCATED, [&[a(60, 1), a(60, 2)], &[], &[]]);
            cut.truncate(cut.len() - 3);
            vec![cut]
        }
        Over::Tcp => vec![reply(query, 0, [&[a(60, 1), a(60, 2), a(60, 3)], &[], &[]])],
    })
    .await;
    let probed = server.probe("?type=A", json!({})).await;
    probed.succeeded();
    assert_eq!((probed.value("probe_dns_flag{flag=\"tc\"}"), probed.value("probe_dns_answer_rrs")), (1.0, 1.0));
    let probed = server.probe("?type=A", json!({ "retryTruncated": true })).await;
    probed.succeeded();
    assert_eq!((probed.value("probe_dns_flag{flag=\"tc\"}"), probed.value("probe_dns_answer_rrs")), (0.0, 3.0));
    let over: Vec<Over> = server.asked().into_iter().map(|(over, _)| over).collect();
    assert_eq!(over, [Over::Udp, Over::Udp, Over::Tcp]);
    let queries = server.asked();
    assert_eq!(queries[1].1, queries[2].1, "the same query");
}

#[tokio::test]
async fn what_is_too_large_is_refused_and_what_is_large_is_read() {
    let many = |count: u8| (0..count).flat_map(|_| (0..=255).map(|last| a(60, last))).collect::<Vec<_>>();
    let server = NameServer::start(move |query, over| {
        let count = if over == Over::Udp { 2 } else { 15 };
        vec![reply(query, 0, [&many(count), &[], &[]])]
    })
    .await;
    let probed = server.probe("?type=A", json!({})).await;
    probed.failed(Reason::Protocol);
    assert!(probed.message.contains("edns.bufferSize"), "{}", probed.message);
    let probed = server.probe("?type=A", json!({ "edns": { "bufferSize": 16384 } })).await;
    probed.succeeded();
    assert_eq!(probed.value("probe_dns_answer_rrs"), 512.0);
    let rules =
        json!({ "failIfNotMatchesRegexp": ["127\\.0\\.0\\.[0-9]+$", "^example"], "failIfMatchesRegexp": ["\\.256$"] });
    let probed = server.probe("?type=A", json!({ "transportProtocol": "tcp", "validateAnswerRrs": rules })).await;
    probed.succeeded();
    assert_eq!(probed.value("probe_dns_answer_rrs"), 3840.0);

    // Two bytes of a pointer are a name of 250 bytes, each of which is written as four.
    let bomb = NameServer::start(|query, _| {
        let long: Vec<u8> = [
            [&[62_u8][..], &[255; 62]].concat(),
            [&[62_u8][..], &[255; 62]].concat(),
            [&[62_u8][..], &[255; 62]].concat(),
            vec![0],
        ]
        .concat();
        let at = 12 + question(query).len() + 12;
        let pointer = (0xc000 | u16::try_from(at).unwrap()).to_be_bytes();
        let first = record(ASKED, 2, 60, &long);
        let mut records = vec![first];
        records.extend(std::iter::repeat_n(record(&pointer, 2, 60, &pointer), 4000));
        vec![reply(query, 0, [&records, &[], &[]])]
    })
    .await;
    let probed = bomb.probe("?type=NS", json!({ "transportProtocol": "tcp" })).await;
    probed.failed(Reason::Limit);
    has_no_reply(&probed);
    server.probe("?type=A", json!({ "transportProtocol": "tcp" })).await.succeeded();
}

#[tokio::test]
async fn over_tls_the_certificate_is_verified_and_told_of() {
    let certificate = Certificate::good();
    let query = [&[1, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], &name("example.com"), &[0, 1, 0, 1]].concat();
    let server = tls_server(&certificate, query).await;
    let spec = json!({ "type": "Dns", "url": format!("dns://{}/example.com?type=A", server.0), "dns": { "dnsOverTLS": true } });
    let probed = Probed::changed(spec.clone(), |target| {
        Arc::make_mut(&mut target.source).connection.tls.ca = Some(certificate.ca.as_bytes().into());
    })
    .await;
    probed.succeeded();
    assert_eq!(probed.value("probe_dns_answer_rrs"), 1.0);
    assert!(probed.has("probe_ssl_earliest_cert_expiry") && probed.has("probe_tls_version_info"));
    let probed = Probed::of(spec).await;
    probed.failed(Reason::Tls);
    has_no_reply(&probed);
    assert!(probed.has("probe_ssl_earliest_cert_expiry") && !probed.has("probe_tls_version_info"));
}

#[tokio::test]
async fn a_server_that_is_silent_over_tls_is_a_timeout_over_tls() {
    let certificate = Certificate::good();
    let server = Actor::with_tls([Act::Tls, Act::Hang], Some(certificate.acceptor())).await;
    let url = format!("dns://{}/example.com?type=A", server.address);
    let spec = json!({ "type": "Dns", "url": url, "dns": { "dnsOverTLS": true }, "timeout": "3s" });
    let probed = Probed::changed(spec, |target| {
        Arc::make_mut(&mut target.source).connection.tls.ca = Some(certificate.ca.as_bytes().into());
    })
    .await;
    probed.failed(Reason::Timeout);
    assert!(probed.message.contains("over TLS"), "{}", probed.message);
    has_no_reply(&probed);
}

/// A server of DNS over TLS that answers each query with one record, and expects this one but for its number.
async fn tls_server(certificate: &Certificate, expected: Vec<u8>) -> (SocketAddr, JoinHandle<()>) {
    let acceptor = certificate.acceptor();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, expected) = (acceptor.clone(), expected.clone());
            tokio::spawn(async move {
                let mut stream = acceptor.accept(stream).await?;
                let mut query = vec![0; usize::from(stream.read_u16().await?)];
                stream.read_exact(&mut query).await?;
                if query[2..] == expected {
                    let message = reply(&query, 0, [&[a(60, 1)], &[], &[]]);
                    stream.write_u16(u16::try_from(message.len()).unwrap()).await?;
                    stream.write_all(&message).await?;
                    stream.flush().await?;
                }
                std::io::Result::Ok(())
            });
        }
    });
    (address, task)
}

#[tokio::test]
async fn the_timeline_tells_the_way_of_the_query() {
    let server = NameServer::start(|query, _| vec![reply(query, NXDOMAIN | AUTHORITATIVE, [&[], &[], &[]])]).await;
    let probed = server.probe("", json!({ "validRcodes": ["NXDOMAIN"] })).await;
    probed.succeeded();
    let shown = probed.snapshot.probe.as_ref().unwrap();
    let events: Vec<String> = shown.events().map(|event| event.text.into()).collect();
    let port = server.address.port();
    assert_eq!(
        events,
        [
            format!("asked port {port} of 127.0.0.1 over UDP"),
            "answered NXDOMAIN with 0 answer, 0 authority and 0 additional records, flags aa".to_owned(),
            "succeeded".to_owned(),
        ]
    );
}

/// Ended with the test.
struct CoreDns(Child);

impl Drop for CoreDns {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const ZONE: &str = r#"
$ORIGIN example.com.
@ 3600 IN SOA ns1 hostmaster 2026112901 7200 3600 1209600 300
@ 3600 IN NS ns1
ns1 3600 IN A 192.0.2.53
www 300 IN CNAME web
web 300 IN A 192.0.2.80
web 300 IN AAAA 2001:db8::80
@ 300 IN MX 10 mail
@ 300 IN TXT "v=spf1 -all" "more \"of\" it"
@ 300 IN CAA 0 issue "letsencrypt.org"
_sip._tcp 300 IN SRV 1 2 5060 web
_443._tcp 300 IN TLSA 3 1 1 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef
@ 300 IN DS 60485 13 2 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef
*.wild 300 IN A 192.0.2.99
"#;

/// `CoreDNS` with a zone, over UDP, TCP and TLS, in namespaces of its own since it needs fixed ports.
#[tokio::test]
async fn a_real_server_is_read_as_it_is() {
    if !namespaces::inside("a_real_server_is_read_as_it_is", &[]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let certificate = Certificate::good();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let zone = file("zone", ZONE);
    let pem = support::probing::pem(&certificate);
    let (chain, key) = (file("chain.pem", &pem), file("key.pem", &certificate.key.serialize_pem()));
    let servers = format!(
        "example.com:53 {{\n file {zone}\n}}\n\
         tls://example.com:853 {{\n tls {chain} {key}\n file {zone}\n}}\n"
    );
    let corefile = file("Corefile", &servers);
    let mut command = Command::new(tools::coredns());
    command.args(["-conf", &corefile]).stdout(Stdio::null()).stderr(Stdio::null());
    let _server = CoreDns(command.spawn().unwrap());
    for port in [53, 853] {
        let connect =
            async || tokio::net::TcpStream::connect(("127.0.0.1", port)).await.map_err(|error| error.to_string());
        eventually(PATIENCE, connect).await;
    }
    let probe = async |query: &str, options: Value| {
        let spec = json!({ "type": "Dns", "url": format!("dns://127.0.0.1/{query}"), "dns": options });
        Probed::changed(spec, |target| {
            Arc::make_mut(&mut target.source).connection.tls.ca = Some(certificate.ca.as_bytes().into());
        })
        .await
    };
    for (query, text) in [
        ("web.example.com?type=A", "^web\\.example\\.com\\.\\t300\\tIN\\tA\\t192\\.0\\.2\\.80$"),
        ("web.example.com?type=AAAA", "\\tAAAA\\t2001:db8::80$"),
        ("example.com?type=MX", "\\tMX\\t10 mail\\.example\\.com\\.$"),
        ("example.com?type=TXT", "\\tTXT\\t\"v=spf1 -all\" \"more \\\\\"of\\\\\" it\"$"),
        ("example.com?type=CAA", "\\tCAA\\t0 issue \"letsencrypt\\.org\"$"),
        ("_sip._tcp.example.com?type=SRV", "\\tSRV\\t1 2 5060 web\\.example\\.com\\.$"),
        ("_443._tcp.example.com?type=TLSA", "\\tTLSA\\t3 1 1 0123456789abcdef"),
        ("example.com?type=DS", "\\tDS\\t60485 13 2 0123456789ABCDEF"),
        (
            "example.com?type=SOA",
            "\\tSOA\\tns1\\.example\\.com\\. hostmaster\\.example\\.com\\. 2026112901 7200 3600 1209600 300$",
        ),
        ("x.wild.example.com?type=A", "^x\\.wild\\.example\\.com\\.\\t300\\tIN\\tA\\t192\\.0\\.2\\.99$"),
    ] {
        for options in [json!({}), json!({ "transportProtocol": "tcp" }), json!({ "dnsOverTLS": true })] {
            let mut options = options;
            options["validateAnswerRrs"] = json!({ "failIfNotMatchesRegexp": [text] });
            let probed = probe(query, options).await;
            probed.succeeded();
            assert_eq!(probed.value("probe_dns_flag{flag=\"aa\"}"), 1.0, "{query}");
        }
    }
    assert_eq!(probe("example.com?type=SOA", json!({})).await.value("probe_dns_serial"), 2_026_112_901.0);
    let probed = probe("www.example.com?type=A", json!({ "edns": { "do": true } })).await;
    probed.succeeded();
    assert_eq!((probed.value("probe_dns_answer_rrs"), probed.value("probe_dns_additional_rrs")), (2.0, 1.0));
    probe("no.example.com?type=A", json!({})).await.failed(Reason::Response);
    probe("no.example.com?type=A", json!({ "validRcodes": ["NXDOMAIN"] })).await.succeeded();
    probe("example.org?type=A", json!({ "validRcodes": ["REFUSED"] })).await.succeeded();
}

#[tokio::test]
async fn a_flood_of_other_datagrams_ends_at_the_deadline_and_others_are_not_held_up() {
    let flood = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
    let address = flood.local_addr().unwrap();
    let task: JoinHandle<()> = tokio::spawn(async move {
        let mut query = [0; 512];
        let (_, from) = flood.recv_from(&mut query).await.unwrap();
        loop {
            let _ = flood.send_to(&[0; 40], from).await;
            tokio::task::yield_now().await;
        }
    });
    let honest = NameServer::start(|query, _| vec![reply(query, 0, [&[], &[], &[]])]).await;
    let spec = json!({ "type": "Dns", "url": format!("dns://{address}/example.com"), "timeout": "500ms" });
    let (flooded, answered) = tokio::join!(Probed::of(spec), honest.probe("", json!({})));
    task.abort();
    flooded.failed(Reason::Timeout);
    answered.succeeded();
    let took = flooded.value("probe_duration_seconds");
    assert!(took < Duration::from_secs(60).as_secs_f64(), "{took}");
}

#[test]
fn the_transport_that_holds_is_shown() {
    for (over_tls, shown) in [(false, "transportProtocol: udp"), (true, "transportProtocol: tcp")] {
        let spec = json!({ "type": "Dns", "url": "dns://192.0.2.1/example.com", "interval": "15s", "dns": { "dnsOverTLS": over_tls } });
        let effective = support::probing::target_of(&spec).effective();
        assert!(effective.contains(shown), "{effective}");
    }
}
