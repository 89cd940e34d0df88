//! What a whole fleet costs: CPU and memory of the exporter's process alone, with the servers in a process of their own.
//!
//! `cargo bench --bench fleet` runs every scenario; `cargo bench --bench fleet -- start plain` runs those that are named.
//! `FLEET_TARGETS` (10000), `FLEET_SECONDS` (60, after a warm-up of two intervals) and `FLEET_INTERVAL` (15) change its size.
//! It prints what was measured and judges nothing.

#![expect(clippy::cast_precision_loss, reason = "figures for people")]

mod support;

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use support::{Exporter, Result, Scraper, Servers, runs, scrape_all, setting};

fn main() -> Result<()> {
    support::main(measure())
}

async fn measure() -> Result<()> {
    let targets = setting("FLEET_TARGETS", 10_000);
    let fleet = Fleet(Servers::start().await?);
    println!(
        "{:<34} {:>8} {:>6} {:>9} {:>9} {:>9} {:>10} {:>9}",
        "scenario", "targets", "up", "core", "RSS MiB", "peak MiB", "polls ≤¼ s", "scrapes/s"
    );
    if runs("idle") {
        fleet.steady("idle", 0, 0, "http").await?;
    }
    if runs("small") {
        fleet.steady("plain http", targets / 10, 0, "http").await?;
    }
    if runs("plain") {
        fleet.steady("plain http", targets, 0, "http").await?;
    }
    if runs("hanging") {
        fleet.steady("plain http, 2000 more that hang", targets, targets / 5, "http").await?;
    }
    if runs("tls") {
        fleet.steady("https, one CA", targets, 0, "https").await?;
    }
    if runs("start") {
        fleet.start_time(targets).await?;
    }
    if runs("scrape") {
        fleet.polling_scrapes().await?;
    }
    Ok(())
}

/// The servers, and exporters of targets on them.
struct Fleet(Servers);

impl Fleet {
    fn manifest(&self, i: u64, kind: &str, scheme: &str, spec: &str) -> String {
        let address = Servers::address(i);
        let port = if scheme == "https" { self.0.https } else { self.0.http };
        let mut text = format!(
            "apiVersion: scrapetarget.dev/v1alpha1\nkind: ScrapeTarget\nmetadata: {{ name: t{i}, namespace: fleet }}\nspec:\n  \
             type: {kind}\n  url: {scheme}://{address}:{port}/\n  interval: {}s\n{spec}",
            setting("FLEET_INTERVAL", 15)
        );
        if scheme == "https" {
            text.push_str("  tlsConfig: { ca: { configMap: { name: ca, key: ca.crt } } }\n");
        }
        text.push_str("---\n");
        text
    }

    fn exporter(&self, targets: u64, hanging: u64, scheme: &str) -> Result<Exporter> {
        let mut text = String::new();
        let indented = self.0.ca.trim_end().replace('\n', "\n    ");
        write!(
            text,
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{ name: ca, namespace: fleet }}\ndata:\n  ca.crt: |\n    {indented}\n---\n"
        )?;
        for i in 0..targets {
            text.push_str(&self.manifest(i, ["Sora", "Orion", "Mediasoup"][usize::try_from(i % 3)?], scheme, ""));
        }
        for i in 0..hanging {
            write!(
                text,
                "apiVersion: scrapetarget.dev/v1alpha1\nkind: ScrapeTarget\nmetadata: {{ name: hung{i}, namespace: fleet }}\nspec:\n  \
                 type: Sora\n  url: http://{}:{}/\n---\n",
                Servers::address(i),
                self.0.hanging
            )?;
        }
        Exporter::of_files(&text)
    }

    /// CPU and memory while every target is polled and scraped once an interval.
    async fn steady(&self, name: &str, targets: u64, hanging: u64, scheme: &str) -> Result<()> {
        let exporter = self.exporter(targets, hanging, scheme)?;
        exporter.ready().await?;
        let interval = Duration::from_secs(setting("FLEET_INTERVAL", 15));
        let answered = Arc::new(AtomicU64::new(0));
        let names: Vec<String> = (0..targets).map(|i| format!("fleet/t{i}")).collect();
        let scraping = tokio::spawn(scrape_all(exporter.address, names, interval, Arc::clone(&answered)));
        let warm_up = if targets == 0 { Duration::from_secs(3) } else { 2 * interval };
        tokio::time::sleep(warm_up).await;
        let (cpu, delays, before, start) =
            (exporter.cpu()?, exporter.delays().await?, answered.load(Ordering::Relaxed), Instant::now());
        let seconds = if targets == 0 { 10 } else { setting("FLEET_SECONDS", 60) };
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        let elapsed = start.elapsed().as_secs_f64();
        let core = (exporter.cpu()? - cpu) / elapsed;
        let after = exporter.delays().await?;
        let polls = after.1 - delays.1;
        let on_time = if polls > 0.0 { 100.0 * (after.0 - delays.0) / polls } else { 100.0 };
        let scrapes = (answered.load(Ordering::Relaxed) - before) as f64 / elapsed;
        let (rss, peak) = exporter.memory()?;
        let up = exporter.up().await?;
        scraping.abort();
        println!("{name:<34} {targets:>8} {up:>6} {core:>9.3} {rss:>9.1} {peak:>9.1} {on_time:>9.2}% {scrapes:>9.1}");
        Ok(())
    }

    /// From the start of the process to readiness, with every target in files.
    async fn start_time(&self, targets: u64) -> Result<()> {
        let mut times = Vec::new();
        for _ in 0..5 {
            let start = Instant::now();
            let exporter = self.exporter(targets, 0, "http")?;
            exporter.ready().await?;
            times.push(start.elapsed());
            drop(exporter);
        }
        times.sort();
        println!(
            "start with {targets} targets until /-/ready: {:?} (median of 5; fastest {:?}, slowest {:?})",
            times[2], times[0], times[4]
        );
        Ok(())
    }

    /// CPU of one scrape that has to poll: three calls of Sora, every family, gzip.
    async fn polling_scrapes(&self) -> Result<()> {
        let options = "  maxAge: 0s\n  interval: 1h\n  sora: { clusterMetrics: true, clientMetrics: true, connectionErrorMetrics: true, \
                       erlangVMMetrics: true, serverMode: false }\n";
        let manifest = self.manifest(0, "Sora", "http", options).replacen("  interval: 15s\n", "", 1);
        let exporter = Exporter::of_files(&manifest)?;
        exporter.ready().await?;
        let mut client = Scraper::connect(exporter.address).await?;
        for _ in 0..500 {
            client.scrape("fleet/t0").await?;
        }
        let mut costs = Vec::new();
        let mut bytes = 0;
        for _ in 0..7 {
            const SCRAPES: u32 = 2_000;
            let before = exporter.cpu()?;
            for _ in 0..SCRAPES {
                bytes = client.scrape("fleet/t0").await?;
            }
            costs.push((exporter.cpu()? - before) * 1e3 / f64::from(SCRAPES));
        }
        costs.sort_by(f64::total_cmp);
        println!(
            "a scrape that polls Sora (3 calls, everything on, {bytes} bytes of gzip): {:.3} ms CPU (median of 7; least {:.3}, most {:.3})",
            costs[3], costs[0], costs[6]
        );
        Ok(())
    }
}
