//! ChannelData: what is relayed, with four bytes before it instead of a message around it.

use super::{FRAME_PREFIX, StunFault, padded};

/// Whether a channel may have this number.
pub const fn is_channel(number: u16) -> bool {
    matches!(number, 0x4000..=0x4FFF)
}

/// Data of a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChannelData<'d> {
    /// Of which channel.
    pub number: u16,
    /// The data.
    pub data: &'d [u8],
}

impl<'d> ChannelData<'d> {
    /// Reads a datagram, or a frame of a stream. Bytes after the data are padding, of which a datagram may have some as well.
    pub fn read(bytes: &'d [u8]) -> Result<Self, StunFault> {
        let Some((&[high, low, long, short], data)) = bytes.split_first_chunk() else {
            return Err(StunFault::Short(bytes.len()));
        };
        let (number, length) = (u16::from_be_bytes([high, low]), usize::from(u16::from_be_bytes([long, short])));
        if !is_channel(number) {
            return Err(StunFault::Channel(number));
        }
        let announced = FRAME_PREFIX + length;
        if bytes.len() > FRAME_PREFIX + padded(length) {
            return Err(StunFault::Trailing { announced, present: bytes.len() });
        }
        let truncated = StunFault::Truncated { announced, present: bytes.len() };
        Ok(Self { number, data: data.get(..length).ok_or(truncated)? })
    }

    /// The bytes for a datagram, or for a stream. None if there are more data than ChannelData have, which is 65,535 bytes.
    pub fn write(&self, in_stream: bool) -> Option<Vec<u8>> {
        let length = u16::try_from(self.data.len()).ok()?;
        let mut bytes = Vec::with_capacity(FRAME_PREFIX + padded(self.data.len()));
        bytes.extend_from_slice(&self.number.to_be_bytes());
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(self.data);
        if in_stream {
            bytes.resize(FRAME_PREFIX + padded(self.data.len()), 0);
        }
        Some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stun::StunFrame;

    #[test]
    fn data_are_read_as_they_were_written() {
        for (data, datagram, in_stream) in [
            (&b"hello"[..], &b"\x40\x01\0\x05hello"[..], &b"\x40\x01\0\x05hello\0\0\0"[..]),
            (b"", b"\x40\x01\0\0", b"\x40\x01\0\0"),
        ] {
            let written = ChannelData { number: 0x4001, data };
            assert_eq!(written.write(false).unwrap(), datagram);
            assert_eq!(written.write(true).unwrap(), in_stream);
            for bytes in [datagram, in_stream] {
                assert_eq!(StunFrame::read(bytes), Ok(StunFrame::Channel(written)));
            }
        }
        assert_eq!(ChannelData { number: 0x4000, data: &vec![0; 65_536] }.write(true), None);
    }

    #[test]
    fn what_are_no_data_is_told() {
        for (bytes, fault) in [
            (&b"\x40\0\0"[..], StunFault::Short(3)),
            (b"\x50\0\0\0", StunFault::Channel(0x5000)),
            (b"\x40\0\0\x05hell", StunFault::Truncated { announced: 9, present: 8 }),
            (b"\x40\0\0\x01a\0\0\0\0", StunFault::Trailing { announced: 5, present: 9 }),
        ] {
            assert_eq!(ChannelData::read(bytes), Err(fault));
        }
    }
}
