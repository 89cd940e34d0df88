//! One connection for one request: HTTP/1.1 or HTTP/2 over a stream. The task of the probe drives it; nothing is spawned, and nothing is sent
//! again.

use std::error::Error;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use ::http::{Request, response};
use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::TokioIo;

use super::stream::{Meter, MeteredStream};
use crate::dial::broken;
use crate::failure::{CallError, Reason};
use crate::kind::probe::{BoxedStream, Http2End};

/// The largest header of an answer, all its lines together. HTTP/1.1 has 100 lines at most, which is the limit of the library.
const MAX_HEADER: usize = 64 * 1024;

/// The largest read buffer.
pub(super) const MAX_BUFFER: usize = 128 * 1024;

/// What a server may send of a body before we have read it, with HTTP/2.
const WINDOW: u32 = 128 * 1024;

type Body = Full<Bytes>;

/// A connection that is ready for a request.
pub(super) struct RequestConnection {
    sender: Sender,
    driver: ConnectionDriver,
    meter: Arc<Meter>,
}

enum Sender {
    Http1(http1::SendRequest<Body>),
    Http2(http2::SendRequest<Body>),
}

/// What reads and writes.
enum ConnectionDriver {
    Http1(Box<http1::Connection<TokioIo<MeteredStream>, Body>>),
    Http2(Box<Http2Driver>),
    Ended,
}

struct Http2Driver {
    connection: Option<http2::Connection<TokioIo<MeteredStream>, Body, OwnTasks>>,
    tasks: OwnTasks,
    running: FuturesUnordered<BoxFuture<'static, ()>>,
}

/// The parts of an HTTP/2 connection that want to be tasks: they run in the task of the probe.
#[derive(Clone, Default)]
struct OwnTasks(Arc<Mutex<Vec<BoxFuture<'static, ()>>>>);

impl OwnTasks {
    fn take(&self) -> Vec<BoxFuture<'static, ()>> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for OwnTasks {
    fn execute(&self, task: F) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Box::pin(task));
    }
}

impl ConnectionDriver {
    /// Errors of the connection reach whoever waits for something that comes over it.
    fn poll(&mut self, cx: &mut Context<'_>) {
        match self {
            Self::Http1(connection) => {
                if Pin::new(connection).poll(cx).is_ready() {
                    *self = Self::Ended;
                }
            }
            Self::Http2(driver) => driver.poll(cx),
            Self::Ended => {}
        }
    }

    /// Runs the connection while `future` waits for something that comes over it.
    async fn drive<F: Future>(&mut self, future: F) -> F::Output {
        let mut future = pin!(future);
        poll_fn(|cx| {
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                return Poll::Ready(output);
            }
            self.poll(cx);
            future.as_mut().poll(cx)
        })
        .await
    }
}

impl Http2Driver {
    fn poll(&mut self, cx: &mut Context<'_>) {
        loop {
            if self.connection.as_mut().is_some_and(|connection| Pin::new(connection).poll(cx).is_ready()) {
                self.connection = None;
            }
            self.running.extend(self.tasks.take());
            while let Poll::Ready(Some(())) = self.running.poll_next_unpin(cx) {}
            let started = self.tasks.take();
            if started.is_empty() {
                return;
            }
            self.running.extend(started);
        }
    }
}

impl RequestConnection {
    /// Speaks HTTP/1.1 over a stream.
    pub(super) async fn http1(stream: BoxedStream) -> Result<Self, CallError> {
        let (stream, meter) = metered(stream);
        let mut builder = http1::Builder::new();
        builder.max_header_size(MAX_HEADER).max_buf_size(MAX_BUFFER);
        let (sender, connection) = builder.handshake(stream).await.map_err(|error| unanswered(&error))?;
        Ok(Self { sender: Sender::Http1(sender), driver: ConnectionDriver::Http1(Box::new(connection)), meter })
    }

    /// Speaks HTTP/2 over a stream.
    pub(super) async fn http2(stream: BoxedStream) -> Result<Self, CallError> {
        let (stream, meter) = metered(stream);
        let tasks = OwnTasks::default();
        let mut builder = http2::Builder::new(tasks.clone());
        builder
            .max_header_list_size(u32::try_from(MAX_HEADER).unwrap_or(u32::MAX))
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .max_concurrent_reset_streams(1);
        let (sender, connection) = builder.handshake(stream).await.map_err(|error| unanswered(&error))?;
        let driver = Http2Driver { connection: Some(connection), tasks, running: FuturesUnordered::new() };
        Ok(Self { sender: Sender::Http2(sender), driver: ConnectionDriver::Http2(Box::new(driver)), meter })
    }

    /// Whether it speaks HTTP/2.
    pub(super) const fn is_http2(&self) -> bool {
        matches!(self.sender, Sender::Http2(_))
    }

    /// Sends the request, and waits for the header of the answer.
    ///
    /// Reasons: `connect`, `tls`, `protocol`, `limit`.
    pub(super) async fn send(mut self, request: Request<Body>) -> Result<UnreadAnswer, CallError> {
        let is_http2 = self.is_http2();
        let Self { sender, driver, meter } = &mut self;
        let sent = match sender {
            Sender::Http1(sender) => driver.drive(sender.send_request(request)).await,
            Sender::Http2(sender) => driver.drive(sender.send_request(request)).await,
        };
        let failure = |error| match meter.flood() {
            Some(flood) => CallError::new(Reason::Limit, flood.to_string()),
            None => meter.rejection().unwrap_or_else(|| unanswered(&error)),
        };
        let (head, body) = sent.map_err(failure)?.into_parts();
        self.meter.has_header();
        // With HTTP/2 the first bytes are settings of the connection.
        let first_byte = if is_http2 { None } else { self.meter.first_byte() };
        Ok(UnreadAnswer { head, body, first_byte, connection: self })
    }
}

fn metered(stream: BoxedStream) -> (TokioIo<MeteredStream>, Arc<Meter>) {
    let meter = Arc::<Meter>::default();
    (TokioIo::new(MeteredStream::new(stream, Arc::clone(&meter))), meter)
}

/// An answer whose body has not been read.
pub(super) struct UnreadAnswer {
    pub(super) head: response::Parts,
    /// When its first byte came, if that is known.
    pub(super) first_byte: Option<tokio::time::Instant>,
    body: Incoming,
    connection: RequestConnection,
}

impl UnreadAnswer {
    /// Whether it is known already that nothing of a body follows.
    pub(super) fn is_complete(&self) -> bool {
        self.body.is_end_stream()
    }

    /// The next piece of the body; none at its end.
    ///
    /// Reasons: `body`, `tls`.
    pub(super) async fn chunk(&mut self) -> Result<Option<Bytes>, CallError> {
        let RequestConnection { driver, meter, .. } = &mut self.connection;
        while let Some(frame) = driver.drive(self.body.frame()).await {
            let frame = frame.map_err(|error| meter.rejection().unwrap_or_else(|| broken_off(&error)))?;
            if let Ok(data) = frame.into_data() {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }
}

fn source<'e, T: Error + 'static>(error: &'e (dyn Error + 'static)) -> Option<&'e T> {
    let mut link = Some(error);
    while let Some(error) = link {
        if let Some(found) = error.downcast_ref::<T>() {
            return Some(found);
        }
        link = error.source();
    }
    None
}

/// Why there was no answer.
fn unanswered(error: &hyper::Error) -> CallError {
    if let Some(io) = source::<io::Error>(error) {
        if io.kind() == io::ErrorKind::UnexpectedEof {
            return closed();
        }
        let error = broken(io);
        return CallError::new(error.reason, format!("the connection broke before the answer: {}", error.message));
    }
    if error.is_parse_too_large() {
        let most = MAX_HEADER >> 10;
        return CallError::new(
            Reason::Limit,
            format!("the header of the answer has more than {most} KiB or 100 lines: make the server send a shorter one"),
        );
    }
    if error.is_parse() {
        let cause = error.to_string();
        return CallError::new(Reason::Protocol, format!("the server did not answer in HTTP: {cause}"));
    }
    if error.is_incomplete_message() || error.is_canceled() || error.is_closed() {
        return closed();
    }
    match Http2End::of(error) {
        Some(end @ (Http2End::TooMuch | Http2End::BeyondWindow)) => CallError::new(Reason::Limit, end.as_str()),
        Some(end) => CallError::new(Reason::Protocol, end.as_str()),
        None => CallError::new(Reason::Protocol, "the server broke the rules of HTTP/2, or refused the request by them"),
    }
}

fn closed() -> CallError {
    CallError::new(Reason::Connect, "the server closed the connection before it had answered")
}

/// Why a body is not complete.
fn broken_off(error: &hyper::Error) -> CallError {
    if error.is_parse() {
        return CallError::new(Reason::Body, "the body is incomplete: it is not coded as HTTP says");
    }
    let why = Http2End::of(error).map_or("the connection ended before it did", Http2End::as_str);
    CallError::new(Reason::Body, format!("the body is incomplete: {why}"))
}
