//! The state of one connection: its phase, since when, and how long its client has not read. The state is a few atomics that the socket
//! wrapper updates and the connection limiter reads; there is no timer per connection.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::response::ResponsePermit;
use super::server::ServerLimits;

/// A connection is not closed in favour of others for this long, so that its first request can arrive.
const GRACE: Duration = Duration::from_millis(250);

/// While other requests wait for its permit, a response of which the client reads nothing may hold it for this long.
const PERMIT_STALL: Duration = Duration::from_secs(1);

static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Milliseconds since the process began to serve: a monotonic time that fits into an atomic.
pub(super) fn now_ms() -> u64 {
    u64::try_from(EPOCH.elapsed().as_millis()).unwrap_or(u64::MAX)
}

fn elapsed(since_ms: u64, now_ms: u64) -> Duration {
    Duration::from_millis(now_ms.saturating_sub(since_ms))
}

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ConnectionPhase {
    /// Accepted; no byte of a request has arrived.
    New,
    /// A request has begun to arrive.
    ReadingHeader,
    /// A request is being handled.
    Handling,
    /// A request is being handled, and holds a poll slot.
    WaitingForPoll,
    /// A response is being sent; time counts from its last progress.
    Writing,
    /// The last response was sent, and no further request has begun.
    Idle,
}

/// The phase of a connection and what decides when it is closed. Its task writes, the connection limiter reads.
#[derive(Debug, Default)]
pub(super) struct ConnectionState {
    /// The phase and when it began, in one word.
    phase: AtomicU64,
    /// When its task first tried to read; 0: not yet.
    first_read: AtomicU64,
    /// When the current response began.
    response_began: AtomicU64,
    /// Since when the client reads nothing of what is to be sent; 0: it reads, or there is nothing to send.
    write_blocked: AtomicU64,
    /// The sum of earlier such times during the current response, in milliseconds.
    write_blocked_before: AtomicU64,
    /// The permit that the current response holds.
    permit: Mutex<Option<ResponsePermit>>,
    /// Whether it has had a response already.
    has_responded: AtomicBool,
}

impl ConnectionState {
    pub(super) fn new() -> Self {
        let state = Self::default();
        state.enter(ConnectionPhase::New);
        state
    }

    pub(super) fn enter(&self, phase: ConnectionPhase) {
        self.phase.store(now_ms() << 3 | phase as u64, Ordering::Relaxed);
    }

    /// Notes that the task tries to read. On a busy machine that may be long after the connection was accepted, and the client's time to
    /// send a request counts from here.
    pub(super) fn note_read(&self) {
        if self.first_read.load(Ordering::Relaxed) == 0 {
            self.first_read.store(now_ms().max(1), Ordering::Relaxed);
            self.enter(ConnectionPhase::New);
        }
    }

    pub(super) fn begin_response(&self, permit: Option<ResponsePermit>) {
        *self.permit() = permit;
        self.has_responded.store(true, Ordering::Relaxed);
        self.response_began.store(now_ms(), Ordering::Relaxed);
        self.write_blocked_before.store(0, Ordering::Relaxed);
        self.enter(ConnectionPhase::Writing);
    }

    fn permit(&self) -> MutexGuard<'_, Option<ResponsePermit>> {
        self.permit.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether more of this response will follow what there is of it now.
    fn is_streaming(&self) -> bool {
        matches!(&*self.permit(), Some(ResponsePermit::Stream(permit)) if permit.strong_count() > 0)
    }

    pub(super) fn phase(&self) -> ConnectionPhase {
        match self.phase.load(Ordering::Relaxed) & 7 {
            0 => ConnectionPhase::New,
            1 => ConnectionPhase::ReadingHeader,
            2 => ConnectionPhase::Handling,
            3 => ConnectionPhase::WaitingForPoll,
            4 => ConnectionPhase::Writing,
            _ => ConnectionPhase::Idle,
        }
    }

    /// For how long it has been in its phase; while it writes, without any progress.
    fn time_in_phase(&self, now: u64) -> Duration {
        elapsed(self.phase.load(Ordering::Relaxed) >> 3, now)
    }

    /// For how long the client has read nothing of a response. Time in which the response is being made is not the client's.
    fn blocked(&self, now: u64) -> Duration {
        match self.write_blocked.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            since => elapsed(since, now),
        }
    }

    /// The same, summed over the whole response.
    fn blocked_in_total(&self, now: u64) -> Duration {
        Duration::from_millis(self.write_blocked_before.load(Ordering::Relaxed)) + self.blocked(now)
    }

    /// Whether the response holds such a permit, and its client does not read, or not fast enough for the others who wait.
    pub(super) fn blocks_permit(
        &self,
        max_blocked: Duration,
        is_wanted: impl Fn(&ResponsePermit) -> bool,
        now: u64,
    ) -> bool {
        self.phase() == ConnectionPhase::Writing
            && self.permit().as_ref().is_some_and(is_wanted)
            && (self.blocked(now) >= PERMIT_STALL || self.blocked_in_total(now) >= max_blocked)
    }

    /// Whether its client has had time to send a request.
    pub(super) fn is_past_grace(&self, now: u64) -> bool {
        let first_read = self.first_read.load(Ordering::Relaxed);
        first_read > 0 && elapsed(first_read, now) >= GRACE
    }

    /// Whether it waits for a poll, and not yet for longer than `max_wait`.
    pub(super) fn is_waiting_for_poll(&self, max_wait: Duration, now: u64) -> bool {
        self.phase() == ConnectionPhase::WaitingForPoll && self.time_in_phase(now) < max_wait
    }

    /// The order in which connections are closed to make room, the highest first. A connection that has had a response goes before those
    /// that wait for their first, so that many requests on one connection gain nothing over a single one; a connection without a request
    /// goes before those with one. Among equals, the one that has made no progress for longest.
    pub(super) fn eviction_rank(&self, now: u64) -> (u8, Duration) {
        let class = match self.phase() {
            _ if self.has_responded.load(Ordering::Relaxed) => 2,
            ConnectionPhase::New | ConnectionPhase::ReadingHeader => 1,
            _ => 0,
        };
        (class, self.time_in_phase(now))
    }

    pub(super) fn is_overdue(&self, limits: &ServerLimits, now: u64) -> bool {
        let limit = match self.phase() {
            ConnectionPhase::New | ConnectionPhase::ReadingHeader => limits.header_timeout,
            ConnectionPhase::Handling | ConnectionPhase::WaitingForPoll => return false, // every handler has a deadline of its own
            // A byte now and then is progress, but must not keep a response for ever.
            ConnectionPhase::Writing
                if elapsed(self.response_began.load(Ordering::Relaxed), now) >= limits.response_timeout =>
            {
                return true;
            }
            ConnectionPhase::Writing => limits.stall_timeout,
            ConnectionPhase::Idle => limits.idle_timeout,
        };
        self.time_in_phase(now) >= limit
    }
}

/// A socket that is shared with the task that notices that the client has gone while nothing is read.
#[derive(Debug)]
pub(super) struct SharedSocket(Arc<TcpStream>);

impl SharedSocket {
    pub(super) fn new(stream: Arc<TcpStream>) -> Self {
        Self(stream)
    }

    fn poll_with<T>(
        &self,
        mut ready: impl FnMut(&TcpStream) -> Poll<io::Result<()>>,
        mut attempt: impl FnMut(&TcpStream) -> io::Result<T>,
    ) -> Poll<io::Result<T>> {
        loop {
            ready!(ready(&self.0))?;
            match attempt(&self.0) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done),
            }
        }
    }
}

impl AsyncRead for SharedSocket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.poll_with(|stream| stream.poll_read_ready(cx), |stream| stream.try_read_buf(buf)).map_ok(drop)
    }
}

impl AsyncWrite for SharedSocket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_with(|stream| stream.poll_write_ready(cx), |stream| stream.try_write(buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_with(|stream| stream.poll_write_ready(cx), |stream| stream.try_write_vectored(bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(SockRef::from(&*self.0).shutdown(std::net::Shutdown::Write))
    }
}

/// A stream that records what passes through it in a [`ConnectionState`]. It lies below TLS, so that every byte of progress counts.
#[derive(Debug)]
pub(super) struct TrackedStream<S> {
    inner: S,
    state: Arc<ConnectionState>,
}

impl<S> TrackedStream<S> {
    pub(super) fn new(inner: S, state: Arc<ConnectionState>) -> Self {
        Self { inner, state }
    }

    fn note_write(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        let state = &self.state;
        if written.is_ready() {
            let since = state.write_blocked.swap(0, Ordering::Relaxed);
            if since > 0 {
                state.write_blocked_before.fetch_add(now_ms().saturating_sub(since), Ordering::Relaxed);
            }
        } else if state.write_blocked.load(Ordering::Relaxed) == 0 {
            state.write_blocked.store(now_ms().max(1), Ordering::Relaxed);
        }
        if matches!(written, Poll::Ready(Ok(1..))) && state.phase() == ConnectionPhase::Writing {
            state.enter(ConnectionPhase::Writing); // progress
        }
        written
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for TrackedStream<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        self.state.note_read();
        ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        if buf.filled().len() > before && matches!(self.state.phase(), ConnectionPhase::New | ConnectionPhase::Idle) {
            self.state.enter(ConnectionPhase::ReadingHeader);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for TrackedStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.note_write(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        self.note_write(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.inner).poll_flush(cx))?;
        // Once a response in one piece is flushed, all of it is.
        if self.state.phase() == ConnectionPhase::Writing && !self.state.is_streaming() {
            self.state.enter(ConnectionPhase::Idle);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
