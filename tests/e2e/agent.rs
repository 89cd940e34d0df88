//! The agent in a pod of an application on mediasoup, by the recipe of its README. Only the port of the Service is there before.

use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::cluster::{Cluster, read, root};
use crate::support::program::said_to;
use crate::support::tools;
use crate::{figure, targets, until};

const FOLDER: &str = "deploy/mediasoup-agent";

const PATIENCE: Duration = Duration::from_secs(180);

/// The target of the README.
pub(crate) const TARGET: &str = "webrtc/rooms";

pub(crate) fn in_another_pod(cluster: &Cluster) {
    if !cluster.is_ours() {
        println!("   left out: this cluster has no image of an application on mediasoup");
        return;
    }
    cluster.apply(&read("tests/e2e/manifests/rooms.yaml"));
    cluster.rolled_out("webrtc", "rooms");

    let readme = read(&format!("{FOLDER}/README.md"));
    for command in blocks(&readme, "sh").filter(|block| block.starts_with("kubectl ")) {
        in_the_folder_of_the_agent(command);
    }
    let [pod, container, target]: [&str; 3] = blocks(&readme, "yaml").collect::<Vec<_>>().try_into().unwrap();
    let (pod, mut container) = (yaml(pod), yaml(container));
    container["name"] = json!("rooms");
    for spec in [pod, json!({ "containers": [container] })] {
        let patch = json!({ "spec": { "template": { "spec": spec } } }).to_string();
        cluster.kubectl(&["-n", "webrtc", "patch", "deployment/rooms", "-p", &patch]);
    }
    cluster.rolled_out("webrtc", "rooms");
    until("line of the agent", PATIENCE, || {
        let log = cluster.kubectl(&["-n", "webrtc", "logs", "deployment/rooms"]);
        if log.contains("info: serves http://0.0.0.0:9851/stats") { Ok(()) } else { Err(log) }
    });
    let refused =
        cluster.try_kubectl(&["get", "--raw", "/api/v1/namespaces/webrtc/services/rooms:9851/proxy/stats"], "");
    assert!(refused.stderr.contains("provide credentials"), "{}{}", refused.stdout, refused.stderr);

    cluster.apply(target);
    figure("from apply to the first sample", cluster.until_up(&[&targets::names()[..], &[TARGET]].concat(), PATIENCE));
    let value = |family: &str| cluster.number(&format!(r#"sum({family}{{instance="{TARGET}"}})"#)).unwrap();
    for (family, wanted) in [
        ("mediasoup_workers", 1.0),
        ("mediasoup_transports", 4.0),
        ("mediasoup_producers", 1.0),
        ("mediasoup_consumers", 3.0),
        ("mediasoup_snapshot_object_errors", 0.0),
    ] {
        assert_eq!(value(family), wanted, "{family}");
    }
    for family in ["mediasoup_producers_received_bytes_total", "mediasoup_consumers_sent_bytes_total"] {
        let before = value(family);
        until(family, PATIENCE, || match value(family) {
            now if now > before => Ok(()),
            now => Err(format!("{before} is {now} still")),
        });
    }
}

/// The blocks of code in a language.
fn blocks<'t>(markdown: &'t str, language: &str) -> impl Iterator<Item = &'t str> {
    let first_line = format!("{language}\n");
    markdown.split("```").skip(1).step_by(2).filter_map(move |block| block.strip_prefix(&first_line))
}

fn yaml(text: &str) -> Value {
    serde_saphyr::from_str(text).unwrap()
}

/// Runs a command as a user types it who has the files of the agent.
fn in_the_folder_of_the_agent(command: &str) {
    let tools = tools::kubectl().parent().unwrap().display().to_string();
    let path = format!("{tools}:{}", std::env::var("PATH").unwrap());
    let mut shell = Command::new("sh");
    shell.args(["-ec", command]).current_dir(root().join(FOLDER)).env("PATH", path);
    let said = said_to(&mut shell, "", PATIENCE);
    assert!(said.good(), "{command}: {}", said.stderr);
}
