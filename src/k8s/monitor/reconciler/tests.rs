//! The reconciler without an API server: the tests give it events and answers, and check the writes that it starts and the conditions that
//! it sets.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use super::*;
use crate::crd::{ConditionStatus, Monitor, ParsedTarget, ScrapeTarget, ScrapeTargetSpec, ScrapeTargetStatus};
use crate::k8s::leader::Leadership;
use crate::k8s::observed::ObservedTarget;
use crate::k8s::watch::tests::{ScriptedAnswer, expired, scripted};
use crate::kind::Type;
use crate::target::Problem;

/// A reconciler for some namespaces, of which `a` was listed.
fn reconciler(namespaces: &[&str], namespace: MonitorNamespace) -> MonitorReconciler {
    let mut shared = Shared::idle();
    let settings = &mut Arc::get_mut(&mut shared).unwrap().settings;
    settings.watch_namespaces = namespaces.iter().map(|&name| name.to_owned()).collect();
    settings.discovery.monitor_namespace = namespace;
    shared.targets.set_listed(Some("a".into()));
    let mut reconciler = MonitorReconciler::new(MonitorClient { shared, leadership: Leadership::never() });
    reconciler.crd = Some(OperatorCrd::Installed(OperatorFeatures::OLDEST));
    reconciler
}

fn declare(reconciler: &MonitorReconciler, namespace: &str, spec: Result<ScrapeTargetSpec, Problem>) -> TargetId {
    let id = TargetId::new(namespace, "target");
    reconciler.shared().targets.put(Arc::new(ObservedTarget {
        id: id.clone(),
        uid: "first".into(),
        generation: 1,
        resource_version: "1".to_owned(),
        declaration: spec.map(|spec| Arc::new(ParsedTarget::parse(ScrapeTarget::new("target", spec)).unwrap())),
        status: ScrapeTargetStatus::default(),
    }));
    id
}

fn good() -> ScrapeTargetSpec {
    ScrapeTargetSpec::new(Type::Sora, "http://127.0.0.1:9/")
}

/// Shows a monitor in all that its watch covers.
fn show(reconciler: &mut MonitorReconciler, namespace: &str, name: &str, target: Option<&str>) -> MonitorRef {
    let labels = target.map(|namespace| json!({ "scrapetarget.dev/target-namespace": namespace }));
    let object =
        json!({ "metadata": { "namespace": namespace, "name": name, "uid": name, "labels": labels }, "spec": {} });
    show_object(reconciler, object)
}

fn show_object(reconciler: &mut MonitorReconciler, object: Value) -> MonitorRef {
    let object: ServiceMonitor = serde_json::from_value(object).unwrap();
    let monitor = ObservedMonitor::from(object.clone()).monitor;
    let scope = reconciler.scope_of(&monitor).unwrap();
    reconciler.handle_event(scope, WatchEvent::Applied(object));
    monitor
}

#[tokio::test]
async fn a_namespace_that_may_not_be_listed_keeps_its_monitors() {
    let mut reconciler = reconciler(&["a", "b"], MonitorNamespace::Target);
    let gone = show(&mut reconciler, "a", "target", None);
    let hidden = show(&mut reconciler, "b", "target", None);
    let left = show(&mut reconciler, "monitoring", "target", None);
    assert!(reconciler.is_orphan(&gone), "it was listed without its target");
    assert!(!reconciler.is_orphan(&hidden));
    assert!(reconciler.is_orphan(&left), "it is not watched any more");
    reconciler.shared().targets.set_listed(Some("b".into()));
    assert!(reconciler.is_orphan(&hidden), "by now its target is known to be missing");
}

#[tokio::test]
async fn in_our_namespace_the_label_or_the_name_has_the_namespace_of_the_target() {
    let mut reconciler = reconciler(&["a", "b"], MonitorNamespace::Release);
    let mut is_orphan = |name, target| {
        let monitor = show(&mut reconciler, "monitoring", name, target);
        reconciler.is_orphan(&monitor)
    };
    assert!(is_orphan("a.target-1", Some("a")) && is_orphan("a.target-2", None));
    assert!(!is_orphan("b.target-1", Some("b")) && !is_orphan("b.target-2", None));
}

#[tokio::test]
async fn the_end_of_a_list_enqueues_only_its_own_targets() {
    let mut reconciler = reconciler(&["a", "b"], MonitorNamespace::Target);
    let (_, other) = (declare(&reconciler, "a", Ok(good())), declare(&reconciler, "b", Ok(good())));
    let scope = reconciler.scope_of(&MonitorRef { namespace: "b".into(), name: "any".into() }).unwrap();
    reconciler.handle_event(scope, WatchEvent::ListStarted);
    reconciler.handle_event(scope, WatchEvent::ListFinished);
    assert_eq!(queued(&reconciler), [other]);
}

#[tokio::test]
async fn an_invalid_spec_keeps_its_monitor_and_reports_that() {
    let mut reconciler = reconciler(&["a"], MonitorNamespace::Target);
    let id = declare(&reconciler, "a", Err(Problem::invalid_spec("spec.interval: too odd")));
    let monitor = show(&mut reconciler, "a", "target", None);
    reconcile(&mut reconciler, &id);
    let state = reconciler.shared().targets.get(&id).unwrap().monitor.unwrap();
    assert_eq!((state.status, state.reason), (ConditionStatus::False, "InvalidSpec"));
    assert!(reconciler.writes.is_empty() && !reconciler.is_orphan(&monitor));
}

/// Shows a monitor with this spec in the namespace `a`.
fn show_spec(reconciler: &mut MonitorReconciler, spec: &Value) -> MonitorRef {
    show_object(reconciler, json!({ "metadata": { "namespace": "a", "name": "target", "uid": "u" }, "spec": spec }))
}

#[tokio::test]
async fn a_monitor_that_an_earlier_version_wrote_is_removed_if_it_violates_the_policy_whatever_the_spec_is() {
    let step = json!({ "action": "replace", "targetLabel": "__address__", "replacement": "elsewhere:80" });
    let redirecting = json!({ "endpoints": [{ "relabelings": [step] }] });
    let classed = json!({ "scrapeClass": "cluster", "endpoints": [{}] });
    for spec in [redirecting, classed] {
        let mut reconciler = reconciler_of_two();
        let id = declare(&reconciler, "a", Err(Problem::invalid_spec("spec.interval: too odd")));
        let monitor = show_spec(&mut reconciler, &spec);
        reconcile(&mut reconciler, &id);
        assert!(reconciler.writes.len() == 1 && reconciler.in_flight.contains_key(&monitor), "it is being removed");
        reconciler
            .finish(FinishedWrite { monitor, outcome: WriteOutcome::Deleted(Some(condition::invalid_spec()), Ok(())) });
        assert_eq!(condition_of(&reconciler, &id), Some((ConditionStatus::False, "InvalidSpec")));
        reconciler.writes.clear();
        assert!(!starts(&mut reconciler, &id), "and not written again");
    }
}

#[tokio::test]
async fn a_scrape_class_that_is_not_allowed_removes_the_monitor() {
    let mut reconciler = reconciler_of_two();
    let monitor = Monitor { scrape_class: Some("cluster".to_owned()), ..Monitor::default() };
    let id = declare(&reconciler, "a", Ok(ScrapeTargetSpec { monitor: Some(monitor), ..good() }));
    reconcile(&mut reconciler, &id);
    assert_eq!(condition_of(&reconciler, &id), Some((ConditionStatus::False, "ScrapeClassNotAllowed")));
    assert!(reconciler.writes.is_empty(), "nothing is written");
    show_spec(&mut reconciler, &json!({ "scrapeClass": "cluster", "endpoints": [{}] }));
    assert!(starts(&mut reconciler, &id), "what is there is removed");
    succeed(&mut reconciler, &id);
    assert_eq!(condition_of(&reconciler, &id), Some((ConditionStatus::False, "ScrapeClassNotAllowed")));
}

#[tokio::test(start_paused = true)]
async fn the_queue_of_a_standby_stays_empty() {
    let shared = Shared::idle();
    let run = crate::k8s::monitor::run(Arc::clone(&shared), Leadership::never());
    shared.enqueue_monitors([TargetId::new("a", "target")]);
    assert!(tokio::time::timeout(RESYNC * 2, run).await.is_err());
    assert!(shared.monitors.is_empty());
}

/// The condition of a target.
fn condition_of(reconciler: &MonitorReconciler, id: &TargetId) -> Option<(ConditionStatus, &'static str)> {
    reconciler.shared().targets.get(id)?.monitor.map(|state| (state.status, state.reason))
}

/// Whether reconciling `id` starts a write, which is dropped.
fn starts(reconciler: &mut MonitorReconciler, id: &TargetId) -> bool {
    reconcile(reconciler, id);
    let started = !reconciler.writes.is_empty();
    reconciler.writes.clear();
    started
}

/// Reconciles `id` now. Other keys stay in the queue.
fn reconcile(reconciler: &mut MonitorReconciler, id: &TargetId) {
    reconciler.shared().enqueue_monitors([id.clone()]);
    let mut others = Vec::new();
    while let Some(item) = reconciler.queue.try_next() {
        if item.key().target() == Some(id) {
            reconciler.reconcile(item);
            break;
        }
        others.push(item.key().clone());
    }
    reconciler.queue.add_all(others);
}

/// Ends the write for `id` with this error.
fn fail(reconciler: &mut MonitorReconciler, id: &TargetId, error: ApiError) {
    let monitor = MonitorRef::of_target(id, &reconciler.shared().settings);
    let desired = reconciler.desired(id).unwrap().unwrap();
    reconciler
        .finish(FinishedWrite { monitor, outcome: WriteOutcome::Applied(desired, Err(MonitorError::Api(error))) });
}

/// Ends the write for `id` with success.
fn succeed(reconciler: &mut MonitorReconciler, id: &TargetId) {
    let monitor = MonitorRef::of_target(id, &reconciler.shared().settings);
    let outcome = match reconciler.desired(id).unwrap() {
        Ok(desired) => {
            let mut manifest = desired.manifest(&monitor, None);
            manifest["metadata"]["uid"] = json!("uid");
            let found: ServiceMonitor = serde_json::from_value(manifest).unwrap();
            WriteOutcome::Applied(desired, Ok(found.into()))
        }
        Err(state) => WriteOutcome::Deleted(Some(state), Ok(())),
    };
    reconciler.finish(FinishedWrite { monitor, outcome });
}

/// The targets whose keys are due, which are taken from the queue.
fn queued(reconciler: &MonitorReconciler) -> Vec<TargetId> {
    reconciler.queue.drain().iter().filter_map(|key| key.target().cloned()).collect()
}

fn webhook_fails() -> ApiError {
    ApiError::Failed("a webhook fails".to_owned())
}

/// A reconciler whose watches have listed all monitors of `a` and `b`, which are none.
fn reconciler_of_two() -> MonitorReconciler {
    let mut reconciler = reconciler(&["a", "b"], MonitorNamespace::Target);
    for scope in 0..reconciler.scopes.len() {
        reconciler.handle_event(scope, WatchEvent::ListStarted);
        reconciler.handle_event(scope, WatchEvent::ListFinished);
    }
    reconciler.shared().monitors.clear();
    reconciler
}

/// As [`declare`], under another name.
fn declare_as(reconciler: &MonitorReconciler, namespace: &str, name: &str) -> TargetId {
    let id = TargetId::new(namespace, name);
    reconciler.shared().targets.put(Arc::new(ObservedTarget {
        id: id.clone(),
        uid: name.into(),
        generation: 1,
        resource_version: "1".to_owned(),
        declaration: Ok(Arc::new(ParsedTarget::parse(ScrapeTarget::new(name, good())).unwrap())),
        status: ScrapeTargetStatus::default(),
    }));
    id
}

#[tokio::test(start_paused = true)]
async fn a_failure_in_one_namespace_is_reported_and_does_not_delay_others() {
    let mut reconciler = reconciler_of_two();
    let (bad, good) = (declare(&reconciler, "a", Ok(good())), declare(&reconciler, "b", Ok(good())));
    assert!(starts(&mut reconciler, &bad));
    fail(&mut reconciler, &bad, webhook_fails());
    assert_eq!(condition_of(&reconciler, &bad), None, "one failure is not reported");
    assert!(starts(&mut reconciler, &good) && !starts(&mut reconciler, &bad));
    tokio::time::sleep(Duration::from_secs(1)).await;
    let item = reconciler.queue.try_next().expect("it is queued again by itself");
    assert_eq!(item.key().target(), Some(&bad));
    reconciler.reconcile(item);
    assert_eq!(reconciler.writes.len(), 1);
    reconciler.writes.clear();
    fail(&mut reconciler, &bad, webhook_fails());
    assert_eq!(condition_of(&reconciler, &bad), Some((ConditionStatus::False, "Failed")));
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(starts(&mut reconciler, &bad));
    succeed(&mut reconciler, &bad);
    assert_eq!(condition_of(&reconciler, &bad), Some((ConditionStatus::True, "Written")));
}

#[tokio::test(start_paused = true)]
async fn in_a_failing_namespace_a_new_target_reports_the_failure_and_waits_for_its_turn() {
    let mut reconciler = reconciler_of_two();
    for number in 0..8 {
        let id = declare_as(&reconciler, "a", &number.to_string());
        assert!(starts(&mut reconciler, &id));
        fail(&mut reconciler, &id, webhook_fails());
    }
    let new = declare_as(&reconciler, "a", "new");
    assert!(!starts(&mut reconciler, &new));
    assert_eq!(condition_of(&reconciler, &new), Some((ConditionStatus::False, "Failed")));
    reconciler.shared().targets.remove(&new);
    reconciler.resync();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(!queued(&reconciler).contains(&new), "it is gone");
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_does_not_answer_gets_no_further_writes() {
    let mut reconciler = reconciler_of_two();
    let id = declare(&reconciler, "a", Ok(good()));
    assert!(starts(&mut reconciler, &id));
    fail(&mut reconciler, &id, ApiError::Unreachable("no answer".to_owned()));
    assert!(reconciler.queue.is_paused());
    let other = declare(&reconciler, "b", Ok(good()));
    assert!(!starts(&mut reconciler, &other));
    assert_eq!(condition_of(&reconciler, &id), None);
}

#[tokio::test(start_paused = true)]
async fn a_target_that_is_suspended_and_resumed_repeatedly_has_its_monitor_back_at_once() {
    let mut reconciler = reconciler_of_two();
    for _ in 0..5 {
        let id = declare(&reconciler, "a", Ok(good()));
        assert!(starts(&mut reconciler, &id));
        succeed(&mut reconciler, &id);
        assert_eq!(condition_of(&reconciler, &id), Some((ConditionStatus::True, "Written")));
        declare(&reconciler, "a", Ok(ScrapeTargetSpec { suspend: true, ..good() }));
        assert!(starts(&mut reconciler, &id));
        succeed(&mut reconciler, &id);
        assert_eq!(condition_of(&reconciler, &id), Some((ConditionStatus::True, "Disabled")));
    }
}

#[tokio::test(start_paused = true)]
async fn a_conflict_is_reported_once_for_as_long_as_it_lasts() {
    let mut reconciler = reconciler_of_two();
    let id = declare(&reconciler, "a", Ok(good()));
    let monitor = MonitorRef::of_target(&id, &reconciler.shared().settings);
    let mut conditions = Vec::new();
    for _ in 0..600 {
        if starts(&mut reconciler, &id) {
            succeed(&mut reconciler, &id);
            conditions.extend(condition_of(&reconciler, &id));
            reconciler.store.remove(&monitor); // somebody removes it
        }
        conditions.extend(condition_of(&reconciler, &id));
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    conditions.dedup();
    assert_eq!(conditions, [(ConditionStatus::True, "Written"), (ConditionStatus::Unknown, "Pending")]);
    // The other writer has stopped.
    while !starts(&mut reconciler, &id) {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    succeed(&mut reconciler, &id);
    for _ in 0..6 {
        tokio::time::sleep(RESYNC).await;
        reconciler.resync();
        reconcile(&mut reconciler, &id);
    }
    assert_eq!(condition_of(&reconciler, &id), Some((ConditionStatus::True, "Written")));
}

/// The next event of the watches, within this time.
async fn handle_next(reconciler: &mut MonitorReconciler, within: Duration) {
    let event = tokio::time::timeout(within, reconciler.watches.next()).await.expect("an event in time");
    let (scope, event) = event.expect("a watch never ends");
    reconciler.handle_event(scope, event);
}

type MakeAnswer = Arc<dyn Fn() -> ScriptedAnswer + Send + Sync>;

#[tokio::test(start_paused = true)]
async fn a_monitor_that_drifted_is_corrected_within_a_minute_whatever_the_watch_answers() {
    let error =
        |code: u16| json!({ "type": "ERROR", "object": { "kind": "Status", "status": "Failure", "code": code } });
    let answers: [(&str, MakeAnswer); 9] = [
        ("nothing", Arc::new(|| ScriptedAnswer::Hang)),
        ("no event", Arc::new(|| ScriptedAnswer::Open(Vec::new()))),
        ("no event and its end in time", Arc::new(|| ScriptedAnswer::Later(Duration::from_secs(50), Vec::new()))),
        ("its end at once", Arc::new(|| ScriptedAnswer::Events(Vec::new()))),
        ("a failure", Arc::new(|| ScriptedAnswer::Status(500))),
        ("a missing permission", Arc::new(|| ScriptedAnswer::Status(403))),
        ("an expired version", Arc::new(|| ScriptedAnswer::Status(410))),
        ("an expired version, as an event", Arc::new(|| ScriptedAnswer::Events(vec![expired()]))),
        ("a failure, as an event", Arc::new(move || ScriptedAnswer::Events(vec![error(500)]))),
    ];
    for (what, answer) in answers {
        let mut reconciler = reconciler(&["a"], MonitorNamespace::Target);
        let id = declare(&reconciler, "a", Ok(good()));
        let monitor = MonitorRef::of_target(&id, &reconciler.shared().settings);
        let desired = reconciler.desired(&id).unwrap().unwrap();
        let in_sync = desired.manifest(&monitor, Some("uid"));
        let mut drifted = in_sync.clone();
        drifted["spec"]["endpoints"][0]["interval"] = json!("1h");
        let first_list = Arc::new(AtomicBool::new(true));
        let (client, _) = scripted(move |_, request| match request.is_list() {
            true if first_list.swap(false, Ordering::Relaxed) => ScriptedAnswer::Page(vec![in_sync.clone()], "7", None),
            true => ScriptedAnswer::Page(vec![drifted.clone()], "8", None),
            false => answer(),
        });
        reconciler.scopes = vec![Some("a".into())];
        reconciler.watches = watch_monitors(&client, &reconciler.shared().settings, &reconciler.scopes);
        while condition_of(&reconciler, &id).is_none() {
            handle_next(&mut reconciler, RESYNC).await;
            assert!(!starts(&mut reconciler, &id), "{what}");
        }
        assert_eq!(condition_of(&reconciler, &id), Some((ConditionStatus::True, "Written")), "{what}");
        let drifted_at = Instant::now();
        while !starts(&mut reconciler, &id) {
            handle_next(&mut reconciler, RESYNC).await;
            assert!(drifted_at.elapsed() <= RESYNC, "after {what}: {:?}", drifted_at.elapsed());
        }
    }
}
