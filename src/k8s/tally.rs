//! What goes wrong with many objects for the same reason: some are told one by one, the others are counted.

use std::time::Duration;

use tokio::time::Instant;

/// So many are enough to show what is wrong.
const MOST_TOLD: usize = 10;

/// After this time, some are told again.
const WINDOW: Duration = Duration::from_secs(3600);

/// Of one kind of trouble.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// When the first was told.
    begun: Option<Instant>,
    told: usize,
    more: usize,
}

impl Tally {
    /// Takes note of one more. Returns whether it is to be told by itself.
    pub(super) fn note(&mut self, now: Instant) -> bool {
        if self.begun.is_none_or(|begun| now - begun >= WINDOW) {
            (self.begun, self.told) = (Some(now), 0);
        }
        let tell = self.told < MOST_TOLD;
        *(if tell { &mut self.told } else { &mut self.more }) += 1;
        tell
    }

    /// How many were not told since this was asked for the last time; `None`: none.
    pub(super) fn more(&mut self) -> Option<usize> {
        Some(std::mem::take(&mut self.more)).filter(|more| *more > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn some_are_told_each_hour_and_the_others_are_counted_once() {
        let (mut tally, now) = (Tally::default(), Instant::now());
        assert_eq!(tally.more(), None);
        assert_eq!((0..10_000).filter(|_| tally.note(now)).count(), 10);
        assert_eq!((tally.more(), tally.more()), (Some(9990), None));
        assert!(!tally.note(now + WINDOW / 2) && tally.note(now + WINDOW));
    }
}
