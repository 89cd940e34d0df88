//! The answer of a token endpoint.
#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use scrapetarget_exporter::oauth2::read;

/// The time of the answer.
const NOW: Duration = Duration::from_secs(1_800_000_000);

/// A year.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

fuzz_target!(|answer: &[u8]| {
    let Some((status, body)) = answer.split_first() else { return };
    let status = [200, 201, 302, 400, 401, 403, 429, 500][usize::from(status % 8)];
    match read(status, body, "client_credentials", NOW) {
        Ok(token) => {
            assert!((200..300).contains(&status));
            let value = token.value.expose();
            assert!(!value.is_empty() && value.len() <= 16 * 1024);
            assert!(value.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(byte)));
            assert!(token.lifetime.is_none_or(|life| !life.is_zero() && life <= LONGEST));
            assert!(format!("{token:?}").len() < 100);
        }
        Err(error) => {
            let message = error.call_error().message;
            assert!(message.starts_with("token: ") && message.len() < 300);
            // It consists of words of our own: the same message for an answer with other words.
            assert!(message.is_ascii() && !message.chars().any(char::is_control));
        }
    }
});
