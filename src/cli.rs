//! The command line: commands, flags, their environment variables and defaults. It only parses.

mod kubernetes;
mod value;
mod variables;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use ipnet::IpNet;
use reqwest::Url;

pub use kubernetes::{CleanupArgs, CleanupOnly, JsonObject, KubernetesArgs, ReleaseArgs};
pub use value::{ListenAddress, ProberWord};
pub use variables::unknown_variables;

use crate::dial::{AllowedHost, DEFAULT_MAX_ECHO_PAYLOAD, DEFAULT_PROBES_PER_ADDRESS};
use crate::file;
use crate::http::AllowedWebHost;
use crate::kind::Type;
use value::{bytes, cidr, duration, external_url, health_url, interval, job, namespace, prober, sample_limit, timeout};

/// A multi-target Prometheus exporter for WebRTC SFU Sora, FIWARE Orion and mediasoup, and for probes of web servers, ports, names and hosts.
#[derive(Debug, Parser)]
#[command(name = "scrapetarget-exporter", version, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Runs the service: polls the declared targets and serves their results at /probe
    Run(Box<RunArgs>),
    /// Runs simulated servers with changing values, targets for them, and the service, all on this machine
    Demo(DemoArgs),
    /// Runs one simulated server, to try out an installation without a real server
    Simulate(SimulateArgs),
    /// Polls one target once and prints its exposition
    Probe(ProbeArgs),
    /// Validates manifests offline, by the same rules as the API server
    Check(CheckArgs),
    /// Prints the CustomResourceDefinition of ScrapeTarget
    Crd,
    /// Prints the targets of a blackbox exporter as ScrapeTargets, and says on stderr what is left behind
    Convert(ConvertArgs),
    /// Deletes the ServiceMonitors and the Endpoints that a release created, before it is uninstalled
    Cleanup(CleanupArgs),
    /// Checks the health of a running service and exits with code 0 if it is healthy; for containers without a shell
    Healthcheck(HealthcheckArgs),
}

/// Flags of `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Address to listen on; repeatable. `:9850` listens on all addresses of the host
    #[arg(
        long,
        visible_alias = "web.listen-address",
        env = "SCRAPETARGET_LISTEN_ADDRESS",
        default_value = ":9850",
        value_delimiter = ',',
        value_name = "ADDRESS"
    )]
    pub listen_address: Vec<ListenAddress>,
    /// File that configures TLS, client certificates and users of the listener, in the format of the Prometheus exporter toolkit
    #[arg(long = "web.config.file", env = "SCRAPETARGET_WEB_CONFIG_FILE", value_name = "FILE")]
    pub web_config_file: Option<PathBuf>,
    /// Manifests of ScrapeTargets, Secrets and ConfigMaps: a file, or a directory of files; repeatable, reloaded on change. If not set,
    /// targets are read from Kubernetes
    #[arg(long, env = "SCRAPETARGET_TARGETS", value_delimiter = ',', value_name = "FILE_OR_DIRECTORY")]
    pub targets: Vec<PathBuf>,
    /// With --targets: directory with the values of Secrets as files, so that no manifest has to contain them: `NAMESPACE/NAME/KEY`, or
    /// `NAMESPACE_NAME_KEY` as systemd and Docker pass credentials; in the namespace default also `NAME/KEY`. Reloaded on change
    #[arg(long, env = "SCRAPETARGET_SECRETS_DIRECTORY", value_name = "DIRECTORY")]
    pub secrets_directory: Option<PathBuf>,
    /// Flags about Kubernetes.
    #[command(flatten)]
    pub kubernetes: KubernetesArgs,
    /// Flags about polls.
    #[command(flatten)]
    pub polling: PollingArgs,
    /// Flags about types of target that are probed.
    #[command(flatten)]
    pub probing: ProbingArgs,
    /// URL under which Prometheus reaches this service; if not set, /sd uses the Host header of each request
    #[arg(long = "web.external-url", env = "SCRAPETARGET_WEB_EXTERNAL_URL", value_name = "URL", value_parser = external_url)]
    pub web_external_url: Option<Url>,
    /// Let /probe also accept a name without its namespace, or the declared url, if it is unique; always enabled with --targets
    #[arg(long = "web.loose-targets", env = "SCRAPETARGET_WEB_LOOSE_TARGETS")]
    pub web_loose_targets: bool,
    /// Maximum number of open connections, and of requests that wait for a poll. A connection beyond the limit closes the one that has
    /// been idle longest; if none is idle, the longest inactive connection of the address that has the most connections
    #[arg(long = "web.max-connections", env = "SCRAPETARGET_WEB_MAX_CONNECTIONS", default_value_t = 4096, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    pub web_max_connections: u32,
    /// Host names under which pages, metrics and APIs are served: NAME, *.SUFFIX, or * for any; repeatable. IP addresses, localhost and
    /// the host of --web.external-url are always allowed, and health checks may use any name. If not set, any name is allowed, but none
    /// if every --listen-address is loopback
    #[arg(
        long = "web.allowed-hosts",
        env = "SCRAPETARGET_WEB_ALLOWED_HOSTS",
        value_delimiter = ',',
        value_name = "HOST"
    )]
    pub web_allowed_hosts: Vec<AllowedWebHost>,
    /// Serve /-/healthy and /-/ready without a password even if --web.config.file requires one, so that probes need none. A client
    /// certificate is still required if it is configured
    #[arg(long = "web.open-health", env = "SCRAPETARGET_WEB_OPEN_HEALTH")]
    pub web_open_health: bool,
    /// How long to keep serving after a termination signal, before the listener is closed, so that Prometheus can discover the replica
    /// that takes over. If not set, 10s in Kubernetes, 0s with --targets
    #[arg(long, env = "SCRAPETARGET_SHUTDOWN_DELAY", value_name = "DURATION", value_parser = duration)]
    pub shutdown_delay: Option<Duration>,
    /// Flags about the log.
    #[command(flatten)]
    pub log: LogArgs,
}

/// Flags about polls, shared by `run`, `demo` and `probe`.
#[derive(Clone, Debug, Args)]
pub struct PollingArgs {
    /// Addresses that are never contacted, in addition to link-local addresses and the metadata services of clouds; also if they are
    /// embedded in an IPv6 address (mapped, NAT64, 6to4, Teredo, SIIT); repeatable
    #[arg(long, env = "SCRAPETARGET_TARGET_DENY_CIDR", value_delimiter = ',', value_name = "CIDR", value_parser = cidr)]
    pub target_deny_cidr: Vec<IpNet>,
    /// The only addresses allowed for targets and their proxies, in addition to the hosts of --target-allow-host; repeatable. If
    /// neither is set, every address that is not denied is allowed
    #[arg(long, env = "SCRAPETARGET_TARGET_ALLOW_CIDR", value_delimiter = ',', value_name = "CIDR", value_parser = cidr)]
    pub target_allow_cidr: Vec<IpNet>,
    /// The only hosts allowed for targets and their proxies, in addition to the addresses of --target-allow-cidr: a name, *.SUFFIX, or
    /// either with {namespace} in place of a label, as in *.{namespace}.svc for Services in the target's own namespace; repeatable.
    /// NAME.svc also matches NAME.svc.cluster.local. If neither is set, every host that is not denied is allowed
    #[arg(long, env = "SCRAPETARGET_TARGET_ALLOW_HOST", value_delimiter = ',', value_name = "HOST")]
    pub target_allow_host: Vec<AllowedHost>,
    /// Maximum size of a response body, after decompression: a number of bytes, or one with the unit B, KiB, MiB or GiB (also Ki, Mi, Gi)
    #[arg(long, env = "SCRAPETARGET_MAX_BODY_BYTES", default_value = "16MiB", value_name = "BYTES", value_parser = bytes)]
    pub max_body_bytes: usize,
    /// Memory for all responses that are being read, including buffers, in the same units; when it is full, stalled responses are dropped
    /// first
    #[arg(long, env = "SCRAPETARGET_MAX_INFLIGHT_BYTES", default_value = "128MiB", value_name = "BYTES", value_parser = bytes)]
    pub max_inflight_bytes: usize,
    /// Maximum number of series of one target, regardless of its sampleLimit; with members, of all of them together, regardless of
    /// members.sampleLimit. This also limits the memory per target: an exposition takes at most 1 KiB per series, and at most 32 MiB
    #[arg(long, env = "SCRAPETARGET_MAX_SAMPLE_LIMIT", default_value = "100000", value_name = "COUNT", value_parser = sample_limit)]
    pub max_sample_limit: u32,
    /// Show the beginning of the response body of a failed request, on the debug page and in the debug output of probe only. It may
    /// contain anything that the server knows, and everyone who can reach the port can read it
    #[arg(long, env = "SCRAPETARGET_DEBUG_BODIES")]
    pub debug_bodies: bool,
    /// Maximum number of bytes that a ping may carry, regardless of the payloadSize of a target. More than a packet of 1500 bytes holds
    /// is sent in fragments
    #[arg(long, env = "SCRAPETARGET_ICMP_MAX_PAYLOAD", default_value_t = DEFAULT_MAX_ECHO_PAYLOAD, value_name = "BYTES", value_parser = clap::value_parser!(u16).range(..=65507))]
    pub icmp_max_payload: u16,
}

/// Flags about what authors of targets may have probed.
#[derive(Clone, Debug, Args)]
pub struct ProbingArgs {
    /// Types of target that may be used although they can reach any server, or none; repeatable. If not set, all: Http, Tcp, Dns, Icmp, Grpc,
    /// WebSocket, Stun, Turn and Prometheus. Targets of another type are not accepted, and never contacted. Sora, Orion and Mediasoup are always
    /// allowed
    #[arg(long, env = "SCRAPETARGET_PROBERS", value_delimiter = ',', value_name = "TYPE", value_parser = prober)]
    pub probers: Vec<ProberWord>,
    /// Maximum number of probes of one address in a second, over all targets in all namespaces; a probe beyond it fails with the reason
    /// limit. 0 means no limit
    #[arg(long, env = "SCRAPETARGET_MAX_PROBES_PER_ADDRESS", default_value_t = DEFAULT_PROBES_PER_ADDRESS, value_name = "COUNT")]
    pub max_probes_per_address: u32,
}

impl Default for ProbingArgs {
    fn default() -> Self {
        Self { probers: Vec::new(), max_probes_per_address: DEFAULT_PROBES_PER_ADDRESS }
    }
}

impl ProbingArgs {
    /// The types that `--probers` allows; `None`: all of them.
    pub fn allowed(&self) -> Option<impl Iterator<Item = Type>> {
        (!self.probers.is_empty()).then(|| self.probers.iter().filter_map(|ProberWord(kind)| *kind))
    }

    /// Whether `none` stands beside a type.
    fn contradicts(&self) -> bool {
        let has_none = self.probers.contains(&ProberWord(None));
        has_none && self.probers.iter().any(|ProberWord(kind)| kind.is_some())
    }
}

/// Flags about the log, on stderr.
#[derive(Clone, Copy, Debug, Args)]
pub struct LogArgs {
    /// Minimum level of the messages that are logged
    #[arg(
        long,
        visible_alias = "log.level",
        env = "SCRAPETARGET_LOG_LEVEL",
        default_value = "info",
        value_name = "LEVEL"
    )]
    pub log_level: LogLevel,
    /// Format of a log line: key=value pairs, or JSON
    #[arg(
        long,
        visible_alias = "log.format",
        env = "SCRAPETARGET_LOG_FORMAT",
        default_value = "logfmt",
        value_name = "FORMAT"
    )]
    pub log_format: LogFormat,
}

/// How severe a message must be to be logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogLevel {
    /// Errors that need attention.
    Error,
    /// Also conditions that may soon need attention.
    Warn,
    /// Also changes of state.
    Info,
    /// Also what led to these changes.
    Debug,
    /// Everything.
    Trace,
}

/// What a line of the log looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// `key=value` pairs.
    Logfmt,
    /// One JSON object.
    Json,
}

/// Flags of `demo`.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Address to listen on; port 0 selects a free port
    #[arg(
        long,
        visible_alias = "web.listen-address",
        env = "SCRAPETARGET_LISTEN_ADDRESS",
        default_value = "127.0.0.1:9850",
        value_name = "ADDRESS"
    )]
    pub listen_address: ListenAddress,
    /// Poll every target once, print one line for each, and exit; the exit code is 0 if every result is as the demo intends
    #[arg(long)]
    pub once: bool,
    /// Time between two polls of a target, from 1s to 1h
    #[arg(long, default_value = "5s", value_name = "DURATION", value_parser = interval)]
    pub interval: Duration,
    /// Flags about the log.
    #[command(flatten)]
    pub log: LogArgs,
}

/// Flags of `simulate`.
#[derive(Debug, Args)]
pub struct SimulateArgs {
    /// Which server to simulate
    #[arg(value_name = "SERVER", ignore_case = true)]
    pub server: SimulatedServer,
    /// Address to listen on. Three addresses start a cluster of three Sora servers; Wilma takes two, of which the second is Keyrock's. If not
    /// set, the default port of such a server: 3000, 1026, 9851 or 8889; 8443 for a website, 5000 for signalling, 1053 for a name server and
    /// 3478 for a TURN server, which listen there over UDP as well; 1027 for Wilma, and 3005 for its Keyrock
    #[arg(long, value_delimiter = ',', value_name = "ADDRESS")]
    pub listen_address: Vec<ListenAddress>,
    /// For Mediasoup, Edumeet and Signalling: bearer token; requests without it are answered with 401. For Turn: the password of the user
    /// demo, which is demo by default. For Wilma: the secret of the application and the password of the user, which are demo by default
    #[arg(long, env = "SCRAPETARGET_SIMULATE_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    pub token: Option<String>,
    /// Misbehave: error (status 500, SERVFAIL, or a STUN error), hang (no answer), html (another document), empty (no content), or truncated (half of
    /// it). With Wilma, it is the token endpoint of Keyrock that misbehaves. For Sora also auth-webhook: its auth webhook does not answer, so nobody
    /// can join. For Website also expired-certificate: its certificate ended an hour ago. For Wilma also slow-tokens: Keyrock takes three seconds for
    /// a token; lost-tokens: every 45 seconds it forgets all tokens before their time; and bad-decisions: it answers Wilma with another document,
    /// and Wilma then answers 500
    #[arg(long, value_name = "FAULT")]
    pub fault: Option<SimulatedFault>,
}

/// How a simulated server misbehaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SimulatedFault {
    /// Answers with an error.
    Error,
    /// Never answers.
    Hang,
    /// Answers with an HTML page.
    Html,
    /// Answers without content.
    Empty,
    /// Answers with half of the content.
    Truncated,
    /// A Sora whose auth webhook does not answer.
    AuthWebhook,
    /// A website whose certificate has ended.
    ExpiredCertificate,
    /// A Keyrock that takes its time for a token.
    SlowTokens,
    /// A Keyrock whose tokens die early.
    LostTokens,
    /// A Keyrock whose answers to Wilma are none.
    BadDecisions,
}

/// What can be simulated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "PascalCase")]
pub enum SimulatedServer {
    /// WebRTC SFU Sora.
    Sora,
    /// FIWARE Orion.
    Orion,
    /// An application on mediasoup with the agent.
    Mediasoup,
    /// edumeet with its own exporter: a target with `source: Prometheus`.
    Edumeet,
    /// A website over https, with a certificate that ends in ten days.
    Website,
    /// A name server with the zone `shop.test`.
    Dns,
    /// A signalling server over WebSocket: `/signaling` as Sora, the subprotocol `protoo` as the demo of mediasoup, `/socket.io/`, and the
    /// subprotocol `janus-protocol`.
    Signalling,
    /// A STUN and TURN server that relays between its own allocations only.
    Turn,
    /// FIWARE Orion behind the PEP proxy Wilma, with Keyrock beside it.
    Wilma,
}

/// Flags of `probe`.
#[derive(Debug, Args)]
pub struct ProbeArgs {
    /// File with the manifest of a ScrapeTarget and of the objects that it refers to; - is standard input
    #[arg(value_name = "FILE", conflicts_with_all = ["kind", "url"])]
    pub file: Option<PathBuf>,
    /// Directory with the values of Secrets as files, as for run
    #[arg(long, value_name = "DIRECTORY", requires = "file")]
    pub secrets_directory: Option<PathBuf>,
    /// Name of the target, if the file contains several
    #[arg(long, value_name = "NAME")]
    pub target: Option<String>,
    /// Type of the target
    #[arg(long = "type", value_name = "TYPE")]
    pub kind: Option<Type>,
    /// URL of the target
    #[arg(long, value_name = "URL")]
    pub url: Option<String>,
    /// Field of the spec, with its value as YAML, such as sora.clusterMetrics=true or 'http.validStatusCodes=[200, 404]'; repeatable
    #[arg(long, value_name = "FIELD=VALUE")]
    pub set: Vec<String>,
    /// Poll every address of the host in the URL, as members.dns of a ScrapeTarget does
    #[arg(long)]
    pub members_dns: bool,
    /// Timeout of the poll, for all its requests together; with members, of each member; 1h at most
    #[arg(long, value_name = "DURATION", value_parser = timeout)]
    pub timeout: Option<Duration>,
    /// Also print each request with its status, duration and error, or each step of a probe with its time and the certificates of the
    /// server; secrets are masked
    #[arg(long)]
    pub debug: bool,
    /// Flags about polls.
    #[command(flatten)]
    pub polling: PollingArgs,
}

/// Flags of `check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Files with manifests, or directories of such files; - is standard input
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// Report a Secret or ConfigMap that a target refers to and no file contains as a problem, instead of assuming that it exists in
    /// the cluster
    #[arg(long)]
    pub require_secrets: bool,
    /// Directory with the values of Secrets as files, as for run
    #[arg(long, value_name = "DIRECTORY")]
    pub secrets_directory: Option<PathBuf>,
    /// Also validate the targets with a dry run on the API server
    #[arg(long)]
    pub server_side: bool,
    /// Context of the kubeconfig for --server-side; if not set, the current context
    #[arg(long, env = "SCRAPETARGET_KUBE_CONTEXT", value_name = "CONTEXT")]
    pub kube_context: Option<String>,
}

/// Flags of `convert`.
#[derive(Debug, Args)]
pub struct ConvertArgs {
    /// Configuration of the blackbox exporter, with its modules; - is standard input. Not needed if --values contains it
    #[arg(value_name = "FILE", required_unless_present = "values")]
    pub file: Option<PathBuf>,
    /// Configuration of Prometheus, whose jobs with a path that ends in /probe are converted; repeatable
    #[arg(long, value_name = "FILE")]
    pub prometheus: Vec<PathBuf>,
    /// Manifests of Probes and ServiceMonitors of the Prometheus Operator; repeatable
    #[arg(long, value_name = "FILE")]
    pub manifests: Vec<PathBuf>,
    /// Values of the Helm chart of the blackbox exporter: config, and the targets of serviceMonitor
    #[arg(long, value_name = "FILE")]
    pub values: Option<PathBuf>,
    /// Namespace of all targets. If not set, that of the Probe or ServiceMonitor that a target is from; if there is none, none is written
    #[arg(long, value_name = "NAMESPACE", value_parser = namespace)]
    pub namespace: Option<String>,
    /// Label job of all targets. If not set, that of the job, Probe or ServiceMonitor that a target is from
    #[arg(long, value_name = "NAME", value_parser = job)]
    pub job: Option<String>,
    /// Also print Secrets with the passwords and tokens that are in the inputs. If not set, targets only refer to them
    #[arg(long)]
    pub secrets: bool,
}

/// Flags of `healthcheck`. A password or a key comes from a file: every user of the machine reads command lines.
#[derive(Debug, Args)]
pub struct HealthcheckArgs {
    /// URL that must answer with status 200
    #[arg(
        value_name = "URL",
        env = "SCRAPETARGET_HEALTHCHECK_URL",
        default_value = "http://127.0.0.1:9850/-/healthy",
        value_parser = health_url
    )]
    pub url: Url,
    /// User name, if the service requires one
    #[arg(long, env = "SCRAPETARGET_HEALTHCHECK_USERNAME", value_name = "NAME", requires = "password_file")]
    pub username: Option<String>,
    /// File with the password of the user; a newline at its end is ignored
    #[arg(long, env = "SCRAPETARGET_HEALTHCHECK_PASSWORD_FILE", value_name = "FILE", requires = "username")]
    pub password_file: Option<PathBuf>,
    /// PEM file with the client certificate, if the service requires one
    #[arg(long, env = "SCRAPETARGET_HEALTHCHECK_CERT_FILE", value_name = "FILE", requires = "key_file")]
    pub cert_file: Option<PathBuf>,
    /// PEM file with the private key of that certificate
    #[arg(long, env = "SCRAPETARGET_HEALTHCHECK_KEY_FILE", value_name = "FILE", requires = "cert_file")]
    pub key_file: Option<PathBuf>,
}

impl ProbeArgs {
    /// What is wrong with the combination of these flags. clap's own message names only some of the possible combinations.
    fn mistake(&self) -> Option<String> {
        let Self { file, target, kind, url, set, members_dns, .. } = self;
        let mistake = match (file, kind, url) {
            (None, None, Some(url)) => return Some(Self::type_is_missing(url)),
            (None, _, None) => "error: which target? write probe FILE, or probe --type TYPE --url URL (see --help)",
            (None, ..) if target.is_some() => {
                "error: --target chooses from a FILE: write probe FILE --target NAME (see --help)"
            }
            (Some(_), ..) if !set.is_empty() => {
                "error: --set goes with --type and --url: in a FILE, write the field itself (see --help)"
            }
            (Some(_), ..) if *members_dns => {
                "error: --members-dns goes with --type and --url: in a FILE, write members: {dns: {}} (see --help)"
            }
            _ => return None,
        };
        Some(mistake.to_owned())
    }

    fn type_is_missing(url: &str) -> String {
        let types: Vec<&str> = Type::with_url(url).map(Type::as_str).collect();
        match &types[..] {
            [] => "error: which target? write probe FILE, or probe --type TYPE --url URL (see --help)".to_owned(),
            [one] => format!(
                "error: which type? {url} is the url of a target of type {one}: write --type {one} (see --help)"
            ),
            several => {
                format!("error: which type is {url}? write --type with one of {} (see --help)", several.join(", "))
            }
        }
    }
}

impl ConvertArgs {
    /// What is wrong with the combination of these flags.
    fn mistake(&self) -> Option<&'static str> {
        let Self { file, prometheus, manifests, values, .. } = self;
        let all = file.iter().chain(prometheus).chain(manifests).chain(values);
        let of_stdin = all.filter(|path| file::is_stdin(path)).count();
        (of_stdin > 1).then_some(
            "error: standard input can be read once: write - for one input only; a file called - is ./- (see --help)",
        )
    }
}

impl SimulateArgs {
    /// What is wrong with the combination of these flags.
    fn mistake(&self) -> Option<&'static str> {
        match (self.fault, self.server) {
            (Some(SimulatedFault::AuthWebhook), server) if server != SimulatedServer::Sora => {
                return Some("error: --fault auth-webhook goes with Sora (see --help)");
            }
            (Some(SimulatedFault::ExpiredCertificate), server) if server != SimulatedServer::Website => {
                return Some("error: --fault expired-certificate goes with Website (see --help)");
            }
            (Some(SimulatedFault::SlowTokens | SimulatedFault::LostTokens | SimulatedFault::BadDecisions), server)
                if server != SimulatedServer::Wilma =>
            {
                return Some("error: --fault slow-tokens, lost-tokens and bad-decisions go with Wilma (see --help)");
            }
            _ => {}
        }
        match (self.server, self.listen_address.len()) {
            (server, _)
                if self.token.is_some()
                    && !matches!(
                        server,
                        SimulatedServer::Mediasoup
                            | SimulatedServer::Edumeet
                            | SimulatedServer::Signalling
                            | SimulatedServer::Turn
                            | SimulatedServer::Wilma
                    ) =>
            {
                Some("error: --token goes with Mediasoup, Edumeet, Signalling, Turn and Wilma (see --help)")
            }
            (_, 0) | (SimulatedServer::Sora, 1 | 3) | (SimulatedServer::Wilma, 2) => None,
            (SimulatedServer::Sora, _) => {
                Some("error: --listen-address: write one for a single server, or three for a cluster (see --help)")
            }
            (SimulatedServer::Wilma, _) => {
                Some("error: --listen-address: write two, for Wilma and for Keyrock (see --help)")
            }
            (_, 1) => None,
            _ => Some("error: --listen-address: write one (see --help)"),
        }
    }
}

impl Cli {
    /// Parses the command line. The error says what to print and where.
    pub fn parse_line<I>(arguments: I) -> Result<Self, Refusal>
    where
        I: IntoIterator,
        I::Item: Into<std::ffi::OsString> + Clone,
    {
        const COMMANDS: &str = "run, demo, simulate, probe, check, crd, convert, cleanup, healthcheck or help";
        let arguments: Vec<std::ffi::OsString> = arguments.into_iter().map(Into::into).collect();
        let parsed = Self::command().try_get_matches_from(&arguments);
        let parsed = parsed.and_then(|given| Ok((Self::from_arg_matches(&given)?, given)));
        let (cli, given) = parsed.map_err(|error| {
            use clap::error::ErrorKind;
            match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Refusal::Asked(error.to_string()),
                ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand | ErrorKind::MissingSubcommand => {
                    Refusal::Wrong(format!("error: no command: write {COMMANDS} (see --help)"))
                }
                ErrorKind::InvalidSubcommand => {
                    let line = one_line(&error.to_string());
                    Refusal::Wrong(line.replace("(see --help)", &format!("(write {COMMANDS}; see --help)")))
                }
                _ => Refusal::Wrong(variables::name_variable(&error, &arguments, one_line(&error.to_string()))),
            }
        })?;
        let mistake = match &cli.command {
            Command::Run(args) if args.targets.iter().any(|path| file::is_stdin(path)) => Some(
                "error: --targets follows files while they change, and standard input does not: write a FILE or a directory; a file \
                 called - is ./- (see --help)"
                    .to_owned(),
            ),
            Command::Run(args) if args.targets.is_empty() && args.secrets_directory.is_some() => Some(
                "error: --secrets-directory is for targets from files: write --targets as well; targets from Kubernetes have their \
                 Secrets in the cluster (see --help)"
                    .to_owned(),
            ),
            Command::Run(args) if args.probing.contradicts() => Some(
                "error: --probers: none stands for no type, and another type is written beside it: leave out the one or the other (see --help)"
                    .to_owned(),
            ),
            Command::Run(args) if args.targets.is_empty() => args.kubernetes.mistake(args.web_config_file.is_some()),
            Command::Run(_) => given.subcommand_matches("run").and_then(KubernetesArgs::mistake_with_files),
            Command::Probe(args) => args.mistake(),
            Command::Simulate(args) => args.mistake().map(ToOwned::to_owned),
            Command::Convert(args) => args.mistake().map(ToOwned::to_owned),
            Command::Cleanup(args) => args.release.mistake(),
            _ => None,
        };
        mistake.map_or(Ok(cli), |line| Err(Refusal::Wrong(line)))
    }
}

/// A command line that does not run a command.
#[derive(Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Help or version: to stdout, exit 0.
    Asked(String),
    /// A mistake: one line to stderr, exit 2.
    Wrong(String),
}

/// The error of clap on one line, for logs and scripts: clap writes several paragraphs.
fn one_line(message: &str) -> String {
    let paragraphs = message.lines().map(str::trim).take_while(|line| !line.starts_with("Usage:"));
    let words: Vec<&str> =
        paragraphs.filter(|line| !line.is_empty() && !line.starts_with("For more information")).collect();
    format!("{} (see --help)", words.join(" ").replace(" tip: ", "; "))
}

#[cfg(test)]
mod tests {
    use super::{Cli, Command, Refusal};
    use crate::kind::Type;

    #[test]
    fn an_interval_that_no_target_may_have_is_refused_with_those_it_may() {
        for interval in ["0s", "2h", "999ms"] {
            let Err(Refusal::Wrong(line)) = Cli::parse_line(["scrapetarget-exporter", "demo", "--interval", interval])
            else {
                panic!("{interval} was taken");
            };
            assert!(line.contains("from 1s to 1h"), "{line}");
        }
        assert!(Cli::parse_line(["scrapetarget-exporter", "demo", "--interval", "1s"]).is_ok());
    }

    #[test]
    fn the_types_that_may_be_probed_are_some_all_or_none() {
        let allowed = |flags: &[&str]| {
            let line = ["scrapetarget-exporter", "run", "--targets", "x"].iter().chain(flags);
            match Cli::parse_line(line) {
                Ok(Cli { command: Command::Run(args) }) => {
                    Ok(args.probing.allowed().map(Iterator::collect::<Vec<Type>>))
                }
                Ok(_) => panic!("not run"),
                Err(Refusal::Wrong(line) | Refusal::Asked(line)) => Err(line),
            }
        };
        assert_eq!(allowed(&[]), Ok(None));
        assert_eq!(allowed(&["--probers", "none"]), Ok(Some(vec![])));
        assert_eq!(allowed(&["--probers", "Http,icmp"]), Ok(Some(vec![Type::Http, Type::Icmp])));
        assert_eq!(allowed(&["--probers", "Tcp", "--probers", "Dns"]), Ok(Some(vec![Type::Tcp, Type::Dns])));
        for wrong in ["Sora", "", "Http;Tcp"] {
            let line = allowed(&["--probers", wrong]).unwrap_err();
            assert!(
                line.contains("write some of Http, Tcp, Dns, Icmp, Grpc, WebSocket, Stun, Turn, Prometheus, or none"),
                "{line}"
            );
        }
        for unclear in [&["--probers", "none,Http"][..], &["--probers", "Tcp", "--probers", "none"]] {
            let line = allowed(unclear).unwrap_err();
            assert!(line.contains("leave out the one or the other"), "{line}");
        }
        assert_eq!(allowed(&["--probers", "none,none"]), Ok(Some(vec![])));
    }
}
