//! A program that asks a tenant: its arguments are a query and documents, and it prints them in the tenant's order.

use std::io::Write;
use std::process::ExitCode;

mod bindings {
    wit_bindgen::generate!({ path: "wit", world: "example:caller/caller", generate_all });
}

use bindings::assay::rerank::reranker::{Activation, Hit, Request, Truncation, rerank};

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let Some(query) = arguments.next() else {
        eprintln!("usage: caller QUERY DOCUMENT…");
        return ExitCode::FAILURE;
    };
    let documents: Vec<String> = arguments.collect();
    let request = Request {
        query,
        documents: documents.clone(),
        top_n: None,
        max_tokens: None,
        truncation: Truncation::LongestFirst,
        activation: Activation::None,
        settings: Vec::new(),
    };
    match rerank(&request) {
        Ok(response) => {
            let line = |hit: &Hit| format!("{}\t{}\n", hit.score, documents[hit.index as usize]);
            let lines: String = response.hits.iter().map(line).collect();
            // `println!` would panic where standard output is closed.
            if let Err(error) = std::io::stdout().write_all(lines.as_bytes()) {
                eprintln!("the answer cannot be written: {error}");
                return ExitCode::FAILURE;
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error:?}");
            ExitCode::FAILURE
        }
    }
}
