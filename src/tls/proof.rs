//! Whether a peer has the key of the certificate that it shows, whatever certificate that is: rustls looks at those of X.509 version 3 only.

use rustls::{CertificateError, DigitallySignedStruct, ProtocolVersion, SignatureScheme};
use rustls_pki_types::{CertificateDer, SubjectPublicKeyInfoDer};
use webpki::RawPublicKeyEntity;
use x509_parser::prelude::parse_x509_certificate;
use x509_parser::public_key::PublicKey;

/// What the signature of a handshake is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// The peer has the key.
    Given,
    /// The key is of a kind that cannot be verified here: too short, or of an unknown algorithm.
    Unknown,
}

/// Every scheme that is offered to a server whose certificate is not verified: also those whose signatures can then not be verified either.
pub fn any_scheme() -> Vec<SignatureScheme> {
    let mut schemes = super::algorithms().supported_schemes();
    schemes.extend([SignatureScheme::RSA_PKCS1_SHA1, SignatureScheme::ECDSA_SHA1_Legacy, SignatureScheme::ED448]);
    schemes
}

/// Verifies the signature of a handshake, an error if it is a wrong one.
pub fn proven(
    version: ProtocolVersion,
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signed: &DigitallySignedStruct,
) -> Result<Proof, rustls::Error> {
    let Ok((_, certificate)) = parse_x509_certificate(certificate) else { return Ok(Proof::Unknown) };
    let key = certificate.public_key();
    if let Ok(PublicKey::RSA(rsa)) = key.parsed()
        && !(2048..=8192).contains(&bits(rsa.modulus))
    {
        return Ok(Proof::Unknown);
    }
    let spki = SubjectPublicKeyInfoDer::from(key.raw);
    let Ok(key) = RawPublicKeyEntity::try_from(&spki) else { return Ok(Proof::Unknown) };
    let scheme = super::algorithms().mapping.iter().find(|(scheme, _)| *scheme == signed.scheme);
    let candidates = scheme.map_or(&[][..], |(_, candidates)| candidates);
    // TLS 1.3 binds a scheme to a curve, TLS 1.2 does not.
    let candidates =
        if version == ProtocolVersion::TLSv1_3 { candidates.get(..1).unwrap_or_default() } else { candidates };
    for candidate in candidates {
        match key.verify_signature(*candidate, message, signed.signature()) {
            Ok(()) => return Ok(Proof::Given),
            Err(webpki::Error::UnsupportedSignatureAlgorithmForPublicKeyContext(_)) => {}
            Err(_) => return Err(CertificateError::BadSignature.into()),
        }
    }
    Ok(Proof::Unknown)
}

/// The length of a number.
fn bits(number: &[u8]) -> usize {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    let first = number.get(zeros).map_or(0, |byte| byte.leading_zeros() as usize);
    (number.len() - zeros) * 8 - first
}
