//! Targets of several processes: each member costs its own series only, and comes and goes without a trace on the others.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::Router;
use axum::http::HeaderMap;
use proptest::prelude::*;
use scrapetarget_exporter::crd::{Members, MembersService, ParsedTarget, ScrapeTarget, ScrapeTargetSpec};
use scrapetarget_exporter::fetch::Limits;
use scrapetarget_exporter::kind::{Reason, Type};
use scrapetarget_exporter::poll::{MemberCounts, MemberState, Pollers, Snapshot, TargetState};
use scrapetarget_exporter::target::{Include, Member, MemberLabel, MemberSource, Target, TargetId};
use simulators::mediasoup::Agent;
use simulators::orion::Broker;
use simulators::{Mode, Simulated};
use support::dns::Dns;
use support::eventually::{PATIENCE, eventually};
use support::faults::{Fault, Faulty};
use support::namespaces::inside;
use support::{NoObjects, pollers, pollers_with, redeclared, series, text};

/// A pod that serves.
fn pod(name: &str, address: SocketAddr) -> Member {
    Member {
        name: name.into(),
        label: MemberLabel::Pod,
        uid: format!("uid of {name}").into(),
        node: Some("node-1".into()),
        zone: Some("zone-a".into()),
        ..Member::at(address)
    }
}

/// A target of these members, which is polled once an hour, and whose data are always young enough.
fn target(kind: Type, members: &[Member]) -> Target {
    let mut spec = ScrapeTargetSpec::new(kind, "http://app.media.svc:1026/");
    spec.members = Some(Members { service: Some(MembersService::default()), ..Members::default() });
    spec.interval = "1h".parse().unwrap();
    spec.max_age = Some("1h".parse().unwrap());
    let declaration = ParsedTarget::parse(ScrapeTarget::new("app", spec)).unwrap();
    with(Target::resolve(TargetId::new("media", "app"), Arc::new(declaration), &NoObjects), members)
}

/// The same target with other members.
fn with(mut target: Target, members: &[Member]) -> Target {
    let mut sorted = members.to_vec();
    sorted.sort_by(|a, b| a.name.cmp(&b.name));
    let Some(MemberSource::Service { endpoints, .. }) = target.members.as_mut().map(|members| &mut members.source)
    else {
        panic!("{:?}", target.members)
    };
    *endpoints = sorted.into();
    target
}

/// A target whose every scrape polls.
fn polled_by_scrapes(mut target: Target) -> Target {
    target.max_age = Duration::ZERO;
    target
}

async fn answer(pollers: &Pollers, target: &Target) -> Arc<Snapshot> {
    pollers.get(&target.id).unwrap().answer(PATIENCE).await
}

async fn poll(target: Target) -> Arc<Snapshot> {
    support::poll_once(target).await
}

async fn broker(seed: u64) -> (Broker, Simulated) {
    let broker = Broker::new(seed);
    let server = Simulated::serve(broker.routes(), ([127, 0, 0, 1], 0).into()).await.unwrap();
    (broker, server)
}

/// The value of a series; `None` if it is not there.
fn value(snapshot: &Snapshot, name: &str) -> Option<f64> {
    series(&text(snapshot)).get(name).copied()
}

/// The pods that have series of the kind.
fn pods(snapshot: &Snapshot) -> BTreeSet<String> {
    let text = text(snapshot);
    let lines = text.lines().filter(|line| line.starts_with("orion_up{"));
    lines.map(|line| line.split('"').nth(1).unwrap().to_owned()).collect()
}

fn states(snapshot: &Snapshot) -> BTreeMap<String, f64> {
    let states = ["up", "down", "terminating", "not_ready", "over_limit"];
    let value = |state| value(snapshot, &format!("probe_members{{state=\"{state}\"}}")).unwrap();
    states.into_iter().map(|state| (state.to_owned(), value(state))).filter(|(_, count)| *count > 0.0).collect()
}

fn counted<const N: usize>(states: [(&str, f64); N]) -> BTreeMap<String, f64> {
    states.into_iter().map(|(state, count)| (state.to_owned(), count)).collect()
}

#[tokio::test]
async fn every_series_of_a_member_has_its_pod_and_generic_families_stay_one_series() {
    let (one, two) = (broker(1).await.1, broker(2).await.1);
    let snapshot = poll(target(Type::Orion, &[pod("orion-a", one.address), pod("orion-b", two.address)])).await;
    let all = series(&text(&snapshot));
    for (name, _) in all.iter().filter(|(name, _)| name.starts_with("orion_")) {
        assert!(name.contains("{pod=\"orion-a\"") || name.contains("{pod=\"orion-b\""), "{name}");
    }
    let of_pod = |pod: &str| -> BTreeSet<String> {
        let label = format!("pod=\"{pod}\"");
        all.keys().filter(|name| name.contains(&label)).map(|name| name.replace(&label, "")).collect()
    };
    // Tenants and services differ by seed; what every broker has is there for both.
    for family in [
        "orion_up{}",
        "probe_member_success{}",
        "probe_member_duration_seconds{}",
        "probe_call_success{,call=\"admin_metrics\"}",
    ] {
        assert!(of_pod("orion-a").contains(family) && of_pod("orion-b").contains(family), "{family}: {all:#?}");
    }
    for name in [
        "probe_success",
        "probe_duration_seconds",
        "probe_timestamp_seconds",
        "probe_series_dropped",
        "probe_skipped_fields",
    ] {
        assert_eq!(all.keys().filter(|series| series.split('{').next() == Some(name)).count(), 1, "{name}");
    }
    assert_eq!(all["probe_success"], 1.0);
    let info =
        format!("probe_member_info{{pod=\"orion-a\",address=\"{}\",node=\"node-1\",zone=\"zone-a\"}}", one.address);
    assert_eq!(all.get(&info), Some(&1.0), "{all:#?}");
    assert_eq!(states(&snapshot), counted([("up", 2.0)]));
    let text = text(&snapshot);
    let headers: Vec<&str> = text.lines().filter(|line| line.starts_with("# TYPE ")).collect();
    assert_eq!(headers.iter().collect::<BTreeSet<_>>().len(), headers.len(), "a family comes twice");
    assert_eq!(snapshot.samples, all.len());
}

#[tokio::test]
async fn a_member_without_a_pod_is_labelled_by_its_address() {
    let server = broker(1).await.1;
    let snapshot = poll(target(Type::Orion, &[Member::at(server.address)])).await;
    assert_eq!(value(&snapshot, &format!("orion_up{{member=\"{}\"}}", server.address)), Some(1.0));
}

#[tokio::test]
async fn a_member_with_any_fault_costs_its_own_series_only() {
    let good = broker(1).await.1;
    for fault in [Fault::HangsBeforeTheAnswer, Fault::Endless, Fault::CompressedBomb, Fault::DeepJson, Fault::Resets] {
        let bad = Faulty::start(fault).await;
        let mut target = target(Type::Orion, &[pod("a-bad", bad.address), pod("b-good", good.address)]);
        target.timeout = Duration::from_secs(3);
        let snapshot = poll(target).await;
        assert_eq!(snapshot.failure, None, "{fault:?}");
        assert_eq!(value(&snapshot, "orion_up{pod=\"b-good\"}"), Some(1.0), "{fault:?}");
        assert_eq!(value(&snapshot, "orion_up{pod=\"a-bad\"}"), Some(0.0), "{fault:?}");
        assert_eq!(value(&snapshot, "probe_member_success{pod=\"a-bad\"}"), Some(0.0), "{fault:?}");
        assert_eq!(states(&snapshot), counted([("up", 1.0), ("down", 1.0)]), "{fault:?}");
        let failures =
            series(&text(&snapshot)).into_keys().filter(|name| name.starts_with("probe_member_failure_info")).count();
        assert_eq!(failures, 1, "{fault:?}");
    }
}

#[tokio::test]
async fn a_target_is_down_for_the_reason_that_most_of_its_members_have() {
    let refusing = Faulty::start(Fault::Closes).await;
    let (broker, erroneous) = broker(1).await;
    broker.switch().set(Mode::Status(500));
    let members = [
        pod("a", refusing.address),
        pod("b", erroneous.address),
        pod("c", erroneous.address),
        pod("d", erroneous.address),
    ];
    let snapshot = poll(target(Type::Orion, &members)).await;
    let failure = snapshot.failure.as_ref().unwrap();
    assert_eq!(failure.reason, Reason::HttpStatus);
    assert!(
        failure.message.starts_with("no member of 4 answered, 3 of them for this reason; b: "),
        "{}",
        failure.message
    );
    assert_eq!(value(&snapshot, "probe_success"), Some(0.0));
    assert_eq!(value(&snapshot, "probe_failure_info{reason=\"http_status\"}"), Some(1.0));
}

#[tokio::test]
async fn a_target_without_members_says_so() {
    let snapshot = poll(target(Type::Orion, &[])).await;
    assert_eq!(snapshot.failure.as_ref().map(|failure| failure.reason), Some(Reason::NoMembers));
    assert_eq!(value(&snapshot, "probe_failure_info{reason=\"no_members\"}"), Some(1.0));
    assert_eq!(states(&snapshot), BTreeMap::new());
    let server = broker(1).await.1;
    let unready = Member { ready: false, serving: false, ..pod("a", server.address) };
    let snapshot = poll(target(Type::Orion, &[unready])).await;
    assert_eq!(snapshot.failure.as_ref().map(|failure| failure.reason), Some(Reason::NoMembers));
    assert_eq!(states(&snapshot), counted([("not_ready", 1.0)]));
    assert_eq!(pods(&snapshot), BTreeSet::new());
}

#[tokio::test]
async fn include_and_limit_say_who_is_polled() {
    let server = broker(1).await.1;
    let ready = pod("ready", server.address);
    let draining = Member { ready: false, terminating: true, ..pod("draining", server.address) };
    let starting = Member { ready: false, serving: false, ..pod("starting", server.address) };
    let all = [ready, draining, starting];
    for (include, polled, counts) in [
        (Include::Serving, vec!["draining", "ready"], counted([("up", 1.0), ("terminating", 1.0), ("not_ready", 1.0)])),
        (Include::Ready, vec!["ready"], counted([("up", 1.0), ("terminating", 1.0), ("not_ready", 1.0)])),
        (Include::All, vec!["draining", "ready", "starting"], counted([("up", 2.0), ("terminating", 1.0)])),
    ] {
        let mut target = target(Type::Orion, &all);
        target.members.as_mut().unwrap().include = include;
        let snapshot = poll(target).await;
        assert_eq!(pods(&snapshot), polled.into_iter().map(str::to_owned).collect(), "{include:?}");
        assert_eq!(states(&snapshot), counts, "{include:?}");
    }
    let mut target = target(Type::Orion, &["c", "a", "b"].map(|name| pod(name, server.address)));
    target.members.as_mut().unwrap().limit = 2;
    let snapshot = poll(target).await;
    assert_eq!(pods(&snapshot), ["a", "b"].map(str::to_owned).into(), "the first by name");
    assert_eq!(states(&snapshot), counted([("up", 2.0), ("over_limit", 1.0)]));
}

#[tokio::test]
async fn a_terminating_member_that_fails_is_never_down_and_nobody_is_told() {
    let (good, gone) = (broker(1).await.1, Faulty::start(Fault::Closes).await);
    let stopping = Member { terminating: true, ..pod("stopping", gone.address) };
    let pollers = pollers();
    let target = target(Type::Orion, &[pod("good", good.address), stopping.clone()]);
    pollers.apply([target.clone()]);
    let snapshot = answer(&pollers, &target).await;
    assert_eq!(states(&snapshot), counted([("up", 1.0), ("terminating", 1.0)]));
    assert_eq!(value(&snapshot, "probe_member_success{pod=\"stopping\"}"), None);
    assert!(!text(&snapshot).contains("probe_member_failure_info"));
    let status = pollers.get(&target.id).unwrap().status();
    assert_eq!((status.state, status.partial), (TargetState::Up, None));
    assert_eq!(status.members, Some(MemberCounts { found: 2, up: 1 }));
    let alone = poll(with(target, &[stopping])).await;
    assert_eq!(alone.failure.as_ref().map(|failure| failure.reason), Some(Reason::Connect), "there is nobody else");
}

#[tokio::test]
async fn the_series_of_a_member_end_when_it_goes_and_begin_when_it_comes_without_another_round() {
    let (one, two) = (broker(1).await.1, broker(2).await.1);
    let (a, b, c) = (pod("a", one.address), pod("b", two.address), pod("c", one.address));
    let pollers = pollers();
    let target = target(Type::Orion, &[a.clone(), b.clone()]);
    pollers.apply([target.clone()]);
    let first = answer(&pollers, &target).await;
    assert_eq!(pods(&first), ["a", "b"].map(str::to_owned).into());
    let kept = |snapshot: &Snapshot| -> BTreeMap<String, f64> {
        series(&text(snapshot))
            .into_iter()
            .filter(|(name, _)| name.starts_with("orion_") && name.contains("pod=\"b\""))
            .collect()
    };
    pollers.apply([with(target.clone(), &[b.clone(), c])]);
    let changed = eventually(PATIENCE, async || {
        let snapshot = answer(&pollers, &target).await;
        if pods(&snapshot) == ["b", "c"].map(str::to_owned).into() {
            Ok(snapshot)
        } else {
            Err(format!("{:?}", pods(&snapshot)))
        }
    })
    .await;
    assert_eq!(kept(&changed), kept(&first), "the member that stays was not polled again");
    assert_eq!(changed.ended, first.ended, "a change of the members makes nothing younger");
    assert!(!text(&changed).contains("pod=\"a\""));
    assert_eq!(changed.samples, series(&text(&changed)).len());
    pollers.apply([with(target.clone(), &[b])]);
    eventually(PATIENCE, async || {
        let snapshot = answer(&pollers, &target).await;
        if pods(&snapshot) == ["b".to_owned()].into() { Ok(()) } else { Err(format!("{:?}", pods(&snapshot))) }
    })
    .await;
}

#[tokio::test]
async fn a_change_of_the_members_takes_effect_while_another_member_hangs() {
    let (hanging, one, two) = (Faulty::start(Fault::HangsBeforeTheAnswer).await, broker(1).await.1, broker(2).await.1);
    let pollers = pollers();
    let (h, a, b) = (pod("hanging", hanging.address), pod("a", one.address), pod("b", two.address));
    let mut target = target(Type::Orion, std::slice::from_ref(&a));
    target.timeout = PATIENCE * 4;
    pollers.apply([target.clone()]);
    answer(&pollers, &target).await;
    target = with(target, &[a, h.clone()]);
    pollers.apply([target.clone()]);
    eventually(PATIENCE, async || {
        if hanging.connections.load(Ordering::SeqCst) > 0 { Ok(()) } else { Err("no connection".to_owned()) }
    })
    .await;
    pollers.apply([with(target.clone(), &[h, b])]);
    eventually(PATIENCE, async || {
        let snapshot = answer(&pollers, &target).await;
        if pods(&snapshot) == ["b".to_owned()].into() { Ok(()) } else { Err(format!("{:?}", pods(&snapshot))) }
    })
    .await;
}

#[tokio::test]
async fn a_target_whose_members_are_all_new_keeps_no_series_of_those_that_are_gone() {
    let (server, hanging) = (broker(1).await.1, Faulty::start(Fault::HangsBeforeTheAnswer).await);
    let pollers = pollers();
    let mut target = target(Type::Orion, &[pod("old", server.address)]);
    target.timeout = PATIENCE * 4;
    pollers.apply([target.clone()]);
    answer(&pollers, &target).await;
    pollers.apply([with(target.clone(), &[pod("new", hanging.address)])]);
    eventually(PATIENCE, async || {
        let snapshot = answer(&pollers, &target).await;
        let reason = snapshot.failure.as_ref().map(|failure| failure.reason);
        if (pods(&snapshot), reason) == (BTreeSet::new(), Some(Reason::Pending)) {
            Ok(())
        } else {
            Err(format!("{reason:?}"))
        }
    })
    .await;
    assert_eq!(pollers.get(&target.id).unwrap().status().state, TargetState::Pending, "which is not down");
}

#[tokio::test]
async fn after_a_change_of_what_is_polled_no_older_result_of_any_member_is_served() {
    let (broker, server) = broker(1).await;
    let pollers = pollers();
    let target = target(Type::Orion, &[pod("a", server.address), pod("b", server.address)]);
    pollers.apply([target.clone()]);
    assert_eq!(pods(&*answer(&pollers, &target).await).len(), 2);
    broker.switch().set(Mode::Status(500));
    let changed = redeclared(&target, |spec| spec.url = "http://other.media.svc:1026/".to_owned());
    pollers.apply([changed]);
    let snapshot = answer(&pollers, &target).await;
    assert_eq!(snapshot.failure.as_ref().map(|failure| failure.reason), Some(Reason::HttpStatus));
    assert_eq!(states(&snapshot), counted([("down", 2.0)]));
}

#[tokio::test]
async fn members_that_come_and_hang_without_end_do_not_keep_the_others_from_being_polled() {
    let (server, hanging) = (broker(1).await.1, Faulty::start(Fault::HangsBeforeTheAnswer).await);
    let pollers = pollers();
    let good = pod("good", server.address);
    let mut target = target(Type::Orion, std::slice::from_ref(&good));
    (target.interval, target.timeout) = (Duration::from_secs(2), Duration::from_secs(2));
    pollers.apply([target.clone()]);
    let mut ended = answer(&pollers, &target).await.ended;
    let mut rounds = 0;
    for number in 0_u64.. {
        assert!(number < PATIENCE.as_secs() * 4, "{rounds} rounds have ended");
        pollers.apply([with(target.clone(), &[good.clone(), pod(&format!("hanging-{number}"), hanging.address)])]);
        tokio::time::sleep(Duration::from_millis(250)).await;
        let newest = pollers.get(&target.id).unwrap().newest().unwrap();
        if newest.ended > ended {
            assert_eq!(value(&newest, "orion_up{pod=\"good\"}"), Some(1.0));
            (ended, rounds) = (newest.ended, rounds + 1);
        }
        if rounds == 3 {
            return;
        }
    }
}

#[tokio::test]
async fn a_pod_that_is_replaced_without_end_is_not_polled_without_end() {
    const LIMIT: usize = 3;
    let server = Faulty::start(Fault::Closes).await;
    let pollers = pollers();
    let pod = |uid: usize| Member { uid: uid.to_string().into(), ..pod("a", server.address) };
    let mut target = target(Type::Orion, &[pod(0)]);
    target.members.as_mut().unwrap().limit = LIMIT;
    pollers.apply([target.clone()]);
    let calls = answer(&pollers, &target).await.requests.len(); // each on a connection of its own, since the last was closed
    for uid in 1..50 {
        pollers.apply([with(target.clone(), &[pod(uid)])]);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let polls = server.connections.load(Ordering::SeqCst).div_ceil(calls);
    assert!((2..=1 + LIMIT).contains(&polls), "{polls} polls in one interval");
}

#[tokio::test]
async fn of_thousands_of_endpoints_those_that_are_not_polled_are_counted_and_few_are_kept() {
    let server = broker(1).await.1;
    let members: Vec<Member> = (0..5000).map(|i| pod(&format!("orion-{i:04}"), server.address)).collect();
    let mut target = target(Type::Orion, &members);
    target.members.as_mut().unwrap().limit = 1;
    let pollers = pollers();
    pollers.apply([target.clone()]);
    let snapshot = answer(&pollers, &target).await;
    assert_eq!(states(&snapshot), counted([("up", 1.0), ("over_limit", 4999.0)]));
    assert_eq!(pollers.get(&target.id).unwrap().status().members, Some(MemberCounts { found: 5000, up: 1 }));
    assert!(snapshot.members.as_ref().unwrap().len() <= 101);
}

/// The sum of the counters that the exporter accumulates.
fn accumulated(snapshot: &Snapshot) -> f64 {
    let all = series(&text(snapshot));
    all.iter()
        .filter(|(name, _)| name.starts_with("mediasoup_") && name.contains("bytes_total"))
        .map(|(_, value)| value)
        .sum()
}

#[tokio::test]
async fn the_memory_of_a_process_goes_with_the_uid_of_its_pod() {
    let agent = Agent::new(7);
    let server = Simulated::serve(agent.routes(), ([127, 0, 0, 1], 0).into()).await.unwrap();
    let pollers = pollers_with(Limits::new(1 << 20, 8 << 20), false);
    let member = pod("room-0", server.address);
    let target = polled_by_scrapes(target(Type::Mediasoup, std::slice::from_ref(&member)));
    pollers.apply([target.clone()]);
    for _ in 0..3 {
        agent.pass(Duration::from_secs(60));
        answer(&pollers, &target).await;
    }
    let before = accumulated(&*answer(&pollers, &target).await);
    assert!(before > 0.0);
    let moved = Member { node: Some("node-2".into()), ..member.clone() };
    pollers.apply([with(target.clone(), &[moved])]);
    let same = answer(&pollers, &target).await;
    assert!(accumulated(&same) >= before, "it is the same process: {before}, then\n{}", text(&same));
    let replaced = Member { uid: "another".into(), ..member };
    pollers.apply([with(target.clone(), &[replaced])]);
    let other = answer(&pollers, &target).await;
    let after = accumulated(&other);
    assert_eq!(other.failure, None);
    assert!(after < before, "{after} of {before}: another process has the name now");
}

#[tokio::test]
async fn an_address_that_another_pod_has_taken_over_is_not_counted_under_the_old_name() {
    let server = broker(1).await.1;
    let pollers = pollers();
    let target = target(Type::Orion, &[pod("old", server.address)]);
    pollers.apply([target.clone()]);
    assert_eq!(pods(&*answer(&pollers, &target).await), ["old".to_owned()].into());
    pollers.apply([with(target.clone(), &[pod("new", server.address)])]);
    eventually(PATIENCE, async || {
        let snapshot = answer(&pollers, &target).await;
        let text = text(&snapshot);
        match (text.contains("pod=\"old\""), text.contains("orion_up{pod=\"new\"} 1")) {
            (false, true) => Ok(()),
            seen => Err(format!("{seen:?}")),
        }
    })
    .await;
}

#[tokio::test]
async fn a_scrape_joins_a_round_as_it_joins_a_poll() {
    let (one, two) = (broker(1).await.1, Faulty::start(Fault::HangsBeforeTheAnswer).await);
    let pollers = pollers_with(Limits::new(1 << 20, 8 << 20), false);
    let mut target = polled_by_scrapes(target(Type::Orion, &[pod("a", one.address), pod("b", two.address)]));
    target.timeout = Duration::from_secs(2);
    pollers.apply([target.clone()]);
    let scrapes: Vec<_> = (0..50)
        .map(|_| {
            let poller = pollers.get(&target.id).unwrap();
            tokio::spawn(async move { poller.answer(PATIENCE).await })
        })
        .collect();
    for scrape in scrapes {
        assert_eq!(pods(&scrape.await.unwrap()).len(), 2);
    }
    assert!(two.connections.load(Ordering::SeqCst) <= 2, "{:?}", two.connections);
}

#[tokio::test]
async fn the_host_header_is_that_of_the_url() {
    let routes = Router::new().fallback(|headers: HeaderMap| async move {
        let host = headers["host"].to_str().unwrap().to_owned();
        format!("# TYPE app_host gauge\napp_host{{host=\"{host}\",pod=\"theirs\"}} 1\n")
    });
    let server = Simulated::serve(routes, ([127, 0, 0, 1], 0).into()).await.unwrap();
    let target = resolve(passed_on("http://app.media.svc:1026/metrics"));
    let snapshot = poll(with(target, &[pod("a", server.address)])).await;
    let wanted = "app_host{pod=\"a\",host=\"app.media.svc:1026\",exported_pod=\"theirs\"}";
    assert_eq!(value(&snapshot, wanted), Some(1.0), "{}", text(&snapshot));
}

#[tokio::test]
async fn a_target_is_partly_up_by_the_first_failure_and_members_are_reported() {
    let (good, bad) = (broker(1).await.1, Faulty::start(Fault::Closes).await);
    let pollers = pollers();
    let target = target(Type::Orion, &[pod("c-bad", bad.address), pod("b-bad", bad.address), pod("a", good.address)]);
    pollers.apply([target.clone()]);
    let snapshot = answer(&pollers, &target).await;
    let status = pollers.get(&target.id).unwrap().status();
    assert_eq!((status.state, status.partial.as_deref()), (TargetState::Up, Some("1 of 3 answered; b-bad: connect")));
    assert_eq!(status.members, Some(MemberCounts { found: 3, up: 1 }));
    let reports = snapshot.members.as_deref().unwrap();
    let named: Vec<(&str, MemberState)> = reports.iter().map(|report| (&*report.member.name, report.state)).collect();
    assert_eq!(named, [("a", MemberState::Up), ("b-bad", MemberState::Down), ("c-bad", MemberState::Down)]);
    assert!(reports.iter().all(|report| report.poll.is_some()));
    assert!(reports[1].failure.as_ref().is_some_and(|failure| failure.reason == Reason::Connect));
}

#[tokio::test]
async fn five_hundred_members_are_one_answer_within_their_limit() {
    let server = broker(1).await.1;
    let members: Vec<Member> = (0..600).map(|i| pod(&format!("orion-{i:03}"), server.address)).collect();
    let mut target = target(Type::Orion, &members);
    target.members.as_mut().unwrap().limit = 500;
    let snapshot = poll(target).await;
    assert_eq!(snapshot.failure, None);
    assert_eq!(pods(&snapshot).len(), 500);
    assert_eq!(states(&snapshot), counted([("up", 500.0), ("over_limit", 100.0)]));
    let of_kind = series(&text(&snapshot)).into_keys().filter(|name| name.starts_with("orion_")).count();
    assert!(of_kind <= 50_000, "{of_kind} series");
}

#[tokio::test]
async fn the_members_of_a_name_are_all_its_addresses_and_follow_them() {
    if !inside("the_members_of_a_name_are_all_its_addresses_and_follow_them", &[]) {
        return;
    }
    let dns = Dns::start().await;
    dns.time_to_live(1);
    let one = numbered_at(([127, 0, 0, 2], 0).into(), 1).await;
    let port = one.address.port();
    let _two = numbered_at(([127, 0, 0, 3], port).into(), 2).await;
    let mut spec = passed_on(&format!("http://app.test:{port}/metrics"));
    (spec["members"], spec["interval"]) = (serde_json::json!({ "dns": {} }), "1s".into());
    let target = polled_by_scrapes(resolve(spec));
    let pollers = pollers_with(Limits::new(1 << 20, 8 << 20), false);
    pollers.apply([target.clone()]);
    let until = async |wanted: &[(&str, f64)], reason: Option<Reason>| {
        let wanted: BTreeMap<String, f64> = wanted
            .iter()
            .map(|(address, number)| (format!("app_server{{member=\"{address}:{port}\"}}"), *number))
            .collect();
        eventually(PATIENCE, async || {
            let snapshot = answer(&pollers, &target).await;
            let all = series(&text(&snapshot)).into_iter().filter(|(name, _)| name.starts_with("app_server"));
            let (found, failed): (BTreeMap<String, f64>, _) =
                (all.collect(), snapshot.failure.as_ref().map(|failure| failure.reason));
            if (&found, failed) == (&wanted, reason) {
                Ok(())
            } else {
                Err(format!("{found:?}, {failed:?}, not {wanted:?}"))
            }
        })
        .await;
    };
    dns.name("app.test", &["127.0.0.2"]);
    until(&[("127.0.0.2", 1.0)], None).await;
    dns.name("app.test", &["127.0.0.3", "127.0.0.2", "::1"]);
    until(&[("127.0.0.2", 1.0), ("127.0.0.3", 2.0)], None).await;
    dns.forget("app.test");
    until(&[], Some(Reason::Dns)).await;
    dns.name("app.test", &["127.0.0.3"]);
    until(&[("127.0.0.3", 2.0)], None).await;
    dns.name("app.test", &[]);
    until(&[], Some(Reason::NoMembers)).await;
}

#[tokio::test]
async fn after_a_change_of_the_host_nothing_is_sent_to_the_addresses_of_the_old_one() {
    if !inside("after_a_change_of_the_host_nothing_is_sent_to_the_addresses_of_the_old_one", &[]) {
        return;
    }
    let dns = Dns::start().await;
    let (old, new) = (Faulty::start(Fault::Closes).await, numbered_at(([127, 0, 0, 2], 0).into(), 2).await);
    dns.name("old.test", &["127.0.0.1"]);
    dns.name("new.test", &["127.0.0.2"]);
    let target = |url: &str| {
        let mut spec = passed_on(url);
        (spec["members"], spec["interval"]) = (serde_json::json!({ "dns": {} }), "1h".into());
        resolve(spec)
    };
    let pollers = pollers();
    let before = target(&format!("http://old.test:{}/metrics", old.address.port()));
    pollers.apply([before.clone()]);
    answer(&pollers, &before).await;
    let connections = old.connections.load(Ordering::SeqCst);
    let after = target(&format!("http://new.test:{}/metrics", new.address.port()));
    pollers.apply([after.clone()]);
    let snapshot = answer(&pollers, &after).await;
    assert_eq!(value(&snapshot, &format!("app_server{{member=\"{}\"}}", new.address)), Some(2.0));
    assert_eq!((connections, old.connections.load(Ordering::SeqCst)), (1, 1));
}

#[tokio::test]
async fn while_addresses_are_known_silent_name_servers_keep_nothing_from_being_polled() {
    if !inside("while_addresses_are_known_silent_name_servers_keep_nothing_from_being_polled", &[]) {
        return;
    }
    let dns = Dns::start().await;
    dns.time_to_live(1);
    dns.name("app.test", &["127.0.0.2"]);
    let server = numbered_at(([127, 0, 0, 2], 0).into(), 2).await;
    let mut spec = passed_on(&format!("http://app.test:{}/metrics", server.address.port()));
    spec["members"] = serde_json::json!({ "dns": {} });
    let mut target = polled_by_scrapes(resolve(spec));
    (target.interval, target.spread, target.timeout) =
        (Duration::from_secs(1), Duration::from_millis(100), PATIENCE * 4);
    let pollers = pollers_with(Limits::new(1 << 20, 8 << 20), false);
    pollers.apply([target.clone()]);
    answer(&pollers, &target).await;
    dns.silent_about("test");
    let asked = dns.asked().len();
    eventually(PATIENCE, async || {
        answer(&pollers, &target).await;
        if dns.asked().len() > asked { Ok(()) } else { Err("the name was not asked for again".to_owned()) }
    })
    .await;
    let snapshot = answer(&pollers, &target).await;
    let found = value(&snapshot, &format!("app_server{{member=\"{}\"}}", server.address));
    assert_eq!(found, Some(2.0), "{:?}\n{}", snapshot.failure, text(&snapshot));
}

/// The spec of a target whose servers' own metrics are passed on.
fn passed_on(url: &str) -> serde_json::Value {
    let mut spec = serde_json::to_value(ScrapeTargetSpec::new(Type::Mediasoup, url)).unwrap();
    spec["mediasoup"] = serde_json::json!({ "source": "Prometheus" });
    spec["members"] = serde_json::json!({ "service": {} });
    spec
}

fn resolve(spec: serde_json::Value) -> Target {
    let declaration = ParsedTarget::parse(ScrapeTarget::new("app", serde_json::from_value(spec).unwrap())).unwrap();
    Target::resolve(TargetId::new("media", "app"), Arc::new(declaration), &NoObjects)
}

/// A server that says which one it is.
async fn numbered(number: usize) -> Simulated {
    numbered_at(([127, 0, 0, 1], 0).into(), number).await
}

async fn numbered_at(address: SocketAddr, number: usize) -> Simulated {
    let routes =
        Router::new().fallback(move || async move { format!("# TYPE app_server gauge\napp_server {number}\n") });
    Simulated::serve(routes, address).await.unwrap()
}

const SERVERS: usize = 4;

/// What happens to the pod of a name.
#[derive(Clone, Debug)]
enum Change {
    /// It is there, at this server, in this incarnation, and as ready as this.
    Is { name: u8, server: usize, uid: u8, serving: bool, terminating: bool },
    /// It is gone.
    Gone { name: u8 },
    /// Time passes, so that what was changed so far may take effect.
    Pause,
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        4 => (0..5_u8, 0..SERVERS, 0..3_u8, proptest::bool::weighted(0.8), proptest::bool::weighted(0.2))
            .prop_map(|(name, server, uid, serving, terminating)| Change::Is { name, server, uid, serving, terminating }),
        2 => (0..5_u8).prop_map(|name| Change::Gone { name }),
        1 => Just(Change::Pause),
    ]
}

/// Plays `changes`, and waits until the answer says what is true at the end: each pod that is polled, with the server that it is on.
async fn play(servers: &[Simulated], changes: Vec<Change>) {
    let mut spec = passed_on("http://app.media.svc:1026/metrics");
    (spec["interval"], spec["maxAge"]) = ("1h".into(), "1h".into());
    let target = resolve(spec);
    let pollers = pollers();
    pollers.apply([target.clone()]);
    answer(&pollers, &target).await;
    let mut pods: BTreeMap<u8, (usize, Member)> = BTreeMap::new();
    for change in changes {
        match change {
            Change::Is { name, server, uid, serving, terminating } => {
                let member = Member {
                    uid: uid.to_string().into(),
                    ready: serving && !terminating,
                    serving,
                    terminating,
                    ..pod(&format!("pod-{name}"), servers[server].address)
                };
                pods.insert(name, (server, member));
            }
            Change::Gone { name } => _ = pods.remove(&name),
            Change::Pause => tokio::time::sleep(Duration::from_millis(300)).await,
        }
        let members: Vec<Member> = pods.values().map(|(_, member)| member.clone()).collect();
        pollers.apply([with(target.clone(), &members)]);
    }
    let polled = pods.values().filter(|(_, member)| member.serving);
    let wanted: BTreeMap<String, f64> = polled
        .map(|(server, member)| {
            (format!("app_server{{pod=\"{}\"}}", member.name), f64::from(u32::try_from(*server).unwrap()))
        })
        .collect();
    let found_all = pods.len();
    eventually(PATIENCE, async || {
        let snapshot = answer(&pollers, &target).await;
        let all = series(&text(&snapshot));
        let found: BTreeMap<String, f64> = all.into_iter().filter(|(name, _)| name.starts_with("app_server")).collect();
        let counts = pollers.get(&target.id).unwrap().status().members;
        let counted = counts == Some(MemberCounts { found: found_all, up: wanted.len() });
        if found == wanted && counted { Ok(()) } else { Err(format!("{found:?} and {counts:?}, not {wanted:?}")) }
    })
    .await;
    pollers.shutdown().await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 40, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_to_pods_each_is_there_in_the_end_with_its_own_server(changes in proptest::collection::vec(change(), 1..14)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let servers = futures::future::join_all((0..SERVERS).map(numbered)).await;
            play(&servers, changes).await;
        });
    }
}
