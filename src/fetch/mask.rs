//! Masks the secrets that we sent in texts that a server can influence: error messages, beginnings of bodies, series. Pure.
//!
//! It is a second defence besides the rule that no error message quotes a server, for servers that repeat what they received. A malicious
//! server knows the credential, and can always disclose it in a spelling that is not searched for.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::HeaderMap;

/// Replaces a secret; the same word as in the effective configuration.
const MASK: &str = "<masked>";

/// Shorter secrets cannot be distinguished from ordinary text, and protect nothing.
const MIN_SECRET: usize = 4;

/// Words of a header, and other spellings of a secret, are searched for from this length on.
const MIN_PART: usize = 8;

/// The value of any header is searched for in series from this length on: shorter ones may be names that belong in both, such as that of a
/// tenant.
const MIN_NAME: usize = 16;

/// The number of words that are searched for, over all headers: bounded because a tenant may write any header.
const MAX_WORDS: usize = 32;

/// Bytes of a secret that are searched for: no message is longer.
const MAX_SECRET: usize = 1024;

/// Bytes of a secret that are searched for in other spellings.
const MAX_SPELLED: usize = 256;

/// A search for more texts than this takes milliseconds in a large exposition.
const MAX_FAST: usize = 16;

/// The most characters of a message, and of the beginning of a body.
const MAX_SHOWN: usize = 1024;

/// Bytes of a body that are read for its beginning.
const MAX_READ: usize = 16 * 1024;

/// Finds the secrets of one target's headers.
pub struct Redactor {
    /// Letters and digits of every spelling, in lower case.
    folded: Vec<Vec<u8>>,
    /// Secrets that have too few of them.
    literal: Vec<String>,
    /// What no series may contain, as it was sent.
    verbatim: Vec<String>,
}

impl fmt::Debug for Redactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redactor").finish_non_exhaustive()
    }
}

impl Redactor {
    /// For what is sent with every call.
    pub fn new(headers: &HeaderMap) -> Self {
        Self::of(headers, std::iter::empty())
    }

    /// For what is sent with every call, and for other secrets that are sent.
    pub fn of<'s>(headers: &HeaderMap, secrets: impl Iterator<Item = &'s [u8]>) -> Self {
        let (mut texts, mut parts, mut verbatim) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        let headers = headers.iter().map(|(name, value)| (value.as_bytes(), name.as_str().contains("auth")));
        for (value, is_credential) in headers.chain(secrets.map(|secret| (secret, true))) {
            let whole = String::from_utf8_lossy(value).into_owned();
            let mut secrets = vec![whole.clone()];
            if let Some((_, credentials)) = whole.split_once(' ').filter(|_| is_credential) {
                let credentials = credentials.trim();
                if let Some(pair) = STANDARD.decode(credentials).ok().and_then(|pair| String::from_utf8(pair).ok())
                    && let Some((_, password)) = pair.split_once(':')
                {
                    secrets.extend([password.to_owned(), pair.clone()]);
                }
                secrets.push(credentials.to_owned());
            }
            // A header may hold several cookies, and some schemes name what they send: `Token token="…"`.
            let words = whole.split(|c: char| c.is_whitespace() || matches!(c, ';' | ',' | '=' | '"'));
            let words = words.filter(|word| word.len() >= MIN_PART).take(MAX_WORDS.saturating_sub(parts.len()));
            let words: Vec<String> = words.map(|word| beginning(word, MAX_SECRET).to_owned()).collect();
            for secret in &mut secrets {
                secret.truncate(beginning(secret, MAX_SECRET).len());
            }
            let shortest = if is_credential { MIN_PART } else { MIN_NAME };
            verbatim.extend(secrets.iter().chain(&words).filter(|text| text.len() >= shortest).cloned());
            texts.extend(secrets);
            parts.extend(words);
        }
        texts.retain(|text| text.len() >= MIN_SECRET);
        let (folded, literal): (Vec<_>, Vec<_>) = texts.iter().partition(|text| fold(text).len() >= MIN_SECRET);
        let spellings = folded.iter().flat_map(|text| spellings(beginning(text, MAX_SPELLED).as_bytes()));
        let folded: BTreeSet<Vec<u8>> = folded
            .iter()
            .map(|text| fold(text))
            .chain(parts.iter().map(|text| fold(text)).chain(spellings).filter(|form| form.len() >= MIN_PART))
            .collect();
        Self {
            folded: folded.into_iter().collect(),
            literal: literal.into_iter().cloned().collect(),
            verbatim: shortest(&verbatim.into_iter().flat_map(|text| [escaped(&text), text]).collect()),
        }
    }

    /// The same, which also masks these texts in sentences, each as a whole. They may be as harmless as the name of a command, so that series
    /// may have them, and short ones are not searched for.
    #[must_use]
    pub fn hiding(mut self, texts: &[String]) -> Self {
        let forms = texts.iter().map(|text| fold(beginning(text, MAX_SECRET))).filter(|form| form.len() >= MIN_PART);
        self.folded.extend(forms);
        self
    }

    /// `text` as it may be shown: on one line, without invisible characters, bounded, and without a secret. A text that ends with `[…]`
    /// was cut already.
    pub fn sentence(&self, text: &str) -> String {
        self.shown(text, text.ends_with("[…]"))
    }

    /// The beginning of a body, likewise.
    pub fn beginning(&self, body: &[u8]) -> String {
        self.beginning_of(body, false)
    }

    /// The same of a body that may have been cut already.
    pub fn beginning_of(&self, body: &[u8], is_cut: bool) -> String {
        let start = body.get(..MAX_READ).unwrap_or(body);
        self.shown(&String::from_utf8_lossy(start), is_cut || start.len() < body.len())
    }

    /// Whether a search in a large text takes so long that it should be done on a blocking thread.
    pub const fn is_slow(&self) -> bool {
        self.verbatim.len() > MAX_FAST
    }

    /// Whether `text` contains a secret as it was sent.
    pub fn is_in(&self, text: &str) -> bool {
        self.verbatim.iter().any(|secret| text.contains(secret.as_str()))
    }

    fn shown(&self, text: &str, is_cut: bool) -> String {
        let mut text = on_one_line(text);
        let end = text.char_indices().nth(MAX_SHOWN).map(|(at, _)| at);
        text.truncate(end.unwrap_or(text.len()));
        self.masked(&text, is_cut || end.is_some())
    }

    /// At the end of a text that was cut, the beginning of a secret is masked as well.
    fn masked(&self, text: &str, is_cut: bool) -> String {
        if self.folded.is_empty() && self.literal.is_empty() {
            return text.to_owned();
        }
        let mut found: Vec<Range<usize>> = Vec::new();
        for secret in &self.literal {
            found.extend(text.match_indices(secret.as_str()).map(|(at, part)| at..at + part.len()));
        }
        for glyphs in [plain_glyphs(text), decoded_glyphs(text)] {
            let letters: Vec<u8> = glyphs.iter().map(|glyph| glyph.letter).collect();
            let mut take = |from: usize, to: usize| {
                if let (Some(first), Some(last)) = (glyphs.get(from), glyphs.get(to - 1)) {
                    found.push(first.at.start..last.at.end);
                }
            };
            for form in &self.folded {
                for (from, window) in letters.windows(form.len()).enumerate() {
                    // The first bytes alone are compared much faster, and rarely equal.
                    if window.first() == form.first() && window == form.as_slice() {
                        take(from, from + form.len());
                    }
                }
                let partial = (1..form.len().min(letters.len() + 1)).rev();
                if let Some(length) = partial.filter(|_| is_cut).find(|length| letters.ends_with(&form[..*length])) {
                    take(letters.len() - length, letters.len());
                }
            }
        }
        found.sort_by_key(|range| range.start);
        let (mut out, mut end) = (String::with_capacity(text.len()), 0);
        for range in found {
            if range.start > end || (range.start == 0 && end == 0) {
                out.push_str(text.get(end..range.start).unwrap_or_default());
                out.push_str(MASK);
            }
            end = end.max(range.end);
        }
        out.push_str(text.get(end..).unwrap_or_default());
        out
    }
}

/// A letter or digit, in lower case, and its position.
struct Glyph {
    letter: u8,
    at: Range<usize>,
}

fn fold(text: &str) -> Vec<u8> {
    text.bytes().filter(u8::is_ascii_alphanumeric).map(|byte| byte.to_ascii_lowercase()).collect()
}

fn plain_glyphs(text: &str) -> Vec<Glyph> {
    let letters = text.bytes().enumerate().filter(|(_, byte)| byte.is_ascii_alphanumeric());
    letters.map(|(at, byte)| Glyph { letter: byte.to_ascii_lowercase(), at: at..at + 1 }).collect()
}

/// The same with the escapes of URLs, JSON and HTML read.
fn decoded_glyphs(text: &str) -> Vec<Glyph> {
    let (mut glyphs, mut at) = (Vec::with_capacity(text.len()), 0);
    while let Some(&first) = text.as_bytes().get(at) {
        let rest = text.get(at..).unwrap_or_default();
        let (letter, length) = escape(rest).unwrap_or((Some(first), 1));
        if let Some(letter) = letter.filter(u8::is_ascii_alphanumeric) {
            glyphs.push(Glyph { letter: letter.to_ascii_lowercase(), at: at..at + length });
        }
        at += length;
    }
    glyphs
}

/// The ASCII character of the escape at the start of `text`, and the length of the escape.
fn escape(text: &str) -> Option<(Option<u8>, usize)> {
    let number = |digits: &str, radix| u32::from_str_radix(digits, radix).ok();
    let ascii = |code: u32| u8::try_from(code).ok().filter(u8::is_ascii);
    let hex = |from: usize, to: usize| number(text.get(from..to)?, 16).map(|code| (ascii(code), to));
    if text.starts_with('%') {
        return hex(1, 3);
    }
    if text.starts_with("\\x") {
        return hex(2, 4);
    }
    if text.starts_with("\\u{") {
        let end = text.find('}').filter(|end| *end <= 12)?;
        return number(text.get(3..end)?, 16).map(|code| (ascii(code), end + 1));
    }
    if text.starts_with("\\u") {
        return hex(2, 6);
    }
    if let Some(escaped) = text.strip_prefix('\\') {
        return Some((None, 1 + escaped.chars().next().map_or(0, char::len_utf8)));
    }
    let end = text.strip_prefix('&')?.find(';').filter(|end| *end <= 10)? + 1;
    let inside = text.get(1..end)?;
    let code = match inside.strip_prefix('#') {
        Some(code) => match code.strip_prefix(['x', 'X']) {
            Some(code) => number(code, 16)?,
            None => number(code, 10)?,
        },
        None if inside.bytes().all(|byte| byte.is_ascii_alphanumeric()) => 0,
        None => return None,
    };
    Some((ascii(code), end + 1))
}

/// Other spellings that servers log and repeat: hexadecimal, and base64 wherever it begins inside of a longer text.
fn spellings(secret: &[u8]) -> impl Iterator<Item = Vec<u8>> + use<> {
    let digits =
        secret.iter().flat_map(|byte| [byte >> 4, byte & 0xf]).filter_map(|digit| char::from_digit(digit.into(), 16));
    let mut forms = vec![digits.collect::<String>().into_bytes()];
    for before in 0..3 {
        let padded = [&vec![0; before], secret].concat();
        let text = STANDARD.encode(&padded);
        // The characters that depend on the secret alone.
        let whole = (before * 8).div_ceil(6)..padded.len() * 8 / 6;
        forms.push(fold(text.get(whole).unwrap_or_default()));
    }
    forms.into_iter()
}

/// Removes texts that contain another one, since a search for that finds them.
fn shortest(texts: &BTreeSet<String>) -> Vec<String> {
    let holds_another = |text: &String| texts.iter().any(|other| other != text && text.contains(other.as_str()));
    texts.iter().filter(|text| !holds_another(text)).cloned().collect()
}

/// The first bytes of a text, up to a character.
fn beginning(text: &str, bytes: usize) -> &str {
    text.get(..text.floor_char_boundary(bytes)).unwrap_or_default()
}

/// The text as it is escaped in the labels of a series.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"")
}

/// Replaces white space by single spaces, and removes invisible characters: with them a text could look like another, or hide one.
fn on_one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len().min(4 * MAX_SHOWN));
    for c in text.trim().chars().filter(|c| c.is_whitespace() || !(c.is_control() || is_invisible(*c))) {
        if !c.is_whitespace() {
            line.push(c);
        } else if !line.ends_with(' ') {
            line.push(' ');
        }
    }
    line
}

/// Characters of formatting: no width, direction, tags, variants.
const fn is_invisible(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}' | '\u{180b}'..='\u{180f}'
        | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}'
        | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use reqwest::header::HeaderValue;

    fn redactor(pairs: &[(&'static str, &'static str)]) -> Redactor {
        let headers = pairs.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value)));
        Redactor::new(&headers.collect::<HeaderMap>())
    }

    #[test]
    fn tokens_keys_and_passwords_are_hidden_in_every_form() {
        let basic =
            redactor(&[("authorization", "Basic dXNlcjpodW50ZXIy"), ("x-api-key", "hunter3"), ("x-short", "a")]);
        assert_eq!(
            basic.sentence("a: Basic dXNlcjpodW50ZXIy, dXNlcjpodW50ZXIy, hunter2 hunter3 user:hunter2 a"),
            "a: <masked>, <masked>, <masked> <masked> <masked> a"
        );
        let bearer = redactor(&[("authorization", "Bearer hunter2-token")]);
        assert_eq!(bearer.sentence("no token hunter2-token!"), "no token <masked>!");
        let cookie = redactor(&[("cookie", "lang=en; session=0123456789abcdef")]);
        assert_eq!(cookie.sentence("en: no session 0123456789ABCDEF"), "en: no session <masked>");
    }

    #[test]
    fn separators_and_escapes_do_not_help() {
        let bearer = redactor(&[("authorization", "Bearer s3cr3t/to+ken==")]);
        for spelling in [
            "s\u{1}3\u{2}c\u{7f}r3t/to+ken",
            "s\u{200b}3c\u{2060}r\u{feff}3t\u{ad}to\u{e0041}ken",
            "s-3-c-r-3-t-t-o-k-e-n",
            "s\n3\nc\nr\n3\nt\n/to+k\te\r\nn",
            "s\u{301}3c\u{902}r3t/token",
            "S3CR3T/TO+KEN==",
            "s3cr3t%2Fto%2bken%3D%3D",
            "%73%33%63%72%33%74%2F%74%6F%2B%6B%65%6E",
            "\\u0073\\x33c\\u{72}3t\\/to\\nken",
            "s3c&#114;3&#x74;&sol;to&plus;ken",
            "7333637233742f746f2b6b656e3d3d",
            "<s>3<c>r<3>t</t>o<k>e<n>",
        ] {
            let shown = bearer.sentence(&format!("got {spelling}."));
            assert!(shown.contains(MASK), "{shown:?}");
            let rest: Vec<u8> = fold(&shown.replace(MASK, ""));
            assert!(rest.len() <= 8, "{shown:?}"); // "got", and what stands for the padding
        }
        for before in ["", "x", "xy", "Authorization: "] {
            let echoed = STANDARD.encode(format!("{before}Bearer s3cr3t/to+ken== is wrong"));
            assert!(bearer.sentence(&echoed).contains(MASK), "{echoed}");
        }
    }

    #[test]
    fn where_a_text_is_cut_the_beginning_of_a_secret_goes_too() {
        let bearer = redactor(&[("authorization", "Bearer hunter2-token")]);
        for padding in MAX_SHOWN - 12..MAX_SHOWN {
            let shown = bearer.sentence(&format!("{}hunter2-token", ".".repeat(padding)));
            assert!(!shown.contains('h') && shown.trim_end_matches('-').ends_with(MASK), "{shown}");
        }
        for invisible in MAX_READ - 12..MAX_READ {
            let shown = bearer.beginning(format!("{}hunter2-token", "\u{1}".repeat(invisible)).as_bytes());
            assert_eq!(shown.trim_end_matches('-'), MASK);
        }
    }

    #[test]
    fn what_holds_no_secret_stays_as_it_is_but_on_one_line_and_bounded() {
        let redactor = redactor(&[("x-api-key", "hunter3")]);
        assert_eq!(redactor.sentence(" a\r\n\tb\u{0}c \u{202e}d é "), "a bc d é");
        assert_eq!(redactor.beginning(&vec![b'x'; 3 * MAX_READ]).len(), MAX_SHOWN);
        assert_eq!(redactor.beginning(b""), "");
        assert_eq!(Redactor::new(&HeaderMap::new()).sentence("answered 403 Forbidden"), "answered 403 Forbidden");
    }

    #[test]
    fn a_text_that_may_be_a_secret_is_masked_as_a_whole_and_stays_in_series() {
        let redactor = redactor(&[]).hiding(&["login hunter2".to_owned(), "QUIT".to_owned()]);
        assert_eq!(
            redactor.sentence("got LOGIN hunter2, then QUIT and hunter2"),
            "got <masked>, then QUIT and hunter2"
        );
        assert!(!redactor.is_in("line=\"login hunter2\""));
    }

    #[test]
    fn secrets_without_letters_are_found_as_they_are() {
        let redactor = redactor(&[("x-api-key", "!?!?-!")]);
        assert_eq!(redactor.sentence("key !?!?-! and no other!"), "key <masked> and no other!");
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "(.|%[0-9a-f]{2}|\\\\(.|u[0-9a-f]{4}|x..)|&(#x?)?[0-9a-z]{0,4};|hunter|tok){0,80}") {
            let redactor = redactor(&[("authorization", "Bearer hunter2-token"), ("x-other", "!-!-!")]);
            let shown = redactor.sentence(&text);
            proptest::prop_assert!(shown.chars().count() <= 4 * MAX_SHOWN && !shown.contains('\n'));
            redactor.beginning(text.as_bytes());
        }

        #[test]
        fn whatever_stands_between_the_letters_of_a_secret_it_is_found(
            before in ".{0,30}",
            separators in proptest::collection::vec("[^a-zA-Z0-9]{0,3}", 12),
            after in ".{0,30}",
        ) {
            let redactor = redactor(&[("authorization", "Bearer hunter2token")]);
            let spelled: String = "hunter2token".chars().zip(&separators).flat_map(|(c, s)| [c.to_string(), s.clone()]).collect();
            let shown = redactor.sentence(&format!("{before}{spelled}{after}"));
            let folded = String::from_utf8(fold(&shown)).unwrap();
            proptest::prop_assert!(!folded.contains("hunter2token"), "{shown}");
        }
    }

    #[test]
    fn in_series_a_credential_is_found_and_a_short_name_is_not() {
        let redactor = redactor(&[("authorization", "Basic dXNlcjpodW50ZXIyLXBhc3M="), ("x-tenant", "smartcity")]);
        for text in ["room=\"hunter2-pass\"", "room=\"user:hunter2-pass\"", "room=\"dXNlcjpodW50ZXIyLXBhc3M=\""] {
            assert!(redactor.is_in(text), "{text}");
        }
        assert!(!redactor.is_in("service=\"smartcity\",user=\"user\""));
    }
}
