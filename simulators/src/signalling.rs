//! A simulated signalling server that speaks, over WebSocket, as Sora, the demo application of mediasoup, socket.io and Janus do. It can break
//! every rule of the protocol, for tests.

use std::sync::Arc;
use std::time::Duration;

use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role};
use tokio_util::sync::CancellationToken;

use super::{Mode, Simulated, Switch};

/// The longest header of a request.
const MAX_HEADER: u64 = 16 * 1024;

/// How long it waits for the header of a request.
const PATIENCE: Duration = Duration::from_secs(10);

/// Between two bytes of a server that is slow.
const DRIP: Duration = Duration::from_millis(20);

/// How the server breaks the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignallingFault {
    /// Answers with another `Sec-WebSocket-Accept` than the key asks for.
    WrongAccept,
    /// Answers 101 without `Upgrade`.
    NoUpgrade,
    /// Chooses a subprotocol that was not asked for.
    UnaskedSubprotocol,
    /// Chooses no subprotocol at all.
    NoSubprotocol,
    /// Chooses an extension.
    UnaskedExtension,
    /// Sends the answer byte by byte, and never its end.
    Trickle,
    /// Sends one message after another.
    Endless,
    /// Announces a frame of a tebibyte.
    HugeFrame,
    /// Sends fragments of a message without end, and with these many bytes each.
    EndlessFragments(usize),
    /// Sends masked frames.
    Masked,
    /// Sends a text message that is not UTF-8.
    InvalidUtf8,
    /// Sends a ping of over 125 bytes.
    LongControlFrame,
    /// Sends a compressed message.
    Compressed,
    /// Sends a frame of an unknown type.
    UnknownFrame,
    /// Sends pings without end.
    EndlessPings,
    /// Does not answer pings.
    NoPong,
    /// Answers pings with something else.
    WrongPong,
    /// Closes with this code.
    Close(u16),
    /// Ends the connection without a word.
    Drop,
    /// Does not answer a close frame.
    NoClose,
}

/// A signalling server. Its [`Mode`] means here: `Status` a refusal, `Hang` no answer, `Html` a page instead of an upgrade, `Empty` an upgrade
/// and no message after it, `Truncated` half of an answer.
#[derive(Clone, Debug, Default)]
pub struct Signalling {
    switch: Switch,
    fault: Option<SignallingFault>,
    /// What it accepts as the header `Authorization`; anything if there is none.
    authorization: Option<Arc<str>>,
}

/// A request for an upgrade.
struct UpgradeRequest {
    path: String,
    query: String,
    headers: Vec<(String, String)>,
}

impl UpgradeRequest {
    async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Option<Self> {
        let mut head = Vec::new();
        let mut limited = stream.take(MAX_HEADER);
        while !head.ends_with(b"\r\n\r\n") {
            head.push(limited.read_u8().await.ok()?);
        }
        let head = String::from_utf8(head).ok()?;
        let mut lines = head.trim_end().lines();
        let target = lines.next()?.split(' ').nth(1)?;
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let headers = lines.filter_map(|line| line.split_once(':'));
        let headers = headers.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned())).collect();
        Some(Self { path: path.to_owned(), query: query.to_owned(), headers })
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str())
    }

    fn asks_for(&self, subprotocol: &str) -> bool {
        let asked = self.header("sec-websocket-protocol").unwrap_or_default();
        asked.split(',').any(|name| name.trim() == subprotocol)
    }

    fn has_parameter(&self, name: &str) -> bool {
        self.query
            .split('&')
            .any(|pair| pair.split_once('=').is_some_and(|(own, value)| own == name && !value.is_empty()))
    }
}

/// As which application it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dialect {
    Sora,
    Protoo,
    SocketIo,
    Janus,
}

impl Dialect {
    /// The one that a request is meant for, with its subprotocol; the status of a refusal if it lacks what that wants.
    fn of(request: &UpgradeRequest) -> Result<(Self, Option<&'static str>), u16> {
        match request.path.as_str() {
            "/signaling" => Ok((Self::Sora, None)),
            "/socket.io/" if request.query.contains("transport=websocket") => Ok((Self::SocketIo, None)),
            "/socket.io/" => Err(400),
            _ if request.asks_for("janus-protocol") => Ok((Self::Janus, Some("janus-protocol"))),
            _ if !request.asks_for("protoo") => Err(403),
            _ if request.has_parameter("roomId") && request.has_parameter("peerId") => {
                Ok((Self::Protoo, Some("protoo")))
            }
            _ => Err(400),
        }
    }

    /// What it says first.
    fn greeting(self) -> Option<String> {
        match self {
            Self::Sora | Self::Janus => None,
            Self::Protoo => {
                let data = json!({ "version": "3.19.0" });
                Some(json!({ "notification": true, "method": "mediasoup-version", "data": data }).to_string())
            }
            // In the order of a real one, which people compare it with.
            Self::SocketIo => {
                Some(r#"0{"sid":"yR2vTOJz0000","upgrades":[],"pingInterval":25000,"pingTimeout":20000}"#.to_owned())
            }
        }
    }

    /// What it answers to a message, if anything.
    fn answer(self, message: &str) -> Option<String> {
        if self == Self::SocketIo {
            return (message == "40").then(|| r#"40{"sid":"wgaXTMhd0001"}"#.to_owned());
        }
        let message: Value = serde_json::from_str(message).ok()?;
        let is = |field: &str, word: &str| message.get(field).and_then(Value::as_str) == Some(word);
        match self {
            Self::Sora if is("type", "connect") => {
                Some(json!({ "type": "offer", "sdp": "v=0\r\n", "version": "2025.1.0" }).to_string())
            }
            Self::Protoo if is("method", "getRouterRtpCapabilities") => {
                let data = json!({ "codecs": [] });
                Some(json!({ "response": true, "id": message.get("id"), "ok": true, "data": data }).to_string())
            }
            Self::Janus if is("janus", "ping") => {
                Some(json!({ "janus": "pong", "transaction": message.get("transaction") }).to_string())
            }
            _ => None,
        }
    }
}

impl Signalling {
    /// The same with a fault.
    #[must_use]
    pub const fn with(mut self, fault: SignallingFault) -> Self {
        self.fault = Some(fault);
        self
    }

    /// The same that refuses whoever has not this header `Authorization`.
    #[must_use]
    pub fn guarded(mut self, authorization: &str) -> Self {
        self.authorization = Some(authorization.into());
        self
    }

    /// The switch of its mode.
    pub const fn switch(&self) -> &Switch {
        &self.switch
    }

    /// Serves it on an open listener.
    pub fn on(&self, listener: TcpListener) -> std::io::Result<Simulated> {
        let address = listener.local_addr()?;
        let stop = CancellationToken::new();
        let (stopped, server) = (stop.clone(), self.clone());
        tokio::spawn(stopped.clone().run_until_cancelled_owned(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else {
                    // Too many open files, for instance.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                };
                let server = server.clone();
                let serve = async move { server.serve(stream).await };
                tokio::spawn(stopped.clone().run_until_cancelled_owned(serve));
            }
        }));
        Ok(Simulated { address, stop })
    }

    /// Serves one connection. What a client does wrong ends it.
    pub async fn serve<S: AsyncRead + AsyncWrite + Unpin + Send>(&self, mut stream: S) {
        if let Ok(Some(request)) = tokio::time::timeout(PATIENCE, UpgradeRequest::read(&mut stream)).await {
            // A client that goes away is no error of a server.
            let _ = self.answer(&mut stream, &request).await;
            let _ = stream.shutdown().await;
        }
    }

    async fn answer<S: AsyncRead + AsyncWrite + Unpin + Send>(
        &self,
        stream: &mut S,
        request: &UpgradeRequest,
    ) -> std::io::Result<()> {
        let mode = self.switch.get();
        let refused = match mode {
            Mode::Status(status) => Some(status),
            Mode::Html => Some(200),
            Mode::Hang => std::future::pending().await,
            Mode::Healthy | Mode::Empty | Mode::Truncated => {
                let is_welcome =
                    self.authorization.is_none() || self.authorization.as_deref() == request.header("authorization");
                (!is_welcome).then_some(401)
            }
        };
        let (Some(key), None) = (request.header("sec-websocket-key"), refused) else {
            return refuse(stream, refused.unwrap_or(400)).await;
        };
        let (dialect, subprotocol) = match Dialect::of(request) {
            Ok(found) => found,
            Err(status) => return refuse(stream, status).await,
        };
        let answer = self.handshake(key, subprotocol);
        if mode == Mode::Truncated {
            return stream.write_all(answer.as_bytes().get(..answer.len() / 2).unwrap_or_default()).await;
        }
        if self.fault == Some(SignallingFault::Trickle) {
            for byte in answer.as_bytes().iter().cycle() {
                if *byte != b'\n' {
                    stream.write_all(&[*byte]).await?;
                    stream.flush().await?;
                    tokio::time::sleep(DRIP).await;
                }
            }
        }
        stream.write_all(answer.as_bytes()).await?;
        stream.flush().await?;
        if mode == Mode::Empty {
            return ignore(stream).await;
        }
        match self.fault {
            Some(fault) => self.misbehave(stream, fault, dialect).await,
            None => talk(stream, dialect, None).await,
        }
    }

    fn handshake(&self, key: &str, subprotocol: Option<&str>) -> String {
        use SignallingFault as Fault;
        let key = if self.fault == Some(Fault::WrongAccept) { "another" } else { key };
        let mut lines = vec!["HTTP/1.1 101 Switching Protocols".to_owned(), "Connection: Upgrade".to_owned()];
        if self.fault != Some(Fault::NoUpgrade) {
            lines.push("Upgrade: websocket".to_owned());
        }
        lines.push(format!("Sec-WebSocket-Accept: {}", derive_accept_key(key.as_bytes())));
        if self.fault == Some(Fault::UnaskedExtension) {
            lines.push("Sec-WebSocket-Extensions: permessage-deflate".to_owned());
        }
        let subprotocol = match self.fault {
            Some(Fault::UnaskedSubprotocol) => Some("chat"),
            Some(Fault::NoSubprotocol) => None,
            _ => subprotocol,
        };
        lines.extend(subprotocol.map(|name| format!("Sec-WebSocket-Protocol: {name}")));
        lines.join("\r\n") + "\r\n\r\n"
    }

    async fn misbehave<S: AsyncRead + AsyncWrite + Unpin + Send>(
        &self,
        stream: &mut S,
        fault: SignallingFault,
        dialect: Dialect,
    ) -> std::io::Result<()> {
        const FINAL: u8 = 0x80;
        const COMPRESSED: u8 = 0x40;
        const TEXT: u8 = 1;
        const PING: u8 = 9;
        use SignallingFault as Fault;
        let once = match fault {
            Fault::Endless => {
                let many = frame(FINAL | TEXT, &[b'a'; 1000]).repeat(32);
                loop {
                    stream.write_all(&many).await?;
                }
            }
            Fault::EndlessPings => {
                let many = frame(FINAL | PING, b"").repeat(32);
                loop {
                    stream.write_all(&many).await?;
                }
            }
            Fault::EndlessFragments(bytes) => {
                stream.write_all(&frame(TEXT, b"a")).await?;
                let many = frame(0, &vec![b'a'; bytes]).repeat(32);
                loop {
                    stream.write_all(&many).await?;
                }
            }
            Fault::HugeFrame => [&[FINAL | TEXT, 127][..], &(1_u64 << 40).to_be_bytes(), b"aaaa"].concat(),
            Fault::Masked => vec![FINAL | TEXT, FINAL | 1, 0, 0, 0, 0, b'a'],
            Fault::InvalidUtf8 => frame(FINAL | TEXT, b"\xc3("),
            Fault::LongControlFrame => frame(FINAL | PING, &[b'a'; 126]),
            Fault::Compressed => frame(FINAL | COMPRESSED | TEXT, &[0xca, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00]),
            Fault::UnknownFrame => frame(FINAL | 3, b"a"),
            Fault::Drop => return Ok(()),
            Fault::Close(_) | Fault::NoPong | Fault::WrongPong | Fault::NoClose => {
                return talk(stream, dialect, Some(fault)).await;
            }
            // The handshake was wrong already.
            _ => Vec::new(),
        };
        stream.write_all(&once).await?;
        stream.flush().await?;
        ignore(stream).await
    }
}

/// A frame of a server.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match u16::try_from(payload.len()) {
        Ok(short @ 0..=125) => frame.push(short.to_be_bytes()[1]),
        Ok(length) => {
            frame.push(126);
            frame.extend_from_slice(&length.to_be_bytes());
        }
        Err(_) => {
            frame.push(127);
            frame.extend_from_slice(&(payload.len() as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(payload);
    frame
}

async fn refuse(stream: &mut (impl AsyncWrite + Unpin), status: u16) -> std::io::Result<()> {
    let page = "<!DOCTYPE html><title>No signalling here</title>\n";
    let header = format!(
        "HTTP/1.1 {status} Refused\r\nContent-Type: text/html\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        page.len()
    );
    stream.write_all((header + page).as_bytes()).await?;
    stream.flush().await
}

/// Reads, and says nothing, until the client ends the connection.
async fn ignore(stream: &mut (impl AsyncRead + Unpin)) -> std::io::Result<()> {
    let mut ignored = [0; 512];
    while stream.read(&mut ignored).await? > 0 {}
    Ok(())
}

/// A conversation by the rules, but for one fault.
async fn talk<S: AsyncRead + AsyncWrite + Unpin + Send>(
    stream: &mut S,
    dialect: Dialect,
    fault: Option<SignallingFault>,
) -> std::io::Result<()> {
    if matches!(fault, Some(SignallingFault::NoPong | SignallingFault::NoClose | SignallingFault::WrongPong)) {
        if let Some(greeting) = dialect.greeting() {
            stream.write_all(&frame(0x81, greeting.as_bytes())).await?;
        }
        if fault == Some(SignallingFault::WrongPong) {
            stream.write_all(&frame(0x8a, b"another")).await?;
        }
        stream.flush().await?;
        return ignore(stream).await;
    }
    let mut socket = WebSocketStream::from_raw_socket(stream, Role::Server, None).await;
    if let Some(SignallingFault::Close(code)) = fault {
        let reason = "the room is closed".into();
        let _ = socket.close(Some(CloseFrame { code: CloseCode::from(code), reason })).await;
        while let Some(Ok(_)) = socket.next().await {}
        return Ok(());
    }
    if let Some(greeting) = dialect.greeting() {
        socket.send(Message::text(greeting)).await.map_err(std::io::Error::other)?;
    }
    // Pings and close frames are answered while it reads.
    while let Some(Ok(message)) = socket.next().await {
        if let Message::Text(text) = message
            && let Some(answer) = dialect.answer(&text)
        {
            socket.send(Message::text(answer)).await.map_err(std::io::Error::other)?;
        }
    }
    Ok(())
}
