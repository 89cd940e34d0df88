//! Scrape configurations of Prometheus: the jobs that ask a blackbox exporter, with their relabelings carried out.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::blackbox::DEFAULT_MODULE;
use super::block::{Block, BlockField};
use super::document::documents;
use super::limits::ScrapeLimits;
use super::relabel::{Labels, RelabelStep, Spelling, steps};
use super::report::{Reporter, quoted};
use super::request::AskedTarget;
use super::{AskedTargets, FileAccess};
use crate::time::PromDuration;
use crate::yaml::{Data, Node};

/// What Prometheus uses where nothing is written.
const DEFAULT_INTERVAL: Duration = Duration::from_mins(1);
pub(super) const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// What is said where relabelings take the label `job` away.
pub(super) const NO_JOB: &str = "its relabelings remove the label job, and here every series has one, by default the name of the exporter's \
    Service: write monitor.job, or convert with --job";

/// The most files that the patterns of one job may name.
const MAX_FILES: usize = 1000;

/// Sections of the configuration that have nothing to do with scraping.
const OTHER_SECTIONS: &str = "runtime alerting rule_files storage tracing remote_write remote_read otlp $schema";

/// How Prometheus reaches the blackbox exporter, which is not needed any more.
const CONNECTION: &str = "scheme basic_auth authorization bearer_token bearer_token_file oauth2 tls_config proxy_url no_proxy \
    proxy_from_environment proxy_connect_header follow_redirects enable_http2 http_headers enable_compression";

/// How Prometheus treats what it has scraped.
const SCRAPING: &str = "honor_timestamps track_timestamps_staleness scrape_protocols scrape_fallback_protocol fallback_scrape_protocol \
    scrape_classic_histograms always_scrape_classic_histograms convert_classic_histograms_to_nhcb \
    scrape_native_histograms native_histogram_bucket_limit native_histogram_min_bucket_factor \
    metric_name_validation_scheme metric_name_escaping_scheme extra_scrape_metrics scrape_failure_log_file \
    keep_dropped_targets";

/// Discovery that happens while Prometheus runs.
const DISCOVERY: &str = "azure_sd_configs aws_sd_configs consul_sd_configs digitalocean_sd_configs dns_sd_configs docker_sd_configs \
    dockerswarm_sd_configs ec2_sd_configs eureka_sd_configs gce_sd_configs hetzner_sd_configs http_sd_configs \
    ionos_sd_configs kubernetes_sd_configs kuma_sd_configs lightsail_sd_configs linode_sd_configs \
    marathon_sd_configs nerve_sd_configs nomad_sd_configs openstack_sd_configs ovhcloud_sd_configs \
    puppetdb_sd_configs scaleway_sd_configs serverset_sd_configs stackit_sd_configs uyuni_sd_configs";

/// Reads one configuration.
pub(super) fn read(
    node: &Node,
    folder: &Path,
    files: &dyn FileAccess,
    requests: &mut AskedTargets,
    reporter: &mut Reporter,
) {
    let source = JobSource { folder, files };
    // A bare list of jobs is what the Operator's additionalScrapeConfigs holds.
    if let Data::List(items) = &node.data {
        let jobs = items.iter().enumerate();
        let jobs = jobs.map(|(index, node)| BlockField { value: (), node, path: format!("[{index}]") }).collect();
        source.jobs(jobs, &JobDefaults::default(), requests, reporter);
        return;
    }
    let Some(mut root) = Block::open(node, "", reporter) else { return };
    root.any_of(OTHER_SECTIONS);
    if let Some(list) = root.node("scrape_config_files") {
        let message = "is not followed: name each of these files by --prometheus as well";
        reporter.remark(list.line(), &list.path, message);
    }
    let mut defaults = JobDefaults::default();
    if let Some(global) = root.node("global")
        && let Some(mut global) = Block::open(global.node, &global.path, reporter)
    {
        if let Some(interval) = global.prometheus_duration("scrape_interval", reporter) {
            defaults.interval = interval.value;
        }
        if let Some(timeout) = global.prometheus_duration("scrape_timeout", reporter) {
            defaults.timeout = timeout.value;
        }
        defaults.limits = ScrapeLimits::of_global(&mut global, reporter);
    }
    let jobs = root.list("scrape_configs", reporter);
    root.close(reporter);
    source.jobs(jobs, &defaults, requests, reporter);
}

/// What `global` has for jobs that do not say it.
struct JobDefaults {
    interval: Duration,
    timeout: Duration,
    limits: ScrapeLimits,
}

impl Default for JobDefaults {
    fn default() -> Self {
        Self { interval: DEFAULT_INTERVAL, timeout: DEFAULT_TIMEOUT, limits: ScrapeLimits::default() }
    }
}

struct JobSource<'s> {
    folder: &'s Path,
    files: &'s dyn FileAccess,
}

/// The parts of a job that are the same for all its targets.
struct Job {
    name: String,
    metrics_path: String,
    interval: Duration,
    timeout: Duration,
    /// Its parameters, as labels.
    params: Labels,
    relabelings: Vec<RelabelStep>,
    metric_relabelings: Vec<RelabelStep>,
    honors_labels: bool,
    /// Fields of `spec.monitor`.
    limits: Map<String, Value>,
}

/// A group of targets with the same labels.
struct Group {
    targets: Vec<(String, usize)>,
    labels: Labels,
    path: String,
}

impl JobSource<'_> {
    fn jobs(
        &self,
        jobs: Vec<BlockField<'_, ()>>,
        defaults: &JobDefaults,
        requests: &mut AskedTargets,
        reporter: &mut Reporter,
    ) {
        let mut others = 0;
        for job in jobs {
            if asks_blackbox(job.node) {
                self.job(&job, defaults, requests, reporter);
            } else {
                others += 1;
            }
        }
        if others > 0 {
            let plural =
                if others == 1 { " stays as it is: its path does" } else { "s stay as they are: their paths do" };
            reporter.remark(
                0,
                "scrape_configs",
                format!("{others} job{plural} not end in /probe, so that no blackbox exporter is asked"),
            );
        }
    }

    fn job(
        &self,
        field: &BlockField<'_, ()>,
        defaults: &JobDefaults,
        requests: &mut AskedTargets,
        reporter: &mut Reporter,
    ) {
        let Some(mut block) = Block::open(field.node, &field.path, reporter) else { return };
        let Some(name) = block.filled("job_name", reporter) else {
            reporter.fault(field.line(), &field.path, "has no job_name, write it");
            return;
        };
        let path = format!("{} ({})", field.path, name.value.chars().take(80).collect::<String>());
        block.path.clone_from(&path);
        let metrics_path =
            block.filled("metrics_path", reporter).map_or_else(|| "/metrics".to_owned(), |path| path.value);
        let interval =
            block.prometheus_duration("scrape_interval", reporter).map_or(defaults.interval, |field| field.value);
        let timeout = block.prometheus_duration("scrape_timeout", reporter).map(|field| field.value);
        if let Some(timeout) = timeout.filter(|timeout| *timeout > interval) {
            let (timeout, interval) = (timeout.as_secs_f64(), interval.as_secs_f64());
            let message =
                format!("scrape_timeout, {timeout} s, is above scrape_interval, {interval} s: write a shorter one");
            reporter.fault(field.line(), &path, message);
        }
        let timeout = timeout.unwrap_or_else(|| defaults.timeout.min(interval));
        let params = parameters(block.list_map("params", reporter), reporter);
        let relabel_configs = block.list("relabel_configs", reporter);
        let relabelings = steps(relabel_configs, Spelling::Snake, reporter);
        let metric_relabel_configs = block.list("metric_relabel_configs", reporter);
        let metric_relabelings = steps(metric_relabel_configs, Spelling::Snake, reporter).unwrap_or_default();
        let honors_labels = block.flag("honor_labels", reporter).is_some_and(|flag| flag.value);
        let limits = ScrapeLimits::of_job(&mut block, reporter).or(&defaults.limits, reporter);
        for connection in block.any_of(CONNECTION) {
            if connection.node.scalar() == Some("http") {
                continue; // the default scheme
            }
            let message = "is left out: it is about the connection to the blackbox exporter";
            reporter.remark(connection.line(), &connection.path, message);
        }
        for scraping in block.any_of(SCRAPING) {
            let message = "is left out: it is about how Prometheus scrapes, and the monitors of targets do not set it";
            reporter.remark(scraping.line(), &scraping.path, message);
        }
        for discovery in block.any_of(DISCOVERY) {
            let message = "is not converted: what it discovers changes while Prometheus runs; write a ScrapeTarget for each server, or let \
                           the tool that creates the servers write them";
            reporter.remark(discovery.line(), &discovery.path, message);
        }
        let mut groups = Vec::new();
        for group in block.list("static_configs", reporter) {
            groups.extend(read_group(group.node, &group.path, reporter));
        }
        for files in block.list("file_sd_configs", reporter) {
            groups.extend(self.file_sd(&files, reporter));
        }
        block.close(reporter);
        let Some(relabelings) = relabelings else {
            reporter.remark(
                field.line(),
                &path,
                "its targets are not converted, since its relabelings cannot be carried out",
            );
            return;
        };
        let Some(params) = params else { return };
        let job = Job {
            name: name.value,
            metrics_path,
            interval,
            timeout,
            params,
            relabelings,
            metric_relabelings,
            honors_labels,
            limits,
        };
        let mut dropped = 0;
        for group in groups {
            for (target, line) in &group.targets {
                dropped += usize::from(!job.target(target, *line, &group, requests, reporter));
            }
        }
        if dropped > 0 {
            let message =
                format!("{dropped} of its targets are not converted: relabel_configs drops them, as in Prometheus");
            reporter.remark(field.line(), &path, message);
        }
    }

    fn file_sd(&self, field: &BlockField<'_, ()>, reporter: &mut Reporter) -> Vec<Group> {
        let Some(mut block) = Block::open(field.node, &field.path, reporter) else { return Vec::new() };
        let patterns = block.texts("files", reporter);
        block.prometheus_duration("refresh_interval", reporter);
        block.close(reporter);
        let mut groups = Vec::new();
        for pattern in patterns {
            let files = match self.matching(&pattern.value) {
                Ok(files) if files.is_empty() => {
                    reporter.remark(
                        pattern.line(),
                        &pattern.path,
                        format!("{} names no file here: its targets are not converted", quoted(&pattern.value)),
                    );
                    continue;
                }
                Ok(files) => files,
                Err(why) => {
                    reporter.remark(
                        pattern.line(),
                        &pattern.path,
                        format!("{} cannot be read ({why}): its targets are not converted", quoted(&pattern.value)),
                    );
                    continue;
                }
            };
            let message = "is read once: the ScrapeTargets do not follow these files when they change";
            reporter.remark(pattern.line(), &pattern.path, message);
            for file in files {
                let shown = file.display().to_string();
                let text = match self.files.read(&file) {
                    Ok(text) => text,
                    Err(why) => {
                        reporter.remark(
                            pattern.line(),
                            &pattern.path,
                            format!("{shown} cannot be read ({why}): its targets are not converted"),
                        );
                        continue;
                    }
                };
                let documents = match documents(&text) {
                    Ok(documents) => documents,
                    Err(error) => {
                        reporter.fault(
                            pattern.line(),
                            &pattern.path,
                            format!("{shown}, line {}, {}", error.line, error.message),
                        );
                        continue;
                    }
                };
                // The lines of its values are those of another file.
                let mut inner = Reporter::new(&shown);
                for document in documents {
                    if !matches!(document.data, Data::List(_)) {
                        inner.wrong_type(&document, "", "a list of groups with targets and labels");
                    }
                    for (index, item) in document.items().iter().enumerate() {
                        if let Some(mut group) = read_group(item, &format!("[{index}]"), &mut inner) {
                            group.path = format!("{} in {shown}", pattern.path);
                            group.targets.iter_mut().for_each(|(_, line)| *line = pattern.line());
                            group.labels.insert("__meta_filepath".to_owned(), shown.clone());
                            groups.push(group);
                        }
                    }
                }
                reporter.faults.append(&mut inner.faults);
            }
        }
        groups
    }

    /// The files that a pattern names. Prometheus allows a star in the last part of the path only.
    fn matching(&self, pattern: &str) -> Result<Vec<PathBuf>, String> {
        let path = self.folder.join(pattern);
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let folder = path.parent().unwrap_or_else(|| Path::new("")).to_owned();
        if folder.to_string_lossy().contains('*') {
            return Err("a star may stand in the last part of the path only".to_owned());
        }
        if !name.contains('*') {
            return Ok(vec![path]);
        }
        let mut found: Vec<PathBuf> = self
            .files
            .list(&folder)?
            .into_iter()
            .filter(|file| file.file_name().is_some_and(|file| is_like(&file.to_string_lossy(), &name)))
            .collect();
        found.sort();
        if found.len() > MAX_FILES { Err(format!("more than {MAX_FILES} files")) } else { Ok(found) }
    }
}

fn read_group(node: &Node, path: &str, reporter: &mut Reporter) -> Option<Group> {
    let mut block = Block::open(node, path, reporter)?;
    let targets = block.texts("targets", reporter);
    let labels = block.text_map("labels", reporter);
    block.close(reporter);
    let targets = targets.into_iter().map(|target| (target.value, target.node.line)).collect();
    let labels = labels.into_iter().map(|(label, value)| (label, value.value)).collect();
    Some(Group { targets, labels, path: path.to_owned() })
}

/// Parameters as labels. Prometheus sends all values, the exporter takes the first; of `target` it takes no second one, and `None` says that
/// nothing can be converted.
pub(super) fn parameters(all: Vec<(String, BlockField<'_, Vec<String>>)>, reporter: &mut Reporter) -> Option<Labels> {
    let mut labels = Labels::new();
    let mut is_good = true;
    for (name, values) in all {
        match (name.as_str(), values.value.as_slice()) {
            ("target", [_, _, ..]) => {
                let message = "has several values, for which the blackbox exporter answers 400: nothing of it is converted; write one";
                reporter.remark(values.line(), &values.path, message);
                is_good = false;
            }
            ("module" | "hostname", [first, second, ..]) => {
                let message = format!(
                    "only {} is used, as in the blackbox exporter: {} is left out; write a job for each",
                    quoted(first),
                    if values.value.len() > 2 { "what follows".to_owned() } else { quoted(second) }
                );
                reporter.remark(values.line(), &values.path, message);
            }
            _ => {}
        }
        if let Some(first) = values.value.into_iter().next() {
            labels.insert(format!("__param_{name}"), first);
        }
    }
    is_good.then_some(labels)
}

/// Whether a name is as a pattern with stars says.
fn is_like(name: &str, pattern: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| name.strip_prefix(first)) else { return false };
    let mut parts = parts.peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        let Some((_, after)) = rest.split_once(part) else { return false };
        rest = after;
    }
    rest.is_empty()
}

/// Whether a job asks a blackbox exporter, judged by where it scrapes.
fn asks_blackbox(job: &Node) -> bool {
    let ends = |text: &str| text.trim_end_matches('/').ends_with("/probe");
    let path = job.get("metrics_path").and_then(Node::scalar);
    let steps = job.get("relabel_configs").map(Node::items).unwrap_or_default();
    let relabelled = steps.iter().any(|step| {
        step.get("target_label").and_then(Node::scalar) == Some("__metrics_path__")
            && step.get("replacement").and_then(Node::scalar).is_some_and(ends)
    });
    path.is_some_and(ends) || relabelled
}

impl Job {
    /// Carries out the relabelings of one target. False if they drop it.
    fn target(
        &self,
        target: &str,
        line: usize,
        group: &Group,
        requests: &mut AskedTargets,
        reporter: &mut Reporter,
    ) -> bool {
        let mut labels = Labels::new();
        let text = |duration: Duration| PromDuration::from(duration).to_string();
        labels.insert("job".to_owned(), self.name.clone());
        labels.insert("__address__".to_owned(), target.to_owned());
        labels.insert("__metrics_path__".to_owned(), self.metrics_path.clone());
        labels.insert("__scheme__".to_owned(), "http".to_owned());
        labels.insert("__scrape_interval__".to_owned(), text(self.interval));
        labels.insert("__scrape_timeout__".to_owned(), text(self.timeout));
        labels.extend(self.params.clone());
        labels.extend(group.labels.clone());
        if !self.relabelings.iter().all(|step| step.apply(&mut labels)) {
            return false;
        }
        requests.add_labelled(
            labels,
            (self.interval, self.timeout),
            (line, &group.path),
            reporter,
            |request, reporter| {
                request.monitor.extend(self.limits.clone());
                if self.honors_labels {
                    request.monitor.insert("honorLabels".to_owned(), json!(true));
                }
                request.metric_relabelings(&self.metric_relabelings, reporter);
                if request.job.is_none() {
                    reporter.remark(line, &group.path, NO_JOB);
                }
            },
        );
        true
    }
}

impl AskedTargets {
    /// Adds what the labels of a target say after its relabeling.
    pub(super) fn add_labelled(
        &mut self,
        mut labels: Labels,
        (interval, timeout): (Duration, Duration),
        (line, path): (usize, &str),
        reporter: &mut Reporter,
        more: impl FnOnce(&mut AskedTarget, &mut Reporter),
    ) {
        let Some(target) = labels.remove("__param_target") else {
            let shown = labels.get("__address__").map(|address| quoted(address)).unwrap_or_default();
            let message = format!(
                "{shown} is not converted: nothing sets the parameter target, so that the blackbox exporter answers 400"
            );
            reporter.remark(line, path, message);
            return;
        };
        let module = labels.remove("__param_module").unwrap_or_else(|| DEFAULT_MODULE.to_owned());
        let hostname = labels.remove("__param_hostname");
        let mut read = |name: &str, default: Duration| {
            let Some(text) = labels.get(name) else { return default };
            super::prometheus_duration(text).filter(|duration| !duration.is_zero()).unwrap_or_else(|| {
                let message = format!(
                    "the label {name} is {}, which is no duration, so that Prometheus does not scrape it: {} is written",
                    quoted(text),
                    PromDuration::from(default)
                );
                reporter.remark(line, path, message);
                default
            })
        };
        let interval = read("__scrape_interval__", interval);
        let timeout = read("__scrape_timeout__", timeout);
        if timeout > interval {
            let message = format!(
                "its timeout, {}, is above its interval, {}, and Prometheus does not scrape such a target: the timeout is shortened to the \
                 interval",
                PromDuration::from(timeout),
                PromDuration::from(interval)
            );
            reporter.remark(line, path, message);
        }
        let parameters: Vec<&str> = labels.keys().filter_map(|label| label.strip_prefix("__param_")).collect();
        if !parameters.is_empty() {
            reporter.remark(
                line,
                path,
                format!("the parameters {} are left out: only the blackbox exporter has them", parameters.join(", ")),
            );
        }
        let job = labels.remove("job");
        let job = self.job.clone().or(job);
        let instance = labels.remove("instance");
        let labels: BTreeMap<String, String> =
            labels.into_iter().filter(|(label, _)| !label.starts_with("__")).collect();
        let mut request = AskedTarget {
            input: self.input,
            line,
            path: path.to_owned(),
            namespace: self.namespace.clone(),
            module,
            target,
            hostname,
            interval,
            scrape_timeout: timeout,
            job,
            instance,
            labels,
            monitor: Map::new(),
        };
        more(&mut request, reporter);
        if self.job.is_some() {
            // Also where a relabeling of metrics has set another one.
            request.job.clone_from(&self.job);
        }
        self.add(request, reporter);
    }
}

#[cfg(test)]
mod tests {
    use super::is_like;

    #[test]
    fn stars_are_any_text() {
        for (name, pattern, wanted) in [
            ("a.yml", "*.yml", true),
            ("a.yaml", "*.yml", false),
            ("web-1.json", "web-*.json", true),
            ("db-1.json", "web-*.json", false),
            (".yml", "*.yml", true),
            ("a", "*", true),
            ("ab", "a*b*", true),
            ("a", "a", true),
            ("ab", "a", false),
        ] {
            assert_eq!(is_like(name, pattern), wanted, "{name} {pattern}");
        }
    }
}
