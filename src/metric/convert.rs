//! From one text form of an exposition to the other, OpenMetrics or text 0.0.4: the form that is kept is the one that scrapes ask for.
//!
//! Only for text that [`encode`](super::encode()) wrote: it relies on its shape.

use super::{Format, PlainCounters};

/// Rewrites an exposition of ours. `plain_counters` is what [`encode`](super::encode()) returned.
pub fn openmetrics_to_text(openmetrics: &str, plain_counters: &PlainCounters) -> String {
    rewrite(openmetrics, plain_counters, Format::Text)
}

/// Rewrites an exposition of ours. `plain_counters` is what [`encode`](super::encode()) returned.
pub fn text_to_openmetrics(text: &str, plain_counters: &PlainCounters) -> String {
    rewrite(text, plain_counters, Format::OpenMetrics)
}

fn rewrite(exposition: &str, plain_counters: &PlainCounters, to: Format) -> String {
    let mut out = String::with_capacity(exposition.len() + exposition.len() / 16);
    let mut rewriter = Rewriter::new(to);
    rewriter.write(exposition, plain_counters, &mut out);
    rewriter.finish(&mut out);
    out
}

/// Rewrites an exposition piece by piece, so that nobody has to hold a large one.
#[derive(Debug)]
pub struct Rewriter {
    to: Format,
    /// Name and help of a family whose type is still to come.
    header: Option<(String, String)>,
    /// How many families have begun.
    families: u32,
}

impl Rewriter {
    /// Makes the form `to` of the other one.
    pub fn new(to: Format) -> Self {
        Self { to, header: None, families: 0 }
    }

    /// Rewrites `lines`, which must be whole ones.
    pub fn write(&mut self, lines: &str, plain_counters: &PlainCounters, out: &mut String) {
        for line in lines.split_terminator('\n') {
            // `lines` would eat a help's last `\r`
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').unwrap_or((rest, ""));
                self.header = Some((name.to_owned(), help.to_owned()));
            } else if let Some((name, help)) = self.header.take_if(|_| line.starts_with("# TYPE ")) {
                let kind = line.rsplit(' ').next().unwrap_or("unknown");
                let is_plain_counter = plain_counters.contains(self.families);
                match self.to {
                    Format::Text => push_text_header(out, &name, kind, &help, is_plain_counter),
                    Format::OpenMetrics => push_openmetrics_header(out, &name, kind, &help, is_plain_counter),
                }
                self.families = self.families.saturating_add(1);
            } else if line != "# EOF" {
                out.push_str(line);
                out.push('\n');
            }
        }
    }

    /// Writes what stands at the end.
    pub fn finish(&self, out: &mut String) {
        if self.to == Format::OpenMetrics {
            out.push_str("# EOF\n");
        }
    }
}

fn push_text_header(out: &mut String, name: &str, kind: &str, help: &str, is_plain_counter: bool) {
    let (suffix, kind) = match kind {
        "counter" => ("_total", "counter"),
        "unknown" if is_plain_counter => ("", "counter"),
        "unknown" => ("", "untyped"),
        kind => ("", kind),
    };
    for part in ["# HELP ", name, suffix, " "] {
        out.push_str(part);
    }
    let mut chars = help.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some('"') => out.push('"'),
                Some(escaped) => out.extend(['\\', escaped]),
                None => out.push('\\'),
            },
            c => out.push(c),
        }
    }
    for part in ["\n# TYPE ", name, suffix, " ", kind, "\n"] {
        out.push_str(part);
    }
}

fn push_openmetrics_header(out: &mut String, name: &str, kind: &str, help: &str, is_plain_counter: bool) {
    let (name, kind) = match kind {
        "counter" if is_plain_counter => (name, "unknown"),
        "counter" => (name.strip_suffix("_total").unwrap_or(name), "counter"),
        "untyped" => (name, "unknown"),
        kind => (name, kind),
    };
    for part in ["# HELP ", name, " "] {
        out.push_str(part);
    }
    for (i, part) in help.split('"').enumerate() {
        if i > 0 {
            out.push_str("\\\"");
        }
        out.push_str(part);
    }
    for part in ["\n# TYPE ", name, " ", kind, "\n"] {
        out.push_str(part);
    }
}
