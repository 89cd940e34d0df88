//! The Helm chart as Helm renders it.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use scrapetarget_exporter::file::documents;
use serde_json::Value;
use tempfile::TempDir;

use super::program::{Said, said};
use super::tools;

/// The name of the release that tests render, and so of its objects.
pub const RELEASE: &str = "scrapetarget-exporter";

/// What a cluster with our CRD and those of the Prometheus Operator serves.
pub const SERVED: [&str; 4] = [
    "--api-versions=scrapetarget.dev/v1alpha1/ScrapeTarget",
    "--api-versions=monitoring.coreos.com/v1/ServiceMonitor",
    "--api-versions=monitoring.coreos.com/v1/Prometheus",
    "--api-versions=monitoring.coreos.com/v1alpha1/ScrapeConfig",
];

/// The folder of the chart.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("charts/scrapetarget-exporter")
}

/// A file of the chart.
pub fn read(name: &str) -> String {
    let path = folder().join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The values that `helm lint` and every rendering are tried with: a name and a file for each.
pub fn cases() -> Vec<(String, String)> {
    let mut cases: Vec<(String, String)> = fs::read_dir(folder().join("ci"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| {
            let name = path.file_name().unwrap().to_str().unwrap();
            let name = name.strip_suffix("-values.yaml").unwrap_or_else(|| panic!("{name} must end in -values.yaml"));
            (name.to_owned(), path.to_str().unwrap().to_owned())
        })
        .collect();
    cases.sort();
    assert!(cases.len() > 10, "{cases:?}");
    cases
}

/// Runs Helm without the settings of whoever runs the tests.
pub fn helm<A: AsRef<std::ffi::OsStr>>(arguments: impl IntoIterator<Item = A>) -> Said {
    let home = TempDir::new().unwrap();
    let mut command = Command::new(tools::helm());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("HELM_") {
            command.env_remove(name);
        }
    }
    said(command.args(arguments).env("HOME", home.path()).env_remove("KUBECONFIG"))
}

/// What `helm template` prints with further arguments: manifests, or what Helm says of the values.
pub fn template<A: AsRef<str>>(arguments: &[A]) -> Result<String, String> {
    template_as(RELEASE, arguments)
}

/// The same for a release of another name.
pub fn template_as<A: AsRef<str>>(release: &str, arguments: &[A]) -> Result<String, String> {
    let chart = folder();
    let fixed = ["template", release, chart.to_str().unwrap(), "--namespace=prometheus", "--kube-version=1.36"];
    let said = helm(fixed.into_iter().chain(arguments.iter().map(AsRef::as_ref)));
    if said.code == Some(0) { Ok(said.stdout) } else { Err(said.stderr) }
}

/// The manifests that `helm template` gives with further arguments.
pub fn render<A: AsRef<str>>(arguments: &[A]) -> Vec<Value> {
    let text = template(arguments).unwrap_or_else(|error| panic!("{error}"));
    parse(&text)
}

/// The manifests with the values of a file, in a cluster that serves all kinds. Each file is rendered once.
pub fn render_case(file: &str) -> Vec<Value> {
    static RENDERED: Mutex<BTreeMap<String, Vec<Value>>> = Mutex::new(BTreeMap::new());
    let mut rendered = RENDERED.lock().unwrap_or_else(PoisonError::into_inner);
    rendered.entry(file.to_owned()).or_insert_with(|| render(&[&["-f", file][..], &SERVED].concat())).clone()
}

/// The manifests of a text.
pub fn parse(text: &str) -> Vec<Value> {
    let read = |document: scrapetarget_exporter::file::YamlDocument| {
        document.value().unwrap_or_else(|error| panic!("line {}: {}\n{text}", error.line, error.message))
    };
    documents(text).map(read).collect()
}

/// The manifests of a kind.
pub fn of_kind<'m>(manifests: &'m [Value], kind: &str) -> Vec<&'m Value> {
    manifests.iter().filter(|manifest| manifest["kind"] == kind).collect()
}

/// The one manifest of a kind with this name.
pub fn one<'m>(manifests: &'m [Value], kind: &str, name: &str) -> &'m Value {
    let found: Vec<_> =
        of_kind(manifests, kind).into_iter().filter(|manifest| manifest["metadata"]["name"] == name).collect();
    assert_eq!(found.len(), 1, "{kind} {name}");
    found[0]
}

/// Every Pod: those that are manifests, and the templates of Deployments and Jobs, each with the name of its owner and as a Pod.
pub fn pods(manifests: &[Value]) -> Vec<(String, Value)> {
    manifests
        .iter()
        .filter(|manifest| matches!(manifest["kind"].as_str(), Some("Pod" | "Deployment" | "Job")))
        .map(|manifest| {
            let name = manifest["metadata"]["name"].as_str().unwrap().to_owned();
            let mut pod =
                if manifest["kind"] == "Pod" { manifest.clone() } else { manifest["spec"]["template"].clone() };
            pod["apiVersion"] = "v1".into();
            pod["kind"] = "Pod".into();
            pod["metadata"]["name"] = name.as_str().into();
            pod["metadata"]["namespace"] = manifest["metadata"]["namespace"].clone();
            (name, pod)
        })
        .collect()
}

/// The arguments of a container as the kubelet gives them to the process, but for variables.
pub fn arguments(container: &Value) -> Vec<String> {
    let texts = container["args"].as_array().unwrap_or_else(|| panic!("no arguments: {container}"));
    texts.iter().map(|text| text.as_str().unwrap().replace("$$", "$")).collect()
}
