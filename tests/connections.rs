//! Connections to targets: which are kept and for how long, what is sent once more, and how a host with several addresses is reached.

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::AsyncReadExt;

use scrapetarget_exporter::fetch::Limits;
use scrapetarget_exporter::kind::{Reason, Type, mediasoup};
use scrapetarget_exporter::poll::{Pollers, Snapshot};
use scrapetarget_exporter::target::Target;
use support::faults::closed_port;
use support::namespaces::{hosts, inside};
use support::scripted::{Blackhole, Scripted, Then};
use support::{poll_once, pollers_with, redeclared, series, target, text};

/// Long enough for a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A poll of three calls.
fn sora(url: &str) -> Target {
    let mut target = target("sora", Type::Sora, url);
    (target.interval, target.timeout) = (PATIENCE, PATIENCE);
    target
}

/// A poll of one call.
fn rooms(server: &Scripted) -> Target {
    let options = mediasoup::Options { source: mediasoup::StatsSource::Prometheus, ..mediasoup::Options::default() };
    let target = target("rooms", Type::Mediasoup, &server.url());
    let mut target = redeclared(&target, |spec| spec.blocks.mediasoup = Some(Box::new(options)));
    Arc::make_mut(&mut target.source).connection.tls.ca = server.ca.as_ref().map(|pem| pem.as_bytes().into());
    (target.interval, target.timeout, target.max_age) = (PATIENCE, PATIENCE, Duration::ZERO);
    target
}

fn pollers() -> Arc<Pollers> {
    pollers_with(Limits::new(1 << 20, 8 << 20), false)
}

/// Polls once more.
async fn poll(pollers: &Pollers, target: &Target) -> Arc<Snapshot> {
    let before = Instant::now();
    let snapshot = pollers.get(&target.id).unwrap().answer(PATIENCE).await;
    assert!(snapshot.started.into_std() >= before, "a poll of its own");
    snapshot
}

/// What became of each call of a poll: its status, or else its sentence.
fn calls(snapshot: &Snapshot) -> Vec<String> {
    let told = |call: &scrapetarget_exporter::poll::CallRecord| match (call.status, &call.error) {
        (Some(status), _) => status.to_string(),
        (None, error) => error.as_deref().unwrap_or("nothing").to_owned(),
    };
    snapshot.calls.iter().map(told).collect()
}

/// How many requests came on each connection of a server.
fn requests(server: &Scripted) -> Vec<usize> {
    server.connections().iter().map(|connection| connection.requests.len()).collect()
}

/// Why a poll failed, without the name of the call.
fn failure(snapshot: &Snapshot) -> (Reason, &str) {
    let failure = snapshot.failure.as_ref().expect("the poll failed");
    (failure.reason, failure.message.split_once(": ").unwrap().1)
}

#[tokio::test]
async fn a_request_on_a_kept_connection_that_the_server_closes_is_sent_once_more_on_a_new_one() {
    for end in [Then::Close, Then::Reset] {
        let server = Scripted::start(move |_, request| if request == 0 { Then::Answer } else { end }).await;
        let snapshot = poll_once(sora(&server.url())).await;
        assert_eq!(calls(&snapshot), ["200", "200", "200"], "{end:?}");
        assert_eq!(requests(&server), [2, 1, 1], "{end:?}: the second call began on the first connection");
        let repeated = &server.connections()[1].requests[0].1;
        let asked = |head: &str| head.lines().filter(|line| !line.starts_with("connection:")).collect::<String>();
        assert_eq!(asked(repeated), asked(&server.connections()[0].requests[1].1), "{end:?}: it is the same request");
    }
}

#[tokio::test]
async fn a_request_on_a_new_connection_is_sent_once_whatever_the_server_does() {
    // `return 444` of nginx.
    for end in [Then::Close, Then::Reset] {
        let server = Scripted::start(move |_, _| end).await;
        let snapshot = poll_once(sora(&server.url())).await;
        assert_eq!(failure(&snapshot).0, Reason::Connect, "{end:?}: {:?}", snapshot.failure);
        assert_eq!(requests(&server), [1, 1, 1], "{end:?}: one for each call");
    }
    let server = Scripted::tls(rustls::ALL_VERSIONS, |_, _| Then::Close).await;
    let target = rooms(&server);
    let pollers = pollers();
    pollers.apply([target.clone()]);
    for _ in 0..3 {
        let snapshot = poll(&pollers, &target).await;
        assert_eq!(failure(&snapshot).0, Reason::Connect);
    }
    assert_eq!(requests(&server), [1, 1, 1], "one for each poll");
}

#[tokio::test]
async fn a_request_is_never_sent_a_third_time() {
    for end in [Then::Close, Then::Reset] {
        let first = move |connection, request| if (connection, request) == (0, 0) { Then::Answer } else { end };
        let server = Scripted::start(first).await;
        let snapshot = poll_once(sora(&server.url())).await;
        let calls = calls(&snapshot);
        assert_eq!(calls[0], "200");
        assert!(calls[1..].iter().all(|call| call != "200" && call != "nothing"), "{end:?}: {calls:?}");
        assert_eq!(requests(&server), [2, 1, 1], "{end:?}: twice the second call, once the third");
    }
}

#[tokio::test]
async fn when_the_second_sending_fails_too_its_error_is_told() {
    let script = |connection, request| match (connection, request) {
        (0, 0) => Then::Answer,
        (0, _) => Then::Close,
        _ => Then::Break("SSH-2.0-OpenSSH_9.2\r\n"),
    };
    let server = Scripted::start(script).await;
    let snapshot = poll_once(sora(&server.url())).await;
    let calls = calls(&snapshot);
    assert!(calls[1].starts_with("what answers is no HTTP/1.1"), "{calls:?}");
}

#[tokio::test]
async fn a_request_is_not_sent_again_once_its_answer_has_begun() {
    for answer in [
        "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
        "HTTP/1.1 500 Oh\r\ncontent-length: 0\r\n\r\n",
        "no HTTP at all\r\n\r\n",
    ] {
        let first =
            move |connection, request| if (connection, request) == (0, 0) { Then::Answer } else { Then::Break(answer) };
        let server = Scripted::start(first).await;
        poll_once(sora(&server.url())).await;
        assert_eq!(requests(&server), [2, 1], "{answer:?}: each call once");
    }
}

#[tokio::test]
async fn a_request_is_sent_again_within_the_time_of_the_poll() {
    let script = |connection, request| match (connection, request) {
        (0, 0) => Then::Answer,
        (0, _) => Then::Close,
        _ => Then::Hang,
    };
    let server = Scripted::start(script).await;
    let mut target = sora(&server.url());
    target.timeout = Duration::from_secs(3);
    let snapshot = poll_once(target).await;
    assert_eq!(calls(&snapshot)[1..], ["no answer in time", "not sent, the previous calls used up the time"]);
    assert_eq!(requests(&server), [2, 1]);
}

#[tokio::test]
async fn a_kept_connection_that_the_server_closes_between_polls_or_as_one_begins_fails_no_poll() {
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        for end in [Then::Close, Then::Reset] {
            let server =
                Scripted::tls(&[version], move |_, request| if request == 0 { Then::Answer } else { end }).await;
            let target = rooms(&server);
            let pollers = pollers();
            pollers.apply([target.clone()]);
            let start = Instant::now();
            // Twice: after the first time, a poll makes a connection to keep.
            while requests(&server).iter().filter(|requests| **requests == 2).count() < 2 {
                assert!(start.elapsed() < PATIENCE, "{:?}", requests(&server));
                let snapshot = poll(&pollers, &target).await;
                assert_eq!(snapshot.failure, None, "{version:?}, {end:?}: {:?}", requests(&server));
            }
        }
    }
}

#[tokio::test]
async fn a_kept_connection_is_at_most_a_minute_old_and_the_next_resumes_its_session() {
    let (old, new) = (&[&rustls::version::TLS12], &[&rustls::version::TLS13]);
    let (old, new) = (Scripted::tls(old, |_, _| Then::Answer).await, Scripted::tls(new, |_, _| Then::Answer).await);
    let pollers = pollers();
    let mut targets = Vec::new();
    for (name, server, server_name) in [
        ("old", &old, None),
        ("new", &new, None),
        ("old-named", &old, Some("server.test")),
        ("new-named", &new, Some("server.test")),
    ] {
        let mut target = rooms(server);
        target.id = scrapetarget_exporter::target::TargetId::new("media", name);
        Arc::make_mut(&mut target.source).connection.tls.server_name = server_name.map(str::to_owned);
        targets.push(target);
    }
    pollers.apply(targets.clone());
    let start = Instant::now();
    // Each is renewed once within a minute; the time of this test is that minute.
    while old.connections().len() < 4 || new.connections().len() < 4 {
        for target in &targets {
            let snapshot = poll(&pollers, target).await;
            assert_eq!(snapshot.failure, None, "{}", target.id);
            let end = series(&text(&snapshot))["probe_ssl_earliest_cert_expiry"];
            assert_eq!(end, 2_208_988_800.0, "2040-01-01, also where the server did not show it again");
        }
        assert!(start.elapsed() < 2 * PATIENCE, "{:?}", [old.connections(), new.connections()]);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    for server in [&old, &new] {
        let connections = server.connections();
        for connection in &connections {
            let (last, head) = connection.requests.last().unwrap();
            assert!(*last - connection.made < PATIENCE, "used when {:?} old", *last - connection.made);
            let lower = head.to_ascii_lowercase();
            assert!(lower.contains(&format!("host: {}\r\n", server.address)), "{head}");
            assert!(head.starts_with("POST / ") || head.starts_with("GET / "), "{head}");
            assert!(!lower.contains("authorization") && !head.contains('@'), "{head}");
        }
        let renewed: Vec<bool> = connections[2..].iter().map(|connection| connection.resumed).collect();
        // One more where a poll came sooner after the last of a term than was expected.
        assert!(renewed.len() >= 2 && renewed.iter().all(|resumed| *resumed), "{renewed:?}");
        // The last poll of a term says that it is, so that no connection is left behind.
        let open = || server.connections().iter().filter(|connection| connection.open).count();
        while open() > 2 {
            assert!(start.elapsed() < 3 * PATIENCE, "{} are open", open());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

#[tokio::test]
async fn a_name_that_moves_is_followed_at_once_also_where_the_old_server_still_answers() {
    if !inside("a_name_that_moves_is_followed_at_once_also_where_the_old_server_still_answers", &["127.0.0.2"]) {
        return;
    }
    let before = Scripted::tls(rustls::ALL_VERSIONS, |_, _| Then::Answer).await;
    let port = before.address.port();
    let after = Scripted::at(([127, 0, 0, 2], port).into(), Some(rustls::ALL_VERSIONS), |_, _| Then::Answer).await;
    hosts("127.0.0.1 server.test\n");
    let mut target = redeclared(&rooms(&before), |spec| spec.url = format!("https://server.test:{port}/"));
    Arc::make_mut(&mut target.source).connection.tls.ca = None;
    Arc::make_mut(&mut target.source).connection.tls.insecure_skip_verify = true;
    let pollers = pollers();
    pollers.apply([target.clone()]);
    for _ in 0..3 {
        assert_eq!(poll(&pollers, &target).await.failure, None);
    }
    assert_eq!((before.requests(), after.requests()), (3, 0));
    // A second address beside it changes nothing.
    hosts("127.0.0.2 server.test\n127.0.0.1 server.test\n");
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(3) {
        assert_eq!(poll(&pollers, &target).await.failure, None);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(after.requests(), 0);
    hosts("127.0.0.2 server.test\n");
    while after.requests() == 0 {
        assert!(start.elapsed() < PATIENCE, "not followed");
        assert_eq!(poll(&pollers, &target).await.failure, None);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// A target at `two.test`, which has these addresses.
fn at_two_addresses(port: u16, scheme: &str, addresses: &[&str]) -> Target {
    let lines: Vec<String> = addresses.iter().map(|address| format!("{address} two.test\n")).collect();
    hosts(&lines.concat());
    let mut target = sora(&format!("{scheme}://two.test:{port}/"));
    Arc::make_mut(&mut target.source).connection.tls.insecure_skip_verify = true;
    (target.timeout, target.max_age) = (Duration::from_secs(9), Duration::ZERO);
    target
}

#[tokio::test]
async fn a_host_whose_first_address_drops_packets_is_polled_at_the_next_and_then_without_a_wait() {
    if !inside(
        "a_host_whose_first_address_drops_packets_is_polled_at_the_next_and_then_without_a_wait",
        &["127.0.0.2", "127.0.0.3"],
    ) {
        return;
    }
    for tls in [None, Some(rustls::ALL_VERSIONS)] {
        let dead = Blackhole::start([127, 0, 0, 1].into());
        let port = dead.address.port();
        let alive = Scripted::at(([127, 0, 0, 3], port).into(), tls, |_, _| Then::Answer).await;
        let scheme = if tls.is_some() { "https" } else { "http" };
        // At the second, nobody listens.
        let target = at_two_addresses(port, scheme, &["127.0.0.1", "127.0.0.2", "127.0.0.3"]);
        let pollers = pollers();
        pollers.apply([target.clone()]);
        let snapshot = poll(&pollers, &target).await;
        assert_eq!(calls(&snapshot), ["200", "200", "200"], "{scheme}");
        assert_eq!(requests(&alive), [3], "{scheme}: its calls go over one connection");
        let first = snapshot.ended - snapshot.started;
        assert!(
            first >= Duration::from_secs(3),
            "{scheme}: a third of the time is for the first address, not {first:?}"
        );
        let snapshot = poll(&pollers, &target).await;
        assert_eq!(calls(&snapshot), ["200", "200", "200"], "{scheme}");
        let second = snapshot.ended - snapshot.started;
        assert!(second < Duration::from_secs(3), "{scheme}: {second:?}, although it is known where it answers");
    }
}

#[tokio::test]
async fn a_host_whose_first_address_ends_the_handshake_is_polled_at_the_next() {
    if !inside("a_host_whose_first_address_ends_the_handshake_is_polled_at_the_next", &["127.0.0.2"]) {
        return;
    }
    // As a load balancer does that has nobody behind it.
    let closing = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = closing.local_addr().unwrap().port();
    let closes = tokio::spawn(async move {
        while let Ok((mut stream, _)) = closing.accept().await {
            let _ = stream.read(&mut [0; 1024]).await;
        }
    });
    let alive = Scripted::at(([127, 0, 0, 2], port).into(), Some(rustls::ALL_VERSIONS), |_, _| Then::Answer).await;
    let snapshot = poll_once(at_two_addresses(port, "https", &["127.0.0.1", "127.0.0.2"])).await;
    assert_eq!(calls(&snapshot), ["200", "200", "200"]);
    assert_eq!(requests(&alive), [3]);
    closes.abort();
}

#[tokio::test]
async fn where_no_connection_comes_about_the_sentence_says_to_which_addresses() {
    if !inside("where_no_connection_comes_about_the_sentence_says_to_which_addresses", &["127.0.0.2"]) {
        return;
    }
    let dead = Blackhole::start([127, 0, 0, 1].into());
    let port = dead.address.port();
    for scheme in ["http", "https"] {
        let mut target = at_two_addresses(port, scheme, &["127.0.0.1"]);
        target.timeout = Duration::from_secs(1);
        let snapshot = poll_once(target).await;
        let sentence = format!("no connection to 127.0.0.1:{port} in time");
        assert_eq!(failure(&snapshot), (Reason::Timeout, sentence.as_str()), "{scheme}");

        let mut target = at_two_addresses(port, scheme, &["127.0.0.1", "127.0.0.2"]);
        target.timeout = Duration::from_secs(1);
        let snapshot = poll_once(target).await;
        let (reason, sentence) = failure(&snapshot);
        assert_eq!(reason, Reason::Connect, "{scheme}: one of them said no");
        let start =
            format!("no connection to 127.0.0.1:{port} (no answer in time), 127.0.0.2:{port} (Connection refused");
        assert!(sentence.starts_with(&start), "{scheme}: {sentence}");
    }
    let closed = closed_port();
    let snapshot = poll_once(sora(&closed)).await;
    let address = closed.trim_start_matches("http://").trim_end_matches('/');
    let (reason, sentence) = failure(&snapshot);
    assert!(sentence.starts_with(&format!("no connection to {address}: Connection refused")), "{sentence}");
    assert_eq!(reason, Reason::Connect);

    let mut target = sora("http://sora.example.com/");
    Arc::make_mut(&mut target.source).connection.proxy = Some(closed.parse::<reqwest::Url>().unwrap().into());
    let snapshot = poll_once(target).await;
    let sentence = failure(&snapshot).1;
    assert!(sentence.starts_with(&format!("no connection through the proxy {address}: Connection")), "{sentence}");
}

#[tokio::test]
async fn a_server_that_was_reached_and_says_nothing_gave_no_answer_in_time() {
    let server = Scripted::start(|_, _| Then::Hang).await;
    let mut target = sora(&server.url());
    target.timeout = Duration::from_secs(1);
    let snapshot = poll_once(target).await;
    assert_eq!(failure(&snapshot), (Reason::Timeout, "no answer in time"));
}
