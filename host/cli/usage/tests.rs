//! Every option has its variable, a variable is a default, and an error is one line.

use super::*;

/// What a line reads as, with these variables.
fn parse_with(line: &str, variables: &[(&str, &str)]) -> Result<ArgMatches, String> {
    let variable = |name: &str| {
        let found = variables.iter().find(|(variable, _)| *variable == name);
        found.map(|(_, value)| OsString::from(value))
    };
    let matches = matches(&words(line), variable).map_err(|error| one_line(&error.to_string()))?;
    Ok(matches.subcommand().expect("a command").1.clone())
}

fn words(line: &str) -> Vec<OsString> {
    std::iter::once("ferrowarp").chain(line.split(' ')).map(OsString::from).collect()
}

#[test]
fn the_command_line_holds_together_and_every_option_has_its_variable() {
    let mut command = command();
    command.build();
    let mut seen = 0;
    for command in command.get_subcommands() {
        let named = |arg: &&Arg| arg.get_long().is_some_and(|long| !["help", "version"].contains(&long));
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

/// For every pair of options that contradict each other: the one given counts, whatever the other's variable says.
#[test]
fn no_variable_conflicts_with_an_option_that_is_given() {
    let mut whole = command();
    whole.build();
    let mut seen = 0;
    for command in whole.get_subcommands() {
        for arg in command.get_arguments() {
            for other in command.get_arg_conflicts_with(arg) {
                for (given, variable) in [(arg, other), (other, arg)] {
                    let (Some(long), Some(variable)) = (given.get_long(), variable.get_env()) else {
                        continue;
                    };
                    let value = if given.get_action().takes_values() { "=1" } else { "" };
                    let line = format!("{} --{long}{value}", command.get_name());
                    let variable = variable.to_str().unwrap();
                    for value in ["1", "0", ""] {
                        let result = parse_with(&line, &[(variable, value)]);
                        let alone = parse_with(&line, &[]);
                        assert_eq!(result, alone, "{line} with {variable}={value:?}");
                    }
                    seen += 1;
                }
            }
        }
    }
    assert!(seen > 20, "{seen} pairs");
}

#[test]
fn flags_are_off_where_their_variable_says_so_and_empty_variables_are_none() {
    let is_bare = |value: &str| parse_with("tokenize -p a", &[("FERROWARP_BARE", value)]).unwrap().get_flag("bare");
    for on in ["1", "true", "YES", "on"] {
        assert!(is_bare(on), "{on}");
    }
    for off in ["0", "false", "no", "OFF", ""] {
        assert!(!is_bare(off), "{off}");
    }
    let error = parse_with("tokenize -p a", &[("FERROWARP_BARE", "maybe")]).err().unwrap();
    assert!(error.contains("FERROWARP_BARE") && error.contains("maybe"), "{error}");
    for line in [
        "generate -p a",
        "chat",
        "tokenize -p a",
        "template -p a",
        "perplexity -f a",
        "trace --prompt-ids 1 -o a",
        "diff a b",
        "verify --prompt-ids 1",
        "inspect",
        "bench",
        "synth --shape tiny-qwen2 --type f16 -o a",
        "devices",
        "completions bash",
        "man",
    ] {
        let all_empty = matches(&words(line), |_| Some(OsString::new()));
        assert_eq!(
            all_empty.map_err(|error| error.to_string()),
            matches(&words(line), |_| None).map_err(|e| e.to_string())
        );
    }
}

#[test]
fn of_an_option_given_twice_the_last_counts() {
    let twice =
        |line: &str, id: &str| parse_with(line, &[]).unwrap().get_raw(id).unwrap().next_back().unwrap().to_owned();
    assert_eq!(twice("generate -n 3 -n 5", "n_predict"), "5");
    assert_eq!(twice("generate -m a --model b", "model"), "b");
    assert_eq!(twice("generate --raw --raw -p a -p b", "prompt"), "b");
    // All of those that add up.
    let stops = parse_with("generate -r a -r b", &[("FERROWARP_REVERSE_PROMPT", "c")]).unwrap();
    let stops: Vec<&String> = stops.get_many("reverse_prompt").unwrap().collect();
    assert_eq!(stops, ["a", "b"]);
}

#[test]
fn a_wrong_value_is_blamed_on_its_variable_and_required_options_can_come_from_one() {
    let error = parse_with("generate -p a", &[("FERROWARP_TEMP", "warm")]).err().unwrap();
    assert!(error.contains("--temp") && error.contains("warm") && error.contains("FERROWARP_TEMP"), "{error}");
    assert!(parse_with("perplexity", &[]).is_err());
    assert!(parse_with("perplexity", &[("FERROWARP_FILE", "text.txt")]).is_ok());
    assert!(parse_with("perplexity --kl-base b", &[("FERROWARP_FILE", "text.txt")]).is_ok());
    // An option that only goes with another, which nobody asked for.
    assert!(parse_with("bench -m a", &[("FERROWARP_TYPE", "f16")]).is_ok());
    assert!(parse_with("bench", &[("FERROWARP_TYPE", "f16"), ("FERROWARP_SHAPE", "tiny-qwen2")]).is_ok());
    assert!(parse_with("bench --type f16", &[]).is_err());
}

#[test]
fn an_error_is_one_line_without_the_usage() {
    let line = parse_with("generate --format yaml", &[]).err().unwrap();
    assert!(line.contains("yaml") && line.contains("[possible values: text, json]"), "{line}");
    assert!(!line.contains("Usage") && !line.contains('\n'), "{line}");
}
