//! Which replica leads, whatever happens to the others and to the API server.

mod replicas;
mod slice;

use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::json;

use crate::support::cluster::Cluster;
use crate::support::load::allowed;
use replicas::{PATIENCE, RULES, Replica, Stage, leaders, retried, until};

/// What a takeover may take that nobody has announced: the Lease, and what comes after it.
const TAKEOVER: Duration = Duration::from_secs(20);

/// Waits until one of them leads and the others say that they stand by: the leader's place.
async fn until_one_leads(replicas: &[Replica]) -> usize {
    let one = async || {
        let mut place = None;
        for (index, replica) in replicas.iter().enumerate() {
            let stands_by = replica.running.logged("message=\"standing by\"") > 0;
            match replica.leads().await? {
                true if place.is_some() => return None,
                true => place = Some(index),
                false if stands_by => {}
                false => return None,
            }
        }
        place
    };
    until("leader", one).await.0
}

/// How often a permission that it has was told to be missing.
fn denied(replica: &Replica) -> usize {
    ["resource=leases", "resource=scrapetargets ", "resource=endpoints"]
        .iter()
        .map(|words| replica.running.logged(words))
        .sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_leader_is_replaced_within_20_seconds_and_there_are_never_two() {
    let stage = Stage::new(Cluster::shared(), "killed");
    let mut replicas = Vec::new();
    for number in 1..=3 {
        replicas.push(stage.replica(number, &[]).await);
    }
    let mut dead = replicas.remove(until_one_leads(&replicas).await);
    stage.until_behind_service(&dead).await;
    dead.until_polled().await;
    for standby in &replicas {
        assert_eq!(standby.polls().await, 0.0, "{} polls in the background", standby.name);
    }

    let killed = Instant::now();
    dead.signal("KILL");
    dead.running.ended();
    let took_over = async || match leaders(&replicas).await.as_slice() {
        [] => None,
        [one] => replicas.iter().position(|replica| replica.name == *one),
        more => panic!("{more:?} lead"),
    };
    let (place, _) = until("new leader", took_over).await;
    stage.until_behind_service(&replicas[place]).await;
    let took = killed.elapsed();
    assert!(took <= allowed(TAKEOVER), "it took {took:?}");
    replicas[place].until_polled().await;
    assert_eq!(leaders(&replicas).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_told_to_stop_hands_over_at_once_and_serves_on() {
    /// Time enough for a busy machine to see that it serves on.
    const DELAY: Duration = Duration::from_secs(15);
    let stage = Stage::new(Cluster::shared(), "drained");
    let delay = ["--shutdown-delay", "15s"];
    let mut replicas = vec![stage.replica(1, &delay).await, stage.replica(2, &delay).await];
    let mut old = replicas.remove(until_one_leads(&replicas).await);
    stage.until_behind_service(&old).await;
    let new = &replicas[0];

    let told = Instant::now();
    let since = Timestamp::now();
    old.signal("TERM");
    new.until_leads(true).await;
    stage.until_behind_service(new).await;
    let took = told.elapsed();
    assert!(took <= allowed(Duration::from_secs(2)), "it took {took:?}");
    let path = format!("/probe?target={}/away", stage.namespace);
    assert_eq!(old.running.get(&path).await.map(|(status, _)| status), Some(200));
    old.until_leads(false).await;
    assert_eq!(old.running.ended().code(), Some(0), "{}", old.running.log());
    assert!(told.elapsed() >= DELAY, "it served for {:?}", told.elapsed());
    let written = stage.written(&old, since);
    assert!(written.iter().all(|line| line.resource == "leases"), "{written:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_that_stop_together_leave_the_lease_free() {
    let stage = Stage::new(Cluster::shared(), "together");
    let at_once = ["--shutdown-delay", "0s"];
    let mut replicas = vec![stage.replica(1, &at_once).await, stage.replica(2, &at_once).await];
    until_one_leads(&replicas).await;
    for replica in &replicas {
        replica.signal("TERM");
    }
    for replica in &mut replicas {
        assert_eq!(replica.running.ended().code(), Some(0), "{}", replica.running.log());
    }
    let lease = Api::<Lease>::namespaced(stage.cluster.client(), &stage.namespace).get("st").await.unwrap();
    assert_eq!(lease.spec.unwrap().holder_identity, None);
    let next = stage.replica(3, &[]).await;
    next.until_leads(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_was_paused_is_replaced_and_writes_nothing_when_it_wakes() {
    let stage = Stage::new(Cluster::shared(), "paused");
    let mut replicas = vec![stage.replica(1, &[]).await, stage.replica(2, &[]).await];
    let old = replicas.remove(until_one_leads(&replicas).await);
    stage.until_behind_service(&old).await;
    let new = &replicas[0];

    let paused = Instant::now();
    old.signal("STOP");
    new.until_leads(true).await;
    stage.until_behind_service(new).await;
    let took = paused.elapsed();
    assert!(took <= allowed(TAKEOVER), "it took {took:?}");

    let woken = Timestamp::now();
    old.signal("CONT");
    // A temptation.
    stage.endpoints().delete("st-probe", &DeleteParams::default()).await.unwrap();
    old.until_leads(false).await;
    stage.until_behind_service(new).await;
    let polls = old.polls().await;
    // It has heard of the other, so it is not silent for want of news; the renewals of the other are a time in which it could write.
    until("two renewals by the other", async || {
        let asked = stage.asked(new, woken);
        (asked.iter().filter(|line| line.resource == "leases" && line.verb == "patch").count() >= 2).then_some(())
    })
    .await;
    assert!(stage.written(&old, woken).is_empty(), "{:?}", stage.written(&old, woken));
    assert_eq!(old.polls().await, polls, "a standby polls in the background");
    assert_eq!(leaders([&old, new]).await, [new.name.as_str()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_stays_the_leader_while_the_api_server_is_away() {
    let cluster = Cluster::private();
    let stage = Stage::new(&cluster, "away");
    let short = ["--leader-election.lease-duration", "5s"];
    let mut replicas = vec![stage.replica(1, &short).await, stage.replica(2, &short).await];
    let leader = replicas.remove(until_one_leads(&replicas).await);
    let standby = &replicas[0];
    stage.until_behind_service(&leader).await;
    let logged = |words: &str| [&leader, standby].map(|replica| replica.running.logged(words));
    let holds_on = async |seconds, times| {
        let away = Instant::now();
        // Longer than the Lease is good, and until both say that they have noticed.
        while away.elapsed() < Duration::from_secs(seconds) || logged("the API server cannot be watched") != [times; 2]
        {
            assert!(away.elapsed() < PATIENCE, "it is not told:\n{}", standby.running.log());
            leader.until_polled().await;
            assert_eq!(leader.leads().await, Some(true));
            assert_eq!(standby.leads().await, Some(false));
        }
        assert_eq!(standby.polls().await, 0.0);
    };
    let leads_again = async |times| {
        stage.endpoints().delete("st-probe", &DeleteParams::default()).await.unwrap();
        stage.until_behind_service(&leader).await;
        let both = async || (logged("the API server is back") == [times; 2]).then_some(());
        until("word that the API server is back", both).await;
        assert_eq!(leaders([&leader, standby]).await, [leader.name.as_str()]);
    };

    cluster.stop();
    holds_on(25, 1).await;
    cluster.cont();
    leads_again(1).await;

    cluster.kill();
    holds_on(10, 2).await;
    cluster.restart();
    leads_again(2).await;

    for replica in [&leader, standby] {
        let told = replica.running.logged("the API server cannot be watched");
        assert_eq!(told, 2, "once for each time:\n{}", replica.running.log());
        let back = replica.running.logged("the API server is back");
        assert_eq!(back, 2, "once for each time:\n{}", replica.running.log());
        assert_eq!(denied(replica), 0, "it had just started:\n{}", replica.running.log());
        let lines = replica.running.log().lines().count();
        assert!(lines < 40, "a calm log:\n{}", replica.running.log());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_clock_is_an_hour_off_is_not_replaced_while_it_renews_and_is_soon_after() {
    let stage = Stage::new(Cluster::shared(), "clocks");
    let replica = stage.replica(1, &[]).await;
    replica.until_leads(true).await;
    for clock in [-SignedDuration::from_hours(1), SignedDuration::from_hours(1)] {
        stage.hold_lease(Some("other"), clock, 15).await;
        replica.until_leads(false).await;
        let begun = Instant::now();
        // Longer than the Lease is good.
        while begun.elapsed() < Duration::from_secs(20) {
            stage.hold_lease(Some("other"), clock, 15).await;
            assert_eq!(
                replica.leads().await,
                Some(false),
                "it took a Lease that is renewed\n{}",
                replica.running.log()
            );
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        let gone = Instant::now();
        replica.until_leads(true).await;
        let took = gone.elapsed();
        assert!(took <= Duration::from_secs(20), "it took {took:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_restarted_while_the_api_server_is_away_leads_only_once_it_knows_its_targets() {
    let cluster = Cluster::private();
    let stage = Stage::new(&cluster, "restarted");
    let mut replicas = vec![stage.replica(1, &[]).await, stage.replica(2, &[]).await];
    let place = until_one_leads(&replicas).await;
    stage.until_behind_service(&replicas[place]).await;
    let mut old = replicas.remove(place);
    let standby = &replicas[0];

    let kubeconfig = cluster.kubeconfig_of(&stage.namespace, &old.name);
    cluster.kill();
    old.signal("KILL");
    old.running.ended();
    let again = stage.starting(old.number, &kubeconfig, &[]);
    // By then a pause that grows would be a long one.
    let away = Instant::now();
    until("word of the outage", async || {
        let told = again.running.logged("the API server cannot be watched") > 0;
        (told && away.elapsed() > Duration::from_secs(20)).then_some(())
    })
    .await;
    assert_eq!(again.running.logged("no target is known yet"), 1, "{}", again.running.log());
    assert_eq!(again.running.logged("still polled"), 0, "{}", again.running.log());

    cluster.restart();
    let back = Instant::now();
    let mut led = None;
    // The leads may change once more, so both are watched until the restarted one has settled.
    while led.is_none() || back.elapsed() < Duration::from_secs(10) {
        for replica in [&again, standby] {
            // In this order: who knows its targets does not forget them.
            if replica.leads().await == Some(true) {
                let (status, _) = replica.running.get("/-/ready").await.unwrap();
                assert_eq!(status, 200, "{} leads and knows no targets\n{}", replica.name, replica.running.log());
                led.get_or_insert_with(|| back.elapsed());
            }
        }
        assert!(back.elapsed() < PATIENCE, "nobody leads\n{}\n{}", again.running.log(), standby.running.log());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(led.unwrap() < allowed(Duration::from_secs(10)), "a leader after {led:?}");
    until("the targets of the restarted one", async || {
        let (status, _) = again.running.get("/-/ready").await?;
        (status == 200).then_some(())
    })
    .await;
    assert_eq!(again.running.logged("the API server is back"), 1, "{}", again.running.log());
    assert_eq!(denied(&again), 0, "{}", again.running.log());
    assert_eq!(leaders([&again, standby]).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_who_cannot_learn_its_targets_leaves_the_lead_to_one_who_knows_them() {
    let stage = Stage::new(Cluster::shared(), "ignorant");
    let mut replicas = vec![stage.replica(1, &[]).await, stage.replica(2, &[]).await];
    let mut old = replicas.remove(until_one_leads(&replicas).await);
    let standby = &replicas[0];
    stage.cluster.grant(&stage.namespace, "st", &stage.namespace, RULES);
    let kubeconfig = stage.cluster.kubeconfig_of(&stage.namespace, &old.name);
    old.signal("KILL");
    old.running.ended();
    let killed = Instant::now();
    let again = stage.starting(old.number, &kubeconfig, &[]);
    standby.until_leads(true).await;
    stage.until_behind_service(standby).await;
    // Long before the Lease would have ended: it was given back.
    let took = killed.elapsed();
    assert!(took < Duration::from_secs(10), "it took {took:?}");
    assert_eq!(again.leads().await, Some(false));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_do_to_the_lease_and_the_endpoints_is_put_right_and_nothing_else_is_written() {
    let stage = Stage::new(Cluster::shared(), "repaired");
    let leader = stage.replica(1, &[]).await;
    leader.until_leads(true).await;
    stage.until_behind_service(&leader).await;
    let labels = stage.endpoints().get("st-probe").await.unwrap().metadata.labels.unwrap();
    let expected = [
        ("app.kubernetes.io/managed-by", "scrapetarget-exporter"),
        ("scrapetarget.dev/probe", "st"),
        ("scrapetarget.dev/release", "st"),
        ("scrapetarget.dev/release-namespace", stage.namespace.as_str()),
        ("endpointslice.kubernetes.io/skip-mirror", "true"),
    ];
    assert_eq!(labels, expected.map(|(key, value)| (key.to_owned(), value.to_owned())).into());

    let edits = [
        json!({ "subsets": [{ "addresses": [{ "ip": "10.1.1.1" }], "ports": [{ "name": "http", "port": 1 }] }] }),
        json!({ "subsets": null }),
        json!({ "metadata": { "labels": { "scrapetarget.dev/probe": null } } }),
    ];
    for edit in edits {
        stage.endpoints().patch("st-probe", &PatchParams::default(), &Patch::Merge(&edit)).await.unwrap();
        until("the Endpoints as they were", async || {
            let endpoints = stage.endpoints().get("st-probe").await.ok()?;
            (endpoints.metadata.labels? == labels).then_some(())
        })
        .await;
        stage.until_behind_service(&leader).await;
    }

    let leases = Api::<Lease>::namespaced(stage.cluster.client(), &stage.namespace);
    leases.delete("st", &DeleteParams::default()).await.unwrap();
    until("the Lease as it was", async || {
        let spec = leases.get_opt("st").await.ok()??.spec?;
        (spec.holder_identity? == leader.name).then_some(())
    })
    .await;
    assert_eq!(leader.leads().await, Some(true));
    stage.until_behind_service(&leader).await;

    let calm = Timestamp::now();
    let renewed = async |times: usize| {
        until("renewals", async || {
            let written = stage.written(&leader, calm);
            (written.iter().filter(|line| line.resource == "leases").count() >= times).then_some(())
        })
        .await
    };
    let ((), took) = renewed(4).await;
    let written = stage.written(&leader, calm);
    assert!(written.iter().all(|line| line.resource == "leases"), "{written:?}");
    let asked = stage.asked(&leader, calm).len();
    assert!(u64::try_from(asked).unwrap() <= took.as_secs(), "{asked} requests in {took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_rights_a_replica_polls_writes_nothing_and_leads_once_it_may() {
    let stage = Stage::new(Cluster::shared(), "denied");
    stage.allow("");
    let mut replica = stage.replica(1, &[]).await;
    replica.until_leads(true).await;
    replica.until_polled().await;
    let rule = r#"{apiGroups: [\"coordination.k8s.io\"], resources: [\"leases\"], verbs: [\"list\"]}"#;
    replica.running.wait("the missing rule", |running| running.log().contains(rule).then_some(()));
    assert_eq!(replica.running.logged("polling without leader election"), 1);
    stage.allow(RULES);
    stage.until_behind_service(&replica).await;
    assert_eq!(replica.running.logged("resource=leases"), 2, "denied once, granted once:\n{}", replica.running.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_who_may_look_at_the_lease_but_not_take_it_polls_unless_another_leads() {
    let stage = Stage::new(Cluster::shared(), "reader");
    stage.allow("  - { apiGroups: [coordination.k8s.io], resources: [leases], verbs: [get, list, watch] }");
    let mut reader = stage.replica(1, &[]).await;
    reader.until_leads(true).await;
    let rule = r#"resources: [\"leases\"], verbs: [\"create\"]}"#;
    reader.running.wait("the missing rule", |running| running.log().contains(rule).then_some(()));

    let spec = json!({ "holderIdentity": "other", "leaseDurationSeconds": 60, "renewTime": format!("{:.6}", Timestamp::now()) });
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": { "name": "st" }, "spec": spec
    });
    let leases = Api::<Lease>::namespaced(stage.cluster.client(), &stage.namespace);
    leases.patch("st", &PatchParams::apply("tests"), &Patch::Apply(lease)).await.unwrap();
    reader.until_leads(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_the_api_server_refuses_is_told_once() {
    let stage = Stage::new(Cluster::shared(), "loopback");
    let mut replica = stage.replica(1, &["--advertise-address", "127.0.0.1"]).await;
    replica.until_leads(true).await;
    replica
        .running
        .wait("the reason", |running| running.log().contains("the API server rejects the Endpoints").then_some(()));
    replica.until_polled().await;
    assert_eq!(replica.running.logged("the API server rejects the Endpoints"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn however_often_the_lead_has_changed_deleted_endpoints_are_back_soon_and_nobody_is_suspected() {
    let stage = Stage::new(Cluster::shared(), "often");
    let replica = stage.replica(1, &[]).await;
    for _ in 0..6 {
        replica.until_leads(true).await;
        stage.until_behind_service(&replica).await;
        stage.give_lease_to(Some("other")).await;
        replica.until_leads(false).await;
        let others =
            json!({ "subsets": [{ "addresses": [{ "ip": "10.1.1.1" }], "ports": [{ "name": "http", "port": 1 }] }] });
        retried(async || stage.endpoints().patch("st-probe", &PatchParams::default(), &Patch::Merge(&others)).await)
            .await;
        stage.give_lease_to(None).await;
    }
    replica.until_leads(true).await;
    stage.until_behind_service(&replica).await;
    stage.endpoints().delete("st-probe", &DeleteParams::default()).await.unwrap();
    let deleted = Instant::now();
    stage.until_behind_service(&replica).await;
    let took = deleted.elapsed();
    // The pause after one write is a second; after six it would be 30.
    assert!(took < Duration::from_secs(8), "it took {took:?}");
    assert_eq!(replica.running.logged("another client also writes the Endpoints"), 0, "{}", replica.running.log());
}
