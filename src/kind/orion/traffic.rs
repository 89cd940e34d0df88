//! The traffic in `/admin/metrics`, at exactly one level, so that nothing is counted twice.
//!
//! Orion reports each subservice, the sum of each service and the sum of all, always equal to each other; `sum.subservs`, which adds
//! up paths of different services, is never used. The exporter's own requests stand under a service of their own and are left out.
//! From the grand total they are subtracted: exactly for the counters; the mean time of what remains, being a difference of
//! products of 32-bit floats, may be off by one part in ten million of the total time.

use std::borrow::Cow;

use super::api::{Block, COUNTERS, Tree, zero_if_absent};
use super::metrics as m;
use super::object::{Amount, Object};
use super::service_time::{MAX_NAME, ServiceTimes, Spent, Step};
use super::{Level, Options};
use crate::kind::Number;
use crate::metric::{Desc, Families};

/// The families of one level: [`COUNTERS`] in their order, then the mean and the accumulated service time.
struct Descs {
    counters: [Desc; COUNTERS.len()],
    average: Desc,
    accumulated: Desc,
}

static BY_SUBSERVICE: Descs = Descs::with(&["service", "subservice"]);
static BY_SERVICE: Descs = Descs::with(&["service"]);
static IN_TOTAL: Descs = Descs::with(&[]);

impl Descs {
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
    fn descs(self) -> &'static Descs {
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
/// To be called last, since it makes room for what is there already. The last level is written even if it does not fit.
pub(super) fn write(tree: &Tree, options: &Options, times: &mut ServiceTimes, limit: usize, out: &mut Families) {
    let start = out.mark();
    let before = out.len();
    let mut wanted = 0;
    for &level in options.level.and_coarser() {
        let rows = rows(tree, level, options, out);
        let step = |row: &Row<'_>| row.name().map_or(Step::NONE, |name| times.step(level, &name, row.block.spent()));
        let steps: Vec<Step> = rows.iter().map(step).collect();
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

/// The traffic behind one set of labels.
struct Row<'t> {
    service: &'t str,
    /// With the slash that it begins with for users; empty at the other levels.
    subservice: String,
    block: Block,
}

impl Row<'_> {
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

fn rows<'t>(tree: &'t Tree, level: Level, options: &Options, out: &mut Families) -> Vec<Row<'t>> {
    let own = |service: &str| service.eq_ignore_ascii_case(&options.fiware_service) && !options.include_own_traffic;
    let mut rows = Vec::new();
    if level == Level::Total {
        if let Some(total) = needed(&tree.sum, out).and_then(|grand| needed(&grand.sum, out)) {
            let own = tree.services.open(out).and_then(|services| {
                let service = services.iter().find(|(service, _)| own(service))?.1;
                needed(&service.open(out)?.sum, out)
            });
            let block = own.map_or(*total, |own| total.without(own));
            rows.push(Row { service: "", subservice: String::new(), block });
        }
        return rows;
    }
    let Some(services) = tree.services.open(out) else { return rows };
    for (name, service) in services.iter().filter(|(service, _)| !own(service)) {
        let Some(service) = needed(service, out) else { continue };
        if level == Level::Service {
            if let Some(&block) = needed(&service.sum, out) {
                rows.push(Row { service: name, subservice: String::new(), block });
            }
        } else if let Some(subservices) = needed(&service.subservices, out) {
            for (subservice, block) in subservices.iter() {
                let Some(&block) = needed(block, out) else { continue };
                let subservice = if subservice == "root-subserv" { "" } else { subservice };
                // Other components that copied the document write the slash themselves.
                let subservice = format!("/{}", subservice.trim_start_matches('/'));
                rows.push(Row { service: name, subservice, block });
            }
        }
    }
    rows
}

/// A part that every broker writes: where it is missing, something is lost, and counted.
fn needed<'t, T>(part: &'t Object<T>, out: &mut Families) -> Option<&'t T> {
    if matches!(part, Object::Absent) {
        out.skip();
    }
    part.open(out)
}

/// One family after the other, so that each is looked up once.
fn write_rows(descs: &'static Descs, rows: &[Row<'_>], steps: &[Step], out: &mut Families) {
    for (i, desc) in descs.counters.iter().enumerate() {
        for row in rows {
            let counter = row.block.counters.get(i).copied().unwrap_or_default();
            row.write(desc, zero_if_absent(counter), out);
        }
    }
    for row in rows {
        row.write(&descs.average, row.block.service_time.0, out);
    }
    for (row, step) in rows.iter().zip(steps) {
        if let Some(seconds) = step.value() {
            row.write(&descs.accumulated, Number::Value(seconds), out);
        }
    }
}

impl Row<'_> {
    fn write(&self, desc: &'static Desc, number: Number, out: &mut Families) {
        let labels = [self.service, self.subservice.as_str()];
        out.number(desc, labels.get(..desc.labels.len()).unwrap_or(&labels), number);
    }
}

impl Block {
    /// What the block says of the time spent.
    fn spent(&self) -> Spent {
        match (self.transactions(), self.service_time.0) {
            (Number::Value(transactions), Number::Value(average)) if (average * transactions).is_finite() => {
                Spent::Seconds { transactions, seconds: average * transactions }
            }
            (Number::Value(0.0), Number::Absent) => Spent::Seconds { transactions: 0.0, seconds: 0.0 },
            (Number::Value(transactions), Number::Absent) => Spent::Unknown { transactions },
            _ => Spent::Invalid,
        }
    }

    /// This traffic without a part of it.
    fn without(&self, part: &Self) -> Self {
        let mut rest = *self;
        for (all, part) in rest.counters.iter_mut().zip(&part.counters) {
            if let (Number::Value(a), Number::Value(b)) = (all.0, part.0) {
                all.0 = Number::Value((a - b).max(0.0)); // above 2^53 both are rounded
            }
        }
        if let (Spent::Seconds { seconds: all, .. }, Spent::Seconds { seconds: part, .. }) = (self.spent(), part.spent()) {
            rest.service_time = Amount(match rest.transactions() {
                Number::Value(transactions) if transactions > 0.0 => Number::Value((all - part).max(0.0) / transactions),
                Number::Value(_) => Number::Absent,
                unknown => unknown,
            });
        }
        rest
    }
}
