//! Runs `oci_pull_through::fuzz::frames` on arbitrary bytes. Usage:
//! `cargo +nightly fuzz run frames`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| oci_pull_through::fuzz::frames(input));
