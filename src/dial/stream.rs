//! A stream that leaves its thread to others now and then.

use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// After this many bytes that came without a pause the task yields to others on its thread.
const YIELD_AFTER: usize = 256 * 1024;

/// Is told what is read from a stream.
pub(crate) trait ReadObserver {
    /// So many bytes were read; an error is returned in their place.
    fn read(&self, bytes: usize) -> io::Result<()>;
}

/// Observes nothing.
impl ReadObserver for () {
    fn read(&self, _: usize) -> io::Result<()> {
        Ok(())
    }
}

/// A stream whose reads yield now and then. Else a server that sends without a pause, such as interim responses, keeps the thread from other
/// polls and from its timers, and so the poll from its deadline.
pub(crate) struct YieldingStream<S, O = ()> {
    stream: S,
    observer: O,
    /// Bytes that were read since there was nothing to read.
    unpaused: usize,
}

impl<S, O> YieldingStream<S, O> {
    pub(crate) const fn new(stream: S, observer: O) -> Self {
        Self { stream, observer, unpaused: 0 }
    }
}

impl<S: AsyncRead + Unpin, O: ReadObserver + Unpin> AsyncRead for YieldingStream<S, O> {
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
        Poll::Ready(read.and_then(|()| self.observer.read(bytes)))
    }
}

impl<S: AsyncWrite + Unpin, O: Unpin> AsyncWrite for YieldingStream<S, O> {
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
