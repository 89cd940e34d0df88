//! Environment variables of flags: error messages that name the variable instead of the flag, and warnings about unknown variables.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};

use clap::error::{ContextKind, ContextValue};
use clap::{Arg, Command, CommandFactory};

use super::Cli;
use crate::crd::nearest;

/// The prefix of all our variables.
const PREFIX: &str = "SCRAPETARGET_";

/// The prefix of variables for the build.
const OF_THE_BUILD: &str = "SCRAPETARGET_BUILD_";

/// Replaces the flag by its variable in `line`, clap's message about an invalid value, if the value came from the variable.
pub(super) fn name_variable(error: &clap::Error, arguments: &[OsString], line: String) -> String {
    let Some(ContextValue::String(flag)) = error.get(ContextKind::InvalidArg) else { return line };
    let mut command = Cli::command();
    command.build(); // before that, arguments have no display names
    let name = arguments.iter().skip(1).find_map(|word| command.find_subcommand(word));
    let argument = name.and_then(|command| command.get_arguments().find(|argument| argument.to_string() == *flag));
    let Some(argument) = argument.filter(|argument| !is_given(argument, arguments)) else { return line };
    let wrong = match error.get(ContextKind::InvalidValue) {
        Some(ContextValue::String(wrong)) => wrong.as_str(),
        _ => "",
    };
    match argument.get_env().and_then(OsStr::to_str) {
        Some(variable) if std::env::var(variable).is_ok_and(|value| value.contains(wrong)) => {
            line.replacen(&format!("'{flag}'"), &format!("the variable {variable}"), 1)
        }
        _ => line,
    }
}

/// Whether a flag is on the command line, which takes precedence over its variable.
fn is_given(argument: &Arg, arguments: &[OsString]) -> bool {
    let names = argument.get_long().into_iter().chain(argument.get_all_aliases().unwrap_or_default());
    let names: Vec<String> = names.map(|name| format!("--{name}")).collect();
    arguments.iter().filter_map(|word| word.to_str()).any(|word| {
        let name = word.split_once('=').map_or(word, |(name, _)| name);
        names.iter().any(|known| known == name)
    })
}

/// A warning for each variable with our prefix that belongs to no flag: it has no effect, which the user should know.
pub fn unknown_variables() -> Vec<String> {
    let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    unknown_among(&names.filter(|name| name.starts_with(PREFIX)).collect())
}

fn unknown_among(names: &BTreeSet<String>) -> Vec<String> {
    let command = Cli::command();
    let known: BTreeSet<&str> = command.get_subcommands().flat_map(variables).collect();
    let unknown = names.iter().filter(|name| !known.contains(name.as_str()) && !is_of_a_service(name, names));
    unknown
        .filter(|name| !name.starts_with(OF_THE_BUILD))
        .map(|name| match nearest(name, known.iter().copied()) {
            Some(meant) => format!("no flag uses the variable {name}, it has no effect: did you mean {meant}?"),
            None => format!("no flag uses the variable {name}, it has no effect: see docs/flags.md, or --help"),
        })
        .collect()
}

fn variables(command: &Command) -> impl Iterator<Item = &str> {
    command.get_arguments().filter_map(|argument| argument.get_env()?.to_str())
}

/// Kubernetes gives each pod variables for the Services of its namespace: one called `scrapetarget-exporter` brings
/// `SCRAPETARGET_EXPORTER_SERVICE_HOST`, `SCRAPETARGET_EXPORTER_PORT_9850_TCP_ADDR` and others.
fn is_of_a_service(name: &str, names: &BTreeSet<String>) -> bool {
    names.iter().filter_map(|other| other.strip_suffix("_SERVICE_HOST")).any(|service| {
        let rest = name.strip_prefix(service);
        rest.is_some_and(|rest| rest == "_PORT" || rest.starts_with("_SERVICE_") || rest.starts_with("_PORT_"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(names: &[&str]) -> Vec<String> {
        unknown_among(&names.iter().map(|name| format!("{PREFIX}{name}")).collect())
    }

    #[test]
    fn a_misspelt_variable_is_told_with_the_one_that_was_meant() {
        let told = told(&["LOG_LEVLE", "TARGETS", "WEB_CONFIG_FILES", "WHATEVER_ELSE_THERE_IS"]);
        assert_eq!(
            told,
            [
                "no flag uses the variable SCRAPETARGET_LOG_LEVLE, it has no effect: did you mean SCRAPETARGET_LOG_LEVEL?",
                "no flag uses the variable SCRAPETARGET_WEB_CONFIG_FILES, it has no effect: did you mean SCRAPETARGET_WEB_CONFIG_FILE?",
                "no flag uses the variable SCRAPETARGET_WHATEVER_ELSE_THERE_IS, it has no effect: see docs/flags.md, or --help",
            ]
        );
    }

    #[test]
    fn what_kubernetes_says_of_a_service_is_no_flag_of_ours() {
        let service = [
            "EXPORTER_SERVICE_HOST",
            "EXPORTER_SERVICE_PORT",
            "EXPORTER_SERVICE_PORT_HTTP",
            "EXPORTER_PORT",
            "EXPORTER_PORT_9850_TCP",
            "EXPORTER_PORT_9850_TCP_ADDR",
        ];
        assert_eq!(told(&service), [""; 0]);
        assert_eq!(told(&service[1..]).len(), 5, "without a host it is no Service");
    }

    #[test]
    fn every_variable_of_a_flag_begins_with_our_name() {
        for name in Cli::command().get_subcommands().flat_map(variables) {
            assert!(name.starts_with(PREFIX), "{name}");
        }
    }
}
