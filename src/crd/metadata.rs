//! What every manifest of Kubernetes has in common: apiVersion, kind and metadata.

use serde_json::Value;

use super::pattern::{K8S_NAME, is_dns_label, is_label_key, is_label_value};
use super::{FieldError, nearest};

/// The fields of `metadata`, with those that only the API server sets: `kubectl get -o yaml` prints them.
const FIELDS: [&str; 15] = [
    "annotations",
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generateName",
    "generation",
    "labels",
    "managedFields",
    "name",
    "namespace",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
];

/// Checks that it is a ScrapeTarget of this version.
pub(super) fn check_type(manifest: &Value, errors: &mut Vec<FieldError>) {
    let expected = [("apiVersion", super::API_VERSION), ("kind", "ScrapeTarget")];
    for (field, expected) in expected {
        if manifest.get(field).is_none_or(|value| value != expected) {
            errors.push(FieldError::new(field, format!("must be {expected}")));
        }
    }
}

/// Checks name, namespace, labels and annotations of any manifest.
pub(crate) fn check_names(manifest: &Value, errors: &mut Vec<FieldError>) {
    let Some(metadata) = manifest.get("metadata").filter(|metadata| !metadata.is_null()) else {
        return errors.push(FieldError::new("metadata.name", "Required value: write a name"));
    };
    let Some(fields) = metadata.as_object() else {
        return errors.push(FieldError::new("metadata", "must be of type object"));
    };
    for field in fields.keys().filter(|field| !FIELDS.contains(&field.as_str())) {
        let hint = nearest(field, FIELDS.into_iter())
            .map_or_else(|| ", remove it".to_owned(), |near| format!(", did you mean {near:?}?"));
        errors.push(FieldError::new(&format!("metadata.{field}"), format!("unknown field \"metadata.{field}\"{hint}")));
    }
    match fields.get("name") {
        None | Some(Value::Null) => errors.push(FieldError::new("metadata.name", "Required value: write a name")),
        Some(Value::String(name)) if name.len() <= 253 && K8S_NAME.is_match(name) => {}
        Some(Value::String(_)) => errors.push(FieldError::new(
            "metadata.name",
            "a lowercase RFC 1123 subdomain must consist of lower case letters, digits, '-' and '.', with a letter or digit at both \
             ends, 253 characters at most",
        )),
        Some(_) => errors.push(FieldError::new("metadata.name", "must be of type string, put it in quotes")),
    }
    match fields.get("namespace") {
        None | Some(Value::Null) => {}
        Some(Value::String(name)) if name.is_empty() || is_dns_label(name) => {}
        Some(Value::String(_)) => errors.push(FieldError::new(
            "metadata.namespace",
            "a lowercase RFC 1123 label must consist of lower case letters, digits and '-', with a letter or digit at both ends, 63 \
             characters at most",
        )),
        Some(_) => errors.push(FieldError::new("metadata.namespace", "must be of type string, put it in quotes")),
    }
    for field in ["labels", "annotations"] {
        match fields.get(field) {
            None | Some(Value::Null) => {}
            Some(Value::Object(texts)) => {
                for (key, value) in texts {
                    let path = format!("metadata.{field}[{key}]");
                    let bad_label = |value: &str| field == "labels" && !is_label_value(value);
                    if !is_label_key(key) {
                        errors.push(FieldError::new(
                            &path,
                            "is not a valid name of a label or annotation, write for instance example.com/team",
                        ));
                    } else if value.as_str().is_none() {
                        errors.push(FieldError::new(&path, "must be of type string, put it in quotes"));
                    } else if value.as_str().is_some_and(bad_label) {
                        errors.push(FieldError::new(
                            &path,
                            "is not a valid label value: write letters, digits, -, _ and ., 63 characters at most",
                        ));
                    }
                }
            }
            Some(_) => errors.push(FieldError::new(&format!("metadata.{field}"), "must be of type object")),
        }
    }
}
