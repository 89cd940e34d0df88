//! A pod that has far too little CPU for its targets. What is judged is that it lives on, and recovers when the limit is lifted.

use std::time::{Duration, Instant};

use kube::api::{Api, PostParams};
use scrapetarget_exporter::crd::ScrapeTarget;

use crate::cluster::{Cluster, NAMESPACE, RELEASE};
use crate::support::load::allowed;
use crate::{figure, until};

const TARGETS: u32 = 3000;

/// Between two looks at what was polled: longer than the interval of the targets.
const LOOK: Duration = Duration::from_secs(5);

const LIMIT: &str = "200m";

/// For how long it must live with that: several times what a liveness probe gives it.
const LIMITED: Duration = Duration::from_secs(120);

/// What it may take to recover, on a machine that has the CPU for it.
const RECOVERS: Duration = Duration::from_secs(60);

const PATIENCE: Duration = Duration::from_secs(300);

pub(crate) fn of_a_pod_with_too_little_cpu(cluster: &Cluster) {
    cluster.kubectl(&["create", "namespace", "load"]);
    let start = Instant::now();
    apply(cluster);
    figure("three thousand ScrapeTargets created", start.elapsed());
    let limit = format!("--set-string=resources.limits.cpu={LIMIT}");
    // With a request that is its limit, the limit could not be lifted alone.
    let request = "--set-string=resources.requests.cpu=50m";
    let memory = "--set-string=resources.limits.memory=512Mi";
    cluster.helm("upgrade", &["--set=discovery.mode=httpSD", memory, &limit, request]);
    cluster.rolled_out(NAMESPACE, RELEASE);
    until("one pod", PATIENCE, || match pods(cluster).as_slice() {
        [only] if *only == cluster.leader() => Ok(()),
        pods => Err(format!("{pods:?}, {} leads", cluster.leader())),
    });
    let pod = cluster.leader();
    let transitions = transitions(cluster);
    let (late, time) = until("late polls", PATIENCE, || match metrics(cluster, &pod)?.late() {
        0.0 => Err("none is late".to_owned()),
        late => Ok(late),
    });
    figure("until a poll was late", time);

    let start = Instant::now();
    let before = metrics(cluster, &pod).unwrap();
    let mut slowest = Duration::ZERO;
    while start.elapsed() < LIMITED {
        std::thread::sleep(Duration::from_secs(1));
        let asked = Instant::now();
        cluster.get(&format!("{}/-/healthy", proxy(&pod))).unwrap();
        slowest = slowest.max(asked.elapsed());
    }
    let after = metrics(cluster, &pod).unwrap();
    let (polls, more) = (after.polls - before.polls, after.late() - late);
    assert!(more > 0.0 && polls >= f64::from(TARGETS), "every target has had its turn: {polls} polls, {more} late");
    let text = |path: &str| cluster.field(NAMESPACE, &format!("pod/{pod}"), path);
    assert_eq!(text("{.status.containerStatuses[0].restartCount}"), "0");
    assert_eq!(text(r#"{.status.conditions[?(@.type=="Ready")].status}"#), "True");
    assert_eq!((cluster.leader(), self::transitions(cluster)), (pod.clone(), transitions), "it has kept its Lease");
    assert!(cluster.logs().contains("polls start late"), "{}", cluster.logs());
    println!(
        "   {:<64} {:>7.0} of {:.0} in {:.0?}",
        "polls more than a second late",
        after.late() - before.late(),
        after.polls - before.polls,
        start.elapsed()
    );
    figure("slowest answer about its health, through the API server", slowest);

    let log = cluster.follow(NAMESPACE, &pod);
    let lifted = r#"{"spec": {"containers": [{"name": "NAME", "resources": {"limits": {"cpu": "2"}}}]}}"#;
    let lifted = lifted.replace("NAME", &text("{.spec.containers[0].name}"));
    cluster.kubectl(&[
        "-n",
        NAMESPACE,
        "patch",
        "pod",
        &pod,
        "--subresource=resize",
        "--type=strategic",
        "-p",
        &lifted,
    ]);
    let ((), time) = until("recovery", 2 * PATIENCE, || {
        let before = metrics(cluster, &pod)?;
        std::thread::sleep(LOOK);
        let after = metrics(cluster, &pod)?;
        let (late, polls) = (after.late() - before.late(), after.polls - before.polls);
        if late <= polls / 100.0 { Ok(()) } else { Err(format!("{late} of {polls} polls are late")) }
    });
    figure("from the lifted limit to polls in time", time);
    assert!(time <= allowed(RECOVERS), "{time:?}");
    assert_eq!(text("{.status.containerStatuses[0].restartCount}"), "0");
    // What is said comes after some calm, which a busy machine has only without these targets.
    cluster.kubectl(&["delete", "namespace", "load", "--timeout=240s"]);
    until("a line about it", PATIENCE, || {
        if log.stdout().contains("polls start on time again") { Ok(()) } else { Err(cluster.logs()) }
    });
}

fn apply(cluster: &Cluster) {
    use futures::StreamExt;
    let (runtime, client) = cluster.client();
    let api = Api::<ScrapeTarget>::namespaced(client.clone(), "load");
    let create = |number: u32| {
        // So often, and so much of each, that their polls would take twice the limit; scraped as usual.
        let target = serde_json::json!({
            "apiVersion": "scrapetarget.dev/v1alpha1",
            "kind": "ScrapeTarget",
            "metadata": { "name": format!("sora-{number}"), "namespace": "load" },
            "spec": {
                "type": "Sora",
                "url": "http://sora.simulated-webrtc.svc:3000/",
                "interval": "4s",
                "monitor": { "interval": "15s" },
                "sora": { "clusterMetrics": true, "clientMetrics": true, "connectionErrorMetrics": true, "erlangVMMetrics": true },
            },
        });
        let target: ScrapeTarget = serde_json::from_value(target).unwrap();
        let api = api.clone();
        async move { api.create(&PostParams::default(), &target).await.map(drop) }
    };
    let all = futures::stream::iter(0..TARGETS).map(create).buffer_unordered(16);
    let created = runtime.block_on(all.collect::<Vec<_>>());
    created.into_iter().collect::<Result<(), _>>().unwrap();
}

fn pods(cluster: &Cluster) -> Vec<String> {
    let selector = format!("app.kubernetes.io/name={RELEASE}");
    let path = r#"jsonpath={range .items[*]}{.metadata.name}{"\n"}{end}"#;
    cluster
        .kubectl(&["-n", NAMESPACE, "get", "pods", "-l", &selector, "-o", path])
        .lines()
        .map(ToOwned::to_owned)
        .collect()
}

fn transitions(cluster: &Cluster) -> String {
    cluster.field(NAMESPACE, &format!("lease/{RELEASE}"), "{.spec.leaseTransitions}")
}

fn proxy(pod: &str) -> String {
    format!("/api/v1/namespaces/{NAMESPACE}/pods/{pod}:9850/proxy")
}

/// Polls that have begun.
struct Delays {
    polls: f64,
    /// At most a second late.
    in_time: f64,
}

impl Delays {
    fn late(&self) -> f64 {
        self.polls - self.in_time
    }
}

fn metrics(cluster: &Cluster, pod: &str) -> Result<Delays, String> {
    let text = cluster.get(&format!("{}/metrics", proxy(pod)))?;
    let value = |name: &str| -> Result<f64, String> {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.and_then(|value| value.parse().ok()).ok_or_else(|| format!("no {name}"))
    };
    let name = "scrapetarget_poll_delay_seconds";
    Ok(Delays { polls: value(&format!("{name}_count"))?, in_time: value(&format!("{name}_bucket{{le=\"1.0\"}}"))? })
}
