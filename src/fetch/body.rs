//! Reads a body into memory: decompressed, bounded, and with everything counted that it takes meanwhile.
//!
//! Nothing is allocated before the [`MemoryShare`] covers it. Capacities are counted, not lengths, and the buffers of the HTTP client and
//! the decompressor as well.

use bytes::Bytes;
use flate2::{Decompress, FlushDecompress, Status};
use reqwest::header::{CONTENT_ENCODING, HeaderMap};

use super::client::UnreadResponse;
use super::{Limits, Progress};
use crate::budget::MemoryShare;
use crate::failure::{CallError, Reason};

/// The size of the client's first read buffer. It doubles each time it is filled by one read.
const FIRST_READ: usize = 8 * 1024;

/// The largest read buffer: hyper's default, for which reqwest has no setting.
const LARGEST_READ: usize = FIRST_READ + 100 * 4096;

/// What a decompressor takes: a window of 32 KiB, its margins, and tables.
const DECOMPRESSOR: usize = 56 * 1024;

/// The first allocation for a body that comes in more than one piece.
const FIRST_BUFFER: usize = 4 * 1024;

/// How much is decompressed at a time; at most a MiB when it is out.
const STEP: usize = 1024;

/// After this much output the task yields to others on its thread.
const YIELD_AFTER: usize = 512 * 1024;

/// After this many pieces it yields as well: they may be of one byte each, and thousands of them in one read buffer.
const YIELD_AFTER_PIECES: usize = 256;

/// The bytes of one poll, over all its calls: they share a connection, and so its buffers.
#[derive(Debug, Default)]
pub(super) struct ReadBytes {
    /// Read from the connection, headers included.
    wire: usize,
    /// Held by the bodies that are complete.
    pub(super) kept: usize,
}

impl ReadBytes {
    /// What the client holds for a connection: the buffer that is being read into, and one that we have not taken yet.
    fn buffers(&self) -> usize {
        2 * self.piece()
    }

    /// The largest buffer that may have been allocated by now.
    fn piece(&self) -> usize {
        let doubled = (self.wire + FIRST_READ).min(LARGEST_READ);
        if doubled == LARGEST_READ { LARGEST_READ } else { 1 << doubled.ilog2() }
    }
}

/// Reads the body of `response`.
pub(super) async fn read(
    response: &mut UnreadResponse,
    limits: &Limits,
    progress: &mut Progress,
    read: &mut ReadBytes,
    share: &mut MemoryShare,
) -> Result<Bytes, CallError> {
    let declared = response.content_length().and_then(|length| usize::try_from(length).ok()).unwrap_or(0);
    let gzip = is_gzip(response.headers());
    if declared > limits.max_body_bytes {
        return Err(too_large(limits));
    }
    read.wire += response.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum::<usize>();
    let largest = if gzip || declared == 0 { limits.max_body_bytes } else { declared };
    let mut body = BodyBuffer { largest, limits, bytes: Vec::new(), besides: 0, progress, share };
    let mut gunzip = None;
    let mut yield_at = YIELD_AFTER;
    let mut compressed = 0;
    for pieces in 1_usize.. {
        if pieces.is_multiple_of(YIELD_AFTER_PIECES) {
            tokio::task::yield_now().await;
        }
        body.besides = read.kept + read.buffers() + if gzip { DECOMPRESSOR } else { 0 };
        body.cover(body.bytes.capacity()).await;
        let Some(chunk) = response.chunk().await? else { break };
        let piece = read.piece();
        read.wire += chunk.len();
        body.share.received(chunk.len());
        if gzip {
            let gunzip = gunzip.get_or_insert_with(GzipBody::new);
            compressed += chunk.len();
            if compressed > limits.max_body_bytes {
                return Err(too_large(limits)); // what decompresses to nothing is bounded as well
            }
            for step in chunk.chunks(STEP) {
                gunzip.decompress(step, &mut body).await?;
                if body.bytes.len() + compressed >= yield_at {
                    yield_at = body.bytes.len() + compressed + YIELD_AFTER;
                    tokio::task::yield_now().await;
                }
            }
        } else if declared > 0 && chunk.len() == declared && body.bytes.is_empty() {
            body.progress.bytes += declared;
            let _ = response.chunk().await; // its end: the connection is free for the next call
            read.kept += piece;
            return Ok(chunk); // the usual case: the whole body in one piece, not copied
        } else {
            body.extend(&chunk).await?;
        }
    }
    if gunzip.is_some_and(|gunzip| !gunzip.at_end) {
        return Err(CallError::new(Reason::Body, "the body is incomplete: its gzip data does not end"));
    }
    let mut bytes = body.bytes;
    bytes.shrink_to_fit();
    read.kept += bytes.capacity();
    Ok(Bytes::from(bytes))
}

fn is_gzip(headers: &HeaderMap) -> bool {
    let encoding = headers.get(CONTENT_ENCODING).and_then(|value| value.to_str().ok()).unwrap_or_default().trim();
    encoding.eq_ignore_ascii_case("gzip") || encoding.eq_ignore_ascii_case("x-gzip")
}

fn too_large(limits: &Limits) -> CallError {
    let setting = limits.setting.map(|setting| format!(" ({setting})")).unwrap_or_default();
    CallError::new(Reason::Limit, format!("the body is larger than {} bytes{setting}", limits.max_body_bytes))
}

/// The part of a body that has been read.
struct BodyBuffer<'r> {
    bytes: Vec<u8>,
    /// It will not be larger.
    largest: usize,
    limits: &'r Limits,
    /// What is held besides these bytes.
    besides: usize,
    progress: &'r mut Progress,
    share: &'r mut MemoryShare,
}

impl BodyBuffer<'_> {
    async fn cover(&mut self, bytes: usize) {
        self.progress.waits_for_memory = true;
        self.share.cover(self.besides + bytes).await;
        self.progress.waits_for_memory = false;
    }

    /// Makes room for at least `more` bytes. While it grows, the old bytes are held as well as the new ones.
    async fn reserve(&mut self, more: usize) {
        let (len, before) = (self.bytes.len(), self.bytes.capacity());
        if before - len >= more {
            return;
        }
        let capacity = (2 * before).max(FIRST_BUFFER).min(self.largest).max(len + more);
        self.cover(before + capacity).await;
        self.bytes.reserve_exact(capacity - len);
        self.cover(self.bytes.capacity()).await;
    }

    async fn extend(&mut self, chunk: &[u8]) -> Result<(), CallError> {
        self.check(self.bytes.len() + chunk.len())?;
        self.reserve(chunk.len()).await;
        self.bytes.extend_from_slice(chunk);
        Ok(())
    }

    fn check(&mut self, len: usize) -> Result<(), CallError> {
        self.progress.bytes = len;
        if len > self.limits.max_body_bytes { Err(too_large(self.limits)) } else { Ok(()) }
    }
}

/// Decompresses gzip piece by piece. Several members, one after the other, are one body.
struct GzipBody {
    member: Decompress,
    members: usize,
    at_end: bool,
}

/// Each member costs as much as some KiB of text, even if it is empty. Compressors that work on blocks make one of each 64 KiB.
const MAX_MEMBERS: usize = 4096;

impl GzipBody {
    fn new() -> Self {
        Self { member: Decompress::new_gzip(15), members: 1, at_end: false }
    }

    async fn decompress(&mut self, mut input: &[u8], body: &mut BodyBuffer<'_>) -> Result<(), CallError> {
        let broken =
            |error| CallError::new(Reason::Body, format!("the body is incomplete: its gzip data is corrupt: {error}"));
        while !input.is_empty() {
            if self.at_end {
                if self.members == MAX_MEMBERS {
                    let message = format!("the body has more than {MAX_MEMBERS} gzip members");
                    return Err(CallError::new(Reason::Limit, message));
                }
                *self = Self { members: self.members + 1, ..Self::new() };
            }
            loop {
                body.reserve(1).await;
                let before = self.member.total_in();
                let status =
                    self.member.decompress_vec(input, &mut body.bytes, FlushDecompress::None).map_err(broken)?;
                let taken = usize::try_from(self.member.total_in() - before).unwrap_or(input.len());
                input = input.get(taken..).unwrap_or_default();
                body.check(body.bytes.len())?;
                self.at_end = status == Status::StreamEnd;
                // Room that is left means that there is nothing more to get out of this input.
                if self.at_end || body.bytes.len() < body.bytes.capacity() {
                    break;
                }
            }
            if !self.at_end && !input.is_empty() {
                return Err(CallError::new(Reason::Body, "the body is incomplete: its gzip data is corrupt"));
            }
        }
        Ok(())
    }
}
