//! One poll of one member of a target. It knows nothing of the other members.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::PollContext;
use super::admission::Admission;
use super::prepare::{PreparedTarget, Translator};
use super::render::{self, Polled};
use super::snapshot::{CallRecord, Failure};
use super::translate::{AnsweredPoll, TranslationLimits, translate};
use crate::dial::ClientError;
use crate::error_chain::one_line;
use crate::fetch::Client;
use crate::kind::{Call, Reason};
use crate::metric::{gunzip, gzip};
use crate::target::{Member, Target};
use crate::tls::Expiry;

/// Up to this size, the series of a member wait uncompressed for those of the others.
const MAX_PLAIN_TEXT: usize = 64 << 10;

/// What is kept of a process from one of its polls to the next. It belongs to the uid of a pod, and goes with it.
#[derive(Default)]
pub(super) struct MemberProcess {
    translator: Translator,
    client: Option<MemberClient>,
}

/// A client, and what it was made for.
struct MemberClient {
    prepared: Arc<PreparedTarget>,
    address: SocketAddr,
    client: Client,
}

/// What one poll of a member is about.
pub(super) struct MemberJob {
    pub(super) context: Arc<PollContext>,
    pub(super) admission: Arc<Admission>,
    pub(super) target: Arc<Target>,
    pub(super) prepared: Arc<PreparedTarget>,
    pub(super) calls: Arc<[Call]>,
    pub(super) member: Member,
    /// The Service that has named its address.
    pub(super) service: Option<Arc<str>>,
    pub(super) limits: TranslationLimits,
    /// When it is due.
    pub(super) due: Instant,
    pub(super) timeout: Duration,
}

/// The outcome of a poll of a member.
pub(super) struct MemberResult {
    pub(super) ended_at: SystemTime,
    pub(super) duration: Duration,
    pub(super) failure: Option<Failure>,
    pub(super) calls: Arc<[CallRecord]>,
    pub(super) certificate_expiry: Option<Expiry>,
    /// Series of the member's own.
    pub(super) samples: usize,
    pub(super) dropped: u64,
    pub(super) skipped: u64,
    pub(super) withheld: u64,
    /// Its series until they are part of an answer.
    pub(super) text: Option<MemberText>,
}

/// The series of a member as text 0.0.4.
pub(super) enum MemberText {
    Plain(Vec<u8>),
    /// With its length before compression.
    Compressed(Vec<u8>, usize),
}

impl MemberText {
    pub(super) const fn len(&self) -> usize {
        match self {
            Self::Plain(text) => text.len(),
            Self::Compressed(_, length) => *length,
        }
    }

    /// Its bytes.
    pub(super) fn into_plain(self) -> Vec<u8> {
        match self {
            Self::Plain(text) => text,
            Self::Compressed(text, length) => gunzip(&text, length),
        }
    }

    /// Compresses it, since it has to wait for other members. Returns how many bytes were compressed.
    pub(super) fn compress(&mut self) -> usize {
        let Self::Plain(text) = self else { return 0 };
        let length = text.len();
        *self = Self::Compressed(gzip(text), length);
        length
    }
}

impl MemberJob {
    /// Polls the member when it is due.
    pub(super) async fn run(self, process: &mut MemberProcess) -> MemberResult {
        tokio::time::sleep_until(self.due).await;
        let permit = Box::pin(self.admission.acquire(self.due)).await;
        self.context.metrics.delay.observe(self.due.elapsed().as_secs_f64());
        let started = Instant::now();
        let deadline = started + self.timeout;
        let result = match process.client(&self) {
            Ok(client) => {
                let (credentials, interval) = (&self.prepared.credentials, self.target.interval);
                let answered = credentials.fetch(client, &self.calls, &self.context, interval, deadline).await;
                process.translator.use_with(&self.prepared);
                let poll = AnsweredPoll {
                    target: &self.target,
                    prepared: &self.prepared,
                    translator: &mut process.translator,
                    requests: Arc::clone(&self.calls),
                    answered,
                    started,
                    deadline,
                    limits: self.limits,
                };
                let (label, name) = (self.member.label, Arc::clone(&self.member.name));
                let finish = move |polled| MemberResult::of(polled, label.as_str(), &name);
                translate(poll, &self.context, finish).await
            }
            Err(error) => MemberResult::unsent(Reason::Config, &one_line(&error)),
        };
        drop(permit);
        result
    }
}

impl MemberProcess {
    fn client(&mut self, job: &MemberJob) -> Result<&Client, ClientError> {
        let (prepared, address) = (&job.prepared, job.member.address);
        let is_usable = |made: &MemberClient| made.address == address && Arc::ptr_eq(&made.prepared, prepared);
        let made = match self.client.take().filter(is_usable) {
            Some(made) => made,
            None => MemberClient {
                client: prepared.client.member(address, job.service.as_deref())?,
                prepared: Arc::clone(prepared),
                address,
            },
        };
        Ok(&self.client.insert(made).client)
    }
}

impl MemberResult {
    fn of(mut polled: Polled, label: &str, name: &str) -> Self {
        polled.bound_messages();
        let text = polled.families.encode_member(label, name); // it may leave out samples
        let mut text = MemberText::Plain(text);
        if text.len() > MAX_PLAIN_TEXT {
            text.compress(); // here, on the thread that has made it
        }
        let families = &polled.families;
        Self {
            ended_at: SystemTime::now(),
            duration: polled.ended.duration_since(polled.started),
            samples: families.len(),
            dropped: families.dropped(),
            skipped: families.skipped(),
            withheld: families.withheld(),
            text: Some(text),
            failure: polled.failure,
            calls: polled.calls.into(),
            certificate_expiry: polled.certificate_expiry,
        }
    }

    /// Nothing was sent.
    pub(super) fn unsent(reason: Reason, message: &str) -> Self {
        Self {
            ended_at: SystemTime::now(),
            duration: Duration::ZERO,
            failure: Some(Failure { reason, message: render::bounded(message).into() }),
            calls: Arc::default(),
            certificate_expiry: None,
            samples: 0,
            dropped: 0,
            skipped: 0,
            withheld: 0,
            text: None,
        }
    }
}
