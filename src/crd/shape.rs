//! How the schema that schemars generates is made fit for Kubernetes.

use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::{Map, Value};

/// The schema of a map from texts to texts with at most `ITEMS` entries, each value at most `LENGTH` characters.
pub(crate) fn texts<const ITEMS: u32, const LENGTH: u32>(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": ITEMS,
        "additionalProperties": { "type": "string", "maxLength": LENGTH },
    })
}

/// Takes out of a generated schema what Kubernetes need not see: that Rust's `Option` can be null (the API server drops a null of a
/// field that is not nullable, which is what users expect), number formats it does not know, and line breaks of the source.
pub(crate) fn tidy(schema: &mut Schema) {
    if let Some(object) = schema.as_object_mut() {
        tidy_object(object);
    }
}

fn tidy_object(schema: &mut Map<String, Value>) {
    if let Some(Value::Array(options)) = schema.get("anyOf")
        && let [Value::Object(only), Value::Object(null)] = options.as_slice()
        && null.get("type").is_some_and(|kind| kind == "null")
    {
        let only = only.clone();
        schema.remove("anyOf");
        for (key, value) in only {
            schema.entry(key).or_insert(value);
        }
    }
    if let Some(Value::Array(types)) = schema.get_mut("type") {
        types.retain(|kind| kind != "null");
        if let [only] = types.as_slice() {
            let only = only.clone();
            schema.insert("type".to_owned(), only);
        }
    }
    if schema.get("format").and_then(Value::as_str).is_some_and(|format| format.starts_with("uint")) {
        schema.remove("format");
    }
    if let Some(Value::String(text)) = schema.get_mut("description") {
        *text = text.replace("\n\n", "\u{0}").replace('\n', " ").replace('\u{0}', "\n\n");
    }
    if let Some(Value::Object(properties)) = schema.get_mut("properties") {
        properties.values_mut().filter_map(Value::as_object_mut).for_each(tidy_object);
    }
    for key in ["items", "additionalProperties"] {
        if let Some(Value::Object(inner)) = schema.get_mut(key) {
            tidy_object(inner);
        }
    }
}
