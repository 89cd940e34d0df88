//! The dialogue with a server. It reads no more than it needs, keeps one buffer of lines at most, and waits no longer than the deadline, whatever the
//! server sends.

use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout_at};

use super::script::{Expectation, Script, ScriptStep, SentMessage, with_newline};
use super::{EXPECT_INFO, FAILED_BYTES, TcpPhase, handshake, mismatch};
use crate::dial::broken;
use crate::kind::probe::{BoxedStream, FAILED_DUE_TO_REGEX, Matcher, Pattern, readable, work};
use crate::kind::{CallError, Probe, Reason};
use crate::metric::Stop;

/// The longest line, its end included.
const MAX_LINE: usize = 64 * 1024;

/// The buffer at first. It grows up to [`MAX_LINE`].
const FIRST_BUFFER: usize = 2 * 1024;

/// What a line may take while it is compared, as a multiple of the buffer that it is in: the buffer, a copy, and one in which bytes that
/// are not UTF-8 are replaced.
const COPIES: usize = 8;

/// The longest value of a label, in characters.
const MAX_VALUE: usize = 128;

/// The shortest line of a secret that is searched for, in bytes: shorter ones are in ordinary texts, and protect nothing.
const MIN_SECRET: usize = 4;

/// Bytes of a line of a secret that are searched for.
const MAX_SECRET: usize = 1024;

/// Lines of a secret that are searched for: more than a private key in PEM has.
const MAX_SECRET_LINES: usize = 64;

/// What the search for one text costs for each byte of the line, in the unit of [`work`].
const SECRET_WORK: u64 = 128;

/// How long the end of a connection may take.
const GOODBYE: Duration = Duration::from_millis(100);

/// A connection in the middle of a dialogue.
pub(super) struct Dialogue<'d, 'p> {
    probe: &'d mut Probe<'p>,
    stream: BoxedStream,
    buffer: Vec<u8>,
    /// Where in the buffer the bytes begin that are not used yet.
    used: usize,
    /// All bytes that the server has sent.
    received: usize,
}

impl<'d, 'p> Dialogue<'d, 'p> {
    pub(super) const fn new(probe: &'d mut Probe<'p>, stream: BoxedStream) -> Self {
        Self { probe, stream, buffer: Vec::new(), used: 0, received: 0 }
    }

    /// Goes through all steps.
    pub(super) async fn run(mut self, script: &Script) -> Result<(), CallError> {
        let mut result = Ok(());
        for step in &script.steps {
            let start = Instant::now();
            result = self.step(step).await;
            TcpPhase::Exchange.took(self.probe.record, start.elapsed());
            if result.is_ok() && step.starttls {
                result = self.start_tls().await;
            }
            if result.is_err() {
                break;
            }
        }
        if result.is_ok() {
            let end = self.probe.deadline.min(Instant::now() + GOODBYE);
            let _ = timeout_at(end, self.stream.shutdown()).await; // it has served its purpose
        }
        result
    }

    async fn step(&mut self, step: &ScriptStep) -> Result<(), CallError> {
        let mut expanded = None;
        match &step.expect {
            Some(Expectation::Line { pattern, labels, templates }) => {
                let mut texts = self.expect_line(step, pattern, templates).await?;
                if matches!(step.send, Some(SentMessage::Expanded { .. })) {
                    expanded = texts.pop();
                }
                if labels.is_empty() {
                    // Nothing of the line is exported.
                } else if self.has_secret().await? {
                    let field = short(&step.field);
                    self.probe.record.skip();
                    self.probe.record.event(format!("{field}: no labels, since a Secret of the target is in the line"));
                } else {
                    let values = texts.into_iter().map(|text| text.chars().take(MAX_VALUE).collect());
                    let labels: Vec<(String, String)> = labels.iter().cloned().zip(values).collect();
                    self.probe.record.set_labelled(&EXPECT_INFO, &labels, 1.0);
                }
            }
            Some(Expectation::Bytes(bytes)) => self.expect_bytes(step, bytes).await?,
            None => {}
        }
        match &step.send {
            Some(SentMessage::Expanded { newline }) => {
                self.send(step, &with_newline(expanded.unwrap_or_default().as_bytes(), *newline)).await
            }
            Some(SentMessage::Bytes(bytes)) => self.send(step, bytes).await,
            Some(SentMessage::Secret { index, newline }) => {
                match self.probe.secrets.get(*index).copied().flatten() {
                    Some(secret) => self.send(step, &with_newline(secret, *newline)).await,
                    None => Ok(()), // it is optional and missing
                }
            }
            None => Ok(()),
        }
    }

    /// Whether a secret, or a line of one, is in the line that matched. It is the whole line that counts, because a pattern can cut a secret so
    /// that labels show a part of it alone. As with all series, a secret is what was sent and no other spelling of it.
    async fn has_secret(&mut self) -> Result<bool, CallError> {
        let secrets: Vec<String> = self.probe.secrets.iter().flatten().flat_map(|secret| secret_lines(secret)).collect();
        let line = Bytes::copy_from_slice(self.matched());
        let (length, cost) = (line.len(), SECRET_WORK.saturating_mul((secrets.len() * line.len()) as u64));
        let search = move |_: &Stop| {
            let line = readable(&line);
            secrets.iter().any(|secret| line.contains(secret))
        };
        self.probe.compare(cost, length, search).await
    }

    /// The line that was used last, while nothing more has been read.
    fn matched(&self) -> &[u8] {
        let used = self.buffer.get(..self.used).unwrap_or_default();
        let used = used.strip_suffix(b"\n").unwrap_or(used);
        used.rsplit(|byte| *byte == b'\n').next().unwrap_or_default()
    }

    /// Reads lines until one matches. Returns the texts that are made of it.
    async fn expect_line(
        &mut self,
        step: &ScriptStep,
        pattern: &Pattern,
        templates: &std::sync::Arc<[String]>,
    ) -> Result<Vec<String>, CallError> {
        let field = &step.field;
        let mut lines = 0_usize;
        let mut matcher = None;
        loop {
            let Some(unread) = self.lines(field, lines).await? else {
                self.probe.record.set(&FAILED_DUE_TO_REGEX, &[], 1.0);
                let message =
                    format!("the server ended the connection after {lines} lines, none of which matches {field}.expect");
                return Err(mismatch(message));
            };
            let length = unread.len();
            let cost = work([pattern], unread.split_inclusive(|byte| *byte == b'\n').count(), length);
            let (pattern, templates, known) = (pattern.clone(), std::sync::Arc::clone(templates), matcher.take());
            let search = move |_: &Stop| {
                let matcher = known.unwrap_or_else(|| pattern.matcher());
                let searched = SearchedLines::new(&matcher, &unread, &templates);
                (searched, matcher)
            };
            let (searched, known) = self.probe.compare(cost, length, search).await?;
            matcher = Some(known);
            lines += searched.lines;
            self.used += searched.bytes;
            if let Some(texts) = searched.texts {
                self.probe.record.event(format!("{}: line {lines} matched", short(field)));
                return Ok(texts);
            }
        }
    }

    /// A copy of the whole lines that are not used yet, at least one; `None` at the end of the stream. What follows the last end of a line is a
    /// line as well.
    async fn lines(&mut self, field: &str, lines: usize) -> Result<Option<Bytes>, CallError> {
        let mut searched = 0;
        loop {
            let unused = self.unused();
            if let Some(end) = unused.iter().skip(searched).rposition(|byte| *byte == b'\n') {
                return Ok(unused.get(..=searched + end).map(Bytes::copy_from_slice));
            }
            searched = unused.len();
            if searched >= MAX_LINE {
                let message = format!("the server sends a line of over {} KiB, and {field}.expect waits for its end", MAX_LINE / 1024);
                return Err(CallError::new(Reason::Limit, message));
            }
            let late = || match (lines, searched) {
                (0, 0) => format!("the server sent nothing in time, and {field}.expect waits for a line"),
                _ => format!(
                    "the server sent no line that matches {field}.expect in time: {lines} other lines, and {searched} bytes of a line without \
                     its end"
                ),
            };
            if !self.fill(late).await? {
                let rest = self.unused();
                return Ok((!rest.is_empty()).then(|| Bytes::copy_from_slice(rest)));
            }
        }
    }

    /// Reads as many bytes as are expected, and compares them.
    async fn expect_bytes(&mut self, step: &ScriptStep, expected: &[u8]) -> Result<(), CallError> {
        let field = &step.field;
        let whole = expected.len();
        while self.unused().len() < whole {
            let have = self.unused().len();
            let late = || format!("{have} of the {whole} bytes that {field} expects in time");
            if !self.fill(late).await? {
                let message = format!("the server ended the connection after {have} of the {whole} bytes that {field} expects");
                return Err(mismatch(message));
            }
        }
        let same = self.unused().get(..whole) == Some(expected);
        self.used += whole;
        if same {
            self.probe.record.event(format!("{}: {whole} bytes matched", short(field)));
            return Ok(());
        }
        self.probe.record.set(&FAILED_BYTES, &[], 1.0);
        Err(mismatch(format!("the server sent {whole} other bytes than {field} expects")))
    }

    fn unused(&self) -> &[u8] {
        self.buffer.get(self.used..).unwrap_or_default()
    }

    /// Reads more from the server; `false` at the end of the stream.
    async fn fill(&mut self, late: impl Fn() -> String) -> Result<bool, CallError> {
        self.buffer.drain(..self.used);
        self.used = 0;
        if self.received >= self.probe.max_body_bytes {
            let message = format!(
                "the server has sent {} bytes, which is as much as --max-body-bytes allows, and not yet what is expected",
                self.received
            );
            return Err(CallError::new(Reason::Limit, message));
        }
        let capacity = self.buffer.capacity();
        if self.buffer.len() == capacity {
            let larger = (2 * capacity).clamp(FIRST_BUFFER, MAX_LINE);
            self.probe.memory.cover(COPIES * larger).await;
            self.buffer.reserve_exact(larger.saturating_sub(self.buffer.len()));
        }
        let read = timeout_at(self.probe.deadline, self.stream.read_buf(&mut self.buffer)).await;
        let read = read.map_err(|_| CallError::new(Reason::Timeout, late()))?;
        let bytes = read.map_err(|error| broken(&error))?;
        self.received += bytes;
        self.probe.memory.received(bytes);
        self.probe.record.received(bytes);
        Ok(bytes > 0)
    }

    async fn send(&mut self, step: &ScriptStep, message: &[u8]) -> Result<(), CallError> {
        let field = &step.field;
        let sending = async {
            self.stream.write_all(message).await?;
            self.stream.flush().await
        };
        match timeout_at(self.probe.deadline, sending).await {
            Ok(Ok(())) => {
                self.probe.record.event(format!("{}: sent {} bytes", short(field), message.len()));
                Ok(())
            }
            Ok(Err(error)) => Err(broken(&error)),
            Err(_) => {
                let message = format!("the server did not read in time what {field} sends");
                Err(CallError::new(Reason::Timeout, message))
            }
        }
    }

    /// Goes on with TLS. What the server has sent in plain text beyond what was expected is not used: anybody on the way may have sent it.
    async fn start_tls(&mut self) -> Result<(), CallError> {
        self.buffer.clear();
        self.used = 0;
        let plain = std::mem::replace(&mut self.stream, Box::new(tokio::io::empty()));
        self.stream = handshake(self.probe, plain).await?;
        Ok(())
    }
}

/// What is searched for of a secret: a server that reads lines sends them back as such.
fn secret_lines(secret: &[u8]) -> Vec<String> {
    let secret = readable(secret);
    let lines = secret.lines().map(str::trim).filter(|line| line.len() >= MIN_SECRET);
    let beginnings = lines.filter_map(|line| line.get(..line.floor_char_boundary(MAX_SECRET)));
    beginnings.take(MAX_SECRET_LINES).map(str::to_owned).collect()
}

/// How far a pattern was searched for.
#[derive(Debug)]
pub struct SearchedLines {
    /// Lines that were compared.
    pub lines: usize,
    /// Their bytes.
    pub bytes: usize,
    /// What was made of the last of them, if it matches.
    pub texts: Option<Vec<String>>,
}

/// Searches for a pattern in lines as a step of a dialogue does, by which a fuzzer judges it.
pub fn search_lines(pattern: &str, lines: &[u8], templates: &[String]) -> Option<SearchedLines> {
    Some(SearchedLines::new(&Pattern::new(pattern).ok()?.matcher(), lines, templates))
}

impl SearchedLines {
    /// Up to the first of `lines` that matches. The ends of lines do not belong to them.
    fn new(matcher: &Matcher, lines: &[u8], templates: &[String]) -> Self {
        let mut searched = Self { lines: 0, bytes: 0, texts: None };
        for line in lines.split_inclusive(|byte| *byte == b'\n') {
            searched.lines += 1;
            searched.bytes += line.len();
            let line = line.strip_suffix(b"\n").unwrap_or(line);
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            searched.texts = matcher.expand(&readable(line), templates);
            if searched.texts.is_some() {
                break;
            }
        }
        searched
    }
}

/// `queryResponse[3]` of `spec.tcp.queryResponse[3]`.
fn short(field: &str) -> &str {
    field.strip_prefix("spec.tcp.").unwrap_or(field)
}
