//! TLS handshakes: how many are computed at once, the answer to a client that speaks plain HTTP, and the log of those that fail.

use std::future::poll_fn;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::connection::ConnectionState;
use super::fair_semaphore::{ClientNetwork, FairLimits, FairSemaphore};
use crate::tls;

/// Limits the CPU that handshakes take. Only one step of one handshake is computed at a time: a signature takes a millisecond and more, and a
/// flood of them must not keep every thread from polls and responses.
#[derive(Debug)]
pub(super) struct HandshakeLimiter(Arc<FairSemaphore>);

impl HandshakeLimiter {
    /// Every connection may wait for its handshake, as those of a restarted Prometheus do, but clients are served in turn.
    pub(super) fn new(max_connections: usize) -> Self {
        let (queued, queued_per_client) = (max_connections, max_connections);
        Self(FairSemaphore::new(FairLimits { permits: 1, queued, queued_per_client }))
    }

    /// Performs a handshake. While it waits for the client's next message it holds no permit.
    pub(super) async fn accept<S>(
        &self,
        client: ClientNetwork,
        acceptor: &TlsAcceptor,
        stream: S,
    ) -> io::Result<TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let mut accepting = std::pin::pin!(acceptor.accept(stream));
        loop {
            let permit = self.0.acquire(client).await.map_err(|_| io::Error::other("too many others wait"))?;
            let step = poll_fn(|cx| Poll::Ready(accepting.as_mut().poll(cx))).await;
            drop(permit);
            if let Poll::Ready(ended) = step {
                return ended;
            }
            woken().await;
        }
    }
}

/// Waits until the task is woken by whatever it has polled before.
async fn woken() {
    let mut polled = false;
    poll_fn(|_| if std::mem::replace(&mut polled, true) { Poll::Ready(()) } else { Poll::Pending }).await;
}

/// The protocol of a connection, by its first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FirstByte {
    /// The client closed the connection without a byte, as TCP probes do.
    Missing,
    /// The method of a plain HTTP request: no TLS record begins with a letter.
    PlainHttp,
    /// TLS, or anything else.
    Other,
}

/// Waits for the first byte of a connection without consuming it.
pub(super) async fn peek_first_byte(socket: &TcpStream, state: &ConnectionState) -> FirstByte {
    let mut first = [0];
    state.note_read(); // as without TLS: a connection that sends nothing has to make room for others
    match socket.peek(&mut first).await {
        Ok(0) | Err(_) => FirstByte::Missing,
        Ok(_) if first[0].is_ascii_uppercase() => FirstByte::PlainHttp,
        Ok(_) => FirstByte::Other,
    }
}

/// Responds to plain HTTP that the port speaks TLS. The header timeout limits this.
pub(super) async fn refuse_plain_http(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    /// Bytes of the request that are read; the connection may be reset after them.
    const MAX_REQUEST: usize = 64 * 1024;
    let text = format!("{}: write https:// instead of http://\n", tls::SPEAKS_HTTPS);
    let response = format!(
        "HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{text}",
        text.len()
    );
    stream.write_all(response.as_bytes()).await?;
    stream.shutdown().await?;
    // Read to the client's end: a connection that is closed with unread bytes is reset, and the client may lose the response.
    let (mut read, mut buffer) = (0, [0; 1024]);
    while read < MAX_REQUEST {
        match stream.read(&mut buffer).await? {
            0 => break,
            more => read += more,
        }
    }
    Ok(())
}

/// Logs failed handshakes, at most once a minute: port scanners cause them by the thousand.
#[derive(Debug, Default)]
pub(super) struct HandshakeFailureLog(Mutex<FailureCount>);

#[derive(Debug, Default)]
struct FailureCount {
    last_logged: Option<Instant>,
    /// Failures since then.
    unlogged: u64,
}

impl HandshakeFailureLog {
    const INTERVAL: Duration = Duration::from_secs(60);

    /// Logs a failure, or counts it for the next line.
    pub(super) fn log(&self, client: ClientNetwork, problem: &str) {
        if let Some(others) = self.count(Instant::now()) {
            tracing::warn!(%client, %problem, others, "TLS handshake with a client failed");
        } else {
            tracing::debug!(%client, %problem, "TLS handshake with a client failed");
        }
    }

    /// Counts a failure. If a line is due, returns how many others it stands for.
    fn count(&self, now: Instant) -> Option<u64> {
        let mut count = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if count.last_logged.is_some_and(|at| now.saturating_duration_since(at) < Self::INTERVAL) {
            count.unlogged += 1;
            return None;
        }
        count.last_logged = Some(now);
        Some(std::mem::take(&mut count.unlogged))
    }
}

/// Why a handshake failed, for the log.
pub(super) fn handshake_problem(error: &io::Error) -> String {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(error) => tls::describe(error, tls::Peer::Client),
        None if error.kind() == io::ErrorKind::UnexpectedEof => {
            "the client closes the connection in the middle of the handshake".to_owned()
        }
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::HandshakeFailureLog;

    #[test]
    fn one_line_a_minute_counts_the_failures_that_were_not_logged() {
        let (log, start) = (HandshakeFailureLog::default(), Instant::now());
        assert_eq!([0, 0, 0].map(|_| log.count(start)), [Some(0), None, None]);
        let later = start + HandshakeFailureLog::INTERVAL;
        assert_eq!([later, later].map(|at| log.count(at)), [Some(2), None]);
    }
}
