//! Simulated Sora servers: a single one, or a cluster of three, one of which comes and goes.
//!
//! Requests are validated as by Sora's API: header, method, body, and an `error_type` for invalid ones. Only the four operations that read
//! are simulated; any other is unknown.

mod report;
mod traffic;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use serde_json::{Value, json};

use self::traffic::Traffic;
use super::{Mode, Switch, Uptime};

/// How long each server has been up when the simulation begins, so that its counters are not all near 0.
const BEFORE: Duration = Duration::from_hours(1);
/// Sora takes bodies of up to 8 MB.
const MAX_BODY: usize = 8_000_000;

/// Three Sora servers in one cluster. The third is a temporary node; a server whose switch is not healthy is missed by the others.
#[derive(Clone, Debug)]
pub struct Cluster {
    nodes: Vec<Node>,
}

impl Cluster {
    /// How many servers there are.
    pub const NODES: usize = 3;

    /// A cluster whose traffic depends on the seed and on the time that has passed.
    pub fn new(seed: u64) -> Self {
        let members: Arc<[Member]> = (0..Self::NODES).map(Member::new).collect();
        let shared = Arc::new(Shared { raft: Mutex::new(Raft { term: 3, leader: 0 }), members });
        let node = |index| Node::build(seed.wrapping_add(index as u64), index, Some(shared.clone()));
        Self { nodes: (0..Self::NODES).map(node).collect() }
    }

    /// Its servers, [`NODES`](Self::NODES) of them.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Advances the simulation of every server, without waiting.
    pub fn pass(&self, time: Duration) {
        for node in &self.nodes {
            node.pass(time);
        }
    }
}

/// One Sora server.
#[derive(Clone, Debug)]
pub struct Node(Arc<Server>);

#[derive(Debug)]
struct Server {
    index: usize,
    switch: Switch,
    cluster: Option<Arc<Shared>>,
    uptime: Uptime,
    state: Mutex<NodeState>,
}

#[derive(Debug)]
struct NodeState {
    traffic: Traffic,
    skipped: Duration,
}

#[derive(Debug)]
struct Shared {
    raft: Mutex<Raft>,
    members: Arc<[Member]>,
}

#[derive(Debug)]
struct Member {
    name: String,
    temporary: bool,
    switch: Switch,
}

#[derive(Clone, Copy, Debug)]
struct Raft {
    term: u64,
    leader: usize,
}

impl Node {
    /// A server without a cluster.
    pub fn single(seed: u64) -> Self {
        Self::build(seed, 0, None)
    }

    fn build(seed: u64, index: usize, cluster: Option<Arc<Shared>>) -> Self {
        let switch = cluster.as_ref().map_or_else(Switch::default, |shared| shared.members[index].switch.clone());
        let peers = cluster.as_ref().map_or(0, |shared| shared.members.len() - 1);
        let mut traffic = Traffic::new(seed, peers);
        traffic.advance_to(BEFORE.as_secs());
        let state = Mutex::new(NodeState { traffic, skipped: BEFORE });
        Self(Arc::new(Server { index, switch, cluster, uptime: Uptime::default(), state }))
    }

    /// The switch of its mode.
    pub fn switch(&self) -> &Switch {
        &self.0.switch
    }

    /// Advances the simulation, without waiting.
    pub fn pass(&self, time: Duration) {
        lock(&self.0.state).skipped += time;
    }

    /// From now on its auth webhook does not answer: nobody can join any more, and connections that are open continue.
    pub fn break_auth_webhook(&self) {
        let mut state = lock(&self.0.state);
        let now = self.0.now(&state);
        state.traffic.advance_to(now);
        state.traffic.auth.broken = true;
    }

    /// The routes of its API, behind its switch.
    pub fn router(&self) -> Router {
        let routes =
            Router::new().route("/", any(dispatch)).layer(DefaultBodyLimit::max(MAX_BODY)).with_state(self.0.clone());
        self.0.switch.guard(routes)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn dispatch(
    State(server): State<Arc<Server>>,
    method: Method,
    headers: HeaderMap,
    body: Result<Bytes, axum::extract::rejection::BytesRejection>,
) -> Response {
    let (status, answer) = match body {
        Ok(body) => match server.answer(&method, headers.get("x-sora-target"), &body) {
            Ok(answer) => (StatusCode::OK, answer),
            Err(error) => (StatusCode::BAD_REQUEST, error),
        },
        Err(_) => (StatusCode::PAYLOAD_TOO_LARGE, error_type("PayloadTooLarge")),
    };
    let headers = [(header::CONTENT_TYPE, "application/json"), (header::SERVER, "Cowboy")];
    (status, headers, answer.to_string()).into_response()
}

fn error_type(name: &str) -> Value {
    json!({ "error_type": name })
}

impl Server {
    /// The answer of a call, or the body of its 400.
    fn answer(&self, method: &Method, target: Option<&HeaderValue>, body: &[u8]) -> Result<Value, Value> {
        if method != Method::POST {
            return Err(json!({ "type": "UnexpectedMethod" }));
        }
        let Some(target) = target else { return Err(json!({ "type": "MissingHeaderName" })) };
        let (service, version, operation) =
            target.to_str().ok().and_then(split_target).ok_or_else(|| error_type("MissingService"))?;
        if service != "Sora" {
            return Err(error_type("InvalidTarget"));
        }
        let call = match (version, operation) {
            ("20171010", "GetStatsReport") => Self::stats_report,
            ("20171218", "GetLicense") => Self::license,
            ("20211215", "ListClusterNodes") => Self::cluster_nodes,
            ("20211215", "GetMode") => Self::mode,
            _ => return Err(error_type("MissingTarget")),
        };
        if body.is_empty() {
            return call(self);
        }
        // None of the four takes parameters, so no body fits.
        let reason = json!({ "service": service, "version": version, "operation": operation });
        match serde_json::from_slice::<Value>(body) {
            Ok(_) => Err(json!({ "error_type": "SchemaNotFound", "error_reason": reason })),
            Err(_) => Err(error_type("MalformedJSON")),
        }
    }

    /// Seconds since the server was started, up to which its traffic has come.
    fn now(&self, state: &NodeState) -> u64 {
        (self.uptime.elapsed() + state.skipped).as_secs()
    }

    #[expect(clippy::unnecessary_wraps, reason = "one signature for all calls")]
    fn stats_report(&self) -> Result<Value, Value> {
        let mut state = lock(&self.state);
        let now = self.now(&state);
        state.traffic.advance_to(now);
        let mut report = report::of(&mut state.traffic);
        drop(state);
        if let Some(shared) = &self.cluster {
            let raft = shared.raft();
            report["cluster"] = json!({
                "raft_state": if raft.leader == self.index { "leader" } else { "follower" },
                "raft_term": raft.term,
                "raft_commit_index": raft.term * 4 + now / 60,
            });
            let peers = shared.members.iter().enumerate().filter(|(index, _)| *index != self.index);
            if let Some(relays) = report["cluster_relay"].as_array_mut() {
                for (relay, (_, peer)) in relays.iter_mut().zip(peers) {
                    relay["node_name"] = json!(peer.name);
                }
            }
        }
        Ok(report)
    }

    #[expect(clippy::unnecessary_wraps, reason = "one signature for all calls")]
    fn license(&self) -> Result<Value, Value> {
        let next_year = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).year() + 1;
        let mut license = json!({
            "expired_at": format!("{next_year}-03"),
            "max_connections": 100,
            "product_name": "Sora",
            "serial_code": format!("SIMULATED-SRA-E001-{next_year}03-N10-100"),
            "type": "Experimental",
        });
        if self.cluster.is_some() {
            license["max_nodes"] = json!(10);
        }
        Ok(license)
    }

    fn cluster_nodes(&self) -> Result<Value, Value> {
        // What a Sora without a cluster calls this error is not documented.
        let shared = self.cluster.as_ref().ok_or_else(|| error_type("ClusterDisabled"))?;
        let now = self.now(&lock(&self.state));
        let node = |(index, member): (usize, &Member)| {
            if index != self.index && member.switch.get() != Mode::Healthy {
                return json!({ "node_name": member.name, "connected": false });
            }
            json!({
                "node_name": member.name,
                "epoch": 1,
                "mode": mode_at(index, now),
                "cluster_signaling_url": format!("ws://127.0.0.{}:5000/signaling", index + 1),
                "cluster_api_url": format!("http://127.0.0.{}:3000/", index + 1),
                "member_since": "2026-05-09T07:44:54.160763Z",
                "sora_version": report::VERSION,
                "license_max_nodes": 10,
                "license_max_connections": 100,
                "license_serial_code": "SIMULATED-SRA-E001-N10-100",
                "license_type": "Experimental",
                "connected": true,
                "temporary_node": member.temporary,
            })
        };
        Ok(shared.members.iter().enumerate().map(node).collect())
    }

    #[expect(clippy::unnecessary_wraps, reason = "one signature for all calls")]
    fn mode(&self) -> Result<Value, Value> {
        let now = self.now(&lock(&self.state));
        Ok(json!({ "mode": mode_at(self.index, now) }))
    }
}

impl Shared {
    /// Who leads: when the leader is away, the first healthy member wins an election, and the term rises.
    fn raft(&self) -> Raft {
        let mut raft = lock(&self.raft);
        let healthy = |index: usize| self.members[index].switch.get() == Mode::Healthy;
        if !healthy(raft.leader)
            && let Some(leader) = (0..self.members.len()).find(|index| healthy(*index))
        {
            *raft = Raft { term: raft.term + 1, leader };
        }
        *raft
    }
}

impl Member {
    fn new(index: usize) -> Self {
        Self {
            name: format!("sora-{}@127.0.0.{}", index + 1, index + 1),
            temporary: index + 1 == Cluster::NODES,
            switch: Switch::default(),
        }
    }
}

/// The last node of a cluster is taken out of service for two minutes of every ten; the others always take sessions.
fn mode_at(index: usize, now: u64) -> &'static str {
    if index + 1 == Cluster::NODES && now % 600 >= 480 { "block_new_session" } else { "normal" }
}

/// `Service_YYYYMMDD.Operation` in its parts.
fn split_target(target: &str) -> Option<(&str, &str, &str)> {
    let (service, rest) = target.split_once('_')?;
    let (version, operation) = rest.split_once('.')?;
    let date = version.len() == 8 && version.bytes().all(|b| b.is_ascii_digit());
    let word = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric());
    (date && word(service) && word(operation)).then_some((service, version, operation))
}
