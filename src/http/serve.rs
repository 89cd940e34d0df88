//! Accepts connections and serves them over HTTP/1.1, within limits that no client can stretch.
//!
//! `axum::serve` has none of them: no limit on a slow header, on idle connections, on their number, on the time that a drain takes.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::Service;

use super::connection::{Activity, Connections, Phase, Registration, Watched};
use super::limits::Limits;
use super::web_config::WebConfig;

/// A request line and header that are longer than this are no request of ours: 431 or 414.
const MAX_HEADER: usize = 32 * 1024;

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
    let server =
        Arc::new(Server { router, web, limits, stop, connections: Arc::default(), tasks: TaskTracker::new(), http });
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
            Ok((stream, _)) => {
                if !make_room(&server).await {
                    return;
                }
                open(&server, stream);
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                // It comes ten times a second while it lasts: once in a while is enough to be told.
                if told.is_none_or(|at| at.elapsed() >= TELL_AGAIN) {
                    tracing::warn!(%error, "no connection can be accepted; the longest idle ones are closed");
                    told = Some(Instant::now());
                }
                server.connections.close_longest_idle();
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

/// Keeps the limit on connections. While all are being answered the new one waits. False if the server stops meanwhile.
async fn make_room(server: &Server) -> bool {
    while server.connections.len() >= server.limits.connections.max(1) {
        let ended = server.connections.ended.notified();
        if server.connections.close_longest_idle() {
            continue;
        }
        tokio::select! {
            () = server.stop.cancelled() => return false,
            () = ended => {}
            () = tokio::time::sleep(PAUSE) => {} // one may have become idle without ending
        }
    }
    true
}

fn open(server: &Arc<Server>, stream: TcpStream) {
    let activity = Arc::new(Activity::new());
    server.connections.add(&activity, |registration| {
        let connection = connection(Arc::clone(server), stream, Arc::clone(&activity), registration);
        server.tasks.spawn(connection).abort_handle()
    });
}

async fn connection(server: Arc<Server>, stream: TcpStream, activity: Arc<Activity>, registration: Registration) {
    let _registration = registration;
    let _ = stream.set_nodelay(true);
    let stream = Watched::new(stream, Arc::clone(&activity));
    match server.web.as_ref().and_then(|web| web.acceptor()) {
        None => exchange(&server, stream, &activity).await,
        Some(acceptor) => match acceptor.accept(stream).await {
            Ok(stream) => {
                activity.enter(Phase::Opening);
                exchange(&server, stream, &activity).await;
            }
            Err(error) => tracing::debug!(%error, "TLS handshake failed"),
        },
    }
}

async fn exchange(server: &Server, stream: impl AsyncRead + AsyncWrite + Unpin, activity: &Activity) {
    let service = service_fn(|request: Request<Incoming>| {
        activity.enter(Phase::Busy);
        let mut router = server.router.clone();
        let request = request.map(Body::new);
        async move {
            let response = match &server.web {
                None => router.call(request).await,
                Some(web) => web.answer(request, router).await,
            };
            activity.enter(Phase::Writing);
            response.map_err(|never: Infallible| never)
        }
    });
    let mut connection = std::pin::pin!(server.http.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = server.stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection ended");
    }
}

/// Closes connections that are overdue, for ever.
async fn sweep(server: &Server) {
    let limits = &server.limits;
    let shortest = limits.header.min(limits.idle).min(limits.stall);
    let mut tick = tokio::time::interval((shortest / 4).clamp(Duration::from_millis(5), Duration::from_millis(500)));
    loop {
        tick.tick().await;
        server.connections.close_overdue(limits);
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
