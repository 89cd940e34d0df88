//! What a connection is doing, since when, and which of many is to be closed. Two atomic words a connection; no timer of its own.

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::limits::Limits;

static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Accepted; nothing of a request has come.
    Opening,
    /// A request has begun.
    Header,
    /// A request is being answered.
    Busy,
    /// An answer is on its way; time counts from its last progress.
    Writing,
    /// The last answer is with the client, the next request has not begun.
    Idle,
}

/// The phase of a connection and since when, in one word that its task writes and the sweep reads.
#[derive(Debug)]
pub(super) struct Activity(AtomicU64);

impl Activity {
    pub(super) fn new() -> Self {
        let activity = Self(AtomicU64::new(0));
        activity.enter(Phase::Opening);
        activity
    }

    /// From now on the connection does this.
    pub(super) fn enter(&self, phase: Phase) {
        let milliseconds = u64::try_from(EPOCH.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.0.store(milliseconds << 3 | phase as u64, Ordering::Relaxed);
    }

    fn phase(&self) -> Phase {
        match self.0.load(Ordering::Relaxed) & 7 {
            0 => Phase::Opening,
            1 => Phase::Header,
            2 => Phase::Busy,
            3 => Phase::Writing,
            _ => Phase::Idle,
        }
    }

    /// For how long it has been in its phase.
    fn age(&self) -> Duration {
        EPOCH.elapsed().saturating_sub(Duration::from_millis(self.0.load(Ordering::Relaxed) >> 3))
    }

    fn overdue(&self, limits: &Limits) -> bool {
        let limit = match self.phase() {
            Phase::Opening | Phase::Header => limits.header,
            Phase::Busy => return false, // every handler has an end of its own
            Phase::Writing => limits.stall,
            Phase::Idle => limits.idle,
        };
        self.age() >= limit
    }
}

/// A socket that notes what passes through it. It lies below TLS, so that every byte of progress is seen.
#[derive(Debug)]
pub(super) struct Watched<S> {
    inner: S,
    activity: Arc<Activity>,
}

impl<S> Watched<S> {
    pub(super) fn new(inner: S, activity: Arc<Activity>) -> Self {
        Self { inner, activity }
    }

    fn wrote(&self, bytes: usize) {
        if bytes > 0 && self.activity.phase() == Phase::Writing {
            self.activity.enter(Phase::Writing);
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        if buf.filled().len() > before && matches!(self.activity.phase(), Phase::Opening | Phase::Idle) {
            self.activity.enter(Phase::Header);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.inner).poll_write(cx, buf))?;
        self.wrote(written);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.inner).poll_write_vectored(cx, bufs))?;
        self.wrote(written);
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.inner).poll_flush(cx))?;
        // Every answer is one piece: once it is flushed, all of it is.
        if self.activity.phase() == Phase::Writing {
            self.activity.enter(Phase::Idle);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// The open connections.
#[derive(Debug, Default)]
pub(super) struct Connections {
    open: Mutex<Open>,
    /// Rings when a connection has ended.
    pub(super) ended: Notify,
}

#[derive(Debug, Default)]
struct Open {
    by_number: HashMap<u64, Entry>,
    next: u64,
}

#[derive(Debug)]
struct Entry {
    activity: Arc<Activity>,
    task: AbortHandle,
}

impl Connections {
    /// Adds a connection by its task. `spawn` gets what the task must hold to its end.
    pub(super) fn add(self: &Arc<Self>, activity: &Arc<Activity>, spawn: impl FnOnce(Registration) -> AbortHandle) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let number = open.next;
        open.next += 1;
        // The lock is held until the entry is in: a task that ends at once takes it out afterwards.
        let task = spawn(Registration { connections: Arc::clone(self), number });
        open.by_number.insert(number, Entry { activity: Arc::clone(activity), task });
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).by_number.len()
    }

    /// Closes the connection that has been idle longest; if none is idle, the oldest that has not sent a whole request.
    /// False if every one is being answered.
    pub(super) fn close_longest_idle(&self) -> bool {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let oldest = |phases: &[Phase]| {
            let quiet = open.by_number.iter().filter(|(_, entry)| phases.contains(&entry.activity.phase()));
            quiet.max_by_key(|(_, entry)| entry.activity.age()).map(|(number, _)| *number)
        };
        let number = oldest(&[Phase::Idle]).or_else(|| oldest(&[Phase::Opening, Phase::Header]));
        number.and_then(|number| open.by_number.remove(&number)).inspect(|entry| entry.task.abort()).is_some()
    }

    /// Closes those that have been too slow or idle for too long.
    pub(super) fn close_overdue(&self, limits: &Limits) {
        self.close_where(|activity| activity.overdue(limits));
    }

    /// Closes those that are not in the middle of a request.
    pub(super) fn close_idle(&self) {
        self.close_where(|activity| matches!(activity.phase(), Phase::Opening | Phase::Idle));
    }

    /// Closes every one.
    pub(super) fn close_all(&self) {
        self.close_where(|_| true);
    }

    fn close_where(&self, close: impl Fn(&Activity) -> bool) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.by_number.retain(|_, entry| {
            let closing = close(&entry.activity);
            if closing {
                entry.task.abort();
            }
            !closing
        });
    }
}

/// Takes its connection out of the table when it is dropped, by the task that ends or is aborted.
#[derive(Debug)]
pub(super) struct Registration {
    connections: Arc<Connections>,
    number: u64,
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut open = self.connections.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.by_number.remove(&self.number);
        drop(open);
        self.connections.ended.notify_waiters();
    }
}
