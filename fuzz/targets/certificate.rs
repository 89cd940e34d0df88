//! What a server shows as its certificates: the families and the debug page are bounded, and the exposition stays readable.
#![no_main]

use libfuzzer_sys::fuzz_target;
use scrapetarget_exporter::dial::TlsPeer;
use scrapetarget_exporter::kind::Recorder;
use scrapetarget_exporter::metric::{Families, Format, encode};

fuzz_target!(|der: &[u8]| {
    let mut record = Recorder::new(std::time::Instant::now().into());
    record.tls(&TlsPeer { chain: vec![der.to_vec().into()], ..TlsPeer::default() }, true);
    let mut families = Families::default();
    record.write(&mut families);
    let mut text = Vec::new();
    encode(&[&families.finish()], Format::Text, &mut text);
    let text = String::from_utf8(text).expect("text");
    assert!(text.len() < 16 * 1024);
    let series: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    assert!(series.len() == 1 && series[0].starts_with("probe_ssl_last_chain_info{") && series[0].ends_with("} 1"));
    for line in record.into_record().certificates {
        assert!(line.len() <= 600 && !line.contains(char::is_control));
    }
});
