//! The file of `--web.config.file`: an error is one line, whatever stands in the file.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use scrapetarget_exporter::http::WebConfig;
use tempfile::TempDir;

static FOLDER: LazyLock<TempDir> = LazyLock::new(|| TempDir::new().expect("a folder"));

fuzz_target!(|text: &str| {
    // What the file names would be opened: it stays within the folder.
    if text.contains("..") || text.contains('/') || text.contains('\\') {
        return;
    }
    let file = FOLDER.path().join("web.yaml");
    std::fs::write(&file, text).expect("the file is written");
    if let Err(error) = WebConfig::load(&file) {
        assert_eq!(error.to_string().lines().count(), 1, "{error}");
    }
});
