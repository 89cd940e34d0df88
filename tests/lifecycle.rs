//! The life of `run` and of `demo`: start, readiness, signals, and what is said on the way.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may")]

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use simulators::Simulated;
use support::load::allowed;
use support::program::{Running, command, said, signal};
use tempfile::TempDir;

/// An agent that takes its time, and how many requests have come to it.
async fn slow_agent(delay: Duration) -> (Simulated, Arc<AtomicUsize>) {
    let asked = Arc::<AtomicUsize>::default();
    let counter = Arc::clone(&asked);
    let routes = Router::new().fallback(move || {
        counter.fetch_add(1, Ordering::SeqCst);
        async move {
            tokio::time::sleep(delay).await;
            "media_rooms 3\n"
        }
    });
    (Simulated::serve(routes, ([127, 0, 0, 1], 0).into()).await.unwrap(), asked)
}

/// A file with one target whose every scrape polls.
fn targets(folder: &TempDir, url: &str) -> PathBuf {
    let file = folder.path().join("targets.yaml");
    let text = format!(
        "apiVersion: scrapetarget.dev/v1alpha1\nkind: ScrapeTarget\nmetadata: {{ name: rooms, namespace: media }}\n\
         spec: {{ type: Mediasoup, url: \"{url}\", interval: 1h, timeout: 8s, maxAge: 0s, mediasoup: {{ source: Prometheus }} }}\n"
    );
    fs::write(&file, text).unwrap();
    file
}

const PROBE: &str = "/probe?target=media/rooms";

#[tokio::test(flavor = "multi_thread")]
async fn the_service_is_ready_soon_and_ends_soon_after_a_signal_to_end_and_not_after_a_hangup() {
    let folder = TempDir::new().unwrap();
    let (server, _) = slow_agent(Duration::ZERO).await;
    let targets = targets(&folder, &server.url());
    for name in ["TERM", "INT"] {
        let mut service = Running::ready(&targets, [""; 0]).await;
        assert_eq!(service.body("/-/healthy").await.lines().count(), 1);
        assert!(service.body(PROBE).await.contains("\nmedia_rooms 3\n"));
        signal(service.id(), "HUP");
        service.wait("a line about SIGHUP", |service| (service.logged("SIGHUP: nothing to do") > 0).then_some(()));
        let told = Instant::now();
        signal(service.id(), name);
        assert_eq!(service.ended().code(), Some(0), "{}", service.log());
        assert!(told.elapsed() < allowed(Duration::from_secs(5)), "{:?} after SIG{name}", told.elapsed());
        assert_eq!(service.logged(&format!("message=stopping signal=SIG{name}")), 1, "{}", service.log());
        assert_eq!(service.stdout(), "", "the log is on stderr alone");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_right_after_the_address_is_logged_is_not_lost() {
    let folder = TempDir::new().unwrap();
    let (server, _) = slow_agent(Duration::ZERO).await;
    let targets = targets(&folder, &server.url());
    for _ in 0..20 {
        let mut service = Running::service(["--targets".as_ref(), targets.as_os_str()]);
        signal(service.id(), "TERM");
        assert_eq!(service.ended().code(), Some(0), "{}", service.log());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_in_flight_is_answered_before_the_end() {
    let folder = TempDir::new().unwrap();
    let (server, asked) = slow_agent(Duration::from_millis(500)).await;
    let mut service = Running::ready(&targets(&folder, &server.url()), [""; 0]).await;
    service.body(PROBE).await; // whatever the start polled is over now, and the next poll is an hour away
    let before = asked.load(Ordering::SeqCst);
    let probe = tokio::spawn({
        let url = format!("{}{PROBE}", service.base);
        async move { support::program::get(&url).await }
    });
    service.wait("the poll", |_| (asked.load(Ordering::SeqCst) > before).then_some(()));
    signal(service.id(), "TERM");
    let (status, body) = probe.await.unwrap().expect("an answer");
    assert_eq!(status, 200);
    assert!(body.contains("\nmedia_rooms 3\n") && body.contains("\nprobe_success 1\n"), "{body}");
    assert_eq!(service.ended().code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn during_the_shutdown_delay_the_service_is_not_ready_and_still_answers() {
    /// Time enough for a busy machine to ask thrice.
    const DELAY: Duration = Duration::from_secs(10);
    let folder = TempDir::new().unwrap();
    let (server, _) = slow_agent(Duration::ZERO).await;
    let mut service = Running::ready(&targets(&folder, &server.url()), ["--shutdown-delay", "10s"]).await;
    let told = Instant::now();
    signal(service.id(), "TERM");
    service.until_status("/-/ready", 503).await;
    assert!(service.body(PROBE).await.contains("\nprobe_success 1\n"));
    service.body("/-/healthy").await;
    assert_eq!(service.ended().code(), Some(0));
    assert!(told.elapsed() >= DELAY, "{:?}", told.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hanging_target_does_not_keep_the_service_from_ending() {
    let folder = TempDir::new().unwrap();
    let (server, asked) = slow_agent(Duration::from_secs(600)).await;
    let mut service = Running::ready(&targets(&folder, &server.url()), [""; 0]).await;
    service.wait("the poll", |_| (asked.load(Ordering::SeqCst) == 1).then_some(()));
    let told = Instant::now();
    signal(service.id(), "TERM");
    assert_eq!(service.ended().code(), Some(0));
    assert!(told.elapsed() < allowed(Duration::from_secs(5)), "{:?}", told.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn targets_that_are_down_from_the_start_are_one_line_and_one_that_comes_later_is_a_line_of_its_own() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("targets.yaml");
    let one = |name: &str| {
        format!(
            "---\napiVersion: scrapetarget.dev/v1alpha1\nkind: ScrapeTarget\nmetadata: {{ name: {name}, namespace: media }}\n\
             spec: {{ type: Sora, url: \"http://127.0.0.1:1/\" }}\n"
        )
    };
    let many: String = ["a", "b", "c", "d", "e"].map(one).concat();
    fs::write(&file, &many).unwrap();
    let mut service = Running::ready(&file, [""; 0]).await;
    let told = "message=\"targets are down, as their first polls show\" down=5 up=0 reasons=\"connect 5\"";
    service.wait("the line", |service| (service.logged(told) > 0).then_some(()));
    fs::write(&file, many + &one("later")).unwrap();
    service.wait("the target's own line", |service| (service.logged("target=media/later") > 0).then_some(()));
    assert_eq!(service.logged("message=\"target is down\""), 1, "{}", service.log());
    assert_eq!(service.logged("targets are down"), 1, "{}", service.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn many_targets_that_change_state_are_a_few_lines_and_one_of_another_namespace_is_a_line_of_its_own() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("targets.yaml");
    let (server, _) = slow_agent(Duration::ZERO).await;
    let url = server.url();
    let one = |namespace: &str, name: &str| {
        format!(
            "---\napiVersion: scrapetarget.dev/v1alpha1\nkind: ScrapeTarget\nmetadata: {{ name: {name}, namespace: {namespace} }}\n\
             spec: {{ type: Mediasoup, url: \"{url}\", interval: 1s, mediasoup: {{ source: Prometheus }} }}\n"
        )
    };
    let many: String = (0..60).map(|number| one("media", &format!("rooms-{number}"))).collect();
    fs::write(&file, many + &one("honest", "rooms")).unwrap();
    let mut service = Running::ready(&file, [""; 0]).await;
    let all_up = "scrapetarget_targets{type=\"Mediasoup\",state=\"up\"} 61\n";
    service.until("/metrics", |_, metrics| metrics.contains(all_up).then_some(())).await;
    drop(server);
    let together = "message=\"targets have changed state, too many for a line each\" namespace=media";
    service.wait("the line of many", |service| (service.logged(together) > 0).then_some(()));
    assert_eq!(service.logged("target=honest/rooms"), 1, "{}", service.log());
    // A busy machine may need another period until all are down.
    let (alone, lines) = (service.logged("target=media/rooms-"), service.logged(together));
    assert!((10..=10 * (lines + 1)).contains(&alone), "{alone} lines beside {lines}: {}", service.log());
}

/// Holds a write lease on the file that it is given, and says when somebody else opens that.
const HOLDS_A_LEASE: &str = "
import fcntl, os, signal, sys
signal.signal(signal.SIGIO, lambda *_: print('opened', flush=True))
fcntl.fcntl(os.open(sys.argv[1], os.O_RDWR), fcntl.F_SETLEASE, fcntl.F_WRLCK)
print('held', flush=True)
while True: signal.pause()
";

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_hangs_when_it_is_read_does_not_keep_the_service_from_ending() {
    let folder = TempDir::new().unwrap();
    let file = targets(&folder, "http://127.0.0.1:1/");
    // While somebody holds this lease, whoever opens the file waits in the kernel, for 45 s, as for a file whose server is gone.
    let mut holder = Command::new("python3");
    holder.args(["-c", HOLDS_A_LEASE]).arg(&file);
    let mut holder = Running::spawn(holder);
    holder.wait("the lease", |holder| holder.stdout().contains("held").then_some(()));
    let mut service = Running::service(["--targets".as_ref(), file.as_os_str()]);
    holder.wait("somebody who opens the file", |holder| holder.stdout().contains("opened").then_some(()));
    assert_eq!(service.get("/-/ready").await.unwrap().0, 503);
    let told = Instant::now();
    signal(service.id(), "TERM");
    assert_eq!(service.ended().code(), Some(0), "{}", service.log());
    assert!(told.elapsed() < Duration::from_secs(20), "{:?} after SIGTERM", told.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_service_on_the_same_port_leaves_the_first_alone() {
    let folder = TempDir::new().unwrap();
    let (server, _) = slow_agent(Duration::ZERO).await;
    let targets = targets(&folder, &server.url());
    let service = Running::ready(&targets, [""; 0]).await;
    let address = service.base.trim_start_matches("http://");
    let second = said(command(["run", "--listen-address", address, "--targets"]).arg(&targets));
    assert_eq!((second.code, second.stderr.lines().count()), (Some(1), 1), "{}", second.stderr);
    assert!(second.stderr.contains(address), "{}", second.stderr);
    service.body("/-/ready").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn healthcheck_asks_the_service() {
    let folder = TempDir::new().unwrap();
    let (server, _) = slow_agent(Duration::ZERO).await;
    let service = Running::ready(&targets(&folder, &server.url()), [""; 0]).await;
    let healthy = said(&mut command(["healthcheck", &format!("{}/-/healthy", service.base)]));
    assert_eq!((healthy.code, healthy.stderr.as_str()), (Some(0), ""));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_is_json_where_it_is_asked_for() {
    let folder = TempDir::new().unwrap();
    let (server, _) = slow_agent(Duration::ZERO).await;
    let targets = targets(&folder, &server.url());
    let mut program = command(["run", "--listen-address", "127.0.0.1:0", "--log-format", "json", "--targets"]);
    program.arg(&targets);
    let mut service = Running::spawn(program);
    service.wait("targets", |service| service.log().contains("targets are known").then_some(()));
    for line in service.log().lines() {
        let value: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(value["message"].is_string() && value["level"].is_string(), "{line}");
    }
}

/// The demo, its words, and the file with its targets.
fn demo() -> (Running, String, PathBuf) {
    let started = Instant::now();
    let demo = Running::demo();
    assert!(started.elapsed() < allowed(Duration::from_secs(10)), "{:?}", started.elapsed());
    let words = demo.stdout();
    let file = words.split("They stand in ").nth(1).unwrap().split(';').next().unwrap().to_owned();
    (demo, words, PathBuf::from(file))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_url_that_the_demo_prints_answers() {
    let (demo, words, _) = demo();
    demo.until_status("/-/ready", 200).await;
    let paths: Vec<&str> = words.split_whitespace().filter_map(|word| word.strip_prefix(demo.base.as_str())).collect();
    assert!(paths.len() >= 6, "{words}");
    for path in paths {
        assert!(!demo.body(path).await.is_empty(), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_targets_file_of_the_demo_can_be_edited_and_is_gone_at_the_end() {
    let (mut demo, _, file) = demo();
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.contains("name: orion-city"), "{text}");
    fs::write(&file, text.replace("name: orion-city", "name: orion-town")).unwrap();
    demo.until("/probe?target=fiware/orion-town", |status, body| {
        (status == 200 && body.contains("\nprobe_success 1\n")).then_some(())
    })
    .await;
    demo.until_status("/probe?target=fiware/orion-city", 404).await;
    signal(demo.id(), "INT");
    assert_eq!(demo.ended().code(), Some(0), "{}", demo.log());
    assert!(!file.exists() && !file.parent().is_some_and(Path::exists), "{} is left behind", file.display());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_has_a_target_with_members_of_which_one_is_down() {
    let (demo, words, _) = demo();
    assert!(words.contains("one member of mediasoup-rooms is down"), "{words}");
    // Other systems than Linux have fewer addresses of loopback.
    let processes = if cfg!(target_os = "linux") { 3 } else { 1 };
    let body = demo
        .until("/probe?target=webrtc/mediasoup-rooms", |status, body| {
            let up = format!("\nprobe_members{{state=\"up\"}} {processes}\n");
            (status == 200 && body.contains(&up) && body.contains("\nprobe_success 1\n")).then(|| body.to_owned())
        })
        .await;
    assert!(body.contains("\nprobe_members{state=\"down\"} 1\n"), "{body}");
    let of_each = |family: &str| -> Vec<(&str, &str)> {
        let lines = body.lines().filter_map(|line| line.strip_prefix(family)?.strip_prefix("{member=\""));
        lines.map(|line| line.split_once('"').unwrap()).collect()
    };
    let successes = of_each("probe_member_success");
    assert_eq!(successes.len(), processes + 1, "{body}");
    let mut ports: Vec<&str> = successes.iter().map(|(member, _)| member.rsplit_once(':').unwrap().1).collect();
    ports.dedup();
    assert_eq!(ports.len(), 1, "{successes:?}");
    let down: Vec<_> = successes.iter().filter(|(_, rest)| *rest == "} 0").map(|(member, _)| *member).collect();
    assert!(matches!(&down[..], [member] if member.starts_with("127.0.0.4:")), "{successes:?}");
    // Processes differ, as those of real applications do.
    let of_workers = of_each("mediasoup_worker_resident_memory_bytes");
    assert_eq!(of_workers.iter().map(|(member, _)| *member).collect::<BTreeSet<_>>().len(), processes, "{body}");
    let different: BTreeSet<&str> = of_workers.iter().map(|(_, rest)| *rest).collect();
    assert_eq!(different.len(), of_workers.len(), "{body}");
}

#[test]
fn demo_once_prints_a_line_for_each_target_and_exits_0_whoever_has_the_port() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let once = said(&mut command(["demo", "--once", "--listen-address", &address]));
    assert_eq!(once.code, Some(0), "{}{}", once.stdout, once.stderr);
    let states: Vec<(&str, &str)> = once
        .stdout
        .lines()
        .map(|line| {
            let mut words = line.split_whitespace();
            (words.next().unwrap(), words.next().unwrap())
        })
        // It is there where the system permits pings.
        .filter(|(_, id)| *id != "shop/host")
        .collect();
    let wanted = [
        ("up", "fiware/orion-city"),
        ("down", "fiware/orion-old"),
        ("up", "fiware/orion-secured"),
        ("up", "school/edumeet"),
        ("up", "shop/name"),
        ("up", "shop/website"),
        ("up", "shop/website-moved"),
        ("up", "shop/website-tls"),
        ("up", "webrtc/mediasoup-rooms"),
        ("up", "webrtc/signalling"),
        ("up", "webrtc/sora-nagoya"),
        ("up", "webrtc/sora-osaka"),
        ("up", "webrtc/sora-tokyo"),
        ("up", "webrtc/stun"),
        ("up", "webrtc/turn"),
    ];
    assert_eq!(states, wanted);
}
