//! What manifests are read from: plain files and directories of them; and for a command that reads once, also pipes and standard input.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::load::{FileProblem, unlisted};

/// The largest file that is read: 10,000 targets take about 5 MiB.
const MAX_FILE: u64 = 64 << 20;

/// What standard input is called in problems.
const STDIN: &str = "<stdin>";

/// Whether a path stands for standard input, which can be read once and never changes. A file of that name is `./-`.
pub fn is_stdin(path: &Path) -> bool {
    path == Path::new("-") || path == Path::new("/dev/stdin")
}

/// The texts of some files, each read once: what comes by a pipe is there for every question about it.
#[derive(Debug)]
pub struct Inputs(pub(super) Vec<Input>);

/// One file, or a path that cannot even be listed.
#[derive(Debug)]
pub(super) enum Input {
    /// A file with its text, or why it cannot be read.
    File(Arc<Path>, io::Result<String>),
    /// Why there is nothing to read.
    Unlisted(FileProblem),
}

impl Inputs {
    /// Reads everything that these paths stand for, each file once, in order. A path that is named may be a pipe, as `<(…)` of a shell
    /// is one; what a directory holds must be plain files.
    pub fn read(paths: &[PathBuf]) -> Self {
        let mut seen = BTreeSet::new();
        let mut found = Vec::new();
        for path in paths {
            if is_stdin(path) {
                let name: Arc<Path> = Arc::from(Path::new(STDIN));
                if seen.insert(Arc::clone(&name)) {
                    found.push(Input::File(name, bounded(io::stdin().lock())));
                }
                continue;
            }
            match files(path) {
                Ok(files) => found.extend(files.into_iter().filter(|file| seen.insert(Arc::clone(file))).map(|file| {
                    let is_named = *file == **path;
                    let text = if is_named { fs::File::open(&file).and_then(bounded) } else { read_text(&file) };
                    Input::File(file, text)
                })),
                Err(error) => found.push(Input::Unlisted(unlisted(path, &error))),
            }
        }
        Self(found)
    }
}

/// The text of a plain file.
pub(super) fn read_text(file: &Path) -> io::Result<String> {
    // A pipe would block for ever, so only plain files are opened.
    if !fs::metadata(file)?.is_file() {
        return Err(io::Error::other("it is not a plain file"));
    }
    bounded(fs::File::open(file)?)
}

fn bounded(source: impl Read) -> io::Result<String> {
    let mut bytes = Vec::new();
    source.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(io::Error::other(format!("it is larger than {} MiB, split it", MAX_FILE >> 20)));
    }
    String::from_utf8(bytes).map_err(|_| io::Error::other("it is not UTF-8"))
}

/// The files that `path` stands for: itself, or the manifests of a directory in the order of their names. Hidden entries are left
/// out, so that the `..data` of a mounted ConfigMap is not read twice; its links are followed.
pub(super) fn files(path: &Path) -> io::Result<Vec<Arc<Path>>> {
    if !fs::metadata(path)?.is_dir() {
        return Ok(vec![Arc::from(path)]);
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(path)? {
        let name = PathBuf::from(entry?.file_name());
        let hidden = name.to_string_lossy().starts_with('.');
        if !hidden && name.extension().is_some_and(|end| end == "yaml" || end == "yml" || end == "json") {
            found.push(Arc::from(path.join(name)));
        }
    }
    found.sort();
    Ok(found)
}

/// What tells one version of a file from another: contents may change without a new length, and a renamed file may be older.
pub(super) type Signature = Result<(u64, u64, u64, (i64, i64), (i64, i64)), io::ErrorKind>;

pub(super) fn signature(file: &Path) -> Signature {
    let data = fs::metadata(file).map_err(|error| error.kind())?;
    Ok((data.dev(), data.ino(), data.size(), (data.mtime(), data.mtime_nsec()), (data.ctime(), data.ctime_nsec())))
}
