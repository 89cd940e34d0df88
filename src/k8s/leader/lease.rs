//! The Lease as the API server shows it. Only this counts: what we believe to have written may be lost, late, or overtaken.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use k8s_openapi::api::coordination::v1::Lease;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::super::Shared;
use super::super::access::ApiError;
use super::follow::{Look, follow};
use super::{Role, Term};

/// Who holds the Lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Sight {
    /// Nothing has been seen yet.
    Unknown,
    /// We may not look, and never could.
    Hidden,
    /// Nobody, or there is no Lease.
    Free,
    /// Somebody; after `until` others may take it.
    Held { holder: Arc<str>, until: SystemTime },
}

impl Sight {
    /// What a Lease says. One without a time is not held by anybody who lives.
    fn of(lease: Option<Lease>) -> Self {
        let spec = lease.and_then(|lease| lease.spec).unwrap_or_default();
        let Some(holder) = spec.holder_identity.filter(|holder| !holder.is_empty()) else { return Self::Free };
        let seconds = spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
        let until = spec
            .renew_time
            .zip(seconds)
            .and_then(|(renewed, seconds)| SystemTime::from(renewed.0).checked_add(Duration::from_secs(seconds)));
        Self::Held { holder: holder.into(), until: until.unwrap_or(SystemTime::UNIX_EPOCH) }
    }

    pub(super) fn is_held_by(&self, me: &str) -> bool {
        matches!(self, Self::Held { holder, .. } if &**holder == me)
    }
}

/// What is seen, and how well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct View {
    pub(super) sight: Sight,
    /// When the API server was back after it had been away, if ever it was.
    pub(super) back: Option<Instant>,
    /// Whether it answers now.
    pub(super) away: bool,
}

/// What else decides about us.
#[derive(Clone, Copy, Debug)]
pub(super) struct Circumstances<'a> {
    /// Our name in the Lease.
    pub(super) me: &'a str,
    /// We have given the Lease back, or are about to.
    pub(super) resigned: bool,
    /// We may not write the Lease.
    pub(super) denied: bool,
    /// We stop writing as long before the Lease ends: clocks differ, and a write takes a moment.
    pub(super) margin: Duration,
    pub(super) now: SystemTime,
}

/// What we are, from what we were and what is seen.
pub(super) fn judge(before: Role, sight: &Sight, circumstances: Circumstances<'_>) -> Term {
    let Circumstances { me, resigned, denied, margin, now } = circumstances;
    let role = match sight {
        Sight::Held { holder, until } if &**holder == me => {
            let until = if resigned { None } else { until.checked_sub(margin) };
            return Term { role: Role::Leader, until };
        }
        // A leader that has died is no reason for one who may not follow it to leave the targets alone.
        Sight::Held { until, .. } if denied && *until <= now => Role::Leader,
        Sight::Held { .. } => Role::Standby,
        // Without any rights there is no election: a single run that only reads must still be of use.
        Sight::Hidden if !resigned => Role::Leader,
        Sight::Free if denied && !resigned => Role::Leader,
        Sight::Unknown | Sight::Hidden | Sight::Free => before,
    };
    Term { role, until: None }
}

/// Times that follow from how long a Lease is good.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timing {
    /// How long it is good after each renewal, in seconds.
    pub(super) duration: u64,
    /// How long before its end it is renewed, in seconds. Early: one renewal may fail, and another come too late.
    pub(super) grace: u64,
    /// How long before its end we stop writing.
    pub(super) margin: Duration,
    /// How long there can be no news of it while all is well.
    silence: Duration,
}

impl Timing {
    pub(super) fn new(duration: Duration) -> Self {
        let duration = duration.as_secs().max(2);
        let grace = (duration * 2 / 3).max(1);
        Self {
            duration,
            grace,
            margin: Duration::from_secs(2).min(Duration::from_secs(duration) / 5),
            silence: Duration::from_secs(duration - grace + 5),
        }
    }
}

/// No Lease can be set to be good for longer, clocks that differ included.
const LONGEST: Duration = Duration::from_secs(305);

/// How long the API server may be away before it is worth a line.
const PATIENCE: Duration = Duration::from_secs(5);

/// Looks at the Lease, and does nothing else.
pub(super) struct Eye {
    shared: Arc<Shared>,
    views: watch::Sender<View>,
    /// Since when the API server has not answered, and whether that was told.
    away: Option<Instant>,
    told: bool,
    /// Whose time in the Lease was told to be wrong.
    ahead: Option<Arc<str>>,
}

impl Eye {
    pub(super) fn new(shared: &Arc<Shared>) -> (Self, watch::Receiver<View>) {
        let (views, receiver) = watch::channel(View { sight: Sight::Unknown, back: None, away: false });
        (Self { shared: Arc::clone(shared), views, away: None, told: false, ahead: None }, receiver)
    }

    /// Looks until told to stop.
    pub(super) async fn run(mut self, stop: CancellationToken) -> &'static str {
        let shared = Arc::clone(&self.shared);
        let settings = &shared.settings;
        let silence = Timing::new(settings.election.duration).silence;
        let following =
            follow(&shared.cluster, &settings.namespace, &settings.election.lease, silence, |look| self.see(look));
        tokio::select! {
            () = stop.cancelled() => {}
            _ = following => {}
        }
        "the watch of the Lease"
    }

    fn see(&mut self, look: Look<Lease>) {
        match look {
            Look::Seen(lease) => {
                let gone = self.away.take();
                if let Some(gone) = gone.filter(|_| std::mem::take(&mut self.told)) {
                    tracing::info!(after = ?Duration::from_secs(gone.elapsed().as_secs()), "the Lease is watched again");
                }
                let sight = Sight::of(lease);
                self.warn_of_future(&sight);
                self.put(|view| {
                    view.sight = sight;
                    view.away = false;
                    view.back = gone.map(|_| Instant::now()).or(view.back);
                });
            }
            // What was seen before is more than nothing.
            Look::Denied => self.put(|view| {
                view.away = false;
                if view.sight == Sight::Unknown {
                    view.sight = Sight::Hidden;
                }
            }),
            Look::Away(error) => self.missed(&error),
        }
    }

    /// A Lease that is good for longer than it can be keeps everybody from leading if its holder is gone.
    fn warn_of_future(&mut self, sight: &Sight) {
        let Sight::Held { holder, until } = sight else { return };
        let left = until.duration_since(SystemTime::now()).unwrap_or_default();
        if left > LONGEST && self.ahead.as_ref() != Some(holder) {
            tracing::warn!(
                holder = &**holder,
                seconds = left.as_secs(),
                "the Lease is good for longer than it should be: the holder's clock is ahead, or somebody edited it; if the holder is \
                 gone, delete the Lease"
            );
            self.ahead = Some(Arc::clone(holder));
        }
    }

    fn missed(&mut self, error: &ApiError) {
        let gone = *self.away.get_or_insert_with(Instant::now);
        if !self.told && gone.elapsed() >= PATIENCE {
            self.told = true;
            tracing::warn!(%error, "the Lease cannot be watched; until it can, nobody takes or loses the lead");
        }
        self.put(|view| view.away = true);
    }

    fn put(&self, change: impl FnOnce(&mut View)) {
        self.views.send_if_modified(|view| {
            let before = view.clone();
            change(view);
            *view != before
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARGIN: Duration = Duration::from_secs(2);

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn held(holder: &str, until: u64) -> Sight {
        Sight::Held { holder: holder.into(), until: at(until) }
    }

    /// At 100 s, for the replica `a`.
    fn judged(before: Role, sight: &Sight, resigned: bool, denied: bool) -> (Role, Option<SystemTime>) {
        let Term { role, until } =
            judge(before, sight, Circumstances { me: "a", resigned, denied, margin: MARGIN, now: at(100) });
        (role, until)
    }

    #[test]
    fn the_role_follows_from_the_lease_and_the_right_to_write_from_its_time() {
        use Role::{Leader, Standby};
        for (what, before, sight, role, until) in [
            ("nothing is seen yet", Standby, Sight::Unknown, Standby, None),
            ("nobody holds it yet", Standby, Sight::Free, Standby, None),
            ("we took it", Standby, held("a", 115), Leader, Some(at(113))),
            ("we still hold it, but nobody can tell us", Leader, held("a", 90), Leader, Some(at(88))),
            ("it was erased", Leader, Sight::Free, Leader, None),
            ("another took it", Leader, held("b", 115), Standby, None),
            ("another took it and died", Leader, held("b", 90), Standby, None),
            ("another holds it", Standby, held("b", 115), Standby, None),
            ("another held it and died", Standby, held("b", 90), Standby, None),
            ("it has no time", Standby, held("a", 0), Leader, None),
        ] {
            let until = if what == "it has no time" { SystemTime::UNIX_EPOCH.checked_sub(MARGIN) } else { until };
            assert_eq!(judged(before, &sight, false, false), (role, until), "{what}");
        }
    }

    #[test]
    fn one_who_has_resigned_polls_until_another_leads_and_writes_nothing() {
        use Role::{Leader, Standby};
        assert_eq!(judged(Leader, &held("a", 115), true, false), (Leader, None));
        assert_eq!(judged(Leader, &Sight::Free, true, false), (Leader, None));
        assert_eq!(judged(Leader, &held("b", 115), true, false), (Standby, None));
        assert_eq!(judged(Standby, &Sight::Free, true, true), (Standby, None));
        assert_eq!(judged(Standby, &Sight::Hidden, true, false), (Standby, None));
    }

    #[test]
    fn one_without_rights_polls_unless_another_leads_and_writes_nothing() {
        use Role::{Leader, Standby};
        assert_eq!(judged(Standby, &Sight::Hidden, false, false), (Leader, None));
        assert_eq!(judged(Standby, &Sight::Free, false, true), (Leader, None));
        assert_eq!(judged(Standby, &held("b", 115), false, true), (Standby, None));
        assert_eq!(judged(Standby, &held("b", 90), false, true), (Leader, None));
    }

    #[test]
    fn a_lease_is_held_by_whom_it_names_until_its_time_is_over() {
        let lease = |spec: serde_json::Value| serde_json::from_value(serde_json::json!({ "spec": spec })).ok();
        assert_eq!(Sight::of(None), Sight::Free);
        assert_eq!(Sight::of(lease(serde_json::json!({}))), Sight::Free);
        assert_eq!(Sight::of(lease(serde_json::json!({ "holderIdentity": "" }))), Sight::Free);
        assert_eq!(Sight::of(lease(serde_json::json!({ "holderIdentity": "a" }))), held("a", 0));
        let spec = serde_json::json!({
            "holderIdentity": "a", "renewTime": "1970-01-01T00:01:40.000000Z", "leaseDurationSeconds": 15
        });
        assert_eq!(Sight::of(lease(spec)), held("a", 115));
    }

    #[test]
    fn there_is_time_for_a_second_renewal_at_every_duration_that_can_be_set() {
        for seconds in 5..=300 {
            let Timing { duration, grace, margin, silence } = Timing::new(Duration::from_secs(seconds));
            let renewal = duration - grace;
            assert_eq!(duration, seconds);
            assert!(2 * renewal < duration, "{seconds}");
            assert!(Duration::from_secs(renewal) + margin < Duration::from_secs(duration), "{seconds}");
            assert!(silence > Duration::from_secs(renewal), "{seconds}");
        }
    }
}
