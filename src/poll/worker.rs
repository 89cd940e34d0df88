//! The loop of one target: wait until it is time or somebody asks, poll, publish.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::time::Instant;

use super::poller::{Poller, State};
use super::render::{self, Polled};
use super::snapshot::{CallRecord, Failure, Snapshot};
use super::turns::Turns;
use super::{Background, Shared, Start};
use crate::fetch::{Client, Fetched, Held, Redactor, fetch};
use crate::kind::{Answer, Call, CallError, Context, Kind, Reason};
use crate::metric::{Allowance, Excess, Families, Filter, Finished, Stop};
use crate::target::{Source, Target};

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

/// How long a translation may take, however late the poll's deadline is: others wait for its turn.
const LONGEST_TRANSLATION: Duration = Duration::from_secs(10);

/// What a translation may take beyond the poll's deadline: an answer that came late is still worth something.
const OVERTIME: Duration = Duration::from_millis(250);

/// How long a translation that was told to stop is waited for. It may be in the middle of a document that is read as a whole.
const STOPPING: Duration = Duration::from_millis(250);

/// What is made once for a source and kept until it changes.
struct Prepared {
    source: Source,
    client: Client,
    redactor: Arc<Redactor>,
    /// None until the target's patterns have been compared with the families of its type.
    calls: Option<Arc<[Call]>>,
    /// Away only while an answer is being translated elsewhere.
    translator: Option<Box<dyn Kind>>,
    /// What its answers become turned out to be too much for the thread that read them.
    is_large: bool,
    /// How often its answers had names that patterns had to be compared with.
    comparisons: u8,
}

impl Prepared {
    /// Only what changed is made anew: a rotated Secret is no reason for a translator's counters to begin at 0 again.
    fn new(target: &Target, before: Option<Self>, shared: &Shared) -> Result<Self, String> {
        let (source, namespace) = (&target.source, &target.id.namespace);
        let client =
            shared.clients.client(&source.url, &source.connection, namespace).map_err(|error| chain(&error))?;
        let same_calls = |before: &Self| {
            let before = &before.source;
            before.kind == source.kind && before.url == source.url && before.options == source.options
        };
        let before = before.filter(same_calls);
        let is_large = before.as_ref().is_some_and(|before| before.is_large);
        let kept = before.and_then(|before| before.translator);
        let translator = kept.unwrap_or_else(|| source.options.build(source.kind, &source.url));
        let calls = source.filter.is_none().then(|| translator.calls(None).into());
        Ok(Self {
            source: source.clone(),
            client,
            redactor: Arc::new(Redactor::new(&source.headers)),
            calls,
            translator: Some(translator),
            is_large,
            comparisons: 0,
        })
    }

    /// The translator, a new one if the last poll did not bring it back: its counters begin at 0, as after a restart.
    fn take_translator(&mut self) -> Box<dyn Kind> {
        let source = &self.source;
        self.translator.take().unwrap_or_else(|| source.options.build(source.kind, &source.url))
    }
}

/// Polls one target until it is removed: first after `delay`, and after `place` when it takes over from another replica.
pub(super) async fn run(
    poller: Arc<Poller>,
    shared: Arc<Shared>,
    mut background: watch::Receiver<Background>,
    delay: Duration,
    place: Duration,
) {
    let mut prepared: Option<Prepared> = None;
    let mut next = Instant::now() + delay;
    let mut last: Option<(Instant, Instant)> = None; // the last poll's start and end
    loop {
        let target = poller.target();
        let ready = match obstacle(&target) {
            Some((reason, message)) => Err((reason, message)),
            None => prepare(&mut prepared, &target, &shared).map_err(|message| (Reason::Config, message)),
        };
        let prepared = match ready {
            Ok(prepared) => prepared,
            Err((reason, message)) => {
                announce(&poller, &target, &shared, render::unpolled(reason, &message));
                tokio::select! {
                    () = poller.stop.cancelled() => return,
                    () = poller.changed.notified() => {}
                }
                next = Instant::now();
                continue;
            }
        };
        if let Some((started, _)) = last {
            next = match poller.newest() {
                Some(_) => next.min(started + target.interval), // the interval may have become shorter
                None => Instant::now(), // what we had is worth nothing for what the target is now
            };
        }
        let polls = *background.borrow_and_update() != Background::Off;
        let ended = last.map(|(_, ended)| ended);
        let wanted = poller.is_asked_since(ended);
        if !wanted {
            tokio::select! {
                () = poller.stop.cancelled() => return,
                () = poller.changed.notified() => continue,
                _ = background.changed() => {
                    if *background.borrow() == Background::On(Start::Place) {
                        next = next.max(Instant::now() + place);             // the others take over as well: not all at once
                    }
                    continue;
                }
                () = tokio::time::sleep_until(next), if polls => {
                    shared.metrics.delay.observe(next.elapsed().as_secs_f64());
                }
                () = poller.demand.notified() => {
                    if !poller.is_asked_since(ended) {
                        continue;                                            // the poll that just ended has answered it
                    }
                }
            }
        }
        let started = Instant::now();
        let poll = Box::pin(poll(&target, prepared, &shared, started)); // boxed: an idle poller must stay small
        let snapshot = tokio::select! {
            () = poller.stop.cancelled() => return,
            () = became_another(&poller, &target) => continue,
            snapshot = poll => snapshot,
        };
        if snapshot.failure.as_ref().is_some_and(|failure| failure.reason == Reason::Auth) {
            let _ = shared.refused.try_send(poller.id().clone());
        }
        last = Some((started, snapshot.ended));
        next = started + target.interval;
        announce(&poller, &target, &shared, snapshot);
    }
}

/// Why a target cannot be polled at all.
fn obstacle(target: &Target) -> Option<(Reason, String)> {
    if target.suspend {
        return Some((Reason::Suspended, "spec.suspend is true".to_owned()));
    }
    target.problem.clone().map(|problem| (Reason::Config, problem.message))
}

fn prepare<'p>(
    prepared: &'p mut Option<Prepared>,
    target: &Target,
    shared: &Shared,
) -> Result<&'p mut Prepared, String> {
    if prepared.as_ref().is_none_or(|prepared| prepared.source != target.source) {
        let before = prepared.take();
        *prepared = Some(Prepared::new(target, before, shared)?);
    }
    prepared.as_mut().ok_or_else(String::new)
}

/// Ends when the target is no longer one that gives the same data as `target`.
async fn became_another(poller: &Poller, target: &Target) {
    loop {
        poller.changed.notified().await;
        if !poller.target().gives_same_data(target) {
            return;
        }
    }
}

async fn poll(target: &Target, prepared: &mut Prepared, shared: &Arc<Shared>, started: Instant) -> Snapshot {
    let _in_flight = shared.metrics.start();
    let deadline = started + target.timeout;
    let snapshot = match calls(target, prepared, shared, deadline).await {
        Ok(calls) => {
            let headers = &prepared.source.headers;
            let fetched = fetch(&prepared.client, &calls, headers, &shared.limits, deadline).await;
            translate(target, prepared, shared, calls, fetched, started).await
        }
        Err(late) => {
            let message = match late {
                Late::Waiting => {
                    "the patterns of spec.metrics had to wait for those of other targets until the timeout"
                }
                Late::Working => "the patterns of spec.metrics take too long to compare, write simpler ones",
                Late::Aborted => "the comparison of spec.metrics was aborted: please report this",
            };
            render::unpolled(late.reason(), message)
        }
    };
    let outcome = snapshot.failure.as_ref().map_or("success", |failure| failure.reason.as_str());
    shared.metrics.end(target.source.kind.as_str(), outcome, snapshot.duration());
    snapshot
}

/// The calls of a target. Once after each change its patterns are compared with all names that its type has, where nobody waits for it.
async fn calls(
    target: &Target,
    prepared: &mut Prepared,
    shared: &Arc<Shared>,
    deadline: Instant,
) -> Result<Arc<[Call]>, Late> {
    if let Some(calls) = &prepared.calls {
        return Ok(Arc::clone(calls));
    }
    let (translator, source) = (prepared.take_translator(), prepared.source.clone());
    let work = move |stop: Stop| {
        let filter = source.filter.as_deref()?;
        let _compiled = filter.compiled(); // once for all names
        for desc in source.kind.families() {
            filter.wants(desc.name);
            if stop.is_set() {
                return None;
            }
        }
        let calls: Arc<[Call]> = translator.calls(Some(filter)).into();
        Some((translator, calls))
    };
    let (translator, calls) = aside(target, &shared.small, deadline, work).await?.ok_or(Late::Working)?;
    prepared.translator = Some(translator);
    prepared.calls = Some(Arc::clone(&calls));
    Ok(calls)
}

/// Why work that is done elsewhere brought nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Late {
    /// Its turn did not come in time.
    Waiting,
    /// It did not end in time.
    Working,
    /// It panicked, or the program ends.
    Aborted,
}

impl Late {
    const fn reason(self) -> Reason {
        match self {
            Self::Waiting | Self::Working => Reason::Timeout,
            Self::Aborted => Reason::Internal,
        }
    }

    fn of_translation(self) -> CallError {
        let message = match self {
            Self::Waiting => "the answer came in time, but others were translated until the timeout",
            Self::Working => "the answer came in time, but could not be translated before the timeout",
            Self::Aborted => "the translation was aborted: please report this",
        };
        CallError::new(self.reason(), message)
    }
}

/// Tells work to stop that nobody waits for any more, be it that the target has been removed.
struct StopsWhenDropped(Stop);

impl Drop for StopsWhenDropped {
    fn drop(&mut self) {
        self.0.set();
    }
}

/// Does `work` on a thread that may take its time, when it is the target's turn. Ends soon after `deadline`, whatever the work does; it
/// keeps its turn until it has ended.
async fn aside<T: Send + 'static>(
    target: &Target,
    turns: &Turns,
    deadline: Instant,
    work: impl FnOnce(Stop) -> T + Send + 'static,
) -> Result<T, Late> {
    let deadline = deadline.max(Instant::now() + OVERTIME);
    let turn = tokio::time::timeout_at(deadline, turns.take(&target.id.namespace)).await;
    let turn = turn.map_err(|_| Late::Waiting)?;
    let stop = StopsWhenDropped(Stop::default());
    let told = stop.0.clone();
    let mut done = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        work(told)
    });
    let end = deadline.min(Instant::now() + LONGEST_TRANSLATION);
    let result = if let Ok(result) = tokio::time::timeout_at(end, &mut done).await {
        result
    } else {
        stop.0.set();
        tokio::time::timeout(STOPPING, done).await.map_err(|_| Late::Working)?
    };
    result.map_err(|_| Late::Aborted)
}

/// What came of the answers. Small ones are translated here and now; the others, and those that turn out to become much, elsewhere.
async fn translate(
    target: &Target,
    prepared: &mut Prepared,
    shared: &Arc<Shared>,
    requests: Arc<[Call]>,
    fetched: Fetched,
    started: Instant,
) -> Snapshot {
    let deadline = started + target.timeout;
    let bytes: usize = fetched.exchanges.iter().map(|exchange| exchange.bytes).sum();
    let mut job = Job::new(target, prepared, shared, requests, fetched, started);
    let is_small = bytes <= SMALL_ANSWERS;
    if is_small && !prepared.is_large {
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
    let unfinished = job.poll.clone();
    let translator = prepared.take_translator();
    let bytes = target.sample_limit.saturating_mul(BYTES_PER_SERIES).clamp(*EXPOSITION.start(), *EXPOSITION.end());
    let work = move |stop| {
        let done = job.translate(translator, Allowance { bytes, compares: true, stop });
        done.unwrap_or_else(|(excess, translator)| job.given_up(excess, bytes, translator))
    };
    let turns = if is_small { &shared.small } else { &shared.large };
    match aside(target, turns, deadline, work).await {
        Ok(done) => {
            prepared.translator = done.translator;
            done.snapshot
        }
        Err(late) => unfinished.failed(&late.of_translation()),
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
    certificate_expiry: Option<i64>,
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
        let poll = Unfinished { started, ended: Instant::now(), requests, calls, certificate_expiry };
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
        let Unfinished { started, ended, requests, mut calls, certificate_expiry } = self.poll.clone();
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
        let polled = Polled { started, ended, target, failure, calls, requests, certificate_expiry };
        Ok(Done { translator, snapshot: render::polled(polled), bytes })
    }

    /// What is told of answers that were too much.
    fn given_up(&self, excess: Excess, bytes: usize, translator: Box<dyn Kind>) -> Done {
        let error = match excess {
            Excess::Time => Late::Working.of_translation(),
            Excess::Bytes => CallError::new(
                Reason::Limit,
                format!("the exposition is larger than {bytes} bytes: names and labels are too long, or too many"),
            ),
            Excess::Comparison => CallError::new(Reason::Internal, "a name was not compared: please report this"),
        };
        Done { translator: Some(translator), snapshot: self.poll.clone().failed(&error), bytes: 0 }
    }
}

impl Unfinished {
    /// The result of a poll whose answers became nothing.
    fn failed(self, error: &CallError) -> Snapshot {
        let Self { started, ended, requests, mut calls, certificate_expiry } = self;
        if let Some(primary) = calls.first_mut() {
            primary.error = Some(error.message.as_str().into());
        }
        let failure = Some(Failure { reason: error.reason, message: error.message.as_str().into() });
        let target = Families::default().finish();
        render::polled(Polled { started, ended, target, failure, calls, requests, certificate_expiry })
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

/// Publishes, and tells of a change of state once, not of every failed poll nor of every change of the spec.
fn announce(poller: &Poller, target: &Target, shared: &Shared, snapshot: Snapshot) {
    let Some((before, after)) = poller.publish(target, snapshot) else { return };
    if let Some(moved) = shared.moved.get() {
        moved.mark([poller.id().clone()]);
    }
    if before.says_the_same(&after) {
        return;
    }
    let unread = target.problem.as_ref().is_some_and(|problem| problem.reason.ends_with("Unread"));
    let (target, kind) = (poller.id(), target.source.kind);
    match (after.state, &after.failure) {
        (State::Up, _) if before.state == State::Pending => tracing::debug!(%target, %kind, "target is up"),
        (State::Up, _) => tracing::info!(%target, %kind, "target is up again"),
        (State::Suspended, _) => tracing::info!(%target, %kind, "target is suspended"),
        // It ends by itself, and an API server that does not answer would bring one line for every target.
        (State::Invalid, Some(failure)) if unread => {
            tracing::debug!(%target, %kind, error = %failure.message, "target waits for its credentials");
        }
        (_, Some(failure)) => {
            tracing::warn!(%target, %kind, reason = failure.reason.as_str(), error = %failure.message, "target is down");
        }
        (_, None) => {}
    }
}

/// An error with its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
