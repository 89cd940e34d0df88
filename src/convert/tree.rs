//! YAML as a tree of values with their lines, so that every message can say where it is about.
//!
//! A scalar keeps its text as well as its type: whether `on`, `0644` or `1.10` is a text is decided by the field that holds it, as in the
//! programs that these files are written for.

use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;
use serde_saphyr::options::DuplicateKeyPolicy;

/// More than any of these files has, and few enough for the stack of a small thread.
const MAX_DEPTH: usize = 64;

/// The most bytes of one input.
pub const MAX_INPUT_BYTES: usize = 16 << 20;

/// A value, and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Node {
    /// The line of the file, counted from 1; 0 if it is not known.
    pub(super) line: usize,
    pub(super) data: Data,
}

/// What a value is.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Data {
    Null,
    /// A plain `true` or `false`, and its text.
    Bool(bool, String),
    /// A plain whole number, and its text.
    Integer(i64, String),
    /// Any other scalar.
    Text(String),
    /// A scalar with the tag `!!binary`, still in base64.
    Binary(String),
    List(Vec<Node>),
    Map(Vec<MapEntry>),
}

/// One field of a map.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct MapEntry {
    pub(super) key: String,
    /// The line of the key.
    pub(super) line: usize,
    pub(super) value: Node,
}

/// Why a text is no YAML. It quotes nothing of the text, which may contain passwords.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NotYaml {
    pub(super) line: usize,
    pub(super) message: String,
}

impl Node {
    /// The field `key` of a map.
    pub(super) fn get(&self, key: &str) -> Option<&Self> {
        self.entries().iter().find(|entry| entry.key == key).map(|entry| &entry.value)
    }

    /// The fields of a map; none for anything else.
    pub(super) fn entries(&self) -> &[MapEntry] {
        match &self.data {
            Data::Map(entries) => entries,
            _ => &[],
        }
    }

    /// The items of a list; none for anything else.
    pub(super) fn items(&self) -> &[Self] {
        match &self.data {
            Data::List(items) => items,
            _ => &[],
        }
    }

    /// The text of a scalar.
    pub(super) fn scalar(&self) -> Option<&str> {
        match &self.data {
            Data::Text(text) | Data::Bool(_, text) | Data::Integer(_, text) => Some(text),
            Data::Null | Data::Binary(_) | Data::List(_) | Data::Map(_) => None,
        }
    }

    pub(super) const fn is_null(&self) -> bool {
        matches!(self.data, Data::Null)
    }

    /// What it is, for messages.
    pub(super) const fn kind(&self) -> &'static str {
        match self.data {
            Data::Null => "nothing",
            Data::Bool(..) => "a boolean",
            Data::Integer(..) => "a number",
            Data::Text(_) => "a text",
            Data::Binary(_) => "binary data",
            Data::List(_) => "a list",
            Data::Map(_) => "a map",
        }
    }
}

/// The documents of a text that have content, in order.
pub(super) fn documents(text: &str) -> Result<Vec<Node>, NotYaml> {
    if text.len() > MAX_INPUT_BYTES {
        let message = format!("is larger than {} MiB: split it", MAX_INPUT_BYTES >> 20);
        return Err(NotYaml { line: 0, message });
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut found = Vec::new();
    for (first_line, part) in split(text) {
        if !part.lines().any(has_content) {
            continue;
        }
        let parsed: Result<Spanned<Tree>, _> = serde_saphyr::from_str_with_options(part, options());
        let mut document = match parsed {
            Ok(parsed) => node_of(parsed, part),
            Err(error) => return Err(not_yaml(&error, first_line)),
        };
        shift(&mut document, first_line - 1);
        if !document.is_null() {
            found.push(document);
        }
    }
    Ok(found)
}

fn options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! { max_depth: MAX_DEPTH, max_documents: 2 },
        duplicate_keys: DuplicateKeyPolicy::Error,
        legacy_octal_numbers: true,
        strict_booleans: true,
        ignore_binary_tag_for_string: true,
        with_snippet: false,
    }
}

fn not_yaml(error: &serde_saphyr::Error, first_line: usize) -> NotYaml {
    let error = error.without_snippet();
    let line = error.location().map_or(1, |place| place.line());
    let line = first_line - 1 + usize::try_from(line).unwrap_or(1);
    let message = match error {
        // A key is no secret where passwords are values; a long one may be anything.
        serde_saphyr::Error::DuplicateMappingKey { key: Some(key), .. } if key.len() <= 64 => {
            format!("has the key {key:?} twice: remove one of them")
        }
        serde_saphyr::Error::DuplicateMappingKey { .. } => "has a key twice: remove one of them".to_owned(),
        _ => "is not well-formed YAML".to_owned(),
    };
    NotYaml { line, message }
}

/// The texts between separators, each with its first line. A `---` at the beginning of a line always separates.
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

/// Whether a line holds more than a comment, a directive or a separator.
fn has_content(line: &str) -> bool {
    let line = line.trim();
    let after = line.strip_prefix("---").map_or(line, str::trim_start);
    !(after.is_empty() || after.starts_with('#') || line.starts_with('%') || line == "...")
}

fn shift(node: &mut Node, lines: usize) {
    if lines == 0 {
        return;
    }
    node.line += lines;
    match &mut node.data {
        Data::List(items) => items.iter_mut().for_each(|item| shift(item, lines)),
        Data::Map(entries) => {
            for entry in entries {
                entry.line += lines;
                shift(&mut entry.value, lines);
            }
        }
        _ => {}
    }
}

/// What the parser gives: the text of plain scalars is still in the source.
enum Tree {
    Null,
    Bool(bool),
    Integer(i64),
    Number,
    Text(String),
    List(Vec<Spanned<Self>>),
    Map(Vec<(Spanned<String>, Spanned<Self>)>),
}

fn node_of(tree: Spanned<Tree>, source: &str) -> Node {
    let place = tree.defined;
    let line = usize::try_from(tree.referenced.line()).unwrap_or(0);
    let written = || {
        let span = place.span();
        let start = usize::try_from(span.byte_offset()?).ok()?;
        let end = start.checked_add(usize::try_from(span.byte_len()?).ok()?)?;
        Some((source.get(..start)?, source.get(start..end)?.trim()))
    };
    let plain = || written().map(|(_, text)| untagged(text).to_owned());
    let data = match tree.value {
        Tree::Null => Data::Null,
        Tree::Bool(value) => Data::Bool(value, plain().unwrap_or_else(|| value.to_string())),
        Tree::Integer(value) => Data::Integer(value, plain().unwrap_or_else(|| value.to_string())),
        Tree::Number => plain().map_or(Data::Null, Data::Text),
        Tree::Text(text) => {
            let is_binary = written().is_some_and(|(before, text)| {
                let before = before.trim_end().trim_end_matches(['|', '>', '-', '+']).trim_end();
                before.ends_with("!!binary") || text.starts_with("!!binary")
            });
            if is_binary { Data::Binary(text) } else { Data::Text(text) }
        }
        Tree::List(items) => Data::List(items.into_iter().map(|item| node_of(item, source)).collect()),
        Tree::Map(entries) => Data::Map(
            entries
                .into_iter()
                .map(|(key, value)| MapEntry {
                    line: usize::try_from(key.referenced.line()).unwrap_or(0),
                    key: key.value,
                    value: node_of(value, source),
                })
                .collect(),
        ),
    };
    Node { line, data }
}

/// A plain scalar without its tag and its anchor.
fn untagged(text: &str) -> &str {
    let mut rest = text;
    while rest.starts_with(['!', '&']) {
        rest = rest.split_once(char::is_whitespace).map_or("", |(_, rest)| rest.trim_start());
    }
    rest
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TreeVisitor)
    }
}

struct TreeVisitor;

impl<'de> Visitor<'de> for TreeVisitor {
    type Value = Tree;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Tree, E> {
        Ok(Tree::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Tree, E> {
        Ok(Tree::Integer(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Tree, E> {
        Ok(i64::try_from(value).map_or(Tree::Number, Tree::Integer))
    }

    fn visit_i128<E>(self, _: i128) -> Result<Tree, E> {
        Ok(Tree::Number)
    }

    fn visit_u128<E>(self, _: u128) -> Result<Tree, E> {
        Ok(Tree::Number)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Tree, E> {
        Ok(Tree::Number)
    }

    fn visit_str<E>(self, text: &str) -> Result<Tree, E> {
        Ok(Tree::Text(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<Tree, E> {
        Ok(Tree::Text(text))
    }

    fn visit_unit<E>(self) -> Result<Tree, E> {
        Ok(Tree::Null)
    }

    fn visit_none<E>(self) -> Result<Tree, E> {
        Ok(Tree::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Tree, D::Error> {
        Tree::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Tree, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element::<Spanned<Tree>>()? {
            items.push(item);
        }
        Ok(Tree::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Tree, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = map.next_key::<Spanned<String>>()? {
            entries.push((key, map.next_value::<Spanned<Tree>>()?));
        }
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Tree::Map(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn one(text: &str) -> Node {
        documents(text).unwrap().remove(0)
    }

    #[test]
    fn scalars_keep_their_text_and_their_line() {
        let node =
            one("# c\na: on\nb: 0100\nc: 1.10\nd: true\ne:\nf: 'x'\ng: True\nh: !!str 5\ni: 18446744073709551615\n");
        let data = |key: &str| node.get(key).unwrap().data.clone();
        assert_eq!(data("a"), Data::Text("on".to_owned()));
        assert_eq!(data("b"), Data::Integer(64, "0100".to_owned()));
        assert_eq!(data("c"), Data::Text("1.10".to_owned()));
        assert_eq!(data("d"), Data::Bool(true, "true".to_owned()));
        assert_eq!(data("e"), Data::Null);
        assert_eq!(data("f"), Data::Text("x".to_owned()));
        assert!(matches!(data("g"), Data::Bool(true, text) | Data::Text(text) if text == "True"), "{:?}", data("g"));
        assert_eq!(data("h"), Data::Text("5".to_owned()));
        assert_eq!(data("i"), Data::Text("18446744073709551615".to_owned()));
        assert_eq!(node.get("f").unwrap().line, 7);
    }

    #[test]
    fn binary_data_is_told_apart_also_as_a_block() {
        let node = one("a: !!binary AAAACATSFi8=\nb: !!binary |\n  AAAA\n  BBBB\nc: AAAA\n");
        assert_eq!(node.get("a").unwrap().data, Data::Binary("AAAACATSFi8=".to_owned()));
        assert!(matches!(&node.get("b").unwrap().data, Data::Binary(text) if text.starts_with("AAAA")), "{node:?}");
        assert_eq!(node.get("c").unwrap().data, Data::Text("AAAA".to_owned()));
    }

    #[test]
    fn lines_count_from_the_beginning_of_the_file() {
        let found = documents("# x\n---\na: 1\n---\n\nb:\n  - c: 2\n").unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!(found[1].get("b").unwrap().items()[0].get("c").unwrap().line, 7);
        assert_eq!(found[1].entries()[0].line, 6);
    }

    #[test]
    fn anchors_and_merges_are_resolved() {
        let node = one("x: &x {a: 1}\ny: {<<: *x, b: 2}\nz: *x\n");
        assert_eq!(node.get("y").unwrap().get("a").unwrap().data, Data::Integer(1, "1".to_owned()));
        assert_eq!(node.get("z").unwrap().get("a").unwrap().data, Data::Integer(1, "1".to_owned()));
    }

    #[test]
    fn what_is_no_yaml_is_said_with_its_line_and_without_its_text() {
        let error = documents("a: 1\n---\npassword: [hunter2\nb: }\n").unwrap_err();
        assert!(error.line >= 3 && !error.message.contains("hunter2"), "{error:?}");
        let twice = documents("a: 1\nb: 2\na: 3\n").unwrap_err();
        assert_eq!((twice.line, twice.message.as_str()), (3, "has the key \"a\" twice: remove one of them"));
        assert!(documents(&format!("a: {}{}", "[".repeat(9_999), "]".repeat(9_999))).is_err());
        assert!(documents(&" ".repeat(MAX_INPUT_BYTES + 1)).is_err());
    }

    proptest! {
        #[test]
        fn no_almost_yaml_makes_it_panic(text in "([-:?,\\[\\]{}#&*!|>'\"%@`~<= \t\r\n]|a|é|0|\\.|---\n|&a |\\*a|<<: |!!binary ){0,60}") {
            let _ = documents(&text);
        }
    }
}
