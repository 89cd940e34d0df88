//! Replicas that compete for one Lease, in a world where time passes by hand.

use k8s_openapi::api::coordination::v1::Lease;
use serde_json::json;

use super::super::lease::renewed;
use super::*;

const SECOND: Duration = Duration::from_secs(1);
const DURATION: Duration = Duration::from_secs(15);

fn timing() -> Timing {
    Timing::new(DURATION)
}

fn now() -> Now {
    Now { instant: Instant::now(), wall: SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000) }
}

/// A Lease with this spec, in this version.
fn lease(spec: LeaseSpec, version: u64) -> Lease {
    let mut lease = Lease { spec: Some(spec), ..Lease::default() };
    lease.metadata.resource_version = Some(version.to_string());
    lease
}

/// What `holder` has written, renewed for the n-th time, by a clock that shows anything.
fn held(holder: &str, renewal: u32) -> LeaseSpec {
    let time = format!("1970-01-01T00:00:{:02}.000000Z", renewal % 60);
    serde_json::from_value(json!({ "holderIdentity": holder, "renewTime": time, "leaseDurationSeconds": 15 })).unwrap()
}

/// The API server has this Lease, and the watch of `state` shows it.
fn show(state: &mut State, lease: Option<Lease>) {
    let sight = state.sight().next(lease, Instant::now());
    state.see(View { sight, away: false, ..state.view.clone() });
}

/// A replica `a` that knows its targets.
fn knowing() -> State {
    let mut state = State::new("a", timing());
    state.know();
    state
}

/// The moment until which `state` rests.
fn rest(state: &State) -> Duration {
    match state.step(Instant::now()) {
        Step::Rest(Some(until)) => until - Instant::now(),
        step => panic!("{step:?}"),
    }
}

fn role(state: &mut State) -> Role {
    state.term(Instant::now()).role
}

/// Has its look, which shows what the watch shows.
fn look(state: &mut State) {
    assert_eq!(state.step(Instant::now()), Step::Look);
    let shown = match state.sight() {
        Sight::There(record) => Some(lease(record.spec.clone(), record.version.as_ref().unwrap().parse().unwrap())),
        _ => None,
    };
    state.answered(Answer::Shown(shown.map(Box::new)), now(), Instant::now());
}

/// Takes the Lease as it is seen, and sees it.
fn hold(state: &mut State, version: u64) -> LeaseSpec {
    if state.step(Instant::now()) == Step::Look {
        look(state);
    }
    let Step::Hold(seen) = state.step(Instant::now()) else { panic!("{:?}", state.step(Instant::now())) };
    let sent = now();
    let spec = renewed(seen.as_ref().map(|record| &record.spec), "a", &timing());
    state.answered(Answer::Written(spec.clone()), sent, Instant::now());
    show(state, Some(lease(spec.clone(), version)));
    spec
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_is_renewed_is_never_taken_whatever_its_times_say() {
    let mut state = knowing();
    for renewal in 0..100 {
        show(&mut state, Some(lease(held("b", renewal), renewal.into())));
        assert_eq!(role(&mut state), Role::Standby);
        tokio::time::advance(5 * SECOND).await;
        assert!(matches!(state.step(Instant::now()), Step::Rest(Some(_))), "after renewal {renewal}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_is_not_renewed_is_taken_after_its_duration_and_after_a_look() {
    let mut state = knowing();
    show(&mut state, Some(lease(held("b", 1), 1)));
    // What is written beside it is no renewal.
    tokio::time::advance(10 * SECOND).await;
    show(&mut state, Some(lease(held("b", 1), 2)));
    assert!(rest(&state) <= 5 * SECOND);
    tokio::time::advance(5 * SECOND + SPREAD).await;
    assert_eq!(state.step(Instant::now()), Step::Look);
    state.answered(Answer::Shown(Some(Box::new(lease(held("b", 1), 3)))), now(), Instant::now());
    let Step::Hold(Some(record)) = state.step(Instant::now()) else { panic!("it is not taken") };
    assert_eq!(record.version.as_deref(), Some("3"), "only if it is still the one that was seen");
    hold(&mut state, 4);
    assert_eq!(role(&mut state), Role::Leader);
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_is_dead_makes_nobody_take_a_lease_that_is_renewed() {
    let mut state = knowing();
    show(&mut state, Some(lease(held("b", 1), 1)));
    tokio::time::advance(DURATION + SPREAD).await;
    assert_eq!(state.step(Instant::now()), Step::Look);
    state.answered(Answer::Shown(Some(Box::new(lease(held("b", 3), 3)))), now(), Instant::now());
    assert!(rest(&state) >= DURATION);
}

#[tokio::test(start_paused = true)]
async fn one_who_was_outrun_looks_before_it_tries_again() {
    let mut state = knowing();
    show(&mut state, None);
    tokio::time::advance(SPREAD).await;
    look(&mut state);
    assert_eq!(state.step(Instant::now()), Step::Hold(None));
    state.answered(Answer::Outrun, now(), Instant::now());
    tokio::time::advance(SECOND).await;
    assert_eq!(state.step(Instant::now()), Step::Look);
    state.answered(Answer::Shown(Some(Box::new(lease(held("b", 1), 1)))), now(), Instant::now());
    assert!(rest(&state) >= DURATION);
    assert_eq!(role(&mut state), Role::Standby);
}

#[tokio::test(start_paused = true)]
async fn the_right_to_write_ends_before_another_could_take_the_lease() {
    let mut state = knowing();
    show(&mut state, None);
    tokio::time::advance(SPREAD).await;
    // The request takes two seconds; the Lease may have been taken at once.
    let sent = now();
    tokio::time::advance(2 * SECOND).await;
    let spec = renewed(None, "a", &timing());
    state.answered(Answer::Written(spec.clone()), sent, Instant::now());
    assert_eq!(state.term(Instant::now()).right, None, "the API server does not show it yet");
    show(&mut state, Some(lease(spec.clone(), 1)));
    let right = state.term(Instant::now()).right.unwrap();
    assert_eq!(right.until, sent.instant + DURATION - 2 * SECOND);
    assert_eq!(right.wall, sent.wall + DURATION - 2 * SECOND);
    assert!(rest(&state) <= 3 * SECOND, "it is renewed every five seconds");

    // Somebody makes it good for three seconds only: so do others judge it.
    let shorter = LeaseSpec { lease_duration_seconds: Some(3), ..spec };
    show(&mut state, Some(lease(shorter, 2)));
    assert!(state.term(Instant::now()).right.unwrap().until <= Instant::now());
    hold(&mut state, 3);
    assert!(state.term(Instant::now()).right.unwrap().until > Instant::now());

    // The watch may show what was written before the answer comes, which ends no right.
    let Step::Rest(Some(next)) = state.step(Instant::now()) else { panic!("no renewal") };
    tokio::time::advance(next - Instant::now()).await;
    let right = state.term(Instant::now()).right;
    show(&mut state, Some(lease(renewed(None, "a", &timing()), 4)));
    assert_eq!(state.term(Instant::now()).right, right);

    // The role stays while no other leads; the right needs a Lease.
    show(&mut state, None);
    assert_eq!(state.term(Instant::now()), Term { role: Role::Leader, right: None });
    show(&mut state, Some(lease(held("b", 1), 5)));
    assert_eq!(state.term(Instant::now()), Term { role: Role::Standby, right: None });
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_was_paused_for_too_long_looks_before_it_writes_anything() {
    let mut state = knowing();
    show(&mut state, None);
    tokio::time::advance(SPREAD).await;
    hold(&mut state, 1);
    tokio::time::advance(60 * SECOND).await;
    assert!(state.term(Instant::now()).right.unwrap().until < Instant::now());
    assert_eq!(state.step(Instant::now()), Step::Look);
    state.answered(Answer::Shown(Some(Box::new(lease(held("b", 1), 2)))), now(), Instant::now());
    assert_eq!(state.term(Instant::now()), Term { role: Role::Standby, right: None });

    // Where nobody has taken it, it goes on.
    let mut state = knowing();
    show(&mut state, None);
    tokio::time::advance(SPREAD).await;
    let spec = hold(&mut state, 1);
    tokio::time::advance(60 * SECOND).await;
    state.answered(Answer::Shown(Some(Box::new(lease(spec, 1)))), now(), Instant::now());
    hold(&mut state, 2);
    assert!(state.term(Instant::now()).right.unwrap().until > Instant::now());
}

#[tokio::test(start_paused = true)]
async fn a_leader_of_an_earlier_process_renews_at_once_and_writes_only_then() {
    let mut state = knowing();
    show(&mut state, Some(lease(held("a", 7), 1)));
    assert_eq!(state.term(Instant::now()), Term { role: Role::Leader, right: None });
    hold(&mut state, 2);
    assert!(state.term(Instant::now()).right.is_some());
}

#[tokio::test(start_paused = true)]
async fn who_knows_no_targets_neither_leads_nor_takes_nor_keeps_the_lease() {
    let mut state = State::new("a", timing());
    show(&mut state, Some(lease(held("a", 7), 1)));
    assert_eq!(role(&mut state), Role::Standby, "it leads by name alone");
    assert!(rest(&state) <= MOMENT);
    tokio::time::advance(MOMENT).await;
    assert_eq!(state.step(Instant::now()), Step::GiveBack);
    state.answered(Answer::GivenBack, now(), Instant::now());
    show(&mut state, Some(lease(LeaseSpec::default(), 2)));
    for _ in 0..100 {
        assert_eq!((role(&mut state), state.step(Instant::now())), (Role::Standby, Step::Rest(None)));
        tokio::time::advance(SECOND).await;
    }
    let mut hidden = State::new("a", timing());
    hidden.see(View { sight: Sight::Hidden, back: None, away: false });
    assert_eq!(role(&mut hidden), Role::Standby);

    state.know();
    hold(&mut state, 3);
    assert_eq!(role(&mut state), Role::Leader);
}

#[tokio::test(start_paused = true)]
async fn one_who_learns_its_targets_within_a_moment_keeps_the_lease_of_its_earlier_process() {
    let mut state = State::new("a", timing());
    show(&mut state, Some(lease(held("a", 7), 1)));
    tokio::time::advance(MOMENT / 2).await;
    state.know();
    assert_eq!(role(&mut state), Role::Leader);
    hold(&mut state, 2);
}

#[tokio::test(start_paused = true)]
async fn after_an_outage_the_leader_has_some_seconds_before_others_take_a_lease_that_has_ended() {
    let mut state = knowing();
    show(&mut state, Some(lease(held("b", 1), 1)));
    state.see(View { away: true, ..state.view.clone() });
    tokio::time::advance(60 * SECOND).await;
    assert_eq!(state.step(Instant::now()), Step::Rest(None), "nobody is replaced while nothing is seen");
    state.see(View { away: false, back: Some(Instant::now()), ..state.view.clone() });
    assert!(rest(&state) > COURTESY);

    // The same where the watch was silent and only a look of our own found out.
    let mut state = knowing();
    show(&mut state, Some(lease(held("b", 1), 1)));
    tokio::time::advance(DURATION + SPREAD).await;
    assert_eq!(state.step(Instant::now()), Step::Look);
    state.answered(Answer::Failed("no answer".to_owned()), now(), Instant::now());
    tokio::time::advance(LONGEST_PAUSE).await;
    assert_eq!(state.step(Instant::now()), Step::Look);
    state.answered(Answer::Shown(Some(Box::new(lease(held("b", 1), 1)))), now(), Instant::now());
    assert!(rest(&state) > COURTESY);
}

#[tokio::test(start_paused = true)]
async fn one_who_has_resigned_polls_until_another_leads_writes_nothing_and_takes_nothing() {
    let mut state = knowing();
    show(&mut state, None);
    tokio::time::advance(SPREAD).await;
    hold(&mut state, 1);
    state.answered(Answer::Outrun, now(), Instant::now());
    state.resign();
    assert_eq!(state.term(Instant::now()), Term { role: Role::Leader, right: None });
    assert_eq!(state.step(Instant::now()), Step::GiveBack);
    state.answered(Answer::GivenBack, now(), Instant::now());
    show(&mut state, Some(lease(LeaseSpec::default(), 2)));
    assert_eq!((role(&mut state), state.step(Instant::now())), (Role::Leader, Step::Rest(None)));
    show(&mut state, Some(lease(held("b", 1), 3)));
    assert_eq!(role(&mut state), Role::Standby);
}

#[tokio::test(start_paused = true)]
async fn one_without_rights_polls_unless_another_leads_and_writes_nothing() {
    let mut hidden = knowing();
    hidden.see(View { sight: Sight::Hidden, back: None, away: false });
    assert_eq!(hidden.term(Instant::now()), Term { role: Role::Leader, right: None });

    let mut state = knowing();
    show(&mut state, None);
    for _ in 0..BELIEVED_DENIALS {
        assert_eq!(role(&mut state), Role::Standby);
        state.answered(Answer::Denied, now(), Instant::now());
    }
    assert_eq!(state.term(Instant::now()), Term { role: Role::Leader, right: None });
    show(&mut state, Some(lease(held("b", 1), 1)));
    assert_eq!(role(&mut state), Role::Standby);
    assert!(rest(&state) <= DURATION, "what it is changes when the other's Lease ends");
    let (seen, away) = (state.view.clone(), View { away: true, ..state.view.clone() });
    state.see(away);
    tokio::time::advance(DURATION).await;
    assert_eq!(role(&mut state), Role::Standby, "the other may have renewed it");
    state.see(seen);
    assert_eq!(role(&mut state), Role::Leader);
}

#[tokio::test(start_paused = true)]
async fn what_a_watch_showed_before_our_own_look_counts_no_more_when_it_tells_only_that_it_is_away() {
    let mut state = knowing();
    show(&mut state, Some(lease(held("a", 1), 1)));
    assert_eq!(role(&mut state), Role::Leader);
    let (shown_last, newer) = (state.view.clone(), lease(held("b", 2), 2));
    state.answered(Answer::Shown(Some(Box::new(newer))), now(), Instant::now());
    assert_eq!(role(&mut state), Role::Standby);
    state.see(View { away: true, ..shown_last.clone() });
    assert_eq!(role(&mut state), Role::Standby, "another leads, as we have seen");
    state.see(shown_last);
    assert_eq!(role(&mut state), Role::Standby);
    show(&mut state, Some(lease(held("a", 3), 3)));
    assert_eq!(role(&mut state), Role::Leader, "news of the watch counts");
}
