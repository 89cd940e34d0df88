//! A strict reader of text 0.0.4, for tests: it accepts what every Prometheus reads and what this project promises besides.
//!
//! Beyond the grammar it demands that each family stands in one place with one HELP and one TYPE before its samples, that
//! no series comes twice, and that label values have only the three escapes.
#![allow(dead_code, unreachable_pub, reason = "a module of several test binaries, each of which uses a part of it")]

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};

use scrapetarget_exporter::metric::ExpositionPolicy;

/// Lets every sample of another exposition through as it is.
pub struct Everything;

impl ExpositionPolicy for Everything {
    fn admits(&self, _: &str) -> bool {
        true
    }

    fn rewrite<'v>(&self, _: &str, value: Cow<'v, str>) -> Cow<'v, str> {
        value
    }
}

/// A family of every type, as we write it, with what has to be escaped.
pub const EVERY_TYPE: &str = "\
# HELP a_total Things \\\\ done.\\nAll \"of\" them.
# TYPE a_total counter
a_total{x=\"1\",y=\"a,b=\\\"c\\\"}\\\\\\n\"} 3
a_total{x=\"2\"} 1e+21
# HELP b:rate5m 
# TYPE b:rate5m gauge
b:rate5m NaN
b:rate5m{way=\"up\"} +Inf
# HELP h Spread.
# TYPE h histogram
h_bucket{le=\"0.5\"} 1
h_bucket{le=\"+Inf\"} 2
h_sum 1.5
h_count 2
# HELP plain Kept without total.
# TYPE plain counter
plain 7
# HELP s Latency.
# TYPE s summary
s{quantile=\"0.9\"} NaN
s_sum 4
s_count 2
# HELP z 
# TYPE z untyped
z 0.25
";

/// A family of an exposition.
#[derive(Clone, Debug, PartialEq)]
pub struct Family {
    pub name: String,
    pub help: String,
    pub kind: String,
    pub samples: Vec<Sample>,
}

/// A sample: its whole name, its labels in their order, its value.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    pub name: String,
    pub labels: Vec<(String, String)>,
    pub value: f64,
}

impl Sample {
    /// Name and labels in one canonical text: what makes a series a series. An empty label is no label.
    pub fn series(&self) -> String {
        let labels: BTreeMap<_, _> =
            self.labels.iter().filter(|(_, value)| !value.is_empty()).map(|(name, value)| (name, value)).collect();
        format!("{}{labels:?}", self.name)
    }
}

/// Reads an exposition; the error says what is wrong with which line.
pub fn parse(text: &str) -> Result<Vec<Family>, String> {
    if !text.is_empty() && !text.ends_with('\n') {
        return Err("the last line has no end".to_owned());
    }
    let mut families: Vec<Family> = Vec::new();
    let mut seen = HashSet::new();
    let mut help: Option<(String, String)> = None;
    for (number, line) in text.split_terminator('\n').enumerate() {
        let fail = |why: &str| Err(format!("line {}: {why}: {line:?}", number + 1));
        if let Some(rest) = line.strip_prefix("# HELP ") {
            if help.is_some() {
                return fail("a HELP without its TYPE stands before");
            }
            let Some((name, words)) = rest.split_once(' ') else { return fail("HELP without a text") };
            let Some(words) = unescape(words, false) else { return fail("an unknown escape in HELP") };
            help = Some((name.to_owned(), words));
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let Some((name, kind)) = rest.split_once(' ') else { return fail("TYPE without a type") };
            let Some((help_name, words)) = help.take() else { return fail("TYPE without its HELP before it") };
            if help_name != name || !is_name(name, true) {
                return fail("HELP and TYPE must have the same, valid name");
            }
            if !["counter", "gauge", "histogram", "summary", "untyped"].contains(&kind) {
                return fail("no type of text 0.0.4");
            }
            if families.iter().any(|before| before.name == name) {
                return fail("the family comes twice");
            }
            families.push(Family { name: name.to_owned(), help: words, kind: kind.to_owned(), samples: Vec::new() });
        } else if line.starts_with('#') || line.is_empty() {
            return fail("neither HELP, nor TYPE, nor a sample");
        } else {
            if help.is_some() {
                return fail("a HELP without its TYPE stands before");
            }
            let sample = match sample(line) {
                Ok(sample) => sample,
                Err(why) => return fail(&why),
            };
            let Some(family) = families.last_mut() else { return fail("a sample without a family") };
            if !belongs(&sample.name, family) {
                return fail("the sample is not of the family above it");
            }
            if !seen.insert(sample.series()) {
                return fail("the series comes twice");
            }
            family.samples.push(sample);
        }
    }
    match families.iter().find(|family| family.samples.is_empty()) {
        Some(empty) => Err(format!("{} has no sample", empty.name)),
        None if help.is_some() => Err("the text ends with a HELP".to_owned()),
        None => Ok(families),
    }
}

/// The first family that stands after one whose name is greater: families are sorted within each part of an exposition.
pub fn out_of_order(families: &[Family]) -> Option<&str> {
    families.windows(2).find(|pair| pair[0].name >= pair[1].name).map(|pair| pair[1].name.as_str())
}

/// All samples of an exposition, whatever their family.
pub fn samples(text: &str) -> Result<Vec<Sample>, String> {
    Ok(parse(text)?.into_iter().flat_map(|family| family.samples).collect())
}

fn belongs(name: &str, family: &Family) -> bool {
    let Some(suffix) = name.strip_prefix(family.name.as_str()) else { return false };
    match family.kind.as_str() {
        "histogram" => ["_bucket", "_sum", "_count"].contains(&suffix),
        "summary" => ["", "_sum", "_count"].contains(&suffix),
        _ => suffix.is_empty(),
    }
}

fn is_name(name: &str, colons: bool) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric() || c == '_' || (colons && c == ':');
    name.chars().all(good) && name.chars().next().is_some_and(|first| !first.is_ascii_digit())
}

/// `name{label="value",…} value`, without a timestamp, since the exporter never writes one.
pub fn sample(line: &str) -> Result<Sample, String> {
    let end = line.find(['{', ' ']).ok_or("no value")?;
    let (name, mut rest) = line.split_at(end);
    if !is_name(name, true) {
        return Err(format!("bad metric name {name:?}"));
    }
    let mut labels: Vec<(String, String)> = Vec::new();
    if let Some(mut inside) = rest.strip_prefix('{') {
        loop {
            let (label, after) = inside.split_once("=\"").ok_or("a label without a value")?;
            if !is_name(label, false) || labels.iter().any(|(other, _)| other == label) {
                return Err(format!("bad or repeated label {label:?}"));
            }
            let close = closing_quote(after).ok_or("a label value without its end")?;
            let value = unescape(&after[..close], true).ok_or("an unknown escape in a label value")?;
            labels.push((label.to_owned(), value));
            let after = &after[close + 1..];
            if let Some(next) = after.strip_prefix(',') {
                inside = next;
            } else {
                rest = after.strip_prefix('}').ok_or("labels without their end")?;
                break;
            }
        }
    }
    let value = rest.strip_prefix(' ').ok_or("no space before the value")?;
    Ok(Sample { name: name.to_owned(), labels, value: number(value)? })
}

fn number(text: &str) -> Result<f64, String> {
    match text {
        "NaN" => Ok(f64::NAN),
        "+Inf" => Ok(f64::INFINITY),
        "-Inf" => Ok(f64::NEG_INFINITY),
        // Rust reads words like `inf` and `nan`, which must not appear here.
        _ if !text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E')) => {
            Err(format!("bad value {text:?}"))
        }
        _ => text.parse().map_err(|_| format!("bad value {text:?}")),
    }
}

fn closing_quote(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.bytes().position(|byte| {
        let closes = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        closes
    })
}

/// Undoes `\\` and `\n`, in label values also `\"`; nothing for any other escape, or for a NUL, at which Prometheus stops.
fn unescape(text: &str, quotes: bool) -> Option<String> {
    let mut out = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next()? {
                '\\' => out.push('\\'),
                'n' => out.push('\n'),
                '"' if quotes => out.push('"'),
                _ => return None,
            },
            '\0' => return None,
            c => out.push(c),
        }
    }
    Some(out)
}
