//! One exposition of the families of many processes: each is written with a label of its own when it comes, and all are merged, family by
//! family, when they are all there.

use std::borrow::Cow;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashSet};

use super::encode::{HeaderWriter, PlainCounters, encode, write_header, write_sample};
use super::exposition::unescape;
use super::families::{MAX_LABEL_VALUE, Suffix, write_label};
use super::finished::{canonical, next_pair};
use super::{Finished, Format, Type};

impl Finished {
    /// The exposition of one member in text 0.0.4, with the label `label` first in every sample: what [`merge_members`] takes.
    ///
    /// A label of that name that a server has chosen becomes `exported_…`, as Prometheus does without `honor_labels`. If that makes two
    /// series equal, the first stays, and the other one counts as skipped.
    pub fn encode_member(&mut self, label: &str, value: &str) -> Vec<u8> {
        let mut first = String::with_capacity(label.len() + value.len() + 3);
        write_label(&mut first, label, value, MAX_LABEL_VALUE);
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
    let mut readers: Vec<FamilyReader<'_>> = texts.map(FamilyReader::new).collect();
    out.reserve(parts.iter().map(|part| part.len()).sum::<usize>() + own_text.len());
    let mut queue = FamilyQueue::default();
    for (place, reader) in readers.iter().enumerate() {
        if let Some(next) = &reader.next {
            queue.push(next.name, place);
        }
    }
    let mut headers = HeaderWriter::new(format, Vec::new());
    let mut composed = Vec::new();
    let mut left_out = 0;
    while let Some((name, mut places)) = queue.pop() {
        places.sort_unstable(); // mostly they are
        let mut written = None;
        let mut after = None;
        for (number, place) in places.drain(..).enumerate() {
            let Some(reader) = readers.get_mut(place) else { continue };
            let Some(family) = reader.take(after) else { continue };
            if let Some(next) = reader.next {
                queue.push(next.name, place);
                after = Some(next);
            }
            if number == 0 && !is_part_of_any(name, &composed) {
                headers.write_next(out, name, family.kind, &unescape(family.help, false));
                if family.kind.is_composed() {
                    composed.push(name);
                }
                written = Some(family.kind);
            }
            if written.is_some_and(|written| fits(family.kind, written)) {
                out.extend_from_slice(family.samples.as_bytes());
            } else {
                left_out += family.samples.split_terminator('\n').count();
            }
        }
        queue.spare.push(places);
    }
    Merged { plain_counters: headers.finish(out), left_out }
}

/// Which texts have which family next. Members have most families in common, so few names are in it at a time.
#[derive(Debug, Default)]
struct FamilyQueue<'t> {
    by_name: BTreeMap<&'t str, Vec<usize>>,
    /// The name that was added last, and the texts that have it, as long as it is not in the map.
    newest: Option<(&'t str, Vec<usize>)>,
    /// Lists for reuse.
    spare: Vec<Vec<usize>>,
}

impl<'t> FamilyQueue<'t> {
    /// The text at this place has the family `name` next.
    fn push(&mut self, name: &'t str, place: usize) {
        match &mut self.newest {
            Some((newest, places)) if *newest == name => places.push(place),
            _ => {
                self.flush();
                let mut places = self.spare.pop().unwrap_or_default();
                places.push(place);
                self.newest = Some((name, places));
            }
        }
    }

    fn flush(&mut self) {
        let Some((name, mut places)) = self.newest.take() else { return };
        match self.by_name.entry(name) {
            Entry::Vacant(free) => _ = free.insert(places),
            Entry::Occupied(mut known) => {
                known.get_mut().append(&mut places);
                self.spare.push(places);
            }
        }
    }

    /// The first name, and the texts that have it.
    fn pop(&mut self) -> Option<(&'t str, Vec<usize>)> {
        self.flush();
        self.by_name.pop_first()
    }
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
#[derive(Clone, Copy, Debug)]
struct FamilyText<'t> {
    /// The comments.
    header: &'t str,
    name: &'t str,
    kind: Type,
    /// As it is escaped in text 0.0.4.
    help: &'t str,
    /// Whole lines.
    samples: &'t str,
}

impl<'t> FamilyText<'t> {
    /// The first family of a text, and what follows it. It probably has the comments of a family that is known.
    fn split_first(text: &'t str, known: Option<Self>) -> Option<(Self, &'t str)> {
        let known = known.and_then(|known| Some((known, text.strip_prefix(known.header)?)));
        let (family, rest) = match known {
            Some(known) => known,
            None => Self::read_header(text)?,
        };
        // A line that begins in this way is a comment: in the values of labels, line breaks are escaped.
        let mut end = 0;
        while let Some(line) = rest.get(end..).filter(|rest| !rest.is_empty() && !rest.starts_with('#')) {
            end += line.find('\n').map_or(line.len(), |at| at + 1);
        }
        let (samples, rest) = rest.split_at_checked(end)?;
        Some((Self { samples, ..family }, rest))
    }

    /// The comments at the beginning of a text, and what follows them.
    fn read_header(text: &'t str) -> Option<(Self, &'t str)> {
        let (line, rest) = text.strip_prefix("# HELP ")?.split_once('\n')?;
        let (name, help) = line.split_once(' ')?;
        let (kind, rest) = rest.strip_prefix("# TYPE ")?.split_once('\n')?;
        let kind = Type::of_text(kind.rsplit(' ').next()?)?;
        let header = text.get(..text.len() - rest.len())?;
        Some((Self { header, name, kind, help, samples: "" }, rest))
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
        reader.take(None);
        reader
    }

    /// The next family; the one after it becomes the next, and probably has the comments of `after`.
    fn take(&mut self, after: Option<FamilyText<'t>>) -> Option<FamilyText<'t>> {
        let (next, rest) = FamilyText::split_first(self.rest, after).unzip();
        debug_assert!(next.is_some() || self.rest.is_empty(), "the exporter itself has written it");
        self.rest = rest.unwrap_or_default();
        std::mem::replace(&mut self.next, next)
    }
}
