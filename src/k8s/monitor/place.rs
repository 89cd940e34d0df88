//! Where the ServiceMonitor of a target stands, by name.

use std::fmt;
use std::sync::Arc;

use super::super::{MonitorNamespace, Settings};
use crate::target::TargetId;

/// Namespace and name of a ServiceMonitor.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(in crate::k8s) struct Place {
    pub(in crate::k8s) namespace: Arc<str>,
    pub(in crate::k8s) name: Arc<str>,
}

impl Place {
    /// Where the monitor of `id` belongs: beside its target under the target's own name, or in our namespace.
    pub(super) fn of(id: &TargetId, settings: &Settings) -> Self {
        match settings.discovery.monitor_namespace {
            MonitorNamespace::Target => Self { namespace: Arc::clone(&id.namespace), name: Arc::clone(&id.name) },
            MonitorNamespace::Release => {
                Self { namespace: settings.namespace.as_str().into(), name: name_in_release(id).into() }
            }
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// The most of a target's name that is shown in a name of ours.
const SHOWN: usize = 40;

/// A name that is the same after every restart and upgrade, and another for every target.
///
/// The whole namespace stands before the first dot, and no namespace holds one: whatever hash somebody finds for the name of a target,
/// it cannot meet a monitor of another namespace.
fn name_in_release(id: &TargetId) -> String {
    let shown = id.name.get(..SHOWN).unwrap_or(&id.name).trim_end_matches(['.', '-']);
    format!("{}.{shown}-{:016x}", id.namespace, fnv(&id.to_string()))
}

/// FNV-1a: the hash of the standard library may be another in its next version.
fn fnv(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_name_in_our_namespace_shows_the_target_and_never_changes() {
        let name = |namespace, name| name_in_release(&TargetId::new(namespace, name));
        assert_eq!(name("webrtc", "sora-tokyo"), "webrtc.sora-tokyo-de7361d35ee3ef55");
        assert_ne!(name("a-b", "c"), name("a", "b-c"));
    }

    #[test]
    fn the_hash_is_the_published_one() {
        assert_eq!(fnv(""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv("a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv("foobar"), 0x8594_4171_f739_67e8);
    }

    proptest! {
        #[test]
        fn every_target_gives_a_name_that_kubernetes_takes(
            namespace in "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?",
            name in "[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?(\\.[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?){0,5}",
        ) {
            let made = name_in_release(&TargetId::new(&namespace, &name));
            let labels = made.split('.').all(|label| {
                let alphanumeric = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
                label.as_bytes().first().is_some_and(alphanumeric) && label.as_bytes().last().is_some_and(alphanumeric)
            });
            prop_assert!(labels && made.len() <= 253, "{}", made);
            prop_assert_eq!(made.split_once('.').unwrap().0, namespace);
        }
    }
}
