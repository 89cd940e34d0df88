//! A server, with or without TLS, that does for each request what it is told, and remembers what came.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part")]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use rustls_pki_types::PrivateKeyDer;
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::choose_tls_provider;

/// What is done with a request, after it was read.
#[derive(Clone, Copy, Debug)]
pub enum Then {
    /// A good answer; the connection is kept.
    Answer,
    /// These bytes, and then the end.
    Break(&'static str),
    /// The end of the connection, without a byte.
    Close,
    /// A reset.
    Reset,
    /// Nothing, for ever.
    Hang,
}

/// A connection, and the heads of its requests with the times at which they came.
#[derive(Clone, Debug)]
pub struct Connection {
    pub made: Instant,
    /// Its TLS session was one of before.
    pub resumed: bool,
    pub open: bool,
    pub requests: Vec<(Instant, String)>,
}

pub struct Scripted {
    pub address: SocketAddr,
    /// PEM of its certificate, which vouches for itself, if it has one.
    pub ca: Option<String>,
    connections: Arc<Mutex<Vec<Connection>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Every answer: JSON and an exposition would both do for a test of connections, and this is the shorter.
pub const ANSWER: &str = "HTTP/1.1 200 OK\r\ncontent-length: 14\r\n\r\nmedia_rooms 3\n";

impl Scripted {
    /// Plain HTTP. `then` is asked with the numbers of the connection and of the request on it, both from 0.
    pub async fn start(then: impl Fn(usize, usize) -> Then + Send + Sync + 'static) -> Self {
        Self::at((Ipv4Addr::LOCALHOST, 0).into(), None, then).await
    }

    /// HTTPS, with a certificate for `localhost`, `server.test` and 127.0.0.1 that is good until 2040.
    pub async fn tls(
        versions: &[&'static rustls::SupportedProtocolVersion],
        then: impl Fn(usize, usize) -> Then + Send + Sync + 'static,
    ) -> Self {
        Self::at((Ipv4Addr::LOCALHOST, 0).into(), Some(versions), then).await
    }

    pub async fn at(
        address: SocketAddr,
        tls: Option<&[&'static rustls::SupportedProtocolVersion]>,
        then: impl Fn(usize, usize) -> Then + Send + Sync + 'static,
    ) -> Self {
        choose_tls_provider();
        let (acceptor, ca) = tls.map(acceptor).unzip();
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::<Mutex<Vec<Connection>>>::default();
        let (all, then) = (Arc::clone(&connections), Arc::new(then));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let number = {
                    let mut all = all.lock().unwrap();
                    all.push(Connection { made: Instant::now(), resumed: false, open: true, requests: Vec::new() });
                    all.len() - 1
                };
                let (all, then, acceptor) = (Arc::clone(&all), Arc::clone(&then), acceptor.clone());
                tokio::spawn(async move {
                    // A client that goes away is what these tests are about.
                    let told = |request| then(number, request);
                    let _ = match acceptor {
                        None => serve(stream, number, &all, told).await,
                        Some(acceptor) => match acceptor.accept(stream).await {
                            Ok(stream) => {
                                let kind = stream.get_ref().1.handshake_kind();
                                let resumed = kind == Some(rustls::HandshakeKind::Resumed);
                                all.lock().unwrap()[number].resumed = resumed;
                                serve(stream, number, &all, told).await
                            }
                            Err(error) => Err(error),
                        },
                    };
                    all.lock().unwrap()[number].open = false;
                });
            }
        });
        Self { address, ca, connections, task }
    }

    pub fn connections(&self) -> Vec<Connection> {
        self.connections.lock().unwrap().clone()
    }

    /// Requests on all connections.
    pub fn requests(&self) -> usize {
        self.connections.lock().unwrap().iter().map(|connection| connection.requests.len()).sum()
    }

    pub fn url(&self) -> String {
        let scheme = if self.ca.is_some() { "https" } else { "http" };
        format!("{scheme}://{}/", self.address)
    }
}

fn acceptor(versions: &[&'static rustls::SupportedProtocolVersion]) -> (TlsAcceptor, String) {
    let names = ["localhost", "server.test", "127.0.0.1"].map(str::to_owned);
    let mut certificate = CertificateParams::new(names).unwrap();
    certificate.not_before = date_time_ymd(2020, 1, 1);
    certificate.not_after = date_time_ymd(2040, 1, 1);
    let key = KeyPair::generate().unwrap();
    let certificate = certificate.self_signed(&key).unwrap();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let mut config = rustls::ServerConfig::builder_with_protocol_versions(versions)
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new().unwrap();
    (TlsAcceptor::from(Arc::new(config)), certificate.pem())
}

/// Something that can end with a reset.
pub trait Resets {
    fn reset(&self);
}

impl Resets for tokio::net::TcpStream {
    fn reset(&self) {
        self.set_zero_linger().unwrap();
    }
}

impl Resets for tokio_rustls::server::TlsStream<tokio::net::TcpStream> {
    fn reset(&self) {
        self.get_ref().0.reset();
    }
}

async fn serve<S: AsyncRead + AsyncWrite + Resets + Unpin>(
    mut stream: S,
    number: usize,
    all: &Mutex<Vec<Connection>>,
    then: impl Fn(usize) -> Then,
) -> std::io::Result<()> {
    for request in 0.. {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await?);
        }
        let head = String::from_utf8(head).unwrap();
        let last = head.to_ascii_lowercase().contains("connection: close");
        all.lock().unwrap()[number].requests.push((Instant::now(), head));
        match then(request) {
            Then::Answer => stream.write_all(ANSWER.as_bytes()).await?,
            Then::Break(bytes) => {
                stream.write_all(bytes.as_bytes()).await?;
                return stream.shutdown().await;
            }
            Then::Close => return Ok(()),
            Then::Reset => {
                stream.reset();
                return Ok(());
            }
            Then::Hang => std::future::pending().await,
        }
        if last {
            return stream.shutdown().await;
        }
    }
    Ok(())
}

/// An address that answers no SYN, as a dead host or a firewall: its backlog is full.
pub struct Blackhole {
    pub address: SocketAddr,
    _sockets: Vec<Socket>,
}

impl Blackhole {
    pub fn start(ip: Ipv4Addr) -> Self {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        listener.bind(&SocketAddr::new(IpAddr::V4(ip), 0).into()).unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap();
        let mut sockets = vec![listener];
        for _ in 0..4 {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            socket.set_nonblocking(true).unwrap();
            let _ = socket.connect(&address); // it is under way
            sockets.push(socket);
        }
        Self { address: address.as_socket().unwrap(), _sockets: sockets }
    }
}
