//! The families about the address of a target: how long its name took, and which one was chosen.

use std::net::IpAddr;
use std::time::Duration;

use super::Recorder;
use super::hash::fnv1a;
use crate::dial::JudgedAddress;
use crate::failure::CallError;

crate::descs! {
    LOOKUP = gauge "probe_dns_lookup_time_seconds" [] "Time that the lookup of the host's name took in seconds, even if it failed.";
    PROTOCOL = gauge "probe_ip_protocol" [] "IP version of the address that was probed: 4 or 6; 0 if there is none.";
    HASH = gauge "probe_ip_addr_hash" [] "Hash (FNV-1a, 32 bits) of the address that was probed: it changes with the address. 0 if there is none.";
}

/// Records the outcome of a lookup.
pub(super) fn record(record: &mut Recorder, resolved: &Result<JudgedAddress, CallError>, took: Duration) {
    record.set(&LOOKUP, &[], took.as_secs_f64());
    let address = resolved.as_ref().ok().map(|address| address.ip());
    record.address = address;
    record.set(
        &PROTOCOL,
        &[],
        match address {
            None => 0.0,
            Some(IpAddr::V4(_)) => 4.0,
            Some(IpAddr::V6(_)) => 6.0,
        },
    );
    record.set(&HASH, &[], address.map_or(0.0, |address| f64::from(hash_of(address))));
}

/// FNV-1a over the 4 or 16 bytes of an address.
pub(in crate::kind) fn hash_of(address: IpAddr) -> u32 {
    match address {
        IpAddr::V4(v4) => fnv1a(v4.octets()),
        IpAddr::V6(v6) => fnv1a(v6.octets()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_of_an_address_is_that_of_the_blackbox_exporter() {
        assert_eq!(hash_of("127.0.0.1".parse().unwrap()), 3_668_918_509);
        assert_eq!(hash_of("::1".parse().unwrap()), 1_751_717_746);
    }
}
