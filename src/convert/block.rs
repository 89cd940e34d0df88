//! Reads the fields of a map one by one, by name and type. What nobody has asked for when the map is closed is an unknown field.

use std::time::Duration;

use super::report::{Reporter, join, quoted};
use super::{go, prometheus_duration};
use crate::crd::nearest;
use crate::yaml::{Data, MapEntry, Node, decode_binary};

/// A map that is being read.
#[derive(Debug)]
pub(super) struct Block<'n> {
    entries: &'n [MapEntry],
    pub(super) line: usize,
    pub(super) path: String,
    known: Vec<&'static str>,
}

/// A field of a map.
#[derive(Clone, Debug)]
pub(super) struct BlockField<'n, T> {
    pub(super) value: T,
    pub(super) node: &'n Node,
    pub(super) path: String,
}

impl<T> BlockField<'_, T> {
    pub(super) const fn line(&self) -> usize {
        self.node.line
    }
}

// Every option is read by one of these: without a copy at each of its calls, the program is smaller.
impl<'n> Block<'n> {
    /// Opens a map; nothing, in YAML, is an empty one. Anything else is a fault.
    #[inline(never)]
    pub(super) fn open(node: &'n Node, path: &str, reporter: &mut Reporter) -> Option<Self> {
        let entries = match &node.data {
            Data::Map(entries) => entries.as_slice(),
            Data::Null => &[],
            _ => {
                reporter.wrong_type(node, path, "a map of fields");
                return None;
            }
        };
        Some(Self { entries, line: node.line, path: path.to_owned(), known: Vec::new() })
    }

    /// A field that is there and not empty.
    #[inline(never)]
    pub(super) fn node(&mut self, key: &'static str) -> Option<BlockField<'n, ()>> {
        self.known.push(key);
        let entry = self.entries.iter().find(|entry| entry.key == key)?;
        let field = BlockField { value: (), node: &entry.value, path: join(&self.path, key) };
        (!entry.value.is_null()).then_some(field)
    }

    /// The fields among these words that are there.
    #[inline(never)]
    pub(super) fn any_of(&mut self, words: &'static str) -> Vec<BlockField<'n, &'static str>> {
        words.split_whitespace().filter_map(|key| self.node(key).map(|field| field.with(key))).collect()
    }

    #[inline(never)]
    pub(super) fn text(&mut self, key: &'static str, reporter: &mut Reporter) -> Option<BlockField<'n, String>> {
        let field = self.node(key)?;
        let text = text_of(field.node, &field.path, reporter)?;
        Some(field.with(text))
    }

    /// A text that is not empty. An empty one is as if it were not written, as in Go.
    #[inline(never)]
    pub(super) fn filled(&mut self, key: &'static str, reporter: &mut Reporter) -> Option<BlockField<'n, String>> {
        self.text(key, reporter).filter(|field| !field.value.is_empty())
    }

    #[inline(never)]
    pub(super) fn flag(&mut self, key: &'static str, reporter: &mut Reporter) -> Option<BlockField<'n, bool>> {
        let field = self.node(key)?;
        let Some(value) = field.node.as_flag() else {
            reporter.wrong_type(field.node, &field.path, "true or false");
            return None;
        };
        Some(field.with(value))
    }

    #[inline(never)]
    pub(super) fn integer(&mut self, key: &'static str, reporter: &mut Reporter) -> Option<BlockField<'n, i64>> {
        let field = self.node(key)?;
        let number = if let Data::Number(number, _) = &field.node.data { number.as_i64() } else { None };
        let Some(value) = number else {
            reporter.wrong_type(field.node, &field.path, "a whole number");
            return None;
        };
        Some(field.with(value))
    }

    /// A duration as Go reads it: `1.5s`, `2h45m`.
    pub(super) fn go_duration(
        &mut self,
        key: &'static str,
        reporter: &mut Reporter,
    ) -> Option<BlockField<'n, Duration>> {
        self.duration(key, reporter, go::duration, "for instance 5s, 1.5s or 1m30s")
    }

    /// A duration as Prometheus reads it: `30s`, `1d`.
    pub(super) fn prometheus_duration(
        &mut self,
        key: &'static str,
        reporter: &mut Reporter,
    ) -> Option<BlockField<'n, Duration>> {
        self.duration(key, reporter, prometheus_duration, "for instance 30s, 1m30s or 1h")
    }

    #[inline(never)]
    fn duration(
        &mut self,
        key: &'static str,
        reporter: &mut Reporter,
        read: fn(&str) -> Option<Duration>,
        examples: &str,
    ) -> Option<BlockField<'n, Duration>> {
        let field = self.node(key)?;
        let text = text_of(field.node, &field.path, reporter)?;
        let Some(value) = read(&text) else {
            reporter.fault(
                field.line(),
                &field.path,
                format!("{} is no duration that can be used, write {examples}", quoted(&text)),
            );
            return None;
        };
        Some(field.with(value))
    }

    #[inline(never)]
    pub(super) fn list(&mut self, key: &'static str, reporter: &mut Reporter) -> Vec<BlockField<'n, ()>> {
        let Some(field) = self.node(key) else { return Vec::new() };
        let Data::List(items) = &field.node.data else {
            reporter.wrong_type(field.node, &field.path, "a list");
            return Vec::new();
        };
        let items = items.iter().enumerate();
        items.map(|(index, node)| BlockField { value: (), node, path: format!("{}[{index}]", field.path) }).collect()
    }

    #[inline(never)]
    pub(super) fn texts(&mut self, key: &'static str, reporter: &mut Reporter) -> Vec<BlockField<'n, String>> {
        let items = self.list(key, reporter).into_iter();
        items.filter_map(|item| text_of(item.node, &item.path, reporter).map(|text| item.with(text))).collect()
    }

    /// A map from names to texts, in the order of the file.
    #[inline(never)]
    pub(super) fn text_map(
        &mut self,
        key: &'static str,
        reporter: &mut Reporter,
    ) -> Vec<(String, BlockField<'n, String>)> {
        let Some(field) = self.node(key) else { return Vec::new() };
        let Data::Map(entries) = &field.node.data else {
            reporter.wrong_type(field.node, &field.path, "a map of texts");
            return Vec::new();
        };
        let mut found = Vec::new();
        for entry in entries {
            let path = join(&field.path, &entry.key);
            if let Some(text) = text_of(&entry.value, &path, reporter) {
                found.push((entry.key.clone(), BlockField { value: text, node: &entry.value, path }));
            }
        }
        found
    }

    /// A map from names to lists of texts.
    #[inline(never)]
    pub(super) fn list_map(
        &mut self,
        key: &'static str,
        reporter: &mut Reporter,
    ) -> Vec<(String, BlockField<'n, Vec<String>>)> {
        let Some(field) = self.node(key) else { return Vec::new() };
        let Data::Map(entries) = &field.node.data else {
            reporter.wrong_type(field.node, &field.path, "a map of lists of texts");
            return Vec::new();
        };
        let mut found = Vec::new();
        for entry in entries {
            let path = join(&field.path, &entry.key);
            match &entry.value.data {
                Data::List(items) => {
                    let texts = items.iter().filter_map(|item| text_of(item, &path, reporter)).collect();
                    found.push((entry.key.clone(), BlockField { value: texts, node: &entry.value, path }));
                }
                Data::Null => {}
                _ => reporter.wrong_type(&entry.value, &path, "a list of texts"),
            }
        }
        found
    }

    /// A block within this one.
    pub(super) fn block(&mut self, key: &'static str, reporter: &mut Reporter) -> Option<Self> {
        let field = self.node(key)?;
        Self::open(field.node, &field.path, reporter)
    }

    /// Ends the reading: what nobody has asked for is a fault.
    #[inline(never)]
    pub(super) fn close(self, reporter: &mut Reporter) {
        for entry in self.entries {
            if self.known.contains(&entry.key.as_str()) {
                continue;
            }
            let hint = match nearest(&entry.key, self.known.iter().copied()) {
                Some(near) if near != entry.key => format!("did you mean {near}?"),
                _ => "remove it, or correct its name or its indentation".to_owned(),
            };
            reporter.fault(
                entry.line,
                &join(&self.path, &entry.key),
                format!("is not a field that exists here, {hint}"),
            );
        }
    }

    /// What nobody has asked for, for a map whose other fields are named and not refused.
    pub(super) fn rest(&self) -> Vec<&'n MapEntry> {
        self.entries.iter().filter(|entry| !self.known.contains(&entry.key.as_str())).collect()
    }
}

impl<'n, T> BlockField<'n, T> {
    pub(super) fn with<U>(self, value: U) -> BlockField<'n, U> {
        BlockField { value, node: self.node, path: self.path }
    }
}

fn text_of(node: &Node, path: &str, reporter: &mut Reporter) -> Option<String> {
    match &node.data {
        Data::Null => Some(String::new()),
        // Go takes the bytes as they are; only texts can be used in these fields.
        Data::Binary(encoded) => {
            let decoded = decode_binary(encoded).and_then(|bytes| String::from_utf8(bytes).ok());
            if decoded.is_none() {
                reporter.fault(node.line, path, "is binary data that is no text in UTF-8, write a text");
            }
            decoded
        }
        _ => {
            let text = node.scalar().map(str::to_owned);
            if text.is_none() {
                reporter.wrong_type(node, path, "a text");
            }
            text
        }
    }
}
