//! `tls_server_config` of exporter-toolkit, as a configuration of rustls. A setting that rustls cannot fulfil is an error or a warning, never
//! ignored.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::CryptoProvider;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::SingleCertAndKey;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, ProtocolVersion, ServerConfig, SignatureScheme,
    SupportedCipherSuite, SupportedProtocolVersion,
};
use rustls_pki_types::{CertificateDer, UnixTime};
use x509_parser::extensions::GeneralName;

use super::fields::ConfigFields;
use crate::tls::{self, Peer, SignatureCheck, TrustStore, Usage};

/// The block of the file.
#[derive(Debug, Default)]
pub(super) struct TlsServerConfig {
    cert: Option<String>,
    key: Option<String>,
    client_ca: Option<String>,
    cert_file: Option<PathBuf>,
    key_file: Option<PathBuf>,
    client_ca_file: Option<PathBuf>,
    client_auth_type: ClientAuthType,
    client_allowed_sans: Vec<String>,
    min_version: Option<TlsVersion>,
    max_version: Option<TlsVersion>,
    cipher_suites: Vec<String>,
    curve_preferences: Vec<String>,
    prefer_server_cipher_suites: Option<bool>,
}

/// What clients must present, by Go's names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum ClientAuthType {
    #[default]
    No,
    Request,
    RequireAny,
    VerifyIfGiven,
    RequireAndVerify,
}

const CLIENT_AUTH_TYPES: [(&str, ClientAuthType); 6] = [
    ("NoClientCert", ClientAuthType::No),
    ("RequestClientCert", ClientAuthType::Request),
    ("RequireAnyClientCert", ClientAuthType::RequireAny),
    ("RequireClientCert", ClientAuthType::RequireAny),
    ("VerifyClientCertIfGiven", ClientAuthType::VerifyIfGiven),
    ("RequireAndVerifyClientCert", ClientAuthType::RequireAndVerify),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum TlsVersion {
    Tls10,
    Tls11,
    Tls12,
    Tls13,
}

const TLS_VERSIONS: [(&str, TlsVersion); 4] = [
    ("TLS10", TlsVersion::Tls10),
    ("TLS11", TlsVersion::Tls11),
    ("TLS12", TlsVersion::Tls12),
    ("TLS13", TlsVersion::Tls13),
];

impl TlsServerConfig {
    pub(super) fn read(mut block: ConfigFields<'_>) -> Result<Self, String> {
        let config = Self {
            cert: block.text("cert")?,
            key: block.text("key")?,
            client_ca: block.text("client_ca")?,
            cert_file: block.text("cert_file")?.map(PathBuf::from),
            key_file: block.text("key_file")?.map(PathBuf::from),
            client_ca_file: block.text("client_ca_file")?.map(PathBuf::from),
            client_auth_type: block.word("client_auth_type", &CLIENT_AUTH_TYPES)?.unwrap_or_default(),
            client_allowed_sans: block.texts("client_allowed_sans")?,
            min_version: block.word("min_version", &TLS_VERSIONS)?,
            max_version: block.word("max_version", &TLS_VERSIONS)?,
            cipher_suites: block.texts("cipher_suites")?,
            curve_preferences: block.texts("curve_preferences")?,
            prefer_server_cipher_suites: block.flag("prefer_server_cipher_suites")?,
        };
        block.close()?;
        Ok(config)
    }

    /// The files that it names; relative paths are relative to `directory`.
    pub(super) fn files(&self, directory: &Path) -> Vec<PathBuf> {
        [&self.cert_file, &self.key_file, &self.client_ca_file]
            .into_iter()
            .flatten()
            .map(|file| directory.join(file))
            .collect()
    }

    /// Whether every client needs a certificate.
    pub(super) fn requires_certificates(&self) -> bool {
        matches!(self.client_auth_type, ClientAuthType::RequireAny | ClientAuthType::RequireAndVerify)
    }

    /// The configuration, and a sentence for each setting that is not supported and left out.
    pub(super) fn build(&self, directory: &Path) -> Result<(ServerConfig, Vec<String>), String> {
        let (provider, unsupported) = self.provider()?;
        let provider = Arc::new(provider);
        let chain = pem("cert", self.cert.as_deref(), self.cert_file.as_deref(), directory)?
            .ok_or("tls_server_config needs cert_file (or cert)")?;
        let key = pem("key", self.key.as_deref(), self.key_file.as_deref(), directory)?
            .ok_or("tls_server_config needs key_file (or key)")?;
        let field = if self.cert_file.is_some() { "cert_file" } else { "cert" };
        let chain = certificates(field, &chain)?;
        let field = if self.key_file.is_some() { "key_file" } else { "key" };
        let key = tls::private_key(&key).map_err(|error| format!("tls_server_config.{field} holds {error}"))?;
        let identity = tls::certified_key(chain, key).map_err(|error| {
            let problem = tls::describe(&error, Peer::Client);
            format!("tls_server_config: certificate and key cannot be used: {problem}")
        })?;
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&self.versions()?)
            .map_err(|error| format!("tls_server_config: {error}"))?;
        let builder = match self.client_cert_policy(directory)? {
            None => builder.with_no_client_auth(),
            Some(policy) => builder.with_client_cert_verifier(Arc::new(policy)),
        };
        let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(identity)));
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.ignore_client_order = self.prefer_server_cipher_suites.unwrap_or(true);
        Ok((config, unsupported))
    }

    /// The cryptography with the cipher suites and curves that are named, and sentences about those that are not supported. As in Go, the
    /// suites of TLS 1.3 cannot be chosen.
    fn provider(&self) -> Result<(CryptoProvider, Vec<String>), String> {
        let mut provider = CryptoProvider::clone(tls::provider());
        let mut unsupported = Vec::new();
        if !self.cipher_suites.is_empty() {
            let name = |suite: &SupportedCipherSuite| format!("{:?}", suite.suite());
            let have: Vec<String> = provider.cipher_suites.iter().map(name).collect();
            let known = have.join(", ").replace("TLS13_", "TLS_");
            let is_supported = |wanted: &String| have.iter().any(|name| is_go_name(wanted, name));
            let field = "cipher_suites";
            unsupported.extend(unsupported_names(
                field,
                &self.cipher_suites,
                is_supported,
                &UNSUPPORTED_SUITES,
                &known,
            )?);
            provider.cipher_suites.retain(|suite| {
                suite.tls13().is_some() || self.cipher_suites.iter().any(|wanted| is_go_name(wanted, &name(suite)))
            });
        }
        if !self.curve_preferences.is_empty() {
            let group = |wanted: &String| {
                let name = match wanted.as_str() {
                    "CurveP256" => "secp256r1",
                    "CurveP384" => "secp384r1",
                    other => other,
                };
                tls::provider().kx_groups.iter().find(|group| format!("{:?}", group.name()) == name).copied()
            };
            let is_supported = |wanted: &String| group(wanted).is_some();
            let (field, known) = ("curve_preferences", "X25519, CurveP256, CurveP384, X25519MLKEM768");
            unsupported.extend(unsupported_names(
                field,
                &self.curve_preferences,
                is_supported,
                &UNSUPPORTED_CURVES,
                known,
            )?);
            provider.kx_groups = self.curve_preferences.iter().filter_map(group).collect();
        }
        Ok((provider, unsupported))
    }

    /// TLS 1.2 and 1.3 are supported; an older `min_version` means both.
    fn versions(&self) -> Result<Vec<&'static SupportedProtocolVersion>, String> {
        let min = self.min_version.unwrap_or(TlsVersion::Tls12);
        let max = self.max_version.unwrap_or(TlsVersion::Tls13);
        let versions: Vec<_> =
            [(TlsVersion::Tls12, &rustls::version::TLS12), (TlsVersion::Tls13, &rustls::version::TLS13)]
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

    fn client_cert_policy(&self, directory: &Path) -> Result<Option<ClientCertPolicy>, String> {
        let roots = pem("client_ca", self.client_ca.as_deref(), self.client_ca_file.as_deref(), directory)?;
        let verifies =
            matches!(self.client_auth_type, ClientAuthType::VerifyIfGiven | ClientAuthType::RequireAndVerify);
        if self.client_auth_type == ClientAuthType::No {
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
        let trusted = if verifies {
            let roots = roots.ok_or("tls_server_config verifies clients: it needs client_ca_file (or client_ca)")?;
            let field = if self.client_ca_file.is_some() { "client_ca_file" } else { "client_ca" };
            let (trusted, unread) = TrustStore::new(certificates(field, &roots)?);
            if unread > 0 {
                return Err(format!("tls_server_config.{field} holds {unread} certificates that cannot be read"));
            }
            Some(trusted)
        } else {
            None
        };
        Ok(Some(ClientCertPolicy {
            subjects: trusted.as_ref().map(TrustStore::subjects).unwrap_or_default(),
            trusted,
            mandatory: self.requires_certificates(),
            allowed_sans: self.client_allowed_sans.clone(),
        }))
    }
}

/// Cipher suites of Go that rustls lacks. Naming one is a warning as long as another one is supported.
const UNSUPPORTED_SUITES: [&str; 17] = [
    "TLS_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA",
    "TLS_RSA_WITH_AES_256_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA256",
    "TLS_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_RSA_WITH_RC4_128_SHA",
    "TLS_ECDHE_RSA_WITH_RC4_128_SHA",
    "TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256",
    "TLS_ECDHE_ECDSA_WITH_RC4_128_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256",
    "TLS_FALLBACK_SCSV",
];

/// The same for curves.
const UNSUPPORTED_CURVES: [&str; 3] = ["CurveP521", "SecP256r1MLKEM768", "SecP384r1MLKEM1024"];

/// A sentence for each of the `wanted` names that is not supported. An error if Go does not know it either, or if none is supported.
fn unsupported_names(
    field: &str,
    wanted: &[String],
    is_supported: impl Fn(&String) -> bool,
    known_to_go: &[&str],
    known: &str,
) -> Result<Vec<String>, String> {
    let unsupported: Vec<&String> = wanted.iter().filter(|wanted| !is_supported(wanted)).collect();
    let unknown = unsupported.iter().find(|name| !known_to_go.contains(&name.as_str()));
    let refused = unknown.or_else(|| unsupported.first().filter(|_| unsupported.len() == wanted.len()));
    match refused {
        Some(name) => Err(format!("tls_server_config.{field}: {name} is not supported, write one of {known}")),
        None => {
            Ok(unsupported.iter().map(|name| format!("tls_server_config.{field}: {name} is not supported")).collect())
        }
    }
}

const SANS_WITHOUT_VERIFICATION: &str = "tls_server_config.client_allowed_sans needs client_auth_type VerifyClientCertIfGiven or RequireAndVerifyClientCert";

/// Whether `wanted`, a name of Go's, is the suite that rustls calls `name`.
fn is_go_name(wanted: &str, name: &str) -> bool {
    let name = name.replacen("TLS13_", "TLS_", 1);
    wanted == name || name.strip_suffix("_SHA256") == Some(wanted) && wanted.ends_with("CHACHA20_POLY1305")
}

/// The PEM text of one of the three pairs of fields: inline or in a file, but not both.
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
    tls::certificates(pem).ok_or_else(|| format!("tls_server_config.{field} holds no PEM certificate"))
}

/// Which client certificates are accepted.
#[derive(Debug)]
struct ClientCertPolicy {
    /// The authorities; `None`: any certificate is accepted.
    trusted: Option<TrustStore>,
    subjects: Vec<DistinguishedName>,
    mandatory: bool,
    /// Empty: any name.
    allowed_sans: Vec<String>,
}

impl ClientCertPolicy {
    /// A client must have the key of its certificate, also where any certificate is accepted.
    fn signature(
        version: ProtocolVersion,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        match tls::verify_signature(version, message, certificate, signature)? {
            SignatureCheck::Verified => Ok(HandshakeSignatureValid::assertion()),
            SignatureCheck::Unverifiable => Err(CertificateError::BadSignature.into()),
        }
    }
}

impl ClientCertVerifier for ClientCertPolicy {
    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.subjects
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        if let Some(trusted) = &self.trusted {
            trusted.verify(end_entity, intermediates, Usage::Client, now)?;
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
        Self::signature(ProtocolVersion::TLSv1_2, message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Self::signature(ProtocolVersion::TLSv1_3, message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        tls::algorithms().supported_schemes()
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
