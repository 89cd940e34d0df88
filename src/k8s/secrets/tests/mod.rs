//! Secrets on a clock that the test moves, with a reader that answers what the test says.

mod pace;
mod values;

use std::collections::HashMap;
use std::time::Duration;

use serde_json::json;
use tokio::task::JoinHandle;

use super::read::{Outcome, Trouble, Values};
use super::*;

/// Objects of the cluster, as the test has them, and when each was read.
#[derive(Default)]
struct Shelf {
    state: Mutex<ShelfState>,
    /// How long an answer takes.
    delay: Duration,
}

/// Values by key.
type Content = Vec<(&'static str, &'static str)>;

#[derive(Default)]
struct ShelfState {
    objects: HashMap<String, Result<Content, Trouble>>,
    /// What objects have of which nothing is said.
    others: Option<Trouble>,
    reads: Vec<(Instant, String)>,
    running: usize,
    most: usize,
}

impl Shelf {
    fn put(&self, name: &str, keys: &[(&'static str, &'static str)]) {
        self.state.lock().unwrap().objects.insert(name.to_owned(), Ok(keys.to_vec()));
    }

    fn fail(&self, name: &str, trouble: Trouble) {
        self.state.lock().unwrap().objects.insert(name.to_owned(), Err(trouble));
    }

    fn remove(&self, name: &str) {
        self.state.lock().unwrap().objects.remove(name);
    }

    /// Every object that the test did not put here answers so; `None`: it has the key `k`.
    fn others(&self, trouble: Option<Trouble>) {
        self.state.lock().unwrap().others = trouble;
    }

    /// The seconds after `from` at which `name` was read.
    fn read_at(&self, name: &str, from: Instant) -> Vec<f64> {
        let state = self.state.lock().unwrap();
        let reads = state.reads.iter().filter(|(_, read)| read == name);
        reads.filter_map(|(at, _)| at.checked_duration_since(from)).map(|after| after.as_secs_f64()).collect()
    }

    /// How many reads started since `from`, in each of the seconds that followed.
    fn per_second(&self, from: Instant) -> Vec<usize> {
        let state = self.state.lock().unwrap();
        let mut counts = Vec::new();
        for at in state.reads.iter().filter_map(|(at, _)| at.checked_duration_since(from)) {
            let second = usize::try_from(at.as_secs()).unwrap();
            counts.resize(counts.len().max(second + 1), 0);
            counts[second] += 1;
        }
        counts
    }
}

impl Reader for Arc<Shelf> {
    async fn read(&self, object: &ObjectId, keys: &[Arc<str>]) -> Outcome {
        let outcome = {
            let mut state = self.state.lock().unwrap();
            state.reads.push((Instant::now(), object.name.to_string()));
            state.running += 1;
            state.most = state.most.max(state.running);
            match (state.objects.get(&*object.name), &state.others) {
                (Some(content), _) => content.clone(),
                (None, Some(trouble)) => Err(trouble.clone()),
                (None, None) => Ok(vec![("k", "v")]),
            }
        };
        tokio::time::sleep(self.delay).await;
        self.state.lock().unwrap().running -= 1;
        let content: HashMap<_, _> = outcome?.into_iter().collect();
        let value = |key: &Arc<str>| Some((Arc::clone(key), content.get(&**key)?.as_bytes().to_vec().into()));
        Ok(keys.iter().filter_map(value).collect::<Values>())
    }
}

/// A book that is being read, until it is dropped.
struct Running {
    shelf: Arc<Shelf>,
    secrets: Arc<Secrets<Arc<Shelf>>>,
    task: JoinHandle<&'static str>,
    stop: CancellationToken,
    start: Instant,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn running(delay: Duration) -> Running {
    let shelf = Arc::new(Shelf { delay, ..Shelf::default() });
    shelf.others(Some(Trouble::NoObject));
    let secrets = Secrets::with(Arc::clone(&shelf), " and the label use".to_owned());
    let stop = CancellationToken::new();
    let task = tokio::spawn(Arc::clone(&secrets).run(stop.clone()));
    Running { shelf, secrets, task, stop, start: Instant::now() }
}

impl Running {
    /// Has target `id` refer to `secrets`, each a name, a key, and whether it may be missing.
    fn want(&self, id: &str, secrets: &[(&str, &str, bool)]) {
        let headers = secrets.iter().enumerate().map(|(index, (name, key, optional))| {
            json!({"name": format!("x-{index}"), "secretKeyRef": {"name": name, "key": key, "optional": optional}})
        });
        let spec = json!({"type": "Sora", "url": "http://sora:3000", "headers": headers.collect::<Vec<_>>()});
        self.secrets.want(&target(id), &serde_json::from_value(spec).unwrap());
    }

    fn value(&self, name: &str, key: &str) -> Result<String, LookupError> {
        let value = self.secrets.value(ObjectKind::Secret, "media", name, key)?;
        Ok(String::from_utf8(value).unwrap())
    }

    fn reason(&self, name: &str, key: &str) -> &'static str {
        self.value(name, key).unwrap_err().reason()
    }

    /// The next target that the controller would look at, waited for at most `limit`.
    async fn news(&self, limit: Duration) -> Option<TargetId> {
        let item = tokio::time::timeout(limit, self.secrets.changed().next()).await.ok()?;
        Some(item.key().clone())
    }
}

fn target(name: &str) -> TargetId {
    TargetId::new("media", name)
}

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn away() -> Trouble {
    Trouble::Unread("connection refused".into())
}

fn denied() -> Trouble {
    Trouble::Forbidden("a Role must have the rule".into())
}
