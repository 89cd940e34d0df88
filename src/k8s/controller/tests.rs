//! The follower without a watch: reports are made by hand, and what it did is read from pollers, catalog and queues.

use super::super::catalog::Object;
use super::*;
use crate::crd::{ScrapeTargetSpec, ScrapeTargetStatus};
use crate::kind::Type;

fn id(name: &str) -> TargetId {
    TargetId::new("team", name)
}

/// An object `name` whose first version is good.
fn object(name: &str) -> Object {
    let spec = ScrapeTargetSpec::new(Type::Sora, "http://127.0.0.1:9/");
    Object {
        id: id(name),
        uid: "first".into(),
        generation: 1,
        resource_version: "1".to_owned(),
        declaration: Ok(Arc::new(ScrapeTarget::new(name, spec))),
        status: ScrapeTargetStatus::default(),
    }
}

/// The same with another url.
fn moved(name: &str) -> Object {
    let spec = ScrapeTargetSpec::new(Type::Sora, "http://127.0.0.1:10/");
    let declaration = Ok(Arc::new(ScrapeTarget::new(name, spec)));
    Object { declaration, generation: 2, resource_version: "2".to_owned(), ..object(name) }
}

/// The same, but nothing that can be used.
fn spoilt(name: &str) -> Object {
    let declaration = Err(Problem::invalid_spec("spec.interval: too odd"));
    Object { declaration, generation: 3, resource_version: "3".to_owned(), ..object(name) }
}

fn shown(object: Object) -> Observed {
    Observed { object, stand_in: None, unknown: None }
}

struct Lab {
    follower: Follower,
    shared: Arc<Shared>,
}

impl Lab {
    fn new(namespaces: &[Option<&str>]) -> Self {
        let shared = Shared::idle();
        let secrets = Secrets::new(shared.cluster.clone(), None);
        let namespaces = namespaces.iter().map(|namespace| namespace.map(Arc::from)).collect();
        Self { follower: Follower::new(Arc::clone(&shared), secrets, namespaces), shared }
    }

    /// Takes reports as one batch.
    fn take(&mut self, news: impl IntoIterator<Item = News>) {
        self.take_of(0, news);
    }

    fn take_of(&mut self, scope: usize, news: impl IntoIterator<Item = News>) {
        for news in news {
            self.follower.take(Report { scope, news });
        }
        assert!(!self.follower.declare(), "a small batch is done at once");
    }

    fn applied(&mut self, object: Object) {
        self.take([News::Applied(Box::new(shown(object)))]);
    }

    /// A whole list.
    fn list(&mut self, scope: usize, objects: impl IntoIterator<Item = Object>) {
        let page = objects.into_iter().map(shown).collect();
        self.take_of(scope, [News::Listing, News::Page(page), News::Listed]);
    }

    fn url(&self, name: &str) -> Option<String> {
        self.shared.pollers.get(&id(name)).map(|poller| poller.target().source.url.to_string())
    }

    /// Names that the writer of statuses, and that of monitors, must look at.
    fn woken(&self) -> (Vec<TargetId>, Vec<TargetId>) {
        let monitors = self.shared.monitors.drain().iter().filter_map(|key| key.target().cloned()).collect();
        (self.shared.statuses.take(99), monitors)
    }
}

#[tokio::test]
async fn a_new_target_gets_a_poller_and_both_writers_hear_of_it_once() {
    let mut lab = Lab::new(&[None]);
    lab.applied(object("a"));
    assert_eq!(lab.url("a").as_deref(), Some("http://127.0.0.1:9/"));
    assert_eq!(lab.shared.catalog.get(&id("a")).unwrap().accepted, Some(Ok(())));
    assert_eq!(lab.woken(), (vec![id("a")], vec![id("a")]));
    lab.applied(object("a"));
    assert_eq!(lab.woken(), (vec![], vec![]));
}

#[tokio::test]
async fn a_change_reaches_the_same_poller() {
    let mut lab = Lab::new(&[None]);
    lab.applied(object("a"));
    let poller = lab.shared.pollers.get(&id("a")).unwrap();
    lab.woken();
    lab.applied(moved("a"));
    assert_eq!(lab.url("a").as_deref(), Some("http://127.0.0.1:10/"));
    assert!(Arc::ptr_eq(&poller, &lab.shared.pollers.get(&id("a")).unwrap()));
    assert_eq!(lab.woken(), (vec![id("a")], vec![id("a")]));
}

#[tokio::test]
async fn our_own_status_that_comes_back_wakes_nobody_and_anothers_only_who_writes_statuses() {
    let mut lab = Lab::new(&[None]);
    lab.applied(object("a"));
    lab.woken();
    let declared = lab.shared.pollers.revision();
    let status = |generation| ScrapeTargetStatus { observed_generation: Some(generation), conditions: Vec::new() };
    let before = lab.shared.catalog.get(&id("a")).unwrap().object;
    lab.shared.catalog.put_status(&before, "2".to_owned(), status(1));
    lab.applied(Object { resource_version: "2".to_owned(), status: status(1), ..object("a") });
    assert_eq!(lab.woken(), (vec![], vec![]));
    lab.applied(Object { resource_version: "3".to_owned(), status: status(7), ..object("a") });
    assert_eq!(lab.woken(), (vec![id("a")], vec![]));
    assert_eq!(lab.shared.catalog.get(&id("a")).unwrap().object.status, status(7));
    assert_eq!(lab.shared.pollers.revision(), declared, "it is not declared again");
}

#[tokio::test]
async fn a_generation_that_says_the_same_is_still_told_in_the_status() {
    let mut lab = Lab::new(&[None]);
    lab.applied(object("a"));
    lab.woken();
    lab.applied(Object { resource_version: "2".to_owned(), generation: 2, ..object("a") });
    assert_eq!(lab.woken(), (vec![id("a")], vec![]));
}

#[tokio::test]
async fn a_deleted_target_is_gone_even_if_it_came_in_the_same_batch() {
    let mut lab = Lab::new(&[None]);
    lab.applied(object("a"));
    lab.woken();
    lab.take([News::Applied(Box::new(shown(object("b")))), News::Deleted(id("b")), News::Deleted(id("a"))]);
    assert_eq!((lab.url("a"), lab.url("b")), (None, None));
    assert!(lab.shared.catalog.ids().is_empty());
    assert!(lab.woken().1.contains(&id("a")), "its monitor may have to be removed");
    lab.take([News::Deleted(id("a"))]);
    assert_eq!(lab.woken(), (vec![], vec![]));
}

#[tokio::test]
async fn a_target_that_was_deleted_and_made_again_begins_anew() {
    let mut lab = Lab::new(&[None]);
    lab.applied(object("a"));
    let poller = lab.shared.pollers.get(&id("a")).unwrap();
    lab.applied(Object { uid: "second".into(), ..object("a") });
    assert!(!Arc::ptr_eq(&poller, &lab.shared.pollers.get(&id("a")).unwrap()));
    assert_eq!(&*lab.shared.catalog.get(&id("a")).unwrap().object.uid, "second");
}

#[tokio::test]
async fn what_a_list_does_not_show_goes_when_it_is_complete_and_not_before() {
    let mut lab = Lab::new(&[None]);
    lab.list(0, [object("a"), object("b")]);
    lab.take([News::Listing, News::Page(vec![shown(object("b"))])]);
    assert!(lab.url("a").is_some());
    lab.take([News::Listing, News::Page(vec![shown(object("a"))])]);
    lab.take([News::Listed]);
    assert!(lab.url("a").is_some() && lab.url("b").is_none(), "the list that did not end is void");
}

#[tokio::test]
async fn a_list_of_one_namespace_says_nothing_of_another() {
    let mut lab = Lab::new(&[Some("other"), Some("team")]);
    lab.list(1, [object("a")]);
    lab.list(0, []);
    assert!(lab.url("a").is_some());
    lab.list(1, []);
    assert!(lab.url("a").is_none());
}

#[tokio::test]
async fn a_spoilt_object_is_answered_for_by_a_stand_in_and_heals() {
    let mut lab = Lab::new(&[None]);
    lab.applied(object("a"));
    lab.woken();
    let stand_in = Arc::new(ScrapeTarget::new("a", ScrapeTargetSpec::new(Type::Sora, "http://127.0.0.1:9/")));
    lab.take([News::Applied(Box::new(Observed { object: spoilt("a"), stand_in: Some(stand_in), unknown: None }))]);
    let problem = lab.shared.pollers.get(&id("a")).unwrap().target().problem.clone().unwrap();
    assert_eq!((problem.reason, &*problem.message), ("InvalidSpec", "spec.interval: too odd"));
    assert_eq!(lab.shared.catalog.get(&id("a")).unwrap().accepted, Some(Err(problem)));
    assert_eq!(lab.woken().0, [id("a")]);
    lab.applied(Object { generation: 4, resource_version: "4".to_owned(), ..moved("a") });
    assert_eq!(lab.shared.pollers.get(&id("a")).unwrap().target().problem, None);
    assert_eq!(lab.shared.catalog.get(&id("a")).unwrap().accepted, Some(Ok(())));
}

#[tokio::test]
async fn an_object_that_cannot_be_read_at_all_has_no_poller_and_hides_no_other() {
    let mut lab = Lab::new(&[None]);
    lab.applied(object("a"));
    lab.list(0, [spoilt("a"), object("b")]);
    assert!(lab.url("a").is_none() && lab.url("b").is_some());
    assert!(matches!(lab.shared.catalog.get(&id("a")).unwrap().accepted, Some(Err(_))));
}

#[tokio::test]
async fn many_targets_are_given_to_the_pollers_in_steps() {
    let mut lab = Lab::new(&[None]);
    let page = (0..=BATCH).map(|index| shown(object(&index.to_string()))).collect();
    lab.follower.take(Report { scope: 0, news: News::Page(page) });
    assert!(lab.follower.declare());
    assert_eq!(lab.shared.pollers.list().len(), BATCH);
    assert!(!lab.follower.declare());
    assert_eq!(lab.shared.pollers.list().len(), BATCH + 1);
}

#[tokio::test]
async fn each_target_of_a_batch_is_counted_with_its_own_outcome() {
    let mut lab = Lab::new(&[None]);
    lab.list(0, [object("a"), spoilt("b"), object("c")]);
    let count = |outcome| lab.shared.metrics.reconciles.with_label_values(&[outcome]).get();
    assert_eq!((count("success"), count("failure")), (2, 1));
}

/// Nobody reads Secrets here, so that nothing is ever settled.
#[tokio::test(start_paused = true)]
async fn a_target_whose_secrets_are_not_read_is_declared_without_them_after_two_seconds() {
    let mut lab = Lab::new(&[None]);
    let mut spec = ScrapeTargetSpec::new(Type::Sora, "http://127.0.0.1:9/");
    let authorization = serde_json::json!({ "credentials": { "name": "sora", "key": "token" } });
    spec.authorization = Some(serde_json::from_value(authorization).unwrap());
    lab.applied(Object { declaration: Ok(Arc::new(ScrapeTarget::new("a", spec))), ..object("a") });
    lab.applied(object("b"));
    lab.follower.lose_patience();
    assert!(!lab.follower.declare());
    assert!(lab.url("a").is_none() && lab.url("b").is_some());
    tokio::time::advance(PATIENCE).await;
    assert!(lab.follower.wake() <= Instant::now());
    lab.follower.lose_patience();
    assert!(!lab.follower.declare() && lab.follower.waiting.is_empty());
    assert!(
        matches!(lab.shared.catalog.get(&id("a")).unwrap().accepted, Some(Err(problem)) if problem.reason == "SecretUnread")
    );
}
