//! A target that is declared in a way that nothing can be polled by: somebody wants it, so that it must not be missing in silence.

use std::sync::Arc;

use super::TargetId;
use crate::kind::Type;

/// What is known of a declaration that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Its name.
    pub id: TargetId,
    /// The kind of server, where that can be read.
    pub kind: Option<Type>,
    /// Where it is, as it was written.
    pub url: Option<Arc<str>>,
    /// Where it stands, what is wrong with it, and what to write instead. One line.
    pub message: Arc<str>,
}

impl Refused {
    /// The longest text of each that is kept, in characters: what is written in a declaration is as long as its author likes.
    const LONGEST: usize = 512;

    /// A declaration that cannot be used.
    pub fn new(id: TargetId, kind: Option<Type>, url: Option<String>, message: &str) -> Self {
        Self { id, kind, url: url.map(|url| cut(&without_user(&url))), message: cut(message) }
    }

    /// The same with something more to say, which is never cut off.
    #[must_use]
    pub fn and(self, more: &str) -> Self {
        Self { message: format!("{}{more}", self.message).into(), ..self }
    }
}

/// A url without a user and a password: these are no reason to be refused that anybody may read.
fn without_user(url: &str) -> String {
    let Some(at) = url.rfind('@') else { return url.to_owned() };
    let (before, host) = url.split_at(at);
    let scheme = before.find("//").map_or("", |slashes| &before[..slashes + 2]);
    format!("{scheme}***{host}")
}

fn cut(text: &str) -> Arc<str> {
    let mut line: String = text.chars().take(Refused::LONGEST).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if line.len() < text.len() {
        line.push('…');
    }
    line.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_and_a_password_in_a_url_are_not_kept() {
        for (written, kept) in [
            ("http://user:s3cret@host:3000/", "http://***@host:3000/"),
            ("http://user:s3/c@ret@host", "http://***@host"),
            ("user:s3cret@host", "***@host"),
            ("http://host:3000/", "http://host:3000/"),
        ] {
            let refused = Refused::new(TargetId::new("a", "b"), None, Some(written.to_owned()), "wrong");
            assert_eq!(refused.url.as_deref(), Some(kept));
        }
    }

    #[test]
    fn long_texts_are_cut_and_stay_one_line() {
        let long = "a\nb".to_owned() + &"c".repeat(2000);
        let refused = Refused::new(TargetId::new("a", "b"), None, Some(long.clone()), &long).and("; the end");
        assert!(refused.message.starts_with("a bc") && refused.message.ends_with("c…; the end"), "{}", refused.message);
        assert_eq!(refused.url.unwrap().chars().count(), Refused::LONGEST + 1);
    }
}
