//! Metric names that a passed-on exposition may not use, one list for all kinds that pass text on, and names of labels that users may not
//! choose.
//!
//! Labels of passed-on text need none: those that discovery sets win over a server's, which Prometheus then calls `exported_…`.

use super::Type;

/// Labels that identify the target of a series. Discovery sets them, and no target may change them.
pub const IDENTITY_LABELS: [&str; 5] = ["instance", "job", "namespace", "target_name", "target_namespace"];

/// Labels that mean something in every exposition.
pub const TAKEN_LABELS: [&str; 2] = ["le", "quantile"];

/// What Prometheus itself adds to every scrape.
pub const OF_A_SCRAPE: [&str; 8] = [
    "up",
    "scrape_duration_seconds",
    "scrape_samples_scraped",
    "scrape_samples_post_metric_relabeling",
    "scrape_series_added",
    "scrape_timeout_seconds",
    "scrape_sample_limit",
    "scrape_body_size_bytes",
];

/// What this exporter adds to every answer about the poll itself, except for
/// `probe_ssl_last_chain_expiry_timestamp_seconds`, which it only adds where a certificate was verified.
pub const OF_A_POLL: [&str; 16] = [
    "probe_success",
    "probe_duration_seconds",
    "probe_timestamp_seconds",
    "probe_timeout_seconds",
    "probe_failure_info",
    "probe_call_success",
    "probe_call_duration_seconds",
    "probe_call_http_status_code",
    "probe_series_dropped",
    "probe_skipped_fields",
    "probe_ssl_earliest_cert_expiry",
    "probe_members",
    "probe_member_success",
    "probe_member_duration_seconds",
    "probe_member_failure_info",
    "probe_member_info",
];

/// What Prometheus makes of alerting rules. Those of recording rules have a colon in their names, which exporters are asked to leave to
/// them.
pub const OF_RULES: [&str; 2] = ["ALERTS", "ALERTS_FOR_STATE"];

/// Prefixes of the families about polls and about the exporter itself.
pub const OUR_PREFIXES: [&str; 2] = ["probe_", "scrapetarget_"];

/// Whether an application of type `own` has no business with metrics called `name`: they are of Prometheus, of this exporter, or of
/// another type.
pub fn is_reserved(own: Type, name: &str) -> bool {
    OF_A_SCRAPE.contains(&name)
        || OF_RULES.contains(&name)
        || name.starts_with("scrape_")
        || name.contains(':')
        || OUR_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        || Type::ALL.iter().any(|kind| *kind != own && has_prefix_of(*kind, name))
}

/// Whether `name` begins as the families of a kind do: with its block's name. Those of probes begin as those of all polls, and those that are
/// passed on as their servers like.
fn has_prefix_of(kind: Type, name: &str) -> bool {
    !kind.is_probed() && !kind.passes_on() && name.strip_prefix(kind.block()).is_some_and(|rest| rest.starts_with('_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_type_may_use_the_families_of_another() {
        for (own, other) in Type::ALL.iter().flat_map(|own| Type::ALL.iter().map(move |other| (*own, *other))) {
            for family in other.families() {
                let reserved = is_reserved(own, family.name);
                let is_probe = OUR_PREFIXES.iter().any(|prefix| family.name.starts_with(prefix));
                let of_other = own != other && has_prefix_of(other, family.name);
                assert_eq!(reserved, is_probe || of_other, "{own} {}", family.name);
            }
        }
    }

    #[test]
    fn names_of_prometheus_and_of_recording_rules_are_reserved_and_those_of_applications_are_not() {
        let own = Type::ALL[0];
        for name in OF_A_SCRAPE.iter().chain(&OF_RULES).chain(&[
            "scrape_new",
            "job:requests:rate5m",
            "probe_x",
            "scrapetarget_up",
        ]) {
            assert!(is_reserved(own, name), "{name}");
        }
        for name in [
            "upstream_requests",
            "http_requests_total",
            "grpc_server_handled_total",
            "process_cpu_seconds_total",
            "scraper_x",
            "nodejs_heap",
            "ALERTS_sent",
            "probes",
            "go_info",
        ] {
            assert!(!is_reserved(own, name), "{name}");
        }
    }
}
