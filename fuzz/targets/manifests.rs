//! Files of manifests: documents are told apart and judged; what is good stays good when it is written and read again.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use scrapetarget_exporter::target::{Target, TargetId};
use scrapetarget_exporter::{crd, file};

fuzz_target!(|input: &[u8]| {
    let text = String::from_utf8_lossy(input);
    for document in file::documents(&text) {
        let Ok(value) = document.value() else { continue };
        let target = match crd::judge(&value) {
            Ok(target) => target,
            Err(problems) => {
                assert!(!problems.is_empty(), "refused without a reason");
                continue;
            }
        };
        let written = serde_json::to_value(&*target).expect("a good target can be written");
        let again = crd::judge(&written).unwrap_or_else(|problems| panic!("{written}: {problems:?}"));
        assert_eq!(again.spec, target.spec);
        let resolved = Target::resolve(TargetId::new("fuzz", "target"), Arc::new(target), &file::FileObjects::default());
        let _ = resolved.effective();
        assert!(resolved.timeout <= resolved.interval && resolved.max_age <= resolved.interval);
    }
});
