//! The configuration of a blackbox exporter with what asks for its modules: an error has one line, and what is converted is valid.
#![no_main]

use std::path::{Path, PathBuf};

use libfuzzer_sys::fuzz_target;
use scrapetarget_exporter::convert::{ConvertInput, ConvertInputs, ConvertOptions, FileAccess, convert};
use scrapetarget_exporter::{crd, file};

/// What the inputs name is not there.
struct NoFiles;

impl FileAccess for NoFiles {
    fn read(&self, _: &Path) -> Result<String, String> {
        Err("no such file".to_owned())
    }

    fn list(&self, _: &Path) -> Result<Vec<PathBuf>, String> {
        Err("no such folder".to_owned())
    }
}

fuzz_target!(|text: &str| {
    let mut parts = text.split("\n===\n").map(|text| ConvertInput {
        name: "input".to_owned(),
        folder: PathBuf::new(),
        text: text.to_owned(),
    });
    let inputs = ConvertInputs {
        blackbox: parts.next(),
        prometheus: parts.next().into_iter().collect(),
        manifests: parts.next().into_iter().collect(),
        values: parts.next(),
    };
    let options = ConvertOptions { with_secrets: true, ..ConvertOptions::default() };
    match convert(&inputs, &options, &NoFiles) {
        Err(faults) => {
            assert!(!faults.is_empty(), "refused without a reason");
            for fault in faults {
                assert_eq!(fault.to_string().lines().count(), 1, "{fault}");
            }
        }
        Ok(conversion) => {
            for remark in &conversion.remarks {
                assert_eq!(remark.to_string().lines().count(), 1, "{remark}");
            }
            let mut targets = 0;
            for document in file::documents(&conversion.manifests) {
                let manifest = document.value().expect("what is written is YAML");
                if manifest["kind"] == "ScrapeTarget" {
                    targets += 1;
                    crd::judge(&manifest).unwrap_or_else(|problems| panic!("{manifest}: {problems:?}"));
                }
            }
            assert_eq!(targets, conversion.targets);
        }
    }
});
