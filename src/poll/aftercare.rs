//! What probes leave to be done when they are over or cut off: it has a time, and a limit of how much there is at once, for each namespace and
//! for all, so that servers that do not answer cannot fill the process with it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::runtime::Handle;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use crate::kind::{Aftercare, AftercareRoom};

/// The longest that anything takes.
const LONGEST: Duration = Duration::from_secs(5);

/// Probes that may leave something at one time: those in progress, and those that have.
const MOST: usize = 8192;

/// The same of one namespace.
const MOST_OF_NAMESPACE: usize = 1024;

/// All that is left to be done.
#[derive(Clone, Debug, Default)]
pub(super) struct AftercareTasks {
    tasks: TaskTracker,
    rooms: Arc<Mutex<AftercareRooms>>,
}

/// How many rooms are taken.
#[derive(Debug, Default)]
struct AftercareRooms {
    total: usize,
    by_namespace: HashMap<Arc<str>, usize>,
}

impl AftercareTasks {
    /// For the probes of one namespace.
    pub(super) fn of(&self, namespace: &Arc<str>) -> NamespaceAftercare {
        NamespaceAftercare { all: self.clone(), namespace: Arc::clone(namespace) }
    }

    /// Waits until nothing is left, which takes some seconds at most.
    pub(super) async fn finish(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// What the probes of one namespace leave.
#[derive(Debug)]
pub(super) struct NamespaceAftercare {
    all: AftercareTasks,
    namespace: Arc<str>,
}

impl Aftercare for NamespaceAftercare {
    fn room(&self) -> Option<Box<dyn AftercareRoom>> {
        // A socket belongs to the runtime on which it was opened.
        let runtime = Handle::try_current().ok()?;
        let place = TakenRoom::take(&self.all.rooms, &self.namespace)?;
        Some(Box::new(ReservedRoom { tasks: self.all.tasks.clone(), runtime, place }))
    }
}

#[derive(Debug)]
struct ReservedRoom {
    tasks: TaskTracker,
    runtime: Handle,
    place: TakenRoom,
}

impl AftercareRoom for ReservedRoom {
    fn leave(self: Box<Self>, work: BoxFuture<'static, ()>) {
        let Self { tasks, runtime, place } = *self;
        let task = async move {
            let _ = timeout(LONGEST, work).await;
            drop(place);
        };
        tasks.spawn_on(task, &runtime);
    }
}

/// One of the rooms that are taken. Dropping it gives it back.
#[derive(Debug)]
struct TakenRoom {
    rooms: Arc<Mutex<AftercareRooms>>,
    namespace: Arc<str>,
}

impl TakenRoom {
    fn take(rooms: &Arc<Mutex<AftercareRooms>>, namespace: &Arc<str>) -> Option<Self> {
        let mut taken = rooms.lock().unwrap_or_else(PoisonError::into_inner);
        let of_namespace = taken.by_namespace.get(namespace).copied().unwrap_or(0);
        if taken.total >= MOST || of_namespace >= MOST_OF_NAMESPACE {
            return None;
        }
        taken.total += 1;
        taken.by_namespace.insert(Arc::clone(namespace), of_namespace + 1);
        drop(taken);
        Some(Self { rooms: Arc::clone(rooms), namespace: Arc::clone(namespace) })
    }
}

impl Drop for TakenRoom {
    fn drop(&mut self) {
        let mut taken = self.rooms.lock().unwrap_or_else(PoisonError::into_inner);
        taken.total -= 1;
        if let Some(of_namespace) = taken.by_namespace.get_mut(&self.namespace) {
            *of_namespace -= 1;
            if *of_namespace == 0 {
                taken.by_namespace.remove(&self.namespace);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_left_is_done_before_the_end_or_given_up() {
        let all = AftercareTasks::default();
        let namespace: Arc<str> = "team".into();
        let (done, late) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        for (flag, seconds) in [(&done, 4), (&late, 6)] {
            let flag = Arc::clone(flag);
            let work = async move {
                tokio::time::sleep(Duration::from_secs(seconds)).await;
                flag.store(true, Ordering::Relaxed);
            };
            all.of(&namespace).room().unwrap().leave(Box::pin(work));
        }
        all.finish().await;
        assert!(done.load(Ordering::Relaxed) && !late.load(Ordering::Relaxed));
        assert_eq!(all.rooms.lock().unwrap().total, 0);
    }

    #[tokio::test]
    async fn a_namespace_has_so_many_rooms_and_another_one_its_own() {
        let all = AftercareTasks::default();
        let of = |name: &str| all.of(&name.into());
        let taken: Vec<_> = (0..MOST_OF_NAMESPACE).map(|_| of("a").room().unwrap()).collect();
        assert!(of("a").room().is_none() && of("b").room().is_some());
        drop(taken);
        assert!(of("a").room().is_some());
        assert_eq!(all.rooms.lock().unwrap().by_namespace.len(), 0);
    }
}
