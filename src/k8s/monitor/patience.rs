//! When to try again what did not work, so that nothing is tried in a hot loop, and nothing is given up.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::super::backoff::Backoff;
use super::super::catalog::MonitorState;
use super::place::Place;
use crate::target::TargetId;

/// How long a name that is taken, a refused object or a namespace without permission is left alone.
pub(super) const REST: Duration = Duration::from_mins(1);

/// A fight that rested for this long is over.
const PEACE: Duration = Duration::from_mins(5);

/// The longest pause while the API server does not answer.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// What must not be tried before its time.
#[derive(Debug)]
pub(super) struct Patience {
    /// By target: until when, and what it was that did not work. Something else may be tried at once.
    waits: HashMap<TargetId, (Instant, u64)>,
    /// By namespace: until when, and what is to be said of its targets.
    resting: HashMap<Arc<str>, (Instant, Option<MonitorState>)>,
    /// By monitor: somebody else changes what we write.
    fights: HashMap<Place, Fight>,
    /// The API server does not answer: until when nothing is asked.
    pause: Option<Instant>,
    backoff: Backoff,
}

#[derive(Debug)]
struct Fight {
    wanted: u64,
    rounds: u32,
    last: Instant,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            waits: HashMap::new(),
            resting: HashMap::new(),
            fights: HashMap::new(),
            pause: None,
            backoff: Backoff::up_to(LONGEST_PAUSE),
        }
    }
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

    /// Nothing at all is asked for a while: the API server does not answer.
    pub(super) fn pause(&mut self) {
        // Those that were asked together fail together.
        if !self.is_paused() {
            self.pause = Some(Instant::now() + self.backoff.next());
        }
    }

    /// The API server answers.
    pub(super) fn answered(&mut self) {
        self.pause = None;
        self.backoff.reset();
    }

    /// Whether nothing is asked now.
    pub(super) fn is_paused(&self) -> bool {
        self.pause.is_some_and(|until| until > Instant::now())
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

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_while_nobody_answers_and_end_with_the_first_answer() {
        let mut patience = Patience::default();
        let mut last = Duration::ZERO;
        for _ in 0..9 {
            patience.pause();
            patience.pause(); // eight requests fail together
            let started = Instant::now();
            while patience.is_paused() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            last = started.elapsed();
        }
        assert!(last >= LONGEST_PAUSE / 2 && last <= LONGEST_PAUSE + Duration::from_secs(1), "{last:?}");
        patience.answered();
        patience.pause();
        tokio::time::sleep(Duration::from_millis(600)).await;
        assert!(!patience.is_paused());
    }
}
