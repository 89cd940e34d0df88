//! Durations of manifests and flags: exactly those of the pattern in the schema, and what is written reads the same.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use regex::Regex;
use scrapetarget_exporter::time::PromDuration;

static PATTERN: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new("^(0s|([0-9]{1,4}h)?([0-9]{1,5}m)?([0-9]{1,6}s)?([0-9]{1,8}ms)?)$").expect("a pattern")
});

fuzz_target!(|text: &str| {
    let wanted = !text.is_empty() && PATTERN.is_match(text);
    let read = text.parse::<PromDuration>();
    assert_eq!(read.is_ok(), wanted, "{text:?}: {read:?}");
    // What is longer than the pattern can say in its canonical form is refused by the rules of every field.
    let Some(duration) = read.ok().filter(|read| read.get().as_secs() < 10_000 * 3600) else { return };
    assert_eq!(duration.to_string().parse::<PromDuration>().map(PromDuration::get), Ok(duration.get()), "{text} -> {duration}");
});
