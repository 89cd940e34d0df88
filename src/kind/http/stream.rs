//! The stream under a connection: what is read from it is counted, and it is noted when the first byte came.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use tokio::time::Instant;

use crate::dial::{ReadObserver, YieldingStream};
use crate::kind::probe::BoxedStream;

/// A stream with a meter.
pub(super) type MeteredStream = YieldingStream<BoxedStream, Arc<Meter>>;

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

    /// Whether too much came before the header was complete. Reading has failed then, and HTTP/2 does not pass on why.
    pub(super) fn flood(&self) -> Option<NoHeaderError> {
        let is_flood = self.read.load(Ordering::Relaxed) > MAX_BEFORE_HEADER && !self.has_header.load(Ordering::Relaxed);
        is_flood.then_some(NoHeaderError)
    }

    /// The header of the answer is complete.
    pub(super) fn has_header(&self) {
        self.has_header.store(true, Ordering::Relaxed);
    }
}

impl ReadObserver for Arc<Meter> {
    fn read(&self, bytes: usize) -> io::Result<()> {
        if bytes > 0 {
            self.first_byte.get_or_init(Instant::now);
        }
        self.read.fetch_add(bytes, Ordering::Relaxed);
        self.flood().map_or(Ok(()), |flood| Err(io::Error::other(flood)))
    }
}

/// A server sent much, and no header.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the server sent more than {} KiB, and its answer had not begun", MAX_BEFORE_HEADER >> 10)]
pub(super) struct NoHeaderError;
