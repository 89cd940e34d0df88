//! The permissions that are shipped: they are enough, none is too much, and each that is missing is told.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Endpoints;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, ApiResource, DynamicObject, ListParams};
use kube::core::GroupVersionKind;
use scrapetarget_exporter::file::documents;
use serde_json::{Value, json};

use crate::exporter::{targets, told};
use crate::support::cluster::{AuditLine, Cluster};
use crate::support::eventually::eventually_blocking;
use crate::support::program::{Running, Said, command, said, signal};

/// What was missing is tried again within a minute, and two dozen exporters are here at a time, beside other tests.
const PATIENCE: Duration = Duration::from_secs(60 + 240);

/// The shared server with all that an installation expects.
fn served() -> &'static Cluster {
    let cluster = Cluster::shared();
    cluster.install_crd();
    cluster.install_operator_crds(&["servicemonitors"]);
    cluster
}

/// One verb of one rule.
#[derive(Clone, Debug)]
struct Permission {
    group: String,
    resource: String,
    /// Whether it is for one object only. Both are shipped for EndpointSlices: our own, and those of the members of targets.
    is_named: bool,
    verb: String,
}

impl Permission {
    fn is_used_by(&self, line: &AuditLine) -> bool {
        let (resource, subresource) = self.resource.split_once('/').unwrap_or((&self.resource, ""));
        // The log calls it by what was sent: an apply.
        let sent = if self.verb == "create" && resource != "leases" { "patch" } else { &self.verb };
        let is_meant = resource != "endpointslices" || line.name.is_empty() != self.is_named;
        line.resource == resource && line.subresource == subresource && line.verb == sent && is_meant
    }

    /// Whether this rule gives it. What may be done with every object may be done with the named one.
    fn is_given_by(&self, rule: &Value) -> bool {
        rule["resources"][0] == *self.resource && (self.is_named || rule["resourceNames"].is_null())
    }

    /// Whether it is for the members of targets.
    fn is_for_members(&self) -> bool {
        self.resource == "endpointslices" && !self.is_named
    }
}

/// The roles as they are shipped, but for one installed in the namespace `name` under this name.
fn shipped(name: &str) -> Vec<Value> {
    let text = include_str!("../../deploy/rbac.yaml").replace("scrapetarget-exporter", name);
    let text = text.replace("namespace: prometheus", &format!("namespace: {name}"));
    documents(&text).map(|document| document.value().unwrap()).collect()
}

/// The roles of an installation in a namespace of its own, which is its name as well.
struct Installation {
    cluster: &'static Cluster,
    name: String,
    manifests: Vec<Value>,
}

impl Installation {
    fn new() -> Self {
        let cluster = served();
        let name = cluster.namespace("access");
        let manifests = shipped(&name);
        Self { cluster, name, manifests }
    }

    /// The rules of the roles that are the exporter's own.
    fn rules(&mut self) -> impl Iterator<Item = &mut Value> {
        let people = ["view", "edit"].map(|role| json!(format!("{}-{role}", self.name)));
        let own = self.manifests.iter_mut().filter(move |manifest| !people.contains(&manifest["metadata"]["name"]));
        own.filter_map(|manifest| manifest.get_mut("rules")?.as_array_mut()).flatten()
    }

    fn permissions(&mut self) -> Vec<Permission> {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        self.rules()
            .flat_map(|rule| {
                let (group, resource) = (text(&rule["apiGroups"][0]), text(&rule["resources"][0]));
                let is_named = rule["resourceNames"].is_array();
                let verbs: Vec<String> = rule["verbs"].as_array().unwrap().iter().map(text).collect();
                verbs.into_iter().map(move |verb| Permission {
                    group: group.clone(),
                    resource: resource.clone(),
                    is_named,
                    verb,
                })
            })
            .collect()
    }

    fn take_away(&mut self, permission: &Permission) {
        let rules = self.rules().filter(|rule| permission.is_given_by(rule));
        for verbs in rules.filter_map(|rule| rule["verbs"].as_array_mut()) {
            verbs.retain(|verb| *verb != *permission.verb);
        }
    }

    /// Applies the roles, and targets that need each permission.
    fn apply(&self) {
        let name = &self.name;
        for manifest in &self.manifests {
            // A rule without verbs is refused, and permits nothing either.
            let mut manifest = manifest.clone();
            if let Some(rules) = manifest.get_mut("rules").and_then(Value::as_array_mut) {
                rules.retain(|rule| rule["verbs"].as_array().is_some_and(|verbs| !verbs.is_empty()));
            }
            self.cluster.apply(&manifest.to_string());
        }
        self.cluster.apply(&format!(
            r"
apiVersion: v1
kind: Secret
metadata: {{ name: token, namespace: {name} }}
stringData: {{ token: secret }}
---
apiVersion: v1
kind: ConfigMap
metadata: {{ name: names, namespace: {name} }}
data: {{ ca: 'none' }}
---
apiVersion: scrapetarget.dev/v1alpha1
kind: ScrapeTarget
metadata: {{ name: plain, namespace: {name} }}
spec: {{ type: Sora, url: 'http://127.0.0.1:1/' }}
---
apiVersion: scrapetarget.dev/v1alpha1
kind: ScrapeTarget
metadata: {{ name: secretive, namespace: {name} }}
spec: {{ type: Sora, url: 'http://127.0.0.1:1/', authorization: {{ credentials: {{ name: token, key: token }} }} }}
---
apiVersion: scrapetarget.dev/v1alpha1
kind: ScrapeTarget
metadata: {{ name: trusting, namespace: {name} }}
spec: {{ type: Sora, url: 'https://127.0.0.1:1/', tlsConfig: {{ ca: {{ configMap: {{ name: names, key: ca }} }} }} }}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{ name: rooms, namespace: {name}, labels: {{ kubernetes.io/service-name: rooms }} }}
addressType: IPv4
endpoints: []
---
apiVersion: scrapetarget.dev/v1alpha1
kind: ScrapeTarget
metadata: {{ name: many, namespace: {name} }}
spec: {{ type: Sora, url: 'http://rooms/', members: {{ service: {{}} }} }}
"
        ));
    }

    /// Takes away the need for a monitor that was written.
    fn disable_monitor(&self) {
        let patch = r#"{"spec":{"monitor":{"enabled":false}}}"#;
        let target = ["scrapetargets", "plain", "--namespace", &self.name];
        let said = self.cluster.kubectl(&[&["patch", "--type=merge", "--patch", patch], &target[..]].concat());
        assert_eq!(said.code, Some(0), "{}", said.stderr);
    }

    fn kubeconfig(&self) -> PathBuf {
        self.cluster.kubeconfig_of(&self.name, &self.name)
    }

    fn release(&self) -> [&str; 6] {
        ["--namespace", &self.name, "--release-name", &self.name, "--watch-namespace", &self.name]
    }

    /// The exporter, with the permissions of its service account and no others.
    fn start(&self) -> Running {
        let mut command = command(["run", "--listen-address", "127.0.0.1:0", "--shutdown-delay", "0s"]);
        command.args(["--target-allow-loopback", "--advertise-address", "10.9.8.1"]).args(self.release());
        Running::spawn({
            command.env("KUBECONFIG", self.kubeconfig());
            command
        })
    }

    /// Everything that this permission is for: up to the sentence that says that it is missing, and on until all is well with it.
    fn until_told_and_healed(&self, permission: &Permission) {
        let Permission { group, resource, verb, .. } = permission;
        let rule = format!("{{apiGroups: [{group:?}], resources: [{resource:?}], verbs: [{verb:?}]}}");
        if resource.starts_with("endpoint") && (verb == "get" || verb == "delete") {
            let mut running = self.start();
            self.until("its Endpoints", &mut running, |installation, _| installation.is_behind_both());
            stop(running);
            let failed = self.cleanup();
            assert!(failed.code == Some(1) && failed.stderr.contains(&rule), "{permission:?}: {}", failed.stderr);
            self.give_all_back();
            let done = self.cleanup();
            assert_eq!(done.code, Some(0), "{permission:?}: {}", done.stderr);
            return;
        }
        let mut running = self.start();
        if resource == "servicemonitors" && verb == "delete" {
            self.until("a monitor", &mut running, |installation, _| installation.monitors().contains("plain"));
            self.disable_monitor();
        }
        // In the log, quotes stand in a text in quotes.
        let logged = rule.replace('"', "\\\"");
        self.until(&format!("{permission:?} in the log"), &mut running, |_, running| running.log().contains(&logged));
        let is_blind = resource == "scrapetargets" && verb == "list";
        if !is_blind {
            self.until("a poll all the same", &mut running, |_, running| running.log().contains("connect"));
        }
        for (of, target, kind, reason) in [
            ("servicemonitors", "plain", "MonitorReady", "False/Forbidden"),
            ("secrets", "secretive", "Accepted", "False/SecretForbidden"),
            ("configmaps", "trusting", "Accepted", "False/ConfigMapForbidden"),
        ] {
            // Without a watch the monitors are as they were listed, and are written.
            if resource == of && verb != "watch" {
                let what = format!("{reason} without {permission:?}");
                self.until(&what, &mut running, |installation, _| installation.told(target, kind) == reason);
            }
        }
        if permission.is_for_members() {
            self.until("the problem of the target with members", &mut running, |installation, _| {
                installation.told("many", "Accepted") == "False/EndpointsForbidden"
            });
        }
        // Who cannot lead, or knows no targets, writes nothing; everybody else writes all that is permitted.
        if resource != "leases" && !is_blind {
            self.until_written(permission, &mut running);
        }
        let since = Timestamp::now();
        self.give_all_back();
        self.until(&format!("{permission:?} again"), &mut running, |installation, running| {
            installation.is_granted(permission, since, running)
        });
        self.until(&format!("all that needs {permission:?}"), &mut running, |installation, _| installation.is_well());
    }

    /// Waits for all that can be written without this permission.
    fn until_written(&self, missing: &Permission, running: &mut Running) {
        let without = |what: &str| format!("{what} without {missing:?}");
        if missing.resource != "endpoints" {
            self.until(&without("Endpoints"), running, |installation, _| installation.endpoints() == "10.9.8.1");
        }
        if missing.resource != "endpointslices" || missing.is_for_members() {
            self.until(&without("EndpointSlice"), running, |installation, _| installation.slices() == "10.9.8.1");
        }
        if missing.resource != "scrapetargets/status" {
            self.until(&without("status"), running, |installation, _| {
                installation.told("plain", "Up") == "False/Connect"
            });
        }
        if missing.resource != "servicemonitors" {
            self.until(&without("monitors"), running, |installation, _| installation.monitors().contains("plain"));
        }
    }

    /// Applies the roles as they are shipped.
    fn give_all_back(&self) {
        for manifest in shipped(&self.name) {
            self.cluster.apply(&manifest.to_string());
        }
    }

    /// Whether the exporter knows that it has this permission by now.
    fn is_granted(&self, permission: &Permission, since: Timestamp, running: &Running) -> bool {
        // A look for what is not there, and a watch that shows nothing, leave no line in the log.
        let is_silent = matches!(
            (&*permission.resource, &*permission.verb),
            ("servicemonitors", "get" | "watch") | ("endpoints" | "endpointslices", "watch")
        );
        if is_silent {
            let mut asked = self.asked().into_iter().filter(|line| line.at > since && line.code != 403);
            return asked.any(|line| permission.is_used_by(&line));
        }
        running.log().contains("permission is granted now")
    }

    /// All that its account has asked the API server.
    fn asked(&self) -> Vec<AuditLine> {
        let account = format!("system:serviceaccount:{0}:{0}", self.name);
        self.cluster.audit().into_iter().filter(|line| line.user == account).collect()
    }

    /// Whether all that needs a permission is done and told.
    fn is_well(&self) -> bool {
        self.told("plain", "Up") == "False/Connect"
            && self.told("plain", "MonitorReady").starts_with("True/")
            && self.told("secretive", "Accepted") == "True/Accepted"
            && !["", "False/ConfigMapForbidden"].contains(&&*self.told("trusting", "Accepted"))
            && self.told("many", "Accepted") == "True/Accepted"
            && self.monitors().contains("secretive")
            && self.is_behind_both()
    }

    /// Whether the exporter is behind its Service, in both forms.
    fn is_behind_both(&self) -> bool {
        self.endpoints() == "10.9.8.1" && self.slices() == "10.9.8.1"
    }

    /// One condition of a target: `False/Connect`.
    fn told(&self, target: &str, kind: &str) -> String {
        let target = block(async { targets(self.cluster, &self.name).get(target).await.unwrap() });
        told(&target).remove(kind).map(|(verdict, _)| verdict).unwrap_or_default()
    }

    fn until(&self, what: &str, running: &mut Running, mut done: impl FnMut(&Self, &Running) -> bool) {
        let start = Instant::now();
        while !done(self, running) {
            assert!(start.elapsed() < PATIENCE, "no {what} within {PATIENCE:?}:\n{}", running.log());
            running.wait("its end, which must not be", |_| Some(()));
            std::thread::sleep(Duration::from_millis(500));
        }
    }

    /// The names of all monitors.
    fn monitors(&self) -> String {
        let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("monitoring.coreos.com", "v1", "ServiceMonitor"));
        let list = block(async {
            let api = Api::<DynamicObject>::namespaced_with(self.cluster.client(), &self.name, &kind);
            api.list(&ListParams::default()).await.unwrap()
        });
        list.into_iter().filter_map(|monitor| monitor.metadata.name).collect::<Vec<_>>().join(" ")
    }

    /// The addresses in all Endpoints.
    fn endpoints(&self) -> String {
        let list = block(async {
            let api = Api::<Endpoints>::namespaced(self.cluster.client(), &self.name);
            api.list(&ListParams::default()).await.unwrap()
        });
        let subsets = list.into_iter().flat_map(|endpoints| endpoints.subsets.unwrap_or_default());
        let addresses = subsets.flat_map(|subset| subset.addresses.unwrap_or_default());
        addresses.map(|address| address.ip).collect::<Vec<_>>().join(" ")
    }

    /// The addresses in all slices.
    fn slices(&self) -> String {
        let list = block(async {
            let api = Api::<EndpointSlice>::namespaced(self.cluster.client(), &self.name);
            api.list(&ListParams::default()).await.unwrap()
        });
        let addresses = list.into_iter().flat_map(|slice| slice.endpoints).flat_map(|endpoint| endpoint.addresses);
        addresses.collect::<Vec<_>>().join(" ")
    }

    fn cleanup(&self) -> Said {
        let mut command = command(["cleanup"]);
        said(command.args(self.release()).env("KUBECONFIG", self.kubeconfig()))
    }
}

/// Runs a future to its end.
fn block<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// Ends it as it wishes to be ended: the Lease is released, and nobody has to wait for it.
fn stop(mut running: Running) {
    signal(running.id(), "TERM");
    assert!(running.ended().success(), "{}", running.log());
}

#[test]
fn the_shipped_permissions_are_enough_and_each_is_used() {
    let mut installation = Installation::new();
    let mut permissions = installation.permissions();
    installation.apply();
    let mut running = installation.start();
    installation
        .until("monitors", &mut running, |installation, _| installation.monitors() == "many plain secretive trusting");
    installation.until("Endpoints", &mut running, |installation, _| installation.is_behind_both());
    installation.until("status", &mut running, |installation, _| installation.told("plain", "Up") == "False/Connect");
    installation.disable_monitor();
    installation.until("an end of a monitor", &mut running, |installation, _| {
        installation.monitors() == "many secretive trusting"
    });
    let log = running.log();
    stop(running);
    assert!(!log.contains("not permitted"), "{log}");
    let cleaned = installation.cleanup();
    assert_eq!(cleaned.stdout, "removed 3 ServiceMonitors and 1 Endpoints\n", "{}", cleaned.stderr);
    assert_eq!(cleaned.code, Some(0));
    assert_eq!([installation.monitors(), installation.endpoints(), installation.slices()], [""; 3]);

    // An answer comes a little before its line in the log.
    let asked = eventually_blocking(PATIENCE, || {
        let asked = installation.asked();
        permissions.retain(|permission| !asked.iter().any(|line| permission.is_used_by(line)));
        if permissions.is_empty() { Ok(asked) } else { Err(format!("not used: {permissions:#?}")) }
    });
    let secrets = asked.iter().filter(|line| line.resource == "secrets" || line.resource == "configmaps");
    assert!(secrets.clone().count() >= 2 && secrets.clone().all(|line| line.verb == "get"));
}

#[test]
fn each_permission_that_is_missing_is_told_as_the_rule_to_add_and_the_rest_goes_on_until_it_is_there() {
    let permissions = Installation::new().permissions();
    assert!(permissions.len() > 18, "{permissions:#?}");
    // All at once: each takes up to a minute, and nearly all of it is waiting.
    std::thread::scope(|scope| {
        for permission in permissions {
            scope.spawn(move || {
                let mut installation = Installation::new();
                installation.take_away(&permission);
                installation.apply();
                installation.until_told_and_healed(&permission);
            });
        }
    });
}

#[test]
fn the_shipped_permissions_and_the_service_are_taken_as_they_stand() {
    let cluster = served();
    cluster.apply("{ apiVersion: v1, kind: Namespace, metadata: { name: prometheus } }");
    let root = env!("CARGO_MANIFEST_DIR");
    for file in ["rbac.yaml", "service.yaml"] {
        let said = cluster.kubectl(&["apply", "--server-side", "--filename", &format!("{root}/deploy/{file}")]);
        assert_eq!((said.code, said.stderr.as_str()), (Some(0), ""), "{file}");
    }
}
