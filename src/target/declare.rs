//! From the declaration to the target: defaults are filled in, references are followed, what cannot be used is said in words.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::Url;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};

use super::{Lookup, LookupError, ObjectKind, Problem, Scrape, Source, Target, TargetId};
use crate::crd::{ConfigMapKeyRef, ScrapeTarget, ScrapeTargetSpec, SecretKeyRef, SecretOrConfigMap, TlsConfig};
use crate::fetch::{Connection, Identity};
use crate::metric::Filter;

impl Target {
    /// The target that `declaration` describes, with what its references hold in `objects`.
    ///
    /// It never fails: a target that cannot be polled is one with a [`problem`](Target::problem).
    pub fn declare(id: TargetId, declaration: Arc<ScrapeTarget>, objects: &dyn Lookup) -> Self {
        let spec = &declaration.spec;
        let references = References { objects, namespace: &id.namespace };
        let mut problem = None;
        let mut note = |error: Problem| {
            problem.get_or_insert(error);
        };
        // A url that the schema let through always parses; the placeholder is never contacted, since the problem stops it.
        let url = Url::parse(&spec.url).or_else(|error| {
            note(Problem::invalid_spec(format!("spec.url: {error}")));
            Url::parse("http://invalid.invalid/")
        });
        let connection = references.connection(spec).unwrap_or_else(|error| {
            note(error);
            Connection::default()
        });
        let headers = references.headers(spec).unwrap_or_else(|error| {
            note(error);
            HeaderMap::new()
        });
        let filter = spec.metrics.as_ref().map_or(Ok(None), |metrics| Filter::shared(&metrics.keep, &metrics.drop));
        let filter = filter.unwrap_or_else(|error| {
            note(Problem::invalid_spec(format!("spec.metrics: {error}")));
            None
        });
        let url = url.unwrap_or_else(|_| unreachable!("the placeholder is a url"));
        Self {
            id,
            source: Source { kind: spec.kind, url, options: spec.blocks.clone(), connection, headers, filter },
            interval: spec.effective_interval(),
            timeout: spec.effective_timeout(),
            max_age: spec.effective_max_age(),
            suspend: spec.suspend,
            sample_limit: usize::try_from(spec.sample_limit).unwrap_or(usize::MAX),
            scrape: Scrape { interval: spec.effective_scrape_interval(), timeout: spec.effective_scrape_timeout() },
            declaration,
            problem,
        }
    }

    /// The declaration with every default filled in and every value that may be a secret masked, as YAML for people.
    pub fn effective(&self) -> String {
        let mut spec = self.declaration.spec.clone();
        spec.timeout = Some(self.timeout.into());
        spec.max_age = Some(self.max_age.into());
        spec.sample_limit = u32::try_from(self.sample_limit).unwrap_or(spec.sample_limit);
        let monitor = spec.monitor.get_or_insert_default();
        monitor.interval = Some(self.scrape.interval.into());
        monitor.scrape_timeout = Some(self.scrape.timeout.into());
        for header in &mut spec.headers {
            if let Some(value) = &mut header.value {
                "<masked>".clone_into(value);
            }
        }
        if let Some(proxy) = &mut spec.proxy_url
            && let Ok(mut url) = Url::parse(proxy)
            && url.password().is_some()
        {
            // A url with a password can have another one.
            let _ = url.set_password(Some("masked"));
            *proxy = url.into();
        }
        spec.blocks.fill(spec.kind);
        serde_saphyr::to_string(&spec).unwrap_or_else(|error| format!("cannot be shown: {error}\n"))
    }
}

/// Follows the references of one target, in its own namespace only.
struct References<'r> {
    objects: &'r dyn Lookup,
    namespace: &'r str,
}

impl References<'_> {
    fn value(&self, kind: ObjectKind, name: &str, key: &str, optional: bool) -> Result<Option<Vec<u8>>, Problem> {
        match self.objects.value(kind, self.namespace, name, key) {
            Ok(mut value) => {
                // A file made by an editor ends with a newline; a credential does not.
                if value.ends_with(b"\n") {
                    value.pop();
                    if value.ends_with(b"\r") {
                        value.pop();
                    }
                }
                Ok(Some(value))
            }
            // What only could not be read may well be there: nobody is to be asked without the credentials that he expects.
            Err(
                LookupError::NoObject { .. }
                | LookupError::NoKey { .. }
                | LookupError::NoFile { .. }
                | LookupError::NotFound { .. },
            ) if optional => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The value of a Secret without which nobody could be sent anything: `Bearer ` alone says nothing. `field` is where it is referred to.
    fn credential(&self, reference: &SecretKeyRef, field: impl Fn() -> String) -> Result<Option<Vec<u8>>, Problem> {
        let value = self.secret(reference)?;
        if value.as_ref().is_some_and(|value| value.trim_ascii().is_empty()) {
            return Err(self.empty(reference, &field()));
        }
        Ok(value)
    }

    fn empty(&self, reference: &SecretKeyRef, field: &str) -> Problem {
        let SecretKeyRef { name, key, .. } = reference;
        let namespace = self.namespace;
        let message = format!(
            "spec.{field}: the key {key:?} of Secret {namespace}/{name} is empty: write its value into the Secret, or remove the field"
        );
        Problem { reason: "SecretEmpty", message }
    }

    fn secret(&self, reference: &SecretKeyRef) -> Result<Option<Vec<u8>>, Problem> {
        self.value(ObjectKind::Secret, &reference.name, &reference.key, reference.optional.unwrap_or(false))
    }

    fn config_map(&self, reference: &ConfigMapKeyRef) -> Result<Option<Vec<u8>>, Problem> {
        self.value(ObjectKind::ConfigMap, &reference.name, &reference.key, reference.optional.unwrap_or(false))
    }

    fn either(&self, reference: &SecretOrConfigMap) -> Result<Option<Vec<u8>>, Problem> {
        match (&reference.secret, &reference.config_map) {
            (Some(secret), _) => self.secret(secret),
            (None, Some(config_map)) => self.config_map(config_map),
            (None, None) => Ok(None),
        }
    }

    fn connection(&self, spec: &ScrapeTargetSpec) -> Result<Connection, Problem> {
        let proxy = spec.proxy_url.as_deref().map(Url::parse).transpose();
        let proxy = proxy.map_err(|error| Problem::invalid_spec(format!("spec.proxyUrl: {error}")))?;
        let default = TlsConfig::default();
        let tls = spec.tls_config.as_ref().unwrap_or(&default);
        let ca = tls.ca.as_ref().map(|reference| self.either(reference)).transpose()?.flatten();
        let certificates = tls.cert.as_ref().map(|reference| self.either(reference)).transpose()?.flatten();
        let key = tls.key_secret.as_ref().map(|reference| self.secret(reference)).transpose()?.flatten();
        let identity = certificates.zip(key);
        Ok(Connection {
            ca: ca.map(Arc::from),
            identity: identity
                .map(|(certificates, key)| Identity { certificates: certificates.into(), key: key.into() }),
            server_name: tls.server_name.clone(),
            insecure_skip_verify: tls.insecure_skip_verify,
            proxy,
        })
    }

    fn headers(&self, spec: &ScrapeTargetSpec) -> Result<HeaderMap, Problem> {
        let mut headers = HeaderMap::new();
        for (i, header) in spec.headers.iter().enumerate() {
            let value = match (&header.value, &header.secret_key_ref) {
                (Some(value), _) => Some(value.as_bytes().to_vec()),
                (None, Some(reference)) => self.credential(reference, || format!("headers[{i}].secretKeyRef"))?,
                (None, None) => None,
            };
            let name = HeaderName::from_bytes(header.name.as_bytes())
                .map_err(|_| Problem::invalid_spec(format!("spec.headers[{i}].name is no header name")))?;
            if let Some(value) = value {
                let written = if header.value.is_some() { "value" } else { "secretKeyRef" };
                let what = || format!("spec.headers[{i}].{written}: the value of header {:?}", header.name);
                headers.append(name, sensitive(&value, what)?);
            }
        }
        if let Some(basic) = &spec.basic_auth {
            let username = self.secret(&basic.username)?.unwrap_or_default();
            let password = basic
                .password
                .as_ref()
                .map(|reference| self.secret(reference))
                .transpose()?
                .flatten()
                .unwrap_or_default();
            // One of them may be empty: some servers take a token as either.
            if username.is_empty() && password.is_empty() {
                return Err(self.empty(&basic.username, "basicAuth.username"));
            }
            let pair = [username.as_slice(), b":", password.as_slice()].concat();
            headers.insert(
                AUTHORIZATION,
                sensitive(format!("Basic {}", STANDARD.encode(pair)).as_bytes(), || {
                    "spec.basicAuth: the value of its header".to_owned()
                })?,
            );
        }
        if let Some(authorization) = &spec.authorization
            && let Some(credentials) =
                self.credential(&authorization.credentials, || "authorization.credentials".to_owned())?
        {
            let value = [authorization.scheme.as_bytes(), b" ", &credentials].concat();
            let what = || "spec.authorization.credentials: the value of its header".to_owned();
            headers.insert(AUTHORIZATION, sensitive(&value, what)?);
        }
        Ok(headers)
    }
}

/// What one header may carry. Servers take 8 KiB, and a Secret may hold a hundred times more, which each target would keep.
const LARGEST_HEADER: usize = 16 * 1024;

/// `what` begins with the field.
fn sensitive(value: &[u8], what: impl Fn() -> String) -> Result<HeaderValue, Problem> {
    if value.len() > LARGEST_HEADER {
        let (what, len) = (what(), value.len());
        return Err(Problem::invalid_spec(format!(
            "{what} has {len} bytes, a header carries at most {LARGEST_HEADER}"
        )));
    }
    let mut value = HeaderValue::from_bytes(value)
        .map_err(|_| Problem::invalid_spec(format!("{} holds characters that no HTTP header can carry", what())))?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;
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
            let declaration = Arc::new(ScrapeTarget::new("t", spec));
            Target::declare(TargetId::new("a", "t"), declaration, &Always(error)).problem.map(|problem| problem.reason)
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
                let target = Target::declare(TargetId::new("a", "t"), Arc::new(declaration), &Empty(value));
                let problem = target.problem.unwrap();
                assert_eq!(problem.reason, "SecretEmpty");
                assert!(problem.message.starts_with(wanted), "{}", problem.message);
                assert!(problem.message.contains("the key \"token\" of Secret a/s is empty"), "{}", problem.message);
                assert!(target.source.headers.is_empty(), "{field}");
            }
        }
    }
}
