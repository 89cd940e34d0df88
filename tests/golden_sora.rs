//! Each folder of `tests/fixtures/sora` is a poll: the answers of the calls, the options, and what must come of them.
//!
//! * `<Call>.json` is an answer with status 200, `<Call>.<status>.json` one with another; no file: no connection.
//! * `options.yaml` is the block `spec.sora`, and `sampleLimit`.
//! * `expected.metrics` begins with a comment for each call and one for what was left out; the exposition follows.
//!
//! A case that fails leaves what it got in cargo's temporary folder. Read it against the reference before it becomes expected.
#[path = "support/exposition.rs"]
mod exposition;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use reqwest::Url;
use scrapetarget_exporter::kind::{Answer, Blocks, CallError, Context, Reason, Response, Type, sora};
use scrapetarget_exporter::metric::{Families, Finished, Format, encode};
use serde::Deserialize;

/// The clock of every golden poll.
const NOW: f64 = 1_704_649_291.5;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Case {
    #[serde(default)]
    sora: sora::Options,
    #[serde(default = "sample_limit")]
    sample_limit: usize,
}

fn sample_limit() -> usize {
    10_000
}

struct Polled {
    finished: Finished,
    verdicts: Vec<(&'static str, Result<(), CallError>)>,
}

impl Polled {
    fn text(&self) -> String {
        let mut text = Vec::new();
        encode(&[&self.finished], Format::Text, &mut text);
        String::from_utf8(text).unwrap()
    }

    /// The form of `expected.metrics`.
    fn report(&self) -> String {
        let mut report = String::new();
        for (call, verdict) in &self.verdicts {
            let verdict = match verdict {
                Ok(()) => "ok".to_owned(),
                Err(error) => format!("{}: {error}", error.reason.as_str()),
            };
            writeln!(report, "# {call}: {verdict}").unwrap();
        }
        writeln!(report, "# skipped {}, dropped {}", self.finished.skipped(), self.finished.dropped()).unwrap();
        report + &self.text()
    }
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/sora")
}

fn poll(case: &str) -> Polled {
    let folder = fixtures().join(case);
    let options = std::fs::read_to_string(folder.join("options.yaml")).unwrap();
    let Case { sora, sample_limit } = serde_saphyr::from_str(&options).unwrap();
    let blocks = Blocks { sora: Some(Box::new(sora)), ..Blocks::default() };
    let mut kind = blocks.engine(Type::Sora, &Url::parse("http://sora:3000/").unwrap()).unwrap().translator().unwrap();
    let calls: Vec<&str> = kind.calls(None).iter().map(|call| call.name).collect();
    let answers: Vec<Answer> = calls.iter().map(|call| answer(&folder, call)).collect();
    let mut out = Families::default();
    let verdicts = kind.translate(&answers, &Context { now: NOW, sample_limit }, &mut out);
    assert_eq!(verdicts.len(), calls.len(), "{case}: a verdict for each call");
    Polled { finished: out.finish(), verdicts: calls.into_iter().zip(verdicts).collect() }
}

fn answer(folder: &Path, call: &str) -> Answer {
    for file in std::fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        let status = match name.split('.').collect::<Vec<_>>()[..] {
            [stem, "json"] if stem == call => 200,
            [stem, status, "json"] if stem == call => status.parse().unwrap(),
            _ => continue,
        };
        return Answer(Ok(Response { status, content_type: None, body: std::fs::read(path).unwrap().into() }));
    }
    Answer(Err(CallError::new(Reason::Connect, "connection refused")))
}

#[test]
fn every_recorded_poll_gives_exactly_what_is_expected() {
    let mut wrong = Vec::new();
    let mut cases = 0;
    for folder in std::fs::read_dir(fixtures()).unwrap() {
        let case = folder.unwrap().file_name().into_string().unwrap();
        let polled = poll(&case);
        let families = exposition::parse(&polled.text()).unwrap_or_else(|error| panic!("{case}: {error}"));
        assert_eq!(exposition::out_of_order(&families), None, "{case}");
        let got = polled.report();
        let expected = std::fs::read_to_string(fixtures().join(&case).join("expected.metrics")).unwrap_or_default();
        if got != expected {
            let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("sora_{case}.metrics"));
            std::fs::write(&path, got).unwrap();
            wrong.push(path);
        }
        cases += 1;
    }
    assert!(cases >= 10, "only {cases} cases found");
    assert_eq!(wrong, Vec::<PathBuf>::new(), "these differ from expected.metrics");
}

/// The peer's own exposition of the same answers. Each way in which ours may differ is a line here.
#[test]
fn every_series_of_the_peer_is_ours_with_the_same_value() {
    let ours = poll("maximum");
    let ours: BTreeMap<String, f64> =
        exposition::samples(&ours.text()).unwrap().into_iter().map(|sample| (sample.series(), sample.value)).collect();
    let peer = std::fs::read_to_string(fixtures().join("maximum/peer_maximum.metrics")).unwrap();
    let mut compared = 0;
    for line in peer.lines().filter(|line| !line.starts_with('#')) {
        let theirs = exposition::sample(line).unwrap();
        let Some(&value) = ours.get(&theirs.series()) else { panic!("{line} is not ours") };
        let expected = match theirs.name.as_str() {
            "sora_average_setup_time_seconds" => 0.372, // the peer divides whole numbers
            "sora_time_seconds" => NOW,
            _ => theirs.value,
        };
        assert!((value - expected).abs() < 1e-9, "{line}, ours is {value}");
        compared += 1;
    }
    assert_eq!(compared, 141, "all series of the peer");
    let more: Vec<&str> = ours.keys().map(String::as_str).filter(|ours| !peer_has(&peer, ours)).collect();
    assert_eq!(more, [r#"sora_server_mode{"mode": "normal"}"#], "what is ours alone");
}

fn peer_has(peer: &str, series: &str) -> bool {
    peer.lines().filter(|line| !line.starts_with('#')).any(|line| exposition::sample(line).unwrap().series() == series)
}

/// Types that differ from the peer's do so because Erlang's manual calls the values cumulative.
#[test]
fn types_are_the_peers_except_where_the_peer_is_wrong() {
    const CORRECTED: [&str; 4] = [
        "sora_erlang_vm_garbage_collection_number_of_gcs",
        "sora_erlang_vm_garbage_collection_words_reclaimed",
        "sora_erlang_vm_runtime_total_run_time",
        "sora_erlang_vm_wall_clock_total_wallclock_time",
    ];
    let ours: BTreeMap<&str, &str> = sora::families().iter().map(|desc| (desc.name, desc.kind.text())).collect();
    let peer = std::fs::read_to_string(fixtures().join("maximum/peer_maximum.metrics")).unwrap();
    let peer: BTreeMap<&str, &str> =
        peer.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')).collect();
    assert_eq!(peer.len(), 82);
    for (name, theirs) in peer {
        let expected = if CORRECTED.contains(&name) { "counter" } else { theirs };
        assert_eq!(ours.get(name), Some(&expected), "{name}");
    }
    assert_eq!(ours.len(), 82 + 1 + 4, "the server's mode and four histograms besides");
}
