//! How a target is reached: headers, credentials, TLS. Names and shapes are those of the Prometheus Operator's ServiceMonitor.
//!
//! [`ScrapeTargetSpec::references`] lists every Secret and ConfigMap that a target names.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ScrapeTargetSpec, rules};
use crate::kind;
pub use crate::kind::SecretKeyRef;

/// One key of a ConfigMap in the namespace of the ScrapeTarget.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize, Serialize, JsonSchema)]
#[schemars(extend("x-kubernetes-map-type" = "atomic"))]
pub struct ConfigMapKeyRef {
    /// The name of the ConfigMap.
    #[schemars(length(max = 253), regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"))]
    pub name: String,
    /// The key in the ConfigMap.
    #[schemars(length(max = 253), regex(pattern = r"^[-._a-zA-Z0-9]+$"))]
    pub key: String,
    /// Whether the ConfigMap or its key may be missing. If it is missing, the setting is omitted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub optional: Option<bool>,
}

/// The description of `spec.headers[].name`, with the headers of each kind.
fn header_description() -> String {
    let refused = kind::Type::ALL.iter().flat_map(|kind| kind.command_headers()).map(|(name, _)| *name);
    let mut refused = rules::CONNECTION_HEADERS.into_iter().chain(refused).map(rules::capitalized).collect::<Vec<_>>();
    let last = refused.pop().unwrap_or_default();
    let own = kind::Type::ALL.iter().flat_map(|kind| kind.own_headers().iter().map(move |(name, _)| (kind, *name)));
    let own: Vec<String> = own.map(|(kind, name)| format!(", {} with type {kind}", rules::capitalized(name))).collect();
    format!(
        "The name of the header. {} and {last} are not allowed, nor are Host, Accept* and Content-* with types that are polled through an API{}.",
        refused.join(", "),
        own.concat()
    )
}

/// A header that is sent with every request to the target.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Header {
    /// The name of the header. The schema also lists those that the exporter sets itself.
    #[schemars(length(min = 1, max = 128), description = header_description())]
    pub name: String,
    /// The value, in plain text. Use secretKeyRef for confidential values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096))]
    pub value: Option<String>,
    /// The key of a Secret that holds the value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_key_ref: Option<SecretKeyRef>,
}

/// User name and password of HTTP basic authentication.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub struct BasicAuth {
    /// The key of a Secret that holds the user name.
    pub username: SecretKeyRef,
    /// The key of a Secret that holds the password. If not set, the password is empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<SecretKeyRef>,
}

/// The header Authorization with a scheme and credentials.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub struct Authorization {
    /// The authentication scheme. Basic is not allowed here; use basicAuth instead.
    #[serde(default = "bearer", rename = "type")]
    #[schemars(length(min = 1, max = 64))]
    pub scheme: String,
    /// The key of a Secret that holds the credentials.
    pub credentials: SecretKeyRef,
}

fn bearer() -> String {
    "Bearer".to_owned()
}

/// How the certificate of a server with TLS is verified, and how the exporter authenticates itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TlsConfig {
    /// The certificate authorities that verify the server's certificate, instead of those of the system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<SecretOrConfigMap>,
    /// The client certificate for the server; it requires keySecret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cert: Option<SecretOrConfigMap>,
    /// The key of a Secret that holds the private key of the client certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_secret: Option<SecretKeyRef>,
    /// The name that is sent as SNI and that the server's certificate must contain, instead of the host in its url.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub server_name: Option<String>,
    /// The lowest version of TLS that may be agreed on: TLS12 or TLS13. Older ones are not supported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_version: Option<TlsProtocol>,
    /// The highest version of TLS that may be agreed on: TLS12 or TLS13.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_version: Option<TlsProtocol>,
    /// Do not verify the server's certificate. Anyone between the exporter and the server can then read and change everything.
    #[serde(default)]
    pub insecure_skip_verify: bool,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize, JsonSchema)]
pub enum TlsProtocol {
    /// TLS 1.2.
    #[serde(rename = "TLS12")]
    Tls12,
    /// TLS 1.3.
    #[serde(rename = "TLS13")]
    Tls13,
}

/// A key of either a Secret or a ConfigMap.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretOrConfigMap {
    /// The key of a Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<SecretKeyRef>,
    /// The key of a ConfigMap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map: Option<ConfigMapKeyRef>,
}

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

impl SecretKeyRef {
    /// This key, as the value of the field `path`.
    pub fn reference(&self, path: &str) -> Reference<'_> {
        let optional = self.optional.unwrap_or(false);
        Reference { path: path.to_owned(), kind: ObjectKind::Secret, name: &self.name, key: &self.key, optional }
    }
}

impl ConfigMapKeyRef {
    /// This key, as the value of the field `path`.
    pub fn reference(&self, path: &str) -> Reference<'_> {
        let optional = self.optional.unwrap_or(false);
        Reference { path: path.to_owned(), kind: ObjectKind::ConfigMap, name: &self.name, key: &self.key, optional }
    }
}

impl SecretOrConfigMap {
    /// The one of the two that is written, as the value of the field `path`.
    pub fn reference(&self, path: &str) -> Option<Reference<'_>> {
        let secret = self.secret.as_ref().map(|key| key.reference(&format!("{path}.secret")));
        secret.or_else(|| self.config_map.as_ref().map(|key| key.reference(&format!("{path}.configMap"))))
    }
}

impl TlsConfig {
    /// What these settings name, as the value of the field `path`.
    pub(super) fn references<'a>(&'a self, path: &str) -> impl Iterator<Item = Reference<'a>> + use<'a> {
        let ca = self.ca.as_ref().and_then(|either| either.reference(&format!("{path}.ca")));
        let cert = self.cert.as_ref().and_then(|either| either.reference(&format!("{path}.cert")));
        let key = self.key_secret.as_ref().map(|key| key.reference(&format!("{path}.keySecret")));
        [ca, cert, key].into_iter().flatten()
    }
}

impl ScrapeTargetSpec {
    /// What the target names, in the order of the fields.
    pub fn references(&self) -> Vec<Reference<'_>> {
        let mut found = Vec::new();
        for (index, header) in self.headers.iter().enumerate() {
            let secret = header.secret_key_ref.as_ref();
            found.extend(secret.map(|key| key.reference(&format!("spec.headers[{index}].secretKeyRef"))));
        }
        if let Some(basic) = &self.basic_auth {
            found.push(basic.username.reference("spec.basicAuth.username"));
            found.extend(basic.password.as_ref().map(|key| key.reference("spec.basicAuth.password")));
        }
        if let Some(authorization) = &self.authorization {
            found.push(authorization.credentials.reference("spec.authorization.credentials"));
        }
        found.extend(self.oauth2.iter().flat_map(|oauth2| oauth2.references()));
        found.extend(self.tls_config.iter().flat_map(|tls| tls.references("spec.tlsConfig")));
        if let Some(basic) = &self.proxy_auth {
            found.push(basic.username.reference("spec.proxyAuth.username"));
            found.extend(basic.password.as_ref().map(|key| key.reference("spec.proxyAuth.password")));
        }
        found.extend(self.proxy_tls_config.iter().flat_map(|tls| tls.references("spec.proxyTlsConfig")));
        let of_block = self.blocks.secrets(self.kind).into_iter();
        found.extend(of_block.map(|(field, key)| key.reference(&format!("spec.{field}"))));
        found
    }
}
