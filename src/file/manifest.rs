//! What a document declares: ScrapeTargets, Secrets, ConfigMaps, or objects that are ignored.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use secrecy::{ExposeSecret, SecretSlice};
use serde_json::{Map, Value};

use super::secrets::SecretValues;
use crate::crd::{self, FieldError, ParsedTarget, nearest};
use crate::kind::Type;
use crate::target::{Lookup, LookupError, ObjectKind, TargetId};

/// The namespace of a manifest that names none.
pub(super) const DEFAULT_NAMESPACE: &str = "default";

/// Names a Secret or ConfigMap.
pub(super) type FileObjectId = (ObjectKind, TargetId);

/// The keys of a Secret or ConfigMap with their values. Both are protected: people do put a private key into a ConfigMap by mistake.
pub(super) type Keys = BTreeMap<String, SecretSlice<u8>>;

/// One manifest. A document that is a list has several.
#[derive(Debug)]
pub(super) enum Manifest {
    /// A ScrapeTarget, or what is wrong with it.
    Target(Option<TargetId>, Result<Box<ParsedTarget>, InvalidTarget>),
    /// A Secret or ConfigMap, or what is wrong with it.
    Object(Option<FileObjectId>, Result<Keys, Vec<FieldError>>),
    /// Another kind, which is ignored.
    Other(String),
    /// No manifest.
    Unreadable(FieldError),
}

/// An invalid ScrapeTarget, with the fields that could be read.
#[derive(Debug)]
pub(super) struct InvalidTarget {
    /// The type, if it is one.
    pub(super) kind: Option<Type>,
    /// The url, as it is written.
    pub(super) url: Option<String>,
    /// What is wrong.
    pub(super) errors: Vec<FieldError>,
}

impl InvalidTarget {
    fn new(value: &Value, errors: Vec<FieldError>) -> Self {
        let text = |field: &str| value.pointer(field).and_then(Value::as_str);
        // The schema accepts no other case either.
        let kind = text("/spec/type").and_then(|word| Type::ALL.iter().find(|kind| kind.as_str() == word).copied());
        Self { kind, url: text("/spec/url").map(str::to_owned), errors }
    }
}

/// The manifests of a document as they are written, each with its path in the document: empty, or `items[2]` in a list.
pub(super) fn items(document: &Value) -> Vec<(String, Cow<'_, Value>)> {
    let text = |field: &str| document.get(field).and_then(Value::as_str).unwrap_or_default();
    let (version, kind) = (text("apiVersion"), text("kind"));
    let items = match document.get("items") {
        Some(Value::Array(items)) => items.as_slice(),
        Some(Value::Null) => &[],
        _ => return vec![(String::new(), Cow::Borrowed(document))],
    };
    let of_one_kind = match (version, kind) {
        (_, "List") => None,
        ("v1", "SecretList" | "ConfigMapList") => kind.strip_suffix("List"),
        (_, "ScrapeTargetList") => Some("ScrapeTarget"),
        _ => return vec![(String::new(), Cow::Borrowed(document))],
    };
    let each = items.iter().enumerate().map(|(index, item)| {
        (format!("items[{index}]"), of_one_kind.map_or(Cow::Borrowed(item), |kind| typed(item, version, kind)))
    });
    each.collect()
}

/// An item of a list of one kind with `apiVersion` and `kind`, which the API server leaves out in such a list.
fn typed<'v>(item: &'v Value, version: &str, kind: &str) -> Cow<'v, Value> {
    let says = |field: &str| item.get(field).is_some_and(|value| !value.is_null());
    match item.as_object() {
        Some(fields) if !says("apiVersion") && !says("kind") => {
            let mut fields = fields.clone();
            fields.insert("apiVersion".to_owned(), version.into());
            fields.insert("kind".to_owned(), kind.into());
            Cow::Owned(Value::Object(fields))
        }
        _ => Cow::Borrowed(item),
    }
}

/// Reads the manifests of a document, each with its path in the document.
pub(super) fn read(document: &Value) -> Vec<(String, Manifest)> {
    items(document).into_iter().map(|(path, item)| (path, read_one(&item))).collect()
}

fn read_one(value: &Value) -> Manifest {
    const WRITE: &str = "Required value: a manifest needs apiVersion, kind and metadata.name, write them";
    let text = |field: &str| value.get(field).and_then(Value::as_str).filter(|text| !text.is_empty());
    let Some(kind) = text("kind") else { return Manifest::Unreadable(FieldError::new("kind", WRITE)) };
    let version = text("apiVersion").unwrap_or_default();
    match (version, kind) {
        (_, "ScrapeTarget") => Manifest::Target(
            id(value),
            crd::judge(value).map(Box::new).map_err(|errors| InvalidTarget::new(value, errors)),
        ),
        ("v1", "Secret") => object(ObjectKind::Secret, value, "data", "stringData"),
        ("v1", "ConfigMap") => object(ObjectKind::ConfigMap, value, "binaryData", "data"),
        ("v1", "List" | "SecretList" | "ConfigMapList") | (_, "ScrapeTargetList") => {
            Manifest::Unreadable(FieldError::new("items", "Required value: write the list of manifests"))
        }
        ("", _) => Manifest::Unreadable(FieldError::new("apiVersion", WRITE)),
        // Objects of our API group are meant for the exporter: to ignore one silently would hide a mistake.
        _ if is_ours(version) => {
            let words = ["ScrapeTarget", "ScrapeTargetList"];
            Manifest::Target(id(value), Err(InvalidTarget::new(value, vec![unknown_kind(kind, crd::GROUP, &words)])))
        }
        ("v1", _) if nearest(kind, ["Secret", "ConfigMap"].into_iter()).is_some() => {
            Manifest::Unreadable(unknown_kind(kind, "v1", &["Secret", "ConfigMap"]))
        }
        _ => Manifest::Other(format!("{version} {kind}")),
    }
}

/// Whether an apiVersion has our API group in any version, also with a typing error.
fn is_ours(version: &str) -> bool {
    let group = version.split_once('/').map_or(version, |(group, _)| group);
    nearest(group, std::iter::once(crd::GROUP)).is_some()
}

fn unknown_kind(kind: &str, group: &str, words: &[&str]) -> FieldError {
    let shown: String = kind.chars().take(64).collect();
    let hint = nearest(kind, words.iter().copied())
        .map_or_else(|| format!("write {}", words.join(" or ")), |near| format!("did you mean {near:?}?"));
    FieldError::new("kind", format!("unknown kind {shown:?} of {group}, {hint}"))
}

/// Namespace and name of a manifest, if it has a name.
pub(super) fn id(value: &Value) -> Option<TargetId> {
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
                problems.push(FieldError::new(field, "must be of type object"));
                continue;
            }
        };
        read_keys(fields, field, decode, &mut keys, &mut problems);
    }
    let id = id(value).map(|id| (kind, id));
    Manifest::Object(id, if problems.is_empty() { Ok(keys) } else { Err(problems) })
}

fn read_keys(fields: &Map<String, Value>, field: &str, decode: bool, keys: &mut Keys, problems: &mut Vec<FieldError>) {
    for (key, value) in fields {
        let path = format!("{field}[{key}]");
        let bytes = match value {
            Value::String(text) if decode => {
                // `base64` prints line breaks, and Kubernetes accepts them.
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
            Err(message) => problems.push(FieldError::new(&path, message)),
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
pub struct FileObjects {
    declared: HashMap<FileObjectId, Keys>,
    /// Values of Secrets from files of their own; a manifest takes precedence.
    values: Option<SecretValues>,
}

impl FileObjects {
    /// Adds an object unless there is one of that name already. Returns whether it was added.
    pub(super) fn add(&mut self, id: FileObjectId, keys: Keys) -> bool {
        match self.declared.entry(id) {
            std::collections::hash_map::Entry::Occupied(_) => false,
            std::collections::hash_map::Entry::Vacant(entry) => {
                entry.insert(keys);
                true
            }
        }
    }

    /// Adds values from files of their own.
    pub(super) fn add_values(&mut self, values: SecretValues) {
        self.values = Some(values);
    }
}

impl Lookup for FileObjects {
    fn value(&self, kind: ObjectKind, namespace: &str, name: &str, key: &str) -> Result<Vec<u8>, LookupError> {
        let id = TargetId::new(namespace, name);
        let keys = self.declared.get(&(kind, id.clone()));
        if let Some(value) = keys.and_then(|keys| keys.get(key)) {
            return Ok(value.expose_secret().to_vec());
        }
        let (namespace, name) = (namespace.to_owned(), name.to_owned());
        if let Some(values) = self.values.as_ref().filter(|_| kind == ObjectKind::Secret) {
            let wanted = (id, key.to_owned());
            if let Some(value) = values.get(&wanted) {
                return Ok(value.expose_secret().to_vec());
            }
            if let Some(why) = values.problem(&wanted) {
                let (key, why) = (wanted.1, why.to_string());
                return Err(LookupError::BadFile { kind, namespace, name, key, why });
            }
            let places = values.candidates_text(&wanted);
            return Err(LookupError::NoFile { kind, namespace, name, key: wanted.1, places });
        }
        match keys {
            None => Err(LookupError::NoObject { kind, namespace, name }),
            Some(_) => Err(LookupError::NoKey { kind, namespace, name, key: key.to_owned() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn keys(manifest: &Value) -> Result<Keys, Vec<FieldError>> {
        match read_one(manifest) {
            Manifest::Object(_, keys) => keys,
            other => panic!("{other:?}"),
        }
    }

    fn problem(manifest: &Value) -> String {
        match read_one(manifest) {
            Manifest::Target(_, Err(invalid)) => invalid.errors[0].to_string(),
            Manifest::Unreadable(problem) => problem.to_string(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_kind_that_our_group_does_not_have_is_a_problem_that_names_the_one_it_has() {
        for (version, kind, wanted) in [
            ("scrapetarget.dev/v1alpha1", "ScrapTarget", "did you mean \"ScrapeTarget\"?"),
            ("scrapetarget.dev/v1alpha1", "scrapetarget", "did you mean \"ScrapeTarget\"?"),
            ("scrapetarget.dev/v1alpha1", "ScrapeTargets", "did you mean \"ScrapeTarget\"?"),
            ("scrapetarget.dev/v1alpha1", "ScrapetargetList", "did you mean \"ScrapeTargetList\"?"),
            ("scrapetarget.dev/v1beta1", "Probe", "write ScrapeTarget or ScrapeTargetList"),
            ("scrapetarget.dev", "ScrapTarget", "did you mean \"ScrapeTarget\"?"),
            ("scrapetargets.dev/v1alpha1", "ScrapTarget", "did you mean \"ScrapeTarget\"?"),
            ("scrapetarget.dev/v2", "ScrapeTarget", "apiVersion: must be scrapetarget.dev/v1alpha1"),
            ("v1", "secret", "did you mean \"Secret\"?"),
            ("v1", "ConfigMaps", "did you mean \"ConfigMap\"?"),
            ("", "Deployment", "apiVersion: Required value"),
            ("scrapetarget.dev/v1alpha1", "ScrapeTargetList", "items: Required value"),
        ] {
            let manifest = json!({"apiVersion": version, "kind": kind, "metadata": {"name": "a"},
                "spec": {"type": "Sora", "url": "http://a/"}});
            let problem = problem(&manifest);
            assert!(problem.contains(wanted), "{version} {kind}: {problem}");
        }
        for (version, kind) in [("v1", "Service"), ("apps/v1", "Deployment"), ("monitoring.coreos.com/v1", "Probe")] {
            let manifest = json!({"apiVersion": version, "kind": kind, "metadata": {"name": "a"}});
            assert!(matches!(read_one(&manifest), Manifest::Other(_)), "{version} {kind}");
        }
    }

    #[test]
    fn lists_of_one_kind_are_read_also_where_their_items_do_not_repeat_it() {
        let target = json!({"metadata": {"name": "a"}, "spec": {"type": "Sora", "url": "http://a/"}});
        let list =
            |version: &str, kind: &str, items: Value| json!({"apiVersion": version, "kind": kind, "items": items});
        let found = read(&list("scrapetarget.dev/v1alpha1", "ScrapeTargetList", json!([target, {"kind": "Secret"}])));
        assert!(matches!(&found[0], (path, Manifest::Target(_, Ok(_))) if path == "items[0]"), "{found:?}");
        assert!(matches!(&found[1].1, Manifest::Unreadable(_)), "{found:?}");
        let secrets = read(&list("v1", "SecretList", json!([{"metadata": {"name": "s"}, "stringData": {"k": "v"}}])));
        assert!(matches!(&secrets[0].1, Manifest::Object(_, Ok(keys)) if keys.len() == 1), "{secrets:?}");
        assert!(read(&list("v1", "List", Value::Null)).is_empty());
        assert!(matches!(read(&json!({"apiVersion": "v1", "kind": "List"}))[..], [(_, Manifest::Unreadable(_))]));
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
        let mut objects = FileObjects::default();
        assert!(objects.add((ObjectKind::Secret, TargetId::new("default", "s")), keys(&secret).unwrap()));
        let shown = format!("{objects:?}");
        assert!(shown.contains("token") && !shown.contains("hunter2") && !shown.contains("104, 117"), "{shown}");
        assert_eq!(objects.value(ObjectKind::Secret, "default", "s", "token").unwrap(), b"hunter2");
        let missing = objects.value(ObjectKind::Secret, "default", "s", "other").unwrap_err();
        assert_eq!(missing.to_string(), "Secret default/s has no key \"other\": add it to the manifest");
        assert!(objects.value(ObjectKind::ConfigMap, "default", "s", "token").is_err());
    }

    #[test]
    fn config_maps_have_texts_and_bytes() {
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": {"a": "x"}, "binaryData": {"b": "AAE="}});
        let keys = keys(&map).unwrap();
        assert_eq!((keys["a"].expose_secret(), keys["b"].expose_secret()), (&b"x"[..], &[0, 1][..]));
    }
}
