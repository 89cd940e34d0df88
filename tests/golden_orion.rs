//! Recorded and made-up answers of Orion brokers, and the exposition that each of them must become.
//!
//! A case is a folder of `tests/fixtures/orion`: one file per call (`<call>.http`, a whole answer with its head, or `<call>.json`, the
//! body of a 200; a call without a file was refused), `case.json` with the options (optional), and `expected.metrics`, whose
//! comments say how each call is judged. `UPDATE_GOLDEN=1` writes what is there now; whoever uses it reads the result against
//! the documents, as was done with every file here.

use std::fmt::Write as _;
use std::path::Path;

use reqwest::Url;
use scrapetarget_exporter::kind::{Answer, CallError, CallOptions as _, Context, Reason, Response, orion};
use scrapetarget_exporter::metric::{Families, Format, encode};
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Case {
    orion: orion::Options,
    sample_limit: usize,
}

impl Default for Case {
    fn default() -> Self {
        Self { orion: orion::Options::default(), sample_limit: 10_000 }
    }
}

#[test]
fn every_case_becomes_its_expected_exposition() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/orion");
    let mut cases: Vec<_> = std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.sort();
    assert!(cases.len() >= 25, "the fixtures are gone");
    let mut wrong = Vec::new();
    for case in &cases {
        let exposition = exposition(case);
        let expected = case.join("expected.metrics");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&expected, &exposition).unwrap();
        }
        if std::fs::read_to_string(&expected).unwrap_or_default() != exposition {
            wrong.push(format!("{}:\n{exposition}", case.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What one poll of the case's broker gives, and in comments how each call went.
fn exposition(folder: &Path) -> String {
    let case: Case =
        std::fs::read(folder.join("case.json")).map(|json| serde_json::from_slice(&json).unwrap()).unwrap_or_default();
    let mut kind = case.orion.build(&Url::parse("http://orion:1026/").unwrap());
    let calls = kind.calls(None);
    let answers: Vec<Answer> = calls.iter().map(|call| answer(folder, call.name)).collect();
    let mut out = Families::default();
    let results = kind.translate(&answers, &Context { now: 0.0, sample_limit: case.sample_limit }, &mut out);
    assert_eq!(results.len(), calls.len());
    let finished = out.finish();

    let mut text = String::new();
    for (call, result) in calls.iter().zip(results) {
        match result {
            Ok(()) => writeln!(text, "# {}: good", call.name).unwrap(),
            Err(error) => writeln!(text, "# {}: {}, {error}", call.name, error.reason.as_str()).unwrap(),
        }
    }
    writeln!(text, "# skipped {}, dropped {}", finished.skipped(), finished.dropped()).unwrap();
    let mut body = Vec::new();
    encode(&[&finished], Format::Text, &mut body);
    text + std::str::from_utf8(&body).unwrap()
}

fn answer(folder: &Path, call: &str) -> Answer {
    if let Ok(body) = std::fs::read(folder.join(format!("{call}.json"))) {
        return Answer(Ok(Response { status: 200, content_type: None, body: body.into() }));
    }
    let Ok(recorded) = std::fs::read(folder.join(format!("{call}.http"))) else {
        return Answer(Err(CallError::new(Reason::Connect, "connection refused")));
    };
    let recorded = String::from_utf8(recorded).unwrap().replace("\r\n", "\n");
    let (head, body) = recorded.split_once("\n\n").expect("a head, an empty line, a body");
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer(Ok(Response { status, content_type: None, body: body.to_owned().into() }))
}
