//! Two expositions side by side.

use std::collections::{BTreeMap, BTreeSet};

use super::differences::{DIFFERENCES, Difference, Shape};
use super::row::Row;
use super::sides::Sides;
use crate::support::exposition::Family;

/// One thing that differs.
#[derive(Debug)]
pub struct Found {
    pub family: String,
    pub shape: Shape,
    pub what: String,
}

/// Their values are times that something took; of these only the series are compared, and whether a phase took place at all.
const TIMES: [&str; 7] = [
    "probe_duration_seconds",
    "probe_dns_lookup_time_seconds",
    "probe_http_duration_seconds",
    "probe_tcp_duration_seconds",
    "probe_dns_duration_seconds",
    "probe_icmp_duration_seconds",
    "probe_grpc_duration_seconds",
];

/// Phases that either took place and lasted, or did not and are 0.
const PHASES: [&str; 4] = [r#""tls""#, r#""processing""#, r#""transfer""#, r#""request""#];

fn families(of: &[Family]) -> BTreeMap<&str, &Family> {
    of.iter().map(|family| (family.name.as_str(), family)).collect()
}

fn labels(of: &Family) -> BTreeSet<String> {
    of.samples.iter().flat_map(|sample| &sample.labels).map(|(name, _)| name.clone()).collect()
}

fn series(of: &Family) -> BTreeMap<String, f64> {
    of.samples.iter().map(|sample| (sample.series(), sample.value)).collect()
}

fn differing(theirs: &[Family], ours: &[Family]) -> Vec<Found> {
    let (theirs, ours) = (families(theirs), families(ours));
    let names: BTreeSet<&str> = theirs.keys().chain(ours.keys()).copied().collect();
    let mut all = Vec::new();
    for name in names {
        let mut found = |shape, what: String| all.push(Found { family: name.to_owned(), shape, what });
        let (theirs, ours) = match (theirs.get(name), ours.get(name)) {
            (Some(theirs), Some(ours)) => (theirs, ours),
            (Some(theirs), None) => {
                found(Shape::Theirs, format!("{:?}", theirs.samples));
                continue;
            }
            (None, ours) => {
                found(Shape::Ours, format!("{:?}", ours.map(|ours| &ours.samples)));
                continue;
            }
        };
        assert_eq!(theirs.kind, ours.kind, "the type of {name}");
        let (theirs, mut ours) = ((*theirs).clone(), (*ours).clone());
        for label in labels(&ours).difference(&labels(&theirs)) {
            let family = format!("{name}{{{label}}}");
            all.push(Found { family, shape: Shape::Label, what: format!("{:?}", ours.samples) });
            ours.samples.iter_mut().for_each(|sample| sample.labels.retain(|(name, _)| name != label));
        }
        let mut found = |shape, what: String| all.push(Found { family: name.to_owned(), shape, what });
        let (theirs, ours) = (series(&theirs), series(&ours));
        if theirs.keys().ne(ours.keys()) {
            found(Shape::Series, format!("theirs {:?}, ours {:?}", theirs.keys(), ours.keys()));
        }
        for (series, value) in &theirs {
            let Some(other) = ours.get(series) else { continue };
            let is_phase = PHASES.iter().any(|phase| series.contains(phase));
            let same =
                if TIMES.contains(&name) { !is_phase || (*value == 0.0) == (*other == 0.0) } else { value == other };
            if !same {
                found(Shape::Value, format!("{series}: theirs {value}, ours {other}"));
            }
        }
    }
    all
}

fn value(of: &[Family], name: &str) -> Option<f64> {
    of.iter().find(|family| family.name == name).map(|family| family.samples[0].value)
}

fn reason(of: &[Family]) -> Option<&str> {
    let info = of.iter().find(|family| family.name == "probe_failure_info")?;
    info.samples[0].labels.iter().find(|(name, _)| name == "reason").map(|(_, value)| value.as_str())
}

/// Probes a row by both: the differences that occurred, or what is wrong.
pub async fn compare(sides: &Sides, row: &Row) -> Result<BTreeSet<&'static str>, String> {
    let (theirs, ours) = tokio::join!(sides.theirs(row), sides.ours(row));
    let ours = ours.map_err(|error| format!("{}: {error}", row.name))?;
    let mut wrong = Vec::new();
    let success = |of, expected: bool| value(of, "probe_success") == Some(f64::from(u8::from(expected)));
    if !success(&theirs, row.theirs_succeeds) {
        wrong.push(format!("theirs: that it succeeds is not {}", row.theirs_succeeds));
    }
    if !success(&ours, row.verdict.is_ok()) {
        wrong.push(format!("ours: it is not {:?}", row.verdict));
    }
    let as_expected = match (reason(&ours), row.verdict) {
        (None, Ok(())) => true,
        (Some(reason), Err(expected)) => expected.split(" or ").any(|one| one == reason),
        _ => false,
    };
    if !as_expected {
        wrong.push(format!("ours: the reason is {:?} and not {:?}", reason(&ours), row.verdict.err()));
    }
    let mut occurred = BTreeSet::new();
    for found in differing(&theirs, &ours) {
        let wanted = |difference: &&Difference| difference.covers(row, &found);
        match DIFFERENCES.iter().find(wanted) {
            Some(difference) => _ = occurred.insert(difference.name),
            None => wrong.push(format!("{:?} {}: {}", found.shape, found.family, found.what)),
        }
    }
    let missing = row.differs.iter().filter(|name| !occurred.contains(*name));
    wrong.extend(missing.map(|name| format!("the wanted difference {name:?} does not occur")));
    if wrong.is_empty() {
        return Ok(occurred);
    }
    Err(format!("{}:\n  {}\n{}", row.name, wrong.join("\n  "), sides.debug(row).await))
}
