//! From the answers of one poll to its snapshot: translated, masked, within the limits of the target, rendered. It makes no calls.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::SystemTime;

use tokio::time::Instant;

use super::Shared;
use super::aside::{Late, aside, turn};
use super::prepared::Prepared;
use super::render::{self, Polled};
use super::snapshot::{CallRecord, Failure, Snapshot};
use super::turns::{Turn, Turns};
use crate::fetch::{Expiry, Fetched, Held, Redactor};
use crate::kind::{Answer, Call, CallError, Context, Kind, Reason};
use crate::metric::{Allowance, Excess, Families, Filter, Finished, Format, Stop};
use crate::target::Target;

/// Answers up to here are translated where they were read, if what they become is small as well; all else by threads that may take their
/// time, in [turns](super::turns).
const SMALL_ANSWERS: usize = 32 << 10;

/// What they may become there, in bytes of the exposition: some milliseconds of work.
const SMALL_EXPOSITION: usize = 512 << 10;

/// What a series may take of the exposition, on the average.
const BYTES_PER_SERIES: usize = 1 << 10;

/// What every exposition may take, however few series its target may have, and what none may exceed, however many.
const EXPOSITION: std::ops::RangeInclusive<usize> = (256 << 10)..=(32 << 20);

/// How often a server may come with names that are new, before it is taken for one that does so always.
const NEW_NAMES: u8 = 3;

/// What came of the answers. Small ones are translated here and now; the others, and those that turn out to become much, elsewhere.
pub(super) async fn translate(
    target: &Target,
    prepared: &mut Prepared,
    shared: &Arc<Shared>,
    requests: Arc<[Call]>,
    fetched: Fetched,
    started: Instant,
    format: Format,
) -> Snapshot {
    let deadline = started + target.timeout;
    let bytes: usize = fetched.exchanges.iter().map(|exchange| exchange.bytes).sum();
    let mut job = Job::new(target, prepared, shared, requests, fetched, started, format);
    let is_small = bytes <= SMALL_ANSWERS;
    if is_small && !prepared.is_large && !prepared.redactor.is_slow() {
        let allowance = Allowance { bytes: SMALL_EXPOSITION, compares: false, stop: Stop::default() };
        match job.translate(prepared.take_translator(), allowance) {
            Ok(done) => {
                // Long before it is too much: see below.
                prepared.is_large = done.bytes > SMALL_EXPOSITION / 4;
                prepared.translator = done.translator;
                return done.snapshot;
            }
            // The translator is not used again: what it remembers has been told of this poll already.
            Err((excess, _)) => {
                prepared.comparisons = prepared.comparisons.saturating_add(u8::from(excess == Excess::Comparison));
                prepared.is_large = excess != Excess::Comparison || prepared.comparisons > NEW_NAMES;
            }
        }
    }
    let turns = if is_small { &shared.small } else { &shared.large };
    let turn = match job.turn(target, turns, deadline).await {
        Ok(turn) => turn,
        Err(error) => return job.poll.failed(&error, target),
    };
    let unfinished = job.poll.clone();
    let translator = prepared.take_translator();
    let bytes = target.sample_limit.saturating_mul(BYTES_PER_SERIES).clamp(*EXPOSITION.start(), *EXPOSITION.end());
    let work = move |stop| job.translate(translator, Allowance { bytes, compares: true, stop });
    let error = match aside(turn, deadline, work).await {
        Ok(Ok(done)) => {
            prepared.translator = done.translator;
            return done.snapshot;
        }
        Ok(Err((excess, translator))) => {
            prepared.translator = Some(translator);
            too_much(excess, bytes)
        }
        Err(late) => late.of_translation(),
    };
    unfinished.failed(&error, target)
}

/// What is told of answers that became too much.
fn too_much(excess: Excess, bytes: usize) -> CallError {
    match excess {
        Excess::Time => Late::Working.of_translation(),
        Excess::Bytes => CallError::new(
            Reason::Limit,
            format!("the exposition is larger than {bytes} bytes: names and labels are too long, or too many"),
        ),
        Excess::Comparison => CallError::new(Reason::Internal, "a name was not compared: please report this"),
    }
}

/// The part of a poll that only computes.
struct Job {
    answers: Vec<Answer>,
    /// The answers' share of `--max-inflight-bytes`, for as long as they are there.
    held: Option<Held>,
    poll: Unfinished,
    filter: Option<Arc<Filter>>,
    limit: SampleLimit,
    redactor: Arc<Redactor>,
    /// Whether the beginnings of bodies are kept for the debug page.
    bodies: bool,
}

/// What is known of a poll before its answers are translated.
#[derive(Clone)]
struct Unfinished {
    started: Instant,
    ended: Instant,
    requests: Arc<[Call]>,
    calls: Vec<CallRecord>,
    certificate_expiry: Option<Expiry>,
    format: Format,
}

/// What came of a translation.
struct Done {
    /// None if it panicked: then it is not used again.
    translator: Option<Box<dyn Kind>>,
    snapshot: Snapshot,
    /// Of the exposition, about.
    bytes: usize,
}

impl Job {
    fn new(
        target: &Target,
        prepared: &Prepared,
        shared: &Shared,
        requests: Arc<[Call]>,
        fetched: Fetched,
        started: Instant,
        format: Format,
    ) -> Self {
        let Fetched { exchanges, certificate_expiry, held } = fetched;
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
        let poll = Unfinished { started, ended: Instant::now(), requests, calls, certificate_expiry, format };
        Self {
            answers,
            held,
            poll,
            filter: target.source.filter.clone(),
            limit: SampleLimit::of(target),
            redactor: Arc::clone(&prepared.redactor),
            bodies: shared.shows_bodies(),
        }
    }

    /// Waits until the answers may be translated. Meanwhile they can be driven out of memory: one namespace with many that wait must not
    /// keep it from others.
    async fn turn(&self, target: &Target, turns: &Turns, deadline: Instant) -> Result<Turn, CallError> {
        let turn = turn(target, turns, deadline);
        let Some(held) = &self.held else { return turn.await.map_err(Late::of_translation) };
        let turn = tokio::select! {
            error = held.driven_out() => return Err(error),
            turn = turn => turn.map_err(Late::of_translation)?,
        };
        held.begin().map(|()| turn)
    }

    /// Translates, renders and compresses. Where that is more than allowed, nothing comes of it; the answers are still there.
    fn translate(
        &mut self,
        mut translator: Box<dyn Kind>,
        allowance: Allowance,
    ) -> Result<Done, (Excess, Box<dyn Kind>)> {
        let mut families = Families::within(allowance, self.filter.clone());
        let cx = Context { now: render::unix_seconds(SystemTime::now()), sample_limit: self.limit.effective };
        let translated = catch_unwind(AssertUnwindSafe(|| {
            let verdicts = translator.translate(&self.answers, &cx, &mut families);
            let (excess, bytes) = (families.excess(), families.bytes());
            excess.map_or_else(|| Ok((families.finish(), bytes, verdicts)), Err)
        }));
        let (translator, mut families, bytes, verdicts) = match translated {
            Ok(Ok((families, bytes, verdicts))) => (Some(translator), families, bytes, verdicts),
            Ok(Err(excess)) => return Err((excess, translator)),
            Err(_) => {
                let error = CallError::new(Reason::Internal, "the answer could not be translated: please report this");
                (None, Families::default().finish(), 0, vec![Err(error)])
            }
        };
        // Last of all, over the whole sentence: whatever put it together, what we sent as a secret does not leave by it.
        families.withhold(|text| self.redactor.is_in(text));
        let answers = std::mem::take(&mut self.answers);
        let Unfinished { started, ended, requests, mut calls, certificate_expiry, format } = self.poll.clone();
        let mut failure = None;
        for (i, ((record, answer), verdict)) in calls.iter_mut().zip(&answers).zip(verdicts).enumerate() {
            if let Err(error) = verdict {
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
        self.held = None;
        let target = self.limit.hold(families, &mut failure);
        let polled = Polled { started, ended, target, failure, calls, requests, certificate_expiry, format };
        Ok(Done { translator, snapshot: render::polled(polled), bytes })
    }
}

impl Unfinished {
    /// The result of a poll of `target` whose answers became nothing: as if there had been none.
    fn failed(self, error: &CallError, target: &Target) -> Snapshot {
        let Self { started, ended, requests, mut calls, certificate_expiry, format } = self;
        let source = &target.source;
        let answers: Vec<Answer> = requests.iter().map(|_| Answer(Err(error.clone()))).collect();
        let allowance = Allowance { bytes: SMALL_EXPOSITION, compares: false, stop: Stop::default() };
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

/// How many series a target may have, and who says so.
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

    /// What to raise.
    const fn name(self) -> &'static str {
        if self.is_capped { "--max-sample-limit" } else { "spec.sampleLimit" }
    }

    /// The error of a kind, which knows no flags.
    fn explain(self, error: CallError) -> CallError {
        if error.reason == Reason::Limit && self.is_capped {
            return CallError { message: error.message.replace("spec.sampleLimit", self.name()), ..error };
        }
        error
    }

    /// A kind sheds what it can; what is still too much is not served at all.
    fn hold(self, families: Finished, failure: &mut Option<Failure>) -> Finished {
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
