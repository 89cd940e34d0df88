//! Regular expressions of users: what RE2 (Prometheus, the API server) and Rust's `regex` read in the same way.
//!
//! Rust reads some syntax that RE2 does not, and a little that has another meaning in RE2: a class with `&&` is an intersection in Rust and a
//! list of characters in RE2. Both are refused, because an expression must have one meaning.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use crate::metric::Filter;

/// Letters after a backslash that only one of the two reads.
const ELSEWHERE_ONLY: &str = "uU<>pPQECZGKRX";

/// Letters after a backslash that mean themselves in one of the two inside a class.
const NOT_IN_CLASSES: &str = "bBzA";

/// Why `pattern` cannot be used in `spec.metrics`; `None` if it can.
pub fn regex_problem(pattern: &str) -> Option<String> {
    dialect(pattern).or_else(|| compile(pattern).err().map(|error| error.advice))
}

/// Whether RE2 can read `pattern`, as far as can be known here: the counterpart of the rule in CEL. Syntax that only RE2 has is accepted, and
/// so is a pattern that is only too large for the exporter.
pub(super) fn is_readable(pattern: &str) -> bool {
    !pattern.is_ascii()
        || pattern.contains("\\p")
        || pattern.contains("\\P")
        || pattern.contains("\\Q")
        || compile(pattern).err().is_none_or(|error| error.is_too_large)
        // Patterns for texts may name characters that no name of a metric has.
        || regex_syntax::parse(pattern).is_ok()
}

/// Why `pattern` cannot be read, and where the error is.
pub(super) fn mistake(pattern: &str) -> Option<String> {
    compile(pattern).err().map(|error| error.cause)
}

/// How many results are cached. Targets are often made from one template and share patterns; a compilation takes 65 µs.
const REMEMBERED: usize = 1024;

/// Why a pattern cannot be part of a filter.
#[derive(Clone, Debug)]
struct CompileError {
    is_too_large: bool,
    advice: String,
    cause: String,
}

/// Compiles a pattern as the filter of a target does.
fn compile(pattern: &str) -> Result<(), CompileError> {
    static JUDGED: Mutex<BTreeMap<String, Result<(), CompileError>>> = Mutex::new(BTreeMap::new());
    let judged = || JUDGED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = judged().get(pattern) {
        return known.clone();
    }
    let result = Filter::new(&[pattern.to_owned()], &[]).map(|_| ()).map_err(|error| CompileError {
        is_too_large: error.is_too_large(),
        advice: error.advice(),
        cause: error.cause(),
    });
    let mut judged = judged();
    if judged.len() >= REMEMBERED {
        judged.clear();
    }
    judged.insert(pattern.to_owned(), result.clone());
    result
}

/// Why a pattern for names of metrics would be read differently.
fn dialect(pattern: &str) -> Option<String> {
    if !pattern.is_ascii() {
        return Some("must be ASCII, as names of metrics are".to_owned());
    }
    difference(pattern)
}

/// The first part that the two dialects read differently.
fn difference(pattern: &str) -> Option<String> {
    let differs = |what: &str, rest: &str| {
        let at = pattern.chars().count() - rest.chars().count() + 1;
        Some(format!(
            "{what} is interpreted differently by Prometheus and the exporter (character {at}), write it differently"
        ))
    };
    let mut class = 0_usize; // the depth of brackets
    let mut first = false; // whether a closing bracket would be a character of the class
    let mut rest = pattern;
    while let Some(character) = rest.chars().next() {
        let next = rest.get(character.len_utf8()..).unwrap_or_default();
        let mut step = character.len_utf8();
        match character {
            '\\' => {
                let escaped = next.chars().next().unwrap_or_default();
                if ELSEWHERE_ONLY.contains(escaped) || class > 0 && NOT_IN_CLASSES.contains(escaped) {
                    return differs(&format!("\\{escaped}"), rest);
                }
                if escaped == 'b' && next.starts_with("b{") {
                    return differs("\\b{", rest);
                }
                step += escaped.len_utf8();
                first = false;
            }
            '{' if class == 0 && next.starts_with(',') => return differs("{,", rest),
            '[' if class == 0 => {
                class = 1;
                first = true;
                if next.starts_with('^') {
                    step = 2;
                }
            }
            '[' => {
                // Both read `[:alpha:]`. Any other bracket in a class opens a nested class in Rust and is a character in RE2.
                match next.strip_prefix(':').and_then(|name| name.find(":]")) {
                    Some(length) => step = length + 4,
                    None => return differs("[ inside a class", rest),
                }
                first = false;
            }
            ']' if class > 0 && !first => class = 0,
            '&' | '-' | '~' if class > 0 && next.starts_with(character) => {
                return differs(&format!("{character}{character} inside a class"), rest);
            }
            '(' if class == 0 => {
                if let Some(flags) = next.strip_prefix('?') {
                    // Only Rust has `(?x)` and `(?R)`.
                    let letters: String = flags.chars().take_while(|c| c.is_ascii_alphabetic() || *c == '-').collect();
                    let group = flags.starts_with('<') || flags.starts_with("P<");
                    if !group && letters.contains(['x', 'R', 'u']) {
                        return differs(&format!("(?{letters}"), rest);
                    }
                }
            }
            _ => first = false,
        }
        rest = rest.get(step..).unwrap_or_default();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_both_dialects_read_alike_is_taken() {
        for pattern in [
            "sora_.*",
            "a|b",
            "[a-z_]+",
            "[^a-z]",
            "(?i)Sora",
            "(?:a)(?P<n>b)(?<m>c)",
            r"\d+\w\s",
            "[[:alpha:]_]+",
            r"a{2,5}",
            r"\.",
            "[]a]",
            "[a-]",
            r"[\]\[]",
            "a--b",
            "a&&b",
            r"\bx\b",
            r"x\z",
        ] {
            assert_eq!(regex_problem(pattern), None, "{pattern}");
        }
    }

    #[test]
    fn what_they_read_differently_is_refused_by_name() {
        for (pattern, word) in [
            ("(?=a)", "look-around"),
            ("(?<!a)b", "look-around"),
            (r"(a)\1", "backreferences"),
            ("(?x) a b", "(?x"),
            ("(?iR)a", "(?iR"),
            (r"\u{61}", "\\u"),
            (r"\<a\>", "\\<"),
            (r"\p{Greek}", "\\p"),
            (r"\Qa.b\E", "\\Q"),
            ("[a-z&&[^b]]", "&& inside"),
            ("[a-z--b]", "-- inside"),
            ("[a~~b]", "~~ inside"),
            ("[a[bc]]", "[ inside a class"),
            (r"[\b]", "\\b"),
            (r"a\b{start}", "\\b{"),
            ("日本", "ASCII"),
            ("(", "unclosed group at character 1"),
            ("sora_(a|b", "unclosed group at character 6"),
            ("a[z-a]", "at character 3"),
            ("ab)", "at character 3"),
            ("x*[a&&b]", "(character 5)"),
            ("a{1000}{1000}", "8 KiB"),
            ("[ab]*a[ab]{0,400}c", "8 KiB"),
        ] {
            let problem = regex_problem(pattern).unwrap_or_else(|| panic!("{pattern} was taken"));
            assert!(problem.contains(word), "{pattern}: {problem}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,40}|[\\[\\]\\\\&~(?)^:a-z-]{0,24}") {
            let _ = (regex_problem(&text), is_readable(&text));
        }
    }
}
