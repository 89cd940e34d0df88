//! What can happen.

use std::fmt;

use proptest::collection::vec;
use proptest::prelude::*;

/// A target or a Secret: in one of two namespaces, one of a few names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) space: usize,
    pub(super) name: usize,
}

/// Targets of one namespace; two of these names are also those of Secrets.
const NAMES: usize = 4;
const SECRETS: usize = 2;

/// Servers that answer or refuse; one more is never there.
pub(super) const SERVERS: usize = 2;

/// What a user may write into a target.
#[derive(Clone, Debug)]
pub(super) struct Spec {
    pub(super) server: usize,
    /// In seconds.
    pub(super) interval: u64,
    pub(super) region: Option<&'static str>,
    pub(super) suspend: bool,
    pub(super) monitor: bool,
    /// A label of the monitor.
    pub(super) team: Option<&'static str>,
    /// The name of a Secret whose `token` is sent.
    pub(super) secret: Option<usize>,
}

/// How a process ends.
#[derive(Clone, Copy, Debug)]
pub(super) enum End {
    Killed,
    Told,
}

/// What happens, one after another.
pub(super) struct Sequence(pub(super) Vec<Operation>);

/// Each in a line of its own, whoever prints it.
impl fmt::Debug for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().enumerate().try_for_each(|(number, operation)| write!(f, "\n{number}: {operation:?}"))
    }
}

pub(super) fn sequence() -> impl Strategy<Value = Sequence> {
    // Always long; but each may be left out where a failure is cut down.
    vec(prop::option::weighted(0.99, operation()), 50).prop_map(|all| Sequence(all.into_iter().flatten().collect()))
}

#[derive(Clone, Debug)]
pub(super) enum Operation {
    /// Makes a target, or changes it.
    Put(Place, Spec),
    Delete(Place),
    /// Deletes a target and makes it again.
    Replace(Place, Spec),
    /// Makes or changes a Secret, with the key that targets refer to or without.
    PutSecret(Place, bool),
    DeleteSecret(Place),
    /// Has a server answer, or refuse every request.
    Serve(usize, bool),
    /// One of two replicas ends, and another starts in its place.
    Renew(usize, End),
    /// The API server hangs for as many milliseconds.
    Hang(u64),
    /// The API server is killed, and started again.
    Restart,
    /// Our CRD is deleted with all targets, and installed again.
    RenewCrd,
    /// The Operator's CRD is deleted with all monitors.
    DeleteOperatorCrd,
    InstallOperatorCrd,
    /// Waits until all is as it should be.
    Look,
}

fn spec() -> impl Strategy<Value = Spec> {
    let rarely = prop::bool::weighted(0.2);
    let secret = prop::option::of(0..SECRETS);
    let region = prop::option::of(prop::sample::select(vec!["tokyo", "osaka", "$1 \"x\""]));
    let team = prop::option::weighted(0.3, prop::sample::select(vec!["media", "edge"]));
    (0..=SERVERS, 1..=2_u64, region, rarely, rarely, team, secret).prop_map(
        |(server, interval, region, suspend, no_monitor, team, secret)| Spec {
            server,
            interval,
            region,
            suspend,
            monitor: !no_monitor,
            team,
            secret,
        },
    )
}

fn operation() -> impl Strategy<Value = Operation> {
    let place = |names| (0..2_usize, 0..names).prop_map(|(space, name)| Place { space, name });
    let (target, secret) = (place(NAMES), place(SECRETS));
    let end = prop_oneof![Just(End::Killed), Just(End::Told)];
    prop_oneof![
        120 => (target.clone(), spec()).prop_map(|(place, spec)| Operation::Put(place, spec)),
        40 => target.clone().prop_map(Operation::Delete),
        30 => (target, spec()).prop_map(|(place, spec)| Operation::Replace(place, spec)),
        50 => (secret.clone(), prop::bool::weighted(0.8)).prop_map(|(place, key)| Operation::PutSecret(place, key)),
        30 => secret.prop_map(Operation::DeleteSecret),
        40 => (0..SERVERS, any::<bool>()).prop_map(|(server, answers)| Operation::Serve(server, answers)),
        10 => (0..2_usize, end).prop_map(|(replica, end)| Operation::Renew(replica, end)),
        6 => (100..3000_u64).prop_map(Operation::Hang),
        4 => Just(Operation::Restart),
        3 => Just(Operation::RenewCrd),
        2 => Just(Operation::DeleteOperatorCrd),
        4 => Just(Operation::InstallOperatorCrd),
        10 => Just(Operation::Look),
    ]
}
