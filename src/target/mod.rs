//! A target as the pollers need it: everything that was written is parsed, every default is filled in, every reference is resolved.

mod id;
mod lookup;
mod refused;
mod resolve;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use reqwest::Url;
use reqwest::header::HeaderMap;

pub use id::{TargetId, TargetIdError};
pub use lookup::{Lookup, LookupError};
pub use refused::Refused;

pub use crate::crd::{ObjectKind, ParsedTarget};

use crate::fetch::Connection;
use crate::kind::{Blocks, Type};
use crate::metric::Filter;

/// One declared server.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// Its name.
    pub id: TargetId,
    /// What is polled, and how: a change of any of it makes older data worthless.
    pub source: Source,
    /// From the start of one poll to the start of the next.
    pub interval: Duration,
    /// For all calls of one poll together.
    pub timeout: Duration,
    /// A scrape never gets data older than this without a new poll.
    pub max_age: Duration,
    /// No polls.
    pub suspend: bool,
    /// Series of the target itself that one answer may hold.
    pub sample_limit: usize,
    /// How Prometheus should scrape it: `spec.monitor`.
    pub scrape: Scrape,
    /// What the user declared, shared with whoever read it.
    pub declaration: Arc<ParsedTarget>,
    /// Why it cannot be polled, for the user who wrote it: a Secret is missing, or the cluster holds a spec that this version refuses.
    pub problem: Option<Problem>,
}

/// Why a target cannot be polled as it is declared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// One word in CamelCase: `InvalidSpec`, or that of a [`LookupError`].
    pub reason: &'static str,
    /// The sentence.
    pub message: String,
}

impl Problem {
    /// The spec itself is wrong.
    pub fn invalid_spec(message: impl Into<String>) -> Self {
        Self { reason: "InvalidSpec", message: message.into() }
    }
}

/// What is polled, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct Source {
    /// The kind of server.
    pub kind: Type,
    /// Where it is.
    pub url: Url,
    /// The kind's options.
    pub options: Blocks,
    /// TLS and proxy.
    pub connection: Connection,
    /// Headers of every call; values that came from Secrets are marked sensitive.
    pub headers: HeaderMap,
    /// Which metric names are exported; `None`: all.
    pub filter: Option<Arc<Filter>>,
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
    /// Whether a poll of `other` would bring the same: if not, what is known of one is worth nothing for the other.
    pub fn gives_same_data(&self, other: &Self) -> bool {
        self.source == other.source
            && self.suspend == other.suspend
            && self.problem == other.problem
            && self.sample_limit == other.sample_limit
    }

    /// Labels that discovery joins to every series, sorted by name; never in the body.
    pub fn labels(&self) -> &BTreeMap<String, String> {
        &self.declaration.spec.labels
    }
}
