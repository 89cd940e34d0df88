//! One target of one job, as a source of targets has it, and the ScrapeTarget that it becomes.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::address::{ProbeAddress, address};
use super::blackbox::{BlackboxModule, ModuleProber};
use super::name::{MAX_NAME, Names, slug};
use super::relabel::{Labels, RelabelStep, is_label_name};
use super::report::{Reporter, quoted};
use super::secret::has_password;
use crate::crd;
use crate::dial::NoProxy;
use crate::kind::Type;
use crate::time::PromDuration;

/// What a blackbox exporter takes off the timeout of a scrape, by default.
const TIMEOUT_OFFSET: Duration = Duration::from_millis(500);

/// The shortest and the longest interval of a target.
const INTERVALS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_hours(1));

/// The most labels of a target, and the longest value of one.
const LABELS: (usize, usize) = (32, 256);

/// The most relabelings of a monitor.
const MAX_RELABELINGS: usize = 16;

/// One target of one job.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct AskedTarget {
    /// Which input it is from.
    pub(super) input: usize,
    pub(super) line: usize,
    pub(super) path: String,
    pub(super) namespace: Option<String>,
    pub(super) module: String,
    pub(super) target: String,
    pub(super) hostname: Option<String>,
    pub(super) interval: Duration,
    pub(super) scrape_timeout: Duration,
    pub(super) job: Option<String>,
    /// The label `instance`, if it is not the address of the exporter.
    pub(super) instance: Option<String>,
    pub(super) labels: Labels,
    /// Fields of `spec.monitor`.
    pub(super) monitor: Map<String, Value>,
}

/// A ScrapeTarget, and what it needs besides.
pub(super) struct WrittenTarget {
    pub(super) manifest: Value,
    /// The host that is contacted: its own, or that of the proxy.
    pub(super) contacted: String,
    pub(super) interval: Duration,
    /// The Secret with user name and password that stand in the target itself.
    pub(super) login: Option<Login>,
}

/// A Secret for one target.
pub(super) struct Login {
    pub(super) secret: String,
    pub(super) username: String,
    pub(super) password: String,
}

impl AskedTarget {
    /// What the remarks about it begin with.
    pub(super) fn place(&self) -> String {
        format!("{}: {}", self.path, masked(&self.target))
    }

    /// Takes steps that every series of the target passes: those that set a label to a constant become labels of the target, the others
    /// relabelings of its monitor.
    pub(super) fn metric_relabelings(&mut self, steps: &[RelabelStep], reporter: &mut Reporter) {
        let mut kept = Vec::new();
        for step in steps {
            if let Some((label, value)) = step.constant() {
                match label {
                    "instance" => self.instance = Some(value.to_owned()),
                    "job" => self.job = Some(value.to_owned()),
                    _ if value.is_empty() => drop(self.labels.remove(label)),
                    _ => drop(self.labels.insert(label.to_owned(), value.to_owned())),
                }
                continue;
            }
            let manifest = step.manifest();
            // A label that is set to itself, as the chart of the blackbox exporter writes it.
            match crd::rules::relabeling_problem(&manifest) {
                Some((field, why)) => {
                    reporter.remark(step.line, &step.path, format!("is left out: its {field} {why}"));
                }
                None => kept.push(manifest),
            }
        }
        if kept.len() > MAX_RELABELINGS {
            reporter.remark(
                self.line,
                &self.path,
                format!("relabelings of metrics beyond {MAX_RELABELINGS} are left out"),
            );
            kept.truncate(MAX_RELABELINGS);
        }
        if !kept.is_empty() {
            self.monitor.insert("metricRelabelings".to_owned(), Value::Array(kept));
        }
    }

    /// The ScrapeTarget, if there can be one; else the reporter has been told why.
    pub(super) fn convert(
        &self,
        module: &BlackboxModule,
        names: &mut Names,
        reporter: &mut Reporter,
    ) -> Option<WrittenTarget> {
        let place = self.place();
        let kind = match &module.prober {
            ModuleProber::Http => Type::Http,
            ModuleProber::Tcp { .. } => Type::Tcp,
            ModuleProber::Dns => Type::Dns,
            ModuleProber::Icmp => Type::Icmp,
            ModuleProber::Grpc { .. } => Type::Grpc,
            ModuleProber::WebSocket => Type::WebSocket,
            ModuleProber::Missing(why) => {
                reporter.remark(self.line, &place, format!("is not converted: {why}"));
                return None;
            }
        };
        let found = match address(&self.target, &module.prober, module.settings.forces_https) {
            Ok(found) => found,
            Err(why) => {
                reporter.remark(self.line, &place, format!("is not converted: {why}"));
                return None;
            }
        };
        for loss in &found.losses {
            reporter.remark(self.line, &place, *loss);
        }
        if found.url.split_once('?').is_some_and(|(_, query)| has_password(query)) {
            let message = "the query of the url may have a password in it, and stays in the target in plain text: let the server take it as a \
                           header, which may come from a Secret, or restrict who may read targets";
            reporter.remark(self.line, &place, message);
        }
        let settings = &module.settings;
        let mut spec = settings.spec.clone();
        spec.insert("type".to_owned(), json!(kind.as_str()));
        spec.insert("url".to_owned(), json!(found.url));
        if found.is_plain_websocket() {
            spec.remove("tlsConfig"); // neither exporter uses it without TLS
        }
        if settings.ip6_by_default && !found.is_literal() {
            spec.insert("preferredIpProtocol".to_owned(), json!("ip6"));
        }
        let headers = self.hostname(module, &found, &mut spec, reporter)?;
        if !headers.is_empty() {
            spec.insert("headers".to_owned(), Value::Array(headers));
        }
        let own = |field: &str| spec.get(field).and_then(Value::as_str);
        let parsed = |field: &str| own(field).and_then(|url| reqwest::Url::parse(url).ok());
        let is_direct =
            parsed("url").is_some_and(|url| own("noProxy").is_some_and(|list| NoProxy::parse(list).covers(&url)));
        let proxy = parsed("proxyUrl").filter(|_| !is_direct);
        let proxy = proxy.as_ref().and_then(reqwest::Url::host_str);
        let contacted = proxy.unwrap_or(&found.host).trim_end_matches('.').to_ascii_lowercase();
        let interval = self.times(module, &mut spec, reporter);
        let labels = self.labels(kind, reporter);
        if !labels.is_empty() {
            spec.insert("labels".to_owned(), Value::Object(labels));
        }
        spec.insert("monitor".to_owned(), Value::Object(self.monitor(&found, reporter)));

        let identity = serde_json::to_string(&json!([
            self.namespace,
            self.module,
            self.target,
            self.hostname,
            self.job,
            self.instance,
            self.labels
        ]));
        let wanted = [slug(&self.module), slug(&found.host)].into_iter().filter(|word| !word.is_empty());
        let wanted = wanted.collect::<Vec<_>>().join("-");
        let name = names.unique(&wanted, &identity.unwrap_or_default(), MAX_NAME);
        let login = self.login(&found, &name, &mut spec, reporter);
        let mut metadata = Map::new();
        metadata.insert("name".to_owned(), json!(name));
        if let Some(namespace) = &self.namespace {
            metadata.insert("namespace".to_owned(), json!(namespace));
        }
        let manifest =
            json!({ "apiVersion": crd::API_VERSION, "kind": "ScrapeTarget", "metadata": metadata, "spec": spec });
        match crd::judge(&manifest) {
            Ok(_) => Some(WrittenTarget { manifest, contacted, interval, login }),
            Err(problems) => {
                for problem in problems {
                    let message = format!("is not converted, since its manifest would be refused: {problem}");
                    reporter.remark(self.line, &place, message);
                }
                None
            }
        }
    }

    /// The headers of the spec. The parameter `hostname` is a header Host, and both are the name that a certificate must have.
    fn hostname(
        &self,
        module: &BlackboxModule,
        address: &ProbeAddress,
        spec: &mut Map<String, Value>,
        reporter: &mut Reporter,
    ) -> Option<Vec<Value>> {
        let settings = &module.settings;
        let mut headers = settings.headers.clone();
        let mut host = settings.host.clone();
        if let Some(hostname) = &self.hostname {
            match module.prober {
                ModuleProber::Http => {
                    if let Some(host) = host.as_ref().filter(|host| *host != hostname) {
                        let message = format!(
                            "is not converted: its hostname {} is not the header Host {} of the module, and the blackbox exporter answers 400",
                            quoted(hostname),
                            quoted(host)
                        );
                        reporter.remark(self.line, &self.place(), message);
                        return None;
                    }
                    if host.is_none() {
                        headers.push(json!({ "name": "Host", "value": hostname }));
                    }
                    host = Some(hostname.clone());
                }
                ModuleProber::Tcp { .. } => host = Some(hostname.clone()),
                _ => {
                    let message = "the parameter hostname is left out: the prober does not use it";
                    reporter.remark(self.line, &self.place(), message);
                }
            }
        }
        let has_tls = match module.prober {
            ModuleProber::Http => address.is_https(),
            ModuleProber::Tcp { tls } => tls || settings.starts_tls,
            _ => false,
        };
        if let Some(host) = host.filter(|_| has_tls) {
            let name =
                host.rsplit_once(':').filter(|(name, _)| !name.contains(':')).map_or(host.as_str(), |(name, _)| name);
            let tls = spec.entry("tlsConfig").or_insert_with(|| json!({}));
            if let Some(tls) = tls.as_object_mut()
                && !tls.contains_key("serverName")
            {
                tls.insert("serverName".to_owned(), json!(name));
            }
        }
        Some(headers)
    }

    /// `interval` and `timeout`; the interval.
    fn times(&self, module: &BlackboxModule, spec: &mut Map<String, Value>, reporter: &mut Reporter) -> Duration {
        let interval = self.interval.clamp(INTERVALS.0, INTERVALS.1);
        if interval != self.interval {
            let (was, is) = (PromDuration::from(self.interval), PromDuration::from(interval));
            reporter.remark(self.line, &self.path, format!("the interval is {is} and not {was}: it is from 1s to 1h"));
        }
        let scrape = self.scrape_timeout.checked_sub(TIMEOUT_OFFSET).filter(|left| !left.is_zero());
        let scrape = scrape.unwrap_or(self.scrape_timeout);
        let timeout = module.timeout.map_or(scrape, |timeout| timeout.min(scrape)).min(interval);
        let timeout = timeout.max(Duration::from_millis(1));
        spec.insert("interval".to_owned(), json!(PromDuration::from(interval).to_string()));
        spec.insert("timeout".to_owned(), json!(PromDuration::from(timeout).to_string()));
        interval
    }

    fn labels(&self, kind: Type, reporter: &mut Reporter) -> Map<String, Value> {
        let mut labels = Map::new();
        let of_families: BTreeSet<&str> = kind.families().iter().flat_map(|family| family.labels).copied().collect();
        for (label, value) in &self.labels {
            let why = if !is_label_name(label) {
                Some("its name has characters that a label of a target may not have".to_owned())
            } else if crd::rules::reserved_labels().contains(label.as_str()) || of_families.contains(label.as_str()) {
                Some("the exporter or one of its families has a label of this name".to_owned())
            } else if value.chars().count() > LABELS.1 {
                Some(format!("its value has more than {} characters", LABELS.1))
            } else if labels.len() == LABELS.0 {
                Some(format!("a target has at most {} labels", LABELS.0))
            } else {
                None
            };
            match why {
                // The exporter itself says in which namespace a target is.
                Some(_) if label == "namespace" && self.namespace.as_ref() == Some(value) => {}
                Some(_) if label == "namespace" => {
                    let message = format!("the label namespace is that of the target, and no longer {}", quoted(value));
                    reporter.remark(self.line, &self.path, message);
                }
                Some(why) => {
                    let message = format!("the label {} is left out: {why}; write another label", quoted(label));
                    reporter.remark(self.line, &self.path, message);
                }
                None => drop(labels.insert(label.clone(), json!(value))),
            }
        }
        labels
    }

    fn monitor(&self, address: &ProbeAddress, reporter: &mut Reporter) -> Map<String, Value> {
        let mut monitor = self.monitor.clone();
        monitor.insert("instance".to_owned(), json!("Url"));
        let is = address.url.as_str();
        let scheme = is.split_once("://").map_or("", |(scheme, _)| scheme);
        match &self.instance {
            Some(was) if was == is => {}
            // Said once for all of them.
            Some(was) if is.strip_prefix(scheme).and_then(|rest| rest.strip_prefix("://")) == Some(was) => {
                let message = format!(
                    "the label instance is the url, which begins with {scheme}://, and no longer the bare address: change it where \
                     dashboards and alerts name it"
                );
                reporter.remark(self.line, &self.path, message);
            }
            Some(was) => {
                let (is, was) = (quoted(&masked(is)), quoted(&masked(was)));
                let message = format!(
                    "the label instance is {is}, and no longer {was}: change it where dashboards and alerts name it"
                );
                reporter.remark(self.line, &self.place(), message);
            }
            None => {
                let message = "the label instance is the url, and no longer the address of the blackbox exporter";
                reporter.remark(self.line, &self.path, message);
            }
        }
        if let Some(job) = &self.job {
            monitor.insert("job".to_owned(), json!(job));
        }
        monitor
    }

    /// User name and password in the URL, as basic authentication.
    fn login(
        &self,
        address: &ProbeAddress,
        name: &str,
        spec: &mut Map<String, Value>,
        reporter: &mut Reporter,
    ) -> Option<Login> {
        let (username, password) = address.login.clone()?;
        if spec.contains_key("basicAuth") || spec.contains_key("authorization") {
            let message = "user name and password in the URL are left out: the module has credentials";
            reporter.remark(self.line, &self.place(), message);
            return None;
        }
        let secret = name.to_owned();
        let key = |key: &str| json!({ "name": secret, "key": key });
        spec.insert("basicAuth".to_owned(), json!({ "username": key("username"), "password": key("password") }));
        let message = format!("user name and password in the URL are read from the Secret {secret}: a URL has none");
        reporter.remark(self.line, &self.place(), message);
        Some(Login { secret, username, password })
    }
}

/// A target without the passwords that it may contain.
fn masked(target: &str) -> String {
    let mut shown: String = target.chars().take(200).collect();
    if let Some((before, _)) = target.split_once('?').filter(|(_, query)| has_password(query)) {
        let before: String = before.chars().take(200).collect();
        shown = format!("{before}?***");
    }
    let start = shown.find("://").map_or(0, |at| at + 3);
    let end = shown.get(start..).and_then(|rest| rest.find(['/', '?', '#'])).map_or(shown.len(), |at| start + at);
    match shown.get(start..end).and_then(|authority| authority.rfind('@')) {
        Some(at) => {
            format!("{}***{}", shown.get(..start).unwrap_or_default(), shown.get(start + at..).unwrap_or_default())
        }
        None => shown,
    }
}
