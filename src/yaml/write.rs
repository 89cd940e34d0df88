//! Values as YAML, with some fields of each map before the others.

use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};
use serde_json::Value;

/// The value as one document, without a separator. In each map the fields in `first` come first, in this order; the others follow by name.
pub fn to_string(value: &Value, first: &[&str]) -> String {
    // Texts, numbers, lists and maps: there is nothing that cannot be written.
    serde_saphyr::to_string(&Ordered { value, first }).unwrap_or_default()
}

struct Ordered<'v> {
    value: &'v Value,
    first: &'v [&'v str],
}

impl Serialize for Ordered<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let first = self.first;
        match self.value {
            Value::Null => serializer.serialize_unit(),
            Value::Bool(value) => serializer.serialize_bool(*value),
            Value::Number(number) => number.serialize(serializer),
            Value::String(text) => serializer.serialize_str(text),
            Value::Array(items) => {
                let mut list = serializer.serialize_seq(Some(items.len()))?;
                for value in items {
                    list.serialize_element(&Ordered { value, first })?;
                }
                list.end()
            }
            Value::Object(fields) => {
                let mut entries: Vec<_> = fields.iter().collect();
                let rank = |name: &str| first.iter().position(|word| *word == name).unwrap_or(first.len());
                entries.sort_by_key(|(name, _)| (rank(name), *name));
                let mut map = serializer.serialize_map(Some(entries.len()))?;
                for (name, value) in entries {
                    map.serialize_entry(name.as_str(), &Ordered { value, first })?;
                }
                map.end()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::yaml::{Dialect, read};
    use proptest::prelude::*;
    use serde_json::json;

    /// Whether every reader takes it for this, that of kubectl included.
    fn is_read_again(manifest: &Value) -> bool {
        let written = to_string(manifest, &["map"]);
        let own = |dialect| read(&written, 1, dialect).map(|node| node.to_value()).ok();
        let other: Option<Value> = serde_saphyr::from_str(&written).ok();
        [own(Dialect::Kubernetes), own(Dialect::Typed), other].iter().all(|read| read.as_ref() == Some(manifest))
    }

    #[test]
    fn texts_that_look_like_something_else_stay_texts_as_values_and_as_keys() {
        let rows = crate::yaml::KUBECTL_SCALARS.lines().filter(|row| !row.starts_with("# "));
        let scalars = rows.filter_map(|row| row.split('\t').next());
        let more = ["2024-01-01T00:00:00Z", "---", "...", "a: b", "- a", "? a", "%a", "a #b"];
        for text in scalars.chain(more) {
            let manifest = json!({"text": text, "list": [text], text: {text: 1}});
            assert!(is_read_again(&manifest), "{text:?}: {}", to_string(&manifest, &[]));
        }
        for word in ["y", "on", "off", "1e3", "1_000", "0x1f", "~", "<<", "2024-01-01"] {
            let written = to_string(&json!({word: word}), &[]);
            assert_eq!(written, format!("\"{word}\": \"{word}\"\n"));
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(text in "\\PC{0,30}|[-:?#&*!|>'\"%@` \t\r\n\\x00-\\x1fa-z0-9\\[\\]{},~]{0,30}", key in "[a-z:# -]{1,8}|[yYnN]|[0-9_.xeb+-]{1,5}") {
            let manifest = json!({"text": text, "list": [text, {"in": text}], "map": {key: text}});
            prop_assert!(is_read_again(&manifest), "{}", to_string(&manifest, &["map"]));
        }
    }
}
