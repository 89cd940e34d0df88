//! The way of a query to the server and of the reply back: over UDP, TCP or TLS.

use std::io;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout_at};

use super::query::DnsQuestion;
use super::reply::{NoReply, Reply, text_bytes};
use super::{DURATION, Edns};
use crate::budget::MemoryShare;
use crate::dial::{JudgedAddress, ServerRole, broken};
use crate::failure::{CallError, Reason};
use crate::kind::{Compute, Probe};

/// What the query travels over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DnsTransport {
    Udp,
    Tcp,
    Tls,
}

impl DnsTransport {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Udp => "UDP",
            Self::Tcp => "TCP",
            Self::Tls => "TLS",
        }
    }
}

/// Datagrams without EDNS have at most 512 bytes; a server that sends more is not refused for that.
const LEAST_BUFFER: usize = 4096;

/// Longer messages are read on another thread: a pointer of two bytes is a name of up to a thousand characters.
const READ_HERE: usize = 1024;

/// One query that is sent.
#[derive(Debug)]
pub(super) struct Query<'q> {
    pub(super) id: u16,
    pub(super) question: &'q Arc<DnsQuestion>,
    pub(super) message: Vec<u8>,
    pub(super) edns: Option<Edns>,
    pub(super) port: u16,
}

impl Query<'_> {
    /// Sends it and waits for the reply, until the deadline of the probe. The phases `connect` and `request` are recorded.
    pub(super) async fn exchange(
        &self,
        probe: &mut Probe<'_>,
        address: JudgedAddress,
        transport: DnsTransport,
    ) -> Result<Reply, CallError> {
        probe.record.event(format!("asked port {} of {} over {}", self.port, address.ip(), transport.as_str()));
        match transport {
            DnsTransport::Udp => self.over_udp(probe, address).await,
            DnsTransport::Tcp => {
                let start = Instant::now();
                let connected = probe.dialer.connect(address, self.port, probe.deadline).await;
                probe.record.add(&DURATION, &["connect"], start.elapsed().as_secs_f64());
                self.over_stream(probe, connected?, transport).await
            }
            DnsTransport::Tls => {
                let start = Instant::now();
                let connected = self.connect_tls(probe, address).await;
                probe.record.add(&DURATION, &["connect"], start.elapsed().as_secs_f64());
                self.over_stream(probe, connected?, transport).await
            }
        }
    }

    async fn connect_tls(
        &self,
        probe: &mut Probe<'_>,
        address: JudgedAddress,
    ) -> Result<impl AsyncRead + AsyncWrite + Unpin + use<>, CallError> {
        let stream = probe.dialer.connect(address, self.port, probe.deadline).await?;
        let (shaken, peer) = probe.dialer.handshake(stream, ServerRole::Target, probe.host, &[], probe.deadline).await;
        if let Some(peer) = peer {
            probe.record.tls(&peer, false);
        }
        shaken
    }

    async fn over_udp(&self, probe: &mut Probe<'_>, address: JudgedAddress) -> Result<Reply, CallError> {
        let start = Instant::now();
        let socket = probe.dialer.udp(address, self.port).await;
        probe.record.add(&DURATION, &["connect"], start.elapsed().as_secs_f64());
        let socket = socket?;
        let largest = self.edns.map_or(0, |edns| usize::from(edns.buffer_size)).max(LEAST_BUFFER);
        probe.memory.cover(largest).await;
        let mut buffer = vec![0; largest + 1];
        let mut others = Others::default();
        let sent = Instant::now();
        let replying = self.reply_to_datagram(&socket, &mut buffer, &mut others, (probe.memory, probe.compute));
        let waiting = timeout_at(probe.deadline, replying).await;
        probe.record.add(&DURATION, &["request"], sent.elapsed().as_secs_f64());
        let (reply, length) = match waiting {
            Ok(reply) => reply?,
            Err(_) => return Err(others.timeout(DnsTransport::Udp)),
        };
        probe.record.received(length);
        Ok(reply)
    }

    /// The reply and its length. Messages about other queries are passed over: they may be late, or not from the server. What is no message
    /// ends the probe, as in the blackbox exporter. Whoever forges the address of the server to send it must guess our port, and could
    /// as well send an ICMP error, which ends the probe too; to forge a reply, they must also guess the number of the query.
    async fn reply_to_datagram(
        &self,
        socket: &UdpSocket,
        buffer: &mut [u8],
        others: &mut Others,
        (memory, compute): (&mut MemoryShare, &dyn Compute),
    ) -> Result<(Reply, usize), CallError> {
        let failed = |error: io::Error| {
            let error = broken(&error);
            CallError::new(error.reason, format!("no DNS server at this port over UDP: {}", error.message))
        };
        socket.send(&self.message).await.map_err(failed)?;
        loop {
            let length = socket.recv(buffer).await.map_err(failed)?;
            if length == buffer.len() {
                let message = format!(
                    "the server sent a datagram of more than {} bytes, which is more than it may: correct the server, or write a larger \
                     edns.bufferSize",
                    length - 1
                );
                return Err(CallError::new(Reason::Protocol, message));
            }
            memory.cover(buffer.len() + length + text_bytes(length)).await;
            match self.read(buffer.get(..length).unwrap_or_default(), compute).await? {
                Ok(reply) => return Ok((reply, length)),
                Err(NoReply::Other(why)) => others.note(why),
                Err(no_reply) => return Err(unreadable(&no_reply)),
            }
        }
    }

    async fn over_stream(
        &self,
        probe: &mut Probe<'_>,
        mut stream: impl AsyncRead + AsyncWrite + Unpin,
        transport: DnsTransport,
    ) -> Result<Reply, CallError> {
        let sent = Instant::now();
        let deadline = probe.deadline;
        let waiting = timeout_at(deadline, self.message_from_stream(probe, &mut stream)).await;
        probe.record.add(&DURATION, &["request"], sent.elapsed().as_secs_f64());
        let message = waiting.map_err(|_| Others::default().timeout(transport))??;
        probe.record.received(message.len());
        self.read(&message, probe.compute).await?.map_err(|no_reply| unreadable(&no_reply))
    }

    /// Reads a message, on another thread if that may take long.
    async fn read(&self, message: &[u8], compute: &dyn Compute) -> Result<Result<Reply, NoReply>, CallError> {
        if message.len() <= READ_HERE || !Reply::has_number(message, self.id) {
            return Ok(Reply::read(message, self.id, self.question));
        }
        let (message, id, question) = (message.to_vec(), self.id, Arc::clone(self.question));
        let result = compute.run(Box::new(move |_| Box::new(Reply::read(&message, id, &question)))).await?;
        let lost = |_| CallError::new(Reason::Internal, "the reading of a reply had no result: please report this");
        result.downcast().map(|result| *result).map_err(lost)
    }

    /// One message after its length.
    async fn message_from_stream(
        &self,
        probe: &mut Probe<'_>,
        stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    ) -> Result<Vec<u8>, CallError> {
        let length = u16::try_from(self.message.len()).map_err(|_| CallError::new(Reason::Internal, "a long query"))?;
        let mut framed = length.to_be_bytes().to_vec();
        framed.extend_from_slice(&self.message);
        let failed = |error: io::Error| {
            if error.kind() == io::ErrorKind::UnexpectedEof {
                return CallError::new(Reason::Connect, "the server closed the connection without a reply");
            }
            let error = broken(&error);
            CallError::new(error.reason, format!("the connection broke before the reply: {}", error.message))
        };
        stream.write_all(&framed).await.map_err(failed)?;
        stream.flush().await.map_err(failed)?;
        let length = usize::from(stream.read_u16().await.map_err(failed)?);
        probe.memory.cover(2 * length + text_bytes(length)).await;
        let mut message = vec![0; length];
        stream.read_exact(&mut message).await.map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => {
                CallError::new(Reason::Protocol, format!("the reply ended before the {length} bytes that it announced"))
            }
            _ => failed(error),
        })?;
        Ok(message)
    }
}

/// Datagrams that were passed over.
#[derive(Debug, Default)]
struct Others {
    count: usize,
    last: &'static str,
}

impl Others {
    const fn note(&mut self, why: &'static str) {
        self.count += 1;
        self.last = why;
    }

    fn timeout(&self, transport: DnsTransport) -> CallError {
        let message = match self.count {
            0 => format!("no reply to the query over {} in time", transport.as_str()),
            count => format!(
                "no reply to the query over {} in time, only {count} other datagrams, the last of them with {}",
                transport.as_str(),
                self.last
            ),
        };
        CallError::new(Reason::Timeout, message)
    }
}

fn unreadable(no_reply: &NoReply) -> CallError {
    match no_reply {
        NoReply::Other(why) => CallError::new(Reason::Protocol, format!("the server sent no reply to the query: {why}")),
        NoReply::Malformed(why) => {
            CallError::new(Reason::Protocol, format!("the reply of the server is no valid DNS message: {why}"))
        }
        NoReply::TooLong => CallError::new(
            Reason::Limit,
            "the records of the reply are longer than 1 MiB as text, ask for fewer of them with queryType",
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use domain::base::name::Name;
    use futures::future::BoxFuture;

    use super::*;
    use crate::kind::HeavyWork;
    use crate::metric::Stop;

    /// Counts what is not done at once.
    #[derive(Debug, Default)]
    struct Elsewhere(AtomicUsize);

    impl Compute for Elsewhere {
        fn run(&self, work: HeavyWork) -> BoxFuture<'_, Result<Box<dyn std::any::Any + Send>, CallError>> {
            self.0.fetch_add(1, Ordering::Relaxed);
            Box::pin(std::future::ready(Ok(work(&Stop::default()))))
        }
    }

    #[tokio::test]
    async fn long_replies_are_read_elsewhere_and_nothing_else_is() {
        let question = Arc::new(DnsQuestion { name: Name::root_vec(), number: 1, class: 1 });
        let query = Query { id: 7, question: &question, message: Vec::new(), edns: None, port: 53 };
        let elsewhere = Elsewhere::default();
        let message = |id: u8, count: u8| {
            let mut message = vec![0, id, 0x80, 0, 0, 1, 0, count, 0, 0, 0, 0, 0, 0, 1, 0, 1];
            message.extend((0..count).flat_map(|last| [0, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 127, 0, 0, last]));
            message
        };
        let short = query.read(&message(7, 3), &elsewhere).await.unwrap().unwrap();
        assert_eq!(short.count(crate::kind::dns::Section::Answer), 3);
        query.read(&message(8, 200), &elsewhere).await.unwrap().unwrap_err();
        assert_eq!(elsewhere.0.load(Ordering::Relaxed), 0);
        let long = query.read(&message(7, 200), &elsewhere).await.unwrap().unwrap();
        assert_eq!(long.count(crate::kind::dns::Section::Answer), 200);
        assert_eq!(elsewhere.0.load(Ordering::Relaxed), 1);
    }
}
