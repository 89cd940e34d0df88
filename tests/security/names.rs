//! Names whose zone does not answer: all others are resolved.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::time::{Duration, Instant};

use hickory_resolver::proto::rr::RecordType;
use tempfile::TempDir;

use super::support::dns::Dns;
use super::support::eventually::PATIENCE;
use super::support::listener::Listener;
use super::support::load::allowed;
use super::support::namespaces::{hosts, inside, resolve_by};
use super::support::program::{Running, get};

/// So that a poll has time enough on a busy machine.
const SLOWLY: &str = "  interval: 5s\n  timeout: 4s\n";

/// The manifest of a target.
fn target(name: &str, url: &str, more: &str) -> String {
    let (namespace, name) = name.split_once('/').unwrap();
    format!(
        "---\napiVersion: scrapetarget.dev/v1alpha1\nkind: ScrapeTarget\nmetadata: {{ name: {name}, namespace: {namespace} }}\nspec:\n  \
         type: Mediasoup\n  url: {url}\n  mediasoup: {{ source: Prometheus }}\n{more}"
    )
}

async fn exporter(manifests: &str) -> (Running, TempDir) {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("targets.yaml");
    fs::write(&file, manifests).unwrap();
    (Running::ready(&file, ["--log-level", "info"]).await, folder)
}

async fn until_up(exporter: &Running, target: &str) {
    let path = format!("/probe?target={target}");
    exporter.until(&path, |_, body| body.contains("probe_success 1").then_some(())).await;
}

/// The sentence of a target that fails for this reason.
async fn until_down(exporter: &Running, target: &str, reason: &str, sentence: &str) {
    let reason = format!("probe_failure_info{{reason=\"{reason}\"}} 1");
    exporter.until(&format!("/probe?target={target}"), |_, body| body.contains(&reason).then_some(())).await;
    // Of several polls, each may have failed in a way of its own.
    let debug = format!("/probe?target={target}&debug=true");
    exporter.until(&debug, |_, body| body.contains(sentence).then_some(())).await;
}

#[tokio::test]
async fn names_of_a_silent_zone_keep_no_other_name_from_being_polled() {
    const DEAD: usize = 400;
    if !inside("names::names_of_a_silent_zone_keep_no_other_name_from_being_polled", &["127.0.0.2"]) {
        return;
    }
    let (dns, listener) = (Dns::start().await, Listener::start().await);
    dns.silent_about("dead.test");
    dns.time_to_live(1);
    dns.name("honest.test", &["127.0.0.1"]);
    dns.name("other.test", &["127.0.0.2"]);
    let mut manifests = target("noisy/honest", &listener.url("honest.test"), SLOWLY);
    manifests += &target("quiet/honest", &listener.url("other.test"), SLOWLY);
    for number in 0..DEAD {
        let name = format!("noisy/dead-{number}");
        manifests += &target(&name, &format!("http://n{number}.dead.test:9/"), SLOWLY);
    }
    let (exporter, _folder) = exporter(&manifests).await;
    until_up(&exporter, "quiet/honest").await;
    until_up(&exporter, "noisy/honest").await;

    // Until the honest ones have been asked for several times again among the dead ones.
    let start = Instant::now();
    let asked = |name: &str| dns.asked().iter().filter(|asked| asked.name == name).count();
    let seen = || [listener.at("127.0.0.1"), listener.at("127.0.0.2"), asked("honest.test"), asked("other.test")];
    let before = seen();
    while seen().iter().zip(before).any(|(now, before)| *now < before + 6) {
        let answered = Instant::now();
        assert_eq!(get(&format!("{}/-/healthy", exporter.base)).await.unwrap().0, 200);
        assert!(answered.elapsed() < allowed(Duration::from_secs(5)), "healthy after {:?}", answered.elapsed());
        for honest in ["quiet/honest", "noisy/honest"] {
            let body = exporter.body(&format!("/probe?target={honest}")).await;
            assert!(body.contains("probe_success 1"), "{honest}: {body}\n{}", exporter.log());
        }
        // The namespace may have 32 lookups of new names and 16 of silent ones, each for two IP versions, each repeated up to three times.
        let sockets = fs::read_to_string("/proc/net/udp").unwrap().lines().count();
        assert!(sockets < 48 * 8 + 16, "{sockets} sockets for {DEAD} names");
        assert!(start.elapsed() < 2 * PATIENCE, "{before:?}, then {:?}:\n{}", seen(), exporter.log());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(exporter.logged("target=quiet/honest"), 0, "{}", exporter.log());
    let threads = fs::read_dir(format!("/proc/{}/task", exporter.id())).unwrap().count();
    assert!(threads < 64, "{threads} threads");
    until_down(&exporter, "noisy/dead-7", "dns", "no answer about n7.dead.test").await;
    until_down(&exporter, "noisy/dead-399", "dns", "from name server 127.0.0.1").await;
}

#[tokio::test]
async fn one_lookup_serves_all_who_wait_and_a_name_that_moves_is_followed() {
    if !inside("names::one_lookup_serves_all_who_wait_and_a_name_that_moves_is_followed", &["127.0.0.2"]) {
        return;
    }
    let (dns, listener) = (Dns::start().await, Listener::start().await);
    dns.name("moving.test", &["127.0.0.1"]);
    dns.delay(Duration::from_millis(700));
    let mut manifests = String::new();
    for number in 0..40 {
        let name = format!("team-{}/t{number}", number % 4);
        manifests += &target(&name, &listener.url("moving.test"), "  interval: 1s\n");
    }
    let (exporter, _folder) = exporter(&manifests).await;
    for number in 0..40 {
        until_up(&exporter, &format!("team-{}/t{number}", number % 4)).await;
    }
    // Repetitions of one question have its number.
    let mut questions = BTreeMap::<u16, Instant>::new();
    for asked in dns.asked().into_iter().filter(|asked| asked.kind == RecordType::A) {
        questions.entry(asked.id).or_insert_with(|| asked.at.into_std());
    }
    let mut times: Vec<Instant> = questions.into_values().collect();
    times.sort();
    for pair in times.windows(2) {
        assert!(pair[1] - pair[0] >= Duration::from_millis(700), "two lookups of one name at a time: {times:?}");
    }

    // The server says that its word holds for a day.
    dns.name("moving.test", &["127.0.0.2"]);
    let start = Instant::now();
    let stayed = loop {
        listener.contacted();
        tokio::time::sleep(Duration::from_secs(2)).await;
        let contacted = listener.contacted();
        if contacted.keys().all(|address| address.to_string() == "127.0.0.2") && !contacted.is_empty() {
            break start.elapsed();
        }
        assert!(start.elapsed() < 2 * PATIENCE, "still {contacted:?}");
    };
    assert!(stayed < allowed(Duration::from_secs(60)), "followed after {stayed:?}");
}

#[tokio::test]
async fn short_names_hosts_and_changes_of_both_files_are_followed() {
    if !inside("names::short_names_hosts_and_changes_of_both_files_are_followed", &["127.0.0.2", "127.0.0.3"]) {
        return;
    }
    let (dns, listener) = (Dns::start().await, Listener::start().await);
    resolve_by(
        "nameserver 127.0.0.9\nnameserver 127.0.0.1\nsearch team.svc.cluster.test svc.cluster.test\noptions ndots:5\n",
    );
    hosts("127.0.0.2 alias.lan alias_2\n");
    for (name, address) in [
        ("sora.team.svc.cluster.test", "127.0.0.1"),
        ("sora.other.svc.cluster.test", "127.0.0.1"),
        ("sora.example.test", "127.0.0.1"),
        ("later.new.test", "127.0.0.3"),
        ("alias.lan", "127.0.0.1"),
    ] {
        dns.name(name, &[address]);
    }
    dns.name("six.test", &["::1"]);
    dns.name("nothing.test", &[]);
    let mut manifests = String::new();
    for (name, host) in [
        ("one-label", "sora"),
        ("two-labels", "sora.other"),
        ("as-it-stands", "sora.example.test"),
        ("absolute", "sora.example.test."),
        ("six", "six.test"),
        ("alias", "alias.lan"),
        ("alias-2", "alias_2."),
        ("localhost", "localhost"),
        ("literal", "127.0.0.1"),
        ("literal-6", "::1"),
        ("later", "later"),
        ("late-alias", "late.lan"),
        ("nothing", "nothing.test"),
        ("short-but-absolute", "sora."),
    ] {
        writeln!(manifests, "{}", target(&format!("team/{name}"), &listener.url(host), "  interval: 1s\n")).unwrap();
    }
    let (exporter, _folder) = exporter(&manifests).await;
    for name in [
        "one-label",
        "two-labels",
        "as-it-stands",
        "absolute",
        "six",
        "alias",
        "localhost",
        "literal",
        "literal-6",
        "alias-2",
    ] {
        until_up(&exporter, &format!("team/{name}")).await;
    }
    assert!(listener.at("127.0.0.2") > 0, "the file of hosts comes first");
    assert!(dns.asked().iter().all(|asked| !asked.name.starts_with("alias") && !asked.name.starts_with("localhost")));
    until_down(&exporter, "team/later", "dns", "later does not exist").await;
    until_down(&exporter, "team/late-alias", "dns", "late.lan does not exist").await;
    until_down(&exporter, "team/nothing", "dns", "nothing.test has no address").await;
    until_down(&exporter, "team/short-but-absolute", "dns", "sora. does not exist").await;
    resolve_by("nameserver 127.0.0.1\nsearch new.test\n");
    until_up(&exporter, "team/later").await;
    hosts("127.0.0.2 alias.lan late.lan\n");
    until_up(&exporter, "team/late-alias").await;
    // A file that cannot be used changes nothing.
    resolve_by("");
    dns.name("sora.new.test", &["127.0.0.1"]);
    until_up(&exporter, "team/one-label").await;
}
