//! What one poll costs beside its network: from the bytes of the answers to rendered text, against parsing them alone.
//!
//! `cargo bench --bench translate`. To add a kind, add a [`Case`].
use std::hint::black_box;
use std::time::{Duration, Instant};

use reqwest::Url;
use scrapetarget_exporter::kind::sora::api;
use scrapetarget_exporter::kind::{Answer, Blocks, Context, JsonField, JsonList, Kind, Response, Type, sora};
use scrapetarget_exporter::metric::{Families, Format, encode};

/// Polls in a batch, and batches of which the median counts.
const POLLS: u32 = 200;
const BATCHES: usize = 101;

struct Case {
    name: &'static str,
    answers: Vec<Answer>,
    /// The baseline: the answers parsed into the types that the kind uses, and nothing else.
    parse: fn(&[Answer]),
    kind: Box<dyn Kind>,
    /// What the ratio must not exceed.
    goal: f64,
}

fn main() {
    for mut case in [sora()] {
        let cx = Context { now: 1.7e9, sample_limit: 10_000 };
        let mut text = Vec::new();
        let mut poll = |text: &mut Vec<u8>| {
            text.clear();
            let mut out = Families::default();
            black_box(case.kind.translate(&case.answers, &cx, &mut out));
            encode(&[&out.finish()], Format::OpenMetrics, text);
        };
        poll(&mut text);
        let bytes = text.len();
        // Taken in turn, so that a busy machine slows both.
        let (mut parses, mut polls) = (Vec::new(), Vec::new());
        for _ in 0..BATCHES {
            parses.push(time(|| (case.parse)(black_box(&case.answers))));
            polls.push(time(|| poll(&mut text)));
        }
        let (parse, poll) = (median(parses), median(polls));
        let ratio = poll.as_secs_f64() / parse.as_secs_f64();
        println!(
            "{:<10} parse {parse:>9.2?}   parse + translate + encode {poll:>9.2?}   ratio {ratio:.2} (goal {})   {bytes} bytes",
            case.name, case.goal
        );
    }
}

fn time(mut work: impl FnMut()) -> Duration {
    let start = Instant::now();
    for _ in 0..POLLS {
        work();
    }
    start.elapsed() / POLLS
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn answered(body: &'static [u8]) -> Answer {
    Answer(Ok(Response { status: 200, content_type: None, body: body.into() }))
}

fn body(answer: &Answer) -> &[u8] {
    answer.0.as_ref().map_or(&[], |response| &response.body)
}

fn sora() -> Case {
    let options = sora::Options {
        cluster_metrics: true,
        client_metrics: true,
        connection_error_metrics: true,
        erlang_vm_metrics: true,
        server_mode: true,
    };
    let blocks = Blocks { sora: Some(Box::new(options)), ..Blocks::default() };
    let url = Url::parse("http://sora:3000/").expect("a literal");
    Case {
        name: "Sora",
        answers: vec![
            answered(include_bytes!("../tests/fixtures/sora/maximum/GetStatsReport.json")),
            answered(include_bytes!("../tests/fixtures/sora/maximum/GetLicense.json")),
            answered(include_bytes!("../tests/fixtures/sora/maximum/ListClusterNodes.json")),
            answered(include_bytes!("../tests/fixtures/sora/maximum/GetMode.json")),
        ],
        parse: |answers| {
            black_box(serde_json::from_slice::<JsonField<api::StatsReport>>(body(&answers[0])).is_ok());
            black_box(serde_json::from_slice::<JsonField<api::License>>(body(&answers[1])).is_ok());
            black_box(serde_json::from_slice::<JsonList<api::ClusterNode>>(body(&answers[2])).is_ok());
            black_box(serde_json::from_slice::<JsonField<api::ServerMode>>(body(&answers[3])).is_ok());
        },
        kind: blocks.engine(Type::Sora, &url).unwrap().translator().unwrap(),
        goal: 5.0,
    }
}
