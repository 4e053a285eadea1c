//! Proves that a snapshot may be larger than what a call may copy: `prepare` fills 24 MiB, and `usage.rows` of an
//! answer is the number of MiB that a request finds filled.

use std::cell::RefCell;

use assay_bindings::{Error, Guest, Request, Response, Usage};

const MIB: usize = 1 << 20;
const FILLED_MIB: usize = 24;

thread_local! {
    static HEAP: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

struct LargeHeap;

impl Guest for LargeHeap {
    fn prepare() {
        HEAP.with_borrow_mut(|heap| heap.extend((0..FILLED_MIB * MIB).map(byte)));
    }

    fn rerank(_: Request) -> Result<Response, Error> {
        let is_filled = |mib: &[u8], start: usize| mib.iter().zip(start..).all(|(&found, at)| found == byte(at));
        let filled = HEAP.with_borrow(|heap| {
            heap.chunks(MIB).enumerate().filter(|(index, mib)| is_filled(mib, index * MIB)).count()
        });
        Ok(Response { hits: Vec::new(), usage: Usage { tokens: 0, rows: filled as u32, truncated: 0 } })
    }
}

/// A byte that is never zero, so that no page is left out of a snapshot.
fn byte(at: usize) -> u8 {
    (at.wrapping_mul(0x9e37_79b9) >> 16) as u8 | 1
}

assay_bindings::export!(LargeHeap);
