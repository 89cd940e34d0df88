//! HTTP/1.1 over plain TCP without a proxy: one connection for the calls of one poll, driven by the poll's own task.
//!
//! A pooled client spawns a task for each connection and hands every request and response over between tasks. For a connection that lives
//! as long as one poll, that costs more CPU than HTTP itself. It decides neither which addresses may be contacted nor what is sent again.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::response;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::dial::YieldingStream;

/// A connection to one server.
pub(super) struct PlainConnection {
    sender: http1::SendRequest<Full<Bytes>>,
    driver: Driver,
}

/// What reads and writes; `None` once the connection is closed. A request that was not sent learns of that only when this is dropped.
type Driver = Option<http1::Connection<TokioIo<YieldingStream<TcpStream>>, Full<Bytes>>>;

impl PlainConnection {
    /// Speaks HTTP over `stream`.
    pub(super) async fn over(stream: TcpStream) -> hyper::Result<Self> {
        let (sender, connection) = http1::handshake(TokioIo::new(YieldingStream::new(stream, ()))).await?;
        Ok(Self { sender, driver: Some(connection) })
    }

    /// Whether another request can be sent. The answer to the last one must have been read to its end.
    pub(super) async fn is_ready(&mut self) -> bool {
        let Self { sender, driver } = self;
        poll_fn(|cx| {
            poll_driver(driver, cx);
            sender.poll_ready(cx).map(|ready| ready.is_ok())
        })
        .await
    }

    /// Sends a request and waits for the header of the answer.
    pub(super) async fn send(mut self, request: http::Request<Full<Bytes>>) -> hyper::Result<PlainResponse> {
        let Self { sender, driver } = &mut self;
        let (head, body) = drive(driver, sender.send_request(request)).await?.into_parts();
        Ok(PlainResponse { head, body, connection: self })
    }
}

/// Runs the connection while `future` waits for something that comes over it.
async fn drive<F: Future>(driver: &mut Driver, future: F) -> F::Output {
    let mut future = pin!(future);
    poll_fn(|cx| {
        if let Poll::Ready(output) = future.as_mut().poll(cx) {
            return Poll::Ready(output);
        }
        poll_driver(driver, cx);
        future.as_mut().poll(cx)
    })
    .await
}

/// Errors of the connection reach whoever waits for something that comes over it.
fn poll_driver(driver: &mut Driver, cx: &mut Context<'_>) {
    if driver.as_mut().is_some_and(|connection| Pin::new(connection).poll(cx).is_ready()) {
        *driver = None;
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
        while let Some(frame) = drive(&mut self.connection.driver, self.body.frame()).await {
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

#[cfg(test)]
mod tests {
    use std::io::{self, Read, Write};
    use std::net::{SocketAddr, TcpListener, TcpStream as StdStream};
    use std::sync::mpsc;
    use std::time::Duration;

    use tokio::time::{Instant, sleep, timeout};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    /// A server for one connection, on a thread of its own: a flood must compete with nothing but the client.
    fn server(serve: impl FnOnce(StdStream) -> io::Result<()> + Send + 'static) -> SocketAddr {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept()?;
            assert_ne!(stream.read(&mut [0; 4096])?, 0);
            serve(stream)
        });
        address
    }

    async fn connection(address: SocketAddr) -> PlainConnection {
        PlainConnection::over(TcpStream::connect(address).await.unwrap()).await.unwrap()
    }

    fn request() -> http::Request<Full<Bytes>> {
        http::Request::builder().uri("/").header("host", "server.test").body(Full::default()).unwrap()
    }

    #[tokio::test]
    async fn a_request_on_a_connection_that_has_just_been_closed_fails_at_once() {
        let (close, closing) = mpsc::channel::<()>();
        let (closed, has_closed) = tokio::sync::oneshot::channel::<()>();
        let address = server(move |mut stream| {
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")?;
            let _ = closing.recv();
            drop(stream);
            let _ = closed.send(());
            Ok(())
        });
        let mut response = connection(address).await.send(request()).await.unwrap();
        assert_eq!(response.chunk().await.unwrap(), None);
        let mut connection = response.into_connection();
        assert!(connection.is_ready().await);
        close.send(()).unwrap();
        has_closed.await.unwrap();
        sleep(Duration::from_millis(100)).await;
        let sent = timeout(PATIENCE, connection.send(request())).await.expect("it does not wait for its deadline");
        assert!(sent.err().is_some_and(|error| error.is_canceled()), "it was not sent");
    }

    #[tokio::test]
    async fn interim_responses_without_end_leave_the_thread_to_others_and_to_its_timers() {
        let address = server(|mut stream| {
            let responses = "HTTP/1.1 102 Processing\r\n\r\n".repeat(10_000);
            loop {
                stream.write_all(responses.as_bytes())?;
            }
        });
        let start = Instant::now();
        let answer = timeout(Duration::from_secs(1), connection(address).await.send(request())).await;
        assert!(answer.is_err(), "there is no final response");
        assert!(start.elapsed() < PATIENCE / 2, "the deadline passed {:?} ago", start.elapsed());
    }
}
