//! Echo replies, and what ICMP errors repeat of requests: only our own are taken for ours.
#![no_main]

use libfuzzer_sys::fuzz_target;
use scrapetarget_exporter::kind::icmp::{IcmpVersion, refused_request, reply, request};

fuzz_target!(|input: &[u8]| {
    for version in [IcmpVersion::V4, IcmpVersion::V6] {
        let (answered, refused) = (reply(version, input), refused_request(version, input));
        assert!(answered.is_none() || refused.is_none(), "a reply is no request");
        if let Some((sequence, payload)) = answered {
            // The request to this reply differs from it in type, identifier and checksum.
            let sent = request(version, sequence, payload);
            assert_eq!((sent.len(), &sent[6..]), (input.len(), &input[6..]));
            assert_eq!(refused_request(version, &sent), Some(sequence));
        }
        if let Some(sequence) = refused {
            assert_eq!(&request(version, sequence, &input[8..])[6..], &input[6..]);
        }
    }
});
