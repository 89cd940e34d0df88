//! From OpenMetrics text, the form that is kept, to text 0.0.4, the form that is rarely asked for.
//!
//! Only for text that [`encode`](super::encode()) wrote: it relies on its shape.

use super::PlainCounters;

/// Rewrites an exposition of ours. `plain_counters` is what [`encode`](super::encode()) returned.
pub fn openmetrics_to_text(openmetrics: &str, plain_counters: &PlainCounters) -> String {
    let mut out = String::with_capacity(openmetrics.len() + openmetrics.len() / 16);
    let mut writer = TextWriter::default();
    writer.write(openmetrics, plain_counters, &mut out);
    out
}

/// Rewrites an exposition piece by piece, so that nobody has to hold a large one.
#[derive(Debug, Default)]
pub struct TextWriter {
    /// Name and help of a family whose type is still to come.
    header: Option<(String, String)>,
    /// How many families have begun.
    families: u32,
}

impl TextWriter {
    /// Rewrites `lines`, which must be whole ones.
    pub fn write(&mut self, lines: &str, plain_counters: &PlainCounters, out: &mut String) {
        for line in lines.split_terminator('\n') {
            // `lines` would eat a help's last `\r`
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').unwrap_or((rest, ""));
                self.header = Some((name.to_owned(), help.to_owned()));
            } else if let Some((name, help)) = self.header.take_if(|_| line.starts_with("# TYPE ")) {
                let kind = line.rsplit(' ').next().unwrap_or("unknown");
                push_header(out, &name, kind, &help, plain_counters.contains(self.families));
                self.families = self.families.saturating_add(1);
            } else if line != "# EOF" {
                out.push_str(line);
                out.push('\n');
            }
        }
    }
}

fn push_header(out: &mut String, name: &str, kind: &str, help: &str, is_plain_counter: bool) {
    let (suffix, kind) = match kind {
        "counter" => ("_total", "counter"),
        "unknown" if is_plain_counter => ("", "counter"),
        "unknown" => ("", "untyped"),
        kind => ("", kind),
    };
    out.push_str("# HELP ");
    out.push_str(name);
    out.push_str(suffix);
    out.push(' ');
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
