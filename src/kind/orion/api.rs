//! The documents of Orion's monitoring API, as far as they are used. What they mean is decided in the modules that write families.

use serde::de::{Deserialize, Deserializer};

use crate::kind::json::json_objects;
use crate::kind::{JsonEntries, JsonField, Number, Text};

/// A number that cannot be below 0: every one that Orion reports. A negative one is the trace of an overflow, and invalid.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Amount(pub(super) Number);

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(match Number::deserialize(deserializer)? {
            Number::Value(value) if value < 0.0 => Number::Invalid,
            number => number,
        }))
    }
}

/// Amounts by a name that only the broker knows.
pub(super) type Amounts = JsonField<JsonEntries<Amount>>;

/// Requests by URL, then by method. The URL is a template (`/v2/entities/{id}`), in 3.1 to 3.7 a word (`EntitiesRequest`).
pub(super) type RequestCounts = JsonField<JsonEntries<Amounts>>;

json_objects! {
    /// `GET /admin/metrics`: the traffic of every service and subservice, and its sums.
    #[derive(Debug, Default, PartialEq)]
    pub(super) struct AdminMetrics {
        /// By service. Other FIWARE components that copied the document call it `service`.
        pub(super) services: JsonField<JsonEntries<JsonField<ServiceTraffic>>> as "services" | "service",
        /// Over all services.
        pub(super) sum: JsonField<TotalTraffic>,
    }

    /// The traffic of one service.
    #[derive(Debug, Default, PartialEq)]
    pub(super) struct ServiceTraffic {
        /// By subservice, as a flat list: `gardens/north` is one key.
        pub(super) subservices: JsonField<JsonEntries<JsonField<Transactions>>> as "subservs",
        /// Over all subservices.
        pub(super) sum: JsonField<Transactions>,
    }

    /// The top-level `sum`. It has `subservs` as well, which add up services that only share a path: never used.
    #[derive(Debug, Default, PartialEq)]
    pub(super) struct TotalTraffic {
        /// Over everything.
        pub(super) sum: JsonField<Transactions>,
    }

    /// The traffic of one subservice, of one service, or of all. A counter of 0 is left out of the document.
    #[derive(Clone, Copy, Debug, Default, PartialEq)]
    pub(super) struct Transactions {
        pub(super) incoming: Amount as "incomingTransactions",
        pub(super) incoming_errors: Amount as "incomingTransactionErrors",
        pub(super) incoming_request_size: Amount as "incomingTransactionRequestSize",
        pub(super) incoming_response_size: Amount as "incomingTransactionResponseSize",
        pub(super) outgoing: Amount as "outgoingTransactions",
        pub(super) outgoing_errors: Amount as "outgoingTransactionErrors",
        pub(super) outgoing_request_size: Amount as "outgoingTransactionRequestSize",
        pub(super) outgoing_response_size: Amount as "outgoingTransactionResponseSize",
        /// Mean seconds per incoming transaction, over the whole time since the last reset.
        pub(super) service_time: Amount as "serviceTime",
    }

    /// The body of an error.
    #[derive(Debug, Default)]
    pub(super) struct ErrorBody {
        /// The reason, in words.
        pub(super) description: Text,
    }

    /// `GET /statistics`. Each block is there only if the broker was started with its flag.
    #[derive(Debug, Default, PartialEq)]
    pub(super) struct BrokerStatistics {
        pub(super) counters: JsonField<RequestCounters>,
        /// Seconds waited, by semaphore.
        pub(super) semaphore_wait: Amounts as "semWait",
        pub(super) timing: JsonField<ModuleTiming>,
        pub(super) queue: JsonField<NotificationQueue> as "notifQueue",
        pub(super) uptime: Amount as "uptime_in_secs",
        pub(super) measuring_interval: Amount as "measuring_interval_in_secs",
        pub(super) simulated_notifications: Amount as "simulatedNotifications",
    }

    /// `counters` of [`BrokerStatistics`]. Up to 3.0 it also has dozens of flat counters of requests by kind, which are skipped.
    #[derive(Debug, Default, PartialEq)]
    pub(super) struct RequestCounters {
        pub(super) json_requests: Amount as "jsonRequests",
        pub(super) text_requests: Amount as "textRequests",
        pub(super) no_payload_requests: Amount as "noPayloadRequests",
        pub(super) requests: RequestCounts,
        pub(super) requests_legacy: RequestCounts as "requestsLegacy",
        pub(super) missed_verb: Amount as "missedVerb",
        pub(super) invalid_requests: Amount as "invalidRequests",
        pub(super) registration_update_errors: Amount as "registrationUpdateErrors",
        pub(super) discovery_errors: Amount as "discoveryErrors",
        pub(super) notifications_sent: Amount as "notificationsSent",
        pub(super) deprecated_features: Amounts as "deprecatedFeatures",
    }

    /// `timing` of [`BrokerStatistics`]. Its `last` is the timing of one request that happened to be the last one: not used.
    #[derive(Debug, Default, PartialEq)]
    pub(super) struct ModuleTiming {
        /// Seconds by module, and `total`.
        pub(super) accumulated: Amounts,
    }

    /// `notifQueue` of [`BrokerStatistics`]. Its `avgTimeInQueue` is `timeInQueue` by `out`: not used.
    #[derive(Debug, Default, PartialEq)]
    pub(super) struct NotificationQueue {
        pub(super) entered: Amount as "in",
        pub(super) left: Amount as "out",
        pub(super) rejected: Amount as "reject",
        pub(super) sent_ok: Amount as "sentOk",
        pub(super) sent_error: Amount as "sentError",
        pub(super) wait: Amount as "timeInQueue",
        pub(super) size: Amount,
    }

    /// `GET /cache/statistics`. Its `ids` are subscription identifiers: never read.
    #[derive(Debug, Default, PartialEq)]
    pub(super) struct CacheStatistics {
        /// Brokers write `refresh`; the manual calls it `refreshs`.
        pub(super) refreshes: Amount as "refresh" | "refreshs",
        pub(super) inserts: Amount,
        pub(super) removes: Amount,
        pub(super) updates: Amount,
        pub(super) items: Amount,
    }

    /// `GET /version`: Orion puts everything below `orion`, Orion-LD at the top, where `version` is some other program's.
    #[derive(Debug, Default, PartialEq)]
    pub(super) struct VersionDocument {
        pub(super) orion: JsonField<BrokerBuild>,
        orion_version: Text as "orion version",
        orionld_version: Text as "orionld version",
        git_hash: Text,
        machine: Text,
        uptime: Text,
    }

    /// Which program answers, and since when it runs.
    #[derive(Debug, Default, PartialEq)]
    pub(super) struct BrokerBuild {
        /// Orion's version, in both forms of the document.
        pub(super) version: Text as "version" | "orion version",
        /// Orion-LD's own version; the one above is that of the Orion it was made from.
        pub(super) orionld_version: Text as "orionld version",
        pub(super) git_hash: Text,
        pub(super) machine: Text,
        /// `1 d, 2 h, 3 m, 4 s`.
        pub(super) uptime: Text,
    }
}

impl Transactions {
    /// The counters, in the order of the families that show them.
    pub(super) const COUNTERS: [fn(&Self) -> Amount; 8] = [
        |traffic| traffic.incoming,
        |traffic| traffic.incoming_errors,
        |traffic| traffic.incoming_request_size,
        |traffic| traffic.incoming_response_size,
        |traffic| traffic.outgoing,
        |traffic| traffic.outgoing_errors,
        |traffic| traffic.outgoing_request_size,
        |traffic| traffic.outgoing_response_size,
    ];
}

impl Amount {
    /// A counter of an object that is there: what is left out of the document is 0.
    pub(super) const fn or_zero(self) -> Number {
        match self.0 {
            Number::Absent => Number::Value(0.0),
            number => number,
        }
    }
}

impl VersionDocument {
    /// The fields at the top level.
    pub(super) fn top_level(self) -> BrokerBuild {
        let Self { orion: _, orion_version: version, orionld_version, git_hash, machine, uptime } = self;
        BrokerBuild { version, orionld_version, git_hash, machine, uptime }
    }
}
