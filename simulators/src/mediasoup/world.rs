//! Rooms that people join and leave: the state that the simulated agent and the simulated edumeet server report.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::Noise;

/// How long the application has run when the simulation begins.
const AGE: Duration = Duration::from_hours(1);
/// Longest step, so that a gap of a night is caught up on at once.
const MOST_STEPS: u32 = 300;
/// Fewest and most people in a room.
const FEWEST: usize = 2;
const MOST: usize = 5;

/// An application on mediasoup.
#[derive(Debug)]
pub(crate) struct World {
    noise: Noise,
    elapsed: Duration,
    started_ms: u64,
    pub(crate) workers: Vec<Worker>,
    pub(crate) rooms: Vec<Room>,
    /// What happened since the start, by the names of the agent's document.
    pub(crate) lifetime: BTreeMap<&'static str, u64>,
}

#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) pid: u32,
    pub(crate) created_ms: u64,
    pub(crate) cpu_ms: f64,
    pub(crate) rss_bytes: u64,
}

#[derive(Debug)]
pub(crate) struct Room {
    pub(crate) id: String,
    pub(crate) router_id: String,
    pub(crate) worker: usize,
    pub(crate) created_ms: u64,
    pub(crate) peers: Vec<Peer>,
}

#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) id: String,
    pub(crate) remote_ip: String,
    pub(crate) send: Transport,
    pub(crate) receive: Transport,
    pub(crate) producers: Vec<Producer>,
    pub(crate) consumers: Vec<Consumer>,
}

#[derive(Debug)]
pub(crate) struct Transport {
    pub(crate) id: String,
    pub(crate) created_ms: u64,
    pub(crate) local_port: u64,
    pub(crate) remote_port: u64,
    pub(crate) rtp_bytes: u64,
}

#[derive(Debug)]
pub(crate) struct Producer {
    pub(crate) id: String,
    pub(crate) video: bool,
    pub(crate) streams: Vec<Stream>,
}

#[derive(Debug)]
pub(crate) struct Consumer {
    pub(crate) id: String,
    pub(crate) producer_id: String,
    pub(crate) video: bool,
    /// Which of the producer's encodings it gets.
    pub(crate) layer: usize,
    pub(crate) stream: Stream,
}

#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) ssrc: u64,
    pub(crate) bitrate: u64,
    pub(crate) bytes: u64,
    pub(crate) packets: u64,
    pub(crate) lost: u64,
    pub(crate) nacks: u64,
    pub(crate) plis: u64,
    pub(crate) score: u64,
    pub(crate) round_trip_ms: f64,
}

impl Stream {
    fn new(noise: &mut Noise, bitrate: u64) -> Self {
        Self {
            ssrc: 1_000_000 + noise.below(4_000_000_000),
            bitrate,
            bytes: 0,
            packets: 0,
            lost: 0,
            nacks: 0,
            plis: 1,
            score: 10,
            round_trip_ms: 8.0,
        }
    }

    fn flow(&mut self, noise: &mut Noise, step: Duration) {
        let bits = self.bitrate * (90 + noise.below(20)) / 100;
        let bytes = bits * millis(step) / 8000;
        self.bytes += bytes;
        let packets = bytes / 900 + 1;
        self.packets += packets;
        let lost = if noise.below(4) == 0 { noise.below(packets / 50 + 2) } else { 0 };
        self.lost += lost;
        self.nacks += lost;
        self.plis += u64::from(noise.below(60) == 0);
        self.score = 10 - lost.min(3);
        #[expect(clippy::cast_precision_loss, reason = "below 120")]
        let wait = noise.below(120) as f64;
        self.round_trip_ms = 5.0 + wait / 10.0;
    }
}

/// Whole milliseconds.
fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

const AUDIO_BITRATE: u64 = 32_000;
const VIDEO_BITRATES: [u64; 3] = [150_000, 500_000, 1_500_000];
const NAMES: [&str; 8] = ["alice", "bob", "chika", "dolores", "emeka", "fatima", "goro", "hanna"];

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let started_ms = millis(now.saturating_sub(AGE));
        let mut world = Self {
            noise: Noise::new(seed),
            elapsed: AGE,
            started_ms,
            workers: Vec::new(),
            rooms: Vec::new(),
            lifetime: BTreeMap::new(),
        };
        for i in 0..2 {
            let created_ms = started_ms + 120 * (i + 1);
            let pid = 4711 + u32::try_from(world.noise.below(9000)).unwrap_or_default();
            world.workers.push(Worker { pid, created_ms, cpu_ms: 900.0, rss_bytes: 24_000_000 });
            world.count("workers_created", 1);
        }
        for (worker, id) in ["maths-101", "staff"].into_iter().enumerate() {
            let router_id = uuid(&mut world.noise);
            let created_ms = started_ms + 5000;
            world.rooms.push(Room { id: id.to_owned(), router_id, worker, created_ms, peers: Vec::new() });
            world.count("routers_created", 1);
        }
        for room in 0..world.rooms.len() {
            for _ in 0..=FEWEST {
                world.join(room);
            }
        }
        world.step(Duration::from_mins(1));
        world
    }

    /// Unix time of this world in ms.
    pub(crate) fn now_ms(&self) -> u64 {
        self.started_ms + millis(self.elapsed)
    }

    pub(crate) const fn started_ms(&self) -> u64 {
        self.started_ms
    }

    /// Advances to `uptime` of the simulator.
    pub(crate) fn advance(&mut self, uptime: Duration) {
        let gap = (AGE + uptime).saturating_sub(self.elapsed);
        let step = Duration::from_secs(1).max(gap / MOST_STEPS);
        while self.elapsed + step <= AGE + uptime {
            self.elapsed += step;
            self.step(step);
        }
    }

    fn step(&mut self, step: Duration) {
        for room in 0..self.rooms.len() {
            let people = self.rooms.get(room).map_or(0, |room| room.peers.len());
            match self.noise.below(40) {
                0 if people > FEWEST => self.leave(room),
                1 if people < MOST => self.join(room),
                _ => {}
            }
        }
        for room in &mut self.rooms {
            for peer in &mut room.peers {
                for stream in peer.producers.iter_mut().flat_map(|producer| &mut producer.streams) {
                    let before = stream.bytes;
                    stream.flow(&mut self.noise, step);
                    peer.send.rtp_bytes += stream.bytes - before;
                }
                for consumer in &mut peer.consumers {
                    let before = consumer.stream.bytes;
                    consumer.stream.flow(&mut self.noise, step);
                    peer.receive.rtp_bytes += consumer.stream.bytes - before;
                }
            }
            if let Some(worker) = self.workers.get_mut(room.worker) {
                worker.cpu_ms += step.as_secs_f64() * 6.0 * f64::from(u32::try_from(room.peers.len()).unwrap_or(0));
                worker.rss_bytes = 24_000_000 + self.noise.below(4_000_000);
            }
        }
    }

    fn count(&mut self, name: &'static str, more: u64) {
        *self.lifetime.entry(name).or_default() += more;
    }

    fn transport(&mut self) -> Transport {
        for event in [
            "transports_created",
            "ice_state_connected",
            "ice_state_completed",
            "dtls_state_connecting",
            "dtls_state_connected",
        ] {
            self.count(event, 1);
        }
        Transport {
            id: uuid(&mut self.noise),
            created_ms: self.now_ms(),
            local_port: 40_000 + self.noise.below(9_999),
            remote_port: 30_000 + self.noise.below(30_000),
            rtp_bytes: 0,
        }
    }

    fn consumer(&mut self, producer_id: &str, video: bool) -> Consumer {
        let layer = if video { usize::try_from(self.noise.below(3)).unwrap_or_default() } else { 0 };
        let bitrate = if video { VIDEO_BITRATES.get(layer).copied().unwrap_or(AUDIO_BITRATE) } else { AUDIO_BITRATE };
        self.count("consumers_created", 1);
        Consumer {
            id: uuid(&mut self.noise),
            producer_id: producer_id.to_owned(),
            video,
            layer,
            stream: Stream::new(&mut self.noise, bitrate),
        }
    }

    fn join(&mut self, room: usize) {
        let (send, receive) = (self.transport(), self.transport());
        let name = NAMES[usize::try_from(self.noise.below(8)).unwrap_or_default()];
        let id = format!("{name}-{}", self.noise.below(1000));
        let remote_ip = format!("203.0.113.{}", 1 + self.noise.below(250));
        let mut producers = Vec::new();
        for bitrates in [&[AUDIO_BITRATE][..], &VIDEO_BITRATES] {
            let streams = bitrates.iter().map(|bitrate| Stream::new(&mut self.noise, *bitrate)).collect();
            producers.push(Producer { id: uuid(&mut self.noise), video: bitrates.len() > 1, streams });
            self.count("producers_created", 1);
        }
        let offered = |peer: &Peer| peer.producers.iter().map(|p| (p.id.clone(), p.video)).collect::<Vec<_>>();
        let others: Vec<_> =
            self.rooms.get(room).map_or_else(Vec::new, |room| room.peers.iter().flat_map(offered).collect());
        let consumers = others.iter().map(|(id, video)| self.consumer(id, *video)).collect();
        let newcomer = Peer { id, remote_ip, send, receive, producers, consumers };
        let new = offered(&newcomer);
        for other in 0..self.rooms.get(room).map_or(0, |room| room.peers.len()) {
            let consumers: Vec<_> = new.iter().map(|(id, video)| self.consumer(id, *video)).collect();
            if let Some(peer) = self.rooms.get_mut(room).and_then(|room| room.peers.get_mut(other)) {
                peer.consumers.extend(consumers);
            }
        }
        if let Some(room) = self.rooms.get_mut(room) {
            room.peers.push(newcomer);
        }
    }

    fn leave(&mut self, room: usize) {
        let Some(room) = self.rooms.get_mut(room).filter(|room| !room.peers.is_empty()) else { return };
        let gone = room.peers.remove(0);
        let mut closed = gone.consumers.len();
        for peer in &mut room.peers {
            let before = peer.consumers.len();
            peer.consumers.retain(|consumer| gone.producers.iter().all(|producer| producer.id != consumer.producer_id));
            closed += before - peer.consumers.len();
        }
        self.count("consumers_closed", closed as u64);
        self.count("producers_closed", gone.producers.len() as u64);
        self.count("transports_closed", 2);
        self.count("ice_state_closed", 2);
        self.count("dtls_state_closed", 2);
    }
}

/// A made-up id of the usual form.
fn uuid(noise: &mut Noise) -> String {
    let (a, b) = (noise.number(), noise.number());
    format!(
        "{:08x}-{:04x}-4{:03x}-a{:03x}-{:012x}",
        a >> 32,
        (a >> 16) & 0xffff,
        a & 0xfff,
        b >> 52,
        b & 0xffff_ffff_ffff
    )
}
