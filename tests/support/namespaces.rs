//! A test in network and mount namespaces of its own: names and addresses there are what the test says, and nobody else's.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part")]

use std::fs;
use std::process::Command;
use std::time::Duration;

use super::program::said_to;

/// Longer than any such test takes on a busy machine.
const PATIENCE: Duration = Duration::from_mins(10);

/// Set for the one that runs inside, to its name.
const INSIDE: &str = "TEST_IN_NAMESPACES";

/// Loopback is up, and the files about names are ones that the test may write.
const SETUP: &str = r#"
ip link set lo up
mount -t tmpfs none /mnt
echo '127.0.0.1 localhost' > /mnt/hosts
echo 'nameserver 127.0.0.1' > /mnt/resolv.conf
mount --bind /mnt/hosts /etc/hosts
mount --bind /mnt/resolv.conf /etc/resolv.conf
for address in $0; do ip address add "$address" dev lo; done
exec "$@"
"#;

/// Runs the test of this name, with its modules, once more in namespaces where loopback has these addresses as well. True for the one that
/// runs there, and must go on; false once that one has succeeded.
pub fn inside(test: &str, addresses: &[&str]) -> bool {
    if std::env::var_os(INSIDE).is_some_and(|name| name == test) {
        return true;
    }
    let mut command = Command::new("unshare");
    if !fs::read_to_string("/proc/self/status").unwrap().lines().any(|line| line.starts_with("Uid:\t0\t")) {
        command.arg("--map-root-user");
    }
    command.args(["--net", "--mount", "--", "sh", "-ec", SETUP, &addresses.join(" ")]);
    command.arg(std::env::current_exe().unwrap()).args(["--exact", test, "--nocapture"]).env(INSIDE, test);
    let said = said_to(&mut command, "", PATIENCE);
    assert!(said.good() && said.stdout.contains("1 passed"), "{}\n{}", said.stdout, said.stderr);
    false
}

/// Says how names are resolved from now on.
pub fn resolve_by(resolv_conf: &str) {
    fs::write("/etc/resolv.conf", resolv_conf).unwrap();
}

/// Says which hosts are known without a name server from now on.
pub fn hosts(text: &str) {
    fs::write("/etc/hosts", format!("127.0.0.1 localhost\n{text}")).unwrap();
}
