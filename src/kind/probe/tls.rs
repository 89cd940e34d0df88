//! The families about a TLS connection, and the lines about certificates on the debug page.

use super::Recorder;
use crate::dial::TlsPeer;
use crate::tls::not_after;

crate::descs! {
    CHAIN_INFO = gauge "probe_ssl_last_chain_info" ["fingerprint_sha256", "subject", "issuer", "subjectalternative", "serialnumber"] "The server's own certificate, in the labels. Always 1.";
    VERSION_INFO = gauge "probe_tls_version_info" ["version"] "Version of TLS that was agreed on, in the label. Always 1.";
    CIPHER_INFO = gauge "probe_tls_cipher_info" ["cipher"] "Cipher suite that was agreed on, in the label. Always 1.";
}

impl Recorder {
    /// Records the other end of a TLS connection. Of several connections, the last one counts.
    pub fn tls(&mut self, peer: &TlsPeer) {
        self.expiry = peer
            .chain
            .iter()
            .filter_map(|certificate| not_after(certificate))
            .min()
            .map(|earliest| (earliest, peer.last_chain));
    }
}
