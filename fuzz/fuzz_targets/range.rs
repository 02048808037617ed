//! Runs `oci_pull_through::fuzz::range` on arbitrary bytes. Usage: `cargo +nightly fuzz run range`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| oci_pull_through::fuzz::range(input));
