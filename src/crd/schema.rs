//! The structural schema: how a generated one is adapted to Kubernetes, and how a manifest is checked against it without an API server.
//!
//! The check does what the API server does in the same order (nulls, defaults, then types and limits), and uses its messages where it has
//! some, so that `check` says the same as `kubectl apply`. Rules in CEL are not evaluated here.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::{Map, Value};

use super::{FieldError, advice};
use crate::kind::Type;
use crate::rule::RulePattern;

/// Names that later versions will use, with a message of their own.
const RESERVED: [&str; 1] = ["spec.className"];

/// What a kind says about a field that its block does not have, however it is spelt.
fn reserved_by_kind(path: &str) -> Option<&'static str> {
    let (block, field) = path.strip_prefix("spec.")?.split_once('.')?;
    let kind = Type::ALL.iter().find(|kind| kind.block() == block)?;
    kind.reserved().iter().find(|(name, _)| advice::is_same_name(name, field)).map(|(_, hint)| *hint)
}

/// One node of a schema, compiled for checking values.
#[derive(Debug, Default)]
pub(crate) struct SchemaNode {
    pub(super) kind: JsonType,
    pub(super) properties: BTreeMap<String, Self>,
    pub(super) required: Vec<String>,
    pub(super) additional: Option<Box<Self>>,
    pub(super) items: Option<Box<Self>>,
    pub(super) allowed: Vec<Value>,
    pattern: Option<RulePattern>,
    /// The least and the greatest number of characters, items or properties.
    size: (u64, Option<u64>),
    minimum: Option<f64>,
    maximum: Option<f64>,
    default: Option<Value>,
    unique: Unique,
}

/// The type of a value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum JsonType {
    Object,
    Array,
    Text,
    Integer,
    Number,
    Boolean,
    #[default]
    Any,
}

/// What must be unique among the items of a list.
#[derive(Debug, Default)]
enum Unique {
    #[default]
    Nothing,
    Item,
    Key(String),
}

impl SchemaNode {
    /// The schema of a whole ScrapeTarget.
    pub(crate) fn of_target() -> &'static Self {
        static NODE: LazyLock<SchemaNode> = LazyLock::new(|| {
            let mut root = SchemaNode::compile(&super::openapi());
            // Every object has these. A CRD need not declare them, and `metadata` checks them.
            for field in ["apiVersion", "kind", "metadata"] {
                root.properties.insert(field.to_owned(), SchemaNode::default());
            }
            root
        });
        &NODE
    }

    /// Compiles a structural schema. An unknown keyword is ignored; a test makes sure that there is none.
    fn compile(schema: &Value) -> Self {
        let number = |key: &str| schema.get(key).and_then(Value::as_f64);
        let kind = match schema.get("type").and_then(Value::as_str) {
            Some("object") => JsonType::Object,
            Some("array") => JsonType::Array,
            Some("string") => JsonType::Text,
            Some("integer") => JsonType::Integer,
            Some("number") => JsonType::Number,
            Some("boolean") => JsonType::Boolean,
            _ => JsonType::Any,
        };
        let limit = |keys: [&str; 3]| keys.iter().find_map(|key| schema.get(key)?.as_u64());
        let inner =
            |key: &str| schema.get(key).filter(|inner| inner.is_object()).map(|inner| Box::new(Self::compile(inner)));
        let texts = |key: &str| -> Vec<String> {
            let list = schema.get(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
            list.iter().filter_map(Value::as_str).map(str::to_owned).collect()
        };
        let unique = match schema.get("x-kubernetes-list-type").and_then(Value::as_str) {
            Some("set") => Unique::Item,
            Some("map") => texts("x-kubernetes-list-map-keys").into_iter().next().map_or(Unique::Nothing, Unique::Key),
            _ => Unique::Nothing,
        };
        Self {
            kind,
            properties: schema
                .get("properties")
                .and_then(Value::as_object)
                .map(|all| all.iter().map(|(name, schema)| (name.clone(), Self::compile(schema))).collect())
                .unwrap_or_default(),
            required: texts("required"),
            additional: inner("additionalProperties"),
            items: inner("items"),
            allowed: schema.get("enum").and_then(Value::as_array).cloned().unwrap_or_default(),
            pattern: schema.get("pattern").and_then(Value::as_str).map(|pattern| RulePattern::new(pattern.to_owned())),
            size: (
                limit(["minLength", "minItems", "minProperties"]).unwrap_or(0),
                limit(["maxLength", "maxItems", "maxProperties"]),
            ),
            minimum: number("minimum"),
            maximum: number("maximum"),
            default: schema.get("default").cloned(),
            unique,
        }
    }

    /// Drops nulls and fills in defaults as the API server does, then reports everything that the schema refuses.
    ///
    /// Unknown fields are removed from `value` once they are reported, so that the rest can still be checked.
    pub(crate) fn check(&self, value: &mut Value, path: &str, errors: &mut Vec<FieldError>) {
        let found = match (&*value, self.kind) {
            (_, JsonType::Any)
            | (Value::Object(_), JsonType::Object)
            | (Value::Array(_), JsonType::Array)
            | (Value::String(_), JsonType::Text)
            | (Value::Bool(_), JsonType::Boolean)
            | (Value::Number(_), JsonType::Number) => None,
            (Value::Number(number), JsonType::Integer) if number.is_i64() || number.is_u64() => None,
            (other, _) => Some(type_name(other)),
        };
        if let Some(found) = found {
            let hint = advice::for_type(self, path, value);
            let message = format!("must be of type {}: {found:?}{hint}", self.kind.word());
            return errors.push(FieldError::new(path, message));
        }
        if !self.allowed.is_empty() && !self.allowed.contains(value) {
            let words: Vec<String> = self.allowed.iter().map(Value::to_string).collect();
            let message = format!("Unsupported value: {}: supported values: {}", shown(value), words.join(", "));
            return errors.push(FieldError::new(path, message));
        }
        match value {
            Value::Object(fields) => self.check_object(fields, path, errors),
            Value::Array(items) => self.check_array(items, path, errors),
            Value::String(text) => self.check_text(text, path, errors),
            Value::Number(number) => self.check_number(number.as_f64().unwrap_or(f64::NAN), path, errors),
            Value::Null | Value::Bool(_) => {}
        }
    }

    fn check_object(&self, fields: &mut Map<String, Value>, path: &str, errors: &mut Vec<FieldError>) {
        if self.kind == JsonType::Any {
            return; // metadata: any object
        }
        // As in the API server, a null counts as absent, also in maps.
        if self.additional.is_some() {
            fields.retain(|name, value| !value.is_null() || self.properties.contains_key(name));
        }
        for (name, node) in &self.properties {
            if fields.get(name).is_none_or(Value::is_null) {
                match &node.default {
                    Some(default) => fields.insert(name.clone(), default.clone()),
                    None => fields.remove(name),
                };
            }
        }
        for name in self.required.iter().filter(|name| !fields.contains_key(*name)) {
            errors.push(FieldError::new(&join(path, name), "Required value: write it".to_owned()));
        }
        self.check_count(fields.len(), path, errors);
        let mut unknown = Vec::new();
        for (name, value) in fields.iter_mut() {
            if let Some(node) = self.properties.get(name) {
                node.check(value, &join(path, name), errors);
            } else if let Some(node) = &self.additional {
                node.check(value, &format!("{path}[{name}]"), errors);
            } else {
                unknown.push(name.clone());
            }
        }
        for name in unknown {
            fields.remove(&name);
            errors.push(self.unknown_field(path, &name));
        }
    }

    /// Removes every unknown field. Returns the path of the last of them.
    pub(crate) fn prune(&self, value: &mut Value, path: &str) -> Option<String> {
        let mut unknown = None;
        match value {
            Value::Object(fields) if self.kind == JsonType::Object => fields.retain(|name, value| {
                let path = join(path, name);
                let known = self.properties.get(name).or(self.additional.as_deref());
                match known {
                    Some(node) => unknown = node.prune(value, &path).or_else(|| unknown.take()),
                    None => unknown = Some(path),
                }
                known.is_some()
            }),
            Value::Array(items) => {
                for (index, item) in items.iter_mut().enumerate() {
                    let node = self.items.as_deref();
                    unknown = node.and_then(|node| node.prune(item, &format!("{path}[{index}]"))).or(unknown);
                }
            }
            _ => {}
        }
        unknown
    }

    fn unknown_field(&self, path: &str, name: &str) -> FieldError {
        let full = join(path, name);
        let hint = if RESERVED.contains(&full.as_str()) {
            ": the name is reserved for a later version, remove it".to_owned()
        } else if let Some(hint) = reserved_by_kind(&full) {
            format!(": {hint}")
        } else {
            advice::for_unknown_field(self, name)
        };
        FieldError { message: format!("unknown field {full:?}{hint}"), path: full }
    }

    fn check_array(&self, items: &mut [Value], path: &str, errors: &mut Vec<FieldError>) {
        self.check_count(items.len(), path, errors);
        let Some(node) = &self.items else { return };
        for (index, item) in items.iter_mut().enumerate() {
            node.check(item, &format!("{path}[{index}]"), errors);
        }
        let key = |item: &Value| match &self.unique {
            Unique::Nothing => None,
            Unique::Item => Some(item.clone()),
            Unique::Key(name) => item.get(name).cloned(),
        };
        // Lists of this type are short: comparing all pairs is cheaper than a set.
        for (index, item) in items.iter().enumerate() {
            if let Some(value) = key(item)
                && items.iter().take(index).any(|earlier| key(earlier).as_ref() == Some(&value))
            {
                let message = format!("Duplicate value: {}, keep one of them", shown(&value));
                errors.push(FieldError::new(&format!("{path}[{index}]"), message));
            }
        }
    }

    fn check_count(&self, count: usize, path: &str, errors: &mut Vec<FieldError>) {
        let least = self.size.0;
        if (count as u64) < least {
            let (items, them) = if least == 1 { ("item", "one") } else { ("items", "them") };
            let message = format!("must have at least {least} {items}: write {them}, or leave the field out");
            errors.push(FieldError::new(path, message));
        }
        if let Some(most) = self.size.1
            && count as u64 > most
        {
            errors.push(FieldError::new(path, format!("Too many: {count}: must have at most {most} items")));
        }
    }

    fn check_text(&self, text: &str, path: &str, errors: &mut Vec<FieldError>) {
        let count = text.chars().count() as u64;
        let (least, most) = self.size;
        let message = if count < least {
            format!("should be at least {least} chars long")
        } else if let Some(most) = most.filter(|most| count > *most) {
            format!("Too long: may not be more than {most} characters, has {count}")
        } else if let Some(pattern) = self.pattern.as_ref().filter(|pattern| !pattern.is_match(text)) {
            format!("should match '{}'", pattern.as_str())
        } else {
            return;
        };
        errors.push(FieldError::new(path, message));
    }

    fn check_number(&self, number: f64, path: &str, errors: &mut Vec<FieldError>) {
        let message = if let Some(least) = self.minimum.filter(|least| number < *least) {
            format!("should be greater than or equal to {least}")
        } else if let Some(most) = self.maximum.filter(|most| number > *most) {
            format!("should be less than or equal to {most}")
        } else {
            return;
        };
        errors.push(FieldError::new(path, message));
    }
}

impl JsonType {
    const fn word(self) -> &'static str {
        match self {
            Self::Object => "object",
            Self::Array => "array",
            Self::Text => "string",
            Self::Integer => "integer",
            Self::Number => "number",
            Self::Boolean => "boolean",
            Self::Any => "any",
        }
    }
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// A value as it is shown in a message: a large one is cut.
fn shown(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() <= 64 { text } else { text.chars().take(64).chain(['…']).collect() }
}

pub(super) fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// The schema of a map of strings with at most `ITEMS` entries, each value at most `LENGTH` characters.
pub(crate) fn texts<const ITEMS: u32, const LENGTH: u32>(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": ITEMS,
        "additionalProperties": { "type": "string", "maxLength": LENGTH },
    })
}

/// The schema of a list of at most `ITEMS` words, each of 1 to `LENGTH` characters.
pub(crate) fn words<const ITEMS: u32, const LENGTH: u32>(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": ITEMS,
        "items": { "type": "string", "minLength": 1, "maxLength": LENGTH },
    })
}

/// Removes from a generated schema what Kubernetes must not or need not see: that an `Option` can be null (the API server drops a null of a
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Everything that `compile` reads or that the check may leave aside.
    const KNOWN: &[&str] = &[
        "type",
        "properties",
        "required",
        "additionalProperties",
        "items",
        "enum",
        "pattern",
        "minLength",
        "maxLength",
        "minItems",
        "maxItems",
        "maxProperties",
        "minimum",
        "maximum",
        "default",
        "x-kubernetes-list-type",
        "x-kubernetes-list-map-keys",
        "description",
        "x-kubernetes-validations",
        "x-kubernetes-map-type",
        "format",
    ];

    fn keywords(schema: &Value, path: &str, unknown: &mut Vec<String>) {
        let Some(schema) = schema.as_object() else { return };
        unknown.extend(schema.keys().filter(|key| !KNOWN.contains(&key.as_str())).map(|key| format!("{path}: {key}")));
        for (name, inner) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
            keywords(inner, &join(path, name), unknown);
        }
        for key in ["items", "additionalProperties"] {
            schema.get(key).into_iter().for_each(|inner| keywords(inner, &format!("{path}[]"), unknown));
        }
    }

    #[test]
    fn the_check_knows_every_keyword_of_the_schema() {
        let mut unknown = Vec::new();
        keywords(&crate::crd::openapi(), "", &mut unknown);
        assert_eq!(unknown, [": title", "status: nullable"]);
    }

    #[test]
    fn a_block_without_fields_takes_none() {
        let mut manifest = serde_json::json!({
            "apiVersion": crate::crd::API_VERSION, "kind": "ScrapeTarget", "metadata": { "name": "a", "labels": { "b": "c" } },
            "spec": { "type": "Sora", "url": "http://a/", "members": { "dns": { "servers": [] } } },
        });
        let errors = crate::crd::judge(&manifest).unwrap_err();
        assert_eq!(errors[0].path, "spec.members.dns.servers", "{errors:?}");
        assert_eq!(crate::crd::prune(&mut manifest).as_deref(), Some("spec.members.dns.servers"));
        assert!(crate::crd::judge(&manifest).is_ok() && manifest["metadata"]["labels"]["b"] == "c");
    }

    #[test]
    fn every_pattern_of_the_schema_compiles() {
        fn walk(schema: &Value) {
            if let Some(pattern) = schema.get("pattern").and_then(Value::as_str) {
                regex::Regex::new(pattern).unwrap();
            }
            match schema {
                Value::Object(fields) => fields.values().for_each(walk),
                Value::Array(items) => items.iter().for_each(walk),
                _ => {}
            }
        }
        walk(&crate::crd::openapi());
    }
}
