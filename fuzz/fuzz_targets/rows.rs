//! Rows as a guest hands them over: see `assay::oracle::rows`. `cargo +nightly fuzz run rows`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| assay::oracle::rows(bytes));
