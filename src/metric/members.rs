//! One exposition of the families of many processes: each is written with a label of its own when it comes, and all are merged, family by
//! family, when they are all there.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::binary_heap::PeekMut;
use std::collections::{BinaryHeap, HashSet};

use super::encode::{HeaderWriter, PlainCounters, encode, write_header, write_sample};
use super::exposition::unescape;
use super::families::{Suffix, write_label};
use super::finished::{canonical, next_pair};
use super::{Finished, Format, Type};

impl Finished {
    /// The exposition of one member in text 0.0.4, with the label `label` first in every sample: what [`merge_members`] takes.
    ///
    /// A label of that name that a server has chosen becomes `exported_…`, as Prometheus does without `honor_labels`. If that makes two
    /// series equal, the first stays, and the other one counts as skipped.
    pub fn encode_member(&mut self, label: &str, value: &str) -> Vec<u8> {
        let mut first = String::with_capacity(label.len() + value.len() + 3);
        write_label(&mut first, label, value);
        let mut out = Vec::with_capacity(self.encoded_bytes(first.len() + 3));
        let mut duplicates = Vec::new();
        let mut place = 0;
        for (family, samples) in self.groups() {
            write_header(&mut out, &family.name, family.kind.text(), &family.help, Format::Text);
            let mut seen = HashSet::new();
            let is_renamed = |labels| family.has_foreign_labels && has_label(labels, label);
            let renames =
                family.has_foreign_labels && samples.iter().any(|sample| is_renamed(sample.labels(&self.text)));
            for sample in samples {
                let mut labels = Cow::Borrowed(sample.labels(&self.text));
                if renames {
                    labels = exported(&labels, label).map_or(labels, Cow::Owned);
                    if !seen.insert((sample.suffix, canonical(&labels))) {
                        duplicates.push(place);
                        place += 1;
                        continue;
                    }
                }
                debug_assert!(!has_label(&labels, label), "{} has the label {label} of its member", family.name);
                write_sample(&mut out, family, sample, &first, &labels);
                place += 1;
            }
        }
        self.remove_duplicates(&duplicates);
        out
    }

    /// Removes samples by their places, which are in order.
    fn remove_duplicates(&mut self, places: &[usize]) {
        if places.is_empty() {
            return;
        }
        let mut place = 0;
        self.samples.retain(|_| {
            place += 1;
            places.binary_search(&(place - 1)).is_err()
        });
        self.skipped += places.len() as u64;
    }
}

/// The pairs `name="value"` of labels.
fn pairs(labels: &str) -> impl Iterator<Item = &str> {
    let mut rest = labels;
    std::iter::from_fn(move || {
        let (pair, after) = next_pair(rest)?;
        rest = after;
        Some(pair)
    })
}

fn is_called(pair: &str, name: &str) -> bool {
    pair.strip_prefix(name).is_some_and(|rest| rest.starts_with('='))
}

/// Whether `name` is one of these labels.
fn has_label(labels: &str, name: &str) -> bool {
    // Most have nothing like it.
    labels.contains(name) && pairs(labels).any(|pair| is_called(pair, name))
}

/// The labels with `label` renamed to the first of `exported_…`, `exported_exported_…` that is free; `None` if it is not there. A label
/// without a value is none, and goes.
fn exported(labels: &str, label: &str) -> Option<String> {
    if !has_label(labels, label) {
        return None;
    }
    let mut name = format!("exported_{label}");
    while pairs(labels).any(|pair| is_called(pair, &name)) {
        name.insert_str(0, "exported_");
    }
    let mut renamed = String::with_capacity(labels.len() + name.len());
    for pair in pairs(labels) {
        let value = pair.strip_prefix(label).filter(|rest| rest.starts_with('='));
        if value == Some("=\"\"") {
            continue;
        }
        if !renamed.is_empty() {
            renamed.push(',');
        }
        if value.is_some() {
            renamed.push_str(&name);
        }
        renamed.push_str(value.unwrap_or(pair));
    }
    Some(renamed)
}

/// What became of a merge.
#[derive(Debug, PartialEq, Eq)]
pub struct Merged {
    /// For the conversion into the other format.
    pub plain_counters: PlainCounters,
    /// Samples that do not fit into the family that another member has under their name.
    pub left_out: usize,
}

/// Writes one exposition of the members' texts, each made by [`Finished::encode_member`], and of the exporter's `own` families: families in
/// the order of their names, and the samples of each in the order of `parts`.
///
/// The type and the help of a family are those of the first part that has it. Samples of another type are written all the same, unless they
/// belong to a histogram or a summary: then they are left out. So is a family that would be read as a part of another one, such as `x_count`
/// beside a histogram `x`.
pub fn merge_members(parts: &[&[u8]], own: &Finished, format: Format, out: &mut Vec<u8>) -> Merged {
    let mut own_text = Vec::new();
    encode(&[own], Format::Text, &mut own_text);
    let texts = std::iter::once(own_text.as_slice()).chain(parts.iter().copied());
    let mut sources: Vec<FamilyReader<'_>> = texts.map(FamilyReader::new).collect();
    out.reserve(parts.iter().map(|part| part.len()).sum::<usize>() + own_text.len());
    let names =
        sources.iter().enumerate().filter_map(|(source, reader)| Some(Reverse((reader.next.as_ref()?.name, source))));
    let mut queue: BinaryHeap<Reverse<(&str, usize)>> = names.collect();
    let mut headers = HeaderWriter::new(format, Vec::new());
    let mut composed = Vec::new();
    let mut current: Option<(&str, Option<Type>)> = None;
    let mut left_out = 0;
    while let Some(mut first) = queue.peek_mut() {
        let (name, source) = first.0;
        let Some(block) = sources.get_mut(source).and_then(FamilyReader::take) else {
            PeekMut::pop(first);
            continue;
        };
        match sources.get(source).and_then(|reader| reader.next.as_ref()) {
            Some(next) => first.0.0 = next.name,
            None => _ = PeekMut::pop(first),
        }
        let written = match current {
            Some((current, written)) if current == name => written,
            _ => {
                let written = (!is_part_of_any(name, &composed)).then_some(block.kind);
                if written.is_some() {
                    headers.write_next(out, name, block.kind, &unescape(block.help, false));
                    if block.kind.is_composed() {
                        composed.push(name);
                    }
                }
                current = Some((name, written));
                written
            }
        };
        if written.is_some_and(|written| fits(block.kind, written)) {
            out.extend_from_slice(block.samples.as_bytes());
        } else {
            left_out += block.samples.split_terminator('\n').count();
        }
    }
    Merged { plain_counters: headers.finish(out), left_out }
}

/// Whether samples of one type can be written under another.
fn fits(kind: Type, written: Type) -> bool {
    kind == written || !(kind.is_composed() || written.is_composed())
}

/// Whether samples called `name` would be read as those of one of these histograms and summaries, which are sorted.
fn is_part_of_any(name: &str, composed: &[&str]) -> bool {
    let mut wholes = Suffix::OF_PARTS.iter().filter_map(|part| name.strip_suffix(part));
    wholes.any(|whole| composed.binary_search(&whole).is_ok())
}

/// One family of a text that [`Finished::encode_member`] has written.
#[derive(Debug)]
struct FamilyText<'t> {
    name: &'t str,
    kind: Type,
    /// As it is escaped in text 0.0.4.
    help: &'t str,
    /// Whole lines.
    samples: &'t str,
}

impl<'t> FamilyText<'t> {
    /// The first family of a text, and what follows it.
    fn split_first(text: &'t str) -> Option<(Self, &'t str)> {
        let (header, rest) = text.strip_prefix("# HELP ")?.split_once('\n')?;
        let (name, help) = header.split_once(' ')?;
        let (kind, rest) = rest.strip_prefix("# TYPE ")?.split_once('\n')?;
        let kind = Type::of_text(kind.rsplit(' ').next()?)?;
        // A line that begins in this way is a comment: in the values of labels, line breaks are escaped.
        let mut end = 0;
        while let Some(line) = rest.get(end..).filter(|rest| !rest.is_empty() && !rest.starts_with('#')) {
            end += line.find('\n').map_or(line.len(), |at| at + 1);
        }
        let (samples, rest) = rest.split_at_checked(end)?;
        Some((Self { name, kind, help, samples }, rest))
    }
}

/// The families of one text, in order.
#[derive(Debug)]
struct FamilyReader<'t> {
    next: Option<FamilyText<'t>>,
    rest: &'t str,
}

impl<'t> FamilyReader<'t> {
    fn new(text: &'t [u8]) -> Self {
        let text = std::str::from_utf8(text);
        debug_assert!(text.is_ok(), "the exporter itself has written it");
        let mut reader = Self { next: None, rest: text.unwrap_or_default() };
        reader.take();
        reader
    }

    /// The next family; the one after it becomes the next.
    fn take(&mut self) -> Option<FamilyText<'t>> {
        let (next, rest) = FamilyText::split_first(self.rest).unzip();
        debug_assert!(next.is_some() || self.rest.is_empty(), "the exporter itself has written it");
        self.rest = rest.unwrap_or_default();
        std::mem::replace(&mut self.next, next)
    }
}
