//! The model: what has been done, and what must therefore be seen. It knows no cluster.

use std::collections::{BTreeMap, BTreeSet};

use super::operation::{Operation, Place, SERVERS, Spec};

/// What was done so far.
pub(super) struct World {
    targets: BTreeMap<Place, Spec>,
    /// Whether each Secret that is there has the key.
    secrets: BTreeMap<Place, bool>,
    answers: [bool; SERVERS],
    operator: bool,
    /// What may have been read and is there no more: that is noticed within a minute, which is too long to wait for here.
    stale: BTreeSet<Place>,
}

impl Default for World {
    fn default() -> Self {
        let (targets, secrets) = (BTreeMap::new(), BTreeMap::new());
        Self { targets, secrets, answers: [true; SERVERS], operator: true, stale: BTreeSet::new() }
    }
}

/// What can be seen, or must be: a line for each thing.
pub(super) type Picture = BTreeMap<String, String>;

/// What the model cannot know: how things are called in this run.
pub(super) struct Names {
    pub(super) spaces: [String; 2],
    /// Where all monitors are, unless each is beside its target.
    pub(super) monitors: Option<String>,
}

impl Names {
    /// `NAMESPACE/NAME` of a target.
    pub(super) fn full(&self, place: Place) -> String {
        format!("{}/{}", self.spaces[place.space], name(place))
    }
}

/// The name of a target or a Secret in its namespace.
pub(super) fn name(place: Place) -> String {
    format!("n{}", place.name)
}

impl World {
    /// Takes note of an operation. `false`: as things are it means nothing.
    pub(super) fn change(&mut self, operation: &Operation) -> bool {
        match operation {
            Operation::Put(place, spec) => {
                self.targets.insert(*place, spec.clone());
            }
            Operation::Replace(place, spec) => {
                let Some(before) = self.targets.get_mut(place) else { return false };
                before.clone_from(spec);
            }
            Operation::Delete(place) => return self.targets.remove(place).is_some(),
            Operation::PutSecret(place, key) => {
                let before = self.secrets.insert(*place, *key);
                if before == Some(true) && !key {
                    self.stale.insert(*place);
                }
            }
            Operation::DeleteSecret(place) => {
                let before = self.secrets.remove(place);
                if before == Some(true) {
                    self.stale.insert(*place);
                }
                return before.is_some();
            }
            Operation::Serve(server, answers) => self.answers[*server] = *answers,
            Operation::RenewCrd => self.targets.clear(),
            Operation::DeleteOperatorCrd => return std::mem::replace(&mut self.operator, false),
            Operation::InstallOperatorCrd => return !std::mem::replace(&mut self.operator, true),
            Operation::Renew(..) | Operation::Hang(_) | Operation::Restart | Operation::Look => {}
        }
        true
    }

    /// What puts back everything that targets refer to and that may have been read before it went.
    pub(super) fn amends(&self) -> Vec<Operation> {
        let secret = |(place, spec): (&Place, &Spec)| Some(Place { name: spec.secret?, ..*place });
        let wanted: BTreeSet<Place> = self.targets.iter().filter_map(secret).collect();
        let gone = self.stale.intersection(&wanted).filter(|place| self.secrets.get(place) != Some(&true));
        gone.map(|place| Operation::PutSecret(*place, true)).collect()
    }

    /// What must be seen of every target by the replicas `0..replicas`.
    pub(super) fn picture(&self, names: &Names, replicas: usize) -> Picture {
        let mut picture = Picture::new();
        for (place, spec) in &self.targets {
            let target = names.full(*place);
            for replica in 0..replicas {
                picture.insert(format!("probe {target} by {replica}"), self.probe(*place, spec));
                if !spec.suspend {
                    picture.insert(format!("sd {target} by {replica}"), sd(names, *place, spec));
                }
            }
            picture.insert(format!("status {target}"), self.status(*place, spec));
            if self.operator && spec.monitor && !spec.suspend {
                let (space, own) = (&names.spaces[place.space], name(*place));
                let (space, own) = names.monitors.as_ref().map_or((space, own.as_str()), |space| (space, "*"));
                let team = spec.team.unwrap_or("-");
                picture.insert(format!("monitor {space}/{own} of {target}"), format!("{}s {team}", spec.interval));
            }
        }
        picture
    }

    /// Why a target cannot be polled.
    fn lacks(&self, place: Place, spec: &Spec) -> Option<&'static str> {
        let secret = Place { name: spec.secret?, ..place };
        // Whether the object is missing or the key is not told.
        (self.secrets.get(&secret) != Some(&true)).then_some("SecretNotFound")
    }

    fn answers(&self, spec: &Spec) -> Option<bool> {
        self.answers.get(spec.server).copied()
    }

    /// `probe_success` and the reason.
    fn probe(&self, place: Place, spec: &Spec) -> String {
        let answer = match (spec.suspend, self.lacks(place, spec), self.answers(spec)) {
            (true, ..) => "- suspended",
            (_, Some(_), _) => "0 config",
            (.., Some(true)) => "1 -",
            (.., Some(false)) => "0 http_status",
            (.., None) => "0 connect",
        };
        answer.to_owned()
    }

    fn status(&self, place: Place, spec: &Spec) -> String {
        let lacks = self.lacks(place, spec);
        let accepted = lacks.map_or_else(|| "True/Accepted".to_owned(), |reason| format!("False/{reason}"));
        let up = match (spec.suspend, lacks, self.answers(spec)) {
            (true, ..) => "Unknown/Suspended",
            (_, Some(_), _) => "Unknown/Config",
            (.., Some(true)) => "True/Succeeded",
            (.., Some(false)) => "False/HttpStatus",
            (.., None) => "False/Connect",
        };
        let monitor = match (spec.monitor && !spec.suspend, self.operator) {
            (false, _) => "True/Disabled",
            (true, true) => "True/Written",
            (true, false) => "False/CRDMissing",
        };
        let ready = [&accepted, monitor].into_iter().find(|verdict| verdict.starts_with("False"));
        let ready = ready.unwrap_or("True/Ready");
        format!("current Ready={ready} Accepted={accepted} MonitorReady={monitor} Up={up}")
    }
}

fn sd(names: &Names, place: Place, spec: &Spec) -> String {
    let (space, target) = (&names.spaces[place.space], names.full(place));
    let mut labels = BTreeMap::from([
        ("__metrics_path__", "/probe".to_owned()),
        ("__param_target", target.clone()),
        ("__scrape_interval__", format!("{}s", spec.interval)),
        ("__scrape_timeout__", format!("{}s", spec.interval)),
        ("__tmp_hash", target.clone()),
        ("instance", target),
        ("namespace", space.clone()),
        ("target_name", name(place)),
        ("target_namespace", space.clone()),
    ]);
    labels.extend(spec.region.map(|region| ("region", region.to_owned())));
    format!("{labels:?}")
}
