//! The commands. This is the composition root, the only module that depends on all others: it creates, connects and stops them.

mod cluster;
mod convert;
mod demo;
mod healthcheck;
mod probe;
mod service;
mod simulate;

use std::process::ExitCode;

use anyhow::Context;
use tokio::sync::mpsc;

use crate::cli::{CheckArgs, Command, PollingArgs};
use crate::dial::{AddressRules, Dialers, KnownHosts};
use crate::fetch::{Clients, Limits};
use crate::poll::Pollers;
use crate::self_metrics::PollMetrics;
use crate::target::TargetId;
use crate::{cli, crd, file};

/// A value on the command line that only the command itself could validate. The exit code is that of any other wrong value.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct WrongValue(String);

/// Runs a command to its end. An error is shown to the user in one line; the exit code is then 1, or 2 for a [`WrongValue`].
pub fn run(command: Command) -> anyhow::Result<ExitCode> {
    // Commands that have a log write the warnings to it.
    if !matches!(command, Command::Run(_) | Command::Demo(_) | Command::Cleanup(_)) {
        for warning in cli::unknown_variables() {
            complain(&format!("warning: {warning}"));
        }
    }
    match command {
        Command::Run(args) => block_on(service::run(*args)),
        Command::Demo(args) => block_on(demo::run(args)),
        Command::Simulate(args) => block_on(simulate::run(args)),
        Command::Probe(args) => block_on(probe::run(args)),
        Command::Healthcheck(args) => block_on(healthcheck::run(args)),
        Command::Check(args) => check(args),
        Command::Convert(args) => Ok(convert::run(args)),
        Command::Cleanup(args) => block_on(cluster::cleanup(args)),
        Command::Crd => {
            print(&crd::print().context("write the CRD")?);
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn block_on(command: impl Future<Output = anyhow::Result<ExitCode>>) -> anyhow::Result<ExitCode> {
    /// For reading files and rendering pages. A thread exists only while it is needed.
    const BLOCKING_THREADS: usize = 128;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS)
        .build()
        .context("start the runtime")?;
    let result = runtime.block_on(command);
    // A file read that hangs must not keep the process from ending.
    runtime.shutdown_background();
    result
}

/// The pollers as the flags say, and the receiver of targets whose server rejects the credentials. They resolve `known_hosts` themselves.
fn pollers(
    polling: PollingArgs,
    probes_per_address: u32,
    known_hosts: KnownHosts,
    metrics: PollMetrics,
    background: bool,
) -> (Pollers, mpsc::Receiver<TargetId>) {
    let PollingArgs {
        target_deny_cidr,
        target_allow_cidr,
        target_allow_host,
        max_body_bytes,
        max_inflight_bytes,
        max_sample_limit,
        debug_bodies,
        icmp_max_payload,
    } = polling;
    let rules = AddressRules::denying(target_deny_cidr).allowing(target_allow_cidr, target_allow_host);
    let dialers = Dialers::new(rules).knowing(known_hosts).limiting(probes_per_address).echoing_up_to(icmp_max_payload);
    let limits = Limits::new(max_body_bytes, max_inflight_bytes);
    let (pollers, refused) = Pollers::new(Clients::with(dialers), limits, metrics, background);
    pollers.show_bodies(debug_bodies);
    (pollers.capped(usize::try_from(max_sample_limit).unwrap_or(usize::MAX)), refused)
}

/// Writes to stdout. A closed reader, such as `head`, is no error.
pub fn print(text: &str) {
    use std::io::Write;
    let mut stdout = std::io::stdout().lock();
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}

/// Writes a line to stderr, in the same way.
pub fn complain(line: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

fn check(args: CheckArgs) -> anyhow::Result<ExitCode> {
    let CheckArgs { files, require_secrets, secrets_directory, server_side, kube_context } = args;
    let inputs = file::Inputs::read(&files);
    let demands = file::CheckOptions { secrets: secrets_directory.as_deref(), all_references: require_secrets };
    let report = file::check(&inputs, demands);
    print(&report.to_string());
    let mut good = report.is_good();
    if server_side {
        good &= block_on(cluster::check(&inputs, kube_context.as_deref()))? == ExitCode::SUCCESS;
    }
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
