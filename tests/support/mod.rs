//! What several tests need: targets made by hand, pollers around them, and servers that misbehave on purpose.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part")]

pub mod attack;
pub mod authority;
pub mod chart;
pub mod cluster;
pub mod conversation;
pub mod dns;
pub mod eventually;
pub mod exposition;
pub mod families;
pub mod faults;
pub mod listener;
pub mod load;
pub mod manifests;
pub mod namespaces;
pub mod old;
pub mod probing;
pub mod program;
pub mod promql;
pub mod proxy;
pub mod scripted;
pub mod tools;

use std::collections::BTreeMap;
use std::sync::Arc;

use scrapetarget_exporter::crd::{ParsedTarget, ScrapeTarget, ScrapeTargetSpec};
use scrapetarget_exporter::dial::AddressRules;
use scrapetarget_exporter::fetch::{Clients, Limits};
use scrapetarget_exporter::kind::Type;
use scrapetarget_exporter::metric::{Encoding, Format};
use scrapetarget_exporter::poll::{Pollers, Snapshot};
use scrapetarget_exporter::self_metrics::SelfMetrics;
use scrapetarget_exporter::target::{Lookup, LookupError, ObjectKind, Target, TargetId};

/// The TLS provider that `main` chooses for the program.
pub fn choose_tls_provider() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

/// Objects that refer to nothing.
pub struct NoObjects;

impl Lookup for NoObjects {
    fn value(&self, kind: ObjectKind, namespace: &str, name: &str, _: &str) -> Result<Vec<u8>, LookupError> {
        Err(LookupError::NoObject { kind, namespace: namespace.to_owned(), name: name.to_owned() })
    }
}

/// A target with everything at its default.
pub fn target(name: &str, kind: Type, url: &str) -> Target {
    let declaration = ParsedTarget::parse(ScrapeTarget::new(name, ScrapeTargetSpec::new(kind, url))).unwrap();
    Target::resolve(TargetId::new("media", name), Arc::new(declaration), &NoObjects)
}

/// The target as it is after a change of its spec; what a test has set besides stays.
pub fn redeclared(target: &Target, edit: impl FnOnce(&mut ScrapeTargetSpec)) -> Target {
    let mut spec = target.declaration.spec.clone();
    edit(&mut spec);
    let declaration = ParsedTarget::parse(ScrapeTarget::new(&target.id.name, spec)).unwrap();
    let new = Target::resolve(target.id.clone(), Arc::new(declaration), &NoObjects);
    let mut changed = target.clone();
    changed.declaration = new.declaration;
    let source = Arc::make_mut(&mut changed.source);
    (source.kind, source.url, source.options) = (new.source.kind, new.source.url.clone(), new.source.options.clone());
    changed
}

/// Pollers that poll in the background, with small limits.
pub fn pollers() -> Arc<Pollers> {
    pollers_with(Limits::new(1 << 20, 8 << 20), true)
}

/// Pollers with these limits.
pub fn pollers_with(limits: Limits, background: bool) -> Arc<Pollers> {
    choose_tls_provider();
    let metrics = SelfMetrics::new().unwrap();
    Arc::new(Pollers::new(Clients::new(AddressRules::default()), limits, metrics.polls, background).0)
}

/// Polls `target` once, by a scrape that waits long enough.
pub async fn poll_once(target: Target) -> Arc<Snapshot> {
    let pollers = pollers_with(Limits::new(1 << 20, 8 << 20), false);
    let id = target.id.clone();
    pollers.apply([target]);
    let snapshot = pollers.get(&id).unwrap().answer(eventually::PATIENCE).await;
    pollers.shutdown().await;
    snapshot
}

/// The answer as text 0.0.4.
pub fn text(snapshot: &Snapshot) -> String {
    String::from_utf8(snapshot.body(Format::Text, Encoding::Identity).to_vec()).unwrap()
}

/// Each series with its value.
pub fn series(text: &str) -> BTreeMap<String, f64> {
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    samples
        .map(|line| line.rsplit_once(' ').unwrap())
        .map(|(name, value)| (name.to_owned(), value.parse().unwrap()))
        .collect()
}
