//! The command `probe`: one poll of one target, printed.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::{Map, Value, json};

use super::{WrongValue, complain, print};
use crate::cli::ProbeArgs;
use crate::crd::{self, FieldError, ParsedTarget};
use crate::dial::KnownHosts;
use crate::file;
use crate::http::debug_text;
use crate::kind::Type;
use crate::metric::{Encoding, Format};
use crate::poll::{Failure, Snapshot};
use crate::self_metrics::SelfMetrics;
use crate::target::{Member, Target, TargetId};
use crate::yaml::{self, Dialect};

/// The most problems of other manifests, and the most members that do not answer, that are printed as warnings.
const MAX_WARNINGS: usize = 10;

/// Polls once. Exit code 0: the primary call succeeded, of at least one member if there are any; 1: it failed.
pub(super) async fn run(args: ProbeArgs) -> anyhow::Result<ExitCode> {
    /// Probes of one address in a second: there is only one poll.
    const NO_LIMIT: u32 = 0;
    let ProbeArgs { file, secrets_directory, target, kind, url, set, members_dns, timeout, debug, polling } = args;
    let mut target = match (file, kind, url) {
        (Some(file), _, _) => from_file(&file, secrets_directory.as_deref(), target.as_deref())?,
        (None, Some(kind), Some(url)) => {
            let declaration = from_flags(kind, &url, members_dns, &set);
            let declaration = declaration.map_err(|error| WrongValue(format!("{error:#}")))?;
            let objects = file::FileObjects::default();
            Target::resolve(TargetId::new("default", "probe"), Arc::new(declaration), &objects)
        }
        _ => bail!("name a FILE, or --type and --url"),
    };
    if let Some(timeout) = timeout {
        target.timeout = timeout;
        // There is only one poll: no member must make way for the next one.
        target.interval = target.interval.max(timeout + target.spread);
    }
    let metrics = SelfMetrics::new().context("register metrics")?;
    let (pollers, _) = super::pollers(polling, NO_LIMIT, KnownHosts::new(), metrics.polls, false);
    let id = target.id.clone();
    pollers.apply([target]);
    let poller = pollers.get(&id).context("the target was just added")?;
    // The members are polled once their name is resolved, which may take as long again.
    let wait = poller.target().timeout * 2 + poller.target().spread + Duration::from_secs(1);
    let snapshot = poller.answer(wait).await;
    if debug {
        print(&debug_text(&poller, &snapshot));
    } else {
        print(&String::from_utf8_lossy(&snapshot.body(Format::Text, Encoding::Identity)));
    }
    for (member, failure) in failures(&snapshot).take(MAX_WARNINGS) {
        complain(&format!("warning: {}: {} ({})", member.name, failure.message, failure.reason.as_str()));
    }
    match failures(&snapshot).count().saturating_sub(MAX_WARNINGS) {
        0 => {}
        more => complain(&format!("warning: {more} more members do not answer")),
    }
    pollers.shutdown().await; // what the probe has borrowed is given back first
    match &snapshot.failure {
        None => Ok(ExitCode::SUCCESS),
        Some(failure) => bail!("{} ({})", failure.message, failure.reason.as_str()),
    }
}

/// The members that do not answer.
fn failures(snapshot: &Snapshot) -> impl Iterator<Item = (&Member, &Failure)> {
    let members = snapshot.members.iter().flat_map(|members| members.iter());
    members.filter_map(|report| Some((&report.member, report.failure.as_ref()?)))
}

fn from_file(path: &Path, secrets: Option<&Path>, wanted: Option<&str>) -> anyhow::Result<Target> {
    let mut loaded = file::load(&[path.to_owned()]);
    if let Some(folder) = secrets {
        loaded.add_secrets(folder);
    }
    let matches = |id: &TargetId| wanted.is_none_or(|wanted| *wanted == *id.name || wanted == id.to_string());
    let mut found = loaded.targets.iter().filter(|(id, _)| matches(id));
    let chosen = match (found.next(), found.next()) {
        (Some((first, _)), Some((second, _))) => {
            bail!("{} holds several ScrapeTargets ({first}, {second}, …): choose one by --target", path.display())
        }
        (chosen, _) => chosen,
    };
    match (chosen, wanted) {
        // If a target is named, others in the file may be invalid.
        (Some((id, (declaration, _))), _) if wanted.is_some() || loaded.problems.is_empty() => {
            for problem in loaded.problems.iter().take(MAX_WARNINGS) {
                complain(&format!("warning: {problem}"));
            }
            Ok(Target::resolve(id.clone(), Arc::clone(declaration), &loaded.objects).outside_kubernetes())
        }
        (None, Some(wanted)) => {
            let names = |object: &str| {
                let id = object.strip_prefix("ScrapeTarget ").unwrap_or(object);
                id == wanted || id.rsplit_once('/').is_some_and(|(_, name)| name == wanted)
            };
            let own = loaded.problems.iter().find(|problem| problem.object.as_deref().is_some_and(names));
            if let Some(problem) = own {
                bail!("{problem}");
            }
            let problem = loaded.problems.first().map(|problem| format!("; but {problem}")).unwrap_or_default();
            bail!("{} holds no ScrapeTarget {wanted:?}{problem}", path.display())
        }
        _ => match loaded.problems.first() {
            Some(problem) => bail!("{problem}"),
            None => bail!("{} holds no ScrapeTarget", path.display()),
        },
    }
}

/// The target that the flags describe, validated like any other.
fn from_flags(kind: Type, url: &str, members_dns: bool, set: &[String]) -> anyhow::Result<ParsedTarget> {
    let mut spec = json!({ "type": kind.as_str(), "url": url });
    if members_dns {
        spec["members"] = json!({ "dns": {} });
    }
    for assignment in set {
        let (path, value) =
            assignment.split_once('=').with_context(|| format!("--set {assignment}: write FIELD=VALUE"))?;
        let value = yaml::read(value, 1, Dialect::Kubernetes)
            .map_err(|error| anyhow::anyhow!("--set {path}: the value {}", error.fault))?
            .to_value();
        let path = path.strip_prefix("spec.").unwrap_or(path);
        put(&mut spec, path, value).with_context(|| format!("--set {path}: a part of the path is not a block"))?;
    }
    let manifest = json!({
        "apiVersion": crd::API_VERSION, "kind": "ScrapeTarget", "metadata": { "name": "probe", "namespace": "default" }, "spec": spec,
    });
    let declaration = crd::judge(&manifest);
    let declaration =
        declaration.and_then(|target| target.needs_kubernetes().map_or(Ok(target), |error| Err(vec![error])));
    let declaration = declaration.and_then(|target| match missing_object(&target) {
        Some(error) => Err(vec![error]),
        None => Ok(target),
    });
    declaration.map_err(|problems| {
        let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
        anyhow::anyhow!("{}", lines.join("; "))
    })
}

/// The first Secret or `ConfigMap` that the target needs: flags cannot give one.
fn missing_object(target: &ParsedTarget) -> Option<FieldError> {
    let needed = target.spec.references().into_iter().find(|reference| !reference.optional)?;
    let kind = needed.kind;
    let message =
        format!("with --type and --url there is no {kind}: write the target into a FILE together with the {kind}");
    Some(FieldError::new(&needed.path, message))
}

fn put(spec: &mut Value, path: &str, value: Value) -> Option<()> {
    let mut at = spec;
    let mut parts = path.split('.').peekable();
    while let Some(part) = parts.next() {
        let fields = at.as_object_mut()?;
        if parts.peek().is_none() {
            fields.insert(part.to_owned(), value);
            return Some(());
        }
        at = fields.entry(part.to_owned()).or_insert_with(|| Value::Object(Map::new()));
    }
    None
}
