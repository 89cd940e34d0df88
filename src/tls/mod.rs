//! What both ends of TLS have in common, those that we ask and those that ask us: the cryptography, certificates and keys as they are
//! written, whom a certificate is believed, and plain words for what went wrong. No network is here.

mod chain;
mod pem;
mod proof;
mod words;

use std::sync::{Arc, LazyLock};

use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs};

pub use chain::{Anchors, Usage, end};
pub use pem::{KeyError, certificates, identity, private_key};
pub use proof::{Proof, any_scheme, proven};
pub use words::{Peer, sentence};

static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| Arc::new(aws_lc_rs::default_provider()));

/// What our port says to plain HTTP where it speaks TLS. It is known to those that ask such ports, too.
pub const SPEAKS_HTTPS: &str = "this port speaks https";

/// The cryptography of every connection.
pub fn provider() -> &'static Arc<CryptoProvider> {
    &PROVIDER
}

/// The signatures that can be verified.
pub fn algorithms() -> &'static WebPkiSupportedAlgorithms {
    &PROVIDER.signature_verification_algorithms
}

/// Makes it that of the whole process, for libraries that look for one.
pub fn install() {
    let _ = CryptoProvider::install_default(CryptoProvider::clone(&PROVIDER));
}
