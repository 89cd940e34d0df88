//! The command `convert`: the targets of a blackbox exporter as ScrapeTargets.

use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::{complain, print};
use crate::cli::ConvertArgs;
use crate::convert::{ConvertInput, ConvertInputs, ConvertOptions, FileAccess, InputFault, MAX_INPUT_BYTES, convert};
use crate::dial::DEFAULT_PROBES_PER_ADDRESS;
use crate::file;

/// The most files of one folder that are looked at.
const MAX_LISTED: usize = 100_000;

/// Exit code 0: converted, with what is left behind said; 1: an input is refused, or all of it is left behind.
pub(super) fn run(args: ConvertArgs) -> ExitCode {
    let ConvertArgs { file, prometheus, manifests, values, namespace, job, secrets } = args;
    let mut faults = Vec::new();
    let mut read = |path: &Path| {
        let input = input(path);
        input.map_err(|fault| faults.push(fault)).ok()
    };
    let no_targets = prometheus.is_empty() && manifests.is_empty() && values.is_none();
    let inputs = ConvertInputs {
        blackbox: file.as_deref().and_then(&mut read),
        prometheus: prometheus.iter().filter_map(|path| read(path)).collect(),
        manifests: manifests.iter().filter_map(|path| read(path)).collect(),
        values: values.as_deref().and_then(&mut read),
    };
    let converted = if faults.is_empty() {
        let max_probes_per_address = DEFAULT_PROBES_PER_ADDRESS;
        let options = ConvertOptions { namespace, job, max_probes_per_address, with_secrets: secrets };
        convert(&inputs, &options, &LocalFiles)
    } else {
        Err(faults)
    };
    match converted {
        Ok(conversion) => {
            print(&conversion.manifests);
            for remark in &conversion.remarks {
                complain(&remark.to_string());
            }
            if conversion.targets == 0 && !conversion.remarks.is_empty() {
                complain(if no_targets {
                    "error: nothing is converted: no targets are given, name them with --prometheus, --manifests or --values"
                } else {
                    "error: nothing is converted: the lines above say why"
                });
                return ExitCode::FAILURE;
            }
            ExitCode::SUCCESS
        }
        Err(faults) => {
            for fault in faults {
                complain(&format!("error: {fault}"));
            }
            ExitCode::FAILURE
        }
    }
}

fn input(path: &Path) -> Result<ConvertInput, InputFault> {
    if file::is_stdin(path) {
        let name = "<stdin>".to_owned();
        return match bounded(io::stdin().lock()) {
            Ok(text) => Ok(ConvertInput { name, folder: PathBuf::new(), text }),
            Err(why) => Err(InputFault { file: name, line: None, path: String::new(), message: why }),
        };
    }
    let name = path.display().to_string();
    let folder = path.parent().map(Path::to_owned).unwrap_or_default();
    // A file that is named may be a pipe, as `<(…)` of a shell is.
    match fs::File::open(path).map_err(|error| error.to_string()).and_then(bounded) {
        Ok(text) => Ok(ConvertInput { name, folder, text }),
        Err(why) => {
            Err(InputFault { file: name, line: None, path: String::new(), message: format!("cannot be read: {why}") })
        }
    }
}

fn bounded(source: impl io::Read) -> Result<String, String> {
    let mut bytes = Vec::new();
    source.take(MAX_INPUT_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if bytes.len() > MAX_INPUT_BYTES {
        return Err(format!("it is larger than {} MiB, split it", MAX_INPUT_BYTES >> 20));
    }
    String::from_utf8(bytes).map_err(|_| "it is not UTF-8".to_owned())
}

/// The files of this machine that inputs name.
struct LocalFiles;

impl FileAccess for LocalFiles {
    fn read(&self, path: &Path) -> Result<String, String> {
        // A pipe could block for ever, so only plain files are opened.
        let is_plain = fs::metadata(path).map_err(|error| error.to_string())?.is_file();
        if !is_plain {
            return Err("it is not a plain file".to_owned());
        }
        bounded(fs::File::open(path).map_err(|error| error.to_string())?)
    }

    fn list(&self, folder: &Path) -> Result<Vec<PathBuf>, String> {
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        let entries = fs::read_dir(folder).map_err(|error| error.to_string())?;
        let entries = entries.take(MAX_LISTED).map(|entry| entry.map(|entry| entry.path()));
        entries.collect::<Result<_, _>>().map_err(|error| error.to_string())
    }
}
