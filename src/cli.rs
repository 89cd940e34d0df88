//! What can be typed: commands, flags, their environment variables and their defaults. It parses, and does nothing.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use ipnet::IpNet;
use reqwest::Url;

use crate::crd;
use crate::kind::Type;

/// A multi-target Prometheus exporter for WebRTC SFU Sora, FIWARE Orion and mediasoup.
#[derive(Debug, Parser)]
#[command(name = "scrapetarget-exporter", version, max_term_width = 100, disable_help_subcommand = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// The service: polls the declared targets and serves their results at /probe
    Run(RunArgs),
    /// Everything on one machine: simulated servers whose numbers move, targets for them, and the service
    Demo(DemoArgs),
    /// Polls one target once and prints its exposition
    Probe(ProbeArgs),
    /// Validates manifests offline, by the same rules as the API server
    Check(CheckArgs),
    /// Prints the CustomResourceDefinition of ScrapeTarget
    Crd,
    /// Asks a running service whether it is healthy, and exits 0 if it is: for containers without a shell
    Healthcheck(HealthcheckArgs),
}

/// Flags of `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Where the service listens; repeatable. `:9850` is every address of the host
    #[arg(
        long,
        env = "SCRAPETARGET_LISTEN_ADDRESS",
        default_value = ":9850",
        value_delimiter = ',',
        value_name = "ADDRESS"
    )]
    pub listen_address: Vec<ListenAddress>,
    /// TLS, client certificates and users of the listener, in the format of the Prometheus exporter toolkit
    #[arg(long = "web.config.file", env = "SCRAPETARGET_WEB_CONFIG_FILE", value_name = "FILE")]
    pub web_config_file: Option<PathBuf>,
    /// Manifests of ScrapeTargets, Secrets and ConfigMaps: a file, or a directory of them; repeatable, read again when they change
    #[arg(
        long,
        env = "SCRAPETARGET_TARGETS",
        value_delimiter = ',',
        required = true,
        value_name = "FILE_OR_DIRECTORY"
    )]
    pub targets: Vec<PathBuf>,
    /// Flags about polls.
    #[command(flatten)]
    pub polling: PollingArgs,
    /// The URL under which Prometheus reaches this service; if not set, /sd answers with the Host of each request
    #[arg(long = "web.external-url", env = "SCRAPETARGET_WEB_EXTERNAL_URL", value_name = "URL", value_parser = external_url)]
    pub web_external_url: Option<Url>,
    /// Connections that may be open at once; at the limit, the one that has been idle longest is closed
    #[arg(long = "web.max-connections", env = "SCRAPETARGET_WEB_MAX_CONNECTIONS", default_value_t = 4096, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    pub web_max_connections: u32,
    /// How long the service goes on serving after a signal to stop, before it closes its listener
    #[arg(long, env = "SCRAPETARGET_SHUTDOWN_DELAY", default_value = "0s", value_name = "DURATION", value_parser = duration)]
    pub shutdown_delay: Duration,
    /// Flags about the log.
    #[command(flatten)]
    pub log: LogArgs,
}

/// Flags about polls, shared by `run`, `demo` and `probe`.
#[derive(Clone, Debug, Args)]
pub struct PollingArgs {
    /// Addresses that are never contacted, beside the link-local ones; repeatable
    #[arg(long, env = "SCRAPETARGET_TARGET_DENY_CIDR", value_delimiter = ',', value_name = "CIDR", value_parser = cidr)]
    pub target_deny_cidr: Vec<IpNet>,
    /// The largest body of an answer, decompressed
    #[arg(long, env = "SCRAPETARGET_MAX_BODY_BYTES", default_value = "16MiB", value_name = "BYTES", value_parser = bytes)]
    pub max_body_bytes: usize,
    /// All bodies together that may be in memory at once
    #[arg(long, env = "SCRAPETARGET_MAX_INFLIGHT_BYTES", default_value = "128MiB", value_name = "BYTES", value_parser = bytes)]
    pub max_inflight_bytes: usize,
}

/// Flags about the log, on stderr.
#[derive(Clone, Copy, Debug, Args)]
pub struct LogArgs {
    /// The least severe messages that are logged
    #[arg(long, env = "SCRAPETARGET_LOG_LEVEL", default_value = "info", value_name = "LEVEL")]
    pub log_level: LogLevel,
    /// One line of key=value pairs, or of JSON, for each message
    #[arg(long, env = "SCRAPETARGET_LOG_FORMAT", default_value = "logfmt", value_name = "FORMAT")]
    pub log_format: LogFormat,
}

/// How severe a message must be to be logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogLevel {
    /// Only what needs somebody.
    Error,
    /// Also what may need somebody soon.
    Warn,
    /// Also changes of state.
    Info,
    /// Also what led to them.
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
    /// Where the service listens; port 0 takes one that is free
    #[arg(long, env = "SCRAPETARGET_LISTEN_ADDRESS", default_value = "127.0.0.1:9850", value_name = "ADDRESS")]
    pub listen_address: ListenAddress,
    /// Poll every target once, print one line for each, and exit: 0 if every target is as the demo intends
    #[arg(long)]
    pub once: bool,
    /// Time between two polls of a target, from 1s to 1h
    #[arg(long, default_value = "5s", value_name = "DURATION", value_parser = interval)]
    pub interval: Duration,
    /// Flags about the log.
    #[command(flatten)]
    pub log: LogArgs,
}

/// Flags of `probe`.
#[derive(Debug, Args)]
pub struct ProbeArgs {
    /// A file with the manifest of one ScrapeTarget, and of what it refers to
    #[arg(value_name = "FILE", conflicts_with_all = ["kind", "url"])]
    pub file: Option<PathBuf>,
    /// The target's name where the file holds several
    #[arg(long, value_name = "NAME")]
    pub target: Option<String>,
    /// The type of the target
    #[arg(long = "type", value_name = "TYPE")]
    pub kind: Option<Type>,
    /// The url of the target
    #[arg(long, value_name = "URL")]
    pub url: Option<String>,
    /// A field of the spec as YAML, such as sora.clusterMetrics=true or mediasoup.source=Prometheus; repeatable
    #[arg(long, value_name = "FIELD=VALUE")]
    pub set: Vec<String>,
    /// How long the poll may take, all its calls together
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub timeout: Option<Duration>,
    /// Print each call, its status, its time and its error as well; secrets are masked
    #[arg(long)]
    pub debug: bool,
    /// Flags about polls.
    #[command(flatten)]
    pub polling: PollingArgs,
}

/// Flags of `check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Manifests: files, or directories of them
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
}

/// Flags of `healthcheck`.
#[derive(Debug, Args)]
pub struct HealthcheckArgs {
    /// The URL that must answer with status 200
    #[arg(value_name = "URL", default_value = "http://127.0.0.1:9850/-/healthy", value_parser = health_url)]
    pub url: Url,
}

impl ProbeArgs {
    /// What is wrong with these flags together. clap's own words about them name only a part of what one could write.
    fn mistake(&self) -> Option<&'static str> {
        let Self { file, target, kind, url, set, .. } = self;
        match (file, kind, url) {
            (None, None, _) | (None, _, None) => {
                Some("error: which target? write probe FILE, or probe --type TYPE --url URL (see --help)")
            }
            (None, ..) if target.is_some() => {
                Some("error: --target chooses from a FILE: write probe FILE --target NAME (see --help)")
            }
            (Some(_), ..) if !set.is_empty() => {
                Some("error: --set goes with --type and --url: in a FILE, write the field itself (see --help)")
            }
            _ => None,
        }
    }
}

/// `:9850`, `127.0.0.1:9850`, `[::1]:9850` or `localhost:9850`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenAddress(String);

impl ListenAddress {
    /// What a socket is bound to; a missing host stands for every address, of both IP versions where there are two.
    pub fn candidates(&self) -> Vec<String> {
        match self.0.strip_prefix(':') {
            Some(port) => vec![format!("[::]:{port}"), format!("0.0.0.0:{port}")],
            None => vec![self.0.clone()],
        }
    }
}

impl std::fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::str::FromStr for ListenAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let port = text.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
        port.map(|_| Self(text.to_owned())).ok_or_else(|| "write HOST:PORT or :PORT, for instance :9850".to_owned())
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    text.parse::<crd::Duration>().map(crd::Duration::get).map_err(|error| error.to_string())
}

fn cidr(text: &str) -> Result<IpNet, String> {
    text.parse().map_err(|_| "write ADDRESS/BITS, for instance 10.0.0.0/8 or fd00::/8".to_owned())
}

fn health_url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
    url.ok_or_else(|| "write an http or https URL, for instance http://127.0.0.1:9850/-/healthy".to_owned())
}

/// What `spec.interval` may be.
fn interval(text: &str) -> Result<Duration, String> {
    let interval = duration(text)?;
    let range = Duration::from_secs(1)..=Duration::from_hours(1);
    if range.contains(&interval) { Ok(interval) } else { Err("write a duration from 1s to 1h".to_owned()) }
}

fn external_url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| format!("{error}; write for instance https://exporter.example.com/"))?;
    if matches!(url.scheme(), "http" | "https") && url.query().is_none() && url.fragment().is_none() {
        Ok(url)
    } else {
        Err("write an http or https URL without query and fragment".to_owned())
    }
}

/// A number of bytes: `4096`, `64KiB`, `16MiB`, `1GiB`.
fn bytes(text: &str) -> Result<usize, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let shift = match unit.trim() {
        "" | "B" => Some(0),
        "KiB" | "Ki" => Some(10),
        "MiB" | "Mi" => Some(20),
        "GiB" | "Gi" => Some(30),
        _ => None,
    };
    number
        .parse::<usize>()
        .ok()
        .zip(shift)
        .and_then(|(number, shift)| number.checked_mul(1_usize << shift))
        .filter(|bytes| *bytes > 0)
        .ok_or_else(|| "write a number of bytes above 0, for instance 16MiB or 16777216".to_owned())
}

impl Cli {
    /// Parses the command line. `Err` is what to print, and the exit code: one line and 2 for what is wrong.
    pub fn parse_line<I>(arguments: I) -> Result<Self, Refusal>
    where
        I: IntoIterator,
        I::Item: Into<std::ffi::OsString> + Clone,
    {
        const COMMANDS: &str = "run, demo, probe, check, crd or healthcheck";
        let cli = Self::try_parse_from(arguments).map_err(|error| {
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
                _ => Refusal::Wrong(one_line(&error.to_string())),
            }
        })?;
        match &cli.command {
            Command::Probe(args) => args.mistake().map_or(Ok(()), |line| Err(Refusal::Wrong(line.to_owned()))),
            _ => Ok(()),
        }?;
        Ok(cli)
    }
}

/// A command line that does not lead to a command.
#[derive(Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Help or version: to stdout, exit 0.
    Asked(String),
    /// A mistake: one line to stderr, exit 2.
    Wrong(String),
}

/// clap explains itself in several paragraphs; logs and scripts want one line.
fn one_line(message: &str) -> String {
    let paragraphs = message.lines().map(str::trim).take_while(|line| !line.starts_with("Usage:"));
    let words: Vec<&str> =
        paragraphs.filter(|line| !line.is_empty() && !line.starts_with("For more information")).collect();
    format!("{} (see --help)", words.join(" ").replace(" tip: ", "; "))
}

#[cfg(test)]
mod tests {
    use super::{Cli, Refusal};

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
}
