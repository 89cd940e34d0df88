//! The documents `/statistics`, as with all `-stat…` flags on, and `/cache/statistics`.

use std::collections::BTreeMap;
use std::time::Duration;

use super::books::{Traffic, decimals, object};

/// The counters of `/statistics`. They overflow no sooner than those of the traffic.
#[derive(Debug, Default)]
pub(super) struct Statistics {
    requests: BTreeMap<&'static str, BTreeMap<&'static str, u64>>,
    json: u64,
    no_payload: u64,
    invalid: u64,
    /// Attempted notifications, and those that arrived nowhere.
    notifications: u64,
    lost: u64,
    /// Time in requests, and the number of them.
    micros: u64,
    served: u64,
    /// Part of the waits that a reset does not take: the semaphore `metrics` is forgotten in it.
    served_ever: u64,
    /// When they were last reset, as uptime.
    since: Duration,
}

impl Statistics {
    /// What users did, all of one method to one URL.
    pub(super) fn users(&mut self, method: &'static str, url: &'static str, traffic: &Traffic) {
        if traffic.incoming > 0 {
            self.request(method, url, traffic.incoming);
        }
        if traffic.incoming_request_bytes > 0 {
            self.json += traffic.incoming;
        } else {
            self.no_payload += traffic.incoming;
        }
        self.served(traffic.incoming, traffic.service_micros);
        self.notifications += traffic.outgoing;
        self.lost += traffic.outgoing_errors;
    }

    /// A request without payload to a URL that exists; it is already in its own answer.
    pub(super) fn asked(&mut self, method: &'static str, url: &'static str) {
        self.request(method, url, 1);
        self.no_payload += 1;
    }

    /// A request to a URL that does not exist.
    pub(super) fn invalid(&mut self) {
        self.invalid += 1;
        self.no_payload += 1;
    }

    /// Requests that were answered; they are not in their own answers.
    pub(super) fn served(&mut self, count: u64, micros: u64) {
        self.served += count;
        self.served_ever += count;
        self.micros += micros;
    }

    fn request(&mut self, method: &'static str, url: &'static str, count: u64) {
        *self.requests.entry(url).or_default().entry(method).or_default() += count;
    }

    /// Begins anew, except for what a broker never resets.
    pub(super) fn reset(&mut self, uptime: Duration) {
        *self = Self { served_ever: self.served_ever, since: uptime, ..Self::default() };
    }

    /// The document; without `blocks` as of a broker that was started with no flag.
    pub(super) fn json(&self, uptime: Duration, blocks: bool) -> String {
        let [counters, waits, timing, queue] = [self.counters(), self.waits(), self.timing(), self.queue()];
        let age = uptime.as_secs().to_string();
        let interval = uptime.saturating_sub(self.since).as_secs().to_string();
        let entries = [
            ("counters", counters),
            ("semWait", waits),
            ("timing", timing),
            ("notifQueue", queue),
            ("uptime_in_secs", age),
            ("measuring_interval_in_secs", interval),
        ];
        let first = if blocks { 0 } else { 4 };
        object(entries.iter().skip(first).map(|(key, json)| (*key, json.as_str())))
    }

    fn counters(&self) -> String {
        let count = |count: u64| if count > 0 { count.to_string() } else { String::new() };
        let requests: Vec<_> = self.requests.iter().map(|(url, methods)| (*url, numbers(methods))).collect();
        let entries = [
            ("jsonRequests", count(self.json)),
            ("noPayloadRequests", count(self.no_payload)),
            ("requests", object(requests.iter().map(|(url, json)| (*url, json.as_str())))),
            ("invalidRequests", count(self.invalid)),
            ("notificationsSent", count(self.notifications - self.lost)),
        ];
        present(&entries)
    }

    fn waits(&self) -> String {
        let entries = [
            ("request", seconds(self.served * 90)),
            ("dbConnectionPool", seconds(self.served * 260)),
            ("transaction", seconds(self.served * 310)),
            ("subCache", seconds(self.served * 140)),
            ("connectionContext", seconds(0)),
            ("timeStat", seconds(self.served * 200)),
            ("metrics", seconds(self.served_ever * 150)),
        ];
        present(&entries)
    }

    fn timing(&self) -> String {
        if self.served == 0 {
            return "{}".to_owned();
        }
        let part = |percent: u64| seconds(self.micros * 10 * percent);
        let accumulated = present(&[
            ("jsonV2Parse", part(1)),
            ("mongoBackend", part(27)),
            ("mongoReadWait", part(33)),
            ("mongoWriteWait", part(18)),
            ("mongoCommandWait", part(6)),
            ("render", part(2)),
            ("total", part(99)),
        ]);
        format!(r#"{{"accumulated":{accumulated},"last":{{"total":0.000223112}}}}"#)
    }

    fn queue(&self) -> String {
        let wait = self.notifications * 166_333;
        let mean = if self.notifications == 0 { 0 } else { 166_333 };
        present(&[
            ("in", self.notifications.to_string()),
            ("out", self.notifications.to_string()),
            ("reject", "0".to_owned()),
            ("sentOk", (self.notifications - self.lost).to_string()),
            ("sentError", self.lost.to_string()),
            ("timeInQueue", seconds(wait)),
            ("avgTimeInQueue", seconds(mean)),
            ("size", (self.notifications % 3).to_string()),
        ])
    }
}

fn numbers(counts: &BTreeMap<&'static str, u64>) -> String {
    let texts: Vec<_> = counts.iter().map(|(key, count)| (*key, count.to_string())).collect();
    present(&texts)
}

/// An object of those entries that have a text.
fn present(entries: &[(&str, String)]) -> String {
    object(entries.iter().filter(|(_, text)| !text.is_empty()).map(|(key, text)| (*key, text.as_str())))
}

/// Nanoseconds as the 32-bit seconds of a broker.
#[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "the loss is what is simulated")]
fn seconds(nanos: u64) -> String {
    decimals((nanos as f64 / 1e9) as f32)
}

/// The cache of subscriptions: refreshed each minute, with a subscription that comes and goes.
#[derive(Debug, Default)]
pub(super) struct Cache {
    since: Duration,
}

impl Cache {
    pub(super) fn reset(&mut self, uptime: Duration) {
        self.since = uptime;
    }

    pub(super) fn json(&self, uptime: Duration) -> String {
        let [refreshes, inserts, removes, updates] = Self::counters(uptime);
        let before = if self.since.is_zero() { [0; 4] } else { Self::counters(self.since) };
        let [r, i, d, u] = before;
        format!(
            r#"{{"ids":"6b00e298cc66b29ac000647a, 6b00e298cc66b29ac000647b","refresh":{},"inserts":{},"removes":{},"updates":{},"items":{}}}"#,
            refreshes - r,
            inserts - i,
            removes - d,
            updates - u,
            inserts - removes,
        )
    }

    /// Refreshes, inserts, removes and updates since the start.
    const fn counters(uptime: Duration) -> [u64; 4] {
        let seconds = uptime.as_secs();
        let churn = seconds / 300;
        [1 + seconds / 60, 4 + churn.div_ceil(2), churn / 2, seconds / 120]
    }
}
