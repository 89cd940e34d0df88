//! An error together with the errors that caused it.

use std::error::Error;
use std::io;
use std::iter;

/// An error, then its causes from the general to the particular. Also those inside an [`io::Error`], which `source` passes over.
pub fn chain<'e>(error: &'e (dyn Error + 'static)) -> impl Iterator<Item = &'e (dyn Error + 'static)> {
    iter::successors(Some(error), |link| {
        let link: &'e (dyn Error + 'static) = *link;
        match link.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => link.source(),
        }
    })
}

/// An error with its causes in one line, each said once: the texts of some errors include their cause's.
pub fn one_line(error: &(dyn Error + 'static)) -> String {
    let mut line = String::new();
    for text in chain(error).map(ToString::to_string) {
        if line.is_empty() {
            line = text;
        } else if !line.contains(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
    }
    line.replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Failed {
        text: &'static str,
        source: Option<Box<dyn Error + Send + Sync>>,
    }

    fn failed(text: &'static str, source: impl Into<Option<Box<dyn Error + Send + Sync>>>) -> Failed {
        Failed { text, source: source.into() }
    }

    #[test]
    fn causes_are_told_in_order_and_each_once() {
        let inner = io::Error::other(failed("the inner\none", None));
        let error = failed("no answer", Some(failed("no connection: the middle", Some(inner.into())).into()));
        assert_eq!(one_line(&error), "no answer: no connection: the middle: the inner one");
        let repeated = failed("cannot connect: refused", Some(failed("refused", None).into()));
        assert_eq!(one_line(&repeated), "cannot connect: refused");
    }

    #[test]
    fn what_an_io_error_wraps_is_among_the_causes() {
        let error = io::Error::other(failed("wrapped", None));
        assert!(chain(&error).any(<dyn Error>::is::<Failed>));
    }
}
