//! One unary call over HTTP/2, within limits: a server can make it neither long nor large.

use std::io;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use ::http::header::{CONTENT_TYPE, HOST, TE, USER_AGENT};
use ::http::{HeaderMap, HeaderValue, Request, Response, StatusCode as HttpStatus};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::TokioIo;
use tokio::task::JoinSet;
use tokio::time::timeout_at;

use super::health::{self, ServingStatus};
use super::status::StatusCode;
use super::{FailedCheck, GrpcProber};
use crate::dial::{StreamObserver, YieldingStream, broken};
use crate::kind::probe::{BoxedStream, Http2End, USER_AGENT as OWN_USER_AGENT, begins_http2};
use crate::kind::{CallError, Probe, Reason};

/// The method that is called.
const METHOD: &str = "/grpc.health.v1.Health/Check";

/// The largest answer: a real one has seven bytes.
const MAX_ANSWER: u32 = 16 * 1024;

/// The most headers of an answer.
const MAX_HEADERS: u32 = 16 * 1024;

/// What a server may send on the connection, with everything that is no answer.
const MAX_RECEIVED: usize = 256 * 1024;

/// What the buffers of a connection may take.
const MEMORY: usize = 64 * 1024;

/// Asks for the health.
pub(super) async fn check(
    prober: &GrpcProber,
    probe: &mut Probe<'_>,
    stream: BoxedStream,
) -> Result<ServingStatus, FailedCheck> {
    let deadline = probe.deadline;
    let request = request(prober, probe)?;
    timeout_at(deadline, probe.memory.cover(MEMORY)).await.map_err(|_| {
        let message = "no memory for the answer in time: other targets need it (--max-inflight-bytes)";
        FailedCheck::unavailable(CallError::new(Reason::Timeout, message))
    })?;
    let seen = Arc::<Mutex<SeenTraffic>>::default();
    let observed = ObservedStream::new(stream, Arc::clone(&seen));
    let exchanged = timeout_at(deadline, exchange(request, observed)).await;
    let SeenTraffic { received, is_http2, failure } =
        std::mem::take(&mut *seen.lock().unwrap_or_else(PoisonError::into_inner));
    probe.memory.received(received);
    probe.record.received(received);
    let answer = match exchanged {
        Ok(Ok(answer)) => answer,
        Ok(Err(Broken::Answer(failed))) => return Err(failed),
        Ok(Err(Broken::Http(error))) => {
            let end = Http2End::of(&error).filter(|_| is_http2);
            return Err(match (end, failure) {
                (Some(end), _) => ended(end),
                // What happened to the connection says more than what this meant for the call.
                (None, Some(failure)) => FailedCheck::unavailable(failure),
                (None, None) => no_http2(is_http2),
            });
        }
        Err(_) => {
            let error = CallError::new(Reason::Timeout, "the server did not answer the health check in time");
            return Err(FailedCheck::unavailable(error));
        }
    };
    probe.record.event(format!("grpc-status {} ({})", answer.code.number(), answer.code.name()));
    if answer.code != StatusCode::OK {
        return Err(answer.code.failure(&prober.service));
    }
    health::serving_status(&answer.body).map_err(|found| {
        let message = format!("the server answers the health check with {found}");
        FailedCheck::new(StatusCode::INTERNAL, Reason::Protocol, message)
    })
}

fn request(prober: &GrpcProber, probe: &Probe<'_>) -> Result<Request<Full<Bytes>>, FailedCheck> {
    let mut headers: HeaderMap = probe.headers.clone();
    let authority = headers.remove(HOST);
    let authority = authority.as_ref().and_then(|host| host.to_str().ok()).unwrap_or(&prober.authority);
    let scheme = if prober.is_tls { "https" } else { "http" };
    for (name, value) in &prober.metadata {
        headers.append(name, value.clone());
    }
    headers.entry(USER_AGENT).or_insert(HeaderValue::from_static(OWN_USER_AGENT));
    headers.insert(TE, HeaderValue::from_static("trailers"));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    if let Ok(timeout) = HeaderValue::from_str(&format!("{}m", probe.left().as_millis().clamp(1, 99_999_999))) {
        headers.insert("grpc-timeout", timeout);
    }
    let body = Full::new(Bytes::from(health::request(&prober.service)));
    let mut request = Request::post(format!("{scheme}://{authority}{METHOD}")).body(body).map_err(|_| {
        let message = "the header Host is no host that a request can be sent to, correct it";
        FailedCheck::new(StatusCode::INTERNAL, Reason::Config, message)
    })?;
    *request.headers_mut() = headers;
    Ok(request)
}

/// What the server answered.
struct GrpcAnswer {
    code: StatusCode,
    body: Vec<u8>,
}

/// A connection whose traffic is seen.
type ObservedStream = YieldingStream<BoxedStream, Arc<Mutex<SeenTraffic>>>;

/// Why there is no answer.
enum Broken {
    Http(hyper::Error),
    Answer(FailedCheck),
}

impl From<hyper::Error> for Broken {
    fn from(error: hyper::Error) -> Self {
        Self::Http(error)
    }
}

async fn exchange(request: Request<Full<Bytes>>, stream: ObservedStream) -> Result<GrpcAnswer, Broken> {
    let tasks = Arc::<Mutex<JoinSet<()>>>::default();
    let mut builder = http2::Builder::new(CallTasks(Arc::downgrade(&tasks)));
    builder
        .initial_stream_window_size(MAX_ANSWER)
        .initial_connection_window_size(u32::from(u16::MAX))
        .max_header_list_size(MAX_HEADERS)
        .max_send_buf_size(MAX_ANSWER as usize);
    let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await?;
    let mut connection = std::pin::pin!(connection);
    let mut answering = std::pin::pin!(async {
        let response = sender.send_request(request).await?;
        answer(response).await
    });
    tokio::select! {
        biased;
        answered = &mut answering => answered,
        ended = &mut connection => match ended {
            Ok(()) => answering.await,
            Err(error) => Err(error.into()),
        },
    }
}

/// Reads an answer: headers, a message and trailers; or headers alone.
async fn answer(response: Response<Incoming>) -> Result<GrpcAnswer, Broken> {
    let of_headers = StatusCode::of(response.headers());
    let kind = response.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let is_grpc = kind.strip_prefix("application/grpc").is_some_and(|rest| rest.is_empty() || rest.starts_with(['+', ';']));
    let status = response.status();
    if of_headers.is_none() && (status != HttpStatus::OK || !is_grpc) {
        return Err(Broken::Answer(no_grpc(status)));
    }
    let mut body = response.into_body();
    let mut bytes = Vec::new();
    let mut code = of_headers;
    while let Some(frame) = body.frame().await {
        match frame?.into_data() {
            Ok(data) if bytes.len() + data.len() > MAX_ANSWER as usize => {
                let message = format!("the answer to the health check has over {} KiB", MAX_ANSWER / 1024);
                return Err(Broken::Answer(FailedCheck::new(StatusCode::RESOURCE_EXHAUSTED, Reason::Limit, message)));
            }
            Ok(data) => bytes.extend_from_slice(&data),
            Err(frame) => {
                if let Ok(trailers) = frame.into_trailers() {
                    code = StatusCode::of(&trailers);
                }
            }
        }
    }
    let code = code.ok_or_else(|| {
        let message = "the server ended the answer without a grpc-status: a proxy may have removed the trailers";
        Broken::Answer(FailedCheck::new(StatusCode::INTERNAL, Reason::Protocol, message))
    })?;
    Ok(GrpcAnswer { code, body: bytes })
}

/// The server speaks HTTP/2 and not gRPC.
fn no_grpc(status: HttpStatus) -> FailedCheck {
    let code = StatusCode::of_http(status.as_u16());
    match code {
        StatusCode::UNAUTHENTICATED | StatusCode::PERMISSION_DENIED => {
            let message = format!("the server answered with HTTP status {status}: correct authorization, basicAuth, oauth2 or headers");
            FailedCheck::new(code, Reason::Auth, message)
        }
        _ => {
            let message = format!("the answer is none of gRPC (HTTP status {status}): correct host and port in url");
            FailedCheck::new(code, Reason::Protocol, message)
        }
    }
}

/// The connection, or the stream of the call, ended by rules of HTTP/2.
fn ended(end: Http2End) -> FailedCheck {
    let (code, reason) = match end {
        Http2End::Reset | Http2End::Broken => (StatusCode::INTERNAL, Reason::Protocol),
        Http2End::GoneAway => (StatusCode::UNAVAILABLE, Reason::Protocol),
        Http2End::TooMuch | Http2End::BeyondWindow => (StatusCode::RESOURCE_EXHAUSTED, Reason::Limit),
    };
    FailedCheck::new(code, reason, end.as_str())
}

/// There is no answer, and the server gave no cause.
fn no_http2(is_http2: bool) -> FailedCheck {
    let message = if is_http2 {
        "the server ended the connection before it had answered the health check"
    } else {
        "the server does not speak HTTP/2, or ended the connection: correct host and port in url, and write grpcs:// if it wants TLS"
    };
    FailedCheck::new(StatusCode::UNAVAILABLE, Reason::Protocol, message)
}

/// What the first bytes from a server show, if they are none of HTTP/2.
fn other_protocol(first: &[u8]) -> Option<&'static str> {
    match first {
        [b'H', b'T', b'T', b'P', b'/', b'1', ..] => Some("the server speaks HTTP/1 and not HTTP/2: correct host and port in url"),
        // An alert of TLS.
        [0x15, 3, ..] => Some("the server expects TLS: write grpcs:// in url"),
        _ => None,
    }
}

/// Runs what a connection needs beside itself. It ends with the call: whoever holds the set drops it.
#[derive(Clone)]
struct CallTasks(Weak<Mutex<JoinSet<()>>>);

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for CallTasks {
    fn execute(&self, task: F) {
        if let Some(tasks) = self.0.upgrade() {
            tasks.lock().unwrap_or_else(PoisonError::into_inner).spawn(task);
        }
    }
}

/// What happened on a connection.
#[derive(Debug, Default)]
struct SeenTraffic {
    received: usize,
    /// Whether the server began with a frame of HTTP/2.
    is_http2: bool,
    /// Its first error: HTTP/2 does not pass on its cause.
    failure: Option<CallError>,
}

/// Counts what a connection receives, and notes its first error.
impl StreamObserver for Arc<Mutex<SeenTraffic>> {
    fn read(&self, bytes: &[u8]) -> io::Result<()> {
        let mut seen = self.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.received == 0 {
            let error = other_protocol(bytes).map(|message| CallError::new(Reason::Protocol, message));
            seen.failure = seen.failure.take().or(error);
            seen.is_http2 = begins_http2(bytes);
        }
        seen.received += bytes.len();
        if seen.received > MAX_RECEIVED {
            let message = format!("the server sends over {} KiB instead of a short answer", MAX_RECEIVED / 1024);
            seen.failure = Some(CallError::new(Reason::Limit, message));
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        Ok(())
    }

    fn failed(&self, error: &io::Error) {
        let mut seen = self.lock().unwrap_or_else(PoisonError::into_inner);
        seen.failure.get_or_insert_with(|| broken(error));
    }
}
