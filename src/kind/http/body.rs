//! Reads the body of an answer: decompressed, counted, bounded, and kept only if something is compared with it.

use bytes::Bytes;

use super::connection::{MAX_BUFFER, UnreadAnswer};
use super::decompress::Decompressor;
use super::{AnswerRules, Compression};
use crate::budget::MemoryShare;
use crate::failure::{CallError, Reason};
use crate::kind::Recorder;

/// The room for the output of a step.
const STEP: usize = 8 * 1024;

/// The first allocation for a body that is kept.
const FIRST_BUFFER: usize = 4 * 1024;

/// After this much output the task yields to others on its thread.
const YIELD_AFTER: usize = 512 * 1024;

/// After this many pieces it yields as well: they may be of one byte each.
const YIELD_AFTER_PIECES: usize = 256;

/// A body that is being read.
pub(super) struct BodyReader<'r> {
    compression: Option<Compression>,
    /// `bodySizeLimit`.
    limit: Option<usize>,
    max_body_bytes: usize,
    memory: &'r mut MemoryShare,
    record: &'r mut Recorder,
    kept: Option<Vec<u8>>,
    /// Held besides what is kept.
    besides: usize,
    pub(super) length: usize,
}

impl<'r> BodyReader<'r> {
    pub(super) fn new(
        rules: &AnswerRules,
        keep: bool,
        max_body_bytes: usize,
        memory: &'r mut MemoryShare,
        record: &'r mut Recorder,
    ) -> Self {
        Self {
            compression: rules.compression,
            limit: rules.body_size_limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX)),
            max_body_bytes,
            memory,
            record,
            kept: keep.then(Vec::new),
            besides: 2 * MAX_BUFFER,
            length: 0,
        }
    }

    /// Reads to the end, and returns the body if it is kept. The length counts also if this fails.
    pub(super) async fn read(&mut self, response: &mut UnreadAnswer) -> Result<Bytes, CallError> {
        self.record.beginning(&[]);
        if response.is_complete() && matches!(self.compression, None | Some(Compression::Identity)) {
            return Ok(Bytes::new());
        }
        let mut decompressor = Decompressor::new(self.compression);
        let is_plain = matches!(decompressor, Decompressor::Identity);
        let mut buffer = if is_plain { Vec::new() } else { vec![0; STEP] };
        let (mut compressed, mut yield_at) = (0, YIELD_AFTER);
        self.cover(0).await;
        for pieces in 1_usize.. {
            if pieces.is_multiple_of(YIELD_AFTER_PIECES) {
                tokio::task::yield_now().await;
            }
            let Some(chunk) = response.chunk().await? else { break };
            self.record.received(chunk.len());
            self.memory.received(chunk.len());
            if let Some(first) = chunk.first().filter(|_| compressed == 0) {
                self.besides += buffer.len() + decompressor.memory(*first);
                self.cover(0).await;
            }
            compressed += chunk.len();
            if is_plain {
                self.add(&chunk).await?;
            } else if compressed > self.max_body_bytes {
                // What decompresses to nothing is bounded as well.
                return Err(too_large(self.max_body_bytes, "--max-body-bytes"));
            } else {
                self.decompress(&mut decompressor, &chunk, &mut buffer, &mut yield_at).await?;
            }
            if self.length + compressed >= yield_at {
                yield_at = self.length + compressed + YIELD_AFTER;
                tokio::task::yield_now().await;
            }
        }
        if !decompressor.is_at_end() {
            return Err(CallError::new(Reason::Body, "the body is incomplete: its compressed data does not end"));
        }
        Ok(self.kept.take().unwrap_or_default().into())
    }

    async fn decompress(
        &mut self,
        decompressor: &mut Decompressor,
        mut input: &[u8],
        buffer: &mut [u8],
        yield_at: &mut usize,
    ) -> Result<(), CallError> {
        loop {
            let step = decompressor.step(input, buffer)?;
            input = input.get(step.taken..).unwrap_or_default();
            self.add(buffer.get(..step.made).unwrap_or_default()).await?;
            // Room that is left means that there is nothing more to get out of this input.
            if input.is_empty() && step.made < buffer.len() || step.taken == 0 && step.made == 0 {
                return Ok(());
            }
            if self.length >= *yield_at {
                *yield_at = self.length + YIELD_AFTER;
                tokio::task::yield_now().await;
            }
        }
    }

    /// Counts a piece of the body, and keeps it if that is wanted.
    async fn add(&mut self, piece: &[u8]) -> Result<(), CallError> {
        self.record.beginning(piece);
        let length = self.length + piece.len();
        if let Some(limit) = self.limit.filter(|limit| length > *limit && *limit <= self.max_body_bytes) {
            self.length = limit;
            return Err(too_large(limit, "http.bodySizeLimit"));
        }
        if length > self.max_body_bytes {
            self.length = self.max_body_bytes;
            return Err(too_large(self.max_body_bytes, "--max-body-bytes"));
        }
        self.length = length;
        let Some(mut kept) = self.kept.take() else { return Ok(()) };
        if kept.capacity() - kept.len() < piece.len() {
            // While it grows, the old bytes are held as well as the new ones.
            let most = self.limit.unwrap_or(usize::MAX).min(self.max_body_bytes);
            let capacity = (2 * kept.capacity()).max(FIRST_BUFFER).min(most).max(length);
            self.cover(kept.capacity() + capacity).await;
            kept.reserve_exact(capacity - kept.len());
            self.cover(kept.capacity()).await;
        }
        kept.extend_from_slice(piece);
        self.kept = Some(kept);
        Ok(())
    }

    async fn cover(&mut self, kept: usize) {
        self.memory.cover(self.besides + kept).await;
    }

}

fn too_large(most: usize, limit: &str) -> CallError {
    CallError::new(Reason::Limit, format!("the body is larger than {most} bytes ({limit})"))
}
