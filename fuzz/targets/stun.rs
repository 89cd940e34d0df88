//! Messages of STUN and ChannelData of TURN: whatever arrives is read within its bounds, means the same wherever it is read, and what is shown to
//! people is one short line. What is read can be written again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use scrapetarget_exporter::stun::{
    CredentialKey, FRAME_PREFIX, Integrity, StunAttribute, StunClass, StunFrame, StunMessage, StunMethod, StunWriter, TransactionId, frame_length,
    is_channel,
};

// The first byte says what the others are: bytes as they arrive, or the attributes of a message whose header is right.
fuzz_target!(|input: &[u8]| {
    let Some((mode, bytes)) = input.split_first() else { return };
    if mode % 2 == 0 {
        arrived(bytes);
    } else {
        arrived(&headed(bytes));
        signed(bytes);
    }
});

fn headed(attributes: &[u8]) -> Vec<u8> {
    let attributes = &attributes[..attributes.len().min(4096) / 4 * 4];
    let mut bytes = vec![1, 1];
    bytes.extend_from_slice(&u16::try_from(attributes.len()).unwrap().to_be_bytes());
    bytes.extend_from_slice(&[0x21, 0x12, 0xa4, 0x42, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]);
    bytes.extend_from_slice(attributes);
    bytes
}

fn arrived(bytes: &[u8]) {
    let length = bytes.first_chunk::<FRAME_PREFIX>().map(|prefix| frame_length(*prefix));
    match StunFrame::read(bytes) {
        Err(fault) => assert!(!fault.to_string().contains('\n')),
        Ok(StunFrame::Message(message)) => {
            assert_eq!(length, Some(Ok(bytes.len())), "a message ends in a stream where it ends in a datagram");
            assert_eq!(message.as_bytes(), bytes);
            read(&message);
        }
        Ok(StunFrame::Channel(data)) => {
            assert!(is_channel(data.number));
            let framed = data.write(true).unwrap();
            assert_eq!(length, Some(Ok(framed.len())));
            assert_eq!(StunFrame::read(&framed), Ok(StunFrame::Channel(data)));
            assert!(bytes.starts_with(&data.write(false).unwrap()));
        }
    }
}

fn read(message: &StunMessage<'_>) {
    for kind in [StunAttribute::SOFTWARE, StunAttribute::REALM, StunAttribute::DATA] {
        if let Some(text) = message.text(kind) {
            assert!(!text.is_empty() && text.chars().count() <= 128 && !text.chars().any(char::is_control), "{text:?}");
        }
    }
    if let Ok(Some(code)) = message.error_code() {
        assert!((300..=699).contains(&code));
    }
    assert!(message.unknown_attributes().len() <= 8);
    assert_ne!(message.integrity(&CredentialKey::short_term("fuzz")), Integrity::Valid, "nobody knows the key");
    let _ = message.number(StunAttribute::LIFETIME);
    if let Ok(Some(address)) = message.xor_address(StunAttribute::XOR_RELAYED_ADDRESS) {
        let mut writer = StunWriter::new(message.class, message.method, message.transaction);
        writer.xor_address(StunAttribute::XOR_RELAYED_ADDRESS, address);
        let bytes = writer.finish().unwrap();
        let again = StunMessage::read(&bytes).unwrap();
        assert_eq!(again.xor_address(StunAttribute::XOR_RELAYED_ADDRESS), Ok(Some(address)));
    }
    let _ = message.mapped_address();
}

/// What is signed proves itself, and nothing that is added later counts.
fn signed(value: &[u8]) {
    let key = CredentialKey::long_term("user", b"realm", "password");
    let mut writer = StunWriter::new(StunClass::Request, StunMethod::ALLOCATE, TransactionId([7; 12]));
    writer.attribute(StunAttribute::NONCE, value).integrity(&key).attribute(StunAttribute::NONCE, b"late");
    let bytes = writer.finish_with_fingerprint().unwrap();
    let message = StunMessage::read(&bytes).unwrap();
    assert_eq!(message.integrity(&key), Integrity::Valid);
    assert_eq!(message.value(StunAttribute::NONCE), Some(value));
}
