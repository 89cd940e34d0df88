//! Why the endpoints of a target are not known, in sentences for whoever has declared it.

use std::sync::Arc;

use super::join::{PortNotFound, WantedPort};
use super::store::ServiceRef;
use crate::crd::ParsedTarget;
use crate::k8s::watch::Collection;
use crate::target::{Problem, TargetId};

/// The most ports that a message lists; the others are counted.
const MOST_PORTS: usize = 10;

/// Why the endpoints of a Service are not known.
#[derive(Clone, Debug)]
pub(super) enum EndpointsError {
    /// It has no slice; the Service, and what else the user should know.
    NotFound(String),
    /// No endpoint has the wanted port.
    Port(ServiceRef, WantedPort, PortNotFound),
    /// Its targets ask for too many different ports.
    TooManyPorts(ServiceRef),
    /// Not all slices are kept, and none of its own.
    NotKept(ServiceRef),
    /// Slices of this collection may not be read.
    Forbidden(ServiceRef, Collection),
    /// The API server has not shown them, for this reason.
    Unread(ServiceRef, Arc<str>),
}

impl EndpointsError {
    /// There is no slice of the Service that a target names.
    pub(super) fn no_service(id: &TargetId, declaration: &ParsedTarget) -> Self {
        let (namespace, name) = (&id.namespace, declaration.members_service().unwrap_or_default());
        let elsewhere = namespace_of_url(declaration).filter(|other| **other != **namespace);
        let elsewhere = elsewhere.map(|other| {
            format!(". The url names the namespace {other}, but members must be in that of the target: create the target there")
        });
        let message = format!(
            "there is no EndpointSlice of Service {namespace}/{name}: check that a Service of this name exists in the namespace of the \
             target, that it has a selector, and that its type is not ExternalName{}",
            elsewhere.unwrap_or_default()
        );
        Self::NotFound(message)
    }

    /// As the condition `Accepted` has it.
    pub(super) fn problem(&self) -> Problem {
        match self {
            Self::NotFound(message) => Problem { reason: "EndpointsNotFound", message: message.clone() },
            Self::Port(service, wanted, found) => {
                Problem { reason: "PortNotFound", message: port_message(service, wanted, found) }
            }
            Self::TooManyPorts(service) => Problem {
                reason: "PortNotFound",
                message: format!(
                    "the EndpointSlices of {service} admit any port, and its targets poll too many different ones: write the port of another \
                     target into spec.url"
                ),
            },
            Self::NotKept(service) => Problem {
                reason: "EndpointsUnread",
                message: format!(
                    "the Services that targets name have more endpoints than the exporter keeps, so that those of {service} are not known: \
                     see docs/kubernetes.md for the bounds"
                ),
            },
            Self::Forbidden(service, collection) => {
                let rule = collection.rule("list").with_verbs(&["list", "watch"]);
                Problem {
                    reason: "EndpointsForbidden",
                    message: format!("the EndpointSlices of {service} may not be read: {rule}"),
                }
            }
            Self::Unread(service, why) => Problem {
                reason: "EndpointsUnread",
                message: format!("the EndpointSlices of {service} could not be read yet: {why}"),
            },
        }
    }
}

fn port_message(service: &ServiceRef, WantedPort { name, number }: &WantedPort, found: &PortNotFound) -> String {
    let PortNotFound(ports) = found;
    let mut list: Vec<String> = ports
        .iter()
        .take(MOST_PORTS)
        .map(|(name, number)| match (&**name, number) {
            ("", Some(number)) => number.to_string(),
            (name, Some(number)) => format!("{name:?} ({number})"),
            (name, None) => format!("{name:?} (any)"),
        })
        .collect();
    if ports.len() > MOST_PORTS {
        list.push(format!("{} more", ports.len() - MOST_PORTS));
    }
    let list = list.join(", ");
    match (name, list.as_str()) {
        (Some(name), "") => format!("{service} has no TCP port {name:?}, and no other: add one to it"),
        (None, "") => format!("{service} has no TCP port: add one to it"),
        (Some(name), list) => {
            format!("{service} has no TCP port {name:?}: write one of these into spec.members.service.port: {list}")
        }
        (None, list) => format!(
            "{service} has several TCP ports, none of which has the number {number} of the url in the pods (targetPort): write the name of \
             one into spec.members.service.port: {list}"
        ),
    }
}

/// The namespace that the host of the url names: the second label of `rooms.webrtc` and `rooms.webrtc.svc.cluster.local`.
fn namespace_of_url(declaration: &ParsedTarget) -> Option<&str> {
    let mut labels = declaration.url().domain()?.split('.').skip(1);
    let namespace = labels.next().filter(|label| !label.is_empty())?;
    labels.next().is_none_or(|label| label == "svc" || label.is_empty()).then_some(namespace)
}
