//! What becomes of scrapes, of health checks and of memory when there is more to poll than the CPU can handle: the exporter alone is held to a
//! part of a core by a control group (which takes root), with servers and scrapers outside.
//!
//! `cargo bench --bench overload` first measures what a poll and its scrape cost, and then runs 1, 2 and 4 times as many targets as the limit
//! carries; `cargo bench --bench overload -- 4` the last of these. Each fleet is at rest first, then limited, then lifted.
//! `OVERLOAD_LIMIT` (20) is the limit in percent of a core, `OVERLOAD_SECONDS` (90) how long it holds, `FLEET_INTERVAL` (5) the interval.
//! It prints what was measured and judges nothing.

#![expect(clippy::cast_precision_loss, reason = "figures for people")]

mod support;

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::io::Read;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use support::{Exporter, Result, Scraper, Servers, runs, setting, sum};
use tokio::task::JoinSet;

fn main() -> Result<()> {
    support::main(measure())
}

async fn measure() -> Result<()> {
    let bench = Bench {
        servers: Servers::start().await?,
        group: Group::create()?,
        limit: setting("OVERLOAD_LIMIT", 20) as f64 / 100.0,
        interval: Duration::from_secs(setting("FLEET_INTERVAL", 5)),
    };
    let cost = bench.cost().await?;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a number of targets")]
    let carried = (bench.limit / cost * bench.interval.as_secs_f64()) as u64;
    println!(
        "a poll and its scrape cost {:.2} ms of CPU: {:.2} cores carry {carried} targets at {:?}",
        cost * 1e3,
        bench.limit,
        bench.interval
    );
    println!(
        "{:<12} {:>7} {:>6} {:>9} {:>7} {:>9} {:>11} {:>15} {:>15} {:>8} {:>7} {:>15} {:>11} {:>9}",
        "",
        "targets",
        "cores",
        "throttled",
        "polls/s",
        "per target",
        "late p50/99",
        "fresh p50/p99",
        "all p50/p99",
        "answered",
        "too old",
        "health p50/p99",
        "RSS MiB",
        "in time"
    );
    for factor in [1, 2, 4] {
        if runs(&factor.to_string()) {
            bench.fleet(factor, factor * carried).await?;
        }
    }
    Ok(())
}

struct Bench {
    servers: Servers,
    group: Group,
    limit: f64,
    interval: Duration,
}

impl Bench {
    /// Seconds of CPU for a poll and its scrape, in a fleet that is far from any limit.
    async fn cost(&self) -> Result<f64> {
        self.group.limit(None)?;
        let targets = 150;
        let exporter = self.exporter(targets)?;
        exporter.ready().await?;
        let seen = Arc::<Mutex<Seen>>::default();
        let _load = self.load(&exporter, targets, &seen);
        tokio::time::sleep(2 * self.interval).await;
        let (cpu, (_, polls)) = (exporter.cpu()?, exporter.delays().await?);
        tokio::time::sleep(4 * self.interval).await;
        Ok((exporter.cpu()? - cpu) / (exporter.delays().await?.1 - polls))
    }

    async fn fleet(&self, factor: u64, targets: u64) -> Result<()> {
        self.group.limit(None)?;
        let exporter = self.exporter(targets)?;
        exporter.ready().await?;
        let seen = Arc::<Mutex<Seen>>::default();
        let _load = self.load(&exporter, targets, &seen);
        tokio::time::sleep(3 * self.interval).await;
        self.phase(&format!("{factor}x at rest"), targets, &exporter, &seen, 3 * self.interval).await?;

        self.group.limit(Some(self.limit))?;
        // What is measured is the steady state: every target has been late once.
        tokio::time::sleep(self.interval * u32::try_from(2 * factor + 2)?).await;
        let seconds = Duration::from_secs(setting("OVERLOAD_SECONDS", 90));
        self.phase(&format!("{factor}x limited"), targets, &exporter, &seen, seconds).await?;

        self.group.limit(None)?;
        let lifted = Instant::now();
        let recovered = loop {
            let before = exporter.delays().await?;
            tokio::time::sleep(Duration::from_secs(1)).await;
            let after = exporter.delays().await?;
            if after.1 > before.1 && after.0 - before.0 >= 0.99 * (after.1 - before.1) {
                break lifted.elapsed();
            }
            if lifted.elapsed() > Duration::from_mins(2) {
                break Duration::MAX;
            }
        };
        tokio::time::sleep(2 * self.interval).await;
        self.phase(&format!("{factor}x lifted"), targets, &exporter, &seen, 3 * self.interval).await?;
        println!("{:<12} polls began in time again {:.0} s after the limit was lifted", "", recovered.as_secs_f64());
        Ok(())
    }

    /// One line of the table.
    async fn phase(
        &self,
        name: &str,
        targets: u64,
        exporter: &Exporter,
        seen: &Arc<Mutex<Seen>>,
        time: Duration,
    ) -> Result<()> {
        let (polls, cpu, metrics, throttled) =
            (self.servers.polls().await?, exporter.cpu()?, exporter.own_metrics().await?, self.group.throttled());
        *lock(seen) = Seen::new();
        let start = Instant::now();
        tokio::time::sleep(time).await;
        let seen = std::mem::take(&mut *lock(seen));
        let seconds = start.elapsed().as_secs_f64();
        let cores = (exporter.cpu()? - cpu) / seconds;
        let throttled = self.group.throttled() - throttled;
        let after = self.servers.polls().await?;
        let of = |address: IpAddr| after.get(&address).unwrap_or(&0) - polls.get(&address).unwrap_or(&0);
        let counts: Vec<u64> = (0..targets).map(|i| of(Servers::address(i).into())).collect();
        let late = delays(&metrics, &exporter.own_metrics().await?);
        let (rss, _) = exporter.memory()?;
        let asked = seen.kept.len() + seen.waited.len() + seen.unanswered;
        let all: Vec<Duration> = seen.kept.iter().chain(&seen.waited).copied().collect();
        println!(
            "{name:<12} {targets:>7} {cores:>6.2} {throttled:>9} {:>7.0} {:>9} {:>11} {:>15} {:>15} {:>7.1}% {:>7} {:>15} {rss:>11.1} {:>8.1}%",
            counts.iter().sum::<u64>() as f64 / seconds,
            format!("{}..{}", counts.iter().min().unwrap_or(&0), counts.iter().max().unwrap_or(&0)),
            format!("{}/{}", bound(late.0), bound(late.1)),
            percentiles(seen.kept),
            percentiles(all.clone()),
            100.0 * all.len() as f64 / asked.max(1) as f64,
            seen.too_old,
            percentiles(seen.health),
            100.0 * late.2
        );
        Ok(())
    }

    fn exporter(&self, targets: u64) -> Result<Exporter> {
        let mut text = String::new();
        for i in 0..targets {
            write!(
                text,
                "apiVersion: scrapetarget.dev/v1alpha1\nkind: ScrapeTarget\nmetadata: {{ name: t{i}, namespace: fleet }}\nspec:\n  \
                 type: {}\n  url: http://{}:{}/\n  interval: {}s\n---\n",
                ["Sora", "Orion", "Mediasoup"][usize::try_from(i % 3)?],
                Servers::address(i),
                self.servers.http,
                self.interval.as_secs()
            )?;
        }
        Exporter::within(&self.group.folder, &text, [OsStr::new(&format!("--web.max-connections={}", targets + 100))])
    }

    /// Scrapes each target once an interval over a connection of its own, as Prometheus does, and asks for the health ten times a second,
    /// as the kubelet does, until what it returns is dropped.
    fn load(&self, exporter: &Exporter, targets: u64, seen: &Arc<Mutex<Seen>>) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        let start = tokio::time::Instant::now();
        let (address, interval) = (exporter.address, self.interval);
        for i in 0..targets {
            let (name, place) = (format!("fleet/t{i}"), interval.mul_f64(i as f64 / targets as f64));
            tasks.spawn(scrapes(address, name, start + place, interval, Arc::clone(seen)));
        }
        let seen = Arc::clone(seen);
        tasks.spawn(async move {
            loop {
                let asked = Instant::now();
                if let Ok(mut client) = Scraper::connect(address).await
                    && client.get("/-/healthy").await.is_ok_and(|(status, _)| status == 200)
                {
                    lock(&seen).health.push(asked.elapsed());
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
        tasks
    }
}

/// What scrapes were answered.
#[derive(Default)]
struct Seen {
    since: Option<Instant>,
    /// How long it took, where the newest result was young enough.
    kept: Vec<Duration>,
    /// The same where a poll had to be waited for.
    waited: Vec<Duration>,
    /// No result in time.
    unanswered: usize,
    /// Older than `maxAge`, which must not be.
    too_old: usize,
    health: Vec<Duration>,
}

impl Seen {
    fn new() -> Self {
        Self { since: Some(Instant::now()), ..Self::default() }
    }
}

fn lock(seen: &Mutex<Seen>) -> std::sync::MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn scrapes(
    address: SocketAddr,
    target: String,
    start: tokio::time::Instant,
    interval: Duration,
    seen: Arc<Mutex<Seen>>,
) {
    let mut ticks = tokio::time::interval_at(start, interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let mut connection = None;
    loop {
        ticks.tick().await;
        let (asked, at) = (Instant::now(), unix_seconds());
        if connection.is_none() {
            connection = Scraper::connect(address).await.ok();
        }
        let Some(client) = connection.as_mut() else { continue };
        let Ok(body) = client.scrape_body(&target, interval.as_secs()).await else {
            connection = None;
            lock(&seen).unanswered += 1;
            continue;
        };
        let took = asked.elapsed();
        let polled = timestamp(&body);
        let mut seen = lock(&seen);
        if seen.since.is_none_or(|since| since > asked) {
            continue; // asked before the phase began
        }
        match polled {
            Some(polled) if polled > at => seen.waited.push(took),
            Some(polled) => {
                // A thousandth is what the timestamp is rounded to.
                seen.too_old += usize::from(at - polled > 0.9 * interval.as_secs_f64() + 0.002);
                seen.kept.push(took);
            }
            None => seen.unanswered += 1,
        }
    }
}

fn unix_seconds() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// When the poll ended that an answer is of.
fn timestamp(body: &[u8]) -> Option<f64> {
    let mut text = String::new();
    flate2::read::GzDecoder::new(body).read_to_string(&mut text).ok()?;
    text.lines().find_map(|line| line.strip_prefix("probe_timestamp_seconds ")?.parse().ok())
}

/// The upper bounds of the buckets that the median and the 99th percentile of delays are in, and the part that is up to a quarter of a second.
fn delays(before: &str, after: &str) -> (f64, f64, f64) {
    const NAME: &str = "scrapetarget_poll_delay_seconds";
    let all = sum(after, &format!("{NAME}_count")) - sum(before, &format!("{NAME}_count"));
    let series =
        after.lines().filter_map(|line| line.strip_prefix(NAME)?.strip_prefix("_bucket{le=\"")?.split_once('"'));
    let buckets: Vec<(f64, f64)> = series
        .map(|(bound, _)| {
            let name = format!("{NAME}_bucket{{le=\"{bound}\"}}");
            (bound.parse().unwrap_or(f64::INFINITY), (sum(after, &name) - sum(before, &name)) / all)
        })
        .collect();
    let at = |part: f64| buckets.iter().find(|(_, below)| *below >= part).map_or(f64::INFINITY, |(bound, _)| *bound);
    let in_time = buckets.iter().find(|(bound, _)| *bound == 0.25).map_or(1.0, |(_, below)| *below);
    (at(0.5), at(0.99), in_time)
}

fn bound(seconds: f64) -> String {
    if seconds < 1.0 { format!("{:.0}ms", seconds * 1e3) } else { format!("{seconds:.0}s") }
}

fn percentiles(mut times: Vec<Duration>) -> String {
    times.sort();
    let at = |percent: usize| {
        let time = times.get(times.len().saturating_sub(1) * percent / 100).copied().unwrap_or_default();
        time.as_secs_f64() * 1e3
    };
    format!("{:.1}/{:.1} ms", at(50), at(99))
}

/// A control group for the exporter, of whichever version has the CPU.
struct Group {
    folder: PathBuf,
    second: bool,
}

impl Group {
    fn create() -> Result<Self> {
        let name = format!("overload-{}", std::process::id());
        let (one, two) = (Path::new("/sys/fs/cgroup/cpu"), Path::new("/sys/fs/cgroup"));
        let second = !one.is_dir();
        if second {
            fs::write(two.join("cgroup.subtree_control"), "+cpu")
                .map_err(|error| format!("a control group for the exporter takes root: {error}"))?;
        }
        let folder = if second { two } else { one }.join(name);
        fs::create_dir(&folder).map_err(|error| format!("a control group for the exporter takes root: {error}"))?;
        // The limit is what is to be felt, and not what else the machine does.
        let (name, weight) = if second { ("cpu.weight", "10000") } else { ("cpu.shares", "102400") };
        fs::write(folder.join(name), weight)?;
        Ok(Self { folder, second })
    }

    /// So many cores, or all.
    fn limit(&self, cores: Option<f64>) -> Result<()> {
        let quota = cores.map(|cores| format!("{:.0}", cores * 1e5));
        if self.second {
            fs::write(self.folder.join("cpu.max"), format!("{} 100000", quota.as_deref().unwrap_or("max")))?;
        } else {
            fs::write(self.folder.join("cpu.cfs_quota_us"), quota.as_deref().unwrap_or("-1"))?;
        }
        Ok(())
    }

    /// Periods in which the kernel has stopped the process.
    fn throttled(&self) -> u64 {
        let text = fs::read_to_string(self.folder.join("cpu.stat")).unwrap_or_default();
        text.lines().find_map(|line| line.strip_prefix("nr_throttled ")?.parse().ok()).unwrap_or(0)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // The last process is gone soon.
        for _ in 0..100 {
            if fs::remove_dir(&self.folder).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
