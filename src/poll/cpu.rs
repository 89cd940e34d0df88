//! The CPU of this process: how much of it the kernel allows, and how much has been used. Only Linux' control groups say so.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use procfs::process::{MountInfo, Process};
use rustix::time::{ClockId, clock_gettime};

/// CPU time of all threads since the start.
pub(super) fn used() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// The same of those threads that have this name, and still run; `None` where the kernel does not say, or there are none.
pub(super) fn used_by(name: &str) -> Option<Duration> {
    let threads = Process::myself().ok()?.tasks().ok()?.flatten();
    // A thread may end just now.
    let named = threads.filter(|thread| thread.stat().is_ok_and(|stat| stat.comm == name));
    let times =
        named.filter_map(|thread| thread.schedstat().ok()).map(|times| Duration::from_nanos(times.sum_exec_runtime));
    times.reduce(|sum, time| sum + time)
}

/// How many cores the process may use on the average: the least of the limits of its control group and those above it. `None` where there
/// is no limit, or none that can be read.
///
/// It is read anew each time: a limit can be changed while the process runs, and the process be moved.
pub(super) fn limit() -> Option<f64> {
    let process = Process::myself().ok()?;
    let mounts = process.mountinfo().ok()?;
    let groups = process.cgroups().ok()?;
    let folders = groups.into_iter().filter_map(|group| {
        let version_1 = !group.controllers.is_empty();
        if version_1 && !group.controllers.iter().any(|controller| controller == "cpu") {
            return None;
        }
        mounts.iter().find_map(|mount| {
            let fits = if version_1 {
                mount.fs_type == "cgroup" && mount.super_options.contains_key("cpu")
            } else {
                mount.fs_type == "cgroup2"
            };
            fits.then(|| folder(mount, &group.pathname))
        })
    });
    folders.flat_map(|(folder, top)| limits(&folder, &top)).reduce(f64::min)
}

/// The folder of a group below a mount, and that of the mount. In a container the mount may begin at the container's own group.
fn folder(mount: &MountInfo, group: &str) -> (PathBuf, PathBuf) {
    let top = mount.mount_point.clone();
    let below = Path::new(group).strip_prefix(&mount.root).unwrap_or_else(|_| Path::new(""));
    (top.join(below), top)
}

/// The limits of a group and of all above it that can be seen.
fn limits(folder: &Path, top: &Path) -> Vec<f64> {
    folder.ancestors().take_while(|above| above.starts_with(top)).filter_map(limit_of).collect()
}

fn limit_of(folder: &Path) -> Option<f64> {
    let read = |name: &str| fs::read_to_string(folder.join(name)).ok();
    let (quota, period) = match read("cpu.max") {
        Some(text) => {
            let (quota, period) = text.trim().split_once(' ')?;
            (quota.to_owned(), period.to_owned())
        }
        None => (read("cpu.cfs_quota_us")?, read("cpu.cfs_period_us")?),
    };
    // Without a limit it is `max` in version 2, and -1 in version 1.
    let (quota, period) = (quota.trim().parse::<f64>().ok()?, period.trim().parse::<f64>().ok()?);
    (quota > 0.0 && period > 0.0).then(|| quota / period)
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    fn group(files: &[(&str, &str)]) -> TempDir {
        let folder = TempDir::new().unwrap();
        for (name, text) in files {
            fs::create_dir_all(folder.path().join(name).parent().unwrap()).unwrap();
            fs::write(folder.path().join(name), text).unwrap();
        }
        folder
    }

    fn least(top: &TempDir, of: &str) -> Option<f64> {
        limits(&top.path().join(of), top.path()).into_iter().reduce(f64::min)
    }

    #[test]
    fn the_least_limit_of_a_group_and_those_above_it_counts_in_both_versions() {
        let two = group(&[
            ("cpu.max", "max 100000\n"),
            ("pod/cpu.max", "20000 100000\n"),
            ("pod/it/cpu.max", "max 100000\n"),
        ]);
        assert_eq!(least(&two, "pod/it"), Some(0.2));
        assert_eq!(least(&two, ""), None);
        let one = group(&[
            ("pod/cpu.cfs_quota_us", "150000\n"),
            ("pod/cpu.cfs_period_us", "100000\n"),
            ("pod/it/cpu.cfs_quota_us", "-1\n"),
            ("pod/it/cpu.cfs_period_us", "100000\n"),
        ]);
        assert_eq!(least(&one, "pod/it"), Some(1.5));
        assert_eq!(least(&group(&[("cpu.max", "what\n")]), ""), None);
    }

    #[test]
    fn cpu_that_is_used_is_counted() {
        let before = used();
        while used() < before + Duration::from_millis(5) {
            std::hint::black_box(0);
        }
    }
}
