//! Tests of the budget: any order of events, compared with what it guarantees.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use tokio::time::Instant;

use super::state::{BudgetState, PollId, PollSignals};

const TOTAL: usize = 1000;

/// A poll as the test expects it.
struct ModelPoll {
    namespace: Arc<str>,
    signal: Arc<PollSignals>,
    held: usize,
    /// What it waits for, in all.
    wants: Option<usize>,
    done: bool,
}

impl ModelPoll {
    fn evicted(&self) -> bool {
        self.signal.evicted.is_cancelled()
    }
}

struct BudgetModel {
    state: BudgetState,
    now: Instant,
    polls: HashMap<PollId, ModelPoll>,
    order: Vec<PollId>,
}

impl BudgetModel {
    fn new() -> Self {
        Self { state: BudgetState::new(TOTAL), now: Instant::now(), polls: HashMap::new(), order: Vec::new() }
    }

    fn enter(&mut self, namespace: &str) -> PollId {
        let (namespace, signal): (Arc<str>, _) = (namespace.into(), Arc::new(PollSignals::default()));
        let id = self.state.enter(&namespace, Arc::clone(&signal), self.now);
        self.polls.insert(id, ModelPoll { namespace, signal, held: 0, wants: None, done: false });
        self.order.push(id);
        id
    }

    /// A poll wants so much in all. Returns whether it has got it at once.
    fn ask(&mut self, id: PollId, total: usize) -> bool {
        let granted = self.state.request(id, total, self.now);
        let poll = self.polls.get_mut(&id).unwrap();
        if granted {
            poll.held = total.min(TOTAL);
            // A poll that waited and was granted its request within the same call was notified as well.
            let _ = was_granted(&poll.signal);
        } else if !poll.evicted() {
            poll.wants = Some(total.min(TOTAL));
        }
        self.look();
        granted
    }

    fn holding(&mut self, namespace: &str, bytes: usize) -> PollId {
        let id = self.enter(namespace);
        assert!(self.ask(id, bytes), "there is room for {bytes}");
        id
    }

    fn came(&mut self, id: PollId, bytes: usize) {
        self.state.received(id, bytes, self.now);
    }

    fn leave(&mut self, id: PollId) {
        self.state.leave(id, self.now);
        self.polls.remove(&id);
        self.order.retain(|other| *other != id);
        self.look();
    }

    fn pass(&mut self, millis: u64) {
        self.now += Duration::from_millis(millis);
        self.state.settle(self.now);
        self.look();
    }

    /// Updates the polls that were granted their requests, and checks that no more is held than there is.
    fn look(&mut self) {
        for poll in self.polls.values_mut() {
            if poll.wants.is_some() && was_granted(&poll.signal) {
                poll.held = poll.wants.take().unwrap();
            }
        }
        let held: usize = self.polls.values().map(|poll| poll.held).sum();
        assert!(held <= TOTAL, "{held} of {TOTAL} are held");
    }

    fn evicted(&self) -> Vec<PollId> {
        self.order.iter().copied().filter(|id| self.polls[id].evicted()).collect()
    }

    fn held_in(&self, namespace: &str) -> usize {
        let polls = self.polls.values().filter(|poll| &*poll.namespace == namespace && !poll.evicted());
        polls.map(|poll| poll.held).sum()
    }

    fn evicted_polls_leave(&mut self) {
        for id in self.evicted() {
            self.leave(id);
        }
    }
}

/// Whether a poll was notified that its request was granted; true only once.
fn was_granted(signal: &PollSignals) -> bool {
    let granted = std::pin::pin!(signal.granted.notified());
    futures::FutureExt::now_or_never(granted).is_some()
}

#[test]
fn the_poll_longest_without_progress_is_evicted_first_and_no_more_than_needed() {
    let mut world = BudgetModel::new();
    let polls: Vec<PollId> = (0..10)
        .map(|_| {
            world.pass(10);
            world.holding("a", 100)
        })
        .collect();
    world.pass(1000);
    world.came(polls[0], 50); // a good part of what it holds
    world.came(polls[1], 1); // a single byte
    let small = world.enter("a");
    assert!(!world.ask(small, 150));
    assert_eq!(world.evicted(), [polls[1], polls[2]]);
    world.leave(polls[1]);
    assert_eq!(world.polls[&small].held, 0);
    world.leave(polls[2]);
    assert_eq!(world.polls[&small].held, 150);
}

#[test]
fn equal_polls_evict_each_other_after_the_grace_period() {
    let mut world = BudgetModel::new();
    let polls: Vec<PollId> = (0..4).map(|_| world.holding("a", 250)).collect();
    for &id in &polls {
        assert!(!world.ask(id, 500));
    }
    assert_eq!(world.evicted(), [0_u64; 0], "they may take turns");
    world.pass(1000);
    while !world.evicted().is_empty() {
        world.evicted_polls_leave();
    }
    let mut held: Vec<usize> = world.polls.values().map(|poll| poll.held).collect();
    held.sort_unstable();
    assert_eq!(held, [500, 500], "as many as there is room for have got what they need");
}

#[test]
fn a_very_small_request_does_not_wait_for_the_grace_period_of_large_polls() {
    let mut world = BudgetModel::new();
    let large = [world.holding("a", 500), world.holding("a", 500)];
    world.pass(1);
    let small = world.enter("a");
    assert!(!world.ask(small, 20));
    assert_eq!(world.evicted(), [large[0]]);
}

#[test]
fn a_namespace_over_its_share_loses_first_and_a_single_one_may_use_everything() {
    let mut world = BudgetModel::new();
    let greedy: Vec<PollId> = (0..9).map(|_| world.holding("greedy", 100)).collect();
    let modest = world.holding("modest", 100);
    world.pass(10_000); // the small one hangs as well
    let new = world.enter("new");
    assert!(!world.ask(new, 250));
    assert_eq!(world.evicted(), greedy[..3]);
    world.evicted_polls_leave();
    assert_eq!((world.polls[&new].held, world.polls[&modest].held), (250, 100));
    // A namespace over its share evicts only its own polls.
    let more = world.enter("greedy");
    assert!(!world.ask(more, 100));
    world.evicted_polls_leave();
    assert_eq!((world.polls[&new].held, world.polls[&modest].held, world.held_in("greedy")), (250, 100, 600));
}

#[test]
fn a_poll_whose_answers_are_translated_is_not_evicted() {
    let mut world = BudgetModel::new();
    let translated = world.holding("a", 900);
    world.came(translated, 900);
    world.state.shrink(translated, 800, world.now);
    assert!(world.state.pin(translated, world.now));
    world.polls.get_mut(&translated).unwrap().held = 800;
    let other = world.enter("b");
    assert!(!world.ask(other, 300));
    world.pass(10_000);
    assert_eq!(world.evicted(), [0_u64; 0]);
    world.leave(translated);
    assert_eq!(world.polls[&other].held, 300);
}

#[test]
fn a_poll_that_waits_behind_many_of_another_namespace_is_next() {
    let mut world = BudgetModel::new();
    let holders: Vec<PollId> = (0..10).map(|_| world.holding("many", 100)).collect();
    let waiting: Vec<PollId> = (0..500).map(|_| world.enter("many")).collect();
    for id in waiting {
        assert!(!world.ask(id, 10));
    }
    let honest = world.enter("one");
    assert!(!world.ask(honest, 10));
    world.evicted_polls_leave();
    assert_eq!(world.polls[&honest].held, 10);
    assert!(holders.iter().filter(|id| !world.polls.contains_key(id)).count() <= 2);
}

#[test]
fn one_body_may_be_as_large_as_the_budget() {
    let mut world = BudgetModel::new();
    let small = world.holding("a", 10);
    world.pass(300);
    let huge = world.enter("a");
    assert!(!world.ask(huge, 5 * TOTAL));
    assert_eq!(world.evicted(), [small]);
    world.leave(small);
    assert_eq!(world.polls[&huge].held, TOTAL);
}

#[derive(Clone, Debug)]
enum Event {
    Enter { namespace: u8, bytes: usize },
    Ask { poll: usize, bytes: usize },
    Came { poll: usize, bytes: usize },
    Done { poll: usize },
    Leave { poll: usize },
    EvictedLeave,
    Pass { millis: u64 },
}

fn event() -> impl Strategy<Value = Event> {
    let bytes = prop_oneof![0..20_usize, 0..300_usize, 0..1500_usize];
    prop_oneof![
        4 => (0..4_u8, bytes.clone()).prop_map(|(namespace, bytes)| Event::Enter { namespace, bytes }),
        4 => (any::<usize>(), bytes).prop_map(|(poll, bytes)| Event::Ask { poll, bytes }),
        2 => (any::<usize>(), 0..200_usize).prop_map(|(poll, bytes)| Event::Came { poll, bytes }),
        1 => any::<usize>().prop_map(|poll| Event::Done { poll }),
        2 => any::<usize>().prop_map(|poll| Event::Leave { poll }),
        2 => Just(Event::EvictedLeave),
        3 => (0..400_u64).prop_map(|millis| Event::Pass { millis }),
    ]
}

impl BudgetModel {
    fn play(&mut self, event: &Event) {
        let pick = |world: &Self, poll: usize| world.order.get(poll % world.order.len().max(1)).copied();
        match *event {
            Event::Enter { namespace, bytes } => {
                let id = self.enter(&format!("n{namespace}"));
                self.ask(id, bytes);
            }
            Event::Ask { poll, bytes } => {
                let waits =
                    |id: &PollId| self.polls[id].wants.is_some() || self.polls[id].done || self.polls[id].evicted();
                if let Some(id) = pick(self, poll).filter(|id| !waits(id)) {
                    self.ask(id, bytes);
                }
            }
            Event::Came { poll, bytes } => {
                if let Some(id) = pick(self, poll) {
                    self.came(id, bytes);
                }
            }
            Event::Done { poll } => {
                let Some(id) = pick(self, poll).filter(|id| self.polls[id].wants.is_none()) else { return };
                let poll = self.polls.get_mut(&id).unwrap();
                poll.done = self.state.pin(id, self.now);
                assert_ne!(poll.done, poll.evicted());
            }
            Event::Leave { poll } => {
                if let Some(id) = pick(self, poll) {
                    self.leave(id);
                }
            }
            Event::EvictedLeave => self.evicted_polls_leave(),
            Event::Pass { millis } => self.pass(millis),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn no_more_is_held_than_there_is_and_a_namespace_within_its_share_loses_nothing(
        events in proptest::collection::vec(event(), 1..120),
    ) {
        let mut world = BudgetModel::new();
        for event in events {
            let before = world.evicted();
            let held: HashMap<String, usize> = (0..4).map(|n| format!("n{n}")).map(|n| { let held = world.held_in(&n); (n, held) }).collect();
            let mut waits: Vec<Arc<str>> = Vec::new();
            waits.extend(world.polls.values().filter(|poll| poll.wants.is_some()).map(|poll| Arc::clone(&poll.namespace)));
            let namespaces: std::collections::HashSet<_> = world.polls.values().map(|poll| Arc::clone(&poll.namespace)).collect();
            if let Event::Enter { namespace, .. } = event { waits.push(format!("n{namespace}").into()) }
            if let Event::Ask { poll, .. } = event && !world.order.is_empty() {
                waits.push(Arc::clone(&world.polls[&world.order[poll % world.order.len()]].namespace));
            }
            // One more may have come in.
            let share = TOTAL / (namespaces.len() + 1);
            world.play(&event);
            for id in world.evicted().into_iter().filter(|id| !before.contains(id)) {
                let namespace = &world.polls[&id].namespace;
                let for_its_own = waits.contains(namespace);
                let over = held[&**namespace] > share;
                prop_assert!(for_its_own || over, "{namespace} held {} of a share of {share}", held[&**namespace]);
            }
        }
        // No poll starves: when the evicted ones have ended, and those that hang have had their grace period, a small one gets its part.
        let blocked = world.polls.values().any(|poll| poll.done);
        let new = world.enter("honest");
        let mut granted = world.ask(new, 10);
        for _ in 0..20 {
            world.evicted_polls_leave();
            world.pass(100);
            granted |= world.polls[&new].held == 10;
        }
        prop_assert!(granted || blocked);
    }

    #[test]
    fn polls_that_leave_free_everything(events in proptest::collection::vec(event(), 1..60)) {
        let mut world = BudgetModel::new();
        for event in events {
            world.play(&event);
        }
        for id in world.order.clone() {
            world.leave(id);
        }
        prop_assert!(world.state.is_empty(), "{:?}", world.state);
        let all = world.enter("a");
        prop_assert!(world.ask(all, TOTAL));
    }
}
