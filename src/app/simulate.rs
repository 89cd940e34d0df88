//! The command `simulate`: one simulated server, or a cluster of them, in the foreground.

use std::io;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use tokio::net::TcpListener;

use super::print;
use super::service::{listen, signal};
use crate::cli::{SimulateArgs, SimulatedServer};
use crate::sim::Simulated;
use crate::sim::edumeet::Edumeet;
use crate::sim::mediasoup::Agent;
use crate::sim::orion::Broker;
use crate::sim::sora::{Cluster, Node};

/// The numbers are the same at each start.
const SEED: u64 = 20_261_121;

/// The server has been up for a while when it starts: counters are not all at 0.
const HISTORY: Duration = Duration::from_hours(3);

/// Serves until a signal comes.
pub(super) async fn run(args: SimulateArgs) -> anyhow::Result<ExitCode> {
    let SimulateArgs { server, mut listen_address, token } = args;
    if listen_address.is_empty() {
        listen_address.push(usual_port(server).parse().map_err(anyhow::Error::msg)?);
    }
    let mut listeners = Vec::new();
    for address in &listen_address {
        listeners.push(listen(address).await?);
    }
    let servers = start(server, token.as_deref(), listeners).context("read a listener's address")?;
    for server in &servers {
        print(&format!("listening on {}\n", server.address));
    }
    signal().await?;
    Ok(ExitCode::SUCCESS)
}

/// Where such a server listens if nobody has changed it.
const fn usual_port(server: SimulatedServer) -> &'static str {
    match server {
        SimulatedServer::Sora => ":3000",
        SimulatedServer::Orion => ":1026",
        SimulatedServer::Mediasoup => ":9851",
        SimulatedServer::Edumeet => ":8889",
    }
}

/// A server on each listener. Several Sora servers are one cluster.
fn start(server: SimulatedServer, token: Option<&str>, listeners: Vec<TcpListener>) -> io::Result<Vec<Simulated>> {
    let single = listeners.len() == 1;
    let listeners = listeners.into_iter();
    match server {
        SimulatedServer::Sora if single => {
            let server = Node::single(SEED);
            server.pass(HISTORY);
            listeners.map(|listener| Simulated::on(listener, server.router())).collect()
        }
        SimulatedServer::Sora => {
            let cluster = Cluster::new(SEED);
            cluster.pass(HISTORY);
            cluster
                .nodes()
                .iter()
                .zip(listeners)
                .map(|(node, listener)| Simulated::on(listener, node.router()))
                .collect()
        }
        SimulatedServer::Orion => {
            let broker = Broker::new(SEED);
            broker.pass(HISTORY);
            listeners.map(|listener| Simulated::on(listener, broker.routes())).collect()
        }
        SimulatedServer::Mediasoup => {
            let agent = Agent::new(SEED);
            agent.pass(HISTORY);
            let agent = token.into_iter().fold(agent, Agent::with_token);
            listeners.map(|listener| Simulated::on(listener, agent.routes())).collect()
        }
        SimulatedServer::Edumeet => {
            let edumeet = Edumeet::new(SEED);
            edumeet.pass(HISTORY);
            let edumeet = token.into_iter().fold(edumeet, Edumeet::with_secret);
            listeners.map(|listener| Simulated::on(listener, edumeet.routes())).collect()
        }
    }
}
