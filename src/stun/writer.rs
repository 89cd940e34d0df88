//! Writes a message.

use std::net::{IpAddr, SocketAddr};

use super::message::xor;
use super::{
    COOKIE, CredentialKey, HEADER, INTEGRITY, StunAttribute, StunClass, StunMethod, TransactionId, fingerprint,
    message_type, padded,
};

/// What is to be sent is longer than a message can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is longer than the 65,535 bytes of a STUN message")]
pub struct TooLongForStun;

/// A message that is being written. Attributes are in the order in which they are added.
#[derive(Debug)]
pub struct StunWriter {
    bytes: Vec<u8>,
    transaction: TransactionId,
    is_too_long: bool,
}

impl StunWriter {
    /// A message without attributes.
    pub fn new(class: StunClass, method: StunMethod, transaction: TransactionId) -> Self {
        let mut bytes = Vec::with_capacity(128);
        bytes.extend_from_slice(&message_type(class, method).to_be_bytes());
        bytes.extend_from_slice(&[0; 2]);
        bytes.extend_from_slice(&COOKIE.to_be_bytes());
        bytes.extend_from_slice(&transaction.0);
        Self { bytes, transaction, is_too_long: false }
    }

    /// Adds an attribute.
    pub fn attribute(&mut self, attribute: StunAttribute, value: &[u8]) -> &mut Self {
        let Ok(length) = u16::try_from(value.len()) else {
            self.is_too_long = true;
            return self;
        };
        self.bytes.extend_from_slice(&attribute.0.to_be_bytes());
        self.bytes.extend_from_slice(&length.to_be_bytes());
        self.bytes.extend_from_slice(value);
        self.bytes.resize(padded(self.bytes.len()), 0);
        self
    }

    /// Adds an attribute that is an address combined with the cookie.
    pub fn xor_address(&mut self, attribute: StunAttribute, address: SocketAddr) -> &mut Self {
        let address = xor(address, self.transaction);
        let mut value = vec![0, if address.is_ipv4() { 1 } else { 2 }];
        value.extend_from_slice(&address.port().to_be_bytes());
        match address.ip() {
            IpAddr::V4(v4) => value.extend_from_slice(&v4.octets()),
            IpAddr::V6(v6) => value.extend_from_slice(&v6.octets()),
        }
        self.attribute(attribute, &value)
    }

    /// Adds MESSAGE-INTEGRITY over all that was added before.
    pub fn integrity(&mut self, key: &CredentialKey) -> &mut Self {
        self.set_length(INTEGRITY);
        let value = key.sign(&self.bytes);
        self.attribute(StunAttribute::MESSAGE_INTEGRITY, &value)
    }

    /// The message.
    pub fn finish(mut self) -> Result<Vec<u8>, TooLongForStun> {
        self.set_length_of(self.bytes.len());
        if self.is_too_long { Err(TooLongForStun) } else { Ok(self.bytes) }
    }

    /// The message with FINGERPRINT at its end.
    pub fn finish_with_fingerprint(mut self) -> Result<Vec<u8>, TooLongForStun> {
        self.set_length(4);
        let value = fingerprint(&self.bytes);
        self.attribute(StunAttribute::FINGERPRINT, &value.to_be_bytes());
        self.finish()
    }

    /// Sets the length to that with one more attribute, whose value has so many bytes.
    fn set_length(&mut self, value: usize) {
        self.set_length_of(self.bytes.len() + 4 + value);
    }

    fn set_length_of(&mut self, total: usize) {
        match (u16::try_from(total.saturating_sub(HEADER)), self.bytes.get_mut(2..4)) {
            (Ok(length), Some(place)) => place.copy_from_slice(&length.to_be_bytes()),
            _ => self.is_too_long = true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stun::{Integrity, StunMessage};

    const ID: TransactionId = TransactionId([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]);

    fn request(method: StunMethod, add: impl FnOnce(&mut StunWriter)) -> String {
        let mut writer = StunWriter::new(StunClass::Request, method, ID);
        add(&mut writer);
        let bytes = writer.finish_with_fingerprint().unwrap();
        bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat()
    }

    #[test]
    fn requests_are_those_that_servers_answer() {
        let binding = request(StunMethod::BINDING, |_| ());
        assert_eq!(binding, "000100082112a442000102030405060708090a0b802800045b0ff6fc");
        let allocate = request(StunMethod::ALLOCATE, |writer| {
            writer.attribute(StunAttribute::REQUESTED_TRANSPORT, &[17, 0, 0, 0]);
        });
        assert_eq!(allocate, "000300102112a442000102030405060708090a0b001900041100000080280004c4b8ec87");
        let allocate = request(StunMethod::ALLOCATE, |writer| {
            writer
                .attribute(StunAttribute::REQUESTED_TRANSPORT, &[17, 0, 0, 0])
                .attribute(StunAttribute::USERNAME, b"alice")
                .attribute(StunAttribute::REALM, b"example.org")
                .attribute(StunAttribute::NONCE, b"cd88b9514393d3bc")
                .integrity(&CredentialKey::long_term("alice", b"example.org", "secret"));
        });
        let wanted = "000300582112a442000102030405060708090a0b001900041100000000060005616c6963650000000014000b6578616d706c652e6f726700001500106364383862\
                      393531343339336433626300080014d7704ca59aca5e0c3525f9079f6001c53f887cb9802800047aa82d2c";
        assert_eq!(allocate, wanted);
    }

    #[test]
    fn what_does_not_fit_is_no_message() {
        let written = |sizes: &[usize]| {
            let mut writer = StunWriter::new(StunClass::Request, StunMethod::ALLOCATE, ID);
            for size in sizes {
                writer.attribute(StunAttribute::USERNAME, &vec![b'x'; *size]);
            }
            writer.integrity(&CredentialKey::short_term("k"));
            writer.finish_with_fingerprint()
        };
        for sizes in [&[65_536][..], &[65_500], &[40_000, 40_000]] {
            assert_eq!(written(sizes), Err(TooLongForStun), "{sizes:?}");
        }
        let longest = written(&[65_496]).unwrap();
        assert_eq!(longest.len(), HEADER + 65_532);
        let message = StunMessage::read(&longest).unwrap();
        assert_eq!(message.integrity(&CredentialKey::short_term("k")), Integrity::Valid);
    }
}
