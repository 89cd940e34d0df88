//! The command `demo`: simulated servers on free ports of loopback, manifests of targets for them, and the service.

use std::fmt::Write as _;
use std::fs::Permissions;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use tempfile::TempDir;
use tokio::net::TcpListener;

use super::print;
use super::service::{Service, ServiceOptions, Signals, TargetSource, listen};
use super::simulate::{self, APPLICATION, PASSWORD, Secured, Start, TURN_USER, USER, WEBSITE};
use crate::cli::{DemoArgs, PollingArgs};
use crate::dial::{DEFAULT_MAX_ECHO_PAYLOAD, KnownHosts};
use crate::poll::{Pollers, TargetState};
use crate::telemetry;
use crate::time::PromDuration;
use simulators::signalling::Signalling;
use simulators::{Mode, Simulated, Switch};

/// The bearer token of the simulated agent. It is no secret.
const AGENT_TOKEN: &str = "demo-token";

/// The target that is down on purpose.
const DOWN: &str = "orion-old";

/// The host of the application that runs as several processes. The domain is reserved: no name server knows it.
const ROOMS: &str = "rooms.test";

/// Serves the demo until a signal comes, or with `--once` until every target has been polled.
pub(super) async fn run(args: DemoArgs) -> anyhow::Result<ExitCode> {
    let DemoArgs { listen_address, once, interval, log } = args;
    telemetry::start(log);
    let servers = Servers::start().await.context("start the simulated servers")?;
    let folder = Folder::create()?;
    let manifests = servers.manifests(interval);
    std::fs::write(folder.targets(), &manifests).with_context(|| format!("write {}", folder.targets().display()))?;
    // With `--once` nothing is served, so that a port in use is no problem.
    let listeners = if once { Vec::new() } else { vec![listen(&listen_address).await?] };
    let address = listeners.first().map(TcpListener::local_addr).transpose().context("read the listener's address")?;
    let options = ServiceOptions {
        listeners,
        web: None,
        source: TargetSource::Files { paths: vec![folder.path().to_owned()], secrets: None },
        polling: PollingArgs {
            target_deny_cidr: Vec::new(),
            target_allow_cidr: Vec::new(),
            target_allow_host: Vec::new(),
            max_body_bytes: 16 << 20,
            max_inflight_bytes: 128 << 20,
            max_sample_limit: 100_000,
            debug_bodies: false,
            icmp_max_payload: DEFAULT_MAX_ECHO_PAYLOAD,
        },
        known_hosts: KnownHosts::from([
            (ROOMS.into(), servers.rooms.addresses().into()),
            (WEBSITE.into(), [IpAddr::V4(Ipv4Addr::LOCALHOST)].into()),
        ]),
        external_url: None,
        allowed_hosts: Vec::new(),
        loose_targets: true,
        connections: 256,
    };
    let mut service = Service::start(options)?;
    let Some(address) = address else {
        let result = poll_all(&service.pollers).await;
        service.stop(Duration::ZERO).await;
        return result;
    };
    let mut signals = Signals::receive()?;
    print(&welcome(&manifests, &folder.targets().display().to_string(), &format!("http://{address}")));
    tokio::select! {
        _ = signals.next() => {
            service.stop(Duration::ZERO).await;
            Ok(ExitCode::SUCCESS)
        }
        () = flake(servers.flaky.clone()) => bail!("the flaky server ended"),
        task = service.ended() => bail!("{task} ended unexpectedly"),
    }
}

/// A target that sends packets through a relay may not be polled more often.
const SHORTEST_FOR_RELAY: Duration = Duration::from_secs(10);

/// All simulated servers. Dropping it closes their ports.
struct Servers {
    sora: Vec<Simulated>,
    flaky: Switch,
    orion: Simulated,
    wilma: Simulated,
    keyrock: Simulated,
    rooms: DemoProcesses,
    edumeet: Simulated,
    website: Simulated,
    /// The authority of the website's certificate, as PEM.
    authority: String,
    name_server: Simulated,
    signalling: Simulated,
    turn: Simulated,
    /// A port on which nothing listens.
    closed: u16,
}

impl Servers {
    async fn start() -> anyhow::Result<Self> {
        let loopback = (Ipv4Addr::LOCALHOST, 0).into();
        let website = simulate::website(&[WEBSITE])?;
        let cluster = simulate::cluster(Start::of_demo(0));
        let mut sora = Vec::new();
        for node in cluster.nodes() {
            sora.push(Simulated::serve(node.router(), loopback).await?);
        }
        let flaky = cluster.nodes().last().map(|node| node.switch().clone()).unwrap_or_default();
        let closed = {
            let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
            listener.local_addr()?.port()
        };
        let secured = Secured::new(Start::of_demo(1), None);
        Ok(Self {
            sora,
            flaky,
            orion: Simulated::serve(simulate::broker(Start::of_demo(0)).routes(), loopback).await?,
            wilma: Simulated::serve(secured.wilma.routes(), loopback).await?,
            keyrock: Simulated::serve(secured.keyrock.routes(), loopback).await?,
            rooms: DemoProcesses::start().await?,
            edumeet: Simulated::serve(simulate::edumeet(Start::of_demo(0), None).routes(), loopback).await?,
            website: website.on(TcpListener::bind(loopback).await?)?,
            authority: simulate::certificate_pem(website.authority()),
            name_server: Self::name_server().await?,
            signalling: Signalling::default().on(TcpListener::bind(loopback).await?)?,
            turn: simulate::turn_server(None).serve(loopback).await?,
            closed,
        })
    }

    /// The name server needs one port for both of its protocols: the first that is free for one may be taken for the other.
    async fn name_server() -> anyhow::Result<Simulated> {
        const ATTEMPTS: usize = 20;
        let server = simulate::name_server()?;
        let mut attempts = 1..;
        loop {
            match server.on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?).await {
                Err(error) if error.kind() == ErrorKind::AddrInUse && attempts.next() < Some(ATTEMPTS) => {}
                listening => return Ok(listening?),
            }
        }
    }

    /// The manifests of the targets, as a user would write them.
    fn manifests(&self, interval: Duration) -> String {
        let mut text = String::new();
        let mut target_polled_every = |interval: Duration,
                                       name: &str,
                                       namespace: &str,
                                       kind: &str,
                                       url: &str,
                                       more: &str| {
            let interval = PromDuration::from(interval);
            // Writing to a String cannot fail.
            let _ = write!(
                text,
                "apiVersion: scrapetarget.dev/v1alpha1\nkind: ScrapeTarget\nmetadata: {{ name: {name}, namespace: {namespace} }}\n\
                 spec:\n  type: {kind}\n  url: {url}\n  interval: {interval}\n{more}---\n"
            );
        };
        let mut target = |name: &str, namespace: &str, kind: &str, url: &str, more: &str| {
            target_polled_every(interval, name, namespace, kind, url, more);
        };
        let regions = ["tokyo", "osaka", "nagoya"];
        for (server, region) in self.sora.iter().zip(regions) {
            let more = format!(
                "  labels: {{ region: {region} }}\n  sora: {{ clusterMetrics: true, clientMetrics: true, connectionErrorMetrics: true, erlangVMMetrics: true }}\n"
            );
            target(&format!("sora-{region}"), "webrtc", "Sora", &server.url(), &more);
        }
        target("orion-city", "fiware", "Orion", &self.orion.url(), "");
        let oauth2 = format!(
            "  oauth2:\n    clientId: {{ secret: {{ name: keyrock, key: id }} }}\n    clientSecret: {{ name: keyrock, key: secret }}\n    tokenUrl: \
             {}oauth2/token\n    user: {{ username: {{ name: keyrock, key: username }}, password: {{ name: keyrock, key: password }} }}\n",
            self.keyrock.url()
        );
        target("orion-secured", "fiware", "Orion", &self.wilma.url(), &oauth2);
        target(DOWN, "fiware", "Orion", &format!("http://127.0.0.1:{}/", self.closed), "");
        let rooms = "  members: { dns: {} }\n  authorization: { credentials: { name: mediasoup-agent, key: token } }\n  mediasoup: { perObject: [Producers, Transports] }\n";
        target("mediasoup-rooms", "webrtc", "Mediasoup", &format!("http://{ROOMS}:{}/", self.rooms.port), rooms);
        target("edumeet", "school", "Mediasoup", &self.edumeet.url(), "  mediasoup: { source: Prometheus }\n");
        let trusted = "  tlsConfig: { ca: { configMap: { name: authority, key: ca.crt } } }\n";
        let port = self.website.address.port();
        target("website", "shop", "Http", &format!("https://{WEBSITE}:{port}/"), trusted);
        target("website-moved", "shop", "Http", &format!("https://{WEBSITE}:{port}/old"), trusted);
        target("website-tls", "shop", "Tcp", &format!("tls://{WEBSITE}:{port}"), trusted);
        target("name", "shop", "Dns", &format!("dns://{}/{WEBSITE}?type=A", self.name_server.address), "");
        if may_ping() {
            target("host", "shop", "Icmp", "icmp://127.0.0.1", "");
        }
        let signalling = format!("ws://{}/signaling", self.signalling.address);
        target("signalling", "webrtc", "WebSocket", &signalling, "  websocket: { ping: true }\n");
        target("stun", "webrtc", "Stun", &format!("stun:{}", self.turn.address), "");
        let relay = "  turn: { mode: Relay, username: { name: turn, key: username }, password: { name: turn, key: password } }\n";
        let turn = format!("turn:{}", self.turn.address);
        target_polled_every(interval.max(SHORTEST_FOR_RELAY), "turn", "webrtc", "Turn", &turn, relay);
        let authority = self.authority.trim_end().replace('\n', "\n    ");
        let _ = write!(
            text,
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{ name: authority, namespace: shop }}\ndata:\n  ca.crt: |\n    {authority}\n---\n"
        );
        let _ = write!(
            text,
            "apiVersion: v1\nkind: Secret\nmetadata: {{ name: mediasoup-agent, namespace: webrtc }}\nstringData: {{ token: {AGENT_TOKEN} }}\n"
        );
        let _ = write!(
            text,
            "---\napiVersion: v1\nkind: Secret\nmetadata: {{ name: turn, namespace: webrtc }}\nstringData: {{ username: {TURN_USER}, password: \
             {TURN_USER} }}\n"
        );
        let _ = write!(
            text,
            "---\napiVersion: v1\nkind: Secret\nmetadata: {{ name: keyrock, namespace: fiware }}\nstringData: {{ id: {APPLICATION}, secret: \
             {PASSWORD}, username: {USER}, password: {PASSWORD} }}\n"
        );
        text
    }
}

/// Whether the system lets this process open the socket of a ping: it does for the groups of a setting.
fn may_ping() -> bool {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ping_group_range").unwrap_or_default();
    let mut bounds = range.split_whitespace().map(|bound| bound.parse::<u32>().ok());
    let (Some(Some(first)), Some(Some(last))) = (bounds.next(), bounds.next()) else { return false };
    let others = rustix::process::getgroups().unwrap_or_default();
    let mut groups = others.iter().copied().chain([rustix::process::getegid()]);
    groups.any(|group| (first..=last).contains(&group.as_raw()))
}

/// An application on mediasoup whose processes have addresses of their own and one port, as pods have.
struct DemoProcesses {
    processes: Vec<Simulated>,
    port: u16,
}

impl DemoProcesses {
    async fn start() -> std::io::Result<Self> {
        let process = |number| simulate::agent(Start::of_demo(number), Some(AGENT_TOKEN)).routes();
        let first = Simulated::serve(process(0), (Ipv4Addr::LOCALHOST, 0).into()).await?;
        let port = first.address.port();
        let mut processes = vec![first];
        for number in 1..=2 {
            // Only Linux has all of 127.0.0.0/8. Elsewhere there is one process less.
            if let Ok(another) = Simulated::serve(process(number.into()), (Self::address(number), port).into()).await {
                processes.push(another);
            }
        }
        Ok(Self { processes, port })
    }

    const fn address(number: u8) -> Ipv4Addr {
        Ipv4Addr::new(127, 0, 0, 1 + number)
    }

    /// The addresses of all processes, and one at which nothing listens.
    fn addresses(&self) -> Vec<IpAddr> {
        let closed = IpAddr::V4(Self::address(3));
        self.processes.iter().map(|process| process.address.ip()).chain([closed]).collect()
    }
}

/// The temporary directory of the demo, removed when it ends. Its name is random and only its owner has access, because all users of the
/// machine can write to its parent directory.
struct Folder(TempDir);

impl Folder {
    fn create() -> anyhow::Result<Self> {
        let folder =
            tempfile::Builder::new().prefix("scrapetarget-demo-").permissions(Permissions::from_mode(0o700)).tempdir();
        Ok(Self(folder.context("make a folder for the targets")?))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn targets(&self) -> PathBuf {
        self.path().join("targets.yaml")
    }
}

/// Makes one server flaky: it is healthy for a while, then answers with errors, then hangs, and so on.
async fn flake(switch: Switch) {
    loop {
        for (mode, seconds) in [(Mode::Healthy, 45), (Mode::Status(500), 15), (Mode::Healthy, 30), (Mode::Hang, 15)] {
            switch.set(mode);
            tokio::time::sleep(Duration::from_secs(seconds)).await;
        }
    }
}

fn welcome(manifests: &str, file: &str, url: &str) -> String {
    let ping = if may_ping() {
        ""
    } else {
        "No host is pinged: the system setting net.ipv4.ping_group_range does not have the group of this process.\n"
    };
    let indented = manifests.trim_end().replace('\n', "\n    ");
    format!(
        "These targets are being polled. They stand in {file};\nedit that file, and the service follows within two seconds.\n\n    {indented}\n\n\
         The page            {url}/\n\
         One target          {url}/probe?target=webrtc/sora-tokyo\n\
         How it was polled   {url}/probe?target=webrtc/sora-tokyo&debug=true\n\
         One with members    {url}/probe?target=webrtc/mediasoup-rooms&debug=true\n\
         A probe             {url}/probe?target=shop/website-moved&debug=true\n\
         With a token        {url}/probe?target=fiware/orion-secured&debug=true\n\
         For Prometheus      {url}/sd\n\
         For scripts         {url}/api/v1/targets\n\
         The exporter        {url}/metrics\n\n\
         sora-nagoya is flaky, {DOWN} is down, one member of mediasoup-rooms is down, and the certificate of the website ends in ten days, on\n\
         purpose. {ping}Stop with Ctrl-C.\n"
    )
}

/// Waits until every target has been polled, and prints a line for each. Succeeds if all are as the demo intends.
async fn poll_all(pollers: &Pollers) -> anyhow::Result<ExitCode> {
    let known = async {
        while !pollers.known() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), known).await.context("the targets are not known after 10 s")?;
    let mut wrong = Vec::new();
    for poller in pollers.list() {
        let snapshot = poller.answer(Duration::from_secs(10)).await;
        let state = poller.status().state;
        let reason = snapshot
            .failure
            .as_ref()
            .map(|failure| format!("  {}: {}", failure.reason.as_str(), failure.message))
            .unwrap_or_default();
        print(&format!(
            "{:<9} {:<24} {:>4} samples{reason}\n",
            state.as_str(),
            poller.id().to_string(),
            snapshot.samples
        ));
        let intended = if &*poller.id().name == DOWN { TargetState::Down } else { TargetState::Up };
        if state != intended {
            wrong.push(poller.id().to_string());
        }
    }
    if wrong.is_empty() { Ok(ExitCode::SUCCESS) } else { bail!("not as intended: {}", wrong.join(", ")) }
}
