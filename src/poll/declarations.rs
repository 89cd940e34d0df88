//! What is wrong with the declarations of targets, for the status page and for refused requests.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::SystemTime;

use tokio::sync::watch;

use crate::target::{RefusedTarget, TargetId};

/// What is wrong with declarations.
#[derive(Debug, Default)]
pub struct Mistakes {
    /// Targets with an invalid declaration, and since when. A target that also has a poller is polled by its last valid declaration.
    pub refused: BTreeMap<TargetId, (RefusedTarget, SystemTime)>,
    /// The error messages, up to a limit.
    pub sentences: Vec<String>,
    /// How many more messages there are.
    pub untold: usize,
}

/// Why the targets are not known, and what is wrong with their declarations.
#[derive(Debug)]
pub(super) struct Declarations {
    /// `None` once the targets are known.
    unknown: watch::Sender<Option<Arc<str>>>,
    mistakes: RwLock<Arc<Mistakes>>,
}

impl Declarations {
    pub(super) fn new() -> Self {
        let unknown = watch::Sender::new(Some(Arc::from("nothing has been read yet")));
        Self { unknown, mistakes: RwLock::default() }
    }

    pub(super) fn unknown(&self) -> Option<Arc<str>> {
        self.unknown.borrow().clone()
    }

    pub(super) async fn until_known(&self) {
        let _ = self.unknown.subscribe().wait_for(Option::is_none).await; // its sender is ours
    }

    pub(super) fn put_unknown(&self, why: Option<&str>) {
        self.unknown.send_replace(why.map(Arc::from));
    }

    pub(super) fn mistakes(&self) -> Arc<Mistakes> {
        Arc::clone(&self.mistakes.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn put_mistakes(&self, refused: Vec<RefusedTarget>, sentences: Vec<String>, untold: usize) {
        let before = self.mistakes();
        let now = SystemTime::now();
        let since = |refused: &RefusedTarget| before.refused.get(&refused.id).map_or(now, |(_, since)| *since);
        let refused = refused.into_iter().map(|refused| (refused.id.clone(), (since(&refused), refused)));
        let refused = refused.map(|(id, (since, refused))| (id, (refused, since))).collect();
        let mistakes = Arc::new(Mistakes { refused, sentences, untold });
        *self.mistakes.write().unwrap_or_else(PoisonError::into_inner) = mistakes;
    }
}
