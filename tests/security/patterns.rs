//! Patterns made to be slow, and names made for them: the process answers.

use std::fs;
use std::time::{Duration, Instant};

use crate::support::attack::{Attacked, Server};
use crate::support::eventually::PATIENCE;
use crate::support::program::run;

/// 200 names that have not been there before: with 128 letters each, an answer that is small enough to be translated where it was read.
fn names(request: usize, length: usize) -> String {
    let mut bits = 0x9E37_79B9_7F4A_7C15_u64.wrapping_mul(request as u64 + 1);
    let mut letter = || {
        bits ^= bits << 13;
        bits ^= bits >> 7;
        bits ^= bits << 17;
        if bits.is_multiple_of(2) { 'a' } else { 'b' }
    };
    (0..200).map(|_| (0..length).map(|_| letter()).collect::<String>() + " 1\n").collect()
}

/// Waits for some polls of each of eight targets, one after another by the longest timeout that they can have.
async fn until_polled_for_a_while(server: &Server) {
    let (start, before) = (Instant::now(), server.asked());
    while start.elapsed() < Duration::from_secs(12) || server.asked() < before + 8 {
        assert!(start.elapsed() < 2 * PATIENCE, "{} polls", server.asked() - before);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_slowest_patterns_that_are_taken_delay_nobody() {
    let server = Server::start(|request, _| names(request, 128).into()).await;
    // As slow as 8 KiB can be: a millisecond and more for every name and pattern.
    let list = |from: usize| {
        let patterns = (from..from + 32).map(|i| format!("\"(?:a*b*){{50}}c{i}\""));
        patterns.collect::<Vec<_>>().join(", ")
    };
    let targets: String = (0..8)
        .map(|i| {
            // Others in each target, so that nothing is compared once for all.
            let metrics = format!("metrics: {{ keep: [{}], drop: [{}] }}", list(100 * i), list(100 * i + 50));
            let more = format!("mediasoup: {{ source: Prometheus }}\n{metrics}");
            server.target(&format!("tenant-{}", i % 2), &format!("slow-{i}"), "Mediasoup", &more)
        })
        .collect();
    let attacked = Attacked::start(&targets, &[]).await;
    let watch = attacked.watch();
    until_polled_for_a_while(&server).await;
    attacked.unnoticed(watch).await;
    // Their own authors hear what is wrong.
    attacked
        .program
        .until("/probe?target=tenant-0/slow-0", |_, body| {
            (body.contains("reason=\"timeout\"") || body.contains("\nmediasoup_up 1\n")).then_some(())
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_patterns_on_large_bodies_delay_nobody() {
    let server = Server::saying(names(0, 20_000)).await; // 4 MB
    let targets: String = (0..8)
        .map(|i| {
            let patterns: Vec<String> = (0..16).map(|j| format!("\"[ab]*a[ab]{{{}}}c\"", 400 + 16 * i + j)).collect();
            let http = format!("http: {{ failIfBodyMatchesRegexp: [{}] }}", patterns.join(", "));
            server.target(&format!("tenant-{}", i % 2), &format!("slow-{i}"), "Http", &http)
        })
        .collect();
    let attacked = Attacked::start(&targets, &[]).await;
    let watch = attacked.watch();
    until_polled_for_a_while(&server).await;
    attacked.unnoticed(watch).await;
    attacked
        .program
        .until("/probe?target=tenant-0/slow-0", |_, body| body.contains("reason=\"timeout\"").then_some(()))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pattern_over_8_kib_is_refused_wherever_it_is_read_and_says_what_to_write() {
    let server = Server::start(|request, _| names(request, 511).into()).await;
    let metrics = "mediasoup: { source: Prometheus }\nmetrics: { keep: [\"[ab]*a[ab]{0,400}a[ab]{0,400}c\"] }";
    let target = server.target("tenant", "large", "Mediasoup", metrics);
    let folder = tempfile::TempDir::new().unwrap();
    let file = folder.path().join("target.yaml");
    fs::write(&file, &target).unwrap();
    let said = run(["check", file.to_str().unwrap()]);
    assert_eq!(said.code, Some(1), "{}", said.stdout);
    for word in ["spec.metrics.keep[0]", "8 KiB", "write several shorter patterns"] {
        assert!(said.stdout.contains(word), "{word}: {}", said.stdout);
    }
    let attacked = Attacked::start(&target, &[]).await;
    let watch = attacked.watch();
    assert_eq!(attacked.program.logged("write several shorter patterns"), 1, "{}", attacked.program.log());
    tokio::time::sleep(Duration::from_secs(3)).await; // three intervals, for a poll that should not come
    assert_eq!(server.asked(), 0, "it is no target");
    attacked.unnoticed(watch).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_over_128_bytes_reach_no_pattern() {
    let body = format!("{} 1\n{} 2\nshort 3\n", "a".repeat(128), "a".repeat(129));
    let server = Server::saying(body).await;
    let of = |name, lists| {
        server.target("tenant", name, "Mediasoup", &format!("mediasoup: {{ source: Prometheus }}\nmetrics: {lists}"))
    };
    let targets = of("keep", "{ keep: [a+] }") + &of("drop", "{ drop: [a+] }");
    let attacked = Attacked::start(&targets, &[]).await;
    for (name, there) in [("keep", [true, false, false]), ("drop", [false, true, true])] {
        let shown = |body: &str| {
            ["a".repeat(128), "a".repeat(129), "short".to_owned()].map(|name| body.contains(&format!("\n{name} ")))
        };
        let path = format!("/probe?target=tenant/{name}");
        attacked.program.until(&path, |_, body| (shown(body) == there).then_some(())).await;
    }
}
