//! Example of a component that calls one tenant, with any tools: its import has no label. `assay run --link TENANT` serves
//! it, and composed with `guest/client` it runs on any host that has `wasi:http`.
//!
//! Each line of standard input is a query and documents, divided by tabs. For each hit it prints a line with the
//! document's number and its score, for an error one with what the error is, and after each answer an empty line. An
//! argument is the most hits to print. The exit code is 1 if a request failed.

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
        world: "example:rank/rank",
        generate_all,
    });
}

use bindings::assay::rerank::reranker::{Activation, Request, Truncation, rerank};
use bindings::wasi::cli::{environment, stdin, stdout};

/// Most bytes that one call of `blocking-write-and-flush` takes.
const MAX_WRITE_BYTES: usize = 4096;

struct Rank;

impl bindings::exports::wasi::cli::run::Guest for Rank {
    fn run() -> Result<(), ()> {
        let top_n = match environment::get_arguments().get(1).map(|argument| argument.parse()) {
            None => None,
            Some(Ok(top_n)) => Some(top_n),
            Some(Err(_)) => {
                write("the argument must be a number of hits\n")?;
                return Err(());
            }
        };
        let mut all_answered = true;
        for line in read().lines().filter(|line| !line.is_empty()) {
            let mut texts = line.split('\t').map(str::to_owned);
            let request = Request {
                query: texts.next().unwrap_or_default(),
                documents: texts.collect(),
                top_n,
                max_tokens: None,
                truncation: Truncation::LongestFirst,
                activation: Activation::None,
                settings: Vec::new(),
            };
            match rerank(&request) {
                Ok(response) => {
                    response.hits.iter().try_for_each(|hit| write(&format!("{}\t{}\n", hit.index, hit.score)))?;
                }
                Err(error) => {
                    all_answered = false;
                    write(&format!("error\t{error:?}\n"))?;
                }
            }
            write("\n")?;
        }
        if all_answered { Ok(()) } else { Err(()) }
    }
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
    use super::Rank;

    super::bindings::export!(Rank with_types_in super::bindings);
}
