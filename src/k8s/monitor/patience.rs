//! When to try again what did not work, so that nothing is tried in a hot loop, and nothing is given up.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::super::catalog::MonitorState;
use super::place::Place;
use crate::target::TargetId;

/// How long a name that is taken, a refused object or a namespace without permission is left alone.
pub(super) const REST: Duration = Duration::from_mins(1);

/// A fight that rested for this long is over.
const PEACE: Duration = Duration::from_mins(5);

/// So many rounds are no accident.
const SERIOUS: u32 = 3;

/// What must not be tried before its time.
#[derive(Debug, Default)]
pub(super) struct Patience {
    /// By target: until when, and what it was that did not work. Something else may be tried at once.
    waits: HashMap<TargetId, (Instant, u64)>,
    /// By namespace: until when, and what is to be said of its targets.
    resting: HashMap<Arc<str>, (Instant, Option<MonitorState>)>,
    /// By monitor: somebody else changes what we write.
    fights: HashMap<Place, Fight>,
}

#[derive(Debug)]
struct Fight {
    wanted: u64,
    rounds: u32,
    last: Instant,
}

impl Patience {
    /// `wanted` is not tried again for `id` before `until`.
    pub(super) fn wait(&mut self, id: TargetId, wanted: u64, until: Instant) {
        self.waits.insert(id, (until, wanted));
    }

    /// Whether it is too early to try `wanted` for `id`.
    pub(super) fn is_waiting(&self, id: &TargetId, wanted: u64) -> bool {
        self.waits.get(id).is_some_and(|(_, what)| *what == wanted)
    }

    /// There is nothing to wait for any more.
    pub(super) fn forget(&mut self, id: &TargetId) {
        self.waits.remove(id);
    }

    /// The targets whose time has come. They do not wait any more.
    pub(super) fn due(&mut self) -> Vec<TargetId> {
        let now = Instant::now();
        self.waits.extract_if(|_, (until, _)| *until <= now).map(|(id, _)| id).collect()
    }

    /// Leaves a whole namespace alone.
    pub(super) fn rest(&mut self, namespace: &Arc<str>, state: Option<MonitorState>) {
        self.resting.insert(Arc::clone(namespace), (Instant::now() + REST, state));
    }

    /// Until when a namespace is left alone, and what is said of its targets.
    pub(super) fn resting(&self, namespace: &str) -> Option<(Instant, Option<MonitorState>)> {
        self.resting.get(namespace).filter(|(until, _)| *until > Instant::now()).cloned()
    }

    /// Notes that `wanted` was written at `place`.
    pub(super) fn wrote(&mut self, place: &Place, wanted: u64) {
        let now = Instant::now();
        let rounds = match self.fights.get(place) {
            Some(fight) if fight.wanted == wanted && now.duration_since(fight.last) < PEACE => fight.rounds + 1,
            _ => 0,
        };
        self.fights.insert(place.clone(), Fight { wanted, rounds, last: now });
    }

    /// When `wanted` may be written at `place` again; `None`: now. The first time at once, then later and later: whoever changes it
    /// each time would else keep us both busy for ever.
    pub(super) fn truce(&self, place: &Place, wanted: u64) -> Option<Instant> {
        let fight = self.fights.get(place).filter(|fight| fight.wanted == wanted && fight.rounds > 0)?;
        let pause = Duration::from_secs(1 << fight.rounds.min(6)).min(REST);
        Some(fight.last + pause).filter(|until| *until > Instant::now())
    }

    /// Whether somebody else fights for what we want at `place`, and has not given up yet.
    pub(super) fn is_fought_for(&self, place: &Place, wanted: u64) -> bool {
        self.fights.get(place).is_some_and(|fight| fight.wanted == wanted && fight.rounds >= SERIOUS)
    }

    /// There is nothing to fight for any more: the user wants no monitor at `place`. When she wants it again, it is no answer to somebody.
    pub(super) fn make_peace(&mut self, place: &Place) {
        self.fights.remove(place);
    }

    /// Forgets what is long past.
    pub(super) fn tidy(&mut self) {
        let now = Instant::now();
        self.fights.retain(|_, fight| now.duration_since(fight.last) < PEACE);
        self.resting.retain(|_, (until, _)| *until > now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> Place {
        Place { namespace: "a".into(), name: "b".into() }
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_change_of_somebody_else_is_put_back_at_once_and_further_ones_later_and_later() {
        let mut patience = Patience::default();
        patience.wrote(&place(), 7);
        assert_eq!(patience.truce(&place(), 7), None);
        let mut pauses = Vec::new();
        for _ in 0..7 {
            patience.wrote(&place(), 7);
            let until = patience.truce(&place(), 7).unwrap();
            pauses.push((until - Instant::now()).as_secs());
            tokio::time::sleep_until(until).await;
            assert_eq!(patience.truce(&place(), 7), None);
        }
        assert_eq!(pauses, [2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(patience.truce(&place(), 8), None, "what the user changes is written at once");
        tokio::time::sleep(PEACE).await;
        patience.wrote(&place(), 7);
        assert_eq!(patience.truce(&place(), 7), None, "the fight was over");
    }

    #[tokio::test(start_paused = true)]
    async fn a_fight_is_serious_after_some_rounds_and_until_it_has_rested() {
        let mut patience = Patience::default();
        for _ in 0..3 {
            patience.wrote(&place(), 7);
            assert!(!patience.is_fought_for(&place(), 7));
        }
        patience.wrote(&place(), 7);
        assert!(patience.is_fought_for(&place(), 7) && !patience.is_fought_for(&place(), 8));
        tokio::time::sleep(PEACE).await;
        patience.tidy();
        assert!(!patience.is_fought_for(&place(), 7));
    }

    #[tokio::test(start_paused = true)]
    async fn a_user_who_changes_her_mind_five_times_does_not_fight_with_us() {
        let mut patience = Patience::default();
        for _ in 0..5 {
            assert_eq!(patience.truce(&place(), 7), None);
            patience.wrote(&place(), 7);
            patience.make_peace(&place());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_target_waits_for_its_time_unless_it_changes() {
        let mut patience = Patience::default();
        let id = TargetId::new("a", "b");
        patience.wait(id.clone(), 7, Instant::now() + REST);
        assert!(patience.is_waiting(&id, 7) && !patience.is_waiting(&id, 8));
        assert_eq!(patience.due(), []);
        tokio::time::sleep(REST).await;
        assert_eq!(patience.due(), std::slice::from_ref(&id));
        assert!(!patience.is_waiting(&id, 7));
    }
}
