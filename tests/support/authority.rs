//! An authority for certificates of every sort, and what servers need to show them.

use std::net::Ipv4Addr;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose, SanType,
    SerialNumber, date_time_ymd,
};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// A root, and an authority below it that signs for servers and clients.
pub struct Authority {
    root: CertifiedIssuer<'static, KeyPair>,
    below: CertifiedIssuer<'static, KeyPair>,
}

/// What a server or a client shows: its own certificate first.
pub struct Shown {
    pub chain: Vec<CertificateDer<'static>>,
    pub key: KeyPair,
    pems: Vec<String>,
}

impl Shown {
    /// All that it shows, as text.
    pub fn pem(&self) -> String {
        self.pems.concat()
    }

    /// Without the certificates that lead from its own to the root.
    #[must_use]
    pub fn incomplete(mut self) -> Self {
        self.chain.truncate(1);
        self.pems.truncate(1);
        self
    }

    /// And one more.
    #[must_use]
    pub fn with(mut self, certificate: &rcgen::Certificate) -> Self {
        self.chain.push(certificate.der().clone());
        self.pems.push(certificate.pem());
        self
    }
}

fn authority(name: &str, until: i32) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(until, 1, 1));
    params
}

/// For `localhost`, `server.test` and 127.0.0.1, from 2024 to 2040.
pub fn server() -> CertificateParams {
    let mut params = CertificateParams::new(["localhost", "server.test"].map(str::to_owned)).unwrap();
    params.subject_alt_names.push(SanType::IpAddress(Ipv4Addr::LOCALHOST.into()));
    params.distinguished_name.push(DnType::OrganizationName, "Tests, Inc.");
    params.distinguished_name.push(DnType::CommonName, "server.test");
    params.serial_number = Some(SerialNumber::from(vec![0x0a, 0x1b, 0x2c]));
    (params.not_before, params.not_after) = (date_time_ymd(2024, 1, 1), date_time_ymd(2040, 1, 1));
    params
}

impl Authority {
    pub fn new() -> Self {
        let root = CertifiedIssuer::self_signed(authority("Root", 2045), KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let below = CertifiedIssuer::signed_by(authority("Authority", 2042), key, &root).unwrap();
        Self { root, below }
    }

    /// The root, as text.
    pub fn pem(&self) -> String {
        self.root.pem()
    }

    /// The authority below the root, as text.
    pub fn pem_below(&self) -> String {
        self.below.pem()
    }

    /// The root with its key once more, as it was before it was renewed: it ends earlier than any other certificate.
    pub fn older_root(&self) -> rcgen::Certificate {
        authority("Root", 2032).self_signed(self.root.key()).unwrap()
    }

    /// A certificate with all between it and the root.
    pub fn signs(&self, params: &CertificateParams) -> Shown {
        let key = KeyPair::generate().unwrap();
        let own = params.signed_by(&key, &self.below).unwrap();
        let chain = vec![own.der().clone(), self.below.der().clone()];
        Shown { chain, key, pems: vec![own.pem(), self.below.pem()] }
    }

    /// TLS for a server that asks each client for a certificate of this authority.
    pub fn asks_for_certificate(&self, shown: &Shown) -> Arc<ServerConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.root.der().clone()).unwrap();
        let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).build().unwrap();
        let builder = ServerConfig::builder().with_client_cert_verifier(verifier);
        Arc::new(builder.with_single_cert(shown.chain.clone(), key_of(shown)).unwrap())
    }
}

/// A certificate that nobody else has signed.
pub fn self_signed(params: &CertificateParams) -> Shown {
    let key = KeyPair::generate().unwrap();
    let own = params.self_signed(&key).unwrap();
    Shown { chain: vec![own.der().clone()], key, pems: vec![own.pem()] }
}

fn key_of(shown: &Shown) -> PrivateKeyDer<'static> {
    PrivateKeyDer::try_from(shown.key.serialize_der()).unwrap()
}

/// TLS for a server.
pub fn tls(shown: &Shown, versions: &[&'static SupportedProtocolVersion]) -> Arc<ServerConfig> {
    let builder = ServerConfig::builder_with_protocol_versions(versions).with_no_client_auth();
    Arc::new(builder.with_single_cert(shown.chain.clone(), key_of(shown)).unwrap())
}
