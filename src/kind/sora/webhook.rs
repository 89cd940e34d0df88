//! How long webhooks took to answer, as histograms: new in Sora, and its names for the fields are not documented.
//!
//! So nothing is believed here: what would make a broken histogram is left out and counted.

use super::api::{Bucket, List, Object, StatsReport};
use crate::kind::Number;
use crate::metric::{Desc, Families};

crate::descs! {
    AUTH = histogram "sora_auth_webhook_response_time_seconds" [] "How long calls of the auth webhook took, those that failed included.";
    SESSION = histogram "sora_session_webhook_response_time_seconds" [] "How long calls of the session webhook took, those that failed included.";
    EVENT = histogram "sora_event_webhook_response_time_seconds" [] "How long calls of the event webhook took, those that failed included.";
    STATS = histogram "sora_stats_webhook_response_time_seconds" [] "How long calls of the stats webhook took, those that failed included.";
}

/// The histograms of the webhooks that the report has buckets for.
pub(super) fn write(r: &StatsReport, out: &mut Families) {
    write_one(
        &AUTH,
        &r.auth_webhook_response_time_ms_buckets,
        r.total_auth_webhook_response_time_ms,
        [r.total_successful_auth_webhook, r.total_failed_auth_webhook],
        out,
    );
    write_one(
        &SESSION,
        &r.session_webhook_response_time_ms_buckets,
        r.total_session_webhook_response_time_ms,
        [r.total_successful_session_webhook, r.total_failed_session_webhook],
        out,
    );
    write_one(
        &EVENT,
        &r.event_webhook_response_time_ms_buckets,
        r.total_event_webhook_response_time_ms,
        [r.total_successful_event_webhook, r.total_failed_event_webhook],
        out,
    );
    write_one(
        &STATS,
        &r.stats_webhook_response_time_ms_buckets,
        r.total_stats_webhook_response_time_ms,
        [r.total_successful_stats_webhook, r.total_failed_stats_webhook],
        out,
    );
}

fn write_one(desc: &'static Desc, buckets: &List<Object<Bucket>>, sum: Number, calls: [Number; 2], out: &mut Families) {
    let buckets = buckets.read(out);
    if buckets.is_empty() {
        return;
    }
    let Some((buckets, sum)) = cumulative(buckets).zip(sum.value().filter(|ms| *ms >= 0.0)) else {
        out.skip();
        return;
    };
    let calls: f64 = calls.into_iter().filter_map(Number::value).filter(|calls| *calls >= 0.0).sum();
    // Sora reads its counters one after the other, so the last bucket may be ahead of them. Both only rise, so does the larger.
    let count = buckets.last().map_or(calls, |(_, last)| calls.max(*last));
    out.histogram(desc, buckets, sum / 1e3, count);
}

/// The buckets as (bound in seconds, calls up to it); none unless bounds rise and counts never fall.
fn cumulative(buckets: &[Object<Bucket>]) -> Option<Vec<(f64, f64)>> {
    let mut read: Vec<(f64, f64)> = Vec::with_capacity(buckets.len());
    for bucket in buckets {
        let Object::Value(bucket) = bucket else { return None };
        let (bound, count) = (bucket.upper_bound.value()? / 1e3, bucket.count.value()?);
        let (bound_before, count_before) = read.last().copied().unwrap_or((f64::NEG_INFINITY, 0.0));
        if bound <= bound_before || count < count_before {
            return None;
        }
        read.push((bound, count));
    }
    Some(read)
}
