//! The values that targets get.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_target_is_read_when_all_it_refers_to_was_read_and_not_before() {
    let run = running(seconds(1));
    run.reader.put("one", &[("k", "1")]);
    run.reader.put("two", &[("k", "2")]);
    run.set_references("t", &[("one", "k", false), ("two", "k", false), ("two", "other", true)]);
    assert!(!run.secrets.is_read(&target("t")));
    assert_eq!(run.reason("one", "k"), "SecretUnread");
    assert_eq!(run.next_changed(seconds(2)).await, Some(target("t")));
    assert!(run.secrets.is_read(&target("t")) && run.secrets.changed.ids().is_empty());
    assert_eq!(run.start.elapsed(), seconds(1), "both are read at the same time");
    assert_eq!((run.value("one", "k").unwrap(), run.value("two", "k").unwrap()), ("1".into(), "2".into()));
    assert_eq!(run.reason("two", "other"), "SecretNotFound");
    run.set_references("none", &[]);
    assert!(run.secrets.is_read(&target("none")));
}

#[tokio::test(start_paused = true)]
async fn a_target_whose_references_were_partly_read_is_not_reported_as_changed() {
    let run = running(seconds(1));
    run.set_references("t", &[("one", "k", true)]);
    tokio::time::sleep(Duration::from_millis(500)).await;
    run.set_references("t", &[("one", "k", true), ("two", "k", true)]);
    assert_eq!(run.next_changed(seconds(2)).await, Some(target("t")));
    assert_eq!(run.start.elapsed(), Duration::from_millis(1500));
}

#[tokio::test(start_paused = true)]
async fn a_read_that_began_before_a_target_was_removed_does_not_count_for_its_successor() {
    let run = running(seconds(1));
    run.reader.put("s", &[("k", "old")]);
    run.set_references("t", &[("s", "k", false)]);
    tokio::time::sleep(Duration::from_millis(500)).await;
    run.secrets.remove_target(&target("t"));
    run.reader.put("s", &[("k", "new")]);
    run.set_references("t", &[("s", "k", false)]);
    assert_eq!(run.next_changed(seconds(2)).await, Some(target("t")));
    assert_eq!(run.value("s", "k").unwrap(), "new");
}

#[tokio::test(start_paused = true)]
async fn a_missing_secret_is_noticed_once_it_exists_and_so_is_a_missing_key() {
    let run = running(Duration::ZERO);
    run.set_references("t", &[("s", "k", false)]);
    run.next_changed(seconds(1)).await.unwrap();
    assert_eq!(run.reason("s", "k"), "SecretNotFound");
    run.reader.put("s", &[("other", "1")]);
    assert_eq!(run.next_changed(seconds(11)).await, Some(target("t")));
    assert_eq!(run.reason("s", "k"), "SecretNotFound");
    run.reader.put("s", &[("k", "1")]);
    assert_eq!(run.next_changed(seconds(11)).await, Some(target("t")));
    assert_eq!(run.value("s", "k").unwrap(), "1");
}

#[tokio::test(start_paused = true)]
async fn a_rotated_secret_is_noticed_within_a_minute_and_an_unchanged_one_is_no_change() {
    let run = running(Duration::ZERO);
    run.reader.put("s", &[("k", "old"), ("unused", "1")]);
    run.set_references("t", &[("s", "k", false)]);
    run.set_references("u", &[("s", "k", false)]);
    assert!(run.next_changed(seconds(1)).await.is_some() && run.next_changed(seconds(1)).await.is_some());
    assert_eq!(run.reader.read_at("s", run.start).len(), 1, "two targets share one read");
    run.reader.put("s", &[("k", "old"), ("unused", "2")]);
    assert_eq!(run.next_changed(seconds(300)).await, None);
    run.reader.put("s", &[("k", "new")]);
    assert!(run.next_changed(seconds(61)).await.is_some() && run.next_changed(seconds(1)).await.is_some());
    assert_eq!(run.value("s", "k").unwrap(), "new");
    run.reader.remove("s");
    assert!(run.next_changed(seconds(61)).await.is_some());
    assert_eq!(run.reason("s", "k"), "SecretNotFound");
}

#[tokio::test(start_paused = true)]
async fn another_key_of_a_known_object_is_read_at_once_even_while_the_object_is_being_read() {
    let run = running(seconds(1));
    run.reader.put("s", &[("a", "1"), ("b", "2"), ("c", "3")]);
    run.set_references("t", &[("s", "a", false)]);
    tokio::time::sleep(Duration::from_millis(500)).await;
    run.set_references("u", &[("s", "b", false)]);
    assert_eq!(run.next_changed(seconds(1)).await, Some(target("t")));
    assert!(!run.secrets.is_read(&target("u")));
    assert_eq!(run.next_changed(seconds(2)).await, Some(target("u")));
    run.set_references("t", &[("s", "c", false)]);
    assert_eq!(run.next_changed(seconds(2)).await, Some(target("t")));
    assert_eq!(run.value("s", "c").unwrap(), "3");
    assert_eq!(run.reason("s", "a"), "SecretUnread", "a key without references is not kept");
}

#[tokio::test(start_paused = true)]
async fn what_no_target_refers_to_is_neither_kept_nor_read() {
    let run = running(seconds(1));
    run.reader.put("s", &[("k", "1")]);
    run.set_references("t", &[("s", "k", false)]);
    run.set_references("u", &[("s", "k", false)]);
    run.next_changed(seconds(2)).await.unwrap();
    run.secrets.remove_target(&target("t"));
    assert_eq!(run.value("s", "k").unwrap(), "1");
    run.set_references("u", &[]);
    assert_eq!(run.reason("s", "k"), "SecretUnread");
    let reads = run.reader.read_at("s", run.start).len();
    run.set_references("v", &[("gone", "k", false)]);
    tokio::time::sleep(Duration::from_millis(500)).await;
    run.secrets.remove_target(&target("v"));
    tokio::time::sleep(seconds(600)).await;
    assert_eq!(run.reader.read_at("s", run.start).len(), reads);
    assert_eq!(run.reader.read_at("gone", run.start).len(), 1);
    let state = run.secrets.state();
    assert_eq!(format!("{:?}", state.values), format!("{:?}", ValueStore::default()));
    assert_eq!(state.schedule.wake_at(), None);
}

#[tokio::test(start_paused = true)]
async fn old_values_stay_while_the_api_server_does_not_answer_and_what_was_never_read_has_the_reason() {
    let run = running(Duration::ZERO);
    run.reader.put("s", &[("k", "1")]);
    run.set_references("t", &[("s", "k", false)]);
    run.next_changed(seconds(1)).await.unwrap();
    run.reader.fail("s", unavailable());
    run.reader.fail("new", unavailable());
    run.set_references("u", &[("new", "k", false)]);
    assert_eq!(run.next_changed(seconds(1)).await, Some(target("u")));
    assert!(run.value("new", "k").unwrap_err().to_string().contains("connection refused"));
    assert_eq!(run.next_changed(seconds(3600)).await, None);
    assert_eq!(run.value("s", "k").unwrap(), "1");
    let reads = run.reader.read_at("new", run.start);
    let waits: Vec<f64> = reads.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(waits[0] >= 1.0 && waits[0] <= 2.1, "{waits:?}");
    assert!(waits.iter().all(|wait| (1.0..=33.0).contains(wait)), "{waits:?}");
    assert!(waits[10..].iter().all(|wait| *wait >= 15.0), "{waits:?}");
    run.reader.put("new", &[("k", "2")]);
    run.reader.put("s", &[("k", "3")]);
    assert!(run.next_changed(seconds(35)).await.is_some() && run.next_changed(seconds(35)).await.is_some());
    assert_eq!((run.value("s", "k").unwrap(), run.value("new", "k").unwrap()), ("3".into(), "2".into()));
}

#[tokio::test(start_paused = true)]
async fn one_denial_does_not_replace_a_value_and_the_second_does() {
    let run = running(Duration::ZERO);
    run.reader.put("s", &[("k", "1")]);
    run.set_references("t", &[("s", "k", false)]);
    run.next_changed(seconds(1)).await.unwrap();
    run.reader.fail("s", denied());
    let before = run.reader.read_at("s", run.start).len();
    while run.reader.read_at("s", run.start).len() == before {
        assert!(run.start.elapsed() < seconds(70));
        tokio::time::sleep(seconds(1)).await;
    }
    assert_eq!(run.value("s", "k").unwrap(), "1");
    assert_eq!(run.next_changed(seconds(11)).await, Some(target("t")));
    assert_eq!(run.reason("s", "k"), "SecretForbidden");
    run.reader.put("s", &[("k", "1")]);
    assert_eq!(run.next_changed(seconds(61)).await, Some(target("t")));
    assert_eq!(run.value("s", "k").unwrap(), "1");
}

#[tokio::test(start_paused = true)]
async fn what_is_denied_is_read_every_minute_and_what_lacks_its_label_every_ten_seconds() {
    let run = running(Duration::ZERO);
    run.reader.fail("denied", denied());
    run.reader.fail("unlabelled", ReadError::LabelMissing);
    run.set_references("t", &[("denied", "k", false), ("unlabelled", "k", false)]);
    assert!(run.next_changed(seconds(1)).await.is_some());
    assert_eq!((run.reason("denied", "k"), run.reason("unlabelled", "k")), ("SecretForbidden", "SecretNotFound"));
    tokio::time::sleep(seconds(600)).await;
    let reads = |name| run.reader.read_at(name, run.start).len();
    assert!((10..=12).contains(&reads("denied")), "{}", reads("denied"));
    assert!((58..=61).contains(&reads("unlabelled")), "{}", reads("unlabelled"));
}

#[tokio::test(start_paused = true)]
async fn the_message_does_not_say_whether_the_object_the_key_or_the_label_is_missing() {
    let run = running(Duration::ZERO);
    let error = |name| run.value(name, "k").unwrap_err();
    run.reader.put("keyless", &[("other", "1")]);
    run.reader.fail("unlabelled", ReadError::LabelMissing);
    run.set_references("t", &[("nowhere", "k", false), ("keyless", "k", false), ("unlabelled", "k", false)]);
    assert!(run.next_changed(seconds(1)).await.is_some());
    for name in ["nowhere", "keyless", "unlabelled"] {
        let sentence = format!("there is no Secret media/{name} with the key \"k\" and the label use");
        assert_eq!((error(name).reason(), error(name).to_string()), ("SecretNotFound", sentence));
    }
}

#[tokio::test(start_paused = true)]
async fn it_stops_whatever_is_being_read() {
    let mut run = running(seconds(3600));
    run.set_references("t", &[("s", "k", false)]);
    tokio::time::sleep(seconds(1)).await;
    run.stop.cancel();
    let ended = tokio::time::timeout(seconds(1), &mut run.task).await.unwrap();
    assert_eq!(ended.unwrap(), "the reader of Secrets");
}

#[tokio::test(start_paused = true)]
async fn debug_shows_no_value() {
    let run = running(Duration::ZERO);
    run.reader.put("s", &[("k", "hunter2")]);
    run.set_references("t", &[("s", "k", false)]);
    run.next_changed(seconds(1)).await.unwrap();
    let shown = format!("{:?} {:?}", run.secrets, run.secrets.state());
    assert!(shown.contains("\"s\"") && !shown.contains("hunter2") && !shown.contains("104, 117"), "{shown}");
}
