//! `helm install` as README.md has it, what the release may do, and what is left of it in the end.

use std::time::{Duration, Instant};

use crate::cluster::{Cluster, NAMESPACE, RELEASE};
use crate::{figure, until};

pub(crate) fn with_default_values(cluster: &Cluster) {
    cluster.kubectl(&["create", "namespace", NAMESPACE]);
    cluster.kubectl(&["label", "namespace", NAMESPACE, "pod-security.kubernetes.io/enforce=restricted"]);
    // The label is enforced, else the next lines would say nothing.
    let root = r#"{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "root"}, "spec": {"containers": [{"name": "root", "image": "any"}]}}"#;
    let refused = cluster.try_kubectl(&["-n", NAMESPACE, "create", "-f", "-"], root);
    assert!(!refused.good() && refused.stderr.contains("PodSecurity \"restricted"), "{}", refused.stderr);

    let start = Instant::now();
    let said = cluster.helm("install", &[]);
    figure("helm install --wait", start.elapsed());
    assert!(said.contains("STATUS: deployed") && said.contains("ScrapeTarget"), "{said}");
    let ready = cluster.field(NAMESPACE, &format!("deployment/{RELEASE}"), "{.status.readyReplicas}");
    assert_eq!(ready, "1");
    until("leader", Duration::from_secs(120), || match cluster.leader() {
        leader if leader.starts_with(RELEASE) => Ok(()),
        leader => Err(format!("held by {leader:?}")),
    });

    let start = Instant::now();
    let said = cluster.helm("test", &[]);
    figure("helm test", start.elapsed());
    assert!(said.contains("Phase:          Succeeded"), "{said}");
    // With the pod's own certificate authority and token, and DNS of the cluster.
    let logs = cluster.logs();
    assert!(!logs.contains("level=error") && !logs.contains("not permitted"), "{logs}");
}

pub(crate) fn with_least_privilege(cluster: &Cluster) {
    let account = format!("system:serviceaccount:{NAMESPACE}:{RELEASE}");
    let may = |verb: &str, resource: &str, namespace: &str| {
        let words = ["auth", "can-i", verb].into_iter().chain(resource.split(' '));
        let asked = words.chain(["-n", namespace, "--as", &account]).collect::<Vec<_>>();
        let asked = cluster.try_kubectl(&asked, "");
        asked.stdout.trim() == "yes"
    };
    for (verb, resource, namespace) in [
        ("list", "scrapetargets.scrapetarget.dev", "default"),
        ("patch", "scrapetargets.scrapetarget.dev --subresource=status", "default"),
        ("get", "secrets", "default"),
        ("patch", "servicemonitors.monitoring.coreos.com", "default"),
        ("watch", "endpointslices.discovery.k8s.io", "default"),
        ("patch", &format!("leases.coordination.k8s.io/{RELEASE}"), NAMESPACE),
    ] {
        assert!(may(verb, resource, namespace), "it must be able to {verb} {resource} in {namespace}");
    }
    for (verb, resource, namespace) in [
        ("list", "secrets", "default"),
        ("watch", "secrets", NAMESPACE),
        ("patch", "scrapetargets.scrapetarget.dev", "default"),
        ("create", "pods", NAMESPACE),
        ("get", "pods", "default"),
        ("patch", &format!("leases.coordination.k8s.io/{RELEASE}"), "default"),
        ("patch", "endpoints", "default"),
        ("patch", "endpointslices.discovery.k8s.io", "default"),
        ("get", "services", "default"),
        ("create", "clusterroles.rbac.authorization.k8s.io", "default"),
    ] {
        assert!(!may(verb, resource, namespace), "it must not be able to {verb} {resource} in {namespace}");
    }
}

/// What `helm uninstall` leaves.
pub(crate) fn uninstall(cluster: &Cluster) {
    let targets = cluster.names("scrapetargets");
    assert!(!targets.is_empty());
    let start = Instant::now();
    cluster.helm("uninstall", &["--wait", "--timeout=3m"]);
    figure("helm uninstall --wait", start.elapsed());
    assert_eq!(cluster.names("scrapetargets"), targets, "targets are kept");
    assert_eq!(cluster.names("servicemonitors"), Vec::<String>::new(), "no ServiceMonitor is left");
    until("end of what was in the namespace", Duration::from_secs(180), || {
        let kinds = "pods,services,endpoints,endpointslices,deployments,jobs,leases,secrets,serviceaccounts,roles,rolebindings,servicemonitors,scrapeconfigs,configmaps,poddisruptionbudgets";
        let left = cluster.kubectl(&["-n", NAMESPACE, "get", kinds, "-o", "name", "--ignore-not-found"]);
        let ours: Vec<&str> = left
            .lines()
            .filter(|name| !matches!(*name, "serviceaccount/default" | "configmap/kube-root-ca.crt"))
            .collect();
        if ours.is_empty() { Ok(()) } else { Err(ours.join(" ")) }
    });
    let of_cluster = cluster.kubectl(&[
        "get",
        "clusterroles,clusterrolebindings",
        "-l",
        &format!("app.kubernetes.io/instance={RELEASE}"),
        "-o",
        "name",
    ]);
    assert_eq!(of_cluster, "", "no permission is left");
    // Nothing holds a target back: no finalizer waits for somebody who is gone.
    cluster.kubectl(&["delete", "scrapetargets", "--all", "-A", "--timeout=180s"]);
}
