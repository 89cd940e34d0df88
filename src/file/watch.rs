//! Follows files and directories while they change, and says each time which targets there are now.
//!
//! It polls: notifications of the kernel miss what network and overlay file systems do, and the symlink swap of a mounted ConfigMap
//! is invisible to most watchers. A look at 10,000 files costs a few milliseconds.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::load::{Content, FileProblem, Loaded, files, unlisted};
use super::manifest::Objects;
use crate::crd::ScrapeTarget;
use crate::target::{Lookup, TargetId};

/// The time between two looks. A change takes effect after the second look that sees it, so within about a second.
const PERIOD: Duration = Duration::from_millis(500);

/// What there should be now.
#[derive(Clone)]
pub struct Desired {
    /// Every good target, and the last good version of every target that is not good any more.
    pub targets: BTreeMap<TargetId, Arc<ScrapeTarget>>,
    /// Their Secrets and ConfigMaps.
    pub objects: Arc<dyn Lookup + Send + Sync>,
    /// Whether every path that was named has been there once, and there is a target or nothing is wrong: before, an empty list may
    /// be a mistake.
    pub complete: bool,
}

/// Files and directories that are followed.
#[derive(Debug)]
pub struct Source {
    rescan: Arc<Notify>,
    state: State,
}

impl Source {
    /// Will follow `paths`; nothing is read yet.
    pub fn new(paths: Vec<PathBuf>) -> Self {
        Self { rescan: Arc::default(), state: State { paths, ..State::default() } }
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

/// What tells one version of a file from another: contents may change without a new length, and a renamed file may be older.
type Signature = Result<(u64, u64, u64, (i64, i64), (i64, i64)), io::ErrorKind>;

fn signature(file: &Path) -> Signature {
    let data = fs::metadata(file).map_err(|error| error.kind())?;
    Ok((data.dev(), data.ino(), data.size(), (data.mtime(), data.mtime_nsec()), (data.ctime(), data.ctime_nsec())))
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
        self.complete |= now.unlisted.is_empty();
        self.seen = now;
        self.order = self.seen.order.iter().filter(|file| self.read.contains_key(*file)).cloned().collect();
        let first = !std::mem::replace(&mut self.started, true);
        (first || !changed.is_empty() || !gone.is_empty() || other_order || other_errors).then(|| self.publish())
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
        let versions: Vec<&Version> = self.order.iter().filter_map(|file| self.read.get(file)).collect();
        for version in &versions {
            loaded.add(&version.content, &mut places);
        }
        // What is kept counts last: a target that moved to another file is there already.
        for version in &versions {
            for (id, target, origin) in &version.kept.targets {
                loaded.targets.entry(id.clone()).or_insert_with(|| (Arc::clone(target), origin.clone()));
            }
            for (id, keys, origin) in &version.kept.objects {
                if !places.contains_key(id) && loaded.objects.add(id.clone(), keys.clone()) {
                    places.insert(id.clone(), origin.clone());
                }
            }
        }
        self.log(&loaded);
        let targets: BTreeMap<_, _> = loaded.targets.into_iter().map(|(id, (target, _))| (id, target)).collect();
        let objects: Objects = loaded.objects;
        // Nothing at all, while something is wrong or not yet read: perhaps the only file is half-written.
        let doubtful = !self.logged.is_empty() || self.order.len() < self.seen.files.len();
        let complete = self.complete && !(targets.is_empty() && doubtful);
        Desired { targets, objects: Arc::new(objects), complete }
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
                version
                    .targets
                    .into_iter()
                    .filter(|(id, ..)| !targets_now.contains(id) && (next.unclear || next.bad_targets.contains(id))),
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
