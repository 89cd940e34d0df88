//! Which certificates of servers are taken, when they end, and what is said of those that are refused; all by real handshakes.

#![expect(clippy::unwrap_used, reason = "a test may")]

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P521_SHA512, PublicKeyData, date_time_ymd,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use scrapetarget_exporter::dial::Identity;
use scrapetarget_exporter::kind::{Reason, Type};
use scrapetarget_exporter::target::Target;
use scrapetarget_exporter::tls::{TrustStore, Usage};
use support::faults::{Fault, Faulty};
use support::old::{der, pem_of, version_1};
use support::{choose_tls_provider, poll_once, series, target, text};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

const YEAR_2030: f64 = 1_893_456_000.0;
const YEAR_2039: f64 = 2_177_452_800.0;

/// Shows one chain, whatever key it has.
#[derive(Debug)]
struct Shows(Arc<rustls::sign::CertifiedKey>);

impl rustls::server::ResolvesServerCert for Shows {
    fn resolve(&self, _: rustls::server::ClientHello<'_>) -> Option<Arc<rustls::sign::CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

/// A TLS server that answers every request with `{}`. It wants a client certificate if it is told so, and takes any.
async fn server_that(chain: Vec<CertificateDer<'static>>, key: &KeyPair, asks: bool) -> SocketAddr {
    choose_tls_provider();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key).unwrap();
    let shows = Shows(Arc::new(rustls::sign::CertifiedKey::new(chain, key)));
    let builder = rustls::ServerConfig::builder();
    let builder =
        if asks { builder.with_client_cert_verifier(Arc::new(AnyClient)) } else { builder.with_no_client_auth() };
    let acceptor = TlsAcceptor::from(Arc::new(builder.with_cert_resolver(Arc::new(shows))));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let mut request = [0; 4096];
                while stream.read(&mut request).await.is_ok_and(|n| n > 0) {
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await;
                }
            });
        }
    });
    address
}

async fn server(chain: Vec<CertificateDer<'static>>, key: &KeyPair) -> SocketAddr {
    server_that(chain, key, false).await
}

/// Wants a certificate, and looks at nothing.
#[derive(Debug)]
struct AnyClient;

impl rustls::server::danger::ClientCertVerifier for AnyClient {
    fn root_hint_subjects(&self) -> &[rustls::DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<rustls::server::danger::ClientCertVerified, rustls::Error> {
        Ok(rustls::server::danger::ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        vec![rustls::SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

fn sora(url: &str) -> Target {
    let mut target = target("sora", Type::Sora, url);
    target.timeout = Duration::from_secs(20);
    target
}

fn https(address: SocketAddr, ca: Option<&str>) -> Target {
    let mut target = sora(&format!("https://{address}/"));
    Arc::make_mut(&mut target.source).connection.tls.ca = ca.map(|pem| pem.as_bytes().into());
    target
}

/// The reason and the sentence, and the two ends. `{}` is no answer of Sora, so that a handshake that succeeds gives the reason `schema`.
async fn polled(target: Target) -> (Reason, String, Option<f64>, Option<f64>) {
    let snapshot = poll_once(target).await;
    let failure = snapshot.failure.clone().unwrap();
    let series = series(&text(&snapshot));
    let end = |name: &str| series.get(name).copied();
    (
        failure.reason,
        failure.message.to_string(),
        end("probe_ssl_earliest_cert_expiry"),
        end("probe_ssl_last_chain_expiry_timestamp_seconds"),
    )
}

async fn is_taken(target: Target) -> bool {
    let (reason, sentence, ..) = polled(target).await;
    assert!(matches!(reason, Reason::Schema | Reason::Tls), "{reason:?} {sentence}");
    reason == Reason::Schema
}

/// As `openssl req -x509` makes it: an authority that is its own server.
fn own_authority(until: i32) -> CertificateParams {
    let mut params = CertificateParams::new(["127.0.0.1".to_owned(), "localhost".to_owned()]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(until, 1, 1));
    params
}

#[tokio::test]
async fn a_self_signed_authority_is_taken_as_the_server_that_it_is_where_it_is_given_itself() {
    let key = KeyPair::generate().unwrap();
    let own = own_authority(2039).self_signed(&key).unwrap();
    let address = server(vec![own.der().clone()], &key).await;
    let (reason, _, earliest, last) = polled(https(address, Some(&own.pem()))).await;
    assert_eq!((reason, earliest, last), (Reason::Schema, Some(YEAR_2039), Some(YEAR_2039)));

    let other = own_authority(2039).self_signed(&KeyPair::generate().unwrap()).unwrap();
    let (reason, sentence, earliest, last) = polled(https(address, Some(&other.pem()))).await;
    assert_eq!((reason, earliest, last), (Reason::Tls, Some(YEAR_2039), None));
    assert!(sentence.contains("tlsConfig.ca") && !sentence.contains("Other"), "{sentence}");
    assert!(!is_taken(https(address, None)).await, "it is no authority of the system");

    let thief = server(vec![own.der().clone()], &KeyPair::generate().unwrap()).await;
    assert!(!is_taken(https(thief, Some(&own.pem()))).await, "the certificate is public, its key is not");
}

#[tokio::test]
async fn a_certificate_that_is_given_itself_must_have_the_date_the_name_and_the_use() {
    type Change = fn(&mut CertificateParams);
    let cases: [(&str, Change, bool); 7] = [
        (
            "signs",
            |params| params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign],
            true,
        ),
        ("signs certificates only", |params| params.key_usages = vec![KeyUsagePurpose::KeyCertSign], false),
        ("server", |params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth], true),
        ("client", |params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth], false),
        ("ended", |params| params.not_after = date_time_ymd(2021, 1, 1), false),
        ("not yet", |params| params.not_before = date_time_ymd(2039, 1, 1), false),
        ("another name", |params| params.subject_alt_names.clear(), false),
    ];
    for (name, change, taken) in cases {
        let mut params = own_authority(2040);
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let own = params.self_signed(&key).unwrap();
        let address = server(vec![own.der().clone()], &key).await;
        assert_eq!(is_taken(https(address, Some(&own.pem()))).await, taken, "{name}");
    }
}

#[tokio::test]
async fn a_leaf_that_is_given_itself_needs_no_authority() {
    let root = CertifiedIssuer::self_signed(own_authority(2045), KeyPair::generate().unwrap()).unwrap();
    let mut params = own_authority(2039);
    params.is_ca = IsCa::NoCa;
    let key = KeyPair::generate().unwrap();
    let leaf = params.signed_by(&key, &root).unwrap();
    let address = server(vec![leaf.der().clone()], &key).await;
    let (reason, _, _, last) = polled(https(address, Some(&leaf.pem()))).await;
    assert_eq!((reason, last), (Reason::Schema, Some(YEAR_2039)));
}

#[tokio::test]
async fn authorities_that_sign_with_p_521_and_sha_512_are_believed() {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P521_SHA512).unwrap();
    let root = CertifiedIssuer::self_signed(own_authority(2045), key).unwrap();
    let mut params = own_authority(2039);
    params.is_ca = IsCa::NoCa;
    for key in [KeyPair::generate().unwrap(), KeyPair::generate_for(&PKCS_ECDSA_P521_SHA512).unwrap()] {
        let leaf = params.clone().signed_by(&key, &root).unwrap();
        let address = server(vec![leaf.der().clone()], &key).await;
        assert!(is_taken(https(address, Some(&root.pem()))).await);
    }
}

/// The public half of an RSA key of 1,024 bits; nobody has the other.
fn rsa_1024() -> Vec<u8> {
    let mut modulus = [0x5b; 129];
    (modulus[0], modulus[1]) = (0, 0xc3);
    let key = der(0x30, &[&der(0x02, &[&modulus]), &der(0x02, &[&[1, 0, 1]])]);
    let rsa = der(0x30, &[&der(0x06, &[&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1]]), &[5, 0]]);
    der(0x30, &[&rsa, &der(0x03, &[&[0], &key])])
}

#[tokio::test]
async fn insecure_skip_verify_takes_version_1_and_short_keys_but_not_the_certificate_of_another() {
    let key = KeyPair::generate().unwrap();
    let old = version_1(&key.subject_public_key_info(), &key);
    let short = version_1(&rsa_1024(), &key);
    for (shown, key, taken) in [
        (old.clone(), &key, true),
        (old, &KeyPair::generate().unwrap(), false),
        // Whether it has the key of this one cannot be verified.
        (short, &key, true),
    ] {
        let address = server(vec![shown], key).await;
        let mut target = https(address, None);
        assert!(!is_taken(target.clone()).await, "it is verified unless that is switched off");
        Arc::make_mut(&mut target.source).connection.tls.insecure_skip_verify = true;
        let (reason, sentence, earliest, last) = polled(target).await;
        assert_eq!(reason == Reason::Schema, taken, "{sentence}");
        assert_eq!((earliest, last), (Some(YEAR_2030), None));
    }
}

/// The server says so when the handshake is over for us, at times before the request is sent.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_wants_a_client_certificate_is_told_as_such_whenever_its_alert_arrives() {
    let own = KeyPair::generate().unwrap();
    let leaf = own_authority(2039).self_signed(&own).unwrap();
    let address = server_that(vec![leaf.der().clone()], &own, true).await;
    let polls = (0..100).map(|_| tokio::spawn(polled(https(address, Some(&leaf.pem())))));
    for poll in polls.collect::<Vec<_>>() {
        let (reason, sentence, ..) = poll.await.unwrap();
        let wanted = "the server requires a client certificate: write tlsConfig.cert and tlsConfig.keySecret";
        assert!(reason == Reason::Tls && sentence.ends_with(wanted), "{reason:?} {sentence}");
    }
}

#[tokio::test]
async fn a_client_certificate_of_version_1_can_be_shown() {
    let own = KeyPair::generate().unwrap();
    let leaf = own_authority(2039).self_signed(&own).unwrap();
    let address = server_that(vec![leaf.der().clone()], &own, true).await;
    let key = KeyPair::generate().unwrap();
    let old = version_1(&key.subject_public_key_info(), &key);
    let pem = pem_of(&old);
    let mut target = https(address, Some(&leaf.pem()));
    let (reason, sentence, ..) = polled(target.clone()).await;
    assert!(reason != Reason::Schema && sentence.contains("tlsConfig.cert"), "{reason:?} {sentence}");
    let identity = |key: &KeyPair| {
        let key = key.serialize_pem();
        Some(Identity { certificates: pem.as_bytes().into(), key: key.as_bytes().into() })
    };
    Arc::make_mut(&mut target.source).connection.tls.identity = identity(&key);
    assert!(is_taken(target.clone()).await);
    Arc::make_mut(&mut target.source).connection.tls.identity = identity(&own);
    let (reason, sentence, ..) = polled(target).await;
    assert_eq!(reason, Reason::Config);
    assert!(sentence.contains("the private key does not match the certificate"), "{sentence}");
}

#[tokio::test]
async fn an_encrypted_key_of_a_client_is_called_encrypted() {
    let own = KeyPair::generate().unwrap();
    let leaf = own_authority(2039).self_signed(&own).unwrap();
    let mut target = https(server(vec![leaf.der().clone()], &own).await, None);
    let key = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIB\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let certificates = leaf.pem();
    Arc::make_mut(&mut target.source).connection.tls.identity =
        Some(Identity { certificates: certificates.as_bytes().into(), key: key.as_bytes().into() });
    let (reason, sentence, ..) = polled(target).await;
    assert_eq!(reason, Reason::Config);
    assert!(sentence.contains("tlsConfig.keySecret holds an encrypted private key"), "{sentence}");
}

/// A renewed authority, one that another has signed, one that nobody needs: the chain that is believed longest counts.
#[test]
fn of_several_chains_the_one_that_ends_last_is_told() {
    choose_tls_provider();
    let authority = |until: i32, name: &str| {
        let mut params = own_authority(until);
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params
    };
    let shared = || KeyPair::from_pem(&KEY.serialize_pem()).unwrap();
    let old = CertifiedIssuer::self_signed(authority(2030, "root"), shared()).unwrap();
    let renewed = CertifiedIssuer::self_signed(authority(2039, "root"), shared()).unwrap();
    let other = CertifiedIssuer::self_signed(authority(2045, "other"), KeyPair::generate().unwrap()).unwrap();
    let crossed = authority(2035, "root").signed_by(&*KEY, &other).unwrap();
    let ended = authority(2021, "root").signed_by(&*KEY, &other).unwrap();
    let mut params = authority(2040, "leaf");
    params.is_ca = IsCa::NoCa;
    let leaf = params.signed_by(&KeyPair::generate().unwrap(), &old).unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let told = |given: &[&CertificateDer<'static>], sent: &[&CertificateDer<'static>]| {
        let (trusted, unread) = TrustStore::new(given.iter().map(|der| (*der).clone()).collect());
        assert_eq!(unread, 0);
        let sent: Vec<_> = sent.iter().map(|der| (*der).clone()).collect();
        trusted.verify(leaf.der(), &sent, Usage::Server(&name), UnixTime::now()).ok()
    };
    let year = |year| date_time_ymd(year, 1, 1).unix_timestamp();
    assert_eq!(told(&[old.der()], &[]), Some(year(2030)), "the authority's own end counts");
    assert_eq!(told(&[old.der(), renewed.der()], &[]), Some(year(2039)));
    assert_eq!(told(&[renewed.der(), old.der()], &[]), Some(year(2039)));
    assert_eq!(told(&[other.der()], &[crossed.der()]), Some(year(2035)));
    assert_eq!(told(&[other.der()], &[ended.der(), crossed.der()]), Some(year(2035)));
    assert_eq!(told(&[old.der(), other.der()], &[crossed.der()]), Some(year(2035)));
    assert_eq!(told(&[renewed.der(), other.der()], &[ended.der(), crossed.der()]), Some(year(2039)));
    assert_eq!(told(&[other.der()], &[ended.der()]), None);
    assert_eq!(told(&[other.der()], &[]), None);
}

static KEY: std::sync::LazyLock<KeyPair> = std::sync::LazyLock::new(|| KeyPair::generate().unwrap());

#[tokio::test]
async fn https_at_a_port_of_http_and_the_reverse_is_said_with_what_to_write() {
    let plain = Faulty::start(Fault::Says("HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")).await;
    let (reason, sentence, ..) = polled(https(plain.address, None)).await;
    assert_eq!(reason, Reason::Tls);
    assert!(sentence.contains("write http://"), "{sentence}");

    let key = KeyPair::generate().unwrap();
    let own = own_authority(2039).self_signed(&key).unwrap();
    let address = server(vec![own.der().clone()], &key).await;
    let (_, sentence, ..) = polled(sora(&format!("http://{address}/"))).await;
    assert!(sentence.contains("write https://"), "{sentence}");

    for words in [
        "HTTP/1.1 400 Bad Request\r\ncontent-length: 72\r\n\r\n<center>The plain HTTP request was sent to HTTPS port</center><hr>nginx\n",
        "HTTP/1.0 400 Bad Request\r\ncontent-length: 48\r\n\r\nClient sent an HTTP request to an HTTPS server.\n",
    ] {
        let server = Faulty::start(Fault::Says(words)).await;
        let (reason, sentence, ..) = polled(sora(&server.url())).await;
        assert_eq!(reason, Reason::HttpStatus);
        assert!(sentence.contains("write https://"), "{sentence}");
    }
    let other = Faulty::start(Fault::Says("HTTP/1.1 400 Bad Request\r\ncontent-length: 4\r\n\r\nbad\n")).await;
    let (reason, sentence, ..) = polled(sora(&other.url())).await;
    assert!(reason == Reason::HttpStatus && !sentence.contains("https"), "{sentence}");
}
