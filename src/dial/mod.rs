//! From the host of a target to a connection: names are resolved, every address is judged by the operator's rules, and only an address that
//! was judged is connected to.
//!
//! Probes have no other way to open a socket than a [`Dialer`]. The HTTP clients of `fetch` use the same names, rules and settings.

mod address;
mod connection;
mod dialer;
mod error;
mod handshake;
mod host;
mod icmp;
mod no_proxy;
mod proxy;
mod rate;
mod resolve;
mod stream;

pub(crate) use address::AllowedBy;
pub use address::{AddressRules, DenyReason};
pub use connection::{ClientError, Connection, Identity, IpPreference, IpVersion, TlsSettings, TlsVersions};
pub use dialer::{
    DEFAULT_MAX_ECHO_PAYLOAD, DEFAULT_PROBES_PER_ADDRESS, Dialer, Dialers, JudgedAddress, literal_address,
};
pub use error::broken;
pub use handshake::{EncryptedStream, ServerRole, TlsPeer};
pub use host::{AllowedHost, AllowedHostError};
pub use icmp::{EchoArrival, EchoSettings, EchoSocket, ICMP_HEADER, IcmpRefusal};
pub use no_proxy::NoProxy;
pub(crate) use proxy::tunnel_status;
pub use proxy::{ProxyCredentials, ProxyFields, TargetProxy};
pub use resolve::KnownHosts;
pub(crate) use resolve::Resolver;
pub(crate) use stream::{StreamObserver, YieldingStream};
