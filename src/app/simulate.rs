//! The command `simulate`: one simulated server, or a cluster of them, in the foreground.

use std::io;
use std::process::ExitCode;

use anyhow::Context;
use tokio::net::TcpListener;

use super::service::{Signals, listen};
use super::{print, simulated};
use crate::cli::{SimulateArgs, SimulatedServer};
use simulators::Simulated;
use simulators::sora::Node;

/// Serves until a signal comes.
pub(super) async fn run(args: SimulateArgs) -> anyhow::Result<ExitCode> {
    let SimulateArgs { server, mut listen_address, token } = args;
    if listen_address.is_empty() {
        listen_address.push(usual_port(server).parse().map_err(anyhow::Error::msg)?);
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
    let routes = match server {
        SimulatedServer::Sora if listeners.len() == 1 => vec![simulated::node().router()],
        SimulatedServer::Sora => simulated::cluster().nodes().iter().map(Node::router).collect(),
        SimulatedServer::Orion => vec![simulated::broker().routes()],
        SimulatedServer::Mediasoup => vec![simulated::agent(token).routes()],
        SimulatedServer::Edumeet => vec![simulated::edumeet(token).routes()],
    };
    listeners.into_iter().zip(routes).map(|(listener, routes)| Simulated::on(listener, routes)).collect()
}
