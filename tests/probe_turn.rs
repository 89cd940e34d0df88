//! Type Turn against the simulated server and everything that it can do wrong. Whatever becomes of a probe, the server has its allocation back.

#![expect(clippy::unwrap_used, reason = "a test may")]

mod support;

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use scrapetarget_exporter::dial::{AddressRules, Dialers};
use scrapetarget_exporter::fetch::{Clients, Limits};
use scrapetarget_exporter::kind::Reason;
use scrapetarget_exporter::poll::Pollers;
use scrapetarget_exporter::self_metrics::SelfMetrics;
use scrapetarget_exporter::target::{Target, TargetId};
use scrapetarget_exporter::yaml::{self, Dialect};
use serde_json::{Value, json};
use simulators::turn::{AllocationEnd, RelayFault, TurnFault, TurnServer, TurnStep};
use simulators::{Noise, Simulated};
use support::choose_tls_provider;
use support::eventually::{PATIENCE, eventually};
use support::probing::{Certificate, Probed, mistakes_in, target_of};
use tokio::net::TcpListener;

const PHASES: [&str; 8] = ["resolve", "connect", "tls", "challenge", "allocate", "permission", "relay", "release"];

/// Long enough for what does answer, on a busy machine as well; what does not costs this time.
const TIMEOUT: &str = "3s";

/// A server with the user whom the Secrets of tests name.
fn server() -> TurnServer {
    TurnServer::with_user("username-value", "password-value")
}

async fn serve(server: &TurnServer) -> Simulated {
    server.serve((Ipv4Addr::LOCALHOST, 0).into()).await.unwrap()
}

fn with_credentials(mut turn: Value) -> Value {
    turn["username"] = json!({ "name": "turn", "key": "username" });
    turn["password"] = json!({ "name": "turn", "key": "password" });
    turn
}

fn relay() -> Value {
    with_credentials(json!({ "mode": "Relay", "packets": 10, "packetInterval": "5ms" }))
}

#[expect(clippy::needless_pass_by_value, reason = "it is made for the call")]
fn spec(simulated: &Simulated, query: &str, turn: Value) -> Value {
    json!({ "type": "Turn", "url": format!("turn:{}{query}", simulated.address), "turn": turn })
}

/// Every allocation that there was has been given back.
#[track_caller]
fn all_given_back(server: &TurnServer, count: usize) {
    assert_eq!(server.allocations(), []);
    assert_eq!(server.ended(), vec![AllocationEnd::Released; count]);
}

fn phase(name: &str) -> String {
    format!("probe_turn_duration_seconds{{phase=\"{name}\"}}")
}

fn code(step: &str) -> String {
    format!("probe_turn_error_code{{step=\"{step}\"}}")
}

#[track_caller]
fn has_what_is_always_there(probed: &Probed) {
    for name in PHASES {
        probed.value(&phase(name));
    }
    for step in ["challenge", "allocate", "permission", "release"] {
        probed.value(&code(step));
    }
    probed.value("probe_turn_allocation_lifetime_seconds");
}

#[tokio::test]
async fn without_credentials_the_challenge_is_enough() {
    let server = server();
    let simulated = serve(&server).await;
    for query in ["", "?transport=udp", "?transport=tcp"] {
        let probed = Probed::of(spec(&simulated, query, json!({}))).await;
        probed.succeeded();
        has_what_is_always_there(&probed);
        assert_eq!(probed.value("probe_turn_authentication_required"), 1.0);
        assert_eq!(probed.value(&code("challenge")), 0.0);
        assert!(probed.value(&phase("challenge")) > 0.0 && probed.value(&phase("allocate")) == 0.0);
        assert_eq!(probed.labels("probe_stun_server_info"), "software=\"Simulated TURN server\"");
        assert_eq!(probed.value("probe_ip_protocol"), 4.0);
        assert_eq!(probed.value("probe_call_success{call=\"challenge\"}"), 1.0);
        assert!(!probed.has("probe_turn_relay_packets_sent"));
    }
    all_given_back(&server, 0);
}

#[tokio::test]
async fn with_credentials_there_is_an_allocation_over_every_transport() {
    let server = server();
    let simulated = serve(&server).await;
    for (number, query) in ["", "?transport=tcp"].into_iter().enumerate() {
        let probed = Probed::of(spec(&simulated, query, with_credentials(json!({})))).await;
        probed.succeeded();
        has_what_is_always_there(&probed);
        assert_eq!(probed.value("probe_turn_allocation_lifetime_seconds"), 600.0);
        assert!(probed.value(&phase("allocate")) > 0.0 && probed.value(&phase("release")) > 0.0);
        assert_eq!(probed.value("probe_call_success{call=\"allocate\"}"), 1.0);
        all_given_back(&server, number + 1);
    }
}

#[tokio::test]
async fn packets_come_back_over_every_transport() {
    choose_tls_provider();
    let (server, certificate) = (server(), Certificate::good());
    let simulated = serve(&server).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let encrypted = server.on_tls(listener, certificate.acceptor()).unwrap();
    for (number, scheme) in ["udp", "tcp", "tls"].into_iter().enumerate() {
        let mut spec = spec(&simulated, &format!("?transport={scheme}"), relay());
        if scheme == "tls" {
            spec["url"] = format!("turns:{}", encrypted.address).into();
        }
        let ca = Arc::from(certificate.ca.as_bytes());
        let probed =
            Probed::changed(spec, |target| Arc::make_mut(&mut target.source).connection.tls.ca = Some(ca)).await;
        probed.succeeded();
        has_what_is_always_there(&probed);
        let stat = |stat: &str| probed.value(&format!("probe_turn_relay_round_trip_seconds{{stat=\"{stat}\"}}"));
        assert_eq!(probed.value("probe_turn_relay_packets_sent"), 10.0);
        assert_eq!(probed.value("probe_turn_relay_packets_received"), 10.0);
        assert!(stat("min") > 0.0 && stat("min") <= stat("avg") && stat("avg") <= stat("max"));
        assert!(probed.value("probe_turn_relay_jitter_seconds") >= 0.0);
        assert_eq!(probed.value("probe_turn_relay_forbidden"), 0.0);
        assert!(probed.value(&phase("relay")) > 0.04, "nine pauses of 5 ms");
        assert_eq!(probed.value(&phase("tls")) > 0.0, scheme == "tls");
        assert_eq!(probed.has("probe_ssl_earliest_cert_expiry"), scheme == "tls");
        all_given_back(&server, number + 1);
    }
}

#[tokio::test]
async fn fifty_large_packets_come_back() {
    let server = server();
    let simulated = serve(&server).await;
    let mut turn = relay();
    (turn["packets"], turn["packetSize"], turn["minReceived"]) = (50.into(), 1400.into(), 50.into());
    Probed::of(spec(&simulated, "", turn.clone())).await.succeeded();
    Probed::of(spec(&simulated, "?transport=tcp", turn)).await.succeeded();
    all_given_back(&server, 2);
}

#[tokio::test]
async fn credentials_are_made_of_a_shared_secret() {
    let server = TurnServer::with_shared_secret("secret-value");
    let simulated = serve(&server).await;
    let secret = json!({ "name": "turn", "key": "secret" });
    for turn in [json!({ "sharedSecret": secret }), json!({ "sharedSecret": secret, "userId": "", "ttl": "1h" })] {
        Probed::of(spec(&simulated, "", turn)).await.succeeded();
    }
    all_given_back(&server, 2);
    let other = json!({ "sharedSecret": { "name": "turn", "key": "other" } });
    let probed = Probed::of(spec(&simulated, "", other)).await;
    probed.failed(Reason::Auth);
    assert_eq!(probed.value(&code("allocate")), 401.0);
}

#[tokio::test]
async fn wrong_credentials_are_told_from_other_errors_also_of_pion() {
    for rejection in [401, 441, 400] {
        let server = TurnServer::with_user("username-value", "another").rejecting_with(rejection);
        let simulated = serve(&server).await;
        let probed = Probed::of(spec(&simulated, "", relay())).await;
        probed.failed(Reason::Auth);
        assert_eq!(probed.value(&code("allocate")), f64::from(rejection));
        assert_eq!(probed.value("probe_turn_authentication_required"), 1.0);
        assert!(probed.message.contains("not probed again for 60 s"), "{}", probed.message);
        assert!(!probed.message.contains("password-value"), "{}", probed.message);
        assert!(probed.snapshot.hold().is_some());
        has_what_is_always_there(&probed);
        all_given_back(&server, 0);
    }
}

#[tokio::test]
async fn an_optional_secret_that_is_missing_leaves_the_challenge() {
    let server = server();
    let simulated = serve(&server).await;
    let missing = |mode: &str| {
        let reference = |key: &str| json!({ "name": "missing", "key": key, "optional": true });
        json!({ "mode": mode, "username": reference("username"), "password": reference("password") })
    };
    let probed = Probed::of(spec(&simulated, "", missing("Allocate"))).await;
    probed.failed(Reason::Config);
    assert_eq!(server.received(), 0);
}

#[tokio::test]
async fn a_server_that_anybody_may_use_is_told_of_and_gets_its_allocation_back() {
    let server = TurnServer::open();
    let simulated = serve(&server).await;
    for (number, turn) in [json!({}), with_credentials(json!({})), relay()].into_iter().enumerate() {
        let probed = Probed::of(spec(&simulated, "", turn)).await;
        probed.succeeded();
        assert_eq!(probed.value("probe_turn_authentication_required"), 0.0);
        assert_eq!(probed.value("probe_turn_allocation_lifetime_seconds"), 600.0);
        all_given_back(&server, number + 1);
    }
}

#[tokio::test]
async fn a_server_that_forbids_the_relay_fails_only_if_it_is_required() {
    let server = server();
    let simulated = serve(&server).await;
    server.misbehave([TurnFault::Error(TurnStep::Permission, 403)]);
    let probed = Probed::of(spec(&simulated, "", relay())).await;
    probed.succeeded();
    assert_eq!(probed.value("probe_turn_relay_forbidden"), 1.0);
    assert_eq!(probed.value(&code("permission")), 403.0);
    assert_eq!(probed.value("probe_turn_relay_packets_sent"), 0.0);
    let mut required = relay();
    required["requireRelay"] = true.into();
    let probed = Probed::of(spec(&simulated, "", required)).await;
    probed.failed(Reason::Response);
    assert_eq!(probed.value("probe_turn_relay_forbidden"), 1.0);
    all_given_back(&server, 2);
}

/// What a server does wrong, the reason that the probe fails for (none: it does not), and a part of the message.
const FAULTS: &[(&[TurnFault], Option<Reason>, &str)] = {
    use TurnFault::{
        BadlySigned, Empty, Error, Garbage, Huge, LoseEach, NoRealm, NoRelayedAddress, OtherTransaction, Relay, Silent,
        Slow, StaleNonce, Truncated, Unsigned,
    };
    use TurnStep::{Allocate, Challenge, Permission, Refresh};
    &[
        (&[StaleNonce], None, ""),
        (&[Error(Challenge, 300)], Some(Reason::Response), "192.0.2.9:3478"),
        (&[Error(Challenge, 400)], Some(Reason::Response), "error 400"),
        (&[Error(Challenge, 500)], Some(Reason::Response), "error 500"),
        (&[NoRealm], Some(Reason::Protocol), "without REALM or NONCE"),
        (&[Error(Allocate, 300)], Some(Reason::Response), "192.0.2.9:3478"),
        (&[Error(Allocate, 401)], Some(Reason::Auth), "error 401"),
        (&[Error(Allocate, 403)], Some(Reason::Response), "error 403"),
        (&[Error(Allocate, 420)], Some(Reason::Response), "attributes 0x0019"),
        (&[Error(Allocate, 437)], Some(Reason::Response), "error 437"),
        (&[Error(Allocate, 438)], Some(Reason::Response), "stale nonce"),
        (&[Error(Allocate, 440)], Some(Reason::Response), "IP version"),
        (&[Error(Allocate, 442)], Some(Reason::Response), "UDP"),
        (&[Error(Allocate, 486)], Some(Reason::Response), "quota"),
        (&[Error(Allocate, 508)], Some(Reason::Response), "capacity"),
        (&[Error(Permission, 437)], Some(Reason::Response), "error 437"),
        (&[Error(Permission, 438)], Some(Reason::Response), "stale nonce"),
        (&[Unsigned(Allocate)], Some(Reason::Protocol), "without MESSAGE-INTEGRITY"),
        (&[BadlySigned(Allocate)], Some(Reason::Protocol), "wrong MESSAGE-INTEGRITY"),
        (&[BadlySigned(Permission)], Some(Reason::Protocol), "permission"),
        (&[BadlySigned(Refresh)], Some(Reason::Protocol), "release"),
        (&[NoRelayedAddress], Some(Reason::Protocol), "relayed address"),
        (&[Empty(Allocate)], Some(Reason::Protocol), "relayed address"),
        (&[Silent(Challenge)], Some(Reason::Timeout), "challenge: no answer"),
        (&[Silent(Allocate)], Some(Reason::Timeout), "allocate: no answer"),
        (&[Silent(Permission)], Some(Reason::Timeout), "permission: no answer"),
        (&[Silent(Refresh)], Some(Reason::Timeout), "release: no answer"),
        (&[OtherTransaction(Challenge)], Some(Reason::Timeout), "another transaction"),
        (&[OtherTransaction(Allocate)], Some(Reason::Timeout), "another transaction"),
        (&[Truncated(Challenge)], Some(Reason::Protocol), "truncated"),
        (&[Truncated(Allocate)], Some(Reason::Protocol), "truncated"),
        (&[Garbage(Challenge)], Some(Reason::Protocol), "no STUN message"),
        (&[Garbage(Permission)], Some(Reason::Protocol), "no STUN message"),
        (&[Huge(Challenge)], Some(Reason::Protocol), "more than 4096 bytes"),
        (&[Huge(Allocate)], Some(Reason::Protocol), "more than 4096 bytes"),
        (&[Slow(Challenge, Duration::from_millis(100)), Slow(Refresh, Duration::from_millis(100))], None, ""),
        // Long after the probe is over, and before it is given up that the server takes anything back.
        (&[Slow(Allocate, Duration::from_secs(4))], Some(Reason::Timeout), "allocate: no answer"),
        (&[LoseEach(3)], None, ""),
        (&[Relay(RelayFault::DropEach(2))], None, ""),
        (&[Relay(RelayFault::DropEach(1))], Some(Reason::Timeout), "no packet came back"),
        (&[Relay(RelayFault::Duplicate)], None, ""),
        (&[Relay(RelayFault::Reorder)], None, ""),
        (&[Relay(RelayFault::Corrupt)], Some(Reason::Match), "came back changed"),
        (&[Relay(RelayFault::WrongChannel)], Some(Reason::Protocol), "channels"),
    ]
};

#[tokio::test]
async fn whatever_a_server_does_wrong_has_a_reason_and_costs_no_allocation() {
    // At one time, since some take until the timeout.
    let probes = FAULTS.iter().map(async |(faults, reason, says)| {
        let server = server();
        server.misbehave(faults.iter().copied());
        let simulated = serve(&server).await;
        let mut spec = spec(&simulated, "", relay());
        let is_lossy = matches!(faults, [TurnFault::LoseEach(_)]);
        spec["timeout"] = if is_lossy { "20s" } else { TIMEOUT }.into();
        let probed = Probed::of(spec).await;
        assert_eq!(probed.reason, *reason, "{faults:?}: {}", probed.message);
        assert!(probed.message.contains(says), "{faults:?}: {}", probed.message);
        has_what_is_always_there(&probed);
        eventually(PATIENCE, async || match server.allocations().len() {
            0 => Ok(()),
            count => Err(format!("{faults:?}: {count} allocations")),
        })
        .await;
        let ended = server.ended();
        assert!(ended.iter().all(|end| *end == AllocationEnd::Released), "{faults:?}: {ended:?}");
        drop(simulated);
        (faults, probed)
    });
    for (faults, probed) in futures::future::join_all(probes).await {
        let received = probed.series.get("probe_turn_relay_packets_received").copied();
        match faults {
            [TurnFault::Relay(RelayFault::DropEach(2))] => assert_eq!(received, Some(5.0)),
            [TurnFault::Relay(RelayFault::Duplicate | RelayFault::Reorder)] => assert_eq!(received, Some(10.0)),
            [TurnFault::Relay(_)] => assert_eq!(received, Some(0.0)),
            [TurnFault::Error(step, number)] => {
                let step = if *step == TurnStep::Challenge {
                    "challenge"
                } else if *step == TurnStep::Allocate {
                    "allocate"
                } else {
                    "permission"
                };
                assert_eq!(probed.value(&code(step)), f64::from(*number), "{faults:?}");
            }
            _ => {}
        }
    }
}

#[tokio::test]
async fn over_a_connection_the_same_holds() {
    for (fault, reason) in [
        (TurnFault::Truncated(TurnStep::Allocate), Reason::Protocol),
        (TurnFault::Garbage(TurnStep::Challenge), Reason::Protocol),
        (TurnFault::Huge(TurnStep::Permission), Reason::Protocol),
        (TurnFault::Silent(TurnStep::Allocate), Reason::Timeout),
        (TurnFault::BadlySigned(TurnStep::Allocate), Reason::Protocol),
    ] {
        let server = server();
        server.misbehave([fault]);
        let simulated = serve(&server).await;
        let mut spec = spec(&simulated, "?transport=tcp", relay());
        spec["timeout"] = TIMEOUT.into();
        let probed = Probed::of(spec).await;
        assert_eq!(probed.reason, Some(reason), "{fault:?}: {}", probed.message);
        eventually(PATIENCE, async || match server.allocations().len() {
            0 => Ok(()),
            count => Err(format!("{fault:?}: {count} allocations")),
        })
        .await;
    }
}

#[tokio::test]
async fn lost_packets_fail_a_probe_that_wants_more() {
    let server = server();
    server.misbehave([TurnFault::Relay(RelayFault::DropEach(2))]);
    let simulated = serve(&server).await;
    let mut turn = relay();
    turn["minReceived"] = 6.into();
    let mut spec = spec(&simulated, "", turn);
    spec["timeout"] = TIMEOUT.into();
    let probed = Probed::of(spec).await;
    probed.failed(Reason::Timeout);
    assert!(probed.message.contains("only 5 of 10 packets came back"), "{}", probed.message);
    all_given_back(&server, 1);
}

/// Pollers without a limit of probes of one address.
fn pollers() -> Pollers {
    choose_tls_provider();
    let metrics = SelfMetrics::new().unwrap();
    let clients = Clients::with(Dialers::new(AddressRules::default()).limiting(0));
    Pollers::new(clients, Limits::new(1 << 20, 8 << 20), metrics.polls, true).0
}

fn named(name: &str, spec: &Value) -> Target {
    Target { id: TargetId::new("media", name), ..target_of(spec) }
}

/// The target is removed while it is probed, at any moment: its probe is dropped wherever it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probes_that_are_cut_off_at_any_moment_cost_no_allocation() {
    const PROBES: u32 = 400;
    let server = server();
    let simulated = serve(&server).await;
    let pollers = Arc::new(pollers());
    let mut noise = Noise::new(17);
    let mut cut = Vec::new();
    for number in 0..PROBES {
        let query = if number % 4 == 0 { "?transport=tcp" } else { "" };
        let mut spec = spec(&simulated, query, relay());
        (spec["interval"], spec["timeout"]) = ("1h".into(), "20s".into());
        let name = format!("t{number}");
        pollers.apply([named(&name, &spec)]);
        let pollers = Arc::clone(&pollers);
        let after = Duration::from_micros(noise.below(60_000));
        cut.push(tokio::spawn(async move {
            tokio::time::sleep(after).await;
            pollers.remove(&TargetId::new("media", &name));
        }));
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    for cut in cut {
        cut.await.unwrap();
    }
    pollers.shutdown().await;
    eventually(PATIENCE, async || match server.allocations().len() {
        0 => Ok(()),
        count => Err(format!("{count} allocations")),
    })
    .await;
    let ended = server.ended();
    assert!(ended.len() > 20, "too few came so far: {}", ended.len());
    // A connection may end before the server has read the last request.
    assert!(!ended.contains(&AllocationEnd::Expired), "{ended:?}");
}

#[tokio::test]
async fn when_the_program_ends_allocations_are_given_back_first() {
    let server = server();
    let simulated = serve(&server).await;
    server.misbehave([TurnFault::Silent(TurnStep::Permission)]);
    let pollers = pollers();
    let mut spec = spec(&simulated, "", relay());
    (spec["interval"], spec["timeout"]) = ("1h".into(), "1h".into());
    pollers.apply([named("a", &spec)]);
    eventually(PATIENCE, async || match server.allocations().len() {
        0 => Err("no allocation yet".to_owned()),
        _ => Ok(()),
    })
    .await;
    pollers.shutdown().await;
    all_given_back(&server, 1);
}

#[tokio::test]
async fn after_a_rejection_neither_interval_nor_scrapes_probe_again_until_the_target_changes() {
    let server = TurnServer::with_user("username-value", "another");
    let simulated = serve(&server).await;
    let pollers = pollers();
    let mut spec = spec(&simulated, "", with_credentials(json!({})));
    (spec["interval"], spec["timeout"], spec["maxAge"]) = ("1s".into(), "1s".into(), "0s".into());
    let target = named("a", &spec);
    pollers.apply([target.clone()]);
    let poller = pollers.get(&target.id).unwrap();
    let first = poller.answer(PATIENCE).await;
    assert_eq!(first.failure.as_ref().unwrap().reason, Reason::Auth);
    let asked = server.received();
    // Two intervals, with scrapes that want newer data than there are.
    let until = tokio::time::Instant::now() + Duration::from_millis(2500);
    while tokio::time::Instant::now() < until {
        let again = poller.answer(PATIENCE).await;
        assert!(Arc::ptr_eq(&first, &again), "it was probed again");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(server.received(), asked);
    let shown = scrapetarget_exporter::http::debug_text(&poller, &first);
    assert!(shown.contains("\n  next poll     in ") && shown.contains("it is not probed again for 60 s"), "{shown}");
    // Whoever corrects the target need not wait.
    spec["turn"] = json!({});
    pollers.apply([named("a", &spec)]);
    assert!(poller.answer(PATIENCE).await.failure.is_none());
    pollers.shutdown().await;
}

#[tokio::test]
async fn a_port_without_a_server_is_told_apart() {
    let closed = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for query in ["", "?transport=tcp"] {
        let mut spec = json!({ "type": "Turn", "url": format!("turn:{closed}{query}"), "turn": relay() });
        spec["timeout"] = TIMEOUT.into();
        let probed = Probed::of(spec).await;
        probed.failed(Reason::Connect);
        has_what_is_always_there(&probed);
        assert!(!probed.has("probe_turn_authentication_required"), "a dead server is no open relay");
    }
}

#[test]
fn what_makes_no_sense_is_refused() {
    let key = |key: &str| json!({ "name": "turn", "key": key });
    let credentials = || with_credentials(json!({}));
    let with = |field: &str, value: Value| {
        let mut turn = relay();
        turn[field] = value;
        turn
    };
    for (url, turn, wrong) in [
        ("turn:host", json!({}), None),
        ("turn:host:3478?transport=udp", credentials(), None),
        ("turns:[2001:db8::1]:443?transport=tcp", relay(), None),
        ("turn:host", json!({ "sharedSecret": key("s"), "userId": "u", "ttl": "1h", "mode": "Relay" }), None),
        ("turn://host", json!({}), Some("spec.url")),
        ("turns:host?transport=udp", json!({}), Some("spec.url")),
        ("turn:user@host", json!({}), Some("spec.url")),
        ("turn:host?transport=sctp", json!({}), Some("spec.url")),
        ("turn:host", json!({ "username": key("u") }), Some("spec.turn")),
        ("turn:host", json!({ "password": key("p") }), Some("spec.turn")),
        ("turn:host", with("sharedSecret", key("s")), Some("spec.turn.sharedSecret")),
        ("turn:host", with("userId", "u".into()), Some("spec.turn")),
        ("turn:host", json!({ "sharedSecret": key("s"), "ttl": "30s" }), Some("spec.turn.ttl")),
        ("turn:host", json!({ "sharedSecret": key("s"), "ttl": "25h" }), Some("spec.turn.ttl")),
        ("turn:host", with("mode", "Challenge".into()), Some("spec.turn")),
        ("turn:host", json!({ "mode": "Allocate" }), Some("spec.turn.mode")),
        ("turn:host", json!({ "mode": "Relay" }), Some("spec.turn.mode")),
        ("turn:host", with("mode", "Everything".into()), Some("spec.turn.mode")),
        ("turn:host", with_credentials(json!({ "packets": 5 })), Some("spec.turn")),
        ("turn:host", with("packets", 51.into()), Some("spec.turn.packets")),
        ("turn:host", with("packetSize", 15.into()), Some("spec.turn.packetSize")),
        ("turn:host", with("packetSize", 1401.into()), Some("spec.turn.packetSize")),
        ("turn:host", with("packetInterval", "4ms".into()), Some("spec.turn.packetInterval")),
        ("turn:host", with("packetInterval", "2s".into()), Some("spec.turn.packetInterval")),
        ("turn:host", with("minReceived", 11.into()), Some("spec.turn.minReceived")),
        ("turn:host", with("packetInterval", "1s".into()), None),
    ] {
        let spec = json!({ "type": "Turn", "url": url, "interval": "30s", "turn": turn });
        let mistakes = mistakes_in(&spec);
        match wrong {
            None => assert_eq!(mistakes, Vec::<String>::new(), "{spec}"),
            Some(path) => assert!(mistakes.iter().any(|mistake| mistake == path), "{spec}: {mistakes:?}"),
        }
    }
    for (field, value, turn, path) in [
        ("interval", "9s", relay(), "spec.interval"),
        ("timeout", "500ms", credentials(), "spec.timeout"),
        ("timeout", "1s", with("packetInterval", "500ms".into()), "spec.turn.packets"),
        // The last one is sent after 9.5 s, of which nothing is left for giving the allocation back.
        (
            "timeout",
            "10s",
            with_credentials(json!({ "mode": "Relay", "packets": 20, "packetInterval": "500ms" })),
            "spec.turn.packets",
        ),
    ] {
        let mut spec = json!({ "type": "Turn", "url": "turn:host", "turn": turn });
        spec[field] = value.into();
        assert_eq!(mistakes_in(&spec), [path], "{spec}");
    }
    for (timeout, interval) in [("10s", "499ms"), ("1s", "42ms"), ("4100ms", "204ms")] {
        let turn = with_credentials(json!({ "mode": "Relay", "packets": 20, "packetInterval": interval }));
        let spec = json!({ "type": "Turn", "url": "turn:host", "timeout": timeout, "turn": turn });
        assert_eq!(mistakes_in(&spec), Vec::<String>::new(), "{spec}");
    }
    let tls = json!({ "type": "Turn", "url": "turn:host", "tlsConfig": { "insecureSkipVerify": true } });
    assert_eq!(mistakes_in(&tls), ["spec.tlsConfig"]);
}

#[test]
fn defaults_that_depend_on_other_options_are_shown() {
    let of = |turn: Value| {
        let target = target_of(&json!({ "type": "Turn", "url": "turn:host", "interval": "30s", "turn": turn }));
        let shown = yaml::read(&target.effective(), 1, Dialect::Kubernetes).unwrap().to_value();
        shown["turn"].clone()
    };
    assert_eq!(of(json!({})), json!({ "mode": "Challenge" }));
    assert_eq!(of(with_credentials(json!({}))), with_credentials(json!({ "mode": "Allocate" })));
    let all = json!({
        "mode": "Relay", "packets": 10, "packetSize": 160, "packetInterval": "20ms", "minReceived": 1, "requireRelay": false,
    });
    assert_eq!(of(with_credentials(json!({ "mode": "Relay" }))), with_credentials(all));
    let secret = json!({ "name": "turn", "key": "secret" });
    assert_eq!(
        of(json!({ "sharedSecret": secret })),
        json!({ "mode": "Allocate", "sharedSecret": secret, "userId": "scrapetarget-exporter", "ttl": "10m" })
    );
    let set = json!({
        "mode": "Relay", "sharedSecret": secret, "userId": "", "ttl": "2m", "packets": 3, "packetSize": 1200, "packetInterval": "1s",
        "minReceived": 3, "requireRelay": true,
    });
    assert_eq!(of(set.clone()), set);
}
