//! A name server that answers what it is told, and is silent about a zone. It needs the port 53 of loopback: see `namespaces`.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part")]

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hickory_resolver::proto::op::{Message, ResponseCode};
use hickory_resolver::proto::rr::{RData, Record, RecordType};
use tokio::net::UdpSocket;
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
    delay: Duration,
    seconds_to_live: u32,
    asked: Vec<Asked>,
}

impl Default for Known {
    fn default() -> Self {
        let (names, asked) = (HashMap::new(), Vec::new());
        Self { names, silent: None, delay: Duration::ZERO, seconds_to_live: 86_400, asked }
    }
}

pub struct Dns {
    known: Arc<Mutex<Known>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Dns {
    pub async fn start() -> Self {
        let socket = Arc::new(UdpSocket::bind("127.0.0.1:53").await.unwrap());
        let known = Arc::<Mutex<Known>>::default();
        let table = Arc::clone(&known);
        let task = tokio::spawn(async move {
            let mut packet = [0; 4096];
            while let Ok((length, from)) = socket.recv_from(&mut packet).await {
                let Some((reply, delay)) = reply(&mut table.lock().unwrap(), &packet[..length]) else { continue };
                let socket = Arc::clone(&socket);
                tokio::spawn(async move {
                    tokio::time::sleep(delay).await;
                    let _ = socket.send_to(&reply, from).await;
                });
            }
        });
        Self { known, task }
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

fn reply(known: &mut Known, packet: &[u8]) -> Option<(Vec<u8>, Duration)> {
    let mut message = Message::from_vec(packet).ok()?;
    let query = message.queries.first()?.clone();
    let name = query.name().to_ascii().trim_end_matches('.').to_ascii_lowercase();
    let kind = query.query_type();
    known.asked.push(Asked { name: name.clone(), kind, id: message.metadata.id, at: Instant::now() });
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
    Some((message.into_response().to_vec().ok()?, known.delay))
}
