//! A valid ScrapeTarget with its URLs, headers and patterns parsed, so that no other module parses a field of the spec again.

use std::ops::Deref;
use std::sync::{Arc, LazyLock};

use reqwest::Url;
use reqwest::header::{HeaderName, HeaderValue};
use url::ParseError;

use super::{FieldError, Header, OAuth2, ScrapeTarget, ScrapeTargetSpec, SecretKeyRef, regex_problem};
use crate::kind::{Engine, Type};
use crate::metric::Filter;

/// A ScrapeTarget with its parsed spec, immutable.
#[derive(Clone, Debug)]
pub struct ParsedTarget {
    written: ScrapeTarget,
    url: Url,
    proxy_url: Option<Url>,
    headers: Vec<ParsedHeader>,
    oauth2: Option<ParsedOAuth2>,
    filter: Option<Arc<Filter>>,
    engine: Option<Engine>,
}

/// What is parsed of `spec.oauth2`.
#[derive(Clone, Debug)]
pub struct ParsedOAuth2 {
    /// The token endpoint.
    pub token_url: Url,
    /// The proxy for the requests to it.
    pub proxy_url: Option<Url>,
    /// The header that carries the bare token, if one is written.
    pub header: Option<HeaderName>,
}

/// One of `spec.headers`.
#[derive(Clone, Debug)]
pub struct ParsedHeader {
    /// Its name.
    pub name: HeaderName,
    /// Where its value comes from.
    pub value: HeaderSource,
}

/// Where the value of a header comes from.
#[derive(Clone, Debug)]
pub enum HeaderSource {
    /// From the spec. It is marked sensitive: people write credentials there although they should not.
    Plain(HeaderValue),
    /// From a Secret.
    Secret(SecretKeyRef),
}

impl ParsedTarget {
    /// Parses a ScrapeTarget that satisfies schema and rules. What is found here is what neither schema nor CEL can express, so that the API
    /// server admits it: in Kubernetes the reason `InvalidSpec` of `Accepted=False`.
    pub fn parse(written: ScrapeTarget) -> Result<Self, Vec<FieldError>> {
        let mut errors = Vec::new();
        let spec = &written.spec;
        let url = parsed_or_told("spec.url", spec.kind.url().separator.parse(&spec.url), &mut errors);
        let proxy_url =
            spec.proxy_url.as_ref().map(|url| parsed_or_told("spec.proxyUrl", Url::parse(url), &mut errors));
        let headers: Vec<Option<ParsedHeader>> =
            spec.headers.iter().enumerate().map(|(index, header)| parse_header(index, header, &mut errors)).collect();
        let oauth2 = spec.oauth2.as_deref().map(|oauth2| parse_oauth2(oauth2, &mut errors));
        if let Some(url) = &url
            && spec
                .members
                .as_ref()
                .and_then(|members| members.service.as_ref())
                .is_some_and(|service| service.name.is_none())
            && url.domain().is_none()
        {
            // Such as 0x7f000001, which a pattern takes for a name.
            let message = "the host in url is an address, write members.service.name";
            errors.push(FieldError::new("spec.members.service.name", message));
        }
        let filter = parse_filter(spec, &mut errors);
        let engine = url.as_ref().and_then(|url| parse_engine(spec, url, &mut errors));
        match (url, proxy_url.map_or(Some(None), |url| url.map(Some)), headers.into_iter().collect()) {
            (Some(url), Some(proxy_url), Some(headers)) if errors.is_empty() => {
                Ok(Self { written, url, proxy_url, headers, oauth2: oauth2.flatten(), filter, engine })
            }
            _ => Err(errors),
        }
    }

    /// A placeholder for an invalid ScrapeTarget, of which only type and url could be read: it is shown, but must never be polled. An invalid
    /// url is kept as text, and the parsed one leads nowhere.
    pub fn stand_in(name: &str, kind: Type, url: &str) -> Self {
        static NOWHERE: LazyLock<Url> =
            LazyLock::new(|| Url::parse("http://invalid.invalid/").expect("a constant that is a URL"));
        let parsed = kind.url().separator.parse(url).unwrap_or_else(|_| NOWHERE.clone());
        let written = ScrapeTarget::new(name, ScrapeTargetSpec::new(kind, url));
        Self { written, url: parsed, proxy_url: None, headers: Vec::new(), oauth2: None, filter: None, engine: None }
    }

    /// Where the server is, in a form that has a host; see [`UrlSeparator::parse`](crate::kind::UrlSeparator::parse).
    pub const fn url(&self) -> &Url {
        &self.url
    }

    /// The proxy, if one is used.
    pub const fn proxy_url(&self) -> Option<&Url> {
        self.proxy_url.as_ref()
    }

    /// The name of the Service whose endpoints are the members: the written one, or the first label of the url's host, which a rule has
    /// found to be one. `None` if the members are no endpoints of a Service, or there are none.
    pub fn members_service(&self) -> Option<&str> {
        let service = self.spec.members.as_ref()?.service.as_ref()?;
        let host = || Some(self.url.host_str()?.split('.').next().unwrap_or_default());
        service.name.as_deref().or_else(host)
    }

    /// Why this target can only be polled by an exporter that runs with Kubernetes as the source of its targets; `None` if it need not be.
    pub fn needs_kubernetes(&self) -> Option<FieldError> {
        const MESSAGE: &str = "the pods behind a Service are known in Kubernetes only: for targets from files, write dns: {} instead, with a \
                               url whose host has the addresses of all processes";
        self.members_service().map(|_| FieldError::new("spec.members.service", MESSAGE))
    }

    /// `spec.headers`, in their order.
    pub fn headers(&self) -> &[ParsedHeader] {
        &self.headers
    }

    /// What is parsed of `spec.oauth2`.
    pub const fn oauth2(&self) -> Option<&ParsedOAuth2> {
        self.oauth2.as_ref()
    }

    /// How it is polled; `None` for a [`stand_in`](Self::stand_in).
    pub const fn engine(&self) -> Option<&Engine> {
        self.engine.as_ref()
    }

    /// `spec.metrics`; `None` if every family is exported. Targets with the same patterns share one.
    pub const fn filter(&self) -> Option<&Arc<Filter>> {
        self.filter.as_ref()
    }
}

/// What the user wrote, with the defaults of the schema.
impl Deref for ParsedTarget {
    type Target = ScrapeTarget;

    fn deref(&self) -> &ScrapeTarget {
        &self.written
    }
}

/// Equal specs mean the same, and nothing else of the object has a meaning here.
impl PartialEq for ParsedTarget {
    fn eq(&self, other: &Self) -> bool {
        self.spec == other.spec
    }
}

// With it, an `Arc` of the same target is equal without a look at its spec.
impl Eq for ParsedTarget {}

fn parsed_or_told(path: &str, parsed: Result<Url, ParseError>, errors: &mut Vec<FieldError>) -> Option<Url> {
    parsed.map_err(|error| errors.push(FieldError::new(path, format!("is not a URL: {error}, correct it")))).ok()
}

fn parse_engine(spec: &ScrapeTargetSpec, url: &Url, errors: &mut Vec<FieldError>) -> Option<Engine> {
    spec.blocks.engine(spec.kind, url).map_err(|mut mistakes| errors.append(&mut mistakes)).ok()
}

fn parse_header(index: usize, header: &Header, errors: &mut Vec<FieldError>) -> Option<ParsedHeader> {
    let mut error =
        |field: &str, message: &str| errors.push(FieldError::new(&format!("spec.headers[{index}]{field}"), message));
    let Ok(name) = HeaderName::from_bytes(header.name.as_bytes()) else {
        error(".name", "is not a valid header name, correct it");
        return None;
    };
    let value = match (&header.value, &header.secret_key_ref) {
        (Some(text), _) => HeaderValue::from_str(text).map(|mut value| {
            value.set_sensitive(true);
            HeaderSource::Plain(value)
        }),
        (None, Some(reference)) => Ok(HeaderSource::Secret(reference.clone())),
        (None, None) => {
            error("", "a header needs either value or secretKeyRef, write one of them");
            return None;
        }
    };
    let value = value
        .map_err(|_| error(".value", "contains characters that are not allowed in an HTTP header, correct it"))
        .ok()?;
    Some(ParsedHeader { name, value })
}

fn parse_oauth2(oauth2: &OAuth2, errors: &mut Vec<FieldError>) -> Option<ParsedOAuth2> {
    let token_url = parsed_or_told("spec.oauth2.tokenUrl", Url::parse(&oauth2.token_url), errors);
    let proxy_url =
        oauth2.proxy_url.as_ref().and_then(|url| parsed_or_told("spec.oauth2.proxyUrl", Url::parse(url), errors));
    let header = oauth2.header.as_ref().and_then(|name| {
        let name = HeaderName::from_bytes(name.as_bytes());
        let told = |_| errors.push(FieldError::new("spec.oauth2.header", "is not a valid header name, correct it"));
        name.map_err(told).ok()
    });
    Some(ParsedOAuth2 { token_url: token_url?, proxy_url, header })
}

fn parse_filter(spec: &ScrapeTargetSpec, errors: &mut Vec<FieldError>) -> Option<Arc<Filter>> {
    let metrics = spec.metrics.as_ref()?;
    let before = errors.len();
    for (name, patterns) in [("keep", &metrics.keep), ("drop", &metrics.drop)] {
        for (index, pattern) in patterns.iter().enumerate() {
            if let Some(problem) = regex_problem(pattern) {
                errors.push(FieldError::new(&format!("spec.metrics.{name}[{index}]"), problem));
            }
        }
    }
    if errors.len() > before {
        return None;
    }
    let filter = Filter::shared(&metrics.keep, &metrics.drop);
    filter.map_err(|error| errors.push(FieldError::new("spec.metrics", error.to_string()))).ok().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(spec: &serde_json::Value) -> Result<ParsedTarget, Vec<FieldError>> {
        ParsedTarget::parse(ScrapeTarget::new("a", serde_json::from_value(spec.clone()).unwrap()))
    }

    #[test]
    fn every_field_that_cannot_be_parsed_is_named() {
        let errors = parse(&serde_json::json!({
            "type": "Sora", "url": "http://[::1", "proxyUrl": "proxy",
            "headers": [{ "name": "a b", "value": "x" }, { "name": "a", "value": "\n" }, { "name": "a" }],
            "metrics": { "keep": ["ok", "a("], "drop": ["(?=x)"] },
        }));
        let paths: Vec<String> = errors.unwrap_err().into_iter().map(|error| error.path).collect();
        assert_eq!(
            paths,
            [
                "spec.url",
                "spec.proxyUrl",
                "spec.headers[0].name",
                "spec.headers[1].value",
                "spec.headers[2]",
                "spec.metrics.keep[1]",
                "spec.metrics.drop[0]",
            ]
        );
    }

    #[test]
    fn what_can_be_parsed_is_parsed_and_what_was_written_stays() {
        let target = parse(&serde_json::json!({
            "type": "Sora", "url": "http://SORA:80",
            "headers": [{ "name": "X-Key", "secretKeyRef": { "name": "s", "key": "k" } }, { "name": "b", "value": "c" }],
            "metrics": { "keep": ["sora_.*"] },
        }));
        let target = target.unwrap();
        assert_eq!((target.spec.url.as_str(), target.url().as_str()), ("http://SORA:80", "http://sora/"));
        let [key, plain] = target.headers() else { panic!("{:?}", target.headers()) };
        assert!(key.name == "x-key" && matches!(&key.value, HeaderSource::Secret(secret) if secret.name == "s"));
        assert!(matches!(&plain.value, HeaderSource::Plain(value) if value == "c" && value.is_sensitive()));
        assert!(target.filter().is_some_and(|filter| filter.wants("sora_up") && !filter.wants("orion_up")));
    }

    #[test]
    fn a_url_without_slashes_has_a_host_that_rules_find_and_stays_as_it_was_written() {
        for (written, host, port) in [
            ("stun:Stun.example.com", "Stun.example.com", None),
            ("stun:192.0.2.1:3478?transport=tcp", "192.0.2.1", Some(3478)),
            ("stuns:[2001:db8::1]:443", "[2001:db8::1]", Some(443)),
        ] {
            let target = parse(&serde_json::json!({ "type": "Stun", "url": written })).unwrap();
            assert_eq!((target.url().host_str(), target.url().port()), (Some(host), port));
            assert_eq!(target.spec.url, written);
        }
        assert_eq!(ParsedTarget::stand_in("a", Type::Stun, "stun:host").url().host_str(), Some("host"));
    }

    #[test]
    fn a_stand_in_keeps_the_text_of_a_url_that_is_none() {
        let target = ParsedTarget::stand_in("a", Type::Orion, "orion:1026 ?");
        assert_eq!((target.spec.url.as_str(), target.spec.kind), ("orion:1026 ?", Type::Orion));
        assert_eq!(ParsedTarget::stand_in("a", Type::Orion, "no url").url().as_str(), "http://invalid.invalid/");
    }
}
