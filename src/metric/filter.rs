//! Which metric names a target exports: `spec.metrics.keep` and `spec.metrics.drop`.
//!
//! Patterns come from users who may write a ScrapeTarget, names from servers. So both are bounded, which bounds their product: a pattern may
//! take 8 KiB when it is compiled, and a long name is compared with none. Compiled patterns live only while new names are compared; only
//! the decisions are kept.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, LazyLock, Mutex, PoisonError, RwLock, Weak};

use regex::bytes::{RegexBuilder, RegexSet, RegexSetBuilder};

/// The bytes that one compiled pattern may take, its anchors included.
const MAX_COMPILED: usize = 8 << 10;

/// The bytes that the states of one list of patterns may take, which are made while names are compared.
const MAX_STATES: usize = 256 << 10;

/// Longest name that is compared with patterns, in bytes. Longer ones match none.
const MAX_NAME: usize = 128;

/// How many decisions a filter caches; a server may make up names.
const MAX_VERDICTS: usize = 1024;

/// A name passes if it matches one of `keep` (or there is none) and none of `drop`. Every pattern is anchored at both ends.
///
/// A name over 128 bytes matches nothing: it passes only where `keep` is empty.
#[derive(Debug)]
pub struct Filter {
    keep: PatternList,
    drop: PatternList,
    verdicts: RwLock<HashMap<Box<str>, bool>>,
    compiled: Mutex<Weak<Compiled>>,
}

/// One of the two lists.
#[derive(Debug, PartialEq, Eq)]
struct PatternList {
    /// The patterns as the user wrote them.
    patterns: Box<[String]>,
    /// The names in patterns that consist of names and `|` only.
    names: BTreeSet<Box<str>>,
    /// The other patterns, anchored.
    anchored: Box<[String]>,
}

/// The compiled patterns of both lists; `None` for a list without patterns.
#[derive(Debug)]
pub struct Compiled {
    keep: Option<RegexSet>,
    drop: Option<RegexSet>,
}

impl PartialEq for Filter {
    fn eq(&self, other: &Self) -> bool {
        self.keep.patterns == other.keep.patterns && self.drop.patterns == other.drop.patterns
    }
}

// With it, an `Arc` of the same filter is equal without a look at its patterns: every poll asks.
impl Eq for Filter {}

/// A pattern that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{pattern:?} {}", self.advice())]
pub struct FilterError {
    /// The pattern as the user wrote it.
    pub pattern: String,
    cause: regex::Error,
}

impl FilterError {
    /// Whether the pattern is a regular expression, and only too large a one.
    pub fn is_too_large(&self) -> bool {
        matches!(self.cause, regex::Error::CompiledTooBig(_))
    }

    /// What is wrong, and what to write instead.
    pub fn advice(&self) -> String {
        if self.is_too_large() {
            return "takes more than 8 KiB when it is compiled: write several shorter patterns, and .* or + in place of large counts"
                .to_owned();
        }
        format!("is not a regular expression: {}, correct it", self.cause())
    }

    /// What is wrong, and where.
    pub fn cause(&self) -> String {
        // The last line of a syntax error says what is wrong; those before show the position.
        let text = self.cause.to_string();
        let last = text.lines().last().unwrap_or_default();
        let place = self.place().map(|at| format!(" at character {at}")).unwrap_or_default();
        format!("{}{place}", last.trim_start_matches("error: "))
    }

    /// The position of the error in the pattern, counted from 1.
    fn place(&self) -> Option<usize> {
        let parsed = regex_syntax::ParserBuilder::new().unicode(false).utf8(false).build().parse(&self.pattern);
        character_of(&parsed.err()?, &self.pattern)
    }
}

/// At which character of `pattern`, counted from 1, it is wrong.
pub fn character_of(error: &regex_syntax::Error, pattern: &str) -> Option<usize> {
    let offset = match error {
        regex_syntax::Error::Parse(error) => error.span().start.offset,
        regex_syntax::Error::Translate(error) => error.span().start.offset,
        _ => return None,
    };
    Some(pattern.get(..offset)?.chars().count() + 1)
}

impl Filter {
    /// Checks both lists; `None` if both are empty.
    pub fn new(keep: &[String], drop: &[String]) -> Result<Option<Self>, FilterError> {
        if keep.is_empty() && drop.is_empty() {
            return Ok(None);
        }
        let (keep, drop) = (PatternList::new(keep)?, PatternList::new(drop)?);
        Ok(Some(Self { keep, drop, verdicts: RwLock::default(), compiled: Mutex::default() }))
    }

    /// The same, but equal lists share one filter: targets are often made from templates.
    pub fn shared(keep: &[String], drop: &[String]) -> Result<Option<Arc<Self>>, FilterError> {
        static CACHE: LazyLock<Mutex<FilterCache>> = LazyLock::new(Mutex::default);
        let lists = (keep.to_vec(), drop.to_vec());
        let cache = || CACHE.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(filter) = cache().filters.get(&lists).and_then(Weak::upgrade) {
            return Ok(Some(filter));
        }
        let Some(filter) = Self::new(keep, drop)?.map(Arc::new) else { return Ok(None) };
        cache().add(lists, &filter);
        Ok(Some(filter))
    }

    /// Whether the family called `name` is exported.
    pub fn wants(&self, name: &str) -> bool {
        self.known(name).unwrap_or_else(|| self.decide(name, &self.compiled()))
    }

    /// The same, if the decision is cached.
    pub fn known(&self, name: &str) -> Option<bool> {
        if name.len() > MAX_NAME {
            return Some(self.keep.is_empty());
        }
        if self.keep.anchored.is_empty() && self.drop.anchored.is_empty() {
            let kept = self.keep.is_empty() || self.keep.names.contains(name);
            return Some(kept && !self.drop.names.contains(name));
        }
        self.verdicts.read().unwrap_or_else(PoisonError::into_inner).get(name).copied()
    }

    /// The compiled patterns, shared with all current holders.
    pub fn compiled(&self) -> Arc<Compiled> {
        // Compiled under the lock, so that two threads do not both compile them.
        let mut compiled = self.compiled.lock().unwrap_or_else(PoisonError::into_inner);
        compiled.upgrade().unwrap_or_else(|| {
            let new = Arc::new(Compiled { keep: self.keep.compile(), drop: self.drop.compile() });
            *compiled = Arc::downgrade(&new);
            new
        })
    }

    /// Compares a name with all patterns, and caches the decision.
    pub(super) fn decide(&self, name: &str, compiled: &Compiled) -> bool {
        let matches = |list: &PatternList, set: &Option<RegexSet>| {
            list.names.contains(name) || set.as_ref().is_some_and(|set| set.is_match(name.as_bytes()))
        };
        let wanted =
            (self.keep.is_empty() || matches(&self.keep, &compiled.keep)) && !matches(&self.drop, &compiled.drop);
        let mut verdicts = self.verdicts.write().unwrap_or_else(PoisonError::into_inner);
        if verdicts.len() < MAX_VERDICTS {
            verdicts.insert(name.into(), wanted);
        }
        wanted
    }
}

/// The filters that are in use, by their lists.
#[derive(Default)]
struct FilterCache {
    filters: HashMap<(Vec<String>, Vec<String>), Weak<Filter>>,
    /// How many were left when unused ones were last removed.
    used: usize,
}

impl FilterCache {
    fn add(&mut self, lists: (Vec<String>, Vec<String>), filter: &Arc<Filter>) {
        /// Up to this number, unused ones are not removed.
        const FEW: usize = 64;
        if self.filters.len() >= FEW.max(2 * self.used) {
            self.filters.retain(|_, filter| filter.strong_count() > 0);
            self.used = self.filters.len();
        }
        self.filters.insert(lists, Arc::downgrade(filter));
    }
}

impl PatternList {
    fn new(patterns: &[String]) -> Result<Self, FilterError> {
        let mut list = Self { patterns: patterns.into(), names: BTreeSet::new(), anchored: Box::default() };
        let mut anchored = Vec::new();
        for pattern in patterns {
            // Users often write lists of whole names, which need no automaton and hardly any memory.
            if pattern.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b':' | b'|')) {
                list.names.extend(pattern.split('|').map(Into::into));
            } else {
                anchored.push(anchor(pattern).map_err(|cause| FilterError { pattern: pattern.clone(), cause })?);
            }
        }
        list.anchored = anchored.into();
        Ok(list)
    }

    fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    fn compile(&self) -> Option<RegexSet> {
        if self.anchored.is_empty() {
            return None;
        }
        let together = 2 * MAX_COMPILED * self.anchored.len();
        let set =
            RegexSetBuilder::new(&self.anchored).unicode(false).size_limit(together).dfa_size_limit(MAX_STATES).build();
        debug_assert!(set.is_ok(), "each of them compiled alone");
        set.ok()
    }
}

/// The pattern with its anchors, if it can be used.
fn anchor(pattern: &str) -> Result<String, regex::Error> {
    let build = |pattern: &str| {
        // Names are ASCII, and RE2's \d and (?i) mean the same only so.
        RegexBuilder::new(pattern).unicode(false).size_limit(MAX_COMPILED).build().map(drop)
    };
    // Parsed without anchors first: with them, `a)|(b` would become valid, and would not be anchored.
    build(pattern)?;
    let anchored = format!("^(?:{pattern})$");
    build(&anchored)?;
    Ok(anchored)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(patterns: &[&str]) -> Vec<String> {
        patterns.iter().map(|pattern| (*pattern).to_owned()).collect()
    }

    fn filter(keep: &[&str], drop: &[&str]) -> Filter {
        Filter::new(&list(keep), &list(drop)).unwrap().unwrap()
    }

    #[test]
    fn a_name_over_128_bytes_matches_no_pattern() {
        let (short, long) = ("a".repeat(128), "a".repeat(129));
        let keep = filter(&["a.*", &long], &[]);
        assert!(keep.wants(&short) && !keep.wants(&long));
        let drop = filter(&[], &["a.*", &long]);
        assert!(!drop.wants(&short) && drop.wants(&long));
    }

    #[test]
    fn a_pattern_over_8_kib_is_told_from_one_that_is_no_pattern() {
        let large = Filter::new(&list(&["[ab]*a[ab]{0,400}c"]), &[]).unwrap_err();
        assert!(large.is_too_large() && large.to_string().contains("8 KiB"), "{large}");
        let broken = Filter::new(&[], &list(&["(a"])).unwrap_err();
        assert!(!broken.is_too_large() && broken.to_string().contains("not a regular expression"), "{broken}");
        assert!(Filter::new(&list(&["[ab]*a[ab]{0,60}c"]), &[]).is_ok());
    }

    #[test]
    fn lists_of_names_may_be_as_long_as_the_schema_lets_them() {
        let names: Vec<String> = (0..20).map(|i| format!("mediasoup_{i:02}")).collect();
        let filter = filter(&[&names.join("|"), "sora_.*"], &["mediasoup_07|sora_up"]);
        assert!(filter.wants("mediasoup_06") && filter.wants("sora_x"));
        assert!(!filter.wants("mediasoup_07") && !filter.wants("sora_up") && !filter.wants("mediasoup_0"));
        assert!(super::tests::filter(&["a|"], &[]).wants(""), "an empty alternative stays one");
    }

    #[test]
    fn equal_lists_share_one_filter_and_its_patterns_are_not_kept() {
        let make = || Filter::shared(&list(&["shared_.*"]), &list(&["x.?"])).unwrap().unwrap();
        let (one, other) = (make(), make());
        assert!(Arc::ptr_eq(&one, &other));
        assert_eq!(one.known("shared_a"), None);
        assert!(one.wants("shared_a"));
        assert_eq!(other.known("shared_a"), Some(true));
        assert!(one.compiled.lock().unwrap().upgrade().is_none());
    }

    #[test]
    fn verdicts_are_remembered_up_to_a_bound() {
        let filter = filter(&["n[0-9]+"], &[]);
        let _held = filter.compiled();
        for i in 0..2 * MAX_VERDICTS {
            assert!(filter.wants(&format!("n{i}")));
        }
        assert_eq!(filter.verdicts.read().unwrap().len(), MAX_VERDICTS);
    }
}
