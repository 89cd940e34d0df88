//! Waiting for what comes about by itself, however busy the machine is.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part")]

use std::time::{Duration, Instant};

/// Longer than anything takes that takes a moment where there is time for it: a build beside it, on two cores, makes a second a minute.
/// What hangs is found all the same. Who waits for a time that is somebody's own, such as a pause between two tries, adds it.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Between two looks: what is looked at is to have the time, too.
const PAUSE: Duration = Duration::from_millis(50);

/// Asks until the answer is what one waits for; else the test fails with what was wrong last.
pub async fn eventually<T>(patience: Duration, mut ask: impl AsyncFnMut() -> Result<T, String>) -> T {
    let start = Instant::now();
    loop {
        match ask().await {
            Ok(found) => return found,
            Err(last) => assert!(start.elapsed() < patience, "not within {patience:?}: {last}"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// The same for one who has no runtime, or may hold it up.
pub fn eventually_blocking<T>(patience: Duration, mut ask: impl FnMut() -> Result<T, String>) -> T {
    let start = Instant::now();
    loop {
        match ask() {
            Ok(found) => return found,
            Err(last) => assert!(start.elapsed() < patience, "not within {patience:?}: {last}"),
        }
        std::thread::sleep(PAUSE);
    }
}

/// Lets this much time pass for what is tested, in one moment. It has the test's own runtime, which has one thread.
pub async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}
