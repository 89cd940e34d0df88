//! ScrapeTargets, Secrets and ConfigMaps from files, as one would `kubectl apply` them.
//!
//! It reads and watches manifests, and does not know what the targets are used for.

mod check;
mod document;
mod input;
mod load;
mod manifest;
mod secrets;
mod watch;

pub use check::{CheckOptions, CheckReport, UncheckedTarget, check, unchecked_targets};
pub use document::{SyntaxError, YamlDocument, documents};
pub use input::{Inputs, is_stdin};
pub use load::{FileProblem, Loaded, Origin, load};
pub use manifest::FileObjects;
pub use watch::{FileWatcher, TargetSet};
