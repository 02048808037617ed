//! Runs `oci_pull_through::fuzz::manifest` on arbitrary bytes. Usage:
//! `cargo +nightly fuzz run manifest`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| oci_pull_through::fuzz::manifest(input));
