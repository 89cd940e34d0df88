//! A simulated mediasoup agent: `GET /stats?detail=counts|producers|all` gives `mediasoup-stats/v1` of mediasoup 3.27.1.

pub(super) mod world;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Switch, Uptime};
use world::{Consumer, Peer, Producer, Room, Stream, Transport, World};

/// An application on mediasoup with an agent in it.
#[derive(Clone, Debug)]
pub struct Agent {
    world: SharedWorld,
    token: Option<Arc<str>>,
    switch: Switch,
}

/// A world that the requests to a server share. All clones are the same world.
#[derive(Clone, Debug)]
pub(super) struct SharedWorld(Arc<Mutex<Clock>>);

/// A world, and how far its time is ahead of the real one.
#[derive(Debug)]
struct Clock {
    world: World,
    uptime: Uptime,
    ahead: Duration,
}

impl SharedWorld {
    pub(super) fn new(seed: u64) -> Self {
        let clock = Clock { world: World::new(seed), uptime: Uptime::default(), ahead: Duration::ZERO };
        Self(Arc::new(Mutex::new(clock)))
    }

    /// What `read` makes of the world as it is now.
    pub(super) fn read<T>(&self, read: impl FnOnce(&World) -> T) -> T {
        let mut clock = self.lock();
        let now = clock.uptime.elapsed() + clock.ahead;
        clock.world.advance(now);
        read(&clock.world)
    }

    /// Advances the simulation by `time`, without waiting.
    pub(super) fn pass(&self, time: Duration) {
        self.lock().ahead += time;
    }

    fn lock(&self) -> MutexGuard<'_, Clock> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Agent {
    /// An application whose rooms depend on `seed`.
    pub fn new(seed: u64) -> Self {
        Self { world: SharedWorld::new(seed), token: None, switch: Switch::default() }
    }

    /// Sets the bearer token without which requests are answered with 401.
    #[must_use]
    pub fn with_token(mut self, token: &str) -> Self {
        self.token = Some(token.into());
        self
    }

    /// The switch of its mode.
    pub fn switch(&self) -> &Switch {
        &self.switch
    }

    /// Advances the simulation by `time`, without waiting.
    pub fn pass(&self, time: Duration) {
        self.world.pass(time);
    }

    /// Its routes.
    pub fn routes(&self) -> Router {
        self.switch.guard(Router::new().route("/stats", get(stats)).with_state(self.clone()))
    }
}

#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "lowercase")]
enum Detail {
    Counts,
    Producers,
    #[default]
    All,
}

#[derive(Debug, Deserialize)]
struct Parameters {
    #[serde(default)]
    detail: Detail,
}

async fn stats(State(agent): State<Agent>, headers: HeaderMap, Query(parameters): Query<Parameters>) -> Response {
    if !authorized(&headers, agent.token.as_deref()) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let document = agent.world.read(|world| document(world, parameters.detail));
    ([(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")], document.to_string())
        .into_response()
}

/// Whether the request has `token`, or none is required.
pub(super) fn authorized(headers: &HeaderMap, token: Option<&str>) -> bool {
    let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    token.is_none_or(|token| given.and_then(|given| given.strip_prefix("Bearer ")) == Some(token))
}

fn document(world: &World, detail: Detail) -> Value {
    let workers: Vec<Value> = world
        .workers
        .iter()
        .enumerate()
        .map(|(number, worker)| {
            let routers =
                world.rooms.iter().filter(|room| room.worker == number).map(|room| router(room, world, detail));
            json!({
                "pid": worker.pid,
                "created_ms": worker.created_ms,
                "rss_bytes": worker.rss_bytes,
                "resource_usage": {
                    "ru_utime": (worker.cpu_ms * 0.7).floor(), "ru_stime": (worker.cpu_ms * 0.3).floor(),
                    "ru_maxrss": 28_672, "ru_minflt": 1675, "ru_majflt": 3,
                    "ru_nvcsw": (worker.cpu_ms * 3.0).floor(), "ru_nivcsw": (worker.cpu_ms * 0.4).floor(),
                },
                "routers": routers.collect::<Vec<_>>(),
            })
        })
        .collect();
    let rooms: Vec<Value> =
        world.rooms.iter().map(|room| json!({ "id": room.id, "peers": room.peers.len() })).collect();
    json!({
        "schema": "mediasoup-stats/v1",
        "mediasoup_version": "3.27.1",
        "pid": 4700,
        "timestamp_ms": world.now_ms(),
        "started_ms": world.started_ms(),
        "lifetime": world.lifetime,
        "rooms": rooms,
        "workers": workers,
        "errors": [],
        "collection_ms": 4 + workers.len(),
    })
}

fn router(room: &Room, world: &World, detail: Detail) -> Value {
    let transports = room.peers.iter().flat_map(|peer| {
        let producers = peer.producers.iter().map(|p| producer(p, peer, world, detail)).collect::<Vec<_>>();
        let consumers = peer.consumers.iter().map(|c| consumer(c, peer, world, detail)).collect::<Vec<_>>();
        [transport(&peer.send, peer, world, &producers, &[]), transport(&peer.receive, peer, world, &[], &consumers)]
    });
    json!({
        "id": room.router_id,
        "created_ms": room.created_ms,
        "app": { "roomId": room.id },
        "transports": transports.collect::<Vec<_>>(),
    })
}

fn transport(transport: &Transport, peer: &Peer, world: &World, producers: &[Value], consumers: &[Value]) -> Value {
    let rtp = transport.rtp_bytes;
    let (received, sent) = if transport.id == peer.send.id { (rtp, 0) } else { (0, rtp) };
    let mut stats = json!({
        "transportId": transport.id, "timestamp": world.now_ms() - world.started_ms(), "type": "webrtc-transport",
        "bytesReceived": received + received / 50 + 900, "bytesSent": sent + sent / 40 + 900,
        "rtpBytesReceived": received, "rtpBytesSent": sent, "rtxBytesReceived": received / 300, "rtxBytesSent": sent / 300,
        "probationBytesSent": sent / 2000,
        "sctpState": "new", "iceRole": "controlled", "iceState": "completed", "dtlsState": "connected",
        "iceSelectedTuple": {
            "localIp": "192.0.2.10", "localAddress": "192.0.2.10", "localPort": transport.local_port,
            "remoteIp": peer.remote_ip, "remotePort": transport.remote_port, "protocol": "udp",
        },
    });
    if transport.id == peer.receive.id {
        stats["availableOutgoingBitrate"] = json!(4_000_000 + rtp % 500_000);
        stats["rtpPacketLossSent"] = json!(0.002);
    } else {
        stats["availableIncomingBitrate"] = json!(0);
        stats["rtpPacketLossReceived"] = json!(0.001);
    }
    json!({
        "id": transport.id, "type": "webrtc", "created_ms": transport.created_ms, "app": { "peerId": peer.id },
        "stats": stats, "producers": producers, "consumers": consumers, "data_producers": [], "data_consumers": [],
    })
}

/// What producers and consumers have in common: kind, codec, clock rate.
const fn media(video: bool) -> (&'static str, &'static str, u32) {
    if video { ("video", "video/VP8", 90_000) } else { ("audio", "audio/opus", 48_000) }
}

fn producer(producer: &Producer, peer: &Peer, world: &World, detail: Detail) -> Value {
    let (kind, codec, clock_rate) = media(producer.video);
    let score =
        |(index, stream): (usize, &Stream)| json!({ "encodingIdx": index, "ssrc": stream.ssrc, "score": stream.score });
    let mut object = json!({
        "id": producer.id, "kind": kind, "type": if producer.video { "simulcast" } else { "simple" }, "codec": codec,
        "clock_rate": clock_rate, "paused": false, "app": { "peerId": peer.id },
        "score": producer.streams.iter().enumerate().map(score).collect::<Vec<_>>(),
    });
    if detail >= Detail::Producers {
        let streams = producer.streams.iter().map(|stream| entry(stream, "inbound-rtp", producer.video, world));
        object["streams"] = streams.collect();
    }
    object
}

fn consumer(consumer: &Consumer, peer: &Peer, world: &World, detail: Detail) -> Value {
    let (kind, codec, clock_rate) = media(consumer.video);
    let score = consumer.stream.score;
    let mut object = json!({
        "id": consumer.id, "producer_id": consumer.producer_id, "kind": kind,
        "type": if consumer.video { "simulcast" } else { "simple" }, "codec": codec, "clock_rate": clock_rate,
        "app": { "peerId": peer.id }, "paused": false, "producer_paused": false, "priority": 1,
        "score": { "score": score, "producerScore": 10, "producerScores": [10] },
    });
    if consumer.video {
        object["preferred_layers"] = json!({ "spatialLayer": 2, "temporalLayer": 2 });
        object["current_layers"] = json!({ "spatialLayer": consumer.layer, "temporalLayer": 2 });
    }
    if detail >= Detail::All {
        object["streams"] = json!([entry(&consumer.stream, "outbound-rtp", consumer.video, world)]);
    }
    object
}

fn entry(stream: &Stream, class: &str, video: bool, world: &World) -> Value {
    let (kind, codec, _) = media(video);
    let outbound = class == "outbound-rtp";
    json!({
        "timestamp": world.now_ms() - world.started_ms(), "ssrc": stream.ssrc, "kind": kind, "mimeType": codec, "type": class,
        "byteCount": stream.bytes, "packetCount": stream.packets, "bitrate": stream.bitrate, "packetsLost": stream.lost,
        "fractionLost": (10 - stream.score) * 3, "jitter": 90 + stream.bytes % 120, "packetsDiscarded": 0,
        "packetsRetransmitted": stream.nacks, "packetsRepaired": stream.nacks, "nackCount": stream.nacks,
        "nackPacketCount": stream.nacks, "pliCount": if video { stream.plis } else { 0 }, "firCount": 0,
        "roundTripTime": if outbound { stream.round_trip_ms } else { 0.0 }, "score": stream.score,
    })
}
