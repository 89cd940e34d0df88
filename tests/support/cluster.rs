//! A real Kubernetes API server with its etcd, for the tests: everything on loopback, its data in a folder that goes with it.
//!
//! No kubelet and no scheduler: a Pod never runs. Controllers only where a test asks for them. Every method may be called from inside
//! a runtime and from outside; it blocks, with a deadline.

mod audit;
mod files;
mod guarded;
mod objects;
mod rights;

use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use audit::Audit;
pub use audit::AuditLine;
use files::{Files, Ports};
pub use guarded::Guarded;
use kube::{Client, Config};
use serde_json::{Value, json};

use super::program::signal;
use super::tools;

/// How long a start may take on a busy machine: alone it takes 3 to 15 s, and here are several at a time.
const PATIENCE: Duration = Duration::from_secs(240);

/// How many private clusters there may be at a time: each takes 0.3 GiB.
const PRIVATE: usize = 4;

/// An API server that runs. Dropping it ends all its processes and removes its folder.
pub struct Cluster {
    // In the order in which they must end: etcd's end removes the folder.
    controllers: Option<Guarded>,
    apiserver: Mutex<Guarded>,
    etcd: Guarded,
    files: Files,
    ports: Ports,
    audit: Mutex<Audit>,
    /// Nothing for the one that all tests share.
    permit: Option<Permit>,
}

impl Cluster {
    /// The cluster of the whole test binary, started by the first who asks. Each test works in namespaces of its own, and leaves the
    /// server and its CRDs as they are.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Result<Cluster, String>> = OnceLock::new();
        SHARED.get_or_init(|| Self::start(None)).as_ref().unwrap_or_else(|error| panic!("{error}"))
    }

    /// A cluster of the test's own, to be stopped, killed and filled at will. It may have to wait for another test to end.
    pub fn private() -> Self {
        Self::start(Some(Permit::take())).unwrap_or_else(|error| panic!("{error}"))
    }

    /// A cluster of the test's own with these controllers of Kubernetes, such as `garbage-collector-controller`.
    pub fn with_controllers(names: &[&str]) -> Self {
        let mut cluster = Self::private();
        cluster.start_controllers(names);
        cluster
    }

    /// Starts controllers of Kubernetes. The garbage collector learns at its start which kinds there are, and again only every 30 s.
    pub fn start_controllers(&mut self, names: &[&str]) {
        let arguments = self.files.controller_manager_arguments(names);
        let log = self.files.log("controller-manager");
        self.controllers = Some(Guarded::spawn(&tools::kube_controller_manager(), &arguments, &log, None));
    }

    fn start(mut permit: Option<Permit>) -> Result<Self, String> {
        super::choose_tls_provider();
        // Asked for before there is a folder that would be left behind if one is missing.
        let programs = [tools::etcd(), tools::kube_apiserver()];
        let mut attempts = 0;
        loop {
            let ports = Ports::free();
            let files = Files::create(&ports);
            let folder = Some(files.folder.as_path());
            let etcd = Guarded::spawn(&programs[0], &files.etcd_arguments(&ports), &files.log("etcd"), folder);
            let apiserver = Mutex::new(spawn_apiserver(&files, &ports));
            let audit = Mutex::default();
            let cluster = Self { controllers: None, apiserver, etcd, files, ports, audit, permit: permit.take() };
            let Err(error) = cluster.wait_until_ready() else { return Ok(cluster) };
            attempts += 1;
            // A port that was free a moment ago may be taken by another test process.
            if attempts == 3 || !error.contains("address already in use") {
                return Err(error);
            }
            let mut failed = cluster;
            permit = failed.permit.take();
        }
    }

    /// Waits until the API server says that it is ready, and until the namespace `default` is there.
    fn wait_until_ready(&self) -> Result<(), String> {
        let start = Instant::now();
        loop {
            let ended = self.etcd.has_ended() || self.apiserver().has_ended();
            if !ended && self.is_ready() {
                return Ok(());
            }
            if ended || start.elapsed() > PATIENCE {
                let how = if ended { "ended" } else { "is not ready" };
                let logs = ["etcd", "apiserver"].map(|name| self.files.log_tail(name)).join("\n");
                return Err(format!("the API server {how} after {:?}:\n{logs}", start.elapsed()));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn is_ready(&self) -> bool {
        let config = self.config();
        block(async || {
            let client = Client::try_from(config).unwrap();
            for path in ["/readyz", "/api/v1/namespaces/default"] {
                let request = axum::http::Request::get(path).body(Vec::new()).unwrap();
                let asked = tokio::time::timeout(Duration::from_secs(5), client.request_text(request));
                if !matches!(asked.await, Ok(Ok(_))) {
                    return false;
                }
            }
            true
        })
    }

    fn apiserver(&self) -> MutexGuard<'_, Guarded> {
        self.apiserver.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `https://127.0.0.1:PORT`
    pub fn url(&self) -> String {
        self.ports.url()
    }

    /// The authority that signed the server's certificate, as a PEM file.
    pub fn ca_file(&self) -> PathBuf {
        self.files.path("ca.crt")
    }

    /// A kubeconfig of one who may do everything.
    pub fn admin_kubeconfig(&self) -> &Path {
        &self.files.admin_kubeconfig
    }

    /// The settings of a client that may do everything.
    pub fn config(&self) -> Config {
        self.files.config(&self.url())
    }

    /// A client that may do everything. It belongs to the runtime in which this is called.
    pub fn client(&self) -> Client {
        Client::try_from(self.config()).unwrap()
    }

    /// Every request to the API server so far, but for its own.
    pub fn audit(&self) -> Vec<AuditLine> {
        self.audit.lock().unwrap_or_else(PoisonError::into_inner).read(&self.files.path("audit.log"))
    }

    /// What the API server has logged so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.files.log("apiserver")).unwrap()
    }

    pub fn apiserver_pid(&self) -> u32 {
        self.apiserver().id()
    }

    pub fn etcd_pid(&self) -> u32 {
        self.etcd.id()
    }

    /// Stops the API server: it takes connections and never answers, as a machine that hangs.
    pub fn stop(&self) {
        self.harm("STOP");
    }

    /// Lets a stopped API server go on.
    pub fn cont(&self) {
        self.harm("CONT");
    }

    /// Kills the API server: nobody listens on its port any more.
    pub fn kill(&self) {
        self.harm("KILL");
        let apiserver = self.apiserver();
        until("the end of the API server", || apiserver.has_ended().then_some(()));
    }

    /// Starts the API server again, on the same port and the same data, whatever state it is in. Its watch cache is empty.
    pub fn restart(&self) {
        assert!(self.permit.is_some(), "only a test's own cluster may be harmed");
        {
            let mut apiserver = self.apiserver();
            signal_if_there(&apiserver, "KILL");
            until("the end of the API server", || apiserver.has_ended().then_some(()));
            *apiserver = spawn_apiserver(&self.files, &self.ports);
        }
        self.wait_until_ready().unwrap_or_else(|error| panic!("{error}"));
    }

    /// Makes etcd forget every version of an object but the newest. The API server answers from its own memory until `restart`;
    /// after that a watch from an older version is answered by 410.
    pub fn compact(&self) {
        let url = self.ports.etcd_url();
        block(async || {
            let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(15)).build().unwrap();
            let post = async |path: &str, body: Value| -> Value {
                let request = client.post(format!("{url}{path}")).body(body.to_string());
                let answer = request.send().await.unwrap().error_for_status().unwrap();
                serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap()
            };
            let newest =
                post("/v3/kv/range", json!({"key": "AA==", "count_only": true})).await["header"]["revision"].take();
            post("/v3/kv/compaction", json!({"revision": newest, "physical": true})).await;
        });
    }

    fn harm(&self, name: &str) {
        assert!(self.permit.is_some(), "only a test's own cluster may be harmed");
        signal(self.apiserver_pid(), name);
    }
}

fn spawn_apiserver(files: &Files, ports: &Ports) -> Guarded {
    let program = tools::kube_apiserver();
    Guarded::spawn(&program, &files.apiserver_arguments(ports), &files.log("apiserver"), None)
}

fn signal_if_there(process: &Guarded, name: &str) {
    if !process.has_ended() {
        signal(process.id(), name);
    }
}

/// Does something to its end from anywhere, also from within a runtime. It has some minutes.
fn block<T: Send>(work: impl AsyncFnOnce() -> T + Send) -> T {
    let run = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { tokio::time::timeout(PATIENCE, work()).await.expect("an answer in time") })
    };
    let ended = std::thread::scope(|scope| scope.spawn(run).join());
    ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Waits for something to be there.
fn until<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "no {what} within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The right to have a private cluster.
struct Permit;

static TAKEN: Mutex<usize> = Mutex::new(0);
static GIVEN_BACK: Condvar = Condvar::new();

impl Permit {
    fn take() -> Self {
        let taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
        let mut taken = GIVEN_BACK.wait_while(taken, |taken| *taken >= PRIVATE).unwrap_or_else(PoisonError::into_inner);
        *taken += 1;
        Self
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        *TAKEN.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        GIVEN_BACK.notify_one();
    }
}
