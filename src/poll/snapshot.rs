//! The result of one poll, as small as it can be kept: one compressed text, from which the rarer forms are made when asked for.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tokio::time::Instant;

use super::gzip::{gunzip, gzip};
use crate::kind::Reason;
use crate::metric::{Encoding, Format, openmetrics_to_text};

/// What a poll, or its absence, says of a target.
#[derive(Debug)]
pub struct Snapshot {
    /// When the poll began.
    pub started: Instant,
    /// When the poll ended: from here its age counts.
    pub ended: Instant,
    /// The same, as people and Prometheus read it.
    pub ended_at: SystemTime,
    /// Why it failed; `None`: it succeeded.
    pub failure: Option<Failure>,
    /// Series in the body.
    pub samples: usize,
    /// The calls, in order; none where nothing was sent.
    pub calls: Box<[CallRecord]>,
    /// Samples left out because their names, or what is in them, are not for the server to write.
    pub withheld: u64,
    /// No poll took place and none will: this stays true until the target changes.
    pub stands: bool,
    body: Body,
}

/// Why a poll failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The label.
    pub reason: Reason,
    /// The sentence.
    pub message: Arc<str>,
}

/// One call of the last poll, for people.
#[derive(Clone, Debug)]
pub struct CallRecord {
    /// The call's name.
    pub call: &'static str,
    /// From its start to the end of its body.
    pub duration: Duration,
    /// The HTTP status, where there was an answer.
    pub status: Option<u16>,
    /// Bytes of the body, decompressed.
    pub bytes: usize,
    /// What was wrong.
    pub error: Option<Box<str>>,
    /// The beginning of the body of a call that failed; only with `--debug-bodies`.
    pub beginning: Option<Box<str>>,
}

#[derive(Debug)]
struct Body {
    openmetrics_gzip: Bytes,
    plain_counters: Box<[Box<str>]>,
    rare: OnceLock<Box<Rare>>,
}

/// The forms that Prometheus does not ask for by itself, each made at most once.
#[derive(Debug, Default)]
struct Rare {
    openmetrics: OnceLock<Bytes>,
    text: OnceLock<Bytes>,
    text_gzip: OnceLock<Bytes>,
}

/// The parts of a [`Snapshot`] beside its body.
#[derive(Debug)]
pub(super) struct Facts {
    pub(super) started: Instant,
    pub(super) ended: Instant,
    pub(super) ended_at: SystemTime,
    pub(super) failure: Option<Failure>,
    pub(super) samples: usize,
    pub(super) calls: Box<[CallRecord]>,
    pub(super) withheld: u64,
    pub(super) stands: bool,
}

impl Snapshot {
    /// Compresses `openmetrics`, the text that [`encode`](crate::metric::encode) wrote, and keeps that alone.
    pub(super) fn new(facts: Facts, openmetrics: &[u8], plain_counters: Vec<Box<str>>) -> Self {
        let Facts { started, ended, ended_at, failure, samples, calls, withheld, stands } = facts;
        let body = Body {
            openmetrics_gzip: gzip(openmetrics).into(),
            plain_counters: plain_counters.into_boxed_slice(),
            rare: OnceLock::new(),
        };
        Self { started, ended, ended_at, failure, samples, calls, withheld, stands, body }
    }

    /// How long the poll took.
    pub fn duration(&self) -> Duration {
        self.ended.duration_since(self.started)
    }

    /// The exposition in the wanted form. Each form is made at most once; the common one is always there.
    pub fn body(&self, format: Format, encoding: Encoding) -> Bytes {
        let rare = || self.body.rare.get_or_init(Box::default);
        match (format, encoding) {
            (Format::OpenMetrics, Encoding::Gzip) => self.body.openmetrics_gzip.clone(),
            (Format::OpenMetrics, Encoding::Identity) => {
                rare().openmetrics.get_or_init(|| self.openmetrics().into()).clone()
            }
            (Format::Text, Encoding::Identity) => rare().text.get_or_init(|| self.text().into()).clone(),
            (Format::Text, Encoding::Gzip) => {
                rare().text_gzip.get_or_init(|| gzip(self.text().as_bytes()).into()).clone()
            }
        }
    }

    fn openmetrics(&self) -> Vec<u8> {
        gunzip(&self.body.openmetrics_gzip)
    }

    fn text(&self) -> String {
        openmetrics_to_text(&String::from_utf8_lossy(&self.openmetrics()), &self.body.plain_counters)
    }
}
