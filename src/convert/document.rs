//! The documents of an input.

use crate::yaml::{AliasAllowance, Dialect, Node, YamlError, YamlFault, has_content, read_within, split};

/// The most bytes of one input.
pub const MAX_INPUT_BYTES: usize = 16 << 20;

/// The longest key that is told: where passwords are values, a key is no secret, but a long one may be anything.
const LONGEST_KEY: usize = 64;

/// Why a text cannot be read. It quotes nothing of the text, which may contain passwords, but a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct UnreadableInput {
    pub(super) line: usize,
    pub(super) message: String,
}

/// The documents of a text that have content, in order.
pub(super) fn documents(text: &str) -> Result<Vec<Node>, UnreadableInput> {
    if text.len() > MAX_INPUT_BYTES {
        let message = format!("is larger than {} MiB: split it", MAX_INPUT_BYTES >> 20);
        return Err(UnreadableInput { line: 0, message });
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let (mut found, mut allowance) = (Vec::new(), AliasAllowance::default());
    for (first_line, part) in split(text) {
        if !part.lines().any(has_content) {
            continue;
        }
        let document = read_within(part, first_line, Dialect::Typed, &mut allowance).map_err(unreadable)?;
        if !document.is_null() {
            found.push(document);
        }
    }
    Ok(found)
}

fn unreadable(YamlError { line, fault }: YamlError) -> UnreadableInput {
    let message = match fault {
        YamlFault::DuplicateKey { key, .. } if key.len() <= LONGEST_KEY => {
            format!("has the key {key:?} twice: remove one of them")
        }
        YamlFault::SecondDocument => "there is a second document: begin it with a line ---".to_owned(),
        YamlFault::Malformed(_) => "is not well-formed YAML".to_owned(),
        fault @ (YamlFault::DuplicateKey { .. } | YamlFault::TooLarge(_)) => fault.to_string(),
    };
    UnreadableInput { line, message }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_count_from_the_beginning_of_the_file() {
        let found = documents("# x\n---\na: 1\n---\n\nb:\n  - c: 2\n").unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!(found[1].get("b").unwrap().items()[0].get("c").unwrap().line, 7);
        assert_eq!(found[1].entries()[0].line, 6);
    }

    #[test]
    fn what_cannot_be_read_is_said_with_its_line_and_without_its_text() {
        let error = documents("a: 1\n---\npassword: [hunter2\nb: }\n").unwrap_err();
        assert!(error.line >= 3 && !error.message.contains("hunter2"), "{error:?}");
        let twice = documents("a: 1\nb: 2\na: 3\n").unwrap_err();
        assert_eq!((twice.line, twice.message.as_str()), (3, "has the key \"a\" twice: remove one of them"));
        let deep = documents(&format!("a: {}{}", "[".repeat(9_999), "]".repeat(9_999))).unwrap_err();
        assert_eq!(deep.message, "is nested deeper than 64 levels: write it flatter");
        let second = documents("a: 1\n...\nb: 1\n").unwrap_err();
        assert_eq!(second.message, "there is a second document: begin it with a line ---");
        assert_eq!(documents(&" ".repeat(MAX_INPUT_BYTES + 1)).unwrap_err().message, "is larger than 16 MiB: split it");
    }
}
