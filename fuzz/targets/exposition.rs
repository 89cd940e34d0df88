//! Text 0.0.4 and OpenMetrics of other exporters: what can be read can be written again, and then reads the same.
#![no_main]

use std::borrow::Cow;

use invariants::judge;
use libfuzzer_sys::fuzz_target;
use scrapetarget_exporter::metric::{
    ExpositionPolicy, ExpositionSource, Families, Finished, Format, encode, pass_exposition, read_exposition,
};

struct Everything;

impl ExpositionPolicy for Everything {
    fn admits(&self, _: &str) -> bool {
        true
    }

    fn rewrite<'v>(&self, _: &str, value: Cow<'v, str>) -> Cow<'v, str> {
        value
    }
}

fn read(text: &str) -> Option<Finished> {
    let mut out = Families::default();
    read_exposition(text, &Everything, 10_000, &mut out).ok()?;
    Some(out.finish())
}

/// The same for an exposition that is passed on.
fn pass(body: &[u8], format: Format, is_strict: bool) -> Option<Finished> {
    let mut out = Families::default();
    pass_exposition(body, ExpositionSource { format, is_strict }, &Everything, 10_000, &mut out).ok()?;
    Some(out.finish())
}

/// Every sample, where NaN is NaN and -0 is 0.
fn samples(finished: &Finished) -> Vec<String> {
    let mut samples: Vec<_> =
        finished.samples().map(|(name, labels, value)| format!("{name}{{{labels}}} {}", value + 0.0)).collect();
    samples.sort();
    samples
}

/// What can be passed on has no fault when it is passed on again, and both ways of reading agree about it.
fn passed(input: &[u8], format: Format) {
    let strict = pass(input, format, true);
    let Some(first) = pass(input, format, false) else {
        assert!(strict.is_none(), "a strict reader takes what another does not");
        return;
    };
    judge(&first);
    if let Some(strict) = strict {
        assert_eq!((samples(&strict), strict.skipped()), (samples(&first), first.skipped()), "nothing was wrong");
    }
    for written in [Format::Text, Format::OpenMetrics] {
        let mut text = Vec::new();
        encode(&[&first], written, &mut text);
        let again = pass(&text, written, true).expect("our own text has no fault");
        assert_eq!(again.skipped(), 0, "a part of our own text cannot be read");
        assert_eq!(samples(&again), samples(&first), "our own text reads differently");
    }
}

fuzz_target!(|input: &[u8]| {
    for format in [Format::Text, Format::OpenMetrics] {
        passed(input, format);
    }
    let Some(first) = read(&String::from_utf8_lossy(input)) else { return };
    judge(&first);
    for format in [Format::Text, Format::OpenMetrics] {
        let mut text = Vec::new();
        encode(&[&first], format, &mut text);
        let text = String::from_utf8(text).expect("an exposition is UTF-8");
        let again = read(&text);
        let Some(again) = again else {
            assert!(first.is_empty(), "our own text cannot be read:\n{text}");
            continue;
        };
        assert_eq!(again.skipped(), 0, "a part of our own text cannot be read:\n{text}");
        assert_eq!(samples(&again), samples(&first), "our own text reads differently:\n{text}");
    }
});
