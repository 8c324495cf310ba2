//! The command line as clap sees it: an environment variable for every option, and its errors in one line.

use std::process::ExitCode;

use clap::{ArgAction, CommandFactory, builder::BoolishValueParser, error::ErrorKind};

use super::{Cli, print_error};

/// The whole command line.
pub fn command() -> clap::Command {
    with_environment(Cli::command())
}

/// Gives every option of the command and its subcommands the environment variable of its name, and lets flags take
/// 1, yes, on and the like from it.
fn with_environment(command: clap::Command) -> clap::Command {
    let command = command.mut_args(|mut arg| {
        let Some(long) = arg.get_long() else {
            return arg;
        };
        let variable = format!("FERROWARP_{}", long.to_uppercase().replace('-', "_"));
        if arg.get_env().is_none() {
            arg = arg.env(variable);
        }
        if matches!(arg.get_action(), ArgAction::SetTrue) {
            arg = arg.value_parser(BoolishValueParser::new());
        }
        arg.hide_env_values(true)
    });
    let names: Vec<String> = command.get_subcommands().map(|command| command.get_name().to_owned()).collect();
    names.into_iter().fold(command, |command, name| command.mut_subcommand(name, with_environment))
}

/// Prints what clap has to say. Help and version are asked for; anything else is a mistake in the command line.
pub fn report(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        return match error.print() {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        };
    }
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        eprint!("{error}");
    } else {
        print_error(&one_line(&error.to_string()));
    }
    ExitCode::FAILURE
}

/// What is wrong and what to do, without the usage that clap adds.
fn one_line(text: &str) -> String {
    let lines = text.lines().map(str::trim);
    let lines: Vec<&str> = lines
        .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more information"))
        .filter(|line| !line.is_empty())
        .collect();
    let line = lines.join(" ");
    let line = line.strip_prefix("error: ").unwrap_or(&line);
    format!("{line}; --help shows what can be given")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_holds_together_and_every_option_has_its_variable() {
        let mut command = command();
        command.build();
        let mut seen = 0;
        for command in command.get_subcommands() {
            let named = |arg: &&clap::Arg| arg.get_long().is_some_and(|long| !["help", "version"].contains(&long));
            for arg in command.get_arguments().filter(named) {
                let variable = arg.get_env().unwrap_or_default().to_string_lossy();
                assert!(variable.starts_with("FERROWARP_"), "{} {arg}: {variable}", command.get_name());
                seen += 1;
            }
            let help = command.clone().render_long_help().to_string();
            let plain = ["devices", "help"].contains(&command.get_name());
            assert!(plain || help.contains("Example"), "{}", command.get_name());
        }
        assert!(seen > 60, "{seen} options");
    }

    #[test]
    fn an_error_is_one_line_without_the_usage() {
        let error = command().try_get_matches_from(["ferrowarp", "generate", "--format", "yaml"]).unwrap_err();
        let line = one_line(&error.to_string());
        assert!(line.contains("yaml") && line.contains("[possible values: text, json]"), "{line}");
        assert!(!line.contains("Usage") && !line.contains('\n'), "{line}");
    }
}
