//! The result of one poll, as small as it can be kept: one compressed text, in the format that the last scrape asked for. Other forms are made
//! of it when somebody asks, and never kept: there may be ten thousand snapshots, and anybody may ask.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tokio::time::Instant;

use super::gzip::{gunzip, gzip};
use super::pieces::Pieces;
use crate::kind::{Call, Reason};
use crate::metric::{Encoding, Format, PlainCounters, openmetrics_to_text, text_to_openmetrics};

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
    /// What was sent, without the user's headers.
    pub requests: Arc<[Call]>,
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
    gzip: Bytes,
    format: Format,
    /// Bytes before compression.
    length: usize,
    plain_counters: Arc<PlainCounters>,
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
    pub(super) requests: Arc<[Call]>,
    pub(super) stands: bool,
}

/// Up to here a text is rewritten in less than a millisecond.
const SMALL: usize = 64 << 10;

impl Snapshot {
    /// Compresses `text`, which [`encode`](crate::metric::encode) wrote in `format`, and keeps that alone.
    pub(super) fn new(facts: Facts, text: &[u8], format: Format, plain_counters: PlainCounters) -> Self {
        let Facts { started, ended, ended_at, failure, samples, calls, withheld, requests, stands } = facts;
        let body =
            Body { gzip: gzip(text).into(), format, length: text.len(), plain_counters: Arc::new(plain_counters) };
        Self { started, ended, ended_at, failure, samples, calls, withheld, requests, stands, body }
    }

    /// How long the poll took.
    pub fn duration(&self) -> Duration {
        self.ended.duration_since(self.started)
    }

    /// Whether [`body`](Self::body) takes so long that it must not be called on a thread that others wait for, and so much memory that many
    /// of them must not be held: ask for [`pieces`](Self::pieces). The form that is kept costs nothing.
    pub fn is_costly(&self, format: Format, encoding: Encoding) -> bool {
        self.body.length > SMALL && (format, encoding) != (self.body.format, Encoding::Gzip)
    }

    /// The exposition in the wanted form. Only the common one is kept.
    pub fn body(&self, format: Format, encoding: Encoding) -> Bytes {
        let Body { gzip: kept, format: kept_format, length, plain_counters } = &self.body;
        if (format, encoding) == (*kept_format, Encoding::Gzip) {
            return kept.clone();
        }
        let mut body = gunzip(kept, *length);
        if format != *kept_format {
            let text = String::from_utf8_lossy(&body);
            let rewrite = if format == Format::Text { openmetrics_to_text } else { text_to_openmetrics };
            body = rewrite(&text, plain_counters).into_bytes();
        }
        match encoding {
            Encoding::Identity => body.into(),
            Encoding::Gzip => gzip(&body).into(),
        }
    }

    /// The same in pieces of some 64 KiB, each made when it is asked for.
    pub fn pieces(&self, format: Format, encoding: Encoding) -> Pieces {
        let Body { gzip, format: kept, plain_counters, .. } = &self.body;
        Pieces::new(gzip.clone(), *kept, Arc::clone(plain_counters), format, encoding)
    }
}
