//! What the members of one target cost.
//!
//! `cargo bench --bench members -- [SECTION]…`. Sections: `merge`, the answer for 500 members with 300 series each, put together and
//! compressed, against one target with as many series.
use std::hint::black_box;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use scrapetarget_exporter::metric::{Families, Finished, Format, Suffix, Type, encode, gzip, merge_members};

const MEMBERS: usize = 500;
const SERIES: usize = 300;

/// What putting an answer together and compressing it may take of one core.
const GOAL: Duration = Duration::from_millis(250);

/// Runs of which the median counts.
const RUNS: usize = 11;

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let sections: [(&str, fn()); 1] = [("merge", merge)];
    for (name, section) in sections {
        if wanted.is_empty() || wanted.iter().any(|wanted| wanted == name) {
            section();
        }
    }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// The time that this thread has spent on a core so far.
fn cpu_time() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(now.tv_sec).unwrap_or_default(), u32::try_from(now.tv_nsec).unwrap_or_default())
}

fn timed<T>(work: impl FnOnce() -> T) -> (Duration, T) {
    let start = cpu_time();
    let value = work();
    (cpu_time().saturating_sub(start), value)
}

/// How the series of a member are spread over families.
struct Shape {
    title: &'static str,
    /// Series of one family.
    each: usize,
    /// By the numbers of the member and of the family.
    name: fn(usize, usize) -> String,
}

fn same_name(_: usize, family: usize) -> String {
    format!("rooms_of_a_server_{family}_seconds_total")
}

const SHAPES: [Shape; 3] = [
    Shape { title: "60 families of 5", each: 5, name: same_name },
    Shape { title: "300 families of 1", each: 1, name: same_name },
    Shape {
        title: "all names differ",
        each: 1,
        name: |member, family| format!("rooms_of_a_server_{family}_{member}_seconds_total"),
    },
];

fn families(member: usize, Shape { each, name, .. }: &Shape, series: usize) -> Finished {
    let mut out = Families::default();
    for family in 0..series / *each {
        let kind = if family % 2 == 0 { Type::Counter } else { Type::Gauge };
        let help = "Something that this server counts, in a sentence.";
        let id = out.family(&name(member, family), kind, help).expect("a valid name");
        for line in 0..*each {
            let value =
                f64::from(u32::try_from(member * 7919 + family * 104_729 + line * 31).unwrap_or_default()) / 8.0;
            out.set_dynamic(id, Suffix::None, &[("direction", "received"), ("line", &line.to_string())], value);
        }
    }
    out.finish()
}

/// The exporter's own families: some for each member.
fn own_families() -> Finished {
    let mut own = Families::default();
    for name in ["probe_member_success", "probe_member_duration_seconds", "probe_member_info", "probe_call_success"] {
        let id = own.family(name, Type::Gauge, "Something about this member.").expect("a valid name");
        for member in 0..MEMBERS {
            own.set_dynamic(id, Suffix::None, &[("pod", &pod(member))], 0.017);
        }
    }
    own.finish()
}

fn pod(member: usize) -> String {
    format!("rooms-7d9f6c5b8-{member:05}")
}

fn merge() {
    let own = own_families();
    let one = Shape { title: "one target", each: MEMBERS * 5, name: same_name };
    let one = families(0, &one, MEMBERS * SERIES);
    for shape in SHAPES {
        let title = shape.title;
        let mut members: Vec<Finished> = (0..MEMBERS).map(|member| families(member, &shape, SERIES)).collect();
        let (each, parts): (Vec<Duration>, Vec<Vec<u8>>) = members
            .iter_mut()
            .enumerate()
            .map(|(member, families)| timed(|| families.encode_member("pod", &pod(member))))
            .unzip();
        let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
        let (mut plain, mut merges, mut compressed, mut sizes) = (Vec::new(), Vec::new(), Vec::new(), (0, 0));
        for _ in 0..RUNS {
            // Taken in turn, so that a busy machine slows both.
            plain.push(
                timed(|| {
                    let mut text = Vec::new();
                    encode(&[&one, &own], Format::OpenMetrics, &mut text);
                    black_box(gzip(&text)).len()
                })
                .0,
            );
            let mut text = Vec::new();
            merges.push(timed(|| black_box(merge_members(&parts, &own, Format::OpenMetrics, &mut text))).0);
            let (time, small) = timed(|| gzip(&text));
            compressed.push(time);
            sizes = (text.len(), small.len());
        }
        let (merge, gzip, plain) = (median(merges), median(compressed), median(plain));
        let total = merge + gzip;
        println!(
            "merge, {title:<18} {merge:>9.2?} + gzip {gzip:>9.2?} = {total:>9.2?} (goal {GOAL:?})   one target of as many series {plain:>9.2?}, ratio {:.2}   {} bytes, {} compressed   encode a member {:.2?}",
            total.as_secs_f64() / plain.as_secs_f64(),
            sizes.0,
            sizes.1,
            median(each),
        );
    }
}
