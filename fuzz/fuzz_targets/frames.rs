//! Arbitrary bytes for `oci_pull_through::fuzz::frames`: `cargo +nightly fuzz run frames`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| oci_pull_through::fuzz::frames(input));
