//! How much an agent is asked for: what is not shown need not be known. In large rooms it is the consumers that cost.

use super::{Options, PerObject, aggregated, compatibility, streams, traffic};
use crate::metric::{Desc, Filter};

/// What an agent can be asked for, each more than the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Detail {
    /// What there is, without statistics.
    Counts,
    /// Statistics of transports and producers, too.
    Producers,
    /// And those of consumers.
    All,
}

impl Detail {
    /// No more than what a target shows may need, with these options and this filter.
    pub(super) fn of(options: &Options, filter: Option<&Filter>) -> Self {
        let _compiled = filter.map(Filter::compiled); // once for all names
        let shown = |families: &'static [&'static Desc]| {
            families.iter().copied().filter(move |desc| filter.is_none_or(|filter| filter.wants(desc.name)))
        };
        let compatible = options.compatibility.as_ref();
        if compatible.is_some_and(|also| also.aggregated) && shown(aggregated::FAMILIES).next().is_some() {
            return Self::All;
        }
        let single = shown(streams::FAMILIES).filter(|desc| is_of_any(desc, &options.per_object));
        let of_edumeet = compatible.into_iter().flat_map(|_| shown(compatibility::FAMILIES));
        // Peers are told apart by their addresses, and their family has a name of the user's own.
        let least = if compatible.is_some() { Self::Producers } else { Self::Counts };
        shown(traffic::FAMILIES).chain(single).chain(of_edumeet).map(Self::for_family).fold(least, Self::max)
    }

    /// What a family may be made from, by its name: statistics of the objects it is about. A few would need less.
    fn for_family(desc: &Desc) -> Self {
        if desc.name.starts_with("mediasoup_consumer") { Self::All } else { Self::Producers }
    }

    /// The word in the query.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Counts => "counts",
            Self::Producers => "producers",
            Self::All => "all",
        }
    }
}

fn is_of_any(desc: &Desc, objects: &[PerObject]) -> bool {
    objects.iter().any(|object| {
        desc.name.starts_with(match object {
            PerObject::Producers => "mediasoup_producer_",
            PerObject::Consumers => "mediasoup_consumer_",
            PerObject::Transports => "mediasoup_transport_",
        })
    })
}
