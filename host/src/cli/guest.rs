//! `assay guest`: begins a guest of one's own, and publishes it.
//!
//! The templates are those of `guest/templates`, and a guest in Rust gets the SDK's sources, so that a guest builds
//! anywhere with nothing of this project but the program. All of it is part of the program (`host/build.rs`).

use std::fs;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};

use super::error::CliError;
use crate::guest::read_component;
use crate::oci;

/// Paths in the repository, and the files' texts.
const SOURCES: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/guest_sources.rs"));

/// What stands for the name in the templates.
const PLACEHOLDERS: [&str; 2] = ["my-guest", "my-caller"];

/// Most characters of a name, as a tenant's.
const MAX_NAME: usize = 63;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make a folder with a guest that answers as the standard one does, or with a program that asks tenants, to be
    /// changed
    New(New),
    /// Publish a component in an OCI registry, with Docker's credentials, and print what deploys it
    Push(Push),
}

#[derive(Debug, Args)]
pub(super) struct New {
    /// The name, and the new folder: lower-case letters, digits and single hyphens
    #[arg(value_name = "NAME")]
    name: String,
    /// A guest in Rust tokenises by itself; in Python and JavaScript it asks another tenant to
    #[arg(long, value_name = "LANGUAGE", default_value = "rust")]
    lang: Language,
    /// A program that asks tenants, for `assay run`, instead of a guest
    #[arg(long)]
    caller: bool,
}

#[derive(Debug, Args)]
pub(super) struct Push {
    /// The component
    component: PathBuf,
    /// oci://HOST/NAME:TAG
    reference: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Language {
    Rust,
    Python,
    Js,
}

pub(super) fn run(command: &Command) -> Result<(), CliError> {
    match command {
        Command::New(new) => make(new),
        Command::Push(Push { component, reference }) => {
            let pinned = oci::push(reference, &component.display().to_string(), &read_component(component)?)?;
            println!("{pinned}");
            Ok(())
        }
    }
}

fn make(New { name, lang, caller }: &New) -> Result<(), CliError> {
    check(name)?;
    let dir = Path::new(name);
    fs::create_dir(dir).map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => {
            CliError::bad_input(format!("{name} is there already: name another guest, or remove it"))
        }
        _ => CliError::failed(format!("{name}: {error}")),
    })?;
    for (path, text) in files(*lang, *caller, name) {
        let path = dir.join(path);
        let written = path.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| fs::write(&path, text));
        if let Err(error) = written {
            // Only what this command made itself, a moment ago.
            let _ = fs::remove_dir_all(dir);
            return Err(CliError::failed(format!("{}: {error}", path.display())));
        }
    }
    println!("{name}/README.md says how to build it and what to do with it");
    Ok(())
}

/// A name is a package's in each language.
fn check(name: &str) -> Result<(), CliError> {
    let is_word =
        |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    let begins = name.starts_with(|first: char| first.is_ascii_lowercase());
    if name.len() <= MAX_NAME && begins && name.split('-').all(is_word) && !name.starts_with("assay-") {
        return Ok(());
    }
    Err(CliError::bad_input(format!(
        "{name:?} cannot be a guest's name: use at most {MAX_NAME} lower-case letters, digits and single hyphens, \
         beginning with a letter and not with assay-"
    )))
}

/// The new folder's files.
fn files(language: Language, is_caller: bool, name: &str) -> Vec<(PathBuf, String)> {
    let folder = match language {
        Language::Rust => "rust",
        Language::Python => "python",
        Language::Js => "js",
    };
    let template = format!("guest/templates/{folder}/{}/", if is_caller { "caller" } else { "guest" });
    let has_sdk = language == Language::Rust && !is_caller;
    let contract = if has_sdk { "wit" } else { "wit/deps/rerank" };
    let mut files = Vec::new();
    for (path, text) in SOURCES {
        if let Some(path) = path.strip_prefix(&template) {
            let text =
                PLACEHOLDERS.iter().fold((*text).to_owned(), |text, placeholder| text.replace(placeholder, name));
            files.push((PathBuf::from(path), text));
        } else if let Some(path) = path.strip_prefix("wit/") {
            files.push((Path::new(contract).join(path), (*text).to_owned()));
        } else if *path == "guest/Cargo.lock" && language == Language::Rust {
            // What the guests of the repository were tested with; cargo leaves out what this one does not need.
            files.push((PathBuf::from("Cargo.lock"), (*text).to_owned()));
        } else if let Some(path) = path.strip_prefix("guest/").filter(|path| has_sdk && !path.starts_with("templates/"))
        {
            let text = if path == "Cargo.toml" { sdk_workspace(text) } else { (*text).to_owned() };
            files.push((Path::new("assay").join(path), text));
        }
    }
    files
}

/// The guests' workspace with the SDK alone.
fn sdk_workspace(manifest: &str) -> String {
    let lines = manifest.lines().map(|line| match line.split_once(" = ") {
        Some(("members", _)) => "members = [\"bindings\", \"sdk\"]",
        _ => line,
    });
    lines.flat_map(|line| [line, "\n"]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LANGUAGES: [Language; 3] = [Language::Rust, Language::Python, Language::Js];

    fn paths(language: Language, is_caller: bool) -> Vec<String> {
        let files = files(language, is_caller, "acme");
        files.iter().map(|(path, _)| path.to_string_lossy().replace('\\', "/")).collect()
    }

    #[track_caller]
    fn has(paths: &[String], wanted: &[&str]) {
        for wanted in wanted {
            assert!(paths.iter().any(|path| path == wanted), "no {wanted} in {paths:?}");
        }
    }

    #[test]
    fn a_folder_has_its_template_the_contract_and_for_a_guest_in_rust_the_sdk() {
        let apart = ["README.md", ".gitignore", "wit/deps/rerank/reranker.wit"];
        for (language, is_caller, own) in [
            (Language::Python, false, ["app.py", "build.py", "wit/guest.wit"]),
            (Language::Js, false, ["guest.js", "package.json", "wit/guest.wit"]),
            (Language::Rust, true, ["Cargo.lock", "src/main.rs", "wit/caller.wit"]),
            (Language::Python, true, ["app.py", "build.py", "wit/caller.wit"]),
            (Language::Js, true, ["caller.js", "package.json", "wit/caller.wit"]),
        ] {
            let paths = paths(language, is_caller);
            has(&paths, &apart);
            has(&paths, &own);
            assert!(!paths.iter().any(|path| path.starts_with("assay") || path.contains("0.1.0")), "{paths:?}");
        }
        let paths = paths(Language::Rust, false);
        has(&paths, &["Cargo.toml", "Cargo.lock", "README.md", ".cargo/config.toml", "rust-toolchain.toml"]);
        has(&paths, &["src/lib.rs", "wit/reranker.wit", "assay/Cargo.toml"]);
        has(&paths, &["assay/sdk/src/lib.rs", "assay/bindings/src/lib.rs"]);
    }

    #[test]
    fn the_name_is_the_packages_and_nothing_says_the_placeholder() {
        for (language, is_caller) in LANGUAGES.into_iter().flat_map(|language| [(language, false), (language, true)]) {
            let files = files(language, is_caller, "acme-7");
            let own = || files.iter().filter(|(path, _)| !path.starts_with("assay"));
            assert!(own().all(|(_, text)| PLACEHOLDERS.iter().all(|placeholder| !text.contains(placeholder))));
            let readme = own().find(|(path, _)| path == Path::new("README.md")).unwrap();
            assert!(readme.1.starts_with("# acme-7\n"), "{}", readme.1);
        }
    }

    #[test]
    fn names_are_those_that_every_language_takes() {
        for name in ["a", "acme", "acme-7", "a1-b2-c3"] {
            check(name).unwrap();
        }
        for name in ["", "-a", "a-", "a--b", "A", "a_b", "1a", "a/b", "..", "a b", "assay-guest", &"a".repeat(65)] {
            let error = check(name).unwrap_err();
            assert!(error.to_string().contains("lower-case letters"), "{name}: {error}");
        }
    }

    #[test]
    fn the_sdks_workspace_has_the_sdk_alone() {
        let manifest = SOURCES.iter().find(|(path, _)| *path == "guest/Cargo.toml").unwrap().1;
        let made = sdk_workspace(manifest);
        assert!(made.contains("members = [\"bindings\", \"sdk\"]\n") && !made.contains("callers"), "{made}");
        assert_eq!(made.lines().count(), manifest.lines().count());
    }
}
