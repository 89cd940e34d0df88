//! The way of STUN messages to a server and back: over UDP, where they are sent again until an answer comes, over TCP or over TLS.

use std::future::pending;
use std::io;
use std::time::Duration;

use reqwest::Url;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UdpSocket;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::{BoxedStream, Probe, Recorder};
use crate::dial::{JudgedAddress, ServerRole, broken};
use crate::failure::{CallError, Reason};
use crate::metric::Desc;
use crate::stun::{
    FRAME_PREFIX, StunAttribute, StunClass, StunFrame, StunMessage, StunMethod, TransactionId, frame_length,
};

crate::descs! {
    SERVER_INFO = gauge "probe_stun_server_info" ["software"] "What the server says of its software, in the label. Always 1; absent if it says nothing.";
}

/// Records what the server says of its software.
pub(in crate::kind) fn record_software(record: &mut Recorder, message: &StunMessage<'_>) {
    if let Some(software) = message.text(StunAttribute::SOFTWARE) {
        record.remove(&SERVER_INFO);
        record.set(&SERVER_INFO, &[&software], 1.0);
    }
}

/// The longest message or ChannelData that is read. Answers have some hundred bytes, and relayed datagrams those of a packet.
const LONGEST: usize = 4096;

/// How long the first answer over UDP is waited for before the request is sent again. Each wait is twice as long as the one before.
const FIRST_WAIT: Duration = Duration::from_millis(500);

/// As often is a request sent at most, as by RFC 8489.
const MOST_TRANSMISSIONS: u32 = 7;

/// So much that is no answer is passed over before the probe ends: a flood must not keep a thread busy until the deadline.
const MOST_OTHERS: u32 = 1000;

/// What messages travel over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::kind) enum StunTransport {
    Udp,
    Tcp,
    Tls,
}

impl StunTransport {
    /// As a url says it: `stuns:` and `turns:` are over TLS, others over UDP unless they have `?transport=tcp`.
    pub(in crate::kind) fn of(url: &Url) -> Self {
        match (url.scheme().ends_with('s'), url.query()) {
            (true, _) => Self::Tls,
            (false, Some("transport=tcp")) => Self::Tcp,
            (false, _) => Self::Udp,
        }
    }

    pub(in crate::kind) const fn as_str(self) -> &'static str {
        match self {
            Self::Udp => "UDP",
            Self::Tcp => "TCP",
            Self::Tls => "TLS",
        }
    }

    /// The port of servers whose url has none.
    pub(in crate::kind) const fn default_port(self) -> u16 {
        match self {
            Self::Udp | Self::Tcp => 3478,
            Self::Tls => 5349,
        }
    }
}

/// A request as it is sent, over UDP perhaps several times.
#[derive(Debug)]
pub(in crate::kind) struct StunRequest {
    pub(in crate::kind) method: StunMethod,
    pub(in crate::kind) transaction: TransactionId,
    pub(in crate::kind) bytes: Vec<u8>,
}

/// The way to one server, from one port of ours.
pub(in crate::kind) struct StunLink {
    way: StunWay,
    transport: StunTransport,
    /// What has arrived: frames of a stream, or one datagram.
    buffer: Box<[u8]>,
    /// Bytes of the buffer that have arrived.
    filled: usize,
    /// Bytes of the buffer that were returned before.
    taken: usize,
    /// How often the last request was sent.
    pub(in crate::kind) transmissions: u32,
}

enum StunWay {
    Datagrams(UdpSocket),
    Stream(BoxedStream),
}

impl StunLink {
    /// Opens it, and records the phases `connect` and `tls` of this family.
    pub(in crate::kind) async fn open(
        probe: &mut Probe<'_>,
        (address, port): (JudgedAddress, u16),
        transport: StunTransport,
        durations: &'static Desc,
    ) -> Result<Self, CallError> {
        let (way, took) = match transport {
            StunTransport::Udp => {
                let start = Instant::now();
                let opened = probe.dialer.udp(address, port).await;
                (opened.map(StunWay::Datagrams), start.elapsed())
            }
            StunTransport::Tcp | StunTransport::Tls => {
                let (connected, took) = probe.connect(address, port).await;
                (connected.map(StunWay::Stream), took)
            }
        };
        probe.record.set(durations, &["connect"], took.as_secs_f64());
        let way = match way? {
            StunWay::Stream(stream) if transport == StunTransport::Tls => {
                StunWay::Stream(handshake(probe, stream, durations).await?)
            }
            way => way,
        };
        probe.memory.cover(LONGEST + 1).await;
        let buffer = vec![0; LONGEST + 1].into_boxed_slice();
        Ok(Self { way, transport, buffer, filled: 0, taken: 0, transmissions: 0 })
    }

    /// Sends a request and waits for its answer, which is a success or an error. What does not belong to it is passed over: late answers, and
    /// those of which `judge` tells why they do not count. Whoever forges the address of a server must guess the transaction.
    ///
    /// Reasons: `timeout`; `protocol` if all that came was none of STUN; those of the connection.
    pub(in crate::kind) async fn ask(
        &mut self,
        request: &StunRequest,
        record: &mut Recorder,
        deadline: Instant,
        judge: impl Fn(&StunMessage<'_>) -> Result<(), &'static str>,
    ) -> Result<Vec<u8>, CallError> {
        self.transmissions = 0;
        let mut others = OtherFrames::default();
        let asking = self.answer_to(request, record, deadline, &mut others, judge);
        match timeout_at(deadline, asking).await {
            Ok(answered) => answered,
            Err(_) => Err(others.no_answer(self.transport, self.transmissions)),
        }
    }

    async fn answer_to(
        &mut self,
        request: &StunRequest,
        record: &mut Recorder,
        deadline: Instant,
        others: &mut OtherFrames,
        judge: impl Fn(&StunMessage<'_>) -> Result<(), &'static str>,
    ) -> Result<Vec<u8>, CallError> {
        let is_stream = matches!(self.way, StunWay::Stream(_));
        let mut wait = FIRST_WAIT;
        loop {
            self.transmissions += 1;
            if self.transmissions > 1 {
                record.event("no answer, sent it again");
            }
            self.send(&request.bytes, deadline).await?;
            let is_sent_again = !is_stream && self.transmissions < MOST_TRANSMISSIONS;
            let next = Instant::now() + wait;
            wait *= 2;
            loop {
                let received = tokio::select! {
                    biased;
                    () = async { if is_sent_again { sleep_until(next).await } else { pending().await } } => break,
                    received = self.receive() => received?,
                };
                record.received(received.len());
                let why = match StunFrame::read(received) {
                    _ if received.len() > LONGEST => WhyOther::Malformed(format!("more than {LONGEST} bytes")),
                    Err(fault) => WhyOther::Malformed(fault.to_string()),
                    Ok(StunFrame::Channel(_)) => WhyOther::OtherMessage("ChannelData"),
                    Ok(StunFrame::Message(message)) => {
                        match belongs(&message, request).and_then(|()| judge(&message)) {
                            Ok(()) => return Ok(received.to_vec()),
                            Err(why) => WhyOther::OtherMessage(why),
                        }
                    }
                };
                if is_stream && let WhyOther::Malformed(what) = why {
                    // Nobody else wrote it, and nothing can be found after it.
                    return Err(CallError::new(Reason::Protocol, format!("the server sent {what}")));
                }
                others.note(why)?;
                // As often as it takes nothing from others.
                tokio::task::yield_now().await;
            }
        }
    }

    /// Whether it is a stream, in which `ChannelData` are padded.
    pub(in crate::kind) const fn is_stream(&self) -> bool {
        matches!(self.way, StunWay::Stream(_))
    }

    /// Sends one message or ChannelData.
    pub(in crate::kind) async fn send(&mut self, bytes: &[u8], deadline: Instant) -> Result<(), CallError> {
        match &mut self.way {
            StunWay::Datagrams(socket) => socket.send(bytes).await.map(drop).map_err(|error| refused(&error)),
            StunWay::Stream(stream) => {
                let sending = async {
                    stream.write_all(bytes).await?;
                    stream.flush().await
                };
                match timeout_at(deadline, sending).await {
                    Ok(Ok(())) => Ok(()),
                    Ok(Err(error)) => {
                        let error = broken(&error);
                        Err(CallError::new(error.reason, format!("the request could not be sent: {}", error.message)))
                    }
                    Err(_) => Err(CallError::new(Reason::Timeout, "the server did not take the request in time")),
                }
            }
        }
    }

    /// The next datagram, of which one that is too long is cut off to a byte more than the longest, or the next frame of the stream. Nothing is
    /// lost if it is no longer waited for.
    pub(in crate::kind) async fn receive(&mut self) -> Result<&[u8], CallError> {
        match &mut self.way {
            StunWay::Datagrams(socket) => {
                let length = socket.recv(&mut self.buffer).await.map_err(|error| refused(&error))?;
                Ok(self.buffer.get(..length).unwrap_or_default())
            }
            StunWay::Stream(stream) => {
                self.buffer.copy_within(self.taken..self.filled, 0);
                self.filled -= self.taken;
                self.taken = 0;
                loop {
                    let there = self.buffer.get(..self.filled).unwrap_or_default();
                    let length = match there.first_chunk::<FRAME_PREFIX>() {
                        Some(prefix) => Some(whole_frame(*prefix)?),
                        None => None,
                    };
                    if let Some(length) = length.filter(|length| *length <= self.filled) {
                        self.taken = length;
                        return Ok(self.buffer.get(..length).unwrap_or_default());
                    }
                    let room = self.buffer.get_mut(self.filled..).unwrap_or_default();
                    match stream.read(room).await {
                        Ok(0) => return Err(ended(self.filled, length)),
                        Ok(read) => self.filled += read,
                        Err(error) => {
                            let error = broken(&error);
                            let message = format!("the connection broke before the answer: {}", error.message);
                            return Err(CallError::new(error.reason, message));
                        }
                    }
                }
            }
        }
    }
}

async fn handshake(
    probe: &mut Probe<'_>,
    stream: BoxedStream,
    durations: &'static Desc,
) -> Result<BoxedStream, CallError> {
    let start = Instant::now();
    let (result, peer) = probe.dialer.handshake(stream, ServerRole::Target, probe.host, &[], probe.deadline).await;
    probe.record.set(durations, &["tls"], start.elapsed().as_secs_f64());
    if let Some(peer) = peer {
        probe.record.tls(&peer, false);
    }
    Ok(Box::new(result?))
}

/// Whether it is the answer to this request.
fn belongs(message: &StunMessage<'_>, request: &StunRequest) -> Result<(), &'static str> {
    if !matches!(message.class, StunClass::Success | StunClass::Error) {
        return Err("a request or indication");
    }
    if message.transaction != request.transaction {
        return Err("an answer to another transaction");
    }
    if message.method == request.method { Ok(()) } else { Err("an answer to another method") }
}

/// The length of a frame that is not too long.
fn whole_frame(prefix: [u8; FRAME_PREFIX]) -> Result<usize, CallError> {
    let protocol = |what: &dyn std::fmt::Display| CallError::new(Reason::Protocol, format!("the server sent {what}"));
    let length = frame_length(prefix).map_err(|fault| protocol(&fault))?;
    if length > LONGEST {
        return Err(protocol(&format!(
            "what is no STUN message, or one of {length} bytes, of which more than {LONGEST} are not read"
        )));
    }
    Ok(length)
}

/// The end of a stream before that of a frame.
fn ended(there: usize, length: Option<usize>) -> CallError {
    let of = length.map(|length| format!(" of {length}")).unwrap_or_default();
    match there {
        0 => CallError::new(Reason::Connect, "the server closed the connection without an answer"),
        _ => CallError::new(
            Reason::Protocol,
            format!("the server closed the connection after {there} bytes{of} of a message"),
        ),
    }
}

fn refused(error: &io::Error) -> CallError {
    let error = broken(error);
    CallError::new(error.reason, format!("no STUN server at this port over UDP: {}", error.message))
}

/// Why something that came is not the answer.
enum WhyOther {
    /// It is no message.
    Malformed(String),
    /// It is one about something else, or does not count.
    OtherMessage(&'static str),
}

/// What was passed over.
#[derive(Debug, Default)]
struct OtherFrames {
    count: u32,
    malformed: u32,
    last: String,
}

impl OtherFrames {
    fn note(&mut self, why: WhyOther) -> Result<(), CallError> {
        self.count += 1;
        match why {
            WhyOther::Malformed(what) => {
                self.malformed += 1;
                self.last = what;
            }
            WhyOther::OtherMessage(what) => what.clone_into(&mut self.last),
        }
        if self.count < MOST_OTHERS {
            return Ok(());
        }
        let message = format!(
            "the server sent {} messages that are no answer to the request, the last of them {}",
            self.count, self.last
        );
        Err(CallError::new(Reason::Protocol, message))
    }

    fn no_answer(&self, transport: StunTransport, transmissions: u32) -> CallError {
        let times = match transmissions {
            2.. => format!(" to a request that was sent {transmissions} times"),
            _ => String::new(),
        };
        let (reason, came) = match (self.malformed, self.count) {
            (_, 0) => (Reason::Timeout, String::new()),
            (0, count) => (Reason::Timeout, format!(", only {count} other messages, the last of them {}", self.last)),
            (_, count) => (
                Reason::Protocol,
                format!(", but {count} times the server sent something else, the last time {}", self.last),
            ),
        };
        CallError::new(reason, format!("no answer over {}{times} in time{came}", transport.as_str()))
    }
}
