//! The word that somebody meant who wrote another: for `did you mean`.

use strsim::osa_distance;

/// The one of `words` that is closest to `word`, if one is close enough to be a slip of the pen.
pub(crate) fn nearest<'a>(word: &str, words: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    /// Longer than any word of ours: comparing takes time.
    const LONGEST: usize = 64;
    if word.len() > LONGEST {
        return None;
    }
    let written = word.to_lowercase();
    // One slip in three letters; a word in other case is no slip at all.
    let most = (written.chars().count() / 3).clamp(1, 3);
    let near = words.map(|candidate| (osa_distance(&written, &candidate.to_lowercase()), candidate));
    near.filter(|(slips, _)| *slips <= most).min_by_key(|(slips, _)| *slips).map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_forgiven_and_another_word_is_not() {
        let words = || ["interval", "timeout", "maxAge", "url"].into_iter();
        assert_eq!(nearest("intervall", words()), Some("interval"));
        assert_eq!(nearest("maxage", words()), Some("maxAge"));
        assert_eq!(nearest("uri", words()), Some("url"));
        assert_eq!(nearest("ulr", words()), Some("url"), "two letters that changed places are one slip");
        assert_eq!(nearest("scrapeTimeout", words()), None);
    }
}
