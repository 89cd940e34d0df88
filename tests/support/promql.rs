//! As much of Prometheus' query language as it takes to see which series and labels an expression speaks of. Prometheus judges the rest.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part")]

use std::collections::{BTreeMap, BTreeSet};

/// What an expression speaks of.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Mentions {
    /// Names of series, each with the labels that are asked of it.
    pub series: BTreeMap<String, BTreeSet<String>>,
    /// Labels by which series are put together or compared.
    pub groupings: BTreeSet<String>,
}

const GROUPINGS: [&str; 6] = ["by", "without", "on", "ignoring", "group_left", "group_right"];
const WORDS: [&str; 8] = ["and", "or", "unless", "bool", "offset", "atan2", "inf", "nan"];

/// Reads an expression.
pub fn mentions(expression: &str) -> Mentions {
    let mut found = Mentions::default();
    let mut rest = expression;
    while let Some(first) = rest.chars().next() {
        if first == '"' {
            rest = &rest[1 + end_of_text(&rest[1..])..];
        } else if first == '[' {
            rest = rest.split_once(']').expect("an open range").1;
        } else if first.is_ascii_alphabetic() || first == '_' {
            let (word, after) = word(rest);
            let next = after.trim_start();
            rest = after;
            if GROUPINGS.contains(&word) {
                if let Some(list) = next.strip_prefix('(') {
                    let (labels, after) = list.split_once(')').expect("an open list of labels");
                    let labels = labels.split(',').map(|label| label.trim().to_owned());
                    found.groupings.extend(labels.filter(|label| !label.is_empty()));
                    rest = after;
                }
                continue;
            }
            // `sum(…)`, `sum by (…) (…)`, `rate(…)`
            let called = next.starts_with('(') || matches!(self::word(next).0, "by" | "without");
            if called || WORDS.contains(&word) {
                continue;
            }
            let labels = found.series.entry(word.to_owned()).or_default();
            let Some(inside) = next.strip_prefix('{') else { continue };
            let asked;
            (asked, rest) = selector(inside, expression);
            labels.extend(asked.into_keys());
        } else if first == '{' {
            let (mut asked, after) = selector(&rest[1..], expression);
            rest = after;
            let names = asked.remove(NAME).unwrap_or_else(|| panic!("series of any name in {expression}"));
            for name in alternatives(&names) {
                found.series.entry(name).or_default().extend(asked.keys().cloned());
            }
        } else if first.is_ascii_digit() {
            rest = rest.trim_start_matches(|c: char| c.is_ascii_alphanumeric() || c == '.');
        } else {
            rest = &rest[first.len_utf8()..];
        }
    }
    found
}

/// The label that stands for the name of a series.
const NAME: &str = "__name__";

/// The labels that are asked for, with their texts, and what follows; the first brace is cut off already.
fn selector<'e>(mut inside: &'e str, expression: &str) -> (BTreeMap<String, String>, &'e str) {
    let mut asked = BTreeMap::new();
    loop {
        inside = inside.trim_start_matches([' ', ',', '\n']);
        if let Some(after) = inside.strip_prefix('}') {
            return (asked, after);
        }
        let (label, after) = word(inside);
        assert!(!label.is_empty(), "no label in {inside:?} of {expression}");
        let text = after.split_once('"').expect("a label without its value").1;
        let end = end_of_text(text);
        asked.insert(label.to_owned(), text[..end - 1].to_owned());
        inside = &text[end..];
    }
}

/// The names that a pattern such as `mediasoup_(producers|consumers)_score` stands for.
fn alternatives(pattern: &str) -> Vec<String> {
    let Some((before, rest)) = pattern.split_once('(') else { return vec![pattern.to_owned()] };
    let (inside, after) = rest.split_once(')').expect("an open group");
    inside.split('|').map(|middle| format!("{before}{middle}{after}")).collect()
}

/// The word at the beginning, and what follows it.
fn word(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':').unwrap_or(text.len());
    text.split_at(end)
}

/// How far a text in quotes goes, its last quote included; the first one is cut off already.
fn end_of_text(text: &str) -> usize {
    let mut escaped = false;
    let end = text.bytes().position(|byte| {
        let closes = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        closes
    });
    end.expect("an open text") + 1
}

/// The labels that discovery gives to series of targets.
pub const OF_TARGETS: [&str; 5] = ["job", "instance", "namespace", "target_namespace", "target_name"];

/// Those that it gives to the exporter's own `/metrics`.
pub const OF_PODS: [&str; 7] = ["job", "instance", "namespace", "pod", "container", "endpoint", "service"];

/// The label by which a Prometheus of several clusters tells them apart, where it has one.
pub const OF_CLUSTERS: &str = "cluster";

/// Series that Prometheus adds to each scrape, of whatever.
const OF_SCRAPES: [&str; 2] = ["up", "scrape_samples_scraped"];

/// The label that the series of a process have if its target has several: one of these.
pub const OF_MEMBERS: [&str; 2] = ["pod", "member"];

/// Whether each process of a target with members has this series.
pub fn is_of_members(name: &str) -> bool {
    !["scrapetarget_", "process_"].iter().any(|start| name.starts_with(start))
        && (!name.starts_with("probe_") || name.starts_with("probe_member_") || name == "probe_call_success")
}

/// The labels that a series has from discovery, or because its target has members.
fn discovered(name: &str) -> BTreeSet<&'static str> {
    if OF_SCRAPES.contains(&name) {
        OF_TARGETS.into_iter().chain(OF_PODS).collect()
    } else if name.starts_with("scrapetarget_") || name.starts_with("process_") {
        // A server whose series are passed on can have one of this name as well: then it has the name of the target.
        OF_PODS.into_iter().chain(["target_name"]).collect()
    } else if is_of_members(name) {
        OF_TARGETS.into_iter().chain(OF_MEMBERS).collect()
    } else {
        OF_TARGETS.into()
    }
}

/// What an expression asks for that no series has; `known` is [`series`](super::families::series).
pub fn unknown(expression: &str, known: &BTreeMap<String, BTreeSet<String>>) -> Vec<String> {
    let Mentions { series, groupings } = mentions(expression);
    let (mut unknown, mut labels) = (Vec::new(), BTreeSet::new());
    for (name, asked) in &series {
        let own = known.get(name);
        if own.is_none() && !OF_SCRAPES.contains(&name.as_str()) {
            unknown.push(format!("series {name}"));
            continue;
        }
        let mut has = discovered(name);
        has.insert(OF_CLUSTERS);
        has.extend(own.into_iter().flatten().map(String::as_str));
        unknown
            .extend(asked.iter().filter(|label| !has.contains(label.as_str())).map(|l| format!("label {l} of {name}")));
        labels.extend(has);
    }
    labels.insert(NAME);
    unknown.extend(groupings.iter().filter(|label| !labels.contains(label.as_str())).map(|l| format!("label {l}")));
    unknown
}
