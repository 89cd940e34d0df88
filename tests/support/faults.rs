//! Servers with one fault each, made for real on a socket.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// What the server does with every connection.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// Reads the request and says nothing.
    HangsBeforeTheAnswer,
    /// Sends a header and the start of the body, then nothing.
    HangsInTheBody,
    /// Sends a byte a second.
    Drips,
    /// Sends a body without end.
    Endless,
    /// Says that a body of 1 TiB follows.
    ClaimsATerabyte,
    /// Promises more bytes than it sends, then closes.
    PromisesTooMuch,
    /// Promises fewer bytes than it sends.
    PromisesTooLittle,
    /// A few KiB of gzip that hold 1 GiB of zeros.
    CompressedBomb,
    /// Gzip without end that holds nothing: one empty member after another.
    EmptyGzipMembers,
    /// The same in one member: one empty block after another.
    EmptyGzipBlocks,
    /// Says gzip, sends something else.
    BrokenGzip,
    /// Any answer, given as it stands.
    Says(&'static str),
    /// JSON in 10,000 levels.
    DeepJson,
    /// Closes with a reset after the request.
    Resets,
    /// Closes at once after the request.
    Closes,
    /// A header of 1 MiB.
    HugeHeader,
}

/// A server with a fault.
pub struct Faulty {
    pub address: SocketAddr,
    pub connections: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Faulty {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Faulty {
    pub async fn start(fault: Fault) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&connections);
        let bomb: Arc<[u8]> = if matches!(fault, Fault::CompressedBomb) { bomb() } else { Arc::new([]) };
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                counter.fetch_add(1, Ordering::Relaxed);
                let bomb = Arc::clone(&bomb);
                tokio::spawn(async move {
                    // A client that goes away in the middle is what these servers are for.
                    let _ = misbehave(stream, fault, &bomb).await;
                });
            }
        });
        Self { address, connections, task }
    }

    pub fn url(&self) -> String {
        format!("http://{}/", self.address)
    }
}

/// An address where nobody listens, nor will: its port is taken for as long as the tests run.
pub fn closed_port() -> String {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let url = format!("http://{}/", socket.local_addr().unwrap());
    std::mem::forget(socket);
    url
}

fn bomb() -> Arc<[u8]> {
    use std::io::Write;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    let zeros = vec![0_u8; 1 << 20];
    for _ in 0..64 {
        encoder.write_all(&zeros).unwrap();
    }
    encoder.finish().unwrap().into()
}

async fn misbehave(mut stream: TcpStream, fault: Fault, bomb: &[u8]) -> std::io::Result<()> {
    let mut request = [0_u8; 4096];
    while stream.read(&mut request).await? > 0 {
        match fault {
            Fault::HangsBeforeTheAnswer => std::future::pending().await,
            Fault::HangsInTheBody => {
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{\"version\":").await?;
                std::future::pending::<()>().await;
            }
            Fault::Drips => {
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n").await?;
                loop {
                    stream.write_all(b" ").await?;
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
            Fault::Endless => {
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n").await?;
                let spaces = vec![b' '; 1 << 16];
                loop {
                    stream.write_all(&spaces).await?;
                }
            }
            Fault::ClaimsATerabyte => {
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1099511627776\r\n\r\n{").await?;
                std::future::pending::<()>().await;
            }
            Fault::PromisesTooMuch => {
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{\"version\":\"1\"}").await?;
                return Ok(());
            }
            Fault::PromisesTooLittle => {
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n{\"version\":\"2024.1\"}").await?;
            }
            Fault::CompressedBomb => {
                let header =
                    format!("HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: {}\r\n\r\n", bomb.len());
                stream.write_all(header.as_bytes()).await?;
                stream.write_all(bomb).await?;
            }
            Fault::EmptyGzipMembers | Fault::EmptyGzipBlocks => {
                const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];
                let member = [&HEADER[..], &[3, 0], &[0; 8]].concat();
                let (first, more) = if matches!(fault, Fault::EmptyGzipMembers) {
                    (&[][..], &member[..])
                } else {
                    (&HEADER[..], &[0, 0, 0, 0xff, 0xff][..])
                };
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\n\r\n").await?;
                stream.write_all(first).await?;
                let many = more.repeat(4096);
                loop {
                    stream.write_all(&many).await?;
                }
            }
            Fault::BrokenGzip => {
                stream
                    .write_all(b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 8\r\n\r\nnot gzip")
                    .await?;
            }
            Fault::Says(answer) => {
                stream.write_all(answer.as_bytes()).await?;
            }
            Fault::DeepJson => {
                let body = "[".repeat(10_000) + &"]".repeat(10_000);
                let header = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len() + 6);
                stream.write_all(format!("{header}{{\"x\":{body}}}").as_bytes()).await?;
            }
            Fault::Resets => {
                stream.set_zero_linger()?;
                return Ok(());
            }
            Fault::Closes => return Ok(()),
            Fault::HugeHeader => {
                stream.write_all(b"HTTP/1.1 200 OK\r\nx-padding: ").await?;
                stream.write_all(&vec![b'x'; 1 << 20]).await?;
                stream.write_all(b"\r\ncontent-length: 2\r\n\r\n{}").await?;
            }
        }
    }
    Ok(())
}
