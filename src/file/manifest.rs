//! What a document declares: ScrapeTargets, Secrets, ConfigMaps, or something that is not for us.

use std::collections::{BTreeMap, HashMap};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use secrecy::{ExposeSecret, SecretSlice};
use serde_json::{Map, Value};

use crate::crd::{self, Problem, ScrapeTarget};
use crate::target::{Lookup, LookupError, ObjectKind, TargetId};

/// The namespace of a manifest that names none.
const DEFAULT_NAMESPACE: &str = "default";

/// Names a Secret or ConfigMap.
pub(super) type ObjectId = (ObjectKind, TargetId);

/// The keys of a Secret or ConfigMap. Both are kept as secrets: a ConfigMap with a key in it is a mistake that happens.
pub(super) type Keys = BTreeMap<String, SecretSlice<u8>>;

/// One manifest. A document has several if it is a List.
#[derive(Debug)]
pub(super) enum Manifest {
    /// A ScrapeTarget, or what is wrong with it.
    Target(Option<TargetId>, Result<Box<ScrapeTarget>, Vec<Problem>>),
    /// A Secret or ConfigMap, or what is wrong with it.
    Object(Option<ObjectId>, Result<Keys, Vec<Problem>>),
    /// Another kind, which is left alone.
    Other(String),
    /// No manifest at all.
    Bad(Problem),
}

/// The manifests of a document as they were written, each with the path that leads to it: nothing, or `items[2]` in a List.
pub(super) fn items(document: &Value) -> Vec<(String, &Value)> {
    let kind = document.get("kind").and_then(Value::as_str);
    if kind == Some("List")
        && let Some(items) = document.get("items").and_then(Value::as_array)
    {
        return items.iter().enumerate().map(|(index, item)| (format!("items[{index}]"), item)).collect();
    }
    vec![(String::new(), document)]
}

/// Reads the manifests of a document, each with the path that leads to it.
pub(super) fn read(document: &Value) -> Vec<(String, Manifest)> {
    items(document).into_iter().map(|(path, item)| (path, read_one(item))).collect()
}

fn read_one(value: &Value) -> Manifest {
    let Some(kind) = value.get("kind").and_then(Value::as_str) else {
        let message = "Required value: a manifest needs apiVersion, kind and metadata.name, write them";
        return Manifest::Bad(Problem::new("kind", message));
    };
    let version = value.get("apiVersion").and_then(Value::as_str).unwrap_or_default();
    match (version, kind) {
        (_, "ScrapeTarget") => Manifest::Target(id(value), crd::judge(value).map(Box::new)),
        ("v1", "Secret") => object(ObjectKind::Secret, value, "data", "stringData"),
        ("v1", "ConfigMap") => object(ObjectKind::ConfigMap, value, "binaryData", "data"),
        _ => Manifest::Other(format!("{version} {kind}")),
    }
}

/// The name of a manifest, as far as there is one.
fn id(value: &Value) -> Option<TargetId> {
    let metadata = value.get("metadata")?;
    let namespace = metadata.get("namespace").and_then(Value::as_str).filter(|namespace| !namespace.is_empty());
    Some(TargetId::new(namespace.unwrap_or(DEFAULT_NAMESPACE), metadata.get("name")?.as_str()?))
}

fn object(kind: ObjectKind, value: &Value, encoded: &str, plain: &str) -> Manifest {
    let mut problems = Vec::new();
    crd::check_names(value, &mut problems);
    let mut keys = Keys::new();
    // Plain text comes second: in a Secret, stringData overrides data.
    for (field, decode) in [(encoded, true), (plain, false)] {
        let fields = match value.get(field) {
            None | Some(Value::Null) => continue,
            Some(Value::Object(fields)) => fields,
            Some(_) => {
                problems.push(Problem::new(field, "must be of type object"));
                continue;
            }
        };
        read_keys(fields, field, decode, &mut keys, &mut problems);
    }
    let id = id(value).map(|id| (kind, id));
    Manifest::Object(id, if problems.is_empty() { Ok(keys) } else { Err(problems) })
}

fn read_keys(fields: &Map<String, Value>, field: &str, decode: bool, keys: &mut Keys, problems: &mut Vec<Problem>) {
    for (key, value) in fields {
        let path = format!("{field}[{key}]");
        let bytes = match value {
            Value::String(text) if decode => {
                // Line breaks are what `base64` prints; Kubernetes takes them too.
                let text: String = text.chars().filter(|character| !matches!(character, '\n' | '\r')).collect();
                STANDARD
                    .decode(text)
                    .map_err(|_| format!("is not base64, encode it or write it under {}", other_field(field)))
            }
            Value::String(text) => Ok(text.clone().into_bytes()),
            Value::Null => Ok(Vec::new()),
            _ => Err("must be of type string, put it in quotes".to_owned()),
        };
        match bytes {
            Ok(bytes) => drop(keys.insert(key.clone(), bytes.into())),
            Err(message) => problems.push(Problem::new(&path, message)),
        }
    }
}

const fn other_field(field: &str) -> &'static str {
    match field.as_bytes() {
        b"data" => "stringData",
        _ => "data",
    }
}

/// The Secrets and ConfigMaps of all files. Its Debug shows names and no values.
#[derive(Clone, Debug, Default)]
pub struct Objects(HashMap<ObjectId, Keys>);

impl Objects {
    /// Adds an object unless there is one of that name already; says whether it was added.
    pub(super) fn add(&mut self, id: ObjectId, keys: Keys) -> bool {
        match self.0.entry(id) {
            std::collections::hash_map::Entry::Occupied(_) => false,
            std::collections::hash_map::Entry::Vacant(place) => {
                place.insert(keys);
                true
            }
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Lookup for Objects {
    fn value(&self, kind: ObjectKind, namespace: &str, name: &str, key: &str) -> Result<Vec<u8>, LookupError> {
        let (names, keys) =
            ((namespace.to_owned(), name.to_owned()), self.0.get(&(kind, TargetId::new(namespace, name))));
        let (namespace, name) = names;
        match keys.map(|keys| keys.get(key)) {
            None => Err(LookupError::NoObject { kind, namespace, name }),
            Some(None) => Err(LookupError::NoKey { kind, namespace, name, key: key.to_owned() }),
            Some(Some(value)) => Ok(value.expose_secret().to_vec()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn keys(manifest: &Value) -> Result<Keys, Vec<Problem>> {
        match read_one(manifest) {
            Manifest::Object(_, keys) => keys,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn string_data_overrides_data() {
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"},
            "data": {"a": "aGVs\nbG8=", "b": "eA=="}, "stringData": {"b": "plain\n"}});
        let keys = keys(&secret).unwrap();
        assert_eq!(keys["a"].expose_secret(), b"hello");
        assert_eq!(keys["b"].expose_secret(), b"plain\n");
    }

    #[test]
    fn a_secret_that_is_not_base64_is_named_and_not_shown() {
        let secret =
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "data": {"token": "hunter2!"}});
        let problems = keys(&secret).unwrap_err();
        assert_eq!(problems[0].to_string(), "data[token]: is not base64, encode it or write it under stringData");
        assert!(!format!("{:?}", read_one(&secret)).contains("hunter2"));
    }

    #[test]
    fn debug_of_objects_shows_no_value() {
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "stringData": {"token": "hunter2"}});
        let mut objects = Objects::default();
        assert!(objects.add((ObjectKind::Secret, TargetId::new("default", "s")), keys(&secret).unwrap()));
        let shown = format!("{objects:?}");
        assert!(shown.contains("token") && !shown.contains("hunter2") && !shown.contains("104, 117"), "{shown}");
        assert_eq!(objects.value(ObjectKind::Secret, "default", "s", "token").unwrap(), b"hunter2");
        let missing = objects.value(ObjectKind::Secret, "default", "s", "other").unwrap_err();
        assert_eq!(missing.to_string(), "Secret default/s has no key \"other\"");
        assert!(objects.value(ObjectKind::ConfigMap, "default", "s", "token").is_err());
    }

    #[test]
    fn config_maps_have_texts_and_bytes() {
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": {"a": "x"}, "binaryData": {"b": "AAE="}});
        let keys = keys(&map).unwrap();
        assert_eq!((keys["a"].expose_secret(), keys["b"].expose_secret()), (&b"x"[..], &[0, 1][..]));
    }
}
