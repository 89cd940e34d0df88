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
}

impl TargetMembers {
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

    /// Whether it is polled.
    pub const fn is_included(&self, include: Include) -> bool {
        match include {
            Include::Serving => self.serving,
            Include::Ready => self.ready && !self.terminating,
            Include::All => true,
        }
    }
}
