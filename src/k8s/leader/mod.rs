//! Which replica leads: the one that holds the Lease. It polls in the background, writes into the cluster, and is the only endpoint of
//! the Service that Prometheus scrapes.
//!
//! The role and the permit to write are separate. The role decides whether this replica polls: a leader keeps it while it knows of no
//! other, also while the API server is unreachable. The permit to write comes only from the Lease as the API server shows it, and ends by
//! itself when another replica could have acquired the Lease.

mod elector;
mod endpoints;
mod lease;
mod state;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub(super) use lease::LONGEST_LEASE;

use super::Shared;
use elector::LeaderElector;
use endpoints::{keep_endpoints, keep_slice};
use lease::LeaseWatcher;

/// The role of this replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Another replica answers scrapes. This one polls only when it is scraped.
    Standby,
    /// This replica polls in the background and answers scrapes.
    Leader,
}

/// What follows from the election for this replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct LeaderStatus {
    role: Role,
    /// `None`: nothing may be written.
    permit: Option<WritePermit>,
}

/// Until when no other replica can hold the Lease, on two clocks. The monotonic clock stands still while the machine is suspended. The wall
/// clock does not; when it jumps ahead, the permit is only lost until the next renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct WritePermit {
    until: Instant,
    wall: SystemTime,
}

/// What this replica may do. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Leadership(watch::Receiver<LeaderStatus>);

impl Leadership {
    /// Whether the cluster may be written to. Checked before every single write, since a process may be suspended at any moment.
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
        let WritePermit { until, wall } = self.0.borrow().permit?;
        let left = until.saturating_duration_since(Instant::now());
        let left = left.min(wall.duration_since(SystemTime::now()).unwrap_or_default());
        (!left.is_zero()).then_some(left)
    }

    /// The leadership of a replica that never leads.
    #[cfg(test)]
    pub(super) fn never() -> Self {
        Self(watch::channel(LeaderStatus { role: Role::Standby, permit: None }).1)
    }

    /// Waits for a change. The election ends only with the process.
    async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Takes part in the election until `stop`. After `resign` the Lease is released and not acquired again.
pub(super) fn start(
    shared: &Arc<Shared>,
    tasks: &mut JoinSet<&'static str>,
    stop: &CancellationToken,
    resign: &CancellationToken,
) -> Leadership {
    let (statuses, receiver) = watch::channel(LeaderStatus { role: Role::Standby, permit: None });
    let leadership = Leadership(receiver);
    let (watcher, views) = LeaseWatcher::new(shared);
    tasks.spawn(watcher.run(stop.clone()));
    tasks.spawn(LeaderElector::new(shared, views, statuses).run(stop.clone(), resign.clone()));
    if let Some(address) = shared.settings.advertise.filter(|_| !shared.settings.discovery.service.is_empty()) {
        // Until its first write the slice counts as written: the permissions for both objects are usually granted together.
        let (slice_written, has_slice) = watch::channel(true);
        tasks.spawn(keep_slice(Arc::clone(shared), address, leadership.clone(), slice_written, stop.clone()));
        tasks.spawn(keep_endpoints(Arc::clone(shared), address, leadership.clone(), has_slice, stop.clone()));
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
            probers: crate::target::AllowedProbers::default(),
            discovery: Discovery { service: "st-probe".to_owned(), ..Discovery::default() },
            election: Election { lease: "st".to_owned(), identity: "a".to_owned(), duration: Duration::from_secs(15) },
            advertise: None,
        }
    }

    fn permit(left: Duration) -> WritePermit {
        WritePermit { until: Instant::now() + left, wall: SystemTime::now() + left }
    }

    fn leadership(permit: WritePermit) -> (watch::Sender<LeaderStatus>, Leadership) {
        let (sender, receiver) = watch::channel(LeaderStatus { role: Role::Leader, permit: Some(permit) });
        (sender, Leadership(receiver))
    }

    /// Longer than anything here takes on a busy machine.
    const PATIENCE: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn the_permit_to_write_ends_by_itself() {
        let (_sender, mut leadership) = leadership(permit(Duration::from_secs(2)));
        assert!(leadership.may_write());
        tokio::time::timeout(PATIENCE, leadership.lost()).await.expect("an end in time");
        assert!(!leadership.may_write());
    }

    #[tokio::test]
    async fn the_permit_to_write_has_ended_for_a_machine_that_was_suspended() {
        let woken = WritePermit { wall: SystemTime::now() - Duration::from_secs(1), ..permit(Duration::from_secs(60)) };
        let (_sender, leadership) = leadership(woken);
        assert!(!leadership.may_write());
    }

    #[tokio::test]
    async fn the_permit_to_write_is_lost_and_granted_with_the_lease() {
        let (sender, mut leadership) = leadership(permit(2 * PATIENCE));
        sender.send_modify(|status| status.permit = None);
        tokio::time::timeout(PATIENCE, leadership.lost()).await.expect("an end in time");
        sender.send_modify(|status| status.permit = Some(permit(2 * PATIENCE)));
        tokio::time::timeout(PATIENCE, leadership.granted()).await.expect("a beginning in time");
    }
}
