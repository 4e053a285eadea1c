//! Proves what guests cannot do to their neighbours: it attacks in the way that the query names. Any other query is
//! answered with no hits, so that it can be deployed.

use assay_bindings::{Error, Guest, Model, Request, Response, TokenRows, Usage};

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
            package conformance:trigger;

            world trigger {
                import wasi:io/poll@0.2.0;
                import wasi:clocks/monotonic-clock@0.2.0;
            }

            package wasi:io@0.2.0 {
                interface poll {
                    resource pollable {
                        ready: func() -> bool;
                        block: func();
                    }
                    poll: func(in: list<borrow<pollable>>) -> list<u32>;
                }
            }

            package wasi:clocks@0.2.0 {
                interface monotonic-clock {
                    use wasi:io/poll@0.2.0.{pollable};
                    subscribe-duration: func(when: u64) -> pollable;
                }
            }
        ",
        world: "conformance:trigger/trigger",
        generate_all,
    });
}

use wasi::wasi::clocks::monotonic_clock::subscribe_duration;
use wasi::wasi::io::poll::poll;

const SECOND_NS: u64 = 1_000_000_000;

struct Trigger;

impl Guest for Trigger {
    fn rerank(request: Request) -> Result<Response, Error> {
        match request.query.as_str() {
            // Would hold its place and cost nothing, if a guest could wait.
            "ATTACK sleep" => subscribe_duration(15 * SECOND_NS).block(),
            // Has a device with a bug for it fail. Sound devices compute it.
            "ATTACK device" => {
                let rows = TokenRows { ids: vec![0; 3], offsets: vec![0, 3], second_segment: vec![3] };
                Model::open(None)?.run(&rows)?;
            }
            // Takes all the memory that it may, touches it, and keeps it while it computes.
            "ATTACK hoard" => {
                let mut hoard = Vec::new();
                for _ in 0..60 {
                    let mut step: Vec<u8> = Vec::new();
                    if step.try_reserve_exact(4 << 20).is_err() {
                        break;
                    }
                    step.resize(4 << 20, 1);
                    hoard.push(std::hint::black_box(step));
                }
                let mut work = 0_u64;
                for step in 0..400_000_000_u64 {
                    work = std::hint::black_box(work.wrapping_mul(31).wrapping_add(step));
                }
                std::hint::black_box(&hoard);
            }
            "ATTACK spin" => loop {
                std::hint::spin_loop();
            },
            // One instruction that takes milliseconds.
            "ATTACK fill" => {
                let mut memory = vec![0_u8; 200 << 20];
                for value in 0_u8..=255 {
                    for _ in 0..1_000 {
                        std::hint::black_box(&mut memory).fill(value);
                    }
                }
            }
            // The same pollable some hundred thousand times in one list.
            "ATTACK poll" => {
                let past = subscribe_duration(0);
                let list = vec![&past; 250_000];
                for _ in 0..100_000 {
                    std::hint::black_box(poll(&list));
                }
            }
            // A clock from what is said to be none: how many timers of 1 to 100 ms are over after some work.
            "ATTACK clock" => {
                let timers: Vec<_> = (1..=100).map(|ms| subscribe_duration(ms * SECOND_NS / 1_000)).collect();
                let mut work = 0_u64;
                for step in 0..40_000_000_u64 {
                    work = std::hint::black_box(work.wrapping_mul(31).wrapping_add(step));
                }
                let passed = timers.iter().filter(|timer| timer.ready()).count();
                return Err(Error::Internal(format!("{passed} ms passed")));
            }
            _ => {}
        }
        Ok(Response { hits: Vec::new(), usage: Usage { tokens: 0, rows: 0, truncated: 0 } })
    }
}

assay_bindings::export!(Trigger);
