//! gzip of expositions and documents, with one compressor per thread: to make one costs more than to use it.

use std::cell::RefCell;
use std::io::{Read, Write};

use flate2::Compression;
use flate2::bufread::GzDecoder;
use flate2::{Compress, Crc, FlushCompress, Status};

thread_local! {
    /// Raw deflate at the fastest level: it shrinks expositions to a seventh; the best level to an eighth, at six times the cost.
    static DEFLATE: RefCell<Compress> = RefCell::new(Compress::new(Compression::fast(), false));
}

/// A gzip header: deflate, no name, no time, unknown system.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];

/// Compresses `plain` into one gzip member.
pub fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(64 + plain.len() / 5);
    out.extend_from_slice(&HEADER);
    DEFLATE.with_borrow_mut(|deflate| {
        deflate.reset();
        while let Ok(Status::Ok | Status::BufError) = {
            let done = usize::try_from(deflate.total_in()).unwrap_or(usize::MAX).min(plain.len());
            out.reserve(1024.max((plain.len() - done) / 4));
            deflate.compress_vec(&plain[done..], &mut out, FlushCompress::Finish)
        } {}
    });
    let mut crc = Crc::new();
    crc.update(plain);
    out.extend_from_slice(&crc.sum().to_le_bytes());
    out.extend_from_slice(&crc.amount().to_le_bytes());
    out.shrink_to_fit();
    out
}

/// Decompresses what [`gzip`] has made of `length` bytes.
pub fn gunzip(gzipped: &[u8], length: usize) -> Vec<u8> {
    let mut plain = Vec::with_capacity(length);
    // It was made by `gzip` and kept in memory: it cannot be damaged.
    let read = GzDecoder::new(gzipped).read_to_end(&mut plain);
    debug_assert!(read.is_ok());
    let _ = plain.flush();
    plain
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{gunzip, gzip};

    proptest! {
        #[test]
        fn compression_is_reversible(plain in proptest::collection::vec(any::<u8>(), 0..100_000)) {
            prop_assert_eq!(gunzip(&gzip(&plain), plain.len()), plain);
        }
    }

    #[test]
    fn a_repetitive_text_is_compressed_well_and_completely() {
        let plain = "some_connections_total{state=\"created\"} 12\n".repeat(50_000).into_bytes();
        let small = gzip(&plain);
        assert!(small.len() * 20 < plain.len());
        assert_eq!(gunzip(&small, plain.len()), plain);
    }
}
