use std::collections::{HashMap, HashSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::super::super::access::Rule;
use super::*;
use crate::crd::{Condition, ConditionStatus};
use crate::target::Problem;

const SECOND: Duration = Duration::from_secs(1);

/// A cluster in memory, in which the truth about a target is the reason of its condition `Up`.
struct Pretended {
    catalog: Catalog,
    marked: Queue,
    write_limiter: RateLimiter,
    may_write: watch::Sender<bool>,
    truth: Mutex<HashMap<TargetId, String>>,
    /// What writes are answered, by namespace.
    errors: Mutex<HashMap<String, ApiError>>,
    /// The namespace whose writes take so long.
    slow: Mutex<Option<(String, Duration)>>,
    /// Every attempt: when, of what, and what it said of `Up`.
    attempts: Mutex<Vec<(Instant, TargetId, String)>>,
    version: AtomicU64,
}

impl Pretended {
    fn start() -> (Arc<Self>, JoinHandle<()>) {
        let fleet = Arc::new(Self {
            catalog: Catalog::default(),
            marked: Queue::default(),
            write_limiter: RateLimiter::new(50),
            may_write: watch::Sender::new(true),
            truth: Mutex::default(),
            errors: Mutex::default(),
            slow: Mutex::default(),
            attempts: Mutex::default(),
            version: AtomicU64::new(1),
        });
        let mut writer = Writer::new(Arc::clone(&fleet));
        (fleet, tokio::spawn(async move { writer.lead().await }))
    }

    /// Puts an object as a watch would.
    fn apply(&self, id: &TargetId, uid: &str, generation: i64, status: ScrapeTargetStatus) {
        self.catalog.put(Arc::new(Object {
            id: id.clone(),
            uid: uid.into(),
            generation,
            resource_version: self.version.fetch_add(1, Ordering::SeqCst).to_string(),
            declaration: Err(Problem::invalid_spec("not looked at")),
            status,
        }));
    }

    /// A new target, of which `reason` is true.
    fn create(&self, namespace: &str, name: &str, reason: &str) -> TargetId {
        let id = TargetId::new(namespace, name);
        self.apply(&id, "uid", 1, ScrapeTargetStatus::default());
        self.becomes(&id, reason);
        id
    }

    fn becomes(&self, id: &TargetId, reason: &str) {
        self.truth.lock().unwrap().insert(id.clone(), reason.to_owned());
        self.marked.mark([id.clone()]);
    }

    fn answer(&self, namespace: &str, error: Option<ApiError>) {
        let mut errors = self.errors.lock().unwrap();
        match error {
            Some(error) => errors.insert(namespace.to_owned(), error),
            None => errors.remove(namespace),
        };
    }

    fn attempts(&self) -> Vec<(Instant, TargetId, String)> {
        self.attempts.lock().unwrap().clone()
    }

    /// What each attempt said of `Up`.
    fn said(&self) -> Vec<String> {
        self.attempts().into_iter().map(|(_, _, reason)| reason).collect()
    }

    /// What the cluster holds of `Up`.
    fn held(&self, id: &TargetId) -> Option<String> {
        let status = &self.catalog.get(id)?.object.status;
        status.conditions.iter().find(|condition| condition.kind == "Up").map(|condition| condition.reason.clone())
    }
}

fn status(generation: i64, up: &str) -> ScrapeTargetStatus {
    let condition = |kind: &str, reason: &str| Condition {
        kind: kind.to_owned(),
        status: ConditionStatus::True,
        observed_generation: Some(generation),
        last_transition_time: String::new(),
        reason: reason.to_owned(),
        message: String::new(),
    };
    let conditions = vec![condition("Accepted", "Accepted"), condition("MonitorReady", "Written"), condition("Up", up)];
    ScrapeTargetStatus { observed_generation: Some(generation), conditions }
}

fn up(status: &ScrapeTargetStatus) -> String {
    status.conditions[2].reason.clone()
}

impl Fleet for Pretended {
    fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    fn marked(&self) -> &Queue {
        &self.marked
    }

    fn write_limiter(&self) -> &RateLimiter {
        &self.write_limiter
    }

    fn may_write(&self) -> bool {
        *self.may_write.borrow()
    }

    async fn lost(&self) {
        let _ = self.may_write.subscribe().wait_for(|may_write| !may_write).await;
    }

    /// `after 100 s` becomes true after a hundred seconds, and is never marked.
    fn wanted(&self, record: &Record, watched_for: Duration) -> ScrapeTargetStatus {
        let reason = self.truth.lock().unwrap()[&record.object.id].clone();
        let late = reason == "Late" && watched_for < 100 * SECOND;
        status(record.object.generation, if late { "Early" } else { &reason })
    }

    async fn write(&self, object: &Object, status: &ScrapeTargetStatus) -> Result<(), ApiError> {
        self.attempts.lock().unwrap().push((Instant::now(), object.id.clone(), up(status)));
        let slow = self.slow.lock().unwrap().clone().filter(|(namespace, _)| **namespace == *object.id.namespace);
        tokio::time::sleep(slow.map_or(Duration::from_millis(10), |(_, time)| time)).await;
        if let Some(error) = self.errors.lock().unwrap().get(&*object.id.namespace) {
            return Err(error.clone());
        }
        let version = self.version.fetch_add(1, Ordering::SeqCst).to_string();
        self.catalog.put_status(object, version, status.clone());
        Ok(())
    }
}

/// Time is pretended too: this lets everything happen that happens in it.
async fn pass(time: Duration) {
    tokio::time::sleep(time).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_known_is_written_at_once_and_never_again() {
    let (fleet, _writer) = Pretended::start();
    let began = Instant::now();
    let id = fleet.create("a", "1", "Succeeded");
    pass(3600 * SECOND).await;
    assert_eq!(fleet.said(), ["Succeeded"]);
    assert!(fleet.attempts()[0].0 - began < Duration::from_millis(100));
    assert_eq!(fleet.held(&id).unwrap(), "Succeeded");
}

#[tokio::test(start_paused = true)]
async fn a_new_target_waits_a_moment_for_its_first_poll_so_that_one_write_says_all() {
    let (fleet, _writer) = Pretended::start();
    let id = fleet.create("a", "1", "Pending");
    pass(Duration::from_millis(700)).await;
    fleet.becomes(&id, "Succeeded");
    pass(60 * SECOND).await;
    assert_eq!(fleet.said(), ["Succeeded"]);
}

#[tokio::test(start_paused = true)]
async fn a_slow_first_poll_is_pending_first_and_told_soon_after_it_ended() {
    let (fleet, _writer) = Pretended::start();
    let id = fleet.create("a", "1", "Pending");
    pass(3 * SECOND).await;
    fleet.becomes(&id, "Timeout");
    let ended = Instant::now();
    pass(60 * SECOND).await;
    assert_eq!(fleet.said(), ["Pending", "Timeout"]);
    assert!(fleet.attempts()[1].0 - ended < SECOND);
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_new_targets_are_mostly_written_once() {
    let (fleet, _writer) = Pretended::start();
    let ids: Vec<TargetId> = (0..10_000).map(|n| fleet.create("a", &n.to_string(), "Pending")).collect();
    for part in ids.chunks(700) {
        pass(SECOND).await; // polls are spread over their interval
        for id in part {
            fleet.becomes(id, "Succeeded");
        }
    }
    pass(240 * SECOND).await;
    assert!(ids.iter().all(|id| fleet.held(id).as_deref() == Some("Succeeded")));
    let writes = fleet.attempts().len();
    assert!(writes < 10_200, "{writes}");
}

#[tokio::test(start_paused = true)]
async fn a_flapping_target_is_written_at_once_then_calmly_and_its_last_state_is_not_lost() {
    let (fleet, _writer) = Pretended::start();
    let id = fleet.create("a", "1", "Succeeded");
    pass(60 * SECOND).await;
    let began = Instant::now();
    for n in 0..600 {
        fleet.becomes(&id, if n % 2 == 0 { "Connect" } else { "Succeeded" });
        pass(Duration::from_millis(100)).await;
    }
    fleet.becomes(&id, "Timeout");
    pass(30 * SECOND).await;
    let attempts = fleet.attempts();
    assert!(attempts[1].0 - began < Duration::from_millis(100), "the first change is told at once");
    assert!(attempts.len() <= 1 + 8, "{} writes in a minute", attempts.len());
    assert!(attempts.windows(2).all(|pair| pair[1].0 - pair[0].0 >= 10 * SECOND));
    assert_eq!(fleet.held(&id).unwrap(), "Timeout");
}

#[tokio::test(start_paused = true)]
async fn what_is_true_again_before_its_turn_is_not_written() {
    let (fleet, _writer) = Pretended::start();
    let id = fleet.create("a", "1", "Succeeded");
    pass(5 * SECOND).await;
    fleet.becomes(&id, "Connect");
    pass(SECOND).await;
    fleet.becomes(&id, "Succeeded");
    pass(60 * SECOND).await;
    assert_eq!(fleet.said(), ["Succeeded"]);
}

#[tokio::test(start_paused = true)]
async fn a_changed_spec_is_answered_without_the_calm() {
    let (fleet, _writer) = Pretended::start();
    let id = fleet.create("a", "1", "Succeeded");
    pass(2 * SECOND).await;
    fleet.apply(&id, "uid", 2, status(1, "Succeeded"));
    fleet.becomes(&id, "Dns");
    pass(SECOND).await;
    assert_eq!(fleet.said(), ["Succeeded", "Dns"]);
}

#[tokio::test(start_paused = true)]
async fn what_somebody_edits_and_what_time_alone_makes_true_is_put_right_without_a_mark() {
    let (fleet, _writer) = Pretended::start();
    let edited = fleet.create("a", "1", "Succeeded");
    let late = fleet.create("a", "2", "Late");
    pass(60 * SECOND).await;
    fleet.apply(&edited, "uid", 1, status(1, "Nonsense"));
    pass(HEAL + SECOND).await;
    assert_eq!(fleet.held(&edited).unwrap(), "Succeeded");
    assert_eq!(fleet.held(&late).unwrap(), "Early");
    pass(HEAL + SECOND).await;
    assert_eq!(fleet.held(&late).unwrap(), "Late");
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_targets_that_go_down_together_are_written_within_five_minutes_at_the_pace() {
    let (fleet, _writer) = Pretended::start();
    let ids: Vec<TargetId> = (0..10_000).map(|n| fleet.create("a", &n.to_string(), "Succeeded")).collect();
    pass(300 * SECOND).await;
    assert_eq!(fleet.attempts().len(), 10_000);
    for id in &ids {
        fleet.becomes(id, "Connect");
    }
    let began = Instant::now();
    pass(300 * SECOND).await;
    assert!(ids.iter().all(|id| fleet.held(id).as_deref() == Some("Connect")));
    let attempts = fleet.attempts();
    assert_eq!(attempts.len(), 20_000);
    assert!(attempts[10_000..].windows(51).all(|pair| pair[50].0 - pair[0].0 >= Duration::from_millis(980)));
    assert!(attempts.last().unwrap().0 - began < 205 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_is_away_is_asked_seldom_and_gets_everything_when_it_is_back() {
    let (fleet, _writer) = Pretended::start();
    fleet.answer("a", Some(ApiError::Unreachable("gone".to_owned())));
    let ids: Vec<TargetId> = (0..100).map(|n| fleet.create("a", &n.to_string(), "Succeeded")).collect();
    pass(600 * SECOND).await;
    let asked = fleet.attempts().len();
    assert!(asked < 8 * (5 + 600 / 15), "{asked} attempts in ten minutes");
    fleet.answer("a", None);
    pass(65 * SECOND).await;
    assert!(ids.iter().all(|id| fleet.held(id).as_deref() == Some("Succeeded")));
    assert_eq!(fleet.attempts().len(), asked + 100);
}

fn failed() -> ApiError {
    ApiError::Failed("the API server fails with status 500: a webhook is away".to_owned())
}

#[tokio::test(start_paused = true)]
async fn targets_whose_writes_always_fail_do_not_keep_the_others_waiting() {
    let (fleet, _writer) = Pretended::start();
    fleet.answer("bad", Some(failed()));
    for n in 0..20 {
        fleet.create("bad", &n.to_string(), "Succeeded");
    }
    let good: Vec<TargetId> = (0..100).map(|n| fleet.create("good", &n.to_string(), "Succeeded")).collect();
    pass(4 * SECOND).await;
    assert!(good.iter().all(|id| fleet.held(id).is_some()));
    pass(120 * SECOND).await;
    let before = fleet.attempts().len();
    pass(600 * SECOND).await;
    let tried = fleet.attempts().len() - before;
    assert!((20 * 9..=20 * 10).contains(&tried), "{tried}: each once in a minute");
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_targets_that_fail_leave_most_writes_to_others_and_are_written_when_the_failure_ends() {
    let (fleet, _writer) = Pretended::start();
    fleet.answer("bad", Some(failed()));
    let bad: Vec<TargetId> = (0..10_000).map(|n| fleet.create("bad", &n.to_string(), "Succeeded")).collect();
    pass(10 * SECOND).await;
    let (before, began) = (fleet.attempts().len(), Instant::now());
    let good: Vec<TargetId> = (0..1000).map(|n| fleet.create("good", &n.to_string(), "Succeeded")).collect();
    pass(40 * SECOND).await;
    assert!(good.iter().all(|id| fleet.held(id).is_some()));
    let attempts = fleet.attempts();
    let tried = attempts[before..].iter().filter(|(_, id, _)| &*id.namespace == "bad").count();
    assert!(tried <= 40 * 15, "{tried} in {:?}", began.elapsed());
    fleet.answer("bad", None);
    pass(300 * SECOND).await;
    let held = bad.iter().filter(|id| fleet.held(id).is_some()).count();
    assert!(held > 9_300, "what was never tried itself is written at once, and that is most: {held}");
    pass(600 * SECOND).await;
    assert!(bad.iter().all(|id| fleet.held(id).is_some()));
}

#[tokio::test(start_paused = true)]
async fn failures_that_are_spread_over_many_namespaces_share_what_they_may_use() {
    let (fleet, _writer) = Pretended::start();
    for n in 0..5000 {
        fleet.answer(&n.to_string(), Some(failed()));
        fleet.create(&n.to_string(), "1", "Succeeded");
    }
    pass(600 * SECOND).await;
    let before = fleet.attempts().len();
    pass(400 * SECOND).await;
    let tried = fleet.attempts().len() - before;
    assert!(tried <= 400 * 14, "{tried} in 400 s");
}

#[tokio::test(start_paused = true)]
async fn a_webhook_that_takes_its_time_to_fail_leaves_places_to_others() {
    let (fleet, _writer) = Pretended::start();
    *fleet.slow.lock().unwrap() = Some(("bad".to_owned(), 8 * SECOND));
    fleet.answer("bad", Some(failed()));
    for n in 0..200 {
        fleet.create("bad", &n.to_string(), "Succeeded");
    }
    pass(30 * SECOND).await;
    let good: Vec<TargetId> = (0..200).map(|n| fleet.create("good", &n.to_string(), "Succeeded")).collect();
    pass(6 * SECOND).await;
    assert!(good.iter().all(|id| fleet.held(id).is_some()));
}

#[tokio::test(start_paused = true)]
async fn another_generation_of_a_target_that_fails_is_tried_at_once() {
    let (fleet, _writer) = Pretended::start();
    fleet.answer("a", Some(failed()));
    let id = fleet.create("a", "1", "Succeeded");
    pass(240 * SECOND).await;
    fleet.answer("a", None);
    fleet.apply(&id, "uid", 2, ScrapeTargetStatus::default());
    fleet.becomes(&id, "Succeeded");
    pass(2 * SECOND).await;
    assert_eq!(fleet.held(&id).unwrap(), "Succeeded");
}

#[tokio::test(start_paused = true)]
async fn a_namespace_that_is_forbidden_rests_and_others_go_on() {
    let (fleet, _writer) = Pretended::start();
    let rule = Rule::new("patch", "scrapetarget.dev", "scrapetargets/status", Some("denied"));
    fleet.answer("denied", Some(ApiError::Forbidden(rule)));
    let denied: Vec<TargetId> = (0..100).map(|n| fleet.create("denied", &n.to_string(), "Succeeded")).collect();
    let open = fleet.create("open", "1", "Succeeded");
    pass(59 * SECOND).await;
    assert_eq!(fleet.held(&open).unwrap(), "Succeeded");
    let asked = fleet.attempts().len();
    assert!(asked <= 1 + 8, "{asked} attempts in a minute");
    fleet.answer("denied", None);
    pass(10 * SECOND).await;
    assert!(denied.iter().all(|id| fleet.held(id).is_some()));
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_is_not_tried_again_soon_but_another_generation_is() {
    let (fleet, _writer) = Pretended::start();
    fleet.answer("a", Some(ApiError::Refused("a webhook says no".to_owned())));
    let id = fleet.create("a", "1", "Succeeded");
    pass(290 * SECOND).await;
    assert_eq!(fleet.attempts().len(), 1);
    pass(20 * SECOND).await;
    assert_eq!(fleet.attempts().len(), 2);
    fleet.answer("a", None);
    fleet.apply(&id, "uid", 2, ScrapeTargetStatus::default());
    fleet.becomes(&id, "Succeeded");
    pass(2 * SECOND).await;
    assert_eq!(fleet.held(&id).unwrap(), "Succeeded");
}

#[tokio::test(start_paused = true)]
async fn an_object_that_is_gone_is_forgotten_and_one_of_the_same_name_is_a_new_one() {
    let (fleet, _writer) = Pretended::start();
    fleet.answer("a", Some(ApiError::Conflict("uid mismatch".to_owned())));
    let id = fleet.create("a", "1", "Succeeded");
    pass(SECOND).await;
    fleet.answer("a", None);
    fleet.catalog.remove(&id);
    fleet.marked.mark([id.clone()]);
    pass(SECOND).await;
    fleet.apply(&id, "another", 1, ScrapeTargetStatus::default());
    fleet.becomes(&id, "Succeeded");
    pass(SECOND).await;
    assert_eq!(fleet.held(&id).unwrap(), "Succeeded");
    assert_eq!(fleet.attempts().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_written_once_that_is_not_permitted_any_more() {
    let (fleet, writer) = Pretended::start();
    let ids: HashSet<TargetId> = (0..500).map(|n| fleet.create("a", &n.to_string(), "Succeeded")).collect();
    pass(SECOND).await;
    fleet.may_write.send_replace(false);
    let written = fleet.attempts().len();
    assert!(written < ids.len());
    tokio::time::timeout(60 * SECOND, writer).await.unwrap().unwrap();
    assert_eq!(fleet.attempts().len(), written);
}

#[tokio::test(start_paused = true)]
async fn a_lead_that_is_lost_is_noticed_where_nothing_else_happens() {
    let (fleet, writer) = Pretended::start();
    fleet.create("a", "1", "Succeeded");
    pass(45 * SECOND).await;
    fleet.may_write.send_replace(false);
    tokio::time::timeout(SECOND, writer).await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_conflict_is_tried_again_soon_but_ever_more_seldom_while_the_watch_tells_nothing() {
    let (fleet, _writer) = Pretended::start();
    fleet.answer("a", Some(ApiError::Conflict("the object has been modified".to_owned())));
    let id = fleet.create("a", "1", "Succeeded");
    pass(2 * SECOND).await;
    assert_eq!(fleet.attempts().len(), 2);
    pass(600 * SECOND).await;
    let attempts = fleet.attempts().len();
    assert!(attempts <= 6 + 20, "{attempts} attempts in ten minutes");
    fleet.answer("a", None);
    pass(31 * SECOND).await;
    assert_eq!(fleet.held(&id).unwrap(), "Succeeded");
}

#[tokio::test(start_paused = true)]
async fn whoever_else_writes_a_status_is_contradicted_ever_more_seldom_but_news_is_told() {
    let (fleet, _writer) = Pretended::start();
    let id = fleet.create("a", "1", "Succeeded");
    // Another release, which is as stubborn, and says what looks as if it would soon be known better.
    let mut writes = 0;
    for _ in 0..3600 {
        pass(SECOND).await;
        if fleet.held(&id).as_deref() == Some("Succeeded") {
            writes += 1;
            fleet.apply(&id, "uid", 1, status(1, "Pending"));
            fleet.marked.mark([id.clone()]);
        }
    }
    assert!((6..=14).contains(&writes), "{writes} writes in an hour");
    fleet.becomes(&id, "Connect");
    pass(11 * SECOND).await;
    assert_eq!(fleet.held(&id).unwrap(), "Connect");
    assert_eq!(fleet.attempts().len(), writes + 1);
}
