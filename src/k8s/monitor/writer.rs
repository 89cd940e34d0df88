//! Makes the ServiceMonitors in the cluster agree with the targets, for as long as this replica leads. A steady fleet costs one watch
//! and a small question every half a minute.

mod news;
mod outcome;
mod words;

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::{BoxStream, FuturesUnordered, SelectAll};
use tokio::time::{Instant, MissedTickBehavior};

use super::super::access::Rule;
use super::super::catalog::MonitorState;
use super::super::failing::Failing;
use super::super::pause::Pause;
use super::super::tally::Tally;
use super::super::{MonitorNamespace, Shared};
use super::desired::{Desired, desired};
use super::features::{self, Features, Installed};
use super::ledger::{Finding, Ledger};
use super::patience::Patience;
use super::place::Place;
use super::requests::Writes;
use super::sight::Sighting;
use super::unwritten::Unwritten;
use super::{GLANCE, Scope, scopes};
use crate::target::TargetId;
use outcome::Done;
use words::{WRITTEN, crd_missing, failed, forbidden, fought_for, not_understood, written};

/// How often every target is looked at again. That asks nothing of the API server unless something differs.
pub(super) const HEAL: Duration = Duration::from_mins(1);

/// Requests under way at the same time.
const IN_FLIGHT: usize = 8;

/// Targets that are looked at before anything else gets a turn.
const BATCH: usize = 64;

/// From here on, one object and one job of Prometheus for each target is a burden to it.
const MANY: usize = 300;

/// One term as the leader.
pub(super) struct Writer {
    writes: Writes,
    scopes: Vec<Scope>,
    installed: Option<Installed>,
    watches: SelectAll<BoxStream<'static, Sighting>>,
    /// The watches that we may not have.
    denied: HashMap<usize, Rule>,
    ledger: Ledger,
    patience: Patience,
    /// What the API server fails at.
    failing: Failing<Place>,
    /// How many of these there are.
    lost: Tally,
    /// While the API server does not answer.
    pause: Pause,
    /// Whose monitor a place in our namespace is for: its name does not tell.
    targets: HashMap<Place, TargetId>,
    running: FuturesUnordered<BoxFuture<'static, Done>>,
    /// The places that something is being written to.
    busy: HashMap<Place, Busy>,
    /// Monitors of ours that belong to no target.
    unwanted: VecDeque<Place>,
    said_many: bool,
}

/// What happened to a place while something was being written to it.
#[derive(Debug, Default)]
struct Busy {
    /// Its target must be looked at again.
    again: bool,
    /// The watch has shown something.
    overtaken: bool,
}

impl Writer {
    pub(super) fn new(writes: Writes) -> Self {
        let shared = &writes.shared;
        let in_release = shared.settings.discovery.monitor_namespace == MonitorNamespace::Release;
        let ids = if in_release { shared.catalog.ids() } else { Vec::new() };
        Self {
            targets: ids.into_iter().map(|id| (Place::of(&id, &shared.settings), id)).collect(),
            scopes: scopes(&shared.settings),
            installed: None,
            watches: SelectAll::new(),
            denied: HashMap::new(),
            ledger: Ledger::default(),
            patience: Patience::default(),
            failing: Failing::default(),
            lost: Tally::default(),
            pause: Pause::new(),
            running: FuturesUnordered::new(),
            busy: HashMap::new(),
            unwanted: VecDeque::new(),
            said_many: false,
            writes,
        }
    }

    /// Until somebody else leads. What is under way then is dropped.
    pub(super) async fn run(mut self) {
        let mut features = std::pin::pin!(features::follow(self.shared().cluster.clone()));
        let mut leadership = self.writes.leadership.clone();
        let mut glance = tokio::time::interval(GLANCE);
        let mut heal = tokio::time::interval_at(Instant::now() + HEAL, HEAL);
        for interval in [&mut glance, &mut heal] {
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        }
        loop {
            let room = self.has_room();
            tokio::select! {
                () = leadership.lost() => return,
                _ = glance.tick() => self.glance(),
                _ = heal.tick() => self.heal(),
                Some(installed) = features.next() => self.install(installed),
                Some((scope, event)) = self.watches.next() => self.sight(scope, event),
                Some(done) = self.running.next() => self.settle(done),
                () = self.writes.shared.monitors.marked(), if room => {}
            }
            if self.has_room() {
                self.work();
                tokio::task::yield_now().await; // a long queue must not keep others from their turn
            }
        }
    }

    fn shared(&self) -> &Shared {
        &self.writes.shared
    }

    fn has_room(&self) -> bool {
        self.installed.is_some() && self.running.len() < IN_FLIGHT && self.pause.until(Instant::now()).is_none()
    }

    /// Looks at some targets, and starts what must be done about them.
    fn work(&mut self) {
        while self.running.len() < IN_FLIGHT
            && let Some(place) = self.unwanted.pop_front()
        {
            if self.is_unwanted(&place)
                && self.patience.resting(&place.namespace).is_none()
                && self.failing.until(&place, &place.namespace, REMOVAL, Instant::now()).is_none()
            {
                self.remove(place, None, None);
            }
        }
        for _ in 0..BATCH {
            if self.running.len() == IN_FLIGHT {
                break;
            }
            let Some(id) = self.shared().monitors.take(1).pop() else { break };
            self.look(id);
        }
    }

    fn look(&mut self, id: TargetId) {
        let place = Place::of(&id, &self.shared().settings);
        if let Some(busy) = self.busy.get_mut(&place) {
            busy.again = true;
            return;
        }
        if self.shared().catalog.get(&id).is_none() {
            self.patience.forget(&id);
            // Beside its target it is collected as garbage. If it is not, the next sweep finds it.
            if self.targets.remove(&place).is_some() && self.ledger.uid(&place).is_some() {
                self.remove(place, None, None);
            }
            return;
        }
        if self.shared().settings.discovery.monitor_namespace == MonitorNamespace::Release {
            self.targets.insert(place.clone(), id.clone());
        }
        let wanted = match self.desired(&id) {
            Some(wanted) => wanted,
            None if self.ledger.is_forgery(&place) => Err(not_understood()),
            None => return self.say(&id, not_understood()),
        };
        if self.installed == Some(Installed::No) {
            return self.say(&id, wanted.map_or_else(|unwanted| unwanted, |_| crd_missing()));
        }
        let Some(scope) = self.scope_of(&place) else { return };
        if !self.ledger.is_complete(scope) {
            // The end of the list marks all targets again.
            return if let Some(rule) = self.denied.get(&scope) {
                let state = forbidden(rule);
                self.say(&id, state);
            };
        }
        match wanted {
            Ok(desired) => match self.ledger.find(&place, desired.mark) {
                Finding::Good => {
                    self.patience.forget(&id);
                    self.failing.forget(&place);
                    let state = self.kept(&place, desired.mark);
                    self.say(&id, state);
                }
                finding => {
                    let uid = if let Finding::Bad(uid) = finding { Some(uid.to_owned()) } else { None };
                    if self.may_try(&id, &place, desired.mark) {
                        self.put(id, place, desired, uid);
                    }
                }
            },
            Err(state) if self.ledger.uid(&place).is_none() => {
                self.patience.forget(&id);
                self.patience.make_peace(&place);
                self.failing.forget(&place);
                self.say(&id, state);
            }
            Err(state) => {
                if self.may_try(&id, &place, REMOVAL) {
                    self.remove(place, Some(id), Some(state));
                }
            }
        }
    }

    /// What `id` should have, or why it should have none; `None`: it cannot be told.
    fn desired(&self, id: &TargetId) -> Option<Result<Desired, MonitorState>> {
        let record = self.shared().catalog.get(id)?;
        let declaration = record.object.declaration.as_ref().ok()?;
        let features = match self.installed {
            Some(Installed::Yes(features)) => features,
            _ => Features::OLDEST,
        };
        let desired = desired(&record.object, &declaration.spec, &self.shared().settings, features);
        Some(desired.map_err(Unwritten::state))
    }

    fn may_try(&mut self, id: &TargetId, place: &Place, wanted: u64) -> bool {
        if self.patience.is_waiting(id, wanted) {
            return false;
        }
        let resting = self.patience.resting(&place.namespace);
        if let Some((_, Some(state))) = &resting {
            self.say(id, state.clone());
        }
        let truce = if resting.is_none() { self.patience.truce(place, wanted) } else { None };
        // What was put back a moment ago is soon put back again, and is not worth two writes.
        if truce.is_some() && (self.patience.is_fought_for(place, wanted) || !self.is_written(id)) {
            self.say(id, fought_for(place));
        }
        if let Some(until) = resting.map(|(until, _)| until).or(truce) {
            self.patience.wait(id.clone(), wanted, until);
            return false;
        }
        let failing = self.failing.until(place, &place.namespace, wanted, Instant::now());
        if failing.is_some()
            && let Some(why) = self.failing.why(&place.namespace)
        {
            self.say(id, failed(why));
        }
        failing.is_none()
    }

    /// Whether it was said last that the monitor of `id` is there.
    fn is_written(&self, id: &TargetId) -> bool {
        let monitor = self.shared().catalog.get(id).and_then(|record| record.monitor);
        monitor.is_some_and(|monitor| monitor.reason == WRITTEN)
    }

    /// What is said of a monitor that is as it should be, while nobody changes it.
    fn kept(&self, place: &Place, wanted: u64) -> MonitorState {
        if self.patience.is_fought_for(place, wanted) { fought_for(place) } else { written(place) }
    }

    /// Has another look at what had to wait.
    fn glance(&mut self) {
        let due = self.patience.due();
        let failing: Vec<TargetId> =
            self.failing.due(Instant::now()).filter_map(|place| self.target_of(place)).collect();
        self.shared().monitors.mark(due.into_iter().chain(failing));
    }

    fn say(&self, id: &TargetId, state: MonitorState) {
        if self.shared().catalog.put_monitor(id, Some(state)) {
            self.shared().statuses.add(id.clone());
        }
    }

    fn heal(&mut self) {
        self.patience.tidy();
        self.tidy_failing();
        if self.installed.is_none() {
            self.shared().monitors.clear(); // nobody takes from it yet
        }
        self.look_at_all();
        self.sweep();
    }

    fn tidy_failing(&mut self) {
        let mut failing = std::mem::take(&mut self.failing);
        failing.retain(|place| {
            let catalog = &self.shared().catalog;
            self.ledger.uid(place).is_some() || self.target_of(place).is_some_and(|id| catalog.get(&id).is_some())
        });
        self.failing = failing;
        if let Some(monitors) = self.lost.more() {
            tracing::warn!(monitors, "more ServiceMonitors cannot be written");
        }
    }

    fn look_at_all(&mut self) {
        let ids = self.shared().catalog.ids();
        if ids.len() > MANY && !self.said_many && matches!(self.installed, Some(Installed::Yes(_))) {
            self.said_many = true;
            tracing::info!(
                targets = ids.len(),
                "each ServiceMonitor is a job of its own in Prometheus; for so many targets discovery.mode=httpSD is made"
            );
        }
        self.shared().monitors.mark(ids);
    }

    /// Looks at the targets whose monitors the watch `scope` shows.
    fn look_at_scope(&self, scope: usize) {
        let Shared { catalog, monitors, settings, .. } = self.shared();
        let mut ids = catalog.ids();
        ids.retain(|id| self.scope_of(&Place::of(id, settings)) == Some(scope));
        monitors.mark(ids);
    }

    fn target_of(&self, place: &Place) -> Option<TargetId> {
        match self.shared().settings.discovery.monitor_namespace {
            MonitorNamespace::Target => Some(TargetId { namespace: place.namespace.clone(), name: place.name.clone() }),
            MonitorNamespace::Release => self.targets.get(place).cloned(),
        }
    }

    fn scope_of(&self, place: &Place) -> Option<usize> {
        self.scopes.iter().position(|scope| scope.as_ref().is_none_or(|name| *name == place.namespace))
    }
}

/// Stands for the wish that there be no monitor.
const REMOVAL: u64 = 0;

#[cfg(test)]
mod tests;
