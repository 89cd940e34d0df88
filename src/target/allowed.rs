//! Which types of target may be probed in this installation.

use std::collections::BTreeSet;

use super::{Problem, Target};
use crate::kind::Type;

/// The types with a prober that targets may have. Types that are polled with HTTP calls need no permission.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowedProbers(BTreeSet<Type>);

impl AllowedProbers {
    /// Only these. Types that are not probed make no difference.
    pub fn only(types: impl IntoIterator<Item = Type>) -> Self {
        Self(types.into_iter().collect())
    }

    fn allows(&self, kind: Type) -> bool {
        !kind.is_probed() || self.0.contains(&kind)
    }
}

/// Every type.
impl Default for AllowedProbers {
    fn default() -> Self {
        Self::only(Type::ALL.iter().copied())
    }
}

impl Target {
    /// The target in an installation that probes only some types: one of another type has a problem, so that it is never contacted.
    #[must_use]
    pub fn allowed_by(mut self, probers: &AllowedProbers) -> Self {
        let kind = self.source.kind;
        if !probers.allows(kind) {
            let allowed = Type::ALL.iter().filter(|kind| probers.allows(**kind)).map(|kind| kind.as_str());
            let message = format!(
                "type {kind} is not allowed in this installation, only {}: write another type, or have the administrator of the exporter \
                 add it to --probers",
                allowed.collect::<Vec<_>>().join(", ")
            );
            // Whatever else is wrong: this comes first.
            self.problem = Some(Problem { reason: "TypeNotAllowed", message });
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::crd::{ParsedTarget, ScrapeTarget, ScrapeTargetSpec};
    use crate::target::{Lookup, LookupError, ObjectKind, TargetId};

    struct NoObjects;

    impl Lookup for NoObjects {
        fn value(&self, kind: ObjectKind, namespace: &str, name: &str, _: &str) -> Result<Vec<u8>, LookupError> {
            Err(LookupError::NoObject { kind, namespace: namespace.to_owned(), name: name.to_owned() })
        }
    }

    #[test]
    fn only_the_allowed_types_may_be_probed_and_the_others_need_no_permission() {
        let problem = |kind: Type, url: &str, probers: &AllowedProbers| {
            let declaration = ParsedTarget::parse(ScrapeTarget::new("t", ScrapeTargetSpec::new(kind, url))).unwrap();
            let target = Target::resolve(TargetId::new("a", "t"), Arc::new(declaration), &NoObjects);
            target.allowed_by(probers).problem
        };
        let web = AllowedProbers::only([Type::Http]);
        assert_eq!(problem(Type::Http, "http://h/", &web), None);
        assert_eq!(problem(Type::Sora, "http://h/", &AllowedProbers::only([])), None);
        assert_eq!(problem(Type::Icmp, "icmp://h", &AllowedProbers::default()), None);
        let refused = problem(Type::Icmp, "icmp://h", &web).unwrap();
        assert_eq!(refused.reason, "TypeNotAllowed");
        assert!(refused.message.starts_with("type Icmp is not allowed in this installation"), "{}", refused.message);
        assert!(
            refused.message.contains("Mediasoup, Http: ") && refused.message.ends_with("--probers"),
            "{}",
            refused.message
        );
    }
}
