//! When kept connections are renewed: polls within one period use the same connection, and the next period begins with a new one, so that a
//! name that has moved and a certificate that was renewed are followed. Each server has its own schedule, so that not all connections are
//! renewed at once.

use std::hash::{BuildHasher, Hash, RandomState};
use std::net::IpAddr;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use reqwest::Url;

/// The periods of connections to one server, as one target sees them.
#[derive(Debug)]
pub(super) struct RenewalSchedule {
    /// How much of the first period was over when the process began.
    offset: Duration,
    /// When the last poll began.
    last_poll: Mutex<Option<Instant>>,
}

/// The period in which a poll begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RenewalPeriod {
    number: u64,
    /// No further poll is expected in it: the connection need not be kept.
    pub(super) is_last_poll: bool,
}

impl RenewalSchedule {
    /// For this server: `host:port`, or the address of a member. Targets with the same server have the same periods, and so share its
    /// connections.
    pub(super) fn of(server: &(impl Hash + ?Sized)) -> Self {
        static SPREAD: LazyLock<RandomState> = LazyLock::new(RandomState::new);
        let offset = SPREAD.hash_one(server) % (RenewalPeriod::LENGTH.as_secs() * 1000);
        Self { offset: Duration::from_millis(offset), last_poll: Mutex::default() }
    }

    /// The period of a poll that begins now. The next poll is expected after as much time as has passed since the last one.
    pub(super) fn begin_poll(&self) -> RenewalPeriod {
        static START: LazyLock<Instant> = LazyLock::new(Instant::now);
        let start = *START;
        let now = Instant::now();
        let last = self.last_poll.lock().unwrap_or_else(PoisonError::into_inner).replace(now);
        self.period_at(now.duration_since(start), last.map(|last| now.duration_since(last)))
    }

    /// The same, `now` after the process began and `interval` after the last poll.
    fn period_at(&self, now: Duration, interval: Option<Duration>) -> RenewalPeriod {
        let number = |at: Duration| (at + self.offset).as_secs() / RenewalPeriod::LENGTH.as_secs();
        let is_last_poll = interval.is_some_and(|interval| number(now + interval) != number(now));
        RenewalPeriod { number: number(now), is_last_poll }
    }
}

impl RenewalPeriod {
    /// A poll that begins at its end may take as long as ten seconds by default, and a connection is to be at most a minute old.
    pub(super) const LENGTH: Duration = Duration::from_secs(50);

    /// Writes the period and the address of the connection into the url's user name. The pool keeps connections by scheme, user, host and
    /// port. The user is not sent: requests over https have a path only, and the credentials of a target are in a header.
    pub(super) fn tag_url(self, url: &mut Url, address: IpAddr) {
        let address = match address {
            IpAddr::V4(v4) => u128::from(v4.to_bits()),
            IpAddr::V6(v6) => v6.to_bits(),
        };
        // A url of https always takes one.
        let _ = url.set_username(&format!("{:x}-{address:x}", self.number));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn connections_of_many_servers_are_not_renewed_in_one_moment() {
        let moments = |number: u32| {
            let schedule = RenewalSchedule::of(&format!("server-{number}.test:443"));
            let period = |second: u32| schedule.period_at(second * SECOND, None).number;
            (1..=50).find(|second| period(*second) != period(0)).unwrap()
        };
        let mut at = [0; 51];
        for number in 0..10_000 {
            at[usize::try_from(moments(number)).unwrap()] += 1;
        }
        assert!(at[1..].iter().all(|renewed| (100..400).contains(renewed)), "200 each second: {at:?}");
    }

    #[test]
    fn the_last_poll_of_a_period_is_known() {
        let schedule = RenewalSchedule::of("server.test:443");
        let polls = || (0..40).map(|poll| schedule.period_at(poll * 15 * SECOND, (poll > 0).then_some(15 * SECOND)));
        for (poll, next) in polls().zip(polls().skip(1)).skip(1) {
            assert_eq!(poll.is_last_poll, poll.number != next.number, "{poll:?}, then {next:?}");
        }
        assert!(polls().filter(|poll| poll.is_last_poll).count() >= 10);
        // Where the next poll comes after the period in any case, nothing is kept for it.
        assert!((1..40).all(|poll| schedule.period_at(poll * 60 * SECOND, Some(60 * SECOND)).is_last_poll));
    }

    #[test]
    fn connections_are_tagged_by_period_and_address_and_the_server_does_not_see_it() {
        let schedule = RenewalSchedule::of("server.test:443");
        let marked = |seconds: u32, address: &str| {
            let mut url: Url = "https://server.test/admin/metrics?x=1".parse().unwrap();
            schedule.period_at(seconds * SECOND, None).tag_url(&mut url, address.parse().unwrap());
            assert_eq!((url.host_str(), url.path(), url.query()), (Some("server.test"), "/admin/metrics", Some("x=1")));
            url.username().to_owned()
        };
        let all = [(0, "10.0.0.1"), (50, "10.0.0.1"), (0, "10.0.0.2"), (0, "2001:db8::1"), (0, "::1")];
        let marks: BTreeSet<String> = all.iter().map(|(seconds, address)| marked(*seconds, address)).collect();
        assert_eq!(marks.len(), all.len(), "{marks:?}");
        assert_eq!(marked(0, "10.0.0.1"), marked(0, "10.0.0.1"));
    }
}
