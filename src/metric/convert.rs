//! From OpenMetrics text, the form that is kept, to text 0.0.4, the form that is rarely asked for.
//!
//! Only for text that [`encode`](super::encode()) wrote: it relies on its shape.

/// Rewrites an exposition of ours. `plain_counters` are the names that [`encode`](super::encode()) returned.
pub fn openmetrics_to_text(openmetrics: &str, plain_counters: &[Box<str>]) -> String {
    let mut out = String::with_capacity(openmetrics.len() + openmetrics.len() / 16);
    let mut lines = openmetrics.split_terminator('\n').peekable(); // `lines` would eat a help's last `\r`
    while let Some(line) = lines.next() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap_or((rest, ""));
            let kind = lines
                .next_if(|next| next.starts_with("# TYPE "))
                .and_then(|next| next.rsplit(' ').next())
                .unwrap_or("unknown");
            push_header(&mut out, name, kind, help, plain_counters);
        } else if line != "# EOF" {
            out.push_str(line);
            out.push('\n');
        }
    }
    out
}

fn push_header(out: &mut String, name: &str, kind: &str, help: &str, plain_counters: &[Box<str>]) {
    let (suffix, kind) = match kind {
        "counter" => ("_total", "counter"),
        "unknown" if plain_counters.iter().any(|counter| **counter == *name) => ("", "counter"),
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
