//! `/probe` from a fresh snapshot against a bare axum handler that returns the same bytes, both behind the same accept loop.
//!
//! `cargo bench --bench probe`. The clients are a process of their own: keep-alive connections over loopback, one request at a time
//! each, with the headers that Prometheus 3 sends. Rounds of both alternate, and the median of their ratios is told.

#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a bench prints its result, and has nobody to tell of errors"
)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::http::{HeaderName, HeaderValue, header};
use axum::routing::{get, post};
use bytes::Bytes;
use scrapetarget_exporter::crd::{ParsedTarget, ScrapeTarget, ScrapeTargetSpec};
use scrapetarget_exporter::dial::AddressRules;
use scrapetarget_exporter::fetch::{Clients, Limits as FetchLimits};
use scrapetarget_exporter::file::FileObjects;
use scrapetarget_exporter::http::{self, RouterOptions, ServerLimits};
use scrapetarget_exporter::kind::Type;
use scrapetarget_exporter::metric::{Encoding, Format};
use scrapetarget_exporter::poll::Pollers;
use scrapetarget_exporter::self_metrics::SelfMetrics;
use scrapetarget_exporter::target::{Target, TargetId};
use simulators::Simulated;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

const ROUNDS: usize = 41;
const ROUND: Duration = Duration::from_millis(300);
const CONNECTIONS: usize = 8;
const GOAL: f64 = 0.8;

/// Tells the process that it is the clients: address, path and Accept-Encoding.
const CLIENT: &str = "PROBE_BENCH_CLIENT";

const ACCEPT: &str = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2";

fn main() -> ExitCode {
    if let Ok(orders) = std::env::var(CLIENT) {
        println!("{}", requests_in_a_round(&orders));
        return ExitCode::SUCCESS;
    }
    if !std::env::args().any(|argument| argument == "--bench") {
        return ExitCode::SUCCESS; // `cargo test --all-targets` starts benches, too
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut good = true;
    for (name, encoding) in [("gzip", Encoding::Gzip), ("plain", Encoding::Identity)] {
        let (probe, bare, bytes) = runtime.block_on(start(encoding));
        let measure = |address: SocketAddr| rate(address, encoding);
        measure(probe);
        measure(bare);
        let mut rounds: Vec<[Round; 2]> = (0..ROUNDS)
            .map(|round| {
                // Neither is always the first of a pair: what else the machine does must not favour one.
                if round % 2 == 0 {
                    [measure(probe), measure(bare)]
                } else {
                    let bare = measure(bare);
                    [measure(probe), bare]
                }
            })
            .collect();
        let cpu = [0, 1].map(|i| {
            let cpu: f64 = rounds.iter().map(|round| round[i].cpu).sum();
            cpu / rounds.iter().map(|round| round[i].requests).sum::<f64>() * 1e6
        });
        rounds.sort_by(|a, b| (a[0].requests / a[1].requests).total_cmp(&(b[0].requests / b[1].requests)));
        let [probe, bare] = &rounds[ROUNDS / 2];
        let (probe, bare) = (probe.requests / ROUND.as_secs_f64(), bare.requests / ROUND.as_secs_f64());
        let ratio = probe / bare;
        println!(
            "/probe {name:<5} ({bytes} bytes): {probe:.0} requests/s, bare handler {bare:.0}: ratio {ratio:.3} (goal {GOAL}); \
             CPU of the server {:.1} µs a request, bare {:.1} µs",
            cpu[0], cpu[1]
        );
        good &= ratio >= GOAL;
    }
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Two servers in this process: ours, and a handler that knows nothing but the bytes.
async fn start(encoding: Encoding) -> (SocketAddr, SocketAddr, usize) {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let sora = Router::new().route("/", post(|| async { r#"{"total_connection_created": 1}"# }));
    let sora = Simulated::serve(sora, (Ipv4Addr::LOCALHOST, 0).into()).await.unwrap();
    let self_metrics = Arc::new(SelfMetrics::new().unwrap());
    let clients = Clients::new(AddressRules::default());
    let (pollers, _) = Pollers::new(clients, FetchLimits::new(1 << 24, 1 << 27), self_metrics.polls.clone(), true);
    let pollers = Arc::new(pollers);
    pollers.replace(vec![target(&sora.url())]);
    pollers.set_known();
    let poller = pollers.get(&TargetId::new("webrtc", "sora")).unwrap();
    let snapshot = poller.answer(Duration::from_secs(5)).await;
    let body = snapshot.body(Format::OpenMetrics, encoding);
    let length = body.len();
    let probe = listen(http::router(pollers, self_metrics, RouterOptions::default())).await;
    let bare =
        listen(Router::new().route("/probe", get(move || std::future::ready(bare(encoding, body.clone()))))).await;
    (probe, bare, length)
}

fn bare(encoding: Encoding, body: Bytes) -> ([(HeaderName, HeaderValue); 2], Bytes) {
    let content_type = (header::CONTENT_TYPE, HeaderValue::from_static(Format::OpenMetrics.content_type()));
    let encoding = if encoding == Encoding::Gzip { "gzip" } else { "identity" };
    ([content_type, (header::CONTENT_ENCODING, HeaderValue::from_static(encoding))], body)
}

async fn listen(router: Router) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(http::serve(vec![listener], router, None, ServerLimits::default(), CancellationToken::new()));
    address
}

fn target(url: &str) -> Target {
    let hour = Duration::from_hours(1).into();
    let mut spec = ScrapeTargetSpec::new(Type::Sora, url);
    (spec.interval, spec.max_age) = (hour, Some(hour));
    let declaration = ParsedTarget::parse(ScrapeTarget::new("sora", spec)).unwrap();
    Target::resolve(TargetId::new("webrtc", "sora"), Arc::new(declaration), &FileObjects::default())
}

/// What one round brought.
struct Round {
    requests: f64,
    /// Seconds that this process, which is the servers alone, has computed.
    cpu: f64,
}

/// Lets a process of clients ask for one round.
fn rate(address: SocketAddr, encoding: Encoding) -> Round {
    let encoding = if encoding == Encoding::Gzip { "gzip" } else { "identity" };
    let before = cpu_seconds();
    let output = Command::new(std::env::current_exe().unwrap())
        .env(CLIENT, format!("{address} /probe?target=webrtc%2Fsora {encoding}"))
        .output()
        .unwrap();
    let requests = String::from_utf8_lossy(&output.stdout).trim().parse().expect("the clients print a number");
    Round { requests, cpu: cpu_seconds() - before }
}

/// User and system time of this process, in the kernel's ticks of 10 ms.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    fields[11..13].iter().map(|ticks| ticks.parse::<f64>().unwrap() / 100.0).sum()
}

fn requests_in_a_round(orders: &str) -> u64 {
    let [address, path, encoding] = orders.split(' ').collect::<Vec<_>>().try_into().unwrap();
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nUser-Agent: Prometheus/3.14.0\r\nAccept: {ACCEPT}\r\n\
         Accept-Encoding: {encoding}\r\nX-Prometheus-Scrape-Timeout-Seconds: 10\r\n\r\n"
    );
    let end = Instant::now() + ROUND;
    let clients: Vec<_> = (0..CONNECTIONS)
        .map(|_| {
            let (request, address) = (request.clone(), address.to_owned());
            std::thread::spawn(move || requests_of_one(&address, request.as_bytes(), end))
        })
        .collect();
    clients.into_iter().map(|client| client.join().unwrap()).sum()
}

fn requests_of_one(address: &str, request: &[u8], end: Instant) -> u64 {
    let mut stream = BufReader::new(TcpStream::connect(address).unwrap());
    stream.get_ref().set_nodelay(true).unwrap();
    let (mut line, mut body, mut count) = (String::new(), Vec::new(), 0);
    while Instant::now() < end {
        stream.get_mut().write_all(request).unwrap();
        let mut length = 0;
        loop {
            line.clear();
            stream.read_line(&mut line).unwrap();
            assert!(!line.starts_with("HTTP") || line.starts_with("HTTP/1.1 200"), "{line}");
            if let Some(value) = line.strip_prefix("content-length: ") {
                length = value.trim().parse().unwrap();
            }
            if line == "\r\n" {
                break;
            }
        }
        body.resize(length, 0);
        stream.read_exact(&mut body).unwrap();
        count += 1;
    }
    count
}
