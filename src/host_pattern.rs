//! Patterns of host names in flags: `NAME` and `*.SUFFIX`. They compare text and do not resolve names.

/// A host name, or a suffix of host names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPattern {
    labels: Vec<String>,
    /// It began with `*.`: a matching host has at least one label before these.
    has_wildcard: bool,
}

impl HostPattern {
    /// Parses a pattern, each of whose labels must satisfy `is_label`.
    pub fn parse(text: &str, is_label: impl Fn(&str) -> bool) -> Option<Self> {
        const MAX_NAME: usize = 253;
        let text = normalized(text);
        let suffix = text.strip_prefix("*.");
        let name = suffix.unwrap_or(&text);
        let is_valid = name.len() <= MAX_NAME && name.split('.').all(|label| !label.is_empty() && is_label(label));
        let labels = name.split('.').map(str::to_owned).collect();
        is_valid.then_some(Self { labels, has_wildcard: suffix.is_some() })
    }

    /// Whether it matches `host`, where `is_same` compares a label of the pattern with one of the host.
    pub fn matches_by(&self, host: &str, is_same: impl Fn(&str, &str) -> bool) -> bool {
        let host = normalized(host);
        let mut labels = host.rsplit('.');
        self.labels.iter().rev().all(|label| labels.next().is_some_and(|found| is_same(label, found)))
            && if self.has_wildcard { labels.any(|label| !label.is_empty()) } else { labels.next().is_none() }
    }

    /// Whether it matches `host`.
    pub fn matches(&self, host: &str) -> bool {
        self.matches_by(host, |label, found| label == found)
    }

    /// The last label; it is never empty.
    pub fn last_label(&self) -> &str {
        self.labels.last().map_or("", String::as_str)
    }
}

/// A host name as it is compared: in lower case, without the trailing dot.
fn normalized(host: &str) -> String {
    host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::HostPattern;

    fn matches(pattern: &str, host: &str) -> bool {
        HostPattern::parse(pattern, |_| true).unwrap().matches(host)
    }

    #[test]
    fn a_name_is_itself_in_any_case_with_or_without_the_last_dot() {
        assert!(matches("Server.Example.com", "server.example.COM."));
        assert!(matches("server.example.com.", "server.example.com"));
        for host in ["a.server.example.com", "example.com", "xserver.example.com", "server.example.com.evil.test", ""] {
            assert!(!matches("server.example.com", host), "{host}");
        }
    }

    #[test]
    fn a_suffix_takes_one_label_or_more_before_it() {
        assert!(matches("*.example.com", "server.example.com") && matches("*.example.com", "a.b.example.com"));
        for host in
            ["example.com", ".example.com", "server-example.com", "server.example.com.evil.test", "example.com."]
        {
            assert!(!matches("*.example.com", host), "{host}");
        }
    }

    #[test]
    fn a_pattern_has_no_empty_label_and_none_that_is_not_allowed() {
        for text in ["", "*.", "a..b", ".a", "*"] {
            assert_eq!(HostPattern::parse(text, |label| label != "*"), None, "{text:?}");
        }
        assert_eq!(HostPattern::parse(&"a".repeat(254), |_| true), None);
    }
}
