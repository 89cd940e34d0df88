//! The handshake: a request for an upgrade, and what the answer to it must have. The header of the answer is the only thing that is read here,
//! and it is bounded; what came after it belongs to the messages.

use ::http::header::{HOST, USER_AGENT as USER_AGENT_HEADER};
use httparse::{EMPTY_HEADER, Header, Response, Status};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::WebSocketProber;
use crate::dial::broken;
use crate::kind::probe::{BoxedStream, USER_AGENT};
use crate::kind::{CallError, Probe, Reason};

/// The largest header of an answer, with those of interim responses before it.
pub(super) const MAX_HEADER: usize = 32 << 10;

/// The most lines of a header.
const MAX_LINES: usize = 100;

/// What is read at once.
const CHUNK: usize = 4 << 10;

/// The status of an accepted upgrade.
pub(super) const SWITCHING_PROTOCOLS: u16 = 101;

/// What the server answered.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct UpgradeAnswer {
    pub(super) status: u16,
    /// What an accepted upgrade is good for; with another status there is none.
    pub(super) upgrade: Option<Result<AgreedUpgrade, CallError>>,
    /// What was read beyond the header.
    pub(super) rest: Vec<u8>,
}

/// A connection for messages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AgreedUpgrade {
    /// What the server chose of the subprotocols that were asked for.
    pub subprotocol: Option<String>,
}

/// Asks for the upgrade, and reads the answer.
pub(super) async fn upgrade(
    prober: &WebSocketProber,
    probe: &Probe<'_>,
    stream: &mut BoxedStream,
) -> Result<UpgradeAnswer, CallError> {
    let key = generate_key();
    let asking = async {
        stream.write_all(&request(prober, probe, &key)).await?;
        stream.flush().await
    };
    asking.await.map_err(|error| {
        let error = broken(&error);
        CallError::new(error.reason, format!("the connection broke before the handshake: {}", error.message))
    })?;
    read_answer(stream, &key, &prober.subprotocols).await
}

/// The bytes of the request.
fn request(prober: &WebSocketProber, probe: &Probe<'_>, key: &str) -> Vec<u8> {
    let host = probe.headers.get(HOST).map_or(prober.authority.as_bytes(), |host| host.as_bytes());
    let mut request = Vec::with_capacity(512);
    let mut line = |name: &str, value: &[u8]| {
        request.extend_from_slice(name.as_bytes());
        request.extend_from_slice(value);
        request.extend_from_slice(b"\r\n");
    };
    line("GET ", format!("{} HTTP/1.1", prober.target).as_bytes());
    // The names are written as in RFC 6455: there are servers that compare them letter by letter.
    line("Host: ", host);
    line("Connection: ", b"Upgrade");
    line("Upgrade: ", b"websocket");
    line("Sec-WebSocket-Version: ", b"13");
    line("Sec-WebSocket-Key: ", key.as_bytes());
    if !prober.subprotocols.is_empty() {
        line("Sec-WebSocket-Protocol: ", prober.subprotocols.join(", ").as_bytes());
    }
    if let Some(origin) = &prober.origin {
        line("Origin: ", origin.as_bytes());
    }
    if !probe.headers.contains_key(USER_AGENT_HEADER) {
        line("User-Agent: ", USER_AGENT.as_bytes());
    }
    for (name, value) in probe.headers {
        if *name != HOST {
            line(&format!("{name}: "), value.as_bytes());
        }
    }
    line("", b"");
    request
}

/// Reads until the end of the header that is not one of an interim response.
async fn read_answer(
    stream: &mut BoxedStream,
    key: &str,
    subprotocols: &[String],
) -> Result<UpgradeAnswer, CallError> {
    let mut buffer = Vec::new();
    let (mut searched, mut skipped) = (0, 0);
    loop {
        if let Some(end) = header_end(&buffer, searched) {
            let rest = buffer.split_off(end);
            let answer = read_header(&buffer, key, subprotocols)?;
            if (100..200).contains(&answer.status) && answer.status != SWITCHING_PROTOCOLS {
                skipped += buffer.len();
                (buffer, searched) = (rest, 0);
                continue;
            }
            return Ok(UpgradeAnswer { rest, ..answer });
        }
        searched = buffer.len();
        if skipped + buffer.len() >= MAX_HEADER {
            return Err(too_large());
        }
        buffer.reserve(CHUNK);
        let read = stream.read_buf(&mut buffer).await.map_err(|error| {
            let error = broken(&error);
            CallError::new(error.reason, format!("the connection broke before the answer: {}", error.message))
        })?;
        if let Some(other) = other_protocol(&buffer) {
            return Err(CallError::new(Reason::Protocol, other));
        }
        if read == 0 {
            return Err(match buffer.len() {
                0 => CallError::new(Reason::Connect, "the server closed the connection before it had answered"),
                _ => CallError::new(Reason::Protocol, "the server closed the connection in the header of its answer"),
            });
        }
    }
}

/// Where the header ends. Its first `searched` bytes are known to have no end in them.
fn header_end(buffer: &[u8], searched: usize) -> Option<usize> {
    let from = searched.saturating_sub(3);
    let unsearched = buffer.get(from..)?;
    let end = unsearched.iter().enumerate().find_map(|(index, byte)| {
        let after = unsearched.get(index + 1..).filter(|_| *byte == b'\n')?;
        match after {
            [b'\n', ..] => Some(index + 2),
            [b'\r', b'\n', ..] => Some(index + 3),
            _ => None,
        }
    })?;
    Some(from + end)
}

/// What the first bytes show, if they are none of HTTP/1.
fn other_protocol(first: &[u8]) -> Option<&'static str> {
    match first {
        // An alert of TLS.
        [0x15, 3, ..] => Some("the server expects TLS: write wss:// in url"),
        _ if first.iter().zip(b"HTTP/1.").any(|(is, wanted)| is != wanted) => {
            Some("the server does not answer in HTTP/1.1: correct host and port in url")
        }
        _ => None,
    }
}

fn too_large() -> CallError {
    let message = format!("the header of the answer has more than {} KiB or {MAX_LINES} lines", MAX_HEADER >> 10);
    CallError::new(Reason::Limit, message)
}

/// The status in a whole header and, if it is 101, whether that is an upgrade.
fn read_header(header: &[u8], key: &str, subprotocols: &[String]) -> Result<UpgradeAnswer, CallError> {
    let mut lines = [EMPTY_HEADER; MAX_LINES];
    let mut response = Response::new(&mut lines);
    let status = match response.parse(header) {
        Ok(Status::Complete(_)) => response.code,
        Ok(Status::Partial) => None,
        Err(httparse::Error::TooManyHeaders) => return Err(too_large()),
        Err(error) => {
            let message = format!("the server did not answer in HTTP: {error}");
            return Err(CallError::new(Reason::Protocol, message));
        }
    };
    let status = status.ok_or_else(|| CallError::new(Reason::Protocol, "the server did not answer in HTTP"))?;
    let is_upgrade = status == SWITCHING_PROTOCOLS;
    let upgrade = is_upgrade.then(|| agreed(&AnswerLines(response.headers), key, subprotocols));
    Ok(UpgradeAnswer { status, upgrade, rest: Vec::new() })
}

/// The lines of a header.
struct AnswerLines<'h>(&'h [Header<'h>]);

impl AnswerLines<'_> {
    fn values(&self, name: &str) -> impl Iterator<Item = &[u8]> {
        self.0.iter().filter(move |line| line.name.eq_ignore_ascii_case(name)).map(|line| line.value.trim_ascii())
    }

    /// Whether `token` is in a list of tokens, whatever its case.
    fn has_token(&self, name: &str, token: &str) -> bool {
        let mut tokens = self.values(name).flat_map(|value| value.split(|byte| *byte == b','));
        tokens.any(|found| found.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
    }
}

/// Whether an answer with the status 101 is an upgrade as RFC 6455 has it, in section 4.1.
fn agreed(lines: &AnswerLines<'_>, key: &str, subprotocols: &[String]) -> Result<AgreedUpgrade, CallError> {
    let response = |message: &str| Err(CallError::new(Reason::Response, message));
    let protocol = |message: &str| Err(CallError::new(Reason::Protocol, message));
    if !lines.has_token("Upgrade", "websocket") {
        return response("the server answered 101 without Upgrade: websocket, so it has upgraded to something else");
    }
    if !lines.has_token("Connection", "upgrade") {
        return response("the server answered 101 without Connection: Upgrade, which a proxy may have removed");
    }
    let accept = derive_accept_key(key.as_bytes());
    let mut accepts = lines.values("Sec-WebSocket-Accept");
    match (accepts.next(), accepts.next()) {
        (Some(sent), None) if sent == accept.as_bytes() => {}
        (None, _) => return protocol("the answer has no Sec-WebSocket-Accept, so it is none of a WebSocket server"),
        _ => {
            return protocol(
                "the Sec-WebSocket-Accept of the answer does not belong to this handshake: the server has made a mistake, or a proxy has \
                 answered from its cache",
            );
        }
    }
    if lines.values("Sec-WebSocket-Extensions").any(|value| !value.is_empty()) {
        return protocol("the server chose an extension (Sec-WebSocket-Extensions), though none was asked for");
    }
    let mut chosen = lines.values("Sec-WebSocket-Protocol");
    match (chosen.next(), chosen.next()) {
        (None, _) if subprotocols.is_empty() => Ok(AgreedUpgrade::default()),
        (None, _) => response("the server chose none of websocket.subprotocols: write one that it speaks, or remove them"),
        (Some(one), None) => match subprotocols.iter().find(|asked| asked.as_bytes() == one) {
            Some(asked) => Ok(AgreedUpgrade { subprotocol: Some(asked.clone()) }),
            None if subprotocols.is_empty() => protocol(
                "the server chose a subprotocol (Sec-WebSocket-Protocol), though none was asked for: write it into websocket.subprotocols",
            ),
            None => protocol("the server chose a subprotocol (Sec-WebSocket-Protocol) that is none of websocket.subprotocols"),
        },
        (Some(_), Some(_)) => protocol("the server chose more than one subprotocol (Sec-WebSocket-Protocol)"),
    }
}

/// Reads the answer to a handshake with this key in which `a` and `b` were asked for, by which a fuzzer judges how it is read: the status, and
/// the upgrade if it is one.
pub fn read_handshake(header: &[u8], key: &str) -> Option<(u16, Option<AgreedUpgrade>)> {
    let end = header_end(header, 0)?;
    let subprotocols = ["a".to_owned(), "b".to_owned()];
    let answer = read_header(header.get(..end)?, key, &subprotocols).ok()?;
    Some((answer.status, answer.upgrade.and_then(Result::ok)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 6455.
    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
    const GOOD: &str = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n";

    fn judged(lines: &str, asked: &[&str]) -> Result<Option<String>, CallError> {
        let asked: Vec<String> = asked.iter().map(|name| (*name).to_owned()).collect();
        let header = format!("HTTP/1.1 101 Switching Protocols\r\n{lines}\r\n");
        let answer = read_header(header.as_bytes(), KEY, &asked).unwrap();
        assert_eq!(answer.status, 101);
        answer.upgrade.unwrap().map(|agreed| agreed.subprotocol)
    }

    #[test]
    fn an_upgrade_has_what_the_rfc_demands_in_any_spelling() {
        assert_eq!(judged(GOOD, &[]), Ok(None));
        let other = GOOD.replace("Upgrade: websocket", "upgrade: WebSocket").replace(": Upgrade", ": keep-alive, upgrade");
        assert_eq!(judged(&other, &[]), Ok(None));
        let with = |name: &str| format!("{GOOD}Sec-WebSocket-Protocol: {name}\r\n");
        assert_eq!(judged(&with("b"), &["a", "b"]), Ok(Some("b".to_owned())));
        for (lines, asked, reason, says) in [
            (GOOD.replace("websocket", "h2c"), &[][..], Reason::Response, "Upgrade: websocket"),
            (GOOD.replace("Connection: Upgrade", "Connection: close"), &[], Reason::Response, "Connection: Upgrade"),
            (GOOD.replace("s3pPLMBiTxaQ9kYGzzhZRbK", "AAAAAAAAAAAAAAAAAAAAAAA"), &[], Reason::Protocol, "Sec-WebSocket-Accept"),
            (GOOD.replace("Sec-WebSocket-Accept", "X-Accept"), &[], Reason::Protocol, "no Sec-WebSocket-Accept"),
            (format!("{GOOD}Sec-WebSocket-Extensions: permessage-deflate\r\n"), &[], Reason::Protocol, "extension"),
            (with("a"), &[], Reason::Protocol, "none was asked for"),
            (with("c"), &["a", "b"], Reason::Protocol, "none of websocket.subprotocols"),
            (with("A"), &["a", "b"], Reason::Protocol, "none of websocket.subprotocols"),
            (with("a, b"), &["a", "b"], Reason::Protocol, "none of websocket.subprotocols"),
            (format!("{}Sec-WebSocket-Protocol: b\r\n", with("a")), &["a", "b"], Reason::Protocol, "more than one"),
            (GOOD.to_owned(), &["a"], Reason::Response, "chose none of"),
        ] {
            let error = judged(&lines, asked).unwrap_err();
            assert_eq!(error.reason, reason, "{lines}");
            assert!(error.message.contains(says), "{}", error.message);
        }
    }

    async fn read(parts: &[&[u8]]) -> Result<(u16, Vec<u8>), CallError> {
        let (client, mut server) = tokio::io::duplex(1 << 20);
        let mut client: BoxedStream = Box::new(client);
        let sending = async {
            for part in parts {
                let _ = server.write_all(part).await; // the client may have read enough
                tokio::task::yield_now().await;
            }
            drop(server);
        };
        let (answer, ()) = tokio::join!(read_answer(&mut client, KEY, &[]), sending);
        answer.map(|answer| (answer.status, answer.rest))
    }

    #[tokio::test]
    async fn a_header_may_come_in_pieces_after_others_and_with_the_first_message() {
        let header = format!("HTTP/1.1 101 Switching Protocols\r\n{GOOD}\r\n");
        let early = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n";
        let whole = format!("{early}{header}\u{1}\u{2}");
        let bytes: Vec<&[u8]> = whole.as_bytes().chunks(1).collect();
        let (status, rest) = read(&bytes).await.unwrap();
        assert!(status == 101 && [1, 2].starts_with(&rest), "{rest:?}");
        assert_eq!(read(&[whole.as_bytes()]).await, Ok((101, vec![1, 2])));
        assert_eq!(read(&[b"HTTP/1.0 404 Not Found\n\nhtml"]).await, Ok((404, b"html".to_vec())));
    }

    #[tokio::test]
    async fn what_is_no_answer_is_told_apart() {
        let endless = [b"HTTP/1.1 101 Fine\r\nA: ", &vec![b'a'; MAX_HEADER][..]].concat();
        let interim = b"HTTP/1.1 102 Processing\r\n\r\n".repeat(MAX_HEADER / 16);
        let lines = [b"HTTP/1.1 101 Fine\r\n", &b"a: b\r\n".repeat(MAX_LINES + 1)[..], b"\r\n"].concat();
        for (sent, reason, says) in [
            (&b""[..], Reason::Connect, "before it had answered"),
            (b"HTTP/1.1 101 Sw", Reason::Protocol, "in the header"),
            (b"SSH-2.0-OpenSSH_9.2\r\n", Reason::Protocol, "HTTP/1.1"),
            (b"HTTP/2 101\r\n\r\n", Reason::Protocol, "HTTP/1.1"),
            (b"\x15\x03\x01\x00\x02\x02\x46", Reason::Protocol, "wss://"),
            (b"HTTP/1.1 1x1 a\r\n\r\n", Reason::Protocol, "HTTP"),
            (&endless, Reason::Limit, "32 KiB"),
            (&interim, Reason::Limit, "32 KiB"),
            (&lines, Reason::Limit, "100 lines"),
        ] {
            let error = read(&[sent]).await.unwrap_err();
            assert_eq!(error.reason, reason, "{}", error.message);
            assert!(error.message.contains(says), "{}", error.message);
        }
    }

    proptest::proptest! {
        #[test]
        fn no_answer_makes_it_panic_and_no_wrong_key_is_taken(lines in "(HTTP/1.1 101 \\PC{0,10}\r\n)?([A-Za-z-]{1,24}: ?\\PC{0,24}\r?\n){0,6}\r?\n") {
            let read = read_handshake(lines.as_bytes(), KEY);
            proptest::prop_assert!(read.is_none_or(|(_, upgrade)| upgrade.is_none()), "only the right key is accepted");
        }

        #[test]
        fn a_header_ends_where_it_ends_however_it_is_cut(bytes in proptest::collection::vec(proptest::sample::select(b"\r\nab".to_vec()), 0..24), searched in 0_usize..24) {
            let whole = header_end(&bytes, 0);
            let searched = searched.min(whole.unwrap_or(bytes.len()).saturating_sub(1));
            proptest::prop_assert_eq!(header_end(&bytes, searched), whole);
        }
    }
}
