//! ScrapeTargets, Secrets and ConfigMaps from files, exactly as one would `kubectl apply` them.
//!
//! It knows files and manifests; it does not know what becomes of the targets.

mod check;
mod line;
mod load;
mod manifest;
mod watch;
mod written;
mod yaml;

pub use check::{Report, check};
pub use load::{FileProblem, Loaded, Origin, load};
pub use manifest::Objects;
pub use watch::{Desired, Source};
pub use written::{Written, written};
pub use yaml::{Document, SyntaxError, documents};
