//! The command `simulate`: one simulated server, or a cluster of them, in the foreground. Also the servers that `demo` starts.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use tokio::net::TcpListener;

use super::print;
use super::service::{Signals, listen};
use crate::cli::{SimulateArgs, SimulatedServer};
use simulators::Simulated;
use simulators::edumeet::Edumeet;
use simulators::mediasoup::Agent;
use simulators::orion::Broker;
use simulators::sora::{Cluster, Node};

/// Serves until a signal comes.
pub(super) async fn run(args: SimulateArgs) -> anyhow::Result<ExitCode> {
    let SimulateArgs { server, mut listen_address, token } = args;
    if listen_address.is_empty() {
        listen_address.push(default_port(server).parse().map_err(anyhow::Error::msg)?);
    }
    let mut signals = Signals::receive()?;
    let mut listeners = Vec::new();
    for address in &listen_address {
        listeners.push(listen(address).await?);
    }
    let servers = serve(server, token.as_deref(), listeners).context("read a listener's address")?;
    for server in &servers {
        print(&format!("listening on {}\n", server.address));
    }
    signals.next().await;
    Ok(ExitCode::SUCCESS)
}

/// The default port of such a server.
const fn default_port(server: SimulatedServer) -> &'static str {
    match server {
        SimulatedServer::Sora => ":3000",
        SimulatedServer::Orion => ":1026",
        SimulatedServer::Mediasoup => ":9851",
        SimulatedServer::Edumeet => ":8889",
    }
}

/// A server on each listener. Several Sora servers are one cluster.
fn serve(server: SimulatedServer, token: Option<&str>, listeners: Vec<TcpListener>) -> io::Result<Vec<Simulated>> {
    let start = Start::of_this_host();
    let routes = match server {
        SimulatedServer::Sora if listeners.len() == 1 => vec![node(start).router()],
        SimulatedServer::Sora => cluster(start).nodes().iter().map(Node::router).collect(),
        SimulatedServer::Orion => vec![broker(start).routes()],
        SimulatedServer::Mediasoup => vec![agent(start, token).routes()],
        SimulatedServer::Edumeet => vec![edumeet(start, token).routes()],
    };
    listeners.into_iter().zip(routes).map(|(listener, routes)| Simulated::on(listener, routes)).collect()
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
