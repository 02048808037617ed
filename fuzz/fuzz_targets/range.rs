//! Arbitrary bytes for `oci_pull_through::fuzz::range`: `cargo +nightly fuzz run range`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| oci_pull_through::fuzz::range(input));
