//! The release as users get it: image and chart are pushed to a registry by the steps of a release, installed from there, and run.

use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::cluster::{CRD, Cluster, RELEASE, read, root};
use crate::support::program::{Running, said_to};
use crate::support::tools;
use crate::{figure, until};

const NAMESPACE: &str = "from-registry";

const VERSION: &str = env!("CARGO_PKG_VERSION");

const PATIENCE: Duration = Duration::from_secs(180);

pub(crate) fn is_installed_from(cluster: &Cluster) {
    if !cluster.is_ours() {
        println!("   left out: this cluster does not reach a registry on this machine's loopback");
        return;
    }
    let start = Instant::now();
    let folder = TempDir::new().unwrap();
    let (server, registry) = registry(folder.path());
    cluster.registry_is_plain(&registry);
    let steps = steps(folder.path());
    let archive = std::env::var("IMAGE").unwrap();
    let repository = "scrapetarget/scrapetarget-exporter";
    let image = step(&root().join("deploy/image/push.sh"), &[&format!("{registry}/{repository}:candidate"), &archive]);
    let (_, digest) = image.split_once('@').unwrap();
    let packages = folder.path().join("release").display().to_string();
    step(&steps.join("chart.sh"), &["package", VERSION, &packages]);
    let package = format!("{packages}/{RELEASE}-{VERSION}.tgz");
    let chart = step(&steps.join("chart.sh"), &["push", &package, &format!("oci://{registry}/scrapetarget/charts")]);
    figure("image and chart in a registry", start.elapsed());
    println!("   {image}\n   {chart}");

    // The release before this one has left it behind, and it belongs to that.
    cluster.kubectl(&["delete", CRD, "--timeout=180s"]);
    let start = Instant::now();
    let said = cluster.plain_helm(&[
        "install",
        RELEASE,
        &format!("oci://{registry}/scrapetarget/charts/{RELEASE}"),
        "--plain-http",
        &format!("--version={VERSION}"),
        &format!("--namespace={NAMESPACE}"),
        "--create-namespace",
        &format!("--set-string=image.registry={registry},image.repository={repository},image.digest={digest}"),
        "--set=image.pullPolicy=Always",
        "--wait",
        "--timeout=3m",
    ]);
    figure("helm install oci://… --wait", start.elapsed());
    assert!(said.contains("STATUS: deployed") && said.contains(chart.split_once('@').unwrap().1), "{said}");
    runs(cluster, &image);
    // Nothing else has asked for it: the pod has it from there.
    let asked = format!("\"GET /v2/{repository}/manifests/{digest} ");
    let log = server.stdout();
    assert!(log.lines().any(|line| line.contains(&asked) && line.contains("containerd/")), "{log}");

    let start = Instant::now();
    let said = cluster.plain_helm(&["test", RELEASE, &format!("--namespace={NAMESPACE}")]);
    assert!(said.contains("Phase:          Succeeded"), "{said}");
    figure("helm test", start.elapsed());
    cluster.plain_helm(&["uninstall", RELEASE, &format!("--namespace={NAMESPACE}"), "--wait", "--timeout=3m"]);
    cluster.kubectl(&["delete", "namespace", NAMESPACE, "--wait=false"]);
}

/// The pod runs the image with this digest, which it has pulled, and says which version it is.
fn runs(cluster: &Cluster, image: &str) {
    let selector = format!("app.kubernetes.io/name={RELEASE}");
    let path = "jsonpath={range .items[*]}{.metadata.name} {.status.containerStatuses[*].imageID}{end}";
    let pod = cluster.kubectl(&["-n", NAMESPACE, "get", "pods", "-l", &selector, "-o", path]);
    let (name, id) = pod.split_once(' ').unwrap();
    assert_eq!(id, image);
    until("event of the pull", PATIENCE, || {
        let pulled = "jsonpath={range .items[?(@.reason=='Pulled')]}{.involvedObject.name}: {.message}{\"\\n\"}{end}";
        let events = cluster.kubectl(&["-n", NAMESPACE, "get", "events", "-o", pulled]);
        let wanted = format!("{name}: Successfully pulled image \"{image}\"");
        if events.lines().any(|line| line.starts_with(&wanted)) { Ok(()) } else { Err(events) }
    });
    let metrics = cluster.get(&format!("/api/v1/namespaces/{NAMESPACE}/pods/{name}:9850/proxy/metrics")).unwrap();
    let build = metrics.lines().find(|line| line.starts_with("scrapetarget_build_info{"));
    assert!(build.is_some_and(|line| line.contains(&format!("version=\"{VERSION}\""))), "{build:?}");
}

/// A registry on loopback, and its address.
fn registry(folder: &Path) -> (Running, String) {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let address = format!("127.0.0.1:{port}");
    let config = format!(
        "version: 0.1\nlog: {{ level: error }}\nstorage: {{ filesystem: {{ rootdirectory: {} }} }}\nhttp: {{ addr: \"{address}\" }}\n",
        folder.join("registry").display()
    );
    let path = folder.join("registry.yml");
    std::fs::write(&path, config).unwrap();
    let mut command = Command::new(tools::registry());
    command.arg("serve").arg(path).env("OTEL_TRACES_EXPORTER", "none");
    let mut server = Running::spawn(command);
    server.wait("its port", |_| std::net::TcpStream::connect(&address).ok());
    (server, address)
}

/// The folder of the steps, in a checkout whose changelog has the version, as that of a release has.
fn steps(folder: &Path) -> std::path::PathBuf {
    let checkout = folder.join("checkout");
    std::fs::create_dir(&checkout).unwrap();
    let mut copy = Command::new("cp");
    copy.args(["-R", "--parents", "charts", "deploy/release", "LICENSE"]).arg(&checkout).current_dir(root());
    assert!(copy.status().unwrap().success());
    let mut changelog = read("CHANGELOG.md");
    if !changelog.contains(&format!("\n## [{VERSION}]")) {
        let heading = "## [Unreleased]\n";
        changelog = changelog.replacen(heading, &format!("{heading}\n## [{VERSION}] - 2026-01-01\n"), 1);
    }
    std::fs::write(checkout.join("CHANGELOG.md"), changelog).unwrap();
    checkout.join("deploy/release")
}

/// The last line that a step prints.
fn step(program: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new(program);
    command.args(arguments).env("PLAIN_HTTP", "1").env("HELM", tools::helm());
    let said = said_to(&mut command, "", PATIENCE);
    assert!(said.good(), "{command:?}: {}{}", said.stdout, said.stderr);
    said.stdout.lines().last().unwrap_or_default().to_owned()
}
