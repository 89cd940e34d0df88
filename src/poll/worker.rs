//! The loop of one target: wait until it is time or somebody asks, poll, publish.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::time::Instant;

use super::poller::{Poller, State};
use super::render::{self, Polled};
use super::snapshot::{CallRecord, Snapshot};
use super::{Background, Shared, Start};
use crate::fetch::{Client, Fetched, Redactor, fetch};
use crate::kind::{Answer, Call, CallError, Context, Kind, Reason};
use crate::metric::{Families, Finished};
use crate::target::{Source, Target};

/// Answers up to here are translated where they were read; larger ones by threads that may take their time.
const LARGE: usize = 256 * 1024;

/// What is made once for a source and kept until it changes.
struct Prepared {
    source: Source,
    client: Client,
    calls: Arc<[Call]>,
    redactor: Arc<Redactor>,
    /// Away only while a large answer is being translated.
    translator: Option<Box<dyn Kind>>,
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
        let kept = before.filter(same_calls).and_then(|before| before.translator);
        let translator = kept.unwrap_or_else(|| source.options.build(source.kind, &source.url));
        Ok(Self {
            source: source.clone(),
            client,
            calls: translator.calls(source.filter.as_deref()).into(),
            redactor: Arc::new(Redactor::new(&source.headers)),
            translator: Some(translator),
        })
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
    let (source, limits) = (&prepared.source, &shared.limits);
    let fetched = fetch(&prepared.client, &prepared.calls, &source.headers, limits, deadline).await;
    let snapshot = translate(target, prepared, shared, fetched, started).await;
    let outcome = snapshot.failure.as_ref().map_or("success", |failure| failure.reason.as_str());
    shared.metrics.end(target.source.kind.as_str(), outcome, snapshot.duration());
    snapshot
}

async fn translate(
    target: &Target,
    prepared: &mut Prepared,
    shared: &Arc<Shared>,
    fetched: Fetched,
    started: Instant,
) -> Snapshot {
    let ended = Instant::now();
    let translator = match prepared.translator.take() {
        Some(translator) => translator,
        None => prepared.source.options.build(prepared.source.kind, &prepared.source.url),
    };
    let bytes: usize = fetched.exchanges.iter().map(|exchange| exchange.bytes).sum();
    let job = Job {
        translator,
        fetched,
        filter: target.source.filter.clone(),
        limit: target.sample_limit,
        redactor: Arc::clone(&prepared.redactor),
        bodies: shared.shows_bodies(),
        started,
        ended,
    };
    let (translator, snapshot) = if bytes <= LARGE {
        job.run()
    } else {
        let slot = Arc::clone(&shared.decoding).acquire_owned().await;
        let done = tokio::task::spawn_blocking(move || {
            let _slot = slot;
            job.run()
        });
        done.await.unwrap_or_else(|_| (None, render::unpolled(Reason::Internal, "the translation was aborted")))
    };
    prepared.translator = translator;
    snapshot
}

/// The part of a poll that only computes.
struct Job {
    translator: Box<dyn Kind>,
    fetched: Fetched,
    filter: Option<Arc<crate::metric::Filter>>,
    limit: usize,
    redactor: Arc<Redactor>,
    /// Whether the beginnings of bodies are kept for the debug page.
    bodies: bool,
    started: Instant,
    ended: Instant,
}

impl Job {
    /// Translates, renders and compresses. A translator that panicked is not used again.
    fn run(self) -> (Option<Box<dyn Kind>>, Snapshot) {
        let Self { mut translator, fetched, filter, limit, redactor, bodies, started, ended } = self;
        let Fetched { exchanges, certificate_expiry, held } = fetched;
        let mut families = Families::filtered(filter);
        let cx = Context { now: render::unix_seconds(SystemTime::now()), sample_limit: limit };
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
        let translated = catch_unwind(AssertUnwindSafe(|| {
            let verdicts = translator.translate(&answers, &cx, &mut families);
            (families.finish(), verdicts)
        }));
        let (translator, mut families, verdicts) = if let Ok((families, verdicts)) = translated {
            (Some(translator), families, verdicts)
        } else {
            let error = CallError::new(Reason::Internal, "the answer could not be translated: please report this");
            (None, Families::default().finish(), vec![Err(error)])
        };
        // Last of all, over the whole sentence: whatever put it together, what we sent as a secret does not leave by it.
        families.withhold(|text| redactor.is_in(text));
        let mut failure = None;
        for (i, ((record, answer), verdict)) in calls.iter_mut().zip(&answers).zip(&verdicts).enumerate() {
            if let Err(error) = verdict {
                let error = CallError::new(error.reason, redactor.sentence(&error.message));
                record.error = Some(error.message.as_str().into());
                if bodies && let Ok(response) = &answer.0 {
                    record.beginning = Some(redactor.beginning(&response.body).into());
                }
                if i == 0 {
                    failure = Some(render::failure(&error, record.call));
                }
            }
        }
        drop(answers);
        drop(held);
        let target = within_limit(families, limit, &mut failure);
        (translator, render::polled(Polled { started, ended, target, failure, calls, certificate_expiry }))
    }
}

/// A kind sheds what it can; what is still too much is not served at all.
fn within_limit(families: Finished, limit: usize, failure: &mut Option<super::Failure>) -> Finished {
    if families.len() <= limit {
        return families;
    }
    let error = CallError::new(Reason::Limit, format!("{} series, but spec.sampleLimit is {limit}", families.len()));
    *failure = Some(super::Failure { reason: error.reason, message: Arc::from(error.message) });
    let mut none = Families::default();
    none.drop_series(families.len() + usize::try_from(families.dropped()).unwrap_or(usize::MAX));
    (0..families.skipped()).for_each(|_| none.skip());
    none.finish()
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
