//! Which status is written when: at once where it is news, calmly where a server flaps, and never twice. It knows nothing of what
//! a status says.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use tokio::time::{Instant, MissedTickBehavior};

use super::super::access::ApiError;
use super::super::catalog::{Catalog, Object, Record};
use super::super::pause::Pause;
use super::super::rate_limiter::RateLimiter;
use super::super::tally::Tally;
use super::agenda::Agenda;
use super::conditions::{gist, is_crowded, says};
use super::ledger::{Ledger, Trouble};
use crate::crd::ScrapeTargetStatus;
use crate::poll::Queue;
use crate::target::TargetId;

/// How often every target is looked at, whether it was marked or not. Scrapes that come or stay away are noticed by this alone.
pub(super) const HEAL: Duration = Duration::from_secs(30);

/// Writes that may be under way together: more do not help, since their number in a second is bounded.
const IN_FLIGHT: usize = 8;

/// Targets that are looked at in one go: well below a millisecond, then others get their turn.
const CHUNK: usize = 64;

/// The targets, what should be said of them, and the one who is told.
pub(super) trait Fleet: Send + Sync + 'static {
    fn catalog(&self) -> &Catalog;

    /// Targets whose status may differ.
    fn marked(&self) -> &Queue;

    fn write_limiter(&self) -> &RateLimiter;

    fn may_write(&self) -> bool;

    /// Waits until nothing may be written any more.
    fn lost(&self) -> impl Future<Output = ()> + Send;

    /// The status that `record` should have. `watched_for`: how long we have been the one who knows.
    fn wanted(&self, record: &Record, watched_for: Duration) -> ScrapeTargetStatus;

    /// Writes it, and notes in the catalog what the cluster holds then.
    fn write(&self, object: &Object, status: &ScrapeTargetStatus) -> impl Future<Output = Result<(), ApiError>> + Send;
}

/// One term of a leader.
pub(super) struct Writer<F> {
    fleet: Arc<F>,
    ledger: Ledger,
    agenda: Agenda,
    pause: Pause,
    /// Statuses that the API server does not take.
    lost: Tally,
    /// What the present look at all targets has not come to yet.
    rest: std::vec::IntoIter<TargetId>,
    writes: FuturesUnordered<BoxFuture<'static, Write>>,
}

/// A write that has ended, with the gist of what was sent; no result: there was nothing to write any more, or it was not permitted any more.
struct Write(TargetId, Option<(u64, Result<(), ApiError>)>);

impl<F: Fleet> Writer<F> {
    pub(super) fn new(fleet: Arc<F>) -> Self {
        Self {
            fleet,
            ledger: Ledger::default(),
            agenda: Agenda::default(),
            pause: Pause::new(),
            lost: Tally::default(),
            rest: Vec::new().into_iter(),
            writes: FuturesUnordered::new(),
        }
    }

    /// Writes until that is not permitted any more.
    pub(super) async fn lead(&mut self) {
        let fleet = Arc::clone(&self.fleet);
        let mut lost = pin!(fleet.lost());
        let mut heal = tokio::time::interval(HEAL);
        heal.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while fleet.may_write() {
            let now = Instant::now();
            let pause = self.pause.until(now);
            let free = if pause.is_some() { 0 } else { IN_FLIGHT - self.writes.len() };
            let due = self.agenda.next().unwrap_or(now);
            tokio::select! {
                () = &mut lost => return,
                Some(write) = self.writes.next() => self.finish(write),
                () = fleet.marked().marked(), if free > 0 => {
                    let ids = fleet.marked().take(free);
                    self.look(ids);
                }
                () = tokio::time::sleep_until(due), if free > 0 && self.agenda.next().is_some() => {
                    let ids = self.agenda.take(Instant::now(), free);
                    self.look(ids);
                }
                () = tokio::time::sleep_until(pause.unwrap_or(now)), if pause.is_some() => {}
                () = tokio::task::yield_now(), if !self.rest.as_slice().is_empty() => self.look_at_all(),
                _ = heal.tick() => {
                    let ids = fleet.catalog().ids();
                    self.ledger.retain(&ids, Instant::now());
                    self.rest = ids.into_iter();
                    if let Some(targets) = self.lost.more() {
                        tracing::warn!(targets, "the statuses of more targets cannot be written");
                    }
                }
            }
        }
    }

    /// Marks those of the next targets of all whose status differs.
    fn look_at_all(&mut self) {
        let now = Instant::now();
        let ids: Vec<TargetId> = self.rest.by_ref().take(CHUNK).collect();
        let fleet = Arc::clone(&self.fleet);
        fleet.marked().mark(
            ids.into_iter()
                .filter(|id| fleet.catalog().get(id).is_some_and(|record| self.differs(&record, now).is_some())),
        );
    }

    /// The status that `record` should have, if it has another.
    fn differs(&mut self, record: &Record, now: Instant) -> Option<ScrapeTargetStatus> {
        let since = self.ledger.since(&record.object, now);
        let wanted = self.fleet.wanted(record, now.saturating_duration_since(since));
        (!says(&record.object.status, &wanted)).then_some(wanted)
    }

    /// Writes what differs, or notes when it may be written. There are never more `ids` than writes may begin.
    fn look(&mut self, ids: Vec<TargetId>) {
        let now = Instant::now();
        for id in ids {
            let Some(record) = self.fleet.catalog().get(&id) else {
                self.ledger.forget(&id);
                continue;
            };
            let Some(wanted) = self.differs(&record, now) else {
                self.ledger.settle(&id);
                continue;
            };
            match self.ledger.earliest(&record.object, &wanted, self.agenda.len(), now) {
                Some(at) if at > now => self.agenda.put(id, at),
                Some(_) => {
                    let since = self.ledger.since(&record.object, now);
                    self.ledger.begin(&id);
                    self.writes.push(Box::pin(write(Arc::clone(&self.fleet), id, Arc::clone(&record.object), since)));
                }
                None => {}
            }
        }
    }

    /// Draws the conclusions, and has another look: much may have happened meanwhile.
    fn finish(&mut self, Write(target, result): Write) {
        let now = Instant::now();
        match &result {
            None => self.ledger.give_up(&target),
            Some((gist, result)) => {
                let trouble = self.ledger.end(&target, *gist, result, now);
                match result {
                    Err(ApiError::Unreachable(_)) => {
                        self.pause.fail(now);
                    }
                    Err(error) if matches!(trouble, Some(Trouble::Refused | Trouble::Failed)) => {
                        if self.lost.note(now) {
                            self.complain(&target, error);
                        }
                    }
                    Err(error) => tracing::debug!(%target, %error, "a status was not written"),
                    Ok(()) if trouble == Some(Trouble::Contested) => {
                        tracing::warn!(
                            %target,
                            "somebody else writes the status of this target, perhaps another release of the exporter: let each look \
                             after its own targets, by --watch-namespace or --target-selector"
                        );
                    }
                    Ok(()) => {}
                }
                // A failure is no sign that it can write again.
                let answered = !matches!(result, Err(ApiError::Unreachable(_) | ApiError::Failed(_)));
                if answered {
                    self.pause.succeed();
                }
            }
        }
        self.fleet.marked().mark([target]);
    }

    fn complain(&self, target: &TargetId, error: &ApiError) {
        let crowded = self.fleet.catalog().get(target).is_some_and(|record| {
            let wanted = self.fleet.wanted(&record, Duration::ZERO);
            is_crowded(&record.object.status, &wanted)
        });
        if crowded {
            tracing::warn!(
                %target,
                %error,
                "the status of a target cannot be written: others have added so many conditions that ours do not fit beside them, \
                 remove some"
            );
        } else {
            tracing::warn!(%target, %error, "the status of a target cannot be written");
        }
    }
}

/// Writes what should be said of a target when its turn comes, which need not be what should have been said before.
async fn write<F: Fleet>(fleet: Arc<F>, id: TargetId, before: Arc<Object>, since: Instant) -> Write {
    fleet.write_limiter().acquire().await;
    let same = |object: &Object| object.uid == before.uid && object.generation == before.generation;
    let Some(record) = fleet.catalog().get(&id).filter(|record| same(&record.object)) else { return Write(id, None) };
    let wanted = fleet.wanted(&record, since.elapsed());
    if says(&record.object.status, &wanted) || !fleet.may_write() {
        return Write(id, None);
    }
    let result = fleet.write(&record.object, &wanted).await;
    Write(id, Some((gist(&wanted), result)))
}

#[cfg(test)]
mod tests;
