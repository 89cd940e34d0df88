//! Whom a certificate is believed: by webpki, as rustls does, with two things more. It is told when the chains end that were verified, and a
//! certificate that was handed to us itself needs nobody who vouches for it.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use rustls::{CertificateError, DistinguishedName, OtherError, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, KeyUsage, VerifiedPath, anchor_from_trusted_cert};
use x509_parser::prelude::{X509Certificate, parse_x509_certificate};

/// The certificates that are trusted.
#[derive(Debug)]
pub struct Anchors {
    roots: RootCertStore,
    /// When each of the roots ends.
    ends: Vec<i64>,
    /// Those that a peer may have for its own.
    given: Vec<CertificateDer<'static>>,
}

/// What a certificate is shown for.
#[derive(Clone, Copy, Debug)]
pub enum Usage<'n> {
    /// To be the server of this name.
    Server(&'n ServerName<'n>),
    /// To be a client of ours.
    Client,
}

/// When a certificate ends, as Unix time.
pub fn end(certificate: &[u8]) -> Option<i64> {
    parse_x509_certificate(certificate).ok().map(|(_, certificate)| certificate.validity().not_after.timestamp())
}

impl Anchors {
    /// Those of `certificates` that can be read, and how many cannot. Each may also be what a peer shows as its own: the certificate that
    /// `openssl req -x509` makes is an authority and a server in one.
    pub fn given(certificates: Vec<CertificateDer<'static>>) -> (Self, usize) {
        let (mut anchors, unread) = Self::authorities(&certificates);
        anchors.given = certificates;
        (anchors, unread)
    }

    /// The same where they are authorities and nothing else.
    pub fn authorities(certificates: &[CertificateDer<'static>]) -> (Self, usize) {
        let mut anchors = Self { roots: RootCertStore::empty(), ends: Vec::new(), given: Vec::new() };
        let mut unread = 0;
        for certificate in certificates {
            match anchor_from_trusted_cert(certificate) {
                Ok(anchor) => {
                    anchors.roots.roots.push(anchor.to_owned());
                    anchors.ends.push(end(certificate).unwrap_or(i64::MAX));
                }
                Err(_) => unread += 1,
            }
        }
        (anchors, unread)
    }

    /// Whether nobody can be believed.
    pub fn is_empty(&self) -> bool {
        self.roots.is_empty()
    }

    /// The names of the authorities, as they are told to clients.
    pub fn subjects(&self) -> Vec<DistinguishedName> {
        self.roots.subjects()
    }

    /// Verifies what a peer has `shown`. Of each chain that holds the earliest end is taken, and of these the latest is the answer: that of
    /// the chain by which it will be believed longest.
    pub fn verify(
        &self,
        shown: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        usage: Usage<'_>,
        now: UnixTime,
    ) -> Result<i64, rustls::Error> {
        let leaf = EndEntityCert::try_from(shown).map_err(refusal)?;
        let latest = Cell::new(None);
        let note = |path: &VerifiedPath<'_>| {
            latest.set(latest.get().max(Some(self.end_of(shown, path))));
            Err(webpki::Error::UnknownIssuer) // so that it looks for the next one
        };
        let key_usage = match usage {
            Usage::Server(_) => KeyUsage::server_auth(),
            Usage::Client => KeyUsage::client_auth(),
        };
        let (algorithms, roots) = (super::algorithms().all, &self.roots.roots);
        let ended =
            leaf.verify_for_usage(algorithms, roots, intermediates, now, key_usage, None, Some(&note)).map(|_| ());
        let end = match (latest.get(), ended) {
            (Some(end), _) => end,
            (None, _) if self.given.iter().any(|given| given == shown) => by_itself(shown, usage, now)?,
            (None, Err(error)) => return Err(refusal(error)),
            (None, Ok(())) => return Err(CertificateError::UnknownIssuer.into()),
        };
        if let Usage::Server(name) = usage {
            leaf.verify_is_valid_for_subject_name(name).map_err(refusal)?;
        }
        Ok(end)
    }

    fn end_of(&self, shown: &[u8], path: &VerifiedPath<'_>) -> i64 {
        let intermediates = path.intermediate_certificates().filter_map(|certificate| end(&certificate.der()));
        let anchor = self.roots.roots.iter().position(|anchor| same(anchor, path.anchor()));
        let anchor = anchor.and_then(|place| self.ends.get(place)).copied();
        intermediates.chain(end(shown)).chain(anchor).min().unwrap_or(i64::MAX)
    }
}

/// Whether it is this very entry of the list: a renewed authority has the name and key of the old one, and another end.
fn same(one: &TrustAnchor<'_>, other: &TrustAnchor<'_>) -> bool {
    std::ptr::eq(std::ptr::from_ref(one).cast::<()>(), std::ptr::from_ref(other).cast())
}

/// What is asked of a certificate that was handed to us itself; its end.
fn by_itself(shown: &[u8], usage: Usage<'_>, now: UnixTime) -> Result<i64, rustls::Error> {
    let (_, certificate) = parse_x509_certificate(shown).map_err(|_| CertificateError::BadEncoding)?;
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

/// Whether the extensions that say what it is for allow this. One that is absent allows everything.
fn may_be_used(certificate: &X509Certificate<'_>, usage: Usage<'_>) -> bool {
    let (Ok(key), Ok(extended)) = (certificate.key_usage(), certificate.extended_key_usage()) else { return false };
    // Every handshake that we take part in is signed.
    key.is_none_or(|key| key.value.digital_signature())
        && extended.is_none_or(|extended| match usage {
            Usage::Server(_) => extended.value.server_auth,
            Usage::Client => extended.value.client_auth,
        })
}

/// As rustls tells it, so that the peer gets the alert that it knows.
fn refusal(error: webpki::Error) -> rustls::Error {
    use webpki::Error as E;
    rustls::Error::InvalidCertificate(match error {
        E::BadDer | E::BadDerTime | E::TrailingData(_) => CertificateError::BadEncoding,
        E::CertNotValidYet { time, not_before } => CertificateError::NotValidYetContext { time, not_before },
        E::CertExpired { time, not_after } => CertificateError::ExpiredContext { time, not_after },
        E::InvalidCertValidity => CertificateError::Expired,
        E::UnknownIssuer => CertificateError::UnknownIssuer,
        E::CertNotValidForName(name) => CertificateError::NotValidForNameContext {
            expected: name.expected,
            presented: Vec::new(), // the server's words are told to nobody
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
