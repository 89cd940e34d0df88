//! One target as pages and documents show it: what is declared, its state, its last poll.

use std::sync::Arc;
use std::time::SystemTime;

use super::reply::Audience;
use crate::poll::{Poller, Pollers, Snapshot, Status};
use crate::target::Target;

/// Everything about one target at one moment.
pub(super) struct View {
    pub(super) target: Arc<Target>,
    pub(super) status: Status,
    newest: Option<Arc<Snapshot>>,
}

impl View {
    fn new(poller: &Poller) -> Self {
        Self { target: poller.target(), status: poller.status(), newest: poller.newest() }
    }

    /// The newest result, if a poll took place.
    pub(super) fn last_poll(&self) -> Option<&Snapshot> {
        self.newest.as_deref().filter(|snapshot| !snapshot.stands)
    }

    /// When the last poll ended.
    pub(super) fn last_poll_at(&self) -> Option<SystemTime> {
        self.last_poll().map(|snapshot| snapshot.ended_at)
    }
}

/// All targets, in the order of names; some of them where nobody waits for them any more.
pub(super) fn all(pollers: &Pollers, audience: &Audience) -> Vec<View> {
    pollers.list().iter().take_while(|_| audience.is_there()).map(|poller| View::new(poller)).collect()
}
