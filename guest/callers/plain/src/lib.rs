//! Caller for tests, built for the contract's first version. Its argument says what it does: `hits` exits with the
//! number of hits that the tenant behind the import without a label gives, `trap` traps, `hoard` takes memory until it is
//! refused and `spin` never ends.

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
        path: ["../../../wit/0.1.0", "wit"],
        world: "test:plain/plain",
        generate_all,
    });
}

use bindings::assay::rerank::reranker::{Activation, Request, Truncation, rerank};
use bindings::wasi::cli::{environment, exit};

struct Plain;

impl bindings::exports::wasi::cli::run::Guest for Plain {
    fn run() -> Result<(), ()> {
        let arguments = environment::get_arguments();
        match arguments.get(1).map(String::as_str) {
            Some("hits") => {
                let request = Request {
                    query: "query".to_owned(),
                    documents: arguments[2..].to_vec(),
                    top_n: None,
                    max_tokens: None,
                    truncation: Truncation::LongestFirst,
                    activation: Activation::None,
                    settings: Vec::new(),
                };
                let hits = rerank(&request).map_err(|_| ())?.hits.len();
                exit::exit_with_code(u8::try_from(hits).unwrap_or(u8::MAX));
                Ok(())
            }
            Some("trap") => panic!("as asked"),
            Some("hoard") => {
                let mut hoard: Vec<Vec<u8>> = Vec::new();
                loop {
                    hoard.push(std::hint::black_box(vec![1; 1 << 20]));
                }
            }
            Some("spin") => loop {
                std::hint::spin_loop();
            },
            _ => Err(()),
        }
    }
}

#[cfg(target_arch = "wasm32")]
#[allow(unsafe_code, reason = "wit-bindgen wrote it")]
mod exported {
    use super::Plain;

    super::bindings::export!(Plain with_types_in super::bindings);
}
