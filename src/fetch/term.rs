//! Terms of kept connections: within one, polls go over the same connection; with the next, over a new one, so that a name that has moved
//! and a certificate that was renewed are followed. Each server has its own moment for that: not all are connected to anew at once.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use reqwest::Url;

/// The terms of connections to one server, as one target sees them.
#[derive(Debug)]
pub(super) struct Phase {
    /// So much of a term was over when the process began.
    offset: Duration,
    /// When a poll began last.
    last: Mutex<Option<Instant>>,
}

/// A poll's term.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Term {
    number: u64,
    /// No further poll is expected in it: the connection needs no keeping.
    pub(super) ends: bool,
}

impl Phase {
    /// For the server at `host:port`. Targets that lead to the same one have the same terms, and so its connections in common.
    pub(super) fn of(authority: &str) -> Self {
        static SPREAD: LazyLock<RandomState> = LazyLock::new(RandomState::new);
        let offset = SPREAD.hash_one(authority) % (Term::LENGTH.as_secs() * 1000);
        Self { offset: Duration::from_millis(offset), last: Mutex::default() }
    }

    /// The term in which a poll begins now. The next poll is expected after as much time as has passed since the last.
    pub(super) fn term(&self) -> Term {
        static START: LazyLock<Instant> = LazyLock::new(Instant::now);
        let start = *START;
        let now = Instant::now();
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner).replace(now);
        self.term_at(now.duration_since(start), last.map(|last| now.duration_since(last)))
    }

    /// The same, so long after the process began, and after the last poll.
    fn term_at(&self, now: Duration, interval: Option<Duration>) -> Term {
        let number = |at: Duration| (at + self.offset).as_secs() / Term::LENGTH.as_secs();
        let ends = interval.is_some_and(|interval| number(now + interval) != number(now));
        Term { number: number(now), ends }
    }
}

impl Term {
    /// A poll that begins at its end may take as long as ten seconds by default, and a connection is to be at most a minute old.
    pub(super) const LENGTH: Duration = Duration::from_secs(50);

    /// Writes the term, and the address to which the connection leads, into the url's user name: connections are kept by scheme, user, host
    /// and port, and the user is not sent: requests of https have a path only, and the credentials of a target are in a header.
    pub(super) fn mark(self, url: &mut Url, address: IpAddr) {
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
            let phase = Phase::of(&format!("server-{number}.test:443"));
            let term = |second: u32| phase.term_at(second * SECOND, None).number;
            (1..=50).find(|second| term(*second) != term(0)).unwrap()
        };
        let mut at = [0; 51];
        for number in 0..10_000 {
            at[usize::try_from(moments(number)).unwrap()] += 1;
        }
        assert!(at[1..].iter().all(|renewed| (100..400).contains(renewed)), "200 each second: {at:?}");
    }

    #[test]
    fn of_all_polls_of_a_term_the_last_says_so() {
        let phase = Phase::of("server.test:443");
        let polls = || (0..40).map(|poll| phase.term_at(poll * 15 * SECOND, (poll > 0).then_some(15 * SECOND)));
        for (poll, next) in polls().zip(polls().skip(1)).skip(1) {
            assert_eq!(poll.ends, poll.number != next.number, "{poll:?}, then {next:?}");
        }
        assert!(polls().filter(|poll| poll.ends).count() >= 10);
        // Where the next poll comes after the term in any case, nothing is kept for it.
        assert!((1..40).all(|poll| phase.term_at(poll * 60 * SECOND, Some(60 * SECOND)).ends));
    }

    #[test]
    fn connections_are_marked_by_term_and_address_without_a_word_to_the_server() {
        let phase = Phase::of("server.test:443");
        let marked = |seconds: u32, address: &str| {
            let mut url: Url = "https://server.test/admin/metrics?x=1".parse().unwrap();
            phase.term_at(seconds * SECOND, None).mark(&mut url, address.parse().unwrap());
            assert_eq!((url.host_str(), url.path(), url.query()), (Some("server.test"), "/admin/metrics", Some("x=1")));
            url.username().to_owned()
        };
        let all = [(0, "10.0.0.1"), (50, "10.0.0.1"), (0, "10.0.0.2"), (0, "2001:db8::1"), (0, "::1")];
        let marks: BTreeSet<String> = all.iter().map(|(seconds, address)| marked(*seconds, address)).collect();
        assert_eq!(marks.len(), all.len(), "{marks:?}");
        assert_eq!(marked(0, "10.0.0.1"), marked(0, "10.0.0.1"));
    }
}
