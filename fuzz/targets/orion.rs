//! The answers of Orion's monitoring endpoints: the first byte switches options, then come the bodies of the calls.
#![no_main]

use invariants::{bodies, polls};
use libfuzzer_sys::fuzz_target;
use scrapetarget_exporter::kind::{
    CallOptions as _,
    orion::{Level, Options},
};
use url::Url;

fuzz_target!(|input: &[u8]| {
    let Some((switches, input)) = input.split_first() else { return };
    let on = |bit: u8| switches & (1 << bit) == 0;
    let level = match switches >> 6 {
        0 | 1 => Level::Subservice,
        2 => Level::Service,
        _ => Level::Total,
    };
    let options = Options { level, include_own_traffic: on(0), ..Options::default() };
    let limit = if on(1) { 10_000 } else { 20 };
    let url = Url::parse("http://orion:1026/").expect("a url");
    polls(&mut *options.build(&url), bodies(input), limit);
});
