//! Families in their final order, each series once.

use std::borrow::Cow;
use std::collections::HashSet;

use super::families::{Family, Sample, Suffix};

/// Families in their final order: what [`encode`](super::encode()) writes.
#[derive(Debug)]
pub struct Finished {
    pub(super) text: String,
    pub(super) families: Vec<Family>,
    pub(super) samples: Vec<Sample>,
    pub(super) skipped: u64,
    dropped: u64,
    withheld: u64,
}

impl Finished {
    /// How many samples there are.
    pub fn len(&self) -> usize {
        self.samples.len()
    }

    /// Whether there is no sample.
    pub fn is_empty(&self) -> bool {
        self.samples.is_empty()
    }

    /// Values that could not be exported.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// Series that were shed because of the sample limit.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Samples that were read but left out; they also count as skipped.
    pub fn withheld(&self) -> u64 {
        self.withheld
    }

    /// Leaves out every sample with something forbidden in a text that the server has chosen: a value of a label; and where it chose the
    /// family, its name, its help, and the names of its labels.
    pub fn withhold(&mut self, is_forbidden: impl Fn(&str) -> bool) {
        let is_chosen = |family: &Family| matches!(family.name, Cow::Owned(_));
        let is_bad = |family: &Family| is_chosen(family) && (is_forbidden(&family.name) || is_forbidden(&family.help));
        let bad: Vec<bool> = self.families.iter().map(is_bad).collect();
        if !bad.contains(&true) && !is_forbidden(&self.text) {
            return; // the usual case
        }
        let before = self.samples.len();
        let (families, text) = (&self.families, &self.text);
        self.samples.retain(|sample| {
            let place = sample.family as usize;
            let labels = sample.labels(text);
            let chosen = families.get(place).is_some_and(is_chosen) && is_forbidden(labels);
            !(bad.get(place).is_some_and(|bad| *bad) || chosen || values(labels).any(&is_forbidden))
        });
        let withheld = (before - self.samples.len()) as u64;
        self.withheld += withheld;
        self.skipped += withheld;
    }

    /// Each family that has samples, with its samples, in the order of names.
    pub(super) fn groups(&self) -> impl Iterator<Item = (&Family, &[Sample])> {
        self.samples
            .chunk_by(|a, b| a.family == b.family)
            .map(|group| (&self.families[group[0].family as usize], group))
    }

    /// Each sample as (name, labels as in the exposition without braces, value), for tests and tools.
    pub fn samples(&self) -> impl Iterator<Item = (String, &str, f64)> {
        self.samples.iter().map(|sample| {
            let family = &self.families[sample.family as usize];
            (format!("{}{}", family.name, sample.suffix.text()), sample.labels(&self.text), sample.value)
        })
    }
}

impl Finished {
    /// Puts samples in the order of their families' names and removes series that come twice (the first stays).
    pub(super) fn new(
        text: String,
        families: Vec<Family>,
        samples: Vec<Sample>,
        skipped: u64,
        dropped: u64,
        withheld: u64,
    ) -> Self {
        let mut finished = Self { text, families, samples, skipped, dropped, withheld };
        finished.sort();
        let before = finished.samples.len();
        finished.drop_duplicates();
        finished.skipped += (before - finished.samples.len()) as u64;
        finished
    }

    fn sort(&mut self) {
        let mut rank: Vec<u32> = (0..self.families.len()).map(|i| u32::try_from(i).unwrap_or(u32::MAX)).collect();
        let name = |family: u32| &*self.families[family as usize].name;
        rank.sort_by(|&a, &b| name(a).cmp(name(b))); // the stable sort is fast for sorted runs, which kinds write
        debug_assert!(self.names_are_unique(), "two descriptions have one name");
        let mut place = vec![0_u32; rank.len()];
        for (position, &family) in (0..).zip(&rank) {
            place[family as usize] = position;
        }
        self.samples.sort_by_key(|sample| place[sample.family as usize]);
    }

    /// Whether no two families with samples have one name. A kind that sheds detail describes a family anew, and leaves the first empty.
    fn names_are_unique(&self) -> bool {
        let used: HashSet<u32> = self.samples.iter().map(|sample| sample.family).collect();
        let names: HashSet<&str> = used.iter().map(|&family| &*self.families[family as usize].name).collect();
        names.len() == used.len()
    }

    fn drop_duplicates(&mut self) {
        let same_family = |a: &Sample, b: &Sample| a.family == b.family;
        if !self.samples.chunk_by(same_family).any(|group| self.has_duplicates(group)) {
            return;
        }
        let mut unique = Vec::with_capacity(self.samples.len());
        let mut seen = HashSet::new();
        for group in self.samples.chunk_by(same_family) {
            seen.clear();
            unique.extend(group.iter().filter(|sample| seen.insert(self.series(sample))).copied());
        }
        drop(seen);
        self.samples = unique;
    }

    /// Whether a family has a series twice.
    fn has_duplicates(&self, group: &[Sample]) -> bool {
        /// Up to this number, comparing all pairs is faster than hashing.
        const FEW: usize = 32;
        let irregular = group.first().is_some_and(|sample| self.families[sample.family as usize].irregular);
        if group.len() <= FEW && !irregular {
            let series = |sample: &Sample| (sample.suffix, sample.labels(&self.text));
            return (1..group.len()).any(|i| group[..i].iter().any(|other| series(other) == series(&group[i])));
        }
        let mut seen = HashSet::with_capacity(group.len());
        !group.iter().all(|sample| seen.insert(self.series(sample)))
    }

    /// The identity of a sample within its family: equal for labels of equal meaning.
    fn series(&self, sample: &Sample) -> (Suffix, Cow<'_, str>) {
        let labels = sample.labels(&self.text);
        let irregular = self.families[sample.family as usize].irregular;
        (sample.suffix, if irregular { Cow::Owned(canonical(labels)) } else { Cow::Borrowed(labels) })
    }
}

/// The labels in the order of their names, without those that have no value.
pub(super) fn canonical(labels: &str) -> String {
    let mut pairs = Vec::new();
    let mut rest = labels;
    while let Some((pair, after)) = next_pair(rest) {
        if !pair.ends_with("=\"\"") {
            pairs.push(pair);
        }
        rest = after;
    }
    pairs.sort_unstable();
    pairs.join(",")
}

/// The values of labels, escaped as they stand.
fn values(labels: &str) -> impl Iterator<Item = &str> {
    let mut rest = labels;
    std::iter::from_fn(move || {
        let (pair, after) = next_pair(rest)?;
        rest = after;
        pair.split_once('=').map(|(_, value)| value)
    })
}

/// Splits `a="b",c="d"` after its first pair. The text is our own: it is always well formed.
pub(super) fn next_pair(labels: &str) -> Option<(&str, &str)> {
    let open = labels.find('"')?;
    let bytes = labels.as_bytes();
    let mut at = open + 1;
    while *bytes.get(at)? != b'"' {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    let pair = &labels[..=at];
    Some((pair, labels[at + 1..].strip_prefix(',').unwrap_or("")))
}
