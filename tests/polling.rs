//! When targets are polled: once at a time, shared between scrapes, on time, and never after they are gone.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use scrapetarget_exporter::crd::{Metrics, ParsedTarget, ScrapeTarget};
use scrapetarget_exporter::fetch::Limits;
use scrapetarget_exporter::kind::{Reason, Type};
use scrapetarget_exporter::metric::Filter;
use scrapetarget_exporter::poll::{Pollers, TargetState};
use scrapetarget_exporter::target::{Problem, Target, TargetId};
use simulators::Simulated;
use simulators::mediasoup::Agent;
use simulators::orion::Broker;
use support::eventually::{PATIENCE, eventually};
use support::faults::{Fault, Faulty};
use support::{NoObjects, pollers, pollers_with, series, target, text};
use tokio::net::{TcpListener, TcpStream};

/// A server that answers `{}` after `delay`, and counts requests: in all, at this moment, and at most at one moment.
struct Counting {
    server: Simulated,
    total: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

impl Counting {
    async fn start(delay: Duration) -> Self {
        let (total, now, most) =
            (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let counters = (Arc::clone(&total), now, Arc::clone(&most));
        let routes = Router::new().fallback(move || {
            let (total, now, most) = counters.clone();
            async move {
                total.fetch_add(1, Ordering::SeqCst);
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                tokio::time::sleep(delay).await;
                now.fetch_sub(1, Ordering::SeqCst);
                "{}"
            }
        });
        let server = Simulated::serve(routes, ([127, 0, 0, 1], 0).into()).await.unwrap();
        Self { server, total, most }
    }

    fn total(&self) -> usize {
        self.total.load(Ordering::SeqCst)
    }

    /// A target on this server whose poll is a single call.
    fn target(&self) -> Target {
        target("counted", Type::Mediasoup, &self.server.url())
    }
}

fn standby() -> Arc<Pollers> {
    pollers_with(Limits::new(1 << 20, 8 << 20), false)
}

async fn until(what: &str, mut happened: impl FnMut() -> bool) {
    let start = Instant::now();
    while !happened() {
        assert!(start.elapsed() < PATIENCE, "{what} did not happen within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn the_first_poll_comes_at_once_and_the_next_after_the_interval() {
    let server = Counting::start(Duration::ZERO).await;
    let pollers = pollers();
    let mut target = server.target();
    // Long enough for a busy machine to begin at once.
    let interval = Duration::from_secs(4);
    target.interval = interval;
    let start = Instant::now();
    pollers.apply([target]);
    until("the first poll", || server.total() == 1).await;
    assert!(start.elapsed() < interval / 2, "{:?}", start.elapsed());
    until("the second poll", || server.total() == 2).await;
    assert!(start.elapsed() >= interval.mul_f64(0.99), "{:?}", start.elapsed());
}

#[tokio::test]
async fn fifty_scrapes_at_once_cost_one_poll_and_polls_never_overlap() {
    let server = Counting::start(Duration::from_millis(150)).await;
    let pollers = standby();
    let target = server.target();
    let id = target.id.clone();
    pollers.apply([target]);
    let scrapes: Vec<_> = (0..50)
        .map(|_| {
            let poller = pollers.get(&id).unwrap();
            tokio::spawn(async move { poller.answer(PATIENCE).await })
        })
        .collect();
    for scrape in scrapes {
        assert_ne!(scrape.await.unwrap().failure.as_ref().map(|failure| failure.reason), Some(Reason::Timeout));
    }
    assert_eq!((server.total(), server.most.load(Ordering::SeqCst)), (1, 1));
}

#[tokio::test]
async fn a_scrape_is_answered_from_the_snapshot_until_max_age_has_passed() {
    let server = Counting::start(Duration::ZERO).await;
    let pollers = standby();
    let mut target = server.target();
    // Long enough for a busy machine to ask twice.
    let max_age = Duration::from_secs(4);
    target.max_age = max_age;
    let id = target.id.clone();
    pollers.apply([target]);
    let poller = pollers.get(&id).unwrap();
    let first = poller.answer(PATIENCE).await;
    let second = poller.answer(PATIENCE).await;
    assert!(Arc::ptr_eq(&first, &second));
    tokio::time::sleep(max_age + Duration::from_millis(50)).await;
    let third = poller.answer(PATIENCE).await;
    assert!(!Arc::ptr_eq(&first, &third));
    assert_eq!(server.total(), 2);
}

#[tokio::test]
async fn with_a_max_age_of_zero_every_scrape_polls() {
    let server = Counting::start(Duration::ZERO).await;
    let pollers = standby();
    let mut target = server.target();
    target.max_age = Duration::ZERO;
    let id = target.id.clone();
    pollers.apply([target]);
    for _ in 0..5 {
        pollers.get(&id).unwrap().answer(PATIENCE).await;
    }
    assert_eq!(server.total(), 5);
}

#[tokio::test]
async fn few_targets_are_polled_at_once_by_the_replica_that_takes_over() {
    let server = Counting::start(Duration::ZERO).await;
    let pollers = standby();
    let mut target = server.target();
    target.interval = Duration::from_hours(1);
    pollers.apply([target]);
    pollers.set_background(true);
    until("the first poll", || server.total() == 1).await;
}

#[tokio::test]
async fn a_standby_polls_only_when_it_is_asked_and_takes_over_when_told() {
    let server = Counting::start(Duration::ZERO).await;
    let pollers = standby();
    let mut target = server.target();
    target.interval = Duration::from_millis(50);
    pollers.apply([target]);
    tokio::time::sleep(Duration::from_millis(300)).await; // for polls that should not come
    assert_eq!(server.total(), 0);
    pollers.set_background(true);
    until("polls after taking over", || server.total() >= 3).await;
    pollers.set_background(false);
    // The poll that is under way may still come. Several more would fit into the time in which none does.
    eventually(PATIENCE, async || {
        let before = server.total();
        tokio::time::sleep(Duration::from_millis(300)).await;
        let after = server.total();
        (after == before).then_some(()).ok_or_else(|| format!("{} polls more", after - before))
    })
    .await;
}

#[tokio::test]
async fn a_scrape_that_cannot_wait_gets_reason_timeout_and_nothing_of_the_target() {
    let server = Counting::start(Duration::from_secs(3)).await;
    let pollers = standby();
    let target = server.target();
    let id = target.id.clone();
    pollers.apply([target]);
    let snapshot = pollers.get(&id).unwrap().answer(Duration::from_millis(100)).await;
    let series = series(&text(&snapshot));
    assert_eq!(series["probe_success"], 0.0);
    assert_eq!(series["probe_failure_info{reason=\"timeout\"}"], 1.0);
    assert_eq!(series.len(), 2, "{series:?}");
}

#[tokio::test]
async fn a_deleted_target_is_gone_at_once_and_its_running_poll_is_dropped() {
    let server = Faulty::start(Fault::HangsBeforeTheAnswer).await;
    let pollers = pollers();
    let mut target = target("doomed", Type::Mediasoup, &server.url());
    target.timeout = 2 * PATIENCE;
    let id = target.id.clone();
    pollers.apply([target]);
    until("the poll", || server.connections.load(Ordering::SeqCst) == 1).await;
    pollers.remove(&id);
    assert!(pollers.get(&id).is_none() && pollers.list().is_empty());
    tokio::time::timeout(PATIENCE, pollers.shutdown()).await.expect("the poller ended long before its timeout");
}

#[tokio::test]
async fn a_scrape_that_waits_for_a_deleted_target_does_not_wait_until_its_timeout() {
    let server = Faulty::start(Fault::HangsBeforeTheAnswer).await;
    let pollers = pollers();
    let target = target("doomed", Type::Mediasoup, &server.url());
    let id = target.id.clone();
    pollers.apply([target]);
    let poller = pollers.get(&id).unwrap();
    let scrape = tokio::spawn(async move { poller.answer(Duration::from_secs(3600)).await });
    until("the poll", || server.connections.load(Ordering::SeqCst) == 1).await;
    pollers.remove(&id);
    let answer = tokio::time::timeout(PATIENCE, scrape).await.expect("the scrape ends with its target");
    assert_eq!(answer.unwrap().failure.as_ref().unwrap().reason, Reason::Config);
}

#[tokio::test]
async fn a_changed_url_drops_the_running_poll_and_the_old_data() {
    let (old, new) = (Counting::start(Duration::ZERO).await, Counting::start(Duration::ZERO).await);
    let pollers = pollers();
    pollers.apply([old.target()]);
    let poller = pollers.get(&TargetId::new("media", "counted")).unwrap();
    until("the first poll", || poller.newest().is_some()).await;
    let before = poller.newest().unwrap();
    pollers.apply([new.target()]);
    let after = poller.answer(PATIENCE).await;
    assert!(!Arc::ptr_eq(&before, &after));
    assert_eq!((old.total(), new.total()), (1, 1));
}

#[tokio::test]
async fn a_changed_interval_keeps_the_data_and_takes_effect_at_once() {
    let server = Counting::start(Duration::ZERO).await;
    let pollers = pollers();
    let mut target = server.target();
    target.interval = Duration::from_secs(3600);
    pollers.apply([target.clone()]);
    let poller = pollers.get(&target.id).unwrap();
    until("the first poll", || poller.newest().is_some()).await;
    target.interval = Duration::from_millis(50);
    pollers.apply([target]);
    assert!(poller.newest().is_some(), "the snapshot stays");
    until("polls at the new pace", || server.total() >= 4).await;
}

#[tokio::test]
async fn a_suspended_target_is_not_polled_and_says_so_without_probe_success() {
    let server = Counting::start(Duration::ZERO).await;
    let pollers = pollers();
    let mut target = server.target();
    target.suspend = true;
    pollers.apply([target.clone()]);
    let poller = pollers.get(&target.id).unwrap();
    let snapshot = poller.answer(PATIENCE).await;
    let series = series(&text(&snapshot));
    assert_eq!(series.len(), 1);
    assert_eq!(series["probe_failure_info{reason=\"suspended\"}"], 1.0);
    assert_eq!((server.total(), poller.status().state), (0, TargetState::Suspended));
    target.suspend = false;
    pollers.apply([target]);
    assert_ne!(poller.status().state, TargetState::Suspended, "it is not what it was");
    poller.answer(PATIENCE).await;
    assert_eq!(server.total(), 1);
}

#[tokio::test]
async fn a_target_with_a_problem_sends_nothing_and_heals_when_the_problem_is_gone() {
    let server = Counting::start(Duration::ZERO).await;
    let pollers = pollers();
    let mut target = server.target();
    target.problem = Some(Problem::invalid_spec("Secret media/sora has no key \"token\""));
    pollers.apply([target.clone()]);
    let poller = pollers.get(&target.id).unwrap();
    let snapshot = poller.answer(PATIENCE).await;
    assert_eq!(series(&text(&snapshot))["probe_failure_info{reason=\"config\"}"], 1.0);
    assert_eq!((server.total(), poller.status().state), (0, TargetState::Invalid));
    target.problem = None;
    pollers.apply([target]);
    until("a poll", || server.total() == 1).await;
}

#[tokio::test]
async fn many_targets_that_appear_together_are_spread_over_their_interval() {
    let server = Counting::start(Duration::ZERO).await;
    let pollers = pollers();
    let interval = Duration::from_secs(8);
    let targets = (0..200).map(|i| {
        let mut target = server.target();
        target.id = TargetId::new("media", &format!("t{i}"));
        target.interval = interval;
        target
    });
    let start = Instant::now();
    pollers.apply(targets);
    tokio::time::sleep(interval / 4).await;
    let (polled, part) = (server.total(), start.elapsed().as_secs_f64() / interval.as_secs_f64());
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small number")]
    let expected = (200.0 * part) as usize;
    // They are spread by chance, and a busy machine is late with some.
    assert!(
        (expected.saturating_sub(30)..=expected + 40).contains(&polled),
        "about {expected} of 200 are expected in this part of the interval: {polled}"
    );
    until("all of them", || server.total() >= 200).await;
}

#[tokio::test]
async fn hanging_targets_do_not_delay_the_others() {
    let hanging = Faulty::start(Fault::HangsBeforeTheAnswer).await;
    let server = Counting::start(Duration::ZERO).await;
    let pollers = pollers();
    let hung = (0..300).map(|i| {
        let mut target = target(&format!("hung{i}"), Type::Mediasoup, &hanging.url());
        target.timeout = Duration::from_secs(60);
        target.interval = Duration::from_secs(60);
        target
    });
    pollers.apply(hung.collect::<Vec<_>>());
    let mut good = server.target();
    good.max_age = Duration::ZERO;
    pollers.apply([good.clone()]);
    let start = Instant::now();
    pollers.get(&good.id).unwrap().answer(PATIENCE).await;
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}, half of what the others take", start.elapsed());
}

#[tokio::test]
async fn a_poll_makes_its_calls_over_one_connection_and_closes_it_when_it_is_plain() {
    let connections = Arc::<AtomicUsize>::default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let (counter, closed) = (Arc::clone(&connections), Arc::<AtomicUsize>::default());
    let closed_counter = Arc::clone(&closed);
    tokio::spawn(async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        while let Ok((mut stream, _)) = listener.accept().await {
            counter.fetch_add(1, Ordering::SeqCst);
            let closed = Arc::clone(&closed_counter);
            tokio::spawn(async move {
                let mut request = [0; 4096];
                while stream.read(&mut request).await.is_ok_and(|n| n > 0) {
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await;
                }
                closed.fetch_add(1, Ordering::SeqCst);
            });
        }
    });
    let pollers = standby();
    let target = target("orion", Type::Orion, &url);
    let id = target.id.clone();
    pollers.apply([target]);
    pollers.get(&id).unwrap().answer(PATIENCE).await;
    assert_eq!(connections.load(Ordering::SeqCst), 1);
    until("the close", || closed.load(Ordering::SeqCst) == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_a_poll_brings_after_its_target_has_changed_is_thrown_away() {
    let (old, new) = (Counting::start(Duration::ZERO).await, Faulty::start(Fault::HangsBeforeTheAnswer).await);
    let pollers = pollers();
    let id = TargetId::new("media", "counted");
    // The old server's answer and the change race; many tries make both orders likely.
    for _ in 0..200 {
        let total = old.total();
        pollers.apply([old.target()]);
        let poller = pollers.get(&id).unwrap();
        until("a poll of the old server", || old.total() > total || poller.newest().is_some()).await;
        let mut changed = target("counted", Type::Mediasoup, &new.url());
        changed.timeout = Duration::from_secs(10);
        pollers.apply([changed]);
        tokio::time::sleep(Duration::from_millis(2)).await; // for what is under way
        assert!(poller.newest().is_none(), "the new server has not answered yet");
    }
}

#[tokio::test]
async fn a_changed_filter_takes_effect_at_once_and_not_after_the_interval() {
    let server = Counting::start(Duration::ZERO).await;
    let pollers = pollers();
    let mut target = server.target();
    target.interval = Duration::from_secs(3600);
    target.max_age = target.interval;
    pollers.apply([target.clone()]);
    let poller = pollers.get(&target.id).unwrap();
    assert!(series(&text(&*poller.answer(PATIENCE).await)).contains_key("mediasoup_up"));
    let mut changed = ScrapeTarget::clone(&target.declaration);
    changed.spec.metrics = Some(Metrics { keep: Vec::new(), drop: vec!["mediasoup_.*".to_owned()] });
    let changed = ParsedTarget::parse(changed).unwrap();
    pollers.apply([Target::resolve(target.id.clone(), Arc::new(changed), &NoObjects)]);
    assert!(!series(&text(&*poller.answer(PATIENCE).await)).contains_key("mediasoup_up"));
}

/// The bytes that all producers received.
fn received(text: &str) -> f64 {
    let mut counters = series(text);
    counters.retain(|name, _| name.starts_with("mediasoup_producers_received_bytes_total"));
    counters.values().sum()
}

#[tokio::test]
async fn a_rotated_secret_does_not_let_counters_begin_anew() {
    let clock = Agent::new(1);
    let server = Simulated::serve(clock.routes(), ([127, 0, 0, 1], 0).into()).await.unwrap();
    let pollers = standby();
    let mut target = target("rooms", Type::Mediasoup, &server.url());
    target.max_age = Duration::ZERO;
    pollers.apply([target.clone()]);
    let poller = pollers.get(&target.id).unwrap();
    poller.answer(PATIENCE).await;
    clock.pass(Duration::from_secs(60));
    let before = received(&text(&*poller.answer(PATIENCE).await));
    assert!(before > 0.0);
    Arc::make_mut(&mut target.source).headers.insert("x-api-key", "rotated".parse().unwrap());
    pollers.apply([target]);
    assert!(received(&text(&*poller.answer(PATIENCE).await)) >= before);
}

/// As `Fiware-ServicePath` of Orion, which may be needed by a proxy in between.
#[tokio::test]
async fn a_header_of_the_target_takes_the_place_of_the_one_that_a_call_has() {
    use tokio::io::AsyncReadExt as _;

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut target = target("orion", Type::Orion, &format!("http://{}/", listener.local_addr().unwrap()));
    Arc::make_mut(&mut target.source).headers.insert("fiware-servicepath", "/city".parse().unwrap());
    let pollers = pollers();
    pollers.apply([target]);
    let reading = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        String::from_utf8(head).unwrap()
    };
    let head = tokio::time::timeout(PATIENCE, reading).await.expect("the first request");
    let paths: Vec<&str> = head.lines().filter(|line| line.starts_with("fiware-servicepath")).collect();
    assert_eq!(paths, ["fiware-servicepath: /city"], "{head}");
}

/// A TLS server before a plain one, and the authority of its certificate as PEM.
async fn behind_tls(server: std::net::SocketAddr) -> (std::net::SocketAddr, String) {
    support::choose_tls_provider();
    let mut authority = CertificateParams::new([]).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap().signed_by(&key, &authority).unwrap();
    let key = rustls_pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder().with_no_client_auth();
    let config = config.with_single_cert(vec![leaf.der().clone()], key).unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let mut plain = TcpStream::connect(server).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut stream, &mut plain).await;
            });
        }
    });
    (address, authority.pem())
}

#[tokio::test]
async fn a_rotated_ca_that_is_none_does_not_let_counters_begin_anew() {
    let clock = Agent::new(1);
    let server = Simulated::serve(clock.routes(), ([127, 0, 0, 1], 0).into()).await.unwrap();
    let (address, ca) = behind_tls(server.address).await;
    let pollers = standby();
    let mut target = target("rooms", Type::Mediasoup, &format!("https://{address}/"));
    target.max_age = Duration::ZERO;
    target.timeout = Duration::from_secs(30);
    Arc::make_mut(&mut target.source).connection.tls.ca = Some(ca.as_bytes().into());
    let good = target.clone();
    pollers.apply([target.clone()]);
    let poller = pollers.get(&target.id).unwrap();
    poller.answer(Duration::from_secs(30)).await;
    clock.pass(Duration::from_secs(60));
    let before = received(&text(&*poller.answer(Duration::from_secs(30)).await));
    assert!(before > 0.0);
    Arc::make_mut(&mut target.source).connection.tls.ca = Some(
        b"-----BEGIN CERTIFICATE-----
AAAA
-----END CERTIFICATE-----
"[..]
            .into(),
    );
    pollers.apply([target]);
    let failure = poller.answer(Duration::from_secs(30)).await.failure.clone();
    assert_eq!(failure.map(|failure| failure.reason), Some(Reason::Config));
    pollers.apply([good]);
    assert!(received(&text(&*poller.answer(Duration::from_secs(30)).await)) >= before);
}

#[test]
fn pollers_that_nobody_has_any_more_end() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let server = Counting::start(Duration::ZERO).await;
        let others = tokio::runtime::Handle::current().metrics().num_alive_tasks();
        let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks() - others;
        let pollers = standby();
        let mut unusable = server.target();
        unusable.id = TargetId::new("media", "unusable");
        unusable.problem = Some(Problem::invalid_spec("spec.url is missing"));
        pollers.apply([server.target(), unusable]);
        until("two pollers", || tasks() >= 2).await;
        drop(pollers);
        until("the end of the pollers", || tasks() == 0).await;
    });
}

#[tokio::test]
async fn an_agent_is_asked_for_less_as_soon_as_less_is_shown_and_counters_go_on() {
    let clock = Agent::new(1);
    let server = Simulated::serve(clock.routes(), ([127, 0, 0, 1], 0).into()).await.unwrap();
    let pollers = standby();
    let mut all = target("rooms", Type::Mediasoup, &server.url());
    all.max_age = Duration::ZERO;
    let mut less = all.clone();
    let drop = ["mediasoup_consumers_.*".to_owned()];
    Arc::make_mut(&mut less.source).filter = Filter::new(&[], &drop).unwrap().map(Arc::new);
    let (mut bytes, mut counters) = (Vec::new(), Vec::new());
    for (target, time) in [(&all, 60), (&all, 0), (&less, 0), (&all, 0)] {
        pollers.apply([target.clone()]);
        let snapshot = pollers.get(&target.id).unwrap().answer(PATIENCE).await;
        bytes.push(snapshot.calls[0].bytes);
        counters.push(received(&text(&snapshot)));
        clock.pass(Duration::from_secs(time));
    }
    assert!(10 * bytes[2] < 9 * bytes[1].min(bytes[3]), "{bytes:?}");
    assert!(counters[1] > 0.0 && counters.is_sorted(), "{counters:?}");
}

#[tokio::test]
async fn an_answer_that_is_refused_for_its_size_counts_also_what_was_shed_before() {
    let server = Simulated::serve(Broker::new(1).routes(), ([127, 0, 0, 1], 0).into()).await.unwrap();
    let mut whole = target("whole", Type::Orion, &server.url());
    whole.max_age = Duration::ZERO;
    let mut limited = target("limited", Type::Orion, &server.url());
    limited.sample_limit = 3;
    let pollers = standby();
    pollers.apply([whole.clone(), limited.clone()]);
    let all = series(&text(&*pollers.get(&whole.id).unwrap().answer(PATIENCE).await));
    let orion: f64 = all.keys().filter(|name| name.starts_with("orion_")).map(|_| 1.0).sum();
    let refused = pollers.get(&limited.id).unwrap().answer(PATIENCE).await;
    assert_eq!(refused.failure.as_ref().map(|failure| failure.reason), Some(Reason::Limit));
    let dropped = series(&text(&refused))["probe_series_dropped"];
    assert!(dropped >= orion, "{dropped} of {orion}");
}

#[tokio::test]
async fn a_target_is_down_since_it_went_down_even_if_the_reason_changes() {
    let hanging = Faulty::start(Fault::HangsBeforeTheAnswer).await;
    let pollers = standby();
    let id = TargetId::new("media", "sora");
    let mut seen = Vec::new();
    let short = Duration::from_millis(100);
    for (url, timeout, reason) in
        [(support::faults::closed_port(), PATIENCE, Reason::Connect), (hanging.url(), short, Reason::Timeout)]
    {
        let mut target = target("sora", Type::Sora, &url);
        target.timeout = timeout;
        pollers.apply([target]);
        let poller = pollers.get(&id).unwrap();
        poller.answer(PATIENCE).await;
        let status = poller.status();
        assert_eq!((status.state, status.failure.map(|failure| failure.reason)), (TargetState::Down, Some(reason)));
        seen.push(status.since);
    }
    assert_eq!(seen[0], seen[1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn scrapes_and_changes_of_one_target_never_lock_each_other_out() {
    let pollers = pollers();
    // Suspended: each change publishes at once, thousands of times a second, and a race has its chance.
    let mut target = target("busy", Type::Sora, "http://127.0.0.1:1/");
    target.suspend = true;
    let id = target.id.clone();
    pollers.apply([target.clone()]);
    let until = Instant::now() + Duration::from_secs(2);
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..3 {
        let poller = pollers.get(&id).unwrap();
        tasks.spawn(async move {
            while Instant::now() < until {
                for _ in 0..100 {
                    poller.answer(Duration::from_secs(1)).await;
                }
                tokio::task::yield_now().await;
            }
        });
    }
    let changes = Arc::clone(&pollers);
    tasks.spawn(async move {
        for limit in (1..=10).cycle() {
            if Instant::now() >= until {
                return;
            }
            target.sample_limit = 1_000 * limit;
            changes.apply([target.clone()]);
            tokio::task::yield_now().await;
        }
    });
    // A deadlock holds threads of the runtime: only another thread can tell.
    let (ended, end) = std::sync::mpsc::channel();
    let watchdog = std::thread::spawn(move || {
        if end.recv_timeout(PATIENCE).is_err() {
            eprintln!("scrapes and polls wait for each other");
            std::process::exit(1);
        }
    });
    while let Some(task) = tasks.join_next().await {
        task.unwrap();
    }
    ended.send(()).unwrap();
    watchdog.join().unwrap();
}
