use super::scheduler::LOG_WINDOW;
use super::*;
use crate::k8s::client::PolicyRule;

const SECOND: Duration = Duration::from_secs(1);
const LIMITS: QueueLimits =
    QueueLimits { in_flight: 8, writes_per_second: 50, refused_retry: Duration::from_secs(300) };

fn id(namespace: &str, name: impl ToString + Copy) -> TargetId {
    TargetId::new(namespace, &name.to_string())
}

fn queue() -> WorkQueue<TargetId> {
    WorkQueue::new(LIMITS)
}

fn failed() -> ApiError {
    ApiError::Failed("a webhook fails".to_owned())
}

fn unreachable() -> ApiError {
    ApiError::Unreachable("no answer".to_owned())
}

/// Takes the next key, which may be tried now, and ends the attempt with this result.
async fn try_next(queue: &WorkQueue<TargetId>, version: u64, result: Result<(), &ApiError>) -> WriteFailure {
    let item = queue.next().await;
    assert_eq!(item.attempt(version), Ok(()));
    item.finish(result)
}

/// A queue in which so many objects of namespace `a` have failed, or wait since all others did.
async fn failing(count: usize) -> WorkQueue<TargetId> {
    let queue = queue();
    queue.add_all((0..count).map(|name| id("a", name)));
    while !queue.lock().queued.is_empty() {
        let item = queue.next().await;
        if item.attempt(1).is_ok() {
            item.finish(Err(&failed()));
        }
    }
    queue
}

#[tokio::test(start_paused = true)]
async fn a_key_waits_once_and_for_the_earliest_of_its_times() {
    let (queue, now) = (queue(), Instant::now());
    for (name, at) in [("late", 9), ("twice", 5), ("twice", 3), ("twice", 7), ("soon", 1)] {
        queue.add_at(id("a", name), now + at * SECOND);
    }
    assert_eq!(queue.delayed(), 3);
    let mut taken = Vec::new();
    for _ in 0..3 {
        let item = queue.next().await;
        taken.push((item.key().name.to_string(), now.elapsed().as_secs()));
    }
    assert_eq!(taken, [("soon".to_owned(), 1), ("twice".to_owned(), 3), ("late".to_owned(), 9)]);
    assert!(queue.is_empty() && queue.delayed() == 0);
}

#[tokio::test(start_paused = true)]
async fn a_key_that_is_added_again_while_it_waits_keeps_its_turn() {
    let queue = queue();
    queue.add_all([id("a", 1), id("a", 2)]);
    queue.add_all([id("a", 1), id("a", 3)]);
    assert_eq!(queue.drain(), [id("a", 1), id("a", 2), id("a", 3)]);
}

#[tokio::test(start_paused = true)]
async fn a_key_that_is_added_while_it_is_processed_comes_again_afterwards_and_once() {
    let queue = queue();
    queue.add(id("a", 1));
    let item = queue.next().await;
    queue.add_at(item.key().clone(), Instant::now() + SECOND);
    queue.add(item.key().clone());
    assert!(queue.try_next().is_none());
    drop(item);
    assert_eq!(queue.drain(), [id("a", 1)]);
    assert!(queue.is_empty());
}

#[tokio::test(start_paused = true)]
async fn no_more_keys_are_processed_than_there_are_places() {
    let queue = queue();
    queue.add_all((0..9).map(|name| id("a", name)));
    let mut items: Vec<_> = std::iter::from_fn(|| queue.try_next()).collect();
    assert_eq!(items.len(), 8);
    let waiting = tokio::spawn({
        let queue = queue.clone();
        async move { queue.next().await.key().clone() }
    });
    tokio::time::sleep(SECOND).await;
    assert!(!waiting.is_finished());
    items.pop();
    assert_eq!(waiting.await.unwrap(), id("a", 8));
}

#[tokio::test(start_paused = true)]
async fn a_task_that_waits_for_a_late_key_gets_an_earlier_one() {
    let (queue, now) = (queue(), Instant::now());
    queue.add_at(id("a", "late"), now + 100 * SECOND);
    let (item, ()) = tokio::join!(queue.next(), async {
        tokio::time::sleep(SECOND).await;
        queue.add_at(id("a", "early"), now + 2 * SECOND);
    });
    assert_eq!((&*item.key().name, now.elapsed()), ("early", 2 * SECOND));
}

#[tokio::test(start_paused = true)]
async fn an_object_that_fails_is_retried_after_growing_delays_and_another_version_or_object_at_once() {
    let queue = queue();
    queue.add(id("a", 1));
    let first = try_next(&queue, 7, Err(&failed())).await;
    assert_eq!(first, WriteFailure { is_new: true, is_lasting: false });
    for pause in [1, 2, 4, 8, 16, 32, 60, 60] {
        queue.add(id("a", 1));
        let item = queue.next().await;
        assert_eq!(item.attempt(7), Err(Deferred::Retry));
        assert_eq!(item.attempt(8), Ok(()));
        drop(item);
        queue.add(id("a", 2));
        let item = queue.next().await;
        assert_eq!(
            (item.key(), item.attempt(7)),
            (&id("a", 2), Ok(())),
            "the failure of one object does not delay others"
        );
        drop(item);
        let now = Instant::now();
        let failure = try_next(&queue, 7, Err(&failed())).await;
        assert_eq!(now.elapsed(), pause * SECOND);
        assert_eq!(failure, WriteFailure { is_new: false, is_lasting: true });
    }
    tokio::time::sleep(60 * SECOND).await;
    try_next(&queue, 7, Ok(())).await;
    queue.add(id("a", 1));
    assert!(try_next(&queue, 7, Err(&failed())).await.is_new, "a success in between starts the count again");
}

#[tokio::test(start_paused = true)]
async fn where_nothing_can_be_written_untried_objects_wait_among_the_retries_until_one_write_succeeds() {
    let queue = failing(8).await;
    let namespace_fails = Deferred::FailingNamespace("a webhook fails".to_owned());
    queue.add_all([id("b", 0), id("a", 100), id("a", 101)]);
    assert_eq!(queue.next().await.attempt(1), Ok(()), "another namespace");
    for item in [queue.next().await, queue.next().await] {
        assert_eq!(item.attempt(1), Err(namespace_fails.clone()));
    }
    let item = queue.next().await;
    assert_eq!(
        (item.key(), item.attempt(2)),
        (&id("a", 100), Ok(())),
        "as a retry, with the version that is desired by then"
    );
    item.finish(Ok(()));
    assert_eq!(queue.drain(), [id("a", 101)], "it need not wait any more, and what failed itself still waits");
    queue.add(id("a", 102));
    assert_eq!(queue.next().await.attempt(1), Ok(()));
    queue.add(id("a", 1));
    assert_eq!(queue.next().await.attempt(1), Err(Deferred::Retry));
}

#[tokio::test(start_paused = true)]
async fn many_objects_that_fail_share_a_quarter_of_the_writes() {
    let queue = queue();
    queue.add_all((0..2000).map(|name| id(&name.to_string(), 1)));
    for _ in 0..2000 {
        try_next(&queue, 1, Err(&failed())).await;
    }
    let began = Instant::now();
    let mut retries = 0;
    while began.elapsed() < 400 * SECOND {
        try_next(&queue, 1, Err(&failed())).await;
        retries += 1;
    }
    let most = 400 * 50 / 4;
    assert!(retries > most * 9 / 10 && retries <= most + 1, "{retries}");
}

#[tokio::test(start_paused = true)]
async fn retries_occupy_two_places_only() {
    let queue = failing(20).await;
    tokio::time::sleep(100 * SECOND).await;
    let _retries = (queue.next().await, queue.next().await);
    assert!(tokio::time::timeout(100 * SECOND, queue.next()).await.is_err());
    queue.add(id("b", 1));
    assert_eq!(queue.next().await.key(), &id("b", 1));
}

#[tokio::test(start_paused = true)]
async fn a_retry_with_nothing_to_write_is_forgotten_and_one_that_is_deferred_is_not() {
    let queue = failing(1).await;
    let now = Instant::now();
    queue.next().await.defer(now + 10 * SECOND);
    let item = queue.next().await;
    assert_eq!(now.elapsed(), 10 * SECOND);
    assert_eq!(item.attempt(1), Ok(()));
    assert!(!item.finish(Err(&failed())).is_new);
    drop(queue.next().await);
    assert!(queue.is_empty());
}

#[tokio::test(start_paused = true)]
async fn nothing_is_sent_to_an_api_server_that_does_not_answer_for_up_to_half_a_minute() {
    let queue = queue();
    queue.add(id("a", 1));
    for longest in [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0] {
        queue.add_all([id("a", 2), id("a", 3)]);
        let (one, other) = (queue.next().await, queue.next().await);
        for item in [one, other] {
            assert_eq!(item.attempt(1), Ok(()));
            item.finish(Err(&unreachable())); // the second was sent before the pause and does not make it longer
        }
        let now = Instant::now();
        assert!(queue.is_paused() && queue.try_next().is_none());
        let item = queue.next().await;
        let (pause, longest) = (now.elapsed().as_secs_f64(), longest);
        assert!(pause >= longest / 2.0 && pause <= longest + 0.001, "{pause} for {longest}");
        drop(item);
    }
    queue.add_all([id("a", 1), id("a", 2)]);
    let (one, other) = (queue.next().await, queue.next().await);
    assert_eq!((one.attempt(1), other.attempt(1)), (Ok(()), Ok(())));
    one.finish(Err(&unreachable()));
    other.finish(Err(&failed()));
    assert!(queue.is_paused(), "a failure at one object does not show that it can write again");
    queue.clear();
    assert!(!queue.is_paused());
}

#[tokio::test(start_paused = true)]
async fn an_answer_ends_the_pause() {
    let queue = queue();
    queue.add_all([id("a", 1), id("a", 2)]);
    let (one, other) = (queue.next().await, queue.next().await);
    assert_eq!((one.attempt(1), other.attempt(1)), (Ok(()), Ok(())));
    one.finish(Err(&unreachable()));
    assert!(queue.is_paused());
    other.finish(Ok(()));
    assert_eq!(queue.drain(), [id("a", 1)]);
}

#[tokio::test(start_paused = true)]
async fn a_namespace_without_permission_is_paused_for_a_minute_and_others_are_not() {
    let queue = queue();
    let denied = ApiError::Forbidden(PolicyRule::new("patch", "scrapetarget.dev", "scrapetargets/status", Some("a")));
    queue.add(id("a", 1));
    try_next(&queue, 1, Err(&denied)).await;
    let now = Instant::now();
    queue.add_all([id("a", 1), id("a", 2), id("b", 1)]);
    for _ in 0..2 {
        assert_eq!(queue.next().await.attempt(1), Err(Deferred::NamespacePaused(denied.clone())));
    }
    assert_eq!(queue.next().await.attempt(1), Ok(()));
    for _ in 0..2 {
        let item = queue.next().await;
        assert_eq!((item.attempt(1), now.elapsed()), (Ok(()), 60 * SECOND));
        item.pause_namespace(&ApiError::NotFound);
        assert_eq!(item.attempt(1), Err(Deferred::NamespacePaused(ApiError::NotFound)), "the caller can pause it, too");
        queue.clear();
        queue.add(id("a", 3));
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_waits_unless_it_changes_and_is_new_once() {
    let refused = ApiError::Refused("a webhook says no".to_owned());
    for (error, pause) in [(refused, 300), (ApiError::NotFound, 60)] {
        let queue = queue();
        queue.add(id("a", 1));
        assert!(try_next(&queue, 1, Err(&error)).await.is_new);
        let now = Instant::now();
        queue.add(id("a", 1));
        assert_eq!(queue.next().await.attempt(1), Err(Deferred::Waiting));
        assert!(!try_next(&queue, 1, Err(&error)).await.is_new);
        assert_eq!(now.elapsed(), pause * SECOND);
        queue.add(id("a", 1));
        assert!(try_next(&queue, 2, Err(&error)).await.is_new);
        assert_eq!(now.elapsed(), pause * SECOND);
    }
}

#[tokio::test(start_paused = true)]
async fn a_conflict_is_retried_soon_and_then_after_growing_delays() {
    let (queue, now) = (queue(), Instant::now());
    queue.add(id("a", 1));
    let mut tried = Vec::new();
    for _ in 0..8 {
        try_next(&queue, 1, Err(&ApiError::Conflict("modified".to_owned()))).await;
        tried.push(now.elapsed().as_secs());
    }
    assert_eq!(tried, [0, 1, 3, 7, 15, 31, 61, 91]);
}

#[tokio::test(start_paused = true)]
async fn a_delay_set_by_the_caller_is_for_one_version_and_can_be_forgotten() {
    let queue = queue();
    queue.add(id("a", 1));
    let item = queue.next().await;
    assert_eq!(item.attempt(1), Ok(()));
    item.retry_in(60 * SECOND);
    queue.add(id("a", 1));
    let item = queue.next().await;
    assert_eq!((item.attempt(1), item.attempt(2)), (Err(Deferred::Waiting), Ok(())));
    queue.forget(item.key());
    assert_eq!(item.attempt(1), Ok(()));
}

#[tokio::test(start_paused = true)]
async fn objects_that_are_gone_are_forgotten() {
    let queue = failing(20).await;
    queue.retain(|_| false);
    assert!(queue.is_empty());
    let scheduler = queue.lock();
    assert!(scheduler.keys.is_empty() && scheduler.failing.is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_item_that_was_taken_before_the_queue_was_cleared_has_no_effect() {
    let queue = queue();
    queue.add(id("a", 1));
    let old = queue.next().await;
    assert_eq!(old.attempt(1), Ok(()));
    queue.clear();
    queue.add(id("a", 1));
    let new = queue.next().await;
    old.finish(Err(&failed()));
    assert!(queue.try_next().is_none());
    assert_eq!(new.attempt(1), Ok(()));
    drop(new);
    assert!(queue.is_empty());
}

#[tokio::test(start_paused = true)]
async fn ten_failures_an_hour_are_logged_and_the_others_are_counted() {
    let queue = queue();
    assert_eq!(queue.not_logged(), None);
    assert_eq!((0..10_000).filter(|_| queue.may_log()).count(), 10);
    assert_eq!((queue.not_logged(), queue.not_logged()), (Some(9990), None));
    tokio::time::sleep(LOG_WINDOW / 2).await;
    assert!(!queue.may_log());
    tokio::time::sleep(LOG_WINDOW / 2).await;
    assert!(queue.may_log());
}
