//! The command `run`: starts the source of targets, the pollers and the HTTP server, and stops them in order.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use reqwest::Url;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::cli::{ListenAddress, PollingArgs, ProbingArgs, RunArgs};
use crate::dial::KnownHosts;
use crate::http::{self, AllowedWebHost, HostAllowlist, WebConfig};
use crate::k8s::{self, ApiClient, Controller};
use crate::kind::ProbeLimits;
use crate::poll::Pollers;
use crate::self_metrics::{FileMetrics, SelfMetrics, SourceMetrics};
use crate::target::{AllowedProbers, Target, TargetId};
use crate::{file, telemetry};

use super::cluster;

/// The settings of a service, from the flags of `run` or from `demo`.
pub(super) struct ServiceOptions {
    pub(super) listeners: Vec<TcpListener>,
    pub(super) web: Option<Arc<WebConfig>>,
    pub(super) source: TargetSource,
    pub(super) polling: PollingArgs,
    pub(super) known_hosts: KnownHosts,
    pub(super) external_url: Option<Url>,
    pub(super) allowed_hosts: Vec<AllowedWebHost>,
    pub(super) loose_targets: bool,
    pub(super) connections: usize,
}

/// Where targets come from.
pub(super) enum TargetSource {
    /// Files, read by a single replica.
    Files {
        /// Files of manifests, and directories of them.
        paths: Vec<PathBuf>,
        /// A directory with values of Secrets.
        secrets: Option<PathBuf>,
    },
    /// A cluster, watched by any number of replicas, one of which leads.
    Cluster(Box<(ApiClient, k8s::Settings)>),
}

/// The time limit for tasks and requests in flight to end. Kubernetes kills the process soon after it.
const LONGEST_STOP: Duration = Duration::from_secs(18);

/// A running service. It ends when one of its tasks ends, or when it is stopped.
pub(super) struct Service {
    pub(super) pollers: Arc<Pollers>,
    tasks: JoinSet<&'static str>,
    controller: Option<Controller>,
    draining: CancellationToken,
    stop: CancellationToken,
}

/// Polls and serves targets until a signal comes.
pub(super) async fn run(args: RunArgs) -> anyhow::Result<ExitCode> {
    let RunArgs {
        listen_address,
        web_config_file,
        targets,
        secrets_directory,
        kubernetes,
        mut polling,
        probing,
        web_external_url,
        web_loose_targets,
        web_max_connections,
        web_allowed_hosts,
        web_open_health,
        shutdown_delay,
        log,
    } = args;
    telemetry::start(log);
    let connections = affordable(web_max_connections, raise_file_limit(web_max_connections));
    let web = web_config_file.map(|path| WebConfig::load(&path)).transpose()?;
    let web = web.map(|web| Arc::new(web.with_open_health(web_open_health)));
    let in_cluster = targets.is_empty();
    let mut source = if in_cluster {
        polling.target_deny_cidr.extend(cluster::denied_loopback(&kubernetes));
        TargetSource::Cluster(Box::new(cluster::source(kubernetes, allowed(&probing, &polling), web.as_deref()).await?))
    } else {
        TargetSource::Files { paths: targets, secrets: secrets_directory }
    };
    let mut signals = Signals::receive()?;
    let mut listeners = Vec::new();
    for address in &listen_address {
        listeners.push(listen(address).await?);
    }
    for listener in &listeners {
        let tls = web.as_ref().is_some_and(|web| web.is_tls());
        let address = listener.local_addr().context("read the listener's address")?;
        tracing::info!(%address, tls, version = crate::VERSION, "listening");
    }
    if let (TargetSource::Cluster(cluster), Some(listener)) = (&mut source, listeners.first())
        && let Some(advertised) = &mut cluster.1.advertise
    {
        advertised.set_port(listener.local_addr().context("read the listener's address")?.port());
    }
    let options = ServiceOptions {
        listeners,
        web,
        source,
        polling,
        known_hosts: KnownHosts::new(),
        external_url: web_external_url,
        allowed_hosts: web_allowed_hosts,
        loose_targets: web_loose_targets || !in_cluster,
        connections: usize::try_from(connections).unwrap_or(usize::MAX),
    };
    // Within this time, Prometheus discovers the replica that takes over.
    let shutdown_delay = shutdown_delay.unwrap_or(if in_cluster { Duration::from_secs(10) } else { Duration::ZERO });
    let mut service = Service::start_limited(options, &probing)?;
    tokio::select! {
        signal = signals.next() => {
            tracing::info!(signal, "stopping");
            tokio::select! {
                () = service.stop(shutdown_delay) => Ok(ExitCode::SUCCESS),
                again = signals.next() => anyhow::bail!("{again} again while stopping: requests in flight are cut off"),
            }
        }
        task = service.ended() => anyhow::bail!("{task} ended unexpectedly"),
    }
}

impl Service {
    /// Starts everything, and lets targets have every type. No target is known yet.
    pub(super) fn start(options: ServiceOptions) -> anyhow::Result<Self> {
        Self::start_limited(options, &ProbingArgs::default())
    }

    /// The same with limits of what may be probed.
    fn start_limited(options: ServiceOptions, probing: &ProbingArgs) -> anyhow::Result<Self> {
        let ServiceOptions {
            listeners,
            web,
            source,
            polling,
            known_hosts,
            external_url,
            allowed_hosts,
            loose_targets,
            connections,
        } = options;
        let metrics = Arc::new(SelfMetrics::new().context("register the exporter's own metrics")?);
        let alone = matches!(source, TargetSource::Files { .. });
        let rate = probing.max_probes_per_address;
        let probers = allowed(probing, &polling);
        let (pollers, refusals) = super::pollers(polling, rate, known_hosts, metrics.polls.clone(), alone);
        let pollers = Arc::new(pollers.on_own_threads().context("start the threads of polls")?);
        let (stop, draining) = (CancellationToken::new(), CancellationToken::new());
        let mut tasks = JoinSet::new();
        let controller = match source {
            TargetSource::Files { paths, secrets } => {
                metrics.sources.leader.set(1.0);
                let own = (metrics.sources.clone(), metrics.files().context("register metrics of files")?);
                let watcher = file::FileWatcher::new(paths, secrets.as_deref());
                watch_files(watcher, &pollers, probers, refusals, own, &mut tasks, &stop);
                None
            }
            TargetSource::Cluster(source) => {
                let (cluster, settings) = *source;
                let (pollers, metrics) = (Arc::clone(&pollers), metrics.sources.clone());
                Some(Controller::start(cluster, settings, pollers, refusals, metrics, &mut tasks, &stop))
            }
        };

        let own = external_url.as_ref().and_then(Url::host_str);
        let hosts = HostAllowlist::new(allowed_hosts, own, listeners.iter().all(is_on_loopback));
        let options = http::RouterOptions { external_url, loose_targets, hosts, draining: draining.clone() };
        let router = http::router(Arc::clone(&pollers), metrics, options);
        let limits = http::ServerLimits { max_connections: connections, ..http::ServerLimits::default() };
        let serving = http::serve(listeners, router, web, limits, stop.clone());
        tasks.spawn(async move {
            serving.await;
            "the HTTP server"
        });
        Ok(Self { pollers, tasks, controller, draining, stop })
    }

    /// Waits until a task ends, and returns its name. None should end: the process must then exit, because an exporter that is half alive is
    /// worse than one that is restarted.
    pub(super) async fn ended(&mut self) -> String {
        match self.tasks.join_next().await {
            Some(Ok(name)) => name.to_owned(),
            Some(Err(error)) => format!("a task ({error})"),
            None => "every task".to_owned(),
        }
    }

    /// Becomes unready, releases the Lease, serves for `delay`, then finishes the requests in flight and ends.
    pub(super) async fn stop(mut self, delay: Duration) {
        self.draining.cancel();
        if let Some(controller) = &self.controller {
            controller.resign();
        }
        tokio::time::sleep(delay).await;
        self.stop.cancel();
        let ended = async {
            while self.tasks.join_next().await.is_some() {}
            self.pollers.shutdown().await;
        };
        if tokio::time::timeout(LONGEST_STOP, ended).await.is_err() {
            tracing::warn!("not everything has stopped within {LONGEST_STOP:?}, exiting anyway");
        }
    }
}

/// What the flags let be probed.
fn allowed(probing: &ProbingArgs, polling: &PollingArgs) -> AllowedProbers {
    let allowed = probing.allowed().map_or_else(AllowedProbers::default, AllowedProbers::only);
    allowed.up_to(ProbeLimits { max_echo_payload: polling.icmp_max_payload })
}

/// Starts the tasks that watch target files and apply them to the pollers.
fn watch_files(
    watcher: file::FileWatcher,
    pollers: &Arc<Pollers>,
    probers: AllowedProbers,
    refusals: mpsc::Receiver<TargetId>,
    metrics: (SourceMetrics, FileMetrics),
    tasks: &mut JoinSet<&'static str>,
    stop: &CancellationToken,
) {
    let rescan = watcher.rescan();
    let (sender, declared) = watch::channel(None);
    let watcher_stop = stop.clone();
    tasks.spawn(async move {
        watcher.run(sender, watcher_stop).await;
        "the reader of target files"
    });
    tasks.spawn(apply_files(declared, Arc::clone(pollers), Arc::new(probers), metrics, stop.clone()));
    tasks.spawn(reread_refused(refusals, rescan, stop.clone()));
}

/// Applies the files to the pollers whenever they change.
async fn apply_files(
    mut declared: watch::Receiver<Option<file::TargetSet>>,
    pollers: Arc<Pollers>,
    probers: Arc<AllowedProbers>,
    (metrics, files): (SourceMetrics, FileMetrics),
    stop: CancellationToken,
) -> &'static str {
    const NAME: &str = "the follower of target files";
    loop {
        tokio::select! {
            () = stop.cancelled() => return NAME,
            changed = declared.changed() => if changed.is_err() {
                return NAME;
            },
        }
        let Some(news) = declared.borrow_and_update().clone() else { continue };
        let file::TargetSet { targets, objects, incomplete, refused, problems } = news;
        let probers = Arc::clone(&probers);
        let resolved = tokio::task::spawn_blocking(move || {
            let resolve = |(id, declaration)| {
                Target::resolve(id, declaration, &*objects).outside_kubernetes().allowed_by(&probers)
            };
            targets.into_iter().map(resolve).collect::<Vec<Target>>()
        });
        let resolved = tokio::select! {
            () = stop.cancelled() => return NAME,
            resolved = resolved => resolved,
        };
        let Ok(resolved) = resolved else { return NAME };
        let invalid = resolved.iter().filter(|target| target.problem.is_some()).count();
        let change = pollers.replace(resolved);
        files.read(problems.is_empty());
        let outcome = if incomplete.is_none() { "success" } else { "failure" };
        for (event, count) in [("applied", change.applied), ("deleted", change.deleted)] {
            metrics.events.with_label_values(&["ScrapeTarget", event]).inc_by(count as u64);
        }
        metrics.reconciles.with_label_values(&[outcome]).inc();
        let (applied, deleted, refused_now) = (change.applied, change.deleted, refused.len());
        let sentences = problems.iter().take(MAX_MISTAKES).map(file::FileProblem::short).collect();
        let mut refused = refused;
        refused.truncate(MAX_MISTAKES);
        pollers.set_mistakes(refused, sentences, problems.len().saturating_sub(MAX_MISTAKES));
        match &incomplete {
            None => pollers.set_known(),
            Some(why) => pollers.set_unknown(why),
        }
        match incomplete.filter(|_| !pollers.known()) {
            None => tracing::info!(
                targets = change.total,
                applied,
                deleted,
                invalid = invalid + refused_now,
                "targets are known"
            ),
            Some(why) => tracing::warn!(
                targets = change.total,
                applied,
                deleted,
                invalid = invalid + refused_now,
                "not all targets are known yet, so /sd returns none: {why}"
            ),
        }
    }
}

/// The most errors that pages show, and the most targets that are shown as invalid: a large file that holds no manifests may cause a
/// million.
const MAX_MISTAKES: usize = 1000;

/// The least time between two scans because of rejected credentials: a server may reject them at every poll.
const REREAD: Duration = Duration::from_secs(30);

/// Scans the files at once when a server rejected credentials: the files may have new ones already.
async fn reread_refused(
    mut refusals: mpsc::Receiver<TargetId>,
    rescan: Arc<tokio::sync::Notify>,
    stop: CancellationToken,
) -> &'static str {
    const NAME: &str = "the reader of refusals";
    loop {
        let waited = async {
            refusals.recv().await?;
            rescan.notify_one();
            tokio::time::sleep(REREAD).await;
            while refusals.try_recv().is_ok() {}
            Some(())
        };
        tokio::select! {
            () = stop.cancelled() => return NAME,
            waited = waited => if waited.is_none() {
                return NAME;
            },
        }
    }
}

/// Binds a listener to the first candidate that this host supports.
pub(super) async fn listen(address: &ListenAddress) -> anyhow::Result<TcpListener> {
    let mut result = Err(std::io::Error::other("no address"));
    for candidate in address.candidates() {
        result = TcpListener::bind(&candidate).await;
        // The next candidate is for hosts without IPv6. A port in use is in use for it, too.
        if !matches!(&result, Err(error) if error.kind() != std::io::ErrorKind::AddrInUse) {
            break;
        }
    }
    result.with_context(|| format!("cannot listen on {address}"))
}

/// Whether a listener can only be reached from this machine.
fn is_on_loopback(listener: &TcpListener) -> bool {
    listener.local_addr().is_ok_and(|address| address.ip().to_canonical().is_loopback())
}

/// Raises the limit of open files to what the system allows: every hanging target holds a connection. Returns the limit, if it is known.
fn raise_file_limit(connections: u32) -> Option<u64> {
    /// Open files that are not connections, and a reserve.
    const OTHERS: u64 = 128;
    match rlimit::increase_nofile_limit(u64::MAX) {
        Ok(limit) => {
            if limit < u64::from(connections) + OTHERS {
                tracing::warn!(
                    limit,
                    wanted = u64::from(connections) + OTHERS,
                    "few files may be open; raise the hard limit (ulimit -Hn)"
                );
            }
            Some(limit)
        }
        Err(error) => {
            tracing::warn!(error = &error as &dyn std::error::Error, "the limit of open files cannot be raised");
            None
        }
    }
}

/// Limits `connections` so that half of the open files are left for polls: idle clients must not prevent polling.
fn affordable(connections: u32, files: Option<u64>) -> u32 {
    let half = files.map_or(u32::MAX, |files| u32::try_from(files / 2).unwrap_or(u32::MAX));
    connections.min(half.max(1))
}

/// The signals that stop the process. Once this exists they no longer kill it, so it must be created before the process says that it
/// listens.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    /// Receives signals from now on.
    pub(super) fn receive() -> anyhow::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate()).context("listen for SIGTERM")?,
            interrupt: signal(SignalKind::interrupt()).context("listen for SIGINT")?,
            hangup: signal(SignalKind::hangup()).context("listen for SIGHUP")?,
        })
    }

    /// Waits for SIGTERM or SIGINT. SIGHUP makes other exporters reload their configuration; here changes are applied without it, and it
    /// must not end the process.
    pub(super) async fn next(&mut self) -> &'static str {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return "SIGTERM",
                _ = self.interrupt.recv() => return "SIGINT",
                Some(()) = self.hangup.recv() => tracing::info!("SIGHUP: nothing to do, changes are detected without it"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_few_files_may_be_open_clients_leave_half_of_them_to_polls() {
        assert_eq!(affordable(4096, Some(1024)), 512);
        assert_eq!(affordable(4096, Some(1 << 20)), 4096);
        assert_eq!(affordable(4096, None), 4096);
        assert_eq!(affordable(4096, Some(1)), 1);
    }

    #[tokio::test]
    async fn a_server_that_refuses_every_poll_does_not_keep_the_files_being_read() {
        let (sender, refusals) = mpsc::channel(16);
        let rescan = Arc::new(tokio::sync::Notify::new());
        let stop = CancellationToken::new();
        let task = tokio::spawn(reread_refused(refusals, Arc::clone(&rescan), stop.clone()));
        let refused = || sender.try_send(TargetId::new("a", "b"));
        refused().unwrap();
        rescan.notified().await;
        refused().unwrap();
        let again = tokio::time::timeout(Duration::from_millis(100), rescan.notified()).await;
        assert!(again.is_err(), "the files are read a second time within {REREAD:?}");
        stop.cancel();
        task.await.unwrap();
    }
}
