//! Names of hosts that an operator allows targets to point to: `--target-allow-host`. It compares texts, and resolves nothing.

use std::str::FromStr;

/// A host name, `*.SUFFIX`, or either with `{namespace}` in the place of a label: the target's own namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowedHost {
    labels: Vec<Label>,
    /// It began with `*.`: one label or more stand before these.
    any_before: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Label {
    Is(String),
    Namespace,
}

/// What stands for the namespace of the target.
const NAMESPACE: &str = "{namespace}";

/// The domain of nearly every cluster. Who writes `NAME.NAMESPACE.svc` means this as well.
const CLUSTER_DOMAIN: &str = ".svc.cluster.local";

impl AllowedHost {
    /// Whether a target of `namespace` may name `host`.
    pub(super) fn covers(&self, host: &str, namespace: &str) -> bool {
        let host = normal(host);
        let mut labels = host.rsplit('.');
        let fits = self.labels.iter().rev().all(|label| {
            labels.next().is_some_and(|found| match label {
                Label::Is(text) => text == found,
                Label::Namespace => namespace.eq_ignore_ascii_case(found),
            })
        });
        fits && labels.next().is_some() == self.any_before
    }
}

/// In lower case, without the dot of the root, and without the domain of the cluster.
fn normal(host: &str) -> String {
    let mut host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    if host.ends_with(CLUSTER_DOMAIN) {
        host.truncate(host.len() - CLUSTER_DOMAIN.len() + ".svc".len());
    }
    host
}

/// A text that is no [`AllowedHost`]: what to write instead.
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
        let text = normal(text);
        let (any_before, rest) = text.strip_prefix("*.").map_or((false, text.as_str()), |rest| (true, rest));
        let labels: Option<Vec<Label>> = rest.split('.').map(label).collect();
        let labels = labels.filter(|_| text.len() <= 253).ok_or(AllowedHostError(FORMS))?;
        if labels.last() == Some(&Label::Namespace) {
            // A namespace may have the name of a top-level domain.
            return Err(AllowedHostError(
                "{namespace} cannot be the last label: write what follows it, for instance *.{namespace}.svc",
            ));
        }
        Ok(Self { labels, any_before })
    }
}

fn label(text: &str) -> Option<Label> {
    if text == NAMESPACE {
        return Some(Label::Namespace);
    }
    let letters = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
    let good = letters && (1..=63).contains(&text.len()) && !text.starts_with('-') && !text.ends_with('-');
    good.then(|| Label::Is(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn covers(pattern: &str, host: &str) -> bool {
        pattern.parse::<AllowedHost>().unwrap().covers(host, "team-a")
    }

    #[test]
    fn a_name_is_itself_in_any_case_with_or_without_the_last_dot() {
        assert!(covers("Sora.Example.com", "sora.example.COM."));
        assert!(covers("sora.example.com.", "sora.example.com"));
        for host in ["a.sora.example.com", "example.com", "xsora.example.com", "sora.example.com.evil.test", ""] {
            assert!(!covers("sora.example.com", host), "{host}");
        }
    }

    #[test]
    fn a_suffix_takes_one_label_or_more_before_it() {
        assert!(covers("*.example.com", "sora.example.com") && covers("*.example.com", "a.b.example.com"));
        for host in ["example.com", "sora-example.com", "sora.example.com.evil.test", "example.com.", "xexample.com"] {
            assert!(!covers("*.example.com", host), "{host}");
        }
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
