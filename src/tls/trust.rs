//! Verification of certificate chains with webpki, as rustls does it, with two additions: the result says when the chain expires, and a
//! configured certificate is also accepted as the peer's own, without a chain.

use std::cell::Cell;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use rustls::{CertificateError, DistinguishedName, OtherError, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, KeyUsage, VerifiedPath, anchor_from_trusted_cert};
use x509_parser::prelude::{X509Certificate, parse_x509_certificate};

/// The certificates that are trusted.
#[derive(Debug)]
pub struct TrustStore {
    roots: RootCertStore,
    /// When each of the roots expires, as Unix time.
    expiries: Vec<i64>,
    /// Certificates that a peer may present as its own.
    pinned: Vec<CertificateDer<'static>>,
}

/// The system's authorities, read once because they take a megabyte. There may be none.
pub fn system_authorities() -> Arc<TrustStore> {
    static AUTHORITIES: LazyLock<Arc<TrustStore>> = LazyLock::new(|| {
        let loaded = rustls_native_certs::load_native_certs();
        for error in &loaded.errors {
            tracing::warn!(
                error = error as &dyn std::error::Error,
                "a trusted certificate of this system cannot be read"
            );
        }
        Arc::new(TrustStore::authorities_only(&loaded.certs).0)
    });
    Arc::clone(&AUTHORITIES)
}

/// What a peer uses its certificate for.
#[derive(Clone, Copy, Debug)]
pub enum Usage<'n> {
    /// To authenticate as the server of this name.
    Server(&'n ServerName<'n>),
    /// To authenticate as a client.
    Client,
}

/// When the certificates of a server expire, as Unix time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expiry {
    /// The earliest expiry of all that it sends, whether or not they are needed or trusted.
    pub earliest: i64,
    /// The expiry of the verified chain that is valid longest. A chain expires with the first of its certificates.
    pub last_chain: Option<i64>,
}

/// When a certificate expires, as Unix time.
pub fn not_after(certificate: &[u8]) -> Option<i64> {
    parse_x509_certificate(certificate).ok().map(|(_, certificate)| certificate.validity().not_after.timestamp())
}

impl TrustStore {
    /// Trusts `certificates`, as authorities and as certificates of peers: the one that `openssl req -x509` creates is both. Also returns
    /// how many cannot be parsed.
    pub fn new(certificates: Vec<CertificateDer<'static>>) -> (Self, usize) {
        let (mut store, invalid) = Self::authorities_only(&certificates);
        store.pinned = certificates;
        (store, invalid)
    }

    /// Trusts `certificates` as authorities only. Also returns how many cannot be parsed.
    pub fn authorities_only(certificates: &[CertificateDer<'static>]) -> (Self, usize) {
        let mut store = Self { roots: RootCertStore::empty(), expiries: Vec::new(), pinned: Vec::new() };
        let mut invalid = 0;
        for certificate in certificates {
            match anchor_from_trusted_cert(certificate) {
                Ok(anchor) => {
                    store.roots.roots.push(anchor.to_owned());
                    store.expiries.push(not_after(certificate).unwrap_or(i64::MAX));
                }
                Err(_) => invalid += 1,
            }
        }
        (store, invalid)
    }

    /// Trusts the certificates in `pem`; none if it holds no certificate that can be used.
    pub fn of_pem(pem: &[u8]) -> Option<Arc<Self>> {
        let (store, _) = Self::new(super::certificates(pem)?);
        (!store.is_empty()).then(|| Arc::new(store))
    }

    /// Whether no authority is trusted.
    pub fn is_empty(&self) -> bool {
        self.roots.is_empty()
    }

    /// The names of the authorities, for the `CertificateRequest` message to clients.
    pub fn subjects(&self) -> Vec<DistinguishedName> {
        self.roots.subjects()
    }

    /// Verifies the certificate that a peer has `presented`. Returns when it will no longer verify: a chain expires with the first of its
    /// certificates, and if several chains are valid, the one that expires last counts.
    pub fn verify(
        &self,
        presented: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        usage: Usage<'_>,
        now: UnixTime,
    ) -> Result<i64, rustls::Error> {
        let leaf = EndEntityCert::try_from(presented).map_err(to_rustls)?;
        let latest = Cell::new(None);
        let note = |path: &VerifiedPath<'_>| {
            latest.set(latest.get().max(Some(self.expiry_of(presented, path))));
            Err(webpki::Error::UnknownIssuer) // rejects the chain, so that webpki tries the next one
        };
        let key_usage = match usage {
            Usage::Server(_) => KeyUsage::server_auth(),
            Usage::Client => KeyUsage::client_auth(),
        };
        let (algorithms, roots) = (super::algorithms().all, &self.roots.roots);
        let result =
            leaf.verify_for_usage(algorithms, roots, intermediates, now, key_usage, None, Some(&note)).map(|_| ());
        let expiry = match (latest.get(), result) {
            (Some(expiry), _) => expiry,
            (None, _) if self.pinned.iter().any(|pinned| pinned == presented) => verify_pinned(presented, usage, now)?,
            (None, Err(error)) => return Err(to_rustls(error)),
            (None, Ok(())) => return Err(CertificateError::UnknownIssuer.into()),
        };
        if let Usage::Server(name) = usage {
            leaf.verify_is_valid_for_subject_name(name).map_err(to_rustls)?;
        }
        Ok(expiry)
    }

    fn expiry_of(&self, leaf: &[u8], path: &VerifiedPath<'_>) -> i64 {
        let intermediates = path.intermediate_certificates().filter_map(|certificate| not_after(&certificate.der()));
        let root = self.roots.roots.iter().position(|root| is_same_entry(root, path.anchor()));
        let root = root.and_then(|index| self.expiries.get(index)).copied();
        intermediates.chain(not_after(leaf)).chain(root).min().unwrap_or(i64::MAX)
    }
}

/// Compares addresses, since a renewed authority has the name and key of the old one, but another expiry.
fn is_same_entry(one: &TrustAnchor<'_>, other: &TrustAnchor<'_>) -> bool {
    std::ptr::eq(std::ptr::from_ref(one).cast::<()>(), std::ptr::from_ref(other).cast())
}

/// Verifies a certificate that is trusted itself, without a chain: its dates and what it may be used for. Returns when it expires.
fn verify_pinned(certificate: &[u8], usage: Usage<'_>, now: UnixTime) -> Result<i64, rustls::Error> {
    let (_, certificate) = parse_x509_certificate(certificate).map_err(|_| CertificateError::BadEncoding)?;
    let (from, to) = (certificate.validity().not_before.timestamp(), certificate.validity().not_after.timestamp());
    let at = |seconds: i64| UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)));
    if now < at(from) {
        return Err(CertificateError::NotValidYetContext { time: now, not_before: at(from) }.into());
    }
    if now > at(to) {
        return Err(CertificateError::ExpiredContext { time: now, not_after: at(to) }.into());
    }
    if may_be_used(&certificate, usage) { Ok(to) } else { Err(CertificateError::InvalidPurpose.into()) }
}

/// Whether the extensions keyUsage and extendedKeyUsage allow this usage. One that is absent allows everything.
fn may_be_used(certificate: &X509Certificate<'_>, usage: Usage<'_>) -> bool {
    let (Ok(key), Ok(extended)) = (certificate.key_usage(), certificate.extended_key_usage()) else { return false };
    // Every handshake of ours is signed.
    key.is_none_or(|key| key.value.digital_signature())
        && extended.is_none_or(|extended| match usage {
            Usage::Server(_) => extended.value.server_auth,
            Usage::Client => extended.value.client_auth,
        })
}

/// Converts an error as rustls itself does, so that the peer gets the alert that it expects.
fn to_rustls(error: webpki::Error) -> rustls::Error {
    use webpki::Error as E;
    rustls::Error::InvalidCertificate(match error {
        E::BadDer | E::BadDerTime | E::TrailingData(_) => CertificateError::BadEncoding,
        E::CertNotValidYet { time, not_before } => CertificateError::NotValidYetContext { time, not_before },
        E::CertExpired { time, not_after } => CertificateError::ExpiredContext { time, not_after },
        E::InvalidCertValidity => CertificateError::Expired,
        E::UnknownIssuer => CertificateError::UnknownIssuer,
        E::CertNotValidForName(name) => CertificateError::NotValidForNameContext {
            expected: name.expected,
            // The server chooses these names, and they would be shown to users: only that there are some is told.
            presented: if name.presented.is_empty() { Vec::new() } else { vec![String::new()] },
        },
        E::InvalidSignatureForPublicKey => CertificateError::BadSignature,
        E::UnsupportedSignatureAlgorithmContext(cx) => CertificateError::UnsupportedSignatureAlgorithmContext {
            signature_algorithm_id: cx.signature_algorithm_id,
            supported_algorithms: cx.supported_algorithms,
        },
        E::UnsupportedSignatureAlgorithmForPublicKeyContext(cx) => {
            CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext {
                signature_algorithm_id: cx.signature_algorithm_id,
                public_key_algorithm_id: cx.public_key_algorithm_id,
            }
        }
        E::RequiredEkuNotFoundContext(_) => CertificateError::InvalidPurpose,
        other => CertificateError::Other(OtherError(Arc::new(other))),
    })
}
