//! Turns the answers of one poll into its snapshot: translates them, enforces the limits of the target, masks secrets, and renders. It makes
//! no calls.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::SystemTime;

use tokio::time::Instant;

use super::PollContext;
use super::blocking::{NamespaceShares, WorkError, WorkPermit, run_blocking};
use super::render::{self, Polled};
use super::snapshot::{CallRecord, Failure, Snapshot};
use super::worker::PreparedTarget;
use crate::fetch::{Expiry, Fetched, HeldMemory, Redactor};
use crate::kind::{Answer, Call, CallError, Context, Kind, Reason};
use crate::metric::{Allowance, Excess, Families, Filter, Finished, Format, Stop};
use crate::target::Target;

/// Answers up to this size are translated inline, on the thread that read them, if their exposition is small as well; all others on
/// [blocking threads](super::blocking).
const MAX_INLINE_ANSWERS: usize = 32 << 10;

/// The largest exposition that is made inline, in bytes: some milliseconds of work.
const MAX_INLINE_EXPOSITION: usize = 512 << 10;

/// The average bytes of the exposition that a series may take.
const BYTES_PER_SERIES: usize = 1 << 10;

/// The limits of the size of an exposition, however few or many series its target may have.
const EXPOSITION_BYTES: std::ops::RangeInclusive<usize> = (256 << 10)..=(32 << 20);

/// How many answers of a server may have new names before all of its answers are translated on blocking threads.
const MAX_INLINE_COMPARISONS: u8 = 3;

/// Makes the snapshot of a poll. Small answers are translated inline; others, and those whose exposition turns out to be large, on blocking
/// threads.
pub(super) async fn translate(
    target: &Target,
    prepared: &mut PreparedTarget,
    context: &Arc<PollContext>,
    requests: Arc<[Call]>,
    fetched: Fetched,
    started: Instant,
    format: Format,
) -> Snapshot {
    let deadline = started + target.timeout;
    let bytes: usize = fetched.exchanges.iter().map(|exchange| exchange.bytes).sum();
    let mut translation = Translation::new(target, prepared, context, requests, fetched, started, format);
    let is_small = bytes <= MAX_INLINE_ANSWERS;
    if is_small && !prepared.is_large && !prepared.redactor.is_slow() {
        let allowance = Allowance { bytes: MAX_INLINE_EXPOSITION, compares: false, stop: Stop::default() };
        match translation.translate(prepared.take_translator(), allowance) {
            Ok(done) => {
                // Well before it is too large, since a translation that exceeds its allowance loses the translator: see below.
                prepared.is_large = done.bytes > MAX_INLINE_EXPOSITION / 4;
                prepared.translator = done.translator;
                return done.snapshot;
            }
            // The translator is not used again, since it has counted this poll already.
            Err((excess, _)) => {
                prepared.comparisons = prepared.comparisons.saturating_add(u8::from(excess == Excess::Comparison));
                prepared.is_large = excess != Excess::Comparison || prepared.comparisons > MAX_INLINE_COMPARISONS;
            }
        }
    }
    let shares = if is_small { &context.small_answers } else { &context.large_answers };
    let permit = match translation.acquire_permit(target, shares, deadline).await {
        Ok(permit) => permit,
        Err(error) => return translation.poll.failed(&error, target),
    };
    let record = translation.poll.clone();
    let translator = prepared.take_translator();
    let bytes =
        target.sample_limit.saturating_mul(BYTES_PER_SERIES).clamp(*EXPOSITION_BYTES.start(), *EXPOSITION_BYTES.end());
    let work = move |stop| translation.translate(translator, Allowance { bytes, compares: true, stop });
    let error = match run_blocking(permit, deadline, work).await {
        Ok(Ok(done)) => {
            prepared.translator = done.translator;
            return done.snapshot;
        }
        Ok(Err((excess, translator))) => {
            prepared.translator = Some(translator);
            excess_error(excess, bytes)
        }
        Err(error) => error.of_translation(),
    };
    record.failed(&error, target)
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
    calls: Vec<CallRecord>,
    certificate_expiry: Option<Expiry>,
    format: Format,
}

/// The result of a translation.
struct Translated {
    /// `None` if it panicked: then it is not used again.
    translator: Option<Box<dyn Kind>>,
    snapshot: Snapshot,
    /// The approximate size of the exposition.
    bytes: usize,
}

impl Translation {
    fn new(
        target: &Target,
        prepared: &PreparedTarget,
        context: &PollContext,
        requests: Arc<[Call]>,
        fetched: Fetched,
        started: Instant,
        format: Format,
    ) -> Self {
        let Fetched { exchanges, certificate_expiry, memory } = fetched;
        let (answers, calls): (Vec<Answer>, Vec<CallRecord>) = exchanges
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
        let poll = PollRecord { started, ended: Instant::now(), requests, calls, certificate_expiry, format };
        Self {
            answers,
            memory,
            poll,
            filter: target.source.filter.clone(),
            limit: SampleLimit::of(target),
            redactor: Arc::clone(&prepared.redactor),
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

    /// Translates, renders and compresses. If the allowance is exceeded there is no result, and the answers are kept.
    fn translate(
        &mut self,
        mut translator: Box<dyn Kind>,
        allowance: Allowance,
    ) -> Result<Translated, (Excess, Box<dyn Kind>)> {
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
        let PollRecord { started, ended, requests, mut calls, certificate_expiry, format } = self.poll.clone();
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
        let target = self.limit.enforce(families, &mut failure);
        let polled = Polled { started, ended, target, failure, calls, requests, certificate_expiry, format };
        Ok(Translated { translator, snapshot: render::polled(polled), bytes })
    }
}

impl PollRecord {
    /// The snapshot of a poll of `target` whose answers could not be translated.
    fn failed(self, error: &CallError, target: &Target) -> Snapshot {
        let Self { started, ended, requests, mut calls, certificate_expiry, format } = self;
        let source = &target.source;
        let answers: Vec<Answer> = requests.iter().map(|_| Answer(Err(error.clone()))).collect();
        let allowance = Allowance { bytes: MAX_INLINE_EXPOSITION, compares: false, stop: Stop::default() };
        let mut families = Families::within(allowance, source.filter.clone());
        let cx = Context { now: render::unix_seconds(SystemTime::now()), sample_limit: target.sample_limit };
        source.options.build(source.kind, &source.url).translate(&answers, &cx, &mut families);
        let target = if families.excess().is_none() { families.finish() } else { Families::default().finish() };
        if let Some(primary) = calls.first_mut() {
            primary.error = Some(error.message.as_str().into());
        }
        let failure = Some(Failure { reason: error.reason, message: error.message.as_str().into() });
        render::polled(Polled { started, ended, target, failure, calls, requests, certificate_expiry, format })
    }
}

/// How many series a target may have, and which setting says so.
#[derive(Clone, Copy, Debug)]
struct SampleLimit {
    effective: usize,
    /// Whether it is less than `spec.sampleLimit`.
    is_capped: bool,
}

impl SampleLimit {
    fn of(target: &Target) -> Self {
        let wanted = usize::try_from(target.declaration.spec.sample_limit).unwrap_or(usize::MAX);
        Self { effective: target.sample_limit, is_capped: target.sample_limit < wanted }
    }

    /// The setting to raise.
    const fn name(self) -> &'static str {
        if self.is_capped { "--max-sample-limit" } else { "spec.sampleLimit" }
    }

    /// Names the setting in the error of a kind, which knows no flags.
    fn explain(self, error: CallError) -> CallError {
        if error.reason == Reason::Limit && self.is_capped {
            return CallError { message: error.message.replace("spec.sampleLimit", self.name()), ..error };
        }
        error
    }

    /// Removes everything if there are still too many series after the kind has left out what it can.
    fn enforce(self, families: Finished, failure: &mut Option<Failure>) -> Finished {
        if families.len() <= self.effective {
            return families;
        }
        let message = format!("{} series, but {} is {}", families.len(), self.name(), self.effective);
        *failure = Some(Failure { reason: Reason::Limit, message: Arc::from(message) });
        let mut none = Families::default();
        none.drop_series(families.len() + usize::try_from(families.dropped()).unwrap_or(usize::MAX));
        (0..families.skipped()).for_each(|_| none.skip());
        none.finish()
    }
}
