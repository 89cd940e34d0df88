//! Targets that must be looked at, but not before their time.

use std::collections::{BTreeSet, HashMap};

use tokio::time::Instant;

use crate::target::TargetId;

/// Each target stands in it at most once, with its earliest time.
#[derive(Debug, Default)]
pub(super) struct Agenda {
    order: BTreeSet<(Instant, TargetId)>,
    times: HashMap<TargetId, Instant>,
}

impl Agenda {
    /// Notes a target for `at`, unless it comes earlier anyway.
    pub(super) fn put(&mut self, id: TargetId, at: Instant) {
        if let Some(&earlier) = self.times.get(&id) {
            if earlier <= at {
                return;
            }
            self.order.remove(&(earlier, id.clone()));
        }
        self.times.insert(id.clone(), at);
        self.order.insert((at, id));
    }

    /// When the first is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.order.first().map(|&(at, _)| at)
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.order.len()
    }

    /// Takes up to `most` targets whose time has come.
    pub(super) fn take(&mut self, now: Instant, most: usize) -> Vec<TargetId> {
        let mut due = Vec::new();
        while due.len() < most
            && let Some((at, id)) = self.order.pop_first()
        {
            if at > now {
                self.order.insert((at, id));
                break;
            }
            self.times.remove(&id);
            due.push(id);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_target_is_due_once_and_at_the_earliest_of_its_times() {
        let (now, second) = (Instant::now(), Duration::from_secs(1));
        let mut agenda = Agenda::default();
        let id = |name| TargetId::new("a", name);
        for (name, at) in [("late", 9), ("twice", 5), ("twice", 3), ("twice", 7), ("soon", 1)] {
            agenda.put(id(name), now + at * second);
        }
        assert_eq!(agenda.next(), Some(now + second));
        assert!(agenda.take(now, 9).is_empty());
        assert_eq!(agenda.take(now + 4 * second, 1), [id("soon")]);
        assert_eq!(agenda.take(now + 4 * second, 9), [id("twice")]);
        assert_eq!(agenda.take(now + 99 * second, 9), [id("late")]);
        assert_eq!(agenda.next(), None);
    }
}
