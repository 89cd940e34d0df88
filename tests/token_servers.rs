//! Tokens of the servers that people run, and proxies that check them: oauth2-mock-server, oidc-provider, nginx and oauth2-proxy.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may")]

mod support;

use std::process::Command;
use std::sync::Arc;

use scrapetarget_exporter::crd::{ParsedTarget, ScrapeTarget};
use scrapetarget_exporter::kind::Reason;
use scrapetarget_exporter::target::{Lookup, LookupError, ObjectKind, Target, TargetId};
use serde_json::{Value, json};
use simulators::Simulated;
use simulators::orion::Broker;
use simulators::sora::Node;
use support::eventually::{PATIENCE, eventually};
use support::listener::port_of_nobody_else;
use support::poll_once;
use support::probing::Probed;
use support::program::Running;
use support::tools;
use tempfile::TempDir;

/// A program that listens on a port of this machine.
struct Server {
    process: Running,
    port: u16,
    _folder: Option<TempDir>,
}

impl Server {
    /// Spawns a command that was told the port, and waits until it listens.
    async fn spawn(command: Command, port: u16, folder: Option<TempDir>) -> Self {
        let process = Running::spawn(command);
        eventually(PATIENCE, async || {
            let connected = tokio::net::TcpStream::connect(("127.0.0.1", port)).await;
            connected.map(drop).map_err(|error| format!("{error}: {}{}", process.stdout(), process.log()))
        })
        .await;
        Self { process, port, _folder: folder }
    }

    async fn node(what: &str, arguments: &[&str]) -> Self {
        let port = port_of_nobody_else();
        let mut command = Command::new("node");
        command.arg(tools::node_oauth2()).args([what, &port.to_string()]).args(arguments);
        Self::spawn(command, port, None).await
    }

    /// nginx in front of `upstream`, which asks `check` about each request.
    async fn nginx(check: &Self, upstream: &str) -> Self {
        let (folder, port) = (TempDir::new().unwrap(), port_of_nobody_else());
        let config = format!(
            "daemon off;\nmaster_process off;\npid nginx.pid;\nerror_log stderr;\nevents {{}}\nhttp {{\n  access_log off;\n  \
             client_body_temp_path client; proxy_temp_path proxy; fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;\n  \
             server {{\n    listen 127.0.0.1:{port};\n    location / {{ auth_request /check; proxy_pass {upstream}; }}\n    \
             location = /check {{ internal; proxy_pass {}; proxy_pass_request_body off; proxy_set_header Content-Length ''; }}\n  }}\n}}\n",
            check.url()
        );
        std::fs::write(folder.path().join("nginx.conf"), config).unwrap();
        let mut command = Command::new(tools::nginx());
        command.arg("-p").arg(folder.path()).args(["-c", "nginx.conf", "-e", "stderr"]);
        Self::spawn(command, port, Some(folder)).await
    }

    /// oauth2-proxy in front of `upstream`, as a web application has it, with more options.
    async fn oauth2_proxy(issuer: &Self, upstream: &str, more: &[&str]) -> Self {
        let port = port_of_nobody_else();
        let mut command = Command::new(tools::oauth2_proxy());
        command.args(["--provider=oidc", "--client-id=web", "--client-secret=web", "--email-domain=*"]);
        command.arg("--cookie-secret=0123456789abcdef0123456789abcdef");
        command.args([format!("--oidc-issuer-url={}", issuer.url()), format!("--upstream={upstream}")]);
        command.arg(format!("--http-address=127.0.0.1:{port}")).args(more);
        Self::spawn(command, port, None).await
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn token_url(&self) -> String {
        format!("{}/token", self.url())
    }

    /// What the mock server was asked, as it says.
    fn asked(&self) -> Vec<Value> {
        let said = self.process.stdout();
        said.lines().filter_map(|line| serde_json::from_str(line.strip_prefix("asked ")?).ok()).collect()
    }
}

/// Objects in which each key has the value that is given for it here.
struct Values<'v>(&'v [(&'v str, &'v str)]);

impl Lookup for Values<'_> {
    fn value(&self, kind: ObjectKind, namespace: &str, name: &str, key: &str) -> Result<Vec<u8>, LookupError> {
        let found = self.0.iter().find(|(known, _)| *known == key).map(|(_, value)| value.as_bytes().to_vec());
        found.ok_or_else(|| LookupError::NoObject { kind, namespace: namespace.to_owned(), name: name.to_owned() })
    }
}

fn resolved(spec: &Value, values: &[(&str, &str)]) -> Target {
    let manifest = json!({ "apiVersion": "scrapetarget.dev/v1alpha1", "kind": "ScrapeTarget", "metadata": { "name": "a" }, "spec": spec });
    let declared: ScrapeTarget = serde_json::from_value(manifest).unwrap();
    let declaration = ParsedTarget::parse(declared).unwrap_or_else(|errors| panic!("{errors:?}"));
    Target::resolve(TargetId::new("media", "a"), Arc::new(declaration), &Values(values))
}

/// Polls a server once with a token.
async fn poll(kind: &str, url: &str, oauth2: &Value, values: &[(&str, &str)]) -> Probed {
    let spec = json!({ "type": kind, "url": url, "interval": "1m", "timeout": "60s", "oauth2": oauth2 });
    let snapshot = poll_once(resolved(&spec, values)).await;
    let failure = snapshot.failure.clone();
    Probed {
        reason: failure.as_ref().map(|failure| failure.reason),
        message: failure.map(|failure| failure.message.to_string()).unwrap_or_default(),
        series: support::series(&support::text(&snapshot)),
        snapshot,
    }
}

const CLIENT: [(&str, &str); 4] =
    [("id", "orion"), ("secret", "s3cret"), ("username", "alice"), ("password", "pass word&")];

/// The block, with more fields or other ones.
fn block(token_url: &str, more: &Value) -> Value {
    let mut block = json!({
        "clientId": { "secret": { "name": "client", "key": "id" } },
        "clientSecret": { "name": "client", "key": "secret" },
        "tokenUrl": token_url,
    });
    for (name, value) in more.as_object().unwrap() {
        block[name] = value.clone();
    }
    block
}

async fn orion() -> Simulated {
    Simulated::serve(Broker::new(1).routes(), ([127, 0, 0, 1], 0).into()).await.unwrap()
}

async fn sora() -> Simulated {
    Simulated::serve(Node::single(1).router(), ([127, 0, 0, 1], 0).into()).await.unwrap()
}

#[tokio::test]
async fn nginx_lets_polls_with_a_token_of_the_mock_server_pass() {
    let (orion, idm) = (orion().await, Server::node("mock", &[]).await);
    let check = Server::node("check", &[&idm.url(), "orion"]).await;
    let nginx = Server::nginx(&check, orion.url().trim_end_matches('/')).await;
    let audience = json!({ "audience": "orion", "aud": "orion" });
    let user = json!({ "username": { "name": "client", "key": "username" }, "password": { "name": "client", "key": "password" } });
    let rows = [
        (
            json!({ "endpointParams": audience }),
            json!({ "basic": "Basic", "grant_type": "client_credentials", "aud": "orion" }),
        ),
        (
            json!({ "endpointParams": audience, "scopes": ["read", "write"], "clientAuthentication": "Body" }),
            json!({ "client_id": "orion", "grant_type": "client_credentials", "aud": "orion", "scope": "read write" }),
        ),
        (
            json!({ "endpointParams": { "answer": r#"{"claims":{"aud":"orion"}}"# }, "user": user, "clientAuthentication": "Header" }),
            json!({ "basic": "Basic", "grant_type": "password", "username": "alice" }),
        ),
    ];
    for (number, (more, form)) in rows.iter().enumerate() {
        let probed = poll("Orion", &format!("{}/", nginx.url()), &block(&idm.token_url(), more), &CLIENT).await;
        assert_eq!((probed.reason, probed.value("orion_up")), (None, 1.0), "{more}: {}", probed.message);
        let asked = idm.asked();
        assert_eq!(asked.len(), number + 1, "one token for all calls of a poll");
        let asked = &asked[number];
        for (name, value) in form.as_object().unwrap() {
            assert_eq!(&asked[name], value, "{more}: {asked}");
        }
    }
    let others = block(&idm.token_url(), &json!({ "endpointParams": { "aud": "sora" } }));
    let probed = poll("Orion", &format!("{}/", nginx.url()), &others, &CLIENT).await;
    assert_eq!(probed.reason, Some(Reason::Auth), "{}", probed.message);
}

#[tokio::test]
async fn the_mock_server_may_answer_whatever_servers_answer() {
    let (orion, idm) = (orion().await, Server::node("mock", &[]).await);
    let url = orion.url();
    let answer = |text: &str| block(&idm.token_url(), &json!({ "endpointParams": { "answer": text } }));
    for good in [
        r#"{"body":{"expires_in":"3600"}}"#,
        r#"{"body":{"expires_in":null}}"#,
        r#"{"body":{"expires_in":99999999999999999999}}"#,
        r#"{"body":{"expires_in":1.5e3}}"#,
        r#"{"body":{"token_type":"bearer"}}"#,
        r#"{"body":{"token_type":"BEARER"}}"#,
        r#"{"body":{"token_type":"jwt","expires_in":null}}"#,
        r#"{"body":{"token_type":null}}"#,
        r#"{"body":{"scope":["read","write"]}}"#,
        r#"{"body":{"scope":{"a":[null]},"more":[1,2,{"access_token":3}]}}"#,
        r#"{"claims":{"exp":1}}"#,
    ] {
        let probed = poll("Orion", &url, &answer(good), &CLIENT).await;
        assert_eq!(probed.reason, None, "{good}: {}", probed.message);
    }
    for bad in [
        r#"{"body":{"access_token":null}}"#,
        r#"{"body":{"access_token":""}}"#,
        r#"{"body":{"access_token":7}}"#,
        r#"{"body":{"access_token":"a\nb"}}"#,
        r#"{"body":{"access_token":"a b"}}"#,
        r#"{"body":{"access_token":["a"]}}"#,
    ] {
        let probed = poll("Orion", &url, &answer(bad), &CLIENT).await;
        assert_eq!(probed.reason, Some(Reason::Auth), "{bad}: {}", probed.message);
        assert!(probed.message.contains("token: parse: "), "{bad}: {}", probed.message);
    }
    for code in [
        "invalid_request",
        "invalid_client",
        "invalid_grant",
        "unauthorized_client",
        "unsupported_grant_type",
        "invalid_scope",
    ] {
        for status in [400, 401] {
            let answer = answer(&format!(
                r#"{{"statusCode":{status},"body":{{"error":"{code}","error_description":"qzxjkvwq","access_token":null}}}}"#
            ));
            let probed = poll("Orion", &url, &answer, &CLIENT).await;
            assert_eq!(probed.reason, Some(Reason::Auth), "{status} {code}: {}", probed.message);
            assert!(probed.message.contains(code), "{status} {code}: {}", probed.message);
            assert!(!probed.message.contains("qzxjkvwq"), "{status} {code}: {}", probed.message);
        }
    }
}

#[tokio::test]
async fn a_strict_provider_takes_the_client_however_it_authenticates_itself() {
    let (orion, idm) = (orion().await, Server::node("strict", &[]).await);
    let odd = [("id", "team a/orion+1"), ("secret", "s3cret: 100%&more=+")];
    let body = [("id", "in-the-body"), ("secret", "s3cret")];
    for (values, method) in [
        (&CLIENT[..2], "Auto"),
        (&CLIENT[..2], "Header"),
        (&odd[..], "Auto"),
        (&odd[..], "Header"),
        (&body[..], "Auto"),
        (&body[..], "Body"),
    ] {
        let oauth2 = block(&idm.token_url(), &json!({ "scopes": ["read"], "clientAuthentication": method }));
        let probed = poll("Orion", &orion.url(), &oauth2, values).await;
        assert_eq!(probed.reason, None, "{values:?} {method}: {}", probed.message);
    }
    let wrong = [("id", "orion"), ("secret", "qzxjkvwq")];
    for (values, more, code) in [
        (&wrong[..], json!({}), "invalid_client"),
        (
            &CLIENT[..],
            json!({ "user": { "username": { "name": "client", "key": "username" }, "password": { "name": "client", "key": "password" } } }),
            "unsupported_grant_type",
        ),
    ] {
        let probed = poll("Orion", &orion.url(), &block(&idm.token_url(), &more), values).await;
        assert_eq!(probed.reason, Some(Reason::Auth), "{code}: {}", probed.message);
        assert!(probed.message.contains(code) && !probed.message.contains("qzxjkvwq"), "{code}: {}", probed.message);
    }
}

#[tokio::test]
async fn oauth2_proxy_lets_polls_of_sora_pass_if_it_takes_tokens_and_their_audience() {
    let (sora, idm) = (sora().await, Server::node("strict", &[]).await);
    let upstream = sora.url();
    let oauth2 = block(&idm.token_url(), &json!({ "scopes": ["read"] }));
    let tokens = "--skip-jwt-bearer-tokens=true";
    for (options, reason) in [
        (&[tokens, "--oidc-extra-audience=urn:api:sora"][..], None),
        (&[tokens][..], Some(Reason::Auth)),
        (&["--oidc-extra-audience=urn:api:sora"][..], Some(Reason::Auth)),
    ] {
        let proxy = Server::oauth2_proxy(&idm, &upstream, options).await;
        let probed = poll("Sora", &format!("{}/", proxy.url()), &oauth2, &CLIENT).await;
        assert_eq!(probed.reason, reason, "{options:?}: {}", probed.message);
    }
}

#[tokio::test]
async fn a_scope_that_is_missing_is_said_by_nginx_with_403() {
    let (sora, idm) = (sora().await, Server::node("strict", &[]).await);
    let check = Server::node("check", &[&idm.url(), "urn:api:sora", "read"]).await;
    let nginx = Server::nginx(&check, sora.url().trim_end_matches('/')).await;
    for (more, reason) in [(json!({ "scopes": ["read"] }), None), (json!({}), Some(Reason::Auth))] {
        let probed = poll("Sora", &format!("{}/", nginx.url()), &block(&idm.token_url(), &more), &CLIENT).await;
        assert_eq!(probed.reason, reason, "{more}: {}", probed.message);
        assert_eq!(probed.message.contains("403"), reason.is_some(), "{}", probed.message);
    }
}

/// Monitors of the Prometheus Operator with the block, in the shapes that its API documents.
const MONITORS: &str = r"
apiVersion: monitoring.coreos.com/v1
kind: ServiceMonitor
metadata: { name: minimal }
spec:
  selector: { matchLabels: { app: orion } }
  endpoints:
    - port: web
      oauth2:
        clientId:
          secret:
            name: client
            key: id
        clientSecret:
          name: client
          key: secret
        tokenUrl: TOKEN_URL
---
apiVersion: monitoring.coreos.com/v1
kind: ServiceMonitor
metadata: { name: scopes-and-parameters }
spec:
  selector: { matchLabels: { app: orion } }
  endpoints:
    - port: web
      oauth2:
        clientId: { secret: { name: client, key: id } }
        clientSecret: { name: client, key: secret }
        tokenUrl: TOKEN_URL
        scopes: [read, write]
        endpointParams: { audience: orion, resource: 'https://orion.example.com/' }
---
apiVersion: monitoring.coreos.com/v1
kind: ServiceMonitor
metadata: { name: id-in-a-config-map }
spec:
  selector: { matchLabels: { app: orion } }
  endpoints:
    - port: web
      oauth2:
        clientId: { configMap: { name: client, key: id } }
        clientSecret: { name: client, key: secret, optional: false }
        tokenUrl: TOKEN_URL
---
apiVersion: monitoring.coreos.com/v1
kind: PodMonitor
metadata: { name: tls }
spec:
  selector: { matchLabels: { app: orion } }
  podMetricsEndpoints:
    - port: web
      oauth2:
        clientId: { secret: { name: client, key: id } }
        clientSecret: { name: client, key: secret }
        tokenUrl: TOKEN_URL
        tlsConfig: { insecureSkipVerify: true, serverName: idm.example.com }
";

#[tokio::test]
async fn a_block_that_is_copied_from_a_monitor_of_the_operator_works() {
    let (orion, idm) = (orion().await, Server::node("mock", &[]).await);
    let text = MONITORS.replace("TOKEN_URL", &idm.token_url());
    let mut seen = 0;
    for document in text.split("---\n") {
        let monitor: Value = serde_saphyr::from_str(document).unwrap();
        let spec = &monitor["spec"];
        let endpoint = spec.get("endpoints").or_else(|| spec.get("podMetricsEndpoints")).unwrap()[0].clone();
        let probed = poll("Orion", &orion.url(), &endpoint["oauth2"], &CLIENT).await;
        assert_eq!(probed.reason, None, "{}: {}", monitor["metadata"], probed.message);
        seen += 1;
    }
    assert_eq!((idm.asked().len(), seen), (4, 4));
}
