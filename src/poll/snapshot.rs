//! The result of one poll, kept as one compressed text in the format that scrapes request. Other forms are made from it on request
//! and not kept: there may be ten thousand snapshots, and any client can request any form.

use std::fmt;
use std::io::{Read, Write};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use bytes::buf::{Buf, Reader};
use flate2::Compression;
use flate2::bufread::GzDecoder;
use flate2::write::GzEncoder;
use tokio::time::Instant;

use super::members::{MemberCounts, MemberReports, MemberState};
use crate::fetch::Redactor;
use crate::kind::{Call, ProbeEvent, ProbeRecord, Reason};
use crate::metric::{
    Encoding, Finished, Format, PlainCounters, Rewriter, encode, gunzip, gzip, openmetrics_to_text, text_to_openmetrics,
};

/// The result of a poll, or of its absence.
#[derive(Debug)]
pub struct Snapshot {
    /// When the poll began.
    pub started: Instant,
    /// When the poll ended: its age is counted from here.
    pub ended: Instant,
    /// The same as wall-clock time.
    pub ended_at: SystemTime,
    /// Why it failed; `None`: it succeeded.
    pub failure: Option<Failure>,
    /// Series in the exposition.
    pub samples: usize,
    /// The calls, in order; none where nothing was sent.
    pub calls: Box<[CallRecord]>,
    /// The members; `None` for a target that is one process.
    pub members: Option<Arc<MemberReports>>,
    /// Samples of members that do not fit to those of others, beside those in `probe_skipped_fields` of the members themselves.
    pub(super) left_out: usize,
    /// Samples that were left out because the server may not export their names or contents.
    pub withheld: u64,
    /// What was sent, without the user's headers.
    pub requests: Arc<[Call]>,
    /// What happened in a probe; `None` for a target that is polled with calls.
    pub probe: Option<Box<ProbeReport>>,
    /// No poll took place and none will: the snapshot stays valid until the target changes.
    pub is_permanent: bool,
    /// The target is left alone until then: the snapshot stays valid, however old it is.
    pub held_until: Option<Instant>,
    pub(super) exposition: Exposition,
}

/// Why a poll failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The value of the label `reason`.
    pub reason: Reason,
    /// The message.
    pub message: Arc<str>,
}

/// One call of the last poll, for the debug page.
#[derive(Clone, Debug)]
pub struct CallRecord {
    /// The call's name.
    pub call: &'static str,
    /// From its start to the end of its body.
    pub duration: Duration,
    /// The HTTP status, where there was an answer.
    pub status: Option<u16>,
    /// Bytes of the body, decompressed.
    pub bytes: usize,
    /// Why it failed.
    pub error: Option<Box<str>>,
    /// The beginning of the body of a call that failed; only with `--debug-bodies`.
    pub beginning: Option<Box<str>>,
}

/// What happened in a probe, for the debug page and the log. Its texts may repeat a credential: to search all of them takes milliseconds if
/// the target has many, and few are ever looked at, so they are masked whenever they are asked for.
pub struct ProbeReport {
    record: ProbeRecord,
    redactor: Arc<Redactor>,
}

impl ProbeReport {
    /// What was recorded, and what finds the credentials in it.
    pub(super) const fn new(record: ProbeRecord, redactor: Arc<Redactor>) -> Self {
        Self { record, redactor }
    }

    /// The same where no credentials were sent.
    #[cfg(test)]
    pub(crate) fn without_credentials(record: ProbeRecord) -> Self {
        Self::new(record, Arc::new(Redactor::new(&reqwest::header::HeaderMap::new())))
    }

    /// The address that was probed; of several, the last one.
    pub const fn address(&self) -> Option<IpAddr> {
        self.record.address
    }

    /// What happened, in order.
    pub fn events(&self) -> impl Iterator<Item = ProbeEvent> + '_ {
        self.record.events.iter().map(|event| ProbeEvent { at: event.at, text: self.masked(&event.text) })
    }

    /// A line about each certificate that the server sent, its own first.
    pub fn certificates(&self) -> impl Iterator<Item = Box<str>> + '_ {
        self.record.certificates.iter().map(|text| self.masked(text))
    }

    fn masked(&self, text: &str) -> Box<str> {
        self.redactor.sentence(text).into()
    }
}

impl fmt::Debug for ProbeReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (events, certificates): (Vec<_>, Vec<_>) = (self.events().collect(), self.certificates().collect());
        let mut shown = f.debug_struct("ProbeReport");
        shown.field("address", &self.address()).field("events", &events).field("certificates", &certificates);
        shown.finish_non_exhaustive()
    }
}

/// Expositions up to this size are rewritten in less than a millisecond.
const CHEAP_BYTES: usize = 64 << 10;

impl Snapshot {
    /// How long the poll took.
    pub fn duration(&self) -> Duration {
        self.ended.duration_since(self.started)
    }

    /// The reason of the failure, or `success`: for metrics and the log.
    pub(super) fn outcome(&self) -> &'static str {
        self.failure.as_ref().map_or("success", |failure| failure.reason.as_str())
    }

    /// How much longer the target is left alone; `None`: it is not.
    pub fn hold(&self) -> Option<Duration> {
        self.held_until.map(|until| until.saturating_duration_since(Instant::now())).filter(|left| !left.is_zero())
    }

    /// Whether the target is left alone now, so that there is no newer result.
    pub fn is_held(&self) -> bool {
        self.hold().is_some()
    }

    /// Whether the server, or a member, has rejected the credentials.
    pub(super) fn is_rejected(&self) -> bool {
        let is_auth =
            |failure: &Option<Failure>| failure.as_ref().is_some_and(|failure| failure.reason == Reason::Auth);
        let mut members = self.members.iter().flat_map(|members| members.iter());
        is_auth(&self.failure) || members.any(|report| is_auth(&report.failure))
    }

    /// How many members there are; `None` for a target that is one process.
    pub(super) fn member_counts(&self) -> Option<MemberCounts> {
        self.members.as_ref().map(|members| members.counts())
    }

    /// A sentence about members that do not answer although others do, with the failure of the first one.
    pub fn partial(&self) -> Option<Arc<str>> {
        let MemberCounts { up, .. } = self.member_counts().filter(|counts| counts.up > 0)?;
        let mut down = self.members.as_deref()?.iter().filter(|report| report.state == MemberState::Down);
        // Members that are not polled, or that are being stopped, do not count.
        let asked = up + down.clone().count();
        let first = down.next()?;
        let (name, reason) = (&first.member.name, first.failure.as_ref()?.reason.as_str());
        Some(format!("{up} of {asked} answered; {name}: {reason}").into())
    }

    /// Whether [`body`](Self::body) would block its thread for long and need much memory: then use [`pieces`](Self::pieces). The form that
    /// is kept costs nothing.
    pub fn is_costly(&self, format: Format, encoding: Encoding) -> bool {
        let Exposition { format: kept, length, .. } = self.exposition;
        length > CHEAP_BYTES && (format, encoding) != (kept, Encoding::Gzip)
    }

    /// The exposition in the wanted form.
    pub fn body(&self, format: Format, encoding: Encoding) -> Bytes {
        let Exposition { gzip: kept, format: kept_format, length, plain_counters } = &self.exposition;
        if (format, encoding) == (*kept_format, Encoding::Gzip) {
            return kept.clone();
        }
        let mut body = gunzip(kept, *length);
        if format != *kept_format {
            let text = String::from_utf8_lossy(&body);
            let rewrite = if format == Format::Text { openmetrics_to_text } else { text_to_openmetrics };
            body = rewrite(&text, plain_counters).into_bytes();
        }
        match encoding {
            Encoding::Identity => body.into(),
            Encoding::Gzip => gzip(&body).into(),
        }
    }

    /// The same in pieces of some 64 KiB, each made when it is asked for.
    pub fn pieces(&self, format: Format, encoding: Encoding) -> Pieces {
        Pieces::new(&self.exposition, format, encoding)
    }
}

/// The text of a snapshot as it is kept.
#[derive(Debug)]
pub(super) struct Exposition {
    gzip: Bytes,
    format: Format,
    /// Bytes before compression.
    length: usize,
    plain_counters: Arc<PlainCounters>,
}

impl Exposition {
    /// Writes `parts` in `format`, and compresses that.
    pub(super) fn new(parts: &[&Finished], format: Format) -> Self {
        let mut text = Vec::new();
        let plain_counters = encode(parts, format, &mut text);
        Self::of_text(&text, format, plain_counters)
    }

    /// Compresses an exposition.
    pub(super) fn of_text(text: &[u8], format: Format, plain_counters: PlainCounters) -> Self {
        Self { gzip: gzip(text).into(), format, length: text.len(), plain_counters: Arc::new(plain_counters) }
    }

    /// Bytes before compression.
    pub(super) const fn length(&self) -> usize {
        self.length
    }
}

/// Bytes of the form that is kept that one piece is made of.
const PIECE_BYTES: usize = 64 << 10;

/// A large exposition in another form than the one that is kept, made piece by piece: neither form is ever in memory as a whole, however
/// slowly a client reads. Each piece takes about a millisecond.
#[derive(Debug)]
pub struct Pieces {
    kept: GzDecoder<Reader<Bytes>>,
    plain_counters: Arc<PlainCounters>,
    rewriter: Option<Rewriter>,
    gzip: Option<GzEncoder<Vec<u8>>>,
    /// The incomplete line at the end of the last piece.
    rest: Vec<u8>,
    ended: bool,
}

impl Pieces {
    fn new(exposition: &Exposition, format: Format, encoding: Encoding) -> Self {
        Self {
            kept: GzDecoder::new(exposition.gzip.clone().reader()),
            plain_counters: Arc::clone(&exposition.plain_counters),
            rewriter: (format != exposition.format).then(|| Rewriter::new(format)),
            gzip: (encoding == Encoding::Gzip).then(|| GzEncoder::new(Vec::new(), Compression::fast())),
            rest: Vec::new(),
            ended: false,
        }
    }

    /// The next lines as they are kept; empty at the end.
    fn lines(&mut self) -> Vec<u8> {
        let mut lines = std::mem::take(&mut self.rest);
        loop {
            let before = lines.len();
            // The exporter itself has compressed it, so it cannot be corrupt.
            let read = (&mut self.kept).take(PIECE_BYTES as u64).read_to_end(&mut lines);
            debug_assert!(read.is_ok());
            if lines.len() == before {
                return lines;
            }
            if let Some(end) = lines.iter().rposition(|byte| *byte == b'\n') {
                self.rest = lines.split_off(end + 1);
                return lines;
            }
        }
    }

    /// The next piece, which may be empty; none at the end.
    fn make(&mut self) -> Option<Vec<u8>> {
        if self.ended {
            return None;
        }
        let mut piece = self.lines();
        self.ended = piece.is_empty();
        if let Some(rewriter) = &mut self.rewriter {
            let mut text = String::with_capacity(piece.len() + piece.len() / 16);
            rewriter.write(&String::from_utf8_lossy(&piece), &self.plain_counters, &mut text);
            if self.ended {
                rewriter.finish(&mut text);
            }
            piece = text.into_bytes();
        }
        let Some(mut gzip) = self.gzip.take() else { return Some(piece) };
        // Writing to a Vec cannot fail.
        let _ = gzip.write_all(&piece);
        if self.ended {
            return gzip.finish().ok();
        }
        piece = std::mem::take(gzip.get_mut());
        self.gzip = Some(gzip);
        Some(piece)
    }
}

impl Iterator for Pieces {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        loop {
            let piece = self.make()?;
            if !piece.is_empty() {
                return Some(piece.into());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kind::Recorder;
    use crate::metric::{Families, Suffix, Type};
    use crate::poll::render;

    #[test]
    fn a_report_of_a_probe_shows_no_credential() {
        let mut record = Recorder::new(Instant::now());
        record.event("answered hunter2-token");
        // At the end of a line that is cut, a part of it is enough.
        (0..12).for_each(|more| record.event(format!("{}hunter2-token", ".".repeat(288 + more))));
        let record = ProbeRecord { certificates: Box::new(["CN=hunter2-token".into()]), ..record.into_record() };
        let secrets: [&[u8]; 1] = [b"hunter2-token"];
        let redactor = Redactor::of(&reqwest::header::HeaderMap::new(), secrets.into_iter());
        let report = ProbeReport::new(record, Arc::new(redactor));
        let texts: Vec<Box<str>> = report.events().map(|event| event.text).chain(report.certificates()).collect();
        assert_eq!((&*texts[0], &*texts[13]), ("answered <masked>", "CN=<masked>"));
        for text in &texts[1..13] {
            assert!(!text.contains('h') && text.contains(".<masked>"), "{text}");
        }
        assert!(!format!("{report:?}").contains("hunter2"), "{report:?}");
    }

    #[test]
    fn the_pieces_of_a_form_are_together_the_form() {
        let mut families = Families::default();
        for i in 0..3000 {
            let kind = if i % 3 == 0 { Type::Counter } else { Type::Gauge };
            let family = families.family(&format!("f{i}"), kind, "a \"help\" \\ with\nescapes\r").unwrap();
            let value = "é".repeat(i % 97);
            families.set_dynamic(family, Suffix::None, &[("l", &value)], 1.5);
        }
        let finished = families.finish();
        let forms = [Format::OpenMetrics, Format::Text];
        let snapshots = forms.map(|kept| render::test_snapshot(&finished, kept));
        for (snapshot, format) in snapshots.iter().flat_map(|snapshot| forms.map(|format| (snapshot, format))) {
            let whole = snapshot.body(format, Encoding::Identity);
            assert!(whole == snapshots[0].body(format, Encoding::Identity));
            assert!(whole.len() > 4 * PIECE_BYTES && snapshot.is_costly(format, Encoding::Identity));
            let mut pieces: Vec<Bytes> = snapshot.pieces(format, Encoding::Identity).collect();
            assert!(pieces.len() > 4 && pieces.iter().all(|piece| piece.len() < 2 * PIECE_BYTES));
            assert!(pieces.concat() == whole, "{format:?}");
            pieces = snapshot.pieces(format, Encoding::Gzip).collect();
            assert!(gunzip(&pieces.concat(), whole.len()) == whole, "{format:?}, compressed");
        }
        let small = render::unpolled(Reason::Connect, "refused");
        let format = Format::Text;
        assert_eq!(
            small.pieces(format, Encoding::Identity).collect::<Vec<_>>().concat(),
            small.body(format, Encoding::Identity)
        );
    }
}
