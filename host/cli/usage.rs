//! The command line as clap sees it: an environment variable for every option, and its errors in one line.
//!
//! A variable is a default, not an argument: clap would have it conflict with options that a person gives. So the command line is
//! read first without any, which tells what was given, then once more with the variables of all options that were not and that
//! do not contradict those that were, each as an option before the person's own.

use std::{
    ffi::OsString,
    io::{IsTerminal, Write, stdout},
};

use anyhow::Result;
use clap::{
    Arg, ArgAction, ArgMatches, Command, CommandFactory, FromArgMatches,
    builder::Resettable,
    error::{ContextKind, ContextValue, ErrorKind},
    parser::ValueSource,
};

use super::{
    Cli, Outcome,
    output::{note, out, print_error, wants_colour},
};

/// The whole command line, with each option's variable, as help and the manual show it.
pub fn command() -> Command {
    with_variables(Cli::command().args_override_self(true))
}

/// Names the environment variable of every option of the command and its subcommands.
fn with_variables(command: Command) -> Command {
    let command = command.mut_args(|arg| match arg.get_long() {
        Some(long) if arg.get_env().is_none() => {
            let variable = format!("FERROWARP_{}", long.to_uppercase().replace('-', "_"));
            arg.env(variable).hide_env_values(true)
        }
        _ => arg.hide_env_values(true),
    });
    each_subcommand(command, with_variables)
}

/// The command line alone: clap reads no variable.
fn without_variables(command: Command) -> Command {
    let command = command.mut_args(|arg| arg.env(Resettable::Reset));
    each_subcommand(command, without_variables)
}

fn each_subcommand(command: Command, change: fn(Command) -> Command) -> Command {
    let names: Vec<String> = command.get_subcommands().map(|command| command.get_name().to_owned()).collect();
    names.into_iter().fold(command, |command, name| command.mut_subcommand(name, change))
}

/// What the process was started with.
///
/// # Errors
/// What clap has to say, help and version among it.
pub fn parse(line: &[OsString], variable: impl Fn(&str) -> Option<OsString>) -> Result<Cli, clap::Error> {
    Cli::from_arg_matches(&matches(line, variable)?)
}

fn matches(line: &[OsString], variable: impl Fn(&str) -> Option<OsString>) -> Result<ArgMatches, clap::Error> {
    let plain = || without_variables(command());
    let first = match plain().ignore_errors(true).try_get_matches_from(line) {
        Ok(matches) => matches,
        // Help, which names the variables too.
        Err(_) => command().try_get_matches_from(line)?,
    };
    let mut defaults = match first.subcommand() {
        Some((name, given)) => defaults(name, given, variable)?,
        None => Vec::new(),
    };
    let read = |defaults: &[Default]| plain().try_get_matches_from(with_defaults(line, &first, defaults));
    let mut matches = read(&defaults);
    let contradicts =
        |error: &clap::Error| matches!(error.kind(), ErrorKind::ArgumentConflict | ErrorKind::MissingRequiredArgument);
    if matches.as_ref().is_err_and(contradicts) && read(&[]).is_ok() {
        // A variable that asks for another option: without that it has nothing to say.
        defaults.retain(|default| read(std::slice::from_ref(default)).is_ok());
        matches = read(&defaults);
    }
    matches.map_err(|error| blame(error, &defaults))
}

/// A variable's value as an argument.
struct Default {
    /// As clap's errors begin: `--temp`.
    option: String,
    variable: String,
    argument: OsString,
}

/// The defaults that variables set for a subcommand, but for options that were given and those that contradict them.
fn defaults(
    name: &str,
    given: &ArgMatches,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Result<Vec<Default>, clap::Error> {
    let mut whole = command();
    whole.build();
    let Some(command) = whole.find_subcommand(name) else {
        return Ok(Vec::new());
    };
    let is_given = |arg: &Arg| given.value_source(arg.get_id().as_str()) == Some(ValueSource::CommandLine);
    let explicit: Vec<&Arg> = command.get_arguments().filter(|arg| is_given(arg)).collect();
    let contradict = |a: &Arg, b: &Arg| command.get_arg_conflicts_with(a).iter().any(|arg| arg.get_id() == b.get_id());
    let mut defaults = Vec::new();
    for arg in command.get_arguments().filter(|arg| !is_given(arg)) {
        let (Some(long), Some(name)) = (arg.get_long(), arg.get_env()) else {
            continue;
        };
        let name = name.to_string_lossy().into_owned();
        let Some(value) = variable(&name).filter(|value| !value.is_empty()) else {
            continue;
        };
        if explicit.iter().any(|given| contradict(arg, given) || contradict(given, arg)) {
            continue;
        }
        let mut argument = OsString::from(format!("--{long}"));
        if matches!(arg.get_action(), ArgAction::SetTrue) {
            match value.to_str().map(str::to_lowercase).as_deref() {
                Some("1" | "true" | "yes" | "on" | "y" | "t") => {}
                Some("0" | "false" | "no" | "off" | "n" | "f") => continue,
                _ => {
                    let message = format!("{name}: found {value:?}, expected 1 or 0, yes or no, true or false");
                    return Err(whole.clone().error(ErrorKind::InvalidValue, message));
                }
            }
        } else {
            argument.push("=");
            argument.push(value);
        }
        defaults.push(Default { option: format!("--{long}"), variable: name, argument });
    }
    Ok(defaults)
}

/// The line with the defaults behind the subcommand's name, before all that was given.
fn with_defaults(line: &[OsString], first: &ArgMatches, defaults: &[Default]) -> Vec<OsString> {
    let name = first.subcommand_name();
    let at = line.iter().skip(1).position(|word| word.to_str() == name).map_or(line.len(), |at| at + 2);
    let (before, after) = line.split_at(at);
    let defaults = defaults.iter().map(|default| &default.argument);
    before.iter().chain(defaults).chain(after).cloned().collect()
}

/// Says which variable a wrong value comes from.
fn blame(error: clap::Error, defaults: &[Default]) -> clap::Error {
    let Some(ContextValue::String(option)) = error.get(ContextKind::InvalidArg) else {
        return error;
    };
    let named = |default: &&Default| option.split([' ', '=']).next() == Some(default.option.as_str());
    match defaults.iter().find(named) {
        Some(default) if error.kind() != ErrorKind::ArgumentConflict => {
            let message = format!("{} (set by {})", one_line(&error.to_string()), default.variable);
            Cli::command().error(error.kind(), message)
        }
        _ => error,
    }
}

/// Prints what clap has to say. Help and version are asked for; anything else is a mistake in the command line.
///
/// # Errors
/// Standard output cannot be written.
pub fn report(error: &clap::Error) -> Result<Outcome> {
    if !error.use_stderr() {
        let text = error.render();
        let coloured = stdout().is_terminal() && wants_colour();
        let text = if coloured { text.ansi().to_string() } else { text.to_string() };
        out().write_all(text.as_bytes())?;
        return Ok(Outcome::Done);
    }
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        note(error.to_string().trim_end());
    } else {
        print_error(&format!("{}; --help shows what can be given", one_line(&error.to_string())));
    }
    Ok(Outcome::Negative)
}

/// What is wrong and what to do, without the usage that clap adds.
fn one_line(text: &str) -> String {
    let lines = text.lines().map(str::trim);
    let lines: Vec<&str> = lines
        .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more information"))
        .filter(|line| !line.is_empty())
        .collect();
    let line = lines.join(" ");
    line.strip_prefix("error: ").unwrap_or(&line).to_owned()
}

#[cfg(test)]
mod tests;
