//! Errors of sockets as failures of a probe.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::{Instant, timeout_at};

use crate::error_chain::chain;
use crate::failure::{CallError, Reason};
use crate::tls::{self, Peer};

/// The failure of a connection or of a socket, which breaks after it was opened. A server that rejects our certificate in TLS 1.3 does so
/// after the handshake is over for us: then the reason is `tls`.
pub fn broken(error: &io::Error) -> CallError {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    if let Some(tls) = chain(error).find_map(|link| link.downcast_ref::<rustls::Error>()) {
        return CallError::new(Reason::Tls, tls::describe(tls, Peer::Server));
    }
    if error.kind() == io::ErrorKind::TimedOut {
        return CallError::new(Reason::Timeout, "no answer in time");
    }
    let message = match error.kind() {
        BrokenPipe | UnexpectedEof => "the server ended the connection".to_owned(),
        ConnectionReset | ConnectionAborted => "the server reset the connection".to_owned(),
        _ => error.to_string(),
    };
    CallError::new(reason_of(error), message)
}

/// The failure of a connection that broke while something was written to it. A server that rejects our certificate says so before it ends the
/// connection: that is read first.
pub async fn rejection(stream: &mut (impl AsyncRead + Unpin), error: &io::Error, deadline: Instant) -> CallError {
    let reading = async {
        let mut ignored = [0; 512];
        while stream.read(&mut ignored).await? > 0 {}
        Ok::<_, io::Error>(())
    };
    match timeout_at(deadline.min(Instant::now() + LAST_WORDS), reading).await {
        Ok(Err(read)) if broken(&read).reason == Reason::Tls => broken(&read),
        _ => broken(error),
    }
}

/// How long it is read why a server ended a connection.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// The reason for an error of the system.
pub(super) fn reason_of(error: &io::Error) -> Reason {
    use io::ErrorKind::{HostUnreachable, NetworkUnreachable, PermissionDenied};
    match error.kind() {
        HostUnreachable | NetworkUnreachable => Reason::Unreachable,
        PermissionDenied => Reason::Permission,
        _ => Reason::Connect,
    }
}
