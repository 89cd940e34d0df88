//! Manifests as YAML, with the fields in the order in which people write them.

use serde::Serialize;
use serde::ser::{SerializeMap, SerializeSeq, Serializer};
use serde_json::Value;

/// Fields that come first, in this order; all others follow by name.
const FIRST: [&str; 12] = [
    "apiVersion",
    "kind",
    "metadata",
    "name",
    "namespace",
    "spec",
    "type",
    "url",
    "interval",
    "timeout",
    "labels",
    "monitor",
];

/// One document for each manifest.
pub(super) fn documents(manifests: &[Value]) -> String {
    let mut out = String::new();
    for manifest in manifests {
        out.push_str("---\n");
        // Strings, numbers, lists and maps: there is nothing that cannot be written.
        out.push_str(&serde_saphyr::to_string(&Ordered(manifest)).unwrap_or_default());
    }
    out
}

struct Ordered<'v>(&'v Value);

impl Serialize for Ordered<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::Object(fields) => {
                let mut entries: Vec<_> = fields.iter().collect();
                let rank = |name: &str| FIRST.iter().position(|first| *first == name).unwrap_or(FIRST.len());
                entries.sort_by_key(|(name, _)| (rank(name), *name));
                let mut map = serializer.serialize_map(Some(entries.len()))?;
                for (name, value) in entries {
                    map.serialize_entry(name, &Ordered(value))?;
                }
                map.end()
            }
            Value::Array(items) => {
                let mut list = serializer.serialize_seq(Some(items.len()))?;
                for item in items {
                    list.serialize_element(&Ordered(item))?;
                }
                list.end()
            }
            other => other.serialize(serializer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn a_reader_finds_the_fields_where_they_are_expected() {
        let manifest = json!({"kind": "K", "apiVersion": "v1", "spec": {"url": "u", "http": {"a": [1]}, "type": "T"},
            "metadata": {"namespace": "ns", "name": "n"}});
        let text = documents(&[manifest]);
        let order: Vec<_> =
            ["---", "apiVersion", "kind", "metadata", "name", "namespace", "spec", "type", "url", "http"]
                .iter()
                .map(|word| text.find(&word.to_string()).unwrap())
                .collect();
        assert!(order.is_sorted(), "{text}");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(text in "\\PC{0,30}|[-:?#&*!|>'\"%@` \t\r\n\\x00-\\x1fa-z0-9\\[\\]{},~]{0,30}", key in "[a-z:# -]{1,8}") {
            let manifest = json!({"text": text, "list": [text, {"in": text}], "map": {key: text}});
            let written = documents(std::slice::from_ref(&manifest));
            let again: Value = serde_saphyr::from_str(written.trim_start_matches("---\n")).unwrap();
            prop_assert_eq!(again, manifest, "{}", written);
        }
    }
}
