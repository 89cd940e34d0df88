//! Messages of STUN and TURN (RFC 8489, RFC 8656), as far as the simulated server reads and writes them.
//!
//! The exporter has a reader and a writer of its own. That there are two is on purpose: in tests, one checks the other, and a mistake in one
//! of them is not made by the other end as well.

use std::net::{IpAddr, SocketAddr};

use aws_lc_rs::hmac;
use md5::{Digest, Md5};

/// The value of every fifth to eighth byte of a message.
const COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];

/// Bytes before the attributes.
pub(super) const HEADER: usize = 20;

/// Methods.
pub(super) const BINDING: u16 = 0x001;
pub(super) const ALLOCATE: u16 = 0x003;
pub(super) const REFRESH: u16 = 0x004;
pub(super) const SEND: u16 = 0x006;
pub(super) const DATA: u16 = 0x007;
pub(super) const CREATE_PERMISSION: u16 = 0x008;
pub(super) const CHANNEL_BIND: u16 = 0x009;

/// Attributes.
pub(super) const USERNAME: u16 = 0x0006;
const MESSAGE_INTEGRITY: u16 = 0x0008;
const ERROR_CODE: u16 = 0x0009;
pub(super) const UNKNOWN_ATTRIBUTES: u16 = 0x000a;
pub(super) const CHANNEL_NUMBER: u16 = 0x000c;
pub(super) const LIFETIME: u16 = 0x000d;
pub(super) const PEER_ADDRESS: u16 = 0x0012;
pub(super) const DATA_VALUE: u16 = 0x0013;
pub(super) const REALM: u16 = 0x0014;
pub(super) const NONCE: u16 = 0x0015;
pub(super) const RELAYED_ADDRESS: u16 = 0x0016;
pub(super) const REQUESTED_TRANSPORT: u16 = 0x0019;
pub(super) const MAPPED_ADDRESS: u16 = 0x0020;
pub(super) const SOFTWARE: u16 = 0x8022;
pub(super) const ALTERNATE_SERVER: u16 = 0x8023;
const FINGERPRINT: u16 = 0x8028;

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    Request,
    Indication,
    Success,
    Error,
}

impl Class {
    const fn bits(self) -> u16 {
        match self {
            Self::Request => 0x000,
            Self::Indication => 0x010,
            Self::Success => 0x100,
            Self::Error => 0x110,
        }
    }
}

/// A message of a client.
#[derive(Debug)]
pub(super) struct Request<'r> {
    pub(super) class: Class,
    pub(super) method: u16,
    pub(super) transaction: [u8; 12],
    attributes: Vec<(u16, &'r [u8])>,
    /// All of it, and where its MESSAGE-INTEGRITY begins.
    raw: &'r [u8],
    integrity: Option<(usize, &'r [u8])>,
    /// It ended with a FINGERPRINT, to be answered with one.
    pub(super) has_fingerprint: bool,
}

impl<'r> Request<'r> {
    /// Reads a whole message; `None`: it is none, or its FINGERPRINT is wrong.
    pub(super) fn read(raw: &'r [u8]) -> Option<Self> {
        let header = raw.get(..HEADER)?;
        let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
        if header[0] & 0xc0 != 0 || header[4..8] != COOKIE || raw.len() != HEADER + length || length % 4 != 0 {
            return None;
        }
        let kind = u16::from_be_bytes([header[0], header[1]]);
        let class = [Class::Request, Class::Indication, Class::Success, Class::Error];
        let class = class.into_iter().find(|class| class.bits() == kind & 0x110)?;
        let mut transaction = [0; 12];
        transaction.copy_from_slice(&header[8..]);
        let (mut attributes, mut integrity, mut has_fingerprint) = (Vec::new(), None, false);
        let mut at = HEADER;
        while at < raw.len() {
            let head = raw.get(at..at + 4)?;
            let (name, size) = (u16::from_be_bytes([head[0], head[1]]), u16::from_be_bytes([head[2], head[3]]));
            let value = raw.get(at + 4..at + 4 + usize::from(size))?;
            match name {
                FINGERPRINT => {
                    has_fingerprint = value == fingerprint(raw.get(..at)?);
                    if !has_fingerprint || at + 8 != raw.len() {
                        return None;
                    }
                }
                MESSAGE_INTEGRITY => integrity = Some((at, value)),
                // What follows the integrity is not protected by it.
                _ if integrity.is_none() => attributes.push((name, value)),
                _ => {}
            }
            at += 4 + usize::from(size).next_multiple_of(4);
        }
        Some(Self { class, method: kind & !0x110, transaction, attributes, raw, integrity, has_fingerprint })
    }

    pub(super) fn value(&self, name: u16) -> Option<&'r [u8]> {
        self.attributes.iter().find(|(other, _)| *other == name).map(|(_, value)| *value)
    }

    pub(super) fn text(&self, name: u16) -> Option<&'r str> {
        self.value(name).and_then(|value| std::str::from_utf8(value).ok())
    }

    pub(super) fn number(&self, name: u16) -> Option<u32> {
        self.value(name)?.try_into().ok().map(u32::from_be_bytes)
    }

    /// An address, hidden behind the cookie and the transaction.
    pub(super) fn address(&self, name: u16) -> Option<SocketAddr> {
        let value = self.value(name)?;
        let port = u16::from_be_bytes([*value.get(2)?, *value.get(3)?]) ^ 0x2112;
        let hidden: Vec<u8> =
            value.get(4..)?.iter().zip(COOKIE.iter().chain(&self.transaction)).map(|(a, b)| a ^ b).collect();
        let ip: IpAddr = match (value.get(1)?, hidden.len()) {
            (1, 4) => <[u8; 4]>::try_from(hidden).ok()?.into(),
            (2, 16) => <[u8; 16]>::try_from(hidden).ok()?.into(),
            _ => return None,
        };
        Some(SocketAddr::new(ip, port))
    }

    pub(super) const fn has_integrity(&self) -> bool {
        self.integrity.is_some()
    }

    /// Whether it was signed with this key.
    pub(super) fn is_signed_with(&self, key: &[u8]) -> bool {
        let Some((at, value)) = self.integrity else { return false };
        sign(key, &self.raw[..at]) == value
    }
}

/// A message to a client.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    bytes: Vec<u8>,
}

impl Answer {
    pub(super) fn new(class: Class, method: u16, transaction: [u8; 12]) -> Self {
        let mut bytes = (class.bits() | method).to_be_bytes().to_vec();
        bytes.extend([0, 0]);
        bytes.extend(COOKIE);
        bytes.extend(transaction);
        Self { bytes }
    }

    fn count(&mut self, more: usize) {
        let length = u16::try_from(self.bytes.len() - HEADER + more).unwrap_or(u16::MAX);
        self.bytes[2..4].copy_from_slice(&length.to_be_bytes());
    }

    pub(super) fn put(&mut self, name: u16, value: &[u8]) {
        self.bytes.extend(name.to_be_bytes());
        self.bytes.extend(u16::try_from(value.len()).unwrap_or(u16::MAX).to_be_bytes());
        self.bytes.extend(value);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        self.count(0);
    }

    pub(super) fn put_address(&mut self, name: u16, address: SocketAddr) {
        let mut mask = COOKIE.to_vec();
        mask.extend(&self.bytes[8..HEADER]);
        let (family, octets) = match address.ip() {
            IpAddr::V4(v4) => (1, v4.octets().to_vec()),
            IpAddr::V6(v6) => (2, v6.octets().to_vec()),
        };
        let mut value = vec![0, family];
        value.extend((address.port() ^ 0x2112).to_be_bytes());
        value.extend(octets.iter().zip(&mask[..]).map(|(a, b)| a ^ b));
        // The mask of an IPv6 address has 16 bytes: the cookie and the transaction.
        debug_assert_eq!(value.len(), 4 + octets.len());
        self.put(name, &value);
    }

    pub(super) fn put_error(&mut self, code: u16, reason: &str) {
        let class = u8::try_from(code / 100).unwrap_or_default();
        let number = u8::try_from(code % 100).unwrap_or_default();
        let mut value = vec![0, 0, class, number];
        value.extend(reason.bytes());
        self.put(ERROR_CODE, &value);
    }

    pub(super) fn put_integrity(&mut self, key: &[u8]) {
        self.count(24);
        let value = sign_counted(key, &self.bytes);
        self.put(MESSAGE_INTEGRITY, &value);
    }

    pub(super) fn put_fingerprint(&mut self) {
        self.count(8);
        let value = fingerprint_counted(&self.bytes);
        self.put(FINGERPRINT, &value);
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

/// The key of long-term credentials.
pub(super) fn key(user: &str, realm: &str, password: &str) -> Vec<u8> {
    Md5::digest(format!("{user}:{realm}:{password}")).to_vec()
}

/// The password of a user whose name is its expiry, for whoever shares the secret.
pub(super) fn shared_password(secret: &str, user: &str) -> Vec<u8> {
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, secret.as_bytes());
    hmac::sign(&key, user.as_bytes()).as_ref().to_vec()
}

/// The signature of a message that ends before its MESSAGE-INTEGRITY, which its length counts.
fn sign(key: &[u8], before: &[u8]) -> Vec<u8> {
    let mut counted = before.to_vec();
    let length = u16::try_from(before.len() - HEADER + 24).unwrap_or(u16::MAX);
    counted[2..4].copy_from_slice(&length.to_be_bytes());
    sign_counted(key, &counted)
}

fn sign_counted(key: &[u8], counted: &[u8]) -> Vec<u8> {
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, key);
    hmac::sign(&key, counted).as_ref().to_vec()
}

fn fingerprint(before: &[u8]) -> [u8; 4] {
    let mut counted = before.to_vec();
    let length = u16::try_from(before.len() - HEADER + 8).unwrap_or(u16::MAX);
    counted[2..4].copy_from_slice(&length.to_be_bytes());
    fingerprint_counted(&counted)
}

fn fingerprint_counted(counted: &[u8]) -> [u8; 4] {
    (crc32(counted) ^ 0x5354_554e).to_be_bytes()
}

/// The checksum of Ethernet and ZIP, bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| (sum >> 1) ^ (0xedb8_8320 & (sum & 1).wrapping_neg()))
    })
}

/// Data of a channel. Over a stream it is padded.
pub(super) fn channel_data(channel: u16, data: &[u8], is_stream: bool) -> Vec<u8> {
    let mut bytes = channel.to_be_bytes().to_vec();
    bytes.extend(u16::try_from(data.len()).unwrap_or(u16::MAX).to_be_bytes());
    bytes.extend(data);
    if is_stream {
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    bytes
}

/// The channel and its data, without padding; `None`: it is none.
pub(super) fn read_channel_data(bytes: &[u8]) -> Option<(u16, &[u8])> {
    let head = bytes.get(..4)?;
    let (channel, length) = (u16::from_be_bytes([head[0], head[1]]), u16::from_be_bytes([head[2], head[3]]));
    (0x4000..0x5000).contains(&channel).then_some((channel, bytes.get(4..4 + usize::from(length))?))
}

/// How many bytes a message on a stream has of which these are the first four; `None`: it is none.
pub(super) fn length_on_stream(head: [u8; 4]) -> Option<usize> {
    let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
    match head[0] >> 6 {
        0 => Some(HEADER + length),
        1 => Some(4 + length.next_multiple_of(4)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
    }

    /// A request that was signed with the password `secret`.
    const SIGNED: &str = "000300582112a442000102030405060708090a0b001900041100000000060005616c6963650000000014000b6578616d706c652e6f726700001500106364383862393531343339336433626300080014d7704ca59aca5e0c3525f9079f6001c53f887cb9802800047aa82d2c";

    #[test]
    fn a_signed_request_is_read_and_a_changed_one_is_not() {
        let key = key("alice", "example.org", "secret");
        assert_eq!(key, bytes("543e1aec5d3614f03141652d6ada51b2"));
        let raw = bytes(SIGNED);
        let request = Request::read(&raw).unwrap();
        assert_eq!((request.class, request.method), (Class::Request, ALLOCATE));
        assert_eq!((request.text(USERNAME), request.text(REALM)), (Some("alice"), Some("example.org")));
        assert!(request.has_fingerprint && request.is_signed_with(&key) && !request.is_signed_with(b"other"));
        // Of the name of the FINGERPRINT itself, no reader can tell.
        for at in (0..raw.len()).filter(|at| !(100..102).contains(at)) {
            let mut changed = raw.clone();
            changed[at] ^= 1;
            assert!(Request::read(&changed).is_none(), "byte {at}");
        }
        assert!((0..raw.len()).all(|length| Request::read(&raw[..length]).is_none()));
    }

    #[test]
    fn an_answer_is_what_clients_read() {
        let raw = bytes("000100082112a442000102030405060708090a0b802800045b0ff6fc");
        let request = Request::read(&raw).unwrap();
        assert!(request.has_fingerprint && !request.has_integrity());
        let mut same = Answer::new(Class::Request, BINDING, request.transaction);
        same.put_fingerprint();
        assert_eq!(same.into_bytes(), raw);
        for address in ["192.0.2.1:32853", "[2001:db8::7]:3478"] {
            let address: SocketAddr = address.parse().unwrap();
            let mut answer = Answer::new(Class::Request, BINDING, request.transaction);
            answer.put_address(PEER_ADDRESS, address);
            let answer = answer.into_bytes();
            assert_eq!(Request::read(&answer).unwrap().address(PEER_ADDRESS), Some(address));
        }
    }

    #[test]
    fn data_of_a_channel_is_padded_on_a_stream_only() {
        let data = channel_data(0x4001, b"abcde", true);
        assert_eq!((data.len(), length_on_stream(data[..4].try_into().unwrap())), (12, Some(12)));
        assert_eq!(read_channel_data(&data), Some((0x4001, &b"abcde"[..])));
        assert_eq!(channel_data(0x4001, b"abcde", false).len(), 9);
        assert_eq!(read_channel_data(b"\x50\x00\x00\x00"), None);
    }
}
