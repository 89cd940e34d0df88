//! The settings of the connection to a target, and their errors.

use std::net::IpAddr;
use std::sync::Arc;

use rustls::sign::CertifiedKey;

use super::TargetProxy;
use super::address::DenyReason;
use crate::tls::{KeyError, Peer, certificates, certified_key, describe, private_key};

/// The settings of the connection to a target. Targets with equal settings can share a client.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Connection {
    /// TLS with the target.
    pub tls: TlsSettings,
    /// The proxy.
    pub proxy: Option<TargetProxy>,
    /// Which address of a name is contacted. Probes only: polls over HTTP try all addresses.
    pub ip: IpPreference,
    /// The address of this machine that sockets are bound to. Probes only.
    pub source_address: Option<IpAddr>,
}

/// How a server with TLS is verified, and what it is shown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct TlsSettings {
    /// PEM of the authorities that are trusted instead of the system's.
    pub ca: Option<Arc<[u8]>>,
    /// The client certificate.
    pub identity: Option<Identity>,
    /// The name for SNI and for the verification of the certificate, where it is not the url's host.
    pub server_name: Option<String>,
    /// Accept any certificate.
    pub insecure_skip_verify: bool,
    /// Which versions of TLS may be agreed on.
    pub versions: TlsVersions,
}

/// A range of versions of TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum TlsVersions {
    /// 1.2 and 1.3.
    #[default]
    All,
    /// 1.2.
    Only12,
    /// 1.3.
    Only13,
}

impl TlsVersions {
    /// The same for the TLS library.
    pub(crate) fn list(self) -> &'static [&'static rustls::SupportedProtocolVersion] {
        static TLS12: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS12];
        static TLS13: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS13];
        match self {
            Self::All => rustls::ALL_VERSIONS,
            Self::Only12 => TLS12,
            Self::Only13 => TLS13,
        }
    }
}

/// Which address of a name is contacted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IpPreference {
    /// The first address of this version is contacted.
    pub preferred: IpVersion,
    /// If there is none, one of the other version is.
    pub fallback: bool,
}

impl Default for IpPreference {
    fn default() -> Self {
        Self { preferred: IpVersion::V4, fallback: true }
    }
}

/// A version of the Internet Protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IpVersion {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl IpVersion {
    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }
}

/// A client certificate with its key, both PEM.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The chain, the leaf first.
    pub certificates: Arc<[u8]>,
    /// The private key: never printed.
    pub key: Arc<[u8]>,
}

impl Identity {
    /// The certificate with its key as TLS takes them.
    pub(crate) fn certified(&self) -> Result<CertifiedKey, ClientError> {
        let chain = certificates(&self.certificates).ok_or(ClientError::Certificate)?;
        let key = private_key(&self.key).map_err(ClientError::Key)?;
        certified_key(chain, key).map_err(ClientError::Identity)
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("certificates", &self.certificates.len()).field("key", &"<secret>").finish()
    }
}

/// Settings from which no client can be made: the user must change the target or what it refers to.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No certificate, or none that can be read.
    #[error("tlsConfig.ca holds no PEM certificate")]
    Ca,
    /// No certificate, or none that can be read.
    #[error("tlsConfig.cert holds no PEM certificate")]
    Certificate,
    /// No private key, or none that can be read.
    #[error("tlsConfig.keySecret holds {0}")]
    Key(KeyError),
    /// The certificate and its key do not match, or TLS rejects them.
    #[error("tlsConfig.cert and tlsConfig.keySecret cannot be used: {}", describe(.0, Peer::TARGET))]
    Identity(rustls::Error),
    /// No trusted authority at all.
    #[error("no trusted certificate authority: set tlsConfig.ca")]
    Roots,
    /// A proxy's CONNECT names the host to connect to, which must not be the name in the certificate.
    #[error("tlsConfig.serverName cannot be combined with proxyUrl: write the server's name in url")]
    ProxiedServerName,
    /// Neither a host name nor an IP address.
    #[error("tlsConfig.serverName is neither a host name nor an IP address")]
    ServerName,
    /// An address written into `url` or `proxyUrl` that may not be contacted.
    #[error("{address} may not be contacted ({ground})")]
    Denied {
        /// The address.
        address: IpAddr,
        /// By which rule.
        ground: DenyReason,
    },
    /// An address in `sourceIpAddress` that may not be used.
    #[error("spec.sourceIpAddress: no probe may come from {address} ({ground})")]
    DeniedSource {
        /// The address.
        address: IpAddr,
        /// By which rule.
        ground: DenyReason,
    },
    /// A host that the operator does not allow.
    #[error(
        "spec.{field}: the operator of the exporter does not allow targets of this namespace to point to {host} (--target-allow-host, --target-allow-cidr)"
    )]
    HostNotAllowed {
        /// Where it is written.
        field: &'static str,
        /// The host.
        host: String,
    },
    /// A host that the proxy resolves, so that its addresses cannot be checked here.
    #[error(
        "spec.{field}: the proxy resolves {host}, so --target-allow-cidr cannot be enforced: the operator of the exporter must allow it with \
         --target-allow-host"
    )]
    ResolvedByProxy {
        /// Where it is written.
        field: &'static str,
        /// The host.
        host: String,
    },
    /// The addresses of members are contacted directly.
    #[error("members cannot be combined with proxyUrl: remove one of them")]
    ProxiedMembers,
    /// No member has the address in the url, so there is no name that its certificate could contain.
    #[error(
        "the url of members over https must have a name: write the name in their certificates in url, or in tlsConfig.serverName"
    )]
    UnnamedMembers,
    /// Of the settings in `proxyTlsConfig`.
    #[error("{}", .0.to_string().replace("tlsConfig.", "proxyTlsConfig."))]
    OfProxy(Box<Self>),
    /// The HTTP client refuses the settings.
    #[error("the connection settings cannot be used")]
    Build(#[source] reqwest::Error),
}

impl ClientError {
    /// What is wrong with the settings of a token endpoint.
    pub fn of_token_endpoint(&self) -> String {
        match self {
            Self::HostNotAllowed { .. } | Self::ResolvedByProxy { .. } => self.to_string(),
            Self::Denied { .. } => format!("spec.oauth2.tokenUrl: {self}"),
            _ => format!("spec.oauth2: {self}"),
        }
    }

    /// The field of the spec that must be changed, if it is a certain one.
    pub fn field(&self) -> Option<&'static str> {
        match self {
            Self::Ca => Some("tlsConfig.ca"),
            Self::Certificate | Self::Identity(_) => Some("tlsConfig.cert"),
            Self::Key(_) => Some("tlsConfig.keySecret"),
            Self::ProxiedServerName | Self::ServerName => Some("tlsConfig.serverName"),
            Self::HostNotAllowed { field, .. } | Self::ResolvedByProxy { field, .. } => Some(field),
            Self::UnnamedMembers => Some("url"),
            Self::ProxiedMembers => Some("members"),
            Self::DeniedSource { .. } => Some("sourceIpAddress"),
            Self::OfProxy(error) => match **error {
                Self::Ca => Some("proxyTlsConfig.ca"),
                Self::Certificate | Self::Identity(_) => Some("proxyTlsConfig.cert"),
                Self::Key(_) => Some("proxyTlsConfig.keySecret"),
                Self::ServerName => Some("proxyTlsConfig.serverName"),
                _ => Some("proxyTlsConfig"),
            },
            Self::Roots | Self::Denied { .. } | Self::Build(_) => None,
        }
    }
}
