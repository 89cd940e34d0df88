//! How many probes may be sent to one address in a second, over all targets of all namespaces: otherwise whoever may declare targets could
//! have the exporter flood a host that is not theirs.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Buckets in memory. When there are more, those are forgotten that are full again.
const MIN_SWEEP: usize = 4096;

/// Up to this many are kept that are not; then all are forgotten.
const MAX_BUCKETS: usize = 1 << 17;

/// Of the probes of a second, this part more is for namespaces that send fewer than it: one that floods an address does not keep the others
/// from probing it.
const RESERVED_PART: u32 = 4;

/// How long at most a namespace must send little before it gets a part of what is reserved.
const LONGEST_DEBT: Duration = Duration::from_secs(10);

/// How long at most a probe waits for its turn: targets that are probed at the same moment are not too many if it is not always so.
pub(super) const MAX_PATIENCE: Duration = Duration::from_secs(2);

/// The rate of each address: a bucket that holds the probes of one second.
#[derive(Debug)]
pub(super) struct AddressRate {
    /// 0: no limit.
    per_second: u32,
    buckets: Mutex<Buckets>,
}

#[derive(Debug, Default)]
struct Buckets {
    /// When each bucket is full again: of an address for all namespaces, and of each one's own part of what is reserved.
    full_at: HashMap<(IpAddr, Option<Arc<str>>), Instant>,
    sweep_at: usize,
}

impl AddressRate {
    pub(super) fn new(per_second: u32) -> Self {
        Self { per_second, buckets: Mutex::default() }
    }

    pub(super) const fn per_second(&self) -> u32 {
        self.per_second
    }

    /// When another probe may be sent to `address` for a target of `namespace`: after so long, at most `patience`. Then it counts. `None` if
    /// that would be later.
    pub(super) fn request(&self, address: IpAddr, namespace: &Arc<str>, patience: Duration) -> Option<Duration> {
        const SECOND: Duration = Duration::from_secs(1);
        if self.per_second == 0 {
            return Some(Duration::ZERO);
        }
        let now = Instant::now();
        let one = SECOND / self.per_second;
        let (of_all, own) = ((address, None), (address, Some(Arc::clone(namespace))));
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        buckets.sweep(now);
        let after = |key, one| buckets.full_at.get(key).map_or(now, |full| (*full).max(now)) + one;
        let all_after = after(&of_all, one);
        let reserved = self.per_second / RESERVED_PART;
        let own_after = SECOND.checked_div(reserved).map(|one| after(&own, one).min(now + LONGEST_DEBT));
        let is_moderate = own_after.is_some_and(|after| after <= now + SECOND);
        // Who sends little need not stand in the queue of those who send much.
        let (most, wait) = if is_moderate {
            (SECOND + patience.max(MAX_PATIENCE) + one * reserved, Duration::ZERO)
        } else {
            (SECOND + patience.min(MAX_PATIENCE), all_after.saturating_duration_since(now + SECOND))
        };
        let may = all_after <= now + most;
        if may {
            buckets.full_at.insert(of_all, all_after);
        }
        // Also if it may not: whoever only tries to flood an address has no right to what is reserved either.
        buckets.full_at.extend(own_after.map(|after| (own, after)));
        may.then_some(wait)
    }
}

impl Buckets {
    /// Forgets buckets that are full, if there are many.
    fn sweep(&mut self, now: Instant) {
        if self.full_at.len() >= self.sweep_at.max(MIN_SWEEP) {
            self.full_at.retain(|_, at| *at > now);
            if self.full_at.len() >= MAX_BUCKETS {
                self.full_at.clear();
            }
            self.sweep_at = 2 * self.full_at.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// How many of a hundred probes may be sent at once.
    fn taken(rate: &AddressRate, address: IpAddr, namespace: &str) -> usize {
        let namespace: Arc<str> = namespace.into();
        (0..100).filter(|_| rate.request(address, &namespace, Duration::ZERO).is_some()).count()
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_gets_its_rate_and_another_one_is_not_touched() {
        let rate = AddressRate::new(20);
        let one = address("10.0.0.1");
        assert_eq!(taken(&rate, one, "a"), 20);
        assert_eq!(taken(&rate, address("10.0.0.2"), "a"), 20);
        tokio::time::advance(Duration::from_millis(500)).await;
        assert_eq!(taken(&rate, one, "a"), 10);
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(taken(&rate, one, "a"), 20);
    }

    /// Two namespaces flood an address that a third one probes now and then.
    #[tokio::test(start_paused = true)]
    async fn whoever_floods_an_address_does_not_keep_others_from_it() {
        let rate = AddressRate::new(20);
        let one = address("10.0.0.1");
        let honest: Arc<str> = "honest".into();
        let (mut flooded, mut probed) = (0, 0);
        for _ in 0..60 {
            flooded += taken(&rate, one, "a") + taken(&rate, one, "b");
            probed += usize::from(rate.request(one, &honest, Duration::ZERO).is_some());
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert_eq!(probed, 60);
        assert!((60 * 19..=60 * 20 + 5).contains(&(flooded + probed)), "all together have the rate: {flooded}");
        let alone = AddressRate::new(1);
        assert_eq!((taken(&alone, one, "a"), taken(&alone, one, "b")), (1, 0), "there is nothing to reserve");
    }

    /// Fifty targets of one ingress controller are probed in the same moment, again and again.
    #[tokio::test(start_paused = true)]
    async fn targets_that_are_probed_at_the_same_moment_get_their_turn_within_their_patience() {
        let rate = AddressRate::new(20);
        let (one, namespace): (_, Arc<str>) = (address("10.0.0.1"), "a".into());
        for _ in 0..4 {
            let waits: Vec<_> = (0..50).map(|_| rate.request(one, &namespace, Duration::from_secs(2))).collect();
            assert!(waits.iter().all(Option::is_some), "{waits:?}");
            assert!(waits.iter().flatten().max() <= Some(&Duration::from_millis(1500)), "{waits:?}");
            tokio::time::advance(Duration::from_secs(15)).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn addresses_without_number_take_a_bounded_amount_of_memory() {
        let rate = AddressRate::new(1);
        let namespace: Arc<str> = "a".into();
        for number in 0..u32::try_from(MAX_BUCKETS).unwrap() + 10_000 {
            rate.request(IpAddr::V4(number.into()), &namespace, Duration::ZERO);
        }
        assert!(rate.buckets.lock().unwrap().full_at.len() <= MAX_BUCKETS + 2);
    }

    #[test]
    fn zero_means_no_limit() {
        assert_eq!(taken(&AddressRate::new(0), address("10.0.0.1"), "a"), 100);
    }
}
