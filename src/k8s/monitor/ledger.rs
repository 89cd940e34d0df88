//! Which ServiceMonitors of this release there are, and whether each is as it should be. A few numbers for each, not the objects.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::desired::Desired;
use super::observed::Observed;
use super::place::Place;

/// One monitor of ours.
#[derive(Debug)]
struct Seen {
    uid: String,
    /// As its label says it.
    target_namespace: Option<Arc<str>>,
    /// What should have been there when it was last seen, and what was.
    looked: Option<Look>,
    /// What we wanted to write when we last wrote, and what came of it: where the API server or a webhook changes what we write, it is
    /// not written again and again.
    settled: Option<Look>,
    /// It does what no monitor of ours may do: an earlier version wrote it.
    forgery: bool,
}

/// What was wanted and what was found, as marks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Look {
    wanted: u64,
    found: u64,
}

impl Look {
    fn new(found: &Observed, desired: &Desired) -> Self {
        Self { wanted: desired.mark, found: found.mark(desired) }
    }
}

/// What is known of a place.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Finding<'l> {
    /// No monitor of ours is there; perhaps one of somebody else.
    Nothing,
    /// Ours is there, as it should be.
    Good,
    /// Ours is there with this uid, and is not as it should be, or was not looked at with that in mind.
    Bad(&'l str),
}

/// All monitors of ours, by place.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    seen: HashMap<Place, Seen>,
    /// What the lists that run now have shown.
    lists: HashMap<usize, HashSet<Place>>,
    /// The watches whose list has ended.
    complete: HashSet<usize>,
}

impl Ledger {
    /// The watch `scope` begins anew.
    pub(super) fn begin(&mut self, scope: usize) {
        self.lists.insert(scope, HashSet::new());
    }

    /// The watch `scope` has shown all that it covers. Returns the monitors that are gone; `covers` tells which belong to it.
    pub(super) fn end(&mut self, scope: usize, covers: impl Fn(&Place) -> bool) -> Vec<Place> {
        self.complete.insert(scope);
        let shown = self.lists.remove(&scope).unwrap_or_default();
        let gone: Vec<Place> =
            self.seen.keys().filter(|place| covers(place) && !shown.contains(*place)).cloned().collect();
        for place in &gone {
            self.seen.remove(place);
        }
        gone
    }

    /// Whether the watch `scope` has shown all at least once: before that, nothing is known to be missing.
    pub(super) fn is_complete(&self, scope: usize) -> bool {
        self.complete.contains(&scope)
    }

    /// Takes what the watch `scope` shows; `desired` is what should be there, `forgery` whether what is there must not stay in any case.
    pub(super) fn see(&mut self, scope: usize, found: Observed, desired: Option<&Desired>, forgery: bool) {
        if let Some(shown) = self.lists.get_mut(&scope) {
            shown.insert(found.place.clone());
        }
        let looked = desired.map(|desired| Look::new(&found, desired));
        match self.seen.get_mut(&found.place) {
            Some(seen) if seen.uid == found.uid => {
                seen.target_namespace = found.target_namespace;
                seen.looked = looked;
                seen.forgery = forgery;
            }
            _ => {
                let Observed { place, uid, target_namespace, .. } = found;
                self.seen.insert(place, Seen { uid, target_namespace, looked, settled: None, forgery });
            }
        }
    }

    /// Takes the answer to our own write. If `overtaken`, the watch has shown something meanwhile that may be newer.
    pub(super) fn wrote(&mut self, found: Observed, desired: &Desired, overtaken: bool) {
        let look = Look::new(&found, desired);
        match self.seen.get_mut(&found.place) {
            Some(seen) if seen.uid == found.uid => {
                seen.settled = Some(look);
                if !overtaken {
                    seen.looked = Some(look);
                    seen.forgery = false;
                }
            }
            _ if overtaken => {}
            _ => {
                let Observed { place, uid, target_namespace, .. } = found;
                let (looked, settled) = (Some(look), Some(look));
                self.seen.insert(place, Seen { uid, target_namespace, looked, settled, forgery: false });
            }
        }
    }

    /// It is gone.
    pub(super) fn forget(&mut self, place: &Place) {
        self.seen.remove(place);
    }

    /// Whether what should be at `place` is there.
    pub(super) fn find(&self, place: &Place, wanted: u64) -> Finding<'_> {
        let Some(seen) = self.seen.get(place) else { return Finding::Nothing };
        let good = seen
            .looked
            .is_some_and(|look| look.wanted == wanted && (look.found == wanted || seen.settled == Some(look)));
        if good { Finding::Good } else { Finding::Bad(&seen.uid) }
    }

    /// Whether our monitor at `place` does what none may do.
    pub(super) fn is_forgery(&self, place: &Place) -> bool {
        self.seen.get(place).is_some_and(|seen| seen.forgery)
    }

    /// The uid of our monitor at `place`.
    pub(super) fn uid(&self, place: &Place) -> Option<&str> {
        self.seen.get(place).map(|seen| seen.uid.as_str())
    }

    /// Where the target of our monitor at `place` is, if its label says so.
    pub(super) fn target_namespace(&self, place: &Place) -> Option<&Arc<str>> {
        self.seen.get(place)?.target_namespace.as_ref()
    }

    /// Every place where there is one of ours.
    pub(super) fn places(&self) -> impl Iterator<Item = &Place> {
        self.seen.keys()
    }
}
