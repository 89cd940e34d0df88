//! Traffic of all streams and transports together: totals that outlive them, and how good the streams are now.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};

use super::accumulate::{GrowthRule, LastValues, Totals};
use super::document::{Coverage, StatsDocument, LocatedTransport, StreamStats};
use super::{codec, short};
use crate::kind::Number;
use crate::metric::{Desc, Families};

crate::descs! {
    TRANSPORT_BYTES = counter "mediasoup_transport_bytes_total" ["type", "direction", "payload"]
        "Bytes through transports, including closed ones. payload=\"all\" includes the other payloads: do not add them up.";
    RECEIVED_BYTES = counter "mediasoup_producers_received_bytes_total" ["kind", "codec"]
        "RTP bytes received from endpoints, including streams that have ended.";
    RECEIVED_PACKETS = counter "mediasoup_producers_received_packets_total" ["kind", "codec"]
        "RTP packets received from endpoints.";
    RECEIVED_DISCARDED = counter "mediasoup_producers_discarded_packets_total" ["kind", "codec"]
        "Received packets discarded because they were old or out of sequence.";
    RECEIVED_RETRANSMITTED = counter "mediasoup_producers_retransmitted_packets_total" ["kind", "codec"]
        "Retransmitted packets received from endpoints.";
    RECEIVED_REPAIRED = counter "mediasoup_producers_repaired_packets_total" ["kind", "codec"]
        "Retransmitted packets that filled a gap.";
    RECEIVED_NACKS = counter "mediasoup_producers_nacks_total" ["kind", "codec"]
        "NACK messages sent to endpoints.";
    RECEIVED_NACKED = counter "mediasoup_producers_nacked_packets_total" ["kind", "codec"]
        "Packets whose retransmission was requested from endpoints.";
    RECEIVED_PLIS = counter "mediasoup_producers_plis_total" ["kind", "codec"]
        "Key frames requested from endpoints by PLI.";
    RECEIVED_FIRS = counter "mediasoup_producers_firs_total" ["kind", "codec"]
        "Key frames requested from endpoints by FIR.";
    RECEIVED_LOST = counter "mediasoup_producers_lost_packets_total" ["kind", "codec"]
        "Packets lost on the way from endpoints, including repaired ones; estimates that were corrected later are not subtracted.";
    SENT_BYTES = counter "mediasoup_consumers_sent_bytes_total" ["kind", "codec"]
        "RTP bytes sent to endpoints, including streams that have ended.";
    SENT_PACKETS = counter "mediasoup_consumers_sent_packets_total" ["kind", "codec"]
        "RTP packets sent to endpoints.";
    SENT_DISCARDED = counter "mediasoup_consumers_discarded_packets_total" ["kind", "codec"]
        "Packets discarded instead of sent.";
    SENT_RETRANSMITTED = counter "mediasoup_consumers_retransmitted_packets_total" ["kind", "codec"]
        "Packets retransmitted to endpoints.";
    SENT_REPAIRED = counter "mediasoup_consumers_repaired_packets_total" ["kind", "codec"]
        "Packets retransmitted for the first time.";
    SENT_NACKS = counter "mediasoup_consumers_nacks_total" ["kind", "codec"]
        "NACK messages received from endpoints.";
    SENT_NACKED = counter "mediasoup_consumers_nacked_packets_total" ["kind", "codec"]
        "Packets whose retransmission endpoints requested.";
    SENT_PLIS = counter "mediasoup_consumers_plis_total" ["kind", "codec"]
        "Key frames that endpoints requested by PLI.";
    SENT_FIRS = counter "mediasoup_consumers_firs_total" ["kind", "codec"]
        "Key frames that endpoints requested by FIR.";
    SENT_LOST = counter "mediasoup_consumers_lost_packets_total" ["kind", "codec"]
        "Packets lost on the way to endpoints, as they report; estimates that were corrected later are not subtracted.";
    PRODUCERS_SCORE = gauge "mediasoup_producers_score" ["kind", "score"]
        "Live received streams by score: 10 is good, 0 is inactive or lost.";
    CONSUMERS_SCORE = gauge "mediasoup_consumers_score" ["kind", "score"]
        "Live sent streams by score: 10 is good, 0 is lost.";
    ROUND_TRIP_TIME = gauge "mediasoup_consumers_round_trip_time_seconds" ["kind", "q"]
        "Quantiles of the round-trip time to endpoints over the live sent streams for which it is known.";
}

/// The counters of a stream, in the order of [`counters`].
const STREAM: usize = 10;
const RECEIVED: [&Desc; STREAM] = [
    &RECEIVED_BYTES,
    &RECEIVED_PACKETS,
    &RECEIVED_DISCARDED,
    &RECEIVED_RETRANSMITTED,
    &RECEIVED_REPAIRED,
    &RECEIVED_NACKS,
    &RECEIVED_NACKED,
    &RECEIVED_PLIS,
    &RECEIVED_FIRS,
    &RECEIVED_LOST,
];
const SENT: [&Desc; STREAM] = [
    &SENT_BYTES,
    &SENT_PACKETS,
    &SENT_DISCARDED,
    &SENT_RETRANSMITTED,
    &SENT_REPAIRED,
    &SENT_NACKS,
    &SENT_NACKED,
    &SENT_PLIS,
    &SENT_FIRS,
    &SENT_LOST,
];
const STREAM_GROWTH: [GrowthRule; STREAM] = {
    let mut rules = [GrowthRule::Counter; STREAM];
    rules[STREAM - 1] = GrowthRule::Estimate; // packets lost
    rules
};

fn counters(stream: &StreamStats) -> [Number; STREAM] {
    [
        stream.byte_count,
        stream.packet_count,
        stream.packets_discarded,
        stream.packets_retransmitted,
        stream.packets_repaired,
        stream.nack_count,
        stream.nack_packet_count,
        stream.pli_count,
        stream.fir_count,
        stream.packets_lost,
    ]
}

/// The byte counters of a transport as (direction, payload), in the order of [`bytes`](super::document::TransportStats::bytes).
const TRANSPORT: [(&str, &str); 7] = [
    ("received", "all"),
    ("sent", "all"),
    ("received", "rtp"),
    ("sent", "rtp"),
    ("received", "rtx"),
    ("sent", "rtx"),
    ("sent", "probation"),
];

/// The traffic of the objects of one sort.
#[derive(Debug, Default)]
struct AccumulatedTraffic<const N: usize> {
    last: LastValues<N>,
    totals: Totals<N>,
    /// Whether the last poll had the statistics of every such object, so that whatever is new now began since.
    complete: bool,
}

/// When the last poll was.
#[derive(Clone, Copy, Debug)]
struct PollTimes {
    timestamp_ms: Option<f64>,
    started_ms: Option<f64>,
}

/// What must be remembered from poll to poll.
#[derive(Debug, Default)]
pub(super) struct TrafficTotals {
    previous: Option<PollTimes>,
    received: AccumulatedTraffic<STREAM>,
    sent: AccumulatedTraffic<STREAM>,
    transports: AccumulatedTraffic<{ TRANSPORT.len() }>,
    hasher: RandomState,
}

impl TrafficTotals {
    /// Adds the growth since the last poll; the first poll adds nothing.
    pub(super) fn poll(&mut self, document: &StatsDocument) {
        let now = PollTimes { timestamp_ms: document.timestamp_ms.value(), started_ms: document.started_ms.value() };
        if let Some(PollTimes { started_ms: Some(before), .. }) = self.previous
            && now.started_ms.is_some_and(|started| started.to_bits() != before.to_bits())
        {
            self.forget_objects();
        }
        let Self { previous, received, sent, transports, hasher } = self;
        let born_since = |created: Number| -> Option<bool> {
            let then = (*previous)?.timestamp_ms?;
            created.value().map(|created| created > then)
        };
        let began = previous.is_some();
        let counts_as_new = |created: [Number; 2], complete: bool| {
            began && (created.into_iter().any(|created| born_since(created) == Some(true)) || complete)
        };
        let (mut received_poll, mut sent_poll) = (received.last.begin_poll(), sent.last.begin_poll());
        let mut transports_poll = transports.last.begin_poll();
        let (mut all_received, mut all_sent, mut all_transports) = (true, true, true);
        for located in document.transports() {
            let transport = located.transport;
            let key = |id: &str, ssrc: &str| key(hasher, located, id, ssrc);
            // Counters that were not read are not counters at 0: the next poll would take all they have for growth.
            match transport.stats.as_ref().filter(|stats| stats.has_counters()) {
                Some(stats) => {
                    let values = stats.bytes();
                    let new = began && born_since(transport.created_ms).unwrap_or(transports.complete);
                    let rules = [GrowthRule::Counter; TRANSPORT.len()];
                    let growth = transports_poll.growth(key(transport.id.as_str(), ""), values, rules, new);
                    transports.totals.add((short(transport.class.as_str()), ""), &values, &growth);
                }
                None => all_transports = false,
            }
            for producer in &transport.producers.items {
                all_received &= producer.streams.is_given;
                let new = counts_as_new([producer.created_ms, transport.created_ms], received.complete);
                let labels = (short(producer.kind.as_str()), codec(&producer.codec));
                for stream in &producer.streams.items {
                    let (key, values) = (key(producer.id.as_str(), stream.ssrc.as_str()), counters(stream));
                    let growth = received_poll.growth(key, values, STREAM_GROWTH, new);
                    received.totals.add(labels, &values, &growth);
                }
            }
            for consumer in &transport.consumers.items {
                all_sent &= consumer.streams.is_given;
                let new = counts_as_new([consumer.created_ms, transport.created_ms], sent.complete);
                let labels = (short(consumer.kind.as_str()), codec(&consumer.codec));
                for stream in &consumer.streams.items {
                    let (key, values) = (key(consumer.id.as_str(), stream.ssrc.as_str()), counters(stream));
                    let growth = sent_poll.growth(key, values, STREAM_GROWTH, new);
                    sent.totals.add(labels, &values, &growth);
                }
            }
        }
        received_poll.finish();
        sent_poll.finish();
        transports_poll.finish();
        received.complete = all_received && received.last.is_complete();
        sent.complete = all_sent && sent.last.is_complete();
        transports.complete = all_transports && transports.last.is_complete();
        *previous = Some(now);
    }

    /// The application was restarted: none of its objects is known.
    fn forget_objects(&mut self) {
        self.received.last.clear();
        self.sent.last.clear();
        self.transports.last.clear();
        (self.received.complete, self.sent.complete, self.transports.complete) = (false, false, false);
    }

    /// Writes the totals of what the last document covers. The others are kept: they go on where they were.
    pub(super) fn write(&self, coverage: Coverage, out: &mut Families) {
        let transports = coverage.transports.then_some(&self.transports.totals);
        for ((class, _), sums) in transports.into_iter().flat_map(Totals::iter) {
            for ((direction, payload), sum) in TRANSPORT.into_iter().zip(sums) {
                if let Some(sum) = sum {
                    out.set(&TRANSPORT_BYTES, &[class, direction, payload], sum);
                }
            }
        }
        let received = coverage.received.then_some((RECEIVED, &self.received.totals));
        let sent = coverage.sent.then_some((SENT, &self.sent.totals));
        for (descs, totals) in received.into_iter().chain(sent) {
            for ((kind, codec), sums) in totals.iter() {
                for (desc, sum) in descs.into_iter().zip(sums) {
                    if let Some(sum) = sum {
                        out.set(desc, &[kind, codec], sum);
                    }
                }
            }
        }
    }
}

/// Ids are not unique: a producer that is piped to another router keeps its own there.
fn key(hasher: &RandomState, located: LocatedTransport<'_>, id: &str, ssrc: &str) -> u64 {
    let created = located.worker.created_ms.value().map(f64::to_bits);
    hasher.hash_one((located.worker.pid.as_str(), created, located.router.id.as_str(), id, ssrc))
}

/// Writes how good the live streams are.
pub(super) fn write_quality(document: &StatsDocument, out: &mut Families) {
    let (mut received, mut sent) = (Scores::default(), Scores::default());
    let mut round_trips: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for LocatedTransport { transport, .. } in document.transports() {
        for producer in &transport.producers.items {
            producer.streams.items.iter().for_each(|stream| received.add(short(producer.kind.as_str()), stream));
        }
        for consumer in &transport.consumers.items {
            let kind = short(consumer.kind.as_str());
            consumer.streams.items.iter().for_each(|stream| sent.add(kind, stream));
            let known = consumer.streams.items.iter().filter_map(|stream| stream.round_trip_time.value());
            round_trips.entry(kind).or_default().extend(known);
        }
    }
    received.write(&PRODUCERS_SCORE, out);
    sent.write(&CONSUMERS_SCORE, out);
    for (kind, mut milliseconds) in round_trips {
        milliseconds.sort_by(f64::total_cmp);
        for (q, percent) in [("0.5", 50), ("0.9", 90), ("0.99", 99), ("1", 100)] {
            let rank = (milliseconds.len() * percent).div_ceil(100); // the nearest rank: always a value that occurred
            if let Some(value) = rank.checked_sub(1).and_then(|at| milliseconds.get(at)) {
                out.set(&ROUND_TRIP_TIME, &[kind, q], value / 1000.0);
            }
        }
    }
}

/// Streams by kind and score.
#[derive(Default)]
struct Scores<'d>(BTreeMap<&'d str, [u32; 11]>);

impl<'d> Scores<'d> {
    fn add(&mut self, kind: &'d str, stream: &StreamStats) {
        let counts = self.0.entry(kind).or_default();
        let Some(score) = stream.score.own.value() else { return };
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "cleaned: 0 to 10")]
        if let Some(count) = counts.get_mut(score as usize) {
            *count += 1;
        }
    }

    fn write(&self, desc: &'static Desc, out: &mut Families) {
        const NAMES: [&str; 11] = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10"];
        for (kind, counts) in &self.0 {
            for (score, count) in NAMES.into_iter().zip(counts) {
                out.set(desc, &[kind, score], f64::from(*count));
            }
        }
    }
}
