//! Probes of servers that follow a script.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use rcgen::{CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use scrapetarget_exporter::crd::{ParsedTarget, ScrapeTarget};
use scrapetarget_exporter::kind::Reason;
use scrapetarget_exporter::poll::Snapshot;
use scrapetarget_exporter::target::{Lookup, LookupError, ObjectKind, Target, TargetId};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use super::{choose_tls_provider, poll_once, series, text};

/// Objects with a value for each key: its name and `-value`; of the object `plain`, its name alone.
pub struct NamedValues;

impl Lookup for NamedValues {
    fn value(&self, kind: ObjectKind, namespace: &str, name: &str, key: &str) -> Result<Vec<u8>, LookupError> {
        match name {
            "missing" => Err(LookupError::NoObject { kind, namespace: namespace.to_owned(), name: name.to_owned() }),
            // The name of a ConfigMap or Secret for PEM is the PEM itself.
            _ if name.starts_with("-----BEGIN") => Ok(name.as_bytes().to_vec()),
            "plain" => Ok(key.as_bytes().to_vec()),
            _ => Ok(format!("{key}-value").into_bytes()),
        }
    }
}

/// A target of this spec, as the API server would admit it.
pub fn target_of(spec: &Value) -> Target {
    let manifest = json!({ "apiVersion": "scrapetarget.dev/v1alpha1", "kind": "ScrapeTarget", "metadata": { "name": "a" }, "spec": spec });
    let declared: ScrapeTarget = serde_json::from_value(manifest).unwrap();
    let declaration = ParsedTarget::parse(declared).unwrap_or_else(|errors| panic!("{errors:?}"));
    Target::resolve(TargetId::new("media", "a"), Arc::new(declaration), &NamedValues)
}

/// The fields of a spec that are wrong.
pub fn mistakes_in(spec: &Value) -> Vec<String> {
    let manifest = json!({ "apiVersion": "scrapetarget.dev/v1alpha1", "kind": "ScrapeTarget", "metadata": { "name": "a" }, "spec": spec });
    let judged = scrapetarget_exporter::crd::judge(&manifest);
    judged.err().into_iter().flatten().map(|error| error.path).collect()
}

/// The result of a probe.
#[derive(Debug)]
pub struct Probed {
    pub reason: Option<Reason>,
    pub message: String,
    pub series: BTreeMap<String, f64>,
    pub snapshot: Arc<Snapshot>,
}

impl Probed {
    /// Probes a target with this spec, `interval` and `timeout` being long.
    pub async fn of(spec: Value) -> Self {
        Self::changed(spec, |_| ()).await
    }

    /// The same of a target that is changed before.
    pub async fn changed(mut spec: Value, change: impl FnOnce(&mut Target)) -> Self {
        for (field, default) in [("interval", "1m"), ("timeout", "60s")] {
            spec.as_object_mut().unwrap().entry(field).or_insert_with(|| default.into());
        }
        let mut target = target_of(&spec);
        change(&mut target);
        let snapshot = poll_once(target).await;
        let failure = snapshot.failure.clone();
        Self {
            reason: failure.as_ref().map(|failure| failure.reason),
            message: failure.map(|failure| failure.message.to_string()).unwrap_or_default(),
            series: series(&text(&snapshot)),
            snapshot,
        }
    }

    /// The value of a series.
    #[track_caller]
    pub fn value(&self, series: &str) -> f64 {
        *self.series.get(series).unwrap_or_else(|| panic!("no {series} in {self:#?}"))
    }

    /// Whether a family has any series.
    pub fn has(&self, family: &str) -> bool {
        self.series.keys().any(|series| series.split('{').next() == Some(family))
    }

    /// The labels of the only series of a family.
    #[track_caller]
    pub fn labels(&self, family: &str) -> &str {
        let mut found = self.series.keys().filter(|series| series.split('{').next() == Some(family));
        let labels = found.next().unwrap_or_else(|| panic!("no {family} in {self:#?}"));
        assert_eq!(found.next(), None);
        labels.split_once('{').map_or("", |(_, labels)| labels.trim_end_matches('}'))
    }

    #[track_caller]
    pub fn succeeded(&self) {
        assert_eq!((self.reason, self.value("probe_success")), (None, 1.0), "{}", self.message);
    }

    #[track_caller]
    pub fn failed(&self, reason: Reason) {
        assert_eq!((self.reason, self.value("probe_success")), (Some(reason), 0.0), "{}", self.message);
    }
}

/// A certificate of a server, the authority that signed it, and the key.
pub struct Certificate {
    pub chain: Vec<CertificateDer<'static>>,
    pub key: KeyPair,
    /// PEM of the authority.
    pub ca: String,
}

/// An authority that ends in a year.
pub fn authority(name: &str, until: i32, key: KeyPair) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
    params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(until, 1, 1));
    CertifiedIssuer::self_signed(params, key).unwrap()
}

impl Certificate {
    /// Of loopback, until 2040, by an authority until 2045.
    pub fn good() -> Self {
        Self::changed(|_| ())
    }

    pub fn changed(change: impl FnOnce(&mut CertificateParams)) -> Self {
        Self::of_authority(&authority("test root", 2045, KeyPair::generate().unwrap()), change)
    }

    pub fn of_authority(root: &CertifiedIssuer<'_, KeyPair>, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let mut params = CertificateParams::new(["127.0.0.1".to_owned(), "localhost".to_owned()]).unwrap();
        (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2040, 1, 1));
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let leaf = params.signed_by(&key, root).unwrap();
        Self { chain: vec![leaf.der().clone()], key, ca: root.pem() }
    }

    pub fn server_config(&self) -> rustls::ServerConfig {
        self.config_of_server(WebPkiClientVerifier::no_client_auth)
    }

    /// The server rejects whoever shows no certificate that this one has signed.
    pub fn demanding_server_config(&self) -> rustls::ServerConfig {
        self.config_of_server(|| {
            let mut roots = rustls::RootCertStore::empty();
            roots.add(self.chain[0].clone()).unwrap();
            WebPkiClientVerifier::builder(Arc::new(roots)).build().unwrap()
        })
    }

    /// The server rejects whoever shows no certificate that the authority of this PEM has signed.
    pub fn server_config_for_clients_of(&self, authority: &str) -> rustls::ServerConfig {
        self.config_of_server(|| {
            let mut roots = rustls::RootCertStore::empty();
            roots.add(CertificateDer::from_pem_slice(authority.as_bytes()).unwrap()).unwrap();
            WebPkiClientVerifier::builder(Arc::new(roots)).build().unwrap()
        })
    }

    /// `clients` is asked once the provider of TLS is chosen.
    fn config_of_server(&self, clients: impl FnOnce() -> Arc<dyn ClientCertVerifier>) -> rustls::ServerConfig {
        choose_tls_provider();
        let key = PrivateKeyDer::try_from(self.key.serialize_der()).unwrap();
        let builder = rustls::ServerConfig::builder().with_client_cert_verifier(clients());
        builder.with_single_cert(self.chain.clone(), key).unwrap()
    }

    pub fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::new(self.server_config()))
    }
}

/// The chain as PEM.
pub fn pem(certificate: &Certificate) -> String {
    let blocks = certificate.chain.iter().map(|der| {
        let text = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, der);
        format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
    });
    blocks.collect()
}

/// What a server does next.
#[derive(Clone, Debug)]
pub enum Act {
    /// Sends these bytes.
    Say(Vec<u8>),
    /// Reads exactly these bytes; if others come, it ends the connection.
    Hear(Vec<u8>),
    /// Makes a TLS handshake.
    Tls,
    /// Does nothing any more.
    Hang,
    /// Sends this without end.
    Endless(Vec<u8>),
}

pub fn say(text: &str) -> Act {
    Act::Say(text.as_bytes().to_vec())
}

pub fn hear(text: &str) -> Act {
    Act::Hear(text.as_bytes().to_vec())
}

/// A server that does the same on each connection, and then ends it.
pub struct Actor {
    pub address: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Actor {
    fn drop(&mut self) {
        self.task.abort();
    }
}

trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Duplex for S {}

impl Actor {
    pub async fn start(acts: impl Into<Vec<Act>>) -> Self {
        Self::with_tls(acts, None).await
    }

    pub async fn with_tls(acts: impl Into<Vec<Act>>, acceptor: Option<TlsAcceptor>) -> Self {
        let acts = acts.into();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(act(Box::new(stream), acts.clone(), acceptor.clone()));
            }
        });
        Self { address, task }
    }

    pub fn url(&self, scheme: &str) -> String {
        format!("{scheme}://{}", self.address)
    }
}

async fn act(mut stream: Box<dyn Duplex>, acts: Vec<Act>, acceptor: Option<TlsAcceptor>) {
    for act in acts {
        match act {
            Act::Say(bytes) => {
                if stream.write_all(&bytes).await.is_err() {
                    return;
                }
            }
            Act::Hear(expected) => {
                let mut heard = vec![0; expected.len()];
                if stream.read_exact(&mut heard).await.is_err() || heard != expected {
                    return;
                }
            }
            Act::Tls => match acceptor.clone().unwrap().accept(stream).await {
                Ok(encrypted) => stream = Box::new(encrypted),
                Err(_) => return,
            },
            Act::Hang => std::future::pending().await,
            Act::Endless(bytes) => while stream.write_all(&bytes).await.is_ok() {},
        }
    }
    let _ = stream.shutdown().await;
}
