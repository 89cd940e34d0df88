//! A simulated edumeet server with its exporter: `GET /` per stream, `GET /metrics` aggregated, written as prom-client writes,
//! errors of the original included. Without `/metrics` and with another prefix it is Ejtimaa.

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::Switch;
use super::mediasoup::world::{Peer, Stream, Transport, World};
use super::mediasoup::{SharedWorld, authorized};

/// An edumeet server.
#[derive(Clone, Debug)]
pub struct Edumeet {
    world: SharedWorld,
    prefix: Arc<str>,
    secret: Option<Arc<str>>,
    switch: Switch,
}

impl Edumeet {
    /// A server whose rooms depend on `seed`.
    pub fn new(seed: u64) -> Self {
        Self { world: SharedWorld::new(seed), prefix: "edumeet".into(), secret: None, switch: Switch::default() }
    }

    /// The fork Ejtimaa: other names, no `/metrics`.
    #[must_use]
    pub fn ejtimaa(mut self) -> Self {
        self.prefix = "Ejtimaa".into();
        self
    }

    /// Sets the bearer token without which `/metrics` responds with 401; `/` requires none.
    #[must_use]
    pub fn with_secret(mut self, secret: &str) -> Self {
        self.secret = Some(secret.into());
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
        let mut routes = Router::new().route("/", get(per_stream));
        if &*self.prefix == "edumeet" {
            routes = routes.route("/metrics", get(aggregated));
        }
        self.switch.guard(routes.with_state(self.clone()))
    }
}

fn exposition(text: String) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

async fn per_stream(State(server): State<Edumeet>) -> Response {
    exposition(server.world.read(|world| streams_text(world, &server.prefix)))
}

async fn aggregated(State(server): State<Edumeet>, headers: HeaderMap) -> Response {
    if !authorized(&headers, server.secret.as_deref()) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    exposition(server.world.read(aggregated_text))
}

/// One family as prom-client writes it: an empty line after it.
fn family(text: &mut String, name: &str, help: &str, class: &str, samples: &[(String, String)]) {
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {class}");
    for (labels, value) in samples {
        let _ = writeln!(text, "{name}{labels} {value}");
    }
    text.push('\n');
}

fn streams_text(world: &World, prefix: &str) -> String {
    let mut text = String::new();
    let rooms = &world.rooms;
    family(&mut text, &format!("{prefix}_rooms"), "#rooms", "gauge", &[(String::new(), rooms.len().to_string())]);
    let peers: Vec<_> =
        rooms.iter().map(|room| (format!("{{room_id=\"{}\"}}", room.id), room.peers.len().to_string())).collect();
    family(&mut text, &format!("{prefix}_peers"), "#peers", "gauge", &peers);
    let mut samples: [Vec<(String, String)>; 4] = Default::default();
    let [consumer_bytes, consumer_scores, producer_bytes, producer_scores] = &mut samples;
    // The original looks for the room of a peer and always finds the first one.
    let room_id = rooms.first().map_or("", |room| room.id.as_str());
    for room in rooms {
        let pid = world.workers.get(room.worker).map_or(0, |worker| worker.pid);
        for peer in &room.peers {
            let labels = |transport: &Transport, id: &str, video: bool, class: &str| {
                labels(&[&pid.to_string(), room_id], peer, transport, [id, class], video)
            };
            for consumer in &peer.consumers {
                let labels = labels(&peer.receive, &consumer.id, consumer.video, "outbound-rtp");
                consumer_bytes.push((labels.clone(), consumer.stream.bytes.to_string()));
                consumer_scores.push((labels, consumer.stream.score.to_string()));
            }
            for producer in &peer.producers {
                let labels = labels(&peer.send, &producer.id, producer.video, "inbound-rtp");
                let bytes: u64 = producer.streams.iter().map(|stream| stream.bytes).sum();
                let score = producer.streams.last().map_or(0, |stream| stream.score);
                producer_bytes.push((labels.clone(), bytes.to_string()));
                producer_scores.push((labels, score.to_string()));
            }
        }
    }
    let [consumer_bytes, consumer_scores, producer_bytes, producer_scores] = samples;
    family(&mut text, "mediasoup_consumer_byte_count_bytes", "consumer.byteCount", "counter", &consumer_bytes);
    family(&mut text, "mediasoup_consumer_score", "consumer.score", "gauge", &consumer_scores);
    family(&mut text, "mediasoup_producer_byte_count_bytes", "producer.byteCount", "counter", &producer_bytes);
    family(&mut text, "mediasoup_producer_score", "producer.score", "gauge", &producer_scores);
    text
}

/// The thirteen labels.
fn labels(
    [pid, room_id]: &[&str; 2],
    peer: &Peer,
    transport: &Transport,
    [id, class]: [&str; 2],
    video: bool,
) -> String {
    let (kind, codec) = if video { ("video", "VP8") } else { ("audio", "opus") };
    format!(
        "{{pid=\"{pid}\",room_id=\"{room_id}\",peer_id=\"{}\",display_name=\"{}\",user_agent=\"Mozilla/5.0 (X11; Linux \
         x86_64)\",transport_id=\"{}\",proto=\"udp\",local_addr=\"192.0.2.10:{}\",remote_addr=\"{}:{}\",id=\"{id}\",\
         kind=\"{kind}\",codec=\"{codec}\",type=\"{class}\"}}",
        peer.id,
        // A peer without a name yet is called `undefined`, as in JavaScript.
        if peer.producers.len() > 1 { "Guest \\\"G\\\"" } else { "undefined" },
        transport.id,
        transport.local_port,
        peer.remote_ip,
        transport.remote_port,
    )
}

fn aggregated_text(world: &World) -> String {
    let peers = || world.rooms.iter().flat_map(|room| &room.peers);
    let received = |video: bool| -> Vec<&Stream> {
        peers().flat_map(|p| &p.producers).filter(|p| p.video == video).flat_map(|p| &p.streams).collect()
    };
    let sent = |video: bool| -> Vec<&Stream> {
        peers().flat_map(|p| &p.consumers).filter(|c| c.video == video).map(|c| &c.stream).collect()
    };
    let (audio_in, video_in, audio_out, video_out) = (received(false), received(true), sent(false), sent(true));
    let in_all: Vec<&Stream> = audio_in.iter().chain(&video_in).copied().collect();
    let out_all: Vec<&Stream> = audio_out.iter().chain(&video_out).copied().collect();
    let layers = peers().flat_map(|p| &p.consumers).filter(|c| c.video);
    let layers: Vec<f64> = layers.map(|c| f64::from(u8::try_from(c.layer).unwrap_or(u8::MAX))).collect();
    let bitrates = |streams: &[&Stream]| streams.iter().map(|s| number(s.bitrate)).collect::<Vec<f64>>();
    let scores = |streams: &[&Stream]| streams.iter().map(|s| number(s.score)).collect::<Vec<f64>>();

    let mut text = String::new();
    let cpu: f64 = world.workers.iter().map(|worker| worker.cpu_ms / 1000.0).sum();
    let help = "Total user and system CPU time spent in seconds.";
    let cpu_seconds = [(String::new(), (cpu / 8.0).to_string())];
    family(&mut text, "mediasoup_process_cpu_seconds_total", help, "counter", &cpu_seconds);
    let mut gauge = |name: &str, value: f64| {
        let sample = [(String::new(), value.to_string())];
        family(&mut text, &format!("mediasoup_{name}"), &format!("MediaSoup {name}"), "gauge", &sample);
    };
    gauge("workers_count", length(world.workers.len()));
    gauge("workers_cpu", 0.12);
    gauge("workers_memory", world.workers.iter().map(|worker| number(worker.rss_bytes)).sum());
    gauge("rooms", length(world.rooms.len()));
    gauge("peers", length(peers().count()));
    let mut reduce = |name: &str, with_sum: bool, values: Vec<f64>| {
        for (suffix, value) in reduced(values).into_iter().skip(usize::from(!with_sum)) {
            gauge(&format!("{name}_{suffix}"), value);
        }
    };
    reduce("audio_bitrates_in", true, bitrates(&audio_in));
    reduce("audio_scores_in", false, scores(&audio_in));
    reduce("video_bitrates_in", true, bitrates(&video_in));
    reduce("video_scores_in", false, scores(&video_in));
    reduce("packets_counts_in", true, in_all.iter().map(|s| number(s.packets)).collect());
    reduce("packets_losts_in", true, in_all.iter().map(|s| number(s.lost)).collect());
    reduce("packets_retransmitted_in", true, in_all.iter().map(|s| number(s.nacks)).collect());
    reduce("audio_bitrates_out", true, bitrates(&audio_out));
    reduce("video_bitrates_out", true, bitrates(&video_out));
    reduce("temporal_layers_out", false, vec![2.0; layers.len()]);
    reduce("spatial_layers_out", false, layers);
    reduce("round_trip_times_out", false, out_all.iter().map(|s| s.round_trip_ms).collect());
    gauge("audio_in_count", length(audio_in.len()));
    gauge("video_in_count", length(video_in.len()));
    gauge("audio_out_count", length(audio_out.len()));
    gauge("video_out_count", length(video_out.len()));
    text
}

/// Sum, mean, smallest, largest and lower quartile; zeros for nothing.
fn reduced(mut values: Vec<f64>) -> [(&'static str, f64); 5] {
    values.sort_by(f64::total_cmp);
    let sum: f64 = values.iter().sum();
    let at = |index: usize| values.get(index).copied().unwrap_or_default();
    let last = values.len().saturating_sub(1);
    let mean = if values.is_empty() { 0.0 } else { sum / length(values.len()) };
    let quartile = f64::midpoint(at(last / 4), at(last.div_ceil(4)));
    [("sum", sum), ("mean", mean), ("min", at(0)), ("max", at(last)), ("p25", quartile)]
}

#[expect(clippy::cast_precision_loss, reason = "JavaScript has only doubles, too")]
fn number(value: u64) -> f64 {
    value as f64
}

#[expect(clippy::cast_precision_loss, reason = "JavaScript has only doubles, too")]
fn length(value: usize) -> f64 {
    value as f64
}
