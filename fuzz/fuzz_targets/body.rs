//! A body of the HTTP service: see `assay::oracle::body`. Run it with `RUSTC_BOOTSTRAP=1 cargo fuzz run body`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| assay::oracle::body(bytes));
