//! The loop of one target: wait until it is time or somebody asks, poll, publish.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tracing::Level;

use super::aside::{Late, aside, turn};
use super::first::{Expected, tell_down};
use super::poller::{Poller, State};
use super::prepared::{Prepared, prepare};
use super::render;
use super::snapshot::Snapshot;
use super::translate::translate;
use super::{Background, Shared, Start};
use crate::fetch::fetch;
use crate::kind::{Call, Reason};
use crate::metric::Stop;
use crate::target::{Target, TargetId};

/// Polls one target until it is removed: first after `delay`, and after `place` when it takes over from another replica.
pub(super) async fn run(
    poller: Arc<Poller>,
    shared: Arc<Shared>,
    mut background: watch::Receiver<Background>,
    mut first: Option<Expected>,
    delay: Duration,
    place: Duration,
) {
    let mut prepared: Option<Prepared> = None;
    let mut next = Instant::now() + delay;
    let mut interval = poller.target().interval;
    let mut last: Option<(Instant, Instant)> = None; // the last poll's start and end
    let mut due: Option<Instant> = None; // since when the next poll waits for its turn
    loop {
        let target = poller.target();
        let ready = match obstacle(&target) {
            Some((reason, message)) => Err((reason, message)),
            None => prepare(&mut prepared, &target, &shared).map_err(|message| (Reason::Config, message)),
        };
        let prepared = match ready {
            Ok(prepared) => prepared,
            Err((reason, message)) => {
                announce(&poller, &target, &shared, &mut first, render::unpolled(reason, &message));
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
                next = Instant::now(); // what we had is worth nothing for what the target is now
            } else if target.interval < interval {
                next = next.min(started + target.interval);
            }
        }
        interval = target.interval;
        let polls = *background.borrow_and_update() != Background::Off;
        let ended = last.map(|(_, ended)| ended);
        let wanted = poller.is_asked_since(ended);
        if !polls && !wanted {
            due = None;
        } else if due.is_none() && wanted {
            // Somebody asks for what would be polled soon: it is the same poll, and keeps its place where it has one.
            let now = Instant::now();
            due = Some(if polls { next.min(now) } else { now });
        }
        let Some(time) = due else {
            tokio::select! {
                () = poller.stop.cancelled() => return,
                () = poller.changed.notified() => {}
                changed = background.changed() => match changed {
                    Ok(()) => next = next.max(first_turn(&background, place)),
                    Err(_) => return,
                },
                () = tokio::time::sleep_until(next), if polls => due = Some(next),
                () = poller.demand.notified() => {} // unless the poll that just ended has answered it
            }
            continue;
        };
        let turn = {
            let _waits = poller.waits_for_its_turn();
            tokio::select! {
                () = poller.stop.cancelled() => return,
                () = poller.changed.notified() => continue,
                changed = background.changed() => match changed {
                    Ok(()) => {
                        next = next.max(first_turn(&background, place));
                        continue;
                    }
                    Err(_) => return,
                },
                turn = Box::pin(shared.admission.turn(time)) => turn, // boxed for the same reason as the poll
            }
        };
        due = None;
        shared.metrics.delay.observe(time.elapsed().as_secs_f64());
        let started = Instant::now();
        let poll = Box::pin(poll(&poller, &target, prepared, &shared, started)); // boxed: an idle poller must stay small
        let snapshot = tokio::select! {
            () = poller.stop.cancelled() => return,
            () = became_another(&poller, &target) => {
                next = Instant::now();
                continue;
            }
            snapshot = poll => snapshot,
        };
        drop(turn);
        if snapshot.failure.as_ref().is_some_and(|failure| failure.reason == Reason::Auth) {
            let _ = shared.refused.try_send(poller.id().clone());
        }
        log(poller.id(), &target, &snapshot);
        last = Some((started, snapshot.ended));
        next = started + target.interval;
        announce(&poller, &target, &shared, &mut first, snapshot);
    }
}

/// The earliest that a poller polls by itself from now on, after it has been told whether to.
fn first_turn(background: &watch::Receiver<Background>, place: Duration) -> Instant {
    let now = Instant::now();
    // The others take over as well: not all at once.
    if *background.borrow() == Background::On(Start::Place) { now + place } else { now }
}

/// Why a target cannot be polled at all.
fn obstacle(target: &Target) -> Option<(Reason, String)> {
    if target.suspend {
        return Some((Reason::Suspended, "spec.suspend is true".to_owned()));
    }
    target.problem.clone().map(|problem| (Reason::Config, problem.message))
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

async fn poll(
    poller: &Poller,
    target: &Target,
    prepared: &mut Prepared,
    shared: &Arc<Shared>,
    started: Instant,
) -> Snapshot {
    let _in_flight = shared.metrics.start();
    let deadline = started + target.timeout;
    let snapshot = match calls(target, prepared, shared, deadline).await {
        Ok(calls) => {
            let headers = &prepared.source.headers;
            let fetched = fetch(&prepared.client, &calls, headers, &shared.limits, deadline).await;
            translate(target, prepared, shared, calls, fetched, started, poller.format()).await
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
    let turn = turn(target, &shared.small, deadline).await?;
    let (translator, calls) = aside(turn, deadline, work).await?.ok_or(Late::Working)?;
    prepared.translator = Some(translator);
    prepared.calls = Some(Arc::clone(&calls));
    Ok(calls)
}

/// Every poll, for who asks for it by the level. What servers had a part in is masked already, as on the debug page.
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
    let outcome = snapshot.failure.as_ref().map_or("success", |failure| failure.reason.as_str());
    tracing::debug!(target = %id, %kind, outcome, duration = ?snapshot.duration(), samples = snapshot.samples, "polled");
}

/// Publishes, and tells of a change of state once, not of every failed poll nor of every change of the spec. The first result of a target
/// that was there when polls began is told together with the others.
fn announce(poller: &Poller, target: &Target, shared: &Shared, first: &mut Option<Expected>, snapshot: Snapshot) {
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
        (State::Up, _) if before.state == State::Pending => {
            if let Some(first) = first.take() {
                first.up();
            }
            tracing::debug!(%target, %kind, "target is up");
        }
        (State::Up, _) if shared.first.has_recovered(target) => tracing::debug!(%target, %kind, "target is up"),
        (State::Up, _) => tracing::info!(%target, %kind, "target is up again"),
        (State::Suspended, _) if first.take().is_some() => tracing::debug!(%target, %kind, "target is suspended"),
        (State::Suspended, _) => tracing::info!(%target, %kind, "target is suspended"),
        // It ends by itself, and an API server that does not answer would bring one line for every target.
        (State::Invalid, Some(failure)) if unread => {
            *first = None; // nobody waits for it
            tracing::debug!(%target, %kind, error = %failure.message, "target waits for its credentials");
        }
        (_, Some(failure)) => match first.take() {
            Some(first) => first.down(target, kind, failure),
            None => tell_down(target, kind, failure),
        },
        (_, None) => {}
    }
}
