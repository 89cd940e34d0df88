//! What is wrong with bytes that should be a message.

use super::StunAttribute;

/// Why bytes are no message. The texts go on after "the server sent ".
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StunFault {
    /// Shorter than a header.
    #[error("{0} bytes, which is less than the header of a STUN message")]
    Short(usize),
    /// The first two bits are neither those of a message nor those of ChannelData.
    #[error("what is no STUN message: its first byte is 0x{0:02x}")]
    OtherProtocol(u8),
    /// No magic cookie.
    #[error("what is no STUN message: it has no magic cookie")]
    NoCookie,
    /// A length that no message has.
    #[error("a STUN message whose length is {0}, which is no multiple of 4")]
    Length(u16),
    /// It ends too early.
    #[error("a truncated STUN message of {present} bytes, which says that it has {announced}")]
    Truncated {
        /// Bytes that it should have.
        announced: usize,
        /// Bytes that it has.
        present: usize,
    },
    /// It goes on.
    #[error("{present} bytes, of which a STUN message is only {announced}")]
    Trailing {
        /// Bytes of the message.
        announced: usize,
        /// Bytes that there are.
        present: usize,
    },
    /// An attribute says that it goes on after the end of the message.
    #[error("a STUN message whose attribute 0x{attribute:04x} has {length} bytes, and only {left} are left")]
    Overrun {
        /// Which attribute.
        attribute: u16,
        /// Bytes that it should have.
        length: u16,
        /// Bytes that there are.
        left: usize,
    },
    /// The checksum is wrong.
    #[error("a STUN message with a wrong FINGERPRINT")]
    Fingerprint,
    /// The checksum is of another length, or something follows it.
    #[error("a STUN message whose FINGERPRINT does not stand at its end with 4 bytes")]
    MisplacedFingerprint,
    /// The value of an attribute is none that it can have.
    #[error("a STUN message whose attribute 0x{0:04x} cannot be read")]
    Value(u16),
    /// A number that is not that of a channel.
    #[error("ChannelData with the number 0x{0:04x}, which no channel has")]
    Channel(u16),
}

impl StunFault {
    pub(super) const fn value(attribute: StunAttribute) -> Self {
        Self::Value(attribute.0)
    }
}
