//! Reads files and directories once: which targets and objects there are, and what is wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::input::{Input, Inputs, read_text};
use super::line::line_of;
use super::manifest::{self, Keys, Manifest, ObjectId, Objects};
use super::secrets::{SecretFiles, wanted};
use super::yaml::{self, Document};
use crate::crd::ParsedTarget;
use crate::target::{Refused, TargetId};

/// The most problems, and the most manifests of other kinds, that are told of one file: a large file of something else has a million.
pub(super) const MAX_PROBLEMS: usize = 1000;

/// The longest name that Kubernetes has.
const LONGEST_NAME: usize = 253;

/// Where a manifest stands.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Origin {
    /// The file, as it was named.
    pub file: Arc<Path>,
    /// The document in the file, counted from 1.
    pub document: usize,
    /// The line on which the document begins, counted from 1.
    pub line: usize,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.line)
    }
}

/// Something wrong in a file. Shown as `FILE:LINE: document N (ScrapeTarget ns/name): field: message`, on one line.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileProblem {
    /// The file, as it was named.
    pub file: Arc<Path>,
    /// The line, counted from 1; nothing if it is about the file as a whole.
    pub line: Option<usize>,
    /// The document, counted from 1.
    pub document: Option<usize>,
    /// Kind and name of the manifest, as far as they are known.
    pub object: Option<String>,
    /// The field; empty if it is about the whole manifest.
    pub path: String,
    /// What is wrong, and what to write instead.
    pub message: String,
}

impl FileProblem {
    pub(super) fn of_file(file: &Arc<Path>, message: impl Into<String>) -> Self {
        let file = Arc::clone(file);
        Self { file, line: None, document: None, object: None, path: String::new(), message: message.into() }
    }

    pub(super) fn of_document(origin: &Origin, object: Option<String>, message: impl Into<String>) -> Self {
        Self {
            file: Arc::clone(&origin.file),
            line: Some(origin.line),
            document: Some(origin.document),
            object,
            path: String::new(),
            message: message.into(),
        }
    }
}

impl FileProblem {
    /// The whole sentence, cut to a length that a page can show.
    pub fn short(&self) -> String {
        const LONGEST: usize = 512;
        let text = self.to_string();
        match text.char_indices().nth(LONGEST) {
            None => text,
            Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        }
    }
}

impl fmt::Display for FileProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = self.line.map(|line| format!(":{line}")).unwrap_or_default();
        let object = self.object.as_ref().map(|object| format!(" ({object})")).unwrap_or_default();
        let document = self.document.map(|document| format!(": document {document}{object}")).unwrap_or_default();
        let path = if self.path.is_empty() { String::new() } else { format!(": {}", self.path) };
        let text = format!("{}{line}{document}{path}: {}", self.file.display(), self.message);
        // Keys of a manifest are the user's and may contain anything; one problem is one line all the same.
        text.chars()
            .try_for_each(|c| if c.is_control() { write!(f, "{}", c.escape_default()) } else { write!(f, "{c}") })
    }
}

/// What one file says.
#[derive(Debug, Default)]
pub(super) struct Content {
    /// Good targets, in order.
    pub(super) targets: Vec<(TargetId, Arc<ParsedTarget>, Origin)>,
    /// Good Secrets and ConfigMaps, in order.
    pub(super) objects: Vec<(ObjectId, Keys, Origin)>,
    /// Targets that are declared, but badly.
    pub(super) bad_targets: BTreeMap<TargetId, Refused>,
    /// Secrets and ConfigMaps that are declared, but badly.
    pub(super) bad_objects: BTreeSet<ObjectId>,
    /// Whether the file itself cannot be read.
    pub(super) unread: bool,
    /// Whether there may be more than could be understood: the file or a document is unreadable.
    pub(super) unclear: bool,
    /// What is wrong.
    pub(super) problems: Vec<FileProblem>,
    /// How many more problems there are.
    untold: usize,
    /// Manifests of other kinds, which are left alone.
    pub(super) others: Vec<FileProblem>,
}

impl Content {
    /// Reads a file. It never fails: what cannot be read is a problem.
    pub(super) fn read(file: &Arc<Path>) -> Self {
        Self::of(file, read_text(file).as_deref())
    }

    /// Understands a file by what came of reading it.
    fn of(file: &Arc<Path>, text: Result<&str, &io::Error>) -> Self {
        match text {
            Ok(text) => Self::parse(file, text),
            Err(error) => Self {
                unread: true,
                unclear: true,
                problems: vec![FileProblem::of_file(file, format!("cannot be read: {error}"))],
                ..Self::default()
            },
        }
    }

    /// Understands the text of a file.
    pub(super) fn parse(file: &Arc<Path>, text: &str) -> Self {
        let mut content = Self::default();
        for document in yaml::documents(text) {
            let origin = Origin { file: Arc::clone(file), document: document.index, line: document.line };
            match &document.value {
                Ok(value) => {
                    for (path, manifest) in manifest::read(value) {
                        content.take(manifest, &origin, &document, &path);
                    }
                }
                Err(error) => {
                    content.unclear = true;
                    let problem = FileProblem::of_document(&origin, None, error.message.clone());
                    content.note(FileProblem { line: Some(error.line), ..problem });
                }
            }
        }
        if content.untold > 0 {
            let message = format!("{} more problems are left out, mend these first", content.untold);
            content.problems.push(FileProblem::of_file(file, message));
        }
        content
    }

    fn take(&mut self, manifest: Manifest, origin: &Origin, document: &Document<'_>, prefix: &str) {
        let mut refused = None;
        let (object, found) = match manifest {
            Manifest::Target(Some(id), Ok(target)) => {
                return self.targets.push((id, Arc::from(target), origin.clone()));
            }
            Manifest::Object(Some(id), Ok(keys)) => return self.objects.push((id, keys, origin.clone())),
            Manifest::Other(kind) => {
                let message = format!("{kind} is left alone");
                if self.others.len() < MAX_PROBLEMS {
                    self.others.push(FileProblem::of_document(origin, None, message));
                }
                return;
            }
            Manifest::Bad(problem) => {
                self.unclear = true;
                (None, vec![problem])
            }
            Manifest::Target(id, judged) => {
                let name = named("ScrapeTarget", id.as_ref());
                self.unclear |= id.is_none();
                let Some(bad) = judged.err() else { return };
                // No target can ever have had a longer name, and everybody would have to show it.
                let id = id.filter(|id| id.name.len() <= LONGEST_NAME && id.namespace.len() <= LONGEST_NAME);
                refused = id.map(|id| (id, bad.kind, bad.url));
                (Some(name), bad.problems)
            }
            Manifest::Object(id, judged) => {
                let name = id.as_ref().map(|(kind, id)| format!("{kind} {id}"));
                self.unclear |= id.is_none();
                self.bad_objects.extend(id);
                (name, judged.err().unwrap_or_default())
            }
        };
        let (mut sentences, mut first_line) = (Vec::new(), origin.line);
        for problem in found {
            sentences.push(problem.to_string());
            if self.problems.len() >= MAX_PROBLEMS {
                self.untold += 1;
                continue; // to find its line costs as much as to read the document
            }
            let path = if prefix.is_empty() { problem.path.clone() } else { format!("{prefix}.{}", problem.path) };
            let line = line_of(document.text, &path).map_or(document.line, |line| document.offset + line);
            if sentences.len() == 1 {
                first_line = line;
            }
            let whole = FileProblem::of_document(origin, object.clone(), problem.message);
            self.note(FileProblem { line: Some(line), path: problem.path, ..whole });
        }
        if let Some((id, kind, url)) = refused {
            let message = format!("{}:{first_line}: {}", origin.file.display(), sentences.join("; "));
            self.bad_targets.entry(id.clone()).or_insert_with(|| Refused::new(id, kind, url, &message));
        }
    }

    fn note(&mut self, problem: FileProblem) {
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push(problem);
        } else {
            self.untold += 1;
        }
    }
}

fn named(kind: &str, id: Option<&TargetId>) -> String {
    id.map_or_else(|| kind.to_owned(), |id| format!("{kind} {id}"))
}

/// Everything that a set of files says.
#[derive(Debug, Default)]
pub struct Loaded {
    /// The good targets.
    pub targets: BTreeMap<TargetId, (Arc<ParsedTarget>, Origin)>,
    /// The good Secrets and ConfigMaps.
    pub objects: Objects,
    /// What is wrong.
    pub problems: Vec<FileProblem>,
    /// Manifests of other kinds, which are left alone.
    pub others: Vec<FileProblem>,
}

impl Loaded {
    /// What these texts say.
    pub(super) fn of(inputs: &Inputs) -> Self {
        let mut loaded = Self::default();
        let mut places = BTreeMap::new();
        for input in &inputs.0 {
            match input {
                Input::File(file, text) => loaded.add(&Content::of(file, text.as_deref()), &mut places),
                Input::Unlisted(problem) => loaded.problems.push(problem.clone()),
            }
        }
        loaded
    }

    /// Adds the values of Secrets that stand as files in a directory, as far as targets name them.
    pub fn add_secrets(&mut self, folder: &Path) {
        let mut files = SecretFiles::new(folder);
        files.look(&self.targets.iter().flat_map(|(id, (target, _))| wanted(id, target)).collect(), true);
        self.problems.extend(files.problems().cloned());
        self.objects.add_values(files.values());
    }

    /// Adds what a file says. What has the name of something that is there already is a problem; the first stays.
    pub(super) fn add(&mut self, content: &Content, places: &mut BTreeMap<ObjectId, Origin>) {
        self.problems.extend(content.problems.iter().cloned());
        self.others.extend(content.others.iter().cloned());
        for (id, target, origin) in &content.targets {
            if let Some((_, first)) = self.targets.get(id) {
                self.problems.push(twice(named("ScrapeTarget", Some(id)), origin, first));
            } else {
                self.targets.insert(id.clone(), (Arc::clone(target), origin.clone()));
            }
        }
        for (id, keys, origin) in &content.objects {
            if let Some(first) = places.get(id) {
                self.problems.push(twice(format!("{} {}", id.0, id.1), origin, first));
            } else if self.objects.add(id.clone(), keys.clone()) {
                places.insert(id.clone(), origin.clone());
            }
        }
    }
}

fn twice(object: String, second: &Origin, first: &Origin) -> FileProblem {
    let message =
        format!("is declared already at {first} (document {}), which stays; rename or remove one", first.document);
    FileProblem { path: "metadata.name".to_owned(), ..FileProblem::of_document(second, Some(object), message) }
}

/// A path that cannot even be listed.
pub(super) fn unlisted(path: &Path, error: &io::Error) -> FileProblem {
    FileProblem::of_file(&Arc::from(path), format!("cannot be read: {error}"))
}

/// Reads files and directories once.
pub fn load(paths: &[PathBuf]) -> Loaded {
    Loaded::of(&Inputs::read(paths))
}
