//! Makes the pollers agree with the cluster. One task owns all that is decided here, so that nothing happens in two orders.
//!
//! It writes nothing: whoever writes is told by queues which targets to look at.

mod health;
mod journal;
mod known;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Shared;
use super::secrets::Secrets;
use super::watch::{self, News, Observed, Report};
use crate::crd::ScrapeTarget;
use crate::target::{Problem, Target, TargetId};
use health::Health;
use journal::{Event, Journal};
use known::Known;

/// Starts what follows the cluster: the watch, the reader of Secrets, and the task that makes targets of what these bring.
pub(super) fn start(
    shared: &Arc<Shared>,
    refusals: mpsc::Receiver<TargetId>,
    tasks: &mut JoinSet<&'static str>,
    stop: &CancellationToken,
) {
    let secrets = Secrets::new(shared.cluster.clone(), shared.settings.secret_label.clone());
    let (namespaces, reports) = watch::start(shared, tasks, stop);
    tasks.spawn(Arc::clone(&secrets).run(stop.clone()));
    let follower = Follower::new(Arc::clone(shared), secrets, namespaces);
    let stop = stop.clone();
    tasks.spawn(async move {
        tokio::select! {
            () = stop.cancelled() => {}
            () = follower.run(reports, refusals) => {}
        }
        "the controller"
    });
}

/// What is taken together: reports of changes, and targets that are declared before anybody else may run again.
const BATCH: usize = 500;
/// A target whose Secrets are not read after this is declared without them, and says so.
const PATIENCE: Duration = Duration::from_secs(2);

struct Follower {
    shared: Arc<Shared>,
    secrets: Arc<Secrets>,
    scopes: Vec<Scope>,
    /// What must be done about targets, at the end of the batch.
    due: BTreeMap<TargetId, Due>,
    /// Targets whose Secrets are being read, and when that has lasted long enough.
    waiting: BTreeMap<TargetId, Instant>,
    known: Known,
    health: Health,
    journal: Journal,
    /// Whether it was said that there are fields we do not know.
    told_of_newer: bool,
}

/// Namespaces that are listed and watched together.
struct Scope {
    namespace: Option<Arc<str>>,
    /// What a list has shown so far, while it goes on.
    listing: Option<HashSet<TargetId>>,
}

/// What must be done about a target.
enum Due {
    /// Declare it as it is in the catalog.
    Declare,
    /// It cannot be used as it is: this answers for it, or nobody.
    Refuse(Option<Arc<ScrapeTarget>>),
}

impl Follower {
    fn new(shared: Arc<Shared>, secrets: Arc<Secrets>, namespaces: Vec<Option<Arc<str>>>) -> Self {
        let (known, health) = (Known::new(namespaces.len()), Health::new(namespaces.len()));
        let scopes = namespaces.into_iter().map(|namespace| Scope { namespace, listing: None }).collect();
        Self {
            shared,
            secrets,
            scopes,
            due: BTreeMap::new(),
            waiting: BTreeMap::new(),
            known,
            health,
            journal: Journal::default(),
            told_of_newer: false,
        }
    }

    async fn run(mut self, mut reports: mpsc::Receiver<Report>, mut refusals: mpsc::Receiver<TargetId>) {
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            let wake = self.wake();
            tokio::select! {
                count = reports.recv_many(&mut batch, BATCH) => if count == 0 {
                    return std::future::pending().await; // the watch is told to stop, and so are we
                },
                () = self.secrets.changed().marked() => self.values_changed(),
                Some(id) = refusals.recv() => self.secrets.refused(&id),
                () = tokio::time::sleep_until(wake) => {}
            }
            for report in batch.drain(..) {
                self.take(report);
            }
            self.lose_patience();
            while self.declare() {
                tokio::task::yield_now().await; // scrapes come first
            }
            if self.known.becomes(self.waiting.is_empty()) {
                self.shared.pollers.set_known();
                tracing::info!(targets = self.shared.catalog.ids().len(), "targets are known");
            }
            self.journal.close(|| self.shared.catalog.ids().len());
        }
    }

    /// When to look around although nothing has happened.
    fn wake(&self) -> Instant {
        let far = Instant::now() + Duration::from_secs(3600);
        let patience = self.waiting.values().min().copied();
        [patience, self.known.latest(), self.journal.closes()].into_iter().flatten().fold(far, Instant::min)
    }

    fn take(&mut self, Report { scope, news }: Report) {
        match news {
            News::Listing => self.listing(scope),
            News::Page(page) => page.into_iter().for_each(|observed| self.shown(scope, observed)),
            News::Listed => self.listed(scope),
            News::Applied(observed) => self.shown(scope, *observed),
            News::Deleted(id) => self.gone(&id),
            News::Denied => self.known.denied(scope),
            News::Failing(error) => {
                self.health.failing(scope, &error, &self.shared.outage, self.shared.pollers.known());
            }
            News::Works => self.health.works(scope, &self.shared.outage),
        }
    }

    fn listing(&mut self, scope: usize) {
        if let Some(scope) = self.scopes.get_mut(scope) {
            scope.listing = Some(HashSet::new());
        }
    }

    fn listed(&mut self, index: usize) {
        let Some(Scope { namespace, listing }) = self.scopes.get_mut(index) else { return };
        let Some(shown) = listing.take() else { return };
        let covers = |id: &TargetId| namespace.as_ref().is_none_or(|namespace| *namespace == id.namespace);
        let mut gone = self.shared.catalog.ids();
        gone.retain(|id| covers(id) && !shown.contains(id));
        self.shared.catalog.set_listed(namespace.clone());
        for id in &gone {
            self.gone(id);
        }
        if self.known.listed(index) {
            self.count("relisted");
        }
        tracing::debug!(shown = shown.len(), gone = gone.len(), "the list of ScrapeTargets is read");
    }

    /// An object is there. What differs from what was known of it decides who must look at it.
    fn shown(&mut self, scope: usize, Observed { mut object, stand_in, unknown }: Observed) {
        let id = object.id.clone();
        if let Some(field) = unknown.filter(|_| !std::mem::replace(&mut self.told_of_newer, true)) {
            tracing::warn!(target = %id, field, "the CRD in the cluster is newer than this program: what this does not know is ignored");
        }
        if let Some(shown) = self.scopes.get_mut(scope).and_then(|scope| scope.listing.as_mut()) {
            shown.insert(id.clone());
        }
        let mut before = self.shared.catalog.get(&id).map(|record| record.object);
        if before.as_ref().is_some_and(|before| before.uid != object.uid) {
            self.gone(&id); // another one of the same name: nothing of the first is its own
            before = None;
        }
        if let Some(before) = &before
            && before.declaration == object.declaration
        {
            if before.resource_version == object.resource_version {
                return;
            }
            // The pollers hold this one already.
            object.declaration.clone_from(&before.declaration);
            let news = before.generation != object.generation || before.status != object.status;
            self.shared.catalog.put(Arc::new(object));
            self.saw("status", &id);
            if news {
                self.shared.statuses.mark([id]);
            }
            return;
        }
        let due = if let Ok(declaration) = &object.declaration {
            self.secrets.want(&id, &declaration.spec);
            self.saw("applied", &id);
            Due::Declare
        } else {
            self.secrets.forget(&id);
            self.waiting.remove(&id);
            self.saw("malformed", &id);
            Due::Refuse(stand_in)
        };
        if self.known.is_known() {
            self.journal.note(&id, if before.is_none() { Event::Added } else { Event::Changed });
        }
        self.shared.catalog.put(Arc::new(object));
        self.due.insert(id, due);
    }

    /// An object is gone: nothing of it is left at once.
    fn gone(&mut self, id: &TargetId) {
        self.due.remove(id);
        self.waiting.remove(id);
        self.secrets.forget(id);
        if self.shared.catalog.remove(id).is_some() {
            self.shared.pollers.remove(id);
            self.shared.statuses.mark([id.clone()]);
            self.shared.enqueue_monitors([id.clone()]);
            self.journal.note(id, Event::Removed);
            self.saw("deleted", id);
        }
    }

    /// Values that targets refer to were read, or have changed.
    fn values_changed(&mut self) {
        for id in self.secrets.changed().take(BATCH) {
            self.due.entry(id).or_insert(Due::Declare);
        }
    }

    /// Targets that have waited long enough are declared as they are.
    fn lose_patience(&mut self) {
        let now = Instant::now();
        for (id, _) in self.waiting.iter().filter(|(_, until)| **until <= now) {
            self.due.entry(id.clone()).or_insert(Due::Declare);
        }
    }

    /// Gives the pollers what is due, in one step. Returns whether some is left.
    fn declare(&mut self) -> bool {
        let mut targets = Vec::new();
        let mut verdicts = Vec::new();
        for _ in 0..BATCH {
            let Some((id, due)) = self.due.pop_first() else { break };
            let Some(record) = self.shared.catalog.get(&id) else { continue };
            let problem = match (&record.object.declaration, due) {
                (Ok(declaration), Due::Declare) => {
                    if !self.is_ready(&id) {
                        continue;
                    }
                    let target = Target::declare(id.clone(), Arc::clone(declaration), &*self.secrets);
                    let problem = target.problem.clone();
                    targets.push(target);
                    problem
                }
                (Err(problem), Due::Refuse(stand_in)) => {
                    if let Some(stand_in) = stand_in {
                        let target = Target::declare(id.clone(), stand_in, &*self.secrets);
                        targets.push(Target { problem: Some(problem.clone()), ..target });
                    } else {
                        self.shared.pollers.remove(&id);
                        self.journal.note(&id, Event::Refused(problem));
                    }
                    Some(problem.clone())
                }
                _ => continue, // a value came for what cannot use it any more
            };
            verdicts.push((id, problem));
        }
        if !verdicts.is_empty() {
            self.shared.pollers.apply(targets);
            self.judged(verdicts);
        }
        !self.due.is_empty()
    }

    /// Whether a target can be declared: its Secrets are read, or have been waited for.
    fn is_ready(&mut self, id: &TargetId) -> bool {
        let now = Instant::now();
        let ready =
            self.secrets.settled(id) || *self.waiting.entry(id.clone()).or_insert_with(|| now + PATIENCE) <= now;
        if ready {
            self.waiting.remove(id);
        }
        ready
    }

    /// Notes what the pollers were given, and tells those who write.
    fn judged(&mut self, verdicts: Vec<(TargetId, Option<Problem>)>) {
        let mut ids = Vec::with_capacity(verdicts.len());
        for (id, problem) in verdicts {
            let outcome = if problem.is_none() { "success" } else { "failure" };
            self.shared.metrics.reconciles.with_label_values(&[outcome]).inc();
            let error = problem.as_ref().map(|problem| problem.message.as_str());
            tracing::debug!(target = %id, outcome, error, "reconciled");
            self.shared.catalog.put_accepted(&id, problem.map_or(Ok(()), Err));
            ids.push(id);
        }
        self.shared.statuses.mark(ids.iter().cloned());
        self.shared.enqueue_monitors(ids);
    }

    fn saw(&self, event: &str, id: &TargetId) {
        self.count(event);
        tracing::debug!(target = %id, event, "the watch tells of a ScrapeTarget");
    }

    fn count(&self, event: &str) {
        self.shared.metrics.events.with_label_values(&["ScrapeTarget", event]).inc();
    }
}
