//! Families with the names and labels of edumeet's own exporter, made from the agent's document, so that its dashboards go on
//! working: option `compatibility`. Its errors are not repeated: `room_id` is the room of the peer.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use super::document::{AppData, Consumer, StatsDocument, LocatedTransport, Producer, StreamStats, TransportTuple, ShortText};
use super::summary::count;
use super::{Addresses, codec, short};
use crate::kind::{JsonField, Number};
use crate::metric::{Desc, Families, Suffix, Type};

crate::descs! {
    ROOMS = gauge "edumeet_rooms" []
        "Rooms; the name begins with compatibility.prefix.";
    PEERS = gauge "edumeet_peers" ["room_id"]
        "Peers of each room; the name begins with compatibility.prefix.";
    CONSUMER_BYTES = counter "mediasoup_consumer_byte_count_bytes" [
        "pid", "room_id", "peer_id", "display_name", "user_agent", "transport_id", "proto", "local_addr", "remote_addr", "id",
        "kind", "codec", "type"
    ] "RTP bytes of a consumer, for dashboards of edumeet.";
    CONSUMER_SCORE = gauge "mediasoup_consumer_score" [
        "pid", "room_id", "peer_id", "display_name", "user_agent", "transport_id", "proto", "local_addr", "remote_addr", "id",
        "kind", "codec", "type"
    ] "Score of a consumer's stream, for dashboards of edumeet.";
    PRODUCER_BYTES = counter "mediasoup_producer_byte_count_bytes" [
        "pid", "room_id", "peer_id", "display_name", "user_agent", "transport_id", "proto", "local_addr", "remote_addr", "id",
        "kind", "codec", "type"
    ] "RTP bytes of all streams of a producer, for dashboards of edumeet.";
    PRODUCER_SCORE = gauge "mediasoup_producer_score" [
        "pid", "room_id", "peer_id", "display_name", "user_agent", "transport_id", "proto", "local_addr", "remote_addr", "id",
        "kind", "codec", "type"
    ] "Score of a producer's last stream, for dashboards of edumeet.";
}

/// Rooms and how many peers each has, if that is known.
#[derive(Debug)]
pub(super) struct Rooms<'d>(BTreeMap<&'d str, Option<f64>>);

impl<'d> Rooms<'d> {
    /// From what the application reports to its agent; else a room is what routers have in common, or a router.
    pub(super) fn of(document: &'d StatsDocument) -> Self {
        if document.rooms.is_given {
            let rooms = document.rooms.items.iter();
            return Self(rooms.map(|room| (room.id.as_str(), room.peers.value())).collect());
        }
        let mut peers: BTreeMap<&str, PeerIdentities<'_>> = BTreeMap::new();
        for (_, router) in document.routers() {
            peers.entry(room_of(&router.app, &router.id)).or_default();
        }
        for located in document.transports() {
            peers.entry(room_of(&located.router.app, &located.router.id)).or_default().add(located);
        }
        Self(peers.into_iter().map(|(room, identities)| (room, identities.peers())).collect())
    }

    pub(super) fn count(&self) -> f64 {
        count(self.0.len())
    }

    /// Of all rooms together; nothing if those of one are not known.
    pub(super) fn peers(&self) -> Option<f64> {
        self.0.values().copied().sum()
    }
}

fn room_of<'d>(app: &'d JsonField<AppData>, router: &'d ShortText) -> &'d str {
    app.as_ref().and_then(|app| app.room_id.get()).unwrap_or(router.as_str())
}

/// What distinguishes peers of one room: the ids that the application gives them, else the addresses they connect from.
#[derive(Default)]
struct PeerIdentities<'d> {
    ids: BTreeSet<&'d str>,
    addresses: BTreeSet<&'d str>,
    /// A peer is connected from an address that the agent does not report.
    is_withheld: bool,
}

impl<'d> PeerIdentities<'d> {
    fn add(&mut self, located: LocatedTransport<'d>) {
        let transport = located.transport;
        let producers = transport.producers.items.iter().map(|producer| &producer.app);
        let consumers = transport.consumers.items.iter().map(|consumer| &consumer.app);
        let apps = std::iter::once(&transport.app).chain(producers).chain(consumers);
        self.ids.extend(apps.filter_map(|app| app.as_ref()?.peer_id.get()));
        if transport.class.as_str() == "webrtc" {
            let address = tuple(located).map(|tuple| tuple.remote_ip.get());
            self.is_withheld |= address == Some(None);
            self.addresses.extend(address.flatten());
        }
    }

    fn peers(&self) -> Option<f64> {
        match (self.ids.len(), self.addresses.len()) {
            (0, 0) if self.is_withheld => None,
            (0, addresses) => Some(count(addresses)),
            (ids, _) => Some(count(ids)),
        }
    }
}

/// Writes `<prefix>_rooms` and `<prefix>_peers`.
pub(super) fn write_rooms(prefix: &str, rooms: &Rooms<'_>, out: &mut Families) {
    let tail = |desc: &Desc| format!("{prefix}{}", desc.name.strip_prefix("edumeet").unwrap_or(desc.name));
    if let Some(family) = out.family(&tail(&ROOMS), Type::Gauge, ROOMS.help) {
        out.set_dynamic(family, Suffix::None, &[], rooms.count());
    }
    if let Some(family) = out.family(&tail(&PEERS), Type::Gauge, PEERS.help) {
        for (room, peers) in &rooms.0 {
            if let Some(peers) = peers {
                out.set_dynamic(family, Suffix::None, &[("room_id", room)], *peers);
            }
        }
    }
}

/// Writes the four families of single objects.
#[derive(Clone, Copy, Debug)]
pub(super) struct EdumeetSeries {
    /// What becomes of `local_addr` and `remote_addr`.
    pub(super) addresses: Addresses,
}

impl EdumeetSeries {
    /// Writes the objects of one transport, if it is one that edumeet shows: WebRTC, connected for good.
    pub(super) fn write(self, located: LocatedTransport<'_>, out: &mut Families) {
        let stats = located.transport.stats.as_ref();
        let completed = stats.is_some_and(|stats| stats.ice_state.as_str() == "completed");
        if located.transport.class.as_str() != "webrtc" || !completed {
            return;
        }
        for Consumer { id, kind, codec, app, streams, .. } in &located.transport.consumers.items {
            let object = MediaObject { app, id, kind, codec, class: "outbound-rtp", streams: &streams.items };
            self.write_object(located, &object, [&CONSUMER_BYTES, &CONSUMER_SCORE], out);
        }
        for Producer { id, kind, codec, app, streams, .. } in &located.transport.producers.items {
            let object = MediaObject { app, id, kind, codec, class: "inbound-rtp", streams: &streams.items };
            self.write_object(located, &object, [&PRODUCER_BYTES, &PRODUCER_SCORE], out);
        }
    }

    fn write_object(
        self,
        located: LocatedTransport<'_>,
        object: &MediaObject<'_>,
        [bytes, score]: [&'static Desc; 2],
        out: &mut Families,
    ) {
        let tuple = tuple(located);
        let address = |ip: fn(&TransportTuple) -> &ShortText, port: fn(&TransportTuple) -> &ShortText| {
            self.addresses.label(tuple.map_or(Cow::Borrowed(""), |tuple| joined(ip(tuple), port(tuple))))
        };
        let local = |tuple: &TransportTuple| tuple.local_address.get().is_some();
        let local_ip: fn(&TransportTuple) -> &ShortText = if tuple.is_some_and(local) { |t| &t.local_address } else { |t| &t.local_ip };
        let labels = [
            located.worker.pid.as_str(),
            located.app(object.app, |app| &app.room_id),
            located.app(object.app, |app| &app.peer_id),
            located.app(object.app, |app| &app.display_name),
            located.app(object.app, |app| &app.user_agent),
            located.transport.id.as_str(),
            tuple.map_or("", |tuple| short(tuple.protocol.as_str())),
            &address(local_ip, |tuple| &tuple.local_port),
            &address(|tuple| &tuple.remote_ip, |tuple| &tuple.remote_port),
            object.id.as_str(),
            short(object.kind.as_str()),
            codec(object.codec),
            object.class,
        ];
        // A series for each object, not for each stream: bytes are added up, of the scores the last one stays.
        let sum = object.streams.iter().filter_map(|stream| stream.byte_count.value()).reduce(|a, b| a + b);
        out.number(bytes, &labels, sum.map_or(Number::Absent, Number::Value));
        out.number(score, &labels, object.streams.last().map_or(Number::Absent, |stream| stream.score.own));
    }
}

/// A producer or a consumer.
struct MediaObject<'d> {
    app: &'d JsonField<AppData>,
    id: &'d ShortText,
    kind: &'d ShortText,
    codec: &'d ShortText,
    class: &'static str,
    streams: &'d [StreamStats],
}

fn tuple(located: LocatedTransport<'_>) -> Option<&TransportTuple> {
    located.transport.stats.as_ref()?.ice_selected_tuple.as_ref()
}

/// `host:port`, as edumeet writes it; nothing without a host.
fn joined<'d>(ip: &'d ShortText, port: &'d ShortText) -> Cow<'d, str> {
    match (ip.get(), port.get()) {
        (Some(ip), Some(port)) => Cow::Owned(format!("{ip}:{port}")),
        (Some(ip), None) => Cow::Borrowed(ip),
        (None, _) => Cow::Borrowed(""),
    }
}
