//! Reads what exporters write, which may have families without help or type, and blank lines.
#![allow(dead_code, unreachable_pub, reason = "a module of several test binaries, each of which uses a part of it")]

use std::collections::BTreeMap;

use crate::support::exposition::{Sample, sample};

#[derive(Clone, Debug, Default)]
pub struct Family {
    pub help: String,
    pub kind: String,
    /// By name and labels.
    pub series: BTreeMap<String, f64>,
}

pub type Families = BTreeMap<String, Family>;

/// Reads text 0.0.4. Every series must be there once.
pub fn read(text: &str) -> Result<Families, String> {
    let mut families = Families::new();
    for line in text.lines() {
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) {
            help.clone_into(&mut families.entry(name.to_owned()).or_default().help);
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            kind.clone_into(&mut families.entry(name.to_owned()).or_default().kind);
        } else if !line.is_empty() && !line.starts_with('#') {
            let sample = sample(line).map_err(|error| format!("{error}: {line}"))?;
            let family = family_of(&sample, &families);
            let before = families.entry(family).or_default().series.insert(sample.series(), sample.value);
            if before.is_some() {
                return Err(format!("twice: {line}"));
            }
        }
    }
    families.retain(|_, family| !family.series.is_empty());
    Ok(families)
}

/// A series of a histogram or summary has another name than its family.
fn family_of(sample: &Sample, families: &Families) -> String {
    let parts = ["_bucket", "_sum", "_count"].iter().filter_map(|part| sample.name.strip_suffix(part));
    let composed = |name: &&str| {
        families.get(*name).is_some_and(|family| ["histogram", "summary"].contains(&family.kind.as_str()))
    };
    parts.into_iter().find(composed).unwrap_or(&sample.name).to_owned()
}

/// Families that are about a probe of ours, whatever the target.
const OURS: [&str; 10] = [
    "probe_success",
    "probe_duration_seconds",
    "probe_timestamp_seconds",
    "probe_timeout_seconds",
    "probe_failure_info",
    "probe_series_dropped",
    "probe_skipped_fields",
    "probe_ssl_earliest_cert_expiry",
    "probe_ssl_last_chain_expiry_timestamp_seconds",
    "up",
];

pub fn is_ours(name: &str) -> bool {
    OURS.contains(&name) || name.starts_with("probe_call_") || name.starts_with("scrape_")
}
