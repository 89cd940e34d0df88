//! Follows files and directories while they change, and says each time which targets there are now.
//!
//! It polls: notifications of the kernel miss what network and overlay file systems do, and the symlink swap of a mounted ConfigMap
//! is invisible to most watchers. A look at 10,000 files costs a few milliseconds.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::input::{Signature, files, signature};
use super::load::{Content, FileProblem, Loaded, unlisted};
use super::secrets::{SecretFiles, SecretKey, wanted};
use crate::crd::ParsedTarget;
use crate::target::{Lookup, Refused, TargetId};

/// The time between two looks. A change takes effect after the second look that sees it, so within about a second.
const PERIOD: Duration = Duration::from_millis(500);

/// What there should be now.
#[derive(Clone)]
pub struct Desired {
    /// Every good target, and the last good version of every target that is not good any more.
    pub targets: BTreeMap<TargetId, Arc<ParsedTarget>>,
    /// Their Secrets and ConfigMaps.
    pub objects: Arc<dyn Lookup + Send + Sync>,
    /// Why these may not be all: a path that was named has never been there, a file has never been read, or there is no target and
    /// something is wrong. `None` once everything has been read.
    pub unknown: Option<String>,
    /// Targets that are declared badly, also those whose last good version goes on.
    pub refused: Vec<Refused>,
    /// Everything that is wrong.
    pub problems: Vec<FileProblem>,
}

/// Files and directories that are followed.
#[derive(Debug)]
pub struct Source {
    rescan: Arc<Notify>,
    state: State,
}

impl Source {
    /// Will follow `paths`, and the values of Secrets in the directory `secrets`; nothing is read yet.
    pub fn new(paths: Vec<PathBuf>, secrets: Option<&Path>) -> Self {
        let secrets = secrets.map(SecretFiles::new);
        Self { rescan: Arc::default(), state: State { paths, secrets, ..State::default() } }
    }

    /// Wakes the source: it looks at once, and takes what it sees without waiting for a second look.
    pub fn rescan(&self) -> Arc<Notify> {
        Arc::clone(&self.rescan)
    }

    /// Follows the files until `stop`. The first version is sent as soon as all files are read, later ones whenever they change.
    pub async fn run(self, desired: watch::Sender<Option<Desired>>, stop: CancellationToken) {
        let Self { rescan, mut state } = self;
        let mut at_once = true;
        loop {
            // Files may lie on a slow disk: not on a thread that serves scrapes.
            let look = tokio::task::spawn_blocking(move || {
                let news = state.look(at_once);
                (state, news)
            });
            // One that hangs, as on a file system whose server is gone, is left behind by whoever stops.
            let look = tokio::select! {
                () = stop.cancelled() => return,
                look = look => look,
            };
            let Ok((after, news)) = look else {
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

/// What is known of the files, between two looks.
#[derive(Debug, Default)]
struct State {
    paths: Vec<PathBuf>,
    /// What the last look saw. A file is read when two looks saw the same, so that a half-written one is left in peace.
    seen: Seen,
    /// What was read.
    read: BTreeMap<Arc<Path>, Version>,
    /// The order in which the files count.
    order: Vec<Arc<Path>>,
    /// Values of Secrets that stand in files of their own.
    secrets: Option<SecretFiles>,
    /// What targets want of these.
    wanted: BTreeSet<SecretKey>,
    /// Problems that were logged and still exist.
    logged: BTreeSet<FileProblem>,
    started: bool,
    complete: bool,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    order: Vec<Arc<Path>>,
    files: BTreeMap<Arc<Path>, Signature>,
    /// Paths that could not be listed; their files are kept.
    unlisted: Vec<FileProblem>,
}

impl Seen {
    fn add(&mut self, file: &Arc<Path>, signature: impl FnOnce() -> Signature) {
        if !self.files.contains_key(file) {
            self.files.insert(Arc::clone(file), signature());
            self.order.push(Arc::clone(file));
        }
    }
}

/// One file as it was last read.
#[derive(Debug)]
struct Version {
    signature: Signature,
    content: Content,
    /// What earlier versions said and this one says no more, although it may have meant to.
    kept: Content,
}

impl State {
    /// Looks at all files, and reads those that changed and have come to rest (all that changed, if `at_once`).
    fn look(&mut self, at_once: bool) -> Option<Desired> {
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
        let other_errors = now.unlisted != self.seen.unlisted;
        for file in &gone {
            self.read.remove(file);
        }
        for file in &changed {
            let content = Content::read(file);
            let kept = self.read.remove(file).map_or_else(Content::default, |before| before.outlived_by(&content));
            if let Some(signature) = now.files.get(file) {
                self.read.insert(Arc::clone(file), Version { signature: *signature, content, kept });
            }
        }
        let is_read = |file: &Arc<Path>| self.read.get(file).is_some_and(|version| !version.content.unread);
        self.complete |= now.unlisted.is_empty() && now.files.keys().all(is_read);
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
                    self.wanted = targets.flat_map(|(id, target, _)| wanted(id, target)).collect();
                }
                secrets.look(&self.wanted, at_once)
            }
        };
        (fresh || new_secrets).then(|| self.publish())
    }

    fn scan(&self) -> Seen {
        let mut now = Seen::default();
        for path in &self.paths {
            match files(path) {
                Ok(listed) => listed.into_iter().for_each(|file| now.add(&file, || signature(&file))),
                Err(error) => {
                    now.unlisted.push(unlisted(path, &error));
                    // Whatever was there is kept, unread, until the path can be listed again.
                    let below = |file: &Path| file == path.as_path() || file.parent() == Some(path);
                    let known = self.read.iter().filter(|(file, _)| below(file));
                    known.for_each(|(file, version)| now.add(file, || version.signature));
                }
            }
        }
        now
    }

    /// Puts together what all files say, and logs what is newly wrong.
    fn publish(&mut self) -> Desired {
        let mut loaded = Loaded::default();
        let mut places = BTreeMap::new();
        loaded.problems.clone_from(&self.seen.unlisted);
        if let Some(secrets) = &self.secrets {
            loaded.problems.extend(secrets.problems().cloned());
            loaded.objects.add_values(secrets.values());
        }
        let versions: Vec<&Version> = self.order.iter().filter_map(|file| self.read.get(file)).collect();
        for version in &versions {
            loaded.add(&version.content, &mut places);
        }
        // What is kept counts last: a target that moved to another file is there already.
        let mut kept = BTreeSet::new();
        for version in &versions {
            for (id, target, origin) in &version.kept.targets {
                if let Entry::Vacant(place) = loaded.targets.entry(id.clone()) {
                    place.insert((Arc::clone(target), origin.clone()));
                    kept.insert(id);
                }
            }
            for (id, keys, origin) in &version.kept.objects {
                if !places.contains_key(id) && loaded.objects.add(id.clone(), keys.clone()) {
                    places.insert(id.clone(), origin.clone());
                }
            }
        }
        let mut refused = BTreeMap::new();
        for (id, bad) in versions.iter().flat_map(|version| &version.content.bad_targets) {
            refused.entry(id).or_insert_with(|| match loaded.targets.get(id) {
                None => bad.clone(),
                Some(_) if kept.contains(id) => bad.clone().and("; its last good version goes on"),
                Some((_, origin)) => bad.clone().and(&format!("; the one at {origin} counts")),
            });
        }
        let refused = refused.into_values().collect();
        self.log(&loaded);
        let unknown = self.unknown(&loaded);
        let targets: BTreeMap<_, _> = loaded.targets.into_iter().map(|(id, (target, _))| (id, target)).collect();
        Desired { targets, objects: Arc::new(loaded.objects), unknown, refused, problems: loaded.problems }
    }

    /// Why there may be more targets than `loaded` has.
    fn unknown(&self, loaded: &Loaded) -> Option<String> {
        /// Who has mended these sees the others.
        const TOLD: usize = 3;
        let waiting = self.seen.order.iter().filter(|file| !self.read.contains_key(*file));
        let waiting = waiting.map(|file| format!("{}: not read yet", file.display()));
        let unread = self.order.iter().filter_map(|file| self.read.get(file)).filter(|version| version.content.unread);
        let unread = self.seen.unlisted.iter().chain(unread.flat_map(|version| &version.content.problems));
        let mut why: Vec<String> = unread.map(ToString::to_string).chain(waiting).collect();
        // Nothing at all, while something is wrong or not yet read: perhaps the only file is half-written.
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
            tracing::info!("all target files are good again");
        }
        self.logged = problems;
        tracing::info!(files = self.order.len(), targets = loaded.targets.len(), "read target files");
        if loaded.targets.is_empty() && self.logged.is_empty() && self.order.len() == self.seen.files.len() {
            tracing::warn!("there is no ScrapeTarget in the target files");
        }
    }
}

impl Version {
    /// What of this version must be kept now that the file says `next`: the last good version of everything that `next` declares
    /// badly, and, if a part of `next` cannot be understood at all, of everything that is missing in it.
    fn outlived_by(self, next: &Content) -> Content {
        let targets_now: BTreeSet<&TargetId> = next.targets.iter().map(|(id, ..)| id).collect();
        let objects_now: BTreeSet<_> = next.objects.iter().map(|(id, ..)| id).collect();
        let mut kept = Content::default();
        for version in [self.content, self.kept] {
            kept.targets.extend(
                version.targets.into_iter().filter(|(id, ..)| {
                    !targets_now.contains(id) && (next.unclear || next.bad_targets.contains_key(id))
                }),
            );
            kept.objects.extend(
                version
                    .objects
                    .into_iter()
                    .filter(|(id, ..)| !objects_now.contains(id) && (next.unclear || next.bad_objects.contains(id))),
            );
        }
        kept
    }
}

#[cfg(test)]
mod tests;
