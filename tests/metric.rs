//! The metric model and its two text forms, from outside.
#[path = "support/exposition.rs"]
mod exposition;

use std::sync::Arc;

use proptest::prelude::*;
use scrapetarget_exporter::metric::{
    Encoding, Families, Filter, Finished, Format, Suffix, Type, encode, negotiate_encoding, negotiate_format,
    openmetrics_to_text, text_to_openmetrics, write_value,
};

scrapetarget_exporter::descs! {
    UP = gauge "t_up" [] "Whether it is up.";
    CALLS = counter "t_calls_total" ["method"] "Calls by method.";
    SWITCHES = counter "t_switches" [] "A counter without the suffix.";
    OPEN = gauge "t_open_total" [] "A gauge with it.";
    DELAY = histogram "t_delay_seconds" [] "How long it takes.";
}

fn written(finished: &Finished, format: Format) -> String {
    let mut bytes = Vec::new();
    encode(&[finished], format, &mut bytes);
    String::from_utf8(bytes).unwrap()
}

fn example() -> Finished {
    let mut out = Families::default();
    out.set(&UP, &[], 1.0);
    out.set(&SWITCHES, &[], 3.0);
    out.set(&CALLS, &["b"], 2.0);
    out.histogram(&DELAY, [(0.1, 1.0), (2.0, 4.0)], 3.5, 5.0);
    out.set(&OPEN, &[], 7.0);
    out.set(&CALLS, &["a"], 1.5);
    out.finish()
}

#[test]
fn text_has_one_header_for_each_family_and_families_in_order() {
    assert_eq!(
        written(&example(), Format::Text),
        r#"# HELP t_calls_total Calls by method.
# TYPE t_calls_total counter
t_calls_total{method="b"} 2
t_calls_total{method="a"} 1.5
# HELP t_delay_seconds How long it takes.
# TYPE t_delay_seconds histogram
t_delay_seconds_bucket{le="0.1"} 1
t_delay_seconds_bucket{le="2.0"} 4
t_delay_seconds_bucket{le="+Inf"} 5
t_delay_seconds_sum 3.5
t_delay_seconds_count 5
# HELP t_open_total A gauge with it.
# TYPE t_open_total gauge
t_open_total 7
# HELP t_switches A counter without the suffix.
# TYPE t_switches counter
t_switches 3
# HELP t_up Whether it is up.
# TYPE t_up gauge
t_up 1
"#
    );
}

#[test]
fn openmetrics_names_counters_without_total_and_keeps_every_series_name() {
    let openmetrics = written(&example(), Format::OpenMetrics);
    assert!(openmetrics.contains("# TYPE t_calls counter\nt_calls_total{method=\"b\"} 2\n"), "{openmetrics}");
    assert!(openmetrics.contains("# TYPE t_switches unknown\nt_switches 3\n"), "{openmetrics}");
    assert!(openmetrics.contains("# TYPE t_open_total gauge\nt_open_total 7\n"), "{openmetrics}");
    assert!(openmetrics.ends_with("t_up 1\n# EOF\n"), "{openmetrics}");
}

#[test]
fn a_counter_whose_openmetrics_name_is_taken_stays_what_it_is() {
    let mut out = Families::default();
    let gauge = out.family("x", Type::Gauge, "g").unwrap();
    let counter = out.family("x_total", Type::Counter, "c").unwrap();
    out.set_dynamic(gauge, Suffix::None, &[], 1.0);
    out.set_dynamic(counter, Suffix::None, &[], 2.0);
    let finished = out.finish();
    assert_eq!(
        written(&finished, Format::OpenMetrics),
        "# HELP x g\n# TYPE x gauge\nx 1\n# HELP x_total c\n# TYPE x_total unknown\nx_total 2\n# EOF\n"
    );
}

#[test]
fn several_parts_make_one_exposition_with_one_end() {
    let mut probe = Families::default();
    let success = probe.family("probe_success", Type::Gauge, "h").unwrap();
    probe.set_dynamic(success, Suffix::None, &[], 1.0);
    let mut bytes = Vec::new();
    let plain = encode(&[&example(), &probe.finish()], Format::OpenMetrics, &mut bytes);
    let text = String::from_utf8(bytes).unwrap();
    assert!(text.ends_with("probe_success 1\n# EOF\n"), "{text}");
    assert_eq!(text.matches("# EOF").count(), 1);
    assert_eq!(plain.len(), 1, "t_switches, the counter that only text can call so");
}

#[test]
fn a_family_without_samples_is_not_written() {
    let mut out = Families::default();
    out.family("never_set", Type::Gauge, "h").unwrap();
    assert_eq!(written(&out.finish(), Format::Text), "");
}

#[test]
fn label_values_and_helps_are_escaped() {
    let mut out = Families::default();
    out.set(&CALLS, &["a\"b\\c\nd\re\0f"], 1.0);
    let help = out.family("z", Type::Gauge, "say \"a\\b\"\nand\0c").unwrap();
    out.set_dynamic(help, Suffix::None, &[], 1.0);
    let finished = out.finish();
    let text = written(&finished, Format::Text);
    assert!(text.contains("t_calls_total{method=\"a\\\"b\\\\c\\nd\re\u{FFFD}f\"} 1\n"), "{text}");
    assert!(text.contains("# HELP z say \"a\\\\b\"\\nand\u{FFFD}c\n"), "{text}");
    let openmetrics = written(&finished, Format::OpenMetrics);
    assert!(openmetrics.contains("# HELP z say \\\"a\\\\b\\\"\\nand\u{FFFD}c\n"), "{openmetrics}");
}

#[test]
fn a_very_long_label_value_is_cut_at_a_character() {
    let mut out = Families::default();
    out.set(&CALLS, &["é".repeat(2000).as_str()], 1.0);
    out.set(&CALLS, &[format!("a{}", "é".repeat(2000)).as_str()], 1.0);
    let lengths: Vec<usize> = exposition::samples(&written(&out.finish(), Format::Text))
        .unwrap()
        .iter()
        .map(|sample| sample.labels[0].1.len())
        .collect();
    assert_eq!(lengths, [1024, 1023]);
}

#[test]
fn values_are_written_as_prometheus_reads_them() {
    for (value, text) in [
        (0.0, "0"),
        (-0.0, "0"),
        (-3.0, "-3"),
        (0.372, "0.372"),
        (1_759_276_799.0, "1759276799"),
        (9_007_199_254_740_991.0, "9007199254740991"),
        (f64::NAN, "NaN"),
        (f64::INFINITY, "+Inf"),
        (f64::NEG_INFINITY, "-Inf"),
    ] {
        let mut out = Vec::new();
        write_value(&mut out, value);
        assert_eq!(String::from_utf8(out).unwrap(), text);
    }
}

#[test]
fn values_that_mean_nothing_are_skipped_and_counted() {
    let mut out = Families::default();
    out.set(&CALLS, &["a"], -1.0);
    out.set(&UP, &[], f64::NAN);
    out.set(&OPEN, &[], f64::INFINITY);
    out.set(&OPEN, &[], -1.0);
    let finished = out.finish();
    assert_eq!((finished.len(), finished.skipped()), (1, 3), "only the negative gauge is a value");
}

#[test]
fn of_series_that_come_twice_the_first_stays() {
    let mut out = Families::default();
    out.set(&CALLS, &["a"], 1.0);
    out.set(&UP, &[], 1.0);
    out.set(&CALLS, &["b"], 2.0);
    out.set(&CALLS, &["a"], 3.0);
    out.set(&UP, &[], 0.0);
    let finished = out.finish();
    assert_eq!(finished.skipped(), 2);
    let values: Vec<f64> = finished.samples().map(|(_, _, value)| value).collect();
    assert_eq!(values, [1.0, 2.0, 1.0]);
}

#[test]
fn many_series_that_come_twice_are_found_as_well() {
    let mut out = Families::default();
    for i in 0..100 {
        out.set(&CALLS, &[&(i % 60).to_string()], f64::from(i));
    }
    let finished = out.finish();
    assert_eq!((finished.len(), finished.skipped()), (60, 40));
}

#[test]
fn neither_an_empty_label_nor_another_order_makes_another_series() {
    let mut out = Families::default();
    let family = out.family("x", Type::Gauge, "h").unwrap();
    out.set_dynamic(family, Suffix::None, &[("a", "1"), ("b", "")], 1.0);
    out.set_dynamic(family, Suffix::None, &[("a", "1")], 2.0);
    out.set_dynamic(family, Suffix::None, &[("b", ""), ("a", "1")], 3.0);
    out.set_dynamic(family, Suffix::None, &[("a", "=\"\""), ("b", "")], 4.0);
    out.set_dynamic(family, Suffix::None, &[("a", "1"), ("b", "2")], 5.0);
    out.set_dynamic(family, Suffix::None, &[("b", "2"), ("a", "1")], 6.0);
    let finished = out.finish();
    let values: Vec<f64> = finished.samples().map(|(_, _, value)| value).collect();
    assert_eq!(values, [1.0, 4.0, 5.0]);
}

#[test]
fn names_from_a_server_meet_the_families_of_the_program() {
    let mut out = Families::default();
    out.set(&CALLS, &["a"], 1.0);
    let same = out.family("t_calls_total", Type::Gauge, "another help").unwrap();
    assert_eq!(out.kind_of(same), Type::Counter, "the first type stays");
    out.set_dynamic(same, Suffix::None, &[("method", "b")], 2.0);
    let late = out.family("t_up", Type::Unknown, "from the server").unwrap();
    out.set_dynamic(late, Suffix::None, &[("x", "y")], 1.0);
    out.set(&UP, &[], 1.0);
    let text = written(&out.finish(), Format::Text);
    let families = exposition::parse(&text).unwrap();
    assert_eq!(families.len(), 2, "{text}");
    assert!(text.contains("# HELP t_up from the server\n# TYPE t_up untyped\n"), "{text}");
}

#[test]
fn names_that_not_every_prometheus_reads_are_skipped_and_counted() {
    let mut out = Families::default();
    for name in ["", "1x", "a-b", "grün", "a b", "a\nb"] {
        assert_eq!(out.family(name, Type::Gauge, "h"), None, "{name:?}");
    }
    let family = out.family("good:name_1", Type::Gauge, "h").unwrap();
    out.set_dynamic(family, Suffix::None, &[("a:b", "1")], 1.0);
    out.set_dynamic(family, Suffix::None, &[("a", "1"), ("a", "2")], 1.0);
    let finished = out.finish();
    assert_eq!((finished.len(), finished.skipped()), (0, 8));
}

#[test]
fn rewinding_takes_back_samples_and_the_fields_they_skipped() {
    let mut out = Families::default();
    out.set(&UP, &[], 1.0);
    let mark = out.mark();
    out.set(&CALLS, &["a"], 1.0);
    out.set(&CALLS, &["b"], -1.0);
    let taken = out.rewind(mark);
    out.drop_series(taken);
    out.set(&CALLS, &["c"], 1.0);
    let finished = out.finish();
    assert_eq!((taken, finished.len(), finished.skipped(), finished.dropped()), (1, 2, 0, 1));
}

#[test]
fn a_filter_is_anchored_and_drop_is_stronger_than_keep() {
    let list = |patterns: &[&str]| patterns.iter().map(|pattern| (*pattern).to_owned()).collect::<Vec<_>>();
    let filter = Filter::new(&list(&["t_calls.*", "t_up|t_open_total"]), &list(&["t_open.*"])).unwrap().unwrap();
    for (name, wanted) in [
        ("t_calls_total", true),
        ("t_up", true),
        ("xt_up", false),
        ("t_upx", false),
        ("t_open_total", false),
        ("t_switches", false),
    ] {
        assert_eq!(filter.wants(name), wanted, "{name}");
    }
    let mut out = Families::filtered(Some(Arc::new(filter)));
    out.set(&CALLS, &["a"], 1.0);
    out.set(&OPEN, &[], 1.0);
    assert_eq!(out.finish().len(), 1);
    assert!(Filter::new(&[], &[]).unwrap().is_none(), "nothing to ask");
    let refused = Filter::new(&list(&["(a"]), &[]).unwrap_err().to_string();
    assert_eq!(refused, r#""(a" is not a regular expression: unclosed group at character 1, correct it"#);
    assert!(Filter::new(&list(&["a)|(b"]), &[]).is_err(), "its own anchors must not complete a pattern");
}

/// What Prometheus 3 sends by default.
const PROMETHEUS_3: &str = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
    application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,\
    text/plain;version=0.0.4;q=0.3,*/*;q=0.2";

#[test]
fn the_format_is_the_one_with_the_highest_quality_that_we_have() {
    for (accept, format) in [
        (PROMETHEUS_3, Format::OpenMetrics),
        ("", Format::Text),
        ("*/*", Format::Text),
        ("text/html, */*;q=0.1", Format::Text),
        ("application/openmetrics-text", Format::OpenMetrics),
        ("application/openmetrics-text;version=0.0.1", Format::Text),
        ("application/openmetrics-text;version=2.0.0;q=0.9,text/plain;version=0.0.4;q=0.3", Format::Text),
        ("application/openmetrics-text;q=0,text/plain;q=0.1", Format::Text),
        ("text/plain;version=0.0.4;q=0.3, application/openmetrics-text; version=\"1.0.0\" ;Q=0.5", Format::OpenMetrics),
        ("text/plain;q=0.5,application/openmetrics-text;q=0.5", Format::Text),
        ("Application/OpenMetrics-Text;q=1", Format::OpenMetrics),
        ("application/openmetrics-text;q=NaN,text/plain;q=0.1", Format::Text),
        (";;,,;q=,", Format::Text),
    ] {
        assert_eq!(negotiate_format(accept), format, "{accept}");
    }
}

#[test]
fn gzip_is_taken_wherever_it_is_welcome() {
    for (accept, encoding) in [
        ("gzip", Encoding::Gzip),
        ("gzip, deflate, br", Encoding::Gzip),
        ("GZIP;q=0.5", Encoding::Gzip),
        ("*", Encoding::Gzip),
        ("x-gzip", Encoding::Gzip),
        ("", Encoding::Identity),
        ("identity", Encoding::Identity),
        ("gzip;q=0", Encoding::Identity),
        ("gzip;q=0.2, identity;q=0.8", Encoding::Identity),
        ("br", Encoding::Identity),
        ("*, gzip;q=0", Encoding::Identity),
    ] {
        assert_eq!(negotiate_encoding(accept), encoding, "{accept}");
    }
}

/// Any families: names that like to clash, labels and helps with everything that needs care.
fn any_families() -> impl Strategy<Value = Finished> {
    let name = prop_oneof!["[a-c]{1,2}", "[a-c]{1,2}_total", Just("_total".to_owned()), any::<String>()];
    let kind = prop::sample::select(vec![Type::Counter, Type::Gauge, Type::Unknown]);
    let value = prop_oneof![any::<f64>(), (0..9_u32).prop_map(f64::from)];
    let text = || prop_oneof![any::<String>(), "[\"\\\\\n\r\0 a#]{0,6}"];
    let labels = prop::collection::vec(("[a-c]", text()), 0..3);
    prop::collection::vec((name, kind, text(), labels, value), 0..24).prop_map(|samples| {
        let mut out = Families::default();
        for (name, kind, help, labels, value) in &samples {
            let Some(family) = out.family(name, *kind, help) else { continue };
            let labels: Vec<(&str, &str)> = labels.iter().map(|(name, value)| (&**name, &**value)).collect();
            out.set_dynamic(family, Suffix::None, &labels, *value);
        }
        out.finish()
    })
}

proptest! {
    #[test]
    fn either_format_made_from_the_other_is_that_format_itself(finished in any_families()) {
        let mut openmetrics = Vec::new();
        let plain = encode(&[&finished], Format::OpenMetrics, &mut openmetrics);
        prop_assert_eq!(&encode(&[&finished], Format::Text, &mut Vec::new()), &plain);
        let openmetrics = String::from_utf8(openmetrics).unwrap();
        let text = written(&finished, Format::Text);
        prop_assert_eq!(&openmetrics_to_text(&openmetrics, &plain), &text);
        prop_assert_eq!(text_to_openmetrics(&text, &plain), openmetrics);
    }

    #[test]
    fn what_is_written_reads_back_as_the_same_samples(finished in any_families()) {
        let families = exposition::parse(&written(&finished, Format::Text)).map_err(TestCaseError::fail)?;
        prop_assert_eq!(exposition::out_of_order(&families), None);
        let read: Vec<f64> = families.iter().flat_map(|family| &family.samples).map(|sample| sample.value).collect();
        let set: Vec<f64> = finished.samples().map(|(_, _, value)| value).collect();
        prop_assert_eq!(read.len(), set.len());
        for (read, set) in read.into_iter().zip(set) {
            prop_assert!((read + 0.0).to_bits() == (set + 0.0).to_bits() || (read.is_nan() && set.is_nan()), "{} {}", read, set);
        }
    }

    #[test]
    fn no_header_breaks_the_negotiation(header in any::<String>()) {
        negotiate_format(&header);
        negotiate_encoding(&header);
    }
}
