//! Which replica leads: the one that holds the Lease. It polls in the background, writes into the cluster, and is the only endpoint of
//! the Service that Prometheus scrapes.
//!
//! Two things are kept apart. The role says who polls; a leader keeps it while it knows of no other, also when the API server is away.
//! The right to write ends by itself when the Lease could have passed to another, and comes only from the Lease as the API server shows
//! it.

mod candidate;
mod election;
mod endpoint_slice;
mod endpoints;
mod lease;
mod state;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub(super) use lease::LONGEST;

use super::Shared;

/// What this replica is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Another answers scrapes; this one polls only when asked.
    Standby,
    /// This one polls and answers scrapes.
    Leader,
}

/// What is known of the election.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Term {
    role: Role,
    /// `None`: nothing may be written.
    right: Option<Right>,
}

/// Until when nobody else can hold the Lease, on two clocks. The one that never jumps stands still while the machine is suspended; the
/// other does not, and where it jumps ahead the right is only lost until the next renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Right {
    until: Instant,
    wall: SystemTime,
}

/// What this replica may do now. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Leadership(watch::Receiver<Term>);

impl Leadership {
    /// Whether the cluster may be written to: asked before every single write, since a process that was paused wakes up in the past.
    pub(super) fn may_write(&self) -> bool {
        self.left().is_some()
    }

    /// Waits until the cluster may be written to.
    pub(super) async fn granted(&mut self) {
        while !self.may_write() {
            self.changed().await;
        }
    }

    /// Waits until the cluster may not be written to any more.
    pub(super) async fn lost(&mut self) {
        while let Some(left) = self.left() {
            tokio::select! {
                () = self.changed() => {}
                () = tokio::time::sleep(left) => {}
            }
        }
    }

    /// How long the cluster may still be written to.
    fn left(&self) -> Option<Duration> {
        let Right { until, wall } = self.0.borrow().right?;
        let left = until.saturating_duration_since(Instant::now());
        let left = left.min(wall.duration_since(SystemTime::now()).unwrap_or_default());
        (!left.is_zero()).then_some(left)
    }

    /// Of a replica that never leads.
    #[cfg(test)]
    pub(super) fn never() -> Self {
        Self(watch::channel(Term { role: Role::Standby, right: None }).1)
    }

    /// Waits for news. There are none after the election has ended, which it does when the process does.
    async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Takes part in the election until `stop`. After `resign` the Lease is given back and not taken again.
pub(super) fn start(
    shared: &Arc<Shared>,
    tasks: &mut JoinSet<&'static str>,
    stop: &CancellationToken,
    resign: &CancellationToken,
) -> Leadership {
    let (terms, receiver) = watch::channel(Term { role: Role::Standby, right: None });
    let leadership = Leadership(receiver);
    let (watcher, views) = lease::LeaseWatcher::new(shared);
    tasks.spawn(watcher.run(stop.clone()));
    tasks.spawn(election::Election::new(shared, views, terms).run(stop.clone(), resign.clone()));
    if let Some(address) = shared.settings.advertise.filter(|_| !shared.settings.discovery.service.is_empty()) {
        // Until it is known better: whoever may write the one may write the other.
        let (tell, sliced) = watch::channel(true);
        tasks.spawn(endpoint_slice::run(Arc::clone(shared), address, leadership.clone(), tell, stop.clone()));
        tasks.spawn(endpoints::run(Arc::clone(shared), address, leadership.clone(), sliced, stop.clone()));
    }
    leadership
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::k8s::{Discovery, Election, Settings};

    /// Settings of a release `st` in the namespace `monitoring`, for a replica `a`.
    pub(in crate::k8s) fn settings() -> Settings {
        Settings {
            namespace: "monitoring".to_owned(),
            release: "st".to_owned(),
            watch_namespaces: Vec::new(),
            target_selector: None,
            secret_label: None,
            discovery: Discovery { service: "st-probe".to_owned(), ..Discovery::default() },
            election: Election { lease: "st".to_owned(), identity: "a".to_owned(), duration: Duration::from_secs(15) },
            advertise: None,
        }
    }

    fn right(left: Duration) -> Right {
        Right { until: Instant::now() + left, wall: SystemTime::now() + left }
    }

    fn leadership(right: Right) -> (watch::Sender<Term>, Leadership) {
        let (sender, receiver) = watch::channel(Term { role: Role::Leader, right: Some(right) });
        (sender, Leadership(receiver))
    }

    /// Longer than anything here takes on a busy machine.
    const PATIENCE: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn the_right_to_write_ends_by_itself() {
        let (_sender, mut leadership) = leadership(right(Duration::from_secs(2)));
        assert!(leadership.may_write());
        tokio::time::timeout(PATIENCE, leadership.lost()).await.expect("an end in time");
        assert!(!leadership.may_write());
    }

    #[tokio::test]
    async fn the_right_to_write_has_ended_for_a_machine_that_was_suspended() {
        let woken = Right { wall: SystemTime::now() - Duration::from_secs(1), ..right(Duration::from_secs(60)) };
        let (_sender, leadership) = leadership(woken);
        assert!(!leadership.may_write());
    }

    #[tokio::test]
    async fn the_right_to_write_is_lost_and_granted_with_the_lease() {
        let (sender, mut leadership) = leadership(right(2 * PATIENCE));
        sender.send_modify(|term| term.right = None);
        tokio::time::timeout(PATIENCE, leadership.lost()).await.expect("an end in time");
        sender.send_modify(|term| term.right = Some(right(2 * PATIENCE)));
        tokio::time::timeout(PATIENCE, leadership.granted()).await.expect("a beginning in time");
    }
}
