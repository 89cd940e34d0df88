//! Rows about a real web server, with HTTP/2.

use std::fs;
use std::process::Command;

use tempfile::TempDir;
use tokio::net::TcpStream;

use super::row::Row;
use super::sides::Files;
use crate::support::eventually::{PATIENCE, eventually};
use crate::support::listener::port_of_nobody_else;
use crate::support::program::Running;
use crate::support::tools;

pub struct Server {
    _process: Running,
    _folder: TempDir,
    plain: u16,
    /// With HTTP/2, and with HTTP/1.1 alone.
    secure: u16,
    old: u16,
}

const CONFIG: &str = r#"
daemon off;
master_process off;
pid nginx.pid;
error_log stderr;
events {}
http {
  access_log off;
  client_body_temp_path client; proxy_temp_path proxy; fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;
  ssl_certificate server.pem;
  ssl_certificate_key server.key;
  gzip on; gzip_types text/plain; gzip_min_length 1;
  default_type text/plain;
  server {
    listen 127.0.0.1:PLAIN;
    listen 127.0.0.1:SECURE ssl http2;
    listen 127.0.0.1:OLD ssl;
    root files;
    location /closed { return 444; }
    location /text { return 200 "$server_protocol $request_method $http_host"; }
    location /gone { return 410; }
    location /secure { return 301 https://localhost:SECURE/text; }
    location /private { auth_basic "tests"; auth_basic_user_file users; try_files /small =404; }
    location /body { if ($request_method = POST) { return 201 "$content_length"; } return 405; }
  }
}
"#;

impl Server {
    pub async fn start(files: &Files) -> Self {
        let folder = TempDir::new().unwrap();
        let [plain, secure, old] = [(); 3].map(|()| port_of_nobody_else());
        let config = CONFIG.replace("PLAIN", &plain.to_string());
        let config = config.replace("SECURE", &secure.to_string()).replace("OLD", &old.to_string());
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        fs::create_dir_all(folder.path().join("files/folder")).unwrap();
        for name in ["server.pem", "server.key"] {
            write(name, &files[name]);
        }
        write("nginx.conf", &config);
        write("users", "alice:{PLAIN}s3cret\n");
        write("files/small", "hello, world\n");
        write("files/large", &"0123456789".repeat(100_000));
        write("files/folder/index.html", "a folder");
        let mut command = Command::new(tools::nginx());
        command.arg("-p").arg(folder.path()).args(["-c", "nginx.conf", "-e", "stderr"]);
        let process = Running::spawn(command);
        eventually(PATIENCE, async || {
            let connected = TcpStream::connect(("127.0.0.1", old)).await;
            connected.map(drop).map_err(|error| format!("{error}: {}", process.log()))
        })
        .await;
        Self { _process: process, _folder: folder, plain, secure, old }
    }
}

pub fn rows(server: &Server) -> Vec<Row> {
    let at = |name: &str, url: String, options: &str| {
        let separator = if options.is_empty() { "" } else { ", " };
        Row::new(
            &format!("nginx-{name}"),
            "http",
            &url,
            &format!("tls_config: {{ ca_file: root.pem }}{separator}{options}"),
        )
    };
    let plain =
        |name: &str, path: &str, options: &str| at(name, format!("http://127.0.0.1:{}/{path}", server.plain), options);
    let h2 = |name: &str, path: &str, options: &str| {
        at(&format!("h2-{name}"), format!("https://127.0.0.1:{}/{path}", server.secure), options)
    };
    let old = |name: &str, path: &str, options: &str| {
        at(&format!("h1-{name}"), format!("https://127.0.0.1:{}/{path}", server.old), options)
    };
    vec![
        plain("small", "small", ""),
        plain("large", "large", ""),
        plain("text", "text", "fail_if_body_not_matches_regexp: ['^HTTP/1.1 GET 127.0.0.1:']"),
        plain("not-found", "nothing", "").fails("http_status"),
        plain("gone", "gone", "valid_status_codes: [410]"),
        plain("closed", "closed", "").fails("connect"),
        plain("folder", "folder", "fail_if_body_not_matches_regexp: ['a folder']"),
        plain(
            "to-https",
            "secure",
            "fail_if_not_ssl: true, fail_if_body_not_matches_regexp: ['^HTTP/2.0 GET localhost:']",
        ),
        plain(
            "to-https-without-http2",
            "secure",
            "enable_http2: false, fail_if_body_not_matches_regexp: ['^HTTP/1.1']",
        ),
        plain("private", "private", "").fails("auth"),
        plain("basic", "private", "basic_auth: { username: alice, password: s3cret }"),
        plain("gzip", "small", "compression: gzip, headers: { Accept-Encoding: gzip }"),
        plain("method", "small", "method: POST").fails("http_status"),
        plain("post", "body", "method: POST, body: 'a=1', fail_if_body_not_matches_regexp: ['^3$']"),
        plain("head", "large", "method: HEAD"),
        at("plain-on-tls", format!("http://127.0.0.1:{}/", server.secure), "").fails("http_status"),
        at("tls-on-plain", format!("https://127.0.0.1:{}/", server.plain), "").fails("tls"),
        h2("small", "small", ""),
        h2("large", "large", "body_size_limit: 2MB"),
        h2("too-large", "large", "body_size_limit: 100KB").fails("limit"),
        h2(
            "text",
            "text",
            "valid_http_versions: ['HTTP/2.0'], fail_if_body_not_matches_regexp: ['^HTTP/2.0 GET 127.0.0.1:']",
        ),
        h2("not-wanted", "text", "valid_http_versions: ['HTTP/1.1']").fails("response"),
        h2("switched-off", "text", "enable_http2: false, fail_if_body_not_matches_regexp: ['^HTTP/1.1 GET']"),
        h2("not-found", "nothing", "").fails("http_status"),
        // Theirs repeats the request until its deadline.
        h2("closed", "closed", "").times_out().fails("protocol").differs("no answer over TLS"),
        h2("gzip", "small", "compression: gzip, headers: { Accept-Encoding: gzip }"),
        h2("basic", "private", "basic_auth: { username: alice, password: s3cret }"),
        h2("basic-wrong", "private", "basic_auth: { username: alice, password: secret }").fails("auth"),
        h2("post", "body", "method: POST, body: 'a=1', fail_if_body_not_matches_regexp: ['^3$']"),
        h2("head", "large", "method: HEAD"),
        h2("host", "text", "headers: { Host: server.test }, fail_if_body_not_matches_regexp: ['GET server.test$']"),
        // What is sent as Host is asked for in TLS, too.
        h2("other-host", "text", "headers: { Host: www.test }").fails("tls").differs("certificates that are refused"),
        h2("redirect", "secure", "fail_if_body_not_matches_regexp: ['^HTTP/2.0 GET localhost:']"),
        old("text", "text", "fail_if_body_not_matches_regexp: ['^HTTP/1.1 GET']"),
        old("http2-missed", "text", "valid_http_versions: ['HTTP/2.0']").fails("response"),
    ]
}
