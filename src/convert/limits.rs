//! Limits of a scrape. Those that a target has as well are kept, as fields of `spec.monitor`: there they narrow what the installation allows,
//! and never raise it. It must not keep a limit that the API server would refuse.

use std::ops::RangeInclusive;

use serde_json::{Map, Value, json};

use super::block::Block;
use super::relabel::Spelling;
use super::report::{Reporter, quoted};
use crate::crd;

/// The numbers among them: their names, and what a target takes.
const NUMBERS: [(&str, &str, RangeInclusive<i64>); 3] = [
    ("label_limit", "labelLimit", 6..=1_000_000),
    ("label_name_length_limit", "labelNameLengthLimit", 16..=1_000_000),
    ("label_value_length_limit", "labelValueLengthLimit", 64..=1_000_000),
];

/// Reads the limits of a job or of an object. What is returned are fields of `spec.monitor`.
pub(super) fn limits(block: &mut Block<'_>, spelling: Spelling, reporter: &mut Reporter) -> Map<String, Value> {
    let mut kept = Map::new();
    for (snake, camel, taken) in NUMBERS {
        let Some(limit) = block.integer(spelling.of(snake, camel), reporter) else { continue };
        let message = if taken.contains(&limit.value) {
            kept.insert(camel.to_owned(), json!(limit.value));
            let counted =
                if camel == "labelLimit" { "; labels of discovery, such as target_name, count as well" } else { "" };
            format!(
                "is kept as monitor.{camel}, which narrows what the installation allows and never raises it{counted}"
            )
        } else if limit.value == 0 {
            continue; // no limit
        } else {
            let (least, most) = taken.into_inner();
            format!(
                "is left out: {} is not from {least} to {most}, which monitor.{camel} of a target must be",
                limit.value
            )
        };
        reporter.remark(limit.line(), &limit.path, message);
    }
    if let Some(limit) = block.filled(spelling.of("body_size_limit", "bodySizeLimit"), reporter)
        && limit.value != "0"
    {
        let message = if crd::body_size(&limit.value).is_some() {
            kept.insert("bodySizeLimit".to_owned(), json!(limit.value));
            "is kept as monitor.bodySizeLimit, which narrows what the installation allows and never raises it"
                .to_owned()
        } else {
            format!(
                "is left out: {} is not what monitor.bodySizeLimit of a target takes, a whole number with one of the units B, KB, MB and GB",
                quoted(&limit.value)
            )
        };
        reporter.remark(limit.line(), &limit.path, message);
    }
    for (snake, camel, message) in [
        (
            "sample_limit",
            "sampleLimit",
            "is left out: a target has spec.sampleLimit, beyond which detailed series are dropped before the poll fails; write it there",
        ),
        (
            "target_limit",
            "targetLimit",
            "is left out: the installation sets it for all targets, by discovery.targetLimit",
        ),
    ] {
        if let Some(limit) = block.node(spelling.of(snake, camel)) {
            reporter.remark(limit.line(), &limit.path, message);
        }
    }
    kept
}
