//! A Kubernetes cluster as the source of targets, and everything that is written into it.
//!
//! ```text
//! watch ──► controller ──► pollers              every replica reads
//! secrets ─────┤  │
//! endpoints ───┘  │
//!          target store ──► status, monitor     only the leader writes, at a bounded rate
//! leader ──► endpoints
//! ```
//!
//! Each part compares the desired state with the observed one and writes only the difference: a fleet that does not change causes no writes,
//! and a lost write is repeated. Nothing here polls a target or answers a scrape; both continue while the API server is unreachable.

mod changed_targets;
mod cleanup;
mod client;
mod controller;
mod dry_run;
mod endpoint_slices;
mod labels;
mod leader;
mod monitor;
mod observed;
mod outage;
mod proxy;
mod rate_limiter;
mod secrets;
mod settings;
mod status;
mod target_store;
mod watch;
mod workqueue;

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use cleanup::{CleanupError, Removed, cleanup, cleanup_monitors};
pub use client::{AccessError, ApiClient};
pub use dry_run::{DryRunError, DryRunOutcome, dry_run};
pub use monitor::{BodySize, DefaultRelabelings, HonorLabels, MonitorDefaults, ScrapeProxy};
pub use settings::{
    Discovery, DiscoveryMode, Election, Listener, MonitorNamespace, RequiredLabel, Scheme, Selector, Settings,
    SettingsError,
};

use crate::poll::Pollers;
use crate::self_metrics::SourceMetrics;
use crate::target::TargetId;
use monitor::MonitorKey;
use outage::Outage;
use rate_limiter::RateLimiter;
use target_store::TargetStore;
use workqueue::WorkQueue;

/// What all parts of the controller share.
#[derive(Debug)]
struct Shared {
    client: ApiClient,
    settings: Settings,
    pollers: Arc<Pollers>,
    metrics: SourceMetrics,
    targets: TargetStore,
    /// Targets whose status may differ from the one in the cluster.
    statuses: WorkQueue<TargetId>,
    /// Targets whose ServiceMonitor may differ from the one in the cluster.
    monitors: WorkQueue<MonitorKey>,
    /// Limits the rate of all writes of this process together.
    write_limiter: RateLimiter,
    outage: Outage,
}

impl Shared {
    /// Enqueues the ServiceMonitors of these targets, to be compared with what is desired.
    fn enqueue_monitors(&self, ids: impl IntoIterator<Item = TargetId>) {
        self.monitors.add_all(ids.into_iter().map(|id| MonitorKey::of_target(&id, &self.settings)));
    }
}

#[cfg(test)]
impl Shared {
    /// For a test of one part: the API server is unreachable, and nothing polls by itself.
    fn idle() -> Arc<Self> {
        let election = Election {
            lease: "release".to_owned(),
            identity: "replica".to_owned(),
            duration: std::time::Duration::from_secs(15),
        };
        let settings = Settings {
            namespace: "monitoring".to_owned(),
            release: "release".to_owned(),
            watch_namespaces: Vec::new(),
            target_selector: None,
            secret_label: None,
            probers: crate::target::AllowedProbers::default(),
            discovery: Discovery::default(),
            election,
            advertise: None,
        };
        Arc::new(Self {
            client: ApiClient::unreachable(),
            settings,
            pollers: Arc::new(Pollers::idle()),
            metrics: crate::self_metrics::SelfMetrics::new().unwrap().sources,
            targets: TargetStore::default(),
            statuses: WorkQueue::new(status::LIMITS),
            monitors: monitor::work_queue(),
            write_limiter: RateLimiter::new(WRITES_PER_SECOND),
            outage: Outage::default(),
        })
    }
}

/// A running controller.
#[derive(Debug)]
pub struct Controller {
    resign: CancellationToken,
}

impl Controller {
    /// Starts everything in `tasks`. Each task returns its name when `stop` is cancelled, and none before.
    ///
    /// `rejected` are the targets that answered 401 or 403: their Secrets are read again.
    pub fn start(
        client: ApiClient,
        settings: Settings,
        pollers: Arc<Pollers>,
        rejected: mpsc::Receiver<TargetId>,
        metrics: SourceMetrics,
        tasks: &mut JoinSet<&'static str>,
        stop: &CancellationToken,
    ) -> Self {
        let statuses = WorkQueue::new(status::LIMITS);
        let changed = statuses.clone();
        pollers.on_state_change(move |id| changed.add(id.clone()));
        let shared = Arc::new(Shared {
            client,
            settings,
            pollers,
            metrics,
            targets: TargetStore::default(),
            statuses,
            monitors: monitor::work_queue(),
            write_limiter: RateLimiter::new(WRITES_PER_SECOND),
            outage: Outage::default(),
        });
        let resign = CancellationToken::new();
        let leadership = leader::start(&shared, tasks, stop, &resign);
        controller::start(&shared, rejected, tasks, stop);
        status::start(&shared, leadership.clone(), tasks, stop);
        monitor::start(&shared, leadership, tasks, stop);
        Self { resign }
    }

    /// Releases the Lease, so that another replica takes over at once. Polls and scrapes continue, but nothing is written any more.
    pub fn resign(&self) {
        self.resign.cancel();
    }
}

/// The rate of all writes together, low enough for a small API server to serve its other clients as before.
const WRITES_PER_SECOND: u32 = 50;
