//! Accepts connections and serves them over HTTP/1.1, within limits that no client can stretch.
//!
//! `axum::serve` has none of them: no limit on a slow header, on idle connections, on their number, on the time that a drain takes.

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
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::Service;

use super::connection::{Activity, Connections, Phase, Registration, Socket, Watched};
use super::handshake::{Failed, Opening, opening, problem, refuse_plain_http};
use super::limits::Limits;
use super::peer::Peer;
use super::reply::{self, Client, HoldsTurn};
use super::turns::Turns;
use super::web_config::WebConfig;

/// A request line and header that are longer than this are no request of ours: 431 or 414.
const MAX_HEADER: usize = 32 * 1024;

/// Documents that are made, or made and not yet sent, at once; and how many may wait for that, in all and of one address.
const DOCUMENTS: (usize, usize, usize) = (4, 256, 64);

/// The same for expositions that are made as they are read, half a MiB each.
const STREAMS: (usize, usize, usize) = (16, 1024, 256);

/// For how long its client may keep a document waiting, if others wait for its turn.
const DOCUMENT_HELD: Duration = Duration::from_secs(5);

/// The same for an exposition that is made as it is read.
const STREAM_HELD: Duration = Duration::from_secs(30);

/// Between two looks for room when every connection has only just come.
const MOMENT: Duration = Duration::from_millis(10);

/// After an error of `accept` that only time or closed connections heal.
const PAUSE: Duration = Duration::from_millis(100);

/// Between two log lines about it.
const TELL_AGAIN: Duration = Duration::from_secs(60);

/// How often a changed `--web.config.file` is looked for.
const RELOAD: Duration = Duration::from_secs(2);

/// What the accept loops and the connections share.
struct Server {
    router: Router,
    web: Option<Arc<WebConfig>>,
    limits: Limits,
    stop: CancellationToken,
    connections: Arc<Connections>,
    tasks: TaskTracker,
    http: http1::Builder,
    documents: Arc<Turns>,
    streams: Arc<Turns>,
    /// One step of one TLS handshake at a time: a signature takes a millisecond and more, and a flood of them must not keep every thread
    /// from polls and answers.
    handshakes: Arc<Turns>,
    failed: Failed,
}

/// Serves `router` on every listener until `stop`; then answers what is in flight and returns, at the latest after `limits.drain`.
pub async fn serve(
    listeners: Vec<TcpListener>,
    router: Router,
    web: Option<Arc<WebConfig>>,
    limits: Limits,
    stop: CancellationToken,
) {
    let mut http = http1::Builder::new();
    // Times are kept by the sweep: hyper's own timer would count the idle time between two requests as a slow header.
    http.header_read_timeout(None).max_buf_size(MAX_HEADER).max_header_size(MAX_HEADER);
    let turns = |(at_once, waiting, waiting_per_peer)| Turns::new(at_once, waiting, waiting_per_peer);
    let server = Arc::new(Server {
        router,
        web,
        connections: Connections::new(limits.clone()),
        // Every connection may wait, as those of a Prometheus do that was restarted; but addresses take turns.
        handshakes: Turns::new(1, limits.connections, limits.connections),
        failed: Failed::default(),
        limits,
        stop,
        tasks: TaskTracker::new(),
        http,
        documents: turns(DOCUMENTS),
        streams: turns(STREAMS),
    });
    let loops = TaskTracker::new();
    for listener in listeners {
        loops.spawn(accept_all(Arc::clone(&server), listener));
    }
    loops.close();
    tokio::select! {
        () = loops.wait() => {}
        () = sweep(&server) => {}
        () = reload(&server) => {}
    }
    server.connections.close_idle();
    server.tasks.close();
    let swept = async {
        tokio::select! {
            () = server.tasks.wait() => {}
            () = sweep(&server) => {}
        }
    };
    if tokio::time::timeout(server.limits.drain, swept).await.is_err() {
        tracing::warn!(
            connections = server.connections.len(),
            "requests did not end in time, their connections are closed"
        );
        server.connections.close_all();
        server.tasks.wait().await;
    }
}

async fn accept_all(server: Arc<Server>, listener: TcpListener) {
    let mut told: Option<Instant> = None;
    loop {
        let accepted = tokio::select! {
            () = server.stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, address)) => {
                let peer = Peer::from(address.ip());
                while !server.connections.make_room(peer) {
                    tokio::select! {
                        () = server.stop.cancelled() => return,
                        () = tokio::time::sleep(MOMENT) => {}
                    }
                }
                open(&server, stream, peer);
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                // It comes ten times a second while it lasts: once in a while is enough to be told.
                if told.is_none_or(|at| at.elapsed() >= TELL_AGAIN) {
                    tracing::warn!(%error, "no connection can be accepted; those that have stood still longest are closed");
                    told = Some(Instant::now());
                }
                server.connections.close_one();
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// The client went away between its SYN and our accept: nothing is wrong here.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

fn open(server: &Arc<Server>, stream: TcpStream, peer: Peer) {
    let activity = Arc::new(Activity::new());
    server.connections.add(peer, &activity, |registration| {
        let connection = connection(Arc::clone(server), stream, Arc::clone(&activity), registration);
        server.tasks.spawn(connection).abort_handle()
    });
}

async fn connection(server: Arc<Server>, stream: TcpStream, activity: Arc<Activity>, registration: Registration) {
    let _ = stream.set_nodelay(true);
    let socket = Arc::new(stream);
    let stream = Watched::new(Socket::new(Arc::clone(&socket)), Arc::clone(&activity));
    let exchange = Exchange { server: &server, activity: &activity, registration: &registration, socket: &socket };
    match server.web.as_ref().and_then(|web| web.acceptor()) {
        None => exchange.run(stream).await,
        Some(acceptor) => match opening(&socket, &activity).await {
            Opening::Nothing => {}
            Opening::PlainHttp => {
                server.failed.tell(registration.peer, "the client speaks http: it must speak https");
                let _ = refuse_plain_http(stream).await;
            }
            Opening::Other => match handshake(&server, registration.peer, &acceptor, stream).await {
                Ok(stream) => {
                    activity.enter(Phase::Opening);
                    exchange.run(stream).await;
                }
                Err(error) => server.failed.tell(registration.peer, &problem(&error)),
            },
        },
    }
}

/// A TLS handshake, each step in its turn and that of its address. The wait for the client's next step holds no turn.
async fn handshake<S>(server: &Server, peer: Peer, acceptor: &TlsAcceptor, stream: S) -> io::Result<TlsStream<S>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut accepting = std::pin::pin!(acceptor.accept(stream));
    loop {
        let turn = server.handshakes.take(peer).await.map_err(|_| io::Error::other("too many others wait"))?;
        let step = poll_fn(|cx| Poll::Ready(accepting.as_mut().poll(cx))).await;
        drop(turn);
        if let Poll::Ready(ended) = step {
            return ended;
        }
        woken().await;
    }
}

/// Waits until the task is woken, by whatever it has polled before.
async fn woken() {
    let mut polled = false;
    poll_fn(|_| if std::mem::replace(&mut polled, true) { Poll::Ready(()) } else { Poll::Pending }).await;
}

/// Requests and answers of one connection.
#[derive(Clone, Copy)]
struct Exchange<'s> {
    server: &'s Server,
    activity: &'s Activity,
    registration: &'s Registration,
    socket: &'s TcpStream,
}

/// The client went away while its request was being answered.
#[derive(Debug, thiserror::Error)]
#[error("the client has gone")]
struct Gone;

impl Exchange<'_> {
    async fn run(self, stream: impl AsyncRead + AsyncWrite + Unpin) {
        let service = service_fn(|request: Request<Incoming>| async move {
            let response = self.answer(request.map(Body::new)).await;
            if let Ok(response) = &response {
                self.activity.answer(response.extensions().get().cloned());
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

    /// Answers a request. One that waits for a poll needs a place, of which there are no more than connections. Every one ends with its
    /// client.
    async fn answer(self, mut request: Request<Body>) -> Result<Response, Gone> {
        let Self { server, activity, registration, socket } = self;
        activity.enter(Phase::Waiting);
        let polls = request.uri().path().ends_with("/probe");
        let peer = registration.peer;
        let (documents, streams) = (Arc::clone(&server.documents), Arc::clone(&server.streams));
        request.extensions_mut().insert(Client { peer, documents, streams });
        let mut router = server.router.clone();
        let mut answering = std::pin::pin!(async {
            let answered = match &server.web {
                None => router.call(request).await,
                Some(web) => web.answer(request, peer, router).await,
            };
            answered.unwrap_or_else(|never| match never {})
        });
        if let Poll::Ready(response) = poll_fn(|cx| Poll::Ready(answering.as_mut().poll(cx))).await {
            return Ok(response);
        }
        let answered = async {
            // Only polls can take long; everything else has bounds of its own, and must not stand in line with those who wait for them.
            if !polls {
                return answering.await;
            }
            let place = tokio::select! {
                response = &mut answering => return response, // it may have what others want next, so it goes on
                place = registration.place() => place,
            };
            match place {
                None => too_many(),
                Some(_place) => answering.await,
            }
        };
        tokio::select! {
            response = answered => Ok(response),
            () = gone(socket) => Err(Gone),
        }
    }
}

fn too_many() -> Response {
    let why = "too many requests wait for polls, come again; see --web.max-connections\n";
    reply::come_again(StatusCode::SERVICE_UNAVAILABLE, why)
}

/// Waits until the client has closed its side. hyper looks for that only where it has nothing to parse: a client that sent a second
/// request along with the first would not be missed.
async fn gone(socket: &TcpStream) {
    // Of what PRIORITY stands for, a socket that is watched for reading and writing tells only that the other side is closed.
    while let Ok(ready) = socket.ready(Interest::PRIORITY).await {
        if ready.is_read_closed() {
            return;
        }
        tokio::time::sleep(MOMENT).await;
    }
}

/// Closes connections that are overdue, for ever.
async fn sweep(server: &Server) {
    let limits = &server.limits;
    let shortest = limits.header.min(limits.idle).min(limits.stall);
    let mut tick = tokio::time::interval((shortest / 4).clamp(Duration::from_millis(5), Duration::from_millis(500)));
    loop {
        tick.tick().await;
        server.connections.close_overdue();
        if server.documents.are_wanted() {
            server.connections.close_holders_of_turns(DOCUMENT_HELD, |held| matches!(held, HoldsTurn::Document));
        }
        if server.streams.are_wanted() {
            server.connections.close_holders_of_turns(STREAM_HELD, |held| matches!(held, HoldsTurn::Stream(_)));
        }
    }
}

/// Takes a changed `--web.config.file` into use, for ever.
async fn reload(server: &Server) {
    let Some(web) = &server.web else { return std::future::pending().await };
    loop {
        tokio::time::sleep(RELOAD).await;
        let web = Arc::clone(web);
        // Files may lie on a slow disk.
        let _ = tokio::task::spawn_blocking(move || web.reload_if_changed()).await;
    }
}
