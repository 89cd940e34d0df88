//! Which targets may be probed in this installation.

use std::collections::BTreeSet;

use super::{Problem, Target};
use crate::kind::{Engine, ProbeLimits, Type};

/// The types that targets may have among those that can reach servers of any kind, and how much may be probed. The others need no permission.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowedProbers {
    types: BTreeSet<Type>,
    limits: ProbeLimits,
}

impl AllowedProbers {
    /// Only these. Types that need no permission make no difference.
    pub fn only(types: impl IntoIterator<Item = Type>) -> Self {
        Self { types: types.into_iter().collect(), limits: ProbeLimits::default() }
    }

    /// The same up to these limits.
    #[must_use]
    pub const fn up_to(mut self, limits: ProbeLimits) -> Self {
        self.limits = limits;
        self
    }

    fn allows(&self, kind: Type) -> bool {
        !kind.may_be_forbidden() || self.types.contains(&kind)
    }
}

/// Every type.
impl Default for AllowedProbers {
    fn default() -> Self {
        Self::only(Type::ALL.iter().copied())
    }
}

impl Target {
    /// The target in an installation that probes only some types, and so much: one of another type, or that is more, has a problem, so that it
    /// is never contacted.
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
        } else if let Some(Engine::Probe(prober)) = self.engine()
            && let Some(error) = prober.exceeds(&probers.limits)
        {
            self.problem = Some(Problem { reason: "LimitExceeded", message: error.to_string() });
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

    #[test]
    fn what_is_larger_than_the_limits_is_never_probed() {
        let spec = serde_json::json!({ "type": "Icmp", "url": "icmp://h", "icmp": { "payloadSize": 1473 } });
        let spec = serde_json::from_value::<ScrapeTargetSpec>(spec).unwrap();
        let declaration = Arc::new(ParsedTarget::parse(ScrapeTarget::new("t", spec)).unwrap());
        let problem = |probers: &AllowedProbers| {
            let target = Target::resolve(TargetId::new("a", "t"), Arc::clone(&declaration), &NoObjects);
            target.allowed_by(probers).problem
        };
        let refused = problem(&AllowedProbers::default()).unwrap();
        assert_eq!(refused.reason, "LimitExceeded");
        assert!(refused.message.starts_with("spec.icmp.payloadSize: 1473 is more than"), "{}", refused.message);
        assert!(refused.message.contains("at most 1472") && refused.message.ends_with("--icmp-max-payload"));
        assert_eq!(problem(&AllowedProbers::default().up_to(ProbeLimits { max_echo_payload: 1473 })), None);
        assert_eq!(problem(&AllowedProbers::only([])).unwrap().reason, "TypeNotAllowed");
    }
}
