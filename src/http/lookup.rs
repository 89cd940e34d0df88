//! From the text of `target=` to a poller.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use axum::http::StatusCode;
use reqwest::Url;

use super::App;
use super::reply::Refusal;
use crate::poll::{Poller, Pollers};
use crate::target::TargetId;

/// Candidates that an answer names before it only counts the rest.
const NAMED: usize = 20;

/// Targets by name alone and by url; made anew when the declared targets have changed.
#[derive(Debug, Default)]
pub(super) struct Index(ArcSwapOption<Table>);

#[derive(Debug)]
struct Table {
    revision: u64,
    by_text: HashMap<Box<str>, Vec<TargetId>>,
}

impl Index {
    /// Every target that `text` may mean.
    fn find(&self, pollers: &Pollers, text: &str) -> Vec<TargetId> {
        let revision = pollers.revision();
        let table = match self.0.load_full() {
            Some(table) if table.revision == revision => table,
            _ => {
                let table = Arc::new(Table::new(revision, pollers));
                self.0.store(Some(Arc::clone(&table)));
                table
            }
        };
        let named = table.by_text.get(text).cloned();
        // A url is compared as it is understood: `http://host:3000` is `http://host:3000/`.
        named
            .or_else(|| Url::parse(text).ok().and_then(|url| table.by_text.get(url.as_str()).cloned()))
            .unwrap_or_default()
    }
}

impl Table {
    fn new(revision: u64, pollers: &Pollers) -> Self {
        let mut by_text: HashMap<Box<str>, Vec<TargetId>> = HashMap::new();
        for poller in pollers.list() {
            let id = poller.id();
            by_text.entry(Box::from(&*id.name)).or_default().push(id.clone());
            by_text.entry(Box::from(poller.target().source.url.as_str())).or_default().push(id.clone());
        }
        Self { revision, by_text }
    }
}

/// The poller that `text` names, or why there is none.
pub(super) fn find(app: &App, text: &str) -> Result<Arc<Poller>, Refusal> {
    let id = text.parse::<TargetId>().ok();
    if let Some(poller) = id.as_ref().and_then(|id| app.pollers.get(id)) {
        return Ok(poller);
    }
    if id.is_none() && !app.settings.loose_targets {
        return Err(Refusal::bad_request(format!("target={text:?} is not of the form namespace/name: write both")));
    }
    if let Some(why) = app.pollers.unknown() {
        return Err(Refusal::unknown_yet(&why));
    }
    if app.settings.loose_targets && id.is_none() {
        let candidates = app.index.find(&app.pollers, text);
        match candidates.as_slice() {
            [] => {}
            [id] => return app.pollers.get(id).ok_or_else(|| undeclared(text)),
            several => return Err(ambiguous(text, several)),
        }
    }
    match id.and_then(|id| app.pollers.mistakes().refused.get(&id).map(|(refused, _)| refused.message.clone())) {
        Some(why) => {
            Err(Refusal(StatusCode::NOT_FOUND, format!("target {text:?} is declared, but cannot be used: {why}")))
        }
        None => Err(undeclared(text)),
    }
}

fn undeclared(text: &str) -> Refusal {
    Refusal(StatusCode::NOT_FOUND, format!("no target {text:?} is declared; / lists those that are"))
}

fn ambiguous(text: &str, candidates: &[TargetId]) -> Refusal {
    let named: Vec<String> = candidates.iter().take(NAMED).map(TargetId::to_string).collect();
    let more = match candidates.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let named = named.join(", ");
    Refusal::bad_request(format!("target={text:?} may mean several targets, write one of: {named}{more}"))
}
