//! Which metric names a target exports: `spec.metrics.keep` and `spec.metrics.drop`.

use regex::bytes::{Regex, RegexBuilder};

/// A name passes if it matches one of `keep` (or there is none) and none of `drop`. Every pattern is anchored at both ends.
#[derive(Debug)]
pub struct Filter {
    keep: Vec<Regex>,
    drop: Vec<Regex>,
}

impl PartialEq for Filter {
    fn eq(&self, other: &Self) -> bool {
        let same =
            |ours: &[Regex], theirs: &[Regex]| ours.iter().map(Regex::as_str).eq(theirs.iter().map(Regex::as_str));
        same(&self.keep, &other.keep) && same(&self.drop, &other.drop)
    }
}

// With it, an `Arc` of the same filter is equal without a look at its patterns: every poll asks.
impl Eq for Filter {}

/// A pattern that cannot be understood.
#[derive(Debug, thiserror::Error)]
#[error("{pattern:?} is not a regular expression")]
pub struct FilterError {
    /// The pattern as the user wrote it.
    pub pattern: String,
    #[source]
    source: regex::Error,
}

impl Filter {
    /// Compiles both lists; `None` if both are empty and there is nothing to ask.
    pub fn new(keep: &[String], drop: &[String]) -> Result<Option<Self>, FilterError> {
        if keep.is_empty() && drop.is_empty() {
            return Ok(None);
        }
        Ok(Some(Self { keep: compile(keep)?, drop: compile(drop)? }))
    }

    /// Whether the family called `name` is exported.
    pub fn wants(&self, name: &str) -> bool {
        (self.keep.is_empty() || self.keep.iter().any(|regex| regex.is_match(name.as_bytes())))
            && !self.drop.iter().any(|regex| regex.is_match(name.as_bytes()))
    }
}

fn compile(patterns: &[String]) -> Result<Vec<Regex>, FilterError> {
    let build = |pattern: &str| {
        RegexBuilder::new(pattern)
            .unicode(false) // names are ASCII, and RE2's \d and (?i) mean the same only so
            .size_limit(1 << 18) // 256 KiB: 64 patterns a target must stay small
            .build()
    };
    patterns
        .iter()
        .map(|pattern| {
            // Alone first: `a)|(b` would become a pattern by its anchors, and they would not hold it.
            build(pattern)
                .and_then(|_| build(&format!("^(?:{pattern})$")))
                .map_err(|source| FilterError { pattern: pattern.clone(), source })
        })
        .collect()
}
