//! Several replicas, and what each way to lose the leader, or the API server, costs in scrapes.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::cluster::{Cluster, NAMESPACE, RELEASE, root};
use crate::{changes, targets};
use crate::{figure, until};

const PATIENCE: Duration = Duration::from_secs(90);

pub(crate) fn are_added_by_an_upgrade(cluster: &Cluster) {
    let chart = TempDir::new().unwrap();
    with_a_newer_crd(chart.path());
    let watched = cluster.watch_scrapes();
    let before = cluster.leader();
    let start = Instant::now();
    // The annotation makes new pods, so the leader is replaced as well.
    cluster.helm_with(
        "upgrade",
        &chart.path().join(RELEASE),
        &["--set=replicas=3", "--set=podAnnotations.upgraded=yes"],
    );
    figure("helm upgrade --wait", start.elapsed());
    until_led_by_another(cluster, &before);
    watched.go_on();
    let worst = watched.end();
    assert!(worst.lost <= 1, "{worst:?}");

    let ready = cluster.field(NAMESPACE, &format!("deployment/{RELEASE}"), "{.status.readyReplicas}");
    assert_eq!(ready, "3");
    // The newer CRD's field is known, and what is stored by it disturbs nobody.
    let patch = r#"{"spec": {"runbook": "https://runbooks.example.com/rooms"}}"#;
    cluster.kubectl(&["-n", "simulated-webrtc", "patch", "st", "rooms", "--type=merge", "-p", patch]);
    assert_ne!(cluster.field("simulated-webrtc", "st/rooms", "{.spec.runbook}"), "");
    // One Endpoints with one address, whatever number of pods.
    let endpoints = cluster.field(NAMESPACE, &format!("endpoints/{RELEASE}-probe"), "{.subsets[*].addresses[*].ip}");
    assert_eq!(endpoints.split_whitespace().count(), 1, "{endpoints}");
    cluster.until_up(&targets::names(), PATIENCE);
}

/// A copy of the chart whose CRD has one more field, as a later version may.
fn with_a_newer_crd(folder: &Path) {
    let copied = Command::new("cp").arg("-r").arg(root().join("charts").join(RELEASE)).arg(folder).status().unwrap();
    assert!(copied.success());
    let path = folder.join(RELEASE).join("files/crds/scrapetargets.yaml");
    let crd = std::fs::read_to_string(&path).unwrap();
    let field = "              url:\n";
    assert_eq!(crd.matches(field).count(), 1);
    let newer = crd.replace(field, &format!("              runbook:\n                type: string\n{field}"));
    std::fs::write(path, newer).unwrap();
}

pub(crate) fn leader_is_deleted(cluster: &Cluster) {
    let watched = cluster.watch_scrapes();
    let leader = cluster.leader();
    cluster.kubectl(&["-n", NAMESPACE, "delete", "pod", &leader, "--wait=false"]);
    until_led_by_another(cluster, &leader);
    watched.go_on();
    let worst = watched.end();
    assert!(worst.lost <= 1, "{worst:?}");
    cluster.rolled_out(NAMESPACE, RELEASE);
}

pub(crate) fn leader_is_killed(cluster: &Cluster) {
    let watched = cluster.watch_scrapes();
    let leader = cluster.leader();
    if cluster.is_ours() {
        cluster.signal("KILL", &leader);
    } else {
        cluster.kubectl(&["-n", NAMESPACE, "delete", "pod", &leader, "--force", "--grace-period=0"]);
    }
    watched.go_on();
    let worst = watched.end();
    assert!(worst.gap <= Duration::from_secs(30), "{worst:?}");
    cluster.rolled_out(NAMESPACE, RELEASE);
}

pub(crate) fn leader_is_frozen(cluster: &Cluster) {
    if !cluster.is_ours() {
        println!("   left out: this cluster's processes are not ours to stop");
        return;
    }
    let watched = cluster.watch_scrapes();
    let leader = cluster.leader();
    cluster.signal("STOP", &leader);
    until_led_by_another(cluster, &leader);
    watched.go_on();
    let worst = watched.end();
    assert!(worst.gap <= Duration::from_secs(30), "{worst:?}");
    // When it goes on it finds that another leads.
    cluster.signal("CONT", &leader);
    std::thread::sleep(Duration::from_secs(10));
    assert_ne!(cluster.leader(), leader);
    cluster.until_up(&targets::names(), PATIENCE);
    cluster.rolled_out(NAMESPACE, RELEASE);
}

pub(crate) fn api_server_is_down(cluster: &Cluster) {
    if !cluster.is_ours() {
        println!("   left out: this cluster's API server is not ours to stop");
        return;
    }
    let watched = cluster.watch_scrapes();
    cluster.kill_api_server();
    std::thread::sleep(Duration::from_secs(120));
    cluster.start_api_server();
    watched.go_on();
    let worst = watched.end();
    assert!(worst.lost <= 1, "{worst:?}");
    // Nobody has to restart anything: what is declared now is followed, and its status is written.
    changes::url_is_followed(cluster);
}

fn until_led_by_another(cluster: &Cluster, before: &str) {
    let ((), time) = until("other leader", PATIENCE, || {
        let leader = cluster.leader();
        if leader.is_empty() || leader == before { Err(format!("{leader:?} leads")) } else { Ok(()) }
    });
    figure("until another leads", time);
}
