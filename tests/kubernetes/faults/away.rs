//! An API server that hangs, dies, forgets.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use kube::api::{DeleteParams, ListParams};
use serde_json::json;

use crate::exporter::{PATIENCE, Release, Replica, create, server, target, targets, told, until};
use crate::support::cluster::{AuditLine, Cluster};
use crate::support::load::allowed;
use crate::support::program::signal;

const NO_MONITORS: [&str; 2] = ["--discovery.mode", "none"];

/// When a target was last polled with success, though nobody asks for it.
async fn last_success(replica: &Replica, name: &str) -> f64 {
    let labels = format!(r#"target_namespace="default",target_name="{name}",type="Mediasoup""#);
    replica.metric(&format!("scrapetarget_last_success_timestamp_seconds{{{labels}}}")).await
}

/// Waits until a target is polled once more in the background.
async fn until_polled_again(replica: &Replica, name: &str) {
    let before = last_success(replica, name).await;
    until(PATIENCE, async || {
        let now = last_success(replica, name).await;
        (now > before).then_some(()).ok_or_else(|| format!("{name} is not polled: {now}\n{}", replica.log()))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_api_server_hangs_polls_and_answers_go_on_and_what_comes_afterwards_is_noticed_at_once() {
    let (cluster, server) = (Cluster::private(), server().await);
    cluster.install_crd();
    cluster.apply(&target("default", "a", &server.url(), ""));
    let release = Release::install(&cluster, &[], &NO_MONITORS);
    let replica = release.ready().await;
    until_polled_again(&replica, "a").await;

    cluster.stop();
    let stopped = Instant::now();
    let late = release.replica();
    // Longer than the Lease lasts, and than any call may take.
    while stopped.elapsed() < Duration::from_secs(25) {
        until_polled_again(&replica, "a").await;
        let asked = Instant::now();
        let series = replica.probe("default/a").await.unwrap();
        assert!(asked.elapsed() < allowed(Duration::from_secs(1)), "it took {:?}", asked.elapsed());
        // A poll that a busy machine was too slow for is one all the same; that some succeed is waited for above.
        assert!(series.contains_key("probe_success"), "{series:?}");
        for path in ["/-/ready", "/-/healthy", "/sd"] {
            assert_eq!(replica.get(path).await.unwrap().0, 200, "{path}");
        }
    }
    // One that knows nothing says so, and no more.
    for (path, wanted) in [("/-/healthy", 200), ("/-/ready", 503), ("/sd", 503), ("/probe?target=default/a", 503)] {
        assert_eq!(late.get(path).await.unwrap().0, wanted, "{path}");
    }

    cluster.cont();
    cluster.apply(&target("default", "b", &server.url(), ""));
    let applied = Instant::now();
    replica.until_up("default/b").await;
    assert!(applied.elapsed() < allowed(Duration::from_secs(5)), "it took {:?}", applied.elapsed());
    late.until_up("default/b").await;
    targets(&cluster, "default").delete("a", &DeleteParams::default()).await.unwrap();
    let deleted = Instant::now();
    replica.until_gone("default/a").await;
    assert!(deleted.elapsed() < allowed(Duration::from_secs(5)), "it took {:?}", deleted.elapsed());
    let api = targets(&cluster, "default");
    until(PATIENCE, async || {
        let told = told(&api.get("b").await.unwrap());
        let up = told.get("Up").is_some_and(|(verdict, _)| verdict == "True/Succeeded");
        up.then_some(()).ok_or_else(|| format!("{told:?}\n{}\n{}", replica.log(), late.log()))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_that_was_killed_is_asked_little_when_it_is_back() {
    const MANY: usize = 300;
    let (cluster, server) = (Cluster::private(), server().await);
    cluster.install_crd();
    // Nobody listens there, which is told at once; the monitor's interval is how soon it is told that no scrape comes.
    let one = |index| {
        json!({
            "apiVersion": "scrapetarget.dev/v1alpha1", "kind": "ScrapeTarget",
            "metadata": { "name": format!("t{index}") },
            "spec": {
                "type": "Sora", "url": "http://127.0.0.1:1/", "interval": "10s",
                "monitor": { "interval": "1s", "scrapeTimeout": "1s" },
            },
        })
    };
    create(&cluster, "default", (0..MANY).map(one)).await;
    cluster.apply(&target("default", "up", &server.url(), ""));
    let release = Release::install(&cluster, &[], &NO_MONITORS);
    let replica = release.ready().await;
    // All that there is to say is said: that they are up, and that nobody scrapes them.
    let api = targets(&cluster, "default");
    until(PATIENCE, async || {
        let list = api.list(&ListParams::default()).await.unwrap().items;
        let done = list.iter().map(told).filter(|told| {
            let says = |kind, wanted| told.get(kind).is_some_and(|(verdict, _)| verdict == wanted);
            says("Up", "False/Connect") && says("Scraped", "False/NeverScraped")
        });
        let done = done.count();
        (done == MANY).then_some(()).ok_or_else(|| format!("{done} are told of\n{}", replica.log()))
    })
    .await;

    cluster.kill();
    let killed = Instant::now();
    let missed = || replica.logged("the API server cannot be watched");
    // The fourth try, eight seconds later at most, is the first that is worth a line.
    while killed.elapsed() < Duration::from_secs(10) || missed() == 0 {
        assert!(killed.elapsed() < PATIENCE, "it is not told:\n{}", replica.log());
        until_polled_again(&replica, "up").await;
        assert_eq!(replica.get("/-/ready").await.unwrap().0, 200);
    }
    assert_eq!(missed(), 1, "{}", replica.log());
    let since = Timestamp::now();
    cluster.restart();
    cluster.apply(&target("default", "new", &server.url(), ""));
    let applied = Instant::now();
    replica.until_up("default/new").await;
    // The longest pause between two tries.
    assert!(applied.elapsed() < allowed(Duration::from_secs(20)), "it took {:?}", applied.elapsed());
    until(PATIENCE, async || {
        let told = told(&api.get("new").await.unwrap());
        let up = told.get("Up").is_some_and(|(verdict, _)| verdict == "True/Succeeded");
        up.then_some(()).ok_or_else(|| format!("{told:?}\n{}", replica.log()))
    })
    .await;
    assert_eq!(replica.sd().await.unwrap().len(), MANY + 2);
    let mut asked = release.asked(&cluster);
    asked.retain(|line| line.at >= since);
    let written = asked.iter().filter(|line| line.subresource == "status" && line.name.starts_with('t')).count();
    assert_eq!(written, 0, "statuses that were told already are written again");
    let listed = |line: &&AuditLine| line.resource == "scrapetargets" && line.verb == "list";
    // What it refuses while it starts is asked for again.
    let lists = asked.iter().filter(listed).filter(|line| line.code == 200).count();
    // On a busy machine an answer may come later than it is waited for, and is asked for again.
    let more = usize::try_from(applied.elapsed().as_secs()).unwrap();
    assert!(lists <= 2 + more / 12, "{lists} lists in {more} s: {asked:#?}");
    assert!(asked.len() < 60 + more, "{} requests in {more} s: {asked:#?}", asked.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_happened_before_the_oldest_version_that_etcd_remembers_is_lost() {
    let (cluster, server) = (Cluster::private(), server().await);
    cluster.install_crd();
    for name in ["stays", "goes", "comes-again"] {
        cluster.apply(&target("default", name, &server.url(), ""));
    }
    let release = Release::install(&cluster, &[], &NO_MONITORS);
    let replica = release.ready().await;
    for name in ["stays", "goes", "comes-again"] {
        replica.until_up(&format!("default/{name}")).await;
    }
    // It loses its connection, and before it can make another everything happens; the server that it finds remembers none of it.
    signal(replica.id(), "STOP");
    cluster.restart();
    let api = targets(&cluster, "default");
    for name in ["goes", "comes-again"] {
        api.delete(name, &DeleteParams::default()).await.unwrap();
    }
    cluster.apply(&target("default", "comes-again", &server.url(), "labels: { second: 'yes' }"));
    cluster.apply(&target("default", "comes", &server.url(), ""));
    cluster.compact();
    cluster.restart();
    let since = Timestamp::now();
    signal(replica.id(), "CONT");
    for name in ["stays", "comes", "comes-again"] {
        replica.until_up(&format!("default/{name}")).await;
    }
    replica.until_gone("default/goes").await;
    let labels = replica.sd().await.unwrap();
    assert_eq!(labels.keys().collect::<Vec<_>>(), ["default/comes", "default/comes-again", "default/stays"]);
    assert_eq!(labels["default/comes-again"]["second"], "yes");
    until(PATIENCE, async || {
        let mut asked = release.asked(&cluster);
        asked.retain(|line| line.at >= since && line.resource == "scrapetargets" && line.subresource.is_empty());
        let verbs: Vec<(&str, u64)> = asked.iter().map(|line| (line.verb.as_str(), line.code)).collect();
        let listed = verbs.contains(&("list", 200));
        listed.then_some(()).ok_or_else(|| format!("the version that it had was good: {verbs:?}"))
    })
    .await;
    // And the watch that follows works.
    api.delete("comes", &DeleteParams::default()).await.unwrap();
    replica.until_gone("default/comes").await;
}
