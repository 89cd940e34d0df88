//! The phases of probes: values of the label `phase` of a family with their durations.

/// Makes the phases of one kind, each with its word, in the order in which they come.
macro_rules! phases {
    ($name:ident of $durations:ident: $($phase:ident => $word:literal),+ $(,)?) => {
        /// The value of the label `phase`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        enum $name { $($phase),+ }

        impl $name {
            const ALL: &[Self] = &[$(Self::$phase),+];

            const fn as_str(self) -> &'static str {
                match self { $(Self::$phase => $word),+ }
            }

            /// Adds the time that it took.
            fn took(self, record: &mut $crate::kind::Recorder, time: std::time::Duration) {
                record.add(&$durations, &[self.as_str()], time.as_secs_f64());
            }
        }
    };
}

pub(in crate::kind) use phases;
