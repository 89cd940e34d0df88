//! Logs that the API server cannot be used, once an outage has lasted for a while, and that it can be used again. An outage is logged once,
//! however many parts of the controller notice it.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::client::ApiError;

/// A shorter outage is not logged: it may be a restart of the API server.
const LOG_DELAY: Duration = Duration::from_secs(5);

/// A part of the controller that needs the API server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    /// The watch of the Lease.
    Lease,
    /// The watch of a scope of ScrapeTargets.
    Targets(usize),
    /// The watch of a scope of EndpointSlices.
    EndpointSlices(usize),
    /// The writer of statuses.
    Statuses,
}

/// The parts that cannot use the API server, and what was logged about it.
#[derive(Debug, Default)]
pub(super) struct Outage(Mutex<OutageState>);

#[derive(Debug, Default)]
struct OutageState {
    /// The parts that fail, and since when.
    failing: BTreeMap<Part, Instant>,
    logged: Option<LoggedOutage>,
}

#[derive(Clone, Copy, Debug)]
struct LoggedOutage {
    since: Instant,
    /// Whether the message was about watches, which says more than one about statuses.
    of_watches: bool,
}

impl Part {
    fn is_watch(self) -> bool {
        self != Self::Statuses
    }
}

impl Outage {
    /// The API server has failed a part. `known`: whether the targets are known, so that polls go on.
    pub(super) fn failed(&self, part: Part, error: &ApiError, known: bool) {
        let mut state = self.lock();
        let now = Instant::now();
        state.failing.entry(part).or_insert(now);
        let alike = state.failing.iter().filter(|(other, _)| other.is_watch() == part.is_watch());
        let since = alike.map(|(_, since)| *since).min().unwrap_or(now);
        // A message about statuses adds nothing to one about watches.
        let is_logged = if part.is_watch() {
            state.logged.is_some_and(|logged| logged.of_watches)
        } else {
            state.logged.is_some() || state.failing.keys().any(|part| part.is_watch())
        };
        if is_logged || since.elapsed() < LOG_DELAY {
            return;
        }
        let since = state.logged.map_or(since, |logged| logged.since.min(since));
        state.logged = Some(LoggedOutage { since, of_watches: part.is_watch() });
        match part {
            Part::Statuses => tracing::warn!(%error, "the API server does not accept statuses, retrying"),
            Part::Lease | Part::Targets(_) | Part::EndpointSlices(_) if known => tracing::warn!(
                %error,
                "the API server cannot be watched: known targets are still polled, and the leader does not change"
            ),
            Part::Lease | Part::Targets(_) | Part::EndpointSlices(_) => tracing::warn!(
                %error,
                "the API server cannot be watched: no target is known yet, and scrapes are answered with 503"
            ),
        }
    }

    /// The API server has served a part.
    pub(super) fn works(&self, part: Part) {
        let mut state = self.lock();
        state.failing.remove(&part);
        if part.is_watch() && !state.failing.keys().any(|part| part.is_watch()) {
            // The failed status may not be written again soon. If the next one fails, that is another outage.
            state.failing.remove(&Part::Statuses);
        }
        if state.failing.is_empty()
            && let Some(LoggedOutage { since, .. }) = state.logged.take()
        {
            tracing::info!(after = ?Duration::from_secs(since.elapsed().as_secs()), "the API server is back");
        }
    }

    fn lock(&self) -> MutexGuard<'_, OutageState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::{self, Write};
    use std::sync::Arc;

    use tracing::subscriber::{DefaultGuard, set_default};

    use super::*;

    /// Captures what this thread logs.
    #[derive(Clone, Default)]
    pub(in crate::k8s) struct Log(Arc<Mutex<Vec<u8>>>);

    impl Log {
        /// Until the guard is dropped.
        pub(in crate::k8s) fn begin() -> (Self, DefaultGuard) {
            let log = Self::default();
            let writer = log.clone();
            let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
            (log, set_default(subscriber))
        }

        pub(in crate::k8s) fn count(&self, words: &str) -> usize {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap().matches(words).count()
        }
    }

    impl Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn unreachable() -> ApiError {
        ApiError::silent("refused")
    }

    #[tokio::test(start_paused = true)]
    async fn however_many_parts_notice_an_outage_its_beginning_and_its_end_are_logged_once() {
        let (log, _guard) = Log::begin();
        let outage = Outage::default();
        let parts = [Part::Statuses, Part::Lease, Part::Targets(0), Part::Targets(1)];
        let all = || parts.map(|part| outage.failed(part, &unreachable(), true));
        all();
        assert_eq!(log.count("WARN"), 0, "a restart is not logged");
        tokio::time::advance(LOG_DELAY).await;
        all();
        all();
        assert_eq!((log.count("WARN"), log.count("known targets are still polled")), (1, 1));
        for part in parts {
            assert_eq!(log.count("is back"), 0);
            outage.works(part);
        }
        assert_eq!(log.count("is back after=5s"), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn an_outage_of_the_watches_is_logged_after_one_of_statuses_and_ends_although_nothing_is_left_to_write() {
        let (log, _guard) = Log::begin();
        let outage = Outage::default();
        outage.failed(Part::Statuses, &unreachable(), true);
        tokio::time::advance(LOG_DELAY).await;
        outage.failed(Part::Statuses, &unreachable(), true);
        outage.failed(Part::Lease, &unreachable(), true);
        assert_eq!((log.count("does not accept statuses"), log.count("cannot be watched")), (1, 0));
        tokio::time::advance(LOG_DELAY).await;
        outage.failed(Part::Lease, &unreachable(), true);
        assert_eq!((log.count("does not accept statuses"), log.count("cannot be watched")), (1, 1));
        outage.works(Part::Lease);
        assert_eq!(log.count("is back after=10s"), 1);
        outage.failed(Part::Lease, &unreachable(), true);
        assert_eq!(log.count("WARN"), 2, "a single failure after that is not logged");
    }

    #[tokio::test(start_paused = true)]
    async fn where_no_target_is_known_the_message_does_not_say_that_polls_go_on() {
        let (log, _guard) = Log::begin();
        let outage = Outage::default();
        outage.failed(Part::Targets(0), &unreachable(), false);
        tokio::time::advance(LOG_DELAY).await;
        outage.failed(Part::Targets(0), &unreachable(), false);
        assert_eq!((log.count("no target is known yet"), log.count("still polled")), (1, 0));
    }
}
