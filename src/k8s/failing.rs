//! Which writes the API server fails at although it answers, as it does where a webhook that it must ask is away. That is no reason to
//! keep all others waiting, and to try it again must not take from them what they need.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::WRITES_PER_SECOND;

/// After the first failure, and after many: each pause is twice as long as the one before.
const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);

/// All that fail together may use a quarter of our writes.
const GAP: Duration = Duration::from_millis(4_000 / WRITES_PER_SECOND as u64);

/// So many objects that fail, and none that does not: it is the namespace, and what has not been tried there waits for its turn as well.
const MANY: usize = 8;

/// A webhook may need seconds to fail: so many attempts may be under way, and the other places are for others.
const MOST_TRIED: usize = 2;

/// What one part writes, by `K`.
#[derive(Debug)]
pub(super) struct Failing<K> {
    waits: HashMap<K, Wait>,
    /// Since something was written there for the last time.
    namespaces: HashMap<Arc<str>, Row>,
    /// Those of `waits` that are being tried.
    tried: HashSet<K>,
}

#[derive(Debug)]
struct Wait {
    namespace: Arc<str>,
    /// What it was that should be written. Something else may be tried at once.
    what: u64,
    until: Instant,
    /// None: it waits because of its namespace.
    failures: u32,
}

#[derive(Debug)]
struct Row {
    objects: usize,
    /// What was answered last.
    why: String,
}

impl<K> Default for Failing<K> {
    fn default() -> Self {
        Self { waits: HashMap::new(), namespaces: HashMap::new(), tried: HashSet::new() }
    }
}

impl<K: Clone + Eq + Hash> Failing<K> {
    /// When `what` may be written for `key`; `None`: now.
    pub(super) fn until(&mut self, key: &K, namespace: &Arc<str>, what: u64, now: Instant) -> Option<Instant> {
        let behind_all = now + self.queue();
        let busy = self.tried.len() >= MOST_TRIED;
        match self.waits.get_mut(key) {
            Some(wait) if wait.what == what || wait.failures == 0 => {
                if wait.until <= now && busy {
                    wait.until = behind_all;
                }
                Some(wait.until).filter(|until| *until > now)
            }
            _ => {
                self.why(namespace)?;
                let failures = self.waits.get(key).map_or(0, |wait| wait.failures);
                let wait = Wait { namespace: Arc::clone(namespace), what, until: behind_all, failures };
                self.waits.insert(key.clone(), wait);
                Some(behind_all)
            }
        }
    }

    /// How long all that wait take together.
    fn queue(&self) -> Duration {
        GAP.saturating_mul(u32::try_from(self.waits.len()).unwrap_or(u32::MAX).saturating_add(1))
    }

    /// A write has begun.
    pub(super) fn begin(&mut self, key: &K) {
        if self.waits.contains_key(key) {
            self.tried.insert(key.clone());
        }
    }

    /// It has ended without anything that can be learned from it.
    pub(super) fn give_up(&mut self, key: &K) {
        self.tried.remove(key);
    }

    /// The API server failed at it. Returns how often it did so in a row, and until when it is not tried again.
    pub(super) fn fail(&mut self, key: &K, namespace: &Arc<str>, what: u64, why: &str, now: Instant) -> (u32, Instant) {
        self.tried.remove(key);
        let failures = self.waits.get(key).map_or(0, |wait| wait.failures).saturating_add(1);
        let row =
            self.namespaces.entry(Arc::clone(namespace)).or_insert_with(|| Row { objects: 0, why: String::new() });
        why.clone_into(&mut row.why);
        row.objects += usize::from(failures == 1);
        let pause = SHORTEST.saturating_mul(2_u32.saturating_pow(failures - 1)).min(LONGEST);
        let until = now + pause.max(self.queue());
        self.waits.insert(key.clone(), Wait { namespace: Arc::clone(namespace), what, until, failures });
        (failures, until)
    }

    /// It was written. What waited because of its namespace need not wait any more.
    pub(super) fn succeed(&mut self, key: &K, namespace: &str) {
        self.forget(key);
        if self.namespaces.remove(namespace).is_some_and(|row| row.objects >= MANY) {
            self.waits.retain(|_, wait| wait.failures > 0 || *wait.namespace != *namespace);
        }
    }

    /// It failed in another way, or nothing is to be written any more.
    pub(super) fn forget(&mut self, key: &K) {
        self.tried.remove(key);
        self.waits.remove(key);
    }

    /// What the API server answers in a namespace where it fails at everything.
    pub(super) fn why(&self, namespace: &str) -> Option<&str> {
        self.namespaces.get(namespace).filter(|row| row.objects >= MANY).map(|row| row.why.as_str())
    }

    /// What may be tried by now.
    #[cfg(test)]
    pub(super) fn due(&self, now: Instant) -> impl Iterator<Item = &K> {
        let is_due = move |(key, wait): &(&K, &Wait)| wait.until <= now && !self.tried.contains(*key);
        self.waits.iter().filter(is_due).map(|(key, _)| key)
    }

    /// Forgets what is gone, and namespaces in which nothing waits.
    pub(super) fn retain(&mut self, is_there: impl Fn(&K) -> bool) {
        self.waits.retain(|key, _| is_there(key));
        self.tried.retain(|key| self.waits.contains_key(key));
        let namespaces: HashSet<&Arc<str>> = self.waits.values().map(|wait| &wait.namespace).collect();
        self.namespaces.retain(|namespace, _| namespaces.contains(namespace));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn namespace(name: &str) -> Arc<str> {
        name.into()
    }

    /// Has `count` objects of namespace `a` fail.
    fn failing(count: u32, now: Instant) -> Failing<u32> {
        let mut failing = Failing::default();
        for key in 0..count {
            failing.fail(&key, &namespace("a"), 1, "no", now);
        }
        failing
    }

    #[tokio::test(start_paused = true)]
    async fn the_pauses_of_one_object_grow_to_a_minute_and_something_else_is_tried_at_once() {
        let (mut failing, mut now) = (Failing::default(), Instant::now());
        for (failures, pause) in (1..).zip([1, 2, 4, 8, 16, 32, 60, 60]) {
            assert_eq!(failing.fail(&1, &namespace("a"), 7, "no", now), (failures, now + pause * SECOND));
            assert!(failing.until(&1, &namespace("a"), 7, now).is_some());
            assert_eq!(failing.until(&1, &namespace("a"), 8, now), None);
            assert_eq!(failing.until(&2, &namespace("a"), 7, now), None, "one object is not all of them");
            now += pause * SECOND;
            assert_eq!(failing.due(now).collect::<Vec<_>>(), [&1]);
            assert_eq!(failing.until(&1, &namespace("a"), 7, now), None);
        }
        failing.succeed(&1, "a");
        assert_eq!(failing.fail(&1, &namespace("a"), 7, "no", now).0, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn where_nothing_is_written_what_is_new_waits_for_its_turn_until_one_write_succeeds() {
        let now = Instant::now();
        let mut failing = failing(8, now);
        assert_eq!(failing.why("a"), Some("no"));
        assert_eq!(failing.until(&100, &namespace("b"), 1, now), None);
        let first = failing.until(&100, &namespace("a"), 1, now).unwrap();
        let second = failing.until(&101, &namespace("a"), 1, now).unwrap();
        assert!(first > now && second == first + GAP);
        assert_eq!(failing.until(&100, &namespace("a"), 2, now), Some(first), "it keeps its turn, whatever it is");
        failing.succeed(&0, "a");
        assert_eq!(failing.why("a"), None);
        assert_eq!(failing.until(&101, &namespace("a"), 1, now), None);
        assert!(failing.until(&1, &namespace("a"), 1, now).is_some(), "what has failed itself goes on waiting");
    }

    #[tokio::test(start_paused = true)]
    async fn many_that_fail_share_a_quarter_of_the_writes_and_few_places() {
        let mut now = Instant::now();
        let mut failing = failing(10_000, now);
        let (mut tries, began) = (0, now);
        while now < began + 1000 * SECOND {
            now += SECOND;
            let due: Vec<u32> = failing.due(now).copied().collect();
            for key in due {
                if failing.until(&key, &namespace("a"), 1, now).is_none() {
                    failing.begin(&key);
                    failing.fail(&key, &namespace("a"), 1, "no", now);
                    tries += 1;
                }
            }
        }
        let most = 1000 * WRITES_PER_SECOND / 4;
        assert!(tries > most / 2 && tries <= most + most / 10, "{tries}");

        let due: Vec<u32> = failing.due(now + 1000 * SECOND).copied().collect();
        now += 1000 * SECOND;
        let places = due.iter().filter(|key| {
            let may = failing.until(key, &namespace("a"), 1, now).is_none();
            failing.begin(key);
            may
        });
        assert_eq!(places.count(), MOST_TRIED);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_gone_is_forgotten() {
        let mut failing = failing(20, Instant::now());
        failing.begin(&1);
        failing.retain(|_| false);
        assert!(failing.waits.is_empty() && failing.namespaces.is_empty() && failing.tried.is_empty());
    }
}
