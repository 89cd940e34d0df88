//! The command `simulate`: one simulated server, or a cluster of them, in the foreground. Also the servers that `demo` starts.

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
    let servers = start(server, token.as_deref(), listeners).context("read a listener's address")?;
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
fn start(server: SimulatedServer, token: Option<&str>, listeners: Vec<TcpListener>) -> io::Result<Vec<Simulated>> {
    let routes = match server {
        SimulatedServer::Sora if listeners.len() == 1 => vec![node().router()],
        SimulatedServer::Sora => cluster().nodes().iter().map(Node::router).collect(),
        SimulatedServer::Orion => vec![broker().routes()],
        SimulatedServer::Mediasoup => vec![agent(token).routes()],
        SimulatedServer::Edumeet => vec![edumeet(token).routes()],
    };
    listeners.into_iter().zip(routes).map(|(listener, routes)| Simulated::on(listener, routes)).collect()
}

/// The seed of the random numbers: the servers have the same numbers at each start.
const SEED: u64 = 20_261_121;

/// Servers start as if they had been up for this long, so that counters are not all 0.
const HISTORY: Duration = Duration::from_hours(3);

/// Three Sora servers in one cluster.
pub(super) fn cluster() -> Cluster {
    let cluster = Cluster::new(SEED);
    cluster.pass(HISTORY);
    cluster
}

/// A single Sora server.
pub(super) fn node() -> Node {
    let node = Node::single(SEED);
    node.pass(HISTORY);
    node
}

/// An Orion broker.
pub(super) fn broker() -> Broker {
    let broker = Broker::new(SEED);
    broker.pass(HISTORY);
    broker
}

/// The agent of a mediasoup application. Without a token, it answers all requests.
pub(super) fn agent(token: Option<&str>) -> Agent {
    let agent = Agent::new(SEED);
    agent.pass(HISTORY);
    token.into_iter().fold(agent, Agent::with_token)
}

/// edumeet with its own exporter. Without a secret, it answers all requests.
pub(super) fn edumeet(secret: Option<&str>) -> Edumeet {
    let edumeet = Edumeet::new(SEED);
    edumeet.pass(HISTORY);
    secret.into_iter().fold(edumeet, Edumeet::with_secret)
}
