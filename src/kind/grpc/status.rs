//! Status codes of gRPC, and what a failed health check means.

use reqwest::header::HeaderMap;

use super::FailedCheck;
use crate::kind::Reason;

/// A status code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StatusCode(u8);

/// Their names, by number.
const NAMES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

impl StatusCode {
    pub(super) const OK: Self = Self(0);
    pub(super) const UNKNOWN: Self = Self(2);
    pub(super) const DEADLINE_EXCEEDED: Self = Self(4);
    pub(super) const NOT_FOUND: Self = Self(5);
    pub(super) const PERMISSION_DENIED: Self = Self(7);
    pub(super) const RESOURCE_EXHAUSTED: Self = Self(8);
    pub(super) const UNIMPLEMENTED: Self = Self(12);
    pub(super) const INTERNAL: Self = Self(13);
    pub(super) const UNAVAILABLE: Self = Self(14);
    pub(super) const UNAUTHENTICATED: Self = Self(16);

    /// Its number.
    pub(super) const fn number(self) -> u8 {
        self.0
    }

    /// Its name.
    pub(super) fn name(self) -> &'static str {
        NAMES.get(usize::from(self.0)).copied().unwrap_or("UNKNOWN")
    }

    /// The one in headers or trailers; `None` if there is none. One that is no code is `UNKNOWN`.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let text = headers.get("grpc-status")?.to_str().unwrap_or_default();
        let number = text.parse::<u8>().ok().filter(|number| usize::from(*number) < NAMES.len());
        Some(number.map_or(Self::UNKNOWN, Self))
    }

    /// What an answer of HTTP that is none of gRPC counts as: <https://github.com/grpc/grpc/blob/master/doc/http-grpc-status-mapping.md>.
    pub(super) const fn of_http(status: u16) -> Self {
        match status {
            400 => Self::INTERNAL,
            401 => Self::UNAUTHENTICATED,
            403 => Self::PERMISSION_DENIED,
            404 => Self::UNIMPLEMENTED,
            429 | 502..=504 => Self::UNAVAILABLE,
            _ => Self::UNKNOWN,
        }
    }

    /// The failure that a server answers with this code, which is not `OK`.
    pub(super) fn failure(self, service: &str) -> FailedCheck {
        let (reason, message) = match self {
            Self::NOT_FOUND if service.is_empty() => (
                Reason::Response,
                "the server does not tell its health as a whole: write one of its services into grpc.service".to_owned(),
            ),
            Self::NOT_FOUND => (
                Reason::Response,
                format!("the server knows no health of the service {service}: correct grpc.service, or leave it out"),
            ),
            Self::UNIMPLEMENTED => (
                Reason::Response,
                "the server has no health service: add grpc.health.v1.Health to it, or probe its port with type Tcp".to_owned(),
            ),
            Self::UNAUTHENTICATED | Self::PERMISSION_DENIED => (
                Reason::Auth,
                format!(
                    "the server answered with grpc-status {} ({}): correct authorization, basicAuth, oauth2, headers or grpc.metadata",
                    self.number(),
                    self.name()
                ),
            ),
            _ => (Reason::Response, format!("the server answered with grpc-status {} ({})", self.number(), self.name())),
        };
        FailedCheck::new(self, reason, message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_that_there_is_not_is_unknown() {
        let of = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-status", reqwest::header::HeaderValue::from_static(text));
            StatusCode::of(&headers).map(StatusCode::number)
        };
        assert_eq!(["0", "14", "16"].map(of), [Some(0), Some(14), Some(16)]);
        assert_eq!(["17", "-1", "", "x", "99999999999999999999"].map(of), [Some(2); 5]);
        assert_eq!(StatusCode::of(&HeaderMap::new()), None);
    }
}
