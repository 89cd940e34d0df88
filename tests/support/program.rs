//! The real program, started as a user starts it: its arguments, its output, its signals.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part")]

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use tempfile::TempDir;

pub use super::eventually::PATIENCE;
use super::tools;

/// The binary, without the variables of whoever runs the tests.
pub fn command<A: AsRef<std::ffi::OsStr>>(arguments: impl IntoIterator<Item = A>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_scrapetarget-exporter"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("SCRAPETARGET_") {
            command.env_remove(name);
        }
    }
    command.args(arguments).stdin(Stdio::null());
    command
}

/// What the program says and how it ends.
pub struct Said {
    pub stdout: String,
    pub stderr: String,
    pub code: Option<i32>,
}

impl Said {
    pub fn good(&self) -> bool {
        self.code == Some(0)
    }
}

/// Runs a command to its end.
pub fn run<A: AsRef<std::ffi::OsStr>>(arguments: impl IntoIterator<Item = A>) -> Said {
    said(&mut command(arguments))
}

/// Runs a command without input to its end; one that does not end is killed, and the test fails.
pub fn said(command: &mut Command) -> Said {
    said_to(command, "", PATIENCE)
}

/// A new folder with these files, by their names.
pub fn folder_with<'f>(files: impl IntoIterator<Item = (&'f str, &'f str)>) -> TempDir {
    let folder = TempDir::new().unwrap();
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

/// Runs a command with this input to its end, which must come in time.
pub fn said_to(command: &mut Command, input: &str, patience: Duration) -> Said {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let id = child.id();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_owned();
    // On its own: a command may write before it has read all, or not read at all.
    std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || sender.send(child.wait_with_output()));
    let Ok(output) = receiver.recv_timeout(patience) else {
        signal(id, "KILL");
        panic!("{command:?} did not end within {patience:?}");
    };
    let Output { status, stdout, stderr } = output.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Said { stdout: text(stdout), stderr: text(stderr), code: status.code() }
}

/// Sends a signal by its name: `TERM`, `INT`, `KILL`. After `STOP` nothing of the process runs any more.
pub fn signal(process: u32, name: &str) {
    let done = Command::new("sh").args(["-c", &format!("kill -{name} {process}")]).status().unwrap();
    assert!(done.success(), "kill -{name} {process}");
    let start = Instant::now();
    while name == "STOP" && !is_stopped(process) {
        assert!(start.elapsed() < PATIENCE, "{process} does not stop within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Whether every thread of a process is stopped: on a busy machine some run on for a while after the signal.
fn is_stopped(process: u32) -> bool {
    let mut threads = std::fs::read_dir(format!("/proc/{process}/task")).unwrap();
    threads.all(|thread| {
        let stat = std::fs::read_to_string(thread.unwrap().path().join("stat"));
        // The state follows the name, in which there may be blanks and parentheses as well. A thread that has ended has neither.
        stat.ok().is_none_or(|stat| stat.rsplit_once(") ").is_some_and(|(_, state)| state.starts_with('T')))
    })
}

/// Kills a process and removes its folder when its own input ends, which it does with the test, however that ends. A signal for the
/// whole group, as Ctrl-C sends it, is left to the test.
const GUARD: &str = r#"
trap '' HUP INT QUIT TERM
read -r _
kill -KILL "$1"
rm -rf "$2"
"#;

/// A program that goes on until it is told to stop; dropping it kills it, and so does the end of the test.
pub struct Running {
    child: Child,
    guard: Child,
    folder: TempDir,
    /// Where it listens, as `http://ADDRESS`; empty until it has said so.
    pub base: String,
}

impl Drop for Running {
    fn drop(&mut self) {
        // First, so that it cannot kill another that has got the same id.
        let _ = self.guard.kill();
        let _ = self.guard.wait();
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Running {
    /// Starts `command` with its output in files.
    pub fn spawn(mut command: Command) -> Self {
        let folder = TempDir::new().unwrap();
        let file = |name: &str| File::create(folder.path().join(name)).unwrap();
        let child = command.stdout(file("stdout")).stderr(file("stderr")).spawn().unwrap();
        let mut guard = Command::new("sh");
        guard.args(["-c", GUARD, "guard", &child.id().to_string()]).arg(folder.path());
        let guard = guard.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        Self { child, guard, folder, base: String::new() }
    }

    /// `run` on a free port with more arguments, once it has said where it listens.
    pub fn service<A: AsRef<std::ffi::OsStr>>(arguments: impl IntoIterator<Item = A>) -> Self {
        let mut command = command(["run", "--listen-address", "127.0.0.1:0"]);
        command.args(arguments);
        Self::listening(command)
    }

    /// Starts `command`, which is a `run`, and waits until it has said where it listens.
    pub fn listening(command: Command) -> Self {
        Self::saying(command, "message=listening ")
    }

    /// Prometheus on a free port, once it is ready. What it stores lies beside its configuration.
    pub async fn prometheus(config: &Path) -> Self {
        let mut command = Command::new(tools::prometheus());
        command.arg(format!("--config.file={}", config.display()));
        command.arg(format!("--storage.tsdb.path={}", config.with_file_name("data").display()));
        command.args(["--web.listen-address=127.0.0.1:0", "--web.enable-lifecycle"]);
        let server = Self::saying(command, "msg=\"Listening on\"");
        server.until_status("/-/ready", 200).await;
        server
    }

    /// Starts `command`, and waits until it has told its address in a line with this message.
    pub fn saying(command: Command, message: &str) -> Self {
        let mut running = Self::spawn(command);
        running.base = running.wait("its address", |running| {
            let log = running.log();
            let line = log.lines().find(|line| line.contains(message))?;
            let address = line.split(" address=").nth(1)?.split_whitespace().next()?;
            Some(format!("http://{address}"))
        });
        running
    }

    /// `run` on these targets, once it is ready.
    pub async fn ready<A: AsRef<std::ffi::OsStr>>(targets: &Path, arguments: impl IntoIterator<Item = A>) -> Self {
        let targets = [std::ffi::OsStr::new("--targets"), targets.as_os_str()].map(ToOwned::to_owned);
        let running = Self::service(targets.into_iter().chain(arguments.into_iter().map(|a| a.as_ref().to_owned())));
        running.until_status("/-/ready", 200).await;
        running
    }

    /// `demo` on a free port, once it has printed all it prints. Its targets have as long for a poll as its interval.
    pub fn demo() -> Self {
        let mut demo = Self::spawn(command(["demo", "--listen-address", "127.0.0.1:0", "--interval", "5s"]));
        let words = demo.wait("the URLs", |demo| demo.stdout().contains("Stop with Ctrl-C").then(|| demo.stdout()));
        let page = words.lines().find(|line| line.starts_with("The page")).expect("the page");
        let url = page.split_whitespace().last().unwrap();
        url.trim_end_matches('/').clone_into(&mut demo.base);
        demo
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Everything on stdout so far.
    pub fn stdout(&self) -> String {
        std::fs::read_to_string(self.file("stdout")).unwrap()
    }

    /// Everything on stderr so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.file("stderr")).unwrap()
    }

    /// How many lines of the log contain `text`.
    pub fn logged(&self, text: &str) -> usize {
        self.log().lines().filter(|line| line.contains(text)).count()
    }

    /// Waits for something of a program that must still run.
    pub fn wait<T>(&mut self, what: &str, mut found: impl FnMut(&Self) -> Option<T>) -> T {
        let start = Instant::now();
        loop {
            if let Some(found) = found(self) {
                return found;
            }
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "the program ended ({ended:?}) before {what}:\n{}", self.log());
            assert!(start.elapsed() < PATIENCE, "no {what} within {PATIENCE:?}:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits for the end.
    pub fn ended(&mut self) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(start.elapsed() < PATIENCE, "the program did not end within {PATIENCE:?}:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Status and body of a GET; nothing when there is no answer.
    pub async fn get(&self, path: &str) -> Option<(u16, String)> {
        get(&format!("{}{path}", self.base)).await
    }

    /// The body of a GET that must answer 200.
    pub async fn body(&self, path: &str) -> String {
        let (status, body) = self.get(path).await.unwrap_or_else(|| panic!("no answer to {path}:\n{}", self.log()));
        assert_eq!(status, 200, "{path}: {body}");
        body
    }

    /// Asks until the answer has this status.
    pub async fn until_status(&self, path: &str, wanted: u16) {
        self.until(path, |status, _| (status == wanted).then_some(())).await;
    }

    /// Asks until an answer is what one waits for.
    pub async fn until<T>(&self, path: &str, mut wanted: impl FnMut(u16, &str) -> Option<T>) -> T {
        let start = Instant::now();
        loop {
            let answer = self.get(path).await;
            if let Some(found) = answer.as_ref().and_then(|(status, body)| wanted(*status, body)) {
                return found;
            }
            let log = || self.log();
            assert!(start.elapsed() < PATIENCE, "{path} does not come to be as wanted: {answer:?}\n{}", log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Status and body of a GET; nothing when there is no answer.
pub async fn get(url: &str) -> Option<(u16, String)> {
    /// Made once: it reads the system's certificates. All runtimes share it, so that no connection may outlive its request.
    static CLIENT: LazyLock<reqwest::Client> = LazyLock::new(|| {
        super::choose_tls_provider();
        let builder = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0);
        // A look that is answered late is still a look; half of the patience, so that there is more than one.
        builder.timeout(PATIENCE / 2).build().unwrap()
    });
    let response = CLIENT.get(url).send().await.ok()?;
    Some((response.status().as_u16(), response.text().await.ok()?))
}
