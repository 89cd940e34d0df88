//! Work that may take long, on a thread of its own, when it is the target's turn: bounded by the poll's deadline. It does not know what
//! the work is.

use std::time::Duration;

use tokio::time::Instant;

use super::turns::{Turn, Turns};
use crate::kind::{CallError, Reason};
use crate::metric::Stop;
use crate::target::Target;

/// How long a translation may take, however late the poll's deadline is: others wait for its turn.
const LONGEST_TRANSLATION: Duration = Duration::from_secs(10);

/// What a translation may take beyond the poll's deadline: an answer that came late is still worth something.
const OVERTIME: Duration = Duration::from_millis(250);

/// How long a translation that was told to stop is waited for. It may be in the middle of a document that is read as a whole.
const STOPPING: Duration = Duration::from_millis(250);

/// Why work that is done elsewhere brought nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Late {
    /// Its turn did not come in time.
    Waiting,
    /// It did not end in time.
    Working,
    /// It panicked, or the program ends.
    Aborted,
}

impl Late {
    pub(super) const fn reason(self) -> Reason {
        match self {
            Self::Waiting | Self::Working => Reason::Timeout,
            Self::Aborted => Reason::Internal,
        }
    }

    pub(super) fn of_translation(self) -> CallError {
        let message = match self {
            Self::Waiting => "the answer came in time, but others were translated until the timeout",
            Self::Working => "the answer came in time, but could not be translated before the timeout",
            Self::Aborted => "the translation was aborted: please report this",
        };
        CallError::new(self.reason(), message)
    }
}

/// Tells work to stop that nobody waits for any more, be it that the target has been removed.
struct StopsWhenDropped(Stop);

impl Drop for StopsWhenDropped {
    fn drop(&mut self) {
        self.0.set();
    }
}

/// Waits for the target's turn, until `deadline` or a little longer.
pub(super) async fn turn(target: &Target, turns: &Turns, deadline: Instant) -> Result<Turn, Late> {
    let deadline = deadline.max(Instant::now() + OVERTIME);
    let turn = tokio::time::timeout_at(deadline, turns.take(&target.id.namespace)).await;
    turn.ok().flatten().ok_or(Late::Waiting)
}

/// Does `work` on a thread that may take its time. Ends soon after `deadline`, whatever the work does, which keeps its turn until it has
/// ended.
pub(super) async fn aside<T: Send + 'static>(
    turn: Turn,
    deadline: Instant,
    work: impl FnOnce(Stop) -> T + Send + 'static,
) -> Result<T, Late> {
    let deadline = deadline.max(Instant::now() + OVERTIME);
    let stop = StopsWhenDropped(Stop::default());
    let told = stop.0.clone();
    let mut done = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        work(told)
    });
    let end = deadline.min(Instant::now() + LONGEST_TRANSLATION);
    let result = if let Ok(result) = tokio::time::timeout_at(end, &mut done).await {
        result
    } else {
        stop.0.set();
        tokio::time::timeout(STOPPING, done).await.map_err(|_| Late::Working)?
    };
    result.map_err(|_| Late::Aborted)
}
