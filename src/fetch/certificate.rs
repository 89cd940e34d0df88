//! Verification of server certificates, with a note of when each chain ends: `probe_ssl_earliest_cert_expiry`.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::{DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::ClientError;

/// When the chains end whose leaves were seen lately.
///
/// The HTTP client hands out only the leaf of a connection; the whole chain passes by here, once for each handshake.
#[derive(Debug, Default)]
pub(super) struct Expiries {
    hash: RandomState,
    by_leaf: Mutex<HashMap<u64, i64>>,
}

/// More leaves than there will be targets; beyond it the notes start anew, and a leaf's own end stands in for its chain's.
const MAX_LEAVES: usize = 1 << 16;

impl Expiries {
    fn note(&self, leaf: &[u8], intermediates: &[CertificateDer<'_>]) {
        let earliest = std::iter::once(leaf).chain(intermediates.iter().map(AsRef::as_ref)).filter_map(not_after).min();
        if let Some(earliest) = earliest {
            let mut by_leaf = self.by_leaf.lock().unwrap_or_else(PoisonError::into_inner);
            if by_leaf.len() >= MAX_LEAVES {
                by_leaf.clear();
            }
            by_leaf.insert(self.hash.hash_one(leaf), earliest);
        }
    }

    pub(super) fn of(&self, leaf: &[u8]) -> Option<i64> {
        let noted = self.by_leaf.lock().unwrap_or_else(PoisonError::into_inner).get(&self.hash.hash_one(leaf)).copied();
        noted.or_else(|| not_after(leaf))
    }
}

fn not_after(der: &[u8]) -> Option<i64> {
    x509_parser::parse_x509_certificate(der).ok().map(|(_, certificate)| certificate.validity().not_after.timestamp())
}

/// The certificates in a text; `None` if there is none or one that cannot be read.
pub(super) fn certificates(pem: &[u8]) -> Option<Vec<CertificateDer<'static>>> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().ok()?;
    (!certificates.is_empty()).then_some(certificates)
}

static RING: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| Arc::new(ring::default_provider()));

/// Verifies as rustls does, or not at all, and notes the chain's end.
#[derive(Debug)]
pub(super) struct RecordingVerifier {
    verifier: Option<Arc<WebPkiServerVerifier>>,
    /// The address that the certificate must bear, instead of the url's host.
    address: Option<ServerName<'static>>,
    expiries: Arc<Expiries>,
}

impl RecordingVerifier {
    /// Verifies against the authorities in `ca`, or the system's.
    pub(super) fn verifying(
        ca: Option<&[u8]>,
        address: Option<IpAddr>,
        expiries: Arc<Expiries>,
    ) -> Result<Arc<Self>, ClientError> {
        let roots = match ca {
            None => Arc::clone(&SYSTEM_ROOTS),
            Some(pem) => {
                let mut roots = RootCertStore::empty();
                let (added, _) = roots.add_parsable_certificates(certificates(pem).ok_or(ClientError::Ca)?);
                if added == 0 {
                    return Err(ClientError::Ca);
                }
                Arc::new(roots)
            }
        };
        let verifier = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&RING))
            .build()
            .map_err(|error| ClientError::Roots(rustls::Error::General(error.to_string())))?;
        let address = address.map(|address| ServerName::IpAddress(address.into()));
        Ok(Arc::new(Self { verifier: Some(verifier), address, expiries }))
    }

    /// Takes every certificate: `insecureSkipVerify`.
    pub(super) fn trusting(expiries: Arc<Expiries>) -> Arc<Self> {
        Arc::new(Self { verifier: None, address: None, expiries })
    }
}

/// The system's authorities, read once: they are a megabyte.
static SYSTEM_ROOTS: LazyLock<Arc<RootCertStore>> = LazyLock::new(|| {
    let loaded = rustls_native_certs::load_native_certs();
    for error in &loaded.errors {
        tracing::warn!(error = error as &dyn std::error::Error, "a trusted certificate of this system cannot be read");
    }
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(loaded.certs);
    Arc::new(roots)
});

impl ServerCertVerifier for RecordingVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.expiries.note(end_entity, intermediates);
        let server_name = self.address.as_ref().unwrap_or(server_name);
        match &self.verifier {
            Some(verifier) => verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now),
            None => Ok(ServerCertVerified::assertion()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &RING.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &RING.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        RING.signature_verification_algorithms.supported_schemes()
    }
}
