//! Dashboards and alerts of an exporter, by a real Prometheus that scrapes it, and by one that scrapes it through us.
#![allow(dead_code, unreachable_pub, reason = "a module of several test binaries, each of which uses a part of it")]

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::comparison::through_us;
use crate::support::eventually::{PATIENCE, eventually};
use crate::support::load::allowed;
use crate::support::program::Running;

/// An expression of a dashboard or an alert; `RANGE` in it is some scrapes long.
pub struct Query {
    pub text: &'static str,
    moves: Option<f64>,
}

/// One that comes to the same, whenever it is asked.
pub const fn still(text: &'static str) -> Query {
    Query { text, moves: None }
}

/// One that moves by this much between two scrapes, or by half of what it is.
pub const fn moving(text: &'static str, by: f64) -> Query {
    Query { text, moves: Some(by) }
}

/// Labels that discovery adds; and the namespace of the target, where the series has none of its own.
const ADDED: [(&str, Option<&str>); 3] =
    [("target_name", None), ("target_namespace", None), ("namespace", Some("media"))];

type Answer = BTreeMap<String, f64>;

/// Asks both what the queries ask, until they agree.
pub async fn same_answers(url: &str, job: &str, honor_labels: bool, queries: &[Query]) {
    let every = allowed(Duration::from_secs(1)).as_secs().clamp(1, 10);
    let seconds = format!("{every}s");
    let spec = json!({
        "interval": seconds, "timeout": seconds,
        "monitor": { "job": job, "instance": "Url", "honorLabels": honor_labels },
    });
    let ours = through_us(&[("a", url.to_owned(), spec)], &[]).await;
    let address = url.trim_start_matches("http://").split('/').next().unwrap();
    let scrape = |name: &str, discovery: &str| {
        format!(
            "global: {{ scrape_interval: {seconds}, scrape_timeout: {seconds} }}\nscrape_configs:\n\
             - {{ job_name: {name}, honor_labels: {honor_labels}, {discovery} }}\n"
        )
    };
    let discovered = format!(
        r#"http_sd_configs: [{{ url: "{}/sd?honorLabels={honor_labels}", refresh_interval: {seconds} }}]"#,
        ours.base
    );
    let configs =
        [scrape(job, &format!(r#"static_configs: [{{ targets: ["{address}"] }}]"#)), scrape("through-us", &discovered)];
    let folders = configs.map(|config| {
        let folder = TempDir::new().unwrap();
        fs::write(folder.path().join("prometheus.yml"), config).unwrap();
        folder
    });
    let server = async |folder: &TempDir| Running::prometheus(&folder.path().join("prometheus.yml")).await;
    let [without, with] = [server(&folders[0]).await, server(&folders[1]).await];
    let range = format!("{}s", 6 * every);
    eventually(PATIENCE, async || {
        let mut wrong = Vec::new();
        for query in queries {
            let text = query.text.replace("RANGE", &range);
            let (theirs, through) = tokio::join!(ask(&without, &text), ask(&with, &text));
            if let Some(problem) = differ(&theirs?, &through?, query.moves) {
                wrong.push(format!("{text}: {problem}"));
            }
        }
        if wrong.is_empty() { Ok(()) } else { Err(format!("{wrong:#?}\n{}", ours.log())) }
    })
    .await;
}

/// The series that an instant query comes to.
async fn ask(server: &Running, query: &str) -> Result<Answer, String> {
    let encoded: String = url::form_urlencoded::byte_serialize(query.as_bytes()).collect();
    let answer: Value = serde_json::from_str(&server.body(&format!("/api/v1/query?query={encoded}")).await).unwrap();
    let series = answer["data"]["result"].as_array().ok_or_else(|| answer.to_string())?;
    let series = series.iter().map(|series| {
        let mut labels: BTreeMap<String, String> = serde_json::from_value(series["metric"].clone()).unwrap();
        for (name, value) in ADDED {
            if labels.get(name).is_some_and(|given| value.is_none_or(|value| given == value)) {
                labels.remove(name);
            }
        }
        (format!("{labels:?}"), series["value"][1].as_str().unwrap().parse().unwrap())
    });
    Ok(series.collect())
}

fn differ(without: &Answer, with: &Answer, moves: Option<f64>) -> Option<String> {
    if without.is_empty() {
        return Some("no series".to_owned());
    }
    if !without.keys().eq(with.keys()) {
        return Some(format!("other series: {:?} became {:?}", without.keys(), with.keys()));
    }
    let other = without.iter().filter_map(|(series, a)| {
        let b = with[series];
        let near = moves.map_or(0.0, |by| by + a.abs().max(b.abs()) / 2.0);
        let same = (a - b).abs() <= near || (a.is_nan() && b.is_nan()) || *a == b;
        (!same).then(|| format!("{series}: {a} became {b}"))
    });
    let other: Vec<String> = other.collect();
    (!other.is_empty()).then(|| other.join(", "))
}
