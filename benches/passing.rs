//! What it costs to pass the series of node_exporter on, beside what they cost node_exporter itself: the CPU of both processes for the same
//! scrapes, one after the other.
//!
//! `cargo bench --bench passing`. node_exporter is the program that `NODE_EXPORTER` names, as `make bench` sets it.

#![expect(clippy::print_stdout, reason = "a bench prints its result")]

mod support;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use support::{Exporter, Result, Scraper, cpu_of};

/// Scrapes that are counted, after a tenth as many that are not.
const SCRAPES: u32 = 1_000;

/// What the ratio must not exceed.
const GOAL: f64 = 0.25;

fn main() -> Result<()> {
    support::main(measure())
}

/// node_exporter. Dropping it kills it.
struct NodeExporter {
    process: Child,
    address: SocketAddr,
}

impl Drop for NodeExporter {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl NodeExporter {
    fn start() -> Result<Self> {
        let program = std::env::var_os("NODE_EXPORTER").unwrap_or_else(|| "prometheus-node-exporter".into());
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let mut command = Command::new(program);
        command.arg(format!("--web.listen-address={address}"));
        let process = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        Ok(Self { process, address })
    }

    async fn ready(&self) -> Result<()> {
        for _ in 0..300 {
            if let Ok(mut client) = Scraper::connect(self.address).await
                && client.get("/metrics").await.is_ok_and(|(status, _)| status == 200)
            {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Err("node_exporter does not answer".into())
    }
}

async fn measure() -> Result<()> {
    let node = NodeExporter::start()?;
    node.ready().await?;
    let manifest = format!(
        "apiVersion: scrapetarget.dev/v1alpha1\nkind: ScrapeTarget\nmetadata: {{ name: node, namespace: bench }}\n\
         spec: {{ type: Prometheus, url: \"http://{}/metrics\", interval: 1h }}\n",
        node.address
    );
    let exporter = Exporter::of_files(&manifest)?;
    exporter.ready().await?;
    let mut client = Scraper::connect(exporter.address).await?;
    for _ in 0..SCRAPES / 10 {
        client.scrape("bench/node").await?;
    }
    let before = (exporter.cpu()?, cpu_of(node.process.id())?);
    for _ in 0..SCRAPES {
        client.scrape("bench/node").await?;
    }
    let after = (exporter.cpu()?, cpu_of(node.process.id())?);
    let each = |seconds: f64| 1e3 * seconds / f64::from(SCRAPES);
    let (ours, theirs) = (each(after.0 - before.0), each(after.1 - before.1));
    let (_, body) = client.get("/api/v1/targets").await?;
    let state: serde_json::Value = serde_json::from_slice(&body)?;
    let series = &state["data"]["targets"][0]["samples"];
    println!(
        "{series} series: node_exporter {theirs:.2} ms, passed on {ours:.2} ms of CPU for each scrape, ratio {:.2} (goal {GOAL})",
        ours / theirs
    );
    Ok(())
}
