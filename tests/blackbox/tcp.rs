//! Rows of the prober for TCP: what is said and expected, as in the recipes that its users have.

use std::net::Ipv4Addr;
use std::sync::Arc;

use rustls::ServerConfig;

use super::row::Row;
use crate::support::conversation::{Conversation, Conversations};
use crate::support::scripted::Blackhole;

pub struct Servers {
    silent: Conversations,
    closes: Conversations,
    resets: Conversations,
    ssh: Conversations,
    half_a_line: Conversations,
    long_line: Conversations,
    lines: Conversations,
    irc: Conversations,
    redis: Conversations,
    smtp: Conversations,
    smtp_without_tls: Conversations,
    imap: Conversations,
    pop3s: Conversations,
    echo: Conversations,
    hole: Blackhole,
    closed: String,
}

impl Servers {
    pub async fn start(tls: Arc<ServerConfig>) -> Self {
        let speaking = async |bytes: &'static [u8]| {
            Conversations::start("127.0.0.1", None, move |mut client: Conversation| async move {
                client.say(bytes).await?;
                client.end().await
            })
            .await
        };
        let (for_smtp, for_imap) = (Arc::clone(&tls), Arc::clone(&tls));
        Self {
            silent: Conversations::start("127.0.0.1", None, Conversation::hang).await,
            closes: Conversations::start("127.0.0.1", None, Conversation::end).await,
            resets: Conversations::start("127.0.0.1", None, async |client: Conversation| client.reset()).await,
            ssh: speaking(b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n").await,
            half_a_line: speaking(b"+PO").await,
            long_line: Conversations::start("127.0.0.1", None, |mut client: Conversation| async move {
                client.say(vec![b'x'; 70_000]).await?;
                client.say("\nSSH-2.0-late\n").await?;
                client.end().await
            })
            .await,
            lines: speaking(b"first\nsecond: two\r\n\nthird 3\n").await,
            irc: Conversations::start("127.0.0.1", None, irc).await,
            redis: Conversations::start("127.0.0.1", None, |mut client: Conversation| async move {
                while client.line().await?.trim_end() == "PING" {
                    client.say("+PONG\r\n").await?;
                }
                client.end().await
            })
            .await,
            smtp: Conversations::start("127.0.0.1", None, move |client| smtp(client, Arc::clone(&for_smtp))).await,
            smtp_without_tls: speaking(b"220 mail.test ESMTP tests\r\n250-mail.test\r\n250 AUTH PLAIN\r\n").await,
            imap: Conversations::start("127.0.0.1", None, move |client| imap(client, Arc::clone(&for_imap))).await,
            pop3s: Conversations::start("127.0.0.1", Some(tls), |mut client: Conversation| async move {
                client.say("+OK tests ready\r\n").await?;
                client.end().await
            })
            .await,
            echo: Conversations::start("127.0.0.1", None, |mut client: Conversation| async move {
                let line = client.line().await?;
                client.say(format!("you said [{}]\n", line.trim_end_matches('\n'))).await?;
                client.end().await
            })
            .await,
            hole: Blackhole::start(Ipv4Addr::LOCALHOST),
            closed: crate::support::faults::closed_port(),
        }
    }
}

async fn irc(mut client: Conversation) -> std::io::Result<()> {
    assert!(client.line().await?.starts_with("NICK prober"));
    assert!(client.line().await?.starts_with("USER prober"));
    client.say(":irc.test NOTICE * :hello\r\nPING :1730000000\r\n").await?;
    if client.line().await?.trim_end() == "PONG 1730000000" {
        client.say(":irc.test 001 prober :Welcome\r\n").await?;
    }
    client.end().await
}

async fn smtp(mut client: Conversation, tls: Arc<ServerConfig>) -> std::io::Result<()> {
    client.say("220 mail.test ESMTP tests\r\n").await?;
    assert!(client.line().await?.starts_with("EHLO "));
    client.say("250-mail.test\r\n250-STARTTLS\r\n250 HELP\r\n").await?;
    assert!(client.line().await?.starts_with("STARTTLS"));
    client.say("220 go ahead\r\n").await?;
    let mut client = client.secured(&tls).await?;
    assert!(client.line().await?.starts_with("EHLO "));
    client.say("250-mail.test\r\n250-AUTH PLAIN\r\n250 HELP\r\n").await?;
    let _ = client.line().await;
    client.end().await
}

async fn imap(mut client: Conversation, tls: Arc<ServerConfig>) -> std::io::Result<()> {
    client.say("* OK [CAPABILITY IMAP4rev1 STARTTLS] ready\r\n").await?;
    assert!(client.line().await?.starts_with(". STARTTLS"));
    client.say(". OK go ahead\r\n").await?;
    let mut client = client.secured(&tls).await?;
    assert!(client.line().await?.starts_with(". capability"));
    client.say("* CAPABILITY IMAP4rev1 AUTH=PLAIN\r\n. OK done\r\n").await?;
    client.end().await
}

const SMTP: &str = r"query_response: [
    { expect: '^220 ([^ ]+) ESMTP (.+)$' }, { send: 'EHLO prober' }, { expect: '^250-STARTTLS' }, { send: STARTTLS }, { expect: '^220' },
    { starttls: true }, { send: 'EHLO prober' }, { expect: '^250-AUTH' }, { send: QUIT }]";

pub fn rows(servers: &Servers) -> Vec<Row> {
    let row = |name: &str, server: &Conversations, options: &str| {
        Row::new(&format!("tcp-{name}"), "tcp", &server.address, options)
    };
    let says =
        |name: &str, server: &Conversations, steps: &str| row(name, server, &format!("query_response: [{steps}]"));
    let over = |name: &str, server: &Conversations, config: &str, steps: &str| {
        row(name, server, &format!("tls_config: {{ {config} }}, {steps}"))
    };
    let closed = servers.closed.trim_start_matches("http://").trim_end_matches('/');
    vec![
        row("good", &servers.silent, ""),
        row("closes", &servers.closes, ""),
        row("source-address", &servers.silent, "source_ip_address: 127.0.0.9"),
        Row::new("tcp-refused", "tcp", closed, "").fails("connect"),
        Row::new("tcp-refused-tls", "tcp", closed, "tls: true").fails("connect"),
        Row::new("tcp-black-hole", "tcp", &servers.hole.address, "").times_out(),
        row("silent-tls", &servers.silent, "tls: true").times_out(),
        row("closes-tls", &servers.closes, "tls: true").fails("tls"),
        says("expect-of-silent", &servers.silent, "{ expect: '^SSH' }").times_out(),
        says("expect-of-closed", &servers.closes, "{ expect: '^SSH' }").fails("match"),
        says("expect-of-reset", &servers.resets, "{ expect: '^SSH' }").fails("connect"),
        says("ssh", &servers.ssh, "{ expect: '^SSH-2.0-' }, { send: SSH-2.0-blackbox-ssh-check }"),
        says("ssh-of-old", &servers.ssh, "{ expect: '^SSH-1.' }").fails("match"),
        says("end-of-line-is-cut", &servers.ssh, "{ expect: 'Debian-2$' }"),
        says("half-a-line", &servers.half_a_line, "{ expect: '^.PO$' }"),
        says("long-line", &servers.long_line, "{ expect: '^SSH' }").fails("limit"),
        says("later-line", &servers.lines, "{ expect: '^third ([0-9])' }"),
        says("lines-in-order", &servers.lines, "{ expect: two }, { expect: '^$' }, { expect: '^third' }"),
        says("lines-out-of-order", &servers.lines, "{ expect: '^third' }, { expect: '^first' }").fails("match"),
        says("send", &servers.echo, "{ send: 'hello' }, { expect: '^you said .hello.$' }"),
        says("send-and-expect-in-one-step", &servers.ssh, "{ expect: '^SSH', send: 'QUIT' }"),
        says(
            "irc",
            &servers.irc,
            "{ send: 'NICK prober' }, { send: 'USER prober prober prober :prober' }, \
            { expect: 'PING :([^ ]+)', send: 'PONG ${1}' }, { expect: '^:[^ ]+ 001' }",
        ),
        says(
            "irc-by-name",
            &servers.irc,
            "{ send: 'NICK prober' }, { send: 'USER prober prober prober :prober' }, \
            { expect: 'PING :(?P<number>[^ ]+)', send: 'PONG ${number}' }, { expect: '^:[^ ]+ 001' }",
        ),
        says("redis", &servers.redis, "{ send: PING }, { expect: '^[+]PONG' }"),
        over("smtp", &servers.smtp, "ca_file: root.pem", SMTP),
        over("smtp-by-name", &servers.smtp, "ca_file: root.pem, server_name: server.test", SMTP),
        over("smtp-refused", &servers.smtp, "server_name: server.test", SMTP)
            .fails("tls")
            .differs("certificates that are refused"),
        over("smtp-without-tls", &servers.smtp_without_tls, "ca_file: root.pem", SMTP).fails("match"),
        over(
            "imap",
            &servers.imap,
            "ca_file: root.pem",
            "query_response: [{ expect: 'OK.*STARTTLS' }, { send: '. STARTTLS' }, { expect: OK }, { starttls: true }, \
             { send: '. capability' }, { expect: 'CAPABILITY IMAP4rev1' }, { send: '. logout' }]",
        ),
        over("pop3s", &servers.pop3s, "ca_file: root.pem", r"tls: true, query_response: [{ expect: '^\+OK' }]"),
    ]
}
