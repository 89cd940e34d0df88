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

    proptest! {
        #[test]
        fn what_is_written_is_read_again(text in "\\PC{0,30}|[-:?#&*!|>'\"%@` \t\r\n\\x00-\\x1fa-z0-9\\[\\]{},~]{0,30}", key in "[a-z:# -]{1,8}") {
            let manifest = json!({"text": text, "list": [text, {"in": text}], "map": {key: text}});
            let written = to_string(&manifest, &["map"]);
            let again: Value = serde_saphyr::from_str(&written).unwrap();
            prop_assert_eq!(&again, &manifest, "{}", written);
            prop_assert_eq!(read(&written, 1, Dialect::Kubernetes).unwrap().to_value(), manifest, "{}", written);
        }
    }
}
