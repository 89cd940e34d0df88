//! Thousands at once: half of them are changed or deleted while they are still new to the exporter.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use futures::StreamExt;
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use simulators::Noise;

use crate::exporter::{Release, Replica, create, targets, told};
use crate::support::cluster::Cluster;

const MANY: usize = 2_000;

/// How long nothing may come closer to what is wanted. All of it takes a minute where nothing else runs, for there are fifty statuses a
/// second and targets that are new together wait for each other; on a busy machine nobody knows.
const PATIENCE: Duration = Duration::from_secs(120);

/// What becomes of a target after it was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Kept,
    Changed,
    Suspended,
    Deleted,
    Replaced,
}

impl Fate {
    fn any(noise: &mut Noise) -> Self {
        match noise.below(10) {
            0..5 => Self::Kept,
            5..7 => Self::Changed,
            7 => Self::Suspended,
            8 => Self::Deleted,
            _ => Self::Replaced,
        }
    }

    fn mark(self) -> &'static str {
        if matches!(self, Self::Changed | Self::Replaced) { "second" } else { "first" }
    }

    /// `Accepted` and `Up`.
    fn told(self) -> &'static str {
        if self == Self::Suspended { "True/Accepted Unknown/Suspended" } else { "True/Accepted False/Connect" }
    }

    /// The state and the reason of `/api/v1/targets`.
    fn state(self) -> &'static str {
        if self == Self::Suspended { "suspended suspended" } else { "down connect" }
    }
}

fn manifest(name: &str, fate: Fate) -> Value {
    json!({
        "apiVersion": "scrapetarget.dev/v1alpha1",
        "kind": "ScrapeTarget",
        "metadata": { "name": name },
        "spec": {
            "type": "Orion",
            "url": "http://127.0.0.1:1/",
            // Polls of two thousand are work as well, and they are not what is looked at here.
            "interval": "1m",
            "suspend": fate == Fate::Suspended,
            "labels": { "mark": fate.mark() },
        },
    })
}

async fn meet(api: &Api<DynamicObject>, name: &str, fate: Fate) {
    if matches!(fate, Fate::Deleted | Fate::Replaced) {
        api.delete(name, &DeleteParams::default()).await.unwrap();
    }
    match fate {
        Fate::Kept | Fate::Deleted => {}
        Fate::Changed | Fate::Suspended => {
            let patch = Patch::Merge(manifest(name, fate));
            api.patch(name, &PatchParams::default(), &patch).await.unwrap();
        }
        Fate::Replaced => {
            let object = serde_json::from_value(manifest(name, fate)).unwrap();
            api.create(&PostParams::default(), &object).await.unwrap();
        }
    }
}

/// What a replica says of each target: the state, the reason, and what Prometheus will know. Nothing if it is too busy to say it.
async fn said(replica: &Replica) -> BTreeMap<String, String> {
    let Some((200, body)) = replica.get("/api/v1/targets").await else { return BTreeMap::new() };
    let answer: Value = serde_json::from_str(&body).unwrap();
    let marks = replica.sd().await.unwrap_or_default();
    let line = |target: &Value| {
        let text = |field: &str| target[field].as_str().unwrap_or("-").to_owned();
        let full = format!("{}/{}", text("namespace"), text("name"));
        let mark = marks.get(&full).map_or("-", |labels| labels["mark"].as_str());
        (text("name"), format!("{} {} {mark}", text("state"), text("reason")))
    };
    answer["data"]["targets"].as_array().unwrap().iter().map(line).collect()
}

/// What the cluster says of each target.
async fn written(api: &Api<DynamicObject>) -> BTreeMap<String, String> {
    let list = api.list(&ListParams::default()).await.unwrap();
    let line = |target: &DynamicObject| {
        let told = told(target);
        let verdict = |kind| told.get(kind).map_or("-", |(verdict, _)| verdict.as_str());
        let current = target.data["status"]["observedGeneration"].as_i64() == target.metadata.generation;
        let outdated = if current { "" } else { "outdated " };
        (target.metadata.name.clone().unwrap(), format!("{outdated}{} {}", verdict("Accepted"), verdict("Up")))
    };
    list.iter().map(line).collect()
}

/// How many differ, and some of them.
fn compare(wanted: &BTreeMap<String, String>, seen: &BTreeMap<String, String>) -> (usize, String) {
    let names = wanted.keys().chain(seen.keys().filter(|name| !wanted.contains_key(*name)));
    let differ = names.filter(|name| wanted.get(*name) != seen.get(*name));
    let lines: Vec<String> =
        differ.map(|name| format!("{name}: wanted {:?}, seen {:?}", wanted.get(name), seen.get(name))).collect();
    (lines.len(), lines.iter().take(9).cloned().collect::<Vec<_>>().join("\n"))
}

/// Looks until all is as wanted. A look at thousands is work for everybody, and they are to have time for what is waited for.
async fn until_same(
    seed: u64,
    wanted: &BTreeMap<String, String>,
    mut look: impl AsyncFnMut() -> BTreeMap<String, String>,
) {
    let (mut fewest, mut since) = (usize::MAX, Instant::now());
    loop {
        let (differ, some) = compare(wanted, &look().await);
        if differ == 0 {
            return;
        }
        if differ < fewest {
            (fewest, since) = (differ, Instant::now());
        }
        assert!(since.elapsed() < PATIENCE, "no progress within {PATIENCE:?}: seed {seed}: {differ} differ:\n{some}");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_that_are_changed_at_random_end_as_they_were_left() {
    let cluster = Cluster::private();
    cluster.install_crd();
    let seed = RandomState::new().hash_one(());
    let mut noise = Noise::new(seed);
    let fates: Vec<(String, Fate)> = (0..MANY).map(|number| (format!("t{number}"), Fate::any(&mut noise))).collect();
    let space = cluster.namespace("many");
    let release = Release::install(&cluster, &[], &["--discovery.mode", "none"]);
    let replica = release.ready().await;
    create(&cluster, &space, fates.iter().map(|(name, _)| manifest(name, Fate::Kept))).await;
    let api = targets(&cluster, &space);
    let meeting = futures::stream::iter(&fates).map(|(name, fate)| meet(&api, name, *fate));
    meeting.buffer_unordered(16).collect::<Vec<()>>().await;

    let left = || fates.iter().filter(|(_, fate)| *fate != Fate::Deleted);
    let mark = |fate: Fate| if fate == Fate::Suspended { "-" } else { fate.mark() };
    let by_replica: BTreeMap<String, String> =
        left().map(|(name, fate)| (name.clone(), format!("{} {}", fate.state(), mark(*fate)))).collect();
    until_same(seed, &by_replica, async || said(&replica).await).await;
    let by_cluster: BTreeMap<String, String> =
        left().map(|(name, fate)| (name.clone(), fate.told().to_owned())).collect();
    until_same(seed, &by_cluster, async || written(&api).await).await;
    for (name, fate) in fates.iter().take(50) {
        let there = replica.probe(&format!("{space}/{name}")).await.is_some();
        assert_eq!(there, *fate != Fate::Deleted, "seed {seed}: {name} {fate:?}");
    }
}
