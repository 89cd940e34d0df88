//! The word that somebody meant who wrote another: for `did you mean`.

/// The one of `words` that is closest to `word`, if one is close enough to be a slip of the pen.
pub(crate) fn nearest<'a>(word: &str, words: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let written = word.to_lowercase();
    // One slip in three letters; a word in other case is no slip at all.
    let most = (written.chars().count() / 3).clamp(1, 3);
    let near = words.map(|candidate| (distance(&written, &candidate.to_lowercase()), candidate));
    near.filter(|(slips, _)| *slips <= most).min_by_key(|(slips, _)| *slips).map(|(_, candidate)| candidate)
}

/// How many letters must be put in, taken out or changed to make `b` of `a`.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (line, from) in a.chars().enumerate() {
        let mut next = Vec::with_capacity(row.len());
        let mut left = line + 1;
        next.push(left);
        for ((to, above_left), above) in b.iter().zip(&row).zip(row.iter().skip(1)) {
            left = (above_left + usize::from(from != *to)).min(above + 1).min(left + 1);
            next.push(left);
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
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
        assert_eq!(nearest("scrapeTimeout", words()), None);
    }

    #[test]
    fn distance_counts_slips() {
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("abc", "abc"), 0);
    }
}
