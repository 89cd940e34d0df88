//! Cuts a stream of YAML or JSON into documents and reads each on its own, so that a bad one does not hide the others.
//!
//! Values are read as kubectl reads them: the booleans and octal numbers of YAML 1.1, and a key that is there twice is an error.
//! Arbitrary bytes may come in; what goes out is values or errors, and an error never quotes a document that may be a Secret.

use serde_json::Value;
use serde_saphyr::options::DuplicateKeyPolicy;

/// Deeper than any manifest, shallow enough for the stack of a small thread.
const MAX_DEPTH: usize = 64;

/// One document of a file.
#[derive(Debug)]
pub struct Document<'a> {
    /// Its place in the file, counted from 1; documents without content do not count.
    pub index: usize,
    /// The line of the file on which its content begins, counted from 1.
    pub line: usize,
    /// Its text.
    pub text: &'a str,
    /// The line of the file on which `text` begins: before `line` if comments come first.
    pub offset: usize,
    /// What it says.
    pub value: Result<Value, SyntaxError>,
}

/// A document that is no YAML.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SyntaxError {
    /// The line of the file, counted from 1.
    pub line: usize,
    /// What is wrong.
    pub message: String,
}

/// Reads every document of a file.
pub fn documents(text: &str) -> Vec<Document<'_>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut found = Vec::new();
    for (offset, text) in split(text).into_iter().flat_map(|(offset, text)| rows(offset, text)) {
        let Some(blank) = text.lines().position(has_content) else { continue };
        let index = found.len() + 1;
        found.push(Document { index, line: offset + blank, text, offset, value: read(text, offset) });
    }
    found
}

/// Whether a line holds more than a comment, a directive or a separator.
fn has_content(line: &str) -> bool {
    let line = line.trim();
    let after = line.strip_prefix("---").map_or(line, str::trim_start);
    !(after.is_empty() || after.starts_with('#') || line.starts_with('%') || line == "...")
}

/// The texts between separators, with the line on which each begins.
///
/// A `---` at the beginning of a line always separates: no scalar may contain one there.
fn split(text: &str) -> Vec<(usize, &str)> {
    let mut parts = Vec::new();
    let (mut start, mut start_line, mut position) = (0, 1, 0);
    for (number, line) in text.split_inclusive('\n').enumerate() {
        let separates =
            line.strip_prefix("---").is_some_and(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace));
        if separates && position > start {
            parts.push((start_line, text.get(start..position).unwrap_or_default()));
            (start, start_line) = (position, number + 1);
        }
        position += line.len();
    }
    parts.push((start_line, text.get(start..).unwrap_or_default()));
    parts
}

/// Cuts JSON documents that follow one another without a separator (JSON lines, the output of `jq`), each with the line on which its text
/// begins. All else stays as it is, also what begins as JSON and goes on as YAML.
fn rows(offset: usize, text: &str) -> Vec<(usize, &str)> {
    let whole = || vec![(offset, text)];
    let start: usize = text.split_inclusive('\n').take_while(|line| !has_content(line)).map(str::len).sum();
    let body = text.get(start..).unwrap_or_default();
    if !body.trim_start().starts_with('{') {
        return whole();
    }
    let mut values = serde_json::Deserializer::from_str(body).into_iter::<serde::de::IgnoredAny>();
    let mut ends = Vec::new();
    while let Some(Ok(_)) = values.next() {
        ends.push(start + values.byte_offset());
    }
    let after = ends.last().and_then(|end| text.get(*end..)).unwrap_or(text);
    if after.lines().any(has_content) {
        if ends.is_empty() || !after.trim_start().starts_with('{') {
            return whole();
        }
        ends.push(text.len()); // one that is cut off, for its own error
    }
    let mut parts = Vec::with_capacity(ends.len());
    let (mut begin, mut line) = (0, offset);
    for end in ends {
        let part = text.get(begin..end).unwrap_or_default();
        parts.push((line, part));
        (begin, line) = (end, line + part.matches('\n').count());
    }
    parts
}

fn read(text: &str, offset: usize) -> Result<Value, SyntaxError> {
    serde_saphyr::from_str_with_options(text, options()).map_err(|error| {
        let error = error.without_snippet();
        let line = error.location().map_or(0, |place| usize::try_from(place.line()).unwrap_or(0).saturating_sub(1));
        let message = if let serde_saphyr::Error::DuplicateMappingKey { key, .. } = error {
            let key = key.as_ref().filter(|_| !may_be_secret(text)).map(|key| key.chars().take(64).collect::<String>());
            format!("duplicate key{}: remove one of them", key.map(|key| format!(" {key:?}")).unwrap_or_default())
        } else if may_be_secret(text) {
            "is not well-formed YAML (the details could show a secret)".to_owned()
        } else {
            format!("is not well-formed YAML: {}", what(&error.to_string()))
        };
        SyntaxError { line: offset + line, message }
    })
}

/// The options that manifests are read with.
pub(super) fn options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! { max_depth: MAX_DEPTH, max_documents: 2 },
        duplicate_keys: DuplicateKeyPolicy::Error,
        legacy_octal_numbers: true,
        with_snippet: false,
    }
}

/// Whether a text that cannot be read could be that of a Secret. Said too often rather than too seldom.
fn may_be_secret(text: &str) -> bool {
    text.contains("Secret") || text.contains("stringData")
}

/// What is wrong, without the place: that counts from the beginning of the document, and the user's editor from that of the file.
fn what(error: &str) -> &str {
    let line = error.lines().next().unwrap_or_default();
    line.rsplit_once(" at line ").map_or(line, |(what, _)| what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn values(text: &str) -> Vec<Value> {
        documents(text).into_iter().map(|document| document.value.unwrap()).collect()
    }

    #[test]
    fn documents_are_told_apart_and_counted_without_empty_ones() {
        let text = "# hello\n---\na: 1\n---\n# nothing\n---\n\nb: |\n  text\n   --- no\n--- # third\nc: 3\n...\n";
        let found = documents(text);
        let places: Vec<_> = found.iter().map(|document| (document.index, document.line)).collect();
        assert_eq!(places, [(1, 3), (2, 8), (3, 12)]);
        assert_eq!(values(text), [json!({"a": 1}), json!({"b": "text\n --- no\n"}), json!({"c": 3})]);
    }

    #[test]
    fn a_bad_document_does_not_hide_its_neighbours() {
        let found = documents("a: 1\n---\nb: [\nc: }\n---\nd: 4\n");
        assert_eq!(found[0].value.as_ref().unwrap(), &json!({"a": 1}));
        assert!(found[1].value.as_ref().unwrap_err().line >= 3);
        assert_eq!(found[2].value.as_ref().unwrap(), &json!({"d": 4}));
    }

    #[test]
    fn values_are_those_that_kubectl_reads() {
        let text = "a: yes\nb: off\nc: 010\nd: 'yes'\ne: ~\nf: 1.5\ng: 2024-01-01\nh: 1:30\ni: 0x1f\nj: !!str 5\n";
        let read = json!({"a": true, "b": false, "c": 8, "d": "yes", "e": null, "f": 1.5, "g": "2024-01-01", "h": "1:30", "i": 31, "j": "5"});
        assert_eq!(values(text), [read]);
        assert_eq!(values("a: &x {b: 1}\nc: {<<: *x, d: 2}\n"), [json!({"a": {"b": 1}, "c": {"b": 1, "d": 2}})]);
    }

    #[test]
    fn json_is_read_too_also_with_tabs_and_windows_lines() {
        assert_eq!(
            values("{\r\n\t\"a\": [1,\t\"x\"],\r\n\t\"b\": {\"c\": null}\r\n}\r\n"),
            [json!({"a": [1, "x"], "b": {"c": null}})]
        );
        assert_eq!(values("a: 1\r\n---\r\nb: 2\r\n"), [json!({"a": 1}), json!({"b": 2})]);
        assert_eq!(values("\u{feff}a: 1\n"), [json!({"a": 1})]);
    }

    #[test]
    fn json_documents_in_a_row_are_told_apart_and_a_broken_one_hides_no_other() {
        let text = "# from jq\n{\"a\": 1}\n{\n  \"b\": [{}]\n}{\"c\": \"}{\"}\n...\n---\n{d: 4}\n";
        let found = documents(text);
        let places: Vec<_> = found.iter().map(|document| (document.index, document.line)).collect();
        assert_eq!(places, [(1, 2), (2, 3), (3, 5), (4, 8)]);
        assert_eq!(values(text), [json!({"a": 1}), json!({"b": [{}]}), json!({"c": "}{"}), json!({"d": 4})]);

        let found = documents("{\"a\": 1}\n{\"b\": 2}\n\n{\"c\": ");
        assert_eq!(found[1].value.as_ref().unwrap(), &json!({"b": 2}));
        assert_eq!((found.len(), found[2].line), (3, 4));
        assert!(found[2].value.is_err());

        let twice = documents("{\"a\": 1}\n{\"b\": 1, \"b\": 2}\n")[1].value.clone().unwrap_err();
        assert!(twice.line == 2 && twice.message.contains("duplicate"), "{twice}");
        assert_eq!(values("{\"a\": 1, b: 2}\n"), [json!({"a": 1, "b": 2})], "JSON that goes on as YAML");
        assert!(documents("{\"a\": 1}\nb: 2\n")[0].value.is_err(), "neither");
    }

    #[test]
    fn a_key_that_is_there_twice_is_an_error_with_its_line() {
        let error = documents("---\na: 1\nb: 2\na: 3\n")[0].value.clone().unwrap_err();
        assert_eq!(error.line, 4);
        assert_eq!(error.message, "duplicate key \"a\": remove one of them");
        assert!(!error.message.contains("line"), "{error}");
    }

    #[test]
    fn no_error_quotes_a_secret() {
        for text in [
            "kind: Secret\nstringData: {a: hunter2\nb: ]",
            "stringData:\n  hunter2: 1\n  hunter2: 1\n",
            "kind: Secret\nx: !!int hunter2\n",
        ] {
            let error = documents(text)[0].value.clone().unwrap_err();
            assert!(!format!("{error:?} {error}").contains("hunter2"), "{error:?}");
        }
    }

    #[test]
    fn depth_and_aliases_are_bounded() {
        let deep = format!("a: {}{}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(documents(&deep)[0].value.is_err());
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..12 {
            let inner = vec![format!("*a{}", level - 1); 10].join(", ");
            bomb = format!("{bomb}a{level}: &a{level} [{inner}]\n");
        }
        assert!(documents(&bomb)[0].value.is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = documents(&String::from_utf8_lossy(&bytes));
        }

        #[test]
        fn no_almost_yaml_makes_it_panic(text in "([-:?,\\[\\]{}#&*!|>'\"%@`~<= \t\r\n]|a|b|0|\\.|---\n|&a |\\*a|<<: ){0,60}") {
            let _ = documents(&text);
        }
    }
}
