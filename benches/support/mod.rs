//! What benchmarks of the running program share: its process, a scraper, and simulated servers in a process of their own.
#![allow(dead_code, unreachable_pub, reason = "each benchmark uses its own part")]
#![expect(clippy::cast_precision_loss, reason = "figures for people")]

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, Lines};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, ChildStdout, Command};

const SORA: &str = include_str!("../../tests/fixtures/sora/maximum/GetStatsReport.json");
const SORA_LICENSE: &str = include_str!("../../tests/fixtures/sora/maximum/GetLicense.json");
const SORA_NODES: &str = include_str!("../../tests/fixtures/sora/maximum/ListClusterNodes.json");
const ORION: &str = include_str!("../../tests/fixtures/orion/typical/admin_metrics.json");
const ORION_STATISTICS: &str = include_str!("../../tests/fixtures/orion/typical/statistics.http");
const ORION_CACHE: &str = include_str!("../../tests/fixtures/orion/typical/cache_statistics.http");
const ORION_VERSION: &str = include_str!("../../tests/fixtures/orion/typical/version.http");
const MEDIASOUP: &str = include_str!("../../tests/fixtures/mediasoup/answers/3.27.1-webrtc.json");

/// The header of Prometheus 3, which asks for OpenMetrics.
pub const ACCEPT: &str = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
    application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,\
    text/plain;version=0.0.4;q=0.3,*/*;q=0.2";

/// A header that asks for text 0.0.4.
pub const ACCEPT_TEXT: &str = "text/plain;version=0.0.4";

/// Connections that the scraper keeps, as an HTTP client with a pool does.
const SCRAPE_CONNECTIONS: usize = 64;

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_scrapetarget-exporter");

pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Runs `measure`, or the simulated servers in the process that is started for them.
pub fn main(measure: impl Future<Output = Result<()>>) -> Result<()> {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    rlimit::increase_nofile_limit(u64::MAX)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    if std::env::var_os("FLEET_ROLE").is_some() {
        return runtime.block_on(serve_fleet());
    }
    runtime.block_on(measure)
}

/// Whether a scenario is to run: those named on the command line, or all.
pub fn runs(name: &str) -> bool {
    let mut wanted = std::env::args().skip(1).filter(|word| !word.starts_with('-')).peekable();
    wanted.peek().is_none() || wanted.any(|word| word == name)
}

pub fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// The simulated servers, in a process of their own: they listen on every address of 127.0.0.0/8. Dropping it kills them.
pub struct Servers {
    process: Child,
    _stdout: Lines<BufReader<ChildStdout>>,
    pub http: u16,
    pub https: u16,
    pub hanging: u16,
    counts: u16,
    pub ca: String,
}

impl Servers {
    pub async fn start() -> Result<Self> {
        let mut process = Command::new(std::env::current_exe()?)
            .env("FLEET_ROLE", "servers")
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let mut lines = BufReader::new(process.stdout.take().ok_or("no stdout")?).lines();
        let ports = lines.next_line().await?.ok_or("the servers did not start")?;
        let mut ports = ports.split(' ').map(str::parse::<u16>);
        let mut port = || ports.next().ok_or("too few ports")?.map_err(|error| error.to_string());
        let (http, https, hanging, counts) = (port()?, port()?, port()?, port()?);
        let mut ca = String::new();
        while let Some(line) = lines.next_line().await? {
            ca.push_str(&line);
            ca.push('\n');
            if line.contains("END CERTIFICATE") {
                break;
            }
        }
        Ok(Self { process, _stdout: lines, http, https, hanging, counts, ca })
    }

    /// All servers are gone in the same moment.
    pub async fn kill(&mut self) -> Result<()> {
        Ok(self.process.kill().await?)
    }

    /// How many connections over plain http each server has accepted, which are as many polls.
    pub async fn polls(&self) -> Result<HashMap<IpAddr, u64>> {
        let mut text = String::new();
        TcpStream::connect((Ipv4Addr::LOCALHOST, self.counts)).await?.read_to_string(&mut text).await?;
        let lines = text.lines().filter_map(|line| line.split_once(' '));
        lines.map(|(address, count)| Ok((address.parse()?, count.parse()?))).collect()
    }

    /// The address of the server `i`.
    pub fn address(i: u64) -> Ipv4Addr {
        let [_, a, b, c] = u32::try_from(i + 2).unwrap_or(0).to_be_bytes();
        Ipv4Addr::new(127, a, b, c)
    }
}

/// The program, with its own CPU and memory. Dropping it kills it.
pub struct Exporter {
    process: Child,
    pub pid: u32,
    pub address: SocketAddr,
    files: Option<tempfile::TempDir>,
}

impl Exporter {
    /// `run` with these arguments, on a free port.
    pub fn start<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Result<Self> {
        Self::start_with(arguments, std::iter::empty::<(&str, &str)>())
    }

    /// The same, with variables of the environment.
    pub fn start_with<A: AsRef<OsStr>, K: AsRef<OsStr>, V: AsRef<OsStr>>(
        arguments: impl IntoIterator<Item = A>,
        variables: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Self> {
        Self::spawn(Command::new(PROGRAM), arguments, variables)
    }

    /// The program on these manifests, with more arguments, from its start on in the control group of this folder.
    pub fn within<A: AsRef<OsStr>>(
        group: &Path,
        manifests: &str,
        arguments: impl IntoIterator<Item = A>,
    ) -> Result<Self> {
        let files = tempfile::tempdir()?;
        std::fs::write(files.path().join("targets.yaml"), manifests)?;
        let mut command = Command::new("sh");
        command.args(["-c", r#"echo $$ > "$0/cgroup.procs" && exec "$@""#]).arg(group).arg(PROGRAM);
        let more: Vec<A> = arguments.into_iter().collect();
        let arguments = [OsStr::new("--targets"), files.path().as_os_str()].into_iter();
        let arguments = arguments.chain(more.iter().map(AsRef::as_ref));
        let mut exporter = Self::spawn(command, arguments, std::iter::empty::<(&str, &str)>())?;
        exporter.files = Some(files);
        Ok(exporter)
    }

    fn spawn<A: AsRef<OsStr>, K: AsRef<OsStr>, V: AsRef<OsStr>>(
        mut command: Command,
        arguments: impl IntoIterator<Item = A>,
        variables: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Self> {
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let process = command
            .args(["run", "--log-level=error", "--listen-address", &address.to_string()])
            .args(arguments)
            .envs(variables)
            .kill_on_drop(true)
            .spawn()?;
        let pid = process.id().ok_or("no process")?;
        Ok(Self { process, pid, address, files: None })
    }

    /// The program on these manifests.
    pub fn of_files(manifests: &str) -> Result<Self> {
        Self::of_program(PROGRAM, manifests)
    }

    /// This program, which may be of another version, on these manifests.
    pub fn of_program(program: impl AsRef<OsStr>, manifests: &str) -> Result<Self> {
        let files = tempfile::tempdir()?;
        std::fs::write(files.path().join("targets.yaml"), manifests)?;
        let arguments = [OsStr::new("--targets"), files.path().as_os_str()];
        let mut exporter = Self::spawn(Command::new(program), arguments, std::iter::empty::<(&str, &str)>())?;
        exporter.files = Some(files);
        Ok(exporter)
    }

    pub async fn ready(&self) -> Result<()> {
        for _ in 0..6_000 {
            if let Ok(mut client) = Scraper::connect(self.address).await
                && client.get("/-/ready").await.is_ok_and(|(status, _)| status == 200)
            {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Err("the exporter is not ready after 30 s".into())
    }

    /// CPU seconds of the process so far.
    pub fn cpu(&self) -> Result<f64> {
        cpu_of(self.pid)
    }

    /// Resident memory now and at most, in MiB.
    pub fn memory(&self) -> Result<(f64, f64)> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid))?;
        let field = |name: &str| -> Result<f64> {
            let line = status.lines().find(|line| line.starts_with(name)).ok_or("an odd /proc/pid/status")?;
            Ok(line.split_whitespace().nth(1).ok_or("no number")?.parse::<f64>()? / 1024.0)
        };
        Ok((field("VmRSS:")?, field("VmHWM:")?))
    }

    /// Polls that began within 250 ms of their time, and all of them.
    pub async fn delays(&self) -> Result<(f64, f64)> {
        let text = self.own_metrics().await?;
        let in_time = sum(&text, "scrapetarget_poll_delay_seconds_bucket{le=\"0.25\"}");
        Ok((in_time, sum(&text, "scrapetarget_poll_delay_seconds_count")))
    }

    /// Targets whose last poll succeeded.
    pub async fn up(&self) -> Result<f64> {
        Ok(sum(&self.own_metrics().await?, "scrapetarget_up{"))
    }

    pub async fn own_metrics(&self) -> Result<String> {
        let mut client = Scraper::connect(self.address).await?;
        Ok(String::from_utf8(client.get("/metrics").await?.1)?)
    }
}

/// CPU seconds of a process so far.
pub fn cpu_of(pid: u32) -> Result<f64> {
    cpu_in(&format!("/proc/{pid}/stat"))
}

/// CPU seconds that this thread has used.
pub fn cpu_of_this_thread() -> Result<f64> {
    cpu_in("/proc/thread-self/stat")
}

fn cpu_in(path: &str) -> Result<f64> {
    const TICKS_PER_SECOND: f64 = 100.0; // USER_HZ of every Linux that we run on
    let stat = std::fs::read_to_string(path)?;
    let (_, fields) = stat.rsplit_once(") ").ok_or("an odd /proc/pid/stat")?;
    let fields: Vec<&str> = fields.split(' ').collect();
    Ok((fields[11].parse::<f64>()? + fields[12].parse::<f64>()?) / TICKS_PER_SECOND)
}

/// The values of all series that begin with `name`.
pub fn sum(exposition: &str, name: &str) -> f64 {
    let series = exposition.lines().filter(|line| line.starts_with(name));
    series.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>() + 0.0 // an empty sum is -0
}

/// Scrapes every target once an interval, each at its own time in it, over a fixed number of connections.
pub async fn scrape_all(address: SocketAddr, targets: Vec<String>, interval: Duration, scraped: Arc<AtomicU64>) {
    let targets = Arc::new(targets);
    let mut workers = tokio::task::JoinSet::new();
    let start = tokio::time::Instant::now();
    for worker in 0..SCRAPE_CONNECTIONS {
        let (targets, scraped) = (Arc::clone(&targets), Arc::clone(&scraped));
        workers.spawn(async move {
            let Ok(mut client) = Scraper::connect(address).await else { return };
            for round in 0_u32.. {
                for i in (worker..targets.len()).step_by(SCRAPE_CONNECTIONS) {
                    let place = interval.mul_f64(i as f64 / targets.len() as f64);
                    tokio::time::sleep_until(start + interval * round + place).await;
                    match client.scrape(&targets[i]).await {
                        Ok(_) => {
                            scraped.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(error) => eprintln!("scrape of {}: {error}", targets[i]),
                    }
                }
                if targets.is_empty() {
                    return;
                }
            }
        });
    }
    while workers.join_next().await.is_some() {}
}

/// One kept connection, as Prometheus has it.
pub struct Scraper {
    stream: BufReader<TcpStream>,
}

impl Scraper {
    pub async fn connect(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    pub async fn scrape(&mut self, target: &str) -> Result<usize> {
        self.scrape_as(target, ACCEPT).await
    }

    /// The same with this `Accept` header.
    pub async fn scrape_as(&mut self, target: &str, accept: &str) -> Result<usize> {
        Ok(self.scrape_with(target, 11, accept).await?.len())
    }

    /// What a scrape brings that waits for so many seconds, in gzip.
    pub async fn scrape_body(&mut self, target: &str, timeout: u64) -> Result<Vec<u8>> {
        self.scrape_with(target, timeout, ACCEPT).await
    }

    async fn scrape_with(&mut self, target: &str, timeout: u64, accept: &str) -> Result<Vec<u8>> {
        let headers =
            format!("Accept: {accept}\r\nAccept-Encoding: gzip\r\nX-Prometheus-Scrape-Timeout-Seconds: {timeout}\r\n");
        let (status, body) = self.request(&format!("/probe?target={target}"), &headers).await?;
        if status == 200 { Ok(body) } else { Err(format!("status {status}").into()) }
    }

    pub async fn get(&mut self, path: &str) -> Result<(u16, Vec<u8>)> {
        self.request(path, "").await
    }

    pub async fn request(&mut self, path: &str, headers: &str) -> Result<(u16, Vec<u8>)> {
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nUser-Agent: Prometheus/3.15.0\r\n{headers}\r\n");
        self.stream.write_all(request.as_bytes()).await?;
        let mut line = String::new();
        self.stream.read_line(&mut line).await?;
        let status = line.split(' ').nth(1).ok_or("no status")?.parse()?;
        let mut length = 0;
        loop {
            line.clear();
            if self.stream.read_line(&mut line).await? == 0 {
                return Err("the connection was closed".into());
            }
            if line == "\r\n" {
                break;
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse()?;
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).await?;
        Ok((status, body))
    }
}

/// The process of the servers: prints its ports and its authority, then answers until it is killed.
async fn serve_fleet() -> Result<()> {
    let bind = || TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0));
    let (http, https, hanging, counts) = (bind().await?, bind().await?, bind().await?, bind().await?);
    let [port_http, port_https, port_hanging, port_counts] =
        [&http, &https, &hanging, &counts].map(|listener| listener.local_addr().map_or(0, |address| address.port()));
    let mut authority = CertificateParams::new([])?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = Arc::new(CertifiedIssuer::self_signed(authority, KeyPair::generate()?)?);
    println!("{port_http} {port_https} {port_hanging} {port_counts}\n{}", issuer.pem());
    let answers = Arc::new(answers());
    let plain = Arc::clone(&answers);
    let mut servers = tokio::task::JoinSet::new();
    let polls = Arc::new(Mutex::new(HashMap::<IpAddr, u64>::new()));
    let counted = Arc::clone(&polls);
    servers.spawn(async move {
        while let Ok((mut stream, _)) = counts.accept().await {
            let polls = counted.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let lines: Vec<String> = polls.iter().map(|(address, count)| format!("{address} {count}\n")).collect();
            let lines = lines.concat();
            let _ = stream.write_all(lines.as_bytes()).await; // whoever goes away needs no counts
        }
    });
    servers.spawn(async move {
        while let Ok((stream, _)) = http.accept().await {
            if let Ok(address) = stream.local_addr() {
                *polls.lock().unwrap_or_else(PoisonError::into_inner).entry(address.ip()).or_default() += 1;
            }
            tokio::spawn(answer(stream, Arc::clone(&plain)));
        }
    });
    servers.spawn(async move {
        let key = Arc::new(KeyPair::generate().expect("a key"));
        while let Ok((stream, _)) = https.accept().await {
            let (issuer, key, answers) = (Arc::clone(&issuer), Arc::clone(&key), Arc::clone(&answers));
            tokio::spawn(async move {
                let config = certificate_for(stream.local_addr()?.ip(), &issuer, &key)?;
                let stream = tokio_rustls::TlsAcceptor::from(Arc::new(config)).accept(stream).await?;
                answer(stream, answers).await
            });
        }
    });
    servers.spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = hanging.accept().await {
            held.push(stream);
        }
    });
    while servers.join_next().await.is_some() {}
    Ok(())
}

fn certificate_for(
    address: IpAddr,
    issuer: &CertifiedIssuer<'_, KeyPair>,
    key: &KeyPair,
) -> Result<rustls::ServerConfig> {
    let mut leaf = CertificateParams::new([])?;
    leaf.subject_alt_names = vec![SanType::IpAddress(address)];
    let leaf = leaf.signed_by(key, issuer)?;
    let key = rustls_pki_types::PrivateKeyDer::try_from(key.serialize_der())?;
    Ok(rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(vec![leaf.der().clone()], key)?)
}

/// Whole responses, by the words that tell requests apart.
fn answers() -> BTreeMap<&'static str, Vec<u8>> {
    let json = |body: &str| {
        let body = body
            .split_once("\r\n\r\n")
            .or_else(|| body.split_once("\n\n"))
            .filter(|(head, _)| head.contains("HTTP/"))
            .map_or(body, |(_, body)| body);
        format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}", body.len())
            .into_bytes()
    };
    BTreeMap::from([
        ("GetStatsReport", json(SORA)),
        ("GetLicense", json(SORA_LICENSE)),
        ("ListClusterNodes", json(SORA_NODES)),
        ("GetMode", json(r#"{"mode":"normal"}"#)),
        ("GET /admin/metrics", json(ORION)),
        ("GET /statistics", json(ORION_STATISTICS)),
        ("GET /cache/statistics", json(ORION_CACHE)),
        ("GET /version", json(ORION_VERSION)),
        ("GET /stats", json(MEDIASOUP)),
        ("GET /page", page()),
    ])
}

/// A page of 10 kB.
fn page() -> Vec<u8> {
    let body = "<p>All systems are up.</p>\n".repeat(10_000 / 27);
    let length = body.len();
    format!("HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: {length}\r\n\r\n{body}").into_bytes()
}

async fn answer<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    answers: Arc<BTreeMap<&'static str, Vec<u8>>>,
) -> Result<()> {
    let mut request = vec![0; 4096];
    let mut filled = 0;
    loop {
        let read = stream.read(&mut request[filled..]).await?;
        if read == 0 {
            return Ok(());
        }
        filled += read;
        let text = std::str::from_utf8(&request[..filled])?;
        if !text.ends_with("\r\n\r\n") {
            continue;
        }
        let line = text.lines().next().unwrap_or_default();
        let wanted = answers.iter().find(|(word, _)| match word.strip_prefix("GET ") {
            Some(path) => line.strip_prefix("GET ").is_some_and(|rest| rest.starts_with(path)),
            None => text.contains(*word),
        });
        let (_, response) = wanted.ok_or_else(|| format!("an unknown request: {line}"))?;
        let close = text.to_ascii_lowercase().contains("connection: close");
        stream.write_all(response).await?;
        if close {
            return Ok(());
        }
        filled = 0;
    }
}
