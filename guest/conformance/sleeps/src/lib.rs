//! Proves that time in a host call counts: with the setting `attack`, it asks WASI to wake it in an hour. Without the
//! setting, it answers with no hits, so that it can be deployed.

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
            package conformance:sleeps;

            world sleeper {
                import wasi:clocks/monotonic-clock@0.2.0;
            }

            package wasi:io@0.2.0 {
                interface poll {
                    resource pollable {
                        block: func();
                    }
                }
            }

            package wasi:clocks@0.2.0 {
                interface monotonic-clock {
                    use wasi:io/poll@0.2.0.{pollable};
                    subscribe-duration: func(when: u64) -> pollable;
                }
            }
        ",
        world: "conformance:sleeps/sleeper",
        generate_all,
    });
}

const HOUR_NS: u64 = 3_600_000_000_000;

struct Sleeps;

impl Guest for Sleeps {
    fn rerank(request: Request) -> Result<Response, Error> {
        if request.settings.iter().any(|(name, _)| name == "attack") {
            wasi::wasi::clocks::monotonic_clock::subscribe_duration(HOUR_NS).block();
        }
        Ok(Response { hits: Vec::new(), usage: Usage { tokens: 0, rows: 0, truncated: 0 } })
    }
}

assay_bindings::export!(Sleeps);
