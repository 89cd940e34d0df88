//! The stream under a WebSocket: what is read from it is counted, and no more is read than there is memory for.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::dial::YieldingStream;
use crate::kind::probe::BoxedStream;

/// A stream that reads until its allowance is used up, and then pretends that nothing more has come.
pub(super) struct MeteredSocket {
    stream: YieldingStream<BoxedStream>,
    /// Bytes that were read.
    pub(super) received: usize,
    /// Those of them that have not become a whole message.
    unfinished: usize,
    allowance: usize,
    is_starved: bool,
}

impl MeteredSocket {
    pub(super) const fn new(stream: BoxedStream, allowance: usize) -> Self {
        let stream = YieldingStream::new(stream, ());
        Self { stream, received: 0, unfinished: 0, allowance, is_starved: false }
    }

    /// Whether it has stopped to read. Nobody is woken for it: whoever polls must ask, and then [`allow`](Self::allow) more.
    pub(super) const fn is_starved(&self) -> bool {
        self.is_starved
    }

    /// How much an unfinished message may have.
    pub(super) const fn allowance(&self) -> usize {
        self.allowance
    }

    pub(super) const fn allow(&mut self, allowance: usize) {
        self.allowance = allowance;
        self.is_starved = false;
    }

    /// A message is whole.
    pub(super) const fn finished(&mut self) {
        self.unfinished = 0;
    }
}

impl AsyncRead for MeteredSocket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.unfinished >= self.allowance {
            self.is_starved = true;
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
        let bytes = buffer.filled().len() - before;
        self.received += bytes;
        self.unfinished += bytes;
        polled
    }
}

impl AsyncWrite for MeteredSocket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
