//! The whole way, in a real cluster: `helm install`, ScrapeTargets, and what Prometheus has of them. One story, whose chapters build on
//! each other; each prints what it took. `make e2e` runs it, on a node made for it or on the cluster of a KUBECONFIG.
#![expect(clippy::unwrap_used, clippy::panic, clippy::print_stderr, clippy::print_stdout, reason = "a test may")]

mod agent;
mod alerts;
mod changes;
mod cluster;
mod discovery;
mod install;
mod load;
mod media;
mod members;
mod overload;
mod probers;
mod prometheus;
mod registry;
mod replicas;
#[path = "../support/mod.rs"]
mod support;
mod targets;
mod tokens;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use cluster::Cluster;

/// A chapter: what it claims, and how it is shown.
type Chapter = (&'static str, fn(&Cluster));

const CHAPTERS: &[Chapter] = &[
    ("the chart installs with default values into a restricted namespace", install::with_default_values),
    ("the exporter may do what it needs and no more", install::with_least_privilege),
    ("six targets are applied and Prometheus has their series", targets::are_scraped),
    ("a cluster that is in use is left as it is", cluster::in_use_is_refused),
    (
        "probes have the series that dashboards and alerts for the blackbox exporter expect",
        probers::have_the_series_of_the_blackbox_exporter,
    ),
    (
        "the administrator decides what may be probed, and pings need no capability",
        probers::are_what_the_administrator_allows,
    ),
    (
        "kube-state-metrics, a TURN relay and signalling are watched beside the servers",
        media::is_watched_beside_its_servers,
    ),
    (
        "tokens of Keyrock lead to an Orion behind Wilma, and a wrong secret is named until it is right",
        tokens::lead_to_an_orion,
    ),
    ("a wrong target is refused with our words", changes::wrong_target_is_refused),
    ("a rotated Secret is read again without a restart", changes::secret_is_rotated),
    ("a server that dies and comes back is seen to", changes::server_dies_and_comes_back),
    ("a deleted target is gone everywhere", changes::target_is_deleted),
    (
        "pods come, drain and go behind a Service, and Prometheus has the series of those that are there",
        members::come_and_go,
    ),
    ("an upgrade to three replicas and a newer CRD costs at most one scrape", replicas::are_added_by_an_upgrade),
    ("three replicas have the series of each pod once", members::are_scaled),
    ("a leader that is deleted costs at most one scrape", replicas::leader_is_deleted),
    ("a killed leader leaves no gap over 30 s", replicas::leader_is_killed),
    ("a frozen leader leaves no gap over 30 s", replicas::leader_is_frozen),
    ("scrapes go on while the API server is down for two minutes", replicas::api_server_is_down),
    ("a thousand targets applied at once are all scraped", load::of_a_thousand_targets),
    ("httpSD gives the series of the contract, without an object for each target", discovery::by_http),
    ("httpSD has the series of each pod once", members::are_scaled),
    ("a mediasoup application in another pod is watched as the agent's README says", agent::in_another_pod),
    ("alerts fire for what has a fault, and for nothing beside it", alerts::fire_for_what_has_a_fault),
    ("a pod with too little CPU lives on, and recovers when it has enough", overload::of_a_pod_with_too_little_cpu),
    ("with watchNamespaces, others are left alone", discovery::of_some_namespaces),
    ("an uninstalled release leaves the CRD and the targets", install::uninstall),
    ("simulated servers are taken away, and the targets of others stay", targets::simulated_are_deleted),
    ("image and chart are pushed to a registry, and installed from there", registry::is_installed_from),
];

fn main() -> ExitCode {
    let cluster = Cluster::connect();
    if let Err(reason) = cluster.is_free() {
        eprintln!("error: {reason}");
        return ExitCode::FAILURE;
    }
    let start = Instant::now();
    let told = catch_unwind(AssertUnwindSafe(|| {
        cluster.prepare();
        figure("cluster with the Operator and Prometheus", start.elapsed());
        for (claim, show) in CHAPTERS {
            println!("\n## {claim}");
            let start = Instant::now();
            show(&cluster);
            figure("chapter", start.elapsed());
        }
    }));
    if told.is_err() {
        cluster.tell_all();
    }
    cluster.clean_up();
    if let Err(panic) = told {
        resume_unwind(panic);
    }
    println!("\nall {} chapters in {:.0?}", CHAPTERS.len(), start.elapsed());
    ExitCode::SUCCESS
}

/// Prints a measured time.
fn figure(what: &str, time: Duration) {
    println!("   {what:<64} {:>7.1} s", time.as_secs_f64());
}

/// Tries until it succeeds, and says in the end why it does not. Returns what it took.
fn until<T>(what: &str, patience: Duration, mut attempt: impl FnMut() -> Result<T, String>) -> (T, Duration) {
    let start = Instant::now();
    loop {
        match attempt() {
            Ok(found) => return (found, start.elapsed()),
            Err(state) => assert!(start.elapsed() < patience, "no {what} within {patience:?}: {state}"),
        }
        std::thread::sleep(Duration::from_millis(250));
    }
}
