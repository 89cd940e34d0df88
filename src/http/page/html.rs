//! The little that is needed to write HTML safely.

use std::fmt;

/// Text in an element or in a quoted attribute. Nothing in it can end either, or begin a tag.
pub(super) struct Escaped<'t>(pub(super) &'t str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0;
        while let Some(at) = rest.find(|c: char| matches!(c, '&' | '<' | '>' | '"' | '\'') || is_invisible(c)) {
            let (clean, tail) = rest.split_at(at);
            f.write_str(clean)?;
            let mut chars = tail.chars();
            f.write_str(match chars.next() {
                Some('&') => "&amp;",
                Some('<') => "&lt;",
                Some('>') => "&gt;",
                Some('"') => "&quot;",
                Some('\'') => "&#39;",
                _ => "\u{fffd}",
            })?;
            rest = chars.as_str();
        }
        f.write_str(rest)
    }
}

/// Control characters, and those that turn the direction of what follows them: they could make a text read as another.
fn is_invisible(c: char) -> bool {
    (c.is_control() && !matches!(c, '\n' | '\t')) || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A count with its thousands set apart: `12,345`.
pub(super) struct Thousands(pub(super) usize);

impl fmt::Display for Thousands {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = self.0.to_string();
        for (i, digit) in digits.chars().enumerate() {
            if i > 0 && (digits.len() - i).is_multiple_of(3) {
                f.write_str(",")?;
            }
            write!(f, "{digit}")?;
        }
        Ok(())
    }
}

/// `?a=b&c=d`, not yet escaped for HTML.
pub(super) fn query<'p>(pairs: impl IntoIterator<Item = (&'p str, &'p str)>) -> String {
    let mut query = url::form_urlencoded::Serializer::for_suffix("?".to_owned(), 1);
    query.extend_pairs(pairs);
    query.finish()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Escaped, Thousands, query};

    #[test]
    fn a_text_cannot_leave_its_place() {
        let hostile = "\"><script>alert('1 & 2')</script>\u{202e}\0";
        let escaped = Escaped(hostile).to_string();
        assert_eq!(escaped, "&quot;&gt;&lt;script&gt;alert(&#39;1 &amp; 2&#39;)&lt;/script&gt;\u{fffd}\u{fffd}");
        assert_eq!(Escaped("plain täxt\n日本").to_string(), "plain täxt\n日本");
    }

    proptest! {
        #[test]
        fn no_text_whatever_keeps_a_character_of_markup(text in any::<String>()) {
            let escaped = Escaped(&text).to_string();
            prop_assert!(!escaped.contains(['<', '>', '"', '\'']));
            prop_assert!(escaped.split('&').skip(1).all(|rest| ["amp;", "lt;", "gt;", "quot;", "#39;"].iter().any(|entity| rest.starts_with(entity))));
        }
    }

    #[test]
    fn thousands_are_set_apart() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(Thousands(number).to_string(), text);
        }
    }

    #[test]
    fn a_query_is_percent_encoded() {
        assert_eq!(query([("target", "a/b&c=d"), ("x", "<")]), "?target=a%2Fb%26c%3Dd&x=%3C");
    }
}
