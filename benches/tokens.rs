//! What tokens of OAuth 2.0 cost: CPU of a fleet whose targets share 100 of them, and what is tried while a token endpoint is down.
//!
//! `cargo bench --bench tokens` runs both scenarios, `cargo bench --bench tokens -- shared` or `outage` one. `TOKENS_TARGETS` (10000),
//! `TOKENS_SECONDS` (60, after a warm-up of two intervals) and `TOKENS_INTERVAL` (15) change their size. It prints what was measured and
//! judges nothing.

#![expect(clippy::cast_precision_loss, reason = "figures for people")]

mod support;

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use axum::http::StatusCode;
use simulators::Simulated;
use support::{Exporter, Result, Servers, runs, setting};

/// How many different tokens the targets of `shared` need.
const TOKENS: u64 = 100;

fn main() -> Result<()> {
    support::main(measure())
}

async fn measure() -> Result<()> {
    let fleet = TokenFleet { servers: Servers::start().await?, targets: setting("TOKENS_TARGETS", 10_000) };
    if runs("shared") {
        fleet.shared().await?;
    }
    if runs("outage") {
        fleet.outage().await?;
    }
    Ok(())
}

/// A token endpoint that counts its requests.
struct TokenServer {
    simulated: Simulated,
    requests: Arc<Mutex<Vec<Instant>>>,
}

impl TokenServer {
    async fn start(status: StatusCode) -> Result<Self> {
        let requests = Arc::<Mutex<Vec<Instant>>>::default();
        let counted = Arc::clone(&requests);
        let routes = Router::new().fallback(move || {
            counted.lock().unwrap_or_else(PoisonError::into_inner).push(Instant::now());
            async move { (status, r#"{"access_token":"a-token","expires_in":3600}"#) }
        });
        let simulated = Simulated::serve(routes, SocketAddr::from(([127, 0, 0, 1], 0))).await?;
        Ok(Self { simulated, requests })
    }

    /// Requests since `start`, and the most of them in one second.
    fn since(&self, start: Instant) -> (usize, usize) {
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        let since: Vec<Instant> = requests.iter().copied().filter(|at| *at >= start).collect();
        let in_second = |from: &Instant| {
            since.iter().filter(|at| **at >= *from && at.duration_since(*from) < Duration::from_secs(1)).count()
        };
        (since.len(), since.iter().map(in_second).max().unwrap_or(0))
    }

    /// The block of a target that needs the token with this number.
    fn block(&self, number: u64) -> String {
        format!(
            "  oauth2: {{ clientId: {{ secret: {{ name: idm, key: id }} }}, clientSecret: {{ name: idm, key: secret }}, tokenUrl: '{}token', \
             scopes: [s{number}] }}\n",
            self.simulated.url()
        )
    }
}

/// The servers of the targets.
struct TokenFleet {
    servers: Servers,
    targets: u64,
}

impl TokenFleet {
    fn interval() -> Duration {
        Duration::from_secs(setting("TOKENS_INTERVAL", 15))
    }

    fn seconds() -> Duration {
        Duration::from_secs(setting("TOKENS_SECONDS", 60))
    }

    /// An exporter of so many targets, each with what `block` says besides.
    fn exporter(&self, targets: u64, block: impl Fn(u64) -> String) -> Result<Exporter> {
        let mut text = "apiVersion: v1\nkind: Secret\nmetadata: { name: idm, namespace: fleet }\nstringData: { id: a, secret: b }\n".to_owned();
        for i in 0..targets {
            write!(
                text,
                "---\napiVersion: scrapetarget.dev/v1alpha1\nkind: ScrapeTarget\nmetadata: {{ name: t{i}, namespace: fleet }}\nspec:\n  type: \
                 Mediasoup\n  url: http://{}:{}/\n  interval: {}s\n{}",
                Servers::address(i),
                self.servers.http,
                Self::interval().as_secs(),
                block(i)
            )?;
        }
        Exporter::of_files(&text)
    }

    /// CPU with tokens and without, of two exporters that run at the same time, so that both have the same machine.
    async fn shared(&self) -> Result<()> {
        let idm = TokenServer::start(StatusCode::OK).await?;
        let begun = Instant::now();
        let without = self.exporter(self.targets, |_| String::new())?;
        let with = self.exporter(self.targets, |i| idm.block(i % TOKENS))?;
        for exporter in [&without, &with] {
            exporter.ready().await?;
        }
        tokio::time::sleep(2 * Self::interval()).await;
        let (before, start) = ([without.cpu()?, with.cpu()?], Instant::now());
        tokio::time::sleep(Self::seconds()).await;
        let elapsed = start.elapsed().as_secs_f64();
        let cores = [(without.cpu()? - before[0]) / elapsed, (with.cpu()? - before[1]) / elapsed];
        let more = 100.0 * (cores[1] / cores[0] - 1.0);
        println!(
            "{} targets: {:.3} of a core without tokens ({} up), {:.3} with {TOKENS} tokens ({} up, {} requests): {more:+.1} %",
            self.targets,
            cores[0],
            without.up().await?,
            cores[1],
            with.up().await?,
            idm.since(begun).0
        );
        Ok(())
    }

    /// Requests at an endpoint that is down, once with a few tokens and once with a token for each target; every tenth target needs none.
    async fn outage(&self) -> Result<()> {
        for tokens in [TOKENS, self.targets] {
            let idm = TokenServer::start(StatusCode::SERVICE_UNAVAILABLE).await?;
            let begun = Instant::now();
            let block = |i: u64| if i.is_multiple_of(10) { String::new() } else { idm.block(i % tokens) };
            let exporter = self.exporter(self.targets, block)?;
            exporter.ready().await?;
            tokio::time::sleep(2 * Self::interval()).await;
            let (delays, start) = (exporter.delays().await?, Instant::now());
            tokio::time::sleep(Self::seconds()).await;
            let (after, elapsed) = (exporter.delays().await?, start.elapsed().as_secs_f64());
            let on_time = 100.0 * (after.0 - delays.0) / (after.1 - delays.1).max(1.0);
            let (all, peak) = idm.since(begun);
            println!(
                "endpoint down, {} targets with {tokens} tokens: {all} tries in all, {:.2} a second, at most {peak} in one second; {} targets up, \
                 {on_time:.2} % of the polls within ¼ s",
                self.targets,
                idm.since(start).0 as f64 / elapsed,
                exporter.up().await?
            );
        }
        Ok(())
    }
}
