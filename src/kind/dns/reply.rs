//! What a server answered. Everything in it is theirs: pointers that lead in circles, counts that lie, records that end early.

use std::ops::Range;

use bytes::Bytes;
use domain::base::name::ParsedName;
use domain::base::wire::ParseError;
use domain::dep::octseq::Parser;

use super::query::DnsQuestion;
use super::text::{RecordError, write_record};
use super::types;
use crate::kind::probe::fnv1a;

/// The longest text of all records of a reply, in bytes: they are compressed, and a small reply can be a long text.
const MAX_TEXT: usize = 1 << 20;

/// How many bytes of text a byte of a reply can become, which is a name of which there is only a pointer to it.
const LONGEST_OF_BYTE: usize = 160;

/// The memory that the text of a reply needs at most.
pub(super) fn text_bytes(reply: usize) -> usize {
    reply.saturating_mul(LONGEST_OF_BYTE).min(MAX_TEXT)
}

/// A part of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Section {
    Answer,
    Authority,
    Additional,
}

impl Section {
    pub(super) const ALL: [Self; 3] = [Self::Answer, Self::Authority, Self::Additional];

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Answer => "answer",
            Self::Authority => "authority",
            Self::Additional => "additional",
        }
    }
}

/// One record: what its type is, and where its text stands.
#[derive(Clone, Debug, PartialEq, Eq)]
struct ReplyRecord {
    section: Section,
    number: u16,
    text: Range<usize>,
}

/// A reply to a question.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Reply {
    pub(super) rcode: u16,
    pub(super) is_authoritative: bool,
    pub(super) is_truncated: bool,
    pub(super) is_authenticated: bool,
    /// The serial number of the last SOA record of the answer.
    pub(super) serial: Option<u32>,
    /// The hash of the records of the answer, whatever their order and their time to live; 0 if there are none.
    pub(super) answer_hash: u32,
    records: Vec<ReplyRecord>,
    text: Bytes,
}

/// Why a message is no reply to the question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NoReply {
    /// It is one to another question. Over UDP it may be late, or come from whoever forges the address of the server.
    Other(&'static str),
    /// It cannot be read.
    Malformed(&'static str),
    /// Its records are too long.
    TooLong,
}

/// What stands before the time to live of a record, and what stands behind it.
fn without_ttl(record: &str) -> Option<(&str, &str)> {
    let (owner, rest) = record.split_once('\t')?;
    let (_, rest) = rest.split_once('\t')?;
    Some((owner, rest))
}

/// The length of the header of a message.
const HEADER: usize = 12;

/// Passes over the questions and the records of a message, as many as its header counts, to tell a message to somebody else from what is none.
/// No pointer is followed and no data is read, so that a flood of long messages costs little.
fn skip_records(message: &[u8], [questions, records @ ..]: [u16; 4]) -> Result<(), ParseError> {
    /// Type, class, time to live.
    const BEFORE_LENGTH: usize = 8;
    let mut parser = Parser::from_ref(message);
    parser.advance(HEADER)?;
    for _ in 0..questions {
        ParsedName::skip(&mut parser)?;
        parser.advance(4)?;
    }
    for _ in 0..records.into_iter().map(u32::from).sum() {
        ParsedName::skip(&mut parser)?;
        parser.advance(BEFORE_LENGTH)?;
        let length = parser.parse_u16_be()?;
        parser.advance(usize::from(length))?;
    }
    Ok(())
}

impl Reply {
    /// Whether a message has the number of a query, and is worth to be read.
    pub(super) fn has_number(message: &[u8], id: u16) -> bool {
        message.starts_with(&id.to_be_bytes())
    }

    /// Reads a message that came after the query with this number.
    pub(super) fn read(message: &[u8], id: u16, question: &DnsQuestion) -> Result<Self, NoReply> {
        let Some(Ok(header)) = message.get(..HEADER).map(<[u8; HEADER]>::try_from) else {
            return Err(NoReply::Malformed("it is shorter than the header of a DNS message"));
        };
        let word = |at: usize| {
            let byte = |at: usize| header.get(at).copied().unwrap_or_default();
            u16::from_be_bytes([byte(at), byte(at + 1)])
        };
        let counts = [word(4), word(6), word(8), word(10)];
        let flags = word(2);
        let is_truncated = flags & 0x0200 != 0;
        if word(0) != id {
            return Err(match skip_records(message, counts) {
                Err(_) if !is_truncated => NoReply::Malformed("it ends before the records that its header counts"),
                _ => NoReply::Other("the number of another query"),
            });
        }
        if flags & 0x8000 == 0 {
            return Err(NoReply::Malformed("it is a query and not a reply"));
        }
        let mut reply = Self {
            rcode: flags & 15,
            is_authoritative: flags & 0x0400 != 0,
            is_truncated,
            is_authenticated: flags & 0x0020 != 0,
            ..Self::default()
        };
        let mut parser = Parser::from_ref(message);
        let unread = |_| NoReply::Malformed("its header is cut off");
        parser.advance(HEADER).map_err(unread)?;
        let [questions, records @ ..] = counts;
        match questions {
            // A server that cannot read a query, or refuses it, need not repeat the question.
            0 if reply.rcode != 0 => {}
            1 => match question.is_asked(&mut parser) {
                Ok(true) => {}
                Ok(false) => return Err(NoReply::Other("the answer to another question")),
                Err(_) => return Err(NoReply::Malformed("its question cannot be read")),
            },
            _ => return Err(NoReply::Other("not exactly one question")),
        }
        let mut text = String::new();
        let outcome = reply.read_records(&mut parser, records, &mut text);
        reply.answer_hash = reply.hash_answer(&text);
        reply.text = text.into();
        match outcome {
            Ok(()) => Ok(reply),
            // What is cut off of a truncated reply is the end of its last record.
            Err(RecordError::Malformed) if reply.is_truncated => Ok(reply),
            Err(RecordError::Malformed) if parser.remaining() == 0 => {
                Err(NoReply::Malformed("it has fewer records than its header says"))
            }
            Err(RecordError::Malformed) => Err(NoReply::Malformed("one of its records cannot be read")),
            Err(RecordError::TooLong) => Err(NoReply::TooLong),
        }
    }

    fn read_records(
        &mut self,
        parser: &mut Parser<'_, [u8]>,
        counts: [u16; 3],
        text: &mut String,
    ) -> Result<(), RecordError> {
        for (section, count) in Section::ALL.into_iter().zip(counts) {
            for _ in 0..count {
                self.read_record(parser, section, text)?;
            }
        }
        Ok(())
    }

    fn read_record(
        &mut self,
        parser: &mut Parser<'_, [u8]>,
        section: Section,
        text: &mut String,
    ) -> Result<(), RecordError> {
        let start = text.len();
        let facts = write_record(parser, text, MAX_TEXT)?;
        if section == Section::Answer && facts.serial.is_some() {
            self.serial = facts.serial;
        }
        if section == Section::Additional && facts.number == types::OPT {
            // The response code has eight more bits there.
            self.rcode |= u16::try_from(facts.seconds_to_live >> 24).unwrap_or_default() << 4;
        }
        self.records.push(ReplyRecord { section, number: facts.number, text: start..text.len() });
        Ok(())
    }

    fn hash_answer(&self, text: &str) -> u32 {
        let answer = self.records.iter().filter(|record| record.section == Section::Answer);
        let mut answer: Vec<_> = answer.filter_map(|record| without_ttl(text.get(record.text.clone())?)).collect();
        answer.sort_unstable();
        let bytes = answer.iter().flat_map(|(owner, data)| owner.bytes().chain(*b"\t").chain(data.bytes()).chain(*b"\n"));
        if answer.is_empty() { 0 } else { fnv1a(bytes) }
    }

    /// How many records a section has.
    pub(super) fn count(&self, section: Section) -> usize {
        self.records.iter().filter(|record| record.section == section).count()
    }

    /// The types and texts of the records of a section.
    pub(super) fn records(&self, section: Section) -> impl Iterator<Item = (u16, Bytes)> {
        let of_section = self.records.iter().filter(move |record| record.section == section);
        of_section.map(|record| (record.number, self.text.slice(record.text.clone())))
    }
}
