//! A server, with or without TLS, that does with each connection what a function says.

use std::fmt::Debug;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// Bytes in both directions.
pub trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Duplex for S {}

/// A connection of a client.
pub struct Conversation {
    pub stream: Box<dyn Duplex>,
    socket: socket2::Socket,
}

impl Conversation {
    fn new(stream: TcpStream) -> io::Result<Self> {
        let stream = stream.into_std()?;
        let socket = stream.try_clone()?.into();
        Ok(Self { stream: Box::new(TcpStream::from_std(stream)?), socket })
    }

    /// The same with TLS from here on, as after STARTTLS.
    pub async fn secured(self, tls: &Arc<ServerConfig>) -> io::Result<Self> {
        let stream = TlsAcceptor::from(Arc::clone(tls)).accept(self.stream).await?;
        Ok(Self { stream: Box::new(stream), socket: self.socket })
    }

    pub async fn say(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref()).await?;
        self.stream.flush().await
    }

    /// The next bytes up to and with the end of a line; an error where there are no more.
    pub async fn line(&mut self) -> io::Result<String> {
        self.until(b"\n").await
    }

    /// The next bytes up to and with these.
    pub async fn until(&mut self, end: &[u8]) -> io::Result<String> {
        let mut read = Vec::new();
        while !read.ends_with(end) {
            read.push(self.stream.read_u8().await?);
        }
        String::from_utf8(read).map_err(io::Error::other)
    }

    pub async fn bytes(&mut self, count: usize) -> io::Result<Vec<u8>> {
        let mut read = vec![0; count];
        self.stream.read_exact(&mut read).await?;
        Ok(read)
    }

    /// Says good-bye, and waits until the client has: what was sent cannot be lost to a reset.
    pub async fn end(mut self) -> io::Result<()> {
        self.stream.shutdown().await?;
        tokio::io::copy(&mut self.stream, &mut tokio::io::sink()).await?;
        Ok(())
    }

    /// Ends it with a reset.
    pub fn reset(self) -> io::Result<()> {
        self.socket.set_linger(Some(std::time::Duration::ZERO))
    }

    /// Waits for ever; the client is who ends it.
    pub async fn hang(self) -> io::Result<()> {
        std::future::pending().await
    }
}

/// The server.
pub struct Conversations {
    pub address: SocketAddr,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Conversations {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Conversations {
    /// On a free port of this address. What goes wrong with a client is the client's to tell.
    pub async fn start<H, F>(host: &str, tls: Option<Arc<ServerConfig>>, handle: H) -> Self
    where
        H: Fn(Conversation) -> F + Send + Sync + 'static,
        F: Future<Output = io::Result<()>> + Send + 'static,
    {
        let listener = TcpListener::bind((host, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let handle = Arc::new(handle);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (handle, tls) = (Arc::clone(&handle), tls.clone());
                tokio::spawn(async move {
                    let mut conversation = Conversation::new(stream)?;
                    if let Some(tls) = &tls {
                        conversation = conversation.secured(tls).await?;
                    }
                    handle(conversation).await
                });
            }
        });
        Self { address, task }
    }
}

impl Debug for Conversations {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.address.fmt(f)
    }
}
