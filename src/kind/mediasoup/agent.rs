//! The source `Agent`: from the document `mediasoup-stats/v1` to families, and what must be shed where they become too many.

use reqwest::Url;

use super::aggregated::Aggregated;
use super::compatibility::{self, Objects, Rooms};
use super::coverage::Coverage;
use super::detail::Detail;
use super::document::Document;
use super::streams::Streams;
use super::traffic::{self, Traffic};
use super::{Options, PerObject, UP, metrics};
use crate::kind::{Answer, Call, CallError, Context, Kind, Method, Reason};
use crate::metric::{Families, Filter};

/// The translator of a target with source `Agent`.
#[derive(Debug)]
pub(super) struct Agent {
    url: Url,
    options: Options,
    traffic: Traffic,
    aggregated: Aggregated,
}

impl Agent {
    pub(super) fn new(url: &Url, options: &Options) -> Self {
        Self {
            url: stats_url(url),
            options: options.clone(),
            traffic: Traffic::default(),
            aggregated: Aggregated::default(),
        }
    }

    fn write(&mut self, document: &mut Document, limit: usize, out: &mut Families) -> Result<(), CallError> {
        document.check()?;
        let skipped = document.clean();
        self.traffic.poll(document);
        metrics::write(document, out);
        let coverage = Coverage::of(document);
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

    /// Writes the series of single objects, the most precious first. The first sort that does not fit is shed, and all after it.
    fn write_objects(&self, document: &Document, limit: usize, out: &mut Families) {
        let wants = |object| self.options.per_object.contains(&object);
        let streams = Streams { room_labels: self.options.room_labels };
        let objects = Objects { addresses: self.options.addresses };
        let mut room = Room { limit, full: false };
        if wants(PerObject::Transports) {
            room.fill(document.transports(), out, |place, out| streams.transport(place, out));
        }
        if wants(PerObject::Producers) {
            let producers = document.transports().flat_map(|p| p.transport.producers.items.iter().map(move |x| (p, x)));
            room.fill(producers, out, |(place, producer), out| streams.producer(place, producer, out));
        }
        if self.options.compatibility.is_some() {
            room.fill(document.transports(), out, |place, out| objects.write(place, out));
        }
        if wants(PerObject::Consumers) {
            let consumers = document.transports().flat_map(|p| p.transport.consumers.items.iter().map(move |x| (p, x)));
            room.fill(consumers, out, |(place, consumer), out| streams.consumer(place, consumer, out));
        }
    }
}

impl Kind for Agent {
    fn calls(&self, filter: Option<&Filter>) -> Vec<Call> {
        let mut url = self.url.clone();
        url.set_query(Some(&format!("detail={}", Detail::of(&self.options, filter).as_str())));
        vec![Call { name: "stats", method: Method::Get, url, headers: vec![] }]
    }

    fn translate(&mut self, answers: &[Answer], cx: &Context, out: &mut Families) -> Vec<Result<(), CallError>> {
        let start = out.mark();
        let limit = cx.sample_limit.saturating_sub(1); // one is mediasoup_up
        let report = super::only(answers)
            .and_then(Answer::json::<Document>)
            .and_then(|mut document| self.write(&mut document, limit, out));
        if report.is_err() {
            out.rewind(start);
        }
        out.set(&UP, &[], f64::from(u8::from(report.is_ok())));
        vec![report]
    }
}

/// The agent's address: `stats` below the path, unless that is what it ends with.
fn stats_url(url: &Url) -> Url {
    let mut url = url.clone();
    let ends_so = url.path().trim_end_matches('/').rsplit('/').next() == Some("stats");
    if !ends_so && let Ok(mut segments) = url.path_segments_mut() {
        segments.pop_if_empty().push("stats");
    }
    url
}

/// How many samples there may be, and whether they are too many already.
struct Room {
    limit: usize,
    full: bool,
}

impl Room {
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
