//! Names of objects: from what the user knows, unique, and the same at every run.

use std::collections::BTreeSet;

/// The longest name.
pub(super) const MAX_NAME: usize = 63;

/// The names that are taken.
#[derive(Debug, Default)]
pub(super) struct Names(BTreeSet<String>);

impl Names {
    /// `wanted`, or as much of it as `most` characters allow, made unique by a hash of `identity`, which is different for different objects.
    pub(super) fn unique(&mut self, wanted: &str, identity: &str, most: usize) -> String {
        self.unique_with(&[""], wanted, identity, most)
    }

    /// The same for objects that belong together: none of the names, each with one of the endings, is that of any other object.
    pub(super) fn unique_with(&mut self, endings: &[&str], wanted: &str, identity: &str, most: usize) -> String {
        let fits = wanted.len() <= most && !wanted.is_empty();
        if fits && self.take(wanted, endings) {
            return wanted.to_owned();
        }
        let mut number = 0_u32;
        loop {
            let hash = format!("{:08x}", fnv(&format!("{identity}\n{number}")));
            let room = most.saturating_sub(hash.len() + 1);
            let beginning = wanted.get(..room.min(wanted.len())).unwrap_or_default().trim_end_matches('-');
            let name = if beginning.is_empty() { format!("t{hash}") } else { format!("{beginning}-{hash}") };
            if self.take(&name, endings) {
                return name;
            }
            number += 1;
        }
    }

    fn take(&mut self, name: &str, endings: &[&str]) -> bool {
        let all = endings.iter().map(|ending| format!("{name}{ending}")).collect::<Vec<_>>();
        let is_free = all.iter().all(|name| !self.0.contains(name));
        if is_free {
            self.0.extend(all);
        }
        is_free
    }
}

/// A text as a label of the DNS (RFC 1123), of any length: lowercase letters, digits and inner hyphens. Empty if nothing is left of it.
pub(super) fn slug(text: &str) -> String {
    let mut slug = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_ascii_alphanumeric() {
            slug.push(character.to_ascii_lowercase());
        } else if !slug.is_empty() && !slug.ends_with('-') {
            slug.push('-');
        }
    }
    slug.truncate(slug.trim_end_matches('-').len());
    slug
}

/// FNV-1a, 32 bits.
fn fnv(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crd::is_dns_label;
    use proptest::prelude::*;

    #[test]
    fn a_name_is_short_readable_and_the_same_every_time() {
        let mut names = Names::default();
        assert_eq!(slug("HTTP_2xx"), "http-2xx");
        assert_eq!(names.unique("http-2xx-example-com", "a", MAX_NAME), "http-2xx-example-com");
        let second = names.unique("http-2xx-example-com", "b", MAX_NAME);
        assert!(second.starts_with("http-2xx-example-com-") && is_dns_label(&second), "{second}");
        let mut again = Names::default();
        again.unique("http-2xx-example-com", "a", MAX_NAME);
        assert_eq!(again.unique("http-2xx-example-com", "b", MAX_NAME), second);
    }

    #[test]
    fn names_that_belong_together_are_taken_together() {
        for order in [["a", "a-files"], ["a-files", "a"]] {
            let mut names = Names::default();
            let pairs = order.map(|wanted| {
                let name = names.unique_with(&["", "-files"], wanted, wanted, MAX_NAME);
                [format!("{name}-files"), name]
            });
            assert_eq!(pairs.concat().into_iter().collect::<BTreeSet<_>>().len(), 4, "{pairs:?}");
        }
    }

    proptest! {
        #[test]
        fn every_name_is_a_label_of_the_dns_and_no_two_are_equal(texts in proptest::collection::vec("\\PC{0,90}", 1..20)) {
            let mut names = Names::default();
            let mut seen = BTreeSet::new();
            for text in texts {
                let name = names.unique(&slug(&text), &text, MAX_NAME);
                prop_assert!(is_dns_label(&name), "{}", name);
                prop_assert!(seen.insert(name));
            }
        }
    }
}
