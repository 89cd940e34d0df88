//! What a probe records: values of families, which it may set again as it learns more, and events for the debug page. It is bounded, whatever
//! a server sends.

use std::net::IpAddr;
use std::time::Duration;

use tokio::time::Instant;

use crate::dial::JudgedAddress;
use crate::metric::{Desc, Families, Suffix};
use crate::tls::Expiry;

/// The most series of one probe.
const MAX_SERIES: usize = 256;

/// The longest value of a label, in bytes, as in every exposition.
pub(super) const MAX_LABEL: usize = 1024;

/// The most events that are kept, and the longest text of one, in bytes.
const MAX_EVENTS: usize = 64;
const MAX_EVENT: usize = 300;

/// Bytes of an answer that are kept for the debug page: what is shown is much shorter.
const MAX_BEGINNING: usize = 2048;

/// What one probe has recorded.
#[derive(Debug)]
pub struct Recorder {
    started: Instant,
    series: Vec<RecordedSeries>,
    /// The address that was chosen last.
    pub(super) address: Option<IpAddr>,
    events: Vec<ProbeEvent>,
    certificates: Vec<Box<str>>,
    status: Option<u16>,
    are_credentials_refused: bool,
    bytes: usize,
    beginning: Option<BodyBeginning>,
    skipped: usize,
    /// When the certificates of the server expire.
    pub(super) expiry: Option<Expiry>,
}

#[derive(Debug)]
struct RecordedSeries {
    desc: &'static Desc,
    /// Names are the family's, or these where they depend on the target.
    names: Option<Vec<String>>,
    values: Vec<String>,
    value: f64,
}

/// The first bytes of an answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BodyBeginning {
    /// These bytes.
    pub bytes: Vec<u8>,
    /// More bytes followed.
    pub is_cut: bool,
}

/// One line of the timeline of a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeEvent {
    /// Since the probe began.
    pub at: Duration,
    /// What happened.
    pub text: Box<str>,
}

/// What the debug page shows of a probe.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProbeRecord {
    /// The address that was probed; of several, the last one.
    pub address: Option<IpAddr>,
    /// What happened, in order.
    pub events: Box<[ProbeEvent]>,
    /// A line about each certificate that the server sent, its own first.
    pub certificates: Box<[Box<str>]>,
}

impl Recorder {
    /// Nothing recorded yet, of a probe that begins now.
    pub fn new(started: Instant) -> Self {
        Self {
            started,
            series: Vec::with_capacity(32),
            address: None,
            events: Vec::new(),
            certificates: Vec::new(),
            status: None,
            are_credentials_refused: false,
            bytes: 0,
            beginning: None,
            skipped: 0,
            expiry: None,
        }
    }

    /// Notes the address that is probed from now on. The families about addresses stay those of the first one.
    pub const fn address(&mut self, address: JudgedAddress) {
        self.address = Some(address.ip());
    }

    /// Sets the value of a series, also if it had one before.
    pub fn set(&mut self, desc: &'static Desc, labels: &[&str], value: f64) {
        *self.value(desc, labels) = value;
    }

    /// Adds to the value of a series, which is 0 at first.
    pub fn add(&mut self, desc: &'static Desc, labels: &[&str], value: f64) {
        *self.value(desc, labels) += value;
    }

    /// Sets a series whose names of labels depend on the target. There is one such series of a family.
    pub fn set_labelled(&mut self, desc: &'static Desc, labels: &[(String, String)], value: f64) {
        self.series.retain(|series| !std::ptr::eq(series.desc, desc));
        let (names, values) = labels.iter().map(|(name, value)| (name.clone(), cut(value, MAX_LABEL))).unzip();
        self.push(RecordedSeries { desc, names: Some(names), values, value });
    }

    /// Removes a family: what was set at first does not hold.
    pub fn remove(&mut self, desc: &'static Desc) {
        self.series.retain(|series| !std::ptr::eq(series.desc, desc));
    }

    /// Adds a line to the timeline. Secrets that were sent are masked later; nothing else of a server should be in it but what the protocol
    /// defines.
    pub fn event(&mut self, text: impl AsRef<str>) {
        if self.events.len() < MAX_EVENTS {
            let text = told(text.as_ref(), MAX_EVENT);
            self.events.push(ProbeEvent { at: self.started.elapsed(), text });
        }
    }

    /// The newest line of the timeline.
    pub fn last_event(&self) -> Option<&str> {
        self.events.last().map(|event| &*event.text)
    }

    /// Adds a line about a certificate.
    pub(super) fn certificate(&mut self, text: &str) {
        const MAX_CERTIFICATES: usize = 16;
        if self.certificates.len() < MAX_CERTIFICATES {
            self.certificates.push(told(text, 2 * MAX_EVENT));
        }
    }

    /// Forgets the certificates of an earlier connection.
    pub(super) fn forget_certificates(&mut self) {
        self.certificates.clear();
    }

    /// Notes the HTTP status of the answer.
    pub const fn status(&mut self, status: u16) {
        self.status = Some(status);
    }

    /// Notes that the probe fails because the server does not accept what it was sent to know the client by: others may help, unlike where
    /// it knows the client and denies what is asked.
    pub const fn credentials_refused(&mut self) {
        self.are_credentials_refused = true;
    }

    /// Whether the probe has failed for that.
    pub const fn are_credentials_refused(&self) -> bool {
        self.are_credentials_refused
    }

    /// Notes that so many bytes of the answer have arrived.
    pub const fn received(&mut self, bytes: usize) {
        self.bytes += bytes;
    }

    /// Keeps the beginning of the body of an answer, which may come in pieces. It is shown only if the probe has failed and the operator
    /// allows that.
    pub fn beginning(&mut self, piece: &[u8]) {
        let kept = self.beginning.get_or_insert_default();
        let room = MAX_BEGINNING - kept.bytes.len();
        kept.is_cut |= piece.len() > room;
        kept.bytes.extend_from_slice(piece.get(..room).unwrap_or(piece));
    }

    /// The beginning of the body of the answer.
    pub const fn body_beginning(&self) -> Option<&BodyBeginning> {
        self.beginning.as_ref()
    }

    /// Counts a value of the answer that cannot be exported.
    pub const fn skip(&mut self) {
        self.skipped += 1;
    }

    /// The HTTP status of the answer.
    pub const fn http_status(&self) -> Option<u16> {
        self.status
    }

    /// Bytes of the answer.
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// When the certificates of the server expire, if it has sent any.
    pub const fn expiry(&self) -> Option<Expiry> {
        self.expiry
    }

    fn value(&mut self, desc: &'static Desc, labels: &[&str]) -> &mut f64 {
        let values = || labels.iter().map(|value| shortened(value, MAX_LABEL));
        let is_it = |series: &RecordedSeries| {
            std::ptr::eq(series.desc, desc) && values().eq(series.values.iter().map(String::as_str))
        };
        let at = self.series.iter().position(is_it).unwrap_or_else(|| {
            let values = values().map(str::to_owned).collect();
            self.push(RecordedSeries { desc, names: None, values, value: 0.0 });
            self.series.len() - 1
        });
        #[expect(clippy::indexing_slicing, reason = "found or pushed above")]
        &mut self.series[at].value
    }

    fn push(&mut self, series: RecordedSeries) {
        debug_assert!(self.series.len() < MAX_SERIES, "a prober sets a fixed number of series");
        self.series.push(series);
    }

    /// Writes what was recorded.
    pub fn write(&self, out: &mut Families) {
        for RecordedSeries { desc, names, values, value } in &self.series {
            match names {
                None => {
                    let labels: Vec<&str> = values.iter().map(String::as_str).collect();
                    out.set(desc, &labels, *value);
                }
                Some(names) => {
                    let Some(family) = out.family(desc.name, desc.kind, desc.help) else { continue };
                    let labels: Vec<(&str, &str)> =
                        names.iter().zip(values).map(|(name, value)| (name.as_str(), value.as_str())).collect();
                    out.set_dynamic(family, Suffix::None, &labels, *value);
                }
            }
        }
        for _ in 0..self.skipped {
            out.skip();
        }
    }

    /// What the debug page shows.
    pub fn into_record(self) -> ProbeRecord {
        ProbeRecord { address: self.address, events: self.events.into(), certificates: self.certificates.into() }
    }
}

/// The text, cut if it is too long.
fn cut(text: &str, longest: usize) -> String {
    shortened(text, longest).to_owned()
}

/// A line for the debug page. One that was cut ends with `[…]`, so that a credential is masked there of which only the beginning is left.
fn told(text: &str, longest: usize) -> Box<str> {
    let mut line = cut(text, longest);
    if line.len() < text.len() {
        line.push_str("[…]");
    }
    line.into()
}

fn shortened(text: &str, longest: usize) -> &str {
    text.get(..text.floor_char_boundary(longest)).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_body_only_the_beginning_is_kept_and_that_it_is_cut() {
        let mut record = Recorder::new(Instant::now());
        assert_eq!(record.body_beginning(), None);
        record.beginning(b"");
        assert_eq!(record.body_beginning(), Some(&BodyBeginning::default()));
        record.beginning(b"<html>");
        record.beginning(&vec![b'x'; MAX_BEGINNING - 6]);
        assert!(!record.body_beginning().unwrap().is_cut);
        record.beginning(b"y");
        let kept = record.body_beginning().unwrap();
        assert!(kept.is_cut && kept.bytes.len() == MAX_BEGINNING && kept.bytes.starts_with(b"<html>x"));
    }
}
