//! The 64 aggregated gauges of edumeet's `/metrics`, for the dashboards that read them: option `compatibility.aggregated`.
//!
//! Names, units (milliseconds, bit/s) and the zeros for an empty set are edumeet's. Our own families are better.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

use super::compatibility::Rooms;
use super::coverage::Coverage;
use super::document::{Consumer, Document, Producer, Stream};
use super::metrics::count;
use super::walk::Place;
use crate::kind::Number;
use crate::metric::{Desc, Families};

crate::descs! {
    WORKERS_COUNT = gauge "mediasoup_workers_count" []
        "Live worker processes; our own name is mediasoup_workers.";
    WORKERS_CPU = gauge "mediasoup_workers_cpu" []
        "CPU time of all workers per second between the last two polls: 1 is one core.";
    WORKERS_MEMORY = gauge "mediasoup_workers_memory" []
        "Resident memory of all workers, in bytes.";
    ROOMS = gauge "mediasoup_rooms" []
        "Rooms, by the application or by the routers.";
    PEERS = gauge "mediasoup_peers" []
        "Peers in all rooms.";
    AUDIO_IN_COUNT = gauge "mediasoup_audio_in_count" []
        "Received audio streams.";
    AUDIO_BITRATES_IN_SUM = gauge "mediasoup_audio_bitrates_in_sum" []
        "Sum of the bitrates of received audio streams, in bit/s.";
    AUDIO_BITRATES_IN_MEAN = gauge "mediasoup_audio_bitrates_in_mean" []
        "Mean of the bitrates of received audio streams, in bit/s.";
    AUDIO_BITRATES_IN_MIN = gauge "mediasoup_audio_bitrates_in_min" []
        "Smallest of the bitrates of received audio streams, in bit/s.";
    AUDIO_BITRATES_IN_MAX = gauge "mediasoup_audio_bitrates_in_max" []
        "Largest of the bitrates of received audio streams, in bit/s.";
    AUDIO_BITRATES_IN_P25 = gauge "mediasoup_audio_bitrates_in_p25" []
        "Lower quartile of the bitrates of received audio streams, in bit/s.";
    AUDIO_SCORES_IN_MEAN = gauge "mediasoup_audio_scores_in_mean" []
        "Mean of the scores of received audio streams.";
    AUDIO_SCORES_IN_MIN = gauge "mediasoup_audio_scores_in_min" []
        "Smallest of the scores of received audio streams.";
    AUDIO_SCORES_IN_MAX = gauge "mediasoup_audio_scores_in_max" []
        "Largest of the scores of received audio streams.";
    AUDIO_SCORES_IN_P25 = gauge "mediasoup_audio_scores_in_p25" []
        "Lower quartile of the scores of received audio streams.";
    VIDEO_IN_COUNT = gauge "mediasoup_video_in_count" []
        "Received video streams.";
    VIDEO_BITRATES_IN_SUM = gauge "mediasoup_video_bitrates_in_sum" []
        "Sum of the bitrates of received video streams, in bit/s.";
    VIDEO_BITRATES_IN_MEAN = gauge "mediasoup_video_bitrates_in_mean" []
        "Mean of the bitrates of received video streams, in bit/s.";
    VIDEO_BITRATES_IN_MIN = gauge "mediasoup_video_bitrates_in_min" []
        "Smallest of the bitrates of received video streams, in bit/s.";
    VIDEO_BITRATES_IN_MAX = gauge "mediasoup_video_bitrates_in_max" []
        "Largest of the bitrates of received video streams, in bit/s.";
    VIDEO_BITRATES_IN_P25 = gauge "mediasoup_video_bitrates_in_p25" []
        "Lower quartile of the bitrates of received video streams, in bit/s.";
    VIDEO_SCORES_IN_MEAN = gauge "mediasoup_video_scores_in_mean" []
        "Mean of the scores of received video streams.";
    VIDEO_SCORES_IN_MIN = gauge "mediasoup_video_scores_in_min" []
        "Smallest of the scores of received video streams.";
    VIDEO_SCORES_IN_MAX = gauge "mediasoup_video_scores_in_max" []
        "Largest of the scores of received video streams.";
    VIDEO_SCORES_IN_P25 = gauge "mediasoup_video_scores_in_p25" []
        "Lower quartile of the scores of received video streams.";
    PACKETS_COUNTS_IN_SUM = gauge "mediasoup_packets_counts_in_sum" []
        "Sum of the packets received so far by each live stream.";
    PACKETS_COUNTS_IN_MEAN = gauge "mediasoup_packets_counts_in_mean" []
        "Mean of the packets received so far by each live stream.";
    PACKETS_COUNTS_IN_MIN = gauge "mediasoup_packets_counts_in_min" []
        "Smallest of the packets received so far by each live stream.";
    PACKETS_COUNTS_IN_MAX = gauge "mediasoup_packets_counts_in_max" []
        "Largest of the packets received so far by each live stream.";
    PACKETS_COUNTS_IN_P25 = gauge "mediasoup_packets_counts_in_p25" []
        "Lower quartile of the packets received so far by each live stream.";
    PACKETS_LOSTS_IN_SUM = gauge "mediasoup_packets_losts_in_sum" []
        "Sum of the packets lost so far by each live received stream.";
    PACKETS_LOSTS_IN_MEAN = gauge "mediasoup_packets_losts_in_mean" []
        "Mean of the packets lost so far by each live received stream.";
    PACKETS_LOSTS_IN_MIN = gauge "mediasoup_packets_losts_in_min" []
        "Smallest of the packets lost so far by each live received stream.";
    PACKETS_LOSTS_IN_MAX = gauge "mediasoup_packets_losts_in_max" []
        "Largest of the packets lost so far by each live received stream.";
    PACKETS_LOSTS_IN_P25 = gauge "mediasoup_packets_losts_in_p25" []
        "Lower quartile of the packets lost so far by each live received stream.";
    PACKETS_RETRANSMITTED_IN_SUM = gauge "mediasoup_packets_retransmitted_in_sum" []
        "Sum of the retransmitted packets received so far by each live stream.";
    PACKETS_RETRANSMITTED_IN_MEAN = gauge "mediasoup_packets_retransmitted_in_mean" []
        "Mean of the retransmitted packets received so far by each live stream.";
    PACKETS_RETRANSMITTED_IN_MIN = gauge "mediasoup_packets_retransmitted_in_min" []
        "Smallest of the retransmitted packets received so far by each live stream.";
    PACKETS_RETRANSMITTED_IN_MAX = gauge "mediasoup_packets_retransmitted_in_max" []
        "Largest of the retransmitted packets received so far by each live stream.";
    PACKETS_RETRANSMITTED_IN_P25 = gauge "mediasoup_packets_retransmitted_in_p25" []
        "Lower quartile of the retransmitted packets received so far by each live stream.";
    AUDIO_OUT_COUNT = gauge "mediasoup_audio_out_count" []
        "Sent audio streams, those of pipes left out.";
    AUDIO_BITRATES_OUT_SUM = gauge "mediasoup_audio_bitrates_out_sum" []
        "Sum of the bitrates of sent audio streams, in bit/s.";
    AUDIO_BITRATES_OUT_MEAN = gauge "mediasoup_audio_bitrates_out_mean" []
        "Mean of the bitrates of sent audio streams, in bit/s.";
    AUDIO_BITRATES_OUT_MIN = gauge "mediasoup_audio_bitrates_out_min" []
        "Smallest of the bitrates of sent audio streams, in bit/s.";
    AUDIO_BITRATES_OUT_MAX = gauge "mediasoup_audio_bitrates_out_max" []
        "Largest of the bitrates of sent audio streams, in bit/s.";
    AUDIO_BITRATES_OUT_P25 = gauge "mediasoup_audio_bitrates_out_p25" []
        "Lower quartile of the bitrates of sent audio streams, in bit/s.";
    VIDEO_OUT_COUNT = gauge "mediasoup_video_out_count" []
        "Sent video streams, those of pipes left out.";
    VIDEO_BITRATES_OUT_SUM = gauge "mediasoup_video_bitrates_out_sum" []
        "Sum of the bitrates of sent video streams, in bit/s.";
    VIDEO_BITRATES_OUT_MEAN = gauge "mediasoup_video_bitrates_out_mean" []
        "Mean of the bitrates of sent video streams, in bit/s.";
    VIDEO_BITRATES_OUT_MIN = gauge "mediasoup_video_bitrates_out_min" []
        "Smallest of the bitrates of sent video streams, in bit/s.";
    VIDEO_BITRATES_OUT_MAX = gauge "mediasoup_video_bitrates_out_max" []
        "Largest of the bitrates of sent video streams, in bit/s.";
    VIDEO_BITRATES_OUT_P25 = gauge "mediasoup_video_bitrates_out_p25" []
        "Lower quartile of the bitrates of sent video streams, in bit/s.";
    SPATIAL_LAYERS_OUT_MEAN = gauge "mediasoup_spatial_layers_out_mean" []
        "Mean of the spatial layers that video consumers get.";
    SPATIAL_LAYERS_OUT_MIN = gauge "mediasoup_spatial_layers_out_min" []
        "Smallest of the spatial layers that video consumers get.";
    SPATIAL_LAYERS_OUT_MAX = gauge "mediasoup_spatial_layers_out_max" []
        "Largest of the spatial layers that video consumers get.";
    SPATIAL_LAYERS_OUT_P25 = gauge "mediasoup_spatial_layers_out_p25" []
        "Lower quartile of the spatial layers that video consumers get.";
    TEMPORAL_LAYERS_OUT_MEAN = gauge "mediasoup_temporal_layers_out_mean" []
        "Mean of the temporal layers that video consumers get.";
    TEMPORAL_LAYERS_OUT_MIN = gauge "mediasoup_temporal_layers_out_min" []
        "Smallest of the temporal layers that video consumers get.";
    TEMPORAL_LAYERS_OUT_MAX = gauge "mediasoup_temporal_layers_out_max" []
        "Largest of the temporal layers that video consumers get.";
    TEMPORAL_LAYERS_OUT_P25 = gauge "mediasoup_temporal_layers_out_p25" []
        "Lower quartile of the temporal layers that video consumers get.";
    ROUND_TRIP_TIMES_OUT_MEAN = gauge "mediasoup_round_trip_times_out_mean" []
        "Mean of the round-trip times of sent streams, in milliseconds, 0 where it is not known.";
    ROUND_TRIP_TIMES_OUT_MIN = gauge "mediasoup_round_trip_times_out_min" []
        "Smallest of the round-trip times of sent streams, in milliseconds, 0 where it is not known.";
    ROUND_TRIP_TIMES_OUT_MAX = gauge "mediasoup_round_trip_times_out_max" []
        "Largest of the round-trip times of sent streams, in milliseconds, 0 where it is not known.";
    ROUND_TRIP_TIMES_OUT_P25 = gauge "mediasoup_round_trip_times_out_p25" []
        "Lower quartile of the round-trip times of sent streams, in milliseconds, 0 where it is not known.";
}

/// Sum, mean, smallest, largest, lower quartile: what a set of values is reduced to. Some families lack the sum.
type Reduced = (Option<&'static Desc>, [&'static Desc; 4]);

const AUDIO_BITRATES_IN: Reduced =
    (Some(&AUDIO_BITRATES_IN_SUM), [&AUDIO_BITRATES_IN_MEAN, &AUDIO_BITRATES_IN_MIN, &AUDIO_BITRATES_IN_MAX, &AUDIO_BITRATES_IN_P25]);
const AUDIO_SCORES_IN: Reduced =
    (None, [&AUDIO_SCORES_IN_MEAN, &AUDIO_SCORES_IN_MIN, &AUDIO_SCORES_IN_MAX, &AUDIO_SCORES_IN_P25]);
const VIDEO_BITRATES_IN: Reduced =
    (Some(&VIDEO_BITRATES_IN_SUM), [&VIDEO_BITRATES_IN_MEAN, &VIDEO_BITRATES_IN_MIN, &VIDEO_BITRATES_IN_MAX, &VIDEO_BITRATES_IN_P25]);
const VIDEO_SCORES_IN: Reduced =
    (None, [&VIDEO_SCORES_IN_MEAN, &VIDEO_SCORES_IN_MIN, &VIDEO_SCORES_IN_MAX, &VIDEO_SCORES_IN_P25]);
const PACKETS_COUNTS_IN: Reduced =
    (Some(&PACKETS_COUNTS_IN_SUM), [&PACKETS_COUNTS_IN_MEAN, &PACKETS_COUNTS_IN_MIN, &PACKETS_COUNTS_IN_MAX, &PACKETS_COUNTS_IN_P25]);
const PACKETS_LOSTS_IN: Reduced =
    (Some(&PACKETS_LOSTS_IN_SUM), [&PACKETS_LOSTS_IN_MEAN, &PACKETS_LOSTS_IN_MIN, &PACKETS_LOSTS_IN_MAX, &PACKETS_LOSTS_IN_P25]);
const PACKETS_RETRANSMITTED_IN: Reduced =
    (Some(&PACKETS_RETRANSMITTED_IN_SUM), [&PACKETS_RETRANSMITTED_IN_MEAN, &PACKETS_RETRANSMITTED_IN_MIN, &PACKETS_RETRANSMITTED_IN_MAX, &PACKETS_RETRANSMITTED_IN_P25]);
const AUDIO_BITRATES_OUT: Reduced =
    (Some(&AUDIO_BITRATES_OUT_SUM), [&AUDIO_BITRATES_OUT_MEAN, &AUDIO_BITRATES_OUT_MIN, &AUDIO_BITRATES_OUT_MAX, &AUDIO_BITRATES_OUT_P25]);
const VIDEO_BITRATES_OUT: Reduced =
    (Some(&VIDEO_BITRATES_OUT_SUM), [&VIDEO_BITRATES_OUT_MEAN, &VIDEO_BITRATES_OUT_MIN, &VIDEO_BITRATES_OUT_MAX, &VIDEO_BITRATES_OUT_P25]);
const SPATIAL_LAYERS_OUT: Reduced =
    (None, [&SPATIAL_LAYERS_OUT_MEAN, &SPATIAL_LAYERS_OUT_MIN, &SPATIAL_LAYERS_OUT_MAX, &SPATIAL_LAYERS_OUT_P25]);
const TEMPORAL_LAYERS_OUT: Reduced =
    (None, [&TEMPORAL_LAYERS_OUT_MEAN, &TEMPORAL_LAYERS_OUT_MIN, &TEMPORAL_LAYERS_OUT_MAX, &TEMPORAL_LAYERS_OUT_P25]);
const ROUND_TRIP_TIMES_OUT: Reduced =
    (None, [&ROUND_TRIP_TIMES_OUT_MEAN, &ROUND_TRIP_TIMES_OUT_MIN, &ROUND_TRIP_TIMES_OUT_MAX, &ROUND_TRIP_TIMES_OUT_P25]);

/// Most workers whose CPU time is remembered; an application has as many as the machine has cores.
const MAX_WORKERS: usize = 4096;

/// Remembers the workers' CPU time, which is exported as its growth.
#[derive(Debug, Default)]
pub(super) struct Aggregated {
    /// When the last poll was, in ms, and each worker's CPU time then.
    previous: Option<(f64, HashMap<u64, f64>)>,
    hasher: RandomState,
}

impl Aggregated {
    /// Writes the gauges.
    pub(super) fn write(&mut self, document: &Document, rooms: &Rooms<'_>, coverage: Coverage, out: &mut Families) {
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
        let (mut received, mut sent) = (Received::default(), Sent::default());
        for Place { transport, .. } in document.transports() {
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
    fn cores(&mut self, document: &Document) -> Option<f64> {
        let used = document.workers.items.iter().filter_map(|worker| {
            let usage = worker.resource_usage.get()?;
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
struct Received {
    audio_bitrates: Vec<f64>,
    video_bitrates: Vec<f64>,
    audio_scores: Vec<f64>,
    video_scores: Vec<f64>,
    packets: Vec<f64>,
    lost: Vec<f64>,
    retransmitted: Vec<f64>,
}

impl Received {
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
struct Sent {
    audio_bitrates: Vec<f64>,
    video_bitrates: Vec<f64>,
    spatial_layers: Vec<f64>,
    temporal_layers: Vec<f64>,
    round_trip_times: Vec<f64>,
}

impl Sent {
    fn add(&mut self, consumer: &Consumer) {
        if consumer.class.as_str() == "pipe" {
            return;
        }
        for Stream { bitrate, round_trip_time, .. } in &consumer.streams.items {
            match consumer.kind.as_str() {
                "audio" => self.audio_bitrates.push(or_zero(*bitrate)),
                "video" => {
                    let layers = consumer.current_layers.get();
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

fn reduce(mut values: Vec<f64>, (total, [mean, min, max, p25]): &Reduced, out: &mut Families) {
    values.sort_by(f64::total_cmp);
    let sum: f64 = values.iter().sum();
    // The quartile between two values is their mean, whatever the distance: edumeet's library does it so.
    let at = values.len().saturating_sub(1);
    let (below, above) = (values.get(at / 4), values.get(at.div_ceil(4)));
    let quartile = below.zip(above).map_or(0.0, |(below, above)| (below + above) / 2.0);
    if let Some(total) = total {
        out.set(total, &[], sum);
    }
    out.set(mean, &[], if values.is_empty() { 0.0 } else { sum / count(values.len()) });
    out.set(min, &[], values.first().copied().unwrap_or_default());
    out.set(max, &[], values.last().copied().unwrap_or_default());
    out.set(p25, &[], quartile);
}
