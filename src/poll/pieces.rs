//! A rare form of a large exposition, made piece by piece: neither the form nor what it is made of is ever in memory as a whole, however
//! slowly a client reads.

use std::io::{Read, Write};
use std::sync::Arc;

use bytes::Bytes;
use bytes::buf::{Buf, Reader};
use flate2::Compression;
use flate2::bufread::GzDecoder;
use flate2::write::GzEncoder;

use crate::metric::{Encoding, Format, PlainCounters, Rewriter};

/// Bytes of the form that is kept that one piece is made of.
const PIECE: usize = 64 << 10;

/// The pieces of one form. Each takes about a millisecond.
#[derive(Debug)]
pub struct Pieces {
    kept: GzDecoder<Reader<Bytes>>,
    plain_counters: Arc<PlainCounters>,
    rewriter: Option<Rewriter>,
    gzip: Option<GzEncoder<Vec<u8>>>,
    /// The line that the last piece broke off in.
    rest: Vec<u8>,
    ended: bool,
}

impl Pieces {
    /// The pieces of `format` in `encoding`, of `gzip`, which holds an exposition in the format `kept`.
    pub(super) fn new(
        gzip: Bytes,
        kept: Format,
        plain_counters: Arc<PlainCounters>,
        format: Format,
        encoding: Encoding,
    ) -> Self {
        Self {
            kept: GzDecoder::new(gzip.reader()),
            plain_counters,
            rewriter: (format != kept).then(|| Rewriter::new(format)),
            gzip: (encoding == Encoding::Gzip).then(|| GzEncoder::new(Vec::new(), Compression::fast())),
            rest: Vec::new(),
            ended: false,
        }
    }

    /// The next lines as they are kept; empty at the end.
    fn lines(&mut self) -> Vec<u8> {
        let mut lines = std::mem::take(&mut self.rest);
        loop {
            let before = lines.len();
            // It was made by us and kept in memory: it cannot be damaged.
            let read = (&mut self.kept).take(PIECE as u64).read_to_end(&mut lines);
            debug_assert!(read.is_ok());
            if lines.len() == before {
                return lines;
            }
            if let Some(end) = lines.iter().rposition(|byte| *byte == b'\n') {
                self.rest = lines.split_off(end + 1);
                return lines;
            }
        }
    }

    /// The next piece, which may be empty; none at the end.
    fn make(&mut self) -> Option<Vec<u8>> {
        if self.ended {
            return None;
        }
        let mut piece = self.lines();
        self.ended = piece.is_empty();
        if let Some(rewriter) = &mut self.rewriter {
            let mut text = String::with_capacity(piece.len() + piece.len() / 16);
            rewriter.write(&String::from_utf8_lossy(&piece), &self.plain_counters, &mut text);
            if self.ended {
                rewriter.finish(&mut text);
            }
            piece = text.into_bytes();
        }
        let Some(mut gzip) = self.gzip.take() else { return Some(piece) };
        // Writing to a Vec cannot fail.
        let _ = gzip.write_all(&piece);
        if self.ended {
            return gzip.finish().ok();
        }
        piece = std::mem::take(gzip.get_mut());
        self.gzip = Some(gzip);
        Some(piece)
    }
}

impl Iterator for Pieces {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        loop {
            let piece = self.make()?;
            if !piece.is_empty() {
                return Some(piece.into());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kind::Reason;
    use crate::metric::{Families, Suffix, Type};
    use crate::poll::gzip::gunzip;
    use crate::poll::render;

    #[test]
    fn the_pieces_of_a_form_are_together_the_form() {
        let mut families = Families::default();
        for i in 0..3000 {
            let kind = if i % 3 == 0 { Type::Counter } else { Type::Gauge };
            let family = families.family(&format!("f{i}"), kind, "a \"help\" \\ with\nescapes\r").unwrap();
            let value = "é".repeat(i % 97);
            families.set_dynamic(family, Suffix::None, &[("l", &value)], 1.5);
        }
        let finished = families.finish();
        let forms = [Format::OpenMetrics, Format::Text];
        let snapshots = forms.map(|kept| render::test_snapshot(&finished, kept));
        for (snapshot, format) in snapshots.iter().flat_map(|snapshot| forms.map(|format| (snapshot, format))) {
            let whole = snapshot.body(format, Encoding::Identity);
            assert!(whole == snapshots[0].body(format, Encoding::Identity));
            assert!(whole.len() > 4 * PIECE && snapshot.is_costly(format, Encoding::Identity));
            let mut pieces: Vec<Bytes> = snapshot.pieces(format, Encoding::Identity).collect();
            assert!(pieces.len() > 4 && pieces.iter().all(|piece| piece.len() < 2 * PIECE));
            assert!(pieces.concat() == whole, "{format:?}");
            pieces = snapshot.pieces(format, Encoding::Gzip).collect();
            assert!(gunzip(&pieces.concat(), whole.len()) == whole, "{format:?}, compressed");
        }
        let small = render::unpolled(Reason::Connect, "refused");
        let format = Format::Text;
        assert_eq!(
            small.pieces(format, Encoding::Identity).collect::<Vec<_>>().concat(),
            small.body(format, Encoding::Identity)
        );
    }
}
