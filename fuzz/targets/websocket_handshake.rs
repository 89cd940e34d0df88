//! The answer of a server to a WebSocket handshake.
#![no_main]

use libfuzzer_sys::fuzz_target;
use scrapetarget_exporter::kind::websocket::read_handshake;

/// The example of RFC 6455, and what a server makes of it.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &[u8] = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

fuzz_target!(|header: &[u8]| {
    let Some((status, upgrade)) = read_handshake(header, KEY) else { return };
    assert!(status <= 999);
    let Some(agreed) = upgrade else { return };
    assert_eq!(status, 101);
    assert!(header.windows(ACCEPT.len()).any(|bytes| bytes == ACCEPT), "an upgrade without its key");
    assert!(matches!(agreed.subprotocol.as_deref(), Some("a" | "b")), "{agreed:?}: a and b were asked for");
    // What follows the header changes nothing.
    let longer = [header, b"\r\n\x81\x01a"].concat();
    assert_eq!(read_handshake(&longer, KEY), Some((status, Some(agreed))));
});
