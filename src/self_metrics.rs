//! What the exporter says of itself on `/metrics`, by the `prometheus` crate. It knows no target and no server: others count here.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus::core::Collector;
use prometheus::proto::{Metric, MetricFamily, MetricType};
use prometheus::{Gauge, Histogram, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use crate::metric::{Families, Suffix, Type};

/// Everything that is counted, in one registry.
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

/// What polls cost.
#[derive(Clone, Debug)]
pub struct PollMetrics {
    total: IntCounterVec,
    duration: HistogramVec,
    in_flight: IntGauge,
    /// How late a poll began, in seconds after its time.
    pub delay: Histogram,
}

/// What scrapes cost.
#[derive(Clone, Debug)]
pub struct ProbeMetrics {
    total: IntCounterVec,
    duration: Histogram,
}

/// What is heard of targets.
#[derive(Clone, Debug)]
pub struct SourceMetrics {
    /// Objects that were seen: by `kind` of object and `event` (applied, deleted).
    pub events: IntCounterVec,
    /// Times that targets and pollers were made to agree: by `outcome`.
    pub reconciles: IntCounterVec,
    /// 1 on the replica that polls in the background and answers scrapes.
    pub leader: Gauge,
}

/// What became of the last look at files of targets.
#[derive(Clone, Debug)]
pub struct FileMetrics {
    successful: IntGauge,
    success_time: Gauge,
}

/// Durations of polls: from a local answer to the longest useful timeout.
const POLL_BUCKETS: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// The time that a scrape takes: mostly far below a millisecond.
const SHORT_BUCKETS: &[f64] = &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Lateness of polls: as short, or minutes where there is far more to poll than the CPU carries.
const DELAY_BUCKETS: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0];

impl SelfMetrics {
    /// Makes and registers everything. Fails only if two families had one name.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let build = IntGaugeVec::new(
            Opts::new("scrapetarget_build_info", "What was built: version, source revision and compiler."),
            &["version", "revision", "rustversion"],
        )?;
        build.with_label_values(&[crate::VERSION, crate::REVISION, crate::RUST_VERSION]).set(1);
        registry.register(Box::new(build))?;
        registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
        let polls = PollMetrics {
            total: counter(
                &registry,
                "scrapetarget_polls_total",
                "Polls of targets that ended, by outcome: success, or the reason of the failure.",
                &["type", "outcome"],
            )?,
            duration: {
                let opts = HistogramOpts::new(
                    "scrapetarget_poll_duration_seconds",
                    "How long polls took, all their calls together.",
                );
                let histogram = HistogramVec::new(opts.buckets(POLL_BUCKETS.to_vec()), &["type"])?;
                registry.register(Box::new(histogram.clone()))?;
                histogram
            },
            in_flight: {
                let gauge = IntGauge::new("scrapetarget_polls_in_flight", "Polls that are running now.")?;
                registry.register(Box::new(gauge.clone()))?;
                gauge
            },
            delay: histogram(
                &registry,
                "scrapetarget_poll_delay_seconds",
                "How late polls began, measured from their time.",
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
                "How long requests to /probe took until their answer was ready.",
                SHORT_BUCKETS,
            )?,
        };
        let sources = SourceMetrics {
            events: counter(
                &registry,
                "scrapetarget_watch_events_total",
                "Changes of objects that were noticed, by kind of object and by event.",
                &["kind", "event"],
            )?,
            reconciles: counter(
                &registry,
                "scrapetarget_reconciles_total",
                "Times that pollers were made to agree with the declared targets, by outcome.",
                &["outcome"],
            )?,
            leader: {
                let gauge = Gauge::new(
                    "scrapetarget_leader",
                    "Whether this replica is the one that polls in the background and answers scrapes.",
                )?;
                registry.register(Box::new(gauge.clone()))?;
                gauge
            },
        };
        Ok(Self { registry, polls, probes, sources })
    }

    /// Registers what is counted where targets come from files. Fails if that is done twice.
    pub fn files(&self) -> Result<FileMetrics, prometheus::Error> {
        let successful = IntGauge::new(
            "scrapetarget_files_last_reload_successful",
            "Whether everything in the files of targets could be used when they were last read. Only with --targets.",
        )?;
        let success_time = Gauge::new(
            "scrapetarget_files_last_reload_success_timestamp_seconds",
            "When the files of targets were last read and everything in them could be used, as Unix time. Only with --targets.",
        )?;
        self.registry.register(Box::new(successful.clone()))?;
        self.registry.register(Box::new(success_time.clone()))?;
        Ok(FileMetrics { successful, success_time })
    }

    /// Registers a collector that is asked at each scrape.
    pub fn register(&self, collector: Box<dyn Collector>) -> Result<(), prometheus::Error> {
        self.registry.register(collector)
    }

    /// Everything as it stands now, for the same encoder that writes `/probe`.
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

/// A running poll.
#[derive(Debug)]
pub struct InFlight(IntGauge);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl FileMetrics {
    /// Says whether everything could be used, now that the files have been read.
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

fn counter(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec, prometheus::Error> {
    let counter = IntCounterVec::new(Opts::new(name, help), labels)?;
    registry.register(Box::new(counter.clone()))?;
    Ok(counter)
}

fn histogram(registry: &Registry, name: &str, help: &str, buckets: &[f64]) -> Result<Histogram, prometheus::Error> {
    let histogram = Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec()))?;
    registry.register(Box::new(histogram.clone()))?;
    Ok(histogram)
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
fn add_histogram(families: &mut Families, id: crate::metric::FamilyId, metric: &Metric, labels: &[(&str, &str)]) {
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
