//! Limits of a scrape. Those that a target has as well are kept, as fields of `spec.monitor`: there they narrow what the installation allows,
//! and never raise it. It must not keep a limit that the API server would refuse.

use std::ops::RangeInclusive;

use serde_json::{Map, Value, json};

use super::block::{Block, BlockField};
use super::go;
use super::relabel::Spelling;
use super::report::{Reporter, quoted};
use crate::crd;

/// The numbers among them: their names, and what a target takes.
const NUMBERS: [(&str, &str, RangeInclusive<i64>); 3] = [
    ("label_limit", "labelLimit", 6..=1_000_000),
    ("label_name_length_limit", "labelNameLengthLimit", 16..=1_000_000),
    ("label_value_length_limit", "labelValueLengthLimit", 64..=1_000_000),
];

/// A limit of a scrape that is written and not 0.
#[derive(Debug)]
struct ScrapeLimit {
    /// Its name in an object of the Operator, and in `spec.monitor`.
    name: &'static str,
    /// What `spec.monitor` has of it. `None` if it is left out.
    kept: Option<Value>,
    line: usize,
    path: String,
    message: String,
}

/// The limits of a job, of an object, or of `global`.
#[derive(Debug, Default)]
pub(super) struct ScrapeLimits(Vec<ScrapeLimit>);

/// Reads the limits of a job or of an object. What is returned are fields of `spec.monitor`.
pub(super) fn limits(block: &mut Block<'_>, spelling: Spelling, reporter: &mut Reporter) -> Map<String, Value> {
    ScrapeLimits::read(block, spelling, "", reporter).or(&ScrapeLimits::default(), reporter)
}

impl ScrapeLimits {
    /// Those that `global` of a configuration has for jobs without them.
    pub(super) fn of_global(block: &mut Block<'_>, reporter: &mut Reporter) -> Self {
        Self::read(block, Spelling::Snake, " of the targets whose job has none", reporter)
    }

    /// Those of a job.
    pub(super) fn of_job(block: &mut Block<'_>, reporter: &mut Reporter) -> Self {
        Self::read(block, Spelling::Snake, "", reporter)
    }

    /// Fields of `spec.monitor`: these limits, and others for what has none. Prometheus takes 0 as none, also where `global` has one. Only
    /// limits that are in force are told of.
    pub(super) fn or(&self, others: &Self, reporter: &mut Reporter) -> Map<String, Value> {
        let is_own = |name: &str| self.0.iter().any(|limit| limit.name == name);
        let inherited = others.0.iter().filter(|limit| !is_own(limit.name));
        let mut kept = Map::new();
        for limit in self.0.iter().chain(inherited) {
            reporter.remark(limit.line, &limit.path, limit.message.as_str());
            kept.extend(limit.kept.clone().map(|value| (limit.name.to_owned(), value)));
        }
        kept
    }

    fn read(block: &mut Block<'_>, spelling: Spelling, whose: &str, reporter: &mut Reporter) -> Self {
        let mut found = Self::default();
        let narrows = "which narrows what the installation allows and never raises it";
        for (snake, camel, taken) in NUMBERS {
            let Some(limit) = block.integer(spelling.of(snake, camel), reporter).filter(|limit| limit.value != 0)
            else {
                continue;
            };
            let kept = taken.contains(&limit.value).then(|| json!(limit.value));
            let message = if kept.is_some() {
                let counted = if camel == "labelLimit" {
                    "; labels of discovery, such as target_name, count as well"
                } else {
                    ""
                };
                format!("is kept as monitor.{camel}{whose}, {narrows}{counted}")
            } else {
                let (least, most) = taken.into_inner();
                format!(
                    "is left out: {} is not from {least} to {most}, which monitor.{camel} of a target must be",
                    limit.value
                )
            };
            found.add(camel, kept, &limit, message);
        }
        let size = block.filled(spelling.of("body_size_limit", "bodySizeLimit"), reporter);
        if let Some(limit) = size.filter(|limit| go::size(&limit.value) != Some(0)) {
            let kept = crd::body_size(&limit.value).map(|_| json!(limit.value));
            let message = if kept.is_some() {
                format!("is kept as monitor.bodySizeLimit{whose}, {narrows}")
            } else {
                format!(
                    "is left out: {} is not what monitor.bodySizeLimit of a target takes, a whole number with one of the units B, KB, MB, GB, \
                     KiB, MiB and GiB",
                    quoted(&limit.value)
                )
            };
            found.add("bodySizeLimit", kept, &limit, message);
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
            let limit = block.node(spelling.of(snake, camel));
            if let Some(limit) = limit.filter(|limit| limit.node.scalar() != Some("0")) {
                found.add(camel, None, &limit, message.to_owned());
            }
        }
        found
    }

    fn add<T>(&mut self, name: &'static str, kept: Option<Value>, field: &BlockField<'_, T>, message: String) {
        self.0.push(ScrapeLimit { name, kept, line: field.line(), path: field.path.clone(), message });
    }
}
