//! The documents of Orion's monitoring API, as far as they are used. What they mean is decided elsewhere.

use serde::Deserialize;
use serde::de::{IgnoredAny, MapAccess};

use super::object::{Amount, Entries, Fields, Object, fields};
use crate::kind::{Number, Text};

/// `GET /admin/metrics`: the traffic of every service and subservice, and its sums.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Tree {
    /// By service. Other FIWARE components that copied the document call it `service`.
    pub(super) services: Object<Entries<Object<Service>>>,
    /// Over all services.
    pub(super) sum: Object<Grand>,
}
fields!(Tree { "services" | "service" => services, "sum" => sum });

/// One service of the [`Tree`].
#[derive(Debug, Default, PartialEq)]
pub(super) struct Service {
    /// By subservice, as a flat list: `gardens/north` is one key.
    pub(super) subservices: Object<Entries<Object<Block>>>,
    /// Over all subservices.
    pub(super) sum: Object<Block>,
}
fields!(Service { "subservs" => subservices, "sum" => sum });

/// The top-level `sum`. It has `subservs` as well, which add up services that only share a path: never used.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Grand {
    /// Over everything.
    pub(super) sum: Object<Block>,
}
fields!(Grand { "sum" => sum });

/// The keys of a [`Block`]'s counters. A counter of 0 is left out of the document.
pub(super) const COUNTERS: [&str; 8] = [
    "incomingTransactions",
    "incomingTransactionErrors",
    "incomingTransactionRequestSize",
    "incomingTransactionResponseSize",
    "outgoingTransactions",
    "outgoingTransactionErrors",
    "outgoingTransactionRequestSize",
    "outgoingTransactionResponseSize",
];

/// The traffic of one subservice, of one service, or of all.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Block {
    /// In the order of [`COUNTERS`].
    pub(super) counters: [Amount; COUNTERS.len()],
    /// Mean seconds per incoming transaction, over the whole time since the last reset.
    pub(super) service_time: Amount,
}

impl Fields for Block {
    fn field<'de, A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<(), A::Error> {
        if name == "serviceTime" {
            self.service_time = map.next_value()?;
        } else if let Some((_, counter)) = COUNTERS.iter().zip(&mut self.counters).find(|(key, _)| **key == name) {
            *counter = map.next_value()?;
        } else {
            map.next_value::<IgnoredAny>()?;
        }
        Ok(())
    }
}

impl Block {
    /// `incomingTransactions`, 0 where it is left out.
    pub(super) fn transactions(&self) -> Number {
        let [transactions, ..] = self.counters;
        zero_if_absent(transactions)
    }
}

/// A counter of a block that is there: what is left out is 0.
pub(super) fn zero_if_absent(counter: Amount) -> Number {
    match counter.0 {
        Number::Absent => Number::Value(0.0),
        number => number,
    }
}

/// An answer that says why there is no other.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Refusal {
    /// The reason, in words.
    pub(super) description: Text,
}

/// `GET /statistics`. Each block is there only if the broker was started with its flag.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Statistics {
    pub(super) counters: Object<Counters>,
    /// Seconds waited, by semaphore.
    pub(super) semaphore_wait: Object<Entries<Amount>>,
    pub(super) timing: Object<Timing>,
    pub(super) queue: Object<Queue>,
    pub(super) uptime: Amount,
    pub(super) measuring_interval: Amount,
    pub(super) simulated_notifications: Amount,
}
fields!(Statistics {
    "counters" => counters,
    "semWait" => semaphore_wait,
    "timing" => timing,
    "notifQueue" => queue,
    "uptime_in_secs" => uptime,
    "measuring_interval_in_secs" => measuring_interval,
    "simulatedNotifications" => simulated_notifications,
});

/// Requests by URL, then by method. The URL is a template (`/v2/entities/{id}`), in 3.1 to 3.7 a word (`EntitiesRequest`).
pub(super) type Requests = Object<Entries<Object<Entries<Amount>>>>;

/// `counters` of [`Statistics`]. Up to 3.0 it also has dozens of flat counters of requests by kind, which are passed over.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Counters {
    pub(super) json_requests: Amount,
    pub(super) text_requests: Amount,
    pub(super) no_payload_requests: Amount,
    pub(super) requests: Requests,
    pub(super) requests_legacy: Requests,
    pub(super) missed_verb: Amount,
    pub(super) invalid_requests: Amount,
    pub(super) registration_update_errors: Amount,
    pub(super) discovery_errors: Amount,
    pub(super) notifications_sent: Amount,
    pub(super) deprecated_features: Object<Entries<Amount>>,
}
fields!(Counters {
    "jsonRequests" => json_requests,
    "textRequests" => text_requests,
    "noPayloadRequests" => no_payload_requests,
    "requests" => requests,
    "requestsLegacy" => requests_legacy,
    "missedVerb" => missed_verb,
    "invalidRequests" => invalid_requests,
    "registrationUpdateErrors" => registration_update_errors,
    "discoveryErrors" => discovery_errors,
    "notificationsSent" => notifications_sent,
    "deprecatedFeatures" => deprecated_features,
});

/// `timing` of [`Statistics`]. Its `last` is the timing of one request that happened to be the last one: not used.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Timing {
    /// Seconds by module, and `total`.
    pub(super) accumulated: Object<Entries<Amount>>,
}
fields!(Timing { "accumulated" => accumulated });

/// `notifQueue` of [`Statistics`]. Its `avgTimeInQueue` is `timeInQueue` by `out`: not used.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Queue {
    pub(super) entered: Amount,
    pub(super) left: Amount,
    pub(super) rejected: Amount,
    pub(super) sent_ok: Amount,
    pub(super) sent_error: Amount,
    pub(super) wait: Amount,
    pub(super) size: Amount,
}
fields!(Queue {
    "in" => entered,
    "out" => left,
    "reject" => rejected,
    "sentOk" => sent_ok,
    "sentError" => sent_error,
    "timeInQueue" => wait,
    "size" => size,
});

/// `GET /cache/statistics`. Its `ids` are subscription identifiers: never read.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Cache {
    /// What brokers write; the manual calls it `refreshs`.
    pub(super) refreshes: Amount,
    pub(super) inserts: Amount,
    pub(super) removes: Amount,
    pub(super) updates: Amount,
    pub(super) items: Amount,
}
fields!(Cache {
    "refresh" | "refreshs" => refreshes,
    "inserts" => inserts,
    "removes" => removes,
    "updates" => updates,
    "items" => items,
});

/// `GET /version`: Orion puts everything below `orion`, Orion-LD at the top.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Version {
    pub(super) orion: Object<Build>,
    pub(super) flat: Build,
}

impl Fields for Version {
    fn field<'de, A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<(), A::Error> {
        match name {
            "orion" => self.orion = map.next_value()?,
            "version" => drop(map.next_value::<IgnoredAny>()?), // at the top it is some other program's
            name => self.flat.field(name, map)?,
        }
        Ok(())
    }
}

/// Which program answers, and since when it runs.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Build {
    /// Orion's version, in both forms of the document.
    pub(super) version: Text,
    /// Orion-LD's own version; the one above is that of the Orion it was made from.
    pub(super) orionld_version: Text,
    pub(super) git_hash: Text,
    pub(super) machine: Text,
    /// `1 d, 2 h, 3 m, 4 s`.
    pub(super) uptime: Text,
}
fields!(Build {
    "version" | "orion version" => version,
    "orionld version" => orionld_version,
    "git_hash" => git_hash,
    "machine" => machine,
    "uptime" => uptime,
});
