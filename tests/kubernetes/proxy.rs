//! The API server behind a proxy: at a name that only the proxy knows.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use crate::support::cluster::Cluster;
use crate::support::program::{Running, command, said};
use crate::support::proxy::Proxy;

/// The API server's name. No name server has it.
const NAME: &str = "api.proxied.test";

/// A kubeconfig of one who may do everything, with more fields of its cluster. Returns also what the proxy is asked for.
fn kubeconfig(cluster: &Cluster, folder: &TempDir, more: &str) -> (PathBuf, String) {
    let text = fs::read_to_string(cluster.admin_kubeconfig()).unwrap();
    let here = cluster.url();
    let server = here.replace("127.0.0.1", NAME);
    let text = text.replace(&format!("'{here}'"), &format!("'{server}', tls-server-name: localhost{more}"));
    let file = folder.path().join("kubeconfig");
    fs::write(&file, text).unwrap();
    (file, server.trim_start_matches("https://").to_owned())
}

/// A command without the proxies of whoever runs the tests.
fn with(kubeconfig: &PathBuf, arguments: &[&str]) -> Command {
    let mut command = command(arguments);
    for name in ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "NO_PROXY", "no_proxy"] {
        command.env_remove(name);
    }
    command.env("KUBECONFIG", kubeconfig);
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn run_check_and_cleanup_reach_the_api_server_by_the_proxy_of_the_environment() {
    let cluster = Cluster::shared();
    cluster.install_crd();
    let namespace = cluster.namespace("proxied");
    let folder = TempDir::new().unwrap();
    let (file, server) = kubeconfig(cluster, &folder, "");
    let proxy = Proxy::start(Some("Basic YW5uOnBAc3M="));
    let variable = format!("http://ann:p%40ss@{}", proxy.address);

    let mut run = with(&file, &["run", "--listen-address", "127.0.0.1:0"]);
    run.args(["--namespace", &namespace, "--watch-namespace", &namespace, "--shutdown-delay", "0s"]);
    // Entries that mean nothing are passed over; none of the others is the API server's.
    run.env("HTTPS_PROXY", &variable).env("NO_PROXY", "localhost,,10.0.0.0/8,.other.test,");
    let running = Running::listening(run);
    running.until_status("/-/ready", 200).await;
    let log = running.log();
    assert!(log.contains("reached through a proxy") && log.contains(&proxy.address), "{log}");
    assert!(!log.contains("p%40ss") && !log.contains("ann"), "{log}");
    drop(running);

    let target = format!(
        "apiVersion: scrapetarget.dev/v1alpha1\nkind: ScrapeTarget\nmetadata: {{ name: a, namespace: {namespace} }}\n\
         spec: {{ type: Sora, url: 'http://sora:3000/' }}\n"
    );
    fs::write(folder.path().join("a.yaml"), target).unwrap();
    let mut check = with(&file, &["check", "--server-side", "a.yaml"]);
    let checked = said(check.current_dir(folder.path()).env("https_proxy", &variable));
    assert_eq!(checked.code, Some(0), "{}{}", checked.stdout, checked.stderr);
    assert!(checked.stdout.ends_with("the API server would accept 1 of 1 targets\n"), "{}", checked.stdout);

    let mut cleanup = with(&file, &["cleanup", "--namespace", &namespace, "--watch-namespace", &namespace]);
    let cleaned = said(cleanup.args(["--release-name", &namespace]).env("HTTPS_PROXY", &variable));
    assert_eq!(cleaned.code, Some(0), "{}{}", cleaned.stdout, cleaned.stderr);

    let asked = proxy.asked();
    assert!(asked.len() >= 3 && asked.iter().all(|authority| *authority == server), "{asked:?}");
}

#[test]
fn a_proxy_of_the_kubeconfig_is_for_its_cluster_whatever_no_proxy_says() {
    let cluster = Cluster::shared();
    cluster.install_crd();
    let (folder, proxy) = (TempDir::new().unwrap(), Proxy::start(None));
    let (file, server) = kubeconfig(cluster, &folder, &format!(", proxy-url: 'http://{}'", proxy.address));
    let target = "apiVersion: scrapetarget.dev/v1alpha1\nkind: ScrapeTarget\nmetadata: { name: a, namespace: default }\n\
                  spec: { type: Sora, url: 'http://sora:3000/' }\n";
    fs::write(folder.path().join("a.yaml"), target).unwrap();
    let mut check = with(&file, &["check", "--server-side", "a.yaml"]);
    let checked = said(check.current_dir(folder.path()).env("NO_PROXY", "*").env("HTTPS_PROXY", "http://127.0.0.1:1"));
    assert_eq!(checked.code, Some(0), "{}{}", checked.stdout, checked.stderr);
    assert_eq!(proxy.asked(), [server]);
}

/// Runs what follows as in a pod: in a mount namespace of its own, with the files of a service account.
const IN_A_POD: &str = r#"
mount -t tmpfs none /run
account=/run/secrets/kubernetes.io/serviceaccount
mkdir -p "$account"
cp "$0" "$account/ca.crt"
printf default > "$account/namespace"
printf token > "$account/token"
exec "$@"
"#;

#[test]
fn in_a_pod_a_proxy_of_the_environment_leads_to_an_api_server_that_no_proxy_lacks() {
    let cluster = Cluster::shared();
    let (home, proxy) = (TempDir::new().unwrap(), Proxy::start(None));
    let mut cleanup = Command::new("unshare");
    if !fs::read_to_string("/proc/self/status").unwrap().lines().any(|line| line.starts_with("Uid:\t0\t")) {
        cleanup.arg("--map-root-user");
    }
    cleanup.args(["--mount", "--", "sh", "-ec", IN_A_POD]).arg(cluster.ca_file());
    cleanup.arg(command([""; 0]).get_program()).args(["cleanup", "--namespace", "default"]);
    cleanup.env_remove("KUBECONFIG").env("HOME", home.path());
    cleanup.env("KUBERNETES_SERVICE_HOST", "10.96.0.1").env("KUBERNETES_SERVICE_PORT", "443");
    cleanup.env("HTTPS_PROXY", format!("http://{}", proxy.address)).env("NO_PROXY", "localhost,.svc,192.168.0.0/16");
    // Nobody is at this address; what counts is who was asked for the way to it.
    let failed = said(&mut cleanup);
    assert_eq!(failed.code, Some(1), "{}{}", failed.stdout, failed.stderr);
    let asked = proxy.asked();
    assert!(
        !asked.is_empty() && asked.iter().all(|authority| authority == "10.96.0.1:443"),
        "{asked:?}: {}",
        failed.stderr
    );
}

#[test]
fn a_proxy_that_wants_a_password_and_one_that_is_not_supported_are_told_in_one_line() {
    let cluster = Cluster::shared();
    let (folder, proxy) = (TempDir::new().unwrap(), Proxy::start(Some("Basic x")));
    let (file, _) = kubeconfig(cluster, &folder, "");
    let mut cleanup = with(&file, &["cleanup", "--namespace", "default"]);
    let refused = said(cleanup.env("HTTPS_PROXY", format!("http://{}", proxy.address)));
    assert_eq!(refused.code, Some(1));
    assert!(refused.stderr.contains("it requires a user and a password"), "{}", refused.stderr);

    let (file, _) = kubeconfig(cluster, &folder, ", proxy-url: 'socks5://127.0.0.1:1080'");
    for arguments in [&["cleanup"][..], &["run", "--listen-address", "127.0.0.1:0"]] {
        let refused = said(&mut with(&file, arguments));
        assert_eq!(refused.code, Some(2), "{}", refused.stderr);
        let line = refused.stderr.trim_end();
        assert!(line.starts_with("error: ") && !line.contains('\n') && !line.contains("feature"), "{line}");
        assert!(line.contains("proxy-url names a proxy with socks5://, but only http:// is supported"), "{line}");
    }
}
