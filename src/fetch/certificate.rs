//! When the certificates of servers expire: `probe_ssl_earliest_cert_expiry` and
//! `probe_ssl_last_chain_expiry_timestamp_seconds`.
//!
//! The HTTP client provides only the leaf of a connection, and a leaf is public: another server can send it together with other
//! certificates. So the certificates are recorded for the call that made the connection, and remembered for the server to which the
//! connection leads.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustls_pki_types::{CertificateDer, ServerName};

use crate::dial::ClientError;
use crate::tls::{self, Expiry, HandshakeObserver, ServerVerifier, TrustStore};

tokio::task_local! {
    /// The handshakes of the call under way. A connection that the HTTP client finishes in another task, after it got an idle one, is not
    /// recorded; the expiry of its leaf is used for it.
    static HANDSHAKES: Handshakes;
}

/// The certificates that a server has sent in a handshake.
#[derive(Debug)]
struct ServerHandshake {
    leaf: u64,
    expiry: Expiry,
    /// The server has proven that it has the leaf's key.
    proven: bool,
}

/// One of the server, and one more if the first connection was of no use. Those with a proxy are not recorded.
const MAX_HANDSHAKES: usize = 2;

/// The handshakes of one call.
#[derive(Clone, Debug, Default)]
pub(super) struct Handshakes(Arc<Mutex<Vec<ServerHandshake>>>);

impl Handshakes {
    /// Makes a call, and records the handshakes meanwhile.
    pub(super) async fn during<C: Future>(&self, call: C) -> C::Output {
        HANDSHAKES.scope(self.clone(), call).await
    }

    /// The expiry of the last handshake, whether or not it succeeded.
    pub(super) fn last(&self) -> Option<Expiry> {
        let shown = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let last = shown.last()?;
        // Without the proof, the certificates may be those of another server.
        Some(Expiry { last_chain: last.expiry.last_chain.filter(|_| last.proven), ..last.expiry })
    }

    /// The leaf and the expiry of the server that answered: of the one with this leaf, if it is known, else of the last one.
    fn proven(&self, leaf: Option<u64>) -> Option<(u64, Expiry)> {
        let shown = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut proven = shown.iter().rev().filter(|shown| shown.proven);
        let found = match leaf {
            Some(leaf) => proven.find(|shown| shown.leaf == leaf),
            None => proven.next(),
        };
        found.map(|shown| (shown.leaf, shown.expiry))
    }

    fn record(shown: ServerHandshake) {
        let _ = HANDSHAKES.try_with(|Self(all)| {
            let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
            if all.len() == MAX_HANDSHAKES {
                all.remove(0);
            }
            all.push(shown);
        });
    }

    fn record_proof(leaf: &[u8]) {
        let leaf = id(leaf);
        let _ = HANDSHAKES.try_with(|Self(all)| {
            let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(shown) = all.iter_mut().rev().find(|shown| shown.leaf == leaf) {
                shown.proven = true;
            }
        });
    }
}

/// Identifies a certificate. Nobody can make another one with the same number, since the hash has a secret key.
fn id(leaf: &[u8]) -> u64 {
    static KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    KEY.hash_one(leaf)
}

/// The expiry of the certificates behind kept connections, by server. One for each client, since that is how connections are shared.
#[derive(Debug, Default)]
pub(super) struct ExpiryCache(Mutex<ExpiryByServer>);

#[derive(Debug, Default)]
struct ExpiryByServer {
    by_authority: HashMap<Box<str>, KnownLeaves>,
    /// The number of servers at which those are removed that do not exist any more.
    sweep_at: usize,
}

/// The certificates of one server.
#[derive(Debug)]
struct KnownLeaves {
    /// Leaves with the expiry of the certificates that came with each, the newest last.
    leaves: Vec<(u64, Expiry)>,
    last_used: Instant,
}

/// More than a client has servers. When there are more, all are forgotten, and the expiry of a leaf is used in place of its chain's.
const MAX_AUTHORITIES: usize = 1 << 16;

/// Up to this number of servers, none is removed.
const MIN_SWEEP: usize = 256;

/// Neither a connection nor a session is used for as long as this: without an answer meanwhile, a handshake shows the certificates again.
const UNUSED: Duration = Duration::from_mins(15);

/// Certificates of one address: several servers may share it, and one that changes its certificate has two for a while.
const MAX_LEAVES: usize = 8;

impl ExpiryCache {
    /// The expiry for an answer from `authority`: `host:port`, for a member with its address. `verified` matters where only the leaf is known.
    pub(super) fn of(
        &self,
        authority: &str,
        leaf: Option<&[u8]>,
        handshakes: &Handshakes,
        verified: bool,
    ) -> Option<Expiry> {
        let wanted = leaf.map(id);
        let now = Instant::now();
        let mut servers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((id, expiry)) = handshakes.proven(wanted) {
            let leaves = servers.entry(authority, now);
            leaves.retain(|(known, _)| *known != id);
            if leaves.len() == MAX_LEAVES {
                leaves.remove(0);
            }
            leaves.push((id, expiry));
            return Some(expiry);
        }
        let known = servers.by_authority.get_mut(authority);
        let mut kept = known.into_iter().flat_map(|known| {
            known.last_used = now;
            known.leaves.iter().rev()
        });
        let kept = kept.find(|(known, _)| wanted.is_none_or(|wanted| *known == wanted));
        kept.map(|(_, expiry)| *expiry).or_else(|| {
            let earliest = tls::not_after(leaf?)?;
            Some(Expiry { earliest, last_chain: verified.then_some(earliest) })
        })
    }
}

impl ExpiryByServer {
    /// The leaves of a server, which is used `now`.
    fn entry(&mut self, authority: &str, now: Instant) -> &mut Vec<(u64, Expiry)> {
        let Self { by_authority, sweep_at } = self;
        if by_authority.len() >= (*sweep_at).clamp(MIN_SWEEP, MAX_AUTHORITIES) && !by_authority.contains_key(authority)
        {
            by_authority.retain(|_, known| now.duration_since(known.last_used) < UNUSED);
            if by_authority.len() >= MAX_AUTHORITIES {
                by_authority.clear();
            }
            *sweep_at = 2 * by_authority.len();
        }
        let new = || KnownLeaves { leaves: Vec::new(), last_used: now };
        let known = by_authority.entry(authority.into()).or_insert_with(new);
        known.last_used = now;
        &mut known.leaves
    }
}

/// Records the handshakes of the call under way.
#[derive(Debug)]
pub(super) struct CurrentCall;

impl HandshakeObserver for CurrentCall {
    fn sent(&self, _: &ServerName<'_>, chain: &[&CertificateDer<'_>], last_chain: Option<i64>) {
        let earliest = chain.iter().filter_map(|certificate| tls::not_after(certificate)).min();
        if let (Some(leaf), Some(earliest)) = (chain.first(), earliest) {
            let expiry = Expiry { earliest, last_chain };
            Handshakes::record(ServerHandshake { leaf: id(leaf), expiry, proven: false });
        }
    }

    fn proven(&self, leaf: &CertificateDer<'_>) {
        Handshakes::record_proof(leaf);
    }
}

/// Verifies against the authorities in `ca`, or the system's. A certificate must contain `address`, if there is one, instead of the name that
/// the connection is made with.
pub(super) fn verifying<O: HandshakeObserver>(
    ca: Option<&[u8]>,
    address: Option<IpAddr>,
    observer: O,
) -> Result<Arc<ServerVerifier<O>>, ClientError> {
    let trusted = match ca {
        None => tls::system_authorities(),
        Some(pem) => TrustStore::of_pem(pem).ok_or(ClientError::Ca)?,
    };
    if trusted.is_empty() {
        return Err(ClientError::Roots);
    }
    let address = address.map(|address| ServerName::IpAddress(address.into()));
    Ok(Arc::new(ServerVerifier::new(Some(trusted), observer).for_name(address)))
}

/// Accepts every certificate, for `insecureSkipVerify`.
pub(super) fn trusting<O: HandshakeObserver>(observer: O) -> Arc<ServerVerifier<O>> {
    Arc::new(ServerVerifier::new(None, observer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_that_are_gone_are_forgotten_and_those_in_use_are_not() {
        let mut servers = ExpiryByServer::default();
        let start = Instant::now();
        // A pod is replaced each second, for ten hours; one stays.
        for second in 0..36_000 {
            let now = start + Duration::from_secs(second);
            servers.entry("the one that stays", now).truncate(0);
            servers
                .entry(&format!("10.0.0.{second}:443 as rooms.svc:443"), now)
                .push((second, Expiry { earliest: 1, last_chain: None }));
        }
        let most = 3 * usize::try_from(UNUSED.as_secs()).unwrap();
        assert!(servers.by_authority.len() < most, "{}", servers.by_authority.len());
        assert!(servers.by_authority.contains_key("the one that stays"));
    }

    #[test]
    fn servers_without_number_take_a_bounded_amount_of_memory() {
        let mut servers = ExpiryByServer::default();
        let now = Instant::now();
        for number in 0..=MAX_AUTHORITIES {
            servers.entry(&number.to_string(), now);
            assert!(servers.by_authority.len() <= MAX_AUTHORITIES);
        }
    }
}
