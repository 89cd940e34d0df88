//! Verification of server certificates, with a note of when each chain ends: `probe_ssl_earliest_cert_expiry`.
//!
//! The HTTP client hands out only the leaf of a connection, and a leaf is public: another server can show it, beside whatever it likes. So
//! what was shown is noted for the call that made the connection, and remembered for where that connection leads to.

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

tokio::task_local! {
    /// Those of the call that is being made. Connections are made by the task that needs them; one that the HTTP client goes on with in
    /// another task, after it got an idle one, is noted nowhere, and its leaf's own end stands in.
    static HANDSHAKES: Handshakes;
}

/// What one server has shown.
#[derive(Debug)]
struct Shown {
    /// The name that its certificate was to have: it tells a proxy's from the target's.
    name: String,
    leaf: u64,
    /// The earliest end of the leaf and of what was sent with it.
    earliest: i64,
    /// The handshake has shown that it has the leaf's key.
    proven: bool,
}

/// A server's, a proxy's before it, and both once more if the first connection was of no use.
const MAX_HANDSHAKES: usize = 4;

/// What was shown during one call.
#[derive(Clone, Debug, Default)]
pub(super) struct Handshakes(Arc<Mutex<Vec<Shown>>>);

impl Handshakes {
    /// Makes a call, and notes what servers show meanwhile.
    pub(super) async fn during<C: Future>(&self, call: C) -> C::Output {
        HANDSHAKES.scope(self.clone(), call).await
    }

    /// The end of the chain that a server showed last, whether or not it proved anything, and whatever was thought of it. `proxy` is the
    /// host before it, if that has a certificate, too; of a target with the same name nothing is told then.
    pub(super) fn last(&self, proxy: Option<&str>) -> Option<i64> {
        let shown = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        shown.last().filter(|last| proxy != Some(&last.name)).map(|last| last.earliest)
    }

    /// The leaf and the end of the chain of whoever answered: of the one with this leaf, if it is known, else of the last.
    fn proven(&self, leaf: Option<u64>, proxy: Option<&str>) -> Option<(u64, i64)> {
        let shown = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut proven = shown.iter().rev().filter(|shown| shown.proven);
        let found = match leaf {
            Some(leaf) => proven.find(|shown| shown.leaf == leaf),
            None => proven.next().filter(|last| proxy != Some(&last.name)),
        };
        found.map(|shown| (shown.leaf, shown.earliest))
    }

    fn note(shown: Shown) {
        let _ = HANDSHAKES.try_with(|Self(all)| {
            let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
            if all.len() == MAX_HANDSHAKES {
                all.remove(0);
            }
            all.push(shown);
        });
    }

    fn note_proof(leaf: &[u8]) {
        let leaf = id(leaf);
        let _ = HANDSHAKES.try_with(|Self(all)| {
            let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(shown) = all.iter_mut().rev().find(|shown| shown.leaf == leaf) {
                shown.proven = true;
            }
        });
    }
}

/// Stands for a certificate. Nobody can make another with the same number: the key is ours alone.
fn id(leaf: &[u8]) -> u64 {
    static KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    KEY.hash_one(leaf)
}

/// When the chains of kept connections end, by where these lead to. One for each client, since that is how connections are shared.
#[derive(Debug, Default)]
pub(super) struct Expiries(Mutex<HashMap<Box<str>, Leaves>>);

/// Leaves with the earliest end of what came with each, the newest last.
type Leaves = Vec<(u64, i64)>;

/// More than a client has servers; beyond it the notes start anew, and a leaf's own end stands in for its chain's.
const MAX_AUTHORITIES: usize = 1 << 16;

/// Certificates of one address: several servers may share it, and one that changes its certificate has two for a while.
const MAX_LEAVES: usize = 8;

impl Expiries {
    /// When the chain ends that came on the connection to `authority` (`host:port`) which gave an answer during a call. Behind a proxy
    /// with a certificate the HTTP client does not tell the `leaf`.
    pub(super) fn of(
        &self,
        authority: &str,
        leaf: Option<&[u8]>,
        handshakes: &Handshakes,
        proxy: Option<&str>,
    ) -> Option<i64> {
        let wanted = leaf.map(id);
        let mut by_authority = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((id, earliest)) = handshakes.proven(wanted, proxy) {
            if by_authority.len() >= MAX_AUTHORITIES && !by_authority.contains_key(authority) {
                by_authority.clear();
            }
            let leaves = by_authority.entry(authority.into()).or_default();
            leaves.retain(|(known, _)| *known != id);
            if leaves.len() == MAX_LEAVES {
                leaves.remove(0);
            }
            leaves.push((id, earliest));
            return Some(earliest);
        }
        let mut kept = by_authority.get(authority).into_iter().flatten().rev();
        let kept = kept.find(|(known, _)| wanted.is_none_or(|wanted| *known == wanted));
        kept.map(|(_, earliest)| *earliest).or_else(|| not_after(leaf?))
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
}

impl RecordingVerifier {
    /// Verifies against the authorities in `ca`, or the system's.
    pub(super) fn verifying(ca: Option<&[u8]>, address: Option<IpAddr>) -> Result<Arc<Self>, ClientError> {
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
        Ok(Arc::new(Self { verifier: Some(verifier), address }))
    }

    /// Takes every certificate: `insecureSkipVerify`.
    pub(super) fn trusting() -> Arc<Self> {
        Arc::new(Self { verifier: None, address: None })
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
        let chain = std::iter::once(end_entity).chain(intermediates);
        if let Some(earliest) = chain.filter_map(|certificate| not_after(certificate)).min() {
            let name = server_name.to_str().into_owned();
            // Before the verdict: one looks at dates when a certificate is refused.
            Handshakes::note(Shown { name, leaf: id(end_entity), earliest, proven: false });
        }
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
        let valid = verify_tls12_signature(message, certificate, signed, &RING.signature_verification_algorithms)?;
        Handshakes::note_proof(certificate);
        Ok(valid)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let valid = verify_tls13_signature(message, certificate, signed, &RING.signature_verification_algorithms)?;
        Handshakes::note_proof(certificate);
        Ok(valid)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        RING.signature_verification_algorithms.supported_schemes()
    }
}
