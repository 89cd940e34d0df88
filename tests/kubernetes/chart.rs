//! The Helm chart before a real API server: what it renders is taken, and Helm can install, upgrade and uninstall it. No pod runs here.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::support::chart;
use crate::support::cluster::Cluster;
use crate::support::program::Said;

const NAMESPACE: &str = "monitoring";

/// The shared server with all that the cases of values refer to.
fn served() -> &'static Cluster {
    let cluster = Cluster::shared();
    cluster.install_crd();
    cluster.install_operator_crds(&["servicemonitors", "scrapeconfigs", "prometheusrules"]);
    cluster.apply(
        "apiVersion: v1\nkind: Namespace\nmetadata: { name: monitoring }\n---\n\
         apiVersion: v1\nkind: Namespace\nmetadata: { name: team-a }\n---\n\
         apiVersion: v1\nkind: Namespace\nmetadata: { name: team-b }\n---\n\
         apiVersion: node.k8s.io/v1\nkind: RuntimeClass\nmetadata: { name: gvisor }\nhandler: gvisor\n",
    );
    cluster
}

#[test]
fn the_api_server_takes_every_case() {
    let cluster = served();
    for (case, file) in chart::cases() {
        // Nobody serves the kind here.
        let mut manifests = chart::render_case(&file);
        manifests.retain(|manifest| manifest["kind"] != "VerticalPodAutoscaler");
        let refusals = cluster.refusals(&manifests, NAMESPACE);
        assert!(refusals.is_empty(), "{case}: {refusals:#?}");
    }
}

#[test]
fn a_namespace_that_enforces_the_restricted_standard_takes_every_pod() {
    let cluster = served();
    let namespace = cluster.namespace("restricted");
    let label = "pod-security.kubernetes.io/enforce=restricted";
    assert_eq!(cluster.kubectl(&["label", "namespace", &namespace, label]).code, Some(0));
    let mut accounts = BTreeSet::new();
    for (case, file) in chart::cases() {
        for (name, mut pod) in chart::pods(&chart::render_case(&file)) {
            pod["metadata"]["namespace"] = namespace.as_str().into();
            let account = pod["spec"]["serviceAccountName"].as_str().unwrap_or("default").to_owned();
            if accounts.insert(account.clone()) {
                cluster.token_of(&namespace, &account);
            }
            let refusals = cluster.refusals(&[pod], &namespace);
            let wanted = usize::from(case == "host-network" && name == chart::RELEASE);
            assert_eq!(refusals.len(), wanted, "{case}: {refusals:#?}");
        }
    }
}

/// One who may do everything, with Helm.
struct Admin {
    cluster: Cluster,
}

impl Admin {
    fn new() -> Self {
        let cluster = Cluster::private();
        cluster.apply("apiVersion: v1\nkind: Namespace\nmetadata: { name: monitoring }\n");
        Self { cluster }
    }

    /// Runs `helm COMMAND scrapetarget-exporter CHART` with further arguments.
    fn try_helm(&self, command: &str, further: &[&str]) -> Said {
        let folder = chart::folder();
        let kubeconfig = self.cluster.admin_kubeconfig().to_str().unwrap();
        let mut arguments = vec![command, chart::RELEASE];
        if command != "uninstall" {
            arguments.push(folder.to_str().unwrap());
        }
        arguments.extend(["--namespace", NAMESPACE, "--kubeconfig", kubeconfig]);
        chart::helm(arguments.iter().chain(further))
    }

    fn helm(&self, command: &str, further: &[&str]) -> String {
        let said = self.try_helm(command, further);
        assert_eq!(said.code, Some(0), "{}{}", said.stdout, said.stderr);
        said.stdout
    }

    /// The names of all ScrapeTargets.
    fn targets(&self) -> Vec<String> {
        let said = self.cluster.kubectl(&["get", "scrapetargets", "--all-namespaces", "--output", "json"]);
        let list: Value = serde_json::from_str(&said.stdout).unwrap_or_else(|error| panic!("{error}: {}", said.stderr));
        let items = list["items"].as_array().unwrap().iter();
        items.map(|target| target["metadata"]["name"].as_str().unwrap().to_owned()).collect()
    }

    /// What the Job after an upgrade to these values would be told; nothing if there would be none.
    fn after_upgrade(&self, set: &str) -> Option<Vec<String>> {
        let text = self.helm("upgrade", &["--dry-run=server", "--reset-values", "--set", set]);
        let manifests = text.split("\nHOOKS:\n").nth(1).unwrap().split("\nMANIFEST:\n").next().unwrap();
        let manifests = chart::parse(manifests);
        let jobs = chart::of_kind(&manifests, "Job").into_iter();
        let mut jobs = jobs.filter(|job| job["metadata"]["name"] == "scrapetarget-exporter-cleanup-monitors");
        let job = jobs.next()?;
        let all = chart::arguments(&job["spec"]["template"]["spec"]["containers"][0]).into_iter();
        Some(all.filter(|argument| argument.contains("-namespace=")).collect())
    }
}

#[test]
fn the_first_release_makes_its_targets_and_the_next_one_takes_them_over() {
    let admin = Admin::new();
    let target = |number: usize, name: &str| {
        format!(
            "targets[{number}].name={name},targets[{number}].spec.type=Sora,targets[{number}].spec.url=http://{name}/"
        )
    };
    let (one, two) = (target(0, "one"), target(1, "two"));
    // A pod of an earlier release has left it; it must not be in the way.
    admin
        .cluster
        .apply("apiVersion: coordination.k8s.io/v1\nkind: Lease\nmetadata: { name: theirs, namespace: monitoring }\n");
    admin.helm("install", &["--set", "leaderElection.leaseName=theirs"]);
    admin.helm("uninstall", &["--no-hooks"]);
    admin.cluster.remove_crd("scrapetargets.scrapetarget.dev");
    admin.helm("install", &["--set", &one, "--set", &two]);
    assert_eq!(admin.targets(), ["one", "two"]);
    // What is in the release now is its own: it changes, and goes when it is left out.
    admin.helm("upgrade", &["--set", &one, "--set", &two, "--set", "targets[1].spec.suspend=true"]);
    let spec = ["get", "st", "two", "--namespace", NAMESPACE, "--output", "jsonpath={.spec.suspend}"];
    assert_eq!(admin.cluster.kubectl(&spec).stdout, "true");
    admin.helm("upgrade", &["--reset-values", "--set", &one]);
    assert_eq!(admin.targets(), ["one"]);
    // No Job ends here, for want of a kubelet.
    admin.helm("uninstall", &["--no-hooks"]);
    assert_eq!(admin.targets(), [""; 0]);
    let left =
        admin.cluster.kubectl(&["get", "crd,clusterrole,role,deployment,service,lease", "-A", "--output", "name"]);
    let left: Vec<&str> = left.stdout.lines().filter(|name| name.contains("scrapetarget")).collect();
    assert_eq!(left, ["customresourcedefinition.apiextensions.k8s.io/scrapetargets.scrapetarget.dev"], "and no Lease");
}

#[test]
fn an_upgrade_cleans_up_where_monitors_are_left_over_and_only_there() {
    let admin = Admin::new();
    let job = |namespaces: &[&str]| Some(namespaces.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>());
    let own = "--namespace=monitoring";
    admin.helm("install", &[]);
    assert_eq!(admin.after_upgrade("replicas=2"), None);
    assert_eq!(admin.after_upgrade("discovery.mode=none"), job(&[own]));
    assert_eq!(admin.after_upgrade("discovery.mode=none,cleanup.afterUpgrade=never"), None);
    let narrower = job(&[own, "--except-namespace=monitoring", "--except-namespace=team-a"]);
    assert_eq!(admin.after_upgrade("watchNamespaces={team-a}"), narrower);

    for name in ["team-a", "team-b"] {
        admin.cluster.apply(&format!("apiVersion: v1\nkind: Namespace\nmetadata: {{ name: {name} }}\n"));
    }
    admin.helm("upgrade", &["--no-hooks", "--reset-values", "--set", "watchNamespaces={team-a,team-b}"]);
    assert_eq!(admin.after_upgrade("watchNamespaces={team-b,team-a}"), None);
    assert_eq!(admin.after_upgrade("replicas=1"), None, "wider");
    assert_eq!(admin.after_upgrade("watchNamespaces={team-b}"), job(&[own, "--watch-namespace=team-a"]));
    let all = job(&[own, "--watch-namespace=monitoring", "--watch-namespace=team-a", "--watch-namespace=team-b"]);
    assert_eq!(admin.after_upgrade("watchNamespaces={team-b},discovery.mode=httpSD,scrapeConfig.enabled=false"), all);
}

/// The warnings among the notes of an installation.
fn warnings(notes: &str) -> Vec<String> {
    let parts = notes.split("\nWARNING: ").skip(1);
    parts.map(|part| part.trim_end().replace('\n', " ")).collect()
}

#[test]
fn the_notes_warn_of_what_prometheus_will_not_find() {
    let admin = Admin::new();
    let notes = |set: &str| {
        let text = admin.helm("upgrade", &["--install", "--dry-run=server", "--set", set]);
        warnings(&text)
    };
    let missing = notes("replicas=1");
    assert!(missing.len() == 1 && missing[0].contains("the cluster knows no ServiceMonitors"), "{missing:?}");
    assert_eq!(notes("discovery.mode=none"), [""; 0]);

    admin.cluster.install_operator_crds(&["servicemonitors", "scrapeconfigs", "prometheuses", "prometheusrules"]);
    assert_eq!(notes("replicas=1"), [""; 0], "nobody knows what a Prometheus outside of the Operator does");
    let alone = notes("prometheusRule.enabled=true");
    assert!(alone.len() == 1 && alone[0].contains("serviceMonitor.selfMonitor.enabled"), "{alone:?}");
    assert_eq!(notes("prometheusRule.enabled=true,serviceMonitor.selfMonitor.enabled=true"), [""; 0]);
    let prometheus = |spec: &str| {
        admin.cluster.apply(&format!(
            "apiVersion: monitoring.coreos.com/v1\nkind: Prometheus\nmetadata: {{ name: main, namespace: default }}\nspec: {spec}\n"
        ));
    };
    let by_label = "{ serviceMonitorSelector: { matchLabels: { release: stack } }, serviceMonitorNamespaceSelector: {}, \
                    scrapeConfigSelector: { matchExpressions: [{ key: team, operator: In, values: [media] }] } }";
    prometheus(by_label);
    let other = notes("replicas=1");
    assert!(other.len() == 1 && other[0].ends_with("set discovery.monitorLabels to {release: stack}"), "{other:?}");
    assert_eq!(notes("discovery.monitorLabels.release=stack"), [""; 0]);
    let other = notes("discovery.mode=httpSD");
    assert!(other.len() == 1 && other[0].contains("will find the ScrapeConfig"), "{other:?}");
    let fitting = "discovery.mode=httpSD,scrapeConfig.labels.team=media,scrapeConfig.namespace=default";
    assert_eq!(notes(fitting), [""; 0]);

    let cases = [
        ("{ serviceMonitorSelector: {} }", "discovery.monitorNamespace=target", "looks into its own namespace only"),
        (
            "{ serviceMonitorSelector: {}, serviceMonitorNamespaceSelector: {}, ignoreNamespaceSelectors: true }",
            "discovery.monitorNamespace=target",
            "set discovery.monitorNamespace to release",
        ),
        ("{ podMonitorSelector: {} }", "replicas=1", "its serviceMonitorSelector is not set"),
    ];
    for (spec, set, words) in cases {
        prometheus(spec);
        let said = notes(set);
        assert!(said.len() == 1 && said[0].contains(words), "{said:?}");
        assert_eq!(notes(&format!("{set},inspectPrometheus=false")), [""; 0]);
    }
}
