//! When to try again what did not work, so that nothing is tried in a hot loop, and nothing is given up.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::k8s::catalog::MonitorState;
use crate::target::TargetId;

/// How long a name that is taken, a refused object or a namespace without permission is left alone.
pub(super) const REST: Duration = Duration::from_mins(1);

/// What must not be tried before its time.
#[derive(Debug, Default)]
pub(super) struct Patience {
    /// By target: until when, and what it was that did not work. Something else may be tried at once.
    waits: HashMap<TargetId, (Instant, u64)>,
    /// By namespace: until when, and what is to be said of its targets.
    resting: HashMap<Arc<str>, (Instant, Option<MonitorState>)>,
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

    /// Forgets what is long past.
    pub(super) fn tidy(&mut self) {
        let now = Instant::now();
        self.resting.retain(|_, (until, _)| *until > now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
