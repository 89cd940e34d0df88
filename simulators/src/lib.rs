//! Simulated servers with exactly the wire formats of the real ones, for `demo`, `simulate` and tests only.
//!
//! Their numbers change as real ones do: connections come and go, counters never decrease, time passes between two requests.

pub mod edumeet;
pub mod keyrock;
pub mod mediasoup;
pub mod nameserver;
pub mod orion;
pub mod signalling;
pub mod sora;
pub mod turn;
pub mod website;
pub mod wilma;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{Html, IntoResponse, Response};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// How a simulated server behaves. It can be changed while the server runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Normally.
    #[default]
    Healthy,
    /// Responds with this status, and the error body of such a server.
    Status(u16),
    /// Accepts the request and never responds.
    Hang,
    /// Responds with 200 and an HTML page.
    Html,
    /// Responds with 200 and no body.
    Empty,
    /// Responds with 200 and the first half of the right body.
    Truncated,
}

/// The handle on a simulated server's [`Mode`].
#[derive(Clone, Debug, Default)]
pub struct Switch(Arc<Mutex<Mode>>);

impl Switch {
    /// Sets the mode, from the next request on.
    pub fn set(&self, mode: Mode) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = mode;
    }

    /// The current mode.
    pub fn get(&self) -> Mode {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wraps a server's routes in the switch.
    pub fn guard(&self, routes: Router) -> Router {
        routes.layer(middleware::from_fn_with_state(self.clone(), misbehave))
    }
}

async fn misbehave(State(switch): State<Switch>, request: Request, next: Next) -> Response {
    match switch.get() {
        Mode::Healthy => next.run(request).await,
        Mode::Status(code) => {
            let status = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            (status, [(header::CONTENT_TYPE, "application/json")], r#"{"error_type":"HandlerException"}"#)
                .into_response()
        }
        Mode::Hang => std::future::pending().await,
        Mode::Html => Html("<!DOCTYPE html><html><body>Welcome to nginx!</body></html>").into_response(),
        Mode::Empty => StatusCode::OK.into_response(),
        Mode::Truncated => {
            let response = next.run(request).await;
            let body = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap_or_default();
            let half = body.slice(..body.len() / 2);
            ([(header::CONTENT_TYPE, "application/json")], half).into_response()
        }
    }
}

/// A simulated server that listens; dropping it closes the port and every connection.
#[derive(Debug)]
pub struct Simulated {
    /// The address it listens on.
    pub address: SocketAddr,
    stop: CancellationToken,
}

impl Simulated {
    /// Serves `routes` on `address`; port 0 selects a free port.
    pub async fn serve(routes: Router, address: SocketAddr) -> std::io::Result<Self> {
        Self::on(TcpListener::bind(address).await?, routes)
    }

    /// Serves `routes` on an open listener.
    pub fn on(listener: TcpListener, routes: Router) -> std::io::Result<Self> {
        let address = listener.local_addr()?;
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = stopped.cancelled() => {}
                _ = axum::serve(listener, routes) => {}
            }
        });
        Ok(Self { address, stop })
    }

    /// `http://address/`.
    pub fn url(&self) -> String {
        format!("http://{}/", self.address)
    }
}

impl Drop for Simulated {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// A small random number generator (`SplitMix64`) with repeatable numbers.
#[derive(Clone, Debug, Default)]
pub struct Noise(u64);

impl Noise {
    /// The same seed gives the same numbers.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Any number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `bound`; 0 for a bound of 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.number() % bound }
    }
}

/// The time since a server started, in steps that a request can catch up on.
#[derive(Clone, Copy, Debug)]
pub struct Uptime {
    start: std::time::Instant,
}

impl Default for Uptime {
    fn default() -> Self {
        Self { start: std::time::Instant::now() }
    }
}

impl Uptime {
    /// How long the server has been up.
    pub fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }
}
