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
    /// The total that it waits for.
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

    /// Requests `total` for a poll. Returns whether it was granted at once.
    fn request(&mut self, id: PollId, total: usize) -> bool {
        let granted = self.state.request(id, total, self.now);
        let poll = self.polls.get_mut(&id).unwrap();
        if granted {
            poll.held = total.min(TOTAL);
            // A poll that waited and was granted its request within the same call was notified as well.
            let _ = was_granted(&poll.signal);
        } else if !poll.evicted() {
            poll.wants = Some(total.min(TOTAL));
        }
        self.take_grants();
        granted
    }

    fn holding(&mut self, namespace: &str, bytes: usize) -> PollId {
        let id = self.enter(namespace);
        assert!(self.request(id, bytes), "there is room for {bytes}");
        id
    }

    fn receive(&mut self, id: PollId, bytes: usize) {
        self.state.received(id, bytes, self.now);
    }

    fn leave(&mut self, id: PollId) {
        self.state.leave(id, self.now);
        self.polls.remove(&id);
        self.order.retain(|other| *other != id);
        self.take_grants();
    }

    fn pass(&mut self, millis: u64) {
        self.now += Duration::from_millis(millis);
        self.state.settle(self.now);
        self.take_grants();
    }

    /// Updates the polls that were granted their requests, and checks that no more is held than there is.
    fn take_grants(&mut self) {
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
    let mut model = BudgetModel::new();
    let polls: Vec<PollId> = (0..10)
        .map(|_| {
            model.pass(10);
            model.holding("a", 100)
        })
        .collect();
    model.pass(1000);
    model.receive(polls[0], 50); // a good part of what it holds
    model.receive(polls[1], 1); // a single byte
    let small = model.enter("a");
    assert!(!model.request(small, 150));
    assert_eq!(model.evicted(), [polls[1], polls[2]]);
    model.leave(polls[1]);
    assert_eq!(model.polls[&small].held, 0);
    model.leave(polls[2]);
    assert_eq!(model.polls[&small].held, 150);
}

#[test]
fn equal_polls_evict_each_other_after_the_grace_period() {
    let mut model = BudgetModel::new();
    let polls: Vec<PollId> = (0..4).map(|_| model.holding("a", 250)).collect();
    for &id in &polls {
        assert!(!model.request(id, 500));
    }
    assert_eq!(model.evicted(), [0_u64; 0], "they may take turns");
    model.pass(1000);
    while !model.evicted().is_empty() {
        model.evicted_polls_leave();
    }
    let mut held: Vec<usize> = model.polls.values().map(|poll| poll.held).collect();
    held.sort_unstable();
    assert_eq!(held, [500, 500], "as many as there is room for have got what they need");
}

#[test]
fn a_very_small_request_does_not_wait_for_the_grace_period_of_large_polls() {
    let mut model = BudgetModel::new();
    let large = [model.holding("a", 500), model.holding("a", 500)];
    model.pass(1);
    let small = model.enter("a");
    assert!(!model.request(small, 20));
    assert_eq!(model.evicted(), [large[0]]);
}

#[test]
fn a_namespace_over_its_share_loses_first_and_a_single_one_may_use_everything() {
    let mut model = BudgetModel::new();
    let greedy: Vec<PollId> = (0..9).map(|_| model.holding("greedy", 100)).collect();
    let modest = model.holding("modest", 100);
    model.pass(10_000); // the small one hangs as well
    let new = model.enter("new");
    assert!(!model.request(new, 250));
    assert_eq!(model.evicted(), greedy[..3]);
    model.evicted_polls_leave();
    assert_eq!((model.polls[&new].held, model.polls[&modest].held), (250, 100));
    // A namespace over its share evicts only its own polls.
    let more = model.enter("greedy");
    assert!(!model.request(more, 100));
    model.evicted_polls_leave();
    assert_eq!((model.polls[&new].held, model.polls[&modest].held, model.held_in("greedy")), (250, 100, 600));
}

#[test]
fn a_poll_whose_answers_are_translated_is_not_evicted() {
    let mut model = BudgetModel::new();
    let translated = model.holding("a", 900);
    model.receive(translated, 900);
    model.state.shrink(translated, 800, model.now);
    assert!(model.state.pin(translated, model.now));
    model.polls.get_mut(&translated).unwrap().held = 800;
    let other = model.enter("b");
    assert!(!model.request(other, 300));
    model.pass(10_000);
    assert_eq!(model.evicted(), [0_u64; 0]);
    model.leave(translated);
    assert_eq!(model.polls[&other].held, 300);
}

#[test]
fn a_poll_that_waits_behind_many_of_another_namespace_is_next() {
    let mut model = BudgetModel::new();
    let holders: Vec<PollId> = (0..10).map(|_| model.holding("many", 100)).collect();
    let waiting: Vec<PollId> = (0..500).map(|_| model.enter("many")).collect();
    for id in waiting {
        assert!(!model.request(id, 10));
    }
    let honest = model.enter("one");
    assert!(!model.request(honest, 10));
    model.evicted_polls_leave();
    assert_eq!(model.polls[&honest].held, 10);
    assert!(holders.iter().filter(|id| !model.polls.contains_key(id)).count() <= 2);
}

#[test]
fn one_body_may_be_as_large_as_the_budget() {
    let mut model = BudgetModel::new();
    let small = model.holding("a", 10);
    model.pass(300);
    let huge = model.enter("a");
    assert!(!model.request(huge, 5 * TOTAL));
    assert_eq!(model.evicted(), [small]);
    model.leave(small);
    assert_eq!(model.polls[&huge].held, TOTAL);
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
        let pick = |model: &Self, poll: usize| model.order.get(poll % model.order.len().max(1)).copied();
        match *event {
            Event::Enter { namespace, bytes } => {
                let id = self.enter(&format!("n{namespace}"));
                self.request(id, bytes);
            }
            Event::Ask { poll, bytes } => {
                let waits =
                    |id: &PollId| self.polls[id].wants.is_some() || self.polls[id].done || self.polls[id].evicted();
                if let Some(id) = pick(self, poll).filter(|id| !waits(id)) {
                    self.request(id, bytes);
                }
            }
            Event::Came { poll, bytes } => {
                if let Some(id) = pick(self, poll) {
                    self.receive(id, bytes);
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
        let mut model = BudgetModel::new();
        for event in events {
            let before = model.evicted();
            let held: HashMap<String, usize> = (0..4).map(|n| format!("n{n}")).map(|n| { let held = model.held_in(&n); (n, held) }).collect();
            let mut waits: Vec<Arc<str>> = Vec::new();
            waits.extend(model.polls.values().filter(|poll| poll.wants.is_some()).map(|poll| Arc::clone(&poll.namespace)));
            let namespaces: std::collections::HashSet<_> = model.polls.values().map(|poll| Arc::clone(&poll.namespace)).collect();
            if let Event::Enter { namespace, .. } = event { waits.push(format!("n{namespace}").into()) }
            if let Event::Ask { poll, .. } = event && !model.order.is_empty() {
                waits.push(Arc::clone(&model.polls[&model.order[poll % model.order.len()]].namespace));
            }
            // One more may have come in.
            let share = TOTAL / (namespaces.len() + 1);
            model.play(&event);
            for id in model.evicted().into_iter().filter(|id| !before.contains(id)) {
                let namespace = &model.polls[&id].namespace;
                let for_its_own = waits.contains(namespace);
                let over = held[&**namespace] > share;
                prop_assert!(for_its_own || over, "{namespace} held {} of a share of {share}", held[&**namespace]);
            }
        }
        // No poll starves: when the evicted ones have ended, and those that hang have had their grace period, a small one gets its part.
        let blocked = model.polls.values().any(|poll| poll.done);
        let new = model.enter("honest");
        let mut granted = model.request(new, 10);
        for _ in 0..20 {
            model.evicted_polls_leave();
            model.pass(100);
            granted |= model.polls[&new].held == 10;
        }
        prop_assert!(granted || blocked);
    }

    #[test]
    fn polls_that_leave_free_everything(events in proptest::collection::vec(event(), 1..60)) {
        let mut model = BudgetModel::new();
        for event in events {
            model.play(&event);
        }
        for id in model.order.clone() {
            model.leave(id);
        }
        prop_assert!(model.state.is_empty(), "{:?}", model.state);
        let all = model.enter("a");
        prop_assert!(model.request(all, TOTAL));
    }
}
