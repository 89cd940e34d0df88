//! What `/statistics` and `/cache/statistics` say of the broker itself.
//!
//! Values pass as they are: Prometheus knows resets. A counter that is left out stays absent, since nothing tells a counter of 0
//! from one that this version does not have.

use super::api::{Cache, Counters, Queue, Requests, Statistics};
use super::metrics as m;
use super::object::{Object, write_entries};
use crate::kind::{Answer, CallError, Number, Reason};
use crate::metric::{Desc, Families};

/// Writes the families of `/statistics` and returns the broker's uptime, which `/version` may know as well.
pub(super) fn write(answer: &Answer, out: &mut Families) -> Result<Number, CallError> {
    let statistics = answer.json::<Object<Statistics>>()?.require("the document")?;
    if statistics == Statistics::default() {
        return Err(CallError::new(Reason::Schema, "the JSON has no field of Orion's /statistics"));
    }
    out.number(&m::MEASURING_INTERVAL, &[], statistics.measuring_interval.0);
    out.number(&m::SIMULATED_NOTIFICATIONS, &[], statistics.simulated_notifications.0);
    if let Some(counters) = statistics.counters.open(out) {
        write_counters(counters, out);
    }
    write_entries(&m::SEMAPHORE_WAIT, &statistics.semaphore_wait, out);
    if let Some(timing) = statistics.timing.open(out)
        && let Some(accumulated) = timing.accumulated.open(out)
    {
        for (module, seconds) in accumulated.iter() {
            match module {
                "total" => out.number(&m::REQUEST_TIME, &[], seconds.0), // overlaps all others
                module => out.number(&m::MODULE_TIME, &[module], seconds.0),
            }
        }
    }
    if let Some(queue) = statistics.queue.open(out) {
        write_queue(queue, out);
    }
    Ok(statistics.uptime.0)
}

fn write_counters(counters: &Counters, out: &mut Families) {
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
    write_entries(&m::DEPRECATED_FEATURES, &counters.deprecated_features, out);
}

fn write_requests(desc: &'static Desc, requests: &Requests, out: &mut Families) {
    let Some(paths) = requests.open(out) else { return };
    for (path, methods) in paths.iter() {
        let Some(methods) = methods.open(out) else { continue };
        for (method, count) in methods.iter() {
            out.number(desc, &[path, method], count.0);
        }
    }
}

fn write_queue(queue: &Queue, out: &mut Families) {
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
    let cache = answer.json::<Object<Cache>>()?.require("the document")?;
    if cache == Cache::default() {
        return Err(CallError::new(Reason::Schema, "the JSON has no field of Orion's /cache/statistics"));
    }
    out.number(&m::CACHE_ITEMS, &[], cache.items.0);
    out.number(&m::CACHE_REFRESHES, &[], cache.refreshes.0);
    out.number(&m::CACHE_INSERTS, &[], cache.inserts.0);
    out.number(&m::CACHE_REMOVES, &[], cache.removes.0);
    out.number(&m::CACHE_UPDATES, &[], cache.updates.0);
    Ok(())
}
