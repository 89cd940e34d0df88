//! YAML and JSON as trees of values with their lines, and values as YAML.
//!
//! The parser gives events; what they mean is decided here: aliases and merge keys, types of plain scalars, keys that stand twice, and how
//! much a document may hold.

mod read;
mod scalar;
mod split;
mod write;

use serde_json::{Map, Number, Value};

pub use read::{AliasAllowance, YamlError, YamlFault, read, read_within};
pub use scalar::decode_binary;
pub use split::{has_content, split};
pub use write::to_string;

/// Whose reading of plain scalars is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// That of kubectl: `yes` and `off` are booleans, also as keys, `1e3` is a whole number, and `!!binary` is the text that it encodes.
    Kubernetes,
    /// That of Go programs which know the type of each field: `yes` is a text until a field wants a boolean, and `!!binary` stays encoded.
    Typed,
}

/// Scalars, and what the reader of kubectl makes of each as a value and as a key.
#[cfg(test)]
const KUBECTL_SCALARS: &str = include_str!("kubectl_scalars.tsv");

/// A value, and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// The line of the file, counted from 1. What an alias repeats has the lines of its definition.
    pub line: usize,
    /// The value.
    pub data: Data,
}

/// What a value is. Plain scalars keep their text as well: the field that holds it may want a text.
#[derive(Clone, Debug, PartialEq)]
pub enum Data {
    /// Nothing.
    Null,
    /// A boolean.
    Bool(bool, String),
    /// A finite number.
    Number(Number, String),
    /// Any other scalar.
    Text(String),
    /// A scalar with the tag `!!binary`, in base64.
    Binary(String),
    /// A list.
    List(Vec<Node>),
    /// A map, in the order of the file.
    Map(Vec<MapEntry>),
}

/// One field of a map.
#[derive(Clone, Debug, PartialEq)]
pub struct MapEntry {
    /// Its name.
    pub key: String,
    /// The line of the key.
    pub line: usize,
    /// Its value.
    pub value: Node,
}

impl Node {
    /// The field `key` of a map.
    pub fn get(&self, key: &str) -> Option<&Self> {
        self.entries().iter().find(|entry| entry.key == key).map(|entry| &entry.value)
    }

    /// The fields of a map; none for anything else.
    pub fn entries(&self) -> &[MapEntry] {
        match &self.data {
            Data::Map(entries) => entries,
            _ => &[],
        }
    }

    /// The items of a list; none for anything else.
    pub fn items(&self) -> &[Self] {
        match &self.data {
            Data::List(items) => items,
            _ => &[],
        }
    }

    /// The text of a scalar.
    pub fn scalar(&self) -> Option<&str> {
        match &self.data {
            Data::Text(text) | Data::Bool(_, text) | Data::Number(_, text) => Some(text),
            Data::Null | Data::Binary(_) | Data::List(_) | Data::Map(_) => None,
        }
    }

    /// The boolean, where one is wanted: as Go reads such a field, also by a word of YAML 1.1.
    pub fn as_flag(&self) -> Option<bool> {
        self.scalar().and_then(scalar::boolean_word)
    }

    /// Whether it is nothing.
    pub const fn is_null(&self) -> bool {
        matches!(self.data, Data::Null)
    }

    /// What it is, for messages.
    pub const fn kind(&self) -> &'static str {
        match self.data {
            Data::Null => "nothing",
            Data::Bool(..) => "a boolean",
            Data::Number(..) => "a number",
            Data::Text(_) => "a text",
            Data::Binary(_) => "binary data",
            Data::List(_) => "a list",
            Data::Map(_) => "a map",
        }
    }

    /// The value without its lines.
    pub fn to_value(&self) -> Value {
        match &self.data {
            Data::Null => Value::Null,
            Data::Bool(value, _) => Value::Bool(*value),
            Data::Number(number, _) => Value::Number(number.clone()),
            Data::Text(text) | Data::Binary(text) => Value::String(text.clone()),
            Data::List(items) => Value::Array(items.iter().map(Self::to_value).collect()),
            Data::Map(entries) => {
                let mut fields = Map::new();
                for entry in entries {
                    fields.insert(entry.key.clone(), entry.value.to_value());
                }
                Value::Object(fields)
            }
        }
    }

    /// The line of the field at `path` (`spec.headers[2].name`). A field that does not exist has the line of the innermost one around it.
    /// `None` if not even the first step of the path exists.
    pub fn line_of(&self, path: &str) -> Option<usize> {
        let (mut at, mut line, mut rest) = (self, None, path);
        while !rest.is_empty() {
            let step = take_step(&mut rest);
            let next = match &at.data {
                Data::List(items) => {
                    step.parse().ok().and_then(|index: usize| items.get(index)).map(|item| (item.line, item))
                }
                _ => at.entries().iter().find(|entry| entry.key == step).map(|entry| (entry.line, &entry.value)),
            };
            let Some((found, inner)) = next else { break };
            (line, at) = (Some(found), inner);
        }
        line
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "kind: x\nspec:\n  labels:\n    a.b: 1\n  headers:\n    - name: p\n    - name: q\n      value: 7\n  list: [1,\n    2]\n";

    #[test]
    fn fields_are_found_on_their_lines() {
        let node = read(TEXT, 1, Dialect::Kubernetes).unwrap();
        for (path, line) in [
            ("kind", Some(1)),
            ("spec", Some(2)),
            ("spec.labels[a.b]", Some(4)),
            ("spec.headers[1]", Some(7)),
            ("spec.headers[1].value", Some(8)),
            ("spec.list[1]", Some(10)),
            ("spec.headers[1].secret.name", Some(7)),
            ("spec.url", Some(2)),
            ("", None),
            ("other", None),
        ] {
            assert_eq!(node.line_of(path), line, "{path}");
        }
        let later = read(TEXT, 41, Dialect::Kubernetes).unwrap();
        assert_eq!(later.line_of("spec.list[1]"), Some(50));
    }
}
