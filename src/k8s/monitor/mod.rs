//! The ServiceMonitors by which the Prometheus Operator finds the targets. Every replica knows what they should be; only the leader writes.
//!
//! ```text
//! catalog ──► desired ──┐
//! features ─────┘       ├──► writer ──► requests
//! sight ──► observed ──► ledger        patience
//! ```

mod clearing;
mod desired;
mod features;
use super::labels;
mod ledger;
mod object;
mod observed;
mod patience;
mod place;
mod relabeling;
mod requests;
mod security;
mod sight;
mod trust;
mod unwritten;
mod writer;

use std::sync::Arc;
use std::time::Duration;

use kube::Api;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub(super) use clearing::{Ours, page};
pub(super) use requests::only;
pub(super) use sight::{Scope, scopes};

use super::access::Cluster;
use super::leader::Leadership;
use super::{DiscoveryMode, Shared};
use object::Shown;
use requests::Writes;
use writer::Writer;

pub(super) const GROUP: &str = "monitoring.coreos.com";
pub(super) const PLURAL: &str = "servicemonitors";
const VERSION: &str = "v1";
const API_VERSION: &str = "monitoring.coreos.com/v1";
const KIND: &str = "ServiceMonitor";

/// The name of the task.
const NAME: &str = "monitors";

/// How soon it is noticed that another leads, or that the targets are known: neither is told to us.
const GLANCE: Duration = Duration::from_secs(1);

pub(super) fn start(
    shared: &Arc<Shared>,
    leadership: Leadership,
    tasks: &mut JoinSet<&'static str>,
    stop: &CancellationToken,
) {
    let shared = Arc::clone(shared);
    let stop = stop.clone();
    tasks.spawn(async move {
        stop.run_until_cancelled(follow(shared, leadership)).await;
        NAME
    });
}

async fn follow(shared: Arc<Shared>, mut leadership: Leadership) -> std::convert::Infallible {
    loop {
        // A leader looks at every target when it begins: what is marked before that is worth nothing.
        while tokio::time::timeout(writer::HEAL, leadership.granted()).await.is_err() {
            shared.monitors.clear();
        }
        if !shared.pollers.known() {
            tokio::time::sleep(GLANCE).await; // what is not known yet must not look deleted
            shared.monitors.clear();
            continue;
        }
        let writes = Writes { shared: Arc::clone(&shared), leadership: leadership.clone() };
        match shared.settings.discovery.mode {
            DiscoveryMode::ServiceMonitor => Writer::new(writes).run().await,
            DiscoveryMode::HttpSd | DiscoveryMode::None => clearing::run(writes).await,
        }
        // The next leader finds out for itself, and so do we in our next term.
        for id in shared.catalog.ids() {
            shared.catalog.put_monitor(&id, None);
        }
    }
}

/// ServiceMonitors of one namespace, or of all.
pub(super) fn monitors(cluster: &Cluster, namespace: Option<&str>) -> Api<Shown> {
    match namespace {
        Some(namespace) => Api::namespaced(cluster.client(), namespace),
        None => Api::all(cluster.client()),
    }
}
