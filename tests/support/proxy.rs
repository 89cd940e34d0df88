//! A proxy that makes tunnels by CONNECT, to one port of this machine whatever host is asked for, and remembers what it was asked.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part")]

use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// It runs until the test's process ends: a thread for each direction of each tunnel.
pub struct Proxy {
    /// `HOST:PORT` of this machine.
    pub address: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    /// A proxy that asks for this value of `Proxy-Authorization`, if for any.
    pub fn start(wanted: Option<&'static str>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let book = Arc::clone(&asked);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let book = Arc::clone(&book);
                std::thread::spawn(move || serve(client, wanted, &book));
            }
        });
        Self { address, asked }
    }

    /// The hosts and ports that tunnels were asked for so far.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

fn serve(mut client: TcpStream, wanted: Option<&str>, book: &Mutex<Vec<String>>) {
    let mut head = Vec::new();
    let mut lines = BufReader::new(client.try_clone().unwrap());
    loop {
        let mut line = String::new();
        match lines.read_line(&mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) if line == "\r\n" => break,
            Ok(_) => head.push(line.trim_end().to_owned()),
        }
    }
    let Some(authority) = head.first().and_then(|line| line.strip_prefix("CONNECT ")?.split(' ').next()) else {
        return;
    };
    book.lock().unwrap().push(authority.to_owned());
    let has = |value: &str| head.iter().any(|line| line.eq_ignore_ascii_case(&format!("proxy-authorization: {value}")));
    if wanted.is_some_and(|value| !has(value)) {
        let _ = client.write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\nconnection: close\r\n\r\n");
        return;
    }
    let port = authority.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).unwrap_or(0);
    let Ok(server) = TcpStream::connect(("127.0.0.1", port)) else { return };
    if client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").is_err() {
        return;
    }
    let (from, to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
    std::thread::spawn(move || copy(from, to));
    copy(server, client);
}

fn copy(mut from: TcpStream, mut to: TcpStream) {
    let _ = std::io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Write);
}
