//! The writer without a cluster: what it sees is made by hand, and what it would do is read from it.

use std::sync::Arc;

use kube::runtime::watcher::Event;
use serde_json::json;

use super::super::super::access::ApiError;
use super::super::super::catalog::Object;
use super::super::super::leader::Leadership;
use super::super::observed::Observed;
use super::super::requests::Trouble;
use super::outcome::What;
use super::*;
use crate::crd::{ConditionStatus, Monitor, ParsedTarget, ScrapeTarget, ScrapeTargetSpec, ScrapeTargetStatus};
use crate::kind::Type;
use crate::target::Problem;

/// A writer for some namespaces, of which `a` was listed.
fn writer(namespaces: &[&str], place: MonitorNamespace) -> Writer {
    let mut shared = Shared::idle();
    let settings = &mut Arc::get_mut(&mut shared).unwrap().settings;
    settings.watch_namespaces = namespaces.iter().map(|&name| name.to_owned()).collect();
    settings.discovery.monitor_namespace = place;
    shared.catalog.set_listed(Some("a".into()));
    let mut writer = Writer::new(Writes { shared, leadership: Leadership::never() });
    writer.installed = Some(Installed::Yes(Features::OLDEST));
    writer
}

fn declare(writer: &Writer, namespace: &str, spec: Result<ScrapeTargetSpec, Problem>) -> TargetId {
    let id = TargetId::new(namespace, "target");
    writer.shared().catalog.put(Arc::new(Object {
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
fn show(writer: &mut Writer, namespace: &str, name: &str, target: Option<&str>) -> Place {
    let place = Place { namespace: namespace.into(), name: name.into() };
    let labels = target.map(|namespace| json!({ "scrapetarget.dev/target-namespace": namespace }));
    let monitor =
        json!({ "metadata": { "namespace": namespace, "name": name, "uid": name, "labels": labels }, "spec": {} });
    let scope = writer.scope_of(&place).unwrap();
    writer.sight(scope, Ok(Event::Apply(serde_json::from_value(monitor).unwrap())));
    place
}

#[tokio::test]
async fn a_namespace_that_may_not_be_listed_keeps_its_monitors() {
    let mut writer = writer(&["a", "b"], MonitorNamespace::Target);
    let gone = show(&mut writer, "a", "target", None);
    let hidden = show(&mut writer, "b", "target", None);
    let left = show(&mut writer, "monitoring", "target", None);
    assert!(writer.is_unwanted(&gone), "it was listed without its target");
    assert!(!writer.is_unwanted(&hidden));
    assert!(writer.is_unwanted(&left), "it is not watched any more");
    writer.shared().catalog.set_listed(Some("b".into()));
    assert!(writer.is_unwanted(&hidden), "by now its target is known to be missing");
}

#[tokio::test]
async fn in_our_namespace_the_label_or_the_name_tells_where_the_target_is() {
    let mut writer = writer(&["a", "b"], MonitorNamespace::Release);
    let mut unwanted = |name, target| {
        let place = show(&mut writer, "monitoring", name, target);
        writer.is_unwanted(&place)
    };
    assert!(unwanted("a.target-1", Some("a")) && unwanted("a.target-2", None));
    assert!(!unwanted("b.target-1", Some("b")) && !unwanted("b.target-2", None));
}

#[tokio::test]
async fn the_end_of_a_list_has_only_its_own_targets_looked_at() {
    let mut writer = writer(&["a", "b"], MonitorNamespace::Target);
    let (_, other) = (declare(&writer, "a", Ok(good())), declare(&writer, "b", Ok(good())));
    let scope = writer.scope_of(&Place { namespace: "b".into(), name: "any".into() }).unwrap();
    writer.sight(scope, Ok(Event::Init));
    writer.sight(scope, Ok(Event::InitDone));
    assert_eq!(writer.shared().monitors.take(9), [other]);
}

#[tokio::test]
async fn a_spec_that_is_not_understood_keeps_its_monitor_and_says_so() {
    let mut writer = writer(&["a"], MonitorNamespace::Target);
    let id = declare(&writer, "a", Err(Problem::invalid_spec("spec.interval: too odd")));
    let place = show(&mut writer, "a", "target", None);
    writer.look(id.clone());
    let said = writer.shared().catalog.get(&id).unwrap().monitor.unwrap();
    assert_eq!((said.status, said.reason), (ConditionStatus::False, "InvalidSpec"));
    assert!(writer.running.is_empty() && !writer.is_unwanted(&place));
}

/// Shows a monitor with this spec in the namespace `a`.
fn show_spec(writer: &mut Writer, spec: &serde_json::Value) -> Place {
    let monitor = json!({ "metadata": { "namespace": "a", "name": "target", "uid": "u" }, "spec": spec });
    let place = Place { namespace: "a".into(), name: "target".into() };
    let scope = writer.scope_of(&place).unwrap();
    writer.sight(scope, Ok(Event::Apply(serde_json::from_value(monitor).unwrap())));
    place
}

#[tokio::test]
async fn what_an_earlier_version_wrote_goes_if_none_may_do_it_whatever_the_spec_says_now() {
    let step = json!({ "action": "replace", "targetLabel": "__address__", "replacement": "elsewhere:80" });
    let astray = json!({ "endpoints": [{ "relabelings": [step] }] });
    let classed = json!({ "scrapeClass": "cluster", "endpoints": [{}] });
    for spec in [astray, classed] {
        let mut writer = writer_of_two();
        let id = declare(&writer, "a", Err(Problem::invalid_spec("spec.interval: too odd")));
        let place = show_spec(&mut writer, &spec);
        writer.look(id.clone());
        assert!(writer.running.len() == 1 && writer.busy.contains_key(&place), "it is being removed");
        writer.settle(Done { place, id: Some(id.clone()), what: What::Removed(Some(not_understood()), Ok(())) });
        assert_eq!(said(&writer, &id), Some((ConditionStatus::False, "InvalidSpec")));
        writer.running.clear();
        assert!(!starts(&mut writer, &id), "and not written again");
    }
}

#[tokio::test]
async fn a_class_that_is_not_allowed_takes_the_monitor_away() {
    let mut writer = writer_of_two();
    let monitor = Monitor { scrape_class: Some("cluster".to_owned()), ..Monitor::default() };
    let id = declare(&writer, "a", Ok(ScrapeTargetSpec { monitor: Some(monitor), ..good() }));
    writer.look(id.clone());
    assert_eq!(said(&writer, &id), Some((ConditionStatus::False, "ScrapeClassNotAllowed")));
    assert!(writer.running.is_empty(), "nothing is written");
    show_spec(&mut writer, &json!({ "scrapeClass": "cluster", "endpoints": [{}] }));
    assert!(starts(&mut writer, &id), "what is there is removed");
    succeed(&mut writer, &id);
    assert_eq!(said(&writer, &id), Some((ConditionStatus::False, "ScrapeClassNotAllowed")));
}

#[tokio::test(start_paused = true)]
async fn nothing_piles_up_where_nobody_leads() {
    let shared = Shared::idle();
    let follow = super::super::follow(Arc::clone(&shared), Leadership::never());
    shared.monitors.mark([TargetId::new("a", "target")]);
    assert!(tokio::time::timeout(HEAL * 2, follow).await.is_err());
    assert!(shared.monitors.is_empty());
}

/// The last word on a target's monitor.
fn said(writer: &Writer, id: &TargetId) -> Option<(ConditionStatus, &'static str)> {
    writer.shared().catalog.get(id)?.monitor.map(|said| (said.status, said.reason))
}

/// Whether a look at `id` starts something. What it starts is dropped.
fn starts(writer: &mut Writer, id: &TargetId) -> bool {
    writer.look(id.clone());
    let started = !writer.running.is_empty();
    writer.running.clear();
    started
}

/// Ends what was started for `id` with this trouble.
fn fail(writer: &mut Writer, id: &TargetId, error: ApiError) {
    let place = Place::of(id, &writer.shared().settings);
    let desired = writer.desired(id).unwrap().unwrap();
    writer.settle(Done { place, id: Some(id.clone()), what: What::Put(desired, Err(Trouble::Api(error))) });
}

/// Ends what was started for `id` as wished.
fn succeed(writer: &mut Writer, id: &TargetId) {
    let place = Place::of(id, &writer.shared().settings);
    let what = match writer.desired(id).unwrap() {
        Ok(desired) => {
            let mut manifest = desired.manifest(&place, None);
            manifest["metadata"]["uid"] = json!("uid");
            let found = Observed::new(serde_json::from_value(manifest).unwrap());
            What::Put(desired, Ok(found))
        }
        Err(state) => What::Removed(Some(state), Ok(())),
    };
    writer.settle(Done { place, id: Some(id.clone()), what });
}

fn webhook_is_away() -> ApiError {
    ApiError::Failed("a webhook is away".to_owned())
}

/// A writer that has seen all monitors of `a` and `b`, which are none.
fn writer_of_two() -> Writer {
    let mut writer = writer(&["a", "b"], MonitorNamespace::Target);
    for scope in 0..writer.scopes.len() {
        writer.sight(scope, Ok(Event::Init));
        writer.sight(scope, Ok(Event::InitDone));
    }
    writer.shared().monitors.clear();
    writer
}

/// As [`declare`], under another name.
fn declare_as(writer: &Writer, namespace: &str, name: &str) -> TargetId {
    let id = TargetId::new(namespace, name);
    writer.shared().catalog.put(Arc::new(Object {
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
async fn what_fails_in_one_namespace_is_said_and_waits_and_others_go_on() {
    let mut writer = writer_of_two();
    let (bad, good) = (declare(&writer, "a", Ok(good())), declare(&writer, "b", Ok(good())));
    assert!(starts(&mut writer, &bad));
    fail(&mut writer, &bad, webhook_is_away());
    assert_eq!(said(&writer, &bad), None, "a webhook that restarts is no news");
    assert!(writer.has_room() && starts(&mut writer, &good) && !starts(&mut writer, &bad));
    tokio::time::sleep(Duration::from_secs(1)).await;
    writer.glance();
    assert_eq!(writer.shared().monitors.take(9), std::slice::from_ref(&bad));
    assert!(starts(&mut writer, &bad));
    fail(&mut writer, &bad, webhook_is_away());
    assert_eq!(said(&writer, &bad), Some((ConditionStatus::False, "Failed")));
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(starts(&mut writer, &bad));
    succeed(&mut writer, &bad);
    assert_eq!(said(&writer, &bad), Some((ConditionStatus::True, "Written")));
}

#[tokio::test(start_paused = true)]
async fn where_everything_fails_what_is_new_is_told_so_and_waits_for_its_turn() {
    let mut writer = writer_of_two();
    for number in 0..8 {
        let id = declare_as(&writer, "a", &number.to_string());
        assert!(starts(&mut writer, &id));
        fail(&mut writer, &id, webhook_is_away());
    }
    let new = declare_as(&writer, "a", "new");
    assert!(!starts(&mut writer, &new));
    assert_eq!(said(&writer, &new), Some((ConditionStatus::False, "Failed")));
    writer.shared().catalog.remove(&new);
    writer.heal();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(writer.failing.due(Instant::now()).all(|place| *place.name != *"new"), "it is gone");
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_does_not_answer_is_left_alone_by_all() {
    let mut writer = writer_of_two();
    let id = declare(&writer, "a", Ok(good()));
    assert!(starts(&mut writer, &id));
    fail(&mut writer, &id, ApiError::Unreachable("no answer".to_owned()));
    assert!(!writer.has_room());
    assert_eq!(said(&writer, &id), None);
}

#[tokio::test(start_paused = true)]
async fn a_target_that_is_suspended_and_resumed_again_and_again_has_its_monitor_back_at_once() {
    let mut writer = writer_of_two();
    for _ in 0..5 {
        let id = declare(&writer, "a", Ok(good()));
        assert!(starts(&mut writer, &id));
        succeed(&mut writer, &id);
        assert_eq!(said(&writer, &id), Some((ConditionStatus::True, "Written")));
        declare(&writer, "a", Ok(ScrapeTargetSpec { suspend: true, ..good() }));
        assert!(starts(&mut writer, &id));
        succeed(&mut writer, &id);
        assert_eq!(said(&writer, &id), Some((ConditionStatus::True, "Disabled")));
    }
}

#[tokio::test(start_paused = true)]
async fn a_fight_is_said_once_for_as_long_as_it_lasts() {
    let mut writer = writer_of_two();
    let id = declare(&writer, "a", Ok(good()));
    let place = Place::of(&id, &writer.shared().settings);
    let mut words = Vec::new();
    for _ in 0..600 {
        if starts(&mut writer, &id) {
            succeed(&mut writer, &id);
            words.extend(said(&writer, &id));
            writer.ledger.forget(&place); // somebody removes it
        }
        words.extend(said(&writer, &id));
        tokio::time::sleep(Duration::from_secs(1)).await;
        writer.glance();
    }
    words.dedup();
    assert_eq!(words, [(ConditionStatus::True, "Written"), (ConditionStatus::Unknown, "Pending")]);
    // She who fought has given up.
    while !starts(&mut writer, &id) {
        tokio::time::sleep(Duration::from_secs(1)).await;
        writer.glance();
    }
    succeed(&mut writer, &id);
    for _ in 0..6 {
        tokio::time::sleep(HEAL).await;
        writer.heal();
        writer.look(id.clone());
    }
    assert_eq!(said(&writer, &id), Some((ConditionStatus::True, "Written")));
}
