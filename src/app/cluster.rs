//! Commands with a cluster: from flags to settings, `cleanup`, and `check --server-side`.

use std::net::SocketAddr;
use std::process::ExitCode;

use anyhow::Context;
use futures::{StreamExt, stream};
use ipnet::IpNet;

use super::WrongValue;
use crate::cli::{CleanupArgs, CleanupOnly, KubernetesArgs, ReleaseArgs};
use crate::http::WebConfig;
use crate::k8s::{
    self, AccessError, ApiClient, Discovery, DryRunError, DryRunOutcome, Election, Listener, Scheme, Settings,
};
use crate::target::AllowedProbers;
use crate::{file, telemetry};

/// The addresses of the exporter's own pod: those of loopback, and the unspecified ones. A sidecar there may trust local requests.
pub(super) fn denied_loopback(args: &KubernetesArgs) -> Vec<IpNet> {
    const LOOPBACK: [&str; 4] = ["127.0.0.0/8", "::1/128", "0.0.0.0/32", "::/128"];
    if args.target_allow_loopback { Vec::new() } else { LOOPBACK.iter().filter_map(|net| net.parse().ok()).collect() }
}

/// The cluster and its settings as the flags say, without the port of the advertised address, which is known only when the listener is bound.
pub(super) async fn source(
    args: KubernetesArgs,
    probers: AllowedProbers,
    web: Option<&WebConfig>,
) -> anyhow::Result<(ApiClient, Settings)> {
    let KubernetesArgs {
        release,
        target_selector,
        secret_label,
        target_allow_loopback: _,
        advertise_address,
        discovery_monitor_namespace,
        discovery_scheme,
        discovery_tls,
        discovery_basic_auth,
        discovery_scrape_class,
        discovery_allowed_scrape_class,
        discovery_monitor_label,
        discovery_monitor_annotation,
        discovery_defaults,
        leader_election_identity,
        leader_election_lease_duration,
    } = args;
    let listener = web.map_or_else(Listener::default, |web| Listener {
        tls: web.is_tls(),
        client_certificates: web.requires_client_certificates(),
        users: web.has_users(),
    });
    let scheme = discovery_scheme.unwrap_or(if listener.tls { Scheme::Https } else { Scheme::Http });
    let (cluster, settings) = connect(release, "set --targets to read targets from files").await?;
    let discovery = Discovery {
        monitor_namespace: discovery_monitor_namespace,
        scheme,
        tls: discovery_tls,
        basic_auth: discovery_basic_auth,
        scrape_class: discovery_scrape_class,
        allowed_scrape_classes: discovery_allowed_scrape_class.into_iter().collect(),
        monitor_labels: discovery_monitor_label.into_iter().collect(),
        monitor_annotations: discovery_monitor_annotation.into_iter().collect(),
        monitor_defaults: discovery_defaults.into_settings(),
        listener,
        ..settings.discovery
    };
    let election = Election {
        identity: leader_election_identity.unwrap_or(settings.election.identity),
        duration: leader_election_lease_duration,
        ..settings.election
    };
    let advertise = advertise_address.map(|address| SocketAddr::new(address, 0));
    if advertise.is_none() {
        tracing::warn!(
            "no --advertise-address: Prometheus will not find this replica by the Service {}",
            discovery.service
        );
    }
    Ok((cluster, Settings { target_selector, secret_label, probers, discovery, election, advertise, ..settings }))
}

/// Deletes the objects that a release created, and prints how many they were.
pub(super) async fn cleanup(args: CleanupArgs) -> anyhow::Result<ExitCode> {
    let CleanupArgs { release, only, except_namespace, log } = args;
    telemetry::start(log);
    let (cluster, settings) = connect(release, "run this in the cluster").await?;
    let removed = match only {
        None => k8s::cleanup(&cluster, &settings).await,
        Some(CleanupOnly::Monitors) => k8s::cleanup_monitors(&cluster, &settings, &except_namespace).await,
    };
    let removed = removed.context("remove what the release wrote")?;
    super::print(&format!("removed {} ServiceMonitors and {} Endpoints\n", removed.monitors, removed.endpoints));
    Ok(ExitCode::SUCCESS)
}

/// Submits every ScrapeTarget of the files as a dry run, and prints the API server's message about each that it refuses. Also those that the
/// check without a server refuses: the CRD in the cluster may have another version.
pub(super) async fn check(inputs: &file::Inputs, context: Option<&str>) -> anyhow::Result<ExitCode> {
    /// Hides the latency of the API server without much load on it.
    const CONCURRENT_REQUESTS: usize = 8;
    let cluster = find(context, "leave out --server-side").await?;
    let cluster = &cluster;
    let targets = file::unchecked_targets(inputs);
    let (mut taken, asked) = (0, targets.len());
    let answers =
        stream::iter(&targets).map(|target| async move { (target, k8s::dry_run(cluster, &target.manifest).await) });
    let mut answers = answers.buffered(CONCURRENT_REQUESTS);
    while let Some((target, answer)) = answers.next().await {
        let message = match answer {
            Ok(DryRunOutcome::Accepted) => {
                taken += 1;
                continue;
            }
            Ok(DryRunOutcome::Refused(words)) => format!("the API server rejects it: {words}"),
            // The next target may be in a namespace where it is allowed.
            Err(error @ DryRunError::Forbidden(_)) => format!("the API server was not queried: {error}"),
            Err(error) => return Err(error.into()),
        };
        super::print(&format!("{}\n", target.problem(message)));
    }
    super::print(&format!("the API server would accept {taken} of {asked} targets\n"));
    Ok(if taken == asked { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn connect(args: ReleaseArgs, otherwise: &str) -> anyhow::Result<(ApiClient, Settings)> {
    let service = args.service();
    let ReleaseArgs {
        kube_context,
        watch_namespace,
        namespace,
        release_name,
        discovery_mode,
        discovery_service: _,
        leader_election_lease_name,
    } = args;
    let cluster = find(kube_context.as_deref(), otherwise).await?;
    let settings = Settings {
        namespace: namespace.unwrap_or_else(|| cluster.namespace().to_owned()),
        watch_namespaces: watch_namespace,
        target_selector: None,
        secret_label: None,
        probers: AllowedProbers::default(),
        discovery: Discovery { mode: discovery_mode, service, ..Discovery::default() },
        election: Election {
            lease: leader_election_lease_name.unwrap_or_else(|| release_name.clone()),
            identity: host_and_process(),
            duration: std::time::Duration::from_secs(15),
        },
        advertise: None,
        release: release_name,
    };
    Ok((cluster, settings))
}

/// Connects to the cluster of the kubeconfig or of the pod. If there is none, the error ends with `otherwise`, what to do instead.
async fn find(context: Option<&str>, otherwise: &str) -> Result<ApiClient, WrongValue> {
    ApiClient::connect(context).await.map_err(|error| match error {
        AccessError::NoConfig(why) => WrongValue(format!("no cluster: {why}; set KUBECONFIG, or {otherwise}")),
        other => WrongValue(other.to_string()),
    })
}

/// The default name of this replica: unique.
fn host_and_process() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = host.trim();
    format!("{}-{}", if host.is_empty() { "replica" } else { host }, std::process::id())
}
