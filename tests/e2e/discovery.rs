//! The other ways by which Prometheus finds targets, and the other extent of what is watched.

use std::time::{Duration, Instant};

use crate::cluster::Cluster;
use crate::{figure, members, targets, until};

const PATIENCE: Duration = Duration::from_secs(180);

/// The mode is httpSD since the chapter before.
pub(crate) fn by_http(cluster: &Cluster) {
    assert_eq!(cluster.names("servicemonitors"), Vec::<String>::new());
    assert_eq!(cluster.names("scrapeconfigs").len(), 2, "one for all targets, and one for those with honorLabels");
    targets::delete_edumeet(cluster);
    targets::apply_anew(cluster);
    figure("from apply to the first sample", cluster.until_up(&targets::names(), PATIENCE));
    let (pools, _) = until("one job for all targets", PATIENCE, || {
        let pools = cluster.scrape_pools()?;
        if pools.len() == 1 { Ok(pools) } else { Err(format!("{pools:?}")) }
    });
    assert!(pools.iter().all(|pool| pool.starts_with("scrapeConfig/")), "{pools:?}");
    targets::series_are_those_of_the_contract(cluster);
}

pub(crate) fn of_some_namespaces(cluster: &Cluster) {
    let start = Instant::now();
    cluster.helm("upgrade", &["--set=watchNamespaces={simulated-webrtc}"]);
    let ours: Vec<&str> = targets::names().into_iter().filter(|name| name.starts_with("simulated-webrtc/")).collect();
    cluster.until_up(&ours, PATIENCE);
    figure("from helm upgrade to exactly the watched targets", start.elapsed());
    // Its right to find them holds in this namespace only.
    members::until_series_are_of_the_pods(cluster, 3);
    let monitors = cluster.names("servicemonitors");
    assert!(!monitors.is_empty() && monitors.iter().all(|name| name.starts_with("simulated-webrtc/")), "{monitors:?}");
    let account = format!("system:serviceaccount:{}:{}", crate::cluster::NAMESPACE, crate::cluster::RELEASE);
    for (namespace, wanted) in [("simulated-webrtc", "yes"), ("simulated-fiware", "no")] {
        for (verb, resource) in [
            ("list", "scrapetargets.scrapetarget.dev"),
            ("get", "secrets"),
            ("list", "endpointslices.discovery.k8s.io"),
            ("patch", "servicemonitors.monitoring.coreos.com"),
        ] {
            let said = cluster.try_kubectl(&["auth", "can-i", verb, resource, "-n", namespace, "--as", &account], "");
            assert_eq!(said.stdout.trim(), wanted, "{verb} {resource} in {namespace}");
        }
    }
}
