//! The traffic counters of a broker, and the document `/admin/metrics`: counters of 0 and empty parts are left out.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// The traffic of one subservice.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Traffic {
    pub(super) incoming: u64,
    pub(super) incoming_errors: u64,
    pub(super) incoming_request_bytes: u64,
    pub(super) incoming_response_bytes: u64,
    pub(super) service_micros: u64,
    pub(super) outgoing: u64,
    pub(super) outgoing_errors: u64,
    pub(super) outgoing_request_bytes: u64,
    pub(super) outgoing_response_bytes: u64,
}

impl Traffic {
    pub(super) fn add(&mut self, more: &Self) {
        self.incoming += more.incoming;
        self.incoming_errors += more.incoming_errors;
        self.incoming_request_bytes += more.incoming_request_bytes;
        self.incoming_response_bytes += more.incoming_response_bytes;
        self.service_micros += more.service_micros;
        self.outgoing += more.outgoing;
        self.outgoing_errors += more.outgoing_errors;
        self.outgoing_request_bytes += more.outgoing_request_bytes;
        self.outgoing_response_bytes += more.outgoing_response_bytes;
    }

    fn json(&self) -> String {
        let mean = match (self.service_micros, self.incoming) {
            (0, _) | (_, 0) => None,
            (micros, incoming) => Some(mean_seconds(micros, incoming)),
        };
        let count = |count: u64| (count > 0).then(|| count.to_string());
        let fields = [
            ("incomingTransactionErrors", count(self.incoming_errors)),
            ("incomingTransactionRequestSize", count(self.incoming_request_bytes)),
            ("incomingTransactionResponseSize", count(self.incoming_response_bytes)),
            ("serviceTime", mean),
            ("incomingTransactions", count(self.incoming)),
            ("outgoingTransactionErrors", count(self.outgoing_errors)),
            ("outgoingTransactionRequestSize", count(self.outgoing_request_bytes)),
            ("outgoingTransactionResponseSize", count(self.outgoing_response_bytes)),
            ("outgoingTransactions", count(self.outgoing)),
        ];
        object(fields.iter().filter_map(|(key, value)| Some((*key, value.as_deref()?))))
    }
}

/// The mean as a broker computes it: in 32 bits, hence the noise of its last digits.
#[expect(clippy::cast_precision_loss, reason = "the loss is what is simulated")]
fn mean_seconds(micros: u64, count: u64) -> String {
    decimals(micros as f32 / (count as f32 * 1e6))
}

/// A float as a broker prints it: at most nine decimals, no trailing zeros.
pub(super) fn decimals(value: f32) -> String {
    let text = format!("{value:.9}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// A compact JSON object; the names of the simulation need no escapes.
pub(super) fn object<'a>(entries: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let mut json = String::from("{");
    for (key, value) in entries {
        let comma = if json.len() > 1 { "," } else { "" };
        let _ = write!(json, "{comma}\"{key}\":{value}");
    }
    json.push('}');
    json
}

/// All traffic by service and subservice, under their raw names: empty where a request named none.
#[derive(Debug, Default)]
pub(super) struct Books(BTreeMap<String, BTreeMap<String, Traffic>>);

impl Books {
    pub(super) fn count(&mut self, service: &str, subservice: &str, traffic: &Traffic) {
        let subservices = self.0.entry(service.to_owned()).or_default();
        subservices.entry(subservice.to_owned()).or_default().add(traffic);
    }

    /// Sets everything to 0. The entries stay, unseen, as in a real broker.
    pub(super) fn reset(&mut self) {
        for traffic in self.0.values_mut().flat_map(BTreeMap::values_mut) {
            *traffic = Traffic::default();
        }
    }

    /// The document.
    pub(super) fn json(&self) -> String {
        let mut services = Vec::new();
        let mut everywhere = BTreeMap::new();
        for (service, subservices) in &self.0 {
            let json = branch(subservices);
            if json != EMPTY {
                services.push((shown(service, "default-service"), json));
            }
            for (subservice, traffic) in subservices {
                everywhere.entry(subservice.clone()).or_insert_with(Traffic::default).add(traffic);
            }
        }
        let services = object(services.iter().map(|(service, json)| (*service, json.as_str())));
        object([("services", services.as_str()), ("sum", &branch(&everywhere))].into_iter())
    }
}

const EMPTY: &str = r#"{"subservs":{},"sum":{}}"#;

/// One service, or the sum over all, which has the same shape.
fn branch(subservices: &BTreeMap<String, Traffic>) -> String {
    let mut sum = Traffic::default();
    let mut parts = Vec::new();
    for (subservice, traffic) in subservices {
        sum.add(traffic);
        let json = traffic.json();
        if json != "{}" {
            parts.push((shown(subservice, "root-subserv"), json));
        }
    }
    let parts = object(parts.iter().map(|(subservice, json)| (*subservice, json.as_str())));
    object([("subservs", parts.as_str()), ("sum", &sum.json())].into_iter())
}

fn shown<'n>(raw: &'n str, unnamed: &'static str) -> &'n str {
    if raw.is_empty() { unnamed } else { raw }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fresh_broker_writes_the_46_bytes_of_a_real_one() {
        assert_eq!(Books::default().json(), r#"{"services":{},"sum":{"subservs":{},"sum":{}}}"#);
    }

    #[test]
    fn zeros_are_left_out_and_floats_have_nine_decimals_at_most() {
        let mut books = Books::default();
        books.count("", "", &Traffic { incoming: 3, service_micros: 7_000, ..Traffic::default() });
        books.count("city01", "a", &Traffic { incoming: 2, service_micros: 4_000_000, ..Traffic::default() });
        assert_eq!(
            books.json(),
            concat!(
                r#"{"services":{"default-service":{"subservs":{"root-subserv":{"serviceTime":0.002333333,"incomingTransactions":3}},"#,
                r#""sum":{"serviceTime":0.002333333,"incomingTransactions":3}},"#,
                r#""city01":{"subservs":{"a":{"serviceTime":2,"incomingTransactions":2}},"sum":{"serviceTime":2,"incomingTransactions":2}}},"#,
                r#""sum":{"subservs":{"root-subserv":{"serviceTime":0.002333333,"incomingTransactions":3},"#,
                r#""a":{"serviceTime":2,"incomingTransactions":2}},"sum":{"serviceTime":0.801400006,"incomingTransactions":5}}}"#
            )
        );
    }
}
