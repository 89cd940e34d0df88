//! Splits a stream of YAML or JSON into documents and parses each on its own, so that an invalid one does not hide the others.
//!
//! Values are parsed as kubectl parses them: with the booleans and octal numbers of YAML 1.1, and a duplicate key is an error. The input
//! may be arbitrary bytes. An error never quotes a document that may be a Secret.

use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_saphyr::Spanned;
use serde_saphyr::options::DuplicateKeyPolicy;

/// More than any manifest has, and few enough for the stack of a small thread.
const MAX_DEPTH: usize = 64;

/// One document of a file.
#[derive(Debug)]
pub struct YamlDocument<'a> {
    /// Its number in the file, counted from 1 without documents that have no content.
    pub index: usize,
    /// The line of the file on which its content begins, counted from 1.
    pub line: usize,
    /// Its text.
    pub text: &'a str,
    /// The line of the file on which `text` begins; it is before `line` if comments come first.
    pub offset: usize,
    /// Its content.
    pub value: Result<Value, SyntaxError>,
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

/// Reads every document of a file.
pub fn documents(text: &str) -> Vec<YamlDocument<'_>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut found = Vec::new();
    for (offset, text) in split(text).into_iter().flat_map(|(offset, text)| json_documents(offset, text)) {
        let Some(blank) = text.lines().position(has_content) else { continue };
        let index = found.len() + 1;
        found.push(YamlDocument { index, line: offset + blank, text, offset, value: read(text, offset) });
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

fn read(text: &str, offset: usize) -> Result<Value, SyntaxError> {
    serde_saphyr::from_str_with_options(text, options(DuplicateKeyPolicy::Error)).map_err(|error| {
        let error = error.without_snippet();
        let line = error.location().map_or(0, |place| place.line());
        let mut path = String::new();
        let message = if let serde_saphyr::Error::DuplicateMappingKey { key, .. } = error {
            let key = key.as_deref().filter(|_| !may_be_secret(text));
            path = key.and_then(|key| path_of(text, key, line)).unwrap_or_default();
            let shown = key.map(|key| format!(" {:?}", key.chars().take(64).collect::<String>()));
            format!("duplicate key{}: remove one of them", shown.unwrap_or_default())
        } else if may_be_secret(text) {
            "is not well-formed YAML (the details could show a secret)".to_owned()
        } else {
            format!("is not well-formed YAML: {}", message_of(&error.to_string()))
        };
        let line = offset + usize::try_from(line).unwrap_or(0).saturating_sub(1);
        SyntaxError { line, path, message }
    })
}

fn options(duplicate_keys: DuplicateKeyPolicy) -> serde_saphyr::Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! { max_depth: MAX_DEPTH, max_documents: 2 },
        duplicate_keys: duplicate_keys,
        legacy_octal_numbers: true,
        with_snippet: false,
    }
}

/// Whether a text that cannot be parsed could be a Secret. In doubt it is taken for one.
fn may_be_secret(text: &str) -> bool {
    text.contains("Secret") || text.contains("stringData")
}

/// The message of an error without its place, which counts from the beginning of the document and not of the file.
fn message_of(error: &str) -> &str {
    let line = error.lines().next().unwrap_or_default();
    line.rsplit_once(" at line ").map_or(line, |(message, _)| message)
}

/// The structure of a document: its fields with their lines, without their values. It is only needed for error messages, so the text is
/// parsed again for it.
enum Shape {
    Leaf,
    List(Vec<(u64, Self)>),
    Map(Vec<(String, u64, Self)>),
}

/// The line of the field at `path` (`spec.headers[2].name`) in `text`, counted from 0. A field that does not exist has the line of the
/// innermost one around it. `None` if the text cannot be parsed.
pub(super) fn line_of(text: &str, path: &str) -> Option<usize> {
    let mut shape: Shape = serde_saphyr::from_str_with_options(text, options(DuplicateKeyPolicy::Error)).ok()?;
    let mut line = None;
    let mut rest = path;
    while !rest.is_empty() {
        let step = take_step(&mut rest);
        let next = match shape {
            Shape::Leaf => None,
            Shape::List(items) => step.parse().ok().and_then(|index| items.into_iter().nth(index)),
            Shape::Map(fields) => {
                fields.into_iter().find(|(key, ..)| key == step).map(|(_, line, inner)| (line, inner))
            }
        };
        let Some((at, inner)) = next else { break };
        (line, shape) = (Some(at), inner);
    }
    line.and_then(|line| usize::try_from(line).ok()).map(|line| line.saturating_sub(1))
}

/// Removes the first step of a path: `spec` of `spec.labels[a.b]`, then `labels`, then `a.b`.
fn take_step<'a>(path: &mut &'a str) -> &'a str {
    let text = path.trim_start_matches('.');
    let (step, rest) = match text.strip_prefix('[') {
        Some(inner) => inner.split_once(']').unwrap_or((inner, "")),
        None => text.split_at(text.find(['.', '[']).unwrap_or(text.len())),
    };
    *path = rest;
    step
}

/// The path of the duplicate `key` on this line, counted from 1, in a document that is no valid manifest because of it.
fn path_of(text: &str, key: &str, line: u64) -> Option<String> {
    /// Keys may have any length.
    const LONGEST: usize = 256;
    let shape: Shape = serde_saphyr::from_str_with_options(text, options(DuplicateKeyPolicy::LastWins)).ok()?;
    shape.path_of(key, line).filter(|path| path.len() <= LONGEST)
}

impl Shape {
    fn path_of(&self, wanted: &str, wanted_line: u64) -> Option<String> {
        match self {
            Self::Leaf => None,
            Self::List(items) => items.iter().enumerate().find_map(|(index, (_, item))| {
                let path = item.path_of(wanted, wanted_line)?;
                let dot = if path.starts_with('[') { "" } else { "." };
                Some(format!("[{index}]{dot}{path}"))
            }),
            Self::Map(fields) => fields.iter().find_map(|(key, line, inner)| {
                if key == wanted && *line == wanted_line {
                    return Some(key.clone());
                }
                let path = inner.path_of(wanted, wanted_line)?;
                let dot = if path.starts_with('[') { "" } else { "." };
                Some(format!("{key}{dot}{path}"))
            }),
        }
    }
}

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ShapeVisitor)
    }
}

struct ShapeVisitor;

/// Scalars of any type are leaves.
macro_rules! leaves {
    ($($visit:ident: $type:ty),+) => {
        $(fn $visit<E>(self, _: $type) -> Result<Shape, E> {
            Ok(Shape::Leaf)
        })+
    };
}

impl<'de> Visitor<'de> for ShapeVisitor {
    type Value = Shape;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    leaves!(visit_bool: bool, visit_i64: i64, visit_u64: u64, visit_i128: i128, visit_u128: u128, visit_f64: f64, visit_str: &str);

    fn visit_unit<E>(self) -> Result<Shape, E> {
        Ok(Shape::Leaf)
    }

    fn visit_none<E>(self) -> Result<Shape, E> {
        Ok(Shape::Leaf)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Shape, D::Error> {
        Shape::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Shape, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element::<Spanned<Shape>>()? {
            items.push((item.referenced.line(), item.value));
        }
        Ok(Shape::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Shape, A::Error> {
        let mut fields = Vec::new();
        while let Some(key) = map.next_key::<Spanned<String>>()? {
            fields.push((key.value, key.referenced.line(), map.next_value::<Shape>()?));
        }
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Shape::Map(fields))
    }
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
    fn a_duplicate_key_is_an_error_with_its_line_and_its_path() {
        let error = documents("---\na: 1\nb: 2\na: 3\n")[0].value.clone().unwrap_err();
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
            assert_eq!(documents(text)[0].value.clone().unwrap_err().path, path, "{text}");
        }
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

    const TEXT: &str = "kind: x\nspec:\n  labels:\n    a.b: 1\n  headers:\n    - name: p\n    - name: q\n      value: 7\n  list: [1,\n    2]\n";

    #[test]
    fn fields_are_found_on_their_lines() {
        for (path, line) in [
            ("kind", Some(0)),
            ("spec", Some(1)),
            ("spec.labels[a.b]", Some(3)),
            ("spec.headers[1]", Some(6)),
            ("spec.headers[1].value", Some(7)),
            ("spec.list[1]", Some(9)),
            ("spec.headers[1].secret.name", Some(6)),
            ("spec.url", Some(1)),
            ("", None),
            ("other", None),
        ] {
            assert_eq!(line_of(TEXT, path), line, "{path}");
        }
        assert_eq!(line_of("a: [", "a"), None);
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
