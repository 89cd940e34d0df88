//! Turns a declaration into a target: looks up the values of Secrets and ConfigMaps that its spec refers to. Nothing else can fail here,
//! since the spec itself has been parsed before.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::Url;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};

use super::{Lookup, LookupError, Problem, Scrape, SecretValue, Source, Target, TargetId, TargetMembers};
use crate::crd::{
    BasicAuth, ClientAuthentication, FIELD_ORDER, FieldError, HeaderSource, IpProtocol, ParsedTarget, Reference,
    SecretKeyRef, TlsConfig, TlsProtocol,
};
use crate::dial::{
    Connection, Identity, IpPreference, IpVersion, NoProxy, ProxyCredentials, ProxyFields, TargetProxy, TlsSettings,
    TlsVersions,
};
use crate::oauth2::{ClientAuthStyles, ClientStyle, HiddenValue, OAuth2Settings, TokenSettings, TokenUser};
use crate::yaml;

impl Target {
    /// The target that `declaration` describes, with what its references hold in `objects`.
    ///
    /// It never fails: a target whose values cannot be used is one with a [`problem`](Target::problem).
    pub fn resolve(id: TargetId, declaration: Arc<ParsedTarget>, objects: &dyn Lookup) -> Self {
        let resolver = ReferenceResolver { objects, namespace: &id.namespace };
        let (connection, headers) = (resolver.connection(&declaration), resolver.headers(&declaration));
        let (oauth2, secrets) = (resolver.oauth2(&declaration), resolver.secrets(&declaration));
        let errors = [connection.as_ref().err(), headers.as_ref().err(), oauth2.as_ref().err(), secrets.as_ref().err()];
        let problem = errors.into_iter().flatten().next().map(ResolveError::problem);
        let spec = &declaration.spec;
        Self {
            source: Arc::new(Source {
                kind: spec.kind,
                url: declaration.url().clone(),
                options: spec.blocks.clone(),
                connection: connection.unwrap_or_default(),
                headers: headers.unwrap_or_default(),
                oauth2: oauth2.unwrap_or_default(),
                secrets: secrets.unwrap_or_default(),
                filter: declaration.filter().cloned(),
            }),
            interval: spec.effective_interval(),
            timeout: spec.effective_timeout(),
            spread: spec.effective_spread(),
            max_age: spec.effective_max_age(),
            suspend: spec.suspend,
            sample_limit: usize::try_from(spec.sample_limit).unwrap_or(usize::MAX),
            members: spec.members.as_ref().map(|members| TargetMembers::of(members, &declaration, &id)),
            scrape: Scrape { interval: spec.effective_scrape_interval(), timeout: spec.effective_scrape_timeout() },
            declaration,
            problem,
            id,
        }
    }

    /// Checks whether a target with these values can be polled, except for its address; for `check`.
    pub fn check_values(namespace: &str, declaration: &ParsedTarget, objects: &dyn Lookup) -> Result<(), FieldError> {
        let resolver = ReferenceResolver { objects, namespace };
        let connection = resolver.connection(declaration).map_err(ResolveError::into_field_error)?;
        resolver.headers(declaration).map_err(ResolveError::into_field_error)?;
        let oauth2 = resolver.oauth2(declaration).map_err(ResolveError::into_field_error)?;
        resolver.secrets(declaration).map_err(ResolveError::into_field_error)?;
        let checked = if declaration.spec.kind.is_probed() {
            connection.check_for_probes()
        } else {
            connection.check(declaration.url())
        };
        checked.map_err(|error| {
            let field = error.field().map(|field| format!("spec.{field}")).unwrap_or_default();
            FieldError::new(&field, error.to_string())
        })?;
        let checked = oauth2.map_or(Ok(()), |oauth2| oauth2.token.connection.check(&oauth2.token.url));
        checked.map_err(|error| {
            let field = error.field().map(|field| format!("spec.oauth2.{field}"));
            FieldError::new(field.as_deref().unwrap_or("spec.oauth2"), error.to_string())
        })
    }

    /// The declaration with every default filled in and every value that may be a secret masked, as YAML for people.
    pub fn effective(&self) -> String {
        let mut spec = self.declaration.spec.clone();
        spec.timeout = Some(self.timeout.into());
        spec.max_age = Some(self.max_age.into());
        spec.sample_limit = u32::try_from(self.sample_limit).unwrap_or(spec.sample_limit);
        if let (Some(written), Some(members)) = (&mut spec.members, &self.members) {
            written.sample_limit = u32::try_from(members.sample_limit).unwrap_or(written.sample_limit);
            if let Some(service) = &mut written.service {
                service.name = self.declaration.members_service().map(ToOwned::to_owned);
            }
        }
        let monitor = spec.monitor.get_or_insert_default();
        monitor.interval = Some(self.scrape.interval.into());
        monitor.scrape_timeout = Some(self.scrape.timeout.into());
        for header in &mut spec.headers {
            if let Some(value) = &mut header.value {
                MASK.clone_into(value);
            }
        }
        if let Some(oauth2) = &mut spec.oauth2 {
            oauth2.endpoint_params.values_mut().for_each(|value| MASK.clone_into(value));
        }
        if let Some(url) = self.declaration.proxy_url().filter(|url| url.password().is_some()) {
            let mut url = Url::clone(url);
            // A url with a password can have another one.
            let _ = url.set_password(Some("masked"));
            spec.proxy_url = Some(url.into());
        }
        spec.blocks.mask(spec.kind, MASK);
        spec.blocks.fill(spec.kind);
        match serde_json::to_value(&spec) {
            Ok(spec) => yaml::to_string(&spec, &FIELD_ORDER),
            Err(error) => format!("cannot be shown: {error}\n"),
        }
    }
}

/// Stands for a text that may be a credential.
const MASK: &str = "<masked>";

/// Why a value that the spec refers to cannot be used.
enum ResolveError {
    /// It is not there, or cannot be read.
    Missing {
        /// The field that refers to it.
        field: String,
        error: Box<LookupError>,
    },
    /// It is there, and nothing can be done with it.
    Unusable {
        /// The field that refers to it: `spec.basicAuth.username`.
        field: String,
        reason: &'static str,
        message: String,
    },
}

impl ResolveError {
    fn problem(&self) -> Problem {
        match self {
            Self::Missing { field, error } => Problem { reason: error.reason(), message: format!("{field}: {error}") },
            Self::Unusable { field, reason, message } => Problem { reason, message: format!("{field}: {message}") },
        }
    }

    fn into_field_error(self) -> FieldError {
        match self {
            Self::Missing { field, error } => FieldError::new(&field, error.to_string()),
            Self::Unusable { field, message, .. } => FieldError { path: field, message },
        }
    }
}

/// Follows the references of one target, in its own namespace only.
struct ReferenceResolver<'r> {
    objects: &'r dyn Lookup,
    namespace: &'r str,
}

impl ReferenceResolver<'_> {
    fn value(&self, reference: &Reference<'_>) -> Result<Option<Vec<u8>>, ResolveError> {
        match self.objects.value(reference.kind, self.namespace, reference.name, reference.key) {
            Ok(mut value) => {
                // Editors end files with a newline, which is not part of a credential.
                if value.ends_with(b"\n") {
                    value.pop();
                    if value.ends_with(b"\r") {
                        value.pop();
                    }
                }
                Ok(Some(value))
            }
            // A value that only could not be read may exist: a request must not be sent without the credentials that the server expects.
            Err(error) if reference.optional && error.is_not_found() => Ok(None),
            Err(error) => Err(ResolveError::Missing { field: reference.path.clone(), error: Box::new(error) }),
        }
    }

    /// The value of a Secret that must not be empty: `Bearer ` alone says nothing.
    fn credential(&self, reference: &Reference<'_>) -> Result<Option<Vec<u8>>, ResolveError> {
        let value = self.value(reference)?;
        if value.as_ref().is_some_and(|value| value.trim_ascii().is_empty()) {
            return Err(self.empty(reference));
        }
        Ok(value)
    }

    fn empty(&self, Reference { path, kind, name, key, .. }: &Reference<'_>) -> ResolveError {
        let namespace = self.namespace;
        let message = format!(
            "the key {key:?} of {kind} {namespace}/{name} is empty: write its value into the {kind}, or remove the field"
        );
        ResolveError::Unusable { field: path.clone(), reason: "SecretEmpty", message }
    }

    fn connection(&self, declaration: &ParsedTarget) -> Result<Connection, ResolveError> {
        let spec = &declaration.spec;
        let ip = IpPreference {
            preferred: match spec.preferred_ip_protocol {
                None | Some(IpProtocol::Ip4) => IpVersion::V4,
                Some(IpProtocol::Ip6) => IpVersion::V6,
            },
            fallback: spec.ip_protocol_fallback.unwrap_or(true),
        };
        let source_address = spec.source_ip_address.as_ref().and_then(|text| text.parse().ok());
        let tls = self.tls(spec.tls_config.as_ref(), "spec.tlsConfig")?.unwrap_or_default();
        let proxy = self.proxy(declaration)?;
        Ok(Connection { tls, proxy, ip, source_address })
    }

    /// What a block of TLS settings, the field `path`, says.
    fn tls(&self, tls: Option<&TlsConfig>, path: &str) -> Result<Option<TlsSettings>, ResolveError> {
        let Some(tls) = tls else { return Ok(None) };
        let value = |reference: Option<Reference<'_>>| {
            Ok(reference.map(|reference| self.value(&reference)).transpose()?.flatten())
        };
        let ca = value(tls.ca.as_ref().and_then(|ca| ca.reference(&format!("{path}.ca"))))?;
        let certificates = value(tls.cert.as_ref().and_then(|cert| cert.reference(&format!("{path}.cert"))))?;
        let key = value(tls.key_secret.as_ref().map(|key| key.reference(&format!("{path}.keySecret"))))?;
        let identity = certificates.zip(key);
        Ok(Some(TlsSettings {
            ca: ca.map(Arc::from),
            identity: identity
                .map(|(certificates, key)| Identity { certificates: certificates.into(), key: key.into() }),
            server_name: tls.server_name.clone(),
            insecure_skip_verify: tls.insecure_skip_verify,
            versions: match (tls.min_version, tls.max_version) {
                (Some(TlsProtocol::Tls13), _) => TlsVersions::Only13,
                (_, Some(TlsProtocol::Tls12)) => TlsVersions::Only12,
                _ => TlsVersions::All,
            },
        }))
    }

    /// How the token of the target is obtained.
    fn oauth2(&self, declaration: &ParsedTarget) -> Result<Option<OAuth2Settings>, ResolveError> {
        let Some((oauth2, parsed)) = declaration.spec.oauth2.as_deref().zip(declaration.oauth2()) else {
            return Ok(None);
        };
        let hidden = |reference: Reference<'_>| Ok(HiddenValue::new(self.credential(&reference)?.unwrap_or_default()));
        let id = oauth2.client_id.reference("spec.oauth2.clientId");
        let tls = self.tls(oauth2.tls_config.as_ref(), "spec.oauth2.tlsConfig")?.unwrap_or_default();
        let proxy =
            parsed.proxy_url.clone().map(|url| TargetProxy { fields: ProxyFields::TokenEndpoint, ..url.into() });
        let token = TokenSettings {
            url: parsed.token_url.clone(),
            client_id: id.map(hidden).transpose()?.unwrap_or_else(|| HiddenValue::new(Vec::new())),
            client_secret: hidden(oauth2.client_secret.reference("spec.oauth2.clientSecret"))?,
            scopes: oauth2.scopes.clone(),
            endpoint_params: oauth2.endpoint_params.clone(),
            user: match &oauth2.user {
                None => None,
                Some(user) => Some(TokenUser {
                    username: hidden(user.username.reference("spec.oauth2.user.username"))?,
                    password: hidden(user.password.reference("spec.oauth2.user.password"))?,
                }),
            },
            styles: match oauth2.client_authentication {
                ClientAuthentication::Auto => ClientAuthStyles::Auto,
                ClientAuthentication::Header => ClientAuthStyles::Only(ClientStyle::Header),
                ClientAuthentication::Body => ClientAuthStyles::Only(ClientStyle::Body),
            },
            connection: Connection { tls, proxy, ..Connection::default() },
        };
        Ok(Some(OAuth2Settings { token: Arc::new(token), header: parsed.header.clone() }))
    }

    /// The proxy, with its credentials.
    fn proxy(&self, declaration: &ParsedTarget) -> Result<Option<TargetProxy>, ResolveError> {
        let Some(url) = declaration.proxy_url().cloned() else { return Ok(None) };
        let spec = &declaration.spec;
        let credentials = match &spec.proxy_auth {
            None => None,
            Some(basic) => {
                let (username, password) = self.login(basic, "spec.proxyAuth")?;
                let credentials = ProxyCredentials::new(&username, &password);
                if let Some(message) = credentials.problem(&url) {
                    return Err(ResolveError::Unusable {
                        field: "spec.proxyAuth".to_owned(),
                        reason: "InvalidSpec",
                        message,
                    });
                }
                Some(credentials)
            }
        };
        let tls = self.tls(spec.proxy_tls_config.as_ref(), "spec.proxyTlsConfig")?;
        let no_proxy = spec.no_proxy.as_deref().map(NoProxy::parse);
        Ok(Some(TargetProxy { url, credentials, no_proxy, tls, fields: ProxyFields::Target }))
    }

    /// User name and password in the field `path`, of which one may be empty: some servers take a token as either.
    fn login(&self, basic: &BasicAuth, path: &str) -> Result<(Vec<u8>, Vec<u8>), ResolveError> {
        let user = basic.username.reference(&format!("{path}.username"));
        let username = self.value(&user)?.unwrap_or_default();
        let password = basic.password.as_ref().map(|key| key.reference(&format!("{path}.password")));
        let password = password.map(|password| self.value(&password)).transpose()?.flatten().unwrap_or_default();
        if username.is_empty() && password.is_empty() {
            return Err(self.empty(&user));
        }
        Ok((username, password))
    }

    /// The values of the Secrets that the kind's options name.
    fn secrets(&self, declaration: &ParsedTarget) -> Result<Vec<Option<SecretValue>>, ResolveError> {
        let spec = &declaration.spec;
        let value = |(field, key): (String, &SecretKeyRef)| {
            let value = self.credential(&key.reference(&format!("spec.{field}")))?;
            Ok(value.map(|value| SecretValue(value.into())))
        };
        spec.blocks.secrets(spec.kind).into_iter().map(value).collect()
    }

    fn headers(&self, declaration: &ParsedTarget) -> Result<HeaderMap, ResolveError> {
        let spec = &declaration.spec;
        let mut headers = HeaderMap::new();
        for (i, (header, written)) in declaration.headers().iter().zip(&spec.headers).enumerate() {
            let value = match &header.value {
                HeaderSource::Plain(value) => Some(value.clone()),
                HeaderSource::Secret(secret) => {
                    let reference = secret.reference(&format!("spec.headers[{i}].secretKeyRef"));
                    let value = self.credential(&reference)?;
                    let what = || format!("the value of header {:?}", written.name);
                    value.map(|value| sensitive(&value, &reference.path, what)).transpose()?
                }
            };
            if let Some(value) = value {
                headers.append(header.name.clone(), value);
            }
        }
        let its_header = || "the value of its header".to_owned();
        if let Some(basic) = &spec.basic_auth {
            let (username, password) = self.login(basic, "spec.basicAuth")?;
            let pair = STANDARD.encode([username.as_slice(), b":", password.as_slice()].concat());
            headers.insert(AUTHORIZATION, sensitive(format!("Basic {pair}").as_bytes(), "spec.basicAuth", its_header)?);
        }
        if let Some(authorization) = &spec.authorization {
            let reference = authorization.credentials.reference("spec.authorization.credentials");
            if let Some(credentials) = self.credential(&reference)? {
                let value = [authorization.scheme.as_bytes(), b" ", &credentials].concat();
                headers.insert(AUTHORIZATION, sensitive(&value, &reference.path, its_header)?);
            }
        }
        Ok(headers)
    }
}

/// The most bytes that one header may carry. Servers accept 8 KiB; a Secret may hold a hundred times more, and every target would keep a copy.
const LARGEST_HEADER: usize = 16 * 1024;

/// The value of a header that is never shown. `field` refers to it, `what` names it.
fn sensitive(value: &[u8], field: &str, what: impl Fn() -> String) -> Result<HeaderValue, ResolveError> {
    let unusable = |message: String| ResolveError::Unusable { field: field.to_owned(), reason: "InvalidSpec", message };
    if value.len() > LARGEST_HEADER {
        let (what, len) = (what(), value.len());
        return Err(unusable(format!("{what} has {len} bytes, a header carries at most {LARGEST_HEADER}")));
    }
    let mut value = HeaderValue::from_bytes(value)
        .map_err(|_| unusable(format!("{} contains characters that are not allowed in an HTTP header", what())))?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crd::{ObjectKind, ScrapeTarget, ScrapeTargetSpec};
    use crate::kind::Type;

    /// Answers everything with this.
    struct Always(LookupError);

    impl Lookup for Always {
        fn value(&self, _: ObjectKind, _: &str, _: &str, _: &str) -> Result<Vec<u8>, LookupError> {
            Err(self.0.clone())
        }
    }

    #[test]
    fn an_optional_credential_may_be_missing_but_not_merely_unread() {
        let kind = ObjectKind::Secret;
        let (namespace, name, key, why) = ("a".to_owned(), "b".to_owned(), "c".to_owned(), "d".to_owned());
        let of = |error: LookupError| {
            let mut spec = ScrapeTargetSpec::new(Type::Sora, "http://127.0.0.1:9/");
            let credentials = serde_json::json!({ "credentials": { "name": "b", "key": "c", "optional": true } });
            spec.authorization = Some(serde_json::from_value(credentials).unwrap());
            let declaration = ParsedTarget::parse(ScrapeTarget::new("t", spec)).unwrap();
            let target = Target::resolve(TargetId::new("a", "t"), Arc::new(declaration), &Always(error));
            target.problem.map(|problem| problem.reason)
        };
        let (n, o, w) = (namespace.clone(), name.clone(), why.clone());
        assert_eq!(of(LookupError::Unread { kind, namespace: n, name: o, why: w }), Some("SecretUnread"));
        let (n, o) = (namespace.clone(), name.clone());
        assert_eq!(of(LookupError::Forbidden { kind, namespace: n, name: o, why }), Some("SecretForbidden"));
        let (n, o) = (namespace.clone(), name.clone());
        let (k, condition) = (key.clone(), String::new());
        assert_eq!(of(LookupError::NotFound { kind, namespace: n, name: o, key: k, condition }), None);
        assert_eq!(of(LookupError::NoObject { kind, namespace: namespace.clone(), name: name.clone() }), None);
        assert_eq!(of(LookupError::NoKey { kind, namespace, name, key }), None);
    }

    /// Has an empty value for everything.
    struct Empty(&'static [u8]);

    impl Lookup for Empty {
        fn value(&self, _: ObjectKind, _: &str, _: &str, _: &str) -> Result<Vec<u8>, LookupError> {
            Ok(self.0.to_vec())
        }
    }

    /// Has a value for every key but one.
    struct AllBut(&'static str);

    impl Lookup for AllBut {
        fn value(&self, kind: ObjectKind, namespace: &str, name: &str, key: &str) -> Result<Vec<u8>, LookupError> {
            let (namespace, name) = (namespace.to_owned(), name.to_owned());
            if key == self.0 { Err(LookupError::NoObject { kind, namespace, name }) } else { Ok(b"value".to_vec()) }
        }
    }

    #[test]
    fn a_value_of_a_token_that_is_missing_or_empty_is_a_problem_that_names_the_field() {
        let key = |key: &str| serde_json::json!({ "name": "s", "key": key });
        let spec = serde_json::json!({
            "type": "Sora",
            "url": "http://127.0.0.1:9/",
            "oauth2": {
                "clientId": { "configMap": key("id") },
                "clientSecret": key("secret"),
                "tokenUrl": "https://127.0.0.1:9/token",
                "tlsConfig": { "ca": { "configMap": key("ca") } },
                "user": { "username": key("username"), "password": key("password") },
            },
        });
        let resolved = |objects: &dyn Lookup| {
            let declaration = ScrapeTarget::new("t", serde_json::from_value(spec.clone()).unwrap());
            let declaration = ParsedTarget::parse(declaration).unwrap();
            Target::resolve(TargetId::new("a", "t"), Arc::new(declaration), objects)
        };
        for (missing, field, object) in [
            ("id", "clientId.configMap", "ConfigMap"),
            ("secret", "clientSecret", "Secret"),
            ("ca", "tlsConfig.ca.configMap", "ConfigMap"),
            ("username", "user.username", "Secret"),
            ("password", "user.password", "Secret"),
        ] {
            let target = resolved(&AllBut(missing));
            let problem = target.problem.unwrap();
            assert_eq!(problem.reason, format!("{object}NotFound"));
            let wanted = format!("spec.oauth2.{field}: {object} a/s is not in any of the files");
            assert!(problem.message.starts_with(&wanted), "{}", problem.message);
            assert!(target.source.oauth2.is_none(), "{field}");
        }
        let problem = resolved(&Empty(b"\n")).problem.unwrap();
        assert_eq!(problem.reason, "SecretEmpty");
        assert!(
            problem.message.starts_with("spec.oauth2.clientId.configMap: the key \"id\" of ConfigMap a/s is empty"),
            "{}",
            problem.message
        );
    }

    #[test]
    fn an_empty_credential_is_a_problem_that_names_the_field_and_the_secret() {
        let key = |name: &str| serde_json::json!({ "name": "s", "key": name });
        for (field, block, wanted) in [
            ("authorization", serde_json::json!({ "credentials": key("token") }), "spec.authorization.credentials: "),
            (
                "headers",
                serde_json::json!([{ "name": "x-key", "secretKeyRef": key("token") }]),
                "spec.headers[0].secretKeyRef: ",
            ),
            (
                "basicAuth",
                serde_json::json!({ "username": key("token"), "password": key("p") }),
                "spec.basicAuth.username: ",
            ),
        ] {
            for value in [&b""[..], b"\n"] {
                let mut spec = serde_json::json!({ "type": "Sora", "url": "http://127.0.0.1:9/" });
                spec[field] = block.clone();
                let declaration = ScrapeTarget::new("t", serde_json::from_value(spec).unwrap());
                let declaration = ParsedTarget::parse(declaration).unwrap();
                let target = Target::resolve(TargetId::new("a", "t"), Arc::new(declaration), &Empty(value));
                let problem = target.problem.unwrap();
                assert_eq!(problem.reason, "SecretEmpty");
                assert!(problem.message.starts_with(wanted), "{}", problem.message);
                assert!(problem.message.contains("the key \"token\" of Secret a/s is empty"), "{}", problem.message);
                assert!(target.source.headers.is_empty(), "{field}");
            }
        }
    }
}
