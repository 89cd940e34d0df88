//! What the Prometheus in the cluster has, and how many scrapes it lost.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::cluster::{Cluster, MONITORING};
use crate::until;

pub(crate) type Labels = BTreeMap<String, String>;

/// What each target has while scrapes are counted.
pub(crate) const INTERVAL: Duration = Duration::from_secs(5);

/// How much later than planned a scrape may be.
const SLACK: Duration = Duration::from_millis(100);

impl Cluster {
    /// The answer of Prometheus' HTTP API, by way of the API server.
    pub(crate) fn ask_prometheus(&self, path: &str) -> Result<Value, String> {
        self.json(&format!("/api/v1/namespaces/{MONITORING}/services/prometheus-operated:9090/proxy{path}"))
    }

    /// The series that an expression gives now.
    pub(crate) fn query(&self, expression: &str) -> Result<Vec<(Labels, f64)>, String> {
        let found = self.result(expression)?;
        let one = |series: &Value| (labels(series), number(&series["value"][1]));
        Ok(found.iter().map(one).collect())
    }

    /// One number, 0 where there is no series.
    pub(crate) fn number(&self, expression: &str) -> Result<f64, String> {
        Ok(self.query(expression)?.first().map_or(0.0, |(_, value)| *value))
    }

    fn result(&self, expression: &str) -> Result<Vec<Value>, String> {
        let query: String = url::form_urlencoded::byte_serialize(expression.as_bytes()).collect();
        let mut answer = self.ask_prometheus(&format!("/api/v1/query?query={query}"))?;
        match answer["data"]["result"].take() {
            Value::Array(found) => Ok(found),
            _ => Err(answer.to_string()),
        }
    }

    fn active_targets(&self) -> Result<Vec<Value>, String> {
        let mut answer = self.ask_prometheus("/api/v1/targets?state=active")?;
        match answer["data"]["activeTargets"].take() {
            Value::Array(active) => Ok(active),
            _ => Err(answer.to_string()),
        }
    }

    /// The jobs by which targets are scraped.
    pub(crate) fn scrape_pools(&self) -> Result<BTreeSet<String>, String> {
        let active = self.active_targets()?;
        Ok(active.iter().filter_map(|target| target["scrapePool"].as_str().map(ToOwned::to_owned)).collect())
    }

    /// Waits until Prometheus does not scrape this target any more.
    pub(crate) fn until_not_scraped(&self, instance: &str, patience: Duration) -> Duration {
        let ((), time) = until("end of the scrapes", patience, || {
            let scraped = self.active_targets()?.iter().any(|target| target["labels"]["instance"] == instance);
            if scraped { Err(format!("{instance} is scraped")) } else { Ok(()) }
        });
        time
    }

    /// Waits until exactly these targets, as `namespace/name`, are scraped and up.
    pub(crate) fn until_up(&self, targets: &[&str], patience: Duration) -> Duration {
        let wanted: BTreeSet<&str> = targets.iter().copied().collect();
        let ((), time) = until("probe_success of all targets", patience, || {
            let series = self.query(&scraped(SUCCESS))?;
            let found: BTreeSet<&str> = series.iter().map(|(labels, _)| labels["instance"].as_str()).collect();
            let fine = found == wanted && series.len() == wanted.len() && series.iter().all(|(_, value)| *value == 1.0);
            if fine { Ok(()) } else { Err(format!("{series:?}")) }
        });
        time
    }

    /// Waits until the newest sample of an expression is such.
    pub(crate) fn until_number(&self, expression: &str, wanted: f64, patience: Duration) -> Duration {
        let ((), time) = until(expression, patience, || {
            let found = self.query(expression)?;
            let fine = matches!(&found[..], [(_, value)] if *value == wanted);
            if fine { Ok(()) } else { Err(format!("{found:?} instead of {wanted}")) }
        });
        time
    }

    /// Waits until each target that is up is scraped at the interval that it has in the end, and returns how many there are. While its
    /// configuration changes, Prometheus may forget to end series that are gone from an answer: they end after five minutes then.
    pub(crate) fn until_steady(&self) -> usize {
        let (targets, _) = until("targets that are scraped every 5 s", Duration::from_secs(180), || {
            let steady = self.query(&format!("count_over_time({SUCCESS}[{}s]) >= 3", 3 * INTERVAL.as_secs() + 1))?;
            let up = self.query(&format!("{} == 1", scraped(SUCCESS)))?;
            if !up.is_empty() && steady.len() == up.len() { Ok(up.len()) } else { Err(format!("{steady:?} of {up:?}")) }
        });
        targets
    }

    /// Begins to count scrapes of targets that are all up.
    pub(crate) fn watch_scrapes(&self) -> Watched<'_> {
        let targets = self.until_steady();
        Watched { cluster: self, since: SystemTime::now(), targets }
    }
}

/// What a selector finds of targets that are still scraped. A job that is removed leaves its last samples behind: Prometheus ends
/// them after five minutes, where it ends those of a target that its job has lost after two intervals.
pub(crate) fn scraped(selector: &str) -> String {
    format!("({selector} and (time() - timestamp({selector}) < 17))")
}

/// The success of every target.
pub(crate) const SUCCESS: &str = r#"probe_success{target_name!=""}"#;

/// Targets whose scrapes are counted since some time.
pub(crate) struct Watched<'c> {
    cluster: &'c Cluster,
    since: SystemTime,
    targets: usize,
}

/// How it went with the scrapes of the target that had it worst.
#[derive(Debug)]
pub(crate) struct Worst {
    /// Scrapes that failed, did not happen, or found a target that was not polled.
    pub(crate) lost: u128,
    /// The longest time from one good sample to the next.
    pub(crate) gap: Duration,
}

impl Watched<'_> {
    /// Waits until every target has been scraped twice since now.
    pub(crate) fn go_on(&self) {
        let now = UNIX_EPOCH.elapsed().unwrap();
        until("two good scrapes of every target", Duration::from_secs(180), || {
            let found = self.cluster.result(&format!("{SUCCESS}[90s]"))?;
            let since = |series: &Value| good_samples(series).filter(|time| *time > now).count();
            let steady = found.iter().filter(|series| since(series) >= 2).count();
            if steady == self.targets { Ok(()) } else { Err(format!("{steady} of {}", self.targets)) }
        });
    }

    /// What was lost until now. Fails if a target had more than one series: one that was scraped by way of two replicas.
    pub(crate) fn end(self) -> Worst {
        let (since, now) = (self.since.duration_since(UNIX_EPOCH).unwrap(), UNIX_EPOCH.elapsed().unwrap());
        // From the last sample before it began.
        let range = (now.saturating_sub(since) + INTERVAL).as_secs() + 1;
        let (found, _) =
            until("samples", Duration::from_secs(180), || self.cluster.result(&format!("{SUCCESS}[{range}s]")));
        let instances: BTreeSet<String> = found.iter().map(|series| labels(series)["instance"].clone()).collect();
        assert_eq!(
            (found.len(), instances.len()),
            (self.targets, self.targets),
            "one series for each target: {found:#?}"
        );
        let mut worst = Worst { lost: 0, gap: Duration::ZERO };
        for series in &found {
            let times: Vec<Duration> = good_samples(series).chain([now]).collect();
            let gaps = times.windows(2).map(|pair| pair[1].saturating_sub(pair[0]));
            // A scrape is a little early or late, and at another point of the interval by way of another replica.
            let steps = |gap: Duration| (gap + SLACK).as_millis() / INTERVAL.as_millis();
            let lost: u128 = gaps.clone().map(|gap| steps(gap).saturating_sub(1)).sum();
            worst.lost = worst.lost.max(lost);
            worst.gap = worst.gap.max(gaps.max().unwrap_or_default());
        }
        println!(
            "   scrapes lost by the target that lost most: {}; longest time between two samples: {:.1?}",
            worst.lost, worst.gap
        );
        worst
    }
}

/// When a target was scraped with success.
fn good_samples(series: &Value) -> impl Iterator<Item = Duration> {
    let samples = series["values"].as_array().unwrap().iter().filter(|sample| sample[1] == "1");
    samples.map(|sample| Duration::from_secs_f64(sample[0].as_f64().unwrap()))
}

fn labels(series: &Value) -> Labels {
    let labels = series["metric"].as_object().unwrap().iter();
    labels.map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned())).collect()
}

fn number(value: &Value) -> f64 {
    value.as_str().unwrap().parse().unwrap()
}
