//! A thousand targets at once, in both ways of discovery. Figures are printed; what is judged is that all of them are scraped.

use std::time::{Duration, Instant};

use kube::api::{Api, PostParams};
use scrapetarget_exporter::crd::{ScrapeTarget, ScrapeTargetSpec};
use scrapetarget_exporter::kind::Type;

use crate::cluster::{Cluster, MONITORING, NAMESPACE};
use crate::prometheus::scraped;
use crate::{figure, targets, until};

const TARGETS: u32 = 1000;

/// For how long costs are measured when all is steady.
const STEADY: Duration = Duration::from_secs(15);

const PATIENCE: Duration = Duration::from_secs(240);

pub(crate) fn of_a_thousand_targets(cluster: &Cluster) {
    cluster.kubectl(&["create", "namespace", "load"]);
    cluster.restart_prometheus();
    let start = Instant::now();
    apply(cluster);
    figure("a thousand ScrapeTargets created", start.elapsed());
    until_all_scraped(cluster);
    figure("by ServiceMonitors: from the first to all in Prometheus", start.elapsed());
    tell_costs(cluster);

    let start = Instant::now();
    cluster.helm("upgrade", &["--set=replicas=3", "--set=discovery.mode=httpSD"]);
    until("end of all ServiceMonitors", PATIENCE, || {
        let left = cluster.names("servicemonitors").len();
        if left == 0 { Ok(()) } else { Err(format!("{left} are left")) }
    });
    figure("change to httpSD, all ServiceMonitors removed", start.elapsed());
    // What it remembers of the other way would count.
    cluster.restart_prometheus();
    let start = Instant::now();
    until_all_scraped(cluster);
    figure("by httpSD: from the start of Prometheus to all in it", start.elapsed());
    tell_costs(cluster);

    cluster.kubectl(&["delete", "namespace", "load", "--timeout=180s"]);
    // Until the last samples of a thousand are old.
    cluster.until_up(&targets::names(), PATIENCE);
}

fn apply(cluster: &Cluster) {
    use futures::StreamExt;
    let (runtime, client) = cluster.client();
    let api = Api::<ScrapeTarget>::namespaced(client.clone(), "load");
    let create = |number: u32| {
        let spec = ScrapeTargetSpec::new(Type::Sora, "http://sora.simulated-webrtc.svc:3000/");
        let target = ScrapeTarget::new(&format!("sora-{number}"), spec);
        let api = api.clone();
        async move { api.create(&PostParams::default(), &target).await.map(drop) }
    };
    let all = futures::stream::iter(0..TARGETS).map(create).buffer_unordered(16);
    let created = runtime.block_on(all.collect::<Vec<_>>());
    created.into_iter().collect::<Result<(), _>>().unwrap();
}

fn until_all_scraped(cluster: &Cluster) {
    until("samples of all", PATIENCE, || {
        let all = scraped(r#"probe_success{target_namespace="load"}"#);
        let found = cluster.number(&format!("count({all} == 1)"))?;
        if found == f64::from(TARGETS) { Ok(()) } else { Err(format!("{found} of {TARGETS}")) }
    });
}

/// CPU and memory of the leader and of Prometheus, from their own metrics.
fn tell_costs(cluster: &Cluster) {
    let exporter = format!("/api/v1/namespaces/{NAMESPACE}/pods/{}:9850/proxy/metrics", cluster.leader());
    let prometheus = format!("/api/v1/namespaces/{MONITORING}/services/prometheus-operated:9090/proxy/metrics");
    let (start, before) = (Instant::now(), [&exporter, &prometheus].map(|path| Process::read(cluster, path)));
    std::thread::sleep(STEADY);
    let (time, after) = (start.elapsed(), [&exporter, &prometheus].map(|path| Process::read(cluster, path)));
    for ((name, before), after) in ["the exporter that leads", "Prometheus"].into_iter().zip(before).zip(after) {
        let cores = (after.cpu - before.cpu) / time.as_secs_f64();
        println!("   {name:<64} {cores:>7.2} cores, {:.0} MiB", after.memory / f64::from(1 << 20));
    }
}

/// What a process says of itself.
struct Process {
    /// Seconds.
    cpu: f64,
    /// Bytes.
    memory: f64,
}

impl Process {
    fn read(cluster: &Cluster, path: &str) -> Self {
        let text = cluster.get(path).unwrap();
        let value = |name: &str| -> f64 {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.unwrap_or_else(|| panic!("no {name}")).parse().unwrap()
        };
        Self { cpu: value("process_cpu_seconds_total"), memory: value("process_resident_memory_bytes") }
    }
}
