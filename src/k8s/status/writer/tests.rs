use std::collections::{HashMap, HashSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::*;
use crate::crd::{Condition, ConditionStatus, MembersStatus};
use crate::k8s::client::PolicyRule;
use crate::target::Problem;

const SECOND: Duration = Duration::from_secs(1);

/// A cluster in memory. The status that a target should have is identified by the reason of its condition `Up`.
struct FakeCluster {
    store: TargetStore,
    queue: WorkQueue<TargetId>,
    write_limiter: RateLimiter,
    may_write: watch::Sender<bool>,
    /// The numbers of members that each target has.
    members: Mutex<HashMap<TargetId, u32>>,
    /// The desired reason of each target.
    reasons: Mutex<HashMap<TargetId, String>>,
    /// The desired message of `Up`, by target.
    messages: Mutex<HashMap<TargetId, String>>,
    /// The error of all writes, by namespace.
    errors: Mutex<HashMap<String, ApiError>>,
    /// A namespace and how long each write takes there.
    slow: Mutex<Option<(String, Duration)>>,
    /// Every attempt: its time, its target and its reason.
    attempts: Mutex<Vec<(Instant, TargetId, String)>>,
    version: AtomicU64,
}

impl FakeCluster {
    fn start() -> (Arc<Self>, JoinHandle<()>) {
        let cluster = Arc::new(Self {
            store: TargetStore::default(),
            queue: WorkQueue::new(LIMITS),
            write_limiter: RateLimiter::new(50),
            may_write: watch::Sender::new(true),
            members: Mutex::default(),
            reasons: Mutex::default(),
            messages: Mutex::default(),
            errors: Mutex::default(),
            slow: Mutex::default(),
            attempts: Mutex::default(),
            version: AtomicU64::new(1),
        });
        let writer = StatusWriter::new(Arc::clone(&cluster));
        (cluster, tokio::spawn(async move { writer.run().await }))
    }

    /// Puts an object as a watch would.
    fn apply(&self, id: &TargetId, uid: &str, generation: i64, status: ScrapeTargetStatus) {
        self.store.put(Arc::new(ObservedTarget {
            id: id.clone(),
            uid: uid.into(),
            generation,
            resource_version: self.version.fetch_add(1, Ordering::SeqCst).to_string(),
            declaration: Err(Problem::invalid_spec("not looked at")),
            status,
        }));
    }

    /// A new target whose desired reason is `reason`.
    fn create(&self, namespace: &str, name: &str, reason: &str) -> TargetId {
        let id = TargetId::new(namespace, name);
        self.apply(&id, "uid", 1, ScrapeTargetStatus::default());
        self.becomes(&id, reason);
        id
    }

    fn becomes(&self, id: &TargetId, reason: &str) {
        self.reasons.lock().unwrap().insert(id.clone(), reason.to_owned());
        self.queue.add(id.clone());
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

    /// The reason of each attempt.
    fn reasons(&self) -> Vec<String> {
        self.attempts().into_iter().map(|(_, _, reason)| reason).collect()
    }

    /// The reason that the cluster holds.
    fn held(&self, id: &TargetId) -> Option<String> {
        let status = &self.store.get(id)?.object.status;
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
    ScrapeTargetStatus { observed_generation: Some(generation), conditions, members: None }
}

fn up(status: &ScrapeTargetStatus) -> String {
    status.conditions[2].reason.clone()
}

impl StatusBackend for FakeCluster {
    fn store(&self) -> &TargetStore {
        &self.store
    }

    fn queue(&self) -> &WorkQueue<TargetId> {
        &self.queue
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

    /// `Late` is desired after a hundred seconds only, and the target is not added to the queue then.
    fn desired(&self, record: &TargetRecord, watched_for: Duration) -> ScrapeTargetStatus {
        let reason = self.reasons.lock().unwrap()[&record.object.id].clone();
        let late = reason == "Late" && watched_for < 100 * SECOND;
        let members = self.members.lock().unwrap().get(&record.object.id).copied();
        let members = members.map(|found| MembersStatus { found, up: found });
        let mut status = status(record.object.generation, if late { "Early" } else { &reason });
        status.conditions[2].message =
            self.messages.lock().unwrap().get(&record.object.id).cloned().unwrap_or_default();
        ScrapeTargetStatus { members, ..status }
    }

    async fn write(&self, object: &ObservedTarget, status: &ScrapeTargetStatus) -> Result<(), ApiError> {
        self.attempts.lock().unwrap().push((Instant::now(), object.id.clone(), up(status)));
        let slow = self.slow.lock().unwrap().clone().filter(|(namespace, _)| **namespace == *object.id.namespace);
        tokio::time::sleep(slow.map_or(Duration::from_millis(10), |(_, time)| time)).await;
        if let Some(error) = self.errors.lock().unwrap().get(&*object.id.namespace) {
            return Err(error.clone());
        }
        let version = self.version.fetch_add(1, Ordering::SeqCst).to_string();
        self.store.put_status(object, version, status.clone());
        Ok(())
    }
}

/// Lets `time` pass on the paused clock.
async fn pass(time: Duration) {
    tokio::time::sleep(time).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_known_is_written_at_once_and_never_again() {
    let (cluster, _writer) = FakeCluster::start();
    let began = Instant::now();
    let id = cluster.create("a", "1", "Succeeded");
    pass(3600 * SECOND).await;
    assert_eq!(cluster.reasons(), ["Succeeded"]);
    assert!(cluster.attempts()[0].0 - began < Duration::from_millis(100));
    assert_eq!(cluster.held(&id).unwrap(), "Succeeded");
}

#[tokio::test(start_paused = true)]
async fn a_new_target_waits_a_moment_for_its_first_poll_so_that_one_write_says_all() {
    let (cluster, _writer) = FakeCluster::start();
    let id = cluster.create("a", "1", "Pending");
    pass(Duration::from_millis(700)).await;
    cluster.becomes(&id, "Succeeded");
    pass(60 * SECOND).await;
    assert_eq!(cluster.reasons(), ["Succeeded"]);
}

#[tokio::test(start_paused = true)]
async fn a_slow_first_poll_is_pending_first_and_written_soon_after_it_ended() {
    let (cluster, _writer) = FakeCluster::start();
    let id = cluster.create("a", "1", "Pending");
    pass(3 * SECOND).await;
    cluster.becomes(&id, "Timeout");
    let ended = Instant::now();
    pass(60 * SECOND).await;
    assert_eq!(cluster.reasons(), ["Pending", "Timeout"]);
    assert!(cluster.attempts()[1].0 - ended < SECOND);
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_new_targets_are_mostly_written_once() {
    let (cluster, _writer) = FakeCluster::start();
    let ids: Vec<TargetId> = (0..10_000).map(|n| cluster.create("a", &n.to_string(), "Pending")).collect();
    for part in ids.chunks(700) {
        pass(SECOND).await; // polls are spread over their interval
        for id in part {
            cluster.becomes(id, "Succeeded");
        }
    }
    pass(240 * SECOND).await;
    assert!(ids.iter().all(|id| cluster.held(id).as_deref() == Some("Succeeded")));
    let writes = cluster.attempts().len();
    assert!(writes < 10_200, "{writes}");
}

#[tokio::test(start_paused = true)]
async fn a_flapping_target_is_written_at_once_then_rarely_and_its_last_state_is_not_lost() {
    let (cluster, _writer) = FakeCluster::start();
    let id = cluster.create("a", "1", "Succeeded");
    pass(60 * SECOND).await;
    let began = Instant::now();
    for n in 0..600 {
        cluster.becomes(&id, if n % 2 == 0 { "Connect" } else { "Succeeded" });
        pass(Duration::from_millis(100)).await;
    }
    cluster.becomes(&id, "Timeout");
    pass(30 * SECOND).await;
    let attempts = cluster.attempts();
    assert!(attempts[1].0 - began < Duration::from_millis(100), "the first change is written at once");
    assert!(attempts.len() <= 1 + 8, "{} writes in a minute", attempts.len());
    assert!(attempts.windows(2).all(|pair| pair[1].0 - pair[0].0 >= 10 * SECOND));
    assert_eq!(cluster.held(&id).unwrap(), "Timeout");
}

#[tokio::test(start_paused = true)]
async fn a_status_that_is_correct_again_before_its_turn_is_not_written() {
    let (cluster, _writer) = FakeCluster::start();
    let id = cluster.create("a", "1", "Succeeded");
    pass(5 * SECOND).await;
    cluster.becomes(&id, "Connect");
    pass(SECOND).await;
    cluster.becomes(&id, "Succeeded");
    pass(60 * SECOND).await;
    assert_eq!(cluster.reasons(), ["Succeeded"]);
}

#[tokio::test(start_paused = true)]
async fn a_change_of_the_spec_does_not_wait_as_flapping_does() {
    let (cluster, _writer) = FakeCluster::start();
    let id = cluster.create("a", "1", "Succeeded");
    pass(2 * SECOND).await;
    cluster.apply(&id, "uid", 2, status(1, "Succeeded"));
    cluster.becomes(&id, "Dns");
    pass(SECOND).await;
    assert_eq!(cluster.reasons(), ["Succeeded", "Dns"]);
}

#[tokio::test(start_paused = true)]
async fn a_status_that_was_edited_and_one_that_changes_with_time_alone_are_corrected_by_the_resync() {
    let (cluster, _writer) = FakeCluster::start();
    let edited = cluster.create("a", "1", "Succeeded");
    let late = cluster.create("a", "2", "Late");
    pass(60 * SECOND).await;
    cluster.apply(&edited, "uid", 1, status(1, "Nonsense"));
    pass(RESYNC + SECOND).await;
    assert_eq!(cluster.held(&edited).unwrap(), "Succeeded");
    assert_eq!(cluster.held(&late).unwrap(), "Early");
    pass(RESYNC + SECOND).await;
    assert_eq!(cluster.held(&late).unwrap(), "Late");
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_targets_that_go_down_together_are_written_within_five_minutes_at_the_pace() {
    let (cluster, _writer) = FakeCluster::start();
    let ids: Vec<TargetId> = (0..10_000).map(|n| cluster.create("a", &n.to_string(), "Succeeded")).collect();
    pass(300 * SECOND).await;
    assert_eq!(cluster.attempts().len(), 10_000);
    for id in &ids {
        cluster.becomes(id, "Connect");
    }
    let began = Instant::now();
    pass(300 * SECOND).await;
    assert!(ids.iter().all(|id| cluster.held(id).as_deref() == Some("Connect")));
    let attempts = cluster.attempts();
    assert_eq!(attempts.len(), 20_000);
    assert!(attempts[10_000..].windows(51).all(|pair| pair[50].0 - pair[0].0 >= Duration::from_millis(980)));
    assert!(attempts.last().unwrap().0 - began < 205 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_does_not_answer_gets_few_attempts_and_all_writes_when_it_is_back() {
    let (cluster, _writer) = FakeCluster::start();
    cluster.answer("a", Some(ApiError::Unreachable("gone".to_owned())));
    let ids: Vec<TargetId> = (0..100).map(|n| cluster.create("a", &n.to_string(), "Succeeded")).collect();
    pass(600 * SECOND).await;
    let attempts = cluster.attempts().len();
    assert!(attempts < 8 * (5 + 600 / 15), "{attempts} attempts in ten minutes");
    cluster.answer("a", None);
    pass(65 * SECOND).await;
    assert!(ids.iter().all(|id| cluster.held(id).as_deref() == Some("Succeeded")));
    assert_eq!(cluster.attempts().len(), attempts + 100);
}

fn failed() -> ApiError {
    ApiError::Failed("the API server fails with status 500: a webhook fails".to_owned())
}

#[tokio::test(start_paused = true)]
async fn targets_whose_writes_always_fail_do_not_delay_others() {
    let (cluster, _writer) = FakeCluster::start();
    cluster.answer("bad", Some(failed()));
    for n in 0..20 {
        cluster.create("bad", &n.to_string(), "Succeeded");
    }
    let good: Vec<TargetId> = (0..100).map(|n| cluster.create("good", &n.to_string(), "Succeeded")).collect();
    pass(4 * SECOND).await;
    assert!(good.iter().all(|id| cluster.held(id).is_some()));
    pass(120 * SECOND).await;
    let before = cluster.attempts().len();
    pass(600 * SECOND).await;
    let tried = cluster.attempts().len() - before;
    assert!((20 * 9..=20 * 10).contains(&tried), "{tried}: each once in a minute");
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_targets_that_fail_leave_most_writes_to_others_and_are_written_when_the_failure_ends() {
    let (cluster, _writer) = FakeCluster::start();
    cluster.answer("bad", Some(failed()));
    let bad: Vec<TargetId> = (0..10_000).map(|n| cluster.create("bad", &n.to_string(), "Succeeded")).collect();
    pass(10 * SECOND).await;
    let (before, began) = (cluster.attempts().len(), Instant::now());
    let good: Vec<TargetId> = (0..1000).map(|n| cluster.create("good", &n.to_string(), "Succeeded")).collect();
    pass(40 * SECOND).await;
    assert!(good.iter().all(|id| cluster.held(id).is_some()));
    let attempts = cluster.attempts();
    let tried = attempts[before..].iter().filter(|(_, id, _)| &*id.namespace == "bad").count();
    assert!(tried <= 40 * 15, "{tried} in {:?}", began.elapsed());
    cluster.answer("bad", None);
    pass(300 * SECOND).await;
    let held = bad.iter().filter(|id| cluster.held(id).is_some()).count();
    assert!(held > 9_300, "what was never tried itself is written at once, and that is most: {held}");
    pass(600 * SECOND).await;
    assert!(bad.iter().all(|id| cluster.held(id).is_some()));
}

#[tokio::test(start_paused = true)]
async fn failures_in_many_namespaces_share_one_part_of_the_writes() {
    let (cluster, _writer) = FakeCluster::start();
    for n in 0..5000 {
        cluster.answer(&n.to_string(), Some(failed()));
        cluster.create(&n.to_string(), "1", "Succeeded");
    }
    pass(600 * SECOND).await;
    let before = cluster.attempts().len();
    pass(400 * SECOND).await;
    let tried = cluster.attempts().len() - before;
    assert!(tried <= 400 * 14, "{tried} in 400 s");
}

#[tokio::test(start_paused = true)]
async fn a_webhook_that_fails_slowly_leaves_places_to_others() {
    let (cluster, _writer) = FakeCluster::start();
    *cluster.slow.lock().unwrap() = Some(("bad".to_owned(), 8 * SECOND));
    cluster.answer("bad", Some(failed()));
    for n in 0..200 {
        cluster.create("bad", &n.to_string(), "Succeeded");
    }
    pass(30 * SECOND).await;
    let good: Vec<TargetId> = (0..200).map(|n| cluster.create("good", &n.to_string(), "Succeeded")).collect();
    pass(6 * SECOND).await;
    assert!(good.iter().all(|id| cluster.held(id).is_some()));
}

#[tokio::test(start_paused = true)]
async fn another_generation_of_a_target_that_fails_is_tried_at_once() {
    let (cluster, _writer) = FakeCluster::start();
    cluster.answer("a", Some(failed()));
    let id = cluster.create("a", "1", "Succeeded");
    pass(240 * SECOND).await;
    cluster.answer("a", None);
    cluster.apply(&id, "uid", 2, ScrapeTargetStatus::default());
    cluster.becomes(&id, "Succeeded");
    pass(2 * SECOND).await;
    assert_eq!(cluster.held(&id).unwrap(), "Succeeded");
}

#[tokio::test(start_paused = true)]
async fn a_namespace_that_is_forbidden_is_paused_and_others_are_not() {
    let (cluster, _writer) = FakeCluster::start();
    let rule = PolicyRule::new("patch", "scrapetarget.dev", "scrapetargets/status", Some("denied"));
    cluster.answer("denied", Some(ApiError::Forbidden(rule)));
    let denied: Vec<TargetId> = (0..100).map(|n| cluster.create("denied", &n.to_string(), "Succeeded")).collect();
    let open = cluster.create("open", "1", "Succeeded");
    pass(59 * SECOND).await;
    assert_eq!(cluster.held(&open).unwrap(), "Succeeded");
    let attempts = cluster.attempts().len();
    assert!(attempts <= 1 + 8, "{attempts} attempts in a minute");
    cluster.answer("denied", None);
    pass(10 * SECOND).await;
    assert!(denied.iter().all(|id| cluster.held(id).is_some()));
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_is_not_tried_again_soon_but_another_generation_is() {
    let (cluster, _writer) = FakeCluster::start();
    cluster.answer("a", Some(ApiError::Refused("a webhook says no".to_owned())));
    let id = cluster.create("a", "1", "Succeeded");
    pass(290 * SECOND).await;
    assert_eq!(cluster.attempts().len(), 1);
    pass(20 * SECOND).await;
    assert_eq!(cluster.attempts().len(), 2);
    cluster.answer("a", None);
    cluster.apply(&id, "uid", 2, ScrapeTargetStatus::default());
    cluster.becomes(&id, "Succeeded");
    pass(2 * SECOND).await;
    assert_eq!(cluster.held(&id).unwrap(), "Succeeded");
}

#[tokio::test(start_paused = true)]
async fn an_object_that_is_gone_is_forgotten_and_one_of_the_same_name_is_a_new_one() {
    let (cluster, _writer) = FakeCluster::start();
    cluster.answer("a", Some(ApiError::Conflict("uid mismatch".to_owned())));
    let id = cluster.create("a", "1", "Succeeded");
    pass(SECOND).await;
    cluster.answer("a", None);
    cluster.store.remove(&id);
    cluster.queue.add(id.clone());
    pass(SECOND).await;
    cluster.apply(&id, "another", 1, ScrapeTargetStatus::default());
    cluster.becomes(&id, "Succeeded");
    pass(SECOND).await;
    assert_eq!(cluster.held(&id).unwrap(), "Succeeded");
    assert_eq!(cluster.attempts().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_written_once_that_is_not_permitted_any_more() {
    let (cluster, writer) = FakeCluster::start();
    let ids: HashSet<TargetId> = (0..500).map(|n| cluster.create("a", &n.to_string(), "Succeeded")).collect();
    pass(SECOND).await;
    cluster.may_write.send_replace(false);
    let written = cluster.attempts().len();
    assert!(written < ids.len());
    tokio::time::timeout(60 * SECOND, writer).await.unwrap().unwrap();
    assert_eq!(cluster.attempts().len(), written);
}

#[tokio::test(start_paused = true)]
async fn a_lost_leadership_is_noticed_where_nothing_else_happens() {
    let (cluster, writer) = FakeCluster::start();
    cluster.create("a", "1", "Succeeded");
    pass(45 * SECOND).await;
    cluster.may_write.send_replace(false);
    tokio::time::timeout(SECOND, writer).await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_conflict_is_tried_again_soon_and_then_after_growing_delays_while_the_watch_shows_nothing() {
    let (cluster, _writer) = FakeCluster::start();
    cluster.answer("a", Some(ApiError::Conflict("the object has been modified".to_owned())));
    let id = cluster.create("a", "1", "Succeeded");
    pass(2 * SECOND).await;
    assert_eq!(cluster.attempts().len(), 2);
    pass(600 * SECOND).await;
    let attempts = cluster.attempts().len();
    assert!(attempts <= 6 + 20, "{attempts} attempts in ten minutes");
    cluster.answer("a", None);
    pass(31 * SECOND).await;
    assert_eq!(cluster.held(&id).unwrap(), "Succeeded");
}

#[tokio::test(start_paused = true)]
async fn a_status_that_another_writer_overwrites_is_written_after_growing_delays_and_a_change_at_once() {
    let (cluster, _writer) = FakeCluster::start();
    let id = cluster.create("a", "1", "Succeeded");
    // Another release, which overwrites every status with one that looks as if it would soon change.
    let mut writes = 0;
    for _ in 0..3600 {
        pass(SECOND).await;
        if cluster.held(&id).as_deref() == Some("Succeeded") {
            writes += 1;
            cluster.apply(&id, "uid", 1, status(1, "Pending"));
            cluster.queue.add(id.clone());
        }
    }
    assert!((6..=14).contains(&writes), "{writes} writes in an hour");
    cluster.becomes(&id, "Connect");
    pass(11 * SECOND).await;
    assert_eq!(cluster.held(&id).unwrap(), "Connect");
    assert_eq!(cluster.attempts().len(), writes + 1);
}

/// A target with members, and the numbers of them that were written, each with its time.
#[tokio::test(start_paused = true)]
async fn numbers_of_members_are_written_once_a_minute_and_the_newest_are_not_lost() {
    let (cluster, writer) = FakeCluster::start();
    let id = cluster.create("team", "a", "Succeeded");
    let held = || cluster.store.get(&id).unwrap().object.status.members.map(|members| members.found);
    let count = |found: u32| cluster.members.lock().unwrap().insert(id.clone(), found);
    count(1);
    tokio::time::sleep(5 * SECOND).await;
    assert_eq!((held(), cluster.attempts().len()), (Some(1), 1));
    // A rollout: the numbers change each second, for ten minutes.
    for found in 2..602 {
        count(found);
        cluster.queue.add(id.clone());
        tokio::time::sleep(SECOND).await;
    }
    let times: Vec<Instant> = cluster.attempts().iter().map(|(at, ..)| *at).collect();
    assert!(times.windows(2).all(|pair| pair[1] - pair[0] >= 60 * SECOND), "{times:?}");
    assert!(times.len() >= 7, "{times:?}");
    tokio::time::sleep(60 * SECOND + RESYNC).await;
    assert_eq!(held(), Some(601));
    // A condition is written at once, and takes the numbers along.
    count(1000);
    cluster.becomes(&id, "Partial");
    tokio::time::sleep(11 * SECOND).await;
    assert_eq!((held(), cluster.held(&id).as_deref()), (Some(1000), Some("Partial")));
    writer.abort();
}

#[tokio::test(start_paused = true)]
async fn another_message_is_written_soon_and_one_that_is_another_each_time_after_growing_delays() {
    let (cluster, writer) = FakeCluster::start();
    let id = cluster.create("team", "a", "Auth");
    let held = || cluster.store.get(&id).unwrap().object.status.conditions[2].message.clone();
    let says = |message: &str| cluster.messages.lock().unwrap().insert(id.clone(), message.to_owned());
    let found = |number: u32| cluster.members.lock().unwrap().insert(id.clone(), number);
    found(1);
    pass(5 * SECOND).await;
    says("another cause");
    pass(RESYNC + 11 * SECOND).await;
    assert_eq!((held().as_str(), cluster.attempts().len()), ("another cause", 2));
    // A server that says something else in each poll, for two hours. Its members come and go, and their numbers are not held up by that.
    for number in 0..7200 {
        says(&format!("cause {number}"));
        if number == 7000 {
            found(7);
        }
        pass(SECOND).await;
    }
    let count = cluster.attempts().len();
    assert!((10..=25).contains(&count), "{count} writes");
    assert_eq!(cluster.store.get(&id).unwrap().object.status.members.map(|members| members.found), Some(7));
    // A condition is written at once, and after that another message is prompt again.
    cluster.becomes(&id, "Connect");
    pass(11 * SECOND).await;
    assert_eq!(cluster.held(&id).unwrap(), "Connect");
    says("another cause");
    pass(RESYNC + 11 * SECOND).await;
    assert_eq!(held(), "another cause");
    writer.abort();
}

#[tokio::test(start_paused = true)]
async fn targets_whose_numbers_wait_do_not_delay_a_new_one() {
    let (cluster, writer) = FakeCluster::start();
    let ids: Vec<TargetId> = (0..200).map(|i| cluster.create("team", &i.to_string(), "Succeeded")).collect();
    let count = |found: u32| cluster.members.lock().unwrap().extend(ids.iter().map(|id| (id.clone(), found)));
    count(1);
    tokio::time::sleep(30 * SECOND).await;
    count(2);
    cluster.queue.add_all(ids.iter().cloned());
    tokio::time::sleep(SECOND).await;
    assert_eq!(cluster.queue.delayed(), 0);
    let before = cluster.attempts().len();
    let new = cluster.create("team", "new", "Succeeded");
    tokio::time::sleep(2 * SECOND).await;
    assert_eq!(cluster.held(&new).as_deref(), Some("Succeeded"));
    assert_eq!(cluster.attempts().len(), before + 1);
    writer.abort();
}
