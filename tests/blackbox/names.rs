//! Rows about names and pings, which need namespaces: what a name leads to is what the rows say, and pings need no privilege.

use std::fs;
use std::net::Ipv6Addr;
use std::process::Command;

use super::dns::over_udp;
use super::row::Row;
use super::sides::Files;
use super::tls::serve;
use crate::support::authority::{Authority, server, tls};
use crate::support::conversation::{Conversation, Conversations};
use crate::support::dns::Dns;
use crate::support::proxy::Proxy;
use rustls::version::TLS13;
use tokio::net::UdpSocket;

pub struct Servers {
    _names: Dns,
    http: u16,
    dns: u16,
    proxy: Conversations,
    tunnels: Proxy,
    locked: Proxy,
    task: tokio::task::JoinHandle<()>,
    _http: Conversations,
    secure: Conversations,
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A network whose only host takes everything and never answers, and one to which there is no way.
const NETWORKS: &str = "
ip link add silent type veth peer name other
ip address add 198.51.100.1/24 dev silent
ip link set silent up
ip link set other up
ip neighbour add 198.51.100.2 lladdr 02:00:00:00:00:02 dev silent
ip route add unreachable 203.0.113.0/24
";

impl Servers {
    pub async fn start(files: &mut Files) -> Self {
        let done = Command::new("sh").args(["-ec", NETWORKS]).status().unwrap();
        assert!(done.success(), "{NETWORKS}");
        // In a user namespace only groups that exist there can be named.
        let range = "/proc/sys/net/ipv4/ping_group_range";
        fs::write(range, "0 2147483647").or_else(|_| fs::write(range, "0 0")).unwrap();
        let names = Dns::start().await;
        names.name("both.test", &["127.0.0.1", "::1"]);
        names.name("four.test", &["127.0.0.1"]);
        names.name("six.test", &["::1"]);
        names.silent_about("silent.test");
        let authority = Authority::new();
        files.insert("root.pem", authority.pem());
        let config = tls(&authority.signs(&server()), &[&TLS13]);
        let secure = Conversations::start("127.0.0.1", Some(config), serve).await;
        let http = Conversations::start("::", None, serve).await;
        let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).await.unwrap();
        let dns = socket.local_addr().unwrap().port();
        let task = tokio::spawn(over_udp(socket));
        let proxy = Conversations::start("127.0.0.1", None, |mut client: Conversation| async move {
            let head = client.until(b"\r\n\r\n").await?;
            let body = format!("asked for [{}]", head.split(' ').nth(1).unwrap_or_default());
            let length = body.len();
            client
                .say(format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"))
                .await?;
            client.end().await
        })
        .await;
        let (tunnels, locked) = (Proxy::start(None), Proxy::start(Some("Basic nobody knows")));
        Self { _names: names, http: http.address.port(), dns, proxy, tunnels, locked, task, _http: http, secure }
    }
}

pub fn rows(servers: &Servers) -> Vec<Row> {
    let mut rows = Vec::new();
    for prober in ["http", "tcp", "dns", "icmp"] {
        let row = |name: &str, host: &str, options: &str| {
            let (target, needed) = match prober {
                "http" => (format!("http://{host}:{}/", servers.http), ""),
                "tcp" => (format!("{host}:{}", servers.http), ""),
                "dns" => (format!("{host}:{}", servers.dns), "query_name: good.test, query_type: A, "),
                _ => (host.to_owned(), ""),
            };
            Row::new(&format!("{prober}-name-{name}"), prober, &target, &format!("{needed}{options}"))
        };
        rows.extend([
            row("both-by-ip4", "both.test", "preferred_ip_protocol: ip4"),
            row("both-by-ip6", "both.test", "preferred_ip_protocol: ip6"),
            row("ip4-only", "four.test", "preferred_ip_protocol: ip6"),
            row("ip6-only", "six.test", "preferred_ip_protocol: ip4"),
            row("both-by-ip6-alone", "both.test", "preferred_ip_protocol: ip6, ip_protocol_fallback: false"),
            row("ip4-not-wanted", "four.test", "preferred_ip_protocol: ip6, ip_protocol_fallback: false").fails("dns"),
            row("ip6-not-wanted", "six.test", "preferred_ip_protocol: ip4, ip_protocol_fallback: false").fails("dns"),
            row("with-the-dot", "both.test.", ""),
            row("unknown", "nothing.test", "").fails("dns"),
            row("silent", "a.silent.test", "").times_out().fails("dns"),
            row("unreachable", "203.0.113.9", "").fails("unreachable"),
        ]);
    }
    rows.extend([
        Row::new("grpc-name-unknown", "grpc", "nothing.test:80", "").fails("dns"),
        Row::new(
            "grpc-name-ip6-not-wanted",
            "grpc",
            "four.test:80",
            "preferred_ip_protocol: ip6, ip_protocol_fallback: false",
        )
        .fails("dns"),
    ]);
    rows.extend(proxied(servers));
    let ping = |name: &str, host: &str, options: &str| Row::new(&format!("icmp-{name}"), "icmp", host, options);
    rows.extend([
        ping("good", "127.0.0.1", ""),
        ping("ip6", "::1", ""),
        ping("ttl", "127.0.0.1", "ttl: 7"),
        ping("payload-of-1", "127.0.0.1", "payload_size: 1"),
        ping("payload-of-1000", "127.0.0.1", "payload_size: 1000"),
        ping("payload-of-60000", "127.0.0.1", "payload_size: 60000"),
        ping("dont-fragment", "127.0.0.1", "dont_fragment: true"),
        ping("source-address", "127.0.0.1", "source_ip_address: 127.0.0.9"),
        ping("silent", "198.51.100.2", "").times_out(),
    ]);
    rows
}

/// Through proxies, which may be the only ones to know a name.
fn proxied(servers: &Servers) -> Vec<Row> {
    let row = |name: &str, url: &str, proxy: &str, options: &str| {
        Row::new(&format!("http-proxy-{name}"), "http", url, &format!("proxy_url: 'http://{proxy}'{options}"))
    };
    let at = |host: &str| format!("http://{host}:{}/", servers.http);
    let proxy = servers.proxy.address.to_string();
    let secure = format!("https://{}/", servers.secure.address);
    let nobody = crate::support::faults::closed_port();
    let nobody = nobody.trim_start_matches("http://").trim_end_matches('/');
    vec![
        row("good", &at("127.0.0.1"), &proxy, ", fail_if_body_not_matches_regexp: ['asked for .http://127.0.0.1:']"),
        row("name", &at("both.test"), &proxy, ""),
        row("skips", &at("both.test"), &proxy, ", skip_resolve_phase_with_proxy: true"),
        row("unknown", &at("nothing.test"), &proxy, "").fails("dns"),
        row(
            "unknown-skips",
            &at("nothing.test"),
            &proxy,
            ", skip_resolve_phase_with_proxy: true, fail_if_body_not_matches_regexp: ['asked for .http://nothing.test:']",
        ),
        row("tunnel", &secure, &servers.tunnels.address, ", tls_config: { ca_file: root.pem }"),
        row(
            "tunnel-by-name",
            &secure.replace("127.0.0.1", "four.test"),
            &servers.tunnels.address,
            ", tls_config: { ca_file: root.pem, server_name: server.test }",
        ),
        row("locked", &secure, &servers.locked.address, "").fails("auth"),
        row("nobody", &at("127.0.0.1"), nobody, "").fails("connect"),
    ]
}
