//! What a snapshot's heap looks like to the requests that start from it.
//!
//! Whatever was needed only to load a tokenizer leaves holes all over the heap. The allocator would fill those first, one text here and one there, and every page it writes is one that a fresh instance has to copy: 32 documents touched 33 pages, and a page fault costs as much as tokenising a document. A heap that has to grow costs a fault for every page too.

use core::arch::wasm32::memory_size;
use std::hint::black_box;

/// Free and in one piece: more than a usual request of a hundred documents takes.
const FREE_BYTES: usize = 1 << 20;

const PAGE_BYTES: usize = 1 << 16;

/// Fills the holes for good, largest first, and leaves [`FREE_BYTES`] free after them.
pub(crate) fn settle() {
    let end = memory_size::<0>() * PAGE_BYTES;
    for bytes in (4..=20).rev().map(|bits| 1 << bits) {
        loop {
            let hole: Vec<u8> = black_box(Vec::with_capacity(bytes));
            // No hole was that large: the heap has grown for it.
            if hole.as_ptr().addr() + bytes > end {
                break;
            }
            std::mem::forget(hole);
        }
    }
    drop(black_box(Vec::<u8>::with_capacity(FREE_BYTES)));
}
