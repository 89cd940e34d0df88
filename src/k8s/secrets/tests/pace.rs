//! How often, and in which order, objects are read.

use super::*;

#[tokio::test(start_paused = true)]
async fn an_optional_secret_that_is_missing_is_not_read_every_ten_seconds() {
    let run = running(Duration::ZERO);
    run.set_references("t", &[("s", "k", true)]);
    tokio::time::sleep(seconds(600)).await;
    let reads = run.reader.read_at("s", run.start).len();
    assert!((10..=12).contains(&reads), "{reads}");
}

#[tokio::test(start_paused = true)]
async fn rejected_credentials_are_read_at_once_but_at_most_every_thirty_seconds() {
    let run = running(Duration::ZERO);
    run.reader.put("s", &[("k", "1")]);
    run.set_references("t", &[("s", "k", false)]);
    run.next_changed(seconds(1)).await.unwrap();
    tokio::time::sleep(seconds(61)).await;
    let rejected = Instant::now();
    for _ in 0..60 {
        run.secrets.credentials_rejected(&target("t"));
        tokio::time::sleep(seconds(1)).await;
    }
    let reads = run.reader.read_at("s", rejected);
    assert!(reads[0] < 0.1, "{reads:?}");
    assert_eq!(reads.len(), 2, "{reads:?}");
    run.secrets.credentials_rejected(&target("unknown"));
}

#[tokio::test(start_paused = true)]
async fn first_reads_are_bounded_by_the_reads_in_flight_and_not_by_the_rate() {
    let run = running(Duration::from_millis(100));
    run.reader.others(None);
    for index in 0..1600 {
        run.set_references(&index.to_string(), &[(&format!("s{index}"), "k", false)]);
    }
    tokio::time::sleep(seconds(11)).await;
    assert!((0..1600).all(|index| run.secrets.is_read(&target(&index.to_string()))));
    let most = run.reader.state.lock().unwrap().most;
    assert!((schedule::IN_FLIGHT..=2 * schedule::IN_FLIGHT).contains(&most), "{most}");
}

#[tokio::test(start_paused = true)]
async fn rereads_are_spread_over_the_minute() {
    let run = running(Duration::ZERO);
    run.reader.others(None);
    for index in 0..120 {
        run.set_references(&index.to_string(), &[(&format!("s{index}"), "k", false)]);
    }
    tokio::time::sleep(seconds(61)).await;
    let steady = Instant::now();
    tokio::time::sleep(seconds(600)).await;
    let counts = run.reader.per_second(steady);
    assert!(counts.iter().all(|count| *count <= 14), "{counts:?}");
    let all: usize = counts.iter().sum();
    assert!((1180..=1220).contains(&all), "each object ten times in ten minutes: {all}");
}

#[tokio::test(start_paused = true)]
async fn of_too_many_objects_twenty_a_second_are_read_and_each_of_them_in_turn() {
    let run = running(Duration::from_millis(5));
    run.reader.others(None);
    for index in 0..4000 {
        run.set_references(&index.to_string(), &[(&format!("s{index}"), "k", false)]);
    }
    tokio::time::sleep(seconds(120)).await;
    let steady = Instant::now();
    tokio::time::sleep(seconds(400)).await;
    let counts = run.reader.per_second(steady);
    assert!(counts.iter().all(|count| (18..=20).contains(count)), "{counts:?}");
    let read: std::collections::HashSet<String> = {
        let state = run.reader.state.lock().unwrap();
        state.reads.iter().filter(|(at, _)| *at >= steady - seconds(20)).map(|(_, name)| name.clone()).collect()
    };
    assert!(read.len() >= 4000 * 99 / 100, "{}", read.len());
}

#[tokio::test(start_paused = true)]
async fn a_thousand_missing_secrets_do_not_delay_a_rejected_one() {
    let run = running(Duration::ZERO);
    run.reader.put("s", &[("k", "old")]);
    run.set_references("t", &[("s", "k", false)]);
    for index in 0..1000 {
        run.set_references(&format!("m{index}"), &[(&format!("missing{index}"), "k", false)]);
    }
    tokio::time::sleep(seconds(100)).await;
    run.secrets.changed.take();
    run.reader.put("s", &[("k", "new")]);
    run.secrets.credentials_rejected(&target("t"));
    assert_eq!(run.next_changed(seconds(1)).await, Some(target("t")));
    run.reader.put("s", &[("k", "newer")]);
    assert_eq!(run.next_changed(seconds(61)).await, Some(target("t")), "nor one that was not rejected");
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_did_not_answer_for_an_hour_gets_no_burst() {
    let run = running(Duration::ZERO);
    run.reader.others(None);
    for index in 0..3000 {
        run.set_references(&index.to_string(), &[(&format!("s{index}"), "k", false)]);
    }
    tokio::time::sleep(seconds(60)).await;
    run.secrets.changed.take();
    run.reader.others(Some(unavailable()));
    let gone = Instant::now();
    tokio::time::sleep(seconds(3600)).await;
    assert!(run.reader.per_second(gone)[10..].iter().all(|count| *count <= 1), "one read a second is enough");
    run.reader.others(None);
    let back = Instant::now();
    tokio::time::sleep(seconds(300)).await;
    let counts = run.reader.per_second(back);
    assert!(counts.iter().all(|count| *count <= 20), "{counts:?}");
    assert!(counts[3..].iter().all(|count| *count >= 18), "{counts:?}");
    assert!(run.secrets.changed.ids().is_empty(), "nothing has changed");
}

#[tokio::test(start_paused = true)]
async fn many_objects_whose_reads_hang_do_not_delay_a_new_one() {
    let run = running(seconds(10));
    run.reader.others(Some(unavailable()));
    for index in 0..100 {
        run.set_references(&index.to_string(), &[(&format!("s{index}"), "k", false)]);
    }
    tokio::time::sleep(seconds(600)).await;
    let added = Instant::now();
    run.reader.put("new", &[("k", "1")]);
    run.set_references("new", &[("new", "k", false)]);
    tokio::time::sleep(seconds(11)).await;
    assert_eq!(run.reader.read_at("new", added), [0.0]);
    assert_eq!(run.value("new", "k").unwrap(), "1");
}
