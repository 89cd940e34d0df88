//! The document `mediasoup-stats/v1` as an agent writes it: only the fields that are used, all of them optional, and the
//! statistics of mediasoup in their raw form, whatever its version. [`clean`](super::clean) makes one meaning of them.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::lenient::{List, Map, Object, Word};
use crate::kind::Number;

/// The only schema that is understood.
pub(super) const SCHEMA: &str = "mediasoup-stats/v1";

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Document {
    pub(super) schema: Word,
    pub(super) mediasoup_version: Word,
    /// Unix time in ms at the start of the walk.
    pub(super) timestamp_ms: Number,
    pub(super) started_ms: Number,
    pub(super) collection_ms: Number,
    pub(super) lifetime: Object<Map<Number>>,
    pub(super) rooms: List<Room>,
    pub(super) workers: List<Worker>,
    pub(super) errors: List<Failure>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Room {
    pub(super) id: Word,
    pub(super) peers: Number,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Failure {
    pub(super) object: Word,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Worker {
    pub(super) pid: Word,
    pub(super) created_ms: Number,
    pub(super) rss_bytes: Number,
    pub(super) resource_usage: Object<ResourceUsage>,
    pub(super) routers: List<Router>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
#[expect(clippy::struct_field_names, reason = "getrusage calls them so")]
pub(super) struct ResourceUsage {
    pub(super) ru_utime: Number,
    pub(super) ru_stime: Number,
    pub(super) ru_maxrss: Number,
    pub(super) ru_minflt: Number,
    pub(super) ru_majflt: Number,
    pub(super) ru_nvcsw: Number,
    pub(super) ru_nivcsw: Number,
}

/// What the application attached to an object, as far as the agent is told to pass it on.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct App {
    pub(super) room_id: Word,
    pub(super) peer_id: Word,
    pub(super) display_name: Word,
    pub(super) user_agent: Word,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Router {
    pub(super) id: Word,
    pub(super) app: Object<App>,
    pub(super) transports: List<Transport>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Transport {
    pub(super) id: Word,
    #[serde(rename = "type")]
    pub(super) class: Word,
    pub(super) created_ms: Number,
    pub(super) app: Object<App>,
    pub(super) stats: Object<TransportStats>,
    pub(super) producers: List<Producer>,
    pub(super) consumers: List<Consumer>,
    pub(super) data_producers: List<DataObject>,
    pub(super) data_consumers: List<DataObject>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct TransportStats {
    pub(super) bytes_received: Number,
    pub(super) bytes_sent: Number,
    pub(super) rtp_bytes_received: Number,
    pub(super) rtp_bytes_sent: Number,
    pub(super) rtx_bytes_received: Number,
    pub(super) rtx_bytes_sent: Number,
    pub(super) probation_bytes_sent: Number,
    pub(super) available_outgoing_bitrate: Number,
    pub(super) available_incoming_bitrate: Number,
    pub(super) max_outgoing_bitrate: Number,
    pub(super) max_incoming_bitrate: Number,
    pub(super) rtp_packet_loss_received: Number,
    pub(super) rtp_packet_loss_sent: Number,
    pub(super) ice_state: Word,
    pub(super) dtls_state: Word,
    pub(super) ice_selected_tuple: Object<Tuple>,
}

impl TransportStats {
    /// The byte counters.
    pub(super) fn bytes(&self) -> [Number; 7] {
        [
            self.bytes_received,
            self.bytes_sent,
            self.rtp_bytes_received,
            self.rtp_bytes_sent,
            self.rtx_bytes_received,
            self.rtx_bytes_sent,
            self.probation_bytes_sent,
        ]
    }

    /// Whether the worker was asked: the states of a transport are known without it.
    pub(super) fn counted(&self) -> bool {
        self.bytes().iter().any(|number| number.value().is_some())
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Tuple {
    pub(super) protocol: Word,
    /// Since 3.13.18; the older name stays beside it.
    pub(super) local_address: Word,
    pub(super) local_ip: Word,
    pub(super) local_port: Word,
    pub(super) remote_ip: Word,
    pub(super) remote_port: Word,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Producer {
    pub(super) id: Word,
    pub(super) kind: Word,
    #[serde(rename = "type")]
    pub(super) class: Word,
    pub(super) codec: Word,
    pub(super) clock_rate: Number,
    pub(super) created_ms: Number,
    pub(super) paused: Flag,
    pub(super) app: Object<App>,
    pub(super) streams: List<Stream>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Consumer {
    pub(super) id: Word,
    pub(super) producer_id: Word,
    pub(super) kind: Word,
    #[serde(rename = "type")]
    pub(super) class: Word,
    pub(super) codec: Word,
    pub(super) clock_rate: Number,
    pub(super) created_ms: Number,
    pub(super) paused: Flag,
    pub(super) app: Object<App>,
    pub(super) score: Score,
    pub(super) current_layers: Object<Layers>,
    pub(super) streams: List<Stream>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Layers {
    pub(super) spatial_layer: Number,
    pub(super) temporal_layer: Number,
}

/// A data producer or a data consumer.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct DataObject {
    #[serde(rename = "type")]
    pub(super) class: Word,
}

/// One entry of `producer.getStats()` or `consumer.getStats()`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Stream {
    #[serde(rename = "type")]
    pub(super) class: Word,
    pub(super) ssrc: Word,
    pub(super) byte_count: Number,
    pub(super) packet_count: Number,
    pub(super) bitrate: Number,
    pub(super) packets_lost: Number,
    pub(super) fraction_lost: Number,
    pub(super) jitter: Number,
    pub(super) packets_discarded: Number,
    pub(super) packets_retransmitted: Number,
    pub(super) packets_repaired: Number,
    pub(super) rtx_packets_discarded: Number,
    pub(super) nack_count: Number,
    pub(super) nack_packet_count: Number,
    pub(super) pli_count: Number,
    pub(super) fir_count: Number,
    pub(super) round_trip_time: Number,
    pub(super) score: Score,
}

/// `true` or `false`; anything else is `false`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Flag(pub(super) bool);

impl Flag {
    pub(super) const fn as_str(self) -> &'static str {
        if self.0 { "true" } else { "false" }
    }
}

impl<'de> Deserialize<'de> for Flag {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = serde_json::Value::deserialize(deserializer)?;
        Ok(Self(value.as_bool().unwrap_or_default()))
    }
}

/// A score of 0 to 10: a number in the statistics of a stream, an object in a consumer.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Score {
    pub(super) own: Number,
    /// Of the producer's stream that the consumer gets now.
    pub(super) producer: Number,
}

impl<'de> Deserialize<'de> for Score {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ScoreVisitor)
    }
}

struct ScoreVisitor;

impl ScoreVisitor {
    const INVALID: Score = Score { own: Number::Invalid, producer: Number::Absent };

    const fn number(value: f64) -> Score {
        Score { own: Number::Value(value), producer: Number::Absent }
    }
}

impl<'de> Visitor<'de> for ScoreVisitor {
    type Value = Score;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a score")
    }

    #[expect(clippy::cast_precision_loss, reason = "a score is at most 10; what is larger is refused later")]
    fn visit_u64<E>(self, value: u64) -> Result<Score, E> {
        Ok(Self::number(value as f64))
    }

    #[expect(clippy::cast_precision_loss, reason = "a score is at most 10; what is smaller than 0 is refused later")]
    fn visit_i64<E>(self, value: i64) -> Result<Score, E> {
        Ok(Self::number(value as f64))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Score, E> {
        Ok(Self::number(value))
    }

    fn visit_unit<E>(self) -> Result<Score, E> {
        Ok(Score::default())
    }

    fn visit_bool<E>(self, _: bool) -> Result<Score, E> {
        Ok(Self::INVALID)
    }

    fn visit_str<E>(self, _: &str) -> Result<Score, E> {
        Ok(Self::INVALID)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Score, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Self::INVALID)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Score, A::Error> {
        let mut score = Score::default();
        while let Some(key) = map.next_key::<std::borrow::Cow<'_, str>>()? {
            match &*key {
                "score" => score.own = map.next_value()?,
                "producerScore" => score.producer = map.next_value()?,
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(score)
    }
}
