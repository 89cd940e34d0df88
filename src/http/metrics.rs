//! `/metrics`: the exporter's own metrics, and for each target one series that says whether it is up.

use std::sync::Arc;
use std::time::UNIX_EPOCH;

use axum::extract::{Request, State};
use axum::response::Response;

use super::targets::{TargetView, UNKNOWN_TYPE};
use super::{AppState, response};
use crate::kind::Type;
use crate::metric::{Desc, Encoding, Families, encode, gzip};
use crate::poll::TargetState;

crate::descs! {
    UP = gauge "scrapetarget_up" ["target_namespace", "target_name", "type"] "Whether the last poll of the target succeeded; absent while it is pending or suspended.";
    LAST_SUCCESS = gauge "scrapetarget_last_success_timestamp_seconds" ["target_namespace", "target_name", "type"] "Unix time of the last successful poll of the target; absent before the first success.";
    TARGETS = gauge "scrapetarget_targets" ["type", "state"] "Declared targets by type and state. The type is unknown if it cannot be read from the declaration.";
}

/// The families about targets that `/metrics` has beside those of [`SelfMetrics`](crate::self_metrics::SelfMetrics).
pub static TARGET_FAMILIES: &[&Desc] = FAMILIES;

pub(super) async fn metrics(State(app): State<Arc<AppState>>, request: Request) -> Response {
    response::render_document(request, move |document| {
        let (format, encoding) = (response::format(&document.headers), response::encoding(&document.headers));
        let mut families = app.self_metrics.gather();
        add_targets(&mut families, &TargetView::all(&app.pollers, &document.cancelled));
        let mut body = Vec::with_capacity(16 * 1024 + 128 * families.len());
        encode(&[&families.finish()], format, &mut body);
        let compress = encoding == Encoding::Gzip && !document.cancelled.is_cancelled();
        response::exposition(if compress { gzip(&body) } else { body }, format, encoding)
    })
    .await
}

fn add_targets(families: &mut Families, targets: &[TargetView]) {
    for view in targets {
        let labels = [&*view.id.namespace, &*view.id.name, view.kind_name()];
        // The state by its polls, even if the declaration has become invalid since.
        match view.polled.unwrap_or(view.status.state) {
            TargetState::Up => families.set(&UP, &labels, 1.0),
            TargetState::Down | TargetState::Invalid => families.set(&UP, &labels, 0.0),
            TargetState::Pending | TargetState::Suspended => {}
        }
        if let Some(since) = view.status.last_success.and_then(|at| at.duration_since(UNIX_EPOCH).ok()) {
            families.set(&LAST_SUCCESS, &labels, (since.as_secs_f64() * 1e3).round() / 1e3);
        }
    }
    let count = |kind: Option<Type>, state: TargetState| {
        targets.iter().filter(|view| view.kind() == kind && view.status.state == state).count()
    };
    #[expect(clippy::cast_precision_loss, reason = "a count of targets")]
    let mut set = |kind: &str, state: TargetState, count: usize| {
        families.set(&TARGETS, &[kind, state.as_str()], count as f64);
    };
    for &kind in Type::ALL {
        for &state in TargetState::ALL {
            set(kind.as_str(), state, count(Some(kind), state));
        }
    }
    match count(None, TargetState::Invalid) {
        0 => {}
        some => set(UNKNOWN_TYPE, TargetState::Invalid, some),
    }
}
