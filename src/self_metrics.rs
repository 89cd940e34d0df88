//! The exporter's own metrics on `/metrics`, by the `prometheus` crate. Other modules count here; this one depends on none of them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus::core::Collector;
use prometheus::proto::{Metric, MetricFamily, MetricType};
use prometheus::{Gauge, Histogram, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use crate::metric::{Families, FamilyId, Suffix, Type};

/// Every metric of the exporter, in one registry.
#[derive(Debug)]
pub struct SelfMetrics {
    registry: Registry,
    /// Polls.
    pub polls: PollMetrics,
    /// Requests to `/probe`.
    pub probes: ProbeMetrics,
    /// Where targets come from.
    pub sources: SourceMetrics,
}

/// The number and duration of polls.
#[derive(Clone, Debug)]
pub struct PollMetrics {
    total: IntCounterVec,
    duration: HistogramVec,
    in_flight: IntGauge,
    tokens: IntCounterVec,
    /// How late polls began, in seconds after they were due.
    pub delay: Histogram,
}

/// The number and duration of requests to `/probe`.
#[derive(Clone, Debug)]
pub struct ProbeMetrics {
    total: IntCounterVec,
    duration: Histogram,
}

/// Changes of declared targets, and the role of this replica.
#[derive(Clone, Debug)]
pub struct SourceMetrics {
    /// Changes of objects, by `kind` of object and `event` (applied, deleted).
    pub events: IntCounterVec,
    /// Reconciliations of pollers with the declared targets, by `outcome`.
    pub reconciles: IntCounterVec,
    /// 1 on the replica that polls in the background and answers scrapes.
    pub leader: Gauge,
}

/// The last reload of the files of targets.
#[derive(Clone, Debug)]
pub struct FileMetrics {
    successful: IntGauge,
    success_time: Gauge,
}

/// Durations of polls: from a local answer to the longest useful timeout.
const POLL_BUCKETS: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// Durations of scrapes: mostly far below a millisecond.
const PROBE_BUCKETS: &[f64] = &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Delays of polls: as short, or minutes where there is far more to poll than the CPU can.
const DELAY_BUCKETS: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0];

impl SelfMetrics {
    /// Creates and registers all metrics. Fails only if two have the same name.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let build = Opts::new(
            "scrapetarget_build_info",
            "Version, source revision and Rust version of the exporter, in the labels. Always 1.",
        );
        register(&registry, IntGaugeVec::new(build, &["version", "revision", "rustversion"]))?
            .with_label_values(&[crate::VERSION, crate::REVISION, crate::RUST_VERSION])
            .set(1);
        registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
        let polls = PollMetrics {
            total: counter(
                &registry,
                "scrapetarget_polls_total",
                "Completed polls of targets by outcome: success, or the reason for the failure.",
                &["type", "outcome"],
            )?,
            duration: {
                let help = "Duration of polls in seconds, including all their calls.";
                let opts = HistogramOpts::new("scrapetarget_poll_duration_seconds", help);
                register(&registry, HistogramVec::new(opts.buckets(POLL_BUCKETS.to_vec()), &["type"]))?
            },
            in_flight: register(
                &registry,
                IntGauge::new("scrapetarget_polls_in_flight", "Polls currently in progress."),
            )?,
            tokens: counter(
                &registry,
                "scrapetarget_token_requests_total",
                "Requests for tokens of OAuth 2.0 by outcome: success, an error of RFC 6749, or another reason for the failure.",
                &["outcome"],
            )?,
            delay: histogram(
                &registry,
                "scrapetarget_poll_delay_seconds",
                "Delay between the scheduled and the actual start of polls, in seconds.",
                DELAY_BUCKETS,
            )?,
        };
        let probes = ProbeMetrics {
            total: counter(
                &registry,
                "scrapetarget_probe_requests_total",
                "Requests to /probe, by HTTP status code.",
                &["code"],
            )?,
            duration: histogram(
                &registry,
                "scrapetarget_probe_request_duration_seconds",
                "Duration of requests to /probe in seconds, until the response was ready.",
                PROBE_BUCKETS,
            )?,
        };
        let sources = SourceMetrics {
            events: counter(
                &registry,
                "scrapetarget_watch_events_total",
                "Changes of objects that were observed, by kind of object and event.",
                &["kind", "event"],
            )?,
            reconciles: counter(
                &registry,
                "scrapetarget_reconciles_total",
                "Reconciliations of the pollers with the declared targets, by outcome.",
                &["outcome"],
            )?,
            leader: register(
                &registry,
                Gauge::new(
                    "scrapetarget_leader",
                    "Whether this replica is the leader, which polls in the background and answers scrapes.",
                ),
            )?,
        };
        Ok(Self { registry, polls, probes, sources })
    }

    /// Registers the metrics of file mode. Fails if it is called twice.
    pub fn files(&self) -> Result<FileMetrics, prometheus::Error> {
        let successful = IntGauge::new(
            "scrapetarget_files_last_reload_successful",
            "Whether the last reload of the target files succeeded without any error. Only with --targets.",
        );
        let success_time = Gauge::new(
            "scrapetarget_files_last_reload_success_timestamp_seconds",
            "Unix time of the last reload of the target files that succeeded without any error. Only with --targets.",
        );
        Ok(FileMetrics {
            successful: register(&self.registry, successful)?,
            success_time: register(&self.registry, success_time)?,
        })
    }

    /// Registers a collector, which is called at each scrape of `/metrics`.
    pub fn register(&self, collector: Box<dyn Collector>) -> Result<(), prometheus::Error> {
        self.registry.register(collector)
    }

    /// All metrics now, for the encoder that also writes `/probe`.
    pub fn gather(&self) -> Families {
        let mut families = Families::default();
        for family in self.registry.gather() {
            add_family(&mut families, &family);
        }
        families
    }
}

impl PollMetrics {
    /// Counts a poll as running until what it returns is dropped.
    pub fn start(&self) -> InFlight {
        self.in_flight.inc();
        InFlight(self.in_flight.clone())
    }

    /// Counts a poll that ended.
    pub fn end(&self, kind: &str, outcome: &str, duration: Duration) {
        self.total.with_label_values(&[kind, outcome]).inc();
        self.duration.with_label_values(&[kind]).observe(duration.as_secs_f64());
    }
}

impl PollMetrics {
    /// Counts a request for a token.
    pub fn end_token_request(&self, outcome: &str) {
        self.tokens.with_label_values(&[outcome]).inc();
    }
}

/// A running poll.
#[derive(Debug)]
pub struct InFlight(IntGauge);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl FileMetrics {
    /// Records a reload, and whether everything in the files could be used.
    pub fn read(&self, successful: bool) {
        self.successful.set(i64::from(successful));
        if let Ok(now) = SystemTime::now().duration_since(UNIX_EPOCH).map(|now| now.as_millis())
            && successful
        {
            #[expect(clippy::cast_precision_loss, reason = "milliseconds fit for the next 285,000 years")]
            self.success_time.set(now as f64 / 1e3);
        }
    }
}

impl ProbeMetrics {
    /// Counts a request that was answered with `code`.
    pub fn end(&self, code: u16, duration: Duration) {
        self.total.with_label_values(&[itoa::Buffer::new().format(code)]).inc();
        self.duration.observe(duration.as_secs_f64());
    }
}

fn register<C: Collector + Clone + 'static>(
    registry: &Registry,
    collector: Result<C, prometheus::Error>,
) -> Result<C, prometheus::Error> {
    let collector = collector?;
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}

fn counter(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec, prometheus::Error> {
    register(registry, IntCounterVec::new(Opts::new(name, help), labels))
}

fn histogram(registry: &Registry, name: &str, help: &str, buckets: &[f64]) -> Result<Histogram, prometheus::Error> {
    register(registry, Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec())))
}

fn add_family(families: &mut Families, family: &MetricFamily) {
    let kind = match family.get_field_type() {
        MetricType::COUNTER => Type::Counter,
        MetricType::GAUGE => Type::Gauge,
        MetricType::HISTOGRAM => Type::Histogram,
        MetricType::SUMMARY => Type::Summary,
        MetricType::UNTYPED => Type::Unknown,
    };
    let Some(id) = families.family(family.name(), kind, family.help()) else { return };
    for metric in family.get_metric() {
        let labels: Vec<(&str, &str)> = metric.get_label().iter().map(|pair| (pair.name(), pair.value())).collect();
        if kind == Type::Histogram {
            add_histogram(families, id, metric, &labels);
        } else {
            let value =
                if kind == Type::Counter { metric.get_counter().get_value() } else { metric.get_gauge().get_value() };
            families.set_dynamic(id, Suffix::None, &labels, value);
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "Prometheus values are doubles")]
fn add_histogram(families: &mut Families, id: FamilyId, metric: &Metric, labels: &[(&str, &str)]) {
    let histogram = metric.get_histogram();
    let mut bucket = |bound: &str, count: u64| {
        let labels: Vec<(&str, &str)> = labels.iter().copied().chain([("le", bound)]).collect();
        families.set_dynamic(id, Suffix::Bucket, &labels, count as f64);
    };
    for point in histogram.get_bucket() {
        bucket(&format!("{:?}", point.upper_bound()), point.cumulative_count());
    }
    bucket("+Inf", histogram.get_sample_count());
    families.set_dynamic(id, Suffix::Sum, labels, histogram.get_sample_sum());
    families.set_dynamic(id, Suffix::Count, labels, histogram.get_sample_count() as f64);
}
