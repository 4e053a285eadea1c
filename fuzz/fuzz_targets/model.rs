//! A model's configuration and weights: see `assay::oracle::model`. Run it with `RUSTC_BOOTSTRAP=1 cargo fuzz run model`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| assay::oracle::model(bytes));
