//! The answers of Sora's API: the first byte switches options, then come the bodies of the calls.
#![no_main]

use invariants::{bodies, polls};
use libfuzzer_sys::fuzz_target;
use scrapetarget_exporter::kind::{CallOptions as _, sora::Options};
use url::Url;

fuzz_target!(|input: &[u8]| {
    let Some((switches, input)) = input.split_first() else { return };
    let on = |bit: u8| switches & (1 << bit) == 0;
    let options = Options {
        cluster_metrics: on(0),
        client_metrics: on(1),
        connection_error_metrics: on(2),
        erlang_vm_metrics: on(3),
        server_mode: on(4),
    };
    let limit = if on(5) { 10_000 } else { 20 };
    let url = Url::parse("http://sora:3000/").expect("a url");
    polls(&mut *options.build(&url), bodies(input), limit);
});
