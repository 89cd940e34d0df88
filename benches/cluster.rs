//! What a whole fleet costs in Kubernetes: against a real API server and etcd, with the servers in a process of their own.
//!
//! `make bench BENCH=cluster` runs every scenario; with `SCENARIOS="start apply"` it runs those that are named.
//! `FLEET_TARGETS` (10000), `FLEET_SECONDS` (60) and `FLEET_INTERVAL` (15) change its size. Without `monitors`,
//! none are written, and what follows is measured in mode `none`. It prints what was measured and judges nothing.

#![expect(clippy::cast_precision_loss, reason = "figures for people")]

mod support;
#[path = "../tests/support/mod.rs"]
mod test_support;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::stream::{self, StreamExt, TryStreamExt};
use jiff::Timestamp;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, DeleteParams, PostParams};
use scrapetarget_exporter::crd::{ScrapeTarget, ScrapeTargetSpec};
use scrapetarget_exporter::kind::Type;
use serde_json::json;

use support::{Exporter, Result, Scraper, Servers, cpu_of, runs, scrape_all, setting};
use test_support::cluster::{AuditLine, Cluster};

/// Where the targets are; the exporter's own namespace is another.
const TARGETS: &str = "fleet";
const OWN: &str = "exporter";
/// A new target is looked for this often.
const LOOK: Duration = Duration::from_millis(5);

fn main() -> Result<()> {
    support::main(measure())
}

async fn measure() -> Result<()> {
    let targets = setting("FLEET_TARGETS", 10_000);
    let mut servers = Servers::start().await?;
    let (cluster, kubeconfig) = tokio::task::spawn_blocking(prepare).await?;
    let bench = Bench { cluster, kubeconfig, targets };
    let started = Instant::now();
    bench.create_targets(&servers).await?;
    println!("{targets} ScrapeTargets created in {:.1} s", started.elapsed().as_secs_f64());

    if runs("slices") {
        bench.slices().await?;
    }
    if runs("start") {
        bench.start().await?;
    }
    let exporter = bench.exporter(if runs("monitors") { "serviceMonitor" } else { "none" })?;
    exporter.ready().await?;
    bench.written(&exporter).await?;
    if runs("steady") {
        bench.steady(&exporter).await?;
    }
    if runs("apply") {
        bench.apply(&exporter, &servers).await?;
    }
    if runs("down") {
        bench.down(&exporter, &mut servers).await?;
    }
    Ok(())
}

/// A cluster with both CRDs and two namespaces.
fn prepare() -> (Cluster, PathBuf) {
    let cluster = Cluster::private();
    cluster.install_crd();
    cluster.install_operator_crds(&["servicemonitors"]);
    for namespace in [TARGETS, OWN] {
        cluster.apply(&format!("apiVersion: v1\nkind: Namespace\nmetadata: {{ name: {namespace} }}\n"));
    }
    // With every right: what the exporter may do is the tests' business. As a user of its own, so that the audit log tells its requests.
    let kubeconfig = cluster.kubeconfig_of(OWN, "exporter");
    cluster.apply(&format!(
        "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRoleBinding\nmetadata: {{ name: exporter }}\nroleRef: {{ apiGroup: \
         rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-admin }}\nsubjects: [{{ kind: ServiceAccount, name: exporter, \
         namespace: {OWN} }}]\n"
    ));
    (cluster, kubeconfig)
}

/// Services of the scenario `slices`, each of one EndpointSlice, and the pods of each.
const SERVICES: u64 = 500;
const PODS: u64 = 20;

/// The EndpointSlice of a Service; `version` makes it differ.
fn slice(service: u64, version: u64) -> Result<EndpointSlice> {
    let endpoint = |pod: u64| {
        json!({
            "addresses": [format!("198.51.100.{}", pod + 1)],
            "conditions": { "ready": true, "serving": true, "terminating": false },
            "nodeName": format!("node-{}", pod % 7),
            "targetRef": {
                "kind": "Pod", "namespace": TARGETS, "name": format!("service-{service}-7d9f8c6b5-{pod:05}"),
                "uid": format!("6f1c0e9e-0000-4000-8000-{version:04x}{service:04x}{pod:04x}"),
            },
        })
    };
    Ok(serde_json::from_value(json!({
        "metadata": { "name": format!("service-{service}-x"), "labels": { "kubernetes.io/service-name": format!("service-{service}") } },
        "addressType": "IPv4",
        "endpoints": (0..PODS).map(endpoint).collect::<Vec<_>>(),
        "ports": [{ "name": "http", "port": 80, "protocol": "TCP" }],
    }))?)
}

struct Bench {
    cluster: Cluster,
    kubeconfig: PathBuf,
    targets: u64,
}

impl Bench {
    fn api(&self) -> Api<ScrapeTarget> {
        Api::namespaced(self.cluster.client(), TARGETS)
    }

    async fn create_targets(&self, servers: &Servers) -> Result<()> {
        let api = &self.api();
        let create =
            |i| async move { api.create(&PostParams::default(), &target(&format!("t{i}"), i, servers.http)).await };
        stream::iter(0..self.targets)
            .map(create)
            .buffer_unordered(32)
            .try_for_each(|_| std::future::ready(Ok(())))
            .await?;
        Ok(())
    }

    /// The program as one replica.
    fn exporter(&self, mode: &str) -> Result<Exporter> {
        let mut arguments = vec!["--target-allow-loopback".to_owned(), format!("--namespace={OWN}")];
        arguments.push(format!("--discovery.mode={mode}"));
        Exporter::start_with(arguments, [("KUBECONFIG", &self.kubeconfig)])
    }

    /// What the watch of EndpointSlices costs while one of them changes each second: without targets that need it, with two that name ten
    /// Services, and with so many that every slice is watched. The targets are suspended, so that nothing else is measured.
    async fn slices(&self) -> Result<()> {
        let api = Api::<EndpointSlice>::namespaced(self.cluster.client(), TARGETS);
        for service in 0..SERVICES {
            api.create(&PostParams::default(), &slice(service, 0)?).await?;
        }
        let seconds = setting("FLEET_SECONDS", 60);
        let exporter = self.exporter("none")?;
        exporter.ready().await?;
        let mut named = 0;
        for wanted in [0, 10, 60] {
            while named < wanted {
                let mut target =
                    ScrapeTarget::new(&format!("many-{named}"), ScrapeTargetSpec::new(Type::Sora, "http://any/"));
                target.spec.suspend = true;
                target.spec.members =
                    Some(serde_json::from_value(json!({ "service": { "name": format!("service-{named}") } }))?);
                self.api().create(&PostParams::default(), &target).await?;
                named += 1;
            }
            tokio::time::sleep(Duration::from_secs(10)).await;
            let (begun, cpu) = (Instant::now(), exporter.cpu()?);
            for second in 1..=seconds {
                // Each in its turn: of those that are named, and of all others.
                let service = if second % 2 == 0 { second % wanted.max(1) } else { second * 7 % SERVICES };
                api.replace(&format!("service-{service}-x"), &PostParams::default(), &slice(service, second)?).await?;
                tokio::time::sleep((begun + Duration::from_secs(second)).saturating_duration_since(Instant::now()))
                    .await;
            }
            let share = (exporter.cpu()? - cpu) / begun.elapsed().as_secs_f64() * 100.0;
            println!(
                "slices: {} pods in {SERVICES} Services, {wanted} of them named, one slice a second: {share:.2} % of a core, {:.1} MiB",
                SERVICES * PODS,
                exporter.memory()?.0
            );
        }
        for target in 0..named {
            self.api().delete(&format!("many-{target}"), &DeleteParams::default()).await?;
        }
        Ok(())
    }

    /// From the start of the process to readiness, and the most memory that it ever had in the minute after it.
    async fn start(&self) -> Result<()> {
        let mut times = Vec::new();
        let mut peaks = Vec::new();
        for _ in 0..3 {
            let costs = (cpu_of(self.cluster.apiserver_pid())?, cpu_of(self.cluster.etcd_pid())?);
            let begun = Instant::now();
            let exporter = self.exporter("none")?;
            exporter.ready().await?;
            let took = begun.elapsed();
            println!(
                "start with {} targets: ready after {:.2} s; meanwhile the API server took {:.2} s of CPU, etcd {:.2} s, the exporter {:.2} s",
                self.targets,
                took.as_secs_f64(),
                cpu_of(self.cluster.apiserver_pid())? - costs.0,
                cpu_of(self.cluster.etcd_pid())? - costs.1,
                exporter.cpu()?,
            );
            times.push(took);
            tokio::time::sleep(Duration::from_secs(setting("FLEET_INTERVAL", 15) * 2)).await;
            peaks.push(exporter.memory()?.1);
        }
        times.sort();
        println!(
            "start: {:.2} s (median of 3), at most {:.0} MiB resident within two intervals",
            times[1].as_secs_f64(),
            peaks.iter().copied().fold(0.0, f64::max)
        );
        Ok(())
    }

    /// Every status, and in mode `serviceMonitor` every monitor, from nothing: how fast they are written, and what scrapes feel of it.
    async fn written(&self, exporter: &Exporter) -> Result<()> {
        let begun = Timestamp::now();
        let before = latency(exporter, Duration::from_secs(5)).await?;
        let times = Arc::default();
        let scraping = tokio::spawn(latencies(exporter.address, Arc::clone(&times)));
        let wanted = usize::try_from(self.targets)?;
        let lines = self.until_written(begun, |lines| count(lines, "scrapetargets") >= wanted && quiet(lines)).await?;
        let writes: Vec<&AuditLine> = lines.iter().filter(|line| is_write(line)).collect();
        scraping.abort();
        let during = percentiles(take(&times));
        let (rss, peak) = exporter.memory()?;
        println!(
            "{} ServiceMonitors and {} statuses from nothing: written in {:.0} s, at most {} writes in a second; \
             /probe p50/p99 {} before, {} while they were written; {rss:.0} MiB resident, {peak:.0} at most",
            count(&lines, "servicemonitors"),
            count(&lines, "scrapetargets"),
            span(&writes),
            busiest_second(&writes),
            show(before),
            show(during),
        );
        Ok(())
    }

    /// What is asked of the API server when nothing happens.
    async fn steady(&self, exporter: &Exporter) -> Result<()> {
        let names: Vec<String> = (0..self.targets).map(|i| format!("{TARGETS}/t{i}")).collect();
        let interval = Duration::from_secs(setting("FLEET_INTERVAL", 15));
        let scraping = tokio::spawn(scrape_all(exporter.address, names, interval, Arc::default()));
        // Scraped becomes True for every target within two looks at all of them: that is news, and the last of it.
        let begun = Timestamp::now();
        tokio::time::sleep(Duration::from_secs(70)).await;
        self.until_written(begun, quiet).await?;
        let (begun, cpu) = (Timestamp::now(), exporter.cpu()?);
        let seconds = setting("FLEET_SECONDS", 60);
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        let core = (exporter.cpu()? - cpu) / seconds as f64;
        let mut asked: BTreeMap<String, u64> = BTreeMap::new();
        let lines = self.audit_since(begun);
        for line in &lines {
            *asked.entry(format!("{} {}", line.verb, line.resource)).or_default() += 1;
        }
        scraping.abort();
        let (rss, _) = exporter.memory()?;
        println!(
            "steady, {} targets polled and scraped: {:.2} requests a second to the API server in {seconds} s ({asked:?}); \
             {core:.2} core, {rss:.0} MiB",
            self.targets,
            lines.len() as f64 / seconds as f64
        );
        Ok(())
    }

    /// From `apply` to the first sample, and from `delete` to 404, with all others there.
    async fn apply(&self, exporter: &Exporter, servers: &Servers) -> Result<()> {
        let api = self.api();
        let (mut applied, mut deleted) = (Vec::new(), Vec::new());
        let mut scraper = Scraper::connect(exporter.address).await?;
        for i in 0..200 {
            let name = format!("new{i}");
            let begun = Instant::now();
            api.create(&PostParams::default(), &target(&name, self.targets + i, servers.http)).await?;
            until(&mut scraper, &name, |status, body| status == 200 && body.contains("\nprobe_success 1")).await?;
            applied.push(begun.elapsed());
            let begun = Instant::now();
            api.delete(&name, &DeleteParams::default()).await?;
            until(&mut scraper, &name, |status, _| status == 404).await?;
            deleted.push(begun.elapsed());
        }
        println!(
            "apply to the first sample, p50/p99 of 200: {}; delete to 404: {}",
            show(percentiles(applied)),
            show(percentiles(deleted))
        );
        Ok(())
    }

    /// Every server goes away in the same second.
    async fn down(&self, exporter: &Exporter, servers: &mut Servers) -> Result<()> {
        let (before, _) = exporter.memory()?;
        let delays = exporter.delays().await?;
        let begun = Timestamp::now();
        servers.kill().await?;
        let wanted = usize::try_from(self.targets)?;
        let lines = self.until_written(begun, |lines| count(lines, "scrapetargets") >= wanted && quiet(lines)).await?;
        let writes: Vec<&AuditLine> = lines.iter().filter(|line| is_write(line)).collect();
        let (after, peak) = exporter.memory()?;
        let now = exporter.delays().await?;
        println!(
            "all {} targets down in one second: {} statuses written within {:.0} s, at most {} writes in a second; \
             {before:.0} MiB before, {after:.0} after, {peak:.0} at most; {:.2} % of polls within 250 ms of their time",
            self.targets,
            writes.len(),
            lines.iter().map(|line| since(begun, line.at)).fold(0.0, f64::max),
            busiest_second(&writes),
            100.0 * (now.0 - delays.0) / (now.1 - delays.1)
        );
        Ok(())
    }

    /// What the exporter has asked of the API server since `begun`.
    fn audit_since(&self, begun: Timestamp) -> Vec<AuditLine> {
        let mut lines = self.cluster.audit();
        lines.retain(|line| line.at >= begun && line.user == format!("system:serviceaccount:{OWN}:exporter"));
        lines
    }

    /// Waits until what was written since `begun` is `enough`, for at most ten minutes.
    async fn until_written(&self, begun: Timestamp, enough: impl Fn(&[AuditLine]) -> bool) -> Result<Vec<AuditLine>> {
        let give_up = Instant::now() + Duration::from_mins(10);
        loop {
            tokio::time::sleep(Duration::from_secs(4)).await;
            let lines = self.audit_since(begun);
            if enough(&lines) {
                return Ok(lines);
            }
            if Instant::now() > give_up {
                println!("gave up after ten minutes: {} requests so far", lines.len());
                return Ok(lines);
            }
        }
    }
}

fn target(name: &str, i: u64, port: u16) -> ScrapeTarget {
    let kind = [Type::Sora, Type::Orion, Type::Mediasoup][usize::try_from(i % 3).unwrap_or(0)];
    let mut spec = ScrapeTargetSpec::new(kind, format!("http://{}:{port}/", Servers::address(i)));
    spec.interval = Duration::from_secs(setting("FLEET_INTERVAL", 15)).into();
    ScrapeTarget::new(name, spec)
}

async fn until(scraper: &mut Scraper, name: &str, reached: impl Fn(u16, &str) -> bool) -> Result<()> {
    let give_up = Instant::now() + Duration::from_secs(30);
    loop {
        let (status, body) = scraper.get(&format!("/probe?target={TARGETS}/{name}")).await?;
        if reached(status, &String::from_utf8_lossy(&body)) {
            return Ok(());
        }
        if Instant::now() > give_up {
            return Err(format!("{name}: still status {status} after 30 s").into());
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Writes of targets and monitors; a Lease is renewed all the time.
fn is_write(line: &AuditLine) -> bool {
    matches!(line.verb.as_str(), "create" | "update" | "patch" | "delete")
        && !matches!(line.resource.as_str(), "leases" | "endpoints")
}

fn count(lines: &[AuditLine], resource: &str) -> usize {
    lines.iter().filter(|line| is_write(line) && line.resource == resource).count()
}

/// Whether nothing was written in the last ten seconds.
fn quiet(lines: &[AuditLine]) -> bool {
    let last = lines.iter().filter(|line| is_write(line)).map(|line| line.at).max();
    last.is_none_or(|last| since(last, Timestamp::now()) > 10.0)
}

fn since(begun: Timestamp, at: Timestamp) -> f64 {
    at.duration_since(begun).as_secs_f64()
}

fn span(lines: &[&AuditLine]) -> f64 {
    let times = || lines.iter().map(|line| line.at);
    times().min().zip(times().max()).map_or(0.0, |(first, last)| since(first, last))
}

/// The most writes within any one second.
fn busiest_second(lines: &[&AuditLine]) -> usize {
    let mut times: Vec<Timestamp> = lines.iter().map(|line| line.at).collect();
    times.sort();
    let mut first = 0;
    let mut most = 0;
    for (i, at) in times.iter().enumerate() {
        while since(times[first], *at) >= 1.0 {
            first += 1;
        }
        most = most.max(i + 1 - first);
    }
    most
}

/// How long `/probe` takes, by one scrape after another of the same few targets.
async fn latency(exporter: &Exporter, span: Duration) -> Result<(Duration, Duration)> {
    let times = Arc::default();
    let _ = tokio::time::timeout(span, latencies(exporter.address, Arc::clone(&times))).await;
    Ok(percentiles(take(&times)))
}

type Times = Arc<Mutex<Vec<Duration>>>;

fn take(times: &Times) -> Vec<Duration> {
    std::mem::take(&mut *times.lock().unwrap_or_else(PoisonError::into_inner))
}

async fn latencies(address: std::net::SocketAddr, times: Times) {
    let Ok(mut scraper) = Scraper::connect(address).await else { return };
    for i in 0_u64.. {
        let begun = Instant::now();
        if scraper.scrape(&format!("{TARGETS}/t{}", i % 100)).await.is_ok() {
            times.lock().unwrap_or_else(PoisonError::into_inner).push(begun.elapsed());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn percentiles(mut times: Vec<Duration>) -> (Duration, Duration) {
    times.sort();
    let at = |percent: usize| times.get(times.len().saturating_sub(1) * percent / 100).copied().unwrap_or_default();
    (at(50), at(99))
}

fn show((median, late): (Duration, Duration)) -> String {
    format!("{:.1}/{:.1} ms", median.as_secs_f64() * 1e3, late.as_secs_f64() * 1e3)
}
