//! Runs `oci_pull_through::fuzz::sidecar` on arbitrary bytes. Usage:
//! `cargo +nightly fuzz run sidecar`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| oci_pull_through::fuzz::sidecar(input));
