//! The task of one target: wait until a poll is due or requested, poll, publish. What it needs for that is prepared once and kept until the
//! target changes.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tracing::Level;

use super::admission::Admission;
use super::blocking::WorkError;
use super::first_polls::PendingFirstPoll;
use super::poller::{Poller, TargetState};
use super::prepare::{Prepared, PreparedProbe, PreparedTarget, Translator, prepare};
use super::probe::probe;
use super::render;
use super::round::{MemberEvent, MemberPolls, SLOW_ROUND};
use super::snapshot::Snapshot;
use super::translate::{AnsweredPoll, TranslationLimits, translate};
use super::{BackgroundMode, FirstPollTime, PollContext};
use crate::kind::Reason;
use crate::target::{Target, TargetId};

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
    let mut prepared: Option<Prepared> = None;
    let mut processes = Processes::default();
    let mut next = Instant::now() + delay;
    let mut interval = poller.target().interval;
    let mut last: Option<LastPoll> = None;
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
                processes.members = None;
                let unpolled = render::unpolled_target(&target, reason, &message, None);
                publish(&poller, &target, &context, &mut first, unpolled);
                tokio::select! {
                    () = poller.stop.cancelled() => return,
                    () = poller.changed.notified() => {}
                }
                (next, due) = (Instant::now(), None);
                continue;
            }
        };
        if let Some(last) = last {
            if poller.newest().is_none() {
                next = Instant::now(); // the result was removed, since it says nothing about the changed target
            } else if target.interval < interval {
                next = next.min(last.next(target.interval));
            }
        }
        interval = target.interval;
        let polls = *background.borrow_and_update() != BackgroundMode::Off;
        processes.follow(&target, &prepared, polls);
        let ended = last.map(|last| last.ended);
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
                () = processes.members_changed() => processes.recompose(&poller, &target, &context).await,
                () = poller.demand.notified() => {} // unless the poll that just ended has answered it
            }
            continue;
        };
        // Each member has a permit of its own.
        let permit = if target.members.is_some() {
            None
        } else {
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
                permit = Box::pin(admission.acquire(time)) => Some(permit), // boxed for the same reason as the poll
            }
        };
        due = None;
        if permit.is_some() {
            context.metrics.delay.observe(time.elapsed().as_secs_f64());
        }
        let started = Instant::now();
        let poll = processes.poll(&poller, &target, &prepared, &context, &admission, started);
        let snapshot = tokio::select! {
            () = poller.stop.cancelled() => return,
            snapshot = Box::pin(poll) => snapshot, // boxed: an idle poller must stay small
        };
        let Some(snapshot) = snapshot else {
            next = Instant::now(); // the target has changed
            continue;
        };
        drop(permit);
        if snapshot.is_rejected() {
            let _ = context.refused.try_send(poller.id().clone());
        }
        log(poller.id(), &target, &snapshot);
        let poll = LastPoll { started, ended: snapshot.ended, held_until: snapshot.held_until };
        (next, last) = (poll.next(target.interval), Some(poll));
        publish(&poller, &target, &context, &mut first, snapshot);
    }
}

/// When the last poll was.
#[derive(Clone, Copy)]
struct LastPoll {
    started: Instant,
    ended: Instant,
    /// The target is left alone until then.
    held_until: Option<Instant>,
}

impl LastPoll {
    /// When the next one is due.
    fn next(self, interval: Duration) -> Instant {
        let due = self.started + interval;
        self.held_until.map_or(due, |held| held.max(due))
    }
}

/// What is kept from one poll of a target to the next.
#[derive(Default)]
struct Processes {
    /// Of a target that is one process.
    translator: Translator,
    /// Of one that is several.
    members: Option<Box<MemberPolls>>,
}

impl Processes {
    /// Follows a change of the members. Those that are new are polled at once, if targets are polled in the background.
    fn follow(&mut self, target: &Arc<Target>, prepared: &Prepared, polls: bool) {
        if target.members.is_none() {
            self.members = None;
        }
        if let (Some(members), Prepared::Calls(prepared)) = (&mut self.members, prepared) {
            members.follow(target, prepared, prepared.known_calls().filter(|_| polls));
        }
    }

    /// Waits until the members have changed between two rounds, so that the answer must be put together anew.
    async fn members_changed(&mut self) {
        let Some(members) = &mut self.members else { return std::future::pending().await };
        while members.event().await == MemberEvent::Polled {}
    }

    /// Publishes the answer with the members as they are now. It must run to its end, since it takes series that are in no answer yet.
    async fn recompose(&mut self, poller: &Poller, target: &Target, context: &PollContext) {
        let Some(members) = &mut self.members else { return };
        if let Some(snapshot) = Box::pin(members.recompose(poller, target)).await {
            publish_change(poller, target, context, snapshot);
        }
    }

    /// Polls the target. `None`: meanwhile, it has been changed to one that gives other data.
    async fn poll(
        &mut self,
        poller: &Poller,
        target: &Arc<Target>,
        prepared: &Prepared,
        context: &Arc<PollContext>,
        admission: &Arc<Admission>,
        started: Instant,
    ) -> Option<Snapshot> {
        poller.set_token(prepared.credentials().token());
        let prepared = match prepared {
            Prepared::Calls(prepared) => prepared,
            Prepared::Probe(prepared) => {
                return tokio::select! {
                    () = data_changed(poller, target) => None,
                    snapshot = probe_once(poller, target, prepared, context, started) => Some(snapshot),
                };
            }
        };
        if target.members.is_some() {
            let new = || Box::new(MemberPolls::new(Arc::clone(context), Arc::clone(admission)));
            let members = self.members.get_or_insert_with(new);
            return poll_members(poller, target, prepared, members, context, started).await;
        }
        tokio::select! {
            () = data_changed(poller, target) => None,
            snapshot = poll(poller, target, prepared, &mut self.translator, context, started) => Some(snapshot),
        }
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
    prepared: &Arc<PreparedTarget>,
    translator: &mut Translator,
    context: &Arc<PollContext>,
    started: Instant,
) -> Snapshot {
    let _in_flight = context.metrics.start();
    let deadline = started + target.timeout;
    let snapshot = match prepared.calls(target, context, deadline).await {
        Ok(requests) => {
            let calls = prepared.credentials.fetch(&prepared.client, &requests, context, target.interval, deadline);
            let answered = calls.await;
            translator.use_with(prepared);
            let limits = TranslationLimits::of_target(target);
            let poll = AnsweredPoll { target, prepared, translator, requests, answered, started, deadline, limits };
            let format = poller.format();
            translate(poll, context, move |polled| render::polled(polled, format)).await
        }
        Err(error) => unprepared(target, error),
    };
    context.metrics.end(target.source.kind.as_str(), snapshot.outcome(), snapshot.duration());
    snapshot
}

async fn probe_once(
    poller: &Poller,
    target: &Target,
    prepared: &PreparedProbe,
    context: &Arc<PollContext>,
    started: Instant,
) -> Snapshot {
    let _in_flight = context.metrics.start();
    let snapshot = match prepared.compare(target, context, started + target.timeout).await {
        Ok(()) => probe(target, prepared, context, started, poller.format()).await,
        Err(error) => unprepared(target, error),
    };
    context.metrics.end(target.source.kind.as_str(), snapshot.outcome(), snapshot.duration());
    snapshot
}

/// The snapshot where the calls of a target are not known.
fn unprepared(target: &Target, error: WorkError) -> Snapshot {
    let message = match error {
        WorkError::NoPermit => "the patterns of spec.metrics had to wait for those of other targets until the timeout",
        WorkError::TimedOut => "the patterns of spec.metrics take too long to compare, write simpler ones",
        WorkError::Aborted => "the comparison of spec.metrics was aborted: please report this",
    };
    render::unpolled_target(target, error.reason(), message, None)
}

/// One round: polls all members at once. `None`: meanwhile, the target has been changed to one that gives other data.
async fn poll_members(
    poller: &Poller,
    declared: &Arc<Target>,
    prepared: &Arc<PreparedTarget>,
    members: &mut MemberPolls,
    context: &Arc<PollContext>,
    started: Instant,
) -> Option<Snapshot> {
    let _in_flight = context.metrics.start();
    let mut target = Arc::clone(declared);
    let snapshot = match prepared.calls(&target, context, started + target.timeout).await {
        Ok(calls) => {
            members.begin_round(&target, prepared, &calls, started).await;
            let slow = started + SLOW_ROUND;
            while members.is_round_running() {
                tokio::select! {
                    () = poller.changed.notified() => {
                        let now = poller.target();
                        if !now.gives_same_data(&target) {
                            return None;
                        }
                        target = now;
                        members.follow(&target, prepared, Some(&calls));
                    }
                    event = members.event() => match event {
                        MemberEvent::Polled => {}
                        MemberEvent::Resolved => members.follow(&target, prepared, Some(&calls)),
                        MemberEvent::Changed => if let Some(snapshot) = members.recompose(poller, &target).await {
                            publish_change(poller, &target, context, snapshot);
                        }
                    },
                    () = tokio::time::sleep_until(slow), if started.elapsed() < SLOW_ROUND => {}
                }
                members.compress_if_slow(started).await;
            }
            members.end_round(poller, &target, started).await
        }
        Err(error) => unprepared(&target, error),
    };
    context.metrics.end(target.source.kind.as_str(), snapshot.outcome(), snapshot.duration());
    Some(snapshot)
}

/// Logs a poll at debug level, and its calls at trace level. Secrets in what the server sent are masked already, as on the debug page.
fn log(id: &TargetId, target: &Target, snapshot: &Snapshot) {
    let kind = target.source.kind;
    let of_members =
        snapshot.members.iter().flat_map(|members| members.iter().filter_map(|report| report.poll.as_ref()));
    for record in snapshot.calls.iter().chain(of_members.flat_map(|poll| poll.calls.iter())) {
        if !tracing::enabled!(Level::TRACE) {
            break;
        }
        let request = snapshot.requests.iter().find(|request| request.name == record.call);
        let (duration, error) = (tracing::field::debug(record.duration), record.error.as_deref());
        let probed = snapshot.probe.as_ref();
        let url = request.map(|request| request.url.as_str()).or_else(|| probed.map(|_| target.shown_url()));
        let address = probed.and_then(|probe| probe.address()).map(tracing::field::display);
        tracing::trace!(target = %id, call = record.call, url, address, status = record.status, bytes = record.bytes, duration, error, "called");
    }
    let report = snapshot.probe.iter().filter(|_| tracing::enabled!(Level::TRACE));
    for event in report.flat_map(|report| report.events()) {
        tracing::trace!(target = %id, at = ?event.at, event = %event.text, "probed");
    }
    tracing::debug!(target = %id, %kind, outcome = snapshot.outcome(), duration = ?snapshot.duration(), samples = snapshot.samples, "polled");
}

/// Publishes the result of a change of the members. It is not logged: pods may come and go many times between two polls.
fn publish_change(poller: &Poller, target: &Target, context: &PollContext, snapshot: Snapshot) {
    if let Some((before, after)) = poller.publish(target, snapshot) {
        context.notify_state_listener(poller.id());
        let (before, after) = (before.state.as_str(), after.state.as_str());
        tracing::debug!(target = %poller.id(), before, after, "the members of the target have changed");
    }
}

/// Publishes a result, and logs a change of state: not every failed poll, nor every change of the spec. The first results after a start are
/// logged together, and so are many changes of a namespace.
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
        (TargetState::Up, _) if before.state == TargetState::Up => {
            tracing::debug!(%target, %kind, partial = after.partial.as_deref(), "members of the target are up or down");
        }
        (TargetState::Up, _) if before.state == TargetState::Pending => {
            if let Some(first) = first.take() {
                first.up();
            }
            tracing::debug!(%target, %kind, "target is up");
        }
        (TargetState::Up, _) if context.first_polls.recover(target) => tracing::debug!(%target, %kind, "target is up"),
        (TargetState::Pending, _) => tracing::debug!(%target, %kind, "all members are new"),
        (TargetState::Suspended, _) if first.take().is_some() => tracing::debug!(%target, %kind, "target is suspended"),
        (TargetState::Up | TargetState::Suspended, _) => context.state_log.log(target, kind, after.state, None),
        // This resolves itself, and an API server that does not answer would cause one line for every target.
        (TargetState::Invalid, Some(failure)) if unread => {
            *first = None; // the log line about the other targets does not wait for it
            tracing::debug!(%target, %kind, error = %failure.message, "target waits for objects that were not read yet");
        }
        (_, Some(failure)) => match first.take() {
            Some(first) => first.down(target, kind, failure),
            None => context.state_log.log(target, kind, after.state, Some(failure)),
        },
        (_, None) => {}
    }
}
