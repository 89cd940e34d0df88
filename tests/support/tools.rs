//! Programs of the Prometheus project that judge what we write.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part")]

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// A tool by the variable that `make` sets, else by its name on the PATH.
fn tool(variable: &str, name: &str) -> PathBuf {
    let set = std::env::var_os(variable).map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = set
        .clone()
        .into_iter()
        .chain(std::env::split_paths(&path).map(|folder| folder.join(name)))
        .find(|file| file.is_file());
    let given = set.map(|set| format!(" ({variable} is {})", set.display())).unwrap_or_default();
    found.unwrap_or_else(|| {
        panic!("{name} is not there{given}: run `make tools`, then `make unit`, or put {name} on the PATH")
    })
}

pub fn prometheus() -> PathBuf {
    tool("PROMETHEUS", "prometheus")
}

/// What `promtool check metrics` finds in a text; an error if it cannot read it.
pub fn lint(text: &str) -> Result<Vec<String>, String> {
    let mut command = Command::new(tool("PROMTOOL", "promtool"));
    command.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(text.as_bytes()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    match output.status.code() {
        Some(0) if said.is_empty() => Ok(Vec::new()),
        // 3: it could be read, and there are findings.
        Some(3) => Ok(said.lines().map(ToOwned::to_owned).collect()),
        code => Err(format!("exit code {code:?}: {said}")),
    }
}
