//! Accepts connections and serves them over HTTP/1.1, within limits that no client can exceed.
//!
//! `axum::serve` has no limit on a slow header, on idle connections, on their number, or on the time that a drain takes.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use axum::response::Response;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, Interest};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::Service;

use super::connection::{ConnectionPhase, ConnectionState, SharedSocket, TrackedStream};
use super::connection_limiter::{ConnectionGuard, ConnectionLimiter};
use super::fair_semaphore::{ClientNetwork, FairLimits, FairSemaphore};
use super::handshake::{
    FirstByte, HandshakeFailureLog, HandshakeLimiter, handshake_problem, peek_first_byte, refuse_plain_http,
};
use super::response::{self, RequestClient, ResponsePermit};
use super::web_config::WebConfig;

/// A longer request line and header get 414 or 431.
const MAX_HEADER_BYTES: usize = 32 * 1024;

/// Documents that are being made, or are made and not yet sent.
const DOCUMENTS: FairLimits = FairLimits { permits: 4, queued: 256, queued_per_client: 64 };

/// Expositions that are made while they are read, half a MiB each.
const STREAMS: FairLimits = FairLimits { permits: 16, queued: 1024, queued_per_client: 256 };

/// For how long, in total, a client may leave a document unread while other requests wait for its permit.
const MAX_DOCUMENT_BLOCKED: Duration = Duration::from_secs(5);

/// The same for an exposition that is made while it is read.
const MAX_STREAM_BLOCKED: Duration = Duration::from_secs(30);

/// Between two attempts where only time can help, within one request or accept.
const SHORT_RETRY: Duration = Duration::from_millis(10);

/// After an error of `accept` that only time or closed connections heal.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Between two log lines about it.
const ACCEPT_LOG_INTERVAL: Duration = Duration::from_secs(60);

/// How often `--web.config.file` is checked for changes.
const RELOAD_INTERVAL: Duration = Duration::from_secs(2);

/// The limits for clients.
#[derive(Clone, Debug)]
pub struct ServerLimits {
    /// Open connections; a further one closes another.
    pub max_connections: usize,
    /// Additional connections while all others wait for polls: for health checks, and for other requests that are answered at once.
    pub reserved_connections: usize,
    /// From the first byte of a request to the end of its header; also for the TLS handshake, and for the first byte after it.
    pub header_timeout: Duration,
    /// Between two requests on a connection.
    pub idle_timeout: Duration,
    /// Without any progress of a response.
    pub stall_timeout: Duration,
    /// For a whole response, however steadily it is read.
    pub response_timeout: Duration,
    /// That a request waits for a poll slot; after the same time the holder of a slot may lose it to others.
    pub poll_slot_timeout: Duration,
    /// For the requests in flight when the server stops.
    pub drain_timeout: Duration,
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self {
            max_connections: 4096,
            reserved_connections: 32,
            header_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_mins(5),
            stall_timeout: Duration::from_secs(30),
            response_timeout: Duration::from_mins(2),
            poll_slot_timeout: Duration::from_secs(5),
            drain_timeout: Duration::from_secs(15),
        }
    }
}

impl ServerLimits {
    /// Requests that may wait for polls.
    pub(super) fn poll_slots(&self) -> usize {
        self.max_connections.max(1)
    }

    /// Of one client: enough for a Prometheus that scrapes thousands of targets at once, and a quarter is left for the others.
    pub(super) fn poll_slots_per_client(&self) -> usize {
        (self.max_connections - self.max_connections / 4).max(1)
    }
}

/// State that the accept loops and the connections share.
struct HttpServer {
    router: Router,
    web: Option<Arc<WebConfig>>,
    limits: ServerLimits,
    stop: CancellationToken,
    connections: Arc<ConnectionLimiter>,
    tasks: TaskTracker,
    http: http1::Builder,
    documents: Arc<FairSemaphore>,
    streams: Arc<FairSemaphore>,
    handshakes: HandshakeLimiter,
    handshake_failures: HandshakeFailureLog,
}

/// Serves `router` on every listener until `stop`; then answers what is in flight and returns, at the latest after `limits.drain_timeout`.
pub async fn serve(
    listeners: Vec<TcpListener>,
    router: Router,
    web: Option<Arc<WebConfig>>,
    limits: ServerLimits,
    stop: CancellationToken,
) {
    let mut http = http1::Builder::new();
    // Timeouts are enforced by `close_overdue`: hyper's own timer would count the idle time between two requests as a slow header.
    http.header_read_timeout(None).max_buf_size(MAX_HEADER_BYTES).max_header_size(MAX_HEADER_BYTES);
    let server = Arc::new(HttpServer {
        router,
        web,
        connections: ConnectionLimiter::new(limits.clone()),
        handshakes: HandshakeLimiter::new(limits.max_connections),
        handshake_failures: HandshakeFailureLog::default(),
        limits,
        stop,
        tasks: TaskTracker::new(),
        http,
        documents: FairSemaphore::new(DOCUMENTS),
        streams: FairSemaphore::new(STREAMS),
    });
    let accepting = TaskTracker::new();
    for listener in listeners {
        accepting.spawn(accept_loop(Arc::clone(&server), listener));
    }
    accepting.close();
    tokio::select! {
        () = accepting.wait() => {}
        () = close_overdue(&server) => {}
        () = reload_web_config(&server) => {}
    }
    server.connections.close_idle();
    server.tasks.close();
    let drained = async {
        tokio::select! {
            () = server.tasks.wait() => {}
            () = close_overdue(&server) => {}
        }
    };
    if tokio::time::timeout(server.limits.drain_timeout, drained).await.is_err() {
        tracing::warn!(
            connections = server.connections.len(),
            "requests did not finish in time, their connections are closed"
        );
        server.connections.close_all();
        server.tasks.wait().await;
    }
}

async fn accept_loop(server: Arc<HttpServer>, listener: TcpListener) {
    let mut last_logged: Option<Instant> = None;
    loop {
        let accepted = tokio::select! {
            () = server.stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, address)) => {
                let client = ClientNetwork::from(address.ip());
                while !server.connections.make_room(client) {
                    tokio::select! {
                        () = server.stop.cancelled() => return,
                        () = tokio::time::sleep(SHORT_RETRY) => {}
                    }
                }
                spawn_connection(&server, stream, client);
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                // Logged rarely, since the error occurs ten times a second while it lasts.
                if last_logged.is_none_or(|at| at.elapsed() >= ACCEPT_LOG_INTERVAL) {
                    tracing::warn!(%error, "no connection can be accepted; the longest inactive connections are closed");
                    last_logged = Some(Instant::now());
                }
                server.connections.close_one();
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

/// Whether an error of `accept` means only that the client went away between its SYN and our accept.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

fn spawn_connection(server: &Arc<HttpServer>, stream: TcpStream, client: ClientNetwork) {
    let state = Arc::new(ConnectionState::new());
    server.connections.add(client, &state, |guard| {
        let connection = serve_connection(Arc::clone(server), stream, Arc::clone(&state), guard);
        server.tasks.spawn(connection).abort_handle()
    });
}

async fn serve_connection(
    server: Arc<HttpServer>,
    stream: TcpStream,
    state: Arc<ConnectionState>,
    guard: ConnectionGuard,
) {
    let _ = stream.set_nodelay(true);
    let socket = Arc::new(stream);
    let stream = TrackedStream::new(SharedSocket::new(Arc::clone(&socket)), Arc::clone(&state));
    let connection = HttpConnection { server: &server, state: &state, guard: &guard, socket: &socket };
    let failures = &server.handshake_failures;
    match server.web.as_ref().and_then(|web| web.acceptor()) {
        None => connection.serve(stream).await,
        Some(acceptor) => match peek_first_byte(&socket, &state).await {
            FirstByte::Missing => {}
            FirstByte::PlainHttp => {
                failures.log(guard.client, "the client speaks http: it must speak https");
                let _ = refuse_plain_http(stream).await;
            }
            FirstByte::Other => match server.handshakes.accept(guard.client, &acceptor, stream).await {
                Ok(stream) => {
                    state.enter(ConnectionPhase::New);
                    connection.serve(stream).await;
                }
                Err(error) => failures.log(guard.client, &handshake_problem(&error)),
            },
        },
    }
}

/// State for the requests of one connection.
#[derive(Clone, Copy)]
struct HttpConnection<'s> {
    server: &'s HttpServer,
    state: &'s ConnectionState,
    guard: &'s ConnectionGuard,
    socket: &'s TcpStream,
}

/// The client went away while its request was being handled.
#[derive(Debug, thiserror::Error)]
#[error("the client has gone")]
struct ClientGone;

impl HttpConnection<'_> {
    async fn serve(self, stream: impl AsyncRead + AsyncWrite + Unpin) {
        let service = service_fn(|request: Request<Incoming>| async move {
            let response = self.handle(request.map(Body::new)).await;
            if let Ok(response) = &response {
                self.state.begin_response(response.extensions().get().cloned());
            }
            response
        });
        let mut connection = std::pin::pin!(self.server.http.serve_connection(TokioIo::new(stream), service));
        let ended = tokio::select! {
            ended = &mut connection => ended,
            () = self.server.stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "connection ended");
        }
    }

    /// Handles a request until its client goes away. A `/probe` that is not answered at once needs a poll slot.
    async fn handle(self, mut request: Request<Body>) -> Result<Response, ClientGone> {
        let Self { server, state, guard, socket } = self;
        state.enter(ConnectionPhase::Handling);
        let may_poll = request.uri().path().ends_with("/probe");
        let client = guard.client;
        let (documents, streams) = (Arc::clone(&server.documents), Arc::clone(&server.streams));
        request.extensions_mut().insert(RequestClient { network: client, documents, streams });
        let mut router = server.router.clone();
        let mut handling = std::pin::pin!(async {
            let handled = match &server.web {
                None => router.call(request).await,
                Some(web) => web.handle(request, client, router).await,
            };
            handled.unwrap_or_else(|never| match never {})
        });
        if let Poll::Ready(response) = poll_fn(|cx| Poll::Ready(handling.as_mut().poll(cx))).await {
            return Ok(response);
        }
        let handled = async {
            // Everything but polls has bounds of its own, and must not queue behind the requests that wait for polls.
            if !may_poll {
                return handling.await;
            }
            let slot = tokio::select! {
                // The handler must go on meanwhile: it may hold a permit that others wait for.
                response = &mut handling => return response,
                slot = guard.acquire_poll_slot() => slot,
            };
            match slot {
                None => response::retry_later(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "too many requests wait for polls, try again later; see --web.max-connections\n",
                ),
                Some(_slot) => handling.await,
            }
        };
        tokio::select! {
            response = handled => Ok(response),
            () = client_gone(socket) => Err(ClientGone),
        }
    }
}

/// Waits until the client has closed its side. hyper notices that only where it has nothing to parse, and so not after a client that sent
/// a second request along with the first.
async fn client_gone(socket: &TcpStream) {
    // Nobody sends urgent data, so this interest reports only that the other side has closed.
    while let Ok(ready) = socket.ready(Interest::PRIORITY).await {
        if ready.is_read_closed() {
            return;
        }
        tokio::time::sleep(SHORT_RETRY).await;
    }
}

/// Closes connections that exceed a timeout or keep a permit from others, for ever.
async fn close_overdue(server: &HttpServer) {
    let limits = &server.limits;
    let shortest = limits.header_timeout.min(limits.idle_timeout).min(limits.stall_timeout);
    let mut tick = tokio::time::interval((shortest / 4).clamp(Duration::from_millis(5), Duration::from_millis(500)));
    loop {
        tick.tick().await;
        let connections = &server.connections;
        connections.close_overdue();
        if server.documents.has_waiters() {
            connections.close_slow_readers(MAX_DOCUMENT_BLOCKED, |held| matches!(held, ResponsePermit::Document));
        }
        if server.streams.has_waiters() {
            connections.close_slow_readers(MAX_STREAM_BLOCKED, |held| matches!(held, ResponsePermit::Stream(_)));
        }
    }
}

/// Loads a changed `--web.config.file`, for ever.
async fn reload_web_config(server: &HttpServer) {
    let Some(web) = &server.web else { return std::future::pending().await };
    loop {
        tokio::time::sleep(RELOAD_INTERVAL).await;
        let web = Arc::clone(web);
        // Files may lie on a slow disk.
        let _ = tokio::task::spawn_blocking(move || web.reload_if_changed()).await;
    }
}
