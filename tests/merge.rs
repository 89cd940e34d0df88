//! Expositions of many processes become one: every series is there once, under its process's label.
#[path = "support/exposition.rs"]
mod exposition;

use std::fmt::Write as _;

use exposition::Everything;
use proptest::prelude::*;
use scrapetarget_exporter::metric::{
    Families, Finished, Format, Merged, Suffix, Type, encode, merge_members, openmetrics_to_text, read_exposition,
    text_to_openmetrics,
};

scrapetarget_exporter::descs! {
    UP = gauge "t_up" [] "Whether it is up.";
    CALLS = counter "t_calls_total" ["method"] "Calls \"by\" method.";
    DELAY = histogram "t_delay_seconds" [] "How long it takes.";
    SUCCESS = gauge "probe_success" [] "Whether it answered.";
    MEMBER = gauge "probe_member_success" ["pod"] "Whether this one answered.";
}

fn read(text: &str) -> Finished {
    let mut out = Families::default();
    read_exposition(text, &Everything, usize::MAX, &mut out).unwrap();
    out.finish()
}

/// The text of one member, and what it skipped by that.
fn member(text: &str, pod: &str) -> (String, u64) {
    let mut read = read(text);
    let before = read.skipped();
    let text = String::from_utf8(read.encode_member("pod", pod)).unwrap();
    (text, read.skipped() - before)
}

fn merge(parts: &[Vec<u8>], own: &Finished, format: Format) -> (String, Merged) {
    let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
    let mut out = Vec::new();
    let merged = merge_members(&parts, own, format, &mut out);
    (String::from_utf8(out).unwrap(), merged)
}

/// Members with these texts, called `a`, `b`, …; merged as text 0.0.4 without families of the exporter.
fn merged(texts: &[&str]) -> (String, usize) {
    let names = ["a", "b", "c"];
    let parts: Vec<Vec<u8>> = texts.iter().zip(names).map(|(text, pod)| member(text, pod).0.into_bytes()).collect();
    let (text, merged) = merge(&parts, &Families::default().finish(), Format::Text);
    exposition::parse(&text).unwrap();
    (text, merged.left_out)
}

fn example(calls: f64) -> Finished {
    let mut out = Families::default();
    out.set(&UP, &[], 1.0);
    out.set(&CALLS, &["get"], calls);
    out.set(&CALLS, &["put"], 0.5);
    out.histogram(&DELAY, [(0.1, 1.0)], 3.5, 5.0);
    out.finish()
}

fn own_families() -> Finished {
    let mut own = Families::default();
    own.set(&SUCCESS, &[], 1.0);
    own.set(&MEMBER, &["rooms-0"], 1.0);
    own.set(&MEMBER, &["rooms-1"], 0.0);
    own.finish()
}

#[test]
fn each_family_has_one_header_and_the_samples_of_all_members_in_their_order() {
    let parts = [example(1.0).encode_member("pod", "rooms-0"), example(2.0).encode_member("pod", "rooms-1")];
    let (text, merged) = merge(&parts, &own_families(), Format::OpenMetrics);
    assert_eq!(
        text,
        r#"# HELP probe_member_success Whether this one answered.
# TYPE probe_member_success gauge
probe_member_success{pod="rooms-0"} 1
probe_member_success{pod="rooms-1"} 0
# HELP probe_success Whether it answered.
# TYPE probe_success gauge
probe_success 1
# HELP t_calls Calls \"by\" method.
# TYPE t_calls counter
t_calls_total{pod="rooms-0",method="get"} 1
t_calls_total{pod="rooms-0",method="put"} 0.5
t_calls_total{pod="rooms-1",method="get"} 2
t_calls_total{pod="rooms-1",method="put"} 0.5
# HELP t_delay_seconds How long it takes.
# TYPE t_delay_seconds histogram
t_delay_seconds_bucket{pod="rooms-0",le="0.1"} 1
t_delay_seconds_bucket{pod="rooms-0",le="+Inf"} 5
t_delay_seconds_sum{pod="rooms-0"} 3.5
t_delay_seconds_count{pod="rooms-0"} 5
t_delay_seconds_bucket{pod="rooms-1",le="0.1"} 1
t_delay_seconds_bucket{pod="rooms-1",le="+Inf"} 5
t_delay_seconds_sum{pod="rooms-1"} 3.5
t_delay_seconds_count{pod="rooms-1"} 5
# HELP t_up Whether it is up.
# TYPE t_up gauge
t_up{pod="rooms-0"} 1
t_up{pod="rooms-1"} 1
# EOF
"#
    );
    assert_eq!((merged.left_out, merged.plain_counters.len()), (0, 0));
}

#[test]
fn without_members_only_the_families_of_the_exporter_are_left() {
    let (text, _) = merge(&[Vec::new()], &own_families(), Format::Text);
    let mut own = Vec::new();
    encode(&[&own_families()], Format::Text, &mut own);
    assert_eq!(text.as_bytes(), own);
    assert_eq!(merge(&[], &Families::default().finish(), Format::OpenMetrics).0, "# EOF\n");
}

#[test]
fn the_value_of_the_label_is_escaped_and_cut() {
    let text = |value: &str| String::from_utf8(example(1.0).encode_member("pod", value)).unwrap();
    assert!(text("a\"\\\n").contains("t_up{pod=\"a\\\"\\\\\\n\"} 1\n"));
    let long = text(&"é".repeat(2000));
    assert!(exposition::samples(&long).unwrap().iter().all(|sample| sample.labels[0].1.len() == 1024));
}

#[test]
fn a_label_of_the_server_gives_way_as_prometheus_has_it() {
    let of = |labels: &str| {
        let (text, skipped) = member(&format!("x{labels} 1\n"), "p");
        assert_eq!(skipped, 0, "{labels}");
        text.lines().last().unwrap().to_owned()
    };
    for (labels, written) in [
        (r#"{pod="q"}"#, r#"x{pod="p",exported_pod="q"} 1"#),
        (r#"{a="1",pod="q",z="2"}"#, r#"x{pod="p",a="1",exported_pod="q",z="2"} 1"#),
        (r#"{exported_pod="q"}"#, r#"x{pod="p",exported_pod="q"} 1"#),
        (r#"{exported_pod="q",pod="r"}"#, r#"x{pod="p",exported_pod="q",exported_exported_pod="r"} 1"#),
        (
            r#"{exported_exported_pod="s",exported_pod="q",pod="r"}"#,
            r#"x{pod="p",exported_exported_pod="s",exported_pod="q",exported_exported_exported_pod="r"} 1"#,
        ),
        (r#"{pod="",a="1"}"#, r#"x{pod="p",a="1"} 1"#),
        (r#"{pod=""}"#, r#"x{pod="p"} 1"#),
        (r#"{a="pod=\"q\",pod="}"#, r#"x{pod="p",a="pod=\"q\",pod="} 1"#),
        (r#"{pods="q",my_pod="r"}"#, r#"x{pod="p",pods="q",my_pod="r"} 1"#),
        ("", r#"x{pod="p"} 1"#),
    ] {
        assert_eq!(of(labels), written, "{labels}");
    }
}

#[test]
fn of_series_that_are_equal_under_their_new_names_the_first_stays() {
    let text = "x{exported_pod=\"q\"} 1\nx{pod=\"q\"} 2\nx{pod=\"r\"} 3\ny 4\n";
    let mut finished = read(text);
    let written = String::from_utf8(finished.encode_member("pod", "p")).unwrap();
    let values: Vec<f64> = exposition::samples(&written).unwrap().iter().map(|sample| sample.value).collect();
    assert_eq!(values, [1.0, 3.0, 4.0]);
    assert_eq!((finished.len(), finished.skipped()), (3, 1));
}

#[test]
fn the_labels_of_a_server_in_a_family_of_the_program_give_way_as_well() {
    let mut out = Families::default();
    out.set(&CALLS, &["get"], 1.0);
    let same = out.family("t_calls_total", Type::Counter, "h").unwrap();
    out.set_dynamic(same, Suffix::None, &[("pod", "q")], 2.0);
    let text = String::from_utf8(out.finish().encode_member("pod", "p")).unwrap();
    assert!(text.contains("t_calls_total{pod=\"p\",exported_pod=\"q\"} 2\n"), "{text}");
}

#[test]
fn the_first_member_with_a_family_decides_its_type_and_help() {
    let (text, left_out) = merged(&[
        "# HELP x From a.\n# TYPE x gauge\nx 1\n",
        "# HELP x From b.\n# TYPE x counter\nx 2\n# TYPE y gauge\ny 1\n",
        "x 3\n# TYPE y counter\ny 2\n",
    ]);
    assert_eq!(
        text,
        "# HELP x From a.\n# TYPE x gauge\nx{pod=\"a\"} 1\nx{pod=\"b\"} 2\nx{pod=\"c\"} 3\n\
         # HELP y \n# TYPE y gauge\ny{pod=\"b\"} 1\ny{pod=\"c\"} 2\n"
    );
    assert_eq!(left_out, 0);
}

const HISTOGRAM: &str = "# TYPE x histogram\nx_bucket{le=\"1\"} 1\nx_bucket{le=\"+Inf\"} 2\nx_sum 3\nx_count 2\n";
const SUMMARY: &str = "# TYPE x summary\nx{quantile=\"0.5\"} 1\nx_sum 3\nx_count 2\n";

#[test]
fn what_does_not_fit_into_the_family_of_another_member_is_left_out_and_counted() {
    for (first, second, count) in [
        (HISTOGRAM, SUMMARY, 3),
        (SUMMARY, HISTOGRAM, 4),
        ("# TYPE x gauge\nx 1\n", HISTOGRAM, 4),
        (HISTOGRAM, "# TYPE x gauge\nx 1\n", 1),
        ("x 1\n", SUMMARY, 3),
        (SUMMARY, "x{quantile=\"0.5\"} 1\nx{quantile=\"0.9\"} 1\n", 2),
        (HISTOGRAM, HISTOGRAM, 0),
    ] {
        let (text, left_out) = merged(&[first, second]);
        assert_eq!(left_out, count, "{first}{second}");
        if count > 0 {
            assert_eq!(text, member(first, "a").0, "{second}");
        }
    }
}

#[test]
fn a_family_that_would_be_read_as_a_part_of_another_is_left_out_whoever_comes_first() {
    for composed in [HISTOGRAM, SUMMARY] {
        for part in ["x_count", "x_sum", "x_bucket"] {
            let simple = format!("{part}{{way=\"up\"}} 1\n{part}{{way=\"down\"}} 2\nx_counts 1\n");
            for texts in [[composed, &simple], [&simple, composed]] {
                let (text, left_out) = merged(&texts);
                assert!(text.contains("x_sum{pod=") && text.contains("x_counts{pod="), "{text}");
                assert!(!text.contains("way"), "{text}");
                assert_eq!(left_out, 2, "{text}");
                assert_eq!(read(&text).skipped(), 0, "{text}");
            }
        }
    }
}

#[test]
fn a_counter_whose_openmetrics_name_another_member_has_is_unknown_there() {
    let parts = [
        member("# TYPE x_total counter\nx_total 1\n", "a").0.into_bytes(),
        member("# TYPE x gauge\nx 1\n", "b").0.into_bytes(),
    ];
    let (openmetrics, merged) = merge(&parts, &Families::default().finish(), Format::OpenMetrics);
    assert!(openmetrics.contains("# TYPE x gauge\n") && openmetrics.contains("# TYPE x_total unknown\n"));
    assert_eq!(merged.plain_counters.len(), 1);
    let (text, _) = merge(&parts, &Families::default().finish(), Format::Text);
    assert!(text.contains("# TYPE x_total counter\n"), "{text}");
    assert_eq!(openmetrics_to_text(&openmetrics, &merged.plain_counters), text);
}

#[test]
fn a_long_help_is_not_cut_however_it_is_escaped() {
    let help = "\\\\".repeat(2000);
    let text = format!("# HELP x {help}\n# TYPE x gauge\nx 1\n");
    assert_eq!(merged(&[&text]).0, member(&text, "a").0);
}

/// The texts of servers that agree in little: the same names with other types, labels that members have as well.
fn any_text(kinds: &'static [&'static str]) -> impl Strategy<Value = String> {
    let name = prop::sample::select(vec!["a", "b", "a_total", "b_total", "a_count", "b_sum", "c", "c_bucket"]);
    let label = prop::sample::select(vec![
        "",
        "{pod=\"1\"}",
        "{pod=\"\"}",
        "{exported_pod=\"1\"}",
        "{exported_pod=\"1\",pod=\"2\"}",
        "{l=\"\\\"#\\n# HELP\\\\\"}",
    ]);
    let kind = prop::sample::select(kinds);
    let help = prop::sample::select(vec!["", "h", "say \"a\\\\b\"\\n# TYPE"]);
    let family = (name, kind, help, prop::collection::vec((label, 0..3_u8), 0..4));
    prop::collection::vec(family, 0..6).prop_map(|families| {
        let mut text = String::from("# a comment\n");
        for (name, kind, help, samples) in families {
            writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}").unwrap();
            for (labels, value) in samples {
                let inner = labels.trim_matches(['{', '}']);
                let more = if inner.is_empty() { String::new() } else { format!("{inner},") };
                match kind {
                    "histogram" => {
                        writeln!(text, "{name}_bucket{{{more}le=\"+Inf\"}} {value}\n{name}_sum{labels} {value}")
                    }
                    "summary" => {
                        writeln!(text, "{name}{{{more}quantile=\"0.5\"}} {value}\n{name}_count{labels} {value}")
                    }
                    _ => writeln!(text, "{name}{labels} {value}"),
                }
                .unwrap();
            }
        }
        text
    })
}

const SIMPLE: &[&str] = &["counter", "gauge", "untyped"];
const ALL: &[&str] = &["counter", "gauge", "untyped", "histogram", "summary"];

/// The members' own texts, and all series that they have.
fn members(texts: &[String]) -> (Vec<Vec<u8>>, Vec<String>) {
    let mut series = Vec::new();
    let parts = texts.iter().zip(0..).map(|(text, number)| {
        let mut finished = read(text);
        let part = finished.encode_member("pod", &format!("p{number}"));
        let samples = exposition::samples(std::str::from_utf8(&part).unwrap()).unwrap();
        assert_eq!(samples.len(), finished.len());
        assert!(samples.iter().all(|sample| sample.labels[0] == ("pod".to_owned(), format!("p{number}"))));
        series.extend(samples.iter().map(exposition::Sample::series));
        part
    });
    let parts = parts.collect();
    (parts, series)
}

proptest! {
    #[test]
    fn every_series_of_every_member_is_there_once(texts in prop::collection::vec(any_text(SIMPLE), 0..5)) {
        let (parts, mut wanted) = members(&texts);
        let (text, merged) = merge(&parts, &own_families(), Format::Text);
        let families = exposition::parse(&text).map_err(TestCaseError::fail)?;
        prop_assert_eq!(exposition::out_of_order(&families), None);
        let mut found: Vec<String> = families.iter().flat_map(|family| &family.samples).map(exposition::Sample::series).collect();
        let mut own = Vec::new();
        encode(&[&own_families()], Format::Text, &mut own);
        wanted.extend(exposition::samples(std::str::from_utf8(&own).unwrap()).unwrap().iter().map(exposition::Sample::series));
        found.sort_unstable();
        wanted.sort_unstable();
        prop_assert_eq!(found, wanted);
        prop_assert_eq!(merged.left_out, 0);
    }

    #[test]
    fn whatever_members_send_a_merge_can_be_read_and_counts_what_it_leaves_out(
        texts in prop::collection::vec(any_text(ALL), 0..5),
    ) {
        let (parts, wanted) = members(&texts);
        let own = own_families();
        let (text, merged) = merge(&parts, &own, Format::Text);
        let families = exposition::parse(&text).map_err(TestCaseError::fail)?;
        prop_assert_eq!(exposition::out_of_order(&families), None);
        let samples: usize = families.iter().map(|family| family.samples.len()).sum();
        prop_assert_eq!(samples + merged.left_out, wanted.len() + own.len());
        let again = read(&text);
        prop_assert_eq!((again.len(), again.skipped()), (samples, 0));
        let mut written = Vec::new();
        encode(&[&again], Format::Text, &mut written);
        prop_assert_eq!(String::from_utf8(written).unwrap(), text);
    }

    #[test]
    fn either_format_of_a_merge_made_from_the_other_is_that_format_itself(
        texts in prop::collection::vec(any_text(ALL), 0..5),
    ) {
        let (parts, _) = members(&texts);
        let (text, of_text) = merge(&parts, &own_families(), Format::Text);
        let (openmetrics, of_openmetrics) = merge(&parts, &own_families(), Format::OpenMetrics);
        prop_assert_eq!(&of_text, &of_openmetrics);
        prop_assert_eq!(&openmetrics_to_text(&openmetrics, &of_text.plain_counters), &text);
        prop_assert_eq!(&text_to_openmetrics(&text, &of_text.plain_counters), &openmetrics);
        // It is what one text of all these families would be.
        let mut written = Vec::new();
        encode(&[&read(&text)], Format::OpenMetrics, &mut written);
        prop_assert_eq!(String::from_utf8(written).unwrap(), openmetrics);
    }
}
