//! Connections and requests of whoever reaches the port, in every number: health checks and an honest Prometheus are answered all the same.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use simulators::Simulated;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;

use crate::support::eventually::PATIENCE;
use crate::support::faults::{Fault, Faulty};
use crate::support::load::allowed;
use crate::support::program::Running;

/// Where the honest Prometheus has its address; everybody else is at 127.0.0.1.
const PROMETHEUS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 9);
const ATTACKER: Ipv4Addr = Ipv4Addr::LOCALHOST;

/// Half of what Prometheus waits by default is too long for a health check, where the machine has time.
const SOON: Duration = Duration::from_secs(4);

/// Health checks, and scrapes, while an attack goes on.
const ROUNDS: usize = 14;

/// A connection from an address of this machine.
pub(crate) async fn connect(from: Ipv4Addr, to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((from, 0).into())?;
    socket.connect(to).await
}

pub(crate) fn address(service: &Running) -> SocketAddr {
    service.base.strip_prefix("http://").unwrap().parse().unwrap()
}

/// The whole answer to a request on a connection of its own, if one comes soon.
async fn ask(from: Ipv4Addr, to: SocketAddr, path: &str) -> Result<String, String> {
    let start = Instant::now();
    let asked = async {
        let mut stream = connect(from, to).await?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    };
    let asked = tokio::time::timeout(allowed(SOON), asked).await.map_err(std::io::Error::other).flatten();
    asked.map_err(|error| format!("{error} after {:?}", start.elapsed()))
}

/// What went wrong with health checks from the attacker's own address, which has nothing else to offer than to be answered at once, and
/// with the scrapes of Prometheus; each on a connection of its own.
async fn refused(to: SocketAddr, scrapes: &[(Ipv4Addr, &str, &str)]) -> Vec<String> {
    let mut wrong = Vec::new();
    for round in 0..ROUNDS {
        let health = [(ATTACKER, "/-/healthy", "\r\n\r\nhealthy\n"), (ATTACKER, "/-/ready", "\r\n\r\nready\n")];
        for (from, path, words) in health.iter().chain(scrapes) {
            let answer = ask(*from, to, path).await;
            if !answer.as_ref().is_ok_and(|answer| answer.contains(words)) {
                wrong.push(format!("round {round}, {path} from {from}: {answer:?}"));
            }
        }
    }
    wrong
}

/// Attackers, each of whom does the same again as soon as its connection is closed.
struct Attack {
    begun: Arc<AtomicUsize>,
    clients: JoinSet<()>,
}

impl Attack {
    fn start<F>(clients: usize, once: impl Fn() -> F + Clone + Send + 'static) -> Self
    where
        F: Future<Output = std::io::Result<()>> + Send,
    {
        let begun = Arc::<AtomicUsize>::default();
        let mut tasks = JoinSet::new();
        for _ in 0..clients {
            let (once, begun) = (once.clone(), Arc::clone(&begun));
            tasks.spawn(async move {
                loop {
                    begun.fetch_add(1, Ordering::Relaxed);
                    let _ = once().await; // to be closed is what it is here for
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            });
        }
        Self { begun, clients: tasks }
    }

    /// Waits until every client has come at least once.
    async fn is_on(&self) {
        let start = Instant::now();
        while self.begun.load(Ordering::Relaxed) < self.clients.len() {
            assert!(start.elapsed() < PATIENCE, "the attack does not begin");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn manifest(name: &str, url: &str, more: &str) -> String {
    format!(
        "apiVersion: scrapetarget.dev/v1alpha1\nkind: ScrapeTarget\nmetadata: {{ name: {name}, namespace: media }}\n\
         spec: {{ type: Mediasoup, url: \"{url}\", interval: 1h, {more}, mediasoup: {{ source: Prometheus }} }}\n---\n"
    )
}

/// A server whose every poll takes a moment.
async fn honest_server() -> Simulated {
    let routes = Router::new().fallback(async || {
        tokio::time::sleep(Duration::from_millis(50)).await;
        "media_rooms 3\n"
    });
    Simulated::serve(routes, (Ipv4Addr::LOCALHOST, 0).into()).await.unwrap()
}

/// A service with room for fifty, which polls an honest server (`rooms` at each scrape, `kept` rarely) and one that hangs.
async fn service(folder: &TempDir) -> (Running, Simulated, Faulty) {
    let (server, hanging) = (honest_server().await, Faulty::start(Fault::HangsBeforeTheAnswer).await);
    let file: PathBuf = folder.path().join("targets.yaml");
    let text = manifest("rooms", &server.url(), "timeout: 1m, maxAge: 0s")
        + &manifest("kept", &server.url(), "timeout: 1m, maxAge: 1h")
        + &manifest("hanging", &hanging.url(), "timeout: 10m, maxAge: 0s");
    std::fs::write(&file, text).unwrap();
    let service = Running::ready(&file, ["--web.max-connections", "50"]).await;
    service.until("/probe?target=media/kept", |_, text| text.contains("probe_success 1").then_some(())).await;
    (service, server, hanging)
}

const SCRAPES: &[(Ipv4Addr, &str, &str)] = &[
    (PROMETHEUS, "/probe?target=media/rooms", "\nmedia_rooms 3\n"),
    (PROMETHEUS, "/probe?target=media/kept", "\nmedia_rooms 3\n"),
    (PROMETHEUS, "/metrics", "\nscrapetarget_build_info"),
    (ATTACKER, "/probe?target=media/kept", "\nmedia_rooms 3\n"),
];

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_ask_without_end_and_never_read_keep_nobody_out() {
    let folder = TempDir::new().unwrap();
    let (service, _server, _hanging) = service(&folder).await;
    let to = address(&service);
    let attack = Attack::start(150, move || async move {
        let mut stream = connect(ATTACKER, to).await?;
        let requests = format!("GET /probe?target=media/kept HTTP/1.1\r\nHost: {to}\r\n\r\n").repeat(100);
        loop {
            stream.write_all(requests.as_bytes()).await?;
        }
    });
    attack.is_on().await;
    assert_eq!(refused(to, SCRAPES).await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_hang_keep_nobody_out() {
    let folder = TempDir::new().unwrap();
    let (service, _server, hanging) = service(&folder).await;
    let to = address(&service);
    let attack = Attack::start(60, move || async move {
        let mut stream = connect(ATTACKER, to).await?;
        let target = "/probe?target=media/hanging HTTP/1.1";
        let request = format!("GET {target}\r\nHost: {to}\r\nX-Prometheus-Scrape-Timeout-Seconds: 3600\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        stream.read_to_end(&mut Vec::new()).await.map(|_| ())
    });
    attack.is_on().await;
    assert_eq!(refused(to, SCRAPES).await, [""; 0]);
    assert_eq!(hanging.connections.load(Ordering::Relaxed), 1, "one poll, however many wait for it");
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_many_addresses_that_stand_still_keep_nobody_out() {
    let folder = TempDir::new().unwrap();
    let (service, _server, _hanging) = service(&folder).await;
    let to = address(&service);
    let number = Arc::<AtomicUsize>::default();
    let attack = Attack::start(150, move || {
        // Of three kinds: they send nothing, half a header, or a request that hangs.
        let number = number.fetch_add(1, Ordering::Relaxed);
        let from = Ipv4Addr::new(127, 1, 0, u8::try_from(number % 200).unwrap() + 1);
        async move {
            let mut stream = connect(from, to).await?;
            let whole = format!("GET /probe?target=media/hanging HTTP/1.1\r\nHost: {to}\r\n\r\n");
            let sent = [0, 20, whole.len()][number % 3];
            stream.write_all(&whole.as_bytes()[..sent]).await?;
            stream.read_to_end(&mut Vec::new()).await.map(|_| ())
        }
    });
    attack.is_on().await;
    // With more addresses than connections, nobody can tell which of those that wait for polls are honest. The rest of Prometheus' requests
    // need no wait.
    assert_eq!(refused(to, &SCRAPES[1..3]).await, [""; 0]);
}

/// Bytes of memory that the process holds.
fn resident(process: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_that_nobody_reads_do_not_pile_up_in_memory() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("targets.yaml");
    let label = "x".repeat(250);
    let labels: Vec<String> = (0..16).map(|number| format!("label_{number}: {label}")).collect();
    let target = |number: usize| {
        let labels = labels.join(", ");
        manifest(&format!("t{number}"), "http://127.0.0.1:9/", &format!("suspend: true, labels: {{ {labels} }}"))
    };
    std::fs::write(&file, (0..1000).map(target).collect::<String>()).unwrap();
    let service = Running::ready(&file, [""; 0]).await;
    let to = address(&service);
    let size = service.body("/api/v1/targets").await.len();
    assert!(size > 4_000_000, "{size}");
    let before = resident(service.id());
    let attack = Attack::start(100, move || async move {
        let mut stream = connect(ATTACKER, to).await?;
        stream.write_all(format!("GET /api/v1/targets HTTP/1.1\r\nHost: {to}\r\n\r\n").as_bytes()).await?;
        // It reads the beginning, and then no more.
        stream.read_exact(&mut [0; 1]).await?;
        tokio::time::sleep(Duration::from_mins(10)).await;
        Ok(())
    });
    attack.is_on().await;
    let mut most = 0;
    for _ in 0..5 {
        let metrics = ask(PROMETHEUS, to, "/metrics").await;
        assert!(metrics.is_ok_and(|metrics| metrics.contains("\nscrapetarget_build_info")));
        most = most.max(resident(service.id()));
        tokio::time::sleep(Duration::from_millis(300)).await; // some time for the attack to have its effect
    }
    let grown = most.saturating_sub(before);
    assert!(grown < 30 * size, "{grown} bytes more for 100 clients, each of whom asked for {size}");
}
