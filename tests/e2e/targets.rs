//! Targets are applied, and Prometheus has their series.

use std::time::{Duration, Instant};

use crate::cluster::{Cluster, root};
use crate::prometheus::{INTERVAL, Labels};
use crate::{figure, members, until};

const PATIENCE: Duration = Duration::from_secs(180);

/// The targets of deploy/simulated/targets.yaml, each with a family that its kind has, and its value.
pub(crate) const TARGETS: [(&str, &str, &str); 6] = [
    ("simulated-webrtc/sora-tokyo", "sora_up", "tokyo"),
    ("simulated-webrtc/sora-osaka", "sora_up", "osaka"),
    ("simulated-webrtc/sora-nagoya", "sora_up", "nagoya"),
    ("simulated-webrtc/rooms", "mediasoup_up", ""),
    ("simulated-fiware/orion-city", "orion_up", ""),
    ("simulated-school/edumeet", "mediasoup_up", ""),
];

/// Their names, as in the label `instance`.
pub(crate) fn names() -> Vec<&'static str> {
    TARGETS.iter().map(|(name, ..)| *name).collect()
}

/// The names of all but one.
pub(crate) fn names_but(other: &str) -> Vec<&'static str> {
    names().into_iter().filter(|name| *name != other).collect()
}

/// What the contract lets a series have of discovery.
fn expected(instance: &str, region: &str) -> Labels {
    let (namespace, name) = instance.split_once('/').unwrap();
    let mut labels = vec![
        ("instance", instance),
        ("job", "scrapetarget-exporter-probe"),
        ("namespace", namespace),
        ("target_name", name),
        ("target_namespace", namespace),
    ];
    if !region.is_empty() {
        labels.push(("region", region));
    }
    labels.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// The six targets, from nothing.
pub(crate) fn are_scraped(cluster: &Cluster) {
    let start = Instant::now();
    cluster.apply_file("deploy/simulated/servers.yaml");
    for (namespace, name) in [
        ("simulated-webrtc", "sora"),
        ("simulated-webrtc", "rooms"),
        ("simulated-fiware", "orion"),
        ("simulated-school", "edumeet"),
    ] {
        cluster.rolled_out(namespace, name);
    }
    figure("simulated servers as pods", start.elapsed());

    cluster.apply_file("deploy/simulated/targets.yaml");
    let first = cluster.until_up(&names(), PATIENCE);
    figure("from apply to the first sample of the last of six targets", first);
    series_are_those_of_the_contract(cluster);

    let (table, _) = until("status of all targets", PATIENCE, || {
        let table = cluster.kubectl(&["get", "scrapetargets", "-A"]);
        let up = table.lines().filter(|line| line.split_whitespace().nth(4) == Some("True")).count();
        if up == TARGETS.len() { Ok(table) } else { Err(table) }
    });
    println!("{}", indented(&table));
    until("number of members in the status", PATIENCE, || {
        let status = cluster.field("simulated-webrtc", "st/rooms", "{.status.members.found} {.status.members.up}");
        if status == "3 3" { Ok(()) } else { Err(status) }
    });
    until("condition Scraped of all targets", PATIENCE, || {
        let wide = cluster.kubectl(&["get", "scrapetargets", "-A", "-o", "wide"]);
        let scraped =
            wide.lines().skip(1).all(|line| line.split_whitespace().filter(|word| *word == "True").count() == 3);
        if scraped { Ok(()) } else { Err(wide) }
    });
    poll_more_often(cluster);
}

/// Deletes one of the targets, and waits until it is gone from Prometheus, its last sample included: who applies it anew must not take
/// that one for a new one.
pub(crate) fn delete_edumeet(cluster: &Cluster) {
    const EDUMEET: &str = "simulated-school/edumeet";
    cluster.kubectl(&["-n", "simulated-school", "delete", "st", "edumeet"]);
    figure("from delete to the end of the scrapes", cluster.until_not_scraped(EDUMEET, PATIENCE));
    cluster.until_up(&names_but(EDUMEET), PATIENCE);
}

/// Brings back those that were deleted.
pub(crate) fn apply_anew(cluster: &Cluster) {
    cluster.apply_file("deploy/simulated/targets.yaml");
    poll_more_often(cluster);
}

/// README.md has its reader declare a target, and in the end delete the simulated servers. Nothing of hers goes with them. (With
/// `watchNamespaces`, as in the chapters before, the right to clean up there would go as well: so the release is gone already.)
pub(crate) fn simulated_are_deleted(cluster: &Cluster) {
    const OWN: &str = "apiVersion: v1\nkind: Namespace\nmetadata: { name: webrtc }\n---\n\
        apiVersion: scrapetarget.dev/v1alpha1\nkind: ScrapeTarget\nmetadata: { name: my-sora, namespace: webrtc }\n\
        spec: { type: Sora, url: 'http://sora.example.com:3001/' }\n";
    cluster.apply(OWN);
    let start = Instant::now();
    let folder = root().join("deploy/simulated");
    // Its targets went with all others.
    cluster.kubectl(&["delete", "--timeout=180s", "--ignore-not-found", "-f", folder.to_str().unwrap()]);
    figure("kubectl delete -f deploy/simulated", start.elapsed());
    let left = cluster.names("scrapetargets");
    assert!(left.iter().any(|name| name == "webrtc/my-sora"), "{left:?}");
    assert!(left.iter().all(|name| name.starts_with("webrtc/")), "{left:?}");
}

/// What comes next is seen earlier, and lost scrapes are counted more finely.
fn poll_more_often(cluster: &Cluster) {
    for target in names() {
        let (namespace, name) = target.split_once('/').unwrap();
        let patch = format!(r#"{{"spec": {{"interval": "{}s"}}}}"#, INTERVAL.as_secs());
        cluster.kubectl(&["-n", namespace, "patch", "st", name, "--type=merge", "-p", &patch]);
    }
}

/// Each target has its family, once, with exactly the labels of the contract.
pub(crate) fn series_are_those_of_the_contract(cluster: &Cluster) {
    for (instance, family, region) in TARGETS {
        // Of a target with members each pod has it.
        let once =
            if instance == members::TARGET { &["up", "probe_success"][..] } else { &["up", "probe_success", family] };
        for name in once {
            let (found, _) = until(name, PATIENCE, || {
                let found = cluster.query(&format!(r#"{name}{{instance="{instance}"}}"#))?;
                if found.is_empty() { Err(format!("no {name} of {instance}")) } else { Ok(found) }
            });
            let [(labels, value)] = &found[..] else { panic!("{found:?}") };
            let mut labels = labels.clone();
            labels.remove("__name__");
            assert_eq!((labels, *value), (expected(instance, region), 1.0), "{name}");
        }
    }
    for (mut labels, value) in members::until_series_are_of_the_pods(cluster, 3) {
        labels.remove("__name__");
        labels.remove("pod");
        assert_eq!((labels, value), (expected(members::TARGET, ""), 1.0));
    }
    // In all series, whatever discovery gives and the contract drops is dropped, and Orion's own label `service` is Orion's.
    let every = r#"__name__=~"(sora|orion|mediasoup|edumeet|probe)_.+""#;
    for label in ["container", "endpoint", "exported_service", "exported_instance", "exported_pod", "member"] {
        let expression = format!(r#"count({{{every}, {label}!=""}})"#);
        assert_eq!(cluster.number(&expression), Ok(0.0), "{expression}");
    }
    // A pod is one of the application's. All series of its kind say which.
    for others in [
        format!(r#"{every}, pod!="", instance!="{}""#, members::TARGET),
        format!(r#"__name__=~"mediasoup_.+", pod="", instance="{}""#, members::TARGET),
    ] {
        let expression = format!("count({{{others}}})");
        assert_eq!(cluster.number(&expression), Ok(0.0), "{expression}");
    }
    assert_eq!(cluster.number(r#"count({target_name!="", service!="", __name__!~"orion_.+"})"#), Ok(0.0));
    assert!(cluster.number(r#"count({__name__=~"orion_.+", service!=""})"#).unwrap() >= 1.0);
    // More than that they are up: numbers, and more than a few.
    for (expression, least) in [
        ("count(sora_ongoing_connections_total)", 3.0),
        ("count(sora_cluster_node)", 6.0),
        (r#"count({__name__=~"orion_.+"})"#, 20.0),
        (r#"count({__name__=~"mediasoup_.+", instance="simulated-webrtc/rooms"})"#, 20.0),
        (r#"count({__name__=~"edumeet_.+"})"#, 2.0),
        ("sum(sora_connections_total)", 1.0),
    ] {
        let found = cluster.number(expression).unwrap();
        assert!(found >= least, "{expression}: {found}");
    }
}

pub(crate) fn indented(text: &str) -> String {
    text.trim_end().lines().map(|line| format!("   {line}")).collect::<Vec<_>>().join("\n")
}
