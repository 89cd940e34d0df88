//! Compares the queue with a simple model of it, under any order of operations. The model has one list and searches all of it each time.

use proptest::collection::vec;
use proptest::prelude::*;

use super::scheduler::{Cause, MAX_RETRIES_IN_FLIGHT};
use super::*;
use crate::k8s::client::PolicyRule;

const KEYS: u8 = 24;
const LIMITS: QueueLimits =
    QueueLimits { in_flight: 4, writes_per_second: 50, refused_retry: Duration::from_secs(300) };
const RETRY_GAP: Duration = Duration::from_millis(80);

/// Even keys are of one namespace, odd ones of another.
fn id(key: u8) -> TargetId {
    TargetId::new(if key.is_multiple_of(2) { "even" } else { "odd" }, &key.to_string())
}

#[derive(Clone, Copy, Debug)]
enum WriteAnswer {
    Written,
    Failed,
    Unreachable,
    Forbidden,
    Refused,
    NotFound,
    Conflict,
}

impl WriteAnswer {
    fn result(self, key: u8) -> Result<(), ApiError> {
        Err(match self {
            Self::Written => return Ok(()),
            Self::Failed => ApiError::Failed("webhook".to_owned()),
            Self::Unreachable => ApiError::Unreachable("no answer".to_owned()),
            Self::Forbidden => ApiError::Forbidden(PolicyRule::new("patch", "g", "p", Some(&id(key).namespace))),
            Self::Refused => ApiError::Refused("no".to_owned()),
            Self::NotFound => ApiError::NotFound,
            Self::Conflict => ApiError::Conflict("modified".to_owned()),
        })
    }
}

#[derive(Clone, Copy, Debug)]
enum Operation {
    Add(u8),
    AddAt(u8, u16),
    Take,
    /// The next four are about one of the keys that are processed.
    Attempt(u8, u64, WriteAnswer),
    Release(u8),
    Defer(u8, u16),
    RetryIn(u8, u16),
    Forget(u8),
    /// Keys from here on are gone.
    Retain(u8),
    Clear,
    Pass(u16),
}

fn operation() -> impl Strategy<Value = Operation> {
    let answer = prop_oneof![
        3 => Just(WriteAnswer::Written),
        8 => Just(WriteAnswer::Failed),
        1 => Just(WriteAnswer::Unreachable),
        1 => Just(WriteAnswer::Forbidden),
        1 => Just(WriteAnswer::Refused),
        1 => Just(WriteAnswer::NotFound),
        1 => Just(WriteAnswer::Conflict),
    ];
    let key = 0..KEYS;
    prop_oneof![
        12 => key.clone().prop_map(Operation::Add),
        3 => (key.clone(), 0..5000_u16).prop_map(|(key, ms)| Operation::AddAt(key, ms)),
        20 => Just(Operation::Take),
        16 => (0..8_u8, 1..3_u64, answer).prop_map(|(item, version, answer)| Operation::Attempt(item, version, answer)),
        3 => (0..8_u8).prop_map(Operation::Release),
        2 => (0..8_u8, 0..5000_u16).prop_map(|(item, ms)| Operation::Defer(item, ms)),
        1 => (0..8_u8, 0..5000_u16).prop_map(|(item, ms)| Operation::RetryIn(item, ms)),
        1 => key.prop_map(Operation::Forget),
        1 => (KEYS / 2..KEYS).prop_map(Operation::Retain),
        1 => prop_oneof![9 => Just(Operation::Take), 1 => Just(Operation::Clear)],
        6 => prop_oneof![Just(20), Just(100), Just(1000), Just(5000), Just(60_000)].prop_map(Operation::Pass),
    ]
}

/// One key of the model.
#[derive(Clone, Debug, Default)]
struct ModelKey {
    /// When it is to be processed, and its number among those of the same time.
    due: Option<(Instant, usize)>,
    busy: Option<Busy>,
    waits: Option<Waits>,
}

#[derive(Clone, Debug)]
struct Busy {
    retry: bool,
    /// Something was attempted, or deferred.
    kept: bool,
    requeue_at: Option<Instant>,
}

#[derive(Clone, Debug)]
struct Waits {
    version: u64,
    cause: Cause,
    failures: u32,
    until: (Instant, usize),
}

struct QueueModel {
    keys: Vec<ModelKey>,
    next_retry: Option<Instant>,
    /// For even and odd keys: how many failed, and until when the namespace is paused.
    failed: [usize; 2],
    paused: [Option<Instant>; 2],
    count: usize,
}

impl QueueModel {
    fn new() -> Self {
        Self {
            keys: vec![ModelKey::default(); KEYS.into()],
            next_retry: None,
            failed: [0; 2],
            paused: [None; 2],
            count: 0,
        }
    }

    fn number(&mut self, at: Instant) -> (Instant, usize) {
        self.count += 1;
        (at, self.count)
    }

    fn add(&mut self, key: u8, at: Instant, now: Instant) {
        let due = self.number(at.max(now));
        let key = &mut self.keys[usize::from(key)];
        match &mut key.busy {
            Some(busy) => busy.requeue_at = busy.requeue_at.into_iter().chain([at]).min(),
            None if key.due.is_some_and(|(earlier, _)| earlier <= due.0) => {}
            None => key.due = Some(due),
        }
    }

    /// The key that must come next.
    fn next(&self, now: Instant, paused: bool) -> Option<(u8, bool)> {
        let busy = self.keys.iter().filter_map(|key| key.busy.as_ref());
        if paused || busy.clone().count() >= LIMITS.in_flight {
            return None;
        }
        let numbered = || (0..).zip(&self.keys).filter(|(_, key)| key.busy.is_none());
        let retries = numbered().filter_map(|(number, key)| {
            key.waits.as_ref().filter(|waits| waits.cause.is_retry()).map(|waits| (waits.until, number))
        });
        let may_retry = self.next_retry.is_none_or(|next| next <= now) && busy.filter(|busy| busy.retry).count() < 2;
        let retry = retries.min().filter(|((at, _), _)| may_retry && *at <= now);
        let queued = numbered().filter_map(|(number, key)| key.due.map(|due| (due, number))).min();
        let queued = queued.filter(|((at, _), _)| *at <= now);
        retry.map(|(_, key)| (key, true)).or_else(|| queued.map(|(_, key)| (key, false)))
    }

    fn take(&mut self, key: u8, retry: bool, now: Instant) {
        let key = &mut self.keys[usize::from(key)];
        let requeue_at = key.due.take().map(|(at, _)| at).filter(|at| *at > now);
        key.busy = Some(Busy { retry, kept: false, requeue_at });
        if retry {
            self.next_retry = Some(now + RETRY_GAP);
        }
    }

    /// Whether `version` may be tried, and if not, why, as in [`outcome`].
    fn attempt(&mut self, number: u8, version: u64, now: Instant) -> &'static str {
        let namespace = usize::from(number % 2);
        let slot = self.number(now);
        let namespace_fails = self.failed[namespace] >= 8;
        let ModelKey { busy: Some(busy), waits, .. } = &mut self.keys[usize::from(number)] else { unreachable!() };
        if let Some(until) = self.paused[namespace].filter(|until| *until > now) {
            busy.kept = true;
            busy.requeue_at = busy.requeue_at.into_iter().chain([until]).min();
            if let Some(waits) = waits.as_mut().filter(|waits| waits.cause.is_retry()) {
                waits.until = waits.until.max((until, slot.1));
            }
            return "namespace paused";
        }
        let retry = waits.as_ref().filter(|waits| waits.cause.is_retry());
        let same = |waits: &Waits| waits.version == version || waits.cause == Cause::Untried;
        if !busy.retry && retry.is_some_and(same) {
            if let Some(waits) = waits {
                waits.version = version;
            }
            return if namespace_fails { "namespace fails" } else { "retry" };
        }
        if let Some(waits) = waits.as_ref().filter(|waits| !waits.cause.is_retry() && waits.version == version)
            && waits.until.0 > now
        {
            busy.requeue_at = busy.requeue_at.into_iter().chain([waits.until.0]).min();
            return "waits";
        }
        if namespace_fails && !busy.retry {
            let failures = retry.map_or(0, |waits| waits.failures);
            *waits = Some(Waits { version, cause: Cause::Untried, failures, until: slot });
            return "namespace fails";
        }
        if let Some(waits) = waits.as_mut().filter(|waits| waits.cause == Cause::Untried) {
            waits.version = version;
        }
        busy.kept = true;
        "granted"
    }

    fn finish(&mut self, number: u8, version: u64, answer: WriteAnswer, now: Instant) {
        let (index, namespace) = (usize::from(number), usize::from(number % 2));
        let before = self.keys[index].waits.take();
        let failures = |causes: &[Cause]| {
            before.as_ref().filter(|waits| causes.contains(&waits.cause)).map_or(0, |waits| waits.failures)
        };
        let doubled = |failures: u32, longest: u64| Duration::from_secs((1_u64 << failures.min(10)).min(longest));
        let (cause, failures, pause) = match answer {
            WriteAnswer::Written => {
                if std::mem::take(&mut self.failed[namespace]) >= 8 {
                    let mut freed: Vec<_> = (0..KEYS).filter(|key| usize::from(key % 2) == namespace).collect();
                    freed.retain(|key| {
                        let waits = &self.keys[usize::from(*key)].waits;
                        waits.as_ref().is_some_and(|waits| waits.cause == Cause::Untried)
                    });
                    freed.sort_by_key(|key| self.keys[usize::from(*key)].waits.as_ref().map(|waits| waits.until));
                    for key in freed {
                        self.keys[usize::from(key)].waits = None;
                        self.add(key, now, now);
                    }
                }
                return;
            }
            WriteAnswer::Unreachable => {
                self.keys[index].waits = before;
                return self.add(number, now, now);
            }
            WriteAnswer::Forbidden => {
                self.paused[namespace] = Some(now + Duration::from_secs(60));
                return self.add(number, now + Duration::from_secs(60), now);
            }
            WriteAnswer::Failed => {
                let failures = failures(&[Cause::Failed, Cause::Untried]);
                self.failed[namespace] += usize::from(failures == 0);
                (Cause::Failed, failures, doubled(failures, 60))
            }
            WriteAnswer::Conflict => {
                (Cause::Conflict, failures(&[Cause::Conflict]), doubled(failures(&[Cause::Conflict]), 30))
            }
            WriteAnswer::Refused => (Cause::Refused, failures(&[Cause::Refused]), Duration::from_secs(300)),
            WriteAnswer::NotFound => (Cause::NotFound, failures(&[Cause::NotFound]), Duration::from_secs(60)),
        };
        let until = self.number(now + pause);
        self.keys[index].waits = Some(Waits { version, cause, failures: failures + 1, until });
        if !cause.is_retry() {
            self.add(number, until.0, now);
        }
    }

    fn defer(&mut self, number: u8, at: Instant) {
        let slot = self.number(at);
        let ModelKey { busy: Some(busy), waits, .. } = &mut self.keys[usize::from(number)] else { unreachable!() };
        busy.kept = true;
        busy.requeue_at = busy.requeue_at.into_iter().chain([at]).min();
        if let Some(waits) = waits.as_mut().filter(|waits| waits.cause.is_retry()) {
            waits.until = waits.until.max(slot);
        }
    }

    fn release(&mut self, number: u8, now: Instant) {
        let key = &mut self.keys[usize::from(number)];
        let busy = key.busy.take().unwrap();
        if busy.retry && !busy.kept {
            key.waits = None;
        }
        if let Some(at) = busy.requeue_at {
            self.add(number, at, now);
        }
    }

    fn retain(&mut self, gone: u8, now: Instant) {
        for key in &mut self.keys[usize::from(gone)..] {
            key.waits = None;
        }
        for namespace in 0..2 {
            let mut keys = self.keys.iter().skip(namespace).step_by(2);
            if !keys.any(|key| key.waits.as_ref().is_some_and(|waits| waits.cause.is_retry())) {
                self.failed[namespace] = 0;
            }
            self.paused[namespace] = self.paused[namespace].filter(|until| now < *until);
        }
    }
}

fn outcome(result: &Result<(), Deferred>) -> &'static str {
    match result {
        Ok(()) => "granted",
        Err(Deferred::Waiting) => "waits",
        Err(Deferred::NamespacePaused(_)) => "namespace paused",
        Err(Deferred::Retry) => "retry",
        Err(Deferred::FailingNamespace(_)) => "namespace fails",
    }
}

/// The queue, what was taken from it, and the model.
struct Pair {
    queue: WorkQueue<TargetId>,
    items: Vec<(u8, WorkItem<TargetId>)>,
    model: QueueModel,
}

impl Pair {
    fn paused(&self, now: Instant) -> bool {
        self.queue.lock().paused(now).is_some()
    }

    fn pick(&mut self, item: u8) -> Option<(u8, WorkItem<TargetId>)> {
        let count = self.items.len();
        (count > 0).then(|| self.items.remove(usize::from(item) % count))
    }

    async fn apply(&mut self, operation: Operation) {
        let now = Instant::now();
        let later = |ms: u16| now + Duration::from_millis(ms.into());
        match operation {
            Operation::Add(key) => {
                self.queue.add(id(key));
                self.model.add(key, now, now);
            }
            Operation::AddAt(key, ms) => {
                self.queue.add_at(id(key), later(ms));
                self.model.add(key, later(ms), now);
            }
            Operation::Take => self.take(now),
            Operation::Attempt(item, version, answer) => {
                let Some((key, item)) = self.pick(item) else { return };
                let granted = item.attempt(version);
                assert_eq!(outcome(&granted), self.model.attempt(key, version, now));
                if granted.is_ok() {
                    let result = answer.result(key);
                    item.finish(result.as_ref().map(|&()| ()));
                    self.model.finish(key, version, answer, now);
                } else {
                    drop(item);
                }
                self.model.release(key, now);
            }
            Operation::Release(item) => {
                let Some((key, item)) = self.pick(item) else { return };
                drop(item);
                self.model.release(key, now);
            }
            Operation::Defer(item, ms) => {
                let Some((key, item)) = self.pick(item) else { return };
                item.defer(later(ms));
                self.model.defer(key, later(ms));
                self.model.release(key, now);
            }
            Operation::RetryIn(item, ms) => {
                let Some((key, item)) = self.pick(item) else { return };
                let granted = item.attempt(1);
                assert_eq!(outcome(&granted), self.model.attempt(key, 1, now));
                if granted.is_ok() {
                    item.retry_in(Duration::from_millis(ms.into()));
                    let until = self.model.number(later(ms));
                    self.model.keys[usize::from(key)].waits =
                        Some(Waits { version: 1, cause: Cause::Caller, failures: 1, until });
                    self.model.add(key, until.0, now);
                } else {
                    drop(item);
                }
                self.model.release(key, now);
            }
            Operation::Forget(key) => {
                self.queue.forget(&id(key));
                self.model.keys[usize::from(key)].waits = None;
            }
            Operation::Retain(gone) => {
                self.queue.retain(|key| key.name.parse::<u8>().unwrap() < gone);
                self.model.retain(gone, now);
            }
            Operation::Clear => {
                self.queue.clear();
                self.items.clear();
                self.model = QueueModel::new();
            }
            Operation::Pass(ms) => tokio::time::advance(Duration::from_millis(ms.into())).await,
        }
        self.check();
    }

    fn take(&mut self, now: Instant) {
        let expected = self.model.next(now, self.paused(now));
        let item = self.queue.try_next();
        assert_eq!(item.as_ref().map(WorkItem::key), expected.map(|(key, _)| id(key)).as_ref());
        if let (Some(item), Some((key, retry))) = (item, expected) {
            self.model.take(key, retry, now);
            self.items.push((key, item));
        }
    }

    /// The indexes of the queue agree with each other.
    fn check(&self) {
        let scheduler = self.queue.lock();
        let states = || scheduler.keys.values();
        assert_eq!(scheduler.processing, self.items.len());
        assert_eq!(states().filter(|state| state.queued.is_some()).count(), scheduler.queued.len());
        assert_eq!(states().filter(|state| matches!(state.queued, Some((_, true)))).count(), scheduler.delayed);
        let retries = states().filter(|state| {
            state.processing.is_none() && state.hold.as_ref().is_some_and(|hold| hold.cause.is_retry())
        });
        assert_eq!(retries.count(), scheduler.retries.len());
        assert!(scheduler.retrying <= MAX_RETRIES_IN_FLIGHT && scheduler.processing <= LIMITS.in_flight);
        assert!(
            states().all(|state| state.queued.is_some() || state.processing.is_some() || state.hold.is_some()),
            "nothing is kept of an idle key"
        );
    }

    /// Once nothing fails any more, every key that was added is written.
    async fn settle(mut self) {
        self.items.clear();
        self.queue.add_all((0..KEYS).map(id));
        let mut left: std::collections::HashSet<TargetId> = (0..KEYS).map(id).collect();
        let began = Instant::now();
        while !left.is_empty() {
            let item = self.queue.next().await;
            if item.attempt(3).is_ok() {
                left.remove(item.key());
                item.finish(Ok(()));
            }
        }
        assert!(began.elapsed() <= Duration::from_secs(61 + 60), "{:?}", began.elapsed());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_queue_does_what_its_model_does_and_loses_nothing(operations in vec(operation(), 1..300)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let mut pair = Pair { queue: WorkQueue::new(LIMITS), items: Vec::new(), model: QueueModel::new() };
            for operation in operations {
                pair.apply(operation).await;
            }
            pair.settle().await;
        });
    }
}
