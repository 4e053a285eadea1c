//! A line of the admin socket: see `assay::oracle::admin`. Run it with `RUSTC_BOOTSTRAP=1 cargo fuzz run admin`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| assay::oracle::admin(bytes));
