//! Builds the snapshot of a poll, with the families `probe_*` about the poll itself.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

use super::snapshot::{CallRecord, Exposition, Failure, ProbeReport, Snapshot};
use super::translate::MAX_INLINE_EXPOSITION;
use crate::kind::{Call, CallError, Engine, Prober, Reason, Recorder};
use crate::metric::{Allowance, Families, Finished, Format, Stop};
use crate::target::Target;
use crate::tls::Expiry;

crate::descs! {
    SUCCESS = gauge "probe_success" [] "Whether the last poll succeeded: its primary call, or the probe.";
    DURATION = gauge "probe_duration_seconds" [] "Duration of the last poll in seconds, including all its calls.";
    TIMESTAMP = gauge "probe_timestamp_seconds" [] "Unix time at which the last poll ended. Polls run in the background: use it to calculate the age of the data.";
    FAILURE = gauge "probe_failure_info" ["reason"] "Reason why the last poll failed, in the label. Always 1; absent if the last poll succeeded.";
    CALL_SUCCESS = gauge "probe_call_success" ["call"] "Whether this call of the last poll, an HTTP request or a probe, was successful.";
    CALL_DURATION = gauge "probe_call_duration_seconds" ["call"] "Duration of this call of the last poll in seconds.";
    CALL_STATUS = gauge "probe_call_http_status_code" ["call"] "HTTP status code of the response to this call of the last poll.";
    CERTIFICATE_EXPIRY = gauge "probe_ssl_earliest_cert_expiry" [] "Earliest expiry of the certificates that the server sent, as Unix time, even if they were rejected; TLS only.";
    LAST_CHAIN_EXPIRY = gauge "probe_ssl_last_chain_expiry_timestamp_seconds" [] "Expiry of the verified certificate chain that expires last, as Unix time; TLS only, absent if no chain was verified.";
    TIMEOUT = gauge "probe_timeout_seconds" [] "Timeout of the last probe in seconds: spec.timeout, or what the scrape could wait if that was less and the probe did not end in it. Only for types that probe.";
    SERIES_DROPPED = gauge "probe_series_dropped" [] "Series omitted from this response because of spec.sampleLimit.";
    SKIPPED_FIELDS = gauge "probe_skipped_fields" [] "Values of the server's response that were not exported: wrong type, duplicate labels, not a number, reserved name.";
    MEMBERS = gauge "probe_members" ["state"] "Members of the target by state: up, down, terminating, not_ready, over_limit. Only for targets with spec.members.";
    MEMBER_SUCCESS = gauge "probe_member_success" [] "Whether the primary call of the last poll of this member succeeded. Absent for a terminating member that fails.";
    MEMBER_DURATION = gauge "probe_member_duration_seconds" [] "Duration of the last poll of this member in seconds, including all its calls.";
    MEMBER_FAILURE = gauge "probe_member_failure_info" ["reason"] "Reason why the last poll of this member failed, in the label. Always 1; absent if it succeeded, and for a terminating member.";
    MEMBER_INFO = gauge "probe_member_info" ["address", "node", "zone"] "A member that is polled: where it is polled, and where it runs. Always 1.";
}

/// The families of every response of `/probe`, in addition to the target's own.
pub static PROBE_FAMILIES: &[&crate::metric::Desc] = FAMILIES;

/// The outcome of a poll.
pub(super) struct Polled {
    pub(super) started: Instant,
    pub(super) ended: Instant,
    pub(super) families: Finished,
    pub(super) failure: Option<Failure>,
    pub(super) calls: Vec<CallRecord>,
    pub(super) requests: Arc<[Call]>,
    pub(super) certificate_expiry: Option<Expiry>,
}

/// Seconds since 1970.
pub(super) fn unix_seconds(at: SystemTime) -> f64 {
    at.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// The longest message that is kept, in characters. It may quote a server, and appears in logs and in the status of objects.
const MAX_MESSAGE_CHARS: usize = 512;

/// The message, cut if it is too long.
pub(super) fn bounded(sentence: &str) -> &str {
    sentence.char_indices().nth(MAX_MESSAGE_CHARS).map_or(sentence, |(end, _)| sentence.get(..end).unwrap_or_default())
}

impl Polled {
    /// Cuts messages that are too long.
    pub(super) fn bound_messages(&mut self) {
        if let Some(failure) = &mut self.failure {
            failure.message = bounded(&failure.message).into();
        }
        for error in self.calls.iter_mut().filter_map(|call| call.error.as_mut()) {
            *error = bounded(error).into();
        }
    }
}

/// The snapshot of a poll that took place, with its exposition in `format`.
pub(super) fn polled(polled: Polled, format: Format) -> Snapshot {
    snapshot(polled, Families::default(), None, format)
}

/// The same of a probe.
pub(super) fn probed(polled: Polled, timeout: Duration, report: ProbeReport, format: Format) -> Snapshot {
    let mut own = Families::default();
    own.set(&TIMEOUT, &[], timeout.as_secs_f64());
    snapshot(polled, own, Some(Box::new(report)), format)
}

fn snapshot(mut polled: Polled, mut own: Families, probe: Option<Box<ProbeReport>>, format: Format) -> Snapshot {
    polled.bound_messages();
    let ended_at = SystemTime::now();
    own.set(&SUCCESS, &[], if polled.failure.is_none() { 1.0 } else { 0.0 });
    set_times(&mut own, polled.ended.duration_since(polled.started), ended_at);
    if let Some(failure) = &polled.failure {
        own.set(&FAILURE, &[failure.reason.as_str()], 1.0);
    }
    for call in &polled.calls {
        own.set(&CALL_SUCCESS, &[call.call], if call.error.is_none() { 1.0 } else { 0.0 });
        own.set(&CALL_DURATION, &[call.call], call.duration.as_secs_f64());
        if let Some(status) = call.status {
            own.set(&CALL_STATUS, &[call.call], f64::from(status));
        }
    }
    if let Some(expiry) = polled.certificate_expiry {
        set_expiry(&mut own, expiry);
    }
    #[expect(clippy::cast_precision_loss, reason = "counts of values in one answer")]
    {
        own.set(&SERIES_DROPPED, &[], polled.families.dropped() as f64);
        own.set(&SKIPPED_FIELDS, &[], polled.families.skipped() as f64);
    }
    let own = own.finish();
    Snapshot {
        started: polled.started,
        ended: polled.ended,
        ended_at,
        failure: polled.failure,
        calls: polled.calls.into_boxed_slice(),
        members: None,
        left_out: 0,
        withheld: polled.families.withheld(),
        requests: polled.requests,
        probe,
        is_permanent: false,
        held_until: None,
        samples: polled.families.len() + own.len(),
        exposition: Exposition::new(&[&polled.families, &own], format),
    }
}

/// How long a poll took, and when it ended.
pub(super) fn set_times(own: &mut Families, duration: Duration, ended_at: SystemTime) {
    own.set(&DURATION, &[], duration.as_secs_f64());
    own.set(&TIMESTAMP, &[], (unix_seconds(ended_at) * 1e3).round() / 1e3);
}

/// When the certificates of a server expire.
pub(super) fn set_expiry(own: &mut Families, expiry: Expiry) {
    #[expect(clippy::cast_precision_loss, reason = "dates are far below 2^53 seconds")]
    let seconds = |at: i64| at as f64;
    own.set(&CERTIFICATE_EXPIRY, &[], seconds(expiry.earliest));
    if let Some(last) = expiry.last_chain {
        own.set(&LAST_CHAIN_EXPIRY, &[], seconds(last));
    }
}

/// The snapshot if no poll took place or ended in time: the target is suspended or invalid, or the poll takes too long.
pub(super) fn unpolled(reason: Reason, message: &str) -> Snapshot {
    let mut own = Families::default();
    if reason != Reason::Suspended {
        own.set(&SUCCESS, &[], 0.0);
    }
    own.set(&FAILURE, &[reason.as_str()], 1.0);
    let failure = Some(Failure { reason, message: bounded(message).into() });
    let is_permanent = matches!(reason, Reason::Suspended | Reason::Config);
    without_calls(failure, is_permanent, &own.finish(), Format::OpenMetrics)
}

/// The time of a scrape that waits for a probe.
#[derive(Clone, Copy, Debug)]
pub(super) struct ScrapeWait {
    /// How long it has waited.
    pub(super) waited: Duration,
    /// How long it could.
    pub(super) allowed: Duration,
}

/// The same with what is there whatever becomes of a probe: dashboards and alerts depend on it for types that probe. `wait` is that of a
/// scrape in vain.
pub(super) fn unpolled_target(target: &Target, reason: Reason, message: &str, wait: Option<ScrapeWait>) -> Snapshot {
    let zeros = match target.engine() {
        Some(Engine::Probe(prober)) if reason != Reason::Suspended => zeros(target, prober.as_ref()),
        _ => None,
    };
    let Some(zeros) = zeros else { return unpolled(reason, message) };
    let mut own = Families::default();
    own.set(&SUCCESS, &[], 0.0);
    own.set(&FAILURE, &[reason.as_str()], 1.0);
    let waited = wait.map_or(Duration::ZERO, |wait| wait.waited);
    let timeout = wait.map_or(target.timeout, |wait| wait.allowed.min(target.timeout));
    own.set(&DURATION, &[], waited.as_secs_f64());
    own.set(&TIMEOUT, &[], timeout.as_secs_f64());
    let parts = [&zeros, &own.finish()];
    let exposition = Exposition::new(&parts, Format::OpenMetrics);
    let samples = parts.iter().map(|part| part.len()).sum();
    Snapshot { samples, exposition, ..unpolled(reason, message) }
}

/// What a prober sets first, unless patterns would have to be compared for it.
fn zeros(target: &Target, prober: &dyn Prober) -> Option<Finished> {
    let mut record = Recorder::new(Instant::now());
    prober.begin(&mut record);
    let allowance = Allowance { bytes: MAX_INLINE_EXPOSITION, compares: false, stop: Stop::default() };
    let mut families = Families::within(allowance, target.source.filter.clone());
    record.write(&mut families);
    families.excess().is_none().then(|| families.finish())
}

fn without_calls(failure: Option<Failure>, is_permanent: bool, families: &Finished, format: Format) -> Snapshot {
    let now = Instant::now();
    Snapshot {
        started: now,
        ended: now,
        ended_at: SystemTime::now(),
        failure,
        calls: Box::default(),
        members: None,
        left_out: 0,
        withheld: 0,
        requests: Arc::default(),
        probe: None,
        is_permanent,
        held_until: None,
        samples: families.len(),
        exposition: Exposition::new(&[families], format),
    }
}

/// The failure of a poll whose primary call failed.
pub(super) fn failure(error: &CallError, call: &str) -> Failure {
    Failure { reason: error.reason, message: Arc::from(format!("{call}: {error}")) }
}

/// A snapshot of nothing but these families.
#[cfg(test)]
pub(crate) fn test_snapshot(families: &Finished, format: Format) -> Snapshot {
    without_calls(None, false, families, format)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentence_is_cut_at_a_character() {
        assert_eq!(bounded("short"), "short");
        assert_eq!(bounded(&"é".repeat(513)), "é".repeat(512));
        let message = "x".repeat(10_000);
        assert_eq!(unpolled(Reason::Config, &message).failure.unwrap().message.len(), 512);
    }
}
