//! Certificates of X.509 version 1, which rcgen does not make.

use rcgen::{KeyPair, SigningKey};
use rustls_pki_types::CertificateDer;

/// A value of DER.
pub fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let length = u16::try_from(content.len()).unwrap().to_be_bytes();
    let mut value = vec![tag];
    match content.len() {
        0..128 => value.push(length[1]),
        128..256 => value.extend([0x81, length[1]]),
        _ => value.extend([0x82, length[0], length[1]]),
    }
    value.extend(content);
    value
}

/// A certificate of X.509 version 1 for a key that is given as `SubjectPublicKeyInfo`: no version, no extensions.
pub fn version_1(public: &[u8], signs: &KeyPair) -> CertificateDer<'static> {
    let ecdsa_with_sha256 = der(0x30, &[&der(0x06, &[&[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2]])]);
    let name = der(0x30, &[&der(0x31, &[&der(0x30, &[&der(0x06, &[&[0x55, 4, 3]]), &der(0x0c, &[b"old"])])])]);
    let time = |text: &[u8]| der(0x17, &[text]);
    let validity = der(0x30, &[&time(b"200101000000Z"), &time(b"300101000000Z")]);
    let tbs = der(0x30, &[&der(0x02, &[&[1]]), &ecdsa_with_sha256, &name, &validity, &name, public]);
    let signature = der(0x03, &[&[0], &signs.sign(&tbs).unwrap()]);
    CertificateDer::from(der(0x30, &[&tbs, &ecdsa_with_sha256, &signature]))
}

/// The same as text.
pub fn pem_of(certificate: &CertificateDer<'_>) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(certificate);
    format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
}
