//! The 64 aggregated gauges of edumeet's `/metrics`, for the dashboards that read them: option `compatibility.aggregated`.
//!
//! Names, units (milliseconds, bit/s) and the zeros for an empty set are those of edumeet. Prefer the other families.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

use super::compatibility::Rooms;
use super::document::{Consumer, Coverage, StatsDocument, LocatedTransport, Producer, StreamStats};
use super::summary::count;
use crate::kind::Number;
use crate::metric::{Desc, Families, Type};

crate::descs! {
    WORKERS_COUNT = gauge "mediasoup_workers_count" []
        "Live worker processes; the same as mediasoup_workers.";
    WORKERS_CPU = gauge "mediasoup_workers_cpu" []
        "CPU time of all workers per second between the last two polls: 1 is one core.";
    WORKERS_MEMORY = gauge "mediasoup_workers_memory" []
        "Resident memory of all workers, in bytes.";
    ROOMS = gauge "mediasoup_rooms" []
        "Rooms, as reported by the application or derived from the routers.";
    PEERS = gauge "mediasoup_peers" []
        "Peers in all rooms.";
    AUDIO_IN_COUNT = gauge "mediasoup_audio_in_count" []
        "Received audio streams.";
    VIDEO_IN_COUNT = gauge "mediasoup_video_in_count" []
        "Received video streams.";
    AUDIO_OUT_COUNT = gauge "mediasoup_audio_out_count" []
        "Sent audio streams, excluding those of pipes.";
    VIDEO_OUT_COUNT = gauge "mediasoup_video_out_count" []
        "Sent video streams, excluding those of pipes.";
}

/// What a set of values is reduced to, each a family of its own.
struct ReducedFamilies {
    /// Some sets have none.
    sum: Option<Desc>,
    mean: Desc,
    min: Desc,
    max: Desc,
    p25: Desc,
}

/// Declares reduced sets of values, and `REDUCED`, the list of all of them.
macro_rules! reduced_families {
    ($($set:ident = $name:literal $what:literal $(, $sum:ident)?;)+) => {
        $(static $set: ReducedFamilies = ReducedFamilies {
            sum: reduced_families!(@sum $name $what $($sum)?),
            mean: gauge(concat!("mediasoup_", $name, "_mean"), concat!("Mean of ", $what, ".")),
            min: gauge(concat!("mediasoup_", $name, "_min"), concat!("Minimum of ", $what, ".")),
            max: gauge(concat!("mediasoup_", $name, "_max"), concat!("Maximum of ", $what, ".")),
            p25: gauge(concat!("mediasoup_", $name, "_p25"), concat!("Lower quartile of ", $what, ".")),
        };)+
        static REDUCED: &[&ReducedFamilies] = &[$(&$set),+];
    };
    (@sum $name:literal $what:literal) => { None };
    (@sum $name:literal $what:literal sum) => {
        Some(gauge(concat!("mediasoup_", $name, "_sum"), concat!("Sum of ", $what, ".")))
    };
}

const fn gauge(name: &'static str, help: &'static str) -> Desc {
    Desc { name, kind: Type::Gauge, help, labels: &[] }
}

reduced_families! {
    AUDIO_BITRATES_IN = "audio_bitrates_in" "the bitrates of received audio streams, in bit/s", sum;
    AUDIO_SCORES_IN = "audio_scores_in" "the scores of received audio streams";
    VIDEO_BITRATES_IN = "video_bitrates_in" "the bitrates of received video streams, in bit/s", sum;
    VIDEO_SCORES_IN = "video_scores_in" "the scores of received video streams";
    PACKETS_COUNTS_IN = "packets_counts_in" "the packets received so far by each live stream", sum;
    PACKETS_LOSTS_IN = "packets_losts_in" "the packets lost so far by each live received stream", sum;
    PACKETS_RETRANSMITTED_IN = "packets_retransmitted_in" "the retransmitted packets received so far by each live stream", sum;
    AUDIO_BITRATES_OUT = "audio_bitrates_out" "the bitrates of sent audio streams, in bit/s", sum;
    VIDEO_BITRATES_OUT = "video_bitrates_out" "the bitrates of sent video streams, in bit/s", sum;
    SPATIAL_LAYERS_OUT = "spatial_layers_out" "the spatial layers that video consumers receive";
    TEMPORAL_LAYERS_OUT = "temporal_layers_out" "the temporal layers that video consumers receive";
    ROUND_TRIP_TIMES_OUT = "round_trip_times_out" "the round-trip times of sent streams, in milliseconds, 0 if unknown";
}

/// Every family of this module.
pub(super) fn families() -> Vec<&'static Desc> {
    let reduced = REDUCED.iter().flat_map(|set| set.sum.iter().chain([&set.mean, &set.min, &set.max, &set.p25]));
    FAMILIES.iter().copied().chain(reduced).collect()
}

/// Most workers whose CPU time is remembered; an application has as many as the machine has cores.
const MAX_WORKERS: usize = 4096;

/// Remembers the workers' CPU time, which is exported as its growth.
#[derive(Debug, Default)]
pub(super) struct AggregatedGauges {
    /// When the last poll was, in ms, and each worker's CPU time then.
    previous: Option<(f64, HashMap<u64, f64>)>,
    hasher: RandomState,
}

impl AggregatedGauges {
    /// Writes the gauges.
    pub(super) fn write(&mut self, document: &StatsDocument, rooms: &Rooms<'_>, coverage: Coverage, out: &mut Families) {
        let workers = &document.workers.items;
        out.set(&WORKERS_COUNT, &[], count(workers.len()));
        if let Some(cores) = self.cores(document) {
            out.set(&WORKERS_CPU, &[], cores);
        }
        out.set(&WORKERS_MEMORY, &[], workers.iter().filter_map(|worker| worker.rss_bytes.value()).sum());
        out.set(&ROOMS, &[], rooms.count());
        if let Some(peers) = rooms.peers() {
            out.set(&PEERS, &[], peers);
        }
        let (mut received, mut sent) = (ReceivedStreams::default(), SentStreams::default());
        for LocatedTransport { transport, .. } in document.transports() {
            transport.producers.items.iter().for_each(|producer| received.add(producer));
            transport.consumers.items.iter().for_each(|consumer| sent.add(consumer));
        }
        if coverage.received {
            received.write(out);
        }
        if coverage.sent {
            sent.write(out);
        }
    }

    /// CPU seconds per second of the workers that were there at the last poll.
    fn cores(&mut self, document: &StatsDocument) -> Option<f64> {
        let used = document.workers.items.iter().filter_map(|worker| {
            let usage = worker.resource_usage.as_ref()?;
            let created = worker.created_ms.value().map(f64::to_bits);
            let key = self.hasher.hash_one((worker.pid.as_str(), created));
            Some((key, usage.ru_utime.value()? + usage.ru_stime.value()?))
        });
        let now = (document.timestamp_ms.value()?, used.take(MAX_WORKERS).collect::<HashMap<_, _>>());
        let before = self.previous.replace(now);
        let ((then, before), (now, used)) = (before?, self.previous.as_ref()?);
        let growth = used.iter().filter_map(|(worker, used)| {
            let before = before.get(worker)?;
            Some((used - before).max(0.0))
        });
        let elapsed = now - then;
        (elapsed > 0.0).then(|| growth.sum::<f64>() / elapsed)
    }
}

/// What received streams have.
#[derive(Default)]
struct ReceivedStreams {
    audio_bitrates: Vec<f64>,
    video_bitrates: Vec<f64>,
    audio_scores: Vec<f64>,
    video_scores: Vec<f64>,
    packets: Vec<f64>,
    lost: Vec<f64>,
    retransmitted: Vec<f64>,
}

impl ReceivedStreams {
    fn add(&mut self, producer: &Producer) {
        for stream in &producer.streams.items {
            match producer.kind.as_str() {
                "audio" => {
                    self.audio_bitrates.push(or_zero(stream.bitrate));
                    self.audio_scores.extend(stream.score.own.value());
                }
                "video" => {
                    self.video_bitrates.push(or_zero(stream.bitrate));
                    self.video_scores.extend(stream.score.own.value());
                }
                _ => {}
            }
            self.packets.push(or_zero(stream.packet_count));
            self.lost.push(or_zero(stream.packets_lost));
            self.retransmitted.push(or_zero(stream.packets_retransmitted));
        }
    }

    fn write(self, out: &mut Families) {
        out.set(&AUDIO_IN_COUNT, &[], count(self.audio_bitrates.len()));
        out.set(&VIDEO_IN_COUNT, &[], count(self.video_bitrates.len()));
        reduce(self.audio_bitrates, &AUDIO_BITRATES_IN, out);
        reduce(self.video_bitrates, &VIDEO_BITRATES_IN, out);
        reduce(self.audio_scores, &AUDIO_SCORES_IN, out);
        reduce(self.video_scores, &VIDEO_SCORES_IN, out);
        reduce(self.packets, &PACKETS_COUNTS_IN, out);
        reduce(self.lost, &PACKETS_LOSTS_IN, out);
        reduce(self.retransmitted, &PACKETS_RETRANSMITTED_IN, out);
    }
}

/// What sent streams have.
#[derive(Default)]
struct SentStreams {
    audio_bitrates: Vec<f64>,
    video_bitrates: Vec<f64>,
    spatial_layers: Vec<f64>,
    temporal_layers: Vec<f64>,
    round_trip_times: Vec<f64>,
}

impl SentStreams {
    fn add(&mut self, consumer: &Consumer) {
        if consumer.class.as_str() == "pipe" {
            return;
        }
        for StreamStats { bitrate, round_trip_time, .. } in &consumer.streams.items {
            match consumer.kind.as_str() {
                "audio" => self.audio_bitrates.push(or_zero(*bitrate)),
                "video" => {
                    let layers = consumer.current_layers.as_ref();
                    self.video_bitrates.push(or_zero(*bitrate));
                    self.spatial_layers.push(layers.map_or(0.0, |layers| or_zero(layers.spatial_layer)));
                    self.temporal_layers.push(layers.map_or(0.0, |layers| or_zero(layers.temporal_layer)));
                }
                _ => {}
            }
            self.round_trip_times.push(or_zero(*round_trip_time));
        }
    }

    fn write(self, out: &mut Families) {
        out.set(&AUDIO_OUT_COUNT, &[], count(self.audio_bitrates.len()));
        out.set(&VIDEO_OUT_COUNT, &[], count(self.video_bitrates.len()));
        reduce(self.audio_bitrates, &AUDIO_BITRATES_OUT, out);
        reduce(self.video_bitrates, &VIDEO_BITRATES_OUT, out);
        reduce(self.spatial_layers, &SPATIAL_LAYERS_OUT, out);
        reduce(self.temporal_layers, &TEMPORAL_LAYERS_OUT, out);
        reduce(self.round_trip_times, &ROUND_TRIP_TIMES_OUT, out);
    }
}

fn or_zero(number: Number) -> f64 {
    number.value().unwrap_or_default()
}

fn reduce(mut values: Vec<f64>, to: &'static ReducedFamilies, out: &mut Families) {
    values.sort_by(f64::total_cmp);
    let sum: f64 = values.iter().sum();
    // The quartile between two values is their mean, whatever the distance: edumeet's library does it so.
    let at = values.len().saturating_sub(1);
    let (below, above) = (values.get(at / 4), values.get(at.div_ceil(4)));
    let quartile = below.zip(above).map_or(0.0, |(below, above)| (below + above) / 2.0);
    if let Some(total) = &to.sum {
        out.set(total, &[], sum);
    }
    out.set(&to.mean, &[], if values.is_empty() { 0.0 } else { sum / count(values.len()) });
    out.set(&to.min, &[], values.first().copied().unwrap_or_default());
    out.set(&to.max, &[], values.last().copied().unwrap_or_default());
    out.set(&to.p25, &[], quartile);
}
