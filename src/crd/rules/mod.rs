//! The rules that a structural schema cannot express, each declared once: its place, its CEL expression for the API server, its message
//! for the user, and the same condition in Rust for `check` and file mode. A test evaluates both and compares the results.
//!
//! Limits and types are not here but in the types themselves; what CEL cannot express is in [`ParsedTarget::parse`](super::ParsedTarget::parse).

mod oauth2;
mod table;

use schemars::Schema;
use serde_json::{Map, Value, json};

use crate::rule::FieldError;
pub(crate) use table::{CONNECTION_HEADERS, capitalized, is_duration};
pub use table::{all, relabeling_problem, reserved_labels};

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
