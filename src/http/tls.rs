//! `tls_server_config` of exporter-toolkit, by rustls. What rustls does not have is an error that says so.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme,
    SupportedProtocolVersion,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use serde::Deserialize;
use x509_parser::extensions::GeneralName;

/// The block as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct TlsBlock {
    cert: Option<String>,
    key: Option<String>,
    client_ca: Option<String>,
    cert_file: Option<PathBuf>,
    key_file: Option<PathBuf>,
    client_ca_file: Option<PathBuf>,
    client_auth_type: ClientAuth,
    client_allowed_sans: Vec<String>,
    min_version: Option<Version>,
    max_version: Option<Version>,
    cipher_suites: Vec<String>,
    curve_preferences: Vec<String>,
    prefer_server_cipher_suites: Option<bool>,
}

/// Go's names of what is asked of clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
enum ClientAuth {
    #[default]
    #[serde(rename = "NoClientCert", alias = "")]
    No,
    #[serde(rename = "RequestClientCert")]
    Request,
    #[serde(rename = "RequireAnyClientCert", alias = "RequireClientCert")]
    RequireAny,
    #[serde(rename = "VerifyClientCertIfGiven")]
    VerifyIfGiven,
    #[serde(rename = "RequireAndVerifyClientCert")]
    RequireAndVerify,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum Version {
    Tls10,
    Tls11,
    Tls12,
    Tls13,
}

impl TlsBlock {
    /// The files that it names, relative to `directory`.
    pub(super) fn files(&self, directory: &Path) -> Vec<PathBuf> {
        [&self.cert_file, &self.key_file, &self.client_ca_file]
            .into_iter()
            .flatten()
            .map(|file| directory.join(file))
            .collect()
    }

    /// Whether nobody gets in without a certificate.
    pub(super) fn wants_certificates(&self) -> bool {
        matches!(self.client_auth_type, ClientAuth::RequireAny | ClientAuth::RequireAndVerify)
    }

    /// What rustls needs. Files are relative to `directory`, where the web config lies.
    pub(super) fn build(&self, directory: &Path) -> Result<ServerConfig, String> {
        let provider = Arc::new(self.provider()?);
        let chain = pem("cert", self.cert.as_deref(), self.cert_file.as_deref(), directory)?
            .ok_or("tls_server_config needs cert_file (or cert)")?;
        let key = pem("key", self.key.as_deref(), self.key_file.as_deref(), directory)?
            .ok_or("tls_server_config needs key_file (or key)")?;
        let chain = certificates("cert", &chain)?;
        let key = PrivateKeyDer::from_pem_slice(&key)
            .map_err(|_| "tls_server_config.key holds no PEM private key (PKCS#8, PKCS#1 or SEC1)")?;
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&self.versions()?)
            .map_err(|error| format!("tls_server_config: {error}"))?;
        let builder = match self.client_rule(&provider, directory)? {
            None => builder.with_no_client_auth(),
            Some(rule) => builder.with_client_cert_verifier(Arc::new(rule)),
        };
        let mut config = builder
            .with_single_cert(chain, key)
            .map_err(|error| format!("tls_server_config: certificate and key cannot be used: {error}"))?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.ignore_client_order = self.prefer_server_cipher_suites.unwrap_or(true);
        Ok(config)
    }

    /// The cryptography, narrowed to what is named. As in Go, TLS 1.3 has no choice of suites.
    fn provider(&self) -> Result<CryptoProvider, String> {
        let mut provider = ring::default_provider();
        if !self.cipher_suites.is_empty() {
            let name = |suite: &rustls::SupportedCipherSuite| format!("{:?}", suite.suite());
            for wanted in &self.cipher_suites {
                if !provider.cipher_suites.iter().any(|suite| is_go_name(wanted, &name(suite))) {
                    let have: Vec<String> = provider.cipher_suites.iter().map(name).collect();
                    let have = have.join(", ").replace("TLS13_", "TLS_");
                    return Err(format!(
                        "tls_server_config.cipher_suites: {wanted} is not to be had, there are {have}"
                    ));
                }
            }
            provider.cipher_suites.retain(|suite| {
                suite.tls13().is_some() || self.cipher_suites.iter().any(|wanted| is_go_name(wanted, &name(suite)))
            });
        }
        if !self.curve_preferences.is_empty() {
            let mut groups = Vec::new();
            for wanted in &self.curve_preferences {
                let name = match wanted.as_str() {
                    "CurveP256" => "secp256r1",
                    "CurveP384" => "secp384r1",
                    other => other,
                };
                let group = provider.kx_groups.iter().find(|group| format!("{:?}", group.name()) == name);
                groups.push(*group.ok_or_else(|| {
                    format!("tls_server_config.curve_preferences: {wanted} is not to be had, there are X25519, CurveP256, CurveP384")
                })?);
            }
            provider.kx_groups = groups;
        }
        Ok(provider)
    }

    /// TLS 1.2 and 1.3 are all there is; an older `min_version` means them both.
    fn versions(&self) -> Result<Vec<&'static SupportedProtocolVersion>, String> {
        let min = self.min_version.unwrap_or(Version::Tls12);
        let max = self.max_version.unwrap_or(Version::Tls13);
        let versions: Vec<_> = [(Version::Tls12, &rustls::version::TLS12), (Version::Tls13, &rustls::version::TLS13)]
            .into_iter()
            .filter(|(version, _)| (min..=max).contains(version))
            .map(|(_, version)| version)
            .collect();
        if versions.is_empty() {
            return Err(
                "tls_server_config: no TLS version lies between min_version and max_version; there are TLS12 and TLS13"
                    .to_owned(),
            );
        }
        Ok(versions)
    }

    fn client_rule(&self, provider: &Arc<CryptoProvider>, directory: &Path) -> Result<Option<ClientRule>, String> {
        let roots = pem("client_ca", self.client_ca.as_deref(), self.client_ca_file.as_deref(), directory)?;
        let verifies = matches!(self.client_auth_type, ClientAuth::VerifyIfGiven | ClientAuth::RequireAndVerify);
        if self.client_auth_type == ClientAuth::No {
            return match roots {
                Some(_) => Err(
                    "tls_server_config has a client_ca: write a client_auth_type such as RequireAndVerifyClientCert"
                        .to_owned(),
                ),
                None if !self.client_allowed_sans.is_empty() => Err(SANS_WITHOUT_VERIFICATION.to_owned()),
                None => Ok(None),
            };
        }
        if !verifies && !self.client_allowed_sans.is_empty() {
            return Err(SANS_WITHOUT_VERIFICATION.to_owned());
        }
        let chain = if verifies {
            let roots = roots.ok_or("tls_server_config verifies clients: it needs client_ca_file (or client_ca)")?;
            let mut store = RootCertStore::empty();
            for certificate in certificates("client_ca", &roots)? {
                store.add(certificate).map_err(|error| format!("tls_server_config.client_ca: {error}"))?;
            }
            let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(store), Arc::clone(provider));
            Some(builder.build().map_err(|error| format!("tls_server_config.client_ca: {error}"))?)
        } else {
            None
        };
        Ok(Some(ClientRule {
            chain,
            mandatory: self.wants_certificates(),
            allowed_sans: self.client_allowed_sans.clone(),
            algorithms: provider.signature_verification_algorithms,
        }))
    }
}

const SANS_WITHOUT_VERIFICATION: &str = "tls_server_config.client_allowed_sans needs client_auth_type VerifyClientCertIfGiven or RequireAndVerifyClientCert";

/// Whether `wanted`, a name of Go's, means the suite that rustls calls `name`.
fn is_go_name(wanted: &str, name: &str) -> bool {
    let name = name.replacen("TLS13_", "TLS_", 1);
    wanted == name || name.strip_suffix("_SHA256") == Some(wanted) && wanted.ends_with("CHACHA20_POLY1305")
}

/// The PEM text of one of the three pairs of fields, inline or in a file; both is one too many.
fn pem(field: &str, inline: Option<&str>, file: Option<&Path>, directory: &Path) -> Result<Option<Vec<u8>>, String> {
    match (inline, file) {
        (Some(_), Some(_)) => Err(format!("tls_server_config has both {field} and {field}_file: write one")),
        (Some(inline), None) => Ok(Some(inline.as_bytes().to_vec())),
        (None, Some(file)) => {
            let path = directory.join(file);
            fs::read(&path)
                .map(Some)
                .map_err(|error| format!("tls_server_config.{field}_file {}: {error}", path.display()))
        }
        (None, None) => Ok(None),
    }
}

fn certificates(field: &str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    certificates
        .ok()
        .filter(|certificates| !certificates.is_empty())
        .ok_or_else(|| format!("tls_server_config.{field} holds no PEM certificate"))
}

/// What a client must show.
#[derive(Debug)]
struct ClientRule {
    /// Verifies the chain; `None`: any certificate will do.
    chain: Option<Arc<dyn ClientCertVerifier>>,
    mandatory: bool,
    /// Empty: any name.
    allowed_sans: Vec<String>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ClientCertVerifier for ClientRule {
    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.as_ref().map_or(&[], |chain| chain.root_hint_subjects())
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        if let Some(chain) = &self.chain {
            chain.verify_client_cert(end_entity, intermediates, now)?;
        }
        if !self.allowed_sans.is_empty() && !has_san(end_entity, &self.allowed_sans) {
            return Err(CertificateError::ApplicationVerificationFailure.into());
        }
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Whether the certificate has one of `allowed` as a subject alternative name: DNS name, mail address, IP address or URI.
fn has_san(certificate: &CertificateDer<'_>, allowed: &[String]) -> bool {
    let Ok((_, certificate)) = x509_parser::parse_x509_certificate(certificate) else { return false };
    let Ok(Some(names)) = certificate.subject_alternative_name() else { return false };
    names.value.general_names.iter().any(|name| match name {
        GeneralName::DNSName(name) | GeneralName::RFC822Name(name) | GeneralName::URI(name) => {
            allowed.iter().any(|allowed| allowed == name)
        }
        GeneralName::IPAddress(bytes) => ip_address(bytes)
            .is_some_and(|address| allowed.iter().any(|allowed| allowed.parse::<IpAddr>() == Ok(address))),
        _ => false,
    })
}

fn ip_address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}
