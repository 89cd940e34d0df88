//! Normalizes the statistics of all mediasoup versions: equal units, absent if unknown, each object once.
//!
//! After [`StatsDocument::normalize`] no number is negative or of a wrong type, so no other code has to check.

use std::collections::HashMap;

use super::document::{Consumer, Producer, Score, ShortText, StatsDocument, StreamStats, Transport, TransportStats, Worker};
use crate::kind::{JsonField, JsonList, Number};

/// A version of mediasoup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct MediasoupVersion(u32, u32, u32);

impl MediasoupVersion {
    /// Newer than all others. A version that cannot be parsed counts as this one.
    const NEWEST: Self = Self(u32::MAX, 0, 0);

    fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.split('.').map(|part| {
            let digits = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
            part[..digits].parse().ok()
        });
        Some(Self(numbers.next()??, numbers.next()??, numbers.next()??))
    }
}

/// What differs between versions of mediasoup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct VersionQuirks {
    /// Later: in units of the RTP clock.
    jitter_in_ms: bool,
    /// A bitrate that is not known was written as 0 for a few releases.
    zero_bitrate_is_absent: bool,
    /// Left out when it is 0; before, it did not exist.
    knows_rtx_discarded: bool,
}

impl VersionQuirks {
    fn of(version: MediasoupVersion) -> Self {
        Self {
            jitter_in_ms: version < MediasoupVersion(3, 12, 6),
            zero_bitrate_is_absent: (MediasoupVersion(3, 13, 0)..=MediasoupVersion(3, 14, 0)).contains(&version),
            knows_rtx_discarded: version >= MediasoupVersion(3, 6, 36),
        }
    }
}

impl StatsDocument {
    /// Normalizes the document, and returns how many values were invalid.
    pub(super) fn normalize(&mut self) -> usize {
        let version = MediasoupVersion::parse(self.mediasoup_version.as_str()).unwrap_or(MediasoupVersion::NEWEST);
        let mut normalizer = Normalizer { quirks: VersionQuirks::of(version), skipped: 0 };
        normalizer.document(self);
        normalizer.skipped
    }
}

struct Normalizer {
    quirks: VersionQuirks,
    skipped: usize,
}

/// The largest integer that JavaScript represents exactly. A counter above it is an error, which would stay in its total for ever.
const LARGEST: f64 = 9_007_199_254_740_992.0;

impl Normalizer {
    fn number(&mut self, number: &mut Number) {
        let good = match *number {
            Number::Absent => true,
            Number::Value(value) => (0.0..=LARGEST).contains(&value),
            Number::Invalid => false,
        };
        if !good {
            *number = Number::Absent;
            self.skipped += 1;
        }
    }

    fn numbers<'n>(&mut self, numbers: impl IntoIterator<Item = &'n mut Number>) {
        numbers.into_iter().for_each(|number| self.number(number));
    }

    fn list<T>(&mut self, list: &JsonList<T>) {
        self.skipped += list.invalid;
    }

    fn object<T>(&mut self, object: &JsonField<T>) {
        self.skipped += usize::from(matches!(object, JsonField::Invalid));
    }

    fn document(&mut self, document: &mut StatsDocument) {
        self.numbers([&mut document.timestamp_ms, &mut document.started_ms, &mut document.collection_ms]);
        self.object(&document.lifetime);
        if let Some(lifetime) = document.lifetime.as_mut() {
            self.numbers(lifetime.values_mut());
        }
        self.list(&document.rooms);
        self.list(&document.errors);
        self.list(&document.workers);
        for room in &mut document.rooms.items {
            self.number(&mut room.peers);
        }
        for worker in &mut document.workers.items {
            self.worker(worker);
        }
    }

    fn worker(&mut self, worker: &mut Worker) {
        self.numbers([&mut worker.created_ms, &mut worker.rss_bytes]);
        self.object(&worker.resource_usage);
        if let Some(usage) = worker.resource_usage.as_mut() {
            self.numbers([
                &mut usage.ru_utime,
                &mut usage.ru_stime,
                &mut usage.ru_maxrss,
                &mut usage.ru_minflt,
                &mut usage.ru_majflt,
                &mut usage.ru_nvcsw,
                &mut usage.ru_nivcsw,
            ]);
        }
        self.list(&worker.routers);
        for router in &mut worker.routers.items {
            self.list(&router.transports);
            for transport in &mut router.transports.items {
                self.transport(transport);
            }
        }
    }

    fn transport(&mut self, transport: &mut Transport) {
        self.number(&mut transport.created_ms);
        self.object(&transport.stats);
        if let Some(stats) = transport.stats.as_mut() {
            self.transport_stats(stats);
        }
        self.list(&transport.producers);
        self.list(&transport.consumers);
        self.list(&transport.data_producers);
        self.list(&transport.data_consumers);
        for producer in &mut transport.producers.items {
            self.producer(producer);
        }
        for consumer in &mut transport.consumers.items {
            self.consumer(consumer);
        }
    }

    fn transport_stats(&mut self, stats: &mut TransportStats) {
        self.numbers([
            &mut stats.bytes_received,
            &mut stats.bytes_sent,
            &mut stats.rtp_bytes_received,
            &mut stats.rtp_bytes_sent,
            &mut stats.rtx_bytes_received,
            &mut stats.rtx_bytes_sent,
            &mut stats.probation_bytes_sent,
            &mut stats.rtp_packet_loss_received,
            &mut stats.rtp_packet_loss_sent,
        ]);
        self.object(&stats.ice_selected_tuple);
        for bitrate in [
            &mut stats.available_outgoing_bitrate,
            &mut stats.available_incoming_bitrate,
            &mut stats.max_outgoing_bitrate,
            &mut stats.max_incoming_bitrate,
        ] {
            self.number(bitrate);
            if self.quirks.zero_bitrate_is_absent && *bitrate == Number::Value(0.0) {
                *bitrate = Number::Absent;
            }
        }
    }

    fn producer(&mut self, producer: &mut Producer) {
        self.numbers([&mut producer.created_ms, &mut producer.clock_rate]);
        producer.streams.items.retain(|stream| matches!(stream.class.get(), None | Some("inbound-rtp")));
        self.streams(&mut producer.streams, producer.clock_rate);
    }

    fn consumer(&mut self, consumer: &mut Consumer) {
        self.numbers([&mut consumer.created_ms, &mut consumer.clock_rate]);
        self.score(&mut consumer.score);
        if let Some(layers) = consumer.current_layers.as_mut() {
            self.numbers([&mut layers.spatial_layer, &mut layers.temporal_layer]);
        }
        // Beside its own entry a consumer repeats that of its producer.
        consumer.streams.items.retain(|stream| stream.class.get() == Some("outbound-rtp"));
        self.streams(&mut consumer.streams, consumer.clock_rate);
    }

    fn score(&mut self, score: &mut Score) {
        for number in [&mut score.own, &mut score.producer] {
            if number.value().is_some_and(|score| score > 10.0) {
                *number = Number::Invalid;
            }
            self.number(number);
        }
    }

    fn streams(&mut self, streams: &mut JsonList<StreamStats>, clock_rate: Number) {
        self.list(streams);
        for stream in &mut streams.items {
            self.stream(stream, clock_rate);
        }
        merge_equal(&mut streams.items);
    }

    fn stream(&mut self, stream: &mut StreamStats, clock_rate: Number) {
        // A negative loss was written as an unsigned number until 3.19.9.
        stream.packets_lost = stream.packets_lost.map(|lost| if (0.0..2_147_483_648.0).contains(&lost) { lost } else { 0.0 });
        self.numbers([
            &mut stream.byte_count,
            &mut stream.packet_count,
            &mut stream.bitrate,
            &mut stream.packets_lost,
            &mut stream.fraction_lost,
            &mut stream.jitter,
            &mut stream.packets_discarded,
            &mut stream.packets_retransmitted,
            &mut stream.packets_repaired,
            &mut stream.rtx_packets_discarded,
            &mut stream.nack_count,
            &mut stream.nack_packet_count,
            &mut stream.pli_count,
            &mut stream.fir_count,
            &mut stream.round_trip_time,
        ]);
        self.score(&mut stream.score);
        stream.fraction_lost = stream.fraction_lost.map(|of_256| of_256 / 256.0);
        stream.jitter = match (self.quirks.jitter_in_ms, clock_rate) {
            (true, _) => stream.jitter.map(|ms| ms / 1000.0),
            (false, Number::Value(rate)) if rate > 0.0 => stream.jitter.map(|units| units / rate),
            _ => Number::Absent,
        };
        if stream.round_trip_time == Number::Value(0.0) {
            stream.round_trip_time = Number::Absent; // since 3.13 the way to say that it is not known
        }
        if self.quirks.knows_rtx_discarded && stream.rtx_packets_discarded == Number::Absent {
            stream.rtx_packets_discarded = Number::Value(0.0);
        }
    }
}

/// Entries with the same SSRC would become the same series: counters are added up, of the others the last one stays.
fn merge_equal(streams: &mut Vec<StreamStats>) {
    if streams.len() < 2 {
        return;
    }
    let mut first: HashMap<ShortText, usize> = HashMap::with_capacity(streams.len());
    let mut merged: Vec<StreamStats> = Vec::with_capacity(streams.len());
    for stream in streams.drain(..) {
        let place = *first.entry(stream.ssrc.clone()).or_insert(merged.len());
        match merged.get_mut(place) {
            Some(earlier) => add(earlier, stream),
            None => merged.push(stream),
        }
    }
    *streams = merged;
}

fn add(to: &mut StreamStats, mut later: StreamStats) {
    for (sum, number) in [
        (&to.byte_count, &mut later.byte_count),
        (&to.packet_count, &mut later.packet_count),
        (&to.packets_lost, &mut later.packets_lost),
        (&to.packets_discarded, &mut later.packets_discarded),
        (&to.packets_retransmitted, &mut later.packets_retransmitted),
        (&to.packets_repaired, &mut later.packets_repaired),
        (&to.rtx_packets_discarded, &mut later.rtx_packets_discarded),
        (&to.nack_count, &mut later.nack_count),
        (&to.nack_packet_count, &mut later.nack_packet_count),
        (&to.pli_count, &mut later.pli_count),
        (&to.fir_count, &mut later.fir_count),
    ] {
        *number = match (*sum, *number) {
            (Number::Value(sum), Number::Value(value)) => Number::Value(sum + value),
            (sum @ Number::Value(_), _) => sum,
            (_, number) => number,
        };
    }
    *to = later;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normalized(version: &str, streams: &str) -> (Vec<StreamStats>, usize) {
        let document: JsonField<StatsDocument> = serde_json::from_str(&format!(
            r#"{{"schema": "mediasoup-stats/v1", "mediasoup_version": "{version}", "workers": [{{"routers": [{{"transports": [{{
                "producers": [{{"clock_rate": 48000, "streams": {streams}}}]}}]}}]}}]}}"#
        ))
        .unwrap();
        let JsonField::Value(mut document) = document else { panic!("no object") };
        document.check_schema().unwrap();
        let skipped = document.normalize();
        let router = &document.workers.items[0].routers.items[0];
        (router.transports.items[0].producers.items[0].streams.items.clone(), skipped)
    }

    #[test]
    fn versions_compare_by_their_numbers() {
        assert!(MediasoupVersion::parse("3.9.10").unwrap() < MediasoupVersion::parse("3.12.0").unwrap());
        assert_eq!(MediasoupVersion::parse("3.13.0-rc.1"), Some(MediasoupVersion(3, 13, 0)));
        for odd in ["", "3", "3.1", "x.y.z", "3..1", "99999999999.0.0"] {
            assert_eq!(MediasoupVersion::parse(odd), None, "{odd}");
        }
    }

    #[test]
    fn jitter_is_in_seconds_whatever_the_version_says_it_in() {
        for (version, seconds) in [("3.8.4", 0.048), ("3.12.5", 0.048), ("3.12.6", 0.001), ("3.27.1", 0.001), ("next", 0.001)] {
            assert_eq!(normalized(version, r#"[{"jitter": 48}]"#).0[0].jitter, Number::Value(seconds), "{version}");
        }
    }

    #[test]
    fn a_loss_that_cannot_be_is_none() {
        for (lost, kept) in [("-5", 0.0), ("4294967295", 0.0), ("2147483648", 0.0), ("2147483647", 2_147_483_647.0), ("7", 7.0)] {
            let (streams, skipped) = normalized("3.27.1", &format!(r#"[{{"packetsLost": {lost}}}]"#));
            assert_eq!((streams[0].packets_lost, skipped), (Number::Value(kept), 0), "{lost}");
        }
    }

    #[test]
    fn a_negative_number_or_another_type_is_absent_and_counted() {
        let (streams, skipped) = normalized("3.27.1", r#"[{"byteCount": -1, "packetCount": "7", "score": 11, "pliCount": null}]"#);
        let stream = &streams[0];
        assert_eq!([stream.byte_count, stream.packet_count, stream.score.own, stream.pli_count], [Number::Absent; 4]);
        assert_eq!(skipped, 3);
    }

    #[test]
    fn entries_of_one_ssrc_are_one_stream() {
        let (streams, _) = normalized(
            "3.27.1",
            r#"[{"ssrc": 1, "byteCount": 2, "score": 3}, {"ssrc": 2, "byteCount": 5}, {"ssrc": 1, "byteCount": 4, "score": {"score": 8}}]"#,
        );
        let found: Vec<_> = streams.iter().map(|s| (s.ssrc.as_str(), s.byte_count.value(), s.score.own.value())).collect();
        assert_eq!(found, [("1", Some(6.0), Some(8.0)), ("2", Some(5.0), None)]);
    }

    #[test]
    fn rtx_discards_are_none_only_where_they_are_known() {
        for (version, discards) in [("3.6.35", Number::Absent), ("3.6.36", Number::Value(0.0)), ("3.27.1", Number::Value(0.0))] {
            assert_eq!(normalized(version, "[{}]").0[0].rtx_packets_discarded, discards, "{version}");
        }
    }

    #[test]
    fn entries_of_another_direction_are_left_out() {
        assert_eq!(normalized("3.27.1", r#"[{"type": "outbound-rtp"}, {"type": "inbound-rtp"}, 3]"#).0.len(), 1);
    }
}
