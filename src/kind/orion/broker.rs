//! The families about the broker itself: `/statistics`, `/cache/statistics` and `/version`.
//!
//! Values are exported unchanged: Prometheus handles resets. A counter that is left out stays absent, since Orion leaves out counters of 0 as
//! well as those that its version does not have.

use super::api::{
    Amounts, BrokerStatistics, CacheStatistics, NotificationQueue, RequestCounters, RequestCounts, VersionDocument,
};
use super::{metrics as m, require};
use crate::kind::{Answer, CallError, JsonField, Number, Reason, Text};
use crate::metric::{Desc, Families};

/// Writes the families of `/statistics` and returns the broker's uptime, which `/version` may know as well.
pub(super) fn write_statistics(answer: &Answer, out: &mut Families) -> Result<Number, CallError> {
    let statistics: BrokerStatistics = require(answer.json()?, "the document")?;
    if statistics == BrokerStatistics::default() {
        return Err(CallError::new(Reason::Schema, "the JSON has no field of Orion's /statistics"));
    }
    out.number(&m::MEASURING_INTERVAL, &[], statistics.measuring_interval.0);
    out.number(&m::SIMULATED_NOTIFICATIONS, &[], statistics.simulated_notifications.0);
    if let Some(counters) = statistics.counters.read(out) {
        write_counters(counters, out);
    }
    write_amounts(&m::SEMAPHORE_WAIT, &statistics.semaphore_wait, out);
    if let Some(timing) = statistics.timing.read(out)
        && let Some(accumulated) = timing.accumulated.read(out)
    {
        for (module, seconds) in accumulated.iter() {
            match module {
                "total" => out.number(&m::REQUEST_TIME, &[], seconds.0), // overlaps all others
                module => out.number(&m::MODULE_TIME, &[module], seconds.0),
            }
        }
    }
    if let Some(queue) = statistics.queue.read(out) {
        write_queue(queue, out);
    }
    Ok(statistics.uptime.0)
}

fn write_counters(counters: &RequestCounters, out: &mut Families) {
    write_requests(&m::REQUESTS, &counters.requests, out);
    write_requests(&m::LEGACY_REQUESTS, &counters.requests_legacy, out);
    out.number(&m::PAYLOAD_REQUESTS, &["json"], counters.json_requests.0);
    out.number(&m::PAYLOAD_REQUESTS, &["text"], counters.text_requests.0);
    out.number(&m::PAYLOAD_REQUESTS, &["none"], counters.no_payload_requests.0);
    out.number(&m::MISSED_VERB, &[], counters.missed_verb.0);
    out.number(&m::INVALID_REQUESTS, &[], counters.invalid_requests.0);
    out.number(&m::REGISTRATION_UPDATE_ERRORS, &[], counters.registration_update_errors.0);
    out.number(&m::DISCOVERY_ERRORS, &[], counters.discovery_errors.0);
    out.number(&m::NOTIFICATIONS_SENT, &[], counters.notifications_sent.0);
    write_amounts(&m::DEPRECATED_FEATURES, &counters.deprecated_features, out);
}

fn write_requests(desc: &'static Desc, requests: &RequestCounts, out: &mut Families) {
    let Some(paths) = requests.read(out) else { return };
    for (path, methods) in paths.iter() {
        let Some(methods) = methods.read(out) else { continue };
        for (method, count) in methods.iter() {
            out.number(desc, &[path, method], count.0);
        }
    }
}

fn write_queue(queue: &NotificationQueue, out: &mut Families) {
    out.number(&m::QUEUE_IN, &[], queue.entered.0);
    out.number(&m::QUEUE_OUT, &[], queue.left.0);
    out.number(&m::QUEUE_REJECTED, &[], queue.rejected.0);
    out.number(&m::QUEUE_SENT, &["ok"], queue.sent_ok.0);
    out.number(&m::QUEUE_SENT, &["error"], queue.sent_error.0);
    out.number(&m::QUEUE_WAIT, &[], queue.wait.0);
    out.number(&m::QUEUE_SIZE, &[], queue.size.0);
}

/// Writes the families of `/cache/statistics`.
pub(super) fn write_cache(answer: &Answer, out: &mut Families) -> Result<(), CallError> {
    let cache: CacheStatistics = require(answer.json()?, "the document")?;
    if cache == CacheStatistics::default() {
        return Err(CallError::new(Reason::Schema, "the JSON has no field of Orion's /cache/statistics"));
    }
    out.number(&m::CACHE_ITEMS, &[], cache.items.0);
    out.number(&m::CACHE_REFRESHES, &[], cache.refreshes.0);
    out.number(&m::CACHE_INSERTS, &[], cache.inserts.0);
    out.number(&m::CACHE_REMOVES, &[], cache.removes.0);
    out.number(&m::CACHE_UPDATES, &[], cache.updates.0);
    Ok(())
}

/// Adds one sample per entry, the key being the only label.
fn write_amounts(desc: &'static Desc, amounts: &Amounts, out: &mut Families) {
    let Some(amounts) = amounts.read(out) else { return };
    for (name, amount) in amounts.iter() {
        out.number(desc, &[name], amount.0);
    }
}

/// Writes the build and returns the uptime, for the case that `/statistics` does not report it.
pub(super) fn write_version(answer: &Answer, out: &mut Families) -> Result<Number, CallError> {
    let mut document: VersionDocument = require(answer.json()?, "the document")?;
    let build = match std::mem::take(&mut document.orion) {
        JsonField::Absent => document.top_level(),
        orion => require(orion, "\"orion\"")?,
    };
    let Some(version) = build.orionld_version.value().or_else(|| build.version.value()) else {
        return Err(CallError::new(Reason::Schema, "the JSON names no version of Orion or Orion-LD"));
    };
    let [git_hash, machine] = [&build.git_hash, &build.machine].map(|text| text.label(out));
    out.set(&m::BUILD_INFO, &[version, git_hash, machine], 1.0);
    Ok(match &build.uptime {
        Text::Absent => Number::Absent,
        Text::Invalid => Number::Invalid,
        Text::Value(uptime) => seconds(uptime).map_or(Number::Invalid, Number::Value),
    })
}

/// Reads `1 d, 2 h, 3 m, 4 s`.
fn seconds(uptime: &str) -> Option<f64> {
    let mut total = 0.0;
    let mut parts = uptime.split(", ");
    for (unit, length) in [("d", 86_400.0), ("h", 3_600.0), ("m", 60.0), ("s", 1.0)] {
        let (count, word) = parts.next()?.trim().split_once(' ')?;
        total += f64::from(count.parse::<u32>().ok().filter(|_| word == unit)?) * length;
    }
    parts.next().is_none().then_some(total)
}

#[cfg(test)]
mod tests {
    use super::seconds;

    #[test]
    fn an_uptime_is_read_to_the_second() {
        assert_eq!(seconds("0 d, 0 h, 0 m, 6 s"), Some(6.0));
        assert_eq!(seconds("12 d, 3 h, 4 m, 5 s"), Some(12.0 * 86_400.0 + 3.0 * 3_600.0 + 4.0 * 60.0 + 5.0));
    }

    #[test]
    fn what_is_no_uptime_is_no_number() {
        for text in ["", "6 s", "0 d, 0 h, 0 m", "0 d, 0 h, 0 s, 6 m", "0 d, 0 h, 0 m, -6 s", "0 d, 0 h, 0 m, 6 s, 1 x"] {
            assert_eq!(seconds(text), None, "{text:?}");
        }
    }
}
