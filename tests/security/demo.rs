//! `demo` as root, in a temporary folder where everybody may write.

use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use super::support::program::{Running, command, said};

/// `demo` with this temporary folder, after the shell that becomes it has run `before`: `$$` is its process id already.
fn demo(folder: &TempDir, before: &str, arguments: &str) -> Command {
    let program = command::<&str>([]);
    let mut shell = Command::new("sh");
    let script = format!("{before}\nexec \"$0\" demo --listen-address 127.0.0.1:0 {arguments}");
    shell.arg("-c").arg(script).arg(program.get_program()).env("TMPDIR", folder.path()).stdin(Stdio::null());
    shell
}

#[test]
fn a_folder_or_link_that_somebody_laid_ready_is_not_written_through() {
    let (folder, victim) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    std::fs::write(victim.path().join("targets.yaml"), "mine").unwrap();
    let before = format!("ln -s {} \"$TMPDIR/scrapetarget-demo-$$\"", victim.path().display());
    let said = said(&mut demo(&folder, &before, "--once"));
    assert!(said.good(), "{}", said.stderr);
    let mut left = std::fs::read_dir(victim.path()).unwrap().map(|entry| entry.unwrap().file_name());
    assert_eq!((left.next(), left.next()), (Some("targets.yaml".into()), None));
    assert_eq!(std::fs::read_to_string(victim.path().join("targets.yaml")).unwrap(), "mine");
}

#[test]
fn nobody_else_can_guess_its_folder_nor_look_into_it_and_it_is_gone_in_the_end() {
    let folder = TempDir::new().unwrap();
    let mut names = Vec::new();
    for _ in 0..2 {
        let mut running = Running::spawn(demo(&folder, "umask 000", ""));
        let id = running.id();
        running.wait("its words", |running| running.stdout().contains("Stop with Ctrl-C").then_some(()));
        let entries: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(Result::unwrap).collect();
        assert_eq!(entries.len(), 1, "{entries:?}");
        assert_eq!(entries[0].metadata().unwrap().permissions().mode() & 0o7777, 0o700);
        let name = entries[0].file_name().into_string().unwrap();
        let random = name.strip_prefix("scrapetarget-demo-").unwrap().to_owned();
        assert!(random.len() >= 6 && random != id.to_string() && !names.contains(&random), "{random}");
        names.push(random);
        super::support::program::signal(id, "TERM");
        assert!(running.ended().success());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
