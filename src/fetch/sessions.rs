//! TLS sessions, so that a new connection to a known server costs a fraction of the first. The cache of rustls is for a few servers, and
//! lets a session be renewed for ever, so that the certificate would never be verified again.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustls::NamedGroup;
use rustls::client::{ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls_pki_types::ServerName;

use super::attempts::resumes;

/// After this time the certificate of a server is verified again: one that was renewed or has expired is noticed by then.
const MAX_AGE: Duration = Duration::from_mins(10);

/// Servers of clients with equal TLS settings; the same as the number of names that are resolved.
const MAX_SERVERS: usize = 1 << 15;

/// Sessions by the name of the server.
#[derive(Default)]
pub(super) struct SessionCache(Mutex<HashMap<ServerName<'static>, ServerSessions>>);

/// The sessions of one server. Only the newest ticket is kept, since it contains a copy of the certificates, and every use brings another.
struct ServerSessions {
    /// When its certificate was verified.
    since: Instant,
    group: Option<NamedGroup>,
    tls12: Option<Tls12ClientSessionValue>,
    tls13: Option<Tls13ClientSessionValue>,
}

impl ServerSessions {
    fn new() -> Self {
        Self { since: Instant::now(), group: None, tls12: None, tls13: None }
    }
}

impl std::fmt::Debug for SessionCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SessionCache") // sessions contain secrets
    }
}

impl SessionCache {
    fn change(&self, name: ServerName<'static>, change: impl FnOnce(&mut ServerSessions)) {
        let mut servers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if servers.len() >= MAX_SERVERS && !servers.contains_key(&name) {
            servers.retain(|_, known| known.since.elapsed() < MAX_AGE);
            if servers.len() >= MAX_SERVERS {
                servers.clear();
            }
        }
        change(servers.entry(name).or_insert_with(ServerSessions::new));
    }

    /// Reads the sessions of a server, after removing those that are too old.
    fn read<T>(&self, name: &ServerName<'_>, read: impl FnOnce(&mut ServerSessions) -> Option<T>) -> Option<T> {
        let mut servers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = servers.get_mut(&name.to_owned())?;
        if known.since.elapsed() >= MAX_AGE {
            *known = ServerSessions { group: known.group, ..ServerSessions::new() };
        }
        read(known)
    }
}

impl ClientSessionStore for SessionCache {
    fn set_kx_hint(&self, name: ServerName<'static>, group: NamedGroup) {
        self.change(name, |known| known.group = Some(group));
    }

    fn kx_hint(&self, name: &ServerName<'_>) -> Option<NamedGroup> {
        self.read(name, |known| known.group)
    }

    fn set_tls12_session(&self, name: ServerName<'static>, session: Tls12ClientSessionValue) {
        self.change(name, |known| known.tls12 = Some(session));
    }

    fn tls12_session(&self, name: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        resumes().then(|| self.read(name, |known| known.tls12.clone()))?
    }

    fn remove_tls12_session(&self, name: &ServerName<'static>) {
        self.read(name, |known| known.tls12.take());
    }

    fn insert_tls13_ticket(&self, name: ServerName<'static>, ticket: Tls13ClientSessionValue) {
        self.change(name, |known| known.tls13 = Some(ticket));
    }

    fn take_tls13_ticket(&self, name: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        resumes().then(|| self.read(name, |known| known.tls13.take()))?
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::client::Resumption;
    use rustls::crypto::aws_lc_rs;
    use rustls::{ClientConfig, ClientConnection, HandshakeKind, ServerConfig, ServerConnection};
    use rustls_pki_types::PrivateKeyDer;

    use super::*;
    use crate::fetch::certificate::trusting;

    type Version = &'static rustls::SupportedProtocolVersion;

    fn server(version: Version) -> Arc<ServerConfig> {
        let certified = rcgen::generate_simple_self_signed(["server.test".to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(certified.signing_key.serialize_der()).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
        let config = config.with_protocol_versions(&[version]).unwrap().with_no_client_auth();
        Arc::new(config.with_single_cert(vec![certified.cert.der().clone()], key).unwrap())
    }

    fn client(sessions: &Arc<SessionCache>) -> Arc<ClientConfig> {
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
        let config = config.with_safe_default_protocol_versions().unwrap().dangerous();
        let mut config = config.with_custom_certificate_verifier(trusting(())).with_no_client_auth();
        config.resumption = Resumption::store(Arc::clone(sessions) as Arc<dyn ClientSessionStore>);
        Arc::new(config)
    }

    fn name(name: &str) -> ServerName<'static> {
        ServerName::try_from(name.to_owned()).unwrap()
    }

    /// A connection, and how it came about.
    fn connect(client: &Arc<ClientConfig>, server: &Arc<ServerConfig>, to: &str) -> HandshakeKind {
        let mut client = ClientConnection::new(Arc::clone(client), name(to)).unwrap();
        let mut server = ServerConnection::new(Arc::clone(server)).unwrap();
        let mut wire = Vec::new();
        for _ in 0..5 {
            while client.wants_write() {
                client.write_tls(&mut wire).unwrap();
            }
            let mut sent = &wire[..];
            while !sent.is_empty() {
                server.read_tls(&mut sent).unwrap();
                server.process_new_packets().unwrap();
            }
            wire.clear();
            while server.wants_write() {
                server.write_tls(&mut wire).unwrap();
            }
            let mut sent = &wire[..];
            while !sent.is_empty() {
                client.read_tls(&mut sent).unwrap();
                client.process_new_packets().unwrap();
            }
            wire.clear();
        }
        client.handshake_kind().unwrap()
    }

    const VERSIONS: [Version; 2] = [&rustls::version::TLS12, &rustls::version::TLS13];

    #[test]
    fn sessions_are_resumed_one_after_another_each_with_its_own_server() {
        for version in VERSIONS {
            let sessions = Arc::<SessionCache>::default();
            let (client, server) = (client(&sessions), server(version));
            assert_eq!(connect(&client, &server, "server.test"), HandshakeKind::Full, "{version:?}");
            for _ in 0..3 {
                assert_eq!(connect(&client, &server, "server.test"), HandshakeKind::Resumed, "{version:?}");
            }
            assert_eq!(connect(&client, &server, "other.test"), HandshakeKind::Full, "{version:?}");
        }
    }

    #[test]
    fn after_ten_minutes_a_certificate_is_looked_at_again_however_often_its_session_was_resumed() {
        for version in VERSIONS {
            let sessions = Arc::<SessionCache>::default();
            let (client, server) = (client(&sessions), server(version));
            let kinds = [HandshakeKind::Full, HandshakeKind::Resumed, HandshakeKind::Resumed];
            for _ in 0..2 {
                assert_eq!([(); 3].map(|()| connect(&client, &server, "server.test")), kinds, "{version:?}");
                let past = Instant::now().checked_sub(MAX_AGE).unwrap();
                sessions.0.lock().unwrap().get_mut(&name("server.test")).unwrap().since = past;
            }
        }
    }

    #[test]
    fn names_without_number_take_a_bounded_amount_of_memory() {
        let sessions = SessionCache::default();
        for number in 0..=MAX_SERVERS {
            sessions.set_kx_hint(name(&format!("n{number}.test")), NamedGroup::X25519);
            assert!(sessions.0.lock().unwrap().len() <= MAX_SERVERS);
        }
        assert_eq!(sessions.kx_hint(&name(&format!("n{MAX_SERVERS}.test"))), Some(NamedGroup::X25519));
    }
}
