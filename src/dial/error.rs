//! Errors of sockets as failures of a probe.

use std::io;

use crate::error_chain::chain;
use crate::failure::{CallError, Reason};
use crate::tls::{self, Peer};

/// The failure of a connection or of a socket, which breaks after it was opened. A server that rejects our certificate in TLS 1.3 does so
/// after the handshake is over for us: then the reason is `tls`.
pub fn broken(error: &io::Error) -> CallError {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    if let Some(tls) = chain(error).find_map(|link| link.downcast_ref::<rustls::Error>()) {
        return CallError::new(Reason::Tls, tls::describe(tls, Peer::TARGET));
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

/// The reason for an error of the system.
pub(super) fn reason_of(error: &io::Error) -> Reason {
    use io::ErrorKind::{HostUnreachable, NetworkUnreachable, PermissionDenied};
    match error.kind() {
        HostUnreachable | NetworkUnreachable => Reason::Unreachable,
        PermissionDenied => Reason::Permission,
        _ => Reason::Connect,
    }
}
