//! The steps of a dialogue of messages, read and compiled once for all probes.

use std::sync::Arc;

use super::MessageStep;
use crate::kind::probe::Pattern;
use crate::kind::probe::dialogue::{decoded, too_many_groups};
use crate::rule::FieldError;

/// One step. What it expects comes first, what it sends next.
#[derive(Debug)]
pub(super) struct ScriptedMessage {
    /// Where it is written, for messages.
    pub(super) field: String,
    pub(super) expect: Option<ExpectedMessage>,
    /// Whether messages that are not the expected one are passed over.
    pub(super) skip_unmatched: bool,
    pub(super) send: Option<SentText>,
}

/// What a message of the server must be.
#[derive(Debug)]
pub(super) enum ExpectedMessage {
    /// One in which the pattern matches.
    Matching {
        pattern: Pattern,
        /// What is sent after it, if groups of the pattern are in that.
        templates: Arc<[String]>,
    },
    /// Exactly these bytes.
    Bytes(Vec<u8>),
}

/// What is sent.
#[derive(Debug)]
pub(super) enum SentText {
    /// The template of the expected message.
    Expanded,
    /// This text.
    Text(String),
    /// These bytes, as a binary message.
    Bytes(Vec<u8>),
    /// The secret with this index.
    Secret(usize),
}

/// Reads the steps. The errors are those that neither schema nor rules can express.
pub(super) fn script(steps: &[MessageStep], errors: &mut Vec<FieldError>) -> Vec<ScriptedMessage> {
    let mut secrets = 0..;
    let steps = steps.iter().enumerate();
    steps.map(|(index, step)| scripted(format!("spec.websocket.queryResponse[{index}]"), step, &mut secrets, errors)).collect()
}

fn scripted(
    field: String,
    step: &MessageStep,
    secrets: &mut impl Iterator<Item = usize>,
    errors: &mut Vec<FieldError>,
) -> ScriptedMessage {
    let at = |of: &str| format!("{field}.{of}");
    let templates: Arc<[String]> =
        step.send.iter().filter(|text| step.expect.is_some() && text.contains('$')).cloned().collect();
    if let Some(problem) = too_many_groups(&templates) {
        errors.push(FieldError::new(&at("send"), problem));
    }
    let is_expanded = !templates.is_empty();
    let expect = match (&step.expect, &step.expect_base64) {
        (Some(written), _) => match Pattern::new(written) {
            Ok(pattern) => Some(ExpectedMessage::Matching { pattern, templates }),
            Err(message) => {
                errors.push(FieldError::new(&at("expect"), message));
                None
            }
        },
        (None, Some(text)) => Some(ExpectedMessage::Bytes(decoded(&at("expectBase64"), text, errors))),
        (None, None) => None,
    };
    let send = match (&step.send, &step.send_base64, &step.send_secret_ref) {
        (Some(_), ..) if is_expanded => Some(SentText::Expanded),
        (Some(text), ..) => Some(SentText::Text(text.clone())),
        (None, Some(text), _) => Some(SentText::Bytes(decoded(&at("sendBase64"), text, errors))),
        (None, None, Some(_)) => secrets.next().map(SentText::Secret),
        (None, None, None) => None,
    };
    ScriptedMessage { field, expect, skip_unmatched: step.skip_unmatched, send }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(step: MessageStep) -> Result<ScriptedMessage, Vec<String>> {
        let mut errors = Vec::new();
        let mut steps = script(&[MessageStep::default(), step], &mut errors);
        if errors.is_empty() { Ok(steps.remove(1)) } else { Err(errors.into_iter().map(|error| error.path).collect()) }
    }

    #[test]
    fn groups_are_put_only_into_what_follows_an_expectation() {
        let text = |text: &str| Some(text.to_owned());
        let step = read(MessageStep { expect: text("id=(\\w+)"), send: text("$1"), ..MessageStep::default() }).unwrap();
        assert!(matches!(step.send, Some(SentText::Expanded)));
        let step = read(MessageStep { send: text("$1"), ..MessageStep::default() }).unwrap();
        assert!(matches!(step.send, Some(SentText::Text(text)) if text == "$1"));
        let step = read(MessageStep { expect: text("a"), send: text("b"), ..MessageStep::default() }).unwrap();
        assert!(matches!(step.send, Some(SentText::Text(text)) if text == "b"));
    }

    #[test]
    fn what_cannot_be_read_is_refused_with_its_field() {
        let text = |text: &str| Some(text.to_owned());
        for (step, field) in [
            (MessageStep { expect: text("("), ..MessageStep::default() }, "expect"),
            (MessageStep { expect_base64: text("AB==A"), ..MessageStep::default() }, "expectBase64"),
            (MessageStep { send_base64: text("AB==A"), ..MessageStep::default() }, "sendBase64"),
            (MessageStep { expect: text("a"), send: Some("$0".repeat(9)), ..MessageStep::default() }, "send"),
        ] {
            assert_eq!(read(step).unwrap_err(), [format!("spec.websocket.queryResponse[1].{field}")]);
        }
    }
}
