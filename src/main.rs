//! The program: parses the command line, runs the command, and says in one line what went wrong.

#![warn(clippy::panic, clippy::print_stderr, clippy::print_stdout, clippy::unwrap_used)]

use std::process::ExitCode;

use scrapetarget_exporter::app;
use scrapetarget_exporter::cli::{Cli, Refusal};
use scrapetarget_exporter::tls;

fn main() -> ExitCode {
    // Libraries that do not get a crypto provider from us use the default of the process.
    tls::install_provider();
    let cli = match Cli::parse_line(std::env::args_os()) {
        Ok(cli) => cli,
        Err(Refusal::Asked(text)) => {
            app::print(&text);
            return ExitCode::SUCCESS;
        }
        Err(Refusal::Wrong(line)) => {
            app::complain(&line);
            return ExitCode::from(2);
        }
    };
    app::run(cli.command).unwrap_or_else(|error| {
        // The error of a parser may span several lines, with an excerpt: logs and scripts need one line.
        let report = format!("{error:#}");
        let lines: Vec<&str> = report.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        // The errors of some parsers begin with the same word.
        let line = lines.join(" ").replace(": error: ", ": ");
        app::complain(&format!("error: {}", line.trim_start_matches("error: ")));
        if error.is::<app::WrongValue>() { ExitCode::from(2) } else { ExitCode::FAILURE }
    })
}
