//! Which form of an exposition a scraper asks for. Never refuses: what is not understood gets text 0.0.4, as the Go client does.

/// The text format of an exposition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// Prometheus text 0.0.4.
    Text,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

impl Format {
    /// The exact `Content-Type`; Prometheus 3 fails a scrape without a known one.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// The encoding of an answer's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// As they are.
    Identity,
    /// gzip.
    Gzip,
}

/// The format that an `Accept` header prefers by its q-values; equal q: the first one named.
pub fn negotiate_format(accept: &str) -> Format {
    best(accept, |range, parameters| {
        let version = parameters.iter().find(|(name, _)| *name == "version").map(|(_, version)| *version);
        match (range, version) {
            ("application/openmetrics-text", None | Some("1.0.0")) => Some(Format::OpenMetrics),
            ("text/plain", None | Some("0.0.4")) | ("text/*" | "*/*", _) => Some(Format::Text),
            _ => None,
        }
    })
    .unwrap_or(Format::Text)
}

/// Whether an `Accept-Encoding` header lets us answer in gzip. Gzip is taken wherever it is not worse than identity.
pub fn negotiate_encoding(accept_encoding: &str) -> Encoding {
    let quality = |wanted: &str| {
        items(accept_encoding).find(|(name, _, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, _, quality)| quality)
    };
    let gzip = quality("gzip").or_else(|| quality("x-gzip")).or_else(|| quality("*")).unwrap_or(0.0);
    if gzip > 0.0 && gzip >= quality("identity").unwrap_or(0.0) { Encoding::Gzip } else { Encoding::Identity }
}

fn best<T>(header: &str, mut choose: impl FnMut(&str, &[(&str, &str)]) -> Option<T>) -> Option<T> {
    let mut best: Option<(f32, T)> = None;
    for (range, parameters, quality) in items(header) {
        let range = range.to_ascii_lowercase();
        if quality > best.as_ref().map_or(0.0, |(quality, _)| *quality)
            && let Some(choice) = choose(&range, &parameters)
        {
            best = Some((quality, choice));
        }
    }
    best.map(|(_, choice)| choice)
}

/// One item of an `Accept`-like header: its name, its parameters, its quality.
type HeaderItem<'h> = (&'h str, Vec<(&'h str, &'h str)>, f32);

fn items(header: &str) -> impl Iterator<Item = HeaderItem<'_>> {
    header.split(',').filter_map(|item| {
        let mut parts = item.split(';').map(str::trim);
        let name = parts.next().filter(|name| !name.is_empty())?;
        let mut quality = 1.0;
        let mut parameters = Vec::new();
        for part in parts {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            let (key, value) = (key.trim(), value.trim().trim_matches('"'));
            if key.eq_ignore_ascii_case("q") {
                quality = value.parse().ok().filter(|q: &f32| (0.0..=1.0).contains(q)).unwrap_or(0.0);
            } else {
                parameters.push((key, value));
            }
        }
        Some((name, parameters, quality))
    })
}
