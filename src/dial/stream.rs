//! A stream that leaves its thread to others now and then.

use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// After this many bytes that came without a pause the task yields to others on its thread.
const YIELD_AFTER: usize = 256 * 1024;

/// Is told what happens on a stream.
pub(crate) trait StreamObserver {
    /// These bytes were read, none at the end of the stream; an error is returned in their place.
    fn read(&self, _: &[u8]) -> io::Result<()> {
        Ok(())
    }

    /// A read or a write failed. HTTP/2 does not pass on why.
    fn failed(&self, _: &io::Error) {}
}

/// Observes nothing.
impl StreamObserver for () {}

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

impl<S, O: StreamObserver> YieldingStream<S, O> {
    fn observe<T>(&self, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if let Poll::Ready(Err(error)) = &polled {
            self.observer.failed(error);
        }
        polled
    }
}

impl<S: AsyncRead + Unpin, O: StreamObserver + Unpin> AsyncRead for YieldingStream<S, O> {
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
        let bytes = buf.filled().get(before..).unwrap_or_default();
        self.unpaused += bytes.len();
        let observed = read.and_then(|()| self.observer.read(bytes));
        self.observe(Poll::Ready(observed))
    }
}

impl<S: AsyncWrite + Unpin, O: StreamObserver + Unpin> AsyncWrite for YieldingStream<S, O> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.observe(polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.observe(polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_flush(cx);
        self.observe(polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
