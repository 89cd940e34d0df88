//! What a probe leaves to be done when it is over, however it ends.

use std::fmt::Debug;

use futures::future::BoxFuture;

/// Finishes what a probe must not leave undone. A probe that passed its deadline or was cut off is dropped, and what it has borrowed from a
/// server would stay borrowed.
pub trait Aftercare: Debug + Send + Sync {
    /// Room for one thing to be done later. Whoever is going to borrow something asks for it first, since the number is limited: none if there
    /// is no more.
    fn room(&self) -> Option<Box<dyn AftercareRoom>>;
}

/// Room for one thing to be done. Whoever does not need it drops it.
pub trait AftercareRoom: Debug + Send + Sync {
    /// Has this done, for a few seconds at most. It is dropped then, or when the process ends.
    fn leave(self: Box<Self>, work: BoxFuture<'static, ()>);
}
