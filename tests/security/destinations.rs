//! Where targets may point: addresses, names, the service of somebody else.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::time::Duration;

use tempfile::TempDir;

use super::support::dns::Dns;
use super::support::eventually::PATIENCE;
use super::support::listener::Listener;
use super::support::namespaces::{inside, resolve_by};
use super::support::program::{Running, run};

/// The manifest of a target.
fn target(name: &str, kind: &str, url: &str, more: &str) -> String {
    let (namespace, name) = name.split_once('/').unwrap();
    format!(
        "---\napiVersion: scrapetarget.dev/v1alpha1\nkind: ScrapeTarget\nmetadata: {{ name: {name}, namespace: {namespace} }}\nspec:\n  \
         type: {kind}\n  url: {url}\n  interval: 2s\n{more}"
    )
}

/// A target that passes on what it finds.
fn passes(name: &str, url: &str, more: &str) -> String {
    target(name, "Mediasoup", url, &format!("  mediasoup: {{ source: Prometheus }}\n{more}"))
}

async fn exporter(manifests: &str, arguments: &[&str]) -> (Running, TempDir) {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("targets.yaml");
    fs::write(&file, manifests).unwrap();
    (Running::ready(&file, arguments).await, folder)
}

async fn until_up(exporter: &Running, target: &str) {
    let path = format!("/probe?target={target}");
    exporter.until(&path, |_, body| body.contains("probe_success 1").then_some(())).await;
}

/// Waits until a target is refused as declared, and returns what is said about it.
async fn until_refused(exporter: &Running, target: &str) -> String {
    let refused = "probe_failure_info{reason=\"config\"} 1";
    exporter.until(&format!("/probe?target={target}"), |_, body| body.contains(refused).then_some(())).await;
    exporter.body(&format!("/probe?target={target}&debug=true")).await
}

/// Waits until the honest target has been polled this often again.
async fn polls(listener: &Listener, address: &str, count: usize) {
    let before = listener.at(address);
    let patience = tokio::time::timeout(PATIENCE, async {
        while listener.at(address) < before + count {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    assert!(patience.await.is_ok(), "{address} is not polled {count} times");
}

const FORBIDDEN: [&str; 23] = [
    "169.254.169.254",
    "100.100.100.200",
    "168.63.129.16",
    "192.0.0.192",
    "fd00:ec2::254",
    "fd00:ec2::23",
    "fd20:ce::254",
    "fd00:42::42",
    "64:ff9b::169.254.169.254",
    "64:ff9b:1::169.254.169.254",
    "64:ff9b:1:a9fe:a9:fe00::",
    "2002:a9fe:a9fe::1",
    "2001:0:a9fe:a9fe::1",
    "2001:0:808:808:0:0:5601:5601",
    "::ffff:0:169.254.169.254",
    "::169.254.169.254",
    // What the operator denies.
    "10.1.2.3",
    "64:ff9b::10.1.2.3",
    "64:ff9b:1:1:1:1:10.1.2.3",
    "2002:a01:203::1",
    "2001:0:a01:203::1",
    "::ffff:0:10.1.2.3",
    "fd12:3456::5efe:10.1.2.3",
];

#[tokio::test]
async fn no_target_reaches_the_metadata_of_a_cloud_or_a_denied_address_in_any_form() {
    const HONEST: &str = "10.9.9.9";
    let addresses: Vec<&str> = FORBIDDEN.into_iter().chain([HONEST, "10.1.3.3"]).collect();
    if !inside("destinations::no_target_reaches_the_metadata_of_a_cloud_or_a_denied_address_in_any_form", &addresses) {
        return;
    }
    let (dns, listener) = (Dns::start().await, Listener::start().await);
    for address in FORBIDDEN {
        // The attack would succeed: somebody listens there.
        let there: IpAddr = address.parse().unwrap();
        let connected = tokio::net::TcpStream::connect((there, listener.port)).await;
        assert!(connected.is_ok(), "{address}: {connected:?}");
    }
    let mapped = ["::ffff:169.254.169.254", "::ffff:100.100.100.200", "::ffff:10.1.2.3"];
    let (mut manifests, mut attacks) = (passes("a/honest", &listener.url(HONEST), ""), Vec::new());
    for (number, address) in FORBIDDEN.into_iter().chain(mapped).enumerate() {
        let host = format!("n{number}.test");
        dns.name(&host, &[address]);
        let names = ["literal", "behind", "name", "proxy"].map(|attack| format!("a/{attack}-{number}"));
        // No manifest may hold a mapped address, but a name server may give one.
        let literal = usize::from(mapped.contains(&address)) * 2;
        let all = [
            passes(&names[0], &listener.url(address), ""),
            passes(&names[1], &listener.url(address), &format!("  proxyUrl: {}\n", listener.url(HONEST))),
            passes(&names[2], &listener.url(&host), ""),
            passes(&names[3], &listener.url(HONEST), &format!("  proxyUrl: {}\n", listener.url(&host))),
        ];
        manifests += &all[literal..].concat();
        attacks.extend_from_slice(&names[literal..]);
    }
    // One good address beside a bad one: only the good one is contacted.
    dns.name("both.test", &["169.254.169.254", "10.1.3.3"]);
    manifests += &passes("a/both", &listener.url("both.test"), "");
    while listener.contacted().values().sum::<usize>() > 0 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let (exporter, _folder) = exporter(&manifests, &["--target-deny-cidr", "10.1.2.0/24"]).await;
    until_up(&exporter, "a/honest").await;
    until_up(&exporter, "a/both").await;
    for attack in &attacks {
        let said = until_refused(&exporter, attack).await;
        assert!(said.contains("may not be contacted ("), "{attack}: {said}");
    }
    polls(&listener, HONEST, 3).await;
    let contacted: BTreeSet<String> = listener.contacted().keys().map(ToString::to_string).collect();
    assert_eq!(contacted, BTreeSet::from([HONEST.to_owned(), "10.1.3.3".to_owned()]));
}

#[tokio::test]
async fn targets_point_only_to_hosts_and_addresses_that_the_operator_allows() {
    let (own, ranged, outside, denied) = ("10.8.0.1", "10.7.0.5", "10.8.0.2", "10.7.0.66");
    let addresses = [own, ranged, outside, denied];
    if !inside("destinations::targets_point_only_to_hosts_and_addresses_that_the_operator_allows", &addresses) {
        return;
    }
    let (dns, listener) = (Dns::start().await, Listener::start().await);
    resolve_by(
        "nameserver 127.0.0.1\nsearch exporter.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n",
    );
    dns.name("sora.team-a.svc.cluster.local", &[own]);
    dns.name("ranged.test", &[ranged]);
    dns.name("outside.test", &[outside]);
    dns.name("mapped.test", &["::ffff:10.8.0.1"]);
    dns.name("mixed.test", &[outside, ranged]);
    dns.name("denied.team-a.svc.cluster.local", &[denied]);
    let through = |host: &str| format!("  proxyUrl: {}\n", listener.url(host));
    let allowed = [
        ("team-a/own", "sora.team-a.svc", String::new()),
        ("team-a/own-long", "sora.team-a.svc.cluster.local", String::new()),
        ("team-a/own-absolute", "SORA.team-a.svc.cluster.local.", String::new()),
        ("team-a/own-by-proxy", "sora.team-a.svc", through(ranged)),
        ("team-b/ranged", "ranged.test", String::new()),
        ("team-b/literal", ranged, String::new()),
        ("team-b/literal-by-proxy", ranged, through("ranged.test")),
        ("team-b/mixed", "mixed.test", String::new()),
    ];
    let refused = [
        ("team-b/foreign", "sora.team-a.svc", String::new()),
        ("team-b/foreign-long", "sora.team-a.svc.cluster.local.", String::new()),
        ("team-b/foreign-short", "sora.team-a", String::new()),
        ("team-a/outside", "outside.test", String::new()),
        ("team-a/literal", own, String::new()),
        ("team-a/mapped", "mapped.test", String::new()),
        ("team-a/denied", "denied.team-a.svc", String::new()),
        ("team-a/bad-proxy", "sora.team-a.svc", through(outside)),
        ("team-a/bad-proxy-name", "sora.team-a.svc", through("outside.test")),
        ("team-b/foreign-proxy", ranged, through("sora.team-a.svc")),
        ("team-b/name-by-proxy", "ranged.test", through(ranged)),
        ("team-b/literal-by-proxy-outside", outside, through(ranged)),
    ];
    let of = |targets: &[(&str, &str, String)]| -> String {
        targets.iter().map(|(name, host, more)| passes(name, &listener.url(host), more)).collect()
    };
    let manifests = of(&allowed) + &of(&refused);
    let rules = ["--target-allow-host", "*.{namespace}.svc", "--target-allow-cidr", "10.7.0.0/16"];
    let (exporter, folder) =
        exporter(&manifests, &[&rules[..], &["--target-deny-cidr", "10.7.0.66/32"]].concat()).await;
    for (name, ..) in &allowed {
        until_up(&exporter, name).await;
    }
    for (name, ..) in &refused {
        let said = until_refused(&exporter, name).await;
        assert!(said.contains("--target-"), "{name}: {said}");
        assert!(
            !said.contains("10.7.0.0/16") && !said.contains("{namespace}"),
            "{name} is told what is allowed: {said}"
        );
    }
    polls(&listener, own, 3).await;
    let contacted: BTreeSet<String> = listener.contacted().keys().map(ToString::to_string).collect();
    assert_eq!(contacted, BTreeSet::from([own.to_owned(), ranged.to_owned()]));

    // `probe` obeys the same flags.
    let file = folder.path().join("targets.yaml");
    for (name, code) in [("own", 0), ("outside", 1), ("foreign", 1)] {
        let arguments = [&["probe", file.to_str().unwrap(), "--target", name][..], &rules].concat();
        let arguments: Vec<String> = arguments.into_iter().map(ToOwned::to_owned).collect();
        // On a thread of its own: the name server is in this one.
        let said = tokio::task::spawn_blocking(move || run(arguments)).await.unwrap();
        assert_eq!(said.code, Some(code), "{name}: {}", said.stderr);
        assert_eq!(said.stderr.contains("(config)"), code != 0, "{name}: {}", said.stderr);
    }
    assert!(!listener.contacted().contains_key(&outside.parse::<IpAddr>().unwrap()));
}

#[tokio::test]
async fn a_prometheus_that_is_no_allowed_destination_is_neither_stopped_nor_read() {
    let folder = TempDir::new().unwrap();
    let config = folder.path().join("prometheus.yml");
    fs::write(&config, "global: { scrape_interval: 1s }\nscrape_configs:\n  - { job_name: itself, static_configs: [{ targets: ['127.0.0.1:9'] }] }\n")
        .unwrap();
    let mut prometheus = Running::prometheus(&config).await;
    let query = "/api/v1/query?query=up";
    prometheus.until(query, |_, body| body.contains("\"itself\"").then_some(())).await;
    let honest = Listener::start().await;
    let quit = target("tenant/quit", "Sora", &format!("{}/-/quit", prometheus.base), "");
    let federate = passes("tenant/federate", &format!("{}/federate?match[]=up", prometheus.base), "");
    let of_honest = passes("honest/rooms", &honest.url("::1"), "");

    let (exporter, _kept) = exporter(
        &(quit.clone() + &federate + &of_honest),
        &["--target-allow-cidr", "::1/128", "--target-allow-host", "*.svc"],
    )
    .await;
    for attack in ["tenant/quit", "tenant/federate"] {
        let said = until_refused(&exporter, attack).await;
        assert!(said.contains("--target-allow-cidr") && !said.contains("itself"), "{attack}: {said}");
    }
    polls(&honest, "::1", 3).await;
    assert_eq!(prometheus.get("/-/ready").await.unwrap().0, 200);
    until_up(&exporter, "honest/rooms").await;
    drop(exporter);

    // Without the setting both succeed: it is the setting that holds.
    let (exporter, _kept) = self::exporter(&federate, &[]).await;
    exporter
        .until("/probe?target=tenant/federate", |_, body| {
            body.contains("probe_call_http_status_code{call=\"metrics\"} 200").then_some(())
        })
        .await;
    drop(exporter);
    let (_exporter, _kept) = self::exporter(&quit, &[]).await;
    assert!(prometheus.ended().success(), "/-/quit ends Prometheus");
}

#[test]
fn a_flag_about_destinations_that_is_wrong_is_refused_in_one_line_with_what_to_write() {
    for command in
        [&["run", "--targets", "none.yaml"][..], &["probe", "--type", "Sora", "--url", "http://127.0.0.1:9/"]]
    {
        for (flag, value, advice) in [
            ("--target-allow-host", "http://sora/", "*.{namespace}.svc"),
            ("--target-allow-host", "*", "*.{namespace}.svc"),
            ("--target-allow-host", "sora..svc", "*.{namespace}.svc"),
            ("--target-allow-host", "*.{namespace}", "last label"),
            ("--target-allow-host", "10.0.0.1", "--target-allow-cidr"),
            ("--target-allow-cidr", "internal", "for instance 10.0.0.0/8"),
            ("--target-deny-cidr", "10.0.0.0/99", "for instance 10.0.0.0/8"),
        ] {
            let said = run([command, &[flag, value]].concat());
            assert_eq!(said.code, Some(2), "{flag} {value}: {}", said.stderr);
            assert!(
                said.stderr.contains(advice) && said.stderr.lines().count() == 1,
                "{flag} {value}: {}",
                said.stderr
            );
        }
    }
}
