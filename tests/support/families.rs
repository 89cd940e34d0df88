//! Every family that the exporter can give, by its own lists.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use scrapetarget_exporter::http::TARGET_FAMILIES;
use scrapetarget_exporter::kind::Type;
use scrapetarget_exporter::metric::{Desc, Format, encode};
use scrapetarget_exporter::poll::PROBE_FAMILIES;
use scrapetarget_exporter::self_metrics::SelfMetrics;

/// A text of `/metrics` in which every family of the registry has samples.
pub fn own_metrics() -> String {
    let metrics = SelfMetrics::new().unwrap();
    // A family without samples is not shown: give each one.
    drop(metrics.polls.start());
    metrics.files().unwrap().read(true);
    metrics.polls.end("Sora", "success", Duration::ZERO);
    metrics.polls.delay.observe(0.0);
    metrics.probes.end(200, Duration::ZERO);
    metrics.polls.end_token_request("success");
    metrics.sources.events.with_label_values(&["ScrapeTarget", "applied"]).inc();
    metrics.sources.reconciles.with_label_values(&["success"]).inc();
    let mut text = Vec::new();
    encode(&[&metrics.gather().finish()], Format::Text, &mut text);
    String::from_utf8(text).unwrap()
}

/// Families of `/metrics`: those of the registry, by a look at what it gives, and those that are read from the pollers. Name, type,
/// labels, help.
pub fn own_families() -> Vec<(String, String, Vec<String>, String)> {
    let text = own_metrics();
    let mut families = Vec::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) else { continue };
        let kind = lines.next().unwrap().rsplit(' ').next().unwrap().to_owned();
        let labels = lines.peek().and_then(|sample| sample.split_once('{')).map_or("", |(_, labels)| labels);
        let labels: BTreeSet<String> =
            labels.split(',').filter_map(|pair| pair.split_once("=\"")).map(|(label, _)| label.to_owned()).collect();
        let labels = labels.into_iter().filter(|label| label != "le").collect();
        families.push((name.to_owned(), kind, labels, help.to_owned()));
    }
    families.extend(TARGET_FAMILIES.iter().map(|desc| {
        let labels = desc.labels.iter().map(|label| (*label).to_owned()).collect();
        (desc.name.to_owned(), desc.kind.text().to_owned(), labels, desc.help.to_owned())
    }));
    families.sort();
    families
}

/// Families of the blackbox exporter that dashboards and alerts use, with their labels: they are promised, whatever else a prober exports.
const OF_PROBERS: &[(&str, &[&str])] = &[
    ("probe_dns_answer_hash", &[]),
    ("probe_dns_answer_rrs", &[]),
    ("probe_dns_duration_seconds", &["phase"]),
    ("probe_dns_lookup_time_seconds", &[]),
    ("probe_dns_query_succeeded", &[]),
    ("probe_dns_serial", &[]),
    ("probe_failed_due_to_bytes", &[]),
    ("probe_failed_due_to_regex", &[]),
    ("probe_grpc_duration_seconds", &["phase"]),
    ("probe_grpc_healthcheck_response", &["serving_status"]),
    ("probe_grpc_status_code", &[]),
    ("probe_http_duration_seconds", &["phase"]),
    ("probe_http_redirects", &[]),
    ("probe_http_ssl", &[]),
    ("probe_http_status_code", &[]),
    ("probe_http_uncompressed_body_length", &[]),
    ("probe_http_version", &[]),
    ("probe_icmp_duration_seconds", &["phase"]),
    ("probe_icmp_packets_received", &[]),
    ("probe_icmp_packets_sent", &[]),
    ("probe_icmp_rtt_seconds", &["stat"]),
    ("probe_ip_addr_hash", &[]),
    ("probe_stun_duration_seconds", &["phase"]),
    ("probe_stun_error_code", &[]),
    ("probe_stun_transmissions", &[]),
    ("probe_tcp_duration_seconds", &["phase"]),
    ("probe_tls_version_info", &["version"]),
];

/// The labels that each series has from the exporter itself, by the name of the series: a histogram has three.
pub fn series() -> BTreeMap<String, BTreeSet<String>> {
    let of_targets = Type::ALL.iter().flat_map(|kind| kind.families()).chain(PROBE_FAMILIES.iter().copied());
    let of_targets = of_targets.map(|Desc { name, kind, labels, .. }| {
        let labels = labels.iter().map(|label| (*label).to_owned()).collect();
        ((*name).to_owned(), kind.text().to_owned(), labels)
    });
    let own = own_families().into_iter().map(|(name, kind, labels, _)| (name, kind, labels));
    let promised = OF_PROBERS.iter().map(|(name, labels)| {
        ((*name).to_owned(), labels.iter().map(|label| (*label).to_owned()).collect::<BTreeSet<String>>())
    });
    let mut series: BTreeMap<String, BTreeSet<String>> = promised.collect();
    for (name, kind, labels) in of_targets.chain(own) {
        let labels: BTreeSet<String> = labels.into_iter().collect();
        if kind == "histogram" {
            let with_bound = labels.iter().cloned().chain(["le".to_owned()]).collect();
            series.insert(format!("{name}_bucket"), with_bound);
            series.insert(format!("{name}_sum"), labels.clone());
            series.insert(format!("{name}_count"), labels);
        } else {
            series.insert(name, labels);
        }
    }
    series
}
