//! The command `run`: targets from files or a cluster, pollers, the HTTP side; and how they stop together.

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

use crate::cli::{ListenAddress, PollingArgs, RunArgs};
use crate::http::{self, HostPattern, Hosts, WebConfig};
use crate::k8s::{self, Cluster, Controller};
use crate::poll::Pollers;
use crate::self_metrics::{FileMetrics, SelfMetrics, SourceMetrics};
use crate::target::{Target, TargetId};
use crate::{file, telemetry};

use super::cluster;

/// What a service is made of; the flags of `run`, or the choices of `demo`.
pub(super) struct Plan {
    pub(super) listeners: Vec<TcpListener>,
    pub(super) web: Option<Arc<WebConfig>>,
    pub(super) source: Source,
    pub(super) polling: PollingArgs,
    pub(super) external_url: Option<Url>,
    pub(super) allowed_hosts: Vec<HostPattern>,
    pub(super) loose_targets: bool,
    pub(super) connections: usize,
}

/// Where targets come from.
pub(super) enum Source {
    /// Files, by one replica alone.
    Files {
        /// Of manifests, and directories of them.
        paths: Vec<PathBuf>,
        /// A directory with values of Secrets.
        secrets: Option<PathBuf>,
    },
    /// A cluster, by replicas of which one leads.
    Cluster(Box<(Cluster, k8s::Settings)>),
}

/// Everything has ended by then, requests in flight among it, or is left behind: whoever stops us would kill us a moment later.
const LONGEST_STOP: Duration = Duration::from_secs(18);

/// A service that runs. It ends when one of its tasks ends, or when it is told to.
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
        Source::Cluster(Box::new(cluster::source(kubernetes, web.as_deref()).await?))
    } else {
        Source::Files { paths: targets, secrets: secrets_directory }
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
    if let (Source::Cluster(cluster), Some(listener)) = (&mut source, listeners.first())
        && let Some(advertised) = &mut cluster.1.advertise
    {
        advertised.set_port(listener.local_addr().context("read the listener's address")?.port());
    }
    let plan = Plan {
        listeners,
        web,
        source,
        polling,
        external_url: web_external_url,
        allowed_hosts: web_allowed_hosts,
        loose_targets: web_loose_targets || !in_cluster,
        connections: usize::try_from(connections).unwrap_or(usize::MAX),
    };
    // Prometheus hears within seconds of the replica that takes over.
    let shutdown_delay = shutdown_delay.unwrap_or(if in_cluster { Duration::from_secs(10) } else { Duration::ZERO });
    let mut service = Service::start(plan)?;
    tokio::select! {
        signal = signals.next() => {
            tracing::info!(signal, "stopping");
            tokio::select! {
                () = service.stop(shutdown_delay) => Ok(ExitCode::SUCCESS),
                again = signals.next() => anyhow::bail!("{again} again while stopping: requests in flight are cut off"),
            }
        }
        task = service.ended() => anyhow::bail!("{task} ended, which it should not"),
    }
}

impl Service {
    /// Starts everything; nothing is known of any target yet.
    pub(super) fn start(plan: Plan) -> anyhow::Result<Self> {
        let Plan { listeners, web, source, polling, external_url, allowed_hosts, loose_targets, connections } = plan;
        let metrics = Arc::new(SelfMetrics::new().context("register the exporter's own metrics")?);
        let alone = matches!(source, Source::Files { .. });
        let (pollers, refusals) = super::pollers(polling, metrics.polls.clone(), alone);
        let pollers = Arc::new(pollers.on_own_threads().context("start the threads of polls")?);
        let (stop, draining) = (CancellationToken::new(), CancellationToken::new());
        let mut tasks = JoinSet::new();
        let controller = match source {
            Source::Files { paths, secrets } => {
                metrics.sources.leader.set(1.0);
                let own = (metrics.sources.clone(), metrics.files().context("register metrics of files")?);
                let files = file::Source::new(paths, secrets.as_deref());
                follow_files(files, &pollers, refusals, own, &mut tasks, &stop);
                None
            }
            Source::Cluster(source) => {
                let (cluster, settings) = *source;
                let (pollers, metrics) = (Arc::clone(&pollers), metrics.sources.clone());
                Some(Controller::start(cluster, settings, pollers, refusals, metrics, &mut tasks, &stop))
            }
        };

        let own = external_url.as_ref().and_then(Url::host_str);
        let hosts = Hosts::new(allowed_hosts, own, listeners.iter().all(is_on_loopback));
        let settings = http::Settings { external_url, loose_targets, hosts, draining: draining.clone() };
        let router = http::router(Arc::clone(&pollers), metrics, settings);
        let limits = http::Limits { connections, ..http::Limits::default() };
        let serving = http::serve(listeners, router, web, limits, stop.clone());
        tasks.spawn(async move {
            serving.await;
            "the HTTP server"
        });
        Ok(Self { pollers, tasks, controller, draining, stop })
    }

    /// Waits until a task ends, which none should; says which. A half-alive exporter is worse than a dead one.
    pub(super) async fn ended(&mut self) -> String {
        match self.tasks.join_next().await {
            Some(Ok(name)) => name.to_owned(),
            Some(Err(error)) => format!("a task ({error})"),
            None => "every task".to_owned(),
        }
    }

    /// Turns readiness red, lets another replica lead, goes on serving for `delay`, then answers what is in flight and ends.
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
            tracing::warn!("not everything has ended within {LONGEST_STOP:?}, the process ends all the same");
        }
    }
}

/// Starts the tasks that read target files and make the pollers agree with them.
fn follow_files(
    source: file::Source,
    pollers: &Arc<Pollers>,
    refusals: mpsc::Receiver<TargetId>,
    metrics: (SourceMetrics, FileMetrics),
    tasks: &mut JoinSet<&'static str>,
    stop: &CancellationToken,
) {
    let rescan = source.rescan();
    let (sender, desired) = watch::channel(None);
    let source_stop = stop.clone();
    tasks.spawn(async move {
        source.run(sender, source_stop).await;
        "the reader of target files"
    });
    tasks.spawn(follow(desired, Arc::clone(pollers), metrics, stop.clone()));
    tasks.spawn(reread_refused(refusals, rescan, stop.clone()));
}

/// Makes the pollers agree with the files, each time that these change.
async fn follow(
    mut desired: watch::Receiver<Option<file::Desired>>,
    pollers: Arc<Pollers>,
    (metrics, files): (SourceMetrics, FileMetrics),
    stop: CancellationToken,
) -> &'static str {
    const NAME: &str = "the follower of target files";
    loop {
        tokio::select! {
            () = stop.cancelled() => return NAME,
            changed = desired.changed() => if changed.is_err() {
                return NAME;
            },
        }
        let Some(news) = desired.borrow_and_update().clone() else { continue };
        let file::Desired { targets, objects, unknown, refused, problems } = news;
        let declared = tokio::task::spawn_blocking(move || {
            let declare = |(id, declaration)| Target::declare(id, declaration, &*objects);
            targets.into_iter().map(declare).collect::<Vec<Target>>()
        });
        let declared = tokio::select! {
            () = stop.cancelled() => return NAME,
            declared = declared => declared,
        };
        let Ok(declared) = declared else { return NAME };
        let invalid = declared.iter().filter(|target| target.problem.is_some()).count();
        let change = pollers.replace(declared);
        files.read(problems.is_empty());
        let outcome = if unknown.is_none() { "success" } else { "failure" };
        for (event, count) in [("applied", change.applied), ("deleted", change.deleted)] {
            metrics.events.with_label_values(&["ScrapeTarget", event]).inc_by(count as u64);
        }
        metrics.reconciles.with_label_values(&[outcome]).inc();
        let (applied, deleted, refused_now) = (change.applied, change.deleted, refused.len());
        let sentences = problems.iter().take(MOST_MISTAKES).map(file::FileProblem::short).collect();
        let mut refused = refused;
        refused.truncate(MOST_MISTAKES);
        pollers.set_mistakes(refused, sentences, problems.len().saturating_sub(MOST_MISTAKES));
        match &unknown {
            None => pollers.set_known(),
            Some(why) => pollers.set_unknown(why),
        }
        match unknown.filter(|_| !pollers.known()) {
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
                "not all targets are known yet, so that /sd tells none: {why}"
            ),
        }
    }
}

/// The most mistakes that pages show, and the most targets that are shown as invalid: a large file of something else has a million.
const MOST_MISTAKES: usize = 1000;

/// Between two times that refusals make us read the files: a server may refuse us at every poll for months.
const REREAD: Duration = Duration::from_secs(30);

/// A server that refused our credentials may know new ones already: the files are read again at once.
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

/// Binds a listener: the first candidate that this host can have.
pub(super) async fn listen(address: &ListenAddress) -> anyhow::Result<TcpListener> {
    let mut result = Err(std::io::Error::other("no address"));
    for candidate in address.candidates() {
        result = TcpListener::bind(&candidate).await;
        // Only a host without IPv6 is a reason to try the next one; a port in use stays in use.
        if !matches!(&result, Err(error) if error.kind() != std::io::ErrorKind::AddrInUse) {
            break;
        }
    }
    result.with_context(|| format!("cannot listen on {address}"))
}

/// Whether only this machine reaches a listener.
fn is_on_loopback(listener: &TcpListener) -> bool {
    listener.local_addr().is_ok_and(|address| address.ip().to_canonical().is_loopback())
}

/// Every hanging target holds a connection: as many files as the system lets us have. Returns how many these are, if it is known.
fn raise_file_limit(connections: u32) -> Option<u64> {
    /// Beside connections: files of our own, and a reserve.
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

/// As many of `connections` as leave half of the open files to polls: idle clients must not keep us from our targets.
fn affordable(connections: u32, files: Option<u64>) -> u32 {
    let half = files.map_or(u32::MAX, |files| u32::try_from(files / 2).unwrap_or(u32::MAX));
    connections.min(half.max(1))
}

/// The signals that end the process. While this exists they do not end it by themselves, so it is made before anybody is told that the
/// process listens.
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

    /// Waits for SIGTERM or SIGINT. Other exporters read their configuration again on SIGHUP; here everything is followed as it changes,
    /// and who sends one does not want an end.
    pub(super) async fn next(&mut self) -> &'static str {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return "SIGTERM",
                _ = self.interrupt.recv() => return "SIGINT",
                Some(()) = self.hangup.recv() => tracing::info!("SIGHUP: nothing to do, changes are seen without it"),
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
