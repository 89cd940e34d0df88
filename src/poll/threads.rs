//! The threads that polls run on: others than those that serve, watch and hold the Lease, which so never wait behind polls.

use std::io;

use tokio::runtime::{Builder, Handle, Runtime};

/// How much less these threads are worth to the kernel, when all of the process' CPU is in use, than those that serve: about a third.
const NICENESS: i32 = 5;

/// The name of each of them, for people and for [`cpu`](super::cpu).
pub(super) const NAME: &str = "polls";

/// For translations and patterns, of which `Turns` lets twelve run at once, and for files of the name service.
const BLOCKING_THREADS: usize = 32;

/// A runtime of their own. It ends when this is dropped, without waiting for anything.
#[derive(Debug)]
pub(super) struct Threads(Option<Runtime>);

impl Threads {
    pub(super) fn start() -> io::Result<Self> {
        let runtime = Builder::new_multi_thread()
            .thread_name(NAME)
            .max_blocking_threads(BLOCKING_THREADS)
            .on_thread_start(|| {
                // Of this thread alone. Where it is forbidden, polls are worth as much as the rest.
                let _ = rustix::process::setpriority_process(None, NICENESS);
            })
            .enable_all()
            .build()?;
        Ok(Self(Some(runtime)))
    }

    pub(super) fn handle(&self) -> Option<&Handle> {
        self.0.as_ref().map(Runtime::handle)
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}
