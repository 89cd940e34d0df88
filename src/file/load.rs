//! Reads files and directories once: which targets, Secrets and ConfigMaps they declare, and what is wrong with them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::document::documents;
use super::input::{InputFile, Inputs, read_text};
use super::manifest::{self, FileObjectId, FileObjects, Keys, Manifest};
use super::secrets::{SecretFiles, secret_keys_of};
use crate::crd::ParsedTarget;
use crate::target::{RefusedTarget, TargetId};
use crate::yaml::Node;

/// The most problems, and the most manifests of other kinds, that are reported of one file: a large file of something else may have a
/// million.
pub(super) const MAX_PROBLEMS: usize = 1000;

/// The longest name in Kubernetes.
const LONGEST_NAME: usize = 253;

/// The place of a manifest.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Origin {
    /// The file, as it was given.
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
    /// The file, as it was given.
    pub file: Arc<Path>,
    /// The line, counted from 1; `None` if it is about the file as a whole.
    pub line: Option<usize>,
    /// The document, counted from 1.
    pub document: Option<usize>,
    /// Kind and name of the manifest, as far as they are known.
    pub object: Option<String>,
    /// The field; empty if it is about the manifest as a whole.
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
    /// The message with its place, cut to a length that a page can show.
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
        // Keys of a manifest may contain anything, line breaks included, and one problem must stay one line.
        text.chars()
            .try_for_each(|c| if c.is_control() { write!(f, "{}", c.escape_default()) } else { write!(f, "{c}") })
    }
}

/// What one file declares.
#[derive(Debug, Default)]
pub(super) struct FileContent {
    /// Valid targets, in order.
    pub(super) targets: Vec<(TargetId, Arc<ParsedTarget>, Origin)>,
    /// Valid Secrets and ConfigMaps, in order.
    pub(super) objects: Vec<(FileObjectId, Keys, Origin)>,
    /// Invalid targets.
    pub(super) invalid_targets: BTreeMap<TargetId, RefusedTarget>,
    /// Invalid Secrets and ConfigMaps.
    pub(super) invalid_objects: BTreeSet<FileObjectId>,
    /// Whether the file itself cannot be read.
    pub(super) unread: bool,
    /// Whether the file may declare more than could be read: the file or a document of it is unreadable, or has no name.
    pub(super) unclear: bool,
    /// What is wrong.
    pub(super) problems: Vec<FileProblem>,
    /// How many more problems there are than are reported.
    untold: usize,
    /// Manifests of other kinds, which are ignored.
    pub(super) others: Vec<FileProblem>,
}

impl FileContent {
    /// Reads a file. It never fails: a file that cannot be read is a problem.
    pub(super) fn read(file: &Arc<Path>) -> Self {
        Self::interpret(file, read_text(file).as_deref())
    }

    /// Interprets what came of reading a file.
    fn interpret(file: &Arc<Path>, text: Result<&str, &io::Error>) -> Self {
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

    /// Interprets the text of a file.
    pub(super) fn parse(file: &Arc<Path>, text: &str) -> Self {
        let mut content = Self::default();
        for document in documents(text) {
            let origin = Origin { file: Arc::clone(file), document: document.index, line: document.line };
            match &document.content {
                Ok(node) => {
                    for (path, manifest) in manifest::read(&node.to_value()) {
                        content.add(manifest, &origin, node, &path);
                    }
                }
                Err(error) => {
                    content.unclear = true;
                    let problem = FileProblem::of_document(&origin, None, error.message.clone());
                    content.report(FileProblem { line: Some(error.line), path: error.path.clone(), ..problem });
                }
            }
        }
        if content.untold > 0 {
            let message = format!("{} more problems are omitted, fix these first", content.untold);
            content.problems.push(FileProblem::of_file(file, message));
        }
        content
    }

    fn add(&mut self, manifest: Manifest, origin: &Origin, document: &Node, prefix: &str) {
        let mut refused = None;
        let (object, found) = match manifest {
            Manifest::Target(Some(id), Ok(target)) => {
                return self.targets.push((id, Arc::from(target), origin.clone()));
            }
            Manifest::Object(Some(id), Ok(keys)) => return self.objects.push((id, keys, origin.clone())),
            Manifest::Other(kind) => {
                let message = format!("{kind} is ignored");
                if self.others.len() < MAX_PROBLEMS {
                    self.others.push(FileProblem::of_document(origin, None, message));
                }
                return;
            }
            Manifest::Unreadable(problem) => {
                self.unclear = true;
                (None, vec![problem])
            }
            Manifest::Target(id, judged) => {
                let name = object_name("ScrapeTarget", id.as_ref());
                self.unclear |= id.is_none();
                let Some(invalid) = judged.err() else { return };
                // No ScrapeTarget can have a longer name, and pages would have to show it.
                let id = id.filter(|id| id.name.len() <= LONGEST_NAME && id.namespace.len() <= LONGEST_NAME);
                refused = id.map(|id| (id, invalid.kind, invalid.url));
                (Some(name), invalid.errors)
            }
            Manifest::Object(id, judged) => {
                let name = id.as_ref().map(|(kind, id)| format!("{kind} {id}"));
                self.unclear |= id.is_none();
                self.invalid_objects.extend(id);
                (name, judged.err().unwrap_or_default())
            }
        };
        let (mut sentences, mut first_line) = (Vec::new(), origin.line);
        for problem in found {
            sentences.push(problem.to_string());
            if self.problems.len() >= MAX_PROBLEMS {
                self.untold += 1;
                continue;
            }
            let path = if prefix.is_empty() { problem.path.clone() } else { format!("{prefix}.{}", problem.path) };
            let line = document.line_of(&path).unwrap_or(origin.line);
            if sentences.len() == 1 {
                first_line = line;
            }
            let whole = FileProblem::of_document(origin, object.clone(), problem.message);
            self.report(FileProblem { line: Some(line), path: problem.path, ..whole });
        }
        if let Some((id, kind, url)) = refused {
            let message = format!("{}:{first_line}: {}", origin.file.display(), sentences.join("; "));
            self.invalid_targets.entry(id.clone()).or_insert_with(|| RefusedTarget::new(id, kind, url, &message));
        }
    }

    fn report(&mut self, problem: FileProblem) {
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push(problem);
        } else {
            self.untold += 1;
        }
    }
}

fn object_name(kind: &str, id: Option<&TargetId>) -> String {
    id.map_or_else(|| kind.to_owned(), |id| format!("{kind} {id}"))
}

/// Everything that a set of files declares.
#[derive(Debug, Default)]
pub struct Loaded {
    /// The valid targets.
    pub targets: BTreeMap<TargetId, (Arc<ParsedTarget>, Origin)>,
    /// The valid Secrets and ConfigMaps.
    pub objects: FileObjects,
    /// What is wrong.
    pub problems: Vec<FileProblem>,
    /// Manifests of other kinds, which are ignored.
    pub others: Vec<FileProblem>,
}

impl Loaded {
    /// What these inputs declare.
    pub(super) fn of(inputs: &Inputs) -> Self {
        let mut loaded = Self::default();
        let mut origins = BTreeMap::new();
        for input in &inputs.0 {
            match input {
                InputFile::File(file, text) => loaded.add(&FileContent::interpret(file, text.as_deref()), &mut origins),
                InputFile::NotListed(problem) => loaded.problems.push(problem.clone()),
            }
        }
        loaded
    }

    /// Adds the values of Secrets from the files of a directory, as far as targets refer to them.
    pub fn add_secrets(&mut self, folder: &Path) {
        let mut files = SecretFiles::new(folder);
        files.refresh(&self.targets.iter().flat_map(|(id, (target, _))| secret_keys_of(id, target)).collect(), true);
        self.problems.extend(files.problems().cloned());
        self.objects.add_values(files.values());
    }

    /// Adds what a file declares. A second object of the same kind and name is a problem; the first is used.
    pub(super) fn add(&mut self, content: &FileContent, origins: &mut BTreeMap<FileObjectId, Origin>) {
        self.problems.extend(content.problems.iter().cloned());
        self.others.extend(content.others.iter().cloned());
        for (id, target, origin) in &content.targets {
            if let Some((_, first)) = self.targets.get(id) {
                self.problems.push(declared_twice(object_name("ScrapeTarget", Some(id)), origin, first));
            } else {
                self.targets.insert(id.clone(), (Arc::clone(target), origin.clone()));
            }
        }
        for (id, keys, origin) in &content.objects {
            if let Some(first) = origins.get(id) {
                self.problems.push(declared_twice(format!("{} {}", id.0, id.1), origin, first));
            } else if self.objects.add(id.clone(), keys.clone()) {
                origins.insert(id.clone(), origin.clone());
            }
        }
    }
}

fn declared_twice(object: String, second: &Origin, first: &Origin) -> FileProblem {
    let message =
        format!("is already declared at {first} (document {}), which is used; rename or remove one", first.document);
    FileProblem { path: "metadata.name".to_owned(), ..FileProblem::of_document(second, Some(object), message) }
}

/// A path that cannot be listed.
pub(super) fn not_listed(path: &Path, error: &io::Error) -> FileProblem {
    FileProblem::of_file(&Arc::from(path), format!("cannot be read: {error}"))
}

/// Reads files and directories once.
pub fn load(paths: &[PathBuf]) -> Loaded {
    Loaded::of(&Inputs::read(paths))
}
