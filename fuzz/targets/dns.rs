//! Replies of DNS servers: whatever a message contains, reading it ends, and each record is one text that can be told from the others. What can
//! be read is a message also to those who did not ask for it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use scrapetarget_exporter::kind::dns::{is_about_another_query, record_texts};

fuzz_target!(|input: &[u8]| {
    let is_message = is_about_another_query(input);
    let Some(texts) = record_texts(input) else { return };
    assert!(is_message, "what can be read as a reply is a message, whatever its number");
    let total: usize = texts.iter().map(String::len).sum();
    assert!(total <= 2 << 20, "{total} bytes of text of {} bytes", input.len());
    for text in &texts {
        // A pseudo-record is several lines; everything else is one, in printable ASCII.
        if text.starts_with("\n;; OPT PSEUDOSECTION:\n; EDNS: version ") {
            assert!(text.bytes().all(|byte| byte == b'\n' || (b' '..=b'~').contains(&byte)), "{text:?}");
            continue;
        }
        assert!(text.bytes().all(|byte| byte == b'\t' || (b' '..=b'~').contains(&byte)), "{text:?}");
        let parts: Vec<&str> = text.splitn(5, '\t').collect();
        let [owner, seconds, class, kind, data] = parts[..] else { panic!("not five parts: {text:?}") };
        assert!(owner.ends_with('.') && !class.is_empty() && !kind.is_empty(), "{text:?}");
        assert!(seconds.parse::<u32>().is_ok() && !data.contains('\t'), "{text:?}");
    }
});
