//! Watches files and directories, and publishes the targets that they declare whenever these change.
//!
//! It polls: notifications of the kernel miss changes on network and overlay file systems, and most watchers miss the symlink swap of a
//! mounted ConfigMap. A scan of 10,000 files costs a few milliseconds.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::input::{Signature, files, signature};
use super::load::{FileContent, FileProblem, Loaded, not_listed};
use super::secrets::{SecretFiles, SecretKey, secret_keys_of};
use crate::crd::ParsedTarget;
use crate::target::{Lookup, RefusedTarget, TargetId};

/// The time between two scans. A change takes effect after the second scan that sees it, so within about a second.
const PERIOD: Duration = Duration::from_millis(500);

/// Everything that the files declare now.
#[derive(Clone)]
pub struct TargetSet {
    /// Every valid target, and the last valid version of every target that has become invalid.
    pub targets: BTreeMap<TargetId, Arc<ParsedTarget>>,
    /// Their Secrets and ConfigMaps.
    pub objects: Arc<dyn Lookup + Send + Sync>,
    /// Why there may be more targets: a given path has never existed, a file has never been read, or there is no target and something is
    /// wrong. `None` once everything has been read.
    pub incomplete: Option<String>,
    /// Targets whose declaration is invalid, also those that are polled by their last valid version.
    pub refused: Vec<RefusedTarget>,
    /// Everything that is wrong.
    pub problems: Vec<FileProblem>,
}

/// Watches files and directories.
#[derive(Debug)]
pub struct FileWatcher {
    rescan: Arc<Notify>,
    state: WatchState,
}

impl FileWatcher {
    /// A watcher of `paths`, and of the values of Secrets in the directory `secrets`. Nothing is read yet.
    pub fn new(paths: Vec<PathBuf>, secrets: Option<&Path>) -> Self {
        let secrets = secrets.map(SecretFiles::new);
        Self { rescan: Arc::default(), state: WatchState { paths, secrets, ..WatchState::default() } }
    }

    /// Makes the watcher scan now, and read what has changed without waiting for a second scan.
    pub fn rescan(&self) -> Arc<Notify> {
        Arc::clone(&self.rescan)
    }

    /// Watches until `stop`. The first set is sent as soon as all files are read, later ones whenever files change.
    pub async fn run(self, desired: watch::Sender<Option<TargetSet>>, stop: CancellationToken) {
        let Self { rescan, mut state } = self;
        let mut at_once = true;
        loop {
            // A disk may be slow, and the threads of the runtime serve scrapes.
            let refreshed = tokio::task::spawn_blocking(move || {
                let news = state.refresh(at_once);
                (state, news)
            });
            // A read may hang, as on a file system whose server is gone. It must not keep the process from ending.
            let refreshed = tokio::select! {
                () = stop.cancelled() => return,
                refreshed = refreshed => refreshed,
            };
            let Ok((after, news)) = refreshed else {
                return tracing::error!("the thread that reads target files died");
            };
            state = after;
            if let Some(news) = news {
                desired.send_replace(Some(news));
            }
            at_once = tokio::select! {
                () = stop.cancelled() => return,
                () = rescan.notified() => true,
                () = tokio::time::sleep(PERIOD) => false,
            };
        }
    }
}

/// What is known of the files between two scans.
#[derive(Debug, Default)]
struct WatchState {
    paths: Vec<PathBuf>,
    /// What the last scan saw. A file is read once two scans saw the same, so that a half-written one is not read.
    seen: Scan,
    /// What was read.
    read: BTreeMap<Arc<Path>, ReadFile>,
    /// The files in their order of precedence.
    order: Vec<Arc<Path>>,
    /// Values of Secrets from files of their own.
    secrets: Option<SecretFiles>,
    /// The keys of Secrets that targets refer to.
    wanted: BTreeSet<SecretKey>,
    /// Problems that were logged and still exist.
    logged: BTreeSet<FileProblem>,
    started: bool,
    complete: bool,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Scan {
    order: Vec<Arc<Path>>,
    files: BTreeMap<Arc<Path>, Signature>,
    /// Paths that could not be listed; their files are kept.
    not_listed: Vec<FileProblem>,
}

impl Scan {
    fn add(&mut self, file: &Arc<Path>, signature: impl FnOnce() -> Signature) {
        if !self.files.contains_key(file) {
            self.files.insert(Arc::clone(file), signature());
            self.order.push(Arc::clone(file));
        }
    }
}

/// One file as it was last read.
#[derive(Debug)]
struct ReadFile {
    signature: Signature,
    content: FileContent,
    /// What earlier versions declared, and this one does not although it may have been meant to.
    kept: FileContent,
}

impl WatchState {
    /// Scans all files, and reads those that changed and are stable since the last scan (with `at_once` all that changed).
    fn refresh(&mut self, at_once: bool) -> Option<TargetSet> {
        let now = self.scan();
        let changed: Vec<Arc<Path>> = now
            .order
            .iter()
            .filter(|file| {
                let signature = now.files.get(*file);
                let known = self.read.get(*file).map(|version| &version.signature);
                signature != known && (at_once || signature == self.seen.files.get(*file))
            })
            .cloned()
            .collect();
        let gone: Vec<Arc<Path>> = self
            .read
            .keys()
            .filter(|file| !now.files.contains_key(*file) && (at_once || !self.seen.files.contains_key(*file)))
            .cloned()
            .collect();
        let other_order = now.order.iter().filter(|file| self.read.contains_key(*file)).ne(self.order.iter());
        let other_errors = now.not_listed != self.seen.not_listed;
        for file in &gone {
            self.read.remove(file);
        }
        for file in &changed {
            let content = FileContent::read(file);
            let kept = self.read.remove(file).map_or_else(FileContent::default, |before| before.kept_after(&content));
            if let Some(signature) = now.files.get(file) {
                self.read.insert(Arc::clone(file), ReadFile { signature: *signature, content, kept });
            }
        }
        let is_read = |file: &Arc<Path>| self.read.get(file).is_some_and(|version| !version.content.unread);
        self.complete |= now.not_listed.is_empty() && now.files.keys().all(is_read);
        self.seen = now;
        self.order = self.seen.order.iter().filter(|file| self.read.contains_key(*file)).cloned().collect();
        let first = !std::mem::replace(&mut self.started, true);
        let fresh = first || !changed.is_empty() || !gone.is_empty() || other_order || other_errors;
        let new_secrets = match &mut self.secrets {
            None => false,
            Some(secrets) => {
                if fresh {
                    let contents = self.read.values().flat_map(|version| [&version.content, &version.kept]);
                    let targets = contents.flat_map(|content| &content.targets);
                    self.wanted = targets.flat_map(|(id, target, _)| secret_keys_of(id, target)).collect();
                }
                secrets.refresh(&self.wanted, at_once)
            }
        };
        (fresh || new_secrets).then(|| self.publish())
    }

    fn scan(&self) -> Scan {
        let mut now = Scan::default();
        for path in &self.paths {
            match files(path) {
                Ok(listed) => listed.into_iter().for_each(|file| now.add(&file, || signature(&file))),
                Err(error) => {
                    now.not_listed.push(not_listed(path, &error));
                    // Its files stay as they were read until the path can be listed again.
                    let below = |file: &Path| file == path.as_path() || file.parent() == Some(path);
                    let known = self.read.iter().filter(|(file, _)| below(file));
                    known.for_each(|(file, version)| now.add(file, || version.signature));
                }
            }
        }
        now
    }

    /// Merges what all files declare, and logs new problems.
    fn publish(&mut self) -> TargetSet {
        let mut loaded = Loaded::default();
        let mut origins = BTreeMap::new();
        loaded.problems.clone_from(&self.seen.not_listed);
        if let Some(secrets) = &self.secrets {
            loaded.problems.extend(secrets.problems().cloned());
            loaded.objects.add_values(secrets.values());
        }
        let versions: Vec<&ReadFile> = self.order.iter().filter_map(|file| self.read.get(file)).collect();
        for version in &versions {
            loaded.add(&version.content, &mut origins);
        }
        // What is kept has the lowest precedence: a target that was moved to another file is declared there.
        let mut kept = BTreeSet::new();
        for version in &versions {
            for (id, target, origin) in &version.kept.targets {
                if let Entry::Vacant(entry) = loaded.targets.entry(id.clone()) {
                    entry.insert((Arc::clone(target), origin.clone()));
                    kept.insert(id);
                }
            }
            for (id, keys, origin) in &version.kept.objects {
                if !origins.contains_key(id) && loaded.objects.add(id.clone(), keys.clone()) {
                    origins.insert(id.clone(), origin.clone());
                }
            }
        }
        let mut refused = BTreeMap::new();
        for (id, invalid) in versions.iter().flat_map(|version| &version.content.invalid_targets) {
            refused.entry(id).or_insert_with(|| match loaded.targets.get(id) {
                None => invalid.clone(),
                Some(_) if kept.contains(id) => invalid.clone().and("; its last good version stays in use"),
                Some((_, origin)) => invalid.clone().and(&format!("; the one at {origin} is used")),
            });
        }
        let refused = refused.into_values().collect();
        self.log(&loaded);
        let incomplete = self.why_incomplete(&loaded);
        let targets: BTreeMap<_, _> = loaded.targets.into_iter().map(|(id, (target, _))| (id, target)).collect();
        TargetSet { targets, objects: Arc::new(loaded.objects), incomplete, refused, problems: loaded.problems }
    }

    /// Why the files may declare more targets than `loaded` has.
    fn why_incomplete(&self, loaded: &Loaded) -> Option<String> {
        /// More are shown once these are corrected.
        const TOLD: usize = 3;
        let waiting = self.seen.order.iter().filter(|file| !self.read.contains_key(*file));
        let waiting = waiting.map(|file| format!("{}: not read yet", file.display()));
        let unread = self.order.iter().filter_map(|file| self.read.get(file)).filter(|version| version.content.unread);
        let unread = self.seen.not_listed.iter().chain(unread.flat_map(|version| &version.content.problems));
        let mut why: Vec<String> = unread.map(ToString::to_string).chain(waiting).collect();
        // No target, while something is wrong or not read yet: perhaps the only file is half-written.
        let doubtful = loaded.targets.is_empty() && !(loaded.problems.is_empty() && why.is_empty());
        if self.complete && !doubtful {
            return None;
        }
        if why.is_empty() {
            why.extend(loaded.problems.iter().map(ToString::to_string));
        }
        let more = why.len().saturating_sub(TOLD);
        why.truncate(TOLD);
        let more = if more == 0 { String::new() } else { format!("; and {more} more") };
        Some(why.join("; ") + &more)
    }

    fn log(&mut self, loaded: &Loaded) {
        let problems: BTreeSet<FileProblem> = loaded.problems.iter().cloned().collect();
        for problem in problems.difference(&self.logged) {
            tracing::warn!(
                file = %problem.file.display(),
                line = problem.line,
                document = problem.document,
                object = problem.object,
                field = (!problem.path.is_empty()).then_some(&problem.path),
                "{}", problem.message
            );
        }
        if problems.is_empty() && !self.logged.is_empty() {
            tracing::info!("all target files are valid again");
        }
        self.logged = problems;
        tracing::info!(files = self.order.len(), targets = loaded.targets.len(), "read target files");
        if loaded.targets.is_empty() && self.logged.is_empty() && self.order.len() == self.seen.files.len() {
            tracing::warn!("there is no ScrapeTarget in the target files");
        }
    }
}

impl ReadFile {
    /// What of this version is kept now that the file has the content `next`: the last valid version of everything that is invalid in
    /// `next`, and, if a part of `next` cannot be read at all, of everything that is missing in it.
    fn kept_after(self, next: &FileContent) -> FileContent {
        let targets_now: BTreeSet<&TargetId> = next.targets.iter().map(|(id, ..)| id).collect();
        let objects_now: BTreeSet<_> = next.objects.iter().map(|(id, ..)| id).collect();
        let mut kept = FileContent::default();
        for version in [self.content, self.kept] {
            kept.targets.extend(version.targets.into_iter().filter(|(id, ..)| {
                !targets_now.contains(id) && (next.unclear || next.invalid_targets.contains_key(id))
            }));
            kept.objects.extend(
                version.objects.into_iter().filter(|(id, ..)| {
                    !objects_now.contains(id) && (next.unclear || next.invalid_objects.contains(id))
                }),
            );
        }
        kept
    }
}

#[cfg(test)]
mod tests;
