//! Runs `oci_pull_through::fuzz::challenge` on arbitrary bytes. Usage:
//! `cargo +nightly fuzz run challenge`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| oci_pull_through::fuzz::challenge(input));
