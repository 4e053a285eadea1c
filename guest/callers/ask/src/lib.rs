//! Example of a component that calls tenants: `assay run` gives it two, under the labels `news` and `law`.
//!
//! Each line of standard input is a label, a query and documents, divided by tabs. For each hit it prints a line with the
//! label, the document's number and its score, and for an error one with the label and what the error is. An argument is
//! the most hits to print, and the variable `SETTINGS` has settings for the tenants' guests: `name=value,name=value`.
//! The exit code is 1 if a request failed.

#[allow(
    unsafe_code,
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    clippy::undocumented_unsafe_blocks,
    clippy::allow_attributes_without_reason,
    reason = "wit-bindgen wrote it"
)]
mod bindings {
    wit_bindgen::generate!({
        path: ["../../../wit", "wit"],
        world: "example:ask/ask",
        generate_all,
    });
}

use bindings::wasi::cli::{environment, stdin, stdout};
use bindings::{law, news};

/// Most bytes that one call of `blocking-write-and-flush` takes.
const MAX_WRITE_BYTES: usize = 4096;

/// A request, free of the types that each label has of its own.
struct Asked {
    query: String,
    documents: Vec<String>,
    top_n: Option<u32>,
    settings: Vec<(String, String)>,
}

/// Asks the tenant behind a label: each label is a module with the same contents.
macro_rules! ask {
    ($label:ident, $asked:expr) => {{
        let Asked { query, documents, top_n, settings } = $asked;
        let request = $label::Request {
            query,
            documents,
            top_n,
            max_tokens: None,
            truncation: $label::Truncation::LongestFirst,
            activation: $label::Activation::None,
            settings,
        };
        match $label::rerank(&request) {
            Ok(response) => Ok(response.hits.iter().map(|hit| (hit.index, hit.score)).collect::<Vec<_>>()),
            Err(error) => Err(format!("{error:?}")),
        }
    }};
}

struct Ask;

impl bindings::exports::wasi::cli::run::Guest for Ask {
    fn run() -> Result<(), ()> {
        let top_n = match environment::get_arguments().get(1).map(|argument| argument.parse()) {
            None => None,
            Some(Ok(top_n)) => Some(top_n),
            Some(Err(_)) => {
                write("the argument must be a number of hits\n")?;
                return Err(());
            }
        };
        let settings = settings();
        let mut all_answered = true;
        for line in read().lines().filter(|line| !line.is_empty()) {
            let mut texts = line.split('\t').map(str::to_owned);
            let (label, query) = (texts.next().unwrap_or_default(), texts.next().unwrap_or_default());
            let asked = Asked { query, documents: texts.collect(), top_n, settings: settings.clone() };
            let answer = match label.as_str() {
                "news" => ask!(news, asked),
                "law" => ask!(law, asked),
                _ => Err("there are news and law".to_owned()),
            };
            match answer {
                Ok(hits) => {
                    hits.iter().try_for_each(|(index, score)| write(&format!("{label}\t{index}\t{score}\n")))?;
                }
                Err(error) => {
                    all_answered = false;
                    write(&format!("{label}\terror\t{error}\n"))?;
                }
            }
        }
        if all_answered { Ok(()) } else { Err(()) }
    }
}

/// Settings from the environment.
fn settings() -> Vec<(String, String)> {
    let variables = environment::get_environment();
    let settings = variables.iter().find(|(name, _)| name == "SETTINGS").map_or("", |(_, value)| value);
    settings.split(',').filter_map(|pair| pair.split_once('=')).map(|(a, b)| (a.to_owned(), b.to_owned())).collect()
}

/// All of standard input.
fn read() -> String {
    let (input, mut bytes) = (stdin::get_stdin(), Vec::new());
    while let Ok(piece) = input.blocking_read(1 << 16) {
        bytes.extend(piece);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Writes to standard output.
///
/// # Errors
/// It is closed, or cannot be written: the program's exit code says so.
fn write(text: &str) -> Result<(), ()> {
    let output = stdout::get_stdout();
    text.as_bytes().chunks(MAX_WRITE_BYTES).try_for_each(|piece| output.blocking_write_and_flush(piece)).map_err(drop)
}

#[cfg(target_arch = "wasm32")]
#[allow(unsafe_code, reason = "wit-bindgen wrote it")]
mod exported {
    use super::Ask;

    super::bindings::export!(Ask with_types_in super::bindings);
}
