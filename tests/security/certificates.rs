//! A server shows the leaf of another, which is public, beside what it likes: the other's expiry must stay what it is.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::support::choose_tls_provider;
use super::support::program::Running;

const YEAR_2021: f64 = 1_609_459_200.0;
const YEAR_2039: f64 = 2_177_452_800.0;

/// Shows one chain, whatever key it has.
#[derive(Debug)]
struct Shows(Arc<rustls::sign::CertifiedKey>);

impl rustls::server::ResolvesServerCert for Shows {
    fn resolve(&self, _: rustls::server::ClientHello<'_>) -> Option<Arc<rustls::sign::CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

fn acceptor(chain: Vec<CertificateDer<'static>>, key: &KeyPair) -> TlsAcceptor {
    choose_tls_provider();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key).unwrap();
    let shows = Shows(Arc::new(rustls::sign::CertifiedKey::new(chain, key)));
    TlsAcceptor::from(Arc::new(
        rustls::ServerConfig::builder().with_no_client_auth().with_cert_resolver(Arc::new(shows)),
    ))
}

/// A TLS server that answers every request with an exposition.
async fn server(chain: Vec<CertificateDer<'static>>, key: &KeyPair) -> SocketAddr {
    serve(acceptor(chain, key), |mut stream| async move {
        let mut request = [0; 4096];
        while stream.read(&mut request).await.is_ok_and(|n| n > 0) {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 14\r\n\r\nmedia_rooms 3\n").await;
        }
    })
    .await
}

/// A proxy that is spoken to over TLS, for both kinds of url.
async fn proxy(chain: Vec<CertificateDer<'static>>, key: &KeyPair) -> SocketAddr {
    serve(acceptor(chain, key), |mut stream| async move {
        let mut request = [0; 4096];
        let Ok(length) = stream.read(&mut request).await else { return };
        let request = String::from_utf8_lossy(&request[..length]).into_owned();
        if let Some(to) = request.strip_prefix("CONNECT ").and_then(|rest| rest.split(' ').next()) {
            let Ok(mut server) = TcpStream::connect(to).await else { return };
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
            let _ = copy_bidirectional(&mut stream, &mut server).await;
        } else {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 14\r\n\r\nmedia_rooms 3\n").await;
        }
    })
    .await
}

async fn serve<F: Future<Output = ()> + Send + 'static>(
    acceptor: TlsAcceptor,
    answer: impl Fn(TlsStream<TcpStream>) -> F + Send + Sync + Copy + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                if let Ok(stream) = acceptor.accept(stream).await {
                    answer(stream).await;
                }
            });
        }
    });
    address
}

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority(until: i32) -> CertificateParams {
    let mut authority = CertificateParams::new([]).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    (authority.not_before, authority.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(until, 1, 1));
    authority
}

fn leaf(until: i32, issuer: &Issuer<'_, KeyPair>) -> (CertificateDer<'static>, KeyPair) {
    let names = ["127.0.0.1", "localhost", "sora.example.com"].map(ToOwned::to_owned);
    let mut params = CertificateParams::new(names).unwrap();
    (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(until, 1, 1));
    let key = KeyPair::generate().unwrap();
    (params.signed_by(&key, issuer).unwrap().der().clone(), key)
}

/// Declares targets, and asks for what they say of certificates.
struct Stage {
    folder: TempDir,
    manifests: String,
}

impl Stage {
    fn new(root: &Authority) -> Self {
        let ca = root.pem().replace('\n', "\n    ");
        let manifests = format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{ name: ca, namespace: media }}\ndata:\n  ca.crt: |\n    {}\n---\n",
            ca.trim_end()
        );
        Self { folder: TempDir::new().unwrap(), manifests }
    }

    /// Every look at the target polls it.
    fn declare(&mut self, name: &str, url: &str, tls: &str, proxy: Option<SocketAddr>) {
        let proxy = proxy.map(|proxy| format!("  proxyUrl: https://{proxy}\n")).unwrap_or_default();
        write!(
            self.manifests,
            "apiVersion: scrapetarget.dev/v1alpha1\nkind: ScrapeTarget\nmetadata: {{ name: {name}, namespace: media }}\nspec:\n  \
             type: Mediasoup\n  url: {url}\n  interval: 1h\n  maxAge: 0s\n  mediasoup: {{ source: Prometheus }}\n{proxy}  tlsConfig: {{ {tls} }}\n---\n"
        )
        .unwrap();
    }

    async fn run(&self) -> Running {
        let file = self.folder.path().join("targets.yaml");
        std::fs::write(&file, &self.manifests).unwrap();
        Running::ready(&file, [""; 0]).await
    }
}

const CA: &str = "ca: { configMap: { name: ca, key: ca.crt } }";
const NAMED: &str = "ca: { configMap: { name: ca, key: ca.crt } }, serverName: sora.example.com";
const INSECURE: &str = "insecureSkipVerify: true";

/// `probe_success`, the reason, the earliest end, and that of the last chain.
async fn asked(running: &Running, name: &str) -> (f64, String, Option<f64>, Option<f64>) {
    let text = running.body(&format!("/probe?target=media/{name}")).await;
    let series = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.rsplit_once(' '));
    let series: BTreeMap<&str, f64> = series.map(|(name, value)| (name, value.parse().unwrap())).collect();
    let reason = series.keys().find_map(|name| name.strip_prefix("probe_failure_info{reason=\""));
    let reason = reason.unwrap_or_default().trim_end_matches("\"}").to_owned();
    let end = |name: &str| series.get(name).copied();
    let last_chain = end("probe_ssl_last_chain_expiry_timestamp_seconds");
    (series["probe_success"], reason, end("probe_ssl_earliest_cert_expiry"), last_chain)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_server_shows_beside_a_leaf_does_not_change_when_the_chain_of_its_owner_ends() {
    let root = CertifiedIssuer::self_signed(authority(2045), KeyPair::generate().unwrap()).unwrap();
    let intermediate = CertifiedIssuer::signed_by(authority(2039), KeyPair::generate().unwrap(), &root).unwrap();
    let bogus = CertifiedIssuer::self_signed(authority(2021), KeyPair::generate().unwrap()).unwrap();
    let (leaf, key) = leaf(2040, &intermediate);
    let honest = server(vec![leaf.clone(), intermediate.der().clone()], &key).await;
    // The leaf without its key, and an authority that has ended, of which nobody has heard.
    let stranger = KeyPair::generate().unwrap();
    let hostile = server(vec![leaf, intermediate.der().clone(), bogus.der().clone()], &stranger).await;

    let mut stage = Stage::new(&root);
    let kinds = [("ca", CA), ("named", NAMED), ("insecure", INSECURE)];
    for (kind, tls) in kinds {
        stage.declare(&format!("honest-{kind}"), &format!("https://{honest}/"), tls, None);
        stage.declare(&format!("hostile-{kind}"), &format!("https://{hostile}/"), tls, None);
    }
    let running = stage.run().await;
    for _ in 0..3 {
        let mut hostile = Vec::new();
        for (kind, _) in kinds {
            hostile.push(asked(&running, &format!("hostile-{kind}")).await);
        }
        for (kind, _) in kinds {
            let told = asked(&running, &format!("honest-{kind}")).await;
            let last_chain = (kind != "insecure").then_some(YEAR_2039);
            assert_eq!(told, (1.0, String::new(), Some(YEAR_2039), last_chain), "{kind}");
        }
        // What it has shown is told of itself.
        assert_eq!(hostile, vec![(0.0, "tls".to_owned(), Some(YEAR_2021), None); kinds.len()]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_chain_that_was_refused_is_told_and_a_proxy_s_is_not_taken_for_it() {
    let root = CertifiedIssuer::self_signed(authority(2045), KeyPair::generate().unwrap()).unwrap();
    let intermediate = CertifiedIssuer::signed_by(authority(2039), KeyPair::generate().unwrap(), &root).unwrap();
    let (good, good_key) = leaf(2040, &intermediate);
    let (expired, expired_key) = leaf(2021, &root);
    let bogus = CertifiedIssuer::self_signed(authority(2021), KeyPair::generate().unwrap()).unwrap();
    let (between, between_key) = leaf(2030, &root);
    let good = server(vec![good, intermediate.der().clone()], &good_key).await;
    let expired = server(vec![expired], &expired_key).await;
    let stranger = proxy(vec![bogus.der().clone()], bogus.key()).await;
    let proxy = proxy(vec![between], &between_key).await;

    let mut stage = Stage::new(&root);
    stage.declare("expired", &format!("https://{expired}/"), CA, None);
    stage.declare("proxied", &format!("https://localhost:{}/", good.port()), CA, Some(proxy));
    stage.declare("proxied-insecure", &format!("https://localhost:{}/", good.port()), INSECURE, Some(proxy));
    stage.declare("proxied-expired", &format!("https://localhost:{}/", expired.port()), CA, Some(proxy));
    stage.declare("unreached", &format!("https://localhost:{}/", good.port()), CA, Some(stranger));
    stage.declare("plain", "http://media.example.com/", CA, Some(proxy));
    let running = stage.run().await;
    for _ in 0..2 {
        for name in ["expired", "proxied-expired"] {
            assert_eq!(asked(&running, name).await, (0.0, "tls".to_owned(), Some(YEAR_2021), None), "{name}");
        }
        assert_eq!(
            asked(&running, "unreached").await,
            (0.0, "tls".to_owned(), None, None),
            "it is the proxy that was refused"
        );
        for (name, last_chain) in [("proxied", Some(YEAR_2039)), ("proxied-insecure", None)] {
            assert_eq!(asked(&running, name).await, (1.0, String::new(), Some(YEAR_2039), last_chain), "{name}");
        }
        assert_eq!(asked(&running, "plain").await, (1.0, String::new(), None, None), "the certificate is the proxy's");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_that_has_ended_and_that_nobody_needs_shortens_no_chain_also_on_a_kept_connection() {
    let root = CertifiedIssuer::self_signed(authority(2045), KeyPair::generate().unwrap()).unwrap();
    let intermediate = CertifiedIssuer::signed_by(authority(2039), KeyPair::generate().unwrap(), &root).unwrap();
    let ended = CertifiedIssuer::self_signed(authority(2021), KeyPair::generate().unwrap()).unwrap();
    let (leaf, key) = leaf(2040, &intermediate);
    let server = server(vec![leaf, intermediate.der().clone(), ended.der().clone()], &key).await;
    let mut stage = Stage::new(&root);
    stage.declare("kept", &format!("https://{server}/"), CA, None);
    let running = stage.run().await;
    for _ in 0..3 {
        assert_eq!(asked(&running, "kept").await, (1.0, String::new(), Some(YEAR_2021), Some(YEAR_2039)));
    }
}
