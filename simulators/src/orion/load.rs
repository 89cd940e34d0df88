//! The load of a simulated broker: tenants that send updates, query and are notified, at different rates with noise.

use super::books::{Books, Traffic};
use super::statistics::Statistics;
use crate::Noise;

/// What the users of one subservice do.
#[derive(Debug)]
struct Habit {
    service: &'static str,
    subservice: &'static str,
    /// Method and URL template of all their requests.
    request: (&'static str, &'static str),
    per_minute: u64,
    errors_per_thousand: u64,
    request_bytes: u64,
    response_bytes: u64,
    micros: u64,
    notifications_per_minute: u64,
    lost_per_thousand: u64,
}

const NOTHING: Habit = Habit {
    service: "",
    subservice: "",
    request: ("GET", "/version"),
    per_minute: 0,
    errors_per_thousand: 0,
    request_bytes: 0,
    response_bytes: 0,
    micros: 0,
    notifications_per_minute: 0,
    lost_per_thousand: 0,
};

/// Two busy tenants, one that only asks, one whose notifications go nowhere, one that is only notified.
static HABITS: &[Habit] = &[
    Habit { per_minute: 12, response_bytes: 480, micros: 260, ..NOTHING },
    Habit {
        service: "acme_water",
        request: ("GET", "/v2/entities"),
        per_minute: 90,
        errors_per_thousand: 4,
        response_bytes: 2_200,
        micros: 2_900,
        ..NOTHING
    },
    Habit {
        service: "acme_water",
        subservice: "pumps",
        request: ("POST", "/v2/op/update"),
        per_minute: 1_800,
        errors_per_thousand: 2,
        request_bytes: 225,
        micros: 2_800,
        notifications_per_minute: 1_790,
        lost_per_thousand: 1,
        ..NOTHING
    },
    Habit {
        service: "acme_water",
        subservice: "pumps/north",
        request: ("PATCH", "/v2/entities/{id}[/attrs]"),
        per_minute: 900,
        errors_per_thousand: 3,
        request_bytes: 225,
        response_bytes: 4,
        micros: 2_500,
        notifications_per_minute: 880,
        ..NOTHING
    },
    Habit {
        service: "city01",
        subservice: "pumps",
        request: ("POST", "/v2/op/update"),
        per_minute: 8,
        errors_per_thousand: 25,
        request_bytes: 225,
        response_bytes: 66,
        micros: 2_660,
        notifications_per_minute: 7,
        lost_per_thousand: 1_000,
    },
    Habit {
        service: "city01",
        subservice: "traffic/zone_7",
        request: ("POST", "/v2/entities"),
        per_minute: 6_000,
        errors_per_thousand: 1,
        request_bytes: 245,
        response_bytes: 5,
        micros: 1_750,
        ..NOTHING
    },
    Habit { service: "city01", subservice: "alerts", notifications_per_minute: 30, lost_per_thousand: 130, ..NOTHING },
];

/// The part of a request that has not come yet.
#[derive(Debug, Default)]
struct Carry(u64);

impl Carry {
    /// Adds `amount` and takes out whole units of `unit`.
    const fn whole(&mut self, amount: u64, unit: u64) -> u64 {
        self.0 += amount;
        let whole = self.0 / unit;
        self.0 %= unit;
        whole
    }
}

/// One subservice.
#[derive(Debug)]
struct Tenant {
    habit: &'static Habit,
    requests: Carry,
    errors: Carry,
    notifications: Carry,
    lost: Carry,
}

/// All tenants.
#[derive(Debug)]
pub(super) struct Load(Vec<Tenant>);

impl Default for Load {
    fn default() -> Self {
        let tenant = |habit| Tenant {
            habit,
            requests: Carry::default(),
            errors: Carry::default(),
            notifications: Carry::default(),
            lost: Carry::default(),
        };
        Self(HABITS.iter().map(tenant).collect())
    }
}

impl Load {
    /// Lets `millis` pass.
    pub(super) fn advance(&mut self, millis: u64, noise: &mut Noise, books: &mut Books, statistics: &mut Statistics) {
        const MINUTE: u64 = 60_000 * 100; // in milliseconds, with noise in percent
        let mut percent = |spread: u64| 100 - spread + noise.below(2 * spread + 1);
        for Tenant { habit, requests, errors, notifications, lost } in &mut self.0 {
            let incoming = requests.whole(habit.per_minute * millis * percent(20), MINUTE);
            let incoming_errors = errors.whole(incoming * habit.errors_per_thousand * percent(50), 100_000);
            let outgoing = notifications.whole(habit.notifications_per_minute * millis * percent(20), MINUTE);
            let lost = lost.whole(outgoing * habit.lost_per_thousand, 1_000).min(outgoing);
            let traffic = Traffic {
                incoming,
                incoming_errors: incoming_errors.min(incoming),
                incoming_request_bytes: incoming * habit.request_bytes * percent(10) / 100,
                incoming_response_bytes: incoming * habit.response_bytes * percent(10) / 100,
                service_micros: incoming * habit.micros * percent(30) / 100,
                outgoing,
                outgoing_errors: lost,
                outgoing_request_bytes: outgoing * 510 * percent(5) / 100,
                outgoing_response_bytes: (outgoing - lost) * 24,
            };
            if incoming + outgoing > 0 {
                let (method, url) = habit.request;
                books.count(habit.service, habit.subservice, &traffic);
                statistics.users(method, url, &traffic);
            }
        }
    }
}
