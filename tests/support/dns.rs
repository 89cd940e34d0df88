//! A name server that answers what it is told, and is silent about a zone. It needs the port 53 of loopback: see `namespaces`.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part")]

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hickory_resolver::proto::op::{Message, ResponseCode};
use hickory_resolver::proto::rr::{RData, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::time::Instant;

/// One packet that asked.
#[derive(Clone, Debug)]
pub struct Asked {
    pub name: String,
    pub kind: RecordType,
    /// The same in a repetition of a question.
    pub id: u16,
    pub at: Instant,
}

struct Known {
    names: HashMap<String, Vec<IpAddr>>,
    silent: Option<String>,
    silent_about_ipv4: bool,
    delay: Duration,
    seconds_to_live: u32,
    asked: Vec<Asked>,
}

impl Default for Known {
    fn default() -> Self {
        let (names, asked) = (HashMap::new(), Vec::new());
        Self { names, silent: None, silent_about_ipv4: false, delay: Duration::ZERO, seconds_to_live: 86_400, asked }
    }
}

pub struct Dns {
    known: Arc<Mutex<Known>>,
    tasks: [tokio::task::JoinHandle<()>; 2],
}

impl Drop for Dns {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// The longest answer over UDP; a longer one is truncated there.
const MAX_UDP: usize = 1232;

impl Dns {
    pub async fn start() -> Self {
        let socket = Arc::new(UdpSocket::bind("127.0.0.1:53").await.unwrap());
        let known = Arc::<Mutex<Known>>::default();
        let table = Arc::clone(&known);
        let over_udp = tokio::spawn(async move {
            let mut packet = [0; 4096];
            while let Ok((length, from)) = socket.recv_from(&mut packet).await {
                let answer = reply(&mut table.lock().unwrap(), &packet[..length], MAX_UDP);
                let Some((reply, delay)) = answer else { continue };
                let socket = Arc::clone(&socket);
                tokio::spawn(async move {
                    tokio::time::sleep(delay).await;
                    let _ = socket.send_to(&reply, from).await;
                });
            }
        });
        let listener = TcpListener::bind("127.0.0.1:53").await.unwrap();
        let table = Arc::clone(&known);
        let over_tcp = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve_tcp(stream, Arc::clone(&table)));
            }
        });
        Self { known, tasks: [over_udp, over_tcp] }
    }

    /// From now on this name has these addresses, as it says for a day.
    pub fn name(&self, name: &str, addresses: &[&str]) {
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        self.known.lock().unwrap().names.insert(name.to_owned(), addresses);
    }

    /// From now on, there is no such name.
    pub fn forget(&self, name: &str) {
        self.known.lock().unwrap().names.remove(name);
    }

    /// Never says a word about names below this one.
    pub fn silent_about(&self, zone: &str) {
        self.known.lock().unwrap().silent = Some(format!(".{zone}"));
    }

    /// Never says a word about addresses of IPv4.
    pub fn silent_about_ipv4(&self) {
        self.known.lock().unwrap().silent_about_ipv4 = true;
    }

    /// For how long answers are good from now on, as it says.
    pub fn time_to_live(&self, seconds: u32) {
        self.known.lock().unwrap().seconds_to_live = seconds;
    }

    /// Answers only after this time.
    pub fn delay(&self, delay: Duration) {
        self.known.lock().unwrap().delay = delay;
    }

    /// Every packet so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.known.lock().unwrap().asked.clone()
    }
}

async fn serve_tcp(mut stream: TcpStream, known: Arc<Mutex<Known>>) -> std::io::Result<()> {
    loop {
        let mut packet = vec![0; usize::from(stream.read_u16().await?)];
        stream.read_exact(&mut packet).await?;
        let answer = reply(&mut known.lock().unwrap(), &packet, usize::from(u16::MAX));
        let Some((reply, delay)) = answer else { continue };
        tokio::time::sleep(delay).await;
        stream.write_u16(u16::try_from(reply.len()).unwrap()).await?;
        stream.write_all(&reply).await?;
    }
}

fn reply(known: &mut Known, packet: &[u8], most: usize) -> Option<(Vec<u8>, Duration)> {
    let mut message = Message::from_vec(packet).ok()?;
    let query = message.queries.first()?.clone();
    let name = query.name().to_ascii().trim_end_matches('.').to_ascii_lowercase();
    let kind = query.query_type();
    known.asked.push(Asked { name: name.clone(), kind, id: message.metadata.id, at: Instant::now() });
    if known.silent_about_ipv4 && kind == RecordType::A {
        return None;
    }
    if known.silent.as_ref().is_some_and(|zone| name.ends_with(zone.as_str())) {
        return None;
    }
    match known.names.get(&name) {
        None => message.metadata.response_code = ResponseCode::NXDomain,
        Some(addresses) => {
            for address in addresses.iter().copied() {
                if address.is_ipv4() == (kind == RecordType::A) {
                    message.add_answer(Record::from_rdata(
                        query.name().clone(),
                        known.seconds_to_live,
                        RData::from(address),
                    ));
                }
            }
        }
    }
    let mut response = message.into_response();
    if response.to_vec().ok()?.len() > most {
        response.answers.clear();
        response.metadata.truncation = true;
    }
    Some((response.to_vec().ok()?, known.delay))
}
