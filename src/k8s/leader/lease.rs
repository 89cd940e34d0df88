//! The Lease as the API server shows it. Our own writes do not count until it shows them: they may be lost, delayed or overtaken.
//!
//! The clock of another machine is never read. How long a Lease is valid is counted from when its record was observed to change, on our own
//! monotonic clock, as client-go does; the times in the record serve only to tell one renewal from the next.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::k8s::outage::Part;
use crate::k8s::watch::{ObjectEvent, watch_object};
use crate::k8s::{Settings, Shared};

/// The longest duration that can be configured. A Lease with a longer one was edited, and would keep every replica from leading after its
/// holder has died.
pub(in crate::k8s) const LONGEST_LEASE: Duration = Duration::from_mins(5);

/// The record of the Lease.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct LeaseRecord {
    pub(super) spec: LeaseSpec,
    /// The resource version, for a write that fails if the record has changed.
    pub(super) version: Option<String>,
    /// When this spec was first observed.
    pub(super) since: Instant,
}

impl LeaseRecord {
    /// The record after `before`. A change of labels or annotations is no renewal.
    pub(super) fn next(lease: Lease, before: Option<&Self>, now: Instant) -> Self {
        let spec = lease.spec.unwrap_or_default();
        let same = before.filter(|before| before.spec == spec);
        Self { since: same.map_or(now, |before| before.since), version: lease.metadata.resource_version, spec }
    }

    pub(super) fn holder(&self) -> Option<&str> {
        self.spec.holder_identity.as_deref().filter(|holder| !holder.is_empty())
    }

    /// How long it is valid after each renewal. A Lease that was never renewed is not valid.
    pub(super) fn duration(&self) -> Duration {
        let seconds = self.spec.lease_duration_seconds.filter(|_| self.spec.renew_time.is_some());
        let seconds = seconds.and_then(|seconds| u64::try_from(seconds).ok()).unwrap_or_default();
        Duration::from_secs(seconds).min(LONGEST_LEASE)
    }

    /// When others may acquire it.
    pub(super) fn ends(&self) -> Instant {
        self.since + self.duration()
    }
}

/// The known state of the Lease.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) enum ObservedLease {
    /// Nothing is known yet.
    #[default]
    Unknown,
    /// The permission to read it is missing, and it was never read before.
    Denied,
    /// It does not exist; since when.
    Absent(Instant),
    /// It exists.
    Present(LeaseRecord),
}

impl ObservedLease {
    /// The state after the API server has shown `lease`.
    pub(super) fn next(&self, lease: Option<Lease>, now: Instant) -> Self {
        match (self, lease) {
            (Self::Present(before), Some(lease)) => Self::Present(LeaseRecord::next(lease, Some(before), now)),
            (_, Some(lease)) => Self::Present(LeaseRecord::next(lease, None, now)),
            (Self::Absent(since), None) => Self::Absent(*since),
            (_, None) => Self::Absent(now),
        }
    }

    /// The record, if somebody holds the Lease.
    pub(super) fn held(&self) -> Option<&LeaseRecord> {
        match self {
            Self::Present(record) if record.holder().is_some() => Some(record),
            _ => None,
        }
    }

    pub(super) fn is_held_by(&self, identity: &str) -> bool {
        self.held().and_then(LeaseRecord::holder) == Some(identity)
    }
}

/// The record that follows `before` when `identity` acquires or renews the Lease.
pub(super) fn renewed(before: Option<&LeaseSpec>, identity: &str, timing: &LeaseTiming) -> LeaseSpec {
    let now = Some(MicroTime(Timestamp::now()));
    let holder = |spec: &LeaseSpec| spec.holder_identity.clone().filter(|holder| !holder.is_empty());
    let is_renewal = before.is_some_and(|spec| holder(spec).as_deref() == Some(identity));
    let transitions = before.map_or(0, |spec| spec.lease_transitions.unwrap_or_default());
    LeaseSpec {
        holder_identity: Some(identity.to_owned()),
        lease_duration_seconds: i32::try_from(timing.duration.as_secs()).ok(),
        acquire_time: before.filter(|_| is_renewal).and_then(|spec| spec.acquire_time.clone()).or_else(|| now.clone()),
        renew_time: now,
        lease_transitions: Some(transitions.saturating_add(i32::from(before.is_some() && !is_renewal))),
        ..LeaseSpec::default()
    }
}

/// The times that follow from the duration of the Lease.
#[derive(Clone, Copy, Debug)]
pub(super) struct LeaseTiming {
    /// How long the Lease is valid after each renewal.
    pub(super) duration: Duration,
    /// From one renewal to the next: there is time for another one if one fails.
    pub(super) renewal_interval: Duration,
    /// Nothing is written this long before the end: clocks differ in speed, and a write takes a moment.
    pub(super) write_margin: Duration,
    /// The deadline of a request, so that there is time for another before the Lease ends.
    pub(super) request_timeout: Duration,
    /// The connection of a watch that shows no change for this long may be dead.
    silence: Duration,
}

impl LeaseTiming {
    pub(super) fn new(duration: Duration) -> Self {
        const SECOND: Duration = Duration::from_secs(1);
        let duration = Duration::from_secs(duration.as_secs()).clamp(2 * SECOND, LONGEST_LEASE);
        let renewal_interval = duration / 3;
        Self {
            duration,
            renewal_interval,
            write_margin: (2 * SECOND).min(duration / 5),
            request_timeout: renewal_interval.clamp(SECOND, 4 * SECOND),
            silence: renewal_interval + 5 * SECOND,
        }
    }
}

/// The Lease, and whether its watch works.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct LeaseView {
    pub(super) lease: ObservedLease,
    /// When the API server could be reached again, if it was ever unreachable.
    pub(super) recovered_at: Option<Instant>,
    pub(super) is_unreachable: bool,
}

/// Publishes what the API server shows of the Lease, and does nothing else.
pub(super) struct LeaseWatcher {
    shared: Arc<Shared>,
    views: watch::Sender<LeaseView>,
}

impl LeaseWatcher {
    pub(super) fn new(shared: &Arc<Shared>) -> (Self, watch::Receiver<LeaseView>) {
        let (views, receiver) = watch::channel(LeaseView::default());
        (Self { shared: Arc::clone(shared), views }, receiver)
    }

    /// Runs until `stop`.
    pub(super) async fn run(self, stop: CancellationToken) -> &'static str {
        let Settings { namespace, election, .. } = &self.shared.settings;
        let silence = LeaseTiming::new(election.duration).silence;
        let mut events = watch_object(&self.shared.client, namespace, &election.lease, silence);
        while let Some(Some(event)) = stop.run_until_cancelled(events.next()).await {
            self.publish(event);
        }
        "the watch of the Lease"
    }

    fn publish(&self, event: ObjectEvent<Lease>) {
        let now = Instant::now();
        let before = self.views.borrow().clone();
        let view = match event {
            ObjectEvent::Observed(lease) => {
                self.shared.outage.works(Part::Lease);
                let recovered_at = if before.is_unreachable { Some(now) } else { before.recovered_at };
                LeaseView { lease: before.lease.next(lease, now), recovered_at, is_unreachable: false }
            }
            ObjectEvent::Denied => {
                self.shared.outage.works(Part::Lease);
                // The state that was observed before is kept.
                let lease = match &before.lease {
                    ObservedLease::Unknown => ObservedLease::Denied,
                    known => known.clone(),
                };
                LeaseView { lease, is_unreachable: false, ..before.clone() }
            }
            ObjectEvent::Failed(error) => {
                self.shared.outage.failed(Part::Lease, &error, self.shared.pollers.known());
                LeaseView { is_unreachable: true, ..before.clone() }
            }
        };
        if view != before {
            self.views.send_replace(view);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(spec: &serde_json::Value) -> Lease {
        serde_json::from_value(serde_json::json!({ "metadata": { "resourceVersion": "7" }, "spec": spec })).unwrap()
    }

    fn held(renewed: &str) -> Lease {
        lease(&serde_json::json!({ "holderIdentity": "a", "renewTime": renewed, "leaseDurationSeconds": 15 }))
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_is_valid_from_when_it_was_observed_to_change_whatever_time_is_in_it() {
        for renewed in ["1970-01-01T00:01:40.000000Z", "2999-01-01T00:00:00.000000Z"] {
            let first = LeaseRecord::next(held(renewed), None, Instant::now());
            assert_eq!(first.ends() - Instant::now(), Duration::from_secs(15));
            tokio::time::advance(Duration::from_secs(10)).await;
            let same = LeaseRecord::next(held(renewed), Some(&first), Instant::now());
            assert_eq!(same.ends() - Instant::now(), Duration::from_secs(5), "nobody has renewed it");
            let earlier = LeaseRecord::next(held("1960-01-01T00:00:00.000000Z"), Some(&same), Instant::now());
            assert_eq!(earlier.ends() - Instant::now(), Duration::from_secs(15), "its clock went back");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_annotation_renews_nothing() {
        let first = LeaseRecord::next(held("1970-01-01T00:01:40.000000Z"), None, Instant::now());
        tokio::time::advance(Duration::from_secs(10)).await;
        let mut annotated = held("1970-01-01T00:01:40.000000Z");
        annotated.metadata.resource_version = Some("8".to_owned());
        let next = LeaseRecord::next(annotated, Some(&first), Instant::now());
        assert_eq!((next.since, next.version.as_deref()), (first.since, Some("8")));
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_without_holder_or_renewal_is_not_held_and_none_is_valid_for_hours() {
        let now = Instant::now();
        let observed = |spec: serde_json::Value| ObservedLease::Unknown.next(Some(lease(&spec)), now);
        assert_eq!(ObservedLease::Unknown.next(None, now).held(), None);
        for spec in [serde_json::json!({}), serde_json::json!({ "holderIdentity": "" })] {
            assert_eq!(observed(spec).held(), None);
        }
        let ends = |spec| observed(spec).held().unwrap().ends() - now;
        assert_eq!(ends(serde_json::json!({ "holderIdentity": "a", "leaseDurationSeconds": 15 })), Duration::ZERO);
        let renewed = "1970-01-01T00:01:40.000000Z";
        for (seconds, wanted) in [(-1, 0), (15, 15), (1_000_000, 300)] {
            let spec = serde_json::json!({
                "holderIdentity": "a", "renewTime": renewed, "leaseDurationSeconds": seconds
            });
            assert_eq!(ends(spec), Duration::from_secs(wanted));
        }
    }

    #[test]
    fn a_renewal_keeps_the_acquire_time_and_a_new_holder_counts_one_more_transition() {
        let timing = LeaseTiming::new(Duration::from_secs(15));
        let first = renewed(None, "a", &timing);
        assert_eq!((first.lease_transitions, first.lease_duration_seconds), (Some(0), Some(15)));
        let again = renewed(Some(&first), "a", &timing);
        assert_eq!((&again.acquire_time, again.lease_transitions), (&first.acquire_time, Some(0)));
        let others = renewed(Some(&again), "b", &timing);
        assert_eq!((others.holder_identity.as_deref(), others.lease_transitions), (Some("b"), Some(1)));
        assert_eq!(others.acquire_time, others.renew_time);
    }

    #[test]
    fn there_is_time_for_a_second_renewal_at_every_duration_that_can_be_set() {
        for seconds in 5..=300 {
            let LeaseTiming { duration, renewal_interval, write_margin, request_timeout, silence } =
                LeaseTiming::new(Duration::from_secs(seconds));
            assert_eq!(duration.as_secs(), seconds);
            assert!(renewal_interval + request_timeout + write_margin < duration, "{seconds}");
            assert!(silence > renewal_interval, "{seconds}");
        }
    }
}
