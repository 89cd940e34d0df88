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
    out.reserve(parts.iter().map(|part| part.encoded_bytes(0)).sum());
    let families = parts.iter().flat_map(|part| part.groups()).map(|(family, _)| family);
    let mut others: Vec<&str> =
        families.filter(|family| base_name(&family.name, family.kind).is_none()).map(|family| &*family.name).collect();
    others.sort_unstable();
    let mut headers = HeaderWriter::new(format, others);
    for part in parts {
        for (family, samples) in part.groups() {
            headers.write(out, &family.name, family.kind, &family.help);
            for sample in samples {
                write_sample(out, family, sample, "", sample.labels(&part.text));
            }
        }
    }
    headers.finish(out)
}

impl Finished {
    /// Bytes of the exposition, estimated: about 100 per header, and 45 per sample beside its labels and `more` bytes of another one.
    pub(super) fn encoded_bytes(&self, more: usize) -> usize {
        self.text.len() + (45 + more) * self.samples.len() + 100 * self.families.len()
    }
}

/// Writes the headers of families, and knows what each is called in its format: the family of a counter `x_total` is called `x` in
/// OpenMetrics. If there is another family `x`, both names would be equal.
pub(super) struct HeaderWriter<'f> {
    format: Format,
    /// The families with the same name in both formats, sorted. One must be here before a counter with its name and `_total` is written.
    others: Vec<&'f str>,
    /// The number of families so far.
    families: u32,
    plain_counters: Vec<u32>,
}

impl<'f> HeaderWriter<'f> {
    /// For an exposition in `format` with these families beside its counters whose names end with `_total`: sorted.
    pub(super) fn new(format: Format, others: Vec<&'f str>) -> Self {
        Self { format, others, families: 0, plain_counters: Vec::new() }
    }

    /// Writes a header. Families come in the order of their names, so that this is the only way to announce one.
    pub(super) fn write_next(&mut self, out: &mut Vec<u8>, name: &'f str, kind: Type, help: &str) {
        if base_name(name, kind).is_none() {
            self.others.push(name);
        }
        self.write(out, name, kind, help);
    }

    /// Writes a header. If the family has the same name in both formats, it was announced.
    fn write(&mut self, out: &mut Vec<u8>, name: &str, kind: Type, help: &str) {
        let (base, openmetrics) = match base_name(name, kind) {
            Some(base) if self.others.binary_search(&base).is_err() => (base, Type::Counter),
            _ if kind == Type::Counter => {
                self.plain_counters.push(self.families);
                (name, Type::Unknown)
            }
            _ => (name, kind),
        };
        match self.format {
            Format::Text => write_header(out, name, kind.text(), help, self.format),
            Format::OpenMetrics => write_header(out, base, openmetrics.openmetrics(), help, self.format),
        }
        self.families = self.families.saturating_add(1);
    }

    /// Ends the exposition.
    pub(super) fn finish(self, out: &mut Vec<u8>) -> PlainCounters {
        if self.format == Format::OpenMetrics {
            out.extend_from_slice(b"# EOF\n");
        }
        PlainCounters(self.plain_counters.into_boxed_slice())
    }
}

/// The name of a counter without `_total`; `None` if it is no counter or has no such suffix.
fn base_name(name: &str, kind: Type) -> Option<&str> {
    if kind != Type::Counter {
        return None;
    }
    name.strip_suffix("_total").filter(|base| !base.is_empty())
}

pub(super) fn write_header(out: &mut Vec<u8>, name: &str, kind: &str, help: &str, format: Format) {
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

/// Writes a sample with these labels, `first` before the others.
pub(super) fn write_sample(out: &mut Vec<u8>, family: &Family, sample: &Sample, first: &str, labels: &str) {
    out.extend_from_slice(family.name.as_bytes());
    out.extend_from_slice(sample.suffix.text().as_bytes());
    if !(first.is_empty() && labels.is_empty()) {
        out.push(b'{');
        out.extend_from_slice(first.as_bytes());
        if !(first.is_empty() || labels.is_empty()) {
            out.push(b',');
        }
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
