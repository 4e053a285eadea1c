//! Tidies the heap before a snapshot, for the requests that start from it.
//!
//! Loading a tokenizer leaves holes all over the heap. The allocator would fill those first, and a fresh instance has
//! to copy every page that is written: 32 documents touched 33 pages, and a page fault costs as much as tokenising a
//! document. A growing heap costs a fault a page too.

use core::arch::wasm32::memory_size;
use std::hint::black_box;

/// Free memory in one piece: more than a usual request of a hundred documents takes.
const FREE_BYTES: usize = 1 << 20;

const PAGE_BYTES: usize = 1 << 16;

/// Fills the holes for good, the largest first, and leaves [`FREE_BYTES`] free after them.
pub(crate) fn settle() {
    let end = memory_size::<0>() * PAGE_BYTES;
    for bytes in (4..=20).rev().map(|bits| 1 << bits) {
        loop {
            let hole: Vec<u8> = black_box(Vec::with_capacity(bytes));
            // The heap grew: no hole of this size is left.
            if hole.as_ptr().addr() + bytes > end {
                break;
            }
            std::mem::forget(hole);
        }
    }
    drop(black_box(Vec::<u8>::with_capacity(FREE_BYTES)));
}
