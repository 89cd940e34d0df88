//! The samples of one poll, while a kind adds them.

use std::borrow::Cow;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use super::{Allowance, Compiled, Desc, Excess, Filter, Finished, Type, is_label_name, is_metric_name};

/// Longest label value, in bytes; a longer one is cut at a character boundary.
///
/// Users of a server choose some names that it reports; Prometheus' own limit is off by default.
pub(super) const MAX_LABEL_VALUE: usize = 1024;

/// The same where the series of a server are passed on as they are.
const MAX_LONG_LABEL_VALUE: usize = 16 << 10;

/// Longest name of a label, in bytes; a sample with a longer one is skipped.
const MAX_LABEL_NAME: usize = 512;

/// Most families that one answer may describe, those without samples included. A Prometheus server itself has a few hundred.
const MAX_FAMILIES: usize = 100_000;

/// The place of a family in its [`Families`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FamilyId(u32);

/// A point to [`Families::rewind`] to.
#[derive(Clone, Copy, Debug)]
pub struct Mark {
    text: usize,
    samples: usize,
    skipped: u64,
    withheld: u64,
    rendered: usize,
    refused: usize,
}

/// The suffix of a sample's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Suffix {
    /// Nothing.
    None,
    /// `_bucket`; the labels end with `le`.
    Bucket,
    /// `_sum`.
    Sum,
    /// `_count`.
    Count,
}

impl Suffix {
    /// The suffixes in the samples of histograms and summaries.
    pub(super) const OF_PARTS: [&str; 3] = [Self::Bucket.text(), Self::Sum.text(), Self::Count.text()];

    pub(super) const fn text(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Bucket => "_bucket",
            Self::Sum => "_sum",
            Self::Count => "_count",
        }
    }
}

#[derive(Debug)]
pub(super) struct Family {
    pub(super) name: Cow<'static, str>,
    pub(super) help: Cow<'static, str>,
    pub(super) kind: Type,
    wanted: bool,
    /// Labels of equal meaning may be written differently: in another order, or with a label without a value, which is none.
    pub(super) irregular: bool,
    /// A server has chosen the names of some labels.
    pub(super) has_foreign_labels: bool,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    pub(super) family: u32,
    pub(super) suffix: Suffix,
    from: u32,
    to: u32,
    pub(super) value: f64,
}

/// The metric families of one poll.
#[derive(Debug, Default)]
pub struct Families {
    text: String,
    list: Vec<Family>,
    samples: Vec<Sample>,
    by_desc: HashMap<usize, u32, BuildHasherDefault<AddressHasher>>,
    /// Made by the first name that only the server knows: most kinds never have one.
    by_name: Option<HashMap<Cow<'static, str>, u32>>,
    filter: Option<Arc<Filter>>,
    last: Option<(&'static Desc, u32)>,
    skipped: u64,
    dropped: u64,
    withheld: u64,
    allowance: Allowance,
    /// Bytes of the exposition, about.
    rendered: usize,
    /// Samples that the allowance had no room for.
    refused: usize,
    /// Families beyond [`MAX_FAMILIES`], or beyond the allowance, were described.
    overflowed: bool,
    /// A name has no cached decision, and comparing it is not allowed.
    undecided: bool,
    stopped: bool,
    /// Label values may be long.
    has_long_label_values: bool,
    compiled: Option<Arc<Compiled>>,
}

impl Families {
    /// An empty set that keeps only the families which `filter` lets through.
    pub fn filtered(filter: Option<Arc<Filter>>) -> Self {
        Self { filter, ..Self::default() }
    }

    /// The same for a translation that may cost no more than `allowance`. Ask for its [`excess`](Self::excess) afterwards.
    pub fn within(allowance: Allowance, filter: Option<Arc<Filter>>) -> Self {
        Self { filter, allowance, ..Self::default() }
    }

    /// Which limit was exceeded, if any: then all families must be discarded.
    pub fn excess(&self) -> Option<Excess> {
        if self.stopped {
            Some(Excess::Time)
        } else if self.undecided {
            Some(Excess::Comparison)
        } else if self.refused > 0 || self.overflowed {
            Some(Excess::Bytes)
        } else {
            None
        }
    }

    /// Whether what was added is more than `limit` samples or than the allowance permits: something must be shed.
    pub fn exceeds(&self, limit: usize) -> bool {
        self.len() > limit || self.refused > 0
    }

    /// Whether the translation's time is over, so that it need not go on.
    pub fn is_stopped(&mut self) -> bool {
        self.stopped = self.stopped || self.allowance.stop.is_set();
        self.stopped
    }

    /// From now on, label values are cut after 16 KiB, not after one: some exporters describe things in labels.
    pub fn allow_long_label_values(&mut self) {
        self.has_long_label_values = true;
    }

    /// The approximate size of the exposition in bytes.
    pub fn bytes(&self) -> usize {
        self.rendered
    }

    /// Adds one sample. `labels` are the values, in the order of the description's names; names at the end may go without.
    ///
    /// A value that is not finite, or a counter below 0, is skipped and counted.
    pub fn set(&mut self, desc: &'static Desc, labels: &[&str], value: f64) {
        debug_assert!(labels.len() <= desc.labels.len(), "{} has the labels {:?}", desc.name, desc.labels);
        self.add(desc, Suffix::None, None, labels, None, value);
    }

    /// The same about a member of a target: with its label, a name and a value, before the others.
    pub fn set_of_member(&mut self, desc: &'static Desc, member: (&str, &str), labels: &[&str], value: f64) {
        self.add(desc, Suffix::None, Some(member), labels, None, value);
    }

    /// Adds one histogram without labels: cumulative `buckets` of (upper bound, count), then sum and count.
    pub fn histogram(
        &mut self,
        desc: &'static Desc,
        buckets: impl IntoIterator<Item = (f64, f64)>,
        sum: f64,
        count: f64,
    ) {
        for (bound, cumulative) in buckets {
            let mut le = Vec::with_capacity(16);
            super::write_value(&mut le, bound);
            let mut le = String::from_utf8(le).unwrap_or_default();
            if bound.is_finite() && !le.contains(['.', 'e']) {
                le.push_str(".0"); // OpenMetrics wants canonical floats; text 0.0.4 takes them
            }
            self.add(desc, Suffix::Bucket, None, &[], Some(&le), cumulative);
        }
        self.add(desc, Suffix::Bucket, None, &[], Some("+Inf"), count);
        self.add(desc, Suffix::Sum, None, &[], None, sum);
        self.add(desc, Suffix::Count, None, &[], None, count);
    }

    fn add(
        &mut self,
        desc: &'static Desc,
        suffix: Suffix,
        member: Option<(&str, &str)>,
        labels: &[&str],
        le: Option<&str>,
        value: f64,
    ) {
        if !value.is_finite() || (desc.kind == Type::Counter && value < 0.0) {
            self.skipped += 1;
            return;
        }
        let family = self.family_of(desc);
        if !self.list[family as usize].wanted || !self.has_room() {
            return;
        }
        let from = self.text.len();
        if let Some((name, value)) = member {
            self.push_label(from, name, value);
        }
        for (name, value) in desc.labels.iter().zip(labels) {
            self.list[family as usize].irregular |= value.is_empty();
            self.push_label(from, name, value);
        }
        if let Some(le) = le {
            self.push_label(from, "le", le);
        }
        self.push_sample(family, suffix, from, value);
    }

    fn family_of(&mut self, desc: &'static Desc) -> u32 {
        if let Some((last, id)) = self.last
            && std::ptr::eq(last, desc)
        {
            return id;
        }
        let address = std::ptr::from_ref(desc).addr();
        let id = if let Some(&id) = self.by_desc.get(&address) {
            id
        } else {
            let id = self.intern(Cow::Borrowed(desc.name), desc.kind, Cow::Borrowed(desc.help));
            self.by_desc.insert(address, id);
            id
        };
        self.last = Some((desc, id));
        id
    }

    /// The index of a family, which is new unless the server has named it before.
    fn intern(&mut self, name: Cow<'static, str>, kind: Type, help: Cow<'static, str>) -> u32 {
        let id = u32::try_from(self.list.len()).unwrap_or(u32::MAX);
        if let Some(by_name) = &mut self.by_name {
            match by_name.entry(name.clone()) {
                Entry::Occupied(known) => return *known.get(),
                Entry::Vacant(free) => free.insert(id),
            };
        }
        let wanted = self.wants(&name);
        let help = if wanted { help } else { Cow::Borrowed("") };
        self.rendered += 2 * name.len() + help.len() + HEADER;
        self.list.push(Family { name, help, kind, wanted, irregular: false, has_foreign_labels: false });
        id
    }

    /// Whether the filter lets a family through.
    fn wants(&mut self, name: &str) -> bool {
        let Some(filter) = self.filter.clone() else { return true };
        if let Some(wanted) = filter.known(name) {
            return wanted;
        }
        if self.is_stopped() {
            return false;
        }
        if !self.allowance.compares {
            self.undecided = true;
            return false;
        }
        // Kept until the end of the translation, so that they are compiled once.
        let compiled = self.compiled.get_or_insert_with(|| filter.compiled());
        filter.decide(name, compiled)
    }

    /// Whether one more sample may be added; one that may not is counted.
    fn has_room(&mut self) -> bool {
        if self.is_stopped() {
            return false;
        }
        if self.rendered >= self.allowance.bytes {
            self.refused += 1;
            return false;
        }
        true
    }

    /// The family called `name`, made if there is none yet: for names that only the server knows.
    ///
    /// The first type and help win. `None`, and a skipped field, if the name is not one that every Prometheus reads.
    pub fn family(&mut self, name: &str, kind: Type, help: &str) -> Option<FamilyId> {
        if !is_metric_name(name) {
            self.skipped += 1;
            return None;
        }
        let list = &self.list;
        let by_name = self.by_name.get_or_insert_with(|| (0..).zip(list).map(|(id, f)| (f.name.clone(), id)).collect());
        if let Some(&id) = by_name.get(name) {
            return Some(FamilyId(id));
        }
        if self.list.len() >= MAX_FAMILIES || self.rendered >= self.allowance.bytes {
            self.overflowed = true;
            return None;
        }
        let help = help.replace('\0', "\u{FFFD}");
        Some(FamilyId(self.intern(Cow::Owned(name.to_owned()), kind, Cow::Owned(help))))
    }

    /// The type that `family` was made with.
    pub fn kind_of(&self, family: FamilyId) -> Type {
        self.list[family.0 as usize].kind
    }

    /// Adds one sample whose label names only the server knows. The value is not checked: `NaN` and infinities are added as well.
    ///
    /// A label name that not every Prometheus reads, one over 512 bytes, or one that comes twice, drops the sample and counts it as skipped.
    pub fn set_dynamic(&mut self, family: FamilyId, suffix: Suffix, labels: &[(&str, &str)], value: f64) {
        if !self.set_labels(family, suffix, labels, value) {
            self.skipped += 1;
        }
    }

    /// The same, except that it does not count a sample that it drops, but returns whether the names of the labels are good.
    pub(super) fn set_labels<V: AsRef<str>>(
        &mut self,
        family: FamilyId,
        suffix: Suffix,
        labels: &[(&str, V)],
        value: f64,
    ) -> bool {
        if !self.list[family.0 as usize].wanted || !self.has_room() {
            return true;
        }
        let unique = |i: usize| labels[..i].iter().all(|(name, _)| *name != labels[i].0);
        let named = |name: &str| name.len() <= MAX_LABEL_NAME && is_label_name(name);
        if !(0..labels.len()).all(|i| named(labels[i].0) && unique(i)) {
            return false;
        }
        let from = self.text.len();
        let described = &mut self.list[family.0 as usize];
        described.has_foreign_labels |= !labels.is_empty();
        described.irregular |=
            !labels.is_sorted_by_key(|(name, _)| name) || labels.iter().any(|(_, value)| value.as_ref().is_empty());
        for (name, value) in labels {
            self.push_label(from, name, value.as_ref());
        }
        self.push_sample(family.0, suffix, from, value);
        true
    }

    fn push_label(&mut self, from: usize, name: &str, value: &str) {
        if self.text.len() > from {
            self.text.push(',');
        }
        let most = if self.has_long_label_values { MAX_LONG_LABEL_VALUE } else { MAX_LABEL_VALUE };
        write_label(&mut self.text, name, value, most);
    }

    fn push_sample(&mut self, family: u32, suffix: Suffix, from: usize, value: f64) {
        let (Ok(from), Ok(to)) = (u32::try_from(from), u32::try_from(self.text.len())) else {
            self.skipped += 1; // 4 GiB of labels: no body that we accept can hold them
            return;
        };
        let name = self.list[family as usize].name.len();
        self.rendered += name + self.text.len().saturating_sub(from as usize) + LINE;
        self.samples.push(Sample { family, suffix, from, to, value });
    }

    /// Counts a value of the answer that could not be exported: `probe_skipped_fields`.
    pub fn skip(&mut self) {
        self.skipped += 1;
    }

    /// Counts a sample that can be read, but that this server may not export.
    pub fn withhold(&mut self) {
        self.skipped += 1;
        self.withheld += 1;
    }

    /// Counts series shed because of the sample limit: `probe_series_dropped`.
    pub fn drop_series(&mut self, series: usize) {
        self.dropped += series as u64;
    }

    /// How many samples there are.
    pub fn len(&self) -> usize {
        self.samples.len()
    }

    /// Whether there is no sample.
    pub fn is_empty(&self) -> bool {
        self.samples.is_empty()
    }

    /// Remembers this point, to [`rewind`](Self::rewind) when what follows turns out to be too much.
    pub fn mark(&self) -> Mark {
        let Self { text, samples, skipped, withheld, rendered, refused, .. } = self;
        Mark {
            text: text.len(),
            samples: samples.len(),
            skipped: *skipped,
            withheld: *withheld,
            rendered: *rendered,
            refused: *refused,
        }
    }

    /// Removes every sample added since `mark`, and returns how many they were, including those that exceeded the allowance. If they are not
    /// written in another form, the caller counts them as dropped.
    pub fn rewind(&mut self, mark: Mark) -> usize {
        let taken = self.samples.len() - mark.samples + (self.refused - mark.refused);
        self.rendered = mark.rendered;
        self.refused = mark.refused;
        self.samples.truncate(mark.samples);
        self.text.truncate(mark.text);
        self.skipped = mark.skipped;
        self.withheld = mark.withheld;
        taken
    }

    /// Puts samples in the order of their families' names and removes series that come twice (the first stays).
    pub fn finish(self) -> Finished {
        Finished::new(self.text, self.list, self.samples, self.skipped, self.dropped, self.withheld)
    }
}

/// Writes `name="value"`, escaped and cut after so many bytes.
pub(super) fn write_label(text: &mut String, name: &str, value: &str, most: usize) {
    text.push_str(name);
    text.push_str("=\"");
    let value = &value[..value.floor_char_boundary(most)];
    if value.bytes().any(|b| matches!(b, b'\\' | b'"' | b'\n' | b'\0')) {
        for c in value.chars() {
            match c {
                '\0' => text.push(char::REPLACEMENT_CHARACTER), // Prometheus reads it as the end of the text
                '\\' => text.push_str("\\\\"),
                '"' => text.push_str("\\\""),
                '\n' => text.push_str("\\n"),
                c => text.push(c),
            }
        }
    } else {
        text.push_str(value);
    }
    text.push('"');
}

/// Bytes of a sample's line beside its name and labels: suffix, braces, value.
const LINE: usize = 32;

/// Bytes of a family's comments beside its name and help.
const HEADER: usize = 24;

/// Hashes the address of a description. Servers cannot choose addresses, so they cannot make them collide.
#[derive(Debug, Default)]
struct AddressHasher(u64);

impl Hasher for AddressHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_usize(usize::from(*byte));
        }
    }

    fn write_usize(&mut self, address: usize) {
        self.0 = (self.0 ^ address as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(26);
    }
}

impl Sample {
    pub(super) fn labels<'t>(&self, text: &'t str) -> &'t str {
        &text[self.from as usize..self.to as usize]
    }
}
