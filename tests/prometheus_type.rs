//! The type `Prometheus`: what a server exposes means the same behind us, whatever else it sends has a reason, and Prometheus sees it down
//! when it is to.
#![expect(clippy::unwrap_used, reason = "a test may")]

mod support;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use reqwest::Url;
use scrapetarget_exporter::kind::reserved::{OF_A_POLL, OF_A_SCRAPE};
use scrapetarget_exporter::kind::{Answer, Blocks, CallError, Context, Reason, Response, Type, prometheus};
use scrapetarget_exporter::metric::{Families, Finished, Format, encode};
use scrapetarget_exporter::poll::PROBE_FAMILIES;
use serde_json::{Value, json};
use support::eventually::{PATIENCE, eventually};
use support::exposition;
use support::faults::{Fault, Faulty, closed_port};
use support::load::allowed;
use support::probing::{Probed, mistakes_in, target_of};
use support::program::{Running, folder_with};
use support::tools::{expositions, lint};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What becomes of a body that is passed on.
struct Passed {
    finished: Finished,
    error: Option<CallError>,
}

impl Passed {
    fn with(content_type: &str, body: &[u8], options: prometheus::Options, sample_limit: usize) -> Self {
        let blocks = Blocks { prometheus: Some(Box::new(options)), ..Blocks::default() };
        let url = Url::parse("http://server:9100/metrics").unwrap();
        let mut kind = blocks.engine(Type::Prometheus, &url).unwrap().translator().unwrap();
        let response = Response { status: 200, content_type: Some(content_type.into()), body: body.to_vec().into() };
        let mut out = Families::default();
        let results = kind.translate(&[Answer(Ok(response))], &Context { now: 0.0, sample_limit }, &mut out);
        Self { finished: out.finish(), error: results.into_iter().next().unwrap().err() }
    }

    fn of(content_type: &str, body: &str) -> Self {
        Self::with(content_type, body.as_bytes(), prometheus::Options::default(), 1_000_000)
    }

    fn strict(content_type: &str, body: &[u8]) -> Self {
        Self::with(content_type, body, prometheus::Options { strict: true, ..Default::default() }, 1_000_000)
    }

    fn written(&self, format: Format) -> String {
        let mut text = Vec::new();
        encode(&[&self.finished], format, &mut text);
        String::from_utf8(text).unwrap()
    }

    /// As text 0.0.4 without the comments.
    fn samples(&self) -> String {
        let text = self.written(Format::Text);
        text.lines().filter(|line| !line.starts_with('#')).collect::<Vec<_>>().join("\n")
    }

    /// The samples, and how much was skipped.
    #[track_caller]
    fn good(&self) -> (String, u64) {
        assert_eq!(self.error, None);
        (self.samples(), self.finished.skipped())
    }

    #[track_caller]
    fn bad(&self) -> (Reason, String) {
        assert_eq!(self.samples(), "", "nothing is left");
        let error = self.error.clone().expect("it fails");
        (error.reason, error.message)
    }
}

#[track_caller]
fn passes(content_type: &str, body: &str, samples: &str, skipped: u64) {
    assert_eq!(Passed::of(content_type, body).good(), (samples.to_owned(), skipped), "{body}");
}

#[test]
fn names_types_helps_labels_and_values_of_text_stay_and_pass_even_if_they_may_have_no_fault() {
    let text = exposition::EVERY_TYPE;
    let passed = Passed::strict(TEXT, text.as_bytes());
    assert_eq!(passed.good().1, 0);
    assert_eq!(passed.written(Format::Text), text);
    lint(text).unwrap();
}

#[test]
fn openmetrics_keeps_what_either_format_can_say() {
    let body = "\
# TYPE a counter
# UNIT a seconds
# HELP a Said \\\"so\\\".
a_total 17.0 1520879607.789 # {trace=\"x\"} 0.67
a_created 1520430000.123
# TYPE i info
i_info{version=\"1\"} 1
# TYPE g gaugehistogram
g_bucket{le=\"1.0\"} 4
g_bucket{le=\"+Inf\"} 4
g_gcount 4
g_gsum 3
# TYPE h histogram
h_bucket{le=\"1.0\"} 4 # {id=\"0\"} 0.5 1520879607.789
h_bucket{le=\"+Inf\"} 4
h_count 4
h_sum 2
h_created 1
# TYPE st stateset
st{st=\"on\"} 1
st{st=\"off\"} 0
# TYPE u unknown
u 1
# EOF
";
    let passed = Passed::strict(OPENMETRICS, body.as_bytes());
    let (samples, skipped) = passed.good();
    assert_eq!(skipped, 2, "two exemplars are counted, and neither creation times nor timestamps");
    let expected = "a_total 17\ng_bucket{le=\"1.0\"} 4\ng_bucket{le=\"+Inf\"} 4\ng_gcount 4\ng_gsum 3\nh_bucket{le=\"1.0\"} 4\n\
                    h_bucket{le=\"+Inf\"} 4\nh_sum 2\nh_count 4\ni_info{version=\"1\"} 1\nst{st=\"on\"} 1\nst{st=\"off\"} 0\nu 1";
    let sorted = |text: &str| {
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(sorted(&samples), sorted(expected));
    for (format, headers) in [
        (
            Format::Text,
            ["# HELP a_total Said \"so\".", "# TYPE a_total counter", "# TYPE h histogram", "# TYPE st gauge"],
        ),
        (
            Format::OpenMetrics,
            ["# HELP a Said \\\"so\\\".", "# TYPE a counter", "# TYPE h histogram", "# TYPE u unknown"],
        ),
    ] {
        let written = passed.written(format);
        for header in headers {
            assert!(written.contains(header), "{header} in {written}");
        }
    }
    lint(&passed.written(Format::Text)).unwrap();
    // What we write passes again, unchanged.
    let again = Passed::strict(OPENMETRICS, passed.written(Format::OpenMetrics).as_bytes());
    assert_eq!((again.good().1, again.written(Format::OpenMetrics)), (0, passed.written(Format::OpenMetrics)));
}

#[test]
fn slips_of_other_exporters_are_understood() {
    passes(TEXT, "# TYPE x Gauge\nx 1\n# TYPE y UNKNOWN\ny 2\n# TYPE z Untyped\nz 3", "x 1\ny 2\nz 3", 0);
    assert!(Passed::of(TEXT, "# TYPE x Gauge\nx 1").written(Format::Text).contains("# TYPE x gauge"));
    passes(TEXT, "# TYPE x gauge\r\nx{a=\"1\"} 1\r\nx 2\r\n", "x{a=\"1\"} 1\nx 2", 0);
    passes(TEXT, "\u{feff}x 1\n", "x 1", 0);
    passes(
        TEXT,
        "\n\n  x{ a = \"1\" , } 1 1395066363000\n\t\n# a remark\n#\ny 2\n# EOF\nz 3\n",
        "x{a=\"1\"} 1\ny 2\nz 3",
        0,
    );
    passes("nonsense", "x 1\n", "x 1", 0);
    passes(OPENMETRICS, "x 1\r\n# EOF\r\n", "x 1", 0);
    passes("Application/OpenMetrics-Text;version=2", "x 1\n# EOF", "x 1", 0);
    // A server without any series at the moment, such as a federation that matches nothing.
    passes(TEXT, "", "", 0);
    passes(TEXT, "\n", "", 0);
    passes(OPENMETRICS, "# EOF\n", "", 0);
}

#[test]
fn openmetrics_ends_with_its_end_and_with_nothing_else() {
    for body in ["", "x 1\n", "x 1\n# EOF \n", "x 1\n#EOF\n"] {
        let (reason, message) = Passed::of(OPENMETRICS, body).bad();
        assert!(reason == Reason::Parse && message.contains("must end with # EOF"), "{body:?}: {message}");
    }
    for body in ["# EOF\nx 1\n", "x 1\n# EOF\n# EOF\n", "# EOF\n\nx 1"] {
        let (reason, message) = Passed::of(OPENMETRICS, body).bad();
        assert!(reason == Reason::Parse && message.contains("comes after # EOF"), "{body:?}: {message}");
    }
}

#[test]
fn families_in_pieces_are_joined_and_their_first_type_stays() {
    let body = "# TYPE b gauge\nb{x=\"1\"} 1\n# TYPE a counter\na 1\n# TYPE b counter\n# HELP b Late.\nb{x=\"2\"} 2\n";
    let written = Passed::strict(TEXT, body.as_bytes()).written(Format::Text);
    let families = exposition::parse(&written).unwrap();
    let b = families.iter().find(|family| family.name == "b").unwrap();
    assert_eq!((families.len(), b.kind.as_str(), b.samples.len()), (2, "gauge", 2), "{written}");
}

#[test]
fn a_sample_below_another_name_keeps_its_own() {
    passes(TEXT, "# TYPE foo counter\nfoo_total 5\nfoo_created 7\n", "foo_created 7\nfoo_total 5", 0);
    passes(TEXT, "# TYPE foo gauge\nbar 5\nfoo_count 1\n", "bar 5\nfoo_count 1", 0);
    passes(OPENMETRICS, "# TYPE foo counter\nfoo_total 5\nfoo_created 7\n# EOF\n", "foo_total 5", 0);
    passes(OPENMETRICS, "# TYPE foo_created gauge\nfoo_created 7\n# EOF\n", "foo_created 7", 0);
}

#[test]
fn of_series_that_come_twice_the_first_stays_and_the_others_are_counted() {
    let body = "m{a=\"1\",b=\"2\"} 1 1000\nm{b=\"2\",a=\"1\"} 2 2000\nm{a=\"1\",b=\"2\",c=\"\"} 3\nm{a=\"2\"} 4\n";
    passes(TEXT, body, "m{a=\"1\",b=\"2\"} 1\nm{a=\"2\"} 4", 2);
    assert_eq!(Passed::strict(TEXT, body.as_bytes()).good().1, 2, "they are no mistake of a line");
}

#[test]
fn values_are_those_that_go_reads_without_underscores() {
    for (written, value) in [
        ("1", "1"),
        ("+1.50", "1.5"),
        ("-.5e1", "-5"),
        ("5.", "5"),
        ("1E3", "1000"),
        ("1e-400", "0"),
        ("Nan", "NaN"),
        ("nan", "NaN"),
        ("inf", "+Inf"),
        ("+INF", "+Inf"),
        ("-Infinity", "-Inf"),
        ("infinity", "+Inf"),
        ("0x1p-2", "0.25"),
        ("0X1.8P1", "3"),
        ("-0x.8p0", "-0.5"),
        ("0x1p-1074", "5e-324"),
        ("0x1p-1075", "0"),
        ("0x1.8p-1074", "1e-323"),
        ("0x1.fffffffffffffp1023", "1.7976931348623157e308"),
        ("0x1.00000000000008p0", "1"),
        ("0x1.000000000000081p0", "1.0000000000000002"),
        ("0x123456789abcdef01p0", "20988295479420645121"),
    ] {
        let (samples, skipped) = Passed::strict(TEXT, format!("m {written}\n").as_bytes()).good();
        let number = |text: &str| text.parse::<f64>().unwrap().to_bits();
        let read = samples.strip_prefix("m ").unwrap();
        assert!(skipped == 0 && number(read) == number(value), "{written}: {read}");
    }
    for written in [
        "one",
        "1_000",
        "0x_1p1",
        "0x1",
        "0x1p",
        "0x.p1",
        "0xp1",
        "0x1.2.3p1",
        "0x1p1024",
        "1e400",
        "-1e999",
        "+nan",
        "-nan",
        "infi",
        "e5",
        ".",
        "+",
        "--1",
        "1e",
        "1,5",
        "١",
        "0b1",
        "0o7",
        "1f",
        "1i",
        "true",
    ] {
        passes(TEXT, &format!("m {written}\nok 1\n"), "ok 1", 1);
    }
}

#[test]
fn names_in_quotes_are_read_where_every_prometheus_knows_them_and_else_counted() {
    passes(TEXT, "{\"m\",a=\"1\"} 1\n{\"m\"} 2\nm{\"b\"=\"1\"} 3\n", "m{a=\"1\"} 1\nm 2\nm{b=\"1\"} 3", 0);
    let body =
        "# HELP \"a b\" Two words.\n# TYPE \"a b\" gauge\n{\"a b\"} 1\n{\"a.b\",c=\"1\"} 2\nm{\"d.e\"=\"1\"} 3\nm 4\n";
    passes(TEXT, body, "m 4", 3);
    assert_eq!(Passed::strict(TEXT, body.as_bytes()).good().1, 3, "they are no mistake of the server");
    assert_eq!(Passed::of(TEXT, "{\"a.b\"} 1\n").good(), (String::new(), 1), "which is an exposition nevertheless");
}

#[test]
fn labels_and_lines_have_bounds() {
    let long = "é".repeat(8 << 10);
    passes(TEXT, &format!("m{{a=\"{long}\"}} 1\n"), &format!("m{{a=\"{long}\"}} 1"), 0);
    passes(TEXT, &format!("m{{a=\"{long}cut\"}} 1\n"), &format!("m{{a=\"{long}\"}} 1"), 0);
    let labels = |count: usize| {
        (0..count).fold(String::new(), |mut text, number| {
            let _ = write!(text, "{}l{number}=\"1\"", if number == 0 { "" } else { "," });
            text
        })
    };
    let (samples, skipped) = Passed::of(TEXT, &format!("m{{{}}} 1\n", labels(64))).good();
    assert!(samples.ends_with("l63=\"1\"} 1") && skipped == 0);
    passes(TEXT, &format!("m{{{}}} 1\nok 1\n", labels(65)), "ok 1", 1);
    passes(TEXT, "m{a=\"\",b=\"1\",c=\"\"} 1\n", "m{b=\"1\"} 1", 0);
    passes(TEXT, &format!("m{{a=\"1\"}}{}1\nok 1\n", " ".repeat(64 << 10)), "ok 1", 1);
    passes(TEXT, &format!("{}  1\nok 1\n", "n".repeat(1000)), "ok 1", 1);
}

#[test]
fn beyond_the_sample_limit_nothing_is_passed_on() {
    let body = "a 1\nb 1\nc{x=\"1\"} 1\nc{x=\"2\"} 1\n";
    let options = prometheus::Options::default;
    assert_eq!(Passed::with(TEXT, body.as_bytes(), options(), 4).good().1, 0);
    let (reason, message) = Passed::with(TEXT, body.as_bytes(), options(), 3).bad();
    assert!(reason == Reason::Limit && message.contains("spec.sampleLimit"), "{message}");
}

#[test]
fn a_bad_line_is_skipped_and_counted_or_fails_all_with_its_number() {
    for (line, why) in [
        ("bad", "neither a comment nor a sample"),
        ("bad{ 1", "labels"),
        ("bad{x=\"1} 1", "labels"),
        ("bad{x=\"1\" y=\"2\"} 1", "labels"),
        ("bad{x} 1", "labels"),
        ("9bad 1", "name"),
        ("bad{9=\"1\"} 1", "name"),
        ("bad{x=\"1\",x=\"2\"} 1", "name"),
        ("bad{__name__=\"x\"} 1", "name"),
        ("bad x", "value"),
        ("bad 1 1.5", "timestamp"),
        ("bad 1 2 3", "timestamp"),
        ("# TYPE bad kind", "type"),
        ("# TYPE bad", "type"),
        ("bad{x=\"\0\"} 1", "UTF-8"),
    ] {
        let body = format!("ok 1\n{line}\nok{{x=\"1\"}} 2\n");
        passes(TEXT, &body, "ok 1\nok{x=\"1\"} 2", 1);
        let (reason, message) = Passed::strict(TEXT, body.as_bytes()).bad();
        assert!(reason == Reason::Parse && message.contains("line 2") && message.contains(why), "{line}: {message}");
        assert!(!message.contains("bad"), "a message has nothing of the server's: {message}");
    }
    passes(OPENMETRICS, "ok 1\n\nok{x=\"1\"} 2\n# EOF\n", "ok 1\nok{x=\"1\"} 2", 1);
    let latin = b"# HELP ok Gr\xfc\xdfe\nok 1\nbad{x=\"\xe9\"} 1\n";
    let passed = Passed::with(TEXT, latin, prometheus::Options::default(), 10);
    assert_eq!(passed.good(), ("ok 1".to_owned(), 2), "a byte that is no UTF-8 costs its line");
    assert!(Passed::strict(TEXT, latin).bad().1.contains("line 1"));
}

#[test]
fn what_would_make_promtool_refuse_the_whole_answer_is_skipped_and_counted() {
    let good = "h_bucket{le=\"16\"} 1\nh_bucket{le=\"+Inf\"} 1\nh_sum -1\nh_count 1";
    for (line, why) in [
        ("h_bucket{le=\"0x1p4\"} 1", "le"),
        ("h_bucket{le=\"x\"} 1", "le"),
        ("h_bucket 1", "le"),
        ("h_bucket{le=\"8\"} -1", "negative"),
        ("h_count{x=\"1\"} -1", "negative"),
    ] {
        let body = format!("# TYPE h histogram\n{line}\n{good}\n");
        passes(TEXT, &body, good, 1);
        lint(&Passed::of(TEXT, &body).written(Format::Text)).unwrap();
        let (reason, message) = Passed::strict(TEXT, body.as_bytes()).bad();
        assert!(reason == Reason::Parse && message.contains("line 2") && message.contains(why), "{line}: {message}");
    }
    // Elsewhere they are numbers as others.
    passes(TEXT, "g 0x1p4\ng_count -1\n", "g 16\ng_count -1", 0);
}

#[test]
fn what_is_no_exposition_has_a_reason() {
    let utf16: Vec<u8> = "\u{feff}# TYPE m gauge\nm 1\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let plain_utf16: Vec<u8> = "# TYPE m gauge\nm 1\n".encode_utf16().flat_map(u16::to_be_bytes).collect();
    for (content_type, body, words) in [
        ("text/html", &b"<!DOCTYPE html>\n<html># TYPE m gauge\nm 1\n"[..], "HTML"),
        (TEXT, b"  \n <html>", "HTML"),
        ("application/json", b"{\"status\": \"ok\"}", "no line of it is a sample"),
        ("text/plain", b"Not Found", "no line of it is a sample"),
        (
            "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited",
            b"\x12\x0a\x01m",
            "protobuf",
        ),
        ("application/octet-stream", b"\x12\x0a\x01m\x12\x03abc\x18\x01", "no line of it is a sample"),
        (TEXT, &utf16, "UTF-16"),
        (TEXT, &plain_utf16, "UTF-16"),
    ] {
        let (reason, message) = Passed::with(content_type, body, prometheus::Options::default(), 10).bad();
        assert!(reason == Reason::Parse && message.contains(words), "{content_type}: {message}");
    }
}

#[test]
fn what_we_say_ourselves_of_every_poll_is_left_out_and_nothing_else_of_probes() {
    let conditional = "probe_ssl_last_chain_expiry_timestamp_seconds";
    let mut ours: Vec<&str> = PROBE_FAMILIES.iter().map(|family| family.name).collect();
    ours.retain(|name| *name != conditional);
    ours.sort_unstable();
    let mut listed = OF_A_POLL.to_vec();
    listed.sort_unstable();
    assert_eq!(listed, ours);
    let body = OF_A_POLL.iter().chain(&OF_A_SCRAPE).fold(String::new(), |body, name| body + name + " 1\n");
    let left =
        "probe_http_status_code 200\nprobe_ip_protocol 4\nprobe_ssl_last_chain_expiry_timestamp_seconds 1\nsora_up 1";
    let withheld = OF_A_POLL.len() + OF_A_SCRAPE.len();
    passes(TEXT, &format!("{body}{left}\n"), left, u64::try_from(withheld).unwrap());
}

#[test]
fn what_a_user_writes_is_checked() {
    let wrong = |block: Value| {
        mistakes_in(&json!({ "type": "Prometheus", "url": "http://node:9100/metrics", "prometheus": block }))
    };
    assert_eq!(wrong(json!({ "failStatus": 502, "strict": true, "honorTimestamps": false })), Vec::<String>::new());
    assert_eq!(wrong(json!({ "failStatus": 500 })), ["spec.prometheus.failStatus"]);
    assert_eq!(wrong(json!({ "honorTimestamps": true })), ["spec.prometheus.honorTimestamps"]);
    assert_eq!(wrong(json!({ "honorLabels": true })), ["spec.prometheus.honorLabels"]);
    let header = json!({
        "type": "Prometheus", "url": "http://node:9100/metrics?collect[]=cpu",
        "headers": [{ "name": "X-Prometheus-Scrape-Timeout-Seconds", "value": "1" }],
    });
    assert_eq!(mistakes_in(&header), ["spec.headers"]);
    let target = |spec: Value| target_of(&spec);
    let url = "http://node:9100/metrics";
    assert_eq!(target(json!({ "type": "Prometheus", "url": url })).max_age, Duration::ZERO);
    let set = target(json!({ "type": "Prometheus", "url": url, "maxAge": "5s" }));
    assert_eq!(set.max_age, Duration::from_secs(5));
    assert!(target(json!({ "type": "Prometheus", "url": url })).effective().contains("maxAge: 0s"));
}

/// A server with a document for each path, which remembers the requests.
struct Server {
    base: String,
    requests: Arc<Mutex<Vec<String>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A header, without its last line break, and a body.
type Document = (String, Vec<u8>);

fn document(content_type: &str, body: impl Into<Vec<u8>>) -> Document {
    (format!("HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\n"), body.into())
}

impl Server {
    async fn start(documents: impl Fn(&str) -> Option<Document> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (documents, seen) = (Arc::new(documents), Arc::clone(&requests));
        let task = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (documents, seen) = (Arc::clone(&documents), Arc::clone(&seen));
                tokio::spawn(async move {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        match stream.read_u8().await {
                            Ok(byte) => head.push(byte),
                            Err(_) => return,
                        }
                    }
                    let head = String::from_utf8_lossy(&head).into_owned();
                    let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
                    seen.lock().unwrap().push(head);
                    let missing = || ("HTTP/1.1 404 Not Found\r\n".to_owned(), Vec::new());
                    let (header, body) = documents(&path).unwrap_or_else(missing);
                    let head = format!("{header}content-length: {}\r\nconnection: close\r\n\r\n", body.len());
                    let _ = stream.write_all(head.as_bytes()).await;
                    let _ = stream.write_all(&body).await;
                });
            }
        });
        Self { base, requests, task }
    }

    async fn saying(document: Document) -> Self {
        Self::start(move |_| Some(document.clone())).await
    }
}

fn gzip(body: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(body).unwrap();
    encoder.finish().unwrap()
}

async fn probed(url: &str) -> Probed {
    Probed::of(json!({ "type": "Prometheus", "url": url })).await
}

#[tokio::test]
async fn a_scrape_asks_as_prometheus_does_and_tells_how_long_it_waits() {
    let server = Server::saying(document(TEXT, "m 1\n")).await;
    let url = format!("{}/metrics?collect[]=cpu&x=%20y", server.base);
    let poll = Probed::of(json!({ "type": "Prometheus", "url": url, "interval": "60s", "timeout": "50s" })).await;
    poll.succeeded();
    assert_eq!((poll.value("m"), poll.value("probe_call_success{call=\"scrape\"}")), (1.0, 1.0));
    let head = server.requests.lock().unwrap()[0].to_ascii_lowercase();
    assert!(head.starts_with("get /metrics?collect[]=cpu&x=%20y http/1.1\r\n"), "{head}");
    for header in [
        "accept: application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.4",
        "accept-encoding: gzip",
    ] {
        assert!(head.contains(header), "{head}");
    }
    let seconds = head.split("x-prometheus-scrape-timeout-seconds: ").nth(1).unwrap().split("\r\n").next().unwrap();
    let seconds: f64 = seconds.parse().unwrap();
    assert!(seconds > 0.0 && seconds <= 50.0, "{seconds}");
}

#[tokio::test]
async fn compressed_bodies_are_read_in_one_piece_or_in_many() {
    let gzipped = |body: Vec<u8>| ("HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\n".to_owned(), body);
    let many = [gzip(b"a 1\nb "), gzip(b"2\n"), gzip(b"")].concat();
    let server = Server::saying(gzipped(many)).await;
    let poll = probed(&server.base).await;
    poll.succeeded();
    assert_eq!((poll.value("a"), poll.value("b")), (1.0, 2.0));
    let whole = gzip("m{l=\"x\"} 1\n".repeat(100).as_bytes());
    let cut_off = Server::saying(gzipped(whole[..whole.len() - 9].to_vec())).await;
    let poll = probed(&cut_off.base).await;
    poll.failed(Reason::Body);
    assert!(!poll.has("m"));
}

#[tokio::test]
async fn every_fault_of_a_server_has_its_reason_and_leaves_nothing_of_it() {
    for (fault, reason) in [
        (Fault::Endless, Reason::Limit),
        (Fault::ClaimsATerabyte, Reason::Limit),
        (Fault::CompressedBomb, Reason::Limit),
        (Fault::EmptyGzipMembers, Reason::Limit),
        (Fault::EmptyGzipBlocks, Reason::Limit),
        (Fault::BrokenGzip, Reason::Body),
        (Fault::PromisesTooMuch, Reason::Body),
        (Fault::DeepJson, Reason::Parse),
        (Fault::Closes, Reason::Connect),
        (Fault::Says("HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n"), Reason::Auth),
        (Fault::Says("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\nm 1\n"), Reason::HttpStatus),
        (Fault::Says("HTTP/1.1 302 Found\r\nlocation: /metrics\r\ncontent-length: 0\r\n\r\n"), Reason::HttpStatus),
        (Fault::Says("HTTP/1.1 200 OK\r\ncontent-length: 15\r\n\r\n<html>m 1</html"), Reason::Parse),
    ] {
        let server = Faulty::start(fault).await;
        let poll = probed(&server.url()).await;
        poll.failed(reason);
        let families = poll.series.keys().filter(|series| !series.starts_with("probe_")).count();
        assert_eq!(families, 0, "{fault:?}: {poll:?}");
    }
    for fault in [Fault::HangsBeforeTheAnswer, Fault::HangsInTheBody, Fault::Drips] {
        let server = Faulty::start(fault).await;
        let poll = Probed::of(json!({ "type": "Prometheus", "url": server.url(), "timeout": "400ms" })).await;
        poll.failed(Reason::Timeout);
    }
}

fn manifest(name: &str, url: &str, more: &str) -> String {
    format!(
        "---\napiVersion: scrapetarget.dev/v1alpha1\nkind: ScrapeTarget\nmetadata: {{ name: {name}, namespace: ns }}\n\
         spec:\n  type: Prometheus\n  url: {url}\n  interval: 1h\n{more}"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scrape_fails_with_502_only_where_it_is_to_and_only_while_the_server_is_down() {
    let server = Server::saying(document(TEXT, "m 1\n")).await;
    let (up, down) = (format!("{}/metrics", server.base), closed_port());
    let option = "  prometheus: { failStatus: 502 }\n";
    let manifests = [
        manifest("up", &up, option),
        manifest("down", &down, option),
        manifest("down-and-200", &down, ""),
        manifest("suspended", &down, &format!("  suspend: true\n{option}")),
        manifest("html", &up.replace("/metrics", "/page"), option),
    ];
    let folder = folder_with([("targets.yaml", manifests.concat().as_str())]);
    let service = Running::ready(folder.path(), [] as [&str; 0]).await;
    for (name, wanted, success) in [
        ("up", 200, Some("1")),
        ("down", 502, Some("0")),
        ("down-and-200", 200, Some("0")),
        ("suspended", 200, None),
        ("html", 200, Some("1")),
    ] {
        let (status, body) = service.get(&format!("/probe?target=ns/{name}")).await.unwrap();
        assert_eq!(status, wanted, "{name}: {body}");
        assert_eq!(body.contains("\nprobe_success "), success.is_some(), "{body}");
        if let Some(success) = success {
            assert!(body.contains(&format!("\nprobe_success {success}\n")), "{name}: {body}");
        }
        exposition::parse(&body).unwrap();
        let (status, _) = service.get(&format!("/probe?target=ns/{name}&debug=true")).await.unwrap();
        assert_eq!(status, 200, "the debug page of {name} is for people");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_scrape_polls_unless_an_age_is_allowed() {
    let count = Mutex::new(0);
    let server = Server::start(move |_| {
        let mut count = count.lock().unwrap();
        *count += 1;
        Some(document(TEXT, format!("polls_total {count}\n")))
    })
    .await;
    let folder = folder_with([("targets.yaml", manifest("t", &server.base, "").as_str())]);
    let service = Running::ready(folder.path(), [] as [&str; 0]).await;
    let mut last = 0.0;
    for _ in 0..5 {
        let body = service.body("/probe?target=ns/t").await;
        let polls = support::series(&body)["polls_total"];
        assert!(polls > last, "a scrape got what another had got");
        last = polls;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn members_are_merged_and_only_if_all_of_them_fail_does_the_scrape() {
    let server =
        Server::saying(document(TEXT, "# TYPE m gauge\nm{member=\"mine\",pod=\"p\"} 1\nprobe_http_ssl 1\n")).await;
    let port = server.base.rsplit(':').next().unwrap();
    let url = |port: &str| format!("http://localhost:{port}/metrics");
    let options = "  members: { dns: {} }\n  prometheus: { failStatus: 502 }\n";
    let down = closed_port();
    let closed = down.trim_end_matches('/').rsplit(':').next().unwrap();
    let manifests = manifest("up", &url(port), options) + &manifest("down", &url(closed), options);
    let folder = folder_with([("targets.yaml", manifests.as_str())]);
    let service = Running::ready(folder.path(), [] as [&str; 0]).await;
    let (status, body) = service.get("/probe?target=ns/up").await.unwrap();
    assert_eq!(status, 200, "{body}");
    exposition::parse(&body).unwrap();
    let member = format!("member=\"127.0.0.1:{port}\"");
    for series in [
        format!("m{{{member},exported_member=\"mine\",pod=\"p\"}} 1\n"),
        format!("probe_http_ssl{{{member}}} 1\n"),
        format!("probe_member_success{{{member}}} 1\n"),
    ] {
        assert!(body.contains(&series), "{series} in {body}");
    }
    let (status, body) = service.get("/probe?target=ns/down").await.unwrap();
    assert_eq!(status, 502, "{body}");
    assert!(body.contains("probe_members{state=\"down\"}"), "{body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn our_own_answers_pass_through_us() {
    let demo = Running::demo();
    demo.until_status("/-/ready", 200).await;
    let groups: Value = serde_json::from_str(&demo.body("/sd").await).unwrap();
    for group in groups.as_array().unwrap() {
        let id = group["labels"]["__param_target"].as_str().unwrap();
        let body = demo.body(&format!("/probe?target={id}")).await;
        let mut expected = exposition::samples(&body).unwrap();
        expected.retain(|sample| !OF_A_POLL.contains(&sample.name.as_str()));
        let passed = Passed::strict(TEXT, body.as_bytes());
        let read = exposition::samples(&passed.written(Format::Text)).unwrap();
        assert_eq!(sorted(&read), sorted(&expected), "{id}");
    }
}

fn sorted(samples: &[exposition::Sample]) -> Vec<String> {
    let mut lines: Vec<String> = samples.iter().map(|sample| format!("{} {}", sample.series(), sample.value)).collect();
    lines.sort();
    lines
}

/// Expositions by a name that may stand in a path: those with which Prometheus' own parsers are tested, and some of ours.
fn documents() -> BTreeMap<String, Document> {
    let mut found: BTreeMap<String, Document> = BTreeMap::new();
    let folder = expositions();
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        let content_type = match name {
            // A format that is not finished.
            _ if name.contains(".om2.") => continue,
            _ if name.ends_with(".om.txt") => OPENMETRICS,
            _ if name.ends_with(".prom.txt") => TEXT,
            _ => continue,
        };
        let body = fs::read(&path).unwrap();
        found.insert(name.replace('.', "-"), document(content_type, body));
    }
    assert!(found.len() >= 4, "{}: {:?}", folder.display(), found.keys());
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/prometheus");
    for entry in fs::read_dir(fixtures).unwrap() {
        let path = entry.unwrap().path();
        let content_type = if path.extension().unwrap() == "om" { OPENMETRICS } else { TEXT };
        let name = path.file_name().unwrap().to_str().unwrap().replace('.', "-");
        found.insert(format!("ours-{name}"), document(content_type, fs::read(&path).unwrap()));
    }
    found
}

/// What Prometheus has stored under these labels: each series with its newest value.
async fn stored(server: &Running, selector: &str) -> BTreeMap<String, String> {
    let query: String = url::form_urlencoded::byte_serialize(selector.as_bytes()).collect();
    let answer: Value = serde_json::from_str(&server.body(&format!("/api/v1/query?query={query}")).await).unwrap();
    let result = answer["data"]["result"].as_array().unwrap_or_else(|| panic!("{answer}"));
    result
        .iter()
        .map(|series| {
            let mut labels: BTreeMap<String, String> = serde_json::from_value(series["metric"].clone()).unwrap();
            labels.retain(|name, _| !["job", "instance", "document"].contains(&name.as_str()));
            (format!("{labels:?}"), series["value"][1].as_str().unwrap().to_owned())
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn prometheus_stores_the_same_series_through_us_as_without_us() {
    let documents = documents();
    let names: Vec<String> = documents.keys().cloned().collect();
    let server = Server::start(move |path| documents.get(path.trim_start_matches('/')).cloned()).await;
    let limit = "  sampleLimit: 1000000\n";
    let manifests: String = names
        .iter()
        .map(|name| manifest(&name.to_ascii_lowercase(), &format!("{}/{name}", server.base), limit))
        .collect();
    let folder = folder_with([("targets.yaml", manifests.as_str())]);
    let service = Running::ready(folder.path(), ["--max-sample-limit", "1000000"]).await;
    let every = allowed(Duration::from_secs(2)).as_secs().clamp(2, 20);
    let mut config = format!("global: {{ scrape_interval: {every}s, scrape_timeout: {every}s }}\nscrape_configs:\n");
    let host = |base: &str| base.trim_start_matches("http://").to_owned();
    for (number, name) in names.iter().enumerate() {
        let _ = write!(
            config,
            "- job_name: direct-{number}\n  honor_timestamps: false\n  honor_labels: true\n  metrics_path: /{name}\n  static_configs: [{{ targets: ['{}'], labels: {{ document: 'direct-{number}' }} }}]\n",
            host(&server.base)
        );
        for (protocol, format) in [("OpenMetricsText1.0.0", "om"), ("PrometheusText0.0.4", "text")] {
            let _ = write!(
                config,
                "- job_name: through-{format}-{number}\n  scrape_protocols: [{protocol}]\n  honor_labels: true\n  metrics_path: /probe\n  params: {{ target: ['ns/{}'] }}\n  static_configs: [{{ targets: ['{}'], labels: {{ document: '{format}-{number}' }} }}]\n",
                name.to_ascii_lowercase(),
                host(&service.base)
            );
        }
    }
    let configured = TempDir::new().unwrap();
    let file = configured.path().join("prometheus.yml");
    fs::write(&file, config).unwrap();
    let prometheus = Running::prometheus(&file).await;
    for (number, name) in names.iter().enumerate() {
        for format in ["om", "text"] {
            eventually(PATIENCE, async || {
                // Names that only some servers read, and times that Prometheus itself makes series of, are not passed on.
                let selector = |document: &str| {
                    format!(
                        "{{document=\"{document}-{number}\",__name__=~\"[a-zA-Z_:][a-zA-Z0-9_:]*\",__name__!~\"probe_.*|scrape_.*|up|.*_created\"}}"
                    )
                };
                let direct = stored(&prometheus, &selector("direct")).await;
                let through = stored(&prometheus, &selector(format)).await;
                if !direct.is_empty() && direct == through {
                    return Ok(());
                }
                let missing: Vec<_> = direct.iter().filter(|(series, value)| through.get(*series) != Some(value)).take(5).collect();
                let more: Vec<_> = through.iter().filter(|(series, value)| direct.get(*series) != Some(value)).take(5).collect();
                Err(format!("{name} as {format}: {} against {}: {missing:#?} {more:#?}", direct.len(), through.len()))
            })
            .await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn prometheus_itself_sees_a_server_down_that_is_down() {
    let down = closed_port();
    let manifests = manifest("told", &down, "  prometheus: { failStatus: 502 }\n")
        + &manifest("untold", &down, "  monitor: { honorLabels: true }\n");
    let folder = folder_with([("targets.yaml", manifests.as_str())]);
    let service = Running::ready(folder.path(), [] as [&str; 0]).await;
    let config = format!(
        "global: {{ scrape_interval: 2s, scrape_timeout: 2s }}\nscrape_configs:\n- job_name: x\n  http_sd_configs: [{{ url: '{0}/sd?honorLabels=false' }}]\n\
         - job_name: y\n  honor_labels: true\n  http_sd_configs: [{{ url: '{0}/sd?honorLabels=true' }}]\n",
        service.base
    );
    let configured = TempDir::new().unwrap();
    let file = configured.path().join("prometheus.yml");
    fs::write(&file, config).unwrap();
    let prometheus = Running::prometheus(&file).await;
    for (name, up) in [("told", "0"), ("untold", "1")] {
        eventually(PATIENCE, async || {
            let found = stored(&prometheus, &format!("up{{instance=\"ns/{name}\"}}")).await;
            if found.values().next().map(String::as_str) == Some(up) {
                Ok(())
            } else {
                Err(format!("{name}: {found:?}"))
            }
        })
        .await;
    }
}

/// What a server may send that wants to spoil the answer to whoever scrapes us: by a name, whether it is OpenMetrics, and the text.
const HOSTILE: &[(&str, bool, &str)] = &[
    (
        "quoted-names",
        false,
        "# TYPE \"a b\" counter\n{\"a b\"} 1\n{\"c.d\",\"e.f\"=\"1\"} 2\n{\"m\",\"le\"=\"x\\ny\"} 3\nok{\"\"=\"1\"} 1\nok 1\n",
    ),
    (
        "quoted-names-om",
        true,
        "# TYPE \"a.b\" counter\n{\"a.b_total\"} 1\n# HELP \"x\\ny\" z\n{\"x\\ny\"} 1\n# TYPE ok gauge\nok 1\n# EOF\n",
    ),
    (
        "info",
        true,
        "# TYPE a info\na 1\na_info{v=\"1\"} 7\n# TYPE a_info gauge\na_info{v=\"2\"} 2\n# TYPE b info\nb_info -1\n# EOF\n",
    ),
    (
        "stateset",
        true,
        "# TYPE s stateset\ns{s=\"on\"} 5\ns{s=\"off\"} NaN\ns 1\ns{s=\"\"} 1\n# TYPE s_created gauge\ns_created 1\n# EOF\n",
    ),
    (
        "buckets",
        false,
        "# TYPE h histogram\nh_bucket{le=\"1e308\"} 1\nh_bucket{le=\"1e999\"} 1\nh_bucket{le=\"99999999999999999999999999\"} 1\n\
         h_bucket{le=\"NaN\"} 2\nh_bucket{le=\"x\"} 2\nh_bucket{le=\"\"} 2\nh_bucket{le=\"-1\"} 9\nh_bucket{le=\"1\"} 3\nh_bucket{le=\"1.0\"} 4\n\
         h_bucket 5\nh_count -1\nh_sum NaN\nh 7\n# TYPE g histogram\ng_bucket{le=\"0x1p4\"} 1\ng_bucket{le=\"1_0\"} 1\ng_sum 1\nok 1\n",
    ),
    (
        "quantiles",
        false,
        "# TYPE q summary\nq{quantile=\"2\"} 1\nq{quantile=\"x\"} 1\nq{quantile=\"\"} 1\nq{quantile=\"0.5\"} -1\nq{quantile=\"0.50\"} -2\nq 3\n\
         q_count 1\nq_sum -Inf\nok 1\n",
    ),
    (
        "timestamps",
        true,
        "# TYPE a gauge\na{x=\"1\"} 1 NaN\na{x=\"2\"} 1 +Inf\na{x=\"3\"} 1 -1e300\na{x=\"4\"} 1 99999999999999999999\na{x=\"5\"} 1 1.5\n\
         # TYPE c counter\nc_total 1 # {} NaN NaN\nc_created NaN\n# EOF\n",
    ),
    (
        "text-timestamps",
        false,
        "a{x=\"1\"} 1 9223372036854775807\na{x=\"2\"} 1 -9223372036854775808\na{x=\"3\"} 1 NaN\nok 1\n",
    ),
    (
        "families-twice",
        false,
        "# TYPE a counter\na{x=\"1\"} 1\n# TYPE b gauge\nb 1\n# HELP a other\n# TYPE a gauge\na{x=\"2\"} 2\na{x=\"1\"} 3\n# TYPE b histogram\n\
         b_bucket{le=\"+Inf\"} 1\nb_sum 1\nb_count 1\nb 2\n",
    ),
    (
        "totals",
        false,
        "# TYPE a counter\na 1\n# TYPE a_total counter\na_total 2\n# TYPE a_total_total counter\na_total_total 3\n# TYPE g gauge\ng 1\n\
         # TYPE g_total counter\ng_total 2\n# TYPE x_total gauge\nx_total 4\n# TYPE _total counter\n_total 5\n# TYPE c_created counter\n\
         c_created 1\n# TYPE c counter\nc 2\n",
    ),
    (
        "parts",
        false,
        "# TYPE h histogram\nh_bucket{le=\"+Inf\"} 1\nh_sum 1\nh_count 1\n# TYPE h_count gauge\nh_count 2\n# TYPE h_bucket counter\n\
         h_bucket{x=\"1\"} 1\n# TYPE h_sum summary\nh_sum_sum 1\nh_sum_count 1\n# TYPE h_total counter\nh_total 1\nh_created 1\nok 1\n",
    ),
    (
        "ends",
        false,
        "# HELP a # EOF\n# TYPE a gauge\na{x=\"# EOF\"} 1\na{x=\"\\n# EOF\\n\"} 1\na{x=\"\\\\\"} 2\na{x=\"\\\"} 3\"} 3\na{x=\"\u{2028}\u{feff}\r\u{0}\"} 4\n\
         # EOF\nb 1\n",
    ),
    (
        "units",
        true,
        "# TYPE a gauge\n# UNIT a seconds\na 1\n# TYPE b_bytes gauge\n# UNIT b_bytes bytes\nb_bytes 1\n# EOF\n",
    ),
    (
        "reserved-labels",
        false,
        "a{__name__=\"b\"} 1\na{__address__=\"x\",job=\"y\",instance=\"z\"} 2\na{x=\"1\",x=\"2\"} 3\nok 1\n",
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn what_a_hostile_server_says_is_read_by_promtool_and_by_prometheus_in_both_formats() {
    let server = Server::start(|path| {
        let (_, is_openmetrics, text) = HOSTILE.iter().find(|(name, ..)| *name == path.trim_start_matches('/'))?;
        Some(document(if *is_openmetrics { OPENMETRICS } else { TEXT }, *text))
    })
    .await;
    let manifests: String =
        HOSTILE.iter().map(|(name, ..)| manifest(name, &format!("{}/{name}", server.base), "")).collect();
    let folder = folder_with([("targets.yaml", manifests.as_str())]);
    let service = Running::ready(folder.path(), [] as [&str; 0]).await;
    let at = service.base.trim_start_matches("http://");
    let mut config = "global: { scrape_interval: 2s, scrape_timeout: 2s }\nscrape_configs:\n".to_owned();
    for (name, ..) in HOSTILE {
        let text = service.body(&format!("/probe?target=ns/{name}")).await;
        assert!(text.contains("probe_success 1\n"), "{name}: {text}");
        lint(&text).unwrap_or_else(|error| panic!("{name}: {error}\n{text}"));
        for (protocol, format) in [("OpenMetricsText1.0.0", "om"), ("PrometheusText0.0.4", "text")] {
            let _ = write!(
                config,
                "- job_name: {name}-{format}\n  scrape_protocols: [{protocol}]\n  honor_labels: true\n  metrics_path: /probe\n  \
                 params: {{ target: ['ns/{name}'] }}\n  static_configs: [{{ targets: ['{at}'], labels: {{ document: '{name}-{format}' }} }}]\n"
            );
        }
    }
    let configured = TempDir::new().unwrap();
    let file = configured.path().join("prometheus.yml");
    fs::write(&file, config).unwrap();
    let prometheus = Running::prometheus(&file).await;
    for (name, ..) in HOSTILE {
        eventually(PATIENCE, async || {
            let mut found = Vec::new();
            for format in ["om", "text"] {
                let of = format!("document=\"{name}-{format}\"");
                let up = stored(&prometheus, &format!("up{{{of}}}")).await;
                if up.into_values().collect::<Vec<_>>() != ["1"] {
                    return Err(format!("{name}-{format}: {}", prometheus.body("/api/v1/targets").await));
                }
                let others = format!("{{{of},__name__!~\"probe_.*|scrape_.*|up\"}}");
                found.push(stored(&prometheus, &others).await);
            }
            if found[0] == found[1] && !found[0].is_empty() { Ok(()) } else { Err(format!("{name}: {found:#?}")) }
        })
        .await;
    }
}
