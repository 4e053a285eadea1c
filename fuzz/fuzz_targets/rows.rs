//! Rows as a guest hands them over: see `assay::oracle::rows`. Run it with `RUSTC_BOOTSTRAP=1 cargo fuzz run rows`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| assay::oracle::rows(bytes));
