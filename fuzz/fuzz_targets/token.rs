//! Runs `oci_pull_through::fuzz::token` on arbitrary bytes. Usage: `cargo +nightly fuzz run token`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| oci_pull_through::fuzz::token(input));
