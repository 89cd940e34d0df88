//! The Prometheus Operator and a real Prometheus judge what we write for them: it becomes scrapes, with the labels of the contract.

#[path = "operator/own.rs"]
mod own;
#[path = "operator/release.rs"]
mod release;
#[path = "operator/server.rs"]
mod server;
#[path = "operator/stage.rs"]
mod stage;
#[path = "operator/tenants.rs"]
mod tenants;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::{Value, json};

use release::{Release, SERVICE};
use server::{Labels, Pool, Server, until};
use stage::Stage;
pub(crate) use stage::own_address;

use crate::support::load::allowed;
use crate::support::program::{Running, signal};

/// Labels that a target declares itself.
type Own = &'static [(&'static str, &'static str)];

/// A target of each type, with the labels that it declares. The values are hard for those who expand variables.
const TARGETS: [(&str, &str, Own); 3] = [
    ("sora-tokyo", "Sora", &[("region", "tokyo"), ("price", "$5 or ${5}")]),
    ("orion-city", "Orion", &[("region", "osaka")]),
    ("rooms", "Mediasoup", &[]),
];

/// Applies them all, each with this interval between two scrapes.
fn apply_targets(release: &Release, interval: &str) {
    for (name, kind, labels) in TARGETS {
        let labels: BTreeMap<_, _> = labels.iter().copied().collect();
        release.apply(name, kind, &format!("labels: {}, monitor: {{ interval: {interval} }}", json!(labels)));
    }
}

/// The labels of a target's series, but for those that its own families have.
fn expected(release: &Release, name: &str, own: &[(&str, &str)]) -> Labels {
    let instance = release.instance(name);
    let labels = [
        ("job", SERVICE),
        ("instance", &instance),
        ("namespace", &release.team),
        ("target_namespace", &release.team),
        ("target_name", name),
    ];
    labels.iter().chain(own).map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn all_expected(release: &Release) -> BTreeSet<Labels> {
    TARGETS.iter().map(|(name, _, own)| expected(release, name, own)).collect()
}

/// Waits until the series of `query` are these, each once and each with the value 1.
async fn until_one(server: &Server, release: &Release, query: &str, wanted: &BTreeSet<Labels>) {
    until(query, async || {
        let series = server.query(query).await;
        let found: BTreeSet<Labels> = series.iter().map(|(labels, _)| without_name(labels)).collect();
        let fine = found == *wanted && series.len() == wanted.len() && series.iter().all(|(_, value)| *value == 1.0);
        let state = || format!("{series:#?} instead of {wanted:#?}\n{}{}", server.log(), release.log());
        if fine { Ok(()) } else { Err(state()) }
    })
    .await;
}

fn without_name(labels: &Labels) -> Labels {
    labels.iter().filter(|(name, _)| *name != "__name__").map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// Waits until Prometheus scrapes by exactly these ServiceMonitors of a namespace, by each one target that is up.
async fn until_scraped(server: &Server, release: &Release, namespace: &str, monitors: &[&str]) {
    let pool = || Pool { active: vec!["up".to_owned()], dropped: 0 };
    let wanted = monitors.iter().map(|monitor| (format!("serviceMonitor/{namespace}/{monitor}/0"), pool())).collect();
    until("the jobs", async || {
        let pools = server.pools().await;
        let state = || format!("{pools:#?} instead of {wanted:#?}\n{}{}", server.log(), release.log());
        if pools == wanted { Ok(()) } else { Err(state()) }
    })
    .await;
}

/// Waits until a condition of a target has this status and this reason.
async fn until_condition(release: &Release, name: &str, condition: &str, wanted: (&str, &str)) {
    let wanted = Some((wanted.0.to_owned(), wanted.1.to_owned()));
    until(condition, async || {
        let found = release.condition(name, condition).await;
        if found == wanted { Ok(()) } else { Err(format!("{found:?} of {name}\n{}", release.log())) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_replicas_are_scraped_as_one_with_the_labels_of_the_contract() {
    let stage = Stage::enter();
    let release = Release::start(&stage, 3, &[]).await;
    let by_default = Server::start(&stage, &[&release.team], json!({})).await;
    let role = json!({ "serviceDiscoveryRole": "EndpointSlice" });
    let by_slices = Server::start(&stage, &[&release.team], role).await;
    apply_targets(&release, "1s");
    release.apply("unseen", "Sora", "monitor: { labels: { prometheus: another } }");
    for (server, role) in [(&by_default, "endpoints"), (&by_slices, "endpointslice")] {
        // With nothing summed up, a series that exists twice would be seen twice.
        until_one(server, &release, "up", &all_expected(&release)).await;
        until_one(server, &release, "probe_success", &all_expected(&release)).await;
        until_scraped(server, &release, &release.team, &TARGETS.map(|(name, ..)| name)).await;
        judge_series(&release, &server.query(r#"{job!=""}"#).await);
        assert_eq!(server.roles().await, [role.to_owned()].into());
        server.check_config();
    }
    for (name, ..) in TARGETS {
        until_condition(&release, name, "Scraped", ("True", "Scraped")).await;
    }
    until_condition(&release, "unseen", "Scraped", ("False", "NeverScraped")).await;
    assert!(!release.log().contains("not permitted"), "{}", release.log());
}

/// Fails unless every series has the labels of its target, and none of those that discovery gives and the contract drops.
fn judge_series(release: &Release, series: &[(Labels, f64)]) {
    let targets = all_expected(release);
    let mut services = BTreeSet::new();
    for (labels, _) in series {
        let target = targets.iter().find(|target| target["instance"] == labels["instance"]).unwrap();
        for (name, value) in target {
            assert_eq!(labels.get(name), Some(value), "{name} of {labels:?}");
        }
        for name in labels.keys() {
            assert!(!matches!(name.as_str(), "pod" | "container" | "endpoint" | "node"), "{labels:?}");
            assert!(!name.starts_with("exported_"), "discovery displaces a label of ours: {labels:?}");
        }
        if let Some(service) = labels.get("service") {
            assert_eq!(labels["target_name"], "orion-city", "{labels:?}");
            services.insert(service.as_str());
        }
    }
    assert!(!services.is_empty() && !services.contains(SERVICE), "Orion's own label: {services:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn prometheus_follows_what_is_declared() {
    let stage = Stage::enter();
    let release = Release::start(&stage, 1, &[]).await;
    let server = Server::start(&stage, &[&release.team], json!({})).await;
    apply_targets(&release, "1s");
    until_one(&server, &release, "up", &all_expected(&release)).await;

    release.apply("sora-tokyo", "Sora", "labels: { region: kyoto }");
    release.apply("orion-city", "Orion", "suspend: true");
    release.delete("rooms").await;
    until_scraped(&server, &release, &release.team, &["sora-tokyo"]).await;
    let moved = [expected(&release, "sora-tokyo", &[("region", "kyoto")])].into();
    until_one(&server, &release, r#"up{target_name="sora-tokyo"}"#, &moved).await;

    release.apply("orion-city", "Orion", "labels: { region: kobe }");
    until_scraped(&server, &release, &release.team, &["orion-city", "sora-tokyo"]).await;
    let resumed = [expected(&release, "orion-city", &[("region", "kobe")])].into();
    until_one(&server, &release, r#"up{region="kobe"}"#, &resumed).await;

    // What dashboards that were made for another exporter select by, in the same words as /sd.
    release.apply("orion-city", "Orion", "monitor: { job: 'brokers $5', instance: Url, honorLabels: true }");
    let mut named = expected(&release, "orion-city", &[]);
    named.insert("job".to_owned(), "brokers $5".to_owned());
    named.insert("instance".to_owned(), release.url("Orion"));
    until_one(&server, &release, r#"up{job="brokers $5"}"#, &[named.clone()].into()).await;
    let sd: Value = serde_json::from_str(&release.replicas[0].body("/sd?honorLabels=true").await).unwrap();
    for (name, value) in &named {
        assert_eq!(sd[0]["labels"][name], *value, "{name}: {sd}");
    }
    server.check_config();
}

#[tokio::test(flavor = "multi_thread")]
async fn monitors_in_our_namespace_serve_a_prometheus_that_ignores_namespace_selectors() {
    let stage = Stage::enter();
    let release = Release::start(&stage, 1, &["--discovery.monitor-namespace", "release"]).await;
    let ignoring = json!({ "ignoreNamespaceSelectors": true });
    let server = Server::start(&stage, &[&release.namespace], ignoring).await;
    apply_targets(&release, "1s");
    until_one(&server, &release, "up", &all_expected(&release)).await;
    server.check_config();
    assert!(!release.log().contains("not permitted"), "{}", release.log());
    release.delete("rooms").await;
    until("the jobs", async || {
        let pools = server.pools().await;
        if pools.len() == TARGETS.len() - 1 { Ok(()) } else { Err(format!("{pools:#?}\n{}", release.log())) }
    })
    .await;
}

/// Every setting of the installation, as flags.
const DEFAULTS: [&str; 9] = [
    r#"--discovery.relabelings=[{"targetLabel": "cluster", "replacement": "$5 tokyo"}]"#,
    r#"--discovery.metric-relabelings=[{"action": "drop", "sourceLabels": ["__name__"], "regex": "probe_duration_seconds"}]"#,
    "--discovery.honor-labels=never",
    "--discovery.proxy-url=http://proxy.invalid:3128",
    "--discovery.target-limit=2",
    "--discovery.label-limit=30",
    "--discovery.label-name-length-limit=64",
    "--discovery.label-value-length-limit=512",
    "--discovery.body-size-limit=16MB",
];

/// The job of a target in the configuration that Prometheus runs.
async fn job_of(server: &Server, release: &Release, name: &str) -> Value {
    let wanted = format!("serviceMonitor/{}/{name}/0", release.team);
    until("the job", async || {
        let config = server.config();
        let jobs = config["scrape_configs"].as_array().into_iter().flatten();
        let job = jobs.into_iter().find(|job| job["job_name"] == *wanted);
        job.cloned().ok_or_else(|| format!("no {wanted}\n{}{}", server.log(), release.log()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operator_takes_every_setting_of_the_installation_and_a_target_narrows_it_and_never_widens_it() {
    let stage = Stage::enter();
    let release = Release::start(&stage, 1, &DEFAULTS).await;
    let server = Server::start(&stage, &[&release.team], json!({})).await;
    release.apply("plain", "Sora", "");
    release.apply("narrow", "Sora", "monitor: { labelLimit: 29, labelNameLengthLimit: 32, bodySizeLimit: 512KB }");
    let wide = "honorLabels: true, labelLimit: 31, labelValueLengthLimit: 1000000, bodySizeLimit: 1GB";
    let undoing = "relabelings: [{ targetLabel: cluster, replacement: osaka }]";
    release.apply("wide", "Sora", &format!("monitor: {{ {wide}, {undoing} }}"));
    for (name, labels, names, size) in
        [("plain", 30, 64, "16MiB"), ("narrow", 29, 32, "512KiB"), ("wide", 30, 64, "16MiB")]
    {
        let job = job_of(&server, &release, name).await;
        for (field, value) in [
            ("honor_labels", json!(false)),
            ("proxy_url", json!("http://proxy.invalid:3128")),
            ("target_limit", json!(2)),
            ("label_limit", json!(labels)),
            ("label_name_length_limit", json!(names)),
            ("label_value_length_limit", json!(512)),
            ("body_size_limit", json!(size)),
        ] {
            assert_eq!(job[field], value, "{field} of {name}: {job:#}");
        }
        assert_eq!(job["metric_relabel_configs"][0]["regex"], "probe_duration_seconds", "{job:#}");
        let steps = job["relabel_configs"].as_array().unwrap();
        let last = steps.iter().rfind(|step| step["target_label"] == "cluster");
        assert_eq!(last.unwrap()["replacement"], "$5 tokyo", "{job:#}");
        until_condition(&release, name, "MonitorReady", ("True", "Written")).await;
    }
    server.check_config();
}

/// The tightest limits that are accepted, and what counts for series.
#[tokio::test(flavor = "multi_thread")]
async fn a_limit_of_the_installation_is_kept_by_prometheus_whatever_a_target_declares() {
    let stage = Stage::enter();
    let further = [
        "--discovery.label-name-length-limit=16",
        "--discovery.label-limit=30",
        DEFAULTS[1],
        r#"--discovery.relabelings=[{"targetLabel": "cluster", "replacement": "tokyo"}]"#,
    ];
    let release = Release::start(&stage, 1, &further).await;
    let server = Server::start(&stage, &[&release.team], json!({})).await;
    release.apply("short", "Sora", "");
    let label = "longer_than_sixteen";
    release.apply("long", "Sora", &format!("labels: {{ {label}: a }}, monitor: {{ labelNameLengthLimit: 64 }}"));
    let short = expected(&release, "short", &[("cluster", "tokyo")]);
    let long = expected(&release, "long", &[("cluster", "tokyo"), (label, "a")]);
    until_one(&server, &release, "up == 1", &[short].into()).await;
    until_one(&server, &release, "1 + (up == 0)", &[long].into()).await;
    assert!(server.query("probe_duration_seconds").await.is_empty(), "dropped for all");
}

/// Lets the leader of two replicas go, as `leave` does it, and returns the longest time without a good sample of any target. Prometheus
/// scrapes every 2 s.
async fn gap_when_the_leader(leave: impl FnOnce(Running)) -> Duration {
    let stage = Stage::enter();
    let mut release = Release::start(&stage, 2, &[]).await;
    let server = Server::start(&stage, &[&release.team], json!({})).await;
    apply_targets(&release, "2s");
    until_one(&server, &release, "probe_success", &all_expected(&release)).await;
    leave(release.take_leader().await);
    let next = &release.replicas[0].base;
    until("scrapes of the next leader", async || {
        let last = server.last_scrapes().await;
        let fine =
            last.len() == TARGETS.len() && last.iter().all(|(url, health)| url.starts_with(next) && health == "up");
        if fine { Ok(()) } else { Err(format!("{last:#?}\n{}", release.log())) }
    })
    .await;
    let gaps = server.gaps("probe_success").await;
    assert_eq!(gaps.len(), TARGETS.len(), "one series for each target");
    gaps.into_iter().max().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_told_to_stop_costs_at_most_one_scrape() {
    let gap = gap_when_the_leader(|mut leader| {
        signal(leader.id(), "TERM");
        assert!(leader.ended().success(), "{}", leader.log());
    })
    .await;
    // Two intervals, and the next replica is scraped at another point of the interval.
    assert!(gap < allowed(Duration::from_secs(6)), "{gap:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_leader_leaves_no_gap_over_30_s() {
    let gap = gap_when_the_leader(drop).await;
    assert!(gap < allowed(Duration::from_secs(30)), "{gap:?}");
}
