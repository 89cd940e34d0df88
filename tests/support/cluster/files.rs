//! What the processes of a cluster are told: their folder with keys, tokens and settings, their ports, their arguments.

use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use kube::Config;
use rcgen::{BasicConstraints, Certificate, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType};
use tempfile::TempDir;

use super::super::listener::port_of_nobody_else;
use super::audit;

/// The token of one who may do everything. It is good on loopback, for as long as the test runs.
const ADMIN_TOKEN: &str = "admin-token";

/// Three ports that were free.
pub(super) struct Ports {
    etcd: u16,
    peer: u16,
    apiserver: u16,
}

impl Ports {
    /// The port of a server that is down must not become that of a client.
    pub(super) fn free() -> Self {
        let [etcd, peer, apiserver] = [(); 3].map(|()| port_of_nobody_else());
        Self { etcd, peer, apiserver }
    }

    pub(super) fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.apiserver)
    }

    pub(super) fn etcd_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.etcd)
    }
}

/// The folder of a cluster. It is etcd's guard that removes it.
pub(super) struct Files {
    pub(super) folder: PathBuf,
    pub(super) admin_kubeconfig: PathBuf,
    authority: Vec<u8>,
}

impl Files {
    pub(super) fn create(ports: &Ports) -> Self {
        let folder = TempDir::with_prefix("cluster-").unwrap().keep();
        let mut files = Self { admin_kubeconfig: folder.join("admin.kubeconfig"), folder, authority: Vec::new() };
        let mut authority = CertificateParams::default();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
        let [key, accounts] = [(); 2].map(|()| KeyPair::generate().unwrap());
        let mut server = CertificateParams::new(["localhost".to_owned()]).unwrap();
        server.subject_alt_names.push(SanType::IpAddress(Ipv4Addr::LOCALHOST.into()));
        let server: Certificate = server.signed_by(&key, &authority).unwrap();
        files.authority = authority.der().to_vec();
        for (name, text) in [
            ("ca.crt", authority.pem()),
            ("server.crt", server.pem()),
            ("server.key", key.serialize_pem()),
            ("accounts.key", accounts.serialize_pem()),
            ("accounts.pub", accounts.public_key_pem()),
            ("tokens.csv", format!("{ADMIN_TOKEN},admin,admin,system:masters\n")),
            ("audit-policy.yaml", audit::POLICY.to_owned()),
            ("audit.log", String::new()),
        ] {
            fs::write(files.path(name), text).unwrap();
        }
        files.write_kubeconfig("admin.kubeconfig", &ports.url(), "default", ADMIN_TOKEN);
        files
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    pub(super) fn log(&self, name: &str) -> PathBuf {
        self.path(&format!("{name}.log"))
    }

    /// The end of a log, for people.
    pub(super) fn log_tail(&self, name: &str) -> String {
        let text = fs::read(self.log(name)).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        format!("--- {name}\n{}", lines[lines.len().saturating_sub(15)..].join("\n"))
    }

    /// Settings of a client with the admin's token.
    pub(super) fn config(&self, url: &str) -> Config {
        let mut config = Config::new(url.parse().unwrap());
        config.root_cert = Some(vec![self.authority.clone()]);
        config.auth_info.token = Some(ADMIN_TOKEN.to_owned().into());
        config
    }

    pub(super) fn write_kubeconfig(&self, name: &str, url: &str, namespace: &str, token: &str) -> PathBuf {
        let file = self.path(name);
        let authority = self.path("ca.crt");
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: test\n\
             clusters: [{{ name: test, cluster: {{ server: '{url}', certificate-authority: '{}' }} }}]\n\
             users: [{{ name: test, user: {{ token: '{token}' }} }}]\n\
             contexts: [{{ name: test, context: {{ cluster: test, user: test, namespace: '{namespace}' }} }}]\n",
            authority.display()
        );
        fs::write(&file, text).unwrap();
        file
    }

    pub(super) fn etcd_arguments(&self, ports: &Ports) -> Vec<String> {
        let clients = ports.etcd_url();
        let peers = format!("http://127.0.0.1:{}", ports.peer);
        vec![
            flag("data-dir", self.path("etcd").display()),
            flag("listen-client-urls", &clients),
            flag("advertise-client-urls", &clients),
            flag("listen-peer-urls", &peers),
            flag("initial-advertise-peer-urls", &peers),
            flag("initial-cluster", format_args!("default={peers}")),
            // What a crash of the machine would lose, no test misses.
            flag("unsafe-no-fsync", true),
        ]
    }

    pub(super) fn apiserver_arguments(&self, ports: &Ports) -> Vec<String> {
        vec![
            flag("etcd-servers", ports.etcd_url()),
            flag("bind-address", Ipv4Addr::LOCALHOST),
            flag("advertise-address", Ipv4Addr::LOCALHOST),
            flag("secure-port", ports.apiserver),
            flag("endpoint-reconciler-type", "none"),
            flag("service-cluster-ip-range", "10.0.0.0/24"),
            flag("tls-cert-file", self.path("server.crt").display()),
            flag("tls-private-key-file", self.path("server.key").display()),
            flag("token-auth-file", self.path("tokens.csv").display()),
            flag("authorization-mode", "RBAC"),
            flag("service-account-issuer", "https://kubernetes.default.svc"),
            flag("service-account-key-file", self.path("accounts.pub").display()),
            flag("service-account-signing-key-file", self.path("accounts.key").display()),
            // It would wait for ServiceAccounts that only a controller makes.
            flag("disable-admission-plugins", "ServiceAccount"),
            flag("audit-policy-file", self.path("audit-policy.yaml").display()),
            flag("audit-log-path", self.path("audit.log").display()),
            // In MiB: far more than a test writes, so that the log stays one file.
            flag("audit-log-maxsize", 4096),
            flag("profiling", false),
        ]
    }

    pub(super) fn controller_manager_arguments(&self, controllers: &[&str]) -> Vec<String> {
        vec![
            flag("kubeconfig", self.admin_kubeconfig.display()),
            flag("controllers", controllers.join(",")),
            flag("leader-elect", false),
            flag("secure-port", 0),
        ]
    }
}

fn flag(name: &str, value: impl std::fmt::Display) -> String {
    format!("--{name}={value}")
}
