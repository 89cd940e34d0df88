//! Where manifests are read from: files and directories; for a command that reads only once also pipes and standard input.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::load::{FileProblem, not_listed};

/// The largest file that is read: 10,000 targets take about 5 MiB.
const MAX_FILE: u64 = 64 << 20;

/// What to do about a larger one.
const TOO_LARGE: &str = "split it";

/// The name of standard input in messages.
const STDIN: &str = "<stdin>";

/// Whether a path means standard input, which can be read once and never changes. A file of that name is `./-`.
pub fn is_stdin(path: &Path) -> bool {
    path == Path::new("-") || path == Path::new("/dev/stdin")
}

/// The texts of files, each read once: a pipe cannot be read again.
#[derive(Debug)]
pub struct Inputs(pub(super) Vec<InputFile>);

/// One file, or a path that cannot be listed.
#[derive(Debug)]
pub(super) enum InputFile {
    /// A file with its text, or why it cannot be read.
    File(Arc<Path>, io::Result<String>),
    /// Why the path cannot be listed.
    NotListed(FileProblem),
}

impl Inputs {
    /// Reads every file of these paths once, in order. A path that is given may be a pipe, such as `<(…)` of a shell; in a directory only
    /// plain files are read.
    pub fn read(paths: &[PathBuf]) -> Self {
        let mut seen = BTreeSet::new();
        let mut found = Vec::new();
        for path in paths {
            if is_stdin(path) {
                let name: Arc<Path> = Arc::from(Path::new(STDIN));
                if seen.insert(Arc::clone(&name)) {
                    found.push(InputFile::File(name, bounded(io::stdin().lock(), MAX_FILE, TOO_LARGE).and_then(utf8)));
                }
                continue;
            }
            match files(path) {
                Ok(files) => found.extend(files.into_iter().filter(|file| seen.insert(Arc::clone(file))).map(|file| {
                    let is_named = *file == **path;
                    let text = if is_named { read_any(&file) } else { read_text(&file) };
                    InputFile::File(file, text)
                })),
                Err(error) => found.push(InputFile::NotListed(not_listed(path, &error))),
            }
        }
        Self(found)
    }
}

/// The text of a file that was given by name, which may be a pipe.
fn read_any(file: &Path) -> io::Result<String> {
    utf8(bounded(fs::File::open(file)?, MAX_FILE, TOO_LARGE)?)
}

/// The text of a plain file.
pub(super) fn read_text(file: &Path) -> io::Result<String> {
    utf8(read_plain_file(file, MAX_FILE, TOO_LARGE)?)
}

/// The bytes of a plain file. One of more than `limit` bytes, a number of whole MiB, is refused with an advice.
pub(super) fn read_plain_file(file: &Path, limit: u64, advice: &str) -> io::Result<Vec<u8>> {
    // A pipe could block for ever, so only plain files are opened.
    if !fs::metadata(file)?.is_file() {
        return Err(io::Error::other("it is not a plain file"));
    }
    bounded(fs::File::open(file)?, limit, advice)
}

fn bounded(source: impl Read, limit: u64, advice: &str) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    source.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::other(format!("it is larger than {} MiB, {advice}", limit >> 20)));
    }
    Ok(bytes)
}

fn utf8(bytes: Vec<u8>) -> io::Result<String> {
    String::from_utf8(bytes).map_err(|_| io::Error::other("it is not UTF-8"))
}

/// The files of `path`: itself, or the manifests of a directory in the order of their names. Hidden entries are skipped, so that the
/// `..data` of a mounted ConfigMap is not read twice; symbolic links are followed.
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

/// The version of a file, as far as it is known without reading it: device, inode, size, modification and change time. Contents may
/// change while the length stays, and a file that was renamed over another may be older.
pub(super) type Signature = Result<(u64, u64, u64, (i64, i64), (i64, i64)), io::ErrorKind>;

pub(super) fn signature(file: &Path) -> Signature {
    let data = fs::metadata(file).map_err(|error| error.kind())?;
    Ok((data.dev(), data.ino(), data.size(), (data.mtime(), data.mtime_nsec()), (data.ctime(), data.ctime_nsec())))
}
