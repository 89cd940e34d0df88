//! The processes of a target that is not one process. It does not find them: the cluster or a name server does.

use std::net::SocketAddr;
use std::sync::Arc;

use super::TargetId;
pub use crate::crd::Include;
use crate::crd::{Members, ParsedTarget};

/// Where the members of a target come from, and how many of them are polled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetMembers {
    /// Where they come from.
    pub source: MemberSource,
    /// Which of them are polled.
    pub include: Include,
    /// How many are polled at most.
    pub limit: usize,
    /// Series of all members together.
    pub sample_limit: usize,
}

impl TargetMembers {
    /// The members that a target of this name declares. The endpoints of a Service are not known yet.
    pub(super) fn of(members: &Members, declaration: &ParsedTarget, id: &TargetId) -> Self {
        let source = match declaration.members_service() {
            None => MemberSource::Dns,
            Some(name) => {
                MemberSource::Service { host: format!("{name}.{}.svc", id.namespace).into(), endpoints: Arc::default() }
            }
        };
        let number = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
        Self {
            source,
            include: members.include,
            limit: number(members.limit),
            sample_limit: number(members.sample_limit),
        }
    }

    /// What must be equal for members to be those of the same application, with the same series: the Service, and the limit.
    pub(super) fn application(&self) -> (Option<&str>, usize) {
        let service = match &self.source {
            MemberSource::Dns => None,
            MemberSource::Service { host, .. } => Some(&**host),
        };
        (service, self.sample_limit)
    }
}

/// Where the members of a target come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MemberSource {
    /// They are the addresses of the url's host.
    Dns,
    /// They are the endpoints of a Service, as they are now.
    Service {
        /// The Service, as it is named in a url: `NAME.NAMESPACE.svc`.
        host: Arc<str>,
        /// Its endpoints, each once, in the order of their names.
        endpoints: Arc<[Member]>,
    },
}

/// One process of a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The name of its pod, or `ADDRESS:PORT` if there is none. Unique among the members of a target.
    pub name: Arc<str>,
    /// The label of its series.
    pub label: MemberLabel,
    /// The uid of its pod; empty if there is none. With another one, it is another process.
    pub uid: Arc<str>,
    /// Where it is polled.
    pub address: SocketAddr,
    /// The node on which it runs.
    pub node: Option<Arc<str>>,
    /// The zone in which it runs.
    pub zone: Option<Arc<str>>,
    /// It is ready, and not terminating.
    pub ready: bool,
    /// It passes its readiness probe, terminating or not.
    pub serving: bool,
    /// Its pod is being deleted.
    pub terminating: bool,
}

/// The label of the series of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MemberLabel {
    /// `pod`.
    Pod,
    /// `member`.
    Member,
}

impl MemberLabel {
    /// The name of the label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pod => "pod",
            Self::Member => "member",
        }
    }
}

impl Member {
    /// A process that is known by its address only.
    pub fn at(address: SocketAddr) -> Self {
        Self {
            name: address.to_string().into(),
            label: MemberLabel::Member,
            uid: Arc::default(),
            address,
            node: None,
            zone: None,
            ready: true,
            serving: true,
            terminating: false,
        }
    }

    /// Whether it is the same process at the same place as `other`, in the same state as far as an answer shows it.
    pub fn is_shown_like(&self, other: &Self) -> bool {
        let Self { name, label, uid, address, node, zone, ready: _, serving: _, terminating } = self;
        (name, label, uid, address) == (&other.name, &other.label, &other.uid, &other.address)
            && (node, zone, terminating) == (&other.node, &other.zone, &other.terminating)
    }

    /// Whether it is polled.
    pub const fn is_included(&self, include: Include) -> bool {
        match include {
            Include::Serving => self.serving,
            Include::Ready => self.ready && !self.terminating,
            Include::All => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::crd::judge;
    use crate::target::{Lookup, LookupError, ObjectKind, Target};
    use crate::yaml::{self, Dialect};

    /// Targets here refer to nothing.
    struct Nothing;

    impl Lookup for Nothing {
        fn value(&self, kind: ObjectKind, namespace: &str, name: &str, _: &str) -> Result<Vec<u8>, LookupError> {
            Err(LookupError::NoObject { kind, namespace: namespace.to_owned(), name: name.to_owned() })
        }
    }

    fn target(url: &str, members: Value) -> Target {
        let mut spec = json!({ "type": "Orion", "url": url });
        if !members.is_null() {
            spec["members"] = members;
        }
        let manifest = json!({
            "apiVersion": crate::crd::API_VERSION, "kind": "ScrapeTarget", "metadata": { "name": "city" }, "spec": spec,
        });
        let declaration = judge(&manifest).unwrap_or_else(|problems| panic!("{problems:?}"));
        Target::resolve(TargetId::new("fiware", "city"), Arc::new(declaration), &Nothing)
    }

    fn members(url: &str, members: Value) -> TargetMembers {
        target(url, members).members.unwrap()
    }

    #[test]
    fn the_service_is_the_one_that_is_named_or_the_first_label_of_the_host() {
        for (url, service, expected) in [
            ("http://orion:1026/", json!({}), "orion.fiware.svc"),
            ("https://Orion.fiware.svc.cluster.local./v2", json!({}), "orion.fiware.svc"),
            ("http://orion.example.com", json!({ "port": "http" }), "orion.fiware.svc"),
            ("http://orion.fiware.svc:1026/", json!({ "name": "city-2" }), "city-2.fiware.svc"),
            ("http://10.0.0.1:1026/", json!({ "name": "city" }), "city.fiware.svc"),
            ("http://[2001:db8::1]:1026/", json!({ "name": "city" }), "city.fiware.svc"),
        ] {
            let MemberSource::Service { host, endpoints } = members(url, json!({ "service": service })).source else {
                panic!("{url} {service}");
            };
            assert_eq!((&*host, endpoints.len()), (expected, 0), "{url} {service}");
        }
        assert_eq!(members("http://orion:1026/", json!({ "dns": {} })).source, MemberSource::Dns);
        assert_eq!(target("http://orion:1026/", Value::Null).members, None);
    }

    #[test]
    fn limits_and_readiness_are_those_of_the_declaration_or_their_defaults() {
        let of = |members: TargetMembers| (members.include, members.limit, members.sample_limit);
        assert_eq!(of(members("http://orion/", json!({ "service": {} }))), (Include::Serving, 100, 50_000));
        let written = json!({ "service": {}, "include": "All", "limit": 500, "sampleLimit": 1 });
        assert_eq!(of(members("http://orion/", written)), (Include::All, 500, 1));
    }

    #[test]
    fn include_decides_by_readiness_and_termination() {
        let member = |ready, serving, terminating| Member {
            ready,
            serving,
            terminating,
            ..Member::at(SocketAddr::from(([192, 0, 2, 1], 1026)))
        };
        for (member, included) in [
            (member(true, true, false), [true, true, true]),
            (member(false, false, false), [false, false, true]),
            (member(false, true, true), [true, false, true]),
            (member(false, false, true), [false, false, true]),
            // With publishNotReadyAddresses an endpoint is always called ready, also while its pod terminates.
            (member(true, false, false), [false, true, true]),
            (member(true, true, true), [true, false, true]),
        ] {
            let of = [Include::Serving, Include::Ready, Include::All].map(|include| member.is_included(include));
            assert_eq!(of, included, "{member:?}");
        }
    }

    #[test]
    fn other_endpoints_give_the_same_data_and_another_application_does_not() {
        let service = |more: Value| {
            let mut members = json!({ "service": { "name": "orion" } });
            members.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            target("http://orion:1026/", members)
        };
        let before = service(json!({}));
        let mut after = before.clone();
        if let Some(TargetMembers { source: MemberSource::Service { endpoints, .. }, .. }) = &mut after.members {
            *endpoints = Arc::from([Member::at(SocketAddr::from(([192, 0, 2, 1], 1026)))]);
        }
        assert!(before != after && before.gives_same_data(&after));
        // These say which members are polled, and the series of the others are those of before.
        assert!(before.gives_same_data(&service(json!({ "include": "All", "limit": 5 }))));
        for other in [
            service(json!({ "service": { "name": "city" } })),
            service(json!({ "sampleLimit": 5 })),
            target("http://orion:1026/", json!({ "dns": {} })),
            target("http://orion:1026/", Value::Null),
        ] {
            assert!(!before.gives_same_data(&other) && !other.gives_same_data(&before), "{:?}", other.members);
        }
    }

    #[test]
    fn the_effective_declaration_names_the_service_and_every_limit() {
        let shown = target("http://orion.fiware.svc:1026/", json!({ "service": {} })).effective();
        let shown = yaml::read(&shown, 1, Dialect::Kubernetes).unwrap().to_value();
        assert_eq!(
            shown["members"],
            json!({ "service": { "name": "orion" }, "include": "Serving", "limit": 100, "sampleLimit": 50_000 })
        );
        let shown = target("http://orion:1026/", json!({ "dns": {}, "limit": 3 })).effective();
        let shown = yaml::read(&shown, 1, Dialect::Kubernetes).unwrap().to_value();
        assert_eq!(shown["members"], json!({ "dns": {}, "include": "Serving", "limit": 3, "sampleLimit": 50_000 }));
    }

    #[test]
    fn outside_of_a_cluster_the_pods_of_a_service_are_refused_and_all_else_is_not() {
        let refused = target("http://orion:1026/", json!({ "service": {} })).outside_kubernetes();
        let problem = refused.problem.unwrap();
        assert_eq!(problem.reason, "InvalidSpec");
        assert!(
            problem.message.starts_with("spec.members.service: ") && problem.message.contains("write dns: {}"),
            "{}",
            problem.message
        );
        assert_eq!(target("http://orion:1026/", json!({ "dns": {} })).outside_kubernetes().problem, None);
        assert_eq!(target("http://orion:1026/", Value::Null).outside_kubernetes().problem, None);
    }
}
