//! Whether a peer has the private key of its certificate. Unlike in rustls, the certificate may be of any version of X.509.

use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::{CertificateError, DigitallySignedStruct, ProtocolVersion, SignatureScheme};
use rustls_pki_types::{CertificateDer, SubjectPublicKeyInfoDer};
use webpki::RawPublicKeyEntity;
use x509_parser::prelude::parse_x509_certificate;
use x509_parser::public_key::PublicKey;

/// The result of the verification of a handshake's signature. A wrong signature is an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignatureCheck {
    /// The peer has the key.
    Verified,
    /// The key is too short, or its algorithm is not supported.
    Unverifiable,
}

/// The schemes that are offered to a server whose certificate is not verified: also those that [`verify_signature`] does not support.
pub(super) fn all_schemes() -> Vec<SignatureScheme> {
    let mut schemes = super::algorithms().supported_schemes();
    schemes.extend([SignatureScheme::RSA_PKCS1_SHA1, SignatureScheme::ECDSA_SHA1_Legacy, SignatureScheme::ED448]);
    schemes
}

/// Verifies the signature of a handshake as rustls does. If certificates are not verified, signatures that cannot be verified are accepted
/// as well, but wrong ones are not: they come from a server with the certificate of another.
pub(super) fn verify_handshake(
    verifies_certificates: bool,
    version: ProtocolVersion,
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signed: &DigitallySignedStruct,
) -> Result<SignatureCheck, rustls::Error> {
    let algorithms = super::algorithms();
    match (verifies_certificates, version) {
        (false, version) => verify_signature(version, message, certificate, signed),
        (true, ProtocolVersion::TLSv1_3) => {
            verify_tls13_signature(message, certificate, signed, algorithms).map(|_| SignatureCheck::Verified)
        }
        (true, _) => verify_tls12_signature(message, certificate, signed, algorithms).map(|_| SignatureCheck::Verified),
    }
}

/// Verifies the signature of a handshake.
pub fn verify_signature(
    version: ProtocolVersion,
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signed: &DigitallySignedStruct,
) -> Result<SignatureCheck, rustls::Error> {
    let Ok((_, certificate)) = parse_x509_certificate(certificate) else { return Ok(SignatureCheck::Unverifiable) };
    let key = certificate.public_key();
    if let Ok(PublicKey::RSA(rsa)) = key.parsed()
        && !(2048..=8192).contains(&bits(rsa.modulus))
    {
        return Ok(SignatureCheck::Unverifiable);
    }
    let spki = SubjectPublicKeyInfoDer::from(key.raw);
    let Ok(key) = RawPublicKeyEntity::try_from(&spki) else { return Ok(SignatureCheck::Unverifiable) };
    let scheme = super::algorithms().mapping.iter().find(|(scheme, _)| *scheme == signed.scheme);
    let candidates = scheme.map_or(&[][..], |(_, candidates)| candidates);
    // TLS 1.3 binds a scheme to a curve, TLS 1.2 does not.
    let candidates =
        if version == ProtocolVersion::TLSv1_3 { candidates.get(..1).unwrap_or_default() } else { candidates };
    for candidate in candidates {
        match key.verify_signature(*candidate, message, signed.signature()) {
            Ok(()) => return Ok(SignatureCheck::Verified),
            Err(webpki::Error::UnsupportedSignatureAlgorithmForPublicKeyContext(_)) => {}
            Err(_) => return Err(CertificateError::BadSignature.into()),
        }
    }
    Ok(SignatureCheck::Unverifiable)
}

/// The length of a big-endian number in bits.
fn bits(number: &[u8]) -> usize {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    let first = number.get(zeros).map_or(0, |byte| byte.leading_zeros() as usize);
    (number.len() - zeros) * 8 - first
}
