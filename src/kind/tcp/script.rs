//! The steps of a dialogue, read and compiled once for all probes.

use std::sync::Arc;

use super::DialogueStep;
use crate::kind::probe::Pattern;
use crate::kind::probe::dialogue::{decoded, too_many_groups};
use crate::rule::FieldError;

/// A dialogue.
#[derive(Debug)]
pub(super) struct Script {
    pub(super) steps: Vec<ScriptStep>,
}

/// One step. What it expects comes first, what it sends next, TLS last.
#[derive(Debug)]
pub(super) struct ScriptStep {
    /// Where it is written, for messages.
    pub(super) field: String,
    pub(super) expect: Option<Expectation>,
    pub(super) send: Option<SentMessage>,
    pub(super) starttls: bool,
}

/// What the server must send.
#[derive(Debug)]
pub(super) enum Expectation {
    /// Lines, of which one matches.
    Line {
        pattern: Pattern,
        /// The names of the labels of `probe_expect_info`.
        labels: Vec<String>,
        /// Their values, and then what is sent if that is a text.
        templates: Arc<[String]>,
    },
    /// Exactly this.
    Bytes(Vec<u8>),
}

/// What is sent.
#[derive(Debug)]
pub(super) enum SentMessage {
    /// The last one of the templates.
    Expanded { newline: bool },
    /// These bytes.
    Bytes(Vec<u8>),
    /// The secret with this index.
    Secret { index: usize, newline: bool },
}

impl Script {
    /// Reads the steps. The errors are those that neither schema nor rules can express.
    pub(super) fn new(steps: &[DialogueStep]) -> Result<Self, Vec<FieldError>> {
        let mut errors = Vec::new();
        let mut secrets = 0..;
        let read = |(index, step)| {
            let field = format!("spec.tcp.queryResponse[{index}]");
            ScriptStep::new(field, step, &mut secrets, &mut errors)
        };
        let steps = steps.iter().enumerate().map(read).collect();
        if errors.is_empty() { Ok(Self { steps }) } else { Err(errors) }
    }
}

impl ScriptStep {
    fn new(
        field: String,
        step: &DialogueStep,
        secrets: &mut impl Iterator<Item = usize>,
        errors: &mut Vec<FieldError>,
    ) -> Self {
        let at = |of: &str| format!("{field}.{of}");
        let expected_bytes = match (&step.expect_bytes, &step.expect_base64) {
            (Some(text), _) => Some(text.clone().into_bytes()),
            (None, Some(text)) => Some(decoded(&at("expectBase64"), text, errors)),
            (None, None) => None,
        };
        let sent_bytes = step.send_base64.as_ref().map(|text| decoded(&at("sendBase64"), text, errors));
        let templates = step.labels.iter().map(|label| &label.value).chain(&step.send);
        let templates: Arc<[String]> = templates.cloned().collect();
        if step.expect.is_some()
            && let Some(problem) = too_many_groups(&templates)
        {
            errors.push(FieldError::new(&at("send"), problem));
        }
        let expect = match (&step.expect, expected_bytes) {
            (Some(written), _) => match Pattern::new(written) {
                Ok(pattern) => {
                    let labels = step.labels.iter().map(|label| label.name.clone()).collect();
                    Some(Expectation::Line { pattern, labels, templates })
                }
                Err(message) => {
                    errors.push(FieldError::new(&at("expect"), message));
                    None
                }
            },
            (None, bytes) => bytes.map(Expectation::Bytes),
        };
        let newline = step.newline.unwrap_or_else(|| step.send_base64.is_none());
        let send = match (&step.send, sent_bytes, &step.send_secret_ref) {
            (Some(_), ..) if step.expect.is_some() => Some(SentMessage::Expanded { newline }),
            (Some(text), ..) => Some(SentMessage::Bytes(with_newline(text.as_bytes(), newline))),
            (None, Some(bytes), _) => Some(SentMessage::Bytes(with_newline(&bytes, newline))),
            (None, None, Some(_)) => secrets.next().map(|index| SentMessage::Secret { index, newline }),
            (None, None, None) => None,
        };
        Self { field, expect, send, starttls: step.starttls }
    }
}

/// The bytes, and a newline if it is wanted.
pub(super) fn with_newline(bytes: &[u8], newline: bool) -> Vec<u8> {
    let mut message = bytes.to_vec();
    message.extend(newline.then_some(b'\n'));
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(change: impl FnOnce(&mut DialogueStep)) -> DialogueStep {
        let mut step = DialogueStep::default();
        change(&mut step);
        step
    }

    #[test]
    fn what_is_sent_ends_with_a_newline_unless_it_is_binary() {
        let sent = |step: DialogueStep| match Script::new(&[step]).unwrap().steps.remove(0).send {
            Some(SentMessage::Bytes(bytes)) => bytes,
            other => panic!("{other:?}"),
        };
        assert_eq!(sent(step(|step| step.send = Some("PING".into()))), b"PING\n");
        let bare = step(|step| (step.send, step.newline) = (Some("PING".into()), Some(false)));
        assert_eq!(sent(bare), b"PING");
        let ssl_request = "AAAACATSFi8=";
        let binary = step(|step| step.send_base64 = Some(ssl_request.into()));
        assert_eq!(sent(binary.clone()), [0, 0, 0, 8, 4, 0xd2, 0x16, 0x2f]);
        assert_eq!(sent(DialogueStep { newline: Some(true), ..binary }).len(), 9);
    }

    #[test]
    fn what_cannot_be_read_is_refused_with_its_field() {
        let fields = |step: DialogueStep| {
            let errors = Script::new(&[DialogueStep::default(), step]).unwrap_err();
            errors.into_iter().map(|error| error.path).collect::<Vec<_>>()
        };
        assert_eq!(fields(step(|step| step.expect = Some("(".into()))), ["spec.tcp.queryResponse[1].expect"]);
        assert_eq!(fields(step(|step| step.send_base64 = Some("AB==A".into()))), ["spec.tcp.queryResponse[1].sendBase64"]);
        let many = step(|step| (step.expect, step.send) = (Some("a".into()), Some("$0".repeat(9))));
        assert_eq!(fields(many), ["spec.tcp.queryResponse[1].send"]);
    }
}
