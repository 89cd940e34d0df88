//! Verification of a server in a handshake, which an observer follows: what a server has sent is known also if it was refused.

use std::fmt::Debug;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::{DigitallySignedStruct, ProtocolVersion, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::{SignatureCheck, TrustStore, Usage, all_schemes, verify_handshake};

/// Follows handshakes, in the order of its methods. A handshake may end after any of them.
pub trait HandshakeObserver: Debug + Send + Sync {
    /// A server with this name has sent `chain`, its own certificate first. `last_chain` is when the verified chain that is valid longest
    /// expires; `None` if none was verified. The server may not have the key: anybody can send the certificates of another.
    fn sent(&self, name: &ServerName<'_>, chain: &[&CertificateDer<'_>], last_chain: Option<i64>);

    /// The server has proven that this certificate is its own.
    fn proven(&self, leaf: &CertificateDer<'_>);
}

/// Observes nothing.
impl HandshakeObserver for () {
    fn sent(&self, _: &ServerName<'_>, _: &[&CertificateDer<'_>], _: Option<i64>) {}

    fn proven(&self, _: &CertificateDer<'_>) {}
}

/// Verifies the certificates of servers, or accepts all, and tells an observer.
#[derive(Debug)]
pub struct ServerVerifier<O> {
    /// `None`: certificates are not verified.
    trusted: Option<Arc<TrustStore>>,
    /// What a certificate must contain, instead of the name that the connection is made with.
    name: Option<ServerName<'static>>,
    observer: O,
}

impl<O: HandshakeObserver> ServerVerifier<O> {
    /// Verifies with what is trusted, or accepts every certificate if that is `None`.
    pub const fn new(trusted: Option<Arc<TrustStore>>, observer: O) -> Self {
        Self { trusted, name: None, observer }
    }

    /// The same, for certificates that must contain `name`, whatever the connection is made with.
    #[must_use]
    pub fn for_name(self, name: Option<ServerName<'static>>) -> Self {
        Self { name, ..self }
    }

    /// What has followed the handshakes.
    pub const fn observer(&self) -> &O {
        &self.observer
    }

    fn signature(
        &self,
        version: ProtocolVersion,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let check = verify_handshake(self.trusted.is_some(), version, message, certificate, signed)?;
        if check == SignatureCheck::Verified {
            self.observer.proven(certificate);
        }
        Ok(HandshakeSignatureValid::assertion())
    }
}

impl<O: HandshakeObserver> ServerCertVerifier for ServerVerifier<O> {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let wanted = self.name.as_ref().unwrap_or(server_name);
        let trusted = self.trusted.as_ref();
        let verified = trusted.map(|trusted| trusted.verify(end_entity, intermediates, Usage::Server(wanted), now));
        let last_chain = verified.as_ref().and_then(|verified| verified.as_ref().ok()).copied();
        let chain: Vec<_> = std::iter::once(end_entity).chain(intermediates).collect();
        // Also of a certificate that is refused: what it says may be the reason.
        self.observer.sent(server_name, &chain, last_chain);
        verified.transpose().map(|_| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.signature(ProtocolVersion::TLSv1_2, message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.signature(ProtocolVersion::TLSv1_3, message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        if self.trusted.is_some() { super::algorithms().supported_schemes() } else { all_schemes() }
    }
}
