//! The fields of the file, read by name and type. What nobody has asked for when a block is closed does not exist.

use std::collections::BTreeMap;

use crate::yaml::{Data, MapEntry, Node};

/// A block of the file that is being read.
pub(super) struct ConfigFields<'n> {
    node: &'n Node,
    path: String,
    known: Vec<&'static str>,
}

impl<'n> ConfigFields<'n> {
    /// Opens a block; nothing, in YAML, is an empty one.
    pub(super) fn open(node: &'n Node, path: String) -> Result<Self, String> {
        match node.data {
            Data::Map(_) | Data::Null => Ok(Self { node, path, known: Vec::new() }),
            _ => Err(wrong_type(node, &path, "a map of fields")),
        }
    }

    fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// A field that is there and not empty.
    fn field(&mut self, key: &'static str) -> Option<(&'n Node, String)> {
        self.known.push(key);
        let node = self.node.get(key).filter(|node| !node.is_null())?;
        Some((node, self.path_of(key)))
    }

    pub(super) fn block(&mut self, key: &'static str) -> Result<Option<Self>, String> {
        self.field(key).map(|(node, path)| Self::open(node, path)).transpose()
    }

    /// A text. An empty one is as if it were not written: templates write every field.
    pub(super) fn text(&mut self, key: &'static str) -> Result<Option<String>, String> {
        let text = self.field(key).map(|(node, path)| text_of(node, &path)).transpose()?;
        Ok(text.filter(|text| !text.trim().is_empty()))
    }

    /// One of some words. An empty text is none of them.
    pub(super) fn word<T: Copy>(
        &mut self,
        key: &'static str,
        words: &[(&'static str, T)],
    ) -> Result<Option<T>, String> {
        let Some((node, path)) = self.field(key) else { return Ok(None) };
        let text = text_of(node, &path)?;
        let found = words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        found.map(Some).ok_or_else(|| {
            let shown: String = text.chars().take(64).collect();
            let words: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            format!("line {}: {path} {shown:?} must be {}", node.line, words.join(" or "))
        })
    }

    pub(super) fn flag(&mut self, key: &'static str) -> Result<Option<bool>, String> {
        let Some((node, path)) = self.field(key) else { return Ok(None) };
        node.as_flag().map(Some).ok_or_else(|| wrong_type(node, &path, "true or false"))
    }

    pub(super) fn count(&mut self, key: &'static str) -> Result<Option<u32>, String> {
        let Some((node, path)) = self.field(key) else { return Ok(None) };
        let number = if let Data::Number(number, _) = &node.data { number.as_u64() } else { None };
        let number = number.and_then(|number| u32::try_from(number).ok());
        number.map(Some).ok_or_else(|| wrong_type(node, &path, "a whole number of at least 0"))
    }

    pub(super) fn texts(&mut self, key: &'static str) -> Result<Vec<String>, String> {
        let Some((node, path)) = self.field(key) else { return Ok(Vec::new()) };
        match &node.data {
            Data::List(items) => items.iter().map(|item| text_of(item, &path)).collect(),
            _ => Err(wrong_type(node, &path, "a list of texts")),
        }
    }

    /// A map from names to texts.
    pub(super) fn text_map(&mut self, key: &'static str) -> Result<BTreeMap<String, String>, String> {
        let Some((node, path)) = self.field(key) else { return Ok(BTreeMap::new()) };
        let Data::Map(entries) = &node.data else { return Err(wrong_type(node, &path, "a map of texts")) };
        let read = |entry: &MapEntry| {
            let path = format!("{path}.{}", shown(&entry.key));
            Ok((entry.key.clone(), text_of(&entry.value, &path)?))
        };
        entries.iter().map(read).collect()
    }

    /// Ends the reading.
    pub(super) fn close(self) -> Result<(), String> {
        let unknown = self.node.entries().iter().find(|entry| !self.known.contains(&entry.key.as_str()));
        match unknown {
            None => Ok(()),
            Some(entry) => {
                let field = self.path_of(&shown(&entry.key));
                Err(format!("line {}: unknown field {field}, only {} can be set", entry.line, self.known.join(", ")))
            }
        }
    }
}

/// A key of the file in one line, cut if it is long.
fn shown(key: &str) -> String {
    key.chars().take(64).collect::<String>().escape_debug().to_string()
}

fn text_of(node: &Node, path: &str) -> Result<String, String> {
    match &node.data {
        Data::Null => Ok(String::new()),
        _ => node.scalar().map(str::to_owned).ok_or_else(|| wrong_type(node, path, "a text")),
    }
}

fn wrong_type(node: &Node, path: &str, wanted: &str) -> String {
    let field = if path.is_empty() { "the file" } else { path };
    format!("line {}: {field} is {}, write {wanted}", node.line, node.kind())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::yaml::{Dialect, read};

    #[test]
    fn fields_have_types_and_what_does_not_exist_is_named() {
        let text = "a: 1\nb: [x, 2]\nc: {d: on, e: 7, f: '', g: , l: [], m: '', n: }\nh: {X-Number: 0}\ni: {}\nk: oN\n";
        let node = read(text, 1, Dialect::Typed).unwrap();
        let mut fields = ConfigFields::open(&node, String::new()).unwrap();
        assert_eq!(fields.text("a").unwrap().as_deref(), Some("1"));
        assert_eq!(fields.texts("b").unwrap(), ["x", "2"]);
        let mut inner = fields.block("c").unwrap().unwrap();
        assert_eq!((inner.flag("d").unwrap(), inner.count("e").unwrap()), (Some(true), Some(7)));
        assert_eq!((inner.text("f").unwrap(), inner.text("g").unwrap()), (None, None));
        assert_eq!(inner.texts("l").unwrap(), [""; 0]);
        assert_eq!(inner.word("m", &[("x", 1), ("y", 2)]).unwrap_err(), "line 3: c.m \"\" must be x or y");
        assert_eq!(inner.word("n", &[("x", 1)]).unwrap(), None);
        inner.close().unwrap();
        assert_eq!(fields.text_map("h").unwrap()["X-Number"], "0");
        let error = fields.text_map("c").unwrap_err();
        assert_eq!(error, "line 3: c.l is a list, write a text");
        assert_eq!(fields.text("b").unwrap_err(), "line 2: b is a list, write a text");
        assert_eq!(fields.flag("a").unwrap_err(), "line 1: a is a number, write true or false");
        assert_eq!(fields.flag("k").unwrap_err(), "line 6: k is a text, write true or false");
        assert_eq!(fields.count("b").unwrap_err(), "line 2: b is a list, write a whole number of at least 0");
        assert!(fields.close().unwrap_err().starts_with("line 5: unknown field i, only a, b, "));
        assert_eq!(
            ConfigFields::open(node.get("b").unwrap(), String::new()).err(),
            Some("line 2: the file is a list, write a map of fields".to_owned())
        );
    }
}
