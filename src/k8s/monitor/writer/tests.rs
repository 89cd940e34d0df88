//! The writer without a cluster: what it sees is made by hand, and what it would do is read from it.

use std::sync::Arc;

use kube::runtime::watcher::Event;
use serde_json::json;

use super::super::super::catalog::Object;
use super::super::super::leader::Leadership;
use super::*;
use crate::crd::{ScrapeTarget, ScrapeTargetSpec, ScrapeTargetStatus};
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
        declaration: spec.map(|spec| Arc::new(ScrapeTarget::new("target", spec))),
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
    assert_eq!((said.ready, said.reason), (false, "InvalidSpec"));
    assert!(writer.running.is_empty() && !writer.is_unwanted(&place));
}

#[tokio::test(start_paused = true)]
async fn nothing_piles_up_where_nobody_leads() {
    let shared = Shared::idle();
    let follow = super::super::follow(Arc::clone(&shared), Leadership::never());
    shared.monitors.mark([TargetId::new("a", "target")]);
    assert!(tokio::time::timeout(HEAL * 2, follow).await.is_err());
    assert!(shared.monitors.is_empty());
}
