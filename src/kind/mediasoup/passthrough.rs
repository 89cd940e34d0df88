//! The source `Prometheus`: passes on the exposition of the application's own exporter, except that client addresses are replaced.

use std::borrow::Cow;

use reqwest::Url;

use super::addresses::is_address_label;
use super::{Addresses, UP};
use crate::kind::reserved::is_reserved;
use crate::kind::{Answer, Call, CallError, Context, Kind, Method, Reason, Type};
use crate::metric::{ExpositionError, Families, Filter, ExpositionPolicy, read_exposition};

/// The translator of a target with source `Prometheus`.
#[derive(Debug)]
pub(super) struct Passthrough {
    /// Used unchanged.
    pub(super) url: Url,
    pub(super) addresses: Addresses,
}

impl Kind for Passthrough {
    fn calls(&self, _: Option<&Filter>) -> Vec<Call> {
        let headers = vec![("accept", "text/plain;version=0.0.4,*/*;q=0.1".to_owned())];
        vec![Call { name: "metrics", method: Method::Get, url: self.url.clone(), headers, timeout_header: None }]
    }

    fn translate(&mut self, answers: &[Answer], cx: &Context, out: &mut Families) -> Vec<Result<(), CallError>> {
        let start = out.mark();
        let report = super::only(answers).and_then(|answer| {
            let text = answer.text()?;
            let limit = cx.sample_limit.saturating_sub(1); // one is mediasoup_up
            read_exposition(&text, &AddressRedactor(self.addresses), limit, out).map_err(|error| refused(&error))
        });
        if report.is_err() {
            out.rewind(start);
        }
        out.set(&UP, &[], f64::from(u8::from(report.is_ok())));
        vec![report]
    }
}

fn refused(error: &ExpositionError) -> CallError {
    let reason = if error.is_about_limit() { Reason::Limit } else { Reason::Parse };
    CallError::new(reason, error.to_string())
}

/// Keeps reserved names out, and replaces client addresses in labels.
struct AddressRedactor(Addresses);

impl ExpositionPolicy for AddressRedactor {
    fn admits(&self, name: &str) -> bool {
        name != UP.name && !is_reserved(Type::Mediasoup, name)
    }

    fn rewrite<'v>(&self, name: &str, value: Cow<'v, str>) -> Cow<'v, str> {
        if is_address_label(name) { self.0.label(value) } else { value }
    }
}
