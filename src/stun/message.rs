//! Reads a message. What can be read was checked as a whole before: attributes do not go on after the end, and a checksum is right.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{
    COOKIE, CredentialKey, HEADER, INTEGRITY, StunAttribute, StunClass, StunFault, StunMethod, TransactionId,
    fingerprint, of_message_type, padded,
};

/// Bytes of an attribute before its value.
const ATTRIBUTE_HEADER: usize = 4;

/// The most attributes of UNKNOWN-ATTRIBUTES that are told.
const MOST_UNKNOWN: usize = 8;

/// The longest text of a server that is shown, in characters: as long as RFC 8489 lets reasons and SOFTWARE be.
const LONGEST_TEXT: usize = 128;

/// A message that came from somebody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StunMessage<'m> {
    bytes: &'m [u8],
    /// What it is.
    pub class: StunClass,
    /// What it is about.
    pub method: StunMethod,
    /// To which request it belongs.
    pub transaction: TransactionId,
}

/// Whether a message comes from somebody who knows the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Integrity {
    /// It does.
    Valid,
    /// It does not, or was changed.
    Invalid,
    /// It does not say so.
    Absent,
}

/// One attribute, as it stands in the message.
#[derive(Clone, Copy)]
struct FoundAttribute<'m> {
    kind: StunAttribute,
    /// Where its header begins, in bytes from the beginning of the message.
    at: usize,
    value: &'m [u8],
}

impl<'m> StunMessage<'m> {
    /// Reads a datagram, or a frame of a stream, which must be a message and nothing else.
    pub fn read(bytes: &'m [u8]) -> Result<Self, StunFault> {
        let Some((header, body)) = bytes.split_first_chunk::<HEADER>() else { return Err(short(bytes)) };
        let &[t1, t2, l1, l2, c1, c2, c3, c4, ref transaction @ ..] = header;
        if t1 >> 6 != 0 {
            return Err(StunFault::OtherProtocol(t1));
        }
        if u32::from_be_bytes([c1, c2, c3, c4]) != COOKIE {
            return Err(StunFault::NoCookie);
        }
        let length = u16::from_be_bytes([l1, l2]);
        if length % 4 != 0 {
            return Err(StunFault::Length(length));
        }
        let (announced, present) = (HEADER + usize::from(length), bytes.len());
        if present < announced {
            return Err(StunFault::Truncated { announced, present });
        }
        if present > announced {
            return Err(StunFault::Trailing { announced, present });
        }
        let (class, method) = of_message_type(u16::from_be_bytes([t1, t2]));
        let message = Self { bytes, class, method, transaction: TransactionId(*transaction) };
        message.check(body.len())?;
        Ok(message)
    }

    /// Checks that every attribute ends before the message does, and the checksum if there is one.
    fn check(&self, length: usize) -> Result<(), StunFault> {
        let mut end = HEADER;
        for attribute in self.attributes() {
            let FoundAttribute { kind, at, value } = attribute?;
            end = at + ATTRIBUTE_HEADER + padded(value.len());
            if kind != StunAttribute::FINGERPRINT {
                continue;
            }
            let Ok(value) = value.try_into().map(u32::from_be_bytes) else {
                return Err(StunFault::MisplacedFingerprint);
            };
            if end != HEADER + length {
                return Err(StunFault::MisplacedFingerprint);
            }
            if self.bytes.get(..at).map(fingerprint) != Some(value) {
                return Err(StunFault::Fingerprint);
            }
        }
        debug_assert_eq!(end, HEADER + length, "attributes fill a message");
        Ok(())
    }

    /// All attributes in their order; the last one is an error if it goes on after the end.
    fn attributes(&self) -> impl Iterator<Item = Result<FoundAttribute<'m>, StunFault>> + use<'m> {
        let (bytes, mut at) = (self.bytes, HEADER);
        std::iter::from_fn(move || {
            let (&[k1, k2, l1, l2], rest) = bytes.get(at..)?.split_first_chunk()?;
            let (kind, length) = (u16::from_be_bytes([k1, k2]), u16::from_be_bytes([l1, l2]));
            // The message has a length that is a multiple of 4, so the padding of a value that is there is there as well.
            let Some(value) = rest.get(..usize::from(length)) else {
                at = bytes.len();
                return Some(Err(StunFault::Overrun { attribute: kind, length, left: rest.len() }));
            };
            let found = FoundAttribute { kind: StunAttribute(kind), at, value };
            at += ATTRIBUTE_HEADER + padded(value.len());
            Some(Ok(found))
        })
    }

    fn find(&self, wanted: StunAttribute) -> Option<FoundAttribute<'m>> {
        const AFTER_INTEGRITY: [StunAttribute; 3] =
            [StunAttribute::MESSAGE_INTEGRITY, StunAttribute::MESSAGE_INTEGRITY_SHA256, StunAttribute::FINGERPRINT];
        for attribute in self.attributes().filter_map(Result::ok) {
            if attribute.kind == wanted {
                return Some(attribute);
            }
            // What follows is not authenticated, so it does not count.
            if attribute.kind == StunAttribute::MESSAGE_INTEGRITY && !AFTER_INTEGRITY.contains(&wanted) {
                return None;
            }
        }
        None
    }

    /// The whole message.
    pub const fn as_bytes(&self) -> &'m [u8] {
        self.bytes
    }

    /// The value of an attribute; that of the first one if there are several.
    pub fn value(&self, attribute: StunAttribute) -> Option<&'m [u8]> {
        self.find(attribute).map(|found| found.value)
    }

    /// The value of an attribute that is one number.
    pub fn number(&self, attribute: StunAttribute) -> Result<Option<u32>, StunFault> {
        let Some(value) = self.value(attribute) else { return Ok(None) };
        value.try_into().map(|bytes| Some(u32::from_be_bytes(bytes))).map_err(|_| StunFault::value(attribute))
    }

    /// The value of an attribute that is text of the server, for people: one line of printable characters, not too long. None if nothing is left.
    pub fn text(&self, attribute: StunAttribute) -> Option<String> {
        self.value(attribute).map(one_line).filter(|text| !text.is_empty())
    }

    /// The value of an attribute that is an address combined with the cookie.
    pub fn xor_address(&self, attribute: StunAttribute) -> Result<Option<SocketAddr>, StunFault> {
        let Some(value) = self.value(attribute) else { return Ok(None) };
        let address = read_address(value).ok_or_else(|| StunFault::value(attribute))?;
        Ok(Some(xor(address, self.transaction)))
    }

    /// The address that the server sees, also that of a server that knows only RFC 3489.
    pub fn mapped_address(&self) -> Result<Option<SocketAddr>, StunFault> {
        if let Some(address) = self.xor_address(StunAttribute::XOR_MAPPED_ADDRESS)? {
            return Ok(Some(address));
        }
        let Some(value) = self.value(StunAttribute::MAPPED_ADDRESS) else { return Ok(None) };
        read_address(value).map(Some).ok_or_else(|| StunFault::value(StunAttribute::MAPPED_ADDRESS))
    }

    /// Why the server refuses: from 300 to 699. What it says of that for people is not read, since the codes have meanings.
    pub fn error_code(&self) -> Result<Option<u16>, StunFault> {
        const KIND: StunAttribute = StunAttribute::ERROR_CODE;
        let Some(value) = self.value(KIND) else { return Ok(None) };
        let Some(&[_, _, class, number]) = value.first_chunk() else {
            return Err(StunFault::value(KIND));
        };
        let class = class & 7;
        if !(3..=6).contains(&class) || number > 99 {
            return Err(StunFault::value(KIND));
        }
        Ok(Some(u16::from(class) * 100 + u16::from(number)))
    }

    /// The attributes that the server should know and does not; not more than some.
    pub fn unknown_attributes(&self) -> Vec<u16> {
        let value = self.value(StunAttribute::UNKNOWN_ATTRIBUTES).unwrap_or_default();
        let (pairs, _) = value.as_chunks();
        pairs.iter().take(MOST_UNKNOWN).map(|pair| u16::from_be_bytes(*pair)).collect()
    }

    /// Whether it comes from somebody who knows the key.
    pub fn integrity(&self, key: &CredentialKey) -> Integrity {
        let Some(FoundAttribute { at, value, .. }) = self.find(StunAttribute::MESSAGE_INTEGRITY) else {
            return Integrity::Absent;
        };
        let Some(signed) =
            self.bytes.get(..at).and_then(|before| with_length(before, at + ATTRIBUTE_HEADER + INTEGRITY))
        else {
            return Integrity::Invalid;
        };
        if value.len() == INTEGRITY && key.verify(&signed, value) { Integrity::Valid } else { Integrity::Invalid }
    }
}

/// The beginning of a message, with the length that it has if it ends at `end`.
fn with_length(message: &[u8], end: usize) -> Option<Vec<u8>> {
    let length = u16::try_from(end.checked_sub(HEADER)?).ok()?;
    let mut bytes = message.to_vec();
    bytes.get_mut(2..4)?.copy_from_slice(&length.to_be_bytes());
    Some(bytes)
}

/// What is too short for a header may be something else.
fn short(bytes: &[u8]) -> StunFault {
    match bytes.first() {
        Some(first) if first >> 6 != 0 => StunFault::OtherProtocol(*first),
        _ => StunFault::Short(bytes.len()),
    }
}

/// An address as it stands in an attribute.
fn read_address(value: &[u8]) -> Option<SocketAddr> {
    let (&[_, family, high, low], address) = value.split_first_chunk()?;
    let ip: IpAddr = match family {
        1 => <[u8; 4]>::try_from(address).ok()?.into(),
        2 => <[u8; 16]>::try_from(address).ok()?.into(),
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_be_bytes([high, low])))
}

/// Combines an address with the cookie and the transaction, as routers must not find it in a message. Twice is not at all.
pub(super) fn xor(address: SocketAddr, TransactionId(transaction): TransactionId) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(v4) => Ipv4Addr::from(u32::from(v4) ^ COOKIE).into(),
        IpAddr::V6(v6) => {
            let mask = transaction.iter().fold(u128::from(COOKIE), |mask, byte| mask << 8 | u128::from(*byte));
            Ipv6Addr::from(u128::from(v6) ^ mask).into()
        }
    };
    let mask = (COOKIE >> 16) as u16;
    SocketAddr::new(ip, address.port() ^ mask)
}

/// A text of a server for people. Some end with zeros.
fn one_line(text: &[u8]) -> String {
    let end = text.iter().position(|byte| *byte == 0).unwrap_or(text.len());
    let text = String::from_utf8_lossy(text.get(..end).unwrap_or_default());
    let shown: String = text.chars().take(LONGEST_TEXT).map(|c| if is_printable(c) { c } else { ' ' }).collect();
    shown.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Neither a control character nor one that changes how others are shown.
fn is_printable(c: char) -> bool {
    let hides = matches!(c, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
    !c.is_control() && !hides
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stun::StunWriter;

    const ID: TransactionId = TransactionId([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]);

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<char> = text.chars().filter(|c| !c.is_whitespace()).collect();
        digits.chunks(2).map(|pair| u8::from_str_radix(&pair.iter().collect::<String>(), 16).unwrap()).collect()
    }

    /// A success answer with these attributes.
    fn answer(attributes: &[(StunAttribute, &[u8])]) -> Vec<u8> {
        let mut writer = StunWriter::new(StunClass::Success, StunMethod::BINDING, ID);
        for (kind, value) in attributes {
            writer.attribute(*kind, value);
        }
        writer.finish().unwrap()
    }

    /// RFC 5769, 2.1.
    const REQUEST: &str = "000100582112a442b7e7a701bc34d686fa87dfae802200105354554e207465737420636c69656e74002400046e0001ff80290008932ff9b15126\
        3b36000600096576746a3a68367659202020000800149aeaa70cbfd8cb56781ef2b5b2d3f249c1b571a280280004e57a3bcf";
    /// RFC 5769, 2.2 and 2.3.
    const RESPONSES: [(&str, &str); 2] = [
        (
            "0101003c2112a442b7e7a701bc34d686fa87dfae8022000b7465737420766563746f7220002000080001a147e112a643000800142b91f599fd9e\
        90c38c7489f92af9ba53f06be7d780280004c07d4c96",
            "192.0.2.1:32853",
        ),
        (
            "010100482112a442b7e7a701bc34d686fa87dfae8022000b7465737420766563746f7220002000140002a1470113a9faa5d3f179bc25f4b5bed2\
        b9d900080014a382954e4be67bf11784c97c8292c275bfe3ed4180280004c8fb0b4c",
            "[2001:db8:1234:5678:11:2233:4455:6677]:32853",
        ),
    ];
    /// RFC 5769, 2.4: without FINGERPRINT, and a name and a password beyond ASCII.
    const LONG_TERM: &str = "000100602112a44278ad3433c6ad72c029da412e00060012e3839ee38388e383aae38383e382afe382b900000015001c662f2f3439396b393534\
        64364f4c33346f4c394653547679363473410014000b6578616d706c652e6f72670000080014f67024656dd64a3e02b8e0712e85c9a28ca89666";

    #[test]
    fn the_vectors_of_the_rfc_are_read_and_their_integrity_holds() {
        let key = CredentialKey::short_term("VOkJxbRl1RmTxUk/WvJxBt");
        let request = hex(REQUEST);
        let request = StunMessage::read(&request).unwrap();
        assert_eq!((request.class, request.method), (StunClass::Request, StunMethod::BINDING));
        assert_eq!(request.text(StunAttribute::SOFTWARE).unwrap(), "STUN test client");
        assert_eq!(request.value(StunAttribute::USERNAME).unwrap(), b"evtj:h6vY");
        assert_eq!(request.integrity(&key), Integrity::Valid);
        for (response, address) in RESPONSES {
            let bytes = hex(response);
            let response = StunMessage::read(&bytes).unwrap();
            assert_eq!((response.class, response.transaction), (StunClass::Success, request.transaction));
            assert_eq!(response.mapped_address().unwrap().unwrap().to_string(), address);
            assert_eq!(response.text(StunAttribute::SOFTWARE).unwrap(), "test vector");
            assert_eq!(response.integrity(&key), Integrity::Valid);
            assert_eq!(response.integrity(&CredentialKey::short_term("another")), Integrity::Invalid);
        }
        let request = hex(LONG_TERM);
        let request = StunMessage::read(&request).unwrap();
        let user = request.text(StunAttribute::USERNAME).unwrap();
        assert_eq!(user, "\u{30DE}\u{30C8}\u{30EA}\u{30C3}\u{30AF}\u{30B9}");
        let key = CredentialKey::long_term(&user, request.value(StunAttribute::REALM).unwrap(), "TheMatrIX");
        assert_eq!(request.integrity(&key), Integrity::Valid);
        assert_eq!(request.error_code(), Ok(None));
    }

    #[test]
    fn every_changed_bit_of_a_message_with_a_checksum_is_noticed() {
        let good = hex(RESPONSES[0].0);
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            // A message may have none: its attribute may have become another one, or a part of the one before.
            let is_without = |message: StunMessage<'_>| message.value(StunAttribute::FINGERPRINT).is_none();
            assert!(StunMessage::read(&bad).map_or(true, is_without), "bit {bit}");
        }
        for end in 0..good.len() {
            assert!(StunMessage::read(&good[..end]).is_err(), "{end}");
        }
    }

    #[test]
    fn it_is_told_what_is_wrong() {
        let good = answer(&[(StunAttribute::SOFTWARE, b"abcd")]);
        let changed = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            bytes
        };
        let with = |more: &[u8]| [&good, more].concat();
        for (bytes, fault) in [
            (Vec::new(), StunFault::Short(0)),
            (good[..19].to_vec(), StunFault::Short(19)),
            (b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), StunFault::OtherProtocol(b'H')),
            (changed(0, 0x81), StunFault::OtherProtocol(0x81)),
            (changed(7, 0), StunFault::NoCookie),
            (changed(3, 7), StunFault::Length(7)),
            (changed(3, 12), StunFault::Truncated { announced: 32, present: 28 }),
            (with(&[0; 3]), StunFault::Trailing { announced: 28, present: 31 }),
            (changed(23, 5), StunFault::Overrun { attribute: 0x8022, length: 5, left: 4 }),
            (answer(&[(StunAttribute::FINGERPRINT, &[0; 4])]), StunFault::Fingerprint),
            (answer(&[(StunAttribute::FINGERPRINT, &[0; 8])]), StunFault::MisplacedFingerprint),
            (
                answer(&[(StunAttribute::FINGERPRINT, &[0; 4]), (StunAttribute::SOFTWARE, b"a")]),
                StunFault::MisplacedFingerprint,
            ),
        ] {
            assert_eq!(StunMessage::read(&bytes), Err(fault), "{fault}");
        }
    }

    #[test]
    fn a_value_that_cannot_be_read_is_told_when_it_is_asked_for() {
        for value in
            [&[][..], &[0, 1, 0], &[0, 1, 0, 80, 1, 2, 3], &[0, 2, 0, 80, 1, 2, 3, 4], &[0, 3, 0, 80, 1, 2, 3, 4]]
        {
            for kind in [StunAttribute::XOR_MAPPED_ADDRESS, StunAttribute::MAPPED_ADDRESS] {
                let bytes = answer(&[(kind, value)]);
                assert_eq!(
                    StunMessage::read(&bytes).unwrap().mapped_address(),
                    Err(StunFault::value(kind)),
                    "{value:?}"
                );
            }
        }
        for value in [&[][..], &[0, 0, 4], &[0, 0, 2, 0], &[0, 0, 7, 0], &[0, 0, 4, 100]] {
            let bytes = answer(&[(StunAttribute::ERROR_CODE, value)]);
            let fault = StunFault::value(StunAttribute::ERROR_CODE);
            assert_eq!(StunMessage::read(&bytes).unwrap().error_code(), Err(fault), "{value:?}");
        }
        let bytes = answer(&[(StunAttribute::LIFETIME, &[0, 0, 1]), (StunAttribute::LIFETIME, &[0, 0, 0, 1])]);
        let message = StunMessage::read(&bytes).unwrap();
        assert_eq!(message.number(StunAttribute::LIFETIME), Err(StunFault::value(StunAttribute::LIFETIME)));
        assert_eq!(message.number(StunAttribute::CHANNEL_NUMBER), Ok(None));
    }

    #[test]
    fn texts_are_shown_in_one_line_of_printable_characters() {
        let shown = |text: &[u8]| {
            let bytes = answer(&[(StunAttribute::SOFTWARE, text)]);
            StunMessage::read(&bytes).unwrap().text(StunAttribute::SOFTWARE)
        };
        assert_eq!(shown(b"None\0\0").as_deref(), Some("None"));
        assert_eq!(shown(b""), None);
        assert_eq!(shown("a\r\n b\u{202e}c \u{1b}[31m\u{feff}".as_bytes()).as_deref(), Some("a b c [31m"));
        assert_eq!(shown(b"\xff\xfe").as_deref(), Some("\u{fffd}\u{fffd}"));
        assert_eq!(shown("é".repeat(700).as_bytes()).unwrap().chars().count(), LONGEST_TEXT);
    }

    #[test]
    fn errors_are_read_with_what_the_server_does_not_know() {
        for reason in [&b"Unknown Attribute\0\0"[..], b"", b"\xff"] {
            let bytes = answer(&[(StunAttribute::ERROR_CODE, &[&[0, 0, 4, 20], reason].concat())]);
            assert_eq!(StunMessage::read(&bytes).unwrap().error_code(), Ok(Some(420)));
        }
        let bytes = answer(&[(StunAttribute::UNKNOWN_ATTRIBUTES, &[0, 0x19, 0x80, 0x22, 7])]);
        assert_eq!(StunMessage::read(&bytes).unwrap().unknown_attributes(), [0x19, 0x8022]);
        let bytes = answer(&[(StunAttribute::UNKNOWN_ATTRIBUTES, &[7; 4000])]);
        assert_eq!(StunMessage::read(&bytes).unwrap().unknown_attributes().len(), MOST_UNKNOWN);
    }

    #[test]
    fn what_follows_the_integrity_does_not_count() {
        let key = CredentialKey::short_term("k");
        let mut writer = StunWriter::new(StunClass::Success, StunMethod::ALLOCATE, ID);
        writer.attribute(StunAttribute::REALM, b"signed").integrity(&key);
        writer.attribute(StunAttribute::REALM, b"forged").attribute(StunAttribute::NONCE, b"forged");
        let bytes = writer.finish_with_fingerprint().unwrap();
        let message = StunMessage::read(&bytes).unwrap();
        assert_eq!(message.integrity(&key), Integrity::Valid);
        assert_eq!(message.value(StunAttribute::REALM).unwrap(), b"signed");
        assert_eq!(message.value(StunAttribute::NONCE), None);
        assert!(message.value(StunAttribute::FINGERPRINT).is_some());
        let bytes = answer(&[(StunAttribute::MESSAGE_INTEGRITY, &[0; 4])]);
        assert_eq!(StunMessage::read(&bytes).unwrap().integrity(&key), Integrity::Invalid);
        let bytes = answer(&[]);
        assert_eq!(StunMessage::read(&bytes).unwrap().integrity(&key), Integrity::Absent);
    }

    #[test]
    fn an_address_is_combined_with_cookie_and_transaction() {
        for address in ["192.0.2.1:0", "[2001:db8::1]:65535", "[::ffff:192.0.2.1]:3478"] {
            let address: SocketAddr = address.parse().unwrap();
            let mut writer = StunWriter::new(StunClass::Success, StunMethod::BINDING, ID);
            writer.xor_address(StunAttribute::XOR_PEER_ADDRESS, address);
            let bytes = writer.finish().unwrap();
            let message = StunMessage::read(&bytes).unwrap();
            assert_eq!(message.xor_address(StunAttribute::XOR_PEER_ADDRESS), Ok(Some(address)));
            assert_eq!(message.mapped_address(), Ok(None));
        }
        // RFC 3489 knew no combination.
        let bytes = answer(&[(StunAttribute::MAPPED_ADDRESS, &[0, 1, 0, 80, 192, 0, 2, 1])]);
        let mapped = StunMessage::read(&bytes).unwrap().mapped_address().unwrap().unwrap();
        assert_eq!(mapped.to_string(), "192.0.2.1:80");
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_a_message_or_a_fault(
            mut bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..64),
            is_headed in proptest::prelude::any::<bool>(),
        ) {
            if is_headed && bytes.len() >= HEADER {
                let length = u16::try_from(bytes.len() - HEADER).unwrap().to_be_bytes();
                bytes[..8].copy_from_slice(&[1, 1, length[0], length[1], 0x21, 0x12, 0xA4, 0x42]);
            }
            if let Ok(message) = StunMessage::read(&bytes) {
                let _ = (message.mapped_address(), message.error_code(), message.text(StunAttribute::SOFTWARE));
                let _ = (message.unknown_attributes(), message.integrity(&CredentialKey::short_term("k")));
            }
        }
    }
}
