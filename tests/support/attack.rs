//! What an attack needs beside the program: a server that says anything, honest targets, and somebody who looks whether all is well.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::http::Uri;
use bytes::Bytes;
use simulators::Simulated;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::load::allowed;
use super::program::{Running, get};

/// A server that answers 200 with whatever it is told to, and counts who asks.
pub struct Server {
    server: Simulated,
    asked: Arc<AtomicUsize>,
}

impl Server {
    /// `says` gets the number of the request and its path.
    pub async fn start(says: impl Fn(usize, &str) -> Bytes + Clone + Send + Sync + 'static) -> Self {
        let asked = Arc::<AtomicUsize>::default();
        let counter = Arc::clone(&asked);
        let routes = Router::new().fallback(move |uri: Uri| {
            let body = says(counter.fetch_add(1, Ordering::SeqCst), uri.path());
            async move { body }
        });
        let server = Simulated::serve(routes, ([127, 0, 0, 1], 0).into()).await.unwrap();
        Self { server, asked }
    }

    /// One that always says the same.
    pub async fn saying(body: impl Into<Bytes>) -> Self {
        let body = body.into();
        Self::start(move |_, _| body.clone()).await
    }

    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    /// The manifest of a target on this server, polled every second, with more fields of the spec, one a line.
    pub fn target(&self, namespace: &str, name: &str, kind: &str, more: &str) -> String {
        let more: Vec<&str> = more.lines().collect();
        let more = more.join("\n  ");
        format!(
            "---\napiVersion: scrapetarget.dev/v1alpha1\nkind: ScrapeTarget\nmetadata: {{ name: {name}, namespace: {namespace} }}\n\
             spec:\n  type: {kind}\n  url: {}\n  interval: 1s\n  {more}\n",
            self.server.url()
        )
    }
}

/// The program with the targets of an attack, and honest ones beside them: `honest/plain`, and `honest/filtered` with a pattern.
pub struct Attacked {
    pub program: Running,
    honest: Server,
    /// Between two polls of a target: a second, and more on a busy machine, so that a poll has the time it needs there.
    interval: Duration,
    _folder: TempDir,
}

impl Attacked {
    pub async fn start(targets: &str, arguments: &[&str]) -> Self {
        let honest = Server::saying("media_rooms 3\nother 1\n").await;
        let interval = Duration::from_secs(allowed(Duration::from_secs(1)).as_secs().clamp(1, 10));
        let every = |manifest: &str| manifest.replace("interval: 1s", &format!("interval: {}s", interval.as_secs()));
        let source = "mediasoup: { source: Prometheus }";
        let plain = honest.target("honest", "plain", "Mediasoup", source);
        let filtered =
            honest.target("honest", "filtered", "Mediasoup", &format!("{source}\nmetrics: {{ keep: [media_.*] }}"));
        let folder = TempDir::new().unwrap();
        let [targets, plain, filtered] = [targets, &plain, &filtered].map(every);
        fs::write(folder.path().join("targets.yaml"), format!("{targets}{plain}{filtered}")).unwrap();
        let program = Running::ready(folder.path(), arguments).await;
        Self { program, honest, interval, _folder: folder }
    }

    /// Waits until this many targets are up, the two honest ones included.
    pub async fn all_up(&self, targets: usize) {
        let up = |body: &str| body.matches("\"state\":\"up\"").count();
        self.program.until("/api/v1/targets", |_, body| (up(body) == targets).then_some(())).await;
    }

    /// Looks at the program's health and at the honest targets, without a pause.
    pub fn watch(&self) -> Watch {
        let stop = CancellationToken::new();
        let (base, stopped) = (self.program.base.clone(), stop.clone());
        let task = tokio::spawn(async move {
            let mut seen = Seen::default();
            while !stopped.is_cancelled() {
                for path in ["/-/healthy", "/probe?target=honest/plain", "/probe?target=honest/filtered"] {
                    let start = Instant::now();
                    let answer = get(&format!("{base}{path}")).await;
                    seen.slowest = seen.slowest.max(start.elapsed());
                    let good = answer.as_ref().is_some_and(|(status, body)| {
                        *status == 200 && (path == "/-/healthy" || body.contains("\nmedia_rooms 3\n"))
                    });
                    if !good {
                        seen.bad.push(format!("{path}: {answer:?}"));
                    }
                }
                seen.rounds += 1;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            seen
        });
        Watch { stop, task, start: Instant::now(), polls: self.honest.asked() }
    }

    /// How it went since [`watch`](Self::watch): nobody may have noticed.
    pub async fn unnoticed(&self, watch: Watch) {
        let polls = self.honest.asked() - watch.polls;
        let intervals = watch.start.elapsed().as_secs_f64() / self.interval.as_secs_f64();
        watch.stop.cancel();
        let seen = watch.task.await.unwrap();
        assert!(seen.bad.is_empty(), "{} of {} rounds were bad: {:?}", seen.bad.len(), seen.rounds, seen.bad.first());
        assert!(seen.slowest < allowed(Duration::from_secs(5)), "an answer took {:?}", seen.slowest);
        assert!(seen.rounds >= 3, "{} rounds in {intervals:.1} intervals", seen.rounds);
        // Two targets, each polled once an interval; a busy machine may take twice as long.
        #[expect(clippy::cast_precision_loss, reason = "a small number")]
        let enough = polls as f64 >= intervals - 2.0;
        assert!(enough, "{polls} polls of two honest targets in {intervals:.1} intervals");
    }

    /// What the kernel says of the program's memory, in bytes: `VmRSS` for now, `VmHWM` for the most so far.
    pub fn memory(&self, what: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.program.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(what)).unwrap();
        let kib: u64 = line.trim_start_matches(':').trim().trim_end_matches(" kB").parse().unwrap();
        kib * 1024
    }
}

/// Somebody who looks.
pub struct Watch {
    stop: CancellationToken,
    task: JoinHandle<Seen>,
    start: Instant,
    polls: usize,
}

#[derive(Default)]
struct Seen {
    rounds: usize,
    slowest: Duration,
    bad: Vec<String>,
}
