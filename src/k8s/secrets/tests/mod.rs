//! The cache with a paused clock and a reader whose answers are scripted.

mod pace;
mod values;

use std::collections::HashMap;
use std::time::Duration;

use serde_json::json;
use tokio::task::JoinHandle;

use super::read::{ReadError, ReadResult, Values};
use super::*;

/// The objects of the cluster, and when each was read.
#[derive(Default)]
struct FakeReader {
    state: Mutex<FakeState>,
    /// How long an answer takes.
    delay: Duration,
}

/// Values by key.
type FakeContent = Vec<(&'static str, &'static str)>;

#[derive(Default)]
struct FakeState {
    objects: HashMap<String, Result<FakeContent, ReadError>>,
    /// The answer for all other objects; `None`: they have the key `k`.
    others: Option<ReadError>,
    reads: Vec<(Instant, String)>,
    running: usize,
    most: usize,
}

impl FakeReader {
    fn put(&self, name: &str, keys: &[(&'static str, &'static str)]) {
        self.state.lock().unwrap().objects.insert(name.to_owned(), Ok(keys.to_vec()));
    }

    fn fail(&self, name: &str, error: ReadError) {
        self.state.lock().unwrap().objects.insert(name.to_owned(), Err(error));
    }

    fn remove(&self, name: &str) {
        self.state.lock().unwrap().objects.remove(name);
    }

    /// Sets the answer for all objects that the test did not put here; `None`: they have the key `k`.
    fn others(&self, error: Option<ReadError>) {
        self.state.lock().unwrap().others = error;
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

impl SecretReader for Arc<FakeReader> {
    async fn read(&self, object: &SecretRef, keys: &[Arc<str>]) -> ReadResult {
        let outcome = {
            let mut state = self.state.lock().unwrap();
            state.reads.push((Instant::now(), object.name.to_string()));
            state.running += 1;
            state.most = state.most.max(state.running);
            match (state.objects.get(&*object.name), &state.others) {
                (Some(content), _) => content.clone(),
                (None, Some(error)) => Err(error.clone()),
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

/// A cache that runs until it is dropped.
struct RunningCache {
    reader: Arc<FakeReader>,
    secrets: Arc<SecretCache<Arc<FakeReader>>>,
    task: JoinHandle<&'static str>,
    stop: CancellationToken,
    start: Instant,
}

impl Drop for RunningCache {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn running(delay: Duration) -> RunningCache {
    let reader = Arc::new(FakeReader { delay, ..FakeReader::default() });
    reader.others(Some(ReadError::NotFound));
    let secrets = SecretCache::with_reader(Arc::clone(&reader), " and the label use".to_owned());
    let stop = CancellationToken::new();
    let task = tokio::spawn(Arc::clone(&secrets).run(stop.clone()));
    RunningCache { reader, secrets, task, stop, start: Instant::now() }
}

impl RunningCache {
    /// Has target `id` refer to `secrets`, each a name, a key, and whether it may be missing.
    fn set_references(&self, id: &str, secrets: &[(&str, &str, bool)]) {
        let headers = secrets.iter().enumerate().map(|(index, (name, key, optional))| {
            json!({"name": format!("x-{index}"), "secretKeyRef": {"name": name, "key": key, "optional": optional}})
        });
        let spec = json!({"type": "Sora", "url": "http://sora:3000", "headers": headers.collect::<Vec<_>>()});
        self.secrets.set_references(&target(id), &serde_json::from_value(spec).unwrap());
    }

    fn value(&self, name: &str, key: &str) -> Result<String, LookupError> {
        let value = self.secrets.value(ObjectKind::Secret, "media", name, key)?;
        Ok(String::from_utf8(value).unwrap())
    }

    fn reason(&self, name: &str, key: &str) -> &'static str {
        self.value(name, key).unwrap_err().reason()
    }

    /// The next target whose values have changed, waited for at most `limit`.
    async fn next_changed(&self, limit: Duration) -> Option<TargetId> {
        tokio::time::timeout(limit, self.secrets.changed.wait()).await.ok()?;
        self.secrets.changed.ids().pop_first()
    }
}

fn target(name: &str) -> TargetId {
    TargetId::new("media", name)
}

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn unavailable() -> ReadError {
    ReadError::Unavailable("connection refused".into())
}

fn denied() -> ReadError {
    ReadError::Forbidden("a Role must have the rule".into())
}
