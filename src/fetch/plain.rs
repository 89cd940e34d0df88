//! HTTP/1.1 over plain TCP without a proxy: one connection for the calls of one poll, driven by the poll's own task.
//!
//! A pooled client spawns a task for each connection and hands every request and response over between tasks. For a connection that lives
//! as long as one poll, that costs more CPU than HTTP itself. It decides neither which addresses may be contacted nor what is sent again.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures::future::{Either, select};
use http::response;
use http_body_util::{BodyExt, Empty};
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// How long a connection to the first address is waited for before the second is tried as well, as RFC 8305 recommends.
const HEAD_START: Duration = Duration::from_millis(300);

/// A connection to one server.
pub(super) struct PlainConnection {
    sender: http1::SendRequest<Empty<Bytes>>,
    connection: http1::Connection<TokioIo<TcpStream>, Empty<Bytes>>,
    is_closed: bool,
}

impl PlainConnection {
    /// Speaks HTTP over `stream`.
    pub(super) async fn over(stream: TcpStream) -> hyper::Result<Self> {
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        Ok(Self { sender, connection, is_closed: false })
    }

    /// Whether another request can be sent. The answer to the last one must have been read to its end.
    pub(super) async fn is_ready(&mut self) -> bool {
        poll_fn(|cx| {
            if !self.is_closed && Pin::new(&mut self.connection).poll(cx).is_ready() {
                self.is_closed = true;
            }
            // The sender learns that the connection is closed only when that is dropped.
            if self.is_closed { Poll::Ready(false) } else { self.sender.poll_ready(cx).map(|ready| ready.is_ok()) }
        })
        .await
    }

    /// Sends a request and waits for the header of the answer.
    pub(super) async fn send(mut self, request: http::Request<Empty<Bytes>>) -> hyper::Result<PlainResponse> {
        let Self { sender, connection, is_closed } = &mut self;
        let (head, body) = drive(connection, is_closed, sender.send_request(request)).await?.into_parts();
        Ok(PlainResponse { head, body, connection: self })
    }
}

/// Runs the connection while `future` waits for something that comes over it.
async fn drive<F: Future>(
    connection: &mut http1::Connection<TokioIo<TcpStream>, Empty<Bytes>>,
    is_closed: &mut bool,
    future: F,
) -> F::Output {
    let mut future = pin!(future);
    poll_fn(|cx| {
        if let Poll::Ready(output) = future.as_mut().poll(cx) {
            return Poll::Ready(output);
        }
        // Errors of the connection reach the future.
        if !*is_closed && Pin::new(&mut *connection).poll(cx).is_ready() {
            *is_closed = true;
        }
        future.as_mut().poll(cx)
    })
    .await
}

/// Connects to the first of one or two addresses that accepts. The error is that of the address that failed last.
pub(super) async fn connect(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    let stream = match *addresses {
        [first, second, ..] => connect_either(first, second).await?,
        [only] => TcpStream::connect(only).await?,
        [] => return Err(io::ErrorKind::AddrNotAvailable.into()),
    };
    stream.set_nodelay(true)?; // the end of a request that takes two packets must not wait for an acknowledgement
    Ok(stream)
}

async fn connect_either(first: SocketAddr, second: SocketAddr) -> io::Result<TcpStream> {
    let mut preferred = pin!(TcpStream::connect(first));
    if let Ok(connected) = tokio::time::timeout(HEAD_START, &mut preferred).await {
        return match connected {
            Ok(stream) => Ok(stream),
            Err(_) => TcpStream::connect(second).await,
        };
    }
    match select(preferred, pin!(TcpStream::connect(second))).await {
        Either::Left((Err(_), other)) | Either::Right((Err(_), other)) => other.await,
        Either::Left((connected, _)) | Either::Right((connected, _)) => connected,
    }
}

/// An answer whose body has not been read.
pub(super) struct PlainResponse {
    pub(super) head: response::Parts,
    body: Incoming,
    connection: PlainConnection,
}

impl PlainResponse {
    /// The length of the body, where it is known.
    pub(super) fn content_length(&self) -> Option<u64> {
        self.body.size_hint().exact()
    }

    /// The next piece of the body; none at its end.
    pub(super) async fn chunk(&mut self) -> hyper::Result<Option<Bytes>> {
        let PlainConnection { connection, is_closed, .. } = &mut self.connection;
        while let Some(frame) = drive(connection, is_closed, self.body.frame()).await {
            if let Ok(data) = frame?.into_data() {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }

    /// The connection, for the next request.
    pub(super) fn into_connection(self) -> PlainConnection {
        self.connection
    }
}
