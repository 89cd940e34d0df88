//! An exporter asked directly and through us.
#![allow(dead_code, unreachable_pub, reason = "a module of several test binaries, each of which uses a part of it")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::exposition::{Families, is_ours, read};
use crate::support::program::Running;

/// Where something is asked, and how.
pub struct Side {
    pub url: String,
    client: reqwest::Client,
    password: Option<(String, String)>,
}

impl Side {
    pub fn direct(url: String) -> Self {
        crate::support::choose_tls_provider();
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        Self { url, client, password: None }
    }

    pub fn trusting(mut self, root: reqwest::Certificate) -> Self {
        self.client = reqwest::Client::builder().no_proxy().tls_certs_only([root]).build().unwrap();
        self
    }

    pub fn with_password(mut self, user: &str, password: &str) -> Self {
        self.password = Some((user.to_owned(), password.to_owned()));
        self
    }

    /// The answer in text 0.0.4.
    pub async fn text(&self) -> Result<String, String> {
        let request = self.client.get(&self.url);
        let request = match &self.password {
            Some((user, password)) => request.basic_auth(user, Some(password)),
            None => request,
        };
        let response = request.send().await.and_then(reqwest::Response::error_for_status);
        response.map_err(|error| format!("{error:?}"))?.text().await.map_err(|error| format!("{error:?}"))
    }

    pub async fn read(&self) -> Families {
        let text = self.text().await.unwrap_or_else(|error| panic!("{}: {error}", self.url));
        read(&text).unwrap_or_else(|error| panic!("{}: {error}\n{text}", self.url))
    }
}

/// What can be compared.
pub trait Source {
    fn direct(&self) -> &Side;
}

/// The exporter with these targets of type Prometheus: name, url and the rest of the spec. Secret and ConfigMap `files` have the objects.
pub async fn through_us(targets: &[(&str, String, Value)], objects: &[(&str, &str)]) -> Ours {
    let mut documents: Vec<Value> = targets.iter().map(|(name, url, spec)| manifest(name, url, spec)).collect();
    let objects: BTreeMap<_, _> = objects.iter().copied().collect();
    for (kind, data) in [("ConfigMap", "data"), ("Secret", "stringData")] {
        let metadata = json!({ "name": "files", "namespace": "media" });
        documents.push(json!({ "apiVersion": "v1", "kind": kind, "metadata": metadata, data: objects }));
    }
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("targets.yaml");
    let documents: Vec<String> = documents.iter().map(Value::to_string).collect();
    fs::write(&file, documents.join("\n---\n")).unwrap();
    let running = Running::ready::<&str>(&file, []).await;
    Ours { running, _folder: folder }
}

/// A target that is polled when it is scraped.
fn manifest(name: &str, url: &str, spec: &Value) -> Value {
    let mut whole = json!({ "type": "Prometheus", "url": url, "interval": "1h", "timeout": "60s" });
    whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    json!({ "apiVersion": "scrapetarget.dev/v1alpha1", "kind": "ScrapeTarget", "metadata": { "name": name, "namespace": "media" }, "spec": whole })
}

pub struct Ours {
    running: Running,
    _folder: TempDir,
}

impl std::ops::Deref for Ours {
    type Target = Running;

    fn deref(&self) -> &Running {
        &self.running
    }
}

/// Names of the families that came through.
pub async fn compare(source: &impl Source) -> BTreeSet<String> {
    compare_with(source, json!({}), &[]).await
}

/// The same with the rest of a spec, and objects that it refers to.
pub async fn compare_with(source: &impl Source, spec: Value, objects: &[(&str, &str)]) -> BTreeSet<String> {
    let direct = source.direct();
    let ours = through_us(&[("a", direct.url.clone(), spec)], objects).await;
    let probe = Side::direct(format!("{}/probe?target=media/a", ours.base));
    // What is counted for the first time appears by it, and stays. Ours is asked, too, so that its first poll, which it does by itself, is over.
    probe.read().await;
    direct.read().await;
    let before = direct.read().await;
    let through = probe.read().await;
    let after = direct.read().await;
    // What we say ourselves cannot be passed on.
    let left_out =
        after.iter().filter(|(name, _)| is_ours(name)).map(|(_, family)| u32::try_from(family.series.len()).unwrap());
    let skipped = f64::from(left_out.sum::<u32>());
    for (name, value) in [("probe_success", 1.0), ("probe_skipped_fields", skipped), ("probe_series_dropped", 0.0)] {
        assert_eq!(
            through.get(name).and_then(|family| family.series.values().next()),
            Some(&value),
            "{name}: {}",
            ours.log()
        );
    }
    let wrong = differences(&before, &through, &after);
    assert!(wrong.is_empty(), "{}: {wrong:#?}", direct.url);
    let others = elsewhere(&before, &through, &after);
    let all: usize = before.values().map(|family| family.series.len()).sum();
    // Some gauges jump to and fro: not many.
    assert!(others.len() <= all / 10, "{} of {all} are elsewhere: {others:#?}", others.len());
    through.into_keys().filter(|name| !is_ours(name)).collect()
}

/// What is not as it would be without us.
fn differences(before: &Families, through: &Families, after: &Families) -> Vec<String> {
    let mut wrong = Vec::new();
    let names: BTreeSet<&String> =
        before.keys().chain(through.keys()).chain(after.keys()).filter(|name| !is_ours(name)).collect();
    for name in names {
        let [before, through, after] = [before, through, after].map(|families| families.get(name));
        let Some(through) = through else {
            if before.is_some() && after.is_some() {
                wrong.push(format!("{name} is missing"));
            }
            continue;
        };
        let Some(direct) = before.or(after) else {
            wrong.push(format!("{name} is ours alone"));
            continue;
        };
        if (&direct.help, &direct.kind) != (&through.help, &through.kind) {
            wrong.push(format!("{name}: {} {:?} became {} {:?}", direct.kind, direct.help, through.kind, through.help));
        }
        let series: BTreeSet<&String> =
            [before, Some(through), after].into_iter().flatten().flat_map(|family| family.series.keys()).collect();
        for series in series {
            let of = |family: Option<&crate::exposition::Family>| {
                family.and_then(|family| family.series.get(series)).copied()
            };
            if let Some(problem) = moved(&direct.kind, of(before), of(Some(through)), of(after)) {
                wrong.push(format!("{series}: {problem}"));
            }
        }
    }
    wrong
}

fn same(a: f64, b: f64) -> bool {
    a == b || (a.is_nan() && b.is_nan())
}

/// What is wrong with a value, as it was before, through us and after.
fn moved(kind: &str, before: Option<f64>, through: Option<f64>, after: Option<f64>) -> Option<String> {
    let grows = ["counter", "histogram"].contains(&kind);
    let good = match (before, through, after) {
        (Some(before), Some(through), Some(after)) => {
            !grows || (before <= through && through <= after) || (same(before, through) && same(through, after))
        }
        (Some(_), None, Some(_)) | (None, Some(_), None) => false,
        _ => true,
    };
    (!good).then(|| format!("{before:?}, {through:?}, {after:?}"))
}

/// Series that were the same before and after, and another through us.
fn elsewhere(before: &Families, through: &Families, after: &Families) -> Vec<String> {
    let series = |families: &Families| -> BTreeMap<String, f64> {
        families.values().flat_map(|family| family.series.clone()).collect()
    };
    let [before, through, after] = [before, through, after].map(series);
    let known =
        through.iter().filter_map(|(name, through)| Some((name, *before.get(name)?, *through, *after.get(name)?)));
    let other = known.filter(|(_, before, through, after)| same(*before, *after) && !same(*before, *through));
    other.map(|(name, before, through, _)| format!("{name}: {before} was {through}")).collect()
}
