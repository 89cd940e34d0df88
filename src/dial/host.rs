//! The host names that targets may point to: `--target-allow-host`. It compares text and does not resolve names.

use std::str::FromStr;

use crate::host_pattern::HostPattern;

/// A host name, `*.SUFFIX`, or either with `{namespace}` in the place of a label: the target's own namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowedHost(HostPattern);

/// The placeholder for the namespace of the target.
const NAMESPACE: &str = "{namespace}";

impl AllowedHost {
    /// Whether a target of `namespace` may name `host`.
    pub(super) fn covers(&self, host: &str, namespace: &str) -> bool {
        self.0.matches_by(&without_cluster_domain(host), |label, found| match label {
            NAMESPACE => namespace.eq_ignore_ascii_case(found),
            label => label == found,
        })
    }
}

/// Removes the default domain of clusters, so that `NAME.NAMESPACE.svc` also matches `NAME.NAMESPACE.svc.cluster.local`.
fn without_cluster_domain(host: &str) -> String {
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    match host.strip_suffix(".svc.cluster.local") {
        Some(service) => format!("{service}.svc"),
        None => host,
    }
}

/// A text that is no [`AllowedHost`], with what to write instead.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct AllowedHostError(&'static str);

impl FromStr for AllowedHost {
    type Err = AllowedHostError;

    fn from_str(text: &str) -> Result<Self, AllowedHostError> {
        const FORMS: &str =
            "write a host name, *.SUFFIX, or {namespace} in the place of a label, for instance *.{namespace}.svc";
        let bare = text.trim_start_matches('[').trim_end_matches(']');
        if bare.parse::<std::net::IpAddr>().is_ok() {
            return Err(AllowedHostError(
                "an address is allowed by --target-allow-cidr ADDRESS/32, or ADDRESS/128 for IPv6",
            ));
        }
        let pattern = HostPattern::parse(&without_cluster_domain(text), is_label).ok_or(AllowedHostError(FORMS))?;
        if pattern.last_label() == NAMESPACE {
            // A namespace may have the name of a top-level domain.
            return Err(AllowedHostError(
                "{namespace} cannot be the last label: write what follows it, for instance *.{namespace}.svc",
            ));
        }
        Ok(Self(pattern))
    }
}

fn is_label(text: &str) -> bool {
    let letters = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
    text == NAMESPACE || letters && text.len() <= 63 && !text.starts_with('-') && !text.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn covers(pattern: &str, host: &str) -> bool {
        pattern.parse::<AllowedHost>().unwrap().covers(host, "team-a")
    }

    #[test]
    fn the_placeholder_is_the_namespace_of_the_target_and_of_no_other() {
        for host in ["sora.team-a.svc", "sora-0.sora.team-a.svc", "sora.team-a.svc.cluster.local.", "SORA.Team-A.svc"] {
            assert!(covers("*.{namespace}.svc", host), "{host}");
            assert!(covers("*.{namespace}.svc.cluster.local", host), "{host}");
        }
        for host in [
            "prometheus.monitoring.svc",
            "team-a.svc",
            "sora.team-a.svc.evil.test",
            "sora.team-a.monitoring.svc",
            "sora.xteam-a.svc",
            "sora.team-a",
            "sora.team-a.svc.cluster.local.evil.test",
        ] {
            assert!(!covers("*.{namespace}.svc", host), "{host}");
        }
        let of_dots: AllowedHost = "*.{namespace}.svc".parse().unwrap();
        assert!(!of_dots.covers("sora.a.b.svc", "a.b"), "no label has a dot");
        assert!(!of_dots.covers("prometheus.monitoring.svc", "*"));
    }

    #[test]
    fn what_is_no_pattern_is_refused_with_what_to_write() {
        for text in ["", "*", "*.", "a..b", "*a.example.com", "a.*.com", "http://a", "a:80", "-a.b", "ü.example.com"] {
            assert!(text.parse::<AllowedHost>().unwrap_err().to_string().contains("*.{namespace}.svc"), "{text}");
        }
        for address in ["10.0.0.1", "::1", "[::1]"] {
            assert!(address.parse::<AllowedHost>().unwrap_err().to_string().contains("--target-allow-cidr"));
        }
        for text in ["{namespace}", "*.{namespace}", "sora.{namespace}."] {
            assert!(text.parse::<AllowedHost>().unwrap_err().to_string().contains("last label"), "{text}");
        }
    }
}
