//! The task of one target: wait until a poll is due or requested, poll, publish. What it needs for that is prepared once and kept until the
//! target changes.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tracing::Level;

use super::admission::Admission;
use super::blocking::{WorkError, run_blocking};
use super::first_polls::{PendingFirstPoll, log_down};
use super::poller::{Poller, TargetState};
use super::render;
use super::snapshot::Snapshot;
use super::translate::translate;
use super::{BackgroundMode, FirstPollTime, PollContext};
use crate::error_chain::one_line;
use crate::fetch::{Client, Redactor, fetch};
use crate::kind::{Call, Kind, Reason};
use crate::metric::Stop;
use crate::target::{Source, Target, TargetId};

/// Polls one target until it is removed: first after `delay`, and after `offset` when it takes over from another replica.
pub(super) async fn run(
    poller: Arc<Poller>,
    context: Arc<PollContext>,
    admission: Arc<Admission>,
    mut background: watch::Receiver<BackgroundMode>,
    mut first: Option<PendingFirstPoll>,
    delay: Duration,
    offset: Duration,
) {
    let mut prepared: Option<PreparedTarget> = None;
    let mut next = Instant::now() + delay;
    let mut interval = poller.target().interval;
    let mut last: Option<(Instant, Instant)> = None; // the last poll's start and end
    let mut due: Option<Instant> = None; // since when the next poll has been due
    loop {
        let target = poller.target();
        let ready = match why_not_polled(&target) {
            Some((reason, message)) => Err((reason, message)),
            None => prepare(&mut prepared, &target, &context).map_err(|message| (Reason::Config, message)),
        };
        let prepared = match ready {
            Ok(prepared) => prepared,
            Err((reason, message)) => {
                publish(&poller, &target, &context, &mut first, render::unpolled(reason, &message));
                tokio::select! {
                    () = poller.stop.cancelled() => return,
                    () = poller.changed.notified() => {}
                }
                (next, due) = (Instant::now(), None);
                continue;
            }
        };
        if let Some((started, _)) = last {
            if poller.newest().is_none() {
                next = Instant::now(); // the result was removed, since it says nothing about the changed target
            } else if target.interval < interval {
                next = next.min(started + target.interval);
            }
        }
        interval = target.interval;
        let polls = *background.borrow_and_update() != BackgroundMode::Off;
        let ended = last.map(|(_, ended)| ended);
        let requested = poller.is_requested_since(ended);
        if !polls && !requested {
            due = None;
        } else if due.is_none() && requested {
            // A poll that was due already keeps its place in the queue.
            let now = Instant::now();
            due = Some(if polls { next.min(now) } else { now });
        }
        let Some(time) = due else {
            tokio::select! {
                () = poller.stop.cancelled() => return,
                () = poller.changed.notified() => {}
                changed = background.changed() => match changed {
                    Ok(()) => next = next.max(earliest_poll(&background, offset)),
                    Err(_) => return,
                },
                () = tokio::time::sleep_until(next), if polls => due = Some(next),
                () = poller.demand.notified() => {} // unless the poll that just ended has answered it
            }
            continue;
        };
        let permit = {
            let _queued = poller.mark_queued();
            tokio::select! {
                () = poller.stop.cancelled() => return,
                () = poller.changed.notified() => continue,
                changed = background.changed() => match changed {
                    Ok(()) => {
                        next = next.max(earliest_poll(&background, offset));
                        continue;
                    }
                    Err(_) => return,
                },
                permit = Box::pin(admission.acquire(time)) => permit, // boxed for the same reason as the poll
            }
        };
        due = None;
        context.metrics.delay.observe(time.elapsed().as_secs_f64());
        let started = Instant::now();
        let poll = Box::pin(poll(&poller, &target, prepared, &context, started)); // boxed: an idle poller must stay small
        let snapshot = tokio::select! {
            () = poller.stop.cancelled() => return,
            () = data_changed(&poller, &target) => {
                next = Instant::now();
                continue;
            }
            snapshot = poll => snapshot,
        };
        drop(permit);
        if snapshot.failure.as_ref().is_some_and(|failure| failure.reason == Reason::Auth) {
            let _ = context.refused.try_send(poller.id().clone());
        }
        log(poller.id(), &target, &snapshot);
        last = Some((started, snapshot.ended));
        next = started + target.interval;
        publish(&poller, &target, &context, &mut first, snapshot);
    }
}

/// When a target is polled first after the mode has changed.
fn earliest_poll(background: &watch::Receiver<BackgroundMode>, offset: Duration) -> Instant {
    let now = Instant::now();
    // The other targets are taken over as well: not all at once.
    if *background.borrow() == BackgroundMode::On(FirstPollTime::Staggered) { now + offset } else { now }
}

/// Why a target is not polled at all.
fn why_not_polled(target: &Target) -> Option<(Reason, String)> {
    if target.suspend {
        return Some((Reason::Suspended, "spec.suspend is true".to_owned()));
    }
    target.problem.clone().map(|problem| (Reason::Config, problem.message))
}

/// Waits until the target has been changed to one that gives other data than `target`.
async fn data_changed(poller: &Poller, target: &Target) {
    loop {
        poller.changed.notified().await;
        if !poller.target().gives_same_data(target) {
            return;
        }
    }
}

async fn poll(
    poller: &Poller,
    target: &Target,
    prepared: &mut PreparedTarget,
    context: &Arc<PollContext>,
    started: Instant,
) -> Snapshot {
    let _in_flight = context.metrics.start();
    let deadline = started + target.timeout;
    let snapshot = match calls(target, prepared, context, deadline).await {
        Ok(calls) => {
            let headers = &prepared.source.headers;
            let fetched = fetch(&prepared.client, &calls, headers, &context.limits, deadline).await;
            translate(target, prepared, context, calls, fetched, started, poller.format()).await
        }
        Err(error) => {
            let message = match error {
                WorkError::NoPermit => {
                    "the patterns of spec.metrics had to wait for those of other targets until the timeout"
                }
                WorkError::TimedOut => "the patterns of spec.metrics take too long to compare, write simpler ones",
                WorkError::Aborted => "the comparison of spec.metrics was aborted: please report this",
            };
            render::unpolled(error.reason(), message)
        }
    };
    context.metrics.end(target.source.kind.as_str(), snapshot.outcome(), snapshot.duration());
    snapshot
}

/// The calls of a target. Once after each change its patterns are compared with all names of its type, on a blocking thread.
async fn calls(
    target: &Target,
    prepared: &mut PreparedTarget,
    context: &Arc<PollContext>,
    deadline: Instant,
) -> Result<Arc<[Call]>, WorkError> {
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
    let permit = context.small_answers.acquire(target, deadline).await?;
    let (translator, calls) = run_blocking(permit, deadline, work).await?.ok_or(WorkError::TimedOut)?;
    prepared.translator = Some(translator);
    prepared.calls = Some(Arc::clone(&calls));
    Ok(calls)
}

/// Logs a poll at debug level, and its calls at trace level. Secrets in what the server sent are masked already, as on the debug page.
fn log(id: &TargetId, target: &Target, snapshot: &Snapshot) {
    let kind = target.source.kind;
    for record in &snapshot.calls {
        if !tracing::enabled!(Level::TRACE) {
            break;
        }
        let request = snapshot.requests.iter().find(|request| request.name == record.call);
        let (duration, error) = (tracing::field::debug(record.duration), record.error.as_deref());
        let url = request.map(|request| tracing::field::display(&request.url));
        tracing::trace!(target = %id, call = record.call, url, status = record.status, bytes = record.bytes, duration, error, "called");
    }
    tracing::debug!(target = %id, %kind, outcome = snapshot.outcome(), duration = ?snapshot.duration(), samples = snapshot.samples, "polled");
}

/// Publishes a result, and logs a change of state: not every failed poll, nor every change of the spec. The first results after a start are
/// logged together.
fn publish(
    poller: &Poller,
    target: &Target,
    context: &PollContext,
    first: &mut Option<PendingFirstPoll>,
    snapshot: Snapshot,
) {
    let Some((before, after)) = poller.publish(target, snapshot) else { return };
    context.notify_state_listener(poller.id());
    if before.has_same_state(&after) {
        return;
    }
    let unread = target.problem.as_ref().is_some_and(|problem| problem.reason.ends_with("Unread"));
    let (target, kind) = (poller.id(), target.source.kind);
    match (after.state, &after.failure) {
        (TargetState::Up, _) if before.state == TargetState::Pending => {
            if let Some(first) = first.take() {
                first.up();
            }
            tracing::debug!(%target, %kind, "target is up");
        }
        (TargetState::Up, _) if context.first_polls.recover(target) => tracing::debug!(%target, %kind, "target is up"),
        (TargetState::Up, _) => tracing::info!(%target, %kind, "target is up again"),
        (TargetState::Suspended, _) if first.take().is_some() => tracing::debug!(%target, %kind, "target is suspended"),
        (TargetState::Suspended, _) => tracing::info!(%target, %kind, "target is suspended"),
        // This resolves itself, and an API server that does not answer would cause one line for every target.
        (TargetState::Invalid, Some(failure)) if unread => {
            *first = None; // the log line about the other targets does not wait for it
            tracing::debug!(%target, %kind, error = %failure.message, "target waits for its credentials");
        }
        (_, Some(failure)) => match first.take() {
            Some(first) => first.down(target, kind, failure),
            None => log_down(target, kind, failure),
        },
        (_, None) => {}
    }
}

/// What is made once for a target, and kept until its source changes.
pub(super) struct PreparedTarget {
    pub(super) source: Source,
    pub(super) client: Client,
    pub(super) redactor: Arc<Redactor>,
    /// None until the target's patterns have been compared with the families of its type.
    pub(super) calls: Option<Arc<[Call]>>,
    /// `None` while an answer is being translated on a blocking thread.
    pub(super) translator: Option<Box<dyn Kind>>,
    /// Its expositions are too large to be made on a thread of polls.
    pub(super) is_large: bool,
    /// How often its answers had new names, which patterns had to be compared with.
    pub(super) comparisons: u8,
}

impl PreparedTarget {
    /// Only what has changed is made anew: a rotated Secret must not reset the counters of a translator.
    fn new(target: &Target, before: Option<Self>, client: Client) -> Self {
        let source = &target.source;
        let same_calls = |before: &Self| {
            let before = &before.source;
            before.kind == source.kind && before.url == source.url && before.options == source.options
        };
        let before = before.filter(same_calls);
        let is_large = before.as_ref().is_some_and(|before| before.is_large);
        let kept = before.and_then(|before| before.translator);
        let translator = kept.unwrap_or_else(|| source.options.build(source.kind, &source.url));
        let calls = source.filter.is_none().then(|| translator.calls(None).into());
        Self {
            source: source.clone(),
            client,
            redactor: Arc::new(Redactor::new(&source.headers)),
            calls,
            translator: Some(translator),
            is_large,
            comparisons: 0,
        }
    }

    /// Takes the translator, or a new one if the last poll lost it. The counters of a new one begin at 0, as after a restart.
    pub(super) fn take_translator(&mut self) -> Box<dyn Kind> {
        let source = &self.source;
        self.translator.take().unwrap_or_else(|| source.options.build(source.kind, &source.url))
    }
}

/// Prepares `target`, if its source has changed. If that fails, the old preparation is kept: a rotated CA that is no certificate will be
/// replaced by another one, and then the counters go on.
pub(super) fn prepare<'p>(
    prepared: &'p mut Option<PreparedTarget>,
    target: &Target,
    context: &PollContext,
) -> Result<&'p mut PreparedTarget, String> {
    if prepared.as_ref().is_none_or(|prepared| prepared.source != target.source) {
        let source = &target.source;
        let client = context.clients.client(&source.url, &source.connection, &target.id.namespace);
        let client = client.map_err(|error| one_line(&error))?;
        let before = prepared.take();
        *prepared = Some(PreparedTarget::new(target, before, client));
    }
    prepared.as_mut().ok_or_else(String::new)
}
