//! Which targets a query of `/sd` or `/api/v1/targets` asks for.

use axum::http::Uri;

use crate::kind::Type;
use crate::poll::TargetState;
use crate::target::TargetId;

/// The most that a query may ask for: every target is held against every one of them.
const MOST_WANTED: usize = 100;

/// Which targets are wanted. Several of `namespace`, `type` or `state` mean any of them, several of `label` mean all of them.
#[derive(Debug, Default)]
pub(super) struct Filter {
    namespaces: Vec<String>,
    kinds: Vec<Type>,
    states: Vec<TargetState>,
    labels: Vec<(String, String)>,
}

/// Whether a query may ask for states. They change with every poll: what Prometheus discovers by them would come and go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum States {
    Wanted,
    Unknown,
}

impl Filter {
    /// Reads a query. The error is a sentence that says what to write: who misspells a parameter must not get every target.
    pub(super) fn parse(uri: &Uri, states: States) -> Result<Self, String> {
        let mut filter = Self::default();
        for (at, (key, value)) in url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()).enumerate() {
            if at >= MOST_WANTED {
                return Err(format!("more than {MOST_WANTED} parameters: write fewer, or ask twice"));
            }
            match &*key {
                "namespace" => filter.namespaces.push(value.into_owned()),
                "type" => filter.kinds.push(value.parse()?),
                "label" => match value.split_once('=') {
                    Some((name, value)) if !name.is_empty() => {
                        filter.labels.push((name.to_owned(), value.to_owned()));
                    }
                    _ => return Err(format!("label={value:?} is not of the form name=value")),
                },
                "state" if states == States::Wanted => filter.states.push(state(&value)?),
                other => {
                    let known = match states {
                        States::Wanted => "namespace, type, state and label",
                        States::Unknown => "namespace, type and label",
                    };
                    return Err(format!("unknown parameter {other:?}: there are {known}"));
                }
            }
        }
        Ok(filter)
    }

    /// Whether a target that is in this state is asked for.
    pub(super) fn wants<'l>(
        &self,
        id: &TargetId,
        kind: Option<Type>,
        labels: &(impl Iterator<Item = (&'l str, &'l str)> + Clone),
        state: TargetState,
    ) -> bool {
        (self.namespaces.is_empty() || self.namespaces.iter().any(|namespace| **namespace == *id.namespace))
            && (self.kinds.is_empty() || kind.is_some_and(|kind| self.kinds.contains(&kind)))
            && (self.states.is_empty() || self.states.contains(&state))
            && self
                .labels
                .iter()
                .all(|wanted| labels.clone().any(|(name, value)| name == wanted.0 && value == wanted.1))
    }
}

fn state(text: &str) -> Result<TargetState, String> {
    TargetState::ALL.iter().find(|state| state.as_str() == text).copied().ok_or_else(|| {
        let known: Vec<&str> = TargetState::ALL.iter().map(|state| state.as_str()).collect();
        format!("state={text:?} is none: write one of {}", known.join(", "))
    })
}
