use proptest::prelude::*;

use super::*;
use crate::crd::ScrapeTarget;
use crate::poll::Failure;

/// What a [`StatusFacts`] borrows from.
#[derive(Clone, Debug)]
struct World {
    observed: ScrapeTargetStatus,
    accepted: Option<Result<(), Problem>>,
    suspended: bool,
    monitor: Option<MonitorState>,
    poll: Option<TargetStatus>,
    scrapes: Option<ScrapeFacts>,
    generation: i64,
    now: SystemTime,
}

impl World {
    /// A new target, of which nothing is known.
    fn new() -> Self {
        Self {
            observed: ScrapeTargetStatus::default(),
            accepted: None,
            suspended: false,
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

    /// One that is polled, found and scraped.
    fn good() -> Self {
        let mut world =
            Self { accepted: Some(Ok(())), monitor: Some(monitor(true)), poll: Some(poll(None)), ..Self::new() };
        world.scrapes().last = Some(Duration::from_secs(3));
        world
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
            monitor: self.monitor.as_ref(),
            poll: self.poll.as_ref(),
            scrapes: self.scrapes,
        })
    }

    /// Writes the status, and a minute passes.
    fn write(&mut self) {
        self.observed = self.status();
        self.now += Duration::from_secs(60);
    }

    /// `Up=True/Succeeded`, for a condition.
    fn told(&self, kind: &str) -> String {
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
    TargetStatus { state, failure, since: SystemTime::UNIX_EPOCH, last_success: None }
}

fn missing_secret() -> Problem {
    Problem { reason: "SecretNotFound", message: "Secret a/b does not exist".to_owned() }
}

const KINDS: [&str; 5] = [READY, ACCEPTED, MONITOR_READY, UP, SCRAPED];

#[test]
fn all_five_conditions_are_there_from_the_beginning_in_order_and_with_their_generation() {
    let status = World { generation: 7, ..World::new() }.status();
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
fn a_good_target_is_true_in_everything() {
    let world = World::good();
    let told = KINDS.map(|kind| world.told(kind));
    assert_eq!(told, ["True/Ready", "True/Accepted", "True/Written", "True/Succeeded", "True/Scraped"]);
    assert!(!is_pending(&world.status()));
}

#[test]
fn what_is_not_accepted_is_not_ready_for_the_same_reason_and_not_polled() {
    let world = World { accepted: Some(Err(missing_secret())), ..World::good() };
    for kind in [READY, ACCEPTED] {
        assert_eq!(world.told(kind), "False/SecretNotFound");
        assert_eq!(world.message(kind), "Secret a/b does not exist");
    }
    assert_eq!(world.told(UP), "Unknown/Config");
}

#[test]
fn a_monitor_that_is_not_as_it_should_be_makes_it_not_ready_but_not_down() {
    let world = World { monitor: Some(monitor(false)), ..World::good() };
    assert_eq!(world.told(READY), "False/NameTaken");
    assert_eq!(world.told(MONITOR_READY), "False/NameTaken");
    assert_eq!(world.told(UP), "True/Succeeded");
}

#[test]
fn readiness_does_not_depend_on_the_target() {
    let down = World { poll: Some(poll(Some((Reason::Connect, "refused")))), ..World::good() };
    assert_eq!((down.told(UP).as_str(), down.told(READY).as_str()), ("False/Connect", "True/Ready"));
}

#[test]
fn a_suspended_target_is_neither_up_nor_down_nor_missed() {
    let mut world = World { suspended: true, ..World::good() };
    world.scrapes().watched_for = Duration::from_secs(3600);
    assert_eq!(world.told(UP), "Unknown/Suspended");
    assert_eq!(world.told(SCRAPED), "Unknown/Suspended");
    world.write();
    (world.suspended, world.generation) = (false, 2);
    *world.scrapes() = ScrapeFacts { last: None, watched_for: Duration::ZERO, ..*world.scrapes() };
    assert_eq!(world.told(SCRAPED), "Unknown/Pending", "what was said of the suspended one does not stay");
}

#[test]
fn a_declaration_that_is_not_understood_still_has_every_condition() {
    let problem = Problem::invalid_spec("spec.url: is no URL");
    let world = World { accepted: Some(Err(problem)), poll: None, scrapes: None, monitor: None, ..World::new() };
    let told = KINDS.map(|kind| world.told(kind));
    assert_eq!(told, ["False/InvalidSpec", "False/InvalidSpec", "Unknown/Pending", "Unknown/Config", "Unknown/Config"]);
}

#[test]
fn a_restarted_exporter_says_what_was_said_until_it_knows_better() {
    for mut before in [
        World::good(),
        World { poll: Some(poll(Some((Reason::Dns, "no such name")))), ..World::good() },
        World { accepted: Some(Err(missing_secret())), ..World::good() },
        World { suspended: true, ..World::good() },
    ] {
        before.write();
        let after = World { observed: before.observed.clone(), suspended: before.suspended, ..World::new() };
        assert_eq!(after.status(), before.observed);
    }
}

#[test]
fn a_restart_while_the_api_server_is_slow_with_secrets_writes_nothing_and_after_half_a_minute_it_is_said() {
    let unread = Problem { reason: "SecretUnread", message: "Secret a/b could not be read yet".to_owned() };
    let second = Duration::from_secs(1);
    assert!(!is_worth_reporting(&unread, 29 * second) && is_worth_reporting(&unread, 30 * second));
    assert!(is_worth_reporting(&missing_secret(), Duration::ZERO));
    let mut before = World::good();
    before.write();
    let invalid = Some(poll(Some((Reason::Config, "Secret a/b could not be read yet"))));
    let after = World { accepted: None, poll: invalid, ..before.clone() };
    assert_eq!(after.status(), before.observed);
    let said = World { accepted: Some(Err(unread)), ..after };
    assert_eq!((&*said.told(ACCEPTED), &*said.told(UP)), ("False/SecretUnread", "Unknown/Config"));
}

#[test]
fn what_was_said_of_another_generation_does_not_stay_but_for_scrapes() {
    let mut before = World::good();
    before.write();
    let after = World { observed: before.observed, generation: 2, ..World::new() };
    let told = KINDS.map(|kind| after.told(kind));
    assert_eq!(told, ["Unknown/Pending", "Unknown/Pending", "Unknown/Pending", "Unknown/Pending", "True/Scraped"]);
}

#[test]
fn a_healed_target_is_pending_until_its_first_poll_and_not_still_ill() {
    let mut world = World { accepted: Some(Err(missing_secret())), ..World::good() };
    world.write();
    let healed = World { accepted: Some(Ok(())), poll: Some(poll(Some((Reason::Pending, "")))), ..world };
    assert_eq!(healed.told(UP), "Unknown/Pending");
}

#[test]
fn a_time_moves_with_its_own_status_and_with_nothing_else() {
    let mut world = World::good();
    world.write();
    world.poll = Some(poll(Some((Reason::Timeout, "no answer within 5s"))));
    assert_eq!(world.since(UP), "1970-01-01T00:01:00Z");
    assert_eq!(world.since(READY), "1970-01-01T00:00:00Z");
    world.write();
    world.poll = Some(poll(Some((Reason::Dns, "no such name"))));
    world.generation = 2;
    assert_eq!(world.told(UP), "False/Dns");
    assert_eq!(world.since(UP), "1970-01-01T00:01:00Z", "another reason is no transition");
    world.write();
    world.poll = Some(poll(None));
    assert_eq!(world.since(UP), "1970-01-01T00:03:00Z");
}

#[test]
fn another_message_of_the_same_failure_is_not_written_but_another_reason_is() {
    let mut world = World { poll: Some(poll(Some((Reason::Timeout, "after 5.01s")))), ..World::good() };
    world.write();
    world.poll = Some(poll(Some((Reason::Timeout, "after 5.02s"))));
    assert_eq!(world.message(UP), "after 5.01s");
    assert!(is_up_to_date(&world.observed, &world.status()));
    world.generation = 2;
    assert_eq!(world.message(UP), "after 5.02s");
    (world.generation, world.poll) = (1, Some(poll(Some((Reason::Body, "after 5.03s")))));
    assert_eq!(world.message(UP), "after 5.03s");
}

#[test]
fn the_words_of_a_webhook_may_differ_each_time_and_are_written_once_for_each_generation() {
    for reason in ["Refused", "Failed"] {
        let refused = |words| Some(state(ConditionStatus::False, reason, words));
        let mut world = World { monitor: refused("request 1: no"), ..World::good() };
        world.write();
        world.monitor = refused("request 2: no");
        assert!(is_up_to_date(&world.observed, &world.status()));
        assert_eq!(
            (world.message(MONITOR_READY), world.message(READY)),
            ("request 1: no".into(), "request 1: no".into())
        );
        world.generation = 2;
        assert_eq!(world.message(MONITOR_READY), "request 2: no");
        (world.generation, world.monitor) = (1, Some(state(ConditionStatus::False, "NameTaken", "request 3")));
        assert_eq!(world.message(MONITOR_READY), "request 3");
    }
}

#[test]
fn our_own_words_about_a_monitor_are_written_when_they_change() {
    let mut world = World { monitor: Some(state(ConditionStatus::False, "NameTaken", "it is of a")), ..World::good() };
    world.write();
    world.monitor = Some(state(ConditionStatus::False, "NameTaken", "it is of b"));
    assert!(!is_up_to_date(&world.observed, &world.status()));
}

#[test]
fn a_monitor_that_is_fought_for_leaves_open_whether_the_target_is_ready() {
    let world = World { monitor: Some(state(ConditionStatus::Unknown, "Pending", "fought for")), ..World::good() };
    assert_eq!([READY, MONITOR_READY].map(|kind| world.told(kind)), ["Unknown/Pending", "Unknown/Pending"]);
    assert_eq!(world.message(MONITOR_READY), "fought for");
}

#[test]
fn what_becomes_known_is_news_and_what_stays_open_is_none() {
    let open = World { monitor: Some(state(ConditionStatus::Unknown, "Pending", "fought for")), ..World::good() };
    let down = World { poll: Some(poll(Some((Reason::Dns, "no such name")))), ..open.clone() };
    assert!(!resolves_pending(&down.status(), &open.status()));
    assert!(resolves_pending(&World::good().status(), &open.status()));
    assert!(resolves_pending(&open.status(), &ScrapeTargetStatus::default()));
}

#[test]
fn conditions_of_others_leave_room_for_ours_or_not() {
    let crd = serde_json::to_value(<ScrapeTarget as kube::CustomResourceExt>::crd()).unwrap();
    let conditions = "/spec/versions/0/schema/openAPIV3Schema/properties/status/properties/conditions/maxItems";
    assert_eq!(crd.pointer(conditions).unwrap(), MAX_CONDITIONS);
    let desired = World::good().status();
    let others = |count| {
        let of = |n| Condition { kind: format!("Theirs{n}"), ..desired.conditions[0].clone() };
        let theirs = (0..count).map(of);
        ScrapeTargetStatus { conditions: desired.conditions.iter().cloned().chain(theirs).collect(), ..desired.clone() }
    };
    assert!(!exceeds_limit(&others(11), &desired) && exceeds_limit(&others(12), &desired));
}

#[test]
fn another_message_of_a_problem_is_written() {
    let mut world = World { accepted: Some(Err(missing_secret())), ..World::good() };
    world.write();
    world.accepted = Some(Err(Problem { reason: "SecretNotFound", message: "Secret a/c does not exist".to_owned() }));
    assert!(!is_up_to_date(&world.observed, &world.status()));
}

#[test]
fn no_scrape_is_said_only_after_five_intervals_and_whether_there_ever_was_one() {
    let mut world = World::good();
    *world.scrapes() = ScrapeFacts { last: None, watched_for: Duration::from_secs(75), ..*world.scrapes() };
    assert_eq!(world.told(SCRAPED), "Unknown/Pending");
    world.scrapes().watched_for = Duration::from_secs(76);
    assert_eq!(world.told(SCRAPED), "False/NeverScraped");
    assert!(world.message(SCRAPED).contains("1m15s") && world.message(SCRAPED).contains("serviceMonitorSelector"));
    world.write();
    assert_eq!(world.told(SCRAPED), "False/NeverScraped");
    world.scrapes().last = Some(Duration::from_secs(1));
    assert_eq!(world.told(SCRAPED), "True/Scraped");
    world.write();
    world.scrapes().last = Some(Duration::from_secs(76));
    assert_eq!(world.told(SCRAPED), "False/NotScraped");
    world.write();
    world.scrapes().last = None; // a new leader
    assert_eq!(world.told(SCRAPED), "False/NotScraped");
}

#[test]
fn a_new_leader_believes_the_old_one_about_scrapes_until_it_has_watched_long_enough() {
    let mut world = World::good();
    world.write();
    *world.scrapes() = ScrapeFacts { last: None, watched_for: Duration::from_secs(70), ..*world.scrapes() };
    assert_eq!(world.told(SCRAPED), "True/Scraped");
    world.scrapes().watched_for = Duration::from_secs(80);
    assert_eq!(world.told(SCRAPED), "False/NotScraped");
}

#[test]
fn whoever_is_not_scraped_is_told_what_to_look_at() {
    let advice = |mode, enabled, ready| {
        let mut world = World { monitor: Some(monitor(ready)), ..World::good() };
        let watched_for = Duration::from_secs(900);
        *world.scrapes() = ScrapeFacts { last: None, watched_for, mode, monitor: enabled, ..*world.scrapes() };
        world.message(SCRAPED)
    };
    assert!(advice(DiscoveryMode::ServiceMonitor, true, true).contains("serviceMonitorNamespaceSelector"));
    assert!(advice(DiscoveryMode::ServiceMonitor, true, false).contains("see MonitorReady"));
    assert!(advice(DiscoveryMode::ServiceMonitor, false, true).contains("spec.monitor.enabled is false"));
    assert!(advice(DiscoveryMode::HttpSd, true, true).contains("scrapeConfigSelector"));
    assert!(advice(DiscoveryMode::None, true, true).contains("discovery is off"));
}

#[test]
fn a_long_message_is_cut_between_two_characters() {
    let world = World { poll: Some(poll(Some((Reason::Body, &"é".repeat(5000))))), ..World::good() };
    assert_eq!(world.message(UP), "é".repeat(1024));
}

#[test]
fn conditions_of_others_are_left_alone() {
    let mut world = World::good();
    world.write();
    let theirs = Condition { kind: "Audited".to_owned(), ..world.observed.conditions[0].clone() };
    world.observed.conditions.insert(0, theirs);
    assert!(is_up_to_date(&world.observed, &world.status()));
    world.observed.conditions[1].reason.push('!');
    assert!(!is_up_to_date(&world.observed, &world.status()));
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
    (proptest::option::of(1_i64..3), proptest::collection::vec(condition, 0..7)).prop_map(
        |(observed_generation, mut conditions)| {
            conditions.sort_by(|a, b| a.kind.cmp(&b.kind));
            conditions.dedup_by(|a, b| a.kind == b.kind);
            ScrapeTargetStatus { observed_generation, conditions }
        },
    )
}

fn any_world() -> impl Strategy<Value = World> {
    let failures = [
        None,
        Some((Reason::Pending, "not polled yet")),
        Some((Reason::Suspended, "spec.suspend is true")),
        Some((Reason::Config, "a certificate is none")),
        Some((Reason::Timeout, "no answer within 5s")),
        Some((Reason::Connect, "refused")),
    ];
    let accepted = prop_oneof![Just(None), Just(Some(Ok(()))), Just(Some(Err(missing_secret())))];
    let monitor = prop_oneof![Just(None), Just(Some(monitor(true))), Just(Some(monitor(false)))];
    let poll = proptest::option::of(proptest::sample::select(failures.to_vec()).prop_map(poll));
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
    (any_observed(), accepted, any::<bool>(), monitor, poll, scrapes, 1_i64..3, 0_u64..1_000_000).prop_map(
        |(observed, accepted, suspended, monitor, poll, scrapes, generation, now)| World {
            observed,
            accepted,
            suspended,
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
    fn what_was_written_is_not_written_again(mut world in any_world(), later in 0_u64..1_000_000) {
        let first = world.status();
        world.observed = first.clone();
        world.now += Duration::from_secs(later);
        let second = world.status();
        prop_assert!(is_up_to_date(&first, &second));
        prop_assert_eq!(serde_json::to_vec(&second).unwrap(), serde_json::to_vec(&first).unwrap());
    }

    #[test]
    fn a_time_moves_if_and_only_if_the_status_does(world in any_world()) {
        for condition in &world.status().conditions {
            match find(&world.observed, &condition.kind) {
                Some(observed) if observed.status == condition.status => {
                    prop_assert_eq!(&condition.last_transition_time, &observed.last_transition_time);
                }
                _ => prop_assert_eq!(&condition.last_transition_time, &rfc3339(world.now)),
            }
        }
    }

    #[test]
    fn ready_is_what_accepted_and_monitor_say_together(world in any_world()) {
        let status = world.status();
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
