//! Where a message or ChannelData ends in a stream, and which of them it is.

use super::{ChannelData, HEADER, StunFault, StunMessage, is_channel, padded};

/// As many bytes tell where it ends.
pub const FRAME_PREFIX: usize = 4;

/// What comes over a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StunFrame<'f> {
    /// A message.
    Message(StunMessage<'f>),
    /// Data of a channel.
    Channel(ChannelData<'f>),
}

impl<'f> StunFrame<'f> {
    /// Reads a datagram, or a frame of a stream.
    pub fn read(bytes: &'f [u8]) -> Result<Self, StunFault> {
        match bytes.first() {
            Some(first) if first >> 6 == 1 => ChannelData::read(bytes).map(Self::Channel),
            _ => StunMessage::read(bytes).map(Self::Message),
        }
    }
}

/// The bytes of what begins with these, together with them: at most 65,555 in all. In a stream ChannelData are padded.
pub fn frame_length(prefix: [u8; FRAME_PREFIX]) -> Result<usize, StunFault> {
    let [first, second, high, low] = prefix;
    let number = u16::from_be_bytes([first, second]);
    let length = u16::from_be_bytes([high, low]);
    match first >> 6 {
        0 if length % 4 != 0 => Err(StunFault::Length(length)),
        0 => Ok(HEADER + usize::from(length)),
        1 if is_channel(number) => Ok(FRAME_PREFIX + padded(usize::from(length))),
        1 => Err(StunFault::Channel(number)),
        _ => Err(StunFault::OtherProtocol(first)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_ends_where_its_first_bytes_say() {
        assert_eq!(frame_length([0x01, 0x01, 0, 12]), Ok(32));
        assert_eq!(frame_length([0x01, 0x01, 0xFF, 0xFC]), Ok(65_552));
        assert_eq!(frame_length([0x40, 0x00, 0, 0]), Ok(4));
        assert_eq!(frame_length([0x40, 0x00, 0, 5]), Ok(12));
        assert_eq!(frame_length([0x4F, 0xFF, 0xFF, 0xFF]), Ok(65_540));
        assert_eq!(frame_length([0x01, 0x01, 0, 13]), Err(StunFault::Length(13)));
        assert_eq!(frame_length(*b"\x80\0\0\0"), Err(StunFault::OtherProtocol(0x80)));
        assert_eq!(frame_length([0x16, 3, 1, 2]), Err(StunFault::Length(258)), "TLS");
        assert_eq!(frame_length(*b"SSH-"), Err(StunFault::Channel(0x5353)));
    }
}
