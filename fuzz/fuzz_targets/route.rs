//! Runs `oci_pull_through::fuzz::route` on arbitrary bytes. Usage: `cargo +nightly fuzz run route`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| oci_pull_through::fuzz::route(input));
