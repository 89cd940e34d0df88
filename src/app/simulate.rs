//! The command `simulate`: one simulated server, a cluster of them, or one behind its proxy, in the foreground. Also the servers that `demo` starts.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::Ipv4Addr;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tokio::net::TcpListener;

use super::print;
use super::service::{Signals, listen};
use crate::cli::{SimulateArgs, SimulatedFault, SimulatedServer};
use simulators::edumeet::Edumeet;
use simulators::keyrock::{Application, Keyrock, User};
use simulators::mediasoup::Agent;
use simulators::nameserver::NameServer;
use simulators::orion::Broker;
use simulators::signalling::Signalling;
use simulators::sora::{Cluster, Node};
use simulators::turn::TurnServer;
use simulators::website::Website;
use simulators::wilma::{Level, Wilma};
use simulators::{Mode, Simulated, Switch};

/// The zone of the simulated name server. The domain is reserved: no real name server knows it.
pub(super) const ZONE: &str = "shop.test";

/// The website in it.
pub(super) const WEBSITE: &str = "www.shop.test";

/// Serves until a signal comes.
pub(super) async fn run(args: SimulateArgs) -> anyhow::Result<ExitCode> {
    let SimulateArgs { server, mut listen_address, token, fault } = args;
    if listen_address.is_empty() {
        for address in default_addresses(server) {
            listen_address.push(address.parse().map_err(anyhow::Error::msg)?);
        }
    }
    let mut signals = Signals::receive()?;
    let mut listeners = Vec::new();
    for address in &listen_address {
        listeners.push(listen(address).await?);
    }
    let simulation = Simulation::start(server, token.as_deref(), fault, listeners).await?;
    let mode = fault.map_or(Mode::Healthy, mode);
    simulation.switches.iter().for_each(|switch| switch.set(mode));
    for server in &simulation.servers {
        print(&format!("listening on {}\n", server.address));
    }
    print(&simulation.more);
    signals.next().await;
    Ok(ExitCode::SUCCESS)
}

/// Where such a server listens by default.
const fn default_addresses(server: SimulatedServer) -> &'static [&'static str] {
    match server {
        SimulatedServer::Sora => &[":3000"],
        SimulatedServer::Orion => &[":1026"],
        SimulatedServer::Mediasoup => &[":9851"],
        SimulatedServer::Edumeet => &[":8889"],
        SimulatedServer::Website => &[":8443"],
        SimulatedServer::Dns => &[":1053"],
        SimulatedServer::Signalling => &[":5000"],
        SimulatedServer::Turn => &[":3478"],
        SimulatedServer::Wilma => &[":1027", ":3005"],
    }
}

const fn mode(fault: SimulatedFault) -> Mode {
    match fault {
        SimulatedFault::Error => Mode::Status(500),
        SimulatedFault::Hang => Mode::Hang,
        SimulatedFault::Html => Mode::Html,
        SimulatedFault::Empty => Mode::Empty,
        SimulatedFault::Truncated => Mode::Truncated,
        // The server itself answers as always.
        SimulatedFault::AuthWebhook
        | SimulatedFault::ExpiredCertificate
        | SimulatedFault::SlowTokens
        | SimulatedFault::LostTokens
        | SimulatedFault::BadDecisions => Mode::Healthy,
    }
}

/// Servers that run.
struct Simulation {
    servers: Vec<Simulated>,
    switches: Vec<Switch>,
    /// What clients have to know besides the addresses.
    more: String,
}

impl Simulation {
    /// A server on each listener. Several Sora servers are one cluster.
    async fn start(
        server: SimulatedServer,
        token: Option<&str>,
        fault: Option<SimulatedFault>,
        listeners: Vec<TcpListener>,
    ) -> anyhow::Result<Self> {
        let start = Start::of_this_host();
        let (mut servers, mut more) = (Vec::new(), String::new());
        let (routes, switches) = match server {
            SimulatedServer::Sora => {
                let nodes = if listeners.len() == 1 { vec![node(start)] } else { cluster(start).nodes().to_vec() };
                if fault == Some(SimulatedFault::AuthWebhook) {
                    nodes.iter().for_each(Node::break_auth_webhook);
                }
                nodes.iter().map(|node| (node.router(), node.switch().clone())).unzip()
            }
            SimulatedServer::Orion => {
                let broker = broker(start);
                (vec![broker.routes()], vec![broker.switch()])
            }
            SimulatedServer::Mediasoup => {
                let agent = agent(start, token);
                (vec![agent.routes()], vec![agent.switch().clone()])
            }
            SimulatedServer::Edumeet => {
                let edumeet = edumeet(start, token);
                (vec![edumeet.routes()], vec![edumeet.switch().clone()])
            }
            SimulatedServer::Wilma => {
                let secret = if token.is_some() { "that of --token" } else { PASSWORD };
                more = format!("the application is {APPLICATION}, its user {USER}; secret and password: {secret}\n");
                let secured = Secured::new(start, token);
                match fault {
                    Some(SimulatedFault::SlowTokens) => secured.keyrock.set_delay(SLOW_TOKEN),
                    Some(SimulatedFault::LostTokens) => secured.lose_tokens(),
                    Some(SimulatedFault::BadDecisions) => secured.keyrock.decision_switch().set(Mode::Html),
                    _ => {}
                }
                (vec![secured.wilma.routes(), secured.keyrock.routes()], vec![secured.keyrock.token_switch().clone()])
            }
            SimulatedServer::Website => {
                let names = ["localhost", "127.0.0.1", "::1", WEBSITE];
                let website = match fault {
                    Some(SimulatedFault::ExpiredCertificate) => expired_website(&names)?,
                    _ => website(&names)?,
                };
                for listener in listeners {
                    servers.push(website.on(listener).context("read a listener's address")?);
                }
                more = format!("its certificate is signed by:\n{}", certificate_pem(website.authority()));
                return Ok(Self { servers, switches: vec![website.switch().clone()], more });
            }
            SimulatedServer::Signalling => {
                let server = Signalling::default();
                let server = match token {
                    Some(token) => server.guarded(&format!("Bearer {token}")),
                    None => server,
                };
                for listener in listeners {
                    servers.push(server.on(listener).context("read a listener's address")?);
                }
                return Ok(Self { servers, switches: vec![server.switch().clone()], more });
            }
            SimulatedServer::Dns => {
                let server = name_server()?;
                for listener in listeners {
                    servers.push(server.on(listener).await.context("listen over UDP as well")?);
                }
                return Ok(Self { servers, switches: vec![server.switch().clone()], more });
            }
            SimulatedServer::Turn => {
                let server = turn_server(token);
                for listener in listeners {
                    servers.push(server.on(listener).await.context("listen over UDP as well")?);
                }
                return Ok(Self { servers, switches: vec![server.switch().clone()], more });
            }
        };
        for (listener, routes) in listeners.into_iter().zip(routes) {
            servers.push(Simulated::on(listener, routes).context("read a listener's address")?);
        }
        Ok(Self { servers, switches, more })
    }
}

/// A certificate as people and ConfigMaps hold it.
pub(super) fn certificate_pem(der: &[u8]) -> String {
    const LINE: usize = 64;
    let mut pem = "-----BEGIN CERTIFICATE-----\n".to_owned();
    let mut rest = STANDARD.encode(der);
    while !rest.is_empty() {
        let more = rest.split_off(LINE.min(rest.len()));
        pem.extend([rest.as_str(), "\n"]);
        rest = more;
    }
    pem + "-----END CERTIFICATE-----\n"
}

/// A website whose certificate ends in ten days.
pub(super) fn website(names: &[&str]) -> anyhow::Result<Website> {
    const LEFT: Duration = Duration::from_hours(10 * 24);
    website_until(names, SystemTime::now() + LEFT)
}

/// A website whose certificate has not been renewed in time.
fn expired_website(names: &[&str]) -> anyhow::Result<Website> {
    const AGO: Duration = Duration::from_hours(1);
    website_until(names, SystemTime::now() - AGO)
}

fn website_until(names: &[&str], end: SystemTime) -> anyhow::Result<Website> {
    Website::new(names, end).context("make the certificate of the website")
}

/// A name server that knows the website.
pub(super) fn name_server() -> anyhow::Result<NameServer> {
    NameServer::new(ZONE, Ipv4Addr::LOCALHOST).context("make the zone of the name server")
}

/// The user of the simulated TURN server, and the password without another one. It is no secret: nobody reaches anything through that server.
pub(super) const TURN_USER: &str = "demo";

/// A TURN server with one user.
pub(super) fn turn_server(password: Option<&str>) -> TurnServer {
    TurnServer::with_user(TURN_USER, password.unwrap_or(TURN_USER))
}

/// The application that Wilma protects.
pub(super) const APPLICATION: &str = "6f3b1c58-2d0e-4f8e-9a35-7d1f0c9b4e62";

/// Its user, whose role permits what the exporter reads.
pub(super) const USER: &str = "exporter@example.com";

/// Its secret, and the password of the user, without other ones. They are no secrets: nobody reaches anything but simulated servers with them.
pub(super) const PASSWORD: &str = "demo";

/// How long a slow Keyrock takes for a token.
const SLOW_TOKEN: Duration = Duration::from_secs(3);

/// How long a forgetful Keyrock knows its tokens. A token that is refused is replaced only once it is 30 seconds old, so with less than that, polls
/// would fail until then.
const TOKENS_KEPT: Duration = Duration::from_secs(45);

/// An Orion that answers only users whose role permits what they ask.
pub(super) struct Secured {
    pub(super) wilma: Wilma,
    pub(super) keyrock: Keyrock,
}

impl Secured {
    pub(super) fn new(start: Start, password: Option<&str>) -> Self {
        const PATHS: [&str; 4] = ["/admin/metrics", "/statistics", "/cache/statistics", "/version"];
        let password = password.unwrap_or(PASSWORD);
        let keyrock = Keyrock::default();
        keyrock.register(Application::new(APPLICATION, password));
        keyrock.add(User::with_role(USER, password, APPLICATION, &PATHS));
        Self { wilma: Wilma::new(&keyrock, APPLICATION, Level::Authorization, broker(start).routes()), keyrock }
    }

    /// From now on, tokens die before their time.
    fn lose_tokens(&self) {
        let (keyrock, wilma) = (self.keyrock.clone(), self.wilma.clone());
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(TOKENS_KEPT).await;
                keyrock.revoke_all();
                wilma.forget();
            }
        });
    }
}

/// What the numbers of a server depend on when it starts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Start {
    seed: u64,
    uptime: Duration,
}

impl Start {
    const SEED: u64 = 20_261_121;

    /// A server of `demo`. Servers of other numbers have other values, and each has the same ones at each start. They start as if they had
    /// been up for hours, so that counters are not all 0.
    pub(super) const fn of_demo(number: u64) -> Self {
        Self { seed: Self::SEED + number, uptime: Duration::from_hours(3) }
    }

    /// A server of `simulate`. Values depend on the host, so that those of two pods differ. It has hardly been up, as a real server that
    /// starts: a counter that began at a large value again would be counted as that much traffic.
    fn of_this_host() -> Self {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let mut hasher = DefaultHasher::new();
        host.hash(&mut hasher);
        Self { seed: Self::SEED ^ hasher.finish(), uptime: Duration::from_mins(1) }
    }
}

/// Three Sora servers in one cluster.
pub(super) fn cluster(start: Start) -> Cluster {
    let cluster = Cluster::new(start.seed);
    cluster.pass(start.uptime);
    cluster
}

/// A single Sora server.
fn node(start: Start) -> Node {
    let node = Node::single(start.seed);
    node.pass(start.uptime);
    node
}

/// An Orion broker.
pub(super) fn broker(start: Start) -> Broker {
    let broker = Broker::new(start.seed);
    broker.pass(start.uptime);
    broker
}

/// The agent of a mediasoup application. Without a token, it answers all requests.
pub(super) fn agent(start: Start, token: Option<&str>) -> Agent {
    let agent = Agent::new(start.seed);
    agent.pass(start.uptime);
    token.into_iter().fold(agent, Agent::with_token)
}

/// edumeet with its own exporter. Without a secret, it answers all requests.
pub(super) fn edumeet(start: Start, secret: Option<&str>) -> Edumeet {
    let edumeet = Edumeet::new(start.seed);
    edumeet.pass(start.uptime);
    secret.into_iter().fold(edumeet, Edumeet::with_secret)
}
