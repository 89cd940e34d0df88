//! A target as pollers need it: its spec is parsed, every default is filled in, every reference to a Secret or ConfigMap is resolved.

mod allowed;
mod identity;
mod lookup;
mod members;
mod resolve;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use reqwest::Url;
use reqwest::header::{HeaderMap, HeaderValue};

pub use allowed::AllowedProbers;
pub use identity::identity_labels;
pub use lookup::{Lookup, LookupError};
pub use members::{Include, Member, MemberLabel, MemberSource, TargetMembers};

pub use crate::crd::{ObjectKind, ParsedTarget};

use crate::dial::Connection;
use crate::kind::{Blocks, Engine, Type, UrlSeparator};
use crate::metric::Filter;
use crate::oauth2::OAuth2Settings;

/// `namespace/name` of a ScrapeTarget. Cheap to clone; orders by namespace, then name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TargetId {
    /// The namespace; `default` where a manifest names none.
    pub namespace: Arc<str>,
    /// The name, unique in its namespace.
    pub name: Arc<str>,
}

impl TargetId {
    /// The target `name` in `namespace`.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for TargetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A text that is no `namespace/name`.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not of the form namespace/name")]
pub struct TargetIdError(String);

impl FromStr for TargetId {
    type Err = TargetIdError;

    fn from_str(text: &str) -> Result<Self, TargetIdError> {
        match text.split_once('/') {
            Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
                Ok(Self::new(namespace, name))
            }
            _ => Err(TargetIdError(text.to_owned())),
        }
    }
}

/// One declared server.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// Its name.
    pub id: TargetId,
    /// What is polled, and how. After a change of any of it older data must not be served.
    pub source: Arc<Source>,
    /// From the start of one poll to the start of the next.
    pub interval: Duration,
    /// For all calls of one poll together, or of one member.
    pub timeout: Duration,
    /// The time within which all members begin to be polled; zero if there are no members.
    pub spread: Duration,
    /// The greatest age of data that a scrape gets without a new poll.
    pub max_age: Duration,
    /// Whether polling is suspended.
    pub suspend: bool,
    /// Series of the target itself that one answer may hold.
    pub sample_limit: usize,
    /// The processes of which it consists; `None`: it is one, at its url. They may change while older data stays valid.
    pub members: Option<TargetMembers>,
    /// How Prometheus should scrape it, by `spec.monitor`.
    pub scrape: Scrape,
    /// What the user declared. It is shared with the watcher of files, or with the controller.
    pub declaration: Arc<ParsedTarget>,
    /// Why it cannot be polled, for the user who wrote it: a Secret is missing, or the cluster holds a spec that this version refuses.
    pub problem: Option<Problem>,
}

/// Why a target cannot be polled as it is declared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// One word in CamelCase: `InvalidSpec`, or that of a [`LookupError`].
    pub reason: &'static str,
    /// What is wrong and what to do about it.
    pub message: String,
}

impl Problem {
    /// The spec itself is invalid.
    pub fn invalid_spec(message: impl Into<String>) -> Self {
        Self { reason: "InvalidSpec", message: message.into() }
    }
}

/// What is polled, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct Source {
    /// The kind of server.
    pub kind: Type,
    /// Where it is, in a form that has a host. People are shown [`Target::shown_url`].
    pub url: Url,
    /// The kind's options.
    pub options: Blocks,
    /// TLS and proxy.
    pub connection: Connection,
    /// Headers of every call; values that came from Secrets are marked sensitive.
    pub headers: HeaderMap,
    /// How the token is obtained that is sent with every call; `None`: none is.
    pub oauth2: Option<OAuth2Settings>,
    /// The values of the Secrets that the kind's options name, in their order; none where an optional one is missing.
    pub secrets: Vec<Option<SecretValue>>,
    /// Which metric names are exported; `None`: all.
    pub filter: Option<Arc<Filter>>,
}

impl Source {
    /// What the proxy is sent of `proxyAuth`: a secret like those in headers.
    pub fn proxy_authorization(&self) -> Option<HeaderValue> {
        self.connection.proxy.as_ref()?.header()
    }
}

/// The value of a Secret; never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretValue(Arc<[u8]>);

impl SecretValue {
    /// The bytes.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<secret>")
    }
}

/// How Prometheus should scrape a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scrape {
    /// Between two scrapes.
    pub interval: Duration,
    /// For one scrape.
    pub timeout: Duration,
}

impl Target {
    /// Whether a poll of `other` would return the same data. If not, the data of one must not be served for the other. Members may come and
    /// go: their series do so as well.
    pub fn gives_same_data(&self, other: &Self) -> bool {
        self.source == other.source
            && self.suspend == other.suspend
            && self.problem == other.problem
            && self.sample_limit == other.sample_limit
            && self.members.as_ref().map(TargetMembers::application)
                == other.members.as_ref().map(TargetMembers::application)
    }

    /// The target where there are no Services, as in files: one whose members are the endpoints of a Service has a problem.
    #[must_use]
    pub fn outside_kubernetes(mut self) -> Self {
        if let Some(error) = self.declaration.needs_kubernetes() {
            self.problem.get_or_insert_with(|| Problem::invalid_spec(error.to_string()));
        }
        self
    }

    /// How it is polled; `None` for one that was declared wrongly and is only shown.
    pub fn engine(&self) -> Option<&Engine> {
        self.declaration.engine()
    }

    /// Where it is, for people: a url that is written without slashes stays so.
    pub fn shown_url(&self) -> &str {
        match self.source.kind.url().separator {
            UrlSeparator::Slashes => self.source.url.as_str(),
            UrlSeparator::Colon => &self.declaration.spec.url,
        }
    }

    /// Labels that discovery joins to every series, sorted by name; never in the body.
    pub fn labels(&self) -> &BTreeMap<String, String> {
        &self.declaration.spec.labels
    }

    /// The labels that identify its series, which discovery sets last.
    pub fn identity_labels(&self) -> impl Iterator<Item = (&'static str, Cow<'_, str>)> {
        identity_labels(&self.id, &self.declaration.spec)
    }

    /// Whether the labels that its own series have win over those of discovery; `None`: as for other targets.
    pub fn honors_labels(&self) -> Option<bool> {
        self.declaration.spec.monitor.as_ref().and_then(|monitor| monitor.honor_labels)
    }
}

/// A target whose declaration is invalid. It is kept so that it is shown as invalid instead of missing silently.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedTarget {
    /// Its name.
    pub id: TargetId,
    /// The kind of server, if that is readable.
    pub kind: Option<Type>,
    /// Where it is, as it was written.
    pub url: Option<Arc<str>>,
    /// Its place, what is wrong with it, and what to write instead, in one line.
    pub message: Arc<str>,
}

impl RefusedTarget {
    /// The longest text that is kept of each, in characters: a declaration may contain texts of any length.
    const LONGEST: usize = 512;

    /// A target that cannot be used. The url is kept without user and password.
    pub fn new(id: TargetId, kind: Option<Type>, url: Option<String>, message: &str) -> Self {
        Self { id, kind, url: url.map(|url| cut(&without_user(&url))), message: cut(message) }
    }

    /// The same with more text, which is never cut off.
    #[must_use]
    pub fn and(self, more: &str) -> Self {
        Self { message: format!("{}{more}", self.message).into(), ..self }
    }
}

/// A url without user and password, which pages must not show.
fn without_user(url: &str) -> String {
    let Some(at) = url.rfind('@') else { return url.to_owned() };
    let (before, host) = url.split_at(at);
    let scheme = before.find("//").map_or("", |slashes| &before[..slashes + 2]);
    format!("{scheme}***{host}")
}

fn cut(text: &str) -> Arc<str> {
    let mut line: String =
        text.chars().take(RefusedTarget::LONGEST).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if line.len() < text.len() {
        line.push('…');
    }
    line.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_and_a_password_in_a_url_are_not_kept() {
        for (written, kept) in [
            ("http://user:s3cret@host:3000/", "http://***@host:3000/"),
            ("http://user:s3/c@ret@host", "http://***@host"),
            ("user:s3cret@host", "***@host"),
            ("http://host:3000/", "http://host:3000/"),
        ] {
            let refused = RefusedTarget::new(TargetId::new("a", "b"), None, Some(written.to_owned()), "wrong");
            assert_eq!(refused.url.as_deref(), Some(kept));
        }
    }

    #[test]
    fn long_texts_are_cut_and_stay_one_line() {
        let long = "a\nb".to_owned() + &"c".repeat(2000);
        let refused = RefusedTarget::new(TargetId::new("a", "b"), None, Some(long.clone()), &long).and("; the end");
        assert!(refused.message.starts_with("a bc") && refused.message.ends_with("c…; the end"), "{}", refused.message);
        assert_eq!(refused.url.unwrap().chars().count(), RefusedTarget::LONGEST + 1);
    }
}
