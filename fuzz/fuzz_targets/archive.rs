//! Runs `oci_pull_through::fuzz::archive` on arbitrary bytes. Usage:
//! `cargo +nightly fuzz run archive`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| oci_pull_through::fuzz::archive(input));
