//! A model's configuration and weights: see `assay::oracle::model`. `cargo +nightly fuzz run model`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| assay::oracle::model(bytes));
