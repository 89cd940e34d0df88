//! The document `mediasoup-stats/v1` as an agent writes it: only the fields that are used, all of them optional, and the
//! statistics of mediasoup in their raw form, whatever its version. [`normalize`](super::normalize) makes one meaning of them.

use serde::de::{Deserialize, Deserializer, MapAccess};

use crate::kind::json::json_objects;
use crate::kind::{CallError, Flag, FromJson, JsonEntries, JsonField, JsonList, Number, Reason};

/// The only schema that is understood.
const SCHEMA: &str = "mediasoup-stats/v1";

/// Longest id or name that is kept, in bytes.
const MAX_TEXT: usize = 256;

json_objects! {
    #[derive(Debug, Default)]
    pub(super) struct StatsDocument {
        pub(super) schema: ShortText,
        pub(super) mediasoup_version: ShortText,
        /// Unix time in ms at the start of the walk.
        pub(super) timestamp_ms: Number,
        pub(super) started_ms: Number,
        pub(super) collection_ms: Number,
        pub(super) lifetime: JsonField<JsonEntries<Number>>,
        pub(super) rooms: JsonList<Room>,
        pub(super) workers: JsonList<Worker>,
        pub(super) errors: JsonList<ObjectError>,
    }

    #[derive(Debug, Default)]
    pub(super) struct Room {
        pub(super) id: ShortText,
        pub(super) peers: Number,
    }

    #[derive(Debug, Default)]
    pub(super) struct ObjectError {
        pub(super) object: ShortText,
    }

    #[derive(Debug, Default)]
    pub(super) struct Worker {
        pub(super) pid: ShortText,
        pub(super) created_ms: Number,
        pub(super) rss_bytes: Number,
        pub(super) resource_usage: JsonField<ResourceUsage>,
        pub(super) routers: JsonList<Router>,
    }

    #[derive(Debug, Default)]
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

    /// What the application attached to an object, as far as the agent is configured to report it.
    #[derive(Debug, Default)]
    pub(super) struct AppData {
        pub(super) room_id: ShortText as "roomId",
        pub(super) peer_id: ShortText as "peerId",
        pub(super) display_name: ShortText as "displayName",
        pub(super) user_agent: ShortText as "userAgent",
    }

    #[derive(Debug, Default)]
    pub(super) struct Router {
        pub(super) id: ShortText,
        pub(super) app: JsonField<AppData>,
        pub(super) transports: JsonList<Transport>,
    }

    #[derive(Debug, Default)]
    pub(super) struct Transport {
        pub(super) id: ShortText,
        pub(super) class: ShortText as "type",
        pub(super) created_ms: Number,
        pub(super) app: JsonField<AppData>,
        pub(super) stats: JsonField<TransportStats>,
        pub(super) producers: JsonList<Producer>,
        pub(super) consumers: JsonList<Consumer>,
        pub(super) data_producers: JsonList<DataObject>,
        pub(super) data_consumers: JsonList<DataObject>,
    }

    #[derive(Debug, Default)]
    pub(super) struct TransportStats {
        pub(super) bytes_received: Number as "bytesReceived",
        pub(super) bytes_sent: Number as "bytesSent",
        pub(super) rtp_bytes_received: Number as "rtpBytesReceived",
        pub(super) rtp_bytes_sent: Number as "rtpBytesSent",
        pub(super) rtx_bytes_received: Number as "rtxBytesReceived",
        pub(super) rtx_bytes_sent: Number as "rtxBytesSent",
        pub(super) probation_bytes_sent: Number as "probationBytesSent",
        pub(super) available_outgoing_bitrate: Number as "availableOutgoingBitrate",
        pub(super) available_incoming_bitrate: Number as "availableIncomingBitrate",
        pub(super) max_outgoing_bitrate: Number as "maxOutgoingBitrate",
        pub(super) max_incoming_bitrate: Number as "maxIncomingBitrate",
        pub(super) rtp_packet_loss_received: Number as "rtpPacketLossReceived",
        pub(super) rtp_packet_loss_sent: Number as "rtpPacketLossSent",
        pub(super) ice_state: ShortText as "iceState",
        pub(super) dtls_state: ShortText as "dtlsState",
        pub(super) ice_selected_tuple: JsonField<TransportTuple> as "iceSelectedTuple",
    }

    #[derive(Debug, Default)]
    pub(super) struct TransportTuple {
        pub(super) protocol: ShortText,
        /// Since 3.13.18; the older name stays beside it.
        pub(super) local_address: ShortText as "localAddress",
        pub(super) local_ip: ShortText as "localIp",
        pub(super) local_port: ShortText as "localPort",
        pub(super) remote_ip: ShortText as "remoteIp",
        pub(super) remote_port: ShortText as "remotePort",
    }

    #[derive(Debug, Default)]
    pub(super) struct Producer {
        pub(super) id: ShortText,
        pub(super) kind: ShortText,
        pub(super) class: ShortText as "type",
        pub(super) codec: ShortText,
        pub(super) clock_rate: Number,
        pub(super) created_ms: Number,
        pub(super) paused: Flag,
        pub(super) app: JsonField<AppData>,
        pub(super) streams: JsonList<StreamStats>,
    }

    #[derive(Debug, Default)]
    pub(super) struct Consumer {
        pub(super) id: ShortText,
        pub(super) producer_id: ShortText,
        pub(super) kind: ShortText,
        pub(super) class: ShortText as "type",
        pub(super) codec: ShortText,
        pub(super) clock_rate: Number,
        pub(super) created_ms: Number,
        pub(super) paused: Flag,
        pub(super) app: JsonField<AppData>,
        pub(super) score: Score,
        pub(super) current_layers: JsonField<Layers>,
        pub(super) streams: JsonList<StreamStats>,
    }

    #[derive(Debug, Default)]
    pub(super) struct Layers {
        pub(super) spatial_layer: Number as "spatialLayer",
        pub(super) temporal_layer: Number as "temporalLayer",
    }

    /// A data producer or a data consumer.
    #[derive(Debug, Default)]
    pub(super) struct DataObject {
        pub(super) class: ShortText as "type",
    }

    /// One entry of `producer.getStats()` or `consumer.getStats()`.
    #[derive(Clone, Debug, Default)]
    pub(super) struct StreamStats {
        pub(super) class: ShortText as "type",
        pub(super) ssrc: ShortText,
        pub(super) byte_count: Number as "byteCount",
        pub(super) packet_count: Number as "packetCount",
        pub(super) bitrate: Number,
        pub(super) packets_lost: Number as "packetsLost",
        pub(super) fraction_lost: Number as "fractionLost",
        pub(super) jitter: Number,
        pub(super) packets_discarded: Number as "packetsDiscarded",
        pub(super) packets_retransmitted: Number as "packetsRetransmitted",
        pub(super) packets_repaired: Number as "packetsRepaired",
        pub(super) rtx_packets_discarded: Number as "rtxPacketsDiscarded",
        pub(super) nack_count: Number as "nackCount",
        pub(super) nack_packet_count: Number as "nackPacketCount",
        pub(super) pli_count: Number as "pliCount",
        pub(super) fir_count: Number as "firCount",
        pub(super) round_trip_time: Number as "roundTripTime",
        pub(super) score: Score,
    }
}

impl StatsDocument {
    /// Whether this is a document that we can read.
    pub(super) fn check_schema(&self) -> Result<(), CallError> {
        let wrong = |message: String| Err(CallError::new(Reason::Schema, message));
        match self.schema.get() {
            Some(SCHEMA) if self.mediasoup_version.get().is_some() => Ok(()),
            Some(SCHEMA) => wrong("the document does not say its mediasoup_version".to_owned()),
            Some(other) => match schema_version(other) {
                Some(version) => wrong(format!("the document's schema is \"mediasoup-stats/v{version}\", not {SCHEMA:?}")),
                None => wrong(format!("the document's schema is not {SCHEMA:?}; is this the agent?")),
            },
            None => wrong(format!("the document has no schema; is this the {SCHEMA} of an agent?")),
        }
    }

    /// Every router with its worker, in the order of the document.
    pub(super) fn routers(&self) -> impl Iterator<Item = (&Worker, &Router)> {
        self.workers.items.iter().flat_map(|worker| worker.routers.items.iter().map(move |router| (worker, router)))
    }

    /// Every transport, in the order of the document.
    pub(super) fn transports(&self) -> impl Iterator<Item = LocatedTransport<'_>> {
        self.routers().flat_map(|(worker, router)| {
            router.transports.items.iter().map(move |transport| LocatedTransport { worker, router, transport })
        })
    }

    /// Which statistics the document has. A request to the agent may ask for less, and a worker may not respond to the agent: unknown
    /// statistics must not look like zero.
    pub(super) fn coverage(&self) -> Coverage {
        let transports = || self.transports().map(|place| place.transport);
        Coverage {
            transports: none_or_any(transports().map(|t| t.stats.as_ref().is_some_and(TransportStats::has_counters))),
            received: none_or_any(transports().flat_map(|t| &t.producers.items).map(|p| p.streams.is_given)),
            sent: none_or_any(transports().flat_map(|t| &t.consumers.items).map(|c| c.streams.is_given)),
        }
    }
}

/// The version in the name of a later schema, for the error message. Any other name is not quoted, since the server chooses it.
fn schema_version(schema: &str) -> Option<&str> {
    let version = schema.strip_prefix("mediasoup-stats/v")?;
    let is_version = (1..=8).contains(&version.len()) && version.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    is_version.then_some(version)
}

/// Whether there are statistics of at least one object of each sort, or no object at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Coverage {
    pub(super) transports: bool,
    pub(super) received: bool,
    pub(super) sent: bool,
}

fn none_or_any(given: impl Iterator<Item = bool>) -> bool {
    let mut given = given.peekable();
    given.peek().is_none() || given.any(|given| given)
}

/// A transport with the router and the worker that it belongs to.
#[derive(Clone, Copy, Debug)]
pub(super) struct LocatedTransport<'d> {
    pub(super) worker: &'d Worker,
    pub(super) router: &'d Router,
    pub(super) transport: &'d Transport,
}

impl<'d> LocatedTransport<'d> {
    /// What the application attached to an object of this transport, else to the transport, else to its router.
    pub(super) fn app(self, own: &'d JsonField<AppData>, field: fn(&AppData) -> &ShortText) -> &'d str {
        [own, &self.transport.app, &self.router.app]
            .into_iter()
            .find_map(|app| field(app.as_ref()?).get())
            .unwrap_or_default()
    }
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

    /// Whether the statistics come from the worker: the states of a transport are known without it.
    pub(super) fn has_counters(&self) -> bool {
        self.bytes().iter().any(|number| number.value().is_some())
    }
}

/// `true` or `false` as the value of a label; a flag that is missing or wrong is `false`.
pub(super) fn flag_label(flag: Flag) -> &'static str {
    if flag == Flag::Value(true) { "true" } else { "false" }
}

/// An id or a name, cut to 256 bytes: a string, or a number, which some applications use as ids. Anything else is as good as none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct ShortText(Option<Box<str>>);

impl ShortText {
    pub(super) fn get(&self) -> Option<&str> {
        self.0.as_deref()
    }

    /// The text, empty if there is none.
    pub(super) fn as_str(&self) -> &str {
        self.get().unwrap_or_default()
    }
}

impl FromJson for ShortText {
    fn string(text: &str) -> Option<Self> {
        Some(Self(Some(text[..text.floor_char_boundary(MAX_TEXT)].into())))
    }

    fn unsigned(number: u64) -> Option<Self> {
        Self::string(itoa::Buffer::new().format(number))
    }

    fn signed(number: i64) -> Option<Self> {
        Self::string(itoa::Buffer::new().format(number))
    }

    fn float(number: f64) -> Option<Self> {
        Self::string(&number.to_string()) // 12.0 is written as 12
    }
}

impl<'de> Deserialize<'de> for ShortText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match JsonField::deserialize(deserializer)? {
            JsonField::Value(text) => text,
            JsonField::Absent | JsonField::Invalid => Self::default(),
        })
    }
}

/// A score of 0 to 10: a number in the statistics of a stream, an object in a consumer.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Score {
    pub(super) own: Number,
    /// Of the producer's stream that the consumer gets now.
    pub(super) producer: Number,
}

json_objects! {
    #[derive(Default)]
    struct ConsumerScore {
        score: Number,
        producer: Number as "producerScore",
    }
}

impl FromJson for Score {
    fn float(score: f64) -> Option<Self> {
        Some(Self { own: Number::Value(score), producer: Number::Absent })
    }

    fn object<'de, A: MapAccess<'de>>(entries: A) -> Result<Option<Self>, A::Error> {
        let score = ConsumerScore::object(entries)?;
        Ok(score.map(|ConsumerScore { score: own, producer }| Self { own, producer }))
    }
}

impl<'de> Deserialize<'de> for Score {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match JsonField::deserialize(deserializer)? {
            JsonField::Value(score) => score,
            JsonField::Absent => Self::default(),
            JsonField::Invalid => Self { own: Number::Invalid, producer: Number::Absent },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_may_be_a_number_but_nothing_else() {
        for (json, text) in [
            ("\"a\\n\"", Some("a\n")),
            ("7", Some("7")),
            ("18446744073709551615", Some("18446744073709551615")),
            ("-7", Some("-7")),
            ("7.0", Some("7")),
            ("null", None),
            ("[7]", None),
            ("{}", None),
            ("true", None),
        ] {
            assert_eq!(serde_json::from_str::<ShortText>(json).unwrap().get(), text, "{json}");
        }
        let long: ShortText = serde_json::from_str(&format!("\"{}\"", "é".repeat(999))).unwrap();
        assert_eq!(long.as_str().len(), 256);
    }

    #[test]
    fn a_score_is_a_number_or_an_object() {
        for (json, own, producer) in [
            ("7", Number::Value(7.0), Number::Absent),
            (r#"{"score": 8, "producerScore": 9, "producerScores": [9]}"#, Number::Value(8.0), Number::Value(9.0)),
            ("null", Number::Absent, Number::Absent),
            ("\"7\"", Number::Invalid, Number::Absent),
            ("[7]", Number::Invalid, Number::Absent),
        ] {
            assert_eq!(serde_json::from_str::<Score>(json).unwrap(), Score { own, producer }, "{json}");
        }
    }
}
