//! Every transport of a document with what it stands in.

use super::document::{App, Document, Router, Transport, Worker};
use super::lenient::{Object, Word};

/// A transport and where it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'d> {
    pub(super) worker: &'d Worker,
    pub(super) router: &'d Router,
    pub(super) transport: &'d Transport,
}

impl Document {
    /// Every router with its worker, in the order of the document.
    pub(super) fn routers(&self) -> impl Iterator<Item = (&Worker, &Router)> {
        self.workers.items.iter().flat_map(|worker| worker.routers.items.iter().map(move |router| (worker, router)))
    }

    /// Every transport, in the order of the document.
    pub(super) fn transports(&self) -> impl Iterator<Item = Place<'_>> {
        self.routers().flat_map(|(worker, router)| {
            router.transports.items.iter().map(move |transport| Place { worker, router, transport })
        })
    }
}

impl<'d> Place<'d> {
    /// What the application attached to an object of this transport, else to the transport, else to its router.
    pub(super) fn app(self, own: &'d Object<App>, field: fn(&App) -> &Word) -> &'d str {
        [own, &self.transport.app, &self.router.app]
            .into_iter()
            .find_map(|app| field(app.get()?).get())
            .unwrap_or_default()
    }
}
