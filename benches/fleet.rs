//! What a whole fleet costs: CPU and memory of the exporter's process alone, with the servers in a process of their own.
//!
//! `cargo bench --bench fleet` runs every scenario; `cargo bench --bench fleet -- start plain` runs those that are named.
//! `FLEET_TARGETS` (10000), `FLEET_SECONDS` (60, after a warm-up of two intervals) and `FLEET_INTERVAL` (15) change its size.
//! `FLEET_BASELINE` names another build of the program that `scrape` compares with this one.
//! It prints what was measured and judges nothing.

#![expect(clippy::cast_precision_loss, reason = "figures for people")]

mod support;

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use support::{ACCEPT, ACCEPT_TEXT, Exporter, PROGRAM, Result, Scraper, Servers, runs, scrape_all, setting};

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

    /// CPU of one scrape that has to poll: three calls of Sora, every family, gzip, in both formats. With `FLEET_BASELINE`, another build
    /// of the program, that one takes turns with this one, and the ratio is printed.
    async fn polling_scrapes(&self) -> Result<()> {
        let options = "  maxAge: 0s\n  interval: 1h\n  sora: { clusterMetrics: true, clientMetrics: true, connectionErrorMetrics: true, \
                       erlangVMMetrics: true, serverMode: false }\n";
        let manifest = self.manifest(0, "Sora", "http", options).replacen("  interval: 15s\n", "", 1);
        let baseline = std::env::var("FLEET_BASELINE").ok();
        for (format, accept) in [("OpenMetrics", ACCEPT), ("text 0.0.4", ACCEPT_TEXT)] {
            // A program for each format: a result stays in OpenMetrics for a while after the last scrape that requested it.
            let mut measured = Vec::new();
            for (name, program) in [("this", Some(PROGRAM)), ("baseline", baseline.as_deref())] {
                let Some(program) = program else { continue };
                let exporter = Exporter::of_program(program, &manifest)?;
                exporter.ready().await?;
                let client = Scraper::connect(exporter.address).await?;
                measured.push((name, exporter, client));
            }
            let mut costs = vec![Vec::new(); measured.len()];
            let mut bytes = 0;
            for round in 0..8 {
                const SCRAPES: u32 = 1_000;
                for ((_, exporter, client), costs) in measured.iter_mut().zip(&mut costs) {
                    let before = exporter.cpu()?;
                    for _ in 0..SCRAPES {
                        bytes = client.scrape_as("fleet/t0", accept).await?;
                    }
                    // The first round warms up.
                    if round > 0 {
                        costs.push((exporter.cpu()? - before) * 1e6 / f64::from(SCRAPES));
                    }
                }
            }
            let mut medians = Vec::new();
            for ((name, ..), costs) in measured.iter().zip(&mut costs) {
                costs.sort_by(f64::total_cmp);
                medians.push(costs[3]);
                println!(
                    "a scrape that polls Sora (3 calls, everything on, {bytes} bytes of gzip), {format}, {name}: {:.0} µs CPU (median of 7; \
                     least {:.0}, most {:.0})",
                    costs[3], costs[0], costs[6]
                );
            }
            if let [this, baseline] = medians[..] {
                println!("{format}: the baseline takes {:.2} times as much", baseline / this);
            }
        }
        Ok(())
    }
}
