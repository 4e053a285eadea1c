//! Random bytes for a target that has none.
//!
//! `ahash`, inside `tokenizers`, asks `getrandom` for a seed when it makes its first map. `getrandom` has no source on
//! `wasm32-unknown-unknown`, and its JavaScript source would import what no host offers. With
//! `--cfg getrandom_backend="custom"`, in the guest workspace's cargo settings, it calls this function instead.
//!
//! The bytes are always the same. That is sound because they only seed hash maps, and no map that outlives a request
//! gets a key from one: the vocabulary's keys are the model's. It also makes snapshots of a guest identical. Never use
//! these bytes for a secret.
#![allow(unsafe_code, reason = "getrandom finds its custom source by an unmangled symbol and passes a raw buffer")]

/// Fills `len` bytes at `dest` with a fixed sequence (splitmix64 from a constant seed).
///
/// # Safety
///
/// `dest` must be valid for writing `len` bytes. `getrandom`, the only caller, passes a whole buffer.
// SAFETY: a guest has no other symbol of this name: getrandom declares it and leaves the definition to its user.
#[unsafe(no_mangle)]
unsafe extern "Rust" fn __getrandom_v03_custom(dest: *mut u8, len: usize) -> Result<(), getrandom::Error> {
    let mut state = 0x4173_7361_795f_3031_u64;
    for offset in 0..len {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        // SAFETY: `offset < len`, and `dest` is writable for `len` bytes by this function's contract.
        unsafe { dest.add(offset).write((mixed ^ (mixed >> 31)) as u8) };
    }
    Ok(())
}
