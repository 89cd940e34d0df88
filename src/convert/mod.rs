//! The configuration of a blackbox exporter, with the targets that a Prometheus asks it for, as ScrapeTargets.
//!
//! It reads texts and gives manifests, with a sentence for each thing that is left behind. It has no network and no files of its own.

mod address;
mod blackbox;
mod block;
mod chart;
mod document;
mod encoding;
mod go;
mod limits;
mod name;
mod operator;
mod relabel;
mod report;
mod request;
mod scrape_config;
mod secret;
mod write;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Map, Value, json};

use blackbox::{BlackboxModule, ModuleProber};
use name::Names;
use report::{Reporter, quoted};
use request::AskedTarget;
use secret::NeededSecret;

use crate::crd::nearest;
use crate::yaml::Node;

pub use document::MAX_INPUT_BYTES;
pub use report::{InputFault, Remark};

/// The most targets, and the most modules, of one conversion.
pub const MAX_TARGETS: usize = 10_000;

/// One input.
#[derive(Clone, Debug)]
pub struct ConvertInput {
    /// What the user calls it.
    pub name: String,
    /// The folder to which the paths in it are relative.
    pub folder: PathBuf,
    /// Its content.
    pub text: String,
}

/// All inputs.
#[derive(Clone, Debug, Default)]
pub struct ConvertInputs {
    /// The configuration of the blackbox exporter; it may also be a part of the values.
    pub blackbox: Option<ConvertInput>,
    /// Configurations of Prometheus.
    pub prometheus: Vec<ConvertInput>,
    /// Objects of the Prometheus Operator.
    pub manifests: Vec<ConvertInput>,
    /// Values of the chart of the blackbox exporter.
    pub values: Option<ConvertInput>,
}

/// What the user chooses.
#[derive(Clone, Debug, Default)]
pub struct ConvertOptions {
    /// The namespace of all targets. If not set, that of the object that a target is from; if there is none, none is written.
    pub namespace: Option<String>,
    /// The label `job` of all targets. If not set, that of each job.
    pub job: Option<String>,
    /// How often the exporter may probe one address in a second; 0: without a limit.
    pub max_probes_per_address: u32,
    /// Whether credentials that stand in the inputs are written, as Secrets.
    pub with_secrets: bool,
}

/// How files are read that the inputs name.
pub trait FileAccess {
    /// The text of a file.
    fn read(&self, path: &Path) -> Result<String, String>;
    /// The paths of the files in a folder.
    fn list(&self, folder: &Path) -> Result<Vec<PathBuf>, String>;
}

/// What came of it.
#[derive(Clone, Default)]
pub struct Conversion {
    /// The ScrapeTargets, and the Secrets if they were asked for, as YAML. It may contain passwords.
    pub manifests: String,
    /// The number of ScrapeTargets.
    pub targets: usize,
    /// What is left behind or changed, in the order of the inputs.
    pub remarks: Vec<Remark>,
}

/// Converts everything, or says what is wrong with the inputs. The same inputs give the same bytes.
pub fn convert(
    inputs: &ConvertInputs,
    options: &ConvertOptions,
    files: &dyn FileAccess,
) -> Result<Conversion, Vec<InputFault>> {
    let mut names = Names::default();
    let mut reporters = Vec::new();
    let mut modules = BTreeMap::new();
    let mut module_input = 0;
    if let Some(input) = &inputs.blackbox {
        let mut reporter = Reporter::new(&input.name);
        if let Some(root) = single(input, &mut reporter) {
            let below = Below { files, folder: &input.folder };
            modules = blackbox::modules(&root, "", &mut names, &below, &mut reporter);
        } else if reporter.faults.is_empty() {
            reporter.fault(0, "", "is empty: write the configuration of a blackbox exporter, with its field modules");
        }
        reporters.push(reporter);
    }
    let mut requests = AskedTargets::new(options.namespace.clone(), options.job.clone());
    for input in &inputs.prometheus {
        let mut reporter = Reporter::new(&input.name);
        requests.input = reporters.len();
        for document in parsed(input, &mut reporter) {
            scrape_config::read(&document, &input.folder, files, &mut requests, &mut reporter);
        }
        reporters.push(reporter);
    }
    for input in &inputs.manifests {
        let mut reporter = Reporter::new(&input.name);
        requests.input = reporters.len();
        for document in parsed(input, &mut reporter) {
            operator::read(&document, "", &mut requests, &mut reporter);
        }
        reporters.push(reporter);
    }
    if let Some(input) = &inputs.values {
        let mut reporter = Reporter::new(&input.name);
        requests.input = reporters.len();
        if let Some(root) = single(input, &mut reporter) {
            let (values, path) = chart::own_values(&root);
            chart::read(values, path, &mut requests, &mut reporter);
            if let Some(config) = values.get("config").filter(|config| !config.entries().is_empty()) {
                if inputs.blackbox.is_some() {
                    let message = "is left out: the modules are those of the file that was named";
                    reporter.remark(config.line, &report::join(path, "config"), message);
                } else {
                    module_input = reporters.len();
                    let path = report::join(path, "config");
                    let below = Below { files, folder: &input.folder };
                    modules = blackbox::modules(config, &path, &mut names, &below, &mut reporter);
                }
            }
        }
        reporters.push(reporter);
    }
    let faults: Vec<InputFault> =
        reporters.iter_mut().flat_map(|reporter| std::mem::take(&mut reporter.faults)).collect();
    if !faults.is_empty() {
        return Err(faults);
    }
    let (manifests, targets) = manifests(&requests.list, &modules, module_input, options, &mut names, &mut reporters);
    let in_order = |reporter: Reporter| {
        let mut remarks = reporter.remarks;
        remarks.sort_by_key(|remark| remark.line);
        remarks
    };
    let remarks = reporters.into_iter().flat_map(in_order).collect();
    Ok(Conversion { manifests: write::documents(&manifests), targets, remarks })
}

/// Files whose paths are relative to an input.
struct Below<'f> {
    files: &'f dyn FileAccess,
    folder: &'f Path,
}

impl FileAccess for Below<'_> {
    fn read(&self, path: &Path) -> Result<String, String> {
        self.files.read(&self.folder.join(path))
    }

    fn list(&self, folder: &Path) -> Result<Vec<PathBuf>, String> {
        self.files.list(&self.folder.join(folder))
    }
}

fn parsed(input: &ConvertInput, reporter: &mut Reporter) -> Vec<Node> {
    document::documents(&input.text).unwrap_or_else(|error| {
        reporter.fault(error.line, "", error.message);
        Vec::new()
    })
}

/// The only document of an input.
fn single(input: &ConvertInput, reporter: &mut Reporter) -> Option<Node> {
    let mut documents = parsed(input, reporter).into_iter();
    let first = documents.next();
    if let Some(second) = documents.next() {
        reporter.fault(second.line, "", "has several documents, and only one is read: write one file for each");
    }
    first
}

/// The targets of all inputs.
struct AskedTargets {
    /// Which input is being read.
    input: usize,
    /// The namespace that the user chose.
    namespace: Option<String>,
    /// The label `job` that the user chose.
    job: Option<String>,
    list: Vec<AskedTarget>,
    seen: BTreeSet<String>,
}

impl AskedTargets {
    const fn new(namespace: Option<String>, job: Option<String>) -> Self {
        Self { input: 0, namespace, job, list: Vec::new(), seen: BTreeSet::new() }
    }

    /// The namespace of a target from an object in `of_object`.
    fn namespace_of(&self, of_object: &str) -> Option<String> {
        let own = || (!of_object.is_empty()).then(|| of_object.to_owned());
        self.namespace.clone().or_else(own)
    }

    fn add(&mut self, request: AskedTarget, reporter: &mut Reporter) {
        if self.list.len() == MAX_TARGETS {
            if reporter.faults.is_empty() {
                reporter.fault(
                    request.line,
                    &request.path,
                    format!("there are more than {MAX_TARGETS} targets: convert the inputs one after another"),
                );
            }
            return;
        }
        // What becomes series of the same labels.
        let identity = json!([
            request.namespace,
            request.module,
            request.target,
            request.hostname,
            request.job,
            request.instance,
            request.labels
        ]);
        if self.seen.insert(identity.to_string()) {
            self.list.push(request);
        } else {
            reporter.remark(
                request.line,
                &request.place(),
                "stands twice, with the same module and labels: it is converted once",
            );
        }
    }
}

fn manifests(
    requests: &[AskedTarget],
    modules: &BTreeMap<String, BlackboxModule>,
    module_input: usize,
    options: &ConvertOptions,
    names: &mut Names,
    reporters: &mut [Reporter],
) -> (Vec<Value>, usize) {
    let mut targets = Vec::new();
    let mut secrets = Vec::new();
    // The namespaces in which the Secrets of a module are needed.
    let mut used: BTreeMap<&str, BTreeSet<&Option<String>>> = BTreeMap::new();
    let mut jobs = BTreeSet::new();
    let mut rates: BTreeMap<String, HostRate<'_>> = BTreeMap::new();
    for request in requests {
        let Some(reporter) = reporters.get_mut(request.input) else { continue };
        let Some(module) = modules.get(&request.module) else {
            let near = nearest(&request.module, modules.keys().map(String::as_str));
            let hint = near.map(|near| format!(", did you mean {}?", quoted(near))).unwrap_or_default();
            let message = format!("is not converted: there is no module {}{hint}", quoted(&request.module));
            reporter.remark(request.line, &request.place(), message);
            continue;
        };
        let namespaces = used.entry(&module.name).or_default();
        let Some(converted) = request.convert(module, names, reporter) else { continue };
        namespaces.insert(&request.namespace);
        jobs.extend(request.job.as_deref());
        let rate = rates.entry(converted.contacted).or_insert(HostRate { first: request, targets: 0, per_second: 0.0 });
        rate.targets += 1;
        rate.per_second += converted.interval.as_secs_f64().recip();
        targets.push(converted.manifest);
        if let Some(login) = converted.login {
            let values = vec![("username", login.username.as_str()), ("password", login.password.as_str())];
            let needed = NeededSecret { name: login.secret.clone(), values, files: Vec::new() };
            secrets.extend(fill(
                &needed,
                request.namespace.as_deref(),
                options,
                (request.line, &request.place()),
                reporter,
            ));
        }
    }
    for (host, rate) in rates {
        rate.judge(&host, options.max_probes_per_address, reporters);
    }
    jobs.retain(|job| !job.starts_with(OWN_JOBS));
    if let Some(reporter) = requests.first().and_then(|request| reporters.get_mut(request.input))
        && !jobs.is_empty()
    {
        reporter.remark(0, "", about_alerts(&jobs));
    }
    if let Some(reporter) = reporters.get_mut(module_input) {
        for module in modules.values() {
            let Some(namespaces) = used.get(module.name.as_str()) else {
                let why = match module.prober {
                    ModuleProber::Missing(why) => format!("has no targets, and could have none: {why}"),
                    _ => "has no targets: nothing in the inputs asks for it; name what does by --prometheus, --manifests or --values".to_owned(),
                };
                reporter.remark(module.line, &module.path, why);
                continue;
            };
            for namespace in namespaces {
                for needed in module.settings.secrets.needed() {
                    let at = (module.line, module.path.as_str());
                    secrets.extend(fill(&needed, namespace.as_deref(), options, at, reporter));
                }
            }
        }
    }
    let count = targets.len();
    // What targets refer to comes first.
    secrets.append(&mut targets);
    (secrets, count)
}

/// What the names of the exporter's own jobs begin with.
const OWN_JOBS: &str = "scrapetarget";

/// The most names of jobs in one message.
const JOBS_SHOWN: usize = 10;

/// What to write so that the alerts of the exporter select the targets.
fn about_alerts(jobs: &BTreeSet<&str>) -> String {
    // As a regular expression that needs no backslash.
    let plain = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '/' | ' ');
    let pattern = |job: &&str| job.chars().map(|c| if plain(c) { c } else { '.' }).collect::<String>();
    let patterns: Vec<String> = jobs.iter().take(JOBS_SHOWN).map(pattern).collect();
    let others = jobs.len().saturating_sub(JOBS_SHOWN);
    let others = if others == 0 { String::new() } else { format!(", and {others} more jobs") };
    format!(
        "the label job of the targets is that of these jobs, and the alerts of the exporter select only its own: write the chart's value \
         prometheusRule.job: \"{OWN_JOBS}.*|{}\"{others}",
        patterns.join("|")
    )
}

/// How often a host will be probed.
struct HostRate<'r> {
    /// The first target there.
    first: &'r AskedTarget,
    targets: usize,
    per_second: f64,
}

impl HostRate<'_> {
    fn judge(&self, host: &str, most: u32, reporters: &mut [Reporter]) {
        if most == 0 || self.per_second <= f64::from(most) {
            return;
        }
        let Some(reporter) = reporters.get_mut(self.first.input) else { return };
        let (count, per_second) = (self.targets, self.per_second.ceil());
        let message = format!(
            "{} is probed {per_second} times a second by {count} targets, and no address more than {most} times by default, so that probes \
             would fail with the reason limit: write longer intervals, or raise --max-probes-per-address, the chart's value \
             limits.maxProbesPerAddress",
            quoted(host)
        );
        reporter.remark(self.first.line, &self.first.path, message);
    }
}

/// The manifest of a Secret if its values are known and wanted; else a remark how to make it.
fn fill(
    needed: &NeededSecret<'_>,
    namespace: Option<&str>,
    options: &ConvertOptions,
    (line, path): (usize, &str),
    reporter: &mut Reporter,
) -> Option<Value> {
    let name = &needed.name;
    if !needed.values.is_empty() && options.with_secrets {
        let mut metadata = Map::new();
        metadata.insert("name".to_owned(), json!(name));
        if let Some(namespace) = namespace {
            metadata.insert("namespace".to_owned(), json!(namespace));
        }
        let data: Map<String, Value> =
            needed.values.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect();
        return Some(json!({ "apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": data }));
    }
    let in_namespace = namespace.map(|namespace| format!(" --namespace {namespace}")).unwrap_or_default();
    let message = if needed.values.is_empty() {
        let files: Vec<String> =
            needed.files.iter().map(|(key, place)| shell_word(&format!("--from-file={key}={place}"))).collect();
        format!(
            "the Secret {name} must be made: kubectl create secret generic {name}{in_namespace} {}",
            files.join(" ")
        )
    } else {
        let keys: Vec<&str> = needed.values.iter().map(|(key, _)| *key).collect();
        let plural = if keys.len() == 1 { "" } else { "s" };
        format!("the Secret {name} must be made, with the key{plural} {}: --secrets writes it as well", keys.join(", "))
    };
    reporter.remark(line, path, message);
    None
}

/// A word of a command for a shell, whatever is in it.
fn shell_word(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:@+,".contains(c);
    if word.chars().all(is_plain) { word.to_owned() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}

/// A duration as Prometheus reads it: `30s`, `1h30m`, `1d`.
fn prometheus_duration(text: &str) -> Option<Duration> {
    const UNITS: [(&str, u64); 7] = [
        ("y", 31_536_000_000),
        ("w", 604_800_000),
        ("d", 86_400_000),
        ("h", 3_600_000),
        ("m", 60_000),
        ("s", 1_000),
        ("ms", 1),
    ];
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let (mut rest, mut millis) = (text, 0_u64);
    for (unit, worth) in UNITS {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, tail) = rest.split_at(digits);
        let follows = tail.strip_prefix(unit).filter(|tail| unit != "m" || !tail.starts_with('s'));
        if let Some(tail) = follows.filter(|_| digits > 0) {
            millis = number.parse::<u64>().ok()?.checked_mul(worth)?.checked_add(millis)?;
            rest = tail;
        }
    }
    // Ten thousand years are no interval.
    (!text.is_empty() && rest.is_empty() && millis < 315_360_000_000_000).then(|| Duration::from_millis(millis))
}
