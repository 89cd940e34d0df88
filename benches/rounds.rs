//! `rounds`: what rounds cost: 100 targets of 100 members each, whose answers are taken once an interval, beside 10,000 targets that are one process
//! each and that nobody scrapes. Both have the same servers, and each has a process of its own, one after the other.
//!
//! `changes`: how long it takes from a change of the members of a target (500, or `ROUNDS_CHANGED`) until its answer shows it, and how long
//! the answers of another target take meanwhile, which must not wait for that.
//!
//! `cargo bench --bench rounds` runs both; `cargo bench --bench rounds -- changes` runs one. `ROUNDS_TARGETS` (100), `ROUNDS_MEMBERS` (100),
//! `ROUNDS_SECONDS` (60, after a warm-up of two intervals) and `ROUNDS_INTERVAL` (15) change its size. The pollers are those of the program;
//! HTTP between them and Prometheus is not measured.

mod support;

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use scrapetarget_exporter::crd::{Members, MembersService, ParsedTarget, ScrapeTarget, ScrapeTargetSpec};
use scrapetarget_exporter::dial::AddressRules;
use scrapetarget_exporter::fetch::{Clients, Limits};
use scrapetarget_exporter::kind::Type;
use scrapetarget_exporter::metric::{Encoding, Format};
use scrapetarget_exporter::poll::Pollers;
use scrapetarget_exporter::self_metrics::SelfMetrics;
use scrapetarget_exporter::target::{
    Lookup, LookupError, Member, MemberLabel, MemberSource, ObjectKind, Target, TargetId,
};
use support::{Result, Servers, cpu_of, runs, setting, sum};

fn main() -> Result<()> {
    support::main(measure())
}

async fn measure() -> Result<()> {
    if let Ok(role) = std::env::var("ROUNDS_ROLE") {
        return run(&role).await;
    }
    let servers = Servers::start().await?;
    if runs("rounds") {
        rounds(&servers).await?;
    }
    if runs("changes") {
        changes(&servers).await?;
    }
    Ok(())
}

async fn rounds(servers: &Servers) -> Result<()> {
    println!("{:<44} {:>8} {:>9} {:>10} {:>10} {:>9}", "scenario", "core", "RSS MiB", "polls", "≤ 1 s late", "up");
    let mut cores = Vec::new();
    for role in ["plain", "members"] {
        let output = tokio::process::Command::new(std::env::current_exe()?)
            .env("ROUNDS_ROLE", role)
            .env("ROUNDS_PORT", servers.http.to_string())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .kill_on_drop(true)
            .output()
            .await?;
        let text = String::from_utf8(output.stdout)?;
        let (core, line) = text.trim_end().split_once(' ').ok_or("the process said nothing")?;
        println!("{line}");
        cores.push(core.parse::<f64>()?);
    }
    if let [plain, members] = cores[..] {
        println!("CPU of the members to that of the plain targets: {:.2}", members / plain);
    }
    Ok(())
}

/// Takes one member away and gives it back, again and again.
async fn changes(servers: &Servers) -> Result<()> {
    const CHANGES: usize = 20;
    let metrics = SelfMetrics::new()?;
    let limits = Limits::new(16 << 20, 256 << 20);
    let pollers = Pollers::new(Clients::new(AddressRules::default()), limits, metrics.polls.clone(), true).0;
    let pollers = Arc::new(pollers.on_own_threads()?);
    let members = setting("ROUNDS_CHANGED", 500);
    let mut all = target_of_members(0, members, servers.http)?;
    if let Some(members) = &mut all.members {
        members.limit = 500;
    }
    let mut fewer = all.clone();
    if let Some(MemberSource::Service { endpoints, .. }) = fewer.members.as_mut().map(|members| &mut members.source) {
        *endpoints = endpoints.iter().skip(1).cloned().collect();
    }
    let other = target(1_000_000, &format!("http://{}:{}/", Servers::address(1_000_000), servers.http), false)?;
    let (id, other_id) = (all.id.clone(), other.id.clone());
    pollers.apply([all.clone(), other]);
    let poller = pollers.get(&id).ok_or("no poller")?;
    let beside = pollers.get(&other_id).ok_or("no poller")?;
    let whole = poller.answer(Duration::from_secs(60)).await;
    beside.answer(Duration::from_secs(60)).await;
    println!(
        "{members} members, {} series, {} bytes compressed",
        whole.samples,
        whole.body(Format::OpenMetrics, Encoding::Gzip).len()
    );
    let asking = tokio::spawn(async move {
        let mut times = Vec::new();
        loop {
            let start = std::time::Instant::now();
            std::hint::black_box(
                beside.answer(Duration::from_secs(60)).await.body(Format::OpenMetrics, Encoding::Gzip),
            );
            times.push(start.elapsed());
            if times.len() > 200_000 {
                return times;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
            if beside.target().suspend {
                return times;
            }
        }
    });
    let mut times = Vec::new();
    for change in 0..CHANGES {
        let (target, wanted) = if change % 2 == 0 { (&fewer, members - 1) } else { (&all, members) };
        let start = std::time::Instant::now();
        pollers.apply([target.clone()]);
        loop {
            let newest = poller.newest().ok_or("no answer")?;
            let shown = newest.members.iter().flat_map(|members| members.iter()).filter(|report| report.poll.is_some());
            if u64::try_from(shown.count())? == wanted {
                break;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        times.push(start.elapsed());
        tokio::time::sleep(Duration::from_millis(600)).await;
    }
    let mut stopped = pollers.get(&other_id).ok_or("no poller")?.target().as_ref().clone();
    stopped.suspend = true;
    pollers.apply([stopped]);
    let mut beside = asking.await?;
    beside.sort();
    times.sort();
    let [median, slowest] = [times[CHANGES / 2], times[CHANGES - 1]];
    println!("from a change to the answer: median {median:?}, slowest {slowest:?} of {CHANGES}");
    let (count, last) = (beside.len(), beside.len() - 1);
    println!(
        "answers of another target meanwhile: median {:?}, 99.9 % {:?}, slowest {:?} of {count}",
        beside[last / 2],
        beside[last * 999 / 1000],
        beside[last]
    );
    Ok(())
}

/// Nothing refers to an object.
struct NoObjects;

impl Lookup for NoObjects {
    fn value(
        &self,
        kind: ObjectKind,
        namespace: &str,
        name: &str,
        _: &str,
    ) -> std::result::Result<Vec<u8>, LookupError> {
        Err(LookupError::NoObject { kind, namespace: namespace.to_owned(), name: name.to_owned() })
    }
}

const KINDS: [Type; 3] = [Type::Sora, Type::Orion, Type::Mediasoup];

/// One of the two, in a process of its own.
async fn run(role: &str) -> Result<()> {
    let (targets, members) = (setting("ROUNDS_TARGETS", 100), setting("ROUNDS_MEMBERS", 100));
    let (interval, port) =
        (Duration::from_secs(setting("ROUNDS_INTERVAL", 15)), u16::try_from(setting("ROUNDS_PORT", 0))?);
    let metrics = SelfMetrics::new()?;
    let clients = Clients::new(AddressRules::default());
    let limits = Limits::new(16 << 20, 256 << 20);
    let pollers = Arc::new(Pollers::new(clients, limits, metrics.polls.clone(), true).0.on_own_threads()?);
    let has_members = role == "members";
    let list = if has_members {
        (0..targets).map(|i| target_of_members(i, members, port)).collect::<Result<Vec<_>>>()?
    } else {
        (0..targets * members)
            .map(|i| target(i, &format!("http://{}:{port}/", Servers::address(i)), false))
            .collect::<Result<Vec<_>>>()?
    };
    pollers.apply(list);
    let scraping = tokio::spawn(scrape(Arc::clone(&pollers), interval, has_members));
    tokio::time::sleep(2 * interval).await;
    let pid = std::process::id();
    let (cpu, polls, start) = (cpu_of(pid)?, begun(&metrics), std::time::Instant::now());
    tokio::time::sleep(Duration::from_secs(setting("ROUNDS_SECONDS", 60))).await;
    let core = (cpu_of(pid)? - cpu) / start.elapsed().as_secs_f64();
    let after = begun(&metrics);
    scraping.abort();
    let on_time = 100.0 * (after.0 - polls.0) / (after.1 - polls.1).max(1.0);
    let up: usize = pollers
        .list()
        .iter()
        .map(|poller| poller.status())
        .map(|status| status.members.map_or_else(|| usize::from(status.failure.is_none()), |members| members.up))
        .sum();
    let name = if has_members {
        format!("{targets} targets of {members} members, scraped")
    } else {
        format!("{} plain targets, not scraped", targets * members)
    };
    println!("{core} {name:<44} {core:>8.3} {:>9.1} {:>10} {on_time:>9.2}% {up:>9}", resident()?, after.1 - polls.1);
    Ok(())
}

fn target(i: u64, url: &str, has_members: bool) -> Result<Target> {
    let mut spec = ScrapeTargetSpec::new(KINDS[usize::try_from(i % 3)?], url);
    spec.interval = format!("{}s", setting("ROUNDS_INTERVAL", 15)).parse()?;
    if has_members {
        spec.members = Some(Members { service: Some(MembersService::default()), ..Members::default() });
    }
    let declaration =
        ParsedTarget::parse(ScrapeTarget::new(&format!("t{i}"), spec)).map_err(|_| "an invalid target")?;
    Ok(Target::resolve(TargetId::new("fleet", &format!("t{i}")), Arc::new(declaration), &NoObjects))
}

fn target_of_members(i: u64, members: u64, port: u16) -> Result<Target> {
    let mut target = target(i, "http://app.fleet.svc:80/", true)?;
    let endpoints: Vec<Member> =
        (i * members..(i + 1) * members).map(|server| pod(server, Servers::address(server), port)).collect();
    if let Some(MemberSource::Service { endpoints: known, .. }) =
        target.members.as_mut().map(|members| &mut members.source)
    {
        *known = endpoints.into();
    }
    Ok(target)
}

fn pod(number: u64, address: Ipv4Addr, port: u16) -> Member {
    Member {
        name: format!("app-7d9f8c6b5-{number:05}").into(),
        label: MemberLabel::Pod,
        uid: format!("00000000-0000-0000-0000-{number:012}").into(),
        node: Some("node".into()),
        zone: Some("zone".into()),
        ..Member::at(SocketAddr::from((address, port)))
    }
}

/// Takes the answer of each target once an interval, as a scrape of Prometheus does.
async fn scrape(pollers: Arc<Pollers>, interval: Duration, is_scraped: bool) {
    loop {
        let list = if is_scraped { pollers.list() } else { Vec::new() };
        let pause = interval / u32::try_from(list.len().max(1)).unwrap_or(u32::MAX);
        for poller in list {
            poller.prefer(Format::OpenMetrics);
            std::hint::black_box(
                poller.answer(Duration::from_secs(10)).await.body(Format::OpenMetrics, Encoding::Gzip),
            );
            tokio::time::sleep(pause).await;
        }
        if !is_scraped {
            return;
        }
    }
}

/// Polls that began within a second of their time, and all of them.
fn begun(metrics: &SelfMetrics) -> (f64, f64) {
    let mut text = Vec::new();
    scrapetarget_exporter::metric::encode(&[&metrics.gather().finish()], Format::Text, &mut text);
    let text = String::from_utf8_lossy(&text).into_owned();
    (
        sum(&text, "scrapetarget_poll_delay_seconds_bucket{le=\"1.0\"}"),
        sum(&text, "scrapetarget_poll_delay_seconds_count"),
    )
}

/// Resident memory in MiB.
fn resident() -> Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).ok_or("no VmRSS")?;
    Ok(line.split_whitespace().nth(1).ok_or("no number")?.parse::<f64>()? / 1024.0)
}
