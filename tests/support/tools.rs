//! Programs of others that judge what we write: the Prometheus project's, a Kubernetes API server with its etcd, and Helm; and servers to probe.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part")]

use std::path::PathBuf;
use std::process::Command;

use super::eventually::PATIENCE;
use super::program::said_to;

/// A tool by the variable that `make` sets, else by its name on the PATH.
fn tool(variable: &str, name: &str) -> PathBuf {
    in_folders(variable, name, &path())
}

/// A part of Kubernetes by the variable that `make` sets, else from `KUBEBUILDER_ASSETS`.
///
/// From the PATH they come only together: a kubectl or an etcd that somebody installed for something else may be of any age.
fn of_kubernetes(variable: &str, name: &str) -> PathBuf {
    let assets = std::env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from);
    let path = path();
    let there = |name: &str| path.iter().any(|folder| folder.join(name).is_file());
    let together = there("kube-apiserver") && there("etcd");
    let folders: Vec<PathBuf> = assets.into_iter().chain(if together { path } else { Vec::new() }).collect();
    in_folders(variable, name, &folders)
}

fn path() -> Vec<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).collect()
}

fn in_folders(variable: &str, name: &str, folders: &[PathBuf]) -> PathBuf {
    let set = std::env::var_os(variable).map(PathBuf::from);
    let found =
        set.clone().into_iter().chain(folders.iter().map(|folder| folder.join(name))).find(|file| file.exists());
    let given = set.map(|set| format!(" ({variable} is {})", set.display())).unwrap_or_default();
    found.unwrap_or_else(|| panic!("{name} is not there{given}: run `make tools`, then `make unit`"))
}

pub fn kube_apiserver() -> PathBuf {
    of_kubernetes("KUBE_APISERVER", "kube-apiserver")
}

pub fn kube_controller_manager() -> PathBuf {
    of_kubernetes("KUBE_CONTROLLER_MANAGER", "kube-controller-manager")
}

pub fn kubectl() -> PathBuf {
    of_kubernetes("KUBECTL", "kubectl")
}

pub fn etcd() -> PathBuf {
    of_kubernetes("ETCD", "etcd")
}

/// A name server.
pub fn coredns() -> PathBuf {
    tool("COREDNS", "coredns")
}

/// The Prometheus Operator's own program.
pub fn prometheus_operator() -> PathBuf {
    tool("PROMETHEUS_OPERATOR", "operator")
}

/// The folder of the Prometheus Operator's CRDs.
pub fn operator_crds() -> PathBuf {
    tool("OPERATOR_CRDS", "operator-crds")
}

/// A folder of other CRDs of which the chart can make objects; see tests/tools/crds.
pub fn crds_of_others() -> PathBuf {
    tool("CRDS_OF_OTHERS", "crds")
}

pub fn prometheus() -> PathBuf {
    tool("PROMETHEUS", "prometheus")
}

pub fn helm() -> PathBuf {
    tool("HELM", "helm")
}

pub fn promtool() -> PathBuf {
    tool("PROMTOOL", "promtool")
}

/// The folder of the expositions with which the parsers of Prometheus are tested.
pub fn expositions() -> PathBuf {
    tool("EXPOSITIONS", "expositions")
}

/// The exporter whose dashboards and alerts must go on working.
pub fn blackbox_exporter() -> PathBuf {
    tool("BLACKBOX_EXPORTER", "blackbox_exporter")
}

pub fn nginx() -> PathBuf {
    tool("NGINX", "nginx")
}

/// A gRPC server with the health service; see tests/tools/health.
pub fn health() -> PathBuf {
    tool("HEALTH", "health")
}

/// A program of a Debian package, by its place there, with the libraries that came with it.
pub fn of_debian(program: &str) -> Command {
    with_libraries(Command::new(file_of_debian(program)))
}

/// The same for one that refuses to be started by root: the user is nobody, who may do with files what the test may. What it shares with
/// other processes goes with it.
pub fn of_debian_as_nobody(program: &str) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--user", "--ipc", "--map-user=65534", "--map-group=65534", "--"]).arg(file_of_debian(program));
    with_libraries(command)
}

fn with_libraries(mut command: Command) -> Command {
    let mut folders = std::fs::read_dir(file_of_debian("usr/lib")).unwrap().map(|entry| entry.unwrap().path());
    let libraries = folders.find(|folder| folder.to_string_lossy().ends_with("-linux-gnu")).unwrap();
    command.env("LD_LIBRARY_PATH", libraries);
    command
}

/// What came in a Debian package, by its place there.
pub fn file_of_debian(path: &str) -> PathBuf {
    in_folders("DEBIAN_PROGRAMS", "the folder of programs from Debian packages", &[]).join(path)
}

/// The exporter of the states of objects in a cluster.
pub fn kube_state_metrics() -> PathBuf {
    tool("KUBE_STATE_METRICS", "kube-state-metrics")
}

/// A TURN server; see tests/tools/pion.
pub fn pion() -> PathBuf {
    tool("PION", "pion")
}

/// Another one, the program of which is for Node.js; see tests/tools/node-turn.
pub fn node_turn() -> PathBuf {
    tool("NODE_TURN", "node-turn").join("server.js")
}

/// Servers that issue tokens, and one that checks them, the program of which is for Node.js; see tests/tools/node-oauth2.
pub fn node_oauth2() -> PathBuf {
    tool("NODE_OAUTH2", "node-oauth2").join("server.mjs")
}

/// A proxy that lets requests with a token pass.
pub fn oauth2_proxy() -> PathBuf {
    tool("OAUTH2_PROXY", "oauth2-proxy")
}

/// A registry of container images and of charts.
pub fn registry() -> PathBuf {
    tool("REGISTRY", "registry")
}

/// What `promtool check metrics` finds in a text; an error if it cannot read it.
pub fn lint(text: &str) -> Result<Vec<String>, String> {
    let mut command = Command::new(promtool());
    let said = said_to(command.args(["check", "metrics"]), text, PATIENCE);
    match said.code {
        Some(0) if said.stderr.is_empty() => Ok(Vec::new()),
        // 3: it could be read, and there are findings.
        Some(3) => Ok(said.stderr.lines().map(ToOwned::to_owned).collect()),
        code => Err(format!("exit code {code:?}: {}", said.stderr)),
    }
}
