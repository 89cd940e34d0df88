//! The headers Accept and Accept-Encoding: never a format or an encoding that nobody asked for.
#![no_main]

use libfuzzer_sys::fuzz_target;
use scrapetarget_exporter::metric::{Encoding, Format, negotiate_encoding, negotiate_format};

fuzz_target!(|header: &str| {
    let lower = header.to_ascii_lowercase();
    if negotiate_format(header) == Format::OpenMetrics {
        assert!(lower.contains("application/openmetrics-text"));
    }
    if negotiate_encoding(header) == Encoding::Gzip {
        assert!(lower.contains("gzip") || lower.contains('*'));
    }
});
