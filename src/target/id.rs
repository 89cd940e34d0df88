//! The name of a target.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// `namespace/name` of a ScrapeTarget. Cheap to clone; orders by namespace, then name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TargetId {
    /// The namespace; `default` where a manifest names none.
    pub namespace: Arc<str>,
    /// The name, unique in its namespace.
    pub name: Arc<str>,
}

impl TargetId {
    /// The target `name` in `namespace`.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for TargetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A text that is no `namespace/name`.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not of the form namespace/name")]
pub struct TargetIdError(String);

impl FromStr for TargetId {
    type Err = TargetIdError;

    fn from_str(text: &str) -> Result<Self, TargetIdError> {
        match text.split_once('/') {
            Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
                Ok(Self::new(namespace, name))
            }
            _ => Err(TargetIdError(text.to_owned())),
        }
    }
}
