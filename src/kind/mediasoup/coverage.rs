//! Which sorts of objects a document has statistics of. An agent can be asked for less than it knows, and a worker may not answer
//! it: what nobody could tell must not look like nothing.

use super::document::{Document, TransportStats};

/// Whether the statistics of each sort of object are there, of one object at least. Where there is no object, nothing is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Coverage {
    pub(super) transports: bool,
    pub(super) received: bool,
    pub(super) sent: bool,
}

impl Coverage {
    pub(super) fn of(document: &Document) -> Self {
        let transports = || document.transports().map(|place| place.transport);
        Self {
            transports: none_or_any(transports().map(|transport| transport.stats.get().is_some_and(TransportStats::counted))),
            received: none_or_any(transports().flat_map(|t| &t.producers.items).map(|producer| producer.streams.given)),
            sent: none_or_any(transports().flat_map(|t| &t.consumers.items).map(|consumer| consumer.streams.given)),
        }
    }
}

fn none_or_any(given: impl Iterator<Item = bool>) -> bool {
    let mut given = given.peekable();
    given.peek().is_none() || given.any(|given| given)
}
