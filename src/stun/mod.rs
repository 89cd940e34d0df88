//! Messages of STUN (RFC 8489) and TURN (RFC 8656), and the ChannelData of TURN, as bytes. Nothing here does I/O, and whatever is read is read
//! within its bounds.

mod channel;
mod credentials;
mod fault;
mod frame;
mod message;
mod writer;

pub use channel::{ChannelData, is_channel};
pub use credentials::{CredentialKey, SharedSecretCredentials};
pub use fault::StunFault;
pub use frame::{FRAME_PREFIX, StunFrame, frame_length};
pub use message::{Integrity, StunMessage};
pub use writer::{StunWriter, TooLongForStun};

/// Bytes of the header of a message.
const HEADER: usize = 20;

/// What tells a message of STUN from others: bytes 4 to 7 of each.
const COOKIE: u32 = 0x2112_A442;

/// What the checksum of a message is combined with, so that it differs from those of other protocols in the same packet.
const FINGERPRINT_XOR: u32 = 0x5354_554E;

/// Bytes of the value of MESSAGE-INTEGRITY.
const INTEGRITY: usize = 20;

/// The number that tells an answer from those to other requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransactionId(pub [u8; 12]);

impl TransactionId {
    /// One that nobody can guess; none if the system has no source of random numbers.
    pub fn random() -> Option<Self> {
        let mut bytes = [0; 12];
        aws_lc_rs::rand::fill(&mut bytes).ok().map(|()| Self(bytes))
    }
}

/// What a message is: one of four classes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StunClass {
    /// It asks for an answer.
    Request,
    /// It does not.
    Indication,
    /// The good answer.
    Success,
    /// The bad answer.
    Error,
}

/// What a message is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StunMethod(u16);

impl StunMethod {
    /// The address that the server sees.
    pub const BINDING: Self = Self(0x001);
    /// A relayed address.
    pub const ALLOCATE: Self = Self(0x003);
    /// How long an allocation lives on.
    pub const REFRESH: Self = Self(0x004);
    /// Data to a peer.
    pub const SEND: Self = Self(0x006);
    /// Data from a peer.
    pub const DATA: Self = Self(0x007);
    /// Whom the relay takes data from.
    pub const CREATE_PERMISSION: Self = Self(0x008);
    /// A short number for a peer.
    pub const CHANNEL_BIND: Self = Self(0x009);

    /// Its number, of 12 bits.
    pub const fn number(self) -> u16 {
        self.0
    }
}

/// The two words of a type: the bits of the class stand between those of the method.
const fn message_type(class: StunClass, method: StunMethod) -> u16 {
    let class = match class {
        StunClass::Request => 0x000,
        StunClass::Indication => 0x010,
        StunClass::Success => 0x100,
        StunClass::Error => 0x110,
    };
    let StunMethod(number) = method;
    (number & 0xF80) << 2 | (number & 0x070) << 1 | number & 0x00F | class
}

/// The same the other way around. The first two bits must be 0.
const fn of_message_type(word: u16) -> (StunClass, StunMethod) {
    let class = match (word & 0x100 != 0, word & 0x010 != 0) {
        (false, false) => StunClass::Request,
        (false, true) => StunClass::Indication,
        (true, false) => StunClass::Success,
        (true, true) => StunClass::Error,
    };
    (class, StunMethod((word >> 2) & 0xF80 | (word >> 1) & 0x070 | word & 0x00F))
}

/// What an attribute is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StunAttribute(pub u16);

impl StunAttribute {
    /// The address that the server sees, in plain: of servers of RFC 3489.
    pub const MAPPED_ADDRESS: Self = Self(0x0001);
    /// Who asks.
    pub const USERNAME: Self = Self(0x0006);
    /// A code over the message that needs the password.
    pub const MESSAGE_INTEGRITY: Self = Self(0x0008);
    /// Why it is refused.
    pub const ERROR_CODE: Self = Self(0x0009);
    /// Attributes that the server must know and does not.
    pub const UNKNOWN_ATTRIBUTES: Self = Self(0x000A);
    /// The number of a channel.
    pub const CHANNEL_NUMBER: Self = Self(0x000C);
    /// Seconds that an allocation lives.
    pub const LIFETIME: Self = Self(0x000D);
    /// The other end.
    pub const XOR_PEER_ADDRESS: Self = Self(0x0012);
    /// What is sent to or has come from a peer.
    pub const DATA: Self = Self(0x0013);
    /// What the password is for.
    pub const REALM: Self = Self(0x0014);
    /// What the server wants to see again.
    pub const NONCE: Self = Self(0x0015);
    /// The address of an allocation.
    pub const XOR_RELAYED_ADDRESS: Self = Self(0x0016);
    /// The IP version of an allocation.
    pub const REQUESTED_ADDRESS_FAMILY: Self = Self(0x0017);
    /// The protocol of an allocation.
    pub const REQUESTED_TRANSPORT: Self = Self(0x0019);
    /// The same code with SHA-256.
    pub const MESSAGE_INTEGRITY_SHA256: Self = Self(0x001C);
    /// The address that the server sees.
    pub const XOR_MAPPED_ADDRESS: Self = Self(0x0020);
    /// The program of the other end.
    pub const SOFTWARE: Self = Self(0x8022);
    /// Where to ask instead.
    pub const ALTERNATE_SERVER: Self = Self(0x8023);
    /// A checksum.
    pub const FINGERPRINT: Self = Self(0x8028);
}

/// The bytes of a value with those after it, so that the next attribute begins at a multiple of 4.
const fn padded(length: usize) -> usize {
    length.next_multiple_of(4)
}

/// CRC-32 as FINGERPRINT has it, of a message up to that attribute, whose length counts it.
fn fingerprint(message: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(message);
    crc.sum() ^ FINGERPRINT_XOR
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_types_of_messages_are_those_of_the_rfc() {
        for (class, method, word) in [
            (StunClass::Request, StunMethod::BINDING, 0x0001),
            (StunClass::Success, StunMethod::BINDING, 0x0101),
            (StunClass::Error, StunMethod::BINDING, 0x0111),
            (StunClass::Request, StunMethod::ALLOCATE, 0x0003),
            (StunClass::Error, StunMethod::REFRESH, 0x0114),
            (StunClass::Success, StunMethod::CREATE_PERMISSION, 0x0108),
            (StunClass::Request, StunMethod::CHANNEL_BIND, 0x0009),
            (StunClass::Indication, StunMethod::SEND, 0x0016),
            (StunClass::Indication, StunMethod::DATA, 0x0017),
        ] {
            assert_eq!(message_type(class, method), word);
        }
        for word in 0..0x4000 {
            let (class, method) = of_message_type(word);
            assert_eq!(message_type(class, method), word);
        }
    }
}
