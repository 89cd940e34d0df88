//! Whether the API server can be used: one line in the log when it cannot for a while, and one when it can again, whoever of us noticed.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::client::ApiError;

/// A restart of the API server is no news.
const PATIENCE: Duration = Duration::from_secs(5);

/// One who needs the API server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    /// The watch of the Lease.
    Lease,
    /// The watch of a scope of ScrapeTargets.
    Targets(usize),
    /// Who writes statuses.
    Statuses,
}

/// Who cannot use it, and what was said of that.
#[derive(Debug, Default)]
pub(super) struct Outage(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Since when.
    without: BTreeMap<Part, Instant>,
    /// What was told.
    told: Option<Told>,
}

#[derive(Clone, Copy, Debug)]
struct Told {
    /// Since when it has been so.
    since: Instant,
    /// It was that nothing can be watched, which says more than that no status is taken.
    of_watches: bool,
}

impl Part {
    fn is_watch(self) -> bool {
        self != Self::Statuses
    }
}

impl Outage {
    /// It has failed a part once more. `known`: whether there are targets that can be polled on.
    pub(super) fn lasts(&self, part: Part, error: &ApiError, known: bool) {
        let mut state = self.lock();
        let now = Instant::now();
        state.without.entry(part).or_insert(now);
        let alike = state.without.iter().filter(|(other, _)| other.is_watch() == part.is_watch());
        let since = alike.map(|(_, since)| *since).min().unwrap_or(now);
        // Who writes statuses adds nothing to what the watches tell.
        let is_told = if part.is_watch() {
            state.told.is_some_and(|told| told.of_watches)
        } else {
            state.told.is_some() || state.without.keys().any(|part| part.is_watch())
        };
        if is_told || since.elapsed() < PATIENCE {
            return;
        }
        let since = state.told.map_or(since, |told| told.since.min(since));
        state.told = Some(Told { since, of_watches: part.is_watch() });
        match part {
            Part::Statuses => tracing::warn!(%error, "the API server takes no statuses, they are tried again"),
            Part::Lease | Part::Targets(_) if known => tracing::warn!(
                %error,
                "the API server cannot be watched: the targets that are known are polled on, and nobody takes or loses the lead"
            ),
            Part::Lease | Part::Targets(_) => tracing::warn!(
                %error,
                "the API server cannot be watched: no target is known yet, and scrapes are answered by 503"
            ),
        }
    }

    /// It has served a part, which may have been so all the time.
    pub(super) fn over(&self, part: Part) {
        let mut state = self.lock();
        state.without.remove(&part);
        if part.is_watch() && !state.without.keys().any(|part| part.is_watch()) {
            // Nothing may be left to write. If the next status fails, that is news.
            state.without.remove(&Part::Statuses);
        }
        if state.without.is_empty()
            && let Some(Told { since, .. }) = state.told.take()
        {
            tracing::info!(after = ?Duration::from_secs(since.elapsed().as_secs()), "the API server is back");
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::{self, Write};
    use std::sync::Arc;

    use tracing::subscriber::{DefaultGuard, set_default};

    use super::*;

    /// What this thread logs.
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

    fn away() -> ApiError {
        ApiError::silent("refused")
    }

    #[tokio::test(start_paused = true)]
    async fn however_many_notice_it_an_outage_has_one_beginning_and_one_end() {
        let (log, _guard) = Log::begin();
        let outage = Outage::default();
        let parts = [Part::Statuses, Part::Lease, Part::Targets(0), Part::Targets(1)];
        let all = || parts.map(|part| outage.lasts(part, &away(), true));
        all();
        assert_eq!(log.count("WARN"), 0, "a restart is no news");
        tokio::time::advance(PATIENCE).await;
        all();
        all();
        assert_eq!((log.count("WARN"), log.count("are polled on")), (1, 1));
        for part in parts {
            assert_eq!(log.count("is back"), 0);
            outage.over(part);
        }
        assert_eq!(log.count("is back after=5s"), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn an_outage_of_the_watches_is_told_after_one_of_statuses_and_ends_although_nothing_is_left_to_write() {
        let (log, _guard) = Log::begin();
        let outage = Outage::default();
        outage.lasts(Part::Statuses, &away(), true);
        tokio::time::advance(PATIENCE).await;
        outage.lasts(Part::Statuses, &away(), true);
        outage.lasts(Part::Lease, &away(), true);
        assert_eq!((log.count("takes no statuses"), log.count("cannot be watched")), (1, 0));
        tokio::time::advance(PATIENCE).await;
        outage.lasts(Part::Lease, &away(), true);
        assert_eq!((log.count("takes no statuses"), log.count("cannot be watched")), (1, 1));
        outage.over(Part::Lease);
        assert_eq!(log.count("is back after=10s"), 1);
        outage.lasts(Part::Lease, &away(), true);
        assert_eq!(log.count("WARN"), 2, "a single failure after that is no news");
    }

    #[tokio::test(start_paused = true)]
    async fn where_no_target_is_known_none_is_said_to_be_polled_on() {
        let (log, _guard) = Log::begin();
        let outage = Outage::default();
        outage.lasts(Part::Targets(0), &away(), false);
        tokio::time::advance(PATIENCE).await;
        outage.lasts(Part::Targets(0), &away(), false);
        assert_eq!((log.count("no target is known yet"), log.count("polled on")), (1, 0));
    }
}
