//! How many probes may be sent to one address in a second, over all targets of all namespaces: otherwise whoever may declare targets could
//! have the exporter flood a host that is not theirs.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Addresses in memory. When there are more, those are forgotten that have their full rate again.
const MIN_SWEEP: usize = 4096;

/// Up to this many are kept that do not have it; then all are forgotten.
const MAX_ADDRESSES: usize = 1 << 16;

/// The rate of each address: a bucket that holds the probes of one second.
#[derive(Debug)]
pub(super) struct AddressRate {
    /// 0: no limit.
    per_second: u32,
    buckets: Mutex<Buckets>,
}

#[derive(Debug, Default)]
struct Buckets {
    /// When each bucket is full again.
    full_at: HashMap<IpAddr, Instant>,
    sweep_at: usize,
}

impl AddressRate {
    pub(super) fn new(per_second: u32) -> Self {
        Self { per_second, buckets: Mutex::default() }
    }

    pub(super) const fn per_second(&self) -> u32 {
        self.per_second
    }

    /// Whether another probe may be sent to `address` now; if so it counts.
    pub(super) fn take(&self, address: IpAddr) -> bool {
        const SECOND: Duration = Duration::from_secs(1);
        if self.per_second == 0 {
            return true;
        }
        let now = Instant::now();
        let one = SECOND / self.per_second;
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let Buckets { full_at, sweep_at } = &mut *buckets;
        if full_at.len() >= (*sweep_at).max(MIN_SWEEP) && !full_at.contains_key(&address) {
            full_at.retain(|_, at| *at > now);
            if full_at.len() >= MAX_ADDRESSES {
                full_at.clear();
            }
            *sweep_at = 2 * full_at.len();
        }
        let full = full_at.entry(address.to_canonical()).or_insert(now);
        let after = (*full).max(now) + one;
        let may = after <= now + SECOND;
        if may {
            *full = after;
        }
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_address_gets_its_rate_and_another_one_is_not_touched() {
        let rate = AddressRate::new(20);
        let [one, other] = ["10.0.0.1", "10.0.0.2"].map(|text| text.parse().unwrap());
        assert_eq!((0..100).filter(|_| rate.take(one)).count(), 20);
        assert!(rate.take(other));
        tokio::time::advance(Duration::from_millis(500)).await;
        assert_eq!((0..100).filter(|_| rate.take(one)).count(), 10);
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!((0..100).filter(|_| rate.take(one)).count(), 20);
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_in_its_mapped_form_is_the_same_address() {
        let rate = AddressRate::new(1);
        assert!(rate.take("10.0.0.1".parse().unwrap()));
        assert!(!rate.take("::ffff:10.0.0.1".parse().unwrap()));
    }

    #[tokio::test(start_paused = true)]
    async fn addresses_without_number_take_a_bounded_amount_of_memory() {
        let rate = AddressRate::new(1);
        for number in 0..(MAX_ADDRESSES as u32 + 10_000) {
            rate.take(IpAddr::V4(number.into()));
        }
        assert!(rate.buckets.lock().unwrap().full_at.len() <= MAX_ADDRESSES);
    }

    #[test]
    fn zero_means_no_limit() {
        let rate = AddressRate::new(0);
        assert!((0..1000).all(|_| rate.take("10.0.0.1".parse().unwrap())));
    }
}
