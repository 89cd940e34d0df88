//! How busy the machine is: a promise in seconds is one for a machine that has time.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part")]

use std::time::Duration;

/// How long may take what is promised within `promised`: on a machine with more to do than it has cores, everything takes as many times
/// longer. On one that is idle it is the promise itself.
///
/// For promises only, and for the limits of a server that a test sets short: who just waits is better off with
/// [`PATIENCE`](super::eventually::PATIENCE). Asked when the time is over, it knows what the machine had to do meanwhile.
pub fn allowed(promised: Duration) -> Duration {
    promised.mul_f64(1.0 + busy())
}

/// Processes that run or want to, for each core: the mean of the last minute, or those of this moment if they are more.
fn busy() -> f64 {
    // `0.20 0.18 0.12 1/80 11206`: three means, and those that want to run now of all that there are.
    let told = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let words: Vec<&str> = told.split_whitespace().collect();
    let number =
        |word: Option<&&str>| -> f64 { word.and_then(|word| word.split('/').next()?.parse().ok()).unwrap_or_default() };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    #[expect(clippy::cast_precision_loss, reason = "a small number")]
    let cores = cores as f64;
    number(words.first()).max(number(words.get(3))) / cores
}
