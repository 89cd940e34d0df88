//! Turns the answers of one server into families: translates them, enforces limits, and masks secrets. It makes no calls.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::SystemTime;

use tokio::time::Instant;

use super::PollContext;
use super::authorized::AuthorizedCalls;
use super::blocking::{NamespaceShares, WorkError, WorkPermit, run_blocking};
use super::prepare::{PreparedTarget, Translator};
use super::render::{self, Polled};
use super::snapshot::{CallRecord, Failure};
use crate::budget::HeldMemory;
use crate::fetch::{Fetched, Redactor};
use crate::kind::{Answer, Call, CallError, Context, Kind, Reason};
use crate::metric::{Allowance, Excess, Families, Filter, Finished, Stop};
use crate::target::{Target, TargetMembers};
use crate::tls::Expiry;

/// Answers up to this size are translated inline, on the thread that read them, if their exposition is small as well; all others on
/// [blocking threads](super::blocking).
const MAX_INLINE_ANSWERS: usize = 32 << 10;

/// The largest exposition that is made inline, in bytes: some milliseconds of work.
pub(super) const MAX_INLINE_EXPOSITION: usize = 512 << 10;

/// The average bytes of the exposition that a series may take.
const BYTES_PER_SERIES: usize = 1 << 10;

/// The least bytes of the exposition of a member, however many members there are.
const MIN_MEMBER_BYTES: usize = 64 << 10;

/// The limits of the size of an exposition, however few or many series its target may have.
const EXPOSITION_BYTES: std::ops::RangeInclusive<usize> = (256 << 10)..=(32 << 20);

/// How many answers of a server may have new names before all of its answers are translated on blocking threads.
const MAX_INLINE_COMPARISONS: u8 = 3;

/// A poll whose answers are there.
pub(super) struct AnsweredPoll<'p> {
    pub(super) target: &'p Target,
    pub(super) prepared: &'p PreparedTarget,
    pub(super) translator: &'p mut Translator,
    pub(super) requests: Arc<[Call]>,
    pub(super) answered: AuthorizedCalls,
    pub(super) started: Instant,
    pub(super) deadline: Instant,
    pub(super) limits: TranslationLimits,
}

/// The limits of what the answers of one server may become.
#[derive(Clone, Copy, Debug)]
pub(super) struct TranslationLimits {
    samples: SampleLimit,
    /// The bytes of the exposition.
    bytes: usize,
}

impl TranslationLimits {
    /// For a target that is one process.
    pub(super) fn of_target(target: &Target) -> Self {
        let samples = SampleLimit::of(target);
        Self { samples, bytes: exposition_bytes(samples.effective) }
    }

    /// For one of `count` members, which share what one target may have.
    pub(super) fn of_member(target: &Target, members: &TargetMembers, count: usize) -> Self {
        let (count, whole) = (count.max(1), SampleLimit::of(target));
        let share = (members.sample_limit / count).max(1);
        let declared = target.declaration.spec.members.as_ref().map_or(0, |members| members.sample_limit);
        let is_capped = usize::try_from(declared).is_ok_and(|declared| members.sample_limit < declared);
        let setting = if is_capped {
            "--max-sample-limit (divided by the number of members)"
        } else {
            "spec.members.sampleLimit (divided by the number of members)"
        };
        let samples = if share < whole.effective { SampleLimit { effective: share, setting } } else { whole };
        let bytes = (exposition_bytes(members.sample_limit) / count).max(MIN_MEMBER_BYTES);
        Self { samples, bytes: bytes.min(exposition_bytes(samples.effective)) }
    }
}

/// The limit of an exposition of so many series.
fn exposition_bytes(samples: usize) -> usize {
    samples.saturating_mul(BYTES_PER_SERIES).clamp(*EXPOSITION_BYTES.start(), *EXPOSITION_BYTES.end())
}

/// Translates the answers of a poll, and calls `finish` with the result on the same thread. Small answers are translated inline; others, and
/// those whose exposition turns out to be large, on blocking threads.
pub(super) async fn translate<T: Send + 'static>(
    poll: AnsweredPoll<'_>,
    context: &Arc<PollContext>,
    finish: impl Fn(Polled) -> T + Clone + Send + 'static,
) -> T {
    let AnsweredPoll { target, prepared, translator, requests, answered, started, deadline, limits } = poll;
    let bytes: usize = answered.fetched.exchanges.iter().map(|exchange| exchange.bytes).sum();
    let mut translation = Translation::new(prepared, context, requests, answered, started, limits.samples);
    let is_small = bytes <= MAX_INLINE_ANSWERS;
    if is_small && !translator.is_large && !translation.redactor.is_slow() {
        let inline = MAX_INLINE_EXPOSITION.min(limits.bytes);
        let allowance = Allowance { bytes: inline, compares: false, stop: Stop::default() };
        match translation.translate(translator.take(prepared), allowance, &finish) {
            Ok(done) => {
                // Well before it is too large, since a translation that exceeds its allowance loses the translator: see below.
                translator.is_large = done.bytes > inline / 4 && inline == MAX_INLINE_EXPOSITION;
                translator.kind = done.translator;
                return done.output;
            }
            // The translator is not used again, since it has counted this poll already.
            Err((excess, _)) => {
                translator.comparisons = translator.comparisons.saturating_add(u8::from(excess == Excess::Comparison));
                translator.is_large = excess != Excess::Comparison || translator.comparisons > MAX_INLINE_COMPARISONS;
            }
        }
    }
    let shares = if is_small { &context.small_answers } else { &context.large_answers };
    let permit = match translation.acquire_permit(target, shares, deadline).await {
        Ok(permit) => permit,
        Err(error) => return finish(translation.poll.failed(&error, prepared, limits.samples)),
    };
    let record = translation.poll.clone();
    let (kind, finished) = (translator.take(prepared), finish.clone());
    let work = move |stop| {
        let allowance = Allowance { bytes: limits.bytes, compares: true, stop };
        translation.translate(kind, allowance, &finished)
    };
    let error = match run_blocking(permit, deadline, work).await {
        Ok(Ok(done)) => {
            translator.kind = done.translator;
            return done.output;
        }
        Ok(Err((excess, kind))) => {
            translator.kind = Some(kind);
            excess_error(excess, limits.bytes)
        }
        Err(error) => error.of_translation(),
    };
    finish(record.failed(&error, prepared, limits.samples))
}

/// The error for users if an exposition exceeds its allowance.
fn excess_error(excess: Excess, bytes: usize) -> CallError {
    match excess {
        Excess::Time => WorkError::TimedOut.of_translation(),
        Excess::Bytes => CallError::new(
            Reason::Limit,
            format!("the exposition is larger than {bytes} bytes: names and labels are too long, or too many"),
        ),
        Excess::Comparison => CallError::new(Reason::Internal, "a name was not compared: please report this"),
    }
}

/// The translation of the answers of one poll.
struct Translation {
    answers: Vec<Answer>,
    /// The answers' share of `--max-inflight-bytes`.
    memory: Option<HeldMemory>,
    poll: PollRecord,
    filter: Option<Arc<Filter>>,
    limit: SampleLimit,
    redactor: Arc<Redactor>,
    /// Whether the beginnings of bodies are kept for the debug page.
    bodies: bool,
}

/// What is known of a poll before its answers are translated.
#[derive(Clone)]
struct PollRecord {
    started: Instant,
    ended: Instant,
    requests: Arc<[Call]>,
    /// The calls that have answers, then the request for a token if there was one.
    calls: Vec<CallRecord>,
    certificate_expiry: Option<Expiry>,
}

/// The result of a translation.
struct Translated<T> {
    /// `None` if it panicked: then it is not used again.
    translator: Option<Box<dyn Kind>>,
    output: T,
    /// The approximate size of the exposition.
    bytes: usize,
}

impl Translation {
    fn new(
        prepared: &PreparedTarget,
        context: &PollContext,
        requests: Arc<[Call]>,
        answered: AuthorizedCalls,
        started: Instant,
        limit: SampleLimit,
    ) -> Self {
        let AuthorizedCalls { fetched, token, redactor } = answered;
        let Fetched { exchanges, certificate_expiry, memory } = fetched;
        let (answers, mut calls): (Vec<Answer>, Vec<CallRecord>) = exchanges
            .into_iter()
            .map(|exchange| {
                let record = CallRecord {
                    call: exchange.call,
                    duration: exchange.duration,
                    status: exchange.status,
                    bytes: exchange.bytes,
                    error: None,
                    beginning: None,
                };
                (exchange.answer, record)
            })
            .unzip();
        calls.extend(token);
        let poll = PollRecord { started, ended: Instant::now(), requests, calls, certificate_expiry };
        Self {
            answers,
            memory,
            poll,
            filter: prepared.source.filter.clone(),
            limit,
            redactor,
            bodies: context.shows_bodies(),
        }
    }

    /// Waits for a permit to translate on a blocking thread. Meanwhile the answers can be evicted from memory, so that one namespace with
    /// many waiting polls does not keep it from others.
    async fn acquire_permit(
        &self,
        target: &Target,
        shares: &NamespaceShares,
        deadline: Instant,
    ) -> Result<WorkPermit, CallError> {
        let permit = shares.acquire(target, deadline);
        let Some(memory) = &self.memory else { return permit.await.map_err(WorkError::of_translation) };
        let permit = tokio::select! {
            error = memory.evicted() => return Err(error),
            permit = permit => permit.map_err(WorkError::of_translation)?,
        };
        memory.pin().map(|()| permit)
    }

    /// Translates. If the allowance is exceeded there is no result, and the answers are kept.
    fn translate<T>(
        &mut self,
        mut translator: Box<dyn Kind>,
        allowance: Allowance,
        finish: impl Fn(Polled) -> T,
    ) -> Result<Translated<T>, (Excess, Box<dyn Kind>)> {
        let mut families = Families::within(allowance, self.filter.clone());
        let cx = Context { now: render::unix_seconds(SystemTime::now()), sample_limit: self.limit.effective };
        let translated = catch_unwind(AssertUnwindSafe(|| {
            let results = translator.translate(&self.answers, &cx, &mut families);
            let (excess, bytes) = (families.excess(), families.bytes());
            excess.map_or_else(|| Ok((families.finish(), bytes, results)), Err)
        }));
        let (translator, mut families, bytes, results) = match translated {
            Ok(Ok((families, bytes, results))) => (Some(translator), families, bytes, results),
            Ok(Err(excess)) => return Err((excess, translator)),
            Err(_) => {
                let error =
                    CallError::new(Reason::Internal, "the response could not be translated: please report this");
                (None, Families::default().finish(), 0, vec![Err(error)])
            }
        };
        // Masked last: no part of a secret that we sent may leave the exporter, whatever has put the texts together.
        families.withhold(|text| self.redactor.is_in(text));
        let answers = std::mem::take(&mut self.answers);
        let PollRecord { started, ended, requests, mut calls, certificate_expiry } = self.poll.clone();
        let mut failure = None;
        for (i, ((record, answer), result)) in calls.iter_mut().zip(&answers).zip(results).enumerate() {
            if let Err(error) = result {
                let error = self.limit.explain(error);
                let error = CallError::new(error.reason, self.redactor.sentence(&error.message));
                record.error = Some(error.message.as_str().into());
                if self.bodies
                    && let Ok(response) = &answer.0
                {
                    record.beginning = Some(self.redactor.beginning(&response.body).into());
                }
                if i == 0 {
                    failure = Some(render::failure(&error, record.call));
                }
            }
        }
        drop(answers);
        self.memory = None;
        let families = self.limit.enforce(families, &mut failure);
        let polled = Polled { started, ended, families, failure, calls, requests, certificate_expiry };
        Ok(Translated { translator, output: finish(polled), bytes })
    }
}

impl PollRecord {
    /// The outcome of a poll of `source` whose answers could not be translated.
    fn failed(self, error: &CallError, prepared: &PreparedTarget, limit: SampleLimit) -> Polled {
        let (source, translators) = (&prepared.source, &prepared.translators);
        let Self { started, ended, requests, mut calls, certificate_expiry } = self;
        let answers: Vec<Answer> = requests.iter().map(|_| Answer(Err(error.clone()))).collect();
        let allowance = Allowance { bytes: MAX_INLINE_EXPOSITION, compares: false, stop: Stop::default() };
        let mut families = Families::within(allowance, source.filter.clone());
        let cx = Context { now: render::unix_seconds(SystemTime::now()), sample_limit: limit.effective };
        translators().translate(&answers, &cx, &mut families);
        let families = if families.excess().is_none() { families.finish() } else { Families::default().finish() };
        if let Some(primary) = calls.first_mut() {
            primary.error = Some(error.message.as_str().into());
        }
        let failure = Some(Failure { reason: error.reason, message: error.message.as_str().into() });
        Polled { started, ended, families, failure, calls, requests, certificate_expiry }
    }
}

/// How many series a target may have, and which setting says so.
#[derive(Clone, Copy, Debug)]
pub(super) struct SampleLimit {
    effective: usize,
    /// The setting to raise.
    setting: &'static str,
}

/// The setting that limits a target by default. Kinds name it, since they know no other.
const SAMPLE_LIMIT: &str = "spec.sampleLimit";

impl SampleLimit {
    pub(super) fn of(target: &Target) -> Self {
        let wanted = usize::try_from(target.declaration.spec.sample_limit).unwrap_or(usize::MAX);
        let is_capped = target.sample_limit < wanted;
        Self { effective: target.sample_limit, setting: if is_capped { "--max-sample-limit" } else { SAMPLE_LIMIT } }
    }

    /// Names the setting in the error of a kind, which knows no flags.
    fn explain(self, error: CallError) -> CallError {
        if error.reason == Reason::Limit && self.setting != SAMPLE_LIMIT {
            return CallError { message: error.message.replace(SAMPLE_LIMIT, self.setting), ..error };
        }
        error
    }

    /// Removes everything if there are still too many series after the kind has left out what it can.
    pub(super) fn enforce(self, families: Finished, failure: &mut Option<Failure>) -> Finished {
        if families.len() <= self.effective {
            return families;
        }
        let message = format!("{} series, but {} is {}", families.len(), self.setting, self.effective);
        *failure = Some(Failure { reason: Reason::Limit, message: Arc::from(message) });
        let mut none = Families::default();
        none.drop_series(families.len() + usize::try_from(families.dropped()).unwrap_or(usize::MAX));
        (0..families.skipped()).for_each(|_| none.skip());
        none.finish()
    }
}
