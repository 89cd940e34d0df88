//! The source `Agent`: translates the document `mediasoup-stats/v1`, and drops detail if there are too many series.

use reqwest::Url;

use super::aggregated::AggregatedGauges;
use super::compatibility::{self, EdumeetSeries, Rooms};
use super::document::StatsDocument;
use super::objects::ObjectSeries;
use super::traffic::{self, TrafficTotals};
use super::{Options, PerObject, UP, aggregated, objects, summary};
use crate::kind::{Answer, Call, CallError, Context, JsonField, Kind, Method, Reason};
use crate::metric::{Desc, Families, Filter};

/// The translator of a target with source `Agent`.
#[derive(Debug)]
pub(super) struct Agent {
    url: Url,
    options: Options,
    traffic: TrafficTotals,
    aggregated: AggregatedGauges,
}

impl Agent {
    pub(super) fn new(url: &Url, options: &Options) -> Self {
        Self {
            url: stats_url(url),
            options: options.clone(),
            traffic: TrafficTotals::default(),
            aggregated: AggregatedGauges::default(),
        }
    }

    fn write(&mut self, document: &mut StatsDocument, limit: usize, out: &mut Families) -> Result<(), CallError> {
        document.check_schema()?;
        let skipped = document.normalize();
        self.traffic.poll(document);
        summary::write(document, out);
        let coverage = document.coverage();
        self.traffic.write(coverage, out);
        traffic::write_quality(document, out);
        if let Some(compatibility) = &self.options.compatibility {
            let rooms = Rooms::of(document);
            compatibility::write_rooms(&compatibility.prefix, &rooms, out);
            if compatibility.aggregated {
                self.aggregated.write(document, &rooms, coverage, out);
            }
        }
        if out.len() > limit {
            let message = format!("{} samples without any of a single object, and spec.sampleLimit allows {limit}", out.len());
            return Err(CallError::new(Reason::Limit, message));
        }
        self.write_objects(document, limit, out);
        (0..skipped).for_each(|_| out.skip());
        Ok(())
    }

    /// Writes the series of single objects, the most useful type first. The first type that does not fit is dropped, and all after it.
    fn write_objects(&self, document: &StatsDocument, limit: usize, out: &mut Families) {
        let wants = |object| self.options.per_object.contains(&object);
        let series = ObjectSeries { room_labels: self.options.room_labels };
        let edumeet = EdumeetSeries { addresses: self.options.addresses };
        let mut budget = SampleBudget { limit, full: false };
        if wants(PerObject::Transports) {
            budget.fill(document.transports(), out, |located, out| series.transport(located, out));
        }
        if wants(PerObject::Producers) {
            let producers = document.transports().flat_map(|p| p.transport.producers.items.iter().map(move |x| (p, x)));
            budget.fill(producers, out, |(located, producer), out| series.producer(located, producer, out));
        }
        if self.options.compatibility.is_some() {
            budget.fill(document.transports(), out, |located, out| edumeet.write(located, out));
        }
        if wants(PerObject::Consumers) {
            let consumers = document.transports().flat_map(|p| p.transport.consumers.items.iter().map(move |x| (p, x)));
            budget.fill(consumers, out, |(located, consumer), out| series.consumer(located, consumer, out));
        }
    }
}

impl Kind for Agent {
    fn calls(&self, filter: Option<&Filter>) -> Vec<Call> {
        let mut url = self.url.clone();
        url.set_query(Some(&format!("detail={}", DetailLevel::of(&self.options, filter).as_str())));
        vec![Call { name: "stats", method: Method::Get, url, headers: vec![], timeout_header: None }]
    }

    fn translate(&mut self, answers: &[Answer], cx: &Context, out: &mut Families) -> Vec<Result<(), CallError>> {
        let start = out.mark();
        let limit = cx.sample_limit.saturating_sub(1); // one is mediasoup_up
        let report = super::only(answers)
            .and_then(Answer::json::<JsonField<StatsDocument>>)
            .and_then(|document| document.require("the JSON has another shape: it is not an object, so it has no schema"))
            .and_then(|mut document| self.write(&mut document, limit, out));
        if report.is_err() {
            out.rewind(start);
        }
        out.set(&UP, &[], f64::from(u8::from(report.is_ok())));
        vec![report]
    }
}

/// The agent's URL: `stats` below the path, unless that is what it ends with.
fn stats_url(url: &Url) -> Url {
    let mut url = url.clone();
    let ends_so = url.path().trim_end_matches('/').rsplit('/').next() == Some("stats");
    if !ends_so && let Ok(mut segments) = url.path_segments_mut() {
        segments.pop_if_empty().push("stats");
    }
    url
}

/// How much an agent is asked for, each level more than the one before: what is not shown need not be collected, and in large rooms
/// consumers are expensive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum DetailLevel {
    /// Which objects there are, without statistics.
    Counts,
    /// Also the statistics of transports and producers.
    Producers,
    /// Also those of consumers.
    All,
}

impl DetailLevel {
    /// No more than what a target shows may need, with these options and this filter.
    pub(super) fn of(options: &Options, filter: Option<&Filter>) -> Self {
        let _compiled = filter.map(Filter::compiled); // once for all names
        let shown = |families: &[&'static Desc]| -> Vec<&'static Desc> {
            families.iter().copied().filter(|desc| filter.is_none_or(|filter| filter.wants(desc.name))).collect()
        };
        let compatible = options.compatibility.as_ref();
        if compatible.is_some_and(|also| also.aggregated) && !shown(&aggregated::families()).is_empty() {
            return Self::All;
        }
        let single = shown(objects::FAMILIES).into_iter().filter(|desc| is_of_any(desc, &options.per_object));
        let of_edumeet = compatible.into_iter().flat_map(|_| shown(compatibility::FAMILIES));
        // Peers are distinguished by their addresses, and the user chooses the prefix of their family.
        let least = if compatible.is_some() { Self::Producers } else { Self::Counts };
        shown(traffic::FAMILIES).into_iter().chain(single).chain(of_edumeet).map(Self::for_family).fold(least, Self::max)
    }

    /// What a family may be made from, by its name: statistics of the objects it is about. A few would need less.
    fn for_family(desc: &Desc) -> Self {
        if desc.name.starts_with("mediasoup_consumer") { Self::All } else { Self::Producers }
    }

    /// The word in the query.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Counts => "counts",
            Self::Producers => "producers",
            Self::All => "all",
        }
    }
}

fn is_of_any(desc: &Desc, objects: &[PerObject]) -> bool {
    objects.iter().any(|object| {
        desc.name.starts_with(match object {
            PerObject::Producers => "mediasoup_producer_",
            PerObject::Consumers => "mediasoup_consumer_",
            PerObject::Transports => "mediasoup_transport_",
        })
    })
}

/// How many samples there may be, and whether they are too many already.
struct SampleBudget {
    limit: usize,
    full: bool,
}

impl SampleBudget {
    /// Writes `items`; as soon as they turn out to be too many, none of them, and only counts how many series they are.
    fn fill<T>(&mut self, items: impl Iterator<Item = T>, out: &mut Families, write: impl Fn(T, &mut Families)) {
        let start = out.mark();
        let mut shed = 0;
        for item in items {
            let before = out.mark();
            write(item, out);
            if self.full {
                shed += out.rewind(before);
            } else if out.exceeds(self.limit) {
                shed += out.rewind(start);
                self.full = true;
            }
        }
        out.drop_series(shed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stats_is_appended_unless_the_path_ends_so() {
        for (url, asked) in [
            ("http://h:9851", "http://h:9851/stats"),
            ("http://h/", "http://h/stats"),
            ("http://h/a/", "http://h/a/stats"),
            ("http://h/a", "http://h/a/stats"),
            ("http://h/mystats", "http://h/mystats/stats"),
            ("http://h/a/stats", "http://h/a/stats"),
            ("http://h/a/stats/", "http://h/a/stats/"),
            ("http://h//a", "http://h//a/stats"),
        ] {
            assert_eq!(stats_url(&url.parse().unwrap()).as_str(), asked, "{url}");
        }
    }
}
