//! Replicas that compete for one Lease, with a clock that is advanced by hand.

use k8s_openapi::api::coordination::v1::Lease;
use serde_json::json;

use super::*;
use crate::k8s::leader::lease::renewed;

const SECOND: Duration = Duration::from_secs(1);
const DURATION: Duration = Duration::from_secs(15);

fn timing() -> LeaseTiming {
    LeaseTiming::new(DURATION)
}

fn moment() -> Moment {
    Moment { instant: Instant::now(), wall: SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000) }
}

/// A Lease with this spec, in this version.
fn lease(spec: LeaseSpec, version: u64) -> Lease {
    let mut lease = Lease { spec: Some(spec), ..Lease::default() };
    lease.metadata.resource_version = Some(version.to_string());
    lease
}

/// The record of `holder` after its n-th renewal, by an arbitrary clock.
fn held(holder: &str, renewal: u32) -> LeaseSpec {
    let time = format!("1970-01-01T00:00:{:02}.000000Z", renewal % 60);
    serde_json::from_value(json!({ "holderIdentity": holder, "renewTime": time, "leaseDurationSeconds": 15 })).unwrap()
}

/// The API server has this Lease, and the watch of `state` shows it.
fn show(state: &mut ElectionState, lease: Option<Lease>) {
    let lease = state.lease().next(lease, Instant::now());
    state.watched(LeaseView { lease, is_unreachable: false, ..state.view.clone() });
}

/// The state of a replica `a` that knows its targets.
fn knowing() -> ElectionState {
    let mut state = ElectionState::new("a", timing());
    state.targets_known();
    state
}

/// How long `state` waits.
fn wait(state: &ElectionState) -> Duration {
    match state.step(Instant::now()) {
        ElectionStep::Wait(Some(until)) => until - Instant::now(),
        step => panic!("{step:?}"),
    }
}

fn role(state: &mut ElectionState) -> Role {
    state.status(Instant::now()).role
}

/// Reads the Lease, which is as the watch shows it.
fn observe(state: &mut ElectionState) {
    assert_eq!(state.step(Instant::now()), ElectionStep::Observe);
    let shown = match state.lease() {
        ObservedLease::Present(record) => {
            Some(lease(record.spec.clone(), record.version.as_ref().unwrap().parse().unwrap()))
        }
        _ => None,
    };
    state.finished(LeaseOutcome::Observed(shown.map(Box::new)), moment(), Instant::now());
}

/// Acquires or renews the Lease, and has the watch show it.
fn acquire(state: &mut ElectionState, version: u64) -> LeaseSpec {
    if state.step(Instant::now()) == ElectionStep::Observe {
        observe(state);
    }
    let ElectionStep::Acquire(observed) = state.step(Instant::now()) else {
        panic!("{:?}", state.step(Instant::now()))
    };
    let sent = moment();
    let spec = renewed(observed.as_ref().map(|record| &record.spec), "a", &timing());
    state.finished(LeaseOutcome::Written(spec.clone()), sent, Instant::now());
    show(state, Some(lease(spec.clone(), version)));
    spec
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_is_renewed_is_never_acquired_whatever_its_times_say() {
    let mut state = knowing();
    for renewal in 0..100 {
        show(&mut state, Some(lease(held("b", renewal), renewal.into())));
        assert_eq!(role(&mut state), Role::Standby);
        tokio::time::advance(5 * SECOND).await;
        assert!(matches!(state.step(Instant::now()), ElectionStep::Wait(Some(_))), "after renewal {renewal}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_is_not_renewed_is_acquired_after_its_duration_and_after_it_was_read_again() {
    let mut state = knowing();
    show(&mut state, Some(lease(held("b", 1), 1)));
    // A change of its metadata is no renewal.
    tokio::time::advance(10 * SECOND).await;
    show(&mut state, Some(lease(held("b", 1), 2)));
    assert!(wait(&state) <= 5 * SECOND);
    tokio::time::advance(5 * SECOND + JITTER).await;
    assert_eq!(state.step(Instant::now()), ElectionStep::Observe);
    state.finished(LeaseOutcome::Observed(Some(Box::new(lease(held("b", 1), 3)))), moment(), Instant::now());
    let ElectionStep::Acquire(Some(record)) = state.step(Instant::now()) else { panic!("it is not acquired") };
    assert_eq!(record.version.as_deref(), Some("3"), "only if it is still the one that was observed");
    acquire(&mut state, 4);
    assert_eq!(role(&mut state), Role::Leader);
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_is_renewed_is_not_acquired_although_the_watch_is_dead() {
    let mut state = knowing();
    show(&mut state, Some(lease(held("b", 1), 1)));
    tokio::time::advance(DURATION + JITTER).await;
    assert_eq!(state.step(Instant::now()), ElectionStep::Observe);
    state.finished(LeaseOutcome::Observed(Some(Box::new(lease(held("b", 3), 3)))), moment(), Instant::now());
    assert!(wait(&state) >= DURATION);
}

#[tokio::test(start_paused = true)]
async fn after_a_conflict_the_lease_is_read_before_it_is_acquired() {
    let mut state = knowing();
    show(&mut state, None);
    tokio::time::advance(JITTER).await;
    observe(&mut state);
    assert_eq!(state.step(Instant::now()), ElectionStep::Acquire(None));
    state.finished(LeaseOutcome::Conflict, moment(), Instant::now());
    tokio::time::advance(SECOND).await;
    assert_eq!(state.step(Instant::now()), ElectionStep::Observe);
    state.finished(LeaseOutcome::Observed(Some(Box::new(lease(held("b", 1), 1)))), moment(), Instant::now());
    assert!(wait(&state) >= DURATION);
    assert_eq!(role(&mut state), Role::Standby);
}

#[tokio::test(start_paused = true)]
async fn the_permit_to_write_ends_before_another_could_acquire_the_lease() {
    let mut state = knowing();
    show(&mut state, None);
    tokio::time::advance(JITTER).await;
    // The request takes two seconds; the API server may have taken it at once.
    let sent = moment();
    tokio::time::advance(2 * SECOND).await;
    let spec = renewed(None, "a", &timing());
    state.finished(LeaseOutcome::Written(spec.clone()), sent, Instant::now());
    assert_eq!(state.status(Instant::now()).permit, None, "the API server does not show it yet");
    show(&mut state, Some(lease(spec.clone(), 1)));
    let permit = state.status(Instant::now()).permit.unwrap();
    assert_eq!(permit.until, sent.instant + DURATION - 2 * SECOND);
    assert_eq!(permit.wall, sent.wall + DURATION - 2 * SECOND);
    assert!(wait(&state) <= 3 * SECOND, "it is renewed every five seconds");

    // Somebody edits its duration to three seconds, by which other replicas judge it.
    let shorter = LeaseSpec { lease_duration_seconds: Some(3), ..spec };
    show(&mut state, Some(lease(shorter, 2)));
    assert!(state.status(Instant::now()).permit.unwrap().until <= Instant::now());
    acquire(&mut state, 3);
    assert!(state.status(Instant::now()).permit.unwrap().until > Instant::now());

    // The watch may show what was written before the answer comes, which ends no permit.
    let ElectionStep::Wait(Some(next)) = state.step(Instant::now()) else { panic!("no renewal") };
    tokio::time::advance(next - Instant::now()).await;
    let permit = state.status(Instant::now()).permit;
    show(&mut state, Some(lease(renewed(None, "a", &timing()), 4)));
    assert_eq!(state.status(Instant::now()).permit, permit);

    // The role stays while no other leads; the permit needs a Lease.
    show(&mut state, None);
    assert_eq!(state.status(Instant::now()), LeaderStatus { role: Role::Leader, permit: None });
    show(&mut state, Some(lease(held("b", 1), 5)));
    assert_eq!(state.status(Instant::now()), LeaderStatus { role: Role::Standby, permit: None });
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_was_suspended_for_too_long_reads_the_lease_before_it_writes_anything() {
    let mut state = knowing();
    show(&mut state, None);
    tokio::time::advance(JITTER).await;
    acquire(&mut state, 1);
    tokio::time::advance(60 * SECOND).await;
    assert!(state.status(Instant::now()).permit.unwrap().until < Instant::now());
    assert_eq!(state.step(Instant::now()), ElectionStep::Observe);
    state.finished(LeaseOutcome::Observed(Some(Box::new(lease(held("b", 1), 2)))), moment(), Instant::now());
    assert_eq!(state.status(Instant::now()), LeaderStatus { role: Role::Standby, permit: None });

    // Where nobody else has acquired it, it goes on.
    let mut state = knowing();
    show(&mut state, None);
    tokio::time::advance(JITTER).await;
    let spec = acquire(&mut state, 1);
    tokio::time::advance(60 * SECOND).await;
    state.finished(LeaseOutcome::Observed(Some(Box::new(lease(spec, 1)))), moment(), Instant::now());
    acquire(&mut state, 2);
    assert!(state.status(Instant::now()).permit.unwrap().until > Instant::now());
}

#[tokio::test(start_paused = true)]
async fn a_leader_of_an_earlier_process_renews_at_once_and_writes_only_then() {
    let mut state = knowing();
    show(&mut state, Some(lease(held("a", 7), 1)));
    assert_eq!(state.status(Instant::now()), LeaderStatus { role: Role::Leader, permit: None });
    acquire(&mut state, 2);
    assert!(state.status(Instant::now()).permit.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_knows_no_targets_neither_leads_nor_acquires_nor_keeps_the_lease() {
    let mut state = ElectionState::new("a", timing());
    show(&mut state, Some(lease(held("a", 7), 1)));
    assert_eq!(role(&mut state), Role::Standby, "it leads by name alone");
    assert!(wait(&state) <= STARTUP_GRACE);
    tokio::time::advance(STARTUP_GRACE).await;
    assert_eq!(state.step(Instant::now()), ElectionStep::Release);
    state.finished(LeaseOutcome::Released, moment(), Instant::now());
    show(&mut state, Some(lease(LeaseSpec::default(), 2)));
    for _ in 0..100 {
        assert_eq!((role(&mut state), state.step(Instant::now())), (Role::Standby, ElectionStep::Wait(None)));
        tokio::time::advance(SECOND).await;
    }
    let mut denied = ElectionState::new("a", timing());
    denied.watched(LeaseView { lease: ObservedLease::Denied, recovered_at: None, is_unreachable: false });
    assert_eq!(role(&mut denied), Role::Standby);

    state.targets_known();
    acquire(&mut state, 3);
    assert_eq!(role(&mut state), Role::Leader);
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_learns_its_targets_in_time_keeps_the_lease_of_its_earlier_process() {
    let mut state = ElectionState::new("a", timing());
    show(&mut state, Some(lease(held("a", 7), 1)));
    tokio::time::advance(STARTUP_GRACE / 2).await;
    state.targets_known();
    assert_eq!(role(&mut state), Role::Leader);
    acquire(&mut state, 2);
}

#[tokio::test(start_paused = true)]
async fn after_an_outage_the_leader_has_some_seconds_before_others_acquire_a_lease_that_has_ended() {
    let mut state = knowing();
    show(&mut state, Some(lease(held("b", 1), 1)));
    state.watched(LeaseView { is_unreachable: true, ..state.view.clone() });
    tokio::time::advance(60 * SECOND).await;
    assert_eq!(
        state.step(Instant::now()),
        ElectionStep::Wait(None),
        "no leader is replaced while it cannot be observed"
    );
    state.watched(LeaseView { is_unreachable: false, recovered_at: Some(Instant::now()), ..state.view.clone() });
    assert!(wait(&state) > LEADER_GRACE);

    // The same where the watch was silent and only a request of our own found out.
    let mut state = knowing();
    show(&mut state, Some(lease(held("b", 1), 1)));
    tokio::time::advance(DURATION + JITTER).await;
    assert_eq!(state.step(Instant::now()), ElectionStep::Observe);
    state.finished(LeaseOutcome::Failed("no answer".to_owned()), moment(), Instant::now());
    tokio::time::advance(LONGEST_RETRY).await;
    assert_eq!(state.step(Instant::now()), ElectionStep::Observe);
    state.finished(LeaseOutcome::Observed(Some(Box::new(lease(held("b", 1), 1)))), moment(), Instant::now());
    assert!(wait(&state) > LEADER_GRACE);
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_has_resigned_polls_until_another_leads_writes_nothing_and_acquires_nothing() {
    let mut state = knowing();
    show(&mut state, None);
    tokio::time::advance(JITTER).await;
    acquire(&mut state, 1);
    state.finished(LeaseOutcome::Conflict, moment(), Instant::now());
    state.resign();
    assert_eq!(state.status(Instant::now()), LeaderStatus { role: Role::Leader, permit: None });
    assert_eq!(state.step(Instant::now()), ElectionStep::Release);
    state.finished(LeaseOutcome::Released, moment(), Instant::now());
    show(&mut state, Some(lease(LeaseSpec::default(), 2)));
    assert_eq!((role(&mut state), state.step(Instant::now())), (Role::Leader, ElectionStep::Wait(None)));
    show(&mut state, Some(lease(held("b", 1), 3)));
    assert_eq!(role(&mut state), Role::Standby);
}

#[tokio::test(start_paused = true)]
async fn a_replica_without_permissions_polls_unless_another_leads_and_writes_nothing() {
    let mut denied = knowing();
    denied.watched(LeaseView { lease: ObservedLease::Denied, recovered_at: None, is_unreachable: false });
    assert_eq!(denied.status(Instant::now()), LeaderStatus { role: Role::Leader, permit: None });

    let mut state = knowing();
    show(&mut state, None);
    for _ in 0..BELIEVED_DENIALS {
        assert_eq!(role(&mut state), Role::Standby);
        state.finished(LeaseOutcome::Denied, moment(), Instant::now());
    }
    assert_eq!(state.status(Instant::now()), LeaderStatus { role: Role::Leader, permit: None });
    show(&mut state, Some(lease(held("b", 1), 1)));
    assert_eq!(role(&mut state), Role::Standby);
    assert!(wait(&state) <= DURATION, "its role changes when the other's Lease ends");
    let (observed, unreachable) = (state.view.clone(), LeaseView { is_unreachable: true, ..state.view.clone() });
    state.watched(unreachable);
    tokio::time::advance(DURATION).await;
    assert_eq!(role(&mut state), Role::Standby, "the other may have renewed it");
    state.watched(observed);
    assert_eq!(role(&mut state), Role::Leader);
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_was_read_is_not_replaced_by_an_older_one_when_only_the_health_of_the_watch_changes() {
    let mut state = knowing();
    show(&mut state, Some(lease(held("a", 1), 1)));
    assert_eq!(role(&mut state), Role::Leader);
    let (shown_last, newer) = (state.view.clone(), lease(held("b", 2), 2));
    state.finished(LeaseOutcome::Observed(Some(Box::new(newer))), moment(), Instant::now());
    assert_eq!(role(&mut state), Role::Standby);
    state.watched(LeaseView { is_unreachable: true, ..shown_last.clone() });
    assert_eq!(role(&mut state), Role::Standby, "another leads, as was read");
    state.watched(shown_last);
    assert_eq!(role(&mut state), Role::Standby);
    show(&mut state, Some(lease(held("a", 3), 3)));
    assert_eq!(role(&mut state), Role::Leader, "a newer record of the watch counts");
}
