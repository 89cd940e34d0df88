//! Every Secret and ConfigMap that a target names, in one list: for `check`, and for whoever must read them.

use std::fmt;

use super::{ConfigMapKeyRef, ScrapeTargetSpec, SecretKeyRef, SecretOrConfigMap};

/// What a reference points to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ObjectKind {
    /// A Secret.
    Secret,
    /// A ConfigMap.
    ConfigMap,
}

impl fmt::Display for ObjectKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Secret => "Secret",
            Self::ConfigMap => "ConfigMap",
        })
    }
}

/// A field that names a key of a Secret or ConfigMap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference<'a> {
    /// The field: `spec.basicAuth.password`.
    pub path: String,
    /// Secret or ConfigMap.
    pub kind: ObjectKind,
    /// The name of the object, in the target's namespace.
    pub name: &'a str,
    /// The key.
    pub key: &'a str,
    /// Whether it may be missing.
    pub optional: bool,
}

impl ScrapeTargetSpec {
    /// What the target names, in the order of the fields.
    pub fn references(&self) -> Vec<Reference<'_>> {
        let mut found = Vec::new();
        for (index, header) in self.headers.iter().enumerate() {
            found.extend(
                header.secret_key_ref.as_ref().map(|key| secret(format!("spec.headers[{index}].secretKeyRef"), key)),
            );
        }
        if let Some(basic) = &self.basic_auth {
            found.push(secret("spec.basicAuth.username".to_owned(), &basic.username));
            found.extend(basic.password.as_ref().map(|key| secret("spec.basicAuth.password".to_owned(), key)));
        }
        if let Some(authorization) = &self.authorization {
            found.push(secret("spec.authorization.credentials".to_owned(), &authorization.credentials));
        }
        if let Some(tls) = &self.tls_config {
            found.extend(tls.ca.as_ref().and_then(|either| either.reference("spec.tlsConfig.ca")));
            found.extend(tls.cert.as_ref().and_then(|either| either.reference("spec.tlsConfig.cert")));
            found.extend(tls.key_secret.as_ref().map(|key| secret("spec.tlsConfig.keySecret".to_owned(), key)));
        }
        found
    }
}

impl SecretOrConfigMap {
    /// The one of the two that is written; `path` is the field that it is the value of.
    pub fn reference(&self, path: &str) -> Option<Reference<'_>> {
        let in_secret = self.secret.as_ref().map(|key| secret(format!("{path}.secret"), key));
        in_secret.or_else(|| self.config_map.as_ref().map(|key| config_map(format!("{path}.configMap"), key)))
    }
}

fn secret(path: String, key: &SecretKeyRef) -> Reference<'_> {
    let optional = key.optional.unwrap_or(false);
    Reference { path, kind: ObjectKind::Secret, name: &key.name, key: &key.key, optional }
}

fn config_map(path: String, key: &ConfigMapKeyRef) -> Reference<'_> {
    let optional = key.optional.unwrap_or(false);
    Reference { path, kind: ObjectKind::ConfigMap, name: &key.name, key: &key.key, optional }
}
