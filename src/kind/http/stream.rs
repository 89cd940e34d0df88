//! The stream under a connection: it counts what it reads, notes when the first byte came, and leaves the thread to others now and then.

use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use crate::kind::probe::BoxedStream;

/// After this many bytes that came without a pause the task yields to others on its thread.
const YIELD_AFTER: usize = 256 * 1024;

/// The most bytes until the header of the answer is complete: interim responses, or frames of HTTP/2, could go on for ever.
const MAX_BEFORE_HEADER: usize = 1 << 20;

/// What was read from a stream.
#[derive(Debug, Default)]
pub(super) struct Meter {
    read: AtomicUsize,
    has_header: AtomicBool,
    first_byte: OnceLock<Instant>,
}

impl Meter {
    /// When the first byte came.
    pub(super) fn first_byte(&self) -> Option<Instant> {
        self.first_byte.get().copied()
    }

    /// The header of the answer is complete.
    pub(super) fn has_header(&self) {
        self.has_header.store(true, Ordering::Relaxed);
    }

    fn count(&self, bytes: usize) -> io::Result<()> {
        if bytes > 0 {
            self.first_byte.get_or_init(Instant::now);
        }
        let read = self.read.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if read > MAX_BEFORE_HEADER && !self.has_header.load(Ordering::Relaxed) {
            return Err(io::Error::other(NoHeaderError));
        }
        Ok(())
    }
}

/// A server sent much, and no header.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the server sent more than {} KiB, and its answer had not begun", MAX_BEFORE_HEADER >> 10)]
pub(super) struct NoHeaderError;

/// A stream with a meter. It yields because a server that sends without a pause would else keep the thread from other polls and from its
/// timers, and so the probe from its deadline.
pub(super) struct MeteredStream {
    stream: BoxedStream,
    meter: Arc<Meter>,
    /// Bytes that were read since there was nothing to read.
    unpaused: usize,
}

impl MeteredStream {
    pub(super) fn new(stream: BoxedStream, meter: Arc<Meter>) -> Self {
        Self { stream, meter, unpaused: 0 }
    }
}

impl AsyncRead for MeteredStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.unpaused >= YIELD_AFTER {
            self.unpaused = 0;
            // Wakes the task after the thread has run the others and its timers.
            ready!(pin!(tokio::task::yield_now()).poll(cx));
        }
        let before = buf.filled().len();
        let Poll::Ready(read) = Pin::new(&mut self.stream).poll_read(cx, buf) else {
            self.unpaused = 0;
            return Poll::Pending;
        };
        let bytes = buf.filled().len() - before;
        self.unpaused += bytes;
        Poll::Ready(read.and_then(|()| self.meter.count(bytes)))
    }
}

impl AsyncWrite for MeteredStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
