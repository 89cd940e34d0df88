//! Manifests as YAML, with the fields in the order in which people write them.

use serde_json::Value;

use crate::{crd, yaml};

/// One document for each manifest.
pub(super) fn documents(manifests: &[Value]) -> String {
    let mut out = String::new();
    for manifest in manifests {
        out.push_str("---\n");
        out.push_str(&yaml::to_string(manifest, &crd::FIELD_ORDER));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
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
}
