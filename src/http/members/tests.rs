//! Targets with members that were made by hand, for the tests of all responses that show them.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::*;
use crate::kind::Reason;
use crate::metric::{Families, Format, Suffix, Type};
use crate::poll::{CallRecord, Failure, MemberCounts, MemberPoll, TargetState, TargetStatus, test_snapshot};
use crate::target::{Lookup, LookupError, ObjectKind, ParsedTarget, TargetId};

struct NoObjects;

impl Lookup for NoObjects {
    fn value(&self, kind: ObjectKind, namespace: &str, name: &str, _: &str) -> Result<Vec<u8>, LookupError> {
        Err(LookupError::NoObject { kind, namespace: namespace.to_owned(), name: name.to_owned() })
    }
}

/// A target in the namespace `webrtc` with the endpoints of a Service as its members.
pub(in crate::http) fn target(name: &str) -> Target {
    let url = format!("http://{name}.webrtc.svc:9851/");
    declared(name, &serde_json::json!({ "type": "Mediasoup", "url": url, "members": { "service": {} } }))
}

/// A web server that is probed, in the same namespace.
pub(in crate::http) fn probed_target(name: &str) -> Target {
    declared(name, &serde_json::json!({ "type": "Http", "url": format!("http://{name}.webrtc.svc/") }))
}

fn declared(name: &str, spec: &serde_json::Value) -> Target {
    let declaration = serde_json::json!({
        "apiVersion": "scrapetarget.dev/v1alpha1",
        "kind": "ScrapeTarget",
        "metadata": { "name": name },
        "spec": spec,
    });
    let declaration = ParsedTarget::parse(serde_json::from_value(declaration).unwrap()).unwrap();
    Target::resolve(TargetId::new("webrtc", name), Arc::new(declaration), &NoObjects)
}

/// The pod with this number. It was polled if its state says so; it failed if it is down.
pub(in crate::http) fn pod(number: u8, state: MemberState) -> MemberReport {
    let failure = (state == MemberState::Down)
        .then(|| Failure { reason: Reason::Connect, message: "stats: Connection refused".into() });
    let is_polled = matches!(state, MemberState::Up | MemberState::Down | MemberState::Terminating);
    let call = CallRecord {
        call: "stats",
        duration: Duration::from_millis(7),
        status: failure.is_none().then_some(200),
        bytes: 2048,
        error: failure.as_ref().map(|_| "Connection refused".into()),
        beginning: None,
    };
    let poll = MemberPoll {
        ended_at: SystemTime::now() - Duration::from_secs(3),
        duration: Duration::from_millis(12),
        samples: 2,
        calls: Arc::from([call]),
    };
    let member = Member {
        name: format!("rooms-{number:03}").into(),
        label: MemberLabel::Pod,
        uid: format!("uid-{number}").into(),
        node: Some("node-a".into()),
        zone: Some("zone-1".into()),
        ..Member::at(([10, 0, 0, number], 9851).into())
    };
    MemberReport { member, state, failure, poll: is_polled.then_some(poll) }
}

/// As many pods as `count`, of which the last one is down.
pub(in crate::http) fn pods(count: u8) -> Vec<MemberReport> {
    (1..=count).map(|number| pod(number, if number == count { MemberState::Down } else { MemberState::Up })).collect()
}

/// A poll of these members, with two series of each that answered.
pub(in crate::http) fn snapshot(members: Vec<MemberReport>) -> Snapshot {
    let mut families = Families::default();
    let rooms = families.family("rooms", Type::Gauge, "Rooms.").unwrap();
    let total = families.family("rooms_created_total", Type::Counter, "Rooms since the start.").unwrap();
    let own = families.family("target_success", Type::Gauge, "Of the target.").unwrap();
    families.set_dynamic(own, Suffix::None, &[], 1.0);
    for report in members.iter().filter(|report| report.poll.is_some() && report.failure.is_none()) {
        let pod = (report.member.label.as_str(), &*report.member.name);
        families.set_dynamic(rooms, Suffix::None, &[pod], 3.0);
        families.set_dynamic(total, Suffix::None, &[pod, ("kind", "{pod=\"rooms-001\"}")], 70.0);
    }
    let mut snapshot = test_snapshot(&families.finish(), Format::OpenMetrics);
    snapshot.members = Some(std::sync::Arc::new(members.into()));
    snapshot
}

/// The status of a target that is up, but for one member.
pub(in crate::http) fn status() -> TargetStatus {
    TargetStatus {
        state: TargetState::Up,
        failure: None,
        since: SystemTime::now(),
        last_success: Some(SystemTime::now()),
        members: Some(MemberCounts { found: 3, up: 2 }),
        partial: Some("2 of 3 answered; rooms-003: connect".into()),
    }
}

fn named(label: MemberLabel, name: &str) -> MemberParameter {
    MemberParameter { label, name: name.into() }
}

#[test]
fn members_that_fail_come_first_and_those_that_are_not_polled_last() {
    use MemberState::{Down, NotReady, OverLimit, Pending, Terminating, Up};
    let states = [OverLimit, Up, NotReady, Down, Terminating, Up, Pending, Down];
    let reports: Vec<MemberReport> = (1..).zip(states).map(|(number, state)| pod(number, state)).collect();
    let names: Vec<&str> = by_attention(&reports).into_iter().map(|report| &*report.member.name).collect();
    let order = [4, 8, 7, 5, 2, 6, 3, 1].map(|number| format!("rooms-{number:03}"));
    assert_eq!(names, order);
    let reports = MemberReports::from(reports);
    assert_eq!(reports.counts(), MemberCounts { found: 8, up: 3 });
    assert_eq!(by_state(&reports), "2 down, 1 pending, 1 terminating, 2 up, 1 not_ready, 1 over_limit");
}

#[test]
fn a_member_is_found_by_its_own_label_only() {
    let (target, snapshot) = (target("rooms"), snapshot(pods(3)));
    let found = named(MemberLabel::Pod, "rooms-002").find(&target, &snapshot).unwrap();
    assert_eq!(&*found.member.name, "rooms-002");
    let said = |parameter: MemberParameter| {
        let ErrorResponse(status, text) = parameter.find(&target, &snapshot).unwrap_err();
        assert_eq!(status, StatusCode::NOT_FOUND);
        text
    };
    for parameter in [named(MemberLabel::Member, "rooms-002"), named(MemberLabel::Pod, "rooms-02")] {
        let text = said(parameter.clone());
        let sentence = format!(
            "target webrtc/rooms has no member {parameter}: it has 3, write one of pod=rooms-001, pod=rooms-002, pod=rooms-003"
        );
        assert_eq!(text, sentence);
    }
    let long = said(named(MemberLabel::Pod, &"\u{202e}\n".repeat(5000)));
    assert!(long.chars().count() < 700 && !long.contains(['\n', '\u{202e}']), "{long}");
}

#[test]
fn of_many_members_some_are_named() {
    let (target, many) = (target("rooms"), snapshot(pods(200)));
    let ErrorResponse(_, text) = named(MemberLabel::Pod, "x").find(&target, &many).unwrap_err();
    assert!(text.contains("it has 200, write one of pod=rooms-001, ") && text.contains("rooms-010, … ("), "{text}");
    assert!(!text.contains("rooms-011"), "{text}");
    let ErrorResponse(_, text) = named(MemberLabel::Pod, "x").find(&target, &snapshot(vec![])).unwrap_err();
    assert!(text.ends_with(": it has none"), "{text}");
    let mut unpolled = snapshot(vec![]);
    unpolled.members = None;
    let ErrorResponse(_, text) = named(MemberLabel::Pod, "x").find(&target, &unpolled).unwrap_err();
    assert!(text.contains("are not known: it was not polled yet"), "{text}");
}

#[test]
fn a_text_of_a_slice_stays_in_its_line_and_is_bounded() {
    assert_eq!(bounded("node-a"), "node-a");
    assert_eq!(bounded("node\n\u{202e}a"), "node\u{fffd}\u{fffd}a");
    assert_eq!(bounded(&"é".repeat(1000)), "é".repeat(253) + "…");
}
