//! The settings of the controller. Values are parsed here, so that a wrong one is refused before anything starts.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use super::monitor::MonitorDefaults;
use crate::crd::{is_label_key, is_label_value};
use crate::target::AllowedProbers;

/// A namespace that is listed and watched; `None`: all of them together.
pub(super) type Scope = Option<Arc<str>>;

/// The settings, as the flags give them.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The namespace that we run in: of the Lease, of the Service, and of monitors in mode `release`.
    pub namespace: String,
    /// The name of this installation: two in one cluster never touch each other's objects.
    pub release: String,
    /// Where ScrapeTargets are watched; none: everywhere.
    pub watch_namespaces: Vec<String>,
    /// Only ScrapeTargets with these labels are used.
    pub target_selector: Option<Selector>,
    /// Only Secrets with this label may be used by targets.
    pub secret_label: Option<RequiredLabel>,
    /// The types of target that may be probed.
    pub probers: AllowedProbers,
    /// How Prometheus finds the targets.
    pub discovery: Discovery,
    /// Which replica leads.
    pub election: Election,
    /// The address where Prometheus reaches this replica; without it no Endpoints are written.
    pub advertise: Option<SocketAddr>,
}

impl Settings {
    /// Where ScrapeTargets are watched: each namespace once, or all of them together.
    pub(super) fn watched(&self) -> Vec<Scope> {
        let named: BTreeSet<&String> = self.watch_namespaces.iter().collect();
        if named.is_empty() { vec![None] } else { named.into_iter().map(|name| Some(name.as_str().into())).collect() }
    }
}

/// How Prometheus discovers the targets.
#[derive(Clone, Debug, Default)]
pub struct Discovery {
    /// Which objects are written.
    pub mode: DiscoveryMode,
    /// Where ServiceMonitors are written.
    pub monitor_namespace: MonitorNamespace,
    /// The Service of which only the leader is an endpoint. Its Endpoints have the same name.
    pub service: String,
    /// The scheme of scrapes.
    pub scheme: Scheme,
    /// `tlsConfig` of the endpoint of every ServiceMonitor, as the Operator has it.
    pub tls: Option<serde_json::Map<String, serde_json::Value>>,
    /// `basicAuth` of the endpoint of every ServiceMonitor, as the Operator has it.
    pub basic_auth: Option<serde_json::Map<String, serde_json::Value>>,
    /// The scrape class of every ServiceMonitor that does not name one.
    pub scrape_class: Option<String>,
    /// The scrape classes that targets may name besides.
    pub allowed_scrape_classes: BTreeSet<String>,
    /// Labels of every ServiceMonitor.
    pub monitor_labels: BTreeMap<String, String>,
    /// Annotations of every ServiceMonitor.
    pub monitor_annotations: BTreeMap<String, String>,
    /// Limits and relabelings of every ServiceMonitor.
    pub monitor_defaults: MonitorDefaults,
    /// What our own listener requires of Prometheus.
    pub listener: Listener,
}

/// What our listener requires of its clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Listener {
    /// HTTPS.
    pub tls: bool,
    /// A client certificate.
    pub client_certificates: bool,
    /// A user and a password.
    pub users: bool,
}

/// Which replica leads.
#[derive(Clone, Debug)]
pub struct Election {
    /// The name of the Lease.
    pub lease: String,
    /// Our holder identity in it, different for each replica.
    pub identity: String,
    /// How long the Lease is valid after each renewal.
    pub duration: Duration,
}

/// A value that cannot be used: the message says what to write instead.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("write {0}")]
pub struct SettingsError(&'static str);

impl SettingsError {
    pub(super) const fn expected(what: &'static str) -> Self {
        Self(what)
    }
}

/// Which objects are written for Prometheus.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DiscoveryMode {
    /// One ServiceMonitor for each target.
    #[default]
    ServiceMonitor,
    /// None: Prometheus reads `/sd`.
    HttpSd,
    /// None.
    None,
}

impl FromStr for DiscoveryMode {
    type Err = SettingsError;

    fn from_str(text: &str) -> Result<Self, SettingsError> {
        match text {
            "serviceMonitor" => Ok(Self::ServiceMonitor),
            "httpSD" => Ok(Self::HttpSd),
            "none" => Ok(Self::None),
            _ => Err(SettingsError("serviceMonitor, httpSD or none")),
        }
    }
}

/// Where ServiceMonitors are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MonitorNamespace {
    /// Beside the target, owned by it.
    #[default]
    Target,
    /// All in our namespace, for Prometheus installations that ignore `namespaceSelector`.
    Release,
}

impl FromStr for MonitorNamespace {
    type Err = SettingsError;

    fn from_str(text: &str) -> Result<Self, SettingsError> {
        match text {
            "target" => Ok(Self::Target),
            "release" => Ok(Self::Release),
            _ => Err(SettingsError("target or release")),
        }
    }
}

/// The scheme of scrapes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scheme {
    /// Without TLS.
    #[default]
    Http,
    /// With TLS.
    Https,
}

impl Scheme {
    /// As a ServiceMonitor has it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

impl FromStr for Scheme {
    type Err = SettingsError;

    fn from_str(text: &str) -> Result<Self, SettingsError> {
        match text {
            "http" => Ok(Self::Http),
            "https" => Ok(Self::Https),
            _ => Err(SettingsError("http or https")),
        }
    }
}

/// A label that an object must have: `KEY`, or `KEY=VALUE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequiredLabel {
    /// Its name.
    pub key: String,
    /// Its value; `None`: any.
    pub value: Option<String>,
}

impl FromStr for RequiredLabel {
    type Err = SettingsError;

    fn from_str(text: &str) -> Result<Self, SettingsError> {
        let (key, value) = text.split_once('=').map_or((text, None), |(key, value)| (key, Some(value)));
        let fine = is_label_key(key) && value.is_none_or(is_label_value);
        fine.then(|| Self { key: key.to_owned(), value: value.map(str::to_owned) })
            .ok_or(SettingsError("a label as KEY or KEY=VALUE, for instance scrapetarget.dev/use=true"))
    }
}

impl std::fmt::Display for RequiredLabel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.value {
            Some(value) => write!(f, "{}={value}", self.key),
            None => f.write_str(&self.key),
        }
    }
}

/// A label selector as `kubectl -l` takes it, checked before it is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selector(String);

impl Selector {
    /// The selector as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Selector {
    type Err = SettingsError;

    fn from_str(text: &str) -> Result<Self, SettingsError> {
        if requirements(text).all(is_requirement) {
            Ok(Self(text.to_owned()))
        } else {
            Err(SettingsError("a label selector as kubectl -l takes it, for instance team=media,tier in (edge, core)"))
        }
    }
}

/// The requirements of a selector: split at commas, except for those in parentheses.
fn requirements(text: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0;
    text.split(move |c| {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        c == ',' && depth == 0
    })
}

/// `KEY`, `!KEY`, `KEY=VALUE`, `KEY==VALUE`, `KEY!=VALUE`, `KEY in (VALUE, …)` or `KEY notin (VALUE, …)`.
fn is_requirement(text: &str) -> bool {
    let text = text.trim();
    if let Some((key, value)) = text.split_once("!=").or_else(|| text.split_once("==")).or_else(|| text.split_once('='))
    {
        return is_label_key(key.trim()) && is_label_value(value.trim());
    }
    if let Some((left, right)) = text.split_once('(') {
        let mut words = left.split_whitespace();
        let (key, operator) = (words.next(), words.next());
        let values = right.trim_end().strip_suffix(')');
        return key.is_some_and(is_label_key)
            && matches!(operator, Some("in" | "notin"))
            && words.next().is_none()
            && values.is_some_and(|values| values.split(',').all(|value| is_label_value(value.trim())));
    }
    is_label_key(text.strip_prefix('!').unwrap_or(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_are_those_of_kubectl() {
        for good in ["team=media", "team==media", "a!=b,c", "!legacy", "tier in (edge, core),x.dev/y notin (z)", "a="] {
            assert!(good.parse::<Selector>().is_ok(), "{good}");
        }
        for bad in ["", "a b", "=x", "tier in edge", "tier within (a)", "a=b c", "a,", "k=v)"] {
            assert!(bad.parse::<Selector>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_label_has_a_key_and_perhaps_a_value() {
        assert_eq!("a.dev/use=true".parse(), Ok(RequiredLabel { key: "a.dev/use".into(), value: Some("true".into()) }));
        assert_eq!("use".parse(), Ok(RequiredLabel { key: "use".into(), value: None }));
        for bad in ["", "=true", "a/b/c", "a=b c", "-a"] {
            assert!(bad.parse::<RequiredLabel>().is_err(), "{bad}");
        }
    }
}
