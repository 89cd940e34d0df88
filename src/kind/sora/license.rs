//! The licence of a Sora.

use jiff::civil::{Date, DateTime};

use super::api::License;
use crate::metric::Families;

crate::descs! {
    INFO = gauge "sora_license_info" ["expired_at", "product_name", "serial_code", "type"] "Details of the licence, in the labels. Always 1.";
    EXPIRED_AT = gauge "sora_license_expired_at_timestamp_seconds" [] "Unix time of the last second, in UTC, of the month in which the licence expires.";
    MAX_CONNECTIONS = gauge "sora_license_max_connections" [] "Maximum number of concurrent connections that the licence allows.";
    MAX_NODES = gauge "sora_license_max_nodes" [] "Maximum number of cluster nodes that the licence allows; absent if the licence does not limit them.";
}

/// The families of the licence.
pub(super) fn write(license: &License, out: &mut Families) {
    let labels = [&license.expired_at, &license.product_name, &license.serial_code, &license.kind];
    if labels.iter().any(|label| label.value().is_some()) {
        out.set(&INFO, &labels.map(|label| label.value().unwrap_or_default()), 1.0);
    }
    for label in labels {
        label.count_invalid(out);
    }
    if let Some(month) = license.expired_at.value() {
        match last_second(month) {
            Some(timestamp) => out.set(&EXPIRED_AT, &[], timestamp),
            None => out.skip(),
        }
    }
    out.number(&MAX_CONNECTIONS, &[], license.max_connections);
    out.number(&MAX_NODES, &[], license.max_nodes);
}

/// The last second of a month written `YYYY-MM`, as Unix time. Civil arithmetic, so that a licence until 9999-12 counts as well.
fn last_second(month: &str) -> Option<f64> {
    let (year, month) = month.split_once('-')?;
    let digits = |text: &str, length| text.len() == length && text.bytes().all(|b| b.is_ascii_digit());
    if !digits(year, 4) || !digits(month, 2) {
        return None;
    }
    let last_day = Date::new(year.parse().ok()?, month.parse().ok()?, 1).ok()?.last_of_month();
    let epoch = DateTime::constant(1970, 1, 1, 0, 0, 0, 0);
    Some(last_day.at(23, 59, 59, 0).duration_since(epoch).as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::last_second;

    #[test]
    fn a_licence_ends_with_the_last_second_of_its_month() {
        assert_eq!(last_second("2025-09"), Some(1_759_276_799.0));
        assert_eq!(last_second("2025-12"), Some(1_767_225_599.0));
        assert_eq!(last_second("2024-02"), Some(1_709_251_199.0), "a leap year");
        assert_eq!(last_second("9999-12"), Some(253_402_300_799.0), "the peer overflows here");
    }

    #[test]
    fn what_is_not_a_month_has_no_end() {
        for month in ["", "2025", "2025-9", "2025-13", "2025-00", "2025-09-30", " 2025-09", "+025-09", "2025-+9", "二〇二五-〇九"] {
            assert_eq!(last_second(month), None, "{month:?}");
        }
    }
}
