//! Type Icmp, each test in a network namespace of its own: there the range of groups, the routes and the addresses are what it says.

#![expect(clippy::unwrap_used, reason = "a test may")]

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use scrapetarget_exporter::dial::{AddressRules, Dialers};
use scrapetarget_exporter::fetch::{Clients, Limits};
use scrapetarget_exporter::kind::Reason;
use scrapetarget_exporter::poll::Pollers;
use scrapetarget_exporter::self_metrics::SelfMetrics;
use scrapetarget_exporter::target::{Target, TargetId};
use serde_json::{Value, json};
use socket2::{Domain, Protocol, Socket};
use support::eventually::PATIENCE;
use support::probing::{Probed, target_of};
use support::{choose_tls_provider, namespaces, series, text};

/// Whether this is the one that runs in namespaces of its own, in which the group of the test may send ICMP.
fn inside(test: &str) -> bool {
    if !namespaces::inside(test, &[]) {
        return false;
    }
    allow("0 0");
    true
}

/// Which groups may send ICMP without privileges.
fn allow(groups: &str) {
    fs::write("/proc/sys/net/ipv4/ping_group_range", groups).unwrap();
}

fn ip(arguments: &str) {
    let done = Command::new("ip").args(arguments.split(' ')).status().unwrap();
    assert!(done.success(), "ip {arguments}");
}

fn spec(host: &str, options: &Value) -> Value {
    json!({ "type": "Icmp", "url": format!("icmp://{host}"), "icmp": options })
}

async fn probe(host: &str, options: Value) -> Probed {
    Probed::of(spec(host, &options)).await
}

/// The same with a timeout that is soon over.
async fn probe_shortly(host: &str, options: Value) -> Probed {
    let mut spec = spec(host, &options);
    spec["timeout"] = "2s".into();
    Probed::of(spec).await
}

fn phase(name: &str) -> String {
    format!("probe_icmp_duration_seconds{{phase=\"{name}\"}}")
}

/// What is there whatever becomes of a probe.
#[track_caller]
fn has_what_is_always_there(probed: &Probed) {
    for name in ["resolve", "setup", "rtt"] {
        probed.value(&phase(name));
    }
    for family in ["probe_dns_lookup_time_seconds", "probe_ip_protocol", "probe_ip_addr_hash", "probe_duration_seconds"]
    {
        probed.value(family);
    }
}

#[track_caller]
fn has_no_reply(probed: &Probed) {
    has_what_is_always_there(probed);
    assert_eq!(probed.value(&phase("rtt")), 0.0);
    assert!(!probed.has("probe_icmp_reply_hop_limit") && !probed.has("probe_icmp_rtt_seconds"));
}

#[tokio::test]
async fn a_reply_gives_its_time_and_its_hop_limit() {
    if !inside("a_reply_gives_its_time_and_its_hop_limit") {
        return;
    }
    for (host, version) in [("127.0.0.1", 4.0), ("[::1]", 6.0)] {
        let probed = probe(host, json!({})).await;
        probed.succeeded();
        has_what_is_always_there(&probed);
        assert_eq!(probed.value("probe_ip_protocol"), version);
        assert_eq!(probed.value("probe_icmp_reply_hop_limit"), 64.0);
        assert!(probed.value(&phase("rtt")) > 0.0 && probed.value(&phase("setup")) > 0.0);
        assert!(!probed.has("probe_icmp_packets_sent") && !probed.has("probe_icmp_rtt_seconds"));
        let shown = probed.snapshot.probe.as_ref().unwrap();
        let events: Vec<String> = shown.events().map(|event| event.text.into()).collect();
        assert_eq!(events, ["sent request 1 with 28 bytes", "request 1 was answered", "succeeded"]);
    }
    fs::write("/proc/sys/net/ipv4/ip_default_ttl", "7").unwrap();
    assert_eq!(probe("127.0.0.1", json!({ "ttl": 99 })).await.value("probe_icmp_reply_hop_limit"), 7.0);
}

#[tokio::test]
async fn without_the_permission_the_sentence_has_the_cure() {
    if !inside("without_the_permission_the_sentence_has_the_cure") {
        return;
    }
    allow("1 0");
    for host in ["127.0.0.1", "[::1]"] {
        let probed = probe(host, json!({})).await;
        probed.failed(Reason::Permission);
        assert!(probed.message.contains("net.ipv4.ping_group_range"), "{}", probed.message);
        assert!(probed.message.contains("probers"), "{}", probed.message);
        has_no_reply(&probed);
    }
}

#[tokio::test]
async fn a_host_that_is_silent_is_a_timeout() {
    if !inside("a_host_that_is_silent_is_a_timeout") {
        return;
    }
    // The other side has this card's packets dropped: they are for another one.
    let _two = Two::new();
    ip("neighbour add 10.7.0.99 lladdr 02:00:00:00:00:01 dev inner");
    let probed = probe_shortly("10.7.0.99", json!({})).await;
    probed.failed(Reason::Timeout);
    assert_eq!(probed.message, "echo: no reply from 10.7.0.99 in time");
    has_no_reply(&probed);
    let probed = probe_shortly("10.7.0.99", json!({ "count": 3, "packetInterval": "50ms" })).await;
    probed.failed(Reason::Timeout);
    assert_eq!((probed.value("probe_icmp_packets_sent"), probed.value("probe_icmp_packets_received")), (3.0, 0.0));
    has_no_reply(&probed);
}

#[tokio::test]
async fn what_the_network_refuses_is_unreachable_and_says_who_refuses() {
    if !inside("what_the_network_refuses_is_unreachable_and_says_who_refuses") {
        return;
    }
    // A second namespace is the router: it refuses what it has no way for.
    let two = Two::new();
    two.there("ip route add unreachable 10.8.0.0/24");
    two.there("ip route add prohibit 10.8.1.0/24");
    two.there("ip -6 route add unreachable 2001:db8:8::/64");
    two.there("ip route add 10.7.1.0/24 dev outer");
    for (host, says) in [
        ("10.8.0.1", "10.7.0.2 says host unreachable"),
        ("10.8.1.1", "10.7.0.2 says administratively prohibited"),
        ("[2001:db8:8::1]", "2001:db8:7::2 says"),
    ] {
        let probed = probe(host, json!({})).await;
        probed.failed(Reason::Unreachable);
        assert!(probed.message.contains(says), "{}", probed.message);
        has_no_reply(&probed);
    }
    let probed = probe("10.8.0.1", json!({ "count": 3, "packetInterval": "50ms" })).await;
    probed.failed(Reason::Unreachable);
    assert_eq!((probed.value("probe_icmp_packets_sent"), probed.value("probe_icmp_packets_received")), (3.0, 0.0));

    let probed = probe("10.7.1.2", json!({ "ttl": 1 })).await;
    probed.failed(Reason::Unreachable);
    assert!(probed.message.contains("10.7.0.2 says time to live exceeded"), "{}", probed.message);

    // And this machine itself has no way.
    ip("route add unreachable 10.6.0.0/24");
    ip("route add prohibit 10.6.1.0/24");
    for host in ["10.6.0.1", "10.6.1.1", "10.5.0.1"] {
        let probed = probe(host, json!({})).await;
        probed.failed(Reason::Unreachable);
        assert!(probed.message.starts_with("echo: no way to 10."), "{}", probed.message);
        has_no_reply(&probed);
    }
}

#[tokio::test]
async fn a_packet_that_is_too_large_is_divided_or_refused() {
    if !inside("a_packet_that_is_too_large_is_divided_or_refused") {
        return;
    }
    let two = Two::new();
    ip("link set inner mtu 1280");
    two.there("ip link set outer mtu 1280");
    for host in ["10.7.0.2", "[2001:db8:7::2]"] {
        let probed = probe(host, json!({ "payloadSize": 1472 })).await;
        probed.succeeded();
        let probed = probe(host, json!({ "payloadSize": 1472, "dontFragment": true })).await;
        probed.failed(Reason::Unreachable);
        assert!(probed.message.contains("write a smaller icmp.payloadSize"), "{}", probed.message);
        has_no_reply(&probed);
        probe(host, json!({ "payloadSize": 1200, "dontFragment": true })).await.succeeded();
    }
}

#[tokio::test]
async fn the_operator_says_how_large_a_payload_may_be() {
    if !inside("the_operator_says_how_large_a_payload_may_be") {
        return;
    }
    let probed = probe("127.0.0.1", json!({ "payloadSize": 1473 })).await;
    probed.failed(Reason::Config);
    assert!(probed.message.contains("write at most 1472"), "{}", probed.message);
    has_no_reply(&probed);
    let dialers = Dialers::new(AddressRules::default()).echoing_up_to(65_507);
    let pollers = pollers(dialers, false);
    let target = target_of(&spec("127.0.0.1", &json!({ "payloadSize": 65507 })));
    let id = target.id.clone();
    pollers.apply([target]);
    let snapshot = pollers.get(&id).unwrap().answer(PATIENCE).await;
    assert_eq!(snapshot.failure.as_ref().map(|failure| failure.reason), None);
    pollers.shutdown().await;
}

#[tokio::test]
async fn several_requests_give_statistics_and_those_that_are_lost_count() {
    if !inside("several_requests_give_statistics_and_those_that_are_lost_count") {
        return;
    }
    let options = json!({ "count": 4, "packetInterval": "50ms", "minReceived": 4 });
    let probed = probe("127.0.0.1", options.clone()).await;
    probed.succeeded();
    assert_eq!((probed.value("probe_icmp_packets_sent"), probed.value("probe_icmp_packets_received")), (4.0, 4.0));
    let of = |stat: &str| probed.value(&format!("probe_icmp_rtt_seconds{{stat=\"{stat}\"}}"));
    assert!(0.0 < of("min") && of("min") <= of("avg") && of("avg") <= of("max") && of("stddev") >= 0.0);
    assert_eq!(probed.value(&phase("rtt")), of("avg"));
    assert!(probed.value("probe_duration_seconds") >= 0.15, "three intervals");

    // From now on the other side answers an address three times, as if it had saved up for a minute, and then once in 20 seconds.
    let two = Two::new();
    two.there("echo 1 > /proc/sys/net/ipv4/icmp_ratemask; echo 20000 > /proc/sys/net/ipv4/icmp_ratelimit");
    let mut lossy = spec("10.7.0.2", &json!({ "count": 10, "packetInterval": "50ms" }));
    let probed = Probed::of(lossy.clone()).await;
    probed.succeeded();
    let received = probed.value("probe_icmp_packets_received");
    assert!((1.0..10.0).contains(&received), "{received} of {}", probed.value("probe_icmp_packets_sent"));
    assert!(probed.value("probe_duration_seconds") < 60.0, "what is late is not waited for");
    ip("address add 10.7.0.3/24 dev inner");
    lossy["icmp"]["minReceived"] = 10.into();
    (lossy["sourceIpAddress"], lossy["timeout"]) = ("10.7.0.3".into(), "3s".into());
    let probed = Probed::of(lossy).await;
    probed.failed(Reason::Timeout);
    assert!(probed.message.contains("of 10 requests to 10.7.0.2 were answered"), "{}", probed.message);
}

/// Answers the requests on loopback in the kernel's place, each with these changes of the reply: `(byte, bits)`.
fn answer_with(changes: &'static [(usize, u8)]) {
    const RAW: i32 = 3;
    fs::write("/proc/sys/net/ipv4/icmp_echo_ignore_all", "1").unwrap();
    let socket = Socket::new(Domain::IPV4, RAW.into(), Some(Protocol::ICMPV4)).unwrap();
    std::thread::spawn(move || {
        let mut socket = socket;
        let mut packet = [0; 2048];
        while let Ok(length) = socket.read(&mut packet) {
            // After a header of IPv4.
            let request = &packet[20..length];
            if request[0] != 8 {
                continue;
            }
            for (at, bits) in changes {
                let mut reply = request.to_vec();
                reply[0] = 0;
                reply[*at] ^= bits;
                reply[2..4].fill(0);
                let sum: u32 =
                    reply.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0))).sum();
                let sum = (sum & 0xffff) + (sum >> 16);
                let [_, _, sum @ ..] = (!((sum & 0xffff) + (sum >> 16))).to_be_bytes();
                reply[2..4].copy_from_slice(&sum);
                let to = SocketAddr::from(([127, 0, 0, 1], 0));
                socket.send_to(&reply, &to.into()).unwrap();
            }
        }
    });
}

/// The bytes of a packet that say its sequence, and the last of its payload.
const SEQUENCE: usize = 7;
const PAYLOAD: usize = 8 + 27;

#[tokio::test]
async fn a_reply_with_another_sequence_or_payload_is_none() {
    if !inside("a_reply_with_another_sequence_or_payload_is_none") {
        return;
    }
    answer_with(&[(SEQUENCE, 1), (PAYLOAD, 1), (1, 1)]);
    let probed = probe_shortly("127.0.0.1", json!({})).await;
    probed.failed(Reason::Timeout);
    has_no_reply(&probed);
    let probed = probe_shortly("127.0.0.1", json!({ "count": 2, "packetInterval": "50ms" })).await;
    probed.failed(Reason::Timeout);
    assert_eq!((probed.value("probe_icmp_packets_sent"), probed.value("probe_icmp_packets_received")), (2.0, 0.0));
}

#[tokio::test]
async fn a_right_reply_after_wrong_ones_counts_and_its_double_does_not() {
    if !inside("a_right_reply_after_wrong_ones_counts_and_its_double_does_not") {
        return;
    }
    answer_with(&[(SEQUENCE, 0x80), (PAYLOAD, 1), (SEQUENCE, 0), (SEQUENCE, 0)]);
    probe("127.0.0.1", json!({})).await.succeeded();
    let probed = probe("127.0.0.1", json!({ "count": 2, "packetInterval": "50ms", "minReceived": 2 })).await;
    probed.succeeded();
    assert_eq!(probed.value("probe_icmp_packets_received"), 2.0);
}

#[tokio::test]
async fn requests_that_could_not_be_sent_in_time_are_told_of() {
    if !inside("requests_that_could_not_be_sent_in_time_are_told_of") {
        return;
    }
    let spec = spec("127.0.0.1", &json!({ "count": 3, "packetInterval": "5s", "minReceived": 3 }));
    let probed = Probed::changed(spec, |target| target.timeout = Duration::from_secs(3)).await;
    probed.failed(Reason::Timeout);
    let wanted =
        "only 1 of 3 requests to 127.0.0.1 were answered in time, for only 1 of 3 could be sent before the timeout";
    assert!(probed.message.contains(wanted), "{}", probed.message);
}

fn pollers(dialers: Dialers, background: bool) -> Arc<Pollers> {
    choose_tls_provider();
    let metrics = SelfMetrics::new().unwrap();
    let limits = Limits::new(1 << 20, 256 << 20);
    Arc::new(Pollers::new(Clients::with(dialers), limits, metrics.polls, background).0)
}

/// A thousand targets, all probed at the same time, several times: each gets a reply of its own, but for those whose host is silent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_hosts_at_once_lose_no_reply_and_the_silent_ones_fail() {
    const TARGETS: usize = 1000;
    const ROUNDS: usize = 3;
    let is_silent = |number: usize| number % 10 == 3;
    if !inside("a_thousand_hosts_at_once_lose_no_reply_and_the_silent_ones_fail") {
        return;
    }
    rlimit::increase_nofile_limit(4096).unwrap();
    // The way to them is a card that nobody has.
    let _two = Two::new();
    ip("neighbour add 10.7.0.99 lladdr 02:00:00:00:00:01 dev inner");
    ip("route add 10.9.0.0/16 via 10.7.0.99");
    let pollers = pollers(Dialers::new(AddressRules::default()).limiting(0), false);
    let targets: Vec<Target> = (0..TARGETS)
        .map(|number| {
            // Half of them share an address: only identifiers and payloads tell their replies apart.
            let host = if is_silent(number) {
                format!("10.9.{}.{}", number / 250, number % 250 + 1)
            } else if number % 2 == 0 {
                "127.0.0.1".to_owned()
            } else {
                format!("127.1.{}.{}", number / 250, number % 250 + 1)
            };
            let mut spec = spec(&host, &json!({ "count": 2, "packetInterval": "50ms", "minReceived": 2 }));
            let timeout = if is_silent(number) { "3s" } else { "2m" };
            (spec["interval"], spec["timeout"], spec["maxAge"]) = ("2m".into(), timeout.into(), "0s".into());
            let mut target = target_of(&spec);
            target.id = TargetId::new("media", &format!("host-{number}"));
            target
        })
        .collect();
    let ids: Vec<TargetId> = targets.iter().map(|target| target.id.clone()).collect();
    pollers.apply(targets);
    for _ in 0..ROUNDS {
        let answers = ids.iter().map(|id| {
            let poller = pollers.get(id).unwrap();
            async move { poller.answer(PATIENCE).await }
        });
        let snapshots = futures::future::join_all(answers).await;
        let (silent, others): (Vec<_>, Vec<_>) =
            snapshots.iter().enumerate().partition(|(number, _)| is_silent(*number));
        let failures: BTreeSet<String> = others
            .iter()
            .filter_map(|(_, snapshot)| snapshot.failure.as_ref())
            .map(|failure| failure.message.to_string())
            .collect();
        assert_eq!(failures, BTreeSet::new());
        for (_, snapshot) in others {
            assert_eq!(series(&text(snapshot))["probe_icmp_packets_received"], 2.0);
        }
        assert_eq!(silent.len(), TARGETS / 10);
        for (_, snapshot) in silent {
            assert_eq!(snapshot.failure.as_ref().map(|failure| failure.reason), Some(Reason::Timeout));
            assert_eq!(series(&text(snapshot))["probe_icmp_packets_received"], 0.0);
        }
    }
    pollers.shutdown().await;
}

/// A second network namespace, joined to this one: 10.7.0.1 here, 10.7.0.2 there, which also is the router to everything else.
struct Two {
    other: std::process::Child,
}

impl Two {
    fn new() -> Self {
        let other = Command::new("unshare").args(["--net", "sleep", "1000"]).spawn().unwrap();
        let own = fs::read_link("/proc/self/ns/net").unwrap();
        let path = format!("/proc/{}/ns/net", other.id());
        let start = std::time::Instant::now();
        while fs::read_link(&path).is_ok_and(|link| link == own) {
            assert!(start.elapsed() < PATIENCE, "no second namespace");
            std::thread::sleep(Duration::from_millis(1));
        }
        let two = Self { other };
        ip(&format!("link add inner type veth peer name outer netns {}", two.other.id()));
        ip("address add 10.7.0.1/24 dev inner");
        ip("address add 2001:db8:7::1/64 dev inner nodad");
        ip("link set inner up");
        two.there(
            "ip link set lo up; ip address add 10.7.0.2/24 dev outer; ip address add 2001:db8:7::2/64 dev outer nodad",
        );
        two.there("ip link set outer up");
        // No limit on errors but that of routes, of which five in a row are sent. With icmp_ratelimit of 0, an error at the turn of a jiffy
        // would use up all five: both limits count in the same place.
        two.there("echo 0 > /proc/sys/net/ipv4/icmp_ratemask");
        two.there("echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding");
        ip("route add 10.8.0.0/16 via 10.7.0.2");
        ip("route add 10.7.1.0/24 via 10.7.0.2");
        ip("route add 2001:db8:8::/64 via 2001:db8:7::2");
        two
    }

    /// Runs a command of the shell in the other namespace.
    fn there(&self, command: &str) {
        let pid = self.other.id().to_string();
        let done = Command::new("nsenter").args(["--net", "--target", &pid, "sh", "-ec", command]).status().unwrap();
        assert!(done.success(), "{command}");
    }
}

impl Drop for Two {
    fn drop(&mut self) {
        let _ = self.other.kill();
        let _ = self.other.wait();
    }
}
