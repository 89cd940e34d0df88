//! A process of somebody else that must not outlive the test, however the test ends.
//!
//! A static is not dropped when a program exits, and nothing is dropped when it is killed. So each process is started by a small
//! shell that reads from a pipe of ours: the pipe's end is the order to kill.

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The arguments are a file for the output, a folder to remove at the end (or nothing), the program and what it is told. A signal for
/// the whole group, as Ctrl-C sends it, is left to the test: when that ends, the pipe ends as well. The program holds the shell's
/// standard output open as its descriptor 3, so that its end can be seen.
const SCRIPT: &str = r#"
trap '' HUP INT QUIT TERM
log=$1 folder=$2
shift 2
"$@" 3>&1 >>"$log" 2>&1 </dev/null &
echo $!
exec >/dev/null
read -r _
kill -KILL $! 2>/dev/null
wait $! 2>/dev/null
[ -z "$folder" ] || rm -rf "$folder" || { sleep 1; rm -rf "$folder"; }
"#;

/// A running process; dropping it kills it.
pub struct Guarded {
    shell: Child,
    order: Option<ChildStdin>,
    ended: Arc<AtomicBool>,
    id: u32,
}

impl Guarded {
    /// Starts `program` with its output in `log`; when all has ended, `folder` is removed.
    pub fn spawn(program: &Path, arguments: &[String], log: &Path, folder: Option<&Path>) -> Self {
        // Made here, so that it is there to be read also before the shell gets that far.
        OpenOptions::new().create(true).append(true).open(log).unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", SCRIPT, "guard"]).arg(log).arg(folder.unwrap_or_else(|| Path::new(""))).arg(program);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut shell = command.spawn().unwrap();
        let order = shell.stdin.take();
        let mut output = BufReader::new(shell.stdout.take().unwrap());
        let mut first = String::new();
        output.read_line(&mut first).unwrap();
        let id = first.trim().parse().unwrap_or_else(|_| panic!("{} was not started", program.display()));
        let ended = Arc::<AtomicBool>::default();
        let tell = Arc::clone(&ended);
        std::thread::spawn(move || {
            let _ = output.read_to_end(&mut Vec::new());
            tell.store(true, Ordering::Release);
        });
        Self { shell, order, ended, id }
    }

    pub fn id(&self) -> u32 {
        self.id
    }

    /// Whether the process is gone.
    pub fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        self.order = None;
        let _ = self.shell.wait();
    }
}
