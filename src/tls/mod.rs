//! TLS as the HTTP client and the listener share it: the crypto provider, PEM, trust, signatures, and error messages. Nothing here does I/O.

mod certificate;
mod messages;
mod pem;
mod signature;
mod trust;
mod verifier;

use std::sync::{Arc, LazyLock};

use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs};

pub use certificate::CertificateSummary;
pub use messages::{Peer, concerns_names_or_our_certificate, describe};
pub use pem::{KeyError, certificates, certified_key, private_key};
pub use signature::{SignatureCheck, verify_signature};
use signature::{all_schemes, verify_handshake};
pub use trust::{Expiry, TrustStore, Usage, not_after, system_authorities};
pub use verifier::{HandshakeObserver, ServerVerifier};

static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| Arc::new(aws_lc_rs::default_provider()));

/// What our HTTPS listener answers to plain HTTP. Our clients recognize it, to suggest `https://`.
pub const SPEAKS_HTTPS: &str = "this port speaks https";

/// The crypto provider of every connection.
pub fn provider() -> &'static Arc<CryptoProvider> {
    &PROVIDER
}

/// The signature algorithms that can be verified.
pub fn algorithms() -> &'static WebPkiSupportedAlgorithms {
    &PROVIDER.signature_verification_algorithms
}

/// Makes [`provider`] the default of the process, for libraries that use the default.
pub fn install_provider() {
    let _ = CryptoProvider::install_default(CryptoProvider::clone(&PROVIDER));
}
