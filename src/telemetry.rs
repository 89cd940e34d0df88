//! The log: logfmt or JSON, on stderr.

use tracing::level_filters::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::cli::{self, LogArgs, LogFormat, LogLevel};

/// Starts the log of the process, and warns about environment variables that look like flags of this program and have no effect. A second
/// call changes nothing.
pub fn start(args: LogArgs) {
    let LogArgs { log_level, log_format } = args;
    let level = match log_level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    // Libraries log every packet at debug and trace, so these levels apply to this program only.
    let filter = tracing_subscriber::filter::Targets::new()
        .with_default(level.min(LevelFilter::WARN))
        // Each failed request of the Kubernetes client is returned as an error, and logged where it is handled.
        .with_target("kube_client::client", LevelFilter::OFF)
        .with_target("kube_client::client::tls", level.min(LevelFilter::WARN))
        .with_target("kube_runtime", LevelFilter::OFF)
        .with_target("scrapetarget_exporter", level);
    let registry = tracing_subscriber::registry().with(filter);
    let _ = match log_format {
        LogFormat::Logfmt => {
            registry.with(tracing_logfmt::builder().with_target(false).layer().with_writer(std::io::stderr)).try_init()
        }
        LogFormat::Json => {
            let json = tracing_subscriber::fmt::layer().json().flatten_event(true).with_target(false);
            registry.with(json.with_writer(std::io::stderr)).try_init()
        }
    };
    // The message of a panic may quote a value, for instance the response of a server: only constant messages are logged.
    std::panic::set_hook(Box::new(|panic| {
        let words = panic.payload().downcast_ref::<&'static str>().copied().unwrap_or("in words that are left out");
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(place, "panicked: {words}");
    }));
    for warning in cli::unknown_variables() {
        tracing::warn!("{warning}");
    }
}
