//! Prometheus itself judges what we write: promtool reads every exposition, and a real server scrapes the demo.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use scrapetarget_exporter::metric::{Families, Format, merge_members, read_exposition};
use serde_json::Value;
use support::eventually::{PATIENCE, eventually};
use support::exposition::Everything;
use support::load::allowed;
use support::program::Running;
use support::tools::lint;
use tempfile::TempDir;

const TOTAL: &str = "counter metrics should have \"_total\" suffix";
const NO_TOTAL: &str = "non-counter metrics should not have \"_total\" suffix";
const UNITS: &str = "metric names should not contain abbreviated units";
const NO_SUM: &str = "non-histogram and non-summary metrics should not have \"_sum\" suffix";
const NO_COUNT: &str = "non-histogram and non-summary metrics should not have \"_count\" suffix";

/// Findings that stay: names which dashboards and alerts already have. Anything else is a mistake of ours.
const KEPT: &[(&str, &str, &[&str])] = &[
    (
        "names of sora_exporter: its dashboards are to work unchanged",
        TOTAL,
        &[
            "sora_cluster_raft_commit_index",
            "sora_cluster_raft_term",
            "sora_erlang_vm_context_switches",
            "sora_erlang_vm_exact_reductions_total_exact_reductions",
            "sora_erlang_vm_garbage_collection_number_of_gcs",
            "sora_erlang_vm_garbage_collection_words_reclaimed",
            "sora_erlang_vm_io_input",
            "sora_erlang_vm_io_output",
            "sora_erlang_vm_reductions_total_reductions",
            "sora_erlang_vm_runtime_total_run_time",
            "sora_erlang_vm_wall_clock_total_wallclock_time",
        ],
    ),
    (
        "names of sora_exporter for what goes up and down",
        NO_TOTAL,
        &["sora_erlang_vm_memory_total", "sora_ongoing_connections_total"],
    ),
    ("sora_exporter counts microseconds here", UNITS, &["sora_srtp_sent_sfu_delay_us_total"]),
    (
        "names of edumeet's per-stream counters, passed on or offered by spec.mediasoup.compatibility",
        TOTAL,
        &["mediasoup_consumer_byte_count_bytes", "mediasoup_producer_byte_count_bytes"],
    ),
    (
        "names of edumeet's aggregated gauges: sums over streams, no summaries",
        NO_SUM,
        &[
            "mediasoup_audio_bitrates_in_sum",
            "mediasoup_audio_bitrates_out_sum",
            "mediasoup_packets_counts_in_sum",
            "mediasoup_packets_losts_in_sum",
            "mediasoup_packets_retransmitted_in_sum",
            "mediasoup_video_bitrates_in_sum",
            "mediasoup_video_bitrates_out_sum",
        ],
    ),
    (
        "names of edumeet's aggregated gauges: how many there are",
        NO_COUNT,
        &[
            "mediasoup_audio_in_count",
            "mediasoup_audio_out_count",
            "mediasoup_video_in_count",
            "mediasoup_video_out_count",
            "mediasoup_workers_count",
        ],
    ),
];

fn kept() -> BTreeSet<String> {
    KEPT.iter().flat_map(|(_, finding, names)| names.iter().map(move |name| format!("{name} {finding}"))).collect()
}

/// Fails unless Prometheus can read the text; the findings.
fn judged(place: &str, text: &str) -> Vec<String> {
    let findings = lint(text).unwrap_or_else(|error| panic!("{place}: {error}"));
    let kept = kept();
    let new: Vec<&String> = findings.iter().filter(|finding| !kept.contains(*finding)).collect();
    assert!(new.is_empty(), "{place}: {new:#?}");
    findings
}

/// Every file below `folder` that ends like an exposition.
fn expositions(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<PathBuf> = entries
        .flat_map(|path| if path.is_dir() { expositions(&path) } else { vec![path] })
        .filter(|path| path.extension().is_some_and(|end| end == "metrics"))
        .collect();
    found.sort();
    found
}

#[test]
fn promtool_accepts_every_golden_exposition_and_finds_only_the_names_that_are_kept() {
    let files = expositions(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures"));
    assert!(files.len() > 50, "{}", files.len());
    let mut found = BTreeSet::new();
    std::thread::scope(|scope| {
        let work = |files: &[PathBuf]| -> Vec<String> {
            files
                .iter()
                .flat_map(|file| judged(&file.display().to_string(), &fs::read_to_string(file).unwrap()))
                .collect()
        };
        let threads: Vec<_> =
            files.chunks(files.len().div_ceil(4)).map(|files| scope.spawn(move || work(files))).collect();
        for thread in threads {
            found.extend(thread.join().unwrap());
        }
    });
    // A name that is not found any more need not be kept.
    let stale: Vec<String> = kept().difference(&found).cloned().collect();
    assert!(stale.is_empty(), "{stale:#?}");
}

#[test]
fn promtool_accepts_one_exposition_of_members_that_have_little_in_common() {
    let golden = expositions(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures"));
    let mut texts: Vec<String> = golden.iter().map(|file| fs::read_to_string(file).unwrap()).collect();
    texts.push(
        "# HELP x_seconds How \\\\ long.\n# TYPE x_seconds gauge\nx_seconds{pod=\"q\",exported_pod=\"r\"} 1\n\
         # HELP y_count Not a part.\n# TYPE y_count counter\ny_count 1\n"
            .to_owned(),
    );
    texts.push(
        "# HELP x_seconds Spread.\n# TYPE x_seconds histogram\nx_seconds_bucket{le=\"+Inf\"} 1\nx_seconds_sum 1\nx_seconds_count 1\n\
         # HELP y Spread.\n# TYPE y summary\ny{quantile=\"0.5\"} 1\ny_sum 1\ny_count 1\n"
            .to_owned(),
    );
    let members: Vec<(usize, Vec<u8>)> = texts
        .iter()
        .zip(0..)
        .map(|(text, number)| {
            let mut out = Families::default();
            read_exposition(text, &Everything, usize::MAX, &mut out).unwrap();
            let mut families = out.finish();
            let text = families.encode_member("pod", &format!("rooms-{number}"));
            (families.len(), text)
        })
        .collect();
    let parts: Vec<&[u8]> = members.iter().map(|(_, text)| text.as_slice()).collect();
    let mut text = Vec::new();
    let merged = merge_members(&parts, &Families::default().finish(), Format::Text, &mut text);
    let text = String::from_utf8(text).unwrap();
    judged("merged", &text);
    let series = text.lines().filter(|line| !line.starts_with('#')).count();
    assert_eq!(series + merged.left_out, members.iter().map(|(series, _)| series).sum::<usize>());
    assert!(text.contains("x_seconds{pod=") && !text.contains("x_seconds_bucket"), "the first decides");
    assert!(text.contains("y_count{pod=") && !text.contains("# TYPE y_count"), "it is a part of the summary");
}

#[test]
fn promtool_would_tell() {
    let help = "# HELP x Something.\n# TYPE x counter\n";
    assert_eq!(lint(&format!("{help}x 1\n")), Ok(vec![format!("x {TOTAL}")]));
    assert!(lint(&format!("{help}x one\n")).is_err());
}

/// The demo on a free port, ready.
async fn demo() -> Running {
    let demo = Running::demo();
    demo.until_status("/-/ready", 200).await;
    demo
}

/// The targets of the demo, with the labels that Prometheus is to give their series, but for `job`.
async fn intended(demo: &Running) -> BTreeMap<String, BTreeMap<String, String>> {
    let manifest = demo.stdout();
    let groups: Value = serde_json::from_str(&demo.body("/sd").await).unwrap();
    let ids =
        groups.as_array().unwrap().iter().map(|group| group["labels"]["__param_target"].as_str().unwrap().to_owned());
    let targets: BTreeMap<_, _> = ids
        .map(|id| {
            let (namespace, name) = id.split_once('/').unwrap();
            let mut labels: BTreeMap<String, String> = [
                ("instance", id.as_str()),
                ("namespace", namespace),
                ("target_namespace", namespace),
                ("target_name", name),
            ]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into();
            if let Some(region) = name.strip_prefix("sora-") {
                labels.insert("region".to_owned(), region.to_owned());
            }
            (id, labels)
        })
        .collect();
    assert_eq!(targets.len(), manifest.matches("kind: ScrapeTarget").count());
    targets
}

#[tokio::test(flavor = "multi_thread")]
async fn promtool_accepts_what_the_demo_serves() {
    let demo = demo().await;
    for id in intended(&demo).await.keys() {
        judged(id, &demo.body(&format!("/probe?target={id}")).await);
    }
    assert_eq!(judged("/metrics", &demo.body("/metrics").await), Vec::<String>::new());
}

/// Both protocols that Prometheus 3 asks for by default and we have, each by discovery and by a list of targets.
const PROTOCOLS: [(&str, &str); 2] = [("openmetrics", "OpenMetricsText1.0.0"), ("text", "PrometheusText0.0.4")];

fn config(base: &str, targets: &[&String]) -> String {
    let host = base.trim_start_matches("http://");
    // A second, which is also how long Prometheus waits for an answer, is not enough on a busy machine.
    let every = allowed(Duration::from_secs(1)).as_secs().clamp(1, 10);
    let mut text = format!("global: {{ scrape_interval: {every}s, scrape_timeout: {every}s }}\nscrape_configs:\n");
    for (name, protocol) in PROTOCOLS {
        let _ = write!(
            text,
            r#"
- job_name: discovered-{name}
  scrape_protocols: [{protocol}]
  http_sd_configs: [{{ url: "{base}/sd", refresh_interval: {every}s }}]
- job_name: listed-{name}
  scrape_protocols: [{protocol}]
  metrics_path: /probe
  static_configs: [{{ targets: {targets:?} }}]
  relabel_configs:
  - {{ source_labels: [__address__], target_label: __param_target }}
  - {{ source_labels: [__param_target], target_label: instance }}
  - {{ target_label: __address__, replacement: "{host}" }}
- job_name: itself-{name}
  scrape_protocols: [{protocol}]
  static_configs: [{{ targets: ["{host}"] }}]
"#
        );
    }
    text
}

/// The series of an instant query: their labels without the name, and the value.
async fn query(server: &Running, name: &str) -> Vec<(BTreeMap<String, String>, f64)> {
    let answer: Value = serde_json::from_str(&server.body(&format!("/api/v1/query?query={name}")).await).unwrap();
    let series = answer["data"]["result"].as_array().unwrap();
    series
        .iter()
        .map(|series| {
            let mut labels: BTreeMap<String, String> = serde_json::from_value(series["metric"].clone()).unwrap();
            labels.remove("__name__");
            (labels, series["value"][1].as_str().unwrap().parse().unwrap())
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_prometheus_finds_every_target_up_with_the_labels_of_the_contract() {
    let demo = demo().await;
    let targets = intended(&demo).await;
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("prometheus.yml");
    fs::write(&file, config(&demo.base, &targets.keys().collect::<Vec<_>>())).unwrap();
    let server = Running::prometheus(&file).await;
    let scraped = 2 * (2 * targets.len() + 1);
    // A scrape that comes late on a busy machine is no mistake; the next one is there a second later.
    let (complete, success) = eventually(PATIENCE, async || {
        let complete = query(&server, "scrape_samples_scraped").await;
        let up = query(&server, "up").await;
        let success: BTreeMap<_, _> = query(&server, "probe_success").await.into_iter().collect();
        let down = success.iter().filter(|(labels, value)| labels["instance"] != "fiware/orion-old" && **value < 1.0);
        let all = complete.len() == scraped && success.len() == 4 * targets.len() && down.count() == 0;
        if all && complete.iter().all(|(_, samples)| *samples > 0.0) && up.iter().all(|(_, up)| *up > 0.0) {
            return Ok((complete, success));
        }
        Err(format!("{complete:#?} {up:#?} {success:#?}\n{}", server.log()))
    })
    .await;
    for (name, _) in PROTOCOLS {
        for (id, labels) in &targets {
            let value = if id == "fiware/orion-old" { 0.0 } else { 1.0 };
            let with_job = |job: String, labels: &BTreeMap<String, String>| {
                let mut labels = labels.clone();
                labels.insert("job".to_owned(), job);
                labels
            };
            let discovered = with_job(format!("discovered-{name}"), labels);
            assert_eq!(success.get(&discovered), Some(&value), "{discovered:?} in {success:#?}");
            let only_instance = [("instance".to_owned(), id.clone())].into();
            let listed = with_job(format!("listed-{name}"), &only_instance);
            assert_eq!(success.get(&listed), Some(&value), "{listed:?} in {success:#?}");
        }
    }

    // What does not move has as many samples by either protocol.
    let of_the_server_that_is_down: Vec<f64> = complete
        .iter()
        .filter(|(labels, _)| labels["instance"] == "fiware/orion-old")
        .map(|(_, samples)| *samples)
        .collect();
    assert_eq!(of_the_server_that_is_down, [of_the_server_that_is_down[0]; 4]);
    let ongoing = query(&server, "sora_ongoing_connections_total").await;
    assert_eq!(ongoing.len(), 4 * 3, "{ongoing:#?}");
    let own = query(&server, "scrapetarget_up").await;
    assert_eq!(own.len(), 2 * targets.len(), "{own:#?}");
}
