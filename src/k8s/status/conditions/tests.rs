use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::crd::ScrapeTarget;
use crate::poll::Failure;

/// The facts that a [`StatusFacts`] borrows.
#[derive(Clone, Debug)]
struct OwnedFacts {
    observed: ScrapeTargetStatus,
    accepted: Option<Result<(), Problem>>,
    suspended: bool,
    has_members: bool,
    monitor: Option<MonitorState>,
    poll: Option<TargetStatus>,
    scrapes: Option<ScrapeFacts>,
    generation: i64,
    now: SystemTime,
}

impl OwnedFacts {
    /// The facts of a new target, of which nothing is known.
    fn new() -> Self {
        Self {
            observed: ScrapeTargetStatus::default(),
            accepted: None,
            suspended: false,
            has_members: false,
            monitor: None,
            poll: None,
            scrapes: Some(ScrapeFacts {
                interval: Duration::from_secs(15),
                last: None,
                watched_for: Duration::ZERO,
                mode: DiscoveryMode::ServiceMonitor,
                monitor: true,
            }),
            generation: 1,
            now: SystemTime::UNIX_EPOCH,
        }
    }

    /// The facts of a target that is accepted, has a monitor, and is polled and scraped.
    fn good() -> Self {
        let mut facts =
            Self { accepted: Some(Ok(())), monitor: Some(monitor(true)), poll: Some(poll(None)), ..Self::new() };
        facts.scrapes().last = Some(Duration::from_secs(3));
        facts
    }

    fn scrapes(&mut self) -> &mut ScrapeFacts {
        self.scrapes.as_mut().unwrap()
    }

    fn status(&self) -> ScrapeTargetStatus {
        status(&StatusFacts {
            now: self.now,
            generation: self.generation,
            observed: &self.observed,
            accepted: self.accepted.as_ref().map(|accepted| accepted.as_ref().copied()),
            suspended: self.suspended,
            has_members: self.has_members,
            monitor: self.monitor.as_ref(),
            poll: self.poll.as_ref(),
            scrapes: self.scrapes,
        })
    }

    /// Writes the status, and lets a minute pass.
    fn write(&mut self) {
        self.observed = self.status();
        self.now += Duration::from_secs(60);
    }

    /// The status and reason of a condition, as `True/Succeeded`.
    fn condition(&self, kind: &str) -> String {
        let status = self.status();
        let condition = find(&status, kind).unwrap();
        format!("{:?}/{}", condition.status, condition.reason)
    }

    fn message(&self, kind: &str) -> String {
        find(&self.status(), kind).unwrap().message.clone()
    }

    fn since(&self, kind: &str) -> String {
        find(&self.status(), kind).unwrap().last_transition_time.clone()
    }
}

fn monitor(ready: bool) -> MonitorState {
    if ready {
        state(ConditionStatus::True, "Written", "it is there")
    } else {
        state(ConditionStatus::False, "NameTaken", "it is somebody else's")
    }
}

fn state(status: ConditionStatus, reason: &'static str, message: &str) -> MonitorState {
    MonitorState { status, reason, message: message.to_owned() }
}

fn poll(failure: Option<(Reason, &str)>) -> TargetStatus {
    let state = match failure {
        None => TargetState::Up,
        Some((Reason::Pending, _)) => TargetState::Pending,
        Some((Reason::Suspended, _)) => TargetState::Suspended,
        Some((Reason::Config, _)) => TargetState::Invalid,
        Some(_) => TargetState::Down,
    };
    let failure = failure.map(|(reason, message)| Failure { reason, message: message.into() });
    TargetStatus { state, failure, since: SystemTime::UNIX_EPOCH, last_success: None, members: None, partial: None }
}

fn missing_secret() -> Problem {
    Problem { reason: "SecretNotFound", message: "Secret a/b does not exist".to_owned() }
}

const KINDS: [&str; 5] = [READY, ACCEPTED, MONITOR_READY, UP, SCRAPED];

#[test]
fn all_five_conditions_are_there_from_the_beginning_in_order_and_with_their_generation() {
    let status = OwnedFacts { generation: 7, ..OwnedFacts::new() }.status();
    assert_eq!(status.observed_generation, Some(7));
    assert_eq!(status.conditions.iter().map(|condition| condition.kind.as_str()).collect::<Vec<_>>(), KINDS);
    for condition in &status.conditions {
        assert_eq!(condition.observed_generation, Some(7));
        assert_eq!((condition.status, condition.reason.as_str()), (ConditionStatus::Unknown, "Pending"));
        assert_eq!(condition.last_transition_time, "1970-01-01T00:00:00Z");
        assert!(!condition.message.is_empty());
    }
    assert!(is_pending(&status) && is_pending(&ScrapeTargetStatus::default()));
}

#[test]
fn all_conditions_of_a_good_target_are_true() {
    let facts = OwnedFacts::good();
    let conditions = KINDS.map(|kind| facts.condition(kind));
    assert_eq!(conditions, ["True/Ready", "True/Accepted", "True/Written", "True/Succeeded", "True/Scraped"]);
    assert!(!is_pending(&facts.status()));
}

#[test]
fn what_is_not_accepted_is_not_ready_for_the_same_reason_and_not_polled() {
    let facts = OwnedFacts { accepted: Some(Err(missing_secret())), ..OwnedFacts::good() };
    for kind in [READY, ACCEPTED] {
        assert_eq!(facts.condition(kind), "False/SecretNotFound");
        assert_eq!(facts.message(kind), "Secret a/b does not exist");
    }
    assert_eq!(facts.condition(UP), "Unknown/Config");
}

#[test]
fn a_monitor_that_is_not_as_it_should_be_makes_it_not_ready_but_not_down() {
    let facts = OwnedFacts { monitor: Some(monitor(false)), ..OwnedFacts::good() };
    assert_eq!(facts.condition(READY), "False/NameTaken");
    assert_eq!(facts.condition(MONITOR_READY), "False/NameTaken");
    assert_eq!(facts.condition(UP), "True/Succeeded");
}

#[test]
fn readiness_does_not_depend_on_the_target() {
    let down = OwnedFacts { poll: Some(poll(Some((Reason::Connect, "refused")))), ..OwnedFacts::good() };
    assert_eq!((down.condition(UP).as_str(), down.condition(READY).as_str()), ("False/Connect", "True/Ready"));
}

#[test]
fn a_suspended_target_is_unknown_in_up_and_scraped() {
    let mut facts = OwnedFacts { suspended: true, ..OwnedFacts::good() };
    facts.scrapes().watched_for = Duration::from_secs(3600);
    assert_eq!(facts.condition(UP), "Unknown/Suspended");
    assert_eq!(facts.condition(SCRAPED), "Unknown/Suspended");
    facts.write();
    (facts.suspended, facts.generation) = (false, 2);
    *facts.scrapes() = ScrapeFacts { last: None, watched_for: Duration::ZERO, ..*facts.scrapes() };
    assert_eq!(facts.condition(SCRAPED), "Unknown/Pending", "the condition of the suspended target is not kept");
}

#[test]
fn a_declaration_that_is_not_understood_still_has_every_condition() {
    let problem = Problem::invalid_spec("spec.url: is no URL");
    let facts =
        OwnedFacts { accepted: Some(Err(problem)), poll: None, scrapes: None, monitor: None, ..OwnedFacts::new() };
    let conditions = KINDS.map(|kind| facts.condition(kind));
    assert_eq!(
        conditions,
        ["False/InvalidSpec", "False/InvalidSpec", "Unknown/Pending", "Unknown/Config", "Unknown/Config"]
    );
}

#[test]
fn a_restarted_exporter_keeps_the_observed_conditions_until_it_has_facts() {
    for mut before in [
        OwnedFacts::good(),
        OwnedFacts { poll: Some(poll(Some((Reason::Dns, "no such name")))), ..OwnedFacts::good() },
        OwnedFacts { accepted: Some(Err(missing_secret())), ..OwnedFacts::good() },
        OwnedFacts { suspended: true, ..OwnedFacts::good() },
    ] {
        before.write();
        let after = OwnedFacts { observed: before.observed.clone(), suspended: before.suspended, ..OwnedFacts::new() };
        assert_eq!(after.status(), before.observed);
    }
}

#[test]
fn a_restart_while_secrets_are_unread_writes_nothing_and_after_half_a_minute_they_are_reported() {
    let unread = Problem { reason: "SecretUnread", message: "Secret a/b could not be read yet".to_owned() };
    let second = Duration::from_secs(1);
    assert!(!is_worth_reporting(&unread, 29 * second) && is_worth_reporting(&unread, 30 * second));
    assert!(is_worth_reporting(&missing_secret(), Duration::ZERO));
    let mut before = OwnedFacts::good();
    before.write();
    let invalid = Some(poll(Some((Reason::Config, "Secret a/b could not be read yet"))));
    let after = OwnedFacts { accepted: None, poll: invalid, ..before.clone() };
    assert_eq!(after.status(), before.observed);
    let reported = OwnedFacts { accepted: Some(Err(unread)), ..after };
    assert_eq!((&*reported.condition(ACCEPTED), &*reported.condition(UP)), ("False/SecretUnread", "Unknown/Config"));
}

#[test]
fn conditions_of_another_generation_are_not_kept_except_for_scrapes() {
    let mut before = OwnedFacts::good();
    before.write();
    let after = OwnedFacts { observed: before.observed, generation: 2, ..OwnedFacts::new() };
    let conditions = KINDS.map(|kind| after.condition(kind));
    assert_eq!(
        conditions,
        ["Unknown/Pending", "Unknown/Pending", "Unknown/Pending", "Unknown/Pending", "True/Scraped"]
    );
}

#[test]
fn a_corrected_target_is_pending_until_its_first_poll_and_keeps_no_old_condition() {
    let mut facts = OwnedFacts { accepted: Some(Err(missing_secret())), ..OwnedFacts::good() };
    facts.write();
    let corrected = OwnedFacts { accepted: Some(Ok(())), poll: Some(poll(Some((Reason::Pending, "")))), ..facts };
    assert_eq!(corrected.condition(UP), "Unknown/Pending");
}

#[test]
fn a_time_moves_with_its_own_status_and_with_nothing_else() {
    let mut facts = OwnedFacts::good();
    facts.write();
    facts.poll = Some(poll(Some((Reason::Timeout, "no answer within 5s"))));
    assert_eq!(facts.since(UP), "1970-01-01T00:01:00Z");
    assert_eq!(facts.since(READY), "1970-01-01T00:00:00Z");
    facts.write();
    facts.poll = Some(poll(Some((Reason::Dns, "no such name"))));
    facts.generation = 2;
    assert_eq!(facts.condition(UP), "False/Dns");
    assert_eq!(facts.since(UP), "1970-01-01T00:01:00Z", "another reason is no transition");
    facts.write();
    facts.poll = Some(poll(None));
    assert_eq!(facts.since(UP), "1970-01-01T00:03:00Z");
}

#[test]
fn other_numbers_of_the_same_failure_are_not_written_but_another_generation_and_another_reason_are() {
    let mut facts = OwnedFacts { poll: Some(poll(Some((Reason::Timeout, "after 5.01s")))), ..OwnedFacts::good() };
    facts.write();
    facts.poll = Some(poll(Some((Reason::Timeout, "after 998ms"))));
    assert_eq!(facts.message(UP), "after 5.01s");
    assert!(is_up_to_date(&facts.observed, &facts.status()));
    facts.generation = 2;
    assert_eq!(facts.message(UP), "after 998ms");
    (facts.generation, facts.poll) = (1, Some(poll(Some((Reason::Body, "after 5.03s")))));
    assert_eq!(facts.message(UP), "after 5.03s");
}

#[test]
fn another_cause_of_a_failure_with_the_same_reason_is_written_as_a_message() {
    let refused = |message| Some(poll(Some((Reason::Auth, message))));
    let mut facts = OwnedFacts { poll: refused("token: the client is not known"), ..OwnedFacts::good() };
    facts.write();
    let since = facts.since(UP);
    facts.poll = refused("version: status 401");
    assert_eq!((facts.message(UP).as_str(), facts.since(UP)), ("version: status 401", since));
    assert_eq!(difference(&facts.observed, &facts.status()), Difference::Message);
    facts.poll = refused("version: status 403");
    assert_eq!(facts.message(UP), "version: status 403");
    facts.poll = Some(poll(Some((Reason::Connect, "version: status 401"))));
    assert_eq!(difference(&facts.observed, &facts.status()), Difference::Conditions);
}

#[test]
fn numbers_and_names_of_pods_make_no_other_cause_but_codes_and_fields_do() {
    for (one, other, is_same) in [
        ("expected u64 at line 1 column 147", "expected u64 at line 3 column 99", true),
        (
            "answered 200, but its body did not end in time (512 bytes received)",
            "answered 200, but its body did not end in time (98 bytes received)",
            true,
        ),
        (
            "no member of 120 answered; rooms-7d9f-x2: connect",
            "no member of 118 answered; rooms-7d9f-p4: connect",
            true,
        ),
        ("no connection to 10.0.3.7:1026", "no connection to [fd00::7]:1026", true),
        ("HTTP status 502", "HTTP status 503", false),
        ("the server answered 404, and not 200", "the server answered 500, and not 200", false),
        ("oauth2.proxyUrl: no connection", "oauth2.tokenUrl: no connection", false),
        ("the client is not known", "the scope is not known", false),
    ] {
        assert_eq!(has_same_words(one, other), is_same, "{one} and {other}");
    }
}

#[test]
fn a_long_message_is_compared_as_it_is_written() {
    let long = "no ".repeat(1000);
    let mut facts = OwnedFacts { poll: Some(poll(Some((Reason::Auth, &long)))), ..OwnedFacts::good() };
    facts.write();
    assert!(is_up_to_date(&facts.observed, &facts.status()));
}

#[test]
fn the_message_of_a_webhook_may_differ_each_time_and_is_written_once_for_each_generation() {
    for reason in ["Refused", "Failed"] {
        let refused = |words| Some(state(ConditionStatus::False, reason, words));
        let mut facts = OwnedFacts { monitor: refused("request 1: no"), ..OwnedFacts::good() };
        facts.write();
        facts.monitor = refused("request 2: no");
        assert!(is_up_to_date(&facts.observed, &facts.status()));
        assert_eq!(
            (facts.message(MONITOR_READY), facts.message(READY)),
            ("request 1: no".into(), "request 1: no".into())
        );
        facts.generation = 2;
        assert_eq!(facts.message(MONITOR_READY), "request 2: no");
        (facts.generation, facts.monitor) = (1, Some(state(ConditionStatus::False, "NameTaken", "request 3")));
        assert_eq!(facts.message(MONITOR_READY), "request 3");
    }
}

#[test]
fn our_own_message_about_a_monitor_is_written_when_it_changes() {
    let mut facts =
        OwnedFacts { monitor: Some(state(ConditionStatus::False, "NameTaken", "it is of a")), ..OwnedFacts::good() };
    facts.write();
    facts.monitor = Some(state(ConditionStatus::False, "NameTaken", "it is of b"));
    assert!(!is_up_to_date(&facts.observed, &facts.status()));
}

#[test]
fn a_contested_monitor_leaves_the_target_pending() {
    let facts =
        OwnedFacts { monitor: Some(state(ConditionStatus::Unknown, "Pending", "fought for")), ..OwnedFacts::good() };
    assert_eq!([READY, MONITOR_READY].map(|kind| facts.condition(kind)), ["Unknown/Pending", "Unknown/Pending"]);
    assert_eq!(facts.message(MONITOR_READY), "fought for");
}

#[test]
fn a_condition_that_becomes_known_resolves_pending_and_one_that_stays_pending_does_not() {
    let open =
        OwnedFacts { monitor: Some(state(ConditionStatus::Unknown, "Pending", "fought for")), ..OwnedFacts::good() };
    let down = OwnedFacts { poll: Some(poll(Some((Reason::Dns, "no such name")))), ..open.clone() };
    assert!(!resolves_pending(&down.status(), &open.status()));
    assert!(resolves_pending(&OwnedFacts::good().status(), &open.status()));
    assert!(resolves_pending(&open.status(), &ScrapeTargetStatus::default()));
}

#[test]
fn conditions_of_others_may_exceed_the_limit() {
    let crd = serde_json::to_value(<ScrapeTarget as kube::CustomResourceExt>::crd()).unwrap();
    let conditions = "/spec/versions/0/schema/openAPIV3Schema/properties/status/properties/conditions/maxItems";
    assert_eq!(crd.pointer(conditions).unwrap(), MAX_CONDITIONS);
    let desired = OwnedFacts::good().status();
    let others = |count| {
        let of = |n| Condition { kind: format!("Theirs{n}"), ..desired.conditions[0].clone() };
        let theirs = (0..count).map(of);
        ScrapeTargetStatus { conditions: desired.conditions.iter().cloned().chain(theirs).collect(), ..desired.clone() }
    };
    assert!(!exceeds_limit(&others(11), &desired) && exceeds_limit(&others(12), &desired));
}

#[test]
fn another_message_of_a_problem_is_written() {
    let mut facts = OwnedFacts { accepted: Some(Err(missing_secret())), ..OwnedFacts::good() };
    facts.write();
    facts.accepted = Some(Err(Problem { reason: "SecretNotFound", message: "Secret a/c does not exist".to_owned() }));
    assert!(!is_up_to_date(&facts.observed, &facts.status()));
}

#[test]
fn missing_scrapes_are_reported_after_five_intervals_and_with_whether_there_ever_was_one() {
    let mut facts = OwnedFacts::good();
    *facts.scrapes() = ScrapeFacts { last: None, watched_for: Duration::from_secs(75), ..*facts.scrapes() };
    assert_eq!(facts.condition(SCRAPED), "Unknown/Pending");
    facts.scrapes().watched_for = Duration::from_secs(76);
    assert_eq!(facts.condition(SCRAPED), "False/NeverScraped");
    assert!(facts.message(SCRAPED).contains("1m15s") && facts.message(SCRAPED).contains("serviceMonitorSelector"));
    facts.write();
    assert_eq!(facts.condition(SCRAPED), "False/NeverScraped");
    facts.scrapes().last = Some(Duration::from_secs(1));
    assert_eq!(facts.condition(SCRAPED), "True/Scraped");
    facts.write();
    facts.scrapes().last = Some(Duration::from_secs(76));
    assert_eq!(facts.condition(SCRAPED), "False/NotScraped");
    facts.write();
    facts.scrapes().last = None; // a new leader
    assert_eq!(facts.condition(SCRAPED), "False/NotScraped");
}

#[test]
fn a_new_leader_keeps_scraped_until_it_has_watched_long_enough() {
    let mut facts = OwnedFacts::good();
    facts.write();
    *facts.scrapes() = ScrapeFacts { last: None, watched_for: Duration::from_secs(70), ..*facts.scrapes() };
    assert_eq!(facts.condition(SCRAPED), "True/Scraped");
    facts.scrapes().watched_for = Duration::from_secs(80);
    assert_eq!(facts.condition(SCRAPED), "False/NotScraped");
}

#[test]
fn a_target_that_is_not_scraped_has_advice_in_its_message() {
    let advice = |mode, enabled, ready| {
        let mut facts = OwnedFacts { monitor: Some(monitor(ready)), ..OwnedFacts::good() };
        let watched_for = Duration::from_secs(900);
        *facts.scrapes() = ScrapeFacts { last: None, watched_for, mode, monitor: enabled, ..*facts.scrapes() };
        facts.message(SCRAPED)
    };
    assert!(advice(DiscoveryMode::ServiceMonitor, true, true).contains("serviceMonitorNamespaceSelector"));
    assert!(advice(DiscoveryMode::ServiceMonitor, true, false).contains("see MonitorReady"));
    assert!(advice(DiscoveryMode::ServiceMonitor, false, true).contains("spec.monitor.enabled is false"));
    assert!(advice(DiscoveryMode::HttpSd, true, true).contains("scrapeConfigSelector"));
    assert!(advice(DiscoveryMode::None, true, true).contains("discovery is off"));
}

#[test]
fn a_long_message_is_cut_between_two_characters() {
    let facts = OwnedFacts { poll: Some(poll(Some((Reason::Body, &"é".repeat(5000))))), ..OwnedFacts::good() };
    assert_eq!(facts.message(UP), "é".repeat(1024));
}

#[test]
fn conditions_of_others_are_left_alone() {
    let mut facts = OwnedFacts::good();
    facts.write();
    let theirs = Condition { kind: "Audited".to_owned(), ..facts.observed.conditions[0].clone() };
    facts.observed.conditions.insert(0, theirs);
    assert!(is_up_to_date(&facts.observed, &facts.status()));
    facts.observed.conditions[1].reason.push('!');
    assert!(!is_up_to_date(&facts.observed, &facts.status()));
}

/// A target with members, of which so many answer.
fn with_members(found: usize, up: usize, partial: Option<&str>, failure: Option<(Reason, &str)>) -> OwnedFacts {
    let members = Some(MemberCounts { found, up });
    let poll = TargetStatus { members, partial: partial.map(Arc::from), ..poll(failure) };
    OwnedFacts { has_members: true, poll: Some(poll), ..OwnedFacts::good() }
}

#[test]
fn a_target_is_up_if_one_member_answers_and_the_message_names_one_that_does_not() {
    for (facts, reason, message) in [
        (with_members(12, 12, None, None), "True/Succeeded", "the last poll succeeded"),
        (
            with_members(12, 11, Some("11 of 12 answered; rooms-7d9f-x2: connect"), None),
            "True/Partial",
            "11 of 12 answered; rooms-7d9f-x2: connect",
        ),
        (with_members(12, 0, None, Some((Reason::Connect, "refused"))), "False/Connect", "refused"),
        (with_members(0, 0, None, Some((Reason::NoMembers, "there is none"))), "False/NoMembers", "there is none"),
    ] {
        assert_eq!((facts.condition(UP).as_str(), facts.message(UP).as_str()), (reason, message));
    }
}

#[test]
fn a_condition_is_not_written_again_because_of_numbers_but_the_status_has_them() {
    let mut facts = with_members(12, 11, Some("11 of 12 answered; rooms-7d9f-x2: connect"), None);
    facts.write();
    facts.poll = with_members(13, 9, Some("9 of 13 answered; rooms-7d9f-x1: timeout"), None).poll;
    let status = facts.status();
    assert_eq!(facts.message(UP), "11 of 12 answered; rooms-7d9f-x2: connect");
    assert_eq!(difference(&facts.observed, &status), Difference::Numbers);
    assert!(!is_up_to_date(&facts.observed, &status));
    assert_eq!(fingerprint(&facts.observed), fingerprint(&status));
    assert_eq!(status.members, Some(MembersStatus { found: 13, up: 9 }));
    facts.poll = with_members(13, 13, None, None).poll;
    assert_eq!(difference(&facts.observed, &facts.status()), Difference::Conditions);
}

#[test]
fn members_stay_until_they_are_polled_again_and_go_with_the_field() {
    let mut facts = with_members(12, 11, None, None);
    facts.write();
    facts.poll = None;
    assert_eq!(facts.status().members, Some(MembersStatus { found: 12, up: 11 }));
    facts.has_members = false;
    assert_eq!(facts.status().members, None);
    assert_eq!(difference(&facts.observed, &facts.status()), Difference::Conditions, "it is removed at once");
    assert_eq!(OwnedFacts::good().status().members, None);
}

#[test]
fn a_target_that_is_not_polled_has_no_members() {
    let mut facts = with_members(12, 11, None, None);
    facts.write();
    let unpolled = |state| TargetStatus { state, members: None, ..poll(Some((Reason::Config, "not polled"))) };
    let observed = Some(MembersStatus { found: 12, up: 11 });
    facts.poll = Some(unpolled(TargetState::Pending));
    assert_eq!(facts.status().members, observed);
    facts.poll = Some(unpolled(TargetState::Invalid));
    facts.accepted = None;
    assert_eq!(facts.status().members, observed, "its endpoints are not read yet");
    facts.accepted = Some(Err(missing_secret()));
    for poll in [facts.poll.clone(), None] {
        facts.poll = poll;
        assert_eq!(facts.status().members, None);
        assert_eq!(difference(&facts.observed, &facts.status()), Difference::Conditions, "they are removed at once");
    }
    facts = OwnedFacts { suspended: true, accepted: Some(Ok(())), ..facts };
    for poll in [Some(unpolled(TargetState::Suspended)), None] {
        facts.poll = poll;
        assert_eq!(facts.status().members, None);
    }
}

fn any_status() -> impl Strategy<Value = ConditionStatus> {
    prop_oneof![Just(ConditionStatus::True), Just(ConditionStatus::False), Just(ConditionStatus::Unknown)]
}

fn any_observed() -> impl Strategy<Value = ScrapeTargetStatus> {
    let reasons = [
        "Ready",
        "Accepted",
        "Written",
        "Succeeded",
        "Partial",
        "Scraped",
        "NotScraped",
        "NeverScraped",
        "Pending",
        "Config",
        "Suspended",
        "Timeout",
        "Connect",
    ];
    let condition = (
        proptest::sample::select(KINDS.to_vec()),
        any_status(),
        proptest::option::of(1_i64..3),
        proptest::sample::select(reasons.to_vec()),
        "[a-z ]{0,8}",
    );
    let condition = condition.prop_map(|(kind, status, observed_generation, reason, message)| Condition {
        kind: kind.to_owned(),
        status,
        observed_generation,
        last_transition_time: "2026-11-21T12:00:00Z".to_owned(),
        reason: reason.to_owned(),
        message,
    });
    let members = proptest::option::of((0_u32..9, 0_u32..9).prop_map(|(found, up)| MembersStatus { found, up }));
    (proptest::option::of(1_i64..3), proptest::collection::vec(condition, 0..7), members).prop_map(
        |(observed_generation, mut conditions, members)| {
            conditions.sort_by(|a, b| a.kind.cmp(&b.kind));
            conditions.dedup_by(|a, b| a.kind == b.kind);
            ScrapeTargetStatus { observed_generation, conditions, members }
        },
    )
}

fn any_facts() -> impl Strategy<Value = OwnedFacts> {
    let failures = [
        None,
        Some((Reason::Pending, "not polled yet")),
        Some((Reason::Suspended, "spec.suspend is true")),
        Some((Reason::Config, "a certificate is none")),
        Some((Reason::Timeout, "no answer within 5s")),
        Some((Reason::Connect, "refused")),
        Some((Reason::NoMembers, "there is none")),
    ];
    let accepted = prop_oneof![Just(None), Just(Some(Ok(()))), Just(Some(Err(missing_secret())))];
    let monitor = prop_oneof![Just(None), Just(Some(monitor(true))), Just(Some(monitor(false)))];
    let polled = (proptest::sample::select(failures.to_vec()), proptest::option::of((0_usize..9, any::<bool>())));
    let poll = proptest::option::of(polled.prop_map(|(failure, members)| {
        TargetStatus {
            members: members.map(|(up, _)| MemberCounts { found: 9, up }),
            partial: members
                .filter(|(_, partial)| *partial && failure.is_none())
                .map(|_| "8 of 9 answered; rooms-x2: connect".into()),
            ..poll(failure)
        }
    }));
    let modes = [DiscoveryMode::ServiceMonitor, DiscoveryMode::HttpSd, DiscoveryMode::None];
    let scrapes =
        (proptest::option::of(0_u64..200), 0_u64..200, proptest::sample::select(modes.to_vec()), any::<bool>());
    let scrapes = proptest::option::of(scrapes.prop_map(|(last, watched_for, mode, monitor)| ScrapeFacts {
        interval: Duration::from_secs(15),
        last: last.map(Duration::from_secs),
        watched_for: Duration::from_secs(watched_for),
        mode,
        monitor,
    }));
    (any_observed(), accepted, any::<[bool; 2]>(), monitor, poll, scrapes, 1_i64..3, 0_u64..1_000_000).prop_map(
        |(observed, accepted, [suspended, has_members], monitor, poll, scrapes, generation, now)| OwnedFacts {
            observed,
            accepted,
            suspended,
            has_members,
            monitor,
            poll,
            scrapes,
            generation,
            now: SystemTime::UNIX_EPOCH + Duration::from_secs(now),
        },
    )
}

proptest! {
    #[test]
    fn what_was_written_is_not_written_again(mut facts in any_facts(), later in 0_u64..1_000_000) {
        let first = facts.status();
        facts.observed = first.clone();
        facts.now += Duration::from_secs(later);
        let second = facts.status();
        prop_assert!(is_up_to_date(&first, &second));
        prop_assert_eq!(serde_json::to_vec(&second).unwrap(), serde_json::to_vec(&first).unwrap());
    }

    #[test]
    fn a_time_moves_if_and_only_if_the_status_does(facts in any_facts()) {
        for condition in &facts.status().conditions {
            match find(&facts.observed, &condition.kind) {
                Some(observed) if observed.status == condition.status => {
                    prop_assert_eq!(&condition.last_transition_time, &observed.last_transition_time);
                }
                _ => prop_assert_eq!(&condition.last_transition_time, &rfc3339(facts.now)),
            }
        }
    }

    #[test]
    fn ready_is_what_accepted_and_monitor_say_together(facts in any_facts()) {
        let status = facts.status();
        let of = |kind| find(&status, kind).unwrap().status;
        let both = [of(ACCEPTED), of(MONITOR_READY)];
        let together = if both.contains(&ConditionStatus::False) {
            ConditionStatus::False
        } else if both == [ConditionStatus::True; 2] {
            ConditionStatus::True
        } else {
            ConditionStatus::Unknown
        };
        prop_assert_eq!(of(READY), together);
    }
}
