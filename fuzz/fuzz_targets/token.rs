//! Arbitrary bytes for `oci_pull_through::fuzz::token`: `cargo +nightly fuzz run token`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| oci_pull_through::fuzz::token(input));
