//! What dialogues with servers have in common, whatever they consist of: rules about their steps, and what the steps send.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::kind::SecretKeyRef;
use crate::rule::{FieldError, Rule, patterns, raw};

patterns! {
    BASE64 = "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$";
}

/// What a step can send, one of these.
pub(in crate::kind) const SENT: [&str; 3] = ["send", "sendBase64", "sendSecretRef"];

/// How often groups of what was received may be put into one text: each may be as long as that.
const MAX_GROUPS: usize = 8;

/// Whether at least two of the fields are there, in CEL.
fn two_of(fields: &[&str]) -> String {
    let pairs = fields.iter().enumerate().flat_map(|(index, one)| {
        fields.iter().skip(index + 1).map(move |other| format!("(has(self.{one}) && has(self.{other}))"))
    });
    pairs.collect::<Vec<_>>().join(" || ")
}

/// Whether one of the fields is there, in CEL.
pub(in crate::kind) fn any_of(fields: &[&str]) -> String {
    fields.iter().map(|field| format!("has(self.{field})")).collect::<Vec<_>>().join(" || ")
}

/// The same of a step.
pub(in crate::kind) fn has_any(step: &Value, fields: &[&str]) -> bool {
    fields.iter().any(|field| step.get(field).is_some())
}

/// The rule that a step has at most one of the fields.
pub(in crate::kind) fn exclusive(step: &'static str, fields: &'static [&'static str], message: &str) -> Rule {
    Rule::new(step, format!("!({})", two_of(fields)), message)
        .holds_if(move |step| fields.iter().filter(|field| step.get(field).is_some()).count() <= 1)
}

/// The rule that bytes are written in Base64, and text into another field.
pub(in crate::kind) fn base64(path: &'static str, of_text: &str) -> Rule {
    let message = format!(
        "must be bytes in Base64, with = at the end where it is needed and without whitespace, as base64 -w0 prints them; write text into \
         {of_text}"
    );
    Rule::new(path, format!("self.matches({})", raw(BASE64.as_str())), message)
        .holds_if_text(|text| BASE64.is_match(text))
}

/// The bytes that are written at `field`. There is one mistake that the rule cannot find.
pub(in crate::kind) fn decoded(field: &str, text: &str, errors: &mut Vec<FieldError>) -> Vec<u8> {
    STANDARD.decode(text).unwrap_or_else(|_| {
        let message = "is not Base64, since its last characters end within a byte: write what base64 -w0 prints";
        errors.push(FieldError::new(field, message));
        Vec::new()
    })
}

/// Whether one of the texts may have more groups in it than there is memory for.
pub(in crate::kind) fn too_many_groups<T: AsRef<str>>(templates: &[T]) -> Option<String> {
    let is_too_long = templates.iter().any(|text| text.as_ref().matches('$').count() > MAX_GROUPS);
    is_too_long.then(|| format!("has more than {MAX_GROUPS} times $ in it or in the value of a label, write fewer"))
}

/// The keys of Secrets that steps send, each with its field.
pub(in crate::kind) fn sent_secrets<'s>(
    steps: impl IntoIterator<Item = Option<&'s SecretKeyRef>>,
) -> Vec<(String, &'s SecretKeyRef)> {
    let steps = steps.into_iter().enumerate();
    steps.filter_map(|(index, key)| Some((format!("queryResponse[{index}].sendSecretRef"), key?))).collect()
}
