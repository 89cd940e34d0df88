//! Flags about Kubernetes: which cluster, which objects in it belong to this release, and how Prometheus discovers the exporter.

use std::net::IpAddr;
use std::time::Duration;

use clap::builder::NonEmptyStringValueParser;
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Args, Command, ValueEnum};

use super::LogArgs;
use super::value::{duration, namespace};
use crate::crd::{RelabelingList, is_dns_label};
use crate::k8s::{
    BodySize, DefaultRelabelings, DiscoveryMode, HonorLabels, MonitorDefaults, MonitorNamespace, RequiredLabel, Scheme,
    ScrapeProxy, Selector,
};

/// Flags of `run` about Kubernetes.
#[derive(Debug, Args)]
pub struct KubernetesArgs {
    /// Which cluster, and which release in it.
    #[command(flatten)]
    pub release: ReleaseArgs,
    /// Watch only ScrapeTargets with these labels, in the syntax of kubectl -l
    #[arg(long, env = "SCRAPETARGET_TARGET_SELECTOR", value_name = "SELECTOR")]
    pub target_selector: Option<Selector>,
    /// Let targets use only Secrets with this label: KEY or KEY=VALUE
    #[arg(long, env = "SCRAPETARGET_SECRET_LABEL", value_name = "LABEL")]
    pub secret_label: Option<RequiredLabel>,
    /// Allow targets on loopback addresses, which are those of this pod and its sidecars; always enabled with --targets
    #[arg(long, env = "SCRAPETARGET_TARGET_ALLOW_LOOPBACK")]
    pub target_allow_loopback: bool,
    /// Address under which Prometheus reaches this replica, usually the IP of its pod: the leader writes it into the Endpoints and the
    /// EndpointSlice
    #[arg(long, env = "SCRAPETARGET_ADVERTISE_ADDRESS", value_name = "IP")]
    pub advertise_address: Option<IpAddr>,
    /// Where ServiceMonitors are created: target (in the namespace of the target) or release (all in the namespace of the exporter)
    #[arg(
        long = "discovery.monitor-namespace",
        env = "SCRAPETARGET_DISCOVERY_MONITOR_NAMESPACE",
        default_value = "target",
        value_name = "WHERE"
    )]
    pub discovery_monitor_namespace: MonitorNamespace,
    /// Scheme that Prometheus uses to connect to the service: http or https; if not set, it follows --web.config.file
    #[arg(long = "discovery.scheme", env = "SCRAPETARGET_DISCOVERY_SCHEME", value_name = "SCHEME")]
    pub discovery_scheme: Option<Scheme>,
    /// tlsConfig of the endpoint of every ServiceMonitor, as JSON; references require --discovery.monitor-namespace=release
    #[arg(long = "discovery.tls", env = "SCRAPETARGET_DISCOVERY_TLS", value_name = "JSON", value_parser = json_object)]
    pub discovery_tls: Option<JsonObject>,
    /// basicAuth of the endpoint of every ServiceMonitor, as JSON; requires --discovery.monitor-namespace=release
    #[arg(long = "discovery.basic-auth", env = "SCRAPETARGET_DISCOVERY_BASIC_AUTH", value_name = "JSON", value_parser = json_object)]
    pub discovery_basic_auth: Option<JsonObject>,
    /// Scrape class of the ServiceMonitors whose target does not name one
    #[arg(long = "discovery.scrape-class", env = "SCRAPETARGET_DISCOVERY_SCRAPE_CLASS", value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    pub discovery_scrape_class: Option<String>,
    /// Scrape class that targets may name in monitor.scrapeClass, in addition to that of --discovery.scrape-class; repeatable. If not
    /// set, targets may name no other class, because a class may contain a token that Prometheus sends
    #[arg(long = "discovery.allowed-scrape-class", env = "SCRAPETARGET_DISCOVERY_ALLOWED_SCRAPE_CLASS", value_delimiter = ',', value_name = "NAME", value_parser = scrape_class)]
    pub discovery_allowed_scrape_class: Vec<String>,
    /// Label to add to every ServiceMonitor, for the selector of your Prometheus; repeatable
    #[arg(long = "discovery.monitor-label", env = "SCRAPETARGET_DISCOVERY_MONITOR_LABEL", value_delimiter = ',', value_name = "KEY=VALUE", value_parser = label_pair)]
    pub discovery_monitor_label: Vec<(String, String)>,
    /// Annotation to add to every ServiceMonitor; repeatable, one per line in the environment variable
    #[arg(long = "discovery.monitor-annotation", env = "SCRAPETARGET_DISCOVERY_MONITOR_ANNOTATION", value_delimiter = '\n', value_name = "KEY=VALUE", value_parser = annotation_pair)]
    pub discovery_monitor_annotation: Vec<(String, String)>,
    /// What is set in every ServiceMonitor, and targets may only restrict.
    #[command(flatten)]
    pub discovery_defaults: MonitorDefaultsArgs,
    /// Name of this replica in the Lease, which must be unique; if not set, the host name and the process ID
    #[arg(long = "leader-election.identity", env = "SCRAPETARGET_LEADER_ELECTION_IDENTITY", value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    pub leader_election_identity: Option<String>,
    /// How long a leader that does not renew its Lease remains the leader, from 5s to 5m, in whole seconds
    #[arg(
        long = "leader-election.lease-duration",
        env = "SCRAPETARGET_LEADER_ELECTION_LEASE_DURATION",
        default_value = "15s",
        value_name = "DURATION",
        value_parser = lease_duration
    )]
    pub leader_election_lease_duration: Duration,
}

/// Flags about what every ServiceMonitor contains, whatever its target declares.
#[derive(Debug, Args)]
pub struct MonitorDefaultsArgs {
    /// Relabelings of every ServiceMonitor after those of its target, as a JSON list in the format of the Prometheus Operator. What targets
    /// may not do in their relabelings, these may not either
    #[arg(long = "discovery.relabelings", env = "SCRAPETARGET_DISCOVERY_RELABELINGS", value_name = "JSON", value_parser = relabelings)]
    pub relabelings: Option<DefaultRelabelings>,
    /// Relabelings of the samples of every target after its own, as a JSON list in the format of the Prometheus Operator
    #[arg(long = "discovery.metric-relabelings", env = "SCRAPETARGET_DISCOVERY_METRIC_RELABELINGS", value_name = "JSON", value_parser = metric_relabelings)]
    pub metric_relabelings: Option<DefaultRelabelings>,
    /// Whether labels of a target's own series win over those of discovery: declared (for targets with monitor.honorLabels: true), byDefault
    /// (for all except those with monitor.honorLabels: false) or never
    #[arg(
        long = "discovery.honor-labels",
        env = "SCRAPETARGET_DISCOVERY_HONOR_LABELS",
        default_value = "declared",
        value_name = "WHEN"
    )]
    pub honor_labels: HonorLabels,
    /// Proxy through which Prometheus scrapes the exporter, without user and password
    #[arg(long = "discovery.proxy-url", env = "SCRAPETARGET_DISCOVERY_PROXY_URL", value_name = "URL")]
    pub proxy_url: Option<ScrapeProxy>,
    /// targetLimit of every ServiceMonitor, each of which has one endpoint: up to 1000000; 0: no limit
    #[arg(long = "discovery.target-limit", env = "SCRAPETARGET_DISCOVERY_TARGET_LIMIT", default_value_t = 0, value_name = "COUNT", value_parser = limit::<1>)]
    pub target_limit: u32,
    /// Maximum number of labels of a series: from 6, which discovery and the metric itself need, to 1000000; 0: no limit
    #[arg(long = "discovery.label-limit", env = "SCRAPETARGET_DISCOVERY_LABEL_LIMIT", default_value_t = 0, value_name = "COUNT", value_parser = limit::<6>)]
    pub label_limit: u32,
    /// Maximum length of the name of a label: from 16, which the longest one of discovery has, to 1000000; 0: no limit
    #[arg(long = "discovery.label-name-length-limit", env = "SCRAPETARGET_DISCOVERY_LABEL_NAME_LENGTH_LIMIT", default_value_t = 0, value_name = "LENGTH", value_parser = limit::<16>)]
    pub label_name_length_limit: u32,
    /// Maximum length of the value of a label, of which the name of a metric is one: from 64 to 1000000; 0: no limit
    #[arg(long = "discovery.label-value-length-limit", env = "SCRAPETARGET_DISCOVERY_LABEL_VALUE_LENGTH_LIMIT", default_value_t = 0, value_name = "LENGTH", value_parser = limit::<64>)]
    pub label_value_length_limit: u32,
    /// Maximum size of a response to Prometheus before compression, for instance 16MB: a whole number with one of the units B, KB, MB and
    /// GB, or KiB, MiB and GiB, which mean the same: 1 KB is 1024 bytes. 0: no limit
    #[arg(
        long = "discovery.body-size-limit",
        env = "SCRAPETARGET_DISCOVERY_BODY_SIZE_LIMIT",
        default_value = "0",
        value_name = "SIZE"
    )]
    pub body_size_limit: BodySize,
}

impl MonitorDefaultsArgs {
    /// The settings that these flags are.
    pub fn into_settings(self) -> MonitorDefaults {
        let relabelings = |list: Option<DefaultRelabelings>| list.unwrap_or_default().into_inner();
        MonitorDefaults {
            relabelings: relabelings(self.relabelings),
            metric_relabelings: relabelings(self.metric_relabelings),
            honor_labels: self.honor_labels,
            proxy_url: self.proxy_url,
            target_limit: self.target_limit,
            label_limit: self.label_limit,
            label_name_length_limit: self.label_name_length_limit,
            label_value_length_limit: self.label_value_length_limit,
            body_size_limit: self.body_size_limit,
        }
    }
}

/// Flags that say which cluster is meant, and which objects in it are those of this release.
#[derive(Clone, Debug, Args)]
pub struct ReleaseArgs {
    /// Context of the kubeconfig; if not set, the current context, or in a pod the pod's own cluster
    #[arg(long, env = "SCRAPETARGET_KUBE_CONTEXT", value_name = "CONTEXT", value_parser = NonEmptyStringValueParser::new())]
    pub kube_context: Option<String>,
    /// Namespace in which ScrapeTargets are watched; repeatable; if not set, all namespaces
    #[arg(long, env = "SCRAPETARGET_WATCH_NAMESPACE", value_delimiter = ',', value_name = "NAMESPACE", value_parser = namespace)]
    pub watch_namespace: Vec<String>,
    /// Namespace of this installation, with its Lease and its Service; if not set, that of the pod or of the kubeconfig's context
    #[arg(long, env = "SCRAPETARGET_NAMESPACE", value_name = "NAMESPACE", value_parser = namespace)]
    pub namespace: Option<String>,
    /// Name of this installation; it tells apart the objects of several installations in one cluster
    #[arg(long, env = "SCRAPETARGET_RELEASE_NAME", default_value = "scrapetarget-exporter", value_name = "NAME", value_parser = namespace)]
    pub release_name: String,
    /// How Prometheus discovers targets: serviceMonitor (one for each target), httpSD (Prometheus reads /sd) or none
    #[arg(
        long = "discovery.mode",
        env = "SCRAPETARGET_DISCOVERY_MODE",
        default_value = "serviceMonitor",
        value_name = "MODE"
    )]
    pub discovery_mode: DiscoveryMode,
    /// Name of the Service without selector whose only endpoint is the leader; if not set, the name of the release followed by -probe
    #[arg(long = "discovery.service", env = "SCRAPETARGET_DISCOVERY_SERVICE", value_name = "NAME", value_parser = namespace)]
    pub discovery_service: Option<String>,
    /// Name of the Lease that the leader holds; if not set, the name of the release
    #[arg(long = "leader-election.lease-name", env = "SCRAPETARGET_LEADER_ELECTION_LEASE_NAME", value_name = "NAME", value_parser = namespace)]
    pub leader_election_lease_name: Option<String>,
}

/// A JSON object, unchanged.
pub type JsonObject = serde_json::Map<String, serde_json::Value>;

/// Flags of `cleanup`.
#[derive(Debug, Args)]
pub struct CleanupArgs {
    /// Which cluster, and which release in it.
    #[command(flatten)]
    pub release: ReleaseArgs,
    /// Delete ServiceMonitors only, while the release keeps running: for namespaces in which it may no longer create them. The
    /// Endpoints and the Lease are kept
    #[arg(long, value_name = "WHAT")]
    pub only: Option<CleanupOnly>,
    /// With --only: namespace whose ServiceMonitors are kept; repeatable
    #[arg(long, value_name = "NAMESPACE", value_delimiter = ',', value_parser = namespace, requires = "only")]
    pub except_namespace: Vec<String>,
    /// Flags about the log.
    #[command(flatten)]
    pub log: LogArgs,
}

/// A part of what `cleanup` removes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CleanupOnly {
    /// ServiceMonitors.
    Monitors,
}

impl KubernetesArgs {
    /// What is wrong with the combination of these flags.
    pub(super) fn mistake(&self, web_config: bool) -> Option<String> {
        let https = self.discovery_scheme.map_or(web_config, |scheme| scheme == Scheme::Https);
        if self.discovery_tls.is_some() && !https {
            return Some(
                "error: --discovery.tls is for https: write --discovery.scheme=https as well (see --help)".to_owned(),
            );
        }
        self.release.mistake()
    }

    /// The error for a flag in `given` that has no effect if targets come from files.
    pub(super) fn mistake_with_files(given: &ArgMatches) -> Option<String> {
        let flags = Self::augment_args(Command::new("run"));
        let by_hand = |flag: &&Arg| {
            let source = given.value_source(flag.get_id().as_str());
            matches!(source, Some(ValueSource::CommandLine | ValueSource::EnvVariable))
                && flag.get_id() != "target_allow_loopback" // always so with files
        };
        let flag = flags.get_arguments().find(by_hand)?;
        Some(format!(
            "error: --targets takes targets from files, --{} is for those of Kubernetes: leave out one of them, or its variable, \
             SCRAPETARGET_TARGETS or {} (see --help)",
            flag.get_long().unwrap_or_default(),
            flag.get_env().unwrap_or_default().display()
        ))
    }
}

impl ReleaseArgs {
    /// The Service that Prometheus scrapes.
    pub fn service(&self) -> String {
        self.discovery_service.clone().unwrap_or_else(|| format!("{}-probe", self.release_name))
    }

    pub(super) fn mistake(&self) -> Option<String> {
        (!is_dns_label(&self.service())).then(|| {
            let service = self.service();
            format!(
                "error: the name of the Service, {service}, is too long: write --discovery.service NAME (see --help)"
            )
        })
    }
}

/// The name of a scrape class. It may be any text, but the blank in a list such as `a, b` is a mistake.
fn scrape_class(text: &str) -> Result<String, String> {
    let fine = !text.is_empty() && !text.contains(|c: char| c.is_whitespace() || c.is_control());
    fine.then(|| text.to_owned()).ok_or_else(|| {
        "write the name of a scrape class of your Prometheus, without spaces; separate several with commas".to_owned()
    })
}

fn relabelings(text: &str) -> Result<DefaultRelabelings, String> {
    DefaultRelabelings::parse(RelabelingList::Targets, text)
}

fn metric_relabelings(text: &str) -> Result<DefaultRelabelings, String> {
    DefaultRelabelings::parse(RelabelingList::Samples, text)
}

/// A limit of Prometheus, of which 0 is none. Below `LEAST` it would fail every scrape.
fn limit<const LEAST: u32>(text: &str) -> Result<u32, String> {
    let number = text.parse().ok().filter(|number| *number == 0 || (LEAST..=1_000_000).contains(number));
    number.ok_or_else(|| format!("write a number from {LEAST} to 1000000, or 0 for no limit"))
}

fn json_object(text: &str) -> Result<JsonObject, String> {
    serde_json::from_str(text)
        .map_err(|error| format!("{error}; write a JSON object, for instance {{\"serverName\": \"x\"}}"))
}

fn label_pair(text: &str) -> Result<(String, String), String> {
    match text.parse::<RequiredLabel>() {
        Ok(RequiredLabel { key, value: Some(value) }) => Ok((key, value)),
        _ => Err("write a label as KEY=VALUE, for instance release=kube-prometheus-stack".to_owned()),
    }
}

fn annotation_pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=').map(|(key, value)| (key.parse::<RequiredLabel>(), key, value)) {
        Some((Ok(_), key, value)) => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write an annotation as KEY=VALUE".to_owned()),
    }
}

/// The shortest duration: with less, a slow API server would cause the leader to change again and again.
fn lease_duration(text: &str) -> Result<Duration, String> {
    let duration = duration(text)?;
    let range = Duration::from_secs(5)..=Duration::from_mins(5);
    let fine = range.contains(&duration) && duration.subsec_nanos() == 0;
    if fine { Ok(duration) } else { Err("write whole seconds from 5s to 5m".to_owned()) }
}
