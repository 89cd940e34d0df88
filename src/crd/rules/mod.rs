//! The rules that a structural schema cannot express, each declared once: its place, its CEL expression for the API server, its message
//! for the user, and the same condition in Rust for `check` and file mode. A test evaluates both and compares the results.
//!
//! Limits and types are not here but in the types themselves; what CEL cannot express is in [`ParsedTarget::parse`](super::ParsedTarget::parse).

mod table;

use std::sync::LazyLock;

use regex::Regex;
use schemars::Schema;
use serde_json::{Map, Value, json};

use super::FieldError;
use super::pattern::BEYOND_ASCII;
pub(crate) use table::is_duration;
pub use table::{all, relabeling_problem, reserved_labels};

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
    more: fn(&str) -> Option<String>,
}

impl Rule {
    fn new(path: &'static str, cel: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            paths: vec![path],
            field: String::new(),
            keys: false,
            cel: cel.into(),
            message: message.into(),
            holds: Box::new(|_| true),
            more: |_| None,
        }
    }

    /// A rule that a text must match a pattern.
    fn matches(path: &'static str, regex: &'static LazyLock<Regex>, message: &'static str) -> Self {
        Self::new(path, format!("self.matches({})", raw(regex.as_str())), message)
            .holds_if_text(|text| regex.is_match(text))
    }

    /// The same, except for texts with characters beyond ASCII, which have a rule of their own.
    fn matches_in_ascii(path: &'static str, regex: &'static LazyLock<Regex>, message: &'static str) -> Self {
        let cel = format!("self.matches({}) || self.matches({})", raw(regex.as_str()), raw(BEYOND_ASCII.as_str()));
        Self::new(path, cel, message).holds_if_text(|text| regex.is_match(text) || BEYOND_ASCII.is_match(text))
    }

    fn also(mut self, paths: &[&'static str]) -> Self {
        self.paths.extend_from_slice(paths);
        self
    }

    fn field(mut self, field: impl Into<String>) -> Self {
        self.field = field.into();
        self
    }

    const fn on_keys(mut self) -> Self {
        self.keys = true;
        self
    }

    fn holds_if(mut self, holds: impl Fn(&Value) -> bool + Send + Sync + 'static) -> Self {
        self.holds = Box::new(holds);
        self
    }

    /// Sets the condition in Rust of a rule about a text. The schema has refused any other type before.
    fn holds_if_text(self, holds: impl Fn(&str) -> bool + Send + Sync + 'static) -> Self {
        self.holds_if(move |value| value.as_str().is_none_or(&holds))
    }

    fn more(mut self, more: fn(&str) -> Option<String>) -> Self {
        self.more = more;
        self
    }

    /// The message about this value.
    fn message_for(&self, value: &Value) -> String {
        match value.as_str().and_then(self.more) {
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

    fn accepts_key(&self, key: &str) -> bool {
        (self.holds)(&Value::String(key.to_owned()))
    }
}

/// A raw string of CEL, in which a backslash is a backslash.
fn raw(text: &str) -> String {
    format!("r\"{text}\"")
}

/// Writes the rules into the schema of the spec, as `x-kubernetes-validations`.
pub(crate) fn attach(schema: &mut Schema) {
    let Some(spec) = schema.as_object_mut() else { return };
    for rule in all() {
        for path in &rule.paths {
            let Some(place) = descend(spec, path) else { continue };
            let mut entry = json!({ "rule": rule.expression(), "message": rule.message });
            if !rule.field.is_empty() {
                entry["fieldPath"] = format!(".{}", rule.field).into();
            }
            if let Value::Array(list) = place.entry("x-kubernetes-validations").or_insert_with(|| json!([])) {
                list.push(entry);
            }
        }
    }
}

/// The schema at `path`, which begins with `spec`.
fn descend<'a>(spec: &'a mut Map<String, Value>, path: &str) -> Option<&'a mut Map<String, Value>> {
    let mut node = spec;
    for step in path.split('.').skip(1) {
        let name = step.trim_end_matches(['[', ']', '{', '}']);
        node = node.get_mut("properties")?.get_mut(name)?.as_object_mut()?;
        match step.get(name.len()..) {
            Some("[]") => node = node.get_mut("items")?.as_object_mut()?,
            Some("{}") => node = node.get_mut("additionalProperties")?.as_object_mut()?,
            _ => {}
        }
    }
    Some(node)
}

/// Checks a whole target by every rule. A field that has an error of the schema already gets no second one, nor does the lack of a field
/// that was probably meant by an unknown one.
pub(crate) fn check(target: &Value, errors: &mut Vec<FieldError>) {
    let of_schema = errors.len();
    for rule in all() {
        for path in &rule.paths {
            let mut steps: Vec<&str> = path.split('.').collect();
            steps.reverse();
            visit(target, &mut steps, String::new(), &mut |value, at| {
                let mut report = |at: String| {
                    let is_below = |path: &str| path.strip_prefix(&at).is_some_and(|rest| rest.starts_with('.'));
                    let known = |error: &FieldError| {
                        error.path == at || is_below(&error.path) && error.message.starts_with("unknown field")
                    };
                    if !errors.iter().take(of_schema).any(known) {
                        errors.push(FieldError::new(&at, rule.message_for(value)));
                    }
                };
                if let Some(map) = value.as_object().filter(|_| rule.keys) {
                    map.keys().filter(|key| !rule.accepts_key(key)).for_each(|key| report(format!("{at}[{key}]")));
                } else if !rule.accepts(value) {
                    report(if rule.field.is_empty() { at } else { format!("{at}.{}", rule.field) });
                }
            });
        }
    }
}

/// Calls `found` for every value at the place that the steps (last first) lead to.
fn visit(value: &Value, steps: &mut Vec<&str>, at: String, found: &mut impl FnMut(&Value, String)) {
    let Some(step) = steps.pop() else { return found(value, at) };
    let name = step.trim_end_matches(['[', ']', '{', '}']);
    if let Some(inner) = value.get(name) {
        let at = if at.is_empty() { name.to_owned() } else { format!("{at}.{name}") };
        match (step.get(name.len()..), inner) {
            (Some("[]"), Value::Array(items)) => {
                for (index, item) in items.iter().enumerate() {
                    visit(item, steps, format!("{at}[{index}]"), found);
                }
            }
            (Some("{}"), Value::Object(fields)) => {
                for (key, field) in fields {
                    visit(field, steps, format!("{at}[{key}]"), found);
                }
            }
            (Some(""), _) => visit(inner, steps, at, found),
            _ => {}
        }
    }
    steps.push(step);
}
