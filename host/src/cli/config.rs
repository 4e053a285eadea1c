//! The settings of `assay serve` from a TOML file, and `assay config check`.
//!
//! A file's keys are the command's long options. A value of the file is handed to the command line's own parser, so it
//! has the same form, the same bounds and the same default as the option. An option on the command line comes first,
//! then its environment variable, then the file, then the default.

use std::ffi::OsString;
use std::io::Read;
use std::path::{Path, PathBuf};

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, FromArgMatches};
use toml::de::{DeTable, DeValue};

use super::error::CliError;
use super::table;

/// Largest file: some hundred times one with every key.
const MAX_BYTES: u64 = 256 << 10;

/// Options that make no sense in a file: the file itself, and what the program's users decide for one run.
const NOT_IN_A_FILE: [&str; 3] = ["config", "help", "version"];

#[derive(Debug, clap::Subcommand)]
pub(super) enum ConfigCommand {
    /// Say what a server would use: each setting with its value and where that is from, or what is wrong
    Check(Check),
}

#[derive(Debug, clap::Args)]
pub(super) struct Check {
    /// The file, as `assay serve --config` takes it
    #[arg(env = "ASSAY_CONFIG")]
    file: PathBuf,
}

/// Adds the settings of the file that `--config` names to the command line of `assay serve`.
///
/// # Errors
/// The file cannot be read, or has a key or a form that no option has.
pub(super) fn with_file(arguments: Vec<OsString>, command: &Command) -> Result<Vec<OsString>, CliError> {
    // What is wrong with the command line itself is reported when it is parsed for good.
    let Ok(matches) = command.clone().try_get_matches_from(&arguments) else { return Ok(arguments) };
    let Some(("serve", serve)) = matches.subcommand() else { return Ok(arguments) };
    let Some(path) = serve.get_one::<PathBuf>("config") else { return Ok(arguments) };
    let options = serve_options(command);
    let added = read(path, &options)?.into_iter().filter(|setting| !is_set(serve, &setting.id));
    Ok(arguments.into_iter().chain(added.flat_map(|setting| setting.arguments)).collect())
}

/// Prints every setting that a server with this file would have.
pub(super) fn run(ConfigCommand::Check(Check { file }): &ConfigCommand, command: &Command) -> Result<(), CliError> {
    let options = serve_options(command);
    let settings = read(file, &options)?;
    let start = ["assay", "serve"].map(OsString::from);
    let environment = parse(command, start.to_vec(), "the environment")?;
    let added = settings.iter().filter(|setting| !is_set(&environment, &setting.id));
    let arguments = start.into_iter().chain(added.flat_map(|setting| setting.arguments.clone()));
    let place = file.display().to_string();
    let matches = parse(command, arguments.collect(), &place)?;
    let server = super::serve::Args::from_arg_matches(&matches);
    let server = server.map_err(|error| CliError::bad_input(format!("{place}: {}", said(&error))))?;
    server.check().map_err(|error| error.at(&place))?;
    let rows: Vec<Vec<String>> = options
        .iter()
        .filter_map(|option| {
            let key = option.get_long()?;
            let values: Vec<String> = matches
                .get_raw(option.get_id().as_str())
                .map(|values| values.map(|value| value.to_string_lossy().into_owned()).collect())
                .unwrap_or_default();
            let source = match matches.value_source(option.get_id().as_str()) {
                Some(ValueSource::EnvVariable) => {
                    option.get_env().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
                }
                Some(ValueSource::CommandLine) => "the file".to_owned(),
                // A file may say what holds anyway: that a flag is not set.
                _ if settings.iter().any(|setting| setting.id == option.get_id().as_str()) => "the file".to_owned(),
                _ => "default".to_owned(),
            };
            let value = if values.is_empty() { "-".to_owned() } else { values.join(", ") };
            Some(vec![key.to_owned(), value, source])
        })
        .collect();
    print!("{}", table::columns(&["setting", "value", "from"], &rows));
    Ok(())
}

/// Whether a file's text has only keys and values that a server takes; nothing is looked up in the system.
pub(super) fn is_right(text: &str, command: &Command) -> bool {
    let Ok(settings) = settings(text, &serve_options(command)) else { return false };
    let start = ["assay", "serve"].map(OsString::from);
    let arguments = start.into_iter().chain(settings.into_iter().flat_map(|setting| setting.arguments));
    parse(command, arguments.collect(), "the file").is_ok()
}

/// A key of the file.
#[derive(Debug)]
struct Setting {
    /// The option's id.
    id: String,
    /// The option with its values.
    arguments: Vec<OsString>,
}

/// The options of `assay serve` that a file may set, the program's own ones too.
fn serve_options(command: &Command) -> Vec<Arg> {
    let global = command.get_arguments().filter(|option| option.is_global_set());
    let own = command.find_subcommand("serve").into_iter().flat_map(Command::get_arguments);
    own.chain(global)
        .filter(|option| option.get_long().is_some_and(|long| !NOT_IN_A_FILE.contains(&long)))
        .cloned()
        .collect()
}

fn is_set(matches: &ArgMatches, id: &str) -> bool {
    matches!(matches.value_source(id), Some(ValueSource::CommandLine | ValueSource::EnvVariable))
}

/// The matches of `assay serve` for these arguments.
fn parse(command: &Command, arguments: Vec<OsString>, place: &str) -> Result<ArgMatches, CliError> {
    let wrong = |message: String| CliError::bad_input(format!("{place}: {message}"));
    let matches = command.clone().try_get_matches_from(arguments).map_err(|error| wrong(said(&error)))?;
    matches.subcommand_matches("serve").cloned().ok_or_else(|| wrong("no settings of a server".to_owned()))
}

/// What the parser says, without its hints about the command line.
fn said(error: &clap::Error) -> String {
    let text = error.to_string();
    let lines: Vec<&str> = text.lines().map(str::trim).take_while(|line| !line.is_empty()).collect();
    lines.join(" ").trim_start_matches("error: ").to_owned()
}

/// Reads a file into options, each key with its line where it is wrong.
fn read(path: &Path, options: &[Arg]) -> Result<Vec<Setting>, CliError> {
    let wrong = |message: String| CliError::bad_input(format!("{}: {message}", path.display()));
    let io = |error: std::io::Error| wrong(error.to_string());
    let mut text = String::new();
    std::fs::File::open(path).map_err(io)?.take(MAX_BYTES + 1).read_to_string(&mut text).map_err(io)?;
    if text.len() as u64 > MAX_BYTES {
        return Err(wrong(format!("has more than {MAX_BYTES} bytes, the most of a file of settings")));
    }
    settings(&text, options).map_err(|Wrong { at, message }| {
        let line = text.as_bytes()[..at.min(text.len())].iter().filter(|&&byte| byte == b'\n').count() + 1;
        wrong(format!("line {line}: {message}"))
    })
}

/// What is wrong with a text, and at which byte.
#[derive(Debug)]
struct Wrong {
    at: usize,
    message: String,
}

fn settings(text: &str, options: &[Arg]) -> Result<Vec<Setting>, Wrong> {
    let parsed = DeTable::parse(text).map_err(|error| Wrong {
        at: error.span().map_or(0, |span| span.start),
        message: error.message().to_owned(),
    })?;
    let mut settings = Vec::new();
    for (key, value) in parsed.get_ref() {
        let (at, name) = (key.span().start, key.get_ref().as_ref());
        let Some(option) = options.iter().find(|option| option.get_long() == Some(name)) else {
            return Err(Wrong { at, message: unknown(name, options) });
        };
        let arguments = arguments(name, option, value.get_ref())
            .ok_or_else(|| Wrong { at, message: format!("{name} must be {}", form(option)) })?;
        settings.push(Setting { id: option.get_id().to_string(), arguments });
    }
    Ok(settings)
}

/// A key's value as arguments; `None` if the option takes no such value.
fn arguments(name: &str, option: &Arg, value: &DeValue<'_>) -> Option<Vec<OsString>> {
    let one = |text: String| vec![OsString::from(format!("--{name}={text}"))];
    match (option.get_action(), value) {
        (ArgAction::SetTrue, DeValue::Boolean(true)) => Some(vec![format!("--{name}").into()]),
        (ArgAction::SetTrue, DeValue::Boolean(false)) => Some(Vec::new()),
        (ArgAction::Append, DeValue::Array(values)) => {
            let texts = values.iter().map(|value| text(value.get_ref())).collect::<Option<Vec<_>>>()?;
            Some(texts.into_iter().flat_map(one).collect())
        }
        (ArgAction::Set | ArgAction::Append, value) => text(value).map(one),
        _ => None,
    }
}

fn text(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) => Some(number.to_string()),
        DeValue::Float(number) => Some(number.to_string()),
        _ => None,
    }
}

fn form(option: &Arg) -> &'static str {
    match option.get_action() {
        ArgAction::SetTrue => "true or false",
        ArgAction::Append => "a string, or a list of strings",
        _ => "a string or a number",
    }
}

/// Names the key that was probably meant.
fn unknown(name: &str, options: &[Arg]) -> String {
    let known = options.iter().filter_map(Arg::get_long);
    let near = known.map(|long| (strsim::jaro_winkler(long, &name.replace('_', "-")), long));
    let nearest = near.filter(|(likeness, _)| *likeness > 0.7).max_by(|a, b| a.0.total_cmp(&b.0));
    match nearest {
        Some((_, long)) => format!("{name} is not a setting: did you mean {long}?"),
        None => format!("{name} is not a setting: `assay serve --help` lists them"),
    }
}
