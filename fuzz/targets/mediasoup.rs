//! The document of the mediasoup agent and the text of other exporters: the first two bytes switch options, then come the bodies.
#![no_main]

use invariants::{bodies, never_fall, polls};
use libfuzzer_sys::fuzz_target;
use scrapetarget_exporter::kind::CallOptions as _;
use scrapetarget_exporter::kind::mediasoup::{Addresses, Compatibility, Options, PerObject, StatsSource};
use url::Url;

/// What the exporter adds up itself, over streams and transports that come and go.
fn is_accumulated(name: &str) -> bool {
    let prefixes = ["mediasoup_transport_bytes", "mediasoup_producers_", "mediasoup_consumers_"];
    name.ends_with("_total") && prefixes.iter().any(|prefix| name.starts_with(prefix))
}

fuzz_target!(|input: &[u8]| {
    let [first, second, input @ ..] = input else { return };
    let on = |bit: u8| first & (1 << bit) != 0;
    let objects = [PerObject::Producers, PerObject::Consumers, PerObject::Transports];
    let options = Options {
        source: if on(0) { StatsSource::Prometheus } else { StatsSource::Agent },
        per_object: objects.into_iter().zip(1..).filter(|(_, bit)| !on(*bit)).map(|(object, _)| object).collect(),
        room_labels: !on(4),
        addresses: match second & 3 {
            0 => Addresses::Plain,
            1 => Addresses::Drop,
            2 => Addresses::Deidentify,
            _ => Addresses::Hash,
        },
        compatibility: (!on(5)).then(|| Compatibility { prefix: "edumeet".to_owned(), aggregated: !on(6) }),
    };
    let limit = if on(7) { 20 } else { 10_000 };
    let url = Url::parse("http://media:9851/").expect("a url");
    let expositions = polls(&mut *options.build(&url), bodies(input), limit);
    if options.source == StatsSource::Agent {
        never_fall(&expositions, is_accumulated);
    }
});
