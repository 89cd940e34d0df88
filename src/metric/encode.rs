//! The text of an exposition: OpenMetrics 1.0 and text 0.0.4.

use super::families::{Family, Sample};
use super::{Finished, Format, Type};

/// Counters that OpenMetrics can only declare as `unknown`, because their names lack `_total` or because another family has the name without
/// it: a [`Rewriter`](super::Rewriter) must distinguish them from families of unknown type. Each is stored as the index of its family in the
/// text, since a server may have many long names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PlainCounters(Box<[u32]>);

impl PlainCounters {
    /// Whether the family at this index is one of them. The indexes are sorted.
    pub(super) fn contains(&self, place: u32) -> bool {
        self.0.binary_search(&place).is_ok()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

/// Writes `parts`, one after the other, in `format`. Ends an OpenMetrics text with `# EOF`.
pub fn encode(parts: &[&Finished], format: Format, out: &mut Vec<u8>) -> PlainCounters {
    // An estimate: about 100 bytes per header, and 45 per sample beside its labels.
    out.reserve(parts.iter().map(|part| part.text.len() + 45 * part.samples.len() + 100 * part.families.len()).sum());
    let mut plain_counters = Vec::new();
    let mut place = 0_u32;
    // The family of a counter `x_total` is called `x` in OpenMetrics. If there is another family `x`, both names would be equal.
    let families = parts.iter().flat_map(|part| part.groups()).map(|(family, _)| family);
    let others = families.filter(|family| base_name(family).is_none());
    let mut taken: Vec<&str> = others.map(|family| &*family.name).collect();
    taken.sort_unstable();
    for part in parts {
        for (family, samples) in part.groups() {
            let (name, kind) = match base_name(family) {
                Some(base) if taken.binary_search(&base).is_err() => (base, Type::Counter),
                _ if family.kind == Type::Counter => {
                    plain_counters.push(place);
                    (&*family.name, Type::Unknown)
                }
                _ => (&*family.name, family.kind),
            };
            let (name, kind) = match format {
                Format::Text => (&*family.name, family.kind.text()),
                Format::OpenMetrics => (name, kind.openmetrics()),
            };
            write_header(out, name, kind, &family.help, format);
            place = place.saturating_add(1);
            for sample in samples {
                write_sample(out, family, sample, &part.text);
            }
        }
    }
    if format == Format::OpenMetrics {
        out.extend_from_slice(b"# EOF\n");
    }
    PlainCounters(plain_counters.into_boxed_slice())
}

/// The name of a counter without `_total`; `None` if it is no counter or has no such suffix.
fn base_name(family: &Family) -> Option<&str> {
    if family.kind != Type::Counter {
        return None;
    }
    family.name.strip_suffix("_total").filter(|base| !base.is_empty())
}

fn write_header(out: &mut Vec<u8>, name: &str, kind: &str, help: &str, format: Format) {
    out.extend_from_slice(b"# HELP ");
    out.extend_from_slice(name.as_bytes());
    out.push(b' ');
    // `fold` and not `any`: without an early exit, the loop is vectorized.
    if help.bytes().fold(false, |found, byte| found | matches!(byte, b'\\' | b'\n' | b'"')) {
        write_escaped(out, help, format);
    } else {
        out.extend_from_slice(help.as_bytes());
    }
    out.extend_from_slice(b"\n# TYPE ");
    out.extend_from_slice(name.as_bytes());
    out.push(b' ');
    out.extend_from_slice(kind.as_bytes());
    out.push(b'\n');
}

fn write_escaped(out: &mut Vec<u8>, help: &str, format: Format) {
    for byte in help.bytes() {
        match byte {
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'"' if format == Format::OpenMetrics => out.extend_from_slice(b"\\\""),
            byte => out.push(byte),
        }
    }
}

fn write_sample(out: &mut Vec<u8>, family: &Family, sample: &Sample, text: &str) {
    out.extend_from_slice(family.name.as_bytes());
    out.extend_from_slice(sample.suffix.text().as_bytes());
    let labels = sample.labels(text);
    if !labels.is_empty() {
        out.push(b'{');
        out.extend_from_slice(labels.as_bytes());
        out.push(b'}');
    }
    out.push(b' ');
    write_value(out, sample.value);
    out.push(b'\n');
}

/// Writes a value as Prometheus reads it: whole numbers without a point, `NaN`, `+Inf`, `-Inf`.
pub fn write_value(out: &mut Vec<u8>, value: f64) {
    const EXACT: f64 = 9_007_199_254_740_992.0; // 2^53: below it every whole f64 is an i64
    if value.fract() == 0.0 && value.abs() < EXACT {
        #[expect(clippy::cast_possible_truncation, reason = "whole and below 2^53")]
        out.extend_from_slice(itoa::Buffer::new().format(value as i64).as_bytes());
    } else if value.is_finite() {
        out.extend_from_slice(zmij::Buffer::new().format_finite(value).as_bytes());
    } else if value.is_nan() {
        out.extend_from_slice(b"NaN");
    } else {
        out.extend_from_slice(if value > 0.0 { b"+Inf" } else { b"-Inf" });
    }
}
