//! Texts on the command line that begin with a hyphen: `assay rerank --query "-40 C in F" "- first item"`.
//!
//! For clap such an argument is an unknown option. If clap took every such argument as text, `assay rerank --query q "a
//! document" --json` would rank `--json`. So the arguments are reordered before clap reads them: options first, then
//! `--`, then the texts.

use std::ffi::{OsStr, OsString};

use clap::Command;

/// The subcommand whose arguments are texts.
const SUBCOMMAND: &str = "rerank";

/// The option whose value is a text.
const QUERY: &str = "query";

/// Moves texts that begin with a hyphen to where clap takes them as texts. Other command lines do not change.
///
/// A document is a text if it holds white space or if its hyphen is followed by something other than a letter or a
/// hyphen. The value of `--query` is a text unless it is an option of the command. Clap handles everything else that
/// begins with a hyphen, so a misspelt option is still an error.
pub(super) fn order(arguments: Vec<OsString>, cli: &mut Command) -> Vec<OsString> {
    cli.build();
    let Some(start) = subcommand(&arguments, cli) else { return arguments };
    let Some(command) = cli.find_subcommand(SUBCOMMAND).filter(|_| arguments[start] == SUBCOMMAND) else {
        return arguments;
    };
    let (mut options, mut texts, mut changed) = (arguments[..=start].to_vec(), Vec::new(), false);
    let mut rest = arguments[start + 1..].iter();
    while let Some(argument) = rest.next() {
        if argument == "--" {
            texts.extend(rest.by_ref().cloned());
        } else if let Some(takes) = option(argument, command) {
            match (takes, rest.as_slice().first()) {
                (Takes::Text, Some(next)) if hyphen_first(next) && next != "--" && option(next, command).is_none() => {
                    let mut joined = argument.clone();
                    joined.push("=");
                    joined.push(next);
                    options.push(joined);
                    rest.next();
                    changed = true;
                }
                (Takes::Text | Takes::Value, Some(_)) => {
                    options.push(argument.clone());
                    // Clap checks the value.
                    options.extend(rest.next().cloned());
                }
                _ => options.push(argument.clone()),
            }
        } else if hyphen_first(argument) && !is_text(argument) {
            options.push(argument.clone());
        } else {
            changed |= hyphen_first(argument);
            texts.push(argument.clone());
        }
    }
    if !changed {
        return arguments;
    }
    if !texts.is_empty() {
        options.push("--".into());
        options.append(&mut texts);
    }
    options
}

/// What follows an option.
#[derive(Clone, Copy)]
enum Takes {
    Nothing,
    Value,
    /// A value that is a text.
    Text,
}

/// Position of the subcommand.
fn subcommand(arguments: &[OsString], cli: &Command) -> Option<usize> {
    let mut at = 1;
    loop {
        let argument = arguments.get(at)?;
        if !hyphen_first(argument) {
            return Some(at);
        }
        at += match option(argument, cli)? {
            Takes::Nothing => 1,
            Takes::Value | Takes::Text => 2,
        };
    }
}

/// What follows an option of the command; `None` if the argument is not an option.
fn option(argument: &OsStr, command: &Command) -> Option<Takes> {
    let argument = argument.to_str()?;
    let (name, has_value) = match argument.split_once('=') {
        Some((name, _)) => (name, true),
        None => (argument, false),
    };
    let found = command.get_arguments().find(|candidate| match name.strip_prefix("--") {
        Some(long) => candidate.get_long() == Some(long),
        None => candidate.get_short().is_some_and(|short| name.strip_prefix('-') == Some(short.to_string().as_str())),
    })?;
    Some(match found.get_action().takes_values() && !has_value {
        false => Takes::Nothing,
        true if found.get_id() == QUERY => Takes::Text,
        true => Takes::Value,
    })
}

fn hyphen_first(argument: &OsStr) -> bool {
    argument.as_encoded_bytes().starts_with(b"-") && argument != "-"
}

/// Whether an argument that begins with a hyphen can only be a text.
fn is_text(argument: &OsStr) -> bool {
    let argument = argument.to_string_lossy();
    let after = argument.chars().nth(1);
    let name = argument.split('=').next().unwrap_or_default();
    name.contains(char::is_whitespace) || !after.is_some_and(|char| char == '-' || char.is_alphabetic())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::cli::Cli;

    fn ordered(arguments: &[&str]) -> Vec<String> {
        let arguments = ["assay"].iter().chain(arguments).map(OsString::from).collect();
        let ordered = order(arguments, &mut Cli::command());
        ordered.into_iter().skip(1).map(|argument| argument.into_string().unwrap()).collect()
    }

    #[test]
    fn a_query_may_begin_with_a_hyphen() {
        assert_eq!(
            ordered(&["rerank", "--query", "-40 C in F", "cold"]),
            ["rerank", "--query=-40 C in F", "--", "cold"]
        );
        assert_eq!(ordered(&["rerank", "--query", "--no-cache", "cold"])[1], "--query=--no-cache");
        assert_eq!(ordered(&["rerank", "--query", "-rf", "cold"])[1], "--query=-rf");
        assert_eq!(
            ordered(&["--data-dir", "x", "rerank", "--query", "-1", "cold"]),
            ["--data-dir", "x", "rerank", "--query=-1", "--", "cold"]
        );
    }

    #[test]
    fn documents_may_begin_with_a_hyphen_and_keep_their_order() {
        assert_eq!(
            ordered(&["rerank", "a", "--query", "q", "- first item", "b", "-40", "--json", "-273°C"]),
            ["rerank", "--query", "q", "--json", "--", "a", "- first item", "b", "-40", "-273°C"]
        );
        assert_eq!(ordered(&["rerank", "--query", "q", "--json is an option"]).last().unwrap(), "--json is an option");
    }

    #[test]
    fn options_stay_options_and_misspelt_ones_stay_errors() {
        for arguments in [
            ["rerank", "--query", "q", "d", "--json"].as_slice(),
            &["rerank", "--query", "q", "--jsno", "d"],
            &["rerank", "--query", "--json", "d"],
            &["rerank", "--query", "q", "--documents", "-"],
            &["rerank", "--query", "q", "--", "-d"],
            &["rerank", "--query=-40 C", "d"],
            &["rerank", "--query"],
            &["model", "list", "- x"],
            &["--version"],
            &["--nonsense", "rerank", "- x"],
            &[],
        ] {
            assert_eq!(ordered(arguments), arguments);
        }
    }
}
