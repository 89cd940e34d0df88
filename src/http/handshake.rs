//! What is said of TLS handshakes that come to nothing: to the client that speaks plain HTTP, and in the log.

use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use super::connection::Activity;
use super::peer::Peer;
use crate::tls;

/// Between two log lines. Whoever looks for open ports brings such errors about by the thousand.
const TELL_AGAIN: Duration = Duration::from_secs(60);

/// So much is read of a plain request; the rest would be of no interest either.
const LONGEST_REQUEST: usize = 64 * 1024;

/// What a client has begun with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opening {
    /// It went away without a byte, as a probe of the port does.
    Nothing,
    /// The method of an HTTP request: a record of TLS begins with no letter.
    PlainHttp,
    /// TLS, or what else there may be.
    Other,
}

/// Waits for the first byte of a connection, and leaves it there.
pub(super) async fn opening(socket: &TcpStream, activity: &Activity) -> Opening {
    let mut first = [0];
    activity.look(); // a connection that sends nothing makes room for others, as it does where there is no TLS
    match socket.peek(&mut first).await {
        Ok(0) | Err(_) => Opening::Nothing,
        Ok(_) if first[0].is_ascii_uppercase() => Opening::PlainHttp,
        Ok(_) => Opening::Other,
    }
}

/// Tells a client that it must speak TLS. The sweep ends this if the client does not.
pub(super) async fn refuse_plain_http(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    let words = format!("{}: write https:// instead of http://\n", tls::SPEAKS_HTTPS);
    let answer = format!(
        "HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{words}",
        words.len()
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await?;
    // To the client's end: a connection that is closed with unread bytes is reset, and the answer is lost.
    let (mut read, mut buffer) = (0, [0; 1024]);
    while read < LONGEST_REQUEST {
        match stream.read(&mut buffer).await? {
            0 => break,
            more => read += more,
        }
    }
    Ok(())
}

/// Handshakes that failed, in the log: one line in a minute.
#[derive(Debug, Default)]
pub(super) struct Failed(Mutex<Told>);

#[derive(Debug, Default)]
struct Told {
    at: Option<Instant>,
    /// How many have failed since then.
    since: u64,
}

impl Failed {
    /// Tells of one of `peer`, or counts it for the next line.
    pub(super) fn tell(&self, peer: Peer, problem: &str) {
        if let Some(others) = self.due(Instant::now()) {
            tracing::warn!(client = %peer, %problem, others, "a client cannot connect by TLS");
        } else {
            tracing::debug!(client = %peer, %problem, "a client cannot connect by TLS");
        }
    }

    /// How many were not told since the last line, if it is time for one.
    fn due(&self, now: Instant) -> Option<u64> {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if told.at.is_some_and(|at| now.saturating_duration_since(at) < TELL_AGAIN) {
            told.since += 1;
            return None;
        }
        told.at = Some(now);
        Some(std::mem::take(&mut told.since))
    }
}

/// Plain words for the end of a handshake.
pub(super) fn problem(error: &io::Error) -> String {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(error) => tls::sentence(error, tls::Peer::Client),
        None if error.kind() == io::ErrorKind::UnexpectedEof => {
            "the client closes the connection in the middle of the handshake".to_owned()
        }
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::{Failed, TELL_AGAIN};

    #[test]
    fn one_line_a_minute_counts_those_that_were_not_told() {
        let (failed, start) = (Failed::default(), Instant::now());
        assert_eq!([0, 0, 0].map(|_| failed.due(start)), [Some(0), None, None]);
        assert_eq!([TELL_AGAIN, TELL_AGAIN].map(|after| failed.due(start + after)), [Some(2), None]);
    }
}
