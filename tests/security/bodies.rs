//! Servers that send much and hang: whatever they hold can be taken from them.
//!
//! The default budget of 128 MiB is 50 KiB for each of 2,600 servers that send 64,000 bytes and hang. The tests take 8 MiB and 200 servers,
//! which is a little less for each: every rule counts in parts of the budget, and none in servers.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use flate2::write::GzEncoder;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::support::load::allowed;
use super::support::program::Running;

/// Many servers behind one address; the path says what each does.
struct Servers {
    address: SocketAddr,
    /// Connections that hang now.
    hanging: Arc<AtomicUsize>,
    /// Requests of a path that hangs, ever.
    asked: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Servers {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (hanging, asked) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let counters = (Arc::clone(&hanging), Arc::clone(&asked));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (hanging, asked) = (Arc::clone(&counters.0), Arc::clone(&counters.1));
                tokio::spawn(async move {
                    // That they are cut off is what the servers are for.
                    let _ = answer(stream, &hanging, &asked).await;
                });
            }
        });
        Self { address, hanging, asked, task }
    }
}

/// 150 KB of blanks, compressed and without an end: whoever reads them waits for more.
static ENDLESS_GZIP: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut encoder, &vec![b' '; 150_000]).unwrap();
    std::io::Write::flush(&mut encoder).unwrap();
    encoder.get_ref().clone()
});

/// An exposition of about this many bytes.
fn exposition(bytes: usize) -> String {
    let mut text = "media_rooms 3\n".to_owned();
    while text.len() < bytes {
        text.push_str("# a remark that is here for its length only, and that nobody needs for anything\n");
    }
    text
}

/// About this many bytes of names that no pattern has met before, and that slow patterns are slow with.
fn names(bytes: usize) -> String {
    static NAMES: AtomicUsize = AtomicUsize::new(0);
    let mut text = String::with_capacity(bytes + 200);
    while text.len() < bytes {
        let number = NAMES.fetch_add(1, Ordering::Relaxed);
        text.extend((0..96).map(|bit| if number >> (bit % 48) & 1 == 1 { 'a' } else { 'b' }));
        text.push_str(" 1\n");
    }
    text
}

async fn answer(mut stream: TcpStream, hanging: &AtomicUsize, asked: &AtomicUsize) -> std::io::Result<()> {
    let mut request = vec![0; 4096];
    let len = stream.read(&mut request).await?;
    let request = String::from_utf8_lossy(&request[..len]).into_owned();
    let mut path = request.split_whitespace().nth(1).unwrap_or_default().split('/').skip(1);
    let (what, bytes) = (path.next().unwrap_or_default(), path.next().and_then(|n| n.parse().ok()).unwrap_or(0));
    if what == "good" || what == "slow" {
        let body = if what == "good" { exposition(bytes) } else { names(bytes) };
        asked.fetch_add(usize::from(what == "slow"), Ordering::Relaxed);
        let header = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
        stream.write_all(header.as_bytes()).await?;
        return stream.write_all(body.as_bytes()).await;
    }
    asked.fetch_add(1, Ordering::Relaxed);
    hanging.fetch_add(1, Ordering::Relaxed);
    let hung = hang(&mut stream, what, bytes).await;
    hanging.fetch_sub(1, Ordering::Relaxed);
    hung
}

async fn hang(stream: &mut TcpStream, what: &str, bytes: usize) -> std::io::Result<()> {
    let (mut reader, mut writer) = stream.split();
    let answer = async {
        if what == "gzip" {
            writer.write_all(b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\n\r\n").await?;
            writer.write_all(&ENDLESS_GZIP).await?;
        } else {
            writer.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 16000000\r\n\r\n").await?;
            writer.write_all(&vec![b' '; bytes]).await?;
        }
        if what == "drip" {
            loop {
                tokio::time::sleep(Duration::from_millis(50)).await;
                writer.write_all(b" ").await?;
            }
        }
        std::future::pending().await
    };
    let mut nothing = [0; 64];
    tokio::select! {
        result = answer => result,
        // The end of the client.
        read = reader.read(&mut nothing) => read.map(drop),
    }
}

fn target(namespace: &str, name: &str, address: SocketAddr, path: &str, times: &str) -> String {
    format!(
        "---\napiVersion: scrapetarget.dev/v1alpha1\nkind: ScrapeTarget\n\
         metadata: {{ name: {name}, namespace: {namespace} }}\n\
         spec: {{ type: Mediasoup, url: 'http://{address}/{path}', {times}, mediasoup: {{ source: Prometheus }} }}\n"
    )
}

/// How many seconds a poll of an honest target may take: the two that are enough for it, and more on a busy machine.
fn honest_time() -> u64 {
    allowed(Duration::from_secs(2)).as_secs().clamp(2, 25)
}

/// What the process has of memory, in bytes: now, or at most so far.
fn memory(service: &Running, field: &str) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", service.id())).unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
}

struct Attack {
    budget: usize,
    servers: usize,
    /// What each of them does.
    path: &'static str,
}

const MIB: usize = 1 << 20;

/// What the process takes besides: above all its own code, which is read when it runs first and is large without optimization.
const ITSELF: usize = 12 * MIB;

/// What a connection takes before anything was sent over it.
const CONNECTION: usize = 45 * 1024;

impl Attack {
    /// Makes it, and scrapes honest targets beside it: in the namespace of the others, and in one of its own.
    async fn make(&self) {
        let servers = Servers::start().await;
        let folder = TempDir::new().unwrap();
        let budget = self.budget.to_string();
        let service = Running::ready(folder.path(), ["--max-inflight-bytes", &budget]).await;
        let before = memory(&service, "VmRSS");
        self.write_targets(folder.path(), servers.address);
        let honest = ["crowd/small", "crowd/large", "quiet/small", "quiet/large"];
        for target in honest {
            service.until_status(&format!("/probe?target={target}"), 200).await;
        }
        service.until("/metrics", |_, _| (servers.asked.load(Ordering::Relaxed) > self.servers).then_some(())).await;
        let asked = servers.asked.load(Ordering::Relaxed);
        let mut rounds = 0;
        // As long as it takes for every server to have been asked once more.
        while rounds < 40 || servers.asked.load(Ordering::Relaxed) < asked + self.servers {
            for target in honest {
                let body = service.body(&format!("/probe?target={target}")).await;
                assert!(body.contains("\nprobe_success 1\n"), "{target} in round {rounds}: {body}");
            }
            rounds += 1;
        }
        assert!(servers.hanging.load(Ordering::Relaxed) > 0);
        let metrics = service.body("/metrics").await;
        let limited =
            metrics.lines().find(|line| line.contains("scrapetarget_polls_total") && line.contains("\"limit\""));
        let limited: f64 = limited.and_then(|line| line.split(' ').nth(1)?.parse().ok()).unwrap_or_default();
        assert!(limited > 0.0, "the servers did not even fill the budget: {metrics}");
        let grown = memory(&service, "VmHWM").saturating_sub(before);
        let covered = 2 * self.budget + self.servers * CONNECTION + ITSELF;
        assert!(grown < covered, "grown by {grown} bytes for a budget of {budget}, {covered} were expected");
    }

    fn write_targets(&self, folder: &Path, address: SocketAddr) {
        // Who hangs does so for twice as long as the honest ones can wait.
        let time = honest_time();
        let honest = format!("interval: {time}s, timeout: {time}s, maxAge: 0s");
        let hostile = format!("interval: {0}s, timeout: {0}s", 2 * time);
        let mut text = String::new();
        for namespace in ["crowd", "quiet"] {
            text += &target(namespace, "small", address, "good/100", &honest);
            text += &target(namespace, "large", address, "good/200000", &honest);
        }
        for i in 0..self.servers {
            text += &target("crowd", &format!("hostile-{i}"), address, self.path, &hostile);
        }
        std::fs::write(folder.join("targets.yaml"), text).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_servers_that_send_64_000_bytes_and_hang_keep_memory_from_nobody() {
    Attack { budget: 8 * MIB, servers: 200, path: "hang/64000" }.make().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_servers_that_send_a_mebibyte_and_hang_keep_memory_from_nobody() {
    Attack { budget: 16 * MIB, servers: 17, path: "hang/1048576" }.make().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_go_on_byte_by_byte_keep_memory_from_nobody() {
    Attack { budget: 8 * MIB, servers: 200, path: "drip/64000" }.make().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_whose_few_bytes_become_many_keep_memory_from_nobody() {
    Attack { budget: 8 * MIB, servers: 60, path: "gzip" }.make().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_wait_to_be_translated_keep_memory_from_nobody() {
    let servers = Servers::start().await;
    let folder = TempDir::new().unwrap();
    let service = Running::ready(folder.path(), ["--max-inflight-bytes", "8MiB"]).await;
    let patterns: Vec<String> = (0..32).map(|i| format!("\"(?:a*b*){{50}}c{i}\"")).collect();
    let slow = format!("interval: 60s, timeout: 60s, metrics: {{ keep: [{}] }}", patterns.join(", "));
    let time = format!("interval: {0}s, timeout: {0}s, maxAge: 0s", honest_time());
    let mut text = target("quiet", "large", servers.address, "good/200000", &time);
    for i in 0..20 {
        text += &target("crowd", &format!("hostile-{i}"), servers.address, "slow/1000000", &slow);
    }
    std::fs::write(folder.path().join("targets.yaml"), text).unwrap();
    service.until_status("/probe?target=quiet/large", 200).await;
    service.until("/metrics", |_, _| (servers.asked.load(Ordering::Relaxed) >= 20).then_some(())).await;
    for round in 0..40 {
        let body = service.body("/probe?target=quiet/large").await;
        assert!(body.contains("\nprobe_success 1\n"), "in round {round}: {body}");
    }
    let crowd = service.body("/api/v1/targets").await;
    assert!(crowd.contains("--max-inflight-bytes"), "nobody was driven out: {crowd}");
}
