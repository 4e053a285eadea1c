//! A server's file of settings: see `assay::oracle::config`. Run it with `RUSTC_BOOTSTRAP=1 cargo fuzz run config`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    assay::oracle::config(bytes);
});
