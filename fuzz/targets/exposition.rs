//! Text 0.0.4 and OpenMetrics of other exporters: what can be read can be written again, and then reads the same.
#![no_main]

use std::borrow::Cow;

use invariants::judge;
use libfuzzer_sys::fuzz_target;
use scrapetarget_exporter::metric::{Families, Finished, Format, ExpositionPolicy, encode, read_exposition};

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

/// Every sample, where NaN is NaN and -0 is 0.
fn samples(finished: &Finished) -> Vec<String> {
    let mut samples: Vec<_> =
        finished.samples().map(|(name, labels, value)| format!("{name}{{{labels}}} {}", value + 0.0)).collect();
    samples.sort();
    samples
}

fuzz_target!(|input: &[u8]| {
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
