//! Rows of the prober for HTTP: what a server says, and how it breaks off.

use std::io;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::sync::Arc;

use rustls::ServerConfig;

use super::row::Row;
use crate::support::conversation::{Conversation, Conversations};
use crate::support::scripted::Blackhole;

pub struct Servers {
    plain: Conversations,
    secure: Conversations,
    hole: Blackhole,
    /// `http://ADDRESS/` where nobody listens.
    closed: String,
}

impl Servers {
    pub async fn start(tls: Arc<ServerConfig>) -> Self {
        let secure = Conversations::start("127.0.0.1", Some(tls), |client| serve(client, String::new())).await;
        let other = format!("https://localhost:{}", secure.address.port());
        let plain = Conversations::start("127.0.0.1", None, move |client| serve(client, other.clone())).await;
        let closed = crate::support::faults::closed_port();
        Self { plain, secure, hole: Blackhole::start(Ipv4Addr::LOCALHOST), closed }
    }
}

/// What all compressed bodies say.
const TEXT: &str =
    "hello, compressed world; hello, compressed world; hello, compressed world; hello, compressed world; ";

/// The same in brotli.
const BROTLI: [u8; 31] = [
    0x1b, 0x63, 0x00, 0x20, 0x8c, 0x94, 0xa9, 0xe3, 0x5b, 0x83, 0x8c, 0xa1, 0xb5, 0xa9, 0x9d, 0xb7, 0x1c, 0xa4, 0x13,
    0xcc, 0xd2, 0x42, 0x42, 0x59, 0x5a, 0xf3, 0x2d, 0x05, 0x26, 0xc8, 0x00,
];

fn gzip() -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(TEXT.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

fn deflate() -> Vec<u8> {
    let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(TEXT.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

fn answer(status: &str, headers: &str, body: impl AsRef<[u8]>) -> Vec<u8> {
    let length = body.as_ref().len();
    let head = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n{headers}\r\n");
    [head.as_bytes(), body.as_ref()].concat()
}

/// Answers one request as its path says. `other` is the beginning of the URLs of a server on another host.
async fn serve(mut client: Conversation, other: String) -> io::Result<()> {
    let head = client.until(b"\r\n\r\n").await?;
    let header = |name: &str| {
        let lines = head.lines().skip(1).filter_map(|line| line.split_once(": "));
        lines.filter(|(is, _)| is.eq_ignore_ascii_case(name)).map(|(_, value)| value).next()
    };
    let length = header("content-length").map_or(0, |length| length.parse().unwrap());
    let body = String::from_utf8(client.bytes(length).await?).unwrap();
    let mut words = head.split(' ');
    let (method, path) = (words.next().unwrap(), words.next().unwrap());
    let ok = |headers: &str, body: &[u8]| answer("200 OK", headers, body);
    let to = |status: &str, place: &str| answer(status, &format!("location: {place}\r\n"), "elsewhere");
    let parts: Vec<&str> = path[1..].split('/').collect();
    let bytes = match parts[..] {
        ["" | "old"] => ok("content-type: text/plain\r\n", b"hello, world"),
        ["status", code] => answer(&format!("{code} As Asked"), "", "as asked"),
        ["no-body", code] => format!("HTTP/1.1 {code} As Asked\r\nconnection: close\r\n\r\n").into_bytes(),
        ["hangs"] => return client.hang().await,
        ["hangs-in-the-head"] => {
            client.say("HTTP/1.1 200 OK\r\nx-first: 1\r\n").await?;
            return client.hang().await;
        }
        ["hangs-in-the-body"] => {
            client.say("HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nhello").await?;
            return client.hang().await;
        }
        ["closes"] => return client.end().await,
        ["resets"] => return client.reset(),
        ["resets-in-the-body"] => {
            client.say("HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nhello").await?;
            return client.reset();
        }
        ["breaks-off"] => b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nhello".to_vec(),
        ["says-more"] => b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello, world".to_vec(),
        ["bad-length"] => b"HTTP/1.1 200 OK\r\ncontent-length: many\r\n\r\nhello".to_vec(),
        ["two-lengths"] => b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello!".to_vec(),
        ["until-the-end"] => b"HTTP/1.1 200 OK\r\n\r\nhello, world".to_vec(),
        ["chunks"] => {
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n7\r\n, world\r\n0\r\n\r\n".to_vec()
        }
        ["chunks-break-off"] => {
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n7\r\n, wo".to_vec()
        }
        ["bad-chunks"] => b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nhello\r\n".to_vec(),
        ["http10"] => b"HTTP/1.0 200 OK\r\ncontent-length: 5\r\n\r\nhello".to_vec(),
        ["http09"] => b"hello, world".to_vec(),
        ["another-protocol"] => b"SSH-2.0-OpenSSH_9.2\r\n".to_vec(),
        ["bad-status"] => b"HTTP/1.1 fine OK\r\n\r\n".to_vec(),
        ["hints"] => [&b"HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\n"[..], &ok("", b"hello")].concat(),
        ["gzip"] => ok("content-encoding: gzip\r\n", &gzip()),
        ["deflate"] => ok("content-encoding: deflate\r\n", &deflate()),
        ["br"] => ok("content-encoding: br\r\n", &BROTLI),
        ["identity"] => ok("content-encoding: identity\r\n", TEXT.as_bytes()),
        ["not-gzip"] => ok("content-encoding: gzip\r\n", b"this is no gzip at all"),
        ["half-gzip"] => ok("content-encoding: gzip\r\n", &gzip()[..20]),
        ["text"] => ok("", TEXT.as_bytes()),
        ["two-headers"] => ok("x-word: one\r\nx-word: two\r\nx-empty:\r\n", b"hello"),
        ["last-modified"] => ok("last-modified: Wed, 21 Oct 2015 07:28:00 GMT\r\n", b"hello"),
        ["last-modified-in-words"] => ok("last-modified: yesterday\r\n", b"hello"),
        ["found", ..] if parts.len() > 1 => to("302 Found", &format!("/{}", parts[1..].join("/"))),
        ["moved", ..] if parts.len() > 1 => to("301 Moved", &format!("/{}", parts[1..].join("/"))),
        ["see-other", ..] if parts.len() > 1 => to("303 See Other", &format!("/{}", parts[1..].join("/"))),
        ["same-again", ..] if parts.len() > 1 => to("307 Same Again", &format!("/{}", parts[1..].join("/"))),
        ["for-ever", ..] if parts.len() > 1 => to("308 For Ever", &format!("/{}", parts[1..].join("/"))),
        ["relative"] => to("302 Found", "old"),
        ["round-and-round"] => to("302 Found", "/round-and-round"),
        ["nowhere"] => answer("302 Found", "", "elsewhere"),
        ["bad-place"] => to("302 Found", "http://[nonsense/"),
        ["other-scheme"] => to("302 Found", "ftp://localhost/"),
        ["other-host", ..] => to("302 Found", &format!("{other}/{}", parts[1..].join("/"))),
        ["steps", left] => match left.parse::<u32>().unwrap() {
            0 => ok("", b"arrived"),
            left => to("302 Found", &format!("/steps/{}", left - 1)),
        },
        ["method"] => ok(&format!("x-method: {method}\r\n"), format!("{method} [{body}]").as_bytes()),
        ["host"] => ok("", format!("host=[{}]", header("host").unwrap_or_default()).as_bytes()),
        ["agent"] => ok("", format!("agent=[{}]", header("user-agent").unwrap_or_default()).as_bytes()),
        ["accept"] => ok("", format!("accept=[{:?} {:?}]", header("accept"), header("accept-encoding")).as_bytes()),
        ["referer"] => ok("", format!("referer=[{:?}]", header("referer").is_some()).as_bytes()),
        ["connection"] => ok("", format!("connection=[{:?}]", header("connection")).as_bytes()),
        ["word"] => ok("", format!("word=[{:?}]", header("x-word")).as_bytes()),
        ["authorization"] => match header("authorization") {
            Some("Basic YWxpY2U6czNjcmV0" | "Bearer t0ken") => ok("", b"welcome"),
            _ => answer("401 Unauthorized", "www-authenticate: Basic realm=\"tests\"\r\n", "who are you"),
        },
        ["takes-a-cookie"] => answer("302 Found", "set-cookie: session=1; Path=/\r\nlocation: /wants-a-cookie\r\n", ""),
        ["wants-a-cookie"] if header("cookie") == Some("session=1") => ok("", b"welcome back"),
        _ => answer("404 Not Found", "", "there is no such thing"),
    };
    if method == "HEAD" {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
        client.say(&bytes[..end + 4]).await?;
    } else {
        client.say(bytes).await?;
    }
    client.end().await
}

impl Servers {
    fn row(&self, name: &str, path: &str, options: &str) -> Row {
        let url = format!("http://{}/{path}", self.plain.address);
        Row::new(&format!("http-{name}"), "http", &url, options)
    }

    fn over_tls(&self, name: &str, path: &str, options: &str) -> Row {
        let separator = if options.is_empty() { "" } else { ", " };
        let options = format!("tls_config: {{ ca_file: root.pem }}{separator}{options}");
        Row::new(&format!("https-{name}"), "http", &format!("https://{}/{path}", self.secure.address), &options)
    }
}

pub fn rows(servers: &Servers) -> Vec<Row> {
    let port = servers.secure.address.port();
    let to_localhost = format!("https://localhost:{port}/host");
    let host =
        format!("tls_config: {{ ca_file: root.pem }}, fail_if_body_not_matches_regexp: ['host=.localhost:{port}.']");
    let good = vec![
        servers.row("good", "", ""),
        servers.over_tls("good", "", ""),
        Row::new("https-by-name", "http", &to_localhost, &host),
    ];
    let others = [no_answer, lengths, judged, compressed, sent, redirected, secured];
    good.into_iter().chain(others.iter().flat_map(|rows| rows(servers))).collect()
}

/// What a server breaks off, or does not say at all.
fn no_answer(servers: &Servers) -> Vec<Row> {
    let row = |name: &str, path: &str, options: &str| servers.row(name, path, options);
    let over_tls = |name: &str, path: &str, options: &str| servers.over_tls(name, path, options);
    vec![
        Row::new("http-refused", "http", &servers.closed, "").fails("connect"),
        Row::new("http-black-hole", "http", &format!("http://{}/", servers.hole.address), "").times_out(),
        row("hangs", "hangs", "").times_out(),
        row("hangs-in-the-head", "hangs-in-the-head", "").times_out().differs("processing without an answer"),
        row("hangs-in-the-body", "hangs-in-the-body", "").times_out(),
        over_tls("hangs", "hangs", "").times_out().differs("no answer over TLS"),
        row("closes", "closes", "").fails("connect"),
        over_tls("closes", "closes", "").fails("connect").differs("no answer over TLS"),
        row("resets", "resets", "").fails("connect"),
        row("resets-in-the-body", "resets-in-the-body", "").fails("body"),
        row("breaks-off", "breaks-off", "").fails("body"),
        row("chunks-break-off", "chunks-break-off", "").fails("body"),
        row("bad-chunks", "bad-chunks", "").fails("body"),
        row("bad-length", "bad-length", "").fails("protocol").differs("processing without an answer"),
        row("two-lengths", "two-lengths", "").fails("protocol").differs("processing without an answer"),
        row("http09", "http09", "").fails("protocol").differs("processing without an answer"),
        row("another-protocol", "another-protocol", "").fails("protocol").differs("processing without an answer"),
        row("bad-status", "bad-status", "").fails("protocol").differs("processing without an answer"),
        Row::new("http-tls-server", "http", &format!("http://{}/", servers.secure.address), "")
            .fails("protocol")
            .differs("processing without an answer"),
    ]
}

/// Length and form of the body.
fn lengths(servers: &Servers) -> Vec<Row> {
    let row = |name: &str, path: &str, options: &str| servers.row(name, path, options);
    vec![
        row("says-more", "says-more", ""),
        row("until-the-end", "until-the-end", ""),
        row("chunks", "chunks", ""),
        row("http10", "http10", ""),
        row("hints", "hints", ""),
        row("no-content", "no-body/204", ""),
        row("not-modified", "no-body/304", "valid_status_codes: [304]"),
        row("head", "", "method: HEAD"),
        row("head-with-rule", "", "method: HEAD, fail_if_body_not_matches_regexp: [hello]").fails("match"),
        row("limit-kept", "", "body_size_limit: 12B"),
        row("limit-passed", "", "body_size_limit: 11B").fails("limit"),
        row("limit-passed-by-chunks", "chunks", "body_size_limit: 11B").fails("limit"),
        row("limit-of-gzip-kept", "gzip", "compression: gzip, body_size_limit: 100B"),
        row("limit-of-gzip-passed", "gzip", "compression: gzip, body_size_limit: 99B").fails("limit"),
    ]
}

/// What is made of the status, the version, the headers and the body.
fn judged(servers: &Servers) -> Vec<Row> {
    let row = |name: &str, path: &str, options: &str| servers.row(name, path, options);
    vec![
        // Status.
        row("status-not-found", "status/404", "").fails("http_status"),
        row("status-unavailable", "status/503", "").fails("http_status"),
        row("status-of-299", "status/299", ""),
        row("status-wanted", "status/404", "valid_status_codes: [404, 410]"),
        row("status-not-wanted", "", "valid_status_codes: [404]").fails("http_status"),
        row("status-with-rules", "status/404", "fail_if_body_not_matches_regexp: [nothing]").fails("http_status"),
        // Versions.
        row("version-wanted", "", "valid_http_versions: ['HTTP/1.1']"),
        row("version-one-of", "", "valid_http_versions: ['HTTP/2.0', 'HTTP/1.1']"),
        row("version-not-wanted", "", "valid_http_versions: ['HTTP/2.0']").fails("response"),
        row("version-of-http10", "http10", "valid_http_versions: ['HTTP/1.0']"),
        // What the body and the headers say.
        row("body-matches", "", "fail_if_body_matches_regexp: [world]").fails("match"),
        row("body-matches-one-of", "", "fail_if_body_matches_regexp: [moon, world]").fails("match"),
        row("body-matches-none", "", "fail_if_body_matches_regexp: [moon]"),
        row("body-has", "", "fail_if_body_not_matches_regexp: ['^hello', 'd$']"),
        row("body-lacks", "", "fail_if_body_not_matches_regexp: [hello, moon]").fails("match"),
        row("body-ignores-case", "", "fail_if_body_not_matches_regexp: ['(?i)HELLO']"),
        row("body-of-chunks", "chunks", "fail_if_body_not_matches_regexp: ['^hello, world$']"),
        row("header-matches", "two-headers", "fail_if_header_matches: [{ header: X-Word, regexp: two }]")
            .fails("match"),
        row("header-matches-not", "two-headers", "fail_if_header_matches: [{ header: X-Word, regexp: three }]"),
        row("header-has", "two-headers", "fail_if_header_not_matches: [{ header: X-Word, regexp: two }]"),
        row("header-lacks", "two-headers", "fail_if_header_not_matches: [{ header: X-Word, regexp: three }]")
            .fails("match"),
        row("header-empty", "two-headers", "fail_if_header_not_matches: [{ header: x-empty, regexp: '^$' }]"),
        row("header-missing", "", "fail_if_header_matches: [{ header: X-Word, regexp: two }]").fails("match"),
        row(
            "header-may-be-missing",
            "",
            "fail_if_header_matches: [{ header: X-Word, regexp: two, allow_missing: true }]",
        ),
        row("header-must-be-there", "", "fail_if_header_not_matches: [{ header: X-Word, regexp: two }]").fails("match"),
        row(
            "header-need-not-be-there",
            "",
            "fail_if_header_not_matches: [{ header: X-Word, regexp: two, allow_missing: true }]",
        ),
        row("header-rules-of-a-failure", "status/500", "fail_if_header_not_matches: [{ header: X-Word, regexp: two }]")
            .fails("http_status"),
        row("last-modified", "last-modified", ""),
        row("last-modified-in-words", "last-modified-in-words", ""),
    ]
}

/// Bodies that are compressed, or should be.
fn compressed(servers: &Servers) -> Vec<Row> {
    let row = |name: &str, path: &str, options: &str| servers.row(name, path, options);
    vec![
        row("gzip", "gzip", "compression: gzip, fail_if_body_not_matches_regexp: ['^hello, compressed']"),
        row("deflate", "deflate", "compression: deflate, fail_if_body_not_matches_regexp: ['^hello, compressed']"),
        row("br", "br", "compression: br, fail_if_body_not_matches_regexp: ['^hello, compressed']"),
        row("identity", "identity", "compression: identity, fail_if_body_not_matches_regexp: ['^hello, compressed']"),
        row("gzip-that-is-not", "text", "compression: gzip").fails("body"),
        row("gzip-that-is-br", "br", "compression: gzip").fails("body"),
        row("gzip-broken", "not-gzip", "compression: gzip").fails("body"),
        row("gzip-half", "half-gzip", "compression: gzip").fails("body"),
        row("gzip-as-it-comes", "gzip", ""),
        row("gzip-asked-for", "gzip", "compression: gzip, headers: { Accept-Encoding: 'br;q=0.5, gzip;q=0.9' }"),
        row("identity-that-is-gzip", "gzip", "compression: identity"),
    ]
}

/// What is sent.
fn sent(servers: &Servers) -> Vec<Row> {
    let row = |name: &str, path: &str, options: &str| servers.row(name, path, options);
    vec![
        row("post", "method", "method: POST, body: 'a=1', fail_if_body_not_matches_regexp: ['^POST .a=1.$']"),
        row("put-nothing", "method", "method: PUT, fail_if_body_not_matches_regexp: ['^PUT ..$']"),
        row("get-with-body", "method", "body: 'a=1', fail_if_body_not_matches_regexp: ['^GET .a=1.$']"),
        row("word", "word", "headers: { X-Word: abc }, fail_if_body_not_matches_regexp: [abc]"),
        row("agent-of-ours", "agent", "headers: { User-Agent: me }, fail_if_body_not_matches_regexp: ['agent=.me.']"),
        row("accept-nothing", "accept", "fail_if_body_not_matches_regexp: ['accept=.None None.']"),
        row("connection", "connection", "fail_if_body_not_matches_regexp: ['connection=.Some..close..']"),
        row("host", "host", "headers: { Host: 'www.test' }, fail_if_body_not_matches_regexp: ['host=.www.test.']"),
        row("host-with-port", "host", "fail_if_body_not_matches_regexp: ['host=.127.0.0.1:[0-9]+.']"),
        row("basic", "authorization", "basic_auth: { username: alice, password: s3cret }"),
        row("basic-wrong", "authorization", "basic_auth: { username: alice, password: secret }").fails("auth"),
        row("bearer", "authorization", "bearer_token: t0ken"),
        row("bearer-wrong", "authorization", "bearer_token: token").fails("auth"),
        row("no-credentials", "authorization", "").fails("auth"),
    ]
}

/// Where a server leads to.
fn redirected(servers: &Servers) -> Vec<Row> {
    let row = |name: &str, path: &str, options: &str| servers.row(name, path, options);
    vec![
        row("found", "found/old", "fail_if_body_not_matches_regexp: [hello]"),
        row("moved", "moved/old", ""),
        row("relative", "relative", "fail_if_body_not_matches_regexp: [hello]"),
        row("not-followed", "found/old", "follow_redirects: false").fails("http_status").differs("transfer of a redirect"),
        row("not-followed-as-wanted", "found/old", "follow_redirects: false, valid_status_codes: [302]").differs("transfer of a redirect"),
        row(
            "not-followed-with-rule",
            "found/old",
            "follow_redirects: false, valid_status_codes: [302], fail_if_body_not_matches_regexp: [elsewhere]",
        )
        .fails("match").differs("transfer of a redirect"),
        row(
            "not-followed-with-place",
            "found/old",
            "follow_redirects: false, valid_status_codes: [302], fail_if_header_not_matches: [{ header: Location, regexp: '^/old$' }]",
        ).differs("transfer of a redirect"),
        row("ten-steps", "steps/10", "fail_if_body_not_matches_regexp: [arrived]"),
        row("eleven-steps", "steps/11", "").fails("response").differs("transfer of a redirect"),
        row("round-and-round", "round-and-round", "").fails("response").differs("transfer of a redirect"),
        row("to-nowhere", "nowhere", "").fails("http_status"),
        row("to-a-bad-place", "bad-place", "").fails("response").differs("redirect that leads nowhere"),
        row("to-another-scheme", "other-scheme", "").fails("response"),
        row("to-not-found", "found/status/404", "").fails("http_status"),
        row("post-found", "found/method", "method: POST, body: 'a=1', fail_if_body_not_matches_regexp: ['^GET ..$']"),
        row(
            "post-see-other",
            "see-other/method",
            "method: POST, body: 'a=1', fail_if_body_not_matches_regexp: ['^GET ..$']",
        ),
        row(
            "post-same-again",
            "same-again/method",
            "method: POST, body: 'a=1', fail_if_body_not_matches_regexp: ['^POST .a=1.$']",
        ),
        row(
            "put-for-ever",
            "for-ever/method",
            "method: PUT, body: 'a=1', fail_if_body_not_matches_regexp: ['^PUT .a=1.$']",
        ),
        row("referer", "found/referer", "fail_if_body_not_matches_regexp: ['true']"),
        row("headers-after-redirect", "found/word", "headers: { X-Word: abc }, fail_if_body_not_matches_regexp: [abc]"),
        row("cookie", "takes-a-cookie", "fail_if_body_not_matches_regexp: ['welcome back']"),
        row("no-cookie", "wants-a-cookie", "").fails("http_status"),
        row("to-another-host", "other-host/", "tls_config: { ca_file: root.pem }"),
        row("to-another-host-unknown", "other-host/", "").fails("tls").differs("certificates that are refused"),
        row(
            "credentials-not-for-another-host",
            "other-host/authorization",
            "tls_config: { ca_file: root.pem }, basic_auth: { username: alice, password: s3cret }",
        )
        .fails("auth")
        .theirs_succeeds()
        .differs("credentials for another host"),
    ]
}

/// TLS that is wanted, or is not.
fn secured(servers: &Servers) -> Vec<Row> {
    let row = |name: &str, path: &str, options: &str| servers.row(name, path, options);
    let over_tls = |name: &str, path: &str, options: &str| servers.over_tls(name, path, options);
    vec![
        row("ssl-wanted", "", "fail_if_not_ssl: true").fails("response"),
        row("ssl-not-wanted", "", "fail_if_ssl: true"),
        over_tls("ssl-wanted", "", "fail_if_not_ssl: true"),
        over_tls("ssl-not-wanted", "", "fail_if_ssl: true").fails("response"),
        row("ssl-wanted-after-redirect", "other-host/", "fail_if_not_ssl: true, tls_config: { ca_file: root.pem }"),
        over_tls("status", "status/500", "").fails("http_status"),
        over_tls("body", "", "fail_if_body_not_matches_regexp: [moon]").fails("match"),
        over_tls("without-http2", "", "enable_http2: false"),
    ]
}
