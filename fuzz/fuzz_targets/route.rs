//! Arbitrary bytes for `oci_pull_through::fuzz::route`: `cargo +nightly fuzz run route`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| oci_pull_through::fuzz::route(input));
