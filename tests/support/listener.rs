//! A server that remembers at which of its addresses it was contacted, and how often.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part")]

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// A port of loopback that is free, and most probably stays so while nobody listens there: it lies below the range from which the system
/// takes those that it gives to clients, and to servers that ask for any.
pub fn port_of_nobody_else() -> u16 {
    loop {
        let random = RandomState::new().build_hasher().finish() % 22_000;
        let port = 10_000 + u16::try_from(random).unwrap();
        if std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

/// Answers every request on every address of this host with an exposition of one series.
pub struct Listener {
    pub port: u16,
    contacted: Arc<Mutex<BTreeMap<IpAddr, usize>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Listener {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("[::]:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let contacted = Arc::<Mutex<BTreeMap<IpAddr, usize>>>::default();
        let table = Arc::clone(&contacted);
        let task = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let address = stream.local_addr().unwrap().ip().to_canonical();
                *table.lock().unwrap().entry(address).or_default() += 1;
                tokio::spawn(async move {
                    let mut request = [0; 4096];
                    if stream.read(&mut request).await.is_ok_and(|length| length > 0) {
                        let answer =
                            "HTTP/1.1 200 OK\r\ncontent-length: 14\r\nconnection: close\r\n\r\nmedia_rooms 1\n";
                        let _ = stream.write_all(answer.as_bytes()).await;
                    }
                });
            }
        });
        Self { port, contacted, task }
    }

    /// How often each address was contacted since this was asked last.
    pub fn contacted(&self) -> BTreeMap<IpAddr, usize> {
        std::mem::take(&mut *self.contacted.lock().unwrap())
    }

    /// How often this address was contacted; nothing is forgotten.
    pub fn at(&self, address: &str) -> usize {
        self.contacted.lock().unwrap().get(&address.parse().unwrap()).copied().unwrap_or_default()
    }

    /// A url at this host.
    pub fn url(&self, host: &str) -> String {
        match host.parse::<IpAddr>() {
            // As a url spells it: without dots.
            Ok(IpAddr::V6(v6)) => format!("http://{}:{}/", url::Host::<&str>::Ipv6(v6), self.port),
            _ => format!("http://{host}:{}/", self.port),
        }
    }
}
