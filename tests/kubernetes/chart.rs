//! The Helm chart before a real API server: what it renders is taken, and Helm can install, upgrade and uninstall it. No pod runs here.

use std::collections::BTreeSet;
use std::time::Instant;

use serde_json::Value;

use crate::support::chart;
use crate::support::cluster::Cluster;
use crate::support::eventually::{PATIENCE, eventually_blocking};
use crate::support::program::Said;

const NAMESPACE: &str = "prometheus";

/// The shared server with all that the cases of values refer to.
fn served() -> &'static Cluster {
    let cluster = Cluster::shared();
    cluster.install_crd();
    cluster.install_operator_crds(&["servicemonitors", "scrapeconfigs", "prometheusrules"]);
    cluster.install_crds_of_others();
    cluster.apply(
        "apiVersion: v1\nkind: Namespace\nmetadata: { name: prometheus }\n---\n\
         apiVersion: v1\nkind: Namespace\nmetadata: { name: monitoring }\n---\n\
         apiVersion: v1\nkind: Namespace\nmetadata: { name: team-a }\n---\n\
         apiVersion: v1\nkind: Namespace\nmetadata: { name: team-b }\n---\n\
         apiVersion: v1\nkind: Namespace\nmetadata: { name: '1e3' }\n---\n\
         apiVersion: v1\nkind: Namespace\nmetadata: { name: '2001' }\n---\n\
         apiVersion: scheduling.k8s.io/v1\nkind: PriorityClass\nmetadata: { name: '1234' }\nvalue: 1\n---\n\
         apiVersion: node.k8s.io/v1\nkind: RuntimeClass\nmetadata: { name: '1234' }\nhandler: gvisor\n---\n\
         apiVersion: node.k8s.io/v1\nkind: RuntimeClass\nmetadata: { name: gvisor }\nhandler: gvisor\n",
    );
    cluster
}

#[test]
fn the_api_server_takes_every_case() {
    let cluster = served();
    // One in which nobody has an installation: some fields of a Service cannot be changed.
    let namespace = cluster.namespace("cases");
    for (case, file) in chart::cases() {
        let mut manifests = chart::render_case(&file);
        for own in manifests.iter_mut().filter(|manifest| manifest["metadata"]["namespace"] == NAMESPACE) {
            own["metadata"]["namespace"] = namespace.as_str().into();
        }
        let refusals = cluster.refusals(&manifests, &namespace);
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
        cluster.apply("apiVersion: v1\nkind: Namespace\nmetadata: { name: prometheus }\n");
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

    /// The warnings and hints among the notes of an installation with these values.
    fn notes(&self, set: &str) -> Vec<String> {
        let text = self.helm("upgrade", &["--install", "--dry-run=server", "--set", set]);
        let paragraphs = text.split("\n\n").map(str::trim);
        let told = paragraphs.filter(|text| text.starts_with("WARNING: ") || text.starts_with("NOTE: "));
        told.map(|text| text.replace('\n', " ")).collect()
    }

    /// Applies an object of the Operator that is named `main`, in the namespace `default`.
    fn operator_object(&self, kind: &str, spec: &str) {
        let version = if kind == "PrometheusAgent" { "v1alpha1" } else { "v1" };
        self.cluster.apply(&format!(
            "apiVersion: monitoring.coreos.com/{version}\nkind: {kind}\nmetadata: {{ name: main, namespace: default }}\nspec: {spec}\n"
        ));
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
        .apply("apiVersion: coordination.k8s.io/v1\nkind: Lease\nmetadata: { name: theirs, namespace: prometheus }\n");
    admin.helm("install", &["--set", "leaderElection.leaseName=theirs"]);
    let start = Instant::now();
    loop {
        admin.helm("uninstall", &["--no-hooks"]);
        admin.cluster.remove_crd("scrapetargets.scrapetarget.dev");
        let said = admin.try_helm("install", &["--set", &one, "--set", &two]);
        // On a busy machine, the API server may serve a new type later than Helm makes the objects of its hook.
        let is_early = said.stderr.contains("no matches for kind \"ScrapeTarget\"") && start.elapsed() < PATIENCE;
        if !is_early {
            assert_eq!(said.code, Some(0), "{}{}", said.stdout, said.stderr);
            break;
        }
    }
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

/// The commands that the chart's README shows below a heading, each as its words.
fn commands(heading: &str) -> Vec<Vec<String>> {
    let readme = chart::read("README.md").replace("\\\n", " ");
    let section = readme.split(&format!("\n### {heading}\n")).nth(1).unwrap().split("\n#").next().unwrap();
    let typed = section.lines().filter_map(|line| line.strip_prefix("$ "));
    typed.map(|line| line.split_whitespace().map(ToOwned::to_owned).collect()).collect()
}

#[test]
fn after_a_failed_cleanup_the_commands_of_the_readme_leave_nothing_of_the_release() {
    let admin = Admin::new();
    admin.cluster.install_operator_crds(&["servicemonitors"]);
    admin.helm("install", &[]);
    // What the exporter would have written, and what another has.
    let monitor = |name: &str, release: &str| {
        format!(
            "apiVersion: monitoring.coreos.com/v1\nkind: ServiceMonitor\nmetadata:\n  name: {name}\n  namespace: default\n  labels:\n    \
             scrapetarget.dev/release: {release}\n    scrapetarget.dev/release-namespace: prometheus\n\
             spec: {{ selector: {{}}, endpoints: [] }}\n---\n"
        )
    };
    admin.cluster.apply(&format!(
        "{}{}apiVersion: v1\nkind: Endpoints\nmetadata: {{ name: scrapetarget-exporter-probe, namespace: prometheus }}\n",
        monitor("ours", chart::RELEASE),
        monitor("theirs", "other")
    ));
    // No Job ends here, for want of a kubelet.
    let mut jobs = BTreeSet::new();
    for _ in ["at first", "again"] {
        let failed = admin.try_helm("uninstall", &["--timeout", "3s"]);
        assert_eq!(failed.code, Some(1), "{}", failed.stdout);
        let job = ["get", "jobs", "--namespace", NAMESPACE, "--output", "jsonpath={.items[*].metadata.uid}"];
        assert!(jobs.insert(admin.cluster.kubectl(&job).stdout), "whoever uninstalls again has another Job");
    }
    let stuck = admin.try_helm("upgrade", &["--set", "cleanup.enabled=false"]);
    assert_eq!(stuck.code, Some(1), "{}", stuck.stdout);

    let said = |words: &[String]| -> Said {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        match words[..] {
            ["helm", command, name, "--namespace", namespace, ref further @ ..] => {
                assert_eq!((name, namespace), (chart::RELEASE, NAMESPACE));
                admin.try_helm(command, further)
            }
            ["kubectl", ref further @ ..] => admin.cluster.kubectl(further),
            _ => panic!("{words:?}"),
        }
    };
    // Nothing ran that could have a log.
    let commands = commands("If the Job fails");
    assert_eq!(commands.len(), 5, "{commands:?}");
    for words in commands.iter().filter(|words| words[1] != "logs") {
        let said = said(words);
        assert_eq!(said.code, Some(0), "{words:?}: {}", said.stderr);
    }
    let kinds = "servicemonitors,endpoints,jobs,pods,deployments,services,leases,serviceaccounts,roles,clusterroles";
    let left = admin.cluster.kubectl(&["get", kinds, "--all-namespaces", "--output", "name"]);
    let left = left.stdout.lines().filter(|name| name.contains("scrapetarget") || name.contains("servicemonitor"));
    assert_eq!(left.collect::<Vec<_>>(), ["servicemonitor.monitoring.coreos.com/theirs"]);
}

#[test]
fn helm_installs_a_release_whose_names_yaml_would_read_as_something_else() {
    let admin = Admin::new();
    admin.cluster.install_operator_crds(&["servicemonitors", "scrapeconfigs", "prometheusrules"]);
    for name in ["1e3", "2001"] {
        admin.cluster.apply(&format!("apiVersion: v1\nkind: Namespace\nmetadata: {{ name: '{name}' }}\n"));
    }
    let (_, file) = chart::cases().into_iter().find(|(name, _)| name == "odd-names").unwrap();
    let folder = chart::folder();
    let kubeconfig = admin.cluster.admin_kubeconfig().to_str().unwrap();
    // Nobody serves VerticalPodAutoscalers here.
    for command in ["install", "upgrade"] {
        let arguments =
            [command, "1234", folder.to_str().unwrap(), "--kubeconfig", kubeconfig, "--namespace", "1e3", "-f", &file];
        // No Job ends here, for want of a kubelet: those after an upgrade are left out.
        let further = ["--set", "verticalPodAutoscaler.enabled=false,cleanup.afterUpgrade=never"];
        let said = chart::helm(arguments.iter().chain(&further));
        assert_eq!(said.code, Some(0), "{command}: {}", said.stderr);
    }
    assert_eq!(admin.targets(), ["1.5"]);
}

#[test]
fn an_upgrade_cleans_up_where_monitors_are_left_over_and_only_there() {
    let admin = Admin::new();
    let job = |namespaces: &[&str]| Some(namespaces.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>());
    let own = "--namespace=prometheus";
    admin.helm("install", &[]);
    assert_eq!(admin.after_upgrade("replicas=2"), None);
    assert_eq!(admin.after_upgrade("discovery.mode=none"), job(&[own]));
    assert_eq!(admin.after_upgrade("discovery.mode=none,cleanup.afterUpgrade=never"), None);
    let narrower = job(&[own, "--except-namespace=prometheus", "--except-namespace=team-a"]);
    assert_eq!(admin.after_upgrade("watchNamespaces={team-a}"), narrower);

    for name in ["team-a", "team-b"] {
        admin.cluster.apply(&format!("apiVersion: v1\nkind: Namespace\nmetadata: {{ name: {name} }}\n"));
    }
    admin.helm("upgrade", &["--no-hooks", "--reset-values", "--set", "watchNamespaces={team-a,team-b}"]);
    assert_eq!(admin.after_upgrade("watchNamespaces={team-b,team-a}"), None);
    assert_eq!(admin.after_upgrade("replicas=1"), None, "wider");
    assert_eq!(admin.after_upgrade("watchNamespaces={team-b}"), job(&[own, "--watch-namespace=team-a"]));
    let all = job(&[own, "--watch-namespace=prometheus", "--watch-namespace=team-a", "--watch-namespace=team-b"]);
    assert_eq!(admin.after_upgrade("watchNamespaces={team-b},discovery.mode=httpSD,scrapeConfig.enabled=false"), all);
}

#[test]
fn an_upgrade_does_not_clean_up_where_the_namespace_is_gone() {
    let mut admin = Admin::new();
    for name in ["team-a", "gone"] {
        admin.cluster.apply(&format!("apiVersion: v1\nkind: Namespace\nmetadata: {{ name: {name} }}\n"));
    }
    admin.helm("install", &["--set", "watchNamespaces={team-a,gone}"]);
    // Nobody finishes the deletion yet.
    let delete = ["delete", "namespace", "gone", "--wait=false"];
    assert_eq!(admin.cluster.kubectl(&delete).code, Some(0));
    let rest = ["--namespace=prometheus", "--watch-namespace=team-a"].map(ToOwned::to_owned).to_vec();
    assert_eq!(admin.after_upgrade("watchNamespaces={team-a}"), None, "it is being deleted");
    assert_eq!(admin.after_upgrade("watchNamespaces={prometheus}"), Some(rest.clone()));
    admin.cluster.start_controllers(&["namespace-controller"]);
    eventually_blocking(PATIENCE, || match admin.cluster.kubectl(&["get", "namespace", "gone"]).code {
        Some(0) => Err("the namespace is still there".to_owned()),
        _ => Ok(()),
    });
    assert_eq!(admin.after_upgrade("watchNamespaces={prometheus}"), Some(rest));
    let said = admin.try_helm("upgrade", &["--reset-values", "--set", "watchNamespaces={team-a}"]);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
}

#[test]
fn an_upgrade_may_bind_another_role() {
    let admin = Admin::new();
    admin.helm("install", &[]);
    for role in ["their-own", "another"] {
        let set = format!("rbac.existingClusterRoles.release={role},rbac.existingClusterRoles.targets={role}");
        admin.helm("upgrade", &["--reset-values", "--set", &set]);
        let bindings = admin.cluster.kubectl(&["get", "rolebindings,clusterrolebindings", "-A", "--output", "json"]);
        let list: Value = serde_json::from_str(&bindings.stdout).unwrap();
        let bound = list["items"].as_array().unwrap().iter().filter(|binding| binding["roleRef"]["name"] == role);
        assert_eq!(bound.count(), 2, "{role}");
    }
    admin.helm("upgrade", &["--reset-values"]);
}

/// Everything with which the account of the Job after an upgrade could have a right, the account among it.
fn rights_after_upgrade(admin: &Admin) -> Vec<String> {
    let kinds = "serviceaccounts,roles,rolebindings,clusterroles,clusterrolebindings";
    let said = admin.cluster.kubectl(&["get", kinds, "--all-namespaces", "--output", "name"]);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    said.stdout.lines().filter(|name| name.contains("cleanup-monitors")).map(ToOwned::to_owned).collect()
}

/// The Jobs that are there, by name.
fn jobs(admin: &Admin) -> String {
    admin.cluster.kubectl(&["get", "jobs", "--namespace", NAMESPACE, "--output", "name"]).stdout
}

const AFTER_UPGRADE: &str = "job.batch/scrapetarget-exporter-cleanup-monitors\n";

#[test]
fn a_job_after_an_upgrade_that_fails_keeps_its_log_and_leaves_no_right_behind() {
    let mut admin = Admin::new();
    for name in ["team-a", "team-b"] {
        admin.cluster.apply(&format!("apiVersion: v1\nkind: Namespace\nmetadata: {{ name: {name} }}\n"));
    }
    // What the release had, what it is to have, and how Helm is told to wait.
    let first = "watchNamespaces={team-a,team-b}";
    let gives_up = ["--timeout", "5s"];
    for (before, after) in [("replicas=1", "discovery.mode=none"), (first, "watchNamespaces={team-a}")] {
        admin.helm("upgrade", &["--install", "--no-hooks", "--reset-values", "--set", before]);
        let said = admin.try_helm("upgrade", &[&["--reset-values", "--set", after][..], &gives_up].concat());
        assert_eq!(said.code, Some(1), "nobody runs the Job: {}", said.stdout);
        assert_eq!(rights_after_upgrade(&admin), [""; 0], "{after}");
        assert_eq!(jobs(&admin), AFTER_UPGRADE, "somebody wants to know why");
        // Whoever upgrades again has the same work done: the Job says where.
        let words = admin.after_upgrade(after).expect("it is tried again");
        assert_eq!(words.iter().any(|word| word == "--watch-namespace=team-b"), before == first, "{words:?}");
        admin.cluster.kubectl(&["delete", "jobs", "--all", "--namespace", NAMESPACE]);
    }
    // The same where the Job itself fails, at its deadline.
    admin.cluster.start_controllers(&["job-controller"]);
    admin.helm("upgrade", &["--no-hooks", "--reset-values"]);
    let fails = "discovery.mode=none,cleanup.activeDeadlineSeconds=1,cleanup.backoffLimit=0";
    let said = admin.try_helm("upgrade", &["--reset-values", "--set", fails]);
    assert!(said.code == Some(1) && said.stderr.contains("Job Failed"), "{}{}", said.stdout, said.stderr);
    assert_eq!(rights_after_upgrade(&admin), [""; 0]);
    assert_eq!(jobs(&admin), AFTER_UPGRADE);
}

#[test]
fn the_rights_of_a_job_that_could_not_be_made_go_with_the_next_upgrade() {
    let admin = Admin::new();
    let refuse = |kind: &str| {
        format!(
            "apiVersion: admissionregistration.k8s.io/v1\nkind: ValidatingAdmissionPolicy{kind}\nmetadata: {{ name: no-jobs }}\n"
        )
    };
    admin.helm("install", &[]);
    admin.cluster.apply(&format!(
        "{}spec:\n  matchConstraints:\n    resourceRules: [{{ apiGroups: [batch], apiVersions: [v1], resources: [jobs], operations: [CREATE] }}]\n  \
         validations: [{{ expression: 'false', message: no Jobs here }}]\n---\n\
         {}spec: {{ policyName: no-jobs, validationActions: [Deny] }}\n",
        refuse(""),
        refuse("Binding")
    ));
    let upgrade = |set: &str| admin.try_helm("upgrade", &["--reset-values", "--timeout", "5s", "--set", set]);
    // A policy holds only after a while.
    eventually_blocking(PATIENCE, || {
        let said = upgrade("discovery.mode=none").stderr;
        if said.contains("no Jobs here") {
            return Ok(());
        }
        admin.helm("upgrade", &["--no-hooks", "--reset-values"]);
        Err(format!("the policy is not heeded: {said}"))
    });
    // Helm deletes nothing now. Whatever is upgraded to, they do not stay.
    assert_eq!(rights_after_upgrade(&admin).len(), 3);
    let words = admin.after_upgrade("discovery.mode=none").expect("what could not be done is tried again");
    assert_eq!(words, ["--namespace=prometheus"]);
    assert_eq!(admin.after_upgrade("replicas=1"), None, "monitors are written everywhere again");
    let said = upgrade("replicas=1");
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    assert_eq!(rights_after_upgrade(&admin), [""; 0]);
    // And so they do by hand.
    assert!(upgrade("discovery.mode=none").stderr.contains("no Jobs here"));
    assert_eq!(rights_after_upgrade(&admin).len(), 3);
    for words in commands("If the Job after an upgrade fails") {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        assert_eq!((words[0], admin.cluster.kubectl(&words[1..]).code), ("kubectl", Some(0)), "{words:?}");
    }
    assert_eq!(rights_after_upgrade(&admin), [""; 0]);
}

#[test]
fn the_notes_warn_of_what_prometheus_will_not_find() {
    let admin = Admin::new();
    let notes = |set: &str| admin.notes(set);
    let missing = notes("replicas=1");
    assert!(missing.len() == 1 && missing[0].contains("the cluster has no CRD for ServiceMonitors"), "{missing:?}");
    assert_eq!(notes("discovery.mode=none"), [""; 0]);

    admin.cluster.install_operator_crds(&["servicemonitors", "scrapeconfigs", "prometheuses", "prometheusrules"]);
    assert_eq!(notes("replicas=1"), [""; 0], "nobody knows what a Prometheus outside of the Operator does");
    let alone = notes("prometheusRule.enabled=true");
    assert!(alone.len() == 1 && alone[0].contains("serviceMonitor.selfMonitor.enabled"), "{alone:?}");
    assert_eq!(notes("prometheusRule.enabled=true,serviceMonitor.selfMonitor.enabled=true"), [""; 0]);
    let prometheus = |spec: &str| admin.operator_object("Prometheus", spec);
    let by_label = "{ serviceMonitorSelector: { matchLabels: { release: stack } }, serviceMonitorNamespaceSelector: {}, \
                    scrapeConfigSelector: { matchExpressions: [{ key: team, operator: In, values: [media] }] } }";
    prometheus(by_label);
    let other = notes("replicas=1");
    assert!(other.len() == 1 && other[0].ends_with("set discovery.monitorLabels to {release: stack}"), "{other:?}");
    assert_eq!(notes("discovery.monitorLabels.release=stack"), [""; 0]);
    let other = notes("discovery.mode=httpSD");
    assert!(other.len() == 1 && other[0].contains("selects the ScrapeConfig"), "{other:?}");
    let fitting = "discovery.mode=httpSD,scrapeConfig.labels.team=media,scrapeConfig.namespace=default";
    assert_eq!(notes(fitting), [""; 0]);

    let cases = [
        ("{ serviceMonitorSelector: {} }", "discovery.monitorNamespace=target", "selects its own namespace only"),
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

#[test]
fn the_notes_warn_of_namespaces_that_no_prometheus_selects() {
    let admin = Admin::new();
    admin.cluster.install_operator_crds(&["servicemonitors", "scrapeconfigs", "prometheuses", "prometheusrules"]);
    let by_label = "{ matchLabels: { team: media } }";
    admin.operator_object(
        "Prometheus",
        &format!(
            "{{ serviceMonitorSelector: {{}}, serviceMonitorNamespaceSelector: {by_label}, \
               scrapeConfigSelector: {{}}, scrapeConfigNamespaceSelector: {by_label}, \
               ruleSelector: {{}}, ruleNamespaceSelector: {by_label} }}"
        ),
    );
    let rules = "discovery.mode=none,prometheusRule.enabled=true,serviceMonitor.selfMonitor.enabled=true";
    let modes = [
        ("discovery.monitorNamespace=release", "selects the ServiceMonitors"),
        ("discovery.mode=httpSD", "selects the ScrapeConfig"),
        (rules, "selects the PrometheusRule"),
    ];
    for (set, words) in modes {
        let said = admin.notes(set);
        assert!(said.len() == 1 && said[0].contains(words), "{said:?}");
        let why = format!(
            r#"selects namespaces with {{"matchLabels":{{"team":"media"}}}}, which {NAMESPACE} does not match"#
        );
        assert!(said[0].starts_with("WARNING: ") && said[0].contains(&why), "{said:?}");
        assert_eq!(admin.notes(&format!("{set},inspectPrometheus=false")), [""; 0]);
        assert_eq!(admin.notes(&format!("{set},watchNamespaces={{a}}")), [""; 0], "nobody could look");
    }
    // Targets may be anywhere: some are found.
    let said = admin.notes("discovery.monitorNamespace=target");
    let what = r#"Prometheus default/main selects namespaces with {"matchLabels":{"team":"media"}} Targets in other namespaces"#;
    assert!(said.len() == 1 && said[0].starts_with("NOTE: ") && said[0].contains(what), "{said:?}");
    assert_eq!(admin.notes("inspectPrometheus=false"), [""; 0]);

    assert_eq!(admin.cluster.kubectl(&["label", "namespace", NAMESPACE, "team=media"]).code, Some(0));
    for (set, _) in modes {
        assert_eq!(admin.notes(set), [""; 0], "{set}");
    }
    // Whatever Helm is to make has its name as labels.
    admin.operator_object(
        "Prometheus",
        "{ ruleSelector: {}, ruleNamespaceSelector: { matchLabels: { name: new, kubernetes.io/metadata.name: new } } }",
    );
    assert_eq!(admin.notes(&format!("{rules},prometheusRule.namespace=new")), [""; 0]);
    assert_eq!(admin.notes(rules).len(), 1);
}

#[test]
fn the_notes_warn_of_alerts_that_nobody_evaluates() {
    let admin = Admin::new();
    admin.cluster.install_operator_crds(&["servicemonitors", "prometheuses", "prometheusrules", "thanosrulers"]);
    let rules = "discovery.mode=none,prometheusRule.enabled=true,serviceMonitor.selfMonitor.enabled=true";
    admin.operator_object(
        "Prometheus",
        "{ ruleSelector: { matchLabels: { role: alerts, team: media } }, ruleNamespaceSelector: {} }",
    );
    let said = admin.notes(rules);
    let advice = "set discovery.monitorLabels or prometheusRule.additionalLabels to {role: alerts, team: media}";
    assert!(said.len() == 1 && said[0].ends_with(advice), "{said:?}");
    let labels = "prometheusRule.additionalLabels.role=alerts,discovery.monitorLabels.team=media";
    assert_eq!(admin.notes(&format!("{rules},{labels}")), [""; 0]);
    assert_eq!(admin.notes("discovery.mode=none"), [""; 0], "no rules");
    admin.operator_object("Prometheus", "{ ruleSelector: {} }");
    assert!(admin.notes(rules)[0].contains("its ruleNamespaceSelector is not set"));
    assert_eq!(admin.notes(&format!("{rules},prometheusRule.namespace=default")), [""; 0]);
    admin.operator_object("ThanosRuler", "{ queryEndpoints: [query], ruleSelector: {}, ruleNamespaceSelector: {} }");
    assert_eq!(admin.notes(rules), [""; 0]);
}

#[test]
fn an_agent_that_selects_is_enough_for_targets() {
    let admin = Admin::new();
    let kinds = ["servicemonitors", "scrapeconfigs", "prometheuses", "prometheusagents", "prometheusrules"];
    admin.cluster.install_operator_crds(&kinds);
    let modes = ["discovery.monitorNamespace=target", "discovery.monitorNamespace=release", "discovery.mode=httpSD"];
    admin.operator_object("PrometheusAgent", "{ podMonitorSelector: {} }");
    for set in modes {
        let said = admin.notes(set);
        assert!(said.len() == 1 && said[0].contains("PrometheusAgent default/main selects none"), "{set}: {said:?}");
    }
    admin.operator_object("Prometheus", "{ podMonitorSelector: {} }");
    let said = admin.notes("replicas=1");
    assert!(said.len() == 1 && said[0].contains("Prometheus default/main selects none"), "{said:?}");
    admin.operator_object(
        "PrometheusAgent",
        "{ serviceMonitorSelector: {}, serviceMonitorNamespaceSelector: {}, scrapeConfigSelector: {}, scrapeConfigNamespaceSelector: {} }",
    );
    for set in modes {
        assert_eq!(admin.notes(set), [""; 0], "{set}");
    }
    let rules = admin.notes("prometheusRule.enabled=true,serviceMonitor.selfMonitor.enabled=true");
    assert!(rules.len() == 1 && rules[0].contains("selects the PrometheusRule"), "{rules:?}");
}

#[test]
fn whoever_may_list_prometheus_objects_alone_can_install_where_one_of_them_selects() {
    let admin = Admin::new();
    let kinds = ["servicemonitors", "prometheuses", "prometheusagents", "prometheusrules", "thanosrulers"];
    admin.cluster.install_operator_crds(&kinds);
    // Helm looks whether what it is to make is there.
    admin.cluster.apply(
        "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: { name: installer }\nrules:\n\
         - { apiGroups: [apps, apiextensions.k8s.io, batch, coordination.k8s.io, monitoring.coreos.com, rbac.authorization.k8s.io, scrapetarget.dev], resources: ['*'], verbs: [get] }\n\
         - { apiGroups: [''], resources: [services, serviceaccounts, secrets, pods], verbs: [get, list] }\n\
         - { apiGroups: [monitoring.coreos.com], resources: [prometheuses], verbs: [list] }\n\
         ---\napiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRoleBinding\nmetadata: { name: installer }\n\
         roleRef: { apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: installer }\n\
         subjects: [{ apiGroup: rbac.authorization.k8s.io, kind: User, name: installer }]\n",
    );
    let install = |set: &str| {
        let set = format!("prometheusRule.enabled=true,{set}");
        admin.try_helm("install", &["--dry-run=server", "--kube-as-user=installer", "--set", &set])
    };
    admin.operator_object(
        "Prometheus",
        "{ serviceMonitorSelector: {}, serviceMonitorNamespaceSelector: {}, ruleSelector: {}, ruleNamespaceSelector: {} }",
    );
    let said = install("replicas=1");
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    admin.operator_object("Prometheus", "{ podMonitorSelector: {} }");
    let said = install("replicas=1");
    assert!(said.code == Some(1) && said.stderr.contains("prometheusagents"), "{}", said.stderr);
    let said = install("inspectPrometheus=false");
    assert_eq!(said.code, Some(0), "{}", said.stderr);
}
