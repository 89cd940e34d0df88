//! What a token depends on. Targets of one namespace with equal settings have one token.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use reqwest::Url;
use reqwest::header::{AUTHORIZATION, HeaderName, HeaderValue};

use crate::dial::Connection;

/// A value that is never printed: of a Secret, or the token itself.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct HiddenValue(Arc<[u8]>);

impl HiddenValue {
    /// Hides `value`.
    pub fn new(value: impl Into<Arc<[u8]>>) -> Self {
        Self(value.into())
    }

    /// The bytes.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for HiddenValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<secret>")
    }
}

/// `spec.oauth2` of a target, with the values that it refers to.
#[derive(Clone, Debug, PartialEq)]
pub struct OAuth2Settings {
    /// What the token depends on.
    pub token: Arc<TokenSettings>,
    /// The header that carries the bare token; `None`: `Authorization: Bearer TOKEN`.
    pub header: Option<HeaderName>,
}

impl OAuth2Settings {
    /// The header with `token`, as the target gets it.
    pub fn header_of(&self, token: &HiddenValue) -> (HeaderName, HeaderValue) {
        let (name, text) = match &self.header {
            Some(name) => (name.clone(), token.expose().to_vec()),
            // Exactly so, whatever token_type says: some servers compare the word, and others name a type that no header has.
            None => (AUTHORIZATION, [b"Bearer ", token.expose()].concat()),
        };
        // A token has no character that a header may not have.
        let mut value = HeaderValue::from_bytes(&text).unwrap_or(HeaderValue::from_static(""));
        value.set_sensitive(true);
        (name, value)
    }
}

/// What a token depends on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TokenSettings {
    /// The token endpoint.
    pub url: Url,
    /// The ID of the client.
    pub client_id: HiddenValue,
    /// The secret of the client.
    pub client_secret: HiddenValue,
    /// The scopes to request.
    pub scopes: Vec<String>,
    /// More parameters of the request.
    pub endpoint_params: BTreeMap<String, String>,
    /// The user of the password grant; `None`: the client credentials grant.
    pub user: Option<TokenUser>,
    /// How the client may authenticate itself.
    pub styles: ClientAuthStyles,
    /// TLS and proxy.
    pub connection: Connection,
}

/// A user of the password grant.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TokenUser {
    /// The user name.
    pub username: HiddenValue,
    /// The password.
    pub password: HiddenValue,
}

/// The grant of a token for a user.
pub(super) const PASSWORD: &str = "password";

/// How the client authenticates itself at the token endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClientStyle {
    /// With HTTP basic authentication.
    Header,
    /// With parameters of the body.
    Body,
}

impl ClientStyle {
    /// The other one.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Header => Self::Body,
            Self::Body => Self::Header,
        }
    }
}

/// The ways in which it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClientAuthStyles {
    /// In this one.
    Only(ClientStyle),
    /// In whichever works; the header is tried first.
    Auto,
}

impl TokenSettings {
    /// The value of the parameter `grant_type`.
    pub const fn grant(&self) -> &'static str {
        if self.user.is_some() { PASSWORD } else { "client_credentials" }
    }

    /// Everything in it that no text may repeat, in each form in which it is sent.
    pub fn secrets(&self) -> Vec<Vec<u8>> {
        let password = self.user.as_ref().map(|user| user.password.expose());
        let mut secrets = Vec::new();
        for secret in [self.client_secret.expose()].into_iter().chain(password) {
            let in_form = super::request::encoded(secret).into_bytes();
            let in_json = serde_json::to_vec(&String::from_utf8_lossy(secret)).unwrap_or_default();
            let in_json = in_json.trim_ascii().strip_prefix(b"\"").and_then(|text| text.strip_suffix(b"\""));
            secrets.extend([secret.to_vec(), in_form, in_json.unwrap_or_default().to_vec()]);
        }
        // The header as it is sent: what is put into words finds ID and secret in it as well.
        secrets.push(self.basic().as_bytes().to_vec());
        secrets
    }
}
