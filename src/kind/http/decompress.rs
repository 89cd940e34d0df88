//! Decompression piece by piece: the output of each step is bounded, and so is what a decompressor holds meanwhile.

use brotli_decompressor::{BrotliDecompressStream, BrotliResult, BrotliState, StandardAlloc};
use flate2::{Decompress, FlushDecompress, Status};

use super::Compression;
use crate::failure::{CallError, Reason};

/// What zlib takes: a window of 32 KiB, its margins, and tables.
const ZLIB: usize = 56 * 1024;

/// What Brotli takes beside its window: up to 256 tables for each of three kinds of symbols.
const BROTLI_TABLES: usize = 4 << 20;

/// Each member costs as much as some KiB of text, even if it is empty. Compressors that work on blocks make one of each 64 KiB.
const MAX_MEMBERS: usize = 4096;

/// Decompresses one body.
pub(super) enum Decompressor {
    /// Nothing is compressed.
    Identity,
    Gzip {
        member: Box<Decompress>,
        members: usize,
        is_at_end: bool,
    },
    Deflate {
        stream: Box<Decompress>,
        is_at_end: bool,
    },
    Brotli {
        state: Option<Box<BrotliState<StandardAlloc, StandardAlloc, StandardAlloc>>>,
        is_at_end: bool,
    },
}

/// What one step did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DecompressedStep {
    /// Bytes of the input.
    pub(super) taken: usize,
    /// Bytes of the output.
    pub(super) made: usize,
}

impl Decompressor {
    pub(super) fn new(compression: Option<Compression>) -> Self {
        match compression {
            None | Some(Compression::Identity) => Self::Identity,
            Some(Compression::Gzip) => {
                Self::Gzip { member: Box::new(Decompress::new_gzip(15)), members: 1, is_at_end: false }
            }
            Some(Compression::Deflate) => Self::Deflate { stream: Box::new(Decompress::new(false)), is_at_end: false },
            Some(Compression::Br) => Self::Brotli { state: None, is_at_end: false },
        }
    }

    /// The memory that it may hold, once the first byte of the body is known.
    pub(super) const fn memory(&self, first: u8) -> usize {
        match self {
            Self::Identity => 0,
            Self::Gzip { .. } | Self::Deflate { .. } => ZLIB,
            Self::Brotli { .. } => (1 << window_bits(first)) + BROTLI_TABLES,
        }
    }

    /// Decompresses some of `input` into `output`. A step that neither takes nor makes anything has nothing to do before more input comes.
    pub(super) fn step(&mut self, input: &[u8], output: &mut [u8]) -> Result<DecompressedStep, CallError> {
        match self {
            Self::Identity => {
                let length = input.len().min(output.len());
                if let (Some(from), Some(to)) = (input.get(..length), output.get_mut(..length)) {
                    to.copy_from_slice(from);
                }
                Ok(DecompressedStep { taken: length, made: length })
            }
            Self::Gzip { member, members, is_at_end } => {
                if *is_at_end && !input.is_empty() {
                    if *members == MAX_MEMBERS {
                        let message = format!("the body has more than {MAX_MEMBERS} gzip members");
                        return Err(CallError::new(Reason::Limit, message));
                    }
                    **member = Decompress::new_gzip(15);
                    (*members, *is_at_end) = (*members + 1, false);
                }
                if *is_at_end {
                    return Ok(DecompressedStep { taken: 0, made: 0 });
                }
                let (step, ended) = inflate(member, input, output).ok_or_else(|| corrupt("gzip"))?;
                *is_at_end = ended;
                Ok(step)
            }
            // What follows the end does not belong to the body.
            Self::Deflate { is_at_end: true, .. } => Ok(DecompressedStep { taken: input.len(), made: 0 }),
            Self::Deflate { stream, is_at_end } => {
                let (step, ended) = inflate(stream, input, output).ok_or_else(|| corrupt("deflate"))?;
                *is_at_end = ended;
                Ok(step)
            }
            Self::Brotli { is_at_end: true, .. } if input.is_empty() => Ok(DecompressedStep { taken: 0, made: 0 }),
            Self::Brotli { is_at_end: true, .. } => Err(corrupt("br")),
            Self::Brotli { state, is_at_end } => {
                let state = state.get_or_insert_with(brotli);
                let (mut left, mut taken, mut room, mut made, mut total) = (input.len(), 0, output.len(), 0, 0);
                let result =
                    BrotliDecompressStream(&mut left, &mut taken, input, &mut room, &mut made, output, &mut total, state);
                match result {
                    BrotliResult::ResultFailure => Err(corrupt("br")),
                    BrotliResult::ResultSuccess => {
                        *is_at_end = true;
                        Ok(DecompressedStep { taken, made })
                    }
                    BrotliResult::NeedsMoreInput | BrotliResult::NeedsMoreOutput => Ok(DecompressedStep { taken, made }),
                }
            }
        }
    }

    /// Whether the body may end here.
    pub(super) const fn is_at_end(&self) -> bool {
        match self {
            Self::Identity => true,
            Self::Gzip { is_at_end, .. } | Self::Deflate { is_at_end, .. } | Self::Brotli { is_at_end, .. } => *is_at_end,
        }
    }
}

/// One step of zlib, and whether the stream ended with it.
fn inflate(stream: &mut Decompress, input: &[u8], output: &mut [u8]) -> Option<(DecompressedStep, bool)> {
    let (before_in, before_out) = (stream.total_in(), stream.total_out());
    let status = stream.decompress(input, output, FlushDecompress::None).ok()?;
    let taken = usize::try_from(stream.total_in() - before_in).ok()?;
    let made = usize::try_from(stream.total_out() - before_out).ok()?;
    Some((DecompressedStep { taken, made }, status == Status::StreamEnd))
}

fn brotli() -> Box<BrotliState<StandardAlloc, StandardAlloc, StandardAlloc>> {
    // Strict: windows of more than 16 MiB are an error.
    Box::new(BrotliState::new_strict(StandardAlloc::default(), StandardAlloc::default(), StandardAlloc::default()))
}

/// The size of the window that a Brotli stream declares in its first byte (RFC 7932, 9.1), as a power of two.
const fn window_bits(first: u8) -> u32 {
    if first & 1 == 0 {
        return 16;
    }
    match (first >> 1) & 7 {
        0 => match (first >> 4) & 7 {
            0 => 17,
            bits => 8 + bits as u32,
        },
        bits => 17 + bits as u32,
    }
}

fn corrupt(what: &str) -> CallError {
    CallError::new(
        Reason::Body,
        format!("the body is not compressed as http.compression says: its {what} data is corrupt"),
    )
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    /// Everything, with input and output in pieces of these sizes.
    fn all(compression: Compression, body: &[u8], piece: usize, room: usize) -> Option<Vec<u8>> {
        let mut decompressor = Decompressor::new(Some(compression));
        let (mut out, mut buffer) = (Vec::new(), vec![0; room]);
        for mut input in body.chunks(piece) {
            loop {
                let step = decompressor.step(input, &mut buffer).ok()?;
                out.extend_from_slice(&buffer[..step.made]);
                input = &input[step.taken..];
                if input.is_empty() && step.made < buffer.len() {
                    break;
                }
                assert!(step.taken + step.made > 0, "it hangs");
            }
        }
        decompressor.is_at_end().then_some(out)
    }

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn deflate(text: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    /// Brotli without compression: a window of 16 bits, one block of up to 65,536 bytes, and the empty last one.
    pub(super) fn stored_brotli(text: &[u8]) -> Vec<u8> {
        let length = u32::try_from(text.len() - 1).unwrap();
        // WBITS 0, ISLAST 0, MNIBBLES 0 (4), MLEN-1, ISUNCOMPRESSED 1.
        let header = (length << 4) | (1 << 20);
        [&header.to_le_bytes()[..3], text, &[0x03]].concat()
    }

    #[test]
    fn bodies_are_decompressed_in_pieces_of_any_size() {
        let text = b"This is a test. ".repeat(100);
        for (compression, body) in [
            (Compression::Identity, text.clone()),
            (Compression::Gzip, gzip(&text)),
            (Compression::Gzip, [gzip(&text[..100]), gzip(&[]), gzip(&text[100..])].concat()),
            (Compression::Deflate, deflate(&text)),
            (Compression::Br, stored_brotli(&text)),
        ] {
            for (piece, room) in [(1, 1), (1, 4096), (7, 13), (4096, 1), (4096, 4096)] {
                let out = all(compression, &body, piece, room);
                assert!(out.as_ref() == Some(&text), "{compression:?} {piece} {room} {:?}", out.map(|out| out.len()));
            }
            if compression != Compression::Identity {
                assert_eq!(all(compression, &body[..body.len() - 1], 100, 100), None, "{compression:?} cut");
                assert_eq!(all(compression, &text, 100, 100), None, "{compression:?} of plain text");
            }
        }
    }

    #[test]
    fn what_follows_the_end_is_another_member_rubbish_or_ignored() {
        let rubbish = |body: Vec<u8>| [body, b"rubbish".to_vec()].concat();
        assert_eq!(all(Compression::Gzip, &rubbish(gzip(b"a")), 100, 100), None);
        assert_eq!(all(Compression::Br, &rubbish(stored_brotli(b"a")), 100, 100), None);
        assert_eq!(all(Compression::Deflate, &rubbish(deflate(b"a")), 100, 100), Some(b"a".to_vec()));
        let members = gzip(b"").repeat(MAX_MEMBERS + 1);
        assert_eq!(all(Compression::Gzip, &members, 4096, 4096), None);
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_hang(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..600), room in 1_usize..64) {
            for compression in [Compression::Gzip, Compression::Deflate, Compression::Br] {
                let _ = all(compression, &bytes, 16, room);
            }
            // Beginnings that are right.
            for body in [gzip(&bytes), deflate(&bytes)] {
                let changed = [&body[..body.len() / 2], &bytes[..]].concat();
                let _ = (all(Compression::Gzip, &changed, 7, room), all(Compression::Deflate, &changed, 7, room));
            }
            let _ = all(Compression::Br, &[&[0x1b, 0x0f, 0x00][..], &bytes].concat(), 7, room);
        }
    }

    #[test]
    fn the_window_of_brotli_is_known_from_its_first_byte() {
        for (first, bits) in [(0x00, 16), (0x01, 17), (0x03, 18), (0x0b, 22), (0x0f, 24), (0x21, 10), (0x71, 15)] {
            assert_eq!(window_bits(first), bits, "{first:#x}");
        }
        let br = Decompressor::new(Some(Compression::Br));
        assert_eq!(br.memory(0x0f), (1 << 24) + BROTLI_TABLES);
    }
}
