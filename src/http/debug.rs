//! `/probe?debug=true`: how the newest data of a target came about, for the person who must find out.

use std::fmt::Write;
use std::time::SystemTime;

use super::time;
use crate::metric::{Encoding, Format};
use crate::poll::{Poller, Snapshot, TargetStatus};
use crate::target::Target;

/// Why samples are left out although they can be read.
const WITHHELD: &str = "Their names are those of Prometheus, of this exporter, of another type, or of recording rules; or a \
    credential of this target stands in them.";

/// The whole text about `snapshot`, an answer of `poller`. Nothing that came from a Secret is in it, as far as we can tell what a server has
/// made of it, and nothing that a server wrote beside series, unless `--debug-bodies` is set.
pub fn debug_text(poller: &Poller, snapshot: &Snapshot) -> String {
    text(&poller.target(), &poller.status(), snapshot)
}

fn text(target: &Target, status: &TargetStatus, snapshot: &Snapshot) -> String {
    let mut out = String::with_capacity(16 * 1024);
    // Writing to a String cannot fail.
    let _ = head(&mut out, target, status, snapshot);
    let _ = calls(&mut out, target, snapshot);
    if snapshot.withheld > 0 {
        let _ = writeln!(out, "\nSamples left out: {}. {WITHHELD}", snapshot.withheld);
    }
    let samples = snapshot.samples;
    let _ = write!(out, "\nThe metrics of this answer ({samples} samples, text 0.0.4)\n\n");
    metrics(&mut out, snapshot);
    let _ = write!(out, "\nThe effective configuration (secrets masked)\n\n{}\n", target.effective().trim_end());
    out
}

/// The exposition; of a large one the beginning, which is more than anybody reads.
fn metrics(out: &mut String, snapshot: &Snapshot) {
    const MUCH: usize = 256 << 10;
    let end = out.len() + MUCH;
    let mut pieces = snapshot.pieces(Format::Text, Encoding::Identity);
    while out.len() < end {
        let Some(piece) = pieces.next() else { return };
        out.push_str(&String::from_utf8_lossy(&piece));
    }
    if pieces.next().is_some() {
        out.push_str("\nThe rest is left out here: ask without debug=true\n");
    }
}

fn head(out: &mut String, target: &Target, status: &TargetStatus, snapshot: &Snapshot) -> std::fmt::Result {
    let now = SystemTime::now();
    writeln!(out, "Target {}\n", target.id)?;
    writeln!(out, "  type          {}", target.source.kind)?;
    writeln!(out, "  url           {}", target.source.url)?;
    let state = status.state.as_str();
    writeln!(out, "  state         {state} since {}", time::utc_and_ago(status.since, now))?;
    if let Some(failure) = &status.failure {
        writeln!(out, "  reason        {}: {}", failure.reason.as_str(), failure.message)?;
    }
    match status.last_success {
        Some(at) => writeln!(out, "  last success  {}", time::utc_and_ago(at, now))?,
        None => writeln!(out, "  last success  never")?,
    }
    if snapshot.calls.is_empty() {
        match &snapshot.failure {
            Some(failure) => writeln!(out, "  this answer   no poll: {}: {}", failure.reason.as_str(), failure.message),
            None => writeln!(out, "  this answer   no poll"),
        }
    } else {
        let ended = time::utc_and_ago(snapshot.ended_at, now);
        writeln!(out, "  last poll     ended {ended}, took {}", time::duration(snapshot.duration()))
    }
}

fn calls(out: &mut String, target: &Target, snapshot: &Snapshot) -> std::fmt::Result {
    writeln!(out, "\nThe calls of the poll\n")?;
    if snapshot.calls.is_empty() {
        return writeln!(out, "  none");
    }
    let source = &target.source;
    let requests = &snapshot.requests;
    for (i, record) in snapshot.calls.iter().enumerate() {
        writeln!(out, "  {}. {}", i + 1, record.call)?;
        if let Some(request) = requests.iter().find(|request| request.name == record.call) {
            writeln!(out, "     {} {}", request.method.as_str(), request.url)?;
            for (name, value) in &request.headers {
                writeln!(out, "     {name}: {value}")?;
            }
        }
        for (name, value) in &source.headers {
            let value =
                if value.is_sensitive() { "<secret>".into() } else { String::from_utf8_lossy(value.as_bytes()) };
            writeln!(out, "     {name}: {value}")?;
        }
        let took = time::duration(record.duration);
        match record.status {
            Some(status) => writeln!(out, "     → {status}, {} bytes, {took}", record.bytes)?,
            None => writeln!(out, "     → no answer, {took}")?,
        }
        if let Some(error) = &record.error {
            writeln!(out, "     error: {error}")?;
            match &record.beginning {
                Some(beginning) if beginning.is_empty() => writeln!(out, "     body:  empty")?,
                Some(beginning) => writeln!(out, "     body:  {beginning}")?,
                None if record.bytes > 0 => writeln!(out, "     body:  not shown, --debug-bodies shows its beginning")?,
                None => {}
            }
        }
    }
    Ok(())
}
