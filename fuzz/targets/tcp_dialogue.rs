//! The lines of a server, a pattern that is searched for in them, and what is made of the line that matches. The input is the pattern, the
//! template and the lines, each after a line feed.
#![no_main]

use libfuzzer_sys::fuzz_target;
use scrapetarget_exporter::kind::tcp::search_lines;

fuzz_target!(|input: &[u8]| {
    let mut parts = input.splitn(3, |byte| *byte == b'\n');
    let [Some(pattern), Some(template), Some(lines)] = [(); 3].map(|()| parts.next()) else { return };
    let (Ok(pattern), Ok(template)) = (std::str::from_utf8(pattern), std::str::from_utf8(template)) else { return };
    if pattern.len() > 512 || template.len() > 512 {
        return; // as the schema says
    }
    let templates = [template.to_owned(), "$0".to_owned(), "$$".to_owned()];
    let Some(searched) = search_lines(pattern, lines, &templates) else { return };
    assert!(searched.bytes <= lines.len() && searched.lines <= searched.bytes);
    let compared = &lines[..searched.bytes];
    assert_eq!(compared.split_inclusive(|byte| *byte == b'\n').count(), searched.lines);
    let Some(texts) = searched.texts else {
        assert_eq!(searched.bytes, lines.len(), "every line is compared");
        return;
    };
    let last = compared.split_inclusive(|byte| *byte == b'\n').next_back().unwrap_or_default();
    let last: String = last.utf8_chunks().map(|chunk| chunk.valid().to_owned() + &"\u{fffd}".repeat(chunk.invalid().len())).collect();
    assert!(last.contains(&texts[1]), "{:?} is not in {last:?}", texts[1]);
    assert_eq!(texts[2], "$");
    // A template of 512 characters has at most 256 groups, each of which may be the whole line.
    assert!(texts[0].len() <= template.len() + 256 * last.len());
});
