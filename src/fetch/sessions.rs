//! TLS sessions, so that a new connection to a known server costs a fraction of the first. The store that rustls has is for a few servers,
//! and lets a session beget the next for ever: the certificate behind it would never be looked at again.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustls::NamedGroup;
use rustls::client::{ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls_pki_types::ServerName;

/// After this time a server shows its certificate again: one that was renewed, or has expired, is noticed by then.
const LONGEST: Duration = Duration::from_mins(10);

/// Servers of clients with equal TLS settings; as many names are resolved.
const MOST_SERVERS: usize = 1 << 15;

/// Sessions of the servers that are known by these names.
#[derive(Default)]
pub(super) struct Sessions(Mutex<HashMap<ServerName<'static>, Known>>);

/// What is kept of one server: the newest ticket only, since it holds a copy of the server's certificates, and every use brings another.
struct Known {
    /// When its certificate was looked at.
    since: Instant,
    group: Option<NamedGroup>,
    tls12: Option<Tls12ClientSessionValue>,
    tls13: Option<Tls13ClientSessionValue>,
}

impl Known {
    fn new() -> Self {
        Self { since: Instant::now(), group: None, tls12: None, tls13: None }
    }
}

impl std::fmt::Debug for Sessions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sessions") // they are secret
    }
}

impl Sessions {
    fn change(&self, name: ServerName<'static>, change: impl FnOnce(&mut Known)) {
        let mut servers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if servers.len() >= MOST_SERVERS && !servers.contains_key(&name) {
            servers.retain(|_, known| known.since.elapsed() < LONGEST);
            if servers.len() >= MOST_SERVERS {
                servers.clear();
            }
        }
        change(servers.entry(name).or_insert_with(Known::new));
    }

    /// Looks at a server's sessions, which are forgotten when they have served long enough.
    fn look<T>(&self, name: &ServerName<'_>, look: impl FnOnce(&mut Known) -> Option<T>) -> Option<T> {
        let mut servers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = servers.get_mut(&name.to_owned())?;
        if known.since.elapsed() >= LONGEST {
            *known = Known { group: known.group, ..Known::new() };
        }
        look(known)
    }
}

impl ClientSessionStore for Sessions {
    fn set_kx_hint(&self, name: ServerName<'static>, group: NamedGroup) {
        self.change(name, |known| known.group = Some(group));
    }

    fn kx_hint(&self, name: &ServerName<'_>) -> Option<NamedGroup> {
        self.look(name, |known| known.group)
    }

    fn set_tls12_session(&self, name: ServerName<'static>, session: Tls12ClientSessionValue) {
        self.change(name, |known| known.tls12 = Some(session));
    }

    fn tls12_session(&self, name: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.look(name, |known| known.tls12.clone())
    }

    fn remove_tls12_session(&self, name: &ServerName<'static>) {
        self.look(name, |known| known.tls12.take());
    }

    fn insert_tls13_ticket(&self, name: ServerName<'static>, ticket: Tls13ClientSessionValue) {
        self.change(name, |known| known.tls13 = Some(ticket));
    }

    fn take_tls13_ticket(&self, name: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.look(name, |known| known.tls13.take())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::client::Resumption;
    use rustls::crypto::aws_lc_rs;
    use rustls::{ClientConfig, ClientConnection, HandshakeKind, ServerConfig, ServerConnection};
    use rustls_pki_types::PrivateKeyDer;

    use super::super::certificate::RecordingVerifier;
    use super::*;

    type Version = &'static rustls::SupportedProtocolVersion;

    fn server(version: Version) -> Arc<ServerConfig> {
        let certified = rcgen::generate_simple_self_signed(["server.test".to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(certified.signing_key.serialize_der()).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
        let config = config.with_protocol_versions(&[version]).unwrap().with_no_client_auth();
        Arc::new(config.with_single_cert(vec![certified.cert.der().clone()], key).unwrap())
    }

    fn client(sessions: &Arc<Sessions>) -> Arc<ClientConfig> {
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
        let config = config.with_safe_default_protocol_versions().unwrap().dangerous();
        let mut config = config.with_custom_certificate_verifier(RecordingVerifier::trusting()).with_no_client_auth();
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
            let sessions = Arc::<Sessions>::default();
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
            let sessions = Arc::<Sessions>::default();
            let (client, server) = (client(&sessions), server(version));
            let kinds = [HandshakeKind::Full, HandshakeKind::Resumed, HandshakeKind::Resumed];
            for _ in 0..2 {
                assert_eq!([(); 3].map(|()| connect(&client, &server, "server.test")), kinds, "{version:?}");
                let past = Instant::now().checked_sub(LONGEST).unwrap();
                sessions.0.lock().unwrap().get_mut(&name("server.test")).unwrap().since = past;
            }
        }
    }

    #[test]
    fn names_without_number_take_a_bounded_amount_of_memory() {
        let sessions = Sessions::default();
        for number in 0..=MOST_SERVERS {
            sessions.set_kx_hint(name(&format!("n{number}.test")), NamedGroup::X25519);
            assert!(sessions.0.lock().unwrap().len() <= MOST_SERVERS);
        }
        assert_eq!(sessions.kx_hint(&name(&format!("n{MOST_SERVERS}.test"))), Some(NamedGroup::X25519));
    }
}
