//! ScrapeTargets, Secrets and ConfigMaps from files, exactly as one would `kubectl apply` them.
//!
//! It knows files and manifests; it does not know what becomes of the targets.

mod check;
mod input;
mod line;
mod load;
mod manifest;
mod secrets;
mod watch;
mod written;
mod yaml;

pub use check::{Demands, Report, check};
pub use input::{Inputs, is_stdin};
pub use load::{FileProblem, Loaded, Origin, load};
pub use manifest::Objects;
pub use watch::{Desired, Source};
pub use written::{Written, written};
pub use yaml::{Document, SyntaxError, documents};
