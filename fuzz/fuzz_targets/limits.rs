//! A tenant's limits file: see `assay::oracle::limits`. Run it with `RUSTC_BOOTSTRAP=1 cargo fuzz run limits`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| assay::oracle::limits(bytes));
