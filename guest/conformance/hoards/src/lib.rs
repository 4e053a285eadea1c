//! Proves that memory is limited: asks for 10 GB and writes to every page that it gets. It asks in steps of 64 MiB,
//! since a wasm memory has 32-bit addresses.
//!
//! The setting `when-refused` says what it does when it is refused:
//!
//! | value | what it does |
//! | --- | --- |
//! | `trap`, or no such setting | traps, as a Rust program without memory does |
//! | `report` | fails with `internal` and the number of MiB that it got |

use assay_bindings::{Error, Guest, Request, Response};

const STEP_BYTES: usize = 64 << 20;
/// 10 GB in steps; as bytes it would overflow a wasm32 `usize`.
const STEPS: usize = 150;
/// The unit in which a host provides memory, smaller than wasm's own pages.
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
