//! What `/version` says: which program runs, and for how long.

use super::api::Version;
use super::metrics as m;
use super::object::Object;
use crate::kind::{Answer, CallError, Number, Reason, Text};
use crate::metric::Families;

/// Writes the build and returns the uptime, for the case that `/statistics` does not tell it.
pub(super) fn write(answer: &Answer, out: &mut Families) -> Result<Number, CallError> {
    let document = answer.json::<Object<Version>>()?.require("the document")?;
    let build = match document.orion {
        Object::Absent => document.flat,
        orion => orion.require("\"orion\"")?,
    };
    let Some(version) = build.orionld_version.value().or_else(|| build.version.value()) else {
        return Err(CallError::new(Reason::Schema, "the JSON names no version of Orion or Orion-LD"));
    };
    let [git_hash, machine] = [&build.git_hash, &build.machine].map(|text| {
        if *text == Text::Invalid {
            out.skip();
        }
        text.value().unwrap_or_default()
    });
    out.set(&m::BUILD_INFO, &[version, git_hash, machine], 1.0);
    Ok(match &build.uptime {
        Text::Absent => Number::Absent,
        Text::Invalid => Number::Invalid,
        Text::Value(uptime) => seconds(uptime).map_or(Number::Invalid, Number::Value),
    })
}

/// Reads `1 d, 2 h, 3 m, 4 s`.
fn seconds(uptime: &str) -> Option<f64> {
    let mut total = 0.0;
    let mut parts = uptime.split(", ");
    for (unit, length) in [("d", 86_400.0), ("h", 3_600.0), ("m", 60.0), ("s", 1.0)] {
        let (count, word) = parts.next()?.trim().split_once(' ')?;
        total += f64::from(count.parse::<u32>().ok().filter(|_| word == unit)?) * length;
    }
    parts.next().is_none().then_some(total)
}

#[cfg(test)]
mod tests {
    use super::seconds;

    #[test]
    fn an_uptime_is_read_to_the_second() {
        assert_eq!(seconds("0 d, 0 h, 0 m, 6 s"), Some(6.0));
        assert_eq!(seconds("12 d, 3 h, 4 m, 5 s"), Some(12.0 * 86_400.0 + 3.0 * 3_600.0 + 4.0 * 60.0 + 5.0));
    }

    #[test]
    fn what_is_no_uptime_is_no_number() {
        for text in ["", "6 s", "0 d, 0 h, 0 m", "0 d, 0 h, 0 s, 6 m", "0 d, 0 h, 0 m, -6 s", "0 d, 0 h, 0 m, 6 s, 1 x"] {
            assert_eq!(seconds(text), None, "{text:?}");
        }
    }
}
