//! The messages after the handshake: the dialogue, a ping, and the end. A server can make none of it long or large: frames, messages, all
//! bytes together and their number are bounded, and memory is covered before more is read.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use tokio::time::{Instant, timeout_at};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::{CapacityError, ProtocolError};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};

use super::script::{ExpectedMessage, ScriptedMessage, SentText};
use super::stream::MeteredSocket;
use super::{CLOSE_CODE, FAILED_DUE_TO_REGEX, WebSocketPhase};
use crate::dial::broken;
use crate::kind::probe::{BoxedStream, Matcher, Pattern, readable, search_work, work};
use crate::kind::{CallError, Probe, Reason};
use crate::metric::Stop;

/// The largest message, and the largest frame of one.
const MAX_MESSAGE: usize = 1 << 20;

/// The most bytes until a message is whole: it may come in fragments of nothing.
const MAX_UNFINISHED: usize = 2 * MAX_MESSAGE;

/// The most messages and control frames.
const MAX_MESSAGES: usize = 10_000;

/// What is read of a message before memory for more is covered.
const FIRST_ALLOWANCE: usize = 16 << 10;

/// What a message may take while it is compared, as a multiple of its bytes: the buffer that it is read into, its fragments together, and a
/// copy in which each byte that is not UTF-8 has become three.
const COPIES: usize = 6;

/// What is covered from the handshake on: buffers of TLS and of the answer's header.
pub(super) const BASE_MEMORY: usize = 96 << 10;

/// Longer messages are compared so that it can be stopped, and groups in them are not taken.
const MAX_EXPANDED: usize = 64 << 10;

/// What is read at once.
const READ_BUFFER: usize = 4 << 10;

/// What may wait to be written: a message with groups of the one before.
const WRITE_BUFFER: usize = 2 << 20;

/// How long the server has to confirm the end.
const GOODBYE: Duration = Duration::from_secs(1);

/// There was a close frame without a code.
const NO_STATUS: u16 = 1005;

/// The connection ended without a close frame.
const ABNORMAL: u16 = 1006;

/// The expected message has come.
#[derive(Debug, Default)]
struct MatchedMessage {
    /// What is sent after it, if groups of it are in that.
    expanded: Option<String>,
}

/// A connection that speaks WebSocket.
pub(super) struct MessageSession<'s, 'p> {
    probe: &'s mut Probe<'p>,
    socket: WebSocketStream<MeteredSocket>,
    /// Bytes that have been counted.
    counted: usize,
    messages: usize,
    /// Messages of the step that were not the expected one.
    unmatched: usize,
    /// Nothing can be read any more, or nothing is worth to be.
    is_over: bool,
}

impl<'s, 'p> MessageSession<'s, 'p> {
    /// `rest` is what was read after the header of the handshake.
    pub(super) async fn new(probe: &'s mut Probe<'p>, stream: BoxedStream, rest: Vec<u8>) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER)
            .write_buffer_size(0)
            .max_write_buffer_size(WRITE_BUFFER)
            .max_message_size(Some(MAX_MESSAGE))
            .max_frame_size(Some(MAX_MESSAGE));
        let stream = MeteredSocket::new(stream, FIRST_ALLOWANCE);
        let socket = WebSocketStream::from_partially_read(stream, rest, Role::Client, Some(config)).await;
        Self { probe, socket, counted: 0, messages: 0, unmatched: 0, is_over: false }
    }

    /// Goes through all steps, pings, and ends the connection.
    pub(super) async fn run(mut self, steps: &[ScriptedMessage], with_ping: bool) -> Result<(), CallError> {
        let mut result = Ok(());
        for step in steps {
            let start = Instant::now();
            result = self.step(step).await;
            WebSocketPhase::Transfer.took(self.probe.record, start.elapsed());
            if result.is_err() {
                break;
            }
        }
        if result.is_ok() && with_ping {
            let start = Instant::now();
            result = self.ping().await;
            WebSocketPhase::Ping.took(self.probe.record, start.elapsed());
        }
        self.close().await;
        result
    }

    /// Ends the connection. Whatever becomes of it, the probe has its verdict.
    pub(super) async fn close(mut self) {
        let until = self.probe.deadline.min(Instant::now() + GOODBYE);
        if self.is_over {
            let _ = timeout_at(until, self.socket.flush()).await; // a close frame of the server is answered
            return;
        }
        let closing = async {
            let frame = CloseFrame { code: CloseCode::Normal, reason: "".into() };
            if let Err(error) = self.socket.send(Message::Close(Some(frame))).await {
                let _ = self.ended(error);
                return;
            }
            while !self.is_over && self.next().await.is_ok() {}
        };
        let _ = timeout_at(until, closing).await;
    }

    async fn step(&mut self, step: &ScriptedMessage) -> Result<(), CallError> {
        let mut expanded = None;
        if let Some(expected) = &step.expect {
            self.unmatched = 0;
            let deadline = self.probe.deadline;
            let outcome = timeout_at(deadline, self.expect(step, expected)).await;
            let outcome = outcome.unwrap_or_else(|_| {
                let field = &step.field;
                let message = match self.unmatched {
                    0 => format!("the server sent no message in time, and {field} expects one"),
                    some => format!("the server sent no message in time that {field} expects: {some} others came"),
                };
                Err(CallError::new(Reason::Timeout, message))
            });
            if outcome.is_err() {
                self.probe.record.set(&FAILED_DUE_TO_REGEX, &[], 1.0);
            }
            expanded = outcome?.expanded;
        }
        let message = match &step.send {
            Some(SentText::Expanded) => Message::text(expanded.unwrap_or_default()),
            Some(SentText::Text(text)) => Message::text(text.as_str()),
            Some(SentText::Bytes(bytes)) => Message::binary(bytes.clone()),
            Some(SentText::Secret(index)) => match self.probe.secrets.get(*index).copied().flatten() {
                Some(secret) => match std::str::from_utf8(secret) {
                    Ok(text) => Message::text(text),
                    Err(_) => Message::binary(secret.to_vec()),
                },
                None => return Ok(()), // it is optional and missing
            },
            None => return Ok(()),
        };
        self.send(step, message).await
    }

    async fn send(&mut self, step: &ScriptedMessage, message: Message) -> Result<(), CallError> {
        let bytes = message.len();
        match timeout_at(self.probe.deadline, self.socket.send(message)).await {
            Ok(Ok(())) => {
                self.probe.record.event(format!("{}: sent {bytes} bytes", short(&step.field)));
                Ok(())
            }
            Ok(Err(error)) => Err(self.ended(error)),
            Err(_) => {
                let message = format!("the server did not read in time what {} sends", step.field);
                Err(CallError::new(Reason::Timeout, message))
            }
        }
    }

    /// Reads a message or, if others are skipped, until the expected one.
    async fn expect(
        &mut self,
        step: &ScriptedMessage,
        expected: &ExpectedMessage,
    ) -> Result<MatchedMessage, CallError> {
        let mut matcher = None;
        loop {
            let payload = self.data(&step.field).await?;
            let bytes = payload.len();
            let found = match expected {
                ExpectedMessage::Bytes(wanted) => (payload == *wanted).then(MatchedMessage::default),
                ExpectedMessage::Matching { pattern, templates } => {
                    self.search(step, pattern, templates, payload, &mut matcher).await?
                }
            };
            if let Some(matched) = found {
                self.probe.record.event(format!("{}: a message of {bytes} bytes matched", short(&step.field)));
                return Ok(matched);
            }
            if !step.skip_unmatched {
                let message = format!(
                    "the message of {bytes} bytes that the server sent is not the one that {} expects: correct the expectation, or write \
                     skipUnmatched: true if others may come first",
                    step.field
                );
                return Err(CallError::new(Reason::Match, message));
            }
            self.unmatched += 1;
        }
    }

    /// Whether the pattern matches in the message.
    async fn search(
        &mut self,
        step: &ScriptedMessage,
        pattern: &Pattern,
        templates: &Arc<[String]>,
        payload: Bytes,
        matcher: &mut Option<Matcher>,
    ) -> Result<Option<MatchedMessage>, CallError> {
        let length = payload.len();
        if length > MAX_EXPANDED {
            let (cost, pattern) = (search_work([pattern], length), pattern.clone());
            let search = move |stop: &Stop| pattern.search(&readable(&payload), stop);
            return match self.probe.compare(cost, length, search).await? {
                Some(true) if templates.is_empty() => Ok(Some(MatchedMessage::default())),
                Some(true) => {
                    let most = MAX_EXPANDED >> 10;
                    let message = format!(
                        "the message that {} expects has over {most} KiB, and groups are taken only from shorter ones: write send without $",
                        step.field
                    );
                    Err(CallError::new(Reason::Limit, message))
                }
                Some(false) => Ok(None),
                None => {
                    let message =
                        format!("a message could not be compared with {}.expect in time: write a simpler one", step.field);
                    Err(CallError::new(Reason::Timeout, message))
                }
            };
        }
        let cost = work([pattern], 1, length);
        let (pattern, templates, known) = (pattern.clone(), Arc::clone(templates), matcher.take());
        let search = move |_: &Stop| {
            let matcher = known.unwrap_or_else(|| pattern.matcher());
            let texts = matcher.expand(&readable(&payload), &templates);
            (texts, matcher)
        };
        let (texts, known) = self.probe.compare(cost, length, search).await?;
        *matcher = Some(known);
        Ok(texts.map(|mut texts| MatchedMessage { expanded: texts.pop() }))
    }

    /// The payload of the next text or binary message.
    async fn data(&mut self, field: &str) -> Result<Bytes, CallError> {
        loop {
            match self.next().await? {
                message @ (Message::Text(_) | Message::Binary(_)) => return Ok(message.into_data()),
                Message::Close(frame) => return Err(closed(frame.as_ref(), &format!("and {field} expects a message"))),
                _ => {}
            }
        }
    }

    /// Sends a ping, and waits for its pong.
    async fn ping(&mut self) -> Result<(), CallError> {
        let mut payload = [0; 16];
        // It fails only where the system has no source of random numbers. Then a pong that nobody asked for could be taken for ours.
        let _ = aws_lc_rs::rand::fill(&mut payload);
        let mut others = 0_usize;
        let deadline = self.probe.deadline;
        let pinging = async {
            let message = Message::Ping(Bytes::copy_from_slice(&payload));
            if let Err(error) = self.socket.send(message).await {
                return Err(self.ended(error));
            }
            loop {
                match self.next().await? {
                    Message::Pong(answer) if answer == payload[..] => return Ok(()),
                    // Nobody has to be asked for a pong.
                    Message::Pong(_) => others += 1,
                    Message::Close(frame) => return Err(closed(frame.as_ref(), "before it answered the ping")),
                    _ => {}
                }
            }
        };
        let outcome = timeout_at(deadline, pinging).await;
        match outcome {
            Ok(Ok(())) => {
                self.probe.record.event("the ping was answered");
                Ok(())
            }
            Ok(Err(error)) => Err(error),
            Err(_) if others > 0 => {
                let message = "the server answered the ping with something else than was in it, and not rightly in time";
                Err(CallError::new(Reason::Timeout, message))
            }
            Err(_) => Err(CallError::new(Reason::Timeout, "the server did not answer the ping in time")),
        }
    }

    /// The next message or control frame. Pings are answered.
    async fn next(&mut self) -> Result<Message, CallError> {
        loop {
            let next = poll_fn(|cx| match self.socket.poll_next_unpin(cx) {
                Poll::Ready(next) => Poll::Ready(Some(next)),
                Poll::Pending if self.socket.get_ref().is_starved() => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            });
            let next = next.await;
            self.count()?;
            match next {
                None => self.allow_more().await?,
                Some(None) => return Err(self.ended(Error::ConnectionClosed)),
                Some(Some(Err(error))) => return Err(self.ended(error)),
                Some(Some(Ok(message))) => {
                    self.socket.get_mut().finished();
                    self.messages += 1;
                    if self.messages > MAX_MESSAGES {
                        let message = format!("the server has sent more than {MAX_MESSAGES} messages");
                        return Err(self.too_much(message));
                    }
                    match &message {
                        Message::Ping(_) => {
                            if let Err(error) = self.socket.flush().await {
                                return Err(self.ended(error));
                            }
                        }
                        Message::Close(frame) => {
                            self.is_over = true;
                            self.note_close(frame.as_ref().map_or(NO_STATUS, |frame| frame.code.into()));
                        }
                        _ => {}
                    }
                    return Ok(message);
                }
            }
        }
    }

    /// Counts what has come since it was called last.
    fn count(&mut self) -> Result<(), CallError> {
        let received = self.socket.get_ref().received;
        let new = received - self.counted;
        self.counted = received;
        self.probe.memory.received(new);
        self.probe.record.received(new);
        if received > self.probe.max_body_bytes {
            let message = format!("the server has sent {received} bytes, and --max-body-bytes allows fewer");
            return Err(self.too_much(message));
        }
        Ok(())
    }

    /// Covers memory for more of a message, and lets it be read.
    async fn allow_more(&mut self) -> Result<(), CallError> {
        let allowance = self.socket.get_ref().allowance();
        if allowance >= MAX_UNFINISHED {
            let message = "the server sends fragments of a message, and not its last one".to_owned();
            return Err(self.too_much(message));
        }
        let more = (2 * allowance).min(MAX_UNFINISHED);
        self.probe.memory.cover(BASE_MEMORY + COPIES * more).await;
        self.socket.get_mut().allow(more);
        Ok(())
    }

    fn too_much(&mut self, message: String) -> CallError {
        self.is_over = true;
        CallError::new(Reason::Limit, message)
    }

    fn note_close(&mut self, code: u16) {
        self.probe.record.set(&CLOSE_CODE, &[], f64::from(code));
        self.probe.record.event(match code {
            ABNORMAL => "the server ended the connection without a close frame".to_owned(),
            NO_STATUS => "the server closed without a code".to_owned(),
            code => format!("the server closed with code {code}"),
        });
    }

    /// What an error means. After it, the connection is of no use.
    fn ended(&mut self, error: Error) -> CallError {
        self.is_over = true;
        let protocol = |what: &str| CallError::new(Reason::Protocol, format!("the server sent {what}"));
        match error {
            Error::Io(error) => {
                self.note_close(ABNORMAL);
                let error = broken(&error);
                CallError::new(error.reason, format!("the connection broke after the handshake: {}", error.message))
            }
            Error::ConnectionClosed
            | Error::AlreadyClosed
            | Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => {
                self.note_close(ABNORMAL);
                CallError::new(Reason::Connect, "the server ended the connection without a close frame")
            }
            Error::Capacity(CapacityError::MessageTooLong { .. }) => {
                let most = MAX_MESSAGE >> 20;
                CallError::new(Reason::Limit, format!("the server sends a message of over {most} MiB"))
            }
            Error::WriteBufferFull(_) => {
                CallError::new(Reason::Limit, "the server does not read, and too much waits to be sent to it")
            }
            Error::Utf8(_) => protocol("a text message, or the reason in a close frame, that is not UTF-8"),
            Error::Protocol(error) => protocol(match error {
                ProtocolError::NonZeroReservedBits => {
                    "a frame with reserved bits, as a compressed one has them, though no extension was agreed on"
                }
                ProtocolError::MaskedFrameFromServer => "a masked frame, as only clients may",
                ProtocolError::FragmentedControlFrame => "a control frame in fragments",
                ProtocolError::ControlFrameTooBig => "a control frame of over 125 bytes",
                ProtocolError::UnexpectedContinueFrame => "a fragment that continues nothing",
                ProtocolError::ExpectedFragment(_) => "a message between the fragments of another one",
                ProtocolError::UnknownControlFrameType(_)
                | ProtocolError::UnknownDataFrameType(_)
                | ProtocolError::InvalidOpcode(_) => "a frame of an unknown type",
                ProtocolError::InvalidCloseSequence => "a close frame with one byte in it",
                ProtocolError::ReceivedAfterClosing => "more after its close frame",
                _ => "what breaks the rules of WebSocket",
            }),
            _ => CallError::new(Reason::Internal, "a message could not be read or sent: please report this"),
        }
    }
}

/// The server has closed the connection, though more is wanted.
fn closed(frame: Option<&CloseFrame>, when: &str) -> CallError {
    let with = frame.map_or_else(String::new, |frame| format!(" with code {}", u16::from(frame.code)));
    CallError::new(Reason::Response, format!("the server closed the connection{with}, {when}"))
}

/// `queryResponse[3]` of `spec.websocket.queryResponse[3]`.
fn short(field: &str) -> &str {
    field.strip_prefix("spec.websocket.").unwrap_or(field)
}
