//! Probes beside those of the blackbox exporter: the same servers, the same options, the same scrapes.
//!
//! `http`, `https`: the CPU that one probe costs, each triggered by a scrape: of a page of 10 kB, the second with a full handshake.
//!
//! `mixed`: 5,000 targets (`PROBERS_TARGETS`), of which 30 % are http, 20 % https, 20 % tcp, and 10 % each dns, icmp and grpc, all probed and
//! scraped every 15 s (`PROBERS_INTERVAL`): CPU, memory, and how many of our probes began within 250 ms of their time.
//!
//! `turn`: the CPU that one probe costs which sends 50 packets through the relay of a TURN server, beside that of a thread that does nothing but
//! send and receive as many: the blackbox exporter has no such probe.
//!
//! `icmp`: 1,000 targets (`PROBERS_HOSTS`), each pinged once a second: how many replies were lost.
//!
//! All of it runs in a network namespace of its own, in which both exporters may send pings.
//!
//! `cargo bench --bench probers` runs all; `cargo bench --bench probers -- mixed` runs one. The blackbox exporter is the program that
//! `BLACKBOX_EXPORTER` names, as `make bench` sets it. What is said is the ratio of both in the same run.

#![expect(clippy::print_stdout, reason = "a bench prints its result")]

mod support;

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::StreamBody;
use hyper::body::Frame;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use simulators::turn::{AllocationEnd, TurnServer};
use support::{Exporter, Result, Scraper, Servers, cpu_of, runs, scrape_all, setting, sum};

/// Probes that are counted for one figure, after as many that are not.
const PROBES: u32 = 2_000;

/// Rounds of both, in turns: what else the machine does must not favour one.
const ROUNDS: u32 = 4;

fn main() -> Result<()> {
    // The other roles of this program, such as the servers, are for `support`.
    let is_inside = std::env::var_os("PROBERS_ROLE").is_some() || std::env::var_os("FLEET_ROLE").is_some();
    if is_inside { support::main(measure()) } else { inside_namespace() }
}

/// The CPU seconds of a thread that sends as many packets as so many probes, at the same pace, and receives each back: the least that a
/// program needs on this machine.
fn plain_packets(probes: u32) -> Result<f64> {
    const PACE: Duration = Duration::from_millis(5);
    let mirror = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.connect(mirror.local_addr()?)?;
    let packets = probes * 50;
    std::thread::spawn(move || {
        let mut packet = [0; 256];
        for _ in 0..packets {
            let Ok((length, from)) = mirror.recv_from(&mut packet) else { return };
            let _ = mirror.send_to(&packet[..length], from);
        }
    });
    let before = support::cpu_of_this_thread()?;
    let mut packet = [0; 256];
    let mut next = Instant::now();
    for _ in 0..packets {
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
        next += PACE;
        socket.send(&[0; 164])?;
        socket.recv(&mut packet)?;
    }
    Ok(support::cpu_of_this_thread()? - before)
}

/// Starts this program again in a network namespace in which ICMP sockets may be opened.
fn inside_namespace() -> Result<()> {
    let script = "echo 0 0 > /proc/sys/net/ipv4/ping_group_range && ip link set lo up && exec \"$0\" \"$@\"";
    let status = Command::new("unshare")
        .args(["-rn", "sh", "-c", script])
        .arg(std::env::current_exe()?)
        .args(std::env::args_os().skip(1))
        .env("PROBERS_ROLE", "inside")
        .status()?;
    if status.success() { Ok(()) } else { Err("it failed, or no network namespace could be made".into()) }
}

async fn measure() -> Result<()> {
    let servers = Servers::start().await?;
    let (dns, grpc) = (answer_dns()?, answer_health_checks()?);
    let world = World { http: servers.http, https: servers.https, dns, grpc, ca: tempfile::tempdir()? };
    std::fs::write(world.ca.path().join("ca.pem"), &servers.ca)?;
    for scenario in ["http", "https"] {
        if runs(scenario) {
            world.single(scenario).await?;
        }
    }
    if runs("turn") {
        world.turn().await?;
    }
    if runs("mixed") {
        world.mixed().await?;
    }
    if runs("icmp") {
        ping_many().await?;
    }
    Ok(())
}

/// The servers that are probed.
struct World {
    http: u16,
    https: u16,
    dns: u16,
    grpc: u16,
    ca: tempfile::TempDir,
}

/// One of both exporters.
struct Side {
    pid: u32,
    address: SocketAddr,
    exporter: Option<Exporter>,
    _peer: Option<Peer>,
}

/// The blackbox exporter. Dropping it kills it.
struct Peer(Child);

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl World {
    fn url(&self, kind: &str, number: u64) -> String {
        let address = Servers::address(number);
        match kind {
            "https" => format!("https://{address}:{}/page", self.https),
            "tcp" => format!("tcp://{address}:{}", self.http),
            "dns" => format!("dns://127.0.0.1:{}/www.example.com?type=A", self.dns),
            "icmp" => format!("icmp://{address}"),
            "grpc" => format!("grpc://127.0.0.1:{}", self.grpc),
            _ => format!("http://{address}:{}/page", self.http),
        }
    }

    /// What the blackbox exporter is asked for instead of this url.
    fn peer_target(&self, kind: &str, number: u64) -> String {
        let url = self.url(kind, number);
        match kind {
            "tcp" => format!("{}&module=tcp", url.trim_start_matches("tcp://")),
            "dns" => format!("127.0.0.1:{}&module=dns", self.dns),
            "icmp" => format!("{}&module=icmp", url.trim_start_matches("icmp://")),
            "grpc" => format!("127.0.0.1:{}&module=grpc", self.grpc),
            _ => format!("{url}&module={kind}"),
        }
    }

    fn manifest(&self, name: &str, kind: &str, number: u64, more: &str) -> String {
        let kind_of = match kind {
            "tcp" => "Tcp",
            "dns" => "Dns",
            "icmp" => "Icmp",
            "grpc" => "Grpc",
            _ => "Http",
        };
        let ca = if kind == "https" { "\n  tlsConfig: { ca: { configMap: { name: ca, key: ca.pem } } }" } else { "" };
        format!(
            "---\napiVersion: scrapetarget.dev/v1alpha1\nkind: ScrapeTarget\nmetadata: {{ name: {name} }}\nspec:\n  type: {kind_of}\n  url: {}{ca}\n{more}",
            self.url(kind, number)
        )
    }

    async fn ours(&self, manifests: &str) -> Result<Side> {
        let ca = std::fs::read_to_string(self.ca.path().join("ca.pem"))?;
        let indented = ca.lines().map(|line| format!("    {line}\n")).collect::<Vec<_>>().concat();
        let config_map =
            format!("---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{ name: ca }}\ndata:\n  ca.pem: |\n{indented}");
        // All servers are on this machine.
        let files = self.ca.path().join("targets.yaml");
        std::fs::write(&files, format!("{config_map}{manifests}"))?;
        let arguments = ["--targets".as_ref(), files.as_os_str(), "--max-probes-per-address=0".as_ref()];
        let exporter = Exporter::start(arguments)?;
        exporter.ready().await?;
        Ok(Side { pid: exporter.pid, address: exporter.address, exporter: Some(exporter), _peer: None })
    }

    async fn peer(&self) -> Result<Side> {
        let program = std::env::var("BLACKBOX_EXPORTER").map_err(|_| "BLACKBOX_EXPORTER is not set: run make bench")?;
        let config = format!(
            "modules:\n  http:\n    prober: http\n    http: {{ preferred_ip_protocol: ip4 }}\n  https:\n    prober: http\n    http: {{ preferred_ip_protocol: ip4, tls_config: {{ ca_file: {} }} }}\n  tcp:\n    prober: tcp\n    tcp: {{ preferred_ip_protocol: ip4 }}\n  dns:\n    prober: dns\n    dns: {{ preferred_ip_protocol: ip4, query_name: www.example.com, query_type: A }}\n  icmp:\n    prober: icmp\n    icmp: {{ preferred_ip_protocol: ip4 }}\n  grpc:\n    prober: grpc\n    grpc: {{ preferred_ip_protocol: ip4 }}\n",
            self.ca.path().join("ca.pem").display()
        );
        let file = self.ca.path().join("blackbox.yml");
        std::fs::write(&file, config)?;
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let child = Command::new(program)
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--web.listen-address={address}"))
            .arg("--log.level=error")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let side = Side { pid: child.id(), address, exporter: None, _peer: Some(Peer(child)) };
        for _ in 0..1_000 {
            if let Ok(mut client) = Scraper::connect(address).await
                && client.get("/-/healthy").await.is_ok_and(|(status, _)| status == 200)
            {
                return Ok(side);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Err("the blackbox exporter did not start".into())
    }

    /// The CPU of one probe that a scrape triggers.
    async fn single(&self, kind: &str) -> Result<()> {
        let ours = self.ours(&self.manifest("page", kind, 0, "  maxAge: 0s\n  interval: 1h\n")).await?;
        let peer = self.peer().await?;
        let (mine, other) = ("default/page".to_owned(), self.peer_target(kind, 0));
        let mut cpu = [0.0, 0.0];
        for round in 0..=ROUNDS {
            for (i, (side, target)) in [(&ours, &mine), (&peer, &other)].into_iter().enumerate() {
                let used = probe(side, target).await?;
                if round > 0 {
                    cpu[i] += used;
                }
            }
        }
        let each = cpu.map(|seconds| seconds / f64::from(ROUNDS * PROBES) * 1e6);
        let goal = if kind == "http" { "1/3" } else { "1/2" };
        println!(
            "{kind}: {:.0} µs of CPU for a probe, the blackbox exporter {:.0} µs: ratio {:.2} (goal {goal})",
            each[0],
            each[1],
            each[0] / each[1]
        );
        Ok(())
    }

    /// The CPU of one probe with 50 packets, without that of the server.
    async fn turn(&self) -> Result<()> {
        const RELAY_PROBES: u32 = 200;
        let server = TurnServer::with_user("bench", "password");
        let simulated = server.serve((Ipv4Addr::LOCALHOST, 0).into()).await?;
        let url = format!("turn:{}", simulated.address);
        let manifests = format!(
            "---\napiVersion: scrapetarget.dev/v1alpha1\nkind: ScrapeTarget\nmetadata: {{ name: turn }}\nspec:\n  type: Turn\n  url: {url}\n  \
             interval: 1h\n  maxAge: 0s\n  turn:\n    mode: Relay\n    packets: 50\n    packetInterval: 5ms\n    minReceived: 50\n    username: \
             {{ name: turn, key: username }}\n    password: {{ name: turn, key: password }}\n---\napiVersion: v1\nkind: Secret\nmetadata: \
             {{ name: turn }}\nstringData: {{ username: bench, password: password }}\n"
        );
        let ours = self.ours(&manifests).await?;
        let mut client = Scraper::connect(ours.address).await?;
        client.scrape_as("default/turn", support::ACCEPT_TEXT).await?;
        let before = cpu_of(ours.pid)?;
        for _ in 0..RELAY_PROBES {
            client.scrape_as("default/turn", support::ACCEPT_TEXT).await?;
        }
        let each = (cpu_of(ours.pid)? - before) / f64::from(RELAY_PROBES) * 1e3;
        let plain = tokio::task::spawn_blocking(|| plain_packets(RELAY_PROBES)).await?? / f64::from(RELAY_PROBES) * 1e3;
        let failed = server.ended().iter().filter(|end| **end != AllocationEnd::Released).count();
        println!(
            "turn: {each:.2} ms of CPU for a probe with 50 packets through the relay (goal 2 ms), of a thread that only sends and \
             receives as many {plain:.2} ms, ratio {:.2}; {failed} allocations not given back",
            each / plain
        );
        Ok(())
    }

    async fn mixed(&self) -> Result<()> {
        let targets = setting("PROBERS_TARGETS", 5_000);
        let interval = Duration::from_secs(setting("PROBERS_INTERVAL", 15));
        let seconds = setting("PROBERS_SECONDS", 60);
        let mix = ["http", "https", "tcp", "dns", "http", "icmp", "https", "tcp", "grpc", "http"];
        let kind = |number: u64| mix[usize::try_from(number % 10).unwrap_or(0)];
        let more = format!("  interval: {}s\n", interval.as_secs());
        let manifests: String =
            (0..targets).map(|number| self.manifest(&format!("t{number}"), kind(number), number, &more)).collect();
        println!("{:<20} {:>8} {:>9} {:>10} {:>14}", "mixed", "core", "RSS MiB", "scrapes", "began on time");
        let mut figures = Vec::new();
        for name in ["ours", "blackbox exporter"] {
            let side = if name == "ours" { self.ours(&manifests).await? } else { self.peer().await? };
            let paths: Vec<String> =
                (0..targets)
                    .map(|number| {
                        if name == "ours" {
                            format!("default/t{number}")
                        } else {
                            self.peer_target(kind(number), number)
                        }
                    })
                    .collect();
            let scraped = Arc::new(AtomicU64::new(0));
            let scraping = tokio::spawn(scrape_all(side.address, paths, interval, Arc::clone(&scraped)));
            tokio::time::sleep(2 * interval).await;
            let (cpu, until_now) = (cpu_of(side.pid)?, scraped.load(Ordering::Relaxed));
            let before = delays(&side).await?;
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            let core = (cpu_of(side.pid)? - cpu) / Duration::from_secs(seconds).as_secs_f64();
            let memory = resident(side.pid)?;
            let after = delays(&side).await?;
            let on_time = match (before, after) {
                (Some(before), Some(after)) => format!("{:.2} %", 100.0 * (after.0 - before.0) / (after.1 - before.1)),
                _ => "-".to_owned(),
            };
            let count = scraped.load(Ordering::Relaxed) - until_now;
            if let Some(ours) = &side.exporter {
                println!("{name:<20} {} of {targets} up", ours.up().await?);
            }
            println!("{name:<20} {core:>8.3} {memory:>9.1} {count:>10} {on_time:>14}");
            scraping.abort();
            figures.push((core, memory));
        }
        if let [ours, peer] = figures[..] {
            println!("mixed: ratio of CPU {:.2}, of memory {:.2} (goal 1/3 each)", ours.0 / peer.0, ours.1 / peer.1);
        }
        Ok(())
    }
}

/// Probes that began within 250 ms of their time, and all.
async fn delays(side: &Side) -> Result<Option<(f64, f64)>> {
    match &side.exporter {
        Some(exporter) => exporter.delays().await.map(Some),
        None => Ok(None),
    }
}

/// Resident memory in MiB.
fn resident(pid: u32) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).ok_or("an odd /proc/pid/status")?;
    Ok(line.split_whitespace().nth(1).ok_or("no number")?.parse::<f64>()? / 1024.0)
}

/// The CPU of the process meanwhile.
async fn probe(side: &Side, target: &str) -> Result<f64> {
    let mut client = Scraper::connect(side.address).await?;
    client.scrape_as(target, support::ACCEPT_TEXT).await?;
    let before = cpu_of(side.pid)?;
    for _ in 0..PROBES {
        client.scrape_as(target, support::ACCEPT_TEXT).await?;
    }
    Ok(cpu_of(side.pid)? - before)
}

/// Answers every query with one address, in a thread of this process.
fn answer_dns() -> Result<u16> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    let port = socket.local_addr()?.port();
    std::thread::spawn(move || {
        let mut query = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut query) {
            let Some(question) = query.get(12..length) else { continue };
            let mut answer = Vec::with_capacity(length + 16);
            answer.extend_from_slice(&query[..2]);
            answer.extend_from_slice(&[0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
            answer.extend_from_slice(question);
            answer.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 7]);
            let _ = socket.send_to(&answer, from); // whoever has gone needs no answer
        }
    });
    Ok(port)
}

/// Answers every health check with SERVING, in threads of this process.
fn answer_health_checks() -> Result<u16> {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let port = listener.local_addr()?.port();
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let serving = service_fn(async |_| {
                let message = Frame::data(Bytes::from_static(&[0, 0, 0, 0, 2, 8, 1]));
                let trailers =
                    http::HeaderMap::from_iter([("grpc-status", "0")].map(|(name, value)| {
                        (http::HeaderName::from_static(name), http::HeaderValue::from_static(value))
                    }));
                let frames = [Ok::<_, Infallible>(message), Ok(Frame::trailers(trailers))];
                let body = StreamBody::new(futures::stream::iter(frames));
                http::Response::builder().header("content-type", "application/grpc").body(body)
            });
            tokio::spawn(
                hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), serving),
            );
        }
    });
    Ok(port)
}

async fn ping_many() -> Result<()> {
    let hosts = setting("PROBERS_HOSTS", 1_000);
    let seconds = setting("PROBERS_SECONDS", 60);
    let manifests = (0..hosts)
        .map(|number| {
            let address = Servers::address(number);
            format!("---\napiVersion: scrapetarget.dev/v1alpha1\nkind: ScrapeTarget\nmetadata: {{ name: h{number} }}\nspec: {{ type: Icmp, url: \"icmp://{address}\", interval: 1s }}\n")
        })
        .collect::<Vec<_>>()
        .concat();
    let exporter = Exporter::of_files(&manifests)?;
    exporter.ready().await?;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let outcomes = |text: &str| {
        let good = sum(text, "scrapetarget_polls_total{outcome=\"success\",type=\"Icmp\"}");
        (sum(text, "scrapetarget_polls_total{"), good)
    };
    let (before, cpu) = (outcomes(&exporter.own_metrics().await?), exporter.cpu()?);
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let (after, core) = (outcomes(&exporter.own_metrics().await?), exporter.cpu()? - cpu);
    let (all, good) = (after.0 - before.0, after.1 - before.1);
    println!(
        "icmp: {all} pings of {hosts} hosts in {seconds} s, {} without their reply (goal 0); {:.2} core",
        all - good,
        core / Duration::from_secs(seconds).as_secs_f64()
    );
    Ok(())
}
