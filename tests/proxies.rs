//! Proxies of targets that are polled by calls and of targets that are probed: what each is told, what the target gets of that, which hosts are
//! reached without, and what a proxy can do to a poll.
#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test may")]

mod support;

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::StreamExt;
use rcgen::{CertificateParams, KeyPair};
use scrapetarget_exporter::kind::Reason;
use serde_json::{Value, json};
use support::probing::{Certificate, Probed, pem};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// `Basic` of ann and hunter2.
const LOGIN: &str = "Basic YW5uOmh1bnRlcjI=";

/// The heads of the requests that a server got.
type Heads = Arc<Mutex<Vec<String>>>;

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// A server or a proxy, until the test ends.
struct Place {
    address: SocketAddr,
    heads: Heads,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Place {
    /// Does this on every connection.
    async fn start<F>(
        tls: Option<TlsAcceptor>,
        act: impl Fn(Box<dyn Stream>, Heads) -> F + Send + Sync + Clone + 'static,
    ) -> Self
    where
        F: Future<Output = io::Result<()>> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let heads = Heads::default();
        let book = Arc::clone(&heads);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (tls, act, book) = (tls.clone(), act.clone(), Arc::clone(&book));
                // A client that goes away is no error of a server.
                tokio::spawn(async move {
                    let stream: Box<dyn Stream> = match tls {
                        None => Box::new(stream),
                        Some(tls) => Box::new(tls.accept(stream).await?),
                    };
                    act(stream, book).await
                });
            }
        });
        Self { address, heads, task }
    }

    /// A server that answers every request with an exposition, and a WebSocket server for whoever asks for one.
    async fn server(tls: Option<TlsAcceptor>) -> Self {
        Self::start(tls, |mut stream, heads| async move {
            loop {
                let head = head(&mut stream).await?;
                heads.lock().unwrap().push(head);
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 14\r\n\r\nmedia_rooms 3\n").await?;
            }
        })
        .await
    }

    /// A proxy that speaks HTTP and SOCKS 5, and wants this value of `Proxy-Authorization` or, by SOCKS, ann and hunter2. It goes to this machine,
    /// whatever host is asked for.
    async fn proxy(tls: Option<TlsAcceptor>, wanted: Option<&'static str>) -> Self {
        Self::start(tls, move |stream, heads| proxied(stream, heads, wanted)).await
    }

    fn url(&self, scheme: &str) -> String {
        format!("{scheme}://{}", self.address)
    }

    fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }
}

/// Reads until the end of a header.
async fn head(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    Ok(String::from_utf8_lossy(&head).to_lowercase())
}

async fn proxied(mut client: Box<dyn Stream>, heads: Heads, wanted: Option<&str>) -> io::Result<()> {
    let first = client.read_u8().await?;
    if first == 5 {
        return socks(client, heads, wanted).await;
    }
    let head = format!("{}{}", char::from(first).to_lowercase(), head(&mut client).await?);
    heads.lock().unwrap().push(head.clone());
    if wanted.is_some_and(|value| !head.contains(&format!("\r\nproxy-authorization: {}\r\n", value.to_lowercase()))) {
        let refusal =
            "HTTP/1.1 407 Proxy Authentication Required\r\nproxy-authenticate: Basic\r\ncontent-length: 0\r\n\r\n";
        return client.write_all(refusal.as_bytes()).await;
    }
    let mut words = head.split(' ');
    if words.next() == Some("connect") {
        let port = words.next().and_then(|to| to.rsplit(':').next()).unwrap();
        let mut server = TcpStream::connect(format!("127.0.0.1:{port}")).await?;
        client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await?;
        copy_bidirectional(&mut client, &mut server).await?;
        return Ok(());
    }
    let url: reqwest::Url = words.next().unwrap().parse().unwrap();
    let mut server = TcpStream::connect(("127.0.0.1", url.port().unwrap())).await?;
    let own = |line: &&str| !line.starts_with("proxy-") && !line.starts_with("connection");
    let lines: String =
        head.lines().skip(1).filter(|line| !line.is_empty()).filter(own).flat_map(|line| [line, "\r\n"]).collect();
    server.write_all(format!("GET {} HTTP/1.1\r\nconnection: close\r\n{lines}\r\n", url.path()).as_bytes()).await?;
    copy_bidirectional(&mut client, &mut server).await?;
    Ok(())
}

async fn socks(mut client: Box<dyn Stream>, heads: Heads, wanted: Option<&str>) -> io::Result<()> {
    let mut methods = vec![0; usize::from(client.read_u8().await?)];
    client.read_exact(&mut methods).await?;
    let method = if wanted.is_some() { 2 } else { 0 };
    if !methods.contains(&method) {
        return client.write_all(&[5, 0xff]).await;
    }
    client.write_all(&[5, method]).await?;
    if wanted.is_some() {
        let mut login = [0; 1 + 4 + 8];
        client.read_exact(&mut login).await?;
        let is_right = login == *b"\x01\x03ann\x07hunter2";
        client.write_all(&[1, u8::from(!is_right)]).await?;
        if !is_right {
            return Ok(());
        }
    }
    let mut request = [0; 4];
    client.read_exact(&mut request).await?;
    let length = match request[3] {
        1 => 4,
        3 => usize::from(client.read_u8().await?),
        _ => 16,
    };
    let mut host = vec![0; length];
    client.read_exact(&mut host).await?;
    let port = client.read_u16().await?;
    let host = if request[3] == 3 { String::from_utf8_lossy(&host).into_owned() } else { format!("{host:?}") };
    heads.lock().unwrap().push(format!("socks {host}:{port}"));
    let mut server = TcpStream::connect(("127.0.0.1", port)).await?;
    client.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).await?;
    copy_bidirectional(&mut client, &mut server).await?;
    Ok(())
}

/// A target of this type; the others are like it.
fn target(kind: &str, url: &str, more: &Value) -> Value {
    let mut spec = json!({ "type": kind, "url": url });
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    spec
}

fn credentials(password: &str) -> Value {
    json!({ "username": { "name": "plain", "key": "ann" }, "password": { "name": "plain", "key": password } })
}

fn ca(pem: &str) -> Value {
    json!({ "configMap": { "name": pem, "key": "ca.crt" } })
}

/// Calls and probes.
const TYPES: [&str; 2] = ["Prometheus", "Http"];

#[tokio::test]
async fn the_proxy_gets_the_credentials_and_the_target_does_not() {
    let (of_server, of_proxy) = (Certificate::good(), Certificate::good());
    for (scheme, tls) in [("http", None), ("https", Some(of_server.acceptor()))] {
        for (proxy_scheme, proxy_tls) in
            [("http", None), ("https", Some(of_proxy.acceptor())), ("socks5h", None), ("socks5", None)]
        {
            for kind in TYPES {
                let server = Place::server(tls.clone()).await;
                let proxy = Place::proxy(proxy_tls.clone(), Some(LOGIN)).await;
                let mut more = json!({
                    "proxyUrl": proxy.url(proxy_scheme),
                    "proxyAuth": credentials("hunter2"),
                    "tlsConfig": { "ca": ca(&of_server.ca) },
                });
                if proxy_tls.is_some() {
                    more["proxyTlsConfig"] = json!({ "ca": ca(&of_proxy.ca) });
                }
                let what = format!("{kind} {scheme} by {proxy_scheme}");
                let probed = Probed::of(target(kind, &server.url(scheme), &more)).await;
                assert_eq!((probed.reason, probed.value("probe_success")), (None, 1.0), "{what}: {}", probed.message);
                let (asked, got) = (proxy.heads(), server.heads());
                assert!(asked.len() == 1 && got.len() == 1, "{what}: {asked:?} {got:?}");
                let is_tunnel = scheme == "https" || proxy_scheme.starts_with("socks");
                let begins = match proxy_scheme {
                    "socks5" | "socks5h" => "socks ".to_owned(),
                    _ if is_tunnel => format!("connect {} http/1.1\r\n", server.address),
                    _ => format!("get http://{}/ http/1.1\r\n", server.address),
                };
                assert!(asked[0].starts_with(&begins), "{what}: {asked:?}");
                assert!(got[0].starts_with("get / http/1.1\r\n") && !got[0].contains("proxy-"), "{what}: {got:?}");
                for text in [&probed.message, &support::text(&probed.snapshot)] {
                    assert!(!text.contains("hunter2") && !text.contains("YW5uOmh1bnRlcjI"), "{what}: {text}");
                }
            }
        }
    }
}

#[tokio::test]
async fn what_a_proxy_that_wants_other_credentials_is_told_says_which_field_to_write() {
    let server = Place::server(Some(Certificate::good().acceptor())).await;
    for proxy_scheme in ["http", "socks5"] {
        let proxy = Place::proxy(None, Some(LOGIN)).await;
        for (scheme, kind) in [("http", "Prometheus"), ("https", "Prometheus"), ("http", "Http"), ("https", "Http")] {
            for (password, says) in [(None, "write proxyAuth"), (Some("hunter3"), "correct the Secret")] {
                let mut more = json!({ "proxyUrl": proxy.url(proxy_scheme) });
                if let Some(password) = password {
                    more["proxyAuth"] = credentials(password);
                }
                let probed = Probed::of(target(kind, &server.url(scheme), &more)).await;
                let what = format!("{kind} {scheme} by {proxy_scheme}: {}", probed.message);
                assert_eq!(probed.reason, Some(Reason::Auth), "{what}");
                assert!(probed.message.contains("proxyUrl: the proxy") && probed.message.contains(says), "{what}");
                assert!(!probed.message.contains("hunter"), "{what}");
                if (kind, scheme, proxy_scheme) == ("Http", "http", "http") {
                    assert_eq!(probed.value("probe_http_status_code"), 407.0, "as with the blackbox exporter");
                }
            }
        }
    }
    assert_eq!(server.heads().len(), 0);
}

#[tokio::test]
async fn a_host_that_the_list_names_is_reached_without_the_proxy() {
    let server = Place::server(None).await;
    let port = server.address.port();
    for kind in TYPES {
        let proxy = Place::proxy(None, None).await;
        let by = |url: String, more: Value| {
            let mut more = more;
            more["proxyUrl"] = json!(proxy.url("http"));
            Probed::of(target(kind, &url, &more))
        };
        by(server.url("http"), json!({})).await.succeeded();
        assert_eq!(proxy.heads().len(), 1, "{kind}: without a list all goes through it, this machine as well");
        by(server.url("http"), json!({ "noProxy": "other.test" })).await.succeeded();
        assert_eq!(proxy.heads().len(), 1, "{kind}: with one, this machine does not");
        // Only the proxy finds this name.
        let far = format!("http://far.test:{port}/");
        let skips = json!({ "noProxy": "other.test,far.test:1", "http": { "skipResolvePhaseWithProxy": true } });
        let more = if kind == "Http" { skips } else { json!({ "noProxy": "other.test,far.test:1" }) };
        by(far.clone(), more).await.succeeded();
        assert_eq!(proxy.heads().len(), 2, "{kind}");
        let near = by(far, json!({ "noProxy": "other.test, .far.test, far.test" })).await;
        near.failed(Reason::Dns);
        assert_eq!(proxy.heads().len(), 2, "{kind}: it is resolved here");
    }
}

#[tokio::test]
async fn without_the_proxy_a_target_is_judged_as_one_that_has_none() {
    for kind in TYPES {
        let proxy = Place::proxy(None, None).await;
        let more = json!({ "proxyUrl": proxy.url("http"), "noProxy": "169.254.0.0/16" });
        let probed = Probed::of(target(kind, "http://169.254.169.254/", &more)).await;
        probed.failed(Reason::Config);
        assert!(probed.message.contains("may not be contacted"), "{}", probed.message);
        assert_eq!(proxy.heads().len(), 0);
    }
}

#[tokio::test]
async fn a_redirect_is_judged_by_the_list_and_carries_no_credentials_of_the_proxy() {
    let last = Place::server(None).await;
    let to = last.url("http");
    let first = Place::start(None, move |mut stream, heads| {
        let to = to.clone();
        async move {
            let head = head(&mut stream).await?;
            heads.lock().unwrap().push(head);
            let answer = format!("HTTP/1.1 302 Found\r\nlocation: {to}/there\r\ncontent-length: 0\r\n\r\n");
            stream.write_all(answer.as_bytes()).await
        }
    })
    .await;
    let proxy = Place::proxy(None, Some(LOGIN)).await;
    let more = json!({
        "proxyUrl": proxy.url("http"),
        "proxyAuth": credentials("hunter2"),
        "noProxy": "other.test",
        "http": { "skipResolvePhaseWithProxy": true },
    });
    let url = format!("http://far.test:{}/", first.address.port());
    Probed::of(target("Http", &url, &more)).await.succeeded();
    assert_eq!(proxy.heads().len(), 1, "the second request goes to this machine, and so not through it");
    let heads = [first.heads(), last.heads()].concat();
    assert!(heads.len() == 2 && heads[1].starts_with("get /there "), "{heads:?}");
    assert!(heads.iter().all(|head| !head.contains("proxy-authorization")), "{heads:?}");
}

#[tokio::test]
async fn a_websocket_goes_through_a_tunnel() {
    let server = Place::start(None, |mut stream, heads| async move {
        let head = head(&mut stream).await?;
        heads.lock().unwrap().push(head);
        stream.write_all(b"HTTP/1.1 401 Who\r\ncontent-length: 0\r\n\r\n").await
    })
    .await;
    for scheme in ["http", "socks5h"] {
        let proxy = Place::proxy(None, Some(LOGIN)).await;
        let more = json!({
            "proxyUrl": proxy.url(scheme),
            "proxyAuth": credentials("hunter2"),
            "websocket": { "validStatusCodes": [401] },
        });
        Probed::of(target("WebSocket", &server.url("ws"), &more)).await.succeeded();
        assert_eq!(proxy.heads().len(), 1, "{scheme}");
        let direct = target(
            "WebSocket",
            &server.url("ws"),
            &json!({ "noProxy": "x.test", "proxyUrl": proxy.url(scheme), "websocket": { "validStatusCodes": [401] } }),
        );
        Probed::of(direct).await.succeeded();
        assert_eq!(proxy.heads().len(), 1, "{scheme}");
    }
    assert!(server.heads().iter().all(|head| head.starts_with("get / ") && !head.contains("proxy-")));
}

#[tokio::test]
async fn the_certificate_of_a_proxy_has_settings_of_its_own_or_else_those_of_the_target() {
    let (of_server, of_proxy) = (Certificate::good(), Certificate::good());
    let server = Place::server(Some(of_server.acceptor())).await;
    let proxy = Place::proxy(Some(of_proxy.acceptor()), None).await;
    let both = format!("{}{}", of_server.ca, of_proxy.ca);
    for kind in TYPES {
        for (tls, proxy_tls, fails) in [
            (json!({ "ca": ca(&of_server.ca) }), Some(json!({ "ca": ca(&of_proxy.ca) })), None),
            (json!({ "ca": ca(&of_server.ca) }), Some(json!({ "insecureSkipVerify": true })), None),
            (json!({ "ca": ca(&both) }), None, None),
            (json!({ "insecureSkipVerify": true }), None, None),
            (json!({ "ca": ca(&of_server.ca) }), None, Some("proxyUrl: ")),
            (json!({ "ca": ca(&of_server.ca) }), Some(json!({ "ca": ca(&of_server.ca) })), Some("proxyUrl: ")),
            (json!({ "insecureSkipVerify": true }), Some(json!({ "ca": ca(&of_server.ca) })), Some("proxyUrl: ")),
            // The authorities of the proxy say nothing of the target.
            (json!({ "ca": ca(&of_proxy.ca) }), Some(json!({ "ca": ca(&of_proxy.ca) })), Some("")),
            (
                json!({ "ca": ca(&of_server.ca) }),
                Some(json!({ "ca": ca(&of_proxy.ca), "serverName": "other.test" })),
                Some("proxyUrl: "),
            ),
            (
                json!({ "ca": ca(&of_server.ca) }),
                Some(json!({ "ca": ca(&of_proxy.ca), "serverName": "localhost" })),
                None,
            ),
        ] {
            let mut more = json!({ "proxyUrl": proxy.url("https"), "tlsConfig": tls });
            if let Some(proxy_tls) = &proxy_tls {
                more["proxyTlsConfig"] = proxy_tls.clone();
            }
            let probed = Probed::of(target(kind, &server.url("https"), &more)).await;
            let what = format!("{kind} {fails:?}: {:?} {}", probed.reason, probed.message);
            match fails {
                None => assert_eq!(probed.reason, None, "{what}"),
                Some(says) => {
                    assert_eq!(probed.reason, Some(Reason::Tls), "{what}");
                    assert!(probed.message.contains(says), "{what}");
                    assert_eq!(probed.message.contains("proxyUrl"), !says.is_empty(), "{what}");
                }
            }
        }
    }
}

#[tokio::test]
async fn the_client_certificate_of_the_target_is_not_shown_to_the_proxy() {
    let (of_server, of_proxy, client) = (Certificate::good(), Certificate::good(), Certificate::good());
    let asking = TlsAcceptor::from(Arc::new(of_proxy.server_config_for_clients_of(&client.ca)));
    let server = Place::server(Some(of_server.acceptor())).await;
    let proxy = Place::proxy(Some(asking), None).await;
    let (certificate, key) = (pem(&client), client.key.serialize_pem());
    let identity = |ca_of: &str| {
        json!({
            "ca": ca(ca_of),
            "cert": { "configMap": { "name": certificate, "key": "tls.crt" } },
            "keySecret": { "name": key, "key": "tls.key" },
        })
    };
    for kind in TYPES {
        let own = json!({
            "proxyUrl": proxy.url("https"),
            "tlsConfig": { "ca": ca(&of_server.ca) },
            "proxyTlsConfig": identity(&of_proxy.ca),
        });
        Probed::of(target(kind, &server.url("https"), &own)).await.succeeded();
        let of_target = json!({
            "proxyUrl": proxy.url("https"),
            "tlsConfig": identity(&format!("{}{}", of_server.ca, of_proxy.ca)),
        });
        let probed = Probed::of(target(kind, &server.url("https"), &of_target)).await;
        assert!(
            probed.reason.is_some_and(|reason| matches!(reason, Reason::Tls | Reason::Connect)),
            "{}",
            probed.message
        );
    }
}

/// The server says so when the handshake is over for us, at times before the request is sent.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_wants_a_client_certificate_says_so_through_a_proxy_as_well() {
    let certificate = Certificate::good();
    let demanding = certificate.server_config_for_clients_of(&Certificate::good().ca);
    let server = Place::server(Some(TlsAcceptor::from(Arc::new(demanding)))).await;
    let proxy = Place::proxy(None, None).await;
    for scheme in ["http", "socks5h"] {
        for kind in TYPES {
            let more = json!({ "proxyUrl": proxy.url(scheme), "tlsConfig": { "ca": ca(&certificate.ca) } });
            let spec = target(kind, &server.url("https"), &more);
            let probes = futures::stream::iter((0..40).map(|_| Probed::of(spec.clone()))).buffer_unordered(4);
            for probed in probes.collect::<Vec<_>>().await {
                assert_eq!(probed.reason, Some(Reason::Tls), "{kind}: {}", probed.message);
                let wanted = "the server requires a client certificate: write tlsConfig.cert and tlsConfig.keySecret";
                assert!(probed.message.ends_with(wanted), "{kind}: {}", probed.message);
            }
        }
    }
}

#[tokio::test]
async fn what_goes_wrong_on_the_way_to_a_token_endpoint_names_the_fields_of_oauth2() {
    let (of_endpoint, of_proxy) = (Certificate::good(), Certificate::good());
    let elsewhere = Certificate::changed(|params| {
        params.subject_alt_names = CertificateParams::new(["other.test".to_owned()]).unwrap().subject_alt_names;
    });
    let another = support::probing::authority("another root", 2045, KeyPair::generate().unwrap()).pem();
    let endpoint = Place::server(Some(of_endpoint.acceptor())).await;
    let unencrypted = Place::server(None).await;
    let demanding = Place::proxy(None, Some(LOGIN)).await;
    let encrypted = Place::proxy(Some(of_proxy.acceptor()), None).await;
    let misnamed = Place::proxy(Some(elsewhere.acceptor()), None).await;
    let wants_login = "token: auth: oauth2.proxyUrl: the proxy wants credentials, and none are sent";
    let no_name =
        "token: tls: oauth2.proxyUrl: no TLS with the proxy: its certificate must contain the host in proxyUrl";
    for (token_url, proxy, trusted, beginning, field) in [
        (endpoint.url("https"), None, &another, "token: tls: the server's certificate", "oauth2.tlsConfig.ca"),
        (endpoint.url("https"), Some(demanding.url("http")), &of_endpoint.ca, wants_login, ""),
        (endpoint.url("https"), Some(demanding.url("socks5h")), &of_endpoint.ca, wants_login, ""),
        (unencrypted.url("http"), Some(demanding.url("http")), &of_endpoint.ca, wants_login, ""),
        (
            endpoint.url("https"),
            Some(encrypted.url("https")),
            &another,
            "token: tls: oauth2.proxyUrl: the server's certificate",
            "oauth2.tlsConfig.ca",
        ),
        (endpoint.url("https"), Some(misnamed.url("https")), &elsewhere.ca, no_name, ""),
    ] {
        let mut oauth2 = json!({
            "clientId": { "secret": { "name": "idm", "key": "id" } },
            "clientSecret": { "name": "idm", "key": "secret" },
            "tokenUrl": token_url,
            "tlsConfig": { "ca": ca(trusted) },
        });
        if let Some(proxy) = proxy {
            oauth2["proxyUrl"] = json!(proxy);
        }
        for kind in TYPES {
            let probed = Probed::of(target(kind, &unencrypted.url("http"), &json!({ "oauth2": oauth2 }))).await;
            assert_eq!(probed.reason, Some(Reason::Auth), "{}", probed.message);
            assert!(probed.message.contains(beginning) && probed.message.contains(field), "{}", probed.message);
            let others = probed.message.replace("oauth2.tlsConfig", "");
            assert!(!others.to_lowercase().contains("tlsconfig"), "{}", probed.message);
        }
    }
}

#[tokio::test]
async fn a_hostile_proxy_ends_its_own_poll_and_no_other() {
    const HUGE: usize = 10 << 20;
    type Says = fn() -> Vec<u8>;
    let says: [(&str, Says, &[Reason]); 8] = [
        ("closes", Vec::new, &[Reason::Connect]),
        ("closes within the header", || b"HTTP/1.1 200 OK\r\nvia: ".to_vec(), &[Reason::Connect]),
        ("endless header", || [b"HTTP/1.1 200 OK\r\na: ", &vec![b'a'; HUGE][..]].concat(), &[Reason::Limit]),
        ("interim answers", || b"HTTP/1.1 102 Processing\r\n\r\n".repeat(HUGE / 27), &[Reason::Limit]),
        (
            "10 MB as the tunnel",
            || [b"HTTP/1.1 200 OK\r\n\r\n", &vec![b'a'; HUGE][..]].concat(),
            &[Reason::Tls, Reason::Connect],
        ),
        ("closes the tunnel", || b"HTTP/1.1 200 OK\r\n\r\n".to_vec(), &[Reason::Tls, Reason::Connect]),
        ("407 again and again", || b"HTTP/1.1 407 No\r\ncontent-length: 0\r\n\r\n".repeat(1000), &[Reason::Auth]),
        ("another protocol", || b"SSH-2.0-OpenSSH_9.2\r\n\r\n".to_vec(), &[Reason::Protocol]),
    ];
    let honest = Place::server(None).await;
    let good = Place::proxy(None, None).await;
    let beside = target("Prometheus", &honest.url("http"), &json!({ "proxyUrl": good.url("http") }));
    for (what, says, reasons) in says {
        for kind in TYPES {
            let hostile = Place::start(None, move |mut stream, heads| async move {
                let head = head(&mut stream).await?;
                heads.lock().unwrap().push(head);
                stream.write_all(&says()).await?;
                stream.shutdown().await
            })
            .await;
            let more = json!({ "proxyUrl": hostile.url("http"), "proxyAuth": credentials("hunter2"), "http": {} });
            let mut spec = target(kind, "https://127.0.0.1:9/", &more);
            if kind != "Http" {
                spec.as_object_mut().unwrap().remove("http");
            }
            let (probed, other) = tokio::join!(Probed::of(spec), Probed::of(beside.clone()));
            assert!(
                probed.reason.is_some_and(|reason| reasons.contains(&reason)),
                "{kind} {what}: {:?} {}",
                probed.reason,
                probed.message
            );
            assert!(
                !probed.message.contains("hunter2") && probed.message.len() < 500,
                "{kind} {what}: {}",
                probed.message
            );
            other.succeeded();
            let asked = hostile.heads().len();
            assert!((1..=2).contains(&asked), "{kind} {what}: it was asked {asked} times");
        }
    }
}

#[tokio::test]
async fn a_proxy_that_says_nothing_costs_no_more_than_the_timeout() {
    for (scheme, url) in
        [("http", "https://127.0.0.1:9/"), ("https", "http://127.0.0.1:9/"), ("socks5", "http://127.0.0.1:9/")]
    {
        for kind in TYPES {
            let silent = Place::start(None, |mut stream, _| async move {
                let _ = stream.read_to_end(&mut Vec::new()).await;
                Ok(())
            })
            .await;
            let more = json!({ "proxyUrl": silent.url(scheme), "timeout": "1s" });
            let started = Instant::now();
            let probed = Probed::of(target(kind, url, &more)).await;
            assert!(started.elapsed() < support::eventually::PATIENCE, "{kind} {scheme}");
            assert!(started.elapsed() >= Duration::from_millis(500), "{kind} {scheme}: {}", probed.message);
            probed.failed(Reason::Timeout);
            assert!(probed.message.contains("proxy"), "{kind} {scheme}: {}", probed.message);
        }
    }
}

#[tokio::test]
async fn a_connection_through_a_proxy_is_kept_and_one_that_ended_is_replaced() {
    let certificate = Certificate::good();
    let server = Place::server(Some(certificate.acceptor())).await;
    let proxy = Place::proxy(None, Some(LOGIN)).await;
    let more = json!({
        "interval": "1m", "timeout": "60s", "maxAge": "0s",
        "proxyUrl": proxy.url("http"), "proxyAuth": credentials("hunter2"), "tlsConfig": { "ca": ca(&certificate.ca) },
    });
    let target = support::probing::target_of(&target("Prometheus", &server.url("https"), &more));
    let limits = scrapetarget_exporter::fetch::Limits::new(1 << 20, 8 << 20);
    let pollers = support::pollers_with(limits, false);
    let id = target.id.clone();
    pollers.apply([target]);
    for poll in 1..=3 {
        let snapshot = pollers.get(&id).unwrap().answer(support::eventually::PATIENCE).await;
        assert!(snapshot.failure.is_none(), "{:?}", snapshot.failure);
        assert_eq!(server.heads().len(), poll);
        assert!(support::text(&snapshot).contains("probe_ssl_earliest_cert_expiry "), "also on a kept connection");
    }
    assert!(proxy.heads().len() <= 2, "at most one renewal: {:?}", proxy.heads());
    pollers.shutdown().await;
}
