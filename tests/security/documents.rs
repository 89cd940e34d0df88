//! Documents made to be slow or to become large: each poll ends in time, and nobody else notices.

use std::fmt::Write;
use std::time::{Duration, Instant};

use crate::support::attack::{Attacked, Server};
use crate::support::eventually::PATIENCE;
use crate::support::program::get;

/// As large as `--max-body-bytes` lets a document be.
const LARGEST: usize = 16 << 20;

fn mediasoup(workers: impl Fn(usize) -> String) -> String {
    let mut body =
        r#"{"schema":"mediasoup-stats/v1","mediasoup_version":"3.14.0","timestamp_ms":1700000000000,"workers":["#
            .to_owned();
    let mut number = 0;
    while body.len() < LARGEST - 1024 {
        let _ = write!(body, "{},", workers(number));
        number += 1;
    }
    body + "{}]}"
}

/// Waits until `server` has been asked three times by each of `targets`: then two polls of each have ended.
async fn two_polls(server: &Server, targets: usize) {
    let start = Instant::now();
    while server.asked() < 3 * targets {
        assert!(start.elapsed() < 2 * PATIENCE, "{} polls have begun", server.asked());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Every result of these targets is one of `reasons`.
async fn end_as(attacked: &Attacked, targets: usize, reasons: &[&str]) {
    for i in 0..targets {
        let path = format!("/probe?target=tenant-{}/t{i}", i % 2);
        let told = |body: &str| reasons.iter().any(|reason| body.contains(&format!("{{reason=\"{reason}\"}} 1")));
        attacked.program.until(&path, |_, body| told(body).then_some(())).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_without_end_are_refused_before_they_fill_memory_or_time() {
    // Three bytes of a body stand for a worker of some hundred bytes; and sixty thousand of them were compared each with each.
    let many = Server::saying(mediasoup(|_| String::from("{}"))).await;
    let costly = Server::saying(mediasoup(|i| {
        let padding = "x".repeat(170);
        format!(r#"{{"pid":{i},"created_ms":1,"resource_usage":{{"ru_utime":{i},"ru_stime":1}},"x":"{padding}"}}"#)
    }))
    .await;
    let options = "sampleLimit: 1000000\nmediasoup: { compatibility: { aggregated: true } }";
    let target = |i: usize| {
        let server = if i < 4 { &many } else { &costly };
        server.target(&format!("tenant-{}", i % 2), &format!("t{i}"), "Mediasoup", options)
    };
    let attacked = Attacked::start(&(0..8).map(target).collect::<String>(), &["--max-inflight-bytes", "512MiB"]).await;
    let watch = attacked.watch();
    two_polls(&many, 4).await;
    two_polls(&costly, 4).await;
    attacked.unnoticed(watch).await;
    end_as(&attacked, 8, &["limit", "timeout"]).await;
    let most = attacked.memory("VmHWM");
    assert!(most < 1 << 30, "{} MiB", most >> 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_endless_service_with_many_subservices_is_not_repeated_for_each_of_them() {
    // 4 MiB of a name times 100,000: more memory than any machine has.
    let mut tree = format!(r#"{{"services":{{"{}":{{"subservs":{{"#, "s".repeat(4 << 20));
    for i in 0..100_000 {
        let _ = write!(tree, r#""p{i}":{{"incomingTransactions":{i},"serviceTime":0.5}},"#);
    }
    tree += r#""z":{}},"sum":{"incomingTransactions":1}}},"sum":{"sum":{"incomingTransactions":1}}}"#;
    assert!(tree.len() < LARGEST);
    let server = Server::saying(tree).await;
    let more = "timeout: 1s\norion: { statistics: false, cacheStatistics: false, version: false }";
    let targets: String =
        (0..4).map(|i| server.target(&format!("tenant-{}", i % 2), &format!("t{i}"), "Orion", more)).collect();
    let attacked = Attacked::start(&targets, &[]).await;
    let watch = attacked.watch();
    two_polls(&server, 4).await;
    attacked.unnoticed(watch).await;
    let most = attacked.memory("VmHWM");
    assert!(most < 1 << 30, "{} MiB", most >> 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_for_every_counter_does_not_make_plain_text_slow() {
    const COUNTERS: usize = 20_000;
    let mut text = String::new();
    for i in 0..COUNTERS {
        let _ = write!(text, "# TYPE a_name_that_has_no_suffix_{i} counter\na_name_that_has_no_suffix_{i} 1\n");
    }
    let server = Server::saying(text).await;
    let more = "interval: 10s\nsampleLimit: 100000\nmediasoup: { source: Prometheus }";
    let target = server.target("tenant", "counters", "Mediasoup", more).replace("  interval: 1s\n", "");
    let attacked = Attacked::start(&target, &[]).await;
    attacked.all_up(3).await;
    let watch = attacked.watch();
    let url = format!("{}/probe?target=tenant/counters", attacked.program.base);
    let asked: Vec<_> = (0..8)
        .map(|_| {
            let url = url.clone();
            tokio::spawn(async move { get(&url).await })
        })
        .collect();
    for answer in asked {
        let (status, body) = answer.await.unwrap().expect("an answer in time");
        assert_eq!((status, body.matches(" counter\n").count()), (200, COUNTERS));
    }
    tokio::time::sleep(Duration::from_secs(2)).await; // some rounds more
    attacked.unnoticed(watch).await;
}
