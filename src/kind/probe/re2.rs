//! Regular expressions of Go, rewritten so that Rust's `regex` and RE2 read them in the same way.
//!
//! Go reads RE2 syntax. Some of it has another meaning in Rust (`[a&&b]`, `\<`), some of it does not exist there (`\Q…\E`, `{` as a
//! character), and tables of Unicode classes are not a part of this program.

use regex_syntax::ParserBuilder;

use crate::metric::character_of;

/// Go's limit for the counts of a repetition.
const MOST_REPEATS: u32 = 1000;

/// Letters after a backslash that mean the same in both.
const COMMON_ESCAPES: &str = "dDsSwWbBAzafnrtv";

/// Names of classes, as in `[[:alpha:]]`.
const POSIX_CLASSES: [&str; 14] = [
    "alnum", "alpha", "ascii", "blank", "cntrl", "digit", "graph", "lower", "print", "punct", "space", "upper", "word",
    "xdigit",
];

/// Why an expression cannot be rewritten.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PatternProblem {
    /// Go refuses it as well.
    Invalid(String),
    /// Go reads it, and this program cannot.
    GoOnly(String),
}

/// The expression in the common dialect; the same text if it is written in it already.
pub fn rewrite(pattern: &str) -> Result<String, PatternProblem> {
    let characters: Vec<char> = pattern.chars().collect();
    let mut scanner = Scanner { characters: &characters, at: 0, out: String::with_capacity(pattern.len()) };
    scanner.expression()?;
    let out = scanner.out;
    // Whatever the scanner does not look at: brackets that do not close, repetitions of nothing, ranges out of order.
    match ParserBuilder::new().utf8(false).nest_limit(250).build().parse(&out) {
        Ok(_) => Ok(out),
        Err(error) => Err(PatternProblem::Invalid(cause(&error, pattern, &out))),
    }
}

/// What is wrong with `pattern`, as the parser says of what it was rewritten to, and where. The place is told if that is the same.
fn cause(error: &regex_syntax::Error, pattern: &str, rewritten: &str) -> String {
    let kind = match error {
        regex_syntax::Error::Parse(error) => error.kind().to_string(),
        regex_syntax::Error::Translate(error) => error.kind().to_string(),
        _ => return "it cannot be read".to_owned(),
    };
    match character_of(error, pattern).filter(|_| pattern == rewritten) {
        Some(character) => format!("{kind} at character {character}"),
        None => kind,
    }
}

struct Scanner<'p> {
    characters: &'p [char],
    at: usize,
    out: String,
}

fn invalid(what: impl Into<String>) -> PatternProblem {
    PatternProblem::Invalid(what.into())
}

impl Scanner<'_> {
    fn peek(&self) -> Option<char> {
        self.characters.get(self.at).copied()
    }

    fn ahead(&self, steps: usize) -> Option<char> {
        self.characters.get(self.at + steps).copied()
    }

    fn expression(&mut self) -> Result<(), PatternProblem> {
        let mut repeated = false; // whether a repetition has just ended
        while let Some(character) = self.peek() {
            let was_repeated = std::mem::take(&mut repeated);
            match character {
                '\\' if self.ahead(1) == Some('Q') => self.quotation(),
                '\\' => {
                    let escape = self.escape(false)?;
                    self.out.push_str(&escape);
                }
                '[' => self.class()?,
                '(' => self.group()?,
                '*' | '+' | '?' => {
                    self.repetition(1, was_repeated)?;
                    repeated = true;
                }
                '{' => match self.counts()? {
                    Some(length) => {
                        self.repetition(length, was_repeated)?;
                        repeated = true;
                    }
                    None => self.literal('{'),
                },
                '}' => self.literal('}'),
                other => {
                    self.out.push(other);
                    self.at += 1;
                }
            }
        }
        Ok(())
    }

    /// A character that stands for itself, and must be escaped in Rust.
    fn literal(&mut self, character: char) {
        self.out.push('\\');
        self.out.push(character);
        self.at += 1;
    }

    /// `\Q…\E`, or to the end.
    fn quotation(&mut self) {
        self.at += 2;
        while let Some(character) = self.peek() {
            if character == '\\' && self.ahead(1) == Some('E') {
                self.at += 2;
                return;
            }
            if regex_syntax::is_meta_character(character) {
                self.out.push('\\');
            }
            self.out.push(character);
            self.at += 1;
        }
    }

    /// An escape, at its backslash; its text in the common dialect.
    fn escape(&mut self, in_class: bool) -> Result<String, PatternProblem> {
        let Some(escaped) = self.ahead(1) else { return Err(invalid("a backslash at the end")) };
        self.at += 2;
        match escaped {
            'b' | 'B' | 'A' | 'z' if in_class => Err(invalid(format!("\\{escaped} in a class"))),
            letter if COMMON_ESCAPES.contains(letter) => Ok(format!("\\{letter}")),
            'p' | 'P' => Err(PatternProblem::GoOnly(format!(
                "\\{escaped} needs tables of Unicode that the exporter does not have: write the characters as a class"
            ))),
            'C' if !in_class => {
                Err(PatternProblem::GoOnly("\\C, a single byte, is read by Go only: write . in its place".to_owned()))
            }
            'x' => self.hexadecimal(),
            '0'..='7' => {
                let mut value = escaped.to_digit(8).unwrap_or(0);
                let first = self.peek().and_then(|digit| digit.to_digit(8));
                if escaped != '0' && first.is_none() {
                    return Err(invalid("a reference to a group, which RE2 does not have"));
                }
                for _ in 0..2 {
                    let Some(digit) = self.peek().and_then(|digit| digit.to_digit(8)) else { break };
                    value = value * 8 + digit;
                    self.at += 1;
                }
                Ok(format!("\\x{{{value:x}}}"))
            }
            // Go takes any punctuation for itself, and in Rust these two begin and end words.
            '<' | '>' => Ok(escaped.to_string()),
            other if other.is_ascii() && !other.is_ascii_alphanumeric() => Ok(format!("\\{other}")),
            other => Err(invalid(format!("\\{other} means nothing"))),
        }
    }

    fn hexadecimal(&mut self) -> Result<String, PatternProblem> {
        let rest = self.characters.get(self.at..).unwrap_or_default();
        let digits: String = if rest.first() == Some(&'{') {
            let digits: String = rest.iter().skip(1).take_while(|digit| digit.is_ascii_hexdigit()).collect();
            if rest.get(digits.len() + 1) != Some(&'}') {
                return Err(invalid("\\x without hexadecimal digits"));
            }
            self.at += digits.len() + 2;
            digits
        } else {
            let digits: String = rest.iter().take(2).take_while(|digit| digit.is_ascii_hexdigit()).collect();
            if digits.len() != 2 {
                return Err(invalid("\\x without hexadecimal digits"));
            }
            self.at += 2;
            digits
        };
        let is_character = u32::from_str_radix(&digits, 16).ok().and_then(char::from_u32);
        is_character
            .map(|_| format!("\\x{{{digits}}}"))
            .ok_or_else(|| invalid("\\x with a number that is no character"))
    }

    /// A class, at its bracket. Ranges are read as a whole, since a hyphen, `&&`, `~~` and `[` differ.
    fn class(&mut self) -> Result<(), PatternProblem> {
        self.out.push('[');
        self.at += 1;
        if self.peek() == Some('^') {
            self.out.push('^');
            self.at += 1;
        }
        let mut is_first = true;
        loop {
            match self.peek() {
                None => return Err(invalid("a class that does not end")),
                Some(']') if !is_first => {
                    self.out.push(']');
                    self.at += 1;
                    return Ok(());
                }
                // Both read a bracket at the beginning, and a hyphen at either end, as characters.
                Some(plain @ (']' | '-'))
                    if (is_first && self.ahead(1) != Some('-')) || (plain == '-' && self.ahead(1) == Some(']')) =>
                {
                    self.out.push(plain);
                    self.at += 1;
                }
                Some('[') if self.ahead(1) == Some(':') && self.posix_name()? => {}
                Some(_) => {
                    let low = self.class_item()?;
                    self.out.push_str(&low);
                    if self.peek() == Some('-') && self.ahead(1).is_some_and(|next| next != ']') {
                        self.at += 1;
                        let high = self.class_item()?;
                        self.out.push('-');
                        self.out.push_str(&high);
                    }
                }
            }
            is_first = false;
        }
    }

    /// `[:alpha:]`, if there is one.
    fn posix_name(&mut self) -> Result<bool, PatternProblem> {
        let rest: String = self.characters.iter().skip(self.at).take(16).collect();
        let Some(length) = rest.find(":]").map(|end| end + 2) else { return Ok(false) };
        let name = rest.get(2..length - 2).unwrap_or_default();
        if !POSIX_CLASSES.contains(&name.strip_prefix('^').unwrap_or(name)) {
            return Err(invalid(format!("no class is called {name:?}")));
        }
        self.out.push_str(rest.get(..length).unwrap_or_default());
        self.at += length;
        Ok(true)
    }

    fn class_item(&mut self) -> Result<String, PatternProblem> {
        match self.peek() {
            Some('\\') => self.escape(true),
            Some(character) => {
                self.at += 1;
                // Two of these in a row are operators in Rust.
                let is_doubled = matches!(character, '&' | '~') && self.peek() == Some(character);
                let special = is_doubled || matches!(character, '[' | ']' | '^' | '-');
                Ok(if special { format!("\\{character}") } else { character.to_string() })
            }
            None => Err(invalid("a class that does not end")),
        }
    }

    fn group(&mut self) -> Result<(), PatternProblem> {
        if self.ahead(1) != Some('?') {
            self.out.push('(');
            self.at += 1;
            return Ok(());
        }
        let rest: String = self.characters.iter().skip(self.at + 2).collect();
        let named = rest.strip_prefix("P<").or_else(|| rest.strip_prefix('<'));
        let is_look_around = ["=", "!", "<=", "<!"].iter().any(|sign| rest.starts_with(sign));
        if is_look_around {
            return Err(invalid("look-around, which RE2 does not have"));
        }
        if let Some(named) = named {
            let name = named.split('>').next().unwrap_or_default();
            if name.is_empty() || !name.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_') {
                return Err(invalid("the name of a group"));
            }
            // Rust's names may not begin with a digit, and Go's may.
            if name.starts_with(|first: char| first.is_ascii_digit()) {
                return Err(PatternProblem::GoOnly(format!(
                    "the name {name:?} of a group begins with a digit: begin it with a letter"
                )));
            }
            let prefix = rest.len() - named.len();
            self.out.push_str("(?P<");
            self.at += 2 + prefix;
            return Ok(());
        }
        let flags: String = rest.chars().take_while(|letter| matches!(letter, 'i' | 'm' | 's' | 'U' | '-')).collect();
        if !matches!(rest.chars().nth(flags.len()), Some(':' | ')')) || flags.ends_with('-') {
            return Err(invalid("the flags of a group"));
        }
        self.out.push_str("(?");
        self.out.push_str(&flags);
        self.at += 2 + flags.len();
        // `(?)` is allowed in Go, and means nothing.
        if flags.is_empty() && self.peek() == Some(')') {
            self.out.push(':');
        }
        Ok(())
    }

    /// The length of `{2}`, `{2,}` or `{2,5}`, if the brace begins one; else it is a character.
    fn counts(&self) -> Result<Option<usize>, PatternProblem> {
        let rest: String = self.characters.iter().skip(self.at).take(32).collect();
        let Some(inner) = rest.find('}').and_then(|end| rest.get(1..end)) else { return Ok(None) };
        let (low, high) = inner.split_once(',').map_or((inner, None), |(low, high)| (low, Some(high)));
        let is_number = |text: &str| {
            let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            digits && (text == "0" || !text.starts_with('0'))
        };
        if !is_number(low) || high.is_some_and(|high| !high.is_empty() && !is_number(high)) {
            return Ok(None);
        }
        let too_many = |text: &str| text.parse::<u32>().map_or(true, |count| count > MOST_REPEATS);
        if too_many(low) || high.is_some_and(|high| !high.is_empty() && too_many(high)) {
            return Err(invalid(format!("a repetition of more than {MOST_REPEATS}")));
        }
        Ok(Some(inner.len() + 2))
    }

    /// Copies a repetition of `length` characters and its question mark.
    fn repetition(&mut self, length: usize, was_repeated: bool) -> Result<(), PatternProblem> {
        if was_repeated {
            return Err(invalid("a repetition of a repetition"));
        }
        self.out.extend(self.characters.iter().skip(self.at).take(length));
        self.at += length;
        if self.peek() == Some('?') {
            self.out.push('?');
            self.at += 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_both_read_alike_stays_as_it_is() {
        for pattern in [
            "",
            "a|b",
            "^220 ([^ ]+) ESMTP (.+)$",
            "(?i)ok",
            "(?P<n>x)",
            r"\d+\.\w",
            "a{2,5}?",
            "[a-z]",
            "[^0-9]",
            r"www.prometheus.io.\t300\tIN\tA\t127.0.0.1",
            "(?:a)*",
            "a{3}",
            "[[:alpha:]]+",
            ".*",
            r"\Aa\z",
            r"\bx\b",
            "[]a]",
            "[^ -]",
            "[-a]",
            "[a-z0-9-]+",
            "[a&b]",
            "[ぁ-ん]+é|日本",
            "(?i)É",
        ] {
            assert_eq!(rewrite(pattern).as_deref(), Ok(pattern));
        }
    }

    #[test]
    fn what_go_writes_in_its_own_way_is_rewritten_and_matches_the_same() {
        for (pattern, wanted, text) in [
            (r"\Qa.b*\E+", r"a\.b\*+", "a.b**"),
            ("[a&&b]", r"[a\&&b]", "&"),
            ("[[a]", r"[\[a]", "["),
            ("[a~~]", r"[a\~~]", "~"),
            ("[+--]", r"[+-\-]", ","),
            ("[--/]", r"[\--/]", "."),
            (r"\<b\>", "<b>", "<b>"),
            ("{\"a\": {1}", "\\{\"a\": {1}", "{\"a\": "),
            ("{\"status\":\"ok\"}", "\\{\"status\":\"ok\"\\}", "{\"status\":\"ok\"}"),
            ("a{,5}", r"a\{,5\}", "a{,5}"),
            (r"\012", r"\x{a}", "\n"),
            (r"\x41\x{42}", r"\x{41}\x{42}", "AB"),
            ("(?<year>a)", "(?P<year>a)", "a"),
            (r"[\-x]", r"[\-x]", "-"),
        ] {
            let rewritten = rewrite(pattern).unwrap_or_else(|problem| panic!("{pattern}: {problem:?}"));
            assert_eq!(rewritten, wanted);
            assert!(regex::Regex::new(&format!("^(?:{rewritten})$")).unwrap().is_match(text), "{pattern}");
        }
    }

    #[test]
    fn what_go_refuses_is_refused() {
        for pattern in [
            "(",
            ")",
            "[",
            "[z-a]",
            "*a",
            "a**",
            "a*+",
            "(?=a)",
            "(?!a)",
            "(?<=a)",
            r"(a)\1",
            r"\",
            r"\y",
            "a{1001}",
            "a{5,2}",
            "(?x)a",
            r"\x4",
            r"\u0041",
            "(?P<>a)",
            "[[:foo:]]",
            r"[\b]",
            "a{2}{3}",
        ] {
            assert!(matches!(rewrite(pattern), Err(PatternProblem::Invalid(_))), "{pattern}: {:?}", rewrite(pattern));
        }
    }

    #[test]
    fn what_only_go_reads_is_told_apart() {
        for pattern in [r"\pL", r"\p{Greek}", r"\C", r"[\p{Greek}]", "(?P<1a>b)"] {
            assert!(matches!(rewrite(pattern), Err(PatternProblem::GoOnly(_))), "{pattern}: {:?}", rewrite(pattern));
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic_and_what_comes_out_compiles(text in "\\PC{0,40}|[\\[\\]\\\\&~(?)^:a-zQEx0-9{},*+-]{0,24}") {
            if let Ok(rewritten) = rewrite(&text) {
                let again = rewrite(&rewritten);
                prop_assert_eq!(again.as_deref(), Ok(rewritten.as_str()));
            }
        }
    }
}
