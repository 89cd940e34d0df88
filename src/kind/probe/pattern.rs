//! Patterns of users that probes compare answers with: compiled with RE2's meaning, as the blackbox exporter compiles them, and bounded in
//! memory and time, whoever wrote the pattern and whatever the server sends.
//!
//! A text is compared as RE2 reads it: characters and not bytes, where a byte that is not UTF-8 counts as one unknown character. The time is
//! at most the size of the compiled pattern multiplied by the length of the text, and nearly always far less. So both are limited together
//! for short texts, and a comparison with a long one can be interrupted.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use regex::{Captures, Regex, RegexBuilder};
use regex_automata::Input;
use regex_automata::hybrid::dfa::DFA;
use tokio::time::timeout_at;

use super::Probe;
use super::re2::{PatternProblem, rewrite};
use crate::budget::MemoryShare;
use crate::failure::{CallError, Reason};
use crate::metric::Stop;
use crate::rule::FieldError;

crate::descs! {
    FAILED_DUE_TO_REGEX = gauge "probe_failed_due_to_regex" [] "Whether the probe failed because of a regular expression: what the server sent matches one that must not match, ended without a match of one that must, or (HTTP) could not be read or compared to its end. 0 if it failed for another reason.";
}

/// The sizes of compiled patterns that are told apart, in bytes. The largest is the limit. A `.` or `[^,]` takes over a KiB, since it means
/// all characters of Unicode: so `.{0,100}` takes 128 KiB. Other real patterns of 512 characters take less than 64 KiB.
const SIZES: [usize; 4] = [4 << 10, 16 << 10, 64 << 10, 256 << 10];

/// The bytes that the compiled patterns of one list may take: those of records are in memory at once.
const MAX_LIST: usize = 1 << 20;

/// The bytes that the states of one pattern may take in each direction. They are made while it is compared and kept with its [`Matcher`], of
/// which one piece of work has dozens. A pattern that needs more is compared without them.
const MAX_STATES: usize = 64 << 10;

/// Bytes of compiled patterns in memory.
///
/// 10,000 targets are made from templates and have some hundred patterns together, nearly all of the smallest size: they are all kept. If
/// each had its own, three of four would be compiled again for each probe, which takes a tenth of a millisecond for a pattern of that size:
/// with an interval of 15 s, less than a tenth of one core.
const MAX_COMPILED: usize = 10 << 20;

/// Bytes of compiled patterns multiplied by bytes of the text: up to this in one probe, they are compared at once. It is about a
/// millisecond at most.
const INLINE_WORK: u64 = 1 << 26;

/// What compiling a pattern again counts, at least, and for each byte that it takes.
const COMPILE_WORK: u64 = 1 << 24;
const COMPILE_WORK_OF_BYTE: u64 = 1 << 8;

/// The most for one probe, of what cannot be interrupted: some seconds on another thread.
const MAX_WORK: u64 = 1 << 36;

/// The most for one comparison that cannot be interrupted, if the others with the same text can be left out: two seconds at most.
const MAX_UNINTERRUPTED: u64 = 1 << 34;

/// A comparison that can be interrupted asks after so many bytes whether it shall end: a byte takes some microseconds at most.
const ASK_AFTER: usize = 1 << 10;

/// What begins a comparison counts as so many bytes of text.
const START: usize = 16;

/// Longer texts are read on another thread whatever they are compared with: whether they are UTF-8, and copied if not.
const MAX_INLINE_TEXT: usize = 100 << 10;

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
        let common = rewrite(written).map_err(|problem| match problem {
            PatternProblem::Invalid(cause) => {
                format!("is not a regular expression that RE2 accepts, correct it: {cause}")
            }
            PatternProblem::GoOnly(advice) => advice,
        })?;
        let translated: Arc<str> = translate(&common).into();
        match compiled(&translated).map(|compiled| compiled.size) {
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

    /// The same for each item of the list at `path`, with an error for each one that cannot be used, and one if they are too large together.
    pub(in crate::kind) fn list<T: AsRef<str>>(path: &str, written: &[T], errors: &mut Vec<FieldError>) -> Arc<[Self]> {
        let mut patterns = Vec::with_capacity(written.len());
        for (index, text) in written.iter().enumerate() {
            match Self::new(text.as_ref()) {
                Ok(pattern) => patterns.push(pattern),
                Err(message) => errors.push(FieldError::new(&format!("{path}[{index}]"), message)),
            }
        }
        if patterns.iter().map(Self::size).sum::<u64>() > MAX_LIST as u64 {
            let message = format!(
                "takes more than {} KiB when its regular expressions are compiled: write fewer or shorter ones, and .* or + in place of \
                 large counts",
                MAX_LIST >> 10
            );
            errors.push(FieldError::new(path, message));
        }
        patterns.into()
    }

    /// As the user wrote it.
    pub(in crate::kind) fn as_str(&self) -> &str {
        &self.written
    }

    /// Makes it ready for the comparisons of one probe. It is compiled if it is not in the cache, which [`work`] counts.
    pub(in crate::kind) fn matcher(&self) -> Matcher {
        let regex = match &self.form {
            Form::Literal => None,
            // It has been compiled once, so it can be again. The states of a clone are its own.
            Form::Regex { translated, .. } => compiled(translated).ok().map(|compiled| Regex::clone(&compiled.regex)),
        };
        Matcher { written: Arc::clone(&self.written), is_literal: matches!(self.form, Form::Literal), regex }
    }

    /// Whether it matches somewhere in `text`; `None` if it was stopped before that was known.
    ///
    /// A long text is read byte by byte with the states of a lazy automaton, which is slower than [`Matcher`] where that can skip text, and
    /// can be stopped.
    pub(in crate::kind) fn search(&self, text: &str, stop: &Stop) -> Option<bool> {
        if stop.is_set() {
            return None;
        }
        match &self.form {
            Form::Regex { translated, .. } if self.size().saturating_mul(text.len() as u64) > MAX_UNINTERRUPTED => {
                let automaton = automaton(translated)?;
                search(&automaton, text, stop)
            }
            _ => Some(self.matcher().is_match(text)),
        }
    }

    /// What a byte of text costs at most.
    const fn size(&self) -> u64 {
        match &self.form {
            Form::Literal => 64, // a search reads each byte once or twice
            Form::Regex { size, .. } => *size as u64,
        }
    }

    fn is_compiled(&self) -> bool {
        match &self.form {
            Form::Literal => true,
            Form::Regex { translated, .. } => PatternCache::global(|cache| cache.compiled.contains_key(translated)),
        }
    }
}

/// Why a pattern cannot be used, and what to write instead; `None` if it can.
pub fn pattern_problem(written: &str) -> Option<String> {
    Pattern::new(written).err()
}

/// A compiled pattern, for the comparisons of one probe: what it learns about texts makes the next comparison faster.
#[derive(Debug)]
pub(in crate::kind) struct Matcher {
    written: Arc<str>,
    is_literal: bool,
    regex: Option<Regex>,
}

impl Matcher {
    /// Of each of `patterns`.
    pub(in crate::kind) fn list(patterns: &[Pattern]) -> Vec<Self> {
        patterns.iter().map(Pattern::matcher).collect()
    }

    /// Whether it matches somewhere in `text`.
    pub(in crate::kind) fn is_match(&self, text: &str) -> bool {
        match &self.regex {
            Some(regex) => regex.is_match(text),
            None => self.is_literal && text.contains(&*self.written),
        }
    }

    /// Compares it and, where it matches, expands `templates` with what its groups matched: `$name`, `${name}` and `${1}`, as Go does.
    pub(in crate::kind) fn expand<T: AsRef<str>>(&self, text: &str, templates: &[T]) -> Option<Vec<String>> {
        if !self.is_match(text) {
            return None; // most lines do not match, and groups are slower
        }
        let captures = match &self.regex {
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
}

/// What it costs at most to compare `patterns` with so many texts of so many bytes together.
pub(in crate::kind) fn work<'p>(patterns: impl IntoIterator<Item = &'p Pattern>, texts: usize, bytes: usize) -> u64 {
    if texts == 0 {
        return 0;
    }
    let text = texts.saturating_mul(START).saturating_add(bytes) as u64;
    patterns.into_iter().fold(0, |work: u64, pattern| {
        let compiling = if pattern.is_compiled() { 0 } else { COMPILE_WORK.max(pattern.size() * COMPILE_WORK_OF_BYTE) };
        work.saturating_add(pattern.size().saturating_mul(text)).saturating_add(compiling)
    })
}

/// The same for [`Pattern::search`]: what it may cost after it was stopped.
pub(in crate::kind) fn search_work<'p>(patterns: impl IntoIterator<Item = &'p Pattern>, bytes: usize) -> u64 {
    work(patterns, 1, bytes).min(MAX_UNINTERRUPTED)
}

/// What the comparisons of one probe have cost so far, at most.
#[derive(Clone, Copy, Debug, Default)]
pub struct ComparisonWork {
    all: u64,
    /// Of that, on the thread of the poll.
    inline: u64,
}

/// How comparisons are done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Here,
    OtherThread,
}

impl ComparisonWork {
    /// Counts comparisons of so much [`work`] with so many bytes.
    fn count(&mut self, work: u64, bytes: usize) -> Result<Place, CallError> {
        self.all = self.all.saturating_add(work);
        if self.all > MAX_WORK {
            let message = format!(
                "the regular expressions are too large for what the server has sent, the last of it {bytes} bytes: write shorter ones, or \
                 without large counts"
            );
            return Err(CallError::new(Reason::Limit, message));
        }
        let inline = self.inline.saturating_add(work);
        if inline > INLINE_WORK || bytes > MAX_INLINE_TEXT {
            return Ok(Place::OtherThread);
        }
        self.inline = inline;
        Ok(Place::Here)
    }
}

impl Probe<'_> {
    /// Does comparisons of so much [`work`] with `bytes` of text. What takes long is done on another thread, with the memory that the probe
    /// has covered: it stays covered until they have ended, even if the probe ends before. `search` is told when nobody waits for it any more.
    ///
    /// Reasons: `limit` if the patterns and all texts of the probe are too large together, `timeout`; those of [`Compute`](super::Compute).
    pub(in crate::kind) async fn compare<O: Send + 'static>(
        &mut self,
        work: u64,
        bytes: usize,
        search: impl FnOnce(&Stop) -> O + Send + 'static,
    ) -> Result<O, CallError> {
        if self.compared.count(work, bytes)? == Place::Here {
            return Ok(search(&Stop::default()));
        }
        let memory = self.memory.take();
        let running = self.compute.run(Box::new(move |stop| Box::new((search(stop), memory))));
        let result = timeout_at(self.deadline, running).await.map_err(|_| {
            let message = "the comparison with the answer did not end in time: write simpler regular expressions, or limit the answer";
            CallError::new(Reason::Timeout, message)
        })??;
        let lost = |_| CallError::new(Reason::Internal, "a comparison had no result: please report this");
        let (output, memory) = *result.downcast::<(O, MemoryShare)>().map_err(lost)?;
        *self.memory = memory;
        Ok(output)
    }
}

/// The bytes of the copy that [`readable`] makes of a text, if it makes one.
pub(in crate::kind) fn copy_bytes(bytes: &[u8]) -> usize {
    let replaced: usize = bytes.utf8_chunks().map(|chunk| chunk.invalid().len()).sum();
    if replaced == 0 { 0 } else { bytes.len() + replaced * (char::REPLACEMENT_CHARACTER.len_utf8() - 1) }
}

/// The text in which every byte that is not UTF-8 is replaced by U+FFFD, as RE2 and Go read it.
pub(in crate::kind) fn readable(bytes: &[u8]) -> Cow<'_, str> {
    if let Ok(text) = std::str::from_utf8(bytes) {
        return Cow::Borrowed(text);
    }
    let mut text = String::with_capacity(copy_bytes(bytes));
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

/// A pattern of the common syntax in that of the library: `\w`, `\d`, `\s` and `\b` mean ASCII in RE2, and its `\s` has no vertical tab.
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

/// The compiled pattern, from the cache or compiled now.
fn compiled(translated: &Arc<str>) -> Result<CompiledPattern, regex::Error> {
    if let Some(known) = PatternCache::global(|cache| cache.find(translated)) {
        return Ok(known);
    }
    // Without the lock. If others compile the same at this moment, one of them is kept.
    let (regex, size) = compile(translated)?;
    let compiled = CompiledPattern { regex: Arc::new(regex), size };
    PatternCache::global(|cache| cache.keep(translated, compiled.clone()));
    Ok(compiled)
}

/// The automaton of a pattern that [`compile`] has taken, so its size is known. It never gives up: it forgets its states when they take
/// [`MAX_STATES`], or so much as a few of them need.
fn automaton(translated: &str) -> Option<DFA> {
    let config = DFA::config().cache_capacity(MAX_STATES).skip_cache_capacity_check(true);
    DFA::builder().configure(config).build(translated).ok()
}

/// Whether the pattern of `automaton` matches somewhere in `text`; `None` if it was stopped before that was known.
fn search(automaton: &DFA, text: &str, stop: &Stop) -> Option<bool> {
    let mut cache = automaton.create_cache();
    let mut state = automaton.start_state_forward(&mut cache, &Input::new(text)).ok()?;
    for part in text.as_bytes().chunks(ASK_AFTER) {
        if stop.is_set() {
            return None;
        }
        for &byte in part {
            state = automaton.next_state(&mut cache, state, byte).ok()?;
            if state.is_match() || state.is_dead() {
                return Some(state.is_match());
            }
        }
    }
    automaton.next_eoi_state(&mut cache, state).ok().map(|state| state.is_match())
}

/// Compiled patterns, those that were used last. They have no states: those who compare clone them.
#[derive(Default)]
struct PatternCache {
    /// With the number of their last use.
    compiled: HashMap<Arc<str>, (CompiledPattern, u64)>,
    by_use: BTreeMap<u64, Arc<str>>,
    uses: u64,
    bytes: usize,
}

#[derive(Clone)]
struct CompiledPattern {
    regex: Arc<Regex>,
    size: usize,
}

impl CompiledPattern {
    /// What it takes in the cache.
    fn bytes(&self, translated: &str) -> usize {
        self.size + 2 * translated.len() // the library keeps the text as well
    }
}

impl PatternCache {
    /// The lock is held for some microseconds: nothing is compiled meanwhile.
    fn global<T>(with: impl FnOnce(&mut Self) -> T) -> T {
        static CACHE: LazyLock<Mutex<PatternCache>> = LazyLock::new(Mutex::default);
        with(&mut CACHE.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn find(&mut self, translated: &str) -> Option<CompiledPattern> {
        let (compiled, used) = self.compiled.get_mut(translated)?;
        self.uses += 1;
        if let Some(key) = self.by_use.remove(used) {
            self.by_use.insert(self.uses, key);
        }
        *used = self.uses;
        Some(compiled.clone())
    }

    fn keep(&mut self, translated: &Arc<str>, compiled: CompiledPattern) {
        if self.find(translated).is_some() {
            return;
        }
        self.bytes += compiled.bytes(translated);
        while self.bytes > MAX_COMPILED
            && let Some((_, oldest)) = self.by_use.pop_first()
            && let Some((removed, _)) = self.compiled.remove(&oldest)
        {
            self.bytes = self.bytes.saturating_sub(removed.bytes(&oldest));
        }
        self.uses += 1;
        self.by_use.insert(self.uses, Arc::clone(translated));
        self.compiled.insert(Arc::clone(translated), (compiled, self.uses));
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
        Pattern::new(pattern).unwrap().matcher().is_match(&readable(text.as_ref()))
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
            ("{\"status\":\"UP\"}", "{\"status\":\"UP\"}", true),
            ("\"a\":{", "\"a\":{}", true),
            ("x{,5}", "x", false),
            ("x{,5}", "x{,5}", true),
            (r"^a\012b$", "a\nb", true),
            (r"^\07$", "\u{7}", true),
            (r"^\Qa.b{\E+$", "a.b{{", true),
            (r"^\Qa.b", "axb", false),
            ("^[a&&b]+$", "a&b", true),
            ("^日本[[é]$", "日本[", true),
            (r"^\<b\>$", "<b>", true),
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
        assert_eq!(copy_bytes("aé".as_bytes()), 0);
        for text in [&b"\xff\xff"[..], b"a\xe3\x81b", b"\xc3\xa9\xf0\x9f\x98"] {
            let copy = readable(text).into_owned();
            assert_eq!((copy.len(), copy.capacity()), (copy_bytes(text), copy_bytes(text)));
        }
    }

    #[test]
    fn groups_are_expanded_as_go_does() {
        let pattern = Pattern::new(r"SSH-(\d+)\.(\d+)-(?P<software>\S+)").unwrap().matcher();
        let expanded = pattern.expand(
            "SSH-2.0-OpenSSH_9.2 Debian",
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
        assert_eq!(pattern.expand("220 smtp", &["$1"]), None);
        let literal = Pattern::new("PONG").unwrap().matcher();
        assert_eq!(literal.expand("+PONG", &["$0 $1"]).unwrap(), ["PONG "]);
        assert_eq!(literal.expand("+PING", &["x"]), None);
    }

    #[test]
    fn patterns_are_bounded_and_real_ones_are_taken() {
        let words = (0..64).map(|n| format!("(?i)error{n:02}")).collect::<Vec<_>>().join("|");
        let long: String = "日本語".repeat(57);
        let many = [&words[..512], &long, &"[^x]+.*".repeat(20), &r"\d{1,3}\.".repeat(12), &"a".repeat(512)];
        let counted =
            [".{80}", "[^,]{100}", ".{10,100}error", "(?i)<title>.{1,100}</title>", "^.{0,250}$", r"(?s)^.{128}\S{64}"];
        for pattern in many.into_iter().chain(counted) {
            assert!(Pattern::new(pattern).is_ok(), "{pattern}");
        }
        let error = Pattern::new("(.{1000}){1000}").unwrap_err();
        assert!(error.contains("256 KiB"), "{error}");
        let error = Pattern::new("a(b").unwrap_err();
        assert!(error.contains("unclosed group"), "{error}");
    }

    #[test]
    fn compiled_patterns_are_kept_within_their_bytes_and_those_in_use_longest() {
        let mut cache = PatternCache::default();
        let compile = |pattern: &Arc<str>| {
            let (regex, size) = super::compile(pattern).unwrap();
            CompiledPattern { regex: Arc::new(regex), size }
        };
        let patterns: Vec<Arc<str>> = (0..2 * MAX_COMPILED / SIZES[0]).map(|n| format!("^a{n}$").into()).collect();
        let same = compile(&patterns[0]);
        for pattern in &patterns {
            cache.keep(pattern, same.clone());
            cache.keep(pattern, same.clone());
            assert!(cache.find(&patterns[0]).is_some(), "it is in use");
            assert!(cache.bytes <= MAX_COMPILED);
        }
        assert!(cache.find(&patterns[1]).is_none());
        assert!(cache.compiled.len() > MAX_COMPILED / SIZES[0] * 9 / 10, "{}", cache.compiled.len());
        assert_eq!(cache.compiled.len(), cache.by_use.len());
        let bytes: usize = cache.compiled.iter().map(|(pattern, (compiled, _))| compiled.bytes(pattern)).sum();
        assert_eq!(cache.bytes, bytes);
    }

    #[test]
    fn a_pattern_that_is_no_longer_kept_is_compiled_again() {
        let pattern = Pattern::new("^compiled again [0-9]+$").unwrap();
        let Form::Regex { translated, .. } = &pattern.form else { unreachable!() };
        let before = work([&pattern], 1, 1);
        PatternCache::global(|cache| {
            let (_, used) = cache.compiled.remove(translated).unwrap();
            cache.by_use.remove(&used);
        });
        assert_eq!(work([&pattern], 1, 1), before + COMPILE_WORK);
        assert!(pattern.matcher().is_match("compiled again 1"));
        assert_eq!(work([&pattern], 1, 1), before);
    }

    #[test]
    fn what_takes_long_is_done_elsewhere_and_what_takes_too_long_is_refused() {
        let mut errors = Vec::new();
        let patterns = Pattern::list("spec.x", &["a+", "c$", "("], &mut errors);
        assert!(errors.len() == 1 && errors[0].path == "spec.x[2]", "{errors:?}");
        let count = |bytes: usize| ComparisonWork::default().count(work(&*patterns, 1, bytes), bytes);
        assert_eq!(count(1000), Ok(Place::Here));
        assert_eq!(count(100_000), Ok(Place::OtherThread));
        assert_eq!(ComparisonWork::default().count(0, MAX_INLINE_TEXT + 1), Ok(Place::OtherThread));
        let heavy = Pattern::new("[ab]{700}").unwrap();
        let refused = ComparisonWork::default().count(work([&heavy], 1, 16 << 20), 16 << 20).unwrap_err();
        assert!(refused.reason == Reason::Limit && refused.message.contains("16777216 bytes"), "{refused:?}");
        let counted = ComparisonWork::default().count(search_work([&heavy], 16 << 20), 16 << 20);
        assert_eq!(counted, Ok(Place::OtherThread), "it can be stopped");
    }

    #[test]
    fn a_list_is_bounded_as_a_whole() {
        let list = |count: usize| {
            let patterns: Vec<String> = (0..count).map(|n| format!(".{{{}}}x", 150 + n)).collect();
            let mut errors = Vec::new();
            Pattern::list("spec.x", &patterns, &mut errors);
            errors
        };
        assert_eq!(list(4), []);
        let errors = list(5);
        assert!(errors.len() == 1 && errors[0].path == "spec.x", "{errors:?}");
        assert!(errors[0].message.contains("1024 KiB"), "{errors:?}");
    }

    #[test]
    fn a_search_that_can_be_stopped_finds_the_same() {
        let texts =
            ["", "a", "b", "ab", "xab", "abc\n", "aab cab", "é", "日本 ab\nab", "a\u{fffd}b", "aaaaab\n\nb", "error"];
        let patterns = [
            "a*",
            "^a+b$",
            "(?m)^ab$",
            r"\bab\b",
            r"a\B",
            "(?i)AB",
            "b$",
            "^$",
            "(?s)a.b",
            "a.b",
            "[^a]b",
            "日.",
            r"\W",
            r"\A\S+\z",
            "(?:a*b*){20}c",
            ".{3,40}ab",
            "c|",
            "x{2}",
        ];
        for pattern in patterns {
            let pattern = Pattern::new(pattern).unwrap();
            let Form::Regex { translated, .. } = &pattern.form else { panic!("{pattern:?}") };
            let automaton = automaton(translated).unwrap();
            for text in texts {
                let found = search(&automaton, text, &Stop::default());
                assert_eq!(found, Some(pattern.matcher().is_match(text)), "{pattern:?} {text:?}");
            }
        }
    }

    #[test]
    fn a_long_search_ends_when_it_is_stopped() {
        // Every byte leads to a new state: a text of this length would take minutes.
        let slow = Pattern::new("[ab]*a[ab]{600}c").unwrap();
        let mut bits = 0x9E37_79B9_7F4A_7C15_u64;
        let mut letter = || {
            bits ^= bits << 13;
            bits ^= bits >> 7;
            bits ^= bits << 17;
            if bits.is_multiple_of(2) { 'a' } else { 'b' }
        };
        let text: String = (0..8 << 20).map(|_| letter()).collect();
        let stop = Stop::default();
        let found = std::thread::scope(|scope| {
            let search = scope.spawn(|| slow.search(&text, &stop));
            std::thread::sleep(std::time::Duration::from_millis(50));
            stop.set();
            search.join().unwrap()
        });
        assert_eq!(found, None);
        assert_eq!(Pattern::new("a+").unwrap().search(&text, &stop), None);
        assert_eq!(Pattern::new("a+c").unwrap().search(&text, &Stop::default()), Some(false));
    }

    #[test]
    fn the_comparisons_of_one_probe_count_together() {
        let pattern = Pattern::new("a+b").unwrap();
        let line = work([&pattern], 1, 64);
        let mut compared = ComparisonWork::default();
        let places: Vec<_> = std::iter::from_fn(|| compared.count(line, 64).ok()).take(30_000_000).collect();
        let here = places.iter().filter(|place| **place == Place::Here).count();
        assert_eq!(here as u64, INLINE_WORK / line);
        assert!(places[..here].iter().all(|place| *place == Place::Here));
        assert_eq!(places.len() as u64, MAX_WORK / line, "then it is refused");
    }
}
