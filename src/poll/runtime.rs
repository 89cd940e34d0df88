//! The threads that polls run on, and the CPU of the process: how much of it the kernel allows, and how much has been used.
//!
//! Polls have threads of their own, so that serving, watching and holding the Lease never wait behind polls. Limits of CPU are read from
//! the control groups of Linux; elsewhere there are none.

use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io};

use procfs::process::{MountInfo, Process};
use rustix::time::{ClockId, clock_gettime};
use tokio::runtime::{Builder, Handle};
use tokio_util::sync::CancellationToken;

/// The nice value of these threads: when all of the process's CPU is in use, they get about a third of what the serving threads get.
const NICENESS: i32 = 5;

/// The name of each of these threads.
const THREAD_NAME: &str = "polls";

/// For each thread: translations and patterns, of which [`NamespaceShares`](super::blocking::NamespaceShares) lets twelve run at once, and
/// files of the name service.
const BLOCKING_THREADS: usize = 32;

/// Threads for polls, each with a runtime of its own: workers of one runtime would wake each other for every answer, which costs more than
/// the work on it. They end when this is dropped, without waiting for anything.
#[derive(Debug)]
pub(super) struct PollThreads {
    runtimes: Vec<Handle>,
    stop: CancellationToken,
}

impl PollThreads {
    pub(super) fn start() -> io::Result<Self> {
        let count = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let mut threads = Self { runtimes: Vec::with_capacity(count), stop: CancellationToken::new() };
        for _ in 0..count {
            let runtime = Builder::new_current_thread()
                .thread_name(THREAD_NAME)
                .max_blocking_threads(BLOCKING_THREADS)
                .on_thread_start(lower_priority)
                .enable_all()
                .build()?;
            threads.runtimes.push(runtime.handle().clone());
            let stop = threads.stop.clone();
            std::thread::Builder::new().name(THREAD_NAME.to_owned()).spawn(move || {
                lower_priority();
                runtime.block_on(stop.cancelled());
                runtime.shutdown_background();
            })?;
        }
        Ok(threads)
    }

    /// One runtime for each thread; there is at least one.
    pub(super) fn runtimes(&self) -> &[Handle] {
        &self.runtimes
    }
}

impl Drop for PollThreads {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Lowers the priority of the calling thread only. If that is not permitted, its priority stays as it is.
fn lower_priority() {
    let _ = rustix::process::setpriority_process(None, NICENESS);
}

/// CPU time of all threads since the start.
pub(super) fn cpu_used() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// CPU time of the threads of polls that still run; `None` where the kernel does not say, or there are none.
pub(super) fn cpu_used_by_polls() -> Option<Duration> {
    let threads = Process::myself().ok()?.tasks().ok()?.flatten();
    // A thread may end just now.
    let named = threads.filter(|thread| thread.stat().is_ok_and(|stat| stat.comm == THREAD_NAME));
    let times =
        named.filter_map(|thread| thread.schedstat().ok()).map(|times| Duration::from_nanos(times.sum_exec_runtime));
    times.reduce(|sum, time| sum + time)
}

/// How many cores the process may use on the average: the least of the limits of its control group and those above it. `None` where there
/// is no limit, or none that can be read.
///
/// It is read anew each time: a limit can be changed while the process runs, and the process be moved.
pub(super) fn cpu_limit() -> Option<f64> {
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
    // Without a limit, the value is `max` in version 2 and -1 in version 1.
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
        let before = cpu_used();
        while cpu_used() < before + Duration::from_millis(5) {
            std::hint::black_box(0);
        }
    }
}
