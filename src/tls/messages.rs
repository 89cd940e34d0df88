//! Messages for users about errors of TLS: which side is at fault, and what to write instead. Of a peer's certificate only dates and
//! algorithms are quoted.

use std::fmt::Debug;

use jiff::Timestamp;
use rustls::{AlertDescription, CertificateError, InvalidMessage, PeerIncompatible};
use rustls_pki_types::{ServerName, UnixTime};
use x509_parser::der_parser::asn1_rs::{FromDer, Oid};

/// The other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// A server to which we connect, with the settings in this field.
    Server(&'static str),
    /// A client that connects to us.
    Client,
}

impl Peer {
    /// The server of a target.
    pub const TARGET: Self = Self::Server("tlsConfig");

    const fn name(self) -> &'static str {
        match self {
            Self::Server(_) => "server",
            Self::Client => "client",
        }
    }

    const fn is_server(self) -> bool {
        matches!(self, Self::Server(_))
    }

    /// Where the name stands that the peer's certificate must contain.
    fn wanted_name(self) -> String {
        match self {
            Self::Server(settings) => format!("url or {settings}.serverName"),
            Self::Client => "client_allowed_sans".to_owned(),
        }
    }

    /// Our own certificate, which the peer judges.
    fn ours(self) -> String {
        match self {
            Self::Server(settings) => format!("client certificate ({settings}.cert)"),
            Self::Client => "certificate (tls_server_config)".to_owned(),
        }
    }

    /// The field with the authorities that we trust.
    fn authorities(self) -> String {
        match self {
            Self::Server(settings) => format!("{settings}.ca"),
            Self::Client => "client_ca_file".to_owned(),
        }
    }
}

/// The message for an error of TLS.
pub fn describe(error: &rustls::Error, peer: Peer) -> String {
    let who = peer.name();
    match error {
        rustls::Error::InvalidCertificate(error) => certificate(error, peer),
        rustls::Error::AlertReceived(alert) => alerted(*alert, peer),
        rustls::Error::PeerIncompatible(why) => incompatible(why, peer),
        rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) if peer.is_server() => {
            "the response is not TLS: if the server speaks http, write http:// instead of https://".to_owned()
        }
        rustls::Error::InvalidMessage(why) => {
            format!("the {who} sends data that is not TLS, or malformed TLS ({})", split(why))
        }
        rustls::Error::PeerMisbehaved(why) => format!("the {who} violates the TLS protocol ({})", split(why)),
        rustls::Error::InappropriateMessage { .. } | rustls::Error::InappropriateHandshakeMessage { .. } => {
            format!("the {who} sends TLS messages in the wrong order")
        }
        rustls::Error::NoCertificatesPresented => format!("the {who} presents no certificate"),
        rustls::Error::UnsupportedNameType => "no certificate can be issued for a name of this form".to_owned(),
        rustls::Error::DecryptError => format!("the data from the {who} cannot be decrypted"),
        rustls::Error::PeerSentOversizedRecord => format!("the {who} sends records that are too large for TLS"),
        rustls::Error::NoApplicationProtocol => format!("the {who} does not speak HTTP/1.1 over TLS (ALPN)"),
        rustls::Error::InconsistentKeys(_) => "the private key does not match the certificate".to_owned(),
        rustls::Error::General(words) => words.clone(),
        other => other.to_string(),
    }
}

fn certificate(error: &CertificateError, peer: Peer) -> String {
    use CertificateError as E;
    let who = peer.name();
    match error {
        E::BadEncoding => format!(
            "the {who}'s certificate cannot be read: it is no certificate of X.509, or has a date before 1970, which is not supported"
        ),
        E::ExpiredContext { not_after, .. } => {
            format!("the {who}'s certificate, or another one in its chain, has expired{}", date(*not_after))
        }
        E::Expired => format!("the {who}'s certificate, or another one in its chain, has expired"),
        E::NotValidYetContext { not_before, .. } => {
            let date = date(*not_before);
            format!("the {who}'s certificate, or another one in its chain, is not valid yet{date}: compare the clocks")
        }
        E::NotValidYet => format!("the {who}'s certificate, or another one in its chain, is not valid yet"),
        E::Revoked => format!("the {who}'s certificate is revoked"),
        E::UnknownIssuer => format!(
            "the {who}'s certificate is signed by an unknown authority: add this authority to {}, or configure the {who} to send its \
             intermediate certificates",
            peer.authorities()
        ),
        E::BadSignature => format!(
            "a signature is wrong: the {who} does not have the key of its certificate, or a different authority of the same name has \
             signed the certificate"
        ),
        E::UnsupportedSignatureAlgorithmContext { signature_algorithm_id, .. } => format!(
            "the {who}'s certificate, or another one in its chain, is signed by {}, which is not supported: have it signed by \
             RSA or ECDSA with SHA-256, SHA-384 or SHA-512",
            algorithm(signature_algorithm_id)
        ),
        E::UnsupportedSignatureAlgorithmForPublicKeyContext { signature_algorithm_id, public_key_algorithm_id } => {
            format!(
                "the {who}'s certificate, or another one in its chain, is signed by {} with a key of {}, which is not supported: use \
             RSA of 2048 to 8192 bits, P-256, P-384, P-521 or Ed25519",
                algorithm(signature_algorithm_id),
                algorithm(public_key_algorithm_id)
            )
        }
        // For an address, the library tells no names, even if there are some.
        E::NotValidForNameContext { expected: expected @ ServerName::DnsName(_), presented }
            if presented.is_empty() =>
        {
            format!(
                "the {who}'s certificate has neither host names nor IP addresses as subject alternative names, and its common name does not \
             count: issue one for {:?}",
                expected.to_str()
            )
        }
        E::NotValidForNameContext { expected, .. } => format!(
            "the {who}'s certificate is not valid for {:?}: write one of its subject alternative names into {}",
            expected.to_str(),
            peer.wanted_name()
        ),
        E::NotValidForName => format!("the {who}'s certificate is not valid for this name"),
        E::InvalidPurpose | E::InvalidPurposeContext { .. } => format!(
            "the {who}'s certificate may not be used for this: if it has a keyUsage, it needs digitalSignature, if an \
             extendedKeyUsage, {}",
            if peer.is_server() { "serverAuth" } else { "clientAuth" }
        ),
        E::ApplicationVerificationFailure => format!("the {who}'s certificate has none of the allowed names"),
        E::Other(other) => match other.0.downcast_ref::<webpki::Error>() {
            Some(error) => unusual(error, peer),
            None => other.0.to_string(),
        },
        other => format!("the {who}'s certificate is rejected ({})", split(other)),
    }
}

/// The less common errors of certificates.
fn unusual(error: &webpki::Error, peer: Peer) -> String {
    use webpki::Error as E;
    let who = peer.name();
    match error {
        E::CaUsedAsEndEntity => format!(
            "the {who} presents the certificate of an authority as its own (CA:TRUE): add exactly this certificate to {}, or issue one \
             with CA:FALSE",
            peer.authorities()
        ),
        E::EndEntityUsedAsCa => {
            format!("the {who}'s certificate is signed by a certificate that is not an authority (CA:FALSE)")
        }
        E::UnsupportedCertVersion => format!(
            "the {who}'s certificate is not of X.509 version 3: issue one with subject alternative names{}",
            match peer {
                Peer::Server(settings) => format!(", or set {settings}.insecureSkipVerify"),
                Peer::Client => String::new(),
            }
        ),
        E::UnsupportedCriticalExtension => {
            format!("the {who}'s certificate, or another one in its chain, has an unknown critical extension")
        }
        E::NameConstraintViolation => {
            format!("the {who}'s certificate is signed by an authority that may not sign for its name")
        }
        E::PathLenConstraintViolated => {
            format!(
                "there are more authorities between the {who}'s certificate and the trusted one than the latter allows"
            )
        }
        E::MaximumSignatureChecksExceeded
        | E::MaximumPathBuildCallsExceeded
        | E::MaximumPathDepthExceeded
        | E::MaximumNameConstraintComparisonsExceeded => {
            format!(
                "the {who} sends more certificates than can be tried: configure it to send only those that it needs"
            )
        }
        E::SignatureAlgorithmMismatch => {
            format!("the {who}'s certificate names two different algorithms for its signature")
        }
        other => format!("the {who}'s certificate is rejected ({})", split(other)),
    }
}

/// Whether nothing helps but a name to be verified, or a certificate of our own: where no settings of TLS hold those, their fields must not be
/// named.
pub fn concerns_names_or_our_certificate(error: &rustls::Error) -> bool {
    use AlertDescription as A;
    match error {
        rustls::Error::InvalidCertificate(error) => {
            matches!(error, CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. })
        }
        rustls::Error::AlertReceived(alert) => matches!(
            alert,
            A::CertificateRequired
                | A::NoCertificate
                | A::UnknownCA
                | A::CertificateExpired
                | A::CertificateRevoked
                | A::BadCertificate
                | A::UnsupportedCertificate
                | A::CertificateUnknown
                | A::DecryptError
                | A::AccessDenied
                | A::HandshakeFailure
                | A::InsufficientSecurity
                | A::UnrecognisedName
        ),
        _ => false,
    }
}

fn alerted(alert: AlertDescription, peer: Peer) -> String {
    use AlertDescription as A;
    let (who, ours) = (peer.name(), peer.ours());
    if let Peer::Server(settings) = peer {
        match alert {
            A::CertificateRequired | A::NoCertificate => {
                return format!(
                    "the server requires a client certificate: write {settings}.cert and {settings}.keySecret"
                );
            }
            A::HandshakeFailure | A::InsufficientSecurity => {
                return format!(
                    "the server has no cipher suite, curve or signature in common with us, or requires a client certificate ({settings}.cert)"
                );
            }
            // Whether we have presented a certificate is not known here.
            A::DecryptError => {
                return format!(
                    "the server cannot verify a signature: if {settings}.cert is set, a different authority of the same name may have signed it"
                );
            }
            _ => {}
        }
    }
    match alert {
        A::UnknownCA => format!("the {who} does not trust the authority of our {ours}"),
        A::CertificateExpired => format!("the {who} says that our {ours} has expired"),
        A::CertificateRevoked => format!("the {who} says that our {ours} is revoked"),
        A::BadCertificate | A::UnsupportedCertificate | A::CertificateUnknown => {
            format!("the {who} rejects our {ours} ({})", split(&alert))
        }
        A::DecryptError => format!(
            "the {who} cannot verify a signature: a different authority of the same name may have signed our {ours}"
        ),
        A::AccessDenied => format!("the {who} denies access with our {ours}"),
        A::ProtocolVersion => format!("the {who} speaks neither TLS 1.2 nor TLS 1.3"),
        A::UnrecognisedName => {
            format!(
                "the {who} does not know the requested name: write one of its own names into {}",
                peer.wanted_name()
            )
        }
        A::NoApplicationProtocol => format!("the {who} does not speak HTTP/1.1 over TLS (ALPN)"),
        A::Unknown(number) => format!("the {who} has ended the handshake (alert {number})"),
        other => format!("the {who} has ended the handshake ({})", split(&other)),
    }
}

fn incompatible(why: &PeerIncompatible, peer: Peer) -> String {
    use PeerIncompatible as P;
    let who = peer.name();
    match why {
        P::ServerDoesNotSupportTls12Or13
        | P::ServerTlsVersionIsDisabledByOurConfig
        | P::Tls12NotOffered
        | P::Tls12NotOfferedOrEnabled
        | P::SupportedVersionsExtensionRequired => format!("the {who} has no version of TLS in common with us"),
        P::NoCipherSuitesInCommon => format!("the {who} has no cipher suite in common with us"),
        P::NoKxGroupsInCommon | P::NamedGroupsExtensionRequired | P::KeyShareExtensionRequired => {
            format!("the {who} has no curve in common with us")
        }
        P::NoSignatureSchemesInCommon | P::NoCertificateRequestSignatureSchemesInCommon => {
            format!("the {who} accepts no signature that our key can create")
        }
        other => format!("the {who} lacks a required feature of TLS ({})", split(other)),
    }
}

/// ` (2021-01-01T00:00:00Z)`.
fn date(at: UnixTime) -> String {
    let at = i64::try_from(at.as_secs()).ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
    at.map(|at| format!(" ({at})")).unwrap_or_default()
}

/// The words of a variant's name: `no such thing` for `NoSuchThing(7)`.
fn split(name: &impl Debug) -> String {
    let name = format!("{name:?}");
    let name: &str = name.split(|c: char| !c.is_ascii_alphanumeric()).next().unwrap_or_default();
    let mut words = String::new();
    let mut before = ' ';
    for letter in name.chars() {
        if letter.is_ascii_uppercase() && before.is_ascii_lowercase() {
            words.push(' ');
        }
        words.push(letter.to_ascii_lowercase());
        before = letter;
    }
    words
}

/// The longest object identifier of an algorithm that is quoted: the peer chooses it.
const LONGEST_NUMBER: usize = 40;

/// The usual names of algorithms and curves, by object identifier.
const NAMES: &[(&str, &str)] = &[
    ("1.2.840.10040.4.1", "DSA"),
    ("1.2.840.10040.4.3", "DSA with SHA-1"),
    ("2.16.840.1.101.3.4.3.2", "DSA with SHA-256"),
    ("1.2.840.10045.2.1", "ECDSA"),
    ("1.2.840.10045.3.1.7", "P-256"),
    ("1.2.840.10045.4.1", "ECDSA with SHA-1"),
    ("1.2.840.10045.4.3.1", "ECDSA with SHA-224"),
    ("1.2.840.10045.4.3.2", "ECDSA with SHA-256"),
    ("1.2.840.10045.4.3.3", "ECDSA with SHA-384"),
    ("1.2.840.10045.4.3.4", "ECDSA with SHA-512"),
    ("1.2.840.113549.1.1.1", "RSA"),
    ("1.2.840.113549.1.1.4", "RSA with MD5"),
    ("1.2.840.113549.1.1.5", "RSA with SHA-1"),
    ("1.2.840.113549.1.1.10", "RSA-PSS"),
    ("1.2.840.113549.1.1.11", "RSA with SHA-256"),
    ("1.2.840.113549.1.1.12", "RSA with SHA-384"),
    ("1.2.840.113549.1.1.13", "RSA with SHA-512"),
    ("1.2.840.113549.1.1.14", "RSA with SHA-224"),
    ("1.3.101.112", "Ed25519"),
    ("1.3.101.113", "Ed448"),
    ("1.3.132.0.10", "secp256k1"),
    ("1.3.132.0.33", "P-224"),
    ("1.3.132.0.34", "P-384"),
    ("1.3.132.0.35", "P-521"),
    ("1.3.36.3.3.2.8.1.1.7", "brainpoolP256r1"),
    ("1.3.36.3.3.2.8.1.1.11", "brainpoolP384r1"),
    ("1.3.36.3.3.2.8.1.1.13", "brainpoolP512r1"),
];

/// The DER tag of an object identifier.
const OID: u8 = 0x06;

/// The usual names of an algorithm and of its curve, if it has one.
fn algorithm(identifier: &[u8]) -> String {
    let Ok((rest, main)) = Oid::from_der(identifier) else { return "an algorithm that is not known".to_owned() };
    // RSA keys have NULL in place of a curve.
    let curve = Oid::from_der(rest)
        .ok()
        .filter(|_| rest.first() == Some(&OID))
        .map(|(_, curve)| format!(" on {}", named(&curve, "a curve")));
    format!("{}{}", named(&main, "an algorithm"), curve.unwrap_or_default())
}

/// The usual name of an algorithm or a curve, or `what` with its number.
pub(super) fn named(number: &Oid<'_>, what: &str) -> String {
    let number = number.to_id_string();
    let known = NAMES.iter().find(|(known, _)| *known == number);
    match known {
        Some((_, name)) => (*name).to_owned(),
        None if number.len() <= LONGEST_NUMBER => format!("{what} ({number})"),
        None => format!("{what} that is not known"),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::{
        AlertDescription, CertificateError, Error, InvalidMessage, OtherError, PeerIncompatible, PeerMisbehaved,
    };

    use super::{Peer, algorithm, describe};

    #[test]
    fn algorithms_have_the_names_that_people_call_them_by() {
        let p521 = [0x06, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1, 0x06, 5, 0x2b, 0x81, 4, 0, 0x23];
        assert_eq!(algorithm(&p521), "ECDSA on P-521");
        assert_eq!(algorithm(&[0x06, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 5, 5, 0]), "RSA with SHA-1");
        assert_eq!(algorithm(&[0x06, 3, 0x2a, 3, 4]), "an algorithm (1.2.3.4)");
        assert_eq!(
            algorithm(&[0x06, 60].into_iter().chain([1; 60]).collect::<Vec<_>>()),
            "an algorithm that is not known"
        );
        assert_eq!(algorithm(b""), "an algorithm that is not known");
    }

    #[test]
    fn a_certificate_without_names_and_one_of_the_past_are_told() {
        let expected = rustls_pki_types::ServerName::try_from("web.test").unwrap();
        let unnamed = |presented: &[&str]| CertificateError::NotValidForNameContext {
            expected: expected.clone(),
            presented: presented.iter().map(|name| (*name).to_owned()).collect(),
        };
        let address = rustls_pki_types::ServerName::try_from("10.0.0.1").unwrap();
        let of_address = CertificateError::NotValidForNameContext { expected: address, presented: Vec::new() };
        for (error, words) in [
            (unnamed(&[]), "has neither host names nor IP addresses as subject alternative names"),
            (of_address, "is not valid for \"10.0.0.1\""),
            (unnamed(&["DnsName(\"other.test\")"]), "write one of its subject alternative names into url"),
            (CertificateError::BadEncoding, "a date before 1970, which is not supported"),
        ] {
            let message = describe(&Error::InvalidCertificate(error), Peer::TARGET);
            assert!(message.contains(words), "{message}");
        }
    }

    #[test]
    fn no_sentence_shows_how_the_library_writes_it_down() {
        let other = |error| Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(error))));
        let errors = [
            other(webpki::Error::CaUsedAsEndEntity),
            other(webpki::Error::UnsupportedCertVersion),
            other(webpki::Error::NameConstraintViolation),
            other(webpki::Error::EmptyEkuExtension),
            Error::InvalidCertificate(CertificateError::UnknownIssuer),
            Error::InvalidCertificate(CertificateError::InvalidOcspResponse),
            Error::InvalidCertificate(CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext {
                signature_algorithm_id: vec![6, 3, 42, 3, 4],
                public_key_algorithm_id: vec![],
            }),
            Error::AlertReceived(AlertDescription::HandshakeFailure),
            Error::AlertReceived(AlertDescription::InternalError),
            Error::AlertReceived(AlertDescription::Unknown(200)),
            Error::InvalidMessage(InvalidMessage::MissingData("CertificatePayload")),
            Error::InvalidMessage(InvalidMessage::InvalidContentType),
            Error::PeerIncompatible(PeerIncompatible::NullCompressionRequired),
            Error::PeerMisbehaved(PeerMisbehaved::TooManyEmptyFragments),
        ];
        for error in errors {
            for peer in [Peer::TARGET, Peer::Client] {
                let words = describe(&error, peer);
                let camel =
                    words.as_bytes().windows(2).any(|two| two[0].is_ascii_lowercase() && two[1].is_ascii_uppercase());
                let known = ["tlsConfig", "insecureSkipVerify", "keySecret", "digitalSignature", "serverAuth"];
                assert!(!camel || known.iter().any(|known| words.contains(known)), "{words}");
                assert!(!words.contains(['{', '[', '"']) && !words.contains("Other") && !words.is_empty(), "{words}");
            }
        }
    }
}
