//! How a target is reached: headers, credentials, TLS. Names and shapes are those of the Prometheus Operator's ServiceMonitor.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One key of a Secret in the namespace of the ScrapeTarget.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize, Serialize, JsonSchema)]
#[schemars(extend("x-kubernetes-map-type" = "atomic"))]
pub struct SecretKeyRef {
    /// The name of the Secret.
    #[schemars(length(max = 253), regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"))]
    pub name: String,
    /// The key in the Secret. A trailing newline of its value is removed.
    #[schemars(length(max = 253), regex(pattern = r"^[-._a-zA-Z0-9]+$"))]
    pub key: String,
    /// Whether the Secret or its key may be missing. The setting is then left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub optional: Option<bool>,
}

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
    /// Whether the ConfigMap or its key may be missing. The setting is then left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub optional: Option<bool>,
}

/// A header that is sent with every call to the target.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Header {
    /// The name of the header. The exporter sets Host, Connection, Content-*, Transfer-Encoding, Accept*, X-Sora-Target and
    /// Fiware-Service itself and refuses them here.
    #[schemars(length(min = 1, max = 128))]
    pub name: String,
    /// The value, in plain text. Use secretKeyRef for anything that must stay secret.
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
    /// The key of a Secret that holds the password. Without it the password is empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<SecretKeyRef>,
}

/// The header Authorization with a scheme and credentials.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub struct Authorization {
    /// The scheme of the authentication. Basic is not possible here, use basicAuth.
    #[serde(default = "bearer", rename = "type")]
    #[schemars(length(min = 1, max = 64))]
    pub scheme: String,
    /// The key of a Secret that holds the credentials.
    pub credentials: SecretKeyRef,
}

fn bearer() -> String {
    "Bearer".to_owned()
}

/// How an https target is verified, and how the exporter shows who it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TlsConfig {
    /// The certificate authorities that verify the target's certificate, in place of the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<SecretOrConfigMap>,
    /// The client certificate for the target; it requires keySecret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cert: Option<SecretOrConfigMap>,
    /// The key of a Secret that holds the private key of the client certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_secret: Option<SecretKeyRef>,
    /// The name that is sent as SNI and that the target's certificate must contain, in place of the host in url.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub server_name: Option<String>,
    /// Do not verify the target's certificate. Anyone between the exporter and the target can then read and change everything.
    #[serde(default)]
    pub insecure_skip_verify: bool,
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
