//! The simulated servers of the commands `demo` and `simulate`: the same numbers at each start, as of servers that have been up for a
//! while, so that counters are not all at 0.

use std::time::Duration;

use simulators::edumeet::Edumeet;
use simulators::mediasoup::Agent;
use simulators::orion::Broker;
use simulators::sora::{Cluster, Node};

const SEED: u64 = 20_261_121;

const HISTORY: Duration = Duration::from_hours(3);

/// Three Sora servers that know each other.
pub(super) fn cluster() -> Cluster {
    let cluster = Cluster::new(SEED);
    cluster.pass(HISTORY);
    cluster
}

/// A Sora server alone.
pub(super) fn node() -> Node {
    let node = Node::single(SEED);
    node.pass(HISTORY);
    node
}

pub(super) fn broker() -> Broker {
    let broker = Broker::new(SEED);
    broker.pass(HISTORY);
    broker
}

/// The agent in an application on mediasoup. Without a token, it answers everybody.
pub(super) fn agent(token: Option<&str>) -> Agent {
    let agent = Agent::new(SEED);
    agent.pass(HISTORY);
    token.into_iter().fold(agent, Agent::with_token)
}

/// Without a secret, it answers everybody.
pub(super) fn edumeet(secret: Option<&str>) -> Edumeet {
    let edumeet = Edumeet::new(SEED);
    edumeet.pass(HISTORY);
    secret.into_iter().fold(edumeet, Edumeet::with_secret)
}
