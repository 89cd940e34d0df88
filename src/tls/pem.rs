//! Certificates and private keys in PEM.

use std::sync::Arc;

use rustls::sign::{CertifiedKey, SigningKey};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::prelude::parse_x509_certificate;

/// Why a text has no usable private key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyError {
    /// The key is encrypted with a password.
    Encrypted,
    /// There is none, or none that can be parsed.
    Missing,
}

impl std::fmt::Display for KeyError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Encrypted => {
                "an encrypted private key: write one without a password, as `openssl pkey -in OLD.key -out NEW.key` makes it"
            }
            Self::Missing => "no PEM private key (PKCS#8, PKCS#1 or SEC1)",
        })
    }
}

/// The certificates in a text; `None` if there is none, or one that cannot be parsed.
pub fn certificates(pem: &[u8]) -> Option<Vec<CertificateDer<'static>>> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().ok()?;
    (!certificates.is_empty()).then_some(certificates)
}

/// The private key in a text.
pub fn private_key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, KeyError> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|_| {
        let text = String::from_utf8_lossy(pem);
        let encrypted =
            text.contains("-----BEGIN ENCRYPTED PRIVATE KEY-----") || text.contains("Proc-Type: 4,ENCRYPTED");
        if encrypted { KeyError::Encrypted } else { KeyError::Missing }
    })
}

/// A certificate chain with its private key. Unlike rustls, it accepts certificates of X.509 version 1.
pub fn certified_key(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<CertifiedKey, rustls::Error> {
    let key: Arc<dyn SigningKey> = super::provider().key_provider.load_private_key(key)?;
    let matches = chain.first().is_some_and(|leaf| {
        let Ok((_, leaf)) = parse_x509_certificate(leaf) else { return false };
        key.public_key().is_none_or(|public| public.as_ref() == leaf.public_key().raw)
    });
    if !matches {
        return Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::KeyMismatch));
    }
    Ok(CertifiedKey::new(chain, key))
}

#[cfg(test)]
mod tests {
    use super::{KeyError, private_key};

    #[test]
    fn an_encrypted_key_is_called_encrypted_in_either_form() {
        for (pem, expected) in [
            ("-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIB\n-----END ENCRYPTED PRIVATE KEY-----\n", KeyError::Encrypted),
            (
                "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\nMIIB\n\
                 -----END RSA PRIVATE KEY-----\n",
                KeyError::Encrypted,
            ),
            ("-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n", KeyError::Missing),
            ("", KeyError::Missing),
        ] {
            assert_eq!(private_key(pem.as_bytes()).unwrap_err(), expected, "{pem}");
        }
    }
}
