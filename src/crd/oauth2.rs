//! `spec.oauth2`: how a token for the target is obtained. Names and shapes are those of the Prometheus Operator's `OAuth2`, and a block that
//! is copied from there means the same; `user`, `header` and `clientAuthentication` are ours.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::access::{Reference, SecretOrConfigMap, TlsConfig};
use super::schema;
use crate::kind::SecretKeyRef;

/// OAuth 2.0 for the target: a token is requested from tokenUrl, by the client credentials grant or with user by the password grant, and
/// sent with every request to the target.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OAuth2 {
    /// The key of a Secret or ConfigMap that holds the ID of the client.
    pub client_id: SecretOrConfigMap,
    /// The key of a Secret that holds the secret of the client.
    pub client_secret: SecretKeyRef,
    /// The URL of the token endpoint. The client secret, and the password of user, are sent there.
    #[schemars(length(min = 1, max = 2048))]
    pub token_url: String,
    /// The scopes to request.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::words::<16, 256>")]
    pub scopes: Vec<String>,
    /// Parameters that are added to the body of the token request. Not `grant_type`, scope, username, password, nor any that begins
    /// with `client_`, which have fields of their own.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::texts::<16, 1024>")]
    pub endpoint_params: BTreeMap<String, String>,
    /// TLS settings of the token endpoint. Those of the target are not used for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_config: Option<TlsConfig>,
    /// HTTP proxy for the token requests, for instance `http://proxy:3128`. The proxyUrl of the target is not used for them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048))]
    pub proxy_url: Option<String>,
    /// A user to request the token for, by the password grant (`grant_type=password`). If not set, the token is requested by the client
    /// credentials grant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<OAuth2User>,
    /// The header that carries the bare token, for instance X-Auth-Token. If not set, it is sent as `Authorization: Bearer TOKEN`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub header: Option<String>,
    /// How the client authenticates itself at the token endpoint: Header (HTTP basic authentication), Body (`client_id` and
    /// `client_secret` as parameters), or Auto, which begins with Header and remembers what works.
    #[serde(default)]
    pub client_authentication: ClientAuthentication,
}

/// The user of the password grant.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub struct OAuth2User {
    /// The key of a Secret that holds the user name.
    pub username: SecretKeyRef,
    /// The key of a Secret that holds the password.
    pub password: SecretKeyRef,
}

/// How the client authenticates itself at the token endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum ClientAuthentication {
    /// In the header Authorization first, in the body if that is refused.
    #[default]
    Auto,
    /// In the header Authorization.
    Header,
    /// In the body.
    Body,
}

impl OAuth2 {
    /// What the block names, in the order of its fields.
    pub(super) fn references(&self) -> impl Iterator<Item = Reference<'_>> {
        let id = self.client_id.reference("spec.oauth2.clientId");
        let secret = self.client_secret.reference("spec.oauth2.clientSecret");
        let tls = self.tls_config.iter().flat_map(|tls| tls.references("spec.oauth2.tlsConfig"));
        let user = self.user.iter().flat_map(|user| {
            [user.username.reference("spec.oauth2.user.username"), user.password.reference("spec.oauth2.user.password")]
        });
        id.into_iter().chain([secret]).chain(tls).chain(user)
    }
}
