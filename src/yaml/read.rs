//! Events of the parser as a tree.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use granit_parser::{ErrorKind, Event, Parser, ScalarStyle, Tag};

use super::scalar::{key, repeated_key, value};
use super::{Data, Dialect, MapEntry, Node};

/// The most levels of lists and maps: more than any manifest has, and few enough for the stack of a small thread.
const MAX_DEPTH: usize = 64;

/// The most values that are written in one document.
const MAX_VALUES: usize = 1_000_000;

/// The most values of one file that its aliases repeat and its anchors keep to be repeated. A value takes some 100 bytes, and an alias of
/// two characters could stand for any number of them.
const MAX_REPEATED_VALUES: usize = 100_000;

/// The most bytes of their texts.
const MAX_REPEATED_BYTES: usize = 16 << 20;

/// The longest path that is told: keys may have any length.
const LONGEST_PATH: usize = 256;

/// Why a document cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct YamlError {
    /// The line of the file, counted from 1.
    pub line: usize,
    /// What is wrong there.
    pub fault: YamlFault,
}

/// What is wrong with a document.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum YamlFault {
    /// A map has a key twice.
    #[error("has a key twice: remove one of them")]
    DuplicateKey {
        /// The key.
        key: String,
        /// The path of the field; empty if it is too long to be told.
        path: String,
    },
    /// Another document begins.
    #[error("holds a second document, and only one is read: remove it")]
    SecondDocument,
    /// It holds more than is read, and what to do about it. It quotes nothing of the document.
    #[error("{0}")]
    TooLarge(String),
    /// It is no YAML. The text may quote the document.
    #[error("is not well-formed YAML: {0}")]
    Malformed(String),
}

/// What the anchors and aliases in the documents of one file may still repeat.
#[derive(Debug)]
pub struct AliasAllowance {
    values: usize,
    bytes: usize,
}

impl Default for AliasAllowance {
    fn default() -> Self {
        Self { values: MAX_REPEATED_VALUES, bytes: MAX_REPEATED_BYTES }
    }
}

impl AliasAllowance {
    /// Counts what is repeated, before anything is copied.
    fn spend(&mut self, size: NodeSize, line: usize) -> Result<(), YamlError> {
        let refusal = |what: &str| {
            let why = format!(
                "repeats more than {what} by anchors and aliases, those of earlier documents counted: write fewer of them, or split the file"
            );
            Err(too_large(why, line))
        };
        let Some(values) = self.values.checked_sub(size.values) else {
            return refusal(&format!("{MAX_REPEATED_VALUES} values"));
        };
        let Some(bytes) = self.bytes.checked_sub(size.bytes) else {
            return refusal(&format!("{} MiB of text", MAX_REPEATED_BYTES >> 20));
        };
        (self.values, self.bytes) = (values, bytes);
        Ok(())
    }
}

/// Reads the only document of a text whose first line is `first_line` of the file. A text without any is nothing.
pub fn read(text: &str, first_line: usize, dialect: Dialect) -> Result<Node, YamlError> {
    read_within(text, first_line, dialect, &mut AliasAllowance::default())
}

/// Reads one document of several, whose anchors and aliases share an allowance.
pub fn read_within(
    text: &str,
    first_line: usize,
    dialect: Dialect,
    allowance: &mut AliasAllowance,
) -> Result<Node, YamlError> {
    let mut options = granit_parser::Options::default();
    options.set_emit_comments(false);
    let mut tree =
        TreeBuilder { dialect, open: Vec::new(), root: None, anchors: BTreeMap::new(), written: 0, allowance };
    let mut documents = 0;
    let absolute = |line: usize| (first_line + line).saturating_sub(1).max(first_line);
    for event in Parser::new_from_str_with_options(text, options) {
        let (event, span) = event.map_err(|error| {
            let line = absolute(error.marker().line());
            match error.kind() {
                // The parser looks ahead of the events.
                ErrorKind::RecursionLimitExceeded => too_deep(line),
                _ => malformed(&error.info(), line),
            }
        })?;
        let line = absolute(span.start.line());
        if matches!(event, Event::DocumentStart(..)) {
            documents += 1;
            if documents > 1 {
                return Err(YamlError { line, fault: YamlFault::SecondDocument });
            }
        }
        tree.take(event, line)?;
    }
    Ok(tree.root.unwrap_or(Node { line: first_line, data: Data::Null }))
}

fn malformed(why: &str, line: usize) -> YamlError {
    YamlError { line, fault: YamlFault::Malformed(why.to_owned()) }
}

fn too_large(why: String, line: usize) -> YamlError {
    YamlError { line, fault: YamlFault::TooLarge(why) }
}

fn too_deep(line: usize) -> YamlError {
    too_large(format!("is nested deeper than {MAX_DEPTH} levels: write it flatter"), line)
}

/// A tree that grows with every event.
struct TreeBuilder<'a> {
    dialect: Dialect,
    /// The lists and maps that have begun and not ended.
    open: Vec<OpenNode>,
    root: Option<Node>,
    anchors: BTreeMap<usize, AnchoredNode>,
    /// The values that have been written, without what aliases repeat.
    written: usize,
    allowance: &'a mut AliasAllowance,
}

/// How much a node holds, with what aliases in it repeat.
#[derive(Clone, Copy, Default)]
struct NodeSize {
    values: usize,
    /// Of its texts.
    bytes: usize,
    /// The levels of lists and maps.
    height: usize,
}

impl NodeSize {
    const fn of_scalar(bytes: usize) -> Self {
        Self { values: 1, bytes, height: 0 }
    }

    /// Adds a node within this one.
    fn add(&mut self, inner: Self) {
        self.values += inner.values;
        self.bytes += inner.bytes;
        self.height = self.height.max(inner.height);
    }
}

/// A list or a map that has not ended.
struct OpenNode {
    line: usize,
    anchor: usize,
    /// How much has been read of what is within it.
    size: NodeSize,
    content: OpenContent,
}

enum OpenContent {
    List(Vec<Node>),
    Map { entries: Vec<MapEntry>, keys: BTreeSet<String>, key: Option<OpenKey>, merged: Vec<MapEntry> },
}

/// A key whose value has not been read.
struct OpenKey {
    text: String,
    line: usize,
    /// Whether its value is merged into the map.
    merges: bool,
}

/// What aliases repeat.
struct AnchoredNode {
    node: Node,
    size: NodeSize,
}

impl TreeBuilder<'_> {
    fn take(&mut self, event: Event<'_>, line: usize) -> Result<(), YamlError> {
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                self.scalar(text.into_owned(), style, anchor, tag.as_deref(), line)
            }
            Event::SequenceStart(_, anchor, _) => self.begin(OpenContent::List(Vec::new()), anchor, line),
            Event::MappingStart(_, anchor, _) => {
                let content =
                    OpenContent::Map { entries: Vec::new(), keys: BTreeSet::new(), key: None, merged: Vec::new() };
                self.begin(content, anchor, line)
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(line),
            Event::Alias(anchor) => self.alias(anchor, line),
            _ => Ok(()),
        }
    }

    /// Counts a value that is written.
    fn count(&mut self, line: usize) -> Result<(), YamlError> {
        self.written += 1;
        if self.written <= MAX_VALUES {
            return Ok(());
        }
        Err(too_large(format!("holds more than {MAX_VALUES} values: split it"), line))
    }

    /// Whether the next node is a key.
    fn expects_key(&self) -> bool {
        matches!(self.open.last(), Some(OpenNode { content: OpenContent::Map { key: None, .. }, .. }))
    }

    /// Takes a key of the innermost map.
    fn key(&mut self, text: String, merges: bool, size: NodeSize, line: usize) -> Result<(), YamlError> {
        let Some(OpenNode { content: OpenContent::Map { keys, key, .. }, size: of_map, .. }) = self.open.last_mut()
        else {
            return Ok(());
        };
        of_map.add(size);
        if !merges && !keys.insert(text.clone()) {
            let path = self.path_to(&text);
            return Err(YamlError { line, fault: YamlFault::DuplicateKey { key: text, path } });
        }
        *key = Some(OpenKey { text, line, merges });
        Ok(())
    }

    fn scalar(
        &mut self,
        text: String,
        style: ScalarStyle,
        anchor: usize,
        tag: Option<&Tag>,
        line: usize,
    ) -> Result<(), YamlError> {
        self.count(line)?;
        let size = NodeSize::of_scalar(text.len());
        let wrong = |why: String| malformed(&why, line);
        if self.expects_key() {
            let merges = text == "<<" && style == ScalarStyle::Plain;
            let name = key(&text, style, tag, self.dialect).map_err(wrong)?;
            if anchor != 0 {
                let data = value(text, style, tag, self.dialect).map_err(wrong)?;
                self.keep(anchor, &Node { line, data }, size, line)?;
            }
            return self.key(name, merges, size, line);
        }
        let data = value(text, style, tag, self.dialect).map_err(wrong)?;
        let node = Node { line, data };
        self.keep(anchor, &node, size, line)?;
        self.place(node, size)
    }

    /// Keeps a copy of a node that has an anchor.
    fn keep(&mut self, anchor: usize, node: &Node, size: NodeSize, line: usize) -> Result<(), YamlError> {
        if anchor != 0 {
            self.allowance.spend(size, line)?;
            self.anchors.insert(anchor, AnchoredNode { node: node.clone(), size });
        }
        Ok(())
    }

    fn begin(&mut self, content: OpenContent, anchor: usize, line: usize) -> Result<(), YamlError> {
        if self.expects_key() {
            return Err(malformed("a key is a list or a map: write a text", line));
        }
        if self.open.len() == MAX_DEPTH {
            return Err(too_deep(line));
        }
        self.count(line)?;
        self.open.push(OpenNode { line, anchor, size: NodeSize::default(), content });
        Ok(())
    }

    fn end(&mut self, line: usize) -> Result<(), YamlError> {
        let Some(open) = self.open.pop() else { return Ok(()) };
        let data = match open.content {
            OpenContent::List(items) => Data::List(items),
            OpenContent::Map { mut entries, mut keys, merged, .. } => {
                entries.extend(merged.into_iter().filter(|entry| keys.insert(entry.key.clone())));
                Data::Map(entries)
            }
        };
        let node = Node { line: open.line, data };
        let size = NodeSize { values: open.size.values + 1, height: open.size.height + 1, ..open.size };
        self.keep(open.anchor, &node, size, line)?;
        self.place(node, size)
    }

    fn alias(&mut self, anchor: usize, line: usize) -> Result<(), YamlError> {
        let Some(size) = self.anchors.get(&anchor).map(|anchored| anchored.size) else {
            return Err(malformed("an alias stands within what it repeats", line));
        };
        self.allowance.spend(size, line)?;
        if self.open.len() + size.height > MAX_DEPTH {
            return Err(too_deep(line));
        }
        let Some(anchored) = self.anchors.get(&anchor) else { return Ok(()) };
        if self.expects_key() {
            let name = repeated_key(&anchored.node.data, self.dialect).map_err(|why| malformed(&why, line))?;
            return self.key(name, false, size, line);
        }
        let node = Node { line, data: anchored.node.data.clone() };
        self.place(node, size)
    }

    /// Puts a node where it belongs.
    fn place(&mut self, node: Node, size: NodeSize) -> Result<(), YamlError> {
        let Some(open) = self.open.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        open.size.add(size);
        match &mut open.content {
            OpenContent::List(items) => items.push(node),
            OpenContent::Map { entries, key, merged, .. } => {
                let Some(OpenKey { text, line, merges }) = key.take() else { return Ok(()) };
                if merges {
                    merge(node, merged)?;
                } else {
                    entries.push(MapEntry { key: text, line, value: node });
                }
            }
        }
        Ok(())
    }

    /// The path of a field of the innermost map; empty if it is too long.
    fn path_to(&self, field: &str) -> String {
        let mut path = String::new();
        for open in &self.open {
            match &open.content {
                OpenContent::List(items) => drop(write!(path, "[{}]", items.len())),
                OpenContent::Map { key: Some(key), .. } => add_step(&mut path, &key.text),
                OpenContent::Map { .. } => add_step(&mut path, field),
            }
            if path.len() > LONGEST_PATH {
                return String::new();
            }
        }
        path
    }
}

fn add_step(path: &mut String, key: &str) {
    if !path.is_empty() {
        path.push('.');
    }
    path.push_str(key);
}

/// Adds what the value of a merge key holds. What comes first counts.
fn merge(node: Node, merged: &mut Vec<MapEntry>) -> Result<(), YamlError> {
    let wrong = malformed("<< takes a map, or a list of maps", node.line);
    match node.data {
        Data::Map(entries) => merged.extend(entries),
        Data::List(items) => {
            for item in items {
                let Data::Map(entries) = item.data else { return Err(wrong) };
                merged.extend(entries);
            }
        }
        _ => return Err(wrong),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn typed(text: &str) -> Node {
        read(text, 1, Dialect::Typed).unwrap()
    }

    fn value(text: &str) -> Value {
        read(text, 1, Dialect::Kubernetes).unwrap().to_value()
    }

    fn fault(text: &str) -> YamlFault {
        read(text, 1, Dialect::Kubernetes).unwrap_err().fault
    }

    #[test]
    fn values_are_those_that_kubectl_reads() {
        let text = "a: yes\nb: off\nc: 010\nd: 'yes'\ne: ~\nf: 1.5\ng: 2024-01-01\nh: 1:30\ni: 0x1f\nj: !!str 5\nk: -0b11\nl: 1_000\n\
                    m: 08\nn1: +5\no: 1e3\np: nan\nq: 99999999999999999999\nr: -9223372036854775808\ns: !!binary aGk=\nt: ! 5\nu: !other 5\n";
        let read = json!({"a": true, "b": false, "c": 8, "d": "yes", "e": null, "f": 1.5, "g": "2024-01-01", "h": "1:30", "i": 31, "j": "5",
            "k": -3, "l": 1000, "m": 8, "n1": 5, "o": 1000, "p": "nan", "q": 1e20, "r": i64::MIN, "s": "hi", "t": "5", "u": "5"});
        assert_eq!(value(text), read);
        assert_eq!(value(""), Value::Null);
        assert!(matches!(fault("a: .inf\n"), YamlFault::Malformed(why) if why.contains("finite")));
        assert!(matches!(fault("a: !!int x\n"), YamlFault::Malformed(_)));
    }

    #[test]
    fn scalars_keep_their_text_and_their_line() {
        let node = typed(
            "# c\na: on\nb: 0100\nc: 1.10\nd: true\ne:\nf: 'x'\ng: True\nh: !!str 5\ni: 18446744073709551615\nj: .inf\n",
        );
        let data = |key: &str| node.get(key).unwrap().data.clone();
        assert_eq!(data("a"), Data::Text("on".to_owned()));
        assert_eq!(data("b"), Data::Number(64.into(), "0100".to_owned()));
        assert!(matches!(data("c"), Data::Number(_, text) if text == "1.10"));
        assert_eq!(data("d"), Data::Bool(true, "true".to_owned()));
        assert_eq!(data("e"), Data::Null);
        assert_eq!(data("f"), Data::Text("x".to_owned()));
        assert_eq!(data("g"), Data::Bool(true, "True".to_owned()));
        assert_eq!(data("h"), Data::Text("5".to_owned()));
        assert_eq!(data("i"), Data::Number(u64::MAX.into(), "18446744073709551615".to_owned()));
        assert_eq!(data("j"), Data::Text(".inf".to_owned()));
        assert_eq!((node.get("f").unwrap().line, node.entries()[5].line), (7, 7));
    }

    #[test]
    fn binary_data_is_told_apart_also_as_a_block() {
        let node = typed("a: !!binary AAAACATSFi8=\nb: !!binary |\n  AAAA\n  BBBB\nc: AAAA\n");
        assert_eq!(node.get("a").unwrap().data, Data::Binary("AAAACATSFi8=".to_owned()));
        assert_eq!(node.get("b").unwrap().data, Data::Binary("AAAA\nBBBB\n".to_owned()));
        assert_eq!(node.get("c").unwrap().data, Data::Text("AAAA".to_owned()));
    }

    #[test]
    fn aliases_and_merges_are_resolved() {
        assert_eq!(
            value(
                "x: &x {a: 1, b: 1}\nz1: &y {b: 2, c: 2}\nz: {<<: [*x, *y], d: 3}\nw:\n  <<: *y\n  c: 4\nv: [*x]\nu: &k k\nt: {*k : 5}\n"
            ),
            json!({"x": {"a": 1, "b": 1}, "z1": {"b": 2, "c": 2}, "z": {"a": 1, "b": 1, "c": 2, "d": 3}, "w": {"b": 2, "c": 4},
                "v": [{"a": 1, "b": 1}], "u": "k", "t": {"k": 5}})
        );
        let node = typed("x: &x\n  a: 1\ny: *x\n");
        let repeated = node.get("y").unwrap();
        assert_eq!((repeated.line, repeated.entries()[0].line), (3, 2));
        for text in
            ["a: &a [*a]\n", "a: {<<: 5}\n", "a: {<<: [5]}\n", "a: *b\n", "{a: 1}: 2\n", "a: &a [1]\nb: {*a : 1}\n"]
        {
            assert!(matches!(fault(text), YamlFault::Malformed(_)), "{text}");
        }
    }

    #[test]
    fn a_key_that_stands_twice_is_named_with_its_path_and_its_line() {
        for (text, line, wanted) in [
            ("a: 1\nb: 2\na: 3\n", 3, "a"),
            ("spec: {}\nspec: {", 2, "spec"),
            ("spec:\n  url: x\n  interval: 1s\n  interval: 2s\n", 4, "spec.interval"),
            ("items:\n- a: 1\n- spec:\n    headers: [{name: a, name: b}]\n", 4, "items[1].spec.headers[0].name"),
            ("a: 1\nspec: {a: 2, b: {a: 3,\n a: 4}}\n", 3, "spec.b.a"),
        ] {
            let error = read(text, 1, Dialect::Kubernetes).unwrap_err();
            assert!(matches!(error.fault, YamlFault::DuplicateKey { path, .. } if path == wanted), "{text}");
            assert_eq!(error.line, line, "{text}");
        }
        let long = format!("{0}: 1\n{0}: 2\n", "k".repeat(900));
        assert!(matches!(fault(&long), YamlFault::DuplicateKey { path, .. } if path.is_empty()));
    }

    /// A document of 1 kB whose aliases stand for a billion values.
    fn billion_laughs() -> String {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..12 {
            let inner = vec![format!("*a{}", level - 1); 10].join(", ");
            text = format!("{text}a{level}: &a{level} [{inner}]\n");
        }
        text
    }

    #[test]
    fn depth_values_and_bytes_are_bounded_and_the_bound_is_named() {
        let deep = format!("a: {}{}", "[".repeat(100_000), "]".repeat(100_000));
        let by_alias =
            format!("a: &a {}1{}\nb: {}*a{}\n", "[".repeat(40), "]".repeat(40), "[".repeat(40), "]".repeat(40));
        let long = format!("a: &a {}\nb: [{}]\n", "x".repeat(1 << 20), vec!["*a"; 100].join(", "));
        let many = format!("[{}]", "1,".repeat(MAX_VALUES + 1));
        for (text, wanted) in [
            (billion_laughs(), "repeats more than 100000 values by anchors and aliases"),
            (deep, "deeper than 64 levels"),
            (by_alias, "deeper than 64 levels"),
            (long, "repeats more than 16 MiB of text by anchors and aliases"),
            (many, "more than 1000000 values: split it"),
        ] {
            let found = fault(&text);
            assert!(matches!(&found, YamlFault::TooLarge(what) if what.contains(wanted)), "{found:?}");
        }
    }

    #[test]
    fn anchors_within_anchors_count_what_they_hold_and_no_more() {
        let nested = (0..40).map(|level| format!("{{k{level}: &a{level} ")).collect::<Vec<_>>().concat();
        let text = format!("a: {nested}x{}\nb: [*a0, *a39]\n", "}".repeat(40));
        let node = typed(&text);
        let b = node.get("b").unwrap().items();
        assert_eq!(b[1].data, Data::Text("x".to_owned()));
        assert_eq!(b[0].get("k1").unwrap(), node.get("a").unwrap().get("k0").unwrap().get("k1").unwrap());
        // 41 values with their keys, 39 of them within the next, and so on; then those of both aliases.
        let mut allowance = AliasAllowance::default();
        read_within(&text, 1, Dialect::Typed, &mut allowance).unwrap();
        let kept: usize = (0..40).map(|inner| 2 * inner + 1).sum();
        assert_eq!(MAX_REPEATED_VALUES - allowance.values, kept + (2 * 39 + 1) + 1);
    }

    #[test]
    fn the_documents_of_one_file_share_what_aliases_may_repeat() {
        let text = format!("a: &a [{}]\nb: [*a, *a]\n", vec!["x"; 9_999].join(", "));
        let mut allowance = AliasAllowance::default();
        for _ in 0..3 {
            read_within(&text, 1, Dialect::Typed, &mut allowance).unwrap();
        }
        let error = read_within(&text, 1, Dialect::Typed, &mut allowance).unwrap_err();
        assert!(matches!(error, YamlError { line: 2, fault: YamlFault::TooLarge(_) }), "{error:?}");
        read_within("a: 1\nb: [x]\n", 1, Dialect::Typed, &mut allowance).unwrap();
    }

    #[test]
    fn keys_have_the_types_that_values_have_where_kubectl_reads_them() {
        assert_eq!(
            value(
                "labels: {y: a, off: b, 0x1f: c, 'n': d}\nx: &x yes\nz: {*x : 1}\n&k on : &l 010\nu: {*k : 1, *l : 2}\n"
            ),
            json!({"labels": {"true": "a", "false": "b", "31": "c", "n": "d"}, "x": true, "z": {"true": 1}, "true": 8,
                "u": {"true": 1, "8": 2}})
        );
        let texts = typed("labels: {y: a, off: b, 0x1f: c, ~: d}\nx: &x yes\nz: {*x : 1}\n").to_value();
        assert_eq!(
            texts,
            json!({"labels": {"y": "a", "off": "b", "0x1f": "c", "~": "d"}, "x": "yes", "z": {"yes": 1}})
        );
        assert!(matches!(fault("a: {~: 1}\n"), YamlFault::Malformed(why) if why.contains("a key is nothing")));
        assert!(matches!(fault("a: {y: 1, true: 2}\n"), YamlFault::DuplicateKey { path, .. } if path == "a.true"));
    }

    #[test]
    fn a_second_document_is_refused_with_its_line() {
        for text in ["a: 1\n...\nb: 2\n", "a: 1\n\n---\nb: 2\n"] {
            let error = read(text, 11, Dialect::Kubernetes).unwrap_err();
            assert_eq!(error, YamlError { line: 13, fault: YamlFault::SecondDocument }, "{text}");
        }
        assert_eq!(value("a: 1\n...\n"), json!({"a": 1}));
        assert_eq!(read("x: 1\ny: [}\n", 5, Dialect::Kubernetes).unwrap_err().line, 6);
    }

    const ALMOST_YAML: &str = "([-:?,\\[\\]{}#&*!|>'\"%@`~<= \t\r\n]|a|b|é|0|1|\\.|on|---\n|&a |\\*a|<<: |!!str |!!int |!!binary |- |: ){0,60}";

    proptest! {
        #[test]
        fn no_almost_yaml_makes_it_panic(text in ALMOST_YAML) {
            let _ = read(&text, 1, Dialect::Kubernetes);
            let _ = read(&text, 1, Dialect::Typed);
        }

        /// Another reader of the same events finds the same structure. Its scalars are those of YAML 1.2; a table holds those of kubectl.
        #[test]
        fn what_two_readers_read_is_equal(text in ALMOST_YAML) {
            let text = text.replace("!!binary", "");
            let options = serde_saphyr::options! { legacy_octal_numbers: true, strict_booleans: true };
            let other: Result<Value, _> = serde_saphyr::from_str_with_options(&text, options);
            if let (Ok(own), Ok(other)) = (read(&text, 1, Dialect::Typed), other) {
                prop_assert_eq!(own.to_value(), other, "{}", text);
            }
        }
    }
}
