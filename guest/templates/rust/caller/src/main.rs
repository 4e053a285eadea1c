//! A program that asks a tenant: its arguments are a query and documents, and it prints them in the tenant's order.

use std::process::ExitCode;

mod bindings {
    wit_bindgen::generate!({ path: "wit", world: "example:caller/caller", generate_all });
}

use bindings::assay::rerank::reranker::{Activation, Request, Truncation, rerank};

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
            for hit in response.hits {
                println!("{}\t{}", hit.score, documents[hit.index as usize]);
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error:?}");
            ExitCode::FAILURE
        }
    }
}
