//! The request for a token: a form, as RFC 6749 has it for the client credentials grant (4.4.2) and the password grant (4.3.2).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use reqwest::header::HeaderValue;
use url::form_urlencoded::byte_serialize;

use super::settings::{ClientStyle, TokenSettings};

/// A request for a token: a POST of `application/x-www-form-urlencoded`.
#[derive(Clone)]
pub struct TokenRequest {
    /// The header `Authorization`, if the client authenticates itself by it.
    pub authorization: Option<HeaderValue>,
    /// The form.
    pub form: Bytes,
}

impl std::fmt::Debug for TokenRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenRequest").finish_non_exhaustive()
    }
}

impl TokenSettings {
    /// The request in which the client authenticates itself like this.
    pub fn request(&self, style: ClientStyle) -> TokenRequest {
        let mut form = RequestForm::default();
        form.add("grant_type", self.grant().as_bytes());
        if let Some(user) = &self.user {
            form.add("username", user.username.expose());
            form.add("password", user.password.expose());
        }
        if !self.scopes.is_empty() {
            form.add("scope", self.scopes.join(" ").as_bytes());
        }
        for (name, value) in &self.endpoint_params {
            form.add(name, value.as_bytes());
        }
        let authorization = match style {
            ClientStyle::Header => Some(self.basic()),
            ClientStyle::Body => {
                form.add("client_id", self.client_id.expose());
                // A public client has none.
                if !self.client_secret.expose().is_empty() {
                    form.add("client_secret", self.client_secret.expose());
                }
                None
            }
        };
        TokenRequest { authorization, form: form.0.into() }
    }

    /// ID and secret as HTTP basic authentication. Both are encoded as in a form before, as 2.3.1 says: a colon in an ID would end it.
    pub(super) fn basic(&self) -> HeaderValue {
        let pair = format!("{}:{}", encoded(self.client_id.expose()), encoded(self.client_secret.expose()));
        // Base64 has no character that a header may not have.
        let value = HeaderValue::from_str(&format!("Basic {}", STANDARD.encode(pair)));
        let mut value = value.unwrap_or(HeaderValue::from_static(""));
        value.set_sensitive(true);
        value
    }
}

/// A value as it stands in a form.
pub fn encoded(value: &[u8]) -> String {
    byte_serialize(value).collect()
}

/// Parameters of a form.
#[derive(Default)]
struct RequestForm(String);

impl RequestForm {
    fn add(&mut self, name: &str, value: &[u8]) {
        if !self.0.is_empty() {
            self.0.push('&');
        }
        self.0.extend(byte_serialize(name.as_bytes()));
        self.0.push('=');
        self.0.extend(byte_serialize(value));
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeMap;

    use reqwest::Url;

    use super::super::settings::{ClientAuthStyles, HiddenValue, TokenUser};
    use super::*;
    use crate::dial::Connection;

    pub(in crate::oauth2) fn settings() -> TokenSettings {
        TokenSettings {
            url: Url::parse("http://idm/token").unwrap(),
            client_id: HiddenValue::new(&b"tutorial-dckr"[..]),
            client_secret: HiddenValue::new(&b"s3cr:t/ +\xff"[..]),
            scopes: Vec::new(),
            endpoint_params: BTreeMap::new(),
            user: None,
            styles: ClientAuthStyles::Auto,
            connection: Connection::default(),
        }
    }

    fn body(request: &TokenRequest) -> &str {
        std::str::from_utf8(&request.form).unwrap()
    }

    #[test]
    fn a_client_authenticates_itself_in_the_header_with_both_parts_encoded() {
        let request = settings().request(ClientStyle::Header);
        assert_eq!(body(&request), "grant_type=client_credentials");
        let header = request.authorization.unwrap();
        assert!(header.is_sensitive());
        let pair = header.to_str().unwrap().strip_prefix("Basic ").unwrap();
        assert_eq!(STANDARD.decode(pair).unwrap(), b"tutorial-dckr:s3cr%3At%2F+%2B%FF");
    }

    #[test]
    fn a_user_scopes_and_parameters_stand_in_the_body_and_the_client_where_it_is_to() {
        let user = TokenUser { username: HiddenValue::new(&b"a@b"[..]), password: HiddenValue::new(&b"p&w"[..]) };
        let settings = TokenSettings {
            user: Some(user),
            scopes: vec!["openid".to_owned(), "jwt".to_owned()],
            endpoint_params: BTreeMap::from([("audience".to_owned(), "http://app/?a=b".to_owned())]),
            ..settings()
        };
        let request = settings.request(ClientStyle::Body);
        assert!(request.authorization.is_none());
        assert_eq!(
            body(&request),
            "grant_type=password&username=a%40b&password=p%26w&scope=openid+jwt&audience=http%3A%2F%2Fapp%2F%3Fa%3Db&\
             client_id=tutorial-dckr&client_secret=s3cr%3At%2F+%2B%FF"
        );
    }

    #[test]
    fn nothing_prints_a_secret() {
        let settings = settings();
        let text = format!("{settings:?} {:?}", settings.request(ClientStyle::Header));
        assert!(!text.contains("s3cr") && text.contains("<secret>"), "{text}");
    }
}
