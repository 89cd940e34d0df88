//! What is wrong with a field, and a rule about fields: a condition in CEL for the API server, and the same in Rust for `check` and file
//! mode. It knows no fields: those of the spec have their rules in `crd`, those of a kind in its folder.

use std::sync::LazyLock;

use regex::Regex;
use serde_json::Value;

/// One thing that is wrong with a field of a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// The field: `spec.headers[2].name`. Empty if it is about the whole manifest.
    pub path: String,
    /// What is wrong, and what to write instead. It contains no value of a Secret.
    pub message: String,
}

impl FieldError {
    /// An error of the field at `path`.
    pub fn new(path: &str, message: impl Into<String>) -> Self {
        Self { path: path.to_owned(), message: message.into() }
    }
}

impl std::fmt::Display for FieldError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.path.is_empty() { f.write_str(&self.message) } else { write!(f, "{}: {}", self.path, self.message) }
    }
}

/// What can be said of a value, beside the message.
type MoreAbout = dyn Fn(&Value) -> Option<String> + Send + Sync;

/// One rule.
pub struct Rule {
    /// The places in the schema that it is attached to: `spec.headers[].name`; `[]` are the items of a list, `{}` the values of a map.
    pub paths: Vec<&'static str>,
    /// The field below the place that the message is about; empty if it is the place itself.
    pub field: String,
    /// Whether `cel` is about each key of a map, called `key`, instead of the value `self`.
    pub keys: bool,
    /// The condition that must hold, in CEL.
    pub cel: String,
    /// What is wrong and what to write instead.
    pub message: String,
    holds: Box<dyn Fn(&Value) -> bool + Send + Sync>,
    /// More about the value, which the message of the API server cannot contain.
    more: Box<MoreAbout>,
}

impl Rule {
    /// A rule at this place that always holds in Rust so far.
    pub fn new(path: &'static str, cel: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            paths: vec![path],
            field: String::new(),
            keys: false,
            cel: cel.into(),
            message: message.into(),
            holds: Box::new(|_| true),
            more: Box::new(|_| None),
        }
    }

    /// A rule that a text must match a pattern.
    pub fn matches(path: &'static str, regex: &'static LazyLock<Regex>, message: &'static str) -> Self {
        Self::new(path, format!("self.matches({})", raw(regex.as_str())), message)
            .holds_if_text(|text| regex.is_match(text))
    }

    /// The same, except for texts with characters beyond ASCII, which have a rule of their own.
    pub fn matches_in_ascii(path: &'static str, regex: &'static LazyLock<Regex>, message: &'static str) -> Self {
        let cel = format!("self.matches({}) || self.matches({})", raw(regex.as_str()), raw(BEYOND_ASCII.as_str()));
        Self::new(path, cel, message).holds_if_text(|text| regex.is_match(text) || BEYOND_ASCII.is_match(text))
    }

    /// The same rule at other places, too.
    #[must_use]
    pub fn also(mut self, paths: &[&'static str]) -> Self {
        self.paths.extend_from_slice(paths);
        self
    }

    /// What the message is about, below the place.
    #[must_use]
    pub fn field(mut self, field: impl Into<String>) -> Self {
        self.field = field.into();
        self
    }

    /// The rule is about each key of a map.
    #[must_use]
    pub const fn on_keys(mut self) -> Self {
        self.keys = true;
        self
    }

    /// Sets the condition in Rust.
    #[must_use]
    pub fn holds_if(mut self, holds: impl Fn(&Value) -> bool + Send + Sync + 'static) -> Self {
        self.holds = Box::new(holds);
        self
    }

    /// Sets the condition in Rust of a rule about a text. The schema has refused any other type before.
    #[must_use]
    pub fn holds_if_text(self, holds: impl Fn(&str) -> bool + Send + Sync + 'static) -> Self {
        self.holds_if(move |value| value.as_str().is_none_or(&holds))
    }

    /// Adds to the message what can be said of this value.
    #[must_use]
    pub fn more(mut self, more: impl Fn(&Value) -> Option<String> + Send + Sync + 'static) -> Self {
        self.more = Box::new(more);
        self
    }

    /// The same for a rule about a text.
    #[must_use]
    pub fn more_of_text(self, more: impl Fn(&str) -> Option<String> + Send + Sync + 'static) -> Self {
        self.more(move |value| value.as_str().and_then(&more))
    }

    /// The message about this value.
    pub(crate) fn message_for(&self, value: &Value) -> String {
        match (self.more)(value) {
            Some(more) => format!("{}: {more}", self.message),
            None => self.message.clone(),
        }
    }

    /// The condition as it is written in the schema.
    pub fn expression(&self) -> String {
        if self.keys { format!("self.all(key, {})", self.cel) } else { self.cel.clone() }
    }

    /// Whether the condition in Rust holds for `value`, the value at the rule's place.
    pub fn accepts(&self, value: &Value) -> bool {
        match value.as_object().filter(|_| self.keys) {
            Some(map) => map.keys().all(|key| self.accepts_key(key)),
            None => (self.holds)(value),
        }
    }

    pub(crate) fn accepts_key(&self, key: &str) -> bool {
        (self.holds)(&Value::String(key.to_owned()))
    }
}

/// A raw string of CEL, in which a backslash is a backslash.
pub fn raw(text: &str) -> String {
    format!("r\"{text}\"")
}

/// A host: an IPv4 address; a name whose last label is no number, since resolvers read numbers as addresses; or an IPv6 address in brackets.
macro_rules! host {
    () => {
        concat!(
            r"((25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])(\.(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])){3}",
            r"|([a-zA-Z0-9_]([a-zA-Z0-9_-]*[a-zA-Z0-9_])?\.)*([a-zA-Z_]|[0-9]+[a-zA-Z_-])([a-zA-Z0-9_-]*[a-zA-Z0-9_])?\.?",
            r"|\[[0-9a-fA-F:]{2,39}\])"
        )
    };
}

/// A port from 1 to 65535, with its colon.
macro_rules! needed_port {
    () => {
        "(:([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]))"
    };
}

/// The same, or nothing.
macro_rules! port {
    () => {
        concat!(crate::rule::needed_port!(), "?")
    };
}

/// Constants that are patterns. RE2 reads those of rules in the API server and `regex` here, so they have only syntax that means the same in
/// both, and no double quote.
macro_rules! patterns {
    ($($(#[$meta:meta])* $vis:vis $name:ident = $pattern:expr;)+) => {
        $(
            $(#[$meta])*
            $vis static $name: std::sync::LazyLock<regex::Regex> = std::sync::LazyLock::new(|| {
                regex::Regex::new(&String::from($pattern)).expect("a constant, and tests use it")
            });
        )+
    };
}

patterns! {
    /// A character that no URL may contain.
    pub(crate) BEYOND_ASCII = r"[^\x00-\x7F]";
}

pub(crate) use {host, needed_port, patterns, port};
