//! What must hold of every exposition, whatever the bytes were that led to it; and how one input is cut into answers.

#[path = "../../tests/support/exposition.rs"]
mod exposition;

use std::collections::BTreeMap;

use scrapetarget_exporter::kind::{Answer, Context, Kind, Response};
use scrapetarget_exporter::metric::{Families, Finished, Format, PlainCounters, encode, openmetrics_to_text, text_to_openmetrics};

/// Stands between two answers of one input.
const BETWEEN_ANSWERS: &str = "\n===\n";

/// Cuts an input into bodies. What is missing is empty, and what is too much is for the next poll.
pub fn bodies(input: &[u8]) -> Vec<Vec<u8>> {
    let mark = BETWEEN_ANSWERS.as_bytes();
    let mut found = Vec::new();
    let mut rest = input;
    while let Some(at) = rest.windows(mark.len()).position(|window| window == mark) {
        found.push(rest[..at].to_vec());
        rest = &rest[at + mark.len()..];
    }
    found.push(rest.to_vec());
    found
}

/// Polls a target as often as there are answers, and judges what it says each time. Gives back every exposition.
pub fn polls(kind: &mut dyn Kind, bodies: Vec<Vec<u8>>, sample_limit: usize) -> Vec<Finished> {
    let calls = kind.calls(None).len();
    let mut bodies = bodies.into_iter().peekable();
    let mut expositions = Vec::new();
    let mut now = 1_795_000_000.0;
    while bodies.peek().is_some() && expositions.len() < 4 {
        let answers: Vec<Answer> = (0..calls).map(|_| answer(bodies.next().unwrap_or_default())).collect();
        let mut out = Families::default();
        let verdicts = kind.translate(&answers, &Context { now, sample_limit }, &mut out);
        assert_eq!(verdicts.len(), calls, "one verdict for each call");
        let finished = out.finish();
        judge(&finished);
        expositions.push(finished);
        now += 15.0;
    }
    expositions
}

/// An answer with status 200, or with that of a body which begins with one: `!404 …`.
fn answer(body: Vec<u8>) -> Answer {
    let status = body.strip_prefix(b"!").and_then(|rest| std::str::from_utf8(rest.get(..3)?).ok()?.parse().ok());
    Answer(Ok(Response { status: status.unwrap_or(200), content_type: None, body: body.into() }))
}

/// An exposition has one well-formed text, and both formats say the same.
pub fn judge(finished: &Finished) {
    let text = write(finished, Format::Text).0;
    let families = exposition::parse(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    let samples: usize = families.iter().map(|family| family.samples.len()).sum();
    assert_eq!(samples, finished.len(), "every sample is written");
    let (openmetrics, plain_counters) = write(finished, Format::OpenMetrics);
    assert_eq!(openmetrics_to_text(&openmetrics, &plain_counters), text, "both formats say the same");
    assert_eq!(text_to_openmetrics(&text, &plain_counters), openmetrics, "both formats say the same");
    assert!(openmetrics.ends_with("# EOF\n"));
}

fn write(finished: &Finished, format: Format) -> (String, PlainCounters) {
    let mut bytes = Vec::new();
    let plain_counters = encode(&[finished], format, &mut bytes);
    (String::from_utf8(bytes).expect("an exposition is UTF-8"), plain_counters)
}

/// Counters that the exporter itself accumulates: between two polls of one target none may fall.
pub fn never_fall(expositions: &[Finished], accumulated: impl Fn(&str) -> bool) {
    let mut highest: BTreeMap<String, f64> = BTreeMap::new();
    for finished in expositions {
        for (name, labels, value) in finished.samples().filter(|(name, ..)| accumulated(name)) {
            let before = highest.entry(format!("{name}{{{labels}}}")).or_insert(value);
            assert!(value >= *before, "{name}{{{labels}}} fell from {before} to {value}");
            *before = value;
        }
    }
}
