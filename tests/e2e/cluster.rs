//! The cluster under test, as its user has it: kubectl, helm, and the API server's way to Prometheus.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use kube::{Client, Config};
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::support::program::{Running, Said, said_to, signal};
use crate::support::{choose_tls_provider, tools};
use crate::{media, tokens, until};

/// Namespace and name of the release, as README.md has them.
pub(crate) const NAMESPACE: &str = "prometheus";
pub(crate) const RELEASE: &str = "scrapetarget-exporter";

/// Where our Prometheus is.
pub(crate) const MONITORING: &str = "scrapetarget-e2e";

/// Where the Operator is, on a node that is made for the test.
const OPERATOR: &str = "monitoring";

/// Namespaces that the story makes.
const NAMESPACES: &[&str] = &[
    NAMESPACE,
    MONITORING,
    "simulated-webrtc",
    "simulated-fiware",
    "simulated-school",
    "media",
    "fiware",
    "load",
    "webrtc",
    "alerts",
];

pub(crate) const CRD: &str = "crd/scrapetargets.scrapetarget.dev";

/// The example of an admission policy.
pub(crate) const ADMISSION: &str = "deploy/admission/probers.yaml";

/// Longer than any single command takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(300);

/// A cluster that can be reached.
pub(crate) struct Cluster {
    runtime: Runtime,
    client: Client,
    kubectl: PathBuf,
    helm: PathBuf,
    /// The folder of the node that was made for this test. Nothing in a cluster of the user's own, whose processes are left alone.
    node: Option<PathBuf>,
    /// In a cluster of the user's own: where it gets the image.
    image: Option<Image>,
}

/// What `E2E_IMAGE` looks like.
const IMAGE: &str = "REGISTRY/REPOSITORY:TAG";

/// An image, in the parts that the chart has values for.
struct Image {
    registry: String,
    repository: String,
    tag: String,
}

impl Image {
    fn parse(text: &str) -> Self {
        let parts = text.split_once('/').and_then(|(registry, rest)| Some((registry, rest.rsplit_once(':')?)));
        let (registry, (repository, tag)) = parts.unwrap_or_else(|| panic!("E2E_IMAGE is {text}: write {IMAGE}"));
        assert!(!text.contains('@'), "E2E_IMAGE is {text}: write a tag, as {IMAGE}");
        Self { registry: registry.to_owned(), repository: repository.to_owned(), tag: tag.to_owned() }
    }
}

impl Cluster {
    /// The cluster that KUBECONFIG names.
    pub(crate) fn connect() -> Self {
        choose_tls_provider();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let client = runtime.block_on(async { Client::try_from(Config::infer().await.unwrap()).unwrap() });
        let node = std::env::var_os("E2E_NODE").map(PathBuf::from).filter(|node| node.join("apiserver.sh").exists());
        let image = std::env::var("E2E_IMAGE").ok().filter(|image| !image.is_empty()).map(|image| Image::parse(&image));
        assert!(
            node.is_some() || image.is_some(),
            "in a cluster of your own, E2E_IMAGE must say where it gets the image: {IMAGE}"
        );
        Self { runtime, client, kubectl: tools::kubectl(), helm: tools::helm(), node, image }
    }

    /// Whether everything that the story makes, and deletes in the end, is not there yet.
    pub(crate) fn is_free(&self) -> Result<(), String> {
        let namespaces = NAMESPACES.iter().map(|name| format!("namespace/{name}"));
        let roles = ["exporter", "e2e-prometheus", "e2e-states"].map(|name| format!("clusterrole/scrapetarget-{name}"));
        let policies = ["validatingadmissionpolicy", "validatingadmissionpolicybinding"];
        let policies = policies.map(|kind| format!("{kind}/scrapetarget-probers"));
        let ours: Vec<String> = namespaces.chain(roles).chain(policies).chain([CRD.to_owned()]).collect();
        let mut asked = vec!["get", "--ignore-not-found", "-o", "name"];
        asked.extend(ours.iter().map(String::as_str));
        let taken: Vec<String> = self.kubectl(&asked).split_whitespace().map(ToOwned::to_owned).collect();
        if !taken.is_empty() {
            return Err(format!("the test would make and delete what this cluster has already: {}", taken.join(", ")));
        }
        let operator =
            self.kubectl(&["get", "--ignore-not-found", "-o", "name", "crd/prometheuses.monitoring.coreos.com"]);
        if operator.is_empty() && !self.is_ours() {
            return Err("this cluster has no Prometheus Operator".to_owned());
        }
        Ok(())
    }

    /// A Prometheus, and on our own node its Operator as well.
    pub(crate) fn prepare(&self) {
        let namespace = format!("apiVersion: v1\nkind: Namespace\nmetadata: {{ name: {MONITORING} }}\n---\n");
        let mut manifests = namespace + &read("tests/e2e/manifests/prometheus.yaml");
        if self.is_ours() {
            self.kubectl(&["create", "namespace", OPERATOR]);
            let bundle = std::fs::read_to_string(std::env::var("OPERATOR_BUNDLE").unwrap()).unwrap();
            let bundle = of_this_node(&bundle);
            let is_crd = |document: &&str| document.contains("\nkind: CustomResourceDefinition\n");
            let (crds, others): (Vec<&str>, Vec<&str>) = bundle.split("\n---\n").partition(is_crd);
            // First: what it does not find when it starts, the Operator does not read until it is started again.
            self.apply(&crds.join("\n---\n"));
            let crds = ["prometheuses", "servicemonitors", "scrapeconfigs", "prometheusrules"];
            for crd in crds.map(|name| format!("crd/{name}.monitoring.coreos.com")) {
                // kubectl gives up at once while the conditions are null, as the API server creates them.
                until(&crd, PATIENCE, || {
                    let said = self.try_kubectl(&["wait", "--for=condition=Established", &crd, "--timeout=180s"], "");
                    if said.good() { Ok(()) } else { Err(said.stderr) }
                });
            }
            self.apply(&others.join("\n---\n"));
            let image = "  replicas: 1\n  image: localhost/prometheus:e2e\n  version: v3.15.0\n";
            manifests = manifests.replace("  replicas: 1\n", image);
            self.rolled_out(OPERATOR, "prometheus-operator");
        }
        self.apply(&manifests);
        self.kubectl(&["-n", MONITORING, "wait", "--for=condition=Available", "prometheus/e2e", "--timeout=180s"]);
    }

    /// A Prometheus that remembers nothing.
    pub(crate) fn restart_prometheus(&self) {
        self.kubectl(&["-n", MONITORING, "delete", "pod", "prometheus-e2e-0"]);
        until("Prometheus", Duration::from_secs(240), || self.query("up"));
    }

    /// Whether processes of the cluster may be killed.
    pub(crate) fn is_ours(&self) -> bool {
        self.node.is_some()
    }

    /// Runs kubectl, which must succeed; what it printed.
    pub(crate) fn kubectl(&self, arguments: &[&str]) -> String {
        let said = self.try_kubectl(arguments, "");
        assert!(said.good(), "kubectl {}: {}", arguments.join(" "), said.stderr);
        said.stdout
    }

    /// Runs kubectl with an input.
    pub(crate) fn try_kubectl(&self, arguments: &[&str], input: &str) -> Said {
        said_to(Command::new(&self.kubectl).args(arguments), input, PATIENCE)
    }

    /// What a pod logs from now on, on the standard output of the running kubectl: of much, `logs` would show only the last.
    pub(crate) fn follow(&self, namespace: &str, pod: &str) -> Running {
        let mut command = Command::new(&self.kubectl);
        command.args(["-n", namespace, "logs", "--follow", "--tail=0", pod]);
        Running::spawn(command)
    }

    /// Applies manifests as a user does.
    pub(crate) fn apply(&self, manifests: &str) {
        let said = self.try_kubectl(&["apply", "--server-side", "-f", "-"], manifests);
        assert!(said.good(), "{}", said.stderr);
    }

    /// Applies a file of the checkout.
    pub(crate) fn apply_file(&self, path: &str) {
        self.apply_ours(read(path));
    }

    /// Applies manifests whose pods run our image.
    pub(crate) fn apply_ours(&self, mut manifests: String) {
        if let Some(image) = &self.image {
            let of_chart = format!("ghcr.io/scrapetarget/scrapetarget-exporter:{}", env!("CARGO_PKG_VERSION"));
            let Image { registry, repository, tag } = image;
            manifests = manifests.replace(&of_chart, &format!("{registry}/{repository}:{tag}"));
        }
        self.apply(&manifests);
    }

    /// Runs `helm` on our release with the chart of this checkout; what it printed.
    pub(crate) fn helm(&self, verb: &str, values: &[&str]) -> String {
        self.helm_with(verb, &root().join("charts/scrapetarget-exporter"), values)
    }

    /// Runs `helm` on our release with another chart.
    pub(crate) fn helm_with(&self, verb: &str, chart: &Path, values: &[&str]) -> String {
        let mut command = Command::new(&self.helm);
        command.args([verb, RELEASE, "--namespace", NAMESPACE]);
        if matches!(verb, "install" | "upgrade") {
            command.arg(chart).args(["--wait", "--timeout", "3m"]);
            if let Some(Image { registry, repository, tag }) = &self.image {
                let parts = [("registry", registry), ("repository", repository), ("tag", tag)];
                command.args(parts.map(|(name, value)| format!("--set-string=image.{name}={value}")));
            }
        }
        let said = said_to(command.args(values), "", PATIENCE);
        assert!(said.good(), "helm {verb}: {}\n{}", said.stdout, said.stderr);
        said.stdout
    }

    /// Runs `helm` as it stands there; what it printed.
    pub(crate) fn plain_helm(&self, arguments: &[&str]) -> String {
        let said = said_to(Command::new(&self.helm).args(arguments), "", PATIENCE);
        assert!(said.good(), "helm {}: {}\n{}", arguments.join(" "), said.stdout, said.stderr);
        said.stdout
    }

    /// Tells containerd of our node that a registry is reached without TLS.
    pub(crate) fn registry_is_plain(&self, registry: &str) {
        let folder = self.node.as_ref().unwrap().join("registries").join(registry);
        std::fs::create_dir_all(&folder).unwrap();
        let hosts = format!(
            "server = \"http://{registry}\"\n\n[host.\"http://{registry}\"]\ncapabilities = [\"pull\", \"resolve\"]\n"
        );
        std::fs::write(folder.join("hosts.toml"), hosts).unwrap();
    }

    /// Waits until every pod of a Deployment is as declared.
    pub(crate) fn rolled_out(&self, namespace: &str, name: &str) {
        self.kubectl(&["-n", namespace, "rollout", "status", &format!("deployment/{name}"), "--timeout=180s"]);
    }

    /// One field, by kubectl's `JSONPath`; empty where there is none.
    pub(crate) fn field(&self, namespace: &str, object: &str, path: &str) -> String {
        let path = format!("jsonpath={path}");
        self.kubectl(&["-n", namespace, "get", object, "--ignore-not-found", "-o", &path])
    }

    /// The names of all objects of a kind, with their namespaces, as `namespace/name`.
    pub(crate) fn names(&self, kind: &str) -> Vec<String> {
        let path = r#"jsonpath={range .items[*]}{.metadata.namespace}/{.metadata.name}{"\n"}{end}"#;
        self.kubectl(&["get", kind, "-A", "-o", path]).lines().map(ToOwned::to_owned).collect()
    }

    /// The pod that holds the Lease.
    pub(crate) fn leader(&self) -> String {
        self.field(NAMESPACE, &format!("lease/{RELEASE}"), "{.spec.holderIdentity}")
    }

    /// The log of every pod of ours, those that have ended in between included.
    pub(crate) fn logs(&self) -> String {
        let selector = format!("app.kubernetes.io/name={RELEASE}");
        self.try_kubectl(&["-n", NAMESPACE, "logs", "-l", &selector, "--prefix", "--tail=400"], "").stdout
    }

    /// The answer to a GET at the API server.
    pub(crate) fn get(&self, path: &str) -> Result<String, String> {
        let request = axum::http::Request::get(path).body(Vec::new()).map_err(|error| error.to_string())?;
        let asked = async { tokio::time::timeout(Duration::from_secs(15), self.client.request_text(request)).await };
        self.runtime.block_on(asked).map_err(|late| late.to_string())?.map_err(|error| error.to_string())
    }

    /// The same as JSON.
    pub(crate) fn json(&self, path: &str) -> Result<Value, String> {
        serde_json::from_str(&self.get(path)?).map_err(|error| error.to_string())
    }

    /// A client, and the runtime it belongs to.
    pub(crate) fn client(&self) -> (&Runtime, &Client) {
        (&self.runtime, &self.client)
    }

    /// Kills the API server; nobody answers on its port any more.
    pub(crate) fn kill_api_server(&self) {
        self.kill("kube-apiserver");
    }

    /// Starts it again, and waits until it is ready. The scheduler starts anew as well, as one does that has lost its Lease: it would
    /// not see that a Pod took the place of another of the same name while it could not watch.
    pub(crate) fn start_api_server(&self) {
        self.start("apiserver.sh");
        until("API server", Duration::from_secs(180), || self.get("/readyz"));
        self.kill("kube-scheduler");
        self.start("scheduler.sh");
    }

    /// Kills a program of our node.
    fn kill(&self, program: &str) {
        let folder = self.node.as_ref().unwrap().display().to_string();
        let ours = processes(|command| command.contains(&format!("/{program}\0")) && command.contains(&folder));
        assert_eq!(ours.len(), 1, "{program}: {ours:?}");
        signal(ours[0], "KILL");
    }

    /// Starts a program of our node by the script that says how.
    fn start(&self, script: &str) {
        let script = self.node.as_ref().unwrap().join(script);
        let started =
            Command::new("setsid").args(["--fork", "bash"]).arg(script).stdin(Stdio::null()).status().unwrap();
        assert!(started.success());
    }

    /// Sends a signal to the exporter in a pod.
    pub(crate) fn signal(&self, name: &str, pod: &str) {
        self.signal_to("run", name, NAMESPACE, pod);
    }

    /// Sends a signal to our program in a pod, which runs this command.
    pub(crate) fn signal_to(&self, command: &str, name: &str, namespace: &str, pod: &str) {
        self.signal_in_pod(&format!("/scrapetarget-exporter\0{command}\0"), name, namespace, pod);
    }

    /// Sends a signal to the one process in a pod whose command line, each word of which ends in a zero, has these words.
    pub(crate) fn signal_in_pod(&self, words: &str, name: &str, namespace: &str, pod: &str) {
        let uid = self.field(namespace, &format!("pod/{pod}"), "{.metadata.uid}");
        let alike = processes(|command| command.contains(words));
        let in_pod =
            |id: &&u32| std::fs::read_to_string(format!("/proc/{id}/cgroup")).is_ok_and(|groups| groups.contains(&uid));
        let found: Vec<&u32> = alike.iter().filter(in_pod).collect();
        assert_eq!(found.len(), 1, "{alike:?}");
        signal(*found[0], name);
    }

    /// Prints all that helps to understand a failure.
    pub(crate) fn tell_all(&self) {
        for arguments in [
            vec!["get", "pods", "-A", "-o", "wide"],
            vec!["get", "scrapetargets", "-A", "-o", "wide"],
            vec!["get", "servicemonitors,scrapeconfigs,leases,endpoints", "-A"],
            vec!["get", "events", "-A", "--sort-by=.lastTimestamp"],
        ] {
            let said = self.try_kubectl(&arguments, "");
            let lines: Vec<&str> = said.stdout.lines().collect();
            eprintln!("--- kubectl {}\n{}", arguments.join(" "), lines[lines.len().saturating_sub(60)..].join("\n"));
        }
        eprintln!("--- the exporter's log\n{}", self.logs());
    }

    /// Removes what the story has made: `is_free` has said that nothing of it was there before. A node that was made for it goes away by
    /// itself.
    pub(crate) fn clean_up(&self) {
        if self.is_ours() {
            return;
        }
        let mut command = Command::new(&self.helm);
        command.args(["uninstall", RELEASE, "--namespace", NAMESPACE, "--ignore-not-found", "--wait"]);
        said_to(&mut command, "", PATIENCE);
        self.try_kubectl(&["delete", CRD, "--ignore-not-found"], "");
        for manifests in [ADMISSION, "tests/e2e/manifests/prometheus.yaml", media::MANIFESTS, tokens::MANIFESTS] {
            self.try_kubectl(&["delete", "-f", "-", "--ignore-not-found"], &read(manifests));
        }
        for namespace in NAMESPACES {
            self.try_kubectl(&["delete", "namespace", namespace, "--ignore-not-found"], "");
        }
    }
}

/// This very test, on a cluster where our release and its targets are.
pub(crate) fn in_use_is_refused(cluster: &Cluster) {
    let objects = || cluster.kubectl(&["get", "namespaces,crds,scrapetargets,deployments", "-A", "-o", "name"]);
    let before = objects();
    let mut again = Command::new(std::env::current_exe().unwrap());
    again.env_remove("E2E_NODE").env("E2E_IMAGE", "registry.example.com/exporter:1");
    let said = said_to(&mut again, "", PATIENCE);
    assert!(!said.good() && said.stderr.contains("/scrapetargets.scrapetarget.dev"), "{}{}", said.stdout, said.stderr);
    assert_eq!(objects(), before);
    println!("   {}", said.stderr.trim_end());
}

/// The Operator's manifests with the images of this node, in our namespace.
fn of_this_node(bundle: &str) -> String {
    let line = |line: &str| {
        let line = line.replace("namespace: default", &format!("namespace: {OPERATOR}"));
        match line.split_once("quay.io/prometheus-operator/") {
            Some((before, image)) => format!("{before}localhost/{}:e2e", image.split([':', '@']).next().unwrap()),
            None => line,
        }
    };
    bundle.lines().map(line).collect::<Vec<_>>().join("\n")
}

pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A file of the checkout.
pub(crate) fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The processes with such a command line, whose words end in a zero.
fn processes(wanted: impl Fn(&str) -> bool) -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").unwrap();
    let ids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    ids.filter(|id| std::fs::read_to_string(format!("/proc/{id}/cmdline")).is_ok_and(|line| wanted(&line))).collect()
}
