//! Reads one object: from the answer of the API server to the values of the requested keys, or to the reason why there are none.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::Resource;
use kube::api::{GetParams, Request};
use secrecy::zeroize::Zeroizing;
use secrecy::{ExposeSecret, SecretSlice, SecretString};
use serde::Deserialize;

use super::SecretRef;
use crate::k8s::client::{ApiError, PolicyRule};
use crate::k8s::{ApiClient, RequiredLabel};
use crate::target::ObjectKind;

/// Values by key. Those of a ConfigMap are protected too: a password in a ConfigMap is a mistake that happens.
pub(in crate::k8s) type Values = HashMap<Arc<str>, SecretSlice<u8>>;

/// The values of those requested keys that the object has.
pub(in crate::k8s) type ReadResult = Result<Values, ReadError>;

/// Why an object cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::k8s) enum ReadError {
    /// It does not exist.
    NotFound,
    /// It may not be read; the rule that is missing.
    Forbidden(Arc<str>),
    /// It lacks the label without which targets may not use it.
    LabelMissing,
    /// The API server did not answer, or its answer cannot be used; why.
    Unavailable(Arc<str>),
}

/// Reads objects. Each read has a deadline of its own.
pub(in crate::k8s) trait SecretReader: Send + Sync {
    /// The values of `keys` in `object`.
    fn read(&self, object: &SecretRef, keys: &[Arc<str>]) -> impl Future<Output = ReadResult> + Send;
}

/// Reads from the API server.
pub(in crate::k8s) struct ApiReader {
    client: ApiClient,
    label: Option<RequiredLabel>,
}

impl ApiReader {
    pub(super) fn new(client: ApiClient, label: Option<RequiredLabel>) -> Self {
        Self { client, label }
    }
}

impl SecretReader for ApiReader {
    async fn read(&self, object: &SecretRef, keys: &[Arc<str>]) -> ReadResult {
        if !is_name(&object.name) {
            return Err(ReadError::NotFound);
        }
        let namespace = Some(&*object.namespace);
        let (resource, path) = match object.kind {
            ObjectKind::Secret => ("secrets", Secret::url_path(&(), namespace)),
            ObjectKind::ConfigMap => ("configmaps", ConfigMap::url_path(&(), namespace)),
        };
        let client = self.client.kube();
        // As text: kube logs an answer that it cannot parse, with all values.
        let request = async {
            let request = Request::new(path).get(&object.name, &GetParams::default());
            client.request_text(request.map_err(kube::Error::BuildRequest)?).await
        };
        match self.client.call(PolicyRule::new("get", "", resource, namespace), request).await {
            Ok(text) => parse(object.kind, &Zeroizing::new(text), keys, self.label.as_ref()),
            Err(ApiError::NotFound) => Err(ReadError::NotFound),
            Err(ApiError::Forbidden(rule)) => Err(ReadError::Forbidden(rule.to_string().into())),
            Err(error) => Err(ReadError::Unavailable(error.to_string().into())),
        }
    }
}

/// Whether an object can have this name. The client does not escape it, so that another name would lead to another object, or to a list.
fn is_name(name: &str) -> bool {
    let is_inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'-' | b'.');
    name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.bytes().all(is_inner)
}

/// The parts of a Secret or ConfigMap that are used.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ObjectBody {
    #[serde(default)]
    metadata: LabelledMetadata,
    #[serde(default)]
    data: Option<HashMap<String, SecretText>>,
    #[serde(default)]
    binary_data: Option<HashMap<String, SecretText>>,
}

#[derive(Default, Deserialize)]
struct LabelledMetadata {
    #[serde(default)]
    labels: Option<BTreeMap<String, String>>,
}

/// Overwritten in memory when it is dropped, also for keys without references.
#[derive(Deserialize)]
#[serde(from = "String")]
struct SecretText(SecretString);

impl From<String> for SecretText {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

fn parse(kind: ObjectKind, text: &str, keys: &[Arc<str>], label: Option<&RequiredLabel>) -> ReadResult {
    // Only the position of the error: its message may quote the content.
    let object: ObjectBody = serde_json::from_str(text).map_err(|error| {
        unavailable(format!("the response is not a {kind}, at line {} column {}", error.line(), error.column()))
    })?;
    if let Some(label) = label.filter(|_| kind == ObjectKind::Secret)
        && !has(&object.metadata, label)
    {
        return Err(ReadError::LabelMissing);
    }
    let field = |values: &Option<HashMap<String, SecretText>>, key: &str| -> Option<SecretString> {
        values.as_ref().and_then(|values| values.get(key)).map(|SecretText(text)| text.clone())
    };
    let mut values = Values::new();
    for key in keys {
        let (plain, encoded) = match kind {
            ObjectKind::Secret => (None, field(&object.data, key)),
            ObjectKind::ConfigMap => (field(&object.data, key), field(&object.binary_data, key)),
        };
        let value = match (plain, encoded) {
            (Some(plain), _) => plain.expose_secret().as_bytes().to_vec(),
            (None, Some(encoded)) => STANDARD
                .decode(encoded.expose_secret())
                .map_err(|_| unavailable(format!("the response has no base64 in key {key:?}")))?,
            (None, None) => continue,
        };
        values.insert(Arc::clone(key), value.into());
    }
    Ok(values)
}

fn unavailable(why: String) -> ReadError {
    ReadError::Unavailable(why.into())
}

fn has(metadata: &LabelledMetadata, label: &RequiredLabel) -> bool {
    let value = metadata.labels.as_ref().and_then(|labels| labels.get(&label.key));
    value.is_some_and(|value| label.value.as_ref().is_none_or(|wanted| wanted == value))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = r#"{"kind":"Secret","metadata":{"name":"s","labels":{"use":"yes"}},"data":{"token":"aHVudGVyMg==","other":"eA=="}}"#;

    fn keys(names: &[&str]) -> Vec<Arc<str>> {
        names.iter().map(|name| Arc::from(*name)).collect()
    }

    fn shown(outcome: &ReadResult) -> BTreeMap<String, Vec<u8>> {
        let values = outcome.as_ref().unwrap().iter();
        values.map(|(key, value)| (key.to_string(), value.expose_secret().to_vec())).collect()
    }

    #[test]
    fn only_requested_keys_are_kept() {
        let outcome = parse(ObjectKind::Secret, SECRET, &keys(&["token", "missing"]), None);
        assert_eq!(shown(&outcome), BTreeMap::from([("token".to_owned(), b"hunter2".to_vec())]));
    }

    #[test]
    fn config_maps_have_texts_and_bytes_and_need_no_label() {
        let text = r#"{"metadata":{},"data":{"a":"line\n"},"binaryData":{"b":"AAE="}}"#;
        let label = "use".parse().unwrap();
        let outcome = parse(ObjectKind::ConfigMap, text, &keys(&["a", "b"]), Some(&label));
        assert_eq!(
            shown(&outcome),
            BTreeMap::from([("a".to_owned(), b"line\n".to_vec()), ("b".to_owned(), vec![0, 1])])
        );
    }

    #[test]
    fn an_object_without_data_has_no_keys() {
        for text in [r#"{"metadata":{"labels":null},"data":null}"#, "{}"] {
            assert!(shown(&parse(ObjectKind::Secret, text, &keys(&["token"]), None)).is_empty());
        }
    }

    #[test]
    fn a_secret_without_the_label_is_not_used() {
        let allowed = |label: &str| parse(ObjectKind::Secret, SECRET, &keys(&["token"]), Some(&label.parse().unwrap()));
        assert!(allowed("use").is_ok() && allowed("use=yes").is_ok());
        for label in ["use=no", "usage"] {
            assert!(matches!(allowed(label), Err(ReadError::LabelMissing)), "{label}");
        }
    }

    #[test]
    fn an_answer_that_cannot_be_parsed_is_not_quoted() {
        for text in [r#"{"data":{"token":["hunter2"]}}"#, r#"{"data":{"token":"hunter2!"}}"#, r#"{"data":"hunter2"}"#] {
            let outcome = parse(ObjectKind::Secret, text, &keys(&["token"]), None);
            assert!(matches!(outcome, Err(ReadError::Unavailable(_))), "{text}");
            assert!(!format!("{outcome:?}").contains("hunter2"), "{outcome:?}");
        }
    }

    #[test]
    fn a_name_never_leaves_its_place_in_the_path() {
        assert!(is_name("tls.media-1"));
        for name in ["", "../secrets/x", "a/b", "a?watch=1", "?limit=500", "a#b", "a%2fb", ".", "..", "A"] {
            assert!(!is_name(name), "{name}");
        }
    }
}
