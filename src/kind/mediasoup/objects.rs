//! Series of single transports and streams: the options' `perObject`. The labels `room_id` and `peer_id` come last, since they are
//! there only with `roomLabels`.

use super::document::{Consumer, LocatedTransport, Producer, StreamStats};
use super::{codec, short};
use crate::kind::Number;
use crate::metric::{Desc, Families};

crate::descs! {
    TRANSPORT_AVAILABLE_OUTGOING = gauge "mediasoup_transport_available_outgoing_bytes_per_second" ["pid", "router_id", "transport_id", "type", "room_id", "peer_id"]
        "Estimated available bandwidth to the endpoint.";
    TRANSPORT_AVAILABLE_INCOMING = gauge "mediasoup_transport_available_incoming_bytes_per_second" ["pid", "router_id", "transport_id", "type", "room_id", "peer_id"]
        "Estimated available bandwidth from the endpoint.";
    TRANSPORT_MAX_OUTGOING = gauge "mediasoup_transport_max_outgoing_bytes_per_second" ["pid", "router_id", "transport_id", "type", "room_id", "peer_id"]
        "Maximum rate at which the application allows the transport to send.";
    TRANSPORT_MAX_INCOMING = gauge "mediasoup_transport_max_incoming_bytes_per_second" ["pid", "router_id", "transport_id", "type", "room_id", "peer_id"]
        "Maximum rate at which the application allows the endpoint to send.";
    TRANSPORT_LOSS = gauge "mediasoup_transport_rtp_loss_ratio" ["pid", "router_id", "transport_id", "type", "direction", "room_id", "peer_id"]
        "Fraction of RTP packets lost recently; absent if congestion control does not measure it.";
    PRODUCER_BYTES = counter "mediasoup_producer_stream_received_bytes_total" ["pid", "router_id", "transport_id", "producer_id", "kind", "codec", "ssrc", "room_id", "peer_id"]
        "RTP bytes of the stream received from the endpoint.";
    PRODUCER_PACKETS = counter "mediasoup_producer_stream_received_packets_total" ["pid", "router_id", "transport_id", "producer_id", "kind", "codec", "ssrc", "room_id", "peer_id"]
        "RTP packets of the stream received from the endpoint.";
    PRODUCER_LOST = gauge "mediasoup_producer_stream_lost_packets" ["pid", "router_id", "transport_id", "producer_id", "kind", "codec", "ssrc", "room_id", "peer_id"]
        "Packets lost so far on the way from the endpoint; an estimate that can decrease.";
    PRODUCER_FRACTION_LOST = gauge "mediasoup_producer_stream_fraction_lost_ratio" ["pid", "router_id", "transport_id", "producer_id", "kind", "codec", "ssrc", "room_id", "peer_id"]
        "Fraction of packets lost between the last two reports.";
    PRODUCER_DISCARDED = counter "mediasoup_producer_stream_discarded_packets_total" ["pid", "router_id", "transport_id", "producer_id", "kind", "codec", "ssrc", "room_id", "peer_id"]
        "Packets discarded because they were old or out of sequence.";
    PRODUCER_RETRANSMITTED = counter "mediasoup_producer_stream_retransmitted_packets_total" ["pid", "router_id", "transport_id", "producer_id", "kind", "codec", "ssrc", "room_id", "peer_id"]
        "Retransmitted packets received.";
    PRODUCER_REPAIRED = counter "mediasoup_producer_stream_repaired_packets_total" ["pid", "router_id", "transport_id", "producer_id", "kind", "codec", "ssrc", "room_id", "peer_id"]
        "Retransmitted packets that filled a gap.";
    PRODUCER_RTX_DISCARDED = counter "mediasoup_producer_stream_rtx_discarded_packets_total" ["pid", "router_id", "transport_id", "producer_id", "kind", "codec", "ssrc", "room_id", "peer_id"]
        "Retransmitted packets discarded.";
    PRODUCER_NACKS = counter "mediasoup_producer_stream_nacks_total" ["pid", "router_id", "transport_id", "producer_id", "kind", "codec", "ssrc", "room_id", "peer_id"]
        "NACK messages sent to the endpoint.";
    PRODUCER_NACKED = counter "mediasoup_producer_stream_nacked_packets_total" ["pid", "router_id", "transport_id", "producer_id", "kind", "codec", "ssrc", "room_id", "peer_id"]
        "Packets whose retransmission was requested from the endpoint.";
    PRODUCER_PLIS = counter "mediasoup_producer_stream_plis_total" ["pid", "router_id", "transport_id", "producer_id", "kind", "codec", "ssrc", "room_id", "peer_id"]
        "Key frames requested by PLI.";
    PRODUCER_FIRS = counter "mediasoup_producer_stream_firs_total" ["pid", "router_id", "transport_id", "producer_id", "kind", "codec", "ssrc", "room_id", "peer_id"]
        "Key frames requested by FIR.";
    PRODUCER_JITTER = gauge "mediasoup_producer_stream_jitter_seconds" ["pid", "router_id", "transport_id", "producer_id", "kind", "codec", "ssrc", "room_id", "peer_id"]
        "Interarrival jitter.";
    PRODUCER_ROUND_TRIP_TIME = gauge "mediasoup_producer_stream_round_trip_time_seconds" ["pid", "router_id", "transport_id", "producer_id", "kind", "codec", "ssrc", "room_id", "peer_id"]
        "Round-trip time to the endpoint; absent if unknown.";
    PRODUCER_SCORE = gauge "mediasoup_producer_stream_score" ["pid", "router_id", "transport_id", "producer_id", "kind", "codec", "ssrc", "room_id", "peer_id"]
        "Score of the received stream: 10 is good, 0 is inactive or lost.";
    CONSUMER_BYTES = counter "mediasoup_consumer_stream_sent_bytes_total" ["pid", "router_id", "transport_id", "producer_id", "consumer_id", "kind", "codec", "ssrc", "room_id", "peer_id"]
        "RTP bytes of the stream sent to the endpoint.";
    CONSUMER_PACKETS = counter "mediasoup_consumer_stream_sent_packets_total" ["pid", "router_id", "transport_id", "producer_id", "consumer_id", "kind", "codec", "ssrc", "room_id", "peer_id"]
        "RTP packets of the stream sent to the endpoint.";
    CONSUMER_LOST = gauge "mediasoup_consumer_stream_lost_packets" ["pid", "router_id", "transport_id", "producer_id", "consumer_id", "kind", "codec", "ssrc", "room_id", "peer_id"]
        "Packets lost so far on the way to the endpoint, as it reports; an estimate that can decrease.";
    CONSUMER_FRACTION_LOST = gauge "mediasoup_consumer_stream_fraction_lost_ratio" ["pid", "router_id", "transport_id", "producer_id", "consumer_id", "kind", "codec", "ssrc", "room_id", "peer_id"]
        "Fraction of packets lost between the last two reports of the endpoint.";
    CONSUMER_DISCARDED = counter "mediasoup_consumer_stream_discarded_packets_total" ["pid", "router_id", "transport_id", "producer_id", "consumer_id", "kind", "codec", "ssrc", "room_id", "peer_id"]
        "Packets discarded instead of sent.";
    CONSUMER_RETRANSMITTED = counter "mediasoup_consumer_stream_retransmitted_packets_total" ["pid", "router_id", "transport_id", "producer_id", "consumer_id", "kind", "codec", "ssrc", "room_id", "peer_id"]
        "Packets retransmitted.";
    CONSUMER_REPAIRED = counter "mediasoup_consumer_stream_repaired_packets_total" ["pid", "router_id", "transport_id", "producer_id", "consumer_id", "kind", "codec", "ssrc", "room_id", "peer_id"]
        "Packets retransmitted for the first time.";
    CONSUMER_RTX_DISCARDED = counter "mediasoup_consumer_stream_rtx_discarded_packets_total" ["pid", "router_id", "transport_id", "producer_id", "consumer_id", "kind", "codec", "ssrc", "room_id", "peer_id"]
        "Retransmitted packets discarded instead of sent.";
    CONSUMER_NACKS = counter "mediasoup_consumer_stream_nacks_total" ["pid", "router_id", "transport_id", "producer_id", "consumer_id", "kind", "codec", "ssrc", "room_id", "peer_id"]
        "NACK messages received from the endpoint.";
    CONSUMER_NACKED = counter "mediasoup_consumer_stream_nacked_packets_total" ["pid", "router_id", "transport_id", "producer_id", "consumer_id", "kind", "codec", "ssrc", "room_id", "peer_id"]
        "Packets whose retransmission the endpoint requested.";
    CONSUMER_PLIS = counter "mediasoup_consumer_stream_plis_total" ["pid", "router_id", "transport_id", "producer_id", "consumer_id", "kind", "codec", "ssrc", "room_id", "peer_id"]
        "Key frames that the endpoint requested by PLI.";
    CONSUMER_FIRS = counter "mediasoup_consumer_stream_firs_total" ["pid", "router_id", "transport_id", "producer_id", "consumer_id", "kind", "codec", "ssrc", "room_id", "peer_id"]
        "Key frames that the endpoint requested by FIR.";
    CONSUMER_JITTER = gauge "mediasoup_consumer_stream_jitter_seconds" ["pid", "router_id", "transport_id", "producer_id", "consumer_id", "kind", "codec", "ssrc", "room_id", "peer_id"]
        "Interarrival jitter at the endpoint; reported since mediasoup 3.19.10.";
    CONSUMER_ROUND_TRIP_TIME = gauge "mediasoup_consumer_stream_round_trip_time_seconds" ["pid", "router_id", "transport_id", "producer_id", "consumer_id", "kind", "codec", "ssrc", "room_id", "peer_id"]
        "Round-trip time to the endpoint; absent if unknown.";
    CONSUMER_SCORE = gauge "mediasoup_consumer_stream_score" ["pid", "router_id", "transport_id", "producer_id", "consumer_id", "kind", "codec", "ssrc", "room_id", "peer_id"]
        "Score of the stream at the endpoint: 10 is good, 0 is lost.";
    CONSUMER_SPATIAL_LAYER = gauge "mediasoup_consumer_current_spatial_layer" ["pid", "router_id", "transport_id", "producer_id", "consumer_id", "kind", "codec", "room_id", "peer_id"]
        "Spatial layer that the consumer currently receives.";
    CONSUMER_TEMPORAL_LAYER = gauge "mediasoup_consumer_current_temporal_layer" ["pid", "router_id", "transport_id", "producer_id", "consumer_id", "kind", "codec", "room_id", "peer_id"]
        "Temporal layer that the consumer currently receives.";
    CONSUMER_PRODUCER_SCORE = gauge "mediasoup_consumer_producer_score" ["pid", "router_id", "transport_id", "producer_id", "consumer_id", "kind", "codec", "room_id", "peer_id"]
        "Score of the producer's stream that the consumer receives.";
}

/// The families of a stream, in the order of [`values`].
const PRODUCER: [&Desc; 15] = [
    &PRODUCER_BYTES,
    &PRODUCER_PACKETS,
    &PRODUCER_LOST,
    &PRODUCER_FRACTION_LOST,
    &PRODUCER_DISCARDED,
    &PRODUCER_RETRANSMITTED,
    &PRODUCER_REPAIRED,
    &PRODUCER_RTX_DISCARDED,
    &PRODUCER_NACKS,
    &PRODUCER_NACKED,
    &PRODUCER_PLIS,
    &PRODUCER_FIRS,
    &PRODUCER_JITTER,
    &PRODUCER_ROUND_TRIP_TIME,
    &PRODUCER_SCORE,
];
const CONSUMER: [&Desc; 15] = [
    &CONSUMER_BYTES,
    &CONSUMER_PACKETS,
    &CONSUMER_LOST,
    &CONSUMER_FRACTION_LOST,
    &CONSUMER_DISCARDED,
    &CONSUMER_RETRANSMITTED,
    &CONSUMER_REPAIRED,
    &CONSUMER_RTX_DISCARDED,
    &CONSUMER_NACKS,
    &CONSUMER_NACKED,
    &CONSUMER_PLIS,
    &CONSUMER_FIRS,
    &CONSUMER_JITTER,
    &CONSUMER_ROUND_TRIP_TIME,
    &CONSUMER_SCORE,
];

fn values(stream: &StreamStats) -> [Number; 15] {
    [
        stream.byte_count,
        stream.packet_count,
        stream.packets_lost,
        stream.fraction_lost,
        stream.packets_discarded,
        stream.packets_retransmitted,
        stream.packets_repaired,
        stream.rtx_packets_discarded,
        stream.nack_count,
        stream.nack_packet_count,
        stream.pli_count,
        stream.fir_count,
        stream.jitter,
        stream.round_trip_time.map(|ms| ms / 1000.0),
        stream.score.own,
    ]
}

/// Writes series of single objects.
#[derive(Clone, Copy, Debug)]
pub(super) struct ObjectSeries {
    /// Whether series say which room and which peer they are of.
    pub(super) room_labels: bool,
}

impl ObjectSeries {
    /// How many of `N` label values are written: the last two are room and peer.
    const fn labels<const N: usize>(self) -> usize {
        if self.room_labels { N } else { N - 2 }
    }

    fn write<const N: usize>(self, desc: &'static Desc, labels: &[&str; N], value: Number, out: &mut Families) {
        out.number(desc, &labels[..self.labels::<N>()], value);
    }

    /// Writes the series of one transport.
    pub(super) fn transport(self, located: LocatedTransport<'_>, out: &mut Families) {
        let LocatedTransport { worker, router, transport } = located;
        let Some(stats) = transport.stats.as_ref() else { return };
        let (pid, router_id, id) = (worker.pid.as_str(), router.id.as_str(), transport.id.as_str());
        let class = short(transport.class.as_str());
        let room = located.app(&transport.app, |app| &app.room_id);
        let peer = located.app(&transport.app, |app| &app.peer_id);
        for (desc, bits) in [
            (&TRANSPORT_AVAILABLE_OUTGOING, stats.available_outgoing_bitrate),
            (&TRANSPORT_AVAILABLE_INCOMING, stats.available_incoming_bitrate),
            (&TRANSPORT_MAX_OUTGOING, stats.max_outgoing_bitrate),
            (&TRANSPORT_MAX_INCOMING, stats.max_incoming_bitrate),
        ] {
            self.write(desc, &[pid, router_id, id, class, room, peer], bits.map(|bits| bits / 8.0), out);
        }
        for (direction, loss) in
            [("received", stats.rtp_packet_loss_received), ("sent", stats.rtp_packet_loss_sent)]
        {
            self.write(&TRANSPORT_LOSS, &[pid, router_id, id, class, direction, room, peer], loss, out);
        }
    }

    /// Writes the series of one producer.
    pub(super) fn producer(self, located: LocatedTransport<'_>, producer: &Producer, out: &mut Families) {
        let room = located.app(&producer.app, |app| &app.room_id);
        let peer = located.app(&producer.app, |app| &app.peer_id);
        for stream in &producer.streams.items {
            let labels = [
                located.worker.pid.as_str(),
                located.router.id.as_str(),
                located.transport.id.as_str(),
                producer.id.as_str(),
                short(producer.kind.as_str()),
                codec(&producer.codec),
                stream.ssrc.as_str(),
                room,
                peer,
            ];
            for (desc, value) in PRODUCER.into_iter().zip(values(stream)) {
                self.write(desc, &labels, value, out);
            }
        }
    }

    /// Writes the series of one consumer.
    pub(super) fn consumer(self, located: LocatedTransport<'_>, consumer: &Consumer, out: &mut Families) {
        let room = located.app(&consumer.app, |app| &app.room_id);
        let peer = located.app(&consumer.app, |app| &app.peer_id);
        let (pid, router_id, id) = (located.worker.pid.as_str(), located.router.id.as_str(), located.transport.id.as_str());
        let (producer_id, consumer_id) = (consumer.producer_id.as_str(), consumer.id.as_str());
        let (kind, codec) = (short(consumer.kind.as_str()), codec(&consumer.codec));
        for stream in &consumer.streams.items {
            let ssrc = stream.ssrc.as_str();
            let labels = [pid, router_id, id, producer_id, consumer_id, kind, codec, ssrc, room, peer];
            for (desc, value) in CONSUMER.into_iter().zip(values(stream)) {
                self.write(desc, &labels, value, out);
            }
        }
        let labels = [pid, router_id, id, producer_id, consumer_id, kind, codec, room, peer];
        if let Some(layers) = consumer.current_layers.as_ref() {
            self.write(&CONSUMER_SPATIAL_LAYER, &labels, layers.spatial_layer, out);
            self.write(&CONSUMER_TEMPORAL_LAYER, &labels, layers.temporal_layer, out);
        }
        self.write(&CONSUMER_PRODUCER_SCORE, &labels, consumer.score.producer, out);
    }
}
