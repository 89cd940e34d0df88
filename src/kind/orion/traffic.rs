//! The traffic in `/admin/metrics`, at exactly one level, so that nothing is counted twice.
//!
//! Orion reports each subservice, the sum of each service and the sum of all, always equal to each other; `sum.subservs`, which adds
//! up paths of different services, is never used. The exporter's own requests stand under a service of their own and are left out.
//! From the grand total they are subtracted: exactly for the counters; the mean time of what remains, being a difference of
//! products of 32-bit floats, may be off by one part in ten million of the total time.

use std::borrow::Cow;

use super::api::{AdminMetrics, Amount, Transactions};
use super::service_time::{CounterStep, MAX_NAME, ServiceTimes, TimeSpent};
use super::{Level, Options, metrics as m};
use crate::kind::{JsonField, Number};
use crate::metric::{Desc, Families};

/// The families of one level: the counters of its transactions, then the mean and the accumulated service time.
struct LevelFamilies {
    counters: [Desc; 8],
    average: Desc,
    accumulated: Desc,
}

static BY_SUBSERVICE: LevelFamilies = LevelFamilies::with(&["service", "subservice"]);
static BY_SERVICE: LevelFamilies = LevelFamilies::with(&["service"]);
static IN_TOTAL: LevelFamilies = LevelFamilies::with(&[]);

impl LevelFamilies {
    /// The families as declared, but with these labels only: an empty label is no label to Prometheus, but still one in the text.
    const fn with(labels: &'static [&'static str]) -> Self {
        const fn narrow(desc: &Desc, labels: &'static [&'static str]) -> Desc {
            Desc { name: desc.name, kind: desc.kind, help: desc.help, labels }
        }
        Self {
            counters: [
                narrow(&m::INCOMING, labels),
                narrow(&m::INCOMING_ERRORS, labels),
                narrow(&m::INCOMING_REQUEST_BYTES, labels),
                narrow(&m::INCOMING_RESPONSE_BYTES, labels),
                narrow(&m::OUTGOING, labels),
                narrow(&m::OUTGOING_ERRORS, labels),
                narrow(&m::OUTGOING_REQUEST_BYTES, labels),
                narrow(&m::OUTGOING_RESPONSE_BYTES, labels),
            ],
            average: narrow(&m::SERVICE_TIME_AVERAGE, labels),
            accumulated: narrow(&m::SERVICE_TIME, labels),
        }
    }
}

impl Level {
    fn descs(self) -> &'static LevelFamilies {
        match self {
            Self::Subservice => &BY_SUBSERVICE,
            Self::Service => &BY_SERVICE,
            Self::Total => &IN_TOTAL,
        }
    }

    /// This level and all that give fewer series, finest first.
    fn and_coarser(self) -> &'static [Self] {
        match self {
            Self::Subservice => &[Self::Subservice, Self::Service, Self::Total],
            Self::Service => &[Self::Service, Self::Total],
            Self::Total => &[Self::Total],
        }
    }
}

/// Writes the traffic at the level that the options want, or at the next coarser one that keeps `out` within `limit`.
///
/// Must be called last, since it fits into the room that is left. The coarsest level is written even if it does not fit.
pub(super) fn write(metrics: &AdminMetrics, options: &Options, times: &mut ServiceTimes, limit: usize, out: &mut Families) {
    let start = out.mark();
    let before = out.len();
    let mut wanted = 0;
    for &level in options.level.and_coarser() {
        let rows = rows(metrics, level, options, out);
        let step = |row: &TrafficRow<'_>| row.name().map_or(CounterStep::NONE, |name| times.step(level, &name, row.traffic.spent()));
        let steps: Vec<CounterStep> = rows.iter().map(step).collect();
        write_rows(level.descs(), &rows, &steps, out);
        let series = out.len() - before;
        wanted = wanted.max(series);
        if !out.exceeds(limit) || level == Level::Total {
            out.drop_series(wanted - series);
            times.remember(level, rows.iter().zip(steps).filter_map(|(row, step)| Some((row.name()?, step))));
            return;
        }
        out.rewind(start);
    }
}

/// The traffic of one set of labels.
struct TrafficRow<'t> {
    service: &'t str,
    /// With the slash that it begins with for users; empty at the other levels.
    subservice: String,
    traffic: Transactions,
}

impl TrafficRow<'_> {
    /// Service and subservice as one word. No legal service has a slash, so no two rows share one. None where it is too long to be
    /// remembered; not kept in the row, since one endless service may have a hundred thousand subservices.
    fn name(&self) -> Option<Cow<'_, str>> {
        let length = self.service.len() + self.subservice.len();
        (length <= MAX_NAME).then(|| match self.subservice.as_str() {
            "" => Cow::Borrowed(self.service),
            subservice => Cow::Owned([self.service, subservice].concat()),
        })
    }
}

fn rows<'t>(metrics: &'t AdminMetrics, level: Level, options: &Options, out: &mut Families) -> Vec<TrafficRow<'t>> {
    let own = |service: &str| service.eq_ignore_ascii_case(&options.fiware_service) && !options.include_own_traffic;
    let mut rows = Vec::new();
    if level == Level::Total {
        if let Some(total) = needed(&metrics.sum, out).and_then(|grand| needed(&grand.sum, out)) {
            let own = metrics.services.read(out).and_then(|services| {
                let service = services.iter().find(|(service, _)| own(service))?.1;
                needed(&service.read(out)?.sum, out)
            });
            let traffic = own.map_or(*total, |own| total.without(own));
            rows.push(TrafficRow { service: "", subservice: String::new(), traffic });
        }
        return rows;
    }
    let Some(services) = metrics.services.read(out) else { return rows };
    for (name, service) in services.iter().filter(|(service, _)| !own(service)) {
        let Some(service) = needed(service, out) else { continue };
        if level == Level::Service {
            if let Some(&traffic) = needed(&service.sum, out) {
                rows.push(TrafficRow { service: name, subservice: String::new(), traffic });
            }
        } else if let Some(subservices) = needed(&service.subservices, out) {
            for (subservice, traffic) in subservices.iter() {
                let Some(&traffic) = needed(traffic, out) else { continue };
                let subservice = if subservice == "root-subserv" { "" } else { subservice };
                // Other components that copied the document write the slash themselves.
                let subservice = format!("/{}", subservice.trim_start_matches('/'));
                rows.push(TrafficRow { service: name, subservice, traffic });
            }
        }
    }
    rows
}

/// A part that every broker writes. If it is missing, this is counted as a skipped field.
fn needed<'t, T>(part: &'t JsonField<T>, out: &mut Families) -> Option<&'t T> {
    if matches!(part, JsonField::Absent) {
        out.skip();
    }
    part.read(out)
}

/// One family after the other, so that each is looked up once.
fn write_rows(descs: &'static LevelFamilies, rows: &[TrafficRow<'_>], steps: &[CounterStep], out: &mut Families) {
    for (desc, counter) in descs.counters.iter().zip(Transactions::COUNTERS) {
        for row in rows {
            row.write(desc, counter(&row.traffic).or_zero(), out);
        }
    }
    for row in rows {
        row.write(&descs.average, row.traffic.service_time.0, out);
    }
    for (row, step) in rows.iter().zip(steps) {
        if let Some(seconds) = step.value() {
            row.write(&descs.accumulated, Number::Value(seconds), out);
        }
    }
}

impl TrafficRow<'_> {
    fn write(&self, desc: &'static Desc, number: Number, out: &mut Families) {
        let labels = [self.service, self.subservice.as_str()];
        out.number(desc, labels.get(..desc.labels.len()).unwrap_or(&labels), number);
    }
}

impl Transactions {
    /// The time spent on them.
    fn spent(&self) -> TimeSpent {
        match (self.incoming.or_zero(), self.service_time.0) {
            (Number::Value(transactions), Number::Value(average)) if (average * transactions).is_finite() => {
                TimeSpent::Seconds { transactions, seconds: average * transactions }
            }
            (Number::Value(0.0), Number::Absent) => TimeSpent::Seconds { transactions: 0.0, seconds: 0.0 },
            (Number::Value(transactions), Number::Absent) => TimeSpent::Unknown { transactions },
            _ => TimeSpent::Invalid,
        }
    }

    /// This traffic without a part of it.
    fn without(&self, part: &Self) -> Self {
        let mut rest = Self {
            incoming: minus(self.incoming, part.incoming),
            incoming_errors: minus(self.incoming_errors, part.incoming_errors),
            incoming_request_size: minus(self.incoming_request_size, part.incoming_request_size),
            incoming_response_size: minus(self.incoming_response_size, part.incoming_response_size),
            outgoing: minus(self.outgoing, part.outgoing),
            outgoing_errors: minus(self.outgoing_errors, part.outgoing_errors),
            outgoing_request_size: minus(self.outgoing_request_size, part.outgoing_request_size),
            outgoing_response_size: minus(self.outgoing_response_size, part.outgoing_response_size),
            service_time: self.service_time,
        };
        if let (TimeSpent::Seconds { seconds: all, .. }, TimeSpent::Seconds { seconds: part, .. }) = (self.spent(), part.spent()) {
            rest.service_time = Amount(match rest.incoming.or_zero() {
                Number::Value(transactions) if transactions > 0.0 => Number::Value((all - part).max(0.0) / transactions),
                Number::Value(_) => Number::Absent,
                unknown => unknown,
            });
        }
        rest
    }
}

fn minus(all: Amount, part: Amount) -> Amount {
    match (all.0, part.0) {
        (Number::Value(all), Number::Value(part)) => Amount(Number::Value((all - part).max(0.0))), // above 2^53 both are rounded
        _ => all,
    }
}
