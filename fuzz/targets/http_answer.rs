//! What a web server or a proxy sends beside text: compressed bodies, cookies, redirects, dates, and answers to CONNECT.
#![no_main]

use libfuzzer_sys::fuzz_target;
use scrapetarget_exporter::kind::http::{AnswerPart, HOME, read_part};
use url::Url;

fuzz_target!(|input: &[u8]| {
    let Some(part) = read_part(input) else { return };
    match part {
        AnswerPart::Body { length, .. } => assert!(length <= (1 << 20) + 512, "{length}"),
        AnswerPart::Cookies { other, same } => {
            assert_eq!(other, None, "a server sets cookies for another one");
            let sent = same.unwrap_or_default();
            assert!(sent.len() <= 32 * 4098 && sent.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{sent:?}");
        }
        AnswerPart::Redirect { url, shown, is_at_home } => {
            assert!(matches!(url.scheme(), "http" | "https") && url.has_host(), "{url}");
            assert!(url.username().is_empty() && url.password().is_none() && url.fragment().is_none(), "{url}");
            assert!(!is_at_home || url.origin() == Url::parse(HOME).unwrap().origin(), "secrets are sent to {url}");
            assert!(shown.starts_with(&url.origin().ascii_serialization()), "{shown}");
            assert!(!shown.contains('?') || shown.ends_with("?…"), "{shown}");
        }
        AnswerPart::Modified(at) => assert!(at.is_finite()),
        AnswerPart::Tunnel(status) => assert!(status <= 999),
    }
});
