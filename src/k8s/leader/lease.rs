//! The Lease as the API server shows it. Only this counts: what we believe to have written may be lost, late, or overtaken.
//!
//! Nothing here reads a clock of another machine. How long a Lease is still good follows from when we saw its record change, on our own
//! clock that never jumps; the times that stand in it are only something that differs after each renewal.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::super::Shared;
use super::super::outage::Part;
use super::super::settings::Settings;
use super::super::watch::{ObjectEvent, watch_object};

/// No Lease can be set to be good for longer. One that says so was edited, and would keep everybody from leading if its holder is gone.
pub(in super::super) const LONGEST: Duration = Duration::from_mins(5);

/// The Lease at a moment.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Record {
    pub(super) spec: LeaseSpec,
    /// For a write that must meet it unchanged.
    pub(super) version: Option<String>,
    /// When we first saw this spec.
    pub(super) since: Instant,
}

impl Record {
    /// What is seen now, after `before`. Who writes labels or annotations renews nothing.
    pub(super) fn next(lease: Lease, before: Option<&Self>, now: Instant) -> Self {
        let spec = lease.spec.unwrap_or_default();
        let same = before.filter(|before| before.spec == spec);
        Self { since: same.map_or(now, |before| before.since), version: lease.metadata.resource_version, spec }
    }

    /// Who holds it.
    pub(super) fn holder(&self) -> Option<&str> {
        self.spec.holder_identity.as_deref().filter(|holder| !holder.is_empty())
    }

    /// How long it is good after each renewal. One that was never renewed is not held by anybody who lives.
    pub(super) fn duration(&self) -> Duration {
        let seconds = self.spec.lease_duration_seconds.filter(|_| self.spec.renew_time.is_some());
        let seconds = seconds.and_then(|seconds| u64::try_from(seconds).ok()).unwrap_or_default();
        Duration::from_secs(seconds).min(LONGEST)
    }

    /// When others may take it.
    pub(super) fn ends(&self) -> Instant {
        self.since + self.duration()
    }
}

/// What is seen.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Sight {
    /// Nothing yet.
    Unknown,
    /// We may not look, and never could.
    Hidden,
    /// There is none, since then.
    Absent(Instant),
    /// There is one.
    There(Record),
}

impl Sight {
    /// What is seen now, after this.
    pub(super) fn next(&self, lease: Option<Lease>, now: Instant) -> Self {
        match (self, lease) {
            (Self::There(before), Some(lease)) => Self::There(Record::next(lease, Some(before), now)),
            (_, Some(lease)) => Self::There(Record::next(lease, None, now)),
            (Self::Absent(since), None) => Self::Absent(*since),
            (_, None) => Self::Absent(now),
        }
    }

    /// The record, if somebody holds the Lease.
    pub(super) fn held(&self) -> Option<&Record> {
        match self {
            Self::There(record) if record.holder().is_some() => Some(record),
            _ => None,
        }
    }

    pub(super) fn is_held_by(&self, me: &str) -> bool {
        self.held().and_then(Record::holder) == Some(me)
    }
}

/// What the Lease says after `before`, once `me` has taken or renewed it.
pub(super) fn renewed(before: Option<&LeaseSpec>, me: &str, timing: &Timing) -> LeaseSpec {
    let now = Some(MicroTime(Timestamp::now()));
    let holder = |spec: &LeaseSpec| spec.holder_identity.clone().filter(|holder| !holder.is_empty());
    let was_mine = before.is_some_and(|spec| holder(spec).as_deref() == Some(me));
    let transitions = before.map_or(0, |spec| spec.lease_transitions.unwrap_or_default());
    LeaseSpec {
        holder_identity: Some(me.to_owned()),
        lease_duration_seconds: i32::try_from(timing.duration.as_secs()).ok(),
        acquire_time: before.filter(|_| was_mine).and_then(|spec| spec.acquire_time.clone()).or_else(|| now.clone()),
        renew_time: now,
        lease_transitions: Some(transitions.saturating_add(i32::from(before.is_some() && !was_mine))),
        ..LeaseSpec::default()
    }
}

/// Times that follow from how long a Lease is good.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timing {
    /// How long it is good after each renewal.
    pub(super) duration: Duration,
    /// From one renewal to the next. Early: one may fail, and another come too late.
    pub(super) renewal: Duration,
    /// How long before its end we stop writing: clocks do not run equally fast, and a write takes a moment.
    pub(super) margin: Duration,
    /// No single request takes longer: there must be time for another before the Lease ends.
    pub(super) call: Duration,
    /// How long there can be no news of it while all is well.
    silence: Duration,
}

impl Timing {
    pub(super) fn new(duration: Duration) -> Self {
        const SECOND: Duration = Duration::from_secs(1);
        let duration = Duration::from_secs(duration.as_secs()).clamp(2 * SECOND, LONGEST);
        let renewal = duration / 3;
        Self {
            duration,
            renewal,
            margin: (2 * SECOND).min(duration / 5),
            call: renewal.clamp(SECOND, 4 * SECOND),
            silence: renewal + 5 * SECOND,
        }
    }
}

/// What is seen, and how well.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct View {
    pub(super) sight: Sight,
    /// When the API server was back after it had been away, if ever it was.
    pub(super) back: Option<Instant>,
    /// Whether it is away now.
    pub(super) away: bool,
}

/// Publishes what the API server shows of the Lease, and does nothing else.
pub(super) struct LeaseWatcher {
    shared: Arc<Shared>,
    views: watch::Sender<View>,
}

impl LeaseWatcher {
    pub(super) fn new(shared: &Arc<Shared>) -> (Self, watch::Receiver<View>) {
        let (views, receiver) = watch::channel(View { sight: Sight::Unknown, back: None, away: false });
        (Self { shared: Arc::clone(shared), views }, receiver)
    }

    /// Runs until it is told to stop.
    pub(super) async fn run(self, stop: CancellationToken) -> &'static str {
        let Settings { namespace, election, .. } = &self.shared.settings;
        let silence = Timing::new(election.duration).silence;
        let mut events = watch_object(&self.shared.cluster, namespace, &election.lease, silence);
        while let Some(Some(event)) = stop.run_until_cancelled(events.next()).await {
            self.observe(event);
        }
        "the watch of the Lease"
    }

    fn observe(&self, event: ObjectEvent<Lease>) {
        let now = Instant::now();
        let before = self.views.borrow().clone();
        let view = match event {
            ObjectEvent::Observed(lease) => {
                self.shared.outage.over(Part::Lease);
                let back = if before.away { Some(now) } else { before.back };
                View { sight: before.sight.next(lease, now), back, away: false }
            }
            // What was seen before is more than nothing.
            ObjectEvent::Denied => {
                self.shared.outage.over(Part::Lease);
                let sight = if before.sight == Sight::Unknown { Sight::Hidden } else { before.sight.clone() };
                View { sight, away: false, ..before.clone() }
            }
            ObjectEvent::Failed(error) => {
                self.shared.outage.lasts(Part::Lease, &error, self.shared.pollers.known());
                View { away: true, ..before.clone() }
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
    async fn a_lease_is_good_from_when_it_was_seen_to_change_whatever_time_stands_in_it() {
        for renewed in ["1970-01-01T00:01:40.000000Z", "2999-01-01T00:00:00.000000Z"] {
            let first = Record::next(held(renewed), None, Instant::now());
            assert_eq!(first.ends() - Instant::now(), Duration::from_secs(15));
            tokio::time::advance(Duration::from_secs(10)).await;
            let same = Record::next(held(renewed), Some(&first), Instant::now());
            assert_eq!(same.ends() - Instant::now(), Duration::from_secs(5), "nobody has renewed it");
            let earlier = Record::next(held("1960-01-01T00:00:00.000000Z"), Some(&same), Instant::now());
            assert_eq!(earlier.ends() - Instant::now(), Duration::from_secs(15), "its clock went back");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_annotation_renews_nothing() {
        let first = Record::next(held("1970-01-01T00:01:40.000000Z"), None, Instant::now());
        tokio::time::advance(Duration::from_secs(10)).await;
        let mut annotated = held("1970-01-01T00:01:40.000000Z");
        annotated.metadata.resource_version = Some("8".to_owned());
        let next = Record::next(annotated, Some(&first), Instant::now());
        assert_eq!((next.since, next.version.as_deref()), (first.since, Some("8")));
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_not_named_or_never_renewed_it_holds_nothing_and_nobody_holds_it_for_hours() {
        let now = Instant::now();
        let seen = |spec: serde_json::Value| Sight::Unknown.next(Some(lease(&spec)), now);
        assert_eq!(Sight::Unknown.next(None, now).held(), None);
        for spec in [serde_json::json!({}), serde_json::json!({ "holderIdentity": "" })] {
            assert_eq!(seen(spec).held(), None);
        }
        let ends = |spec| seen(spec).held().unwrap().ends() - now;
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
    fn who_renews_keeps_what_stands_there_and_who_takes_counts_one_more_holder() {
        let timing = Timing::new(Duration::from_secs(15));
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
            let Timing { duration, renewal, margin, call, silence } = Timing::new(Duration::from_secs(seconds));
            assert_eq!(duration.as_secs(), seconds);
            assert!(renewal + call + margin < duration, "{seconds}");
            assert!(silence > renewal, "{seconds}");
        }
    }
}
