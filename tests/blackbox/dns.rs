//! Rows of the prober for DNS: answers made byte by byte, so that they can be wrong in every way, and a real server beside them.

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;

use rustls::ServerConfig;
use tempfile::TempDir;
use tokio::net::{TcpListener, UdpSocket};

use super::row::Row;
use crate::support::conversation::{Conversation, Conversations};
use crate::support::listener::port_of_nobody_else;
use crate::support::program::Running;
use crate::support::scripted::Blackhole;
use crate::support::tools;

/// A record: its owner as text, its type, its class, its time to live, its data as hex with spaces.
struct Record {
    owner: &'static str,
    kind: u16,
    class: u16,
    data: Vec<u8>,
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

fn name(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in text.split('.').filter(|label| !label.is_empty()) {
        bytes.push(u8::try_from(label.len()).unwrap());
        bytes.extend(label.bytes());
    }
    bytes.push(0);
    bytes
}

/// A record of the class IN. In `data`, `<a.test>` stands for a name and `"text"` for a string with its length; all else is hex.
fn record(owner: &'static str, kind: u16, data: &str) -> Record {
    let mut bytes = Vec::new();
    let mut rest = data;
    while let Some(at) = rest.find(['<', '"']) {
        bytes.extend(hex(&rest[..at]));
        let (inside, after) = rest[at + 1..].split_once(['>', '"']).unwrap();
        if rest[at..].starts_with('<') {
            bytes.extend(name(inside));
        } else {
            bytes.push(u8::try_from(inside.len()).unwrap());
            bytes.extend(inside.bytes());
        }
        rest = after;
    }
    bytes.extend(hex(rest));
    Record { owner, kind, class: 1, data: bytes }
}

/// An answer: its code and flags beside those of every answer, and its sections.
#[derive(Default)]
struct Answer {
    flags: u16,
    sections: [Vec<Record>; 3],
}

impl Answer {
    fn of(records: Vec<Record>) -> Self {
        Self { flags: 0, sections: [records, Vec::new(), Vec::new()] }
    }

    fn code(code: u16) -> Self {
        Self { flags: code, ..Self::default() }
    }

    /// As a message, the answer to this question.
    fn bytes(&self, query: &[u8]) -> Vec<u8> {
        let question = &query[12..query.len()];
        let mut message = query[..2].to_vec();
        // A response; recursion is available, and was desired if it was.
        let flags = 0x8080 | u16::from(query[2] & 1) << 8 | self.flags;
        message.extend(flags.to_be_bytes());
        message.extend([0, 1]);
        for section in &self.sections {
            message.extend(u16::try_from(section.len()).unwrap().to_be_bytes());
        }
        message.extend(question);
        for record in self.sections.iter().flatten() {
            message.extend(name(record.owner));
            message.extend(record.kind.to_be_bytes());
            message.extend(record.class.to_be_bytes());
            message.extend(3600_u32.to_be_bytes());
            message.extend(u16::try_from(record.data.len()).unwrap().to_be_bytes());
            message.extend(&record.data);
        }
        message
    }
}

/// The types of records: the name of one, its number, its data, and how its text ends.
const TYPES: &[(&str, u16, &str, &str)] = &[
    ("A", 1, "c0 00 02 01", "192.0.2.1"),
    ("AAAA", 28, "20010db8 00000000 00000000 00000001", "2001:db8::1"),
    ("NS", 2, "<ns.test>", "ns.test."),
    ("CNAME", 5, "<www.test>", "www.test."),
    (
        "SOA",
        6,
        "<ns.test> <root.test> 789abcde 00001c20 00000e10 00127500 00000e10",
        "ns.test. root.test. 2023406814 7200 3600 1209600 3600",
    ),
    ("PTR", 12, "<host.test>", "host.test."),
    ("HINFO", 13, "\"PC\" \"Linux 6\"", "\"PC\" \"Linux 6\""),
    ("MX", 15, "000a <mail.test>", "10 mail.test."),
    ("TXT", 16, "\"v=spf1 -all\" \"second\"", "\"v=spf1 -all\" \"second\""),
    ("RP", 17, "<admin.test> <text.test>", "admin.test. text.test."),
    ("AFSDB", 18, "0001 <afs.test>", "1 afs.test."),
    ("LOC", 29, "00 12 16 13 8b0d2c8c 7ff8fca5 00989680", "51 30 12.748 N 00 07 39.611 W 0m 1m 10000m 10m"),
    ("SRV", 33, "0001 0002 0050 <www.test>", "1 2 80 www.test."),
    (
        "NAPTR",
        35,
        "0064 000a \"u\" \"E2U+sip\" \"!^.*$!sip:a@b.test!\" <>",
        "100 10 \"u\" \"E2U+sip\" \"!^.*$!sip:a@b.test!\" .",
    ),
    ("CERT", 37, "0001 3039 08 deadbeef", "PKIX 12345 RSASHA256 3q2+7w=="),
    ("DNAME", 39, "<other.test>", "other.test."),
    (
        "DS",
        43,
        "3039 08 02 00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff",
        "12345 8 2 00112233445566778899AABBCCDDEEFF00112233445566778899AABBCCDDEEFF",
    ),
    (
        "SSHFP",
        44,
        "04 02 00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff",
        "4 2 00112233445566778899AABBCCDDEEFF00112233445566778899AABBCCDDEEFF",
    ),
    (
        "RRSIG",
        46,
        "0001 0d 02 00000e10 6a000000 69000000 3039 <test> deadbeef",
        "A 13 2 3600 20260510034816 20251027232800 12345 test. 3q2+7w==",
    ),
    ("NSEC", 47, "<b.test> 00 06 400000000003", "b.test. A RRSIG NSEC"),
    ("DNSKEY", 48, "0101 03 0d deadbeef", "257 3 13 3q2+7w=="),
    ("NSEC3", 50, "01 00 000a 02 abcd 05 0011223344 00 01 40", "1 0 10 ABCD 008I4CQ4 A"),
    ("NSEC3PARAM", 51, "01 00 000a 02 abcd", "1 0 10 ABCD"),
    ("TLSA", 52, "03 01 01 0011aabb", "3 1 1 0011aabb"),
    ("SMIMEA", 53, "03 01 01 0011aabb", "3 1 1 0011aabb"),
    ("CDS", 59, "3039 08 02 0011aabb", "12345 8 2 0011AABB"),
    ("CDNSKEY", 60, "0101 03 0d deadbeef", "257 3 13 3q2+7w=="),
    ("OPENPGPKEY", 61, "deadbeef", "3q2+7w=="),
    ("CSYNC", 62, "00000042 0003 00 04 60000008", "66 3 A NS AAAA"),
    ("SVCB", 64, "0001 <svc.test> 0001 0003 02 6832 0003 0002 01bb", "1 svc.test. alpn=\"h2\" port=\"443\""),
    ("HTTPS", 65, "0001 <> 0001 0006 02 6832 02 6833 0004 0004 c0000201", "1 . alpn=\"h2,h3\" ipv4hint=\"192.0.2.1\""),
    ("SPF", 99, "\"v=spf1 -all\"", "\"v=spf1 -all\""),
    ("URI", 256, "000a 0001 68747470733a2f2f612e746573742f", "10 1 \"https://a.test/\""),
    ("CAA", 257, "00 \"issue\" 63612e74657374", "0 issue \"ca.test\""),
];

/// A type that nobody knows.
const UNKNOWN: (u16, &str, &str) = (65280, "deadbeef", r"\# 4 deadbeef");

/// Names whose labels begin so have an answer of their own.
fn answer(asked: &str, query: &[u8], udp: bool) -> Option<Vec<u8>> {
    let address = |owner| record(owner, 1, "c0 00 02 01");
    let (first, _) = asked.split_once('.').unwrap_or((asked, ""));
    let known = TYPES.iter().find(|(kind, ..)| first == format!("type-{}", kind.to_ascii_lowercase()));
    if let Some((_, number, data, _)) = known {
        return Some(Answer::of(vec![record("x.test", *number, data)]).bytes(query));
    }
    let answer = match first {
        "good" => Answer::of(vec![address("good.test"), record("good.test", 1, "c0 00 02 02")]),
        "unknown" => Answer::of(vec![record("x.test", UNKNOWN.0, UNKNOWN.1)]),
        "odd-text" => Answer::of(vec![record("x.test", 16, "05 22 5c 07 c3 bc 00")]),
        "odd-name" => Answer::of(vec![record("x.test", 5, "04 61 2e 20 ff 04 74657374 00")]),
        "no-data" | "silent" => Answer::default(),
        "formerr" => Answer::code(1),
        "servfail" => Answer::code(2),
        "nxdomain" => Answer {
            flags: 3,
            sections: [
                Vec::new(),
                vec![record("test", 6, "<ns.test> <root.test> 00000001 00000001 00000001 00000001 00000001")],
                Vec::new(),
            ],
        },
        "notimp" => Answer::code(4),
        "refused" => Answer::code(5),
        "code-of-11" => Answer::code(11),
        "authoritative" => Answer { flags: 0x0400, ..Answer::of(vec![address("good.test")]) },
        "truncated" => Answer { flags: 0x0200, ..Answer::of(vec![address("good.test")]) },
        "chain" => Answer::of(vec![
            record("chain.test", 5, "<second.test>"),
            record("second.test", 5, "<third.test>"),
            address("third.test"),
        ]),
        "sections" => Answer {
            flags: 0,
            sections: [
                vec![address("sections.test")],
                vec![record("test", 2, "<ns1.test>"), record("test", 2, "<ns2.test>")],
                vec![
                    address("ns1.test"),
                    address("ns2.test"),
                    record("ns1.test", 28, "20010db8 00000000 00000000 00000001"),
                ],
            ],
        },
        "soa" => Answer::of(vec![record(
            "soa.test",
            6,
            "<ns.test> <root.test> 789abcde 00001c20 00000e10 00127500 00000e10",
        )]),
        "two-soas" => Answer::of(vec![
            record("a.test", 6, "<ns.test> <root.test> 00000007 00001c20 00000e10 00127500 00000e10"),
            record("b.test", 6, "<ns.test> <root.test> 00000008 00001c20 00000e10 00127500 00000e10"),
        ]),
        "soa-below" => Answer {
            flags: 0,
            sections: [
                Vec::new(),
                vec![record("test", 6, "<ns.test> <root.test> 00000009 00000001 00000001 00000001 00000001")],
                Vec::new(),
            ],
        },
        "version" => {
            let mut version = record("version.bind", 16, "\"tests 1.0\"");
            version.class = 3;
            Answer::of(vec![version])
        }
        "long" => Answer::of((0..40).map(|_| record("a-name-with-some-length.test", 1, "c0 00 02 01")).collect()),
        _ => Answer::code(3),
    };
    let mut bytes = answer.bytes(query);
    match first {
        "silent" => return None,
        _ if asked.starts_with("wrong-id") => bytes[0] ^= 0xff,
        "empty" => bytes.clear(),
        "garbage" => bytes = b"this is no message of DNS".to_vec(),
        "half" => bytes.truncate(11),
        "question" => bytes = query.to_vec(),
        "counts" => bytes[7] = 9,
        "loop" => {
            bytes = Answer::of(vec![address("x.test")]).bytes(query);
            let at = query.len();
            bytes.splice(at..at + 8, [0xc0, u8::try_from(at).unwrap()]);
        }
        "long" if udp => {
            bytes = Answer { flags: 0x0200, ..Answer::default() }.bytes(query);
        }
        _ => {}
    }
    Some(bytes)
}

fn asked(query: &[u8]) -> String {
    let mut labels = Vec::new();
    let mut at = 12;
    while query[at] > 0 {
        let end = at + 1 + usize::from(query[at]);
        labels.push(String::from_utf8_lossy(&query[at + 1..end]).to_ascii_lowercase());
        at = end;
    }
    labels.join(".")
}

async fn over_tcp(mut client: Conversation) -> std::io::Result<()> {
    let length = client.bytes(2).await?;
    let query = client.bytes(usize::from(length[0]) << 8 | usize::from(length[1])).await?;
    let asked = asked(&query);
    if asked == "closes.test" {
        return client.end().await;
    }
    let Some(bytes) = answer(&asked, &query, false) else { return client.hang().await };
    let length = u16::try_from(bytes.len()).unwrap();
    client.say(length.to_be_bytes()).await?;
    if asked == "breaks-off.test" {
        client.say(&bytes[..bytes.len() / 2]).await?;
    } else {
        client.say(bytes).await?;
    }
    client.end().await
}

pub async fn over_udp(socket: UdpSocket) {
    let mut packet = [0; 4096];
    // An error is what the kernel heard of a client that had gone away.
    loop {
        let Ok((length, from)) = socket.recv_from(&mut packet).await else { continue };
        let query = &packet[..length];
        let asked = asked(query);
        let Some(bytes) = answer(&asked, query, true) else { continue };
        let _ = socket.send_to(&bytes, from).await;
        // The right one follows.
        if asked == "wrong-id-first.test" {
            let _ = socket.send_to(&Answer::of(vec![record("x.test", 1, "c0 00 02 01")]).bytes(query), from).await;
        }
    }
}

pub struct Servers {
    udp: SocketAddr,
    task: tokio::task::JoinHandle<()>,
    tcp: Conversations,
    tls: Conversations,
    plain: Conversations,
    hole: Blackhole,
    /// Nobody listens there, by UDP or TCP.
    closed: SocketAddr,
    coredns: String,
    _coredns: Running,
    _closed: std::net::UdpSocket,
    _zones: TempDir,
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.task.abort();
    }
}

const ZONE: &str = "\
$ORIGIN real.test.
@ 300 IN SOA ns root 2026010203 7200 3600 1209600 300
@ 300 IN NS ns
ns 300 IN A 192.0.2.53
www 300 IN CNAME host
host 300 IN A 192.0.2.80
host 300 IN AAAA 2001:db8::80
@ 300 IN MX 10 mail
mail 300 IN A 192.0.2.25
@ 300 IN TXT \"v=spf1 mx -all\"
";

impl Servers {
    pub async fn start(tls: Arc<ServerConfig>) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let udp = socket.local_addr().unwrap();
        let task = tokio::spawn(over_udp(socket));
        let tcp = Conversations::start("127.0.0.1", None, over_tcp).await;
        let plain = Conversations::start("127.0.0.1", None, |mut client: Conversation| async move {
            client.bytes(2).await?;
            client.end().await
        })
        .await;
        let tls = Conversations::start("127.0.0.1", Some(tls), over_tcp).await;
        // Bound to another address, so that the port stays free here.
        let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let other = std::net::UdpSocket::bind(("127.0.0.2", nobody.port())).unwrap();
        let zones = TempDir::new().unwrap();
        let port = port_of_nobody_else();
        let mut corefile = String::new();
        let _ = writeln!(corefile, "real.test:{port} {{\n  bind 127.0.0.1\n  file zone\n  errors\n}}");
        fs::write(zones.path().join("Corefile"), corefile).unwrap();
        fs::write(zones.path().join("zone"), ZONE).unwrap();
        let mut command = Command::new(tools::coredns());
        let mut process = Running::spawn({
            command.current_dir(&zones);
            command
        });
        process.wait("its start", |process| process.stdout().contains("CoreDNS-").then_some(()));
        let hole = Blackhole::start([127, 0, 0, 1].into());
        let coredns = format!("127.0.0.1:{port}");
        Self {
            udp,
            task,
            tcp,
            tls,
            plain,
            hole,
            closed: nobody,
            coredns,
            _coredns: process,
            _closed: other,
            _zones: zones,
        }
    }
}

pub fn rows(servers: &Servers) -> Vec<Row> {
    [asked_for(servers), rules(servers), texts(servers)].into_iter().flatten().collect()
}

fn ask(row: &str, server: &dyn ToString, name: &str, options: &str) -> Row {
    Row::new(&format!("dns-{row}"), "dns", &server.to_string(), &format!("query_name: {name}{options}"))
}

impl Servers {
    fn udp(&self, row: &str, name: &str, options: &str) -> Row {
        ask(row, &self.udp, name, &format!(", query_type: A{options}"))
    }
}

/// What a server answers to a question.
fn asked_for(servers: &Servers) -> Vec<Row> {
    let udp = |row: &str, name: &str, options: &str| servers.udp(row, name, options);
    let tcp = |row: &str, name: &str, options: &str| {
        let options = format!(", query_type: A, transport_protocol: tcp{options}");
        ask(&format!("tcp-{row}"), &servers.tcp.address, name, &options)
    };
    let tls = |row: &str, config: &str| {
        let options =
            format!(", query_type: A, transport_protocol: tcp, dns_over_tls: true, tls_config: {{ {config} }}");
        ask(&format!("tls-{row}"), &servers.tls.address, "good.test", &options)
    };
    vec![
        udp("good", "good.test", ""),
        tcp("good", "good.test", ""),
        tls("good", "ca_file: root.pem").differs("TLS of DNS"),
        tls("by-name", "ca_file: root.pem, server_name: server.test").differs("TLS of DNS"),
        tls("other-name", "ca_file: root.pem, server_name: other.test").fails("tls").differs("TLS of DNS"),
        ask(
            "tls-plain-server",
            &servers.plain.address,
            "good.test",
            ", query_type: A, transport_protocol: tcp, dns_over_tls: true, tls_config: { ca_file: root.pem }",
        )
        .fails("tls"),
        ask("any", &servers.udp, "good.test", ""),
        udp("no-recursion", "good.test", ", recursion_desired: false"),
        ask(
            "chaos",
            &servers.udp,
            "version.bind",
            ", query_type: TXT, query_class: CH, \
            validate_answer_rrs: { fail_if_not_matches_regexp: ['^version.bind.\\t3600\\tCH\\tTXT\\t\"tests 1.0\"$'] }",
        ),
        udp("source-address", "good.test", ", source_ip_address: 127.0.0.9"),
        udp("case", "GOOD.test", ""),
        udp("with-the-dot", "good.test.", ""),
        // Codes.
        udp("formerr", "formerr.test", "").fails("response"),
        udp("servfail", "servfail.test", "").fails("response"),
        tcp("servfail", "servfail.test", "").fails("response"),
        udp("nxdomain", "nxdomain.test", "").fails("response"),
        udp("nxdomain-wanted", "nxdomain.test", ", valid_rcodes: [NXDOMAIN]"),
        udp("nxdomain-or-not", "good.test", ", valid_rcodes: [NXDOMAIN, NOERROR]"),
        udp("nxdomain-missed", "good.test", ", valid_rcodes: [NXDOMAIN]").fails("response"),
        udp("notimp", "notimp.test", "").fails("response"),
        udp("refused", "refused.test", "").fails("response"),
        udp("code-of-11", "code-of-11.test", "").fails("response"),
        udp("no-data", "no-data.test", ""),
        udp("authoritative", "authoritative.test", ""),
        udp("truncated", "truncated.test", ""),
        udp("long", "long.test", ""),
        tcp("long", "long.test", ""),
        udp("chain", "chain.test", ""),
        udp("sections", "sections.test", ""),
        // No answer, or none to this question.
        udp("silent", "silent.test", "").times_out(),
        tcp("silent", "silent.test", "").times_out(),
        udp("wrong-id", "wrong-id.test", "").times_out(),
        udp("wrong-id-first", "wrong-id-first.test", ""),
        tcp("wrong-id", "wrong-id.test", "").fails("protocol"),
        udp("empty", "empty.test", "").fails("protocol"),
        tcp("empty", "empty.test", "").fails("protocol"),
        udp("garbage", "garbage.test", "").fails("protocol"),
        tcp("garbage", "garbage.test", "").fails("protocol"),
        udp("half", "half.test", "").fails("protocol"),
        udp("question", "question.test", "").fails("protocol").theirs_succeeds().differs("a question for an answer"),
        udp("counts", "counts.test", "").fails("protocol").differs("fewer records than promised"),
        udp("loop", "loop.test", "").fails("protocol"),
        tcp("closes", "closes.test", "").fails("connect"),
        tcp("breaks-off", "breaks-off.test", "").fails("protocol"),
        ask("closed", &servers.closed, "good.test", ", query_type: A").fails("connect"),
        ask("tcp-closed", &servers.closed, "good.test", ", query_type: A, transport_protocol: tcp").fails("connect"),
        ask("tcp-black-hole", &servers.hole.address, "good.test", ", query_type: A, transport_protocol: tcp")
            .times_out(),
        // The serial of a zone.
        ask("soa", &servers.udp, "soa.test", ", query_type: SOA"),
        ask("two-soas", &servers.udp, "two-soas.test", ", query_type: SOA"),
        ask("soa-below", &servers.udp, "soa-below.test", ", query_type: SOA").differs("serial of no zone"),
        ask("no-soa", &servers.udp, "good.test", ", query_type: SOA").differs("serial of no zone"),
        udp("soa-not-asked-for", "soa.test", ""),
        // A real server.
        ask(
            "real",
            &servers.coredns,
            "www.real.test",
            ", query_type: A, \
            validate_answer_rrs: { fail_if_none_matches_regexp: ['192.0.2.80'] }",
        ),
        ask("real-soa", &servers.coredns, "real.test", ", query_type: SOA"),
        ask(
            "real-mx",
            &servers.coredns,
            "real.test",
            ", query_type: MX, transport_protocol: tcp, \
            validate_answer_rrs: { fail_if_not_matches_regexp: ['^real.test.\\t300\\tIN\\tMX\\t10 mail.real.test.$'] }",
        ),
        ask("real-nxdomain", &servers.coredns, "nothing.real.test", ", query_type: A").fails("response"),
        ask("real-refused", &servers.coredns, "other.test", ", query_type: A").fails("response"),
    ]
}

/// The four rules, in each section.
fn rules(servers: &Servers) -> Vec<Row> {
    let udp = |row: &str, name: &str, options: &str| servers.udp(row, name, options);
    let mut rows = Vec::new();
    for (section, name, one, all) in [
        ("answer", "chain.test", "192.0.2.1", "IN"),
        ("authority", "sections.test", "ns1", "NS"),
        ("additional", "sections.test", "AAAA", "3600"),
    ] {
        for (rule, regexes, good) in [
            ("fail_if_matches_regexp", format!("[{one}]"), false),
            ("fail_if_matches_regexp", "[nothing, never]".to_owned(), true),
            ("fail_if_not_matches_regexp", format!("[{one}]"), false),
            ("fail_if_not_matches_regexp", format!("['{all}']"), true),
            ("fail_if_not_matches_regexp", format!("['{all}', {one}]"), false),
            // Its name says the opposite of what it does.
            ("fail_if_all_match_regexp", format!("['{all}']"), true),
            ("fail_if_all_match_regexp", format!("[{one}]"), false),
            ("fail_if_none_matches_regexp", "[nothing]".to_owned(), false),
            ("fail_if_none_matches_regexp", format!("[nothing, {one}]"), true),
        ] {
            let options = format!(", validate_{section}_rrs: {{ {rule}: {regexes} }}");
            let row = udp(&format!("rule-{}", rows.len()), name, &options);
            rows.push(if good { row } else { row.fails("match") });
        }
        for (rule, good) in [
            ("fail_if_matches_regexp", true),
            ("fail_if_not_matches_regexp", false),
            ("fail_if_all_match_regexp", true),
            ("fail_if_none_matches_regexp", false),
        ] {
            let options = format!(", validate_{section}_rrs: {{ {rule}: ['.*'] }}");
            let row = udp(&format!("rule-of-nothing-{}", rows.len()), "no-data.test", &options);
            rows.push(if good { row } else { row.fails("match") });
        }
    }
    rows
}

/// The text that rules are applied to, for each type of record.
fn texts(servers: &Servers) -> Vec<Row> {
    let mut rows = Vec::new();
    let text = |name: &str, kind: &str, start: &str, text: &str| {
        let regex = format!("^{start}\\t{}$", regex::escape(text)).replace('\'', "''");
        let options =
            format!(", query_type: {kind}, validate_answer_rrs: {{ fail_if_not_matches_regexp: ['{regex}'] }}");
        ask(&format!("text-of-{name}"), &servers.udp, &format!("{name}.test"), &options)
    };
    for (kind, _, _, ends) in TYPES {
        let start = format!(r"x\.test\.\t3600\tIN\t{kind}");
        rows.push(text(&format!("type-{}", kind.to_ascii_lowercase()), kind, &start, ends));
    }
    rows.push(text("unknown", "A", r"x\.test\.\t3600\tCLASS1\tTYPE65280", UNKNOWN.2));
    rows.push(text("odd-text", "TXT", r"x\.test\.\t3600\tIN\tTXT", r#""\"\\\007\195\188" """#));
    rows.push(text("odd-name", "CNAME", r"x\.test\.\t3600\tIN\tCNAME", r"a\.\ \255.test."));
    rows
}
