//! Arbitrary bytes for `oci_pull_through::fuzz::manifest`: `scripts/fuzz.sh manifest`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| oci_pull_through::fuzz::manifest(input));
