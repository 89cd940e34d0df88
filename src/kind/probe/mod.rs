//! What a prober gets and gives: a dialer, a deadline and a recorder for its families, its verdict, and what the debug page shows. Families
//! that several kinds have are here.

mod address;
mod aftercare;
pub(in crate::kind) mod dialogue;
mod hash;
mod http2;
mod pattern;
mod phase;
mod proxy;
pub mod re2;
mod recorder;
mod stream;
mod stun;
mod tls;

use std::any::Any;
use std::fmt::Debug;
use std::net::SocketAddr;
use std::time::Duration;

use futures::future::BoxFuture;
use reqwest::Url;
use reqwest::header::HeaderMap;
use tokio::time::Instant;

pub(in crate::kind) use address::hash_of;
pub use aftercare::{Aftercare, AftercareRoom};
pub(in crate::kind) use hash::fnv1a;
pub(in crate::kind) use http2::{Http2End, begins_http2};
pub use pattern::{ComparisonWork, pattern_problem};
pub(in crate::kind) use pattern::{FAILED_DUE_TO_REGEX, Matcher, Pattern, copy_bytes, readable, search_work, work};
pub(in crate::kind) use phase::phases;
pub use recorder::{BodyBeginning, ProbeEvent, ProbeRecord, Recorder};
pub(in crate::kind) use stream::BoxedStream;
pub(in crate::kind) use stun::{StunLink, StunRequest, StunTransport, record_software};

use crate::budget::MemoryShare;
use crate::dial::{DEFAULT_MAX_ECHO_PAYLOAD, Dialer, JudgedAddress, TargetProxy, literal_address};
use crate::failure::{CallError, Reason};
use crate::metric::{Desc, Stop};
use crate::rule::FieldError;

/// What probes over HTTP call themselves.
pub(in crate::kind) const USER_AGENT: &str = concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION"));

/// `HOST` or `HOST:PORT`: what a server is called in a request, by the url of its target.
pub(in crate::kind) fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    let host = host.strip_suffix('.').filter(|host| !host.is_empty()).unwrap_or(host);
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// Probes one target. Made once and kept until the declaration changes: patterns are compiled, texts are parsed.
pub trait Prober: Debug + Send + Sync {
    /// What a probe does, as the value of the label `call`: one of a small fixed set.
    fn call(&self) -> &'static str;

    /// Sets the families that are there whatever becomes of the probe, most of them to 0. Dashboards and alerts depend on that: a server that
    /// does not answer has the status code 0, and not none.
    fn begin(&self, record: &mut Recorder);

    /// Whether it is more than the operator allows: the field, and what to write instead. Such a target is never probed.
    fn exceeds(&self, _: &ProbeLimits) -> Option<FieldError> {
        None
    }

    /// How long a target is left alone after it has failed for this reason, if that is longer than its interval: neither the interval nor a
    /// scrape starts a probe before. It protects those who would suffer from attempts in vain, as a lock-out does.
    fn pause_after(&self, _: Reason) -> Duration {
        Duration::ZERO
    }

    /// Probes the target once, until the deadline at the latest: the future is dropped then, and what has been recorded by then counts.
    ///
    /// The error is the verdict that it failed. It must not panic, whatever the server sends.
    fn probe<'p>(&'p self, probe: &'p mut Probe<'_>) -> BoxFuture<'p, Result<(), CallError>>;
}

/// What the operator lets targets have probed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeLimits {
    /// `--icmp-max-payload`.
    pub max_echo_payload: u16,
}

impl Default for ProbeLimits {
    fn default() -> Self {
        Self { max_echo_payload: DEFAULT_MAX_ECHO_PAYLOAD }
    }
}

/// What a prober may use for one probe.
#[derive(Debug)]
pub struct Probe<'p> {
    /// Opens its sockets.
    pub dialer: &'p Dialer,
    /// The host of the target's url, as it is written there.
    pub host: &'p str,
    /// `spec.headers`, and the header of `basicAuth`, `authorization` or `oauth2`. Values that must not be shown are marked as sensitive.
    pub headers: &'p HeaderMap,
    /// The values of [`Options::secrets`](super::Options::secrets), in their order; none where an optional one is missing.
    pub secrets: &'p [Option<&'p [u8]>],
    /// `spec.proxyUrl`, with what belongs to it. Not every url goes through it.
    pub proxy: Option<&'p TargetProxy>,
    /// The addresses that it may contact; none at first.
    pub admitted: Vec<JudgedAddress>,
    /// When it must be over.
    pub deadline: Instant,
    /// What it records.
    pub record: &'p mut Recorder,
    /// Memory for what it reads, shared with all other polls. It must be covered before it is used.
    pub memory: &'p mut MemoryShare,
    /// `--max-body-bytes`.
    pub max_body_bytes: usize,
    /// Does what takes long on other threads.
    pub compute: &'p dyn Compute,
    /// Does what must be done even if the probe is cut off.
    pub aftercare: &'p dyn Aftercare,
    /// What its comparisons with patterns have cost; nothing at first.
    pub compared: ComparisonWork,
}

/// Work that takes long, and its result. It is told when nobody waits for it any more, and may end without a result then.
pub type HeavyWork = Box<dyn FnOnce(&Stop) -> Box<dyn Any + Send> + Send>;

/// Does work that takes longer than some milliseconds, so that it does not delay other polls on the same thread.
pub trait Compute: Debug + Send + Sync {
    /// Does the work on another thread, when the namespace of the target has its turn.
    fn run(&self, work: HeavyWork) -> BoxFuture<'_, Result<Box<dyn Any + Send>, CallError>>;
}

impl Probe<'_> {
    /// The time that is left.
    pub fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// Resolves `host` and records the families about its address. The time it took is returned as well, since kinds have a phase for it.
    pub async fn resolve(&mut self, host: &str) -> (Result<JudgedAddress, CallError>, Duration) {
        let start = Instant::now();
        let resolved = self.dialer.resolve(host, self.deadline).await;
        let took = start.elapsed();
        address::record(self.record, &resolved, took);
        self.note_resolved(host, &resolved);
        let resolved = match resolved {
            Ok(address) => self.admit(address).await.map(|()| address),
            Err(error) => Err(error),
        };
        (resolved, took)
    }

    /// Opens a TCP connection to a port of an address that was resolved. The time it took is returned as well.
    pub(in crate::kind) async fn connect(
        &mut self,
        address: JudgedAddress,
        port: u16,
    ) -> (Result<BoxedStream, CallError>, Duration) {
        let start = Instant::now();
        let connected = self.dialer.connect(address, port, self.deadline).await;
        let took = start.elapsed();
        if connected.is_ok() {
            self.record.event(format!("connected to {}", SocketAddr::new(address.ip(), port)));
        }
        (connected.map(|stream| Box::new(stream) as BoxedStream), took)
    }

    /// Adds to the timeline what a name was resolved to. An address in the place of a name says that itself.
    pub fn note_resolved(&mut self, host: &str, resolved: &Result<JudgedAddress, CallError>) {
        if literal_address(host).is_some() {
            return;
        }
        match resolved {
            Ok(address) => self.record.event(format!("resolved {host} to {}", address.ip())),
            Err(error) => self.record.event(format!("resolved {host}: {error}")),
        }
    }

    /// Waits until an address may be probed; see [`Dialer::admit`]. One that this probe has been admitted to is not counted again.
    pub async fn admit(&mut self, address: JudgedAddress) -> Result<(), CallError> {
        if !self.admitted.contains(&address) {
            self.dialer.admit(address, self.deadline).await?;
            self.admitted.push(address);
        }
        Ok(())
    }
}

/// Families that several kinds have.
#[derive(Clone, Copy, Debug)]
pub struct SharedFamilies;

impl SharedFamilies {
    /// About the address that was chosen.
    pub const ADDRESS: &'static [&'static Desc] = address::FAMILIES;
    /// About the TLS connection.
    pub const TLS: &'static [&'static Desc] = tls::FAMILIES;
    /// About its cipher suite, in addition.
    pub const CIPHER: &'static [&'static Desc] = tls::cipher::FAMILIES;
    /// About a STUN server.
    pub const STUN: &'static [&'static Desc] = stun::FAMILIES;
    /// About the regular expressions of the target.
    pub const PATTERNS: &'static [&'static Desc] = pattern::FAMILIES;
}
