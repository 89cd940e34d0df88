//! The program: parses the command line, runs the command, and says in one line what went wrong.

#![warn(clippy::panic, clippy::print_stderr, clippy::print_stdout, clippy::unwrap_used)]

use std::process::ExitCode;

use scrapetarget_exporter::app;
use scrapetarget_exporter::cli::{Cli, Refusal};
use scrapetarget_exporter::tls;

fn main() -> ExitCode {
    // Both the HTTP client and the listener look for it; with one provider compiled in, nobody has to guess.
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
        // A parser's report may have a picture of the place below it: one line is what logs and scripts can use.
        let report = format!("{error:#}");
        let lines: Vec<&str> = report.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        // Some parsers begin with the same word.
        let line = lines.join(" ").replace(": error: ", ": ");
        app::complain(&format!("error: {}", line.trim_start_matches("error: ")));
        if error.is::<app::WrongValue>() { ExitCode::from(2) } else { ExitCode::FAILURE }
    })
}
