//! Echo requests and replies as bytes. The identifier is not read: the kernel sets it, and gives back only what has it.

use crate::dial::ICMP_HEADER;

/// What the payload begins with, as that of the blackbox exporter.
const TEXT: &[u8] = b"Prometheus Blackbox Exporter";

/// Bytes at the end of the payload that differ in each request, so that no late reply is taken for that of another one.
const RANDOM: usize = 8;

/// Which version of ICMP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IcmpVersion {
    /// That of IPv4.
    V4,
    /// That of IPv6.
    V6,
}

impl IcmpVersion {
    const fn request(self) -> u8 {
        match self {
            Self::V4 => 8,
            Self::V6 => 128,
        }
    }

    const fn reply(self) -> u8 {
        match self {
            Self::V4 => 0,
            Self::V6 => 129,
        }
    }
}

/// The payload of a request: the text, cut off or with zeros up to `size`, or as it is if that is 0.
pub(super) fn payload(size: usize) -> Vec<u8> {
    let mut payload = TEXT.to_vec();
    if size > 0 {
        payload.resize(size, 0);
    }
    payload
}

/// Makes the end of the payload one that nobody else has.
pub(super) fn randomize(payload: &mut [u8]) {
    let from = payload.len().saturating_sub(RANDOM);
    if let Some(end) = payload.get_mut(from..) {
        // It fails only where the system has no source of random numbers: then the sequence tells replies apart.
        let _ = aws_lc_rs::rand::fill(end);
    }
}

/// A number to count from that differs each time.
pub(super) fn random_sequence() -> u16 {
    let mut bytes = [0; 2];
    randomize(&mut bytes);
    u16::from_be_bytes(bytes)
}

/// The packet of a request, without identifier and checksum.
pub fn request(version: IcmpVersion, sequence: u16, payload: &[u8]) -> Vec<u8> {
    let mut packet = Vec::with_capacity(ICMP_HEADER + payload.len());
    packet.extend_from_slice(&[version.request(), 0, 0, 0, 0, 0]);
    packet.extend_from_slice(&sequence.to_be_bytes());
    packet.extend_from_slice(payload);
    packet
}

/// The sequence and the payload of a reply; none if the packet is something else.
pub fn reply(version: IcmpVersion, packet: &[u8]) -> Option<(u16, &[u8])> {
    let (header, payload) = packet.split_first_chunk::<ICMP_HEADER>()?;
    let [kind, code, _, _, _, _, high, low] = *header;
    (kind == version.reply() && code == 0).then(|| (u16::from_be_bytes([high, low]), payload))
}

/// The sequence of the request that an ICMP error repeats; none if it repeats something else, or too little.
pub fn refused_request(version: IcmpVersion, packet: &[u8]) -> Option<u16> {
    let (header, _) = packet.split_first_chunk::<ICMP_HEADER>()?;
    let [kind, code, _, _, _, _, high, low] = *header;
    (kind == version.request() && code == 0).then(|| u16::from_be_bytes([high, low]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_payload_is_that_of_the_blackbox_exporter() {
        assert_eq!(payload(0), b"Prometheus Blackbox Exporter");
        assert_eq!(payload(10), b"Prometheus");
        assert_eq!(payload(30), b"Prometheus Blackbox Exporter\0\0");
    }

    #[test]
    fn a_request_reads_as_what_an_error_repeats_and_a_reply_differs_in_its_type() {
        for (version, answer) in [(IcmpVersion::V4, 0), (IcmpVersion::V6, 129)] {
            let mut packet = request(version, 513, b"abc");
            assert_eq!(packet.len(), 11);
            assert_eq!((refused_request(version, &packet), reply(version, &packet)), (Some(513), None));
            packet[0] = answer;
            assert_eq!((refused_request(version, &packet), reply(version, &packet)), (None, Some((513, &b"abc"[..]))));
            packet[1] = 1;
            assert_eq!(reply(version, &packet), None, "a code that replies do not have");
            assert_eq!(reply(version, &packet[..7]), None);
        }
    }

    #[test]
    fn two_payloads_end_differently() {
        let mut both = [payload(0), payload(0)];
        for payload in &mut both {
            randomize(payload);
        }
        let [one, other] = both;
        assert_eq!(one[..20], other[..20]);
        assert_ne!(one, other);
        randomize(&mut []);
    }
}
