//! Verification of server certificates, with a note of when each chain ends: `probe_ssl_earliest_cert_expiry` and
//! `probe_ssl_last_chain_expiry_timestamp_seconds`.
//!
//! The HTTP client hands out only the leaf of a connection, and a leaf is public: another server can show it, beside whatever it likes. So
//! what was shown is noted for the call that made the connection, and remembered for where that connection leads to.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::{DigitallySignedStruct, ProtocolVersion, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::ClientError;
use crate::tls::{self, Anchors, Proof, Usage};

tokio::task_local! {
    /// Those of the call that is being made. Connections are made by the task that needs them; one that the HTTP client goes on with in
    /// another task, after it got an idle one, is noted nowhere, and its leaf's own end stands in.
    static HANDSHAKES: Handshakes;
}

/// When the certificates of a server end, as Unix time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expiry {
    /// The first of those that it sends, whether they are of use or not, and whatever was thought of them.
    pub earliest: i64,
    /// The chain by which it will be believed longest: of each that was verified the earliest end, of these the latest.
    pub last_chain: Option<i64>,
}

/// What one server has shown.
#[derive(Debug)]
struct Shown {
    /// The name that its certificate was to have: it tells a proxy's from the target's.
    name: String,
    leaf: u64,
    expiry: Expiry,
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
    pub(super) fn last(&self, proxy: Option<&str>) -> Option<Expiry> {
        let shown = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let last = shown.last().filter(|last| proxy != Some(&last.name))?;
        // What was not proven was verified for somebody else.
        Some(Expiry { last_chain: last.expiry.last_chain.filter(|_| last.proven), ..last.expiry })
    }

    /// The leaf and the end of the chain of whoever answered: of the one with this leaf, if it is known, else of the last.
    fn proven(&self, leaf: Option<u64>, proxy: Option<&str>) -> Option<(u64, Expiry)> {
        let shown = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut proven = shown.iter().rev().filter(|shown| shown.proven);
        let found = match leaf {
            Some(leaf) => proven.find(|shown| shown.leaf == leaf),
            None => proven.next().filter(|last| proxy != Some(&last.name)),
        };
        found.map(|shown| (shown.leaf, shown.expiry))
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

/// Leaves with the ends of what came with each, the newest last.
type Leaves = Vec<(u64, Expiry)>;

/// More than a client has servers; beyond it the notes start anew, and a leaf's own end stands in for its chain's.
const MAX_AUTHORITIES: usize = 1 << 16;

/// Certificates of one address: several servers may share it, and one that changes its certificate has two for a while.
const MAX_LEAVES: usize = 8;

impl Expiries {
    /// When the chain ends that came on the connection to `authority` (`host:port`) which gave an answer during a call. Behind a proxy
    /// with a certificate the HTTP client does not tell the `leaf`. Whether it was `verified` is asked where the leaf is all that is known.
    pub(super) fn of(
        &self,
        authority: &str,
        leaf: Option<&[u8]>,
        handshakes: &Handshakes,
        proxy: Option<&str>,
        verified: bool,
    ) -> Option<Expiry> {
        let wanted = leaf.map(id);
        let mut by_authority = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((id, expiry)) = handshakes.proven(wanted, proxy) {
            if by_authority.len() >= MAX_AUTHORITIES && !by_authority.contains_key(authority) {
                by_authority.clear();
            }
            let leaves = by_authority.entry(authority.into()).or_default();
            leaves.retain(|(known, _)| *known != id);
            if leaves.len() == MAX_LEAVES {
                leaves.remove(0);
            }
            leaves.push((id, expiry));
            return Some(expiry);
        }
        let mut kept = by_authority.get(authority).into_iter().flatten().rev();
        let kept = kept.find(|(known, _)| wanted.is_none_or(|wanted| *known == wanted));
        kept.map(|(_, expiry)| *expiry).or_else(|| {
            let earliest = tls::end(leaf?)?;
            Some(Expiry { earliest, last_chain: verified.then_some(earliest) })
        })
    }
}

/// Verifies certificates, or takes them all, and notes when they end.
#[derive(Debug)]
pub struct RecordingVerifier {
    /// Who is believed; `None`: everybody.
    anchors: Option<Arc<Anchors>>,
    /// The address that the certificate must bear, instead of the url's host.
    address: Option<ServerName<'static>>,
}

impl RecordingVerifier {
    /// Verifies against the authorities in `ca`, or the system's.
    pub(super) fn verifying(ca: Option<&[u8]>, address: Option<IpAddr>) -> Result<Arc<Self>, ClientError> {
        let anchors = match ca {
            None => Arc::clone(&SYSTEM_ROOTS),
            Some(pem) => Arc::new(Anchors::given(tls::certificates(pem).ok_or(ClientError::Ca)?).0),
        };
        if anchors.is_empty() {
            return Err(if ca.is_some() { ClientError::Ca } else { ClientError::Roots });
        }
        let address = address.map(|address| ServerName::IpAddress(address.into()));
        Ok(Arc::new(Self { anchors: Some(anchors), address }))
    }

    /// Takes every certificate: `insecureSkipVerify`.
    pub fn trusting() -> Arc<Self> {
        Arc::new(Self { anchors: None, address: None })
    }
}

/// The system's authorities, read once: they are a megabyte.
static SYSTEM_ROOTS: LazyLock<Arc<Anchors>> = LazyLock::new(|| {
    let loaded = rustls_native_certs::load_native_certs();
    for error in &loaded.errors {
        tracing::warn!(error = error as &dyn std::error::Error, "a trusted certificate of this system cannot be read");
    }
    Arc::new(Anchors::authorities(&loaded.certs).0)
});

impl RecordingVerifier {
    /// The signature of a handshake: `verify` does it as rustls would. Of a certificate that is not verified itself, one that cannot be
    /// verified is taken, too, but a wrong one is not: that is the certificate of somebody else.
    fn signature(
        &self,
        version: ProtocolVersion,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let proof = match (&self.anchors, version) {
            (None, version) => tls::proven(version, message, certificate, signed)?,
            (Some(_), ProtocolVersion::TLSv1_3) => {
                verify_tls13_signature(message, certificate, signed, tls::algorithms()).map(|_| Proof::Given)?
            }
            (Some(_), _) => {
                verify_tls12_signature(message, certificate, signed, tls::algorithms()).map(|_| Proof::Given)?
            }
        };
        if proof == Proof::Given {
            Handshakes::note_proof(certificate);
        }
        Ok(HandshakeSignatureValid::assertion())
    }
}

impl ServerCertVerifier for RecordingVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let wanted = self.address.as_ref().unwrap_or(server_name);
        let anchors = self.anchors.as_ref();
        let verdict = anchors.map(|anchors| anchors.verify(end_entity, intermediates, Usage::Server(wanted), now));
        let chain = std::iter::once(end_entity).chain(intermediates);
        // Whatever the verdict: one looks at dates when a certificate is refused.
        if let Some(earliest) = chain.filter_map(|certificate| tls::end(certificate)).min() {
            let last_chain = verdict.as_ref().and_then(|verdict| verdict.as_ref().ok()).copied();
            let name = server_name.to_str().into_owned();
            let expiry = Expiry { earliest, last_chain };
            Handshakes::note(Shown { name, leaf: id(end_entity), expiry, proven: false });
        }
        verdict.transpose().map(|_| ServerCertVerified::assertion())
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
        if self.anchors.is_some() { tls::algorithms().supported_schemes() } else { tls::any_scheme() }
    }
}
