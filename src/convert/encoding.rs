//! Whether an Accept-Encoding header lets a server answer with an encoding, by the weights of RFC 9110.

/// Whether `header` accepts `encoding`. What cannot be read accepts nothing.
pub(super) fn accepts(header: &str, encoding: &str) -> bool {
    if header.trim().is_empty() {
        // The header says that nothing but the plain body is wanted.
        return encoding == "identity";
    }
    let (mut exact, mut any) = (None, None);
    for part in header.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let mut words = part.split(';').map(str::trim);
        let name = words.next().unwrap_or_default();
        let Some(weight) = weight(words) else { return false };
        let slot = if name == "*" { &mut any } else { &mut exact };
        // The first one counts, as where a header is read from its beginning.
        if (name == "*" || name.eq_ignore_ascii_case(encoding)) && slot.is_none() {
            *slot = Some(weight > 0.0);
        }
    }
    exact.or(any).unwrap_or(encoding == "identity")
}

fn weight<'w>(parameters: impl Iterator<Item = &'w str>) -> Option<f64> {
    let mut weight = 1.0;
    for parameter in parameters {
        let (name, value) = parameter.split_once('=')?;
        if name.trim().eq_ignore_ascii_case("q") {
            weight = value.trim().parse().ok().filter(|weight| (0.0..=1.0).contains(weight))?;
        }
    }
    Some(weight)
}

#[cfg(test)]
mod tests {
    use super::accepts;

    #[test]
    fn weights_decide() {
        for (header, encoding, wanted) in [
            ("gzip", "gzip", true),
            ("gzip", "br", false),
            ("gzip, br", "br", true),
            ("*", "gzip", true),
            ("*;q=0", "gzip", false),
            ("gzip;q=0", "gzip", false),
            ("gzip;q=0, *", "gzip", false),
            ("*;q=0, gzip", "gzip", true),
            ("gzip;q=0.5, br;q=1.0", "gzip", true),
            ("br", "identity", true),
            ("identity;q=0", "identity", false),
            ("*;q=0", "identity", false),
            ("*;q=0, identity;q=0.1", "identity", true),
            ("gzip;q=x", "gzip", false),
            ("gzip;q=2", "gzip", false),
            ("", "gzip", false),
            ("", "identity", true),
            ("GZIP ; q=0.1", "gzip", true),
        ] {
            assert_eq!(accepts(header, encoding), wanted, "{header:?} {encoding}");
        }
    }
}
