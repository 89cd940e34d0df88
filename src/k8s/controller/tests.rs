//! The reconciler without a watch: the events are made by hand, and its effects are read from pollers, store and queues.

use super::*;
use crate::crd::{ScrapeTargetSpec, ScrapeTargetStatus};
use crate::k8s::observed::ObservedTarget;
use crate::kind::Type;

fn id(name: &str) -> TargetId {
    TargetId::new("team", name)
}

/// An object `name` whose first version is good.
fn observed(name: &str) -> ObservedTarget {
    let spec = ScrapeTargetSpec::new(Type::Sora, "http://127.0.0.1:9/");
    ObservedTarget {
        id: id(name),
        uid: "first".into(),
        generation: 1,
        resource_version: "1".to_owned(),
        declaration: Ok(Arc::new(ParsedTarget::parse(ScrapeTarget::new(name, spec)).unwrap())),
        status: ScrapeTargetStatus::default(),
    }
}

/// The same with another url.
fn moved(name: &str) -> ObservedTarget {
    let spec = ScrapeTargetSpec::new(Type::Sora, "http://127.0.0.1:10/");
    let declaration = Ok(Arc::new(ParsedTarget::parse(ScrapeTarget::new(name, spec)).unwrap()));
    ObservedTarget { declaration, generation: 2, resource_version: "2".to_owned(), ..observed(name) }
}

/// The same, but nothing that can be used.
fn malformed(name: &str) -> ObservedTarget {
    let declaration = Err(Problem::invalid_spec("spec.interval: too odd"));
    ObservedTarget { declaration, generation: 3, resource_version: "3".to_owned(), ..observed(name) }
}

fn parsed(target: ObservedTarget) -> WatchedTarget {
    WatchedTarget(Some(ConvertedTarget { target, stand_in: None, unknown_field: None }))
}

struct Harness {
    reconciler: Reconciler,
    shared: Arc<Shared>,
}

impl Harness {
    fn new(namespaces: &[Option<&str>]) -> Self {
        let shared = Shared::idle();
        let secrets = SecretCache::new(shared.client.clone(), None);
        let namespaces: Vec<Scope> = namespaces.iter().map(|namespace| namespace.map(Arc::from)).collect();
        let endpoints = EndpointCache::new(Arc::clone(&shared), &namespaces);
        Self { reconciler: Reconciler::new(Arc::clone(&shared), secrets, endpoints, namespaces), shared }
    }

    /// Handles events as one batch.
    fn handle(&mut self, events: impl IntoIterator<Item = WatchEvent<WatchedTarget>>) {
        self.handle_of(0, events);
    }

    fn handle_of(&mut self, scope: usize, events: impl IntoIterator<Item = WatchEvent<WatchedTarget>>) {
        for event in events {
            self.reconciler.handle(scope, event);
        }
        assert!(!self.reconciler.reconcile_batch(), "a small batch is done at once");
    }

    fn applied(&mut self, object: ObservedTarget) {
        self.handle([WatchEvent::Applied(parsed(object))]);
    }

    /// A whole list.
    fn list(&mut self, scope: usize, objects: impl IntoIterator<Item = ObservedTarget>) {
        let page = objects.into_iter().map(parsed).collect();
        self.handle_of(scope, [WatchEvent::ListStarted, WatchEvent::ListPage(page), WatchEvent::ListFinished]);
    }

    fn url(&self, name: &str) -> Option<String> {
        self.shared.pollers.get(&id(name)).map(|poller| poller.target().source.url.to_string())
    }

    /// The keys that are queued for the writer of statuses and for that of monitors, which are taken from the queues.
    fn queued(&self) -> (Vec<TargetId>, Vec<TargetId>) {
        let monitors = self.shared.monitors.drain().iter().filter_map(|key| key.target().cloned()).collect();
        (self.shared.statuses.drain(), monitors)
    }
}

#[tokio::test]
async fn a_new_target_gets_a_poller_and_is_enqueued_once_for_both_writers() {
    let mut harness = Harness::new(&[None]);
    harness.applied(observed("a"));
    assert_eq!(harness.url("a").as_deref(), Some("http://127.0.0.1:9/"));
    assert_eq!(harness.shared.targets.get(&id("a")).unwrap().accepted, Some(Ok(())));
    assert_eq!(harness.queued(), (vec![id("a")], vec![id("a")]));
    harness.applied(observed("a"));
    assert_eq!(harness.queued(), (vec![], vec![]));
}

#[tokio::test]
async fn a_change_reaches_the_same_poller() {
    let mut harness = Harness::new(&[None]);
    harness.applied(observed("a"));
    let poller = harness.shared.pollers.get(&id("a")).unwrap();
    harness.queued();
    harness.applied(moved("a"));
    assert_eq!(harness.url("a").as_deref(), Some("http://127.0.0.1:10/"));
    assert!(Arc::ptr_eq(&poller, &harness.shared.pollers.get(&id("a")).unwrap()));
    assert_eq!(harness.queued(), (vec![id("a")], vec![id("a")]));
}

#[tokio::test]
async fn our_own_status_is_not_enqueued_when_it_is_observed_and_anothers_only_for_the_writer_of_statuses() {
    let mut harness = Harness::new(&[None]);
    harness.applied(observed("a"));
    harness.queued();
    let declared = harness.shared.pollers.revision();
    let status =
        |generation| ScrapeTargetStatus { observed_generation: Some(generation), ..ScrapeTargetStatus::default() };
    let before = harness.shared.targets.get(&id("a")).unwrap().object;
    harness.shared.targets.put_status(&before, "2".to_owned(), status(1));
    harness.applied(ObservedTarget { resource_version: "2".to_owned(), status: status(1), ..observed("a") });
    assert_eq!(harness.queued(), (vec![], vec![]));
    harness.applied(ObservedTarget { resource_version: "3".to_owned(), status: status(7), ..observed("a") });
    assert_eq!(harness.queued(), (vec![id("a")], vec![]));
    assert_eq!(harness.shared.targets.get(&id("a")).unwrap().object.status, status(7));
    assert_eq!(harness.shared.pollers.revision(), declared, "it is not declared again");
}

#[tokio::test]
async fn a_generation_with_the_same_declaration_still_enqueues_the_status() {
    let mut harness = Harness::new(&[None]);
    harness.applied(observed("a"));
    harness.queued();
    harness.applied(ObservedTarget { resource_version: "2".to_owned(), generation: 2, ..observed("a") });
    assert_eq!(harness.queued(), (vec![id("a")], vec![]));
}

#[tokio::test]
async fn a_deleted_target_is_gone_even_if_it_came_in_the_same_batch() {
    let mut harness = Harness::new(&[None]);
    harness.applied(observed("a"));
    harness.queued();
    harness.handle([
        WatchEvent::Applied(parsed(observed("b"))),
        WatchEvent::Deleted(parsed(observed("b"))),
        WatchEvent::Deleted(parsed(observed("a"))),
    ]);
    assert_eq!((harness.url("a"), harness.url("b")), (None, None));
    assert!(harness.shared.targets.ids().is_empty());
    assert!(harness.queued().1.contains(&id("a")), "its monitor may have to be removed");
    harness.handle([WatchEvent::Deleted(parsed(observed("a")))]);
    assert_eq!(harness.queued(), (vec![], vec![]));
}

#[tokio::test]
async fn a_target_that_was_deleted_and_created_again_has_a_new_poller() {
    let mut harness = Harness::new(&[None]);
    harness.applied(observed("a"));
    let poller = harness.shared.pollers.get(&id("a")).unwrap();
    harness.applied(ObservedTarget { uid: "second".into(), ..observed("a") });
    assert!(!Arc::ptr_eq(&poller, &harness.shared.pollers.get(&id("a")).unwrap()));
    assert_eq!(&*harness.shared.targets.get(&id("a")).unwrap().object.uid, "second");
}

#[tokio::test]
async fn targets_that_a_list_does_not_show_are_removed_when_it_is_complete_and_not_before() {
    let mut harness = Harness::new(&[None]);
    harness.list(0, [observed("a"), observed("b")]);
    harness.handle([WatchEvent::ListStarted, WatchEvent::ListPage(vec![parsed(observed("b"))])]);
    assert!(harness.url("a").is_some());
    harness.handle([WatchEvent::ListStarted, WatchEvent::ListPage(vec![parsed(observed("a"))])]);
    harness.handle([WatchEvent::ListFinished]);
    assert!(harness.url("a").is_some() && harness.url("b").is_none(), "the list that did not end is void");
}

#[tokio::test]
async fn a_list_of_one_namespace_removes_no_target_of_another() {
    let mut harness = Harness::new(&[Some("other"), Some("team")]);
    harness.list(1, [observed("a")]);
    harness.list(0, []);
    assert!(harness.url("a").is_some());
    harness.list(1, []);
    assert!(harness.url("a").is_none());
}

#[tokio::test]
async fn an_invalid_object_is_answered_for_by_a_stand_in_until_it_is_corrected() {
    let mut harness = Harness::new(&[None]);
    harness.applied(observed("a"));
    harness.queued();
    let stand_in = Arc::new(ParsedTarget::stand_in("a", Type::Sora, "http://127.0.0.1:9/"));
    let parsed = ConvertedTarget { target: malformed("a"), stand_in: Some(stand_in), unknown_field: None };
    harness.handle([WatchEvent::Applied(WatchedTarget(Some(parsed)))]);
    let problem = harness.shared.pollers.get(&id("a")).unwrap().target().problem.clone().unwrap();
    assert_eq!((problem.reason, &*problem.message), ("InvalidSpec", "spec.interval: too odd"));
    assert_eq!(harness.shared.targets.get(&id("a")).unwrap().accepted, Some(Err(problem)));
    assert_eq!(harness.queued().0, [id("a")]);
    harness.applied(ObservedTarget { generation: 4, resource_version: "4".to_owned(), ..moved("a") });
    assert_eq!(harness.shared.pollers.get(&id("a")).unwrap().target().problem, None);
    assert_eq!(harness.shared.targets.get(&id("a")).unwrap().accepted, Some(Ok(())));
}

#[tokio::test]
async fn an_object_that_cannot_be_parsed_at_all_has_no_poller_and_does_not_affect_others() {
    let mut harness = Harness::new(&[None]);
    harness.applied(observed("a"));
    harness.list(0, [malformed("a"), observed("b")]);
    assert!(harness.url("a").is_none() && harness.url("b").is_some());
    assert!(matches!(harness.shared.targets.get(&id("a")).unwrap().accepted, Some(Err(_))));
}

#[tokio::test]
async fn many_targets_are_given_to_the_pollers_in_steps() {
    let mut harness = Harness::new(&[None]);
    let page = (0..=BATCH).map(|index| parsed(observed(&index.to_string()))).collect();
    harness.reconciler.handle(0, WatchEvent::ListPage(page));
    assert!(harness.reconciler.reconcile_batch());
    assert_eq!(harness.shared.pollers.list().len(), BATCH);
    assert!(!harness.reconciler.reconcile_batch());
    assert_eq!(harness.shared.pollers.list().len(), BATCH + 1);
}

#[tokio::test]
async fn each_target_of_a_batch_is_counted_with_its_own_outcome() {
    let mut harness = Harness::new(&[None]);
    harness.list(0, [observed("a"), malformed("b"), observed("c")]);
    let count = |outcome| harness.shared.metrics.reconciles.with_label_values(&[outcome]).get();
    assert_eq!((count("success"), count("failure")), (2, 1));
}

/// Nothing reads Secrets in this test, so that no reference is ever read.
#[tokio::test(start_paused = true)]
async fn a_target_whose_secrets_are_not_read_is_declared_without_them_after_two_seconds() {
    let mut harness = Harness::new(&[None]);
    let mut spec = ScrapeTargetSpec::new(Type::Sora, "http://127.0.0.1:9/");
    let authorization = serde_json::json!({ "credentials": { "name": "sora", "key": "token" } });
    spec.authorization = Some(serde_json::from_value(authorization).unwrap());
    harness.applied(ObservedTarget {
        declaration: Ok(Arc::new(ParsedTarget::parse(ScrapeTarget::new("a", spec)).unwrap())),
        ..observed("a")
    });
    harness.applied(observed("b"));
    harness.reconciler.declare_overdue();
    assert!(!harness.reconciler.reconcile_batch());
    assert!(harness.url("a").is_none() && harness.url("b").is_some());
    tokio::time::advance(READ_TIMEOUT).await;
    assert!(harness.reconciler.wake_at() <= Instant::now());
    harness.reconciler.declare_overdue();
    assert!(!harness.reconciler.reconcile_batch() && harness.reconciler.awaiting.is_empty());
    assert!(
        matches!(harness.shared.targets.get(&id("a")).unwrap().accepted, Some(Err(problem)) if problem.reason == "SecretUnread")
    );
}

/// The same as [`observed`], with the endpoints of a Service as its members. No watch runs in these tests.
fn with_members(name: &str) -> ObservedTarget {
    let mut spec = ScrapeTargetSpec::new(Type::Sora, "http://rooms:80/");
    spec.members = Some(serde_json::from_value(serde_json::json!({ "service": {} })).unwrap());
    let declaration = Ok(Arc::new(ParsedTarget::parse(ScrapeTarget::new(name, spec)).unwrap()));
    ObservedTarget { declaration, ..observed(name) }
}

#[tokio::test(start_paused = true)]
async fn a_target_whose_endpoints_are_not_read_waits_for_two_seconds_and_then_says_so() {
    let mut harness = Harness::new(&[None]);
    harness.list(0, [with_members("a"), observed("b")]);
    assert!(harness.url("a").is_none() && harness.url("b").is_some());
    tokio::time::advance(READ_TIMEOUT).await;
    harness.reconciler.declare_overdue();
    assert!(!harness.reconciler.reconcile_batch() && harness.reconciler.awaiting.is_empty());
    let accepted = harness.shared.targets.get(&id("a")).unwrap().accepted;
    assert!(matches!(accepted, Some(Err(problem)) if problem.reason == "EndpointsUnread"));
    assert!(harness.reconciler.readiness.becomes_known(harness.reconciler.awaiting.is_empty()));
}

#[tokio::test(start_paused = true)]
async fn a_target_whose_endpoints_will_be_listed_soon_is_not_refused_meanwhile() {
    let mut harness = Harness::new(&[None]);
    harness.reconciler.endpoints.grant();
    harness.list(0, [with_members("a")]);
    let began = Instant::now();
    for until in [began + READ_TIMEOUT, began + LISTED_TIMEOUT] {
        assert!(harness.url("a").is_none() && harness.shared.targets.get(&id("a")).unwrap().accepted.is_none());
        assert!(harness.reconciler.wake_at() > Instant::now());
        tokio::time::sleep_until(until).await;
        harness.reconciler.declare_overdue();
        assert!(!harness.reconciler.reconcile_batch());
    }
    assert!(harness.reconciler.awaiting.is_empty());
    let accepted = harness.shared.targets.get(&id("a")).unwrap().accepted;
    assert!(matches!(accepted, Some(Err(problem)) if problem.reason == "EndpointsUnread"));
}
