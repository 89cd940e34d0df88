//! The body of an answer to a health check of gRPC.
#![no_main]

use libfuzzer_sys::fuzz_target;
use scrapetarget_exporter::kind::grpc::{ServingStatus, serving_status};

fuzz_target!(|body: &[u8]| {
    if let Ok(status) = serving_status(body) {
        assert!(ServingStatus::ALL.contains(&status));
        assert!(body.len() >= 5 && body[0] == 0);
        let length = u32::from_be_bytes([body[1], body[2], body[3], body[4]]) as usize;
        assert_eq!(length, body.len() - 5);
        // A field that is not known changes nothing.
        let mut longer = body.to_vec();
        longer.extend([0x12, 1, 0]);
        longer[1..5].copy_from_slice(&(length as u32 + 3).to_be_bytes());
        assert_eq!(serving_status(&longer), Ok(status));
    }
});
