//! Splits a stream of YAML or JSON into documents and parses each on its own, so that an invalid one does not hide the others.
//!
//! Values are parsed as kubectl parses them: with the booleans and octal numbers of YAML 1.1, and a duplicate key is an error. The input
//! may be arbitrary bytes. An error never quotes a document that may be a Secret.

use serde_json::Value;

use crate::yaml::{AliasAllowance, Dialect, Node, YamlError, YamlFault, has_content, read_within, split};

/// One document of a file.
#[derive(Debug)]
pub struct YamlDocument {
    /// Its number in the file, counted from 1 without documents that have no content.
    pub index: usize,
    /// The line of the file on which its content begins, counted from 1.
    pub line: usize,
    /// Its content.
    pub content: Result<Node, SyntaxError>,
}

impl YamlDocument {
    /// Its content without lines.
    pub fn value(&self) -> Result<Value, &SyntaxError> {
        self.content.as_ref().map(Node::to_value)
    }
}

/// Why a document cannot be parsed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SyntaxError {
    /// The line of the file, counted from 1.
    pub line: usize,
    /// The field, if the error is about one.
    pub path: String,
    /// What is wrong.
    pub message: String,
}

/// Reads every document of a file, one after another.
pub fn documents(text: &str) -> impl Iterator<Item = YamlDocument> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let parts = split(text).into_iter().flat_map(|(first_line, text)| json_documents(first_line, text));
    let with_content =
        parts.filter_map(|(first_line, text)| Some((first_line, text.lines().position(has_content)?, text)));
    let mut allowance = AliasAllowance::default();
    with_content.enumerate().map(move |(index, (first_line, blank, text))| YamlDocument {
        index: index + 1,
        line: first_line + blank,
        content: read(text, first_line, &mut allowance),
    })
}

/// Splits JSON documents that follow one another without a separator (JSON lines, the output of `jq`), each with the line on which its
/// text begins. Any other text is returned whole, also one that begins as JSON and continues as YAML.
fn json_documents(offset: usize, text: &str) -> Vec<(usize, &str)> {
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
        ends.push(text.len()); // an incomplete one, which gets an error of its own
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

fn read(text: &str, first_line: usize, allowance: &mut AliasAllowance) -> Result<Node, SyntaxError> {
    read_within(text, first_line, Dialect::Kubernetes, allowance).map_err(|YamlError { line, fault }| match fault {
        YamlFault::DuplicateKey { .. } if may_be_secret(text) => {
            SyntaxError { line, path: String::new(), message: "duplicate key: remove one of them".to_owned() }
        }
        YamlFault::DuplicateKey { key, path } => {
            let shown = key.chars().take(64).collect::<String>();
            SyntaxError { line, path, message: format!("duplicate key {shown:?}: remove one of them") }
        }
        YamlFault::SecondDocument => {
            let message = "there is a second document: in a file of targets, begin it with a line ---".to_owned();
            SyntaxError { line, path: String::new(), message }
        }
        YamlFault::TooLarge(message) => SyntaxError { line, path: String::new(), message },
        YamlFault::Malformed(_) if may_be_secret(text) => {
            let message = "is not well-formed YAML (the details could show a secret)".to_owned();
            SyntaxError { line, path: String::new(), message }
        }
        YamlFault::Malformed(why) => {
            SyntaxError { line, path: String::new(), message: format!("is not well-formed YAML: {why}") }
        }
    })
}

/// Whether a text that cannot be parsed could be a Secret. In doubt it is taken for one.
fn may_be_secret(text: &str) -> bool {
    text.contains("Secret") || text.contains("stringData")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn all(text: &str) -> Vec<YamlDocument> {
        documents(text).collect()
    }

    fn values(text: &str) -> Vec<Value> {
        documents(text).map(|document| document.value().unwrap()).collect()
    }

    #[test]
    fn documents_are_told_apart_and_counted_without_empty_ones() {
        let text = "# hello\n---\na: 1\n---\n# nothing\n---\n\nb: |\n  text\n   --- no\n--- # third\nc: 3\n...\n";
        let found = all(text);
        let places: Vec<_> = found.iter().map(|document| (document.index, document.line)).collect();
        assert_eq!(places, [(1, 3), (2, 8), (3, 12)]);
        assert_eq!(values(text), [json!({"a": 1}), json!({"b": "text\n --- no\n"}), json!({"c": 3})]);
    }

    #[test]
    fn a_second_document_without_a_separator_is_refused_with_what_to_write() {
        let error = all("kind: Secret\n...\na: 1\n")[0].content.clone().unwrap_err();
        let wanted = "there is a second document: in a file of targets, begin it with a line ---";
        assert_eq!((error.line, error.message.as_str()), (3, wanted));
    }

    #[test]
    fn all_documents_of_a_file_share_what_aliases_may_repeat() {
        let document = format!("a: &a [{}]\nb: [*a, *a]\n", vec!["x"; 9_999].join(", "));
        let found = all(&[document.as_str(); 5].join("---\n"));
        let good = found.iter().filter(|document| document.content.is_ok()).count();
        assert_eq!((found.len(), good), (5, 3));
        let error = found[4].content.clone().unwrap_err();
        assert!(error.message.starts_with("repeats more than 100000 values"), "{error}");
    }

    #[test]
    fn a_bad_document_does_not_hide_its_neighbours() {
        let found = all("a: 1\n---\nb: [\nc: }\n---\nd: 4\n");
        assert_eq!(found[0].content.as_ref().unwrap().to_value(), json!({"a": 1}));
        assert!(found[1].content.as_ref().unwrap_err().line >= 3);
        assert_eq!(found[2].content.as_ref().unwrap().to_value(), json!({"d": 4}));
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
        let found = all(text);
        let places: Vec<_> = found.iter().map(|document| (document.index, document.line)).collect();
        assert_eq!(places, [(1, 2), (2, 3), (3, 5), (4, 8)]);
        assert_eq!(values(text), [json!({"a": 1}), json!({"b": [{}]}), json!({"c": "}{"}), json!({"d": 4})]);

        let found = all("{\"a\": 1}\n{\"b\": 2}\n\n{\"c\": ");
        assert_eq!(found[1].content.as_ref().unwrap().to_value(), json!({"b": 2}));
        assert_eq!((found.len(), found[2].line), (3, 4));
        assert!(found[2].content.is_err());

        let twice = all("{\"a\": 1}\n{\"b\": 1, \"b\": 2}\n")[1].content.clone().unwrap_err();
        assert!(twice.line == 2 && twice.message.contains("duplicate"), "{twice}");
        assert_eq!(values("{\"a\": 1, b: 2}\n"), [json!({"a": 1, "b": 2})], "JSON that goes on as YAML");
        assert!(all("{\"a\": 1}\nb: 2\n")[0].content.is_err(), "neither");
    }

    #[test]
    fn a_duplicate_key_is_an_error_with_its_line_and_its_path() {
        let error = all("---\na: 1\nb: 2\na: 3\n")[0].content.clone().unwrap_err();
        assert_eq!(error.line, 4);
        assert_eq!(error.message, "duplicate key \"a\": remove one of them");
        assert!(!error.message.contains("line"), "{error}");
        assert_eq!(error.path, "a");
        for (text, path) in [
            ("spec:\n  url: x\n  interval: 1s\n  interval: 2s\n", "spec.interval"),
            ("items:\n- a: 1\n- spec:\n    headers: [{name: a, name: b}]\n", "items[1].spec.headers[0].name"),
            ("a: 1\nspec: {a: 2, b: {a: 3,\n a: 4}}\n", "spec.b.a"),
            ("kind: Secret\ndata:\n  a: x\n  a: y\n", ""),
        ] {
            assert_eq!(all(text)[0].content.clone().unwrap_err().path, path, "{text}");
        }
    }

    #[test]
    fn no_error_quotes_a_secret() {
        for text in [
            "kind: Secret\nstringData: {a: hunter2\nb: ]",
            "stringData:\n  hunter2: 1\n  hunter2: 1\n",
            "kind: Secret\nx: !!int hunter2\n",
        ] {
            let error = all(text)[0].content.clone().unwrap_err();
            assert!(!format!("{error:?} {error}").contains("hunter2"), "{error:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = all(&String::from_utf8_lossy(&bytes));
        }

        #[test]
        fn no_almost_yaml_makes_it_panic(text in "([-:?,\\[\\]{}#&*!|>'\"%@`~<= \t\r\n]|a|b|0|\\.|---\n|&a |\\*a|<<: ){0,60}") {
            let _ = all(&text);
        }
    }
}
