//! The ServiceMonitors by which the Prometheus Operator finds the targets: one for each target, written by the leader only.
//!
//! ```text
//! target_store ─► desired ◄── policy   the object that a target should have, or why it has none
//! operator ──────────┤   ◄── defaults
//! client ───────► observed             the object that the watch shows, compared with it
//!                    ▼
//!               reconciler ◄─ conflict when to write a difference
//!                    ├─────► client    the writes
//!                    └─────► condition MonitorReady, which `status` writes
//! disabled                             in place of the reconciler where discovery.mode writes no ServiceMonitors
//! ```

mod client;
mod condition;
mod conflict;
mod defaults;
mod desired;
mod disabled;
mod observed;
mod operator;
mod policy;
mod reconciler;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use defaults::{BodySize, DefaultRelabelings, HonorLabels, MonitorDefaults, ScrapeProxy};

pub(super) use client::{OwnedMonitor, list_page, monitors, scopes, with_uid};
pub(super) use reconciler::{MonitorKey, work_queue};

use super::leader::Leadership;
use super::{DiscoveryMode, Shared, labels};
use client::MonitorClient;
use reconciler::{MonitorReconciler, RESYNC};

pub(super) const GROUP: &str = "monitoring.coreos.com";
pub(super) const PLURAL: &str = "servicemonitors";
const VERSION: &str = "v1";
const API_VERSION: &str = "monitoring.coreos.com/v1";
const KIND: &str = "ServiceMonitor";

/// The interval at which a leader checks whether the targets are known.
const TARGETS_RETRY: Duration = Duration::from_secs(1);

pub(super) fn start(
    shared: &Arc<Shared>,
    leadership: Leadership,
    tasks: &mut JoinSet<&'static str>,
    stop: &CancellationToken,
) {
    let shared = Arc::clone(shared);
    let stop = stop.clone();
    tasks.spawn(async move {
        stop.run_until_cancelled(run(shared, leadership)).await;
        "monitors"
    });
}

/// Reconciles while this replica leads, and discards the queued keys while it does not: a new leader reconciles every target.
async fn run(shared: Arc<Shared>, mut leadership: Leadership) -> Infallible {
    loop {
        while tokio::time::timeout(RESYNC, leadership.granted()).await.is_err() {
            shared.monitors.clear();
        }
        // Targets that are not known yet must not look deleted.
        if !shared.pollers.known() {
            tokio::time::sleep(TARGETS_RETRY).await;
            shared.monitors.clear();
            continue;
        }
        shared.monitors.clear();
        let client = MonitorClient { shared: Arc::clone(&shared), leadership: leadership.clone() };
        match shared.settings.discovery.mode {
            DiscoveryMode::ServiceMonitor => MonitorReconciler::new(client).run().await,
            DiscoveryMode::HttpSd | DiscoveryMode::None => disabled::run(client).await,
        }
        // While another replica leads, this one does not know the state of the monitors.
        for id in shared.targets.ids() {
            shared.targets.put_monitor(&id, None);
        }
    }
}
