//! Proves that memory is limited: `rerank` asks for 10 GB, in steps of 64 MiB because no single one could be larger than a 32-bit memory, and writes to every page of what it gets.
//!
//! What it does once it is refused is for the request's setting `when-refused` to say:
//!
//! | value | what happens |
//! | --- | --- |
//! | `trap`, or no such setting | it traps, as a Rust program without memory does |
//! | `report` | it fails with `internal`, saying how many MiB it was given |

use assay_bindings::{Error, Guest, Request, Response};

const STEP_BYTES: usize = 64 << 20;
/// 10 GB, which as a number of bytes has no room in a wasm32 `usize`.
const STEPS: usize = 150;
/// A page of wasm memory is larger; hosts hand out memory in pages of their own.
const HOST_PAGE_BYTES: usize = 4096;

struct Hoards;

impl Guest for Hoards {
    fn rerank(request: Request) -> Result<Response, Error> {
        let reports = request.settings.iter().any(|(name, value)| name == "when-refused" && value == "report");
        let mut hoard: Vec<Vec<u8>> = Vec::new();
        while hoard.len() < STEPS {
            let mut step = Vec::new();
            if step.try_reserve_exact(STEP_BYTES).is_err() {
                let given_mib = (hoard.len() * STEP_BYTES) >> 20;
                assert!(reports, "refused after {given_mib} MiB");
                return Err(Error::Internal(format!("refused after {given_mib} MiB")));
            }
            step.resize(STEP_BYTES, 0);
            for page in step.chunks_mut(HOST_PAGE_BYTES) {
                page[0] = 1;
            }
            hoard.push(std::hint::black_box(step));
        }
        Err(Error::Internal("was given all 10 GB".into()))
    }
}

assay_bindings::export!(Hoards);
