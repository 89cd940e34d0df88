//! Reading another exporter's text: what we write is read back as it was, and no text whatsoever breaks what is written next.

#[path = "support/exposition.rs"]
mod exposition;

use std::borrow::Cow;

use exposition::{EVERY_TYPE, Everything};
use proptest::prelude::*;
use scrapetarget_exporter::metric::{
    ExpositionError, ExpositionPolicy, Families, Finished, Format, Suffix, Type, encode, read_exposition,
};

/// Refuses `up`, empties every label `secret`.
struct Guard;

impl ExpositionPolicy for Guard {
    fn admits(&self, name: &str) -> bool {
        name != "up"
    }

    fn rewrite<'v>(&self, name: &str, value: Cow<'v, str>) -> Cow<'v, str> {
        if name == "secret" { Cow::Borrowed("") } else { value }
    }
}

fn write(finished: &Finished, format: Format) -> String {
    let mut text = Vec::new();
    encode(&[finished], format, &mut text);
    String::from_utf8(text).unwrap()
}

fn through(text: &str, passage: &impl ExpositionPolicy) -> (String, u64) {
    let mut out = Families::default();
    read_exposition(text, passage, usize::MAX, &mut out).unwrap();
    let finished = out.finish();
    (write(&finished, Format::Text), finished.skipped())
}

fn error(text: &str) -> ExpositionError {
    read_exposition(text, &Everything, 3, &mut Families::default()).unwrap_err()
}

#[test]
fn a_bare_sample_is_no_part_of_a_histogram_whose_buckets_were_refused() {
    let text = "# TYPE a histogram\na_bucket 1\na 2\nb 3\n";
    let (written, skipped) = through(text, &Everything);
    assert!(!written.contains("\na 2"), "{written}");
    assert!(written.contains("b 3\n"));
    assert_eq!(skipped, 2);
}

#[test]
fn types_helps_labels_and_values_pass_unchanged() {
    // An empty label stays as well.
    let text = &EVERY_TYPE.replace("{x=\"2\"}", "{x=\"2\",y=\"\"}");
    let (read, skipped) = through(text, &Everything);
    assert_eq!(&read, text);
    assert_eq!(skipped, 0);
}

#[test]
fn openmetrics_is_read_without_what_text_cannot_hold() {
    let text = "\
# TYPE a counter
# UNIT a seconds
# HELP a Said \\\"so\\\".
a_total 17.0 1520879607.789 # {trace=\"x\"} 0.67
a_created 1520430000.123
# TYPE i info
i_info{version=\"1\"} 1
# TYPE g gaugehistogram
g_bucket{le=\"1\"} 4
g_gcount 4
g_gsum 3
# TYPE st stateset
st{st=\"on\"} 1
# EOF
";
    let expected = "\
# HELP a_total Said \"so\".
# TYPE a_total counter
a_total 17
# HELP g_bucket 
# TYPE g_bucket untyped
g_bucket{le=\"1\"} 4
# HELP g_gcount 
# TYPE g_gcount untyped
g_gcount 4
# HELP g_gsum 
# TYPE g_gsum untyped
g_gsum 3
# HELP i_info 
# TYPE i_info gauge
i_info{version=\"1\"} 1
# HELP st 
# TYPE st gauge
st{st=\"on\"} 1
";
    assert_eq!(through(text, &Everything), (expected.to_owned(), 0));
}

#[test]
fn samples_of_an_undeclared_name_are_untyped_even_below_a_typed_family() {
    let text = "# TYPE a gauge\na 1\nother{x=\"1\"} 2\na_count 3\n";
    let (read, _) = through(text, &Everything);
    for family in ["# TYPE a gauge", "# TYPE other untyped\nother{x=\"1\"} 2", "# TYPE a_count untyped\na_count 3"] {
        assert!(read.contains(family), "{read}");
    }
}

#[test]
fn lines_that_are_nothing_are_skipped_and_counted() {
    let text = "good 1\nbad\nbad{ 1\nbad{x=\"1} 1\nbad x\n# just a remark\ngood{x=\"1\"} 2\r\n";
    assert_eq!(
        through(text, &Everything),
        ("# HELP good \n# TYPE good untyped\ngood 1\ngood{x=\"1\"} 2\n".to_owned(), 4)
    );
}

#[test]
fn series_that_come_twice_are_written_once_whatever_the_order_of_their_labels() {
    let text = "m{a=\"1\",b=\"2\"} 1\nm{b=\"2\",a=\"1\"} 2\nm{a=\"1\",b=\"2\",c=\"\"} 3\n";
    assert_eq!(through(text, &Everything), ("# HELP m \n# TYPE m untyped\nm{a=\"1\",b=\"2\"} 1\n".to_owned(), 2));
}

#[test]
fn what_would_break_a_reader_of_ours_is_skipped() {
    for text in [
        "ok 1\nm{__name__=\"x\"} 1\n",
        "ok 1\nm{a=\"1\",a=\"2\"} 1\n",
        "ok 1\n# TYPE m histogram\nm_bucket{le=\"wide\"} 1\n",
        "ok 1\n# TYPE m histogram\nm_bucket 1\n",
        "ok 1\n# TYPE m histogram\nm 1\n",
        "ok 1\n# TYPE m summary\nm{quantile=\"most\"} 1\n",
    ] {
        let (read, skipped) = through(text, &Everything);
        assert_eq!(skipped, u64::from(!text.contains("\nm 1\n")), "{text}");
        assert!(text.contains("\nm 1\n") || !read.contains('m'), "{read}");
    }
}

#[test]
fn a_family_named_like_a_part_of_a_histogram_is_not_written_beside_it() {
    for text in [
        "# TYPE h histogram\nh_bucket{le=\"+Inf\"} 1\nh_sum 1\n# TYPE h_count gauge\nh_count 9\n",
        "# TYPE h_count gauge\nh_count 9\n# TYPE h histogram\nh_bucket{le=\"+Inf\"} 1\n",
        "# TYPE h summary\nh_count 1\n# TYPE h_count summary\nh_count{quantile=\"0.5\"} 9\n",
        "# TYPE h histogram\nh_count 1\n# TYPE h_count histogram\nh_count_bucket{le=\"+Inf\"} 9\n",
    ] {
        let (read, skipped) = through(text, &Everything);
        assert_eq!(read.matches("# TYPE").count(), 1, "{read}");
        assert_eq!(skipped, 1);
    }
}

#[test]
fn names_may_be_refused_and_labels_rewritten() {
    let (read, skipped) = through("up 1\nm{secret=\"x\",a=\"1\"} 2\n", &Guard);
    assert_eq!((read.as_str(), skipped), ("# HELP m \n# TYPE m untyped\nm{secret=\"\",a=\"1\"} 2\n", 1));
}

#[test]
fn a_text_that_is_no_exposition_is_an_error() {
    assert_eq!(error(""), ExpositionError::Empty);
    assert_eq!(error(" \n\n"), ExpositionError::Empty);
    assert_eq!(error("<!DOCTYPE html><html>\n# not a comment\nm 1"), ExpositionError::Html);
    assert_eq!(error("Not Found"), ExpositionError::Foreign);
    assert_eq!(error("{\"error\": \"no such path\"}"), ExpositionError::Foreign);
    assert_eq!(error("m 1\nm{x=\"2\"} 1\nm{x=\"3\"} 1\nm{x=\"4\"} 1\n"), ExpositionError::TooMany(3));
}

#[test]
fn a_label_value_or_help_without_end_stays_bounded() {
    let long = "é".repeat(1 << 16);
    let (read, _) = through(&format!("# HELP m {long}\nm{{a=\"{long}\"}} 1\n"), &Everything);
    assert!(read.len() < 4096, "{}", read.len());
    let (read, skipped) = through(&format!("ok 1\n{} 1\n", "n".repeat(1000)), &Everything);
    assert!(!read.contains("nn"));
    assert_eq!(skipped, 1);
}

/// One family: name, type, help, label names, samples of label values and a value.
type Generated = (usize, String, Vec<(Vec<String>, f64)>);

fn value() -> impl Strategy<Value = f64> {
    prop_oneof![any::<f64>(), (0..1_000_000_u32).prop_map(f64::from), Just(f64::NAN), Just(f64::INFINITY)]
}

fn generated() -> impl Strategy<Value = Vec<Generated>> {
    // Blanks before a help text belong to nobody, and lines may end with a carriage return.
    let help = "([^ \t\r\n\u{b}\u{c}\\p{Z}][^\r]{0,20})?";
    let labels = prop::collection::vec("\\PC{0,8}|[\\\\\"\n,=}{ #]{0,6}", 2);
    prop::collection::vec((0..5_usize, help, prop::collection::vec((labels, value()), 1..5)), 1..8)
}

fn build(families: &[Generated]) -> Finished {
    let mut out = Families::default();
    for (i, (kind, help, samples)) in families.iter().enumerate() {
        let (kind, tail) = [
            (Type::Counter, "_total"),
            (Type::Gauge, ""),
            (Type::Histogram, ""),
            (Type::Summary, ""),
            (Type::Unknown, ":x"),
        ][*kind];
        let family = out.family(&format!("family_{i}{tail}"), kind, help).unwrap();
        for (labels, value) in samples {
            let labels = [("a", labels[0].as_str()), ("b_2", labels[1].as_str())];
            match kind {
                Type::Histogram => {
                    out.set_dynamic(family, Suffix::Bucket, &[labels[0], labels[1], ("le", "+Inf")], value.abs());
                    out.set_dynamic(family, Suffix::Sum, &labels, *value);
                    out.set_dynamic(family, Suffix::Count, &labels, value.abs());
                }
                Type::Summary => {
                    out.set_dynamic(family, Suffix::None, &[labels[0], ("quantile", "0.5")], *value);
                    out.set_dynamic(family, Suffix::Count, &labels, *value);
                }
                _ => out.set_dynamic(family, Suffix::None, &labels, *value),
            }
        }
    }
    out.finish()
}

proptest! {
    #[test]
    fn what_is_written_is_read_back_as_it_was(families in generated()) {
        let first = build(&families);
        for format in [Format::Text, Format::OpenMetrics] {
            let text = write(&first, format);
            let mut out = Families::default();
            read_exposition(&text, &Everything, usize::MAX, &mut out).unwrap();
            let second = out.finish();
            prop_assert_eq!(second.skipped(), 0, "{}", text);
            prop_assert_eq!(write(&second, format), text);
        }
    }

    #[test]
    fn any_text_gives_an_exposition_that_reads_the_same_again(
        lines in prop::collection::vec(prop_oneof![
            "\\PC{0,40}",
            "# (TYPE|HELP|UNIT) [ab](_total|_sum|_count|_bucket|_info)? (counter|gauge|histogram|summary|info|gaugehistogram|\\PC{0,9})",
            "[ab:](_total|_sum|_count|_bucket|_created)?(\\{(le|quantile|a|b|__name__|9)=\"[^\"]{0,4}\"(,a=\"x\")?\\})? (1|2.5|NaN|-Inf)( 12)?",
        ], 0..30),
        broken in any::<prop::sample::Index>(),
    ) {
        let mut text = lines.join("\n");
        let at = text.floor_char_boundary(broken.index(text.len() + 1));
        text.insert(at, ['"', '\\', '{', '\n', '\0'][at % 5]);
        let mut out = Families::default();
        if read_exposition(&text, &Everything, 1000, &mut out).is_ok() {
            let once = out.finish();
            let written = write(&once, Format::Text);
            if !written.is_empty() {
                let (again, skipped) = through(&written, &Everything);
                prop_assert_eq!(skipped, 0, "{}", written);
                prop_assert_eq!(again, written);
            }
        }
    }
}
