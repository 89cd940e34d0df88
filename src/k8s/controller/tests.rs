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

struct Bench {
    reconciler: Reconciler,
    shared: Arc<Shared>,
}

impl Bench {
    fn new(namespaces: &[Option<&str>]) -> Self {
        let shared = Shared::idle();
        let secrets = SecretCache::new(shared.client.clone(), None);
        let namespaces = namespaces.iter().map(|namespace| namespace.map(Arc::from)).collect();
        Self { reconciler: Reconciler::new(Arc::clone(&shared), secrets, namespaces), shared }
    }

    /// Takes reports as one batch.
    fn take(&mut self, events: impl IntoIterator<Item = WatchEvent<WatchedTarget>>) {
        self.take_of(0, events);
    }

    fn take_of(&mut self, scope: usize, events: impl IntoIterator<Item = WatchEvent<WatchedTarget>>) {
        for event in events {
            self.reconciler.handle(scope, event);
        }
        assert!(!self.reconciler.reconcile_batch(), "a small batch is done at once");
    }

    fn applied(&mut self, object: ObservedTarget) {
        self.take([WatchEvent::Applied(parsed(object))]);
    }

    /// A whole list.
    fn list(&mut self, scope: usize, objects: impl IntoIterator<Item = ObservedTarget>) {
        let page = objects.into_iter().map(parsed).collect();
        self.take_of(scope, [WatchEvent::ListStarted, WatchEvent::ListPage(page), WatchEvent::ListFinished]);
    }

    fn url(&self, name: &str) -> Option<String> {
        self.shared.pollers.get(&id(name)).map(|poller| poller.target().source.url.to_string())
    }

    /// Names that the writer of statuses, and that of monitors, must look at.
    fn marked(&self) -> (Vec<TargetId>, Vec<TargetId>) {
        let monitors = self.shared.monitors.drain().iter().filter_map(|key| key.target().cloned()).collect();
        (self.shared.statuses.drain(), monitors)
    }
}

#[tokio::test]
async fn a_new_target_gets_a_poller_and_both_writers_hear_of_it_once() {
    let mut bench = Bench::new(&[None]);
    bench.applied(observed("a"));
    assert_eq!(bench.url("a").as_deref(), Some("http://127.0.0.1:9/"));
    assert_eq!(bench.shared.targets.get(&id("a")).unwrap().accepted, Some(Ok(())));
    assert_eq!(bench.marked(), (vec![id("a")], vec![id("a")]));
    bench.applied(observed("a"));
    assert_eq!(bench.marked(), (vec![], vec![]));
}

#[tokio::test]
async fn a_change_reaches_the_same_poller() {
    let mut bench = Bench::new(&[None]);
    bench.applied(observed("a"));
    let poller = bench.shared.pollers.get(&id("a")).unwrap();
    bench.marked();
    bench.applied(moved("a"));
    assert_eq!(bench.url("a").as_deref(), Some("http://127.0.0.1:10/"));
    assert!(Arc::ptr_eq(&poller, &bench.shared.pollers.get(&id("a")).unwrap()));
    assert_eq!(bench.marked(), (vec![id("a")], vec![id("a")]));
}

#[tokio::test]
async fn our_own_status_that_comes_back_wakes_nobody_and_anothers_only_who_writes_statuses() {
    let mut bench = Bench::new(&[None]);
    bench.applied(observed("a"));
    bench.marked();
    let declared = bench.shared.pollers.revision();
    let status = |generation| ScrapeTargetStatus { observed_generation: Some(generation), conditions: Vec::new() };
    let before = bench.shared.targets.get(&id("a")).unwrap().object;
    bench.shared.targets.put_status(&before, "2".to_owned(), status(1));
    bench.applied(ObservedTarget { resource_version: "2".to_owned(), status: status(1), ..observed("a") });
    assert_eq!(bench.marked(), (vec![], vec![]));
    bench.applied(ObservedTarget { resource_version: "3".to_owned(), status: status(7), ..observed("a") });
    assert_eq!(bench.marked(), (vec![id("a")], vec![]));
    assert_eq!(bench.shared.targets.get(&id("a")).unwrap().object.status, status(7));
    assert_eq!(bench.shared.pollers.revision(), declared, "it is not declared again");
}

#[tokio::test]
async fn a_generation_that_says_the_same_is_still_told_in_the_status() {
    let mut bench = Bench::new(&[None]);
    bench.applied(observed("a"));
    bench.marked();
    bench.applied(ObservedTarget { resource_version: "2".to_owned(), generation: 2, ..observed("a") });
    assert_eq!(bench.marked(), (vec![id("a")], vec![]));
}

#[tokio::test]
async fn a_deleted_target_is_gone_even_if_it_came_in_the_same_batch() {
    let mut bench = Bench::new(&[None]);
    bench.applied(observed("a"));
    bench.marked();
    bench.take([
        WatchEvent::Applied(parsed(observed("b"))),
        WatchEvent::Deleted(parsed(observed("b"))),
        WatchEvent::Deleted(parsed(observed("a"))),
    ]);
    assert_eq!((bench.url("a"), bench.url("b")), (None, None));
    assert!(bench.shared.targets.ids().is_empty());
    assert!(bench.marked().1.contains(&id("a")), "its monitor may have to be removed");
    bench.take([WatchEvent::Deleted(parsed(observed("a")))]);
    assert_eq!(bench.marked(), (vec![], vec![]));
}

#[tokio::test]
async fn a_target_that_was_deleted_and_made_again_begins_anew() {
    let mut bench = Bench::new(&[None]);
    bench.applied(observed("a"));
    let poller = bench.shared.pollers.get(&id("a")).unwrap();
    bench.applied(ObservedTarget { uid: "second".into(), ..observed("a") });
    assert!(!Arc::ptr_eq(&poller, &bench.shared.pollers.get(&id("a")).unwrap()));
    assert_eq!(&*bench.shared.targets.get(&id("a")).unwrap().object.uid, "second");
}

#[tokio::test]
async fn what_a_list_does_not_show_goes_when_it_is_complete_and_not_before() {
    let mut bench = Bench::new(&[None]);
    bench.list(0, [observed("a"), observed("b")]);
    bench.take([WatchEvent::ListStarted, WatchEvent::ListPage(vec![parsed(observed("b"))])]);
    assert!(bench.url("a").is_some());
    bench.take([WatchEvent::ListStarted, WatchEvent::ListPage(vec![parsed(observed("a"))])]);
    bench.take([WatchEvent::ListFinished]);
    assert!(bench.url("a").is_some() && bench.url("b").is_none(), "the list that did not end is void");
}

#[tokio::test]
async fn a_list_of_one_namespace_says_nothing_of_another() {
    let mut bench = Bench::new(&[Some("other"), Some("team")]);
    bench.list(1, [observed("a")]);
    bench.list(0, []);
    assert!(bench.url("a").is_some());
    bench.list(1, []);
    assert!(bench.url("a").is_none());
}

#[tokio::test]
async fn a_spoilt_object_is_answered_for_by_a_stand_in_and_heals() {
    let mut bench = Bench::new(&[None]);
    bench.applied(observed("a"));
    bench.marked();
    let stand_in = Arc::new(ParsedTarget::stand_in("a", Type::Sora, "http://127.0.0.1:9/"));
    let parsed = ConvertedTarget { target: malformed("a"), stand_in: Some(stand_in), unknown_field: None };
    bench.take([WatchEvent::Applied(WatchedTarget(Some(parsed)))]);
    let problem = bench.shared.pollers.get(&id("a")).unwrap().target().problem.clone().unwrap();
    assert_eq!((problem.reason, &*problem.message), ("InvalidSpec", "spec.interval: too odd"));
    assert_eq!(bench.shared.targets.get(&id("a")).unwrap().accepted, Some(Err(problem)));
    assert_eq!(bench.marked().0, [id("a")]);
    bench.applied(ObservedTarget { generation: 4, resource_version: "4".to_owned(), ..moved("a") });
    assert_eq!(bench.shared.pollers.get(&id("a")).unwrap().target().problem, None);
    assert_eq!(bench.shared.targets.get(&id("a")).unwrap().accepted, Some(Ok(())));
}

#[tokio::test]
async fn an_object_that_cannot_be_read_at_all_has_no_poller_and_hides_no_other() {
    let mut bench = Bench::new(&[None]);
    bench.applied(observed("a"));
    bench.list(0, [malformed("a"), observed("b")]);
    assert!(bench.url("a").is_none() && bench.url("b").is_some());
    assert!(matches!(bench.shared.targets.get(&id("a")).unwrap().accepted, Some(Err(_))));
}

#[tokio::test]
async fn many_targets_are_given_to_the_pollers_in_steps() {
    let mut bench = Bench::new(&[None]);
    let page = (0..=BATCH).map(|index| parsed(observed(&index.to_string()))).collect();
    bench.reconciler.handle(0, WatchEvent::ListPage(page));
    assert!(bench.reconciler.reconcile_batch());
    assert_eq!(bench.shared.pollers.list().len(), BATCH);
    assert!(!bench.reconciler.reconcile_batch());
    assert_eq!(bench.shared.pollers.list().len(), BATCH + 1);
}

#[tokio::test]
async fn each_target_of_a_batch_is_counted_with_its_own_outcome() {
    let mut bench = Bench::new(&[None]);
    bench.list(0, [observed("a"), malformed("b"), observed("c")]);
    let count = |outcome| bench.shared.metrics.reconciles.with_label_values(&[outcome]).get();
    assert_eq!((count("success"), count("failure")), (2, 1));
}

/// Nobody reads Secrets here, so that nothing is ever settled.
#[tokio::test(start_paused = true)]
async fn a_target_whose_secrets_are_not_read_is_declared_without_them_after_two_seconds() {
    let mut bench = Bench::new(&[None]);
    let mut spec = ScrapeTargetSpec::new(Type::Sora, "http://127.0.0.1:9/");
    let authorization = serde_json::json!({ "credentials": { "name": "sora", "key": "token" } });
    spec.authorization = Some(serde_json::from_value(authorization).unwrap());
    bench.applied(ObservedTarget {
        declaration: Ok(Arc::new(ParsedTarget::parse(ScrapeTarget::new("a", spec)).unwrap())),
        ..observed("a")
    });
    bench.applied(observed("b"));
    bench.reconciler.declare_overdue();
    assert!(!bench.reconciler.reconcile_batch());
    assert!(bench.url("a").is_none() && bench.url("b").is_some());
    tokio::time::advance(SECRETS_TIMEOUT).await;
    assert!(bench.reconciler.wake_at() <= Instant::now());
    bench.reconciler.declare_overdue();
    assert!(!bench.reconciler.reconcile_batch() && bench.reconciler.awaiting_secrets.is_empty());
    assert!(
        matches!(bench.shared.targets.get(&id("a")).unwrap().accepted, Some(Err(problem)) if problem.reason == "SecretUnread")
    );
}
