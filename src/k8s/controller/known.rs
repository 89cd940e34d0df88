//! When the targets are known: from then on, one that is missing is missing in the cluster, and not just with us.

use std::time::Duration;

use tokio::time::Instant;

/// Secrets that are not read by then are waited for no longer.
const PATIENCE: Duration = Duration::from_secs(3);

/// What has been heard of each scope.
#[derive(Debug)]
pub(super) struct Known {
    scopes: Vec<Heard>,
    /// When the last of them was heard of.
    heard: Option<Instant>,
    done: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Heard {
    Nothing,
    /// It may not be listed. It does not keep the others waiting.
    Denied,
    Listed,
}

impl Known {
    pub(super) fn new(scopes: usize) -> Self {
        Self { scopes: vec![Heard::Nothing; scopes], heard: None, done: false }
    }

    /// A scope was listed. Returns whether it had been before.
    pub(super) fn listed(&mut self, scope: usize) -> bool {
        let before = self.scopes.get(scope) == Some(&Heard::Listed);
        self.hear(scope, Heard::Listed);
        before
    }

    /// A scope may not be listed.
    pub(super) fn denied(&mut self, scope: usize) {
        if self.scopes.get(scope) == Some(&Heard::Nothing) {
            self.hear(scope, Heard::Denied);
        }
    }

    fn hear(&mut self, scope: usize, heard: Heard) {
        if let Some(place) = self.scopes.get_mut(scope) {
            *place = heard;
        }
        // Where everything is denied, an empty list would be a mistake.
        if self.scopes.contains(&Heard::Listed) && !self.scopes.contains(&Heard::Nothing) {
            self.heard.get_or_insert_with(Instant::now);
        }
    }

    /// When the targets are known at the latest; `None`: that is over, or cannot be told.
    pub(super) fn latest(&self) -> Option<Instant> {
        self.heard.filter(|_| !self.done).map(|heard| heard + PATIENCE)
    }

    /// Whether they have just become known; `settled`: no target waits for its Secrets.
    pub(super) fn becomes(&mut self, settled: bool) -> bool {
        let becomes = self.latest().is_some_and(|latest| settled || latest <= Instant::now());
        self.done |= becomes;
        becomes
    }

    /// Whether they are known.
    pub(super) const fn is_known(&self) -> bool {
        self.done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn targets_are_known_when_every_scope_was_heard_and_one_listed() {
        let mut known = Known::new(2);
        assert!(!known.listed(1) && !known.becomes(true));
        known.denied(0);
        assert!(known.becomes(true) && known.is_known());
        assert!(!known.becomes(true), "only once");
        assert!(known.listed(1), "the second time");
    }

    #[tokio::test(start_paused = true)]
    async fn where_everything_is_denied_nothing_is_known() {
        let mut known = Known::new(2);
        known.denied(0);
        known.denied(1);
        assert!(!known.becomes(true));
        known.listed(0);
        assert!(known.becomes(true));
    }

    #[tokio::test(start_paused = true)]
    async fn secrets_that_nobody_can_read_delay_it_for_three_seconds() {
        let mut known = Known::new(1);
        known.listed(0);
        assert!(!known.becomes(false));
        tokio::time::advance(PATIENCE).await;
        assert!(known.becomes(false));
        assert_eq!(known.latest(), None);
    }
}
