//! Patterns of users that probes compare answers with: compiled with RE2's meaning, as the blackbox exporter compiles them, and bounded in
//! memory and time, whoever wrote the pattern and whatever the server sends.
//!
//! A text is compared as RE2 reads it: characters and not bytes, where a byte that is not UTF-8 counts as one unknown character. The time is
//! at most the size of the compiled pattern multiplied by the length of the text, so both are limited together.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use bytes::Bytes;
use regex::{Captures, Regex, RegexBuilder};

use super::Compute;
use crate::failure::{CallError, Reason};
use crate::rule::FieldError;

/// The sizes of compiled patterns that are told apart, in bytes. The largest is the limit: real patterns of 512 characters take less.
const SIZES: [usize; 3] = [4 << 10, 16 << 10, 64 << 10];

/// The bytes that the states of one pattern may take, which are made while it is compared.
const MAX_STATES: usize = 256 << 10;

/// Compiled patterns in memory. Targets are often made from templates and share patterns; those of others are compiled again when they are
/// used.
const MAX_COMPILED: usize = 128;

/// Bytes of compiled patterns multiplied by bytes of the text: up to this, they are compared at once. It is about a millisecond at most.
const INLINE_WORK: u64 = 1 << 26;

/// The same for one probe, on another thread: some seconds at most.
const MAX_WORK: u64 = 1 << 36;

/// A pattern, not anchored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::kind) struct Pattern {
    /// As the user wrote it.
    written: Arc<str>,
    form: Form,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Form {
    /// Without any operator: it is searched for.
    Literal,
    /// In the syntax of the library, and about how many bytes it takes when it is compiled.
    Regex { translated: Arc<str>, size: usize },
}

impl Pattern {
    /// Reads a pattern. The error is a sentence that says what to write instead.
    pub(in crate::kind) fn new(written: &str) -> Result<Self, String> {
        if is_literal(written) {
            return Ok(Self { written: written.into(), form: Form::Literal });
        }
        let translated: Arc<str> = translate(written).into();
        let size = PatternCache::global(|cache| cache.compiled(&translated).map(|compiled| compiled.size));
        match size {
            Ok(size) => Ok(Self { written: written.into(), form: Form::Regex { translated, size } }),
            Err(regex::Error::CompiledTooBig(most)) => Err(format!(
                "takes more than {} KiB when it is compiled: write several shorter patterns, and .* or + in place of large counts",
                most >> 10
            )),
            Err(error) => {
                // The last line says what is wrong; those before show the position in the translated pattern.
                let text = error.to_string();
                let cause = text.lines().last().unwrap_or_default().trim_start_matches("error: ");
                Err(format!("is not a regular expression: {cause}, correct it"))
            }
        }
    }

    /// The same for each item of the list at `path`, with an error for each one that cannot be used.
    pub(in crate::kind) fn list<T: AsRef<str>>(path: &str, written: &[T], errors: &mut Vec<FieldError>) -> Arc<[Self]> {
        let mut patterns = Vec::with_capacity(written.len());
        for (index, text) in written.iter().enumerate() {
            match Self::new(text.as_ref()) {
                Ok(pattern) => patterns.push(pattern),
                Err(message) => errors.push(FieldError::new(&format!("{path}[{index}]"), message)),
            }
        }
        patterns.into()
    }

    /// As the user wrote it.
    pub(in crate::kind) fn as_str(&self) -> &str {
        &self.written
    }

    /// Whether it matches somewhere in `text`.
    pub(in crate::kind) fn is_match(&self, text: &Subject) -> bool {
        self.is_match_str(text.as_str())
    }

    /// The same in a text that is short.
    pub(in crate::kind) fn is_match_str(&self, text: &str) -> bool {
        match &self.form {
            Form::Literal => text.contains(&*self.written),
            Form::Regex { translated, .. } => compiled(translated).is_some_and(|regex| regex.is_match(text)),
        }
    }

    /// Compares it and, where it matches, expands `templates` with what its groups matched: `$name`, `${name}` and `${1}`, as Go does.
    pub(in crate::kind) fn expand<T: AsRef<str>>(&self, text: &Subject, templates: &[T]) -> Option<Vec<String>> {
        let text = text.as_str();
        let groups = match &self.form {
            Form::Literal if !text.contains(&*self.written) => return None,
            Form::Literal => None,
            Form::Regex { translated, .. } => Some(compiled(translated)?),
        };
        let captures = match &groups {
            Some(regex) => Some(regex.captures(text)?),
            None => None,
        };
        let group = |name: &str| match &captures {
            Some(captures) => group(captures, name),
            None => {
                if name == "0" {
                    &self.written
                } else {
                    ""
                }
            }
        };
        Some(templates.iter().map(|template| expand(template.as_ref(), group)).collect())
    }

    /// What a comparison with a text of `length` bytes costs at most.
    fn work(&self, length: usize) -> u64 {
        let size = match &self.form {
            Form::Literal => 64, // a search reads each byte once or twice
            Form::Regex { size, .. } => *size,
        };
        (size as u64).saturating_mul(length as u64)
    }
}

/// Finds the first of `patterns` that matches `text`, or that does not where `matching` is false. What takes long is done on another thread.
///
/// Reasons: `limit` if the patterns and the text are too large together; those of [`Compute`].
pub(in crate::kind) async fn find(
    patterns: &Arc<[Pattern]>,
    matching: bool,
    text: &Subject,
    compute: &dyn Compute,
) -> Result<Option<usize>, CallError> {
    let search = move |patterns: &[Pattern], text: &Subject| {
        patterns.iter().position(|pattern| pattern.is_match(text) == matching)
    };
    run(patterns.iter().map(|pattern| pattern.work(text.len())), compute, patterns, text, search).await
}

/// The same as [`Pattern::expand`]. What takes long is done on another thread.
pub(in crate::kind) async fn expand_on<T: AsRef<str> + Send + Sync + 'static>(
    pattern: &Pattern,
    text: &Subject,
    templates: &Arc<[T]>,
    compute: &dyn Compute,
) -> Result<Option<Vec<String>>, CallError> {
    let input = Arc::new((pattern.clone(), Arc::clone(templates)));
    let search = |input: &(Pattern, Arc<[T]>), text: &Subject| input.0.expand(text, &input.1);
    run(std::iter::once(pattern.work(text.len())), compute, &input, text, search).await
}

async fn run<I: Send + Sync + ?Sized + 'static, O: Send + 'static>(
    work: impl Iterator<Item = u64>,
    compute: &dyn Compute,
    input: &Arc<I>,
    text: &Subject,
    search: impl FnOnce(&I, &Subject) -> O + Send + 'static,
) -> Result<O, CallError> {
    let work = work.fold(0_u64, u64::saturating_add);
    if work <= INLINE_WORK {
        return Ok(search(input, text));
    }
    if work > MAX_WORK {
        let message = format!(
            "the regular expressions are too large for {} bytes of text: write shorter ones, or without large counts",
            text.len()
        );
        return Err(CallError::new(Reason::Limit, message));
    }
    let (input, text) = (Arc::clone(input), text.clone());
    let result = compute.run(Box::new(move || Box::new(search(&input, &text)))).await?;
    let lost = || CallError::new(Reason::Internal, "a comparison had no result: please report this");
    result.downcast::<O>().map(|result| *result).map_err(|_| lost())
}

/// A text from a server that patterns are compared with. It is cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::kind) struct Subject(SubjectText);

#[derive(Clone, Debug, PartialEq, Eq)]
enum SubjectText {
    /// UTF-8 as it came.
    Valid(Bytes),
    /// A copy in which every byte that is not UTF-8 is replaced by one character.
    Replaced(Arc<str>),
}

impl Subject {
    /// The memory that [`new`](Self::new) may need besides that of `bytes`.
    pub(in crate::kind) fn copy_bytes(bytes: &[u8]) -> usize {
        let replaced: usize = bytes.utf8_chunks().map(|chunk| chunk.invalid().len()).sum();
        if replaced == 0 { 0 } else { 4 * (bytes.len() + 2 * replaced) } // while it is made, a buffer of up to twice its size and a copy
    }

    /// A text of these bytes.
    pub(in crate::kind) fn new(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self(match readable(&bytes) {
            Cow::Borrowed(_) => SubjectText::Valid(bytes),
            Cow::Owned(text) => SubjectText::Replaced(text.into()),
        })
    }

    fn as_str(&self) -> &str {
        match &self.0 {
            SubjectText::Valid(bytes) => std::str::from_utf8(bytes).unwrap_or_default(),
            SubjectText::Replaced(text) => text,
        }
    }

    fn len(&self) -> usize {
        match &self.0 {
            SubjectText::Valid(bytes) => bytes.len(),
            SubjectText::Replaced(text) => text.len(),
        }
    }
}

/// The text in which every byte that is not UTF-8 is replaced by U+FFFD, as RE2 and Go read it.
pub(in crate::kind) fn readable(bytes: &[u8]) -> Cow<'_, str> {
    if let Ok(text) = std::str::from_utf8(bytes) {
        return Cow::Borrowed(text);
    }
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|_| char::REPLACEMENT_CHARACTER));
    }
    Cow::Owned(text)
}

/// What a group matched, by its number or name; nothing if there is none.
fn group<'t>(captures: &Captures<'t>, name: &str) -> &'t str {
    let by_number = name.parse::<usize>().ok().filter(|_| name == "0" || !name.starts_with('0'));
    let found = match by_number {
        Some(number) => captures.get(number),
        None => captures.name(name),
    };
    found.map_or("", |found| found.as_str())
}

/// Replaces `$name`, `${name}` and `$$`. What is none of them stays.
fn expand<'g>(template: &str, group: impl Fn(&str) -> &'g str) -> String {
    let is_word = |c: char| c == '_' || c.is_alphanumeric();
    let mut out = String::with_capacity(template.len());
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        if let Some(after) = after.strip_prefix('$') {
            out.push('$');
            rest = after;
            continue;
        }
        let braced = after.strip_prefix('{').and_then(|inner| inner.split_once('}'));
        let (name, after) = match braced {
            Some((name, after)) => (name, after),
            None => after.split_at(after.find(|c| !is_word(c)).unwrap_or(after.len())),
        };
        if name.is_empty() || !name.chars().all(is_word) {
            out.push('$');
            rest = rest.split_once('$').map_or("", |(_, after)| after);
        } else {
            out.push_str(group(name));
            rest = after;
        }
    }
    out.push_str(rest);
    out
}

/// Whether the pattern has no operator.
fn is_literal(pattern: &str) -> bool {
    !pattern.contains(['\\', '.', '+', '*', '?', '(', ')', '|', '[', ']', '{', '}', '^', '$'])
}

/// The pattern in the syntax of the library: `\w`, `\d`, `\s` and `\b` mean ASCII in RE2, and its `\s` has no vertical tab.
fn translate(pattern: &str) -> String {
    let mut out = String::with_capacity(pattern.len() + 32);
    let mut in_class = false;
    let mut characters = pattern.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\\' => {
                let Some(escaped) = characters.next() else {
                    out.push('\\');
                    break;
                };
                match (escaped, in_class) {
                    ('d', true) => out.push_str("0-9"),
                    ('w', true) => out.push_str("0-9A-Za-z_"),
                    ('s', true) => out.push_str("\\t\\n\\f\\r\\x20"),
                    ('d', false) => out.push_str("[0-9]"),
                    ('w', false) => out.push_str("[0-9A-Za-z_]"),
                    ('s', false) => out.push_str("[\\t\\n\\f\\r\\x20]"),
                    ('D', _) => out.push_str("[^0-9]"),
                    ('W', _) => out.push_str("[^0-9A-Za-z_]"),
                    ('S', _) => out.push_str("[^\\t\\n\\f\\r\\x20]"),
                    ('b', false) => out.push_str("(?-u:\\b)"),
                    ('B', false) => out.push_str("(?-u:\\B)"),
                    _ => out.extend(['\\', escaped]),
                }
            }
            '[' if !in_class => {
                in_class = true;
                out.push('[');
                if characters.next_if_eq(&'^').is_some() {
                    out.push('^');
                }
                // A bracket at the beginning is a character of the class.
                if characters.next_if_eq(&']').is_some() {
                    out.push_str("\\]");
                }
            }
            '[' if characters.peek() == Some(&':') => {
                // `[:alpha:]`: its bracket does not close the class.
                out.push('[');
                for inner in characters.by_ref() {
                    out.push(inner);
                    if inner == ']' {
                        break;
                    }
                }
            }
            ']' if in_class => {
                in_class = false;
                out.push(']');
            }
            other => out.push(other),
        }
    }
    out
}

/// The compiled pattern. It has been compiled once, so it can be again.
fn compiled(translated: &Arc<str>) -> Option<Regex> {
    PatternCache::global(|cache| cache.compiled(translated).ok().map(|compiled| compiled.regex))
}

/// Compiled patterns, those that were used last.
#[derive(Default)]
struct PatternCache {
    compiled: HashMap<Arc<str>, CompiledPattern>,
    uses: u64,
}

#[derive(Clone)]
struct CompiledPattern {
    regex: Regex,
    size: usize,
    used: u64,
}

impl PatternCache {
    /// Patterns are compiled under the lock, which takes less than a millisecond each.
    fn global<T>(with: impl FnOnce(&mut Self) -> T) -> T {
        static CACHE: LazyLock<Mutex<PatternCache>> = LazyLock::new(Mutex::default);
        with(&mut CACHE.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn compiled(&mut self, translated: &Arc<str>) -> Result<CompiledPattern, regex::Error> {
        self.uses += 1;
        if let Some(known) = self.compiled.get_mut(translated) {
            known.used = self.uses;
            return Ok(known.clone());
        }
        let (regex, size) = compile(translated)?;
        if self.compiled.len() >= MAX_COMPILED {
            let oldest = self.compiled.iter().min_by_key(|(_, compiled)| compiled.used).map(|(key, _)| Arc::clone(key));
            oldest.and_then(|key| self.compiled.remove(&key));
        }
        let compiled = CompiledPattern { regex, size, used: self.uses };
        self.compiled.insert(Arc::clone(translated), compiled.clone());
        Ok(compiled)
    }
}

/// Compiles a translated pattern, and says which of [`SIZES`] it fits into.
fn compile(translated: &str) -> Result<(Regex, usize), regex::Error> {
    let mut result = Err(regex::Error::CompiledTooBig(0));
    for size in SIZES {
        result = RegexBuilder::new(translated)
            .size_limit(size)
            .dfa_size_limit(MAX_STATES)
            .build()
            .map(|regex| (regex, size));
        if !matches!(result, Err(regex::Error::CompiledTooBig(_))) {
            break;
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, text: impl AsRef<[u8]>) -> bool {
        Pattern::new(pattern).unwrap().is_match(&Subject::new(text.as_ref().to_vec()))
    }

    #[test]
    fn a_pattern_means_what_it_means_in_re2() {
        for (pattern, text, is_match) in [
            ("b", "abc", true),
            ("^b", "abc", false),
            ("a.c", "a\nc", false),
            ("(?s)a.c", "a\nc", true),
            ("c$", "abc\n", false),
            ("(?m)c$", "abc\n", true),
            (r"\w", "é", false),
            (r"^\W$", "é", true),
            (r"\d", "٣", false),
            (r"\s", "\u{a0}", false),
            (r"\s", "\u{b}", false),
            (r"[\s]", "\u{b}", false),
            (r"^[^\S]$", " ", true),
            (r"[\W]", "a", false),
            (r"^[\D]$", "é", true),
            (r"^[^\d\s]+$", "aé", true),
            (r"x\b", "xé", true),
            (r"x\B", "xé", false),
            (r"\bé", "xé", true),
            ("^.$", "é", true),
            ("^..$", "é", false),
            ("日本", "こんにちは日本", true),
            ("[ぁ-ん]+", "に", true),
            ("(?i)É", "é", true),
            ("[]a]", "]", true),
            ("[^]a]", "]", false),
            ("[[:alpha:]_]+x", "é_x", true),
            ("^[[:^alpha:]]$", "é", true),
            (r"\x{e9}", "é", true),
            (r"\.", ".", true),
            ("a|", "x", true),
        ] {
            assert_eq!(matches(pattern, text), is_match, "{pattern:?} {text:?}");
        }
    }

    #[test]
    fn a_byte_that_is_not_utf_8_is_one_character() {
        assert!(matches("^a.b$", b"a\xe9b"));
        assert!(matches("^a..b$", b"a\xe3\x81b") && !matches("^a.b$", b"a\xe3\x81b"));
        assert!(matches("<title>.*</title>", b"<title>\x93\xfa\x96{</title>"));
        assert!(matches("b", b"\xff\xfeb") && !matches("c", b"\xff\xfeb"));
        assert_eq!(Subject::copy_bytes(b"abc"), 0);
        let text = b"\xff\xff";
        assert!(Subject::copy_bytes(text) >= Subject::new(text.to_vec()).len());
    }

    #[test]
    fn groups_are_expanded_as_go_does() {
        let pattern = Pattern::new(r"SSH-(\d+)\.(\d+)-(?P<software>\S+)").unwrap();
        let text = Subject::new("SSH-2.0-OpenSSH_9.2 Debian");
        let expanded = pattern.expand(
            &text,
            &[
                "${1}.${2}",
                "$software!",
                "$1x",
                "${1}x",
                "$$1",
                "$",
                "a${",
                "${a-b}",
                "$-",
                "${9}",
                "$01",
                "$0",
                "é$1é",
            ],
        );
        let expected =
            ["2.0", "OpenSSH_9.2!", "", "2x", "$1", "$", "a${", "${a-b}", "$-", "", "", "SSH-2.0-OpenSSH_9.2", "é"];
        assert_eq!(expanded.unwrap(), expected);
        assert_eq!(pattern.expand(&Subject::new("220 smtp"), &["$1"]), None);
        let literal = Pattern::new("PONG").unwrap();
        assert_eq!(literal.expand(&Subject::new("+PONG"), &["$0 $1"]).unwrap(), ["PONG "]);
        assert_eq!(literal.expand(&Subject::new("+PING"), &["x"]), None);
    }

    #[test]
    fn patterns_are_bounded_and_real_ones_are_taken() {
        let words = (0..64).map(|n| format!("(?i)error{n:02}")).collect::<Vec<_>>().join("|");
        let long: String = "日本語".repeat(57);
        for pattern in [&words[..512], &long, &"[^x]+.*".repeat(20), &r"\d{1,3}\.".repeat(12), &"a".repeat(512)] {
            assert!(Pattern::new(pattern).is_ok(), "{pattern}");
        }
        let error = Pattern::new("(.{1000}){1000}").unwrap_err();
        assert!(error.contains("64 KiB"), "{error}");
        let error = Pattern::new("a(b").unwrap_err();
        assert!(error.contains("unclosed group"), "{error}");
    }

    #[test]
    fn no_more_than_a_few_compiled_patterns_are_kept_and_all_still_match() {
        let mut cache = PatternCache::default();
        let patterns: Vec<Arc<str>> = (0..3 * MAX_COMPILED).map(|n| format!("^a{n}$").into()).collect();
        for pattern in &patterns {
            cache.compiled(pattern).unwrap();
            cache.compiled(&patterns[0]).unwrap();
        }
        assert_eq!(cache.compiled.len(), MAX_COMPILED);
        assert!(cache.compiled.contains_key(&patterns[0]), "it is in use");
        assert!(cache.compiled(&patterns[1]).unwrap().regex.is_match("a1"));
    }

    /// Counts what is not done at once.
    #[derive(Debug, Default)]
    struct Threads(std::sync::atomic::AtomicUsize);

    impl Compute for Threads {
        fn run(
            &self,
            work: super::super::HeavyWork,
        ) -> futures::future::BoxFuture<'_, Result<Box<dyn std::any::Any + Send>, CallError>> {
            self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            Box::pin(std::future::ready(Ok(work())))
        }
    }

    #[tokio::test]
    async fn what_takes_long_is_done_elsewhere_and_what_takes_too_long_is_refused() {
        let threads = Threads::default();
        let count = || threads.0.load(std::sync::atomic::Ordering::Relaxed);
        let mut errors = Vec::new();
        let patterns = Pattern::list("spec.x", &["a+", "c$", "("], &mut errors);
        assert!(errors.len() == 1 && errors[0].path == "spec.x[2]", "{errors:?}");
        let small = Subject::new("aabb");
        assert_eq!(find(&patterns, true, &small, &threads).await, Ok(Some(0)));
        assert_eq!(find(&patterns, false, &small, &threads).await, Ok(Some(1)));
        assert_eq!(count(), 0);
        let large = Subject::new("b".repeat(1 << 20) + "c");
        assert_eq!(find(&patterns, true, &large, &threads).await, Ok(Some(1)));
        assert_eq!(count(), 1);
        let heavy: Arc<[Pattern]> = Arc::from([Pattern::new("[ab]{700}").unwrap()]);
        let huge = Subject::new("b".repeat(16 << 20));
        let refused = find(&heavy, true, &huge, &threads).await.unwrap_err();
        assert!(refused.reason == Reason::Limit && refused.message.contains("16777216 bytes"), "{refused:?}");
        let templates: Arc<[String]> = Arc::from(["$0".to_owned()]);
        let expanded = expand_on(&patterns[1], &large, &templates, &threads).await;
        assert_eq!((expanded, count()), (Ok(Some(vec!["c".to_owned()])), 2));
    }
}
