//! Proves that what a guest prints is told while the host tries it, and at no other time: a request for one document
//! prints its query and traps. Others are answered with no hits, so that the guest can be deployed.

use assay_bindings::{Error, Guest, Request, Response, Usage};

#[allow(
    unsafe_code,
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    clippy::undocumented_unsafe_blocks,
    clippy::allow_attributes_without_reason,
    reason = "wit-bindgen wrote it"
)]
mod wasi {
    wit_bindgen::generate!({
        inline: "
            package conformance:prints;

            world printer {
                import wasi:cli/stderr@0.2.0;
            }

            package wasi:io@0.2.0 {
                interface error {
                    resource error;
                }
                interface streams {
                    use error.{error};
                    variant stream-error { last-operation-failed(error), closed }
                    resource output-stream {
                        blocking-write-and-flush: func(contents: list<u8>) -> result<_, stream-error>;
                    }
                }
            }

            package wasi:cli@0.2.0 {
                interface stderr {
                    use wasi:io/streams@0.2.0.{output-stream};
                    get-stderr: func() -> output-stream;
                }
            }
        ",
        world: "conformance:prints/printer",
        generate_all,
    });
}

struct Prints;

impl Guest for Prints {
    fn rerank(request: Request) -> Result<Response, Error> {
        if request.documents.len() != 1 {
            return Ok(Response { hits: Vec::new(), usage: Usage { tokens: 0, rows: 0, truncated: 0 } });
        }
        let words = format!("KeyError: {:?}\n", request.query);
        let printed = wasi::wasi::cli::stderr::get_stderr().blocking_write_and_flush(words.as_bytes());
        assert!(printed.is_ok(), "the host takes what is printed");
        panic!("this guest has said its last words")
    }
}

assay_bindings::export!(Prints);
