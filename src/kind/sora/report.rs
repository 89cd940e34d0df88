//! The families of GetStatsReport: connections, sessions, webhooks, packets; and clients and errors where they are asked for.

use super::FieldSample;
use super::api::{ConnectionErrors, ResponseTimeBucket, StatsReport};
use crate::kind::{JsonEntries, JsonField, JsonList, Number};
use crate::metric::{Desc, Families};

crate::descs! {
    VERSION_INFO = gauge "sora_version_info" ["version"] "Version of Sora, in the label. Always 1.";
    CONNECTIONS = counter "sora_connections_total" ["state"] "Connections that were created, updated or destroyed, that succeeded or failed.";
    ONGOING_CONNECTIONS = gauge "sora_ongoing_connections_total" [] "Currently open connections. A gauge despite its name.";
    DURATION = counter "sora_duration_seconds_total" [] "Total duration of all connections.";
    AVERAGE_DURATION = gauge "sora_average_duration_seconds" [] "Mean duration of connections, as calculated by Sora.";
    AVERAGE_SETUP_TIME = gauge "sora_average_setup_time_seconds" [] "Mean setup time of connections, as calculated by Sora, with a resolution of milliseconds.";
    TURN_CONNECTIONS = counter "sora_turn_connections_total" ["proto"] "Connections through TURN, by transport protocol.";
    INVALID_TURN_TCP = counter "sora_received_invalid_turn_tcp_packet_total" [] "Invalid packets received over TURN-TCP.";
    SESSIONS = counter "sora_session_total" ["state"] "Sessions that were created or destroyed.";
    AUTH_VERDICTS = counter "sora_successful_auth_webhook_total" ["state"] "Answered calls of the auth webhook, by whether the client was admitted.";
    AUTH_WEBHOOK = counter "sora_auth_webhook_total" ["state"] "Calls of the auth webhook that were answered or failed.";
    SESSION_WEBHOOK = counter "sora_session_webhook_total" ["state"] "Calls of the session webhook that were answered, failed or ignored.";
    EVENT_WEBHOOK = counter "sora_event_webhook_total" ["state"] "Calls of the event webhook that were answered, failed or ignored.";
    STATS_WEBHOOK = counter "sora_stats_webhook_total" ["state"] "Calls of the stats webhook that were answered, failed or ignored.";
    SRTP_RECEIVED_PACKETS = counter "sora_srtp_received_packets_total" [] "SRTP packets received from clients.";
    SRTP_RECEIVED_BYTES = counter "sora_srtp_received_bytes_total" [] "Bytes of the SRTP packets received from clients.";
    SRTP_SENT_PACKETS = counter "sora_srtp_sent_packets_total" [] "SRTP packets sent to clients.";
    SRTP_SENT_BYTES = counter "sora_srtp_sent_bytes_total" [] "Bytes of the SRTP packets sent to clients.";
    SRTP_SENT_SFU_DELAY = counter "sora_srtp_sent_sfu_delay_us_total" [] "Total time in microseconds that SRTP packets spent inside Sora before they were sent.";
    SRTP_DECRYPTED_PACKETS = counter "sora_srtp_decrypted_packets_total" [] "Decrypted SRTP packets.";
    SRTP_DECRYPTED_BYTES = counter "sora_srtp_decrypted_bytes_total" [] "Bytes of decrypted SRTP packets.";
    SCTP_RECEIVED_PACKETS = counter "sora_sctp_received_packets_total" [] "SCTP packets, which carry data channels, received from clients.";
    SCTP_RECEIVED_BYTES = counter "sora_sctp_received_bytes_total" [] "Bytes of the SCTP packets received from clients.";
    SCTP_SENT_PACKETS = counter "sora_sctp_sent_packets_total" [] "SCTP packets, which carry data channels, sent to clients.";
    SCTP_SENT_BYTES = counter "sora_sctp_sent_bytes_total" [] "Bytes of the SCTP packets sent to clients.";
    CLIENT_TYPE = counter "sora_client_type_total" ["client", "state"] "Successful and failed connections, by client software.";
    CONNECTION_ERROR = counter "sora_connection_error_total" ["reason"] "Failed connections by reason: SDP generation or signaling.";
    AUTH_RESPONSE_TIME = histogram "sora_auth_webhook_response_time_seconds" [] "Response time of auth webhook calls, including failed calls.";
    SESSION_RESPONSE_TIME = histogram "sora_session_webhook_response_time_seconds" [] "Response time of session webhook calls, including failed calls.";
    EVENT_RESPONSE_TIME = histogram "sora_event_webhook_response_time_seconds" [] "Response time of event webhook calls, including failed calls.";
    STATS_RESPONSE_TIME = histogram "sora_stats_webhook_response_time_seconds" [] "Response time of stats webhook calls, including failed calls.";
}

static REPORT: &[FieldSample<StatsReport>] = &[
    (&CONNECTIONS, &["created"], |r| r.total_connection_created),
    (&CONNECTIONS, &["destroyed"], |r| r.total_connection_destroyed),
    (&CONNECTIONS, &["failed"], |r| r.total_failed_connections),
    (&CONNECTIONS, &["successful"], |r| r.total_successful_connections),
    (&CONNECTIONS, &["updated"], |r| r.total_connection_updated),
    (&ONGOING_CONNECTIONS, &[], |r| r.total_ongoing_connections),
    (&DURATION, &[], |r| r.total_duration_sec),
    (&AVERAGE_DURATION, &[], |r| r.average_duration_sec),
    (&AVERAGE_SETUP_TIME, &[], |r| r.average_setup_time_msec.map(|ms| ms / 1e3)),
    (&TURN_CONNECTIONS, &["tcp"], |r| r.total_turn_tcp_connections),
    (&TURN_CONNECTIONS, &["udp"], |r| r.total_turn_udp_connections),
    (&INVALID_TURN_TCP, &[], |r| r.total_received_invalid_turn_tcp_packet),
    (&SESSIONS, &["created"], |r| r.total_session_created),
    (&SESSIONS, &["destroyed"], |r| r.total_session_destroyed),
    (&AUTH_VERDICTS, &["allowed"], |r| r.total_auth_webhook_allowed),
    (&AUTH_VERDICTS, &["denied"], |r| r.total_auth_webhook_denied),
    (&AUTH_WEBHOOK, &["failed"], |r| r.total_failed_auth_webhook),
    (&AUTH_WEBHOOK, &["successful"], |r| r.total_successful_auth_webhook),
    (&SESSION_WEBHOOK, &["failed"], |r| r.total_failed_session_webhook),
    (&SESSION_WEBHOOK, &["ignored"], |r| r.total_ignored_session_webhook),
    (&SESSION_WEBHOOK, &["successful"], |r| r.total_successful_session_webhook),
    (&EVENT_WEBHOOK, &["failed"], |r| r.total_failed_event_webhook),
    (&EVENT_WEBHOOK, &["ignored"], |r| r.total_ignored_event_webhook),
    (&EVENT_WEBHOOK, &["successful"], |r| r.total_successful_event_webhook),
    (&STATS_WEBHOOK, &["failed"], |r| r.total_failed_stats_webhook),
    (&STATS_WEBHOOK, &["ignored"], |r| r.total_ignored_stats_webhook),
    (&STATS_WEBHOOK, &["successful"], |r| r.total_successful_stats_webhook),
    (&SRTP_RECEIVED_PACKETS, &[], |r| r.total_received_srtp),
    (&SRTP_RECEIVED_BYTES, &[], |r| r.total_received_srtp_byte_size),
    (&SRTP_SENT_PACKETS, &[], |r| r.total_sent_srtp),
    (&SRTP_SENT_BYTES, &[], |r| r.total_sent_srtp_byte_size),
    (&SRTP_SENT_SFU_DELAY, &[], |r| r.total_sent_srtp_sfu_delay_us),
    (&SRTP_DECRYPTED_PACKETS, &[], |r| r.total_decrypted_srtp),
    (&SRTP_DECRYPTED_BYTES, &[], |r| r.total_decrypted_srtp_byte_size),
    (&SCTP_RECEIVED_PACKETS, &[], |r| r.total_received_sctp),
    (&SCTP_RECEIVED_BYTES, &[], |r| r.total_received_sctp_byte_size),
    (&SCTP_SENT_PACKETS, &[], |r| r.total_sent_sctp),
    (&SCTP_SENT_BYTES, &[], |r| r.total_sent_sctp_byte_size),
];

static ERRORS: &[FieldSample<ConnectionErrors>] = &[
    (&CONNECTION_ERROR, &["sdp"], |e| e.sdp_generation_error),
    (&CONNECTION_ERROR, &["signaling"], |e| e.signaling_error),
];

/// The families that every Sora has.
pub(super) fn write(report: &StatsReport, out: &mut Families) {
    if let Some(version) = report.version.read(out) {
        out.set(&VERSION_INFO, &[version], 1.0);
    }
    super::write_rows(REPORT, report, out);
    write_response_times(report, out);
}

/// Connections by client software.
pub(super) fn write_clients(report: &StatsReport, out: &mut Families) {
    let Some(types) = report.sora_client.read(out) else { return };
    let mut write = |clients: &JsonField<JsonEntries<Number>>, state: &str| {
        let Some(clients) = clients.read(out) else { return };
        for (key, connections) in clients.in_document_order() {
            out.number(&CLIENT_TYPE, &[client(key), state], *connections);
        }
    };
    write(&types.total_failed_sora_client_type, "failed");
    write(&types.total_successful_sora_client_type, "successful");
}

/// The value of the label `client`: our name for a key of Sora's, or the key itself if it is a new one.
fn client(key: &str) -> &str {
    match key {
        "sora_android_sdk" => "android_sdk",
        "sora_c_sdk" => "c_sdk",
        "sora_cpp_sdk" => "cpp_sdk",
        "sora_flutter_sdk" => "flutter_sdk",
        "sora_ios_sdk" => "ios_sdk",
        "sora_js_sdk" => "js_sdk",
        "sora_python_sdk" => "python_sdk",
        "sora_unity_sdk" => "unity_sdk",
        "webrtc_load_testing_tool_zakuro" => "zakuro",
        "webrtc_native_client_momo" => "momo",
        other => other,
    }
}

/// Connection errors by reason.
pub(super) fn write_errors(report: &StatsReport, out: &mut Families) {
    if let Some(errors) = report.error.read(out) {
        super::write_rows(ERRORS, errors, out);
    }
}

/// The histograms of the webhooks for which the report has buckets. They are new in Sora and the names of the fields are not documented, so
/// data that would make an invalid histogram is left out and counted.
fn write_response_times(r: &StatsReport, out: &mut Families) {
    for (desc, buckets, sum, calls) in [
        (
            &AUTH_RESPONSE_TIME,
            &r.auth_webhook_response_time_ms_buckets,
            r.total_auth_webhook_response_time_ms,
            [r.total_successful_auth_webhook, r.total_failed_auth_webhook],
        ),
        (
            &SESSION_RESPONSE_TIME,
            &r.session_webhook_response_time_ms_buckets,
            r.total_session_webhook_response_time_ms,
            [r.total_successful_session_webhook, r.total_failed_session_webhook],
        ),
        (
            &EVENT_RESPONSE_TIME,
            &r.event_webhook_response_time_ms_buckets,
            r.total_event_webhook_response_time_ms,
            [r.total_successful_event_webhook, r.total_failed_event_webhook],
        ),
        (
            &STATS_RESPONSE_TIME,
            &r.stats_webhook_response_time_ms_buckets,
            r.total_stats_webhook_response_time_ms,
            [r.total_successful_stats_webhook, r.total_failed_stats_webhook],
        ),
    ] {
        write_histogram(desc, buckets, sum, calls, out);
    }
}

fn write_histogram(
    desc: &'static Desc,
    buckets: &JsonList<ResponseTimeBucket>,
    sum: Number,
    calls: [Number; 2],
    out: &mut Families,
) {
    if buckets.items.is_empty() && buckets.invalid == 0 {
        return;
    }
    let Some((buckets, sum)) = cumulative(buckets).zip(sum.value().filter(|ms| *ms >= 0.0)) else {
        out.skip();
        return;
    };
    let calls: f64 = calls.into_iter().filter_map(Number::value).filter(|calls| *calls >= 0.0).sum();
    // Sora reads its counters one after the other, so the last bucket may be ahead of the count. Both only increase, so the larger one does, too.
    let count = buckets.last().map_or(calls, |(_, last)| calls.max(*last));
    out.histogram(desc, buckets, sum / 1e3, count);
}

/// The buckets as (bound in seconds, calls up to it); none unless bounds rise and counts never fall.
fn cumulative(buckets: &JsonList<ResponseTimeBucket>) -> Option<Vec<(f64, f64)>> {
    if buckets.invalid > 0 {
        return None;
    }
    let mut read: Vec<(f64, f64)> = Vec::with_capacity(buckets.items.len());
    for bucket in &buckets.items {
        let (bound, count) = (bucket.upper_bound.value()? / 1e3, bucket.count.value()?);
        let (bound_before, count_before) = read.last().copied().unwrap_or((f64::NEG_INFINITY, 0.0));
        if bound <= bound_before || count < count_before {
            return None;
        }
        read.push((bound, count));
    }
    Some(read)
}
